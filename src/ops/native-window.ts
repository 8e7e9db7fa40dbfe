// Native forms of convolution, its transpose and pooling: windows of a padded array, then one matrix product or one reduction.

import type { DType } from "../core/dtype.ts";
import { type Aval, sizeOf } from "../core/shape.ts";
import { type Window, windowCount } from "./kernels/window.ts";
import type { Native, NativeArray, WindowAxis } from "./native.ts";

/** Where an axis of an array lies in a longer one. */
interface Placement {
  readonly begin: number;
  readonly stride: number;
  readonly extent: number;
}

/** x [N, C, ...] in a larger array of `fill`. */
function spaced(n: Native, x: NativeArray, axes: readonly Placement[], fill: number): NativeArray {
  const extents = x.shape.slice(2);
  if (axes.every(({ begin, stride, extent }, i) => begin === 0 && stride === 1 && extent === extents[i])) return x;
  const [batch, channels] = x.shape as [number, number];
  return n.assemble(x.dtype, [batch, channels, ...axes.map(({ extent }) => extent)], fill, [
    { x, begin: [0, 0, ...axes.map(({ begin }) => begin)], stride: [1, 1, ...axes.map(({ stride }) => stride)] },
  ]);
}

/** x padded as far as its windows reach. */
function padded(n: Native, x: NativeArray, windows: readonly Window[], fill: number): NativeArray {
  const axes = windows.map(({ extent, kernel, stride, dilation, padBegin, out }) => {
    const reach = (out - 1) * stride + (kernel - 1) * dilation + 1;
    return { begin: padBegin, stride: 1, extent: Math.max(extent + padBegin, reach) };
  });
  return spaced(n, x, axes, fill);
}

function forward({ kernel, stride, dilation, out }: Window): WindowAxis {
  return { kernel, step: dilation, out, stride, begin: 0 };
}

/** Weights of a convolution: for every group a matrix of result channels by (channel, position in the kernel). */
interface Filters {
  readonly matrix: NativeArray;
  readonly groups: number;
}

/** Correlates windows of x [N, C, ...] with filters: [N, groups * rows, ...outs]. */
function correlate(
  n: Native,
  x: NativeArray,
  axes: readonly WindowAxis[],
  { matrix, groups }: Filters,
  bias: NativeArray | undefined,
  { dtype, shape }: Aval,
): NativeArray {
  const [batch, channels] = x.shape as [number, number];
  const [rows, inner] = matrix.shape.slice(1) as [number, number];
  const kernel = axes.map((axis) => axis.kernel);
  const outs = axes.map(({ out }) => out);
  const [taps, positions] = [sizeOf(kernel), sizeOf(outs)];
  const windows = n.windows(x, axes);
  const summed: DType = bias === undefined ? dtype : "fp32";
  const perGroup = channels / groups;
  let product: NativeArray;
  if (groups === 1 && positions < taps && batch > 1) {
    // Few positions and large kernels, as in the derivative of weights: positions of all samples are columns of one product, windows its rows.
    const order = [0, ...kernel.map((_, i) => 2 + kernel.length + i), 1, ...kernel.map((_, i) => 2 + i)];
    const columns = n.reshape(n.permute(windows, order), [batch * positions, inner]);
    const joined = n.matmul(summed, n.reshape(matrix, [rows, inner]), columns, false, true);
    product = n.permute(n.reshape(joined, [rows, batch, ...outs]), [1, 0, ...outs.map((_, i) => 2 + i)]);
  } else if (perGroup === 1) {
    // Every channel by itself: nothing that a matrix product could share.
    const each = n.reshape(windows, [batch, groups, 1, ...kernel, ...outs]);
    const weight = n.reshape(matrix, [1, groups, rows, ...kernel, ...outs.map(() => 1)]);
    const terms = n.map("fp32", [each, weight], (v, a, b) => v.mul(a!, b!));
    const sum = n.reduce(
      "sum",
      terms,
      kernel.map((_, axis) => 3 + axis),
    );
    product = summed === "fp32" ? sum : n.map(summed, [sum], (_v, lane) => lane!);
  } else {
    const columns = n.reshape(windows, [batch, groups, inner, positions]);
    product = n.matmul(summed, n.reshape(matrix, [1, groups, rows, inner]), columns, false, false);
  }
  product = n.reshape(product, shape);
  if (bias === undefined) return product;
  const channel = n.reshape(bias, [1, bias.shape[0]!, ...outs.map(() => 1)]);
  return n.map(dtype, [product, channel], (v, a, b) => v.add(a!, b!));
}

