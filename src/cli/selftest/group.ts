// What a group of checks is to `anekit selftest`, and what both processes, the one that asks and the one that serves a group, know of it.

import type { Engine, EngineName } from "../../engines/engine.ts";

export const statuses = ["passed", "failed", "skipped", "measured"] as const;
/** `measured` says that there is nothing to be right or wrong about; it counts as passed. */
export type Status = (typeof statuses)[number];

/** What was seen, for the report and for the facts: plain numbers and words, never text of the machine's owner. */
export type Seen = Readonly<Record<string, number | string | boolean | readonly number[]>>;

/** What a check found. */
export interface Finding {
  /** `passed` unless stated. */
  readonly status?: Status;
  /** What was wrong, or why it was left out. */
  readonly what?: string;
  /** Largest error in units of the last place, and how much it may be. */
  readonly worst?: number;
  readonly bound?: number;
  readonly seen?: Seen;
}

/** What speed to expect, which decides how large programs may be: of the chip, of native code, or of plain kernels, also behind a stand-in for the chip. */
export type Speed = "chip" | "native" | "plain";

/** How a check is run. */
export interface Setting {
  readonly engine: EngineName;
  readonly speed: Speed;
  readonly quick: boolean;
  readonly signal: AbortSignal;
}

/** What a check works with. */
export interface Bench extends Setting {
  /** The engine under test; the process closes it. */
  readonly device: Engine;
}

/** One thing to find out. What it throws is a failure; an UnsupportedError means that the engine says it cannot, and the check is skipped. */
export interface Check {
  readonly name: string;
  run(bench: Bench): Promise<Finding> | Finding;
}

/** Checks that one process runs, in an order that is the same in every process. */
export interface Group {
  readonly name: string;
  readonly summary: string;
  /** Seconds that one check may take before its process is ended; those of the simulator are the same. */
  readonly checkSeconds: number;
  /** Seconds for all of them; what is left then is skipped. */
  readonly seconds: { readonly quick: number; readonly full: number };
  /** Checks after which the next process goes on: compilers that leak are kept from leaking too much. */
  readonly perProcess?: number;
  /** True for the group before which the Neural Engine's library and compiler are asked what they take. */
  readonly examines?: true;
  checks(setting: Pick<Setting, "engine" | "speed" | "quick">): readonly Check[];
}

/** Thrown by a check for what is wrong without being an error of anekit. */
export class Wrong extends Error {
  readonly finding: Finding;
  constructor(what: string, finding: Omit<Finding, "what" | "status"> = {}) {
    super(what);
    this.finding = { ...finding, what, status: "failed" };
  }
}

/** @throws {Wrong} */
export function expect(condition: unknown, what: () => string, seen?: Seen): asserts condition {
  if (!condition) throw new Wrong(what(), seen && { seen });
}
