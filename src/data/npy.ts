// NumPy's .npy format, versions 1 to 3, for the dtypes that anekit has: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

import type { DType, ValueArray } from "../core/dtype.ts";
import { DTypeError, FileError, formatShape, ShapeError } from "../core/errors.ts";
import { packFloat16, unpackFloat16 } from "../core/float16.ts";
import type { Shape } from "../core/shape.ts";
import {
  bytesOf,
  checkBooleans,
  checkPayload,
  countElements,
  float32View,
  int32View,
  narrowInt64,
  quote,
  uint16View,
} from "./bytes.ts";

/** An array as a .npy file holds it; fp16 values live in a Float32Array, bool ones as 0 and 1 in a Uint8Array. */
export interface NpyArray {
  /** Extents, outermost first; [] is a scalar, an extent of 0 an empty array. */
  readonly shape: number[];
  readonly dtype: DType;
  readonly data: ValueArray;
}

const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // \x93NUMPY
const maxHeaderBytes = 65536; // NumPy itself refuses headers above 10,000 characters
const maxAxes = 64; // NumPy 2's limit
const headerAlignment = 64; // bytes; so that a mapped file's data is aligned

/**
 * An array as a version 1 .npy file in C order: Float32Array as `<f4` (or `<f2`), Int32Array as `<i4`, Uint8Array as `|b1`.
 * @param options `dtype: "fp16"` rounds a Float32Array to fp16, halves to even, overflow to infinity.
 * @throws ShapeError if the shape does not hold exactly the values; DTypeError if the dtype does not go with the array.
 */
export function encodeNpy(
  shape: Shape,
  data: Float32Array | Int32Array | Uint8Array,
  options: { dtype?: DType } = {},
): Uint8Array<ArrayBuffer> {
  const natural = data instanceof Float32Array ? "fp32" : data instanceof Int32Array ? "int32" : "bool";
  const dtype = options.dtype ?? natural;
  if (dtype !== natural && !(dtype === "fp16" && natural === "fp32")) {
    throw new DTypeError("npy", `${data.constructor.name} holds ${natural} values, not ${dtype}`);
  }
  if (!shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0) || shape.length > maxAxes) {
    throw new ShapeError("npy", `${formatShape(shape)} is not a list of at most ${maxAxes} integers of at least 0`);
  }
  const count = shape.reduce((product, extent) => product * extent, 1);
  if (count !== data.length) {
    throw new ShapeError("npy", `${formatShape(shape)} holds ${count} values, ${data.length} were given`);
  }
  let payload = bytesOf(data);
  if (dtype === "fp16" && data instanceof Float32Array) {
    const bits = new Uint16Array(data.length);
    packFloat16(data, bits);
    payload = bytesOf(bits);
  } else if (dtype === "bool" && payload.some((byte) => byte > 1)) {
    throw new DTypeError("npy", "bool values are stored as 0 and 1");
  }
  const descr = { fp16: "<f2", fp32: "<f4", int32: "<i4", bool: "|b1" }[dtype];
  const extents = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${extents}), }`;
  const start = Math.ceil((10 + header.length + 1) / headerAlignment) * headerAlignment;
  const file = new Uint8Array(start + payload.length);
  file.set(magic);
  file[6] = 1; // version 1.0
  new DataView(file.buffer).setUint16(8, start - 10, true);
  new TextEncoder().encodeInto(`${header.padEnd(start - 11)}\n`, file.subarray(10));
  file.set(payload, start);
  return file;
}

/**
 * Reads a .npy file of dtype `<f2 <f4 <f8 <i4 <i8 |b1 |u1` in C order. float64 is rounded to fp32, int64 narrowed to int32,
 * uint8 widened to int32. The result shares no memory with `bytes`.
 * @param where Name of the file for errors.
 * @throws FileError if the file is malformed, cut short or too long, of another dtype or order, or a value does not fit.
 */
export function decodeNpy(bytes: Uint8Array, where: string): NpyArray {
  if (bytes.length < 10 || magic.some((byte, i) => bytes[i] !== byte)) {
    throw new FileError(where, "is not a .npy file: it does not begin with \\x93NUMPY and a header length");
  }
  const version = bytes[6]!;
  if (version < 1 || version > 3) throw new FileError(where, `.npy version ${version}.${bytes[7]} is not 1, 2 or 3`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerStart = version === 1 ? 10 : 12;
  if (bytes.length < headerStart) throw new FileError(where, "ends inside the header length");
  const headerLength = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  if (headerLength > maxHeaderBytes) {
    throw new FileError(where, `header of ${headerLength} bytes exceeds ${maxHeaderBytes}`, { limit: maxHeaderBytes });
  }
  const start = headerStart + headerLength;
  if (start > bytes.length) throw new FileError(where, `header ends at byte ${start} of a file of ${bytes.length}`);
  const header = parseHeader(where, decodeHeader(where, bytes.subarray(headerStart, start), version));
  const itemBytes = descrBytes[header.descr];
  if (itemBytes === undefined) {
    throw new FileError(where, `dtype ${quote(header.descr)} is not one of ${Object.keys(descrBytes).join(" ")}`, {
      remedy: 'convert it in NumPy with array.astype("<f4")',
    });
  }
  if (header.fortranOrder && header.shape.length > 1) {
    throw new FileError(where, "is in Fortran order, C order is needed", {
      remedy: "convert it in NumPy with numpy.ascontiguousarray",
    });
  }
  const expected = countElements(where, header.shape) * itemBytes;
  checkPayload(where, `${header.descr} ${formatShape(header.shape)}`, expected, bytes.length - start);
  return { shape: header.shape, ...decodeValues(where, header.descr, new Uint8Array(bytes.subarray(start))) }; // a Buffer's slice would share
}

/** Bytes of one item of every dtype that is read. */
const descrBytes: Readonly<Record<string, number>> = {
  "<f2": 2,
  "<f4": 4,
  "<f8": 8,
  "<i4": 4,
  "<i8": 8,
  "|b1": 1,
  "|u1": 1,
};

function decodeValues(
  where: string,
  descr: string,
  payload: Uint8Array<ArrayBuffer>,
): { dtype: DType; data: ValueArray } {
  if (descr === "<f2") {
    const data = new Float32Array(payload.length / 2);
    unpackFloat16(uint16View(payload), data);
    return { dtype: "fp16", data };
  }
  if (descr === "<f4") return { dtype: "fp32", data: float32View(payload) };
  if (descr === "<f8") return { dtype: "fp32", data: roundDoubles(where, payload) };
  if (descr === "<i4") return { dtype: "int32", data: int32View(payload) };
  if (descr === "<i8") return { dtype: "int32", data: narrowInt64(where, payload) };
  if (descr === "|u1") return { dtype: "int32", data: Int32Array.from(payload) };
  checkBooleans(where, payload);
  return { dtype: "bool", data: payload };
}

function roundDoubles(where: string, payload: Uint8Array): Float32Array<ArrayBuffer> {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const data = new Float32Array(payload.length / 8);
  for (let i = 0; i < data.length; i++) {
    const value = view.getFloat64(8 * i, true);
    data[i] = value;
    if (Number.isFinite(value) && !Number.isFinite(data[i]!)) {
      throw new FileError(where, `value ${value} at index ${i} exceeds fp32's 3.4028235e38`);
    }
  }
  return data;
}

