// Checks the references of the contractions and pools against results worked out by hand.
import { expect, test } from "vitest";
import { references } from "./contractions.ts";
import { tensorOf } from "./helpers.ts";
import type { RefInputs } from "./types.ts";

function run(
  name: string,
  inputs: RefInputs,
  attrs: Record<string, unknown> = {},
): { shape: number[]; data: number[] } {
  const [result] = references[name]!(inputs, attrs);
  return { shape: [...result!.shape], data: [...result!.data] };
}

const image = tensorOf([1, 1, 3, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9]);
const line = tensorOf([1, 1, 5], [1, 2, 3, 4, 5]);

test("matmul transposes and broadcasts", () => {
  const x = tensorOf([2, 3], [1, 2, 3, 4, 5, 6]);
  const y = tensorOf([3, 2], [1, 0, 2, 1, 0, 3]);
  expect(run("matmul", { x, y })).toEqual({ shape: [2, 2], data: [5, 11, 14, 23] });
  expect(run("matmul", { x: y, y: x }, { transposeX: true, transposeY: true }).data).toEqual([5, 14, 11, 23]);
  const pair = tensorOf([2, 1, 3], [1, 1, 1, 0, 0, 2]);
  expect(run("matmul", { x: pair, y })).toEqual({ shape: [2, 1, 2], data: [3, 4, 0, 6] });
});

test("linear multiplies by the transposed weight", () => {
  const x = tensorOf([1, 2], [3, 4]);
  const weight = tensorOf([3, 2], [1, 0, 0, 1, 2, -1]);
  const bias = tensorOf([3], [10, 20, 30]);
  expect(run("linear", { x, weight, bias })).toEqual({ shape: [1, 3], data: [13, 24, 32] });
});

test("conv correlates without flipping the kernel", () => {
  const weight = tensorOf([1, 1, 2, 2], [1, 2, 3, 4]);
  // 1*1 + 2*2 + 3*4 + 4*5 = 37
  expect(run("conv", { x: image, weight })).toEqual({ shape: [1, 1, 2, 2], data: [37, 47, 67, 77] });
  const attrs = { padType: "custom", pad: [1, 0, 1, 0], strides: [2, 2] };
  expect(run("conv", { x: image, weight }, attrs).data).toEqual([4, 18, 36, 77]);
});

test("conv places the odd element of the same padding", () => {
  const weight = tensorOf([1, 1, 2], [1, 10]);
  expect(run("conv", { x: line, weight }, { padType: "same" }).data).toEqual([21, 32, 43, 54, 5]);
  expect(run("conv", { x: line, weight }, { padType: "same_lower" }).data).toEqual([10, 21, 32, 43, 54]);
  expect(run("conv", { x: line, weight }, { padType: "same", strides: [2] }).data).toEqual([21, 43, 5]);
  expect(run("conv", { x: line, weight }, { dilations: [3] }).data).toEqual([41, 52]);
});

test("conv keeps groups apart", () => {
  const x = tensorOf([1, 4, 1], [1, 2, 3, 4]);
  const weight = tensorOf([2, 2, 1], [1, 10, 1, 10]);
  const bias = tensorOf([2], [100, 200]);
  expect(run("conv", { x, weight, bias }, { groups: 2 }).data).toEqual([121, 243]);
});

test("conv_transpose spreads the kernel", () => {
  const x = tensorOf([1, 1, 2], [1, 2]);
  const weight = tensorOf([1, 1, 3], [1, 10, 100]);
  expect(run("conv_transpose", { x, weight }).data).toEqual([1, 12, 120, 200]);
  expect(run("conv_transpose", { x, weight }, { strides: [2] }).data).toEqual([1, 10, 102, 20, 200]);
  const attrs = { strides: [2], padType: "custom", pad: [1, 2] };
  expect(run("conv_transpose", { x, weight }, attrs)).toEqual({ shape: [1, 1, 2], data: [10, 102] });
  expect(run("conv_transpose", { x, weight }, { dilations: [2] }).data).toEqual([1, 2, 10, 20, 100, 200]);
});

test("conv_transpose keeps groups apart", () => {
  const x = tensorOf([1, 2, 1], [3, 5]);
  const weight = tensorOf([2, 2, 1], [1, 10, 100, 1000]);
  expect(run("conv_transpose", { x, weight }).data).toEqual([503, 5030]);
  expect(run("conv_transpose", { x, weight }, { groups: 2 }).data).toEqual([3, 30, 500, 5000]);
});

test("max_pool never takes the padding", () => {
  const x = tensorOf([1, 1, 3], [-3, -1, -2]);
  expect(run("max_pool", { x }, { kernelSizes: [2], padType: "custom", pad: [1, 1] }).data).toEqual([-3, -1, -1, -2]);
  expect(run("max_pool", { x: image }, { kernelSizes: [2, 3] }).data).toEqual([6, 9]);
});

test("pools drop windows that start in the end padding", () => {
  const attrs = { kernelSizes: [2], strides: [2], padType: "custom", pad: [1, 1], ceilMode: true };
  // Padded to 0 1 2 3 4 5 0: the fourth window would hold the end padding alone.
  expect(run("max_pool", { x: line }, attrs).data).toEqual([1, 3, 5]);
  expect(run("max_pool", { x: line }, { kernelSizes: [2], strides: [2], ceilMode: true }).data).toEqual([2, 4, 5]);
  expect(run("max_pool", { x: line }, { kernelSizes: [2], strides: [2] }).data).toEqual([2, 4]);
});

test("avg_pool counts the padding but nothing beyond it", () => {
  const padded = { kernelSizes: [2], padType: "custom", pad: [1, 1] };
  expect(run("avg_pool", { x: line }, padded).data).toEqual([0.5, 1.5, 2.5, 3.5, 4.5, 2.5]);
  const excluding = { ...padded, excludePaddingFromAverage: true };
  expect(run("avg_pool", { x: line }, excluding).data).toEqual([1, 1.5, 2.5, 3.5, 4.5, 5]);
  // Padded to 0 1 2 3 4 5 0: the second window holds 5 and one padded zero, and hangs over the end by 2.
  const over = { kernelSizes: [4], strides: [5], padType: "custom", pad: [1, 1], ceilMode: true };
  expect(run("avg_pool", { x: line }, over).data).toEqual([1.5, 2.5]);
  expect(run("avg_pool", { x: line }, { kernelSizes: [2], strides: [2], ceilMode: true }).data).toEqual([1.5, 3.5, 5]);
});
