// Standard error of the whole process, caught in a file while a library works that gives its reasons there and nowhere else.

import { closeSync, fstatSync, mkdirSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { EngineError } from "../../core/errors.ts";
import type { Foreign } from "./libc.ts";

const lockExclusive = 2; // LOCK_EX of flock(2)
const stderrFd = 2;
/** Bytes read of what was written: more than a library says, less than would fill memory. */
const textLimit = 16 * 2 ** 20;

let captures = 0;

/** What a capture of any thread has open: the real standard error and the file; -1 and -1 while there is none. */
export type Redirection = Int32Array<SharedArrayBuffer>;

export function newRedirection(): Redirection {
  return new Int32Array(new SharedArrayBuffer(8)).fill(-1);
}

/** At the end of a process: standard error as it was, and what was caught until then. */
export function endRedirection({ libc }: Foreign, redirection: Redirection): void {
  const [old, file] = [Atomics.load(redirection, 0), Atomics.load(redirection, 1)];
  if (old < 0) return;
  libc.dup2(old, stderrFd);
  writeSync(stderrFd, readText(file));
}

/** Where a capture keeps things, the same for all threads of the process. */
export interface CapturePlace {
  /** A folder of this process alone. */
  readonly folder: string;
  readonly redirection: Redirection;
}

/**
 * Does `work` with standard error redirected, and hands out what was written meanwhile, by whatever thread; where `work` throws, that goes to standard
 * error after all. Threads of a process take turns.
 */
export function captureStderr<T>(
  { libc, errno }: Foreign,
  { folder, redirection }: CapturePlace,
  work: () => T,
): { readonly result: T; readonly text: string } {
  mkdirSync(folder, { recursive: true, mode: 0o700 }); // cleaners of temporary files may have taken it
  const lock = openSync(join(folder, "stderr.lock"), "a", 0o600);
  try {
    if (libc.flock(lock, lockExclusive) !== 0) throw new EngineError("stderr", `flock failed: ${errno()}`);
    const path = join(folder, `stderr.${++captures}`);
    const file = openSync(path, "w+", 0o600);
    try {
      rmSync(path);
      const old = libc.dup(stderrFd);
      if (old < 0) throw new EngineError("stderr", `dup failed: ${errno()}`);
      Atomics.store(redirection, 1, file);
      Atomics.store(redirection, 0, old);
      let result: T | undefined;
      let done = false;
      try {
        if (libc.dup2(file, stderrFd) < 0) throw new EngineError("stderr", `dup2 failed: ${errno()}`);
        result = work();
        done = true;
      } finally {
        libc.dup2(old, stderrFd);
        Atomics.store(redirection, 0, -1);
        libc.close(old);
        if (!done) writeSync(stderrFd, readText(file));
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
  const bytes = new Uint8Array(Math.min(textLimit, fstatSync(file).size));
  return new TextDecoder().decode(bytes.subarray(0, readSync(file, bytes, 0, bytes.length, 0)));
}
