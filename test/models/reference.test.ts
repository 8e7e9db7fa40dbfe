// Whole training steps of two tiny GPTs against plain torch (test/goldens/models.json), and precision policies against fp32.

import { describe, expect, test } from "vitest";
import { compile, grad, input } from "../../src/index.ts";
import { Gpt } from "../../src/models/index.ts";
import { crossEntropy } from "../../src/nn/index.ts";
import { adamw } from "../../src/optim/index.ts";
import { type PrecisionName, type StepEvent, type Task, Trainer } from "../../src/train/index.ts";
import { difference, golden, numbers, unpack } from "../goldens/figures.ts";
import { architectures, dtypeOf } from "../train/tiny.ts";

interface Figures {
  readonly config: Readonly<
    Record<"vocabSize" | "sequenceLen" | "batch" | "nEmbd" | "nHead" | "nKvHead" | "nLayer" | "hiddenDim", number>
  >;
  readonly optimizer: { readonly learningRate: number; readonly weightDecay: number; readonly clipNorm: number };
  readonly models: Readonly<
    Record<
      (typeof architectures)[number],
      {
        readonly shapes: Readonly<Record<string, readonly number[]>>;
        readonly losses: readonly number[];
        readonly norms: readonly number[];
        readonly logits: string;
        readonly grads: Readonly<Record<string, string>>;
        readonly after: Readonly<Record<string, string>>;
      }
    >
  >;
}

const { config, optimizer: rates, models } = golden<Figures>("models");
const { batch: batchSize, ...shape } = config;

/** Parameter number n of a model starts as in models.py. */
function initialOf(shapes: Readonly<Record<string, readonly number[]>>): Map<string, Float32Array> {
  return new Map(
    Object.entries(shapes).map(([name, extents], n) => {
      const gain = name.endsWith("gamma");
      return [name, numbers(extents, 300 + n, gain ? 0.2 : 0.5, gain ? 1 : 0)];
    }),
  );
}

function batch(step: number, copies = 1): { tokens: number[]; targets: number[] } {
  const rows = Array.from({ length: batchSize }, (_, r) =>
    Array.from(
      { length: shape.sequenceLen + 1 },
      (_, i) => (i * 5 + step * 11 + r * 13 + Math.floor((i * i) / 3)) % shape.vocabSize,
    ),
  );
  const many = Array.from({ length: copies }, () => rows).flat();
  return { tokens: many.flatMap((row) => row.slice(0, -1)), targets: many.flatMap((row) => row.slice(1)) };
}

function build(architecture: (typeof architectures)[number], precision: PrecisionName) {
  const model = new Gpt({ architecture, ...shape }, { dtype: dtypeOf(precision) });
  const tokens = input([batchSize, shape.sequenceLen], { name: "tokens", dtype: "int32" });
  const targets = input([batchSize * shape.sequenceLen], { name: "targets", dtype: "int32" });
  const { logits, residuals } = model.forward(tokens);
  const task: Task = {
    name: architecture,
    parameters: model.parameters,
    loss: crossEntropy(logits, targets),
    watch: [logits, ...residuals],
    batch,
    itemsPerBatch: 1,
  };
  return { model, task, logits };
}

/** Events of three steps, and the weights after them by name. */
async function threeSteps(architecture: (typeof architectures)[number], precision: PrecisionName) {
  const { task } = build(architecture, precision);
  const { learningRate, weightDecay, clipNorm } = rates;
  using trainer = await Trainer.create({
    task,
    optimizer: adamw({ learningRate, weightDecay }),
    precision,
    clipNorm,
    engine: "sim",
  });
  const initial = initialOf(models[architecture].shapes);
  for (const tensors of [task.parameters, trainer.weights])
    for (const [name, tensor] of tensors) trainer.state.write(tensor, initial.get(name)!);
  const events: StepEvent[] = [];
  for (let step = 0; step < 3; step++) events.push(await trainer.step());
  const after = new Map([...trainer.weights].map(([name, tensor]) => [name, trainer.state.read(tensor).data]));
  return { events, after };
}

