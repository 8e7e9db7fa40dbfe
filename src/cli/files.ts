// Reading the files that commands are given: regular ones, of bounded size; and MIL programs with their weight files.

import { readFileSync, type Stats, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { FileError } from "../core/errors.ts";
import { fileError } from "../data/bytes.ts";
import { decodeNpy, decodeUtf8, isInside, type NpyArray } from "../data/index.ts";
import { formatBytes } from "./output.ts";

const maxMilBytes = 2 ** 28; // a string of V8 holds 2^29 - 24 characters
const maxDataBytes = 2 ** 31 - 1; // the most that Node reads at once

/**
 * Bytes of a regular file.
 * @throws {FileError} for files that are missing, unreadable, too large, or folders, pipes and devices.
 */
export function readRegularFile(path: string, maxBytes = maxDataBytes): Uint8Array {
  const status = statPath(path);
  if (status.isDirectory()) throw new FileError(path, "is a folder, not a file");
  if (!status.isFile()) throw new FileError(path, "is not a regular file");
  if (status.size > maxBytes) {
    const facts = { limit: maxBytes };
    throw new FileError(path, `has ${formatBytes(status.size)}, the limit is ${formatBytes(maxBytes)}`, facts);
  }
  try {
    const bytes = readFileSync(path);
    return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length); // a Buffer's slice() would share memory
  } catch (error) {
    throw fileError(path, error);
  }
}

/** What stands at a path; asked before opening, which would wait for the writer of a pipe. @throws {FileError} where nothing does. */
export function statPath(path: string): Stats {
  try {
    return statSync(path);
  } catch (error) {
    throw fileError(path === "" ? '""' : path, error);
  }
}

/** Text of a MIL file; a byte-order mark is dropped. @throws {FileError} as {@link readRegularFile}, and where it is not UTF-8. */
export function readMilText(path: string): string {
  const text = decodeUtf8(readRegularFile(path, maxMilBytes), path);
  return text.startsWith("\ufeff") ? text.slice(1) : text;
}

/** Reader of the weight files of the MIL file at `path`: "@model_path/…" is the folder that it lies in, and nothing outside is read. */
export function weightsBeside(path: string): (name: string) => Uint8Array {
  const folder = dirname(path);
  return (name) => {
    const inner = name.replace(/^@model_path\//, "");
    if (!isInside(folder, inner)) {
      throw new FileError(name, "leads outside the folder of the program", {
        remedy: 'put the weight file beside the program and name it "@model_path/NAME.bin"',
      });
    }
    return readRegularFile(join(folder, inner));
  };
}

/** Array of a .npy file. @throws {FileError} as {@link readRegularFile} and `decodeNpy`. */
export function readNpy(path: string): NpyArray {
  return decodeNpy(readRegularFile(path), path);
}
