// The .safetensors format, read lazily tensor by tensor and written in chunks: https://github.com/huggingface/safetensors#format

import { type FileHandle, open } from "node:fs/promises";
import { type DType, dtypeBytes, type ValueArray } from "../core/dtype.ts";
import { DTypeError, FileError, formatShape, ShapeError } from "../core/errors.ts";
import { packFloat16, unpackFloat16 } from "../core/float16.ts";
import type { Shape } from "../core/shape.ts";
import { bytesOf, checkBooleans, fileError, float32View, int32View, narrowInt64, quote, uint16View } from "./bytes.ts";
import {
  headerLength,
  maxHeaderBytes,
  parseHeader,
  type SafetensorsDType,
  type SafetensorsHeader,
  type SafetensorsInfo,
} from "./safetensors-header.ts";

/** A tensor to write. fp16 takes raw bits in a Uint16Array, or fp32 values that are rounded; bool takes 0 and 1. */
export type SafetensorsInput =
  | { readonly dtype: "fp16"; readonly shape: Shape; readonly data: Uint16Array | Float32Array }
  | { readonly dtype: "fp32"; readonly shape: Shape; readonly data: Float32Array }
  | { readonly dtype: "int32"; readonly shape: Shape; readonly data: Int32Array }
  | { readonly dtype: "bool"; readonly shape: Shape; readonly data: Uint8Array };

/** Values of a tensor: F16 as fp16; F32 and BF16 as fp32; I32, I64 and U8 as int32; BOOL as bool. */
export interface SafetensorsValues {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: ValueArray;
}

const fileDTypes = { fp16: "F16", fp32: "F32", int32: "I32", bool: "BOOL" } as const satisfies Record<
  DType,
  SafetensorsDType
>;
const arrays = { fp16: [Uint16Array, Float32Array], fp32: [Float32Array], int32: [Int32Array], bool: [Uint8Array] };
const packedValues = 2 ** 18; // fp16 values rounded at a time

/**
 * A .safetensors file, in chunks for {@link writeFileAtomic}: the header, then the tensors' own memory, uncopied (fp16 values are rounded piecewise).
 * Wider dtypes come first, then names in code-unit order, so that every tensor is aligned and equal input gives equal bytes.
 * Checks run at the call; the data are read while the chunks are pulled.
 * @throws ShapeError if a shape does not hold exactly its values; DTypeError if data do not fit their dtype;
 * FileError if a name is reserved or not valid Unicode, or the header exceeds 100 MB.
 */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, SafetensorsInput>,
  metadata: Readonly<Record<string, string>> = {},
): Iterable<Uint8Array> {
  for (const [name, tensor] of tensors) checkInput(name, tensor);
  const texts = Object.entries(metadata).flat();
  const bad = texts.find((text) => typeof text !== "string" || /\p{Surrogate}/u.test(text));
  if (bad !== undefined) throw new FileError("safetensors", `metadata ${quote(String(bad))} is not valid Unicode text`);
  const sorted = [...tensors].sort(([a, x], [b, y]) => dtypeBytes[y.dtype] - dtypeBytes[x.dtype] || (a < b ? -1 : 1));
  const entries: [string, unknown][] = texts.length === 0 ? [] : [["__metadata__", metadata]];
  let position = 0;
  for (const [name, { dtype, shape, data }] of sorted) {
    const end = position + data.length * dtypeBytes[dtype];
    entries.push([name, { dtype: fileDTypes[dtype], shape, data_offsets: [position, end] }]);
    position = end;
  }
  const fields = entries.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  const json = new TextEncoder().encode(`{${fields.join(",")}}`); // Object.fromEntries would reorder names like "10"
  const length = Math.ceil(json.length / 8) * 8;
  if (length > maxHeaderBytes) {
    throw new FileError("safetensors", `header of ${length} bytes exceeds ${maxHeaderBytes}`, {
      limit: maxHeaderBytes,
    });
  }
  const header = new Uint8Array(8 + length).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true);
  header.set(json, 8);
  return chunks(
    header,
    sorted.map(([, tensor]) => tensor),
  );
}

