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

type UnaryVjp = (x: Tensor, context: VjpContext) => Tensor;

function unary(
  name: string,
  doc: string,
  f: (x: number) => number,
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
    ...(support !== undefined && { support }),
  });
}

export const relu = unary(
  "relu",
  "max(x, 0).",
  (x) => (x > 0 || Number.isNaN(x) ? x : 0),
  (x, { g }) => x.greater(0).select(g, 0),
);
export const sigmoid = unary("sigmoid", "1 / (1 + e^-x).", sigmoid_, (_x, { g, out }) =>
  g.mul(out).mul(out.neg().add(1)),
);
export const silu = unary(
  "silu",
  "x sigmoid(x), also called swish.",
  (x) => (x === Number.NEGATIVE_INFINITY ? 0 : x * sigmoid_(x)),
  (x, { g }) => {
    const s = x.sigmoid();
    return g.mul(s.mul(x.mul(s.neg().add(1)).add(1)));
  },
);
export const tanh = unary("tanh", "Hyperbolic tangent.", Math.tanh, (_x, { g, out }) => g.sub(g.mul(out).mul(out)));
export const exp = unary("exp", "e^x.", Math.exp, (_x, { g, out }) => g.mul(out));
export const exp2 = unary(
  "exp2",
  "2^x.",
  (x) => 2 ** x,
  (_x, { g, out }) => g.mul(out).mul(Math.LN2),
);
export const abs = unary("abs", "Absolute value; the derivative at 0 is 0.", Math.abs, (x, { g }) => g.mul(x.sign()));
export const square = unary(
  "square",
  "x^2.",
  (x) => x * x,
  (x, { g }) => g.mul(x).mul(2),
);
export const sqrt = unary("sqrt", "Square root.", Math.sqrt, (_x, { g, out }) => g.mul(0.5).div(out));
const polynomial = since("A15", "below it use a polynomial of the argument reduced to [-pi/2, pi/2]");
export const sin = unary("sin", "Sine of x in radians.", Math.sin, (x, { g }) => g.mul(x.cos()), polynomial);
export const cos = unary("cos", "Cosine of x in radians.", Math.cos, (x, { g }) => g.mul(x.sin()).neg(), polynomial);
export const erf = unary("erf", "Error function.", erf_, (x, { g }) =>
  g.mul(x.square().neg().exp()).mul(2 / Math.sqrt(Math.PI)),
);
export const softplus = unary(
  "softplus",
  "log(1 + e^x).",
  (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
  (x, { g }) => g.mul(x.sigmoid()),
);
export const floor = unary("floor", "Largest integer not above x.", Math.floor, null);
export const ceil = unary("ceil", "Smallest integer not below x.", Math.ceil, null);
export const round = unary("round", "Nearest integer, ties to even.", roundHalfEven, null);
export const sign = unary("sign", "-1, 0 or 1.", Math.sign, null);

/** log, rsqrt, inverse: MIL adds `epsilon` to the operand. */
function withEpsilon(
  name: string,
  milDefault: number,
  doc: string,
  f: (x: number) => number,
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
  });
}
export const log = withEpsilon("log", 1e-45, "Natural logarithm of x + epsilon.", Math.log, (x, { g }) => g.div(x));
export const rsqrt = withEpsilon(
  "rsqrt",
  1e-12,
  "1 / sqrt(x + epsilon).",
  (x) => 1 / Math.sqrt(x),
  // One factor at a time onto the cotangent: out^3 alone leaves the fp16 range at x = 6e-4.
  (_x, { g, out }) => g.mul(-0.5).mul(out).mul(out).mul(out),
);
export const inverse = withEpsilon(
  "inverse",
  1e-4,
  "1 / (x + epsilon).",
  (x) => 1 / x,
  (_x, { g, out }) => g.mul(out).mul(out).neg(),
);

