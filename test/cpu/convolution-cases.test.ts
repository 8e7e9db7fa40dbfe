// Convolutions of every shape against sums in float64: results, both derivatives and the bias's, both instruction sets, numbers of threads, what follows.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { roundFloat16 } from "../../src/core/float16.ts";
import { compile, concat, constant, type Engine, grad, input, parameter, type Tensor } from "../../src/index.ts";
import { makeRandom } from "../plans/eager-engine.ts";
import { instructionSets, openCpu } from "./compare.ts";
import {
  channelSums,
  contract,
  filterShape,
  type Geometry,
  geometry,
  outExtents,
  randomGeometry,
  resultShape,
  type Sums,
  trimmed,
} from "./convolution-reference.ts";

type Float = "fp16" | "fp32";
const dtypes = ["fp32", "fp16"] as const;
const sets = await instructionSets();
const engines: { readonly isa: string; readonly one: Engine; readonly three: Engine }[] = [];
beforeAll(async () => {
  for (const isa of sets)
    engines.push({ isa, one: await openCpu({ isa, threads: 1 }), three: await openCpu({ isa, threads: 3 }) });
});
afterAll(() => {
  for (const each of engines) for (const engine of [each.one, each.three]) engine[Symbol.dispose]();
});

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
function largestOf(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]!));
  return most;
}

/** Numbers that the dtype holds exactly. */
function numbers(size: number, seed: number, dtype: Float, scale = 1, offset = 0): Float32Array {
  const random = makeRandom(seed);
  return Float32Array.from({ length: size }, () => {
    const value = offset + scale * (2 * random() - 1);
    return dtype === "fp16" ? roundFloat16(value) : value;
  });
}

/** Largest difference over the largest sum of the terms' sizes, as docs/numerics.md states it for Winograd's form. */
const separableBound = 4e-6;

/** Positions from which on Winograd's form is taken with weights that are not constants, as docs/numerics.md has it. */
const leastPositions = 512;

/**
 * Where Winograd's form may be taken: from x to y, or `spread` back, which the stride splits into convolutions by the taps of one remainder each. `positions`
 * are those of the result.
 */
function separable(g: Geometry, positions: readonly [number, number], spread: boolean): boolean {
  const taps = [0, 1].map((axis) => {
    const [kernel, stride, dilation] = [g.filters[1 + axis]!, g.strides[axis]!, g.dilations[axis]!];
    if (!spread) return stride === 1 && dilation === 1 ? [kernel] : [];
    if (stride % dilation !== 0) return []; // taps of a remainder are more than one apart
    const every = stride / dilation;
    return Array.from({ length: Math.min(every, kernel) }, (_, tap) => Math.ceil((kernel - tap) / every));
  });
  const most = positions.map((extent, axis) => (spread ? Math.ceil(extent / g.strides[axis]!) : extent));
  const channels = g.groups === 1 && g.x[1] % 16 === 0 && g.filters[0] % 16 === 0;
  return channels && taps.every((counts) => counts.includes(3)) && g.x[0] * sizeOf(most) >= leastPositions;
}

/**
 * The element that is furthest off, as text. Sums in any order of `terms` products are off by some roundings of what was added; Winograd's form by
 * more, of the largest; fp16 rounds the sum, and what it was before the bias.
 */
function wrong(
  got: ArrayLike<number>,
  { sum, size, before = sum }: Sums & { readonly before?: Float64Array },
  { dtype, terms, separable }: { readonly dtype: Float; readonly terms: number; readonly separable: boolean },
): string | undefined {
  if (got.length !== sum.length) return `${got.length} elements, expected ${sum.length}`;
  const largest = largestOf(size);
  const steps = 2 ** -24 * (4 + 2 * Math.sqrt(terms));
  let [at, most] = [-1, 1];
  for (let i = 0; i < got.length; i++) {
    const stored = dtype === "fp16" ? 2 ** -11 * (Math.abs(sum[i]!) + Math.abs(before[i]!)) + 2 ** -24 : 0;
    const allowed = (separable ? separableBound * largest : steps * size[i]!) + stored + 1e-38;
    const over = Math.abs(got[i]! - sum[i]!) / allowed;
    if (!(over <= most)) [at, most] = [i, over];
  }
  return at < 0 ? undefined : `element ${at} is ${got[at]}, expected ${sum[at]}: ${most} of what is allowed`;
}

/** Runs with both instruction sets; results of one thread and of three are the same bits. `briefly`: by one of them in turn. */
async function runEverywhere(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Readonly<Record<string, Float32Array>>,
  check: (
    results: Readonly<Record<string, ArrayLike<number>>>,
    where: string,
    /** Whether Winograd's form was taken. */
    transformed: boolean,
  ) => void,
  briefly = false,
): Promise<void> {
  for (const [i, { isa, one, three }] of engines.entries()) {
    const rows: Record<string, ArrayLike<number>>[] = [];
    let transformed = false;
    for (const engine of briefly ? [i === 0 ? three : one] : [one, three]) {
      using program = await compile(outputs, { engine });
      const known = Object.fromEntries([...program.plan.feeds.keys()].map((name) => [name, feeds[name]!]));
      const results = await program.run(known);
      rows.push(Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array])));
      transformed = program
        .report()
        .stages.some(({ compiled }) => compiled!.steps.some(({ name }) => name === "separable"));
    }
    check(rows[0]!, isa, transformed);
    for (const name of briefly ? [] : Object.keys(outputs))
      expect(rows[1]![name], `${name} by three threads, ${isa}`).toEqual(rows[0]![name]);
  }
}

