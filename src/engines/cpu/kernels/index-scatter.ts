// Plans for scatter: slices of a tensor added to or replaced by others, picked by indices.

import { gp, Label, type Length, mem, type Vec, type X64 } from "../isa/x64.ts";
import { evenPiece, planCopy, planFill, targetOf } from "./copy.ts";
import { addConstant, chunks, emitRun, enterTask, load, loadPart, multiply, storePart } from "./copy-moves.ts";
import { emitBadIndex, emitIndex } from "./index-check.ts";
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
    scratchBytes: 0,
    bytes: 16 * count,
    flops: 0,
    emit(asm) {
      const { r8: index, r9: head, r10: rows, r11: next, rdi: scratch, rsi: j } = gp;
      asm.mov(index, mem(gp.rdi, 0));
      asm.mov(head, mem(gp.rdi, 8));
      asm.mov(scratch, gp.rdx);
      asm.mov(rows, head);
      addConstant(asm, rows, 4 * extent);
      asm.lea(next, mem(rows, 4 * count));
      const bad = new Label();
      // First, every index is checked; -1 marks a slice of which none has been seen.
      asm.alu32("xor", j, j);
      asm.movImm(gp.rdx, -1);
      const check = asm.here();
      emitIndex(asm, mem(index, 0, j, 4), extent, bad);
      asm.mov32(mem(rows, 0, j, 4), gp.rcx);
      asm.mov32(mem(head, 0, gp.rcx, 4), mode === "add" ? gp.rdx : j);
      asm.aluImm("add", j, 1);
      asm.aluImm("cmp", j, count);
      asm.jcc("ne", check);
      // Then from the last to the first: each goes before the list of its slice.
      const link = asm.here();
      asm.aluImm("sub", j, 1);
      asm.mov32(gp.rcx, mem(rows, 0, j, 4));
      asm.movsxd(gp.rax, mem(head, 0, gp.rcx, 4));
      const skip = new Label();
      if (mode === "add") {
        asm.mov32(mem(next, 0, j, 4), gp.rax);
        asm.mov32(mem(head, 0, gp.rcx, 4), j);
        asm.test(gp.rax, gp.rax);
        asm.jcc("s", skip);
        asm.mov32(mem(rows, 0, gp.rax, 4), gp.rdx);
      } else {
        asm.alu("cmp", gp.rax, j);
        asm.jcc("e", skip);
        asm.mov32(mem(rows, 0, j, 4), gp.rdx);
      }
      asm.bind(skip);
      asm.test(j, j);
      asm.jcc("ne", link);
      asm.ret();
      asm.bind(bad);
      emitBadIndex(asm, scratch, mem(index, 0, j, 4), extent, step);
      asm.ret();
    },
  };
}

/** Accumulators: vectors, then halves and parts of one. */
interface Piece {
  readonly elements: number;
  readonly at: number;
}

const accumulators = 8;

function pieces(elements: number, isa: Isa): Piece[] {
  const list: Piece[] = [];
  let at = 0;
  for (const width of isa === "avx512" ? [16, 8, 4] : [8, 4]) {
    for (; at + width <= elements; at += width) list.push({ elements: width, at });
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
    emit(asm) {
      const { r12: rows, r9: updates, r10: out, r11: next, rsi: j, r13: end, r14: to, rbx: column } = gp;
      asm.mov(rows, mem(gp.rdi, 0));
      asm.mov(updates, mem(gp.rdi, 8));
      asm.mov(out, mem(gp.rdi, 16));
      addConstant(asm, rows, 4 * extent);
      asm.lea(next, mem(rows, 4 * count));
      asm.alu32("xor", column, column);
      if (columns > 1) {
        asm.mov(gp.rax, gp.rsi);
        asm.alu32("xor", gp.rdx, gp.rdx);
        asm.movImm(gp.rcx, columns);
        asm.div(gp.rcx);
        asm.mov(gp.rsi, gp.rax);
        asm.imulImm(column, gp.rdx, piece);
        asm.alu("add", updates, column);
        asm.alu("add", out, column);
      }
      asm.alu32("xor", gp.r8, gp.r8);
      enterTask(
        asm,
        cuts,
        gp.rsi,
        [
          { register: updates, strides: [count * row, 0] },
          { register: out, strides: [extent * row, 0] },
          { register: gp.r8, strides: [0, 1] },
        ],
        true,
      );
      asm.mov(j, gp.r8);
      asm.lea(end, mem(j, rowsPerTask));
      if (count % rowsPerTask !== 0) {
        asm.movImm(gp.rax, count);
        asm.alu("cmp", end, gp.rax);
        asm.cmov("a", end, gp.rax);
      }
      const block = (size: number) => {
        const top = asm.here();
        const skip = new Label();
        asm.movsxd(gp.rcx, mem(rows, 0, j, 4));
        asm.test(gp.rcx, gp.rcx);
        asm.jcc("s", skip);
        multiply(asm, to, gp.rcx, row);
        asm.alu("add", to, out);
        if (mode === "update") {
          multiply(asm, gp.r15, j, row);
          asm.alu("add", gp.r15, updates);
          emitRun(asm, isa, size, 0, 0, { from: gp.r15, to, index: gp.rax, small: gp.rcx });
        } else emitSums(asm, isa, spec, size / bytes, row);
        asm.bind(skip);
        asm.aluImm("add", j, 1);
        asm.alu("cmp", j, end);
        asm.jcc("ne", top);
        asm.ret();
      };
      const rest = row % piece;
      if (rest !== 0) {
        const whole = new Label();
        asm.aluImm("cmp", column, row - rest);
        asm.jcc("ne", whole);
        block(rest);
        asm.bind(whole);
      }
      block(piece);
    },
  };
}

