// The trainer's promises: reproducible losses, accumulation, overflow handling, evaluation and interruption without traces.

import { describe, expect, test } from "vitest";
import { AbortedError, EngineError, parameter, type Tensor } from "../../src/index.ts";
import { adamw, sgd } from "../../src/optim/index.ts";
import { languageModelTask, TokenDataset, Trainer, type Validation } from "../../src/train/index.ts";
import {
  architectures,
  fixedTask,
  linearTask,
  losses,
  precisions,
  stateHash,
  tinyData,
  tinyGpt,
  tinyTask,
  tinyTrainer,
} from "./tiny.ts";

describe("losses", () => {
  test.each(precisions)("are the same bits for the same seed in %s, and others for another seed", async (precision) => {
    using a = await tinyTrainer(precision);
    using b = await tinyTrainer(precision);
    using otherModel = await tinyTrainer(precision, { modelSeed: 2 });
    using otherData = await tinyTrainer(precision, { dataSeed: 4 });
    const first = await losses(a, 5);
    expect(await losses(b, 5)).toEqual(first);
    expect(await stateHash(b)).toEqual(await stateHash(a));
    expect(await losses(otherModel, 5)).not.toEqual(first);
    expect(await losses(otherData, 5)).not.toEqual(first);
  });

  test("step, learning rate and items count from the options", async () => {
    using trainer = await tinyTrainer("fp32", {
      optimizer: adamw({ learningRate: (step) => 0.1 / (step + 1) }),
      accumulation: 3,
    });
    const events = [await trainer.step(), await trainer.step()];
    expect(events.map(({ step }) => step)).toEqual([1, 2]);
    expect(events.map(({ learningRate }) => learningRate)).toEqual([0.1, 0.05]);
    expect(trainer.itemsPerStep).toBe(2 * 8 * 3);
  });
});

describe("accumulation", () => {
  const rows = Array.from({ length: 8 }, (_, r) => Array.from({ length: 9 }, (_, i) => (i * 3 + r * 5) % 16));

  test.each(architectures)(
    "of four micro-batches equals one batch of four times the size in fp32 (%s)",
    async (architecture) => {
      const small = fixedTask(tinyGpt("fp32", { architecture }), rows.slice(0, 2));
      const quarter = (index: number) =>
        fixedTask(tinyGpt("fp32", { architecture }), rows.slice(2 * (index % 4), 2 * (index % 4) + 2)).batch(0);
      const options = {
        optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }),
        precision: "fp32",
        engine: "sim",
      } as const;
      using many = await Trainer.create({ ...options, task: { ...small, batch: quarter }, accumulation: 4 });
      using one = await Trainer.create({ ...options, task: fixedTask(tinyGpt("fp32", { architecture }), rows) });
      for (let step = 0; step < 4; step++) {
        const [a, b] = [await many.step(), await one.step()];
        expect(Math.abs(a.loss - b.loss)).toBeLessThan(1e-5);
        expect(Math.abs(a.gradNorm! / b.gradNorm! - 1)).toBeLessThan(1e-4);
      }
      for (const [name, tensor] of many.weights) {
        const [a, b] = [many.state.read(tensor).data, one.state.read(one.weights.get(name)!).data];
        for (let i = 0; i < a.length; i++) expect(Math.abs(a[i]! - b[i]!), name).toBeLessThan(1e-5);
      }
    },
  );

  test.each(precisions)("divides the gradient by a count that is no power of two, in %s", async (precision) => {
    const dtype = precision === "fp32" ? "fp32" : "fp16";
    const w = parameter([0, 0], [2], { dtype, name: "w" });
    const task = linearTask(
      precision,
      w,
      (index) =>
        [
          [0.25, 0.5],
          [0.5, 0.5],
          [0.75, 0.5],
        ][index % 3]!,
    );
    const optimizer = sgd({ learningRate: 1 });
    using trainer = await Trainer.create({
      task,
      optimizer,
      precision,
      accumulation: 3,
      clipNorm: null,
      engine: "sim",
    });
    await trainer.step();
    const { data } = trainer.state.read(trainer.weights.get("w")!);
    const unit = precision === "fp32" ? 2 ** -22 : 2 ** -10; // gradients are fp16 in mixed as well
    expect(Math.abs(data[0]! + 0.5)).toBeLessThan(0.5 * unit);
    expect(Math.abs(data[1]! + 0.5)).toBeLessThan(0.5 * unit);
  });

  test("whose sum leaves fp16 although no micro-step does is an overflow", async () => {
    const w = parameter([0, 0], [2], { name: "w" });
    const task = linearTask("fp16", w, () => [100, 0]); // times 1024 / 4: 25600 a micro-step, 102400 in all
    const optimizer = sgd({ learningRate: 2 ** -10, momentum: 0.5 });
    for (const clipNorm of [null, 1]) {
      using trainer = await Trainer.create({
        task,
        optimizer,
        precision: "fp16",
        accumulation: 4,
        clipNorm,
        engine: "sim",
      });
      const { skipped } = await trainer.step();
      const { data } = trainer.state.read(w);
      expect(Array.from(data).every(Number.isFinite), `clipNorm ${clipNorm}: w is ${data}`).toBe(true);
      expect(skipped || data[0]! < 0, `clipNorm ${clipNorm}: skipped ${skipped}, w is ${data}`).toBe(true);
    }
  });
});

