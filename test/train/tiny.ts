// Tiny models and data for the tests of models and training.

import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type FloatDType, input, parameter, type Tensor } from "../../src/index.ts";
import { Gpt, type GptOptions } from "../../src/models/index.ts";
import { crossEntropy } from "../../src/nn/index.ts";
import { adamw } from "../../src/optim/index.ts";
import {
  languageModelTask,
  type PrecisionName,
  type Task,
  TokenDataset,
  Trainer,
  type TrainerOptions,
} from "../../src/train/index.ts";

export const architectures = ["llama", "gpt2"] as const;
export const precisions = ["fp32", "mixed", "fp16"] as const satisfies readonly PrecisionName[];

export const dtypeOf = (precision: PrecisionName): FloatDType => (precision === "fp32" ? "fp32" : "fp16");

/** Vocabulary 16, windows of 8, one layer. */
export function tinyGpt(precision: PrecisionName, options: Partial<GptOptions> = {}, seed = 1): Gpt {
  const config = {
    vocabSize: 16,
    sequenceLen: 8,
    nLayer: 1,
    nHead: 2,
    nKvHead: 1,
    nEmbd: 8,
    hiddenDim: 16,
    ...options,
  };
  return new Gpt(config, { dtype: dtypeOf(precision), seed });
}

/** Tokens 0..15 with a pattern that can be learned. */
export function tinyData(sequenceLen = 8, vocabSize = 16): TokenDataset {
  const tokens = Uint8Array.from({ length: 400 }, (_, i) => (i * 5 + Math.floor(i / 7) * 3) % vocabSize);
  return new TokenDataset(tokens, { sequenceLen, vocabSize });
}

export interface TinyOptions extends Partial<Omit<TrainerOptions, "task">> {
  readonly model?: Gpt;
  readonly modelSeed?: number;
  readonly dataSeed?: number;
  readonly batchSize?: number;
  readonly validation?: boolean;
  readonly oneHot?: boolean;
}

export function tinyTask(precision: PrecisionName, options: TinyOptions = {}): Task {
  const {
    model = tinyGpt(precision, {}, options.modelSeed),
    dataSeed = 3,
    batchSize = 2,
    validation = false,
    oneHot = false,
  } = options;
  return languageModelTask(model, {
    data: tinyData(),
    batchSize,
    seed: dataSeed,
    oneHot,
    ...(validation && { validation: tinyData() }),
  });
}

export async function tinyTrainer(precision: PrecisionName, options: TinyOptions = {}): Promise<Trainer> {
  const { model: _m, modelSeed: _s, dataSeed: _d, batchSize: _b, validation: _v, oneHot: _o, ...rest } = options;
  return Trainer.create({
    task: tinyTask(precision, options),
    optimizer: adamw({ learningRate: 0.01 }),
    engine: "sim",
    precision,
    ...rest,
  });
}

export async function losses(trainer: Trainer, steps: number): Promise<number[]> {
  const list: number[] = [];
  for (let i = 0; i < steps; i++) list.push((await trainer.step()).loss);
  return list;
}

/** Hash of every bit that a checkpoint holds of the state: weights, masters, moments. */
export async function stateHash(trainer: Trainer): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "anekit-state-"));
  try {
    const bytes = await readFile(join(await trainer.save(folder), "state.safetensors"));
    return createHash("sha256").update(bytes).digest("hex");
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** A task over one vector w: loss = sum of coefficient_i w_i / size, whose derivative is what the test feeds. */
export function linearTask(
  precision: PrecisionName,
  w: Tensor,
  coefficients: (index: number) => ArrayLike<number>,
): Task {
  const c = input(w.shape, { dtype: dtypeOf(precision), name: "c" });
  return {
    name: "linear",
    parameters: new Map([["w", w]]),
    loss: w.mul(c).sum(),
    batch: (index) => ({ c: coefficients(index) }),
    itemsPerBatch: 1,
  };
}

/**
 * A least-squares task whose state never stands still: loss = mean (w c)^2 with c near 1, but `spike` at the micro-steps in `spikes`, where fp16
 * overflows at every loss scale above 1.
 */
export function spikyTask(precision: PrecisionName, spikes: readonly number[], spike = 200): Task {
  const dtype = dtypeOf(precision);
  const w = parameter([1, -2, 0.5, 3], [2, 2], { dtype, name: "w" });
  const c = input([2, 2], { dtype, name: "c" });
  return {
    name: "spiky",
    parameters: new Map([["w", w]]),
    loss: w.mul(c).square().mean(),
    batch: (index) => ({ c: [1, 0.5, 1 + (index % 5) / 8, 0.75].map((x) => (spikes.includes(index) ? spike * x : x)) }),
    itemsPerBatch: 1,
  };
}

/** A task that shows the model the same rows at every step. */
export function fixedTask(model: Gpt, rows: readonly (readonly number[])[]): Task {
  const t = rows[0]!.length - 1;
  const tokens = input([rows.length, t], { name: "tokens", dtype: "int32" });
  const targets = input([rows.length * t], { name: "targets", dtype: "int32" });
  const { logits, residuals } = model.forward(tokens);
  return {
    name: "fixed",
    parameters: model.parameters,
    loss: crossEntropy(logits, targets),
    watch: [logits, ...residuals],
    batch: () => ({
      tokens: rows.flatMap((row) => row.slice(0, -1)),
      targets: rows.flatMap((row) => row.slice(1)),
    }),
    itemsPerBatch: rows.length * t,
  };
}
