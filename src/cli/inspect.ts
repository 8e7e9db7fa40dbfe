// `anekit inspect`: what a file holds. Formats are recognised by content, in the order of a table.

import { closeSync, openSync, readdirSync, readSync } from "node:fs";
import type { Command } from "commander";
import { findChip } from "../chips/index.ts";
import { ConfigError, FileError } from "../core/errors.ts";
import { fileError } from "../data/bytes.ts";
import { type CommandContext, jsonOption } from "./command.ts";
import { statPath } from "./files.ts";
import { npy, safetensors, weights } from "./inspect/arrays.ts";
import { checkpoint } from "./inspect/checkpoint.ts";
import { mil } from "./inspect/mil.ts";
import type { Recogniser, Subject } from "./inspect/recogniser.ts";
import { print, printJson } from "./output.ts";

/** Formats, those with a magic number first. */
const recognisers: readonly Recogniser[] = [npy, weights, mil, safetensors, checkpoint];

interface InspectOptions {
  readonly chip?: string;
  readonly json?: true;
}

export function configure(command: Command, _context: CommandContext): void {
  command
    .description(`Shows what a file holds: ${recognisers.map(({ format }) => format).join(", ")}.`)
    .argument("<path>", "file, whatever its name")
    .option("--chip <name>", "for MIL programs: say which operators this chip can run, e.g. h13 (M1)")
    .addOption(jsonOption())
    .action(inspect);
}

async function inspect(path: string, { chip, json }: InspectOptions): Promise<void> {
  const target = chip === undefined ? {} : { chip: findChip(chip) };
  const subject = look(path);
  const recogniser = recognisers.find((each) => each.matches(subject));
  if (recogniser === undefined) throw unknown(subject);
  if (chip !== undefined && recogniser !== mil) {
    throw new ConfigError(path, `--chip is for MIL programs; this is a ${recogniser.format}`);
  }
  const inspection = await recogniser.inspect(subject, target);
  if (json) printJson({ path, ...inspection.json });
  else print(inspection.text);
}

const headBytes = 2 ** 16;

function look(path: string): Subject {
  const status = statPath(path);
  if (!status.isFile() && !status.isDirectory()) throw new FileError(path, "is not a regular file");
  try {
    if (status.isDirectory()) return { kind: "folder", path, names: readdirSync(path).sort() };
    const file = openSync(path, "r");
    const head = new Uint8Array(Math.min(status.size, headBytes));
    try {
      const length = readSync(file, head, 0, head.length, 0);
      return { kind: "file", path, sizeBytes: status.size, head: head.subarray(0, length) };
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw fileError(path, error);
  }
}

function unknown(subject: Subject): FileError {
  const known = `known are: ${recognisers.map(({ format }) => format).join(", ")}`;
  if (subject.kind === "folder") return new FileError(subject.path, `is a folder of no known kind; ${known}`);
  if (subject.sizeBytes === 0) return new FileError(subject.path, "is empty");
  return new FileError(subject.path, `is of no known format; ${known}`);
}