/** Convolution of x [N, C, ...] with weight [O, C / groups, ...]. */
export function convNative(
  n: Native,
  {
    x,
    weight,
    bias,
  }: { readonly x: NativeArray; readonly weight: NativeArray; readonly bias?: NativeArray | undefined },
  windows: readonly Window[],
  groups: number,
  result: Aval,
): NativeArray {
  const [rows, perGroup, ...kernel] = weight.shape as [number, number, ...number[]];
  const matrix = n.reshape(weight, [groups, rows / groups, perGroup * sizeOf(kernel)]);
  return correlate(n, padded(n, x, windows, 0), windows.map(forward), { matrix, groups }, bias, result);
}

/**
 * Transposed convolution of x [N, C, ...] with weight [C, O / groups, ...], where `windows` are those of the convolution that it transposes: x with
 * zeros between its elements, correlated with the kernel in reverse.
 */
export function convTransposeNative(
  n: Native,
  {
    x,
    weight,
    bias,
  }: { readonly x: NativeArray; readonly weight: NativeArray; readonly bias?: NativeArray | undefined },
  windows: readonly Window[],
  groups: number,
  result: Aval,
): NativeArray {
  const [channels, perGroup, ...kernel] = weight.shape as [number, number, ...number[]];
  const taps = sizeOf(kernel);
  const placed = windows.map(({ extent, kernel: size, stride, dilation, padBegin, out }) => {
    const begin = Math.max(0, (size - 1) * dilation - padBegin);
    const reach = Math.max(begin + (out - 1) * stride, begin + padBegin + extent - 1) + 1;
    return { begin, stride, extent: reach };
  });
  const axes = windows.map(
    ({ extent, kernel: size, dilation, padBegin }, i): WindowAxis => ({
      kernel: size,
      step: -dilation,
      out: extent,
      stride: 1,
      begin: placed[i]!.begin + padBegin,
    }),
  );
  // [G, C/G, O/G, taps] as [G, O/G, C/G, taps].
  const filters = n.permute(n.reshape(weight, [groups, channels / groups, perGroup, taps]), [0, 2, 1, 3]);
  const matrix = n.reshape(filters, [groups, perGroup, (channels / groups) * taps]);
  return correlate(n, spaced(n, x, placed, 0), axes, { matrix, groups }, bias, result);
}

function kernelAxes(windows: readonly Window[]): number[] {
  return windows.map((_, axis) => 2 + axis);
}

export function maxPoolNative(
  n: Native,
  x: NativeArray,
  windows: readonly Window[],
  { dtype, shape }: Aval,
): NativeArray {
  const all = n.windows(padded(n, x, windows, Number.NEGATIVE_INFINITY), windows.map(forward));
  const most = n.reshape(n.reduce("max", all, kernelAxes(windows)), shape);
  return dtype === "fp32" ? most : n.map(dtype, [most], (_v, lane) => lane!);
}

export function avgPoolNative(
  n: Native,
  x: NativeArray,
  windows: readonly Window[],
  excludePadding: boolean,
  { dtype, shape }: Aval,
): NativeArray {
  const sums = n.reduce("sum", n.windows(padded(n, x, windows, 0), windows.map(forward)), kernelAxes(windows));
  let mean = n.reshape(sums, shape);
  // Elements that count differ only along single axes: one number for each position of an axis.
  for (const [axis, window] of windows.entries()) {
    const counts = Array.from({ length: window.out }, (_, at) => windowCount(window, at, excludePadding));
    const along = (extent: number, other: number) => shape.map((_, i) => (i === axis + 2 ? extent : other));
    const most = counts[counts.length >> 1]!;
    const pieces = runsOf(counts)
      .filter(({ count }) => count !== most)
      .map(({ begin, length, count }) => ({
        x: n.assemble("fp32", along(length, 1), count, []),
        begin: along(begin, 0),
      }));
    const divisors = n.assemble("fp32", along(window.out, 1), most, pieces);
    mean = n.map(axis === windows.length - 1 ? dtype : "fp32", [mean, divisors], (v, a, b) => v.div(a!, b!));
  }
  return mean;
}

/** Runs of equal numbers. */
function runsOf(counts: readonly number[]): { begin: number; length: number; count: number }[] {
  const runs: { begin: number; length: number; count: number }[] = [];
  for (const [at, count] of counts.entries()) {
    const last = runs.at(-1);
    if (last?.count === count) last.length++;
    else runs.push({ begin: at, length: 1, count });
  }
  return runs;
}
