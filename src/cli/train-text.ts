// Training a GPT on text files.

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { crc32 } from "node:zlib";
import * as v from "valibot";
import { ConfigError } from "../core/errors.ts";
import { loadTextFiles, splitTokens, TokenDataset } from "../data/dataset.ts";
import { byteTokenizer, type Tokenizer } from "../data/tokenizer.ts";
import { Gpt } from "../models/gpt.ts";
import { findPreset } from "../models/presets.ts";
import { precisionPolicy } from "../train/precision.ts";
import { train } from "../train/train.ts";
import { imageNames } from "./train-images.ts";
import {
  commonSettings,
  count,
  positive,
  requireSameData,
  runOptions,
  settleCommon,
  type TrainKind,
} from "./train-settings.ts";

const settingsSchema = v.strictObject({
  ...commonSettings,
  tokenizer: v.string(),
  seqLen: positive,
  /** Length and CRC-32 of the token sequence, to notice data that changed. */
  tokens: positive,
  tokensCrc: count,
});
type Settings = v.InferOutput<typeof settingsSchema>;

/** Tokenizers by name. */
export const tokenizers: Readonly<Record<string, Tokenizer>> = { bytes: byteTokenizer };

export function findTokenizer(name: string): Tokenizer {
  const found = Object.hasOwn(tokenizers, name) ? tokenizers[name] : undefined;
  if (found === undefined)
    throw new ConfigError("tokenizer", `"${name}" is none of ${Object.keys(tokenizers).join(", ")}`);
  return found;
}

export const textDefaults = { steps: 300, batch: 8, lr: 3e-3, warmup: 20 } as const;

export const textKind: TrainKind<Settings> = {
  schema: settingsSchema,
  options: ["tokenizer", "seqLen"],
  async plan(request) {
    const { flags, given, saved } = request;
    const common = settleCommon(request, textDefaults, ["tokenizer", "seqLen"]);
    const files = saved !== undefined && !given("data") ? saved.data : flags.data?.map((path) => resolve(path));
    if (files === undefined)
      throw new ConfigError("train", "no text to learn", { remedy: "name one or more files with --data" });
    const images = given("data") && flags.data?.find((name) => imageNames.includes(name) && !existsSync(name));
    if (images)
      throw new ConfigError("train", `${images} are images, model ${common.model} learns text`, {
        remedy: "add --model cnn",
      });
    const { options } = findPreset(common.model);
    const seqLen = saved?.seqLen ?? flags.seqLen ?? options.sequenceLen;
    if (seqLen === undefined)
      throw new ConfigError("train", `model ${common.model} has no default window; give --seq-len`);
    const tokenizer = findTokenizer(saved?.tokenizer ?? flags.tokenizer);
    const tokens = await loadTextFiles(files, tokenizer);
    const tokensCrc = crc32(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength));
    const isSame = saved?.tokens === tokens.length && saved.tokensCrc === tokensCrc;
    requireSameData("tokens", saved?.tokens, tokens.length, isSame);
    const settings: Settings = {
      ...common,
      data: files,
      steps: flags.steps ?? saved?.steps ?? textDefaults.steps,
      tokenizer: tokenizer.name,
      seqLen,
      tokens: tokens.length,
      tokensCrc,
    };
    const { training, validation } = splitTokens(tokens, 0.1, seqLen);
    const sizes = { sequenceLen: seqLen, vocabSize: tokenizer.vocabSize };
    const { seed } = settings;
    const dtype = precisionPolicy(settings.precision).compute;
    const model = new Gpt({ ...options, ...sizes }, { dtype, seed });
    return {
      settings,
      saveEvery: 100,
      start: (common) =>
        train(model, {
          ...common,
          ...runOptions(settings, 0.1),
          data: new TokenDataset(training, { ...sizes, name: "training" }),
          validation: new TokenDataset(validation, { ...sizes, name: "validation" }),
          batchSize: settings.batch,
          sequenceLen: seqLen,
          seed,
          tokenizer: settings.tokenizer,
        }),
      next: (out) => `to see what it learned: anekit generate ${out} "Once upon a time"`,
    };
  },
};
