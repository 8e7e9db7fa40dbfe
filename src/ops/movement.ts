// Operators that only move elements: reshape, transpose, slices, concatenation, padding, tiling, image rearrangements.

import type { Chip } from "../chips/index.ts";
import { ConfigError, formatShape, ShapeError } from "../core/errors.ts";
import { type Aval, maxRank, normalizeAxes, normalizeAxis, sizeOf, stridesOf } from "../core/shape.ts";
import type { Tensor } from "../tensor.ts";
import {
  anything,
  bool,
  bools,
  defineOp,
  float,
  floats,
  int,
  ints,
  type KernelArray,
  oneOf,
  uint,
  variadic,
} from "./define.ts";
import { offsetsOf, take } from "./kernels/loops.ts";
import type { Native, NativeArray } from "./native.ts";
import { since } from "./support.ts";

function copy(
  { x }: { readonly x: KernelArray },
  _attrs: unknown,
  [out]: readonly [KernelArray, ...KernelArray[]],
): void {
  out.data.set(x.data);
}

function reshaped(n: Native, { x }: { readonly x: NativeArray }, _attrs: unknown, [out]: readonly [Aval, ...Aval[]]) {
  return n.reshape(x, out.shape);
}

export const reshape = defineOp({
  name: "reshape",
  doc: "The same elements in row-major order under another shape; one extent may be -1.",
  inputs: { x: anything },
  attrs: { shape: ints() },
  complete({ x }, { shape }) {
    // MIL's shape operand has at least one entry.
    if (shape.length === 0) throw new ShapeError("reshape", "the shape is empty; squeeze gives a scalar");
    const holes = shape.filter((extent) => extent === -1).length;
    const bad = shape.find((extent) => extent !== -1 && extent < 1);
    if (bad !== undefined)
      throw new ShapeError("reshape", `extent ${bad} of ${formatShape(shape)} is neither positive nor -1`);
    if (holes > 1)
      throw new ShapeError("reshape", `${formatShape(shape)} has ${holes} extents -1, at most one is allowed`);
    const known = sizeOf(shape.filter((extent) => extent !== -1));
    const size = sizeOf(x.shape);
    if (holes === 1 ? size % known !== 0 : size !== known) {
      throw new ShapeError("reshape", `${size} elements do not fit ${formatShape(shape)}`);
    }
    return { shape: shape.map((extent) => (extent === -1 ? size / known : extent)) };
  },
  infer: ({ x }, { shape }) => ({ dtype: x.dtype, shape }),
  vjp: ({ x }, _attrs, { g }) => ({ x: () => g.reshape(x.shape) }),
  kernel: copy,
  native: reshaped,
  nativeExact: true,
});

export const transpose = defineOp({
  name: "transpose",
  doc: "Axes in the order `perm`: result axis i is axis perm[i] of x.",
  inputs: { x: anything },
  attrs: { perm: ints() },
  complete({ x }, { perm }) {
    const rank = x.shape.length;
    if (rank === 0) throw new ShapeError("transpose", "x is a scalar and has no axes");
    if (perm.length !== rank)
      throw new ConfigError("transpose", `perm ${formatShape(perm)} has ${perm.length} entries, x has rank ${rank}`);
    normalizeAxes("transpose", perm, rank); // each axis once
    return { perm: perm.map((axis) => normalizeAxis("transpose", axis, rank)) };
  },
  infer: ({ x }, { perm }) => ({ dtype: x.dtype, shape: perm.map((axis) => x.shape[axis]!) }),
  vjp: (_inputs, { perm }, { g }) => ({ x: () => g.transpose(perm.map((_, axis) => perm.indexOf(axis))) }),
  kernel({ x }, { perm }, [out]) {
    const strides = stridesOf(x.shape);
    const order = perm.map((axis) => strides[axis]!);
    take(x, offsetsOf(out.shape, order), out);
  },
  native: (n, { x }, { perm }) => n.permute(x, perm),
  nativeExact: true,
  support(chip, { x }) {
    const extent = Math.max(1, ...x.shape);
    return extent <= chip.limits.transposeExtent || `extent ${extent} exceeds ${chip.limits.transposeExtent}`;
  },
});

