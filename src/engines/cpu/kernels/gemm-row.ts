// Products of a few rows with a large matrix, as in decoding one token: the matrix is read once, where it is, as fast as memory gives it.
// `dot`: the matrix is contiguous along k; some of its rows at a time, sums across lanes at the end. `sum`: it is contiguous along the result;
// a few k at a time are added to a result kept in the first-level cache. Either way the order of sums depends on k only.

import { type Code, gp, mem, type Part, type Storage, storageBytes, type Vec } from "../code.ts";
import { addImm, countDown, emitDigits, inSteps, multiply, unrolled } from "./integers.ts";
import { emitPack, packRegisters } from "./pack.ts";
import type { Isa } from "./step.ts";

/** All that the code depends on: result[r][j] = Σ x[r][k] · w[j][k], for `rows` r and `columns` j. */
export interface RowKernel {
  readonly isa: Isa;
  readonly kind: "dot" | "sum";
  readonly k: number;
  readonly rows: number;
  readonly columns: number;
  /** Columns of a task, a multiple of the lanes. */
  readonly chunk: number;
  readonly batch: readonly number[];
  /** Strides in bytes. */
  readonly x: RowOperand;
  readonly w: RowOperand;
  /** The result's columns are contiguous. */
  readonly c: {
    readonly argument: number;
    readonly storage: Storage;
    readonly row: number;
    readonly batch: readonly number[];
  };
}
export interface RowOperand {
  readonly argument: number;
  readonly storage: Storage;
  /** Between rows of x, columns of the result for w. */
  readonly along: number;
  readonly overK: number;
  readonly batch: readonly number[];
}

const { r0, r1, r2, r3, r4, r5, r6, r9, r10, r11, r12, r13 } = gp;
/** Masks of the last columns and of the last k. */
const tailMask = 1;
const kMask = 2;

/** Most rows that a level has registers for. */
export const mostRows = {
  avx2: { dot: 8, sum: 7 },
  avx512: { dot: 8, sum: 8 },
  neon: { dot: 8, sum: 8 },
} as const satisfies Record<Isa, Record<RowKernel["kind"], number>>;

export function rowTasks({ batch, columns, chunk }: RowKernel): number {
  return batch.reduce((all, n) => all * n, 1) * Math.ceil(columns / chunk);
}

/** x is read in place if its elements can be: broadcast (sum) or loaded as vectors (dot). */
function xInPlace({ kind, x }: RowKernel): boolean {
  return x.storage === "fp32" && (kind === "sum" || x.overK === 4);
}

/** Bytes of a row of the copied x, and of the sums. */
function rowStrides({ k, chunk }: RowKernel): { x: number; sums: number } {
  return { x: Math.ceil(k / 16) * 64, sums: Math.ceil(chunk / 16) * 64 + 64 };
}

/** Offset of the copied x in a thread's scratch memory, behind the sums, and the size of both, in bytes. */
export function rowScratch(kernel: RowKernel): { x: number; bytes: number } {
  const strides = rowStrides(kernel);
  const x = strides.sums * kernel.rows;
  return { x, bytes: x + (xInPlace(kernel) ? 0 : strides.x * kernel.rows) };
}

/** Registers: r2 = scratch, which begins with the sums, r10 = columns, r11 = x, r12 = w, r13 = C. */
export function emitRows(code: Code, kernel: RowKernel): void {
  const { k, rows, columns, chunk, batch, x, w, c } = kernel;
  const chunks = Math.ceil(columns / chunk);
  const layout = rowScratch(kernel);
  code.mov(r9, r2);
  code.mov(r11, mem(r5, x.argument * 8));
  code.mov(r12, mem(r5, w.argument * 8));
  code.mov(r13, mem(r5, c.argument * 8));
  code.zero(r3);
  emitDigits(code, r4, [...batch, chunks], (digit, i) => {
    if (i === batch.length) return code.mov(r3, digit);
    for (const [pointer, stride] of [
      [r11, x.batch[i]!],
      [r12, w.batch[i]!],
      [r13, c.batch[i]!],
    ] as const) {
      if (stride === 0) continue;
      code.mov(r1, digit);
      multiply(code, r1, stride, r0);
      code.alu("add", pointer, r1);
    }
  });
  const shift = (pointer: number, bytes: number) => {
    code.mov(r1, r3);
    multiply(code, r1, chunk * bytes, r0);
    code.alu("add", pointer, r1);
  };
  shift(r12, w.along);
  shift(r13, storageBytes[c.storage]);
  code.movImm(r10, chunk);
  if (chunks * chunk !== columns) {
    code.movImm(r1, columns - (chunks - 1) * chunk);
    code.aluImm("cmp", r3, chunks - 1);
    code.cmov("e", r10, r1);
  }
  code.mov(r2, r9);
  let [xRow, xK] = [x.along, x.overK];
  if (!xInPlace(kernel)) {
    [xRow, xK] = [rowStrides(kernel).x, 4];
    code.mov(packRegisters.source, r11);
    code.lea(packRegisters.destination, mem(r2, layout.x));
    code.movImm(packRegisters.count, k);
    const { storage, along, overK } = x;
    emitPack(code, { storage, along, overK, width: rows, layout: "byRow", stride: xRow, kTail: k % code.lanes });
    code.lea(r11, mem(r2, layout.x));
  }
  if (kernel.kind === "dot") emitDots(code, kernel, xRow);
  else emitSums(code, kernel, xRow, xK);
  emitResult(code, kernel);
  code.ret();
}

