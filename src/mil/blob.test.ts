import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FileError } from "../core/errors.ts";
import { type BlobDType, BlobWriter, blobDTypes, listBlobs, readBlob } from "./blob.ts";

const bytes = (...values: number[]) => Uint8Array.from(values);

/** Two blobs: fp16 at 64, int8 at 192. */
function sample(): Uint8Array {
  const writer = new BlobWriter();
  expect(writer.add("fp16", bytes(0, 60, 0, 192))).toBe(64);
  expect(writer.add("int8", bytes(1, 2, 255))).toBe(192);
  return writer.finish();
}

/** `file` with bytes replaced from `at` on. */
function patched(file: Uint8Array, at: number, ...values: number[]): Uint8Array {
  const copy = file.slice();
  copy.set(values, at);
  return copy;
}

function u64(value: bigint): number[] {
  return Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 255n));
}

/** As ANEForge writes: records and data back to back. */
function packed(...blobs: readonly (readonly [number, Uint8Array])[]): Uint8Array {
  const parts: number[] = [blobs.length, 0, 0, 0, 2, 0, 0, 0, ...new Array<number>(56).fill(0)];
  for (const [code, data] of blobs) {
    const start = BigInt(parts.length + 64);
    parts.push(0xef, 0xbe, 0xad, 0xde, code, 0, 0, 0, ...u64(BigInt(data.length)), ...u64(start));
    parts.push(...new Array<number>(40).fill(0), ...data);
  }
  return Uint8Array.from(parts);
}

describe("BlobWriter", () => {
  it("writes the container byte for byte", () => {
    const file = sample();
    const header = [2, 0, 0, 0, 2, 0, 0, 0, ...new Array<number>(56).fill(0)];
    const record = (code: number, size: number, start: number) => [
      ...[0xef, 0xbe, 0xad, 0xde, code, 0, 0, 0],
      ...[...u64(BigInt(size)), ...u64(BigInt(start)), ...new Array<number>(40).fill(0)],
    ];
    expect([...file]).toEqual([
      ...header,
      ...[...record(1, 4, 128), 0, 60, 0, 192, ...new Array<number>(60).fill(0)],
      ...[...record(4, 3, 256), 1, 2, 255],
    ]);
  });

  it("gives back every dtype, with the padding bits in the record", () => {
    const writer = new BlobWriter();
    const entries = Object.keys(blobDTypes).map((name) => {
      const dtype = name as BlobDType;
      const data = bytes(1, 2, 3, 4, 5, 6, 7, 8);
      return { dtype, data, offset: writer.add(dtype, data, dtype === "int4" ? 4 : 0) };
    });
    const file = writer.finish();
    for (const { dtype, data, offset } of entries) expect(readBlob(file, offset, "f")).toEqual({ dtype, bytes: data });
    expect(listBlobs(file)).toEqual(entries.map(({ dtype, offset }) => ({ offset, dtype, sizeBytes: 8 })));
    expect(file[entries.find((entry) => entry.dtype === "int4")!.offset + 24]).toBe(4);
  });

  it("aligns every record and every data", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 8 }), (all) => {
        const writer = new BlobWriter();
        const offsets = all.map((data) => writer.add("uint8", data));
        const file = writer.finish();
        expect(offsets.every((offset) => offset % 64 === 0)).toBe(true);
        expect(listBlobs(file).map((blob) => blob.offset)).toEqual(offsets);
        for (const [i, data] of all.entries()) expect(readBlob(file, offsets[i]!, "f").bytes).toEqual(data);
      }),
      { seed: 4 },
    );
  });

  it("refuses bytes that are not whole values, and wrong padding", () => {
    const writer = new BlobWriter();
    expect(() => writer.add("fp16", bytes(1))).toThrow("blob writer: 1 bytes are not a whole number of fp16 values");
    expect(() => writer.add("fp16", bytes(1, 2), 4)).toThrow(FileError);
    for (const bits of [8, -1, 0.5, Number.NaN]) expect(() => writer.add("int4", bytes(1), bits)).toThrow(FileError);
    expect(listBlobs(writer.finish())).toEqual([]);
  });
});

