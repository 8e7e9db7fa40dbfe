// Unpacking chosen files of a gzipped tar archive. Only files that are asked for, by name and size, are ever written, so no name in an archive decides a path.

import { createReadStream } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { basename, join } from "node:path";
import { Transform, type TransformCallback } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { AbortedError, FileError, messageOf } from "../core/errors.ts";
import { fileError, quote } from "./bytes.ts";

const blockBytes = 512;

/** A file or another entry, as its header says. */
interface Entry {
  readonly name: string;
  readonly isFile: boolean;
  readonly size: number;
}

/** Text of a header's field, up to its first NUL. */
function text(block: Uint8Array, from: number, length: number): string {
  const field = block.subarray(from, from + length);
  const end = field.indexOf(0);
  return new TextDecoder("latin1").decode(end < 0 ? field : field.subarray(0, end));
}

/** An octal number of a header's field. @throws FileError where it is none; other forms hold sizes of 8 GiB and more. */
function octal(where: string, block: Uint8Array, from: number, length: number, what: string): number {
  const digits = text(block, from, length).trim();
  if (!/^[0-7]{1,11}$/.test(digits)) throw new FileError(where, `tar: ${what} ${quote(digits)} is not an octal number`);
  return Number.parseInt(digits, 8);
}

/** The entry that a header block announces; undefined for the zeros at the end. @throws FileError where it is no header. */
function readHeader(where: string, block: Uint8Array): Entry | undefined {
  if (block.every((byte) => byte === 0)) return undefined;
  const sum = octal(where, block, 148, 8, "checksum");
  let actual = 0;
  for (let i = 0; i < blockBytes; i++) actual += i >= 148 && i < 156 ? 0x20 : block[i]!; // the field itself counts as spaces
  if (sum !== actual) throw new FileError(where, "tar: a header's checksum does not match; the archive is damaged");
  const prefix = text(block, 257, 5) === "ustar" ? text(block, 345, 155) : "";
  const name = `${prefix === "" ? "" : `${prefix}/`}${text(block, 0, 100)}`.replace(/^(\.\/)+/, "");
  const type = text(block, 156, 1);
  return { name, isFile: type === "" || type === "0", size: octal(where, block, 124, 12, "size") };
}

/** Refuses streams that unpack to more than `limit` bytes before they have. */
function bounded(where: string, limit: number): Transform {
  let total = 0;
  return new Transform({
    transform(chunk: Uint8Array, _encoding: BufferEncoding, done: TransformCallback) {
      total += chunk.length;
      if (total > limit) done(new FileError(where, `unpacks to more than ${limit} bytes`, { limit }));
      else done(undefined, chunk);
    },
  });
}

/** Writes the members of a plain tar stream. Returns the names of those that it met. */
async function writeMembers(
  where: string,
  stream: AsyncIterable<Uint8Array>,
  members: ReadonlyMap<string, number>,
  folder: string,
): Promise<Set<string>> {
  const met = new Set<string>();
  const header = new Uint8Array(blockBytes);
  let headerFill = 0;
  let left = 0; // of the current entry
  let padding = 0; // to the next block
  let zeros = 0; // blocks of the end mark
  let file: FileHandle | undefined;
  try {
    for await (const piece of stream) {
      for (let at = 0; at < piece.length && zeros < 2; ) {
        if (left > 0) {
          const data = piece.subarray(at, at + left);
          await file?.writeFile(data);
          left -= data.length;
          at += data.length;
        } else if (padding > 0) {
          const skipped = Math.min(padding, piece.length - at);
          padding -= skipped;
          at += skipped;
        } else {
          const part = piece.subarray(at, at + blockBytes - headerFill);
          header.set(part, headerFill);
          headerFill += part.length;
          at += part.length;
          if (headerFill < blockBytes) continue;
          headerFill = 0;
          await file?.close();
          file = undefined;
          const entry = readHeader(where, header);
          zeros = entry === undefined ? zeros + 1 : 0;
          if (entry === undefined) continue;
          left = entry.size;
          padding = (blockBytes - (left % blockBytes)) % blockBytes;
          const size = members.get(entry.name);
          if (size === undefined) continue; // its bytes are skipped
          if (!entry.isFile || entry.size !== size) {
            const what = entry.isFile ? `a file of ${entry.size} bytes` : "no plain file";
            throw new FileError(where, `tar: ${quote(entry.name)} is ${what}, not the file of ${size} bytes expected`);
          }
          if (met.has(entry.name)) throw new FileError(where, `tar: ${quote(entry.name)} is there twice`);
          met.add(entry.name);
          file = await open(join(folder, basename(entry.name)), "wx");
        }
      }
    }
  } finally {
    await file?.close();
  }
  if (left > 0 || headerFill > 0) throw new FileError(where, "tar: it was cut short");
  return met;
}

/**
 * Unpacks `members` (names in the archive, and the bytes that each must have) from a .tar.gz into `folder`, under the last part of their names.
 * Whatever else the archive holds is skipped, links and paths that lead elsewhere included.
 * @throws FileError where the archive is damaged, lacks a member, has it in another size, or unpacks to more than twice the members' bytes; AbortedError.
 */
export async function unpackTarGz(
  archive: string,
  members: ReadonlyMap<string, number>,
  folder: string,
  signal?: AbortSignal,
): Promise<void> {
  const wanted = [...members.values()].reduce((sum, size) => sum + size, 0);
  const limit = 2 * wanted + 2 ** 20;
  let met = new Set<string>();
  let refusal: unknown; // pipeline() reports the abort of its other parts instead
  try {
    await pipeline(
      createReadStream(archive),
      createGunzip(),
      bounded(archive, limit),
      async (stream: AsyncIterable<Uint8Array>) => {
        try {
          met = await writeMembers(archive, stream, members, folder);
        } catch (error) {
          refusal = error;
          throw error;
        }
      },
      { signal },
    );
  } catch (caught) {
    if (signal?.aborted) throw new AbortedError("unpack", signal);
    const error = refusal ?? caught;
    if (error instanceof FileError) throw error;
    const isZlib = error instanceof Error && "code" in error && String(error.code).startsWith("Z_");
    throw isZlib ? new FileError(archive, `gzip: ${messageOf(error)}`, { cause: error }) : fileError(archive, error);
  }
  const missing = [...members.keys()].find((name) => !met.has(name));
  if (missing !== undefined) throw new FileError(archive, `tar: ${quote(missing)} is missing`);
}
