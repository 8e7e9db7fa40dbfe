// Speed of matrix products on all threads: the products of GPT training and decoding, attention heads, small networks; against OpenBLAS where it is.
// Run with `npx tsx bench/gemm.bench.ts [--json] [--isa avx2] [--rounds N] [--threads N [--cpu]] [--cold] [NAME…]`; ANEKIT_OPENBLAS names the library (libopenblas.so.0 or the one in
// pip's numpy or scipy-openblas32). Medians of interleaved runs, packing included; share is of the peak rate of FMA measured in the same rounds.
// --cold: as in a training step, three products of one A at a time, with B and C that were not used for a while.

import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import koffi from "koffi";
import { type Code, gp, vectorLengths } from "../src/engines/cpu/code.ts";
import { dispatchCode } from "../src/engines/cpu/dispatch.ts";
import { Job, type Step } from "../src/engines/cpu/driver/job.ts";
import { Team } from "../src/engines/cpu/driver/team.ts";
import { newCode } from "../src/engines/cpu/isa/new-code.ts";
import { type GemmSpec, type Matrix, planGemm, type Storage } from "../src/engines/cpu/kernels/gemm.ts";
import type { Isa } from "../src/engines/cpu/kernels/step.ts";
import { type NativeMemory, openSystem, type System } from "../src/engines/os/index.ts";

interface Case {
  readonly name: string;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Whether A and B are transposed in memory. */
  readonly form: "NN" | "NT" | "TN" | "TT";
  readonly batch?: number;
  readonly dtype?: Storage;
  readonly bConstant?: boolean;
}

/** Forward, gradient of the input, gradient of the weight of y = x·Wᵀ with W [outputs, inputs]. */
function layer(group: string, rows: number, inputs: number, outputs: number): Case[] {
  const title = `${group} ${rows} ${inputs}→${outputs}`;
  return [
    { name: `${title} y`, m: rows, n: outputs, k: inputs, form: "NT" },
    { name: `${title} dx`, m: rows, n: inputs, k: outputs, form: "NN" },
    { name: `${title} dW`, m: outputs, n: inputs, k: rows, form: "TN" },
  ];
}

const training = [
  ...layer("110M", 256, 768, 768),
  ...layer("110M", 256, 768, 2048),
  ...layer("110M", 256, 2048, 768),
  ...layer("110M", 256, 768, 32000),
  ...layer("15M", 256, 288, 288),
  ...layer("15M", 256, 288, 768),
  ...layer("15M", 256, 768, 288),
  ...layer("15M", 256, 288, 32000),
];
const cases: Case[] = [
  ...training,
  ...layer("0.9M", 128, 128, 128),
  ...layer("0.9M", 128, 128, 352),
  ...layer("0.9M", 128, 352, 128),
  ...layer("0.9M", 128, 128, 256),
  ...training.map((row) => ({ ...row, name: `fp16 ${row.name}`, dtype: "fp16" as const })),
  ...[1, 4, 8].flatMap((m) =>
    (["fp32", "fp16"] as const).flatMap((dtype) => [
      { name: `decode ${m} 768→2048 NT ${dtype}`, m, n: 2048, k: 768, form: "NT" as const, dtype },
      { name: `decode ${m} 768→32000 NT ${dtype}`, m, n: 32000, k: 768, form: "NT" as const, dtype },
      { name: `decode ${m} 768→2048 NN ${dtype}`, m, n: 2048, k: 768, form: "NN" as const, dtype },
      { name: `decode ${m} 2048→768 NN ${dtype}`, m, n: 768, k: 2048, form: "NN" as const, dtype },
      { name: `decode ${m} 768→32000 NN ${dtype}`, m, n: 32000, k: 768, form: "NN" as const, dtype },
    ]),
  ),
  { name: "heads q·kᵀ 12×256×64×256", m: 256, n: 256, k: 64, form: "NT", batch: 12 },
  { name: "heads p·v 12×256×256×64", m: 256, n: 64, k: 256, form: "NN", batch: 12 },
  { name: "heads pᵀ·do 12×256×256×64", m: 256, n: 64, k: 256, form: "TN", batch: 12 },
  { name: "heads 4×128×32×128", m: 128, n: 128, k: 32, form: "NT", batch: 4 },
  { name: "heads 4×128×128×32", m: 128, n: 32, k: 128, form: "NN", batch: 4 },
  { name: "heads TN 4×128×128×32", m: 128, n: 32, k: 128, form: "TN", batch: 4 },
  { name: "heads 12×128×32×128", m: 128, n: 128, k: 32, form: "NT", batch: 12 },
  { name: "heads 12×128×128×32", m: 128, n: 32, k: 128, form: "NN", batch: 12 },
  { name: "mlp 128×784×256", m: 128, n: 256, k: 784, form: "NN" },
  { name: "mlp 128×256×10", m: 128, n: 10, k: 256, form: "NN" },
  { name: "mlp dW 784×128×256", m: 784, n: 256, k: 128, form: "TN" },
  { name: "mlp dW 256×128×10", m: 256, n: 10, k: 128, form: "TN" },
  { name: "encoder 128×384×384", m: 128, n: 384, k: 384, form: "NN" },
  { name: "encoder 128×384×1536", m: 128, n: 1536, k: 384, form: "NN" },
  { name: "encoder 128×384×1536 constant", m: 128, n: 1536, k: 384, form: "NN", bConstant: true },
  { name: "square 1024", m: 1024, n: 1024, k: 1024, form: "NN" },
  { name: "square 2048", m: 2048, n: 2048, k: 2048, form: "NN" },
];

