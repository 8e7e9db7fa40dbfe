// The machine that belongs to code.

import { invariant } from "../../core/errors.ts";
import { Arm64Machine } from "./arm64-machine.ts";
import type { Code } from "./code.ts";
import { Arm64Code } from "./isa/arm64-code.ts";
import { X64Code } from "./isa/x64-code.ts";
import type { Machine } from "./machine.ts";
import { X64Machine } from "./x64-machine.ts";

/** What kernels of vector expressions are written to. */
export function machineOf(code: Code): Machine {
  if (code instanceof X64Code) return new X64Machine(code);
  invariant(code instanceof Arm64Code, () => `no machine for ${code.isa}`);
  return new Arm64Machine(code);
}
