// The one text form of programs for errors, tests and reports. Not MIL: short, and stable under renaming.

import { formatAval } from "../core/errors.ts";
import { operandNames } from "../ops/define.ts";
import type { Program } from "./program.ts";

/** One line an instruction: `%3 = matmul(x=%0, y=%1) {transposeX=false, transposeY=false} : fp16[2, 3]`. */
export function printProgram(program: Program): string {
  const lines = [`program ${program.name}`];
  for (const { name, value } of program.inputs)
    lines.push(`  %${value} = input "${name}" : ${formatAval(program.values[value]!)}`);
  for (const { value, data } of program.constants) {
    const shown = data.length <= 4 ? [...data].join(", ") : `${data.length} values`;
    lines.push(`  %${value} = constant(${shown}) : ${formatAval(program.values[value]!)}`);
  }
  for (const { op, inputs, attrs, results } of program.instructions) {
    const names = operandNames(op);
    const list = op.inputs[names[0]!]?.variadic === true;
    const operands = inputs
      .flatMap((value, i) => (value < 0 ? [] : [list ? `%${value}` : `${names[i]}=%${value}`]))
      .join(", ");
    const entries = Object.entries(attrs);
    const braces =
      entries.length === 0 ? "" : ` {${entries.map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(", ")}}`;
    const left = results.map((value) => `%${value}`).join(", ");
    lines.push(
      `  ${left} = ${op.name}(${operands})${braces} : ${results.map((value) => formatAval(program.values[value]!)).join(", ")}`,
    );
  }
  for (const { name, value } of program.outputs) lines.push(`  output "${name}" = %${value}`);
  return `${lines.join("\n")}\n`;
}
