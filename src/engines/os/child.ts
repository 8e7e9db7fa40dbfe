// A process that does what may crash or hang: it answers one request after another, each within a time limit, and is started again where it was lost.

import { type ChildProcess, fork } from "node:child_process";
import { processArguments } from "./entry.ts";

/** How a process was lost. */
export interface Lost {
  readonly outcome: "crashed" | "timed out";
  readonly detail: string;
}

export interface ChildOptions {
  /** Path in src/ without extension of a module that calls `answerRequests`. */
  readonly module: string;
  /** For the module, beside the time limit that it gets first. */
  readonly args: readonly string[];
  /** Of one request. */
  readonly limitMs: number;
}

/** Time that a process may take to start on a busy machine, ms. */
const startMs = 30_000;

/** A process that answers requests: started when needed, again after it was lost, ended with this process. */
export class Child<Request extends object, Answer extends object> {
  readonly #options: ChildOptions;
  #child: ChildProcess | undefined;
  readonly #atExit = () => this.stop();
  #losses = 0;

  constructor(options: ChildOptions) {
    this.#options = options;
    process.once("exit", this.#atExit);
  }

  /** How often it was lost. */
  get losses(): number {
    return this.#losses;
  }

  /** The next message within so many milliseconds, or how the process was lost. */
  #next(child: ChildProcess, limitMs: number, send?: Request): Promise<unknown> {
    return new Promise((resolve) => {
      let settled = false;
      const done = (result: unknown) => {
        settled = true;
        clearTimeout(timer);
        child.removeAllListeners();
        child.on("error", () => {});
        resolve(result);
      };
      const lost = (outcome: Lost["outcome"], detail: string) => {
        if (settled) return; // a request that cannot be sent fails once more
        this.stop();
        this.#losses++;
        done({ outcome, detail } satisfies Lost);
      };
      const timer = setTimeout(() => lost("timed out", `after ${limitMs / 1000} s`), limitMs);
      child.once("message", done);
      child.once("error", (error) => lost("crashed", error.message));
      child.once("exit", (code, signal) => lost("crashed", signal === null ? `exit ${code}` : `signal ${signal}`));
      if (send !== undefined) child.send(send, (error) => error && lost("crashed", error.message));
    });
  }

  /** Has a request answered. */
  async run(request: Request): Promise<Answer | Lost> {
    const { module, args, limitMs } = this.#options;
    if (this.#child === undefined) {
      const [script, ...rest] = processArguments(module).reverse();
      this.#child = fork(script!, [String(Math.ceil(limitMs / 1000) + 5), ...args], {
        execArgv: rest.reverse(),
        serialization: "advanced",
        stdio: ["ignore", "ignore", "ignore", "ipc"],
      });
      const hello = await this.#next(this.#child, startMs);
      if (hello !== "ready") return hello as Lost;
    }
    return (await this.#next(this.#child, limitMs, request)) as Answer | Lost;
  }

  stop(): void {
    this.#child?.kill("SIGKILL");
    this.#child = undefined;
  }

  /** Stops for good. */
  close(): void {
    process.removeListener("exit", this.#atExit);
    this.stop();
  }
}

/** What a process that `Child` started does: the answer to each request. `endAfter` is the system's, for the case that nobody is left to end it. */
export function answerRequests<Request extends object, Answer extends object>(
  endAfter: (seconds: number) => void,
  answer: (request: Request) => Answer,
): void {
  const limit = Number(process.argv[2]);
  process.on("disconnect", () => process.exit());
  process.on("message", (request: Request) => {
    endAfter(limit);
    const result = answer(request);
    endAfter(0);
    process.send!(result);
  });
  process.send!("ready");
}
