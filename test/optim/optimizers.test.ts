// Optimizers and clipping against torch.optim in fp32 (test/goldens/optimizers.json), schedules, and what constructors refuse.

import { describe, expect, test } from "vitest";
import { compile, input } from "../../src/index.ts";
import { adam, adamw, globalNorm, type Optimizer, peakOf, sgd, warmupCosine } from "../../src/optim/index.ts";
import { difference, golden, numbers, unpack } from "../goldens/figures.ts";
import { OptimizerHarness } from "./harness.ts";

interface Figures {
  readonly steps: number;
  readonly cases: Readonly<Record<string, { readonly w: string; readonly b: string }>>;
  readonly clip: readonly {
    readonly scale: number;
    readonly limit: number;
    readonly norm: number;
    readonly clipped: readonly string[];
  }[];
}

const { steps, cases, clip } = golden<Figures>("optimizers");

const falling = (rate: number) => (step: number) => rate * (1 - step / 40);
const groups = [
  { match: (name: string) => name === "b", weightDecay: 0.3, learningRateScale: 0.5 },
  { match: (name: string) => name === "w", weightDecay: 0, learningRateScale: 2 },
  { match: () => true, weightDecay: 100 }, // the first group that matches counts
];

const optimizers: Readonly<Record<string, Optimizer>> = {
  sgd: sgd({ learningRate: falling(0.1) }),
  "sgd decay": sgd({ learningRate: falling(0.1), weightDecay: 0.05 }),
  "sgd momentum": sgd({ learningRate: falling(0.1), momentum: 0.9 }),
  "sgd momentum decay": sgd({ learningRate: falling(0.1), momentum: 0.9, weightDecay: 0.05 }),
  "sgd nesterov": sgd({ learningRate: falling(0.1), momentum: 0.8, nesterov: true }),
  "sgd nesterov decay": sgd({ learningRate: falling(0.1), momentum: 0.8, nesterov: true, weightDecay: 0.05 }),
  adam: adam({ learningRate: falling(0.01) }),
  "adam decay": adam({ learningRate: falling(0.01), betas: [0.8, 0.99], epsilon: 1e-6, weightDecay: 0.1 }),
  adamw: adamw({ learningRate: falling(0.01) }),
  "adamw large epsilon": adamw({ learningRate: falling(0.01), epsilon: 0.1, weightDecay: 0 }),
  "adamw groups": adamw({ learningRate: falling(0.01), groups }),
  "sgd groups": sgd({ learningRate: falling(0.1), momentum: 0.9, groups }),
};

describe("optimizers agree with torch.optim after twenty steps in fp32", () => {
  test("every case of the golden file is compared", () => {
    expect(Object.keys(optimizers).sort()).toEqual(Object.keys(cases).sort());
  });

  const starts = { w: { shape: [3, 4], initial: numbers([3, 4], 1) }, b: { shape: [4], initial: numbers([4], 2) } };
  for (const [name, optimizer] of Object.entries(optimizers)) {
    for (const momentScale of [1, 1024]) {
      test(`${name}, moment scale ${momentScale}`, async () => {
        using harness = await OptimizerHarness.create(optimizer, starts, { momentScale });
        for (let t = 0; t < steps; t++) {
          const g = (values: Float32Array) => values.map((x) => x * momentScale); // a power of two: exact
          harness.step({ w: g(numbers([3, 4], 100 + t)), b: g(numbers([4], 200 + t, 0.01)) });
        }
        // fp32 rounding of some ten operations a step, twenty steps.
        expect(difference(harness.weight("w"), unpack(cases[name]!.w), 2e-6), "w").toBeUndefined();
        expect(difference(harness.weight("b"), unpack(cases[name]!.b), 2e-6), "b").toBeUndefined();
      });
    }
  }
});

