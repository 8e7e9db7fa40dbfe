// Float64 references and cases of the reductions, softmax and the normalizations.
import type { Attrs } from "./helpers.ts";
import {
  at,
  booleanAttr,
  build,
  everyCoordinate,
  indexOf,
  normalAxes,
  normalAxis,
  numberAttr,
  numbersAttr,
  operand,
  optionalOperand,
  sizeOf,
} from "./helpers.ts";
import type { CaseInput, OpCase, OpCases, Reference, RefTensor, RefusedCase } from "./types.ts";

// ---- References ----

/** The shape with the axes reduced to 1. */
function keptShape(shape: readonly number[], axes: readonly number[]): number[] {
  return shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent));
}

/** The coordinates with 0 along the axes. */
function keptCoordinates(coordinates: readonly number[], axes: readonly number[]): number[] {
  return coordinates.map((coordinate, axis) => (axes.includes(axis) ? 0 : coordinate));
}

/** For every element of the kept shape the values that share it, in row-major order. */
function groupsOf(x: RefTensor, axes: readonly number[]): number[][] {
  const kept = keptShape(x.shape, axes);
  const groups: number[][] = [];
  for (let i = 0; i < sizeOf(kept); i++) groups.push([]);
  for (const coordinates of everyCoordinate(x.shape)) {
    groups[indexOf(keptCoordinates(coordinates, axes), kept)]!.push(at(x, coordinates));
  }
  return groups;
}

/** One number for each group. */
function reduced(x: RefTensor, axes: readonly number[], keepDims: boolean, f: (values: readonly number[]) => number) {
  const data = Float64Array.from(groupsOf(x, axes), (values) => f(values));
  const shape = keepDims ? keptShape(x.shape, axes) : x.shape.filter((_, axis) => !axes.includes(axis));
  return { shape, data } satisfies RefTensor;
}

/** Each element computed from itself and its group. */
function withGroup(x: RefTensor, axes: readonly number[], f: (value: number, group: readonly number[]) => number) {
  const kept = keptShape(x.shape, axes);
  const groups = groupsOf(x, axes);
  return build(x.shape, (coordinates) =>
    f(at(x, coordinates), groups[indexOf(keptCoordinates(coordinates, axes), kept)]!),
  );
}

function sum(values: readonly number[]): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}

/** The mean of the squared distances to the mean (divided by n, not n - 1). */
function variance(values: readonly number[]): number {
  const center = mean(values);
  return mean(values.map((value) => (value - center) ** 2));
}

function logSumExp(values: readonly number[]): number {
  const top = Math.max(...values);
  return top + Math.log(sum(values.map((value) => Math.exp(value - top))));
}

function firstWhere(values: readonly number[], better: (value: number, best: number) => boolean): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) {
    if (better(values[i]!, values[best]!)) best = i;
  }
  return best;
}

function reduction(f: (values: readonly number[]) => number): Reference {
  return (inputs, attrs) => {
    const x = operand(inputs, "x");
    const every = x.shape.map((_, axis) => axis);
    const axes = normalAxes(numbersAttr(attrs, "axes", every), x.shape.length);
    return [reduced(x, axes, booleanAttr(attrs, "keepDims", false), f)];
  };
}

function argReduction(better: (value: number, best: number) => boolean): Reference {
  return (inputs, attrs) => {
    const x = operand(inputs, "x");
    const axis = normalAxis(numberAttr(attrs, "axis", -1), x.shape.length);
    return [reduced(x, [axis], booleanAttr(attrs, "keepDims", false), (values) => firstWhere(values, better))];
  };
}

/** An operand with one number per channel (axis 1), or the same number for all when it is absent. */
function perChannel(x: RefTensor | undefined, channel: number, absent: number): number {
  return x === undefined ? absent : at(x, [channel]);
}

