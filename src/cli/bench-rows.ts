// What `anekit bench` compares: names, shapes, peers, units, and what the machine's limits allow at most.

import type { Limits } from "../engines/open.ts";
import type { CaseSpec, ModelShape } from "./bench-cases.ts";
import type { PeerSpec } from "./bench-process.ts";

/** How seconds are shown. Rates need the work of a repetition. */
export const units = {
  "ms (less is better)": (seconds: number) => seconds * 1e3,
  "µs (less is better)": (seconds: number) => seconds * 1e6,
  "s (less is better)": (seconds: number) => seconds,
  "GFLOP/s (more is better)": (seconds: number, work: number) => work / seconds / 1e9,
  "GB/s (more is better)": (seconds: number, work: number) => work / seconds / 1e9,
} as const;
export type Unit = keyof typeof units;

/** Ours in another form, as the thing compared with: another dtype, another number of threads. */
export interface OursSpec {
  readonly title: string;
  readonly ours: CaseSpec;
  readonly threads?: number;
}

export interface Comparison {
  readonly name: string;
  readonly unit: Unit;
  readonly ours: CaseSpec;
  /** The engine's own number unless stated. */
  readonly threads?: number;
  readonly against: readonly (PeerSpec | OursSpec)[];
  /** Floating-point operations or bytes of a repetition. */
  readonly work?: number;
  /** Seconds that a repetition takes at least on a machine. */
  readonly floor?: (machine: Limits) => number;
}

/** Most operations a second at the chosen level. */
export const peak = ({ flops, isa }: Limits): number => flops[isa]!;

/** A network for images. Its parameters, and its multiply-adds for one image as torchvision states them, are what its floor follows from. */
interface ImageShape extends Omit<Extract<CaseSpec, { kind: "images" }>, "kind"> {
  readonly name: string;
  readonly parameters: number;
  readonly products: number;
}

/** Shapes to measure, and ones that every engine can do in no time. */
interface Shapes {
  readonly rows: number;
  readonly layers: readonly (readonly [inputs: number, outputs: number])[];
  readonly convolutions: readonly { readonly batch: number; readonly channels: number; readonly size: number }[];
  readonly models: Readonly<Record<string, ModelShape>>;
  readonly largest: string;
  readonly encoder: ModelShape;
  readonly images: readonly ImageShape[];
  readonly cnn: Omit<Extract<CaseSpec, { kind: "cnn" }>, "kind">;
  readonly mlp: { readonly widths: number[]; readonly batch: number };
  readonly softmax: readonly [number, number];
  readonly convert: number;
}

/** For one image of ImageNet. */
function network(
  name: string,
  model: ImageShape["model"],
  config: ImageShape["config"],
  parameters: number,
  products: number,
): ImageShape {
  return { name, model, config, image: [1, 3, 224, 224], parameters, products };
}

const vitB16 = { imageSize: 224, patchSize: 16, nLayer: 12, nHead: 12, nEmbd: 768 };

const fullShapes: Shapes = {
  rows: 256,
  layers: [
    [768, 768],
    [768, 2048],
    [2048, 768],
    [768, 32000],
  ],
  convolutions: [1, 16].flatMap((batch) => [
    { batch, channels: 64, size: 56 },
    { batch, channels: 128, size: 28 },
    { batch, channels: 256, size: 14 },
    { batch, channels: 512, size: 7 },
  ]),
  models: {
    "110M": { dim: 768, hidden: 2048, layers: 12, heads: 12, sequence: 256, vocab: 32000 },
    "15M": { dim: 288, hidden: 768, layers: 6, heads: 6, sequence: 256, vocab: 32000 },
    "0.9M": { dim: 128, hidden: 352, layers: 4, heads: 4, sequence: 128, vocab: 256 },
  },
  largest: "110M",
  encoder: { dim: 384, hidden: 1536, layers: 6, heads: 12, sequence: 128, vocab: 30522 },
  images: [
    network("resnet-18", "ResNet", { block: "basic", layers: [2, 2, 2, 2] }, 11_689_512, 1.814e9),
    network("resnet-50", "ResNet", { block: "bottleneck", layers: [3, 4, 6, 3] }, 25_557_032, 4.089e9),
    network("mobilenet-v2", "MobileNetV2", {}, 3_504_872, 0.301e9),
    network("vit-b-16", "VisionTransformer", vitB16, 86_567_656, 17.564e9),
  ],
  cnn: { image: [3, 32, 32], channels: [32, 64, 128], classes: 10, batch: 64 },
  mlp: { widths: [784, 256, 10], batch: 128 },
  softmax: [256, 32000],
  convert: 2 ** 26,
};

