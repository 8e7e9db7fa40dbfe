import { expect, test } from "vitest";
import {
  broadcastShapes,
  broadcastStrides,
  checkShape,
  normalizeAxes,
  normalizeAxis,
  reduceShape,
  stridesOf,
} from "./shape.ts";

test("broadcasting follows NumPy", () => {
  expect(broadcastShapes([2, 1, 3], [4, 1])).toEqual([2, 4, 3]);
  expect(broadcastShapes([], [5])).toEqual([5]);
  expect(broadcastShapes([2], [3])).toBeUndefined();
  expect(broadcastStrides([4, 1], [2, 4, 3])).toEqual([0, 1, 0]);
  expect(stridesOf([2, 3, 4])).toEqual([12, 4, 1]);
});

test("axes count from either end and name what is wrong", () => {
  expect(normalizeAxis("f", -1, 3)).toBe(2);
  expect(normalizeAxes("f", [-1, 0], 3)).toEqual([0, 2]);
  expect(() => normalizeAxis("f", 3, 3)).toThrow("f: axis 3 is outside [-3, 2] for rank 3");
  expect(() => normalizeAxes("f", [1, -2], 3)).toThrow("axis 1 is named twice");
  expect(reduceShape([2, 3, 4], [1], true)).toEqual([2, 1, 4]);
  expect(reduceShape([2, 3, 4], [0, 2], false)).toEqual([3]);
});

test("impossible shapes are refused before anything is allocated", () => {
  expect(() => checkShape("x", [1, 1, 1, 1, 1, 1])).toThrow("rank 6");
  expect(() => checkShape("x", [2, 0])).toThrow("extent 0");
  expect(() => checkShape("x", [1.5])).toThrow("extent 1.5");
  expect(() => checkShape("x", [65536, 65536])).toThrow("more than 2147483647 elements");
});
