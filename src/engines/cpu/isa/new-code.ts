// Where code for a set of instructions is written to.

import { UnsupportedError } from "../../../core/errors.ts";
import type { Code } from "../code.ts";
import type { Isa } from "./features.ts";
import { X64Code } from "./x64-code.ts";

/** What every processor of this machine's architecture that code runs on has; undefined where none is generated for the architecture. */
export const baseIsa: Isa | undefined = process.arch === "x64" ? "avx2" : undefined;

/** Empty code. @throws {UnsupportedError} where there is no generator for the set of instructions. */
export function newCode(isa: Isa): Code {
  if (isa === "neon")
    throw new UnsupportedError("cpu engine", "it generates no code for arm64", { remedy: 'use engine "sim"' });
  return new X64Code(isa);
}
