// The processes that are compared: each prepares itself, says so, and then makes one timed call for every line that it reads.

import { type ChildProcessWithoutNullStreams, execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as v from "valibot";
import { AbortedError, EngineError, messageOf } from "../core/errors.ts";
import { packageFile } from "../data/package.ts";
import type { Limits } from "../engines/open.ts";
import type { CaseSpec } from "./bench-cases.ts";

const hello = v.object({ peer: v.string(), prepare: v.number() });
const answer = v.object({ seconds: v.number(), memory: v.number(), cpu: v.number() });
/** Seconds of one repetition, the process's largest resident set so far in bytes, and its processor time so far in seconds. */
export type Answer = v.InferOutput<typeof answer>;

/** A library that another process measures, by the script in bench/peers that does it. */
export interface PeerSpec {
  readonly title: string;
  /** What to install for it. */
  readonly library: string;
  readonly script: string;
  readonly config: Readonly<Record<string, unknown>>;
}

/** Why something cannot be measured here. */
export class Missing extends Error {}

/** Variables that tell every library its number of threads. */
function threadVariables(threads: number): Record<string, string> {
  const names = [
    "ANEKIT_BENCH_THREADS",
    "ANEKIT_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
  ];
  return Object.fromEntries(names.map((name) => [name, String(threads)]));
}

/** A process that measures, ready to. */
export class Measured {
  /** Its name and version. */
  readonly name: string;
  /** Seconds until it was ready: loading, building, compiling, warming up. */
  readonly prepare: number;
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;

  private constructor(
    child: ChildProcessWithoutNullStreams,
    lines: AsyncIterator<string>,
    { peer, prepare }: v.InferOutput<typeof hello>,
  ) {
    this.#child = child;
    this.#lines = lines;
    this.name = peer;
    this.prepare = prepare;
  }

  /** @throws {Missing} with the last line of stderr where it ends before it is ready. */
  static async start(
    command: string,
    args: readonly string[],
    env: NodeJS.ProcessEnv,
    signal: AbortSignal,
  ): Promise<Measured> {
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: "pipe" });
    const stop = () => void child.kill("SIGKILL");
    signal.addEventListener("abort", stop);
    child.once("exit", () => signal.removeEventListener("abort", stop));
    let last = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      last = text.trim().split("\n").at(-1) || last;
    });
    const failed = new Promise<never>((_resolve, reject) => child.on("error", reject));
    failed.catch(() => {});
    child.stdin.on("error", () => {}); // a peer that died is noticed where its answer is missing
    const lines = answers(createInterface({ input: child.stdout }));
    try {
      const first = await Promise.race([lines.next(), failed]);
      if (first.done) throw new Missing(last || "it ended at once");
      return new Measured(child, lines, v.parse(hello, JSON.parse(first.value)));
    } catch (error) {
      child.kill("SIGKILL");
      if (signal.aborted) throw new AbortedError("bench", signal);
      if (error instanceof Missing) throw error;
      throw new Missing(messageOf(error));
    }
  }

  /** Makes the timed call. */
  async measure(repetitions: number, signal: AbortSignal): Promise<Answer> {
    this.#child.stdin.write(`${repetitions}\n`);
    const next = await this.#lines.next();
    if (signal.aborted) throw new AbortedError("bench", signal);
    if (next.done) throw new EngineError("bench", `${this.name} ended in the middle of a measurement`);
    return v.parse(answer, JSON.parse(next.value));
  }

  /** Waits until the process has ended: what it does at its end must not disturb the next one. */
  async close(): Promise<void> {
    const child = this.#child;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.stdin.end();
    const late = setTimeout(() => child.kill("SIGKILL"), 5000);
    await ended;
    clearTimeout(late);
  }
}

/** Lines that are objects; libraries may print others. */
async function* answers(lines: AsyncIterable<string>): AsyncGenerator<string, undefined> {
  for await (const line of lines) if (line.startsWith("{")) yield line;
  return undefined;
}

export interface Setting {
  readonly engine: string;
  readonly threads: number;
  readonly signal: AbortSignal;
}

/** Node's arguments for this command in another process, which serves a case. */
function command(served: string): string[] {
  return [...process.execArgv, process.argv[1]!, "bench", "--serve", served];
}

