// Every rule: that it matches, what it does to the bits, and that it leaves alone what it need not touch.

import { describe, expect, it } from "vitest";
import { dialectOf, feedsOf, operators, programOf, run } from "../../../test/passes/helpers.ts";
import { type Chip, chips } from "../../chips/index.ts";
import { UnsupportedError } from "../../core/errors.ts";
import { concat, constant, input, stack, type Tensor } from "../../index.ts";
import { type Program, verifyProgram } from "../../ir/program.ts";
import { ops } from "../../ops/index.ts";
import { type Dialect, legalize, type NativeForm } from "../legalize.ts";
import { applyOp } from "../rewrite.ts";
import { checkChip } from "../support.ts";

const { h13, h14, h15, h17s } = chips;
const native = dialectOf(true);
const without = (...forms: NativeForm[]): Dialect =>
  dialectOf(true, Object.fromEntries(forms.map((form) => [form, false])));
const numbers = (count: number, f: (i: number) => number = (i) => ((i * 37) % 23) / 8 - 1.25) =>
  Float32Array.from({ length: count }, (_, i) => f(i));
let named = 0;
const x = (...shape: number[]) => input(shape, { name: `x${named++}` });

function legal(y: Tensor | Record<string, Tensor>, chip: Chip = h13, dialect: Dialect = native): Program {
  const program = legalize(programOf("node" in y ? { y: y as Tensor } : y), chip, dialect);
  verifyProgram(program);
  expect(checkChip(program, chip)).toEqual([]);
  return program;
}

/** Legalizes, and compares results with the program's own. */
async function compare(
  y: Tensor | Record<string, Tensor>,
  chip: Chip,
  dialect: Dialect,
  { scale = 2, within = 0 }: { scale?: number; within?: number } = {},
): Promise<string[]> {
  const program = programOf("node" in y ? { y: y as Tensor } : y);
  const made = legal(y, chip, dialect);
  const feeds = feedsOf(program, 3, scale);
  const [expected, actual] = [await run(program, feeds), await run(made, feeds)];
  for (const [name, values] of expected) {
    if (within === 0) expect(actual.get(name), name).toEqual(values);
    else {
      const largest = Math.max(1, ...values.map(Math.abs));
      for (const [i, value] of values.entries())
        expect(Math.abs(value - actual.get(name)![i]!) / largest, `${name}[${i}]`).toBeLessThanOrEqual(within);
    }
  }
  return operators(made);
}

/** The slices at an offset of the last axis. */
const widthSlices = ({ instructions, values }: Program) =>
  instructions.filter(({ op, attrs, inputs }) => {
    const begin = attrs.begin as readonly number[] | undefined;
    const splits = op.name === "split" && attrs.axis === values[inputs[0]!]!.shape.length - 1;
    return splits || (begin !== undefined && begin.at(-1)! > 0);
  });

