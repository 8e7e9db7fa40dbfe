// Starts processes that compare random programs: generated code that crashes takes its process down, and the parent says which seed it was.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

export interface FuzzResult {
  readonly programs: number;
  /** What differed, crashed or hung, with the words that run it again. */
  readonly failures: readonly string[];
}

const child = fileURLToPath(new URL("fuzz-child.ts", import.meta.url));

/** Runs seeds `first` to `first + count - 1`; after a crash it goes on with the seed behind. `quiet`: milliseconds without a word that mean a hang. */
export async function fuzz(
  first: number,
  count: number,
  { kinds = [], quiet = 60_000 }: { kinds?: readonly string[]; quiet?: number } = {},
): Promise<FuzzResult> {
  const failures: string[] = [];
  let programs = 0;
  let seed = first;
  while (seed < first + count) {
    const { lines, ending } = await runChild([String(seed), String(first + count - seed), ...kinds], quiet);
    failures.push(...lines.filter((line) => line.startsWith("differs ")));
    const seeds = lines.filter((line) => line.startsWith("seed "));
    const done = lines.find((line) => line.startsWith("done "));
    programs += done === undefined ? seeds.length : Number(done.split(" ")[1]);
    if (done !== undefined && ending === "exit 0") break;
    const last = seeds.at(-1)?.split(" ") ?? ["seed", String(seed), "1", ""];
    failures.push(`${ending} at ${last.join(" ")}\n${lines.slice(-5).join("\n")}`);
    seed = Number(last[1]) + 1;
  }
  return { programs, failures: failures.map((text) => `fuzz-child.ts ${text.replace(/^differs /, "")}`) };
}

function runChild(args: readonly string[], quiet: number): Promise<{ lines: string[]; ending: string }> {
  return new Promise((resolve, reject) => {
    const running = spawn(process.execPath, ["--import", "tsx", child, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    let hung = false;
    const kill = () => {
      hung = true;
      running.kill("SIGKILL");
    };
    let timer = setTimeout(kill, quiet);
    const heard = (chunk: Buffer) => {
      clearTimeout(timer);
      timer = setTimeout(kill, quiet);
      text += chunk.toString();
    };
    running.stdout.on("data", heard);
    running.stderr.on("data", heard);
    running.on("error", reject);
    running.on("close", (code, signal) => {
      clearTimeout(timer);
      // A report may run over several lines.
      const lines = text.split(/\n(?=seed |differs |done )/).map((line) => line.trim());
      resolve({ lines, ending: hung ? `no word for ${quiet} ms` : (signal ?? `exit ${code}`) });
    });
  });
}
