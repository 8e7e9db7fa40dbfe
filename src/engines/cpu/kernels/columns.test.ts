// Column reductions against their meaning: any number of outer and reduced dimensions, strided and broadcast operands, expressions before and after.

import { afterAll, describe, expect, test } from "vitest";
import { extentOf, referenceNest, runNest } from "../../../../test/cpu/nest.ts";
import { fewer } from "../../../../test/emulation.ts";
import { makeRandom } from "../../../../test/plans/eager-engine.ts";
import type { DType } from "../../../core/dtype.ts";
import { openSystem } from "../../os/index.ts";
import { machineOf } from "../machines.ts";
import { Expressions } from "../math.ts";
import { type ColumnSpec, emitColumns } from "./columns.ts";
import { Harness, isasOf, runs } from "./copy.harness.ts";
import type { LoopOperand, NestSpec } from "./nest.ts";

const harness = new Harness(await openSystem());
const isas = isasOf(harness.system);
afterAll(() => harness.dispose());

function randomColumns(random: () => number): { spec: ColumnSpec; reduced: number[] } {
  const int = (low: number, high: number) => low + Math.floor(random() * (high - low + 1));
  const pick = <T>(list: readonly T[]): T => list[int(0, list.length - 1)]!;
  const outer = Array.from({ length: int(0, 2) }, () => pick([2, 3, 5]));
  const down = Array.from({ length: int(1, 2) }, () => pick([2, 3, 9, 33]));
  const columns = pick([2, 7, 8, 15, 16, 17, 33, 63, 64, 65, 127, 128, 130, 300]);
  const dims = [...outer, ...down, columns];
  const reduced = down.map((_, i) => outer.length + i);
  const strides = (axes: readonly number[], gap: number): number[] => {
    const list: number[] = new Array(dims.length).fill(0);
    let next = 1;
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      if (!axes.includes(axis)) continue;
      list[axis] = next;
      next = next * dims[axis]! + (axis === dims.length - 1 ? gap : 0);
    }
    return list;
  };
  const all = [...dims.keys()];
  const kept = all.filter((axis) => !reduced.includes(axis));
  const last = dims.length - 1;
  const v = new Expressions();
  const operands: LoopOperand[] = [];
  const lane = (dtype: DType, list: number[]) => {
    operands.push({ dtype, strides: list });
    const at = operands.length - 1;
    return dtype === "int32" ? v.toFloat(v.operand(at, "i32")) : v.operand(at, "f32");
  };
  const dtype = () => pick<DType>(["fp32", "fp32", "fp16", "int32"]);
  let value = lane(dtype(), strides(all, pick([0, 0, 3])));
  if (random() < 0.5) value = v.mul(value, lane(dtype(), strides(pick([[last], reduced, kept, all]), 0)));
  if (random() < 0.5) value = v.add(value, lane(dtype(), strides(reduced, 0)));
  const kinds = ["sum", "max", "min"] as const;
  const reductions = Array.from({ length: int(1, 2) }, () => ({ kind: pick(kinds), value }));
  if (reductions.length > 1) reductions[1] = { kind: pick(kinds), value: v.neg(value) };
  const stores: NestSpec["stores"][number][] = [];
  for (const [i] of reductions.entries()) {
    let result = v.operand(-1 - i, "f32");
    if (random() < 0.5) result = v.add(v.mul(result, v.f(2)), v.f(1));
    stores.push({ operand: operands.length, value: result });
    operands.push({ dtype: "fp32", strides: strides(kept, pick([0, 4])) });
  }
  const spec = {
    dims,
    taskDims: int(0, outer.length),
    outer: outer.length,
    blocked: last,
    block: 64,
    operands,
    reductions,
    stores,
    inPlace: false,
  };
  return { spec, reduced };
}

describe.skipIf(!runs).each(isas)("column reductions on %s", (isa) => {
  test.each([1, 3])("compute what they mean, %i threads", (threads) => {
    for (let seed = 1; seed <= fewer(60); seed++) {
      const random = makeRandom(5000 * threads + seed);
      const { spec, reduced } = randomColumns(random);
      const values = spec.operands.map((operand) =>
        Float32Array.from({ length: extentOf(spec.dims, operand) }, () => Math.floor(random() * 7) - 3),
      );
      const given = values.map((each) => each.slice());
      referenceNest(spec, reduced, values);
      const got = runNest(harness, isa, spec, given, (code) => emitColumns(machineOf(code), spec), 0, threads);
      for (const [k, want] of values.entries()) {
        const at = want.findIndex((x, i) => x !== got[k]![i]);
        const facts = `seed ${5000 * threads + seed}: dims ${spec.dims}, operand ${k} ${spec.operands[k]!.strides}`;
        if (at >= 0) expect.fail(`${facts}: element ${at} is ${got[k]![at]}, expected ${want[at]}`);
      }
    }
  });
});
