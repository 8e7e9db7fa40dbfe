// Weight file of MIL programs: Apple's blob storage v2, written aligned, read aligned or packed (as ANEForge writes it).
// Knows bytes and dtype codes, not tensors. Layout: header of 64 bytes, then per blob a record of 64 bytes and its data.

import { FileError } from "../core/errors.ts";

/** Every dtype of the container with its code and the bits of one value. */
export const blobDTypes = {
  fp16: { code: 1, bits: 16 },
  fp32: { code: 2, bits: 32 },
  uint8: { code: 3, bits: 8 },
  int8: { code: 4, bits: 8 },
  bf16: { code: 5, bits: 16 },
  int16: { code: 6, bits: 16 },
  uint16: { code: 7, bits: 16 },
  int4: { code: 8, bits: 4 },
  uint1: { code: 9, bits: 1 },
  uint2: { code: 10, bits: 2 },
  uint4: { code: 11, bits: 4 },
  uint3: { code: 12, bits: 3 },
  uint6: { code: 13, bits: 6 },
  int32: { code: 14, bits: 32 },
  uint32: { code: 15, bits: 32 },
} as const;

export type BlobDType = keyof typeof blobDTypes;

const byCode = new Map(Object.entries(blobDTypes).map(([dtype, { code }]) => [code as number, dtype as BlobDType]));

const unit = 64; // bytes of the header, of a record, and of the alignment
const version = 2;
const sentinel = 0xdeadbeef;

function alignUp(offset: number): number {
  return Math.ceil(offset / unit) * unit;
}

/** Collects blobs for one weight file. */
export class BlobWriter {
  readonly #blobs: { dtype: BlobDType; bytes: Uint8Array; offset: number; paddingBits: number }[] = [];
  #end = unit; // behind the last data

