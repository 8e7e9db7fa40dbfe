// What an engine is to the rest of anekit: it loads programs, owns buffers, and runs a program over buffers.
// docs/engines.md says how the CPU engine and the Neural Engine implement these interfaces.

import type { DType } from "../core/dtype.ts";
import type { Aval, Shape } from "../core/shape.ts";
import type { Program } from "../ir/program.ts";

export type EngineName = "ane" | "cpu" | "sim";

/**
 * Memory of one port in the port's storage format: fp16 as 2-byte patterns, bool as one byte, row-major, no padding.
 * `bytes` is a view of the engine's own memory; it stays readable after `dispose()` for as long as somebody holds it.
 */
export interface Buffer extends Disposable {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where `bytes` lies, for memory outside JavaScript's heap: another engine's code may use it there. */
  readonly address?: number;
}

/**
 * A loaded program. `bind` fixes which buffer stands behind each port; an output bound to the buffer of an input is updated in place, and only
 * the verifier of `ir/plan.ts` makes such bindings. Bindings are cheap to keep: a plan holds one for each set of buffers it meets (two where state swaps).
 */
export interface Executable extends Disposable {
  readonly program: Program;
  bind(buffers: ReadonlyMap<string, Buffer>): Binding;
  /** False where a run that was begun replaces state bit by bit, so that it must not be given up. True unless stated. */
  readonly interruptible?: boolean;
  /** What was compiled, for engines that plan. */
  report?(): ExecutableReport;
}

/** A program with its buffers, ready to run; bindings end with their executable. */
export interface Binding {
  /** Runs on the calling thread and returns when every output is stored. */
  runSync(): void;
  /** Runs without holding up the event loop more than the engine must. @throws {AbortedError} between steps once the signal fires; outputs are then unspecified, state is not replaced. */
  run(signal?: AbortSignal): Promise<void>;
}

/** What an engine may rely on when it compiles a program. */
export interface LoadOptions {
  /**
   * Outputs that replace state as soon as they are stored, with the input that is bound to the same buffer, or null where the program does not read
   * the old value; the verifier of `ir/plan.ts` allowed it.
   */
  readonly inPlace?: ReadonlyMap<string, string | null>;
  /** Times every step of the runs. */
  readonly profile?: boolean;
}

/** One step of a loaded program. */
export interface StepReport {
  /** What kind of code runs; `reference` for an operator that the engine has no code for. */
  readonly name: string;
  /** The operators or shapes in it. */
  readonly what: string;
  readonly tasks: number;
  readonly bytes: number;
  readonly flops: number;
  /** Time in the last run, where it was profiled. */
  readonly ms?: number;
}

/** What an engine made of a program. */
export interface ExecutableReport {
  readonly steps: readonly StepReport[];
  /** Memory for values between steps. */
  readonly arenaBytes: number;
  /** Memory for constants, packed ones included. */
  readonly constantBytes: number;
  /** Machine code. */
  readonly codeBytes: number;
  /** Steps that may run at once are one batch; after each batch threads wait for each other. */
  readonly batches: number;
  /** Least time of a run, estimated where the engine can: all operations as two fused multiply-adds a cycle on every thread, at the nominal clock. */
  readonly floorMs?: number;
}

export interface Engine extends Disposable {
  readonly name: EngineName;
  /** Why this engine was chosen, and what it runs on; one line. */
  readonly reason: string;
  allocate(aval: Aval): Buffer;
  /** Compiles a program. @throws {UnsupportedError} naming the operator and the remedy where the engine cannot run it. */
  load(program: Program, options?: LoadOptions): Promise<Executable>;
}
