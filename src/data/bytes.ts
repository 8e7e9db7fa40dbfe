// Checks and conversions shared by the file formats: sizes before allocation, aligned views, narrowing, error texts.
// Typed-array views read the host's byte order; every machine that Node supports for anekit is little-endian.

import { FileError, formatShape } from "../core/errors.ts";
import type { Shape } from "../core/shape.ts";

/** Text from a file, quoted for an error message: bounded, and without characters that steer a terminal. */
export function quote(text: string): string {
  const shown = text.length > 80 ? `${text.slice(0, 80)}…` : text;
  return JSON.stringify(shown).replace(
    /[\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * Elements of a shape that a file claims: [] holds one, an extent of 0 makes it empty.
 * @throws FileError if an extent is not an integer of at least 0 or the count is not exact in a double.
 */
export function countElements(where: string, shape: Shape): number {
  let count = 1;
  for (const extent of shape) {
    if (!Number.isSafeInteger(extent) || extent < 0) {
      throw new FileError(where, `extent ${extent} of ${formatShape(shape)} is not an integer from 0 to 2^53 - 1`);
    }
    count *= extent;
    if (!Number.isSafeInteger(count)) throw new FileError(where, `${formatShape(shape)} has too many elements`);
  }
  return count;
}

/**
 * Refuses data that are not exactly as long as their header says.
 * @throws FileError if they were cut short or have bytes to spare.
 */
export function checkPayload(where: string, what: string, expected: number, present: number): void {
  if (expected === present) return;
  const fault = present < expected ? "it was cut short" : `${present - expected} are left over`;
  throw new FileError(where, `${what} takes ${expected} bytes, the file has ${present}: ${fault}`);
}

/** `bytes` at an address that is a multiple of `alignment`, in an ordinary ArrayBuffer: itself where possible, else a copy. */
export function aligned(bytes: Uint8Array, alignment: number): Uint8Array<ArrayBuffer> {
  const plain = bytes.buffer instanceof ArrayBuffer && bytes.byteOffset % alignment === 0;
  return plain ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
}

/** Little-endian fp32 values; shares memory with `bytes` where aligned. */
export function float32View(bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const source = aligned(bytes, 4);
  return new Float32Array(source.buffer, source.byteOffset, source.byteLength / 4);
}

/** Little-endian int32 values; shares memory with `bytes` where aligned. */
export function int32View(bytes: Uint8Array): Int32Array<ArrayBuffer> {
  const source = aligned(bytes, 4);
  return new Int32Array(source.buffer, source.byteOffset, source.byteLength / 4);
}

/** Little-endian 16-bit words; shares memory with `bytes` where aligned. */
export function uint16View(bytes: Uint8Array): Uint16Array<ArrayBuffer> {
  const source = aligned(bytes, 2);
  return new Uint16Array(source.buffer, source.byteOffset, source.byteLength / 2);
}

/** The bytes of a typed array, without a copy. */
export function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/**
 * Little-endian int64 values as int32.
 * @throws FileError at the first value that int32 does not hold.
 */
export function narrowInt64(where: string, bytes: Uint8Array): Int32Array<ArrayBuffer> {
  const words = int32View(bytes); // low, high, low, high, ...
  const values = new Int32Array(words.length / 2);
  for (let i = 0; i < values.length; i++) {
    const low = words[2 * i]!;
    const high = words[2 * i + 1]!;
    if (high !== low >> 31) {
      const value = (BigInt(high) << 32n) | BigInt(low >>> 0);
      throw new FileError(where, `value ${value} at index ${i} is outside int32 [-2147483648, 2147483647]`);
    }
    values[i] = low;
  }
  return values;
}

/**
 * Refuses booleans that are not stored as 0 or 1.
 * @throws FileError at the first such byte.
 */
export function checkBooleans(where: string, bytes: Uint8Array): void {
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i]! > 1) throw new FileError(where, `byte ${bytes[i]} at index ${i} is not a bool (0 or 1)`);
  }
}

/** What a failed file-system call means, for users; the call's own error stays in `cause`. */
export function fileError(where: string, cause: unknown): FileError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  const text = ioTexts[code] ?? (cause instanceof Error ? cause.message : String(cause));
  return new FileError(where, text, { cause });
}

const ioTexts: Readonly<Record<string, string>> = {
  ENOENT: "no such file or folder",
  ENOTDIR: "a part of the path is not a folder",
  EISDIR: "is a folder, not a file",
  EACCES: "permission denied",
  EPERM: "operation not permitted",
  EROFS: "the file system is read-only",
  ENOSPC: "no space left on the device",
  EDQUOT: "the disk quota is used up",
  EMFILE: "too many open files",
  ELOOP: "too many symbolic links",
  ENAMETOOLONG: "the name is too long",
  ERR_FS_FILE_TOO_LARGE: "is larger than 2 GiB, the most that is read at once",
};