/** Runs everywhere; results differ from the simulator's by less than what is allowed of them. */
async function agrees(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Readonly<Record<string, Float32Array>>,
  allowed: (want: Float32Array) => number,
): Promise<void> {
  using reference = await compile(outputs, { engine: "sim" });
  const expected = await reference.run(feeds);
  await runEverywhere(outputs, feeds, (results, where) => {
    for (const [name, { data }] of Object.entries(expected)) {
      const want = data as Float32Array;
      const worst = largestOf(want.map((value, i) => value - results[name]![i]!));
      expect(worst, `${name} on ${where}`).toBeLessThan(allowed(want));
    }
  });
}

interface Form {
  readonly transposed?: boolean;
  /** One spatial axis: of rank 3. */
  readonly line?: boolean;
  /** A geometry of which it is certain whether Winograd's form is taken. */
  readonly isNamed?: boolean;
}

const squeezed = (shape: readonly number[], line: boolean) => (line ? shape.filter((_, axis) => axis !== 2) : shape);

/** A convolution (or its transpose) with bias, and its derivatives, as tensors, feeds and sums. */
function build(g: Geometry, dtype: Float, { transposed = false, line = false }: Form) {
  const [from, to] = transposed ? [resultShape(g), g.x] : [g.x, resultShape(g)];
  const values = {
    x: numbers(sizeOf(from), 1, dtype),
    w: numbers(sizeOf(filterShape(g)), 2, dtype),
    b: numbers(to[1], 3, dtype),
    g: numbers(sizeOf(to), 4, dtype),
  };
  const leaf = (name: string, shape: readonly number[]) => input(squeezed(shape, line), { name, dtype });
  const [x, w] = [leaf("x", from), leaf("w", filterShape(g))];
  const [bias, cotangent] = [input([to[1]], { name: "b", dtype }), leaf("g", to)];
  const options = {
    strides: line ? [g.strides[1]] : g.strides,
    dilations: line ? [g.dilations[1]] : g.dilations,
    pad: line ? g.pad.slice(2) : g.pad,
    groups: g.groups,
    bias,
  };
  const y = transposed ? x.convTranspose(w, options) : x.conv(w, options);
  expect(y.shape).toEqual(squeezed(to, line));
  const [dx, dw, db] = grad(y, [x, w, bias], { cotangent }) as [Tensor, Tensor, Tensor];
  const positions = to[2] * to[3];
  const plain = transposed ? contract(g, { y: values.x, w: values.w }) : contract(g, { x: values.x, w: values.w });
  const added = (_: number, i: number) => values.b[Math.floor(i / positions) % to[1]]!;
  const sums = {
    y: {
      sum: plain.sum.map((value, i) => value + added(value, i)),
      size: plain.size.map((value, i) => value + Math.abs(added(value, i))),
      before: plain.sum,
    },
    dx: transposed ? contract(g, { x: values.g, w: values.w }) : contract(g, { y: values.g, w: values.w }),
    dw: transposed ? contract(g, { x: values.g, y: values.x }) : contract(g, { x: values.x, y: values.g }),
    db: channelSums(values.g, to[1], positions),
  };
  const inner = {
    in: (g.x[1] / g.groups) * g.filters[1] * g.filters[2],
    out: g.filters[0] * g.filters[1] * g.filters[2],
  };
  const outs = outExtents(g);
  const [taken, spread] = [separable(g, outs, false), separable(g, [g.x[2], g.x[3]], true)];
  // The derivative by filters is a convolution, too, whose windows are as large as the result.
  const [n, c] = g.x;
  const likeWindows =
    [...g.strides, ...g.dilations, g.groups].every((value) => value === 1) && outs.every((out) => out === 3);
  const multiples = n % 16 === 0 && g.filters[0] % 16 === 0;
  const byFilters = taken || (likeWindows && multiples && c * g.filters[1] * g.filters[2] >= leastPositions);
  const kinds = {
    y: { terms: 1 + (transposed ? inner.out : inner.in), separable: transposed ? spread : taken },
    dx: { terms: transposed ? inner.in : inner.out, separable: transposed ? taken : spread },
    dw: { terms: g.x[0] * sizeOf(outs), separable: byFilters },
    db: { terms: g.x[0] * positions, separable: false },
  };
  return { outputs: { y, dx, dw, db }, feeds: values, sums, kinds };
}

async function checkAll(g: Geometry, dtype: Float, form: Form = {}): Promise<void> {
  const { outputs, feeds, sums, kinds } = build(form.transposed ? trimmed(g) : g, dtype, form);
  const check = (results: Readonly<Record<string, ArrayLike<number>>>, where: string, transformed: boolean) => {
    if (form.isNamed) expect(transformed).toBe(Object.values(kinds).some((kind) => kind.separable));
    for (const name of ["y", "dx", "dw", "db"] as const)
      expect(wrong(results[name]!, sums[name], { dtype, ...kinds[name] }), `${name} on ${where}`).toBeUndefined();
  };
  await runEverywhere(outputs, feeds, check, dtype === "fp16");
}

