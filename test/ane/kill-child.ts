// `kill-child.ts`: opens the Neural Engine, says so, and compiles slowly: it is killed meanwhile. `kill-child.ts end` computes and ends.

import { readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compile, input } from "../../src/index.ts";
import { openAne, outcome, print, raw, wait } from "./inside.ts";

const engine = await openAne();
const folder = join(tmpdir(), `anekit-${process.getuid!()}`);
const x = input([4], { name: "x" });
if (process.argv[2] === "end") {
  // What an earlier process left is gone by now.
  print(readdirSync(folder));
  using program = await compile({ y: x.mul(2) }, { engine });
  const { y } = await program.run({ x: [1, 2, 3, 4] });
  print(Array.from(y.data as Float32Array));
  program.dispose();
  engine[Symbol.dispose]();
} else {
  const kept = await compile({ y: x.mul(2) }, { engine });
  kept.runSync({ x: [1, 2, 3, 4] });
  raw.configure(`${process.env.ESPRESSO_DOUBLE};slow-compile=20000`);
  const slow = outcome(compile({ y: x.mul(3) }, { engine }));
  await wait(100);
  print(process.pid);
  await slow;
}