function layerNorm(x: RefTensor, gamma: RefTensor | undefined, beta: RefTensor | undefined, attrs: Attrs): RefTensor {
  const all = x.shape.map((_, axis) => axis);
  const axes = normalAxes(numbersAttr(attrs, "axes", all), x.shape.length);
  const epsilon = numberAttr(attrs, "epsilon", 1e-5);
  const normalized = withGroup(x, axes, (value, group) => (value - mean(group)) / Math.sqrt(variance(group) + epsilon));
  return build(x.shape, (coordinates) => {
    const inside = axes.map((axis) => coordinates[axis]!);
    const scale = gamma === undefined ? 1 : at(gamma, inside);
    const offset = beta === undefined ? 0 : at(beta, inside);
    return at(normalized, coordinates) * scale + offset;
  });
}

export const references: Record<string, Reference> = {
  reduce_sum: reduction(sum),
  reduce_mean: reduction(mean),
  reduce_max: reduction((values) => Math.max(...values)),
  reduce_min: reduction((values) => Math.min(...values)),
  reduce_l1_norm: reduction((values) => sum(values.map(Math.abs))),
  reduce_l2_norm: reduction((values) => Math.sqrt(sum(values.map((value) => value * value)))),
  reduce_log_sum_exp: reduction(logSumExp),
  reduce_sum_square: reduction((values) => sum(values.map((value) => value * value))),
  reduce_argmax: argReduction((value, best) => value > best),
  reduce_argmin: argReduction((value, best) => value < best),
  softmax: (inputs, attrs) => {
    const x = operand(inputs, "x");
    const axis = normalAxis(numberAttr(attrs, "axis", -1), x.shape.length);
    return [withGroup(x, [axis], (value, group) => Math.exp(value - logSumExp(group)))];
  },
  layer_norm: (inputs, attrs) => [
    layerNorm(operand(inputs, "x"), optionalOperand(inputs, "gamma"), optionalOperand(inputs, "beta"), attrs),
  ],
  batch_norm: (inputs, attrs) => {
    const x = operand(inputs, "x");
    const means = operand(inputs, "mean");
    const variances = operand(inputs, "variance");
    const gamma = optionalOperand(inputs, "gamma");
    const beta = optionalOperand(inputs, "beta");
    const epsilon = numberAttr(attrs, "epsilon", 1e-5);
    return [
      build(x.shape, (coordinates) => {
        const channel = coordinates[1]!;
        const normalized = (at(x, coordinates) - at(means, [channel])) / Math.sqrt(at(variances, [channel]) + epsilon);
        return normalized * perChannel(gamma, channel, 1) + perChannel(beta, channel, 0);
      }),
    ];
  },
  instance_norm: (inputs, attrs) => {
    const x = operand(inputs, "x");
    const gamma = optionalOperand(inputs, "gamma");
    const beta = optionalOperand(inputs, "beta");
    const epsilon = numberAttr(attrs, "epsilon", 1e-5);
    const spatial = x.shape.map((_, axis) => axis).slice(2);
    const normalized = withGroup(
      x,
      spatial,
      (value, group) => (value - mean(group)) / Math.sqrt(variance(group) + epsilon),
    );
    return [
      build(x.shape, (coordinates) => {
        const channel = coordinates[1]!;
        return at(normalized, coordinates) * perChannel(gamma, channel, 1) + perChannel(beta, channel, 0);
      }),
    ];
  },
  l2_norm: (inputs, attrs) => {
    const x = operand(inputs, "x");
    const epsilon = numberAttr(attrs, "epsilon", 1e-6);
    return [
      withGroup(
        x,
        normalAxes([-3, -2, -1], x.shape.length),
        (value, group) => value / Math.sqrt(sum(group.map((member) => member * member)) + epsilon),
      ),
    ];
  },
};

// ---- Cases ----

type Values = Omit<CaseInput, "shape">;

function operandOf(shape: readonly number[], values: Values): CaseInput {
  return { ...values, shape };
}

function floats(shape: readonly number[], values: readonly number[]): CaseInput {
  return { shape, values };
}

function begins(op: string): RegExp {
  return new RegExp(`^${op}: `);
}

const SMALL: CaseInput = { shape: [2, 3], range: [0.5, 1] };
const INTS: CaseInput = { shape: [2, 3], dtype: "int32", values: [1, 2, 3, 4, 5, 6] };
const BOOLS: CaseInput = { shape: [2, 3], dtype: "bool", values: [1, 0, 1, 0, 0, 1] };

