// Group "operators": every operator alone in a program of fp16 ports, in several shapes, on random and on edge values, beside the simulator.
// The table holds at least one case of every record; the compiler and a test see to that.

import { RandomStream } from "../../core/random.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import type { EngineName } from "../../engines/engine.ts";
import { makeNode, type OpNode } from "../../ir/node.ts";
import { type AttrValue, checkUse, flattenOperands } from "../../ops/define.ts";
import { type Op, type OpName, ops } from "../../ops/index.ts";
import { constant, input, Tensor } from "../../tensor.ts";
import { agree, type Bound, exact, type Feeds } from "./compare.ts";
import type { Check, Group } from "./group.ts";

/** An operand: fp16 values that are fed or constant, condition values made by a comparison, or constant indices. */
export interface OperandCase {
  readonly shape: Shape;
  readonly from?: "feed" | "constant" | "condition" | "indices";
  /** Uniform numbers from here; else explicit ones, repeated. */
  readonly range?: readonly [number, number];
  readonly values?: readonly number[];
}

export interface OperatorCase {
  readonly name: string;
  readonly inputs: Readonly<Record<string, OperandCase | readonly OperandCase[]>>;
  readonly attrs?: Readonly<Record<string, AttrValue>>;
  readonly bound: Bound;
  /** Left out by --quick. */
  readonly slow?: true;
}

const text = (shape: Shape) => (shape.length === 0 ? "scalar" : shape.join("x"));

// -------------------------------------------------------------------------------------------------- values

/** Finite values where arithmetic changes its ways: zero, subnormals, the least normal, ulps around 1 and 2048, the largest. */
const edges = [
  0,
  2 ** -24,
  3 * 2 ** -24,
  1023 * 2 ** -24,
  2 ** -14,
  -(2 ** -14),
  0.333251953125,
  0.99951171875,
  1,
  1.0009765625,
  -1,
  1.5,
  2.5,
  3.5,
  -0.5,
  -2.5,
  1023.5,
  2047,
  2048,
  -2049,
  4094,
  32752,
  65504,
  -65504,
];
/** For functions of one operand that are no sums: halfway cases, both signs, large and small. */
const small = [0, 2 ** -24, -(2 ** -14), 0.0009765625, -0.125, 0.5, 1, -1, 2, -3.140625, 5.5, -8, 10, -10];
const positive = [2 ** -24, 2 ** -14, 0.0009765625, 0.25, 0.5, 0.99951171875, 1, 1.0009765625, 2, 3, 100, 2048, 65504];

// -------------------------------------------------------------------------------------------------- bounds

/** Functions that hardware reads from tables: absolute errors as published (numerics of the ANE guide, M1), twice as much allowed. */
const tables: Readonly<Record<string, number>> = {
  sigmoid: 0.0068,
  silu: 0.034, // a product of x up to 10 with the table's value
  tanh: 0.0034,
  gelu: 0.012,
  erf: 0.0034,
  sin: 0.24,
  cos: 0.24,
  softplus: 0.0068,
  elu: 0.0068,
};

/** Rounded once or twice: engines compute functions in fp32 or better and round, hardware in its own ways. */
const rounded = (name: string): Bound => ({ units: 2, ...(tables[name] !== undefined && { absolute: tables[name] }) });
/** Sums in any order and width of accumulation that is not fp16, results rounded. */
const summed: Bound = { units: 4, ofLargest: true };

// --------------------------------------------------------------------------------------------------- cases

const oddShapes: readonly Shape[] = [[7], [3, 65], [2, 3, 5, 7], [1, 8, 17, 33]];

const unary = (values: readonly number[], range: readonly [number, number], bound: Bound) =>
  [
    ...oddShapes.map((shape) => ({ name: text(shape), inputs: { x: { shape, range } }, bound })),
    { name: "edge values", inputs: { x: { shape: [values.length], values } }, bound },
  ] satisfies OperatorCase[];

/** One operand each; `attrs` for all. */
function withAttrs(cases: readonly OperatorCase[], attrs: OperatorCase["attrs"]): OperatorCase[] {
  return cases.map((each) => ({ ...each, ...(attrs !== undefined && { attrs }) }));
}