export const expand_dims = defineOp({
  name: "expand_dims",
  doc: "Inserts axes of size 1 so that they stand at `axes` of the result.",
  inputs: { x: anything },
  attrs: { axes: ints() },
  complete({ x }, { axes }) {
    if (axes.length === 0) throw new ConfigError("expand_dims", "axes is empty");
    const rank = x.shape.length + axes.length;
    if (rank > maxRank) throw new ShapeError("expand_dims", `rank ${rank} exceeds ${maxRank}`, { limit: maxRank });
    return { axes: normalizeAxes("expand_dims", axes, rank) };
  },
  infer({ x }, { axes }) {
    const rest = [...x.shape];
    const shape = Array.from({ length: x.shape.length + axes.length }, (_, axis) =>
      axes.includes(axis) ? 1 : rest.shift()!,
    );
    return { dtype: x.dtype, shape };
  },
  vjp: ({ x }, _attrs, { g }) => ({ x: () => g.reshape(x.shape) }),
  kernel: copy,
  native: reshaped,
  nativeExact: true,
});

export const squeeze = defineOp({
  name: "squeeze",
  doc: "Drops axes of size 1: those in `axes`, or all.",
  inputs: { x: anything },
  attrs: { axes: ints("derived") },
  complete({ x }, { axes }) {
    const all = x.shape.flatMap((extent, axis) => (extent === 1 ? [axis] : []));
    if ((axes ?? all).length === 0) throw new ShapeError("squeeze", `${formatShape(x.shape)} has no axis to drop`);
    return { axes: axes === undefined ? all : normalizeAxes("squeeze", axes, x.shape.length) };
  },
  infer({ x }, { axes }) {
    const wide = axes.find((axis) => x.shape[axis] !== 1);
    if (wide !== undefined) throw new ShapeError("squeeze", `axis ${wide} has extent ${x.shape[wide]}, not 1`);
    return { dtype: x.dtype, shape: x.shape.filter((_, axis) => !axes.includes(axis)) };
  },
  vjp: ({ x }, _attrs, { g }) => ({ x: () => g.reshape(x.shape) }),
  kernel: copy,
  native: reshaped,
  nativeExact: true,
});

/** Spreads g along `axis` with stride `step` from position `begin` in an axis of `extent`; zeros elsewhere. */
function unslice(g: Tensor, axis: number, begin: number, step: number, extent: number): Tensor {
  const count = g.shape[axis]!;
  if (begin === 0 && step === 1 && count === extent) return g;
  const [before, after] = [g.shape.slice(0, axis), g.shape.slice(axis + 1)];
  let flat = g.reshape([sizeOf(before), count, 1, sizeOf(after)]);
  if (step > 1) flat = flat.pad([0, step - 1, 0, 0]);
  flat = flat.reshape([sizeOf(before), count * step, sizeOf(after)]);
  if (begin + count * step > extent) flat = flat.sliceBySize([0, 0, 0], [-1, extent - begin, -1]);
  flat = flat.pad([begin, extent - begin - flat.shape[1]!, 0, 0]);
  return flat.reshape([...before, extent, ...after]);
}

/** Whether a chip loses larger magnitudes in a slice from `begin` of the last axis; `legalize` takes another way. */
function widthSlice({ limits }: Chip, { dtype }: Aval, begin: number): true | string {
  const limit = limits.widthSliceMax;
  if (limit === undefined || begin === 0 || dtype !== "fp16") return true;
  return `on this chip a slice at an offset of the last axis turns magnitudes above ${limit} into infinity; slice another axis`;
}

/** First element and end of one axis of slice_by_index, NumPy's rules for a positive stride. */
function bounds(extent: number, begin: number, end: number, beginMask: boolean, endMask: boolean): [number, number] {
  const wrap = (index: number) => Math.max(0, Math.min(extent, index < 0 ? index + extent : index));
  return [beginMask ? 0 : wrap(begin), endMask ? extent : wrap(end)];
}

