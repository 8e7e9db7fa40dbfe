// Builds the double of Espresso into a cache folder, once for each state of its sources, and gives the environment that it runs in.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));

/** Why there is no double on this machine; tests skip with its message. */
export class Missing extends Error {
  override readonly name = "Missing";
}

export interface BuildOptions {
  /** Functions that the library lacks, as older or newer systems do. */
  readonly without?: readonly string[];
}

/** Path of the library, built if it is not there yet. @throws {Missing} where there is no C compiler */
export function buildDouble({ without = [] }: BuildOptions = {}): string {
  const compiler = process.env.CC || "cc";
  if (process.platform === "win32") throw new Missing("the double of Espresso is POSIX code");
  const sources = readdirSync(here).filter((name) => name.endsWith(".c") || name.endsWith(".h"));
  const flags = ["-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"];
  if (process.platform === "linux") flags.push("-Wl,-z,nodelete"); // threads run its code when they end
  for (const name of without) {
    if (!/^[A-Za-z0-9_]+$/.test(name)) throw new Error(`"${name}" is no function`);
    flags.push(`-D${name}=left_out_${name}`); // defined under another name is as good as not defined
  }
  const hash = createHash("sha256").update([compiler, process.arch, ...flags].join(" "));
  for (const name of sources) hash.update(name).update(readFileSync(join(here, name)));
  const folder = join(here, "../../../node_modules/.cache/anekit-double");
  const library = join(folder, `${hash.digest("hex").slice(0, 32)}.so`);
  if (existsSync(library)) return library;
  mkdirSync(folder, { recursive: true });
  const unfinished = `${library}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  const files = sources.filter((name) => name.endsWith(".c")).map((name) => join(here, name));
  const { error, status, stderr } = spawnSync(compiler, [...flags, "-o", unfinished, ...files], { encoding: "utf8" });
  if (error !== undefined) throw new Missing(`no C compiler: ${compiler}: ${error.message}`);
  if (status !== 0) {
    rmSync(unfinished, { force: true });
    throw new Error(`${compiler} failed on the double of Espresso:\n${stderr}`);
  }
  renameSync(unfinished, library);
  return library;
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
