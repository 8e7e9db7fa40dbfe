// Group "state": values that stay on the engine, replaced in place and by exchanging buffers, shared between programs, over hundreds of steps; checkpoints.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { RandomStream } from "../../core/random.ts";
import { type CompiledProgram, compile, input, parameter, type Tensor } from "../../index.ts";
import type { UpdateMode } from "../../ir/plan.ts";
import { sgd } from "../../optim/index.ts";
import { findCheckpoint, Trainer } from "../../train/index.ts";
import { type Bound, exact, judge } from "./compare.ts";
import { type Bench, type Check, expect, type Finding, type Group } from "./group.ts";
import { fingerprint } from "./numerics.ts";
import { mlpTask } from "./training.ts";

/** The same numbers in every process. */
function random(size: number, name: string, scale = 1): Float32Array {
  const stream = new RandomStream(5, name);
  return Float32Array.from({ length: size }, () => scale * (2 * stream.uniform() - 1));
}

interface Stepping {
  readonly outputs?: Readonly<Record<string, Tensor>>;
  readonly update: ReadonlyMap<Tensor, Tensor>;
  /** Feeds of a step. */
  readonly feeds?: (step: number) => Readonly<Record<string, Float32Array>>;
  readonly mode?: UpdateMode;
  readonly bound?: Bound;
}

/** Runs the same steps on the engine and on the simulator and compares all state and the last results. */
async function steps(count: number, { device }: Bench, stepping: Stepping): Promise<Finding> {
  const { outputs = {}, update, feeds = () => ({}), mode, bound = exact } = stepping;
  const run = async (engine: Bench["device"] | "sim") => {
    using program = await compile(outputs, { engine, update });
    const modes = program.plan.states.map((state) => state.mode);
    if (mode !== undefined)
      expect(modes.includes(mode), () => `no state is replaced "${mode}"; the plan has ${modes.join(", ")}`);
    let last: Readonly<Record<string, { readonly data: ArrayLike<number> }>> = {};
    for (let step = 0; step < count; step++) last = program.runSync(feeds(step)) as typeof last;
    return everything(program, update, last);
  };
  return judge(await run(device), await run("sim"), bound);
}

/** State and results by name. */
function everything(
  program: CompiledProgram,
  update: ReadonlyMap<Tensor, Tensor>,
  results: Readonly<Record<string, { readonly data: ArrayLike<number> }>>,
): Record<string, ArrayLike<number>> {
  const all = Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data]));
  for (const tensor of update.keys()) {
    if (tensor.node.kind === "parameter")
      all[`state ${tensor.node.name}`] = program.state.read(tensor).data as Float32Array;
  }
  return all;
}

function counter(): Stepping {
  const count = parameter(0, [1], { name: "count" });
  return { update: new Map([[count, count.add(1)]]), mode: "in-place" };
}

function accumulator(): Stepping {
  const sum = parameter(random(3 * 65, "sum"), [3, 65], { name: "sum" });
  const x = input([3, 65], { name: "x" });
  return {
    update: new Map([[sum, sum.mul(0.5).add(x)]]),
    feeds: (step) => ({ x: random(3 * 65, `x${step}`) }),
    mode: "in-place",
  };
}

/** Every part goes to the next: none may be stored before all were read. */
function rotation(): Stepping {
  const parts = [0, 1, 2].map((i) => parameter(random(33, `part${i}`), [33], { name: `part${i}` }));
  return { update: new Map(parts.map((part, i) => [part, parts[(i + 1) % 3]!.mul(1)])), mode: "swap" };
}

/** A product reads all of the state for each element of its new value. */
function product(): Stepping {
  const state = parameter(random(16 * 16, "state"), [16, 16], { name: "state" });
  const x = input([16, 16], { name: "x" });
  const next = state.matmul(x).tanh().add(state.mul(0.5));
  return {
    outputs: { before: state.mul(2) },
    update: new Map([[state, next]]),
    feeds: (step) => ({ x: random(256, `p${step % 7}`, 0.25) }),
    // The steps contract, so that errors of single steps die out; tables of hardware are worth up to 0.0034 each.
    bound: { units: 16, ofLargest: true, absolute: 0.02 },
  };
}

/** As many arrays as a small trainer has, with a factor that depends on all of them. */
function manyArrays(): Stepping {
  const all = Array.from({ length: 12 }, (_, i) =>
    parameter(random(5 * (i + 3), `w${i}`), [5, i + 3], { name: `w${i}` }),
  );
  const norm = all.map((w) => w.abs().max()).reduce((a, b) => a.maximum(b));
  const factor = norm.mul(0).add(0.5); // known only when every old value was read
  return { outputs: { norm }, update: new Map(all.map((w) => [w, w.mul(factor).add(0.25)])), mode: "in-place" };
}

