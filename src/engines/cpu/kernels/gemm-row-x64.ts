// Products of a few rows with a large matrix, as in decoding one token: the matrix is read once, where it is, as fast as memory gives it.
// `dot`: the matrix is contiguous along k; some of its rows at a time, sums across lanes at the end. `sum`: it is contiguous along the result;
// a few k at a time are added to a result kept in the first-level cache. Either way the order of sums depends on k only.

import { gp, Label, type Mask, mem, type Vec, type X64 } from "../isa/x64.ts";
import { addImm, multiply, type Part, Simd, type Storage, storageBytes } from "./gemm-simd.ts";
import { emitDigits } from "./gemm-x64.ts";
import { emitPack } from "./pack-x64.ts";
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

const { rax, rcx, rdx, rbx, rsi, rdi, r8, r9, r12, r13, r14, r15 } = gp;
const tailMask: Mask = 1;
const kMask: Mask = 2;

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

export function rowScratch(kernel: RowKernel): { sums: number; x: number; bytes: number } {
  const strides = rowStrides(kernel);
  const sums = strides.sums * kernel.rows;
  return { sums: 0, x: sums, bytes: sums + (xInPlace(kernel) ? 0 : strides.x * kernel.rows) };
}

/** Registers: rdx = scratch, r12 = columns, r13 = x, r14 = w, r15 = C. */
export function emitRows(asm: X64, kernel: RowKernel): void {
  const { k, rows, columns, chunk, batch, x, w, c } = kernel;
  const simd = new Simd(asm, kernel.isa);
  const chunks = Math.ceil(columns / chunk);
  const layout = rowScratch(kernel);
  asm.push(rdx);
  asm.mov(r13, mem(rdi, x.argument * 8));
  asm.mov(r14, mem(rdi, w.argument * 8));
  asm.mov(r15, mem(rdi, c.argument * 8));
  asm.alu32("xor", rbx, rbx);
  emitDigits(asm, rsi, [...batch, chunks], (digit, i) => {
    if (i === batch.length) return asm.mov(rbx, digit);
    for (const [pointer, stride] of [
      [r13, x.batch[i]!],
      [r14, w.batch[i]!],
      [r15, c.batch[i]!],
    ] as const) {
      if (stride === 0) continue;
      asm.mov(rcx, digit);
      multiply(asm, rcx, stride, rax);
      asm.alu("add", pointer, rcx);
    }
  });
  const shift = (pointer: number, bytes: number) => {
    asm.mov(rcx, rbx);
    multiply(asm, rcx, chunk * bytes, rax);
    asm.alu("add", pointer, rcx);
  };
  shift(r14, w.along);
  shift(r15, storageBytes[c.storage]);
  asm.movImm(r12, chunk);
  if (chunks * chunk !== columns) {
    asm.movImm(rcx, columns - (chunks - 1) * chunk);
    asm.aluImm("cmp", rbx, chunks - 1);
    asm.cmov("e", r12, rcx);
  }
  asm.pop(rdx);
  let [xRow, xK] = [x.along, x.overK];
  if (!xInPlace(kernel)) {
    [xRow, xK] = [rowStrides(kernel).x, 4];
    asm.mov(r8, r13);
    asm.lea(r9, mem(rdx, layout.x));
    asm.movImm(rcx, k);
    const { storage, along, overK } = x;
    emitPack(simd, { storage, along, overK, width: rows, layout: "byRow", stride: xRow, kTail: k % simd.lanes });
    asm.lea(r13, mem(rdx, layout.x));
  }
  if (kernel.kind === "dot") emitDots(simd, kernel, xRow);
  else emitSums(simd, kernel, xRow, xK);
  emitResult(simd, kernel);
  asm.ret();
  simd.finish();
}

