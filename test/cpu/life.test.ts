// The life of CPU engines: threads, disposal, abort, errors, the event loop, several engines, environment.

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { createCpu } from "../../src/engines/cpu/index.ts";
import {
  AbortedError,
  ConfigError,
  compile,
  constant,
  DisposedError,
  type Engine,
  EngineError,
  input,
  parameter,
  type Tensor,
} from "../../src/index.ts";
import { difference, instructionSets, openCpu, rowsOf } from "./compare.ts";
import { randomProgram } from "./programs.ts";

const sets = await instructionSets();
const opened: Engine[] = [];
afterAll(() => {
  for (const engine of opened) engine[Symbol.dispose]();
});
async function open(options: Parameters<typeof openCpu>[0]): Promise<Engine> {
  const engine = await openCpu(options);
  opened.push(engine);
  return engine;
}

/** What a case printed; a signal is an error. */
function child(name: string): Promise<unknown> {
  const path = fileURLToPath(new URL("life-child.ts", import.meta.url));
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      ["--expose-gc", "--import", "tsx", path, name],
      { timeout: 60_000 },
      (error, stdout, stderr) => {
        if (error === null) resolve(JSON.parse(stdout));
        else reject(new Error(`${error.signal ?? `exit ${error.code}`}: ${stderr}`));
      },
    );
  });
}

const disposed = expect.stringMatching(/^DisposedError: /);

describe("disposal", { timeout: 60_000 }, () => {
  test("of a program during its run ends the run; the engine goes on", async () => {
    expect(await child("dispose of a program during its run")).toEqual([disposed, "ok"]);
  });
  test("of a program that owns its engine during its run", async () => {
    expect(await child("dispose of a program and its own engine during its run")).toEqual([disposed, disposed]);
  });
  test("of an engine during a run, twice", async () => {
    expect(await child("dispose of an engine during a run")).toEqual([disposed, disposed, disposed]);
  });
  test("with runs in the queue", async () => {
    expect(await child("dispose with runs in the queue")).toEqual([disposed, disposed, disposed]);
  });
  test("leaves views readable", async () => {
    expect(await child("views outlive dispose")).toEqual([1, 384 * 384, 1]);
  });
  test("is not needed for the process to end", async () => {
    expect(await child("end without dispose")).toBe("ran");
    expect(await child("exit during a run")).toBe("leaving");
  });

  test("twice is once, and use afterwards is an error", async () => {
    const engine = await openCpu({ threads: 2 });
    const x = input([4], { name: "x" });
    const program = await compile({ y: x.relu() }, { engine });
    program.dispose();
    program.dispose();
    await expect(program.run({ x: [1, 2, 3, 4] })).rejects.toThrow(DisposedError);
    expect(() => program.runSync({ x: [1, 2, 3, 4] })).toThrow(DisposedError);
    expect(() => program.view("y")).toThrow(DisposedError);
    engine[Symbol.dispose]();
    engine[Symbol.dispose]();
    await expect(compile({ y: x.relu() }, { engine })).rejects.toThrow(DisposedError);
  });
});

