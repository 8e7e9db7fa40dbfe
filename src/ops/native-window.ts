// Native forms of convolution, its transpose and pooling: windows of a padded array, then one matrix product or one reduction.

import type { DType } from "../core/dtype.ts";
import { type Aval, type Shape, sizeOf } from "../core/shape.ts";
import { type Window, windowCount } from "./kernels/window.ts";
import type { Native, NativeArray, WindowAxis } from "./native.ts";

// Inside, channels come last: a window's row of the kernel is contiguous then, and lanes are channels.

/** [N, C, ...] with its channels last. */
function channelsLast(n: Native, x: NativeArray): NativeArray {
  return n.permute(x, [0, ...x.shape.slice(2).map((_, i) => 2 + i), 1]);
}

function channelsFirst(n: Native, x: NativeArray): NativeArray {
  const last = x.shape.length - 1;
  return n.reorder(x, [0, last, ...x.shape.slice(1, -1).map((_, i) => 1 + i)]);
}

/** Where an axis of an array lies in a longer one. */
interface Placement {
  readonly begin: number;
  readonly stride: number;
  readonly extent: number;
}

/** x [N, ..., C] in a larger array of `fill`. */
function spaced(n: Native, x: NativeArray, axes: readonly Placement[], fill: number): NativeArray {
  if (axes.every(({ begin, stride, extent }, i) => begin === 0 && stride === 1 && extent === x.shape[1 + i])) return x;
  const shape = [x.shape[0]!, ...axes.map(({ extent }) => extent), x.shape.at(-1)!];
  const begin = [0, ...axes.map((axis) => axis.begin), 0];
  return n.assemble(x.dtype, shape, fill, [{ x, begin, stride: [1, ...axes.map(({ stride }) => stride), 1] }]);
}

/** x [N, ..., C] padded as far as its windows reach. */
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

// Winograd's F(4 x 4, 3 x 3) (Lavin and Gray, arXiv 1509.09308): 36 products for 16 results of 9 taps each.
const inputTransform = [
  [4, 0, -5, 0, 1, 0],
  [0, -4, -4, 1, 1, 0],
  [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0],
  [0, 2, -1, -2, 1, 0],
  [0, 4, 0, -5, 0, 1],
];
const filterTransform = [
  [1 / 4, 0, 0],
  [-1 / 6, -1 / 6, -1 / 6],
  [-1 / 6, 1 / 6, -1 / 6],
  [1 / 24, 1 / 12, 1 / 6],
  [1 / 24, -1 / 12, 1 / 6],
  [0, 0, 1],
];
const outputTransform = [
  [1, 1, 1, 1, 1, 0],
  [0, 1, -1, 2, -2, 0],
  [0, 1, 1, 4, 4, 0],
  [0, 1, -1, 8, -8, 1],
];
const tile = 4;
const reach = tile + 2;

/** Positions from which on, by estimate, the products that it saves outweigh reading four times as many weights. */
const winogradFrom = 128;

/**
 * 3 x 3 windows, one apart, of x [N, H, W, C] with filters [O, C, 3, 3], flipped where windows count down: [N, ...outs, O]. An element that is not
 * finite makes all of its tiles NaN.
 */
