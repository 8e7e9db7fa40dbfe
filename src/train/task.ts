// What is trained: a scalar loss over inputs, the parameters it depends on, and the batches that feed it.

import { ConfigError } from "../core/errors.ts";
import type { TokenDataset } from "../data/dataset.ts";
import type { Feed } from "../engines/array.ts";
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
  /** What validation computes where that is another graph than `loss`: batch norms with their running statistics. */
  readonly validationLoss?: Tensor;
  /** Further tensors whose derivatives are checked for overflow before anything can cancel: logits, residual streams. */
  readonly watch?: readonly Tensor[];
  /** Feeds of the index-th micro-step since the beginning; a function of the index alone, so that a resumed run sees the same batches. */
  readonly batch: (index: number) => Feeds;
  /** Feeds whose mean loss is the validation loss. */
  readonly validation?: () => Iterable<Feeds>;
  /** Tokens or images in a micro-step. */
  readonly itemsPerBatch: number;
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
  const feeds = (batch: { readonly inputs: Int32Array; readonly targets: Int32Array }) => ({
    tokens: batch.inputs,
    targets: batch.targets,
  });
  return {
    name: `${model.config.architecture} language model`,
    parameters: model.parameters,
    loss: crossEntropy(logits, targetRows),
    watch: [logits, ...residuals],
    batch: (index) => feeds(data.batch(seed, index, batchSize)),
    ...(validation !== undefined && {
      validation: () => validationBatches(validation, batchSize, validationWindows, feeds),
    }),
    itemsPerBatch: batchSize * sequenceLen,
  };
}

/** As many whole batches of evenly spread windows as there are; where not even one is full, its windows repeat. */
function* validationBatches(
  data: TokenDataset,
  batchSize: number,
  maxWindows: number,
  feeds: (batch: { readonly inputs: Int32Array; readonly targets: Int32Array }) => Feeds,
): Iterable<Feeds> {
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
    yield feeds({ inputs: join((row) => row.inputs), targets: join((row) => row.targets) });
  }
}
