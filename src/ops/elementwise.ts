// Elementwise operators: activations, arithmetic, comparison, selection, conversion.

import { isFloat } from "../core/dtype.ts";
import { formatShape, ShapeError } from "../core/errors.ts";
import { type Aval, broadcastShapes, broadcastStrides } from "../core/shape.ts";
import { erf as erf_, roundHalfEven, sigmoid as sigmoid_ } from "../core/special.ts";
import type { Tensor } from "../tensor.ts";
import {
  anything,
  booleans,
  defineOp,
  float as floatAttr,
  floats,
  type KernelArray,
  numbers,
  oneOf,
  type VjpContext,
} from "./define.ts";
import { map, offsetsOf, zip } from "./kernels/loops.ts";
import { never, since } from "./support.ts";
import type { Lane, Lanes } from "./vector.ts";

type LaneFunction = (v: Lanes, ...lanes: Lane[]) => Lane;

/** Marks a lane function whose result is the exact one, rounded once. */
const exact = (f: LaneFunction) => ({ f, exact: true });
const approximate = (f: LaneFunction) => ({ f, exact: false });
type NativeForm = ReturnType<typeof exact>;

type UnaryVjp = (x: Tensor, context: VjpContext) => Tensor;

function unary(
  name: string,
  doc: string,
  f: (x: number) => number,
  lanes: NativeForm,
  vjp: UnaryVjp | null,
  support?: ReturnType<typeof since>,
) {
  return defineOp({
    name,
    doc,
    inputs: { x: floats },
    attrs: {},
    elementwise: true,
    infer: ({ x }) => x,
    vjp: vjp && (({ x }, _attrs, context) => ({ x: () => vjp(x, context) })),
    kernel: map(f),
    native: (n, { x }, _attrs, [out]) => n.map(out.dtype, [x], lanes.f),
    nativeExact: lanes.exact,
    ...(support !== undefined && { support }),
  });
}

