// Normalizations: layer, batch, instance, l2.

import { formatShape, ShapeError } from "../core/errors.ts";
import { type Aval, normalizeAxes, type Shape, sizeOf } from "../core/shape.ts";
import type { Tensor } from "../tensor.ts";
import { defineOp, float, floats, ints, type KernelArray, optional } from "./define.ts";
import { splitOffsets } from "./kernels/loops.ts";
import type { Native, NativeArray } from "./native.ts";

/** Shape that puts a per-channel vector [C] against x [N, C, ...]. */
function channelShape(x: { readonly shape: Shape }): number[] {
  return x.shape.map((extent, axis) => (axis === 1 ? extent : 1));
}

/** Axes 2 and up. */
function spatialAxes(x: { readonly shape: Shape }): number[] {
  return x.shape.map((_, axis) => axis).slice(2);
}

/**
 * (x - mean) / sqrt(var + epsilon) over `axes`, and 1 / sqrt(var + epsilon). The deviation's root mean square comes from reduce_l2_norm, whose
 * squares stay in the wide accumulator: in fp16 the square of a deviation above 256 would be inf.
 */
function standardize(x: Tensor, axes: readonly number[], epsilon: number): { xhat: Tensor; rstd: Tensor } {
  const centred = x.sub(x.mean(axes, { keepDims: true }));
  const count = sizeOf(axes.map((axis) => x.shape[axis]!));
  const std = centred.l2Norm(axes, { keepDims: true }).mul(1 / Math.sqrt(count));
  const rstd = std.inverseRoot(epsilon);
  return { xhat: centred.mul(rstd), rstd };
}

/** Cotangent of x through standardize, from the cotangent of xhat. */
function standardizeVjp(
  dxhat: Tensor,
  { xhat, rstd }: { xhat: Tensor; rstd: Tensor },
  axes: readonly number[],
): Tensor {
  const mean = dxhat.mean(axes, { keepDims: true });
  const slope = dxhat.mul(xhat).mean(axes, { keepDims: true });
  return dxhat.sub(mean).sub(xhat.mul(slope)).mul(rstd);
}

function scaleAndShift(value: Tensor, gamma: Tensor | undefined, beta: Tensor | undefined, shape: Shape): Tensor {
  const scaled = gamma === undefined ? value : value.mul(gamma.reshape(shape));
  return beta === undefined ? scaled : scaled.add(beta.reshape(shape));
}

/** Standardizes groups of elements: the kernel of layer_norm and instance_norm. `gain(i, r)` indexes gamma and beta. */
function standardizeKernel(
  x: KernelArray,
  axes: readonly number[],
  epsilon: number,
  affine: {
    gamma: KernelArray | undefined;
    beta: KernelArray | undefined;
    at: (group: number, element: number) => number;
  },
  out: KernelArray,
): void {
  const { kept, reduced } = splitOffsets(x.shape, axes);
  const { gamma, beta, at } = affine;
  for (let i = 0; i < kept.length; i++) {
    let sum = 0;
    for (let r = 0; r < reduced.length; r++) sum += x.data[kept[i]! + reduced[r]!]!;
    const mean = sum / reduced.length;
    let squares = 0;
    for (let r = 0; r < reduced.length; r++) squares += (x.data[kept[i]! + reduced[r]!]! - mean) ** 2;
    const rstd = 1 / Math.sqrt(squares / reduced.length + epsilon);
    for (let r = 0; r < reduced.length; r++) {
      const where = kept[i]! + reduced[r]!;
      const g = gamma === undefined ? 1 : gamma.data[at(i, r)]!;
      const b = beta === undefined ? 0 : beta.data[at(i, r)]!;
      out.data[where] = (x.data[where]! - mean) * rstd * g + b;
    }
  }
}

function requireShape(op: string, name: string, operand: Aval | undefined, shape: Shape): void {
  if (
    operand !== undefined &&
    (operand.shape.length !== shape.length || operand.shape.some((extent, axis) => extent !== shape[axis]))
  ) {
    throw new ShapeError(op, `${name} must have shape ${formatShape(shape)}, not ${formatShape(operand.shape)}`);
  }
}

