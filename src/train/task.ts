// What is trained: a scalar loss over inputs, the parameters it depends on, the batches that feed it; and what is measured meanwhile.

import { ConfigError, formatShape } from "../core/errors.ts";
import { sameShape } from "../core/shape.ts";
import type { TokenDataset } from "../data/dataset.ts";
import type { ImageBatch, ImageBatches } from "../data/images.ts";
import type { Feed, NDArray } from "../engines/array.ts";
import type { Cnn } from "../models/cnn.ts";
import type { Gpt } from "../models/gpt.ts";
import { crossEntropy, oneHot as oneHotRows } from "../nn/functional.ts";
import { input, type Tensor } from "../tensor.ts";

export type Feeds = Readonly<Record<string, Feed>>;

export interface Task {
  readonly name: string;
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Scalar; its inputs are what `batch` feeds. */
  readonly loss: Tensor;
  /** State that every micro-step replaces beside what is trained, with its next value: running statistics of batch norms. */
  readonly updates?: ReadonlyMap<Tensor, Tensor>;
  /** Further tensors whose derivatives are checked for overflow before anything can cancel: logits, residual streams. */
  readonly watch?: readonly Tensor[];
  /** Feeds of the index-th micro-step since the beginning; a function of the index alone, so that a resumed run sees the same batches. */
  readonly batch: (index: number) => Feeds;
  readonly validation?: Validation;
  /** Tokens or images in a micro-step. */
  readonly itemsPerBatch: number;
  /** What an item is: "token", "image"; "item" unless stated. */
  readonly item?: string;
}

/** What is measured between steps: a program that is run over batches of its own. Batch norms have their running statistics there. */
export interface Validation {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly batches: () => Iterable<ValidationBatch>;
}

export interface ValidationBatch {
  readonly feeds: Feeds;
  /** Figures of this batch from the program's results; unless stated, those of one item whose loss is the scalar result `loss`. */
  readonly figures?: (results: Readonly<Record<string, NDArray>>) => Figures;
}

/** Means over so many items. */
export interface Figures {
  readonly count: number;
  readonly loss: number;
  /** Share of the items whose class was found, 0 to 1. */
  readonly accuracy?: number;
}

export interface LanguageModelOptions {
  readonly data: TokenDataset;
  readonly validation?: TokenDataset;
  /** Windows in a micro-step; 8 unless stated. */
  readonly batchSize?: number;
  /** Positions of a window; the model's sequenceLen unless stated. */
  readonly sequenceLen?: number;
  readonly seed?: number;
  /** Validation windows, spread evenly; 32 unless stated, rounded to whole batches. */
  readonly validationWindows?: number;
  /** Looks tokens up by products with one-hot rows, for the Neural Engine, which has neither gather nor int32. */
  readonly oneHot?: boolean;
}

/** Next-token prediction: random windows of a token sequence, mean cross-entropy in nats. */
export function languageModelTask(model: Gpt, options: LanguageModelOptions): Task {
  const {
    data,
    validation,
    batchSize = 8,
    sequenceLen = model.config.sequenceLen,
    seed = 0,
    validationWindows = 32,
    oneHot = false,
  } = options;
  const { vocabSize } = model.config;
  if (data.vocabSize > vocabSize)
    throw new ConfigError("task", `the data has ${data.vocabSize} token values, the model ${vocabSize}`);
  if (data.sequenceLen !== sequenceLen)
    throw new ConfigError("task", `the data has windows of ${data.sequenceLen}, the task ${sequenceLen}`);
  const tokens = input([batchSize, sequenceLen], { name: "tokens", dtype: "int32" });
  const targets = input([batchSize * sequenceLen], { name: "targets", dtype: "int32" });
  const rowsOf = (indices: Tensor) => (oneHot ? oneHotRows(indices, vocabSize, model.dtype) : indices);
  const [tokenRows, targetRows] = [rowsOf(tokens), rowsOf(targets)];
  const { logits, residuals } = model.forward(tokenRows);
  const loss = crossEntropy(logits, targetRows);
  const feeds = (batch: { readonly inputs: Int32Array; readonly targets: Int32Array }) => ({
    tokens: batch.inputs,
    targets: batch.targets,
  });
  return {
    name: `${model.config.architecture} language model`,
    parameters: model.parameters,
    loss,
    watch: [logits, ...residuals],
    batch: (index) => feeds(data.batch(seed, index, batchSize)),
    ...(validation !== undefined && {
      validation: {
        outputs: { loss },
        batches: () => validationBatches(validation, batchSize, validationWindows, feeds),
      },
    }),
    itemsPerBatch: batchSize * sequenceLen,
    item: "token",
  };
}

