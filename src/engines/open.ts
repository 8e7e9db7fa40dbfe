// Chooses and opens engines; the only code that names an engine's folder, and it loads them when asked.

import { ConfigError, EngineError, UnsupportedError } from "../core/errors.ts";
import type { Limits } from "./cpu/limits.ts";
import type { Engine, EngineName } from "./engine.ts";

export const engineNames = ["ane", "cpu", "sim"] as const satisfies readonly EngineName[];

/** `auto` is the fastest engine that was proved on this machine. */
export type EngineChoice = EngineName | "auto";

/** Parses a user's choice. @throws {ConfigError} listing the engines. */
export function parseEngine(text: string): EngineChoice {
  if (text === "auto" || (engineNames as readonly string[]).includes(text)) return text as EngineChoice;
  throw new ConfigError("engine", `"${text}" is none of auto, ${engineNames.join(", ")}`);
}

const absentAne = "the Neural Engine driver is not part of this version";

/** Variables that engines read. */
export type Environment = Readonly<Record<string, string | undefined>>;

function environmentOf(): Environment {
  return (globalThis as { process?: { env?: Environment } }).process?.env ?? {};
}

async function openCpu(reason: string): Promise<Engine> {
  const { createCpu } = await import("./cpu/index.ts");
  return createCpu(reason, environmentOf());
}

async function openSim(reason: string): Promise<Engine> {
  const { createSim } = await import("./sim/index.ts");
  return createSim(reason);
}

export type { Limits };

/** What this machine can do at most, measured by the CPU engine's code for some seconds, or `quick` and worthless; see cpu/limits.ts. */
export async function machineLimits(quick: boolean): Promise<Limits> {
  const { measureLimits } = await import("./cpu/limits.ts");
  return measureLimits(environmentOf(), quick);
}

/** One line on why something was refused. */
function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What there is on this machine, for `doctor`: the CPU engine is opened to find out. */
export async function listEngines(): Promise<
  { readonly name: EngineName; readonly available: boolean; readonly reason: string }[]
> {
  const cpu = await openCpu("native code").then(
    (engine) => {
      engine[Symbol.dispose]();
      return { name: "cpu" as const, available: true, reason: engine.reason };
    },
    (error) => ({ name: "cpu" as const, available: false, reason: messageOf(error) }),
  );
  return [
    { name: "ane", available: false, reason: absentAne },
    cpu,
    { name: "sim", available: true, reason: "plain kernels with the Neural Engine's rounding; runs everywhere, slow" },
  ];
}

/**
 * Opens an engine. `auto` takes ANEKIT_ENGINE (passed as `override` by whoever reads the environment), else the fastest engine that works here: the
 * CPU engine, or the simulator where native code cannot be generated or run; `reason` says which and why.
 * @throws {UnsupportedError} where the engine asked for is not available; no engine stands in for another that was asked for by name.
 */
export async function openEngine(choice: EngineChoice = "auto", override?: string): Promise<Engine> {
  const wanted = parseEngine(choice === "auto" && override ? override : choice);
  const asked = choice === "auto" ? "ANEKIT_ENGINE" : "asked for";
  switch (wanted) {
    case "ane":
      throw new UnsupportedError("engine", `"ane" is not available: ${absentAne}`, {
        remedy: 'use engine "cpu", "sim" or "auto"',
      });
    case "cpu":
      return openCpu(asked);
    case "sim":
      return openSim(asked);
    case "auto":
      try {
        return await openCpu("fastest engine here");
      } catch (error) {
        if (!(error instanceof EngineError || error instanceof UnsupportedError)) throw error; // a wrong setting, not a machine that cannot
        return openSim(`SLOW: no native code here (${error.message})`);
      }
  }
}
