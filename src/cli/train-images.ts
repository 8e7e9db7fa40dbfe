// Training a classifier on images: a set known by name, one in a folder, or generated digits.

import { resolve } from "node:path";
import { crc32 } from "node:zlib";
import * as v from "valibot";
import { ConfigError } from "../core/errors.ts";
import type { Augmentation } from "../data/augment.ts";
import { channelStatistics, digitImages, ImageBatches, type ImageSplits } from "../data/images.ts";
import { knownSets, openImages } from "../data/sets.ts";
import { Cnn } from "../models/cnn.ts";
import { classifierPresets } from "../models/presets.ts";
import { precisionPolicy } from "../train/precision.ts";
import { train } from "../train/train.ts";
import {
  commonSettings,
  count,
  positive,
  requireSameData,
  runOptions,
  settleCommon,
  type TrainKind,
} from "./train-settings.ts";

const numbers = v.pipe(v.array(v.number()), v.readonly());
const settingsSchema = v.strictObject({
  ...commonSettings,
  augmentation: v.strictObject({ crop: count, flip: v.boolean(), cutout: count }),
  /** What the classifier's images are normalized with: the training images' own. */
  normalization: v.strictObject({ mean: numbers, std: numbers }),
  classes: v.array(v.string()),
  /** Number and CRC-32 of the training images, to notice data that changed. */
  images: positive,
  imagesCrc: count,
});
type Settings = v.InferOutput<typeof settingsSchema>;

/** Digits that are drawn when they are asked for. */
const digitsName = "digits";

/** Names that `--data` knows; anything else is a folder. */
export const imageNames: readonly string[] = [digitsName, ...knownSets.map(({ name }) => name)];

export const imageDefaults = { epochs: 8, batch: 64, lr: 4e-3, warmup: 100 } as const;

const testBatch = 250;

async function open(name: string): Promise<ImageSplits & { readonly augmentation: Augmentation }> {
  if (name === digitsName) return { ...digitImages(), augmentation: { crop: 1 } };
  const { set, training, test } = await openImages(name);
  return { training, test, augmentation: set.augmentation };
}

/** `crop=2,flip`: what is not named does not happen; `none` is nothing. @throws {ConfigError} */
function parseAugmentation(text: string): Required<Augmentation> {
  const augmentation = { crop: 0, flip: false, cutout: 0 };
  for (const part of text === "none" ? [] : text.split(",")) {
    const match = /^(?:flip|(crop|cutout)=(\d{1,3}))$/.exec(part.trim());
    if (match === null)
      throw new ConfigError("train", `--augment ${text}: "${part}" is none of crop=N, flip, cutout=N, none`);
    if (match[1] === undefined) augmentation.flip = true;
    else augmentation[match[1] as "crop" | "cutout"] = Number(match[2]);
  }
  return augmentation;
}

export const imageKind: TrainKind<Settings> = {
  schema: settingsSchema,
  options: ["epochs", "augment"],
  async plan(request) {
    const { flags, given, saved } = request;
    const common = settleCommon(request, imageDefaults);
    const asked = flags.augment === undefined ? undefined : parseAugmentation(flags.augment);
    if (saved !== undefined && asked !== undefined && JSON.stringify(asked) !== JSON.stringify(saved.augmentation)) {
      throw new ConfigError("train", `the run has another augmentation than ${flags.augment}`, {
        remedy: "leave the option out, or start another run",
      });
    }
    if (flags.steps !== undefined && flags.epochs !== undefined)
      throw new ConfigError("train", "--steps and --epochs say the same; give one of them");
    const [given1, ...more] = given("data") || saved === undefined ? (flags.data ?? []) : saved.data;
    if (given1 === undefined || more.length > 0) {
      const what = given1 === undefined ? "no images to learn" : "images come from one set";
      throw new ConfigError("train", what, { remedy: `name ${imageNames.join(", ")} or a folder with --data` });
    }
    const name = imageNames.includes(given1) ? given1 : resolve(given1);
    const { training, test, augmentation } = await open(name);
    const imagesCrc = crc32(training.labels, crc32(training.images));
    const images = training.labels.length;
    requireSameData("images", saved?.images, images, saved?.images === images && saved.imagesCrc === imagesCrc);
    const epoch = Math.max(1, Math.floor(images / common.batch / common.accumulation)); // in steps
    const epochs = flags.epochs ?? (saved === undefined ? imageDefaults.epochs : undefined);
    const settings: Settings = {
      ...common,
      data: [name],
      steps: flags.steps ?? (epochs === undefined ? saved!.steps : epochs * epoch),
      augmentation: saved?.augmentation ?? asked ?? { crop: 0, flip: false, cutout: 0, ...augmentation },
      normalization: saved?.normalization ?? channelStatistics(training),
      classes: [...training.classes],
      images,
      imagesCrc,
    };
    const { seed, normalization } = settings;
    const data = new ImageBatches(training, {
      batchSize: settings.batch,
      seed,
      normalization,
      augmentation: settings.augmentation,
    });
    const validation = new ImageBatches(test, { batchSize: Math.min(testBatch, test.labels.length), normalization });
    const dtype = precisionPolicy(settings.precision).compute;
    const shape = { imageShape: training.shape, classes: training.classes.length };
    const model = new Cnn({ ...shape, ...classifierPresets[settings.model]!.options }, { dtype, seed });
    return {
      settings,
      saveEvery: epoch,
      validateEvery: epoch,
      start: (common) => train(model, { ...common, ...runOptions(settings, 0.01), data, validation }),
      next: () => undefined,
    };
  },
};
