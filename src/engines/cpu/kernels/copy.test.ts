// Copies, transposes and fills against plain loops: random layouts, both instruction sets, operands between guard pages.

import { afterAll, describe, expect, test } from "vitest";
import { fewer } from "../../../../test/emulation.ts";
import { openSystem } from "../../os/index.ts";
import { Harness, isasOf, runs } from "./copy.harness.ts";
import { type CopySpec, planCopy, planFill } from "./copy.ts";
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

/** More in a soak. */
const rounds = Number(process.env.COPY_ROUNDS ?? fewer(400));

const span = (shape: readonly number[], strides: readonly number[]) =>
  1 + shape.reduce((sum, n, axis) => sum + (n - 1) * Math.abs(strides[axis]!), 0);

/** Elements before the first one: those that negative strides go back to. */
const before = (shape: readonly number[], strides: readonly number[]) =>
  shape.reduce((sum, n, axis) => sum + (n - 1) * Math.max(0, -strides[axis]!), 0);

const arrayTypes = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array } as const;

/** The destination as a loop leaves it. */
function expected(spec: CopySpec, source: Uint8Array, target: Uint8Array): Uint8Array {
  const { bytes, shape, from, to } = spec;
  const values = new arrayTypes[bytes](source.slice().buffer);
  const result = new arrayTypes[bytes](target.slice().buffer);
  const visit = (axis: number, f: number, t: number) => {
    if (axis === shape.length) {
      result[t] = values[f]!;
      return;
    }
    for (let i = 0; i < shape[axis]!; i++) visit(axis + 1, f + i * from[axis]!, t + i * to[axis]!);
  };
  visit(0, before(shape, from), before(shape, to));
  return new Uint8Array(result.buffer);
}

function check(spec: CopySpec, isa: Isa, threads: number, head = false, skew = 0): void {
  const guard = head ? "head" : "tail";
  const source = harness.memory("from", span(spec.shape, spec.from) * spec.bytes, guard);
  const memory = harness.memory("to", span(spec.shape, spec.to) * spec.bytes + skew, guard);
  const target = { address: memory.address + skew, bytes: memory.bytes.subarray(skew) };
  for (let i = 0; i < source.bytes.length; i++) source.bytes[i] = (Math.imul(i, 0x9e3779b1) >>> 17) & 255;
  memory.bytes.fill(0xa5);
  const wanted = expected(spec, source.bytes, target.bytes);
  const program = harness.load(
    isa,
    [planCopy(spec, isa, threads)],
    (arg) => (arg === "from" ? source : target).address + before(spec.shape, spec[arg]) * spec.bytes,
    threads,
  );
  program.run();
  program.dispose();
  const same = Buffer.compare(wanted, target.bytes) === 0 && memory.bytes.subarray(0, skew).every((x) => x === 0xa5);
  if (!same) throw new Error(`wrong: ${JSON.stringify(spec)} on ${isa}, ${threads} threads`);
}

function rowMajor(shape: readonly number[]): number[] {
  const strides: number[] = [];
  let stride = 1;
  for (const n of shape.toReversed()) {
    strides.unshift(stride);
    stride *= n;
  }
  return strides;
}

/** A permutation of a row-major tensor, as the operator writes it. */
function permuted(bytes: 1 | 2 | 4, shape: readonly number[], order: readonly number[]): CopySpec {
  const strides = rowMajor(shape);
  const out = order.map((axis) => shape[axis]!);
  return { bytes, shape: out, from: order.map((axis) => strides[axis]!), to: rowMajor(out) };
}

