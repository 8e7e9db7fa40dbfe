// Where C takes arguments: the offsets of `cblas_sgemm`'s on the stack, and what the conventions do not agree on.

import { describe, expect, test } from "vitest";
import type { CArgument } from "../code.ts";
import { placeArguments } from "./c-arguments.ts";

const int: CArgument = { int: 1 };
const float: CArgument = { float: 1 };
const pointer: CArgument = { pointer: 3 };
/** Order, TransA, TransB, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc. */
const sgemm = [int, int, int, int, int, int, float, pointer, int, pointer, int, float, pointer, int];

describe("placeArguments", () => {
  test("puts cblas_sgemm's as System V does on x86-64", () => {
    const { places, stackBytes } = placeArguments(sgemm, [7, 6, 2, 1, 8, 9]);
    expect(places.slice(0, 6).map(({ register }) => register)).toEqual([7, 6, 2, 1, 8, 9]);
    expect(places.filter(({ argument }) => "float" in argument).map(({ register }) => register)).toEqual([0, 1]);
    const onStack = places.filter(({ register }) => register === undefined);
    expect(onStack.map(({ stack }) => stack)).toEqual([0, 8, 16, 24, 32, 40]);
    expect(stackBytes).toBe(48);
  });

  test("puts them as AAPCS64 and Apple do on arm64", () => {
    const { places, stackBytes } = placeArguments(sgemm, [0, 1, 2, 3, 4, 5, 6, 7]);
    expect(places[7]).toEqual({ argument: pointer, register: 6, stack: 0 });
    expect(places[8]).toEqual({ argument: int, register: 7, stack: 0 });
    // Apple: B is 8 bytes at 0, ldb 4 at 8, C 8 at the next multiple of 8, ldc 4 at 24.
    const onStack = places.filter(({ register }) => register === undefined);
    expect(onStack.map(({ argument, stack }) => [argument, stack])).toEqual([
      [pointer, 0],
      [int, 8],
      [pointer, 16],
      [int, 24],
    ]);
    expect(stackBytes).toBe(32);
  });

  test("refuses what would lie elsewhere on Apple's arm64, and floats on the stack", () => {
    expect(() => placeArguments([int, int], [])).toThrow("two ints in a row on the stack");
    expect(() =>
      placeArguments(
        Array.from({ length: 9 }, () => float),
        [],
      ),
    ).toThrow("a float on the stack");
  });

  test("needs no stack for what fits registers", () => {
    expect(placeArguments([pointer, float, int], [7, 6]).stackBytes).toBe(0);
  });
});