const cases: Readonly<Record<string, Geometry>> = {
  "1 x 1": geometry([2, 5, 7, 9], [6, 1, 1]),
  "1 x 1 of whole vectors, many positions": geometry([1, 48, 17, 13], [33, 1, 1]),
  "1 x 1, stride 2": geometry([2, 19, 9, 7], [8, 1, 1], { strides: [2, 2] }),
  "1 x 1, one position": geometry([3, 65, 1, 1], [31, 1, 1]),
  "1 x 1, padded": geometry([1, 3, 4, 5], [4, 1, 1], { pad: [1, 2, 0, 3] }),
  "3 x 3, one channel": geometry([1, 1, 6, 5], [1, 3, 3]),
  "3 x 3, odd channels": geometry([3, 7, 9, 11], [5, 3, 3], { pad: [1, 1, 1, 1] }),
  "3 x 3, strides that differ": geometry([2, 4, 11, 13], [6, 3, 3], { strides: [2, 3], pad: [1, 1, 1, 1] }),
  "3 x 3, stride 3 beyond the last windows": geometry([1, 3, 11, 10], [4, 3, 3], { strides: [3, 3] }),
  "3 x 3, dilations that differ": geometry([2, 3, 11, 12], [4, 3, 3], { dilations: [2, 3], pad: [2, 2, 3, 3] }),
  "3 x 3, strides and dilations": geometry([1, 4, 14, 13], [5, 3, 3], { strides: [3, 2], dilations: [2, 3] }),
  "3 x 3, padding on one side": geometry([1, 5, 6, 7], [3, 3, 3], { pad: [2, 0, 0, 1] }),
  "all windows in the padding of an axis": geometry([2, 3, 1, 6], [4, 2, 3], { strides: [3, 2], pad: [2, 0, 1, 1] }),
  "3 x 3, padding wider than the windows": geometry([1, 2, 4, 3], [3, 3, 3], { pad: [4, 5, 3, 6] }),
  "Winograd's, whole tiles": geometry([2, 16, 16, 16], [16, 3, 3], { pad: [1, 1, 1, 1] }),
  "Winograd's, tiles cut off": geometry([3, 32, 15, 13], [48, 3, 3], { pad: [1, 1, 1, 1] }),
  "Winograd's, just enough positions": geometry([4, 16, 8, 16], [16, 3, 3], { pad: [1, 1, 1, 1] }),
  "Winograd's, one position too few": geometry([1, 16, 7, 73], [16, 3, 3], { pad: [1, 1, 1, 1] }),
  "Winograd's, one row": geometry([4, 16, 1, 131], [32, 3, 3], { pad: [1, 1, 1, 1] }),
  "Winograd's, several samples of few positions": geometry([18, 16, 6, 5], [16, 3, 3], { pad: [1, 1, 1, 1] }),
  "Winograd's, no padding": geometry([6, 16, 12, 11], [32, 3, 3]),
  "Winograd's, wide and uneven padding": geometry([6, 16, 9, 10], [16, 3, 3], { pad: [5, 0, 3, 2] }),
  "Winograd's, by filters": geometry([16, 64, 5, 5], [32, 3, 3]),
  "Winograd's, sums over tiles that are cut off": geometry([2, 16, 17, 18], [32, 3, 3], { pad: [1, 1, 1, 1] }),
  "Winograd's, sums over tiles, uneven padding": geometry([3, 32, 14, 13], [16, 3, 3], { pad: [2, 0, 0, 3] }),
  "Winograd's, sums over many tiles": geometry([16, 16, 33, 32], [16, 3, 3], { pad: [1, 1, 1, 1] }),
  "filters larger than windows": geometry([2, 16, 5, 3], [64, 3, 3], { pad: [1, 1, 1, 1] }),
  "filters larger than windows, groups": geometry([1, 32, 4, 5], [96, 3, 2], { groups: 2, pad: [1, 0, 1, 1] }),
  "filters larger than windows, stride 2": geometry([1, 33, 7, 7], [70, 3, 3], { strides: [2, 2], pad: [1, 1, 1, 1] }),
  "Winograd's shape in groups": geometry([4, 32, 13, 12], [32, 3, 3], { groups: 2, pad: [1, 1, 1, 1] }),
  "Winograd's shape, stride 2": geometry([3, 16, 25, 27], [16, 3, 3], { strides: [2, 2], pad: [1, 1, 1, 1] }),
  "Winograd's shape, strides 1 and 2": geometry([3, 16, 13, 27], [16, 3, 3], { strides: [1, 2], pad: [1, 1, 1, 1] }),
  "Winograd's shape, dilation 2": geometry([3, 16, 13, 14], [16, 3, 3], { dilations: [2, 2], pad: [2, 2, 2, 2] }),
  "3 x 1": geometry([3, 16, 13, 14], [16, 3, 1], { pad: [1, 1, 0, 0] }),
  "5 x 5": geometry([2, 6, 12, 11], [9, 5, 5], { pad: [2, 2, 2, 2] }),
  "5 x 5, stride 2, no padding": geometry([1, 17, 13, 14], [16, 5, 5], { strides: [2, 2] }),
  "7 x 7, stride 2": geometry([1, 3, 23, 25], [16, 7, 7], { strides: [2, 2], pad: [3, 3, 3, 3] }),
  "2 x 4, an even kernel": geometry([2, 3, 7, 8], [5, 2, 4], { pad: [0, 1, 1, 2] }),
  "kernel as large as the image": geometry([4, 8, 5, 6], [17, 5, 6]),
  "16 x 16 patches": geometry([1, 3, 32, 48], [24, 16, 16], { strides: [16, 16] }),
  depthwise: geometry([2, 19, 9, 8], [19, 3, 3], { groups: 19, pad: [1, 1, 1, 1] }),
  "depthwise, stride 2": geometry([1, 32, 15, 14], [32, 3, 3], { groups: 32, strides: [2, 2], pad: [1, 1, 1, 1] }),
  "depthwise, 5 x 5, dilated": geometry([1, 16, 13, 13], [16, 5, 5], {
    groups: 16,
    dilations: [2, 1],
    pad: [4, 4, 2, 2],
  }),
  "depthwise, three filters a channel": geometry([2, 5, 8, 7], [15, 3, 3], { groups: 5, pad: [1, 1, 1, 1] }),
  "groups of two": geometry([2, 6, 7, 8], [9, 3, 3], { groups: 3, pad: [1, 1, 1, 1] }),
  "groups, 1 x 1": geometry([2, 32, 5, 6], [48, 1, 1], { groups: 4 }),
  "groups, stride 3, dilation 2": geometry([3, 8, 14, 11], [4, 3, 3], {
    groups: 4,
    strides: [3, 3],
    dilations: [2, 2],
    pad: [1, 2, 0, 1],
  }),
  "one channel in, many out": geometry([1, 1, 28, 28], [32, 5, 5]),
  "many channels in, one out": geometry([1, 64, 12, 12], [1, 3, 3], { pad: [1, 1, 1, 1] }),
  "256 channels": geometry([4, 256, 12, 12], [16, 3, 3], { pad: [1, 1, 1, 1] }),
};

