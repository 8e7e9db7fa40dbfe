// Checks the references of the movement operators against results worked out by hand.
import { expect, test } from "vitest";
import { tensorOf } from "./helpers.ts";
import { references } from "./movement.ts";
import type { RefInputs } from "./types.ts";

function runAll(
  name: string,
  inputs: RefInputs,
  attrs: Record<string, unknown>,
): { shape: number[]; data: number[] }[] {
  return references[name]!(inputs, attrs).map((result) => ({ shape: [...result.shape], data: [...result.data] }));
}

function run(
  name: string,
  inputs: RefInputs,
  attrs: Record<string, unknown> = {},
): { shape: number[]; data: number[] } {
  return runAll(name, inputs, attrs)[0]!;
}

const row = tensorOf([4], [1, 2, 3, 4]);
const grid = tensorOf([2, 3], [1, 2, 3, 4, 5, 6]);
const cube = tensorOf([2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8]);

test("shapes change and elements stay", () => {
  expect(run("reshape", { x: grid }, { shape: [3, -1] })).toEqual({ shape: [3, 2], data: [1, 2, 3, 4, 5, 6] });
  expect(run("expand_dims", { x: grid }, { axes: [-1, 0] }).shape).toEqual([1, 2, 3, 1]);
  expect(run("squeeze", { x: tensorOf([1, 2, 1], [1, 2]) }).shape).toEqual([2]);
  expect(run("squeeze", { x: tensorOf([1, 2, 1], [1, 2]) }, { axes: [-1] }).shape).toEqual([1, 2]);
});

test("transpose takes axis perm[i] of x as axis i", () => {
  expect(run("transpose", { x: grid }, { perm: [1, 0] })).toEqual({ shape: [3, 2], data: [1, 4, 2, 5, 3, 6] });
  const x = tensorOf([1, 2, 3], [1, 2, 3, 4, 5, 6]);
  expect(run("transpose", { x }, { perm: [2, 0, -2] })).toEqual({ shape: [3, 1, 2], data: [1, 4, 2, 5, 3, 6] });
});

test("slice_by_index follows NumPy", () => {
  const tail = run("slice_by_index", { x: grid }, { begin: [0, -2], end: [2, 9] });
  expect(tail).toEqual({ shape: [2, 2], data: [2, 3, 5, 6] });
  const everyOther = run("slice_by_index", { x: grid }, { begin: [1, 0], end: [2, 3], stride: [1, 2] });
  expect(everyOther).toEqual({ shape: [1, 2], data: [4, 6] });
  const column = { begin: [1, -1], end: [0, 0], beginMask: [true, false], endMask: [true, false] };
  expect(run("slice_by_index", { x: grid }, { ...column, squeezeMask: [false, true] })).toEqual({
    shape: [2],
    data: [3, 6],
  });
});

test("slice_by_size reads -1 as the rest", () => {
  expect(run("slice_by_size", { x: grid }, { begin: [0, 1], size: [1, -1] })).toEqual({ shape: [1, 2], data: [2, 3] });
});

test("concat joins or takes turns", () => {
  const values = [tensorOf([2, 2], [1, 2, 3, 4]), tensorOf([2, 2], [5, 6, 7, 8])];
  expect(run("concat", { values }, { axis: -1 }).data).toEqual([1, 2, 5, 6, 3, 4, 7, 8]);
  expect(run("concat", { values }, { axis: 0, interleave: true }).data).toEqual([1, 2, 5, 6, 3, 4, 7, 8]);
  expect(run("concat", { values }, { axis: 1, interleave: true }).data).toEqual([1, 5, 2, 6, 3, 7, 4, 8]);
  expect(run("stack", { values }, { axis: 2 })).toEqual({ shape: [2, 2, 2], data: [1, 5, 2, 6, 3, 7, 4, 8] });
});

test("split undoes concat", () => {
  expect(runAll("split", { x: grid }, { splitSizes: [1, 2], axis: 1 })).toEqual([
    { shape: [2, 1], data: [1, 4] },
    { shape: [2, 2], data: [2, 3, 5, 6] },
  ]);
  expect(runAll("split", { x: row }, { numSplits: 2, axis: -1 }).map((part) => part.data)).toEqual([
    [1, 2],
    [3, 4],
  ]);
});