/** Loops over the task's columns a vector at a time: r12 columns, counted down in rcx. `body` moves its pointers. */
function overColumns(simd: Simd, { columns }: RowKernel, body: (part?: Part) => void): void {
  const { asm, lanes } = simd;
  const tail = new Label();
  const done = new Label();
  asm.mov(rcx, r12);
  asm.aluImm("sub", rcx, lanes);
  asm.jcc("l", tail);
  asm.align(32);
  const top = asm.here();
  body();
  asm.aluImm("sub", rcx, lanes);
  asm.jcc("ge", top);
  asm.bind(tail);
  if (columns % lanes === 0) return;
  asm.aluImm("add", rcx, lanes);
  asm.jcc("e", done);
  body(simd.setPart(columns % lanes, tailMask));
  asm.bind(done);
}

/** Adds products of a few k to the sums, for all columns; then the next few. */
function emitSums(simd: Simd, kernel: RowKernel, xRow: number, xK: number): void {
  const { asm, lanes, length } = simd;
  const { k, rows, w } = kernel;
  const strides = rowStrides(kernel);
  const sums = rowScratch(kernel).sums;
  const most = [8, 4, 2, 1].find((steps) => steps * rows + rows + 2 <= simd.registers)!;
  const factor = (step: number, row: number): Vec => rows + step * rows + row;
  const block = (steps: number) => {
    for (let s = 0; s < steps; s++)
      for (let r = 0; r < rows; r++) simd.broadcast(factor(s, r), mem(r13, s * xK + r * xRow), "fp32");
    asm.mov(rsi, r14);
    asm.lea(rdi, mem(rdx, sums));
    const temp = rows + steps * rows;
    overColumns(simd, kernel, (part) => {
      for (let r = 0; r < rows; r++) asm.v("vmovups", length, r, mem(rdi, r * strides.sums));
      for (let s = 0; s < steps; s++) {
        if (steps > 1) asm.prefetch("t0", mem(rsi, (s + steps) * w.overK));
        simd.load(temp, mem(rsi, s * w.overK), w.storage, part);
        for (let r = 0; r < rows; r++) simd.fma(r, temp, factor(s, r));
      }
      for (let r = 0; r < rows; r++) asm.store("vmovups", length, mem(rdi, r * strides.sums), r);
      asm.aluImm("add", rsi, lanes * storageBytes[w.storage]);
      asm.aluImm("add", rdi, length);
    });
    addImm(asm, r14, steps * w.overK, rax);
    addImm(asm, r13, steps * xK, rax);
  };
  simd.zero(0);
  asm.lea(rdi, mem(rdx, sums));
  overColumns(simd, kernel, () => {
    for (let r = 0; r < rows; r++) asm.store("vmovups", length, mem(rdi, r * strides.sums), 0);
    asm.aluImm("add", rdi, length);
  });
  const single = new Label();
  const done = new Label();
  asm.movImm(rbx, k);
  if (most > 1) {
    asm.aluImm("sub", rbx, most);
    asm.jcc("l", single);
    const top = asm.here();
    block(most);
    asm.aluImm("sub", rbx, most);
    asm.jcc("ge", top);
    asm.bind(single);
    asm.aluImm("add", rbx, most);
    asm.jcc("e", done);
  }
  const rest = asm.here();
  block(1);
  asm.aluImm("sub", rbx, 1);
  asm.jcc("ne", rest);
  asm.bind(done);
}

