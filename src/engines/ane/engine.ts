// The Neural Engine through Espresso: legalizes programs for the chip, writes them for its compiler, binds their ports, runs them.

import { mkdirSync, rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Chip } from "../../chips/index.ts";
import { AbortedError, DisposedError, EngineError, messageOf } from "../../core/errors.ts";
import type { Aval } from "../../core/shape.ts";
import type { Program } from "../../ir/program.ts";
import { milFiles } from "../../mil/writer.ts";
import { legalize } from "../../passes/legalize.ts";
import { segment } from "../../passes/segment.ts";
import type { Engine, Executable, LoadOptions } from "../engine.ts";
import { reclaimViews } from "../os/index.ts";
import { bytesOf } from "../report.ts";
import { Budget } from "./budget.ts";
import { EspressoBuffer, HostBuffer } from "./buffer.ts";
import { buildUnit, type CompiledUnit, type Operation, type ProgramFiles } from "./build.ts";
import type { Capabilities } from "./capabilities.ts";
import type { Espresso } from "./espresso.ts";
import { AneExecutable, type Unit } from "./executable.ts";
import { EspressoError } from "./failures.ts";
import { newFolder } from "./folders.ts";
import { type PaceSettings, pace } from "./pace.ts";
import { Thread } from "./thread.ts";

/** Of the programs that a process may hold, those left to others in it: sources saw the ceiling between 110 and 128. */
const spareShare = 0.1;

/** Of the process: all engines of a thread share it. */
let budget: Budget | undefined;

export interface AneSettings {
  readonly reason: string;
  readonly espresso: Espresso;
  readonly chip: Chip;
  readonly capabilities: Capabilities;
  readonly pace: PaceSettings;
  /** Folder of this thread, for programs. */
  readonly folder: string;
}

export class AneEngine implements Engine {
  readonly name = "ane";
  readonly reason: string;
  readonly chip: Chip;
  readonly capabilities: Capabilities;
  readonly espresso: Espresso;
  readonly budget: Budget;
  readonly #pace: PaceSettings;
  readonly #folder: string;
  readonly #thread: Thread;
  /** Set while a run is in flight. */
  #running: Executable | undefined;
  readonly #afterRun: (() => void)[] = [];
  #disposed = false;

  constructor({ reason, espresso, chip, capabilities, pace: paceSettings, folder }: AneSettings) {
    this.reason = reason;
    this.espresso = espresso;
    this.chip = chip;
    this.capabilities = capabilities;
    this.#pace = paceSettings;
    this.#folder = folder;
    this.#thread = new Thread({ library: espresso.path, place: espresso.place });
    budget ??= new Budget(Math.floor(chip.limits.maxPrograms * (1 - spareShare)));
    this.budget = budget;
  }

  allocate(aval: Aval): HostBuffer {
    if (aval.dtype === "fp16") return this.espressoBuffer(aval);
    const { system } = this.espresso;
    return new HostBuffer(aval, system.allocate(bytesOf(aval)), this.afterRun);
  }

  espressoBuffer(aval: Aval): EspressoBuffer {
    return new EspressoBuffer(aval, this.espresso.buffer(bytesOf(aval)), this.afterRun);
  }

  async load(program: Program, options: LoadOptions = {}): Promise<Executable> {
    this.#alive();
    await reclaimViews();
    const { chip, capabilities } = this;
    const legal = legalize(program, chip, capabilities.dialect);
    // A stage may have nothing to compute; MIL has no program without results.
    const parts = legal.outputs.length === 0 ? [] : segment(legal, chip.limits.maxConstantBytes);
    const folder = newFolder(this.#folder);
    let units: Unit[];
    try {
      units = await Promise.all(
        parts.map(async (part, at) => ({ program: part, files: await this.#write(part, join(folder, String(at))) })),
      );
    } catch (cause) {
      rmSync(folder, { recursive: true, force: true });
      if (!(cause instanceof Error && "syscall" in cause)) throw cause;
      throw new EngineError("ane", `the program cannot be written for the compiler: ${messageOf(cause)}`, {
        remedy: "make room on the disk, or set TMPDIR to another folder",
        cause,
      });
    }
    const executable = new AneExecutable(this, program, { units, folder, options });
    try {
      await executable.load();
      this.#alive();
    } catch (error) {
      executable[Symbol.dispose]();
      throw error;
    }
    return executable;
  }

  async #write(program: Program, folder: string): Promise<ProgramFiles> {
    const files = { mil: join(folder, "model.mil"), cache: join(folder, "cache") };
    mkdirSync(files.cache, { recursive: true });
    const { text, weights } = milFiles(program, { dialect: this.capabilities.dialect.syntax });
    await writeFile(files.mil, text);
    if (weights.length > 0) await writeFile(join(folder, "weights.bin"), weights);
    return files;
  }

  /** Compiles on the engine's thread, at the compiler's pace; what fails for a passing reason is tried once more. */
  async build(files: ProgramFiles): Promise<CompiledUnit & Operation> {
    for (let attempt = 0; ; attempt++) {
      const pause = pace.pause(this.#pace);
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
      this.#alive();
      try {
        const built = await this.#thread.do("build", files);
        pace.succeeded();
        return built;
      } catch (error) {
        if (!this.#isWorthAnother(error) || attempt > 0) throw error;
      }
    }
  }

  /** The same on the calling thread. */
  buildSync(files: ProgramFiles): CompiledUnit & Operation {
    for (let attempt = 0; ; attempt++) {
      const pause = pace.pause(this.#pace);
      if (pause > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pause);
      try {
        const built = buildUnit(this.espresso, files);
        pace.succeeded();
        return built;
      } catch (error) {
        if (!this.#isWorthAnother(error) || attempt > 0) throw error;
      }
    }
  }

  /** Whether what failed may go well the next time, after a pause and with room made. */
  #isWorthAnother(error: unknown): boolean {
    if (!(error instanceof EspressoError)) return false;
    pace.failed();
    if (this.#pace.mode !== "wait" || !error.transient) return false;
    this.budget.relieve();
    return true;
  }

  /** Notes that an executable is about to run. */
  begin(executable: AneExecutable): void {
    this.#alive();
    this.budget.touch(executable);
  }

  isRunning(executable: Executable): boolean {
    return this.#running === executable;
  }

  /** Runs on the engine's thread; what was disposed meanwhile is freed at the end. */
  async run(
    executable: Executable,
    signal: AbortSignal | undefined,
    work: (thread: Thread) => Promise<void>,
  ): Promise<void> {
    if (signal?.aborted) throw new AbortedError("run", signal);
    this.#running = executable;
    try {
      await work(this.#thread);
    } finally {
      this.#running = undefined;
      for (const free of this.#afterRun.splice(0)) free();
    }
    this.#alive();
  }

  /** Calls `free` once no run is in flight. */
  readonly afterRun = (free: () => void): void => {
    if (this.#running === undefined) free();
    else this.#afterRun.push(free);
  };

  #alive(): void {
    if (this.#disposed) throw new DisposedError("the engine");
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#thread.close();
  }
}
