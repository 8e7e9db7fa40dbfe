// What a run of `anekit train` is by: its flags, the settings that decide its numbers, and what each kind of model makes of them.

import * as v from "valibot";
import { ConfigError } from "../core/errors.ts";
import { adamw, type Optimizer, warmupCosine } from "../optim/index.ts";
import type { TrainEvent } from "../train/events.ts";
import { precisionNames } from "../train/precision.ts";
import type { RunOptions } from "../train/train.ts";

export const positive = v.pipe(v.number(), v.integer(), v.minValue(1));
export const count = v.pipe(v.number(), v.integer(), v.minValue(0));

/** What decides the numbers of any run; written beside the checkpoints, and binding when the run is resumed. */
export const commonSettings = {
  model: v.string(),
  data: v.pipe(v.array(v.string()), v.minLength(1)),
  steps: positive,
  batch: positive,
  lr: v.number(),
  warmup: count,
  seed: count,
  precision: v.picklist(precisionNames),
  accumulation: positive,
  clip: v.number(),
};
const commonSchema = v.strictObject(commonSettings);
export type CommonSettings = v.InferOutput<typeof commonSchema>;

export interface TrainFlags {
  readonly model: string;
  readonly data?: readonly string[];
  readonly tokenizer: string;
  readonly steps?: number;
  readonly epochs?: number;
  readonly batch?: number;
  readonly seqLen?: number;
  readonly augment?: string;
  readonly lr?: number;
  readonly warmup?: number;
  readonly seed: number;
  readonly precision: CommonSettings["precision"];
  readonly accumulation: number;
  readonly clip: number;
  readonly engine: string;
  readonly out?: string;
  readonly saveEvery?: number;
  readonly validateEvery?: number;
  readonly resume?: true;
  readonly json?: true;
}

/** What the command line says of a run, and the settings of the run that it resumes. */
export interface TrainRequest<S> {
  readonly flags: TrainFlags;
  /** True for options that stand on the command line. */
  readonly given: (name: keyof TrainFlags) => boolean;
  readonly saved: S | undefined;
}

/** Where and how often, whatever the model. */
export type RunPlace = Pick<RunOptions, "engine" | "out" | "saveEvery" | "validateEvery" | "resume" | "signal">;

/** A run that is ready to begin. */
export interface TrainPlan<S extends CommonSettings = CommonSettings> {
  readonly settings: S;
  /** Where the command line names none. */
  readonly saveEvery: number;
  readonly validateEvery?: number;
  start(options: RunPlace): AsyncGenerator<TrainEvent, void, void>;
  /** What to do with the trained model in `out`; nothing where there is nothing yet. */
  next(out: string): string | undefined;
}

/** A kind of model: what its settings are, and how they and the command line make a run. */
export interface TrainKind<S extends CommonSettings> {
  readonly schema: v.GenericSchema<unknown, S>;
  /** Options that mean nothing to the other kinds. */
  readonly options: readonly (keyof TrainFlags)[];
  /** Reads the data and settles the settings. */
  plan(request: TrainRequest<S>): Promise<TrainPlan<S>>;
}

/** Where the command line is silent about a new run. */
export interface TrainDefaults {
  readonly batch: number;
  readonly lr: number;
  readonly warmup: number;
}

/**
 * The common settings but `data` and `steps`: those of the resumed run, else the flags and defaults.
 * @throws {ConfigError} where a flag contradicts the run, `names` being the kind's own that must not either.
 */
export function settleCommon<S extends CommonSettings>(
  { flags, given, saved }: TrainRequest<S>,
  defaults: TrainDefaults,
  names: readonly (keyof TrainFlags & keyof S)[] = [],
): Omit<CommonSettings, "data" | "steps"> {
  if (saved !== undefined) {
    const binding = ["model", "batch", "lr", "warmup", "seed", "precision", "accumulation", "clip"] as const;
    for (const name of [...binding, ...names]) {
      if (!given(name) || (flags[name] as unknown) === saved[name]) continue;
      throw new ConfigError("train", `the run has ${name} ${saved[name]}, not ${flags[name]}`, {
        remedy: "leave the option out, or start another run",
      });
    }
  }
  const { model, seed, precision, accumulation, clip } = saved ?? flags;
  const { batch, lr, warmup } = saved ?? { ...defaults, ...definedOf(flags) };
  if (!(lr > 0)) throw new ConfigError("train", "--lr must be above 0");
  return { model, batch, lr, warmup, seed, precision, accumulation, clip };
}

function definedOf({ batch, lr, warmup }: TrainFlags): Partial<TrainDefaults> {
  return Object.fromEntries(Object.entries({ batch, lr, warmup }).filter(([, value]) => value !== undefined));
}

/** Refuses data that are not those the run began with. */
export function requireSameData(what: string, then: number | undefined, now: number, isSame: boolean): void {
  if (then === undefined || isSame) return;
  throw new ConfigError("train", `the data changed since the run began (${then} ${what} then, ${now} now)`, {
    remedy: "restore the files, or start another run",
  });
}

/** What `train()` needs of the settings, whatever the model. `lastShare`: of the learning rate at the end. */
export function runOptions(
  { steps, lr, warmup, precision, accumulation, clip }: CommonSettings,
  lastShare: number,
): {
  readonly steps: number;
  readonly optimizer: Optimizer;
  readonly precision: CommonSettings["precision"];
  readonly accumulation: number;
  readonly clipNorm: number | null;
} {
  const learningRate = warmupCosine({
    learningRate: lr,
    minLearningRate: lr * lastShare,
    steps,
    warmupSteps: Math.min(warmup, steps),
  });
  return { steps, optimizer: adamw({ learningRate }), precision, accumulation, clipNorm: clip === 0 ? null : clip };
}
