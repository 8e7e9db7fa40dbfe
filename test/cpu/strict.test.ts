// Strict rounding: elementwise programs equal the simulator bit for bit, in fp16 and fp32, for all kinds of numbers.

import { afterAll, describe, expect, test } from "vitest";
import type { DType } from "../../src/core/dtype.ts";
import { unpackFloat16 } from "../../src/core/float16.ts";
import { type Engine, type Feed, input, type Tensor, where } from "../../src/index.ts";
import { fewer } from "../emulation.ts";
import { Dice } from "../fuzz/generate.ts";
import { difference, instructionSets, openCpu, rowsOf } from "./compare.ts";

const sets = await instructionSets();
const engines: { readonly isa: string; readonly strict: boolean; readonly engine: Engine }[] = [];
for (const strict of [true, false])
  for (const isa of sets) engines.push({ isa, strict, engine: await openCpu({ isa, threads: 1, strict }) });
afterAll(() => {
  for (const { engine } of engines) engine[Symbol.dispose]();
});
const strictOnes = engines.filter(({ strict }) => strict);
const relaxedOnes = engines.filter(({ strict }) => !strict);

/** Numbers at which rounding, comparison and conversion change. */
const special32 = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  -1.5,
  2.5,
  -2.5,
  3.5,
  65504,
  -65504,
  65519.996,
  65520,
  -65520,
  65536,
  2048.5,
  2049,
  4097,
  2 ** -14,
  -(2 ** -14),
  2 ** -15,
  2 ** -24,
  -(2 ** -24),
  2 ** -25,
  1.5 * 2 ** -25,
  2 ** -26,
  5.960464832810445e-8,
  1e-40,
  -1e-40,
  2 ** -126,
  2 ** -149,
  -(2 ** -149),
  3.4028234663852886e38,
  -3.4028234663852886e38,
  2 ** 31,
  -(2 ** 31),
  2147483520,
  2147483648,
  -2147483904,
  2 ** 24,
  2 ** 24 + 2,
  8388607.5,
  8388608.5,
  0.49999997,
  1.0000001,
  0.1,
  -0.1,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
  1 / 3,
  1000.4,
  -1000.6,
  1e10,
  -1e10,
];
const special: Readonly<Record<DType, readonly number[]>> = {
  fp32: special32,
  fp16: special32,
  int32: [0, 1, -1, 2, -2, 7, 2147483647, -2147483648, 2147483646, 65536, -65536, 16777217, 1000003, 46341, -46341],
  bool: [0, 1],
};

/** Numbers of a dtype: special ones, small ones, and any bit pattern. */
function numbers(dice: Dice, dtype: DType, size: number): Float64Array | Float32Array {
  const word = new DataView(new ArrayBuffer(4));
  return Float64Array.from({ length: size }, () => {
    const kind = dice.int(0, 3);
    if (kind === 0 || dtype === "bool") return dice.pick(special[dtype]);
    if (dtype === "int32") return kind === 1 ? dice.int(-9, 9) : dice.int(-(2 ** 31), 2 ** 31 - 1) | 0;
    if (kind === 1) return dice.int(-4000, 4000) / dice.pick([1, 2, 3, 8, 1000]);
    word.setUint32(0, dice.int(0, 2 ** 32 - 1));
    return word.getFloat32(0);
  });
}

interface Program {
  readonly outputs: Record<string, Tensor>;
  readonly feeds: Record<string, Feed>;
  readonly text: readonly string[];
}

/** A random elementwise program of exact operators. */
function randomChain(seed: number, floats: readonly DType[]): Program {
  const dice = new Dice(seed);
  const size = dice.pick([1, 5, 16, 17, 33, 100]);
  const shapes = [[size], [3, size], [3, 1], [1]];
  const feeds: Record<string, Feed> = {};
  const pool: Tensor[] = [];
  const names = new Map<Tensor, string>();
  const text: string[] = [];
  const add = (tensor: Tensor, how: string) => {
    names.set(tensor, `v${pool.length}`);
    text.push(`v${pool.length} ${tensor.dtype} [${tensor.shape}] = ${how}`);
    pool.push(tensor);
  };
  const dtypes: readonly DType[] = [...floats, "int32", "bool"];
  for (const dtype of dtypes) {
    for (const shape of [shapes[0]!, shapes[1]!, dice.pick(shapes)]) {
      const name = `x${pool.length}`;
      const leaf = input(shape, { dtype, name });
      feeds[name] = numbers(dice, dtype, leaf.size);
      add(leaf, name);
    }
  }
  const any = (wanted: readonly DType[]) => {
    const fits = pool.filter(({ dtype }) => wanted.includes(dtype));
    return dice.pick(dice.chance(0.6) ? fits.slice(-6) : fits);
  };
  const unary = ["abs", "relu", "square", "sqrt", "floor", "ceil", "round", "sign", "neg"] as const;
  const comparisons = ["equal", "notEqual", "less", "lessEqual", "greater", "greaterEqual"] as const;
  const count = dice.int(4, 30);
  for (let i = 0; i < count; i++) {
    const kind = dice.int(0, 8);
    if (kind === 0) {
      const a = any(floats);
      const name = dice.pick(unary);
      add(a[name](), `${name} ${names.get(a)}`);
    } else if (kind === 1) {
      const a = any(floats);
      const [low, high] = dice.pick([
        [-1, 1],
        [0, 6],
        [-65504, 65504],
        [0.1, 0.30000001192092896],
      ] as const);
      if (dice.chance(0.5)) add(a.clip(low, high), `clip ${names.get(a)} ${low} ${high}`);
      else add(a.leakyRelu(low), `leakyRelu ${names.get(a)} ${low}`);
    } else if (kind <= 4) {
      const a = any([...floats, ...floats, "int32"]);
      const b = any([a.dtype]);
      const name = dice.pick([
        "add",
        "sub",
        "mul",
        "maximum",
        "minimum",
        ...(a.dtype === "int32" ? [] : (["div"] as const)),
      ] as const);
      add(a[name](b), `${name} ${names.get(a)} ${names.get(b)}`);
    } else if (kind === 5) {
      const a = any([...floats, "int32"]);
      const b = any([a.dtype]);
      const name = dice.pick(comparisons);
      add(a[name](b), `${name} ${names.get(a)} ${names.get(b)}`);
    } else if (kind === 6) {
      const a = any(dtypes);
      const b = any([a.dtype]);
      const condition = any(["bool"]);
      add(where(condition, a, b), `where ${names.get(condition)} ${names.get(a)} ${names.get(b)}`);
    } else if (kind === 7) {
      const a = any(dtypes);
      const to = dice.pick(dtypes);
      add(a.cast(to), `cast ${names.get(a)} to ${to}`);
    } else {
      const a = any(["bool"]);
      const b = any(["bool"]);
      const name = dice.pick(["logicalAnd", "logicalOr"] as const);
      add(dice.chance(0.3) ? a.logicalNot() : a[name](b), `${name} ${names.get(a)} ${names.get(b)}`);
    }
  }
  const outputs = Object.fromEntries(pool.slice(-dice.int(1, 6)).map((tensor, i) => [`y${i}`, tensor]));
  return { outputs, feeds, text };
}

