// Legalization as a whole: ports, refusals, and programs that must fit every chip.

import { describe, expect, it } from "vitest";
import { milText } from "../../test/cli/anekit.ts";
import { randomGraph } from "../../test/fuzz/generate.ts";
import { dialectOf, feedsOf, operators, planOf, programOf, run } from "../../test/passes/helpers.ts";
import { chips } from "../chips/index.ts";
import { UnsupportedError } from "../core/errors.ts";
import { compile, constant, input, parameter, type Tensor } from "../index.ts";
import { notOverwritable } from "../ir/plan.ts";
import { verifyProgram } from "../ir/program.ts";
import { readMil } from "../mil/reader.ts";
import { ops } from "../ops/index.ts";
import { legalize } from "./legalize.ts";
import { checkChip } from "./support.ts";

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

describe("outputs and inputs", () => {
  it("that depend on no input take up one, without effect", async () => {
    const x = input([2, 3], { name: "x" });
    const program = programOf({ a: constant([[-1, 0, 2.5]]), b: x.relu(), c: constant([0]).reshape([]) });
    const feeds = feedsOf(program);
    for (const value of [0, -0, 65504, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN]) {
      feeds.get("x")![0] = value;
      expect(await run(legalize(program, chips.h13), feeds)).toEqual(await run(program, feeds));
    }
    const live = legalize(program, chips.h13);
    expect(operators(live).filter((op) => op === "minimum")).toHaveLength(2);
    const direct = legalize(program, chips.h13, dialectOf(true));
    expect(operators(direct).sort()).toEqual(["identity", "identity", "relu"]);
  });

  it("that nothing reads stay ports, and are read without effect", async () => {
    const program = readMil(
      milText(
        "tensor<fp16, [2, 3]> x, tensor<fp16, []> unused, tensor<fp16, [4]> other",
        '        tensor<fp16, [2, 3]> y = relu(x = x)[name = string("y")];',
        "y",
      ),
    );
    const legal = legalize(program, chips.h13);
    verifyProgram(legal);
    expect(legal.inputs.map(({ name }) => name)).toEqual(["x", "unused", "other"]);
    const read = new Set(legal.instructions.flatMap(({ inputs }) => inputs));
    expect(legal.inputs.every(({ value }) => read.has(value))).toBe(true);
    const feeds = feedsOf(program);
    for (const value of [0, 65504, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN]) {
      feeds.set("unused", [value]);
      expect(await run(legal, feeds)).toEqual(await run(program, feeds));
    }
    expect(operators(legalize(program, chips.h13, dialectOf(true)))).toEqual(["relu"]);
  });

  it("no output needs are dropped", () => {
    const x = input([2, 4], { name: "x" });
    const [first] = x.split(2, 1) as [Tensor, Tensor];
    const text = milText(
      "tensor<fp16, [3]> x",
      '        tensor<fp16, [3]> dead = exp(x = x)[name = string("dead")];\n        tensor<fp16, [3]> y = relu(x = x)[name = string("y")];',
      "y",
    );
    expect(operators(legalize(readMil(text), chips.h13))).toEqual(["relu"]);
    expect(operators(legalize(programOf({ first }), chips.h17s))).toEqual(["slice_by_size"]);
  });
});

describe("updates in place", () => {
  const w = parameter([1, 2, 3], [3], { name: "w" });
  const plan = (next: Tensor) => planOf({}, new Map([[w, next]]));
  it("are asked for again by port names", () => {
    const good = plan(w.mul(2));
    const { program } = good.stages[0]!;
    expect(good.states[0]!.mode).toBe("in-place");
    const inPlace = new Map([["w_next", "w"]]);
    expect(notOverwritable(legalize(program, chips.h13), inPlace)).toEqual([]);
    expect(notOverwritable(program, new Map([["w_next", null]]))).toEqual([]);
    // Another reader that the update does not depend on.
    const other = planOf({ y: w.exp() }, new Map([[w, w.mul(2)]])).stages[0]!.program;
    expect(notOverwritable(legalize(other, chips.h13), inPlace)).toEqual(["w_next"]);
  });
});

