// Chains of products and loops on the CPU engine: attention and its derivative against a float64 reference, everything around them against the
// simulator; on both instruction sets, with several threads, memory between guard pages. Each case says which steps it must have become.

import { afterAll, describe, expect, test } from "vitest";
import { roundFloat16 } from "../../src/core/float16.ts";
import { compile, constant, type Engine, type Feed, grad, input, parameter, type Tensor } from "../../src/index.ts";
import { attention, causalMask, multiHeadAttention } from "../../src/nn/index.ts";
import { difference, instructionSets, numbersOf, openCpu, type Row, rowsOf } from "./compare.ts";

type Float = "fp16" | "fp32";
type Update = ReadonlyMap<Tensor, Tensor>;
type Outputs = Readonly<Record<string, Tensor>>;
type Feeds = Readonly<Record<string, Feed>>;

const sets = await instructionSets();
const engines = new Map<string, Engine>();
for (const isa of sets)
  for (const threads of [1, 2, 3]) engines.set(`${isa} ${threads}`, await openCpu({ isa, threads }));
afterAll(() => {
  for (const engine of engines.values()) engine[Symbol.dispose]();
});

/** Numbers in [-1, 1] that look random. */
const wave = (size: number, seed = 0, scale = 1) =>
  Float32Array.from({ length: size }, (_, i) => scale * Math.sin(1.3 + 2.1 * seed + 1.7 * i + 0.37 * (i % 89) ** 2));
const leaf = (shape: readonly number[], name: string, dtype: Float = "fp32") => input(shape, { dtype, name });
const size = (shape: readonly number[]) => shape.reduce((product, extent) => product * extent, 1);
const table = (rows: number, columns: number, f: (i: number, j: number) => number, dtype: Float = "fp32") =>
  constant(
    Float32Array.from({ length: rows * columns }, (_, at) => f(Math.floor(at / columns), at % columns)),
    [rows, columns],
    { dtype },
  );
const hidden = -30000;
const causal = (i: number, j: number) => (j > i ? hidden : 0);

/** What a program became: chains around a softmax or another loop over rows, chains of other loops, products that leave a triangle out. */
interface Steps {
  readonly rows?: number;
  readonly maps?: number;
  readonly triangles?: number;
}
async function stepsOf(outputs: Outputs, update: Update): Promise<Required<Steps>> {
  using program = await compile(outputs, { update, engine: engines.get(`${sets[0]!} 1`)! });
  const steps = program.report().stages.flatMap(({ compiled }) => compiled?.steps ?? []);
  const chains = steps.filter(({ name }) => name === "chain").map(({ what }) => what);
  const rows = chains.filter((what) => what.split(", then ").at(-1)!.startsWith("matmul")).length;
  const triangles = steps.filter(({ what }) => what.endsWith("lower triangle")).length;
  return { rows, maps: chains.length - rows, triangles };
}

/** Runs on every engine; the same bits whatever the number of threads. */
async function run(
  outputs: Outputs,
  feeds: Feeds,
  { update = new Map(), threads = [1, 3], runs = 1 }: { update?: Update; threads?: number[]; runs?: number } = {},
): Promise<Row[][]> {
  const results: Row[][] = [];
  for (const isa of sets) {
    let first: Row[] | string | undefined;
    for (const count of threads) {
      const rows = await rowsOf({ outputs, feeds, update }, engines.get(`${isa} ${count}`)!, runs);
      if (typeof rows === "string") throw new Error(rows);
      if (first === undefined) results.push((first = rows));
      else expect(difference(rows, first, { signs: true }), `${isa}, ${count} threads`).toBeUndefined();
    }
  }
  return results;
}

/** Compares with the simulator. */
async function agrees(
  outputs: Outputs,
  feeds: Feeds,
  steps: Steps = {},
  { update = new Map(), tolerance = 2e-5, threads }: { update?: Update; tolerance?: number; threads?: number[] } = {},
): Promise<void> {
  expect(await stepsOf(outputs, update)).toMatchObject(steps);
  const want = await rowsOf({ outputs, feeds, update }, "sim", 2);
  const allowed = (_run: number, _name: string, _i: number, w: number) => tolerance * (1 + Math.abs(w));
  for (const [at, got] of (await run(outputs, feeds, { update, runs: 2, ...(threads && { threads }) })).entries())
    expect(difference(got, want, { allowed }), sets[at]).toBeUndefined();
}

// ---------------------------------------------------------------------------------------------------- attention