describe.each(Object.entries(cases))("%s", (_name, g) => {
  test.each(dtypes)("is the sum in %s, as are its derivatives", (dtype) => checkAll(g, dtype, { isNamed: true }));
});

/** By the convolution that is transposed: a stride s and padding p begin and p - q behind are what others call output padding q. */
const transposedCases: Readonly<Record<string, Geometry>> = {
  "2 x 2, stride 2": geometry([2, 6, 10, 8], [5, 2, 2], { strides: [2, 2] }),
  "3 x 3, stride 2, output padding": geometry([1, 8, 10, 12], [16, 3, 3], { strides: [2, 2], pad: [1, 0, 1, 0] }),
  "4 x 4, stride 2": geometry([1, 16, 12, 14], [17, 4, 4], { strides: [2, 2], pad: [1, 1, 1, 1] }),
  "stride 3, kernel 2: gaps": geometry([1, 3, 11, 14], [4, 2, 2], { strides: [3, 3] }),
  "3 x 3, Winograd's": geometry([4, 32, 12, 13], [16, 3, 3], { pad: [1, 1, 1, 1] }),
  "3 x 3, dilated": geometry([2, 4, 12, 11], [6, 3, 3], { dilations: [2, 1], pad: [2, 2, 1, 1] }),
  "strides that differ, uneven padding": geometry([1, 5, 13, 10], [3, 3, 4], { strides: [3, 1], pad: [2, 0, 0, 3] }),
  groups: geometry([2, 9, 8, 7], [6, 3, 3], { groups: 3, strides: [2, 2], pad: [1, 0, 1, 1] }),
  depthwise: geometry([1, 16, 9, 9], [16, 3, 3], { groups: 16, strides: [2, 2], pad: [1, 1, 1, 1] }),
};

describe.each(Object.entries(transposedCases))("transposed: %s", (_name, g) => {
  test.each(dtypes)("is the sum in %s, as are its derivatives", (dtype) =>
    checkAll(g, dtype, { transposed: true, isNamed: true }),
  );
});

const lines: Readonly<Record<string, Geometry>> = {
  "kernel 1": geometry([2, 5, 1, 9], [6, 1, 1]),
  "kernel 3, padded": geometry([2, 16, 1, 130], [16, 1, 3], { pad: [0, 0, 1, 1] }),
  "stride 3, dilation 2, uneven padding": geometry([1, 6, 1, 31], [5, 1, 4], {
    strides: [1, 3],
    dilations: [1, 2],
    pad: [0, 0, 2, 0],
  }),
  "depthwise, causal": geometry([2, 17, 1, 20], [17, 1, 4], { groups: 17, pad: [0, 0, 3, 0] }),
  "two groups": geometry([1, 32, 1, 33], [16, 1, 5], { groups: 2, strides: [1, 2], pad: [0, 0, 2, 2] }),
};

describe.each(Object.entries(lines))("one axis: %s", (_name, g) => {
  test.each([false, true])("is the sum, as are its derivatives; transposed: %s", async (transposed) => {
    for (const dtype of dtypes) await checkAll(g, dtype, { transposed, line: true });
  });
});

