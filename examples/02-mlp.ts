// A multi-layer perceptron learns digits (drawn by the package, nothing is downloaded); a program of its own measures the accuracy with the same weights.
// Run: npx tsx examples/02-mlp.ts [steps]

import { compile, input, type Tensor } from "anekit";
import { crossEntropy, Linear, Scope } from "anekit/nn";
import { adamw, warmupCosine } from "anekit/optim";
import { syntheticDigits, type Task, type Trainer, train } from "anekit/train";

const steps = Number(process.argv[2] ?? 150);
const batch = 32;
const digits = syntheticDigits({ count: 2000, seed: 1 });
const test = syntheticDigits({ count: 500, seed: 2 });
const pixels = digits.images.length / digits.labels.length;

// The model: two layers. A scope names and seeds their parameters.
const scope = new Scope({ dtype: "fp16", seed: 1 });
const hidden = new Linear(scope.at("hidden"), pixels, 32);
const output = new Linear(scope.at("output"), 32, 10);
const model = (images: Tensor) => output.forward(hidden.forward(images).relu());

const images = input([batch, pixels], { name: "images" });
const labels = input([batch], { name: "labels", dtype: "int32" });
const task: Task = {
  name: "digits",
  parameters: scope.parameters,
  loss: crossEntropy(model(images), labels),
  itemsPerBatch: batch,
  batch: (index) => {
    const start = (index * batch) % (digits.labels.length - batch);
    return {
      images: digits.images.slice(start * pixels, (start + batch) * pixels),
      labels: digits.labels.slice(start, start + batch),
    };
  },
};

let trainer: Trainer | undefined;
const optimizer = adamw({ learningRate: warmupCosine({ learningRate: 1e-2, steps, warmupSteps: 10 }) });
for await (const event of train(task, { optimizer, steps, onTrainer: (made) => (trainer = made) })) {
  if (event.type === "start") console.log(`${event.parameters} parameters, ${event.precision}, engine ${event.engine}`);
  if (event.type === "step" && event.step % 30 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
  if (event.type === "end" && trainer !== undefined) {
    // Another program over the resident weights: all test images at once.
    const build = ({ x }: { x: Tensor }) => ({ scores: model(x) });
    await using classify = await compile({ x: [test.labels.length, pixels] }, build, { state: trainer.state });
    const { scores } = await classify.run({ x: test.images });
    const rows = scores.toNested() as number[][]; // the Neural Engine has no integers: the largest score is found here
    const right = test.labels.filter((label, i) => label === rows[i]!.indexOf(Math.max(...rows[i]!))).length;
    console.log(`accuracy on digits it has not seen: ${((100 * right) / test.labels.length).toFixed(1)} %`);
  }
}
