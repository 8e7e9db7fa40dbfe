// `anekit train`: trains a GPT on text files, resumably.

import { existsSync } from "node:fs";
import { appendFile, mkdir, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { crc32 } from "node:zlib";
import { type Command, InvalidArgumentError, Option } from "commander";
import * as v from "valibot";
import { ConfigError } from "../core/errors.ts";
import { fileError } from "../data/bytes.ts";
import { loadTextFiles, splitTokens, TokenDataset } from "../data/dataset.ts";
import { removeStaleTemporaries, writeFileAtomic } from "../data/files.ts";
import { byteTokenizer, type Tokenizer } from "../data/tokenizer.ts";
import { parseEngine } from "../engines/open.ts";
import { Gpt } from "../models/gpt.ts";
import { findPreset, presets } from "../models/presets.ts";
import { adamw, warmupCosine } from "../optim/index.ts";
import { listCheckpoints } from "../train/checkpoint.ts";
import type { TrainEvent } from "../train/events.ts";
import { precisionNames, precisionPolicy } from "../train/precision.ts";
import { train } from "../train/train.ts";
import { type CommandContext, engineOption, jsonOption } from "./command.ts";
import { note } from "./output.ts";
import { jsonView, printCurve, textView } from "./progress.ts";

const positive = v.pipe(v.number(), v.integer(), v.minValue(1));

/** What decides the numbers of a run; written beside the checkpoints, and binding when the run is resumed. */
const settingsSchema = v.strictObject({
  model: v.string(),
  data: v.pipe(v.array(v.string()), v.minLength(1)),
  tokenizer: v.string(),
  steps: positive,
  batch: positive,
  seqLen: positive,
  lr: v.number(),
  warmup: v.pipe(v.number(), v.integer(), v.minValue(0)),
  seed: v.pipe(v.number(), v.integer(), v.minValue(0)),
  precision: v.picklist(precisionNames),
  accumulation: positive,
  clip: v.number(),
  /** Length and CRC-32 of the token sequence, to notice data that changed. */
  tokens: positive,
  tokensCrc: v.pipe(v.number(), v.integer(), v.minValue(0)),
});
type Settings = v.InferOutput<typeof settingsSchema>;
const settingsFile = "run.json";
const metricsFile = "metrics.jsonl";

/** Tokenizers by name. */
const tokenizers: Readonly<Record<string, Tokenizer>> = { bytes: byteTokenizer };

export function findTokenizer(name: string): Tokenizer {
  const found = Object.hasOwn(tokenizers, name) ? tokenizers[name] : undefined;
  if (found === undefined)
    throw new ConfigError("tokenizer", `"${name}" is none of ${Object.keys(tokenizers).join(", ")}`);
  return found;
}

interface TrainFlags {
  readonly model: string;
  readonly data?: readonly string[];
  readonly tokenizer: string;
  readonly steps: number;
  readonly batch: number;
  readonly seqLen?: number;
  readonly lr: number;
  readonly warmup: number;
  readonly seed: number;
  readonly precision: Settings["precision"];
  readonly accumulation: number;
  readonly clip: number;
  readonly engine: string;
  readonly out?: string;
  readonly saveEvery: number;
  readonly validateEvery?: number;
  readonly resume?: true;
  readonly json?: true;
}

/** Parser of a number option with bounds. */
export function numberOption(least: number, { integer = true, most = Number.MAX_SAFE_INTEGER } = {}) {
  return (text: string): number => {
    const value = Number(text);
    if (
      text.trim() === "" ||
      Number.isNaN(value) ||
      value < least ||
      value > most ||
      (integer && !Number.isInteger(value))
    ) {
      const range =
        value > most || most < Number.MAX_SAFE_INTEGER ? `from ${least} to ${most}` : `of at least ${least}`;
      throw new InvalidArgumentError(`Expected ${integer ? "an integer" : "a number"} ${range}.`);
    }
    return value;
  };
}

export function configure(command: Command, { signal }: CommandContext): void {
  const shapes = Object.entries(presets).map(([name, { summary }]) => `  ${name.padEnd(10)} ${summary}`);
  command
    .description(
      "Trains a GPT on text from scratch. Ctrl-C saves a checkpoint; --resume goes on from the last one, bit for bit.",
    )
    .option("--model <name>", "shape of the model (below)", "nano")
    .option("--data <file...>", "UTF-8 text to learn; the last tenth is for validation")
    .addOption(
      new Option("--tokenizer <name>", "how text becomes tokens").choices(Object.keys(tokenizers)).default("bytes"),
    )
    .option("--steps <n>", "optimizer steps in all; they also shape the learning rate", numberOption(1), 300)
    .option("--batch <n>", "windows in a step", numberOption(1), 8)
    .option("--seq-len <n>", "tokens in a window; the model's default otherwise", numberOption(1))
    .option("--lr <f>", "highest learning rate, after the warm-up", numberOption(0, { integer: false }), 3e-3)
    .option("--warmup <n>", "steps until the learning rate is reached", numberOption(0), 20)
    .option("--seed <n>", "fixes initial weights and batches", numberOption(0), 0)
    .addOption(
      new Option("--precision <name>", "fp16 throughout, fp16 with fp32 master weights, or fp32")
        .choices(precisionNames)
        .default("mixed"),
    )
    .option("--accumulation <n>", "micro-steps whose gradients are averaged", numberOption(1), 1)
    .option(
      "--clip <f>",
      "gradient norm above which gradients shrink; 0 for none",
      numberOption(0, { integer: false }),
      1,
    )
    .addOption(engineOption())
    .option("--out <dir>", "folder for checkpoints and metrics; runs/1, runs/2, ... otherwise")
    .option("--save-every <n>", "steps between checkpoints", numberOption(1), 100)
    .option("--validate-every <n>", "steps between validations; at the end in any case", numberOption(1))
    .option("--resume", "go on with the run in --out")
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `\nModels:\n${shapes.join("\n")}\n\nExample:\n  anekit train --data book.txt --steps 500 --out runs/book`,
    )
    .action((flags: TrainFlags, self: Command) => run(flags, self, signal));
}

