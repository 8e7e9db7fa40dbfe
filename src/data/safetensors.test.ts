import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { AnekitError, FileError } from "../core/errors.ts";
import { writeFileAtomic } from "./files.ts";
import { encodeSafetensors, openSafetensors, parseSafetensors, type SafetensorsInput } from "./safetensors.ts";

// Written by the reference implementation, safetensors 0.8.0, from NumPy arrays.
const reference = file(
  '{"__metadata__":{"who":"numpy"},"c":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},' +
    '"f":{"dtype":"F32","shape":[],"data_offsets":[8,12]},"e":{"dtype":"I32","shape":[2],"data_offsets":[12,20]},' +
    '"a":{"dtype":"F16","shape":[1,2],"data_offsets":[20,24]},"b":{"dtype":"U8","shape":[3],"data_offsets":[24,27]},' +
    '"d":{"dtype":"BOOL","shape":[1],"data_offsets":[27,28]}}',
  "07000000000000000000003fffffffff02000000003e00c000010201",
);

function file(header: string | Uint8Array, dataHex = "", length?: bigint): Uint8Array {
  const text = Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(text.length));
  return Buffer.concat([prefix, text, Buffer.from(dataHex, "hex")]);
}

function tensor(fields: { dtype?: string; shape?: unknown; data_offsets?: unknown }): string {
  return JSON.stringify({ dtype: "U8", shape: [4], data_offsets: [0, 4], ...fields });
}

function join8(chunks: Iterable<Uint8Array>): Uint8Array {
  return Buffer.concat([...chunks]);
}