export interface ImageOptions {
  readonly data: ImageBatches;
  /** Its images are measured in their order, normalized as it says. */
  readonly validation?: ImageBatches;
}

/** Classification of images: mean cross-entropy in nats; validation over all its images also gives the accuracy. */
export function imageTask(model: Cnn, { data, validation }: ImageOptions): Task {
  const { imageShape, classes } = model.config;
  for (const { set } of validation === undefined ? [data] : [data, validation]) {
    if (!sameShape(set.shape, imageShape) || set.classes.length !== classes) {
      const has = `${set.classes.length} classes of ${formatShape(set.shape)}`;
      throw new ConfigError("task", `${set.name} has ${has}, the model takes ${classes} of ${formatShape(imageShape)}`);
    }
  }
  const imagesOf = (batchSize: number) => input([batchSize, ...imageShape], { name: "images", dtype: model.dtype });
  const labels = input([data.batchSize], { name: "labels", dtype: "int32" });
  const { logits, activations } = model.forward(imagesOf(data.batchSize));
  return {
    name: "image classifier",
    parameters: model.parameters,
    loss: crossEntropy(logits, labels),
    watch: [logits, ...activations],
    batch: (index) => ({ ...data.batch(index) }),
    ...(validation !== undefined && {
      validation: {
        outputs: { logits: model.forward(imagesOf(validation.batchSize)).logits },
        batches: () => imageBatches(validation),
      },
    }),
    itemsPerBatch: data.batchSize,
    item: "image",
  };
}

function* imageBatches(data: ImageBatches): Iterable<ValidationBatch> {
  for (const batch of data.sequential()) {
    yield { feeds: { images: batch.images }, figures: ({ logits }) => classFigures(logits!, batch) };
  }
}

/** Loss and accuracy of logits [B, classes], in float64; a tie counts for the first of its classes. */
function classFigures({ data, shape }: NDArray, { labels, count }: ImageBatch & { readonly count: number }): Figures {
  const classes = shape[1]!;
  let loss = 0;
  let right = 0;
  for (let row = 0; row < count; row++) {
    const scores = Array.from(data.subarray(row * classes, (row + 1) * classes), Number);
    const best = Math.max(...scores);
    const label = labels[row]!;
    loss += Math.log(scores.reduce((sum, score) => sum + Math.exp(score - best), 0)) + best - scores[label]!;
    if (scores.indexOf(best) === label) right++;
  }
  return { count, loss: loss / count, accuracy: right / count };
}

/** As many whole batches of evenly spread windows as there are; where not even one is full, its windows repeat. */
function* validationBatches(
  data: TokenDataset,
  batchSize: number,
  maxWindows: number,
  feeds: (batch: { readonly inputs: Int32Array; readonly targets: Int32Array }) => Feeds,
): Iterable<ValidationBatch> {
  const available = data.sequentialWindows().length;
  const batches = Math.max(1, Math.floor(Math.min(available, maxWindows) / batchSize));
  const windows = data.sequentialWindows(batches * batchSize);
  for (let at = 0; at < batches; at++) {
    const rows = Array.from({ length: batchSize }, (_, i) => windows[(at * batchSize + i) % windows.length]!);
    const join = (pick: (row: (typeof rows)[number]) => Int32Array) => {
      const joined = new Int32Array(batchSize * data.sequenceLen);
      for (const [i, row] of rows.entries()) joined.set(pick(row), i * data.sequenceLen);
      return joined;
    };
    yield { feeds: feeds({ inputs: join((row) => row.inputs), targets: join((row) => row.targets) }) };
  }
}