/** Settings of a run that exists, with what this call may change. */
async function resumedSettings(out: string, flags: TrainFlags, command: Command): Promise<Settings> {
  const file = join(out, settingsFile);
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new ConfigError("train", `there is no run to resume in ${out}: ${settingsFile} cannot be read`, { cause });
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new ConfigError("train", `${file} is not JSON; the file is damaged`, { cause });
  }
  const parsed = v.safeParse(settingsSchema, json);
  if (!parsed.success)
    throw new ConfigError(
      "train",
      `${file}: ${v.getDotPath(parsed.issues[0]) ?? "content"}: ${parsed.issues[0].message}`,
    );
  const saved = parsed.output;
  const given = (name: string) => command.getOptionValueSource(name) === "cli";
  for (const name of [
    "model",
    "tokenizer",
    "batch",
    "seqLen",
    "lr",
    "warmup",
    "seed",
    "precision",
    "accumulation",
    "clip",
  ] as const) {
    if (given(name) && flags[name] !== saved[name]) {
      throw new ConfigError("train", `the run in ${out} has ${name} ${saved[name]}, not ${flags[name]}`, {
        remedy: "leave the option out, or start another run",
      });
    }
  }
  const data = given("data") ? flags.data!.map((path) => resolve(path)) : saved.data;
  return { ...saved, data, ...(given("steps") && { steps: flags.steps }) };
}

function newSettings(flags: TrainFlags): Omit<Settings, "tokens" | "tokensCrc"> {
  if (flags.data === undefined)
    throw new ConfigError("train", "no text to learn", { remedy: "name one or more files with --data" });
  const { model, tokenizer, steps, batch, lr, warmup, seed, precision, accumulation, clip } = flags;
  if (!(lr > 0)) throw new ConfigError("train", "--lr must be above 0");
  const seqLen = flags.seqLen ?? findPreset(model).options.sequenceLen;
  if (seqLen === undefined) throw new ConfigError("train", `model ${model} has no default window; give --seq-len`);
  return {
    model,
    data: flags.data.map((path) => resolve(path)),
    tokenizer,
    steps,
    batch,
    seqLen,
    lr,
    warmup,
    seed,
    precision,
    accumulation,
    clip,
  };
}

/** The first of runs/1, runs/2, ... that does not exist. */
function freeFolder(): string {
  for (let n = 1; ; n++) if (!existsSync(join("runs", String(n)))) return join("runs", String(n));
}

