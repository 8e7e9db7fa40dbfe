// Ranks and axes: products, transposes and elementwise operators of rank 5, repetition along axes, padding of channels. The same bits throughout.

import { isFloat } from "../../core/dtype.ts";
import { type Aval, type Shape, sizeOf } from "../../core/shape.ts";
import type { Op } from "../../ops/define.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { applyOp, type Rule, rule, type Use } from "../rewrite.ts";
import { depthOperand, fitsChip } from "../support.ts";
import type { Target } from "./dialect.ts";

/** A shape with leading ones up to `rank`. */
function padded(shape: Shape, rank: number): number[] {
  return [...new Array<number>(rank - shape.length).fill(1), ...shape];
}

/**
 * Neighbouring axes that all operands repeat, or none of them, joined: lists of axes of the common shape. Axes of extent 1 join either side.
 */
function joinedAxes(shapes: readonly Shape[], common: Shape): number[][] {
  const groups: number[][] = [];
  let last: string | undefined;
  for (const [axis, extent] of common.entries()) {
    const kind = extent === 1 ? undefined : shapes.map((shape) => (shape[axis] === 1 ? "r" : "-")).join("");
    const group = groups.at(-1);
    if (group !== undefined && (kind === undefined || last === undefined || kind === last)) group.push(axis);
    else groups.push([axis]);
    last = kind ?? last;
  }
  return groups;
}

const extentsOf = (shape: Shape, groups: readonly (readonly number[])[]) =>
  groups.map((axes) => sizeOf(axes.map((axis) => shape[axis]!)));

/** Elementwise operators of rank 5 whose operands are repeated along axis 1, on chips that cannot: fewer axes, or a tile. */
function withoutDepth({ op, operands, attrs, results }: Use, { chip }: Target): Tensor | undefined {
  const { shape } = results[0]!;
  const at = chip.features.depthBroadcast
    ? -1
    : depthOperand(
        op,
        operands.map((each) => each?.aval),
        shape,
      );
  if (at < 0) return undefined;
  const rank = shape.length;
  const full = operands.map((each) => padded(each!.shape, rank));
  const groups = joinedAxes(full, shape);
  const merged = extentsOf(shape, groups);
  if (groups.length < rank && fitsChip({ ...results[0]!, shape: merged }, chip)) {
    const flat = operands.map((each, i) => (each!.size === 1 ? each : each!.reshape(extentsOf(full[i]!, groups))));
    return applyOp(op, flat, attrs)[0]!.reshape(shape);
  }
  const tall = operands.map((each, i) =>
    i === at ? each!.reshape(full[i]!).tile(full[i]!.map((_, axis) => (axis === 1 ? shape[1]! : 1))) : each,
  );
  return applyOp(op, tall, attrs)[0]!;
}

/** Batch axes of a product of rank 5 as two at most, repeating an operand where its neighbours do not repeat alike. */
function flatProduct(x: Tensor, y: Tensor, attrs: Use["attrs"], { shape, dtype }: Aval, { chip }: Target): Tensor {
  const batch = shape.slice(0, -2);
  const product = (a: Tensor, b: Tensor) => applyOp(ops.matmul, [a, b], attrs)[0]!.reshape(shape);
  const lead = (t: Tensor) => padded(t.shape.slice(0, -2), batch.length);
  const matrix = (t: Tensor) => t.shape.slice(-2);
  const groups = joinedAxes([lead(x), lead(y)], batch);
  const fits = (axes: readonly (readonly number[])[]) =>
    axes.length <= 2 &&
    [shape, x.shape, y.shape].every((each) =>
      fitsChip({ dtype, shape: [...extentsOf(batch, axes), ...each.slice(-2)] }, chip),
    );
  const split = groups.length === 1 && !fits(groups) ? [[0], [1, 2]] : groups;
  if (split.length <= 2)
    return product(
      x.reshape([...extentsOf(lead(x), split), ...matrix(x)]),
      y.reshape([...extentsOf(lead(y), split), ...matrix(y)]),
    );
  const whole = (t: Tensor) => t.broadcastTo([...batch, ...matrix(t)]);
  return product(whole(x), whole(y));
}

/** A transpose with neighbours that stay neighbours joined, and without axes of extent 1; undefined where that changes nothing. */
function flatTranspose(x: Tensor, perm: readonly number[], shape: Shape): Tensor | undefined {
  const order = perm.filter((axis) => x.shape[axis] !== 1);
  const groups: number[][] = [];
  const kept = x.shape.flatMap((extent, axis) => (extent === 1 ? [] : [axis]));
  for (const axis of order) {
    const group = groups.at(-1);
    if (group !== undefined && kept[kept.indexOf(group.at(-1)!) + 1] === axis) group.push(axis);
    else groups.push([axis]);
  }
  if (groups.length <= 1) return x.reshape(shape);
  if (groups.length >= x.rank) return undefined;
  const sorted = [...groups].sort((a, b) => a[0]! - b[0]!);
  return x
    .reshape(extentsOf(x.shape, sorted))
    .transpose(groups.map((group) => sorted.indexOf(group)))
    .reshape(shape);
}