describe("slices at an offset of the last axis", () => {
  const cases: Record<string, () => Tensor | Record<string, Tensor>> = {
    "whole blocks of a matrix": () => x(4, 64).sliceBySize([0, 32], [4, 16]),
    "whole blocks of rank 5": () => x(2, 2, 3, 4, 48).sliceBySize([0, 1, 0, 1, 16], [2, 1, 3, 2, 32]),
    "odd positions of a matrix": () => x(6, 17).sliceBySize([1, 3], [4, 5]),
    "odd positions of rank 4": () => x(2, 3, 4, 9).sliceBySize([0, 1, 0, 1], [2, 2, 4, 7]),
    "a vector": () => x(17).sliceBySize([3], [5]),
    "an index": () => x(3, 9).slice([0, 2], 4),
    "a strided slice": () => x(3, 17).sliceByIndex([0, 3], [3, 17], { stride: [2, 4] }),
    "a split": () =>
      Object.fromEntries(
        x(4, 32)
          .split([8, 16, 8], -1)
          .map((part, i) => [`p${i}`, part]),
      ),
    "halves, as rotary positions take them": () => {
      const [a, b] = x(2, 2, 8, 32).split(2, -1) as [Tensor, Tensor];
      return b.neg().concat([a], -1);
    },
  };
  for (const [name, build] of Object.entries(cases)) {
    it(`take another way on H13 and H14: ${name}`, async () => {
      const y = build();
      for (const chip of [h13, h14]) {
        await compare(y, chip, native);
        expect(widthSlices(legal(y, chip))).toEqual([]);
      }
      expect(widthSlices(legal(y, h15))).not.toEqual([]);
    });
  }

  it("become slices of rows where rows of 8 fit, else of the transpose, once for all slices of a tensor", () => {
    expect(operators(legal(x(4, 64).sliceBySize([0, 32], [4, 16])))).toEqual(["reshape", "slice_by_size", "reshape"]);
    const odd = x(6, 17);
    const parts = { a: odd.sliceBySize([0, 3], [6, 5]), b: odd.sliceBySize([0, 8], [6, 9]) };
    const count = (name: string) => operators(legal(parts)).filter((op) => op === name).length;
    expect([count("transpose"), count("slice_by_size")]).toEqual([3, 2]);
  });

  it("stay where the slice begins at 0, or on another axis", () => {
    expect(operators(legal(x(4, 64).sliceBySize([1, 0], [2, 16])))).toEqual(["slice_by_size"]);
  });
});

describe("other slices", () => {
  it("by index without strides are slices by size", async () => {
    const y = x(3, 4, 5).slice([1, 3], 2, null);
    expect(await compare(y, h17s, native)).toEqual(["slice_by_size", "reshape"]);
  });

  it("with strides stay where that is native, and are columns of rows where it is not", async () => {
    const y = x(2, 7, 9).sliceByIndex([0, 1, 1], [2, 7, 9], { stride: [1, 2, 3] });
    expect(await compare(y, h17s, native)).toEqual(["slice_by_index"]);
    for (const chip of [h13, h17s]) {
      const made = await compare(y, chip, without("stridedSlice"));
      expect(made).not.toContain("slice_by_index");
    }
  });

  it("are all that remains of a split with unread parts", () => {
    const parts = x(4, 3, 8).split(4, 0);
    expect(operators(legal({ a: parts[1]!, b: parts[3]!.relu() }, h17s))).toEqual([
      "slice_by_size",
      "slice_by_size",
      "relu",
    ]);
    const [a, b] = x(4, 8).split(2, 0) as [Tensor, Tensor];
    expect(operators(legal({ a, b }, h13))).toEqual(["split"]);
  });
});

