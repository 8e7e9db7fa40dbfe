// Functions as vector expressions, evaluated by a plain interpreter: errors against float64 over all fp16 numbers and many fp32 ones, edge
// values, monotonicity, and the figures that docs/numerics.md states.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { fmaFloat32, interpret, operationCount } from "../../../test/cpu/interpret.ts";
import { float16Value, roundFloat16 } from "../../core/float16.ts";
import { erf, sigmoid } from "../../core/special.ts";
import { bitsFloat, floatBits, type Node } from "./expression.ts";
import { Expressions } from "./math.ts";

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
/** fp32 samples a function and kind; more find larger errors, not those that docs/numerics.md states. */
const samples = Number(process.env.MATH_SAMPLES ?? 100_000);
const usual = process.env.MATH_SAMPLES === undefined;

const smallest = 2 ** -149;
const smallestNormal = 2 ** -126;
const largest = (2 - 2 ** -23) * 2 ** 127;

interface Case {
  readonly reference: (x: number) => number;
  /** Interval that is sampled evenly, on top of all magnitudes. */
  readonly dense: readonly [number, number];
  /** Where the error bound holds; everywhere unless given. */
  readonly domain?: readonly [number, number];
  /** Largest error in units of the last place. */
  readonly bound: number;
  /** 1 if it never falls, -1 if it never rises. */
  readonly direction?: 1 | -1;
  /** Exact results. */
  readonly edges: readonly (readonly [number, number])[];
}

// biome-ignore format: a row
const keepsZero = [[0, 0], [-0, -0], [nan, nan]] as const;
const keepsTiny = [
  [smallest, smallest],
  [-smallest, -smallest],
  [3 * smallest, 3 * smallest],
  [-smallestNormal, -smallestNormal],
] as const;

