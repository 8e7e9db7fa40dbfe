// Plans over several engines, buffers of all dtypes, views, several segments, and programs that are cut.

import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { mkdtempSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AneExecutable, type Unit } from "../../../src/engines/ane/executable.ts";
import {
  compile,
  constant,
  type Engine,
  input,
  type NDArray,
  openEngine,
  parameter,
  type Tensor,
  UnsupportedError,
} from "../../../src/index.ts";
import { milFiles } from "../../../src/mil/writer.ts";
import { legalize } from "../../../src/passes/legalize.ts";
import { segment } from "../../../src/passes/segment.ts";
import { planOf } from "../../passes/helpers.ts";
import type { Bench } from "../bench.ts";
import { leftover } from "../inside.ts";
import { difference } from "./compare.ts";

const numbers = (count: number, scale = 1) =>
  Float32Array.from({ length: count }, (_, i) => scale * Math.sin(7 * i + 1));

/** An embedding looked up and a mean in fp32 on the CPU around products on the chip; int32 and fp32 ports at both ends. */
function mixedPlan() {
  const ids = input([5], { name: "ids", dtype: "int32" });
  const bias = input([4], { name: "bias", dtype: "fp32" });
  const table = parameter(numbers(24), [6, 4], { name: "table" });
  const w = parameter(numbers(16), [4, 4], { name: "w" });
  const scale = parameter(1, [], { name: "scale", dtype: "fp32" });
  const rows = table.gather(ids, 0);
  const narrow = bias.cast("fp16");
  const hidden = rows.matmul(w).add(narrow).tanh();
  const best = hidden.argmax(-1);
  const loss = hidden.cast("fp32").square().mean().mul(scale);
  return {
    outputs: { hidden, best, loss },
    update: new Map<Tensor, Tensor>([
      [w, w.sub(rows.sum(0).reshape([1, 4]).mul(0.01))],
      [scale, scale.mul(1.5)],
    ]),
    stages: [
      { name: "look_up", on: "cpu", compute: [rows, narrow] },
      { name: "chip", compute: [hidden] },
      { name: "rest", on: "cpu" },
    ],
    feeds: (run: number) => ({ ids: [run, 1, 5, 0, 3], bias: numbers(4, run + 1) }),
  };
}

async function runs(plan: ReturnType<typeof mixedPlan>, engine: Engine): Promise<Record<string, NDArray>[]> {
  const { outputs, update, stages, feeds } = plan;
  using program = await compile(outputs, { engine, update, stages });
  const rows: Record<string, NDArray>[] = [];
  for (let run = 0; run < 4; run++) {
    const options = { as: "bits" } as const;
    const results = run % 2 === 1 ? await program.run(feeds(run), options) : program.runSync(feeds(run), options);
    const states = [...update.keys()].map((state, i) => [`state${i}`, program.state.read(state, { as: "bits" })]);
    rows.push({ ...(results as never as object), ...(Object.fromEntries(states) as object) });
  }
  return rows;
}

/** A program of several matrices that are constants: cut, it needs values that cross. */
function tower() {
  const x = input([8, 32], { name: "x" });
  const state = parameter(numbers(32, 0.1), [32], { name: "state" });
  let y: Tensor = x.add(state);
  const first = y;
  for (let i = 0; i < 5; i++) y = y.matmul(constant(numbers(1024, 0.2 + i / 10), [32, 32])).tanh();
  return planOf({ y: y.add(first), middle: y.sum(1) }, new Map([[state, state.mul(0.5).add(0.25)]]));
}

