// Our side of each comparison: a program built through the public interface, ready to run again and again. Runs in a process of its own.

import * as v from "valibot";
import { grad } from "../autodiff/grad.ts";
import { ConfigError } from "../core/errors.ts";
import { RandomStream } from "../core/random.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import { compile } from "../engines/compile.ts";
import { type EngineChoice, openEngine, parseEngine } from "../engines/open.ts";
import type { ParameterNode } from "../ir/node.ts";
import { Cnn } from "../models/cnn.ts";
import { TextGenerator } from "../models/generate.ts";
import { Gpt } from "../models/gpt.ts";
import type { ImageModel } from "../models/image-model.ts";
import { MobileNetV2 } from "../models/mobilenet.ts";
import { ResNet } from "../models/resnet.ts";
import { VisionTransformer } from "../models/vit.ts";
import { attention, crossEntropy, mergeHeads, splitHeads } from "../nn/functional.ts";
import type { ScopeOptions } from "../nn/layers.ts";
import { adamw } from "../optim/adam.ts";
import type { Optimizer } from "../optim/optimizer.ts";
import { sgd } from "../optim/sgd.ts";
import { freeze } from "../passes/freeze.ts";
import { constant, input, parameter, type Tensor } from "../tensor.ts";
import { precisionPolicy } from "../train/precision.ts";
import { buildTraining } from "../train/step.ts";
import type { Task } from "../train/task.ts";

const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const dtype = v.picklist(["fp16", "fp32"]);
const modelEntries = { dim: count, hidden: count, layers: count, heads: count, sequence: count, vocab: count };

/** What a process of ours measures; the command line of that process carries it as JSON. */
export const caseSchema = v.variant("kind", [
  v.strictObject({
    kind: v.literal("matmul"),
    pass: v.picklist(["forward", "dx", "dw"]),
    rows: count,
    in: count,
    out: count,
    dtype,
  }),
  v.strictObject({
    kind: v.literal("conv"),
    pass: v.picklist(["forward", "dx", "dw"]),
    batch: count,
    channels: count,
    size: count,
  }),
  v.strictObject({
    kind: v.literal("images"),
    model: v.picklist(["ResNet", "MobileNetV2", "VisionTransformer"]),
    config: v.looseObject({}),
    image: v.array(count),
  }),
  v.strictObject({
    kind: v.literal("cnn"),
    image: v.tuple([count, count, count]),
    channels: v.array(count),
    classes: count,
    batch: count,
  }),
  v.strictObject({ kind: v.literal("train"), ...modelEntries }),
  v.strictObject({ kind: v.literal("compile"), ...modelEntries }),
  v.strictObject({ kind: v.literal("decode"), ...modelEntries, dtype }),
  v.strictObject({ kind: v.literal("encoder"), ...modelEntries, dtype }),
  v.strictObject({
    kind: v.literal("mlp"),
    widths: v.pipe(v.array(count), v.minLength(2)),
    batch: count,
    optimizer: v.picklist(["sgd", "adamw"]),
  }),
  v.strictObject({ kind: v.literal("softmax"), shape: v.array(count) }),
  v.strictObject({ kind: v.literal("convert"), to: dtype, size: count }),
  v.strictObject({ kind: v.literal("call") }),
]);
export type CaseSpec = v.InferOutput<typeof caseSchema>;
type Spec<K extends CaseSpec["kind"]> = Extract<CaseSpec, { kind: K }>;
export type ModelShape = Omit<Spec<"train">, "kind">;

/** One repetition of what is measured. */
type Work = () => unknown;

/** Normal numbers, the same in every run. */
let block: Float32Array | undefined;

/** A block of normal numbers over and over: making 100 million of them would take longer than the measurement. */
function random(size: number, scale = 1): Float32Array<ArrayBuffer> {
  block ??= new RandomStream(0, "bench").normals(new Float32Array(65_521), 1);
  const values = new Float32Array(size);
  const period = Math.min(size, block.length);
  for (let i = 0; i < period; i++) values[i] = scale * block[i]!;
  for (let at = period; at < size; at += period) values.copyWithin(at, 0, Math.min(period, size - at));
  return values;
}

