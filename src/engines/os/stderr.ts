// Standard error of the whole process, caught in a file while a library works that gives its reasons there and nowhere else.

import { closeSync, openSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import { EngineError } from "../../core/errors.ts";
import type { Foreign } from "./libc.ts";

const lockExclusive = 2; // LOCK_EX of flock(2)
const stderrFd = 2;
/** Bytes kept of what was written. */
const textLimit = 64 * 1024;

let captures = 0;

/**
 * Does `work` with standard error redirected, and hands out what was written meanwhile, by whatever thread; where `work` throws, that goes to standard
 * error after all. Threads of a process take turns.
 * @param folder A folder that all threads of this process name, and no other process.
 */
export function captureStderr<T>(
  { libc, errno }: Foreign,
  folder: string,
  work: () => T,
): { readonly result: T; readonly text: string } {
  const lock = openSync(join(folder, "stderr.lock"), "a", 0o600);
  try {
    libc.flock(lock, lockExclusive);
    const path = join(folder, `stderr.${++captures}`);
    const file = openSync(path, "w+", 0o600);
    try {
      rmSync(path);
      const old = libc.dup(stderrFd);
      if (old < 0) throw new EngineError("stderr", `dup failed: ${errno()}`);
      libc.dup2(file, stderrFd);
      let result: T | undefined;
      let done = false;
      try {
        result = work();
        done = true;
      } finally {
        libc.dup2(old, stderrFd);
        libc.close(old);
        if (!done) process.stderr.write(readText(file));
      }
      return { result: result as T, text: readText(file) };
    } finally {
      closeSync(file);
    }
  } finally {
    closeSync(lock); // and with it the lock
  }
}

function readText(file: number): string {
  const bytes = new Uint8Array(textLimit);
  return new TextDecoder().decode(bytes.subarray(0, readSync(file, bytes, 0, textLimit, 0)));
}
