// The capability probe: small known programs, run in another process with a time limit and compared with the simulator, decide whether the Neural
// Engine is used at all, in which spelling its compiler takes programs, and which of the disputed forms it computes rightly.

import { rmSync } from "node:fs";
import type { Chip } from "../../chips/index.ts";
import { packFloat16, unpackFloat16 } from "../../core/float16.ts";
import { RandomStream } from "../../core/random.ts";
import { sizeOf } from "../../core/shape.ts";
import { buildPlan, type Plan } from "../../ir/plan.ts";
import type { Program } from "../../ir/program.ts";
import { milFiles } from "../../mil/writer.ts";
import { ops } from "../../ops/index.ts";
import { type Dialect, legalize, type NativeForm, nativeForms, nativesOf } from "../../passes/legalize.ts";
import { applyOp } from "../../passes/rewrite.ts";
import { constant, input, parameter, type Tensor, where } from "../../tensor.ts";
import { Child } from "../os/child.ts";
import { bytesOf } from "../report.ts";
import type { Finding, Outcome, ProbeResult } from "./capabilities.ts";
import type { ProbeAnswer, ProbeRequest } from "./probe-process.ts";

/** Raised whenever the probe's programs or their judgement change: kept results of another revision are not used. */
export const probeRevision = 3;

/** Runs a program on the simulator: values of the outputs by name. */
export type Simulate = (
  program: Program,
  feeds: ReadonlyMap<string, Float32Array>,
) => Promise<ReadonlyMap<string, ArrayLike<number>>>;

interface Case {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly update?: ReadonlyMap<Tensor, Tensor>;
  /** Port that nothing reads, added to the program. */
  readonly unread?: string;
}

/** Numbers between -1 and 1, the same at every run. */
function numbers(name: string, count: number): Float32Array<ArrayBuffer> {
  const random = new RandomStream(1, `probe ${name}`);
  return Float32Array.from({ length: count }, (_, i) => 2 * random.at(i) - 1);
}

function fixed(name: string, ...shape: number[]): Tensor {
  return constant(numbers(name, sizeOf(shape)), shape);
}

function fed(name: string, ...shape: number[]): Tensor {
  return input(shape, { name });
}

/** What every program needs: a product with a constant, sums, a nonlinearity, two inputs, two outputs. */
function base(): Case {
  const hidden = fed("x", 32, 64)
    .matmul(fixed("w", 64, 48))
    .add(fed("y", 32, 48))
    .relu();
  return { outputs: { hidden, parts: hidden.softmax(-1) } };
}

/** A program for each form that sources disagree about; shapes are those that were disputed. */
const formCases = {
  concat: () => ({ outputs: { z: fed("x", 32, 48).concat([fed("y", 32, 16)], 1) } }),
  reduceMean: () => ({ outputs: { z: fed("x", 32, 48).mean(1, { keepDims: true }) } }),
  gelu: () => ({ outputs: { z: fed("x", 32, 48).gelu() } }),
  // Tensor.conv adds the bias to the result: only the record has it as an operand.
  convBias: () => {
    const operands = [fed("x", 1, 16, 16, 16), fixed("w", 8, 16, 3, 3), fixed("b", 8)];
    return { outputs: { z: applyOp(ops.conv, operands, { padType: "same" })[0]! } };
  },
  softmaxChannels: () => ({ outputs: { z: fed("x", 1, 24, 1, 32).softmax(1) } }),
  layerNorm: () => ({
    outputs: { z: fed("x", 32, 48).layerNorm({ axes: [1], gamma: fixed("gamma", 48), beta: fixed("beta", 48) }) },
  }),
  stridedSlice: () => ({
    outputs: { z: fed("x", 32, 48).sliceByIndex([0, 0], [32, 48], { stride: [2, 3] }) },
  }),
  selectBroadcast: () => ({
    outputs: { z: where(fed("x", 32, 48).greater(0), fed("y", 1, 48), fed("flag", 1)) },
  }),
  boolCast: () => ({
    outputs: {
      z: fed("x", 32, 48)
        .greater(0)
        .cast("fp16")
        .add(fed("y", 32, 48)),
    },
  }),
  identity: () => {
    const x = fed("x", 32, 48);
    return { outputs: { z: x, twice: x.mul(2) } };
  },
  unevenContraction: () => ({ outputs: { z: fed("x", 32, 40).matmul(fixed("w", 40, 48)) } }),
  transposeChain: () => ({
    outputs: { z: fed("x", 8, 6, 32).transpose([1, 0, 2]).reshape([6, 256]).transpose([1, 0]) },
  }),
  floorTimesConstant: () => ({ outputs: { z: fed("x", 32, 48).mul(10).floor().mul(0.25) } }),
  unreadInputs: () => ({ outputs: { z: fed("x", 32, 48).mul(2) }, unread: "unread" }),
  constantOutputs: () => ({ outputs: { z: fed("x", 32, 48).mul(2), still: fixed("c", 32, 48).mul(3) } }),
} as const satisfies Readonly<Record<NativeForm, () => Case>>;