describe("readBlob", () => {
  it("gives a view of the file", () => {
    const file = sample();
    const { dtype, bytes: data } = readBlob(file, 192, "w.bin");
    expect(dtype).toBe("int8");
    expect(data.buffer).toBe(file.buffer);
    expect(data.byteOffset).toBe(256);
  });

  it("reads files that lie at an odd place of a larger buffer", () => {
    const file = sample();
    const inside = new Uint8Array(file.length + 10).subarray(3, 3 + file.length);
    inside.set(file);
    expect(readBlob(inside, 64, "f").bytes).toEqual(bytes(0, 60, 0, 192));
    expect(listBlobs(inside)).toHaveLength(2);
  });

  it("reads packed files", () => {
    const file = packed([4, bytes(1, 2, 3)], [11, bytes(9)], [1, bytes(5, 6)]);
    expect(listBlobs(file)).toEqual([
      { offset: 64, dtype: "int8", sizeBytes: 3 },
      { offset: 131, dtype: "uint4", sizeBytes: 1 },
      { offset: 196, dtype: "fp16", sizeBytes: 2 },
    ]);
    expect(readBlob(file, 131, "f")).toEqual({ dtype: "uint4", bytes: bytes(9) });
    expect(readBlob(file, 196, "f")).toEqual({ dtype: "fp16", bytes: bytes(5, 6) });
  });

  it("says what is wrong", () => {
    const file = sample();
    const most = 2n ** 64n - 1n;
    for (const [damaged, offset, message] of [
      [file, 0, "f: offset 0 is the header of the file; the first record is at 64"],
      [
        file,
        128,
        "f: no record at offset 128, which is where the data of a record starts; MIL names the record, which is at 64",
      ],
      [
        file,
        256,
        "f: no record at offset 256, which is where the data of a record starts; MIL names the record, which is at 192",
      ],
      [file, 100, "f: no record at offset 100: the sentinel 0xDEADBEEF is not there"],
      [file, 65, "f: no record at offset 65: the sentinel 0xDEADBEEF is not there"],
      [file, 199, "f: no record at offset 199: the 64 bytes of a record would go past the end at 259"],
      [file, 260, "f: no record at offset 260: the file has 259 bytes"],
      [file, 2 ** 53, "f: no record at offset 9007199254740992: the file has 259 bytes"],
      [file, -64, "f: no record at offset -64: the file has 259 bytes"],
      [file, 64.5, "f: no record at offset 64.5: the file has 259 bytes"],
      [file, Number.NaN, "f: no record at offset NaN: the file has 259 bytes"],
      [bytes(), 64, "f: 0 bytes are too few for the header of a weight file, which has 64"],
      [file.subarray(0, 63), 64, "f: 63 bytes are too few for the header of a weight file, which has 64"],
      [file.subarray(64), 64, "f: the file starts with a record and lacks its header"],
      [patched(file, 4, 1), 64, "f: not a weight file of version 2: the version field holds 1"],
      [patched(file, 68, 0), 64, "f: record at 64: unknown dtype code 0"],
      [patched(file, 68, 16), 64, "f: record at 64: unknown dtype code 16"],
      [patched(file, 71, 255), 64, "f: record at 64: unknown dtype code 4278190081"],
      [patched(file, 72, 3), 64, "f: record at 64: 3 bytes are not a whole number of fp16 values"],
      [patched(file, 80, 0), 64, "f: record at 64: its data starts at 0, before the record ends at 128"],
      [patched(file, 88, 1), 64, "f: record at 64: 1 padding bits make no sense for 4 bytes of fp16"],
      [
        patched(file, 72, ...u64(most)),
        64,
        `f: record at 64: its data, ${most} bytes at 128, goes past the end of the file at 259`,
      ],
      [
        patched(file, 80, ...u64(most)),
        64,
        `f: record at 64: its data, 4 bytes at ${most}, goes past the end of the file at 259`,
      ],
      [
        patched(file, 200, ...u64(4n)),
        192,
        "f: record at 192: its data, 4 bytes at 256, goes past the end of the file at 259",
      ],
    ] as const) {
      let found: unknown;
      try {
        readBlob(damaged, offset, "f");
      } catch (error) {
        found = error;
      }
      expect(found).toBeInstanceOf(FileError);
      expect((found as FileError).message).toBe(message);
    }
  });

  it("answers every truncation with a FileError", () => {
    for (const file of [sample(), packed([4, bytes(1, 2, 3)], [11, bytes(9, 9)])]) {
      const last = listBlobs(file)[1]!.offset;
      for (let length = 0; length < file.length; length++) {
        const cut = file.subarray(0, length);
        expect(() => readBlob(cut, last, "f")).toThrow(FileError);
        expect(() => listBlobs(cut)).toThrow(FileError);
      }
    }
  });

  it("answers every flipped bit with the data, other data inside the file, or a FileError", () => {
    const file = sample();
    for (let bit = 0; bit < file.length * 8; bit++) {
      const copy = file.slice();
      copy[bit >> 3]! ^= 1 << (bit & 7);
      for (const read of [() => readBlob(copy, 64, "f"), () => readBlob(copy, 192, "f"), () => listBlobs(copy)]) {
        try {
          read();
        } catch (error) {
          if (!(error instanceof FileError)) throw error;
        }
      }
    }
  });

  it("answers random bytes behind a good header with a blob inside the file or a FileError", () => {
    const record = fc.tuple(fc.integer({ min: 0, max: 20 }), fc.bigInt(0n, 300n), fc.bigInt(0n, 300n), fc.uint8Array());
    fc.assert(
      fc.property(record, ([code, size, start, rest]) => {
        const file = new Uint8Array(128 + rest.length);
        file.set([255, 255, 255, 255, 2], 0);
        file.set([0xef, 0xbe, 0xad, 0xde, code, 0, 0, 0, ...u64(size), ...u64(start)], 64);
        file.set(rest, 128);
        try {
          const { bytes: data } = readBlob(file, 64, "f");
          expect(data.length).toBe(Number(size));
        } catch (error) {
          expect(error).toBeInstanceOf(FileError);
        }
        expect(() => listBlobs(file)).toThrow(FileError); // it counts 2^32 - 1 records
      }),
      { numRuns: 2000, seed: 5 },
    );
  });
});

describe("listBlobs", () => {
  it("says which record is missing, without believing the count", () => {
    const file = patched(sample(), 0, 255, 255, 255, 255);
    expect(() => listBlobs(file, "w.bin")).toThrow("w.bin: record 3 of 4294967295 is not at 259, nor at 320");
  });
});