/** Adds the list of updates that starts at j (rsi) to the row at r14; r9 updates, r11 next. */
function emitSums(asm: X64, isa: Isa, { dtype, zeroData = false }: ScatterSpec, elements: number, row: number): void {
  const { r14: to, r9: updates, r11: next, rsi: j, r15: from, rdi: offset } = gp;
  const bytes = dtype === "fp16" ? 2 : 4;
  const temp: Vec = 15;
  const add = dtype === "int32" ? "vpaddd" : "vaddps";
  const lengthOf = (n: number) => (n < 8 ? 16 : 4 * n) as Length;
  /** Register = `n` elements at a place, widened. */
  const read = (register: Vec, n: number, place: ReturnType<typeof mem>) => {
    if (n < 4) loadPart(asm, register, place, n * bytes);
    else if (dtype !== "fp16") return load(asm, lengthOf(n), register, place);
    if (dtype === "fp16") asm.v("vcvtph2ps", lengthOf(n), register, n < 4 ? register : place);
  };
  const group = (list: readonly Piece[]) => {
    list.forEach(({ elements: n, at }, i) => {
      if (zeroData) asm.v("vpxor", 16, i, i, i);
      else read(i, n, mem(to, at * bytes, offset));
    });
    asm.mov(gp.rax, j);
    const chain = asm.here();
    multiply(asm, from, gp.rax, row);
    asm.alu("add", from, updates);
    list.forEach(({ elements: n, at }, i) => {
      const place = mem(from, at * bytes, offset);
      const inMemory = n >= 4 && dtype !== "fp16";
      if (!inMemory) read(temp, n, place);
      asm.v(add, lengthOf(n), i, i, inMemory ? place : temp);
    });
    asm.movsxd(gp.rax, mem(next, 0, gp.rax, 4));
    asm.test(gp.rax, gp.rax);
    asm.jcc("ns", chain);
    list.forEach(({ elements: n, at }, i) => {
      const place = mem(to, at * bytes, offset);
      if (dtype === "fp16") {
        // 0: to nearest, ties to even.
        asm.extract("vcvtps2ph", lengthOf(n), n < 4 ? temp : place, i, 0);
        if (n < 4) storePart(asm, place, temp, n * bytes);
      } else if (n < 4) storePart(asm, place, i, n * bytes);
      else asm.store("vmovups", lengthOf(n), place, i);
    });
  };
  const wide = accumulators * (isa === "avx512" ? 16 : 8);
  const groups = Math.floor(elements / wide);
  asm.alu32("xor", offset, offset);
  if (groups > 0) {
    const top = asm.here();
    group(pieces(wide, isa));
    asm.aluImm("add", offset, wide * bytes);
    if (groups > 1) {
      asm.aluImm("cmp", offset, groups * wide * bytes);
      asm.jcc("ne", top);
    }
  }
  const rest = elements - groups * wide;
  if (rest > 0) group(pieces(rest, isa));
}
