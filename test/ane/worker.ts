// A user's worker thread with an engine of its own: computes, and says the result.

import { parentPort } from "node:worker_threads";
import { compile, input, openEngine } from "../../src/index.ts";

const engine = await openEngine("ane");
const x = input([4], { name: "x" });
const program = await compile({ y: x.mul(2) }, { engine });
const sync = program.runSync({ x: [1, 2, 3, 4] }).y.data;
const { y } = await program.run({ x: Array.from(sync as Float32Array) });
program.dispose();
engine[Symbol.dispose]();
parentPort!.postMessage(Array.from(y.data as Float32Array));
