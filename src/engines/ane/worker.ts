// The engine's worker thread: compiles and runs, so that the event loop goes on meanwhile. One job at a time, in the order of asking.

import { parentPort, workerData } from "node:worker_threads";
import { AnekitError, messageOf } from "../../core/errors.ts";
import { type CapturePlace, openSystem } from "../os/index.ts";
import { buildUnit, type CompiledUnit, type Operation, type ProgramFiles } from "./build.ts";
import { Espresso } from "./espresso.ts";
import { EspressoError } from "./failures.ts";
import type { Handle } from "./symbols.ts";

export interface WorkerSettings {
  /** Path of the library. */
  readonly library: string;
  readonly place: CapturePlace;
}

/** What the worker does; handles are of the process. */
export interface WorkerJobs {
  build(files: ProgramFiles): CompiledUnit & Operation;
  run(stream: Handle<"stream">): void;
  runFirst(stream: Handle<"stream">): void;
}

export type Job = {
  [K in keyof WorkerJobs]: { readonly id: number; readonly job: K; readonly argument: Parameters<WorkerJobs[K]>[0] };
}[keyof WorkerJobs];

/** How an error crosses threads. */
export interface Failure {
  readonly message: string;
  /** What makes an EspressoError. */
  readonly espresso?: { readonly symbol: string; readonly result: number; readonly text: string };
}

export interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly failure?: Failure;
}

function failureOf(error: unknown): Failure {
  const message = messageOf(error);
  if (!(error instanceof EspressoError))
    return { message: error instanceof AnekitError ? message : `worker: ${message}` };
  const { symbol, result, text } = error;
  return { message, espresso: { symbol, result, text } };
}

const { library, place } = workerData as WorkerSettings;
const espresso = new Espresso(await openSystem(), library, place);
const jobs: WorkerJobs = {
  build: (files) => buildUnit(espresso, files),
  run: (stream) => espresso.execute(stream),
  runFirst: (stream) => espresso.executeFirst(stream),
};

parentPort!.on("message", ({ id, job, argument }: Job) => {
  try {
    parentPort!.postMessage({ id, value: jobs[job](argument as never) } satisfies Answer);
  } catch (error) {
    parentPort!.postMessage({ id, failure: failureOf(error) } satisfies Answer);
  }
});