const binaryShapes: readonly (readonly [Shape, Shape])[] = [
  [[7], [7]],
  [[3, 65], [65]],
  [
    [1, 8, 1, 33],
    [1, 1, 17, 33],
  ],
  [
    [2, 3, 5, 7],
    [2, 3, 5, 7],
  ],
  [
    [5, 1],
    [1, 9],
  ],
];

function binary(bound: Bound, range: readonly [number, number] = [-4, 4], own = edges): OperatorCase[] {
  const shifted = [...own.slice(3), ...own.slice(0, 3)];
  return [
    ...binaryShapes.map(([a, b]) => ({
      name: `${text(a)} and ${text(b)}`,
      inputs: { x: { shape: a, range }, y: { shape: b, range } },
      bound,
    })),
    {
      name: "edge values",
      inputs: { x: { shape: [own.length], values: own }, y: { shape: [own.length], values: shifted } },
      bound,
    },
    {
      name: "with a constant",
      inputs: {
        x: { shape: [3, 65], range },
        y: { shape: [1], values: [own === edges ? -1.5 : 1.5], from: "constant" as const },
      },
      bound,
    },
  ];
}

/** Equal values among them. */
const comparison = [
  ...binary(exact),
  {
    name: "equal values",
    inputs: { x: { shape: [4, 9], values: [1, 2, 3, -4, 0] }, y: { shape: [4, 9], values: [1, 2, 4, -4, 0, 1] } },
    bound: exact,
  },
] satisfies OperatorCase[];

const logical: OperatorCase[] = [
  [[7], [7]],
  [[3, 65], [65]],
].map(([a, b]) => ({
  name: `${text(a!)} and ${text(b!)}`,
  inputs: { x: { shape: a!, from: "condition" }, y: { shape: b!, from: "condition" } },
  bound: exact,
}));

const reductions: readonly (readonly [Shape, readonly number[], boolean])[] = [
  [[7], [0], false],
  [[3, 65], [1], true],
  [[3, 65], [0], false],
  [[2, 8, 5, 33], [1], true],
  [[2, 8, 5, 33], [2, 3], false],
  [[1, 16, 16, 64], [3], true],
];

function reduction(bound: Bound, range: readonly [number, number] = [-2, 2]): OperatorCase[] {
  return reductions.map(([shape, axes, keepDims]) => ({
    name: `${text(shape)} over ${axes.join(",")}`,
    inputs: { x: { shape, range } },
    attrs: { axes, keepDims },
    bound,
  }));
}

const overAxis = (bound: Bound, attrs: Readonly<Record<string, AttrValue>> = {}): OperatorCase[] =>
  (
    [
      [[7], 0],
      [[3, 65], 1],
      [[2, 8, 5, 33], 1],
      [[1, 30, 4, 64], -1],
    ] as const
  ).map(([shape, axis]) => ({
    name: `${text(shape)} over ${axis}`,
    inputs: { x: { shape, range: [-3, 3] } },
    attrs: { axis, ...attrs },
    bound,
  }));

/** The operand as constant (native on the chip) and fed (lowered there). */
function both(
  name: string,
  inputs: Readonly<Record<string, OperandCase>>,
  weights: readonly string[],
  rest: Omit<OperatorCase, "name" | "inputs">,
): OperatorCase[] {
  const fixed = Object.fromEntries(
    Object.entries(inputs).map(([key, each]) => [
      key,
      weights.includes(key) ? { ...each, from: "constant" as const } : each,
    ]),
  );
  return [
    { name: `${name}, constant weights`, inputs: fixed, ...rest },
    { name: `${name}, weights fed`, inputs, ...rest },
  ];
}

const fed = (shape: Shape, range: readonly [number, number] = [-1, 1]): OperandCase => ({ shape, range });

const matmuls: OperatorCase[] = (
  [
    [[1, 64], [64, 64], false, false],
    [[7, 33], [33, 5], false, false],
    [[65, 17], [31, 17], false, true],
    [[17, 65], [17, 9], true, false],
    [[9, 4], [5, 9], true, true],
    [[2, 3, 8, 16], [2, 3, 16, 8], false, false],
    [[3, 1, 8, 16], [2, 16, 8], false, false],
    [[128, 256], [256, 96], false, false],
  ] as const
).flatMap(([x, y, transposeX, transposeY]) =>
  both(`${text(x)} by ${text(y)}`, { x: fed(x), y: fed(y) }, ["y"], {
    attrs: { transposeX, transposeY },
    bound: summed,
  }),
);