const runs = Number(process.env.FUZZ_RUNS ?? fewer(40));
const firstSeed = Number(process.env.FUZZ_SEED ?? 1);
const timeout = 20_000 + runs * 200;

describe.each([
  ["fp16", ["fp16"]],
  ["fp32", ["fp32"]],
  ["both", ["fp16", "fp32"]],
] as const)("random elementwise programs, %s", (_title, floats) => {
  test(
    "equal the simulator bit for bit in strict rounding",
    async () => {
      for (let seed = firstSeed; seed < firstSeed + runs; seed++) {
        const { outputs, feeds, text } = randomChain(seed, floats);
        const program = { outputs, feeds, update: new Map() };
        const want = await rowsOf(program, "sim", 1);
        for (const { isa, engine } of strictOnes) {
          const found = difference(await rowsOf(program, engine, 1), want, { signs: true });
          if (found !== undefined) expect.fail(`FUZZ_SEED=${seed} FUZZ_RUNS=1 on ${isa}: ${found}\n${text.join("\n")}`);
        }
        if (floats.length > 1 || floats[0] !== "fp32") continue;
        // In fp32 nothing is rounded differently without it, either.
        for (const { isa, engine } of relaxedOnes) {
          const found = difference(await rowsOf(program, engine, 1), want, { signs: true });
          if (found !== undefined)
            expect.fail(`FUZZ_SEED=${seed} FUZZ_RUNS=1 relaxed on ${isa}: ${found}\n${text.join("\n")}`);
        }
      }
    },
    timeout,
  );
});

/** Every fp16 number, and about as many fp32 ones in even steps of bit patterns. */
function everyNumber(dtype: "fp16" | "fp32"): Float32Array {
  if (dtype === "fp16") {
    const wide = new Float32Array(65536);
    unpackFloat16(
      Uint16Array.from({ length: 65536 }, (_, i) => i),
      wide,
    );
    return wide;
  }
  return new Float32Array(Uint32Array.from({ length: 65536 }, (_, i) => i * 65537 + (i % 7)).buffer);
}

const functions: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  abs: (x) => x.abs(),
  relu: (x) => x.relu(),
  square: (x) => x.square(),
  sqrt: (x) => x.sqrt(),
  floor: (x) => x.floor(),
  ceil: (x) => x.ceil(),
  round: (x) => x.round(),
  sign: (x) => x.sign(),
  neg: (x) => x.neg(),
  clip: (x) => x.clip(-1.5, 6),
  leakyRelu: (x) => x.leakyRelu(0.01),
  "1 / x": (x) => x.filled(1, x.shape).div(x),
  "x + 1": (x) => x.add(1),
  "0.1 x": (x) => x.mul(0.1),
  "to fp16": (x) => x.cast("fp16"),
  "to fp32": (x) => x.cast("fp32"),
  "to int32": (x) => x.cast("int32"),
  "to bool": (x) => x.cast("bool"),
  "to fp16 and back": (x) => x.cast("fp16").cast("fp32").add(0),
};

describe.each(["fp16", "fp32"] as const)("functions of every %s number", (dtype) => {
  test.each(Object.entries(functions))("%s", async (_name, f) => {
    const x = input([65536], { dtype, name: "x" });
    const program = { outputs: { y: f(x) }, feeds: { x: everyNumber(dtype) }, update: new Map() };
    const want = await rowsOf(program, "sim", 1);
    for (const { isa, engine } of strictOnes)
      expect(difference(await rowsOf(program, engine, 1), want, { signs: true }), isa).toBeUndefined();
  });
});
