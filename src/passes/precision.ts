// Precision as a pass: the same plan with every fp16 value as fp32, or the proof that there is no fp32 in it.

import { DTypeError, formatAval } from "../core/errors.ts";
import type { Aval } from "../core/shape.ts";
import type { Plan } from "../ir/plan.ts";
import { type Program, ProgramBuilder } from "../ir/program.ts";

export type Precision = "fp16" | "fp32";

const widen = (aval: Aval): Aval => (aval.dtype === "fp16" ? { ...aval, dtype: "fp32" } : aval);

/** Constants keep the digits that they were given: they are rounded only when an engine loads them. */
function widenProgram(program: Program): Program {
  const builder = new ProgramBuilder(program.name);
  const renamed = new Map<number, number>();
  for (const { name, value } of program.inputs) renamed.set(value, builder.input(name, widen(program.values[value]!)));
  for (const { value, data } of program.constants)
    renamed.set(value, builder.constant(widen(program.values[value]!), data));
  for (const { op, inputs, attrs, results } of program.instructions) {
    const wide = op.name === "cast" && attrs.dtype === "fp16" ? { ...attrs, dtype: "fp32" } : attrs;
    const operands = inputs.map((value) => (value < 0 ? -1 : renamed.get(value)!));
    const made = builder.instruction(op, operands, wide);
    for (const [i, value] of results.entries()) renamed.set(value, made[i]!);
  }
  for (const { name, value } of program.outputs) builder.output(name, renamed.get(value)!);
  return builder.finish();
}

/** The plan in one compute precision. @throws {DTypeError} naming the operator where "fp16" was asked for and the graph says fp32. */
export function withPrecision(plan: Plan, precision: Precision | undefined): Plan {
  if (precision === "fp32") {
    return {
      ...plan,
      stages: plan.stages.map((stage) => ({ ...stage, program: widenProgram(stage.program) })),
      buffers: new Map([...plan.buffers].map(([name, aval]) => [name, widen(aval)])),
    };
  }
  if (precision === "fp16") {
    for (const { program } of plan.stages) {
      for (const { op, results } of program.instructions) {
        const wide = results.map((value) => program.values[value]!).find((aval) => aval.dtype === "fp32");
        if (wide !== undefined)
          throw new DTypeError("compile", `precision fp16, but ${op.name} gives ${formatAval(wide)}`, { op: op.name });
      }
    }
  }
  return plan;
}
