// Modules of this package that run in threads and processes of their own: from dist/, or from source where anekit itself runs from source.

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Worker, type WorkerOptions } from "node:worker_threads";
import { EngineError } from "../../core/errors.ts";

const isSource = import.meta.url.endsWith(".ts");

/** A module by its path in src/ without extension. The build makes an entry of each; see tsdown.config.ts. */
function entryUrl(name: string): URL {
  if (isSource) return new URL(`../../${name}.ts`, import.meta.url);
  // This code is in dist/, or in a folder of it.
  for (const up of ["./", "../", "../../", "../../../"]) {
    const url = new URL(`${up}${name}.js`, import.meta.url);
    if (existsSync(url)) return url;
  }
  throw new EngineError("anekit", `${name}.js is missing from the package`, { remedy: "install the package again" });
}

/** Starts a module as a worker thread. */
export function startWorker(name: string, options: WorkerOptions): Worker {
  const url = entryUrl(name);
  // Without the flags of this process: --input-type is refused for files.
  if (!isSource) return new Worker(url, { ...options, execArgv: [] });
  const script = `import("tsx/esm/api").then(({ register }) => { register(); return import(${JSON.stringify(url.href)}); });`;
  return new Worker(script, { ...options, eval: true });
}

/** Arguments for node that run a module as a process. */
export function processArguments(name: string): string[] {
  const path = fileURLToPath(entryUrl(name));
  return isSource ? ["--import", import.meta.resolve("tsx"), path] : [path];
}