describe("while a run is in flight", { timeout: 60_000 }, () => {
  test("another program is compiled and run on the same engine", async () => {
    expect(await child("compile and run during a run")).toEqual(["ok", "ok"]);
  });

  test("the event loop and its file reads go on", async () => {
    const { ticks, reads } = (await child("the event loop goes on during a run")) as { ticks: number; reads: number };
    expect(ticks).toBeGreaterThan(20);
    expect(reads).toBeGreaterThan(20);
  });

  test("worker threads have engines of their own", async () => {
    expect(await child("a worker thread has an engine of its own")).toEqual([200, 200, "ok"]);
  });

  test("a worker thread is terminated", async () => {
    expect(await child("terminating a worker thread that runs")).toBe("ok");
  });

  test("runs of two programs queue on one engine and run beside each other on two", async () => {
    const program = randomProgram(3, { most: 60_000, values: "smooth", dtypes: ["fp32"] });
    const [one, two] = [await open({ threads: 2 }), await open({ threads: 2 })];
    const want = await rowsOf(program, one);
    for (const engines of [
      [one, one],
      [one, two],
      [two, one, two, one],
    ]) {
      const found = await Promise.all(
        engines.map(async (engine) => {
          using compiled = await compile(program.outputs, { engine });
          const fed = Object.entries(program.feeds).filter(([name]) => compiled.plan.feeds.has(name));
          return await compiled.run(Object.fromEntries(fed), { as: "bits" });
        }),
      );
      for (const results of found) expect(results.y0).toEqual((want as Exclude<typeof want, string>)[0]!.y0);
    }
  });

  test("runSync says so", async () => {
    const engine = await open({ threads: 2 });
    const x = input([64, 64], { name: "x", dtype: "fp32" });
    using program = await compile({ y: x.matmul(x) }, { engine });
    const feeds = { x: new Float32Array(4096) };
    const run = program.run(feeds);
    expect(() => program.runSync(feeds)).toThrow(EngineError);
    await run;
    program.runSync(feeds);
  });

  test("it is aborted between steps", async () => {
    const engine = await open({ threads: 2 });
    const x = input([256, 256], { name: "x", dtype: "fp32" });
    let y: Tensor = x;
    for (let i = 0; i < 200; i++) y = y.matmul(x).mul(1 / 256);
    using program = await compile({ y }, { engine });
    const feeds = { x: new Float32Array(65536).fill(1) };
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(), 5);
    await expect(program.run(feeds, { signal: aborter.signal })).rejects.toThrow(AbortedError);
    expect((await program.run(feeds)).y.data[0]).toBeCloseTo(1);
  });
});

describe.each(sets)("results on %s", (isa) => {
  test("are the same bits for 1, 2, 3 and 8 threads", async () => {
    const engines = await Promise.all([1, 2, 3, 8].map((threads) => open({ isa, threads })));
    for (let seed = 1; seed <= 12; seed++) {
      const dtypes = seed % 2 === 0 ? (["fp32", "bool"] as const) : (["fp16", "fp32"] as const);
      const program = randomProgram(seed * 7919, { values: "smooth", dtypes, most: 200_000, size: 6 });
      const want = await rowsOf(program, engines[0]!, 2);
      for (const [i, engine] of engines.entries())
        expect(
          difference(await rowsOf(program, engine, 2), want, { signs: true }),
          `seed ${seed}, engine ${i}`,
        ).toBeUndefined();
    }
  }, 60_000);

  test("of large reductions and products, too", async () => {
    const x = input([300_000], { name: "x", dtype: "fp32" });
    const w = input([300, 500], { name: "w", dtype: "fp32" });
    const table = x.reshape([600, 500]);
    const outputs = {
      sum: x.sum(),
      norm: x.l2Norm(),
      columns: table.sum(0),
      rows: table.softmax(-1),
      product: table.matmul(w, { transposeY: true }),
      narrow: table.reshape([75_000, 4]).sum(0),
      deep: table.reshape([2, 3, 100, 500]).sum([0, 2]),
    };
    const feeds = {
      x: Float32Array.from({ length: 300_000 }, (_, i) => Math.sin(i)),
      w: Float32Array.from({ length: 150_000 }, (_, i) => Math.cos(i)),
    };
    const program = { outputs, feeds, update: new Map() };
    const want = await rowsOf(program, await open({ isa, threads: 1 }));
    for (const threads of [2, 3, 8])
      expect(difference(await rowsOf(program, await open({ isa, threads })), want, { signs: true })).toBeUndefined();
    const allowed = () => 2e-3;
    expect(difference(want, await rowsOf(program, "sim"), { allowed })).toBeUndefined();
  }, 60_000);
});

