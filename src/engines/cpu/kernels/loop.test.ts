// Fused loops against their meaning: rows reduced once and again, values of rows, broadcast and strided memory, tasks that cut rows and columns.

import { afterAll, describe, expect, test } from "vitest";
import { extentOf, referenceNest, runNest } from "../../../../test/cpu/nest.ts";
import { fewer } from "../../../../test/emulation.ts";
import { makeRandom } from "../../../../test/plans/eager-engine.ts";
import type { DType } from "../../../core/dtype.ts";
import { openSystem } from "../../os/index.ts";
import type { Node } from "../expression.ts";
import { newCode } from "../isa/new-code.ts";
import { machineOf } from "../machines.ts";
import { Expressions } from "../math.ts";
import { Harness, isasOf, runs } from "./copy.harness.ts";
import { emitLoop, loopScratch } from "./loop.ts";
import type { LoopOperand, NestSpec } from "./nest.ts";

const harness = new Harness(await openSystem());
const isas = isasOf(harness.system);
afterAll(() => harness.dispose());

/** A random loop over whole numbers, all sums of which are exact. */
function randomLoop(random: () => number, vectors: number): NestSpec {
  const int = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  const pick = <T>(list: readonly T[]): T => list[int(0, list.length - 1)]!;
  const outer = Array.from({ length: int(0, 3) }, () => pick([1, 2, 3, 5, 17]));
  const columns = pick([1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 129, 300]);
  const dims = [...outer, columns];
  const inner = outer.length;
  const strides = (kind: "dense" | "row" | "column" | "gaps"): number[] => {
    const list: number[] = new Array(dims.length).fill(0);
    let next = kind === "row" ? 1 : columns;
    if (kind !== "row") list[inner] = 1;
    if (kind === "gaps") next += int(1, 5);
    if (kind !== "column")
      for (let axis = inner - 1; axis >= 0; axis--) {
        list[axis] = next;
        next *= dims[axis]!;
      }
    return list;
  };
  const v = new Expressions();
  const operands: LoopOperand[] = [];
  const elements: Node[] = [];
  const rows: Node[] = [v.f(2)];
  const inputs = int(1, 4);
  for (let k = 0; k < inputs; k++) {
    const dtype = pick<DType>(["fp32", "fp32", "fp16", "int32"]);
    const kind = pick(["dense", "dense", "row", "column", "gaps"] as const);
    operands.push({ dtype, strides: strides(kind) });
    const lane = dtype === "int32" ? v.toFloat(v.operand(k, "i32")) : v.operand(k, "f32");
    (kind === "row" ? rows : elements).push(lane);
  }
  if (elements.length === 0) {
    operands.push({ dtype: "fp32", strides: strides("dense") });
    elements.push(v.operand(operands.length - 1, "f32"));
  }
  // Everything stays between -8 and 8.
  const small = (node: Node) => v.max(v.min(node, v.f(8)), v.f(-8));
  const combine = (pool: readonly Node[], others: readonly Node[]): Node => {
    const [a, b] = [pick(pool), pick(others)];
    return small(
      pick([
        () => v.add(a, b),
        () => v.sub(a, b),
        () => v.mul(a, b),
        () => v.max(a, b),
        () => v.select(v.lt(a, b), b, v.neg(a)),
      ])(),
    );
  };
  const reductions: NestSpec["reductions"][number][] = [];
  const most = Math.min(5, vectors - 8);
  const steps = int(1, 12);
  for (let k = 0; k < steps; k++) {
    const kind = int(0, 3);
    if (kind === 0 && reductions.length < most) {
      const fold = pick(["sum", "max", "min"] as const);
      reductions.push({ kind: fold, value: pick(elements) });
      const result = v.operand(-reductions.length, "f32");
      rows.push(small(v.floor(v.mul(result, v.f(1 / 32)))));
    } else if (kind === 1) rows.push(combine(rows, rows));
    else elements.push(combine(elements, [...elements, ...rows]));
  }
  const stores: NestSpec["stores"][number][] = [];
  // Some loops change elements where a mask is true; the operand after the stored one is what it holds before.
  const masks = [elements, rows.slice(1)].flatMap((pool) =>
    pool.length > 0 ? [v.lt(pick(pool), v.f(int(-3, 3)))] : [],
  );
  const where = random() < 0.5 ? pick(masks) : undefined;
  const store = (dtype: DType, list: number[], value: Node) => {
    const operand = operands.length;
    operands.push({ dtype, strides: list });
    if (dtype === "bool") stores.push({ operand, value: v.lt(value, v.f(1)) });
    else {
      const stored = dtype === "int32" ? v.toInt(value) : value;
      if (where === undefined || list[inner] !== 1) return void stores.push({ operand, value: stored });
      operands.push({ dtype, strides: list });
      stores.push({ operand, value: v.select(where, stored, v.operand(operand + 1, stored.type)), where });
    }
  };
  for (let k = int(1, 3); k > 0; k--)
    store(pick<DType>(["fp32", "fp16", "int32", "bool"]), strides(pick(["dense", "gaps"])), pick(elements));
  const results = rows.filter((node) => node.kind !== "constant");
  if (results.length > 0 && inner > 0 && random() < 0.7)
    store(pick<DType>(["fp32", "fp16"]), strides("row"), pick(results));
  // Tasks: some outer dimensions, and blocks of the next one; of the columns only where no row is reduced.
  const last = reductions.length > 0 || operands.some(({ strides: list }) => list[inner] === 0) ? inner - 1 : inner;
  // A result may go past the caches, wherever its rows begin.
  const flagged = stores.map((each) => (random() < 0.3 ? { ...each, streams: true } : each));
  const given = { dims, operands, reductions, stores: flagged, inPlace: false };
  if (last < 0) {
    const wide = operands.map(({ dtype, strides: list }) => ({ dtype, strides: [0, ...list] }));
    return { ...given, dims: [1, ...dims], operands: wide, taskDims: 0, blocked: 0, block: 1 };
  }
  const blocked = int(0, last);
  const block = blocked === inner ? 64 * int(1, 3) : int(1, dims[blocked]!);
  return { ...given, taskDims: blocked, blocked, block };
}

