// `anekit demo`: a small transformer learns real text from nothing and completes a prompt, in a minute or two.

import { readFile } from "node:fs/promises";
import { type Command, Option } from "commander";
import { splitTokens, TokenDataset, unigramEntropy } from "../data/dataset.ts";
import { packageFile } from "../data/package.ts";
import { byteTokenizer } from "../data/tokenizer.ts";
import { TextGenerator } from "../models/generate.ts";
import { Gpt } from "../models/gpt.ts";
import { findPreset } from "../models/presets.ts";
import { adamw, warmupCosine } from "../optim/index.ts";
import { train } from "../train/train.ts";
import type { Trainer } from "../train/trainer.ts";
import { type CommandContext, engineOption, jsonOption, openPatiently } from "./command.ts";
import { safe } from "./generate.ts";
import { note, printJson } from "./output.ts";
import { jsonView, printCurve, textView } from "./progress.ts";
import { numberOption } from "./train.ts";

/**
 * What an engine trains in about a minute; the same text, steps and seed give the same model on every machine of its kind. Few windows a step: many
 * small steps learn more in a minute than few large ones (docs/log.md).
 */
const sizes = {
  fast: { steps: 2400, model: findPreset("micro").options, batchSize: 4, learningRate: 3e-3 },
  slow: { steps: 320, model: { ...findPreset("nano").options, nLayer: 2 }, batchSize: 2, learningRate: 8e-3 },
} as const;
const prompt = "The people of the United States ";

interface DemoFlags {
  readonly steps?: number;
  readonly seed: number;
  readonly precision: "fp16" | "mixed";
  readonly engine: string;
  readonly json?: true;
}

export function configure(command: Command, { signal }: CommandContext): void {
  command
    .description(
      "Trains a transformer of 0.8 million parameters (0.12 on the simulator) on presidential speeches, byte by byte, and lets it complete a sentence.",
    )
    .option(
      "--steps <n>",
      `optimizer steps (default: ${sizes.fast.steps}, on the simulator ${sizes.slow.steps})`,
      numberOption(1),
    )
    .option("--seed <n>", "fixes initial weights, batches and text", numberOption(0), 1)
    .addOption(
      new Option("--precision <name>", "fp16 throughout, or fp16 with fp32 master weights")
        .choices(["fp16", "mixed"])
        .default("mixed"),
    )
    .addOption(engineOption())
    .addOption(jsonOption())
    .action((flags: DemoFlags) => run(flags, signal));
}

async function run(flags: DemoFlags, signal: AbortSignal): Promise<void> {
  using engine = await openPatiently(flags.engine);
  const { model: options, batchSize, learningRate, ...size } = engine.name === "sim" ? sizes.slow : sizes.fast;
  const { seed, precision, steps = size.steps } = flags;
  const text = await readFile(
    packageFile("data/demo.txt", "run scripts/demo-text.ts, or install the package again"),
    "utf8",
  );
  const tokens = byteTokenizer.encode(text);
  const { sequenceLen } = options;
  const { training, validation } = splitTokens(tokens, 0.1, sequenceLen);
  const windows = { sequenceLen, vocabSize: byteTokenizer.vocabSize };
  const data = new TokenDataset(training, { ...windows, name: "training" });
  const held = new TokenDataset(validation, { ...windows, name: "validation" });
  const model = new Gpt({ ...options, vocabSize: byteTokenizer.vocabSize }, { dtype: "fp16", seed });
  const optimizer = adamw({
    learningRate: warmupCosine({ learningRate, steps, warmupSteps: Math.min(10, steps) }),
  });
  const common = { batchSize, seed, engine, precision, signal };

  const entropy = unigramEntropy(held.tokens, byteTokenizer.vocabSize);
  if (!flags.json) {
    note(
      `text: ${(text.length / 1000).toFixed(0)} kB of State of the Union speeches; guessing letters by their frequency alone would cost ${entropy.toFixed(2)} nats`,
    );
  }
  const view = flags.json ? jsonView() : textView();
  const losses: number[] = [];
  let trainer: Trainer | undefined;
  const events = train(model, {
    ...common,
    data,
    validation: held,
    optimizer,
    steps,
    onTrainer: (made) => (trainer = made),
  });
  try {
    for await (const event of events) {
      view.event(event);
      if (event.type === "step") losses.push(event.loss);
      if (event.type !== "end") continue;
      if (!flags.json) printCurve(losses);
      if (!event.aborted) await complete(model, trainer!, flags, signal); // the weights are still on the engine
    }
  } finally {
    view.close();
  }
  if (!flags.json && !signal.aborted)
    note('next: anekit train --data YOUR.txt --steps 500, then anekit generate runs/1 "A beginning"');
}

async function complete(model: Gpt, trainer: Trainer, { seed, json }: DemoFlags, signal: AbortSignal): Promise<void> {
  using generator = await TextGenerator.create(model, { state: trainer.state, signal });
  let text = "";
  if (!json) process.stdout.write(`\n${prompt}`);
  for await (const piece of generator.generate(prompt, { maxTokens: 240, temperature: 0.6, topK: 40, seed, signal })) {
    text += piece.text;
    if (!json) process.stdout.write(safe(piece.text));
  }
  if (json) printJson({ prompt, completion: text });
  else process.stdout.write("\n\n");
}
