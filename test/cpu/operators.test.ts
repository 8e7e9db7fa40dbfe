// Every operator record on the CPU engine against the float64 oracle: both instruction sets, several numbers of threads, memory between guard pages.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sizeOf } from "../../src/core/shape.ts";
import { planProgram } from "../../src/engines/cpu/plan.ts";
import { compile, type Engine, input, type NDArray, Tensor } from "../../src/index.ts";
import { makeNode, type OpNode } from "../../src/ir/node.ts";
import { buildPlan } from "../../src/ir/plan.ts";
import type { Program } from "../../src/ir/program.ts";
import { type Op, ops } from "../../src/ops/index.ts";
import { type BuiltCase, buildCase, type FloatUnderTest, tolerance } from "../ops/harness.ts";
import { cases, references } from "../oracle/index.ts";
import type { CaseInput, OpCase, RefTensor } from "../oracle/types.ts";
import { instructionSets, openCpu } from "./compare.ts";

const sets = await instructionSets();
const table: readonly [string, Op][] = Object.entries(ops);

/** Operators that still run as their plain kernels, in the default rounding. May only become fewer. */
const plainOperators: readonly string[] = ["cumsum", "reduce_argmax", "reduce_argmin"];

/** Operators that strict rounding runs as plain kernels: what is not exact, or sums in another order. */
const plainWhenStrict: readonly string[] = [
  "avg_pool",
  "batch_norm",
  "conv",
  "conv_transpose",
  "cos",
  "cumsum",
  "elu",
  "erf",
  "exp",
  "exp2",
  "gelu",
  "instance_norm",
  "inverse",
  "l2_norm",
  "layer_norm",
  "linear",
  "log",
  "matmul",
  "max_pool",
  "pow",
  "reduce_argmax",
  "reduce_argmin",
  "reduce_l1_norm",
  "reduce_l2_norm",
  "reduce_log_sum_exp",
  "reduce_max",
  "reduce_mean",
  "reduce_min",
  "reduce_sum",
  "reduce_sum_square",
  "rsqrt",
  "scatter",
  "sigmoid",
  "silu",
  "sin",
  "softmax",
  "softplus",
  "tanh",
];

/** Extents below, at and above the lanes of both instruction sets, and primes. */
const extents = [1, 3, 15, 16, 17, 31, 33, 61, 127, 257];

const engines: { readonly name: string; readonly engine: Engine }[] = [];
beforeAll(async () => {
  for (const isa of sets)
    for (const threads of [1, 3])
      engines.push({ name: `${isa}, ${threads} threads`, engine: await openCpu({ isa, threads }) });
});
afterAll(() => {
  for (const { engine } of engines) engine[Symbol.dispose]();
});

const outputsOf = (built: BuiltCase) => Object.fromEntries(built.result.map((tensor, i) => [`out${i}`, tensor]));
const programOf = (built: BuiltCase): Program =>
  buildPlan({ outputs: new Map(Object.entries(outputsOf(built))), updates: new Map() }).stages[0]!.program;

/** Operators whose results are sums, or functions of sums: their error is relative to the largest terms, not to the result. */
const sums =
  /^(reduce_|layer_norm|instance_norm|batch_norm|l2_norm|softmax|matmul|linear|conv|conv_transpose|avg_pool|cumsum|scatter)/;

/**
 * Absolute errors in fp32 of operators that cancel: x + epsilon is rounded before its logarithm, 1 + erf(x) before it is multiplied with x.
 */
const cancelling: Readonly<Record<string, number>> = { log: 2 ** -24, gelu: 2 ** -22 };

/** Compares with the oracle: fp16 is rounded once more than the oracle's value at most, fp32 functions are good to a few units in the last place. */
function mismatch(
  op: Op,
  got: ArrayLike<number>,
  want: RefTensor,
  dtype: string,
  factor: number,
  terms: number,
): string | undefined {
  if (got.length !== want.data.length) return `${got.length} values, expected ${want.data.length}`;
  const float = dtype === "fp16" || dtype === "fp32";
  const limits = float ? tolerance[dtype] : { relative: 0, absolute: 0 };
  const loose = dtype === "fp16" ? 1.02 : 4;
  for (let i = 0; i < got.length; i++) {
    const [g, w] = [got[i]!, want.data[i]!];
    if (Object.is(g, w) || g === w) continue;
    const summed = float && sums.test(op.name) ? 2 ** -22 * terms : (cancelling[op.name] ?? 0);
    const allowed = factor * (loose * (limits.absolute + limits.relative * Math.abs(w)) + summed);
    if (!(Math.abs(g - w) <= allowed)) return `element ${i} is ${g}, expected ${w} within ${allowed}`;
  }
  return undefined;
}

