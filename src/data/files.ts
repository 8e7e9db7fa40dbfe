// Files and folders written so that a crash leaves the old or the new version, never a part; and a guard for paths found in files.

import { randomBytes } from "node:crypto";
import { lstatSync, mkdirSync, realpathSync, statSync } from "node:fs";
import { chmod, lstat, mkdir, open, readdir, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, posix, resolve, sep, win32 } from "node:path";
import { FileError } from "../core/errors.ts";
import { fileError } from "./bytes.ts";

/** Prefix of every temporary file and folder; names that start with it belong to anekit. */
export const temporaryPrefix = ".anekit-tmp-";

const maxWriteBytes = 2 ** 26; // one write call; Node refuses 2 GiB and more

/**
 * Writes a file in one step: readers and crashes see the old content or all of the new, on disk before this returns.
 * A symbolic link is followed; the permissions of an existing file are kept. An error thrown by the iterable `data` passes through.
 * @param data Text (written as UTF-8), bytes, or chunks of bytes, pulled one at a time.
 * @throws FileError if the folder does not exist or cannot be written; the old file then stays and the temporary is removed.
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array | Iterable<Uint8Array>): Promise<void> {
  const target = await followLinks(path);
  const temporary = join(dirname(target), temporaryName());
  const chunks =
    typeof data === "string" ? [new TextEncoder().encode(data)] : data instanceof Uint8Array ? [data] : data;
  try {
    const handle = await attempt(path, open(temporary, "wx"));
    try {
      for (const chunk of chunks) await attempt(path, writeAll(handle, chunk));
      await attempt(path, handle.sync());
    } finally {
      await attempt(path, handle.close()); // a network file system may report a failed write only here
    }
    const old = await stat(target).catch(() => undefined);
    if (old?.isFile()) await attempt(path, chmod(temporary, old.mode & 0o7777));
    if (old?.isDirectory()) throw new FileError(path, "is a folder, not a file");
    await attempt(path, rename(temporary, target));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
  await attempt(path, syncPath(dirname(target)));
}

/**
 * Writes a folder in one step: `write` fills a temporary folder beside `path`, which then takes its place.
 * An existing folder is first renamed aside and removed at the end. Between the two renames there is no folder at `path`;
 * a crash just there leaves the old one aside, and {@link removeStaleTemporaries} of the parent folder puts it back.
 * An error thrown by `write` passes through; nothing has changed then.
 * @throws FileError if the parent does not exist or cannot be written, or `path` is not a folder.
 */
export async function writeFolderAtomic(
  path: string,
  write: (temporaryFolder: string) => Promise<void>,
): Promise<void> {
  const target = await followLinks(path);
  const parent = dirname(target);
  const temporary = join(parent, temporaryName());
  const aside = join(parent, temporaryName(basename(target)));
  try {
    const old = await lstat(target).catch(() => undefined);
    if (old !== undefined && !old.isDirectory()) throw new FileError(path, "is a file, not a folder");
    await attempt(path, mkdir(temporary));
    await write(temporary);
    await attempt(path, syncTree(temporary));
    const hasOld = await exists(target);
    if (hasOld) await attempt(path, rename(target, aside));
    try {
      await rename(temporary, target);
    } catch (error) {
      if (hasOld) await attempt(path, rename(aside, target));
      throw fileError(path, error);
    }
  } catch (error) {
    await rm(temporary, { force: true, recursive: true }).catch(() => undefined);
    throw error;
  }
  await attempt(path, syncPath(parent));
  await rm(aside, { force: true, recursive: true }).catch(() => undefined); // what stays is stale and found later
}

/**
 * Makes a folder and those above it that are missing, one after another: Node's own recursive call never ends on Linux where a folder above it takes none,
 * such as /proc.
 * @throws FileError if a file stands there, or no folder can be made.
 */
export function makeFolder(path: string): void {
  const folder = resolve(path);
  const parent = dirname(folder);
  const isThere = () => statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true;
  try {
    if (isThere()) return;
    if (parent !== folder) makeFolder(parent);
    mkdirSync(folder);
  } catch (error) {
    if (error instanceof FileError) throw error;
    if (hasCode(error, "ENOENT")) throw new FileError(path, `no folder can be made in ${parent}`, { cause: error });
    if (!hasCode(error, "EEXIST")) throw fileError(path, error);
    if (!isThere()) throw new FileError(path, "is a file, not a folder"); // else another process was faster
  }
}

