// Expressions as machine code against the interpreter, bit for bit: every operation, special numbers, more values than registers.

import { afterAll, describe, expect, test } from "vitest";
import { interpret } from "../../../../test/cpu/interpret.ts";
import { fewer } from "../../../../test/emulation.ts";
import { makeRandom } from "../../../../test/plans/eager-engine.ts";
import { openSystem } from "../../os/index.ts";
import type { Code } from "../code.ts";
import { floatBits, type Node } from "../expression.ts";
import { machineOf } from "../machines.ts";
import { Expressions } from "../math.ts";
import { Harness, isasOf, runs } from "./copy.harness.ts";
import { emitLoop, loopScratch } from "./loop.ts";
import { type NestSpec, nestKey, nestTasks } from "./nest.ts";
import type { Isa } from "./step.ts";

const harness = new Harness(await openSystem());
const isas = isasOf(harness.system);
afterAll(() => harness.dispose());

const special = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  2.5,
  -2.5,
  65504,
  65520,
  -65536,
  2 ** -14,
  2 ** -24,
  2 ** -25,
  1e-40,
  -1e-40,
  2 ** -149,
  3.4e38,
  -3.4e38,
  2 ** 31,
  -(2 ** 31),
  2147483520,
  8388608.5,
  8388607.5,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
];

/** Numbers of all magnitudes. */
function numbers(random: () => number, size: number): Float32Array {
  const word = new DataView(new ArrayBuffer(4));
  return Float32Array.from({ length: size }, () => {
    const kind = random();
    if (kind < 0.3) return special[Math.floor(random() * special.length)]!;
    if (kind < 0.7) return (random() - 0.5) * 20;
    word.setUint32(0, Math.floor(random() * 2 ** 32));
    return word.getFloat32(0);
  });
}

type Maker = (v: Expressions, f: () => Node, i: () => Node, m: () => Node, random: () => number) => Node;
const makers: Readonly<Record<string, Maker>> = {
  add: (v, f) => v.add(f(), f()),
  sub: (v, f) => v.sub(f(), f()),
  mul: (v, f) => v.mul(f(), f()),
  div: (v, f) => v.div(f(), f()),
  fma: (v, f) => v.fma(f(), f(), f()),
  max: (v, f) => v.max(f(), f()),
  min: (v, f) => v.min(f(), f()),
  sqrt: (v, f) => v.sqrt(f()),
  floor: (v, f) => v.floor(f()),
  ceil: (v, f) => v.ceil(f()),
  trunc: (v, f) => v.trunc(f()),
  round: (v, f) => v.round(f()),
  neg: (v, f) => v.neg(f()),
  abs: (v, f) => v.abs(f()),
  roundFloat16: (v, f) => v.roundFloat16(f()),
  select: (v, f, _i, m) => v.select(m(), f(), f()),
  eq: (v, f) => v.eq(f(), f()),
  ne: (v, f) => v.ne(f(), f()),
  lt: (v, f) => v.lt(f(), f()),
  le: (v, f) => v.le(f(), f()),
  gt: (v, f) => v.gt(f(), f()),
  ge: (v, f) => v.ge(f(), f()),
  iadd: (v, _f, i) => v.add(i(), i()),
  isub: (v, _f, i) => v.sub(i(), i()),
  imul: (v, _f, i) => v.mul(i(), i()),
  imax: (v, _f, i) => v.max(i(), i()),
  imin: (v, _f, i) => v.min(i(), i()),
  iand: (v, _f, i) => v.and(i(), i()),
  ior: (v, _f, i) => v.or(i(), i()),
  ixor: (v, _f, i) => v.xor(i(), i()),
  inot: (v, _f, i) => v.not(i()),
  ishl: (v, _f, i, _m, random) => v.shl(i(), Math.floor(random() * 32)),
  ishr: (v, _f, i, _m, random) => v.shr(i(), Math.floor(random() * 32)),
  isar: (v, _f, i, _m, random) => v.sar(i(), Math.floor(random() * 32)),
  ieq: (v, _f, i) => v.eq(i(), i()),
  ine: (v, _f, i) => v.ne(i(), i()),
  ilt: (v, _f, i) => v.lt(i(), i()),
  ile: (v, _f, i) => v.le(i(), i()),
  iselect: (v, _f, i, m) => v.select(m(), i(), i()),
  mand: (v, _f, _i, m) => v.and(m(), m()),
  mor: (v, _f, _i, m) => v.or(m(), m()),
  mxor: (v, _f, _i, m) => v.xor(m(), m()),
  mnot: (v, _f, _i, m) => v.not(m()),
  mselect: (v, _f, _i, m) => v.select(m(), m(), m()),
  toFloat: (v, _f, i) => v.toFloat(i()),
  toInt: (v, f) => v.toInt(f()),
  asFloat: (v, _f, i) => v.asFloat(i()),
  asInt: (v, f) => v.asInt(f()),
};

const floats = 3;
const ints = 2;

