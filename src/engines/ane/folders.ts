// Private folders of this process: texts and weights that the compiler, another process, reads; removed at the end, or by the next start where this one was killed.

import { lstatSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { EngineError } from "../../core/errors.ts";

/** Everything of this user's processes lies in one folder that nobody else can read. */
function userFolder(): string {
  const folder = join(resolve(tmpdir()), `anekit-${process.getuid?.() ?? 0}`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new EngineError("ane", `${folder} cannot be made: ${(cause as Error).message}`, {
      remedy: "set TMPDIR to a folder that can be written",
      cause,
    });
  }
  const { uid, mode } = lstatSync(folder);
  const isFolder = (mode & 0o170000) === 0o040000; // S_IFMT, S_IFDIR: a link is none
  if (!isFolder || uid !== (process.getuid?.() ?? uid) || (mode & 0o077) !== 0) {
    throw new EngineError("ane", `${folder} is not a folder that belongs to this user alone`, {
      remedy: "remove it, or set TMPDIR to a folder of your own",
    });
  }
  return folder;
}

/** True unless the system says that there is no such process. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

let last = 0;

/** The folder of this process; all its threads name the same. Folders of processes that are gone are removed. */
export function processFolder(): string {
  const user = userFolder();
  for (const name of readdirSync(user)) {
    const pid = Number(name);
    if (Number.isInteger(pid) && pid > 0 && pid !== process.pid && !isAlive(pid)) {
      rmSync(join(user, name), { recursive: true, force: true });
    }
  }
  const folder = join(user, String(process.pid));
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return folder;
}

/** A new folder inside `parent`. */
export function newFolder(parent: string): string {
  for (;;) {
    const folder = join(parent, `${Date.now().toString(36)}-${++last}`);
    try {
      mkdirSync(parent, { recursive: true, mode: 0o700 }); // cleaners of temporary files may have taken it
      mkdirSync(folder, { mode: 0o700 });
      return folder;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}
