// MobileNetV2 (Sandler et al. 2018): inverted residuals of depthwise convolutions, with the names of torchvision.

import * as v from "valibot";
import { BatchNorm2d, type BatchNormUse, Conv2d, type Conv2dOptions } from "../nn/convolution.ts";
import { Linear, Scope, type ScopeOptions } from "../nn/layers.ts";
import type { Tensor } from "../tensor.ts";
import { checkConfig, positive } from "./config.ts";
import { ImageModel, requireImages } from "./image-model.ts";

/** Shape of a network. */
const mobileNetConfigSchema = v.strictObject({
  /** Scales the channels of all layers. */
  widthMultiplier: v.pipe(v.number(), v.minValue(0.05), v.maxValue(16)),
  /** Channels of the images. */
  channels: positive,
  classes: positive,
});
export type MobileNetConfig = v.InferOutput<typeof mobileNetConfigSchema>;
export type MobileNetOptions = Partial<MobileNetConfig>;

/** Table 2 of the paper: expansion, channels, blocks, stride of the first. */
const stages = [
  [1, 16, 1, 1],
  [6, 24, 2, 2],
  [6, 32, 3, 2],
  [6, 64, 4, 2],
  [6, 96, 3, 1],
  [6, 160, 3, 2],
  [6, 320, 1, 1],
] as const;

/** The nearest multiple of 8 that takes away no more than a tenth. */
function roundChannels(channels: number): number {
  const near = Math.max(8, 8 * Math.floor(channels / 8 + 0.5));
  return near < 0.9 * channels ? near + 8 : near;
}

/** A convolution and its norm, followed by min(max(x, 0), 6) unless it ends a block. */
interface Layer {
  readonly convolution: Conv2d;
  readonly norm: BatchNorm2d;
  readonly active: boolean;
}

/** @param names of the convolution and its norm */
function layer(
  names: readonly [Scope, Scope],
  from: number,
  to: number,
  kernel: number,
  { active = true, ...options }: Conv2dOptions & { readonly active?: boolean } = {},
): Layer {
  const convolution = new Conv2d(names[0], from, to, kernel, { padding: (kernel - 1) / 2, bias: false, ...options });
  return { convolution, norm: new BatchNorm2d(names[1], to), active };
}

interface Block {
  readonly layers: readonly Layer[];
  /** Whether x is added to the result. */
  readonly residual: boolean;
}

function invertedResidual(scope: Scope, from: number, to: number, expansion: number, stride: number): Block {
  const inside = from * expansion;
  const layers: Layer[] = [];
  const nested = () => {
    const at = scope.at(`conv.${layers.length}`);
    return [at.at("0"), at.at("1")] as const;
  };
  if (expansion > 1) layers.push(layer(nested(), from, inside, 1));
  layers.push(layer(nested(), inside, inside, 3, { stride, groups: inside }));
  const last = [scope.at(`conv.${layers.length}`), scope.at(`conv.${layers.length + 1}`)] as const;
  layers.push(layer(last, inside, to, 1, { active: false }));
  return { layers, residual: stride === 1 && from === to };
}

/** Images [N, channels, H, W] to logits [N, classes]. */
export class MobileNetV2 extends ImageModel {
  readonly config: MobileNetConfig;
  readonly #blocks: readonly Block[];
  readonly #head: Linear;

  /** @throws {ConfigError} naming the field. */
  constructor(options: MobileNetOptions = {}, scopeOptions: ScopeOptions = {}) {
    const config = checkConfig(mobileNetConfigSchema, { widthMultiplier: 1, channels: 3, classes: 1000, ...options });
    const scope = new Scope(scopeOptions);
    super(scope);
    this.config = config;
    const { widthMultiplier, channels, classes } = config;
    const plain = (at: Scope, from: number, to: number, kernel: number, stride: number): Block => {
      return { layers: [layer([at.at("0"), at.at("1")], from, to, kernel, { stride })], residual: false };
    };
    let from = roundChannels(32 * widthMultiplier);
    const blocks = [plain(scope.at("features.0"), channels, from, 3, 2)];
    for (const [expansion, width, count, stride] of stages) {
      const to = roundChannels(width * widthMultiplier);
      for (let i = 0; i < count; i++) {
        const at = scope.at(`features.${blocks.length}`);
        blocks.push(invertedResidual(at, from, to, expansion, i === 0 ? stride : 1));
        from = to;
      }
    }
    // A narrower network keeps the width of what it classifies by.
    const last = roundChannels(1280 * Math.max(1, widthMultiplier));
    blocks.push(plain(scope.at(`features.${blocks.length}`), from, last, 1, 1));
    this.#blocks = blocks;
    this.#head = new Linear(scope.at("classifier.1"), last, classes);
  }

  forward(images: Tensor, use: BatchNormUse = {}): Tensor {
    requireImages("mobilenet", images, this.config.channels);
    let x = images;
    for (const { layers, residual } of this.#blocks) {
      let inner = x;
      for (const { convolution, norm, active } of layers) {
        inner = norm.forward(convolution.forward(inner), use);
        if (active) inner = inner.clip(0, 6);
      }
      x = residual ? x.add(inner) : inner;
    }
    return this.#head.forward(x.mean([2, 3]));
  }
}
