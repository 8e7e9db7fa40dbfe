import { describe, expect, it } from "vitest";
import { ConfigError, FileError } from "../core/errors.ts";
import { RandomStream } from "../core/random.ts";
import { byteTokenizer, decodeUtf8, encodeBytes, findInvalidUtf8 } from "./tokenizer.ts";

const text = "a é € 😀 \ufeff\u0000 end";

describe("byteTokenizer", () => {
  it("round-trips text of one to four bytes a character, a byte-order mark included", () => {
    expect(byteTokenizer.decode(byteTokenizer.encode(`\ufeff${text}`))).toBe(`\ufeff${text}`);
    expect([...byteTokenizer.encode("é")]).toEqual([0xc3, 0xa9]);
    expect(byteTokenizer.vocabSize).toBe(256);
  });

  it("decodes bytes that are not UTF-8 to U+FFFD", () => {
    expect(byteTokenizer.decode([0x61, 0xff, 0x62, 0xe2, 0x82])).toBe("a\ufffdb\ufffd");
  });

  it.each([[256], [-1], [1.5], [Number.NaN]])("refuses token %d with its position", (token) => {
    expect(() => byteTokenizer.decode([1, 2, token])).toThrow(ConfigError);
    expect(() => byteTokenizer.decode([1, 2, token])).toThrow(`token ${token} at position 2 is outside [0, 255]`);
    const decoder = byteTokenizer.decoder();
    decoder.push(65);
    expect(() => decoder.push(token)).toThrow(`token ${token} at position 1 is outside [0, 255]`);
  });

  it("streams characters when they are complete", () => {
    const decoder = byteTokenizer.decoder();
    const parts = [...byteTokenizer.encode("é😀!")].map((token) => decoder.push(token));
    expect(parts).toEqual(["", "é", "", "", "", "😀", "!"]);
    expect(decoder.end()).toBe("");
  });

  it("streams random bytes to the text that decode gives", () => {
    const random = new RandomStream(1, "test");
    for (let round = 0; round < 300; round++) {
      const tokens = Array.from({ length: 12 }, () => Math.floor(random.uniform() * 256));
      const decoder = byteTokenizer.decoder();
      const streamed = tokens.map((token) => decoder.push(token)).join("") + decoder.end();
      expect(streamed, String(tokens)).toBe(byteTokenizer.decode(tokens));
    }
  });

  it("ends an incomplete character as U+FFFD and starts anew", () => {
    const decoder = byteTokenizer.decoder();
    expect(decoder.push(0xe2)).toBe("");
    expect(decoder.end()).toBe("\ufffd");
    expect(decoder.push(0x61)).toBe("a");
  });
});

describe("findInvalidUtf8", () => {
  it.each([
    ["a lone continuation", [0x61, 0x80], 1],
    ["an overlong slash", [0xc0, 0xaf], 0],
    ["an overlong 3-byte form", [0x61, 0xe0, 0x9f, 0xbf], 1],
    ["an overlong 4-byte form", [0xf0, 0x8f, 0xbf, 0xbf], 0],
    ["a surrogate", [0xed, 0xa0, 0x80], 0],
    ["beyond U+10FFFF", [0xf4, 0x90, 0x80, 0x80], 0],
    ["a cut character", [0x61, 0x62, 0xe2, 0x82], 2],
    ["a late bad byte", [0xf0, 0x9f, 0x98, 0x61], 0],
    ["valid text", [...new TextEncoder().encode(text)], -1],
  ])("finds %s", (_, bytes, offset) => {
    expect(findInvalidUtf8(Uint8Array.from(bytes))).toBe(offset);
  });

  it("agrees with TextDecoder on random bytes", () => {
    const random = new RandomStream(2, "test");
    const alphabet = [0x61, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xe0, 0xe2, 0xed, 0xf0, 0xf4, 0xf5];
    for (let round = 0; round < 20_000; round++) {
      const bytes = Uint8Array.from({ length: 4 }, () => alphabet[Math.floor(random.uniform() * alphabet.length)]!);
      const offset = findInvalidUtf8(bytes);
      const isValid = (part: Uint8Array) => {
        try {
          new TextDecoder("utf-8", { fatal: true }).decode(part);
          return true;
        } catch {
          return false;
        }
      };
      expect(offset === -1, String(bytes)).toBe(isValid(bytes));
      if (offset > 0) expect(isValid(bytes.subarray(0, offset)), String(bytes)).toBe(true);
    }
  });
});

describe("text from files", () => {
  it("keeps the bytes, in memory of its own", () => {
    const bytes = new TextEncoder().encode(text);
    const tokens = encodeBytes(bytes, "a.txt");
    expect(tokens).toEqual(bytes);
    expect(tokens.buffer).not.toBe(bytes.buffer);
    expect(decodeUtf8(bytes, "a.txt")).toBe(text);
  });

  it("names the offset of a byte that is not UTF-8", () => {
    const bytes = Uint8Array.of(0x61, 0xe9, 0x62);
    const message =
      "a.txt: is not UTF-8 text: byte 0xe9 at offset 1 begins no valid character; convert it with: iconv -f ISO-8859-1 -t UTF-8";
    for (const read of [encodeBytes, decodeUtf8]) {
      expect(() => read(bytes, "a.txt")).toThrow(FileError);
      expect(() => read(bytes, "a.txt")).toThrow(message);
    }
  });
});
