// Files and values that commands are given: weight files, arrays as feeds, and what hostile ones lead to.

import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { countOverflows, feedFrom, randomFeed } from "../../src/cli/feeds.ts";
import { readMilText, readRegularFile, weightsBeside } from "../../src/cli/files.ts";
import { ConfigError, FileError, ParseError, ShapeError } from "../../src/core/errors.ts";
import { readMil } from "../../src/mil/reader.ts";
import { fixtures, milText, temporaryFolder } from "./anekit.ts";

const temporary = temporaryFolder();

describe("readRegularFile", () => {
  it("refuses what is missing, no file, or too large, before it reads", () => {
    const path = temporary.write("four.bin", new Uint8Array(4));
    expect(readRegularFile(path, 4)).toEqual(new Uint8Array(4));
    expect(() => readRegularFile(path, 3)).toThrow("has 4 B, the limit is 3 B");
    expect(() => readRegularFile(temporary.path("none"))).toThrow("no such file or folder");
    expect(() => readRegularFile(fixtures)).toThrow("is a folder, not a file");
    expect(() => readRegularFile("/dev/null")).toThrow("is not a regular file");
    expect(() => readRegularFile("a\0b")).toThrow(FileError);
  });

  it("takes MIL text as UTF-8 and drops a byte-order mark", () => {
    expect(() => readMilText(temporary.write("latin1.mil", Uint8Array.of(0x70, 0xfc)))).toThrow(
      "byte 0xfc at offset 1",
    );
    expect(readMilText(temporary.write("bom.mil", "\ufeffprogram(1.3)"))).toBe("program(1.3)");
  });
});

describe("weightsBeside", () => {
  const blob = readFileSync(join(fixtures, "vision.bin"));
  const program = temporary.write("model/program.mil", "");
  temporary.write("outside.bin", blob);
  temporary.write("model/weights/w.bin", blob);

  it("reads below the program's folder, with @model_path or without", () => {
    const open = weightsBeside(program);
    expect(open("@model_path/weights/w.bin")).toEqual(new Uint8Array(blob));
    expect(open("weights/w.bin")).toEqual(new Uint8Array(blob));
  });

  it.each([
    "@model_path/../outside.bin",
    "@model_path/weights/../../outside.bin",
    "../outside.bin",
    "/etc/passwd",
    "@model_path//etc/passwd",
    "C:\\weights.bin",
    "@model_path/",
    "",
  ])("refuses %j", (path) => {
    expect(() => weightsBeside(program)(path)).toThrow("leads outside the folder of the program");
  });

  it("refuses symbolic links that lead outside, and names the statement", () => {
    mkdirSync(temporary.path("model"), { recursive: true });
    symlinkSync("../outside.bin", temporary.path("model/link.bin"));
    const text = milText(
      "tensor<fp16, [8, 4, 3, 2]> x",
      `        tensor<fp16, [8, 4, 3, 2]> y = add(x = x, y = tensor<fp16, [8, 4, 3, 2]>(BLOBFILE(path = string("@model_path/link.bin"), offset = uint64(64))))[name = string("y")];`,
      "y",
    );
    const read = () => readMil(text, { file: "p.mil", weights: weightsBeside(program) });
    expect(read).toThrow(ParseError);
    expect(read).toThrow(/^p\.mil:4:\d+: @model_path\/link\.bin: leads outside/);
  });
});

describe("feedFrom", () => {
  const floats = (...values: number[]) => ({
    dtype: "fp32" as const,
    shape: [values.length],
    data: Float32Array.from(values),
  });
  const integers = (...values: number[]) => ({
    dtype: "int32" as const,
    shape: [values.length],
    data: Int32Array.from(values),
  });

  it("converts what the port's dtype holds", () => {
    expect(feedFrom("x", { dtype: "fp16", shape: [2] }, integers(-3, 2048)).data).toEqual(Float32Array.of(-3, 2048));
    expect(feedFrom("x", { dtype: "int32", shape: [3] }, floats(-0, 7, -(2 ** 31))).data).toEqual(
      Int32Array.of(0, 7, -(2 ** 31)),
    );
    expect(feedFrom("x", { dtype: "bool", shape: [2] }, floats(1, 0)).data).toEqual(Uint8Array.of(1, 0));
    expect(
      feedFrom("x", { dtype: "fp32", shape: [1] }, { dtype: "bool", shape: [1], data: Uint8Array.of(1) }).data,
    ).toEqual(Float32Array.of(1));
  });

  it.each([
    ["fp16", integers(1, 2049), "value 2049 at element 1 is an integer that fp16 does not hold"],
    ["fp32", integers(2 ** 24 + 1), "value 16777217 at element 0 is an integer that fp32 does not hold"],
    ["int32", floats(0.5), "value 0.5 at element 0 is no int32"],
    ["int32", floats(2 ** 31), "value 2147483648 at element 0 is no int32"],
    ["int32", floats(Number.NaN), "value NaN at element 0 is no int32"],
    ["bool", integers(0, 2), "value 2 at element 1 is no bool (0 or 1)"],
  ] as const)("refuses values that %s would change silently", (dtype, array, text) => {
    const convert = () => feedFrom("x", { dtype, shape: array.shape }, array);
    expect(convert).toThrow(ConfigError);
    expect(convert).toThrow(text);
  });

  it("refuses another shape of the same size", () => {
    const array = { dtype: "fp32" as const, shape: [2, 3], data: new Float32Array(6) };
    expect(() => feedFrom("x", { dtype: "fp16", shape: [3, 2] }, array)).toThrow(ShapeError);
  });

  it("counts values that become infinite in fp16, not those that are", () => {
    const feed = feedFrom("x", { dtype: "fp16", shape: [4] }, floats(65504, 65519, 65520, Number.NEGATIVE_INFINITY));
    expect(countOverflows(feed)).toBe(1);
    expect(countOverflows(feedFrom("x", { dtype: "fp32", shape: [1] }, floats(1e9)))).toBe(0);
  });
});

describe("randomFeed", () => {
  it("is fixed by seed and name, and stays in its range", () => {
    const x = randomFeed("x", { dtype: "fp16", shape: [1000] }, 3);
    expect(x).toEqual(randomFeed("x", { dtype: "fp16", shape: [1000] }, 3));
    expect(x.data).not.toEqual(randomFeed("y", { dtype: "fp16", shape: [1000] }, 3).data);
    expect(x.data).not.toEqual(randomFeed("x", { dtype: "fp16", shape: [1000] }, 4).data);
    expect(Math.max(...x.data)).toBeLessThan(1);
    expect(Math.min(...x.data)).toBeLessThan(-0.9);
    expect(new Set(randomFeed("k", { dtype: "int32", shape: [50] }, 0).data)).toEqual(new Set([0, 1]));
    expect(new Set(randomFeed("k", { dtype: "bool", shape: [50] }, 0).data)).toEqual(new Set([0, 1]));
  });
});
