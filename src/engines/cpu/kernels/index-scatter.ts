// Plans for scatter: slices of a tensor added to or replaced by others, picked by indices.

import { type Code, entry, gp, Label, type Length, type Mem, mem, type Vec } from "../code.ts";
import { evenPiece, planCopy, planFill, targetOf } from "./copy.ts";
import { addConstant, chunks, emitRun, enterTask } from "./copy-moves.ts";
import { emitBadIndex, emitIndex } from "./index-check.ts";
import { product } from "./integers.ts";
import type { Isa, StepPlan } from "./step.ts";

/** out = data [outer, extent, inner] with updates [outer, count, inner] added to or in place of its slices index [count]. */
export interface ScatterSpec {
  readonly dtype: "fp32" | "fp16" | "int32";
  readonly outer: number;
  readonly extent: number;
  readonly inner: number;
  readonly count: number;
  readonly mode: "add" | "update";
  /** Data and out are the same memory. */
  readonly inPlace: boolean;
  /** Data is all zeros and is not read; out is written whole. */
  readonly zeroData?: boolean;
  /** Number by which an error names this step. */
  readonly step: number;
}

export type ScatterArg = "data" | "index" | "updates" | "out" | { readonly temp: number };

/** Steps to run in order, and the bytes of the temporaries they share. */
export interface ScatterPlan {
  readonly temps: readonly number[];
  readonly steps: readonly StepPlan<ScatterArg>[];
}

/**
 * Additions to one slice happen in the order of the indices, in fp32 (int32 for integers), and are rounded once:
 * the first step links the indices of each slice into a list, and one task walks it.
 */
export function planScatter(spec: ScatterSpec, isa: Isa, threads: number): ScatterPlan {
  const { dtype, outer, extent, inner, count, inPlace, zeroData = false } = spec;
  const bytes = dtype === "fp16" ? 2 : 4;
  const size = outer * extent * inner;
  const steps: StepPlan<ScatterArg>[] = [planLinks(spec)];
  if (zeroData) {
    steps.push({ ...planFill({ bytes, count: size, bits: 0 }, isa, threads), args: ["out"] });
  } else if (!inPlace) {
    const copy = planCopy({ bytes, shape: [size], from: [1], to: [1] }, isa, threads);
    steps.push({ ...copy, args: ["data", "out"] });
  }
  steps.push(planRows(spec, isa, threads));
  return { temps: [4 * (extent + 2 * count)], steps };
}

/**
 * Checks the indices and writes the lists: temp = head [extent], rows [count], next [count]. rows[j] is the slice that j is
 * the first to name (the last, in mode "update"), -1 where another one sees to it; next[j] is the next index of the same
 * slice, -1 at the end. Of `head` only what is named is touched.
 */
function planLinks({ extent, count, mode, step }: ScatterSpec): StepPlan<ScatterArg> {
  return {
    key: `scatter links ${JSON.stringify({ extent, count, mode, step })}`,
    tasks: 1,
    args: ["index", { temp: 0 }],
    bytes: 16 * count,
    flops: 0,
    emit(code) {
      const { r6: index, r7: head, r8: rows, r9: next, r5: scratch, r4: j } = gp;
      code.mov(index, mem(entry.args, 0));
      code.mov(head, mem(entry.args, 8));
      code.mov(scratch, entry.scratch);
      code.mov(rows, head);
      addConstant(code, rows, 4 * extent);
      code.lea(next, mem(rows, 4 * count));
      const bad = new Label();
      // First, every index is checked; -1 marks a slice of which none has been seen.
      code.zero(j);
      code.movImm(gp.r2, -1);
      const check = code.here();
      emitIndex(code, mem(index, 0, j, 4), extent, bad);
      code.mov32(mem(rows, 0, j, 4), gp.r1);
      code.mov32(mem(head, 0, gp.r1, 4), mode === "add" ? gp.r2 : j);
      code.aluImm("add", j, 1);
      code.aluImm("cmp", j, count);
      code.jcc("ne", check);
      // Then from the last to the first: each goes before the list of its slice.
      const link = code.here();
      code.aluImm("sub", j, 1);
      code.mov32(gp.r1, mem(rows, 0, j, 4));
      code.movsxd(gp.r0, mem(head, 0, gp.r1, 4));
      const skip = new Label();
      if (mode === "add") {
        code.mov32(mem(next, 0, j, 4), gp.r0);
        code.mov32(mem(head, 0, gp.r1, 4), j);
        code.test(gp.r0, gp.r0);
        code.jcc("s", skip);
        code.mov32(mem(rows, 0, gp.r0, 4), gp.r2);
      } else {
        code.alu("cmp", gp.r0, j);
        code.jcc("e", skip);
        code.mov32(mem(rows, 0, j, 4), gp.r2);
      }
      code.bind(skip);
      code.test(j, j);
      code.jcc("ne", link);
      code.ret();
      code.bind(bad);
      emitBadIndex(code, scratch, mem(index, 0, j, 4), extent, step);
      code.ret();
    },
  };
}

/** Accumulators: vectors, then halves and parts of one. */
interface Piece {
  readonly elements: number;
  readonly at: number;
}

const accumulators = 8;

function pieces(elements: number, lanes: number): Piece[] {
  const list: Piece[] = [];
  let at = 0;
  for (const width of [16, 8, 4]) {
    for (; width <= lanes && at + width <= elements; at += width) list.push({ elements: width, at });
  }
  if (at < elements) list.push({ elements: elements - at, at });
  return list;
}

