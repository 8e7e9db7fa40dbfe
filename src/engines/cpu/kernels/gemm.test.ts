// Matrix products against a float64 reference: shapes, strides, batches, storages, both instruction-set levels; every operand ends at a guard page.

import { afterAll, describe, expect, test } from "vitest";
import { fewer, some } from "../../../../test/emulation.ts";
import { float16Bits, float16Value } from "../../../core/float16.ts";
import { openSystem } from "../../os/index.ts";
import { bitsFloat, floatBits } from "../expression.ts";
import { isasOf, runs } from "./copy.harness.ts";
import { type GemmOperand, type GemmSpec, type Matrix, planGemm, type Storage } from "./gemm.ts";
import { Harness } from "./gemm-harness.ts";
import type { Bound } from "./gemm-layout.ts";
import type { Isa } from "./step.ts";

const system = await openSystem();
const harness = new Harness(system);
afterAll(() => harness.dispose());

/** Small deterministic generator. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state >>> 8) / 2 ** 24) * 2 - 1;
  };
}

/** Products with several sums; more in a soak. */
const rounds = Number(process.env.GEMM_ROUNDS ?? 60);

const bytesOf = { fp32: 4, fp16: 2 } as const;

/** How far the elements reach that a product reads or writes of a matrix: elements in all, of which `first` lie before the first one. */
function reach(matrix: Matrix, { m, n, k, batch, sums = [] }: GemmSpec, name: GemmOperand) {
  const [rows, columns] = [name === "b" ? k : m, name === "a" ? k : n];
  const steps = [
    (rows - 1) * matrix.row,
    (columns - 1) * matrix.column,
    ...batch.map((size, i) => (size - 1) * matrix.batch[i]!),
    ...(name === "a" || name === "b" ? sums.map((sum) => (sum.extent - 1) * sum[name]) : []),
  ];
  const total = (list: readonly number[]) => list.reduce((all, step) => all + Math.abs(step), 0);
  return { first: total(steps.filter((step) => step < 0)), size: 1 + total(steps) };
}

/** `size` elements up to a guard page. */
function operand(use: string, dtype: Storage, size: number, value: (i: number) => number) {
  const { address, bytes } = harness.place(use, size * bytesOf[dtype]);
  if (dtype === "fp32") {
    const view = new Float32Array(bytes.buffer, bytes.byteOffset, size);
    for (let i = 0; i < size; i++) view[i] = value(i);
    return { address, bytes, get: (i: number) => view[i]! };
  }
  const view = new Uint16Array(bytes.buffer, bytes.byteOffset, size);
  for (let i = 0; i < size; i++) view[i] = float16Bits(value(i));
  return { address, bytes, get: (i: number) => float16Value(view[i]!) };
}

/** Offsets over dimensions of these extents and strides, the last fastest. */
function offsetsOf(dims: readonly (readonly [extent: number, stride: number])[]): number[] {
  return dims.reduce(
    (all, [extent, stride]) => all.flatMap((at) => Array.from({ length: extent }, (_, i) => at + i * stride)),
    [0],
  );
}

