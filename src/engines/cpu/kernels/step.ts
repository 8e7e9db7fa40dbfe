// What a planner hands on: one step of a program, a parallel loop over tasks that all call one generated kernel.

import type { Code } from "../code.ts";

export type { Isa } from "../isa/features.ts";

/** A step; `A` names its buffers. */
export interface StepPlan<A> {
  /** Steps with one key have one kernel: `emit` depends on nothing else. */
  readonly key: string;
  readonly tasks: number;
  /** Buffers in the order of the kernel's argument block. */
  readonly args: readonly A[];
  /** Bytes of scratch memory that a thread needs. */
  readonly scratchBytes?: number;
  /** Bytes of tensors read and written. */
  readonly bytes: number;
  readonly flops: number;
  emit(code: Code): void;
}