// biome-ignore format: edges as rows
const cases = {
  exp: {
    reference: Math.exp,
    dense: [-104.5, 89],
    bound: 1,
    direction: 1,
    edges: [[0, 1], [-0, 1], [nan, nan], [inf, inf], [-inf, 0], [88.72284, inf], [-103.98, 0], [-103.9, smallest], [largest, inf], [-largest, 0], [smallest, 1]],
  },
  expNegative: {
    reference: Math.exp,
    dense: [-104.5, 0],
    domain: [-inf, 0],
    bound: 1,
    direction: 1,
    edges: [[0, 1], [-0, 1], [nan, nan], [-inf, 0], [-103.98, 0], [-103.9, smallest], [-largest, 0], [-smallest, 1]],
  },
  exp2: {
    reference: (x) => 2 ** x,
    dense: [-151, 129],
    bound: 1,
    direction: 1,
    edges: [[0, 1], [-0, 1], [nan, nan], [inf, inf], [-inf, 0], [128, inf], [127, 2 ** 127], [-126, smallestNormal], [-149, smallest], [-150, 0], [-149.9, smallest], [10, 1024], [largest, inf], [-largest, 0]],
  },
  expm1: {
    reference: Math.expm1,
    dense: [-20, 89],
    bound: 1.5,
    direction: 1,
    edges: [...keepsZero, ...keepsTiny, [inf, inf], [-inf, -1], [-18, -1], [-largest, -1], [88.72284, inf], [largest, inf]],
  },
  log: {
    reference: Math.log,
    dense: [0, 20],
    bound: 1,
    direction: 1,
    edges: [[0, -inf], [-0, -inf], [1, 0], [nan, nan], [inf, inf], [-inf, nan], [-1, nan], [-smallest, nan]],
  },
  log1p: {
    reference: Math.log1p,
    dense: [-1, 20],
    bound: 1.6,
    direction: 1,
    edges: [...keepsZero, ...keepsTiny, [-1, -inf], [inf, inf], [-inf, nan], [-1.0000001, nan], [-2, nan]],
  },
  tanh: {
    reference: Math.tanh,
    dense: [-10, 10],
    bound: 1.5,
    direction: 1,
    edges: [...keepsZero, ...keepsTiny, [inf, 1], [-inf, -1], [10, 1], [-largest, -1]],
  },
  sigmoid: {
    reference: sigmoid,
    dense: [-105, 20],
    bound: 1.5,
    direction: 1,
    edges: [[0, 0.5], [-0, 0.5], [nan, nan], [inf, 1], [-inf, 0], [largest, 1], [-largest, 0], [-103.9, smallest], [smallest, 0.5]],
  },
  erf: {
    reference: erf,
    dense: [-4.5, 4.5],
    bound: 1.5,
    direction: 1,
    edges: [[0, 0], [-0, -0], [nan, nan], [inf, 1], [-inf, -1], [4, 1], [smallest, smallest], [-largest, -1]],
  },
  sin: {
    reference: Math.sin,
    dense: [-100, 100],
    domain: [-1e5, 1e5],
    bound: 1.5,
    edges: [...keepsZero, ...keepsTiny, [inf, nan], [-inf, nan], [largest, 0]],
  },
  cos: {
    reference: Math.cos,
    dense: [-100, 100],
    domain: [-1e5, 1e5],
    bound: 1.5,
    edges: [[0, 1], [-0, 1], [nan, nan], [inf, nan], [-inf, nan], [smallest, 1], [largest, 1]],
  },
  tan: {
    reference: Math.tan,
    dense: [-100, 100],
    domain: [-1e5, 1e5],
    bound: 2,
    edges: [...keepsZero, ...keepsTiny, [inf, nan], [-inf, nan], [largest, 0]],
  },
  asin: {
    reference: Math.asin,
    dense: [-1, 1],
    bound: 2,
    direction: 1,
    edges: [...keepsZero, ...keepsTiny, [1, 1.5707964], [-1, -1.5707964], [1.0000001, nan], [-inf, nan]],
  },
  acos: {
    reference: Math.acos,
    dense: [-1, 1],
    bound: 1.5,
    direction: -1,
    edges: [[1, 0], [-1, Math.PI], [0, 1.5707964], [nan, nan], [1.0000001, nan], [-1.0000001, nan], [inf, nan]],
  },
  atan: {
    reference: Math.atan,
    dense: [-20, 20],
    bound: 1.5,
    direction: 1,
    edges: [...keepsZero, ...keepsTiny, [inf, 1.5707964], [-inf, -1.5707964], [largest, 1.5707964]],
  },
  sinh: {
    reference: Math.sinh,
    dense: [-90, 90],
    bound: 2,
    direction: 1,
    edges: [...keepsZero, ...keepsTiny, [inf, inf], [-inf, -inf], [89.42, inf], [-89.42, -inf], [largest, inf]],
  },
  cosh: {
    reference: Math.cosh,
    dense: [-90, 90],
    bound: 2,
    edges: [[0, 1], [-0, 1], [nan, nan], [inf, inf], [-inf, inf], [89.42, inf], [-89.42, inf], [largest, inf], [smallest, 1]],
  },
  atanh: {
    reference: Math.atanh,
    dense: [-1, 1],
    bound: 2,
    direction: 1,
    edges: [...keepsZero, ...keepsTiny, [1, inf], [-1, -inf], [1.0000001, nan], [-2, nan], [inf, nan], [largest, nan]],
  },
} as const satisfies Record<string, Case>;

type Unary = keyof typeof cases;
const unary = Object.keys(cases) as readonly Unary[];

/** The function as a graph of one operand, or two. */
function graph(name: Unary | "pow"): Node {
  const lanes = new Expressions();
  const x = lanes.operand(0, "f32");
  return name === "pow" ? lanes.pow(x, lanes.operand(1, "f32")) : lanes[name](x);
}
const run = (name: Unary | "pow", ...operands: readonly Float32Array[]) => interpret(graph(name), operands);

