// The MIL of a program: what the Neural Engine's compiler would read, its weight file, and the way back from text to a program.
// Run: npx tsx examples/05-mil.ts

import { compile, constant } from "anekit";
import { listBlobs, readMil } from "anekit/mil";

const W = constant(
  Float32Array.from({ length: 8 * 4 }, (_, i) => Math.sin(i)),
  [8, 4],
);
await using net = await compile({ x: [2, 4] }, ({ x }) => ({ scores: x.matmul(W, { transposeY: true }).softmax() }), {
  name: "classify",
});

console.log(net.mil());

// Constants of more than a few numbers live in a weight file beside the text.
const { text, weights } = net.milFiles();
for (const blob of listBlobs(weights))
  console.log(`weight file: ${blob.dtype}, ${blob.sizeBytes} bytes, record at ${blob.offset}`);

// M1 and M2 compilers want the verbose dialect; both come back as the same program.
const verbose = net.milFiles({ dialect: "verbose" });
const programs = [readMil(text, { weights: () => weights }), readMil(verbose.text, { weights: () => verbose.weights })];
for (const { instructions, outputs } of programs) {
  console.log(
    `read back: ${instructions.map(({ op }) => op.name).join(" -> ")}, results ${outputs.map(({ name }) => name).join(", ")}`,
  );
}
