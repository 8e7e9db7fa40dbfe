// Decoder-only transformers: Llama-style (RMSNorm, rotary positions, gated feed-forward) and GPT-2-style (LayerNorm, learned positions, gelu).

import * as v from "valibot";
import { ConfigError } from "../core/errors.ts";
import { causalMask, ropeTables } from "../nn/functional.ts";
import {
  Attention,
  Embedding,
  GeluMlp,
  type KvCache,
  LayerNorm,
  RmsNorm,
  Scope,
  type ScopeOptions,
  SwigluMlp,
} from "../nn/layers.ts";
import type { Tensor } from "../tensor.ts";
import { checkConfig } from "./config.ts";

// Shape letters: B batch, T positions, C channels (nEmbd), V vocabulary.

const positive = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(2 ** 24));

/** Shape of a model, as checkpoints store it. */
export const gptConfigSchema = v.strictObject({
  architecture: v.picklist(["llama", "gpt2"]),
  vocabSize: positive,
  sequenceLen: positive,
  nLayer: positive,
  nHead: positive,
  nKvHead: positive,
  nEmbd: positive,
  hiddenDim: positive,
});

export type GptConfig = v.InferOutput<typeof gptConfigSchema>;

/** What a caller states; the rest follows. */
export interface GptOptions {
  readonly architecture?: GptConfig["architecture"];
  readonly vocabSize: number;
  readonly sequenceLen: number;
  readonly nLayer: number;
  readonly nHead: number;
  /** As many as nHead unless stated. */
  readonly nKvHead?: number;
  readonly nEmbd: number;
  /** Llama: 8/3 nEmbd rounded up to a multiple of 32; GPT-2: 4 nEmbd. */
  readonly hiddenDim?: number;
}

/** Fills and checks a configuration. @throws {ConfigError} naming the field. */
export function gptConfig({ architecture = "llama", nKvHead, hiddenDim, ...rest }: GptOptions): GptConfig {
  const hidden = hiddenDim ?? (architecture === "llama" ? 32 * Math.ceil((8 * rest.nEmbd) / 3 / 32) : 4 * rest.nEmbd);
  const config = checkConfig(gptConfigSchema, {
    architecture,
    ...rest,
    nKvHead: nKvHead ?? rest.nHead,
    hiddenDim: hidden,
  });
  if (config.nEmbd % config.nHead !== 0)
    throw new ConfigError("model", `nHead ${config.nHead} does not divide nEmbd ${config.nEmbd}`);
  if (config.nHead % config.nKvHead !== 0)
    throw new ConfigError("model", `nKvHead ${config.nKvHead} does not divide nHead ${config.nHead}`);
  if (architecture === "llama" && (config.nEmbd / config.nHead) % 2 !== 0) {
    throw new ConfigError("model", `the head width ${config.nEmbd / config.nHead} is odd; rotary positions need pairs`);
  }
  return config;
}

export interface GptForward {
  /** [B T, V]. */
  readonly logits: Tensor;
  /** The residual stream after the embedding and after each layer, each [B, T, C]: where overflow shows first. */
  readonly residuals: readonly Tensor[];
}

/** One position of one sequence, for decoding with a cache. */
export interface DecodePosition {
  /** 1 at the position, else 0: [1, T]. */
  readonly oneHot: Tensor;
  /** Additive mask [1, T]: 0 up to the position. */
  readonly mask: Tensor;
}

interface Block {
  readonly norm1: RmsNorm | LayerNorm;
  readonly attention: Attention;
  readonly norm2: RmsNorm | LayerNorm;
  readonly mlp: SwigluMlp | GeluMlp;
}

