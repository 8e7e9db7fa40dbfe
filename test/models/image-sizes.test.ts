// Networks for images at their published sizes: parameters and multiply-adds; configurations and images that are refused; MIL and the chips.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { chips } from "../../src/chips/index.ts";
import { ConfigError, freeze, grad, input, ops, ShapeError, type Tensor } from "../../src/index.ts";
import { instructionOperands, type Program } from "../../src/ir/program.ts";
import { readMil } from "../../src/mil/reader.ts";
import { milFiles } from "../../src/mil/writer.ts";
import {
  Espcn,
  findImagePreset,
  type ImagePresetName,
  imagePresets,
  MobileNetV2,
  ResNet,
  UNet,
  VisionTransformer,
} from "../../src/models/index.ts";
import { classifierPresets, presets } from "../../src/models/presets.ts";
import { legalize } from "../../src/passes/legalize.ts";
import { checkChip } from "../../src/passes/support.ts";
import { dialectOf, operators, programOf } from "../passes/helpers.ts";

/** What a model makes of one image. Initial weights are left out: making those of a large model takes seconds. */
function build(name: ImagePresetName, dtype: "fp16" | "fp32") {
  const { make, image } = imagePresets[name];
  return make({ dtype, empty: true }).forward(input([1, ...image], { name: "images", dtype }));
}

/** Multiply-adds of convolutions and matrix products. */
function multiplyAdds({ instructions, values }: Program): number {
  const products = new Set<unknown>([ops.conv, ops.conv_transpose, ops.matmul]);
  return instructions.reduce((sum, instruction) => {
    const { op, attrs, results } = instruction;
    if (!products.has(op)) return sum;
    const operands = instructionOperands(instruction, (value) => values[value]!);
    return sum + op.flops!(operands, attrs, values[results[0]!]!) / 2;
  }, 0);
}

// Parameters of torchvision 0.29's models; 10^9 multiply-adds at 224 x 224 as torchvision documents them (its GFLOPS), or counted by hand.
describe.each([
  ["resnet-18", 11_689_512, 1.81],
  ["resnet-34", 21_797_672, 3.66],
  ["resnet-50", 25_557_032, 4.09],
  ["resnet-101", 44_549_160, 7.8],
  ["resnet-152", 60_192_808, 11.51],
  ["mobilenet-v2", 3_504_872, 0.3],
  ["vit-b-16", 86_567_656, 17.56],
  ["unet", 31_037_698, undefined], // milesial/Pytorch-UNet with transposed convolutions: 31,037,633 for one class, 65 more for the second
  [
    "espcn",
    5 * 5 * 64 + 64 + 9 * 64 * 32 + 32 + 9 * 32 * 9 + 9,
    (224 * 224 * (25 * 64 + 9 * 64 * 32 + 9 * 32 * 9)) / 1e9,
  ],
] as const)("%s", (name, parameters, giga) => {
  test("has the published number of parameters", () => {
    expect(imagePresets[name].make({ empty: true }).parameterCount).toBe(parameters);
  });
  if (giga === undefined) return;
  test("takes the published number of multiply-adds", () => {
    expect(multiplyAdds(programOf({ logits: build(name, "fp32") })) / 1e9).toBeCloseTo(giga, 2);
  });
});

describe("docs/models.md", () => {
  const text = readFileSync(new URL("../../docs/models.md", import.meta.url), "utf8");
  const rows = [...text.matchAll(/^\| `([\w-]+)` \|.*\| ([\d.,]+)( M)? \| ([\d.]+) G \|/gm)].map(
    ([, name, parameters, millions, giga]) => ({ name: name as ImagePresetName, parameters, millions, giga }),
  );
  test("lists every preset", () => {
    for (const name of [...Object.keys(presets), ...Object.keys(classifierPresets)])
      expect(text).toContain(`\`${name}\``);
    expect(rows.map(({ name }) => name)).toEqual(Object.keys(imagePresets));
  });
  test.each(rows)("states the sizes of $name", ({ name, parameters, millions, giga }) => {
    const { parameterCount } = imagePresets[name].make({ empty: true });
    const digits = giga!.split(".")[1]!.length;
    expect({
      parameters: millions ? (parameterCount / 1e6).toFixed(1) : parameterCount.toLocaleString("en"),
      giga: (multiplyAdds(programOf({ y: build(name, "fp32") })) / 1e9).toFixed(digits),
    }).toEqual({ parameters, giga });
  });
});

