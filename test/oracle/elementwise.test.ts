// Checks the elementwise references of the oracle against published values and hand-worked results.
import { expect, test } from "vitest";
import { erf, references } from "./elementwise.ts";
import { tensorOf } from "./helpers.ts";
import type { RefTensor } from "./types.ts";

function run(op: string, inputs: Record<string, RefTensor>, attrs: Record<string, unknown> = {}): RefTensor {
  const [result] = references[op]!(inputs, attrs);
  return result!;
}

function unary(op: string, values: readonly number[], attrs: Record<string, unknown> = {}): number[] {
  return [...run(op, { x: tensorOf([values.length], values) }, attrs).data];
}

function binary(op: string, x: readonly number[], y: readonly number[]): number[] {
  return [...run(op, { x: tensorOf([x.length], x), y: tensorOf([y.length], y) }).data];
}

test("erf agrees with published tables", () => {
  const table: readonly (readonly [number, number])[] = [
    [0, 0],
    [0.02, 0.022564574691845],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [2, 0.9953222650189527],
    [3, 0.9999779095030014],
    [3.5, 0.9999992569016276],
    [5.5, 1],
    [7, 1],
    [-1, -0.8427007929497149],
  ];
  for (const [x, value] of table) expect(erf(x)).toBeCloseTo(value, 13);
});

test("activations agree with known values", () => {
  expect(unary("sigmoid", [0, 1, -1])[1]).toBeCloseTo(0.7310585786300049, 15);
  expect(unary("silu", [1, -1])[1]).toBeCloseTo(-0.2689414213699951, 15);
  expect(unary("softplus", [0, 1, 1000])[0]).toBeCloseTo(Math.LN2, 15);
  expect(unary("softplus", [0, 1, 1000])[1]).toBeCloseTo(1.3132616875182228, 15);
  expect(unary("softplus", [0, 1, 1000])[2]).toBe(1000);
  expect(unary("gelu", [1])[0]).toBeCloseTo(0.8413447460685429, 13);
  expect(unary("gelu", [-1])[0]).toBeCloseTo(-0.15865525393145707, 13);
  expect(unary("gelu", [1], { mode: "TANH_APPROXIMATION" })[0]).toBeCloseTo(0.8411919906082768, 13);
  expect(unary("gelu", [1], { mode: "SIGMOID_APPROXIMATION" })[0]).toBeCloseTo(0.8457957659328212, 13);
  expect(unary("elu", [-1, 2])).toEqual([expect.closeTo(-0.6321205588285577, 15), 2]);
  expect(unary("elu", [-1], { alpha: 0.5 })[0]).toBeCloseTo(-0.31606027941427883, 15);
  expect(unary("leaky_relu", [-2, 3])).toEqual([-0.02, 3]);
  expect(unary("clip", [-3, 0.5, 9], { alpha: -1, beta: 6 })).toEqual([-1, 0.5, 6]);
});

test("rounding functions at halves", () => {
  expect(unary("round", [-2.5, -1.5, 0.5, 1.5, 2.5, 2.4, -2.6])).toEqual([-2, -2, 0, 2, 2, 2, -3]);
  expect(unary("floor", [-0.5, 1.5])).toEqual([-1, 1]);
  expect(unary("ceil", [-1.5, 0.5])).toEqual([-1, 1]);
});

test("epsilon is added to the operand", () => {
  expect(unary("log", [0.5], { epsilon: 0.5 })).toEqual([0]);
  expect(unary("rsqrt", [3.5], { epsilon: 0.5 })).toEqual([0.5]);
  expect(unary("inverse", [3.5], { epsilon: 0.5 })).toEqual([0.25]);
  expect(unary("inverse", [-4])).toEqual([-0.25]);
});

test("arithmetic broadcasts as NumPy does", () => {
  const column = tensorOf([2, 1], [10, 20]);
  const row = tensorOf([3], [1, 2, 3]);
  const difference = run("sub", { x: column, y: row });
  expect(difference.shape).toEqual([2, 3]);
  expect([...difference.data]).toEqual([9, 8, 7, 19, 18, 17]);
  const scalar = run("pow", { x: row, y: tensorOf([], [2]) });
  expect(scalar.shape).toEqual([3]);
  expect([...scalar.data]).toEqual([1, 4, 9]);
  expect(run("add", { x: tensorOf([], [1]), y: tensorOf([], [2]) })).toEqual(tensorOf([], [3]));
});

test("comparisons, select and cast", () => {
  expect(binary("less", [1, 2, 3], [2, 2, 2])).toEqual([1, 0, 0]);
  expect(binary("less_equal", [1, 2, 3], [2, 2, 2])).toEqual([1, 1, 0]);
  expect(binary("greater", [1, 2, 3], [2, 2, 2])).toEqual([0, 0, 1]);
  expect(binary("greater_equal", [1, 2, 3], [2, 2, 2])).toEqual([0, 1, 1]);
  expect(binary("equal", [1, 2, 0], [2, 2, -0])).toEqual([0, 1, 1]);
  expect(binary("not_equal", [1, 2, 0], [2, 2, -0])).toEqual([1, 0, 0]);
  const chosen = run("select", {
    cond: tensorOf([2, 1], [1, 0]),
    a: tensorOf([], [7]),
    b: tensorOf([2], [1, 2]),
  });
  expect(chosen).toEqual(tensorOf([2, 2], [7, 7, 1, 2]));
  expect(unary("cast", [-2.7, 2.7, 5], { dtype: "int32" })).toEqual([-2, 2, 5]);
  expect(unary("cast", [-2.7, 0, 1e-9], { dtype: "bool" })).toEqual([1, 0, 1]);
});
