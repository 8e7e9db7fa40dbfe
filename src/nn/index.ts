// Public exports of anekit/nn: layers, composites, losses.

export { BatchNorm2d, type BatchNormUse, Conv2d, type Conv2dOptions, ConvTranspose2d } from "./convolution.ts";
export { einsum } from "./einsum.ts";
export * from "./functional.ts";
export {
  Attention,
  type AttentionContext,
  Embedding,
  GeluMlp,
  type Init,
  type KvCache,
  LayerNorm,
  Linear,
  RmsNorm,
  Scope,
  type ScopeOptions,
  SwigluMlp,
} from "./layers.ts";