const convolutions: OperatorCase[] = (
  [
    ["1x1", [1, 16, 8, 8], [32, 16, 1, 1], {}],
    ["3x3 same", [1, 8, 9, 13], [6, 8, 3, 3], { padType: "same" }],
    ["3x3 stride 2", [2, 4, 11, 11], [5, 4, 3, 3], { strides: [2, 2], padType: "custom", pad: [1, 1, 1, 1] }],
    ["dilated", [1, 4, 12, 12], [4, 4, 3, 3], { dilations: [2, 2] }],
    ["depthwise", [1, 12, 8, 8], [12, 1, 3, 3], { groups: 12, padType: "same" }],
    ["grouped", [1, 8, 7, 7], [8, 2, 3, 3], { groups: 4 }],
    ["one row", [1, 8, 1, 65], [8, 8, 1, 3], {}],
  ] as const
).flatMap(([name, x, weight, attrs]) =>
  both(name, { x: fed(x), weight: fed(weight) }, ["weight"], { attrs, bound: summed }),
);

const pools = (bound: Bound): OperatorCase[] =>
  (
    [
      ["2x2", [1, 8, 8, 8], { kernelSizes: [2, 2], strides: [2, 2] }],
      ["3x3 stride 1 same", [1, 5, 9, 7], { kernelSizes: [3, 3], strides: [1, 1], padType: "same" }],
      ["3x3 stride 2", [2, 4, 11, 13], { kernelSizes: [3, 3], strides: [2, 2], padType: "custom", pad: [1, 1, 1, 1] }],
    ] as const
  ).map(([name, x, attrs]) => ({ name, inputs: { x: fed(x) }, attrs, bound }));

const moved = (list: readonly (readonly [string, Shape, Readonly<Record<string, AttrValue>>])[]): OperatorCase[] =>
  list.map(([name, shape, attrs]) => ({ name, inputs: { x: fed(shape, [-100, 100]) }, attrs, bound: exact }));

const lists = (axes: readonly number[], same: boolean): OperatorCase[] =>
  axes.map((axis) => ({
    name: `along ${axis}`,
    inputs: {
      values: [3, same ? 3 : 5, same ? 3 : 1].map((extent) =>
        fed([2, 3, 7].map((e, i) => (i === axis && !same ? extent : e))),
      ),
    },
    attrs: { axis },
    bound: exact,
  }));

const norm = (x: Shape, size: Shape) => ({ x: fed(x, [-2, 2]), gamma: fed(size, [0.5, 1.5]), beta: fed(size) });
const indicesOf = (values: readonly number[]): OperandCase => ({ shape: [values.length], values, from: "indices" });
const epsilon = 0.0009765625;