/** Runs a product as planned for some numbers of threads: the same bits, and the sums by definition. */
function check(spec: GemmSpec, isa: Isa, ...threads: readonly number[]): void {
  const { m, n, k, batch, sums = [], a, b, c, adds = [], bounds = [] } = spec;
  const random = generator(m * 7919 + n * 104729 + k);
  const untouched = 12345;
  const place = (name: GemmOperand, matrix: Matrix, value: () => number) => {
    const { first, size } = reach(matrix, spec, name);
    const { dtype } = matrix;
    const { address, bytes, get } = operand(String(name), dtype, size, value);
    return {
      address: address + first * bytesOf[dtype],
      bytes,
      size,
      values: () => Array.from({ length: size }, (_, i) => get(i)),
      first,
    };
  };
  const [A, B, C] = [place("a", a, random), place("b", b, random), place("c", c, () => untouched)];
  const added = adds.map((add, i) => place(i as GemmOperand, add, random));
  const addresses = added.map(({ address }) => address);
  const before = C.bytes.slice();
  let result: Uint8Array | undefined;
  for (const count of threads.length === 0 ? [2] : threads) {
    C.bytes.set(before);
    harness.run(planGemm(spec, isa, count), isa, { a: A.address, b: B.address, c: C.address, ...addresses });
    result ??= C.bytes.slice();
    if (Buffer.compare(result, C.bytes) !== 0)
      throw new Error(`${isa}: other bits with ${count} threads than with ${threads[0]}: ${JSON.stringify(spec)}`);
  }
  const [as, bs, cs] = [A, B, C].map(({ values }) => values()) as [number[], number[], number[]];
  const terms = offsetsOf([...sums.map((sum) => [sum.extent, sum.a] as const), [k, a.column]]);
  const others = offsetsOf([...sums.map((sum) => [sum.extent, sum.b] as const), [k, b.row]]);
  const dims = (matrix: Matrix, row: number, column: number) =>
    offsetsOf([...batch.map((size, i) => [size, matrix.batch[i]!] as const), [m, row], [n, column]]);
  const [ats, bts, cts] = [dims(a, a.row, 0), dims(b, 0, b.column), dims(c, c.row, c.column)];
  const terminals = added.map(({ values, first }, i) => {
    const list = values();
    return dims(adds[i]!, adds[i]!.row, adds[i]!.column).map((at) => list[first + at]!);
  });
  const unit = 2 ** -24;
  for (const [element, at] of cts.entries()) {
    const [a0, b0] = [A.first + ats[element]!, B.first + bts[element]!];
    let sum = 0;
    let magnitude = 0;
    for (let l = 0; l < terms.length; l++) {
      const product = as[a0 + terms[l]!]! * bs[b0 + others[l]!]!;
      sum += product;
      magnitude += Math.abs(product);
    }
    for (const list of terminals) {
      sum += list[element]!;
      magnitude += Math.abs(list[element]!);
    }
    for (const { op, bits } of bounds) sum = Math[op](sum, bitsFloat(bits));
    // Each of the sums rounds by half a unit of a partial sum; partial sums are at most `magnitude`.
    const bound =
      (terms.length + 1 + adds.length) * unit * magnitude +
      (c.dtype === "fp16" ? Math.abs(sum) * 2 ** -11 + 2 ** -25 : 0);
    const error = Math.abs(cs[at]! - sum);
    if (!(error <= bound))
      throw new Error(
        `${isa}: element ${element} of C is ${cs[at]}, not ${sum} (bound ${bound}): ${JSON.stringify(spec)}`,
      );
  }
  const written = new Set(cts);
  const kept = c.dtype === "fp16" ? float16Value(float16Bits(untouched)) : untouched;
  for (let i = 0; i < C.size; i++) {
    if (!written.has(i) && cs[i] !== kept)
      throw new Error(`${isa}: element ${i} of C was written: ${JSON.stringify(spec)}`);
  }
}

interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}
type Form = "NN" | "NT" | "TN" | "TT";

function dense({ m, n, k }: Shape, form: Form, dtype: Storage = "fp32", rest: Partial<GemmSpec> = {}): GemmSpec {
  const matrix = (rows: number, columns: number, transposed: boolean): Matrix =>
    transposed ? { dtype, row: 1, column: rows, batch: [] } : { dtype, row: columns, column: 1, batch: [] };
  return {
    m,
    n,
    k,
    batch: [],
    a: matrix(m, k, form[0] === "T"),
    b: matrix(k, n, form[1] === "T"),
    c: matrix(m, n, false),
    ...rest,
  };
}

const forms = ["NN", "NT", "TN", "TT"] as const;

