// What the Neural Engine's driver adds to a run, over the double of Espresso, which checks every call and computes nothing (so nothing here says how fast
// the Neural Engine is): dispatch beside Python's ctypes making the same native calls of the same library, and beside C; runs on the worker; and what
// the event loop and file reads notice of runs that take 1 ms. Run with `npx tsx bench/ane.bench.ts [--json] [--rounds N]`; needs a C compiler.
// Short turns within the same minute. "own" is a dispatch less what the library takes when C calls it, of the fastest turns: the double touches 1 MiB of
// stack a run, as drivers may, and what that costs depends on the neighbours' use of the caches far more than on who calls.

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import koffi from "koffi";
import { Missing, useDouble } from "../scripts/double.ts";
import { Measured, Missing as MissingPeer } from "../src/cli/bench-process.ts";
import { BoundStream, buildUnit, releaseUnit } from "../src/engines/ane/build.ts";
import { AneEngine } from "../src/engines/ane/engine.ts";
import { compile, NDArray, openEngine } from "../src/index.ts";

const { values: options } = parseArgs({
  options: { json: { type: "boolean", default: false }, rounds: { type: "string", default: "200" } },
});
const rounds = Number(options.rounds);
/** fp16 values that go in and come out: as many as the smallest buffer holds. */
const size = 32;
const bytes = 2 * size;
const repetitions = 1000;

interface Row {
  readonly name: string;
  readonly ours: number;
  readonly peer: number | null;
  readonly peerName: string | null;
  readonly unit: string;
  /** Ours over the peer's. */
  readonly ratio: number | null;
  /** Least and most of the rounds. */
  readonly spread: readonly [number, number] | null;
}

function show({ name, ours, peer, peerName, unit, ratio, spread }: Row): void {
  if (options.json) return console.log(JSON.stringify({ name, ours, peer, peerName, unit, ratio, spread }));
  const number = (value: number | null) => (value === null ? "-" : value.toFixed(2)).padStart(9);
  const ends = spread === null ? "" : `${spread[0].toFixed(2)} to ${spread[1].toFixed(2)}`;
  console.log(
    `${name.padEnd(46)} ${number(ours)} ${number(peer)} ${unit} ${number(ratio)}  ${ends.padEnd(18)} ${peerName ?? ""}`.trimEnd(),
  );
}

const sorted = (list: readonly number[]) => [...list].sort((a, b) => a - b);
const median = (list: readonly number[]) => sorted(list)[list.length >> 1]!;
const quantile = (list: readonly number[], q: number) =>
  sorted(list)[Math.min(list.length - 1, Math.floor(q * list.length))]!;

function row(name: string, ours: readonly number[], peer?: readonly number[], peerName: string | null = null): void {
  const [mine, theirs] = [median(ours), peer === undefined ? null : median(peer)];
  const ratio = peer === undefined ? null : median(ours.map((value, i) => value / peer[i]!));
  show({ name, ours: mine, peer: theirs, peerName, unit: "µs", ratio, spread: ends(ours) });
}

const ends = (list: readonly number[]): [number, number] => [quantile(list, 0), quantile(list, 1)];

/** Microseconds of one call. */
function time(work: () => unknown, count = repetitions): number {
  const start = performance.now();
  for (let i = 0; i < count; i++) work();
  return ((performance.now() - start) * 1000) / count;
}

/** The loop in C. */
function buildLoop(folder: string) {
  const source = fileURLToPath(new URL("peers/ane_dispatch.c", import.meta.url));
  const library = join(folder, "loop.so");
  const { status, stderr } = spawnSync(
    process.env.CC || "cc",
    ["-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"],
    {
      encoding: "utf8",
    },
  );
  if (status !== 0) throw new Error(stderr);
  return koffi
    .load(library)
    .func("int64_t ane_dispatch(str, uint64_t, uintptr_t, uintptr_t, void *, void *, uintptr_t, uint64_t)");
}