/** A model's parameters and its forward graphs. The output head is tied to the token embedding. */
export class Gpt {
  readonly config: GptConfig;
  readonly dtype: "fp16" | "fp32";
  /** By name: wte, [wpe], blocks.0.…, norm. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly #wte: Embedding;
  readonly #wpe: Embedding | undefined;
  readonly #blocks: readonly Block[];
  readonly #norm: RmsNorm | LayerNorm;

  constructor(options: GptOptions, { dtype = "fp16", seed = 0, empty = false }: ScopeOptions = {}) {
    const config = gptConfig(options);
    const { nLayer, nEmbd, nHead, nKvHead, hiddenDim } = config;
    const llama = config.architecture === "llama";
    this.config = config;
    this.dtype = dtype;
    const scope = new Scope({ dtype, seed, empty });
    // Each block adds two terms to the residual stream: their weights shrink with depth so that its variance does not grow (GPT-2).
    const depth = Math.sqrt(2 * nLayer);
    const norm = (at: string, inside: Scope) =>
      llama ? new RmsNorm(inside.at(at), nEmbd) : new LayerNorm(inside.at(at), nEmbd);
    this.#wte = new Embedding(scope.at("wte"), config.vocabSize, nEmbd);
    this.#wpe = llama ? undefined : new Embedding(scope.at("wpe"), config.sequenceLen, nEmbd);
    this.#blocks = Array.from({ length: nLayer }, (_, i) => {
      const block = scope.at(`blocks.${i}`);
      const outStd = 1 / Math.sqrt(hiddenDim) / depth;
      return {
        norm1: norm("norm1", block),
        attention: new Attention(block.at("attn"), {
          nEmbd,
          nHead,
          nKvHead,
          bias: !llama,
          outStd: 1 / Math.sqrt(nEmbd) / depth,
        }),
        norm2: norm("norm2", block),
        mlp: llama
          ? new SwigluMlp(block.at("mlp"), nEmbd, hiddenDim, { outStd })
          : new GeluMlp(block.at("mlp"), nEmbd, hiddenDim, { outStd }),
      };
    });
    this.#norm = norm("norm", scope);
    this.parameters = scope.parameters;
  }

  /** Number of trainable numbers. */
  get parameterCount(): number {
    return [...this.parameters.values()].reduce((sum, tensor) => sum + tensor.size, 0);
  }

  /** Logits of every position. `tokens`: int32 [B, T], or one-hot [B, T, V]; T at most sequenceLen. */
  forward(tokens: Tensor): GptForward {
    const t = tokens.shape[1]!;
    if (t > this.config.sequenceLen)
      throw new ConfigError("model", `${t} positions exceed sequenceLen ${this.config.sequenceLen}`);
    let x = this.#wte.forward(tokens); // [B, T, C]
    if (this.#wpe !== undefined) x = x.add(this.#wpe.weight.sliceBySize([0, 0], [t, this.config.nEmbd]));
    const mask = causalMask(x, t);
    const rotation = this.#wpe === undefined ? ropeTables(x, t, this.config.nEmbd / this.config.nHead) : undefined;
    return this.#run(x, (block, normal) => block.attention.forward(normal, { mask, ...(rotation && { rotation }) }));
  }

  /** Logits [1, V] of one position whose keys and values join the caches. `token`: int32 [1, 1] or one-hot [1, 1, V]. */
  decode(token: Tensor, position: DecodePosition, caches: readonly Omit<KvCache, "here">[]): GptForward {
    let x = this.#wte.forward(token); // [1, 1, C]
    if (this.#wpe !== undefined) x = x.add(position.oneHot.matmul(this.#wpe.weight));
    let rotation: { cos: Tensor; sin: Tensor } | undefined;
    if (this.#wpe === undefined) {
      const tables = ropeTables(x, this.config.sequenceLen, this.config.nEmbd / this.config.nHead);
      rotation = { cos: position.oneHot.matmul(tables.cos), sin: position.oneHot.matmul(tables.sin) }; // a product with one 1: exact
    }
    const here = position.oneHot.reshape([this.config.sequenceLen, 1]).greater(0.5);
    return this.#run(x, (block, normal, layer) =>
      block.attention.forward(normal, {
        mask: position.mask,
        cache: { ...caches[layer]!, here },
        ...(rotation && { rotation }),
      }),
    );
  }

  #run(embedded: Tensor, attend: (block: Block, normal: Tensor, layer: number) => Tensor): GptForward {
    let x = embedded;
    const residuals = [x];
    for (const [layer, block] of this.#blocks.entries()) {
      x = x.add(attend(block, block.norm1.forward(x), layer));
      x = x.add(block.mlp.forward(block.norm2.forward(x)));
      residuals.push(x);
    }
    const rows = this.#norm.forward(x).reshape([-1, this.config.nEmbd]);
    return { logits: rows.matmul(this.#wte.weight, { transposeY: true }), residuals };
  }
}
