// A training process for the kill test: trains in the folder that it is given, a checkpoint every step, one line per event on standard output.

import { adamw } from "../../src/optim/index.ts";
import { listCheckpoints, train } from "../../src/train/index.ts";
import { killModel, killOptions } from "./kill.ts";

const out = process.argv[2]!;
const resume = (await listCheckpoints(out)).length > 0;
const optimizer = adamw({ learningRate: 0.01 });
for await (const event of train(killModel(), {
  ...killOptions(),
  optimizer,
  steps: 100_000,
  out,
  saveEvery: 1,
  resume,
})) {
  if (event.type === "start") process.stdout.write(`start ${event.firstStep}\n`);
  if (event.type === "step")
    process.stdout.write(`step ${event.step} ${event.loss} ${event.lossScale} ${event.skipped}\n`);
}