async function shared({ device }: Bench): Promise<Finding> {
  const w = parameter(random(24, "w"), [4, 6], { name: "w" });
  const x = input([4, 6], { name: "x" });
  const y = input([2, 4], { name: "y" });
  const run = async (engine: Bench["device"] | "sim") => {
    using train = await compile({}, { engine, update: new Map([[w, w.mul(0.75).add(x)]]) });
    using read = await compile({ product: y.matmul(w) }, { state: train.state });
    using reset = await compile({}, { state: train.state, update: new Map([[w, w.mul(0)]]) });
    const all: Record<string, ArrayLike<number>> = {};
    for (let step = 0; step < 20; step++) {
      train.runSync({ x: random(24, `x${step}`) });
      all[`step ${step}`] = read.runSync({ y: random(8, `y${step}`) }).product.data;
      if (step === 12) reset.runSync({});
    }
    return all;
  };
  return judge(await run(device), await run("sim"), { units: 2, ofLargest: true });
}

async function readAndWrite({ device }: Bench): Promise<Finding> {
  const w = parameter(random(195, "w"), [3, 65], { name: "w" });
  using program = await compile({ y: w.mul(1) }, { engine: device, update: new Map([[w, w.add(1)]]) });
  const written = random(195, "written", 100);
  program.runSync({});
  program.state.write(w, written);
  const read = program.state.read(w, { as: "bits" }).data as Uint16Array;
  program.state.write(w, program.state.read(w));
  const again = program.state.read(w, { as: "bits" }).data as Uint16Array;
  const { y } = program.runSync({}, { as: "bits" });
  for (const [what, bits] of [
    ["rewritten", again],
    ["computed", y.data],
  ] as const) {
    const at = read.findIndex((value, i) => value !== bits[i]);
    expect(at < 0, () => `element ${at} of the ${what} state has other bits than were written`);
  }
  const after = program.state.read(w).data as Float32Array;
  const written1 = program.state.read(w, { as: "bits" }).data.length;
  expect(after.length === written1, () => "a read has another length");
  return { worst: 0, bound: 0 };
}

/** Losses of a run that was saved and loaded are those of one that went on, bit for bit. */
async function checkpoint({ device }: Bench): Promise<Finding> {
  const folder = await mkdtemp(join(tmpdir(), "anekit-selftest-"));
  const create = () =>
    Trainer.create({
      task: mlpTask("fp16"),
      optimizer: sgd({ learningRate: 0.05 }),
      precision: "fp16",
      engine: device,
    });
  try {
    const went: number[] = [];
    using first = await create();
    for (let step = 0; step < 3; step++) await first.step();
    await first.save(folder);
    for (let step = 0; step < 3; step++) went.push((await first.step()).loss);
    using second = await create();
    await second.load(await findCheckpoint(folder));
    const resumed: number[] = [];
    for (let step = 0; step < 3; step++) resumed.push((await second.step()).loss);
    expect(
      went.every((loss, i) => Object.is(loss, resumed[i])),
      () => `losses ${resumed} after loading, ${went} without`,
    );
    return { worst: 0, bound: 0, seen: { losses: went } };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** `run()` and `runSync()` in turn, and many at once: each sees the state that the one before left. */
async function queued({ device }: Bench): Promise<Finding> {
  const w = parameter(0, [5], { name: "w" });
  const next = w.add(1);
  using program = await compile({ next: next.mul(1) }, { engine: device, update: new Map([[w, next]]) });
  const seen = await Promise.all(Array.from({ length: 32 }, async () => (await program.run({})).next.data[0]!));
  program.runSync({});
  seen.push((await program.run({})).next.data[4]!);
  const want = [...Array.from({ length: 32 }, (_, i) => i + 1), 34];
  expect(
    seen.every((value, i) => value === want[i]),
    () => `overlapping runs counted ${seen.slice(0, 8)} ...`,
  );
  return {};
}

async function printOfMachine({ device }: Bench): Promise<Finding> {
  return { status: "measured", seen: { fingerprint: await fingerprint(device) } };
}

export const state: Group = {
  name: "state",
  summary: "resident values: in place, swapped, shared, saved and loaded",
  checkSeconds: 90,
  seconds: { quick: 120, full: 400 },
  checks: ({ quick }): Check[] => {
    const many = quick ? 60 : 500;
    return [
      { name: "counts in place", run: (bench) => steps(many, bench, counter()) },
      { name: "accumulates in place", run: (bench) => steps(many, bench, accumulator()) },
      { name: "rotates by swapping", run: (bench) => steps(many + 1, bench, rotation()) },
      { name: "product with itself", run: (bench) => steps(quick ? 40 : 200, bench, product()) },
      { name: "twelve arrays and a factor of all", run: (bench) => steps(quick ? 20 : 100, bench, manyArrays()) },
      { name: "shared by three programs", run: shared },
      { name: "read and written from outside", run: readAndWrite },
      { name: "overlapping runs", run: queued },
      { name: "checkpoint saved and loaded", run: checkpoint },
      { name: "bits of a fixed program", run: printOfMachine },
    ];
  },
};
