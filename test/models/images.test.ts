// Networks for images against PyTorch in fp64 (test/goldens/images.json): results in evaluation and training form, gradients, running statistics, frozen form.

import { describe, expect, test } from "vitest";
import { compile, constant, freeze, grad, input, listEngines, type StateStore, type Tensor } from "../../src/index.ts";
import { Espcn, type ImageModel, MobileNetV2, ResNet, UNet, VisionTransformer } from "../../src/models/index.ts";
import type { ScopeOptions } from "../../src/nn/index.ts";
import { difference, golden, numbers, unpack } from "../goldens/figures.ts";

/** Dot product with a fixed sequence, and the product of the lengths: what an error in it is relative to. */
type Projection = readonly [number, number];

interface Case {
  readonly kind: keyof typeof kinds;
  readonly config: object;
  readonly image: readonly number[];
  readonly state: Readonly<Record<string, readonly number[]>>;
  readonly shape: readonly number[];
  readonly evaluated: string;
  readonly trained: string;
  readonly statistics: Readonly<Record<string, Projection>>;
  readonly "image gradient": Projection;
  readonly grads: Readonly<Record<string, Projection>>;
}

const kinds = { ResNet, MobileNetV2, VisionTransformer, UNet, Espcn };
const { cases } = golden<{ readonly cases: Readonly<Record<string, Case>> }>("images");
const engines = (await listEngines()).flatMap(({ name, available }) => (available && name !== "ane" ? [name] : []));

function make({ kind, config }: Case, options: ScopeOptions = { dtype: "fp32" }): ImageModel {
  return new (kinds[kind] as new (config: object, options: ScopeOptions) => ImageModel)(config, options);
}

/**
 * Largest error of a gradient. A rounding before relu6 that passes 0 or 6 switches a derivative off or on, and norms over a few values amplify
 * roundings in the 53 layers of a mobilenet: one such element is 0.02.
 */
const gradientBound = ({ kind }: Case) => (kind === "MobileNetV2" ? 0.1 : 2e-5);

const stateOf = ({ parameters, statistics }: ImageModel) => new Map([...parameters, ...statistics]);

/** Number n of the state starts as in images.py. */
function initial(name: string, shape: readonly number[], n: number): Float32Array {
  const matrix = shape.length === 4 || (shape.length === 2 && name.endsWith("weight"));
  if (matrix) return numbers(shape, n, Math.sqrt(6 / shape.slice(1).reduce((a, b) => a * b)));
  if (name.endsWith("running_var")) return numbers(shape, n, 0.5, 1);
  return numbers(shape, n, 0.2, name.endsWith("weight") ? 1 : 0);
}

function fill(model: ImageModel, figures: Case, state: StateStore): void {
  const tensors = stateOf(model);
  for (const [n, [name, shape]] of Object.entries(figures.state).entries()) {
    const tensor = tensors.get(name)!;
    if (state.has(tensor)) state.write(tensor, initial(name, shape, 300 + n));
  }
}

/** Relative to the lengths of both vectors; a bias that a norm takes away again has the gradient 0. */
function projectionError(values: ArrayLike<number>, shape: readonly number[], n: number, want: Projection): number {
  const r = numbers(shape, 700 + n);
  let dot = 0;
  for (let i = 0; i < r.length; i++) dot += values[i]! * r[i]!;
  return Math.abs(dot - want[0]) / Math.max(1, want[1]);
}

describe.each(Object.entries(cases))("%s", (_title, figures) => {
  test("has the names and shapes that torch has", () => {
    const ours = [...stateOf(make(figures))].map(([name, { shape }]): [string, readonly number[]] => [name, shape]);
    expect(Object.fromEntries(ours)).toEqual(figures.state);
  });

  test.each(engines)("evaluates as torch, as state and frozen, on %s", async (engine) => {
    const model = make(figures);
    const x = input(figures.image, { name: "x", dtype: "fp32" });
    const y = model.forward(x);
    expect(y.shape).toEqual(figures.shape);
    await using program = await compile({ y }, { engine });
    fill(model, figures, program.state);
    const feeds = { x: numbers(figures.image, 1) };
    expect(difference(program.runSync(feeds).y.data, unpack(figures.evaluated), 1e-5)).toBeUndefined();
    const frozen = freeze({ y }, { state: program.state });
    await using constants = await compile(frozen, { engine });
    expect(constants.plan.states).toEqual([]);
    expect(Object.keys(constants.report().stages[0]!.operators)).not.toContain("batch_norm");
    expect(difference(constants.runSync(feeds).y.data, unpack(figures.evaluated), 1e-5)).toBeUndefined();
  });

  test.each(engines)("trains as torch, on %s", async (engine) => {
    const model = make(figures);
    const x = input(figures.image, { name: "x", dtype: "fp32" });
    const updates = new Map<Tensor, Tensor>();
    const y = model.forward(x, { updates });
    expect(new Set(updates.keys())).toEqual(new Set(model.statistics.values()));
    const cotangent = constant(numbers(figures.shape, 99), figures.shape, { dtype: "fp32" });
    const [dx, ...gradients] = grad(y, [x, ...model.parameters.values()], { cotangent });
    const outputs = Object.fromEntries(gradients.map((g, i) => [`g${i}`, g]));
    await using program = await compile({ y, dx: dx!, ...outputs }, { engine, update: updates });
    fill(model, figures, program.state);
    const got = program.runSync({ x: numbers(figures.image, 1) }) as Readonly<Record<string, { data: Float32Array }>>;
    expect(difference(got.y!.data, unpack(figures.trained), 1e-4)).toBeUndefined();
    expect(projectionError(got.dx!.data, figures.image, 50, figures["image gradient"])).toBeLessThan(
      gradientBound(figures),
    );
    for (const [i, [name, { shape }]] of [...model.parameters].entries()) {
      expect(projectionError(got[`g${i}`]!.data, shape, i, figures.grads[name]!), name).toBeLessThan(
        gradientBound(figures),
      );
    }
    for (const [n, [name, want]] of Object.entries(figures.statistics).entries()) {
      const { data, shape } = program.state.read(model.statistics.get(name)!);
      expect(projectionError(data, shape, n, want), name).toBeLessThan(1e-5);
    }
  });
});

test("fp16 stays near", async () => {
  for (const [title, figures] of Object.entries(cases)) {
    const model = make(figures, { dtype: "fp16" });
    await using program = await compile({ x: figures.image }, ({ x }) => ({ y: model.forward(x) }), { engine: "sim" });
    fill(model, figures, program.state);
    const feeds = { x: numbers(figures.image, 1) };
    // Roundings of 2^-11 in up to 53 layers.
    expect(difference(program.runSync(feeds).y.data, unpack(figures.evaluated), 0.03), title).toBeUndefined();
  }
});
