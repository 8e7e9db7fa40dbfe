// Golden figures of torch: the files that the Python scripts beside this one wrote, their number sequence, and comparison.

import { readFileSync } from "node:fs";
import { type Shape, sizeOf } from "../../src/core/shape.ts";

/** fp32 numbers in offset - scale .. offset + scale: what numbers() of figures.py gives, bit for bit. */
export function numbers(shape: Shape, seed: number, scale = 1, offset = 0): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: sizeOf(shape) }, (_, i) => {
    const raw = (i * 7919 + seed * 1543 + ((i * i) % 613) * 31) % 2003;
    return offset + scale * (raw / 1001 - 1);
  });
}

/** Base64 of little-endian fp32. */
export function unpack(text: string): Float32Array<ArrayBuffer> {
  const bytes = Buffer.from(text, "base64");
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
}

export function golden<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`${name}.json`, import.meta.url), "utf8")) as T;
}

/** First element farther from `want` than `relative` times the largest magnitude in `want` (at least `floor`), as text. */
export function difference(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  relative: number,
  floor = 1e-6,
): string | undefined {
  if (got.length !== want.length) return `${got.length} values, expected ${want.length}`;
  const allowed = relative * Math.max(floor, ...Array.from(want, Math.abs));
  for (let i = 0; i < got.length; i++)
    if (!(Math.abs(got[i]! - want[i]!) <= allowed))
      return `element ${i} is ${got[i]}, expected ${want[i]} within ${allowed}`;
  return undefined;
}
