// Losses, optimizers and layer norm against the vectors of the ONNX standard's own tests, as Debian's libonnx-testdata ships them.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { compile, constant, type Tensor } from "../../src/index.ts";
import { crossEntropy, nllLoss } from "../../src/nn/index.ts";
import { adam, type Optimizer, sgd } from "../../src/optim/index.ts";
import { difference } from "../goldens/figures.ts";
import { OptimizerHarness } from "../optim/harness.ts";
import { type OnnxOperator, type OnnxTensor, readOperator, readTensor } from "./protobuf.ts";

const data = process.env.ANEKIT_ONNX_TESTDATA ?? "/usr/share/libonnx-testdata/data";
const nodes = join(data, "node");
const absent = `no ONNX vectors: install libonnx-testdata or set ANEKIT_ONNX_TESTDATA to its data folder`;

interface OnnxCase {
  readonly operator: OnnxOperator;
  readonly inputs: readonly OnnxTensor[];
  readonly outputs: readonly OnnxTensor[];
}

function readCase(name: string): OnnxCase {
  const folder = join(nodes, name);
  const operator = readOperator(join(folder, "model.onnx"));
  const tensors = (kind: "input" | "output", count: number) =>
    Array.from({ length: count }, (_, i) => readTensor(join(folder, "test_data_set_0", `${kind}_${i}.pb`)));
  return {
    operator,
    inputs: tensors("input", operator.inputs.length),
    outputs: tensors("output", operator.outputs.length),
  };
}

const fp32 = { dtype: "fp32" } as const;
const asConstant = ({ values, shape }: OnnxTensor) => constant(Float32Array.from(values), shape, fp32);

async function evaluate(outputs: Readonly<Record<string, Tensor>>): Promise<Record<string, ArrayLike<number>>> {
  await using program = await compile(outputs, { engine: "sim" });
  return Object.fromEntries(Object.entries(program.runSync({})).map(([name, array]) => [name, array.data]));
}

/** x [N, C, d...] as rows [N d..., C]. */
function rowsOf({ values, shape }: OnnxTensor): Tensor {
  const [n, c] = shape as [number, number];
  const inner = shape.slice(2).reduce((a, b) => a * b, 1);
  const rows = Float32Array.from({ length: values.length }, (_, i) => {
    const [row, column] = [Math.floor(i / c), i % c];
    return values[(Math.floor(row / inner) * c + column) * inner + (row % inner)]!;
  });
  return constant(rows, [n * inner, c], fp32);
}

async function checkLoss({ operator, inputs, outputs }: OnnxCase): Promise<void> {
  const [x, y, w] = inputs as [OnnxTensor, OnnxTensor, OnnxTensor | undefined];
  const { attributes } = operator;
  const loss = operator.type === "SoftmaxCrossEntropyLoss" ? crossEntropy : nllLoss;
  const ignored = attributes.get("ignore_index");
  const rows = rowsOf(x);
  const value = loss(rows, constant(Int32Array.from(y.values), [y.values.length], { dtype: "int32" }), {
    reduction: (attributes.get("reduction") ?? "mean") as "mean" | "sum" | "none",
    ...(w !== undefined && { weight: asConstant(w) }),
    ...(ignored !== undefined && { ignoreIndex: ignored as number }),
  });
  const logProbabilities = outputs[1];
  const got = await evaluate({
    value,
    ...(logProbabilities !== undefined && { rows: rows.logSoftmax(1), want: rowsOf(logProbabilities).mul(1) }),
  });
  expect(difference(got.value!, outputs[0]!.values, 2e-6)).toBeUndefined();
  if (logProbabilities !== undefined) expect(difference(got.rows!, got.want!, 2e-6)).toBeUndefined();
}

async function checkLayerNorm({ operator, inputs, outputs }: OnnxCase): Promise<void> {
  const [x, gamma, beta] = inputs as [OnnxTensor, OnnxTensor, OnnxTensor | undefined];
  const rank = x.shape.length;
  const first = Number(operator.attributes.get("axis") ?? -1);
  const from = first < 0 ? first + rank : first;
  const axes = x.shape.map((_, axis) => axis).slice(from);
  const epsilon = Number(operator.attributes.get("epsilon") ?? 1e-5);
  const y = asConstant(x).layerNorm({
    gamma: asConstant(gamma),
    ...(beta && { beta: asConstant(beta) }),
    axes,
    epsilon,
  });
  const got = await evaluate({ y, mean: asConstant(x).mean(axes, { keepDims: true }) });
  expect(difference(got.y!, outputs[0]!.values, 1e-5)).toBeUndefined();
  expect(difference(got.mean!, outputs[1]!.values, 1e-5)).toBeUndefined();
}

