// State under an adversary: every program with state gives the same bits on the simulator and on an engine that reads late and stores early.

import { describe, expect, test } from "vitest";
import { CompiledProgram } from "../../src/engines/compile.ts";
import { EngineUse, type StateSlot, StateStore } from "../../src/engines/state.ts";
import {
  type CompileOptions,
  compile,
  constant,
  type Engine,
  input,
  type NDArray,
  type Plan,
  parameter,
  type Tensor,
} from "../../src/index.ts";
import { buildPlan } from "../../src/ir/plan.ts";
import { verifyProgram } from "../../src/ir/program.ts";
import { numbers, type StateCase, stateCases } from "./cases.ts";
import { createEager, type EagerOrder } from "./eager-engine.ts";

type Bits = Readonly<Record<string, readonly number[]>>;

const bitsOf = (data: ArrayLike<number>): number[] =>
  data instanceof Float32Array
    ? Array.from(new Uint32Array(data.buffer, data.byteOffset, data.length))
    : Array.from(data);

/** Results of every run and the state after it, as bit patterns. */
async function trace(
  program: CompiledProgram,
  testCase: StateCase,
  runs: number,
  how: "run" | "runSync" = "run",
): Promise<Bits[]> {
  const list: Bits[] = [];
  const states = [...new Set([...testCase.update.keys()])];
  for (let run = 0; run < runs; run++) {
    const feeds = testCase.feeds(run);
    const results = how === "run" ? await program.run(feeds, { as: "bits" }) : program.runSync(feeds, { as: "bits" });
    const bits: Record<string, number[]> = {};
    for (const [name, { data }] of Object.entries(results)) bits[name] = bitsOf(data as ArrayLike<number>);
    for (const [i, state] of states.entries())
      bits[`state ${i}`] = bitsOf(program.state.read(state, { as: "bits" }).data as ArrayLike<number>);
    list.push(bits);
  }
  return list;
}

function optionsOf({ update, stages }: StateCase): CompileOptions {
  return { update, ...(stages !== undefined && { stages }) };
}

/** A program over a plan made by hand. */
async function load(plan: Plan, engine: Engine): Promise<CompiledProgram> {
  const use = new EngineUse(engine).acquire();
  const store = new StateStore(use).acquire();
  const executables = await Promise.all(plan.stages.map(({ program }) => engine.load(program)));
  const slots = new Map<string, { slot: StateSlot; next: boolean }>();
  for (const { parameter: node, buffer, next, mode } of plan.states) {
    const slot = store.slot(node, plan.buffers.get(buffer)!, mode === "swap");
    slots.set(buffer, { slot, next: false });
    if (mode === "swap") slots.set(next, { slot, next: true });
  }
  return new CompiledProgram(plan, store, executables, slots, []);
}

/** The plan of a planner that never asks the verifier. */
function alwaysInPlace(plan: Plan): Plan {
  const home = new Map(
    plan.states.flatMap(({ next, buffer, mode }) => (mode === "swap" ? [[next, buffer] as const] : [])),
  );
  return {
    ...plan,
    buffers: new Map([...plan.buffers].filter(([name]) => !home.has(name))),
    stages: plan.stages.map((stage) => ({
      ...stage,
      buffers: new Map([...stage.buffers].map(([port, name]) => [port, home.get(name) ?? name])),
    })),
    states: plan.states.map((each) => (each.mode === "swap" ? { ...each, next: each.buffer, mode: "in-place" } : each)),
  };
}

function planOf({ outputs, update, stages }: StateCase): Plan {
  return buildPlan({
    outputs: new Map(Object.entries(outputs)),
    updates: update,
    ...(stages !== undefined && { stages }),
  });
}

const orders: readonly EagerOrder[] = ["random", "stores-first"];