/** Every operator with its cases. */
export const operatorCases: Readonly<Record<OpName, readonly OperatorCase[]>> = {
  abs: unary(edges, [-4, 4], exact),
  relu: unary(edges, [-4, 4], exact),
  sign: unary(edges, [-4, 4], exact),
  ceil: unary(edges, [-9, 9], exact),
  floor: unary(edges, [-9, 9], exact),
  round: unary(edges, [-9, 9], exact),
  identity: unary(edges, [-4, 4], exact),
  square: unary(edges, [-9, 9], exact),
  clip: withAttrs(unary(edges, [-4, 4], exact), { alpha: -1.5, beta: 2.25 }),
  leaky_relu: withAttrs(unary(edges, [-4, 4], { units: 1 }), { alpha: 0.125 }),
  cast: withAttrs(unary(edges, [-4, 4], exact), { dtype: "fp16" }),
  cos: unary(small, [-3, 3], rounded("cos")),
  sin: unary(small, [-3, 3], rounded("sin")),
  elu: withAttrs(unary(small, [-4, 4], rounded("elu")), { alpha: 1 }),
  erf: unary(small, [-3, 3], rounded("erf")),
  exp: unary(small, [-6, 6], rounded("exp")),
  exp2: unary(small, [-6, 6], rounded("exp2")),
  gelu: (["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"] as const).flatMap((mode) =>
    withAttrs(unary(small, [-4, 4], rounded("gelu")), { mode }).map((each) => ({
      ...each,
      name: `${mode} ${each.name}`,
    })),
  ),
  inverse: unary(positive.slice(2), [0.25, 4], rounded("inverse")),
  log: unary(positive, [0.25, 40], rounded("log")),
  rsqrt: unary(positive, [0.25, 40], rounded("rsqrt")),
  sqrt: unary(positive, [0.25, 40], rounded("sqrt")),
  sigmoid: unary(small, [-8, 8], rounded("sigmoid")),
  silu: unary(small, [-8, 8], rounded("silu")),
  softplus: unary(small, [-8, 8], rounded("softplus")),
  tanh: unary(small, [-4, 4], rounded("tanh")),

  add: binary(exact),
  sub: binary(exact),
  mul: binary(exact),
  maximum: binary(exact),
  minimum: binary(exact),
  real_div: binary({ units: 1 }, [0.5, 4], positive.slice(2, -2)),
  pow: binary({ units: 4 }, [0.5, 3], [0.25, 0.5, 1, 1.5, 2, 3]),
  equal: comparison,
  not_equal: comparison,
  less: comparison,
  less_equal: comparison,
  greater: comparison,
  greater_equal: comparison,
  logical_and: logical,
  logical_or: logical,
  logical_not: [[7], [3, 65], [2, 3, 5, 7]].map((shape) => ({
    name: text(shape),
    inputs: { x: { shape, from: "condition" } },
    bound: exact,
  })),
  select: [[7], [3, 65], [2, 3, 5, 7]].map((shape) => ({
    name: text(shape),
    inputs: { cond: { shape, from: "condition" }, a: fed(shape), b: fed(shape) },
    bound: exact,
  })),

  reduce_sum: reduction(summed),
  reduce_mean: reduction(summed),
  reduce_max: reduction(exact),
  reduce_min: reduction(exact),
  reduce_l1_norm: reduction(summed),
  reduce_l2_norm: reduction(summed),
  reduce_sum_square: reduction(summed),
  reduce_log_sum_exp: reduction({ units: 4, ofLargest: true, absolute: 0.01 }),
  reduce_argmax: overAxis(exact),
  reduce_argmin: overAxis(exact),
  softmax: overAxis({ units: 4, ofLargest: true }),
  cumsum: [...overAxis(summed), ...overAxis(summed, { exclusive: true, reverse: true }).slice(1, 3)].map(
    (each, at) => ({
      ...each,
      name: at > 3 ? `${each.name}, exclusive and reverse` : each.name,
    }),
  ),

  layer_norm: [
    { name: "over 1", inputs: { x: fed([5, 64], [-2, 2]) }, attrs: { axes: [1], epsilon }, bound: summed },
    ...both("gain and bias, 3x7x33", norm([3, 7, 33], [33]), ["gamma", "beta"], {
      attrs: { axes: [2], epsilon },
      bound: summed,
    }),
    ...both("gain and bias, two axes", norm([2, 5, 8], [5, 8]), ["gamma", "beta"], {
      attrs: { axes: [1, 2], epsilon },
      bound: summed,
    }),
  ],
  instance_norm: both("2x3x5x9", norm([2, 3, 5, 9], [3]), ["gamma", "beta"], { attrs: { epsilon }, bound: summed }),
  batch_norm: both(
    "2x3x5x9",
    { ...norm([2, 3, 5, 9], [3]), mean: fed([3]), variance: fed([3], [0.5, 2]) },
    ["gamma", "beta", "mean", "variance"],
    { attrs: { epsilon }, bound: { units: 8, ofLargest: true } },
  ),
  l2_norm: [
    [2, 3, 5, 9],
    [1, 8, 1, 33],
  ].map((shape) => ({
    name: text(shape),
    inputs: { x: fed(shape, [0.25, 2]) },
    attrs: { epsilon },
    bound: summed,
  })),

  matmul: matmuls,
  linear: [
    ...both("7x33 to 5", { x: fed([7, 33]), weight: fed([5, 33]), bias: fed([5]) }, ["weight", "bias"], {
      bound: summed,
    }),
    ...both("64 to 96", { x: fed([32, 64]), weight: fed([96, 64]) }, ["weight"], { bound: summed }),
  ],
  conv: [
    ...convolutions,
    ...both("3x3 with bias", { x: fed([1, 8, 9, 9]), weight: fed([4, 8, 3, 3]), bias: fed([4]) }, ["weight", "bias"], {
      attrs: { padType: "same" },
      bound: summed,
    }),
  ],
  conv_transpose: (
    [
      ["2x2 stride 2", [1, 6, 5, 5], [6, 4, 2, 2], { strides: [2, 2] }],
      ["3x3", [1, 4, 6, 7], [4, 3, 3, 3], {}],
    ] as const
  ).flatMap(([name, x, weight, attrs]) =>
    both(name, { x: fed(x), weight: fed(weight) }, ["weight"], { attrs, bound: summed }),
  ),
  avg_pool: pools(summed),
  max_pool: pools(exact),

  reshape: moved([
    ["3x65 to 195", [3, 65], { shape: [195] }],
    ["2x3x5x7 to 6x35", [2, 3, 5, 7], { shape: [6, 35] }],
    ["64 to 1x4x4x4", [64], { shape: [1, 4, 4, 4] }],
  ]),
  transpose: moved([
    ["3x65", [3, 65], { perm: [1, 0] }],
    ["2x3x5x7", [2, 3, 5, 7], { perm: [0, 2, 1, 3] }],
    ["2x3x5x7 reversed", [2, 3, 5, 7], { perm: [3, 2, 1, 0] }],
    ["1x8x16x64", [1, 8, 16, 64], { perm: [0, 1, 3, 2] }],
    ["rank 5", [2, 3, 2, 5, 4], { perm: [0, 3, 1, 4, 2] }],
  ]),
  expand_dims: moved([["3x65", [3, 65], { axes: [0, 2] }]]),
  squeeze: moved([["1x3x1x65", [1, 3, 1, 65], { axes: [0, 2] }]]),
  concat: [
    ...lists([0, 1, 2], false),
    {
      name: "interleaved",
      inputs: { values: [fed([1, 4, 3, 5]), fed([1, 4, 3, 5])] },
      attrs: { axis: 1, interleave: true },
      bound: exact,
    },
  ],
  stack: lists([0, 1, 2], true),
  split: moved([
    ["in 3 equal parts", [4, 9, 5], { axis: 1, numSplits: 3 }],
    ["in parts of 2, 5 and 2", [4, 9, 5], { axis: 1, splitSizes: [2, 5, 2] }],
    ["of the last axis", [3, 64], { axis: 1, numSplits: 2 }],
  ]),
  slice_by_size: moved([
    ["of the first axis", [9, 33], { begin: [2, 0], size: [5, 33] }],
    ["of the last axis", [9, 33], { begin: [0, 7], size: [9, 11] }],
    ["of the channels", [1, 8, 6, 10], { begin: [0, 3, 0, 0], size: [1, 4, 6, 10] }],
    ["from the beginning", [3, 65], { begin: [0, 0], size: [3, 64] }],
  ]),
  slice_by_index: moved([
    ["of two axes", [9, 33], { begin: [1, 5], end: [8, 30] }],
    ["every second", [9, 34], { begin: [0, 1], end: [9, 33], stride: [1, 2] }],
    ["one position of an axis", [4, 6, 5], { begin: [0, 2, 0], end: [4, 3, 5], squeezeMask: [false, true, false] }],
  ]),
  pad: [
    ...moved([
      ["of the last axes", [2, 3, 5, 7], { pad: [0, 0, 0, 0, 1, 2, 3, 0] }],
      ["with a value", [3, 5], { pad: [1, 1, 2, 0], constantVal: 1.5 }],
      ["reflected", [1, 2, 5, 7], { pad: [0, 0, 0, 0, 2, 1, 1, 2], mode: "reflect" }],
      ["replicated", [1, 2, 5, 7], { pad: [0, 0, 0, 0, 1, 1, 2, 2], mode: "replicate" }],
    ]),
  ],
  tile: moved([
    ["3x5", [3, 5], { reps: [2, 3] }],
    ["1x4x1x9", [1, 4, 1, 9], { reps: [1, 1, 8, 1] }],
  ]),
  pixel_shuffle: moved([["by 2", [1, 12, 3, 5], { upscaleFactor: 2 }]]),
  pixel_unshuffle: moved([["by 2", [1, 3, 6, 10], { downscaleFactor: 2 }]]),
  upsample_nearest_neighbor: moved([["2 by 3", [1, 3, 4, 5], { scaleFactorHeight: 2, scaleFactorWidth: 3 }]]),

  gather: [
    { name: "rows", inputs: { x: fed([9, 5]), indices: indicesOf([0, 8, 3, 3, 1]) }, attrs: { axis: 0 }, bound: exact },
    { name: "columns", inputs: { x: fed([4, 33]), indices: indicesOf([32, 0, 7]) }, attrs: { axis: 1 }, bound: exact },
  ],
  scatter: (["add", "update"] as const).map((mode) => ({
    name: mode,
    inputs: { data: fed([9, 5]), indices: indicesOf([0, 8, 3]), updates: fed([3, 5]) },
    attrs: { axis: 0, mode },
    bound: exact,
  })),
};