describe("refuses", () => {
  const x = (...shape: number[]) => input(shape, { dtype: "fp32" });
  const vit = { imageSize: 16, patchSize: 4, nLayer: 1, nHead: 2, nEmbd: 8 };
  const empty = { empty: true, dtype: "fp32" } as const;
  test.each([
    ["a preset that is not there", () => findImagePreset("resnet"), ConfigError, /"resnet" is none of resnet-18, /],
    ["no layers", () => new ResNet({ block: "basic", layers: [] }), ConfigError, /model: layers: /],
    ["a fraction of a block", () => new ResNet({ block: "basic", layers: [0.5] }), ConfigError, /layers\.0: .*integer/],
    ["an unknown block", () => new ResNet({ block: "wide" as "basic", layers: [1] }), ConfigError, /model: block: /],
    ["an option that is not there", () => new UNet({ levels: 4 } as object), ConfigError, /model: levels: /],
    ["no channels", () => new MobileNetV2({ widthMultiplier: 0 }), ConfigError, /model: widthMultiplier: /],
    [
      "patches that do not fill",
      () => new VisionTransformer({ ...vit, patchSize: 5 }),
      ConfigError,
      /patchSize 5 does not divide imageSize 16/,
    ],
    [
      "heads that do not fill",
      () => new VisionTransformer({ ...vit, nHead: 3 }),
      ConfigError,
      /nHead 3 does not divide nEmbd 8/,
    ],
    ["a wide deep u-net", () => new UNet({ width: 1024, depth: 7 }), ConfigError, /width 1024 doubled 7 times/],
    [
      "even filters",
      () => new Espcn({ upscaleFactor: 2, lastFilter: 4 }),
      ConfigError,
      /model: lastFilter: filters have an odd side/,
    ],
    [
      "images of another size",
      () => new VisionTransformer(vit, empty).forward(x(1, 3, 16, 20)),
      ShapeError,
      /fp32\[1, 3, 16, 20\], not \[N, 3, 16, 16\]/,
    ],
    [
      "images of other channels",
      () => new ResNet({ block: "basic", layers: [1] }, empty).forward(x(1, 1, 32, 32)),
      ShapeError,
      /not \[N, 3, H, W\]/,
    ],
    [
      "images without a batch",
      () => new MobileNetV2({}, empty).forward(x(3, 32, 32)),
      ShapeError,
      /fp32\[3, 32, 32\], not \[N, 3, H, W\]/,
    ],
    [
      "sides that cannot be halved",
      () => new UNet({}, empty).forward(x(1, 3, 40, 64)),
      ShapeError,
      /40 by 64 pixels do not divide by 16; pad/,
    ],
    [
      "statistics of one value",
      () => new ResNet({ block: "basic", layers: [1, 1] }, empty).forward(x(1, 3, 4, 4), { updates: new Map() }),
      ShapeError,
      /one value a channel/,
    ],
  ] as const)("%s", (_title, make, type, message) => {
    expect(make).toThrow(type);
    expect(make).toThrow(message);
  });
});

describe("as programs for the Neural Engine", () => {
  // The others differ in their numbers of layers and channels only.
  const small = ["resnet-18", "mobilenet-v2", "vit-tiny", "unet-tiny", "espcn-relu"] as const;
  const large = ["resnet-50", "vit-b-16", "unet", "espcn"] as const;

  /** Legal on one chip of each generation that matters, with every disputed form native and with none. */
  function expectLegal(program: Program): void {
    for (const chip of [chips.h13, chips.h14, chips.h16, chips.h18]) {
      for (const native of [false, true])
        expect(checkChip(legalize(program, chip, dialectOf(native)), chip)).toEqual([]);
    }
  }

  test.each(small)("%s is written as MIL and read back", (name) => {
    const frozen = programOf(freeze({ logits: build(name, "fp16") }));
    const { text, weights } = milFiles(frozen);
    const read = readMil(text, { weights: () => weights });
    expect(operators(read)).toEqual(operators(frozen));
    expect(operators(frozen)).not.toContain("batch_norm");
  });

  test.each([...small, ...large])("%s fits every chip", (name) => {
    const logits = build(name, "fp16");
    const frozen = programOf(freeze({ logits }));
    expect(multiplyAdds(frozen)).toBe(multiplyAdds(programOf({ logits })));
    expectLegal(frozen);
  });

  // The large ones of images above 128 x 128 at full size do not: patches of 9 taps are rows of more than 16384.
  test.each(["resnet-18", "mobilenet-v2", "vit-tiny", "unet-tiny"] as const)(
    "%s fits every chip with its weights as state",
    (name) => expectLegal(programOf({ logits: build(name, "fp16") })),
  );

  test("a residual network in training, with its derivatives and statistics, fits every chip", () => {
    const config = { block: "basic", layers: [1, 1], width: 8, classes: 10 } as const;
    const model = new ResNet(config, { empty: true });
    const updates = new Map<Tensor, Tensor>();
    const logits = model.forward(input([4, 3, 32, 32], { name: "images" }), { updates });
    const results = [...updates.values(), ...grad(logits.square().mean(), [...model.parameters.values()])];
    expectLegal(programOf(Object.fromEntries(results.map((each, i) => [`result${i}`, each]))));
  });
});