describe("overflow", () => {
  /** Gradient of w is what `at` says for the step; fp16 overflows beyond 65504 / loss scale. */
  async function trainerOf(
    precision: "mixed" | "fp16",
    at: (index: number) => number,
    options: Partial<Parameters<typeof Trainer.create>[0]> = {},
  ) {
    const w = parameter([1, 2], [2], { name: "w" });
    const task = linearTask(precision, w, (index) => [at(index), 0.5]);
    return Trainer.create({
      task,
      optimizer: adamw({ learningRate: 0.01, weightDecay: 0.1 }),
      precision,
      engine: "sim",
      ...options,
    });
  }

  for (const precision of ["mixed", "fp16"] as const) {
    for (const accumulation of [1, 3]) {
      test(`is skipped without a trace, counted, and halves the scale (${precision}, accumulation ${accumulation})`, async () => {
        const bad = 2 * accumulation; // the first micro-step of the third step
        using trainer = await trainerOf(precision, (index) => (index === bad ? 1000 : 0.5), { accumulation });
        await trainer.step();
        await trainer.step();
        const before = await stateHash(trainer);
        const event = await trainer.step();
        expect(event).toMatchObject({ skipped: true, step: 3, lossScale: 1024 });
        expect(await stateHash(trainer)).toEqual(before);
        expect(trainer.progress).toMatchObject({ step: 3, applied: 2, skipped: 1, lossScale: 512, stepsSinceScale: 0 });
        const next = await trainer.step();
        expect(next).toMatchObject({ skipped: false, step: 4, lossScale: 512 });
        expect(await stateHash(trainer)).not.toEqual(before);
      });
    }

    test.each([1, 3])(
      `goes unnoticed by the numbers: ${precision} trains as if the skipped step had not been (accumulation %i)`,
      async (accumulation) => {
        using bumpy = await trainerOf(precision, (index) => (index === accumulation ? 1000 : 0.5), { accumulation });
        using smooth = await trainerOf(precision, () => 0.5, { accumulation });
        for (let i = 0; i < 4; i++) await bumpy.step();
        for (let i = 0; i < 3; i++) await smooth.step();
        expect(bumpy.progress.applied).toBe(3);
        expect(await stateHash(bumpy)).toEqual(await stateHash(smooth)); // scales are powers of two, gradients too: exact
      },
    );

    test(`in the loss alone is one too (${precision})`, async () => {
      const w = parameter([60000, 60000], [2], { name: "w" }); // the derivative is the feed, 10; the loss is 1.2 million
      const task = linearTask(precision, w, () => [10, 10]);
      const optimizer = sgd({ learningRate: 1 });
      using trainer = await Trainer.create({ task, optimizer, precision, lossScale: 1, engine: "sim" });
      const before = await stateHash(trainer);
      expect((await trainer.step()).skipped).toBe(true);
      expect(await stateHash(trainer)).toEqual(before);
    });

    test(`of a weight that is not a number is one (${precision})`, async () => {
      using trainer = await tinyTrainer(precision);
      const wte = trainer.task.parameters.get("wte.weight")!;
      const values = trainer.state.read(wte).data;
      trainer.state.write(
        wte,
        Float32Array.from(values as Float32Array, (x, i) => (i === 5 ? Number.NaN : x)),
      );
      expect((await trainer.step()).skipped).toBe(true);
    });

    test(`a static scale stays (${precision})`, async () => {
      using trainer = await trainerOf(precision, (index) => (index % 2 ? 1000 : 0.5), { lossScale: 256 });
      const events = [];
      for (let i = 0; i < 6; i++) events.push(await trainer.step());
      expect(events.map(({ skipped }) => skipped)).toEqual([false, true, false, true, false, true]);
      expect(trainer.progress.lossScale).toBe(256);
    });

    test(`the scale grows back after its interval, up to its bound (${precision})`, async () => {
      using trainer = await trainerOf(precision, (index) => (index === 0 ? 1000 : 2 ** -10));
      const scales: number[] = [];
      for (let i = 0; i < 1 + 7 * 200; i++) scales.push((await trainer.step()).lossScale);
      expect(scales[1]).toBe(512);
      expect(scales[200]).toBe(512);
      expect(scales[201]).toBe(1024);
      expect(scales[401]).toBe(2048);
      expect(scales[1 + 6 * 200]).toBe(32768);
      expect(trainer.progress.lossScale).toBe(32768);
      expect(trainer.progress.applied).toBe(1400);
    });

    test(`twenty hopeless steps end training with an error, its state as it was (${precision})`, async () => {
      using trainer = await trainerOf(precision, () => 60000, { lossScale: 1024 });
      const before = await stateHash(trainer);
      for (let i = 0; i < 19; i++) expect((await trainer.step()).skipped).toBe(true);
      await expect(trainer.step()).rejects.toThrow(/20 steps in a row overflowed at loss scale 1024/);
      expect(await stateHash(trainer)).toEqual(before);
    });

    test(`a dynamic scale falls to 1 before it is hopeless (${precision})`, async () => {
      using trainer = await trainerOf(precision, () => Number.POSITIVE_INFINITY);
      let steps = 0;
      const until = async () => {
        for (; steps < 60; steps++) await trainer.step();
      };
      await expect(until()).rejects.toThrow(EngineError);
      expect(trainer.progress.lossScale).toBe(1);
      expect(steps).toBeGreaterThanOrEqual(19);
    });
  }

  test("good steps in between start the count of hopeless ones again", async () => {
    using trainer = await trainerOf("fp16", (index) => (index % 15 === 14 ? 0.5 : 60000), { lossScale: 1024 });
    for (let i = 0; i < 45; i++) await trainer.step();
    expect(trainer.progress).toMatchObject({ skipped: 42, applied: 3 });
  });
});