describe("constants", () => {
  const weight = constant(numbers(12), [3, 4]);
  const lowered: [string, () => Tensor, number][] = [
    ["linear", () => x(2, 4).linear(x(3, 4), constant(numbers(3))), 2 ** -10],
    ["linear", () => x(2, 4).linear(weight, x(3)), 2 ** -10],
    ["conv", () => x(2, 4, 6, 5).conv(x(6, 2, 3, 2), { pad: 1, strides: [2, 1], groups: 2 }), 2 ** -10],
    ["conv_transpose", () => x(2, 4, 3, 5).convTranspose(x(4, 3, 2, 3), { strides: 2, groups: 2 }), 2 ** -9],
    ["layer_norm", () => x(2, 5).layerNorm({ gamma: x(5), beta: constant(numbers(5)) }), 2 ** -9],
    ["instance_norm", () => x(2, 3, 5).instanceNorm({ gamma: constant(numbers(3)), beta: x(3) }), 2 ** -9],
    ["batch_norm", () => x(2, 3, 5).batchNorm({ mean: x(3), variance: x(3).abs() }), 2 ** -7],
  ];
  it.each(lowered)("computed operands of %s get the record's lowering", async (name, build, within) => {
    for (const chip of [h13, h17s]) {
      const made = await compare(build(), chip, native, { within });
      if (name === "conv") expect(made).not.toContain(name);
    }
  });

  it("stay operands where they are constant", () => {
    expect(operators(legal(x(2, 4).linear(weight, constant(numbers(3)))))).toEqual(["linear"]);
    const norm = x(2, 5).layerNorm({ gamma: constant(numbers(5)), beta: constant(numbers(5)) });
    expect(operators(legal(norm))).toEqual(["layer_norm"]);
  });

  it("combine at compile time, with the simulator's bits, and reshaped ones share their data", async () => {
    const y = x(4)
      .add(constant(numbers(4)).square().sum().sqrt())
      .mul(constant(numbers(4)).reshape([1, 4]));
    expect(await compare(y, h13, native)).toEqual(["add", "mul"]);
    const data = numbers(8);
    const made = legal(x(2, 4).mul(constant(data, [8]).reshape([2, 4])));
    const original = programOf({ y: x(2, 4).mul(constant(data, [8]).reshape([2, 4])) });
    expect(made.constants[0]!.data).toEqual(original.constants[0]!.data);
  });

  it("are left to the compiler where they would grow or overflow", () => {
    const tall = constant(numbers(8), [8, 1]).add(constant(numbers(4096), [1, 4096]));
    expect(operators(legal(x(8, 4096).mul(tall)))).toEqual(["add", "mul"]);
    expect(operators(legal(x(1).add(constant([60000]).mul(2))))).toEqual(["mul", "add"]);
  });
});

describe("functions", () => {
  it("square is a product, with the same bits", async () => {
    expect(await compare(x(3).square().relu(), h13, native)).toEqual(["mul", "relu"]);
  });

  it.each(["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"] as const)("gelu %s by its parts", async (mode) => {
    const y = () => x(500).gelu(mode);
    expect(operators(legal(y()))).toEqual(["gelu"]);
    const made = await compare(y(), h13, without("gelu"), { scale: 6, within: 2 ** -9 });
    expect(made).not.toContain("gelu");
  });

  it("reduce_mean by a sum", async () => {
    const y = () => x(3, 8).mean([1]);
    expect(operators(legal(y()))).toEqual(["reduce_mean"]);
    expect(await compare(y(), h13, without("reduceMean"), { within: 2 ** -10 })).toEqual(["mul", "reduce_sum"]);
    // A number that is no power of two takes another product; the sum of a thousand large numbers stays in range.
    const large = () => x(2, 1000).mul(0.001).add(73).mean([1]);
    expect(await compare(large(), h13, without("reduceMean"), { within: 2 ** -9 })).toEqual([
      "mul",
      "add",
      "mul",
      "reduce_sum",
      "mul",
    ]);
  });

  it("a reduction times zero is zero, other products are left", async () => {
    const zeros = x(3, 4).sum([1]).reshape([1, 3]).mul(0);
    expect(await compare(zeros.add(x(2, 3)), h13, native)).toEqual(["add"]);
    expect(operators(legal(x(3, 4).sum([1]).mul(0.5)))).toEqual(["reduce_sum", "mul"]);
    expect(operators(legal(x(3).mul(0)))).toEqual(["mul"]);
  });

  it("floor times a constant keeps an operator between", async () => {
    const y = () => ({ a: x(5).floor().mul(3), b: constant([2]).mul(x(5).floor()), c: x(5).floor().mul(x(5)) });
    expect(operators(legal(y())).filter((op) => op === "maximum")).toEqual([]);
    const made = await compare(y(), h13, without("floorTimesConstant"));
    expect(made.filter((op) => op === "maximum")).toHaveLength(2);
  });

  it("conversions to and from bool are select and comparison", async () => {
    const y = () => x(5).greater(0.5).cast("fp16").mul(x(5).cast("bool").cast("fp16"));
    expect(operators(legal(y())).filter((op) => op === "cast")).toHaveLength(3);
    expect(await compare(y(), h13, without("boolCast"))).not.toContain("cast");
  });

  it("conversions that change nothing vanish", async () => {
    expect(await compare(x(5).cast("fp32").cast("fp16").relu(), h13, native)).toEqual(["relu"]);
  });

  it("bools that are moved are moved as numbers", async () => {
    const y = () => x(4, 9).greater(0).sliceBySize([0, 3], [4, 4]).select(x(4, 4), 0);
    expect(await compare(y(), h13, native)).toEqual([
      "greater",
      "select",
      ...["transpose", "slice_by_size", "transpose"],
      "greater",
      "select",
    ]);
    const z = () =>
      x(4)
        .greater(0)
        .select(x(4).less(1), x(4).less(2))
        .concat([x(3).less(0)], 0)
        .cast("fp16");
    const moved = await compare(z(), h13, without("concat"));
    expect(moved).not.toContain("concat");
  });

  it("logic of two bools is arithmetic", async () => {
    const [a, b] = [x(9).greater(0), x(9).less(0.5)];
    const y = { and: a.logicalAnd(b).cast("fp16"), or: a.logicalOr(b).logicalNot().cast("fp16") };
    for (const dialect of [native, without("boolCast")]) await compare(y, h13, dialect);
  });

  it("sine and cosine below A15 are polynomials within 0.004 up to 50", async () => {
    for (const f of ["sin", "cos"] as const) {
      const made = await compare(x(2000)[f](), h13, native, { scale: 50, within: 0.004 });
      expect(made).not.toContain(f);
      await compare(x(500)[f](), h14, dialectOf(false), { scale: 3, within: 0.004 });
      expect(operators(legal(x(5)[f](), h15))).toEqual([f]);
    }
  });

  it("arg-minimum below A15 is arg-maximum, which no program can return", () => {
    expect(() => legal(x(3, 4).argmin(1), h13)).toThrow(
      'output "y" on h13: int32[3]: the chip has no int32 ports; feed one-hot rows in fp16, and take largest elements in a CPU stage',
    );
  });
});