/** Distance of neighbouring fp32 numbers around a float64; results beyond the largest count as that power of two. */
function unit(reference: number): number {
  if (Math.abs(reference) < smallestNormal) return smallest;
  let exponent = Math.floor(Math.log2(Math.abs(reference)));
  if (2 ** exponent > Math.abs(reference)) exponent--;
  if (2 ** (exponent + 1) <= Math.abs(reference)) exponent++;
  return 2 ** (Math.min(exponent, 127) - 23);
}
/** Error in units of the last place; infinite if one is NaN, infinite or of another sign of zero and the other is not. */
function error(result: number, reference: number): number {
  const nearest = Math.fround(reference);
  if (Object.is(result, nearest) && (!Number.isFinite(nearest) || reference === nearest)) return 0;
  if (!Number.isFinite(reference) || Number.isNaN(result)) return inf;
  if (reference === 0) return inf;
  const finite = Math.abs(result) === inf ? Math.sign(result) * 2 ** 128 : result;
  return Math.abs(finite - reference) / unit(reference);
}

const float16s = Float32Array.from({ length: 65536 }, (_, bits) => float16Value(bits));

/** All magnitudes, evenly by their bits, then `dense` evenly. */
function points({ dense: [low, high], domain = [-inf, inf] }: Case): Float32Array {
  const all = new Float32Array(2 * samples);
  const step = 2 ** 32 / samples;
  for (let i = 0; i < samples; i++) {
    const x = bitsFloat(Math.floor((i + 0.5) * step));
    all[i] = Number.isNaN(x) ? 1 + i / samples : x;
    all[samples + i] = low + ((high - low) * (i + 0.5)) / samples;
  }
  return all.filter((x) => x >= domain[0] && x <= domain[1]);
}

interface Figures {
  readonly max: number;
  readonly mean: number;
  readonly at: number;
}
function figures(results: Float32Array, reference: (index: number) => number): Figures {
  let [max, sum, at] = [0, 0, 0];
  results.forEach((result, i) => {
    const e = error(result, reference(i));
    sum += e;
    if (e > max) [max, at] = [e, i];
  });
  return { max, mean: sum / results.length, at };
}

/** Figures for docs/numerics.md, as the tests find them. */
const found = new Map<string, string>();

describe.each(unary)("%s", (name) => {
  const it: Case = cases[name];
  const inside = (x: number) => it.domain === undefined || (x >= it.domain[0] && x <= it.domain[1]);

  test("is exact at the edges", () => {
    const results = run(
      name,
      Float32Array.from(it.edges, ([x]) => x),
    );
    for (const [i, [x, y]] of it.edges.entries()) {
      expect(Object.is(results[i], Math.fround(y)), `${name}(${x}) is ${results[i]}, not ${y}`).toBe(true);
    }
  });

  test("errs by at most its bound over fp32", { timeout: 3600e3 }, () => {
    const x = points(it);
    const { max, mean, at } = figures(run(name, x), (i) => it.reference(x[i]!));
    expect(max, `at ${x[at]}`).toBeLessThanOrEqual(it.bound);
    found.set(name, `| \`${name}\` | ${operationCount(graph(name))} | ${max.toFixed(2)} | ${mean.toFixed(3)} |`);
  });

  test("gives the nearest fp16 numbers but for ties", () => {
    const x = float16s.filter(inside);
    const results = run(name, x);
    const { max, at } = figures(results, (i) => it.reference(x[i]!));
    expect(max, `${name}(${x[at]}) is ${results[at]}`).toBeLessThanOrEqual(it.bound);
    const wrong = x.filter(
      (value, i) => !Object.is(roundFloat16(results[i]!), roundFloat16(it.reference(value))),
    ).length;
    expect(wrong).toBeLessThanOrEqual(40); // of 65536: where the exact result lies within the error of a tie
    found.set(name, `${found.get(name) ?? ""} ${wrong} |`);
  });

  if (it.direction !== undefined) {
    test("is monotonic over fp16", () => {
      const sorted = float16s.filter((x) => inside(x) && !Number.isNaN(it.reference(x))).sort();
      const results = run(name, sorted);
      const turns = sorted.filter((_, i) => i > 0 && (results[i]! - results[i - 1]!) * it.direction! < 0);
      expect([...turns]).toEqual([]);
    });
  }
});

