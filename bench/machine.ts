// What this machine can do at most, measured by generated code: multiply-adds a second, and memory bandwidth with every thread at work.
// Prints one JSON object; `anekit bench` compares with it. Run it by itself with: npx tsx bench/machine.ts

import { setTimeout } from "node:timers/promises";
import { Job, type Step } from "../src/engines/cpu/driver/job.ts";
import { Team } from "../src/engines/cpu/driver/team.ts";
import { chooseIsa, cpuFeatures, type Isa } from "../src/engines/cpu/isa/features.ts";
import { gp, Label, type Length, mem, X64 } from "../src/engines/cpu/isa/x64.ts";
import { availableCores, openSystem } from "../src/engines/os/index.ts";

/** With --tiny nothing is worth anything, but everything runs. */
const tiny = process.argv.includes("--tiny");
/** Runs of each loop, of which the best counts. */
const rounds = tiny ? 1 : 12;
const chunkBytes = 2 ** 20;
/** Of each array: far more than the second-level caches hold. */
const arrayBytes = tiny ? 2 * chunkBytes : 2 ** 28;

const { rax, rcx, rdx, rdi, rsi } = gp;
const lengths: Readonly<Record<Isa, Length>> = { avx2: 32, avx512: 64 };

/** Independent multiply-adds: more of them than two units have in flight (latency 4). */
function emitMultiplyAdd(isa: Isa, rounds: number): { code: Uint8Array; flops: number } {
  const length = lengths[isa];
  const accumulators = isa === "avx512" ? 24 : 12;
  const asm = new X64();
  const zero = accumulators;
  for (let i = 0; i <= zero; i++) asm.v(isa === "avx512" ? "vpxord" : "vxorps", length, i, i, i);
  asm.movImm(rax, rounds);
  const loop = new Label();
  asm.bind(loop);
  for (let i = 0; i < accumulators; i++) asm.v("vfmadd231ps", length, i, zero, zero);
  asm.aluImm("sub", rax, 1);
  asm.jcc("ne", loop);
  asm.ret();
  return { code: asm.finish(), flops: (rounds * accumulators * length * 2) / 4 };
}

/** Loops over a chunk of memory; `bytes` is how many times an array's size passes between registers and memory. */
const traffic = {
  read: { bytes: 1, streaming: false },
  write: { bytes: 1, streaming: false },
  writeStreaming: { bytes: 1, streaming: true },
  copy: { bytes: 2, streaming: false },
  copyStreaming: { bytes: 2, streaming: true },
  triad: { bytes: 3, streaming: false },
} as const;
type Traffic = keyof typeof traffic;

/** Arguments: the addresses of two arrays, of which the task's chunk is read or written. */
function emitTraffic(isa: Isa, kind: Traffic): Uint8Array {
  const length = lengths[isa];
  const asm = new X64();
  const vectors = 8;
  asm.mov(rax, mem(rdi, 0));
  asm.mov(rcx, mem(rdi, 8));
  asm.shift("shl", rsi, Math.log2(chunkBytes));
  asm.alu("add", rax, rsi);
  asm.alu("add", rcx, rsi);
  for (let i = 0; i <= vectors; i++) asm.v("vxorps", 16, i, i, i); // clears the rest of the register too
  asm.movImm(rdx, chunkBytes / (vectors * length));
  const store = traffic[kind].streaming ? "vmovntps" : "vmovups";
  const loop = new Label();
  asm.bind(loop);
  for (let i = 0; i < vectors; i++) {
    const [a, b] = [mem(rax, i * length), mem(rcx, i * length)];
    if (kind === "read") asm.v("vaddps", length, i, i, a);
    if (kind.startsWith("copy")) asm.v("vmovups", length, i, b);
    if (kind === "triad") {
      asm.v("vmovups", length, i, a);
      asm.v("vfmadd213ps", length, i, vectors, b);
    }
    if (kind !== "read") asm.store(store, length, a, i);
  }
  asm.aluImm("add", rax, vectors * length);
  asm.aluImm("add", rcx, vectors * length);
  asm.aluImm("sub", rdx, 1);
  asm.jcc("ne", loop);
  if (traffic[kind].streaming) asm.sfence();
  asm.ret();
  return asm.finish();
}

const system = await openSystem();
const features = cpuFeatures(system);
const isa = chooseIsa(features, process.env.ANEKIT_ISA);
const threads = availableCores(process.env.ANEKIT_THREADS);
using team = new Team(system, { threads });

/** A step that works through `units` a run. */
interface Loop {
  readonly job: Job;
  readonly units: number;
  /** The fewest milliseconds that a run took. */
  least: number;
}

function makeLoop(code: Uint8Array, units: number, step: Omit<Step, "kernel">): Loop {
  return { job: new Job(system, [{ ...step, kernel: system.code(code).address }]), units, least: Infinity };
}

function multiplyAdd(level: Isa): Loop {
  const { code, flops } = emitMultiplyAdd(level, tiny ? 1000 : 200_000);
  const tasks = 4 * threads; // a thread that was held up leaves its share to the others
  return makeLoop(code, tasks * flops, { tasks, args: [] });
}

const a = system.allocate(arrayBytes);
const b = system.allocate(arrayBytes);
// Memory that was never written is one page of zeros.
a.bytes.fill(1);
b.bytes.fill(1);
const step = { tasks: arrayBytes / chunkBytes, args: [a.address, b.address] };

/** Levels that this processor has. */
const levels = (["avx2", "avx512"] as const).filter((level) => {
  try {
    return chooseIsa(features, level) === level;
  } catch {
    return false;
  }
});
const peaks = new Map(levels.map((level) => [level, multiplyAdd(level)]));
const moves = new Map(
  (Object.keys(traffic) as Traffic[]).map((kind) => [
    kind,
    makeLoop(emitTraffic(isa, kind), traffic[kind].bytes * arrayBytes, step),
  ]),
);
// Rounds over all loops, with pauses: another process can only make a run slower, and seldom all runs of one loop.
for (let round = 0; round <= rounds; round++) {
  for (const loop of [...peaks.values(), ...moves.values()]) {
    const before = performance.now();
    team.runSync(loop.job);
    if (round > 0) loop.least = Math.min(loop.least, performance.now() - before);
  }
  if (!tiny) await setTimeout(50);
}
const rate = ({ units, least }: Loop) => (1000 * units) / least;
const bytes = Object.fromEntries([...moves].map(([kind, loop]) => [kind, rate(loop)])) as Record<Traffic, number>;
const figures = {
  cpu: features.name,
  isa,
  threads,
  /** Floating-point operations a second, a multiply-add being two. */
  flops: Object.fromEntries([...peaks].map(([level, loop]) => [level, rate(loop)])),
  /** Bytes a second between memory and registers; stores by the faster of two ways, through the caches or past them. */
  bytes: {
    read: bytes.read,
    write: Math.max(bytes.write, bytes.writeStreaming),
    copy: Math.max(bytes.copy, bytes.copyStreaming),
    triad: bytes.triad,
  },
};
console.log(JSON.stringify(figures));
