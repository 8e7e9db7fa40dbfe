// Training and generation on the Neural Engine: losses, weights and tokens are those of the simulator on the chip's programs.

import { deepStrictEqual, notStrictEqual, strictEqual } from "node:assert/strict";
import { type Engine, input, type Tensor } from "../../../src/index.ts";
import { generate, TextGenerator } from "../../../src/models/index.ts";
import { crossEntropy, groupNorm, Linear, Scope } from "../../../src/nn/index.ts";
import { adamw, sgd } from "../../../src/optim/index.ts";
import { syntheticDigits, type Task, Trainer } from "../../../src/train/index.ts";
import { architectures, losses, stateHash, tinyGpt, tinyTask, tinyTrainer } from "../../train/tiny.ts";
import type { Bench } from "../bench.ts";

const precisions = ["fp16", "mixed"] as const;
const steps = 3;

/** The digits of examples 02 and 03, small. */
function digitsTask(
  name: string,
  size: number,
  channels: readonly number[],
  build: (scope: Scope) => (x: Tensor) => Tensor,
): Task {
  const batch = 4;
  const digits = syntheticDigits({ count: 40, seed: 3, size });
  const scope = new Scope({ dtype: "fp16", seed: 2 });
  const model = build(scope);
  const images = input([batch, ...channels], { name: "images" });
  const labels = input([batch], { name: "labels", dtype: "int32" });
  const pixels = size * size;
  return {
    name,
    parameters: scope.parameters,
    loss: crossEntropy(model(images), labels),
    itemsPerBatch: batch,
    batch: (index) => ({
      images: digits.images.slice(index * batch * pixels, (index + 1) * batch * pixels),
      labels: digits.labels.slice(index * batch, (index + 1) * batch),
    }),
  };
}

const mlp = () =>
  digitsTask("mlp", 8, [64], (scope) => {
    const hidden = new Linear(scope.at("hidden"), 64, 16);
    const output = new Linear(scope.at("output"), 16, 10);
    return (x) => output.forward(hidden.forward(x).relu());
  });

/** Weights of its convolutions are parameters: the chip takes constants only, or lowers them. */
const cnn = () =>
  digitsTask("cnn", 8, [1, 8, 8], (scope) => {
    const conv1 = scope.parameter("conv1", [4, 1, 3, 3], { std: 1 / 3 });
    const conv2 = scope.parameter("conv2", [6, 4, 3, 3], { std: 1 / 6 });
    const gamma = scope.parameter("norm.gamma", [4], { value: 1 });
    const beta = scope.parameter("norm.beta", [4], { value: 0 });
    const head = new Linear(scope.at("head"), 6, 10);
    return (x) => {
      const first = groupNorm(x.conv(conv1, { pad: 1 }), 2, { gamma, beta })
        .relu()
        .maxPool(2);
      return head.forward(first.conv(conv2, { pad: 1 }).relu().mean([2, 3]));
    };
  });

async function trained(make: () => Promise<Trainer>): Promise<{ losses: number[]; hash: string }> {
  const trainer = await make();
  try {
    return { losses: await losses(trainer, steps), hash: await stateHash(trainer) };
  } finally {
    trainer.dispose();
  }
}

async function same(bench: Bench, title: string, make: (engine: Engine) => Promise<Trainer>): Promise<void> {
  await bench.check(title, async () => {
    const got = await trained(() => make(bench.engine));
    const want = await trained(() => make(bench.reference));
    deepStrictEqual(got.losses, want.losses);
    strictEqual(got.hash, want.hash);
    strictEqual(got.losses.every(Number.isFinite), true);
    notStrictEqual(got.losses[0], got.losses.at(-1));
  });
}

export async function checkModels(bench: Bench): Promise<void> {
  const { engine, reference, check } = bench;
  for (const precision of precisions) {
    for (const task of [mlp, cnn])
      await same(bench, `${task.name} in ${precision}`, (each) =>
        Trainer.create({ task: task(), engine: each, precision, optimizer: adamw({ learningRate: 0.01 }) }),
      );
    for (const architecture of architectures)
      await same(bench, `${architecture} in ${precision}`, (each) =>
        tinyTrainer(precision, { oneHot: true, model: tinyGpt(precision, { architecture }), engine: each }),
      );
  }
  await same(bench, "llama with accumulation and momentum", (each) =>
    tinyTrainer("mixed", {
      oneHot: true,
      engine: each,
      accumulation: 2,
      optimizer: sgd({ learningRate: 0.05, momentum: 0.9 }),
    }),
  );
  for (const architecture of architectures) {
    await check(`${architecture} generates`, async () => {
      const texts: string[] = [];
      for (const each of [engine, reference]) {
        const model = tinyGpt("fp16", { architecture, vocabSize: 256 });
        let text = "";
        // More than sequenceLen: the caches are filled anew.
        for await (const piece of generate(model, "ab", { engine: each, maxTokens: 12, seed: 4 }))
          text += `${piece.token} `;
        texts.push(text);
      }
      strictEqual(texts[0], texts[1]);
      strictEqual(texts[0]!.split(" ").length > 12, true);
    });
  }
  await check("generation shares the state of training", async () => {
    const texts: string[] = [];
    for (const each of [engine, reference]) {
      const model = tinyGpt("fp16", { vocabSize: 256 });
      const task = tinyTask("fp16", { model, validation: true, oneHot: true });
      const trainer = await Trainer.create({
        task,
        engine: each,
        precision: "fp16",
        optimizer: adamw({ learningRate: 0.05 }),
      });
      using generator = await TextGenerator.create(model, { state: trainer.state });
      let text = "";
      for (let round = 0; round < 2; round++) {
        text += `${(await trainer.step()).loss} ${(await trainer.validate())!.loss} `;
        for await (const piece of generator.generate("hi", { maxTokens: 4, seed: 1 })) text += `${piece.token} `;
      }
      trainer.dispose();
      for await (const piece of generator.generate("hi", { maxTokens: 2, seed: 1 })) text += `${piece.token} `;
      texts.push(text);
    }
    strictEqual(texts[0], texts[1]);
  });
}