function decodeHeader(where: string, bytes: Uint8Array, version: number): string {
  try {
    return new TextDecoder(version === 3 ? "utf-8" : "latin1", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new FileError(where, "the header is not UTF-8", { cause });
  }
}

interface NpyHeader {
  readonly descr: string;
  readonly fortranOrder: boolean;
  readonly shape: number[];
}

/** Parses the header, the text of a Python dictionary with exactly three known keys; never evaluates it. */
function parseHeader(where: string, text: string): NpyHeader {
  const entry =
    /\s*(['"])(descr|fortran_order|shape)\1\s*:\s*(?:(True|False)|(['"])([^'"\\]*)\4|\(([\d,\s]*)\))\s*(,|\})/y;
  const open = /\s*\{/y;
  if (!open.test(text)) throw malformed(where, text);
  let descr: string | undefined;
  let fortranOrder: boolean | undefined;
  let shape: number[] | undefined;
  let position = open.lastIndex;
  for (let keys = 0; keys < 3; keys++) {
    entry.lastIndex = position;
    const match = entry.exec(text);
    if (match === null) throw malformed(where, text);
    position = entry.lastIndex;
    const [, , key, order, , name, extents, end] = match;
    if (key === "descr" && name !== undefined && descr === undefined) descr = name;
    else if (key === "fortran_order" && order !== undefined && fortranOrder === undefined)
      fortranOrder = order === "True";
    else if (key === "shape" && extents !== undefined && shape === undefined) shape = parseExtents(where, extents);
    else throw malformed(where, text);
    if ((end === "}") !== (keys === 2)) {
      const closing = /\s*\}/y; // after a trailing comma
      closing.lastIndex = position;
      if (keys !== 2 || !closing.test(text)) throw malformed(where, text);
      position = closing.lastIndex;
    }
  }
  if (text.slice(position).trim() !== "") throw malformed(where, text);
  return { descr: descr!, fortranOrder: fortranOrder!, shape: shape! };
}

/** Extents of a Python tuple without its parentheses: "", "3,", "3, 4", "3, 4,". */
function parseExtents(where: string, text: string): number[] {
  if (text.trim() === "") return [];
  const parts = text.split(",").map((part) => part.trim());
  const isTuple = parts.length > 1; // (3) is a number in Python, (3,) a tuple
  if (parts.at(-1) === "") parts.pop();
  if (!isTuple || !parts.every((part) => /^\d+$/.test(part))) {
    throw new FileError(where, `shape ${quote(`(${text})`)} is not a tuple of integers`);
  }
  if (parts.length > maxAxes) {
    throw new FileError(where, `rank ${parts.length} exceeds ${maxAxes}`, { limit: maxAxes });
  }
  return parts.map(Number);
}

function malformed(where: string, text: string): FileError {
  const what = `header ${quote(text.trim())} is not {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`;
  return new FileError(where, what, { remedy: "structured dtypes are not read" });
}
