// Sliding windows: the geometry of convolution and pooling, and their plain loops. One spatial axis is a height of 1.

import { ConfigError, formatShape, ShapeError } from "../../core/errors.ts";
import type { KernelArray } from "../define.ts";

export type PadType = "valid" | "custom" | "same" | "same_lower";

export interface WindowAttrs {
  readonly strides: readonly number[];
  readonly padType: PadType;
  readonly pad: readonly number[];
  readonly dilations: readonly number[];
}

/** Along one spatial axis. */
export interface Window {
  readonly extent: number;
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  readonly padBegin: number;
  /** As declared; with ceil mode windows may reach beyond it. */
  readonly padEnd: number;
  readonly out: number;
}

/** Fills strides, pads and dilations by the number of spatial axes; `pad` counts only with pad type "custom". */
export function completeWindow<P extends PadType>(
  op: string,
  axes: number,
  given: { readonly [K in keyof Omit<WindowAttrs, "padType">]?: WindowAttrs[K] | undefined } & {
    readonly padType?: P | undefined;
  },
): WindowAttrs & { readonly padType: P } {
  const padType = given.padType ?? ("valid" as P);
  if (padType === "custom" && given.pad === undefined) throw new ConfigError(op, "pad_type custom needs pad");
  const filled = {
    strides: given.strides ?? new Array<number>(axes).fill(1),
    padType,
    pad: padType === "custom" ? given.pad! : new Array<number>(2 * axes).fill(0),
    dilations: given.dilations ?? new Array<number>(axes).fill(1),
  };
  const check = (name: string, list: readonly number[], length: number, least: number) => {
    if (list.length !== length)
      throw new ConfigError(op, `${name} ${formatShape(list)} has ${list.length} entries, not ${length}`);
    const bad = list.find((value) => value < least);
    if (bad !== undefined) throw new ConfigError(op, `${name} ${formatShape(list)} has an entry below ${least}`);
  };
  check("strides", filled.strides, axes, 1);
  check("dilations", filled.dilations, axes, 1);
  check("pad", filled.pad, 2 * axes, 0);
  return filled;
}

/** Windows of a forward pass over `extents`. @throws {ShapeError} where no window fits. */
export function windowsOf(
  op: string,
  extents: readonly number[],
  kernel: readonly number[],
  attrs: WindowAttrs,
  ceilMode = false,
): Window[] {
  return extents.map((extent, axis) => {
    const k = kernel[axis]!;
    const stride = attrs.strides[axis]!;
    const dilation = attrs.dilations[axis]!;
    const reach = (k - 1) * dilation + 1;
    let [padBegin, padEnd] = [attrs.pad[2 * axis]!, attrs.pad[2 * axis + 1]!];
    let out: number;
    if (attrs.padType === "same" || attrs.padType === "same_lower") {
      out = Math.ceil(extent / stride);
      const total = Math.max(0, (out - 1) * stride + reach - extent);
      padBegin = attrs.padType === "same" ? total >> 1 : total - (total >> 1);
      padEnd = total - padBegin;
    } else {
      const room = extent + padBegin + padEnd - reach;
      out = (ceilMode ? Math.ceil(room / stride) : Math.floor(room / stride)) + 1;
      // A last window that starts in the end padding or beyond sees nothing (as in PyTorch).
      if (ceilMode && (out - 1) * stride >= extent + padBegin) out--;
    }
    if (out < 1) {
      throw new ShapeError(
        op,
        `a window of ${reach} does not fit spatial axis ${axis} of ${extent} padded by ${padBegin} and ${padEnd}`,
      );
    }
    return { extent, kernel: k, stride, dilation, padBegin, padEnd, out };
  });
}

/** Two windows, height first; a missing height has extent 1. */
function plane(windows: readonly Window[]): [Window, Window] {
  const flat: Window = { extent: 1, kernel: 1, stride: 1, dilation: 1, padBegin: 0, padEnd: 0, out: 1 };
  return windows.length === 1 ? [flat, windows[0]!] : [windows[0]!, windows[1]!];
}

/** out [N, O, ...] = x [N, C, ...] correlated with weight [O, C/groups, ...]. */
export function convKernel(
  x: KernelArray,
  weight: KernelArray,
  bias: KernelArray | undefined,
  windows: readonly Window[],
  groups: number,
  out: KernelArray,
): void {
  const [h, w] = plane(windows);
  const [batch, outChannels] = [out.shape[0]!, out.shape[1]!];
  const channels = x.shape[1]!;
  const groupIn = channels / groups;
  const groupOut = outChannels / groups;
  let at = 0;
  for (let n = 0; n < batch; n++) {
    for (let o = 0; o < outChannels; o++) {
      const firstChannel = Math.floor(o / groupOut) * groupIn;
      for (let oy = 0; oy < h.out; oy++) {
        for (let ox = 0; ox < w.out; ox++) {
          let sum = bias === undefined ? 0 : bias.data[o]!;
          for (let c = 0; c < groupIn; c++) {
            const xPlane = (n * channels + firstChannel + c) * h.extent;
            const wPlane = (o * groupIn + c) * h.kernel;
            for (let ky = 0; ky < h.kernel; ky++) {
              const iy = oy * h.stride + ky * h.dilation - h.padBegin;
              if (iy < 0 || iy >= h.extent) continue;
              const xRow = (xPlane + iy) * w.extent;
              const wRow = (wPlane + ky) * w.kernel;
              for (let kx = 0; kx < w.kernel; kx++) {
                const ix = ox * w.stride + kx * w.dilation - w.padBegin;
                if (ix >= 0 && ix < w.extent) sum += x.data[xRow + ix]! * weight.data[wRow + kx]!;
              }
            }
          }
          out.data[at++] = sum;
        }
      }
    }
  }
}

