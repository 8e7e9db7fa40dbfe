// The derivative of max_pool where values are equal: the first of them gets it, whichever form computes it.

import { describe, expect, it } from "vitest";
import { compile, grad, input } from "../../src/index.ts";

interface Case {
  readonly shape: readonly number[];
  readonly kernel: readonly number[];
  readonly strides?: readonly number[];
  readonly pad?: readonly number[];
}

/** [batch and channels, rows, columns] of a shape of rank 3 or 4. */
const planes = (shape: readonly number[]) =>
  [shape[0]! * shape[1]!, shape.length === 3 ? 1 : shape[2]!, shape.at(-1)!] as const;

/** Written from the definition: the first largest element of each window gets what the window's derivative is. */
function reference(
  { shape, kernel, strides = kernel, pad = kernel.map(() => 0) }: Case,
  outShape: readonly number[],
  x: Float32Array,
  g: Float32Array,
) {
  const two = (values: readonly number[], missing: number) =>
    (values.length === 1 ? [missing, values[0]!] : values) as [number, number];
  const [[kh, kw], [sh, sw], [ph, pw]] = [two(kernel, 1), two(strides, 1), two(pad, 0)];
  const [count, height, width] = planes(shape);
  const [, rows, columns] = planes(outShape);
  const result = new Float32Array(x.length);
  for (let at = 0; at < g.length; at++) {
    const plane = Math.floor(at / (rows * columns));
    const [row, column] = [Math.floor(at / columns) % rows, at % columns];
    let best = -1;
    for (let tap = 0; tap < kh * kw; tap++) {
      const [y, z] = [row * sh - ph + Math.floor(tap / kw), column * sw - pw + (tap % kw)];
      const index = (plane * height + y) * width + z;
      if (y >= 0 && y < height && z >= 0 && z < width && (best < 0 || x[index]! > x[best]!)) best = index;
    }
    if (plane < count) result[best]! += g[at]!;
  }
  return result;
}

describe.each(["sim", "cpu"] as const)("on %s", (engine) => {
  it.each<Case>([
    { shape: [2, 3, 8, 8], kernel: [2, 2] },
    { shape: [1, 4, 7, 7], kernel: [2, 2] }, // a row and a column that no window reads
    { shape: [1, 2, 7, 9], kernel: [2, 3] },
    { shape: [2, 2, 9], kernel: [3] },
    { shape: [2, 2, 5, 5], kernel: [1, 2] },
    { shape: [2, 2, 6, 6], kernel: [3, 3], strides: [2, 2] }, // windows that overlap
    { shape: [2, 2, 6, 6], kernel: [2, 2], pad: [1, 1] },
  ])("of equal values the first gets the derivative: %j", async (each) => {
    const { shape, kernel, strides = kernel, pad } = each;
    const x = input(shape, { name: "x", dtype: "fp32" });
    const sides = pad?.flatMap((count) => [count, count]);
    const y = x.maxPool(kernel, { strides, ...(sides && { padType: "custom", pad: sides }) });
    const g = input(y.shape, { name: "g", dtype: "fp32" });
    const [derivative] = grad(y.mul(g).sum(), [x]);
    await using program = await compile({ derivative: derivative! }, { engine });
    const values = Float32Array.from({ length: x.size }, (_, i) => Math.floor(((i * 7919 + 13) % 101) / 34) - 1); // -1, 0 or 1
    const weights = Float32Array.from({ length: y.size }, (_, i) => i + 1);
    const result = await program.run({ x: values, g: weights });
    expect(result.derivative.data).toEqual(reference(each, y.shape, values, weights));
  });
});
