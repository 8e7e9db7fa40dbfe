// Native forms of convolution, its transpose and pooling: windows of a padded array, then one matrix product or one reduction.

import type { DType } from "../core/dtype.ts";
import { type Aval, type Shape, sizeOf } from "../core/shape.ts";
import { type Window, windowCount } from "./kernels/window.ts";
import type { Native, NativeArray, SmallMatrix, WindowAxis } from "./native.ts";

// Inside, channels come last: a window's row of the kernel is contiguous then, and lanes are channels.

/** [N, C, ...] with its channels last. */
function channelsLast(n: Native, x: NativeArray): NativeArray {
  return n.permute(x, [0, ...x.shape.slice(2).map((_, i) => 2 + i), 1]);
}

function channelsFirst(n: Native, x: NativeArray): NativeArray {
  const last = x.shape.length - 1;
  return n.reorder(x, [0, last, ...x.shape.slice(1, -1).map((_, i) => 1 + i)]);
}

/** Windows of x [N, ..., C], which may begin before it and reach beyond it: an array of `fill` with x on top where they do, and the windows in that. */
function padded(
  n: Native,
  x: NativeArray,
  axes: readonly WindowAxis[],
  fill: number,
): { readonly x: NativeArray; readonly axes: readonly WindowAxis[] } {
  const before = axes.map(({ begin }) => Math.max(0, -begin));
  const shifted = axes.map((axis, i) => ({ ...axis, begin: axis.begin + before[i]! }));
  const extents = shifted.map(({ kernel, step, out, stride, begin }, i) =>
    Math.max(before[i]! + x.shape[1 + i]!, lastOf({ kernel, step, out, stride, begin }) + 1),
  );
  if (extents.every((extent, i) => extent === x.shape[1 + i])) return { x, axes };
  const whole = n.assemble(x.dtype, [x.shape[0]!, ...extents, x.shape.at(-1)!], fill, [
    { x, begin: [0, ...before, 0] },
  ]);
  return { x: whole, axes: shifted };
}

function forward({ kernel, stride, dilation, padBegin, out }: Window): WindowAxis {
  return { kernel, step: dilation, out, stride, begin: -padBegin };
}

const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);

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

/**
 * Positions from which on, by estimate, the products that it saves outweigh reading four times as many weights, and, unless these are constant,
 * transforming them in every run.
 */
const winogradFrom = { constant: 128, computed: 512 };

