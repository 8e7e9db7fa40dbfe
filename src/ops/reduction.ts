// Reductions over axes, and softmax.

import { ConfigError, formatShape } from "../core/errors.ts";
import { normalizeAxes, normalizeAxis, reduceShape, sizeOf } from "../core/shape.ts";
import type { Tensor } from "../tensor.ts";
import { bool, defineOp, floats, int, ints, numbers, type VjpContext } from "./define.ts";
import { splitOffsets } from "./kernels/loops.ts";
import { since } from "./support.ts";
import type { Lane, Lanes } from "./vector.ts";

/** What a reduction does to lanes: f of every element, the fold, g of the result and the number of elements. */
interface NativeFold {
  readonly kind: "sum" | "max" | "min";
  readonly before?: (v: Lanes, x: Lane) => Lane;
  readonly after?: (v: Lanes, x: Lane, count: number) => Lane;
}

interface Fold {
  readonly init: number;
  step(accumulator: number, x: number): number;
  finish?(accumulator: number, count: number): number;
}

interface ReductionFacts {
  readonly name: string;
  readonly doc: string;
  readonly integers?: boolean;
  readonly fold: Fold;
  readonly lanes: NativeFold;
  /** Cotangent of x, given the result and its cotangent with the reduced axes kept as size 1. */
  readonly dx: (x: Tensor, kept: { g: Tensor; out: Tensor }, axes: readonly number[]) => Tensor;
}

function reduction({ name, doc, integers, fold, lanes, dx }: ReductionFacts) {
  return defineOp({
    name,
    doc: `${doc} Over \`axes\` (all when absent); \`keep_dims\` leaves them as size 1.`,
    inputs: { x: integers ? numbers : (floats as unknown as typeof numbers) },
    attrs: { axes: ints("derived"), keepDims: bool(false) },
    complete({ x }, { axes, keepDims = false }) {
      if (axes?.length === 0 && x.shape.length > 0)
        throw new ConfigError(name, "axes is empty; leave it out to reduce all of them");
      return { axes: normalizeAxes(name, axes ?? x.shape.map((_, axis) => axis), x.shape.length), keepDims };
    },
    infer: ({ x }, { axes, keepDims }) => ({ dtype: x.dtype, shape: reduceShape(x.shape, axes, keepDims) }),
    vjp: ({ x }, { axes }, { g, out }: VjpContext) => ({
      x: () => {
        const keptShape = reduceShape(x.shape, axes, true);
        return dx(x, { g: g.reshape(keptShape), out: out.reshape(keptShape) }, axes);
      },
    }),
    kernel({ x }, { axes }, [out]) {
      const { kept, reduced } = splitOffsets(x.shape, axes);
      const { init, step, finish } = fold;
      for (let i = 0; i < kept.length; i++) {
        let accumulator = init;
        for (let r = 0; r < reduced.length; r++) accumulator = step(accumulator, x.data[kept[i]! + reduced[r]!]!);
        out.data[i] = finish === undefined ? accumulator : finish(accumulator, reduced.length);
      }
    },
    native(n, { x }, { axes }, [out]) {
      const { kind, before, after } = lanes;
      const wide = out.dtype === "fp16" ? "fp32" : out.dtype;
      const mapped = before === undefined ? x : n.map(wide, [x], (v, lane) => before(v, lane!));
      const count = sizeOf(axes.map((axis) => x.shape[axis]!));
      const reduced = axes.length === 0 ? mapped : n.reduce(kind, mapped, axes);
      const result = n.map(out.dtype, [reduced], (v, lane) => (after === undefined ? lane! : after(v, lane!, count)));
      return n.reshape(result, out.shape);
    },
  });
}

/** Cotangent shared evenly among the elements that attain the extremum. */
function evenly(x: Tensor, { g, out }: { g: Tensor; out: Tensor }, axes: readonly number[]): Tensor {
  const hits = x.equal(out).cast(x.dtype);
  // The share of hits instead of their number, which fp16 may not hold.
  const count = sizeOf(axes.map((axis) => x.shape[axis]!));
  return hits.mul(g.mul(1 / count).div(hits.mean(axes, { keepDims: true })));
}

