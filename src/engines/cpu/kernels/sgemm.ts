// Matrix products by a library's `cblas_sgemm` instead of kernels of our own: which it can compute, and the code that calls it.

import type { Address } from "../../os/index.ts";
import { type CArgument, type Code, entry, gp, mem } from "../code.ts";
import type { GemmArgument, GemmSpec, Matrix } from "./gemm.ts";
import { emitDigits, multiply } from "./integers.ts";
import type { StepPlan } from "./step.ts";

/** Kinds of products that are measured apart: one of a few rows or columns reads memory, those of a batch run side by side. */
export const productKinds = ["few rows", "batch", "single"] as const;
export type ProductKind = (typeof productKinds)[number];
const fewRows = 8;

/** A product's extents. */
export interface ProductSize {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch: readonly number[];
}

export function kindOf({ m, n, batch }: ProductSize): ProductKind {
  if (Math.min(m, n) <= fewRows) return "few rows";
  return batch.some((size) => size > 1) ? "batch" : "single";
}

/** Operations of one call: of one product of a batch. */
export function callFlops({ m, n, k }: ProductSize): number {
  return 2 * m * n * k;
}

/** A library's matrix product, and what it is used for. */
export interface Sgemm {
  /** Name of the library, for reports. */
  readonly library: string;
  /** Of its `cblas_sgemm`. */
  readonly address: Address;
  /** Operations of a call from which on it is used; Infinity for never. */
  readonly from: Readonly<Record<ProductKind, number>>;
  /** Extents of the smallest products that were timed, beside few rows, which were not in batches: what is smaller is left to our kernels. */
  readonly least?: number;
}

/** An operand as the library takes it: rows that stand `leading` elements apart, or those of its transpose. */
interface Operand {
  readonly argument: number;
  readonly transposed: boolean;
  readonly leading: number;
  /** Strides in bytes. */
  readonly batch: readonly number[];
}

interface SgemmKernel extends ProductSize {
  readonly a: Operand;
  readonly b: Operand;
  readonly c: Operand;
}

/** The largest value of C's int. */
const mostInt = 2 ** 31 - 1;
const floatBytes = 4;

/** `argument` is left for the caller to fill in. Undefined where the strides are none that the library knows. */
function operandOf({ dtype, row, column, batch }: Matrix, rows: number, columns: number): Operand | undefined {
  if (dtype !== "fp32") return undefined;
  const strides = batch.map((stride) => stride * floatBytes);
  for (const transposed of [false, true]) {
    const [step, unit, count, length] = transposed ? [column, row, columns, rows] : [row, column, rows, columns];
    // A single row may have any stride: it must only be a valid one.
    const leading = count === 1 ? Math.max(length, 1) : step;
    const fits = (unit === 1 || length === 1) && leading >= length && leading <= mostInt;
    if (fits) return { argument: 0, transposed, leading, batch: strides };
  }
  return undefined;
}

const transposeOf = (matrix: Matrix): Matrix => ({ ...matrix, row: matrix.column, column: matrix.row });

/** A product as one task for each element of its batch; undefined where the library cannot compute it, or is not to. */
export function planSgemm(
  spec: GemmSpec,
  { address, from, least = 1 }: Sgemm,
): Omit<StepPlan<GemmArgument>, "bytes" | "flops"> | undefined {
  if ((spec.sums ?? []).length > 0) return undefined;
  const kind = kindOf(spec);
  const extents = kind === "few rows" ? [Math.max(spec.m, spec.n), spec.k] : [spec.m, spec.n, spec.k];
  const isBatch = spec.batch.some((extent) => extent > 1);
  if (Math.min(...extents) < least || (least > 1 && kind === "few rows" && isBatch)) return undefined;
  if (callFlops(spec) < from[kind] || Math.max(spec.m, spec.n, spec.k) > mostInt) return undefined;
  // The library stores rows here: columns are the rows of the transposed product, whose factors change places.
  const byRow = operandOf(spec.c, spec.m, spec.n)?.transposed === false;
  const [m, n] = byRow ? [spec.m, spec.n] : [spec.n, spec.m];
  const [left, right] = byRow ? ([spec.a, spec.b] as const) : ([transposeOf(spec.b), transposeOf(spec.a)] as const);
  const { k, batch } = spec;
  const a = operandOf(left, m, k);
  const b = operandOf(right, k, n);
  const c = operandOf(byRow ? spec.c : transposeOf(spec.c), m, n);
  if (a === undefined || b === undefined || c === undefined || c.transposed) return undefined;
  const args: GemmArgument[] = byRow ? ["a", "b", "c"] : ["b", "a", "c"];
  const at = (argument: number, operand: Operand) => ({ ...operand, argument });
  const kernel: SgemmKernel = { m, n, k, batch, a: at(0, a), b: at(1, b), c: at(2, c) };
  return {
    key: `sgemm ${address} ${JSON.stringify(kernel)}`,
    tasks: batch.reduce((all, size) => all * size, 1),
    args,
    emit: (code) => emitSgemm(code, kernel, address),
  };
}

/** Constants of cblas.h. */
const cblas = { rowMajor: 101, noTrans: 111, trans: 112 } as const;

/** One call: the operands' addresses, moved to the task's element of the batch. */
function emitSgemm(code: Code, { m, n, k, batch, a, b, c }: SgemmKernel, address: Address): void {
  const { r0, r1, r10, r11, r12 } = gp;
  const operands = [
    [r10, a],
    [r11, b],
    [r12, c],
  ] as const;
  code.enter(0);
  for (const [register, { argument }] of operands) code.mov(register, mem(entry.args, 8 * argument));
  emitDigits(code, entry.task, batch, (digit, axis) => {
    for (const [register, operand] of operands) {
      const stride = operand.batch[axis]!;
      if (stride === 0) continue;
      code.mov(r1, digit);
      multiply(code, r1, stride, r0);
      code.alu("add", register, r1);
    }
  });
  code.endVectors(); // C code of any kind may follow
  const matrix = (pointer: number, { leading }: Operand): CArgument[] => [{ pointer }, { int: leading }];
  const layout = ({ transposed }: Operand): CArgument => ({ int: transposed ? cblas.trans : cblas.noTrans });
  code.callC(address, [
    { int: cblas.rowMajor },
    layout(a),
    layout(b),
    { int: m },
    { int: n },
    { int: k },
    { float: 1 },
    ...matrix(r10, a),
    ...matrix(r11, b),
    { float: 0 }, // what C holds is not read
    ...matrix(r12, c),
  ]);
  code.leave(0);
  code.ret();
}
