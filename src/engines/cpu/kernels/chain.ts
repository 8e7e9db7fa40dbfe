// Steps of several kernels: a task runs phase after phase over one block of a larger result; what passes from phase to phase may stay in the thread's
// scratch memory, and is in cache either way.

import { type Code, gp, Label, type Mem, mem } from "../code.ts";
import { addImm, emitDigits, multiply } from "./integers.ts";
import type { StepPlan } from "./step.ts";

/** What a phase's kernel gets: bytes behind one of the step's arguments, moved on to the task's batch element, or behind the start of scratch memory. */
export type PhaseArgument = { readonly argument: number; readonly offset: number } | { readonly scratch: number };

export interface Phase {
  /** A kernel that reports no errors. */
  readonly step: Pick<StepPlan<unknown>, "key" | "emit" | "tasks" | "scratchBytes">;
  readonly args: readonly PhaseArgument[];
}

export interface ChainSpec {
  readonly batch: readonly number[];
  /** For each argument the bytes between neighbours of every batch dimension. */
  readonly strides: readonly (readonly number[])[];
  /** Phases of each task of one batch element. */
  readonly parts: readonly (readonly Phase[])[];
  /** Bytes of scratch memory that arguments point to; a phase's own is behind them. */
  readonly heldBytes: number;
}

export function chainTasks({ batch, parts }: ChainSpec): number {
  return batch.reduce((all, extent) => all * extent, parts.length);
}

export function chainScratch({ parts, heldBytes }: ChainSpec): number {
  return heldBytes + Math.max(0, ...parts.flat().map(({ step }) => step.scratchBytes ?? 0));
}

/** Equal for chains with the same code. */
export function chainKey({ batch, strides, parts, heldBytes }: ChainSpec): string {
  const phases = parts.map((phases) => phases.map(({ step, args }) => [step.key, step.tasks, args]));
  return `chain ${JSON.stringify([batch, strides, heldBytes, phases])}`;
}

const { r0, r3, r1, r2, r4, r5, sp } = gp;

/** Kernels keep only sp and r14: all that lives across phases is in the frame: arguments, scratch, a count of tasks, the phase's argument block. */
export function emitChain(code: Code, { batch, strides, parts, heldBytes }: ChainSpec): void {
  const count = strides.length;
  const slot = (index: number): Mem => mem(sp, 8 * index);
  const [scratch, task, block] = [count, count + 1, count + 2];
  const mostArgs = Math.max(...parts.flat().map(({ args }) => args.length));
  const frameBytes = 16 * Math.ceil((block + mostArgs) / 2) + 8; // with the return address a multiple of 16
  const kernels = new Map<string, { readonly label: Label; readonly emit: (code: Code) => void }>();

  code.enter(frameBytes);
  code.mov(slot(scratch), r2);
  for (let i = 0; i < count; i++) {
    code.mov(r0, mem(r5, 8 * i));
    code.mov(slot(i), r0);
  }
  code.zero(r3);
  emitDigits(code, r4, [...batch, parts.length], (digit, axis) => {
    if (axis === batch.length) return code.mov(r3, digit);
    for (const [i, bytes] of strides.entries()) {
      if (bytes[axis] === 0) continue;
      code.mov(r1, digit);
      multiply(code, r1, bytes[axis]!, r0);
      code.alu("add", slot(i), r1);
    }
  });
  const starts = parts.map(() => new Label());
  for (const [part, label] of starts.entries()) {
    if (part === parts.length - 1) break; // the last one follows
    code.aluImm("cmp", r3, part);
    code.jcc("e", label);
  }
  for (const part of [...parts.keys()].reverse()) {
    code.bind(starts[part]!);
    for (const { step, args } of parts[part]!) {
      let kernel = kernels.get(step.key);
      if (kernel === undefined)
        kernels.set(step.key, (kernel = { label: new Label(), emit: (into) => step.emit(into) }));
      for (const [i, arg] of args.entries()) {
        const [from, offset] = "scratch" in arg ? [scratch, arg.scratch] : [arg.argument, arg.offset];
        code.mov(r0, slot(from));
        addImm(code, r0, offset, r1);
        code.mov(slot(block + i), r0);
      }
      code.movMemImm(slot(task), 0);
      const top = code.here();
      code.mov(r4, slot(task));
      code.lea(r5, slot(block));
      code.mov(r2, slot(scratch));
      addImm(code, r2, heldBytes, r0);
      code.call(kernel.label);
      if (step.tasks === 1) continue;
      code.aluImm("add", slot(task), 1);
      code.aluImm("cmp", slot(task), step.tasks);
      code.jcc("b", top);
    }
    code.leave(frameBytes);
    code.ret();
  }
  for (const { label, emit } of kernels.values()) {
    code.align(64);
    code.bind(label);
    emit(code);
  }
}
