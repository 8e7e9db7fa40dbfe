// Faults around the Neural Engine: `faults-child.ts CASE…` runs cases one after the other and prints what each gave and left in the double.

import { chmodSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire, syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Worker as WorkerType } from "node:worker_threads";

/** Workers that the engine started: what kills one must reach it. */
const workers: WorkerType[] = [];
const threads = createRequire(import.meta.url)("node:worker_threads") as { Worker: typeof WorkerType };
const { Worker } = threads;
threads.Worker = class extends Worker {
  constructor(...args: ConstructorParameters<typeof WorkerType>) {
    super(...args);
    workers.push(this);
  }
};
syncBuiltinESMExports();

const { compile, input, openEngine, parameter } = await import("../../src/index.ts");
const { examineNeuralEngine } = await import("../../src/engines/open.ts");
const { findChip } = await import("../../src/chips/index.ts");
const { probe } = await import("../../src/engines/ane/probe.ts");
const { leftover, openAne, outcome, outcomeOf, print, raw, wait } = await import("./inside.ts");
type Engine = Awaited<ReturnType<typeof openAne>>;

const base = process.env.ESPRESSO_DOUBLE!;
/** Further settings of the double in this process from now on. */
const set = (settings = "") => raw.configure(settings === "" ? base : `${base};${settings}`);

const feeds = { x: [1, 2, 3, 4] };
const simple = (factor = 2) => ({ y: input([4], { name: "x" }).mul(factor) });
const refusedOne = () => ({ y: input([4], { name: "x" }).tanh() });

async function resultOf(engine: Engine, factor = 2): Promise<unknown> {
  using program = await compile(simple(factor), { engine });
  return Array.from((await program.run(feeds)).y.data as Float32Array);
}

/** A program that adds what it is fed to its state. */
function counter(engine: Engine, at = 0) {
  const x = input([4], { name: "x" });
  const total = parameter([at, 0, 0, 0], [4], { name: "total" });
  const next = total.add(x);
  return { total, program: compile({ y: next.mul(2) }, { engine, update: new Map([[total, next]]) }) };
}

/** Process ids of the double's simulators that this process started. */
function simulators(): number[] {
  return readdirSync("/proc").flatMap((name) => {
    if (!/^[0-9]+$/.test(name)) return [];
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      const parent = Number(stat.slice(stat.lastIndexOf(")")).split(" ")[2]);
      const command = readFileSync(`/proc/${name}/cmdline`, "utf8");
      return parent === process.pid && command.includes("simulate.ts") ? [Number(name)] : [];
    } catch {
      return [];
    }
  });
}

/** A run that was just asked for has been given to the thread, whose answer no turn of the event loop has brought yet. */
async function inFlight(): Promise<void> {
  for (let i = 0; i < 50; i++) await undefined;
}

const timed = async (promise: Promise<unknown>) => {
  const started = performance.now();
  const what = await outcome(promise);
  return { what, ms: performance.now() - started };
};

/** How `auto` opens, and that it computes. */
async function auto(): Promise<unknown> {
  const engine = await openEngine("auto");
  const { name, reason } = engine;
  using program = await compile(simple(), { engine });
  const { y } = await program.run(feeds);
  program.dispose();
  engine[Symbol.dispose]();
  return { name, reason, y: Array.from(y.data as Float32Array) };
}