const inputs = new Map<string, SafetensorsInput>([
  ["z", { dtype: "bool", shape: [3], data: Uint8Array.of(1, 0, 1) }],
  ["bits", { dtype: "fp16", shape: [2], data: Uint16Array.of(0x3c00, 0xfc00) }],
  ["10", { dtype: "int32", shape: [1, 1], data: Int32Array.of(-5) }],
  ["rounded", { dtype: "fp16", shape: [2], data: Float32Array.of(0.1, 1e9) }],
  ['odd "name"\n😀', { dtype: "fp32", shape: [2, 1], data: Float32Array.of(0.5, Number.NaN) }],
  ["__proto__", { dtype: "fp32", shape: [], data: Float32Array.of(7) }],
  ["empty", { dtype: "fp32", shape: [0, 8], data: new Float32Array(0) }],
]);

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "anekit-data-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("parseSafetensors", () => {
  it("reads a file of the reference implementation", () => {
    const read = parseSafetensors(reference, "r");
    expect([...read.metadata]).toEqual([["who", "numpy"]]);
    expect([...read.tensors.values()].map(({ name, dtype, shape }) => `${name} ${dtype} ${shape}`)).toEqual([
      "c I64 1",
      "f F32 ",
      "e I32 2",
      "a F16 1,2",
      "b U8 3",
      "d BOOL 1",
    ]);
    const values = (name: string) => read.values(name);
    expect(values("a")).toEqual({ dtype: "fp16", shape: [1, 2], data: Float32Array.of(1.5, -2) });
    expect(values("b")).toEqual({ dtype: "int32", shape: [3], data: Int32Array.of(0, 1, 2) });
    expect(values("c")).toEqual({ dtype: "int32", shape: [1], data: Int32Array.of(7) });
    expect([...values("d").data]).toEqual([1]);
    expect(values("e")).toEqual({ dtype: "int32", shape: [2], data: Int32Array.of(-1, 2) });
    expect(values("f")).toEqual({ dtype: "fp32", shape: [], data: Float32Array.of(0.5) });
    expect(read.bits("a")).toEqual(Uint16Array.of(0x3e00, 0xc000));
  });

  it("widens BF16 and reads unaligned data", () => {
    const header =
      '{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"BF16","shape":[2],"data_offsets":[1,5]}}';
    expect(parseSafetensors(file(header, "09803f00c0"), "r").values("y")).toEqual({
      dtype: "fp32",
      shape: [2],
      data: Float32Array.of(1, -2),
    });
  });

  it("shares memory where aligned", () => {
    const bytes = new Uint8Array(join8(encodeSafetensors(inputs)));
    const read = parseSafetensors(bytes, "r");
    expect(read.values("10").data.buffer).toBe(bytes.buffer);
    expect(read.bits("bits").buffer).toBe(bytes.buffer);
  });

  it("accepts space inside and after the header, escapes, and no tensors", () => {
    const read = parseSafetensors(
      file(' { "\\u0061" : {"shape":[ ],"dtype":"U8","data_offsets":[0 ,1]} } \n'.trimStart(), "05"),
      "r",
    );
    expect([...read.values("a").data]).toEqual([5]);
    expect(parseSafetensors(file("{}      "), "r").tensors.size).toBe(0);
  });

  const twoMiB = "[".repeat(2 ** 21);
  it.each([
    ["an empty file", new Uint8Array(0), "it has only 0 bytes"],
    ["a header of 2^63 bytes", file("{}", "", 2n ** 63n), "header of 9223372036854775808 bytes exceeds 100000000"],
    ["a header of 2^64 - 1 bytes", file("{}", "", 2n ** 64n - 1n), "exceeds 100000000"],
    ["a header beyond the file", file("{}", "", 3n), "header of 3 bytes exceeds the file of 10"],
    ["a header of no bytes", file(""), "header: { expected at character 0, found the end"],
    ["space first", file(" {}"), 'header: { expected at character 0, found " {}"'],
    ["bytes that are not UTF-8", file(Uint8Array.of(0x7b, 0xff, 0x7d)), "the header is not UTF-8"],
    ["deep lists", file(`{"a":${twoMiB}}`), "header: { expected at character 5"],
    ["deep objects", file('{"a":'.repeat(100_000)), 'field "a" is unknown or given twice'],
    ["a deep shape", file(`{"a":{"shape":[${twoMiB}`), "an integer from 0 to 2^53 - 1 expected"],
    ["text after the header", file("{} x"), 'the end expected at character 3, found "x"'],
    [
      "a name given twice",
      file(`{"a":${tensor({})},"\\u0061":${tensor({})}}`, "00000000"),
      'tensor "a" is given twice',
    ],
    ["metadata given twice", file('{"__metadata__":{},"__metadata__":{}}'), "__metadata__ is given twice"],
    ["a metadata key given twice", file('{"__metadata__":{"k":"1","k":"2"}}'), 'metadata "k" is given twice'],
    ["metadata that is no text", file('{"__metadata__":{"k":1}}'), "a string expected"],
    [
      "an unknown dtype",
      file(`{"a":${tensor({ dtype: "F8" })}}`, "00000000"),
      'tensor "a": dtype "F8" is not one of F16 F32',
    ],
    ["a dtype of Object", file(`{"a":${tensor({ dtype: "toString" })}}`, "00000000"), "is not one of"],
    ["a missing field", file('{"a":{"dtype":"U8","shape":[]}}', "00"), "dtype, shape or data_offsets is missing"],
    ["a field given twice", file('{"a":{"dtype":"U8","dtype":"U8"}}'), 'field "dtype" is unknown or given twice'],
    ["a negative offset", file(`{"a":${tensor({ data_offsets: [-4, 0] })}}`), "an integer from 0 to 2^53 - 1 expected"],
    ["a fraction", file(`{"a":${tensor({ shape: [1.5] })}}`), "an integer from 0"],
    ["an exponent", file('{"a":{"shape":[1e3]}}'), "an integer from 0"],
    ["an offset of 2^63", file('{"a":{"data_offsets":[0,9223372036854775808]}}'), "an integer from 0"],
    [
      "offsets in reverse",
      file(`{"a":${tensor({ data_offsets: [4, 0] })}}`, "00000000"),
      "data_offsets [4, 0] are not a range inside the 4 bytes",
    ],
    ["one offset", file(`{"a":${tensor({ data_offsets: [4] })}}`, "00000000"), "data_offsets [4] are not a range"],
    ["three offsets", file(`{"a":${tensor({ data_offsets: [0, 4, 4] })}}`, "00000000"), "a list of at most 2 integers"],
    [
      "data beyond the file",
      file(`{"a":${tensor({})}}`, "000000"),
      "data_offsets [0, 4] are not a range inside the 3 bytes",
    ],
    [
      "another size than the shape",
      file(`{"a":${tensor({ shape: [3] })}}`, "00000000"),
      "U8 [3] takes 3 bytes, data_offsets hold 4",
    ],
    ["a huge shape", file(`{"a":${tensor({ shape: [2 ** 40, 2 ** 40] })}}`, "00000000"), "has too many elements"],
    ["too many axes", file(`{"a":${tensor({ shape: new Array(65).fill(1) })}}`, "00000000"), "at most 64 integers"],
    [
      "overlap",
      file(`{"a":${tensor({})},"b":${tensor({ data_offsets: [2, 6] })}}`, "000000000000"),
      'tensor "b": begins at byte',
    ],
    [
      "the same data twice",
      file(`{"a":${tensor({})},"b":${tensor({})}}`, "00000000"),
      "it overlaps the tensor before it",
    ],
    ["a hole", file(`{"a":${tensor({ data_offsets: [1, 5] })}}`, "0000000000"), "it leaves a hole before it"],
    ["data left over", file(`{"a":${tensor({})}}`, "0000000000"), "tensors end at byte"],
    ["a control character", file('{"a\nb":{}}'), "a closed string without control characters"],
    ["a bad escape", file('{"\\x":{}}'), "a string with valid escapes"],
    ["a lone surrogate", file('{"\\ud800":{}}'), "a string with valid escapes"],
    ["an open string", file('{"abc'), "a closed string"],
    ["a string that ends in a backslash", file('{"abc\\'), "a closed string"],
    ["a trailing comma", file(`{"a":${tensor({})},}`, "00000000"), "a string expected"],
  ])("refuses %s", (_, bytes, message) => {
    expect(() => parseSafetensors(bytes, "m.st")).toThrow(FileError);
    expect(() => parseSafetensors(bytes, "m.st")).toThrow(message);
    expect(() => parseSafetensors(bytes, "m.st")).toThrow("m.st: ");
  });

  it("keeps terminal controls and endless names out of messages", () => {
    const header = `{"${"\u009b2J\u007f".repeat(1000)}":{"dtype":"X","shape":[],"data_offsets":[0,0]}}`;
    const message = (() => {
      try {
        parseSafetensors(file(header), "m");
      } catch (error) {
        return String(error);
      }
      return "";
    })();
    expect(message).toContain("\\u009b2J\\u007f");
    expect(message).not.toMatch(/\p{Control}/u);
    expect(message.length).toBeLessThan(800);
  });

  it("refuses values that do not fit, and tensors that do not exist", () => {
    const wide = file(`{"a":${tensor({ dtype: "I64", shape: [1], data_offsets: [0, 8] })}}`, "0000000001000000");
    expect(() => parseSafetensors(wide, "m").values("a")).toThrow(
      'm: tensor "a": value 4294967296 at index 0 is outside',
    );
    const bool = file(`{"a":${tensor({ dtype: "BOOL", shape: [1], data_offsets: [0, 1] })}}`, "02");
    expect(() => parseSafetensors(bool, "m").values("a")).toThrow("byte 2 at index 0 is not a bool");
    expect(() => parseSafetensors(bool, "m").bits("a")).toThrow("has dtype BOOL; only F16 and BF16");
    expect(() => parseSafetensors(bool, "m").values("b")).toThrow('m: has no tensor "b": it holds "a"');
    expect(() => parseSafetensors(reference, "m").values("x")).toThrow(', "b", ... (6 in all)');
    expect(() => parseSafetensors(file("{}"), "m").bytes("x")).toThrow("it holds none");
  });

  it("refuses a file cut at any byte with a FileError", () => {
    for (let length = 0; length < reference.length; length++) {
      expect(() => parseSafetensors(reference.subarray(0, length), "m"), `length ${length}`).toThrow(FileError);
    }
  });

  it("throws nothing but FileError when any byte is changed", () => {
    for (let at = 0; at < reference.length; at++) {
      for (const value of [0, 0x20, 0x22, 0x2c, 0x39, 0x5c, 0x7d, 0xff]) {
        const bytes = Buffer.from(reference);
        bytes[at] = value;
        try {
          const read = parseSafetensors(bytes, "m");
          for (const name of read.tensors.keys()) read.values(name);
        } catch (error) {
          expect(error, `byte ${at} as ${value}`).toBeInstanceOf(FileError);
        }
      }
    }
  });
});