const first = Number(process.env.FUZZ_SEED ?? 1);
test.each(Array.from({ length: Number(process.env.FUZZ_RUNS ?? 24) }, (_, i) => first + i))(
  "any geometry, number %i",
  async (seed) => {
    const g = randomGeometry(seed);
    const transposed = seed % 3 === 0 && trimmed(g).x.every((extent) => extent > 0);
    await checkAll(g, dtypes[seed % 2]!, { transposed });
  },
);

describe("Winograd's form", () => {
  const g = geometry([1, 64, 24, 22], [32, 3, 3], { pad: [1, 1, 1, 1] });
  const w = numbers(sizeOf(filterShape(g)), 2, "fp32");
  const kind = { dtype: "fp32", separable: true, terms: 576 } as const;
  const y = (dtype: Float = "fp32") =>
    input(g.x, { name: "x", dtype }).conv(input(filterShape(g), { name: "w", dtype }), { pad: 1 });
  const run = (...[outputs, feeds, check]: Parameters<typeof runEverywhere>) =>
    runEverywhere(outputs, feeds, (results, where, transformed) => {
      expect(transformed).toBe(true);
      check(results, where, transformed);
    });

  test("loses no more than its bound of what is added where sums cancel", async () => {
    // Filters without a mean over an image far from zero.
    const filters = w.slice();
    for (let at = 0; at < filters.length; at += 9) {
      const mean = filters.subarray(at, at + 9).reduce((a, b) => a + b, 0) / 9;
      for (let tap = at; tap < at + 9; tap++) filters[tap]! -= mean;
    }
    const x = numbers(sizeOf(g.x), 1, "fp32", 1, 1000);
    const sums = contract(g, { x, w: filters });
    await run({ y: y() }, { x, w: filters }, (results) => expect(wrong(results.y!, sums, kind)).toBeUndefined());
  });

  test("is as exact at any scale that leaves room for its transforms", async () => {
    const x = numbers(sizeOf(g.x), 1, "fp32");
    const rows: ArrayLike<number>[] = [];
    for (const scale of [1, 2 ** 100, 2 ** -100]) {
      await run({ y: y() }, { x: x.map((value) => value * scale), w }, (results, where) => {
        if (where === sets[0]) rows.push(Float32Array.from(results.y!, (value) => value / scale));
      });
    }
    expect(rows[1]).toEqual(rows[0]);
    expect(rows[2]).toEqual(rows[0]);
  });

  test("keeps what is not finite within the tiles that hold it", async () => {
    const x = numbers(sizeOf(g.x), 1, "fp32");
    const at = { channel: 7, row: 9, column: 10 };
    x[(at.channel * 24 + at.row) * 22 + at.column] = Number.POSITIVE_INFINITY;
    const finite = x.map((value) => (Number.isFinite(value) ? value : 0));
    const sums = contract(g, { x: finite, w });
    const bound = separableBound * largestOf(sums.size);
    await run({ y: y() }, { x, w }, ({ y: got }) => {
      for (let i = 0; i < got!.length; i++) {
        const [row, column] = [Math.floor(i / 22) % 24, i % 22];
        const far = Math.max(Math.abs(row - at.row), Math.abs(column - at.column));
        if (far <= 1) expect(Number.isFinite(got![i]!)).toBe(false);
        else if (far >= 6) expect(Math.abs(got![i]! - sums.sum[i]!)).toBeLessThan(bound);
      }
    });
  });

  test("holds its bound up to elements of 1e36; what its transforms make overflow stays within the tiles", async () => {
    const at = { channel: 7, row: 9, column: 10 };
    for (const element of [1e36, -1e36, 3e37]) {
      const x = numbers(sizeOf(g.x), 1, "fp32");
      x[(at.channel * 24 + at.row) * 22 + at.column] = element;
      const sums = contract(g, { x, w });
      expect(largestOf(sums.sum)).toBeLessThan(4e37); // what plain sums hold
      const finite = x.map((value) => (Math.abs(value) < 2 ? value : 0));
      const bound = separableBound * largestOf(contract(g, { x: finite, w }).size);
      await run({ y: y() }, { x, w }, ({ y: got }) => {
        if (element < 1e37) expect(wrong(got!, sums, kind)).toBeUndefined();
        else expect(Array.from(got!).every(Number.isFinite)).toBe(false);
        for (let i = 0; i < got!.length; i++) {
          const [row, column] = [Math.floor(i / 22) % 24, i % 22];
          const far = Math.max(Math.abs(row - at.row), Math.abs(column - at.column));
          if (far >= 6) expect(Math.abs(got![i]! - sums.sum[i]!)).toBeLessThan(bound);
        }
      });
    }
  });

  test("gives in fp16 what fp32 gives, up to the largest number", async () => {
    const x = numbers(sizeOf(g.x), 1, "fp16", 60_000);
    const filters = numbers(w.length, 2, "fp16", 0.02);
    const sums = contract(g, { x, w: filters });
    expect(largestOf(sums.sum)).toBeLessThan(60_000);
    await run({ y: y("fp16") }, { x, w: filters }, (results) =>
      expect(wrong(results.y!, sums, { ...kind, dtype: "fp16" })).toBeUndefined(),
    );
  });
});

/** What follows convolutions in networks: as tensors and in float64 over [N, C, H, W], every one 1-Lipschitz in the largest difference. */
type Array4 = { readonly data: Float64Array; readonly shape: readonly [number, number, number, number] };
interface Follower {
  readonly tensor: (y: Tensor, more: { readonly r: Tensor; readonly b: Tensor }) => Tensor;
  readonly values: (y: Array4, more: { readonly r: Float32Array; readonly b: Float32Array }) => Float64Array;
}

