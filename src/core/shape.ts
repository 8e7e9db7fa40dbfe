// Shape arithmetic: sizes, strides, broadcasting, axes. Shapes are static lists of positive integers.

import type { DType } from "./dtype.ts";
import { ConfigError, formatShape, ShapeError } from "./errors.ts";

export type Shape = readonly number[];

/** Abstract value: what is known of a tensor before it runs. */
export interface Aval {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** Highest rank of any tensor; the Neural Engine has five axes (N, D, C, H, W). */
export const maxRank = 5;

/** Most elements a tensor may have: byte offsets of fp32 stay below 2^33, counts exact in a double. */
export const maxElements = 2 ** 31 - 1;

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis]!;
  }
  return strides;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((extent, axis) => extent === b[axis]);
}

export function sameAval(a: Aval, b: Aval): boolean {
  return a.dtype === b.dtype && sameShape(a.shape, b.shape);
}

/** Refuses ranks over five, extents that are not positive integers, and tensors too large to address. */
export function checkShape(where: string, shape: Shape): void {
  if (!Array.isArray(shape)) throw new ShapeError(where, `a shape is a list of extents, not ${String(shape)}`);
  if (shape.length > maxRank) {
    throw new ShapeError(where, `rank ${shape.length} of ${formatShape(shape)} exceeds ${maxRank}`, {
      limit: maxRank,
      remedy: "merge neighbouring axes with reshape",
    });
  }
  for (const extent of shape) {
    if (!Number.isSafeInteger(extent) || extent < 1) {
      throw new ShapeError(where, `extent ${extent} of ${formatShape(shape)} is not a positive integer`);
    }
  }
  if (sizeOf(shape) > maxElements) {
    throw new ShapeError(where, `${formatShape(shape)} has more than ${maxElements} elements`, { limit: maxElements });
  }
}

/** Axis in [0, rank); negative axes count from the end. */
export function normalizeAxis(where: string, axis: number, rank: number): number {
  if (!Number.isInteger(axis) || axis < -rank || axis >= rank) {
    throw new ConfigError(where, `axis ${axis} is outside [${-rank}, ${rank - 1}] for rank ${rank}`);
  }
  return axis < 0 ? axis + rank : axis;
}

/** Distinct axes in [0, rank), ascending. */
export function normalizeAxes(where: string, axes: readonly number[], rank: number): number[] {
  const normal = axes.map((axis) => normalizeAxis(where, axis, rank)).sort((a, b) => a - b);
  const twice = normal.find((axis, index) => index > 0 && axis === normal[index - 1]);
  if (twice !== undefined) throw new ConfigError(where, `axis ${twice} is named twice in ${formatShape(axes)}`);
  return normal;
}

/** Common shape under NumPy broadcasting, or undefined where there is none. */
export function broadcastShapes(a: Shape, b: Shape): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const shape = new Array<number>(rank);
  for (let axis = 1; axis <= rank; axis++) {
    const left = a[a.length - axis] ?? 1;
    const right = b[b.length - axis] ?? 1;
    if (left !== right && left !== 1 && right !== 1) return undefined;
    shape[rank - axis] = left === 1 ? right : left;
  }
  return shape;
}

/** Strides that walk `from` while the index runs over `to`: 0 along every axis that is broadcast. */
export function broadcastStrides(from: Shape, to: Shape): number[] {
  const own = stridesOf(from);
  const lead = to.length - from.length;
  return to.map((_, axis) => (axis < lead || from[axis - lead] === 1 ? 0 : own[axis - lead]!));
}

/** Shape after reducing `axes` (normalized), with or without size-1 remains. */
export function reduceShape(shape: Shape, axes: readonly number[], keepDims: boolean): number[] {
  if (keepDims) return shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent));
  return shape.filter((_, axis) => !axes.includes(axis));
}
