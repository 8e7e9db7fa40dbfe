// Operators that read or write by index, and running sums.

import { ConfigError, formatShape, ShapeError } from "../core/errors.ts";
import { normalizeAxis, sizeOf } from "../core/shape.ts";
import { bool, defineOp, indices, int, type KernelArray, numbers, oneOf } from "./define.ts";
import { splitOffsets } from "./kernels/loops.ts";
import { never } from "./support.ts";

/** Index in [0, extent); negative ones count from the end. @throws {ConfigError} at run time for any other. */
function checkIndex(op: string, index: number, extent: number): number {
  const at = index < 0 ? index + extent : index;
  if (at < 0 || at >= extent) throw new ConfigError(op, `index ${index} is outside an axis of ${extent}`);
  return at;
}

/** Every engine checks indices, whatever the text says. */
const validateIndices = { type: "bool", reads: [true, false], modern: false } as const;

export const gather = defineOp({
  name: "gather",
  doc: "Slices of x along `axis` picked by indices: x.shape[:axis] + indices.shape + x.shape[axis + 1:]. Negative indices count from the end; others outside the axis are an error.",
  inputs: { x: numbers, indices },
  attrs: { axis: int(0) },
  complete: ({ x }, { axis = 0 }) => ({ axis: normalizeAxis("gather", axis, x.shape.length) }),
  infer({ x, indices: at }, { axis }) {
    return { dtype: x.dtype, shape: [...x.shape.slice(0, axis), ...at.shape, ...x.shape.slice(axis + 1)] };
  },
  vjp: ({ x, indices: at }, { axis }, { g }) => ({
    x: () => {
      const count = sizeOf(at.shape);
      const updates = g.reshape(x.shape.map((extent, i) => (i === axis ? count : extent)));
      return g.filled(0, x.shape).scatter(at.reshape([count]), updates, { axis, mode: "add" });
    },
    indices: null,
  }),
  kernel({ x, indices: at }, { axis }, [out]) {
    const extent = x.shape[axis]!;
    const inner = sizeOf(x.shape.slice(axis + 1));
    const outer = sizeOf(x.shape.slice(0, axis));
    let to = 0;
    for (let o = 0; o < outer; o++) {
      for (const index of at.data) {
        const from = (o * extent + checkIndex("gather", index, extent)) * inner;
        out.data.set(x.data.subarray(from, from + inner), to);
        to += inner;
      }
    }
  },
  native: (n, { x, indices: at }, { axis }) => n.gather(x, at, axis),
  nativeExact: true,
  canFail: true,
  milFixed: { batch_dims: { type: "int32", reads: [0], modern: 0, verbose: 0 }, validate_indices: validateIndices },
  support: never("use a product with a one-hot matrix, or gather in a CPU stage"),
});

export const scatter = defineOp({
  name: "scatter",
  doc: "data with `updates` added to (or put in place of) its slices `indices` along `axis`; updates has the shape of data with that axis replaced by the number of indices.",
  inputs: { data: numbers, indices, updates: numbers },
  attrs: { axis: int(0), mode: oneOf(["add", "update"], "add") },
  complete: ({ data }, { axis = 0, mode = "add" }) => ({
    axis: normalizeAxis("scatter", axis, data.shape.length),
    mode,
  }),
  infer({ data, indices: at, updates }, { axis }) {
    if (at.shape.length !== 1) throw new ShapeError("scatter", `indices has rank ${at.shape.length}, not 1`);
    const shape = data.shape.map((extent, i) => (i === axis ? at.shape[0]! : extent));
    if (updates.shape.length !== shape.length || updates.shape.some((extent, i) => extent !== shape[i])) {
      throw new ShapeError(
        "scatter",
        `updates must have shape ${formatShape(shape)}, not ${formatShape(updates.shape)}`,
      );
    }
    return data;
  },
  vjp: ({ data, indices: at, updates }, { axis, mode }, { g }) => ({
    data: () => (mode === "add" ? g : g.scatter(at, g.filled(0, updates.shape), { axis, mode })),
    indices: null,
    updates() {
      const taken = g.gather(at, axis);
      if (mode === "add") return taken;
      // Of several updates of one slice only the last counts: the one whose number is found there afterwards.
      const count = at.shape[0]!;
      const order = at.constantLike(
        Int32Array.from({ length: count }, (_, i) => i),
        [count],
      );
      const last = at.filled(0, [data.shape[axis]!]).scatter(at, order, { mode }).gather(at).equal(order);
      return last.reshape(data.shape.map((_, i) => (i === axis ? count : 1))).select(taken, 0);
    },
  }),
  kernel({ data, indices: at, updates }, { axis, mode }, [out]) {
    const extent = data.shape[axis]!;
    const inner = sizeOf(data.shape.slice(axis + 1));
    const outer = sizeOf(data.shape.slice(0, axis));
    const sums = Float64Array.from(data.data);
    let from = 0;
    for (let o = 0; o < outer; o++) {
      for (const index of at.data) {
        const to = (o * extent + checkIndex("scatter", index, extent)) * inner;
        for (let i = 0; i < inner; i++) {
          sums[to + i] = mode === "add" ? sums[to + i]! + updates.data[from++]! : updates.data[from++]!;
        }
      }
    }
    out.data.set(sums);
  },
  native: (n, { data, indices: at, updates }, { axis, mode }) =>
    n.scatter(data, at, updates, axis, mode as "add" | "update"),
  canFail: true,
  milFixed: { validate_indices: validateIndices },
  support: never("use a product with a one-hot matrix, or scatter in a CPU stage"),
});

export const cumsum = defineOp({
  name: "cumsum",
  doc: "Running sum along `axis`; `exclusive` leaves the element itself out, `reverse` runs from the end.",
  inputs: { x: numbers },
  attrs: { axis: int(0), exclusive: bool(false), reverse: bool(false) },
  complete: ({ x }, { axis = 0, exclusive = false, reverse = false }) => ({
    axis: normalizeAxis("cumsum", axis, x.shape.length),
    exclusive,
    reverse,
  }),
  infer: ({ x }) => x,
  vjp: (_inputs, { axis, exclusive, reverse }, { g }) => ({
    x: () => g.cumsum(axis, { exclusive, reverse: !reverse }),
  }),
  kernel({ x }, { axis, exclusive, reverse }, [out]: readonly [KernelArray, ...KernelArray[]]) {
    const { kept, reduced } = splitOffsets(x.shape, [axis]);
    for (const base of kept) {
      let sum = 0;
      for (let step = 0; step < reduced.length; step++) {
        const at = base + reduced[reverse ? reduced.length - 1 - step : step]!;
        const before = sum;
        sum += x.data[at]!;
        out.data[at] = exclusive ? before : sum;
      }
    }
  },
  support: () => "a free-standing cumsum fails to compile; multiply by a triangular matrix of ones",
});
