// Frozen graphs: no parameters left, batch norms folded where that changes no result, results as before.

import { describe, expect, test } from "vitest";
import { numbers } from "../../test/goldens/figures.ts";
import { feedsOf, operators, programOf, run } from "../../test/passes/helpers.ts";
import { compile, foldBatchNorm, freeze, input, parameter, stopGradient, type Tensor } from "../index.ts";
import { ops } from "../ops/index.ts";
import { apply } from "../tensor.ts";

let seed = 1;
const held = (shape: number[], scale = 1, offset = 0, dtype: "fp16" | "fp32" = "fp32") =>
  parameter(numbers(shape, seed++, scale, offset), shape, { dtype });

/** A convolution of x [2, 4, 5, 5], and the norm of its 6 channels; statistics in a parameter's range. */
function parts(dtype: "fp16" | "fp32" = "fp32", groups = 1) {
  const x = input([2, 4, 5, 5], { name: "x", dtype });
  const weight = held([6, 4 / groups, 3, 3], 0.5, 0, dtype);
  const statistics = { mean: held([6], 1, 0.5, dtype), variance: held([6], 0.5, 1, dtype), epsilon: 1e-3 };
  const affine = { gamma: held([6], 0.5, 1, dtype), beta: held([6], 1, 0, dtype) };
  return { x, weight, statistics, affine };
}

/** The graph's operators once frozen, and the largest difference of its results over the largest of them. */
async function frozen(outputs: Readonly<Record<string, Tensor>>): Promise<{ names: string[]; error: number }> {
  const program = programOf(freeze(outputs));
  expect(program.inputs.map(({ name }) => name)).toEqual(["x"]);
  const feeds = feedsOf(program);
  const got = await run(program, feeds);
  await using original = await compile(outputs, { engine: "sim" });
  const want = original.runSync(Object.fromEntries(feeds)) as Readonly<Record<string, { data: Float32Array }>>;
  let [error, largest] = [0, 0];
  for (const [name, values] of got) {
    for (const [i, value] of values.entries()) {
      error = Math.max(error, Math.abs(value - want[name]!.data[i]!));
      largest = Math.max(largest, Math.abs(want[name]!.data[i]!));
    }
  }
  return { names: operators(program), error: error / largest };
}

describe("a batch norm after a convolution is folded", () => {
  const { x, weight, statistics, affine } = parts();
  const bias = held([6]);
  const convolution = x.conv(weight, { pad: 1, strides: 2 });
  const cases: Record<string, Tensor> = {
    "with gain and bias": convolution.batchNorm({ ...statistics, ...affine }),
    "with gain alone": convolution.batchNorm({ ...statistics, gamma: affine.gamma }),
    "without gain and bias": convolution.batchNorm(statistics),
    "of groups": x.conv(held([6, 2, 3, 3]), { groups: 2 }).batchNorm({ ...statistics, ...affine }),
    "with the operator's own bias": apply<"fp32", typeof ops.conv.inputs, typeof ops.conv.attrs>(ops.conv, {
      x,
      weight,
      bias,
    }).batchNorm({ ...statistics, ...affine }),
    "with a bias that is added to the result": x.conv(weight, { pad: 1, bias }).batchNorm({ ...statistics, ...affine }),
    "behind a mark": stopGradient(convolution).batchNorm({ ...statistics, ...affine }),
  };
  test.each(Object.entries(cases))("%s", async (_title, y) => {
    const { names, error } = await frozen({ y });
    expect(names).toEqual(["conv", "add"]);
    expect(error).toBeLessThan(1e-6);
  });

  test("in one dimension", async () => {
    const signal = input([2, 4, 9], { name: "x", dtype: "fp32" });
    const { names, error } = await frozen({ y: signal.conv(held([6, 4, 3])).batchNorm({ ...statistics, ...affine }) });
    expect(names).toEqual(["conv", "add"]);
    expect(error).toBeLessThan(1e-6);
  });

  test("in fp16, with one rounding of the weights", async () => {
    const half = parts("fp16");
    const { names, error } = await frozen({
      y: half.x.conv(half.weight).batchNorm({ ...half.statistics, ...half.affine }),
    });
    expect(names).toEqual(["conv", "add"]);
    expect(error).toBeLessThan(2e-3);
  });
});