/** A bound of the terms of a case's sums: the largest product of what is multiplied, times a root of how many are added. */
function termsOf(built: BuiltCase, want: readonly RefTensor[]): number {
  let product = 1;
  let longest = 1;
  for (const { ref } of built.leaves) {
    let most = 0;
    for (const value of ref.data) if (Number.isFinite(value)) most = Math.max(most, Math.abs(value));
    product *= Math.max(1, most);
    longest = Math.max(longest, ref.data.length);
  }
  const results = Math.max(...want.flatMap(({ data }) => [...data].filter(Number.isFinite).map(Math.abs)), 1);
  return Math.max(product, results) * Math.sqrt(longest);
}

interface Labelled {
  readonly each: OpCase;
  readonly label: string;
}

/** The node again over inputs with names of their own, so that many cases make one program. */
function renamed(op: Op, built: BuiltCase, prefix: string) {
  const { node } = built.result[0]!;
  const inputs = new Map(
    built.leaves.map(({ leaf, name }) => [leaf.node, input(leaf.shape, { dtype: leaf.dtype, name: prefix + name })]),
  );
  const made = makeNode<OpNode>({
    kind: "op",
    op,
    inputs: node.inputs.map((value) => value && inputs.get(value.node)!),
    attrs: (node as OpNode).attrs,
    results: node.results,
  });
  return built.result.map((_, index) => new Tensor(made, index));
}

/** Runs cases of one dtype as one program on every instruction set, with few and with many threads in turn. */
async function check(op: Op, list: readonly Labelled[], dtype: FloatUnderTest): Promise<void> {
  const outputs: Record<string, Tensor> = {};
  const feeds: Record<string, Float64Array> = {};
  const built = list.map(({ each, label }, at) => {
    const made = buildCase(op, each, dtype);
    for (const { name, ref } of made.leaves) feeds[`c${at}_${name}`] = ref.data;
    for (const [i, tensor] of renamed(op, made, `c${at}_`).entries()) outputs[`c${at}_out${i}`] = tensor;
    const want = references[op.name]!(made.inputs, programOf(made).instructions[0]!.attrs);
    return { each, label, made, want, terms: termsOf(made, want) };
  });
  for (const { name, engine } of [engines[turn % 2]!, engines[2 + ((turn >> 1) % 2)]!].filter(Boolean)) {
    using program = await compile(outputs, { engine });
    const fed = Object.fromEntries(Object.entries(feeds).filter(([feed]) => program.plan.feeds.has(feed)));
    const results = program.runSync(fed) as Record<string, NDArray>;
    for (const [at, { each, label, made, want, terms }] of built.entries()) {
      for (const [i, result] of made.result.entries()) {
        const got = results[`c${at}_out${i}`]!;
        const found = mismatch(op, got.data, want[i]!, result.dtype, each.tolerance ?? 1, terms);
        expect(found, `${op.name} ${label} ${dtype} on ${name} ${each.note ?? ""}`).toBeUndefined();
        expect(got.shape, `${op.name} ${label} ${dtype} on ${name}`).toEqual(want[i]!.shape);
      }
    }
  }
  turn++;
}
let turn = 0;

/** Runs cases in every dtype that they take. */
async function checkAll(op: Op, list: readonly Labelled[]): Promise<void> {
  for (const dtype of ["fp16", "fp32"] as const) {
    const taken = list.filter(({ each }) => (each.dtypes ?? ["fp16", "fp32"]).includes(dtype));
    if (taken.length > 0) await check(op, taken, dtype);
  }
}

/** The case with operands of another shape where all operands have one shape; undefined where they do not. */
function reshaped(each: OpCase, shape: readonly number[]): OpCase | undefined {
  const inputs: Record<string, CaseInput> = {};
  const [first] = Object.values(each.inputs) as CaseInput[];
  for (const [name, spec] of Object.entries(each.inputs)) {
    if (Array.isArray(spec)) return undefined;
    const one = spec as CaseInput;
    if (sizeOf(one.shape) !== sizeOf(first!.shape)) return undefined;
    const { values, spacing, ...rest } = one;
    const size = sizeOf(shape);
    const many = values && Array.from({ length: size }, (_, i) => values[i % values.length]!);
    inputs[name] = { ...rest, ...(many && { values: many }), ...(spacing && size < 30 && { spacing }), shape };
  }
  return { ...each, inputs };
}

