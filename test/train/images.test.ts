// Training classifiers on images: they learn, count right, and go on bit for bit.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import { input } from "../../src/index.ts";
import { Cnn, type CnnOptions } from "../../src/models/index.ts";
import { adamw, warmupCosine } from "../../src/optim/index.ts";
import {
  digitImages,
  ImageBatches,
  imageTask,
  type PrecisionName,
  precisionPolicy,
  type RunOptions,
  type TrainEvent,
  Trainer,
  train,
} from "../../src/train/index.ts";

const { training, test: held } = digitImages({ training: 1500, test: 301, seed: 1 });
const shape = { imageShape: training.shape, classes: 10, channels: [8, 16], groups: 4, head: "flatten" } as const;
const folders: string[] = [];
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))));

function batches() {
  const data = new ImageBatches(training, { batchSize: 32, seed: 5, augmentation: { crop: 1 } });
  return { data, validation: new ImageBatches(held, { batchSize: 100 }) };
}

function model(precision: PrecisionName, options: Partial<CnnOptions> = {}) {
  return new Cnn({ ...shape, ...options }, { dtype: precisionPolicy(precision).compute, seed: 2 });
}

async function events(
  precision: PrecisionName,
  options: Partial<RunOptions> & { readonly steps: number },
): Promise<TrainEvent[]> {
  const optimizer = adamw({ learningRate: warmupCosine({ learningRate: 1e-2, steps: 120, warmupSteps: 10 }) });
  const list: TrainEvent[] = [];
  for await (const event of train(model(precision), { ...batches(), optimizer, engine: "cpu", precision, ...options }))
    list.push(event);
  return list;
}

const stepsOf = (list: readonly TrainEvent[]) => list.flatMap((event) => (event.type === "step" ? [event.loss] : []));

describe("a classifier", () => {
  it.each(["fp32", "mixed", "fp16"] as const)(
    "learns digits in %s and tells how many it knows",
    async (precision) => {
      const list = await events(precision, { steps: 120, validateEvery: 60 });
      const validations = list.filter((event) => event.type === "validation");
      expect(validations.map(({ step }) => step)).toEqual([60, 120]);
      const last = validations[1]!;
      expect(last.accuracy).toBeGreaterThan(0.85); // chance is 0.1; about 0.95 here
      expect(last.loss).toBeLessThan(0.5);
      expect(list.at(-1)).toMatchObject({ type: "end", valLoss: last.loss, valAccuracy: last.accuracy, skipped: 0 });
      expect(list[0]).toMatchObject({ type: "start", item: "image", itemsPerStep: 32 });
    },
    60_000,
  );

  it("goes on bit for bit from a checkpoint: same images, same changes, same losses", async () => {
    const out = await mkdtemp(join(tmpdir(), "anekit-images-"));
    folders.push(out);
    const whole = stepsOf(await events("mixed", { steps: 12 }));
    const first = stepsOf(await events("mixed", { steps: 7, out }));
    const second = stepsOf(await events("mixed", { steps: 12, out, resume: true }));
    expect([...first, ...second]).toEqual(whole);
  }, 60_000);

  it("refuses the checkpoint of another shape", async () => {
    const out = await mkdtemp(join(tmpdir(), "anekit-images-"));
    folders.push(out);
    await events("mixed", { steps: 1, out });
    const optimizer = adamw({ learningRate: 1e-2 });
    const other = train(model("mixed", { channels: [8, 8] }), {
      ...batches(),
      optimizer,
      engine: "cpu",
      steps: 2,
      out,
      resume: true,
    });
    await expect(other.next()).rejects.toThrow("the checkpoint's model has channels 8,16, not 8,8");
  }, 60_000);

  it("is measured alike by the engines and by hand, copies in the last batch left out", async () => {
    const options = { task: imageTask(model("fp32"), batches()), optimizer: adamw({ learningRate: 1e-2 }) };
    using cpu = await Trainer.create({ ...options, engine: "cpu" });
    using sim = await Trainer.create({ ...options, task: imageTask(model("fp32"), batches()), engine: "sim" });
    const [a, b] = [(await cpu.validate())!, (await sim.validate())!];
    expect(a.count).toBe(301);
    expect(a.accuracy).toBe(b.accuracy);
    expect(Math.abs(a.loss - b.loss)).toBeLessThan(1e-5);
    expect((a.accuracy! * 301) % 1).toBeCloseTo(0, 9); // a whole number of the 301
  }, 60_000);
});

describe("Cnn", () => {
  it("has the parameters and the results of its shape", () => {
    const { parameters, parameterCount } = new Cnn({ imageShape: [3, 32, 32], classes: 10 });
    expect(parameterCount).toBe(9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128) + 10 * 128 + 10);
    expect([...parameters.keys()].slice(0, 3)).toEqual([
      "stages.0.conv.weight",
      "stages.0.norm.gamma",
      "stages.0.norm.beta",
    ]);
    const flat = new Cnn({ imageShape: [1, 28, 28], classes: 10, head: "flatten" });
    expect(flat.parameters.get("head.weight")!.shape).toEqual([10, 128 * 7 * 7]);
    const { logits, activations } = flat.forward(input([4, 1, 28, 28]));
    expect(logits.shape).toEqual([4, 10]);
    expect(activations.map((tensor) => tensor.shape[2])).toEqual([28, 14, 7]);
  });

  it.each([
    [{ imageShape: [3, 3, 32], classes: 10 }, "images of [3, 3, 32] cannot be halved 2 times"],
    [{ imageShape: [3, 32, 32], classes: 0 }, "classes: "],
    [{ imageShape: [3, 32, 32], classes: 10, channels: [] }, "channels: "],
    [{ imageShape: [3, 32, 32], classes: 10, channels: [12], groups: 8 }, "groups 8 does not divide 12 channels"],
  ] as const)("refuses %j", (options, message) => {
    expect(() => new Cnn(options)).toThrow(ConfigError);
    expect(() => new Cnn(options)).toThrow(message);
  });

  it("refuses images of other sizes, and sets that do not fit", () => {
    expect(() => model("fp32").forward(input([4, 1, 9, 8], { dtype: "fp32" }))).toThrow("not [B, 1, 8, 8]");
    const { data } = batches();
    expect(() => imageTask(model("fp32", { classes: 9 }), { data })).toThrow(
      "has 10 classes of [1, 8, 8], the model takes 9",
    );
  });
});