test("tile repeats whole tensors", () => {
  const x = tensorOf([1, 2], [1, 2]);
  expect(run("tile", { x }, { reps: [2, 2] })).toEqual({ shape: [2, 4], data: [1, 2, 1, 2, 1, 2, 1, 2] });
});

test("pad fills the last axes", () => {
  expect(run("pad", { x: row }, { pad: [1, 2], constantVal: 9 }).data).toEqual([9, 1, 2, 3, 4, 9, 9]);
  expect(run("pad", { x: row }, { pad: [2, 1], mode: "reflect" }).data).toEqual([3, 2, 1, 2, 3, 4, 3]);
  expect(run("pad", { x: row }, { pad: [2, 1], mode: "replicate" }).data).toEqual([1, 1, 1, 2, 3, 4, 4]);
  expect(run("pad", { x: grid }, { pad: [0, 1] })).toEqual({ shape: [2, 4], data: [1, 2, 3, 0, 4, 5, 6, 0] });
});

test("gather puts the axes of indices in the place of the axis", () => {
  const indices = tensorOf([2, 1], [-1, 0]);
  expect(run("gather", { x: grid, indices }, { axis: 1 })).toEqual({ shape: [2, 2, 1], data: [3, 1, 6, 4] });
  expect(run("gather", { x: row, indices: tensorOf([], [2]) })).toEqual({ shape: [], data: [3] });
});

test("scatter adds or replaces rows", () => {
  // The example of the MIL documentation.
  const indices = tensorOf([2], [1, 0]);
  const updates = tensorOf([2, 3], [5, 6, 7, 8, 9, 10]);
  expect(run("scatter", { data: grid, indices, updates }).data).toEqual([9, 11, 13, 9, 11, 13]);
  expect(run("scatter", { data: grid, indices, updates }, { mode: "update" }).data).toEqual([8, 9, 10, 5, 6, 7]);
  const twice = { data: grid, indices: tensorOf([2], [2, 2]), updates: tensorOf([2, 2], [10, 20, 30, 40]) };
  expect(run("scatter", twice, { axis: 1 }).data).toEqual([1, 2, 33, 4, 5, 76]);
});

test("cumsum in every direction", () => {
  expect(run("cumsum", { x: row }).data).toEqual([1, 3, 6, 10]);
  expect(run("cumsum", { x: row }, { exclusive: true }).data).toEqual([0, 1, 3, 6]);
  expect(run("cumsum", { x: row }, { reverse: true }).data).toEqual([10, 9, 7, 4]);
  expect(run("cumsum", { x: row }, { exclusive: true, reverse: true }).data).toEqual([9, 7, 4, 0]);
  expect(run("cumsum", { x: cube }, { axis: 1 }).data).toEqual([1, 2, 4, 6, 5, 6, 12, 14]);
});

test("upsample_nearest_neighbor repeats pixels", () => {
  const x = tensorOf([1, 1, 1, 2], [1, 2]);
  const result = run("upsample_nearest_neighbor", { x }, { scaleFactorHeight: 2, scaleFactorWidth: 3 });
  expect(result).toEqual({ shape: [1, 1, 2, 6], data: [1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2] });
});

test("pixel_shuffle and pixel_unshuffle use PyTorch's order", () => {
  const x = tensorOf([1, 4, 1, 2], [1, 2, 3, 4, 5, 6, 7, 8]);
  const shuffled = run("pixel_shuffle", { x }, { upscaleFactor: 2 });
  expect(shuffled).toEqual({ shape: [1, 1, 2, 4], data: [1, 3, 2, 4, 5, 7, 6, 8] });
  const back = run("pixel_unshuffle", { x: tensorOf([1, 1, 2, 4], shuffled.data) }, { downscaleFactor: 2 });
  expect(back).toEqual({ shape: [1, 4, 1, 2], data: [1, 2, 3, 4, 5, 6, 7, 8] });
});