/**
 * Cleans a folder after crashes: removes temporaries of processes that no longer run, and puts back a folder that
 * {@link writeFolderAtomic} had renamed aside when it was killed. Call it on the parent folder before reading what was written there.
 * Temporaries of running processes stay. A folder that does not exist is clean.
 * @returns Names of the entries removed or put back, sorted.
 * @throws FileError if the folder cannot be read or changed.
 */
export async function removeStaleTemporaries(folder: string): Promise<string[]> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return [];
    throw fileError(folder, error);
  }
  const entries: { name: string; ctimeMs: number }[] = [];
  for (const name of names) {
    if (!name.startsWith(temporaryPrefix)) continue;
    const entry = await lstat(join(folder, name)).catch(() => undefined); // undefined: finished meanwhile
    if (entry === undefined) continue;
    const pid = temporaryPattern.exec(name)?.[1];
    if (pid === undefined || !isInUse(Number(pid), entry.ctimeMs)) entries.push({ name, ctimeMs: entry.ctimeMs });
  }
  entries.sort((a, b) => b.ctimeMs - a.ctimeMs); // of two folders aside the later one is put back
  for (const { name } of entries) {
    const path = join(folder, name);
    const replaced = temporaryPattern.exec(name)?.[2];
    const isLost = replaced !== undefined && !(await exists(join(folder, replaced)));
    await attempt(folder, isLost ? rename(path, join(folder, replaced)) : rm(path, { force: true, recursive: true }));
  }
  if (entries.length > 0) await attempt(folder, syncPath(folder));
  return entries.map(({ name }) => name).sort();
}

/**
 * Whether a relative path found in a file stays strictly below `folder`. False for absolute paths (of any system), for any `..`,
 * for a NUL, and for symbolic links that lead outside or nowhere. The path itself need not exist.
 * It speaks of the moment of the call: it is no guard against somebody who changes the folder meanwhile.
 */
export function isInside(folder: string, path: string): boolean {
  if (path.includes("\0") || posix.isAbsolute(path) || win32.isAbsolute(path) || /^[A-Za-z]:/.test(path)) return false;
  if (path.split(/[/\\]/).includes("..")) return false;
  const parts = path.split(sep).filter((part) => part !== "" && part !== ".");
  if (parts.length === 0) return false;
  const root = realpathOr(folder, resolve(folder));
  let current = root;
  for (const part of parts) {
    current = join(current, part);
    try {
      if (!lstatSync(current).isSymbolicLink()) continue;
    } catch (error) {
      return hasCode(error, "ENOENT"); // nothing there, so nothing that could lead away
    }
    const end = realpathOr(current, undefined);
    if (end === undefined || !(end === root || end.startsWith(root.endsWith(sep) ? root : root + sep))) return false;
    current = end;
  }
  return current !== root;
}

function realpathOr<T>(path: string, otherwise: T): string | T {
  try {
    return realpathSync(path);
  } catch {
    return otherwise;
  }
}

/** `.anekit-tmp-<process id>-<random>`, and the name of the folder it replaces where it holds one aside. */
const temporaryPattern = /^\.anekit-tmp-(\d{1,10})-[0-9a-f]{16}(?:-aside-(.+))?$/s;

/** A name that {@link removeStaleTemporaries} knows, and that nothing else has. */
export function temporaryName(aside?: string): string {
  const name = `${temporaryPrefix}${process.pid}-${randomBytes(8).toString("hex")}`;
  return aside === undefined ? name : `${name}-aside-${aside}`;
}

/** Whether the process that made a temporary still runs. Containers reuse process ids, so one of ours must also be younger than this process. */
function isInUse(pid: number, ctimeMs: number): boolean {
  if (pid === process.pid) return ctimeMs >= Date.now() - process.uptime() * 1000 - 1000; // 1 s: clocks of file systems lag
  try {
    process.kill(pid, 0); // sends nothing: asks whether the process exists
    return true;
  } catch (error) {
    return hasCode(error, "EPERM");
  }
}

/** Runs a file-system call; its failure becomes a FileError about `path`. */
async function attempt<T>(path: string, call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw fileError(path, error);
  }
}

async function writeAll(handle: Awaited<ReturnType<typeof open>>, bytes: Uint8Array): Promise<void> {
  for (let offset = 0; offset < bytes.length; ) {
    const length = Math.min(bytes.length - offset, maxWriteBytes);
    offset += (await handle.write(bytes, offset, length)).bytesWritten;
  }
}

async function followLinks(path: string): Promise<string> {
  return realpath(path).catch(() => resolve(path));
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  );
}

async function syncPath(path: string): Promise<void> {
  if (process.platform === "win32" && (await stat(path)).isDirectory()) return; // Windows cannot sync a folder
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await syncPath(path);
  }
  await syncPath(folder);
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
