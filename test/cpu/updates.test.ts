// State of which a step changes a part: the rest is neither read nor written.

import { afterAll, describe, expect, test } from "vitest";
import { compile, concat, type DType, type Engine, input, NDArray, parameter, type Tensor } from "../../src/index.ts";
import { difference, instructionSets, openCpu, rowsOf } from "./compare.ts";

const engines: Engine[] = [];
for (const isa of await instructionSets()) engines.push(await openCpu({ isa, threads: 2 }));
afterAll(() => {
  for (const engine of engines) engine[Symbol.dispose]();
});

const [rows, columns] = [24, 40];
const whole = (size: number, start: number) =>
  Float32Array.from({ length: size }, (_, i) => ((i * 7 + start) % 11) - 5);
const hot = Float32Array.from({ length: rows }, (_, i) => Number(i === 5));

/** State that becomes `made(old)`, with what it needs to run. */
function program(dtype: DType, made: (old: Tensor, fresh: Tensor, mask: Tensor, each: Tensor) => Tensor) {
  const old = parameter(whole(rows * columns, 3), [rows, columns], { name: "old", dtype });
  const fresh = input([rows, columns], { name: "fresh", dtype });
  const mask = input([rows, 1], { name: "mask", dtype: "fp32" }).greater(0.5);
  const each = input([rows, columns], { name: "each", dtype: "fp32" }).greater(0.5);
  const next = made(old, fresh, mask, each);
  const feeds = { fresh: whole(rows * columns, 1), mask: hot, each: whole(rows * columns, 4) };
  return { old, program: { outputs: { y: next.neg() }, update: new Map([[old, next]]), feeds } };
}

/** The lower half of the rows above the upper one. */
function turned(x: Tensor): Tensor {
  const half = (row: number) => x.sliceBySize([row, 0], [rows / 2, columns]);
  return concat([half(rows / 2), half(0)], 0);
}

describe.each(["fp32", "fp16", "int32"] as const)("%s state that is replaced", (dtype) => {
  test.each<[string, Parameters<typeof program>[1]]>([
    ["in rows", (old, fresh, mask) => mask.select(fresh, old)],
    ["outside rows", (old, fresh, mask) => mask.select(old, fresh)],
    ["in elements", (old, fresh, _mask, each) => each.select(fresh, old)],
    ["outside elements", (old, fresh, _mask, each) => each.select(old, fresh)],
    ["by values made of the old ones", (old, fresh, mask) => mask.select(old.mul(fresh), old)],
    ["by itself at another place", (old, fresh, mask) => mask.select(fresh, turned(old))],
    ["by itself outside rows of what lies elsewhere", (old, _fresh, mask) => mask.select(turned(old), old)],
    ["and changed again", (old, fresh, mask, each) => each.select(mask.select(fresh, old), old).add(1)],
  ])("%s is as on the simulator", async (_, made) => {
    const given = program(dtype, made).program;
    const want = await rowsOf(given, "sim");
    for (const engine of engines) {
      const found = difference(await rowsOf(given, engine), want);
      expect(found, engine.reason).toBeUndefined();
    }
  });
});

test("rows that do not change keep even the bits of a signaling NaN, which a load and a store would quiet", async () => {
  for (const engine of engines) {
    const { old, program: given } = program("fp16", (state, fresh, mask) => mask.select(fresh, state));
    using compiled = await compile({}, { update: given.update, engine });
    const signaling = new NDArray<"fp16", "bits">(
      "fp16",
      [rows, columns],
      new Uint16Array(rows * columns).fill(0x7d00),
    );
    compiled.state.write(old, signaling as unknown as NDArray);
    compiled.runSync({ fresh: given.feeds.fresh, mask: given.feeds.mask });
    const { data } = compiled.state.read(old, { as: "bits" });
    expect([data[0], data[rows * columns - 1]], engine.reason).toEqual([0x7d00, 0x7d00]);
    expect(data[5 * columns]).not.toBe(0x7d00);
  }
});
