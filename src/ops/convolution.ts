// Convolution, its transpose, and pooling, over one or two spatial axes.

import { newValues } from "../core/dtype.ts";
import { ConfigError, formatShape, ShapeError } from "../core/errors.ts";
import { type Aval, type Shape, sizeOf } from "../core/shape.ts";
import type { Tensor } from "../tensor.ts";
import { bool, defineOp, floats, int, ints, oneOf, optional } from "./define.ts";
import {
  avgPoolKernel,
  completeWindow,
  convKernel,
  convTransposeKernel,
  maxPoolKernel,
  type Window,
  type WindowAttrs,
  windowCount,
  windowsOf,
} from "./kernels/window.ts";
import { avgPoolNative, convNative, convTransposeNative, maxPoolNative } from "./native-window.ts";

function spatial(op: string, { shape }: { readonly shape: Shape }): Shape {
  if (shape.length < 3 || shape.length > 4)
    throw new ShapeError(op, `x has rank ${shape.length}, not 3 ([N, C, L]) or 4 ([N, C, H, W])`);
  return shape.slice(2);
}

function requireBias(op: string, bias: Aval | undefined, channels: number): void {
  if (bias !== undefined && (bias.shape.length !== 1 || bias.shape[0] !== channels)) {
    throw new ShapeError(op, `bias must have shape [${channels}], not ${formatShape(bias.shape)}`);
  }
}

function requireGroups(op: string, groups: number, channels: Record<string, number>): void {
  if (groups < 1) throw new ConfigError(op, `groups is ${groups}, not a positive integer`);
  for (const [name, count] of Object.entries(channels)) {
    if (count % groups !== 0) throw new ShapeError(op, `${count} ${name} channels do not divide into ${groups} groups`);
  }
}

/** What the last window reads beyond the declared end padding; negative where trailing elements are never read. */
function reachBeyond({ out, stride, kernel, dilation, extent, padBegin }: Window): number {
  return (out - 1) * stride + (kernel - 1) * dilation + 1 - padBegin - extent;
}

/** Zeros behind `x` [N, C, ...] for trailing elements that no window reads. */
function withUnread(x: Tensor, windows: readonly Window[]): Tensor {
  return x.pad(windows.flatMap((window) => [0, Math.max(0, -reachBeyond(window))]));
}

/** Whether windows over two axes lie side by side and within their image: then every element has at most one. */
function areTiles(windows: readonly Window[]): boolean {
  return (
    windows.length === 2 &&
    windows.every((window) => window.kernel === window.stride && window.padBegin === 0 && reachBeyond(window) <= 0)
  );
}

/**
 * Spreads g [N, O, out...] over `windows` back to [N, C, extent...] with a transposed convolution. Trailing elements that no window read get zeros.
 */
function spread(g: Tensor, weight: Tensor, windows: readonly Window[], groups: number): Tensor {
  const reach = windows.map(reachBeyond);
  if (windows.some(({ extent }, axis) => reach[axis]! + extent < 1)) {
    const shape = [g.shape[0]!, weight.shape[1]! * groups, ...windows.map(({ extent }) => extent)];
    return g.constantLike(newValues(g.dtype, sizeOf(shape)), shape); // all windows lie in the padding
  }
  const pad = windows.flatMap((window, axis) => [window.padBegin, Math.max(0, reach[axis]!)]);
  const strides = windows.map((window) => window.stride);
  const dilations = windows.map((window) => window.dilation);
  return withUnread(g.convTranspose(weight, { strides, dilations, groups, padType: "custom", pad }), windows);
}

/**
 * Cotangent of a convolution's weight [O, C/groups, ...] from x [N, C, ...] and g [N, O, ...]: itself a convolution, with batch and channels
 * exchanged and strides and dilations exchanged.
 */
function weightCotangent(x: Tensor, g: Tensor, windows: readonly Window[], groups: number): Tensor {
  const [n, c, ...extents] = x.shape as [number, number, ...number[]];
  const outChannels = g.shape[1]!;
  const swap = [1, 0, ...extents.map((_, axis) => axis + 2)];
  // Groups become groups of the exchanged channels: [N, G, C/G, ...] -> [C/G, G N, ...]. Spatial axes are one axis meanwhile, to stay at rank 4.
  const exchanged =
    groups === 1
      ? x.transpose(swap)
      : x
          .reshape([n, groups, c / groups, sizeOf(extents)])
          .transpose([2, 1, 0, 3])
          .reshape([c / groups, groups * n, ...extents]);
  const reach = windows.map(reachBeyond);
  const product = exchanged.conv(g.transpose(swap), {
    strides: windows.map((window) => window.dilation),
    dilations: windows.map((window) => window.stride),
    groups,
    padType: "custom",
    pad: windows.flatMap((window, axis) => [window.padBegin, Math.max(0, reach[axis]!)]),
  }); // [C/G, O, kernel (and more where trailing elements were never read)...]
  const size = [c / groups, outChannels, ...windows.map((window) => window.kernel)];
  return product
    .sliceBySize(
      size.map(() => 0),
      size,
    )
    .transpose(swap);
}

