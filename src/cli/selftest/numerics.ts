// Group "numerics": the published probes of the silicon as programs. Nothing here is right or wrong: what is seen goes into the report, and the facts are held against it.
// Source of the probes: ANE guide, chapter 3 and appendix C (M1 unless it says otherwise); numeric cliffs of ANEForge.

import { createHash } from "node:crypto";
import { float16Value, roundFloat16InPlace } from "../../core/float16.ts";
import { RandomStream } from "../../core/random.ts";
import { type CompiledProgram, compile, constant, input, type Tensor } from "../../index.ts";
import { evaluate } from "./compare.ts";
import type { Bench, Check, Group, Seen } from "./group.ts";

type Engine = Bench["device"];
type Values = ArrayLike<number>;

/** Results of a program of one output. */
async function values(result: Tensor, feeds: Readonly<Record<string, Values>>, engine: Engine): Promise<number[]> {
  return Array.from((await evaluate({ result }, feeds, engine)).result!);
}

/** A function of one operand at some points. */
function at(f: (x: Tensor) => Tensor, points: readonly number[], engine: Engine): Promise<number[]> {
  return values(f(input([points.length], { name: "x" })), { x: points }, engine);
}

/** A function of two operands at some pairs of points. */
function atPairs(f: (x: Tensor, y: Tensor) => Tensor, x: readonly number[], y: readonly number[], engine: Engine) {
  const operand = (name: string) => input([x.length], { name });
  return values(f(operand("x"), operand("y")), { x, y }, engine);
}

/** Sum of numbers as a product of a row with a column of ones, both fed. */
async function sumByProduct(row: ArrayLike<number>, engine: Engine): Promise<number> {
  const x = input([1, row.length], { name: "x" });
  const ones = input([row.length, 1], { name: "ones" });
  return (await values(x.matmul(ones), { x: row, ones: new Float32Array(row.length).fill(1) }, engine))[0]!;
}

async function sumByReduction(row: ArrayLike<number>, engine: Engine): Promise<number> {
  return (await values(input([1, row.length], { name: "x" }).sum([1]), { x: row }, engine))[0]!;
}

const filled = (length: number, value = 1) => new Float32Array(length).fill(value);

function random(length: number, name: string, scale = 1): Float32Array {
  const stream = new RandomStream(21, name);
  return Float32Array.from({ length }, () => scale * (2 * stream.uniform() - 1));
}

// ------------------------------------------------------------------------------------------------ the probes

async function rounding(engine: Engine): Promise<Seen> {
  const pairs = [
    [2048, 1],
    [2050, 1],
    [1, 2 ** -11],
    [1, 3 * 2 ** -11],
    [-2048, -1],
  ] as const;
  const [x, y] = [pairs.map(([a]) => a), pairs.map(([, b]) => b)];
  const sums = await atPairs((a, b) => a.add(b), x, y, engine);
  const even = [2048, 2052, 1, 1 + 2 ** -9, -2048];
  const reading = sums.every((sum, i) => sum === even[i]) ? "half to even" : "other";
  return { sums, expectedHalfToEven: even, reading };
}

async function accumulation(engine: Engine): Promise<Seen> {
  const ones16000 = await sumByProduct(filled(16000), engine);
  const mixed = await sumByProduct([4096, ...filled(1024)], engine);
  const ones2049 = await sumByProduct(filled(2049), engine);
  const reading =
    mixed === 5116 ? "tiles of four in fp16" : mixed === 5120 ? "wide" : mixed === 4096 ? "fp16" : "other";
  return { ones16000, mixed5120: mixed, ones2049, reading };
}

async function survivors(engine: Engine): Promise<Seen> {
  const magnitudes = [1024, 3000, 4090, 4096, 8000, 16000, 30000];
  const counts: number[] = [];
  for (const v of magnitudes) {
    const row = Array.from({ length: 16 }, () => [v, -v, 1]).flat();
    counts.push(await sumByProduct(row, engine));
  }
  return { magnitudes, counts };
}

async function reductions(engine: Engine): Promise<Seen> {
  const ones4096 = await sumByReduction(filled(4096), engine);
  const ones2049 = await sumByReduction(filled(2049), engine);
  const mixed5120 = await sumByReduction([4096, ...filled(1024)], engine);
  const sum2049 = await sumByReduction([257, ...filled(7, 256)], engine);
  const large = await sumByReduction([30000, 30000], engine);
  const [a, b] = [random(256, "a"), random(256, "b")];
  const x = input([1, 256], { name: "x" });
  const y = input([1, 256], { name: "y" });
  const dot = await values(x.mul(y).sum([1]), { x: a, y: b }, engine);
  const product = await values(x.matmul(y, { transposeY: true }), { x: a, y: b }, engine);
  return {
    ones4096,
    ones2049,
    sum2049,
    mixed5120,
    large60000: large,
    dotByReduction: dot[0]!,
    dotByProduct: product[0]!,
  };
}