export const slice_by_index = defineOp({
  name: "slice_by_index",
  doc: "x[begin : end : stride] on every axis; negative begin and end count from the end, masks ignore them, squeeze_mask takes one index and drops the axis.",
  inputs: { x: anything },
  attrs: {
    begin: ints(),
    end: ints(),
    stride: ints("derived"),
    beginMask: bools("derived"),
    endMask: bools("derived"),
    squeezeMask: bools("derived"),
  },
  complete({ x }, attrs) {
    const rank = x.shape.length;
    if (rank === 0) throw new ShapeError("slice_by_index", "x is a scalar and has no axes");
    const fill = <V>(list: readonly V[] | undefined, value: V) => list ?? new Array<V>(rank).fill(value);
    const full = {
      stride: fill(attrs.stride, 1),
      beginMask: fill(attrs.beginMask, false),
      endMask: fill(attrs.endMask, false),
      squeezeMask: fill(attrs.squeezeMask, false),
    };
    for (const [name, list] of Object.entries({ begin: attrs.begin, end: attrs.end, ...full })) {
      if (list.length !== rank)
        throw new ConfigError("slice_by_index", `${name} has ${list.length} entries, x has rank ${rank}`);
    }
    if (full.stride.some((step) => step < 1))
      throw new ConfigError("slice_by_index", `stride ${formatShape(full.stride)} is not positive`);
    // Normal form: indices in range, masked and squeezed ends stated, so that equal slices are equal nodes.
    const begin: number[] = [];
    const end: number[] = [];
    for (let axis = 0; axis < rank; axis++) {
      const extent = x.shape[axis]!;
      const given = attrs.begin[axis]!;
      let [from, to] = bounds(extent, given, attrs.end[axis]!, full.beginMask[axis]!, full.endMask[axis]!);
      if (full.squeezeMask[axis]) {
        if (!full.beginMask[axis] && (given < -extent || given >= extent)) {
          throw new ShapeError("slice_by_index", `index ${given} is outside axis ${axis} of ${extent}`);
        }
        to = from + 1;
      }
      if (to <= from) {
        throw new ShapeError(
          "slice_by_index",
          `the slice from ${given} to ${attrs.end[axis]} of axis ${axis} of ${extent} is empty`,
        );
      }
      begin.push(from);
      end.push(to);
    }
    const none = new Array<boolean>(rank).fill(false);
    return { begin, end, stride: full.stride, beginMask: none, endMask: none, squeezeMask: full.squeezeMask };
  },
  infer({ x }, { begin, end, stride, squeezeMask }) {
    const shape = begin.flatMap((from, axis) =>
      squeezeMask[axis] ? [] : [Math.ceil((end[axis]! - from) / stride[axis]!)],
    );
    return { dtype: x.dtype, shape };
  },
  vjp: ({ x }, { begin, stride, squeezeMask }, { g }) => ({
    x() {
      const rest = [...g.shape];
      let spread = g.reshape(x.shape.map((_, axis) => (squeezeMask[axis] ? 1 : rest.shift()!)));
      for (let axis = 0; axis < x.shape.length; axis++) {
        const step = spread.shape[axis] === 1 ? 1 : stride[axis]!;
        spread = unslice(spread, axis, begin[axis]!, step, x.shape[axis]!);
      }
      return spread;
    },
  }),
  kernel({ x }, { begin, end, stride }, [out]) {
    const strides = stridesOf(x.shape);
    const extents = begin.map((from, axis) => Math.ceil((end[axis]! - from) / stride[axis]!));
    const first = begin.reduce((sum, from, axis) => sum + from * strides[axis]!, 0);
    const offsets = offsetsOf(
      extents,
      strides.map((step, axis) => step * stride[axis]!),
    );
    take({ ...x, data: x.data.subarray(first) }, offsets, out);
  },
  native(n, { x }, { begin, end, stride }, [out]) {
    const size = begin.map((from, axis) => Math.ceil((end[axis]! - from) / stride[axis]!));
    return n.reshape(n.slice(x, begin, size, stride), out.shape);
  },
  nativeExact: true,
  support: (chip, { x }, { begin }) => widthSlice(chip, x, begin.at(-1)!),
});