const convAttrs = {
  strides: ints("derived"),
  padType: oneOf(["valid", "custom", "same", "same_lower"], "valid"),
  pad: ints("derived"),
  dilations: ints("derived"),
  groups: int(1),
};

function convWindows(x: { readonly shape: Shape }, weight: { readonly shape: Shape }, attrs: WindowAttrs): Window[] {
  return windowsOf("conv", spatial("conv", x), weight.shape.slice(2), attrs);
}

export const conv = defineOp({
  name: "conv",
  doc: "Cross-correlation of x [N, C, H, W] (or [N, C, L]) with weight [O, C/groups, kH, kW], plus bias [O]. Sums accumulate wide.",
  inputs: { x: floats, weight: floats, bias: optional(floats) },
  attrs: convAttrs,
  complete: ({ x }, attrs) => ({
    ...completeWindow("conv", spatial("conv", x).length, attrs),
    groups: attrs.groups ?? 1,
  }),
  infer({ x, weight, bias }, attrs) {
    if (weight.shape.length !== x.shape.length) {
      throw new ShapeError("conv", `weight has rank ${weight.shape.length}, x has rank ${x.shape.length}`);
    }
    const [o, perGroup] = weight.shape as [number, number];
    requireGroups("conv", attrs.groups, { input: x.shape[1]!, output: o });
    if (x.shape[1] !== perGroup * attrs.groups) {
      throw new ShapeError(
        "conv",
        `x has ${x.shape[1]} channels, weight expects ${perGroup} in each of ${attrs.groups} groups`,
      );
    }
    requireBias("conv", bias, o);
    return { dtype: x.dtype, shape: [x.shape[0]!, o, ...convWindows(x, weight, attrs).map((window) => window.out)] };
  },
  vjp({ x, weight, bias }, attrs, { g }) {
    const windows = convWindows(x, weight, attrs);
    return {
      x: () => spread(g, weight, windows, attrs.groups),
      weight: () => weightCotangent(x, g, windows, attrs.groups),
      bias: () => g.sum(g.shape.map((_, axis) => axis).filter((axis) => axis !== 1)).reshape(bias!.shape),
    };
  },
  kernel: ({ x, weight, bias }, attrs, [out]) =>
    convKernel(x, weight, bias, convWindows(x, weight, attrs), attrs.groups, out),
  native: (n, { x, weight, bias }, attrs, [out]) =>
    convNative(n, { x, weight, bias }, convWindows(x, weight, attrs), attrs.groups, out),
  support(chip, { weight }) {
    const width = weight.shape.at(-1)!;
    const height = weight.shape.length === 4 ? weight.shape[2]! : 1;
    const { convKernelWidthMax, convKernelHeightMax } = chip.limits;
    if (width > convKernelWidthMax)
      return `the kernel is ${width} wide, the limit is ${convKernelWidthMax}; use fewer taps or an FFT`;
    if (height > convKernelHeightMax)
      return `the kernel is ${height} high, the limit is ${convKernelHeightMax}; use fewer taps`;
    return true; // whether a bias is taken is a matter of the dialect: legalize adds it afterwards
  },
  constantOnChip: {
    weight: {
      reason: "the chip takes a convolution's weight as a constant (a computed one only at batch 1)",
      lower: convAsMatmul,
    },
  },
  flops: ({ weight }, _attrs, out) => 2 * sizeOf(out.shape) * sizeOf(weight.shape.slice(1)),
});

