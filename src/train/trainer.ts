// The trainer: compiled programs of a step, the loss scale, checkpoints. Reads top to bottom; emits nothing but what its methods return.

import { ConfigError, EngineError } from "../core/errors.ts";
import { packageVersion } from "../data/package.ts";
import type { NDArray } from "../engines/array.ts";
import { type CompiledProgram, compile } from "../engines/compile.ts";
import type { Engine } from "../engines/engine.ts";
import { borrowEngine, type EngineChoice } from "../engines/open.ts";
import type { StateStore } from "../engines/state.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import type { Tensor } from "../tensor.ts";
import {
  formatVersion,
  loadState,
  type ModelConfig,
  type Progress,
  readCheckpointMeta,
  saveCheckpoint,
} from "./checkpoint.ts";
import type { StepEvent } from "./events.ts";
import { checkPrecision, type PrecisionName, type PrecisionPolicy, precisionPolicy } from "./precision.ts";
import { buildTraining, hostStage, type StepGraph, type TrainingGraphs } from "./step.ts";
import type { Feeds, Figures, Task } from "./task.ts";

export interface TrainerOptions {
  readonly task: Task;
  readonly optimizer: Optimizer;
  readonly engine?: EngineChoice | Engine;
  /** "mixed" for an fp16 model, "fp32" for an fp32 one, unless stated. */
  readonly precision?: PrecisionName;
  /** Global gradient norm above which the gradient is scaled down; 1 unless stated, null for none. */
  readonly clipNorm?: number | null;
  /** Micro-steps whose gradients are averaged before an update. */
  readonly accumulation?: number;
  /** A number keeps it; "dynamic" halves it on overflow and doubles it after `scaleInterval` good steps. Dynamic from 1024 in fp16, 1 in fp32. */
  readonly lossScale?: number | "dynamic";
  readonly signal?: AbortSignal;
}

/** Start, bounds and growth interval of the dynamic loss scale; the start leaves a factor of 32 below the fp16 limit for gradients above 1. */
const dynamicScale = { initial: 1024, min: 1, max: 32768, interval: 200 } as const;

/** Below, the factor that takes the loss scale out again (1024 over it, in fp16) overflows. */
const staticScaleMin = 1 / 16;

/** Most steps whose mean loss is reported at the end. */
export const recentSteps = 20;

/** Overflows in a row at the smallest loss scale after which training cannot go on. */
const hopelessSkips = 20;

export class Trainer implements Disposable {
  readonly task: Task;
  readonly policy: PrecisionPolicy;
  readonly progress: { -readonly [K in keyof Progress]: Progress[K] };
  readonly #optimizer: Optimizer;
  readonly #accumulation: number;
  readonly #dynamic: boolean;
  readonly #graphs: TrainingGraphs;
  readonly #apply: CompiledProgram;
  readonly #accumulate: CompiledProgram | undefined;
  readonly #validate: CompiledProgram | undefined;
  /** The engine, to be closed where it was opened here. */
  readonly #engine: Disposable;
  /** True while gradient sums of an interrupted step may be left. */
  #unfinished = false;

  private constructor(
    options: TrainerOptions,
    policy: PrecisionPolicy,
    graphs: TrainingGraphs,
    programs: {
      apply: CompiledProgram;
      accumulate: CompiledProgram | undefined;
      validate: CompiledProgram | undefined;
    },
    engine: Disposable,
  ) {
    const { task, optimizer, accumulation = 1, lossScale = policy.compute === "fp16" ? "dynamic" : 1 } = options;
    this.task = task;
    this.policy = policy;
    this.#optimizer = optimizer;
    this.#accumulation = accumulation;
    this.#dynamic = lossScale === "dynamic";
    this.#graphs = graphs;
    this.#apply = programs.apply;
    this.#accumulate = programs.accumulate;
    this.#validate = programs.validate;
    this.#engine = engine;
    const scale = lossScale === "dynamic" ? dynamicScale.initial : lossScale;
    this.progress = {
      step: 0,
      applied: 0,
      skipped: 0,
      lossScale: scale,
      stepsSinceScale: 0,
      skipsInARow: 0,
      recentLosses: [],
    };
  }

