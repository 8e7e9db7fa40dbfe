// Runs a Program as it stands, once: for programs that were read from MIL text and so have no graph to compile.

import { AbortedError, ConfigError } from "../core/errors.ts";
import type { Program } from "../ir/program.ts";
import { type Feed, type NDArray, readBuffer, writeFeed } from "./array.ts";
import type { Buffer, Engine } from "./engine.ts";

export interface ProgramRun {
  /** Results by name, in the program's order; they belong to the caller. */
  readonly results: ReadonlyMap<string, NDArray>;
  readonly loadMs: number;
  readonly runMs: number;
}

/**
 * Loads a program, runs it once and frees it again; the engine stays open.
 * @throws {ConfigError | ShapeError} for feeds that do not fit, {AbortedError} when the signal fires, and what the engine throws.
 */
export async function runProgram(
  program: Program,
  feeds: ReadonlyMap<string, Feed>,
  engine: Engine,
  { signal }: { readonly signal?: AbortSignal } = {},
): Promise<ProgramRun> {
  for (const name of feeds.keys()) {
    if (program.inputs.some((port) => port.name === name)) continue;
    const known = program.inputs.map((port) => port.name).join(", ") || "none";
    throw new ConfigError("run", `there is no input "${name}"; inputs: ${known}`);
  }
  const missing = program.inputs.filter(({ name }) => !feeds.has(name)).map(({ name }) => `"${name}"`);
  if (missing.length > 0) throw new ConfigError("run", `no feed for ${missing.join(", ")}`);
  const buffers = new Map<string, Buffer>();
  const started = performance.now();
  const executable = await engine.load(program);
  try {
    for (const { name, value } of [...program.inputs, ...program.outputs]) {
      const { dtype, shape } = program.values[value]!;
      buffers.set(name, engine.allocate({ dtype, shape }));
    }
    for (const [name, feed] of feeds) writeFeed(`input "${name}"`, buffers.get(name)!, feed);
    const binding = executable.bind(buffers);
    const loaded = performance.now();
    if (signal?.aborted) throw new AbortedError("run", signal);
    await binding.run(signal);
    const runMs = performance.now() - loaded;
    const results = new Map(program.outputs.map(({ name }) => [name, readBuffer(buffers.get(name)!) as NDArray]));
    return { results, loadMs: loaded - started, runMs };
  } finally {
    executable[Symbol.dispose]();
    for (const buffer of buffers.values()) buffer[Symbol.dispose]();
  }
}
