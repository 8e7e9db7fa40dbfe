// What the compiler of one chip and OS build was seen to take: the result of the probe, and how it is kept.

import * as v from "valibot";
import { type Dialect, nativeForms } from "../../passes/legalize.ts";
import { readRecord, writeRecord } from "../os/records.ts";

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

const kind = "ane-probe";

/** The kept result about a subject; undefined where there is none that can be used. */
export function readProbe(folder: string, subject: readonly string[]): ProbeResult | undefined {
  const parse = (value: unknown) => v.parse(probeSchema, value);
  return readRecord({ folder, kind, subject, parse, isFailure: ({ usable }) => !usable });
}

/** Keeps a result; where it cannot be kept, the next start probes again. */
export function writeProbe(folder: string, result: ProbeResult): void {
  writeRecord(folder, kind, result);
}