export async function checkPlans(bench: Bench): Promise<void> {
  const { engine, reference, check } = bench;
  const { chip, capabilities } = engine;

  await check("stages on the CPU before and after the chip's", async () => {
    const [got, want] = [await runs(mixedPlan(), engine), await runs(mixedPlan(), reference)];
    for (const [run, row] of want.entries()) strictEqual(difference(got[run]!, row), undefined, `run ${run}`);
  });

  await check("without stages integers and fp32 are refused with a remedy", async () => {
    const { outputs, update } = mixedPlan();
    const error = await compile(outputs, { engine, update }).catch((reason: unknown) => reason);
    strictEqual(error instanceof UnsupportedError, true);
    strictEqual((error as UnsupportedError).remedy !== undefined, true);
  });

  await check("a stage of the chip's inside a plan of the CPU", async () => {
    // Whole numbers: exact on both engines.
    const x = input([4, 8], { name: "x" });
    const total = parameter(0, [4, 8], { name: "total" });
    const next = total.add(x);
    const sums = next.matmul(constant(numbers(8).map(Math.round), [8, 1]));
    const top = sums.argmax(0);
    const stages = [{ name: "chip", on: "ane", compute: [sums] }, { name: "rest" }];
    using cpu = await openEngine("cpu");
    using program = await compile({ sums, top }, { engine: cpu, stages, update: new Map([[total, next]]) });
    using plain = await compile({ sums, top }, { engine: "sim", update: new Map([[total, next]]) });
    for (let run = 0; run < 4; run++) {
      const feeds = { x: numbers(32, 5 + run).map(Math.round) };
      const got = run % 2 === 0 ? await program.run(feeds) : program.runSync(feeds);
      deepStrictEqual(JSON.stringify(got), JSON.stringify(plain.runSync(feeds)));
    }
    deepStrictEqual(program.state.read(total).data, plain.state.read(total).data);
  });

  await check("scalars, empty updates and inputs that nothing reads", async () => {
    const results: string[] = [];
    for (const each of [engine, reference]) {
      const x = input([], { name: "x" });
      const y = input([3], { name: "y" });
      const kept = parameter([1, 2], [2], { name: "kept" });
      using program = await compile(
        { s: x.mul(2), t: y.add(x), k: kept.mul(1), same: x, c: constant([1, 2]) },
        { engine: each },
      );
      results.push(
        JSON.stringify([program.runSync({ x: 3, y: [1, 2, 3] }), await program.run({ x: -1, y: [0, 0, 1] })]),
      );
    }
    strictEqual(results[0], results[1]);
  });

  await check("views are the memory, and outlive dispose", async () => {
    const x = input([16], { name: "x" });
    const n = input([3], { name: "n", dtype: "int32" });
    const rows = n.cast("fp32");
    const program = await compile(
      { y: x.mul(2), rows },
      { engine, stages: [{ name: "host", on: "cpu", compute: [rows] }, { name: "chip" }] },
    );
    program.view("x").fill(0x3c00); // 1
    program.runSync({ n: [1, 2, 3] } as never);
    const [xs, ys, rs] = [program.view("x"), program.view("y"), program.view("rows")];
    strictEqual(ys[15], 0x4000);
    program.view("x").fill(0x4000);
    await program.run({ n: [4, 5, 6] } as never);
    program.dispose();
    const others = [];
    for (let i = 0; i < 8; i++) others.push(await compile({ y: x.mul(3 + i) }, { engine }));
    for (const other of others) other.runSync({ x: numbers(16) });
    for (const other of others) other.dispose();
    await leftover();
    deepStrictEqual([xs[0], ys[15], rs[2]], [0x4000, 0x4400, 6]);
  });

  await check("a program that is cut into several", async () => {
    const plan = tower();
    const { program, buffers } = plan.stages[0]!;
    const legal = legalize(program, chip, capabilities.dialect);
    const parts = segment(legal, 5000); // two matrices each
    strictEqual(parts.length > 2, true);
    const folder = mkdtempSync(join(tmpdir(), "cut-"));
    const units: Unit[] = [];
    for (const [at, part] of parts.entries()) {
      const files = { mil: join(folder, String(at), "model.mil"), cache: join(folder, String(at), "cache") };
      await mkdir(files.cache, { recursive: true });
      const { text, weights } = milFiles(part, { dialect: capabilities.dialect.syntax });
      await writeFile(files.mil, text);
      if (weights.length > 0) await writeFile(join(folder, String(at), "weights.bin"), weights);
      units.push({ program: part, files });
    }
    const state = plan.states[0]!;
    const [next] = [...buffers].find(([port, buffer]) => buffer === state.next && port !== state.buffer)!;
    const options = { inPlace: new Map(state.mode === "in-place" ? [[next, state.buffer]] : []) };
    const feeds = { x: numbers(256), [state.buffer]: numbers(32, 0.1) };
    const seen: string[] = [];
    for (const [each, executable] of [
      [engine, new AneExecutable(engine, program, { units, folder, options })],
      [reference, await reference.load(program)],
    ] as const) {
      using _freed = executable;
      const own = new Map([...plan.buffers].map(([name, aval]) => [name, each.allocate(aval)]));
      for (const [name, values] of Object.entries(feeds)) {
        const { bytes } = own.get(buffers.get(name) ?? name)!;
        new Uint16Array(bytes.buffer, bytes.byteOffset, values.length).set(
          Array.from(values, (v) => 0x3c00 + Math.round(v * 100)),
        );
      }
      const binding = executable.bind(new Map([...buffers].map(([port, name]) => [port, own.get(name)!])));
      if (executable instanceof AneExecutable) await executable.load();
      let text = "";
      for (let run = 0; run < 3; run++) {
        if (run === 1) binding.runSync();
        else await binding.run();
        text += [...own.values()].map(({ bytes }) => Buffer.from(bytes).toString("hex")).join("\n");
      }
      seen.push(text);
      for (const buffer of own.values()) buffer[Symbol.dispose]();
    }
    strictEqual(seen[0], seen[1]);
  });
}