describe.skipIf(!runs).each(isasOf(system))("matrix products with %s", (isa) => {
  test.each(forms)("%s agrees with the reference at small sizes, all edges", (form) => {
    const sizes = [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 43];
    const shapes = sizes.flatMap((m) => sizes.flatMap((n) => [1, 3, 16, 37].map((k) => ({ m, n, k }))));
    for (const shape of some(shapes)) check(dense(shape, form), isa);
  });

  test.each(forms)("%s agrees at sizes with several blocks", (form) => {
    const shapes = [
      [70, 67, 61],
      [256, 96, 64],
      [61, 200, 1000],
      [113, 31, 1601],
      [29, 1009, 127],
    ] as const;
    for (const [m, n, k] of some(shapes, forms.indexOf(form))) check(dense({ m, n, k }, form), isa);
  });

  test.each(forms)("%s in fp16", (form) => {
    for (const [m, n, k] of [
      [1, 1, 1],
      [5, 3, 9],
      [17, 33, 19],
      [64, 70, 31],
      [47, 53, 997],
    ] as const) {
      check(dense({ m, n, k }, form, "fp16"), isa);
    }
  });

  test("any strides, storages, orders of the result, batches with broadcast, constants", () => {
    const random = generator(20);
    const pick = (low: number, high: number) => low + Math.floor(((random() + 1) / 2) * (high - low + 1));
    for (let round = 0; round < fewer(150); round++) {
      const batch = Array.from({ length: pick(0, 2) }, () => pick(1, 3));
      const [m, n] = [pick(1, 70), pick(1, 70)];
      const k = pick(0, 9) === 0 ? pick(700, 1100) : pick(1, 70);
      const matrix = (rows: number, columns: number, unit: boolean, broadcast: boolean): Matrix => {
        const step = unit ? 1 : pick(1, 3);
        const transposed = pick(0, 1) === 1;
        const inner = transposed ? rows : columns;
        const outerStride = inner * step + pick(0, 5);
        let next = outerStride * (transposed ? columns : rows);
        const strides = batch
          .toReversed()
          .map((size) => {
            if (broadcast && pick(0, 2) === 0) return 0;
            const stride = next + pick(0, 3);
            next = stride * size;
            return stride;
          })
          .toReversed();
        const dtype = pick(0, 1) === 0 ? "fp16" : "fp32";
        return transposed
          ? { dtype, row: step, column: outerStride, batch: strides }
          : { dtype, row: outerStride, column: step, batch: strides };
      };
      const spec: GemmSpec = {
        m,
        n,
        k,
        batch,
        a: matrix(m, k, pick(0, 2) > 0, true),
        b: matrix(k, n, pick(0, 2) > 0, true),
        c: matrix(m, n, true, false),
        aConstant: pick(0, 3) === 0,
        bConstant: pick(0, 3) === 0,
      };
      check(spec, isa, pick(1, 64));
      const byRow = spec.c.column === 1;
      const addends = Array.from({ length: pick(0, 3) }, (): Matrix => {
        const [other, along] = [pick(0, 2) === 0 ? 0 : (byRow ? n : m) + pick(0, 2), pick(0, 2) > 0 ? 1 : 0];
        return {
          dtype: pick(0, 1) === 0 ? "fp16" : "fp32",
          ...(byRow ? { row: other, column: along } : { row: along, column: other }),
          batch: batch.map(() => pick(0, 1) * pick(1, 5000)),
        };
      });
      const limits: readonly Bound[][] = [
        [],
        [{ op: "max", bits: 0 }],
        [
          { op: "max", bits: floatBits(-0.5) },
          { op: "min", bits: floatBits(1.5) },
        ],
      ];
      check({ ...spec, adds: addends, bounds: limits[pick(0, 2)]! }, isa, pick(1, 64), pick(1, 4));
    }
  });

  test("sums over several dimensions: windows that overlap, runs of any length, blocks that end early", {
    timeout: 100_000 + 200 * rounds,
  }, () => {
    const random = generator(Number(process.env.GEMM_SEED ?? 7));
    const pick = (low: number, high: number) => low + Math.floor(((random() + 1) / 2) * (high - low + 1));
    const of = <T>(...choices: readonly T[]) => choices[pick(0, choices.length - 1)]!;
    for (let round = 0; round < rounds; round++) {
      // Some are so large that their panels do not stay in cache: the other operand's stream by.
      const large = round % 15 === 14;
      const size = () => of(1, 6, 7, 14, 15, 16, 17, 33, pick(1, 12), pick(1, 70));
      const [long, short] = [large ? pick(200, 450) : size(), large ? pick(1, 40) : size()];
      const [m, n] = of([long, short], [short, long]);
      const k = of(1, 2, 4, 8, pick(1, 40), pick(1, 40));
      // Terms: more than a block has in some.
      const most = large ? 1500 : Math.max(120, Math.floor((60 * 8000 * of(1, 1, 8)) / m / n));
      let terms = k;
      const extents = Array.from({ length: pick(1, 3) }, () => {
        const extent = Math.min(
          of(1, 2, 3, pick(1, 9), Math.ceil(1500 / terms)),
          Math.max(2, Math.floor(most / terms)),
        );
        terms *= extent;
        return extent;
      });
      if (of(true, false)) extents.reverse();
      const batch = Array.from({ length: m * n * terms > 1e6 ? 0 : pick(0, 2) }, () => pick(1, 3));
      const stride = () => of(1, 2, k, k * of(1, 2, 3), pick(1, 90), -pick(1, 90), 1024);
      // Operands are only read: their elements may overlap in any way.
      const read = (side: "row" | "column"): Matrix => {
        const along = of(1, 1, 2, k, 3 * k, pick(1, 90), -k);
        const over = of(1, 1, 1, 1, 2, 33);
        const [row, column] = side === "row" ? [along, over] : [over, along];
        return {
          dtype: of("fp16", "fp32", "fp32"),
          row,
          column,
          batch: batch.map(() => of(0, stride(), pick(1, 200))),
        };
      };
      const transposed = of(true, false);
      const line = (transposed ? m : n) + of(0, 0, 1, 5);
      const gap = of(0, 0, 3);
      const matrix = line * (transposed ? n : m) + gap;
      const spec: GemmSpec = {
        m,
        n,
        k,
        sums: extents.map((extent) => ({ extent, a: stride(), b: stride() })),
        batch,
        a: read("row"),
        b: read("column"),
        c: {
          dtype: of("fp16", "fp32"),
          ...(transposed ? { row: 1, column: line } : { row: line, column: 1 }),
          batch: batch.map((_, i) => batch.slice(i + 1).reduce((all, each) => all * each, matrix)),
        },
        aConstant: pick(0, 3) === 0,
        bConstant: pick(0, 3) === 0,
      };
      check(spec, isa, 1, 2, 3, 8);
    }
  });

  test.each(forms)("%s with a few rows or columns of a large matrix", (form) => {
    const shapes = [1, 2, 3, 5, 6, 7, 8, 9].flatMap((rows) => [
      { rows, size: 1000, k: 37 },
      { rows, size: 517, k: 300 },
    ]);
    for (const { rows, size, k } of some(shapes, 5 * forms.indexOf(form))) {
      const storage = rows % 2 === 0 ? "fp16" : "fp32";
      check(dense({ m: rows, n: size, k }, form, storage), isa);
      check(dense({ m: size, n: rows, k }, form, storage), isa);
      const spec = dense({ m: rows, n: size, k }, form, storage);
      const transposed = { dtype: storage, row: 1, column: rows, batch: [] } as const;
      check({ ...spec, c: transposed }, isa);
    }
  });

  test("batches of a few rows, with strides that are no unit in x", () => {
    for (const [n, k] of [
      [1, 5000],
      [300, 70],
      [4099, 3],
    ] as const) {
      for (const [row, column] of [
        [k * 2 + 1, 2],
        [1, 3],
      ] as const) {
        const a: Matrix = { dtype: n === 300 ? "fp16" : "fp32", row, column, batch: [0, k * 9] };
        const b: Matrix = { dtype: "fp32", row: n + 3, column: 1, batch: [k * (n + 3), 0] };
        const c: Matrix = { dtype: "fp32", row: n, column: 1, batch: [n * 6, n * 3] };
        check({ m: 3, n, k, batch: [3, 2], a, b, c }, isa, 5);
      }
    }
  });

  test.each(forms)("%s with a result larger than the caches", (form) => {
    const narrow = dense({ m: 700, n: 402, k: 30 }, form);
    const specs: GemmSpec[] = [
      dense({ m: 371, n: 389, k: 41 }, form),
      { ...narrow, c: { dtype: "fp16", row: 1, column: 703, batch: [] } },
    ];
    if (form === "NT") specs.push(dense({ m: 130, n: 1030, k: 817 }, form));
    for (const spec of some(specs, forms.indexOf(form) % 2)) check(spec, isa);
  });

  test("fp16 results round to nearest, ties to even", () => {
    const large = (j: number) => 2048 + 2 * j;
    const small = (j: number) => Math.fround((j % 3) - 1 + (j % 5) * 0.001);
    const ones = operand("a", "fp32", 2, () => 1);
    const b = operand("b", "fp32", 128, (i) => (i < 64 ? large(i) : small(i - 64)));
    const c = operand("c", "fp16", 64, () => 0);
    const spec = dense({ m: 1, n: 64, k: 2 }, "NN", "fp32", { c: { dtype: "fp16", row: 64, column: 1, batch: [] } });
    harness.run(planGemm(spec, isa, 1), isa, { a: ones.address, b: b.address, c: c.address });
    for (let j = 0; j < 64; j++) expect(c.get(j)).toBe(float16Value(float16Bits(Math.fround(large(j) + small(j)))));
  });

  test("results do not depend on the number of threads", () => {
    const shapes = [
      { m: 131, n: 197, k: 1531 },
      { m: 2, n: 2003, k: 301 },
    ];
    for (const form of forms) {
      for (const shape of shapes) {
        const spec = dense(shape, form);
        const random = generator(1);
        const [A, B, C] = [
          operand("a", "fp32", spec.m * spec.k, random),
          operand("b", "fp32", spec.k * spec.n, random),
          operand("c", "fp32", spec.m * spec.n, () => 0),
        ];
        const results = [1, 2, 5, 64].map((threads) => {
          harness.run(planGemm(spec, isa, threads), isa, { a: A.address, b: B.address, c: C.address });
          return C.bytes.slice();
        });
        for (const result of results) expect(Buffer.compare(result, results[0]!)).toBe(0);
      }
    }
  });
});
