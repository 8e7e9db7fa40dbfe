// Programs for tests of passes, run on the simulator with the same feeds, and the training steps and decoders that must fit every chip.

import { newValues } from "../../src/core/dtype.ts";
import { unpackFloat16 } from "../../src/core/float16.ts";
import { sizeOf } from "../../src/core/shape.ts";
import { encodeFeed } from "../../src/engines/array.ts";
import { createSim } from "../../src/engines/sim/index.ts";
import type { Tensor } from "../../src/index.ts";
import { buildPlan, type Plan } from "../../src/ir/plan.ts";
import type { Program } from "../../src/ir/program.ts";
import type { Dialect } from "../../src/passes/legalize.ts";
import { nativesOf } from "../../src/passes/legalize.ts";
import { makeRandom } from "../plans/eager-engine.ts";

/** A dialect with every disputed form native, or none. */
export const dialectOf = (native: boolean, natives: Partial<Dialect["natives"]> = {}): Dialect => ({
  syntax: "modern",
  natives: { ...nativesOf(native), ...natives },
});

export function programOf(outputs: Readonly<Record<string, Tensor>>): Program {
  return planOf(outputs).stages[0]!.program;
}

export function planOf(
  outputs: Readonly<Record<string, Tensor>>,
  updates: ReadonlyMap<Tensor, Tensor> = new Map(),
): Plan {
  return buildPlan({ outputs: new Map(Object.entries(outputs)), updates });
}

/** Operators of a program, in order. */
export const operators = (program: Program): string[] => program.instructions.map(({ op }) => op.name);

/** Numbers for every input, the same for a name and a size whatever the shape is. */
export function feedsOf(program: Program, seed = 1, scale = 2): Map<string, number[]> {
  return new Map(
    program.inputs.map(({ name, value }, i) => {
      const random = makeRandom(seed * 1000 + i);
      const { dtype, shape } = program.values[value]!;
      const data = Array.from({ length: sizeOf(shape) }, () => {
        const x = (random() * 2 - 1) * scale;
        return dtype === "bool" ? Number(x > 0) : dtype === "int32" ? Math.round(x) : x;
      });
      return [name, data];
    }),
  );
}

/** Outputs by name, fp16 widened. */
export async function run(
  program: Program,
  feeds: ReadonlyMap<string, readonly number[]>,
): Promise<Map<string, number[]>> {
  const engine = createSim("testing");
  const executable = await engine.load(program);
  const buffers = new Map(
    [...program.inputs, ...program.outputs].map(({ name, value }) => [name, engine.allocate(program.values[value]!)]),
  );
  for (const { name, value } of program.inputs)
    buffers.get(name)!.bytes.set(encodeFeed(name, program.values[value]!, feeds.get(name)!));
  executable.bind(buffers).runSync();
  return new Map(
    program.outputs.map(({ name, value }) => {
      const { dtype, shape } = program.values[value]!;
      const { bytes } = buffers.get(name)!;
      const data = newValues(dtype, sizeOf(shape));
      if (dtype === "fp16") unpackFloat16(new Uint16Array(bytes.buffer), data as Float32Array);
      else new Uint8Array(data.buffer).set(bytes);
      return [name, Array.from(data)];
    }),
  );
}
