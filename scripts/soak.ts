// Long checks that no test run has time for: `npm run soak`, or `npm run soak -- NAME…` for some of them.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { Engine } from "../src/index.ts";
import { compile, type EngineChoice, grad, input, openEngine, parameter } from "../src/index.ts";
import type { GroupResult } from "../test/ane/bench.ts";
import { profiles } from "../test/ane/double/quirks.ts";
import { runChild } from "../test/ane/start.ts";
import { fuzz } from "../test/cpu/fuzz.ts";
import { runSuite, whyNoArm64 } from "./arm64.ts";
import { Missing, useDouble } from "./double.ts";
import { command, root, runSteps, Skip, type Step } from "./steps.ts";

const FUZZ_RUNS = process.env.FUZZ_RUNS ?? "5000";
const PROGRAM_RUNS = 100_000;
const COMPILES = 3_000;
const CPU_PROGRAMS = Number(process.env.CPU_PROGRAMS ?? 2500); // seeds, five or six programs each
const ANE_PROGRAMS = Number(process.env.ANE_PROGRAMS ?? 1500); // in each profile
const ARM64_PROGRAMS = Number(process.env.ARM64_PROGRAMS ?? 40); // seeds, as above
const CPU_COMPILES = 10_000;
const ANE_COMPILES = 10_000;
const ANE_RUNS = 1_000_000;
const ANE_ASYNC_RUNS = 50_000;
const GROWTH_LIMIT = 2e6; // bytes; a leak of 20 bytes a run shows
const RESIDENT_LIMIT = 32e6; // bytes; native memory is given back when its views are collected

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

/** The same for all memory of the process, native memory included, less `kept` bytes a time; prints ten figures on the way. */
async function assertFlatResident(count: number, body: (index: number) => unknown, kept = 0): Promise<string> {
  const start = performance.now();
  const figures: number[] = [];
  for (let index = 0; index <= count; index++) {
    if (index % (count / 10) === 0) {
      collectGarbage();
      await new Promise((resolve) => setTimeout(resolve, 10)); // finalizers
      figures.push(process.memoryUsage.rss());
    }
    if (index === count) break;
    const pending = body(index);
    if (pending instanceof Promise) await pending;
  }
  const microseconds = ((performance.now() - start) / count) * 1000;
  const growth = figures.at(-1)! - figures[5]! - (kept * count) / 2; // the first half warms up
  const megabytes = figures.map((bytes) => (bytes / 1e6).toFixed(1)).join(" ");
  const slope = growth / (count / 2);
  const facts = `${count} times, ${microseconds.toFixed(0)} µs each, resident MB ${megabytes}, ${slope.toFixed(1)} bytes each`;
  if (growth > RESIDENT_LIMIT) throw new Error(facts);
  return facts;
}