interface Problem {
  readonly batch: number;
  readonly heads: number;
  readonly keyHeads: number;
  readonly tq: number;
  readonly tk: number;
  readonly width: number;
  /** Added to a score. */
  readonly mask: ((i: number, j: number) => number) | undefined;
  /** The cotangent of the result is g times the result, else g: the derivative then runs after the result. */
  readonly squared: boolean;
  readonly dtype: Float;
  /** Error that rounding makes, relative to the largest number. */
  readonly error: number;
}

/** Result and derivatives in float64, by the definitions. */
function reference(
  { batch, heads, keyHeads, tq, tk, width, mask, squared }: Problem,
  { q, k, v, g }: Readonly<Record<"q" | "k" | "v" | "g", ArrayLike<number>>>,
): Record<"y" | "dq" | "dk" | "dv", Float64Array> {
  const queries = () => new Float64Array(batch * heads * tq * width);
  const keys = () => new Float64Array(batch * keyHeads * tk * width);
  const result = { y: queries(), dq: queries(), dk: keys(), dv: keys() };
  const scale = 1 / Math.sqrt(width);
  const p = new Float64Array(tk);
  const dp = new Float64Array(tk);
  for (let head = 0; head < batch * heads; head++) {
    const keyHead = Math.floor(head / heads) * keyHeads + Math.floor(((head % heads) * keyHeads) / heads);
    const key = keyHead * tk * width;
    for (let i = 0; i < tq; i++) {
      const query = (head * tq + i) * width;
      let top = Number.NEGATIVE_INFINITY;
      for (let j = 0; j < tk; j++) {
        let score = 0;
        for (let d = 0; d < width; d++) score += q[query + d]! * k[key + j * width + d]!;
        p[j] = score * scale + (mask?.(i, j) ?? 0);
        top = Math.max(top, p[j]!);
      }
      let sum = 0;
      for (let j = 0; j < tk; j++) sum += p[j] = Math.exp(p[j]! - top);
      for (let j = 0; j < tk; j++) {
        p[j]! /= sum;
        for (let d = 0; d < width; d++) result.y[query + d]! += p[j]! * v[key + j * width + d]!;
      }
      const dy = Array.from({ length: width }, (_, d) => g[query + d]! * (squared ? result.y[query + d]! : 1));
      let inner = 0;
      for (let j = 0; j < tk; j++) {
        dp[j] = 0;
        for (let d = 0; d < width; d++) {
          dp[j]! += dy[d]! * v[key + j * width + d]!;
          result.dv[key + j * width + d]! += p[j]! * dy[d]!;
        }
        inner += p[j]! * dp[j]!;
      }
      for (let j = 0; j < tk; j++) {
        const ds = p[j]! * (dp[j]! - inner) * scale;
        for (let d = 0; d < width; d++) {
          result.dq[query + d]! += ds * k[key + j * width + d]!;
          result.dk[key + j * width + d]! += ds * q[query + d]!;
        }
      }
    }
  }
  return result;
}

async function checkAttention(problem: Problem, steps: Steps, threads?: number[]): Promise<void> {
  const { batch, heads, keyHeads, tq, tk, width, mask, squared, dtype, error } = problem;
  const shapes = {
    q: [batch, heads, tq, width],
    k: [batch, keyHeads, tk, width],
    v: [batch, keyHeads, tk, width],
    g: [batch, heads, tq, width],
  } as const;
  const [q, k, v, g] = Object.entries(shapes).map(([name, shape]) => leaf(shape, name, dtype)) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const y = attention(q, k, v, mask === undefined ? {} : { mask: table(tq, tk, mask, dtype) });
  // The cotangent is what the loss's derivative makes of g.
  const loss = squared ? y.square().mul(g).mul(0.5).sum() : y.mul(g).sum();
  const [dq, dk, dv] = grad(loss, [q, k, v]) as [Tensor, Tensor, Tensor];
  const feeds = Object.fromEntries(
    Object.entries(shapes).map(([name, shape], at) => {
      const values = wave(size(shape), at, name === "q" || name === "k" ? 2 : 1);
      return [name, dtype === "fp16" ? values.map(roundFloat16) : values];
    }),
  ) as Record<"q" | "k" | "v" | "g", Float32Array>;
  const outputs = { y, dq, dk, dv };
  expect(await stepsOf(outputs, new Map())).toMatchObject(steps);
  const want = reference(problem, feeds);
  for (const [at, [row]] of (await run(outputs, feeds, threads && { threads })).entries()) {
    for (const [name, numbers] of Object.entries(want)) {
      const most = numbers.reduce((all, number) => Math.max(all, Math.abs(number)), 1);
      const got = numbersOf(row![name]!);
      let worst = 0;
      for (const [i, number] of numbers.entries()) {
        const distance = Math.abs(got[i]! - number);
        if (!(distance <= worst)) worst = distance; // NaN, too
      }
      expect(worst / most, `${sets[at]} ${name} ${JSON.stringify(problem)}`).toBeLessThanOrEqual(error);
    }
  }
}