describe("selection among different shapes", () => {
  const forms = without("selectBroadcast");
  const cases: Record<string, () => Tensor> = {
    "a flag": () => x(1).greater(0).select(x(3, 4), x(3, 4)),
    "a flag and a row": () => x(1).greater(0).select(x(3, 4), x(4)),
    numbers: () => x(3, 4).greater(0).select(1, x(1)),
    "two numbers": () => x(3, 4).greater(x(3, 1)).cast("fp16").mul(x(3, 4)),
    "nothing of the whole shape": () => x(3, 1).greater(x(3, 1)).select(x(4), x(1, 4)),
    "a mask": () =>
      x(3, 1, 2)
        .greater(0)
        .logicalNot()
        .select(x(3, 4, 2), 0),
  };
  it.each(Object.entries(cases))("brings all to one shape: %s", async (_name, build) => {
    for (const chip of [h13, h17s]) {
      await compare(build(), chip, dialectOf(true, { selectBroadcast: false, boolCast: false }));
      const { instructions, values } = legal(build(), chip, forms);
      for (const { op, inputs } of instructions) {
        if (op.name !== "select") continue;
        expect(new Set(inputs.map((value) => String(values[value]!.shape))).size).toBe(1);
      }
    }
  });

  it("keeps NaN out of flags", async () => {
    const flag = x(4).sqrt().sum().less(100).cast("fp16"); // the root of a negative number is NaN
    await compare(flag, h13, dialectOf(false));
  });

  it("leaves equal shapes, and all where that is native", () => {
    expect(operators(legal(x(3).greater(0).select(x(3), x(3)), h13, forms))).toEqual(["greater", "select"]);
    expect(operators(legal(x(1).greater(0).select(x(3), 0)))).toEqual(["greater", "select"]);
  });
});