const tinyModel = { dim: 8, hidden: 16, layers: 1, heads: 2, sequence: 8, vocab: 256 };
const tinyShapes: Shapes = {
  rows: 4,
  layers: [[8, 16]],
  convolutions: [{ batch: 1, channels: 4, size: 5 }],
  models: { tiny: tinyModel },
  largest: "tiny",
  encoder: { ...tinyModel, vocab: 16 },
  images: [
    {
      name: "tiny",
      model: "VisionTransformer",
      config: { imageSize: 8, patchSize: 4, nLayer: 1, nHead: 2, nEmbd: 8, classes: 4 },
      image: [1, 3, 8, 8],
      parameters: 1000,
      products: 1000,
    },
  ],
  cnn: { image: [1, 6, 6], channels: [8, 8], classes: 4, batch: 2 },
  mlp: { widths: [12, 8, 4], batch: 4 },
  softmax: [4, 32],
  convert: 256,
};

/**
 * Operations of a model's matrix products in one forward pass over its sequence, attention in full, as models' operations are usually counted
 * (Chowdhery et al. 2022, appendix B): a causal model need not make half of attention's, 2 to 7 % of these models' all.
 */
function forwardFlops({ dim, hidden, layers, sequence }: ModelShape, matrices: number): number {
  const weights = 4 * dim * dim + matrices * dim * hidden;
  return layers * (2 * sequence * weights + 4 * sequence * sequence * dim);
}

function stepFlops(shape: ModelShape): number {
  // The derivative of a product is two products.
  return 3 * (forwardFlops(shape, 3) + 2 * shape.sequence * shape.dim * shape.vocab);
}

/** Of a training step; the images have no derivative. */
function cnnFlops({ image: [depth, height, width], channels, classes, batch }: Shapes["cnn"]): number {
  const forward = channels.map((to, i) => {
    const positions = Math.floor(height / 2 ** i) * Math.floor(width / 2 ** i);
    return 2 * 9 * batch * positions * (channels[i - 1] ?? depth) * to;
  });
  const head = 2 * batch * channels.at(-1)! * classes;
  return forward.reduce((sum, each, i) => sum + (i === 0 ? 2 : 3) * each, 3 * head);
}

const modelWeights = ({ dim, hidden, layers, vocab }: ModelShape) =>
  layers * (4 * dim * dim + 3 * dim * hidden) + vocab * dim;

