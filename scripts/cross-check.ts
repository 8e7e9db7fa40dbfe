// Trains the same model from the same weights on the same tokens here and in PyTorch, and compares the losses step by step:
// npx tsx scripts/cross-check.ts [110M|15M|0.9M] [STEPS]. Needs the peers that `npm run bench` installs.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Gpt } from "../src/models/index.ts";
import { adamw } from "../src/optim/index.ts";
import { TokenDataset, Trainer } from "../src/train/index.ts";
import { languageModelTask } from "../src/train/task.ts";
import { askPeer, requirePython } from "./peers.ts";

const shapes = {
  "110M": { vocabSize: 32000, sequenceLen: 256, nLayer: 12, nHead: 12, nEmbd: 768, hiddenDim: 2048 },
  "15M": { vocabSize: 32000, sequenceLen: 256, nLayer: 6, nHead: 6, nEmbd: 288, hiddenDim: 768 },
  "0.9M": { vocabSize: 256, sequenceLen: 128, nLayer: 4, nHead: 4, nEmbd: 128, hiddenDim: 352 },
} as const;

/** Largest difference of two losses: rounding differs from the first product on, and training amplifies it. */
const tolerance = 2e-3;
const learningRate = 1e-4;

const name = (process.argv[2] ?? "15M") as keyof typeof shapes;
const steps = Number(process.argv[3] ?? 20);
const shape = shapes[name];
if (shape === undefined) {
  process.stderr.write(`cross-check: no model ${name}; there are ${Object.keys(shapes).join(", ")}\n`);
  process.exit(2);
}
const python = requirePython("cross-check", "torch", "npm run bench -- mlp");

const model = new Gpt(shape, { dtype: "fp32", seed: 1 });
const text = Int32Array.from(
  { length: 8 * shape.sequenceLen + 1 },
  (_, i) => (i * 7919 + (i >> 3) * 104729) % shape.vocabSize,
);
const data = new TokenDataset(text, { sequenceLen: shape.sequenceLen, vocabSize: shape.vocabSize, name: "numbers" });
const task = languageModelTask(model, { data, batchSize: 1, seed: 1 });

const folder = mkdtempSync(join(tmpdir(), "anekit-cross-check-"));
try {
  let at = 0;
  const chunks: Uint8Array[] = [];
  const weights = [...model.parameters].map(([each, { node, shape: extents, size }]) => {
    const initial = node.kind === "parameter" ? node.initial : 0;
    const values = typeof initial === "number" ? new Float32Array(size).fill(initial) : (initial as Float32Array);
    chunks.push(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    at += values.byteLength;
    return [each, extents, at - values.byteLength, size];
  });
  writeFileSync(join(folder, "weights.bin"), Buffer.concat(chunks));
  const batches = Array.from({ length: steps }, (_, step) => {
    const { tokens, targets } = task.batch(step) as { tokens: Int32Array; targets: Int32Array };
    return [[...tokens], [...targets]];
  });
  const {
    nEmbd: dim,
    hiddenDim: hidden,
    nLayer: layers,
    nHead: heads,
    sequenceLen: sequence,
    vocabSize: vocab,
  } = shape;
  const plan = { threads: 2, model: { dim, hidden, layers, heads, sequence, vocab }, learningRate, weights, batches };
  writeFileSync(join(folder, "plan.json"), JSON.stringify(plan));

  const theirs = askPeer<{ torch: string; losses: number[] }>(python, "losses", folder);

  using trainer = await Trainer.create({ task, optimizer: adamw({ learningRate }), precision: "fp32", clipNorm: null });
  let worst = 0;
  for (let step = 0; step < steps; step++) {
    const { loss } = await trainer.step();
    const difference = Math.abs(loss - theirs.losses[step]!);
    worst = Math.max(worst, difference);
    process.stdout.write(
      `${String(step + 1).padStart(3)}  ${loss.toFixed(6)}  ${theirs.losses[step]!.toFixed(6)}  ${difference.toExponential(1)}\n`,
    );
  }
  process.stdout.write(
    `${name}: ${steps} steps on ${trainer.engine.name} and PyTorch ${theirs.torch}: largest difference ${worst.toExponential(1)}\n`,
  );
  process.exitCode = worst <= tolerance ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
