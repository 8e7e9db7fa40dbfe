// A process that compares random programs on the CPU engine with the simulator: `fuzz-child.ts FIRST COUNT [KIND…]`. It says every seed before it
// runs it, so that its parent knows which one killed it, and prints one line for every difference and a last one with counts.

import { writeSync } from "node:fs";
import { isFloat } from "../../src/core/dtype.ts";
import type { Isa } from "../../src/engines/cpu/isa/features.ts";
import type { Engine, Tensor } from "../../src/index.ts";
import { randomGraph } from "../fuzz/generate.ts";
import { difference, instructionSets, numbersOf, openCpu, perturbed, type Row, rowsOf } from "./compare.ts";
import { type ProgramOptions, type RandomProgram, randomProgram } from "./programs.ts";

/** Kinds of programs; a seed runs all of them unless some are named. */
const kinds = {
  /** All sums exact: equal bit for bit, whatever the order of summation. */
  whole: (seed: number) => exact(seed, randomProgram(seed), false),
  /** Large enough for several tasks and threads. */
  large: (seed: number) =>
    seed % 8 === 0
      ? exact(seed, randomProgram(seed, { ...large, dtypes: ["fp16", "fp32", "fp32", "int32", "bool"] }), false)
      : undefined,
  /** Rounded as the simulator does, everything that is not exact as plain kernels: equal bit for bit, all operators. */
  strict: (seed: number) => exact(seed, graph(seed), true),
  strictWhole: (seed: number) => exact(seed, randomProgram(seed + 1_000_000), true),
  /** All operators in fp32: the same where small changes of the inputs change little. */
  wide: (seed: number) => stable(seed, graph(seed)),
  /** Continuous functions, in fp32 and in fp16, within what small changes of the inputs make of them. */
  smooth: (seed: number) => near(seed, { values: "smooth", dtypes: ["fp32", "fp32", "bool"] }, 2 ** -21, 64),
  smooth16: (seed: number) => near(seed, { values: "smooth", dtypes: ["fp16", "fp16", "fp32", "bool"] }, 2 ** -10, 16),
  /** Mostly products with loops between them. */
  chains: (seed: number) =>
    exact(seed, randomProgram(seed, { ...chains, dtypes: ["fp16", "fp32", "fp32", "bool"] }), false),
  attention: (seed: number) =>
    near(seed, { ...chains, values: "smooth", dtypes: ["fp32", "fp32", "bool"] }, 2 ** -21, 64),
  attention16: (seed: number) =>
    near(seed, { ...chains, values: "smooth", dtypes: ["fp16", "fp16", "fp32", "bool"] }, 2 ** -10, 16),
  /** Mostly convolutions and pools with loops between them; one of the three a seed. */
  windows: (seed: number) =>
    seed % 3 === 0
      ? exact(seed, randomProgram(seed, { ...windows, dtypes: ["fp16", "fp32", "fp32", "bool"] }), false)
      : undefined,
  images: (seed: number) =>
    seed % 3 === 1
      ? near(seed, { ...windows, values: "smooth", dtypes: ["fp32", "fp32", "bool"] }, 2 ** -21, 64)
      : undefined,
  images16: (seed: number) =>
    seed % 3 === 2
      ? near(seed, { ...windows, values: "smooth", dtypes: ["fp16", "fp16", "fp32", "bool"] }, 2 ** -10, 16)
      : undefined,
  /** Arrays put together from parts that others read, windows over them. */
  pieces: (seed: number) =>
    exact(seed, randomProgram(seed, seed % 8 === 3 ? { ...pieces, ...large } : pieces), seed % 4 === 0),
} as const;
const windows: ProgramOptions = { favourites: ["conv", "conv", "pool"], size: 10 };
const pieces: ProgramOptions = { favourites: ["pieces", "window", "join", "view", "matmul"], size: 16 };
const chains: ProgramOptions = { favourites: ["chain", "chain", "descend"], size: 24 };
const large: ProgramOptions = { most: 150_000, size: 8 };

const engines = new Map<string, Engine>();
const sets = await instructionSets();
const threadCounts = [1, 2, 3, 8];

async function engine(isa: Isa, threads: number, strict: boolean): Promise<Engine> {
  const key = `${isa} ${threads} ${strict}`;
  let open = engines.get(key);
  if (open === undefined) engines.set(key, (open = await openCpu({ isa, threads, strict })));
  return open;
}

const two = (seed: number) => [threadCounts[seed % 4]!, threadCounts[(seed + 1 + ((seed >> 2) % 3)) % 4]!] as const;

/** Equal to the simulator on both instruction sets. */
async function exact(seed: number, program: RandomProgram, strict: boolean): Promise<string | undefined> {
  const want = await rowsOf(program, "sim");
  for (const [i, isa] of sets.entries()) {
    const found = difference(await rowsOf(program, await engine(isa, two(seed)[i % 2]!, strict)), want, {
      signs: strict,
    });
    if (found !== undefined) return `${isa}: ${found}`;
  }
  return undefined;
}

