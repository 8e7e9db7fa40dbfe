import { describe, expect, it } from "vitest";
import { AnekitError, FileError } from "../core/errors.ts";
import { decodeNpy, encodeNpy } from "./npy.ts";

// Files written by NumPy 2.4.6 (numpy.lib.format.write_array); only their headers' padding is abbreviated.
function numpyFile(version: number, header: string, payloadHex: string): Uint8Array {
  const lengthBytes = version === 1 ? 2 : 4;
  const text = `${header.padEnd(128 - 6 - 2 - lengthBytes - 1)}\n`;
  const length = Buffer.alloc(lengthBytes);
  length.writeUIntLE(text.length, 0, lengthBytes);
  return Buffer.concat([
    Buffer.from("\x93NUMPY", "latin1"),
    Buffer.of(version, 0),
    length,
    Buffer.from(text, "latin1"),
    Buffer.from(payloadHex, "hex"),
  ]);
}

function header(descr: string, shape: string, order = "False"): string {
  return `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': ${shape}, }`;
}

const float32 = encodeNpy([2, 3], Float32Array.of(1, -2, 0.5, 3e38, Number.POSITIVE_INFINITY, 0));

describe("decodeNpy", () => {
  it.each([
    ["<f2", 1, "(2, 2)", "003e00b4ff7b007c", [2, 2], "fp16", Float32Array.of(1.5, -0.25, 65504, Infinity)],
    ["<f8", 1, "(2,)", "9a9999999999b93f00000000000008c0", [2], "fp32", Float32Array.of(0.1, -3)],
    ["<i8", 2, "()", "f9ffffffffffffff", [], "int32", Int32Array.of(-7)],
    ["|b1", 3, "(1, 3)", "010001", [1, 3], "bool", Uint8Array.of(1, 0, 1)],
    ["|u1", 1, "(0, 3)", "", [0, 3], "int32", new Int32Array(0)],
    ["|u1", 1, "(2,)", "00ff", [2], "int32", Int32Array.of(0, 255)],
    ["<i4", 1, "(1,)", "ffffffff", [1], "int32", Int32Array.of(-1)],
  ] as const)("reads NumPy's %s, version %i, shape %s", (descr, version, shapeText, hex, shape, dtype, data) => {
    expect(decodeNpy(numpyFile(version, header(descr, shapeText), hex), "a.npy")).toEqual({ shape, dtype, data });
  });

  it("reads a one-axis array that claims Fortran order, which is C order too", () => {
    expect(decodeNpy(numpyFile(1, header("|u1", "(1,)", "True"), "07"), "a.npy").data).toEqual(Int32Array.of(7));
  });

  it("returns memory of its own, also from an unaligned Buffer", () => {
    const pool = Buffer.alloc(float32.length + 1);
    pool.set(float32, 1);
    const { data } = decodeNpy(pool.subarray(1), "a.npy");
    pool.fill(0);
    expect(data[1]).toBe(-2);
    const whole = Buffer.from(float32);
    const second = decodeNpy(whole, "a.npy");
    whole.fill(0);
    expect(second.data[1]).toBe(-2);
  });

  it.each([
    ["big-endian data", numpyFile(1, header(">f4", "(1,)"), "3f800000"), 'dtype ">f4" is not one of <f2'],
    ["complex data", numpyFile(1, header("<c8", "(1,)"), "00".repeat(8)), 'astype("<f4")'],
    ["Fortran order", numpyFile(1, header("<f4", "(2, 2)", "True"), "00".repeat(16)), "numpy.ascontiguousarray"],
    ["int64 above int32", numpyFile(1, header("<i8", "(1,)"), "0000008000000000"), "value 2147483648 at index 0"],
    ["int64 below int32", numpyFile(1, header("<i8", "(1,)"), "ffffff7fffffffff"), "value -2147483649 at index 0"],
    ["float64 above fp32", numpyFile(1, header("<f8", "(1,)"), "9c7500883ce4377e"), "at index 0 exceeds fp32's"],
    ["a bool that is 2", numpyFile(1, header("|b1", "(1,)"), "02"), "byte 2 at index 0 is not a bool (0 or 1)"],
    ["bytes left over", Buffer.concat([float32, Buffer.of(0)]), "takes 24 bytes, the file has 25: 1 are left over"],
    ["missing bytes", float32.subarray(0, -1), "<f4 [2, 3] takes 24 bytes, the file has 23: it was cut short"],
    ["version 4", numpyFile(4, header("<f4", "()"), "00000000"), ".npy version 4.0 is not 1, 2 or 3"],
    ["a huge shape", numpyFile(1, header("<f4", "(99999999, 99999999, 99999999)"), ""), "has too many elements"],
    ["an extent of 2^63", numpyFile(1, header("<f4", "(9223372036854775808,)"), ""), "is not an integer from 0"],
    ["an infinite extent", numpyFile(1, header("<f4", `(${"9".repeat(309)},)`), ""), "extent Infinity"],
    ["2^40 elements", numpyFile(1, header("<f4", "(1099511627776,)"), ""), "takes 4398046511104 bytes"],
    ["a negative extent", numpyFile(1, header("<f4", "(-1,)"), ""), "is not {'descr'"],
    ["a number as shape", numpyFile(1, header("<f4", "(3)"), "00".repeat(12)), 'shape "(3)" is not a tuple'],
    ["a doubled comma", numpyFile(1, header("<f4", "(3,,3)"), ""), "is not a tuple of integers"],
    ["too many axes", numpyFile(1, header("<f4", `(${"1,".repeat(65)})`), "00000000"), "rank 65 exceeds 64"],
    [
      "a structured dtype",
      numpyFile(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}", ""),
      "structured",
    ],
    ["code", numpyFile(1, "{'descr': __import__('os'), 'fortran_order': False, 'shape': ()}", ""), "header"],
    ["a key given twice", numpyFile(1, "{'descr': '<f4', 'descr': '<f4', 'shape': ()}", ""), "header"],
    ["a missing key", numpyFile(1, "{'descr': '<f4', 'shape': (), }", "00000000"), "header"],
    ["a fourth key", numpyFile(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': ()}", ""), "header"],
    ["text after the header", numpyFile(1, `${header("<f4", "()")} x`, "00000000"), "header"],
    ["no header", numpyFile(1, "", ""), "header"],
    ["a header beyond the file", Uint8Array.from([...float32.subarray(0, 8), 255, 255, 1]), "ends at byte 65545 of"],
    ["a header of 4 GiB", Uint8Array.from([...float32.subarray(0, 6), 2, 0, 255, 255, 255, 255]), "exceeds 65536"],
    ["other files", Buffer.from("hello, this is text"), "is not a .npy file"],
  ])("refuses %s", (_, bytes, message) => {
    expect(() => decodeNpy(bytes, "a.npy")).toThrow(FileError);
    expect(() => decodeNpy(bytes, "a.npy")).toThrow(message);
    expect(() => decodeNpy(bytes, "a.npy")).toThrow("a.npy: ");
  });

  it("refuses a version 3 header that is not UTF-8", () => {
    const bytes = numpyFile(3, header("<f4", "()"), "00000000");
    bytes[20] = 0xff;
    expect(() => decodeNpy(bytes, "a.npy")).toThrow("the header is not UTF-8");
  });

  it("refuses a file cut at any byte with a FileError", () => {
    for (const file of [float32, numpyFile(2, header("<i8", "(3,)"), "00".repeat(24))]) {
      for (let length = 0; length < file.length; length++) {
        expect(() => decodeNpy(file.subarray(0, length), "a.npy"), `length ${length}`).toThrow(FileError);
      }
    }
  });

  it("throws nothing but FileError when any byte is changed", () => {
    for (let at = 0; at < float32.length; at++) {
      for (const value of [0, 0x27, 0x39, 0x80, 0xff]) {
        const bytes = float32.slice();
        bytes[at] = value;
        try {
          decodeNpy(bytes, "a.npy");
        } catch (error) {
          expect(error, `byte ${at} as ${value}`).toBeInstanceOf(FileError);
        }
      }
    }
  });
});

describe("encodeNpy", () => {
  it("writes what NumPy writes", () => {
    const expected = numpyFile(1, header("<f2", "(2, 2)"), "003e00b4ff7b007c");
    const data = Float32Array.of(1.5, -0.25, 65504, 70000);
    expect(Buffer.from(encodeNpy([2, 2], data, { dtype: "fp16" })).equals(expected)).toBe(true);
    const bools = numpyFile(1, header("|b1", "(3,)"), "010001");
    expect(Buffer.from(encodeNpy([3], Uint8Array.of(1, 0, 1))).equals(bools)).toBe(true);
  });

  it.each([
    [[2, 3], "fp32", Float32Array.of(1, -0, Number.NaN, 1e-45, 3e38, -Infinity)],
    [[], "int32", Int32Array.of(-2147483648)],
    [[0, 4], "fp32", new Float32Array(0)],
    [[1, 1, 1, 1, 1, 1, 2], "bool", Uint8Array.of(0, 1)],
  ] as const)("round-trips %j as %s", (shape, dtype, data) => {
    const bytes = encodeNpy(shape, data);
    expect(bytes.length % 64).toBe(data.byteLength % 64);
    expect(decodeNpy(bytes, "a.npy")).toEqual({ shape, dtype, data });
  });

  it("writes a view, not the buffer behind it", () => {
    const data = Float32Array.of(1, 2, 3, 4).subarray(1, 3);
    expect(decodeNpy(encodeNpy([2], data), "a").data).toEqual(Float32Array.of(2, 3));
  });

  it.each([
    [() => encodeNpy([2], new Float32Array(3)), "npy: [2] holds 2 values, 3 were given"],
    [
      () => encodeNpy([-1, -3], new Float32Array(3)),
      "npy: [-1, -3] is not a list of at most 64 integers of at least 0",
    ],
    [() => encodeNpy([1], new Int32Array(1), { dtype: "fp16" }), "npy: Int32Array holds int32 values, not fp16"],
    [() => encodeNpy([1], Uint8Array.of(2)), "npy: bool values are stored as 0 and 1"],
  ])("refuses wrong input %#", (call, message) => {
    expect(call).toThrow(AnekitError);
    expect(call).toThrow(message);
  });
});
