// Precision as a check: the proof that a plan computes in fp16 alone. (Widening to fp32 happens when a graph is lowered, see ir/program.ts.)

import { DTypeError, formatAval } from "../core/errors.ts";
import type { Plan } from "../ir/plan.ts";

/** @throws {DTypeError} naming the first operator that gives fp32. */
export function requireFloat16(plan: Plan): void {
  for (const { program } of plan.stages) {
    const port = program.inputs.find(({ value }) => program.values[value]!.dtype === "fp32");
    if (port !== undefined)
      throw new DTypeError(
        "compile",
        `precision fp16, but "${port.name}" is ${formatAval(program.values[port.value]!)}`,
      );
    for (const { op, results } of program.instructions) {
      const wide = results.map((value) => program.values[value]!).find((aval) => aval.dtype === "fp32");
      if (wide !== undefined)
        throw new DTypeError("compile", `precision fp16, but ${op.name} gives ${formatAval(wide)}`, { op: op.name });
    }
  }
}
