// U-Net (Ronneberger et al. 2015) with batch norm and padded convolutions, in the form and with the names of milesial/Pytorch-UNet.

import * as v from "valibot";
import { ConfigError } from "../core/errors.ts";
import { BatchNorm2d, type BatchNormUse, Conv2d, ConvTranspose2d } from "../nn/convolution.ts";
import { Scope, type ScopeOptions } from "../nn/layers.ts";
import type { Tensor } from "../tensor.ts";
import { checkConfig, positive } from "./config.ts";
import { ImageModel, requireImages } from "./image-model.ts";

/** Shape of a network. */
const unetConfigSchema = v.strictObject({
  /** Channels of the images. */
  channels: positive,
  classes: positive,
  /** Channels at full size; each level down doubles them. */
  width: positive,
  /** Levels below full size, each of half the sides. */
  depth: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(8)),
});
export type UNetConfig = v.InferOutput<typeof unetConfigSchema>;
export type UNetOptions = Partial<UNetConfig>;

/** Two 3 x 3 convolutions, each with batch norm and relu: the block of which both halves of the network are made. */
export class DoubleConv {
  readonly #layers: readonly (readonly [Conv2d, BatchNorm2d])[];

  constructor(scope: Scope, from: number, to: number) {
    this.#layers = [from, to].map((channels, i) => {
      const inside = scope.at("double_conv");
      const convolution = new Conv2d(inside.at(String(3 * i)), channels, to, 3, { padding: 1, bias: false });
      return [convolution, new BatchNorm2d(inside.at(String(3 * i + 1)), to)] as const;
    });
  }

  forward(x: Tensor, use: BatchNormUse = {}): Tensor {
    for (const [convolution, norm] of this.#layers) x = norm.forward(convolution.forward(x), use).relu();
    return x;
  }
}

/** Doubles the sides, joins what the encoder had there, and convolves twice. */
export class UpBlock {
  readonly #up: ConvTranspose2d;
  readonly #convolutions: DoubleConv;

  constructor(scope: Scope, from: number, to: number) {
    this.#up = new ConvTranspose2d(scope.at("up"), from, to, 2);
    this.#convolutions = new DoubleConv(scope.at("conv"), 2 * to, to);
  }

  forward(x: Tensor, skip: Tensor, use: BatchNormUse = {}): Tensor {
    return this.#convolutions.forward(skip.concat([this.#up.forward(x)], 1), use);
  }
}

/** Images [N, channels, H, W] to logits [N, classes, H, W]; 2^depth divides the sides. */
export class UNet extends ImageModel {
  readonly config: UNetConfig;
  readonly #encoder: readonly DoubleConv[];
  readonly #decoder: readonly UpBlock[];
  readonly #head: Conv2d;

  /** @throws {ConfigError} naming the field. */
  constructor(options: UNetOptions = {}, scopeOptions: ScopeOptions = {}) {
    const config = checkConfig(unetConfigSchema, { channels: 3, classes: 2, width: 64, depth: 4, ...options });
    const scope = new Scope(scopeOptions);
    super(scope);
    this.config = config;
    const { channels, classes, width, depth } = config;
    if (width * 2 ** depth > 2 ** 16)
      throw new ConfigError("model", `width ${width} doubled ${depth} times exceeds ${2 ** 16}`);
    const widths = Array.from({ length: depth + 1 }, (_, level) => width * 2 ** level);
    this.#encoder = widths.map((to, level) => {
      if (level === 0) return new DoubleConv(scope.at("inc"), channels, to);
      return new DoubleConv(scope.at(`down${level}.maxpool_conv.1`), widths[level - 1]!, to);
    });
    this.#decoder = Array.from({ length: depth }, (_, i) => {
      const level = depth - i;
      return new UpBlock(scope.at(`up${i + 1}`), widths[level]!, widths[level - 1]!);
    });
    this.#head = new Conv2d(scope.at("outc.conv"), width, classes, 1);
  }

  forward(images: Tensor, use: BatchNormUse = {}): Tensor {
    const { channels, depth } = this.config;
    requireImages("unet", images, channels, 2 ** depth);
    const levels: Tensor[] = [];
    let x = images;
    for (const block of this.#encoder) levels.push((x = block.forward(levels.length === 0 ? x : x.maxPool(2), use)));
    for (const [i, block] of this.#decoder.entries()) x = block.forward(x, levels[depth - 1 - i]!, use);
    return this.#head.forward(x);
  }
}
