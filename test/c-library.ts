// Builds C libraries that stand in for a system's own in tests: into a cache folder, once for each state of their sources.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

// Bundled for an emulated processor (scripts/arm64.ts), this file lies elsewhere.
const places = [fileURLToPath(new URL("..", import.meta.url)), process.cwd()];
const root = places.find((place) => existsSync(join(place, "test/c-library.ts"))) ?? process.cwd();

/** Why there is no such library on this machine; tests skip with its message. */
export class Missing extends Error {
  override readonly name = "Missing";
}

export interface LibraryOptions {
  /** Folder in the cache. */
  readonly name: string;
  /** Folder of the repository with its sources, all of them. */
  readonly folder: string;
  readonly flags?: readonly string[];
  /** Functions that it lacks. */
  readonly without?: readonly string[];
}

/** Path of the library, built if it is not there yet. @throws {Missing} where there is no C compiler */
export function buildLibrary({ name, folder: from, flags: more = [], without = [] }: LibraryOptions): string {
  const compiler = process.env.CC || "cc";
  if (process.platform === "win32") throw new Missing("the library is POSIX code");
  const place = join(root, from);
  const sources = readdirSync(place).filter((file) => file.endsWith(".c") || file.endsWith(".h"));
  const flags = ["-shared", "-fPIC", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", ...more];
  for (const symbol of without) {
    if (!/^[A-Za-z0-9_]+$/.test(symbol)) throw new Error(`"${symbol}" is no function`);
    flags.push(`-D${symbol}=left_out_${symbol}`); // defined under another name is as good as not defined
  }
  const hash = createHash("sha256").update([compiler, process.arch, ...flags].join(" "));
  for (const file of sources) hash.update(file).update(readFileSync(join(place, file)));
  const folder = join(root, "node_modules/.cache", name);
  const library = join(folder, `${hash.digest("hex").slice(0, 32)}.so`);
  if (existsSync(library)) return library;
  mkdirSync(folder, { recursive: true });
  const unfinished = `${library}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  const files = sources.filter((file) => file.endsWith(".c")).map((file) => join(place, file));
  const { error, status, stderr } = spawnSync(compiler, [...flags, "-o", unfinished, ...files], { encoding: "utf8" });
  if (error !== undefined) throw new Missing(`no C compiler: ${compiler}: ${error.message}`);
  if (status !== 0) {
    rmSync(unfinished, { force: true });
    throw new Error(`${compiler} failed on ${from}:\n${stderr}`);
  }
  renameSync(unfinished, library);
  return library;
}
