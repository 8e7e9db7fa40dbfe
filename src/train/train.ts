// train(): a run as a stream of typed events, with validation, checkpoints, resumption and orderly interruption.

import { AbortedError, ConfigError } from "../core/errors.ts";
import { removeStaleTemporaries } from "../data/files.ts";
import { borrowEngine } from "../engines/open.ts";
import { Cnn } from "../models/cnn.ts";
import { Gpt } from "../models/gpt.ts";
import { findCheckpoint, listCheckpoints } from "./checkpoint.ts";
import type { TrainEvent } from "./events.ts";
import { describePrecision } from "./precision.ts";
import {
  type Figures,
  type ImageOptions,
  imageTask,
  type LanguageModelOptions,
  languageModelTask,
  type Task,
} from "./task.ts";
import { recentSteps, Trainer, type TrainerOptions } from "./trainer.ts";

export interface RunOptions extends Omit<TrainerOptions, "task"> {
  /** Steps in all, those of earlier sessions included. */
  readonly steps: number;
  /** Folder for checkpoints; nothing is written without it. */
  readonly out?: string;
  /** Steps between checkpoints; one is written at the start and the end in any case. */
  readonly saveEvery?: number;
  /** Goes on from the newest checkpoint in `out`. */
  readonly resume?: boolean;
  /** Steps between validations; one is done at the end in any case. */
  readonly validateEvery?: number;
  readonly tokenizer?: string;
  /** Gets the trainer once it is compiled: to generate from its state between events. */
  readonly onTrainer?: (trainer: Trainer) => void;
}

/**
 * Trains a language model on windows of tokens, a classifier on images, or any task. Iterate over the events; leaving the loop, or the signal, ends the run in order: a
 * signal lets the running step go, writes a checkpoint where `out` is given, and ends with an event whose `aborted` is true.
 */
export function train(model: Gpt, options: RunOptions & LanguageModelOptions): AsyncGenerator<TrainEvent, void, void>;
export function train(model: Cnn, options: RunOptions & ImageOptions): AsyncGenerator<TrainEvent, void, void>;
export function train(task: Task, options: RunOptions): AsyncGenerator<TrainEvent, void, void>;
export async function* train(subject: Gpt | Cnn | Task, options: RunOptions): AsyncGenerator<TrainEvent, void, void> {
  const { steps, out, saveEvery, validateEvery, resume = false, signal, tokenizer, onTrainer, ...rest } = options;
  if (!Number.isInteger(steps) || steps < 1) throw new ConfigError("train", `steps ${steps} is not a positive integer`);
  for (const [name, every] of Object.entries({ saveEvery, validateEvery })) {
    if (every !== undefined && (!Number.isInteger(every) || every < 1))
      throw new ConfigError("train", `${name} ${every} is not a positive integer`);
  }
  if (out !== undefined && !resume && (await listCheckpoints(out)).length > 0) {
    throw new ConfigError("train", `${out} holds checkpoints of another run`, {
      remedy: "resume it or name another folder",
    });
  }
  if (resume && out === undefined) throw new ConfigError("train", "resume needs the folder of the run (out)");
  using borrowed = await borrowEngine(options.engine);
  const { engine } = borrowed;
  const task =
    subject instanceof Gpt
      ? languageModelTask(subject, { oneHot: engine.name === "ane", ...(options as RunOptions & LanguageModelOptions) })
      : subject instanceof Cnn
        ? imageTask(subject, options as RunOptions & ImageOptions)
        : subject;
  const about = {
    ...((subject instanceof Gpt || subject instanceof Cnn) && { model: subject.config }),
    ...(tokenizer !== undefined && { tokenizer }),
  };
  const started = performance.now();
  using trainer = await Trainer.create({ ...rest, task, engine, ...(signal !== undefined && { signal }) });
  if (out !== undefined) await removeStaleTemporaries(out);
  const notes = resume ? await trainer.load(await findCheckpoint(out!), about.model) : [];
  const { progress } = trainer;
  if (progress.step > steps)
    throw new ConfigError("train", `the checkpoint is at step ${progress.step}, beyond the ${steps} asked for`);
  onTrainer?.(trainer);
  yield {
    type: "start",
    task: task.name,
    parameters: [...task.parameters.values()].reduce((sum, tensor) => sum + tensor.size, 0),
    engine: trainer.engine.name,
    reason: trainer.engine.reason,
    precision: describePrecision(trainer.policy),
    firstStep: progress.step + 1,
    steps,
    itemsPerStep: trainer.itemsPerStep,
    item: task.item ?? "item",
    compileMs: performance.now() - started,
    notes,
  };

  let savedAt = resume ? progress.step : -1;
  const save = async function* (): AsyncGenerator<TrainEvent> {
    if (out === undefined || savedAt === progress.step) return;
    const path = await trainer.save(out, about);
    savedAt = progress.step;
    yield { type: "checkpoint", step: progress.step, path };
  };
  const validate = async function* (): AsyncGenerator<TrainEvent, Figures | undefined> {
    const figures = await trainer.validate(signal);
    if (figures === undefined) return undefined;
    const { count: _, ...means } = figures;
    yield { type: "validation", step: progress.step, ...means };
    return figures;
  };

  yield* save(); // so that a run killed at once can be resumed
  let validated: Figures | undefined;
  let aborted = false;
  try {
    if (progress.step === steps) validated = yield* validate(); // a finished run: only its figures are told again
    while (progress.step < steps) {
      if (signal?.aborted) throw new AbortedError("train", signal);
      const event = await trainer.step(signal);
      yield event;
      const last = progress.step === steps;
      if (last || (validateEvery !== undefined && progress.step % validateEvery === 0)) validated = yield* validate();
      if (!last && saveEvery !== undefined && progress.step % saveEvery === 0) yield* save();
    }
  } catch (error) {
    if (!(error instanceof AbortedError)) throw error;
    aborted = true;
  }
  yield* save();
  const window = Math.max(1, Math.min(recentSteps, Math.ceil(steps / 20)));
  const recent = progress.recentLosses.slice(-window);
  yield {
    type: "end",
    step: progress.step,
    ...(recent.length > 0 && { finalLoss: recent.reduce((sum, loss) => sum + loss, 0) / recent.length }),
    ...(validated !== undefined && { valLoss: validated.loss }),
    ...(validated?.accuracy !== undefined && { valAccuracy: validated.accuracy }),
    skipped: progress.skipped,
    ms: performance.now() - started,
    aborted,
  };
}