describe("norms and softmax", () => {
  it("layer_norm by its parts", async () => {
    const y = () => x(4, 33).layerNorm({ gamma: constant(numbers(33)), beta: constant(numbers(33)) });
    expect(operators(legal(y()))).toEqual(["layer_norm"]);
    const made = await compare(y(), h13, without("layerNorm"), { within: 2 ** -8 });
    expect(made).not.toContain("layer_norm");
    // A mean far above the deviations.
    const far = () => x(4, 64).add(900).layerNorm();
    await compare(far(), h13, without("layerNorm"), { within: 2 ** -8 });
    await compare(x(4, 64).layerNorm({ epsilon: 1e-7 }), h13, without("layerNorm"), { scale: 1e-4, within: 2 ** -8 });
  });

  it("gain and bias stand outside from 1024 elements on H13 and H14, from 10240 later", async () => {
    const y = (d: number, affine: readonly ("gamma" | "beta")[]) =>
      x(2, d).layerNorm(Object.fromEntries(affine.map((name) => [name, constant(numbers(d))])));
    for (const affine of [["gamma"], ["beta"], ["gamma", "beta"]] as const) {
      const outside = ["layer_norm", ...affine.map((name) => (name === "gamma" ? "mul" : "add"))];
      expect(operators(legal(y(1023, affine), h13))).toEqual(["layer_norm"]);
      expect(await compare(y(1024, affine), h13, native, { within: 2 ** -9 })).toEqual(outside);
      expect(operators(legal(y(1024, affine), h15))).toEqual(["layer_norm"]);
      expect(operators(legal(y(10240, affine), h17s))).toEqual(outside);
    }
    expect(operators(legal(x(2, 2048).layerNorm(), h13))).toEqual(["layer_norm"]);
  });

  it("softmax along another axis than the last, of an odd extent, is moved", async () => {
    const y = () => x(2, 5, 3).softmax(1);
    expect(operators(legal(y()))).toEqual(["softmax"]);
    expect(await compare(y(), h13, without("softmaxChannels"))).toEqual(["transpose", "softmax", "transpose"]);
    for (const [shape, axis] of [
      [[2, 8, 3], 1],
      [[2, 8, 3], 2],
    ] as const)
      expect(operators(legal(x(...shape).softmax(axis), h13, without("softmaxChannels")))).toEqual(["softmax"]);
  });
});

