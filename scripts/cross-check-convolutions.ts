// Makes random convolutions and their derivatives here and in PyTorch, there in fp64, and compares them:
// npx tsx scripts/cross-check-convolutions.ts [COUNT] [SEED]. Needs the peers that `npm run bench` installs.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compile, grad, input, openEngine, type Tensor } from "../src/index.ts";
import { filterShape, randomGeometry, resultShape, trimmed } from "../test/cpu/convolution-reference.ts";
import { makeRandom } from "../test/plans/eager-engine.ts";
import { askPeer, requirePython } from "./peers.ts";

/** Of the largest result: single precision's, a few hundred terms. */
const tolerance = 1e-5;

const [count, first] = [Number(process.argv[2] ?? 200), Number(process.argv[3] ?? 1)];
const python = requirePython("cross-check-convolutions", "torch", "npm run bench -- mlp");

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const cases = Array.from({ length: count }, (_, i) => {
  const any = randomGeometry(first + i);
  const transposed = i % 3 === 0 && trimmed(any).x.every((extent) => extent > 0);
  const geometry = transposed ? trimmed(any) : any;
  const [from, to] = transposed ? [resultShape(geometry), geometry.x] : [geometry.x, resultShape(geometry)];
  return { ...geometry, transposed, shapes: { x: from, w: filterShape(geometry), b: [to[1]], g: to } };
});

const folder = mkdtempSync(join(tmpdir(), "anekit-cross-check-"));
try {
  const random = makeRandom(first);
  const chunks: Float32Array[] = [];
  let end = 0;
  const feeds = cases.map(({ shapes }) =>
    Object.fromEntries(
      Object.entries(shapes).map(([name, shape]) => {
        const values = Float32Array.from({ length: sizeOf(shape) }, () => 2 * random() - 1);
        chunks.push(values);
        return [name, values] as const;
      }),
    ),
  );
  const plan = cases.map(({ strides, dilations, pad, groups, transposed, shapes }) => {
    const operands = Object.values(shapes).map((shape) => {
      end += sizeOf(shape);
      return [shape, end - sizeOf(shape)];
    });
    return { strides, dilations, pad, groups, transposed, operands };
  });
  writeFileSync(join(folder, "values.bin"), Buffer.concat(chunks.map((values) => Buffer.from(values.buffer))));
  writeFileSync(join(folder, "plan.json"), JSON.stringify(plan));
  const { torch } = askPeer<{ torch: string }>(python, "convolutions", folder);
  const bytes = readFileSync(join(folder, "results.bin"));
  const theirs = new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));

  using engine = await openEngine("auto");
  let [at, worst] = [0, 0];
  for (const [i, { strides, dilations, pad, groups, transposed, shapes }] of cases.entries()) {
    const [x, w, bias, cotangent] = Object.entries(shapes).map(([name, shape]) =>
      input(shape, { name, dtype: "fp32" }),
    );
    const options = { strides, dilations, pad, groups, bias: bias! };
    const y = transposed ? x!.convTranspose(w!, options) : x!.conv(w!, options);
    const [dx, dw, db] = grad(y, [x!, w!, bias!], { cotangent: cotangent! }) as [Tensor, Tensor, Tensor];
    using program = await compile({ y, dx, dw, db }, { engine });
    for (const [name, { data }] of Object.entries(await program.run(feeds[i]!))) {
      const want = theirs.subarray(at, (at += data.length));
      const largest = want.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-3);
      const off = want.reduce((most, value, k) => Math.max(most, Math.abs(value - Number(data[k]))), 0) / largest;
      worst = Math.max(worst, off);
      if (off <= tolerance) continue;
      process.exitCode = 1;
      process.stdout.write(`number ${first + i}, ${name}: ${off.toExponential(1)}: ${JSON.stringify(cases[i])}\n`);
    }
  }
  if (at !== theirs.length) throw new Error(`${theirs.length} numbers, expected ${at}`);
  process.stdout.write(
    `${count} convolutions on ${engine.name} and PyTorch ${torch}: largest difference ${worst.toExponential(1)} of the largest result\n`,
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