describe("encodeSafetensors", () => {
  it("round-trips every dtype, odd names and metadata", () => {
    const bytes = join8(encodeSafetensors(inputs, { step: "12", odd: '"\n' }));
    const read = parseSafetensors(bytes, "m");
    expect(Object.fromEntries(read.metadata)).toEqual({ step: "12", odd: '"\n' });
    expect(read.tensors.size).toBe(inputs.size);
    for (const [name, input] of inputs) {
      const { dtype, shape, data } = read.values(name);
      expect([dtype, shape], name).toEqual([input.dtype, input.shape]);
      if (input.dtype !== "fp16") expect([...data], name).toEqual([...input.data]);
    }
    expect([...read.bits("bits")]).toEqual([0x3c00, 0xfc00]);
    expect([...read.values("rounded").data]).toEqual([0.0999755859375, Number.POSITIVE_INFINITY]);
  });

  it("aligns header and tensors, and orders them independently of the map", () => {
    const bytes = join8(encodeSafetensors(inputs));
    for (const { offset, dtype } of parseSafetensors(bytes, "m").tensors.values()) {
      expect(offset % { F16: 2, F32: 4, BF16: 2, I32: 4, BOOL: 1, I64: 8, U8: 1 }[dtype]).toBe(0);
    }
    expect(Number(Buffer.from(bytes).readBigUInt64LE()) % 8).toBe(0);
    expect(join8(encodeSafetensors(new Map([...inputs].reverse())))).toEqual(bytes);
  });

  it("rounds fp16 piece by piece", () => {
    const data = Float32Array.from({ length: 2 ** 18 + 3 }, (_, i) => i % 2048);
    const chunks = [...encodeSafetensors(new Map([["x", { dtype: "fp16", shape: [data.length], data }]]))];
    expect(chunks.length).toBe(3);
    expect(parseSafetensors(join8(chunks), "m").values("x").data).toEqual(data);
  });

  it.each([
    ["a", { dtype: "fp32", shape: [2], data: new Float32Array(3) }, 'tensor "a": [2] does not hold exactly 3 values'],
    ["a", { dtype: "fp32", shape: [-1, -3], data: new Float32Array(3) }, "does not hold exactly"],
    ["a", { dtype: "bool", shape: [1], data: Uint8Array.of(3) }, "bool values are stored as 0 and 1"],
    ["a", { dtype: "fp16", shape: [1], data: new Int32Array(1) } as unknown, "Int32Array does not hold fp16 data"],
    ["__metadata__", { dtype: "fp32", shape: [0], data: new Float32Array(0) }, "the name is reserved"],
    ["\ud800", { dtype: "fp32", shape: [0], data: new Float32Array(0) }, "not valid Unicode"],
  ])("refuses %j %#, at the call", (name, input, message) => {
    const call = () => encodeSafetensors(new Map([[name, input as SafetensorsInput]]));
    expect(call).toThrow(AnekitError);
    expect(call).toThrow(message);
  });

  it("refuses metadata that is not text", () => {
    expect(() => encodeSafetensors(new Map(), { k: "\ud800" })).toThrow("is not valid Unicode text");
    expect(() => encodeSafetensors(new Map(), { k: 1 } as unknown as Record<string, string>)).toThrow(FileError);
  });
});

