// Gather and scatter against plain loops: all dtypes, both instruction sets, duplicates, bad indices, operands between guard pages.

import { afterAll, describe, expect, test } from "vitest";
import { float16Bits, float16Value } from "../../../core/float16.ts";
import { openSystem } from "../../os/index.ts";
import { Harness, isasOf, type Memory, runs } from "./copy.harness.ts";
import { type GatherSpec, planGather } from "./index-gather.ts";
import { planScatter, type ScatterSpec } from "./index-scatter.ts";
import type { Isa } from "./step.ts";

/** Numbers in [0, n), reproducible. */
function randomSource(seed: number): (n: number) => number {
  let state = seed >>> 0;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

const harness = new Harness(await openSystem());
const isas = isasOf(harness.system);
afterAll(() => harness.dispose());

function indexMemory(indices: readonly number[]): Memory {
  const memory = harness.memory("index", 4 * indices.length);
  new Int32Array(memory.bytes.buffer, memory.bytes.byteOffset, indices.length).set(indices);
  return memory;
}

/** Indices, some negative, some twice. */
function someIndices(random: (n: number) => number, count: number, extent: number): number[] {
  const range = random(2) === 0 ? extent : Math.max(1, extent >> 2);
  return Array.from({ length: count }, () => random(range) - (random(3) === 0 ? extent : 0));
}

const resolve = (index: number, extent: number) => (index < 0 ? index + extent : index);
const isBad = (index: number, extent: number) => index < -extent || index >= extent;

function gatherCase(spec: GatherSpec, indices: readonly number[], isa: Isa, threads: number, head = false): bigint[] {
  const { bytes, outer, extent, inner, count } = spec;
  const row = inner * bytes;
  const guard = head ? "head" : "tail";
  const x = harness.memory("x", outer * extent * row, guard);
  const out = harness.memory("out", outer * count * row, guard);
  const index = indexMemory(indices);
  for (let i = 0; i < x.bytes.length; i++) x.bytes[i] = (Math.imul(i, 0x9e3779b1) >>> 17) & 255;
  out.bytes.fill(0xa5);
  const wanted = out.bytes.slice();
  for (let o = 0; o < outer; o++) {
    indices.forEach((at, j) => {
      const from = (o * extent + resolve(at, extent)) * row;
      if (!isBad(at, extent)) wanted.set(x.bytes.subarray(from, from + row), (o * count + j) * row);
    });
  }
  const program = harness.load(
    isa,
    [planGather(spec, isa, threads)],
    (arg) => ({ x, index, out })[arg].address,
    threads,
  );
  program.run();
  const error = program.error.slice(0, 4);
  program.dispose();
  expect(Buffer.compare(wanted, out.bytes), JSON.stringify(spec)).toBe(0);
  return error;
}

/** Values of a tensor, rounded to its dtype, in memory. */
function tensor(use: string, dtype: ScatterSpec["dtype"], values: readonly number[], head: boolean): Memory {
  const memory = harness.memory(use, values.length * (dtype === "fp16" ? 2 : 4), head ? "head" : "tail");
  write(dtype, memory, values);
  return memory;
}

function write(dtype: ScatterSpec["dtype"], memory: Memory, values: readonly number[]): void {
  const { buffer, byteOffset } = memory.bytes;
  if (dtype === "fp16") new Uint16Array(buffer, byteOffset, values.length).set(values.map(float16Bits));
  else if (dtype === "fp32") new Float32Array(buffer, byteOffset, values.length).set(values);
  else new Int32Array(buffer, byteOffset, values.length).set(values);
}

function read(dtype: ScatterSpec["dtype"], memory: Memory): number[] {
  const { buffer, byteOffset, length } = memory.bytes;
  if (dtype === "fp16") return Array.from(new Uint16Array(buffer, byteOffset, length / 2), float16Value);
  if (dtype === "fp32") return [...new Float32Array(buffer, byteOffset, length / 4)];
  return [...new Int32Array(buffer, byteOffset, length / 4)];
}

function scatterCase(spec: ScatterSpec, indices: readonly number[], isa: Isa, threads: number, head = false): bigint[] {
  const { dtype, outer, extent, inner, count, mode, inPlace, zeroData } = spec;
  const random = randomSource(count * 31 + inner);
  const value = () => (dtype === "int32" ? random(1 << 30) * 4 - (1 << 31) : (random(20001) - 10000) / 512);
  const numbers = (size: number) => Array.from({ length: size }, value);
  const data = tensor("data", dtype, numbers(outer * extent * inner), head);
  const updates = tensor("updates", dtype, numbers(outer * count * inner), head);
  const out = inPlace && !zeroData ? data : tensor("out", dtype, numbers(outer * extent * inner), head);
  const index = indexMemory(indices);
  const before = out.bytes.slice();

  const sums = zeroData ? new Array<number>(outer * extent * inner).fill(0) : read(dtype, data);
  const from = read(dtype, updates);
  for (let o = 0; o < outer; o++) {
    indices.forEach((at, j) => {
      for (let i = 0; i < inner && !isBad(at, extent); i++) {
        const to = (o * extent + resolve(at, extent)) * inner + i;
        const update = from[(o * count + j) * inner + i]!;
        if (mode === "update") sums[to] = update;
        else sums[to] = dtype === "int32" ? (sums[to]! + update) | 0 : Math.fround(sums[to]! + update);
      }
    });
  }
  const plan = planScatter(spec, isa, threads);
  const temps = plan.temps.map((bytes, i) => harness.memory(`temp ${i}`, bytes));
  for (const temp of temps) temp.bytes.fill(0xee);
  const program = harness.load(
    isa,
    plan.steps,
    (arg) => (typeof arg === "object" ? temps[arg.temp]! : { data, index, updates, out }[arg]).address,
    threads,
  );
  program.run();
  const error = program.error.slice(0, 4);
  program.dispose();
  const wanted = tensor("wanted", dtype, sums, head);
  const same = Buffer.compare(error[0] === 0n ? wanted.bytes : before, out.bytes) === 0;
  if (!same) throw new Error(`wrong: ${JSON.stringify({ spec, indices })} on ${isa}, ${threads} threads`);
  return error;
}

describe.skipIf(!runs).each(isas)("gather on %s", (isa) => {
  test("copies rows of every length", () => {
    const random = randomSource(3);
    for (let round = 0; round < 300; round++) {
      const bytes = ([1, 2, 4] as const)[random(3)]!;
      const [outer, extent, inner, count] = [1 + random(3), 1 + random(40), 1 + random(90), 1 + random(50)];
      const spec = { bytes, outer, extent, inner, count, step: 5 };
      const error = gatherCase(spec, someIndices(random, count, extent), isa, 1 + random(3), round % 2 === 0);
      expect(error).toEqual([0n, 0n, 0n, 0n]);
    }
  });

  test("copies single elements and long rows", () => {
    const random = randomSource(4);
    for (const bytes of [1, 2, 4] as const) {
      for (const [outer, extent, inner, count] of [
        [1, 1000, 1, 10007],
        [3, 50, 1, 1001],
        [1, 9, 40001, 11],
        [2, 3, 100003, 2],
        [1, 1, 1, 1],
      ] as const) {
        const spec = { bytes, outer, extent, inner, count, step: 0 };
        gatherCase(spec, someIndices(random, count, extent), isa, 2);
      }
    }
  });

  test("reports a bad index, skips its row and copies the others", () => {
    for (const bad of [7, -8, 2147483647, -2147483648]) {
      for (const inner of [1, 5]) {
        const spec = { bytes: 4, outer: 2, extent: 7, inner, count: 40, step: 42 } as const;
        const indices = Array.from({ length: 40 }, (_, j) => (j === 17 ? bad : (j % 14) - 7));
        const error = gatherCase(spec, indices, isa, 2);
        expect(error).toEqual([1n, BigInt.asUintN(64, BigInt(bad)), 7n, 42n]);
      }
    }
  });
});

describe.skipIf(!runs).each(isas)("scatter on %s", (isa) => {
  const dtypes = ["fp32", "fp16", "int32"] as const;
  const variants = [{ inPlace: false }, { inPlace: true }, { inPlace: false, zeroData: true }] as const;

  test.each(dtypes)("adds and replaces rows of %s in index order", (dtype) => {
    const random = randomSource(5);
    for (let round = 0; round < 120; round++) {
      const [outer, extent, inner, count] = [1 + random(3), 1 + random(30), 1 + random(150), 1 + random(40)];
      const mode = random(3) === 0 ? "update" : "add";
      const spec = { dtype, outer, extent, inner, count, mode, ...variants[random(3)]!, step: 1 } as const;
      const indices = someIndices(random, count, extent);
      expect(scatterCase(spec, indices, isa, 1 + random(3), round % 2 === 0)).toEqual([0n, 0n, 0n, 0n]);
    }
  });

  test.each(dtypes)("scatters %s: single elements, wide rows, many of one slice", (dtype) => {
    const random = randomSource(6);
    for (const mode of ["add", "update"] as const) {
      for (const [outer, extent, inner, count] of [
        [1, 300, 1, 5000],
        [1, 3, 18003, 4],
        [2, 2, 500, 60],
        [1, 1, 1, 1],
      ] as const) {
        for (const variant of variants) {
          const spec = { dtype, outer, extent, inner, count, mode, ...variant, step: 1 };
          scatterCase(spec, someIndices(random, count, extent), isa, 2);
        }
      }
    }
  });

  test("checks every index before anything is written", () => {
    for (const bad of [5, -6, 2147483647, -2147483648]) {
      for (const variant of variants) {
        const spec = {
          dtype: "fp32",
          outer: 1,
          extent: 5,
          inner: 9,
          count: 12,
          mode: "add",
          ...variant,
          step: 9,
        } as const;
        const error = scatterCase(spec, [0, 1, 2, 3, 4, -5, -1, 2, 2, 2, 2, bad], isa, 2);
        expect(error).toEqual([1n, BigInt.asUintN(64, BigInt(bad)), 5n, 9n]);
      }
    }
  });
});
