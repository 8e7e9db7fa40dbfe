import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ConfigError, FileError } from "../core/errors.ts";
import { loadTextFile, loadTextFiles, splitTokens, TokenDataset, unigramEntropy } from "./dataset.ts";
import { byteTokenizer, type Tokenizer } from "./tokenizer.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "anekit-data-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Code points as tokens, with a vocabulary of the caller's choice. */
function codePoints(vocabSize: number): Tokenizer {
  return {
    ...byteTokenizer,
    name: "code-points",
    vocabSize,
    encode: (text) => Int32Array.from([...text], (c) => c.codePointAt(0)!),
  };
}

describe("loadTextFiles", () => {
  it("joins files in order, in the narrowest array of the vocabulary", async () => {
    const paths = [join(folder, "a.txt"), join(folder, "b.txt")];
    await writeFile(paths[0]!, "né");
    await writeFile(paths[1]!, "z");
    expect(await loadTextFiles(paths)).toEqual(Uint8Array.of(0x6e, 0xc3, 0xa9, 0x7a));
    expect(await loadTextFiles(paths, codePoints(300))).toEqual(Uint16Array.of(0x6e, 0xe9, 0x7a));
    expect(await loadTextFile(paths[0]!, codePoints(70000))).toEqual(Int32Array.of(0x6e, 0xe9));
  });

  it("says what is wrong with a file", async () => {
    const empty = join(folder, "empty.txt");
    const latin = join(folder, "latin.txt");
    await writeFile(empty, "");
    await writeFile(latin, Uint8Array.of(0x61, 0x62, 0xe9, 0x0a));
    const missing = join(folder, "missing.txt");
    await expect(loadTextFile(missing)).rejects.toThrow(`${missing}: no such file or folder`);
    await expect(loadTextFile(missing)).rejects.toThrow(FileError);
    await expect(loadTextFile(folder)).rejects.toThrow(`${folder}: is a folder, not a file; name its files`);
    await expect(loadTextFile(empty)).rejects.toThrow(`${empty}: is empty; give a file with text`);
    await expect(loadTextFile(latin)).rejects.toThrow(`${latin}: is not UTF-8 text: byte 0xe9 at offset 2`);
    await expect(loadTextFile(latin, codePoints(300))).rejects.toThrow("at offset 2");
    await expect(loadTextFile(join(empty, "x"))).rejects.toThrow("a part of the path is not a folder");
    await expect(loadTextFile("/dev/zero")).rejects.toThrow("/dev/zero: is not a file");
    await expect(loadTextFile("a\0b")).rejects.toThrow(FileError);
    await expect(loadTextFiles([])).rejects.toThrow("loadTextFiles: no file was given; name one with --data");
  });

  it("refuses a tokenizer that leaves its vocabulary", async () => {
    const path = join(folder, "c.txt");
    await writeFile(path, "aé");
    await expect(loadTextFile(path, codePoints(200))).rejects.toThrow("tokenizer code-points: token 233 at position 1");
  });
});

