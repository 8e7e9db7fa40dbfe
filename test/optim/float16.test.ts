// Optimizers in fp16 at moment scale 1024: gradients from nothing to the largest, moments that stay finite, parameters left alone.

import { describe, expect, test } from "vitest";
import { compile, input } from "../../src/index.ts";
import { adam, adamw, globalNorm, type Optimizer, peakOf, sgd } from "../../src/optim/index.ts";
import { OptimizerHarness } from "./harness.ts";

const momentScale = 1024;
const gradients = [0, 6e-8, 1e-3, 300, 60000, -60000, -6e-8];
const start = { shape: [1, gradients.length], initial: new Float32Array(gradients.length).fill(0.5) };
const rate = 2 ** -8;

const variants: readonly (readonly [string, Optimizer])[] = [
  ["adam", adam({ learningRate: rate })],
  ["adamw", adamw({ learningRate: rate, weightDecay: 0 })],
  ["adam without epsilon", adam({ learningRate: rate, epsilon: 0 })],
  ["adam with betas 0", adam({ learningRate: rate, betas: [0, 0] })],
];

describe.each(variants)("%s in fp16", (_, optimizer) => {
  test("keeps moments and parameters finite, v never negative, over 300 steps of constant gradients", async () => {
    using harness = await OptimizerHarness.create(optimizer, { p: start }, { dtype: "fp16", momentScale });
    for (let t = 0; t < 300; t++) {
      harness.step({ p: gradients });
      for (const [i, v] of harness.slot("p", "v").entries()) {
        expect(v, `v of gradient ${gradients[i]} at step ${t}`).toBeGreaterThanOrEqual(0);
        expect(v).toBeLessThan(65504);
      }
      for (const m of harness.slot("p", "m")) expect(Number.isFinite(m)).toBe(true);
      for (const p of harness.weight("p")) expect(Number.isFinite(p)).toBe(true);
    }
  });

  test("leaves a parameter without gradient where it is, bit for bit", async () => {
    using harness = await OptimizerHarness.create(optimizer, { p: start }, { dtype: "fp16", momentScale });
    for (let t = 0; t < 50; t++) harness.step({ p: gradients });
    expect(harness.weight("p")[0]).toBe(0.5);
    expect(harness.slot("p", "m")[0]).toBe(0);
    expect(harness.slot("p", "v")[0]).toBe(0);
  });

  test("goes against the gradient, about a rate a step where gradients are within the clipping norm", async () => {
    using harness = await OptimizerHarness.create(optimizer, { p: start }, { dtype: "fp16", momentScale });
    for (let t = 0; t < 8; t++) harness.step({ p: [0, 6e-8, 1e-3, 300, 1024, -1024, -6e-8] });
    const moved = Array.from(harness.weight("p"), (p) => (0.5 - p) / (8 * rate));
    for (const i of [3, 4]) expect(moved[i]).toBeGreaterThan(0.9);
    expect(moved[5]).toBeLessThan(-0.9);
    for (const each of moved) expect(Math.abs(each)).toBeLessThan(1.3);
    for (const i of [1, 2]) expect(moved[i]).toBeGreaterThanOrEqual(0);
    expect(moved[6]).toBeLessThanOrEqual(0);
  });
});

