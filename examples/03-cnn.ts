// A small convolutional network learns 8x8 digits: convolutions with trained weights, pooling, group norm, and where its time goes.
// Run: npx tsx examples/03-cnn.ts [steps]

import { compile, input, type Tensor } from "anekit";
import { crossEntropy, groupNorm, Linear, Scope } from "anekit/nn";
import { adamw } from "anekit/optim";
import { syntheticDigits, type Task, type Trainer, train } from "anekit/train";

const steps = Number(process.argv[2] ?? 240);
const batch = 16;
const size = 8;
const digits = syntheticDigits({ count: 1000, seed: 3, size });
const test = syntheticDigits({ count: 200, seed: 4, size });

const scope = new Scope({ dtype: "fp16", seed: 2 });
const conv1 = scope.parameter("conv1", [8, 1, 3, 3], { std: 1 / 3 });
const conv2 = scope.parameter("conv2", [16, 8, 3, 3], { std: 1 / Math.sqrt(72) });
const gamma = scope.parameter("norm.gamma", [8], { value: 1 });
const beta = scope.parameter("norm.beta", [8], { value: 0 });
const head = new Linear(scope.at("head"), 16, 10);

/** [B, 1, 8, 8] to logits [B, 10]. */
function model(x: Tensor): Tensor {
  const first = groupNorm(x.conv(conv1, { pad: 1 }), 2, { gamma, beta })
    .relu()
    .maxPool(2); // [B, 8, 4, 4]
  const second = first.conv(conv2, { pad: 1 }).relu(); // [B, 16, 4, 4]
  return head.forward(second.mean([2, 3]));
}

const images = input([batch, 1, size, size], { name: "images" });
const labels = input([batch], { name: "labels", dtype: "int32" });
const task: Task = {
  name: "digits, convolutional",
  parameters: scope.parameters,
  loss: crossEntropy(model(images), labels),
  itemsPerBatch: batch,
  batch: (index) => {
    const start = (index * batch) % (digits.labels.length - batch);
    const from = start * size * size;
    return {
      images: digits.images.slice(from, from + batch * size * size),
      labels: digits.labels.slice(start, start + batch),
    };
  },
};

let trainer: Trainer | undefined;
for await (const event of train(task, {
  optimizer: adamw({ learningRate: 2e-2 }),
  steps,
  onTrainer: (made) => (trainer = made),
})) {
  if (event.type === "step" && event.step % 40 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
  if (event.type === "end" && trainer !== undefined) {
    const build = ({ x }: { x: Tensor }) => ({ scores: model(x) });
    await using classify = await compile({ x: [test.labels.length, 1, size, size] }, build, { state: trainer.state });
    const { scores } = await classify.run({ x: test.images });
    const rows = scores.toNested() as number[][]; // the Neural Engine has no integers: the largest score is found here
    const right = test.labels.filter((label, i) => label === rows[i]!.indexOf(Math.max(...rows[i]!))).length;
    console.log(`accuracy on digits it has not seen: ${((100 * right) / test.labels.length).toFixed(1)} %`);
    const [stage] = classify.report().stages;
    console.log(
      `the classifier: ${stage?.instructions} operators, ${((stage?.flops ?? 0) / 1e6).toFixed(1)} million operations`,
    );
  }
}