describe("products", () => {
  it("the bias of a convolution is added where it is not native or not constant", async () => {
    const weight = constant(numbers(24), [2, 3, 2, 2]);
    const bias = constant(numbers(2));
    const y = (b: Tensor) => applyOp(ops.conv, [x(1, 3, 4, 4), weight, b], {})[0]!;
    expect(await compare(y(bias), h13, native)).toEqual(["conv"]);
    expect(await compare(y(bias), h13, without("convBias"), { within: 2 ** -10 })).toEqual(["conv", "add"]);
    expect(operators(legal(y(x(2))))).toEqual(["conv", "reshape", "add"]);
    const transposed = applyOp(ops.conv_transpose, [x(1, 2, 4, 4), weight, constant(numbers(3))], {})[0]!;
    const made = await compare(transposed, h13, without("convBias"), { within: 2 ** -10 });
    expect(made).toEqual(["conv_transpose", "add"]);
  });

  it("uneven contractions are padded with zeros", async () => {
    for (const [transposeX, transposeY] of [
      [false, false],
      [true, false],
      [false, true],
      [true, true],
    ] as const) {
      const a = transposeX ? x(2, 37, 3) : x(2, 3, 37);
      const b = transposeY ? x(2, 5, 37) : x(2, 37, 5);
      const y = a.matmul(b, { transposeX, transposeY });
      expect(operators(legal(y))).toEqual(["matmul"]);
      expect(await compare(y, h13, without("unevenContraction"))).toEqual(["pad", "pad", "matmul"]);
    }
    expect(operators(legal(x(3, 64).matmul(x(64, 2)), h13, without("unevenContraction")))).toEqual(["matmul"]);
  });

  it("batch axes of rank 5 merge, repeated where they do not repeat alike", async () => {
    expect(await compare(x(2, 3, 2, 4, 5).matmul(x(2, 3, 2, 5, 3)), h13, native)).toEqual([
      "reshape",
      "reshape",
      "matmul",
      "reshape",
    ]);
    await compare(x(2, 3, 2, 4, 5).matmul(x(5, 3)), h13, native);
    await compare(x(2, 1, 1, 4, 5).matmul(x(3, 2, 5, 3)), h17s, native);
    await compare(x(2, 1, 2, 4, 5).matmul(x(2, 3, 1, 5, 3)), h17s, native);
    expect(operators(legal(x(2, 3, 4, 5).matmul(x(2, 3, 5, 4))))).toEqual(["matmul"]);
  });

  it("a running sum is a product with a triangle", async () => {
    for (const options of [{}, { exclusive: true }, { reverse: true }, { exclusive: true, reverse: true }]) {
      await compare(x(3, 9).cumsum(1, options), h13, native);
      await compare(x(3, 9).cumsum(0, options), h17s, native);
      await compare(x(9).cumsum(0, options), h17s, native);
    }
    expect(() => legal(x(2, 1025).cumsum(1))).toThrow(/cumsum on h13.*multiply by a triangular matrix of ones/);
  });

  it("a gather by constant indices is slices, or a product with one-hot rows", async () => {
    const at = (...list: number[]) => constant(Int32Array.from(list), [list.length], { dtype: "int32" });
    expect(await compare(x(9, 4).gather(at(3, 4, 5), 0), h13, native)).toEqual(["slice_by_size"]);
    expect(widthSlices(legal(x(4, 9).gather(at(-1, 2, 2, 5), 1), h13))).toEqual([]);
    await compare(x(4, 9, 3).gather(at(-1, 2, 2, 5), 1), h13, native);
    const made = await compare(x(4, 30).gather(at(...numbers(20, (i) => (i * 7) % 30)), 1), h13, native);
    expect(made).toContain("matmul");
    expect(() => legal(x(9).gather(input([2], { name: "i", dtype: "int32" })))).toThrow(UnsupportedError);
  });
});

describe("transposes", () => {
  it("in a row are one, or nothing", async () => {
    expect(await compare(x(2, 3, 4).transpose([1, 2, 0]).transpose([0, 2, 1]).relu(), h13, native)).toEqual([
      "transpose",
      "relu",
    ]);
    expect(await compare(x(2, 3).transpose().transpose().relu(), h13, native)).toEqual(["relu"]);
  });

  it("with a reshape between keep an operator there", async () => {
    const y = () => x(4, 6).transpose().reshape([2, 3, 4]).transpose([1, 0, 2]);
    expect(operators(legal(y()))).toEqual(["transpose", "reshape", "transpose"]);
    expect(await compare(y(), h13, without("transposeChain"))).toEqual([
      "transpose",
      "reshape",
      "maximum",
      "transpose",
    ]);
    expect(operators(legal(x(4, 6).reshape([2, 3, 4]).transpose(), h13, without("transposeChain")))).toEqual([
      "reshape",
      "transpose",
    ]);
  });

  it("of rank 5 lose axes that need not move apart", async () => {
    const merged = await compare(x(2, 3, 4, 2, 3).transpose([0, 3, 4, 1, 2]), h13, native);
    expect(merged).toEqual(["reshape", "transpose", "reshape"]);
    expect(await compare(x(1, 3, 1, 2, 1).transpose([2, 1, 0, 4, 3]), h13, native)).toEqual(["reshape"]);
    expect(await compare(x(2, 3, 4, 2, 3).transpose([4, 3, 2, 1, 0]), h13, native)).toEqual(["transpose"]);
  });
});