function winograd(
  n: Native,
  x: NativeArray,
  axes: readonly WindowAxis[],
  filters: NativeArray,
  flipped: boolean,
  dtype: DType,
): NativeArray {
  const [batch, channels] = [x.shape[0]!, x.shape.at(-1)!];
  const rows = filters.shape[0]!;
  const counts = axes.map(({ out }) => Math.ceil(out / tile));
  const first = axes.map(({ begin }) => begin - (flipped ? 2 : 0));
  // Whole tiles, whose ends may lie beyond x.
  const extents = counts.map((count, i) => Math.max(x.shape[1 + i]!, first[i]! + (count - 1) * tile + reach));
  const whole = spaced(
    n,
    x,
    extents.map((extent) => ({ begin: 0, stride: 1, extent })),
    0,
  );
  const tiles = n.windows(
    whole,
    1,
    counts.map((out, i) => ({ kernel: reach, step: 1, out, stride: tile, begin: first[i]! })),
  ); // [N, TH, TW, 6, 6, C]
  const points = n.separable("fp32", tiles, [3, 4], inputTransform, [3, 4, 0, 1, 2, 5]);
  const transform = flipped ? filterTransform.map((row) => row.toReversed()) : filterTransform;
  const weights = n.separable("fp32", n.permute(filters, [2, 3, 1, 0]), [0, 1], transform, [0, 1, 2, 3]);
  const total = batch * sizeOf(counts);
  const products = n.matmul(
    "fp32",
    n.reshape(points, [reach * reach, total, channels]),
    n.reshape(weights, [reach * reach, channels, rows]),
    false,
    false,
  );
  const results = n.separable(
    dtype,
    n.reshape(products, [reach, reach, batch, ...counts, rows]),
    [0, 1],
    outputTransform,
    [2, 3, 0, 4, 1, 5],
  ); // [N, TH, 4, TW, 4, O]
  const all = n.reshape(results, [batch, ...counts.map((count) => count * tile), rows]);
  const size = [batch, ...axes.map(({ out }) => out), rows];
  return n.slice(
    all,
    size.map(() => 0),
    size,
    size.map(() => 1),
  );
}

/** Correlates windows of x [N, ..., C] with filters [O, C / groups, ...kernel]: [N, O, ...outs]. */
function correlate(
  n: Native,
  x: NativeArray,
  axes: readonly WindowAxis[],
  { filters, groups }: { readonly filters: NativeArray; readonly groups: number },
  bias: NativeArray | undefined,
  { dtype, shape }: Aval,
): NativeArray {
  const batch = x.shape[0]!;
  const rows = filters.shape[0]! / groups;
  const perGroup = filters.shape[1]!;
  const [kernel, outs] = [axes.map((axis) => axis.kernel), axes.map(({ out }) => out)];
  const [taps, positions] = [sizeOf(kernel), sizeOf(outs)];
  const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);
  const d = axes.length;
  const windows = n.windows(x, 1, axes); // [N, ...outs, ...kernel, C]
  const summed: DType = bias === undefined ? dtype : "fp32";
  let product: NativeArray; // [N, ...outs, O]
  const flipped = axes.every(({ step }) => step === -1);
  const fits = axes.every(({ kernel: size, stride, step }) => size === 3 && stride === 1 && (step === 1 || flipped));
  if (d === 2 && fits && groups === 1 && perGroup % 16 === 0 && rows % 16 === 0 && batch * positions >= winogradFrom) {
    product = winograd(n, x, axes, filters, flipped, summed);
  } else if (groups === 1 && positions < taps && batch > 1) {
    // Few positions and large kernels, the derivative of weights: sums over windows, whose rows are (position, sample).
    const columns = n.permute(windows, [1 + 2 * d, ...range(1 + d, d), ...range(1, d), 0]);
    const lines = n.permute(filters, [1, ...range(2, d), 0]);
    const inner = perGroup * taps;
    const joined = n.matmul(
      summed,
      n.reshape(columns, [inner, positions * batch]),
      n.reshape(lines, [inner, rows]),
      true,
      false,
    );
    product = n.permute(n.reshape(joined, [...outs, batch, rows]), [d, ...range(0, d), d + 1]);
  } else if (perGroup === 1) {
    // Every channel by itself: nothing that a matrix product could share.
    const each = n.reshape(windows, [batch, ...outs, ...kernel, groups, 1]);
    const weight = n.permute(n.reshape(filters, [groups, rows, ...kernel]), [...range(2, d), 0, 1]);
    const terms = n.map("fp32", [each, weight], (v, a, b) => v.mul(a!, b!));
    const sum = n.reduce("sum", terms, range(1 + d, d));
    product = n.reshape(summed === "fp32" ? sum : n.map(summed, [sum], (_v, lane) => lane!), [
      batch,
      ...outs,
      groups * rows,
    ]);
  } else if (groups === 1) {
    const lines = n.reshape(n.permute(filters, [0, ...range(2, d), 1]), [rows, taps * perGroup]);
    const columns = n.reshape(windows, [batch * positions, taps * perGroup]);
    product = n.reshape(n.matmul(summed, columns, lines, false, true), [batch, ...outs, rows]);
  } else {
    const split = n.reshape(windows, [batch, ...outs, ...kernel, groups, perGroup]);
    const columns = n.permute(split, [1 + 2 * d, ...range(0, 1 + 2 * d), 2 + 2 * d]);
    const lines = n.permute(n.reshape(filters, [groups, rows, perGroup, taps]), [0, 1, 3, 2]);
    const joined = n.matmul(
      summed,
      n.reshape(columns, [groups, batch * positions, taps * perGroup]),
      n.reshape(lines, [groups, rows, taps * perGroup]),
      false,
      true,
    );
    product = n.reshape(n.permute(joined, [1, 0, 2]), [batch, ...outs, groups * rows]);
  }
  const sums = bias === undefined ? product : n.map(dtype, [product, bias], (v, a, b) => v.add(a!, b!));
  return n.reshape(channelsFirst(n, sums), shape);
}