test("an aborted run leaves state as it was, also between plain kernels", async () => {
  const engine = await open({ threads: 2 });
  const x = input([300, 2000], { name: "x", dtype: "fp32" });
  const p = parameter(new Float32Array(64).fill(1), [64], { name: "p", dtype: "fp32" });
  const next = p.mul(2);
  let y: Tensor = x;
  for (let i = 0; i < 6; i++) y = y.cumsum(1).mul(0.5).add(next.sum());
  using program = await compile({ y: y.sum() }, { engine, update: new Map([[p, next]]) });
  const feeds = { x: new Float32Array(600_000) };
  for (const milliseconds of [0, 1, 4, 10, 20, 40]) {
    const before = program.state.read(p).data[0]!;
    const aborter = new AbortController();
    setTimeout(() => aborter.abort(), milliseconds);
    const finished = await program.run(feeds, { signal: aborter.signal }).then(
      () => true,
      (error: unknown) => {
        expect(error).toBeInstanceOf(AbortedError);
        return false;
      },
    );
    expect(program.state.read(p).data[0]).toBe(finished ? 2 * before : before);
  }
});

describe("an index outside its axis", () => {
  const bad = [
    [0, 10, 1],
    [0, -11, 2],
    [2147483647, 0, 0],
    [-2147483648, 0, 0],
  ] as const;
  test.each(["gather", "scatter"] as const)("of %s is a ConfigError, and state stays", async (mode) => {
    const engine = await open({ threads: 2 });
    const w = parameter(
      Float32Array.from({ length: 40 }, (_, i) => i),
      [10, 4],
      { name: "w", dtype: "fp32" },
    );
    const i = input([3], { name: "i", dtype: "int32" });
    const ones = constant(new Float32Array(12).fill(1), [3, 4], { dtype: "fp32" });
    const picked = mode === "gather" ? w.gather(i) : w.scatter(i, ones);
    const update = new Map([[w, w.mul(2).add(picked.sum().mul(0))]]);
    using program = await compile({ total: picked.sum() }, { engine, update });
    for (const indices of bad) {
      const before = program.state.read(w).data;
      const wrong = indices.find((index) => index < -10 || index > 9);
      const message = new RegExp(`index ${wrong} is outside an axis of 10`);
      const failure = await program.run({ i: indices }).then(
        () => undefined,
        (error: unknown) => error as Error,
      );
      expect(failure).toBeInstanceOf(ConfigError);
      expect(failure!.message).toMatch(message);
      expect(() => program.runSync({ i: indices })).toThrow(message);
      expect(program.state.read(w).data).toEqual(before);
    }
    expect(Number.isFinite((await program.run({ i: [0, -1, 9] })).total.item())).toBe(true);
  });
});

describe("the environment", () => {
  const reject = (environment: Parameters<typeof createCpu>[1], message: RegExp) =>
    expect(createCpu("test", environment)).rejects.toThrow(message);

  test.each(["0", "-1", "257", "2.5", "1e1", "two", " 2"])("ANEKIT_THREADS=%s is refused", async (threads) => {
    await reject({ ANEKIT_THREADS: threads }, /ANEKIT_THREADS.*is not a whole number from 1 to 256/);
  });
  test.each(["sse", "AVX2", "avx512 "])("ANEKIT_ISA=%s is refused", async (isa) => {
    await reject({ ANEKIT_ISA: isa }, /ANEKIT_ISA.*is none of avx512, avx2/);
  });
  test("empty values mean nothing", async () => {
    const engine = await createCpu("test", { ANEKIT_ISA: "", ANEKIT_THREADS: "", ANEKIT_STRICT: "", ANEKIT_GUARD: "" });
    opened.push(engine);
    expect(engine.reason).toMatch(/^test; AVX.*thread/);
  });
});

test("without koffi the engine says what is missing, and the simulator works", async () => {
  expect(await child("koffi is missing")).toEqual([expect.stringMatching(/^EngineError: native code: .*koffi/), "ok"]);
}, 60_000);

test("shapes of two thousand million elements are refused or planned, not computed wrong", async () => {
  const engine = await open({ threads: 1 });
  expect(() => input([65536, 65536], { name: "x" })).toThrow(/more than 2147483647 elements/);
  const x = input([2 ** 31 - 1], { name: "x" });
  // 4 GiB of address space and no run: either a plan or a clear error.
  await compile({ y: x.relu().max() }, { engine }).then(
    (program) => program.dispose(),
    (error: unknown) => expect(error).toBeInstanceOf(EngineError),
  );
});