// -------------------------------------------------------------------------------------------------- building

/** The graph of a case, with fp16 ports only, and its feeds. */
export function buildOperatorCase(op: Op, each: OperatorCase): { outputs: Record<string, Tensor>; feeds: Feeds } {
  const random = new RandomStream(11, `${op.name} ${each.name}`);
  const feeds: Record<string, Float32Array> = {};
  const leaf = (name: string, { shape, from = "feed", range = [-1, 1], values }: OperandCase): Tensor => {
    const size = sizeOf(shape);
    const data = Float32Array.from({ length: size }, (_, i) =>
      values === undefined ? range[0] + (range[1] - range[0]) * random.uniform() : values[i % values.length]!,
    );
    if (from === "indices") return constant(Int32Array.from(data), shape, { dtype: "int32" });
    if (from === "constant") return constant(data, shape);
    feeds[name] = data;
    const fedTensor = input(shape, { name });
    return from === "condition" ? fedTensor.greater(0) : fedTensor;
  };
  const operands = Object.fromEntries(
    Object.entries(each.inputs).map(([name, spec]) => [
      name,
      Array.isArray(spec)
        ? (spec as readonly OperandCase[]).map((item, i) => leaf(`${name}${i}`, item))
        : leaf(name, spec as OperandCase),
    ]),
  );
  const flat = flattenOperands<Tensor>(op, operands);
  const use = checkUse(
    op,
    flat.map((tensor) => tensor?.aval),
    each.attrs ?? {},
  );
  const node = makeNode<OpNode>({ kind: "op", op, inputs: flat, attrs: use.attrs, results: use.results });
  const outputs = Object.fromEntries(
    use.results.map((_, index) => {
      const result = new Tensor(node, index);
      // What has no port of its own on the chip leaves as fp16: conditions as 0 and 1, positions as numbers.
      const name = use.results.length === 1 ? "result" : `result${index}`;
      return [name, result.dtype === "fp16" ? result : result.dtype === "bool" ? chosen(result) : result.cast("fp16")];
    }),
  );
  return { outputs, feeds };
}