describe("global norm clipping agrees with torch.nn.utils.clip_grad_norm_", () => {
  for (const { scale, limit, norm, clipped } of clip) {
    test(`gradients of ${scale}, limit ${limit}`, async () => {
      const shapes = [[3, 4], [4], [2, 2, 2]];
      const tensors = shapes.map((shape, i) => input(shape, { dtype: "fp32", name: `g${i}` }));
      const total = globalNorm(tensors, peakOf(tensors), tensors[0]!.filled(1, []));
      const factor = total.maximum(limit).inverse().mul(limit);
      const outputs = Object.fromEntries(tensors.map((tensor, i) => [`clipped${i}`, tensor.mul(factor)]));
      await using program = await compile({ total, ...outputs }, { engine: "sim" });
      const got = program.runSync(
        Object.fromEntries(shapes.map((shape, i) => [`g${i}`, numbers(shape, 61 + i, scale)])),
      ) as unknown as Record<string, { readonly data: Float32Array }>;
      expect(Math.abs(got.total!.data[0]! / norm - 1)).toBeLessThan(1e-6);
      // torch divides by norm + 1e-6.
      for (const [i, want] of clipped.entries())
        expect(difference(got[`clipped${i}`]!.data, unpack(want), 2e-6 + 1e-6 / norm), `tensor ${i}`).toBeUndefined();
    });
  }
});

describe("warmupCosine", () => {
  const rate = warmupCosine({ learningRate: 2, steps: 110, warmupSteps: 10, minLearningRate: 0.2 });

  test.each([
    [0, 0.2],
    [4, 1],
    [9, 2],
    [10, 2],
    [35, 0.2 + 0.9 * (1 + Math.SQRT1_2)],
    [60, 1.1],
    [85, 0.2 + 0.9 * (1 - Math.SQRT1_2)],
    [110, 0.2],
    [5000, 0.2],
  ])("at step %i is %f", (step, want) => {
    expect(rate(step)).toBeCloseTo(want, 12);
  });

  test("never rises after the warm-up and never leaves its bounds", () => {
    for (let step = 10; step < 130; step++) {
      expect(rate(step + 1)).toBeLessThanOrEqual(rate(step));
      expect(rate(step)).toBeGreaterThanOrEqual(0.2);
    }
  });

  test("ends at a tenth of the rate unless stated, and starts at the top without warm-up", () => {
    const plain = warmupCosine({ learningRate: 1, steps: 10 });
    expect(plain(0)).toBe(1);
    expect(plain(10)).toBeCloseTo(0.1, 12);
  });

  test("is finite when the warm-up is as long as the run, and longer", () => {
    for (const warmupSteps of [10, 20]) {
      const short = warmupCosine({ learningRate: 1, steps: 10, warmupSteps });
      for (let step = 0; step < 30; step++) expect(short(step)).toBeGreaterThan(0);
    }
  });
});

describe("optimizers refuse", () => {
  test.each([
    ["a momentum of 1", () => sgd({ learningRate: 1, momentum: 1 }), /momentum 1 is outside/],
    ["a negative momentum", () => sgd({ learningRate: 1, momentum: -0.1 }), /momentum -0.1/],
    ["a momentum that is no number", () => sgd({ learningRate: 1, momentum: Number.NaN }), /momentum NaN/],
    ["nesterov without momentum", () => sgd({ learningRate: 1, nesterov: true }), /nesterov needs/],
    ["a beta of 1", () => adam({ learningRate: 1, betas: [0.9, 1] }), /betas \[0.9, 1\]/],
    ["a negative epsilon", () => adamw({ learningRate: 1, epsilon: -1 }), /epsilon -1/],
    ["a rate that is no number", () => adamw({ learningRate: Number.NaN }), /NaN/],
    ["a negative rate", () => adam({ learningRate: -1 }), /-1/],
    ["a negative decay", () => adamw({ learningRate: 1, weightDecay: -1 }), /-1/],
    ["a schedule without a rate", () => warmupCosine({ learningRate: 0, steps: 1 }), /do not make a schedule/],
    [
      "a schedule whose end lies above its start",
      () => warmupCosine({ learningRate: 1, steps: 1, minLearningRate: 2 }),
      /do not make/,
    ],
    ["a negative warm-up", () => warmupCosine({ learningRate: 1, steps: 1, warmupSteps: -1 }), /do not make/],
    ["a schedule of NaN steps", () => warmupCosine({ learningRate: 1, steps: Number.NaN }), /do not make/],
  ] as const)("%s", (_, build, message) => {
    expect(build).toThrow(message);
  });
});
