// Runs the networks for images on random images here and in PyTorch (torchvision's models) with the same random weights, and compares the results:
// npx tsx scripts/cross-check-images.ts [--engine NAME] [MODEL...]. Needs a Python with torch and torchvision: ANEKIT_BENCH_PYTHON, or what
// `npm run bench` installs with torchvision added to it (pip install --no-deps torchvision pillow).

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { RandomStream } from "../src/core/random.ts";
import { parseEngine } from "../src/engines/open.ts";
import { compile, freeze } from "../src/index.ts";
import { type ImageModel, type ImagePresetName, imagePresets } from "../src/models/index.ts";
import { askPeer, requirePython } from "./peers.ts";

/** Largest error relative to the largest result: fp32 sums in another order. */
const tolerance = 1e-4;

const { values, positionals } = parseArgs({ options: { engine: { type: "string" } }, allowPositionals: true });
const engine = parseEngine(values.engine ?? "auto");
const known = Object.keys(imagePresets) as ImagePresetName[];
const names = positionals.length === 0 ? known : (positionals as ImagePresetName[]);
const unknown = names.find((name) => !known.includes(name));
if (unknown !== undefined) {
  process.stderr.write(`cross-check-images: no model ${unknown}; there are ${known.join(", ")}\n`);
  process.exit(2);
}
const remedy = "npm run bench -- mlp, then PYTHON -m pip install --no-deps torchvision pillow";
const python = requirePython("cross-check-images", "torchvision", remedy);

/** Gains and variances around 1, everything else around 0: a trained network has no neutral ones either. */
function randomState({ parameters, statistics }: ImageModel): [string, readonly number[], Float32Array][] {
  return [...parameters, ...statistics].map(([name, { shape, size }]) => {
    const matrix = shape.length > 1 && !/class_token|pos_embedding/.test(name);
    const around = name.endsWith("running_var") || (shape.length === 1 && name.endsWith("weight")) ? 1 : 0;
    const scale = matrix ? Math.sqrt((2 * shape[0]!) / size) : 0.1;
    // A short period: normal numbers for 86 million weights would take many seconds.
    const period = new RandomStream(1, name).normals(new Float32Array(Math.min(size, 65_521)), 1);
    const clip = (x: number) => Math.max(-4, Math.min(4, x));
    return [
      name,
      shape,
      Float32Array.from({ length: size }, (_, i) => around + scale * clip(period[i % period.length]!)),
    ];
  });
}

interface Answer {
  readonly torch: string;
  readonly torchvision: string;
  readonly shape: readonly number[];
}

async function check(name: ImagePresetName): Promise<void> {
  const { make, image } = imagePresets[name];
  const model = make({ dtype: "fp32", empty: true });
  const shape = [2, ...image];
  const state = randomState(model);
  const pixels = new RandomStream(2, name).normals(new Float32Array(shape.reduce((a, b) => a * b)), 1);
  const folder = mkdtempSync(join(tmpdir(), "anekit-cross-check-"));
  try {
    let at = 0;
    const place = (data: Float32Array) => (at += data.byteLength) - data.byteLength;
    const weights = state.map(([each, extents, data]) => [each, extents, place(data), data.length]);
    const arrays = [...state.map(([, , data]) => data), pixels];
    const plan = {
      threads: 2,
      kind: model.constructor.name,
      config: (model as unknown as { config: unknown }).config,
      weights,
      image: [shape, place(pixels), pixels.length],
    };
    writeFileSync(join(folder, "plan.json"), JSON.stringify(plan));
    writeFileSync(join(folder, "weights.bin"), Buffer.concat(arrays.map((data) => new Uint8Array(data.buffer))));
    const answer = askPeer<Answer>(python, "images", folder);
    const theirs = new Float32Array(new Uint8Array(readFileSync(join(folder, "result.bin"))).buffer);

    // Weights are written into the state of a first program, of which the second takes its constants.
    const feeds = { x: { shape, dtype: "fp32" } } as const;
    await using program = await compile(feeds, ({ x }) => ({ y: model.forward(x) }), { engine });
    const tensors = new Map([...model.parameters, ...model.statistics]);
    for (const [each, , data] of state) program.state.write(tensors.get(each)!, data);
    await using frozen = await compile(feeds, ({ x }) => freeze({ y: model.forward(x) }, { state: program.state }), {
      engine,
    });
    const scale = theirs.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const errors = [program, frozen].map((each) => {
      const { y } = each.runSync({ x: pixels });
      if (y.shape.join() !== answer.shape.join()) throw new Error(`${name}: shapes ${y.shape} and ${answer.shape}`);
      // Not Math.max: what is not a number must not pass.
      return Array.from<number>(y.data).reduce((most, value, i) => {
        const error = Math.abs(value - theirs[i]!) / scale;
        return error <= most ? most : error;
      }, 0);
    });
    const passed = errors.every((error) => error <= tolerance);
    if (!passed) process.exitCode = 1;
    const [plain, constants] = errors.map((error) => error.toExponential(1));
    process.stdout.write(
      `${passed ? "ok  " : "FAIL"} ${name.padEnd(13)} ${shape.join("x")} on ${program.engine.name}: ${plain}, frozen ${constants}` +
        ` (of ${scale.toPrecision(3)}; torch ${answer.torch}, torchvision ${answer.torchvision})\n`,
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

for (const name of names) await check(name);