/** conv by patches: every kernel tap is a strided slice, the taps are stacked, and one matrix product per group finishes. */
function convAsMatmul(
  { x, weight, bias }: { x: Tensor; weight: Tensor; bias?: Tensor | undefined },
  attrs: WindowAttrs & { readonly groups: number },
): Tensor {
  const windows = convWindows(x, weight, attrs);
  const { groups } = attrs;
  const [n, c] = x.shape as [number, number];
  const o = weight.shape[0]!;
  const taps = weight.shape.slice(2);
  const outExtents = windows.map((window) => window.out);
  const positions = sizeOf(outExtents);
  const reach = windows.map(reachBeyond);
  const pad = windows.flatMap((window, axis) => [window.padBegin, Math.max(0, reach[axis]!)]);
  const padded = pad.some((count) => count > 0) ? x.pad(pad) : x;
  const pieces: Tensor[] = [];
  for (let tap = 0; tap < sizeOf(taps); tap++) {
    const at = taps.length === 1 ? [tap] : [Math.floor(tap / taps[1]!), tap % taps[1]!];
    const begin = [0, 0, ...windows.map((window, axis) => at[axis]! * window.dilation)];
    const end = [
      n,
      c,
      ...windows.map((window, axis) => at[axis]! * window.dilation + (window.out - 1) * window.stride + 1),
    ];
    const stride = [1, 1, ...windows.map((window) => window.stride)];
    pieces.push(padded.sliceByIndex(begin, end, { stride }).reshape([n, groups, c / groups, positions]));
  }
  // [N, G, taps C/G, L]; the taps axis is never the last one, whose offset slices saturate on H13 and H14.
  const patches = pieces.length === 1 ? pieces[0]! : pieces[0]!.concat(pieces.slice(1), 2);
  const matrix = weight
    .reshape([groups, o / groups, c / groups, sizeOf(taps)])
    .transpose([0, 1, 3, 2])
    .reshape([1, groups, o / groups, sizeOf(taps) * (c / groups)]);
  const product = matrix.matmul(patches).reshape([n, o, ...outExtents]);
  return bias === undefined ? product : product.add(bias.reshape([1, o, ...outExtents.map(() => 1)]));
}

/** Windows of the convolution that a transposed convolution inverts: from its result to x. */
function transposeWindows(
  x: { readonly shape: Shape },
  weight: { readonly shape: Shape },
  attrs: WindowAttrs,
): Window[] {
  return spatial("conv_transpose", x).map((out, axis) => {
    const kernel = weight.shape[2 + axis]!;
    const [stride, dilation] = [attrs.strides[axis]!, attrs.dilations[axis]!];
    const [padBegin, padEnd] = [attrs.pad[2 * axis]!, attrs.pad[2 * axis + 1]!];
    const extent = (out - 1) * stride - padBegin - padEnd + (kernel - 1) * dilation + 1;
    if (extent < 1)
      throw new ShapeError(
        "conv_transpose",
        `padding ${padBegin} and ${padEnd} leaves nothing of spatial axis ${axis}`,
      );
    return { extent, kernel, stride, dilation, padBegin, padEnd, out };
  });
}

export const conv_transpose = defineOp({
  name: "conv_transpose",
  doc: "Transpose of conv: x [N, C, H, W] (or [N, C, L]) spread with weight [C, O/groups, kH, kW]; the result's extent is (in - 1) stride - pads + (k - 1) dilation + 1.",
  inputs: { x: floats, weight: floats, bias: optional(floats) },
  attrs: { ...convAttrs, padType: oneOf(["valid", "custom"], "valid") },
  complete: ({ x }, attrs) => ({
    ...completeWindow("conv_transpose", spatial("conv_transpose", x).length, attrs),
    groups: attrs.groups ?? 1,
  }),
  infer({ x, weight, bias }, attrs) {
    if (weight.shape.length !== x.shape.length) {
      throw new ShapeError("conv_transpose", `weight has rank ${weight.shape.length}, x has rank ${x.shape.length}`);
    }
    const channels = x.shape[1]!;
    requireGroups("conv_transpose", attrs.groups, { input: channels });
    if (weight.shape[0] !== channels)
      throw new ShapeError("conv_transpose", `x has ${channels} channels, weight expects ${weight.shape[0]}`);
    const o = weight.shape[1]! * attrs.groups;
    requireBias("conv_transpose", bias, o);
    return {
      dtype: x.dtype,
      shape: [x.shape[0]!, o, ...transposeWindows(x, weight, attrs).map((window) => window.extent)],
    };
  },
  vjp({ x, weight, bias }, attrs, { g }) {
    const { strides, pad, dilations, groups } = attrs;
    const windows = transposeWindows(x, weight, attrs);
    return {
      x: () => g.conv(weight, { strides, dilations, groups, padType: "custom", pad }),
      weight: () => weightCotangent(g, x, windows, groups),
      bias: () => g.sum(g.shape.map((_, axis) => axis).filter((axis) => axis !== 1)).reshape(bias!.shape),
    };
  },
  kernel: ({ x, weight, bias }, attrs, [out]) =>
    convTransposeKernel(x, weight, bias, transposeWindows(x, weight, attrs), attrs.groups, out),
  native: (n, { x, weight, bias }, attrs, [out]) =>
    convTransposeNative(n, { x, weight, bias }, transposeWindows(x, weight, attrs), attrs.groups, out),
  constantOnChip: {
    weight: { reason: "the chip takes a transposed convolution's weight as a constant", lower: convTransposeAsMatmul },
  },
  flops: ({ x, weight }) => 2 * sizeOf(x.shape) * sizeOf(weight.shape.slice(1)),
});