describe("clipping in fp16", () => {
  test.each([
    ["of one element", 1, 30],
    ["of many elements whose norm leaves fp16 at the moment scale", 64, 30],
    ["of large elements at a small loss scale", 4, 5000],
  ])("turns a gradient %s into one of norm 1", async (_, count, value) => {
    const w = parameter(new Float32Array(count), [count], { name: "w" });
    const task = linearTask("fp16", w, () => new Float32Array(count).fill(value));
    const optimizer = sgd({ learningRate: 1 });
    using trainer = await Trainer.create({
      task,
      optimizer,
      precision: "fp16",
      lossScale: value > 60 ? 8 : 1024,
      engine: "sim",
    });
    const { skipped, gradNorm } = await trainer.step();
    expect(skipped).toBe(false);
    const want = -1 / Math.sqrt(count);
    for (const x of trainer.state.read(w).data) expect(Math.abs(x / want - 1)).toBeLessThan(0.01);
    expect(Math.abs(gradNorm! / (value * Math.sqrt(count)) - 1)).toBeLessThan(0.01);
  });

  test("absent: a gradient that leaves fp16 at the moment scale never reaches the weights", async () => {
    const w = parameter([0, 0], [2], { name: "w" });
    const task = linearTask("fp16", w, () => [100, 1]);
    for (const optimizer of [
      sgd({ learningRate: 2 ** -8 }),
      sgd({ learningRate: 2 ** -8, momentum: 0.9 }),
      adamw({ learningRate: 2 ** -8 }),
    ]) {
      using trainer = await Trainer.create({
        task,
        optimizer,
        precision: "fp16",
        clipNorm: null,
        lossScale: 64,
        engine: "sim",
      });
      for (let i = 0; i < 5; i++) await trainer.step();
      for (const x of trainer.state.read(w).data) expect(Number.isFinite(x), optimizer.name).toBe(true);
    }
  });
});

