// A character transformer learns a text by heart in fp16 alone, then recites it. Shows training, the loss scale, and generation from resident weights.
// Run: npx tsx examples/04-transformer.ts [steps]

import { Gpt, TextGenerator } from "anekit/models";
import { adamw, warmupCosine } from "anekit/optim";
import { byteTokenizer, TokenDataset, type Trainer, train } from "anekit/train";

const steps = Number(process.argv[2] ?? 200);
const verse = "the quick brown fox jumps over the lazy dog. pack my box with five dozen liquor jugs. ";
const text = verse.repeat(20);

const sequenceLen = 32;
const data = new TokenDataset(byteTokenizer.encode(text), { sequenceLen, vocabSize: 256, name: "verse" });
const model = new Gpt({ vocabSize: 256, sequenceLen, nLayer: 2, nHead: 2, nEmbd: 32 }, { dtype: "fp16", seed: 1 });
console.log(`${model.parameterCount} parameters`);

let trainer: Trainer | undefined;
const events = train(model, {
  data,
  batchSize: 4,
  steps,
  precision: "fp16", // weights and moments too: all that the Neural Engine has
  optimizer: adamw({ learningRate: warmupCosine({ learningRate: 2e-2, steps, warmupSteps: 10 }), weightDecay: 0 }),
  onTrainer: (made) => (trainer = made),
});
for await (const event of events) {
  if (event.type === "start") console.log(`engine ${event.engine}, ${event.precision}`);
  if (event.type === "step" && event.step % 20 === 0) {
    console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}, loss scale ${event.lossScale}`);
  }
  if (event.type === "end" && trainer !== undefined) {
    // The generator shares the trainer's state: no weights are copied.
    using generator = await TextGenerator.create(model, { state: trainer.state });
    let recited = "";
    for await (const piece of generator.generate("the quick", { maxTokens: 60, temperature: 0 })) recited += piece.text;
    console.log(`the quick${recited}`);
  }
}