async function run(flags: TrainFlags, command: Command, signal: AbortSignal): Promise<void> {
  const engine = parseEngine(flags.engine); // before any work
  if (flags.resume && flags.out === undefined)
    throw new ConfigError("train", "--resume needs --out, the folder of the run");
  const out = flags.out ?? freeFolder();
  const fixed = flags.resume ? await resumedSettings(out, flags, command) : newSettings(flags);
  if (!flags.resume && (await listCheckpoints(out)).length > 0) {
    throw new ConfigError("train", `${out} holds a run already`, {
      remedy: "add --resume to go on with it, or name another folder",
    });
  }
  const tokenizer = findTokenizer(fixed.tokenizer);
  const tokens = await loadTextFiles(fixed.data, tokenizer);
  const tokensCrc = crc32(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength));
  if ("tokens" in fixed && (fixed.tokens !== tokens.length || (fixed as Settings).tokensCrc !== tokensCrc)) {
    throw new ConfigError(
      "train",
      `the data changed since the run began (${fixed.tokens} tokens then, ${tokens.length} now)`,
      {
        remedy: "restore the files, or start another run",
      },
    );
  }
  const settings: Settings = { ...fixed, tokens: tokens.length, tokensCrc };
  const { training, validation } = splitTokens(tokens, 0.1, settings.seqLen);
  const sizes = { sequenceLen: settings.seqLen, vocabSize: tokenizer.vocabSize };
  const dtype = precisionPolicy(settings.precision).compute;
  const shape = { ...findPreset(settings.model).options, sequenceLen: settings.seqLen, vocabSize: tokenizer.vocabSize };
  const model = new Gpt(shape, { dtype, seed: settings.seed });

  const hasCheckpoint = (await listCheckpoints(out)).length > 0;
  if (flags.resume && !hasCheckpoint) note(`no checkpoint in ${out} yet: starting from the beginning`);
  await mkdir(out, { recursive: true }).catch((cause: unknown) => {
    throw fileError(out, cause);
  });
  await removeStaleTemporaries(out);
  await writeFileAtomic(join(out, settingsFile), `${JSON.stringify(settings, undefined, 2)}\n`);

  const events = train(model, {
    data: new TokenDataset(training, { ...sizes, name: "training" }),
    validation: new TokenDataset(validation, { ...sizes, name: "validation" }),
    batchSize: settings.batch,
    sequenceLen: settings.seqLen,
    seed: settings.seed,
    optimizer: adamw({
      learningRate: warmupCosine({
        learningRate: settings.lr,
        steps: settings.steps,
        warmupSteps: Math.min(settings.warmup, settings.steps),
      }),
    }),
    steps: settings.steps,
    precision: settings.precision,
    accumulation: settings.accumulation,
    clipNorm: settings.clip === 0 ? null : settings.clip,
    engine,
    tokenizer: settings.tokenizer,
    out,
    saveEvery: flags.saveEvery,
    resume: flags.resume === true && hasCheckpoint,
    signal,
    ...(flags.validateEvery !== undefined && { validateEvery: flags.validateEvery }),
  });
  const view = flags.json ? jsonView() : textView();
  const metrics = new Metrics(out);
  try {
    for await (const event of events) {
      view.event(event);
      await metrics.event(event);
      if (event.type === "end" && event.aborted) note(`to go on: anekit train --resume --out ${out}`);
    }
  } finally {
    view.close();
  }
  if (!flags.json) {
    printCurve(metrics.losses);
    if (!Number.isFinite(metrics.losses.at(-1) ?? 0))
      note("the loss is no longer a number: the run diverged; start another one with a lower --lr");
    else if (!signal.aborted) note(`to see what it learned: anekit generate ${out} "Once upon a time"`);
  }
}

/** The run's losses in metrics.jsonl, which a resumed run continues from its checkpoint on. */
class Metrics {
  readonly #file: string;
  readonly losses: number[] = [];

  constructor(out: string) {
    this.#file = join(out, metricsFile);
  }

  async event(event: TrainEvent): Promise<void> {
    if (event.type === "start") return this.#rewind(event.firstStep);
    if (event.type !== "step" && event.type !== "validation") return;
    if (event.type === "step") this.losses.push(event.loss);
    await appendFile(this.#file, `${JSON.stringify(event)}\n`);
  }

  /** Keeps the lines of steps before `firstStep`; a line that a kill cut short goes too. */
  async #rewind(firstStep: number): Promise<void> {
    const text = firstStep === 1 ? "" : await readFile(this.#file, "utf8").catch(() => "");
    const kept: string[] = [];
    for (const line of text.split("\n")) {
      try {
        const event = JSON.parse(line) as { type?: unknown; step?: unknown; loss?: unknown };
        if (typeof event.step !== "number" || event.step >= firstStep) continue;
        kept.push(`${line}\n`);
        if (event.type === "step" && typeof event.loss === "number") this.losses.push(event.loss);
      } catch {
        // cut short
      }
    }
    await writeFileAtomic(this.#file, kept.join(""));
  }
}