describe("validation", () => {
  test.each(precisions)("changes no state and no later loss in %s", async (precision) => {
    using a = await tinyTrainer(precision, { validation: true });
    using b = await tinyTrainer(precision, { validation: true });
    const before = await stateHash(a);
    const first = await a.validate();
    expect(Number.isFinite(first!.loss)).toBe(true);
    expect(await a.validate()).toEqual(first);
    expect(await stateHash(a)).toEqual(before);
    const list: number[] = [];
    for (let i = 0; i < 4; i++) {
      list.push((await a.step()).loss);
      await a.validate();
    }
    expect(list).toEqual(await losses(b, 4));
    expect((await a.validate())!.loss).not.toBe(first!.loss);
  });

  test("needs a loss or figures of its batches", async () => {
    const task = tinyTask("fp32", { validation: true });
    const { outputs, batches } = task.validation!;
    const trainerOf = (validation: Validation) =>
      Trainer.create({ task: { ...task, validation }, optimizer: adamw({ learningRate: 0.01 }), engine: "sim" });
    using unnamed = await trainerOf({ outputs: { error: outputs.loss! }, batches });
    await expect(unnamed.validate()).rejects.toThrow("validation has no result named loss");
    const figures = () => ({ count: 3, loss: 1, accuracy: 0.5 });
    using told = await trainerOf({ outputs, batches: () => [...batches()].map((batch) => ({ ...batch, figures })) });
    expect(await told.validate()).toMatchObject({ loss: 1, accuracy: 0.5 });
  });

  test("is undefined without validation data", async () => {
    using trainer = await tinyTrainer("fp32");
    expect(await trainer.validate()).toBeUndefined();
  });
});

describe("an aborted step", () => {
  for (const precision of precisions) {
    for (const accumulation of [1, 3]) {
      test(`leaves no trace (${precision}, accumulation ${accumulation})`, async () => {
        using whole = await tinyTrainer(precision, { accumulation });
        const want = await losses(whole, 4);
        // A clock that fires between micro-steps: the batch function of the given micro-step aborts.
        for (let at = 0; at < accumulation; at++) {
          const controller = new AbortController();
          const task = tinyTask(precision);
          const batch = (index: number) => {
            if (index === accumulation + at) controller.abort(new Error("stop"));
            return task.batch(index);
          };
          using trainer = await tinyTrainer(precision, { accumulation, task: { ...task, batch } } as object);
          const got = [(await trainer.step(controller.signal)).loss];
          const before = await stateHash(trainer);
          const progress = { ...trainer.progress };
          await expect(trainer.step(controller.signal)).rejects.toThrow(AbortedError);
          expect(await stateHash(trainer)).toEqual(before);
          expect(trainer.progress).toEqual(progress);
          for (let i = 1; i < 4; i++) got.push((await trainer.step()).loss);
          expect(got).toEqual(want);
        }
      });
    }
  }

  test("leaves no trace wherever the timer fires", async () => {
    // Large enough that the simulator, which looks at the clock every 20 ms, turns to the timer several times a step.
    const big = { nLayer: 2, nEmbd: 64, hiddenDim: 128 };
    const make = () => tinyTrainer("mixed", { model: tinyGpt("mixed", big), batchSize: 16, accumulation: 2 });
    using whole = await make();
    const want: number[] = [];
    let stepMs = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 3; i++) {
      const { loss, ms } = await whole.step();
      want.push(loss);
      stepMs = Math.min(stepMs, ms);
    }
    using trainer = await make();
    const got: number[] = [];
    let aborts = 0;
    for (let tries = 0; got.length < 3; tries++) {
      const controller = new AbortController();
      const timer = setTimeout(() => controller.abort(), ((tries * 0.37) % 0.8) * stepMs);
      try {
        got.push((await trainer.step(aborts < 5 ? controller.signal : undefined)).loss);
      } catch (error) {
        expect(error).toBeInstanceOf(AbortedError);
        aborts++;
      } finally {
        clearTimeout(timer);
      }
    }
    expect(got).toEqual(want);
    expect(aborts).toBeGreaterThan(0);
  });
});