describe("TokenDataset", () => {
  const tokens = Uint8Array.from({ length: 100 }, (_, i) => i);
  const data = new TokenDataset(tokens, { sequenceLen: 8, vocabSize: 256, name: "count" });

  it("cuts windows whose targets are the inputs shifted by one", () => {
    for (let step = 0; step < 50; step++) {
      const { inputs, targets } = data.windowAt(1, step, 0);
      expect(inputs.length).toBe(8);
      expect(inputs.every((token, t) => token === inputs[0]! + t && targets[t] === token + 1)).toBe(true);
    }
  });

  it("fixes a window by seed, step and row alone", () => {
    const other = new TokenDataset(tokens, { sequenceLen: 8, vocabSize: 256, name: "other" });
    other.windowAt(3, 9, 9);
    expect(other.windowAt(7, 3, 2)).toEqual(data.windowAt(7, 3, 2));
    const starts = (calls: [number, number, number][]) => calls.map((call) => data.windowAt(...call).inputs[0]);
    // Pinned: a change here breaks resuming from every checkpoint.
    expect(
      starts([
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
        [2 ** 40, 2 ** 40, 2 ** 31],
      ]),
    ).toMatchInlineSnapshot(`
      [
        37,
        19,
        7,
        27,
        20,
      ]
    `);
  });

  it("makes a batch of the windows of its rows", () => {
    const { inputs, targets } = data.batch(5, 11, 3);
    for (let row = 0; row < 3; row++) {
      const window = data.windowAt(5, 11, row);
      expect(inputs.slice(row * 8, row * 8 + 8)).toEqual(window.inputs);
      expect(targets.slice(row * 8, row * 8 + 8)).toEqual(window.targets);
    }
  });

  it("reaches every start, the first and the last included", () => {
    const seen = new Set<number>();
    for (let step = 0; step < 2000; step++) seen.add(data.windowAt(0, step, 0).inputs[0]!);
    expect([Math.min(...seen), Math.max(...seen), seen.size]).toEqual([0, 91, 92]);
  });

  it("serves the one window of a data set that just suffices", () => {
    const least = new TokenDataset(Int32Array.of(4, 5, 6), { sequenceLen: 2, vocabSize: 7 });
    expect(least.windowAt(1, 2, 3)).toEqual({ inputs: Int32Array.of(4, 5), targets: Int32Array.of(5, 6) });
    expect(least.sequentialWindows().length).toBe(1);
  });

  it("walks validation windows without overlap, evenly spread when limited", () => {
    const starts = (max?: number) => data.sequentialWindows(max).map(({ inputs }) => inputs[0]);
    expect(starts()).toEqual([0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88]);
    expect(starts(3)).toEqual([0, 32, 64]);
    expect(starts(5)).toEqual([0, 16, 32, 56, 72]);
    expect(starts(99).length).toBe(12);
    expect(() => data.sequentialWindows(0)).toThrow("data set count: maxWindows 0 is not an integer from 1 to");
  });

  it.each([
    [
      [1, 2, 3],
      3,
      4,
      "data set x: 3 tokens are fewer than the 4 of one window with sequenceLen 3; set --seq-len to at most 2, or give more text",
    ],
    [[], 3, 4, "data set x: 0 tokens are fewer than the 4 of one window with sequenceLen 3; give more text"],
    [[1, 2, 9, 3], 3, 4, "data set x: token 9 at position 2 is outside [0, 3]; use the tokenizer"],
    [[1, -2, 9, 3], 3, 4, "data set x: token -2 at position 1 is outside [0, 3]"],
    [[1, 2], 0, 4, "data set x: sequenceLen 0 is not an integer from 1 to"],
    [[1, 2], 1, 2.5, "data set x: vocabSize 2.5 is not an integer"],
  ])("refuses %j with sequenceLen %d and vocabSize %d", (list, sequenceLen, vocabSize, message) => {
    const make = () => new TokenDataset(Int32Array.from(list), { sequenceLen, vocabSize, name: "x" });
    expect(make).toThrow(ConfigError);
    expect(make).toThrow(message);
  });

  it("refuses seeds, steps and rows that are not integers of at least 0", () => {
    expect(() => data.windowAt(-1, 0, 0)).toThrow("seed -1 is not an integer from 0");
    expect(() => data.windowAt(0, 0.5, 0)).toThrow("step 0.5 is not an integer from 0");
    expect(() => data.windowAt(0, 0, 2 ** 32)).toThrow("row 4294967296 is not an integer from 0 to 4294967294");
    expect(() => data.batch(0, 0, 0)).toThrow("batchSize 0 is not an integer from 1");
  });
});

describe("splitTokens", () => {
  it("gives the last part to validation, as views", () => {
    const tokens = Uint16Array.from({ length: 20 }, (_, i) => i);
    const { training, validation } = splitTokens(tokens, 0.25, 4);
    expect([training.length, validation.length, validation[0]]).toEqual([15, 5, 15]);
    expect(validation.buffer).toBe(tokens.buffer);
  });

  it("refuses parts that hold no window", () => {
    const split = (count: number, fraction: number, length: number) => () =>
      splitTokens(new Uint8Array(count), fraction, length);
    expect(split(20, 0.25, 5)).toThrow(ConfigError);
    expect(split(20, 0.25, 5)).toThrow(
      "splitTokens: 15 training and 5 validation tokens: each part needs 6 for one window with sequenceLen 5; set --seq-len to at most 4, give more text, or change the validation fraction of 0.25",
    );
    expect(split(20, 0.9, 5)).toThrow("2 training and 18 validation tokens");
    expect(split(3, 0.1, 5)).toThrow("sequenceLen 5; give more text");
    for (const fraction of [0, 1, -1, Number.NaN]) expect(split(20, fraction, 5)).toThrow("is not between 0 and 1");
    expect(split(20, 0.5, 0)).toThrow("sequenceLen 0");
  });
});

describe("unigramEntropy", () => {
  it("is ln n for n equal frequencies and 0 for one token", () => {
    expect(unigramEntropy(Uint8Array.of(0, 1, 2, 3), 4)).toBeCloseTo(Math.log(4), 12);
    expect(unigramEntropy(Uint8Array.of(3, 3), 4)).toBe(0);
    expect(unigramEntropy(Uint8Array.of(0, 0, 0, 1), 4)).toBeCloseTo(0.562335, 6);
  });

  it("refuses no tokens and tokens outside the vocabulary", () => {
    expect(() => unigramEntropy(new Uint8Array(0), 4)).toThrow("unigramEntropy: there are no tokens");
    expect(() => unigramEntropy(Uint8Array.of(4), 4)).toThrow("token 4 at position 0 is outside [0, 3]");
  });
});