const geluTanh = Math.sqrt(2 / Math.PI);
const geluModes = {
  EXACT: (x: number) => 0.5 * x * (1 + erf_(x / Math.SQRT2)),
  TANH_APPROXIMATION: (x: number) => 0.5 * x * (1 + Math.tanh(geluTanh * (x + 0.044715 * x ** 3))),
  SIGMOID_APPROXIMATION: (x: number) => x * sigmoid_(1.702 * x),
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
  });
}

export const add = binary("add", "x + y.", numbers, (x, y) => x + y, { dx: (g) => g, dy: (g) => g });
export const sub = binary("sub", "x - y.", numbers, (x, y) => x - y, { dx: (g) => g, dy: (g) => g.neg() });
export const mul = binary("mul", "x y.", numbers, (x, y) => x * y, {
  dx: (g, _x, y) => g.mul(y),
  dy: (g, x) => g.mul(x),
  integer: Math.imul,
});
export const real_div = binary("real_div", "x / y.", floats, (x, y) => x / y, {
  dx: (g, _x, y) => g.div(y),
  dy: (g, _x, y, out) => g.mul(out).div(y).neg(),
});
export const pow = binary("pow", "x^y; the derivative in y needs x > 0.", floats, (x, y) => x ** y, {
  dx: (g, x, y) => y.equal(0).select(0, g.mul(y).mul(x.pow(y.sub(1)))), // 0^0 is constant in x
  dy: (g, x, _y, out) => g.mul(out).mul(x.log()),
});
export const maximum = binary(
  "maximum",
  "Larger of x and y; ties give the derivative to x.",
  numbers,
  (x, y) => Math.max(x, y),
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
  {
    dx: (g, x, y) => x.lessEqual(y).select(g, 0),
    dy: (g, x, y) => x.greater(y).select(g, 0),
  },
);

function comparison(name: string, doc: string, f: (x: number, y: number) => boolean) {
  return defineOp({
    name,
    doc: `${doc} The result is bool.`,
    inputs: { x: numbers, y: numbers },
    attrs: {},
    elementwise: true,
    infer: ({ x, y }) => ({ dtype: "bool", shape: broadcast(name, x, y) }),
    vjp: null,
    kernel: ({ x, y }, _attrs, [out]) => zip(x, y, out, (a, b) => (f(a, b) ? 1 : 0)),
  });
}
export const equal = comparison("equal", "x = y.", (x, y) => x === y);
export const not_equal = comparison("not_equal", "x != y.", (x, y) => x !== y);
export const less = comparison("less", "x < y.", (x, y) => x < y);
export const less_equal = comparison("less_equal", "x <= y.", (x, y) => x <= y);
export const greater = comparison("greater", "x > y.", (x, y) => x > y);
export const greater_equal = comparison("greater_equal", "x >= y.", (x, y) => x >= y);

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
});

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
  support: (_chip, { x }, { dtype }) =>
    (isFloat(x.dtype) || x.dtype === "bool") && (isFloat(dtype as Aval["dtype"]) || dtype === "bool")
      ? true
      : "integers are not converted on the engine",
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
});

function logical(name: string, doc: string, f: (x: number, y: number) => number) {
  return defineOp({
    name,
    doc,
    inputs: { x: booleans, y: booleans },
    attrs: {},
    elementwise: true,
    infer: ({ x, y }) => ({ dtype: "bool", shape: broadcast(name, x, y) }),
    vjp: null,
    kernel: ({ x, y }, _attrs, [out]) => zip(x, y, out, f),
    support: never("combine comparisons with nested select"),
  });
}
export const logical_and = logical("logical_and", "x and y.", (x, y) => x & y);
export const logical_or = logical("logical_or", "x or y.", (x, y) => x | y);
export const logical_not = defineOp({
  name: "logical_not",
  doc: "not x.",
  inputs: { x: booleans },
  attrs: {},
  elementwise: true,
  infer: ({ x }) => x,
  vjp: null,
  kernel: map((x) => 1 - x),
});
