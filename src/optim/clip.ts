// Magnitudes of a set of gradients: the largest element, for overflow detection, and the global norm, for clipping.

import { float16MinNormal } from "../core/float16.ts";
import type { Tensor } from "../tensor.ts";

/** Largest magnitude over all tensors, a scalar. NaN counts as NaN here and as infinity on the chip; both fail a comparison with a finite limit. */
export function peakOf(tensors: readonly Tensor[]): Tensor {
  const peaks = tensors.map((tensor) => tensor.abs().max());
  const [first, ...rest] = peaks as [Tensor, ...Tensor[]];
  return rest.reduce((peak, each) => peak.maximum(each), first);
}

/**
 * Square root of the sum of squares over all tensors, times `scale`. In fp16 every element is divided by `peak` first, and squares stay inside
 * reduce_l2_norm's wide accumulator: the plain sum of squares of 150,000 gradients of magnitude 1 overflows, and that of small ones is 0. In fp32
 * gradients up to 1e18 need no such care, and larger ones are no use to an optimizer.
 */
export function globalNorm(tensors: readonly Tensor[], peak: Tensor, scale: Tensor): Tensor {
  const wide = tensors.every(({ dtype }) => dtype === "fp32");
  const safe = wide ? undefined : peak.maximum(float16MinNormal);
  const norms = tensors.map((tensor) => (safe === undefined ? tensor : tensor.div(safe)).l2Norm().reshape([1]));
  const [first, ...rest] = norms as [Tensor, ...Tensor[]];
  const all = rest.length === 0 ? first : first.concat(rest, 0);
  return all.l2Norm().mul(safe === undefined ? scale : safe.mul(scale));
}