  /** Builds and compiles everything. @throws {ConfigError | UnsupportedError} for options that do not fit the task or the engine. */
  static async create(options: TrainerOptions): Promise<Trainer> {
    const { task, optimizer, engine = "auto", clipNorm = 1, accumulation = 1, lossScale, signal } = options;
    const policy = precisionPolicy(options.precision ?? (task.loss.dtype === "fp32" ? "fp32" : "mixed"));
    if (task.loss.dtype !== policy.compute) {
      throw new ConfigError(
        "train",
        `precision ${policy.name} computes in ${policy.compute}, the model in ${task.loss.dtype}`,
      );
    }
    if (!Number.isInteger(accumulation) || accumulation < 1)
      throw new ConfigError("train", `accumulation ${accumulation} is not a positive integer`);
    if (clipNorm !== null && !(clipNorm > 0)) throw new ConfigError("train", `clipNorm ${clipNorm} is not positive`);
    if (typeof lossScale === "number" && !(lossScale >= staticScaleMin && lossScale <= dynamicScale.max)) {
      throw new ConfigError("train", `lossScale ${lossScale} is outside [${staticScaleMin}, ${dynamicScale.max}]`);
    }
    const borrowed = await borrowEngine(engine);
    const programs: CompiledProgram[] = [];
    try {
      checkPrecision(policy, borrowed.engine.name);
      const hostStages = borrowed.engine.name === "ane";
      const graphs = buildTraining({
        task,
        optimizer,
        policy,
        accumulation,
        hostStages,
        ...(clipNorm !== null && { clipNorm }),
      });
      const load = async ({ outputs, update, stages }: StepGraph) => {
        const state = programs[0]?.state;
        const where = state === undefined ? { engine: borrowed.engine } : { state };
        const program = await compile(outputs, { ...where, update, stages, ...(signal !== undefined && { signal }) });
        programs.push(program);
        return program;
      };
      const apply = await load(graphs.apply);
      const accumulate = graphs.accumulate && (await load(graphs.accumulate));
      const outputs = task.validation?.outputs;
      const prepare = hostStages && outputs !== undefined ? hostStage(Object.values(outputs)) : [];
      const stages = [...prepare, { name: "validate" }];
      const validate = outputs && (await load({ outputs, update: new Map(), stages }));
      return new Trainer(options, policy, graphs, { apply, accumulate, validate }, borrowed);
    } catch (error) {
      for (const program of programs) program.dispose();
      borrowed[Symbol.dispose]();
      throw error;
    }
  }

  get engine(): { readonly name: string; readonly reason: string } {
    return this.#apply.engine;
  }

  /** Resident state, to share with other programs (generation). */
  get state(): StateStore {
    return this.#apply.state;
  }

  /** Weights as the optimizer sees them, by parameter name. */
  get weights(): ReadonlyMap<string, Tensor> {
    return this.#graphs.weights;
  }

  get itemsPerStep(): number {
    return this.task.itemsPerBatch * this.#accumulation;
  }