const self = (length: number, rest: Partial<Problem> = {}): Problem => ({
  batch: 2,
  heads: 2,
  keyHeads: rest.heads ?? 2,
  tq: length,
  tk: length,
  width: 16,
  mask: undefined,
  squared: true,
  dtype: "fp32",
  error: rest.dtype === "fp16" ? 2e-3 : 5e-6, // fp16: what is stored is rounded to 11 bits
  ...rest,
});

const lengths = [2, 17, 31, 63, 64, 65, 127, 129, 200, 257];
const widths = [1, 3, 16, 48, 64];

describe("attention and its derivative", () => {
  describe.each(lengths)("over %d positions", (length) => {
    test.each(widths)("with heads of %d", async (width) => {
      // Every length and width, with the rest in turn.
      const turn = lengths.indexOf(length) + widths.indexOf(width);
      const isCausal = turn % 2 === 0;
      const squared = turn % 3 !== 0;
      const [batch, heads] = [(turn % 2) + 1, 3 - (turn % 2)];
      const dtype = widths.indexOf(width) % 2 === 0 ? "fp32" : "fp16";
      const rest = {
        batch,
        heads,
        keyHeads: heads,
        width,
        dtype,
        squared,
        mask: isCausal ? causal : undefined,
      } as const;
      const threads = width === 16 ? [1, 2, 3] : [turn % 2 === 0 ? 1 : 3];
      await checkAttention(self(length, rest), { rows: squared ? 2 : 1, triangles: isCausal ? 2 : 0 }, threads);
    });
  });

  test("of one head of one batch element", () => checkAttention(self(70, { batch: 1, heads: 1, mask: causal }), {}));
  test("of one head, one batch element after another", () =>
    checkAttention(self(70, { batch: 3, heads: 1, mask: causal }), { rows: 2, triangles: 2 }));
  test.each([1, 2])("whose keys have %d of four heads", (keyHeads) =>
    checkAttention(self(65, { heads: 4, keyHeads, mask: causal }), { rows: 2, triangles: 2 }),
  );
  test.each([
    [5, 64],
    [64, 5],
    [33, 130],
    [130, 33],
    [1, 40],
    [40, 1],
  ])("of %d queries and %d keys", async (tq, tk) => {
    for (const mask of [undefined, causal]) {
      for (const dtype of ["fp32", "fp16"] as const) {
        const rows = tq > 1 && tk > 1 ? 2 : 0;
        await checkAttention(self(tq, { tk, mask, dtype }), {
          rows,
          triangles: rows > 0 && mask !== undefined ? 2 : 0,
        });
      }
    }
  });
});

