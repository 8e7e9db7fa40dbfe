// Composites and losses against torch in fp32: values and gradients from test/goldens/composites.json.

import { describe, expect, test } from "vitest";
import { compile, constant, grad, input, type Tensor } from "../../src/index.ts";
import {
  attention,
  type ClassLossOptions,
  causalMask,
  crossEntropy,
  einsum,
  groupNorm,
  mse,
  multiHeadAttention,
  nllLoss,
  oneHot,
  rmsNorm,
  rope,
  ropeTables,
  swiglu,
} from "../../src/nn/index.ts";
import { difference, golden, numbers, unpack } from "../goldens/figures.ts";

interface InputSpec {
  readonly shape: readonly number[];
  readonly seed: number;
  readonly scale: number;
  readonly offset: number;
}

interface Case {
  readonly name: string;
  readonly inputs: Readonly<Record<string, InputSpec>>;
  readonly ints: { readonly targets?: readonly number[] };
  readonly shape: readonly number[];
  readonly value: string;
  readonly grads: Readonly<Record<string, string>>;
}

const { cases } = golden<{ readonly cases: readonly Case[] }>("composites");

type Inputs = Readonly<Record<string, Tensor>>;
type Build = (inputs: Inputs) => Tensor;

const attend =
  (causal: boolean, scale?: number): Build =>
  ({ q, k, v }) =>
    attention(q!, k!, v!, {
      ...(causal && { mask: causalMask(q!, q!.shape[2]!) }),
      ...(scale !== undefined && { scale }),
    });

const mha: Build = ({ x, wq, wk, wv, wo, context }) =>
  multiHeadAttention(
    x!,
    { wq: wq!, wk: wk!, wv: wv!, wo: wo! },
    { nHead: 4, nKvHead: 2, ...(context !== undefined && { context }) },
  );

const builders: Readonly<Record<string, Build>> = {
  rmsNorm: ({ x, gamma }) => rmsNorm(x!, gamma),
  "rmsNorm without gain": ({ x }) => rmsNorm(x!),
  "rmsNorm of large numbers": ({ x }) => rmsNorm(x!),
  layerNorm: ({ x }) => x!.layerNorm({ epsilon: 1e-5 }),
  "groupNorm 1": ({ x, gamma, beta }) => groupNorm(x!, 1, { gamma: gamma!, beta: beta! }),
  "groupNorm 2": ({ x, gamma, beta }) => groupNorm(x!, 2, { gamma: gamma!, beta: beta! }),
  "groupNorm 6": ({ x, gamma, beta }) => groupNorm(x!, 6, { gamma: gamma!, beta: beta! }),
  attention: attend(false),
  "attention scale": attend(false, 0.3),
  "attention causal": attend(true),
  "attention grouped 4/2": attend(false),
  "attention grouped causal 4/2": attend(true),
  "attention grouped 6/1": attend(false),
  rope: ({ x }) => {
    const { cos, sin } = ropeTables(x!, x!.shape[2]!, x!.shape[3]!);
    return rope(x!, cos, sin);
  },
  swiglu: ({ gate, up }) => swiglu(gate!, up!),
  multiHeadAttention: mha,
  "multiHeadAttention of a context": mha,
  mse: ({ x, target }) => mse(x!, target!),
  "gelu tanh": ({ x }) => x!.gelu("TANH_APPROXIMATION"),
};

function lossOptions(name: string, classes: number): ClassLossOptions {
  const [, reduction, ...rest] = name.split(" ");
  const weighted = rest.includes("weight") || name.endsWith("ignore 2"); // the last case has weights as well
  return {
    reduction: reduction as "mean" | "sum" | "none",
    ...(weighted && { weight: constant(numbers([classes], 41, 0.9, 1), [classes], { dtype: "fp32" }) }),
    ...(rest.includes("ignore") && { ignoreIndex: name.endsWith("ignore 2") ? 2 : -100 }),
  };
}

function lossBuilder({ name }: Case, targets: Tensor): Build {
  const loss = name.startsWith("crossEntropy") ? crossEntropy : nllLoss;
  return ({ x }) => loss(x!, targets, lossOptions(name, x!.shape[1]!));
}

