// Matrix products by a library's `cblas_sgemm`, through the double of Accelerate: where it is found, calls and results, what it is not asked for.

import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { type CArgument, type Code, entry, gp, mem } from "../../src/engines/cpu/code.ts";
import { chooseIsa, cpuFeatures } from "../../src/engines/cpu/isa/features.ts";
import { type GemmSpec, planGemm } from "../../src/engines/cpu/kernels/gemm.ts";
import { Harness } from "../../src/engines/cpu/kernels/gemm-harness.ts";
import type { Sgemm } from "../../src/engines/cpu/kernels/sgemm.ts";
import { type Accelerate, findAccelerate, openSystem } from "../../src/engines/os/index.ts";
import { Missing } from "../c-library.ts";
import { buildAccelerate, reportOf, tryAccelerate } from "./accelerate-double/build.ts";

const built = tryAccelerate();
const path = String(built);
const system = await openSystem();
const isa = chooseIsa(cpuFeatures(system));
if (built instanceof Missing) afterAll(() => process.stdout.write(`skipped: ${built.message}\n`));

const always: Sgemm["from"] = { "few rows": 0, batch: 0, single: 0 };
const theDouble = (from = always): Sgemm => ({
  library: "Accelerate",
  address: (findAccelerate(system, path) as Accelerate).sgemm,
  from,
});

describe("finding Accelerate", () => {
  test("is off where the system has none, or the user wants none", () => {
    expect(findAccelerate(system, undefined, "linux")).toEqual({ reason: "there is no Accelerate on linux" });
    expect(findAccelerate(system, "", "linux")).toEqual({ reason: "there is no Accelerate on linux" });
    expect(findAccelerate(system, "off", "darwin")).toEqual({ reason: "turned off by ANEKIT_ACCELERATE" });
  });

  test("says what is wrong with the library", () => {
    const library = join(tmpdir(), "anekit", "nothing.so");
    expect(findAccelerate(system, library)).toEqual({
      library,
      reason: expect.stringContaining("nothing.so cannot be loaded"),
    });
    expect(() => findAccelerate(system, "on", "darwin")).toThrow('"on" is neither "off" nor the path of a library');
  });

  test("asks the system's own on macOS", ({ skip }) => {
    skip(process.platform === "darwin", "it is there");
    expect(findAccelerate(system, undefined, "darwin")).toMatchObject({
      library: "/System/Library/Frameworks/Accelerate.framework/Accelerate",
      reason: expect.stringContaining("cannot be loaded"),
    });
  });
});