export const slice_by_size = defineOp({
  name: "slice_by_size",
  doc: "The block of `size` elements from `begin` on every axis; size -1 reaches to the end.",
  inputs: { x: anything },
  attrs: { begin: ints(), size: ints() },
  complete({ x }, { begin, size }) {
    const rank = x.shape.length;
    if (rank === 0) throw new ShapeError("slice_by_size", "x is a scalar and has no axes");
    if (begin.length !== rank || size.length !== rank) {
      throw new ConfigError(
        "slice_by_size",
        `begin ${formatShape(begin)} and size ${formatShape(size)} need ${rank} entries each`,
      );
    }
    const from = begin.map((index, axis) => (index < 0 ? index + x.shape[axis]! : index));
    return { begin: from, size: size.map((count, axis) => (count === -1 ? x.shape[axis]! - from[axis]! : count)) };
  },
  infer({ x }, { begin, size }) {
    for (let axis = 0; axis < size.length; axis++) {
      const [from, count, extent] = [begin[axis]!, size[axis]!, x.shape[axis]!];
      if (from < 0 || count < 1 || from + count > extent) {
        throw new ShapeError("slice_by_size", `begin ${from} and size ${count} leave axis ${axis} of ${extent}`);
      }
    }
    return { dtype: x.dtype, shape: size };
  },
  vjp: ({ x }, { begin, size }, { g }) => ({
    x: () => g.pad(begin.flatMap((from, axis) => [from, x.shape[axis]! - from - size[axis]!])),
  }),
  kernel({ x }, { begin, size }, [out]) {
    const strides = stridesOf(x.shape);
    const first = begin.reduce((sum, from, axis) => sum + from * strides[axis]!, 0);
    take({ ...x, data: x.data.subarray(first) }, offsetsOf(size, strides), out);
  },
  native: (n, { x }, { begin, size }) =>
    n.slice(
      x,
      begin,
      size,
      size.map(() => 1),
    ),
  nativeExact: true,
  support: (chip, { x }, { begin }) => widthSlice(chip, x, begin.at(-1)!),
});

/** Copies `piece`, whose axis covers [start, start + extent) of out's axis, taking every `step`-th position. */
function place(piece: KernelArray, out: KernelArray, axis: number, start: number, step: number): void {
  const inner = sizeOf(out.shape.slice(axis + 1));
  const outer = sizeOf(out.shape.slice(0, axis));
  const count = piece.shape[axis]!;
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < count; i++) {
      const from = (o * count + i) * inner;
      out.data.set(piece.data.subarray(from, from + inner), (o * out.shape[axis]! + start + i * step) * inner);
    }
  }
}

export const concat = defineOp({
  name: "concat",
  doc: "Tensors one after another along `axis`; with `interleave`, their elements along it in turn.",
  inputs: { values: variadic(anything) },
  attrs: { axis: int(), interleave: bool(false) },
  complete: ({ values }, { axis, interleave = false }) => ({
    axis: normalizeAxis("concat", axis, values[0]!.shape.length),
    interleave,
  }),
  infer({ values }, { axis, interleave }) {
    const [first] = values as [Aval];
    for (const value of values) {
      const fits =
        value.shape.length === first.shape.length &&
        value.shape.every((extent, i) => i === axis || extent === first.shape[i]);
      if (!fits || (interleave && value.shape[axis] !== first.shape[axis])) {
        throw new ShapeError(
          "concat",
          `shapes ${formatShape(first.shape)} and ${formatShape(value.shape)} differ beside axis ${axis}`,
        );
      }
    }
    const total = values.reduce((sum, value) => sum + value.shape[axis]!, 0);
    return { dtype: first.dtype, shape: first.shape.map((extent, i) => (i === axis ? total : extent)) };
  },
  vjp: ({ values }, { axis, interleave }, { g }) => ({
    values() {
      let start = 0;
      return values.map((value, i) => {
        const count = value.shape[axis]!;
        const at = (x: number) => g.shape.map((_, j) => (j === axis ? x : 0));
        if (interleave) {
          const stride = g.shape.map((_, j) => (j === axis ? values.length : 1));
          return g.sliceByIndex(at(i), g.shape, { stride });
        }
        const piece = g.sliceBySize(at(start), value.shape);
        start += count;
        return piece;
      });
    },
  }),
  kernel({ values }, { axis, interleave }, [out]) {
    let start = 0;
    for (const [i, value] of values.entries()) {
      place(value, out, axis, interleave ? i : start, interleave ? values.length : 1);
      start += value.shape[axis]!;
    }
  },
  native(n, { values }, { axis, interleave }, [out]) {
    let start = 0;
    const pieces = values.map((x, i) => {
      const begin = out.shape.map((_, j) => (j === axis ? (interleave ? i : start) : 0));
      const stride = out.shape.map((_, j) => (j === axis && interleave ? values.length : 1));
      start += x.shape[axis]!;
      return { x, begin, stride };
    });
    return n.assemble(out.dtype, out.shape, undefined, pieces);
  },
  nativeExact: true,
});