describe("masks", () => {
  const masks: Readonly<Record<string, [(i: number, j: number) => number, Steps]>> = {
    "a window, whose rows begin late, too": [(i, j) => (j > i || j < i - 20 ? hidden : 0), { triangles: 2 }],
    "rows in which nothing is seen": [(i, j) => (i % 5 === 1 || j > i ? hidden : 0), { triangles: 2 }],
    "rows that end in any order": [(i, j) => (j > (i * 37) % 130 ? hidden : 0), { triangles: 2 }],
    "rows that end earlier and earlier": [(i, j) => (j > 129 - i ? hidden : 0), { triangles: 2 }],
    "the first column alone": [(_, j) => (j > 0 ? hidden : 0), { triangles: 2 }],
    "minus infinity": [(i, j) => (j > i ? Number.NEGATIVE_INFINITY : 0), { triangles: 2 }],
    "much more than needed": [(i, j) => (j > i ? -60000 : -20000), { triangles: 2 }],
    "all positions hidden alike": [() => hidden, {}],
    "-1, which hides nothing": [(i, j) => (j > i ? -1 : 0), {}],
    "-30000 beside -29999, which hides nothing": [(i, j) => (j > i ? -30000 : -29999), {}],
    "numbers of any size": [(i, j) => 3 * Math.sin(i + 1.1 * j), {}],
    "plus 30000": [(i, j) => (j > i ? 0 : 30000), { triangles: 2 }],
  };
  test.each(Object.entries(masks))("%s", async (_name, [mask, steps]) => {
    // Scores beside 30000 have 9 bits behind the point.
    const large = Array.from({ length: 130 }, (_, i) => Math.max(...Array.from({ length: 130 }, (_, j) => mask(i, j))));
    const error = large.some((top) => Math.abs(top) > 1000) ? 2e-3 : 5e-6;
    for (const squared of [true, false])
      await checkAttention(self(130, { heads: 1, mask, squared, error }), { rows: squared ? 2 : 1, ...steps });
  });

  const [b, t, d] = [3, 70, 16];
  const feeds = { q: wave(b * t * d), k: wave(b * t * d, 1), v: wave(b * t * d, 2) };
  const leaves = () => ["q", "k", "v"].map((name) => leaf([b, t, d], name)) as [Tensor, Tensor, Tensor];
  test("of every batch element its own, as input", async () => {
    const [q, k, v] = leaves();
    const y = q
      .matmul(k, { transposeY: true })
      .add(leaf([b, t, t], "mask"))
      .softmax(-1)
      .matmul(v);
    const mask = Float32Array.from({ length: b * t * t }, (_, i) => ((i * 7919) % 11 < 4 ? hidden : 0));
    await agrees({ y }, { ...feeds, mask }, { rows: 1, triangles: 0 });
  });
  test("of every batch element its own, as constants", async () => {
    const [q, k, v] = leaves();
    const data = Float32Array.from({ length: b * t * t }, (_, at) =>
      at % t > (Math.floor(at / t) % t) / (1 + Math.floor(at / t / t)) ? hidden : 0,
    );
    const p = q
      .matmul(k, { transposeY: true })
      .add(constant(data, [b, t, t], { dtype: "fp32" }))
      .softmax(-1);
    await agrees({ y: p.matmul(v), z: p.matmul(v, { transposeX: true }) }, feeds, { rows: 1 });
  });
  test("of a column, a row, a number", async () => {
    const [q, k, v] = leaves();
    const scores = q.matmul(k, { transposeY: true });
    for (const mask of [
      table(t, 1, (i) => (i > 40 ? hidden : 0)),
      table(1, t, (_, j) => (j > 40 ? hidden : 0)),
      table(1, 1, () => hidden),
    ]) {
      const p = scores.add(mask).softmax(-1);
      await agrees({ y: p.matmul(v), z: p.matmul(v, { transposeX: true }) }, feeds, { rows: 1 }, { tolerance: 1e-2 });
    }
  });
});

// ---------------------------------------------------------------------------------------------------- who else reads

