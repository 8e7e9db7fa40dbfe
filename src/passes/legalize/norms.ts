// Normalization and softmax.

import { atLeast } from "../../chips/index.ts";
import { sizeOf } from "../../core/shape.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { type Rule, rule } from "../rewrite.ts";
import type { Target } from "./dialect.ts";

/**
 * Elements that are normalized together from which gain and bias stand outside the norm. ANEForge issues 149, 162 and pull 201: constants that are
 * not the same everywhere fail to compile inside the norm on M1 and M2 from 1024 on (which the sheet calls non-constant), to run on M5 from 10240.
 */
const affineOutside = { A13: 1024, A15: 10240 } as const;

/**
 * (x - mean) / sqrt(variance + epsilon) with a rounding at every step: within 2^-8 of the operator, relative to the largest result. The mean is taken
 * off twice: what its rounding leaves in the deviations may be more than they are.
 */
function standardized(x: Tensor, axes: readonly number[], epsilon: number): Tensor {
  const centre = (t: Tensor) => t.sub(t.mean(axes, { keepDims: true }));
  const centred = centre(centre(x));
  const count = sizeOf(axes.map((axis) => x.shape[axis]!));
  // The squares stay in the reduction's accumulator: in fp16 they are infinite from deviations of 256 on.
  const deviation = centred.l2Norm(axes, { keepDims: true }).mul(1 / Math.sqrt(count));
  return centred.mul(deviation.inverseRoot(epsilon));
}

export function normRules({ chip, natives }: Target): Rule[] {
  return [
    rule(ops.layer_norm, "layer-norm", ({ x, gamma, beta }, { axes, epsilon }) => {
      const count = sizeOf(axes.map((axis) => x.shape[axis]!));
      const limit = atLeast(chip, "A15") ? affineOutside.A15 : affineOutside.A13;
      const outside = (gamma !== undefined || beta !== undefined) && count >= limit;
      if (natives.layerNorm && !outside) return undefined;
      // Outside, the norm is rounded once more before the gain and before the bias.
      const norm = natives.layerNorm ? x.layerNorm({ axes, epsilon }) : standardized(x, axes, epsilon);
      const over = x.shape.map((extent, axis) => (axes.includes(axis) ? extent : 1));
      const scaled = gamma === undefined ? norm : norm.mul(gamma.reshape(over));
      return beta === undefined ? scaled : scaled.add(beta.reshape(over));
    }),
    // The same bits.
    rule(ops.softmax, "softmax-channels", ({ x }, { axis }) => {
      const extent = x.shape[axis]!;
      if (natives.softmaxChannels || axis === x.rank - 1 || (extent & (extent - 1)) === 0) return undefined;
      const swap = x.shape.map((_, i) => (i === axis ? x.rank - 1 : i === x.rank - 1 ? axis : i));
      return x.transpose(swap).softmax(-1).transpose(swap);
    }),
  ];
}
