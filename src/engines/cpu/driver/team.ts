// A team of native threads that runs jobs; see driver.ts for what the threads do.

import { availableParallelism } from "node:os";
import { ConfigError, DisposedError, EngineError } from "../../../core/errors.ts";
import type { Address, NativeCode, NativeMemory, NativeThread, Pipe, System } from "../../os/index.ts";
import { cpuFeatures, supportedArch } from "../isa/features.ts";
import { baseIsa, newCode } from "../isa/new-code.ts";
import { type DriverCode, emitDriver, futexWaiting, posixWaiting } from "./driver.ts";
import type { Job, Outcome } from "./job.ts";
import { control, errorSlot, thread, ticket, wakeSet } from "./layout.ts";

export interface TeamOptions {
  /** Threads that work on a job, the calling one included. */
  readonly threads: number;
  /** Scratch memory of each thread; may grow later. */
  readonly scratchBytes?: number;
  /** Threads that are woken at most; the machine's processors. */
  readonly cores?: number;
  /** How long a thread spins before it sleeps. */
  readonly spinMicroseconds?: number;
  /** What threads sleep by: the kernel's futex (Linux only, and its default) or a POSIX condition. */
  readonly waiting?: "futex" | "posix";
}

const maxThreads = 256;
const defaultSpin = 40; // µs: a sleeping thread costs its waker some 5 µs and itself 10 to 50
const lineBytes = -errorSlot;

const drivers = new Map<string, DriverCode>();
let ticksPerMicrosecond: number | undefined;

/** Threads of one engine. Not for use by several JavaScript threads; each makes its own. */
export class Team implements Disposable {
  readonly threads: number;
  readonly #system: System;
  readonly #driver: DriverCode;
  readonly #code: NativeCode;
  readonly #memory: NativeMemory;
  readonly #view: DataView;
  readonly #entries: Readonly<Record<"run" | "start" | "shutdown" | "stopConductor", (argument: Address) => void>>;
  readonly #caller: Address;
  #scratch: readonly NativeMemory[] = [];
  #scratchBytes = 0;
  #workers: NativeThread[] | undefined;
  #conductor: { readonly thread: NativeThread; readonly pipe: Pipe } | undefined;
  #inFlight: { readonly job: Job; readonly finish: (outcome: Outcome) => void } | undefined;
  #disposed = false;

