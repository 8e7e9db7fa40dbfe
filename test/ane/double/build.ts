// Builds the double of Espresso into a cache folder, once for each state of its sources, and gives the environment that it runs in.

import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { buildLibrary, Missing } from "../../c-library.ts";

const here = fileURLToPath(new URL(".", import.meta.url));

export { Missing };

export interface BuildOptions {
  /** Functions that the library lacks, as older or newer systems do. */
  readonly without?: readonly string[];
}

/** Path of the library, built if it is not there yet. @throws {Missing} where there is no C compiler */
export function buildDouble({ without = [] }: BuildOptions = {}): string {
  const flags: string[] = [];
  if (process.platform === "linux") flags.push("-Wl,-z,nodelete"); // threads run its code when they end
  return buildLibrary({ name: "anekit-double", folder: "test/ane/double", flags, without });
}

export interface EnvironmentOptions {
  /** File that collects violations and leftovers of every process. */
  readonly report?: string;
  /** File for the simulator's own complaints. */
  readonly log?: string;
}

/**
 * Variables for a process that loads the double. In this process they must be set before the library is loaded, and on the main thread: the
 * environment of a worker is a copy that C code does not see.
 * @param config as in ESPRESSO_DOUBLE, see espresso.c and quirks.ts
 */
export function doubleEnvironment(
  config = "",
  { report, log }: EnvironmentOptions = {},
): Readonly<Record<string, string>> {
  const loader = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
  const command = [process.execPath, "--import", loader, join(here, "simulate.ts")];
  return {
    ESPRESSO_DOUBLE: config,
    ESPRESSO_DOUBLE_SIMULATOR: command.join("\n"),
    ...(report === undefined ? {} : { ESPRESSO_DOUBLE_REPORT: report }),
    ...(log === undefined ? {} : { ESPRESSO_DOUBLE_LOG: log }),
  };
}