export const reduce_sum = reduction({
  name: "reduce_sum",
  doc: "Sum of x.",
  integers: true,
  fold: { init: 0, step: (a, x) => a + x },
  lanes: { kind: "sum" },
  dx: (x, { g }) => g.broadcastTo(x.shape),
});
export const reduce_mean = reduction({
  name: "reduce_mean",
  doc: "Mean of x.",
  fold: { init: 0, step: (a, x) => a + x, finish: (a, n) => a / n },
  lanes: { kind: "sum", after: (v, x, count) => v.div(x, v.f(count)) },
  dx: (x, { g }, axes) => g.mul(1 / sizeOf(axes.map((axis) => x.shape[axis]!))).broadcastTo(x.shape),
});
export const reduce_max = reduction({
  name: "reduce_max",
  doc: "Largest x; ties share the derivative.",
  integers: true,
  fold: { init: Number.NEGATIVE_INFINITY, step: (a, x) => (x > a || Number.isNaN(x) ? x : a) },
  lanes: { kind: "max" },
  dx: evenly,
});
export const reduce_min = reduction({
  name: "reduce_min",
  doc: "Smallest x; ties share the derivative.",
  integers: true,
  fold: { init: Number.POSITIVE_INFINITY, step: (a, x) => (x < a || Number.isNaN(x) ? x : a) },
  lanes: { kind: "min" },
  dx: evenly,
});
export const reduce_l1_norm = reduction({
  name: "reduce_l1_norm",
  doc: "Sum of |x|.",
  fold: { init: 0, step: (a, x) => a + Math.abs(x) },
  lanes: { kind: "sum", before: (v, x) => v.abs(x) },
  dx: (x, { g }) => g.mul(x.sign()),
});
export const reduce_l2_norm = reduction({
  name: "reduce_l2_norm",
  doc: "Square root of the sum of x^2; the squares never leave the wide accumulator, so only the norm itself must fit the dtype. The derivative at 0 is 0.",
  fold: { init: 0, step: (a, x) => a + x * x, finish: Math.sqrt },
  lanes: { kind: "sum", before: (v, x) => v.mul(x, x), after: (v, x) => v.sqrt(x) },
  dx: (x, { g, out }) => x.div(out.add(out.equal(0).cast(x.dtype))).mul(g), // at 0 it is 0/1 instead of 0/0
});
export const reduce_sum_square = reduction({
  name: "reduce_sum_square",
  doc: "Sum of x^2.",
  fold: { init: 0, step: (a, x) => a + x * x },
  lanes: { kind: "sum", before: (v, x) => v.mul(x, x) },
  dx: (x, { g }) => x.mul(2).mul(g),
});

export const reduce_log_sum_exp = defineOp({
  ...reduction({
    name: "reduce_log_sum_exp",
    doc: "log of the sum of e^x, with the maximum taken out first.",
    fold: { init: 0, step: (a) => a },
    lanes: { kind: "sum" },
    // softmax carries more digits than exp(x - out): out was rounded to the dtype.
    dx: (x, { g, out }, axes) => (axes.length === 1 ? x.softmax(axes[0]!) : x.sub(out).exp()).mul(g),
  }),
  kernel({ x }, { axes }, [out]) {
    const { kept, reduced } = splitOffsets(x.shape, axes);
    for (let i = 0; i < kept.length; i++) {
      let max = Number.NEGATIVE_INFINITY;
      for (let r = 0; r < reduced.length; r++) max = Math.max(max, x.data[kept[i]! + reduced[r]!]!);
      let sum = 0;
      for (let r = 0; r < reduced.length; r++) sum += Math.exp(x.data[kept[i]! + reduced[r]!]! - max);
      out.data[i] = Number.isFinite(max) ? max + Math.log(sum) : max;
    }
  },
  native(n, { x }, { axes }, [out]) {
    const max = axes.length === 0 ? x : n.reduce("max", x, axes);
    const powers = n.map("fp32", [x, max], (v, a, m) => v.expFlushed(v.sub(a!, m!)));
    const sum = axes.length === 0 ? powers : n.reduce("sum", powers, axes);
    const result = n.map(out.dtype, [max, sum], (v, m, s) =>
      v.select(v.lt(v.abs(m!), v.f(Number.POSITIVE_INFINITY)), v.add(m!, v.log(s!)), m!),
    );
    return n.reshape(result, out.shape);
  },
});