/** out [N, O, ...] = transpose of the convolution from out to x, weight [C, O/groups, ...]; `windows` belong to that convolution. */
export function convTransposeKernel(
  x: KernelArray,
  weight: KernelArray,
  bias: KernelArray | undefined,
  windows: readonly Window[],
  groups: number,
  out: KernelArray,
): void {
  const [h, w] = plane(windows);
  const [batch, channels] = [x.shape[0]!, x.shape[1]!];
  const outChannels = out.shape[1]!;
  const groupIn = channels / groups;
  const groupOut = outChannels / groups;
  const sums = new Float64Array(out.data.length);
  let at = 0;
  for (let n = 0; n < batch; n++) {
    for (let c = 0; c < channels; c++) {
      const firstOut = Math.floor(c / groupIn) * groupOut;
      for (let iy = 0; iy < h.out; iy++) {
        for (let ix = 0; ix < w.out; ix++) {
          const value = x.data[at++]!;
          for (let o = 0; o < groupOut; o++) {
            for (let ky = 0; ky < h.kernel; ky++) {
              const oy = iy * h.stride + ky * h.dilation - h.padBegin;
              if (oy < 0 || oy >= h.extent) continue;
              for (let kx = 0; kx < w.kernel; kx++) {
                const ox = ix * w.stride + kx * w.dilation - w.padBegin;
                if (ox < 0 || ox >= w.extent) continue;
                const factor = weight.data[((c * groupOut + o) * h.kernel + ky) * w.kernel + kx]!;
                sums[((n * outChannels + firstOut + o) * h.extent + oy) * w.extent + ox]! += value * factor;
              }
            }
          }
        }
      }
    }
  }
  const spatial = h.extent * w.extent;
  for (let i = 0; i < sums.length; i++) {
    out.data[i] = sums[i]! + (bias === undefined ? 0 : bias.data[Math.floor(i / spatial) % outChannels]!);
  }
}

/** Largest element of each window; padding never wins. */
export function maxPoolKernel(x: KernelArray, windows: readonly Window[], out: KernelArray): void {
  poolKernel(
    x,
    windows,
    out,
    Number.NEGATIVE_INFINITY,
    (best, v) => (v > best || Number.isNaN(v) ? v : best),
    (best) => best,
  );
}

/** Mean of each window; padded zeros count unless `excludePadding`, what ceil mode adds beyond them never does. */
export function avgPoolKernel(
  x: KernelArray,
  windows: readonly Window[],
  excludePadding: boolean,
  out: KernelArray,
): void {
  const [h, w] = plane(windows);
  poolKernel(
    x,
    windows,
    out,
    0,
    (sum, v) => sum + v,
    (sum, oy, ox) => {
      return sum / (windowCount(h, oy, excludePadding) * windowCount(w, ox, excludePadding));
    },
  );
}

/** How many positions of window `index` count in an average. */
export function windowCount(window: Window, index: number, excludePadding: boolean): number {
  const first = index * window.stride - window.padBegin;
  const end = Math.min(first + window.kernel, window.extent + (excludePadding ? 0 : window.padEnd));
  return end - (excludePadding ? Math.max(first, 0) : first);
}

function poolKernel(
  x: KernelArray,
  windows: readonly Window[],
  out: KernelArray,
  init: number,
  step: (accumulator: number, value: number) => number,
  finish: (accumulator: number, oy: number, ox: number) => number,
): void {
  const [h, w] = plane(windows);
  let at = 0;
  for (let image = 0; image < x.shape[0]! * x.shape[1]!; image++) {
    for (let oy = 0; oy < h.out; oy++) {
      for (let ox = 0; ox < w.out; ox++) {
        let accumulator = init;
        for (let ky = 0; ky < h.kernel; ky++) {
          const iy = oy * h.stride + ky - h.padBegin;
          if (iy < 0 || iy >= h.extent) continue;
          for (let kx = 0; kx < w.kernel; kx++) {
            const ix = ox * w.stride + kx - w.padBegin;
            if (ix >= 0 && ix < w.extent)
              accumulator = step(accumulator, x.data[(image * h.extent + iy) * w.extent + ix]!);
          }
        }
        out.data[at++] = finish(accumulator, oy, ox);
      }
    }
  }
}
