// Plans for gather: slices of a tensor picked by indices.

import { gp, Label, mem } from "../isa/x64.ts";
import { aheadOf, evenPiece, targetOf } from "./copy.ts";
import { addConstant, chunks, emitRun, enterTask, multiply } from "./copy-moves.ts";
import { emitBadIndex, emitIndex } from "./index-check.ts";
import type { Isa, StepPlan } from "./step.ts";

/** out[o, j, :] = x[o, index[j], :] for x [outer, extent, inner], int32 index [count], out [outer, count, inner]. */
export interface GatherSpec {
  /** Bytes of an element. */
  readonly bytes: 1 | 2 | 4;
  readonly outer: number;
  readonly extent: number;
  readonly inner: number;
  readonly count: number;
  /** Number by which an error names this step. */
  readonly step: number;
}

export function planGather(spec: GatherSpec, isa: Isa, threads: number): StepPlan<"x" | "index" | "out"> {
  const { bytes, outer, extent, inner, count, step } = spec;
  const row = inner * bytes;
  const total = outer * count * row;
  const target = targetOf(total, threads);
  const piece = evenPiece(row, Math.max(64, target), 64);
  const rows = evenPiece(count, Math.max(1, Math.floor(target / row)), 1);
  const cuts = [
    { n: outer, c: 1 },
    { n: count, c: rows },
    { n: row, c: piece },
  ];
  return {
    key: `gather ${isa} ${JSON.stringify({ outer, extent, row, count, rows, piece, step })}`,
    tasks: cuts.reduce((product, cut) => product * chunks(cut), 1),
    args: ["x", "index", "out"],
    scratchBytes: 0,
    bytes: 2 * total + 4 * count,
    flops: 0,
    emit(asm) {
      const { r8: x, r9: out, r10: index, rdi: scratch, rsi: left, r11: from } = gp;
      asm.mov(x, mem(gp.rdi, 0));
      asm.mov(index, mem(gp.rdi, 8));
      asm.mov(out, mem(gp.rdi, 16));
      asm.mov(scratch, gp.rdx);
      enterTask(asm, cuts, gp.rsi, [
        { register: x, strides: [extent * row, 0, 1] },
        { register: index, strides: [0, 4, 0] },
        { register: out, strides: [count * row, row, 1] },
      ]);
      const bad = new Label();
      const next = new Label();
      asm.movImm(left, rows);
      const top = asm.here();
      emitIndex(asm, mem(index), extent, bad);
      multiply(asm, from, gp.rcx, row);
      asm.alu("add", from, x);
      const ahead = aheadOf(piece, { n: count, from: 0, to: row }, total);
      emitRun(asm, isa, piece, 0, 0, { from, to: out, index: gp.rax, small: gp.rcx }, ahead);
      asm.bind(next);
      addConstant(asm, out, row);
      asm.aluImm("add", index, 4);
      asm.aluImm("sub", left, 1);
      asm.jcc("ne", top);
      asm.ret();
      asm.bind(bad);
      emitBadIndex(asm, scratch, mem(index), extent, step);
      asm.jmp(next);
    },
  };
}
