// Builds the double of Accelerate, and reads what it noted.

import type { System } from "../../../src/engines/os/index.ts";
import { buildLibrary, Missing } from "../../c-library.ts";

/** Path of the library. @throws {Missing} where there is no C compiler */
export function buildAccelerate(without: readonly string[] = []): string {
  return buildLibrary({ name: "anekit-accelerate", folder: "test/cpu/accelerate-double", flags: ["-O3"], without });
}

/** The library, or why there is none. */
export function tryAccelerate(): string | Missing {
  try {
    return buildAccelerate();
  } catch (error) {
    if (error instanceof Missing) return error;
    throw error;
  }
}

/** Calls since this was asked last, and what was wrong about them. */
export function reportOf(system: System, path: string): { readonly calls: number; readonly violations: string } {
  const text = new Uint8Array(4096);
  const report = system.load(path).func("accelerate_double_report", "int64", ["buffer", "int64"])!;
  const calls = Number(report(text, text.length));
  return { calls, violations: new TextDecoder().decode(text.subarray(0, text.indexOf(0))) };
}