describe.each(architectures)("a tiny %s", (architecture) => {
  const figures = models[architecture];

  test("has the parameters that the reference has", () => {
    const { model } = build(architecture, "fp32");
    const shapes = [...model.parameters].map(([name, tensor]) => [name, tensor.shape]);
    expect(shapes).toEqual(Object.entries(figures.shapes));
  });

  test("has torch's logits, loss and gradients in fp32", async () => {
    const { model, task, logits } = build(architecture, "fp32");
    const names = [...model.parameters.keys()];
    const grads = grad(task.loss, [...model.parameters.values()]);
    const outputs = Object.fromEntries(grads.map((g, i) => [`g${i}`, g]));
    await using program = await compile({ loss: task.loss, logits, ...outputs }, { engine: "sim" });
    const initial = initialOf(figures.shapes);
    for (const [name, tensor] of model.parameters) program.state.write(tensor, initial.get(name)!);
    const got = program.runSync(batch(0)) as unknown as Record<string, { readonly data: Float32Array }>;
    expect(Math.abs(got.loss!.data[0]! - figures.losses[0]!)).toBeLessThan(2e-6 * figures.losses[0]!);
    expect(difference(got.logits!.data, unpack(figures.logits), 1e-5)).toBeUndefined();
    // fp32 sums in another order through four layers: 2e-5 of the largest element.
    for (const [i, name] of names.entries())
      expect(difference(got[`g${i}`]!.data, unpack(figures.grads[name]!), 2e-5, 1e-2), name).toBeUndefined();
  });

  test("has torch's losses, norms and parameters over three clipped AdamW steps in fp32", async () => {
    const { events, after } = await threeSteps(architecture, "fp32");
    for (const [step, { loss, gradNorm, skipped }] of events.entries()) {
      expect(skipped).toBe(false);
      expect(Math.abs(loss / figures.losses[step]! - 1)).toBeLessThan(1e-5);
      expect(Math.abs(gradNorm! / figures.norms[step]! - 1)).toBeLessThan(1e-4);
    }
    expect(figures.norms[0]).toBeGreaterThan(1); // clipping took part
    for (const [name, want] of Object.entries(figures.after)) {
      if (name.endsWith("wk.bias")) continue; // softmax does not see it: its gradient is rounding noise, which Adam blows up
      const [a, b] = [after.get(name)!, unpack(want)];
      // Adam turns a gradient's sign into a step: elements whose gradient is near 0 may differ by more, but never by half a step.
      const off = Array.from(a, (x, i) => Math.abs(x - b[i]!)).sort((x, y) => y - x);
      expect(off[0], name).toBeLessThan(0.5 * rates.learningRate);
      expect(off[Math.floor(off.length / 10)], name).toBeLessThan(1e-5);
    }
  });

  // Bounds: fp16 has 11 bits, the losses of these models are near 5 and pass some fifty roundings.
  test.each([
    ["mixed", 0.01, 0.02],
    ["fp16", 0.01, 0.03],
  ] as const)("stays near torch's fp32 in precision %s", async (precision, lossBound, normBound) => {
    const { events, after } = await threeSteps(architecture, precision);
    for (const [step, { loss, gradNorm, skipped }] of events.entries()) {
      expect(skipped).toBe(false);
      expect(Math.abs(loss / figures.losses[step]! - 1)).toBeLessThan(lossBound);
      expect(Math.abs(gradNorm! / figures.norms[step]! - 1)).toBeLessThan(normBound);
    }
    const initial = initialOf(figures.shapes);
    let [same, all] = [0, 0];
    for (const [name, want] of Object.entries(figures.after)) {
      const [a, b, from] = [after.get(name)!, unpack(want), initial.get(name)!];
      for (let i = 0; i < b.length; i++) {
        all++;
        if (Math.abs(a[i]! - b[i]!) < 0.3 * Math.abs(b[i]! - from[i]!) + 2 ** -11 * Math.abs(b[i]!)) same++;
      }
    }
    expect(same / all).toBeGreaterThan(0.95); // of the movements are right to a third
  });
});