describe.each(stateCases().map((each) => [each.title, each] as const))("state: %s", (_title, testCase) => {
  test("programs of the plan are sound", () => {
    for (const { program } of planOf(testCase).stages) verifyProgram(program);
  });

  test("updates are in place or swapped as the dependences say", () => {
    const modes = Object.fromEntries(planOf(testCase).states.map(({ parameter: node, mode }) => [node.name, mode]));
    expect(modes).toMatchObject(testCase.modes ?? {});
  });

  for (const precision of [undefined, "fp32"] as const) {
    test(`the adversary agrees with the simulator bit for bit, precision ${precision ?? "as declared"}`, async () => {
      const options = { ...optionsOf(testCase), ...(precision !== undefined && { precision }) };
      await using sim = await compile(testCase.outputs, { ...options, engine: "sim" });
      const expected = await trace(sim, testCase, 7);
      for (const order of orders) {
        for (let seed = 1; seed <= 6; seed++) {
          await using eager = await compile(testCase.outputs, { ...options, engine: createEager({ seed, order }) });
          const got = await trace(eager, testCase, 7, seed % 2 === 0 ? "runSync" : "run");
          expect(got, `order ${order}, seed ${seed}`).toEqual(expected);
        }
      }
    });
  }
});

test("a state with more readers than a call takes arguments is planned", () => {
  const w = parameter([1], [1], { name: "w" });
  let y: Tensor = w;
  for (let i = 0; i < 150_000; i++) y = y.mul(w);
  const plan = buildPlan({ outputs: new Map([["y", y]]), updates: new Map([[w, w.add(y)]]) });
  expect(plan.states[0]!.mode).toBe("in-place");
});

describe("the adversary bites", () => {
  test("a planner that always updates in place is caught wherever the verifier swaps", async () => {
    const missed: string[] = [];
    let swapped = 0;
    for (const testCase of stateCases()) {
      let plan: Plan;
      try {
        plan = planOf(testCase);
      } catch {
        continue; // reported by the case's own tests
      }
      if (!plan.states.some(({ mode }) => mode === "swap")) continue;
      swapped++;
      await using sim = await load(plan, createEager({ seed: 1 }));
      const expected = JSON.stringify(await trace(sim, testCase, 5));
      let caught = false;
      for (const order of orders) {
        for (let seed = 1; seed <= 8 && !caught; seed++) {
          await using reckless = await load(alwaysInPlace(plan), createEager({ seed, order }));
          caught = JSON.stringify(await trace(reckless, testCase, 5)) !== expected;
        }
      }
      if (!caught) missed.push(testCase.title);
    }
    expect(swapped).toBeGreaterThan(15);
    expect(missed).toEqual([]);
  });

  test("a hand-made plan that loads as it is agrees with compile", async () => {
    const [testCase] = stateCases() as [StateCase];
    await using byHand = await load(planOf(testCase), createEager());
    await using compiled = await compile(testCase.outputs, { ...optionsOf(testCase), engine: "sim" });
    expect(await trace(byHand, testCase, 3)).toEqual(await trace(compiled, testCase, 3));
  });
});