export const stack = defineOp({
  name: "stack",
  doc: "Tensors of one shape side by side along a further axis at `axis` of the result.",
  inputs: { values: variadic(anything) },
  attrs: { axis: int() },
  complete: ({ values }, { axis }) => ({ axis: normalizeAxis("stack", axis, values[0]!.shape.length + 1) }),
  infer({ values }, { axis }) {
    const [first] = values as [Aval];
    for (const value of values) {
      if (value.shape.length !== first.shape.length || value.shape.some((extent, i) => extent !== first.shape[i])) {
        throw new ShapeError("stack", `shapes ${formatShape(first.shape)} and ${formatShape(value.shape)} differ`);
      }
    }
    return { dtype: first.dtype, shape: [...first.shape.slice(0, axis), values.length, ...first.shape.slice(axis)] };
  },
  vjp: ({ values }, { axis }, { g }) => ({
    values() {
      const size = g.shape.map((extent, i) => (i === axis ? 1 : extent));
      return values.map((value, i) =>
        g
          .sliceBySize(
            g.shape.map((_, j) => (j === axis ? i : 0)),
            size,
          )
          .reshape(value.shape),
      );
    },
  }),
  kernel({ values }, { axis }, [out]) {
    for (const [i, value] of values.entries()) {
      place({ ...value, shape: [...value.shape.slice(0, axis), 1, ...value.shape.slice(axis)] }, out, axis, i, 1);
    }
  },
  native(n, { values }, { axis }, [out]) {
    const pieces = values.map((value, i) => ({
      x: n.reshape(value, [...value.shape.slice(0, axis), 1, ...value.shape.slice(axis)]),
      begin: out.shape.map((_, j) => (j === axis ? i : 0)),
    }));
    return n.assemble(out.dtype, out.shape, undefined, pieces);
  },
  nativeExact: true,
});

/** Most results of one split: a count from a file must not decide how much memory is taken. */
const maxParts = 4096;

export const split = defineOp({
  name: "split",
  doc: "Cuts x along `axis` into `num_splits` equal parts or into parts of `split_sizes`; one result a part.",
  inputs: { x: anything },
  attrs: { numSplits: int("derived"), splitSizes: ints("derived"), axis: int() },
  complete({ x }, { numSplits, splitSizes, axis }) {
    const at = normalizeAxis("split", axis, x.shape.length);
    const extent = x.shape[at]!;
    const parts = splitSizes?.length ?? numSplits ?? 0;
    if (parts > maxParts) throw new ConfigError("split", `${parts} parts exceed ${maxParts}`, { limit: maxParts });
    if (splitSizes === undefined) {
      if (numSplits === undefined) throw new ConfigError("split", "neither num_splits nor split_sizes is given");
      if (numSplits < 1 || extent % numSplits !== 0) {
        throw new ShapeError("split", `axis ${at} of ${extent} does not divide into ${numSplits} parts`);
      }
      return { numSplits, splitSizes: new Array<number>(numSplits).fill(extent / numSplits), axis: at };
    }
    if (numSplits !== undefined && numSplits !== splitSizes.length) {
      throw new ConfigError("split", `num_splits ${numSplits} contradicts split_sizes ${formatShape(splitSizes)}`);
    }
    const total = splitSizes.reduce((sum, size) => sum + size, 0);
    if (splitSizes.length === 0 || splitSizes.some((size) => size < 1) || total !== extent) {
      throw new ShapeError("split", `split_sizes ${formatShape(splitSizes)} do not add up to axis ${at} of ${extent}`);
    }
    return { numSplits: splitSizes.length, splitSizes, axis: at };
  },
  infer: ({ x }, { splitSizes, axis }) =>
    splitSizes.map((size) => ({ dtype: x.dtype, shape: x.shape.map((extent, i) => (i === axis ? size : extent)) })),
  vjp: (_inputs, { axis }, { gs }) => ({ x: () => gs[0]!.concat(gs.slice(1), axis) }),
  kernel({ x }, { axis }, outs) {
    const strides = stridesOf(x.shape);
    let start = 0;
    for (const out of outs) {
      take({ ...x, data: x.data.subarray(start * strides[axis]!) }, offsetsOf(out.shape, strides), out);
      start += out.shape[axis]!;
    }
  },
  native(n, { x }, { axis }, results) {
    let start = 0;
    return results.map(({ shape }) => {
      const begin = shape.map((_, i) => (i === axis ? start : 0));
      start += shape[axis]!;
      return n.slice(
        x,
        begin,
        shape,
        shape.map(() => 1),
      );
    });
  },
  nativeExact: true,
  support: (chip, { x }, { splitSizes, axis }) =>
    widthSlice(chip, x, axis === x.shape.length - 1 && splitSizes.length > 1 ? splitSizes[0]! : 0),
  milOmits: ({ splitSizes }) => (splitSizes.every((size) => size === splitSizes[0]) ? ["splitSizes"] : ["numSplits"]),
});