/** The native form of `standardizeKernel`; gamma and beta broadcast against x. */
function standardizeNative(
  n: Native,
  x: NativeArray,
  axes: readonly number[],
  epsilon: number,
  { gamma, beta }: { gamma: NativeArray | undefined; beta: NativeArray | undefined },
  dtype: Aval["dtype"],
): NativeArray {
  const share = 1 / sizeOf(axes.map((axis) => x.shape[axis]!));
  const mean = n.map("fp32", [n.reduce("sum", x, axes)], (v, sum) => v.mul(sum!, v.f(share)));
  const squared = n.map("fp32", [x, mean], (v, a, m) => {
    const centred = v.sub(a!, m!);
    return v.mul(centred, centred);
  });
  const squares = n.reduce("sum", squared, axes);
  const rstd = n.map("fp32", [squares], (v, s) => v.div(v.f(1), v.sqrt(v.fma(s!, v.f(share), v.f(epsilon)))));
  const affine = [gamma, beta].filter((operand) => operand !== undefined);
  return n.map(dtype, [x, mean, rstd, ...affine], (v, a, m, r, ...rest) => {
    const normal = v.mul(v.sub(a!, m!), r!);
    const scaled = gamma === undefined ? normal : v.mul(normal, rest[0]!);
    return beta === undefined ? scaled : v.add(scaled, rest.at(-1)!);
  });
}

const constantAffine = "the chip takes gain and bias of a norm as constants";

/** Extents of `axes`, 1 elsewhere: how gain and bias over those axes stand against x. */
function shapeOver(x: { readonly shape: Shape }, axes: readonly number[]): number[] {
  return x.shape.map((extent, axis) => (axes.includes(axis) ? extent : 1));
}

function affineLayerNorm(
  { x, gamma, beta }: { x: Tensor; gamma?: Tensor | undefined; beta?: Tensor | undefined },
  { axes, epsilon }: { axes: readonly number[]; epsilon: number },
): Tensor {
  return scaleAndShift(x.layerNorm({ axes, epsilon }), gamma, beta, shapeOver(x, axes));
}

export const layer_norm = defineOp({
  name: "layer_norm",
  doc: "(x - mean) / sqrt(var + epsilon) gamma + beta over `axes` (all when absent); gamma and beta have the shape of those axes.",
  inputs: { x: floats, gamma: optional(floats), beta: optional(floats) },
  attrs: { axes: ints("derived"), epsilon: float(1e-5) },
  complete({ x }, { axes, epsilon = 1e-5 }) {
    return { axes: normalizeAxes("layer_norm", axes ?? x.shape.map((_, axis) => axis), x.shape.length), epsilon };
  },
  infer({ x, gamma, beta }, { axes }) {
    if (axes.length === 0) throw new ShapeError("layer_norm", "there are no axes to normalize over");
    const shape = axes.map((axis) => x.shape[axis]!);
    requireShape("layer_norm", "gamma", gamma, shape);
    requireShape("layer_norm", "beta", beta, shape);
    return x;
  },
  vjp({ x, gamma, beta }, { axes, epsilon }, { g }) {
    const parts = standardize(x, axes, epsilon);
    const over = shapeOver(x, axes);
    return {
      x: () => standardizeVjp(gamma === undefined ? g : g.mul(gamma.reshape(over)), parts, axes),
      gamma: () => g.mul(parts.xhat).sumTo(over).reshape(gamma!.shape),
      beta: () => g.sumTo(over).reshape(beta!.shape),
    };
  },
  kernel({ x, gamma, beta }, { axes, epsilon }, [out]) {
    standardizeKernel(x, axes, epsilon, { gamma, beta, at: (_group, element) => element }, out);
  },
  native(n, { x, gamma, beta }, { axes, epsilon }, [out]) {
    const over = (operand: NativeArray | undefined) => operand && n.reshape(operand, shapeOver(x, axes));
    return standardizeNative(n, x, axes, epsilon, { gamma: over(gamma), beta: over(beta) }, out.dtype);
  },
  constantOnChip: {
    gamma: { reason: constantAffine, lower: affineLayerNorm },
    beta: { reason: constantAffine, lower: affineLayerNorm },
  },
});

