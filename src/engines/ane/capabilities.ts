// What the compiler of one chip and OS build was seen to take: the result of the probe, and how it is kept.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { type Dialect, nativeForms } from "../../passes/legalize.ts";

/** What may be relied on. */
export interface Capabilities {
  readonly dialect: Dialect;
  /** An output bound to the buffer of an input replaces it. */
  readonly aliasing: boolean;
}

const outcomes = ["right", "wrong", "zeros", "not finite", "refused", "crashed", "timed out"] as const;

/** What became of one of the probe's programs. */
export type Outcome = (typeof outcomes)[number];

const findingSchema = v.object({
  name: v.string(),
  outcome: v.picklist(outcomes),
  /** The message, the largest difference. */
  detail: v.string(),
  ms: v.number(),
});
export type Finding = v.InferOutput<typeof findingSchema>;

const formNames = Object.keys(nativeForms) as (keyof typeof nativeForms)[];

const probeSchema = v.object({
  /** What was probed: chip, system, library, revision of the probe. */
  subject: v.array(v.string()),
  usable: v.boolean(),
  /** One line. */
  reason: v.string(),
  syntax: v.picklist(["modern", "verbose"]),
  natives: v.object(Object.fromEntries(formNames.map((name) => [name, v.boolean()]))),
  aliasing: v.boolean(),
  findings: v.array(findingSchema),
  /** When, as an ISO date. */
  at: v.string(),
});

/** What a probe found out. */
export type ProbeResult = v.InferOutput<typeof probeSchema>;

export function capabilitiesOf({ syntax, natives, aliasing }: ProbeResult): Capabilities {
  return { dialect: { syntax, natives: natives as Dialect["natives"] }, aliasing };
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

function cacheFile(folder: string, subject: readonly string[]): string {
  const key = createHash("sha256").update(subject.join("\n")).digest("hex").slice(0, 16);
  return join(folder, `ane-probe-${key}.json`);
}

/** How long a result counts that speaks against the engine: a crash or a hang may have had a passing reason. */
const failureDays = 1;

/** The kept result about a subject; undefined where there is none that can be used. */
export function readProbe(folder: string, subject: readonly string[]): ProbeResult | undefined {
  try {
    const found = v.parse(probeSchema, JSON.parse(readFileSync(cacheFile(folder, subject), "utf8")));
    const isThis = found.subject.join("\n") === subject.join("\n");
    const isFresh = found.usable || Date.now() - Date.parse(found.at) < failureDays * 86_400_000;
    return isThis && isFresh ? found : undefined;
  } catch {
    return undefined; // absent or damaged: the probe runs again
  }
}

/** Keeps a result; where it cannot be kept, the next start probes again. */
export function writeProbe(folder: string, result: ProbeResult): void {
  const file = cacheFile(folder, result.subject);
  const temporary = `${file}.${process.pid}`;
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(temporary, `${JSON.stringify(result, null, 2)}\n`);
    renameSync(temporary, file);
  } catch {
    try {
      rmSync(temporary, { force: true });
    } catch {} // where the folder is no folder
  }
}