  constructor(system: System, options: TeamOptions) {
    const { threads, scratchBytes = 0, cores = availableParallelism(), spinMicroseconds = defaultSpin } = options;
    if (!Number.isInteger(threads) || threads < 1 || threads > maxThreads) {
      throw new ConfigError("cpu engine", `${threads} threads: not a whole number from 1 to ${maxThreads}`);
    }
    supportedArch();
    const waiting = options.waiting ?? (process.platform === "linux" ? "futex" : "posix");
    let driver = drivers.get(waiting);
    if (driver === undefined) {
      const how = waiting === "futex" ? futexWaiting : posixWaiting((name) => system.symbol(name));
      driver = emitDriver(newCode(baseIsa!, cpuFeatures(system).flags), how);
      drivers.set(waiting, driver);
    }
    this.#driver = driver;
    this.threads = threads;
    this.#system = system;
    this.#code = system.code(driver.code);
    this.#memory = system.allocate(control.bytes + threads * thread.bytes);
    this.#view = new DataView(this.#memory.bytes.buffer);
    const entry = (offset: number) => system.entry(this.#code.address + offset);
    this.#entries = {
      run: entry(driver.run),
      start: entry(driver.start),
      shutdown: entry(driver.shutdown),
      stopConductor: entry(driver.stopConductor),
    };
    ticksPerMicrosecond ??= measureTicks(system, this.#code.address + driver.ticks);
    const { address } = this.#memory;
    system.monitor(address + control.mutex, address + control.condition);
    const view = this.#view;
    view.setUint32(control.ticket, ticket.idle, true);
    view.setUint32(control.cores, cores, true);
    view.setUint32(control.threads, threads, true);
    view.setBigUint64(control.spin, BigInt(Math.round(spinMicroseconds * ticksPerMicrosecond)), true);
    for (let index = 0; index < threads; index++) {
      const at = control.bytes + index * thread.bytes;
      this.#setAddress(at + thread.control, address);
      view.setUint32(at + thread.exitBelow, index === 0 ? ticket.callerExit : ticket.workerExit, true);
      view.setUint32(at + thread.wakeSet, index === 0 ? wakeSet.caller : wakeSet.worker, true);
    }
    this.#caller = address + control.bytes;
    try {
      this.reserveScratch(Math.max(scratchBytes, 1));
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Rate of the counter that a job's time stamps come from. */
  get ticksPerMicrosecond(): number {
    return ticksPerMicrosecond!;
  }

  /** Sees to it that every thread has so much scratch memory. */
  reserveScratch(bytes: number): void {
    this.#assertIdle();
    if (bytes <= this.#scratchBytes) return;
    const grown: NativeMemory[] = [];
    try {
      for (let index = 0; index < this.threads; index++) grown.push(this.#system.allocate(bytes + lineBytes));
    } catch (error) {
      for (const memory of grown) memory.dispose();
      throw error;
    }
    for (const [index, { address }] of grown.entries()) {
      this.#setAddress(control.bytes + index * thread.bytes + thread.scratch, address + lineBytes);
    }
    for (const memory of this.#scratch) memory.dispose();
    this.#scratch = grown;
    this.#scratchBytes = bytes;
  }

  /** Runs a job; the calling thread takes part. */
  runSync(job: Job): Outcome {
    this.#assertIdle();
    this.#prepare(job);
    this.#entries.run(job.address);
    return job.outcome;
  }

  /** Runs a job on other threads; the event loop goes on meanwhile. `signal` stops it between two steps. */
  run(job: Job, signal?: AbortSignal): Promise<Outcome> {
    this.#assertIdle();
    if (signal?.aborted) return Promise.resolve("stopped");
    this.#conductor ??= this.#startConductor();
    const { pipe } = this.#conductor;
    this.#prepare(job);
    return new Promise((resolve) => {
      const stop = () => job.stop();
      signal?.addEventListener("abort", stop);
      this.#inFlight = {
        job,
        finish: (outcome) => {
          this.#inFlight = undefined;
          signal?.removeEventListener("abort", stop);
          pipe.hold(false);
          resolve(outcome);
        },
      };
      pipe.hold(true);
      this.#entries.start(job.address);
    });
  }

  /** Ends the threads and waits for them; a run in flight is stopped before its next step. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    const running = this.#inFlight;
    running?.job.stop();
    if (this.#conductor !== undefined) {
      this.#entries.stopConductor(this.#memory.address);
      this.#conductor.thread.join();
      this.#conductor.pipe.close();
    }
    running?.finish(running.job.outcome);
    if (this.#workers !== undefined) {
      this.#entries.shutdown(this.#memory.address);
      for (const worker of this.#workers) worker.join();
    }
    for (const memory of this.#scratch) memory.dispose();
    this.#memory.dispose();
    this.#code.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #assertIdle(): void {
    if (this.#disposed) throw new DisposedError("team of threads");
    if (this.#inFlight !== undefined) throw new EngineError("cpu engine", "a run is in flight on these threads");
  }

  #prepare(job: Job): void {
    const inline = job.small || this.threads === 1;
    if (!inline) this.#workers ??= this.#startWorkers();
    job.prepare(this.#caller, inline ? 0xffffffff : 1);
  }

  #startWorkers(): NativeThread[] {
    const workers: NativeThread[] = [];
    const code = this.#code.address + this.#driver.worker;
    try {
      for (let index = 1; index < this.threads; index++) {
        const block = this.#caller + index * thread.bytes;
        workers.push(this.#system.thread(code, block, { name: `anekit-${index}` }));
      }
    } catch (error) {
      this.#entries.shutdown(this.#memory.address);
      for (const worker of workers) worker.join();
      this.#view.setUint32(control.ticket, ticket.idle, true);
      throw error;
    }
    return workers;
  }

  #startConductor(): { thread: NativeThread; pipe: Pipe } {
    const pipe = this.#system.pipe(() => this.#inFlight?.finish(this.#inFlight.job.outcome));
    try {
      this.#view.setInt32(control.conductorFd, pipe.writeFd, true);
      const code = this.#code.address + this.#driver.conductor;
      return { thread: this.#system.thread(code, this.#memory.address, { name: "anekit-0" }), pipe };
    } catch (error) {
      pipe.close();
      throw error;
    }
  }

  #setAddress(offset: number, address: Address): void {
    this.#view.setBigUint64(offset, BigInt(address), true);
  }
}

/** Rate of the processor's constant clock, from a millisecond of waiting. */
function measureTicks(system: System, ticks: Address): number {
  using memory = system.allocate(8);
  const view = new DataView(memory.bytes.buffer);
  const readTicks = system.entry(ticks);
  /** Both clocks at once: the closest of some readings, as the system may take the processor away in between. */
  const read = () => {
    let best = { gap: Infinity, time: 0, ticks: 0n };
    for (let attempt = 0; attempt < 20; attempt++) {
      const before = performance.now();
      readTicks(memory.address);
      const after = performance.now();
      const gap = after - before;
      if (gap < best.gap) best = { gap, time: (before + after) / 2, ticks: view.getBigUint64(0, true) };
    }
    return best;
  };
  const start = read();
  while (performance.now() - start.time < 1);
  const end = read();
  return Number(end.ticks - start.ticks) / (1000 * (end.time - start.time));
}