describe("a chain's values", () => {
  const [b, t, d] = [2, 130, 16];
  const names = ["q", "k", "v", "w", "x"] as const;
  const feeds = Object.fromEntries(names.map((name, at) => [name, wave(b * t * d, at)]));
  const leaves = () => names.map((name) => leaf([b, t, d], name)) as [Tensor, Tensor, Tensor, Tensor, Tensor];
  const [q, k, v, w, x] = leaves();
  const turned = { transposeY: true } as const;
  const mask = table(t, t, causal);

  test("scores, before and after the mask, and probabilities as results", async () => {
    const scores = q.matmul(k, turned);
    const masked = scores.add(mask);
    const p = masked.softmax(-1);
    await agrees({ scores, y: p.matmul(v) }, feeds, { rows: 1 });
    await agrees({ masked, y: p.matmul(v) }, feeds, { rows: 1 });
    await agrees({ p, y: p.matmul(v) }, feeds, { rows: 1 });
    await agrees({ y: p.matmul(v), p, masked, scores }, feeds, { rows: 1 });
  });
  test("scores that another loop or product reads, before or after", async () => {
    const scores = q.matmul(k, turned);
    const y = scores.add(mask).softmax(-1).matmul(v);
    await agrees({ s: scores.tanh().sum(1), y }, feeds);
    await agrees({ y, s: scores.tanh().sum(1) }, feeds);
    await agrees({ s: scores.matmul(w, { transposeX: true }), y }, feeds);
    await agrees({ y, s: scores.matmul(w, { transposeX: true }) }, feeds);
    await agrees({ y, s: y.matmul(scores, { transposeX: true }) }, feeds);
  });
  test("probabilities that are multiplied again", async () => {
    const p = q.matmul(k, turned).add(mask).softmax(-1);
    await agrees({ y: p.matmul(v), z: p.matmul(w) }, feeds, { rows: 1 });
    await agrees({ y: p.matmul(v), z: p.matmul(p.matmul(w)) }, feeds, { rows: 1 });
    await agrees({ y: p.matmul(p) }, feeds);
    await agrees({ y: p.matmul(p, turned), z: p.matmul(v) }, feeds);
    await agrees({ y: p.matmul(v.add(p.sum(-1, { keepDims: true }))) }, feeds);
    await agrees({ y: p.matmul(v.mul(p.max([-1, -2], { keepDims: true }))) }, feeds);
    await agrees({ y: p.softmax(-1).matmul(v), z: p.softmax(-2).matmul(v) }, feeds);
  });
  test("scores as the right operand of the product that follows", async () => {
    const scores = q.matmul(k, turned);
    const p = scores.softmax(-1);
    await agrees({ y: p.matmul(scores) }, feeds);
    await agrees({ y: p.matmul(scores.tanh()) }, feeds);
    await agrees({ y: p.matmul(scores.matmul(v)) }, feeds);
    await agrees({ y: p.matmul(scores, turned), z: p.matmul(v) }, feeds);
  });
  test("a right operand that a chain of its own computes", async () => {
    const u = leaf([b, d, d], "u");
    const value = x.matmul(u);
    const p = q.matmul(k, turned).softmax(-1);
    const all = { ...feeds, u: wave(b * d * d, 7) };
    // In the order in which results are wanted, groups run.
    await agrees({ value, p, z: value.tanh(), y: p.matmul(value) }, all, { rows: 1 });
    await agrees({ p, value, z: value.tanh(), y: p.matmul(value) }, all, { rows: 1 });
    await agrees({ p, z: value.tanh(), y: p.matmul(value.tanh()) }, all, { rows: 1 });
    const r = q.matmul(w, turned).softmax(-1);
    await agrees({ p, r, y: p.matmul(r.matmul(value)), z: r.matmul(p.matmul(value)) }, all);
  });
  test("a transposed product with parts of the probabilities", async () => {
    const p = q.matmul(k, turned).add(mask).softmax(-1);
    const across = { transposeX: true } as const;
    const y = p.matmul(v);
    const part = (begin: readonly number[], extent: readonly number[]) => p.sliceBySize(begin, extent);
    await agrees({ y, z: p.matmul(w, across) }, feeds, { rows: 1, triangles: 1 });
    await agrees({ y, z: p.transpose([0, 2, 1]).matmul(w) }, feeds, { rows: 1, triangles: 1 });
    const columns = part([0, 0, 67], [b, t, t - 67]);
    await agrees({ y, z: columns.matmul(w, across) }, feeds, { rows: 1, triangles: 1 });
    const element = { ...feeds, u: wave(t * d, 7) };
    const u = leaf([t, d], "u");
    await agrees({ y, z: part([1, 0, 0], [1, t, t]).reshape([t, t]).matmul(u, across) }, element, {
      rows: 1,
      triangles: 1,
    });
    // Rows that are not those of one matrix end elsewhere.
    const flat = p.reshape([b * t, t]);
    await agrees({ y, z: flat.sliceBySize([5, 0], [t, t]).matmul(u, across) }, element, { triangles: 0 });
    const short = part([0, 60, 0], [b, 60, t]);
    await agrees({ y, z: short.matmul(w.sliceBySize([0, 60, 0], [b, 60, d]), across) }, feeds, { triangles: 0 });
    const even = p.sliceByIndex([0, 0, 0], [b, t, t], { stride: [1, 2, 1] });
    await agrees({ y, z: even.matmul(w.sliceBySize([0, 0, 0], [b, t / 2, d]), across) }, feeds, { triangles: 0 });
    await agrees({ y, z: p.sum(0).matmul(u, across) }, element, { triangles: 0 });
  });
  test("probabilities of permuted heads", async () => {
    const [h, s] = [3, 66];
    const [a, c, e] = ["a", "c", "e"].map((name) => leaf([b, s, h * d], name)) as [Tensor, Tensor, Tensor];
    const heads = (tensor: Tensor) => tensor.reshape([b, s, h, d]).transpose([0, 2, 1, 3]);
    const p = heads(a)
      .matmul(heads(c), turned)
      .add(table(s, s, causal))
      .softmax(-1);
    const merged = (tensor: Tensor) => tensor.transpose([0, 2, 1, 3]).reshape([b, s, h * d]);
    const all = { a: wave(b * s * h * d), c: wave(b * s * h * d, 1), e: wave(b * s * h * d, 2) };
    const outputs = {
      y: merged(p.matmul(heads(e))),
      z: merged(p.matmul(heads(e), { transposeX: true })),
      swapped: p.transpose([1, 0, 3, 2]).matmul(heads(e).transpose([1, 0, 2, 3])),
    };
    await agrees(outputs, all, { rows: 1, triangles: 2 });
  });
  test("products with what ends, seen in other ways, too", async () => {
    // As many batch elements as rows: permuted, the rows of a matrix are those of several.
    const [s, e] = [66, 4];
    const [a, c, g] = ["a", "c", "g"].map((name) => leaf([s, s, e], name)) as [Tensor, Tensor, Tensor];
    const p = a
      .matmul(c, turned)
      .add(table(s, s, causal))
      .softmax(-1);
    const y = p.matmul(g);
    const dp = y.matmul(g, turned);
    const ds = p.mul(dp.sub(p.mul(dp).sum(-1, { keepDims: true })));
    const all = { a: wave(s * s * e), c: wave(s * s * e, 1), g: wave(s * s * e, 2) };
    await agrees({ y, z: ds.matmul(c), f: p.transpose([1, 0, 2]).mul(dp) }, all);
    await agrees({ y, z: ds.matmul(c), f: ds.add(1) }, all);
    await agrees({ y, z: ds.matmul(c), f: p.mul(dp).max(-1) }, all);
    await agrees({ y, z: ds.matmul(c), f: dp.sum(-1) }, all);
    await agrees({ y, z: ds.matmul(c), dp }, all);
  });
  test("with what ends, in rows of several heads at once", async () => {
    const [h, s] = [3, 70];
    const [a, c, g] = ["a", "c", "g"].map((name) => leaf([b, h, s, d], name)) as [Tensor, Tensor, Tensor];
    const [m, n] = ["m", "n"].map((name) => leaf([b, 1, s, d], name)) as [Tensor, Tensor];
    const p = a
      .matmul(c, turned)
      .add(table(s, s, causal))
      .softmax(-1);
    const y = p.matmul(g);
    const dp = y.matmul(m, turned);
    const z = p.mul(dp.sub(p.mul(dp).sum(-1, { keepDims: true }))).matmul(n);
    const heads = Object.fromEntries(["a", "c", "g"].map((name, at) => [name, wave(b * h * s * d, at)]));
    await agrees({ y, z }, { ...heads, m: wave(b * s * d, 3), n: wave(b * s * d, 4) }, { rows: 2 });
  });
  test("several products, whose packed copies grow from block to block", async () => {
    const [e, s] = [4, 320];
    const list = ["a", "c", "g", "m", "n", "o"];
    const [a, c, g, m, n, o] = list.map((name) => leaf([e, s, d], name)) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    const p = a
      .matmul(c, turned)
      .add(table(s, s, (i, j) => (j > (i < 250 ? 300 : 50) ? hidden : 0)))
      .softmax(-1);
    const y = p.matmul(g);
    const [f1, f2, f3] = [m, n, c].map((each) => y.matmul(each, turned)) as [Tensor, Tensor, Tensor];
    const z = p
      .mul(f1)
      .mul(f2.sub(p.mul(f3).sum(-1, { keepDims: true })))
      .matmul(o);
    const all = Object.fromEntries(list.map((name, at) => [name, wave(e * s * d, at)]));
    await agrees({ z }, all, { rows: 2 }, { tolerance: 1e-4 });
  });
});