/** A graph of random operations, or of one; its results are stored as fp32, int32 and bool. */
function randomExpression(random: () => number, size: number, names: readonly string[]): Node[] {
  const v = new Expressions();
  const pools: Record<Node["type"], Node[]> = { f32: [], i32: [], mask: [] };
  for (let k = 0; k < floats; k++) pools.f32.push(v.operand(k, "f32"));
  for (let k = 0; k < ints; k++) pools.i32.push(v.operand(floats + k, "i32"));
  pools.f32.push(v.f(0.1), v.f(-3));
  pools.i32.push(v.i(5), v.i(-1));
  pools.mask.push(v.lt(pools.f32[0]!, pools.f32[1]!), v.eq(pools.i32[0]!, pools.i32[1]!));
  const pick = (type: Node["type"]) => pools[type][Math.floor(random() * pools[type].length)]!;
  const all: Node[] = [];
  for (let k = 0; k < size; k++) {
    const name = names[Math.floor(random() * names.length)]!;
    const node = makers[name]!(
      v,
      () => pick("f32"),
      () => pick("i32"),
      () => pick("mask"),
      random,
    );
    pools[node.type].push(node);
    all.push(node);
  }
  return all;
}

/** NaNs are one: their bits depend on which operand they came from. */
const bits = (x: number) => (Number.isNaN(x) ? 0x7fc00000 : floatBits(x));

function check(isa: Isa, results: readonly Node[], length: number, random: () => number, inPlace = false): void {
  const inputs = [
    ...Array.from({ length: floats }, () => numbers(random, length)),
    ...Array.from(
      { length: ints },
      () => new Float32Array(Int32Array.from(numbers(random, length), (x) => x | 0).buffer),
    ),
  ];
  const dtypes = { f32: "fp32", i32: "int32", mask: "bool" } as const;
  const stores = results.slice(-6);
  const spec: NestSpec = {
    dims: [length],
    taskDims: 0,
    blocked: 0,
    block: Math.min(length, 64),
    operands: [
      ...inputs.map((_, k) => ({ dtype: k < floats ? ("fp32" as const) : ("int32" as const), strides: [1] })),
      ...stores.map(({ type }) => ({ dtype: dtypes[type], strides: [1] })),
    ],
    reductions: [],
    stores: stores.map((value, k) => ({ operand: inputs.length + k, value })),
    inPlace,
  };
  const memory = spec.operands.map(({ dtype }, k) => harness.memory(`o${k}`, length * (dtype === "bool" ? 1 : 4)));
  for (const [k, input] of inputs.entries()) memory[k]!.bytes.set(new Uint8Array(input.buffer));
  const step = {
    key: nestKey(spec),
    tasks: nestTasks(spec),
    args: spec.operands.map((_, k) => k),
    scratchBytes: loopScratch(spec),
    bytes: 0,
    flops: 0,
    emit: (code: Code) => emitLoop(machineOf(code), spec),
  };
  const program = harness.load(isa, [step], (k) => memory[k]!.address);
  expect(program.run()).toBe("done");
  for (const [k, node] of stores.entries()) {
    const { bytes } = memory[inputs.length + k]!;
    const want = interpret(node, inputs);
    const copy = bytes.slice().buffer;
    const got =
      node.type === "mask" ? new Uint8Array(copy) : node.type === "i32" ? new Int32Array(copy) : new Float32Array(copy);
    for (let at = 0; at < length; at++) {
      const operands = inputs.map((input, j) => (j < floats ? input[at] : new Int32Array(input.buffer)[at]));
      const where = () => `${node.kind === "op" ? node.op : node.kind} at ${at} of ${length}: ${operands}`;
      if (node.type === "f32") {
        if (bits(got[at]!) !== bits(want[at]!)) expect.fail(`${where()}: ${got[at]}, expected ${want[at]}`);
      } else if (got[at] !== want[at] && Math.fround(got[at]!) !== want[at])
        expect.fail(`${where()}: ${got[at]}, expected ${want[at]}`);
    }
  }
  program.dispose();
}

describe.skipIf(!runs).each(isas)("expressions on %s", (isa) => {
  test.each(Object.keys(makers))("%s", (name) => {
    const random = makeRandom(name.length * 77 + 5);
    for (const length of [1, 7, 16, 33, 200]) check(isa, randomExpression(random, 6, [name]), length, random);
  });

  test("selections by a comparison of what they select from", () => {
    const random = makeRandom(3);
    const v = new Expressions();
    const operands = [v.operand(0, "f32"), v.operand(1, "f32"), v.f(0), v.f(-1)];
    const results = operands.flatMap((a) =>
      operands.flatMap((b) => (a === b ? [] : [v.select(v.lt(a, b), b, a), v.select(v.lt(a, b), a, b)])),
    );
    while (results.length > 0) check(isa, results.splice(0, 6), 900, random);
  });

  test("random graphs, with more values than registers", () => {
    for (let seed = 1; seed <= fewer(60); seed++) {
      const random = makeRandom(seed);
      const size = [5, 20, 60, 150][seed % 4]!;
      const length = [1, 3, 15, 16, 17, 64, 65, 130][seed % 8]!;
      try {
        check(isa, randomExpression(random, size, Object.keys(makers)), length, random, seed % 3 === 0);
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
      }
    }
  });
});
