// Results of probes: what they are about, and where they are kept from one start to the next. A file of results is not trusted.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir, release } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

/** What a kept result has: what it is about, line by line, and when it was found, as an ISO date. */
export interface ProbeRecord {
  readonly subject: readonly string[];
  readonly at: string;
}

/** Where results of probes stay: ANEKIT_CACHE_DIR, else the system's place for caches. */
export function cacheFolder(environment: Readonly<Record<string, string | undefined>>): string {
  if (environment.ANEKIT_CACHE_DIR) return environment.ANEKIT_CACHE_DIR;
  if (process.platform === "darwin") return join(homedir(), "Library", "Caches", "anekit");
  return join(environment.XDG_CACHE_HOME || join(homedir(), ".cache"), "anekit");
}

/** Name and build of the operating system. */
export async function describeSystem(): Promise<string> {
  if (process.platform !== "darwin") return `${process.platform} ${release()}`;
  const run = async (argument: string) => (await promisify(execFile)("/usr/bin/sw_vers", [argument])).stdout.trim();
  try {
    return `macOS ${await run("-productVersion")} (${await run("-buildVersion")})`;
  } catch {
    return `Darwin ${release()}`;
  }
}

/** Name and age of a library's file; system libraries have none. */
export function libraryIdentity(path: string): string {
  try {
    const { size, mtimeMs } = statSync(path);
    return `${path} ${size} ${mtimeMs}`;
  } catch {
    return path;
  }
}

/** File of a result in the folder for results; `kind` names the probe. */
export function recordFile(folder: string, kind: string, subject: readonly string[]): string {
  const key = createHash("sha256").update(subject.join("\n")).digest("hex").slice(0, 16);
  return join(folder, `${kind}-${key}.json`);
}

/** How long a result counts that speaks against what was probed: a crash or a hang may have had a passing reason. */
const failureMs = 86_400_000;
/** More than any result has. */
const mostBytes = 2 ** 20;

export interface RecordOptions<R extends ProbeRecord> {
  readonly folder: string;
  readonly kind: string;
  readonly subject: readonly string[];
  /** Checks what was read. @throws anything where it is no result */
  readonly parse: (value: unknown) => R;
  /** True for a result that counts for a day only. */
  readonly isFailure: (record: R) => boolean;
}

/** The kept result about a subject; undefined where there is none that can be used. */
export function readRecord<R extends ProbeRecord>(options: RecordOptions<R>): R | undefined {
  const { folder, kind, subject, parse, isFailure } = options;
  try {
    const file = recordFile(folder, kind, subject);
    const status = statSync(file);
    if (!status.isFile() || status.size > mostBytes) return undefined;
    const record = parse(JSON.parse(readFileSync(file, "utf8")));
    const isThis = record.subject.join("\n") === subject.join("\n");
    const age = Date.now() - Date.parse(record.at);
    // A failure found in the future, by a wrong clock, would count for ever.
    const isFresh = !isFailure(record) || (age >= 0 && age < failureMs);
    return isThis && isFresh ? record : undefined;
  } catch {
    return undefined; // absent or damaged: the probe runs again
  }
}

/** Keeps a result; where it cannot be kept, the next start probes again. */
export function writeRecord(folder: string, kind: string, record: ProbeRecord): void {
  const file = recordFile(folder, kind, record.subject);
  const temporary = `${file}.${process.pid}`;
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(temporary, `${JSON.stringify(record, null, 2)}\n`);
    renameSync(temporary, file);
  } catch {
    try {
      rmSync(temporary, { force: true });
    } catch {} // where the folder is no folder
  }
}
