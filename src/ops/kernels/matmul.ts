// Plain matrix product: row by row, accumulating in float64.

import { broadcastStrides, sizeOf } from "../../core/shape.ts";
import type { KernelArray } from "../define.ts";
import { offsetsOf } from "./loops.ts";

/** Row-major copy of the transpose of each [rows, columns] matrix. */
function transposed(x: KernelArray, rows: number, columns: number): Float32Array {
  const to = new Float32Array(x.data.length);
  for (let base = 0; base < to.length; base += rows * columns) {
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) to[base + c * rows + r] = x.data[base + r * columns + c]!;
    }
  }
  return to;
}

/** out [...B, M, N] = x [...B, M, K] y [...B, K, N], either operand transposed on request; batch axes broadcast; bias [N] starts every row. */
export function matmulKernel(
  x: KernelArray,
  y: KernelArray,
  transposeX: boolean,
  transposeY: boolean,
  out: KernelArray,
  bias?: KernelArray,
): void {
  const m = out.shape.at(-2)!;
  const n = out.shape.at(-1)!;
  const k = x.shape.at(transposeX ? -2 : -1)!;
  const a = transposeX ? transposed(x, k, m) : x.data;
  const b = transposeY ? transposed(y, n, k) : y.data;
  const batch = out.shape.slice(0, -2);
  const step = (operand: KernelArray) => offsetsOf(batch, broadcastStrides(operand.shape.slice(0, -2), batch));
  const [aBatch, bBatch] = [step(x), step(y)];
  const row = new Float64Array(n);
  for (let s = 0; s < sizeOf(batch); s++) {
    const aBase = aBatch[s]! * m * k;
    const bBase = bBatch[s]! * k * n;
    for (let i = 0; i < m; i++) {
      if (bias === undefined) row.fill(0);
      else row.set(bias.data);
      // Four rows of b at a time: the row of sums is read and written once for four products.
      const aRow = aBase + i * k;
      let p = 0;
      for (; p + 4 <= k; p += 4) {
        const [f0, f1, f2, f3] = [a[aRow + p]!, a[aRow + p + 1]!, a[aRow + p + 2]!, a[aRow + p + 3]!];
        const b0 = bBase + p * n;
        const [b1, b2, b3] = [b0 + n, b0 + 2 * n, b0 + 3 * n];
        for (let j = 0; j < n; j++) {
          row[j] = row[j]! + f0 * b[b0 + j]! + f1 * b[b1 + j]! + f2 * b[b2 + j]! + f3 * b[b3 + j]!;
        }
      }
      for (; p < k; p++) {
        const factor = a[aRow + p]!;
        const from = bBase + p * n;
        for (let j = 0; j < n; j++) row[j]! += factor * b[from + j]!;
      }
      out.data.set(row, (s * m + i) * n);
    }
  }
}
