// Groups of checks that every profile of the double must pass, and what they work with.

import type { AneEngine } from "../../src/engines/ane/engine.ts";
import type { Engine } from "../../src/index.ts";

/** What a check works with. */
export interface Bench {
  readonly engine: AneEngine;
  /** The simulator on the programs that the chip gets. */
  readonly reference: Engine;
  /** Runs one named check: what it throws, and what it leaves in the double, is a failure. */
  check(name: string, body: () => Promise<void> | void): Promise<void>;
  /** A fact for the parent. */
  tell(name: string, value: unknown): void;
}

export const groupNames = ["operators", "models", "state", "plans"] as const;
export type GroupName = (typeof groupNames)[number];

/** What became of a group. */
export interface GroupResult {
  readonly group: string;
  readonly checks: number;
  readonly failures: readonly string[];
  readonly facts: Readonly<Record<string, unknown>>;
  readonly seconds: number;
}
