// Slices. On chips with `widthSliceMax` a slice at an offset of the last axis turns larger values into infinity, so every operator that is such a
// slice takes another way. All of it moves elements only: the same bits.

import { isFloat } from "../../core/dtype.ts";
import { sameShape, sizeOf } from "../../core/shape.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { type Rule, rule } from "../rewrite.ts";
import { fitsChip } from "../support.ts";
import type { Target } from "./dialect.ts";

/** fp16 elements in the granule to which the engine pads the last axis (mil §4: 16 bytes): narrower rows waste it. */
const granule = 8;

function gcd(a: number, b: number): number {
  while (b !== 0) [a, b] = [b, a % b];
  return a;
}

/** Positions [begin, begin + size) of the last axis without an offset on the last axis. */
function sliceWidth(x: Tensor, begin: number, size: number, { chip }: Target): Tensor {
  const lead = x.shape.slice(0, -1);
  const width = x.shape.at(-1)!;
  const last = <T>(list: readonly T[], value: T) => [...list, value];
  const block = gcd(gcd(begin, size), width);
  if (block >= granule || lead.length === 0) {
    // The last axis as rows of `block`: the slice takes whole rows.
    const rows = (count: number): number[][] => [
      [sizeOf(lead), count, block],
      ...(lead.length > 1 ? [[lead[0]!, sizeOf(lead.slice(1)), count, block]] : []),
      ...(lead.length < 4 ? [[...lead, count, block]] : []),
    ];
    const fitting = rows(width / block).findIndex((shape) => fitsChip({ dtype: x.dtype, shape }, chip));
    const at = lead.length === 0 ? 0 : fitting; // a vector has no other axis to exchange with
    if (at >= 0) {
      const shape = rows(size / block)[at]!;
      const from = shape.map((_, axis) => (axis === shape.length - 2 ? begin / block : 0));
      return x
        .reshape(rows(width / block)[at]!)
        .sliceBySize(from, shape)
        .reshape(last(lead, size));
    }
  }
  const moved = x.transpose(); // [..., W, A]
  const shape = [...lead.slice(0, -1), size, lead.at(-1)!];
  return moved
    .sliceBySize(
      shape.map((_, axis) => (axis === shape.length - 2 ? begin : 0)),
      shape,
    )
    .transpose();
}

/** The block of `size` from `begin`: other axes first, then the last one. */
function block(x: Tensor, begin: readonly number[], size: readonly number[], target: Target): Tensor {
  const last = begin.length - 1;
  const width = x.shape[last]!;
  const full = x.sliceBySize([...begin.slice(0, -1), 0], [...size.slice(0, -1), width]);
  return sliceWidth(full, begin[last]!, size[last]!, target);
}

/** Every `step`-th of an axis from its first position, as the first column of rows of `step`. */
function everyNth(x: Tensor, axis: number, step: number): Tensor {
  const [before, extent, after] = [x.shape.slice(0, axis), x.shape[axis]!, x.shape.slice(axis + 1)];
  const count = Math.ceil(extent / step);
  let rows = x.reshape([sizeOf(before), extent, sizeOf(after)]);
  if (count * step > extent) rows = rows.pad([0, count * step - extent, 0, 0]);
  return rows
    .reshape([sizeOf(before), count, step, sizeOf(after)])
    .sliceBySize([0, 0, 0, 0], [sizeOf(before), count, 1, sizeOf(after)])
    .reshape([...before, count, ...after]);
}

export function sliceRules(target: Target): Rule[] {
  const { chip, natives } = target;
  const narrow = (x: Tensor) => chip.limits.widthSliceMax !== undefined && x.dtype === "fp16";
  return [
    rule(ops.slice_by_size, "width-slice", ({ x }, { begin, size }) =>
      narrow(x) && begin.at(-1)! > 0 ? block(x, begin, size, target) : undefined,
    ),
    // A slice without strides is written as slice_by_size (mil §7: slice_by_index on function inputs is refused in some programs).
    rule(ops.slice_by_index, "slice-by-index", ({ x }, { begin, end, stride }, { results }) => {
      const { shape } = results[0]!;
      const counts = begin.map((from, axis) => Math.ceil((end[axis]! - from) / stride[axis]!));
      const step = counts.map((count, axis) => (count === 1 ? 1 : stride[axis]!));
      const strided = step.some((each) => each > 1);
      const size = counts.map((count, axis) => (count - 1) * step[axis]! + 1);
      if (!strided) return x.sliceBySize(begin, size).reshape(shape);
      if (natives.stridedSlice || !isFloat(x.dtype)) {
        const squeezes = shape.length !== x.rank;
        if (!squeezes && !(narrow(x) && begin.at(-1)! > 0)) return undefined;
        const cut = narrow(x) && begin.at(-1)! > 0 ? x.sliceBySize(begin, size) : undefined;
        const from = cut === undefined ? begin : begin.map(() => 0);
        const to = from.map((first, axis) => first + size[axis]!);
        return (cut ?? x).sliceByIndex(from, to, { stride: step }).reshape(shape);
      }
      // One row more than is needed saves the padding, where there is one.
      const room = size.map((count, axis) => Math.min(x.shape[axis]! - begin[axis]!, count + step[axis]! - 1));
      let part = x.sliceBySize(begin, room);
      for (let axis = 0; axis < x.rank; axis++) if (step[axis]! > 1) part = everyNth(part, axis, step[axis]!);
      return sameShape(part.shape, shape) ? part : part.reshape(shape);
    }),
    // Parts that nobody reads are not made: a result without a reader is no value that the chip could return (mil §7 #17).
    rule(ops.split, "split", ({ x }, { splitSizes, axis }, { used }) => {
      if (used.every((each) => each) && !(narrow(x) && axis === x.rank - 1)) return undefined;
      let start = 0;
      return splitSizes.map((count, i) => {
        const begin = x.shape.map((_, each) => (each === axis ? start : 0));
        start += count;
        if (!used[i]) return undefined;
        return x.sliceBySize(
          begin,
          x.shape.map((extent, each) => (each === axis ? count : extent)),
        );
      });
    }),
  ];
}