/** 1 where a condition holds, 0 elsewhere. */
function chosen(condition: Tensor): Tensor {
  return condition.select(
    constant(
      [1],
      condition.shape.map(() => 1),
    ),
    0,
  );
}

function checksOf(quick: boolean): Check[] {
  return Object.entries(operatorCases).flatMap(([name, cases]) => {
    const op: Op = ops[name as OpName];
    // Edge values and odd shapes first: --quick takes every second case, and the first in any case.
    const some = quick ? cases.filter((each, at) => at % 3 === 0 || each.name === "edge values") : cases;
    return some.map((each) => ({
      name: `${name} ${each.name}`,
      run: async (bench) => {
        const { outputs, feeds } = buildOperatorCase(op, each);
        return agree(outputs, feeds, bench, boundOn(bench.engine, each.bound));
      },
    }));
  });
}

/** Absolute errors of tables are allowed to hardware alone. */
function boundOn(engine: EngineName, { absolute, ...bound }: Bound): Bound {
  return engine === "ane" && absolute !== undefined ? { ...bound, absolute } : bound;
}

export const operators: Group = {
  name: "operators",
  summary: "every operator in several shapes beside the simulator",
  checkSeconds: 60,
  seconds: { quick: 120, full: 900 },
  perProcess: 60,
  checks: ({ quick }) => checksOf(quick),
};
