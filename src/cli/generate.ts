// `anekit generate`: continues text with a trained model.

import { join } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { CheckpointError, ConfigError } from "../core/errors.ts";
import { openSafetensors } from "../data/safetensors.ts";
import { parseEngine } from "../engines/open.ts";
import { TextGenerator } from "../models/generate.ts";
import { Gpt, type GptConfig } from "../models/gpt.ts";
import { findCheckpoint, loadState, readCheckpointMeta } from "../train/checkpoint.ts";
import { precisionPolicy } from "../train/precision.ts";
import { type CommandContext, engineOption, jsonOption, openNamedEngine } from "./command.ts";
import { clean, printJson } from "./output.ts";
import { numberOption } from "./train.ts";
import { findTokenizer } from "./train-text.ts";

interface GenerateFlags {
  readonly tokens: number;
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly seed: number;
  readonly engine: string;
  readonly json?: true;
}

function probability(text: string): number {
  const value = numberOption(0, { integer: false, most: 1 })(text);
  if (value === 0) throw new InvalidArgumentError("Expected a number above 0, up to 1.");
  return value;
}

export function configure(command: Command, { signal }: CommandContext): void {
  command
    .description("Continues a text with the model of a checkpoint. The text goes to stdout.")
    .argument("<dir>", "folder that train wrote, or one checkpoint in it")
    .argument("[prompt]", "text to continue", "\n")
    .option("--tokens <n>", "tokens to make", numberOption(1), 200)
    .option(
      "--temperature <t>",
      "0 takes the likeliest token; higher is wilder",
      numberOption(0, { integer: false, most: 100 }),
      0.8,
    )
    .option("--top-k <k>", "choose among the k likeliest tokens", numberOption(1))
    .option("--top-p <p>", "choose among the likeliest tokens that together have this probability", probability)
    .option("--seed <n>", "fixes the choices", numberOption(0), 0)
    .addOption(engineOption())
    .addOption(jsonOption())
    .addHelpText("after", '\nExample:\n  anekit generate runs/1 "The people of" --tokens 300')
    .action((dir: string, prompt: string, flags: GenerateFlags) => run(dir, prompt, flags, signal));
}

async function run(dir: string, prompt: string, flags: GenerateFlags, signal: AbortSignal): Promise<void> {
  parseEngine(flags.engine); // before any work
  if (prompt === "")
    throw new ConfigError("generate", "the prompt is empty; give it at least one character or leave it out");
  const folder = await findCheckpoint(dir);
  const meta = await readCheckpointMeta(folder);
  if (meta.model === undefined || meta.model.architecture === "cnn")
    throw new ConfigError("generate", `${folder} is no checkpoint of a language model`);
  await requireSize(folder, meta.model);
  const model = new Gpt(meta.model, { dtype: precisionPolicy(meta.precision).compute, empty: true });
  const tokenizer = findTokenizer(meta.tokenizer ?? "bytes");
  using engine = await openNamedEngine(flags.engine);
  using generator = await TextGenerator.create(model, { tokenizer, engine, signal });
  await loadState(folder, model.parameters, generator.state);
  const { tokens: maxTokens, temperature, topK, topP, seed } = flags;
  const options = {
    maxTokens,
    temperature,
    seed,
    signal,
    ...(topK !== undefined && { topK }),
    ...(topP !== undefined && { topP }),
  };
  if (!flags.json) process.stdout.write(safe(prompt));
  for await (const { token, text } of generator.generate(prompt, options)) {
    if (flags.json) printJson({ token, text });
    else process.stdout.write(safe(text));
  }
  if (!flags.json) process.stdout.write("\n");
}

/** Refuses a model that is larger than the checkpoint's tensors, before anything of its size is allocated. */
async function requireSize(folder: string, { vocabSize, nEmbd, nLayer, hiddenDim }: GptConfig): Promise<void> {
  await using file = await openSafetensors(join(folder, "state.safetensors"));
  const stored = [...file.tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const least = vocabSize * nEmbd + nLayer * nEmbd * (nEmbd + 2 * hiddenDim);
  if (least > stored)
    throw new CheckpointError(folder, `the model needs at least ${least} numbers, the checkpoint holds ${stored}`);
}

/** Generated text for a terminal: control characters but newlines and tabs as escapes. A pipe gets the text itself. */
export function safe(text: string): string {
  return process.stdout.isTTY ? text.replace(/[^\n\t]+/g, clean) : text;
}
