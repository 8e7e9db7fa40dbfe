// Training with batch norms: running statistics follow the batches, are left alone by steps that overflow, are saved, and validation uses them.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { input, type Tensor } from "../../src/index.ts";
import { ResNet } from "../../src/models/index.ts";
import { BatchNorm2d, crossEntropy, Scope } from "../../src/nn/index.ts";
import { sgd } from "../../src/optim/index.ts";
import { type PrecisionName, syntheticDigits, type Task, Trainer } from "../../src/train/index.ts";
import { dtypeOf, precisions } from "./tiny.ts";

const [batch, size] = [8, 8];
const digits = syntheticDigits({ count: 64, seed: 3, size });

function digitsTask(precision: PrecisionName, scale = 1) {
  const dtype = dtypeOf(precision);
  const config = { block: "basic", layers: [1], width: 4, channels: 1, classes: 10 } as const;
  const model = new ResNet(config, { dtype, seed: 1 });
  const images = input([batch, 1, size, size], { name: "images", dtype });
  const labels = input([batch], { name: "labels", dtype: "int32" });
  const updates = new Map();
  const feeds = (index: number) => {
    const from = (index * batch) % digits.labels.length;
    return {
      images: digits.images.slice(from * size * size, (from + batch) * size * size).map((pixel) => scale * pixel),
      labels: digits.labels.slice(from, from + batch),
    };
  };
  const task: Task = {
    name: "digits",
    parameters: model.parameters,
    loss: crossEntropy(model.forward(images, { updates }), labels),
    updates,
    itemsPerBatch: batch,
    batch: feeds,
    validation: {
      outputs: { loss: crossEntropy(model.forward(images), labels) },
      batches: () => [{ feeds: feeds(0) }],
    },
  };
  return { model, task };
}

const optimizer = () => sgd({ learningRate: 0.05 });

describe.each(precisions)("in precision %s", (precision) => {
  test("a network learns, and validation with the running statistics follows", async () => {
    const { model, task } = digitsTask(precision);
    using trainer = await Trainer.create({ task, optimizer: optimizer(), precision, engine: "sim" });
    const before = await trainer.validate();
    const losses: number[] = [];
    for (let step = 0; step < 40; step++) losses.push((await trainer.step()).loss);
    expect(losses.at(-1)!).toBeLessThan(0.7 * losses[0]!);
    expect((await trainer.validate())!.loss).toBeLessThan(0.95 * before!.loss);
    const mean = trainer.state.read(model.statistics.get("bn1.running_mean")!).data;
    expect(mean.some((value) => Math.abs(value) > 0.01)).toBe(true);
  });

  test("a checkpoint holds the statistics", async () => {
    const folder = await mkdtemp(join(tmpdir(), "anekit-batch-norm-"));
    try {
      const first = digitsTask(precision);
      using trainer = await Trainer.create({ task: first.task, optimizer: optimizer(), precision, engine: "sim" });
      for (let step = 0; step < 3; step++) await trainer.step();
      const saved = await trainer.save(folder);
      const second = digitsTask(precision);
      using resumed = await Trainer.create({ task: second.task, optimizer: optimizer(), precision, engine: "sim" });
      await resumed.load(saved);
      for (const [name, tensor] of second.model.statistics) {
        expect(resumed.state.read(tensor).data).toEqual(trainer.state.read(first.model.statistics.get(name)!).data);
      }
      expect((await resumed.step()).loss).toBe((await trainer.step()).loss);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

test("micro-steps each move the statistics", async () => {
  const { model, task } = digitsTask("fp32");
  const one = digitsTask("fp32");
  // With a learning rate of 0 two micro-steps are two steps.
  const still = () => sgd({ learningRate: 0 });
  using accumulated = await Trainer.create({
    task,
    optimizer: still(),
    precision: "fp32",
    engine: "sim",
    accumulation: 2,
  });
  using single = await Trainer.create({ task: one.task, optimizer: still(), precision: "fp32", engine: "sim" });
  await accumulated.step();
  await single.step();
  await single.step();
  for (const [name, tensor] of model.statistics)
    expect(accumulated.state.read(tensor).data).toEqual(single.state.read(one.model.statistics.get(name)!).data);
});

test.each([1, 2])("a step that overflows leaves them alone (%d micro-steps)", async (accumulation) => {
  const { model, task } = digitsTask("fp16", 60000);
  using trainer = await Trainer.create({
    task,
    optimizer: optimizer(),
    precision: "fp16",
    engine: "sim",
    accumulation,
  });
  expect((await trainer.step()).skipped).toBe(true);
  for (const tensor of model.statistics.values()) {
    const values = new Set(trainer.state.read(tensor).data);
    expect(values.size).toBe(1); // 0 or 1 everywhere, as they started
  }
});

test.each([1, 2])(
  "statistics never become infinite where derivatives stay finite (%d micro-steps)",
  async (accumulation) => {
    // Variances of ±600 are 360,000, beyond fp16; normalized they are ±1.
    const scope = new Scope({ dtype: "fp16" });
    const norm = new BatchNorm2d(scope.at("norm"), 1);
    const updates = new Map<Tensor, Tensor>();
    const loss = norm
      .forward(input([4, 1, 4, 4], { name: "x", dtype: "fp16" }), { updates })
      .square()
      .mean()
      .reshape([]);
    const x = Float32Array.from({ length: 64 }, (_, i) => (i % 2 === 0 ? 600 : -600));
    const task: Task = {
      name: "large",
      parameters: scope.parameters,
      loss,
      updates,
      batch: () => ({ x }),
      itemsPerBatch: 4,
    };
    using trainer = await Trainer.create({
      task,
      optimizer: optimizer(),
      precision: "fp16",
      engine: "cpu",
      accumulation,
    });
    for (let step = 0; step < 2; step++) await trainer.step();
    for (const tensor of [norm.runningMean, norm.runningVar]) {
      expect([...trainer.state.read(tensor).data].every(Number.isFinite)).toBe(true);
    }
  },
);

test("only state can be replaced", async () => {
  const { task } = digitsTask("fp32");
  const wrong = { ...task, updates: new Map([[task.loss, task.loss]]) };
  await expect(Trainer.create({ task: wrong, optimizer: optimizer(), engine: "sim" })).rejects.toThrow(
    /parameters only/,
  );
});
