// `npm run bench [NAME…] [--json]`: installs the peers once, runs `anekit bench`, then bench/*.bench.ts; or only what is named of either.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./steps.ts";

const cache = join(root, "node_modules/.cache/anekit-bench");
const windows = process.platform === "win32";
const venv = join(cache, "venv");
const python = join(venv, windows ? "Scripts/python.exe" : "bin/python");
const requirements = join(root, "bench/peers/requirements.txt");
const torch = "torch==2.15.0";

const args = process.argv.slice(2);
const names = args.filter((arg) => !arg.startsWith("-"));
const options = args.filter((arg) => arg.startsWith("-"));
const files = readdirSync(join(root, "bench")).filter((file) => file.endsWith(".bench.ts"));
const named = (file: string) => names.includes(file.replace(".bench.ts", ""));
const compared = names.filter((name) => !files.includes(`${name}.bench.ts`));

/** Runs a command; its output goes where ours goes. */
function succeeds(command: string, args: readonly string[]): boolean {
  return spawnSync(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] }).status === 0;
}

function node(args: readonly string[]): void {
  if (!succeeds(process.execPath, ["--import", "tsx", ...args])) process.exitCode = 1;
}

const pip = (...packages: string[]) =>
  succeeds(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ...packages]);
const quietly = (command: string, args: readonly string[]) =>
  spawnSync(command, args, { stdio: "ignore" }).status === 0;

/** torch for a CPU. The wheel for x86-64 Linux asks for gigabytes of CUDA libraries: stand-ins take their place where they can be built. */
function installTorch(): boolean {
  if (process.platform === "linux" && process.arch === "x64" && quietly("gcc", ["--version"])) {
    const installed = pip("--no-deps", torch) && succeeds(python, [join(root, "bench/peers/cuda_stubs.py")]);
    if (installed && quietly(python, ["-c", "import torch; torch.ones(2).sum()"])) return true;
  }
  return pip(torch);
}

/** Installs the peers unless the same ones are there. @returns whether they are. */
function installPeers(): boolean {
  const wanted = `${torch}\n${readFileSync(requirements, "utf8")}`;
  const stamp = join(cache, "installed.txt");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return true;
  const base = windows ? "python" : "python3";
  if (!quietly(base, ["-c", "import sys, venv; sys.exit(sys.version_info < (3, 11))"])) {
    process.stderr.write(`bench: no peers: ${base} 3.11 or later with venv is not there\n`);
    return false;
  }
  process.stderr.write(
    "bench: installing the peers (PyTorch, ONNX Runtime, numpy) into node_modules/.cache/anekit-bench\n",
  );
  rmSync(cache, { recursive: true, force: true });
  mkdirSync(cache, { recursive: true });
  if (!succeeds(base, ["-m", "venv", venv]) || !pip("-r", requirements) || !installTorch()) {
    process.stderr.write("bench: the peers could not be installed; going on without what is missing\n");
    return false;
  }
  writeFileSync(stamp, wanted);
  return true;
}

if (names.length === 0 || compared.length > 0) {
  if (process.env.ANEKIT_BENCH_PYTHON === undefined) installPeers();
  const runs = compared.length === 0 ? [[]] : compared.map((name) => [name]);
  for (const name of runs) node(["src/cli/main.ts", "bench", ...name, ...options]);
}
for (const file of files.sort()) {
  if (names.length > 0 && !named(file)) continue;
  process.stderr.write(`bench/${file}\n`);
  node([join("bench", file), ...options]);
}