function argExtremum(
  name: string,
  doc: string,
  better: (x: number, best: number) => boolean,
  support?: ReturnType<typeof since>,
) {
  return defineOp({
    name,
    doc: `${doc} along \`axis\`; the first one among equals.`,
    inputs: { x: floats },
    attrs: { axis: int(-1), keepDims: bool(false) },
    complete: ({ x }, { axis = -1, keepDims = false }) => ({
      axis: normalizeAxis(name, axis, x.shape.length),
      keepDims,
    }),
    infer: ({ x }, { axis, keepDims }) => ({ dtype: "int32", shape: reduceShape(x.shape, [axis], keepDims) }),
    vjp: null,
    milFixed: { output_dtype: { type: "string", reads: ["int32"], modern: "int32" } },
    kernel({ x }, { axis }, [out]) {
      const { kept, reduced } = splitOffsets(x.shape, [axis]);
      for (let i = 0; i < kept.length; i++) {
        let best = 0;
        for (let r = 1; r < reduced.length; r++) {
          if (better(x.data[kept[i]! + reduced[r]!]!, x.data[kept[i]! + reduced[best]!]!)) best = r;
        }
        out.data[i] = best;
      }
    },
    support(chip, { x }, { axis }) {
      const extent = x.shape[axis]!;
      const limit = chip.limits.argReduceExtentMax;
      if (extent > limit) return `the axis has ${extent} elements, the limit is ${limit}; split it`;
      return support?.(chip) ?? true;
    },
  });
}
export const reduce_argmax = argExtremum("reduce_argmax", "Index of the largest x", (x, best) => x > best);
export const reduce_argmin = argExtremum(
  "reduce_argmin",
  "Index of the smallest x",
  (x, best) => x < best,
  since("A15", "take argmax of -x"),
);

export const softmax = defineOp({
  name: "softmax",
  doc: "e^x over its sum along `axis`, with the maximum taken out first.",
  inputs: { x: floats },
  attrs: { axis: int(-1) },
  complete: ({ x }, { axis = -1 }) => ({ axis: normalizeAxis("softmax", axis, x.shape.length) }),
  infer({ x }, { axis }) {
    if (x.shape[axis] === undefined) throw new ConfigError("softmax", `${formatShape(x.shape)} has no axis ${axis}`);
    return x;
  },
  vjp: (_inputs, { axis }, { g, out }) => ({
    x: () => out.mul(g.sub(g.mul(out).sum([axis], { keepDims: true }))),
  }),
  kernel({ x }, { axis }, [out]) {
    const { kept, reduced } = splitOffsets(x.shape, [axis]);
    const row = new Float64Array(reduced.length);
    for (let i = 0; i < kept.length; i++) {
      let max = Number.NEGATIVE_INFINITY;
      for (let r = 0; r < reduced.length; r++) max = Math.max(max, x.data[kept[i]! + reduced[r]!]!);
      let sum = 0;
      for (let r = 0; r < reduced.length; r++) sum += row[r] = Math.exp(x.data[kept[i]! + reduced[r]!]! - max);
      for (let r = 0; r < reduced.length; r++) out.data[kept[i]! + reduced[r]!] = row[r]! / sum;
    }
  },
  native(n, { x }, { axis }, [out]) {
    const max = n.reduce("max", x, [axis]);
    const powers = n.map("fp32", [x, max], (v, a, m) => v.expFlushed(v.sub(a!, m!)));
    const sum = n.reduce("sum", powers, [axis]);
    const factor = n.map("fp32", [sum], (v, s) => v.div(v.f(1), s!));
    return n.map(out.dtype, [powers, factor], (v, p, f) => v.mul(p!, f!));
  },
});
