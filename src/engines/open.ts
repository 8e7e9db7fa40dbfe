// Chooses and opens engines; the only code that names an engine's folder, and it loads them when asked.

import { ConfigError, EngineError, messageOf, UnsupportedError } from "../core/errors.ts";
import type { Fact } from "./ane/facts.ts";
import type { AneState, ProbeOptions } from "./ane/index.ts";
import type { AccelerateState } from "./cpu/accelerate.ts";
import type { Limits } from "./cpu/limits.ts";
import type { Engine, EngineName } from "./engine.ts";
import { runProgram } from "./run-program.ts";

export const engineNames = ["ane", "cpu", "sim"] as const satisfies readonly EngineName[];

/** `auto` is the fastest engine that was proved on this machine. */
export type EngineChoice = EngineName | "auto";

/** Parses a user's choice. @throws {ConfigError} listing the engines. */
export function parseEngine(text: string): EngineChoice {
  if (text === "auto" || (engineNames as readonly string[]).includes(text)) return text as EngineChoice;
  throw new ConfigError("engine", `"${text}" is none of auto, ${engineNames.join(", ")}`);
}

/** Variables that engines read. */
export type Environment = Readonly<Record<string, string | undefined>>;

function environmentOf(): Environment {
  return (globalThis as { process?: { env?: Environment } }).process?.env ?? {};
}

/** What the probe needs: the simulator to compare with. */
async function probeOptions(): Promise<ProbeOptions> {
  const engine = await openSim("for the probe");
  return {
    simulate: async (program, feeds) => {
      const { results } = await runProgram(program, feeds, engine);
      return new Map([...results].map(([name, { data }]) => [name, data]));
    },
  };
}

async function openAne(reason: string): Promise<Engine> {
  const { createAne } = await import("./ane/index.ts");
  return createAne(reason, environmentOf(), await probeOptions());
}

/** True where a Neural Engine may be: everywhere else its code is not even loaded. */
function mayHaveAne(): boolean {
  const { platform } = (globalThis as { process?: { platform?: string } }).process ?? {};
  return platform === "darwin" || Boolean(environmentOf().ANEKIT_ESPRESSO);
}

export type { AneState };

/** What is known of this machine's Neural Engine; `probe` asks its compiler where that was not done yet, or "fresh": again. */
export async function examineNeuralEngine(
  probe?: "once" | "fresh",
  progress?: (name: string) => void,
): Promise<AneState> {
  const { examineAne } = await import("./ane/index.ts");
  if (probe === undefined) return examineAne(environmentOf());
  const options = { ...(await probeOptions()), fresh: probe === "fresh", ...(progress !== undefined && { progress }) };
  return examineAne(environmentOf(), options);
}

async function openCpu(reason: string): Promise<Engine> {
  const { createCpu } = await import("./cpu/index.ts");
  return createCpu(reason, environmentOf());
}

async function openSim(reason: string): Promise<Engine> {
  const { createSim } = await import("./sim/index.ts");
  return createSim(reason);
}

export type { AccelerateState };

/** What of the CPU engine's work goes to Apple's Accelerate; `probe` as above: finds out where that was not done yet, or again. */
export async function examineAccelerate(
  probe: "once" | "fresh",
  progress?: (name: string) => void,
): Promise<AccelerateState> {
  const cpu = await import("./cpu/index.ts");
  return cpu.examineAccelerate(environmentOf(), {
    fresh: probe === "fresh",
    ...(progress !== undefined && { progress }),
  });
}

export type { Limits };

/** What this machine can do at most, measured by the CPU engine's code for some seconds, or `quick` and worthless; see cpu/limits.ts. */
export async function machineLimits(quick: boolean): Promise<Limits> {
  const { measureLimits } = await import("./cpu/limits.ts");
  return measureLimits(environmentOf(), quick);
}

/** What is known of the Neural Engine, for whoever holds it against a run; see ane/facts.ts. */
export async function aneFacts(): Promise<readonly Fact[]> {
  return (await import("./ane/facts.ts")).facts;
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
  const { available, reason } = await examineNeuralEngine();
  return [
    { name: "ane", available, reason },
    cpu,
    { name: "sim", available: true, reason: "plain kernels with the Neural Engine's rounding; runs everywhere, slow" },
  ];
}

/**
 * Opens an engine. `auto` takes ANEKIT_ENGINE, else the Neural Engine where the probe of its compiler came out right, else the CPU engine, or the
 * simulator where native code cannot be generated or run; `reason` says which and why.
 * @throws {UnsupportedError} where the engine asked for is not available; no engine stands in for another that was asked for by name.
 */
export async function openEngine(choice: EngineChoice = "auto"): Promise<Engine> {
  const wanted = parseEngine(choice === "auto" ? environmentOf().ANEKIT_ENGINE || choice : choice);
  const asked = choice === "auto" ? "ANEKIT_ENGINE" : "asked for";
  switch (wanted) {
    case "ane":
      return openAne(asked);
    case "cpu":
      return openCpu(asked);
    case "sim":
      return openSim(asked);
    case "auto": {
      let without = "";
      try {
        if (mayHaveAne()) return await openAne("the probe's programs came out right");
      } catch (error) {
        if (!isUnavailable(error)) throw error;
        without = `${firstLine(error)}; `;
      }
      try {
        return await openCpu(`${without}fastest engine here`);
      } catch (error) {
        if (!isUnavailable(error)) throw error;
        return openSim(`SLOW: ${without}no native code here (${error.message})`);
      }
    }
  }
}

/** An engine for a while: opened by name, and closed at the end, or somebody else's. */
export async function borrowEngine(
  choice: EngineChoice | Engine = "auto",
): Promise<Disposable & { readonly engine: Engine }> {
  if (typeof choice !== "string") return { engine: choice, [Symbol.dispose]() {} };
  const engine = await openEngine(choice);
  return { engine, [Symbol.dispose]: () => engine[Symbol.dispose]() };
}

/** True for what a machine cannot, false for a wrong setting. */
function isUnavailable(error: unknown): error is EngineError | UnsupportedError {
  return error instanceof EngineError || error instanceof UnsupportedError;
}

function firstLine(error: Error): string {
  return error.message.split("\n")[0]!;
}
