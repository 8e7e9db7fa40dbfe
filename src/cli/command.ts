// What a command is to the command line, and what commands that run programs share.
// To add one: a file with `configure`, and a line in the table of main.ts.

import { type Command, Option } from "commander";
import type { Engine } from "../engines/engine.ts";
import { engineNames, openEngine, parseEngine } from "../engines/open.ts";
import { note } from "./output.ts";

/** What every command gets. */
export interface CommandContext {
  /** Fires at Ctrl-C and when nobody reads stdout any more; the command saves what it must and returns or throws. */
  readonly signal: AbortSignal;
}

/** What the file of a command exports. */
export interface CommandModule {
  /** Declares arguments and options, and the action. The name and the summary stand in main.ts. */
  configure(command: Command, context: CommandContext): void;
}

/** `--engine`, for commands that run programs. */
export function engineOption(): Option {
  return new Option("--engine <name>", `what runs it: auto, ${engineNames.join(", ")}`).default("auto");
}

/** `--json`. */
export function jsonOption(): Option {
  return new Option("--json", "print one JSON object per line on stdout");
}

/** Milliseconds after which a first use is explained. */
const explainAfterMs = 1500;

/** Opens the engine that `--engine` (or, for auto, ANEKIT_ENGINE) names. Says on stderr what takes so long where one is used for the first time. */
export async function openPatiently(choice: string): Promise<Engine> {
  const timer = setTimeout(
    () => note("finding out what this machine can do, which happens once; anekit doctor shows it …"),
    explainAfterMs,
  );
  try {
    return await openEngine(parseEngine(choice));
  } finally {
    clearTimeout(timer);
  }
}

/** The same, and says on stderr which engine it is and why. */
export async function openNamedEngine(choice: string): Promise<Engine> {
  const engine = await openPatiently(choice);
  note(`engine: ${engine.name} (${engine.reason})`);
  return engine;
}
