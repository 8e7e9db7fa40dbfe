// Runs networks for images here and in ONNX Runtime with the same parameters and image, and compares the scores:
// npx tsx scripts/cross-check-onnx.ts [NAME…]. Needs the peers that `npm run bench` installs.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { classifier } from "../src/cli/bench-cases.ts";
import { comparisons } from "../src/cli/bench-rows.ts";
import { root } from "./steps.ts";

/** Of the largest score. Networks of random weights let it grow or shrink from layer to layer. */
const tolerance = 1e-3;

const python = join(root, "node_modules/.cache/anekit-bench/venv/bin/python");
if (!existsSync(python)) {
  process.stderr.write("cross-check-onnx: ONNX Runtime is not installed: npm run bench -- encoder\n");
  process.exit(2);
}
const names = process.argv.slice(2);
for (const { name, ours } of comparisons(false, 1)) {
  if (ours.kind !== "images" || (names.length > 0 && !names.includes(name.replace("images/", "")))) continue;
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
    const { stdout, stderr, status } = spawnSync(python, [join(root, "bench/peers/classifiers.py"), folder], {
      encoding: "utf8",
      maxBuffer: 2 ** 26,
    });
    if (status !== 0) throw new Error(stderr);
    const theirs = JSON.parse(stdout) as { onnxruntime: string; result: number[] };
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