describe("shared state", () => {
  const build = () => {
    const x = input([2, 3], { name: "x" });
    const w = parameter(numbers(6, 1), [3, 2], { name: "w" });
    const b = parameter(numbers(2, 2), [2], { name: "b" });
    const y = x.matmul(w).add(b);
    const swapped = w.mul(0.5).add(w.softmax(0)); // in place
    return { x, w, b, y, swapped };
  };
  const feed = (run: number) => ({ x: numbers(6, 50 + run) });

  async function session(engine: Engine | "sim", queued: boolean): Promise<number[][]> {
    const { w, b, y, swapped } = build();
    await using train = await compile(
      { y },
      {
        engine,
        update: new Map([
          [w, swapped],
          [b, b.mul(0.9)],
        ]),
      },
    );
    await using evaluate = await compile({ total: y.sum(), w }, { state: train.state });
    await using rotate = await compile(
      {},
      {
        state: train.state,
        update: new Map<Tensor, Tensor>([
          [w, w.matmul(w, { transposeX: true }).softmax(0).sliceBySize([0, 0], [2, 2]).pad([0, 1, 0, 0]).add(w)],
          [b, b.cumsum(0)],
        ]),
      },
    );
    const list: number[][] = [];
    const pending: Promise<void>[] = [];
    for (let run = 0; run < 5; run++) {
      for (const go of [
        () => train.run(feed(run)),
        () => evaluate.run(feed(run)),
        () => rotate.run({}),
        () => evaluate.run(feed(-run)),
      ]) {
        const done = go().then((results) => {
          for (const { data } of Object.values(results) as NDArray[]) list.push(bitsOf(data));
        });
        if (queued) pending.push(done);
        else await done;
      }
    }
    await Promise.all(pending);
    list.push(bitsOf(train.state.read(w).data), bitsOf(evaluate.state.read(b).data));
    return list;
  }

  test("training, evaluating and a third program over one state agree, one by one and queued", async () => {
    const expected = await session("sim", false);
    expect(await session("sim", true)).toEqual(expected);
    for (const order of orders) {
      for (const seed of [1, 2, 3]) {
        expect(await session(createEager({ seed, order }), false)).toEqual(expected);
        expect(await session(createEager({ seed, order }), true)).toEqual(expected);
      }
    }
  });

  test("state outlives the program that made it while another one holds it", async () => {
    const { w, b, y, swapped } = build();
    const train = await compile({ y }, { engine: "sim", update: new Map([[w, swapped]]) });
    await using evaluate = await compile({ w }, { state: train.state });
    await train.run(feed(1));
    const after = train.state.read(w).data;
    train.dispose();
    expect((await evaluate.run({})).w.data).toEqual(after);
    expect(evaluate.state.has(b)).toBe(true);
  });

  test("state of which no program is left refuses a further one instead of starting over", async () => {
    const { w, y, swapped } = build();
    const train = await compile({ y }, { engine: "sim", update: new Map([[w, swapped]]) });
    await train.run(feed(1));
    train.dispose();
    await expect(compile({ w }, { state: train.state })).rejects.toMatchObject({ code: "ERR_ANEKIT_DISPOSED" });
    expect(() => train.state.read(w)).toThrow(expect.objectContaining({ code: "ERR_ANEKIT_DISPOSED" }));
  });

  test("a program of another precision cannot share the state", async () => {
    const { w, y } = build();
    await using first = await compile({ y }, { engine: "sim" });
    await expect(compile({ w }, { state: first.state, precision: "fp32" })).rejects.toMatchObject({
      code: "ERR_ANEKIT_DTYPE",
    });
    await using again = await compile({ w }, { state: first.state });
    expect((await again.run({})).w.data).toEqual(first.state.read(w).data);
  });

  test("writing state reaches every program", async () => {
    const { w, y } = build();
    await using first = await compile({ y }, { engine: "sim" });
    await using second = await compile({ w }, { state: first.state });
    second.state.write(w, [1, 2, 3, 4, 5, 6]);
    expect(Array.from((await second.run({})).w.data)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(() => second.state.write(w, [1])).toThrow(expect.objectContaining({ code: "ERR_ANEKIT_SHAPE" }));
  });
});

describe("runs that do not finish", () => {
  const slow = (x: Tensor, rounds: number) => {
    let y = x;
    for (let i = 0; i < rounds; i++) y = y.matmul(x).mul(0.01).tanh();
    return y;
  };

  test("an abort in the middle leaves the state as it was", async () => {
    const x = input([160, 160], { name: "x" });
    const w = parameter(numbers(160 * 160, 1), [160, 160], { name: "w" });
    const next = w.sub(slow(x, 60));
    await using program = await compile({ y: next.sum() }, { engine: "sim", update: new Map([[w, next]]) });
    expect(program.plan.states[0]!.mode).toBe("in-place");
    const before = program.state.read(w).data;
    const controller = new AbortController();
    const reason = new Error("enough");
    const run = program.run({ x: numbers(160 * 160, 2) }, { signal: controller.signal });
    const next_ = program.run({ x: numbers(160 * 160, 2) });
    setTimeout(() => controller.abort(reason), 30);
    await expect(run).rejects.toMatchObject({ code: "ERR_ANEKIT_ABORTED", cause: reason });
    await next_; // what was queued behind it still runs
    const once = program.state.read(w).data;
    program.state.write(w, before);
    await program.run({ x: numbers(160 * 160, 2) });
    expect(program.state.read(w).data).toEqual(once);
  });

  test.each([
    ["in place", (w: Tensor) => w.add(1)],
    ["swapped", (w: Tensor) => w.cumsum(0)],
  ] as const)("an index out of range leaves state that is updated %s as it was", async (_mode, body) => {
    const i = input([2], { name: "i", dtype: "int32" });
    const w = parameter([1, 2, 3], [3], { name: "w" });
    await using program = await compile(
      { y: constant([1, 2, 3]).gather(i) },
      { engine: "sim", update: new Map([[w, body(w)]]) },
    );
    await expect(program.run({ i: [0, 3] })).rejects.toMatchObject({ code: "ERR_ANEKIT_CONFIG" });
    expect(() => program.runSync({ i: [-4, 0] })).toThrow(expect.objectContaining({ code: "ERR_ANEKIT_CONFIG" }));
    expect(Array.from(program.state.read(w).data)).toEqual([1, 2, 3]);
    const { y } = await program.run({ i: [-1, 1] });
    expect(Array.from(y.data)).toEqual([3, 2]);
    expect(Array.from(program.state.read(w).data)).not.toEqual([1, 2, 3]);
  });

  test("a failure in a later stage leaves the state of earlier stages as it was", async () => {
    const i = input([1], { name: "i", dtype: "int32" });
    const w = parameter([1, 2, 3], [3], { name: "w" });
    const next = w.add(1);
    await using program = await compile(
      { y: constant([1, 2, 3]).gather(i) },
      {
        engine: "sim",
        update: new Map([[w, next]]),
        stages: [{ name: "update", compute: [next] }, { name: "lookup" }],
      },
    );
    await expect(program.run({ i: [3] })).rejects.toMatchObject({ code: "ERR_ANEKIT_CONFIG" });
    expect(Array.from(program.state.read(w).data)).toEqual([1, 2, 3]);
  });

  test("an abort between stages leaves the state of earlier stages as it was", async () => {
    const x = input([128, 128], { name: "x" });
    const w = parameter([1, 2, 3], [3], { name: "w" });
    const next = w.add(1);
    await using program = await compile(
      { y: slow(x, 80) },
      { engine: "sim", update: new Map([[w, next]]), stages: [{ name: "update", compute: [next] }, { name: "rest" }] },
    );
    const controller = new AbortController();
    const run = program.run({ x: numbers(128 * 128, 2) }, { signal: controller.signal });
    setTimeout(() => controller.abort(), 30);
    await expect(run).rejects.toMatchObject({ code: "ERR_ANEKIT_ABORTED" });
    expect(Array.from(program.state.read(w).data)).toEqual([1, 2, 3]);
  });

  test("disposing in the middle of a run leaves shared state as it was", async () => {
    const x = input([128, 128], { name: "x" });
    const w = parameter(numbers(128 * 128, 1), [128, 128], { name: "w" });
    const next = w.sub(slow(x, 60));
    const program = await compile({}, { engine: "sim", update: new Map([[w, next]]) });
    await using reader = await compile({ w }, { state: program.state });
    const before = reader.state.read(w).data;
    const run = program.run({ x: numbers(128 * 128, 2) });
    const queued = program.run({ x: numbers(128 * 128, 2) });
    const settled = Promise.allSettled([run, queued]);
    setTimeout(() => program.dispose(), 10);
    expect((await settled).map((each) => (each as PromiseRejectedResult).reason?.code)).toEqual([
      "ERR_ANEKIT_DISPOSED",
      "ERR_ANEKIT_DISPOSED",
    ]);
    expect((await reader.run({})).w.data).toEqual(before);
  });

  test("asking for arrays that the runtime lacks fails before state changes", async () => {
    if ("Float16Array" in globalThis) return;
    const w = parameter([1, 2], [2], { name: "w" });
    await using program = await compile({ y: w.mul(2) }, { engine: "sim", update: new Map([[w, w.add(1)]]) });
    await expect(program.run({}, { as: "float16" })).rejects.toMatchObject({ code: "ERR_ANEKIT_CONFIG" });
    expect(Array.from(program.state.read(w).data)).toEqual([1, 2]);
  });
});
