// Chooses and opens engines; the only code that names an engine's folder, and it loads them when asked.

import { ConfigError, UnsupportedError } from "../core/errors.ts";
import type { Engine, EngineName } from "./engine.ts";

export const engineNames = ["ane", "cpu", "sim"] as const satisfies readonly EngineName[];

/** `auto` is the fastest engine that was proved on this machine. */
export type EngineChoice = EngineName | "auto";

/** Parses a user's choice. @throws {ConfigError} listing the engines. */
export function parseEngine(text: string): EngineChoice {
  if (text === "auto" || (engineNames as readonly string[]).includes(text)) return text as EngineChoice;
  throw new ConfigError("engine", `"${text}" is none of auto, ${engineNames.join(", ")}`);
}

const absent = {
  ane: "the Neural Engine driver is not part of this version",
  cpu: "the native-code CPU engine is not part of this version",
} as const;

/** What there is on this machine, for `doctor`. */
export function listEngines(): { readonly name: EngineName; readonly available: boolean; readonly reason: string }[] {
  return engineNames.map((name) =>
    name === "sim"
      ? { name, available: true, reason: "plain kernels with the Neural Engine's rounding; runs everywhere, slow" }
      : { name, available: false, reason: absent[name] },
  );
}

/**
 * Opens an engine. `auto` takes ANEKIT_ENGINE (passed as `override` by whoever reads the environment), else the fastest engine there is.
 * @throws {UnsupportedError} where the engine asked for is not available; no engine stands in for another in silence.
 */
export async function openEngine(choice: EngineChoice = "auto", override?: string): Promise<Engine> {
  const wanted = parseEngine(choice === "auto" && override ? override : choice);
  if (wanted === "cpu") {
    const { createCpu } = await import("./cpu/index.ts");
    return createCpu("asked for", (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env);
  }
  if (wanted === "ane") {
    throw new UnsupportedError("engine", `"${wanted}" is not available: ${absent[wanted]}`, {
      remedy: 'use engine "sim" or "auto"',
    });
  }
  const { createSim } = await import("./sim/index.ts");
  if (wanted === "sim") return createSim(choice === "sim" ? "asked for" : "ANEKIT_ENGINE");
  return createSim("the only engine of this version");
}