export const instance_norm = defineOp({
  name: "instance_norm",
  doc: "Standardizes x [N, C, ...] over the spatial axes of each sample and channel, then gamma [C] and beta [C].",
  inputs: { x: floats, gamma: optional(floats), beta: optional(floats) },
  attrs: { epsilon: float(1e-5) },
  infer({ x, gamma, beta }) {
    if (x.shape.length < 3 || x.shape.length > 4)
      throw new ShapeError("instance_norm", `x has rank ${x.shape.length}, not 3 or 4`);
    requireShape("instance_norm", "gamma", gamma, [x.shape[1]!]);
    requireShape("instance_norm", "beta", beta, [x.shape[1]!]);
    return x;
  },
  vjp({ x, gamma, beta }, { epsilon }, { g }) {
    const axes = spatialAxes(x);
    const parts = standardize(x, axes, epsilon);
    return {
      x: () => standardizeVjp(gamma === undefined ? g : g.mul(gamma.reshape(channelShape(x))), parts, axes),
      gamma: () => g.mul(parts.xhat).sumTo(channelShape(x)).reshape(gamma!.shape),
      beta: () => g.sumTo(channelShape(x)).reshape(beta!.shape),
    };
  },
  kernel({ x, gamma, beta }, { epsilon }, [out]) {
    const channels = x.shape[1]!;
    standardizeKernel(x, spatialAxes(x), epsilon, { gamma, beta, at: (group) => group % channels }, out);
  },
  native(n, { x, gamma, beta }, { epsilon }, [out]) {
    const over = (operand: NativeArray | undefined) => operand && n.reshape(operand, channelShape(x));
    return standardizeNative(n, x, spatialAxes(x), epsilon, { gamma: over(gamma), beta: over(beta) }, out.dtype);
  },
  constantOnChip: {
    gamma: {
      reason: constantAffine,
      lower: ({ x, gamma, beta }, { epsilon }) =>
        scaleAndShift(x.instanceNorm({ epsilon }), gamma, beta, channelShape(x)),
    },
    beta: {
      reason: constantAffine,
      lower: ({ x, gamma, beta }, { epsilon }) =>
        scaleAndShift(x.instanceNorm({ epsilon }), gamma, beta, channelShape(x)),
    },
  },
});

/** batch_norm as arithmetic, for statistics or gains that are computed. */
function batchNormArithmetic(
  {
    x,
    mean,
    variance,
    gamma,
    beta,
  }: { x: Tensor; mean: Tensor; variance: Tensor; gamma?: Tensor | undefined; beta?: Tensor | undefined },
  { epsilon }: { epsilon: number },
): Tensor {
  const shape = channelShape(x);
  const xhat = x.sub(mean.reshape(shape)).mul(variance.add(epsilon).rsqrt().reshape(shape));
  return scaleAndShift(xhat, gamma, beta, shape);
}

const constantStatistics = {
  reason: "the chip takes statistics and affine of batch_norm as constants",
  lower: batchNormArithmetic,
};

