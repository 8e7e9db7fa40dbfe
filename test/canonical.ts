// Programs up to renaming: two programs with one canonical text compute the same values under the same ports.

import type { ValueArray } from "../src/core/dtype.ts";
import { formatAval } from "../src/core/errors.ts";
import { roundFloat16 } from "../src/core/float16.ts";
import type { Program } from "../src/ir/program.ts";

const number = (value: unknown) => (Object.is(value, -0) ? "-0" : String(value));

function constantText(dtype: string, data: ValueArray): string {
  return Array.from(data, (value) => number(dtype === "fp16" ? roundFloat16(value) : value)).join(" ");
}

/** One line a port and an instruction; values are numbered in the order in which the lines mention them, constants stand where they are used first. */
export function canonicalText(program: Program): string {
  const constants = new Map(program.constants.map(({ value, data }) => [value, data]));
  const numbers = new Map<number, number>();
  const lines: string[] = [];
  const define = (value: number) => {
    numbers.set(value, numbers.size);
    return `%${numbers.get(value)} : ${formatAval(program.values[value]!)}`;
  };
  const use = (value: number): string => {
    if (value < 0) return "-";
    if (!numbers.has(value)) {
      const data = constants.get(value);
      lines.push(
        `${define(value)} = constant ${data === undefined ? "?" : constantText(program.values[value]!.dtype, data)}`,
      );
    }
    return `%${numbers.get(value)}`;
  };
  for (const { name, value } of program.inputs) lines.push(`${define(value)} = input ${name}`);
  for (const { op, inputs, attrs, results } of program.instructions) {
    const operands = inputs.map(use).join(", ");
    const entries = Object.keys(attrs)
      .sort()
      .map((key) => {
        const value = attrs[key];
        return `${key}=${Array.isArray(value) ? `[${value.map(number).join(" ")}]` : number(value)}`;
      });
    lines.push(`${results.map(define).join(", ")} = ${op.name}(${operands}) ${entries.join(" ")}`);
  }
  for (const { name, value } of program.outputs) lines.push(`output ${name} = ${use(value)}`);
  return lines.join("\n");
}
