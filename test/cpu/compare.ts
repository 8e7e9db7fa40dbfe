// Runs one program on several engines and compares everything that it gives: results and state, run after run.

import { isFloat } from "../../src/core/dtype.ts";
import { unpackFloat16 } from "../../src/core/float16.ts";
import { createCpu } from "../../src/engines/cpu/index.ts";
import { cpuFeatures, type Isa, isasOf } from "../../src/engines/cpu/isa/features.ts";
import { openSystem } from "../../src/engines/os/index.ts";
import {
  AnekitError,
  type CompileOptions,
  compile,
  type Engine,
  type EngineChoice,
  type Feed,
  type NDArray,
} from "../../src/index.ts";
import type { RandomProgram } from "./programs.ts";

export interface CpuOptions {
  readonly isa?: Isa;
  readonly threads?: number;
  readonly strict?: boolean;
  readonly guard?: boolean;
}

/** An engine as the environment would make it. */
export function openCpu({ isa, threads, strict = false, guard = true }: CpuOptions = {}): Promise<Engine> {
  return createCpu("test", {
    ANEKIT_ISA: isa,
    ANEKIT_THREADS: threads?.toString(),
    ANEKIT_STRICT: strict ? "1" : "0",
    ANEKIT_GUARD: guard ? "1" : "0",
  });
}

/** Instruction sets that the engine runs with here, the best one last. */
export async function instructionSets(): Promise<readonly Isa[]> {
  try {
    return isasOf(cpuFeatures(await openSystem())).toReversed();
  } catch (error) {
    if (!(error instanceof AnekitError)) throw error;
    return [];
  }
}

type Bits = NDArray<"fp16" | "fp32" | "int32" | "bool", "bits">;

/** What a run gave: arrays by name, state too. */
export type Row = Readonly<Record<string, Bits>>;

/** Runs a program some times, awaited and in place in turn; the error's class where it fails. `initial` replaces first values of parameters. */
export async function rowsOf(
  program: Pick<RandomProgram, "outputs" | "update" | "feeds"> & Partial<Pick<RandomProgram, "initial">>,
  engine: Engine | EngineChoice,
  runs = 3,
  options: Pick<CompileOptions, "precision"> = {},
): Promise<Row[] | string> {
  const { outputs, update } = program;
  try {
    using compiled = await compile(outputs, { ...options, update, engine });
    const feeds = Object.fromEntries(Object.entries(program.feeds).filter(([name]) => compiled.plan.feeds.has(name)));
    for (const [state, values] of program.initial ?? [])
      if (compiled.state.has(state)) compiled.state.write(state, values);
    const rows: Row[] = [];
    for (let run = 0; run < runs; run++) {
      const results = run === 1 ? compiled.runSync(feeds, { as: "bits" }) : await compiled.run(feeds, { as: "bits" });
      const row: Record<string, Bits> = { ...(results as unknown as Row) };
      for (const [i, state] of [...update.keys()].entries())
        row[`state${i}`] = compiled.state.read(state, { as: "bits" }) as unknown as Bits;
      rows.push(row);
    }
    return rows;
  } catch (error) {
    if (error instanceof AnekitError && !error.message.includes("anekit bug")) return error.constructor.name;
    throw error;
  }
}

export function numbersOf({ dtype, data }: Bits): ArrayLike<number> {
  if (dtype !== "fp16") return data;
  const wide = new Float32Array(data.length);
  unpackFloat16(data as Uint16Array, wide);
  return wide;
}

/** How far element `i` may be from the expected one. */
export type Allowance = (run: number, name: string, i: number, want: number) => number;

const same: Allowance = () => 0;

/**
 * The first difference as text; undefined where there is none. NaNs equal each other; zeros do, unless `signs`.
 */
export function difference(
  got: Row[] | string,
  want: Row[] | string,
  { allowed = same, signs = false }: { allowed?: Allowance; signs?: boolean } = {},
): string | undefined {
  if (typeof got === "string" || typeof want === "string")
    return got === want ? undefined : `${describeRows(got)}, expected ${describeRows(want)}`;
  for (const [run, row] of want.entries()) {
    for (const [name, expected] of Object.entries(row)) {
      const array = got[run]![name]!;
      const [gs, ws] = [numbersOf(array), numbersOf(expected)];
      let first: string | undefined;
      let count = 0;
      for (let i = 0; i < ws.length; i++) {
        const [g, w] = [gs[i]!, ws[i]!];
        if (Object.is(g, w) || (!signs && g === w)) continue;
        if (isFloat(expected.dtype) && Math.abs(g - w) <= allowed(run, name, i, w)) continue;
        count++;
        first ??= `run ${run}: ${name} ${expected.dtype} [${expected.shape}]: element ${i} is ${g}, expected ${w}`;
      }
      if (first !== undefined) return `${first} (${count} of ${ws.length} differ)`;
    }
  }
  return undefined;
}

const describeRows = (rows: Row[] | string) => (typeof rows === "string" ? rows : "success");

/** The program with every number that floats are fed with, or start from, changed by at most the relative amount. */
export function perturbed(program: RandomProgram, relative: number): RandomProgram {
  const change = (values: Float32Array) => values.map((x, i) => x * (1 + relative * Math.cos(7 * i + 1)));
  const feeds = Object.entries(program.feeds).map(([name, feed]): [string, Feed] => [
    name,
    program.floatFeeds.has(name) ? change(feed as Float32Array) : feed,
  ]);
  const initial = new Map([...program.initial].map(([state, values]) => [state, change(values)]));
  return { ...program, feeds: Object.fromEntries(feeds), initial };
}
