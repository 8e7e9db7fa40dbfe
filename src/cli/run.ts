// `anekit run`: a MIL program and its weight files, fed from .npy files, its results shown or written.

import { basename, join } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { ConfigError, formatAval } from "../core/errors.ts";
import { encodeNpy, makeFolder, writeFileAtomic } from "../data/index.ts";
import type { NDArray } from "../engines/array.ts";
import { parseEngine } from "../engines/open.ts";
import { runProgram } from "../engines/run-program.ts";
import type { Program } from "../ir/program.ts";
import { readMil } from "../mil/reader.ts";
import { type CommandContext, engineOption, jsonOption, openNamedEngine } from "./command.ts";
import { countOverflows, feedFrom, randomFeed } from "./feeds.ts";
import { readMilText, readNpy, weightsBeside } from "./files.ts";
import { formatDuration, note, plural, print, printJson, table } from "./output.ts";
import { statisticsCells, statisticsColumns, statisticsOf } from "./statistics.ts";

interface RunOptions {
  readonly input?: ReadonlyMap<string, string>;
  readonly random?: number | true;
  readonly output?: string;
  readonly engine: string;
  readonly function?: string;
  readonly json?: true;
}

export function configure(command: Command, { signal }: CommandContext): void {
  command
    .description("Runs a MIL program, with the weight files that lie beside it, and shows or writes its results.")
    .argument("<file>", "MIL text")
    .option("--input <name=file>", "value of an input, a .npy file; once for each", collectInput)
    .option("--random [seed]", "random values for the other inputs: floats in [-1, 1), integers 0 or 1", parseSeed)
    .option("--output <dir>", "write NAME.npy for each result into this folder instead of showing it")
    .option("--function <name>", "function to run, where the file has several")
    .addOption(engineOption())
    .addOption(jsonOption())
    .addHelpText("after", "\nExample:\n  anekit run model.mil --input x=x.npy --output results")
    .action((file: string, options: RunOptions) => run(file, options, signal));
}

function collectInput(text: string, previous: ReadonlyMap<string, string> = new Map()): ReadonlyMap<string, string> {
  const at = text.indexOf("=");
  if (at < 1 || at === text.length - 1) throw new InvalidArgumentError("Expected NAME=FILE.npy.");
  const name = text.slice(0, at);
  if (previous.has(name)) throw new InvalidArgumentError(`Input "${name}" is given twice.`);
  return new Map([...previous, [name, text.slice(at + 1)]]);
}

function parseSeed(text: string): number {
  const seed = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(seed)) return seed;
  throw new InvalidArgumentError("A seed is an integer of at least 0; write --random behind the file.");
}

async function run(file: string, options: RunOptions, signal: AbortSignal): Promise<void> {
  parseEngine(options.engine); // before any work
  const program = readMil(readMilText(file), {
    file,
    weights: weightsBeside(file),
    ...(options.function !== undefined && { functionName: options.function }),
  });
  const feeds = readFeeds(file, program, options);
  const { output: folder, json } = options;
  if (folder !== undefined) makeFolder(folder); // a wrong name shows before the run, not after it
  using engine = await openNamedEngine(options.engine);
  const { results, loadMs, runMs } = await runProgram(program, feeds, engine, { signal });
  const files = folder === undefined ? undefined : await writeResults(folder, results);
  const arrays = [...results].map(([name, array]) => ({ name, ...statisticsOf(array), file: files?.get(name) }));
  if (json) {
    for (const { name, ...array } of arrays) printJson({ output: name, ...array });
    const { name, reason } = engine;
    printJson({ summary: { engine: name, reason, instructions: program.instructions.length, loadMs, runMs } });
  } else if (files === undefined) {
    const rows = arrays.map((array) => [array.name, ...statisticsCells(array)]);
    print(table([{ title: "result" }, ...statisticsColumns], rows));
  }
  for (const [name, path] of files ?? []) note(`wrote ${path}  ${formatAval(results.get(name)!)}`);
  const count = plural(program.instructions.length, "operator");
  note(`${basename(file)}: ${count} in ${formatDuration(runMs)}, loaded in ${formatDuration(loadMs)}`);
}

function readFeeds(file: string, program: Program, { input = new Map(), random }: RunOptions): Map<string, NDArray> {
  const ports = new Map(program.inputs.map(({ name, value }) => [name, program.values[value]!]));
  const described = [...ports].map(([name, aval]) => `${name} ${formatAval(aval)}`).join(", ") || "none";
  for (const name of input.keys()) {
    if (!ports.has(name)) throw new ConfigError(file, `there is no input "${name}"; inputs: ${described}`);
  }
  const missing = [...ports.keys()].filter((name) => !input.has(name));
  if (missing.length > 0 && random === undefined) {
    const given = [...ports.keys()].map((name) => ` --input ${name}=${input.get(name) ?? `${name}.npy`}`).join("");
    throw new ConfigError(file, `no value for ${missing.join(", ")}; inputs: ${described}`, {
      remedy: `for example: anekit run ${file}${given}, or add --random`,
    });
  }
  const feeds = new Map<string, NDArray>();
  for (const [name, aval] of ports) {
    const path = input.get(name);
    if (path === undefined) {
      feeds.set(name, randomFeed(name, aval, random === true ? 0 : random!));
      continue;
    }
    const feed = feedFrom(`input "${name}" (${path})`, aval, readNpy(path));
    const overflows = countOverflows(feed);
    if (overflows > 0) note(`input "${name}": ${plural(overflows, "value")} above 65504 become infinite in fp16`);
    feeds.set(name, feed);
  }
  return feeds;
}

/** Writes every result; returns the files' paths by name. */
async function writeResults(folder: string, results: ReadonlyMap<string, NDArray>): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  for (const [name, { dtype, shape, data }] of results) {
    const path = join(folder, `${name}.npy`);
    await writeFileAtomic(path, encodeNpy(shape, data, { dtype }));
    files.set(name, path);
  }
  return files;
}