const cases: Readonly<Record<string, () => Promise<unknown>>> = {
  async "a refused compile"() {
    using engine = await openAne();
    set("refuse-op=tanh");
    const error = await compile(refusedOne(), { engine }).catch((reason: Error) => reason);
    return { message: (error as Error).message, next: await resultOf(engine) };
  },
  async "pace: off"() {
    process.env.ANEKIT_ANE_PACE = "off";
    using engine = await openAne();
    set("fail-compiles=1");
    return [await timed(resultOf(engine)), await timed(resultOf(engine))];
  },
  async "pace: seconds"() {
    process.env.ANEKIT_ANE_PACE = "1";
    using engine = await openAne();
    set("fail-compiles=1;poison=300");
    return [await timed(resultOf(engine)), await timed(resultOf(engine)), await timed(resultOf(engine))];
  },
  async "pace: seconds on the calling thread"() {
    process.env.ANEKIT_ANE_PACE = "1";
    using engine = await openAne();
    using program = await compile(simple(), { engine });
    const held = [];
    // So many that the first is unloaded: its next run compiles again.
    for (let i = 0; i < engine.budget.limit; i++) held.push(await compile(simple(i), { engine }));
    set("fail-compiles=1;poison=300");
    const first = outcomeOf(() => program.runSync(feeds));
    const started = performance.now();
    const second = outcomeOf(() => program.runSync(feeds));
    const ms = performance.now() - started;
    for (const each of held) each.dispose();
    return { first, second, ms };
  },
  async "pace: strict"() {
    process.env.ANEKIT_ANE_PACE = "strict";
    using engine = await openAne();
    set("fail-compiles=1");
    const found = [await timed(resultOf(engine)), await timed(resultOf(engine))];
    process.env.ANEKIT_ANE_PACE = "off";
    return found;
  },
  async "no slot at first"() {
    process.env.ANEKIT_ANE_PACE = "0.5";
    using engine = await openAne();
    set("limit=1");
    const one = await compile(simple(), { engine });
    const other = outcome(resultOf(engine, 3));
    await wait(200);
    one.dispose();
    const found = await other;
    process.env.ANEKIT_ANE_PACE = "off";
    return found;
  },
  async "no slot at all"() {
    using engine = await openAne();
    set("limit=1");
    using one = await compile(simple(), { engine });
    const other = await outcome(resultOf(engine, 3));
    const { y } = await one.run(feeds);
    return { other, y: Array.from(y.data as Float32Array) };
  },
  async "the simulator dies"() {
    using engine = await openAne();
    const { total, program: made } = counter(engine);
    using program = await made;
    await program.run(feeds);
    for (const pid of simulators()) process.kill(pid, "SIGKILL");
    const run = await outcome(program.run(feeds));
    const sync = outcomeOf(() => program.runSync(feeds));
    return { run, sync, state: Array.from(program.state.read(total).data as Float32Array) };
  },
  async "many programs"() {
    using engine = await openAne();
    const { limit } = engine.budget;
    const made = Array.from({ length: limit + 20 }, (_, at) => counter(engine, at));
    const programs = [];
    for (const { total, program } of made) programs.push({ total, program: await program });
    const sums: number[] = [];
    for (let round = 0; round < 2; round++) {
      for (const [at, { program }] of programs.entries()) {
        const { y } = (at + round) % 2 === 0 ? program.runSync(feeds) : await program.run(feeds);
        sums.push((y.data[0] as number) - 2 * at - 2 * (round + 1));
      }
    }
    const states = programs.map(({ total, program }, at) => (program.state.read(total).data[0] as number) - at);
    const { peakPrograms } = raw.counts();
    for (const { program } of programs) program.dispose();
    return { limit, peakPrograms, wrong: sums.filter((sum) => sum !== 0).length, states: [...new Set(states)] };
  },
  async "swapped state after eviction"() {
    using engine = await openAne();
    const w = parameter([1, 2, 3, 4], [2, 2], { name: "w" });
    const update = new Map([[w, w.transpose().mul(2)]]);
    using program = await compile({ y: w.add(0.5) }, { engine, update });
    program.runSync({});
    await program.run({});
    const held = [];
    for (let i = 0; i < engine.budget.limit + 1; i++) held.push(await compile(simple(i), { engine }));
    program.runSync({});
    for (let i = 0; i < engine.budget.limit + 1; i++) held[i]!.runSync(feeds);
    const { y } = await program.run({});
    for (const each of held) each.dispose();
    return [Array.from(y.data as Float32Array), Array.from(program.state.read(w).data as Float32Array)];
  },
  async "abort before a run"() {
    using engine = await openAne();
    const { total, program: made } = counter(engine);
    using program = await made;
    const found = await outcome(program.run(feeds, { signal: AbortSignal.abort() }));
    return [found, Array.from(program.state.read(total).data as Float32Array)];
  },
  async "abort in the queue"() {
    using engine = await openAne();
    const { total, program: made } = counter(engine);
    using program = await made;
    const aborter = new AbortController();
    const runs = [program.run(feeds), program.run(feeds, { signal: aborter.signal }), program.run(feeds)].map(outcome);
    aborter.abort();
    return [await Promise.all(runs), Array.from(program.state.read(total).data as Float32Array)];
  },
  async "abort during a run"() {
    using engine = await openAne();
    const { total, program: made } = counter(engine);
    using program = await made;
    await program.run(feeds);
    const aborter = new AbortController();
    const run = outcome(program.run(feeds, { signal: aborter.signal }));
    await inFlight();
    aborter.abort();
    // Begun runs end: state is all new, and the run says that it succeeded, or all old.
    const found = await run;
    const [first] = program.state.read(total).data as Float32Array;
    return {
      whole: (found === "ok" && first === 2) || (found.startsWith("AbortedError") && first === 1),
      found,
      first,
    };
  },
  async "abort between stages"() {
    using engine = await openAne();
    const x = input([4], { name: "x" });
    const total = parameter(0, [4], { name: "total" });
    const next = total.add(x);
    const aborter = new AbortController();
    const y = next.mul(2);
    using program = await compile(
      { y, z: y.cast("fp32").sum() },
      {
        engine,
        update: new Map([[total, next]]),
        stages: [
          { name: "chip", compute: [y] },
          { name: "rest", on: "cpu" },
        ],
      },
    );
    await program.run(feeds);
    // The signal fires while the first stage, which replaces the state, runs.
    const { run } = engine;
    engine.run = async function (...args) {
      await run.apply(this, args);
      aborter.abort();
    };
    const found = await outcome(program.run(feeds, { signal: aborter.signal }));
    const [first] = program.state.read(total).data as Float32Array;
    return {
      whole: (found === "ok" && first === 2) || (found.startsWith("AbortedError") && first === 1),
      found,
      first,
    };
  },
  async "abort of a compile"() {
    using engine = await openAne();
    const aborter = new AbortController();
    set("slow-compile=500");
    const made = outcome(compile(simple(), { engine, signal: aborter.signal }));
    await wait(30);
    aborter.abort();
    return [await made, await outcome(compile(simple(), { engine, signal: aborter.signal })), await resultOf(engine)];
  },
  async "dispose during a run"() {
    using engine = await openAne();
    const { program: made } = counter(engine);
    const program = await made;
    await program.run(feeds);
    const run = outcome(program.run(feeds));
    await inFlight();
    program.dispose();
    return [await run, await outcome(program.run(feeds)), await resultOf(engine)];
  },
  async "dispose of the engine during a run"() {
    const engine = await openAne();
    const { program: made } = counter(engine);
    const program = await made;
    await program.run(feeds);
    const run = outcome(program.run(feeds));
    await inFlight();
    engine[Symbol.dispose]();
    engine[Symbol.dispose]();
    const found = [await run, await outcome(program.run(feeds)), outcomeOf(() => program.runSync(feeds))];
    program.dispose();
    return [...found, await outcome(compile(simple(), { engine }))];
  },
  async "dispose of the engine during a load"() {
    const engine = await openAne();
    set("slow-compile=500");
    const made = outcome(compile(simple(), { engine }));
    await wait(50);
    engine[Symbol.dispose]();
    return [await made, await outcome(compile(simple(), { engine }))];
  },
  async "overlapping runs"() {
    using engine = await openAne();
    const { program: made } = counter(engine);
    using program = await made;
    using other = await compile(simple(3), { engine });
    const order: number[] = [];
    const values = await Promise.all(
      [0, 1, 2, 3, 4, 5].map(async (i) => {
        const { y } = i % 3 === 2 ? await other.run({ x: [i, 0, 0, 0] }) : await program.run(feeds);
        order.push(i);
        return y.data[0];
      }),
    );
    const run = outcome(program.run(feeds));
    const sync = outcomeOf(() => program.runSync(feeds));
    const foreign = outcomeOf(() => other.runSync(feeds));
    return { order, values, sync, foreign, run: await run };
  },
  async "compiles during runs, runs during compiles"() {
    using engine = await openAne();
    using program = await compile(simple(), { engine });
    set("slow-compile=60");
    const made = [3, 4, 5].map((factor) => resultOf(engine, factor));
    const runs = [0, 1, 2].map(async () => Array.from((await program.run(feeds)).y.data as Float32Array));
    return [await Promise.all(made), await Promise.all(runs)];
  },
  async "runSync of an evicted program during a compile"() {
    using engine = await openAne();
    using program = await compile(simple(), { engine });
    const held = [];
    for (let i = 0; i < engine.budget.limit; i++) held.push(await compile(simple(i), { engine }));
    set("slow-compile=60");
    const made = resultOf(engine, 7);
    await wait(10);
    const { y } = program.runSync(feeds);
    const found = [Array.from(y.data as Float32Array), await made];
    for (const each of held) each.dispose();
    return found;
  },
  async "two engines"() {
    using one = await openAne();
    using two = await openAne();
    const { program: made } = counter(one);
    using program = await made;
    const results = await Promise.all([program.run(feeds), resultOf(two, 5), program.run(feeds), resultOf(one, 7)]);
    return JSON.parse(JSON.stringify([results[1], results[3], (results[2] as { y: { data: object } }).y.data]));
  },
  async "an engine in a worker thread"() {
    using engine = await openAne();
    const url = JSON.stringify(new URL("worker.ts", import.meta.url).href);
    const source = `import("tsx/esm/api").then(({ register }) => { register(); return import(${url}); });`;
    const workerOf = () =>
      new Promise((resolve, reject) => {
        const worker = new Worker(source, { eval: true });
        let said: unknown;
        worker.on("message", (message) => (said = message));
        worker.on("error", reject);
        worker.on("exit", () => resolve(said));
      });
    return await Promise.all([workerOf(), workerOf(), resultOf(engine, 3)]);
  },
  async "the engine's thread is killed"() {
    using engine = await openAne();
    using program = await compile(simple(), { engine });
    set("slow-compile=600");
    const made = outcome(compile(simple(3), { engine }));
    await wait(100);
    await workers.at(-1)!.terminate();
    set();
    return [await made, await resultOf(engine, 4), Array.from((await program.run(feeds)).y.data as Float32Array)];
  },
  auto,
  async "ane by name"() {
    return await outcome(openEngine("ane"));
  },
  async examine() {
    const { available, reason } = await examineNeuralEngine();
    return { available, reason };
  },
  /** The probe alone, with little patience. */
  async "an impatient probe"() {
    const folder = join(tmpdir(), "probe");
    mkdirSync(folder);
    const started = performance.now();
    const result = await probe({
      library: process.env.ANEKIT_ESPRESSO!,
      folder,
      chip: findChip(process.env.ANEKIT_CHIP!),
      subject: ["test"],
      pauseMs: 0,
      limitMs: Number(process.env.PROBE_LIMIT_MS),
      simulate: async () => new Map(),
    });
    const { usable, reason, findings } = result;
    return { usable, reason, outcomes: findings.map(({ outcome: each }) => each), ms: performance.now() - started };
  },
  async "a folder for temporary files that cannot be made"() {
    const file = join(tmpdir(), "file");
    writeFileSync(file, "");
    process.env.TMPDIR = join(file, "folder");
    return [await outcome(openEngine("ane")), await auto()];
  },
  async "a folder of another user"() {
    const folder = join(tmpdir(), "shared");
    const own = join(folder, `anekit-${process.getuid!()}`);
    mkdirSync(own, { recursive: true });
    chmodSync(own, 0o777);
    process.env.TMPDIR = folder;
    return [await outcome(openEngine("ane")), await auto()];
  },
  async "a link in the place of the folder"() {
    const folder = join(tmpdir(), "linked");
    mkdirSync(join(folder, "elsewhere"), { recursive: true, mode: 0o700 });
    symlinkSync(join(folder, "elsewhere"), join(folder, `anekit-${process.getuid!()}`));
    process.env.TMPDIR = folder;
    return [await outcome(openEngine("ane")), await auto()];
  },
  async "exit with programs open"() {
    const engine = await openAne();
    const { program: made } = counter(engine);
    const program = await made;
    await program.run(feeds);
    void program.run(feeds);
    const unfinished = compile(simple(9), { engine });
    unfinished.catch(() => {});
    program.view("y");
    await inFlight();
    print({ name: "exit with programs open", result: "leaving", left: [] });
    process.exit(0);
  },
  async "end with programs open"() {
    const { program: made } = counter(await openAne());
    const program = await made;
    await program.run(feeds);
    print({ name: "end with programs open", result: program.view("y").length, left: [] });
    return undefined;
  },
};

for (const name of process.argv.slice(2)) {
  if (cases[name] === undefined) throw new Error(`no case "${name}"`);
  const result = await cases[name]();
  if (result === undefined) continue;
  set();
  print({ name, result, left: await leftover() });
  raw.resetReport();
}
