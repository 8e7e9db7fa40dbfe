// Layers of networks for images: convolutions, and batch norm with its running statistics. Images are [N, C, H, W].

import { formatAval, ShapeError } from "../core/errors.ts";
import { sizeOf } from "../core/shape.ts";
import type { Tensor } from "../tensor.ts";
import type { Scope } from "./layers.ts";

export interface Conv2dOptions {
  readonly stride?: number;
  readonly padding?: number;
  readonly groups?: number;
  readonly bias?: boolean;
  /** Standard deviation of the initial weights; sqrt(2 / fan-in) unless stated (He et al. 2015, for relu). */
  readonly std?: number;
}

/** Cross-correlation with square filters: weight [O, C/groups, k, k], bias [O]. */
export class Conv2d {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;
  readonly #window: { readonly strides: number; readonly pad: number; readonly groups: number };

  constructor(
    scope: Scope,
    inChannels: number,
    outChannels: number,
    kernel: number,
    { stride = 1, padding = 0, groups = 1, bias = true, std }: Conv2dOptions = {},
  ) {
    if (inChannels % groups !== 0 || outChannels % groups !== 0)
      throw new ShapeError("conv2d", `${groups} groups do not divide ${inChannels} and ${outChannels} channels`);
    const shape = [outChannels, inChannels / groups, kernel, kernel];
    this.weight = scope.parameter("weight", shape, { std: std ?? Math.sqrt(2 / sizeOf(shape.slice(1))) });
    this.bias = bias ? scope.parameter("bias", [outChannels], { value: 0 }) : undefined;
    this.#window = { strides: stride, pad: padding, groups };
  }

  forward(x: Tensor): Tensor {
    return x.conv(this.weight, { ...this.#window, ...(this.bias !== undefined && { bias: this.bias }) });
  }
}

/** Transposed convolution with square filters, as wide as its stride unless stated: weight [C, O, k, k], bias [O]. */
export class ConvTranspose2d {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly #stride: number;

  constructor(scope: Scope, inChannels: number, outChannels: number, stride: number, { kernel = stride } = {}) {
    const shape = [inChannels, outChannels, kernel, kernel];
    this.weight = scope.parameter("weight", shape, { std: 1 / Math.sqrt(inChannels) });
    this.bias = scope.parameter("bias", [outChannels], { value: 0 });
    this.#stride = stride;
  }

  forward(x: Tensor): Tensor {
    return x.convTranspose(this.weight, { strides: this.#stride, bias: this.bias });
  }
}

/** How a forward pass uses batch norms. */
export interface BatchNormUse {
  /**
   * Where given, batches are standardized by their own statistics, as in training, and the next values of the running ones are put here, for the
   * `update` of `compile`. Otherwise by the running statistics, which makes the norm an affine map.
   */
  readonly updates?: Map<Tensor, Tensor>;
}

/** Standardizes each channel of x [N, C, H, W], then weight [C] and bias [C] (Ioffe and Szegedy 2015). Names and momentum are PyTorch's. */
export class BatchNorm2d {
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly runningMean: Tensor;
  readonly runningVar: Tensor;
  readonly epsilon: number;
  /** Share of a batch in the next running statistics. */
  readonly momentum: number;

  constructor(scope: Scope, channels: number, { epsilon = 1e-5, momentum = 0.1 } = {}) {
    this.weight = scope.parameter("weight", [channels], { value: 1 });
    this.bias = scope.parameter("bias", [channels], { value: 0 });
    this.runningMean = scope.statistic("running_mean", [channels], 0);
    this.runningVar = scope.statistic("running_var", [channels], 1);
    this.epsilon = epsilon;
    this.momentum = momentum;
  }

  /** @throws {ShapeError} for the statistics of a single value. */
  forward(x: Tensor, { updates }: BatchNormUse = {}): Tensor {
    const { weight, bias, runningMean, runningVar, epsilon, momentum } = this;
    if (updates === undefined)
      return x.batchNorm({ mean: runningMean, variance: runningVar, gamma: weight, beta: bias, epsilon });
    const axes = [0, 2, 3];
    const count = x.size / x.shape[1]!;
    if (count < 2) throw new ShapeError("batchNorm", `${formatAval(x.aval)} has one value a channel, no variance`);
    const mean = x.mean(axes, { keepDims: true });
    // The factor before the square: in fp16 the norm itself may not be squared. The running variance is the unbiased one.
    const variance = x
      .sub(mean)
      .l2Norm(axes)
      .mul(1 / Math.sqrt(count - 1))
      .square();
    const next = (running: Tensor, batch: Tensor) =>
      updates.set(running, running.mul(1 - momentum).add(batch.reshape(running.shape).mul(momentum)));
    next(runningMean, mean);
    next(runningVar, variance);
    const perChannel = (each: Tensor) => each.reshape([1, each.size, 1, 1]);
    return x.layerNorm({ axes, epsilon }).mul(perChannel(weight)).add(perChannel(bias));
  }
}
