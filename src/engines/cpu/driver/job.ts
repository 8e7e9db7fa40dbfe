// A job: the table of steps that a team walks, in native memory, with the words that say how it ended.

import { invariant } from "../../../core/errors.ts";
import type { Address, NativeMemory, System } from "../../os/index.ts";
import { job as layout, outcome, step as stepLayout } from "./layout.ts";

/** A parallel loop: `kernel` is called for tasks 0 to `tasks` - 1, in any order, on any threads. */
export interface Step {
  /** Address of the kernel's code. */
  readonly kernel: Address;
  /** The kernel's argument words, or the address of a block that the caller owns. */
  readonly args: readonly (number | bigint)[] | Address;
  /** At least 1. */
  readonly tasks: number;
}

/** How a run ended: all steps ran; a kernel reported an error; or `stop()` came in between. */
export type Outcome = keyof typeof outcome;
const outcomes = Object.keys(outcome) as Outcome[]; // listed by number

export interface JobOptions {
  /** Runs everything on one thread: for jobs that take less time than waking another. */
  readonly small?: boolean;
  /** Keeps time stamps of every step. */
  readonly profile?: boolean;
}

/** When a step ran, in ticks of the processor's constant clock. */
export interface StepTicks {
  readonly start: number;
  readonly end: number;
}

const errorBytes = 64;
const stampBytes = 16;

/** Steps that a `Team` runs in order; each begins when the one before it has finished. */
export class Job implements Disposable {
  readonly address: Address;
  readonly small: boolean;
  readonly steps: number;
  readonly #memory: NativeMemory;
  readonly #view: DataView;
  readonly #words: Uint32Array;
  readonly #profileAt: number | undefined;

  constructor(system: System, steps: readonly Step[], { small = false, profile = false }: JobOptions = {}) {
    const argsAt = layout.steps + steps.length * stepLayout.bytes;
    const argWords = steps.reduce((sum, { args }) => sum + (typeof args === "number" ? 0 : args.length), 0);
    const profileAt = argsAt + 8 * argWords;
    this.#memory = system.allocate(profileAt + (profile ? stampBytes * steps.length : 0));
    this.address = this.#memory.address;
    this.small = small;
    this.steps = steps.length;
    const view = new DataView(this.#memory.bytes.buffer);
    this.#view = view;
    this.#words = new Uint32Array(this.#memory.bytes.buffer, 0, layout.steps / 4);
    this.#profileAt = profile ? profileAt : undefined;

    const word = (offset: number, value: number | bigint) => view.setBigInt64(offset, BigInt(value), true);
    word(layout.first, this.address + layout.steps);
    word(layout.end, this.address + argsAt);
    if (profile) word(layout.profile, this.address + profileAt);
    let args = argsAt;
    for (const [index, step] of steps.entries()) {
      invariant(Number.isInteger(step.tasks) && step.tasks >= 1 && step.tasks < 2 ** 30, () => `${step.tasks} tasks`);
      const at = layout.steps + index * stepLayout.bytes;
      word(at + stepLayout.kernel, step.kernel);
      word(at + stepLayout.args, typeof step.args === "number" ? step.args : this.address + args);
      view.setUint32(at + stepLayout.tasks, step.tasks, true);
      if (typeof step.args === "number") continue;
      for (const value of step.args) {
        word(args, value);
        args += 8;
      }
    }
  }

  /** Called by the team that runs it. */
  prepare(caller: Address, inlineTasks: number): void {
    const words = this.#words;
    words[layout.caller / 4] = caller >>> 0;
    words[layout.caller / 4 + 1] = Math.floor(caller / 2 ** 32);
    words[layout.inlineTasks / 4] = inlineTasks;
    words[layout.stop / 4] = 0;
    words[layout.outcome / 4] = outcome.stopped; // where a run is given up before it starts
  }

  /** Ends the run in flight before its next step. */
  stop(): void {
    this.#words[layout.stop / 4] = 1;
  }

  /** How the last run ended. */
  get outcome(): Outcome {
    return outcomes[this.#words[layout.outcome / 4]!]!;
  }

  /** Number of steps that the last run completed, or, after an error, the number before the step that failed. */
  get reached(): number {
    const address = Number(this.#view.getBigUint64(layout.reached, true));
    const steps = (address - this.address - layout.steps) / stepLayout.bytes;
    return this.outcome === "failed" ? steps - 1 : steps;
  }

  /** The error block of the last run: eight 64-bit words, the first not 0 after an error. */
  get error(): readonly bigint[] {
    return Array.from({ length: errorBytes / 8 }, (_, i) => this.#view.getBigUint64(layout.error + 8 * i, true));
  }

  /** Time stamps of the last run, one a step; empty unless the job was made with `profile`. */
  get ticks(): StepTicks[] {
    const at = this.#profileAt;
    if (at === undefined) return [];
    const stamp = (offset: number) => Number(this.#view.getBigUint64(offset, true));
    return Array.from({ length: this.steps }, (_, i) => ({
      start: stamp(at + stampBytes * i),
      end: stamp(at + stampBytes * i + 8),
    }));
  }

  /** Gives its memory back; no run may be in flight. */
  dispose(): void {
    this.#memory.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
