// The IDX format of MNIST and its relatives, plain or gzipped: http://yann.lecun.com/exdb/mnist (unsigned bytes only).

import { gunzipSync } from "node:zlib";
import { FileError, formatShape } from "../core/errors.ts";
import { checkPayload, countElements } from "./bytes.ts";

/** An array of unsigned bytes, row-major. */
export interface IdxArray {
  /** Extents, outermost first: [count, rows, columns] for images, [count] for labels. */
  readonly shape: number[];
  readonly data: Uint8Array;
}

const defaultMaxBytes = 2 ** 30;
const typeNames: Readonly<Record<number, string>> = {
  9: "signed bytes",
  11: "int16",
  12: "int32",
  13: "float32",
  14: "float64",
};

/**
 * Reads an IDX file of unsigned bytes; a gzipped one is unpacked first. `data` of a plain file shares memory with `bytes`.
 * @param where Name of the file for errors.
 * @param options `maxBytes`: the most that a gzipped file may unpack to, 1 GiB by default.
 * @throws FileError if the file is malformed, cut short or too long, holds another type, or unpacks to more than the limit.
 */
export function decodeIdx(bytes: Uint8Array, where: string, options: { maxBytes?: number } = {}): IdxArray {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) bytes = unpack(bytes, where, options.maxBytes ?? defaultMaxBytes);
  if (bytes.length < 4 || bytes[0] !== 0 || bytes[1] !== 0) {
    throw new FileError(where, "is not an IDX file: it does not begin with two zero bytes, a type and a rank");
  }
  const type = bytes[2]!;
  if (type !== 8) {
    const name = typeNames[type] ?? `an unknown type ${type}`;
    throw new FileError(where, `holds ${name}; only unsigned bytes (type 8) are read`);
  }
  const rank = bytes[3]!;
  if (rank === 0) throw new FileError(where, "rank 0 is not an array");
  const start = 4 + 4 * rank;
  if (bytes.length < start) throw new FileError(where, `ends at byte ${bytes.length}, inside the header of ${start}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const shape = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis));
  checkPayload(where, formatShape(shape), countElements(where, shape), bytes.length - start);
  return { shape, data: bytes.subarray(start) };
}

function unpack(bytes: Uint8Array, where: string, maxBytes: number): Uint8Array {
  try {
    return gunzipSync(bytes, { maxOutputLength: maxBytes }); // grows with what is really unpacked
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ERR_BUFFER_TOO_LARGE") {
      const what = `unpacks to more than ${maxBytes} bytes`;
      throw new FileError(where, what, { limit: maxBytes, remedy: "raise maxBytes if the file is trusted", cause });
    }
    throw new FileError(where, `gzip: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