const { values: options, positionals } = parseArgs({
  options: {
    json: { type: "boolean" },
    isa: { type: "string", default: "avx512" },
    rounds: { type: "string", default: "15" },
    threads: { type: "string" },
    cpu: { type: "boolean" },
    cold: { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const isa = options.isa as Isa;
const threads = Number(options.threads ?? availableParallelism());
const rounds = Number(options.rounds);

type Sgemm = (a: NativeMemory, b: NativeMemory, c: NativeMemory, test: Case, batchIndex: number) => void;

function openBlas(): Sgemm | undefined {
  const path = process.env.ANEKIT_OPENBLAS;
  const name = path ?? ["/usr/lib/x86_64-linux-gnu/libopenblas.so.0"].find(existsSync);
  if (name === undefined) return undefined;
  // Its threads spin for some 100 ms after a call, on our cores; 2^20 ticks bridge the gap between two calls.
  process.env.OPENBLAS_THREAD_TIMEOUT = "20";
  const library = koffi.load(name);
  for (const [prefix, suffix, int] of [
    ["scipy_", "64_", "int64_t"],
    ["scipy_", "", "int"],
    ["", "", "int"],
  ] as const) {
    try {
      library.func(`void ${prefix}openblas_set_num_threads${suffix}(int)`)(threads);
      const sgemm = library.func(
        `void ${prefix}cblas_sgemm${suffix}(int, int, int, ${int}, ${int}, ${int}, float, uintptr_t, ${int}, uintptr_t, ${int}, float, uintptr_t, ${int})`,
      );
      return (a, b, c, { m, n, k, form }, i) => {
        const [ta, tb] = [form[0] === "T", form[1] === "T"];
        const place = (memory: NativeMemory, elements: number) => memory.address + i * elements * 4;
        const [A, B, C] = [place(a, m * k), place(b, k * n), place(c, m * n)];
        sgemm(101, ta ? 112 : 111, tb ? 112 : 111, m, n, k, 1, A, ta ? m : k, B, tb ? k : n, 0, C, n);
      };
    } catch {}
  }
  throw new Error(`${name}: no cblas_sgemm`);
}

function specOf({ m, n, k, form, batch = 1, dtype = "fp32", bConstant = false }: Case): GemmSpec {
  const matrix = (rows: number, columns: number, transposed: boolean): Matrix => ({
    dtype,
    row: transposed ? 1 : columns,
    column: transposed ? rows : 1,
    batch: [rows * columns],
  });
  return {
    m,
    n,
    k,
    batch: [batch],
    a: matrix(m, k, form[0] === "T"),
    b: matrix(k, n, form[1] === "T"),
    c: matrix(m, n, false),
    bConstant,
  };
}

/** Independent FMAs in registers: a task takes about 0.1 ms. */
const peakRounds = 25000;
const peakRegisters = isa === "avx2" ? 12 : 24;
function emitPeak(code: Code): void {
  for (let i = 0; i < peakRegisters; i++) code.vzero(i);
  code.movImm(gp.r1, peakRounds);
  const top = code.here();
  for (let i = 0; i < peakRegisters; i++) code.fma(i, i, i);
  code.aluImm("sub", gp.r1, 1);
  code.jcc("ne", top);
  code.ret();
}
const peakFlops = peakRegisters * (vectorLengths[isa] / 2) * peakRounds;

function random(memory: NativeMemory, dtype: Storage): void {
  let state = 1;
  const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0);
  if (dtype === "fp32") {
    const view = new Float32Array(memory.bytes.buffer);
    for (let i = 0; i < view.length; i++) view[i] = (next() >>> 8) / 2 ** 24 - 0.5;
  } else {
    // Any numbers from -2 to 2 with exponents near 0.
    const view = new Uint16Array(memory.bytes.buffer);
    for (let i = 0; i < view.length; i++) view[i] = ((next() >>> 16) & 0x87ff) | 0x3000;
  }
}

/** Kernels keep their code for the whole run. */
const codes = new Map<string, number>();
function compileJob(
  system: System,
  plan: ReturnType<typeof planGemm>,
  operands: Record<"a" | "b" | "c", number>,
): { setup: Step[]; steps: Step[]; temps: NativeMemory[] } {
  const temps = plan.temps.map((bytes) => system.allocate(bytes));
  const compile = (list: typeof plan.steps) =>
    list.map((step): Step => {
      if (!codes.has(step.key)) {
        const code = newCode(isa);
        step.emit(code);
        codes.set(step.key, system.code(code.finish()).address);
      }
      const args = step.args.map((arg) => {
        if (typeof arg === "object") return temps[arg.temp]!.address;
        return operands[arg as keyof typeof operands];
      });
      return { kernel: codes.get(step.key)!, args, tasks: step.tasks };
    });
  return { setup: compile(plan.setup), steps: compile(plan.steps), temps };
}

/** One step of several that may run at once, as the engine makes them; its table goes to `tables`. */
function together(steps: readonly Step[], tables: NativeMemory[]): Step {
  if (steps.length === 1) return steps[0]!;
  const memory = system.allocate(8 * steps.reduce((sum, { args }) => sum + 3 + (args as number[]).length, 0));
  const words = new BigInt64Array(memory.bytes.buffer);
  let at = 3 * steps.length;
  let tasks = 0;
  for (const [i, step] of steps.entries()) {
    tasks += step.tasks;
    const args = step.args as readonly number[];
    words.set([tasks, step.kernel, memory.address + 8 * at].map(BigInt), 3 * i);
    words.set(args.map(BigInt), at);
    at += args.length;
  }
  tables.push(memory);
  return { kernel: dispatch, args: memory.address, tasks };
}

const median = (list: readonly number[]) => list.toSorted((x, y) => x - y)[list.length >> 1]!;

const system = await openSystem();
const dispatch = system.code(dispatchCode(isa)).address;
using team = new Team(system, { threads });
const sgemm = openBlas();
const peakCode = newCode(isa);
emitPeak(peakCode);
const peakTasks = 8 * threads;
const peakJob = new Job(system, [{ kernel: system.code(peakCode.finish()).address, args: [], tasks: peakTasks }]);

/** Milliseconds of a run; with --cpu of processor time, which other programs disturb less: for one thread. */
function time(run: () => void): number {
  if (options.cpu) {
    const before = process.cpuUsage();
    run();
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000;
  }
  const start = performance.now();
  run();
  return performance.now() - start;
}

if (!options.json) {
  console.log(
    `${isa}, ${threads} threads; ${sgemm === undefined ? "OpenBLAS not found (ANEKIT_OPENBLAS)" : "OpenBLAS"}`,
  );
  console.log(
    `${"".padEnd(34)}     ms  ±%  GFLOP/s  share   GB/s    peer ms  ratio   best: share ratio  tasks  scratch`,
  );
}
const sizeOf = { fp32: 4, fp16: 2 } as const;
for (const test of cases) {
  if (positionals.length > 0 && !positionals.some((name) => test.name.includes(name))) continue;
  const { m, n, k, batch = 1, dtype = "fp32" } = test;
  const plan = planGemm(specOf(test), isa, threads);
  team.reserveScratch(plan.scratchBytes);
  const elements = { a: batch * m * k, b: batch * k * n, c: batch * m * n };
  // Decoding reads other weights every time: as many copies as exceed the caches. Cold operands are in the last-level cache.
  const coldCopies = options.cold ? Math.ceil(16e6 / ((elements.b + elements.c) * 4)) : 1;
  const copies = m <= 8 ? Math.max(1, Math.ceil(5e8 / (k * n * sizeOf[dtype]))) : coldCopies;
  const a = system.allocate(elements.a * sizeOf[dtype]);
  const bs = Array.from({ length: copies }, () => system.allocate(elements.b * sizeOf[dtype]));
  const cs = Array.from({ length: options.cold ? copies : 1 }, () => system.allocate(elements.c * 4));
  random(a, dtype);
  random(bs[0]!, dtype);
  for (const b of bs.slice(1)) b.bytes.set(bs[0]!.bytes);
  const compiled = bs.map((b, i) => {
    const result = compileJob(system, plan, { a: a.address, b: b.address, c: cs[i % cs.length]!.address });
    if (result.setup.length > 0) team.runSync(new Job(system, result.setup));
    return result;
  });
  const batchSize = options.cold ? 3 : 1;
  const tables: NativeMemory[] = [];
  const steps: Step[] = [];
  for (let i = 0; i < copies; i += batchSize)
    for (const [s] of plan.steps.entries())
      steps.push(
        together(
          compiled.slice(i, i + batchSize).map((each) => each.steps[s]!),
          tables,
        ),
      );
  const jobs = options.cold ? [new Job(system, steps)] : compiled.map((each) => new Job(system, each.steps));
  const flops = plan.flops;
  const repeats = Math.max(1, Math.min(200, Math.round(4e8 / (flops * copies))));
  const ours: number[] = [];
  const theirs: number[] = [];
  const peak: number[] = [];
  for (let round = -2; round < rounds; round++) {
    team.runSync(jobs.at(-1)!); // wakes our threads
    const mine =
      time(() => {
        for (let r = 0; r < repeats; r++) for (const job of jobs) team.runSync(job);
      }) /
      (repeats * copies);
    const blas =
      sgemm === undefined || dtype === "fp16"
        ? Number.NaN
        : time(() => {
            for (let r = 0; r < repeats; r++)
              for (const [j, b] of bs.entries())
                for (let i = 0; i < batch; i++) sgemm(a, b, cs[j % cs.length]!, test, i);
          }) /
          (repeats * copies);
    await new Promise((resolve) => setTimeout(resolve, 2)); // the peer's threads fall asleep
    const top = time(() => team.runSync(peakJob));
    if (round < 0) continue;
    ours.push(mine);
    theirs.push(blas);
    peak.push((peakTasks * peakFlops) / top);
  }
  const ms = median(ours);
  const spread = median(ours.map((x) => Math.abs(x - ms))) / ms;
  const gflops = flops / ms / 1e6;
  const row = {
    name: test.name,
    ours: ms,
    peer: median(theirs),
    ratio: median(theirs.map((x, i) => x / ours[i]!)),
    /** Of the fastest rounds, which busy neighbours disturb less. */
    bestRatio: Math.min(...theirs) / Math.min(...ours),
    bestShare: flops / Math.min(...ours) / Math.max(...peak),
    gflops,
    share: gflops / (median(peak) / 1e6),
    gigabytes: plan.bytes / ms / 1e6,
    spread,
  };
  if (options.json) console.log(JSON.stringify(row));
  else {
    console.log(
      `${row.name.padEnd(34)} ${ms.toFixed(3).padStart(7)} ${(100 * spread).toFixed(0).padStart(3)} ${gflops.toFixed(0).padStart(8)} ${row.share.toFixed(2).padStart(6)} ${row.gigabytes.toFixed(1).padStart(6)} ${row.peer.toFixed(3).padStart(10)} ${row.ratio.toFixed(2).padStart(6)}   ${row.bestShare.toFixed(2).padStart(11)} ${row.bestRatio.toFixed(2).padStart(5)}  ${plan.steps.map((s) => s.tasks).join("+")}  ${plan.scratchBytes >> 10}K`,
    );
  }
  for (const job of jobs) job.dispose();
  for (const memory of [a, ...bs, ...cs, ...tables, ...compiled.flatMap(({ temps }) => temps)]) memory.dispose();
}