describe("refusals", () => {
  it("name ports and what to feed instead", () => {
    const refuse = (y: Tensor) => () => legalize(programOf({ y }), chips.h17s);
    const x = (dtype: "fp32" | "int32" | "bool") => input([4], { name: "x", dtype });
    expect(refuse(x("fp32").cast("fp16"))).toThrow(
      'compile: input "x" on h17s: fp32[4]: the chip has no fp32 ports; use fp16, or precision "mixed", which leaves fp32 to a CPU stage',
    );
    expect(refuse(x("int32").equal(2).cast("fp16"))).toThrow(/int32 ports .*feed one-hot rows in fp16/);
    expect(refuse(x("bool").select(constant([1]), 0))).toThrow(/bool ports; use fp16 with 0 and 1/);
  });

  it("name what the user wrote where a rule's operators do not fit", () => {
    const y = input([1, 2, 200, 200], { name: "x" }).conv(parameter(0, [3, 2, 3, 3]), { pad: 1 });
    expect(() => legalize(programOf({ y }), chips.h13)).toThrow(
      /^compile: conv, rewritten with reshape, on h13: fp16\[1, 1, 2, 40000\]: extent 40000 of axis 3 exceeds 16384 \(and \d+ more\): x is fp16\[1, 2, 200, 200\], weight is fp16\[3, 2, 3, 3\]; split the axis$/,
    );
  });

  it("name extents, and never end in a rule that matches itself", () => {
    const x = input([20000], { name: "x" });
    for (const y of [
      x.sliceBySize([3], [5]),
      x.sliceByIndex([1], [20000], { stride: [3] }),
      x.tile([5]),
      x.pad([1, 1]),
    ])
      expect(() => legalize(programOf({ y }), chips.h13)).toThrow(
        /extent 20000 of axis 0 exceeds 16384 .*; split the axis/,
      );
    expect(() => legalize(programOf({ y: x.relu() }), chips.h11)).toThrow(/h11 belongs to family OLDER/);
  });

  it("name operator, shapes, limit and remedy", () => {
    const x = input([1, 2, 4, 40], { name: "x" });
    const program = programOf({ y: x.maxPool([1, 40]) });
    expect(() => legalize(program, chips.h13)).toThrow(UnsupportedError);
    expect(() => legalize(program, chips.h13)).toThrow(
      "compile: max_pool on h13: the window is 40 wide, the limit is 29: x is fp16[1, 2, 4, 40]; pool twice with smaller windows",
    );
  });
});

it("the option `chip` of compile refuses what cannot be legalized, and nothing else", async () => {
  const slice = ({ x }: { x: Tensor }) => ({ y: x.slice(null, [3, 8]) });
  await using program = await compile({ x: [4, 8] }, slice, { chip: "h13", engine: "sim" });
  expect(program.plan.stages[0]!.program.instructions).toHaveLength(1);
  const argmax = ({ x }: { x: Tensor }) => ({ y: x.argmax() });
  await expect(compile({ x: [4, 8] }, argmax, { chip: "h13", engine: "sim" })).rejects.toThrow(UnsupportedError);
});

describe("random graphs", () => {
  // Their rules change the bits, see rules.test.ts.
  const inexact = new Set(
    "gelu reduce_mean linear conv conv_transpose layer_norm instance_norm batch_norm sin cos gather scatter cumsum".split(
      " ",
    ),
  );
  const seeds = Array.from({ length: 60 }, (_, i) => i + 1);
  const targets = [
    [chips.h13, dialectOf(false, { concat: true, selectBroadcast: true })],
    [chips.h17s, dialectOf(false, { concat: true, selectBroadcast: true })],
    [chips.h14, dialectOf(true)],
  ] as const;

  async function compareGraphs(names: readonly string[], check: (expected: number, actual: number) => boolean) {
    let compared = 0;
    for (const seed of seeds) {
      const { outputs } = randomGraph(seed, { names, dtypes: ["fp16"], states: false });
      const floats = Object.entries(outputs).flatMap(([name, y]) =>
        y.dtype === "fp16" ? [[name, y] as const] : y.dtype === "bool" ? [[name, y.cast("fp16")] as const] : [],
      );
      const program = programOf(Object.fromEntries(floats));
      if (program.inputs.some(({ value }) => program.values[value]!.dtype !== "fp16")) continue;
      const feeds = feedsOf(program, seed);
      const expected = await run(program, feeds);
      for (const [chip, dialect] of targets) {
        const legal = legalize(program, chip, dialect);
        verifyProgram(legal);
        expect(checkChip(legal, chip)).toEqual([]);
        expect(operators(legalize(legal, chip, dialect))).toEqual(operators(legal));
        const actual = await run(legal, feeds);
        compared++;
        for (const [name, values] of expected)
          for (const [i, value] of values.entries())
            if (!check(value, actual.get(name)![i]!))
              throw new Error(`seed ${seed}, ${chip.name}: ${name}[${i}] is ${actual.get(name)![i]}, not ${value}`);
      }
    }
    expect(compared).toBeGreaterThan(100);
  }

  it("keep their bits where the rules do", async () => {
    const names = Object.keys(ops).filter((name) => !inexact.has(name));
    await compareGraphs(names, Object.is);
  });

  it("keep their numbers otherwise", async () => {
    // Without operators that make much of little: logarithms, quotients, steps.
    const names =
      "gelu reduce_mean linear conv conv_transpose layer_norm instance_norm sin cos cumsum add sub mul tanh concat stack slice_by_size split transpose reshape matmul maximum select".split(
        " ",
      );
    const close = (a: number, b: number) => Object.is(a, b) || Math.abs(a - b) <= 0.05 * Math.max(1, Math.abs(a));
    await compareGraphs(names, close);
  });
});
