// The machine that belongs to code.

import { invariant } from "../../core/errors.ts";
import type { Code } from "./code.ts";
import { X64Code } from "./isa/x64-code.ts";
import type { Machine } from "./machine.ts";
import { X64Machine } from "./x64-machine.ts";

/** What kernels of vector expressions are written to. */
export function machineOf(code: Code): Machine {
  invariant(code instanceof X64Code, () => `no machine for ${code.isa}`);
  return new X64Machine(code, code.isa);
}
