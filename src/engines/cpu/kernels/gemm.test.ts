// Matrix products against a float64 reference: shapes, strides, batches, storages, both instruction-set levels; every operand ends at a guard page.

import { afterAll, describe, expect, test } from "vitest";
import { fewer, some } from "../../../../test/emulation.ts";
import { float16Bits, float16Value } from "../../../core/float16.ts";
import { openSystem } from "../../os/index.ts";
import { isasOf, runs } from "./copy.harness.ts";
import { type GemmSpec, type Matrix, planGemm, type Storage } from "./gemm.ts";
import { Harness } from "./gemm-harness.ts";
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

const bytesOf = { fp32: 4, fp16: 2 } as const;

/** Elements between the first and the last, both included. */
function extent(matrix: Matrix, rows: number, columns: number, batch: readonly number[]): number {
  return (
    1 +
    (rows - 1) * matrix.row +
    (columns - 1) * matrix.column +
    batch.reduce((all, size, i) => all + (size - 1) * matrix.batch[i]!, 0)
  );
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

function check(spec: GemmSpec, isa: Isa, threads = 2): void {
  const { m, n, k, batch, a, b, c } = spec;
  const random = generator(m * 7919 + n * 104729 + k);
  const untouched = 12345;
  const [A, B, C] = [
    operand("a", a.dtype, extent(a, m, k, batch), random),
    operand("b", b.dtype, extent(b, k, n, batch), random),
    operand("c", c.dtype, extent(c, m, n, batch), () => untouched),
  ];
  const plan = planGemm(spec, isa, threads);
  harness.run(plan, isa, { a: A.address, b: B.address, c: C.address });
  const written = new Set<number>();
  const unit = 2 ** -24;
  const index = batch.map(() => 0);
  for (;;) {
    const base = (matrix: Matrix) => index.reduce((all, i, d) => all + i * matrix.batch[d]!, 0);
    const [a0, b0, c0] = [base(a), base(b), base(c)];
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        let magnitude = 0;
        for (let l = 0; l < k; l++) {
          const product = A.get(a0 + i * a.row + l * a.column) * B.get(b0 + l * b.row + j * b.column);
          sum += product;
          magnitude += Math.abs(product);
        }
        const at = c0 + i * c.row + j * c.column;
        written.add(at);
        // Each of k sums rounds by half a unit of a partial sum; partial sums are at most `magnitude`.
        const bound = (k + 1) * unit * magnitude + (c.dtype === "fp16" ? Math.abs(sum) * 2 ** -11 + 2 ** -25 : 0);
        const error = Math.abs(C.get(at) - sum);
        if (!(error <= bound)) {
          throw new Error(
            `${isa}: C[${index.concat(i, j)}] = ${C.get(at)}, not ${sum} (bound ${bound}): ${JSON.stringify(spec)}`,
          );
        }
      }
    }
    let d = batch.length - 1;
    while (d >= 0 && ++index[d]! === batch[d]) index[d--] = 0;
    if (d < 0) break;
  }
  const size = extent(c, m, n, batch);
  const kept = c.dtype === "fp16" ? float16Value(float16Bits(untouched)) : untouched;
  for (let i = 0; i < size; i++) {
    if (!written.has(i) && C.get(i) !== kept)
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
