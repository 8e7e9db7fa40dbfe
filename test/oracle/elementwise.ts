// Float64 references and cases of the elementwise operators: activations, arithmetic, comparisons, select and cast.
import {
  broadcastAt,
  broadcastShapes,
  build,
  mapElements,
  numberAttr,
  operand,
  sizeOf,
  stringAttr,
} from "./helpers.ts";
import type { CaseInput, OpCase, OpCases, Reference, RefusedCase } from "./types.ts";

// ---- References ----

/** The error function from its series of positive terms, erf(x) = 2/√π · e^(-x²) · Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1)). */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = 0;
  for (let n = 0; n < 300; n++) {
    sum += term;
    term *= (2 * x * x) / (2 * n + 3);
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

function softplus(x: number): number {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

function roundHalfToEven(x: number): number {
  const below = Math.floor(x);
  const fraction = x - below;
  if (fraction < 0.5) return below;
  if (fraction > 0.5) return below + 1;
  return below % 2 === 0 ? below : below + 1;
}

function gelu(x: number, mode: string): number {
  if (mode === "EXACT") return 0.5 * x * (1 + erf(x / Math.SQRT2));
  if (mode === "TANH_APPROXIMATION") {
    return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
  }
  if (mode === "SIGMOID_APPROXIMATION") return x * sigmoid(1.702 * x);
  throw new Error(`mode ${mode}`);
}

function unary(f: (x: number) => number): Reference {
  return (inputs) => [mapElements(operand(inputs, "x"), f)];
}

function binary(f: (x: number, y: number) => number): Reference {
  return (inputs) => {
    const x = operand(inputs, "x");
    const y = operand(inputs, "y");
    const shape = broadcastShapes(x.shape, y.shape);
    return [build(shape, (coordinates) => f(broadcastAt(x, coordinates), broadcastAt(y, coordinates)))];
  };
}

function comparison(f: (x: number, y: number) => boolean): Reference {
  return binary((x, y) => (f(x, y) ? 1 : 0));
}

export const references: Record<string, Reference> = {
  relu: unary((x) => Math.max(x, 0)),
  silu: unary((x) => x * sigmoid(x)),
  sigmoid: unary(sigmoid),
  tanh: unary(Math.tanh),
  exp: unary(Math.exp),
  exp2: unary((x) => 2 ** x),
  abs: unary(Math.abs),
  square: unary((x) => x * x),
  sin: unary(Math.sin),
  cos: unary(Math.cos),
  erf: unary(erf),
  softplus: unary(softplus),
  floor: unary(Math.floor),
  ceil: unary(Math.ceil),
  round: unary(roundHalfToEven),
  sign: unary(Math.sign),
  sqrt: unary(Math.sqrt),
  log: (inputs, attrs) => {
    const epsilon = numberAttr(attrs, "epsilon", 0);
    return [mapElements(operand(inputs, "x"), (x) => Math.log(x + epsilon))];
  },
  rsqrt: (inputs, attrs) => {
    const epsilon = numberAttr(attrs, "epsilon", 0);
    return [mapElements(operand(inputs, "x"), (x) => 1 / Math.sqrt(x + epsilon))];
  },
  inverse: (inputs, attrs) => {
    const epsilon = numberAttr(attrs, "epsilon", 0);
    return [mapElements(operand(inputs, "x"), (x) => 1 / (x + epsilon))];
  },
  gelu: (inputs, attrs) => {
    const mode = stringAttr(attrs, "mode", "EXACT");
    return [mapElements(operand(inputs, "x"), (x) => gelu(x, mode))];
  },
  elu: (inputs, attrs) => {
    const alpha = numberAttr(attrs, "alpha", 1);
    return [mapElements(operand(inputs, "x"), (x) => (x > 0 ? x : alpha * Math.expm1(x)))];
  },
  leaky_relu: (inputs, attrs) => {
    const alpha = numberAttr(attrs, "alpha", 0.01);
    return [mapElements(operand(inputs, "x"), (x) => (x >= 0 ? x : alpha * x))];
  },
  clip: (inputs, attrs) => {
    const low = numberAttr(attrs, "alpha");
    const high = numberAttr(attrs, "beta");
    return [mapElements(operand(inputs, "x"), (x) => Math.min(Math.max(x, low), high))];
  },
  add: binary((x, y) => x + y),
  sub: binary((x, y) => x - y),
  mul: binary((x, y) => x * y),
  real_div: binary((x, y) => x / y),
  pow: binary((x, y) => x ** y),
  maximum: binary(Math.max),
  minimum: binary(Math.min),
  equal: comparison((x, y) => x === y),
  not_equal: comparison((x, y) => x !== y),
  less: comparison((x, y) => x < y),
  less_equal: comparison((x, y) => x <= y),
  greater: comparison((x, y) => x > y),
  greater_equal: comparison((x, y) => x >= y),
  select: (inputs) => {
    const cond = operand(inputs, "cond");
    const a = operand(inputs, "a");
    const b = operand(inputs, "b");
    const shape = broadcastShapes(cond.shape, broadcastShapes(a.shape, b.shape));
    return [
      build(shape, (coordinates) =>
        broadcastAt(cond, coordinates) !== 0 ? broadcastAt(a, coordinates) : broadcastAt(b, coordinates),
      ),
    ];
  },
  cast: (inputs, attrs) => {
    const x = operand(inputs, "x");
    const dtype = stringAttr(attrs, "dtype");
    if (dtype === "fp16" || dtype === "fp32") return [x];
    if (dtype === "int32") return [mapElements(x, Math.trunc)];
    if (dtype === "bool") return [mapElements(x, (value) => (value !== 0 ? 1 : 0))];
    throw new Error(`dtype ${dtype}`);
  },
};

// ---- Cases ----

type Values = Omit<CaseInput, "shape">;

/** One shape of every rank, with axes of size 1 and odd sizes. */
const everyRank: readonly (readonly number[])[] = [[], [7], [3, 5], [2, 1, 5], [1, 3, 2, 2], [2, 1, 3, 1, 2]];

const SUBNORMALS = [1e-6, -1e-6, 3e-5, -3e-5, 6e-8];

function operandOf(shape: readonly number[], values: Values): CaseInput {
  return { ...values, shape };
}

/** The values in turn until the shape is full. */
function cycled(shape: readonly number[], values: readonly number[], dtype: "float" | "int32" | "bool" = "float") {
  const filled: number[] = [];
  for (let i = 0; i < sizeOf(shape); i++) filled.push(values[i % values.length]!);
  return { shape, dtype, values: filled } satisfies CaseInput;
}

/** A vector of the given values. */
function vector(values: readonly number[], dtype: "float" | "int32" | "bool" = "float"): CaseInput {
  return cycled([values.length], values, dtype);
}

function ranks(values: Values): OpCase[] {
  return everyRank.map((shape) => ({ inputs: { x: operandOf(shape, values) } }));
}

/** Given values; without gradient unless asked for. */
function fixed(values: readonly number[], note: string, more: Omit<OpCase, "inputs" | "note"> = {}): OpCase {
  return { inputs: { x: vector(values) }, note, grad: false, ...more };
}

function begins(op: string): RegExp {
  return new RegExp(`^${op}: `);
}

const SMALL: CaseInput = { shape: [2, 3], range: [0.5, 1] };
const INTS: CaseInput = { shape: [2, 3], dtype: "int32", values: [1, 2, 3, 4, 5, 6] };
const BOOLS: CaseInput = { shape: [2, 3], dtype: "bool", values: [1, 0, 1, 0, 0, 1] };

function unaryRefuses(op: string, takesInt32InMil = false): RefusedCase[] {
  const message = begins(op);
  const refuses: RefusedCase[] = [
    { inputs: { x: BOOLS }, message, note: "bool operand" },
    { inputs: { x: { shape: [], dtype: "bool", values: [1] } }, message, note: "bool scalar" },
    { inputs: {}, message, note: "missing operand" },
  ];
  if (!takesInt32InMil) refuses.unshift({ inputs: { x: INTS }, message, note: "int32 operand" });
  return refuses;
}

function unaryOp(op: string, values: Values, extremes: readonly OpCase[], takesInt32InMil = false): OpCases {
  return { accepts: [...ranks(values), ...extremes], refuses: unaryRefuses(op, takesInt32InMil) };
}

/** Pairs of shapes that broadcast, in both directions and over every rank. */
const broadcastPairs: readonly (readonly [readonly number[], readonly number[]])[] = [
  [
    [2, 3],
    [2, 3],
  ],
  [[], []],
  [[5], []],
  [[], [2, 2]],
  [
    [3, 1],
    [1, 4],
  ],
  [[2, 3, 4], [4]],
  [[5], [2, 1, 5]],
  [
    [1, 3, 1, 2],
    [2, 1, 4, 1],
  ],
  [
    [2, 1, 3, 1, 2],
    [1, 2, 1, 2, 1],
  ],
];

function pairs(x: Values, y: Values): OpCase[] {
  return broadcastPairs.map(([shapeX, shapeY]) => ({ inputs: { x: operandOf(shapeX, x), y: operandOf(shapeY, y) } }));
}

function fixedPair(
  x: readonly number[],
  y: readonly number[],
  note: string,
  more: Omit<OpCase, "inputs" | "note"> = {},
): OpCase {
  return { inputs: { x: vector(x), y: vector(y) }, note, grad: false, ...more };
}

function int32Pair(x: readonly number[], y: readonly number[], note: string): OpCase {
  return { inputs: { x: vector(x, "int32"), y: vector(y, "int32") }, note, grad: false };
}

function binaryRefuses(op: string, takesInt32: boolean): RefusedCase[] {
  const message = begins(op);
  const refuses: RefusedCase[] = [
    { inputs: { x: { ...SMALL, shape: [2, 3] }, y: { ...SMALL, shape: [2, 4] } }, message, note: "shapes" },
    { inputs: { x: { ...SMALL, shape: [3, 1, 2] }, y: { ...SMALL, shape: [2, 2, 2] } }, message, note: "shapes" },
    { inputs: { x: SMALL, y: INTS }, message, note: "dtypes differ" },
    { inputs: { x: BOOLS, y: BOOLS }, message, note: "bool operands" },
    { inputs: { x: SMALL }, message, note: "missing operand" },
  ];
  if (!takesInt32) refuses.push({ inputs: { x: INTS, y: INTS }, message, note: "int32 operands" });
  return refuses;
}

function binaryOp(op: string, accepts: readonly OpCase[], takesInt32: boolean): OpCases {
  return { accepts, refuses: binaryRefuses(op, takesInt32) };
}

/** Around integers and around half-integers: x and y never come closer to each other than 0.1. */
const nearHalves: Values = { range: [-3, 3], avoid: [-3, -2, -1, 0, 1, 2, 3], margin: 0.3 };
const nearIntegers: Values = { range: [-3, 3], avoid: [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], margin: 0.3 };

function comparisonOp(op: string): OpCases {
  const some = [1, 2.5, -3, 0, 2, 2];
  const others = [1, 2, -3, 0.5, 2.5];
  const accepts = broadcastPairs
    .filter((_, index) => index !== 0 && index !== 4)
    .map(
      ([shapeX, shapeY]): OpCase => ({ inputs: { x: cycled(shapeX, some), y: cycled(shapeY, others) }, grad: false }),
    );
  return {
    accepts: [
      ...accepts,
      fixedPair([60000, 60000, 1e-6, 2e-6, 0, 0.1], [59968, 60000, 2e-6, 1e-6, -0, 0.1], "extremes and signed zero"),
      int32Pair([16777217, 16777216, -5, 3], [16777216, 16777217, -5, 4], "not representable in fp32"),
      {
        inputs: { x: cycled([2, 3], [1, 2, 3, -4], "int32"), y: { shape: [], dtype: "int32", values: [2] } },
        grad: false,
      },
    ],
    refuses: binaryRefuses(op, true),
  };
}

function epsilonRefuses(op: string): RefusedCase[] {
  return [
    ...unaryRefuses(op),
    { inputs: { x: SMALL }, attrs: { epsilon: "small" }, message: begins(op), note: "epsilon is not a number" },
  ];
}

function withAttrs(values: readonly OpCase[], attrs: Readonly<Record<string, unknown>>): OpCase[] {
  return values.map((one) => ({ ...one, attrs }));
}

const around: Values = { range: [-4, 4] };
const awayFromZero: Values = { range: [-4, 4], avoid: [0], margin: 0.1 };
const halves = [-4, -3, -2, -1, 0, 1, 2, 3].map((x) => x + 0.5);
const integers = [-4, -3, -2, -1, 0, 1, 2, 3, 4];
const positive: Values = { range: [0.2, 8] };
const saturated = [-60000, -100, -20, -12, 12, 20, 100, 60000];

export const cases: Record<string, OpCases> = {
  relu: unaryOp("relu", awayFromZero, [
    fixed([0, -0, 60000, -60000], "the kink and the largest values"),
    fixed(SUBNORMALS, "subnormal in fp16"),
  ]),
  silu: unaryOp("silu", around, [fixed(saturated, "saturated"), fixed([0, ...SUBNORMALS], "subnormal in fp16")]),
  sigmoid: unaryOp("sigmoid", around, [
    fixed(saturated, "saturated"),
    fixed([0, ...SUBNORMALS], "subnormal in fp16, result 0.5"),
  ]),
  tanh: unaryOp("tanh", { range: [-3, 3] }, [
    fixed(saturated, "saturated"),
    fixed([0, ...SUBNORMALS], "subnormal in fp16"),
  ]),
  exp: unaryOp("exp", { range: [-3, 3] }, [
    fixed([11, 10.9375, 11.0625, 10], "results near the end of fp16"),
    fixed([-5, -9, -10, -20, -100], "results subnormal or zero in fp16"),
    fixed([80, -80, 88], "results near the end of fp32", { dtypes: ["fp32"] }),
  ]),
  exp2: unaryOp(
    "exp2",
    around,
    [
      fixed([15.875, 15, 10, -14, -20, -24], "powers at the ends of fp16"),
      fixed([-5, -4, -1, 0, 1, 2, 3], "whole exponents", { grad: true }),
      fixed([126.5, -120, 60], "results near the end of fp32", { dtypes: ["fp32"] }),
    ],
    true,
  ),
  abs: unaryOp(
    "abs",
    awayFromZero,
    [fixed([0, -0, 60000, -60000], "the kink and the largest values"), fixed(SUBNORMALS, "subnormal in fp16")],
    true,
  ),
  square: unaryOp(
    "square",
    around,
    [
      fixed([0, 250, -250, 255.5], "results near the end of fp16"),
      fixed([2 ** -10, -(2 ** -11), 3 * 2 ** -11], "results subnormal in fp16, exact"),
    ],
    true,
  ),
  sin: unaryOp("sin", around, [
    fixed([0, 1e-6, -1e-6, 50, -100.5, 500], "tiny and large angles"),
    fixed([1e4, -12345.678], "large angles", { dtypes: ["fp32"] }),
  ]),
  cos: unaryOp("cos", around, [
    fixed([0, 1e-6, -1e-6, 50, -100.5, 500], "tiny and large angles"),
    fixed([1e4, -12345.678], "large angles", { dtypes: ["fp32"] }),
  ]),
  erf: unaryOp("erf", { range: [-2.5, 2.5] }, [
    fixed([-60000, -4, -3, 3, 4, 60000], "saturated"),
    fixed([0, ...SUBNORMALS], "subnormal in fp16"),
  ]),
  softplus: unaryOp("softplus", around, [
    fixed(saturated, "saturated; negative ones are zero in fp16"),
    fixed([0, ...SUBNORMALS], "ln 2"),
  ]),
  floor: unaryOp("floor", { range: [-4, 4], avoid: integers, margin: 0.1 }, [
    fixed(integers, "integers"),
    fixed([-0.5, 0.5, 1023.5, -1023.5, 60000, -60000, 1e-6, -1e-6], "halves, large and tiny values"),
  ]),
  ceil: unaryOp("ceil", { range: [-4, 4], avoid: integers, margin: 0.1 }, [
    fixed(integers, "integers"),
    fixed([-0.5, 0.5, 1023.5, -1023.5, 60000, -60000, 1e-6, -1e-6], "halves, large and tiny values"),
  ]),
  round: unaryOp("round", { range: [-4, 4], avoid: halves, margin: 0.1 }, [
    fixed(halves, "halves go to the even neighbour"),
    fixed(integers, "integers"),
    fixed([1022.5, 1023.5, -1023.5, 60000, -60000, 1e-6, 0.49, -0.51], "large and tiny values"),
  ]),
  sign: unaryOp(
    "sign",
    awayFromZero,
    [fixed([0, -0, 60000, -60000], "zero and the largest values"), fixed(SUBNORMALS, "subnormal in fp16")],
    true,
  ),
  sqrt: unaryOp("sqrt", positive, [
    fixed([0, 1, 4, 60000, 65504], "zero and the largest values"),
    fixed([1e-6, 3e-5, 1e-4], "subnormal in fp16"),
  ]),
  log: {
    accepts: [
      ...ranks(positive),
      ...withAttrs(ranks({ range: [0, 4] }).slice(1, 3), { epsilon: 0.5 }),
      { ...fixed([0, 0.875, -0.0625], "the operand alone has no logarithm"), attrs: { epsilon: 0.125 } },
      fixed([1, 60000, 1e-6, 3e-5], "results 0, 11 and -14"),
    ],
    refuses: epsilonRefuses("log"),
  },
  rsqrt: {
    accepts: [
      ...ranks(positive),
      ...withAttrs(ranks({ range: [0, 4] }).slice(1, 3), { epsilon: 0.5 }),
      { ...fixed([0, 4 - 0.0625, 60000], "zero with epsilon"), attrs: { epsilon: 0.0625 } },
      fixed([1, 60000, 1e-6, 3e-5], "results from 0.004 to 1000"),
    ],
    refuses: epsilonRefuses("rsqrt"),
  },
  inverse: {
    accepts: [
      ...ranks({ range: [-4, 4], avoid: [0], margin: 0.3 }),
      ...withAttrs(ranks({ range: [0, 4] }).slice(1, 3), { epsilon: 0.5 }),
      { ...fixed([0, -0.125, 60000], "zero with epsilon"), attrs: { epsilon: 0.0625 } },
      fixed([1, 60000, -60000, 2 ** -14, 2e-5, -3e-5], "results up to 50000"),
    ],
    refuses: epsilonRefuses("inverse"),
  },
  gelu: {
    accepts: [
      ...ranks(around).slice(0, 4),
      ...withAttrs(ranks(around).slice(0, 1), { mode: "EXACT" }),
      ...withAttrs(ranks(around).slice(2, 4), { mode: "TANH_APPROXIMATION" }),
      ...withAttrs(ranks(around).slice(4, 6), { mode: "SIGMOID_APPROXIMATION" }),
      fixed([...saturated, 0, 1e-6], "saturated"),
      { ...fixed([...saturated, 0, 1e-6], "saturated"), attrs: { mode: "TANH_APPROXIMATION" } },
      { ...fixed([...saturated, 0, 1e-6], "saturated"), attrs: { mode: "SIGMOID_APPROXIMATION" } },
    ],
    refuses: [
      ...unaryRefuses("gelu"),
      { inputs: { x: SMALL }, attrs: { mode: "exact" }, message: begins("gelu"), note: "modes are upper case" },
      { inputs: { x: SMALL }, attrs: { mode: "TANH" }, message: begins("gelu"), note: "unknown mode" },
    ],
  },
  elu: {
    accepts: [
      ...ranks(awayFromZero).slice(0, 4),
      ...withAttrs(ranks(awayFromZero).slice(4, 5), { alpha: 0.5 }),
      ...withAttrs(ranks(awayFromZero).slice(5, 6), { alpha: 2 }),
      fixed([0, ...saturated], "the kink and saturation"),
      { ...fixed([0, ...saturated], "the kink and saturation"), attrs: { alpha: 0.25 } },
      fixed(SUBNORMALS, "subnormal in fp16"),
    ],
    refuses: [
      ...unaryRefuses("elu"),
      { inputs: { x: SMALL }, attrs: { alpha: "one" }, message: begins("elu"), note: "alpha is not a number" },
    ],
  },
  leaky_relu: {
    accepts: [
      ...ranks(awayFromZero).slice(0, 3),
      ...withAttrs(ranks(awayFromZero).slice(3, 4), { alpha: 0.25 }),
      ...withAttrs(ranks(awayFromZero).slice(4, 5), { alpha: 0 }),
      ...withAttrs(ranks(awayFromZero).slice(5, 6), { alpha: 1 }),
      fixed([0, -0, 60000, -60000, 1e-6], "the kink and the largest values"),
      { ...fixed([-(2 ** -20), -(2 ** -18), 2 ** -20], "subnormal in fp16, exact"), attrs: { alpha: 0.25 } },
    ],
    refuses: [
      ...unaryRefuses("leaky_relu"),
      { inputs: { x: SMALL }, attrs: { alpha: "one" }, message: begins("leaky_relu"), note: "alpha is not a number" },
    ],
  },
  clip: {
    accepts: [
      ...withAttrs(ranks({ range: [-4, 4], avoid: [-1, 1], margin: 0.1 }).slice(0, 3), { alpha: -1, beta: 1 }),
      ...withAttrs(ranks({ range: [-2, 8], avoid: [0, 6], margin: 0.1 }).slice(3, 4), { alpha: 0, beta: 6 }),
      ...withAttrs(ranks({ range: [-4, 4], avoid: [-3, -1.5], margin: 0.1 }).slice(4, 5), { alpha: -3, beta: -1.5 }),
      ...withAttrs(ranks({ range: [-4, 4], avoid: [0.1, 0.7], margin: 0.05 }).slice(5, 6), { alpha: 0.1, beta: 0.7 }),
      { inputs: { x: { shape: [5], range: [3, 4] } }, attrs: { alpha: -1, beta: 1 }, note: "all above" },
      { inputs: { x: { shape: [5], range: [-4, -3] } }, attrs: { alpha: -1, beta: 1 }, note: "all below" },
      { ...fixed([-2, -2.5, 3, 3.5, 0], "on the bounds"), attrs: { alpha: -2, beta: 3 } },
      { ...fixed([60000, -60000, 1e-6, -1e-6], "wide bounds"), attrs: { alpha: -30000, beta: 50000 } },
    ],
    refuses: [
      { inputs: { x: INTS }, attrs: { alpha: 0, beta: 1 }, message: begins("clip"), note: "int32 operand" },
      { inputs: { x: BOOLS }, attrs: { alpha: 0, beta: 1 }, message: begins("clip"), note: "bool operand" },
      { inputs: { x: SMALL }, attrs: { alpha: 0 }, message: begins("clip"), note: "beta is missing" },
      { inputs: { x: SMALL }, attrs: { beta: 1 }, message: begins("clip"), note: "alpha is missing" },
      { inputs: { x: SMALL }, attrs: { alpha: 2, beta: -2 }, message: begins("clip"), note: "low above high" },
      { inputs: { x: SMALL }, attrs: { alpha: "0", beta: 1 }, message: begins("clip"), note: "alpha is not a number" },
    ],
  },
  add: binaryOp(
    "add",
    [
      ...pairs(around, around).filter((_, index) => index !== 1),
      fixedPair(
        [1000.5, -2048, 60000, 1e-6, -3e-5, 60000],
        [-1000, 2047, -59968, 2e-6, 1e-6, 5000],
        "cancellation, subnormals and the largest values",
      ),
      int32Pair([2147483647, -2147483648, 16777217, 5], [-1, 1, 2, -5], "needs all bits of int32"),
    ],
    true,
  ),
  sub: binaryOp(
    "sub",
    [
      ...pairs(around, around).filter((_, index) => index !== 1),
      fixedPair(
        [1000.5, -2048, 60000, 3e-6, 1e-6, -60000],
        [1000, -2047, 59968, 2e-6, 3e-5, 5000],
        "cancellation, subnormals and the largest values",
      ),
      int32Pair([2147483647, -2147483648, 16777217, 5], [1, -1, -2, 5], "needs all bits of int32"),
    ],
    true,
  ),
  mul: binaryOp(
    "mul",
    [
      ...pairs(around, around).filter((_, index) => index !== 1),
      fixedPair(
        [250, -250, 2 ** -10, 3 * 2 ** -11, 60000, 0, 60000],
        [240, 256, 2 ** -10, 2 ** -12, 0.5, -60000, 2 ** -14],
        "largest values and products that are subnormal in fp16, exact",
      ),
      int32Pair([46340, 65536, 16777217, -3, 0], [46340, -32768, 3, 7, 5], "needs all bits of int32"),
    ],
    true,
  ),
  real_div: binaryOp(
    "real_div",
    [
      ...pairs(around, { range: [-4, 4], avoid: [0], margin: 0.5 }),
      fixedPair(
        [60000, -60000, 2 ** -10, 3, 0, 30000, 6e4],
        [7, 60000, 1024, 2 ** -14, 5, 0.5, -1.5],
        "largest values and quotients that are subnormal in fp16, exact",
      ),
    ],
    false,
  ),
  pow: binaryOp(
    "pow",
    [
      ...pairs({ range: [0.3, 3] }, { range: [-2, 2] }).filter((_, index) => index !== 1 && index !== 4),
      {
        inputs: { x: { shape: [2, 5], range: [0.3, 3] }, y: { shape: [], values: [-0.5] } },
        note: "reciprocal square root",
      },
      fixedPair([-2, -2, -1.5, 0, 0, 5, -7], [3, -2, 2, 2, 0.5, 0, 1], "negative and zero bases"),
      fixedPair([2, 60000, 245, 10, 2, 10], [15.875, 1, 2, -4, -20, 4.75], "ends of fp16"),
    ],
    false,
  ),
  maximum: binaryOp(
    "maximum",
    [
      ...pairs(nearHalves, nearIntegers).filter((_, index) => index !== 1),
      fixedPair([60000, -60000, 1e-6, 2, 0], [59968, 60000, 2e-6, 2, -1e-6], "ties, subnormals and the largest values"),
      int32Pair([16777217, -2147483648, 3, 4], [16777216, 2147483647, 3, -4], "needs all bits of int32"),
    ],
    true,
  ),
  minimum: binaryOp(
    "minimum",
    [
      ...pairs(nearHalves, nearIntegers).filter((_, index) => index !== 1),
      fixedPair([60000, -60000, 1e-6, 2, 0], [59968, 60000, 2e-6, 2, -1e-6], "ties, subnormals and the largest values"),
      int32Pair([16777217, -2147483648, 3, 4], [16777216, 2147483647, 3, -4], "needs all bits of int32"),
    ],
    true,
  ),
  equal: comparisonOp("equal"),
  not_equal: comparisonOp("not_equal"),
  less: comparisonOp("less"),
  less_equal: comparisonOp("less_equal"),
  greater: comparisonOp("greater"),
  greater_equal: comparisonOp("greater_equal"),
  select: {
    accepts: [
      {
        inputs: {
          cond: cycled([2, 3], [1, 0, 0, 1, 1, 0], "bool"),
          a: operandOf([2, 3], around),
          b: operandOf([2, 3], around),
        },
      },
      { inputs: { cond: cycled([], [1], "bool"), a: operandOf([], around), b: operandOf([], around) } },
      {
        inputs: { cond: cycled([], [0], "bool"), a: operandOf([2, 3], around), b: operandOf([3], around) },
        note: "one condition for all; the operand that is not taken still sets the shape",
      },
      {
        inputs: { cond: cycled([7], [0, 1, 1], "bool"), a: operandOf([], around), b: operandOf([7], around) },
      },
      {
        inputs: {
          cond: cycled([2, 1, 1], [1, 0], "bool"),
          a: operandOf([3, 1], around),
          b: operandOf([4], around),
        },
        note: "three different shapes",
      },
      {
        inputs: {
          cond: cycled([2, 1, 4, 4], [1, 0, 1, 1, 0], "bool"),
          a: operandOf([2, 3, 1, 4], around),
          b: { shape: [], values: [-1000] },
        },
        note: "an attention mask",
      },
      {
        inputs: {
          cond: cycled([1, 2, 1, 2, 1], [0, 1, 1], "bool"),
          a: operandOf([2, 1, 3, 1, 2], around),
          b: operandOf([1], around),
        },
      },
      {
        inputs: {
          cond: cycled([5], [1, 0, 1, 0, 1], "bool"),
          a: vector([60000, 60000, 1e-6, 0, -0]),
          b: vector([-60000, -60000, 2, 3e-5, 1]),
        },
        grad: false,
        note: "extremes",
      },
      {
        inputs: {
          cond: cycled([2, 2], [1, 0, 0, 1], "bool"),
          a: vector([16777217, 2147483647], "int32"),
          b: cycled([2, 1], [-7, -2147483648], "int32"),
        },
        grad: false,
      },
    ],
    refuses: [
      { inputs: { cond: SMALL, a: SMALL, b: SMALL }, message: begins("select"), note: "float condition" },
      { inputs: { cond: INTS, a: SMALL, b: SMALL }, message: begins("select"), note: "int32 condition" },
      { inputs: { cond: BOOLS, a: SMALL, b: INTS }, message: begins("select"), note: "dtypes differ" },
      { inputs: { cond: BOOLS, a: SMALL, b: operandOf([2, 4], around) }, message: begins("select"), note: "shapes" },
      {
        inputs: { cond: cycled([3, 3], [1, 0], "bool"), a: SMALL, b: SMALL },
        message: begins("select"),
        note: "shapes",
      },
      { inputs: { cond: BOOLS, a: SMALL }, message: begins("select"), note: "missing operand" },
    ],
  },
  cast: {
    accepts: [
      { inputs: { x: operandOf([2, 1, 3, 1, 2], around) }, attrs: { dtype: "fp32" } },
      {
        inputs: { x: cycled([3, 2], [0, -1.5, 60000, 0.25, 1023.5, 2 ** -20]) },
        attrs: { dtype: "fp16" },
        note: "exact in fp16",
      },
      {
        inputs: { x: operandOf([2, 3, 2], { range: [1, 4] }) },
        attrs: { dtype: "fp16" },
        dtypes: ["fp32"],
        tolerance: 1000,
        note: "fp32 rounded to fp16, half a unit in the last place is 2^-11",
      },
      {
        ...fixed([-2.7, -0.5, 0, 0.5, 2.7, 3, 1023.5, -1023.5, 60000], "towards zero"),
        attrs: { dtype: "int32" },
      },
      { ...fixed([1e9, -2147483648, 16777216], "large", { dtypes: ["fp32"] }), attrs: { dtype: "int32" } },
      { ...fixed([0, -0, 1e-6, -3, 60000, 0.5], "anything but zero is true"), attrs: { dtype: "bool" } },
      { inputs: { x: { shape: [], values: [-2.5] } }, attrs: { dtype: "int32" }, grad: false },
      { inputs: { x: cycled([2, 3], [0, -7, 2048, 100, -2047], "int32") }, attrs: { dtype: "fp16" }, grad: false },
      { inputs: { x: cycled([1, 5], [0, -7, 16777216, 3], "int32") }, attrs: { dtype: "fp32" }, grad: false },
      { inputs: { x: cycled([5], [0, -7, 2147483647, 1], "int32") }, attrs: { dtype: "bool" }, grad: false },
      { inputs: { x: cycled([5], [0, -7, 2147483647, 1], "int32") }, attrs: { dtype: "int32" }, grad: false },
      { inputs: { x: BOOLS }, attrs: { dtype: "fp16" }, grad: false },
      { inputs: { x: BOOLS }, attrs: { dtype: "fp32" }, grad: false },
      { inputs: { x: BOOLS }, attrs: { dtype: "int32" }, grad: false },
      { inputs: { x: BOOLS }, attrs: { dtype: "bool" }, grad: false },
    ],
    refuses: [
      { inputs: { x: SMALL }, attrs: { dtype: "fp64" }, message: begins("cast"), note: "unknown dtype" },
      { inputs: { x: SMALL }, attrs: { dtype: "float" }, message: begins("cast"), note: "unknown dtype" },
      { inputs: { x: INTS }, attrs: { dtype: "string" }, message: begins("cast"), note: "unknown dtype" },
      { inputs: { x: SMALL }, message: begins("cast"), note: "dtype is missing" },
      { inputs: {}, attrs: { dtype: "fp16" }, message: begins("cast"), note: "missing operand" },
    ],
  },
};
