// Checkpoints: resumption to the bit, and what happens to damaged, foreign and stale ones.

import { cp, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RandomStream } from "../../src/core/random.ts";
import { encodeSafetensors, parseSafetensors, type SafetensorsInput } from "../../src/data/safetensors.ts";
import { AnekitError, CheckpointError, ConfigError } from "../../src/index.ts";
import type { GptOptions } from "../../src/models/index.ts";
import { adamw, sgd } from "../../src/optim/index.ts";
import {
  findCheckpoint,
  listCheckpoints,
  readCheckpointMeta,
  type TrainEvent,
  Trainer,
  train,
} from "../../src/train/index.ts";
import { losses, precisions, spikyTask, stateHash, tinyData, tinyGpt, tinyTrainer } from "./tiny.ts";

let folder = "";
let lastFolder = 0;
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), "anekit-checkpoint-"))));
afterAll(() => rm(folder, { recursive: true, force: true }));

async function newFolder(): Promise<string> {
  const path = join(folder, String(++lastFolder));
  await mkdir(path);
  return path;
}

describe("a resumed run", () => {
  for (const precision of precisions) {
    for (const accumulation of [1, 2]) {
      test(`has the losses and the state of an uninterrupted one, to the bit (${precision}, accumulation ${accumulation})`, async () => {
        const run = await newFolder();
        using whole = await tinyTrainer(precision, { accumulation });
        const want = await losses(whole, 6);
        for (const at of [0, 1, 4]) {
          using first = await tinyTrainer(precision, { accumulation });
          const got = await losses(first, at);
          const path = await first.save(run);
          using second = await tinyTrainer(precision, { accumulation, modelSeed: 9 }); // starts elsewhere: all must come from the file
          await second.load(path);
          expect(await stateHash(second)).toBe(await stateHash(first));
          got.push(...(await losses(second, 6 - at)));
          expect(got, `interrupted at ${at}`).toEqual(want);
          expect(await stateHash(second)).toBe(await stateHash(whole));
        }
      });

      test(`is exact across changes of the loss scale (${precision}, accumulation ${accumulation})`, async () => {
        const run = await newFolder();
        const make = (decoy = false) =>
          Trainer.create({
            task: spikyTask(precision, decoy ? [] : [2, 3, 9], precision === "fp32" ? 1e18 : 200),
            optimizer: adamw({ learningRate: 0.05 }),
            precision,
            accumulation,
            lossScale: "dynamic",
            engine: "sim",
          });
        const nearGrowth = (trainer: Trainer) => Object.assign(trainer.progress, { stepsSinceScale: 198 });
        const tell = async (trainer: Trainer, steps: number) => {
          const list = [];
          for (let i = 0; i < steps; i++) {
            const { loss, lossScale, skipped, gradNorm } = await trainer.step();
            list.push({ loss, lossScale, skipped, gradNorm });
          }
          return list;
        };
        using whole = await make();
        nearGrowth(whole);
        const want = await tell(whole, 12);
        expect(want.filter(({ skipped }) => skipped).length).toBeGreaterThan(0);
        expect(new Set(want.map(({ lossScale }) => lossScale)).size).toBeGreaterThan(1);
        for (let at = 1; at < 12; at += 2) {
          using first = await make();
          nearGrowth(first);
          const got = await tell(first, at);
          using second = await make();
          await second.load(await first.save(run));
          got.push(...(await tell(second, 12 - at)));
          expect(got).toEqual(want);
          expect(second.progress).toEqual(whole.progress);
        }
      });
    }
  }
});

async function collect(events: AsyncIterable<TrainEvent>): Promise<TrainEvent[]> {
  const list: TrainEvent[] = [];
  for await (const event of events) list.push(event);
  return list;
}

const stepsOf = (events: readonly TrainEvent[]) =>
  events.flatMap((event) => (event.type === "step" ? [{ step: event.step, loss: event.loss }] : []));