export const batch_norm = defineOp({
  name: "batch_norm",
  doc: "(x - mean) / sqrt(variance + epsilon) gamma + beta per channel of x [N, C, ...]; the statistics are operands.",
  inputs: { x: floats, mean: floats, variance: floats, gamma: optional(floats), beta: optional(floats) },
  attrs: { epsilon: float(1e-5) },
  infer({ x, mean, variance, gamma, beta }) {
    if (x.shape.length < 3) throw new ShapeError("batch_norm", `x has rank ${x.shape.length}, not 3 to 5`);
    for (const [name, operand] of Object.entries({ mean, variance, gamma, beta })) {
      requireShape("batch_norm", name, operand, [x.shape[1]!]);
    }
    return x;
  },
  vjp({ x, mean, variance, gamma, beta }, { epsilon }, { g }) {
    const shape = channelShape(x);
    const rstd = variance.add(epsilon).rsqrt();
    const centred = x.sub(mean.reshape(shape));
    const gain = gamma === undefined ? rstd : rstd.mul(gamma);
    const perChannel = (t: Tensor) => t.sumTo(shape).reshape(mean.shape);
    return {
      x: () => g.mul(gain.reshape(shape)),
      mean: () => perChannel(g).mul(gain).neg(),
      variance: () => perChannel(g.mul(centred)).mul(gain).mul(rstd).mul(rstd).mul(-0.5),
      gamma: () => perChannel(g.mul(centred)).mul(rstd),
      beta: () => perChannel(g).reshape(beta!.shape),
    };
  },
  kernel({ x, mean, variance, gamma, beta }, { epsilon }, [out]) {
    const channels = x.shape[1]!;
    const spatial = sizeOf(x.shape.slice(2));
    for (let i = 0; i < out.data.length; i++) {
      const c = Math.floor(i / spatial) % channels;
      const xhat = (x.data[i]! - mean.data[c]!) / Math.sqrt(variance.data[c]! + epsilon);
      out.data[i] = xhat * (gamma?.data[c] ?? 1) + (beta?.data[c] ?? 0);
    }
  },
  native(n, { x, mean, variance, gamma, beta }, { epsilon }, [out]) {
    const shape = channelShape(x);
    const perChannel = (operand: NativeArray) => n.reshape(operand, shape);
    const operands = [x, mean, variance, gamma, beta].flatMap((operand, i) =>
      operand === undefined ? [] : [i === 0 ? operand : perChannel(operand)],
    );
    return n.map(out.dtype, operands, (v, a, m, s, ...affine) => {
      const xhat = v.div(v.sub(a!, m!), v.sqrt(v.add(s!, v.f(epsilon))));
      const scaled = gamma === undefined ? xhat : v.mul(xhat, affine[0]!);
      return beta === undefined ? scaled : v.add(scaled, affine.at(-1)!);
    });
  },
  constantOnChip: {
    mean: constantStatistics,
    variance: constantStatistics,
    gamma: constantStatistics,
    beta: constantStatistics,
  },
});

export const l2_norm = defineOp({
  name: "l2_norm",
  doc: "x / sqrt(sum of x^2 over the last three axes + epsilon); x has rank 3 or more.",
  inputs: { x: floats },
  attrs: { epsilon: float(1e-6) },
  infer({ x }) {
    if (x.shape.length < 3) throw new ShapeError("l2_norm", `x has rank ${x.shape.length}, not 3 or more`);
    return x;
  },
  vjp: ({ x }, { epsilon }, { g, out }) => ({
    x: () => g.sub(out.mul(g.mul(out).sum([-3, -2, -1], { keepDims: true }))).mul(x.l2NormScale([-3, -2, -1], epsilon)),
  }),
  kernel({ x }, { epsilon }, [out]) {
    const last = x.shape.map((_, axis) => axis).slice(-3);
    const { kept, reduced } = splitOffsets(x.shape, last);
    for (let i = 0; i < kept.length; i++) {
      let squares = 0;
      for (let r = 0; r < reduced.length; r++) squares += x.data[kept[i]! + reduced[r]!]! ** 2;
      const scale = 1 / Math.sqrt(squares + epsilon);
      for (let r = 0; r < reduced.length; r++)
        out.data[kept[i]! + reduced[r]!] = x.data[kept[i]! + reduced[r]!]! * scale;
    }
  },
  native(n, { x }, { epsilon }, [out]) {
    const rank = x.shape.length;
    const squares = n.map("fp32", [x], (v, a) => v.mul(a!, a!));
    const sum = n.reduce("sum", squares, [rank - 3, rank - 2, rank - 1]);
    return n.map(out.dtype, [x, sum], (v, a, s) => v.div(a!, v.sqrt(v.add(s!, v.f(epsilon)))));
  },
});
