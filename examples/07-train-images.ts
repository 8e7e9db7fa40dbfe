// A convolutional network learns pictures of clothes (Fashion-MNIST) where they are on this machine, else digits that are drawn here.
// Run: npx tsx examples/07-train-images.ts [steps]

import { Cnn } from "anekit/models";
import { adamw, warmupCosine } from "anekit/optim";
import { channelStatistics, digitImages, fashionMnist, ImageBatches, train } from "anekit/train";

const steps = Number(process.argv[2] ?? 300);
const { training, test } = await fashionMnist().catch((error: Error) => {
  console.log(error.message); // says how to get it
  return digitImages({ training: 2000, test: 500 });
});
console.log(`${training.name}: ${training.labels.length} images of ${training.shape.join(" x ")}`);

// Every image is seen once an epoch, mirrored and moved at random; what is measured stays as it is.
const normalization = channelStatistics(training);
const augmentation = training.name.startsWith("Fashion") ? { crop: 1, flip: true } : { crop: 1 };
const data = new ImageBatches(training, { batchSize: 64, normalization, augmentation });
const validation = new ImageBatches(test, { batchSize: 250, normalization });

const { shape: imageShape, classes } = training;
const model = new Cnn({ imageShape, classes: classes.length, channels: [16, 32, 64], head: "flatten" });
const learningRate = warmupCosine({ learningRate: 4e-3, steps, warmupSteps: Math.min(30, steps) });
for await (const event of train(model, { data, validation, steps, optimizer: adamw({ learningRate }) })) {
  if (event.type === "start") console.log(`${event.parameters} parameters, ${event.precision}, engine ${event.engine}`);
  if (event.type === "step" && event.step % 50 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
  if (event.type === "validation")
    console.log(`classes found in images it has not seen: ${(100 * event.accuracy!).toFixed(1)} %`);
}