describe("tokens as one-hot rows", () => {
  test.each(precisions)("train like tokens as indices in %s", async (precision) => {
    const task = (oneHot: boolean) =>
      languageModelTask(tinyGpt(precision), {
        data: tinyData(),
        batchSize: 2,
        seed: 3,
        validation: tinyData(),
        oneHot,
      });
    const optimizer = adamw({ learningRate: 0.01 });
    using rows = await Trainer.create({ task: task(true), optimizer, precision, engine: "sim" });
    using indices = await Trainer.create({ task: task(false), optimizer, precision, engine: "sim" });
    const [a, b] = [await losses(rows, 5), await losses(indices, 5)];
    const bound = precision === "fp32" ? 1e-6 : 2e-3; // embedding gradients are summed in another order
    for (const [i, loss] of a.entries()) expect(Math.abs(loss - b[i]!)).toBeLessThan(bound * 3);
    const [c, d] = [(await rows.validate())!, (await indices.validate())!];
    expect(Math.abs(c.loss - d.loss)).toBeLessThan(bound * 3);
  });
});

describe("validation data", () => {
  test("are seen window by window: the loss is the mean over as many as fill whole batches", async () => {
    const tokens = tinyData().tokens.slice(0, 49); // six windows
    const validation = new TokenDataset(tokens, { sequenceLen: 8, vocabSize: 16 });
    const lossIn = async (batchSize: number) => {
      const task = languageModelTask(tinyGpt("fp32"), { data: tinyData(), batchSize, validation });
      using trainer = await Trainer.create({
        task,
        optimizer: sgd({ learningRate: 1 }),
        precision: "fp32",
        engine: "sim",
      });
      return (await trainer.validate())!.loss;
    };
    const [one, two, three] = [await lossIn(1), await lossIn(2), await lossIn(3)];
    expect(Math.abs(one - three)).toBeLessThan(1e-6);
    expect(Math.abs(two - three)).toBeLessThan(1e-6);
  });
});

describe("overfitting one batch", () => {
  const rows = Array.from({ length: 2 }, (_, r) =>
    Array.from({ length: 9 }, (_, i) => (i * 7 + r * 3 + (i >> 1)) % 16),
  );
  for (const architecture of architectures) {
    test.each(precisions)(`a tiny ${architecture} gets below 0.1 within 150 steps in %s`, async (precision) => {
      const model = tinyGpt(precision, { architecture, nEmbd: 16, hiddenDim: 32 });
      const task = fixedTask(model, rows);
      using trainer = await Trainer.create({
        task,
        optimizer: adamw({ learningRate: 0.02 }),
        precision,
        engine: "sim",
      });
      let last = Number.POSITIVE_INFINITY;
      for (let i = 0; i < 150 && last > 0.1; i++) last = (await trainer.step()).loss;
      expect(last).toBeLessThan(0.1);
    });
  }
});

describe("Trainer.create refuses", () => {
  test.each([
    ["an accumulation of 0", { accumulation: 0 }, /accumulation 0/],
    ["half a micro-step", { accumulation: 1.5 }, /accumulation 1.5/],
    ["a clipping norm of 0", { clipNorm: 0 }, /clipNorm 0/],
    ["a clipping norm that is no number", { clipNorm: Number.NaN }, /clipNorm NaN/],
    ["a loss scale of 0", { lossScale: 0 }, /lossScale 0/],
    ["a loss scale that leaves fp16", { lossScale: 65536 }, /lossScale 65536/],
    ["a loss scale that is no number", { lossScale: Number.NaN }, /lossScale NaN/],
    ["a precision that the model does not compute in", { precision: "fp16" }, /computes in fp16, the model in fp32/],
    ["an unknown precision", { precision: "fp8" }, /"fp8" is none of/],
    [
      "a loss that is no scalar",
      { task: { ...tinyTask("fp32"), loss: tinyTask("fp32").watch![0] as Tensor } },
      /the cotangent is fp32\[\]/,
    ],
  ] as const)("%s", async (_, options, message) => {
    await expect(tinyTrainer("fp32", options as object)).rejects.toThrow(message);
  });
});