describe("train()", () => {
  const options = {
    data: tinyData(),
    batchSize: 2,
    optimizer: adamw({ learningRate: 0.01 }),
    engine: "sim",
    precision: "mixed",
  } as const;
  const run = (extra: object) => train(tinyGpt("mixed"), { ...options, steps: 6, ...extra });

  test("resumes where the last session ended", async () => {
    const out = await newFolder();
    const whole = stepsOf(await collect(run({})));
    const first = stepsOf(await collect(run({ out, steps: 2 })));
    const second = await collect(run({ out, resume: true }));
    expect([...first, ...stepsOf(second)]).toEqual(whole);
    expect(second[0]).toMatchObject({ type: "start", firstStep: 3, steps: 6 });
  });

  test("resumes after a loop that was left, from the last save", async () => {
    const out = await newFolder();
    const whole = stepsOf(await collect(run({})));
    const seen = [];
    for await (const event of run({ out, saveEvery: 1 })) {
      if (event.type === "step") seen.push({ step: event.step, loss: event.loss });
      if (event.type === "step" && event.step === 3) break;
    }
    const rest = stepsOf(await collect(run({ out, resume: true })));
    expect(rest.at(-1)).toEqual(whole.at(-1));
    for (const each of [...seen, ...rest]) expect(each).toEqual(whole[each.step - 1]);
  });

  test("saves and says so when a signal ends it; the rest is as if nothing had been", async () => {
    const out = await newFolder();
    const whole = stepsOf(await collect(run({})));
    const controller = new AbortController();
    const first: TrainEvent[] = [];
    for await (const event of run({ out, signal: controller.signal })) {
      first.push(event);
      if (event.type === "step" && event.step === 3) controller.abort();
    }
    expect(first.at(-1)).toMatchObject({ type: "end", step: 3, aborted: true });
    expect(first.at(-2)).toMatchObject({ type: "checkpoint", step: 3 });
    expect([...stepsOf(first), ...stepsOf(await collect(run({ out, resume: true })))]).toEqual(whole);
  });

  test("validates at the end and in between, without touching the losses", async () => {
    const whole = stepsOf(await collect(run({})));
    const events = await collect(run({ validation: tinyData(), validateEvery: 2 }));
    expect(stepsOf(events)).toEqual(whole);
    const validations = events.filter(({ type }) => type === "validation");
    expect(validations.map((event) => "step" in event && event.step)).toEqual([2, 4, 6]);
    expect(events.at(-1)).toMatchObject({
      type: "end",
      valLoss: (validations.at(-1) as { loss: number }).loss,
      aborted: false,
    });
  });

  test("makes the folder that it was told to write", async () => {
    const out = join(await newFolder(), "runs", "one");
    await collect(run({ out, steps: 1 }));
    expect((await listCheckpoints(out)).map(({ step }) => step)).toContain(1);
  });

  test("a new run in the folder of an old one never resumes from the old one's later checkpoints", async () => {
    const out = await newFolder();
    await collect(run({ out, steps: 6, saveEvery: 1 }));
    const attempt = collect(run({ out, steps: 2 })); // either refused, or all that is left is the new run's
    const outcome = await attempt.then(
      () => "ran",
      (error: unknown) => error,
    );
    if (outcome === "ran") expect((await listCheckpoints(out)).at(-1)?.step).toBe(2);
    else expect(outcome).toBeInstanceOf(AnekitError);
  });

  test("a finished run that is resumed ends at once, with figures or none, not NaN", async () => {
    const out = await newFolder();
    await collect(run({ out, steps: 2 }));
    const events = await collect(run({ out, steps: 2, resume: true }));
    expect(stepsOf(events)).toEqual([]);
    const end = events.at(-1);
    expect(end).toMatchObject({ type: "end", step: 2 });
    expect(end?.type === "end" && end.finalLoss).not.toBeNaN();
  });

  test("keeps the two newest checkpoints and no temporary", async () => {
    const out = await newFolder();
    await collect(run({ out, saveEvery: 1 }));
    expect((await readdir(out)).sort()).toEqual(["step-00000005", "step-00000006"]);
  });

  test.each([
    ["no steps", { steps: 0 }, /steps 0/],
    ["resumption without a folder", { resume: true }, /resume needs/],
    ["saving every 0 steps", { saveEvery: 0 }, /saveEvery 0/],
    ["validating every half step", { validateEvery: 0.5 }, /validateEvery 0.5/],
  ] as const)("refuses %s", async (_, extra, message) => {
    const out = "resume" in extra ? {} : { out: await newFolder() };
    await expect(collect(run({ ...extra, ...out }))).rejects.toThrow(message);
  });

  test("refuses to resume from nothing, and beyond the steps asked for", async () => {
    const out = await newFolder();
    await expect(collect(run({ out, resume: true }))).rejects.toThrow(CheckpointError);
    await collect(run({ out, steps: 3 }));
    await expect(collect(run({ out, steps: 2, resume: true }))).rejects.toThrow(/at step 3, beyond the 2/);
  });
});

