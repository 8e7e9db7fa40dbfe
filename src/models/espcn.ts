// Super-resolution by sub-pixel convolution (Shi et al. 2016): convolutions at the small size, then channels to space.

import * as v from "valibot";
import { Conv2d } from "../nn/convolution.ts";
import { Scope, type ScopeOptions } from "../nn/layers.ts";
import type { Tensor } from "../tensor.ts";
import { checkConfig, positive } from "./config.ts";
import { ImageModel, requireImages } from "./image-model.ts";

const odd = v.pipe(
  positive,
  v.check((value) => value % 2 === 1, "filters have an odd side"),
);

/** Shape of a network. */
const espcnConfigSchema = v.strictObject({
  /** How many times larger the sides become. */
  upscaleFactor: v.pipe(positive, v.maxValue(16)),
  /** Channels of the images: 1 for luminance, as in the paper. */
  channels: positive,
  /** [side, output channels] of each convolution but the last. */
  filters: v.pipe(
    v.array(v.pipe(v.tuple([odd, positive]), v.readonly())),
    v.minLength(1),
    v.maxLength(16),
    v.readonly(),
  ),
  /** Side of the last convolution's filters. */
  lastFilter: odd,
  activation: v.picklist(["tanh", "relu"]),
});
export type EspcnConfig = v.InferOutput<typeof espcnConfigSchema>;
export type EspcnOptions = Partial<EspcnConfig> & Pick<EspcnConfig, "upscaleFactor">;

/** The paper's filters. */
const defaults = {
  channels: 1,
  filters: [
    [5, 64],
    [3, 32],
  ],
  lastFilter: 3,
  activation: "tanh",
} as const;

/** Images [N, C, H, W] to [N, C, rH, rW], r the upscale factor. Convolutions are named conv1, conv2, ..., as in PyTorch's example. */
export class Espcn extends ImageModel {
  readonly config: EspcnConfig;
  readonly #convolutions: readonly Conv2d[];

  /** @throws {ConfigError} naming the field. */
  constructor(options: EspcnOptions, scopeOptions: ScopeOptions = {}) {
    const config = checkConfig(espcnConfigSchema, { ...defaults, ...options });
    const scope = new Scope(scopeOptions);
    super(scope);
    this.config = config;
    const { channels, filters, lastFilter, upscaleFactor } = config;
    let from = channels;
    this.#convolutions = [...filters, [lastFilter, channels * upscaleFactor ** 2] as const].map(([kernel, to], i) => {
      const convolution = new Conv2d(scope.at(`conv${i + 1}`), from, to, kernel, { padding: (kernel - 1) / 2 });
      from = to;
      return convolution;
    });
  }

  forward(images: Tensor): Tensor {
    const { channels, activation, upscaleFactor } = this.config;
    requireImages("espcn", images, channels);
    let x = images;
    for (const [i, convolution] of this.#convolutions.entries())
      x = convolution.forward(i === 0 ? x : activation === "tanh" ? x.tanh() : x.relu());
    return x.pixelShuffle(upscaleFactor);
  }
}
