// Runs bench/*.bench.ts one after another: all of them, or those whose names are given; options such as --json are passed on.

import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { root } from "./steps.ts";

const args = process.argv.slice(2);
const wanted = args.filter((arg) => !arg.startsWith("-"));
const options = args.filter((arg) => arg.startsWith("-"));
const files = readdirSync(join(root, "bench"))
  .filter((file) => file.endsWith(".bench.ts"))
  .sort();
const chosen = files.filter((file) => wanted.length === 0 || wanted.includes(file.replace(".bench.ts", "")));
if (chosen.length === 0) {
  process.stderr.write(`bench: nothing to run; there is: ${files.join(", ") || "no benchmark"}\n`);
  process.exit(2);
}
for (const file of chosen) {
  process.stderr.write(`bench/${file}\n`);
  const { status } = spawnSync(process.execPath, ["--import", "tsx", join("bench", file), ...options], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (status !== 0) process.exitCode = 1;
}
