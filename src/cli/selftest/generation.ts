// Group "generation": one position at a time with keys and values that stay on the engine; logits beside the simulator's.

import { compile, input, parameter, type Tensor } from "../../index.ts";
import { Gpt, TextGenerator } from "../../models/index.ts";
import { maskedScore } from "../../nn/index.ts";
import { difference } from "./compare.ts";
import { type Bench, type Check, expect, type Finding, type Group } from "./group.ts";

const shape = { vocabSize: 64, sequenceLen: 24, nLayer: 2, nHead: 4, nKvHead: 2, nEmbd: 32 } as const;

function decoder(architecture: "llama" | "gpt2") {
  const model = new Gpt({ architecture, ...shape }, { seed: 4 });
  const token = input([1, 1, shape.vocabSize], { name: "token" });
  const oneHot = input([1, shape.sequenceLen], { name: "position" });
  const mask = input([1, shape.sequenceLen], { name: "mask" });
  const update = new Map<Tensor, Tensor>();
  const size = [shape.nKvHead, shape.sequenceLen, shape.nEmbd / shape.nHead];
  const caches = Array.from({ length: shape.nLayer }, (_, layer) => {
    const [keys, values] = ["keys", "values"].map((name) => parameter(0, size, { name: `${name}${layer}` }));
    const store = (k: Tensor, v: Tensor) => void update.set(keys!, k).set(values!, v);
    return { keys: keys!, values: values!, store };
  });
  return { outputs: { logits: model.decode(token, { oneHot, mask }, caches).logits }, update };
}

/** Logits of every position of one text. */
async function logitsOf(architecture: "llama" | "gpt2", tokens: readonly number[], engine: Bench["device"] | "sim") {
  const { outputs, update } = decoder(architecture);
  using program = await compile(outputs, { engine, update });
  return tokens.map((id, at) => {
    const token = new Float32Array(shape.vocabSize);
    token[id] = 1;
    const position = new Float32Array(shape.sequenceLen);
    position[at] = 1;
    const mask = new Float32Array(shape.sequenceLen).fill(maskedScore, at + 1);
    return program.runSync({ token, position, mask }).logits.data as Float32Array;
  });
}

const top = (logits: Float32Array) => logits.indexOf(Math.max(...logits));

async function decode(architecture: "llama" | "gpt2", { device }: Bench): Promise<Finding> {
  const tokens = Array.from({ length: shape.sequenceLen }, (_, i) => (i * i * 7 + 3 * i + 1) % shape.vocabSize);
  const got = await logitsOf(architecture, tokens, device);
  const want = await logitsOf(architecture, tokens, "sim");
  const bound = { units: 48, ofLargest: true, absolute: 0.03 };
  let worst = 0;
  let same = 0;
  for (const [at, logits] of got.entries()) {
    const found = difference(logits, want[at]!, bound);
    worst = Math.max(worst, found.worst);
    if (top(logits) === top(want[at]!)) same++;
    expect(found.what === undefined, () => `position ${at}: ${found.what}`, { position: at });
  }
  return { worst, bound: bound.units, seen: { positions: tokens.length, sameChoice: same } };
}

/** The library's own generator, twice: the second text begins with full caches. */
async function generator({ device }: Bench): Promise<Finding> {
  const model = new Gpt({ ...shape, vocabSize: 256 }, { seed: 4 });
  using made = await TextGenerator.create(model, { engine: device });
  const texts: number[][] = [];
  for (let turn = 0; turn < 2; turn++) {
    const tokens: number[] = [];
    for await (const { token } of made.generate("The ", { maxTokens: 30, temperature: 0 })) tokens.push(token);
    texts.push(tokens);
  }
  expect(String(texts[0]) === String(texts[1]), () => "the same prompt was continued in two ways");
  return { seen: { tokens: texts[0]!.length } };
}

export const generation: Group = {
  name: "generation",
  summary: "decoding with a resident cache",
  checkSeconds: 120,
  seconds: { quick: 120, full: 300 },
  checks: ({ quick }): Check[] => [
    { name: "llama, logits of every position", run: (bench) => decode("llama", bench) },
    ...(quick ? [] : [{ name: "gpt2, logits of every position", run: (bench: Bench) => decode("gpt2", bench) }]),
    { name: "text generator", run: generator },
  ],
};
