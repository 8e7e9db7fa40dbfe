// Convolutional image classifiers: stages of 3x3 convolution, group norm, relu and pooling, then a linear layer.

import * as v from "valibot";
import { ConfigError, formatAval, formatShape } from "../core/errors.ts";
import { sameShape } from "../core/shape.ts";
import { groupNorm } from "../nn/functional.ts";
import { Linear, Scope, type ScopeOptions } from "../nn/layers.ts";
import type { Tensor } from "../tensor.ts";
import { checkConfig, positive } from "./config.ts";

// Shape letters: B batch, C channels, H and W rows and columns.

/** Shape of a classifier, as checkpoints store it. */
export const cnnConfigSchema = v.strictObject({
  architecture: v.literal("cnn"),
  /** [C, H, W] of an image. */
  imageShape: v.strictTuple([positive, positive, positive]),
  /** Channels after each stage; all stages but the last halve height and width. */
  channels: v.pipe(v.array(positive), v.minLength(1), v.maxLength(64)),
  /** Groups of channels that are standardized together. */
  groups: positive,
  /** What the linear layer sees: each channel's mean, or its value at every position. */
  head: v.picklist(["mean", "flatten"]),
  classes: positive,
});

export type CnnConfig = v.InferOutput<typeof cnnConfigSchema>;

/** What a caller states; the rest follows. */
export interface CnnOptions {
  readonly imageShape: readonly [number, number, number];
  readonly classes: number;
  /** [32, 64, 128] unless stated. */
  readonly channels?: readonly number[];
  /** 8 unless stated. */
  readonly groups?: number;
  /** "mean" unless stated. */
  readonly head?: CnnConfig["head"];
}

/** Fills and checks a configuration. @throws {ConfigError} naming the field. */
export function cnnConfig({
  imageShape,
  channels = [32, 64, 128],
  groups = 8,
  head = "mean",
  classes,
}: CnnOptions): CnnConfig {
  const config = checkConfig(cnnConfigSchema, { architecture: "cnn", imageShape, channels, groups, head, classes });
  for (const count of channels) {
    if (count % groups !== 0) throw new ConfigError("model", `groups ${groups} does not divide ${count} channels`);
  }
  const halvings = channels.length - 1;
  if (Math.min(imageShape[1], imageShape[2]) < 2 ** halvings) {
    throw new ConfigError("model", `images of ${formatShape(imageShape)} cannot be halved ${halvings} times`);
  }
  return config;
}

export interface CnnForward {
  /** [B, classes]. */
  readonly logits: Tensor;
  /** What each stage's convolution gives: where overflow shows first. */
  readonly activations: readonly Tensor[];
}

interface Stage {
  /** [out, in, 3, 3]. */
  readonly weight: Tensor;
  readonly gamma: Tensor;
  readonly beta: Tensor;
}

/** A classifier's parameters and its forward graph. */
export class Cnn {
  readonly config: CnnConfig;
  readonly dtype: "fp16" | "fp32";
  /** By name: stages.0.conv.weight, stages.0.norm.gamma, stages.0.norm.beta, …, head.weight, head.bias. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly #stages: readonly Stage[];
  readonly #head: Linear;

  constructor(options: CnnOptions, { dtype = "fp16", seed = 0, empty = false }: ScopeOptions = {}) {
    const config = cnnConfig(options);
    this.config = config;
    this.dtype = dtype;
    const scope = new Scope({ dtype, seed, empty });
    const { channels, imageShape } = config;
    this.#stages = channels.map((count, i) => {
      const stage = scope.at(`stages.${i}`);
      const inside = channels[i - 1] ?? imageShape[0];
      return {
        weight: stage.parameter("conv.weight", [count, inside, 3, 3], { std: Math.sqrt(2 / (9 * inside)) }), // He et al. 2015
        gamma: stage.parameter("norm.gamma", [count], { value: 1 }),
        beta: stage.parameter("norm.beta", [count], { value: 0 }),
      };
    });
    const side = (extent: number) => Math.floor(extent / 2 ** (channels.length - 1));
    const positions = config.head === "mean" ? 1 : side(imageShape[1]) * side(imageShape[2]);
    this.#head = new Linear(scope.at("head"), channels.at(-1)! * positions, config.classes);
    this.parameters = scope.parameters;
  }

  /** Number of trainable numbers. */
  get parameterCount(): number {
    return [...this.parameters.values()].reduce((sum, tensor) => sum + tensor.size, 0);
  }

  /** Scores of images [B, C, H, W]. */
  forward(images: Tensor): CnnForward {
    const { imageShape, groups, head } = this.config;
    if (images.rank !== 4 || !sameShape(images.shape.slice(1), imageShape)) {
      throw new ConfigError("model", `images are ${formatAval(images.aval)}, not [B, ${imageShape.join(", ")}]`);
    }
    const activations: Tensor[] = [];
    let x = images;
    for (const [i, { weight, gamma, beta }] of this.#stages.entries()) {
      if (i > 0) x = x.maxPool(2);
      const sums = x.conv(weight, { pad: 1 });
      activations.push(sums);
      x = groupNorm(sums, groups, { gamma, beta }).relu();
    }
    return { logits: this.#head.forward(head === "mean" ? x.mean([2, 3]) : x.flatten(1)), activations };
  }
}
