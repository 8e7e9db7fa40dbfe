// Composites at the edges of fp16, and the form of cross-entropy's gradient.

import { describe, expect, test } from "vitest";
import { compile, constant, grad, input, type Tensor } from "../../src/index.ts";
import {
  attention,
  type ClassLossOptions,
  causalMask,
  crossEntropy,
  l2Normalize,
  maskedScore,
  rmsNorm,
} from "../../src/nn/index.ts";
import { difference, numbers } from "../goldens/figures.ts";

type Results = Readonly<Record<string, ArrayLike<number>>>;

async function run(outputs: Readonly<Record<string, Tensor>>, feeds: Readonly<Record<string, ArrayLike<number>>> = {}) {
  await using program = await compile(outputs, { engine: "sim" });
  const results = program.runSync(feeds as Readonly<Record<string, Float32Array>>);
  return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data])) as Results;
}

/** Loss and gradient of rows of logits. */
function lossOf(rows: readonly (readonly number[])[], targets: readonly number[], options: ClassLossOptions = {}) {
  const x = constant(rows as number[][], undefined, { dtype: "fp16" });
  const loss = crossEntropy(x, constant([...targets], [targets.length], { dtype: "int32" }), options);
  return run({ loss, g: grad(loss, [x], { cotangent: loss.filled(1, loss.shape) })[0]! });
}

const finite = (values: ArrayLike<number>) => Array.from(values).every(Number.isFinite);

describe("crossEntropy in fp16", () => {
  test("confident rows have loss 0 and gradient 0, exactly", async () => {
    const { loss, g } = await lossOf([[30000, -30000, 0, 29000]], [0]);
    expect(Array.from(loss!)).toEqual([0]);
    expect(Array.from(g!, Math.abs)).toEqual([0, 0, 0, 0]);
  });

  test("hopeless rows have the whole distance as loss and gradient +1 and -1, exactly", async () => {
    const { loss, g } = await lossOf([[30000, -30000, 0, 0]], [1]);
    expect(Array.from(loss!)).toEqual([60000]);
    expect(Array.from(g!, (x) => x + 0)).toEqual([1, -1, 0, 0]);
  });

  test("small losses keep their digits", async () => {
    const { loss } = await lossOf([[0, 9]], [1]);
    expect(Math.abs(loss![0]! / Math.log1p(Math.exp(-9)) - 1)).toBeLessThan(2 ** -9);
  });

  test("large logits that lie together lose nothing to their size", async () => {
    const { loss } = await lossOf([[30000, 30000]], [1]);
    expect(Math.abs(loss![0]! - Math.LN2)).toBeLessThan(2 ** -11);
  });

  test("means over many weighted rows stay finite", async () => {
    const rows = 16384; // the plain sum of these losses is 491520
    const x = input([rows, 2], { name: "x" });
    const targets = constant(new Int32Array(rows), [rows], { dtype: "int32" });
    const loss = crossEntropy(x, targets, { ignoreIndex: -1 });
    const { l } = await run({ l: loss }, { x: Float32Array.from({ length: 2 * rows }, (_, i) => 30 * (i % 2)) });
    expect(Math.abs(l![0]! - 30)).toBeLessThan(0.05);
  });

  test("a mean where every row is ignored is not a number, as in torch", async () => {
    const { loss } = await lossOf([[1, 2]], [-1], { ignoreIndex: -1 });
    expect(loss![0]).toBeNaN();
  });
});

describe("the gradient of crossEntropy at the logits", () => {
  for (const dtype of ["fp16", "fp32"] as const) {
    for (const [title, options] of [
      ["mean", {}],
      ["sum", { reduction: "sum" }],
      ["none", { reduction: "none" }],
      ["ignoreIndex", { ignoreIndex: 2 }],
      ["weight", { weight: constant([1, 2, 0.5, 1, 3], [5], { dtype }) }],
    ] as const) {
      test(`is analytic in ${dtype} with ${title}: no logarithm, rows sum to 0`, async () => {
        const x = input([6, 5], { name: "x", dtype });
        const targets = constant([0, 4, 2, 2, 1, 4], [6], { dtype: "int32" });
        const loss = crossEntropy(x, targets, options);
        const g = grad(loss, [x], { cotangent: loss.filled(1, loss.shape) })[0]!;
        await using program = await compile({ g }, { engine: "sim" });
        const names = program.plan.stages[0]!.program.instructions.map(({ op }) => op.name);
        expect(names.filter((name) => name.includes("log") && !name.startsWith("logical"))).toEqual([]);
        expect(names).toContain("softmax");
        const data = program.runSync({ x: numbers([6, 5], 50, 3) }).g.data as Float32Array;
        const unit = dtype === "fp16" ? 2 ** -11 : 2 ** -23; // each element of magnitude at most 3 is rounded once or twice
        for (let row = 0; row < 6; row++) {
          const sum = data.slice(5 * row, 5 * row + 5).reduce((a, b) => a + b, 0);
          expect(Math.abs(sum)).toBeLessThan(12 * unit);
        }
      });
    }
  }
});