const isElementwise = (op: Op) => (op as { elementwise?: boolean }).elementwise === true;
const isRow = (name: string) => /^(reduce_|softmax|cumsum)/.test(name);
const oneAxis = /^(reduce_arg|softmax|cumsum)/;

describe.each(table)("%s", (name, op) => {
  const { accepts } = cases[name]!;

  test("gives the oracle's values", () =>
    checkAll(
      op,
      accepts.map((each, at) => ({ each, label: `case ${at}` })),
    ));

  if (isElementwise(op))
    test("gives them at all extents", () =>
      checkAll(
        op,
        extents.flatMap((extent, i) =>
          [[extent], [3, extent]].flatMap((shape, j) => {
            const each = reshaped(accepts[(2 * i + j) % accepts.length]!, shape) ?? reshaped(accepts[0]!, shape);
            return each === undefined ? [] : [{ each, label: `extent ${extent}` }];
          }),
        ),
      ));

  if (isRow(name))
    test("gives them for rows and columns of all extents", () =>
      checkAll(
        op,
        extents.flatMap((extent) =>
          (
            [
              [[extent], 0],
              [[5, extent], 1],
              [[extent, 5], 0],
              [[3, extent, 17], 1],
            ] as const
          ).map(([shape, axis]) => {
            const attrs = oneAxis.test(name) ? { axis } : { axes: [axis] };
            return {
              each: { inputs: { x: { shape, range: [0.1, 2] as const } }, attrs },
              label: `${shape} over ${axis}`,
            };
          }),
        ),
      ));
});

const transposes = [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
] as const;
const batches = [
  [[], []],
  [[2], [1]],
  [[3, 1], [2]],
  [[1], [2, 3]],
] as const;

test("products of all extents, transposes and batches", async () => {
  const list: Labelled[] = [];
  const some = extents.slice(0, -1);
  for (const [i, m] of some.entries()) {
    const [k, n] = [some[(i * 2 + 1) % some.length]!, some[(i * 7 + 2) % some.length]!];
    for (const [j, [transposeX, transposeY]] of transposes.entries()) {
      const x = transposeX ? [k, m] : [m, k];
      const y = transposeY ? [n, k] : [k, n];
      const [bx, by] = m * n * k > 20_000 ? batches[0] : batches[(i + j) % 4]!;
      const inputs = {
        x: { shape: [...bx, ...x], range: [-1, 1] as const },
        y: { shape: [...by, ...y], range: [-1, 1] as const },
      };
      list.push({ each: { inputs, attrs: { transposeX, transposeY } }, label: `${m}x${k}x${n} ${bx} ${by}` });
    }
  }
  await checkAll(ops.matmul, list);
});

test("layer_norm over several axes, with and without gain and bias", () =>
  checkAll(
    ops.layer_norm,
    [1, 3, 17, 33].flatMap((extent) =>
      [[2], [1, 2], [0, 1, 2], [1]].flatMap((axes) => {
        const shape = [3, 5, extent];
        const over = { shape: axes.map((axis) => shape[axis]!), range: [0.5, 1.5] as const };
        const x = { shape, range: [-2, 2] as const };
        const attrs = { axes, epsilon: 0.1 };
        return [{ x }, { x, gamma: over }, { x, beta: over }, { x, gamma: over, beta: over }].map((inputs) => ({
          each: { inputs, attrs },
          label: `${shape} over ${axes}`,
        }));
      }),
    ),
  ));

/** Operators of which some case leaves a plain kernel in the plan. */
function plainOnes(strict: boolean): string[] {
  const found = new Set<string>();
  for (const [name, op] of table) {
    for (const each of cases[name]!.accepts) {
      for (const dtype of each.dtypes ?? (["fp16", "fp32"] as const)) {
        const program = programOf(buildCase(op, each, dtype));
        const { steps } = planProgram(program, { isa: "avx2", threads: 2, strict, inPlace: new Map() });
        if (steps.some(({ kind }) => kind === "reference")) found.add(name);
      }
    }
  }
  return [...found].sort();
}

test("the operators that run as plain kernels", () => {
  const told = "the lists above may only become shorter: take out what is native now";
  expect(plainOnes(false), told).toEqual(plainOperators);
  expect(plainOnes(true), told).toEqual(plainWhenStrict);
});