/** One step of gradient descent with its weights as state. */
async function descent(engine: EngineChoice | Engine = "sim") {
  const x = input([4, 8], { name: "x" });
  const w = parameter(new Float32Array(8).fill(0.1), [8, 1], { name: "w" });
  const loss = x.matmul(w).square().mean();
  return compile({ loss }, { engine, update: new Map([[w, w.sub(grad(loss, [w])[0]!.mul(0.01))]]) });
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

/** The double never gives memory of an object or pool to another, so that it knows late uses: about what it keeps of a compile and of a run, in bytes. */
const doubleKeeps = { compile: 7000, run: 32 };

/** A job on the Neural Engine's driver over the double of Espresso; nothing may be left of it there. */
function throughDouble(job: (engine: Engine) => Promise<string>): Step {
  return async () => {
    try {
      using double = useDouble();
      let facts: string;
      {
        using engine = await openEngine("ane");
        double.computeNothing();
        facts = await job(engine);
      }
      // Memory that was looked at goes back when its views are collected.
      for (let turn = 0; turn < 5; turn++) {
        collectGarbage();
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      const report = double.raw.report();
      if (report.length > 0) {
        throw new Error([`${facts}; the double reports ${report.length}:`, ...report.slice(0, 20)].join("\n"));
      }
      const { compiles, executes, peakPrograms } = double.raw.counts();
      return `${facts}; ${compiles} compiles, ${executes} runs, ${peakPrograms} programs at most, nothing left`;
    } catch (error) {
      if (error instanceof Missing) throw new Skip(error.message);
      throw error;
    }
  };
}

const jobs: Readonly<Record<string, Step>> = {
  fuzz: longTest("test/fuzz", { FUZZ_RUNS }),
  "ane-suite": longTest("test/ane/suite.test.ts", { ANEKIT_PROFILES: "all" }),
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
  async "cpu-fuzz"() {
    const first = Number(process.env.FUZZ_SEED ?? 1 + (Date.now() % 1e6));
    process.stdout.write(`cpu-fuzz: FUZZ_SEED=${first} CPU_PROGRAMS=${CPU_PROGRAMS}\n`);
    const { programs, failures } = await fuzz(first, CPU_PROGRAMS, { quiet: 300_000 });
    const facts = `seeds ${first} to ${first + CPU_PROGRAMS - 1}, ${programs} programs`;
    if (failures.length > 0) throw new Error(`${facts}, ${failures.length} failures\n${failures.join("\n")}`);
    return facts;
  },
  /** Random programs through the double of Espresso, in every profile of chip and system. */
  async "ane-fuzz"() {
    const first = Number(process.env.FUZZ_SEED ?? 1 + (Date.now() % 1e6));
    const facts: string[] = [];
    for (const { name, env } of profiles) {
      const environment = { ANE_SEED: String(first), ANE_PROGRAMS: String(ANE_PROGRAMS) };
      const options = { config: env.ESPRESSO_DOUBLE, environment, limitMs: 3600e3 };
      const { lines, violations } = await runChild("suite-child.ts", ["random"], options);
      const result = (lines as GroupResult[]).find(({ group }) => group === "random")!;
      facts.push(`${name}: ${result.facts.taken} of ${result.checks} taken`);
      const failures = [...result.failures, ...violations];
      if (failures.length > 0) throw new Error(`FUZZ_SEED=${first} ${facts.join(", ")}\n${failures.join("\n")}`);
    }
    return `seeds from ${first}: ${facts.join(", ")}`;
  },
  /** All tests of the CPU engine as arm64, with all of their random cases, and random programs. */
  async arm64() {
    const reason = whyNoArm64();
    if (reason !== undefined) throw new Skip(reason);
    const { passed, failed, skipped } = await runSuite("all", ARM64_PROGRAMS);
    const facts = `${passed} passed, ${failed} failed, ${skipped} skipped, ${ARM64_PROGRAMS} seeds`;
    if (failed > 0) throw new Error(facts);
    return facts;
  },
  async "cpu-runs"() {
    await using program = await descent("cpu");
    const feeds = { x: Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)) };
    return await assertFlatResident(PROGRAM_RUNS, () => program.run(feeds));
  },
  async "cpu-compiles"() {
    using engine = await openEngine("cpu");
    const feeds = { x: new Float32Array(32) };
    return await assertFlatResident(CPU_COMPILES, async () => {
      await using program = await descent(engine);
      await program.run(feeds);
    });
  },
  /** Engines with their threads, too. */
  "cpu-engines": () => assertFlatResident(500, async () => (await descent("cpu")).dispose()),
  "ane-compiles": throughDouble((engine) => {
    const feeds = { x: new Float32Array(32) };
    const once = async () => {
      await using program = await descent(engine);
      program.runSync(feeds);
    };
    return assertFlatResident(ANE_COMPILES, once, doubleKeeps.compile);
  }),
  "ane-runs": throughDouble(async (engine) => {
    await using program = await descent(engine);
    const feeds = { x: Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)) };
    const sync = await assertFlatResident(ANE_RUNS, () => program.runSync(feeds), doubleKeeps.run);
    const async_ = await assertFlatResident(ANE_ASYNC_RUNS, () => program.run(feeds), doubleKeeps.run);
    return `runSync ${sync}; run ${async_}`;
  }),
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !Object.hasOwn(jobs, name));
if (unknown.length > 0) {
  process.stderr.write(`soak: no job ${unknown.join(", ")}; there is: ${Object.keys(jobs).join(", ")}\n`);
  process.exit(2);
}
const chosen = Object.entries(jobs).filter(([name]) => wanted.length === 0 || wanted.includes(name));
await runSteps("soak", Object.fromEntries(chosen));
