// `anekit train`: trains a GPT on text files or a classifier on images, resumably.

import { existsSync } from "node:fs";
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import * as v from "valibot";
import { ConfigError } from "../core/errors.ts";
import { makeFolder, removeStaleTemporaries, writeFileAtomic } from "../data/files.ts";
import { parseEngine } from "../engines/open.ts";
import { classifierPresets, presets } from "../models/presets.ts";
import { listCheckpoints } from "../train/checkpoint.ts";
import type { TrainEvent } from "../train/events.ts";
import { precisionNames } from "../train/precision.ts";
import { type CommandContext, engineOption, jsonOption, openPatiently } from "./command.ts";
import { note } from "./output.ts";
import { jsonView, printCurve, textView } from "./progress.ts";
import { imageDefaults, imageKind, imageNames } from "./train-images.ts";
import type { CommonSettings, TrainFlags, TrainKind, TrainPlan } from "./train-settings.ts";
import { textDefaults, textKind, tokenizers } from "./train-text.ts";

const settingsFile = "run.json";
const metricsFile = "metrics.jsonl";

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
  const shapes = Object.entries({ ...presets, ...classifierPresets }).map(
    ([name, { summary }]) => `  ${name.padEnd(10)} ${summary}`,
  );
  const [text, image] = [textDefaults, imageDefaults];
  command
    .description(
      "Trains a GPT on text, or a classifier on images, from scratch. Ctrl-C saves a checkpoint; --resume goes on from the last one, bit for bit.",
    )
    .option("--model <name>", "shape of the model (below)", "nano")
    .option(
      "--data <file...>",
      `UTF-8 text to learn, the last tenth for validation; for images ${imageNames.join(", ")}, or a folder with such a set`,
    )
    .addOption(
      new Option("--tokenizer <name>", "how text becomes tokens").choices(Object.keys(tokenizers)).default("bytes"),
    )
    .option(
      "--steps <n>",
      `optimizer steps in all; they also shape the learning rate (default: ${text.steps}, for images by --epochs)`,
      numberOption(1),
    )
    .option("--epochs <n>", `times that all images are seen (default: ${image.epochs})`, numberOption(1))
    .option("--batch <n>", `windows or images in a step (default: ${text.batch}, ${image.batch})`, numberOption(1))
    .option("--seq-len <n>", "tokens in a window; the model's default otherwise", numberOption(1))
    .option("--augment <list>", "random changes of images: crop=N,flip,cutout=N or none; the set's own otherwise")
    .option(
      "--lr <f>",
      `highest learning rate, after the warm-up (default: ${text.lr}, for images ${image.lr})`,
      numberOption(0, { integer: false }),
    )
    .option(
      "--warmup <n>",
      `steps until the learning rate is reached (default: ${text.warmup}, for images ${image.warmup})`,
      numberOption(0),
    )
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
    .option("--save-every <n>", "steps between checkpoints (default: 100, for images an epoch)", numberOption(1))
    .option(
      "--validate-every <n>",
      "steps between validations (default: for images an epoch); at the end in any case",
      numberOption(1),
    )
    .option("--resume", "go on with the run in --out")
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `\nModels:\n${shapes.join("\n")}\n\nExamples:\n  anekit train --data book.txt --steps 500 --out runs/book\n  anekit train --model cnn --data fashion-mnist --epochs 8`,
    )
    .action((flags: TrainFlags, self: Command) => run(flags, self, signal));
}

/** What run.json says of the run that is resumed. */
async function readSettings(out: string): Promise<Readonly<Record<string, unknown>>> {
  const file = join(out, settingsFile);
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new ConfigError("train", `there is no run to resume in ${out}: ${settingsFile} cannot be read`, { cause });
  });
  try {
    const json: unknown = JSON.parse(text);
    return typeof json === "object" && json !== null ? { ...json } : {};
  } catch (cause) {
    throw new ConfigError("train", `${file} is not JSON; the file is damaged`, { cause });
  }
}

async function planOf<S extends CommonSettings>(
  kind: TrainKind<S>,
  other: Pick<TrainKind<CommonSettings>, "options">,
  flags: TrainFlags,
  command: Command,
  model: string,
  json: unknown,
): Promise<TrainPlan> {
  const given = (name: keyof TrainFlags) => command.getOptionValueSource(name) === "cli";
  const strange = other.options.find(given);
  if (strange !== undefined) {
    const option = command.options.find((each) => each.attributeName() === strange)?.long;
    throw new ConfigError("train", `${option} does not apply to model ${model}`);
  }
  if (json === undefined) return kind.plan({ flags, given, saved: undefined });
  const parsed = v.safeParse(kind.schema, json);
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw new ConfigError("train", `${settingsFile}: ${v.getDotPath(issue) ?? "content"}: ${issue.message}`);
  }
  return kind.plan({ flags, given, saved: parsed.output });
}

/** The first of runs/1, runs/2, ... that does not exist. */
function freeFolder(): string {
  for (let n = 1; ; n++) if (!existsSync(join("runs", String(n)))) return join("runs", String(n));
}

async function run(flags: TrainFlags, command: Command, signal: AbortSignal): Promise<void> {
  parseEngine(flags.engine); // before any work
  if (flags.resume && flags.out === undefined)
    throw new ConfigError("train", "--resume needs --out, the folder of the run");
  const out = flags.out ?? freeFolder();
  const saved = flags.resume ? await readSettings(out) : undefined;
  if (!flags.resume && (await listCheckpoints(out)).length > 0) {
    throw new ConfigError("train", `${out} holds a run already`, {
      remedy: "add --resume to go on with it, or name another folder",
    });
  }
  const model = String(saved?.model ?? flags.model);
  const plan = Object.hasOwn(classifierPresets, model)
    ? await planOf(imageKind, textKind, flags, command, model, saved)
    : await planOf(textKind, imageKind, flags, command, model, saved);

  const hasCheckpoint = (await listCheckpoints(out)).length > 0;
  if (flags.resume && !hasCheckpoint) note(`no checkpoint in ${out} yet: starting from the beginning`);
  makeFolder(out);
  await removeStaleTemporaries(out);

  using engine = await openPatiently(flags.engine);
  const validateEvery = flags.validateEvery ?? plan.validateEvery;
  const events = plan.start({
    engine,
    out,
    saveEvery: flags.saveEvery ?? plan.saveEvery,
    resume: flags.resume === true && hasCheckpoint,
    signal,
    ...(validateEvery !== undefined && { validateEvery }),
  });
  const view = flags.json ? jsonView() : textView();
  const metrics = new Metrics(out);
  let item = "item";
  try {
    for await (const event of events) {
      view.event(event);
      await metrics.event(event);
      if (event.type === "start") {
        item = event.item;
        const { steps } = plan.settings;
        if (saved !== undefined && saved.steps !== steps)
          note(`the run was to have ${saved.steps} steps, now ${steps}; its learning rate follows`);
        // Not before, so that steps that do not fit a resumed run are not kept.
        await writeFileAtomic(join(out, settingsFile), `${JSON.stringify(plan.settings, undefined, 2)}\n`);
      }
      if (event.type === "end" && event.aborted) note(`to go on: anekit train --resume --out ${out}`);
    }
  } finally {
    view.close();
  }
  if (!flags.json) {
    printCurve(metrics.losses, item);
    const next = plan.next(out);
    if (!Number.isFinite(metrics.losses.at(-1) ?? 0))
      note("the loss is no longer a number: the run diverged; start another one with a lower --lr");
    else if (!signal.aborted && next !== undefined) note(next);
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