const each = ({ data, shape: [, c, h, w] }: Array4, f: (value: number, at: number, channel: number) => number) =>
  data.map((value, at) => f(value, at, Math.floor(at / (h * w)) % c));

/** One number of every window of `size`, a stride apart; what lies in the padding is left out. */
function pooled({ data, shape }: Array4, [size, stride, pad]: readonly number[], join: (values: number[]) => number) {
  const [n, c, h, w] = shape;
  const out = (extent: number) => Math.floor((extent + 2 * pad! - size!) / stride!) + 1;
  const result: number[] = [];
  for (let plane = 0; plane < n * c; plane++)
    for (let i = 0; i < out(h); i++)
      for (let j = 0; j < out(w); j++) {
        const values: number[] = [];
        for (let a = i * stride! - pad!; a < i * stride! - pad! + size!; a++)
          for (let b = j * stride! - pad!; b < j * stride! - pad! + size!; b++)
            if (a >= 0 && a < h && b >= 0 && b < w) values.push(data[(plane * h + a) * w + b]!);
        result.push(join(values));
      }
  return Float64Array.from(result);
}
const relu = (value: number) => Math.max(0, value);
const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

const followers: Readonly<Record<string, Follower>> = {
  nothing: { tensor: (y) => y, values: ({ data }) => data },
  "bias and relu": {
    tensor: (y, { b }) => y.add(b).relu(),
    values: (y, { b }) => each(y, (value, _at, channel) => relu(value + b[channel]!)),
  },
  "a scale for each channel and relu6": {
    tensor: (y, { b }) => y.mul(b.tanh()).clip(0, 6),
    values: (y, { b }) => each(y, (value, _at, channel) => Math.min(6, relu(value * Math.tanh(b[channel]!)))),
  },
  "a residual and relu": {
    tensor: (y, { b, r }) => y.add(b).add(r).relu(),
    values: (y, { b, r }) => each(y, (value, at, channel) => relu(value + b[channel]! + r[at]!)),
  },
  "largest of windows": {
    tensor: (y, { b }) => y.add(b).relu().maxPool(3, { strides: 2, pad: 1 }),
    values: (y, { b }) =>
      pooled({ ...y, data: each(y, (value, _at, channel) => relu(value + b[channel]!)) }, [3, 2, 1], (values) =>
        Math.max(...values),
      ),
  },
  "mean of windows": {
    tensor: (y) => y.avgPool(2),
    values: (y) => pooled(y, [2, 2, 0], mean),
  },
  "mean of all positions": {
    tensor: (y) => y.relu().mean([2, 3]),
    values: ({ data, shape: [n, c, h, w] }) =>
      Float64Array.from({ length: n * c }, (_, i) => mean([...data.subarray(i * h * w, (i + 1) * h * w)].map(relu))),
  },
  "channels put into positions": {
    tensor: (y) => y.relu().transpose([0, 2, 3, 1]),
    values: ({ data, shape: [, c, h, w] }) =>
      Float64Array.from({ length: data.length }, (_, i) => {
        const [sample, position] = [Math.floor(i / (c * h * w)), Math.floor(i / c) % (h * w)];
        return relu(data[(sample * c + (i % c)) * h * w + position]!);
      }),
  },
  "a part of it, twice": {
    tensor: (y) =>
      concat([y.relu(), y.neg()], 1).sliceBySize([0, 1, 1, 0], [...y.shape.slice(0, 1), y.shape[1]!, 2, y.shape[3]!]),
    values: ({ data, shape: [n, c, h, w] }) =>
      Float64Array.from({ length: n * c * 2 * w }, (_, i) => {
        const [sample, channel] = [Math.floor(i / (c * 2 * w)), 1 + (Math.floor(i / (2 * w)) % c)];
        const at = (1 + (Math.floor(i / w) % 2)) * w + (i % w);
        return channel < c ? relu(data[(sample * c + channel) * h * w + at]!) : -data[sample * c * h * w + at]!;
      }),
  },
};

const followed: Readonly<Record<string, Geometry>> = {
  "Winograd's form": geometry([4, 16, 11, 13], [32, 3, 3], { pad: [1, 1, 1, 1] }),
  "few positions": geometry([2, 16, 5, 6], [32, 3, 3], { pad: [1, 1, 1, 1] }),
  "1 x 1": geometry([2, 24, 6, 7], [16, 1, 1]),
  "7 x 7, stride 2": geometry([1, 3, 15, 17], [16, 7, 7], { strides: [2, 2], pad: [3, 3, 3, 3] }),
  depthwise: geometry([2, 17, 7, 6], [17, 3, 3], { groups: 17, pad: [1, 1, 1, 1] }),
  groups: geometry([1, 8, 7, 6], [12, 3, 3], { groups: 4, pad: [1, 1, 1, 1] }),
};