describe("openSafetensors", () => {
  it("reads tensors of a file one by one", async () => {
    const path = join(folder, "model.safetensors");
    await writeFileAtomic(path, encodeSafetensors(inputs, { a: "b" }));
    await using opened = await openSafetensors(path);
    expect(opened.metadata.get("a")).toBe("b");
    expect((await opened.values("10")).data).toEqual(Int32Array.of(-5));
    expect(await opened.bits("bits")).toEqual(Uint16Array.of(0x3c00, 0xfc00));
    expect((await opened.bytes("empty")).length).toBe(0);
    await expect(opened.values("nothing")).rejects.toThrow(`${path}: has no tensor "nothing"`);
  });

  it("refuses missing files, folders, cut files, and files that shrink while open", async () => {
    const path = join(folder, "cut.safetensors");
    await expect(openSafetensors(path)).rejects.toThrow(`${path}: no such file or folder`);
    await expect(openSafetensors(folder)).rejects.toThrow(`${folder}: is a folder, not a file`);
    for (const length of [0, 7, 8, 40, reference.length - 1]) {
      await writeFile(path, reference.subarray(0, length));
      await expect(openSafetensors(path), `length ${length}`).rejects.toThrow(FileError);
    }
    await writeFile(path, reference);
    await using opened = await openSafetensors(path);
    await truncate(path, reference.length - 2);
    await expect(opened.values("d")).rejects.toThrow(FileError);
    await expect(opened.values("b")).rejects.toThrow("it was cut short while open");
    await opened.close();
    await expect(opened.values("c")).rejects.toThrow(FileError);
  });

  it("does not read data of a sparse file larger than memory", async () => {
    const path = join(folder, "sparse.safetensors");
    const size = 2 ** 40;
    const header = `{"big":{"dtype":"U8","shape":[${size}],"data_offsets":[0,${size}]}}`;
    await writeFile(path, file(header));
    await truncate(path, 8 + header.length + size);
    await using opened = await openSafetensors(path);
    expect(opened.tensors.get("big")?.sizeBytes).toBe(size);
    await expect(opened.values("big")).rejects.toThrow(FileError);
  });
});