function checkInput(name: string, { dtype, shape, data }: SafetensorsInput): void {
  const label = `safetensors: tensor ${quote(name)}`;
  if (name === "__metadata__" || /\p{Surrogate}/u.test(name)) {
    throw new FileError(label, "the name is reserved or not valid Unicode");
  }
  if (!arrays[dtype].some((array) => data instanceof array)) {
    throw new DTypeError(label, `${data.constructor.name} does not hold ${dtype} data`);
  }
  if (dtype === "bool" && data.some((value: number) => value > 1)) {
    throw new DTypeError(label, "bool values are stored as 0 and 1");
  }
  const count = shape.reduce((product, extent) => product * extent, 1);
  if (count !== data.length || !shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0)) {
    throw new ShapeError(label, `${formatShape(shape)} does not hold exactly ${data.length} values`);
  }
}

function* chunks(header: Uint8Array, tensors: readonly SafetensorsInput[]): Iterable<Uint8Array> {
  yield header;
  for (const { dtype, data } of tensors) {
    if (dtype !== "fp16" || data instanceof Uint16Array) {
      yield bytesOf(data);
      continue;
    }
    for (let i = 0; i < data.length; i += packedValues) {
      const values = data.subarray(i, i + packedValues);
      const bits = new Uint16Array(values.length);
      packFloat16(values, bits);
      yield bytesOf(bits);
    }
  }
}

/** A .safetensors file in memory; its header is checked, its tensors are looked at on request. */
export class Safetensors implements SafetensorsHeader {
  readonly where: string;
  readonly tensors: ReadonlyMap<string, SafetensorsInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly #bytes: Uint8Array;

  /** @throws FileError as {@link parseSafetensors}. */
  constructor(bytes: Uint8Array, where: string) {
    const length = headerLength(where, bytes.subarray(0, 8), bytes.length);
    const header = parseHeader(where, bytes.subarray(8, 8 + length), bytes.length);
    this.where = where;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
    this.#bytes = bytes;
  }

  /** The stored bytes of a tensor, a view. @throws FileError if there is no such tensor. */
  bytes(name: string): Uint8Array {
    const { offset, sizeBytes } = find(this, this.where, name);
    return this.#bytes.subarray(offset, offset + sizeBytes);
  }

  /** Raw bits of an F16 or BF16 tensor, a view where aligned. @throws FileError if there is no such tensor or it has another dtype. */
  bits(name: string): Uint16Array<ArrayBuffer> {
    return toBits(this.where, find(this, this.where, name), this.bytes(name));
  }

  /**
   * Values of a tensor; F32, I32 and BOOL are views where aligned, the rest is converted.
   * @throws FileError if there is no such tensor, an I64 exceeds int32, or a BOOL is not 0 or 1.
   */
  values(name: string): SafetensorsValues {
    return toValues(this.where, find(this, this.where, name), this.bytes(name));
  }
}

/** A .safetensors file on disk; each call reads one tensor. Close it, or hold it with `await using`. */
export class SafetensorsFile implements SafetensorsHeader, AsyncDisposable {
  readonly where: string;
  readonly tensors: ReadonlyMap<string, SafetensorsInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly #handle: FileHandle;

  /** Called by {@link openSafetensors}. */
  constructor(where: string, header: SafetensorsHeader, handle: FileHandle) {
    this.where = where;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
    this.#handle = handle;
  }