const held = (name: string, shape: readonly number[], type: "fp16" | "fp32") =>
  parameter(random(shape.reduce((a, b) => a * b, 1)), shape, { dtype: type, name });

/** A program whose result stays in the engine: what is measured is the operator, not the copy of its result. */
async function resident(result: Tensor, engine: EngineChoice): Promise<Work> {
  const target = parameter(new Float32Array(result.size), result.shape, {
    dtype: result.dtype as "fp16" | "fp32",
    name: "result",
  });
  const program = await compile({}, { engine, update: new Map([[target, result]]) });
  return () => program.runSync({});
}

function matmul({ pass, rows, in: inputs, out: outputs, dtype: type }: Spec<"matmul">, engine: EngineChoice) {
  const x = () => held("x", [rows, inputs], type);
  const w = () => held("w", [outputs, inputs], type);
  const dy = () => held("dy", [rows, outputs], type);
  if (pass === "forward") return resident(x().matmul(w(), { transposeY: true }), engine);
  return resident(pass === "dx" ? dy().matmul(w()) : dy().matmul(x(), { transposeX: true }), engine);
}

/** 3 x 3 windows over square images, as many filters as channels, everything in row-major order. */
function conv({ pass, batch, channels, size }: Spec<"conv">, engine: EngineChoice) {
  const x = held("x", [batch, channels, size, size], "fp32");
  const w = held("w", [channels, channels, 3, 3], "fp32");
  const y = x.conv(w, { padType: "custom", pad: [1, 1, 1, 1] });
  if (pass === "forward") return resident(y, engine);
  const of = pass === "dx" ? x : w;
  return resident(grad(y, [of], { cotangent: held("dy", y.shape, "fp32") })[0]!, engine);
}

/** A whole training step as the trainer makes it, less the clipping that the peers do not have either. */
async function training(task: Task, optimizer: Optimizer, engine: EngineChoice): Promise<Work & Disposable> {
  const policy = precisionPolicy("fp32");
  const { outputs, update, stages } = buildTraining({ task, optimizer, policy, accumulation: 1 }).apply;
  const program = await compile(outputs, { engine, update, stages });
  let step = 0;
  const work = () => {
    const scalars = Object.entries(optimizer.scalars(step, optimizer.learningRate(step), policy.momentScale));
    const feeds = {
      ...task.batch(step++),
      loss_scale: 1,
      grad_scale: 1,
      ...Object.fromEntries(scalars.map(([name, value]) => [`optimizer_${name}`, value] as const)),
    };
    const known = Object.entries(feeds).filter(([name]) => program.plan.feeds.has(name));
    const { loss } = program.runSync(Object.fromEntries(known));
    if (!Number.isFinite(loss!.item())) throw new ConfigError("bench", "the loss is no longer finite");
  };
  return Object.assign(work, { [Symbol.dispose]: () => program.dispose() });
}

/**
 * Gives an empty model random weights, faster than those of one that is to be trained. Zeros, whose products are zeros, too, might take another time.
 */
function withWeights<M extends { readonly parameters: ReadonlyMap<string, Tensor> }>(model: M): M {
  for (const { node, shape, size } of model.parameters.values()) {
    // Gains and biases, which have one axis, are as they should be.
    if (node.kind === "parameter" && shape.length > 1)
      (node as { initial: ParameterNode["initial"] }).initial = random(size, Math.sqrt(shape[0]! / size));
  }
  return model;
}

export function gpt({ dim, hidden, layers, heads, sequence, vocab }: ModelShape, type: "fp16" | "fp32"): Gpt {
  const config = {
    vocabSize: vocab,
    sequenceLen: sequence,
    nLayer: layers,
    nHead: heads,
    nEmbd: dim,
    hiddenDim: hidden,
  };
  return withWeights(new Gpt(config, { dtype: type, empty: true }));
}

