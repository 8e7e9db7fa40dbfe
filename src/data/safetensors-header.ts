// The header of a .safetensors file: a strict scanner for the one JSON shape it may have, and the checks of the reference
// implementation (https://github.com/huggingface/safetensors): no holes, no overlap, sizes that match. Reads no tensor data.

import { FileError, formatShape } from "../core/errors.ts";
import { countElements, quote } from "./bytes.ts";

/** Dtypes that are read, spelled as in the files, with their sizes in bytes. */
const safetensorsBytes = { F16: 2, F32: 4, BF16: 2, I32: 4, BOOL: 1, I64: 8, U8: 1 } as const;
export type SafetensorsDType = keyof typeof safetensorsBytes;

/** What the header says of a tensor. */
export interface SafetensorsInfo {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** Position of the first byte in the file. */
  readonly offset: number;
  readonly sizeBytes: number;
}

export interface SafetensorsHeader {
  /** Tensors by name, in the order of their data. */
  readonly tensors: ReadonlyMap<string, SafetensorsInfo>;
  readonly metadata: ReadonlyMap<string, string>;
}

export const maxHeaderBytes = 100_000_000; // the reference implementation's limit
const maxTensors = 2 ** 20;
const maxMetadata = 2 ** 16;
const maxAxes = 64;

/**
 * Length of the header in bytes, from the first 8 bytes of a file.
 * @throws FileError if the file is shorter than 8 bytes, or the length exceeds 100 MB or the file.
 */
export function headerLength(where: string, prefix: Uint8Array, fileBytes: number): number {
  if (prefix.length < 8) throw new FileError(where, `is not a .safetensors file: it has only ${prefix.length} bytes`);
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(maxHeaderBytes)) {
    throw new FileError(where, `header of ${length} bytes exceeds ${maxHeaderBytes}`, { limit: maxHeaderBytes });
  }
  if (Number(length) > fileBytes - 8) {
    throw new FileError(where, `header of ${length} bytes exceeds the file of ${fileBytes}`, { limit: fileBytes });
  }
  return Number(length);
}

/**
 * Parses and checks a header.
 * @param bytes The header without its length.
 * @throws FileError for anything but a well-formed header whose tensors fill the rest of the file exactly.
 */
export function parseHeader(where: string, bytes: Uint8Array, fileBytes: number): SafetensorsHeader {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new FileError(where, "the header is not UTF-8", { cause });
  }
  const scanner = new Scanner(where, text);
  const metadata = new Map<string, string>();
  const dataStart = 8 + bytes.length;
  const infos: SafetensorsInfo[] = [];
  const names = new Set<string>();
  let hasMetadata = false;
  if (text[0] !== "{") scanner.fail("{"); // the format forbids space before it
  scanner.object((name) => {
    if (name === "__metadata__") {
      if (hasMetadata) throw new FileError(where, "__metadata__ is given twice");
      hasMetadata = true;
      readMetadata(scanner, metadata, where);
      return;
    }
    if (names.has(name)) throw new FileError(where, `tensor ${quote(name)} is given twice`);
    if (names.size === maxTensors) throw new FileError(where, `more than ${maxTensors} tensors`, { limit: maxTensors });
    names.add(name);
    infos.push(readTensor(scanner, where, name, dataStart, fileBytes));
  });
  scanner.end();
  return { tensors: checkLayout(where, infos, dataStart, fileBytes), metadata };
}

function readMetadata(scanner: Scanner, metadata: Map<string, string>, where: string): void {
  scanner.object((key) => {
    if (metadata.has(key)) throw new FileError(where, `metadata ${quote(key)} is given twice`);
    if (metadata.size === maxMetadata) {
      throw new FileError(where, `more than ${maxMetadata} metadata entries`, { limit: maxMetadata });
    }
    metadata.set(key, scanner.string());
  });
}

function readTensor(
  scanner: Scanner,
  where: string,
  name: string,
  dataStart: number,
  fileBytes: number,
): SafetensorsInfo {
  const label = `${where}: tensor ${quote(name)}`;
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  scanner.object((key) => {
    if (key === "dtype" && dtype === undefined) dtype = scanner.string();
    else if (key === "shape" && shape === undefined) shape = scanner.integers(maxAxes);
    else if (key === "data_offsets" && offsets === undefined) offsets = scanner.integers(2);
    else throw new FileError(label, `field ${quote(key)} is unknown or given twice`);
  });
  if (dtype === undefined || shape === undefined || offsets === undefined) {
    throw new FileError(label, "dtype, shape or data_offsets is missing");
  }
  if (!isSafetensorsDType(dtype)) {
    throw new FileError(label, `dtype ${quote(dtype)} is not one of ${Object.keys(safetensorsBytes).join(" ")}`);
  }
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined || begin > end || end > fileBytes - dataStart) {
    const what = `data_offsets ${formatShape(offsets)} are not a range inside the ${fileBytes - dataStart} bytes of data`;
    throw new FileError(label, what);
  }
  const sizeBytes = countElements(label, shape) * safetensorsBytes[dtype];
  if (sizeBytes !== end - begin) {
    const what = `${dtype} ${formatShape(shape)} takes ${sizeBytes} bytes, data_offsets hold ${end - begin}`;
    throw new FileError(label, what);
  }
  return { name, dtype, shape, offset: dataStart + begin, sizeBytes };
}

