import { expect, test } from "vitest";
import { erf, roundHalfEven, sigmoid } from "./special.ts";

test("erf agrees with tabulated values", () => {
  // DLMF 7.23, Abramowitz and Stegun table 7.1.
  for (const [x, want] of [
    [0, 0],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [2, 0.9953222650189527],
    [3, 0.9999779095030014],
    [-1, -0.8427007929497149],
    [7, 1],
  ] as const) {
    expect(Math.abs(erf(x) - want)).toBeLessThan(2e-15);
  }
  expect(erf(Number.NaN)).toBeNaN();
  expect(erf(Number.POSITIVE_INFINITY)).toBe(1);
});

test("sigmoid overflows at neither end; rounding is to even", () => {
  expect(sigmoid(-800)).toBe(0);
  expect(sigmoid(800)).toBe(1);
  expect(sigmoid(0)).toBe(0.5);
  expect([0.5, 1.5, 2.5, -0.5, -1.5, 2.4, 2.6].map(roundHalfEven)).toEqual([0, 2, 2, -0, -2, 2, 3]);
});
