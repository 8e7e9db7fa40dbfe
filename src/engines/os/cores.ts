// How many threads an engine should run: the processors that this process may use, within its container's quota.

import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { ConfigError } from "../../core/errors.ts";

const maxThreads = 256;

/** Reads a file of the system, or gives undefined where it is absent or unreadable. */
export type ReadText = (path: string) => string | undefined;

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/**
 * Threads to run: `override` (ANEKIT_THREADS, passed by whoever reads the environment), else the processors of this process within its cgroup's quota.
 * @throws {ConfigError} unless `override` is a whole number from 1 to 256.
 */
export function availableCores(
  override?: string,
  { read = readText, cores = availableParallelism() }: { read?: ReadText; cores?: number } = {},
): number {
  if (override !== undefined && override !== "") {
    const threads = Number(override);
    if (!/^\d+$/.test(override) || threads < 1 || threads > maxThreads) {
      throw new ConfigError("ANEKIT_THREADS", `"${override}" is not a whole number from 1 to ${maxThreads}`);
    }
    return threads;
  }
  return Math.max(1, Math.min(maxThreads, cores, Math.ceil(cgroupQuota(read))));
}

/** Processors' worth of time that the cgroup of this process and those above it allow; Infinity without a limit. */
export function cgroupQuota(read: ReadText = readText): number {
  let quota = Infinity;
  const limit = (micros: number, period: number) => {
    if (micros > 0 && period > 0) quota = Math.min(quota, micros / period);
  };
  // Lines are hierarchy:controllers:path; version 2 is hierarchy 0 without controllers.
  for (const line of (read("/proc/self/cgroup") ?? "").split("\n")) {
    const [, controllers, ...rest] = line.split(":");
    const path = rest.join(":");
    if (controllers === undefined || !path.startsWith("/")) continue;
    const unified = controllers === "";
    if (!unified && !controllers.split(",").includes("cpu")) continue;
    const roots = unified
      ? ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
      : [`/sys/fs/cgroup/${controllers}`, "/sys/fs/cgroup/cpu"];
    const folders = ancestors(path);
    for (const root of roots) {
      for (const folder of folders) {
        const at = join(root, folder);
        if (unified) {
          const [micros, period] = (read(join(at, "cpu.max")) ?? "").trim().split(/\s+/).map(Number);
          limit(micros!, period!); // "max" is NaN: no limit
        } else limit(Number(read(join(at, "cpu.cfs_quota_us"))), Number(read(join(at, "cpu.cfs_period_us"))));
      }
    }
  }
  return quota;
}

/** A cgroup's path and those above it; inside a container the path may be the host's while the mount starts at the container's group. */
function ancestors(path: string): string[] {
  const parts = path.split("/").filter((part) => part !== "" && part !== "..");
  return [...parts.map((_, index) => parts.slice(0, parts.length - index).join("/")), ""];
}