async function association(engine: Engine): Promise<Seen> {
  const [a, b, c] = ["a", "b", "c"].map((name) => random(4096, name, 4)) as [Float32Array, Float32Array, Float32Array];
  const [x, y, z] = ["a", "b", "c"].map((name) => input([4096], { name })) as [Tensor, Tensor, Tensor];
  const results = await evaluate({ left: x.add(y).add(z), right: x.add(y.add(z)) }, { a, b, c }, engine);
  const differing = Array.from(results.left!).filter((value, i) => value !== results.right![i]).length;
  return { differingFraction: differing / 4096 };
}

/** Rows whose exact products are computed here, spread over the matrix. */
const exactRows = 6;

/** Relative error (Frobenius) of a product of normal numbers over sqrt(N), the second factor scaled; the reference is float64 over the same fp16 values. */
async function productError(extent: number, scale: number, { device: engine, speed }: Bench): Promise<number> {
  const normals = (name: string, factor: number) => {
    const stream = new RandomStream(22, name);
    const values = Float32Array.from({ length: extent * extent }, () => (stream.normal() * factor) / Math.sqrt(extent));
    roundFloat16InPlace(values);
    return values;
  };
  const [a, b] = [normals(`a${extent}`, 1), normals(`b${extent}`, scale)];
  // All rows where tiles of hardware are looked at; elsewhere as many as are compared.
  const rows = speed === "chip" ? extent : exactRows;
  const x = input([rows, extent], { name: "x" });
  const y = input([extent, extent], { name: "y" });
  const { z } = await evaluate({ z: x.matmul(y) }, { x: a.subarray(0, rows * extent), y: b }, engine);
  let wrong = 0;
  let right = 0;
  for (let at = 0; at < exactRows; at++) {
    const row = Math.floor((at * rows) / exactRows);
    const sums = new Float64Array(extent);
    for (let k = 0; k < extent; k++) {
      const factor = a[row * extent + k]!;
      for (let column = 0; column < extent; column++) sums[column]! += factor * b[k * extent + column]!;
    }
    for (let column = 0; column < extent; column++) {
      wrong += (z![row * extent + column]! - sums[column]!) ** 2;
      right += sums[column]! ** 2;
    }
  }
  return Math.sqrt(wrong / right);
}

async function productErrors(bench: Bench): Promise<Seen> {
  const extents = bench.quick || bench.speed === "plain" ? [512, 1024] : [512, 1024, 2048, 4096];
  const errors: number[] = [];
  for (const extent of extents) errors.push(await productError(extent, 1, bench));
  return { extents, errors, scaledBy64: await productError(1024, 64, bench) };
}

/** Terms far above what fp16 loses, each below 2^-16. */
async function smallTerms(engine: Engine): Promise<Seen> {
  const x = input([1, 1024], { name: "x" });
  const y = input([1024, 1], { name: "y" });
  const small = filled(1024, 2 ** -9);
  const sum = (await values(x.matmul(y), { x: small, y: small }, engine))[0]!;
  return { sum, exact: 2 ** -8 };
}

async function ceilings(engine: Engine): Promise<Seen> {
  const product = async (total: number, terms: number) => sumByProduct(filled(terms, total / terms), engine);
  const conv = async (kernel: number) => {
    const x = input([1, 1, 4, 4], { name: "x" });
    const taps = kernel * kernel;
    const y = x.conv(constant(filled(taps), [1, 1, kernel, kernel]));
    return (await values(y, { x: filled(16, 60000 / taps) }, engine))[0]!;
  };
  return {
    product32752: await product(32752, 4),
    product32768: await product(32768, 4),
    product60000: await product(60000, 64),
    productCancelling: await sumByProduct([30000, 30000, -30000, -29000], engine),
    conv1x1: await conv(1),
    conv2x2: await conv(2),
    elementwise: await atPairs((x, y) => x.mul(y), [30000, 32752], [2, 2], engine),
    reduction: await sumByReduction([16376, 16376, 16376, 16376], engine),
  };
}

