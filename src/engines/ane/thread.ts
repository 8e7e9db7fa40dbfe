// The engine's worker seen from the engine: jobs as promises.

import type { Worker } from "node:worker_threads";
import { DisposedError, EngineError } from "../../core/errors.ts";
import { startWorker } from "../os/entry.ts";
import { EspressoError } from "./failures.ts";
import type { Answer, Failure, WorkerJobs, WorkerSettings } from "./worker.ts";

interface Waiting {
  resolve(value: never): void;
  reject(error: Error): void;
}

function errorOf({ message, espresso }: Failure): Error {
  if (espresso !== undefined) return new EspressoError(espresso.symbol, espresso.result, espresso.text);
  return new EngineError("ane", message);
}

/** One worker, started by its first job; while none is pending it does not keep the process alive. */
export class Thread {
  readonly #settings: WorkerSettings;
  readonly #waiting = new Map<number, Waiting>();
  #worker: Worker | undefined;
  #lastId = 0;
  #closed = false;

  constructor(settings: WorkerSettings) {
    this.#settings = settings;
  }

  get busy(): boolean {
    return this.#waiting.size > 0;
  }

  #start(): Worker {
    const worker = startWorker("engines/ane/worker", { workerData: this.#settings, name: "anekit ane" });
    const end = (error: Error) => {
      if (this.#worker !== worker) return; // ended on request, or told of its error already: later jobs wait for another worker
      this.#worker = undefined;
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    };
    worker.on("message", ({ id, value, failure }: Answer) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (!this.busy) {
        worker.unref();
        if (this.#closed) this.#end();
      }
      if (failure !== undefined) waiting?.reject(errorOf(failure));
      else waiting?.resolve(value as never);
    });
    worker.on("error", (error) => end(new EngineError("ane", `the engine's thread failed: ${error.message}`)));
    worker.on("exit", () => end(new EngineError("ane", "the engine's thread ended")));
    return worker;
  }

  /** Does a job after all that were asked for before. */
  do<K extends keyof WorkerJobs>(job: K, argument: Parameters<WorkerJobs[K]>[0]): Promise<ReturnType<WorkerJobs[K]>> {
    if (this.#closed) throw new DisposedError("the engine");
    this.#worker ??= this.#start();
    const worker = this.#worker;
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: never) => void, reject });
      worker.ref();
      worker.postMessage({ id, job, argument });
    });
  }

  /** Takes no more jobs, and ends the thread after those that are pending: a native call cannot be broken off. */
  close(): void {
    this.#closed = true;
    if (!this.busy) this.#end();
  }

  #end(): void {
    void this.#worker?.terminate();
    this.#worker = undefined;
  }
}