/** This case's model file states no epsilon, but its figures are those of 0.01 and of no other: the file lacks the attribute. */
const unstated: Readonly<Record<string, number>> = { test_adam_multiple: 1e-2 };

/** Operators that take several parameters list X1 X2 ... G1 G2 ... and so on after the rate and the step. */
async function checkOptimizer({ operator, inputs, outputs }: OnnxCase, name: string): Promise<void> {
  const { attributes } = operator;
  const number = (name: string, otherwise: number) => Number(attributes.get(name) ?? otherwise);
  const isAdam = operator.type === "Adam";
  const [rate, step] = [inputs[0]!.values[0]!, inputs[1]!.values[0]!];
  expect(number("norm_coefficient_post", 0)).toBe(0);
  const slots = isAdam ? ["m", "v"] : ["momentum"];
  const count = (inputs.length - 2) / (2 + slots.length);
  const [alpha, beta, epsilon] = [
    number("alpha", 0.9),
    number("beta", 0.999),
    number("epsilon", name in unstated ? unstated[name]! : 1e-6),
  ];
  const groups = [{ match: () => true, weightDecay: number("norm_coefficient", 0) }]; // ONNX decays vectors as well
  const optimizer: Optimizer = isAdam
    ? adam({ learningRate: rate, betas: [alpha, beta], epsilon, groups })
    : sgd({ learningRate: rate, momentum: alpha, nesterov: attributes.get("mode") === "nesterov", groups });
  if (!isAdam) expect(step === 0 || beta === 1).toBe(true); // else ONNX scales the gradient, which ours does not
  const at = (slot: number, i: number) => inputs[2 + slot * count + i]!;
  const starts = Array.from({ length: count }, (_, i) => [
    `p${i}`,
    { shape: at(0, i).shape, initial: at(0, i).values },
  ]);
  using harness = await OptimizerHarness.create(optimizer, Object.fromEntries(starts));
  for (let i = 0; i < count; i++)
    for (const [s, slot] of slots.entries()) harness.writeSlot(`p${i}`, slot, Float32Array.from(at(2 + s, i).values));
  const gradients = Array.from({ length: count }, (_, i) => [`p${i}`, at(1, i).values]);
  harness.count = step - 1;
  // At step 0 ONNX corrects no bias; later ones must be what our own scalars say.
  const given = isAdam && step === 0 ? { rate, stepSize: rate, epsilonHat: epsilon } : undefined;
  harness.step(Object.fromEntries(gradients), given);
  const want = (slot: number, i: number) => outputs[slot * count + i]!.values;
  for (let i = 0; i < count; i++) {
    expect(difference(harness.weight(`p${i}`), want(0, i), 1e-6), `p${i}`).toBeUndefined();
    for (const [s, slot] of slots.entries())
      expect(difference(harness.slot(`p${i}`, slot), want(1 + s, i), 1e-6), `${slot} of p${i}`).toBeUndefined();
  }
}

const checks: readonly (readonly [string, RegExp, (each: OnnxCase, name: string) => Promise<void>])[] = [
  ["optimizers", /^test_(adam|momentum|nesterov)/, checkOptimizer],
  ["softmax cross-entropy", /^test_sce_/, checkLoss],
  ["negative log-likelihood", /^test_nllloss_/, checkLoss],
  ["layer norm", /^test_layer_normalization_/, checkLayerNorm],
];

if (!existsSync(nodes)) {
  for (const [title] of checks) test(`${title} agree with ONNX`, (context) => context.skip(absent));
} else {
  // The "expanded" cases hold the same numbers, with the operator written out in others.
  const names = readdirSync(nodes)
    .filter((name) => !name.endsWith("_expanded"))
    .sort();
  let agreed = 0;
  let all = 0;
  afterAll(() => void process.stdout.write(`ONNX: ${agreed} of ${all} cases agreed\n`));

  for (const [title, pattern, check] of checks) {
    describe(`${title} agree with ONNX`, () => {
      const own = names.filter((name) => pattern.test(name));
      test("has cases", () => expect(own.length).toBeGreaterThan(0));
      test.each(own)("%s", async (name) => {
        all++;
        await check(readCase(name), name);
        agreed++;
      });
    });
  }
  for (const name of names.filter((each) => each.startsWith("test_adagrad")))
    test(name, (context) => context.skip("anekit has no Adagrad"));
}