describe.each(Object.entries(followed))("after %s", (followedName, g) => {
  const shape = resultShape(g);
  const channels = [1, shape[1], 1, 1];
  test.each(dtypes)("everything that follows gives what it gives apart, in %s", async (dtype) => {
    const feeds = {
      x: numbers(sizeOf(g.x), 1, dtype),
      w: numbers(sizeOf(filterShape(g)), 2, dtype),
      b: numbers(shape[1], 3, dtype),
      r: numbers(sizeOf(shape), 4, dtype),
    };
    const leaf = (name: string, extents: readonly number[]) => input(extents, { name, dtype });
    const { sum, size } = contract(g, { x: feeds.x, w: feeds.w });
    const plain = { data: sum, shape };
    // fp16: the sum is rounded, and what becomes of it with what is added.
    const bound = separableBound * (1 + largestOf(size)) + (dtype === "fp16" ? 2 ** -10 * (2 + largestOf(sum)) : 0);
    for (const [name, follower] of Object.entries(followers)) {
      const { strides, dilations, pad, groups } = g;
      const y = leaf("x", g.x).conv(leaf("w", filterShape(g)), { strides, dilations, pad, groups });
      const output = follower.tensor(y, { b: leaf("b", channels), r: leaf("r", shape) });
      const expected = follower.values(plain, feeds);
      const check = ({ output: got }: Record<string, ArrayLike<number>>, where: string, transformed: boolean) => {
        expect(transformed).toBe(followedName === "Winograd's form");
        expect(got!.length).toBe(expected.length);
        const worst = largestOf(expected.map((value, i) => value - got![i]!));
        expect(worst, `${name} on ${where}`).toBeLessThan(bound);
      };
      await runEverywhere({ output }, feeds, check, true);
    }
  });
});

/** Images, windows and strides of pools; then the padding on both sides. */
const pools: Readonly<Record<string, readonly [Geometry["x"], [number, number], [number, number], number]>> = {
  "side by side": [[2, 5, 8, 12], [2, 2], [2, 2], 0],
  "side by side, more behind them": [[2, 17, 7, 11], [3, 3], [3, 3], 0],
  "side by side, oblong": [[1, 16, 6, 9], [2, 3], [2, 3], 0],
  overlapping: [[2, 16, 9, 8], [3, 3], [2, 2], 1],
  "with gaps": [[1, 3, 9, 10], [2, 2], [3, 4], 0],
  "one apart": [[1, 4, 6, 5], [2, 3], [1, 1], 1],
};

test.each(Object.entries(pools))("derivatives of pools: %s", async (_name, [shape, kernel, strides, pad]) => {
  const g = geometry(shape, [shape[1], ...kernel], { groups: shape[1], strides, pad: [pad, pad, pad, pad] });
  const [h, w] = [shape[2], shape[3]];
  // Whole numbers: windows with several largest elements, of which the first counts.
  const feeds = {
    x: numbers(sizeOf(shape), 1, "fp32", 3).map(Math.round),
    g: numbers(sizeOf(resultShape(g)), 2, "fp32"),
  };
  const [outHeight, outWidth] = outExtents(g);
  const expected = { largest: new Float64Array(sizeOf(shape)), mean: new Float64Array(sizeOf(shape)) };
  for (const [at, value] of feeds.g.entries()) {
    const [plane, i, j] = [
      Math.floor(at / (outHeight * outWidth)),
      Math.floor(at / outWidth) % outHeight,
      at % outWidth,
    ];
    const taps: number[] = [];
    for (let a = i * strides[0] - pad; a < i * strides[0] - pad + kernel[0]; a++)
      for (let b = j * strides[1] - pad; b < j * strides[1] - pad + kernel[1]; b++)
        if (a >= 0 && a < h && b >= 0 && b < w) taps.push((plane * h + a) * w + b);
    const first = taps.reduce((best, tap) => (feeds.x[tap]! > feeds.x[best]! ? tap : best));
    expected.largest[first]! += value;
    for (const tap of taps) expected.mean[tap]! += value / sizeOf(kernel);
  }
  const x = input(shape, { name: "x", dtype: "fp32" });
  const cotangent = input(resultShape(g), { name: "g", dtype: "fp32" });
  const [largest] = grad(x.maxPool(kernel, { strides, pad }), [x], { cotangent });
  const [mean] = grad(x.avgPool(kernel, { strides, pad }), [x], { cotangent });
  await runEverywhere({ largest: largest!, mean: mean! }, feeds, (results, where) => {
    for (const name of ["largest", "mean"] as const) {
      const worst = largestOf(expected[name].map((value, i) => value - results[name]![i]!));
      expect(worst, `${name} on ${where}`).toBeLessThan(1e-6);
    }
  });
});

test("one result may be put into several arrays, and into several places of one", async () => {
  const g = geometry([2, 3, 5, 6], [4, 1, 1]);
  const feeds = { x: numbers(sizeOf(g.x), 1, "fp32"), w: numbers(sizeOf(filterShape(g)), 2, "fp32") };
  const [x, w] = [input(g.x, { name: "x", dtype: "fp32" }), input(filterShape(g), { name: "w", dtype: "fp32" })];
  const y = x.conv(w).mul(2);
  const padded = (fill: number) => y.pad([1, 1, 1, 1], { constantVal: fill }).sliceBySize([0, 0, 1, 1], [2, 4, 5, 6]);
  const joined = concat([y, y, y.pad([0, 0, 0, 0]).neg()], 2).maxPool([3, 1], { strides: 1, pad: [1, 1, 0, 0] });
  const outputs = { one: padded(-1).add(padded(-2)), two: padded(-3).mul(1), joined };
  await agrees(outputs, feeds, () => 1e-5);
});

