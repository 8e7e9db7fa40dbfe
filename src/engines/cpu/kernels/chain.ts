// Steps of several kernels: a task runs phase after phase over one block of a larger result; what passes from phase to phase may stay in the thread's
// scratch memory, and is in cache either way.

import { gp, Label, type Mem, mem, type X64 } from "../isa/x64.ts";
import { addImm, multiply } from "./gemm-simd.ts";
import { emitDigits } from "./gemm-x64.ts";
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

const { rax, rbx, rcx, rdx, rsi, rdi, rsp } = gp;

/** Kernels keep only rsp and rbp: all that lives across phases is in the frame: arguments, scratch, a count of tasks, the phase's argument block. */
export function emitChain(asm: X64, { batch, strides, parts, heldBytes }: ChainSpec): void {
  const count = strides.length;
  const slot = (index: number): Mem => mem(rsp, 8 * index);
  const [scratch, task, block] = [count, count + 1, count + 2];
  const mostArgs = Math.max(...parts.flat().map(({ args }) => args.length));
  const frameBytes = 16 * Math.ceil((block + mostArgs) / 2) + 8; // with the return address a multiple of 16
  const kernels = new Map<string, { readonly label: Label; readonly emit: (asm: X64) => void }>();

  asm.aluImm("sub", rsp, frameBytes);
  asm.mov(slot(scratch), rdx);
  for (let i = 0; i < count; i++) {
    asm.mov(rax, mem(rdi, 8 * i));
    asm.mov(slot(i), rax);
  }
  asm.alu32("xor", rbx, rbx);
  emitDigits(asm, rsi, [...batch, parts.length], (digit, axis) => {
    if (axis === batch.length) return asm.mov(rbx, digit);
    for (const [i, bytes] of strides.entries()) {
      if (bytes[axis] === 0) continue;
      asm.mov(rcx, digit);
      multiply(asm, rcx, bytes[axis]!, rax);
      asm.alu("add", slot(i), rcx);
    }
  });
  const starts = parts.map(() => new Label());
  for (const [part, label] of starts.entries()) {
    if (part === parts.length - 1) break; // the last one follows
    asm.aluImm("cmp", rbx, part);
    asm.jcc("e", label);
  }
  for (const part of [...parts.keys()].reverse()) {
    asm.bind(starts[part]!);
    for (const { step, args } of parts[part]!) {
      let kernel = kernels.get(step.key);
      if (kernel === undefined)
        kernels.set(step.key, (kernel = { label: new Label(), emit: (into) => step.emit(into) }));
      for (const [i, arg] of args.entries()) {
        const [from, offset] = "scratch" in arg ? [scratch, arg.scratch] : [arg.argument, arg.offset];
        asm.mov(rax, slot(from));
        addImm(asm, rax, offset, rcx);
        asm.mov(slot(block + i), rax);
      }
      asm.movMemImm(slot(task), 0);
      const top = asm.here();
      asm.mov(rsi, slot(task));
      asm.lea(rdi, slot(block));
      asm.mov(rdx, slot(scratch));
      addImm(asm, rdx, heldBytes, rax);
      asm.call(kernel.label);
      if (step.tasks === 1) continue;
      asm.aluImm("add", slot(task), 1);
      asm.aluImm("cmp", slot(task), step.tasks);
      asm.jcc("b", top);
    }
    asm.aluImm("add", rsp, frameBytes);
    asm.ret();
  }
  for (const { label, emit } of kernels.values()) {
    asm.align(64);
    asm.bind(label);
    emit(asm);
  }
}