export const tile = defineOp({
  name: "tile",
  doc: "x repeated reps[i] times along axis i.",
  inputs: { x: anything },
  attrs: { reps: ints() },
  infer({ x }, { reps }) {
    if (reps.length === 0 || reps.length !== x.shape.length || reps.some((count) => count < 1)) {
      throw new ShapeError("tile", `reps ${formatShape(reps)} must hold ${x.shape.length} positive integers`);
    }
    return { dtype: x.dtype, shape: x.shape.map((extent, axis) => extent * reps[axis]!) };
  },
  vjp: ({ x }, { reps }, { g }) => ({
    x() {
      let sum = g;
      for (let axis = 0; axis < reps.length; axis++) {
        if (reps[axis] === 1) continue;
        const [before, after] = [sum.shape.slice(0, axis), sum.shape.slice(axis + 1)];
        const shape = [...before, x.shape[axis]!, ...after];
        sum = sum
          .reshape([sizeOf(before), reps[axis]!, x.shape[axis]! * sizeOf(after)])
          .sum([1])
          .reshape(shape);
      }
      return sum;
    },
  }),
  kernel({ x }, { reps }, [out]) {
    // Index space [reps0, extent0, reps1, extent1, ...]; repetitions have stride 0.
    const strides = stridesOf(x.shape);
    const extents = x.shape.flatMap((extent, axis) => [reps[axis]!, extent]);
    take(
      x,
      offsetsOf(
        extents,
        strides.flatMap((stride) => [0, stride]),
      ),
      out,
    );
  },
  native(n, { x }, { reps }, [out]) {
    const spread = n.reshape(
      x,
      x.shape.flatMap((extent) => [1, extent]),
    );
    const repeated = n.broadcast(
      spread,
      x.shape.flatMap((extent, axis) => [reps[axis]!, extent]),
    );
    return n.reshape(repeated, out.shape);
  },
  nativeExact: true,
  support(_chip, _inputs, { reps }) {
    const reduce = (count: number): number =>
      [2, 3].reduce((n, factor) => {
        while (n % factor === 0) n /= factor;
        return n;
      }, count);
    const bad = reps.find((count) => reduce(count) !== 1);
    return (
      bad === undefined || `a repetition of ${bad} has a factor other than 2 and 3; add x to zeros of the larger shape`
    );
  },
});

/** Where element i of a padded axis comes from: an index of x, or -1 for the constant. */
function padSource(extent: number, before: number, after: number, mode: string): Int32Array {
  return Int32Array.from({ length: before + extent + after }, (_, i) => {
    const at = i - before;
    if (at >= 0 && at < extent) return at;
    if (mode === "constant") return -1;
    if (mode === "replicate") return at < 0 ? 0 : extent - 1;
    return at < 0 ? -at : 2 * (extent - 1) - at;
  });
}