const around: Values = { range: [-4, 4] };
/** No two values are equal, and no group of them has a small variance. */
const spaced: Values = { range: [-4, 4], spacing: 0.1 };

/** Every rank, absent and negative and unsorted axes, axes of size 1, with and without keepDims. */
function reduceCases(values: Values): OpCase[] {
  return [
    { inputs: { x: operandOf([7], values) } },
    { inputs: { x: operandOf([2, 3], values) }, attrs: { axes: [1] } },
    { inputs: { x: operandOf([2, 3], values) }, attrs: { axes: [-2], keepDims: true } },
    { inputs: { x: operandOf([2, 3, 4], values) }, attrs: { axes: [2, 0], keepDims: false } },
    { inputs: { x: operandOf([2, 3, 4], values) }, attrs: { axes: [-2, -1], keepDims: true } },
    { inputs: { x: operandOf([1, 3, 1, 2], values) }, attrs: { axes: [0, 2] } },
    { inputs: { x: operandOf([2, 1, 3, 2, 2], values) }, attrs: { axes: [1, -1], keepDims: true } },
    { inputs: { x: operandOf([2, 2, 3, 2], values) }, attrs: { keepDims: true } },
  ];
}

function reduceRefuses(op: string, takesInt32: boolean): RefusedCase[] {
  const message = begins(op);
  const refuses: RefusedCase[] = [
    { inputs: { x: SMALL }, attrs: { axes: [2] }, message, note: "axis out of range" },
    { inputs: { x: SMALL }, attrs: { axes: [0, -3] }, message, note: "axis out of range" },
    { inputs: { x: SMALL }, attrs: { axes: [1, -1] }, message, note: "the same axis twice" },
    { inputs: { x: SMALL }, attrs: { axes: [0.5] }, message, note: "fractional axis" },
    { inputs: { x: BOOLS }, attrs: { axes: [0] }, message, note: "bool operand" },
  ];
  if (!takesInt32) refuses.push({ inputs: { x: INTS }, attrs: { axes: [0] }, message, note: "int32 operand" });
  return refuses;
}

function int32Case(values: readonly number[], axes: readonly number[]): OpCase {
  return {
    inputs: { x: { shape: [2, 3], dtype: "int32", values } },
    attrs: { axes },
    grad: false,
    note: "needs all bits of int32",
  };
}

function reduceOp(op: string, values: Values, extremes: readonly OpCase[], takesInt32 = false): OpCases {
  return { accepts: [...reduceCases(values), ...extremes], refuses: reduceRefuses(op, takesInt32) };
}

function argOp(op: string): OpCases {
  const message = begins(op);
  return {
    accepts: [
      { inputs: { x: operandOf([7], spaced) }, grad: false },
      { inputs: { x: operandOf([1], spaced) }, attrs: { axis: 0, keepDims: true }, grad: false },
      { inputs: { x: operandOf([3, 5], spaced) }, attrs: { axis: 0 }, grad: false },
      { inputs: { x: operandOf([3, 5], spaced) }, attrs: { axis: 1, keepDims: true }, grad: false },
      { inputs: { x: operandOf([2, 3, 4], spaced) }, attrs: { axis: -2, keepDims: false }, grad: false },
      { inputs: { x: operandOf([2, 1, 3, 2], spaced) }, attrs: { axis: 1 }, grad: false },
      { inputs: { x: operandOf([1, 2, 3, 2, 2], spaced) }, attrs: { axis: -3, keepDims: true }, grad: false },
      {
        inputs: { x: floats([3, 4], [1, 3, 3, 1, 2, 2, 2, 2, -1, -5, -5, -1]) },
        grad: false,
        note: "ties: the first occurrence",
      },
      {
        inputs: { x: floats([2, 4], [59968, 60000, -60000, -59968, 0, -1e-6, 1e-6, 2e-6]) },
        attrs: { axis: -1 },
        grad: false,
        note: "the largest values, and subnormal ones in fp16",
      },
    ],
    refuses: [
      { inputs: { x: SMALL }, attrs: { axis: 2 }, message, note: "axis out of range" },
      { inputs: { x: SMALL }, attrs: { axis: -3 }, message, note: "axis out of range" },
      { inputs: { x: SMALL }, attrs: { axis: 0.5 }, message, note: "fractional axis" },
      { inputs: { x: { shape: [], values: [1] } }, message, note: "a scalar has no axis" },
      { inputs: { x: BOOLS }, attrs: { axis: 0 }, message, note: "bool operand" },
    ],
  };
}