describe("axes", () => {
  it("depth is not broadcast below A14: axes merge, or the operand is repeated", async () => {
    const merging = x(2, 3, 4, 2, 2).mul(x(2, 1, 1, 2, 2));
    expect(await compare(merging, h13, native)).toEqual(["reshape", "reshape", "mul", "reshape"]);
    const repeated = x(2, 3, 4, 2, 2).mul(x(2, 1, 4, 1, 2));
    expect(await compare(repeated, h13, native)).toContain("tile");
    expect(operators(legal(merging, h14))).toEqual(["mul"]);
    const chosen = x(2, 3, 4, 2, 2)
      .greater(0)
      .select(x(2, 1, 4, 1, 2), x(2, 3, 4, 2, 1));
    await compare(chosen, h13, native);
    expect(operators(legal(x(2, 3, 4, 2, 2).mul(x(2, 3, 1, 2, 2))))).toEqual(["mul"]);
  });

  it("repetitions with other factors than 2 and 3 are products with ones", async () => {
    expect(await compare(x(2, 3, 4).tile([1, 5, 2]), h13, native)).toEqual(["reshape", "mul", "reshape", "tile"]);
    await compare(x(2, 3).tile([7, 10]), h13, native);
    expect(operators(legal(x(2, 3).tile([6, 4])))).toEqual(["tile"]);
  });

  it("only the last two axes are padded", async () => {
    for (const mode of ["constant", "reflect", "replicate"] as const) {
      const y = () => x(2, 3, 4, 5).pad([1, 0, 1, 2, 0, 1, 2, 0], { mode, constantVal: 0.5 });
      for (const chip of [h13, h17s]) expect(await compare(y(), chip, native)).toContain("pad");
    }
    await compare(x(3, 4, 5).pad([1, 1, 0, 0, 0, 0]), h13, native);
    // Where the axes behind do not fit in one, it is exchanged with the last but one.
    expect(operators(legal(x(1, 2, 200, 100).pad([1, 1, 0, 0, 0, 0]), h13))).toEqual(["transpose", "pad", "transpose"]);
    expect(operators(legal(x(1, 2, 3, 4).pad([1, 1, 1, 1])))).toEqual(["pad"]);
  });

  it("images grow by tiles below A14", async () => {
    const y = () => x(2, 3, 4, 5).upsampleNearest(2, 5);
    expect(await compare(y(), h13, native)).not.toContain("upsample_nearest_neighbor");
    expect(operators(legal(y(), h14))).toEqual(["upsample_nearest_neighbor"]);
  });
});

describe("concatenation", () => {
  const parts = () => [x(2, 3, 4), x(2, 1, 4), x(2, 2, 4)] as const;
  it("is a sum of padded parts where it is not native", async () => {
    for (const axis of [0, 1, 2]) {
      const list = [0, 1, 2].map((i) => x(...[2, 3, 4].map((extent, each) => (each === axis ? i + 1 : extent))));
      expect(operators(legal(concat(list, axis)))).toEqual(["concat"]);
      expect(await compare(concat(list, axis), h13, without("concat"))).not.toContain("concat");
    }
    await compare(concat([x(1, 2, 3, 3), x(1, 3, 3, 3)], 1), h17s, without("concat"));
    await compare(stack([x(2, 3), x(2, 3)], 1), h13, without("concat"));
  });

  it("of elements in turn is a concatenation on a further axis", async () => {
    for (const axis of [0, 1, 2]) await compare(x(2, 3, 4).concat([x(2, 3, 4), x(2, 3, 4)], axis, true), h13, native);
  });

  it("of one is nothing, of three with two constants goes by pairs", async () => {
    expect(await compare(concat([x(2, 3)], 0).relu(), h13, native)).toEqual(["relu"]);
    expect(await compare(stack([x(2, 3)], 0).relu(), h13, native)).toEqual(["reshape", "relu"]);
    const bordered = concat([constant(numbers(4), [2, 2]), x(2, 3), constant(numbers(4), [2, 2])], 1);
    expect(await compare(bordered, h13, native)).toEqual(["concat", "concat"]);
    expect(operators(legal(concat(parts(), 1)))).toEqual(["concat"]);
  });
});