/** A case in a process of its own: its memory and threads alone. */
export function startOurs(spec: CaseSpec, { engine, threads, signal }: Setting): Promise<Measured> {
  const args = [...command(JSON.stringify(spec)), "--engine", engine];
  return Measured.start(process.execPath, args, threadVariables(threads), signal);
}

/** @throws {Missing} where only the published package is installed. */
function repositoryFile(path: string): string {
  try {
    return fileURLToPath(packageFile(path, "use anekit's repository"));
  } catch (error) {
    throw new Missing(messageOf(error));
  }
}

/** The Python that has the peers: ANEKIT_BENCH_PYTHON, or the one that `npm run bench` made. @throws {Missing} */
export function peerPython(): string {
  const { ANEKIT_BENCH_PYTHON: named } = process.env;
  if (named) return named;
  const folder = fileURLToPath(new URL(".", packageFile("package.json", "install the package again")));
  const python = join(
    folder,
    "node_modules/.cache/anekit-bench/venv",
    process.platform === "win32" ? "Scripts" : "bin",
  );
  const path = join(python, process.platform === "win32" ? "python.exe" : "python");
  if (!existsSync(path)) throw new Missing("its Python environment is not there");
  return path;
}

/**
 * OpenBLAS's threads go on spinning for 2^28 ticks after a call (some 100 ms), on the cores of whoever is next in turn; 2^20 bridge the gap between
 * two of its own calls. libgomp's, under PyTorch, sleep within the pause.
 */
const shortSpin = { OPENBLAS_THREAD_TIMEOUT: "20" };

/** @throws {Missing} where the library or the script is not installed. */
export function startPeer({ script, config }: PeerSpec, { threads, signal }: Setting): Promise<Measured> {
  const path = repositoryFile(`bench/peers/${script}.py`);
  const env = { ...threadVariables(threads), ...shortSpin, PYTHONDONTWRITEBYTECODE: "1" };
  return Measured.start(peerPython(), [path, JSON.stringify(config)], env, signal);
}

const machine: v.GenericSchema<unknown, Limits> = v.object({
  cpu: v.string(),
  isa: v.string(),
  threads: v.number(),
  flops: v.record(v.string(), v.number()),
  bytes: v.object({ read: v.number(), write: v.number(), copy: v.number(), triad: v.number() }),
});

/** `--serve` of the process that measures the machine's limits: nothing else may run in it. */
export const limitsCase = "limits";

/** The machine's limits, measured in another process. @throws {Missing} where no code can be generated. */
export async function serveLimits(tiny: boolean, { threads, signal }: Omit<Setting, "engine">): Promise<Limits> {
  const env = { ...process.env, ...threadVariables(threads) };
  const args = [...command(limitsCase), ...(tiny ? ["--tiny"] : [])];
  try {
    const { stdout } = await promisify(execFile)(process.execPath, args, { env, signal });
    return v.parse(machine, JSON.parse(stdout));
  } catch (error) {
    if (signal.aborted) throw new AbortedError("bench", signal);
    const { stderr, signal: killer } = error as { readonly stderr?: string; readonly signal?: string };
    const last = stderr
      ?.trim()
      .split("\n")
      .findLast((line) => !line.startsWith("Node.js v"));
    throw new Missing(last || (killer ? `its process was ended by ${killer}` : String(error)));
  }
}

/** Answers like a peer until stdin ends. `work` is one repetition. */
export async function serve(peer: string, work: () => unknown, started: number): Promise<void> {
  const say = (message: object) => process.stdout.write(`${JSON.stringify(message)}\n`);
  say({ peer, prepare: (performance.now() - started) / 1000 });
  for await (const line of createInterface({ input: process.stdin })) {
    const repetitions = Number(line);
    const before = performance.now();
    for (let i = 0; i < repetitions; i++) {
      const result = work();
      if (result instanceof Promise) await result;
    }
    const seconds = (performance.now() - before) / 1000 / repetitions;
    const { user, system } = process.cpuUsage();
    say({ seconds, memory: process.resourceUsage().maxRSS * 1024, cpu: (user + system) / 1e6 });
  }
}