describe("weights", () => {
  const g = geometry([4, 16, 12, 12], [16, 3, 3], { pad: [1, 1, 1, 1] });
  const [x, w] = [numbers(sizeOf(g.x), 1, "fp32"), numbers(sizeOf(filterShape(g)), 2, "fp32", 0.1)];
  const image = () => input(g.x, { name: "x", dtype: "fp32" });
  const kind = { dtype: "fp32", separable: true, terms: 144 } as const;

  test.each([
    [8, 15, false],
    [8, 16, true],
  ])("may be constants, which Winograd's form takes from 128 positions on: %i x %i", async (rows, columns, form) => {
    const few = geometry([1, 16, rows, columns], [16, 3, 3], { pad: [1, 1, 1, 1] });
    const y = input(few.x, { name: "x", dtype: "fp32" }).conv(constant(w, filterShape(g), { dtype: "fp32" }), {
      pad: 1,
    });
    const some = x.subarray(0, sizeOf(few.x));
    await runEverywhere({ y }, { x: some }, (results, _where, transformed) => {
      expect(transformed).toBe(form);
      expect(wrong(results.y!, contract(few, { x: some, w }), { ...kind, separable: form })).toBeUndefined();
    });
  });

  test("may serve several convolutions, of one geometry or more", async () => {
    const shared = input(filterShape(g), { name: "w", dtype: "fp32" });
    const one = image();
    const outputs = {
      y: one.conv(shared, { pad: 1 }),
      negative: one.neg().conv(shared, { pad: 1 }),
      strided: one.conv(shared, { pad: 1, strides: 2 }),
      spread: one.convTranspose(shared, { pad: 1 }),
    };
    const strided = { ...g, strides: [2, 2] } as const;
    await runEverywhere(outputs, { x, w }, (results) => {
      const sums = contract(g, { x, w });
      expect(wrong(results.y!, sums, kind)).toBeUndefined();
      expect(wrong(results.negative!, { ...sums, sum: sums.sum.map((value) => -value) }, kind)).toBeUndefined();
      expect(wrong(results.strided!, contract(strided, { x, w }), kind)).toBeUndefined();
      expect(wrong(results.spread!, contract(g, { y: x, w }), kind)).toBeUndefined();
    });
  });

  test("are read anew where a program changes them", async () => {
    for (const { one, three } of engines) {
      for (const engine of [one, three]) {
        const weight = parameter(w.slice(), filterShape(g), { dtype: "fp32", name: "w" });
        const y = image().conv(weight, { pad: 1 });
        const dw = grad(y.square().sum(), [weight])[0]!;
        const update = new Map([[weight, weight.sub(dw.mul(1e-4))]]);
        using program = await compile({ y }, { engine, update });
        let now = Float64Array.from(w);
        for (let step = 0; step < 3; step++) {
          const sums = contract(g, { x, w: now });
          expect(wrong((await program.run({ x })).y.data as Float32Array, sums, kind), `step ${step}`).toBeUndefined();
          const { sum } = contract(g, { x, y: sums.sum });
          now = now.map((value, i) => value - 2e-4 * sum[i]!);
        }
        expect(wrong(program.state.read(weight).data as Float32Array, { sum: now, size: now }, kind)).toBeUndefined();
      }
    }
  });
});

test("the derivatives of a small network agree with the simulator's", async () => {
  const dtype = "fp32";
  const parameters: Record<string, Tensor> = {};
  const feeds: Record<string, Float32Array> = { x: numbers(2 * 3 * 24 * 24, 1, dtype) };
  const weight = (name: string, shape: number[], scale = 1 / Math.sqrt(sizeOf(shape.slice(1)))) => {
    feeds[name] = numbers(sizeOf(shape), Object.keys(feeds).length + 2, dtype, scale);
    return (parameters[name] = input(shape, { name, dtype }));
  };
  const block = (x: Tensor, name: string, outs: number, options: Parameters<Tensor["conv"]>[1], kernel = 3) => {
    const channels = x.shape[1]! / (options?.groups ?? 1);
    const y = x.conv(weight(`${name}_weight`, [outs, channels, kernel, kernel]), options);
    return y.add(weight(`${name}_bias`, [1, outs, 1, 1], 0.1));
  };
  let x: Tensor = input([2, 3, 24, 24], { name: "x", dtype });
  x = block(x, "stem", 16, { strides: 2, pad: 1 }).relu().maxPool(3, { strides: 1, pad: 1 });
  x = x.add(block(block(x, "a", 16, { pad: 1 }).relu(), "b", 16, { pad: 1 })).relu();
  x = block(block(x, "wide", 32, {}, 1).clip(0, 6), "depthwise", 32, { pad: 1, groups: 32, strides: 2 }).relu();
  const loss = block(x, "narrow", 8, {}, 1).avgPool(2).square().mean();
  const names = Object.keys(parameters);
  const derivatives = grad(loss, Object.values(parameters));
  const outputs = { loss, ...Object.fromEntries(names.map((name, i) => [`d_${name}`, derivatives[i]!])) };
  await agrees(outputs, feeds, (want) => 1e-4 * largestOf(want));
});