/** Value and gradients; fp32 sums differ from torch's by their order: 2e-6 of the largest element, more where rows cancel. */
async function check(test: Case, build: Build, tolerance: number): Promise<void> {
  const inputs = Object.fromEntries(
    Object.entries(test.inputs).map(([name, { shape }]) => [name, input(shape, { dtype: "fp32", name })]),
  );
  const value = build(inputs);
  expect(value.shape).toEqual(test.shape);
  const cotangent = constant(value.rank === 0 ? [0.75] : numbers(value.shape, 99), value.shape, { dtype: "fp32" });
  const names = Object.keys(inputs);
  const grads = grad(value, Object.values(inputs), { cotangent });
  const outputs = Object.fromEntries(grads.map((g, i) => [`d_${names[i]}`, g]));
  await using program = await compile({ value, ...outputs }, { engine: "sim" });
  const feeds = Object.entries(test.inputs)
    .filter(([name]) => program.plan.feeds.has(name))
    .map(([name, { shape, seed, scale, offset }]) => [name, numbers(shape, seed, scale, offset)]);
  const got = program.runSync(Object.fromEntries(feeds)) as Readonly<Record<string, { readonly data: Float32Array }>>;
  expect(difference(got.value!.data, unpack(test.value), tolerance), "value").toBeUndefined();
  for (const [name, want] of Object.entries(test.grads))
    expect(difference(got[`d_${name}`]!.data, unpack(want), tolerance), `gradient of ${name}`).toBeUndefined();
}

const targetsOf = ({ ints }: Case) => Int32Array.from(ints.targets!);

describe("composites agree with torch in fp32", () => {
  for (const each of cases.filter(({ ints }) => ints.targets === undefined)) {
    test(each.name, async () => {
      const einsumOf: Build = (inputs) => einsum(each.name.slice("einsum ".length), ...Object.values(inputs));
      const build = each.name.startsWith("einsum ") ? einsumOf : builders[each.name];
      if (build === undefined) throw new Error(`no builder for ${each.name}`);
      await check(each, build, 4e-6);
    });
  }
});

describe("losses agree with torch in fp32", () => {
  for (const each of cases.filter(({ ints }) => ints.targets !== undefined)) {
    test(`${each.name}, targets as indices`, async () => {
      const targets = constant(targetsOf(each), [targetsOf(each).length], { dtype: "int32" });
      await check(each, lossBuilder(each, targets), 4e-6);
    });
    if (each.name.includes("ignore")) continue;
    test(`${each.name}, targets as one-hot rows`, async () => {
      const targets = oneHot(constant(targetsOf(each), [targetsOf(each).length], { dtype: "int32" }), 5, "fp32");
      await check(each, lossBuilder(each, targets), 4e-6);
    });
  }
});

describe("composites refuse what does not fit", () => {
  const x = input([2, 3], { name: "x", dtype: "fp32" });
  test.each([
    ["einsum of a repeated letter", () => einsum("ii->i", input([2, 2])), /each at most once/],
    ["einsum of other extents", () => einsum("ij,jk->ik", x, input([4, 2], { dtype: "fp32" })), /"j" is 3 and 4/],
    ["einsum with too few operands", () => einsum("ij,jk->ik", x), /names 2 operands, got 1/],
    ["einsum with an unknown result letter", () => einsum("ij->iz", x), /repeats a letter or has one/],
    ["einsum of broken text", () => einsum("ij-ik", x), /is not of the form/],
    [
      "crossEntropy of three axes",
      () => crossEntropy(input([2, 3, 4]), input([2], { dtype: "int32" })),
      /rows \[N, V\]/,
    ],
    ["crossEntropy of other rows", () => crossEntropy(x, input([3], { dtype: "int32" })), /rows \[N, V\]/],
    [
      "ignoreIndex with one-hot rows",
      () => crossEntropy(x, input([2, 3], { dtype: "fp32" }), { ignoreIndex: 0 }),
      /indices/,
    ],
    ["groups that do not divide", () => groupNorm(input([1, 5, 2, 2]), 2), /2 groups do not divide/],
    ["odd head widths in rope", () => rope(input([1, 1, 2, 3]), input([2, 1]), input([2, 1])), /is odd/],
    [
      "key heads that do not divide",
      () => attention(input([1, 4, 2, 2]), input([1, 3, 2, 2]), input([1, 3, 2, 2])),
      /3 key heads/,
    ],
  ] as const)("%s", (_, build, message) => {
    expect(build).toThrow(message);
  });
});
