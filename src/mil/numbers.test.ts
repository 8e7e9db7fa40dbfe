import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { float16Bits, float16Value } from "../core/float16.ts";
import { formatHexFloat, parseNumber } from "./numbers.ts";

// printf("%a") of glibc 2.36 on x86-64, typed off.
const printed: readonly (readonly [number, string])[] = [
  [1, "0x1p+0"],
  [2, "0x1p+1"],
  [3, "0x1.8p+1"],
  [-0.5, "-0x1p-1"],
  [0.125, "0x1p-3"],
  [100, "0x1.9p+6"],
  [0.1, "0x1.999999999999ap-4"],
  [1 / 3, "0x1.5555555555555p-2"],
  [1 / 768, "0x1.5555555555555p-10"],
  [1e-5, "0x1.4f8b588e368f1p-17"],
  [Math.PI, "0x1.921fb54442d18p+1"],
  [6.02214076e23, "0x1.fe185ca57c517p+78"],
  [1e10, "0x1.2a05f2p+33"],
  [Math.fround(0.1), "0x1.99999ap-4"],
  [-65504, "-0x1.ffcp+15"],
  [2 ** -24, "0x1p-24"],
  [Number.MAX_VALUE, "0x1.fffffffffffffp+1023"],
  [2 ** -1022, "0x1p-1022"],
];

// glibc does not normalise subnormals; we do, as macOS does.
const subnormal: readonly (readonly [number, string, string])[] = [
  [5e-324, "0x0.0000000000001p-1022", "0x1p-1074"],
  [2 ** -1022 - 2 ** -1074, "0x0.fffffffffffffp-1022", "0x1.ffffffffffffep-1023"],
];

describe("hex floats", () => {
  it("agree with printf of C", () => {
    for (const [value, text] of printed) {
      expect(formatHexFloat(value)).toBe(text);
      expect(parseNumber(text)).toBe(value);
    }
  });

  it("are normalised for subnormals and read in both forms", () => {
    for (const [value, glibc, normal] of subnormal) {
      expect(formatHexFloat(value)).toBe(normal);
      expect(parseNumber(normal)).toBe(value);
      expect(parseNumber(glibc)).toBe(value);
    }
  });

  it("keep zeros, infinities and NaN", () => {
    for (const [value, text] of [
      [0, "0x0p+0"],
      [-0, "-0x0p+0"],
      [Number.POSITIVE_INFINITY, "inf"],
      [Number.NEGATIVE_INFINITY, "-inf"],
      [Number.NaN, "nan"],
    ] as const) {
      expect(formatHexFloat(value)).toBe(text);
      expect(parseNumber(text)).toBe(value);
    }
  });

  it("survive the round trip: 10000 random doubles", () => {
    fc.assert(
      fc.property(fc.double(), (value) => Object.is(parseNumber(formatHexFloat(value)), value)),
      { numRuns: 10000, seed: 1 },
    );
  });

  it("survive the round trip: every fp16, in at most 12 characters", () => {
    for (let bits = 0; bits < 65536; bits++) {
      const value = float16Value(bits);
      const text = formatHexFloat(value);
      expect(text.length).toBeLessThanOrEqual(12);
      const back = parseNumber(text)!;
      if (!Object.is(back, value)) throw new Error(`${text} gives ${back}`);
      if (!Number.isNaN(value) && float16Bits(back) !== bits) throw new Error(`${text} has other bits`);
    }
  });

  it("with more digits than a double holds round once, ties to even", () => {
    const bits = new DataView(new ArrayBuffer(8));
    const doubleOf = (pattern: bigint) => {
      bits.setBigUint64(0, pattern);
      return bits.getFloat64(0);
    };
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 0x7feffffffffffffen }), (pattern) => {
        const biased = Number(pattern >> 52n);
        const fraction = pattern & 0xfffffffffffffn;
        const significand = biased === 0 ? fraction : fraction | 0x10000000000000n;
        const exponent = Math.max(biased, 1) - 1075;
        const middle = `0x${(2n * significand + 1n).toString(16)}`; // halfway to the next double
        const below = `0x${(2n * significand).toString(16)}.${"f".repeat(20)}`;
        const [here, next] = [doubleOf(pattern), doubleOf(pattern + 1n)];
        expect(parseNumber(`${middle}p${exponent - 1}`)).toBe((pattern & 1n) === 0n ? here : next);
        expect(parseNumber(`${middle}.${"0".repeat(20)}1p${exponent - 1}`)).toBe(next);
        expect(parseNumber(`${below}p${exponent - 1}`)).toBe(here);
      }),
      {
        numRuns: 2000,
        seed: 2,
        examples: [[0n], [1n], [0xfffffffffffffn], [0x10000000000000n], [0x7feffffffffffffen]],
      },
    );
    expect(parseNumber("0x1.fffffffffffff7ffp+1023")).toBe(Number.MAX_VALUE);
    expect(parseNumber("0x1.fffffffffffff8p+1023")).toBe(Number.POSITIVE_INFINITY);
    expect(parseNumber("0x1p-1075")).toBe(0);
    expect(parseNumber("0x1.8p-1075")).toBe(5e-324);
  });
});

describe("parseNumber", () => {
  it("reads decimals, signs and words in any case", () => {
    for (const [text, value] of [
      ["0", 0],
      ["-0", -0],
      ["+1", 1],
      ["007", 7],
      ["1.", 1],
      [".5", 0.5],
      ["-1.5e-3", -0.0015],
      ["2E+2", 200],
      ["0x10", 16],
      ["0X.8P1", 1],
      ["-0xAp-1", -5],
      ["+inf", Number.POSITIVE_INFINITY],
      ["-Infinity", Number.NEGATIVE_INFINITY],
      ["-NaN", Number.NaN],
      ["1e400", Number.POSITIVE_INFINITY],
      ["-0x1p99999999999", Number.NEGATIVE_INFINITY],
      ["0x1p-99999999999", 0],
      ["0x0p99999999999", 0],
    ] as const) {
      expect(parseNumber(text), text).toBe(value);
    }
  });

  it("refuses everything else", () => {
    for (const text of [
      ...["", "+", "-", ".", "-.", "e5", ".e5", "1e", "1e+", "1e1.5", "1.2.3", "--1", "+-1", "1f", "1_0", " 1", "1 "],
      ...[
        "0x",
        "0x.",
        "0xg",
        "0xp1",
        "0x1p",
        "0x1p+",
        "0x1.1.1p0",
        "0x1p1.5",
        "0x1p1x",
        "infinit",
        "infinityy",
        "na",
        "x",
      ],
      ...["0b1", "1n", "NULL", "true", "१"],
    ]) {
      expect(parseNumber(text), text).toBeUndefined();
    }
  });

  it("takes long numbers in linear time", () => {
    const zeros = "0".repeat(2_000_000);
    const started = performance.now();
    expect(parseNumber(`0x0.${zeros}1p8000004`)).toBe(1);
    expect(parseNumber(`0x1${zeros}p-8000000`)).toBe(1);
    expect(parseNumber(`1${zeros}`)).toBe(Number.POSITIVE_INFINITY);
    expect(parseNumber(`1${zeros}x`)).toBeUndefined();
    console.log(`numbers: 8 million digits in ${(performance.now() - started).toFixed(0)} ms`);
  });
});