describe.skipIf(!runs).each(isas)("copy on %s", (isa) => {
  const sizes = [1, 2, 4] as const;

  test("moves runs of every length up to 700 bytes", () => {
    for (let n = 1; n <= 700; n += n < 140 ? 1 : 13) {
      check({ bytes: 1, shape: [n], from: [1], to: [1] }, isa, 1, n % 2 === 0);
      check({ bytes: 1, shape: [3, n], from: [n + 1, 1], to: [n + 2, 1] }, isa, 1, n % 2 === 1);
    }
  });

  test("cuts long runs into tasks", () => {
    for (const n of [65536, 65537, 300001]) check({ bytes: 4, shape: [n], from: [1], to: [1] }, isa, 2);
    check({ bytes: 2, shape: [3, 100003], from: [0, 1], to: [100003, 1] }, isa, 3);
  });

  test.each(sizes)("transposes matrices of %i-byte elements of all small sizes", (bytes) => {
    for (let m = 1; m <= 37; m++) {
      for (let n = 1; n <= 37; n += m < 20 ? 1 : 3) check(permuted(bytes, [m, n], [1, 0]), isa, 1, (m + n) % 2 === 0);
    }
  });

  test.each(sizes)("transposes larger matrices of %i-byte elements", (bytes) => {
    for (const [m, n] of [
      [64, 64],
      [65, 129],
      [300, 511],
      [1000, 3],
      [3, 1000],
      [8, 5000],
      [5000, 17],
      [256, 256],
      [512, 300],
      [1024, 77],
      [257, 640],
      [1200, 1100],
    ] as const) {
      check(permuted(bytes, [m, n], [1, 0]), isa, 2);
    }
  });

  test("interleaves and separates", () => {
    for (const bytes of sizes) {
      for (const n of [2, 3, 4, 8, 16]) {
        for (const m of [1, 5, 16, 33, 640]) {
          check(permuted(bytes, [n, m], [1, 0]), isa, 1, m % 2 === 0);
          check(permuted(bytes, [m, n], [1, 0]), isa, 1, m % 2 === 0);
          check(permuted(bytes, [3, m, n], [0, 2, 1]), isa, 1, m % 2 === 1);
          check(permuted(bytes, [2, n, n, 3, m], [0, 3, 1, 4, 2]), isa, 2);
        }
      }
    }
  });

  test("permutes heads, channels and pixels", () => {
    for (const bytes of sizes) {
      check(permuted(bytes, [12, 64, 64], [1, 0, 2]), isa, 2);
      check(permuted(bytes, [2, 3, 19, 21], [0, 2, 3, 1]), isa, 1);
      check(permuted(bytes, [2, 19, 21, 3], [0, 3, 1, 2]), isa, 1);
      check(permuted(bytes, [4, 2, 2, 9, 11], [0, 3, 1, 4, 2]), isa, 1);
      check(permuted(bytes, [5, 6, 7, 8], [3, 2, 1, 0]), isa, 1);
      check(permuted(bytes, [7, 9, 2], [1, 0, 2]), isa, 1);
      check(permuted(bytes, [70, 45, 2], [1, 0, 2]), isa, 1);
    }
  });

  test("repeats elements, rows and matrices", () => {
    for (const bytes of sizes) {
      check({ bytes, shape: [5, 77], from: [1, 0], to: [77, 1] }, isa, 1);
      check({ bytes, shape: [5, 77], from: [0, 1], to: [77, 1] }, isa, 1);
      check({ bytes, shape: [3, 5, 7], from: [0, 1, 0], to: [35, 7, 1] }, isa, 1);
      check({ bytes, shape: [100000], from: [0], to: [1] }, isa, 2);
      check({ bytes, shape: [3, 30, 40], from: [0, 1, 30], to: [1200, 40, 1] }, isa, 1);
    }
  });

  test("writes slices of a wider tensor and nothing between them", () => {
    for (const bytes of sizes) {
      check({ bytes, shape: [40, 50], from: [50, 1], to: [101, 1] }, isa, 2);
      check({ bytes, shape: [400], from: [1], to: [2] }, isa, 1);
      check({ bytes, shape: [40, 50], from: [1, 40], to: [101, 2] }, isa, 2);
    }
  });

  test("copies random layouts as a loop does", { timeout: 20_000 + 20 * rounds }, () => {
    const random = randomSource(Number(process.env.COPY_SEED ?? 1) + (isa === "avx2" ? 0 : 1));
    for (let round = 0; round < rounds; round++) {
      const rank = 1 + random(8);
      const shape: number[] = [];
      let size = 1;
      for (let axis = 0; axis < rank; axis++) {
        const n = 1 + random(Math.min(70, Math.max(2, Math.floor(60000 / size) ** (1 / (rank - axis)) * 1.5)));
        shape.push(n);
        size *= n;
      }
      // Strides of a permuted, padded destination and of any source.
      const layout = (pads: boolean, zeros: boolean) => {
        const strides = new Array<number>(rank).fill(0);
        let stride = pads && random(4) === 0 ? 1 + random(3) : 1;
        const order = shape.map((_, axis) => axis).sort(() => random(3) - 1);
        for (const axis of order) {
          if (zeros && random(6) === 0) continue;
          strides[axis] = stride;
          stride *= shape[axis]!;
          if (pads && random(3) === 0) stride += random(5);
        }
        return strides.map((stride) => (round % 2 === 1 && random(4) === 0 ? -stride || 0 : stride));
      };
      const bytes = sizes[random(3)]!;
      check(
        { bytes, shape, from: layout(true, true), to: layout(random(2) === 0, false) },
        isa,
        1 + random(3),
        random(2) === 0,
      );
    }
  });

  test("writes past the caches, whatever the alignment", () => {
    for (const bytes of sizes) {
      const line = 64 / bytes;
      check({ ...permuted(bytes, [3 * line, 200], [1, 0]), stream: true }, isa, 1, true, 32);
      check({ ...permuted(bytes, [3 * line, 200], [1, 0]), stream: true }, isa, 1, false, bytes);
      for (const head of [true, false]) {
        check({ ...permuted(bytes, [3 * line, 200], [1, 0]), stream: true }, isa, 2, head);
        check({ ...permuted(bytes, [8 * line, 3, 7 * line], [2, 1, 0]), stream: true }, isa, 2, head);
        check({ ...permuted(bytes, [3 * line + 1, 200], [1, 0]), stream: true }, isa, 2, head);
        check({ bytes, shape: [3, 5001], from: [5001, 1], to: [6000, 1], stream: true }, isa, 2, head);
        check({ bytes, shape: [300001], from: [1], to: [1], stream: true }, isa, 2, head);
        check({ bytes, shape: [3, 5001], from: [1, 0], to: [5003, 1], stream: true }, isa, 2, head);
        for (let n = 1024; n < 1300; n += 7)
          check({ bytes, shape: [n], from: [1], to: [1], stream: true }, isa, 1, head);
      }
    }
  });

  test("fills", () => {
    for (const bytes of sizes) {
      for (const count of [1, 2, 3, 15, 16, 31, 33, 64, 511, 513, 5000, 100003, 100004]) {
        const target = harness.memory("to", count * bytes, count % 3 === 0 ? "head" : "tail");
        const stream = count % 2 === 0;
        const plan = planFill({ bytes, count, bits: 0x12345678, stream }, isa, 2);
        const program = harness.load(isa, [plan], () => target.address, 2);
        program.run();
        program.dispose();
        const pattern = [0x78, 0x56, 0x34, 0x12].slice(0, bytes);
        expect(target.bytes.every((value, i) => value === pattern[i % bytes])).toBe(true);
      }
    }
  });
});
