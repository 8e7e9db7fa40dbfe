// Convolutions large enough for Winograd's form, and those beside it, against the simulator's sums in double precision: both instruction sets, values and both derivatives.

import { describe, expect, test } from "vitest";
import { compile, conv, type Engine, grad, input, type Tensor } from "../../src/index.ts";
import { makeRandom } from "../plans/eager-engine.ts";
import { instructionSets, openCpu } from "./compare.ts";

const sets = await instructionSets();

interface Shape {
  readonly x: readonly [number, number, number, number];
  readonly filters: readonly [number, number, number];
  readonly options?: Parameters<typeof conv>[2];
}

/** Name, whether Winograd's form is used, and the shapes. */
const cases: readonly (readonly [string, boolean, Shape])[] = [
  ["whole tiles", true, { x: [1, 16, 24, 24], filters: [16, 3, 3], options: { pad: 1 } }],
  ["tiles that reach beyond", true, { x: [1, 32, 25, 23], filters: [48, 3, 3], options: { pad: 1 } }],
  ["no padding, several samples", true, { x: [3, 16, 16, 17], filters: [32, 3, 3] }],
  ["uneven padding", true, { x: [2, 16, 19, 17], filters: [16, 3, 3], options: { pad: [0, 2, 1, 3] } }],
  ["few positions", false, { x: [1, 32, 14, 14], filters: [16, 3, 3], options: { pad: 1 } }],
  ["channels that fill no vectors", false, { x: [1, 17, 16, 16], filters: [16, 3, 3], options: { pad: 1 } }],
  ["stride 2", false, { x: [1, 16, 23, 23], filters: [16, 3, 3], options: { pad: 1, strides: 2 } }],
  ["dilation 2", false, { x: [1, 16, 19, 16], filters: [32, 3, 3], options: { pad: 2, dilations: 2 } }],
  ["1 x 1", false, { x: [2, 33, 12, 7], filters: [17, 1, 1] }],
  ["7 x 7, stride 2", false, { x: [1, 3, 29, 31], filters: [16, 7, 7], options: { pad: 3, strides: 2 } }],
];

/** Largest difference over the largest value, as docs/numerics.md states it. */
const bounds = { fp32: 1e-5, fp16: 1e-3 } as const;

function graphs({ x: shape, filters, options = {} }: Shape, dtype: "fp32" | "fp16") {
  const x = input(shape, { name: "x", dtype });
  const w = input([filters[0], shape[1], filters[1], filters[2]], { name: "w", dtype });
  const b = input([filters[0]], { name: "b", dtype });
  const y: Tensor = conv(x, w, { ...options, bias: b });
  const g = input(y.shape, { name: "g", dtype });
  const [dx, dw] = grad(y, [x, w], { cotangent: g }) as [Tensor, Tensor];
  return { leaves: [x, w, b, g], outputs: { y, activated: y.relu(), dx, dw } };
}

async function run(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Record<string, Float32Array>,
  engine: Engine | "sim",
) {
  await using program = await compile(outputs, { engine });
  const used = Object.fromEntries([...program.plan.feeds.keys()].map((name) => [name, feeds[name]!]));
  const results = await program.run(used);
  const steps = program.report().stages[0]!.compiled?.steps ?? [];
  return { results, separable: steps.filter(({ name }) => name === "separable").length };
}

describe.each(cases)("%s", (_name, winograd, shape) => {
  test.each(["fp32", "fp16"] as const)("gives the sums and both derivatives in %s", async (dtype) => {
    const { leaves, outputs } = graphs(shape, dtype);
    const random = makeRandom(3);
    const feeds = Object.fromEntries(
      leaves.map(({ node, size }) => [
        node.kind === "input" ? node.name : "",
        Float32Array.from({ length: size }, () => random() - 0.5),
      ]),
    );
    for (const [name, output] of Object.entries(outputs)) {
      const { results: wanted } = await run({ [name]: output }, feeds, "sim");
      const expected = wanted[name]!.data as Float32Array;
      const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      for (const isa of sets) {
        for (const threads of [1, 3]) {
          using engine = await openCpu({ isa, threads });
          const { results, separable } = await run({ [name]: output }, feeds, engine);
          const got = results[name]!.data as Float32Array;
          const worst = got.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0);
          expect(worst / largest, `${name} on ${isa}, ${threads} threads`).toBeLessThan(bounds[dtype]);
          if (name === "y") expect(separable > 0, "Winograd's form").toBe(winograd);
        }
      }
    }
  });
});
