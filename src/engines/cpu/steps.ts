// The list of a plan's steps, as it grows.

import type { Code } from "./code.ts";
import type { ReferenceCall } from "./graph.ts";
import type { Sgemm } from "./kernels/sgemm.ts";
import type { Isa, StepPlan } from "./kernels/step.ts";
import { ownerOf, type Place } from "./memory.ts";

/** What steps are planned for. */
export interface Target {
  readonly isa: Isa;
  readonly threads: number;
  /** A library's matrix product, where large ones go there. */
  readonly sgemm?: Sgemm | undefined;
}

/** A step in native code. */
export interface NativeStep {
  readonly kind: "native";
  readonly name: string;
  readonly key: string;
  emit(code: Code): void;
  readonly tasks: number;
  readonly args: readonly Place[];
  /** Which of them it writes. */
  readonly writes: readonly boolean[];
  readonly scratchBytes: number;
  readonly bytes: number;
  readonly flops: number;
  /** Operators that it computes: primitives, most frequent first. */
  readonly parts: string;
}

/** A step that runs as a record's plain kernel. */
export interface ReferenceStep {
  readonly kind: "reference";
  readonly name: string;
  readonly call: ReferenceCall;
  readonly inputs: readonly (Place | undefined)[];
  readonly outputs: readonly Place[];
}

export type PlannedStep = NativeStep | ReferenceStep;

export class Steps {
  readonly #setup: NativeStep[] = [];
  readonly #steps: PlannedStep[] = [];
  #scratchBytes = 0;

  /** Run once, when the executable is made. */
  get setup(): readonly NativeStep[] {
    return this.#setup;
  }

  /** In an order in which they can run. */
  get list(): readonly PlannedStep[] {
    return this.#steps;
  }

  /** Scratch memory that a thread needs for any of them. */
  get scratchBytes(): number {
    return this.#scratchBytes;
  }

  /** Adds a step: where its arguments are, and which of them it writes. */
  native<A>(
    name: string,
    plan: StepPlan<A>,
    placeOf: (arg: A) => Place,
    writes: (arg: A) => boolean,
    parts = name,
  ): void {
    const step = this.#made(name, plan, placeOf, writes, parts);
    touch(step.args);
    this.#steps.push(step);
  }

  /** Adds a step that packs a constant before the first run. */
  pack<A>(plan: StepPlan<A>, placeOf: (arg: A) => Place, writes: (arg: A) => boolean): void {
    this.#setup.push(this.#made("pack", plan, placeOf, writes, "pack"));
  }

  reference(call: ReferenceCall, inputs: readonly (Place | undefined)[], outputs: readonly Place[]): void {
    touch([...inputs, ...outputs]);
    this.#steps.push({ kind: "reference", name: call.instruction.op.name, call, inputs, outputs });
  }

  #made<A>(
    name: string,
    plan: StepPlan<A>,
    placeOf: (arg: A) => Place,
    writes: (arg: A) => boolean,
    parts: string,
  ): NativeStep {
    const { key, tasks, args, scratchBytes = 0, bytes, flops } = plan;
    this.#scratchBytes = Math.max(this.#scratchBytes, scratchBytes);
    return {
      kind: "native",
      name,
      key,
      emit: (code) => plan.emit(code),
      tasks,
      args: args.map(placeOf),
      writes: args.map(writes),
      scratchBytes,
      bytes,
      flops,
      parts,
    };
  }
}

function touch(places: readonly (Place | undefined)[]): void {
  for (const place of places) if (place !== undefined) ownerOf(place.storage).touched = true;
}