export const pad = defineOp({
  name: "pad",
  doc: "Elements added around x: `pad` holds begin and end for each of the last pad.length / 2 axes; constant, reflected (without the border) or replicated.",
  inputs: { x: floats },
  attrs: { pad: ints(), mode: oneOf(["constant", "reflect", "replicate"], "constant"), constantVal: float(0) },
  infer({ x }, { pad: amounts, mode }) {
    const rank = x.shape.length;
    if (
      amounts.length === 0 ||
      amounts.length % 2 !== 0 ||
      amounts.length > 2 * rank ||
      amounts.some((count) => count < 0)
    ) {
      throw new ShapeError(
        "pad",
        `pad ${formatShape(amounts)} must hold pairs of non-negative integers for at most ${rank} axes`,
      );
    }
    const first = rank - amounts.length / 2;
    const shape = x.shape.map((extent, axis) => {
      if (axis < first) return extent;
      const [before, after] = [amounts[2 * (axis - first)]!, amounts[2 * (axis - first) + 1]!];
      if (mode === "reflect" && Math.max(before, after) >= extent) {
        throw new ShapeError(
          "pad",
          `reflecting ${Math.max(before, after)} elements needs more than the ${extent} of axis ${axis}`,
        );
      }
      return extent + before + after;
    });
    return { dtype: x.dtype, shape };
  },
  vjp: ({ x }, { pad: amounts, mode }, { g }) => ({
    x() {
      const first = x.shape.length - amounts.length / 2;
      if (mode === "constant") {
        return g.sliceBySize(
          x.shape.map((_, axis) => (axis < first ? 0 : amounts[2 * (axis - first)]!)),
          x.shape,
        );
      }
      let sum = g;
      for (let axis = first; axis < x.shape.length; axis++) {
        const source = padSource(x.shape[axis]!, amounts[2 * (axis - first)]!, amounts[2 * (axis - first) + 1]!, mode);
        const shape = sum.shape.map((extent, i) => (i === axis ? x.shape[axis]! : extent));
        sum = sum
          .filled(0, shape)
          .scatter(sum.constantLike(source, [source.length], "int32"), sum, { axis, mode: "add" });
      }
      return sum;
    },
  }),
  kernel({ x }, { pad: amounts, mode, constantVal }, [out]) {
    const rank = x.shape.length;
    const first = rank - amounts.length / 2;
    const strides = stridesOf(x.shape);
    // Offsets of x for every element of out, axis by axis; negative once any axis takes the constant.
    let offsets: Int32Array = new Int32Array(1);
    for (let axis = 0; axis < rank; axis++) {
      const inside = axis < first ? [0, 0] : [amounts[2 * (axis - first)]!, amounts[2 * (axis - first) + 1]!];
      const source = padSource(x.shape[axis]!, inside[0]!, inside[1]!, mode);
      const next = new Int32Array(offsets.length * source.length);
      let at = 0;
      for (const offset of offsets) {
        for (const index of source) next[at++] = offset < 0 || index < 0 ? -1 : offset + index * strides[axis]!;
      }
      offsets = next;
    }
    for (let i = 0; i < out.data.length; i++) out.data[i] = offsets[i]! < 0 ? constantVal : x.data[offsets[i]!]!;
  },
  native(n, { x }, { pad: amounts, mode, constantVal }, [out]) {
    const first = x.shape.length - amounts.length / 2;
    const before = x.shape.map((_, axis) => (axis < first ? 0 : amounts[2 * (axis - first)]!));
    if (mode === "constant") return n.assemble(out.dtype, out.shape, constantVal, [{ x, begin: before }]);
    // One axis at a time, one slice a padded position.
    let padded = x;
    for (let axis = first; axis < x.shape.length; axis++) {
      const extent = x.shape[axis]!;
      const shape = padded.shape.map((size, i) => (i === axis ? out.shape[axis]! : size));
      const begin = (at: number) => shape.map((_, i) => (i === axis ? at : 0));
      const source = padSource(extent, before[axis]!, out.shape[axis]! - extent - before[axis]!, mode);
      const outside = [...source.keys()].filter((at) => at < before[axis]! || at >= before[axis]! + extent);
      const ones = shape.map(() => 1);
      const whole = padded;
      padded = n.assemble(out.dtype, shape, undefined, [
        { x: whole, begin: begin(before[axis]!) },
        ...outside.map((at) => ({
          x: n.slice(
            whole,
            begin(source[at]!),
            shape.map((size, i) => (i === axis ? 1 : size)),
            ones,
          ),
          begin: begin(at),
        })),
      ]);
    }
    return padded;
  },
  nativeExact: true,
  support(_chip, _inputs, { pad: amounts }) {
    const outer = amounts.slice(0, Math.max(0, amounts.length - 4)); // axes before the last two
    return outer.every((count) => count === 0) || "only the last two axes can be padded; reshape or transpose";
  },
});

function requireImage(op: string, { shape }: Aval): [number, number, number, number] {
  if (shape.length !== 4) throw new ShapeError(op, `x has rank ${shape.length}, not 4 ([N, C, H, W])`);
  return shape as unknown as [number, number, number, number];
}

