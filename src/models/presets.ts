// Named model shapes for the command line.

import { ConfigError } from "../core/errors.ts";
import type { CnnOptions } from "./cnn.ts";
import type { GptOptions } from "./gpt.ts";

export interface Preset {
  readonly summary: string;
  readonly options: Omit<GptOptions, "vocabSize">;
}

/** Shapes by name; sequenceLen is the default window. */
export const presets = {
  nano: {
    summary:
      "Llama-style, 3 layers, 64 wide, 4 heads: 0.18M parameters with bytes; what the simulator trains in minutes",
    options: { architecture: "llama", nLayer: 3, nHead: 4, nEmbd: 64, sequenceLen: 64 },
  },
  "nano-gpt2": {
    summary: "GPT-2-style, 3 layers, 64 wide, 4 heads",
    options: { architecture: "gpt2", nLayer: 3, nHead: 4, nEmbd: 64, sequenceLen: 64 },
  },
  micro: {
    summary: "Llama-style, 4 layers, 128 wide, 4 heads, 2 key heads: 0.9M parameters with bytes",
    options: { architecture: "llama", nLayer: 4, nHead: 4, nKvHead: 2, nEmbd: 128, sequenceLen: 128 },
  },
} as const satisfies Readonly<Record<string, Preset>>;

/** A preset by name. @throws {ConfigError} listing the names. */
export function findPreset(name: string): Preset {
  if (Object.hasOwn(presets, name)) return presets[name as keyof typeof presets];
  const names = [...Object.keys(presets), ...Object.keys(classifierPresets)];
  throw new ConfigError("model", `"${name}" is none of ${names.join(", ")}`);
}

export interface ClassifierPreset {
  readonly summary: string;
  readonly options: Omit<CnnOptions, "imageShape" | "classes">;
}

/** Image classifiers by name; what the images are decides the rest. */
export const classifierPresets: Readonly<Record<string, ClassifierPreset>> = {
  cnn: {
    summary:
      "image classifier: 3x3 convolutions to 32, 64 and 128 channels, group norms; 0.16M parameters with 28 x 28",
    options: { channels: [32, 64, 128], head: "flatten" },
  },
  "cnn-tiny": {
    summary: "image classifier: 3x3 convolutions to 8 and 16 channels; what the simulator trains in a minute",
    options: { channels: [8, 16], groups: 4, head: "flatten" },
  },
};