interface ConvOperands {
  readonly x: NativeArray;
  readonly weight: NativeArray;
  readonly bias?: NativeArray | undefined;
}

/** Convolution of x [N, C, ...] with weight [O, C / groups, ...]. */
export function convNative(
  n: Native,
  { x, weight, bias }: ConvOperands,
  windows: readonly Window[],
  groups: number,
  result: Aval,
): NativeArray {
  const inner = padded(n, channelsLast(n, x), windows, 0);
  return correlate(n, inner, windows.map(forward), { filters: weight, groups }, bias, result);
}

/**
 * Transposed convolution of x [N, C, ...] with weight [C, O / groups, ...], where `windows` are those of the convolution that it transposes: x with
 * zeros between its elements, correlated with the kernel in reverse.
 */
export function convTransposeNative(
  n: Native,
  { x, weight, bias }: ConvOperands,
  windows: readonly Window[],
  groups: number,
  result: Aval,
): NativeArray {
  const [channels, perGroup, ...kernel] = weight.shape as [number, number, ...number[]];
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
  const split = n.reshape(weight, [groups, channels / groups, perGroup, ...kernel]);
  const exchanged = n.permute(split, [0, 2, 1, ...kernel.map((_, i) => 3 + i)]);
  const filters = n.reshape(exchanged, [groups * perGroup, channels / groups, ...kernel]);
  return correlate(n, spaced(n, channelsLast(n, x), placed, 0), axes, { filters, groups }, bias, result);
}

/** One number of each window of x [N, C, ...] padded with `fill`, fp32 [N, C, ...outs]. */
function pooled(
  n: Native,
  kind: "sum" | "max",
  x: NativeArray,
  windows: readonly Window[],
  fill: number,
  shape: Shape,
): NativeArray {
  const all = n.windows(padded(n, channelsLast(n, x), windows, fill), 1, windows.map(forward));
  const each = n.reduce(
    kind,
    all,
    windows.map((_, i) => 1 + windows.length + i),
  );
  const outs = windows.map(({ out }) => out);
  return n.reshape(channelsFirst(n, n.reshape(each, [shape[0]!, ...outs, shape[1]!])), shape);
}

export function maxPoolNative(
  n: Native,
  x: NativeArray,
  windows: readonly Window[],
  { dtype, shape }: Aval,
): NativeArray {
  const most = pooled(n, "max", x, windows, Number.NEGATIVE_INFINITY, shape);
  return dtype === "fp32" ? most : n.map(dtype, [most], (_v, lane) => lane!);
}

export function avgPoolNative(
  n: Native,
  x: NativeArray,
  windows: readonly Window[],
  excludePadding: boolean,
  { dtype, shape }: Aval,
): NativeArray {
  let mean = pooled(n, "sum", x, windows, 0, shape);
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