  /** The stored bytes of a tensor. @throws FileError if there is no such tensor or reading fails. */
  async bytes(name: string): Promise<Uint8Array> {
    const { offset, sizeBytes } = find(this, this.where, name);
    return readAt(this.where, this.#handle, offset, sizeBytes);
  }

  /** Raw bits of an F16 or BF16 tensor. @throws FileError as {@link Safetensors.bits}. */
  async bits(name: string): Promise<Uint16Array<ArrayBuffer>> {
    const info = find(this, this.where, name);
    return toBits(this.where, info, await this.bytes(name));
  }

  /** Values of a tensor, in memory of their own. @throws FileError as {@link Safetensors.values}. */
  async values(name: string): Promise<SafetensorsValues> {
    const info = find(this, this.where, name);
    return toValues(this.where, info, await this.bytes(name));
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/**
 * Reads the header of a .safetensors file in memory.
 * @param where Name of the file for errors.
 * @throws FileError for a header over 100 MB or beyond the file, malformed JSON, names given twice, unknown dtypes, and
 * tensors that overlap, leave holes, or have another size than their shape.
 */
export function parseSafetensors(bytes: Uint8Array, where: string): Safetensors {
  return new Safetensors(bytes, where);
}

/**
 * Opens a .safetensors file and reads its header.
 * @throws FileError if the file cannot be read, and as {@link parseSafetensors}.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const handle = await open(path, "r").catch((error: unknown) => {
    throw fileError(path, error);
  });
  try {
    const status = await handle.stat().catch((error: unknown) => {
      throw fileError(path, error);
    });
    if (!status.isFile()) throw new FileError(path, status.isDirectory() ? "is a folder, not a file" : "is not a file");
    const prefix = await readAt(path, handle, 0, Math.min(8, status.size));
    const length = headerLength(path, prefix, status.size);
    const header = parseHeader(path, await readAt(path, handle, 8, length), status.size);
    return new SafetensorsFile(path, header, handle);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function readAt(where: string, handle: FileHandle, offset: number, length: number): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(length); // the length was checked against the file's size
    for (let done = 0; done < length; ) {
      const { bytesRead } = await handle.read(bytes, done, Math.min(length - done, 2 ** 30), offset + done);
      if (bytesRead === 0) throw new Error(`ends at byte ${offset + done}: it was cut short while open`);
      done += bytesRead;
    }
  } catch (error) {
    throw fileError(where, error);
  }
  return bytes;
}

function find(header: SafetensorsHeader, where: string, name: string): SafetensorsInfo {
  const info = header.tensors.get(name);
  if (info !== undefined) return info;
  const names = [...header.tensors.keys()].slice(0, 5).map(quote).join(", ");
  const more = header.tensors.size > 5 ? `, ... (${header.tensors.size} in all)` : "";
  throw new FileError(where, `has no tensor ${quote(name)}: it holds ${names || "none"}${more}`);
}

function toBits(where: string, { name, dtype }: SafetensorsInfo, bytes: Uint8Array): Uint16Array<ArrayBuffer> {
  if (dtype === "F16" || dtype === "BF16") return uint16View(bytes);
  throw new FileError(
    `${where}: tensor ${quote(name)}`,
    `has dtype ${dtype}; only F16 and BF16 are read as 16-bit words`,
  );
}

function toValues(where: string, { name, dtype, shape }: SafetensorsInfo, bytes: Uint8Array): SafetensorsValues {
  const label = `${where}: tensor ${quote(name)}`;
  if (dtype === "F32") return { dtype: "fp32", shape, data: float32View(bytes) };
  if (dtype === "I32") return { dtype: "int32", shape, data: int32View(bytes) };
  if (dtype === "I64") return { dtype: "int32", shape, data: narrowInt64(label, bytes) };
  if (dtype === "U8") return { dtype: "int32", shape, data: Int32Array.from(bytes) };
  if (dtype === "BOOL") {
    checkBooleans(label, bytes);
    const source = bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
    return { dtype: "bool", shape, data: source };
  }
  const bits = uint16View(bytes);
  const data = new Float32Array(bits.length);
  if (dtype === "F16") unpackFloat16(bits, data);
  else {
    const words = new Uint32Array(data.buffer);
    for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16; // BF16 is the upper half of fp32
  }
  return { dtype: dtype === "F16" ? "fp16" : "fp32", shape, data };
}
