// Residual networks (He et al. 2016) in the form and with the names of torchvision: the stride of a bottleneck is in its 3 x 3 convolution.

import * as v from "valibot";
import { BatchNorm2d, type BatchNormUse, Conv2d } from "../nn/convolution.ts";
import { Linear, Scope, type ScopeOptions } from "../nn/layers.ts";
import type { Tensor } from "../tensor.ts";
import { checkConfig, positive } from "./config.ts";
import { ImageModel, requireImages } from "./image-model.ts";

// Shape letters: N images, C channels, H and W sides of the feature maps.

/** Shape of a network. */
const resNetConfigSchema = v.strictObject({
  block: v.picklist(["basic", "bottleneck"]),
  /** Blocks of each stage; every stage but the first halves the sides and doubles the channels. */
  layers: v.pipe(v.array(positive), v.minLength(1), v.maxLength(8), v.readonly()),
  /** Channels of the first stage. */
  width: positive,
  /** Channels of the images. */
  channels: positive,
  classes: positive,
});
export type ResNetConfig = v.InferOutput<typeof resNetConfigSchema>;
export type ResNetOptions = Pick<ResNetConfig, "block" | "layers"> & Partial<Omit<ResNetConfig, "block" | "layers">>;

/** Channels of a block's result over those inside it. */
const expansion = { basic: 1, bottleneck: 4 } as const;

interface Block {
  /** Each followed by its norm, and all but the last by relu. */
  readonly convolutions: readonly (readonly [Conv2d, BatchNorm2d])[];
  /** What brings x to the shape of the result where that differs. */
  readonly downsample: readonly [Conv2d, BatchNorm2d] | undefined;
}

/** Filters of a block: [size, output channels, stride]. */
function filters(block: ResNetConfig["block"], width: number, stride: number): [number, number, number][] {
  if (block === "basic")
    return [
      [3, width, stride],
      [3, width, 1],
    ];
  return [
    [1, width, 1],
    [3, width, stride],
    [1, width * expansion.bottleneck, 1],
  ];
}

function makeBlock(scope: Scope, block: ResNetConfig["block"], channels: number, width: number, stride: number): Block {
  let from = channels;
  const convolutions = filters(block, width, stride).map(([kernel, to, step], i) => {
    const options = { stride: step, padding: (kernel - 1) / 2, bias: false };
    const convolution = new Conv2d(scope.at(`conv${i + 1}`), from, to, kernel, options);
    from = to;
    return [convolution, new BatchNorm2d(scope.at(`bn${i + 1}`), to)] as const;
  });
  if (stride === 1 && channels === from) return { convolutions, downsample: undefined };
  const inside = scope.at("downsample");
  const projection = new Conv2d(inside.at("0"), channels, from, 1, { stride, bias: false });
  return { convolutions, downsample: [projection, new BatchNorm2d(inside.at("1"), from)] };
}

/** Images [N, channels, H, W] to logits [N, classes]. */
export class ResNet extends ImageModel {
  readonly config: ResNetConfig;
  readonly #stem: readonly [Conv2d, BatchNorm2d];
  readonly #blocks: readonly Block[];
  readonly #head: Linear;

  /** @throws {ConfigError} naming the field. */
  constructor(options: ResNetOptions, scopeOptions: ScopeOptions = {}) {
    const config = checkConfig(resNetConfigSchema, { width: 64, channels: 3, classes: 1000, ...options });
    const scope = new Scope(scopeOptions);
    super(scope);
    this.config = config;
    const { block, layers, width, channels, classes } = config;
    this.#stem = [
      new Conv2d(scope.at("conv1"), channels, width, 7, { stride: 2, padding: 3, bias: false }),
      new BatchNorm2d(scope.at("bn1"), width),
    ];
    let from = width;
    this.#blocks = layers.flatMap((count, stage) => {
      const inside = width * 2 ** stage;
      return Array.from({ length: count }, (_, i) => {
        const stride = i === 0 && stage > 0 ? 2 : 1;
        const made = makeBlock(scope.at(`layer${stage + 1}.${i}`), block, from, inside, stride);
        from = inside * expansion[block];
        return made;
      });
    });
    this.#head = new Linear(scope.at("fc"), from, classes);
  }

  forward(images: Tensor, use: BatchNormUse = {}): Tensor {
    requireImages("resnet", images, this.config.channels);
    const normalized = ([convolution, norm]: readonly [Conv2d, BatchNorm2d], x: Tensor) =>
      norm.forward(convolution.forward(x), use);
    let x = normalized(this.#stem, images).relu().maxPool(3, { strides: 2, pad: 1 }); // [N, width, H/4, W/4]
    for (const { convolutions, downsample } of this.#blocks) {
      let inner = x;
      for (const [i, each] of convolutions.entries()) inner = normalized(each, i === 0 ? inner : inner.relu());
      x = inner.add(downsample === undefined ? x : normalized(downsample, x)).relu();
    }
    return this.#head.forward(x.mean([2, 3]));
  }
}
