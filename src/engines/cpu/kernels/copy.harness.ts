// Runs steps on memory between guard pages, for tests and benches.

import type { NativeCode, NativeMemory, System } from "../../os/index.ts";
import { Job, type Outcome } from "../driver/job.ts";
import { Team } from "../driver/team.ts";
import { cpuFeatures, isasOf as isasOfFeatures } from "../isa/features.ts";
import { baseIsa, newCode } from "../isa/new-code.ts";
import type { Isa, StepPlan } from "./step.ts";

/** Whether kernels run here. */
export const runs = baseIsa !== undefined && process.platform !== "win32";

/** Instruction sets that this machine has, the best one last; some, to be skipped, where no kernels run. */
export function isasOf(system: System): readonly Isa[] {
  return runs ? isasOfFeatures(cpuFeatures(system)).toReversed() : ["avx2", "avx512"];
}

/** Native bytes. */
export interface Memory {
  readonly address: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Steps made executable. */
export interface Program {
  readonly codeBytes: number;
  run(): Outcome;
  /** The error block after a run. */
  readonly error: readonly bigint[];
  dispose(): void;
}

/** Teams by their threads, and memory by use: what is mapped anew for each case would wait for the garbage collector. */
export class Harness {
  readonly system: System;
  readonly #teams = new Map<number, Team>();
  readonly #places = new Map<string, NativeMemory>();

  constructor(system: System) {
    this.system = system;
  }

  /** Memory whose end (or, for "head", whose start) is next to a guard page; valid until the next call for the same use. */
  memory(use: string, size: number, guard: "tail" | "head" = "tail"): Memory {
    const key = `${use} ${guard}`;
    let memory = this.#places.get(key);
    if (memory === undefined || memory.size < size) {
      memory?.dispose();
      const room = 2 ** Math.ceil(Math.log2(Math.max(size, 4096)));
      memory = this.system.allocate(room, { tight: guard === "tail" });
      this.#places.set(key, memory);
    }
    const start = guard === "tail" ? memory.size - size : 0;
    return { address: memory.address + start, bytes: memory.bytes.subarray(start, start + size) };
  }

  #team(threads: number): Team {
    let team = this.#teams.get(threads);
    if (team === undefined) this.#teams.set(threads, (team = new Team(this.system, { threads })));
    return team;
  }

  /** One job of all steps, which were planned for `isa`. */
  load<A>(isa: Isa, steps: readonly StepPlan<A>[], address: (arg: A) => number, threads = 1): Program {
    const team = this.#team(threads);
    const codes: NativeCode[] = [];
    let codeBytes = 0;
    for (const step of steps) {
      const code = newCode(isa);
      step.emit(code);
      const bytes = code.finish();
      codeBytes += bytes.length;
      codes.push(this.system.code(bytes));
    }
    const job = new Job(
      this.system,
      steps.map(({ args, tasks }, i) => ({ kernel: codes[i]!.address, args: args.map(address), tasks })),
    );
    const scratchBytes = Math.max(...steps.map((step) => step.scratchBytes ?? 0));
    return {
      codeBytes,
      run() {
        team.reserveScratch(scratchBytes);
        return team.runSync(job);
      },
      get error() {
        return job.error;
      },
      dispose() {
        job.dispose();
        for (const code of codes) code.dispose();
      },
    };
  }

  dispose(): void {
    for (const one of [...this.#teams.values(), ...this.#places.values()]) one.dispose();
  }
}