// ---------------------------------------------------------------------------------------------------- products and maps

describe("maps of products", () => {
  const sizes = [
    [2, 2, 2],
    [17, 5, 33],
    [64, 64, 64],
    [65, 31, 130],
    [130, 64, 256],
    [40, 200, 1000],
  ] as const;
  test.each(sizes)("gelu(x W + b) (x V) of %d x %d x %d, with reductions behind", async (m, k, n) => {
    for (const dtype of n < 1000 ? (["fp32", "fp16"] as const) : (["fp32"] as const)) {
      const [x, w, v] = [leaf([m, k], "x", dtype), leaf([k, n], "w", dtype), leaf([k, n], "v", dtype)];
      const h = x
        .matmul(w)
        .add(leaf([n], "b", dtype))
        .gelu()
        .mul(x.matmul(v));
      const norm = 1 / Math.sqrt(k);
      const feeds = { x: wave(m * k), w: wave(k * n, 1, norm), v: wave(k * n, 2, norm), b: wave(n, 3) };
      const options = { tolerance: dtype === "fp16" ? 2e-2 : 2e-5 };
      const some = m * n * 4 <= 130 * 256 * 4 ? { maps: 1 } : {};
      await agrees({ h }, feeds, some, options);
      await agrees({ h, rows: h.mean(-1), columns: h.mean(0), top: h.max() }, feeds, {}, options);
      await agrees({ y: h.mul(norm).matmul(leaf([n, 3], "u", dtype)) }, { ...feeds, u: wave(n * 3, 4) }, some, {
        tolerance: 4 * options.tolerance,
      });
    }
  });
  test("in a batch, with a matrix of each element or of all", async () => {
    const [b, m, k, n] = [3, 33, 17, 70];
    const x = leaf([b, m, k], "x");
    const feeds = { x: wave(b * m * k), w: wave(b * k * n, 1), v: wave(k * n, 2), s: wave(b * m, 3) };
    const own = x.matmul(leaf([b, k, n], "w"));
    const all = x.matmul(leaf([k, n], "v"));
    const rows = leaf([b, m, 1], "s");
    await agrees({ y: own.tanh().mul(rows) }, feeds, { maps: 1 });
    await agrees({ y: all.tanh().mul(rows) }, feeds, { maps: 1 });
    await agrees({ y: own.tanh().mul(all) }, feeds);
    await agrees({ y: own.tanh(), z: own.sub(rows), own }, feeds);
    await agrees(
      {
        y: own
          .tanh()
          .transpose([0, 2, 1])
          .reshape([b, n * m]),
      },
      feeds,
    );
    await agrees(
      {
        y: own
          .tanh()
          .transpose([1, 0, 2])
          .reshape([m, b * n]),
        own,
      },
      feeds,
    );
  });
  test("one after another, each from the last one", async () => {
    const n = 65;
    const [x, w] = [leaf([n, n], "x"), leaf([n, n], "w")];
    let y = x;
    for (let i = 0; i < 5; i++) y = y.matmul(w).mul(0.2).tanh().add(y);
    await agrees({ y }, { x: wave(n * n), w: wave(n * n, 1) }, { maps: 5 }, { tolerance: 1e-4 });
    let z = x;
    for (let i = 0; i < 4; i++) z = z.matmul(w).mul(0.1).sub(z.matmul(z).mul(0.02));
    await agrees({ z, last: z.matmul(w) }, { x: wave(n * n), w: wave(n * n, 1) }, {}, { tolerance: 1e-4 });
  });
  test("of rows: a normalisation between two products", async () => {
    const [b, m, k, n] = [4, 70, 24, 40];
    const [x, w, v] = [leaf([b, m, k], "x"), leaf([b, k, n], "w"), leaf([b, n, k], "v")];
    const feeds = { x: wave(b * m * k), w: wave(b * k * n, 1), v: wave(b * n * k, 2), u: wave(n * k, 3) };
    const h = x.matmul(w);
    const loops: Readonly<Record<string, Tensor>> = {
      layerNorm: h.layerNorm({ axes: [-1], epsilon: 0.1 }),
      shifted: h.sub(h.max(-1, { keepDims: true })).mul(0.1),
      logSoftmax: h.logSoftmax(-1),
      scaled: h.mul(h.square().mean(-1, { keepDims: true }).rsqrt(0.1)),
    };
    for (const loop of Object.values(loops))
      await agrees({ y: loop.matmul(v) }, feeds, { rows: 1 }, { tolerance: 1e-4 });
    const { layerNorm } = loops as { layerNorm: Tensor };
    await agrees({ y: layerNorm.matmul(leaf([n, k], "u")) }, feeds, { rows: 0 }, { tolerance: 1e-4 });
    await agrees({ y: layerNorm.matmul(v), mean: h.mean(-1), h }, feeds, { rows: 1 }, { tolerance: 1e-4 });
  });
});

