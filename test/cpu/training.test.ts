// Training on the CPU engine: the losses of the simulator, the same bits whatever the number of threads, and learning.

import { afterAll, describe, expect, test } from "vitest";
import type { Engine } from "../../src/index.ts";
import { adamw } from "../../src/optim/index.ts";
import { architectures, losses, precisions, stateHash, tinyGpt, tinyTrainer } from "../train/tiny.ts";
import { instructionSets, openCpu } from "./compare.ts";

const sets = await instructionSets();
const steps = 20;

/**
 * How far a loss may be from the simulator's. fp32: sums in another order, 20 steps on. fp16: losses around 2 have steps of 2^-9, and the simulator
 * rounds every value, the engine only what it stores.
 */
const allowed = { fp32: 1e-5, mixed: 1e-2, fp16: 1e-2 } as const;

const engines: Engine[] = [];
afterAll(() => {
  for (const engine of engines) engine[Symbol.dispose]();
});
async function open(options: Parameters<typeof openCpu>[0]): Promise<Engine> {
  const engine = await openCpu(options);
  engines.push(engine);
  return engine;
}

describe.each(architectures)("a tiny %s", (architecture) => {
  test.each(precisions)("learns in %s as on the simulator", async (precision) => {
    const run = async (engine: Engine | "sim") => {
      const model = tinyGpt(precision, { architecture });
      const trainer = await tinyTrainer(precision, { model, engine, optimizer: adamw({ learningRate: 0.01 }) });
      const list = await losses(trainer, steps);
      trainer.dispose();
      return list;
    };
    const want = await run("sim");
    for (const isa of sets) {
      const got = await run(await open({ isa, threads: 2 }));
      const worst = Math.max(...got.map((loss, i) => Math.abs(loss - want[i]!)));
      expect(
        worst,
        `${isa}: ${got.slice(0, 5)} … ${got.at(-1)}, expected ${want.slice(0, 5)} … ${want.at(-1)}`,
      ).toBeLessThan(allowed[precision]);
      expect(got.at(-1)!).toBeLessThan(got[0]!);
    }
  });
});

test.each(precisions)("training in %s gives the same bits whatever the number of threads", async (precision) => {
  const hashes: string[] = [];
  for (const threads of [1, 2, 3]) {
    const trainer = await tinyTrainer(precision, { engine: await open({ threads }) });
    await losses(trainer, 10);
    hashes.push(await stateHash(trainer));
    trainer.dispose();
  }
  expect(hashes[1]).toBe(hashes[0]);
  expect(hashes[2]).toBe(hashes[0]);
});