/** conv_transpose by matrix product: the contribution of every kernel tap, then one transposed convolution with constant one-hot taps adds them up. */
function convTransposeAsMatmul(
  { x, weight, bias }: { x: Tensor; weight: Tensor; bias?: Tensor | undefined },
  attrs: WindowAttrs & { readonly groups: number },
): Tensor {
  const { groups, strides, dilations, pad } = attrs;
  const [n, c, ...extents] = x.shape as [number, number, ...number[]];
  const perGroup = weight.shape[1]!;
  const taps = weight.shape.slice(2);
  const o = perGroup * groups;
  const matrix = weight.reshape([1, groups, c / groups, perGroup * sizeOf(taps)]);
  const products = matrix.matmul(x.reshape([n, groups, c / groups, sizeOf(extents)]), { transposeX: true }); // [N, G, O/G taps, L]
  const spreadOut = products
    .reshape([n, o * sizeOf(taps), ...extents])
    .convTranspose(tapWeights(x, o, taps), { strides, dilations, groups: o, padType: "custom", pad });
  return bias === undefined ? spreadOut : spreadOut.add(bias.reshape([1, o, ...extents.map(() => 1)]));
}

/** Depthwise weights [channels taps, 1, ...kernel] whose tap t is 1 at position t. */
function tapWeights(like: Tensor, channels: number, kernel: readonly number[]): Tensor {
  const taps = sizeOf(kernel);
  const data = newValues(like.dtype, channels * taps * taps);
  for (let channel = 0; channel < channels; channel++) {
    for (let tap = 0; tap < taps; tap++) data[(channel * taps + tap) * taps + tap] = 1;
  }
  return like.constantLike(data, [channels * taps, 1, ...kernel]);
}

const poolAttrs = {
  kernelSizes: ints(),
  strides: ints("derived"),
  padType: oneOf(["valid", "custom", "same"], "valid"),
  pad: ints("derived"),
  ceilMode: bool(false),
};

interface PoolAttrs {
  readonly kernelSizes: readonly number[];
  readonly strides?: readonly number[] | undefined;
  readonly padType?: "valid" | "custom" | "same" | undefined;
  readonly pad?: readonly number[] | undefined;
  readonly ceilMode?: boolean | undefined;
}

function completePool(op: string, x: Aval, attrs: PoolAttrs) {
  const axes = spatial(op, x).length;
  if (attrs.kernelSizes.length !== axes || attrs.kernelSizes.some((k) => k < 1)) {
    throw new ConfigError(op, `kernel_sizes ${formatShape(attrs.kernelSizes)} must hold ${axes} positive integers`);
  }
  const { dilations: _unused, ...window } = completeWindow(op, axes, attrs);
  const ceilMode = attrs.ceilMode ?? false;
  if (ceilMode && window.padType === "same") throw new ConfigError(op, "ceil_mode has no meaning with pad_type same");
  for (const [axis, k] of attrs.kernelSizes.entries()) {
    if (window.pad[2 * axis]! >= k || window.pad[2 * axis + 1]! >= k) {
      throw new ConfigError(
        op,
        `pad ${formatShape(window.pad)} is not smaller than the window ${formatShape(attrs.kernelSizes)}`,
      );
    }
  }
  return { kernelSizes: attrs.kernelSizes, ...window, ceilMode };
}

function poolWindows(op: string, x: { readonly shape: Shape }, attrs: ReturnType<typeof completePool>) {
  const dilations = attrs.kernelSizes.map(() => 1);
  return windowsOf(op, spatial(op, x), attrs.kernelSizes, { ...attrs, dilations }, attrs.ceilMode);
}

function poolSupport(
  chip: { readonly limits: { readonly poolWindowMax: number } },
  attrs: { readonly kernelSizes: readonly number[] },
): true | string {
  const size = Math.max(...attrs.kernelSizes);
  const limit = chip.limits.poolWindowMax;
  return size <= limit || `the window is ${size} wide, the limit is ${limit}; pool twice with smaller windows`;
}