  /** One optimizer step: all micro-steps and the update, or nothing at all where something overflowed. State is unchanged when it throws, but for running statistics that earlier micro-steps moved. */
  async step(signal?: AbortSignal): Promise<StepEvent> {
    const started = performance.now();
    const { progress, policy } = this;
    const learningRate = this.#optimizer.learningRate(progress.step);
    const scalars: Record<string, number> = {
      loss_scale: progress.lossScale / this.#accumulation,
      grad_scale: policy.momentScale / progress.lossScale,
    };
    for (const [name, value] of Object.entries(
      this.#optimizer.scalars(progress.applied, learningRate, policy.momentScale),
    )) {
      scalars[`optimizer_${name}`] = value;
    }
    const options = signal === undefined ? {} : { signal };
    const feeds = (program: CompiledProgram, micro: number): Feeds => ({
      ...this.task.batch(progress.step * this.#accumulation + micro),
      ...Object.fromEntries(Object.entries(scalars).filter(([name]) => program.plan.feeds.has(name))),
    });
    if (this.#unfinished) for (const sum of this.#graphs.scratch) this.state.write(sum, new Float32Array(sum.size));
    this.#unfinished = this.#accumulation > 1;
    let loss = 0;
    for (let micro = 0; micro < this.#accumulation - 1; micro++) {
      const result = await this.#accumulate!.run(feeds(this.#accumulate!, micro), options);
      loss += result.loss!.item();
    }
    const result = await this.#apply.run(feeds(this.#apply, this.#accumulation - 1), options);
    this.#unfinished = false;
    loss = (loss + result.loss!.item()) / this.#accumulation;
    const skipped = result.applied!.item() === 0;
    const gradNorm = result.grad_norm?.item();
    const lossScale = progress.lossScale;
    if (!skipped) progress.recentLosses = [...progress.recentLosses, loss].slice(-recentSteps);
    this.#advance(skipped);
    const ms = performance.now() - started;
    return {
      type: "step",
      step: progress.step,
      loss,
      learningRate,
      ...(gradNorm !== undefined && { gradNorm }),
      lossScale,
      skipped,
      ms,
      itemsPerSecond: (1000 * this.itemsPerStep) / ms,
    };
  }

  #advance(skipped: boolean): void {
    const { progress } = this;
    progress.step++;
    progress.stepsSinceScale++;
    if (skipped) {
      progress.skipped++;
      progress.skipsInARow++;
      const lowest = !this.#dynamic || progress.lossScale <= dynamicScale.min;
      if (lowest && progress.skipsInARow >= hopelessSkips) {
        throw new EngineError(
          "train",
          `${hopelessSkips} steps in a row overflowed at loss scale ${progress.lossScale}`,
          {
            remedy: "lower the learning rate or use a wider precision",
          },
        );
      }
    } else {
      progress.applied++;
      progress.skipsInARow = 0;
    }
    if (!this.#dynamic) return;
    if (skipped) progress.lossScale = Math.max(dynamicScale.min, progress.lossScale / 2);
    else if (progress.stepsSinceScale >= dynamicScale.interval)
      progress.lossScale = Math.min(dynamicScale.max, progress.lossScale * 2);
    else return;
    progress.stepsSinceScale = 0;
  }

  /** What validation measures, as means over its batches; undefined where the task has none. */
  async validate(signal?: AbortSignal): Promise<Figures | undefined> {
    if (this.#validate === undefined) return undefined;
    const all: Figures[] = [];
    for (const { feeds, figures = lossAlone } of this.task.validation!.batches()) {
      all.push(figures(await this.#validate.run(feeds, signal === undefined ? {} : { signal })));
    }
    const count = all.reduce((sum, each) => sum + each.count, 0);
    const mean = (of: (figures: Figures) => number) =>
      all.reduce((sum, each) => sum + each.count * of(each), 0) / count;
    const accuracy = mean((each) => each.accuracy ?? Number.NaN);
    return { count, loss: mean((each) => each.loss), ...(!Number.isNaN(accuracy) && { accuracy }) };
  }

  /** Writes a checkpoint of everything that the next step depends on into a folder of `run`. Returns the folder. */
  async save(run: string, about: { readonly model?: ModelConfig; readonly tokenizer?: string } = {}): Promise<string> {
    const meta = {
      format: formatVersion,
      anekit: packageVersion(),
      engine: this.engine.name,
      precision: this.policy.name,
      optimizer: this.#optimizer.name,
      ...about,
    } as const;
    return saveCheckpoint(run, { ...meta, progress: { ...this.progress } }, this.#graphs.state, this.state);
  }

  /**
   * Goes on from a checkpoint folder; a loss scale that the options fix stays. @throws {CheckpointError | ConfigError} where the checkpoint belongs to
   * another model, optimizer or policy; nothing is changed then. Returns what differs between then and now and may change the last bits.
   */
  async load(folder: string, model?: ModelConfig): Promise<string[]> {
    const meta = await readCheckpointMeta(folder);
    if (meta.precision !== this.policy.name) {
      throw new ConfigError(
        "resume",
        `the checkpoint was trained with precision ${meta.precision}, not ${this.policy.name}`,
      );
    }
    if (meta.optimizer !== this.#optimizer.name) {
      throw new ConfigError("resume", `the checkpoint was trained with ${meta.optimizer}, not ${this.#optimizer.name}`);
    }
    for (const [field, value] of Object.entries(model ?? {})) {
      const saved = (meta.model as Readonly<Record<string, unknown>> | undefined)?.[field];
      if (JSON.stringify(saved) !== JSON.stringify(value))
        throw new ConfigError("resume", `the checkpoint's model has ${field} ${saved}, not ${value}`);
    }
    await loadState(folder, this.#graphs.state, this.state, { exact: true });
    const { lossScale } = this.progress;
    Object.assign(this.progress, meta.progress, this.#dynamic ? {} : { lossScale });
    const now = { engine: this.engine.name, anekit: packageVersion() };
    return (["engine", "anekit"] as const)
      .filter((what) => meta[what] !== now[what])
      .map((what) => `the checkpoint was written with ${what} ${meta[what]}, this is ${now[what]}`);
  }

  dispose(): void {
    this.#apply.dispose();
    this.#accumulate?.dispose();
    this.#validate?.dispose();
    this.#engine[Symbol.dispose]();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A batch as one item. */
function lossAlone({ loss }: Readonly<Record<string, NDArray>>): Figures {
  if (loss === undefined) {
    throw new ConfigError("train", "validation has no result named loss", {
      remedy: "name one so, or let its batches give their figures",
    });
  }
  return { count: 1, loss: loss.item() };
}
