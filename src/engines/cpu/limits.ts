// What this machine can do at most, measured by generated code: multiply-adds a second, and memory bandwidth with every thread at work.
// `anekit bench` compares with it.

import { setTimeout } from "node:timers/promises";
import { availableCores, openSystem, type System } from "../os/index.ts";
import { entry, gp, mem } from "./code.ts";
import { Job, type Step } from "./driver/job.ts";
import { Team } from "./driver/team.ts";
import { chooseIsa, cpuFeatures, type Isa, isasOf } from "./isa/features.ts";
import { newCode } from "./isa/new-code.ts";
import { countDown } from "./kernels/integers.ts";

/** Rates with so many threads. */
export interface Limits {
  /** The processor's name. */
  readonly cpu: string;
  /** The set of instructions that the engine uses. */
  readonly isa: string;
  readonly threads: number;
  /** Floating-point operations a second, a multiply-add being two, by set of instructions. */
  readonly flops: Readonly<Record<string, number>>;
  /** Bytes a second between memory and registers; stores by the faster of two ways, through the caches or past them. */
  readonly bytes: { readonly read: number; readonly write: number; readonly copy: number; readonly triad: number };
}

const chunkBytes = 2 ** 20;
/** What measuring takes. */
interface Effort {
  /** Runs of each loop, of which the best counts. */
  readonly rounds: number;
  readonly pauseMs: number;
  readonly multiplyAdds: number;
  /** Of each of two arrays. */
  readonly arrayBytes: number;
}
/**
 * Arrays far larger than what a last-level cache keeps of them from loop to loop: beside one of 260 MB, one array of 128 MB is read over and over at
 * 50 GB/s where memory gives 33. Two of 512 MB, which all loops pass through in turn, have the rates of two of 1 GB.
 */
const full: Effort = { rounds: 12, pauseMs: 50, multiplyAdds: 200_000, arrayBytes: 2 ** 29 };
/** Nothing that it measures is worth anything, but everything runs. */
const tiny: Effort = { rounds: 1, pauseMs: 0, multiplyAdds: 1000, arrayBytes: 2 * chunkBytes };

const { r0, r1, r2 } = gp;

/** Independent multiply-adds: more of them than are in flight (two units, or four of short vectors, with a latency of 4). */
function emitMultiplyAdd(isa: Isa, rounds: number): { code: Uint8Array; flops: number } {
  const code = newCode(isa);
  const accumulators = Math.floor((3 * code.registers) / 4);
  const zero = accumulators;
  for (let i = 0; i <= zero; i++) code.vzero(i);
  code.movImm(r0, rounds);
  countDown(code, r0, () => {
    for (let i = 0; i < accumulators; i++) code.fma(i, zero, zero);
  });
  code.ret();
  return { code: code.finish(), flops: 2 * rounds * accumulators * code.lanes };
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
  const code = newCode(isa);
  const length = code.vectorBytes;
  const vectors = 8;
  code.mov(r0, mem(entry.args, 0));
  code.mov(r1, mem(entry.args, 8));
  code.shift("shl", entry.task, Math.log2(chunkBytes));
  code.alu("add", r0, entry.task);
  code.alu("add", r1, entry.task);
  for (let i = 0; i <= vectors; i++) code.vzero(i);
  code.movImm(r2, chunkBytes / (vectors * length));
  countDown(code, r2, () => {
    for (let i = 0; i < vectors; i++) {
      const [a, b] = [mem(r0, i * length), mem(r1, i * length)];
      if (kind === "read") code.vfloat("add", i, i, a);
      if (kind.startsWith("copy") || kind === "triad") code.vload(length, i, b);
      if (kind === "triad") code.fma(i, vectors, a);
      if (traffic[kind].streaming) code.vstream(length, a, i);
      else if (kind !== "read") code.vstore(length, a, i);
    }
    code.aluImm("add", r0, vectors * length);
    code.aluImm("add", r1, vectors * length);
  });
  if (traffic[kind].streaming) code.fence();
  code.ret();
  return code.finish();
}

/** A step that works through `units` a run. */
interface Loop {
  readonly job: Job;
  readonly units: number;
  /** The fewest milliseconds that a run took. */
  least: number;
}

function makeLoop(system: System, code: Uint8Array, units: number, step: Omit<Step, "kernel">): Loop {
  return { job: new Job(system, [{ ...step, kernel: system.code(code).address }]), units, least: Infinity };
}

/**
 * Measures; nothing else may run meanwhile, so call it in a process of its own, which keeps the memory until it ends. `quick` only tries the code.
 * @throws {EngineError | UnsupportedError} where no native code can be generated or run.
 */
export async function measureLimits(
  environment: { readonly ANEKIT_ISA?: string | undefined; readonly ANEKIT_THREADS?: string | undefined },
  quick: boolean,
): Promise<Limits> {
  const { rounds, pauseMs, multiplyAdds, arrayBytes: wantedBytes } = quick ? tiny : full;
  // A small machine's figures are worth less than its programs.
  const chunks = Math.floor(Math.min(wantedBytes, process.availableMemory() / 4) / chunkBytes);
  const arrayBytes = Math.max(1, chunks) * chunkBytes;
  const system = await openSystem();
  const features = cpuFeatures(system);
  const isa = chooseIsa(features, environment.ANEKIT_ISA);
  const threads = availableCores(environment.ANEKIT_THREADS);
  using team = new Team(system, { threads });

  const tasks = 4 * threads; // a thread that was held up leaves its share to the others
  const peaks = isasOf(features).map((level) => {
    const { code, flops } = emitMultiplyAdd(level, multiplyAdds);
    return [level, makeLoop(system, code, tasks * flops, { tasks, args: [] })] as const;
  });
  const arrays = [system.allocate(arrayBytes), system.allocate(arrayBytes)];
  for (const { bytes } of arrays) bytes.fill(1); // memory that was never written is one page of zeros
  const step = { tasks: arrayBytes / chunkBytes, args: arrays.map(({ address }) => address) };
  const moves = (Object.keys(traffic) as Traffic[]).map((kind) => {
    const units = traffic[kind].bytes * arrayBytes;
    return [kind, makeLoop(system, emitTraffic(isa, kind), units, step)] as const;
  });
  // Rounds over all loops, with pauses: another process can only make a run slower, and seldom all runs of one loop.
  for (let round = 0; round <= rounds; round++) {
    for (const [, loop] of [...peaks, ...moves]) {
      const before = performance.now();
      team.runSync(loop.job);
      if (round > 0) loop.least = Math.min(loop.least, performance.now() - before);
    }
    await setTimeout(pauseMs);
  }
  const rate = ({ units, least }: Loop) => (1000 * units) / least;
  const bytes = Object.fromEntries(moves.map(([kind, loop]) => [kind, rate(loop)])) as Record<Traffic, number>;
  return {
    cpu: features.name,
    isa,
    threads,
    flops: Object.fromEntries(peaks.map(([level, loop]) => [level, rate(loop)])),
    bytes: {
      read: bytes.read,
      write: Math.max(bytes.write, bytes.writeStreaming),
      copy: Math.max(bytes.copy, bytes.copyStreaming),
      triad: bytes.triad,
    },
  };
}
