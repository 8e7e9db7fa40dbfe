// What must fit every chip: training steps of the transformers, the perceptron and the convolutional network of examples/, and decoders.

import { sizeOf } from "../../src/core/shape.ts";
import { input, parameter, type Tensor } from "../../src/index.ts";
import { buildPlan, type Plan } from "../../src/ir/plan.ts";
import type { Program } from "../../src/ir/program.ts";
import { Gpt } from "../../src/models/index.ts";
import { crossEntropy, groupNorm, Linear, Scope } from "../../src/nn/index.ts";
import { adamw } from "../../src/optim/index.ts";
import { precisionPolicy } from "../../src/train/precision.ts";
import { buildTraining } from "../../src/train/step.ts";
import { languageModelTask, type Task } from "../../src/train/task.ts";
import { makeRandom } from "../plans/eager-engine.ts";

export type Architecture = "llama" | "gpt2";

export function gpt(architecture: Architecture, nLayer = 2): Gpt {
  return new Gpt({ architecture, vocabSize: 64, sequenceLen: 16, nLayer, nHead: 2, nEmbd: 32 }, { seed: 7 });
}

function stepOf(task: Task, precision: "fp16" | "mixed", accumulation: number): Plan[] {
  const { accumulate, apply } = buildTraining({
    task,
    optimizer: adamw({ learningRate: 1e-3 }),
    policy: precisionPolicy(precision),
    clipNorm: 1,
    accumulation,
    hostStages: true,
  });
  return [apply, accumulate].flatMap((graph) =>
    graph === undefined
      ? []
      : buildPlan({ outputs: new Map(Object.entries(graph.outputs)), updates: graph.update, stages: graph.stages }),
  );
}

/** The update, and with accumulation the micro-step before it. */
export function gptSteps(
  architecture: Architecture,
  {
    precision = "fp16",
    accumulation = 1,
    nLayer = 2,
  }: { precision?: "fp16" | "mixed"; accumulation?: number; nLayer?: number } = {},
): Plan[] {
  const data = { vocabSize: 64, sequenceLen: 16 } as Parameters<typeof languageModelTask>[1]["data"];
  return stepOf(
    languageModelTask(gpt(architecture, nLayer), { data, batchSize: 2, oneHot: true }),
    precision,
    accumulation,
  );
}

/** The program of a plan that the chip runs. */
export function chipProgram({ stages }: Plan): Program {
  return stages.find(({ on }) => on === undefined)!.program;
}

/** Feeds of a first step: initial state, random one-hot rows, the optimizer's scalars. */
export function stepFeeds(plan: Plan, momentScale = 1024): Map<string, number[]> {
  const program = chipProgram(plan);
  const random = makeRandom(5);
  const initial = new Map(plan.states.map(({ buffer, parameter: { initial: from } }) => [buffer, from]));
  const lossScale = 128;
  const scalars = Object.entries(adamw({ learningRate: 1e-3 }).scalars(0, 1e-3, momentScale));
  const fixed: Record<string, number> = {
    loss_scale: lossScale,
    grad_scale: momentScale / lossScale,
    ...Object.fromEntries(scalars.map(([name, value]) => [`optimizer_${name}`, value])),
  };
  return new Map(
    program.inputs.map(({ name, value }): [string, number[]] => {
      const { shape } = program.values[value]!;
      const from = initial.get(name) ?? fixed[name];
      if (typeof from === "number") return [name, new Array<number>(sizeOf(shape)).fill(from)];
      if (from !== undefined) return [name, Array.from(from)];
      const width = shape.at(-1)!;
      const rows = new Array<number>(sizeOf(shape)).fill(0);
      for (let row = 0; row < rows.length; row += width) rows[row + Math.floor(random() * width)] = 1;
      return [name, rows];
    }),
  );
}

/** One token of one sequence, with its caches as state. */
export function decoder(architecture: Architecture): Plan {
  const model = gpt(architecture);
  const { sequenceLen, nLayer, nKvHead, nEmbd, nHead, vocabSize } = model.config;
  const token = input([1, 1, vocabSize], { name: "token" });
  const position = {
    oneHot: input([1, sequenceLen], { name: "position" }),
    mask: input([1, sequenceLen], { name: "mask" }),
  };
  const updates = new Map<Tensor, Tensor>();
  const caches = Array.from({ length: nLayer }, (_, layer) => {
    const cache = (name: string) =>
      parameter(0, [nKvHead, sequenceLen, nEmbd / nHead], { name: `cache.${layer}.${name}` });
    const [keys, values] = [cache("keys"), cache("values")];
    return { keys, values, store: (k: Tensor, v: Tensor) => void updates.set(keys, k).set(values, v) };
  });
  const { logits } = model.decode(token, position, caches);
  return buildPlan({ name: "decode", outputs: new Map([["logits", logits]]), updates });
}

function classifier(scope: Scope, images: Tensor, logits: Tensor): Task {
  const labels = input([images.shape[0]!, 10], { name: "labels" });
  return {
    name: "digits",
    parameters: scope.parameters,
    loss: crossEntropy(logits, labels),
    itemsPerBatch: 4,
    batch: () => ({}),
  };
}

/** Step of examples/02-mlp.ts, its labels as one-hot rows. */
export function mlpSteps(): Plan[] {
  const scope = new Scope({ dtype: "fp16", seed: 1 });
  const images = input([32, 64], { name: "images" });
  const hidden = new Linear(scope.at("hidden"), 64, 32);
  const output = new Linear(scope.at("output"), 32, 10);
  return stepOf(classifier(scope, images, output.forward(hidden.forward(images).relu())), "fp16", 1);
}

/** Step of examples/03-cnn.ts, its labels as one-hot rows: convolutions whose weights are trained. */
export function cnnSteps(): Plan[] {
  const scope = new Scope({ dtype: "fp16", seed: 2 });
  const images = input([4, 1, 8, 8], { name: "images" });
  const conv1 = scope.parameter("conv1", [8, 1, 3, 3], { std: 1 / 3 });
  const conv2 = scope.parameter("conv2", [16, 8, 3, 3], { std: 1 / Math.sqrt(72) });
  const gamma = scope.parameter("norm.gamma", [8], { value: 1 });
  const beta = scope.parameter("norm.beta", [8], { value: 0 });
  const head = new Linear(scope.at("head"), 16, 10);
  const first = groupNorm(images.conv(conv1, { pad: 1 }), 2, { gamma, beta })
    .relu()
    .maxPool(2);
  const logits = head.forward(first.conv(conv2, { pad: 1 }).relu().mean([2, 3]));
  return stepOf(classifier(scope, images, logits), "fp16", 1);
}
