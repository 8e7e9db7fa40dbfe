// Long checks that no test run has time for: `npm run soak`, or `npm run soak -- NAME…` for some of them.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { compile, grad, input, parameter } from "../src/index.ts";
import { command, root, runSteps, Skip, type Step } from "./steps.ts";

const FUZZ_RUNS = process.env.FUZZ_RUNS ?? "5000";
const PROGRAM_RUNS = 100_000;
const COMPILES = 3_000;
const GROWTH_LIMIT = 2e6; // bytes; a leak of 20 bytes a run shows

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** Bytes that are alive: objects and what typed arrays point to. */
function liveBytes(): number {
  collectGarbage();
  collectGarbage();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Calls `body` `count` times and compares the memory after a tenth of them with that at the end. */
async function assertFlatMemory(count: number, body: (index: number) => unknown): Promise<string> {
  const start = performance.now();
  let before = 0;
  for (let index = 0; index < count; index++) {
    if (index === Math.floor(count / 10)) before = liveBytes();
    await body(index);
  }
  const microseconds = ((performance.now() - start) / count) * 1000;
  const growth = liveBytes() - before;
  const facts = `${count} times, ${microseconds.toFixed(0)} µs each, memory ${(growth / 1000).toFixed(0)} kB more`;
  if (growth > GROWTH_LIMIT) throw new Error(facts);
  return facts;
}

/** One step of gradient descent with its weights as state. */
async function descent() {
  const x = input([4, 8], { name: "x" });
  const w = parameter(new Float32Array(8).fill(0.1), [8, 1], { name: "w" });
  const loss = x.matmul(w).square().mean();
  return compile({ loss }, { engine: "sim", update: new Map([[w, w.sub(grad(loss, [w])[0]!.mul(0.01))]]) });
}

/** A test path with many more runs than `npm test` makes, told so by `variables`. */
function longTest(path: string, variables: Readonly<Record<string, string>>): Step {
  return () => {
    if (!existsSync(join(root, path))) throw new Skip(`${path} does not exist`);
    const env = { ...process.env, NO_COLOR: "1", ...variables };
    const output = command("npx", ["vitest", "run", path, "--testTimeout", "3600000"], { env, timeout: 3 * 3600e3 });
    const told = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
    return `${told.join(" ")}: ${/^\d+ passed.*$/m.exec(output)?.[0] ?? "no counts"}`;
  };
}

const jobs: Readonly<Record<string, Step>> = {
  fuzz: longTest("test/fuzz", { FUZZ_RUNS }),
  kills: longTest("test/train/kill.test.ts", { SOAK: "1" }),
  async "program-runs"() {
    await using program = await descent();
    const feeds = { x: Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)) };
    return await assertFlatMemory(PROGRAM_RUNS, () => program.run(feeds));
  },
  async "program-runs-sync"() {
    await using program = await descent();
    const feeds = { x: Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)) };
    return await assertFlatMemory(PROGRAM_RUNS, () => program.runSync(feeds));
  },
  compiles: () => assertFlatMemory(COMPILES, async () => (await descent()).dispose()),
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !Object.hasOwn(jobs, name));
if (unknown.length > 0) {
  process.stderr.write(`soak: no job ${unknown.join(", ")}; there is: ${Object.keys(jobs).join(", ")}\n`);
  process.exit(2);
}
const chosen = Object.entries(jobs).filter(([name]) => wanted.length === 0 || wanted.includes(name));
await runSteps("soak", Object.fromEntries(chosen));