/** Loops over the task's columns a vector at a time: r10 columns, counted down in r1. `body` moves its pointers. */
function overColumns(code: Code, { columns }: RowKernel, body: (part?: Part) => void): void {
  const rest = columns % code.lanes;
  code.mov(r1, r10);
  inSteps(code, r1, code.lanes, body, {
    boundary: 32,
    rest: rest > 0 ? () => body(code.setPart(rest, tailMask)) : undefined,
  });
}

/** Adds products of a few k to the sums, for all columns; then the next few. */
function emitSums(code: Code, kernel: RowKernel, xRow: number, xK: number): void {
  const { lanes, vectorBytes: length } = code;
  const { k, rows, w } = kernel;
  const strides = rowStrides(kernel);
  const most = [8, 4, 2, 1].find((steps) => steps * rows + rows + 2 <= code.registers)!;
  const factor = (step: number, row: number): Vec => rows + step * rows + row;
  const block = (steps: number) => {
    for (let s = 0; s < steps; s++)
      for (let r = 0; r < rows; r++) code.repeatFloat(factor(s, r), mem(r11, s * xK + r * xRow), "fp32");
    code.mov(r4, r12);
    code.mov(r5, r2);
    const temp = rows + steps * rows;
    overColumns(code, kernel, (part) => {
      for (let r = 0; r < rows; r++) code.vload(length, r, mem(r5, r * strides.sums));
      for (let s = 0; s < steps; s++) {
        if (steps > 1) code.prefetch("t0", mem(r4, (s + steps) * w.overK));
        code.loadFloats(temp, mem(r4, s * w.overK), w.storage, part);
        for (let r = 0; r < rows; r++) code.fma(r, temp, factor(s, r));
      }
      for (let r = 0; r < rows; r++) code.vstore(length, mem(r5, r * strides.sums), r);
      code.aluImm("add", r4, lanes * storageBytes[w.storage]);
      code.aluImm("add", r5, length);
    });
    addImm(code, r12, steps * w.overK, r0);
    addImm(code, r11, steps * xK, r0);
  };
  code.vzero(0);
  code.mov(r5, r2);
  overColumns(code, kernel, () => {
    for (let r = 0; r < rows; r++) code.vstore(length, mem(r5, r * strides.sums), 0);
    code.aluImm("add", r5, length);
  });
  code.movImm(r3, k);
  unrolled(code, r3, most, block);
}

/** Dot products of x's rows with a few of w's rows at a time. */
function emitDots(code: Code, kernel: RowKernel, xRow: number): void {
  const { lanes, vectorBytes: length } = code;
  const { k, rows, w } = kernel;
  const strides = rowStrides(kernel);
  const unit = storageBytes[w.storage];
  const most = Math.max(1, Math.min(8, Math.floor((code.registers - 2) / rows)));
  const temp = code.registers - 1;
  const xTemp = code.registers - 2;
  const kPart = k % lanes === 0 ? undefined : code.setPart(k % lanes, kMask);
  const group = (count: number) => {
    const acc = (g: number, r: number): Vec => g * rows + r;
    for (let i = 0; i < count * rows; i++) code.vzero(i);
    code.mov(r4, r12);
    code.mov(r6, r11);
    const full = Math.floor(k / lanes);
    const step = (vectors: number, part?: Part) => {
      for (let g = 0; g < count; g++) {
        if (part === undefined && count === most) code.prefetch("t0", mem(r4, (g + count) * w.along));
        for (let v = 0; v < vectors; v++) {
          code.loadFloats(temp, mem(r4, g * w.along + v * lanes * unit), w.storage, part);
          for (let r = 0; r < rows; r++) {
            const address = mem(r6, r * xRow + v * length);
            if (part === undefined) code.fma(acc(g, r), temp, address);
            else {
              code.loadFloats(xTemp, address, "fp32", part);
              code.fma(acc(g, r), temp, xTemp);
            }
          }
        }
      }
      code.aluImm("add", r4, vectors * lanes * unit);
      code.aluImm("add", r6, vectors * length);
    };
    // A prefetch for every line.
    const vectors = Math.max(1, 64 / (lanes * unit));
    if (full >= vectors) {
      code.movImm(r3, Math.floor(full / vectors));
      code.align(32);
      countDown(code, r3, () => step(vectors));
    }
    for (let i = 0; i < full % vectors; i++) step(1);
    if (kPart !== undefined) step(1, kPart);
    for (let g = 0; g < count; g++) {
      for (let r = 0; r < rows; r++) {
        code.sumLanes(acc(g, r), temp);
        code.storeFloat(mem(r5, r * strides.sums + g * 4), acc(g, r));
      }
    }
    addImm(code, r12, count * w.along, r0);
    code.aluImm("add", r5, count * 4);
  };
  code.mov(r5, r2);
  code.mov(r1, r10);
  unrolled(code, r1, most, group);
}

/** Sums to C. */
function emitResult(code: Code, kernel: RowKernel): void {
  const { lanes, vectorBytes: length } = code;
  const { rows, c } = kernel;
  const strides = rowStrides(kernel);
  code.mov(r5, r2);
  overColumns(code, kernel, (part) => {
    for (let r = 0; r < rows; r++) {
      code.vload(length, 0, mem(r5, r * strides.sums));
      code.storeFloats(mem(r13, r * c.row), 0, c.storage, part, 1);
    }
    code.aluImm("add", r5, length);
    code.aluImm("add", r13, lanes * storageBytes[c.storage]);
  });
}
