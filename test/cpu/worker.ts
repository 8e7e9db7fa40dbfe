// A worker thread that compiles and runs on an engine of its own, and posts what it found; "long" posts first and then runs for long.

import { parentPort, workerData } from "node:worker_threads";
import { compile, input, type Tensor } from "../../src/index.ts";

const x = input([200, 200], { name: "x", dtype: "fp32" });
let y: Tensor = x;
for (let i = 0; i < (workerData === "long" ? 2000 : 3); i++) y = y.matmul(x);
const program = await compile({ total: y.softmax(-1).sum() }, { engine: "cpu" });
const feeds = { x: new Float32Array(40_000).fill(0.01) };
if (workerData === "long") {
  const run = program.run(feeds);
  parentPort!.postMessage("running");
  await run;
} else {
  let total = 0;
  for (let i = 0; i < 20; i++) total = (await program.run(feeds)).total.item();
  program.dispose();
  parentPort!.postMessage(Math.round(total));
}