export const relu = unary(
  "relu",
  "max(x, 0).",
  (x) => (x > 0 || Number.isNaN(x) ? x : 0),
  exact((v, x) => v.select(v.le(x!, v.f(0)), v.f(0), x!)),
  (x, { g }) => x.greater(0).select(g, 0),
);
export const sigmoid = unary(
  "sigmoid",
  "1 / (1 + e^-x).",
  sigmoid_,
  approximate((v, x) => v.sigmoid(x!)),
  (_x, { g, out }) => g.mul(out).mul(out.neg().add(1)),
);
export const silu = unary(
  "silu",
  "x sigmoid(x), also called swish.",
  (x) => (x === Number.NEGATIVE_INFINITY ? 0 : x * sigmoid_(x)),
  approximate((v, x) => v.select(v.eq(x!, v.f(Number.NEGATIVE_INFINITY)), v.f(0), v.mul(x!, v.sigmoid(x!)))),
  (x, { g }) => {
    const s = x.sigmoid();
    return g.mul(s.mul(x.mul(s.neg().add(1)).add(1)));
  },
);
export const tanh = unary(
  "tanh",
  "Hyperbolic tangent.",
  Math.tanh,
  approximate((v, x) => v.tanh(x!)),
  (_x, { g, out }) => g.sub(g.mul(out).mul(out)),
);
export const exp = unary(
  "exp",
  "e^x.",
  Math.exp,
  approximate((v, x) => v.exp(x!)),
  (_x, { g, out }) => g.mul(out),
);
export const exp2 = unary(
  "exp2",
  "2^x.",
  (x) => 2 ** x,
  approximate((v, x) => v.exp2(x!)),
  (_x, { g, out }) => g.mul(out).mul(Math.LN2),
);
export const abs = unary(
  "abs",
  "Absolute value; the derivative at 0 is 0.",
  Math.abs,
  exact((v, x) => v.abs(x!)),
  (x, { g }) => g.mul(x.sign()),
);
export const square = unary(
  "square",
  "x^2.",
  (x) => x * x,
  exact((v, x) => v.mul(x!, x!)),
  (x, { g }) => g.mul(x).mul(2),
);
export const sqrt = unary(
  "sqrt",
  "Square root.",
  Math.sqrt,
  exact((v, x) => v.sqrt(x!)),
  (_x, { g, out }) => g.mul(0.5).div(out),
);
const polynomial = since("A15", "below it use a polynomial of the argument reduced to [-pi/2, pi/2]");
export const sin = unary(
  "sin",
  "Sine of x in radians.",
  Math.sin,
  approximate((v, x) => v.sin(x!)),
  (x, { g }) => g.mul(x.cos()),
  polynomial,
);
export const cos = unary(
  "cos",
  "Cosine of x in radians.",
  Math.cos,
  approximate((v, x) => v.cos(x!)),
  (x, { g }) => g.mul(x.sin()).neg(),
  polynomial,
);
export const erf = unary(
  "erf",
  "Error function.",
  erf_,
  approximate((v, x) => v.erf(x!)),
  (x, { g }) => g.mul(x.square().neg().exp()).mul(2 / Math.sqrt(Math.PI)),
);
export const softplus = unary(
  "softplus",
  "log(1 + e^x).",
  (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  approximate((v, x) => v.add(v.max(x!, v.f(0)), v.log1p(v.exp(v.neg(v.abs(x!)))))),
  (x, { g }) => g.mul(x.sigmoid()),
);
export const floor = unary(
  "floor",
  "Largest integer not above x.",
  Math.floor,
  exact((v, x) => v.floor(x!)),
  null,
);
export const ceil = unary(
  "ceil",
  "Smallest integer not below x.",
  Math.ceil,
  exact((v, x) => v.ceil(x!)),
  null,
);
export const round = unary(
  "round",
  "Nearest integer, ties to even.",
  roundHalfEven,
  exact((v, x) => v.round(x!)),
  null,
);
export const sign = unary(
  "sign",
  "-1, 0 or 1.",
  Math.sign,
  exact((v, x) => v.select(v.gt(x!, v.f(0)), v.f(1), v.select(v.lt(x!, v.f(0)), v.f(-1), x!))),
  null,
);

/** log, rsqrt, inverse: MIL adds `epsilon` to the operand. */
function withEpsilon(
  name: string,
  milDefault: number,
  doc: string,
  f: (x: number) => number,
  lanes: LaneFunction,
  vjp: (x: Tensor, context: VjpContext) => Tensor,
) {
  return defineOp({
    name,
    doc,
    inputs: { x: floats },
    attrs: { epsilon: { ...floatAttr(0), milDefault } },
    elementwise: true,
    infer: ({ x }) => x,
    vjp: ({ x }, { epsilon }, context) => ({ x: () => vjp(epsilon === 0 ? x : x.add(epsilon), context) }),
    kernel: ({ x }, { epsilon }, [out]) => map((value) => f(value + epsilon))({ x }, undefined, [out]),
    native: (n, { x }, { epsilon }, [out]) => n.map(out.dtype, [x], (v, lane) => lanes(v, v.add(lane!, v.f(epsilon)))),
  });
}
export const log = withEpsilon(
  "log",
  1e-45,
  "Natural logarithm of x + epsilon.",
  Math.log,
  (v, x) => v.log(x!),
  (x, { g }) => g.div(x),
);
export const rsqrt = withEpsilon(
  "rsqrt",
  1e-12,
  "1 / sqrt(x + epsilon).",
  (x) => 1 / Math.sqrt(x),
  (v, x) => v.div(v.f(1), v.sqrt(x!)),
  // One factor at a time onto the cotangent: out^3 alone leaves the fp16 range at x = 6e-4.
  (_x, { g, out }) => g.mul(-0.5).mul(out).mul(out).mul(out),
);
export const inverse = withEpsilon(
  "inverse",
  1e-4,
  "1 / (x + epsilon).",
  (x) => 1 / x,
  (v, x) => v.div(v.f(1), x!),
  (_x, { g, out }) => g.mul(out).mul(out).neg(),
);

const geluTanh = Math.sqrt(2 / Math.PI);
const geluModes = {
  EXACT: (x: number) => 0.5 * x * (1 + erf_(x / Math.SQRT2)),
  TANH_APPROXIMATION: (x: number) => 0.5 * x * (1 + Math.tanh(geluTanh * (x + 0.044715 * x ** 3))),
  SIGMOID_APPROXIMATION: (x: number) => x * sigmoid_(1.702 * x),
};
const geluLanes: Readonly<Record<keyof typeof geluModes, LaneFunction>> = {
  EXACT: (v, x) => {
    const half = v.mul(x!, v.f(0.5));
    return v.fma(half, v.erf(v.mul(x!, v.f(Math.SQRT1_2))), half);
  },
  TANH_APPROXIMATION: (v, x) => {
    const half = v.mul(x!, v.f(0.5));
    const inner = v.mul(v.mul(x!, v.f(geluTanh)), v.fma(v.mul(x!, x!), v.f(0.044715), v.f(1)));
    return v.fma(half, v.tanh(inner), half);
  },
  SIGMOID_APPROXIMATION: (v, x) => v.mul(x!, v.sigmoid(v.mul(x!, v.f(1.702)))),
};
export const gelu = defineOp({
  name: "gelu",
  doc: "Gaussian error linear unit x Phi(x): exact, or with Phi approximated by tanh or by sigmoid(1.702 x) (Hendrycks and Gimpel 2016).",
  inputs: { x: floats },
  attrs: { mode: oneOf(["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"], "EXACT") },
  elementwise: true,
  infer: ({ x }) => x,
  vjp: ({ x }, { mode }, { g }) => ({
    x: () => {
      if (mode === "EXACT") {
        const density = x
          .square()
          .mul(-0.5)
          .exp()
          .mul(1 / Math.sqrt(2 * Math.PI));
        return g.mul(x.mul(Math.SQRT1_2).erf().add(1).mul(0.5).add(x.mul(density)));
      }
      if (mode === "SIGMOID_APPROXIMATION") {
        const inner = x.clip(-20, 20).mul(1.702); // beyond, the sigmoid is 0 or 1 and the second term must not become inf * 0
        const s = inner.sigmoid();
        return g.mul(s.add(inner.mul(s).mul(s.neg().add(1))));
      }
      // Outside |x| < 8 tanh is +-1 to fp32 accuracy and the product with the cubic's slope must not become inf * 0.
      const inner = x.clip(-8, 8);
      const t = inner.square().mul(0.044715).add(1).mul(inner).mul(geluTanh).tanh();
      const slope = inner
        .square()
        .mul(3 * 0.044715)
        .add(1)
        .mul(geluTanh);
      const bell = t.square().neg().add(1);
      return g.mul(t.add(1).mul(0.5).add(inner.mul(0.5).mul(bell).mul(slope)));
    },
  }),
  kernel: ({ x }, { mode }, [out]) => map(geluModes[mode as keyof typeof geluModes])({ x }, undefined, [out]),
  native: (n, { x }, { mode }, [out]) => n.map(out.dtype, [x], geluLanes[mode as keyof typeof geluLanes]),
});

export const elu = defineOp({
  name: "elu",
  doc: "x where x > 0, else alpha (e^x - 1).",
  inputs: { x: floats },
  attrs: { alpha: floatAttr(1) },
  elementwise: true,
  infer: ({ x }) => x,
  vjp: ({ x }, { alpha }, { g, out }) => ({ x: () => x.greater(0).select(g, g.mul(out.add(alpha))) }),
  kernel: ({ x }, { alpha }, [out]) => map((v) => (v > 0 ? v : alpha * Math.expm1(v)))({ x }, undefined, [out]),
  native: (n, { x }, { alpha }, [out]) =>
    n.map(out.dtype, [x], (v, lane) => v.select(v.gt(lane!, v.f(0)), lane!, v.mul(v.f(alpha), v.expm1(lane!)))),
});
export const leaky_relu = defineOp({
  name: "leaky_relu",
  doc: "x where x >= 0, else alpha x.",
  inputs: { x: floats },
  attrs: { alpha: floatAttr(0.01) },
  elementwise: true,
  infer: ({ x }) => x,
  vjp: ({ x }, { alpha }, { g }) => ({ x: () => x.greaterEqual(0).select(g, g.mul(alpha)) }),
  kernel: ({ x }, { alpha }, [out]) => map((v) => (v >= 0 ? v : alpha * v))({ x }, undefined, [out]),
  native: (n, { x }, { alpha }, [out]) =>
    n.map(out.dtype, [x], (v, lane) => v.select(v.ge(lane!, v.f(0)), lane!, v.mul(v.f(alpha), lane!))),
  nativeExact: true,
});
export const clip = defineOp({
  name: "clip",
  doc: "x limited to [alpha, beta]; the derivative is 1 inside, bounds included, and 0 outside.",
  inputs: { x: floats },
  attrs: { alpha: floatAttr(), beta: floatAttr() },
  elementwise: true,
  infer({ x }, { alpha, beta }) {
    if (alpha > beta) throw new ShapeError("clip", `the lower bound ${alpha} exceeds the upper bound ${beta}`);
    return x;
  },
  vjp: ({ x }, { alpha, beta }, { g }) => ({
    x: () => x.greaterEqual(alpha).select(x.lessEqual(beta).select(g, 0), 0),
  }),
  kernel: ({ x }, { alpha, beta }, [out]) =>
    map((v) => (v < alpha ? alpha : v > beta ? beta : v))({ x }, undefined, [out]),
  native: (n, { x }, { alpha, beta }, [out]) =>
    n.map(out.dtype, [x], (v, lane) =>
      v.select(v.lt(lane!, v.f(alpha)), v.f(alpha), v.select(v.gt(lane!, v.f(beta)), v.f(beta), lane!)),
    ),
  nativeExact: true,
});

function broadcast(op: string, x: Aval, y: Aval): number[] {
  const shape = broadcastShapes(x.shape, y.shape);
  if (shape === undefined)
    throw new ShapeError(op, `shapes ${formatShape(x.shape)} and ${formatShape(y.shape)} do not broadcast`);
  return shape;
}

interface BinaryFacts {
  readonly dx: (g: Tensor, x: Tensor, y: Tensor, out: Tensor) => Tensor;
  readonly dy: (g: Tensor, x: Tensor, y: Tensor, out: Tensor) => Tensor;
  /** Integer form, where it is not the float form wrapped to 32 bits. */
  readonly integer?: (x: number, y: number) => number;
}

function binary<const D extends typeof floats | typeof numbers>(
  name: string,
  doc: string,
  domain: D,
  f: (x: number, y: number) => number,
  lanes: NativeForm,
  { dx, dy, integer }: BinaryFacts,
) {
  return defineOp({
    name,
    doc,
    inputs: { x: domain as typeof numbers, y: domain as typeof numbers },
    attrs: {},
    elementwise: true,
    infer: ({ x, y }) => ({ dtype: x.dtype, shape: broadcast(name, x, y) }),
    vjp: ({ x, y }, _attrs, { g, out }) => ({
      x: () => dx(g, x, y, out).sumTo(x.shape),
      y: () => dy(g, x, y, out).sumTo(y.shape),
    }),
    kernel: ({ x, y }, _attrs, [out]) => zip(x, y, out, out.dtype === "int32" ? (integer ?? f) : f),
    native: (n, { x, y }, _attrs, [out]) => n.map(out.dtype, [x, y], lanes.f),
    nativeExact: lanes.exact,
  });
}

export const add = binary(
  "add",
  "x + y.",
  numbers,
  (x, y) => x + y,
  exact((v, x, y) => v.add(x!, y!)),
  { dx: (g) => g, dy: (g) => g },
);
export const sub = binary(
  "sub",
  "x - y.",
  numbers,
  (x, y) => x - y,
  exact((v, x, y) => v.sub(x!, y!)),
  { dx: (g) => g, dy: (g) => g.neg() },
);
export const mul = binary(
  "mul",
  "x y.",
  numbers,
  (x, y) => x * y,
  exact((v, x, y) => v.mul(x!, y!)),
  {
    dx: (g, _x, y) => g.mul(y),
    dy: (g, x) => g.mul(x),
    integer: Math.imul,
  },
);
export const real_div = binary(
  "real_div",
  "x / y.",
  floats,
  (x, y) => x / y,
  exact((v, x, y) => v.div(x!, y!)),
  {
    dx: (g, _x, y) => g.div(y),
    dy: (g, _x, y, out) => g.mul(out).div(y).neg(),
  },
);
export const pow = binary(
  "pow",
  "x^y; the derivative in y needs x > 0.",
  floats,
  (x, y) => x ** y,
  approximate((v, x, y) => v.pow(x!, y!)),
  {
    dx: (g, x, y) => y.equal(0).select(0, g.mul(y).mul(x.pow(y.sub(1)))), // 0^0 is constant in x
    dy: (g, x, _y, out) => g.mul(out).mul(x.log()),
  },
);
export const maximum = binary(
  "maximum",
  "Larger of x and y; ties give the derivative to x.",
  numbers,
  (x, y) => Math.max(x, y),
  exact((v, x, y) => v.max(x!, y!)),
  {
    dx: (g, x, y) => x.greaterEqual(y).select(g, 0),
    dy: (g, x, y) => x.less(y).select(g, 0),
  },
);
export const minimum = binary(
  "minimum",
  "Smaller of x and y; ties give the derivative to x.",
  numbers,
  (x, y) => Math.min(x, y),
  exact((v, x, y) => v.min(x!, y!)),
  {
    dx: (g, x, y) => x.lessEqual(y).select(g, 0),
    dy: (g, x, y) => x.greater(y).select(g, 0),
  },
);

function comparison(
  name: string,
  doc: string,
  f: (x: number, y: number) => boolean,
  lanes: "eq" | "ne" | "lt" | "le" | "gt" | "ge",
) {
  return defineOp({
    name,
    doc: `${doc} The result is bool.`,
    inputs: { x: numbers, y: numbers },
    attrs: {},
    elementwise: true,
    infer: ({ x, y }) => ({ dtype: "bool", shape: broadcast(name, x, y) }),
    vjp: null,
    kernel: ({ x, y }, _attrs, [out]) => zip(x, y, out, (a, b) => (f(a, b) ? 1 : 0)),
    native: (n, { x, y }) => n.map("bool", [x, y], (v, a, b) => v[lanes](a!, b!)),
    nativeExact: true,
  });
}
export const equal = comparison("equal", "x = y.", (x, y) => x === y, "eq");
export const not_equal = comparison("not_equal", "x != y.", (x, y) => x !== y, "ne");
export const less = comparison("less", "x < y.", (x, y) => x < y, "lt");
export const less_equal = comparison("less_equal", "x <= y.", (x, y) => x <= y, "le");
export const greater = comparison("greater", "x > y.", (x, y) => x > y, "gt");
export const greater_equal = comparison("greater_equal", "x >= y.", (x, y) => x >= y, "ge");

export const select = defineOp({
  name: "select",
  doc: "a where cond is true, else b; all three broadcast. What is not selected never reaches the result, NaN and infinity included.",
  inputs: { cond: booleans, a: anything, b: anything },
  attrs: {},
  elementwise: true,
  infer({ cond, a, b }) {
    const shape = broadcast("select", { dtype: "bool", shape: broadcast("select", a, b) }, cond);
    return { dtype: a.dtype, shape };
  },
  vjp: ({ cond, a, b }, _attrs, { g }) => ({
    cond: null,
    a: () => cond.select(g, 0).sumTo(a.shape),
    b: () => cond.select(0, g).sumTo(b.shape),
  }),
  kernel({ cond, a, b }, _attrs, [out]) {
    const at = (x: KernelArray) => offsetsOf(out.shape, broadcastStrides(x.shape, out.shape));
    const [atCond, atA, atB] = [at(cond), at(a), at(b)];
    for (let i = 0; i < out.data.length; i++) {
      out.data[i] = cond.data[atCond[i]!] !== 0 ? a.data[atA[i]!]! : b.data[atB[i]!]!;
    }
  },
  native: (n, { cond, a, b }, _attrs, [out]) =>
    n.map(out.dtype, [cond, a, b], (v, mask, x, y) => v.select(mask!, x!, y!)),
  nativeExact: true,
});

/** A lane as a dtype holds it: a conversion rounds, also where its reader is part of the same loop. */
function convert(v: Lanes, x: Lane, dtype: Aval["dtype"]): Lane {
  const lane = convertType(v, x, dtype);
  return dtype === "fp16" && x.type !== "mask" ? v.roundFloat16(lane) : lane;
}

/** A lane as the type of a dtype: see cast. */
function convertType(v: Lanes, x: Lane, dtype: Aval["dtype"]): Lane {
  const type = dtype === "int32" ? "i32" : dtype === "bool" ? "mask" : "f32";
  if (x.type === type) return x;
  if (x.type === "mask") return type === "i32" ? v.select(x, v.i(1), v.i(0)) : v.select(x, v.f(1), v.f(0));
  if (type === "mask") return x.type === "i32" ? v.ne(x, v.i(0)) : v.ne(x, v.f(0));
  if (type === "f32") return v.toFloat(x);
  const low = v.select(v.ge(x, v.f(2 ** 31)), v.i(2 ** 31 - 1), v.toInt(x)); // below the range toInt gives the smallest int32 itself
  return v.select(v.ne(x, x), v.i(0), low);
}

export const cast = defineOp({
  name: "cast",
  doc: "x converted to another dtype: to integers by truncation (saturating; NaN gives 0), to bool by x != 0.",
  inputs: { x: anything },
  attrs: { dtype: oneOf(["fp16", "fp32", "int32", "bool"]) },
  elementwise: true,
  infer: ({ x }, { dtype }) => ({ dtype: dtype as Aval["dtype"], shape: x.shape }),
  vjp: ({ x }, _attrs, { g, out }) => ({ x: isFloat(x.dtype) && isFloat(out.dtype) ? () => g.cast(x.dtype) : null }),
  kernel({ x }, { dtype }, [out]) {
    if (dtype === "bool") map((v) => (v !== 0 ? 1 : 0))({ x }, undefined, [out]);
    else if (dtype === "int32")
      map((v) => Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, Math.trunc(v) || 0)))({ x }, undefined, [out]);
    else map((v) => v)({ x }, undefined, [out]);
  },
  native: (n, { x }, _attrs, [out]) =>
    x.dtype === out.dtype ? x : n.map(out.dtype, [x], (v, lane) => convert(v, lane!, out.dtype)),
  nativeExact: true,
  support: (_chip, { x }, { dtype }) =>
    (isFloat(x.dtype) || x.dtype === "bool") && (isFloat(dtype as Aval["dtype"]) || dtype === "bool")
      ? true
      : "integers are not converted on the engine; use fp16, or a CPU stage",
});