const aliasRuns = 3;

/** State that is replaced in place: after some runs it holds the sum of what was fed. */
function aliasing(): Case {
  const state = parameter(0, [32, 48], { name: "state" });
  const next = state.add(fed("x", 32, 48));
  return { outputs: { z: next.mul(2) }, update: new Map([[state, next]]) };
}

function planOf({ outputs, update = new Map(), unread }: Case): { plan: Plan; program: Program } {
  const plan = buildPlan({ outputs: new Map(Object.entries(outputs)), updates: update });
  const { program } = plan.stages[0]!;
  if (unread === undefined) return { plan, program };
  const { values, inputs } = program;
  const value = values.length;
  const padded = { ...program, values: [...values, { dtype: "fp16", shape: [32, 48] } as const] };
  return { plan, program: { ...padded, inputs: [...inputs, { name: unread, value }] } };
}

/** Limits of one program: compiling takes seconds at worst on every chip measured. */
const caseLimitMs = 30_000;
/** Crashes and hangs before the rest is not asked any more. */
const maxLosses = 2;

/** Largest differences from the simulator that count as right: tables of activations are worst, at 0.006 (published). */
const [absolute, relative] = [0.02, 0.02];

function compare(
  outputs: Readonly<Record<string, Uint8Array>>,
  expected: ReadonlyMap<string, ArrayLike<number>>,
): { outcome: Outcome; detail: string } {
  let worst = 0;
  for (const [name, wanted] of expected) {
    const bytes = outputs[name]!;
    const got = new Float32Array(wanted.length);
    unpackFloat16(new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)), got);
    if (got.some((value) => !Number.isFinite(value))) return { outcome: "not finite", detail: `output ${name}` };
    if (got.every((value) => value === 0)) return { outcome: "zeros", detail: `output ${name}` };
    for (const [i, value] of got.entries()) {
      const error = Math.abs(value - wanted[i]!);
      worst = Math.max(worst, error / (absolute + relative * Math.abs(wanted[i]!)));
    }
  }
  return { outcome: worst <= 1 ? "right" : "wrong", detail: `largest difference ${worst.toPrecision(2)} of the bound` };
}

export interface ProbeSettings {
  readonly library: string;
  /** Folder for the programs, and for nothing else; removed at the end, since the process in it may be lost. */
  readonly folder: string;
  readonly chip: Chip;
  readonly subject: readonly string[];
  readonly simulate: Simulate;
  /** Pause after a refused program before the next counts, in milliseconds; 0 for none. */
  readonly pauseMs: number;
  readonly limitMs?: number;
  /** Called before each program. */
  readonly progress?: (name: string) => void;
}