describe.skipIf(built instanceof Missing)("through the double", () => {
  beforeEach(() => void reportOf(system, path));

  test("misses the function by name", () => {
    const library = buildAccelerate(["cblas_sgemm"]);
    expect(findAccelerate(system, library)).toEqual({ library, reason: "the library has no cblas_sgemm" });
  });

  const harness = new Harness(system);
  afterAll(() => harness.dispose());

  /** Computes a product by the library and by our kernels. */
  function both({ m, n, k, batch, flags, gap, broadcast }: Product) {
    const matrix = (rows: number, columns: number, transposed: boolean, shared: boolean) => {
      const [count, length] = transposed ? [columns, rows] : [rows, columns];
      const step = length + gap;
      const element = step * count;
      const strides = batch.map((_, i) => (shared ? 0 : element * batch.slice(i + 1).reduce((all, s) => all * s, 1)));
      const size = (shared ? 1 : batch.reduce((all, s) => all * s, 1)) * element - gap;
      const [row, column] = transposed ? [1, step] : [step, 1];
      return { size, matrix: { dtype: "fp32", row, column, batch: strides } as const };
    };
    const a = matrix(m, k, flags[0], broadcast === "a");
    const b = matrix(k, n, flags[1], broadcast === "b");
    const c = matrix(m, n, flags[2], false);
    const spec: GemmSpec = { m, n, k, batch, a: a.matrix, b: b.matrix, c: c.matrix };
    const place = (use: string, size: number, fill: (i: number) => number) => {
      const { address, bytes } = harness.place(use, 4 * size);
      const values = new Float32Array(bytes.buffer, bytes.byteOffset, size);
      for (let i = 0; i < size; i++) values[i] = fill(i);
      return { address, values };
    };
    const left = place("a", a.size, (i) => ((i * 37) % 64) - 32);
    const right = place("b", b.size, (i) => ((i * 41) % 64) - 32);
    const results = [undefined, theDouble()].map((sgemm) => {
      const result = place("c", c.size, () => Number.NaN);
      const plan = planGemm(spec, isa, 1, sgemm);
      harness.run(plan, isa, { a: left.address, b: right.address, c: result.address });
      return { plan, values: [...result.values] };
    });
    return results as [(typeof results)[number], (typeof results)[number]];
  }

  interface Product {
    readonly m: number;
    readonly n: number;
    readonly k: number;
    readonly batch: readonly number[];
    readonly flags: readonly [boolean, boolean, boolean];
    readonly gap: number;
    readonly broadcast: "a" | "b" | "neither";
  }

  test("gives our kernels' results for any extents, order and distance of rows, batches and shared operands", () => {
    const extent = fc.integer({ min: 1, max: 40 });
    const product = fc.record({
      m: extent,
      n: extent,
      k: extent,
      batch: fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 3 }),
      flags: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()),
      gap: fc.integer({ min: 0, max: 3 }),
      broadcast: fc.constantFrom("a", "b", "neither" as const),
    });
    fc.assert(
      fc.property(product, (each) => {
        const [ours, theirs] = both(each);
        expect(theirs.plan.by).toBe("Accelerate");
        expect(theirs.values).toEqual(ours.values); // whole numbers: every order of sums is exact
        const tasks = each.batch.reduce((all, size) => all * size, 1);
        expect(reportOf(system, path)).toEqual({ calls: tasks, violations: "" });
      }),
      { numRuns: 300 },
    );
  });

  describe("a call", () => {
    const { r10, r11, r12 } = gp;
    let keys = 0;
    const right = { order: 101, transA: 111, m: 2, lda: 2, alpha: 1, beta: 0 };

    /** Multiplies two matrices of 2 x 2 by a kernel of its own. */
    function call(change: Partial<typeof right>, around: (code: Code, call: () => void) => void = (_, call) => call()) {
      const { order, transA, m, lda, alpha, beta } = { ...right, ...change };
      const matrix = (pointer: number, leading: number): CArgument[] => [{ pointer }, { int: leading }];
      const [a, b, c] = (["a", "b", "c"] as const).map((use) => {
        const { address, bytes } = harness.place(use, 16);
        const values = new Float32Array(bytes.buffer, bytes.byteOffset, 4);
        values.set(use === "c" ? [NaN, NaN, NaN, NaN] : [1, 2, 3, 4]);
        return { address, values };
      });
      const emit = (code: Code) => {
        code.enter(0);
        for (const [i, register] of [r10, r11, r12].entries()) code.mov(register, mem(entry.args, 8 * i));
        code.endVectors();
        around(code, () =>
          code.callC(theDouble().address, [
            ...[order, transA, 111, m, 2, 2].map((int) => ({ int })),
            { float: alpha },
            ...matrix(r10, lda),
            ...matrix(r11, 2),
            { float: beta },
            ...matrix(r12, 2),
          ]),
        );
        code.leave(0);
        code.ret();
      };
      const key = `test ${keys++}`;
      const step = { key, tasks: 1, args: ["a", "b", "c"] as const, bytes: 0, flops: 0, emit };
      const plan = { temps: [], kept: [], setup: [], steps: [step], scratchBytes: 0, flops: 0, bytes: 0 };
      harness.run(plan, isa, { a: a!.address, b: b!.address, c: c!.address });
      return { values: [...c!.values], ...reportOf(system, path) };
    }

    test.each<[Partial<typeof right>, string]>([
      [{}, ""],
      [{ order: 102 }, "order 102;"],
      [{ transA: -7 }, "transA -7;"],
      [{ m: 0 }, "extents of 0;"],
      [{ lda: 1 }, "lda 1;"],
      [{ alpha: -2.5 }, "alpha -2;"],
      [{ beta: 3e9 }, "beta 3000000000;"],
    ])("with %o is judged by the double", (change, violations) => {
      const result = call(change);
      expect(result).toMatchObject({ calls: 1, violations });
      if (violations === "") expect(result.values).toEqual([7, 10, 15, 22]);
    });

    test("finds the stack as C wants it, and leaves it as it was, whatever it is", () => {
      for (let bytes = 0; bytes < 64; bytes += 8) {
        const result = call({}, (code, call) => {
          code.enter(bytes + 8);
          for (let at = 0; at < bytes; at += 8) code.movMemImm(mem(gp.sp, at), at + 1);
          call();
          for (let at = 0; at < bytes; at += 8) {
            // What is not as it was is seen in the result.
            code.mov(gp.r1, mem(gp.sp, at));
            code.aluImm("sub", gp.r1, at + 1);
            code.alu("add", mem(r12), gp.r1);
          }
          code.leave(bytes + 8);
        });
        expect(result).toEqual({ values: [7, 10, 15, 22], calls: 1, violations: "" });
      }
    });
  });

  describe("is not asked for", () => {
    const plain = { dtype: "fp32", row: 64, column: 1, batch: [] } as const;
    const spec: GemmSpec = { m: 64, n: 64, k: 64, batch: [], a: plain, b: plain, c: plain };
    const by = (change: Partial<GemmSpec>, from = always) =>
      planGemm({ ...spec, ...change }, isa, 1, theDouble(from)).by;

    test.each<[string, Partial<GemmSpec>]>([
      ["fp16", { a: { ...plain, dtype: "fp16" } }],
      ["a result in fp16", { c: { ...plain, dtype: "fp16" } }],
      ["equal rows", { b: { ...plain, row: 0 } }],
      ["overlapping rows", { a: { ...plain, row: 63 } }],
      ["no unit stride", { a: { ...plain, row: 128, column: 2 } }],
    ])("%s", (_, change) => {
      expect(by({})).toBe("Accelerate");
      expect(by(change)).toBeUndefined();
    });

    test("less work than was worth it, by kind of product", () => {
      const from = { "few rows": Infinity, batch: 2 * 64 ** 3, single: 2 * 64 ** 3 + 1 };
      const batch = { ...plain, batch: [4096] };
      expect(by({}, from)).toBeUndefined();
      expect(by({}, { ...from, single: 2 * 64 ** 3 })).toBe("Accelerate");
      expect(by({ batch: [2], a: batch, b: batch, c: batch }, from)).toBe("Accelerate");
      expect(by({ m: 8 }, { ...from, single: 0 })).toBeUndefined();
    });
  });
});
