// A ResNet-18 classifies an image: weights frozen, batch norms folded into convolutions, the five best classes, and milliseconds an image.
// Its weights are random, so its classes mean nothing. Run: npx tsx examples/06-image.ts [model] [side of the image]

import { AnekitError, ConfigError, compile, freeze } from "anekit";
import { findImagePreset } from "anekit/models";

process.on("uncaughtException", (error) => {
  console.error(error instanceof AnekitError ? error.message : error);
  process.exit(1);
});

const name = process.argv[2] ?? "resnet-18";
const { image, make } = findImagePreset(name);
const channels = image[0]!;
const side = Number(process.argv[3] ?? image[1]);
if (!(Number.isInteger(side) && side > 0))
  throw new ConfigError("example", `the image's side is "${process.argv[3]}", not a number of pixels`);
const model = make({ dtype: "fp16", seed: 1 });
console.log(`${name}: ${(model.parameterCount / 1e6).toFixed(1)} million parameters`);

await using net = await compile({ pixels: [1, channels, side, side] }, ({ pixels }) => {
  const scores = model.forward(pixels);
  if (scores.rank !== 2) throw new ConfigError("example", `${name} gives an image, not a score for each class`);
  return freeze({ scores });
});
const [stage] = net.report().stages;
const operations = `${((stage?.flops ?? 0) / 1e9).toFixed(2)} billion operations`;
console.log(`${stage?.instructions} operators, ${operations}, on engine ${net.engine.name}`);

// Waves on a gradient, in the range of normalized pixels.
const pixels = Float32Array.from({ length: channels * side * side }, (_, i) => {
  const [x, y, channel] = [i % side, Math.floor(i / side) % side, Math.floor(i / side ** 2)];
  return (x - y) / side + Math.sin((x * (channel + 1)) / 9) * Math.cos(y / 7);
});
const { scores } = await net.run({ pixels });
const ranked = Array.from(scores.data, (score, index) => ({ index, score })).sort((a, b) => b.score - a.score);
for (const { index, score } of ranked.slice(0, 5))
  console.log(`class ${String(index).padStart(3)}: ${score.toFixed(2)}`);

const times = Array.from({ length: 9 }, () => {
  const started = performance.now();
  net.runSync({ pixels });
  return performance.now() - started;
}).sort((a, b) => a - b);
console.log(`${times[4]!.toFixed(1)} ms an image (median of ${times.length})`);
