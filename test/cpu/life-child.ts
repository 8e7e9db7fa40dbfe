// A process for what may kill its process: `life-child.ts CASE` runs one case of the engine's life and prints its outcome as JSON.

import { readFile } from "node:fs/promises";
import { register } from "node:module";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { compile, type Engine, input, type Tensor } from "../../src/index.ts";
import { openCpu } from "./compare.ts";

const size = 384;
const feeds = { x: new Float32Array(size * size).fill(1) };

/** A chain of products that takes some tenths of a second. */
function chain(length = 80): Record<"y", Tensor> {
  const x = input([size, size], { name: "x", dtype: "fp32" });
  let y: Tensor = x;
  for (let i = 0; i < length; i++) y = y.matmul(x).mul(1 / size);
  return { y };
}

const wait = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** "ok", or class and message of the error. */
const outcome = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "ok",
    (error: Error) => `${error.constructor.name}: ${error.message}`,
  );

function softmaxOf(engine: Engine): Promise<string> {
  const z = input([300, 5000], { name: "z", dtype: "fp32" });
  const values = new Float32Array(1_500_000).fill(0.5);
  return outcome(
    (async () => {
      using program = await compile({ y: z.softmax(-1), w: z.matmul(z, { transposeY: true }) }, { engine });
      await program.run({ z: values });
    })(),
  );
}

/** A worker thread that reads TypeScript. */
function startWorker(workerData: string): Worker {
  const url = JSON.stringify(new URL("worker.ts", import.meta.url));
  const source = `import("tsx/esm/api").then(({ register }) => { register(); return import(${url}); });`;
  return new Worker(source, { eval: true, workerData });
}

const cases: Readonly<Record<string, () => Promise<unknown>>> = {
  async "dispose of a program during its run"() {
    using engine = await openCpu({ threads: 2 });
    const program = await compile(chain(), { engine });
    const run = outcome(program.run(feeds));
    await wait(30);
    program.dispose();
    using other = await compile(chain(2), { engine });
    return [await run, await outcome(other.run(feeds))];
  },
  async "dispose of a program and its own engine during its run"() {
    const program = await compile(chain(), { engine: "cpu" });
    const run = outcome(program.run(feeds));
    await wait(30);
    program.dispose();
    return [await run, await outcome(program.run(feeds))];
  },
  async "dispose of an engine during a run"() {
    const engine = await openCpu({ threads: 2 });
    const program = await compile(chain(), { engine });
    const run = outcome(program.run(feeds));
    await wait(30);
    engine[Symbol.dispose]();
    engine[Symbol.dispose]();
    return [await run, await outcome(program.run(feeds)), await outcome(compile(chain(), { engine }))];
  },
  async "dispose with runs in the queue"() {
    using engine = await openCpu({ threads: 2 });
    const program = await compile(chain(20), { engine });
    const runs = [1, 2, 3].map(() => outcome(program.run(feeds)));
    await wait(5);
    program.dispose();
    return Promise.all(runs);
  },
  async "compile and run during a run"() {
    using engine = await openCpu({ threads: 2 });
    using program = await compile(chain(), { engine });
    const run = outcome(program.run(feeds));
    await wait(10);
    return [await softmaxOf(engine), await run];
  },
  async "koffi is missing"() {
    const hook = `export async function resolve(name, context, next) {
      if (name !== "koffi") return next(name, context);
      throw Object.assign(new Error("Cannot find package 'koffi'"), { code: "ERR_MODULE_NOT_FOUND" });
    }`;
    register(`data:text/javascript,${encodeURIComponent(hook)}`);
    return [await outcome(compile(chain(1), { engine: "cpu" })), await outcome(compile(chain(1), { engine: "sim" }))];
  },
  async "exit during a run"() {
    const program = await compile(chain(), { engine: "cpu" });
    void program.run(feeds);
    await wait(20);
    process.stdout.write('"leaving"\n');
    process.exit(0);
  },
  async "end without dispose"() {
    const program = await compile(chain(2), { engine: "cpu" });
    await program.run(feeds);
    return "ran";
  },
  async "views outlive dispose"() {
    const engine = await openCpu({ threads: 1, guard: false });
    const program = await compile(chain(1), { engine });
    await program.run(feeds);
    const [y, x] = [program.view("y"), program.view("x")];
    program.dispose();
    engine[Symbol.dispose]();
    (globalThis as { gc?: () => void }).gc?.();
    await wait(20);
    for (let i = 0; i < 50; i++) {
      using other = await compile(chain(1), { engine: "cpu" });
      await other.run({ x: new Float32Array(size * size).fill(9) });
    }
    return [y[5], y.length, x[7]];
  },
  async "a worker thread has an engine of its own"() {
    const start = () =>
      new Promise((resolve, reject) => {
        const worker = startWorker("short");
        worker.on("message", resolve);
        worker.on("error", reject);
      });
    using program = await compile(chain(), { engine: "cpu" });
    return await Promise.all([start(), start(), outcome(program.run(feeds))]);
  },
  async "terminating a worker thread that runs"() {
    const worker = startWorker("long");
    await new Promise((resolve) => worker.once("message", resolve));
    await wait(20);
    await worker.terminate();
    using program = await compile(chain(2), { engine: "cpu" });
    return await outcome(program.run(feeds));
  },
  async "the event loop goes on during a run"() {
    using program = await compile(chain(150), { engine: "cpu" });
    await program.run(feeds);
    let [ticks, reads] = [0, 0];
    const timer = setInterval(() => ticks++, 1);
    let done = false;
    const run = program.run(feeds).then(() => (done = true));
    while (!done) {
      await readFile(fileURLToPath(import.meta.url));
      reads++;
    }
    await run;
    clearInterval(timer);
    return { ticks, reads };
  },
};

const name = process.argv[2]!;
if (cases[name] === undefined) throw new Error(`no case "${name}"`);
process.stdout.write(`${JSON.stringify(await cases[name]())}\n`);