const maximum = (values: Float32Array) => values.reduce((a, b) => Math.max(a, b));
/** The `count` fp32 numbers around x. */
const around = (x: number, count = 2000) =>
  Float32Array.from({ length: count }, (_, i) => bitsFloat(floatBits(x) + i - count / 2));

test.each([
  ["tanh", [9.01, 0.55]],
  ["erf", [3.9, 4]],
  ["sigmoid", [17]],
  ["sin", [Math.PI / 2, 1000.5 * Math.PI]],
  ["cos", [Math.PI, 1000 * Math.PI]],
] as const)("%s stays within -1 and 1", (name, centres) => {
  for (const centre of centres) {
    expect(maximum(run(name, around(centre)).map(Math.abs))).toBeLessThanOrEqual(1);
  }
});

test("large arguments keep sin and cos within 2^-23 up to 6.5e6, tan within 2^-12; beyond they count as 0", () => {
  const x = Float32Array.from({ length: samples }, (_, i) => 1e5 + ((6.5e6 - 1e5 - 1) * i) / samples);
  for (const name of ["sin", "cos"] as const) {
    const errors = run(name, x).map((result, i) => Math.abs(result - cases[name].reference(x[i]!)));
    expect(maximum(errors)).toBeLessThanOrEqual(2 ** -23);
  }
  const errors = run("tan", x).map((result, i) => Math.abs(result / Math.tan(x[i]!) - 1));
  expect(maximum(errors)).toBeLessThanOrEqual(2 ** -12);
  const far = Float32Array.of(6.5e6, 1e9, -1e20, largest);
  expect([...run("sin", far)].map(Math.abs)).toEqual([0, 0, 0, 0]);
  expect([...run("cos", far)]).toEqual([1, 1, 1, 1]);
  expect([...run("tan", far)].map(Math.abs)).toEqual([0, 0, 0, 0]);
});

describe("pow", () => {
  const edges = [0, smallest, smallestNormal, 0.1, 0.5, bitsFloat(0x3f7fffff), 1, bitsFloat(0x3f800001), 1.5, 2, 3, 10]
    .concat([127, 128, 149, 150, 2 ** 23 - 0.5, 2 ** 24 - 1, 2 ** 24, 1e30, largest, inf])
    .flatMap((x) => [x, -x])
    .concat(nan);

  /** Pairs of positive bases and exponents with results everywhere between 0 and infinity. */
  function pairs(): { x: Float32Array; y: Float32Array } {
    const x = new Float32Array(samples);
    const y = new Float32Array(samples);
    let state = 1;
    const random = () => (state = (Math.imul(state, 1664525) + 1013904223) | 0) / 2 ** 32 + 0.5;
    for (let i = 0; i < samples; i++) {
      const power = random() * 210 - 105;
      const wide = bitsFloat(Math.floor(random() * 0x7f800000));
      x[i] = [wide, 1 + (random() - 0.5) * 2 ** -(i % 20), 10 * random()][i % 3]!;
      y[i] = i % 5 === 0 ? Math.round(random() * 64 - 32) : Math.fround(power / Math.log(x[i]!));
      if (i % 10 === 0) x[i] = -x[i]!;
    }
    return { x, y };
  }

  test("agrees with ** at the edges", () => {
    const x = Float32Array.from(edges.flatMap((a) => edges.map(() => a)));
    const y = Float32Array.from(edges.flatMap(() => edges));
    for (const [i, result] of run("pow", x, y).entries()) {
      const exact = x[i]! ** y[i]!;
      const tiny = Math.abs(exact) < smallest && Object.is(result, Math.fround(exact));
      if (!tiny) expect(error(result, exact), `${x[i]} ** ${y[i]} is ${result}`).toBeLessThanOrEqual(1.5);
    }
  });

  test("errs by at most its bound", { timeout: 3600e3 }, () => {
    const { x, y } = pairs();
    const { max, mean, at } = figures(run("pow", x, y), (i) => x[i]! ** y[i]!);
    expect(max, `at ${x[at]} ** ${y[at]}`).toBeLessThanOrEqual(1.5);
    found.set("pow", `| \`pow\` | ${operationCount(graph("pow"))} | ${max.toFixed(2)} | ${mean.toFixed(3)} | - |`);
  });
});

