// Indices of gather and scatter: negative ones count from the end, others outside the axis end the job with an error.

import { type Gp, gp, Label, mem, type X64 } from "../isa/x64.ts";

/** Code of a bad index in a job's error block. */
export const badIndexCode = 1;

/** rcx = the index in [0, extent) at a place; jumps where there is none. Clobbers rax. */
export function emitIndex(asm: X64, place: ReturnType<typeof mem>, extent: number, bad: Label): void {
  asm.movsxd(gp.rcx, place);
  asm.lea(gp.rax, mem(gp.rcx, extent));
  asm.test(gp.rcx, gp.rcx);
  asm.cmov("s", gp.rcx, gp.rax);
  asm.aluImm("cmp", gp.rcx, extent);
  asm.jcc("ae", bad);
}

/**
 * Writes {1, index, extent, step} into the job's error block unless some task has written there.
 * `scratch` is the thread's scratch memory. Clobbers rax, rcx, rdx.
 */
export function emitBadIndex(asm: X64, scratch: Gp, place: ReturnType<typeof mem>, extent: number, step: number): void {
  const taken = new Label();
  asm.mov(gp.rdx, mem(scratch, -64));
  asm.alu32("xor", gp.rax, gp.rax);
  asm.movImm(gp.rcx, badIndexCode);
  asm.lockCmpxchg32(mem(gp.rdx), gp.rcx);
  asm.jcc("ne", taken);
  asm.movsxd(gp.rcx, place);
  asm.mov(mem(gp.rdx, 8), gp.rcx);
  asm.movMemImm(mem(gp.rdx, 16), extent);
  asm.movMemImm(mem(gp.rdx, 24), step);
  asm.bind(taken);
}