  /**
   * Adds a blob and returns the offset of its record, which is what MIL text names. `bytes` is not copied before `finish`.
   * @param paddingBits unused bits at the end of the last byte, for dtypes below 8 bits
   * @throws FileError if `bytes` is not a whole number of values
   */
  add(dtype: BlobDType, bytes: Uint8Array, paddingBits = 0): number {
    checkSize("blob writer", dtype, bytes.length, paddingBits);
    const offset = alignUp(this.#end);
    this.#blobs.push({ dtype, bytes, offset, paddingBits });
    this.#end = offset + unit + bytes.length;
    return offset;
  }

  /** The file so far; more blobs may be added afterwards. */
  finish(): Uint8Array {
    const file = new Uint8Array(this.#end);
    const view = new DataView(file.buffer);
    view.setUint32(0, this.#blobs.length, true);
    view.setUint32(4, version, true);
    for (const { dtype, bytes, offset, paddingBits } of this.#blobs) {
      view.setUint32(offset, sentinel, true);
      view.setUint32(offset + 4, blobDTypes[dtype].code, true);
      view.setBigUint64(offset + 8, BigInt(bytes.length), true);
      view.setBigUint64(offset + 16, BigInt(offset + unit), true);
      view.setBigUint64(offset + 24, BigInt(paddingBits), true);
      file.set(bytes, offset + unit);
    }
    return file;
  }
}

function checkSize(where: string, dtype: BlobDType, sizeBytes: number, paddingBits: number): void {
  const { bits } = blobDTypes[dtype];
  if (bits >= 8 && (sizeBytes * 8) % bits !== 0) {
    throw new FileError(where, `${sizeBytes} bytes are not a whole number of ${dtype} values`);
  }
  const most = bits >= 8 || sizeBytes === 0 ? 0 : 7;
  if (!Number.isInteger(paddingBits) || paddingBits < 0 || paddingBits > most) {
    throw new FileError(where, `${paddingBits} padding bits make no sense for ${sizeBytes} bytes of ${dtype}`);
  }
}

function viewOf(file: Uint8Array): DataView {
  return new DataView(file.buffer, file.byteOffset, file.byteLength);
}

function isRecord(view: DataView, offset: number): boolean {
  return offset >= unit && offset + unit <= view.byteLength && view.getUint32(offset, true) === sentinel;
}

function checkHeader(view: DataView, where: string): void {
  if (view.byteLength < unit) {
    throw new FileError(
      where,
      `${view.byteLength} bytes are too few for the header of a weight file, which has ${unit}`,
    );
  }
  const found = view.getUint32(4, true);
  if (found === version) return;
  if (view.getUint32(0, true) === sentinel)
    throw new FileError(where, "the file starts with a record and lacks its header");
  throw new FileError(where, `not a weight file of version ${version}: the version field holds ${found}`);
}

/** Reads and checks the record at `offset`, where a sentinel is known to stand. */
function readRecord(view: DataView, offset: number, where: string) {
  const code = view.getUint32(offset + 4, true);
  const dtype = byCode.get(code);
  const record = `record at ${offset}`;
  if (dtype === undefined) throw new FileError(where, `${record}: unknown dtype code ${code}`);
  const size = view.getBigUint64(offset + 8, true);
  const start = view.getBigUint64(offset + 16, true);
  if (start < BigInt(offset + unit)) {
    throw new FileError(where, `${record}: its data starts at ${start}, before the record ends at ${offset + unit}`);
  }
  if (start + size > BigInt(view.byteLength)) {
    const range = `its data, ${size} bytes at ${start}`;
    throw new FileError(where, `${record}: ${range}, goes past the end of the file at ${view.byteLength}`);
  }
  const sizeBytes = Number(size); // exact: at most the length of the file
  checkSize(`${where}: ${record}`, dtype, sizeBytes, Number(view.getBigUint64(offset + 24, true)));
  return { dtype, start: Number(start), sizeBytes };
}

/** Why there is no record at `offset`. */
function missingRecord(view: DataView, offset: number, where: string): FileError {
  if (offset === 0) {
    return new FileError(where, "offset 0 is the header of the file", { remedy: "the first record is at 64" });
  }
  const what = `no record at offset ${offset}`;
  if (!Number.isSafeInteger(offset) || offset < 0 || offset > view.byteLength) {
    return new FileError(where, `${what}: the file has ${view.byteLength} bytes`);
  }
  if (isRecord(view, offset - unit)) {
    const remedy = `MIL names the record, which is at ${offset - unit}`;
    return new FileError(where, `${what}, which is where the data of a record starts`, { remedy });
  }
  if (offset + unit > view.byteLength) {
    return new FileError(where, `${what}: the ${unit} bytes of a record would go past the end at ${view.byteLength}`);
  }
  return new FileError(where, `${what}: the sentinel 0xDEADBEEF is not there`);
}

/**
 * The blob whose record is at `offset`, as a view of `file`.
 * @param where names the file in errors
 * @throws FileError if the file is not a weight file, has no record there, or the record lies
 */
export function readBlob(file: Uint8Array, offset: number, where: string): { dtype: BlobDType; bytes: Uint8Array } {
  const view = viewOf(file);
  checkHeader(view, where);
  if (!Number.isSafeInteger(offset) || !isRecord(view, offset)) throw missingRecord(view, offset, where);
  const { dtype, start, sizeBytes } = readRecord(view, offset, where);
  return { dtype, bytes: file.subarray(start, start + sizeBytes) };
}

/**
 * All records of a weight file, in order; `offset` is the one that MIL text names.
 * @throws FileError if the file is not a weight file, lacks records that its header counts, or a record lies
 */
export function listBlobs(
  file: Uint8Array,
  where = "weight file",
): { offset: number; dtype: BlobDType; sizeBytes: number }[] {
  const view = viewOf(file);
  checkHeader(view, where);
  const count = view.getUint32(0, true);
  const blobs: { offset: number; dtype: BlobDType; sizeBytes: number }[] = [];
  let end = unit; // behind the last data
  while (blobs.length < count) {
    const offset = isRecord(view, end) ? end : alignUp(end);
    if (!isRecord(view, offset)) {
      throw new FileError(where, `record ${blobs.length + 1} of ${count} is not at ${end}, nor at ${alignUp(end)}`);
    }
    const { dtype, start, sizeBytes } = readRecord(view, offset, where);
    blobs.push({ offset, dtype, sizeBytes });
    end = start + sizeBytes;
  }
  return blobs;
}
