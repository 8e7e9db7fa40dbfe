// Runs networks for images here and in ONNX Runtime with the same parameters and image, and compares the scores:
// npx tsx scripts/cross-check-onnx.ts [NAME…]. Needs the peers that `npm run bench` installs.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { classifier } from "../src/cli/bench-cases.ts";
import { comparisons } from "../src/cli/bench-rows.ts";
import { askPeer, requirePython } from "./peers.ts";

/** Of the largest score. Networks of random weights let it grow or shrink from layer to layer. */
const tolerance = 1e-3;

const python = requirePython("cross-check-onnx", "onnxruntime", "npm run bench -- encoder");
const networks = comparisons(false, 1).flatMap(({ name, ours }) => (ours.kind === "images" ? [{ name, ours }] : []));
const names = process.argv.slice(2).map((name) => `images/${name}`);
const unknown = names.find((name) => !networks.some((each) => each.name === name));
if (unknown !== undefined) {
  process.stderr.write(`cross-check-onnx: no ${unknown}; there are ${networks.map(({ name }) => name).join(", ")}\n`);
  process.exit(2);
}
for (const { name, ours } of networks) {
  if (names.length > 0 && !names.includes(name)) continue;
  const { kind: _kind, ...shape } = ours;
  const folder = mkdtempSync(join(tmpdir(), "anekit-cross-check-"));
  try {
    const { network, x, run } = await classifier(shape, "auto");
    const chunks: Buffer[] = [];
    let end = 0;
    const put = (values: Float32Array): [at: number, count: number] => {
      chunks.push(Buffer.from(values.buffer, values.byteOffset, values.byteLength));
      end += values.length;
      return [end - values.length, values.length];
    };
    const weights = [...network.parameters, ...network.statistics].map(([each, { node, size }]) => {
      const initial = node.kind === "parameter" ? node.initial : 0;
      return [
        each,
        ...put(typeof initial === "number" ? new Float32Array(size).fill(initial) : Float32Array.from(initial)),
      ];
    });
    writeFileSync(join(folder, "plan.json"), JSON.stringify({ ...shape, weights, x: put(x) }));
    writeFileSync(join(folder, "values.bin"), Buffer.concat(chunks));
    const theirs = askPeer<{ onnxruntime: string; result: number[] }>(python, "classifiers", folder);
    const { data } = run().y;
    const largest = theirs.result.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const worst = theirs.result.reduce((most, value, i) => Math.max(most, Math.abs(value - Number(data[i]))), 0);
    const error = (worst / largest).toExponential(1);
    process.stdout.write(
      `${name}: ONNX Runtime ${theirs.onnxruntime}: largest difference ${error} of the largest score\n`,
    );
    if (!(worst / largest <= tolerance) || data.length !== theirs.result.length) process.exitCode = 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
