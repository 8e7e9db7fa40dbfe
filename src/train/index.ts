// Public exports of anekit/train: training runs, their events, checkpoints, data.

export type { Augmentation } from "../data/augment.ts";
export { loadTextFile, loadTextFiles, splitTokens, TokenDataset, unigramEntropy } from "../data/dataset.ts";
export { syntheticDigits } from "../data/digits.ts";
export {
  channelStatistics,
  digitImages,
  type ImageBatch,
  ImageBatches,
  type ImageBatchesOptions,
  type ImageSet,
  type ImageSplits,
  type Normalization,
} from "../data/images.ts";
export { cifar10, fashionMnist } from "../data/sets.ts";
export { byteTokenizer, type Tokenizer } from "../data/tokenizer.ts";
export { type CheckpointMeta, findCheckpoint, listCheckpoints, loadState, readCheckpointMeta } from "./checkpoint.ts";
export type { CheckpointEvent, EndEvent, StartEvent, StepEvent, TrainEvent, ValidationEvent } from "./events.ts";
export {
  describePrecision,
  type PrecisionName,
  type PrecisionPolicy,
  precisionNames,
  precisionPolicy,
} from "./precision.ts";
export {
  type Feeds,
  type Figures,
  type ImageOptions,
  imageTask,
  type LanguageModelOptions,
  languageModelTask,
  type Task,
  type Validation,
  type ValidationBatch,
} from "./task.ts";
export { type RunOptions, train } from "./train.ts";
export { Trainer, type TrainerOptions } from "./trainer.ts";