export const max_pool = defineOp({
  name: "max_pool",
  doc: "Largest element of each window of x [N, C, H, W] (or [N, C, L]); padding never wins. The first of equal elements gets the derivative.",
  inputs: { x: floats },
  attrs: poolAttrs,
  complete: ({ x }, attrs) => completePool("max_pool", x, attrs),
  infer: ({ x }, attrs) => ({
    dtype: x.dtype,
    shape: [x.shape[0]!, x.shape[1]!, ...poolWindows("max_pool", x, attrs).map((w) => w.out)],
  }),
  vjp: ({ x }, attrs, { g, out }) => ({
    x() {
      const windows = poolWindows("max_pool", x, attrs);
      const [n, c] = x.shape as [number, number];
      const outExtents = windows.map((window) => window.out);
      const reach = windows.map(reachBeyond);
      const lowest = x.dtype === "fp16" ? -65504 : -3.4e38;
      const padded = x.pad(
        windows.flatMap((window, axis) => [window.padBegin, Math.max(0, reach[axis]!)]),
        { constantVal: lowest },
      );
      const taps = sizeOf(attrs.kernelSizes);
      const pieces: Tensor[] = [];
      let open: Tensor | undefined; // 1 where no earlier tap held the maximum
      for (let tap = 0; tap < taps; tap++) {
        const at =
          windows.length === 1 ? [tap] : [Math.floor(tap / attrs.kernelSizes[1]!), tap % attrs.kernelSizes[1]!];
        const begin = [0, 0, ...at];
        const end = [n, c, ...windows.map((window, axis) => at[axis]! + (window.out - 1) * window.stride + 1)];
        const hit = padded
          .sliceByIndex(begin, end, { stride: [1, 1, ...attrs.strides] })
          .equal(out)
          .cast(x.dtype);
        const first: Tensor = open === undefined ? hit : hit.mul(open);
        open = open === undefined ? hit.neg().add(1) : open.sub(first);
        pieces.push(g.mul(first));
      }
      const stacked = pieces[0]!.stack(pieces.slice(1), 2).reshape([n, c * taps, ...outExtents]);
      const [height, width] = attrs.kernelSizes;
      if (areTiles(windows) && height === width) return withUnread(stacked.pixelShuffle(height!), windows);
      return spread(stacked, tapWeights(x, c, attrs.kernelSizes), windows, c);
    },
  }),
  kernel: ({ x }, attrs, [out]) => maxPoolKernel(x, poolWindows("max_pool", x, attrs), out),
  native: (n, { x }, attrs, [out]) => maxPoolNative(n, x, poolWindows("max_pool", x, attrs), out),
  support: (chip, _inputs, attrs) => poolSupport(chip, attrs),
});

export const avg_pool = defineOp({
  name: "avg_pool",
  doc: "Mean of each window of x [N, C, H, W] (or [N, C, L]); padded zeros count unless `exclude_padding_from_average`.",
  inputs: { x: floats },
  attrs: { ...poolAttrs, excludePaddingFromAverage: bool(false) },
  complete: ({ x }, attrs) => ({
    ...completePool("avg_pool", x, attrs),
    excludePaddingFromAverage: attrs.excludePaddingFromAverage ?? false,
  }),
  infer: ({ x }, attrs) => ({
    dtype: x.dtype,
    shape: [x.shape[0]!, x.shape[1]!, ...poolWindows("avg_pool", x, attrs).map((w) => w.out)],
  }),
  vjp: ({ x }, attrs, { g }) => ({
    x() {
      const windows = poolWindows("avg_pool", x, attrs);
      const c = x.shape[1]!;
      const outExtents = windows.map((window) => window.out);
      const shares = newValues(x.dtype, sizeOf(outExtents));
      for (let i = 0; i < shares.length; i++) {
        const at = windows.length === 1 ? [i] : [Math.floor(i / outExtents[1]!), i % outExtents[1]!];
        shares[i] =
          1 /
          windows.reduce((n, window, axis) => n * windowCount(window, at[axis]!, attrs.excludePaddingFromAverage), 1);
      }
      const shared = g.mul(x.constantLike(shares, [1, 1, ...outExtents]));
      const [height, width] = attrs.kernelSizes;
      if (areTiles(windows)) return withUnread(shared.upsampleNearest(height!, width), windows);
      const ones = newValues(x.dtype, c * sizeOf(attrs.kernelSizes)).fill(1);
      return spread(shared, x.constantLike(ones, [c, 1, ...attrs.kernelSizes]), windows, c);
    },
  }),
  kernel: ({ x }, attrs, [out]) =>
    avgPoolKernel(x, poolWindows("avg_pool", x, attrs), attrs.excludePaddingFromAverage, out),
  native: (n, { x }, attrs, [out]) =>
    avgPoolNative(n, x, poolWindows("avg_pool", x, attrs), attrs.excludePaddingFromAverage, out),
  support: (chip, _inputs, attrs) => poolSupport(chip, attrs),
});
