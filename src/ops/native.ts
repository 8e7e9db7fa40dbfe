// How a record tells an engine that generates code what its operator computes: in terms of a handful of array primitives.

import type { DType } from "../core/dtype.ts";
import type { Shape } from "../core/shape.ts";
import type { Lane, Lanes } from "./vector.ts";

/** An array while it is being lowered. */
export interface NativeArray {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** One part of an array that is put together: x covers begin, begin + stride, … on every axis. */
export interface Piece<A extends NativeArray = NativeArray> {
  readonly x: A;
  readonly begin: readonly number[];
  /** 1 on every axis unless stated. */
  readonly stride?: readonly number[];
}

/** Windows along one axis: window o of the `out` ones holds the elements begin + o stride + k step, k below `kernel`; `step` may be negative. */
export interface WindowAxis {
  readonly kernel: number;
  readonly step: number;
  readonly out: number;
  readonly stride: number;
  readonly begin: number;
}

/** Rows of a matrix. */
export type SmallMatrix = readonly (readonly number[])[];

/**
 * The primitives. Floats are computed in fp32 whatever their storage; results of `dtype` fp16 are rounded where they are stored, and in strict
 * rounding at every operator. Sums of floats accumulate in fp32.
 */
export interface Native<A extends NativeArray = NativeArray> {
  /** f of the operands, lane by lane; operands broadcast. */
  map(dtype: DType, operands: readonly A[], f: (v: Lanes, ...lanes: Lane[]) => Lane): A;
  /** Over `axes`, which stay as size 1. Of floats it is fp32. */
  reduce(kind: "sum" | "max" | "min", x: A, axes: readonly number[]): A;
  reshape(x: A, shape: Shape): A;
  /** Result axis i is axis perm[i]. */
  permute(x: A, perm: readonly number[]): A;
  /** The same, where what is computed from the result should go by the order of x's axes, which is that of memory. */
  reorder(x: A, perm: readonly number[]): A;
  /** True for an array whose elements are known when a program is compiled. */
  isConstant(x: A): boolean;
  /** x in memory of its own, by rows, unless it lies so. */
  dense(x: A): A;
  slice(x: A, begin: readonly number[], size: readonly number[], stride: readonly number[]): A;
  broadcast(x: A, shape: Shape): A;
  /** All windows over the axes of x [...B, ...extents, ...D] from `first` on, as [...B, ...outs, ...kernels, ...D]; they lie inside x. */
  windows(x: A, first: number, axes: readonly WindowAxis[]): A;
  /** An array of one number with the pieces, which do not overlap, on top; without a number the pieces cover it. */
  assemble(dtype: DType, shape: Shape, fill: number | undefined, pieces: readonly Piece<A>[]): A;
  /** x [...B, M, K] y [...B, K, N], either transposed. */
  matmul(dtype: DType, x: A, y: A, transposeX: boolean, transposeY: boolean): A;
  /** x [...B, M, ...K] y [...B, N, ...K], summed over the last `inner` axes of both: [...B, M, N]. */
  contract(dtype: DType, x: A, y: A, inner: number): A;
  /**
   * A small matrix along two axes of x: element (I, J) of the result is the sum over (i, j) of matrix[I][i] matrix[J][j] x(i, j), in fp32. The result
   * has its axes in the order `perm`, and the last axis of both is x's last.
   */
  separable(dtype: DType, x: A, axes: readonly [number, number], matrix: SmallMatrix, perm: readonly number[]): A;
  /** The arrays that x was put together from along an axis, one for each of its positions and without the axis; undefined for any other array. */
  split(x: A, axis: number): readonly A[] | undefined;
  gather(x: A, indices: A, axis: number): A;
  scatter(data: A, indices: A, updates: A, axis: number, mode: "add" | "update"): A;
}
