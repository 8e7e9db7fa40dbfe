import { gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { FileError } from "../core/errors.ts";
import { decodeIdx } from "./idx.ts";

function idx(shape: number[], data: number[], type = 8): Uint8Array {
  const header = Buffer.alloc(4 + 4 * shape.length);
  header.set([0, 0, type, shape.length]);
  for (const [axis, extent] of shape.entries()) header.writeUInt32BE(extent, 4 + 4 * axis);
  return Buffer.concat([header, Buffer.from(data)]);
}

const images = idx([2, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255]);

describe("decodeIdx", () => {
  it("reads images and labels", () => {
    const { shape, data } = decodeIdx(images, "images");
    expect(shape).toEqual([2, 2, 3]);
    expect([...data]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255]);
    expect(decodeIdx(idx([0], []), "labels").shape).toEqual([0]);
  });

  it("unpacks a gzipped file", () => {
    const { shape, data } = decodeIdx(gzipSync(images), "images.gz");
    expect([shape, data.length]).toEqual([[2, 2, 3], 12]);
  });

  it.each([
    ["other files", Buffer.from("text"), "is not an IDX file"],
    ["floats", idx([1], [0, 0, 0, 0], 13), "holds float32; only unsigned bytes (type 8) are read"],
    ["an unknown type", idx([1], [0], 77), "holds an unknown type 77"],
    ["rank 0", idx([], [1]), "rank 0 is not an array"],
    ["a huge shape", idx(new Array(255).fill(0xffffffff), []), "has too many elements"],
    ["16 EiB", idx([0xffffffff, 0x1fffff], []), "it was cut short"],
    ["bytes left over", idx([1], [1, 2]), "[1] takes 1 bytes, the file has 2: 1 are left over"],
    ["gzip that is damaged", Buffer.from([0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 5, 6, 7]), "gzip: "],
  ])("refuses %s", (_, bytes, message) => {
    expect(() => decodeIdx(bytes, "file")).toThrow(FileError);
    expect(() => decodeIdx(bytes, "file")).toThrow(message);
  });

  it("refuses a gzip bomb at the limit", () => {
    const bomb = gzipSync(Buffer.alloc(1 << 20));
    expect(() => decodeIdx(bomb, "bomb.gz", { maxBytes: 4096 })).toThrow(FileError);
    expect(() => decodeIdx(bomb, "bomb.gz", { maxBytes: 4096 })).toThrow("bomb.gz: unpacks to more than 4096 bytes");
  });

  it("refuses a file cut at any byte with a FileError", () => {
    for (const file of [images, gzipSync(images)]) {
      for (let length = 0; length < file.length; length++) {
        expect(() => decodeIdx(file.subarray(0, length), "file"), `length ${length}`).toThrow(FileError);
      }
    }
  });
});
