// Group "training": a few steps of small models in every policy that the engine can do; losses beside the simulator's.

import { syntheticDigits } from "../../data/index.ts";
import { input, type Tensor } from "../../index.ts";
import { Gpt } from "../../models/index.ts";
import { crossEntropy, groupNorm, Linear, Scope } from "../../nn/index.ts";
import { adamw } from "../../optim/index.ts";
import { languageModelTask, type PrecisionName, type Task, TokenDataset, Trainer } from "../../train/index.ts";
import { type Bench, type Check, expect, type Finding, type Group } from "./group.ts";

const precisions: readonly PrecisionName[] = ["fp16", "mixed", "fp32"];
const batch = 8;
const size = 8;

const dtypeOf = (precision: PrecisionName) => (precision === "fp32" ? "fp32" : "fp16");

/** Digits with one-hot labels: the chip has no integer ports. */
function digitsTask(
  name: string,
  precision: PrecisionName,
  shape: number[],
  scope: Scope,
  model: (x: Tensor) => Tensor,
) {
  const digits = syntheticDigits({ count: 10 * batch, seed: 3, size });
  const dtype = dtypeOf(precision);
  const images = input(shape, { name: "images", dtype });
  const labels = input([batch, 10], { name: "labels", dtype });
  const loss = crossEntropy(model(images), labels);
  return {
    name,
    parameters: scope.parameters,
    loss,
    itemsPerBatch: batch,
    batch: (index) => {
      const start = (index % 10) * batch;
      const rows = new Float32Array(batch * 10);
      for (let i = 0; i < batch; i++) rows[i * 10 + digits.labels[start + i]!] = 1;
      return { images: digits.images.slice(start * size * size, (start + batch) * size * size), labels: rows };
    },
  } satisfies Task;
}

/** Three layers of a perceptron. */
export function mlpTask(precision: PrecisionName): Task {
  const scope = new Scope({ dtype: dtypeOf(precision), seed: 2 });
  const layers = [
    new Linear(scope.at("layers.0"), size * size, 32),
    new Linear(scope.at("layers.1"), 32, 32),
    new Linear(scope.at("layers.2"), 32, 10),
  ];
  return digitsTask("perceptron", precision, [batch, size * size], scope, (x) =>
    layers[2]!.forward(layers[1]!.forward(layers[0]!.forward(x).relu()).relu()),
  );
}

/** Two convolutions whose weights are trained, so are no constants, with a norm and pooling. */
function cnnTask(precision: PrecisionName): Task {
  const scope = new Scope({ dtype: dtypeOf(precision), seed: 2 });
  const conv1 = scope.parameter("conv1", [8, 1, 3, 3], { std: 1 / 3 });
  const conv2 = scope.parameter("conv2", [16, 8, 3, 3], { std: 1 / Math.sqrt(72) });
  const gamma = scope.parameter("norm.gamma", [8], { value: 1 });
  const beta = scope.parameter("norm.beta", [8], { value: 0 });
  const head = new Linear(scope.at("head"), 16, 10);
  return digitsTask("convolutional", precision, [batch, 1, size, size], scope, (x) => {
    const first = groupNorm(x.conv(conv1, { pad: 1 }), 2, { gamma, beta })
      .relu()
      .maxPool(2);
    return head.forward(first.conv(conv2, { pad: 1 }).relu().mean([2, 3]));
  });
}

/** A transformer over a pattern of 16 symbols, one-hot. */
function gptTask(architecture: "llama" | "gpt2", precision: PrecisionName): Task {
  const shape = { architecture, vocabSize: 16, sequenceLen: 8, nLayer: 2, nHead: 2, nEmbd: 16, hiddenDim: 32 } as const;
  const model = new Gpt(shape, { dtype: dtypeOf(precision), seed: 1 });
  const tokens = Uint8Array.from({ length: 400 }, (_, i) => (i * 5 + Math.floor(i / 7) * 3) % 16);
  const data = new TokenDataset(tokens, { sequenceLen: 8, vocabSize: 16 });
  return languageModelTask(model, { data, batchSize: 2, seed: 3, oneHot: true });
}

async function losses(task: Task, precision: PrecisionName, engine: Bench["device"] | "sim", count: number) {
  using trainer = await Trainer.create({ task, precision, engine, optimizer: adamw({ learningRate: 0.01 }) });
  const list: number[] = [];
  let skipped = 0;
  for (let step = 0; step < count; step++) {
    const event = await trainer.step();
    list.push(event.loss);
    if (event.skipped) skipped++;
  }
  return { list, skipped };
}

/** Relative distance of losses that is allowed: steps amplify roundings. */
const allowed: Readonly<Record<PrecisionName, number>> = { fp16: 0.02, mixed: 0.02, fp32: 1e-3 };

async function train(make: () => Task, precision: PrecisionName, count: number, { device }: Bench): Promise<Finding> {
  const got = await losses(make(), precision, device, count);
  const want = await losses(make(), precision, "sim", count);
  const far = Math.max(...got.list.map((loss, i) => Math.abs(loss - want.list[i]!) / Math.abs(want.list[i]!)));
  const seen = { losses: got.list, simulator: want.list, skipped: got.skipped, relative: far };
  const digits = (list: readonly number[]) => list.map((loss) => loss.toFixed(4)).join(" ");
  expect(far <= allowed[precision], () => `losses ${digits(got.list)}, the simulator's ${digits(want.list)}`, seen);
  expect(
    got.skipped === want.skipped,
    () => `${got.skipped} steps skipped, the simulator skipped ${want.skipped}`,
    seen,
  );
  return { seen };
}

export const training: Group = {
  name: "training",
  summary: "steps of a perceptron, a convolutional net and transformers; losses beside the simulator's",
  checkSeconds: 240,
  seconds: { quick: 180, full: 900 },
  checks: ({ quick }): Check[] => {
    const models = [
      ["perceptron", mlpTask],
      ["convolutional net", cnnTask],
      ["llama", (precision: PrecisionName) => gptTask("llama", precision)],
      ["gpt2", (precision: PrecisionName) => gptTask("gpt2", precision)],
    ] as const;
    return models.flatMap(([name, make]) =>
      precisions.map((precision) => ({
        name: `${name}, ${precision}`,
        run: (bench: Bench) => train(() => make(precision), precision, quick ? 3 : 12, bench),
      })),
    );
  },
};