export const identity = defineOp({
  name: "identity",
  doc: "x under another name; programs use it where an output is an input, a constant or another output.",
  inputs: { x: anything },
  attrs: {},
  elementwise: true,
  infer: ({ x }) => x,
  vjp: (_inputs, _attrs, { g }) => ({ x: () => g }),
  kernel: map((x) => x),
  native: (_n, { x }) => x,
  nativeExact: true,
});

function logical(name: string, doc: string, f: (x: number, y: number) => number, lanes: "and" | "or" | "xor") {
  return defineOp({
    name,
    doc,
    inputs: { x: booleans, y: booleans },
    attrs: {},
    elementwise: true,
    infer: ({ x, y }) => ({ dtype: "bool", shape: broadcast(name, x, y) }),
    vjp: null,
    kernel: ({ x, y }, _attrs, [out]) => zip(x, y, out, f),
    native: (n, { x, y }) => n.map("bool", [x, y], (v, a, b) => v[lanes](a!, b!)),
    nativeExact: true,
    support: never("combine comparisons with nested select"),
  });
}
export const logical_and = logical("logical_and", "x and y.", (x, y) => x & y, "and");
export const logical_or = logical("logical_or", "x or y.", (x, y) => x | y, "or");
export const logical_not = defineOp({
  name: "logical_not",
  doc: "not x.",
  inputs: { x: booleans },
  attrs: {},
  elementwise: true,
  infer: ({ x }) => x,
  vjp: null,
  kernel: map((x) => 1 - x),
  native: (n, { x }) => n.map("bool", [x], (v, lane) => v.not(lane!)),
  nativeExact: true,
});
