// Legalization as a whole: ports, refusals, and programs that must fit every chip.

import { describe, expect, it } from "vitest";
import { dialectOf, feedsOf, operators, programOf, run } from "../../test/passes/helpers.ts";
import { chips } from "../chips/index.ts";
import { UnsupportedError } from "../core/errors.ts";
import { input } from "../index.ts";
import { verifyProgram } from "../ir/program.ts";
import { legalize } from "./legalize.ts";

describe("ports", () => {
  it("become [1] where they were scalars, names and order as before, with the same bits", async () => {
    const x = input([], { name: "x" });
    const y = input([2, 3], { name: "y" });
    const program = programOf({ s: x.mul(2), t: y.sum().add(x), u: y.mul(x) });
    const legal = legalize(program, chips.h13);
    verifyProgram(legal);
    expect(legal.inputs.map(({ name, value }) => [name, legal.values[value]!.shape])).toEqual([
      ["x", [1]],
      ["y", [2, 3]],
    ]);
    expect(legal.outputs.map(({ name, value }) => [name, legal.values[value]!.shape])).toEqual([
      ["s", [1]],
      ["t", [1]],
      ["u", [2, 3]],
    ]);
    const feeds = feedsOf(program);
    expect(await run(legal, feeds)).toEqual(await run(program, feeds));
  });

  it("get operators of their own where two are one value or one is an input", async () => {
    const x = input([3], { name: "x" });
    const y = x.relu();
    const program = programOf({ a: y, b: y, c: x });
    for (const identity of [true, false]) {
      const legal = legalize(program, chips.h17s, dialectOf(true, { identity }));
      verifyProgram(legal);
      const copy = identity ? "identity" : "mul";
      expect(operators(legal).sort()).toEqual(["relu", copy, copy].sort());
      const feeds = feedsOf(program);
      expect(await run(legal, feeds)).toEqual(await run(program, feeds));
    }
  });
});

describe("refusals", () => {
  it("name operator, shapes, limit and remedy", () => {
    const x = input([1, 2, 4, 40], { name: "x" });
    const program = programOf({ y: x.maxPool([1, 40]) });
    expect(() => legalize(program, chips.h13)).toThrow(UnsupportedError);
    expect(() => legalize(program, chips.h13)).toThrow(
      "legalize: max_pool on h13: the window is 40 wide, the limit is 29: x is fp16[1, 2, 4, 40]; pool twice with smaller windows",
    );
  });
});