/** Tensors in the order of their data, which must follow one another and fill the file. */
function checkLayout(
  where: string,
  infos: SafetensorsInfo[],
  dataStart: number,
  fileBytes: number,
): Map<string, SafetensorsInfo> {
  infos.sort((a, b) => a.offset - b.offset || a.sizeBytes - b.sizeBytes);
  let position = dataStart;
  for (const { name, offset, sizeBytes } of infos) {
    if (offset !== position) {
      const what = offset < position ? "overlaps the tensor before it" : "leaves a hole before it";
      throw new FileError(`${where}: tensor ${quote(name)}`, `begins at byte ${offset}, not ${position}: it ${what}`);
    }
    position += sizeBytes;
  }
  if (position !== fileBytes) {
    throw new FileError(where, `tensors end at byte ${position} of a file of ${fileBytes}`);
  }
  return new Map(infos.map((info) => [info.name, info]));
}

function isSafetensorsDType(text: string): text is SafetensorsDType {
  return Object.hasOwn(safetensorsBytes, text);
}

/** Walks JSON text that may hold only objects, strings and lists of integers; so its depth is that of the caller. */
class Scanner {
  readonly #where: string;
  readonly #text: string;
  #position = 0;

  constructor(where: string, text: string) {
    this.#where = where;
    this.#text = text;
  }

  fail(expected: string): never {
    const rest = this.#text.slice(this.#position, this.#position + 20);
    const found = rest === "" ? "the end" : quote(rest);
    throw new FileError(this.#where, `header: ${expected} expected at character ${this.#position}, found ${found}`);
  }

  object(entry: (key: string) => void): void {
    this.#expect("{");
    if (this.#take("}")) return;
    do {
      const key = this.string();
      this.#expect(":");
      entry(key);
    } while (this.#take(","));
    this.#expect("}");
  }

  string(): string {
    this.#skipSpace();
    const start = this.#position;
    if (this.#text[start] !== '"') this.fail("a string");
    let end = start + 1;
    let isPlain = true; // no escapes: the slice is the string
    for (; this.#text[end] !== '"'; end++) {
      const code = this.#text.charCodeAt(end);
      if (Number.isNaN(code) || code < 0x20) this.fail("a closed string without control characters");
      if (code !== 0x5c) continue;
      isPlain = false;
      end++;
    }
    this.#position = end + 1;
    if (isPlain) return this.#text.slice(start + 1, end);
    let value: unknown;
    try {
      value = JSON.parse(this.#text.slice(start, end + 1));
    } catch {
      // reported below
    }
    if (typeof value === "string" && !/\p{Surrogate}/u.test(value)) return value;
    this.#position = start;
    return this.fail("a string with valid escapes");
  }

  /** A list of at most `limit` integers of at least 0. */
  integers(limit: number): number[] {
    this.#expect("[");
    const values: number[] = [];
    if (this.#take("]")) return values;
    do {
      if (values.length === limit) this.fail(`a list of at most ${limit} integers`);
      this.#skipSpace();
      const integer = /(?:0|[1-9]\d{0,20})(?![\d.eE])/y;
      integer.lastIndex = this.#position;
      const value = Number(integer.exec(this.#text)?.[0]);
      if (!Number.isSafeInteger(value)) this.fail("an integer from 0 to 2^53 - 1");
      values.push(value);
      this.#position = integer.lastIndex;
    } while (this.#take(","));
    this.#expect("]");
    return values;
  }

  end(): void {
    this.#skipSpace();
    if (this.#position !== this.#text.length) this.fail("the end");
  }

  #take(character: string): boolean {
    this.#skipSpace();
    if (this.#text[this.#position] !== character) return false;
    this.#position++;
    return true;
  }

  #expect(character: string): void {
    if (!this.#take(character)) this.fail(character);
  }

  #skipSpace(): void {
    for (; ; this.#position++) {
      const c = this.#text[this.#position];
      if (c !== " " && c !== "\n" && c !== "\t" && c !== "\r") return;
    }
  }
}
