// Results by name as they are in memory: equal bits, or as near as is allowed.

import { unpackFloat16 } from "../../../src/core/float16.ts";
import type { NDArray } from "../../../src/index.ts";

function numbers({ dtype, data }: NDArray): ArrayLike<number> {
  if (dtype !== "fp16") return data as ArrayLike<number>;
  const wide = new Float32Array(data.length);
  unpackFloat16(data as unknown as Uint16Array, wide);
  return wide;
}

/** The first difference as text. NaNs equal each other whatever their bits; zeros differ by their sign unless something is allowed. */
export function difference(
  got: Readonly<Record<string, NDArray>>,
  want: Readonly<Record<string, NDArray>>,
  allowed?: (want: number) => number,
): string | undefined {
  for (const [name, expected] of Object.entries(want)) {
    const array = got[name];
    if (array === undefined) return `there is no ${name}`;
    if (`${array.dtype} ${array.shape}` !== `${expected.dtype} ${expected.shape}`)
      return `${name} is ${array.dtype} [${array.shape}], expected ${expected.dtype} [${expected.shape}]`;
    const [gs, ws] = [numbers(array), numbers(expected)];
    for (let i = 0; i < ws.length; i++) {
      const [g, w] = [gs[i]!, ws[i]!];
      if (Object.is(g, w) || (allowed !== undefined && (g === w || Math.abs(g - w) <= allowed(w)))) continue;
      return `${name} element ${i} is ${g}, expected ${w}`;
    }
  }
  return undefined;
}