describe.skipIf(!runs).each(isas)("loops on %s", (isa) => {
  test.each([1, 3])("compute what they mean, %i threads", (threads) => {
    for (let seed = 1; seed <= fewer(80); seed++) {
      const random = makeRandom(1000 * threads + seed);
      const spec = randomLoop(random, machineOf(newCode(isa)).vectors.length);
      const inside = [spec.dims.length - 1];
      const values = spec.operands.map((operand) =>
        Float32Array.from({ length: extentOf(spec.dims, operand) }, () => Math.floor(random() * 7) - 3),
      );
      for (const { operand, where } of spec.stores) {
        if (where !== undefined) values[operand]!.set(values[operand + 1]!);
        else values[operand]!.fill(spec.operands[operand]!.dtype === "bool" ? 1 : 99);
      }
      const given = values.map((each) => each.slice());
      referenceNest(spec, inside, values);
      const got = runNest(
        harness,
        isa,
        spec,
        given,
        (code) => emitLoop(machineOf(code), spec),
        loopScratch(spec),
        threads,
      );
      for (const [k, want] of values.entries()) {
        const at = want.findIndex((x, i) => x !== got[k]![i]);
        const { dims, operands, reductions } = spec;
        const facts = `seed ${1000 * threads + seed}: dims ${dims}, operand ${k} ${operands[k]!.dtype} ${operands[k]!.strides}, ${reductions.length} reductions`;
        if (at >= 0) expect.fail(`${facts}: element ${at} is ${got[k]![at]}, expected ${want[at]}`);
      }
    }
  });

  test.each([
    ["rows", [1, 0]],
    ["vectors", [100, 1]],
  ])("leave %s alone where the mask is false", (_, strides) => {
    const v = new Expressions();
    const where = v.lt(v.operand(0, "f32"), v.f(0));
    const spec: NestSpec = {
      dims: [4, 100],
      taskDims: 0,
      blocked: 0,
      block: 4,
      operands: [
        { dtype: "fp32", strides },
        { dtype: "fp16", strides: [100, 1] },
        { dtype: "fp16", strides: [100, 1] },
      ],
      reductions: [],
      stores: [{ operand: 1, value: v.select(where, v.f(5), v.operand(2, "f32")), where }],
      inPlace: false,
    };
    // The mask is true in row 2. Memory that does not hold what it should shows where nothing is written.
    const inRow = (row: number, yes: number, no: number) =>
      Float32Array.from({ length: 4 * row }, (_each, i) => (Math.floor(i / row) === 2 ? yes : no));
    const values = [inRow(strides[0]!, -1, 1), new Float32Array(400).fill(99), new Float32Array(400).fill(7)];
    const got = runNest(harness, isa, spec, values, (code) => emitLoop(machineOf(code), spec), 0, 1);
    expect(got[1]).toEqual(inRow(100, 5, 99));
  });

  test.each(["fp32", "fp16", "int32", "bool"] as const)("store %s past the caches where rows are aligned", (dtype) => {
    const v = new Expressions();
    const x = v.operand(0, "f32");
    const value = { fp32: x, fp16: x, int32: v.toInt(x), bool: v.lt(x, v.f(0)) }[dtype];
    // Every fourth row of fp32 begins at a multiple of 64 bytes; all have tails.
    const operand = (type: DType): LoopOperand => ({ dtype: type, strides: [100, 1] });
    const spec: NestSpec = {
      dims: [64, 100],
      taskDims: 0,
      blocked: 0,
      block: 7,
      operands: [operand("fp32"), operand(dtype)],
      reductions: [{ kind: "max", value: x }],
      stores: [{ operand: 1, value, streams: true }],
      inPlace: false,
    };
    const values = [Float32Array.from({ length: 6400 }, (_, i) => ((7 * i) % 13) - 6), new Float32Array(6400)];
    const got = runNest(harness, isa, spec, values, (code) => emitLoop(machineOf(code), spec), 0, 2);
    expect(got[1]).toEqual(values[0]!.map((each) => (dtype === "bool" ? Number(each < 0) : each)));
  });

  test("take as many reductions as registers allow, and say so beyond", () => {
    const v = new Expressions();
    for (const count of [1, 2, 3, 4, 5, 6]) {
      const x = v.operand(0, "f32");
      const reductions = Array.from({ length: count }, (_, i) => ({
        kind: "sum" as const,
        value: v.mul(x, v.f(i + 1)),
      }));
      const total = reductions.reduce<Node>((sum, _, i) => v.add(sum, v.operand(-1 - i, "f32")), v.f(0));
      const spec: NestSpec = {
        dims: [3, 200],
        taskDims: 0,
        blocked: 0,
        block: 2,
        operands: [
          { dtype: "fp32", strides: [200, 1] },
          { dtype: "fp32", strides: [1, 0] },
        ],
        reductions,
        stores: [{ operand: 1, value: total }],
        inPlace: false,
      };
      const values = [new Float32Array(600).fill(1), new Float32Array(3)];
      const got = runNest(harness, isa, spec, values, (code) => emitLoop(machineOf(code), spec), loopScratch(spec), 1);
      expect([...got[1]!]).toEqual(new Array(3).fill((200 * count * (count + 1)) / 2));
    }
  });
});
