// Programs in a form that two equal ones share: values numbered in order of use, constants spelled out where they are used.

import { formatAval } from "../../src/core/errors.ts";
import { float16Bits } from "../../src/core/float16.ts";
import type { Program } from "../../src/ir/program.ts";

/** Text that is equal exactly for programs that compute the same with the same instructions in the same order. */
export function canonical(program: Program): string {
  const names = new Map<number, string>();
  const lines: string[] = [];
  for (const { name, value } of program.inputs) {
    names.set(value, name);
    lines.push(`${name}: ${formatAval(program.values[value]!)}`);
  }
  for (const { value, data } of program.constants) {
    const aval = program.values[value]!;
    const bits =
      aval.dtype === "fp16"
        ? Array.from(data, float16Bits)
        : Array.from(aval.dtype === "fp32" ? Float32Array.from(data) : data);
    names.set(value, `${formatAval(aval)}(${bits.map((bit) => (Object.is(bit, -0) ? "-0" : bit)).join()})`);
  }
  let next = 0;
  for (const { op, inputs, attrs, results } of program.instructions) {
    const operands = inputs.map((value) => (value < 0 ? "-" : names.get(value)));
    for (const value of results) names.set(value, `v${next++}`);
    const left = results.map((value) => `${names.get(value)}: ${formatAval(program.values[value]!)}`).join(", ");
    const sorted = Object.entries(attrs).sort(([a], [b]) => (a < b ? -1 : 1));
    lines.push(`${left} = ${op.name}(${operands.join(", ")}) ${JSON.stringify(sorted)}`);
  }
  for (const { name, value } of program.outputs) lines.push(`${name} = ${names.get(value)}`);
  return lines.join("\n");
}