describe("a damaged checkpoint", () => {
  let source = "";
  let sourceHash = "";
  const progress = { step: 3, applied: 3, skipped: 0, lossScale: 1024, stepsSinceScale: 3, skipsInARow: 0 };

  beforeAll(async () => {
    using trainer = await tinyTrainer("mixed");
    await losses(trainer, 3);
    source = await trainer.save(await newFolder(), { model: tinyGpt("mixed").config, tokenizer: "bytes" });
    sourceHash = await stateHash(trainer);
  });

  async function copy(): Promise<string> {
    const to = join(await newFolder(), "step-00000003");
    await cp(source, to, { recursive: true });
    return to;
  }

  /** Loads into a trainer that has done a step. Undefined where it loaded; the error, once nothing was changed, where it did not. */
  async function load(path: string, trainer: Trainer): Promise<unknown> {
    const before = await stateHash(trainer);
    const held = { ...trainer.progress };
    try {
      await trainer.load(path);
      return undefined;
    } catch (error) {
      expect(await stateHash(trainer)).toBe(before);
      expect(trainer.progress).toEqual(held);
      return error;
    }
  }

  async function expectRefused(
    path: string,
    message: RegExp,
    trainer?: Trainer,
    type: typeof AnekitError = CheckpointError,
  ): Promise<void> {
    using own = trainer === undefined ? await tinyTrainer("mixed", { modelSeed: 5 }) : undefined;
    const error = await load(path, trainer ?? own!);
    expect(error).toBeInstanceOf(type);
    expect((error as Error).message).toMatch(message);
  }

  test("that is whole loads (the tests below mean something)", async () => {
    using trainer = await tinyTrainer("mixed", { modelSeed: 5 });
    expect(await load(await copy(), trainer)).toBeUndefined();
    expect(await stateHash(trainer)).toBe(sourceHash);
    expect(trainer.progress).toMatchObject(progress);
  });

  test("without its JSON", async () => {
    const path = await copy();
    await rm(join(path, "checkpoint.json"));
    await expectRefused(path, /checkpoint\.json: cannot be read/);
    await expect(findCheckpoint(path)).rejects.toThrow(CheckpointError);
  });

  test("without its tensors", async () => {
    const path = await copy();
    await rm(join(path, "state.safetensors"));
    await expectRefused(path, /state\.safetensors/);
  });

  test.each(["checkpoint.json", "state.safetensors"])("whose %s is cut short, anywhere", async (name) => {
    using trainer = await tinyTrainer("mixed", { modelSeed: 5 });
    await trainer.step();
    const { length } = await readFile(join(source, name));
    const random = new RandomStream(1, "cuts");
    const cuts = [
      0,
      1,
      7,
      8,
      9,
      length - 1,
      length - 2,
      ...Array.from({ length: 25 }, () => Math.floor(random.uniform() * length)),
    ];
    for (const cut of cuts) {
      const path = await copy();
      await truncate(join(path, name), cut);
      const error = await load(path, trainer);
      // Only the line feed at the end of the JSON may be missing.
      if (name === "checkpoint.json" && cut === length - 1) continue;
      expect(error, `cut to ${cut} of ${length}`).toBeInstanceOf(CheckpointError);
    }
  });

  test.each([
    ["state.safetensors", 150],
    ["checkpoint.json", 150],
  ])(
    "with a flipped bit in %s is refused or loads as it was",
    async (name, flips) => {
      using trainer = await tinyTrainer("mixed", { modelSeed: 5 });
      await trainer.step();
      const bytes = await readFile(join(source, name));
      const random = new RandomStream(2, name);
      const harmful: string[] = [];
      const path = await copy();
      for (let i = 0; i < flips; i++) {
        // Half of the flips go where there is structure: the header, or all of the JSON.
        const at = Math.floor(random.uniform() * (i % 2 ? bytes.length : Math.min(bytes.length, 2500)));
        const bit = 1 << Math.floor(random.uniform() * 8);
        const damaged = Uint8Array.from(bytes);
        damaged[at]! ^= bit;
        await writeFile(join(path, name), damaged);
        let error: unknown;
        try {
          await trainer.load(path);
        } catch (caught) {
          error = caught;
        }
        if (error !== undefined) {
          if (!(error instanceof CheckpointError || error instanceof ConfigError))
            harmful.push(`byte ${at}: ${String(error)}`);
        } else if (
          (await stateHash(trainer)) !== sourceHash ||
          JSON.stringify(trainer.progress) !== JSON.stringify(progress)
        ) {
          const context = Buffer.from(damaged.subarray(Math.max(0, at - 25), at + 6)).toString("latin1");
          harmful.push(`byte ${at} loaded: ${JSON.stringify(context)}`);
        }
      }
      expect(harmful).toEqual([]);
    },
    60_000,
  );

  test("with a changed digit in the progress of checkpoint.json", async () => {
    using trainer = await tinyTrainer("mixed", { modelSeed: 5 });
    await trainer.step();
    const path = await copy();
    const file = join(path, "checkpoint.json");
    const text = await readFile(file, "utf8");
    const start = text.indexOf('"progress"');
    const end = text.indexOf("}", start);
    const unnoticed: string[] = [];
    for (let at = start; at < end; at++) {
      if (!/\d/.test(text[at]!)) continue;
      const digit = String.fromCharCode(text.charCodeAt(at) ^ 1); // the lowest bit: another digit
      await writeFile(file, text.slice(0, at) + digit + text.slice(at + 1));
      if ((await trainer.load(path).catch((error: unknown) => error)) === undefined)
        unnoticed.push(text.slice(text.lastIndexOf("\n", at) + 1, text.indexOf("\n", at)).trim());
    }
    expect(unnoticed).toEqual([]);
  });

  async function rewrite(change: (tensors: Map<string, SafetensorsInput>) => void): Promise<string> {
    const path = await copy();
    const file = join(path, "state.safetensors");
    const old = parseSafetensors(new Uint8Array(await readFile(file)), file);
    const tensors = new Map<string, SafetensorsInput>();
    for (const [name, { dtype, shape }] of old.tensors) {
      if (dtype === "F16") tensors.set(name, { dtype: "fp16", shape, data: old.bits(name).slice() });
      else tensors.set(name, { dtype: "fp32", shape, data: (old.values(name).data as Float32Array).slice() });
    }
    change(tensors);
    await writeFile(file, Buffer.concat([...encodeSafetensors(tensors, { format: "anekit" })]));
    return path;
  }

  const victims = ["wte.weight", "blocks.0.attn.wk.weight.master", "norm.gamma.v", "blocks.0.mlp.w2.weight.m"];

  test.each(victims)("without tensor %s", async (victim) => {
    const path = await rewrite((tensors) => tensors.delete(victim));
    await expectRefused(path, new RegExp(`"${victim}" is missing`));
  });

  test.each(victims)("with tensor %s under another name", async (victim) => {
    const path = await rewrite((tensors) => {
      tensors.set(`${victim}s`, tensors.get(victim)!);
      tensors.delete(victim);
    });
    await expectRefused(path, new RegExp(`"${victim}" is missing`));
  });

  test.each(victims)("with tensor %s in another shape", async (victim) => {
    const path = await rewrite((tensors) => {
      const old = tensors.get(victim)!;
      tensors.set(victim, { ...old, shape: [old.data.length, 1] } as SafetensorsInput);
    });
    await expectRefused(path, new RegExp(`"${victim}" has shape`));
  });

  test.each(victims)("with tensor %s in another dtype", async (victim) => {
    const path = await rewrite((tensors) => {
      const { shape, dtype, data } = tensors.get(victim)!;
      const values = Float32Array.from(data as Float32Array);
      tensors.set(victim, { dtype: dtype === "fp16" ? "fp32" : "fp16", shape, data: values });
    });
    await expectRefused(path, new RegExp(`"${victim}" is F`));
  });

  test.each(victims)("with one number of %s changed", async (victim) => {
    const path = await rewrite((tensors) => {
      tensors.get(victim)!.data[0]! += 1;
    });
    await expectRefused(path, new RegExp(`"${victim}" is damaged`));
  });

  test("with a tensor that the run has not", async () => {
    const path = await rewrite((tensors) =>
      tensors.set("blocks.7.mlp.w1.weight", { dtype: "fp16", shape: [1], data: new Uint16Array(1) }),
    );
    await expectRefused(path, /blocks\.7\.mlp\.w1\.weight/);
  });

  test("of a later format", async () => {
    const path = await copy();
    const file = join(path, "checkpoint.json");
    await writeFile(file, (await readFile(file, "utf8")).replace('"format": 1', '"format": 2'));
    await expectRefused(path, /format/);
  });

  test.each([
    ["more channels", { nEmbd: 16 }, /tensor "wte\.weight"/],
    ["a larger vocabulary", { vocabSize: 32 }, /tensor "wte\.weight"/],
    ["more layers", { nLayer: 2 }, /tensor "blocks\.1/],
    ["another hidden width", { hiddenDim: 32 }, /tensor "blocks\.0\.mlp/],
    ["another architecture", { architecture: "gpt2" }, /tensor "wpe\.weight"/],
    ["more key heads", { nKvHead: 2 }, /tensor "blocks\.0\.attn\.wk/],
  ] as const)("of a model with %s", async (_, config, message) => {
    using trainer = await tinyTrainer("mixed", { model: tinyGpt("mixed", config as Partial<GptOptions>) });
    await expectRefused(await copy(), message, trainer);
  });

  test("of a model with fewer layers than the checkpoint's", async () => {
    using deep = await tinyTrainer("mixed", { model: tinyGpt("mixed", { nLayer: 2 }) });
    const path = await deep.save(await newFolder(), { model: tinyGpt("mixed", { nLayer: 2 }).config });
    await expectRefused(path, /blocks\.1/);
  });

  test("of a model whose heads are cut otherwise, though all shapes agree", async () => {
    const out = await newFolder();
    const options = {
      data: tinyData(),
      batchSize: 2,
      optimizer: adamw({ learningRate: 0.01 }),
      engine: "sim",
      precision: "mixed",
      out,
    } as const;
    const heads = (nHead: number) => tinyGpt("mixed", { nHead, nKvHead: nHead });
    await collect(train(heads(2), { ...options, steps: 1 }));
    await expect(collect(train(heads(4), { ...options, steps: 2, resume: true }))).rejects.toThrow(/nHead/);
  });

  test.each(["fp16", "fp32"] as const)("for precision %s", async (precision) => {
    using trainer = await tinyTrainer(precision);
    await expectRefused(await copy(), /precision mixed, not fp/, trainer, ConfigError);
  });

  test("for an optimizer with other state", async () => {
    using trainer = await tinyTrainer("mixed", { optimizer: sgd({ learningRate: 0.1, momentum: 0.9 }) });
    await expectRefused(await copy(), /trained with adamw, not sgd/, trainer, ConfigError);
  });

  test("says what it holds", async () => {
    expect(await readCheckpointMeta(source)).toMatchObject({
      format: 1,
      engine: "sim",
      precision: "mixed",
      tokenizer: "bytes",
      progress,
    });
  });
});
