#!/usr/bin/env node
// The command line's entry: the table of commands, and how errors, Ctrl-C and closed pipes become exit codes.

import { Command, CommanderError } from "commander";
import picocolors from "picocolors";
import { AbortedError, AnekitError, FileError, messageOf } from "../core/errors.ts";
import { packageVersion } from "../data/package.ts";
import type { CommandModule } from "./command.ts";
import { complain } from "./output.ts";

/** Summaries stand here so that `anekit --help` loads no command. */
const commands: Readonly<Record<string, { readonly summary: string; load(): Promise<CommandModule> }>> = {
  demo: {
    summary: "train a small transformer on real text and let it complete a sentence",
    load: () => import("./demo.ts"),
  },
  train: { summary: "train a GPT on text files, or a classifier on images", load: () => import("./train.ts") },
  data: { summary: "list and download data sets", load: () => import("./data.ts") },
  generate: { summary: "continue a text with a trained model", load: () => import("./generate.ts") },
  run: { summary: "run a MIL program", load: () => import("./run.ts") },
  inspect: { summary: "show what a program, weight, tensor or array file holds", load: () => import("./inspect.ts") },
  doctor: { summary: "show what this machine has and which engines it can use", load: () => import("./doctor.ts") },
  selftest: {
    summary: "verify an engine on this machine, and what is known of the Neural Engine",
    load: () => import("./selftest.ts"),
  },
  bench: {
    summary: "measure programs beside other libraries and the machine's limits",
    load: () => import("./bench.ts"),
  },
};

const exitCodes = { ok: 0, bug: 1, userError: 2, interrupted: 130, terminated: 143 } as const;

/** Fires at Ctrl-C and SIGTERM, and when stdout or stderr lost its reader. */
const stop = new AbortController();
/** Exit code of the signal that came, if one did. */
let interruption: number | undefined;

function build(): Command {
  const bold = picocolors.createColors(true).bold; // commander removes colours where the stream has none
  const program = new Command("anekit")
    .description("Tensor programs for the Apple Neural Engine, on any machine.")
    .version(packageVersion(), "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .option("--verbose", "with an error, print its stack and its causes")
    .helpCommand(false)
    .configureHelp({ showGlobalOptions: true, styleTitle: bold })
    .configureOutput({ outputError: () => {} }) // fail() prints errors, on one line
    .exitOverride();
  for (const [name, { summary }] of Object.entries(commands)) program.command(name).summary(summary);
  program.hook("preSubcommand", async (_program, command) => {
    const { configure } = await commands[command.name()]!.load();
    configure(command, { signal: stop.signal });
  });
  return program;
}

/** Reports an error on stderr and says which exit code it means. */
function fail(error: unknown, argv: readonly string[]): number {
  const verbose = argv.includes("--verbose");
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return exitCodes.ok; // --help, --version
    if (error.code === "commander.help") return exitCodes.userError; // no command: the help was printed
    const command = argv.find((arg) => Object.hasOwn(commands, arg));
    const message = error.message
      .replace(/^error: /, "")
      .replace(/\n\((.*)\)$/, " ($1)")
      .replace(/\.$/, "");
    complain(`${message}; see anekit ${command === undefined ? "" : `${command} `}--help`);
    return exitCodes.userError;
  }
  if (error instanceof AnekitError) {
    if (!(error instanceof AbortedError && stop.signal.aborted)) complain(error.message);
    if (verbose) printStacks(error);
    return exitCodes.userError;
  }
  complain(messageOf(error));
  printStacks(error);
  const where = `anekit ${packageVersion()}, Node ${process.version}, ${process.platform} ${process.arch}`;
  process.stderr.write(`This is a bug in anekit: please report it with the lines above and the command (${where}).\n`);
  return exitCodes.bug;
}

function printStacks(error: unknown): void {
  let at = error;
  for (let depth = 0; at !== undefined && depth < 8; depth++) {
    const text = at instanceof Error ? (at.stack ?? at.message) : String(at);
    process.stderr.write(`${depth === 0 ? "" : "caused by: "}${text}\n`);
    at = at instanceof Error ? at.cause : undefined;
  }
}

function listen(argv: readonly string[]): void {
  // Once: the second Ctrl-C does what it does to any program, also while a kernel holds the event loop.
  for (const [name, code] of [
    ["SIGINT", exitCodes.interrupted],
    ["SIGTERM", exitCodes.terminated],
  ] as const) {
    process.once(name, () => {
      interruption = code;
      stop.abort(new Error("interrupted"));
    });
  }
  for (const [name, stream] of [
    ["stdout", process.stdout],
    ["stderr", process.stderr],
  ] as const) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") process.exit(fail(new FileError(name, error.message, { cause: error }), argv));
      stop.abort(new Error(`nobody reads ${name}`));
    });
  }
  process.on("uncaughtException", (error) => process.exit(fail(error, argv)));
}

async function main(argv: readonly string[]): Promise<number> {
  listen(argv);
  const isHelp = argv[0] === "help";
  let code: number = exitCodes.ok;
  try {
    await build().parseAsync(isHelp ? [...argv.slice(1), "--help"] : [...argv], { from: "user" });
  } catch (error) {
    code = fail(error, argv);
  }
  if (code === exitCodes.bug) return code;
  if (interruption !== undefined) {
    complain("interrupted");
    return interruption;
  }
  return stop.signal.aborted ? exitCodes.ok : code;
}

main(process.argv.slice(2)).then((code) => {
  if (code !== exitCodes.ok) process.exitCode = code; // a command that found failures has set it itself
});