/** All comparisons. `threads` of the engine bound those of `scaling`. */
export function comparisons(tiny: boolean, threads: number): Comparison[] {
  const shapes = tiny ? tinyShapes : fullShapes;
  const { rows } = shapes;
  const byFlops = (work: number) => ({ work, floor: (machine: Limits) => work / peak(machine) });
  const list: Comparison[] = [];

  for (const [inputs, outputs] of shapes.layers) {
    for (const pass of ["forward", "dx", "dw"] as const) {
      const size = { pass, rows, in: inputs, out: outputs };
      const name = `matmul/${inputs}x${outputs}/${pass}`;
      const rate = { unit: "GFLOP/s (more is better)", ...byFlops(2 * rows * inputs * outputs) } as const;
      const ours = { kind: "matmul", ...size, dtype: "fp32" } as const;
      const peer = { title: "OpenBLAS", library: "numpy", script: "matmul", config: size };
      list.push({ name, ours, against: [peer], ...rate });
      const narrow = { ...ours, dtype: "fp16" } as const;
      list.push({ name: `${name}/fp16`, ours: narrow, against: [{ title: "ours fp32", ours }], ...rate });
    }
  }

  const torch = (mode: "eager" | "compile", script: string, config: object): PeerSpec => ({
    title: mode === "eager" ? "PyTorch eager" : "torch.compile",
    library: "PyTorch",
    script,
    config: { ...config, mode },
  });
  for (const { batch, channels, size } of shapes.convolutions) {
    for (const pass of ["forward", "dx", "dw"] as const) {
      const config = { pass, batch, channels, size };
      list.push({
        name: `conv/${batch}x${channels}x${size}/${pass}`,
        unit: "ms (less is better)",
        ours: { kind: "conv", ...config },
        against: [{ title: "PyTorch eager", library: "PyTorch", script: "conv", config }],
        // Nine multiply-adds a channel and position, as convolutions are usually counted: forms that make fewer may stay below this floor.
        ...byFlops(2 * 9 * batch * channels * channels * size * size),
      });
    }
  }
  for (const [name, shape] of Object.entries(shapes.models)) {
    list.push({
      name: `train/${name}`,
      unit: "ms (less is better)",
      ours: { kind: "train", ...shape },
      against: [torch("eager", "llama", shape), torch("compile", "llama", shape)],
      ...byFlops(stepFlops(shape)),
    });
  }

  const encoder = { kind: "encoder", ...shapes.encoder } as const;
  const runtime = { title: "ONNX Runtime", library: "onnxruntime", script: "encoder", config: shapes.encoder };
  for (const dtype of ["fp32", "fp16"] as const) {
    list.push({
      name: dtype === "fp32" ? "encoder" : `encoder/${dtype}`,
      unit: "ms (less is better)",
      ours: { ...encoder, dtype },
      against: [runtime],
      ...byFlops(forwardFlops(shapes.encoder, 2)),
    });
  }

  for (const { name, parameters, products, ...shape } of shapes.images) {
    const work = 2 * shape.image[0]! * products;
    list.push({
      name: `images/${name}`,
      unit: "ms (less is better)",
      ours: { kind: "images", ...shape },
      against: [{ title: "ONNX Runtime", library: "onnxruntime", script: "classifiers", config: shape }],
      work,
      floor: (machine) => Math.max(work / peak(machine), (4 * parameters) / machine.bytes.read),
    });
  }
  list.push({
    name: "cnn",
    unit: "ms (less is better)",
    ours: { kind: "cnn", ...shapes.cnn },
    against: [torch("eager", "cnn", shapes.cnn), torch("compile", "cnn", shapes.cnn)],
    ...byFlops(cnnFlops(shapes.cnn)),
  });

  const { widths, batch } = shapes.mlp;
  // The first layer has no derivative of its input.
  const products = widths.slice(1).map((width, i) => (i === 0 ? 4 : 6) * batch * widths[i]! * width);
  for (const optimizer of ["sgd", "adamw"] as const) {
    list.push({
      name: `mlp/${optimizer}`,
      unit: "ms (less is better)",
      ours: { kind: "mlp", widths, batch, optimizer },
      against: [torch("eager", "mlp", { widths, batch, optimizer })],
      ...byFlops(products.reduce((sum, each) => sum + each, 0)),
    });
  }

  const [height, width] = shapes.softmax;
  // Through memory; what the last-level cache still holds of the arrays may be faster.
  const byTraffic = (read: number, written: number) => ({
    work: read + written,
    floor: ({ bytes }: Limits) => read / bytes.read + written / bytes.write,
  });
  list.push({
    name: "softmax",
    unit: "ms (less is better)",
    ours: { kind: "softmax", shape: [height, width] },
    against: [
      {
        title: "PyTorch",
        library: "PyTorch",
        script: "elementwise",
        config: { work: "softmax", shape: [height, width] },
      },
    ],
    ...byTraffic(4 * height * width, 4 * height * width),
  });
  for (const [to, work, read, written] of [
    ["fp16", "narrow", 4, 2],
    ["fp32", "widen", 2, 4],
  ] as const) {
    list.push({
      name: `convert/${to}`,
      unit: "GB/s (more is better)",
      ours: { kind: "convert", to, size: shapes.convert },
      against: [
        { title: "PyTorch", library: "PyTorch", script: "elementwise", config: { work, shape: [shapes.convert] } },
      ],
      ...byTraffic(read * shapes.convert, written * shapes.convert),
    });
  }

  const largest = shapes.models[shapes.largest]!;
  const weightBytes = 2 * modelWeights(largest);
  list.push({
    name: `decode/${shapes.largest}`,
    unit: "ms (less is better)",
    ours: { kind: "decode", ...largest, dtype: "fp16" },
    against: [],
    work: weightBytes,
    floor: ({ bytes }) => weightBytes / bytes.read,
  });
  list.push({ name: "call", unit: "µs (less is better)", ours: { kind: "call" }, against: [] });
  list.push({
    name: `compile/${shapes.largest}`,
    unit: "s (less is better)",
    ours: { kind: "compile", ...largest },
    against: [],
  });
  const step = { kind: "train", ...largest } as const;
  for (let some = 1; some <= threads; some *= 2) {
    list.push({
      name: `scaling/${some}`,
      unit: "ms (less is better)",
      ours: step,
      threads: some,
      against: some === 1 ? [] : [{ title: "ours, 1 thread", ours: step, threads: 1 }],
      work: stepFlops(largest),
      floor: (machine) => (stepFlops(largest) * threads) / (some * peak(machine)),
    });
  }
  return list;
}