test("docs/numerics.md states what the tests above find", ({ skip }) => {
  skip(!usual, "the figures are those of the usual number of samples");
  const text = readFileSync(new URL("../../../docs/numerics.md", import.meta.url), "utf8");
  const nameOf = (line: string) => /^\| `(\w+)`/.exec(line)?.[1] ?? "";
  const rows = text.split("\n").filter((line) => found.has(nameOf(line)));
  const stated = rows.map((row) => `${row.split("|", 6).join("|")}|`);
  expect(stated).toEqual([...found.values()]);
  for (const row of rows) {
    const [, , , max, , , everywhere] = row.split("|").map((cell) => Number.parseFloat(cell));
    expect(everywhere, row).toBeGreaterThanOrEqual(max!);
    if (nameOf(row) !== "pow") expect(everywhere, row).toBeLessThanOrEqual(cases[nameOf(row) as Unary].bound);
  }
  expect(found.size).toBe(unary.length + 1);
});

describe("the interpreter's fma", () => {
  /** A finite fp32 number in units of 2^-149. */
  function units(x: number): bigint {
    const bits = floatBits(x);
    const exponent = (bits >>> 23) & 255;
    const significand = BigInt(exponent === 0 ? bits & 0x7fffff : (bits & 0x7fffff) | 0x800000);
    return (bits < 0 ? -significand : significand) << BigInt(Math.max(exponent - 1, 0));
  }
  /** Nearest fp32 number of n 2^-298, ties to even. */
  function nearest(n: bigint): number {
    const magnitude = n < 0n ? -n : n;
    const drop = BigInt(Math.max(magnitude.toString(2).length - 24, 149));
    const rest = magnitude & ((1n << drop) - 1n);
    let kept = magnitude >> drop;
    if (rest > 1n << (drop - 1n) || (rest === 1n << (drop - 1n) && kept & 1n)) kept++;
    const value = Number(kept) * 2 ** (Number(drop) - 298);
    return Math.fround(n < 0n ? -value : value) + 0; // +0
  }

  test("rounds once", () => {
    let state = 7;
    const random = () => (state = (Math.imul(state, 1664525) + 1013904223) | 0);
    for (let i = 0; i < 20_000; i++) {
      const [a, b] = [bitsFloat((random() & 0x80ffffff) | 0x3f000000), bitsFloat((random() & 0x80ffffff) | 0x3f000000)];
      // Addends of every size beside the product, also such that the sum nearly cancels, is a tie, or is subnormal.
      const c = i % 3 === 0 ? Math.fround(-a * b) : bitsFloat((random() & 0x807fffff) | ((60 + (i % 90)) << 23));
      const scale = i % 7 === 0 ? 2 ** -126 : 1;
      const [x, z] = [Math.fround(a * scale), Math.fround(c * scale)];
      expect(fmaFloat32(x, b, z) + 0, `${x} ${b} ${z}`).toBe(nearest(units(x) * units(b) + (units(z) << 149n)));
    }
    // 1 + 2^-24 is a tie, to even; 2^-100 more is not.
    expect(fmaFloat32(2 ** -12, 2 ** -12, 1)).toBe(1);
    expect(fmaFloat32(2 ** -12, bitsFloat(floatBits(2 ** -12) + 1), 1)).toBe(1 + 2 ** -23);
    expect(fmaFloat32(inf, 0, 1)).toBe(nan);
    expect(fmaFloat32(largest, 2, -inf)).toBe(-inf);
  });
});
