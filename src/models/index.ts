// Public exports of anekit/models.

export { Cnn, type CnnConfig, type CnnForward, type CnnOptions, cnnConfig } from "./cnn.ts";
export { Espcn, type EspcnConfig, type EspcnOptions } from "./espcn.ts";
export {
  type GeneratedToken,
  type GenerateOptions,
  generate,
  type SamplingOptions,
  TextGenerator,
} from "./generate.ts";
export { type DecodePosition, Gpt, type GptConfig, type GptForward, type GptOptions, gptConfig } from "./gpt.ts";
export { ImageModel } from "./image-model.ts";
export { findImagePreset, type ImagePresetName, imagePresets } from "./image-presets.ts";
export { type MobileNetConfig, type MobileNetOptions, MobileNetV2 } from "./mobilenet.ts";
export { ResNet, type ResNetConfig, type ResNetOptions } from "./resnet.ts";
export { DoubleConv, UNet, type UNetConfig, type UNetOptions, UpBlock } from "./unet.ts";
export { VisionTransformer, type VitConfig, type VitOptions, vitConfig } from "./vit.ts";
