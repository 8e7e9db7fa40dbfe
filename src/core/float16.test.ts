import { expect, test } from "vitest";
import {
  argMaxFloat16,
  float16Bits,
  float16Value,
  packFloat16,
  roundFloat16,
  roundFloat16InPlace,
  unpackFloat16,
} from "./float16.ts";
import { RandomStream } from "./random.ts";

/** fp16 by the definition: the nearest multiple of the spacing at x, ties to even; nothing shared with the bit tricks. */
function reference(x: number): number {
  if (!Number.isFinite(x) || x === 0) return x;
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(x))));
  const spacing = 2 ** (exponent - 10);
  const steps = Math.abs(x) / spacing;
  const floor = Math.floor(steps);
  const rest = steps - floor;
  const rounded = (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor) * spacing;
  return Math.sign(x) * (rounded > 65504 ? Number.POSITIVE_INFINITY : rounded);
}

test("every bit pattern survives the way through its value", () => {
  for (let bits = 0; bits < 65536; bits++) {
    const value = float16Value(bits);
    if (Number.isNaN(value)) expect(Number.isNaN(float16Value(float16Bits(value)))).toBe(true);
    else expect(float16Bits(value)).toBe(bits);
  }
});

test("rounding agrees with the definition at the edges", () => {
  for (const [x, want] of [
    [65504, 65504],
    [65519.996, 65504],
    [65520, Number.POSITIVE_INFINITY],
    [-65520, Number.NEGATIVE_INFINITY],
    [2049, 2048],
    [2051, 2052],
    [2 ** -24, 2 ** -24],
    [2 ** -25, 0],
    [2 ** -25 * 1.0001, 2 ** -24],
    [3 * 2 ** -25, 2 ** -23],
    [2 ** -14 - 2 ** -26, 2 ** -14],
    [1 + 2 ** -11, 1],
    [1 + 3 * 2 ** -11, 1 + 2 ** -9],
    [1e-40, 0],
    [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY],
  ] as const) {
    expect(roundFloat16(x), String(x)).toBe(want);
    expect(reference(Math.fround(x)), `reference of ${x}`).toBe(want);
  }
  expect(Object.is(roundFloat16(-0), -0)).toBe(true);
  expect(roundFloat16(Number.NaN)).toBeNaN();
});

test("rounding agrees with the definition at random, one by one and in place", () => {
  const random = new RandomStream(1, "float16");
  const values = Float32Array.from(
    { length: 20000 },
    () => (random.uniform() - 0.5) * 2 ** (random.uniform() * 44 - 26),
  );
  const rounded = values.slice();
  roundFloat16InPlace(rounded);
  for (const [i, value] of values.entries()) {
    expect(roundFloat16(value)).toBe(reference(value));
    expect(rounded[i]).toBe(reference(value));
  }
});

test("packing and unpacking are inverse on fp16 values", () => {
  const bits = Uint16Array.from({ length: 0x7c00 }, (_, i) => i);
  const values = new Float32Array(bits.length);
  unpackFloat16(bits, values);
  const again = new Uint16Array(bits.length);
  packFloat16(values, again);
  expect(again).toEqual(bits);
  const same = values.slice();
  roundFloat16InPlace(same);
  expect(same).toEqual(values);
});

test("the largest is the first of equals, zeros are equal, NaN is nowhere", () => {
  const argMax = (...values: number[]) => argMaxFloat16(Uint16Array.from(values, float16Bits));
  expect(argMax(-3, -1, -2, -1)).toBe(1);
  expect(argMax(-1, -0, 0)).toBe(1);
  expect(argMax(Number.NaN, -1e9, 5)).toBe(-1);
  expect(argMax(Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY)).toBe(0);
  expect(argMax(1, Number.POSITIVE_INFINITY, 65504)).toBe(1);
  expect(argMaxFloat16(Uint16Array.of(0xfc00, 0x7e00))).toBe(-1);
  expect(argMaxFloat16(Uint16Array.of(0x3c00, 0xfe00))).toBe(-1); // NaN of the other sign
  const random = new RandomStream(2, "float16");
  for (let round = 0; round < 200; round++) {
    const values = Array.from({ length: 40 }, () => roundFloat16(4 * random.normal()));
    expect(argMax(...values)).toBe(values.indexOf(Math.max(...values)));
  }
});
