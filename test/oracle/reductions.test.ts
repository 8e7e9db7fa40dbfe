// Checks the references of reductions, softmax and norms against hand-worked results.
import { expect, test } from "vitest";
import { tensorOf } from "./helpers.ts";
import { references } from "./reductions.ts";
import type { RefTensor } from "./types.ts";

function run(op: string, inputs: Record<string, RefTensor>, attrs: Record<string, unknown> = {}): RefTensor {
  const [result] = references[op]!(inputs, attrs);
  return result!;
}

function close(result: RefTensor, shape: readonly number[], values: readonly number[]): void {
  expect(result.shape).toEqual(shape);
  expect([...result.data]).toEqual(values.map((value) => expect.closeTo(value, 12)));
}

const counted = tensorOf([2, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

test("reductions over chosen axes", () => {
  close(run("reduce_sum", { x: counted }), [], [78]);
  close(run("reduce_sum", { x: counted }, { axes: [1] }), [2, 3], [5, 7, 9, 17, 19, 21]);
  close(run("reduce_sum", { x: counted }, { axes: [-1, 0], keepDims: true }), [1, 2, 1], [30, 48]);
  close(run("reduce_mean", { x: counted }, { axes: [0, 2] }), [2], [5, 8]);
  close(run("reduce_max", { x: counted }, { axes: [0] }), [2, 3], [7, 8, 9, 10, 11, 12]);
  close(run("reduce_min", { x: counted }, { axes: [0] }), [2, 3], [1, 2, 3, 4, 5, 6]);
  close(run("reduce_sum_square", { x: counted }, { axes: [2] }), [2, 2], [14, 77, 194, 365]);
});

test("norms and log-sum-exp", () => {
  const x = tensorOf([2, 2], [3, -4, -5, 12]);
  close(run("reduce_l1_norm", { x }, { axes: [1] }), [2], [7, 17]);
  close(run("reduce_l2_norm", { x }, { axes: [1] }), [2], [5, 13]);
  const large = tensorOf([2, 2], [1000, 1000, -1000, -1000]);
  close(run("reduce_log_sum_exp", { x: large }, { axes: [1] }), [2], [1000 + Math.LN2, -1000 + Math.LN2]);
});

test("arg-extrema take the first occurrence", () => {
  const x = tensorOf([2, 4], [1, 3, 3, 1, -2, -2, -7, -7]);
  close(run("reduce_argmax", { x }), [2], [1, 0]);
  close(run("reduce_argmin", { x }, { axis: 1, keepDims: true }), [2, 1], [0, 2]);
  close(run("reduce_argmax", { x }, { axis: 0 }), [4], [0, 0, 0, 0]);
});

test("softmax of logarithms gives their proportions", () => {
  const x = tensorOf([3], [Math.log(1), Math.log(2), Math.log(5)]);
  close(run("softmax", { x }), [3], [0.125, 0.25, 0.625]);
  close(run("softmax", { x: tensorOf([2, 2], [1000, 0, 1000, 0]) }, { axis: 0 }), [2, 2], [0.5, 0.5, 0.5, 0.5]);
});

test("layer_norm, instance_norm and batch_norm of numbers with a whole variance", () => {
  // Mean 3 and variance 4 in every row; epsilon 0.
  const rows = [1, 5, 1, 5];
  const gamma = tensorOf([4], [1, 2, 3, 4]);
  const beta = tensorOf([4], [10, 20, 30, 40]);
  const x = tensorOf([2, 4], [...rows, ...rows]);
  close(run("layer_norm", { x }, { axes: [-1], epsilon: 0 }), [2, 4], [-1, 1, -1, 1, -1, 1, -1, 1]);
  close(run("layer_norm", { x, gamma, beta }, { axes: [1], epsilon: 0 }), [2, 4], [9, 22, 27, 44, 9, 22, 27, 44]);
  // Variance 4 plus epsilon 12 is the square of 4.
  close(run("layer_norm", { x }, { axes: [0, 1], epsilon: 12 }), [2, 4], [-0.5, 0.5, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5]);
  const images = tensorOf([1, 2, 2, 2], [...rows, ...rows.map((value) => 10 * value)]);
  const scale = tensorOf([2], [1, 2]);
  const offset = tensorOf([2], [0, 7]);
  const instance = run("instance_norm", { x: images, gamma: scale, beta: offset }, { epsilon: 0 });
  close(instance, [1, 2, 2, 2], [-1, 1, -1, 1, 5, 9, 5, 9]);
  const batch = run(
    "batch_norm",
    { x: images, mean: tensorOf([2], [1, 30]), variance: tensorOf([2], [3, 99]), gamma: scale, beta: offset },
    { epsilon: 1 },
  );
  close(batch, [1, 2, 2, 2], [0, 2, 0, 2, 3, 11, 3, 11]);
});

test("l2_norm divides by the length", () => {
  close(
    run("l2_norm", { x: tensorOf([2, 1, 1, 2], [3, 4, 5, 12]) }, { epsilon: 0 }),
    [2, 1, 1, 2],
    [0.6, 0.8, 5 / 13, 12 / 13],
  );
  close(run("l2_norm", { x: tensorOf([1, 1, 2], [1, 2]) }, { epsilon: 4 }), [1, 1, 2], [1 / 3, 2 / 3]);
  close(run("l2_norm", { x: tensorOf([1, 2, 1], [0, 0]) }), [1, 2, 1], [0, 0]);
});