// ---------------------------------------------------------------------------------------------------- state

describe("state", () => {
  const state = (shape: readonly number[], name: string, scale = 0.3) =>
    parameter(wave(size(shape), name.length, scale), shape, { name, dtype: "fp32" });

  test("weights replaced in the step that computes their derivative", async () => {
    const [m, k, n] = [40, 65, 128];
    const [x, w, v] = [leaf([m, k], "x"), state([k, n], "w"), state([n, k], "vv")];
    const h = x.matmul(w);
    const y = h.tanh().matmul(v);
    const [dw, dv] = grad(y.square().mean(), [w, v]) as [Tensor, Tensor];
    const update = new Map([
      [w, w.sub(dw.mul(0.1))],
      [v, v.sub(dv.mul(0.1))],
    ]);
    await agrees({ y }, { x: wave(m * k) }, {}, { update });
    await agrees({}, { x: wave(m * k) }, {}, { update });
    await agrees({ y, dw }, { x: wave(m * k) }, {}, { update: new Map([...update].slice(0, 1)) });
  });
  test("that the product of its own replacement reads", async () => {
    for (const n of [64, 128, 200]) {
      const a = leaf([n, n], "a");
      const feeds = { a: wave(n * n, 1, 0.3) };
      for (const product of [(w: Tensor) => w.matmul(a), (w: Tensor) => a.matmul(w), (w: Tensor) => w.matmul(w)]) {
        const w = state([n, n], "w");
        await agrees({}, feeds, { maps: 1 }, { update: new Map([[w, w.sub(product(w).mul(0.1))]]) });
      }
    }
  });
  test("that attention reads and its result replaces", async () => {
    const [b, t, d] = [2, 130, 16];
    const names = ["q", "k", "v"] as const;
    for (const replaced of names) {
      const tensors = Object.fromEntries(
        names.map((name) => [name, name === replaced ? state([b, t, d], "p", 1) : leaf([b, t, d], name)]),
      ) as Record<"q" | "k" | "v", Tensor>;
      const { q, k, v } = tensors;
      const scores = q.matmul(k, { transposeY: true });
      const all = scores.softmax(-1).matmul(v);
      const p = scores.add(table(t, t, causal)).softmax(-1);
      const y = p.matmul(v);
      const feeds = Object.fromEntries(names.map((name, at) => [name, wave(b * t * d, at)]));
      await agrees({}, feeds, { rows: 1 }, { update: new Map([[tensors[replaced], all]]) });
      await agrees({ y, p }, feeds, { rows: 1 }, { update: new Map([[tensors[replaced], y.mul(0.5)]]) });
      const moved = tensors[replaced].mul(0.9).add(y.mul(0.1));
      await agrees({ y }, feeds, { rows: 1 }, { update: new Map([[tensors[replaced], moved]]) });
    }
  });
  test("probabilities and scores as state", async () => {
    const [b, t, d] = [2, 70, 16];
    const [q, k, v] = ["q", "k", "v"].map((name) => leaf([b, t, d], name)) as [Tensor, Tensor, Tensor];
    const feeds = { q: wave(b * t * d), k: wave(b * t * d, 1), v: wave(b * t * d, 2) };
    const s = state([b, t, t], "s");
    const scores = q.matmul(k, { transposeY: true });
    const p = scores.add(table(t, t, causal)).softmax(-1);
    const z = p.matmul(v, { transposeX: true });
    await agrees({ y: p.matmul(v), z }, feeds, { rows: 1 }, { update: new Map([[s, p]]) });
    await agrees({ y: p.matmul(v), z }, feeds, { rows: 1 }, { update: new Map([[s, scores]]) });
    const decayed = s.mul(0.5).add(p);
    await agrees({ y: p.matmul(v), z }, feeds, { rows: 1 }, { update: new Map([[s, decayed]]) });
    const biased = scores.add(s).softmax(-1);
    await agrees({ y: biased.matmul(v) }, feeds, { rows: 1 }, { update: new Map([[s, biased]]) });
    await agrees({ y: biased.matmul(s) }, feeds, {}, { update: new Map([[s, biased]]) });
  });
});