describe("rmsNorm in fp16", () => {
  /** Values, and the gradient of a weighted sum, in float64. */
  function reference(x: readonly number[], cotangent: readonly number[], epsilon: number) {
    const n = x.length;
    const r = 1 / Math.sqrt(x.reduce((s, v) => s + v * v, 0) / n + epsilon);
    const dot = x.reduce((s, v, i) => s + v * cotangent[i]!, 0);
    return { y: x.map((v) => v * r), g: x.map((v, i) => r * cotangent[i]! - (r ** 3 * v * dot) / n) };
  }

  for (const size of [1e-3, 1, 200, 255, 257, 300, 1000, 20000, 60000]) {
    test(`values and gradient at magnitude ${size}`, async () => {
      const values = Array.from(
        { length: 8 },
        (_, i) => Math.round(size * (i % 2 ? -1 : 1) * (1 - i / 40) * 64) / 64 || size,
      );
      const x = input([1, 8], { name: "x" });
      const cotangent = [64, 32, -16, 8, 64, -32, 16, 8]; // a loss scale keeps the gradient above the subnormals
      const y = rmsNorm(x);
      const g = grad(y, [x], { cotangent: constant(cotangent, [1, 8]) })[0]!;
      const got = await run({ y, g, seen: x.mul(1) }, { x: Float32Array.from(values) });
      const want = reference(Array.from(got.seen!), cotangent, 1e-5);
      expect(difference(got.y!, want.y, 2 ** -8), "value").toBeUndefined();
      expect(difference(got.g!, want.g, 2 ** -7, 2 ** -12), "gradient").toBeUndefined();
    });
  }

  test("zeros give zeros, and a finite gradient", async () => {
    const x = input([2, 8], { name: "x" });
    const y = rmsNorm(x);
    const got = await run({ y, g: grad(y.sum(), [x])[0]! }, { x: new Float32Array(16) });
    expect(Array.from(got.y!)).toEqual(new Array(16).fill(0));
    expect(finite(got.g!)).toBe(true);
    expect(got.g![0]).toBeGreaterThan(300); // 1 / sqrt(1e-5) = 316
    expect(got.g![0]).toBeLessThan(330);
  });
});

describe("layer_norm's gradient in fp16", () => {
  for (const size of [1, 200, 300, 5000]) {
    test(`at deviations of ${size}`, async () => {
      const x = input([1, 4], { name: "x" });
      const cotangent = [64, 32, -16, 8];
      const y = x.layerNorm();
      const g = grad(y, [x], { cotangent: constant(cotangent, [1, 4]) })[0]!;
      const values = [size, -size, size / 2, -size];
      const got = await run({ g }, { x: Float32Array.from(values) });
      const mean = values.reduce((a, b) => a + b) / 4;
      const r = 1 / Math.sqrt(values.reduce((s, v) => s + (v - mean) ** 2, 0) / 4 + 1e-5);
      const hat = values.map((v) => (v - mean) * r);
      const gMean = cotangent.reduce((a, b) => a + b) / 4;
      const slope = hat.reduce((s, h, i) => s + h * cotangent[i]!, 0) / 4;
      const want = hat.map((h, i) => r * (cotangent[i]! - gMean - h * slope));
      expect(difference(got.g!, want, 2 ** -7, 2 ** -12)).toBeUndefined();
    });
  }
});

describe("l2Normalize in fp16", () => {
  for (const size of [0.01, 1, 300, 1000, 20000]) {
    test(`has its gradient at elements of ${size}`, async () => {
      const x = input([1, 4], { name: "x" });
      const cotangent = [64, 32, -16, 8];
      const g = grad(l2Normalize(x), [x], { cotangent: constant(cotangent, [1, 4]) })[0]!;
      const values = [size, -size, size / 2, -size];
      const got = await run({ g }, { x: Float32Array.from(values) });
      const r = 1 / Math.sqrt(values.reduce((s, v) => s + v * v, 0) + 1e-6);
      const dot = values.reduce((s, v, i) => s + v * cotangent[i]!, 0);
      const want = values.map((v, i) => r * cotangent[i]! - r ** 3 * v * dot);
      expect(difference(got.g!, want, 2 ** -7, 2 ** -12)).toBeUndefined();
    });
  }
});

describe("attention in fp16", () => {
  test("rows that see nothing are finite means of v; the others do not notice masked keys at all", async () => {
    const t = 6;
    const q = input([1, 2, t, 4], { name: "q" });
    const k = input([1, 1, t, 4], { name: "k" });
    const v = input([1, 1, t, 4], { name: "v" });
    // Positions 0 and 1 are padding: nobody may see them, so queries 0 and 1 see nothing.
    const pad = constant(
      Float32Array.from({ length: t * t }, (_, i) => (i % t < 2 || i % t > Math.floor(i / t) ? maskedScore : 0)),
      [t, t],
    );
    const feeds = { q: numbers([2 * t * 4], 1, 20), k: numbers([t * 4], 2, 20), v: numbers([t * 4], 3) };
    const y = attention(q, k, v, { mask: pad });
    const grads = grad(y, [q, k, v], { cotangent: y.filled(1, y.shape) });
    const first = await run({ y, dq: grads[0]!, dk: grads[1]!, dv: grads[2]! }, feeds);
    for (const values of Object.values(first)) expect(finite(values)).toBe(true);
    const other = {
      ...feeds,
      v: feeds.v.map((x, i) => (i < 8 ? -5 * x : x)),
      k: feeds.k.map((x, i) => (i < 8 ? -x : x)),
    };
    const second = await run({ y }, other);
    for (let head = 0; head < 2; head++) {
      const from = head * t * 4 + 8;
      expect(Array.from(second.y!).slice(from, (head + 1) * t * 4)).toEqual(
        Array.from(first.y!).slice(from, (head + 1) * t * 4),
      );
    }
    expect(Math.max(...Array.from(first.y!, Math.abs))).toBeLessThanOrEqual(1);
  });

  test("the causal mask leaves fp16 with scores of any sign", async () => {
    const q = input([1, 1, 3, 4], { name: "q" });
    const y = attention(q, q, q, { mask: causalMask(q, 3), scale: -1 });
    const { out } = await run({ out: y }, { q: new Float32Array(12).fill(90) }); // scores -32400, with the mask -62400
    expect(Array.from(out!)).toEqual(new Array(12).fill(90));
  });
});