export const upsample_nearest_neighbor = defineOp({
  name: "upsample_nearest_neighbor",
  doc: "x [N, C, H, W] with every element repeated into a block: [N, C, H scale_factor_height, W scale_factor_width].",
  inputs: { x: floats },
  attrs: { scaleFactorHeight: int(1), scaleFactorWidth: int(1) },
  infer({ x }, { scaleFactorHeight: sh, scaleFactorWidth: sw }) {
    const [n, c, h, w] = requireImage("upsample_nearest_neighbor", x);
    if (sh < 1 || sw < 1)
      throw new ConfigError("upsample_nearest_neighbor", `scale factors ${sh} and ${sw} must be positive`);
    return { dtype: x.dtype, shape: [n, c, h * sh, w * sw] };
  },
  vjp: ({ x }, { scaleFactorHeight: sh, scaleFactorWidth: sw }, { g }) => ({
    x() {
      const [n, c, h, w] = x.shape as [number, number, number, number];
      return g
        .reshape([n * c, h, sh, w, sw])
        .sum([2, 4])
        .reshape(x.shape);
    },
  }),
  kernel({ x }, { scaleFactorHeight: sh, scaleFactorWidth: sw }, [out]) {
    const [n, c, h, w] = x.shape as [number, number, number, number];
    take(x, offsetsOf([n * c, h, sh, w, sw], [h * w, w, 0, 1, 0]), out);
  },
  native(n, { x }, { scaleFactorHeight: sh, scaleFactorWidth: sw }, [out]) {
    const [b, c, h, w] = x.shape as [number, number, number, number];
    const spread = n.reshape(x, [b * c, h, 1, w, 1]);
    return n.reshape(n.broadcast(spread, [b * c, h, sh, w, sw]), out.shape);
  },
  nativeExact: true,
  support: since("A14", "below it repeat with reshape and tile"),
});

export const pixel_shuffle = defineOp({
  name: "pixel_shuffle",
  doc: "Channels to space: x [N, C r r, H, W] to [N, C, H r, W r] (Shi et al. 2016; PyTorch's order).",
  inputs: { x: floats },
  attrs: { upscaleFactor: int() },
  infer({ x }, { upscaleFactor: r }) {
    const [n, c, h, w] = requireImage("pixel_shuffle", x);
    if (r < 1 || c % (r * r) !== 0)
      throw new ShapeError("pixel_shuffle", `${c} channels do not divide by upscale_factor ${r} squared`);
    return { dtype: x.dtype, shape: [n, c / (r * r), h * r, w * r] };
  },
  vjp: (_inputs, { upscaleFactor }, { g }) => ({ x: () => g.pixelUnshuffle(upscaleFactor) }),
  kernel({ x }, { upscaleFactor: r }, [out]) {
    const [n, c, h, w] = x.shape as [number, number, number, number];
    const plane = h * w;
    take(x, offsetsOf([(n * c) / (r * r), h, r, w, r], [plane * r * r, w, plane * r, 1, plane]), out);
  },
  native(n, { x }, { upscaleFactor: r }, [out]) {
    const [b, c, h, w] = x.shape as [number, number, number, number];
    // What was stacked needs no stack.
    const parts = n.split(n.reshape(x, [b, c / (r * r), r * r, h, w]), 2);
    const place = (part: NativeArray, i: number) => ({
      x: part,
      begin: [0, 0, Math.floor(i / r), i % r],
      stride: [1, 1, r, r],
    });
    if (parts !== undefined) return n.assemble(out.dtype, out.shape, undefined, parts.map(place));
    const blocks = n.reshape(x, [(b * c) / (r * r), r, r, h, w]);
    return n.reshape(n.permute(blocks, [0, 3, 1, 4, 2]), out.shape);
  },
  nativeExact: true,
});

export const pixel_unshuffle = defineOp({
  name: "pixel_unshuffle",
  doc: "Space to channels: x [N, C, H r, W r] to [N, C r r, H, W]; the inverse of pixel_shuffle.",
  inputs: { x: floats },
  attrs: { downscaleFactor: uint() },
  infer({ x }, { downscaleFactor: r }) {
    const [n, c, h, w] = requireImage("pixel_unshuffle", x);
    if (r < 1 || h % r !== 0 || w % r !== 0)
      throw new ShapeError("pixel_unshuffle", `${h} by ${w} does not divide by downscale_factor ${r}`);
    return { dtype: x.dtype, shape: [n, c * r * r, h / r, w / r] };
  },
  vjp: (_inputs, { downscaleFactor }, { g }) => ({ x: () => g.pixelShuffle(downscaleFactor) }),
  kernel({ x }, { downscaleFactor: r }, [out]) {
    const [n, c, h, w] = x.shape as [number, number, number, number];
    take(x, offsetsOf([n * c, r, r, h / r, w / r], [h * w, w, 1, w * r, r]), out);
  },
  native(n, { x }, { downscaleFactor: r }, [out]) {
    const [b, c, h, w] = x.shape as [number, number, number, number];
    const blocks = n.reshape(x, [b * c, h / r, r, w / r, r]);
    return n.reshape(n.permute(blocks, [0, 2, 4, 1, 3]), out.shape);
  },
  nativeExact: true,
});