async function widthSlices(engine: Engine): Promise<Seen> {
  const points = [4094, 4096, 32752, 65504];
  const seen: Record<string, number[]> = { fills: points };
  for (const [name, begin] of [
    ["lastAxisOffset", [0, 0, 0, 8]],
    ["lastAxisBegin", [0, 0, 0, 0]],
    ["otherAxis", [0, 0, 2, 0]],
  ] as const) {
    const x = input([1, 4, 8, 64], { name: "x" });
    const size = name === "otherAxis" ? [1, 4, 4, 64] : [1, 4, 8, 32];
    using program = await compile({ y: x.sliceBySize(begin, size) }, { engine });
    seen[name] = points.map((fill) => program.runSync({ x: filled(2048, fill) }).y.data[0]!);
  }
  return seen;
}

const specials = [Number.NaN, Infinity, -Infinity];

async function specialValues(engine: Engine): Promise<Seen> {
  const [nan, inf] = [Number.NaN, Infinity];
  const zeros = filled(3, 0);
  return {
    nanPlusZero: (await atPairs((x, y) => x.add(y), specials, Array.from(zeros), engine))[0]!,
    relu: await at((x) => x.relu(), specials, engine),
    sigmoid: await at((x) => x.sigmoid(), specials, engine),
    tanh: await at((x) => x.tanh(), specials, engine),
    exp: await at((x) => x.exp(), specials, engine),
    maximumOfNan: (await atPairs((x, y) => x.maximum(y), [nan], [1], engine))[0]!,
    infMinusInf: (await atPairs((x, y) => x.sub(y), [inf], [inf], engine))[0]!,
    zeroTimesInf: (await atPairs((x, y) => x.mul(y), [0], [inf], engine))[0]!,
    sqrtOfMinusOne: (await at((x) => x.sqrt(), [-1], engine))[0]!,
    rsqrtOfMinusOne: (await at((x) => x.rsqrt(), [-1], engine))[0]!,
    logOfMinusOne: (await at((x) => x.log(), [-1], engine))[0]!,
    logOfZero: (await at((x) => x.log(), [0], engine))[0]!,
    softplusOfInf: (await at((x) => x.softplus(), [inf], engine))[0]!,
  };
}

async function zeros(engine: Engine): Promise<Seen> {
  const sum = (await atPairs((x, y) => x.add(y), [-0], [0], engine))[0]!;
  return {
    minusZeroPlusZeroIsNegative: Object.is(sum, -0),
    inverseOfMinusZero: (await atPairs((x, y) => x.div(y), [1], [-0], engine))[0]!,
    rsqrtOfMinusZero: (await at((x) => x.rsqrt(), [-0], engine))[0]!,
  };
}

const tiny = [2 ** -24, 3 * 2 ** -24, 100 * 2 ** -24, 512 * 2 ** -24, 1023 * 2 ** -24, -5 * 2 ** -24];

async function subnormals(engine: Engine): Promise<Seen> {
  const kept = (got: readonly number[]) => got.filter((value, i) => value === tiny[i]).length;
  const sums = await atPairs(
    (x, y) => x.add(y),
    tiny,
    tiny.map(() => 0),
    engine,
  );
  const products = await atPairs(
    (x, y) => x.mul(y),
    tiny,
    tiny.map(() => 1),
    engine,
  );
  const x = input([6, 1], { name: "x" });
  const y = input([1, 1], { name: "y" });
  const matmul = await values(x.matmul(y), { x: tiny, y: [1] }, engine);
  const halves = await values(x.matmul(y), { x: tiny.map(() => 2 ** -13), y: [2 ** -5] }, engine);
  const flushed = matmul.filter((value) => value === 0).length;
  return {
    probed: tiny.length,
    keptByAdd: kept(sums),
    keptByMul: kept(products),
    keptByProduct: kept(matmul),
    flushedByProduct: flushed,
    productOfNormals: halves[0]!,
    reading: flushed === tiny.length ? "flushed in products" : kept(matmul) === tiny.length ? "kept" : "other",
  };
}

async function exponential(engine: Engine): Promise<Seen> {
  const points = [11.0859375, 11.09375, 11.1015625];
  const softmax = (row: readonly number[]) =>
    values(input([1, row.length], { name: "x" }).softmax(-1), { x: row }, engine);
  return {
    points,
    exp: await at((x) => x.exp(), points, engine),
    square: await at((x) => x.mul(x), [255.875, 256], engine),
    softmaxOfThousand: await softmax([1000, 1, 2, 3]),
    softmaxOfEqual: await softmax([7, 7, 7, 7]),
  };
}

