// The process that multiplies matrices by Accelerate and by the engine's own kernels, compares and times them: what it does in there may crash or hang.

import { invariant, messageOf } from "../../core/errors.ts";
import { answerRequests } from "../os/child.ts";
import { type Accelerate, findAccelerate, type NativeMemory, openSystem } from "../os/index.ts";
import { Job, type Step } from "./driver/job.ts";
import { Team } from "./driver/team.ts";
import type { Isa } from "./isa/features.ts";
import { newCode } from "./isa/new-code.ts";
import { type GemmArgument, type GemmPlan, type GemmSpec, planGemm } from "./kernels/gemm.ts";
import type { StepPlan } from "./kernels/step.ts";

/** A product to compute both ways. */
export interface AccelerateRequest {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch: number;
  /** Operands that are stored by columns. */
  readonly byColumn?: { readonly a: boolean; readonly b: boolean; readonly c: boolean };
  /** Elements between rows. */
  readonly gap?: number;
  /** Whether it is to be timed, too. */
  readonly timed: boolean;
}

export type AccelerateAnswer =
  | {
      /** Largest difference of the results, as a share of what rounding explains. */
      readonly difference: number;
      /** Fewest milliseconds; 0 where that was not asked. */
      readonly oursMs: number;
      readonly theirsMs: number;
    }
  | { readonly error: string };

/** Times of both ways in turn: at least so often, then until the time is spent. */
const [fewestRounds, mostRounds, roundsMs] = [3, 15, 100] as const;
/** Operations that one timing takes at least: less is shorter than what surrounds it. */
const timedFlops = 4e6;

const [library, isa, threads] = process.argv.slice(3) as [string, Isa, string];
const system = await openSystem();
const found = findAccelerate(system, library);
invariant("sgemm" in found, () => `no cblas_sgemm in ${library}`);
const { sgemm } = found as Accelerate;
const always = { "few rows": 0, batch: 0, single: 0 } as const;
const team = new Team(system, { threads: Number(threads) });

/** Numbers between -1 and 1, the same in every run. */
function fill(values: Float32Array): void {
  let state = 1;
  for (let i = 0; i < values.length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) | 0;
    values[i] = state / 2 ** 31;
  }
}

/** The steps of a plan over the operands, so many times. */
function jobOf(
  plan: GemmPlan,
  addresses: Readonly<Record<"a" | "b" | "c", number>>,
  held: Disposable[],
): (repeats: number) => Job {
  const keep = <T extends Disposable>(resource: T): T => {
    held.push(resource);
    return resource;
  };
  const temps = plan.temps.map((bytes) => keep(system.allocate(bytes)).address);
  const stepOf = ({ emit, tasks, args }: StepPlan<GemmArgument>): Step => {
    const code = newCode(isa);
    emit(code);
    const kernel = keep(system.code(code.finish())).address;
    return {
      kernel,
      tasks,
      args: args.map((arg) => (typeof arg === "object" ? temps[arg.temp]! : addresses[arg as keyof typeof addresses])),
    };
  };
  team.reserveScratch(plan.scratchBytes);
  const steps = plan.steps.map(stepOf);
  return (repeats) => keep(new Job(system, Array.from({ length: repeats }, () => steps).flat()));
}

/** Computes a product both ways; what it uses is left in `held`. */
function multiply(request: AccelerateRequest, held: Disposable[]): AccelerateAnswer {
  const { m, n, k, batch, byColumn = { a: false, b: false, c: false }, gap = 0, timed } = request;
  const operand = (rows: number, columns: number, transposed: boolean) => {
    const [count, length] = transposed ? [columns, rows] : [rows, columns];
    const step = length + gap;
    const size = step * count * batch - gap;
    // Its end is at a guard page: whoever reads beyond it is found out.
    const memory: NativeMemory = system.allocate(4 * size, { tight: true });
    held.push(memory);
    const values = new Float32Array(memory.bytes.buffer, memory.bytes.byteOffset, size);
    const strides = { dtype: "fp32", row: transposed ? 1 : step, column: transposed ? step : 1 } as const;
    return { values, address: memory.address, matrix: { ...strides, batch: [step * count] } };
  };
  const a = operand(m, k, byColumn.a);
  const b = operand(k, n, byColumn.b);
  const ours = operand(m, n, byColumn.c);
  const theirs = operand(m, n, byColumn.c);
  fill(a.values);
  fill(b.values);
  // What the results hold before is not to be read.
  ours.values.fill(Number.NaN);
  theirs.values.fill(Number.NaN);
  const spec: GemmSpec = { m, n, k, batch: [batch], a: a.matrix, b: b.matrix, c: ours.matrix };
  const addresses = { a: a.address, b: b.address };
  const oursOf = jobOf(planGemm(spec, isa, team.threads), { ...addresses, c: ours.address }, held);
  const planned = planGemm(spec, isa, team.threads, { library, address: sgemm, from: always });
  const theirsOf = jobOf(planned, { ...addresses, c: theirs.address }, held);
  team.runSync(oursOf(1));
  team.runSync(theirsOf(1));
  let difference = 0;
  // Sums of k numbers below 1, in another order; coarser factors than fp32 would show by far.
  const bound = k * 2 ** -24;
  for (const [i, value] of ours.values.entries()) {
    const other = theirs.values[i]!;
    if (Number.isNaN(value) && Number.isNaN(other)) continue; // between rows
    const distance = Math.abs(value - other) / bound;
    if (!(distance <= difference)) difference = Number.isNaN(distance) ? Number.POSITIVE_INFINITY : distance;
  }
  if (!timed) return { difference, oursMs: 0, theirsMs: 0 };

  const repeats = Math.max(1, Math.round(timedFlops / (2 * m * n * k * batch)));
  const jobs = [oursOf(repeats), theirsOf(repeats)] as const;
  // Another process can only make a run slower.
  const least: [number, number] = [Infinity, Infinity];
  const started = performance.now();
  for (let round = -1; round < mostRounds; round++) {
    for (const way of [0, 1] as const) {
      const before = performance.now();
      team.runSync(jobs[way]);
      if (round >= 0) least[way] = Math.min(least[way], (performance.now() - before) / repeats);
    }
    if (round + 1 >= fewestRounds && performance.now() - started > roundsMs) break;
  }
  return { difference, oursMs: least[0], theirsMs: least[1] };
}

answerRequests(
  (seconds) => system.endAfter(seconds),
  (request: AccelerateRequest): AccelerateAnswer => {
    const held: Disposable[] = [];
    try {
      return multiply(request, held);
    } catch (error) {
      return { error: messageOf(error) };
    } finally {
      for (const resource of held.toReversed()) resource[Symbol.dispose]();
    }
  },
);