/** One axis repeated by a product with ones that it is broadcast against: repetitions that `tile` has not. */
function repeat(x: Tensor, axis: number, count: number): Tensor {
  const [before, extent, after] = [x.shape.slice(0, axis), x.shape[axis]!, x.shape.slice(axis + 1)];
  const rows = extent === 1 ? [sizeOf(after)] : [extent, sizeOf(after)];
  return x
    .reshape([sizeOf(before), 1, ...rows])
    .mul(x.filled(1, [1, count, ...rows.map(() => 1)]))
    .reshape([...before, extent * count, ...after]);
}

/** Pads an axis before the last two as the middle one of three, or else in the place of the last but one. */
function padOuter(x: Tensor, axis: number, amounts: readonly number[], attrs: PadAttrs, { chip }: Target): Tensor {
  const [before, extent, after] = [x.shape.slice(0, axis), x.shape[axis]!, x.shape.slice(axis + 1)];
  const total = extent + amounts[0]! + amounts[1]!;
  const rows = [sizeOf(before), total, sizeOf(after)];
  if (fitsChip({ dtype: x.dtype, shape: rows }, chip))
    return x
      .reshape([rows[0]!, extent, rows[2]!])
      .pad([...amounts, 0, 0], attrs)
      .reshape([...before, total, ...after]);
  const swap = x.shape.map((_, i) => (i === axis ? x.rank - 2 : i === x.rank - 2 ? axis : i));
  return x
    .transpose(swap)
    .pad([...amounts, 0, 0], attrs)
    .transpose(swap);
}

interface PadAttrs {
  readonly mode: "constant" | "reflect" | "replicate";
  readonly constantVal: number;
}

export function rankRules(target: Target): Rule[] {
  const { chip } = target;
  const elementwise = Object.values<Op>(ops).filter((op) => op.elementwise === true);
  return [
    {
      name: "depth-broadcast",
      ops: elementwise,
      rewrite(use) {
        const made = use.results[0]!.shape.length === 5 ? withoutDepth(use, target) : undefined;
        return made && [made];
      },
    },
    // Mil §6: the depth of a product is 1. Runtime §2: a transpose and a product of rank 5 fail.
    rule(ops.matmul, "matmul-rank", ({ x, y }, attrs, { results }) =>
      Math.max(x.rank, y.rank) === 5 ? flatProduct(x, y, attrs, results[0]!, target) : undefined,
    ),
    rule(ops.transpose, "transpose-rank", ({ x }, { perm }, { results }) => {
      if (perm.every((axis, i) => axis === i)) return x;
      return x.rank === 5 ? flatTranspose(x, perm, results[0]!.shape) : undefined;
    }),
    rule(ops.tile, "tile", ({ x }, { reps }) => {
      if (reps.every((count) => count === 1)) return x;
      const bad = reps.findIndex((count) => !tiles(count));
      if (bad < 0 || !isFloat(x.dtype)) return undefined;
      return repeat(x, bad, reps[bad]!).tile(reps.map((count, axis) => (axis === bad ? 1 : count)));
    }),
    // Mil §6: no padding of channels; ops §11: spatial axes only.
    rule(ops.pad, "pad-outer", ({ x }, { pad, mode, constantVal }) => {
      const first = x.rank - pad.length / 2;
      const outer = pad.findIndex((count, i) => count > 0 && first + (i >> 1) < x.rank - 2);
      if (outer < 0) return undefined;
      const pair = outer >> 1;
      const attrs = { mode: mode as PadAttrs["mode"], constantVal };
      const one = padOuter(x, first + pair, pad.slice(2 * pair, 2 * pair + 2), attrs, target);
      return one.pad(
        pad.map((count, i) => (i >> 1 === pair ? 0 : count)),
        attrs,
      );
    }),
    // Below A14 there is no such operator (software, rounds otherwise: ops §4).
    rule(ops.upsample_nearest_neighbor, "upsample", ({ x }, { scaleFactorHeight: sh, scaleFactorWidth: sw }, use) => {
      if (chip.features.upsampleNative) return undefined;
      const [n, c, h, w] = x.shape as [number, number, number, number];
      const wide = x.reshape([n, c, h * w, 1]).tile([1, 1, 1, sw]);
      const tall = wide.reshape([n, c * h, 1, w * sw]).tile([1, 1, sh, 1]);
      return tall.reshape(use.results[0]!.shape);
    }),
  ];
}

/** Whether `tile` takes a repetition: products of 2 and 3 (ops §2.5: factors 2, 3, 4, 8). */
function tiles(count: number): boolean {
  for (const factor of [2, 3]) while (count % factor === 0) count /= factor;
  return count === 1;
}