async function bench(): Promise<void> {
  using double = useDouble();
  using engine = await openEngine("ane");
  if (!(engine instanceof AneEngine)) throw new Error("not the Neural Engine's driver");
  double.computeNothing();
  const folder = mkdtempSync(join(tmpdir(), "anekit-bench-"));
  const stop = new AbortController();
  let peer: Measured | undefined;
  try {
    await using program = await compile({ x: [size] }, ({ x }) => ({ y: x.add(1) }), { engine });

    // The same program as the others get it.
    const files = { mil: join(folder, "model.mil"), cache: join(folder, "cache") };
    mkdirSync(files.cache);
    const { text, weights } = program.milFiles({ dialect: engine.capabilities.dialect.syntax });
    writeFileSync(files.mil, text);
    if (weights.length > 0) writeFileSync(join(folder, "weights.bin"), weights);
    const { espresso } = engine;
    const unit = buildUnit(espresso, files);
    const [input, output] = [espresso.buffer(bytes), espresso.buffer(bytes)];
    const bound = new BoundStream(espresso, [
      {
        operation: unit,
        ports: [
          { name: "x", direction: "input", buffer: input.handle },
          { name: "y", direction: "output", buffer: output.handle },
        ],
      },
    ]);
    const loop = buildLoop(folder);
    const [from, to] = [new Uint8Array(bytes), new Uint8Array(bytes)];
    const inC = () => {
      const start = performance.now();
      const code = loop(
        double.library,
        repetitions,
        bound.stream,
        input.memory.address,
        from,
        to,
        output.memory.address,
        bytes,
      );
      if (Number(code) !== 0) throw new Error(`C: ${code}`);
      return ((performance.now() - start) * 1000) / repetitions;
    };

    let absent = "";
    try {
      const script = fileURLToPath(new URL("peers/ane_dispatch.py", import.meta.url));
      mkdirSync(join(folder, "peer"));
      const config = { library: double.library, ...files, cache: join(folder, "peer"), input: "x", output: "y", bytes };
      const env = { ESPRESSO_DOUBLE: "chip=h17s;os=26;compute=none", PYTHONDONTWRITEBYTECODE: "1" };
      const python = process.env.ANEKIT_BENCH_PYTHON || "python3";
      peer = await Measured.start(python, [script, JSON.stringify(config)], env, stop.signal);
    } catch (error) {
      if (!(error instanceof MissingPeer)) throw error;
      absent = error.message;
    }

    const bits = { x: new NDArray<"fp16", "bits">("fp16", [size], new Uint16Array(size)) };
    const wide = { x: new Float32Array(size) };
    const measures = {
      runSync: () => time(() => program.runSync(bits, { as: "bits" })),
      wide: () => time(() => program.runSync(wide)),
      raw: () => time(() => espresso.execute(bound.stream)),
      c: inC,
    };
    const names = Object.keys(measures) as (keyof typeof measures)[];
    const results = { runSync: [], wide: [], raw: [], c: [], peer: [] } as Record<
      keyof typeof measures | "peer",
      number[]
    >;
    for (let round = -2; round < rounds; round++) {
      for (const name of names) {
        const microseconds = measures[name]();
        if (round >= 0) results[name].push(microseconds);
      }
      if (peer === undefined) continue;
      const { seconds } = await peer.measure(repetitions, stop.signal);
      if (round >= 0) results.peer.push(1e6 * seconds);
    }
    const title = `fp16[${size}] in and out`;
    const peerName = peer?.name ?? `ctypes: ${absent}`;
    row(`ane/dispatch runSync, ${title}`, results.runSync, peer && results.peer, peerName);
    row("ane/dispatch the library, called from C", results.c);
    const own = (list: readonly number[]) => Math.min(...list) - Math.min(...results.c);
    const ownRow = (name: string, ours: number, theirs: number | null = null) => {
      const ratio = theirs === null ? null : ours / theirs;
      show({ name, ours, peer: theirs, peerName: theirs === null ? null : peerName, unit: "µs", ratio, spread: null });
    };
    ownRow(`ane/dispatch runSync, ${title}, own`, own(results.runSync), peer ? own(results.peer) : null);
    ownRow("ane/dispatch the same from and to fp32, own", own(results.wide));
    ownRow("ane/dispatch pool, execute, pool alone, own", own(results.raw));

    const latency = async (count: number) => {
      const list: number[] = [];
      for (let i = 0; i < count; i++) {
        const start = performance.now();
        await program.run(bits, { as: "bits" });
        list.push((performance.now() - start) * 1000);
      }
      return list;
    };
    await latency(1000);
    const asynchronous = await latency(5000);
    const quantiles = (name: string, list: readonly number[]) =>
      show({
        name,
        ours: median(list),
        peer: null,
        peerName: `99 %: ${quantile(list, 0.99).toFixed(0)} µs`,
        unit: "µs",
        ratio: null,
        spread: ends(list),
      });
    quantiles("ane/run run(), on the worker", asynchronous);

    // What others in this process notice: turns of the event loop, and reads of a small file, alone and beside runs of 1 ms.
    const watch = async (seconds: number, work?: () => Promise<unknown>) => {
      const end = performance.now() + 1000 * seconds;
      const [gaps, reads]: [number[], number[]] = [[], []];
      let runs = 0;
      const turns = async () => {
        for (let last = performance.now(); last < end; ) {
          await new Promise((resolve) => setImmediate(resolve));
          const now = performance.now();
          gaps.push((now - last) * 1000);
          last = now;
        }
      };
      const files_ = async () => {
        while (performance.now() < end) {
          const start = performance.now();
          await readFile(files.mil);
          reads.push((performance.now() - start) * 1000);
        }
      };
      const running = async () => {
        for (; work !== undefined && performance.now() < end; runs++) await work();
      };
      await Promise.all([turns(), files_(), running()]);
      return { gaps, reads, runs };
    };
    double.computeNothing("slow-execute=1");
    const alone = await watch(2);
    const beside = await watch(2, () => program.run(bits, { as: "bits" }));
    if (beside.runs < 100) throw new Error(`only ${beside.runs} runs in 2 s`);
    quantiles("ane/run event loop, between turns, idle", alone.gaps);
    quantiles("ane/run the same beside runs of 1 ms", beside.gaps);
    quantiles("ane/run file read, idle", alone.reads);
    quantiles("ane/run the same beside runs of 1 ms", beside.reads);
    double.computeNothing();

    bound.release();
    espresso.pooled(() => releaseUnit(espresso, unit));
    for (const { memory } of [input, output]) memory.release();
  } finally {
    await peer?.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

if (!options.json)
  console.log(`${"".padEnd(46)} ${"ours".padStart(9)} ${"peer".padStart(9)}    ${"ratio".padStart(9)}  least to most`);
try {
  await bench();
} catch (error) {
  if (!(error instanceof Missing)) throw error;
  const absent = `not measured: ${error.message}`;
  if (options.json) console.log(JSON.stringify({ name: "ane/dispatch", ours: null, peer: null, peerName: absent }));
  else console.log(`ane/dispatch ${absent}`);
}