describe("adam in fp16", () => {
  test("an epsilon of 1e-8 does not round to 0", async () => {
    // v is 0 and m is not: what a parameter has whose gradient is too small for its square.
    using harness = await OptimizerHarness.create(
      adam({ learningRate: rate }),
      { p: start },
      { dtype: "fp16", momentScale },
    );
    harness.writeSlot("p", "m", new Float32Array(7).fill(6e-8));
    harness.count = 0;
    harness.step({ p: new Float32Array(7) });
    for (const p of harness.weight("p")) {
      expect(Number.isFinite(p)).toBe(true);
      expect(Math.abs(0.5 - p)).toBeLessThan(2 * rate);
    }
  });

  test.each([0.95, 0.99, 0.999])(
    "constant gradients of any size within the clipping norm move by some rates a step at most, beta2 %f",
    async (beta2) => {
      // Real gradients from 2^-34 to 1. In exact arithmetic |m| <= sqrt(v) here, so a step is at most the rate.
      const sizes = Array.from({ length: 35 }, (_, i) => 2 ** (i - 24));
      const from = { p: { shape: [1, sizes.length], initial: new Float32Array(sizes.length) } };
      const optimizer = adamw({ learningRate: rate, betas: [0.9, beta2], weightDecay: 0 });
      using harness = await OptimizerHarness.create(optimizer, from, { dtype: "fp16", momentScale });
      let before = harness.weight("p");
      for (let t = 0; t < 200; t++) {
        harness.step({ p: sizes });
        const after = harness.weight("p");
        for (const [i, p] of after.entries()) {
          const moved = (before[i]! - p) / rate;
          expect(moved, `gradient ${sizes[i]} of scale 1024 at step ${t}`).toBeLessThan(4);
          // What is of an ordinary size is not slowed down either: 2^-10 and up in real units.
          if (sizes[i]! >= 1) expect(moved, `gradient ${sizes[i]} of scale 1024 at step ${t}`).toBeGreaterThan(0.4);
        }
        before = after;
        if (t % 20 === 19) harness.writeWeight("p", (before = new Float32Array(sizes.length))); // near 0, where fp16 is fine
      }
    },
  );

  test("gradients beyond the square limit move parameters by some rates, not by tens", async () => {
    // Without clipping, 60000 is a gradient of 58.6.
    using harness = await OptimizerHarness.create(
      adamw({ learningRate: rate, weightDecay: 0 }),
      { p: start },
      { dtype: "fp16", momentScale },
    );
    harness.step({ p: gradients });
    const moved = Array.from(harness.weight("p"), (p) => Math.abs(0.5 - p) / rate);
    expect(Math.max(...moved)).toBeLessThan(10);
  });

  test("agrees with the fp32 optimizer to a hundredth of the way for gradients of ordinary size", async () => {
    const g = (t: number) => Float32Array.from({ length: 8 }, (_, i) => Math.sin(i * 3 + t) * 2 ** (i - 8)); // 2^-8 .. 2^-1
    const from = { p: { shape: [1, 8], initial: new Float32Array(8).fill(0.125) } };
    using narrow = await OptimizerHarness.create(adamw({ learningRate: rate }), from, { dtype: "fp16", momentScale });
    using wide = await OptimizerHarness.create(adamw({ learningRate: rate }), from);
    for (let t = 0; t < 30; t++) {
      narrow.step({ p: g(t).map((x) => x * momentScale) });
      wide.step({ p: g(t) });
    }
    const [a, b] = [narrow.weight("p"), wide.weight("p")];
    // Thirty roundings of a parameter near 0.125: 2^-14 each at most.
    for (let i = 0; i < 8; i++) expect(Math.abs(a[i]! - b[i]!)).toBeLessThan(30 * 2 ** -14);
  });
});

describe("sgd in fp16", () => {
  test("moves by rate times gradient", async () => {
    using harness = await OptimizerHarness.create(
      sgd({ learningRate: rate }),
      { p: start },
      { dtype: "fp16", momentScale },
    );
    harness.step({ p: gradients });
    for (const [i, p] of harness.weight("p").entries())
      expect(Math.abs(0.5 - (gradients[i]! / momentScale) * rate - p)).toBeLessThan(2 ** -11);
  });

  test.each([false, true])("momentum within the clipping norm stays finite (nesterov %s)", async (nesterov) => {
    using harness = await OptimizerHarness.create(
      sgd({ learningRate: rate, momentum: 0.95, nesterov }),
      { p: start },
      { dtype: "fp16", momentScale },
    );
    for (let t = 0; t < 100; t++) harness.step({ p: new Float32Array(7).fill(t % 50 < 25 ? 1024 : -1024) });
    for (const m of harness.slot("p", "momentum")) expect(Number.isFinite(m)).toBe(true);
    for (const p of harness.weight("p")) expect(Number.isFinite(p)).toBe(true);
  });
});

describe("globalNorm in fp16", () => {
  /** Norm of one tensor of `count` elements of which `spikes` are `value`. */
  async function normOf(count: number, spikes: number, value: number, scale: number): Promise<number> {
    const g = input([count], { name: "g" });
    const s = input([], { name: "s" });
    await using program = await compile({ norm: globalNorm([g], peakOf([g]), s) }, { engine: "sim" });
    return program.runSync({ g: new Float32Array(count).fill(value, 0, spikes), s: scale }).norm.item();
  }

  test.each([
    [150_000, 150_000, 1, 1],
    [1000, 1000, 1000, 1],
    [1_000_000, 1, 8, 1], // one row of a large embedding
    [1_000_000, 100, 2 ** -10, 1],
    [100, 100, 6e-8, 1024],
    [100, 100, 60000, 1 / 32],
    [64, 64, 0, 1],
  ])("%i elements, %i of them %f, scaled by %f", async (count, spikes, value, scale) => {
    const want = Math.sqrt(spikes) * value * scale;
    const got = await normOf(count, spikes, value, scale);
    expect(Math.abs(got - want)).toBeLessThanOrEqual(0.01 * want);
  });
});
