// Runs named steps one after another, prints each with its time, and closes with a table and a line of counts.

import { type SpawnSyncOptions, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

/** The repository's root folder. */
export const root: string = fileURLToPath(new URL("..", import.meta.url));

/** Thrown by a step that cannot run here; the message says why. */
export class Skip extends Error {}

/** A step; what it returns is printed beside its name. */
export type Step = () => string | undefined | Promise<string | undefined>;

type Status = "passed" | "failed" | "skipped";

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Runs every step, also after a failure, unless a step in `needed` failed; sets the exit code to 1 if one failed. */
export async function runSteps(
  title: string,
  steps: Readonly<Record<string, Step>>,
  needed: readonly string[] = [],
): Promise<void> {
  const width = Math.max(...Object.keys(steps).map((name) => name.length));
  const count: Record<Status, number> = { passed: 0, failed: 0, skipped: 0 };
  const rows: string[] = [];
  let broken: string | undefined;
  for (const [name, step] of Object.entries(steps)) {
    const start = performance.now();
    let status: Status = "passed";
    let detail: string;
    try {
      if (broken !== undefined) throw new Skip(`${broken} failed`);
      detail = (await step()) ?? "";
    } catch (error) {
      status = error instanceof Skip ? "skipped" : "failed";
      if (status === "failed" && needed.includes(name)) broken = name;
      detail = textOf(error);
    }
    count[status]++;
    const seconds = `${((performance.now() - start) / 1000).toFixed(1)} s`;
    const row = `${status.padEnd(8)}${name.padEnd(width + 2)}${seconds.padStart(8)}  `;
    process.stdout.write(`${row}${detail}\n`);
    rows.push(`${row}${detail.split("\n", 1)[0]!.slice(0, 100)}\n`);
  }
  if (count.failed > 0) process.exitCode = 1;
  process.stdout.write(`\n${rows.join("")}${title}: ${count.passed} passed, ${count.failed} failed`);
  process.stdout.write(`${count.skipped > 0 ? `, ${count.skipped} skipped` : ""}\n`);
}

/** Runs a command to its end and returns its stdout. @throws {Error} with both outputs where it exits non-zero. */
export function command(name: string, args: readonly string[], options: SpawnSyncOptions = {}): string {
  const result = spawnSync(name, args, {
    cwd: root,
    env: { ...process.env, NO_COLOR: "1" },
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
    maxBuffer: 1 << 28,
    ...options,
  });
  if (result.error !== undefined) throw result.error;
  const stdout = String(result.stdout ?? "");
  if (result.status === 0) return stdout;
  const reason = result.signal ?? `exit ${result.status}`;
  throw new Error(`${name} ${args.join(" ")}: ${reason}\n${stdout}${result.stderr ?? ""}`.trimEnd());
}
