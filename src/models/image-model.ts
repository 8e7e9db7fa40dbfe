// What networks for images have in common: named state, its count, the check of images.

import { formatAval, ShapeError } from "../core/errors.ts";
import type { BatchNormUse } from "../nn/convolution.ts";
import type { Scope } from "../nn/layers.ts";
import type { Tensor } from "../tensor.ts";

/** @throws {ShapeError} unless `images` is [N, channels, H, W] with sides that `side` divides. */
export function requireImages(where: string, images: Tensor, channels: number, side = 1): void {
  const { shape } = images;
  if (shape.length !== 4 || shape[1] !== channels)
    throw new ShapeError(where, `images are ${formatAval(images.aval)}, not [N, ${channels}, H, W]`);
  if (shape[2]! % side !== 0 || shape[3]! % side !== 0) {
    throw new ShapeError(where, `${shape[2]} by ${shape[3]} pixels do not divide by ${side}`, {
      remedy: `pad the images to multiples of ${side}`,
    });
  }
}

/** A network from images [N, C, H, W]. Parameters and statistics have the names of PyTorch's checkpoints. */
export abstract class ImageModel {
  readonly dtype: "fp16" | "fp32";
  /** What is trained, by name. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Running statistics of batch norms, by name: not trained, but part of a checkpoint. */
  readonly statistics: ReadonlyMap<string, Tensor>;

  constructor({ dtype, parameters, statistics }: Scope) {
    this.dtype = dtype;
    this.parameters = parameters;
    this.statistics = statistics;
  }

  /** Number of trainable numbers. */
  get parameterCount(): number {
    return [...this.parameters.values()].reduce((sum, { size }) => sum + size, 0);
  }

  abstract forward(images: Tensor, use?: BatchNormUse): Tensor;
}
