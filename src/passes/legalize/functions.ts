// Operators computed by others: square, gelu, conversions of bools, logic, sine and cosine, arg-minimum, means, identities.

import { sizeOf } from "../../core/shape.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { producer, type Rule, rule } from "../rewrite.ts";
import { uniformValue } from "./constants.ts";
import type { Target } from "./dialect.ts";
import { asNumber } from "./flags.ts";

/** x, as an operator that no compiler takes for nothing: only minus infinity changes, to the lowest fp16 number. */
export function barrier(x: Tensor): Tensor {
  return x.dtype === "fp16" ? x.maximum(-65504) : x;
}

/**
 * gelu by its definition. Every step rounds: 1 + erf and 1 + tanh lose what is below 2^-11, so results are within 2^-10 |x| of the operator's
 * (sigmoid: within a relative 2^-9).
 */
function geluParts(x: Tensor, mode: string): Tensor {
  if (mode === "SIGMOID_APPROXIMATION") return x.mul(x.mul(1.702).sigmoid());
  const bell =
    mode === "EXACT"
      ? x.mul(Math.SQRT1_2).erf()
      : x
          .mul(x)
          .mul(0.044715)
          .add(1)
          .mul(x)
          .mul(Math.sqrt(2 / Math.PI))
          .tanh();
  return x.mul(0.5).mul(bell.add(1));
}

/** Coefficients of the lowest power first, in x^2 (ops §7.4: sin and cos on [-pi/2, pi/2]). */
const sinSeries = [1, -0.1666589028907664, 0.008315949363584022, -0.0001860843648393649];

/**
 * sin(x + shift) for shift 0 or pi/2, by the argument less the nearest multiple of pi, taken off in two parts of which the first is exact in fp16 up
 * to |x| = 200, and ANEForge's polynomial. Within 0.004 of the operator for |x| <= 50; beyond, the operator on the chip is no better (probes).
 */
function sine(x: Tensor, cosine: boolean): Tensor {
  // Halves of pi: k is whole for sine, half an odd number for cosine, cos x = sin(x + pi/2).
  const turns = x.mul(1 / Math.PI);
  const k = cosine ? turns.add(0.5).round().sub(0.5) : turns.round();
  const rest = x.sub(k.mul(3.125)).sub(k.mul(Math.PI - 3.125));
  const square = rest.mul(rest);
  const series = sinSeries
    .slice(0, -1)
    .reduceRight<Tensor | undefined>(
      (sum, coefficient) => (sum === undefined ? square.mul(sinSeries.at(-1)!) : sum.mul(square)).add(coefficient),
      undefined,
    )!;
  const value = rest.mul(series);
  // The sign of an odd number of half turns: whole k (for cosine k + 1/2) modulo 2, as 1 - 2 |m - 2 floor(m / 2)|.
  const m = cosine ? k.add(0.5) : k;
  const odd = m.sub(m.mul(0.5).floor().mul(2));
  return value.mul(odd.mul(-2).add(1));
}

const reductions = new Set([
  ops.reduce_sum,
  ops.reduce_mean,
  ops.reduce_max,
  ops.reduce_min,
  ops.reduce_l1_norm,
  ops.reduce_l2_norm,
  ops.reduce_sum_square,
  ops.reduce_log_sum_exp,
] as readonly unknown[]);

/** Whether a tensor is a reduction's result, reshaped or not. */
function isReduction(x: Tensor): boolean {
  let node = producer(x);
  while (node !== undefined && node.op === ops.reshape) node = producer(node.inputs[0] as Tensor);
  return node !== undefined && reductions.has(node.op);
}

export function functionRules({ chip, natives }: Target): Rule[] {
  return [
    // Runtime §2 and ops §2.1: square before a nonlinearity fails for some widths. The same bits.
    rule(ops.square, "square", ({ x }) => x.mul(x)),
    // Outputs get operators of their own at the end. The same bits.
    rule(ops.identity, "identity", ({ x }) => x),
    rule(ops.gelu, "gelu", ({ x }, { mode }) => (natives.gelu ? undefined : geluParts(x, mode))),
    // Elements below 2^-14 of their number round to subnormals first; one more rounding at the end. The sum is never larger than the largest element.
    rule(ops.reduce_mean, "reduce-mean", ({ x }, { axes, keepDims }) => {
      if (natives.reduceMean) return undefined;
      const count = sizeOf(axes.map((axis) => x.shape[axis]!));
      const power = 2 ** Math.ceil(Math.log2(count));
      const sum = x.mul(1 / power).sum(axes, { keepDims });
      return power === count ? sum : sum.mul(power / count);
    }),
    // Runtime §2: a reduction's result times 0 fails. 0 also where the reduction is infinite or NaN (the chip's own 0 inf is 0), and never -0.
    rule(ops.mul, "zero-product", ({ x, y }, _attrs, { results }) => {
      const zero = (uniformValue(y) === 0 && isReduction(x)) || (uniformValue(x) === 0 && isReduction(y));
      return zero ? x.filled(0, results[0]!.shape) : undefined;
    }),
    // The same bits but for minus infinity.
    rule(ops.mul, "floor-product", ({ x, y }) => {
      if (natives.floorTimesConstant) return undefined;
      const floors = (a: Tensor, b: Tensor) => producer(a)?.op === ops.floor && b.node.kind === "constant";
      if (floors(x, y)) return barrier(x).mul(y);
      return floors(y, x) ? x.mul(barrier(y)) : undefined;
    }),
    // The same bits. Between floats a conversion to the dtype that it has is nothing, and fp32 in between holds every fp16 number.
    rule(ops.cast, "cast", ({ x }, { dtype }) => {
      if (dtype === x.dtype) return x;
      const before = producer(x);
      const source = before?.op === ops.cast ? (before.inputs[0] as Tensor) : undefined;
      if (dtype === "fp16" && x.dtype === "fp32" && source?.dtype === "fp16") return source;
      if (natives.boolCast) return undefined;
      if (x.dtype === "bool" && (dtype === "fp16" || dtype === "fp32")) return asNumber(x).cast(dtype);
      return dtype === "bool" && x.dtype === "fp16" ? x.notEqual(0) : undefined;
    }),
    // No chip has logic of two bools (ops §4). The same bits.
    rule(ops.logical_and, "logical-and", ({ x, y }) => asNumber(x).mul(asNumber(y)).greater(0.5)),
    rule(ops.logical_or, "logical-or", ({ x, y }) => asNumber(x).add(asNumber(y)).greater(0.5)),
    rule(ops.sin, "sin", ({ x }) => (chip.features.sinCos || x.dtype !== "fp16" ? undefined : sine(x, false))),
    rule(ops.cos, "cos", ({ x }) => (chip.features.sinCos || x.dtype !== "fp16" ? undefined : sine(x, true))),
    // The same bits.
    rule(ops.reduce_argmin, "argmin", ({ x }, { axis, keepDims }) =>
      chip.features.argminNative ? undefined : x.neg().argmax(axis, { keepDims }),
    ),
  ];
}
