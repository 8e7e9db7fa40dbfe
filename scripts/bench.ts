// `npm run bench -- [NAME…] [options]`: installs the peers once, runs `anekit bench`, then bench/*.bench.ts; or only what is named of either.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type ParseArgsConfig, parseArgs } from "node:util";
import { root } from "./steps.ts";

const cache = join(root, "node_modules/.cache/anekit-bench");
const windows = process.platform === "win32";
const venv = join(cache, "venv");
const python = join(venv, windows ? "Scripts/python.exe" : "bin/python");
const requirements = join(root, "bench/peers/requirements.txt");
const torch = "torch==2.15.0";

const files = readdirSync(join(root, "bench"))
  .filter((file) => file.endsWith(".bench.ts"))
  .sort();
const titleOf = (file: string) => file.replace(".bench.ts", "");
const usage = `npm run bench -- [NAME…] [options]

Measures beside PyTorch, ONNX Runtime and OpenBLAS, which it installs into node_modules/.cache/anekit-bench the first time.
NAME is one of ${files.map(titleOf).join(", ")} (bench/NAME.bench.ts) or a comparison of "anekit bench"; without a name it runs all of both.

  --rounds COUNT   rounds of each measurement (graph makes five, ane 200)
  --json           print one JSON object per line
  --engine NAME    "anekit bench" only: what runs ours
  --tiny           "anekit bench" only: shapes that take no time
  --help           print this
`;

const sharedOptions = { rounds: { type: "string" }, json: { type: "boolean" } } as const;
const comparedOptions = { ...sharedOptions, engine: { type: "string" }, tiny: { type: "boolean" } } as const;

/** Exits where the command line is wrong or asks for help. */
function parseCommandLine() {
  try {
    const options = { ...comparedOptions, help: { type: "boolean", short: "h" } } as const;
    const parsed = parseArgs({ options, allowPositionals: true });
    if (parsed.values.help !== true) return parsed;
    process.stdout.write(usage);
    process.exit(0);
  } catch (error) {
    process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n\n${usage}`);
    process.exit(2);
  }
}
const { values, positionals: names } = parseCommandLine();
/** Arguments that give on the options that whoever is called knows. */
const given = (known: NonNullable<ParseArgsConfig["options"]>) =>
  Object.entries(values)
    .filter(([name]) => name in known)
    .map(([name, value]) => (value === true ? `--${name}` : `--${name}=${value}`));
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
  for (const name of runs) node(["src/cli/main.ts", "bench", ...name, ...given(comparedOptions)]);
}
for (const file of files) {
  if (names.length > 0 && !names.includes(titleOf(file))) continue;
  process.stderr.write(`bench/${file}\n`);
  node([join("bench", file), ...given(sharedOptions)]);
}