/** Dot products of x's rows with a few of w's rows at a time. */
function emitDots(simd: Simd, kernel: RowKernel, xRow: number): void {
  const { asm, lanes, length } = simd;
  const { k, rows, w } = kernel;
  const strides = rowStrides(kernel);
  const unit = storageBytes[w.storage];
  const most = Math.max(1, Math.min(8, Math.floor((simd.registers - 2) / rows)));
  const temp = simd.registers - 1;
  const xTemp = simd.registers - 2;
  const kPart = k % lanes === 0 ? undefined : simd.setPart(k % lanes, kMask);
  const group = (count: number) => {
    const acc = (g: number, r: number): Vec => g * rows + r;
    for (let i = 0; i < count * rows; i++) simd.zero(i);
    asm.mov(rsi, r14);
    asm.mov(r8, r13);
    const full = Math.floor(k / lanes);
    const step = (vectors: number, part?: Part) => {
      for (let g = 0; g < count; g++) {
        if (part === undefined && count === most) asm.prefetch("t0", mem(rsi, (g + count) * w.along));
        for (let v = 0; v < vectors; v++) {
          simd.load(temp, mem(rsi, g * w.along + v * lanes * unit), w.storage, part);
          for (let r = 0; r < rows; r++) {
            const address = mem(r8, r * xRow + v * length);
            if (part === undefined) simd.fma(acc(g, r), temp, address);
            else {
              simd.load(xTemp, address, "fp32", part);
              simd.fma(acc(g, r), temp, xTemp);
            }
          }
        }
      }
      asm.aluImm("add", rsi, vectors * lanes * unit);
      asm.aluImm("add", r8, vectors * length);
    };
    // A prefetch for every line.
    const vectors = Math.max(1, 64 / (lanes * unit));
    if (full >= vectors) {
      asm.movImm(rbx, Math.floor(full / vectors));
      asm.align(32);
      const top = asm.here();
      step(vectors);
      asm.aluImm("sub", rbx, 1);
      asm.jcc("ne", top);
    }
    for (let i = 0; i < full % vectors; i++) step(1);
    if (kPart !== undefined) step(1, kPart);
    for (let g = 0; g < count; g++) {
      for (let r = 0; r < rows; r++) {
        reduce(simd, acc(g, r), temp);
        asm.vmovssStore(mem(rdi, r * strides.sums + g * 4), acc(g, r));
      }
    }
    addImm(asm, r14, count * w.along, rax);
    asm.aluImm("add", rdi, count * 4);
  };
  asm.lea(rdi, mem(rdx, rowScratch(kernel).sums));
  asm.mov(rcx, r12);
  const single = new Label();
  const done = new Label();
  if (most > 1) {
    asm.aluImm("sub", rcx, most);
    asm.jcc("l", single);
    const top = asm.here();
    group(most);
    asm.aluImm("sub", rcx, most);
    asm.jcc("ge", top);
    asm.bind(single);
    asm.aluImm("add", rcx, most);
    asm.jcc("e", done);
  }
  const rest = asm.here();
  group(1);
  asm.aluImm("sub", rcx, 1);
  asm.jcc("ne", rest);
  asm.bind(done);
}

/** Sum of all lanes into the first; clobbers `temp`. */
function reduce({ asm, lanes }: Simd, v: Vec, temp: Vec): void {
  if (lanes === 16) {
    asm.extract("vextractf64x4", 64, temp, v, 1);
    asm.v("vaddps", 32, v, v, temp);
  }
  asm.extract(lanes === 16 ? "vextractf32x4" : "vextractf128", 32, temp, v, 1);
  asm.v("vaddps", 16, v, v, temp);
  asm.vi("vpermilps", 16, temp, undefined, v, 0b1110);
  asm.v("vaddps", 16, v, v, temp);
  asm.v("vmovshdup", 16, temp, v);
  asm.v("vaddps", 16, v, v, temp);
}

/** Sums to C. */
function emitResult(simd: Simd, kernel: RowKernel): void {
  const { asm, lanes, length } = simd;
  const { rows, c } = kernel;
  const strides = rowStrides(kernel);
  asm.lea(rdi, mem(rdx, rowScratch(kernel).sums));
  overColumns(simd, kernel, (part) => {
    for (let r = 0; r < rows; r++) {
      asm.v("vmovups", length, 0, mem(rdi, r * strides.sums));
      simd.store(mem(r15, r * c.row), 0, c.storage, part, 1);
    }
    asm.aluImm("add", rdi, length);
    asm.aluImm("add", r15, lanes * storageBytes[c.storage]);
  });
}
