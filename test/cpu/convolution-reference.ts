// Convolutions in float64 straight from their definition, one product at a time: whichever of image, filters and result is asked for, from the other two.

import { makeRandom } from "../plans/eager-engine.ts";

/** A convolution from x [N, C, H, W] to y [N, O, outs...] by filters [O, C / groups, kernel...]. One spatial axis is H = 1. */
export interface Geometry {
  readonly x: readonly [n: number, c: number, h: number, w: number];
  readonly filters: readonly [o: number, h: number, w: number];
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  /** Before and behind H, before and behind W. */
  readonly pad: readonly [number, number, number, number];
  readonly groups: number;
}

/** A shorter way to write one: one for what is missing, zero for padding. */
export function geometry(
  x: Geometry["x"],
  filters: Geometry["filters"],
  rest: Partial<Omit<Geometry, "x" | "filters">> = {},
): Geometry {
  return { x, filters, strides: [1, 1], dilations: [1, 1], pad: [0, 0, 0, 0], groups: 1, ...rest };
}

export const outExtents = ({ x, filters, strides, dilations, pad }: Geometry): [number, number] =>
  [0, 1].map((axis) => {
    const room = x[2 + axis]! + pad[2 * axis]! + pad[2 * axis + 1]! - (filters[1 + axis]! - 1) * dilations[axis]! - 1;
    return Math.floor(room / strides[axis]!) + 1;
  }) as [number, number];

export const resultShape = (g: Geometry): [number, number, number, number] => [g.x[0], g.filters[0], ...outExtents(g)];
export const filterShape = ({ x, filters: [o, ...kernel], groups }: Geometry): [number, number, number, number] => [
  o,
  x[1] / groups,
  ...kernel,
];

type Values = ArrayLike<number>;
/** The sums, and the sums of what is added without its signs: rounding errors are relative to those. */
export interface Sums {
  readonly sum: Float64Array;
  readonly size: Float64Array;
}

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Sums of products over all windows: y of x and w, the derivative by x of w and y, the derivative by w of x and y. */
export function contract(g: Geometry, given: { readonly x?: Values; readonly w?: Values; readonly y?: Values }): Sums {
  const [n, c, h, w] = g.x;
  const [o, kh, kw] = g.filters;
  const [oh, ow] = outExtents(g);
  const [sh, sw, dh, dw, top, start] = [...g.strides, ...g.dilations, g.pad[0], g.pad[2]] as const;
  const [perGroup, outPerGroup] = [c / g.groups, o / g.groups];
  const wanted = given.x === undefined ? "x" : given.w === undefined ? "w" : "y";
  const [left, right] = [given.x ?? given.w!, given.y ?? given.w!].map((values) => Float64Array.from(values));
  const length = product({ x: g.x, w: filterShape(g), y: resultShape(g) }[wanted]);
  const [sum, size] = [new Float64Array(length), new Float64Array(length)];
  for (let sample = 0; sample < n; sample++)
    for (let out = 0; out < o; out++)
      for (let i = 0; i < oh; i++)
        for (let j = 0; j < ow; j++) {
          const y = ((sample * o + out) * oh + i) * ow + j;
          for (let inner = 0; inner < perGroup; inner++) {
            const channel = Math.floor(out / outPerGroup) * perGroup + inner;
            for (let a = 0; a < kh; a++) {
              const row = i * sh + a * dh - top;
              if (row < 0 || row >= h) continue;
              for (let b = 0; b < kw; b++) {
                const column = j * sw + b * dw - start;
                if (column < 0 || column >= w) continue;
                const x = ((sample * c + channel) * h + row) * w + column;
                const tap = ((out * perGroup + inner) * kh + a) * kw + b;
                const at = wanted === "x" ? x : wanted === "w" ? tap : y;
                const term = left![wanted === "x" ? tap : x]! * right![wanted === "y" ? tap : y]!;
                sum[at]! += term;
                size[at]! += Math.abs(term);
              }
            }
          }
        }
  return { sum, size };
}

/** Sums over all but the channels of [N, C, ...]. */
export function channelSums(values: Values, channels: number, positions: number): Sums {
  const sums: Sums = { sum: new Float64Array(channels), size: new Float64Array(channels) };
  for (let i = 0; i < values.length; i++) {
    const channel = Math.floor(i / positions) % channels;
    sums.sum[channel]! += values[i]!;
    sums.size[channel]! += Math.abs(values[i]!);
  }
  return sums;
}

/** The geometry without what lies behind its last windows: a transposed convolution makes nothing there. */
export function trimmed(g: Geometry): Geometry {
  const extents = outExtents(g).map(
    (out, i) =>
      (out - 1) * g.strides[i]! + (g.filters[1 + i]! - 1) * g.dilations[i]! + 1 - g.pad[2 * i]! - g.pad[2 * i + 1]!,
  );
  return { ...g, x: [g.x[0], g.x[1], extents[0]!, extents[1]!] };
}

/** A geometry whose windows fit, of any channels, kernels, strides, dilations, padding and groups. */
export function randomGeometry(seed: number): Geometry {
  const random = makeRandom(seed);
  const pick = <T>(...from: readonly T[]) => from[Math.floor(random() * from.length)]!;
  const groups = pick(1, 1, 1, 2, 3, 8);
  const perGroup = pick(1, 1, 2, 3, 8, 16, 17);
  const axis = () => {
    const [kernel, stride, dilation] = [pick(1, 2, 3, 3, 3, 4, 5, 7), pick(1, 1, 1, 2, 3), pick(1, 1, 1, 2, 3)];
    const pad = [pick(0, 1, 1, 2, 3), pick(0, 1, 1, 2, 3)];
    const least = (kernel - 1) * dilation + 1 - pad[0]! - pad[1]!;
    return { kernel, stride, dilation, pad, extent: Math.max(1, least) + pick(0, 1, 2, 3, 5, 8, 11) };
  };
  const [h, w] =
    random() < 0.6
      ? [axis(), axis()]
      : (Array.from({ length: 2 }).fill(axis()) as [ReturnType<typeof axis>, ReturnType<typeof axis>]);
  return {
    x: [pick(1, 1, 2, 3, 5), groups * perGroup, h.extent, w.extent],
    filters: [groups * pick(1, 2, 3, 8, 16), h.kernel, w.kernel],
    strides: [h.stride, w.stride],
    dilations: [h.dilation, w.dilation],
    pad: [...h.pad, ...w.pad] as unknown as Geometry["pad"],
    groups,
  };
}
