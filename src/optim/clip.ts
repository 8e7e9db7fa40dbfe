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
 * Square root of the sum of squares over all tensors, times `scale`. Every element is divided by `peak` first and squares are averaged, so that no
 * intermediate value leaves [0, 1] before the factors peak, scale and sqrt(count) return: in fp16 the plain sum of squares of 150,000 gradients of
 * magnitude 1 overflows.
 */
export function globalNorm(tensors: readonly Tensor[], peak: Tensor, scale: Tensor): Tensor {
  const count = tensors.reduce((sum, tensor) => sum + tensor.size, 0);
  const safe = peak.maximum(float16MinNormal);
  const shares = tensors.map((tensor) =>
    tensor
      .div(safe)
      .square()
      .mean()
      .mul(tensor.size / count),
  );
  const meanSquare = shares.reduce((sum, share) => sum.add(share));
  return meanSquare.sqrt().mul(Math.sqrt(count)).mul(safe.mul(scale));
}
