// Named networks for images: shapes that are published, and small ones to try things with.

import { ConfigError } from "../core/errors.ts";
import type { Shape } from "../core/shape.ts";
import type { ScopeOptions } from "../nn/layers.ts";
import { Espcn } from "./espcn.ts";
import type { ImageModel } from "./image-model.ts";
import { MobileNetV2 } from "./mobilenet.ts";
import { ResNet } from "./resnet.ts";
import { UNet } from "./unet.ts";
import { VisionTransformer } from "./vit.ts";

interface ImagePreset {
  readonly summary: string;
  /** [C, H, W] of the images that it is made for; all but the transformers take others. */
  readonly image: Shape;
  readonly make: (options?: ScopeOptions) => ImageModel;
}

const imageNet = [3, 224, 224];

const resNet = (block: "basic" | "bottleneck", layers: readonly number[], summary: string): ImagePreset => ({
  summary,
  image: imageNet,
  make: (options) => new ResNet({ block, layers }, options),
});

const presets = {
  "resnet-18": resNet("basic", [2, 2, 2, 2], "11.7M parameters"),
  "resnet-34": resNet("basic", [3, 4, 6, 3], "21.8M parameters"),
  "resnet-50": resNet("bottleneck", [3, 4, 6, 3], "25.6M parameters"),
  "resnet-101": resNet("bottleneck", [3, 4, 23, 3], "44.5M parameters"),
  "resnet-152": resNet("bottleneck", [3, 8, 36, 3], "60.2M parameters"),
  "mobilenet-v2": {
    summary: "3.5M parameters, depthwise convolutions",
    image: imageNet,
    make: (options) => new MobileNetV2({}, options),
  },
  "vit-b-16": {
    summary: "86.6M parameters, 12 layers of 768, patches of 16",
    image: imageNet,
    make: (options) =>
      new VisionTransformer({ imageSize: 224, patchSize: 16, nLayer: 12, nHead: 12, nEmbd: 768 }, options),
  },
  "vit-tiny": {
    summary: "0.8M parameters, 4 layers of 128, 10 classes of 32 x 32 images in patches of 4",
    image: [3, 32, 32],
    make: (options) =>
      new VisionTransformer({ imageSize: 32, patchSize: 4, nLayer: 4, nHead: 4, nEmbd: 128, classes: 10 }, options),
  },
  unet: {
    summary: "31.0M parameters, 4 levels below full size, 2 classes a pixel",
    image: [3, 256, 256],
    make: (options) => new UNet({}, options),
  },
  "unet-tiny": {
    summary: "0.1M parameters, 2 levels below full size",
    image: [3, 64, 64],
    make: (options) => new UNet({ width: 16, depth: 2 }, options),
  },
  espcn: {
    summary: "22.7K parameters, luminance to three times the sides",
    image: [1, 224, 224],
    make: (options) => new Espcn({ upscaleFactor: 3 }, options),
  },
  "espcn-relu": {
    summary: "59.6K parameters, the four convolutions with relu of PyTorch's and the ONNX zoo's example",
    image: [1, 224, 224],
    make: (options) =>
      new Espcn(
        {
          upscaleFactor: 3,
          filters: [
            [5, 64],
            [3, 64],
            [3, 32],
          ],
          activation: "relu",
        },
        options,
      ),
  },
} satisfies Readonly<Record<string, ImagePreset>>;

export type ImagePresetName = keyof typeof presets;

export const imagePresets: Readonly<Record<ImagePresetName, ImagePreset>> = presets;

/** A preset by name. @throws {ConfigError} listing the names. */
export function findImagePreset(name: string): ImagePreset {
  if (Object.hasOwn(imagePresets, name)) return imagePresets[name as ImagePresetName];
  throw new ConfigError("model", `"${name}" is none of ${Object.keys(imagePresets).join(", ")}`);
}