/** Asks the compiler of this machine. Takes seconds to a minute; never takes this process down. */
export async function probe(settings: ProbeSettings): Promise<ProbeResult> {
  const { chip, subject, simulate, pauseMs, progress } = settings;
  const child = new Child<ProbeRequest, ProbeAnswer>({
    module: "engines/ane/probe-process",
    args: [settings.library, settings.folder],
    limitMs: settings.limitMs ?? caseLimitMs,
  });
  const findings: Finding[] = [];
  const attempt = async (made: Case, dialect: Dialect): Promise<{ outcome: Outcome; detail: string }> => {
    const { plan, program } = planOf(made);
    const legal = legalize(program, chip, dialect);
    const feeds = new Map(
      program.inputs.map(({ name, value }) => {
        const state = plan.states.some(({ buffer }) => buffer === name);
        const count = sizeOf(program.values[value]!.shape);
        return [name, state ? new Float32Array(count) : numbers(name, count)];
      }),
    );
    const expected = new Map(await simulate(program, feeds));
    const aliases: Record<string, string> = {};
    for (const { buffer, next, mode } of plan.states) {
      if (mode === "read-only") continue;
      // The name of the port that replaces the state.
      const [port] = [...plan.stages[0]!.buffers].find(([name, bound]) => bound === next && name !== buffer)!;
      aliases[port] = buffer;
      expected.set(
        port,
        Float32Array.from(feeds.get("x")!, (value) => aliasRuns * value),
      );
      expected.set(
        "z",
        Float32Array.from(feeds.get("x")!, (value) => 2 * aliasRuns * value),
      );
    }
    const { text, weights } = milFiles(legal, { dialect: dialect.syntax });
    const answer = await child.run({
      mil: text,
      weights,
      inputs: Object.fromEntries([...feeds].map(([name, values]) => [name, halves(values)])),
      outputs: Object.fromEntries(legal.outputs.map(({ name, value }) => [name, bytesOf(legal.values[value]!)])),
      aliases,
      runs: plan.states.length > 0 ? aliasRuns : 1,
    });
    if ("outcome" in answer) return answer;
    if ("error" in answer) return { outcome: "refused", detail: answer.error };
    return compare(answer.outputs, expected);
  };
  let refused = false;
  const ask = async (name: string, made: Case, dialect: Dialect): Promise<boolean> => {
    if (child.losses >= maxLosses) {
      findings.push({ name, outcome: "refused", detail: "not asked: other programs crashed or hung", ms: 0 });
      return false;
    }
    progress?.(name);
    const started = performance.now();
    let result = await attempt(made, dialect);
    if (result.outcome === "refused" && refused && pauseMs > 0) {
      // A refusal restarts the compiler service, which then refuses good programs, too: only one after a pause counts.
      child.stop();
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
      result = await attempt(made, dialect);
    }
    refused = result.outcome === "refused";
    findings.push({ name, ...result, ms: Math.round(performance.now() - started) });
    return result.outcome === "right";
  };

  const none = nativesOf(false);
  const natives = { ...none };
  let syntax: Dialect["syntax"] | undefined;
  let aliased = false;
  try {
    for (const each of ["modern", "verbose"] as const) {
      if (syntax === undefined && (await ask(`${each} syntax`, base(), { syntax: each, natives: none }))) syntax = each;
    }
    if (syntax !== undefined) {
      for (const form of Object.keys(nativeForms) as NativeForm[]) {
        natives[form] = await ask(form, formCases[form](), { syntax, natives: { ...none, [form]: true } });
      }
      aliased = await ask("aliasing", aliasing(), { syntax, natives: none });
    }
  } finally {
    child.close();
    rmSync(settings.folder, { recursive: true, force: true, maxRetries: 3 });
  }
  const [first] = findings;
  const reason =
    syntax === undefined
      ? `the probe's first program: ${first!.outcome} (${first!.detail.split("\n")[0]})`
      : `${findings.filter(({ outcome }) => outcome === "right").length} of ${findings.length} probes right`;
  return {
    subject: [...subject],
    usable: syntax !== undefined,
    reason,
    syntax: syntax ?? "modern",
    natives,
    aliasing: aliased,
    findings,
    at: new Date().toISOString(),
  };
}

function halves(values: Float32Array): Uint8Array {
  const bits = new Uint16Array(values.length);
  packFloat16(values, bits);
  return new Uint8Array(bits.buffer);
}