describe("a batch norm stays", () => {
  const { x, weight, statistics, affine } = parts();
  const convolution = x.conv(weight);
  const biased = x.conv(weight, { bias: held([6]) });
  const y = convolution.batchNorm({ ...statistics, ...affine });
  test.each<[string, Readonly<Record<string, Tensor>>]>([
    ["where the convolution has another reader", { y, z: convolution.relu() }],
    ["where the convolution is a result", { y, convolution }],
    ["where the sum with a bias has another reader", { y: biased.batchNorm(statistics), z: biased.relu() }],
    ["where a number for each column is added", { y: convolution.add(held([1, 1, 1, 3])).batchNorm(statistics) }],
    ["where no convolution is before it", { y: x.batchNorm({ mean: held([4]), variance: held([4], 0.5, 1) }) }],
    [
      "where the weight is computed from the input",
      { y: x.conv(x.slice([0, 1]).reshape([1, 4, 5, 5])).batchNorm({ mean: held([1]), variance: held([1], 0.5, 1) }) },
    ],
  ])("%s", async (_title, outputs) => {
    const { names, error } = await frozen(outputs);
    expect(names).toContain("batch_norm");
    expect(error).toBeLessThan(1e-6);
  });

  test("where the folded weights would leave fp16", async () => {
    const half = input([1, 1, 2, 2], { name: "x" });
    const weight = parameter([600], [1, 1, 1, 1]);
    const norm = { mean: parameter([0]), variance: parameter([1e-4]), epsilon: 1e-6 };
    // 600 / sqrt(1.01e-4) is 59,702; the largest number is 65,504.
    const names = (gamma: number) =>
      operators(programOf(freeze({ y: half.conv(weight).batchNorm({ ...norm, gamma: parameter([gamma]) }) })));
    expect(names(1)).toEqual(["conv", "add"]);
    expect(names(2)).toEqual(["conv", "batch_norm"]);
  });
});

test("a graph without parameters and norms is the same graph", () => {
  const x = input([2, 3], { name: "x" });
  const y = x.relu().add(1);
  expect(freeze({ y }).y.node).toBe(y.node);
});

test("folding needs constants: parameters stay state", () => {
  const { x, weight, statistics } = parts();
  expect(operators(programOf(foldBatchNorm({ y: x.conv(weight).batchNorm(statistics) })))).toEqual([
    "conv",
    "batch_norm",
  ]);
});

test("operators of several results, shared values and integers keep their places", async () => {
  const x = input([2, 6], { name: "x", dtype: "fp32" });
  const [a, b, c] = x.split([1, 2, 3], 1) as [Tensor, Tensor, Tensor];
  const w = held([3, 2]);
  const { names, error } = await frozen({ y: c.matmul(w).add(b).sub(a), z: b.mul(a).add(c.matmul(w)) });
  expect(names.filter((name) => name === "split")).toHaveLength(1);
  expect(error).toBe(0);
});

test("values come from the state of a program where it has them", async () => {
  const x = input([1], { name: "x", dtype: "fp32" });
  const w = parameter([2], [1], { dtype: "fp32" });
  const v = parameter(3, [1], { dtype: "fp32" });
  await using step = await compile({ y: x.mul(w) }, { engine: "sim", update: new Map([[w, w.add(x)]]) });
  step.runSync({ x: [5] });
  await using fixed = await compile(freeze({ y: x.mul(w).add(v) }, { state: step.state }), { engine: "sim" });
  step.runSync({ x: [5] });
  expect(fixed.runSync({ x: [1] }).y.item()).toBe(10);
});