const functions = {
  sigmoid: (x: Tensor) => x.sigmoid(),
  tanh: (x: Tensor) => x.tanh(),
  gelu: (x: Tensor) => x.gelu(),
  silu: (x: Tensor) => x.silu(),
  erf: (x: Tensor) => x.erf(),
  exp: (x: Tensor) => x.exp(),
  softplus: (x: Tensor) => x.softplus(),
  sin: (x: Tensor) => x.sin(),
  cos: (x: Tensor) => x.cos(),
} as const;

/** Largest distance from the simulator's kernel (float64, rounded once), with where it is. */
async function table(name: keyof typeof functions, engine: Engine, points: number): Promise<Seen> {
  const high = name === "exp" ? 4 : 10;
  const x = Float32Array.from({ length: points }, (_, i) => -high + (2 * high * i) / (points - 1));
  const leaf = input([points], { name: "x" });
  const got = (await evaluate({ y: functions[name](leaf) }, { x }, engine)).y!;
  const want = (await evaluate({ y: functions[name](leaf) }, { x }, "sim")).y!;
  let worst = 0;
  let where = 0;
  for (let i = 0; i < points; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    if (error <= worst) continue;
    worst = error;
    where = x[i]!;
  }
  const zero = await at(functions[name], [0], engine);
  return { worstAbsolute: worst, at: where, ofZero: zero[0]! };
}

/** A program whose result depends on every kind of arithmetic: products, sums, tables. */
async function printer(engine: Engine): Promise<{ program: CompiledProgram; run: () => string } & Disposable> {
  const x = input([32, 64], { name: "x" });
  const w = constant(random(64 * 48, "print w", 0.25), [64, 48]);
  const y = x.matmul(w).gelu().softmax(-1).sum([0]).mul(x.exp().sum().rsqrt(1e-3));
  const program = await compile({ y }, { engine });
  const feed = random(32 * 64, "print x");
  const run = () => {
    const { data } = program.runSync({ x: feed }, { as: "bits" }).y;
    return createHash("sha256").update(new Uint8Array(data.buffer)).digest("hex").slice(0, 16);
  };
  return { program, run, [Symbol.dispose]: () => program.dispose() };
}

/** Hash of the results of a fixed program: the same in every process of a machine, if it is deterministic. */
export async function fingerprint(engine: Engine): Promise<string> {
  using made = await printer(engine);
  return made.run();
}

async function determinism(engine: Engine, runs: number): Promise<Seen> {
  const prints = new Set<string>();
  let first = "";
  for (let compiled = 0; compiled < 3; compiled++) {
    using made = await printer(engine);
    for (let run = 0; run < runs; run++) {
      const print = made.run();
      first ||= print;
      prints.add(print);
    }
  }
  return { fingerprint: first, runs: 3 * runs, compiles: 3, different: prints.size };
}

/** Fp16 bit patterns of every class through an addition of zero. */
async function patterns(engine: Engine): Promise<Seen> {
  const bits = Array.from({ length: 4096 }, (_, i) => (i * 16 + (i % 16)) & 0xffff);
  const x = bits.map(float16Value);
  const got = await atPairs(
    (a, b) => a.add(b),
    x,
    x.map(() => 0),
    engine,
  );
  const finite = x.map((value, i) => [value, got[i]!] as const).filter(([value]) => Number.isFinite(value));
  return { probed: finite.length, changed: finite.filter(([value, result]) => value !== result).length };
}

export const numerics: Group = {
  name: "numerics",
  summary: "the published probes of the silicon: what this engine answers",
  checkSeconds: 90,
  seconds: { quick: 120, full: 600 },
  perProcess: 8,
  checks: ({ quick }): Check[] => {
    const probes: readonly (readonly [string, (engine: Engine, bench: Bench) => Promise<Seen>])[] = [
      ["rounding", rounding],
      ["accumulation", accumulation],
      ["cancelling triples", survivors],
      ["reductions", reductions],
      ["association", association],
      ["product errors", (_engine, bench) => productErrors(bench)],
      ["small terms", smallTerms],
      ["ceilings", ceilings],
      ["width slices", widthSlices],
      ["special values", specialValues],
      ["zeros", zeros],
      ["subnormals", subnormals],
      ["exponential", exponential],
      ["bit patterns", patterns],
      ["determinism", (engine) => determinism(engine, quick ? 5 : 60)],
      ...(Object.keys(functions) as (keyof typeof functions)[]).map(
        (name) => [`table of ${name}`, (engine: Engine) => table(name, engine, quick ? 801 : 8001)] as const,
      ),
    ];
    return probes.map(([name, probe]) => ({
      name,
      run: async (bench) => ({ status: "measured", seen: await probe(bench.device, bench) }),
    }));
  },
};
