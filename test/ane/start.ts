// Starts a process with the double of Espresso behind the driver, in folders of its own, and says what it printed, broke and left behind.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { buildDouble, doubleEnvironment, Missing } from "./double/build.ts";

/** Why these tests cannot run on this machine; undefined where they can. */
export function missing(): string | undefined {
  try {
    buildDouble();
    return undefined;
  } catch (error) {
    if (error instanceof Missing) return error.message;
    throw error;
  }
}

/** Folders of one or several processes after one another. */
export class Place implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "anekit-anetest-"));
  readonly tmp = join(this.folder, "tmp");
  readonly cache = join(this.folder, "cache");
  readonly report = join(this.folder, "report.txt");
  readonly log = join(this.folder, "simulator.txt");

  constructor() {
    mkdirSync(this.tmp);
    // tsx keeps what it translated below TMPDIR, too: all processes share it.
    const kept = `tsx-${userInfo().uid}`;
    mkdirSync(join(tmpdir(), kept), { recursive: true });
    symlinkSync(join(tmpdir(), kept), join(this.tmp, kept));
  }

  /** Violations and leaks of all processes so far. */
  get violations(): string[] {
    return existsSync(this.report) ? readFileSync(this.report, "utf8").split("\n").filter(Boolean) : [];
  }

  /** What lies in the folder for temporary files. */
  get left(): string[] {
    const found: string[] = [];
    const visit = (folder: string) => {
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        if (entry.name.startsWith("tsx-") || entry.name.startsWith("node-compile-cache")) continue;
        const path = join(folder, entry.name);
        if (entry.isDirectory()) visit(path);
        if (!entry.isDirectory() || folder !== this.tmp) found.push(relative(this.tmp, path));
      }
    };
    visit(this.tmp);
    return found;
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export interface ChildOptions {
  /** Settings of the double, see quirks.ts and espresso.c. */
  readonly config?: string;
  /** Instead of the chip that the settings name. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Functions that the library lacks. */
  readonly without?: readonly string[];
  /** Folders that others use before or after; new ones otherwise. */
  readonly place?: Place;
  readonly limitMs?: number;
}

export interface Ended {
  /** Lines of standard output, parsed. */
  readonly lines: readonly unknown[];
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
  /** The double's report: violations and leaks of the process and of those that it started. */
  readonly violations: readonly string[];
  /** What is left below TMPDIR. */
  readonly left: readonly string[];
}

export interface Started {
  readonly process: ChildProcess;
  readonly ended: Promise<Ended>;
}

/** Starts `node SCRIPT ...args` beside this file. */
export function start(script: string, args: readonly string[], options: ChildOptions = {}): Started {
  const { config = "chip=h17s;os=26", environment = {}, without = [], limitMs = 120_000 } = options;
  const place = options.place ?? new Place();
  const child = spawn(
    process.execPath,
    ["--expose-gc", "--import", "tsx", fileURLToPath(new URL(script, import.meta.url)), ...args],
    {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        ...doubleEnvironment(config, { report: place.report, log: place.log }),
        ANEKIT_ESPRESSO: buildDouble({ without }),
        ANEKIT_CHIP: /chip=(\w+)/.exec(config)?.[1] ?? "h17s",
        ANEKIT_CACHE_DIR: place.cache,
        ANEKIT_ANE_PACE: "off",
        ANEKIT_ENGINE: "",
        TMPDIR: place.tmp,
        ...environment,
      },
    },
  );
  const timer = setTimeout(() => child.kill("SIGKILL"), limitMs);
  let [stdout, stderr] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const { violations, left } = place;
      if (options.place === undefined) place[Symbol.dispose]();
      const lines = stdout.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as unknown]));
      resolve({ lines, code, signal, stderr, violations, left });
    });
  });
  return { process: child, ended };
}

/** Runs a child to its end. @throws {Error} with its words where it fails */
export async function runChild(script: string, args: readonly string[], options?: ChildOptions): Promise<Ended> {
  const ended = await start(script, args, options).ended;
  if (ended.code !== 0) throw new Error(`${args.join(" ")}: ${ended.signal ?? `exit ${ended.code}`}: ${ended.stderr}`);
  return ended;
}

const lanes: Promise<unknown>[] = [Promise.resolve(), Promise.resolve()];
let turn = 0;

/** Does tasks in turn, two at a time. */
export function inLane<T>(task: () => Promise<T>): Promise<T> {
  const lane = turn++ % lanes.length;
  const result = lanes[lane]!.then(task);
  lanes[lane] = result.catch(() => {});
  return result;
}