function languageModel(shape: ModelShape): Task {
  const model = gpt(shape, "fp32");
  const { sequence, vocab } = shape;
  const tokens = input([1, sequence], { name: "tokens", dtype: "int32" });
  const targets = input([sequence], { name: "targets", dtype: "int32" });
  const { logits, residuals } = model.forward(tokens);
  const ids = Int32Array.from({ length: sequence + 1 }, (_, i) => (i * 7919) % vocab);
  const feeds = { tokens: ids.subarray(0, sequence), targets: ids.subarray(1) };
  return {
    name: "language model",
    parameters: model.parameters,
    loss: crossEntropy(logits, targets),
    watch: [logits, ...residuals],
    batch: () => feeds,
    itemsPerBatch: sequence,
  };
}

const stepOptimizer = () => adamw({ learningRate: 1e-4 });

/** From a model's graph to a training step that could run: derivatives, optimizer, plan, code, state. */
async function compileTime(shape: ModelShape, engine: EngineChoice): Promise<Work> {
  const task = languageModel(shape);
  return async () => {
    const step = await training(task, stepOptimizer(), engine);
    step[Symbol.dispose]();
  };
}

/** BERT's encoder (post-norm, gelu by erf) over token numbers, its weights constants; the mean of the last layer. */
async function encoder(
  { dim, hidden, layers, heads, sequence, vocab, dtype: type }: Spec<"encoder">,
  engine: EngineChoice,
): Promise<Work> {
  const weight = (...shape: number[]) =>
    constant(random(shape[0]! * (shape[1] ?? 1), 1 / Math.sqrt(shape[0]!)), shape, { dtype: type });
  const linear = (x: Tensor, i: number, o: number) =>
    x.reshape([-1, i]).matmul(weight(i, o)).add(weight(o)).reshape([1, -1, o]);
  const norm = (x: Tensor) => x.layerNorm({ epsilon: 1e-12 }).mul(weight(dim)).add(weight(dim));
  const tokens = input([1, sequence], { name: "tokens", dtype: "int32" });
  let x = norm(weight(vocab, dim).gather(tokens, 0).add(weight(sequence, dim)));
  for (let layer = 0; layer < layers; layer++) {
    const [q, k, v_] = ["q", "k", "v"].map(() => splitHeads(linear(x, dim, dim), heads)) as [Tensor, Tensor, Tensor];
    x = norm(x.add(linear(mergeHeads(attention(q, k, v_)), dim, dim)));
    x = norm(x.add(linear(linear(x, dim, hidden).gelu("EXACT"), hidden, dim)));
  }
  const program = await compile({ embedding: x.mean([1]) }, { engine });
  const ids = Int32Array.from({ length: sequence }, (_, i) => (i * 7919) % vocab);
  return () => program.runSync({ tokens: ids });
}

async function mlp({ widths, batch, optimizer }: Spec<"mlp">, engine: EngineChoice): Promise<Work> {
  const parameters = new Map<string, Tensor>();
  const made = (name: string, shape: number[], scale: number) => {
    const tensor = parameter(random(shape[0]! * (shape[1] ?? 1), scale), shape, { dtype: "fp32", name });
    parameters.set(name, tensor);
    return tensor;
  };
  let x: Tensor = input([batch, widths[0]!], { name: "x", dtype: "fp32" });
  for (let layer = 1; layer < widths.length; layer++) {
    const [i, o] = [widths[layer - 1]!, widths[layer]!];
    if (layer > 1) x = x.relu();
    x = x
      .matmul(made(`layers.${layer}.weight`, [o, i], 1 / Math.sqrt(i)), { transposeY: true })
      .add(made(`layers.${layer}.bias`, [o], 0));
  }
  const targets = input([batch], { name: "targets", dtype: "int32" });
  const classes = widths.at(-1)!;
  const feeds = { x: random(batch * widths[0]!), targets: Int32Array.from({ length: batch }, (_, i) => i % classes) };
  const task: Task = {
    name: "classifier",
    parameters,
    loss: crossEntropy(x, targets),
    batch: () => feeds,
    itemsPerBatch: batch,
  };
  return training(task, optimizer === "sgd" ? sgd({ learningRate: 1e-2 }) : adamw({ learningRate: 1e-3 }), engine);
}