/** Within a bound of the simulator, and the same for two numbers of threads. */
async function near(
  seed: number,
  options: ProgramOptions,
  relative: number,
  units: number,
): Promise<string | undefined> {
  const program = randomProgram(seed, options);
  const want = await rowsOf(program, "sim");
  const moved = await Promise.all(
    [relative, -relative, 3 * relative].map((by) => rowsOf(perturbed(program, by), "sim")),
  );
  const limits = new Map<string, number>();
  const limitOf = (run: number, name: string): number => {
    const key = `${run} ${name}`;
    let limit = limits.get(key);
    if (limit !== undefined || typeof want === "string") return limit ?? 0;
    const ws = numbersOf(want[run]![name]!);
    let [most, change] = [0, 0];
    for (let i = 0; i < ws.length; i++) most = Math.max(most, Math.abs(ws[i]!));
    for (const rows of moved) {
      if (typeof rows === "string") continue;
      const ms = numbersOf(rows[run]![name]!);
      for (let i = 0; i < ws.length; i++) change = Math.max(change, Math.abs(ms[i]! - ws[i]!));
    }
    // fp16: the simulator rounds every value to half a unit of 2^-10, the engine only what it stores.
    limit = 30 * change + units * relative * Math.max(1, most);
    limits.set(key, limit);
    return limit;
  };
  for (const [i, isa] of sets.entries()) {
    const threads = two(seed + i);
    const got = await rowsOf(program, await engine(isa, threads[0], false));
    const found = difference(got, want, { allowed: (run, name) => limitOf(run, name) });
    if (found !== undefined) return `${isa}: ${found}`;
    const again = await rowsOf(program, await engine(isa, threads[1], false));
    const changed = difference(again, got, { signs: true });
    if (changed !== undefined) return `${isa}, ${threads[1]} threads instead of ${threads[0]}: ${changed}`;
  }
  return undefined;
}

/** A graph of any operators as one of these programs. */
function graph(seed: number): RandomProgram {
  const { feeds, ...rest } = randomGraph(seed);
  const floats = rest.leaves.flatMap(({ node, dtype }) => (node.kind === "input" && isFloat(dtype) ? [node.name] : []));
  const arrays = Object.entries(feeds).map(([name, feed]) => [name, Float32Array.from(feed as number[])] as const);
  const floatFeeds = new Set(floats);
  const initial = new Map<Tensor, Float32Array>();
  for (const leaf of rest.leaves) {
    if (leaf.node.kind !== "parameter" || !isFloat(leaf.dtype)) continue;
    const first = leaf.node.initial;
    initial.set(leaf, typeof first === "number" ? new Float32Array(leaf.size).fill(first) : Float32Array.from(first));
  }
  return { ...rest, feeds: Object.fromEntries(arrays), floatFeeds, initial, text: [], values: [] };
}

/** Floats as on the simulator where three runs with slightly changed feeds agree with it. */
async function stable(seed: number, program: RandomProgram): Promise<string | undefined> {
  const options = { precision: "fp32" } as const;
  const want = await rowsOf(program, "sim", 2, options);
  if (typeof want === "string") {
    for (const isa of sets) {
      const got = await rowsOf(program, await engine(isa, 1, false), 2, options);
      if (got !== want) return `${isa}: ${typeof got === "string" ? got : "success"}, expected ${want}`;
    }
    return undefined;
  }
  const moved: Row[][] = [];
  for (const by of [2 ** -18, -(2 ** -18), 2 ** -16]) {
    const rows = await rowsOf(perturbed(program, by), "sim", 2, options);
    if (typeof rows !== "string") moved.push(rows);
  }
  const allowed = (run: number, name: string, i: number, w: number): number => {
    const near = moved.map((rows) => numbersOf(rows[run]![name]!)[i]!);
    const change = Math.max(...near.map((value) => Math.abs(value - w)));
    // What moves much, or not as a continuous function would, says nothing.
    if (Math.abs(w) > 1024) return Number.POSITIVE_INFINITY; // poles
    return change <= 2 ** -8 * (1 + Math.abs(w))
      ? 20 * change + 2 ** -15 * (1 + Math.abs(w))
      : Number.POSITIVE_INFINITY;
  };
  const floatsOf = (rows: Row[]) =>
    rows.map((row, run) =>
      Object.fromEntries(
        Object.entries(row).filter(
          ([name, { dtype }]) =>
            isFloat(dtype) && moved.every((other) => finite(other[run]![name]!)) && finite(want[run]![name]!),
        ),
      ),
    );
  for (const [i, isa] of sets.entries()) {
    const got = await rowsOf(program, await engine(isa, two(seed)[i % 2]!, false), 2, options);
    const found = typeof got === "string" ? got : difference(floatsOf(got), floatsOf(want), { allowed });
    if (found !== undefined) return `${isa}: ${found}`;
  }
  return undefined;
}

const finite = (array: Row[string]) => Array.from(numbersOf(array)).every(Number.isFinite);

const [first, count] = [Number(process.argv[2] ?? 1), Number(process.argv[3] ?? 10)];
const wanted = process.argv.slice(4);
const unknown = wanted.filter((kind) => !Object.hasOwn(kinds, kind));
if (unknown.length > 0) throw new Error(`no kind ${unknown.join(", ")}; there is ${Object.keys(kinds).join(", ")}`);
let [bad, run] = [0, 0];
for (let seed = first; seed < first + count; seed++) {
  for (const [kind, check] of Object.entries(kinds)) {
    if (wanted.length > 0 && !wanted.includes(kind)) continue;
    writeSync(1, `seed ${seed} 1 ${kind}\n`);
    const outcome = check(seed);
    if (outcome === undefined) continue;
    run++;
    const found = await outcome.catch((error: unknown) => (error as Error).stack ?? String(error));
    if (found === undefined) continue;
    bad++;
    writeSync(1, `differs ${seed} 1 ${kind}: ${found}\n`);
  }
}
for (const open of engines.values()) open[Symbol.dispose]();
writeSync(1, `done ${run} programs, ${bad} differ\n`);
