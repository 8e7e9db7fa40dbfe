// Indices of gather and scatter: negative ones count from the end, others outside the axis end the job with an error.

import { type Code, type Gp, gp, Label, type Mem, mem } from "../code.ts";

/** Code of a bad index in a job's error block. */
export const badIndexCode = 1;

/** r1 = the index in [0, extent) at a place; jumps where there is none. Clobbers r0. */
export function emitIndex(code: Code, place: Mem, extent: number, bad: Label): void {
  code.movsxd(gp.r1, place);
  code.lea(gp.r0, mem(gp.r1, extent));
  code.test(gp.r1, gp.r1);
  code.cmov("s", gp.r1, gp.r0);
  code.aluImm("cmp", gp.r1, extent);
  code.jcc("ae", bad);
}

/**
 * Writes {1, index, extent, step} into the job's error block unless some task has written there.
 * `scratch` is the thread's scratch memory. Clobbers r0 to r3.
 */
export function emitBadIndex(code: Code, scratch: Gp, place: Mem, extent: number, step: number): void {
  const taken = new Label();
  code.mov(gp.r2, mem(scratch, -64));
  code.zero(gp.r0);
  code.movImm(gp.r3, badIndexCode);
  code.lockCmpxchg32(mem(gp.r2), gp.r3);
  code.jcc("ne", taken);
  code.movsxd(gp.r1, place);
  code.mov(mem(gp.r2, 8), gp.r1);
  code.movMemImm(mem(gp.r2, 16), extent);
  code.movMemImm(mem(gp.r2, 24), step);
  code.bind(taken);
}