function planRows(spec: ScatterSpec, isa: Isa, threads: number): StepPlan<ScatterArg> {
  const { dtype, outer, extent, inner, count, mode, zeroData = false } = spec;
  const bytes = dtype === "fp16" ? 2 : 4;
  const row = inner * bytes;
  const total = outer * count * row;
  const target = targetOf(total, threads);
  const piece = evenPiece(row, Math.max(64, target), 64);
  const rowsPerTask = evenPiece(count, Math.max(1, Math.floor(target / row)), 1);
  const columns = Math.ceil(row / piece);
  const cuts = [
    { n: outer, c: 1 },
    { n: count, c: rowsPerTask },
  ];
  const facts = { dtype, outer, extent, inner, count, mode, zeroData, piece, rowsPerTask };
  return {
    key: `scatter ${isa} ${JSON.stringify(facts)}`,
    tasks: columns * cuts.reduce((product, cut) => product * chunks(cut), 1),
    args: [{ temp: 0 }, "updates", "out"],
    bytes: (mode === "add" && !zeroData ? 3 : 2) * total + 8 * count,
    flops: mode === "add" ? outer * count * inner : 0,
    emit(code) {
      const { r10: rows, r7: updates, r8: out, r9: next, r4: j, r11: end, r12: to, r3: column } = gp;
      code.mov(rows, mem(entry.args, 0));
      code.mov(updates, mem(entry.args, 8));
      code.mov(out, mem(entry.args, 16));
      addConstant(code, rows, 4 * extent);
      code.lea(next, mem(rows, 4 * count));
      code.zero(column);
      if (columns > 1) {
        code.divide(entry.task, columns);
        code.imulImm(column, gp.r2, piece);
        code.alu("add", updates, column);
        code.alu("add", out, column);
      }
      code.zero(gp.r6);
      enterTask(
        code,
        cuts,
        entry.task,
        [
          { register: updates, strides: [count * row, 0] },
          { register: out, strides: [extent * row, 0] },
          { register: gp.r6, strides: [0, 1] },
        ],
        true,
      );
      code.mov(j, gp.r6);
      code.lea(end, mem(j, rowsPerTask));
      if (count % rowsPerTask !== 0) {
        code.movImm(gp.r0, count);
        code.alu("cmp", end, gp.r0);
        code.cmov("a", end, gp.r0);
      }
      const block = (size: number) => {
        const top = code.here();
        const skip = new Label();
        code.movsxd(gp.r1, mem(rows, 0, j, 4));
        code.test(gp.r1, gp.r1);
        code.jcc("s", skip);
        product(code, to, gp.r1, row);
        code.alu("add", to, out);
        if (mode === "update") {
          product(code, gp.r13, j, row);
          code.alu("add", gp.r13, updates);
          emitRun(code, size, 0, 0, { from: gp.r13, to, index: gp.r0, small: gp.r1 });
        } else emitSums(code, spec, size / bytes, row);
        code.bind(skip);
        code.aluImm("add", j, 1);
        code.alu("cmp", j, end);
        code.jcc("ne", top);
        code.ret();
      };
      const rest = row % piece;
      if (rest !== 0) {
        const whole = new Label();
        code.aluImm("cmp", column, row - rest);
        code.jcc("ne", whole);
        block(rest);
        code.bind(whole);
      }
      block(piece);
    },
  };
}

/** Adds the list of updates that starts at j (r4) to the row at r12; r7 updates, r9 next. */
function emitSums(code: Code, { dtype, zeroData = false }: ScatterSpec, elements: number, row: number): void {
  const { r12: to, r7: updates, r9: next, r4: j, r13: from, r5: offset } = gp;
  const bytes = dtype === "fp16" ? 2 : 4;
  const temp: Vec = 15;
  const lengthOf = (n: number) => (n < 8 ? 16 : 4 * n) as Length;
  /** Register = `n` elements at a place, widened. */
  const read = (register: Vec, n: number, place: Mem) => {
    if (n < 4) code.vloadPart(register, place, n * bytes);
    else if (dtype !== "fp16") return code.vload(lengthOf(n), register, place);
    if (dtype === "fp16") code.widen(lengthOf(n), register, n < 4 ? register : place);
  };
  const group = (list: readonly Piece[]) => {
    list.forEach(({ elements: n, at }, i) => {
      if (zeroData) code.vzero(i);
      else read(i, n, mem(to, at * bytes, offset));
    });
    code.mov(gp.r0, j);
    const chain = code.here();
    product(code, from, gp.r0, row);
    code.alu("add", from, updates);
    list.forEach(({ elements: n, at }, i) => {
      const place = mem(from, at * bytes, offset);
      const inMemory = n >= 4 && dtype !== "fp16";
      if (!inMemory) read(temp, n, place);
      if (dtype === "int32") code.viadd(i, i, inMemory ? place : temp, lengthOf(n));
      else code.vfloat("add", i, i, inMemory ? place : temp, lengthOf(n));
    });
    code.movsxd(gp.r0, mem(next, 0, gp.r0, 4));
    code.test(gp.r0, gp.r0);
    code.jcc("ns", chain);
    list.forEach(({ elements: n, at }, i) => {
      const place = mem(to, at * bytes, offset);
      if (dtype === "fp16") {
        code.narrow(lengthOf(n), n < 4 ? temp : place, i);
        if (n < 4) code.vstorePart(place, temp, n * bytes);
      } else if (n < 4) code.vstorePart(place, i, n * bytes);
      else code.vstore(lengthOf(n), place, i);
    });
  };
  const wide = accumulators * code.lanes;
  const groups = Math.floor(elements / wide);
  code.zero(offset);
  if (groups > 0) {
    const top = code.here();
    group(pieces(wide, code.lanes));
    code.aluImm("add", offset, wide * bytes);
    if (groups > 1) {
      code.aluImm("cmp", offset, groups * wide * bytes);
      code.jcc("ne", top);
    }
  }
  const rest = elements - groups * wide;
  if (rest > 0) group(pieces(rest, code.lanes));
}