/** 3 x 3 windows, one apart, of x [N, H, W, C] with filters [O, C, 3, 3]: [N, ...outs, O]. An element that is not finite makes all of its tiles NaN. */
function winograd(
  n: Native,
  x: NativeArray,
  axes: readonly WindowAxis[],
  filters: NativeArray,
  dtype: DType,
): NativeArray {
  const [batch, channels] = [x.shape[0]!, x.shape.at(-1)!];
  const rows = filters.shape[0]!;
  const counts = axes.map(({ out }) => Math.ceil(out / tile));
  // Whole tiles, whose ends may lie beyond what the windows need.
  const whole = padded(
    n,
    x,
    axes.map(({ begin }, i) => ({ kernel: reach, step: 1, out: counts[i]!, stride: tile, begin })),
    0,
  );
  const tiles = n.windows(whole.x, 1, whole.axes); // [N, TH, TW, 6, 6, C]
  const points = n.separable("fp32", tiles, [3, 4], inputTransform, [3, 4, 0, 1, 2, 5]);
  const weights = n.separable("fp32", n.permute(filters, [2, 3, 1, 0]), [0, 1], filterTransform, [0, 1, 2, 3]);
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

/** Tiles that are added up one after the other; several such sums are added at the end, for the sake of digits. */
const mostTiles = 1024;

function transposed(matrix: SmallMatrix): number[][] {
  return matrix[0]!.map((_, column) => matrix.map((row) => row[column]!));
}

/**
 * The same algorithm for the derivative by 3 x 3 filters, its transpose: sums of x [C, H, W, N] at `axes` (3 positions of windows as large as `filters`,
 * the cotangent [O, N, P, Q]): [C, 3, 3, O]. Sums over all tiles are 36 products, and their results are transformed once.
 */
function winogradByFilters(
  n: Native,
  x: NativeArray,
  axes: readonly WindowAxis[],
  filters: NativeArray,
  dtype: DType,
): NativeArray {
  const [channels, samples] = [x.shape[0]!, x.shape.at(-1)!];
  const rows = filters.shape[0]!;
  const counts = axes.map(({ kernel }) => Math.ceil(kernel / tile));
  const tiles = (array: NativeArray, size: number, begins: readonly number[]) => {
    const windows = begins.map((begin, i) => ({ kernel: size, step: 1, out: counts[i]!, stride: tile, begin }));
    const whole = padded(n, array, windows, 0);
    return n.windows(whole.x, 1, whole.axes);
  };
  const total = samples * sizeOf(counts);
  const parts = partsOf(samples, Math.ceil(total / mostTiles));
  /** [36, parts, tiles, channels]. */
  const points = (array: NativeArray, matrix: SmallMatrix) =>
    n.reshape(n.separable("fp32", array, [3, 4], matrix, [3, 4, 0, 1, 2, 5]), [
      reach * reach,
      parts,
      total / parts,
      array.shape.at(-1)!,
    ]);
  const begins = axes.map(({ begin }) => begin);
  const inputs = points(tiles(n.permute(x, [3, 1, 2, 0]), reach, begins), inputTransform);
  const cotangents = points(tiles(n.permute(filters, [1, 2, 3, 0]), tile, [0, 0]), transposed(outputTransform));
  const products = n.matmul("fp32", cotangents, inputs, true, false); // [36, parts, O, C]
  const sums = n.separable(
    dtype,
    n.reshape(parts > 1 ? n.reduce("sum", products, [1]) : products, [reach, reach, rows, channels]),
    [0, 1],
    transposed(filterTransform),
    [0, 1, 2, 3],
  ); // [3, 3, O, C]
  return n.permute(sums, [3, 0, 1, 2]);
}

/** Bytes of a part of the samples; a quarter of what all parts' sums may have. */
const partBytes = 1 << 20;
const mostParts = 16;
/** Channels that fill few lanes. */
const fewChannels = 32;

/** Filters [O, C / groups, ...kernel] over windows of x [N, ..., C]. */
interface Correlation {
  readonly x: NativeArray;
  readonly axes: readonly WindowAxis[];
  readonly filters: NativeArray;
  readonly groups: number;
  readonly dtype: DType;
  /** The filters lie in memory with their taps in reverse. */
  readonly reversed?: boolean;
}

/** The same windows, elements in reverse. */
function backward({ kernel, step, ...rest }: WindowAxis): WindowAxis {
  return { ...rest, kernel, step: -step, begin: rest.begin + (kernel - 1) * step };
}

/** Filters [O, C, ...kernel] with taps in reverse. */
function filtersBackward(n: Native, filters: NativeArray): NativeArray {
  const axes = filters.shape.slice(2).map((kernel) => backward({ kernel, step: 1, out: 1, stride: 1, begin: 0 }));
  return n.reshape(n.windows(filters, 2, axes), filters.shape);
}

/** [N, ...outs, O], by the form that suits the shape. */
function correlate(n: Native, { x, axes, filters, groups, dtype, reversed = false }: Correlation): NativeArray {
  const [batch, d] = [x.shape[0]!, axes.length];
  const [rows, perGroup] = [filters.shape[0]! / groups, filters.shape[1]!];
  const [kernel, outs] = [axes.map((axis) => axis.kernel), axes.map(({ out }) => out)];
  const [taps, positions] = [sizeOf(kernel), sizeOf(outs)];
  const fits = axes.every(({ kernel: size, stride, step }) => size === 3 && stride === 1 && step === 1);
  const least = winogradFrom[n.isConstant(filters) ? "constant" : "computed"];
  if (d === 2 && fits && groups === 1 && perGroup % 16 === 0 && rows % 16 === 0 && batch * positions >= least)
    return winograd(n, x, axes, filters, dtype);
  const byFilters = axes.every(({ out, stride, step }) => out === 3 && stride === 1 && step === 1);
  const multiples = batch % 16 === 0 && rows % 16 === 0;
  if (d === 2 && byFilters && groups === 1 && multiples && perGroup * taps >= winogradFrom.computed)
    return winogradByFilters(n, x, axes, filters, dtype);
  if (positions < taps) return correlateLarge(n, { x, axes, filters, groups, dtype });
  const inside = padded(n, x, axes, 0);
  const windows = n.windows(inside.x, 1, inside.axes); // [N, ...outs, ...kernel, C]
  if (perGroup === 1) {
    // Every channel by itself: nothing that a matrix product could share.
    const each = n.reshape(windows, [batch, ...outs, ...kernel, groups, 1]);
    const weight = n.permute(n.reshape(filters, [groups, rows, ...kernel]), [...range(2, d), 0, 1]);
    const terms = n.map("fp32", [each, weight], (v, a, b) => v.mul(a!, b!));
    const sum = n.reduce("sum", terms, range(1 + d, d));
    return n.reshape(stored(n, sum, dtype), [batch, ...outs, groups * rows]);
  }
  if (!n.isConstant(filters) && rows >= batch * positions && taps > 1) {
    // More is read of filters than of windows, so these take the order of those, as they lie in memory.
    const [seen, lines] = reversed
      ? [n.windows(inside.x, 1, inside.axes.map(backward)), filtersBackward(n, filters)]
      : [windows, filters];
    const split = n.reshape(seen, [batch, ...outs, ...kernel, groups, perGroup]);
    const columns = n.dense(n.permute(split, [1 + 2 * d, ...range(0, 1 + d), 2 + 2 * d, ...range(1 + d, d)]));
    const product = n.contract(
      dtype,
      n.reshape(columns, [groups, batch * positions, perGroup, ...kernel]),
      n.reshape(lines, [groups, rows, perGroup, ...kernel]),
      1 + d,
    );
    return n.reshape(n.permute(product, [1, 0, 2]), [batch, ...outs, groups * rows]);
  }
  // The product's batch are groups, samples and all axes of positions but the last, whose windows are its rows.
  const split = n.reshape(windows, [batch, ...outs, ...kernel, groups, perGroup]);
  const columns = n.permute(split, [1 + 2 * d, ...range(0, 1 + 2 * d), 2 + 2 * d]);
  // Rows of filters next to one another in memory: [...kernel, C / groups, groups, rows].
  const order = n.permute(n.reshape(filters, [groups, rows, perGroup, ...kernel]), [...range(3, d), 2, 0, 1]);
  const lines = taps === 1 ? order : n.dense(order);
  const weight = n.reshape(n.permute(lines, [1 + d, 2 + d, ...range(0, 1 + d)]), [
    groups,
    ...range(0, d).map(() => 1),
    rows,
    ...kernel,
    perGroup,
  ]);
  const product = n.contract(dtype, columns, weight, d + 1); // [groups, N, ...outs, rows]
  if (groups === 1) return n.reshape(product, [batch, ...outs, rows]);
  return n.reshape(n.permute(product, [...range(1, 1 + d), 0, 2 + d]), [batch, ...outs, groups * rows]);
}

/**
 * The same where positions are few and kernels large, as in the derivative of weights, whose samples are channels here: sums over samples and elements of
 * the kernel, with rows that are channels next to one another.
 */
function correlateLarge(n: Native, { x, axes, filters, groups, dtype }: Correlation): NativeArray {
  const [batch, d] = [x.shape[0]!, axes.length];
  const [rows, perGroup] = [filters.shape[0]! / groups, filters.shape[1]!];
  const [kernel, outs] = [axes.map((axis) => axis.kernel), axes.map(({ out }) => out)];
  // [C / groups, ..., groups N]: what is N here lies innermost in memory.
  const split = n.reshape(x, [batch, ...x.shape.slice(1, -1), groups, perGroup]);
  const order = n.permute(split, [2 + d, ...range(1, d), 1 + d, 0]);
  const whole = n.reshape(order, [perGroup, ...x.shape.slice(1, -1), groups * batch]);
  const inside = padded(n, whole, axes, 0);
  const windows = n.reshape(n.windows(inside.x, 1, inside.axes), [perGroup, ...outs, ...kernel, groups, batch]);
  const lines = n.reshape(filters, [groups, rows, perGroup, ...kernel]);
  if (batch === 1 && groups > 1) {
    const each = n.reshape(n.permute(windows, [...range(1, d), 0, ...range(1 + d, d + 2)]), [
      ...outs,
      perGroup,
      ...kernel,
      groups,
      1,
    ]);
    const weight = n.permute(lines, [2, ...range(3, d), 0, 1]);
    const terms = n.map("fp32", [each, weight], (v, a, b) => v.mul(a!, b!));
    const sum = n.reduce("sum", terms, range(d, 1 + d));
    return n.reshape(stored(n, sum, dtype), [1, ...outs, groups * rows]);
  }
  const columns = n.permute(windows, [1 + 2 * d, ...range(1, d), 2 + 2 * d, 0, ...range(1 + d, d)]); // [groups, ...outs, N, C / groups, ...kernel]
  // Few channels make rows with those of their neighbours, where these are neighbours in memory.
  const joins = groups === 1 && batch < fewChannels && axes.at(-1)!.stride === 1;
  const many = joins ? [...outs.slice(0, -1), outs.at(-1)! * batch] : [...outs, batch];
  // Samples in parts whose arrays stay in cache for all of the kernel's elements, if sums are small beside them.
  const bytes = 4 * (sizeOf(inside.x.shape) + sizeOf(filters.shape));
  const most = Math.floor((4 * partBytes) / (4 * groups * rows * batch * sizeOf(outs)));
  const parts = partsOf(perGroup, Math.min(most, mostParts, Math.ceil(bytes / partBytes)));
  const samples = [parts, perGroup / parts];
  const part = (array: NativeArray, before: readonly number[], rest: number) => {
    const at = before.length;
    return n.permute(n.reshape(array, [...before, rest, ...samples, ...kernel]), [
      at + 1,
      ...range(0, at + 1),
      ...range(at + 2, 1 + d),
    ]);
  };
  const x2 = part(columns, [groups, ...many.slice(0, -1)], many.at(-1)!);
  const y2 = part(lines, [groups, ...range(1, many.length - 1).map(() => 1)], rows);
  const type = parts > 1 ? "fp32" : dtype;
  const each = joins ? n.contract(type, x2, y2, d + 1) : n.contract(type, y2, x2, d + 1);
  const product = parts > 1 ? stored(n, n.reduce("sum", each, [0]), dtype) : each;
  // Stored with channels last, the derivative of all weights is the array of weights with taps first.
  const result = joins
    ? n.reshape(product, [groups, ...outs, batch, rows])
    : n.permute(n.reshape(product, [groups, ...outs, rows, batch]), [...range(0, 1 + d), 2 + d, 1 + d]);
  return n.reshape(n.permute(result, [1 + d, ...range(1, d), 0, 2 + d]), [batch, ...outs, groups * rows]);
}

/** In how many parts of one size to sum over samples: about so many as wanted. */
function partsOf(samples: number, wanted: number): number {
  return range(1, Math.max(1, wanted)).findLast((parts) => samples % parts === 0)!;
}

/** Sums in the dtype that they are wanted in. */
function stored(n: Native, sums: NativeArray, dtype: DType): NativeArray {
  return dtype === sums.dtype ? sums : n.map(dtype, [sums], (_v, lane) => lane!);
}

/** Adds a bias [O] to [N, ...outs, O] and puts channels first. */
function finished(n: Native, sums: NativeArray, bias: NativeArray | undefined, { dtype, shape }: Aval): NativeArray {
  const all = bias === undefined ? sums : n.map(dtype, [sums, bias], (v, a, b) => v.add(a!, b!));
  return n.reshape(channelsFirst(n, all), shape);
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
  const dtype = bias === undefined ? result.dtype : "fp32";
  const sums = correlate(n, { x: channelsLast(n, x), axes: windows.map(forward), filters: weight, groups, dtype });
  return finished(n, sums, bias, result);
}

/** Elements of a result that are `every` apart from `first` on, and what they are made of: windows of x and taps of the kernel. */
interface Phase {
  readonly first: number;
  readonly window: WindowAxis;
  readonly taps: WindowAxis;
}

/**
 * Element i of a transposed convolution is the sum of x[o] w[k] over all o stride + k dilation - padBegin = i. For i of one remainder by the stride
 * these are windows of x with some of the kernel's taps, in reverse; remainders that no tap reaches are left out.
 */
function phasesOf({ extent, kernel, stride, dilation, padBegin }: Window): Phase[] {
  const phases: Phase[] = [];
  let common = stride;
  for (let rest = dilation % stride; rest !== 0; ) [common, rest] = [rest, common % rest];
  const [every, step] = [stride / common, dilation / common];
  for (let first = 0; first < Math.min(stride, extent); first++) {
    const tap = range(0, Math.min(every, kernel)).find((k) => (first + padBegin - k * dilation) % stride === 0);
    if (tap === undefined) continue;
    const count = Math.ceil((kernel - tap) / every);
    const last = (first + padBegin - tap * dilation) / stride; // the element of x that the first of these taps is multiplied with
    phases.push({
      first,
      window: {
        kernel: count,
        step,
        out: Math.ceil((extent - first) / stride),
        stride: 1,
        begin: last - (count - 1) * step,
      },
      taps: { kernel: count, step: -every, out: 1, stride: 1, begin: tap + (count - 1) * every },
    });
  }
  return phases;
}

/** Transposed convolution of x [N, C, ...] with weight [C, O / groups, ...], where `windows` are those of the convolution that it transposes. */
export function convTransposeNative(
  n: Native,
  { x, weight, bias }: ConvOperands,
  windows: readonly Window[],
  groups: number,
  result: Aval,
): NativeArray {
  const [channels, perGroup, ...kernel] = weight.shape as [number, number, ...number[]];
  const split = n.reshape(weight, [groups, channels / groups, perGroup, ...kernel]);
  const exchanged = n.permute(split, [0, 2, 1, ...kernel.map((_, i) => 3 + i)]);
  const filters = n.reshape(exchanged, [groups * perGroup, channels / groups, ...kernel]);
  const dtype = bias === undefined ? result.dtype : "fp32";
  // One combination of remainders at a time, all in the same padded array.
  const phases = windows.map(phasesOf);
  const reached = phases.map((list, i): WindowAxis => {
    const [low, high] = [list.map(({ window }) => window.begin), list.map(({ window }) => lastOf(window))];
    const begin = Math.min(0, ...low);
    return { kernel: Math.max(x.shape[2 + i]! - 1, ...high) - begin + 1, step: 1, out: 1, stride: 1, begin };
  });
  const whole = padded(n, channelsLast(n, x), reached, 0);
  const combined = phases.reduce<Phase[][]>(
    (all, list) => all.flatMap((some) => list.map((each) => [...some, each])),
    [[]],
  );
  const pieces = combined.map((phase) => {
    const some = n.windows(
      filters,
      2,
      phase.map(({ taps }) => taps),
    );
    const axes = phase.map(({ window }, i) => ({
      ...window,
      begin: window.begin + whole.axes[i]!.begin - reached[i]!.begin,
    }));
    return {
      x: correlate(n, {
        x: whole.x,
        axes,
        filters: n.reshape(some, [...filters.shape.slice(0, 2), ...phase.map(({ taps }) => taps.kernel)]),
        groups,
        dtype,
        reversed: true,
      }),
      begin: [0, ...phase.map(({ first }) => first), 0],
      stride: [1, ...windows.map(({ stride }) => stride), 1],
    };
  });
  const complete = phases.every((list, i) => list.length === Math.min(windows[i]!.stride, windows[i]!.extent));
  const single = pieces.length === 1 && windows.every(({ stride }) => stride === 1);
  const shape = [x.shape[0]!, ...windows.map(({ extent }) => extent), groups * perGroup];
  const sums = single ? pieces[0]!.x : n.assemble(dtype, shape, complete ? undefined : 0, pieces);
  return finished(n, sums, bias, result);
}

/** The last element that windows touch. */
function lastOf({ kernel, step, out, stride, begin }: WindowAxis): number {
  return begin + (out - 1) * stride + (kernel - 1) * step;
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
  const inside = padded(n, channelsLast(n, x), windows.map(forward), fill);
  const all = n.windows(inside.x, 1, inside.axes);
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