test("layers of attention: grouped key heads, a causal mask, weights that learn", async () => {
  const [b, t, c] = [2, 66, 24];
  const x = leaf([b, t, c], "x");
  const shape = { wq: [c, c], wk: [c / 2, c], wv: [c / 2, c], wo: [c, c] } as const;
  const layers = [0, 1].map((layer) =>
    Object.entries(shape).map(([name, [rows, columns]], at): [string, Tensor] => [
      name,
      parameter(wave(rows * columns, 4 * layer + at, 0.2), [rows, columns], { name: `${name}${layer}`, dtype: "fp32" }),
    ]),
  );
  let y = x;
  for (const layer of layers) {
    const weights = Object.fromEntries(layer) as Record<keyof typeof shape, Tensor>;
    y = y.add(multiHeadAttention(y, weights, { nHead: 4, nKvHead: 2, mask: causalMask(x, t) }));
  }
  const loss = y.square().mean();
  const weights = layers.flat().map(([, weight]) => weight);
  const update = new Map(grad(loss, weights).map((d, i) => [weights[i]!, weights[i]!.sub(d.mul(0.1))]));
  await agrees({ loss }, { x: wave(b * t * c) }, { rows: 4 }, { update, tolerance: 1e-4, threads: [1, 2, 3] });
});
