// Index arithmetic that the plain kernels share: broadcasting walks and the split of a tensor into kept and reduced axes.

import { broadcastStrides, sizeOf, stridesOf } from "../../core/shape.ts";
import type { KernelArray } from "../define.ts";

/** Row-major offsets of the index space `extents`, walked with `strides`. */
export function offsetsOf(extents: readonly number[], strides: readonly number[]): Int32Array {
  const offsets = new Int32Array(sizeOf(extents));
  let filled = 1;
  for (let axis = extents.length - 1; axis >= 0; axis--) {
    // Everything inside `axis` is in place; repeat it once per further index of this axis.
    const inner = filled;
    for (let index = 1; index < extents[axis]!; index++) {
      const shift = index * strides[axis]!;
      for (let i = 0; i < inner; i++) offsets[filled++] = offsets[i]! + shift;
    }
  }
  return offsets;
}

/** Offsets of the kept index space and, relative to them, of the reduced one. */
export function splitOffsets(
  shape: readonly number[],
  axes: readonly number[],
): { kept: Int32Array; reduced: Int32Array } {
  const strides = stridesOf(shape);
  const keptAxes = shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis));
  const pick = (list: readonly number[], from: readonly number[]) => list.map((axis) => from[axis]!);
  return {
    kept: offsetsOf(pick(keptAxes, shape), pick(keptAxes, strides)),
    reduced: offsetsOf(pick(axes, shape), pick(axes, strides)),
  };
}

/** out[i] = f(x[i]). */
export function map(f: (x: number) => number) {
  return (
    { x }: { readonly x: KernelArray },
    _attrs: unknown,
    [out]: readonly [KernelArray, ...KernelArray[]],
  ): void => {
    const from = x.data;
    const to = out.data;
    for (let i = 0; i < to.length; i++) to[i] = f(from[i]!);
  };
}

/** out[i] = f(x[i], y[i]) under broadcasting. */
export function zip(x: KernelArray, y: KernelArray, out: KernelArray, f: (x: number, y: number) => number): void {
  const a = x.data;
  const b = y.data;
  const to = out.data;
  if (a.length === to.length && b.length === to.length) {
    for (let i = 0; i < to.length; i++) to[i] = f(a[i]!, b[i]!);
    return;
  }
  const rowLength = out.shape.at(-1) ?? 1;
  const rows = out.shape.slice(0, -1);
  const xStrides = broadcastStrides(x.shape, out.shape);
  const yStrides = broadcastStrides(y.shape, out.shape);
  const xRows = offsetsOf(rows, xStrides.slice(0, -1));
  const yRows = offsetsOf(rows, yStrides.slice(0, -1));
  const xStep = xStrides.at(-1) ?? 0;
  const yStep = yStrides.at(-1) ?? 0;
  for (let row = 0, i = 0; row < xRows.length; row++) {
    let ia = xRows[row]!;
    let ib = yRows[row]!;
    for (let column = 0; column < rowLength; column++, ia += xStep, ib += yStep) to[i++] = f(a[ia]!, b[ib]!);
  }
}

/** out[i] = x[offsets[i]]. */
export function take(x: KernelArray, offsets: Int32Array, out: KernelArray): void {
  const from = x.data;
  const to = out.data;
  for (let i = 0; i < to.length; i++) to[i] = from[offsets[i]!]!;
}