export const cases: Record<string, OpCases> = {
  reduce_sum: reduceOp(
    "reduce_sum",
    around,
    [
      {
        inputs: { x: floats([2, 4], [2048, 0.25, -2048, 0.5, 30000, 29984, -60000, 1]) },
        attrs: { axes: [1] },
        grad: false,
        note: "cancellation; the partial sums are exact in fp32",
      },
      {
        inputs: { x: floats([4], [60000, 60000, -60000, -58000]) },
        grad: false,
        note: "partial sums beyond fp16, exact in fp32, the result inside",
      },
      int32Case([16777217, 2, -5, 2147483647, -2147483648, 7], [1]),
      int32Case([2000000000, -5, 16777217, -2000000000, 3, 16777216], [0]),
    ],
    true,
  ),
  reduce_mean: reduceOp("reduce_mean", around, [
    {
      inputs: { x: floats([2, 3], [60000, 60000, 60000, -60000, -30000, 45000]) },
      attrs: { axes: [-1] },
      grad: false,
      note: "the sum is beyond fp16, the mean is not",
    },
    {
      inputs: { x: floats([4], [2048, 1, -2048, 1]) },
      note: "cancellation; the partial sums are exact in fp32",
    },
  ]),
  reduce_max: reduceOp(
    "reduce_max",
    spaced,
    [
      { inputs: { x: operandOf([2, 4], { range: [-8, -1], spacing: 0.1 }) }, attrs: { axes: [1] }, note: "negative" },
      {
        inputs: { x: floats([2, 3], [60000, -60000, 59968, 1e-6, -1e-6, 1e-6]) },
        attrs: { axes: [1] },
        grad: false,
        note: "the largest values, ties of subnormal ones",
      },
      int32Case([16777217, 16777216, -5, 2147483647, -2147483648, 7], [1]),
      int32Case([-3, -4, -5, -3, -5, -4], [0]),
    ],
    true,
  ),
  reduce_min: reduceOp(
    "reduce_min",
    spaced,
    [
      { inputs: { x: operandOf([2, 4], { range: [1, 8], spacing: 0.1 }) }, attrs: { axes: [1] }, note: "positive" },
      {
        inputs: { x: floats([2, 3], [60000, -60000, -59968, 1e-6, -1e-6, -1e-6]) },
        attrs: { axes: [1] },
        grad: false,
        note: "the largest values, ties of subnormal ones",
      },
      int32Case([16777217, 16777216, 16777218, 2147483647, -2147483648, 7], [1]),
      int32Case([3, 4, 5, 3, 5, 4], [0]),
    ],
    true,
  ),
  reduce_l1_norm: reduceOp("reduce_l1_norm", { range: [-4, 4], avoid: [0], margin: 0.1 }, [
    {
      inputs: { x: floats([2, 3], [20000, -20000, 15000, 0, -0, 1e-6]) },
      attrs: { axes: [1] },
      grad: false,
      note: "the largest result, zeros and subnormal values",
    },
  ]),
  reduce_l2_norm: reduceOp("reduce_l2_norm", { range: [-4, 4], avoid: [0], margin: 0.3 }, [
    {
      inputs: { x: floats([3, 2], [30000, -40000, 0, 0, 3, 4]) },
      attrs: { axes: [1] },
      grad: false,
      note: "squares beyond fp16 (inside fp32), results 50000, 0 and 5",
    },
  ]),
  reduce_log_sum_exp: reduceOp("reduce_log_sum_exp", around, [
    {
      inputs: { x: floats([4, 3], [1000, 1, 2, 60000, 60000, -60000, -1000, -1001, -1000.5, 0, 0, 0]) },
      attrs: { axes: [1] },
      grad: false,
      note: "e^x overflows and underflows without subtracting the maximum",
    },
    { inputs: { x: floats([3], [20, 19.5, 18]) }, attrs: { axes: [0], keepDims: true } },
  ]),
  reduce_sum_square: reduceOp("reduce_sum_square", around, [
    {
      inputs: { x: floats([2, 4], [125, -125, 120, 122, 2 ** -10, 2 ** -11, 0, 3 * 2 ** -11]) },
      attrs: { axes: [1] },
      grad: false,
      note: "ends of fp16: 60909, and a sum that is subnormal, exact",
    },
  ]),
  reduce_argmax: argOp("reduce_argmax"),
  reduce_argmin: argOp("reduce_argmin"),
  softmax: {
    accepts: [
      { inputs: { x: operandOf([7], around) } },
      { inputs: { x: operandOf([3, 5], around) }, attrs: { axis: 0 } },
      { inputs: { x: operandOf([3, 5], around) }, attrs: { axis: 1 } },
      { inputs: { x: operandOf([2, 3, 4], around) }, attrs: { axis: -2 } },
      { inputs: { x: operandOf([1, 5, 1, 3], around) }, attrs: { axis: 1 } },
      { inputs: { x: operandOf([2, 1, 3, 2, 2], around) }, attrs: { axis: -3 } },
      { inputs: { x: operandOf([2, 3, 1], around) }, note: "an axis of size 1: ones everywhere" },
      {
        inputs: { x: floats([4, 4], [1000, 1, 2, 3, 1000, 999, 998, 0, -1000, -1001, -999, -1002, 5, 5, 5, 5]) },
        attrs: { axis: -1 },
        note: "e^x overflows and underflows without subtracting the maximum",
      },
      {
        inputs: { x: floats([2, 4], [1, 2, -60000, -60000, 60000, -60000, 60000, 0]) },
        grad: false,
        note: "an attention mask, and the largest values",
      },
    ],
    refuses: [
      { inputs: { x: SMALL }, attrs: { axis: 2 }, message: begins("softmax"), note: "axis out of range" },
      { inputs: { x: SMALL }, attrs: { axis: -3 }, message: begins("softmax"), note: "axis out of range" },
      { inputs: { x: SMALL }, attrs: { axis: 0.5 }, message: begins("softmax"), note: "fractional axis" },
      { inputs: { x: { shape: [], values: [1] } }, message: begins("softmax"), note: "a scalar has no axis" },
      { inputs: { x: INTS }, message: begins("softmax"), note: "int32 operand" },
      { inputs: { x: BOOLS }, message: begins("softmax"), note: "bool operand" },
    ],
  },
  layer_norm: {
    accepts: [
      {
        inputs: { x: operandOf([2, 3, 4], spaced), gamma: operandOf([3], around), beta: operandOf([3], around) },
        attrs: { axes: [1] },
      },
      {
        inputs: { x: operandOf([2, 3, 4], spaced), gamma: operandOf([2, 4], around) },
        attrs: { axes: [0, 2] },
        note: "axes apart",
      },
      { inputs: { x: operandOf([2, 5], spaced), beta: operandOf([2, 5], around) }, note: "all axes when absent" },
      { inputs: { x: operandOf([7], spaced) }, attrs: { axes: [0] } },
      {
        inputs: { x: operandOf([3, 5], spaced), gamma: operandOf([5], around), beta: operandOf([5], around) },
        attrs: { axes: [-1] },
      },
      { inputs: { x: operandOf([2, 3, 4], spaced), gamma: operandOf([4], around) }, attrs: { axes: [2] } },
      { inputs: { x: operandOf([2, 3, 4], spaced), beta: operandOf([3, 4], around) }, attrs: { axes: [-2, -1] } },
      {
        inputs: {
          x: operandOf([2, 1, 2, 6], spaced),
          gamma: operandOf([1, 2, 6], around),
          beta: operandOf([1, 2, 6], around),
        },
        attrs: { axes: [1, 2, 3], epsilon: 0.5 },
      },
      {
        inputs: { x: operandOf([1, 2, 1, 2, 5], spaced), gamma: operandOf([5], around) },
        attrs: { axes: [-1], epsilon: 0.125 },
      },
      {
        inputs: { x: operandOf([2, 3, 1], around), gamma: operandOf([1], around), beta: operandOf([1], around) },
        attrs: { axes: [-1] },
        note: "an axis of size 1 has variance 0: beta everywhere",
      },
      {
        inputs: { x: floats([2, 4], [5, 5, 5, 5, 60000, -60000, 30000, 0]), beta: floats([4], [1, 2, 3, 4]) },
        attrs: { axes: [-1] },
        grad: false,
        note: "variance 0, and a variance beyond fp16 (inside fp32)",
      },
      {
        inputs: { x: floats([5], [1000, 1001, 1002, 1004, 1001.5]) },
        attrs: { axes: [-1] },
        grad: false,
        tolerance: 20,
        note: "small variance around a large mean: rounding of the mean to fp32 shows in the differences",
      },
    ],
    refuses: [
      { inputs: { x: SMALL }, attrs: { axes: [2] }, message: begins("layer_norm"), note: "axis out of range" },
      {
        inputs: { x: SMALL, gamma: operandOf([2], around) },
        attrs: { axes: [-1] },
        message: begins("layer_norm"),
        note: "shape of gamma",
      },
      {
        inputs: { x: SMALL, beta: operandOf([2, 3], around) },
        attrs: { axes: [-1] },
        message: begins("layer_norm"),
        note: "shape of beta",
      },
      { inputs: { x: INTS }, attrs: { axes: [-1] }, message: begins("layer_norm"), note: "int32 operand" },
    ],
  },
  batch_norm: {
    accepts: [
      {
        inputs: {
          x: operandOf([2, 3, 5], around),
          mean: operandOf([3], { range: [-1, 1] }),
          variance: operandOf([3], { range: [0.5, 2] }),
        },
      },
      {
        inputs: {
          x: operandOf([2, 3, 2, 3], around),
          mean: operandOf([3], { range: [-1, 1] }),
          variance: operandOf([3], { range: [0.5, 2] }),
          gamma: operandOf([3], around),
          beta: operandOf([3], around),
        },
      },
      {
        inputs: {
          x: operandOf([1, 2, 3, 1, 2], around),
          mean: operandOf([2], { range: [-1, 1] }),
          variance: operandOf([2], { range: [0.5, 2] }),
          gamma: operandOf([2], around),
        },
        attrs: { epsilon: 0.5 },
      },
      {
        inputs: {
          x: operandOf([3, 1, 1, 2], around),
          mean: operandOf([1], { range: [-1, 1] }),
          variance: operandOf([1], { range: [0.5, 2] }),
          beta: operandOf([1], around),
        },
        attrs: { epsilon: 0.125 },
      },
      {
        inputs: {
          x: floats([1, 3, 2], [60000, -60000, 1000.5, 999.5, 2, 3]),
          mean: floats([3], [0, 1000, 2.5]),
          variance: floats([3], [40000, 0.25, 0]),
        },
        attrs: { epsilon: 0.0625 },
        grad: false,
        note: "the largest values, cancellation with the mean, and variance 0",
      },
    ],
    refuses: [
      {
        inputs: { x: SMALL, mean: floats([3], [0, 0, 0]), variance: floats([3], [1, 1, 1]) },
        message: begins("batch_norm"),
        note: "rank 2",
      },
      {
        inputs: { x: operandOf([2, 3, 4], around), mean: floats([4], [0, 0, 0, 0]), variance: floats([3], [1, 1, 1]) },
        message: begins("batch_norm"),
        note: "shape of mean",
      },
      {
        inputs: { x: operandOf([2, 3, 4], around), mean: floats([3], [0, 0, 0]), variance: floats([1], [1]) },
        message: begins("batch_norm"),
        note: "shape of variance",
      },
      {
        inputs: {
          x: operandOf([2, 3, 4], around),
          mean: floats([3], [0, 0, 0]),
          variance: floats([3], [1, 1, 1]),
          gamma: floats([1, 3], [1, 1, 1]),
        },
        message: begins("batch_norm"),
        note: "shape of gamma",
      },
      {
        inputs: { x: operandOf([2, 3, 4], around), mean: floats([3], [0, 0, 0]) },
        message: begins("batch_norm"),
        note: "missing operand",
      },
      {
        inputs: {
          x: { shape: [1, 2, 3], dtype: "int32", values: [1, 2, 3, 4, 5, 6] },
          mean: floats([2], [0, 0]),
          variance: floats([2], [1, 1]),
        },
        message: begins("batch_norm"),
        note: "int32 operand",
      },
    ],
  },
  instance_norm: {
    accepts: [
      { inputs: { x: operandOf([2, 3, 5], spaced) } },
      {
        inputs: {
          x: operandOf([2, 2, 3, 2], spaced),
          gamma: operandOf([2], around),
          beta: operandOf([2], around),
        },
      },
      { inputs: { x: operandOf([1, 3, 1, 7], spaced), gamma: operandOf([3], around) }, attrs: { epsilon: 0.5 } },
      { inputs: { x: operandOf([3, 1, 5], spaced), beta: operandOf([1], around) }, attrs: { epsilon: 0.125 } },
      {
        inputs: { x: operandOf([2, 3, 1, 1], around), gamma: operandOf([3], around), beta: operandOf([3], around) },
        note: "one spatial position has variance 0: beta everywhere",
      },
      {
        inputs: { x: floats([1, 2, 4], [5, 5, 5, 5, 60000, -60000, 30000, 0]), beta: floats([2], [1, 2]) },
        grad: false,
        note: "variance 0, and a variance beyond fp16 (inside fp32)",
      },
    ],
    refuses: [
      { inputs: { x: SMALL }, message: begins("instance_norm"), note: "rank 2" },
      { inputs: { x: operandOf([1, 2, 2, 2, 2], around) }, message: begins("instance_norm"), note: "rank 5" },
      {
        inputs: { x: operandOf([2, 3, 4], around), gamma: floats([4], [1, 1, 1, 1]) },
        message: begins("instance_norm"),
        note: "shape of gamma",
      },
      {
        inputs: { x: operandOf([2, 3, 4], around), beta: floats([1, 3], [1, 1, 1]) },
        message: begins("instance_norm"),
        note: "shape of beta",
      },
      {
        inputs: { x: { shape: [1, 2, 3], dtype: "int32", values: [1, 2, 3, 4, 5, 6] } },
        message: begins("instance_norm"),
        note: "int32 operand",
      },
    ],
  },
  l2_norm: {
    accepts: [
      { inputs: { x: operandOf([1, 1, 7], around) } },
      { inputs: { x: operandOf([2, 3, 4], { range: [0.5, 4] }) }, attrs: { epsilon: 0.5 } },
      { inputs: { x: operandOf([2, 3, 1, 2], around) }, attrs: { epsilon: 0.125 } },
      { inputs: { x: operandOf([2, 1, 3, 2, 2], around) } },
      {
        inputs: { x: floats([3, 1, 1, 2], [30000, -40000, 0, 0, 300, 400]) },
        grad: false,
        note: "squares beyond fp16 (inside fp32), and zeros that only epsilon keeps from 0/0",
      },
    ],
    refuses: [
      { inputs: { x: SMALL }, message: begins("l2_norm"), note: "rank 2" },
      { inputs: { x: operandOf([7], around) }, message: begins("l2_norm"), note: "rank 1" },
      {
        inputs: { x: operandOf([2, 3, 4], around) },
        attrs: { axes: [1] },
        message: begins("l2_norm"),
        note: "MIL's l2_norm has no axes",
      },
      { inputs: { x: INTS }, message: begins("l2_norm"), note: "int32 operand" },
      { inputs: { x: BOOLS }, message: begins("l2_norm"), note: "bool operand" },
    ],
  },
};
