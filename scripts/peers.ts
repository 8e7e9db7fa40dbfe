// What the cross-checks share: the Python that has the peers, and a script of bench/peers that answers over a folder.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { peerPython } from "../src/cli/bench-process.ts";
import { root } from "./steps.ts";

/** Python as `anekit bench` finds it; the process ends with 2 where it or a module is missing, after `remedy`. */
export function requirePython(title: string, module: string, remedy: string): string {
  let python = "";
  try {
    python = peerPython();
    if (spawnSync(python, ["-c", `import ${module}`]).status === 0) return python;
  } catch {
    // there is none
  }
  process.stderr.write(`${title}: ${python || "Python"} has no ${module}: ${remedy}\n`);
  process.exit(2);
}

/** What bench/peers/SCRIPT.py writes about the plan in a folder. @throws {Error} with its stderr where it fails. */
export function askPeer<A>(python: string, script: string, folder: string): A {
  const options = { encoding: "utf8", maxBuffer: 2 ** 26 } as const;
  const { stdout, stderr, status } = spawnSync(python, [join(root, `bench/peers/${script}.py`), folder], options);
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout) as A;
}
