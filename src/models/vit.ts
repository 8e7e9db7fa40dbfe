// Vision transformers (Dosovitskiy et al. 2021) in the form and with the names of torchvision: pre-norm layers, a class token, exact gelu.

import * as v from "valibot";
import { ConfigError, formatAval, ShapeError } from "../core/errors.ts";
import { attention, mergeHeads, splitHeads } from "../nn/functional.ts";
import { LayerNorm, Linear, Scope, type ScopeOptions } from "../nn/layers.ts";
import type { Tensor } from "../tensor.ts";
import { checkConfig, positive } from "./config.ts";
import { ImageModel } from "./image-model.ts";

// Shape letters: N images, T positions (patches and the class token), C channels (nEmbd).

/** Shape of a model. */
const vitConfigSchema = v.strictObject({
  /** Side of the images. */
  imageSize: positive,
  /** Side of a patch. */
  patchSize: positive,
  nLayer: positive,
  nHead: positive,
  nEmbd: positive,
  hiddenDim: positive,
  /** Channels of the images. */
  channels: positive,
  classes: positive,
});
export type VitConfig = v.InferOutput<typeof vitConfigSchema>;
/** hiddenDim is 4 nEmbd unless stated, channels 3, classes 1000. */
export type VitOptions = Omit<VitConfig, "hiddenDim" | "channels" | "classes"> &
  Partial<Pick<VitConfig, "hiddenDim" | "channels" | "classes">>;

/** Fills and checks a configuration. @throws {ConfigError} naming the field. */
export function vitConfig(options: VitOptions): VitConfig {
  const config = checkConfig(vitConfigSchema, {
    hiddenDim: 4 * options.nEmbd,
    channels: 3,
    classes: 1000,
    ...options,
  });
  const { imageSize, patchSize, nEmbd, nHead } = config;
  if (imageSize % patchSize !== 0)
    throw new ConfigError("model", `patchSize ${patchSize} does not divide imageSize ${imageSize}`);
  if (nEmbd % nHead !== 0) throw new ConfigError("model", `nHead ${nHead} does not divide nEmbd ${nEmbd}`);
  return config;
}

/**
 * Images [N, channels, H, W] to one row a patch [N, patches, C]: a convolution in the checkpoint, but as its windows do not overlap, one product,
 * which has no limit of 13 taps on the chip.
 */
class PatchEmbedding {
  readonly weight: Tensor;
  readonly bias: Tensor;

  constructor(scope: Scope, { channels, patchSize, nEmbd }: VitConfig) {
    const std = 1 / Math.sqrt(channels * patchSize ** 2);
    this.weight = scope.parameter("weight", [nEmbd, channels, patchSize, patchSize], { std });
    this.bias = scope.parameter("bias", [nEmbd], { value: 0 });
  }

  forward(images: Tensor): Tensor {
    const [nEmbd, channels, patchSize] = this.weight.shape as [number, number, number];
    const taps = channels * patchSize ** 2;
    const rows = images.pixelUnshuffle(patchSize).reshape([images.shape[0]!, taps, -1]).transpose([0, 2, 1]); // [N, patches, taps]
    const product = rows.reshape([-1, taps]).matmul(this.weight.reshape([nEmbd, taps]), { transposeY: true });
    return product.add(this.bias).reshape([...rows.shape.slice(0, 2), nEmbd]);
  }
}

interface Layer {
  readonly norm1: LayerNorm;
  /** Queries, keys and values, one after another. */
  readonly qkv: Linear;
  readonly out: Linear;
  readonly norm2: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
}

/** Images [N, channels, imageSize, imageSize] to logits [N, classes]. */
export class VisionTransformer extends ImageModel {
  readonly config: VitConfig;
  readonly #patches: PatchEmbedding;
  readonly #classToken: Tensor;
  readonly #positions: Tensor;
  readonly #layers: readonly Layer[];
  readonly #norm: LayerNorm;
  readonly #head: Linear;

  /** @throws {ConfigError} naming the field. */
  constructor(options: VitOptions, scopeOptions: ScopeOptions = {}) {
    const config = vitConfig(options);
    const scope = new Scope(scopeOptions);
    super(scope);
    this.config = config;
    const { imageSize, patchSize, nLayer, nEmbd, hiddenDim, classes } = config;
    const positions = (imageSize / patchSize) ** 2 + 1;
    const norm = (at: Scope) => new LayerNorm(at, nEmbd, { epsilon: 1e-6, names: ["weight", "bias"] });
    this.#classToken = scope.parameter("class_token", [1, 1, nEmbd], { value: 0 });
    this.#patches = new PatchEmbedding(scope.at("conv_proj"), config);
    const encoder = scope.at("encoder");
    this.#positions = encoder.parameter("pos_embedding", [1, positions, nEmbd], { std: 0.02 });
    this.#layers = Array.from({ length: nLayer }, (_, i): Layer => {
      const layer = encoder.at(`layers.encoder_layer_${i}`);
      const self = layer.at("self_attention");
      return {
        norm1: norm(layer.at("ln_1")),
        qkv: new Linear(self.at("in_proj", "_"), nEmbd, 3 * nEmbd),
        out: new Linear(self.at("out_proj"), nEmbd, nEmbd),
        norm2: norm(layer.at("ln_2")),
        up: new Linear(layer.at("mlp.0"), nEmbd, hiddenDim),
        down: new Linear(layer.at("mlp.3"), hiddenDim, nEmbd),
      };
    });
    this.#norm = norm(encoder.at("ln"));
    this.#head = new Linear(scope.at("heads.head"), nEmbd, classes);
  }

  forward(images: Tensor): Tensor {
    const { imageSize, channels, nHead, nEmbd } = this.config;
    const [n] = images.shape as [number];
    if (
      images.rank !== 4 ||
      images.shape.slice(1).some((extent, i) => extent !== [channels, imageSize, imageSize][i])
    ) {
      const wanted = `[N, ${channels}, ${imageSize}, ${imageSize}]`;
      throw new ShapeError("vit", `images are ${formatAval(images.aval)}, not ${wanted}`);
    }
    const token = this.#classToken.broadcastTo([n, 1, nEmbd]);
    let x = token.concat([this.#patches.forward(images)], 1).add(this.#positions); // [N, T, C]
    for (const { norm1, qkv, out, norm2, up, down } of this.#layers) {
      const heads = qkv
        .forward(norm1.forward(x))
        .split(3, -1)
        .map((each) => splitHeads(each, nHead));
      const [q, k, values] = heads as [Tensor, Tensor, Tensor];
      x = x.add(out.forward(mergeHeads(attention(q, k, values))));
      x = x.add(down.forward(up.forward(norm2.forward(x)).gelu()));
    }
    // Only the class token is classified: the last norm is of its rows alone.
    const row = x.sliceBySize([0, 0, 0], [n, 1, nEmbd]).reshape([n, nEmbd]);
    return this.#head.forward(this.#norm.forward(row));
  }
}