const imageModels = { ResNet, MobileNetV2, VisionTransformer };

/** A network's forward pass over one batch, its weights constants and batch norms folded. */
export async function classifier({ model, config, image }: Omit<Spec<"images">, "kind">, engine: EngineChoice) {
  const make = imageModels[model] as new (config: object, options: ScopeOptions) => ImageModel;
  const network = withWeights(new make(config, { dtype: "fp32", empty: true }));
  const program = await compile({ x: { shape: image, dtype: "fp32" } }, ({ x }) => freeze({ y: network.forward(x) }), {
    engine,
  });
  const x = random(image.reduce((a, b) => a * b, 1));
  return { network, x, run: () => program.runSync({ x }) };
}

function cnn({ image, channels, classes, batch }: Spec<"cnn">, engine: EngineChoice): Promise<Work> {
  const model = new Cnn({ imageShape: image, channels, classes }, { dtype: "fp32" });
  const images = input([batch, ...image], { name: "images", dtype: "fp32" });
  const targets = input([batch], { name: "targets", dtype: "int32" });
  const feeds = { images: random(images.size), targets: Int32Array.from({ length: batch }, (_, i) => i % classes) };
  const task: Task = {
    name: "classifier of images",
    parameters: model.parameters,
    loss: crossEntropy(model.forward(images).logits, targets),
    batch: () => feeds,
    itemsPerBatch: batch,
  };
  return training(task, adamw({ learningRate: 1e-3 }), engine);
}

/** As many tokens as the model knows, without text. */
function numbersTokenizer(vocabSize: number): Tokenizer {
  return {
    name: "numbers",
    vocabSize,
    encode: () => Int32Array.of(1),
    decode: () => "",
    decoder: () => ({ push: () => "", end: () => "" }),
  };
}

/** A token each time, greedily, as a user gets them; the cache fills and starts again. */
async function decode({ dtype: type, ...shape }: Spec<"decode">, engine: EngineChoice): Promise<Work> {
  const tokenizer = numbersTokenizer(shape.vocab);
  const generator = await TextGenerator.create(gpt(shape, type), { engine, tokenizer });
  const tokens = async function* () {
    for (;;) yield* generator.generate("a", { maxTokens: shape.sequence - 1, temperature: 0 });
  };
  const text = tokens();
  return () => text.next();
}

async function call(engine: EngineChoice): Promise<Work> {
  const program = await compile({ x: { shape: [4], dtype: "fp32" } }, ({ x }) => ({ y: x.add(1) }), { engine });
  const x = new Float32Array(4);
  return () => program.runSync({ x });
}

/** Builds, compiles, and gives back one repetition and the engine that runs it. */
export async function prepareCase(spec: CaseSpec, choice: string) {
  // The name of the engine that `auto` means; each program opens its own.
  using chosen = await openEngine(parseEngine(choice));
  const engine = chosen.name;
  const work = await build(spec, engine);
  return { work, engine, reason: chosen.reason };
}

async function build(spec: CaseSpec, engine: EngineChoice): Promise<Work> {
  switch (spec.kind) {
    case "matmul":
      return matmul(spec, engine);
    case "conv":
      return conv(spec, engine);
    case "images":
      return (await classifier(spec, engine)).run;
    case "cnn":
      return cnn(spec, engine);
    case "train":
      return training(languageModel(spec), stepOptimizer(), engine);
    case "compile":
      return compileTime(spec, engine);
    case "decode":
      return decode(spec, engine);
    case "encoder":
      return encoder(spec, engine);
    case "mlp":
      return mlp(spec, engine);
    case "softmax":
      return resident(held("x", spec.shape, "fp32").softmax(-1), engine);
    case "convert":
      return resident(held("x", [spec.size], spec.to === "fp16" ? "fp32" : "fp16").cast(spec.to), engine);
    case "call":
      return call(engine);
  }
}
