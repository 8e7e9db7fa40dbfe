// Where code for a set of instructions is written to.

import type { Code } from "../code.ts";
import { Arm64Code } from "./arm64-code.ts";
import type { Isa } from "./features.ts";
import { X64Code } from "./x64-code.ts";

/** What every processor of this machine's architecture that code runs on has; undefined where none is generated for the architecture. */
export const baseIsa: Isa | undefined = process.arch === "x64" ? "avx2" : process.arch === "arm64" ? "neon" : undefined;

/** Empty code; of the processor's `flags` (see `CpuFeatures`) it may use instructions that not all processors with the set have: arm64's atomic ones. */
export function newCode(isa: Isa, flags?: ReadonlySet<string>): Code {
  if (isa === "neon") return new Arm64Code(flags?.has("atomics") ?? false);
  return new X64Code(isa);
}
