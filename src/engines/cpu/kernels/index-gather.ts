// Plans for gather: slices of a tensor picked by indices.

import { entry, gp, Label, mem } from "../code.ts";
import { aheadOf, evenPiece, targetOf } from "./copy.ts";
import { addConstant, chunks, emitRun, enterTask } from "./copy-moves.ts";
import { emitBadIndex, emitIndex } from "./index-check.ts";
import { countDown, product } from "./integers.ts";
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
    bytes: 2 * total + 4 * count,
    flops: 0,
    emit(code) {
      const { r6: x, r7: out, r8: index, r5: scratch, r4: left, r9: from } = gp;
      code.mov(x, mem(entry.args, 0));
      code.mov(index, mem(entry.args, 8));
      code.mov(out, mem(entry.args, 16));
      code.mov(scratch, entry.scratch);
      enterTask(code, cuts, entry.task, [
        { register: x, strides: [extent * row, 0, 1] },
        { register: index, strides: [0, 4, 0] },
        { register: out, strides: [count * row, row, 1] },
      ]);
      const bad = new Label();
      const next = new Label();
      code.movImm(left, rows);
      countDown(code, left, () => {
        emitIndex(code, mem(index), extent, bad);
        product(code, from, gp.r1, row);
        code.alu("add", from, x);
        const ahead = aheadOf(piece, { n: count, from: 0, to: row }, total);
        emitRun(code, piece, 0, 0, { from, to: out, index: gp.r0, small: gp.r1 }, ahead);
        code.bind(next);
        addConstant(code, out, row);
        code.aluImm("add", index, 4);
      });
      code.ret();
      code.bind(bad);
      emitBadIndex(code, scratch, mem(index), extent, step);
      code.jmp(next);
    },
  };
}
