// Packs the package, installs it in an empty folder as a user would, and checks what arrives: entries, command, types, size, load time.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import ts from "typescript";
import packageJson from "../package.json" with { type: "json" };
import { command, root, runSteps, Skip, type Step } from "./steps.ts";

const LIMIT_BYTES = 15e6;
const LIMIT_PACKAGES = 15;
/** Code that importing the package loads. */
const LIMIT_IMPORT_BYTES = 0.5e6;

const folder = mkdtempSync(join(tmpdir(), "anekit-package-"));
const user = join(folder, "user");
const installed = join(user, "node_modules", packageJson.name);
const tarball = join(folder, `${packageJson.name}-${packageJson.version}.tgz`);
const bin = (name: string) => join(root, "node_modules", ".bin", name);
const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`;

/** Import paths of the public entries: anekit, anekit/nn, ... */
const entries = Object.entries(packageJson.exports)
  .filter(([, entry]) => typeof entry === "object")
  .map(([path]) => join(packageJson.name, path));

/** What a user writes first; README's quickstart is checked the same way. */
const smoke = `import { compile, grad, input, parameter } from "anekit";

const x = input([2, 3], { name: "x" });
const w = parameter([1, 2, 3], [3], { name: "w" });
const loss = x.mul(w).square().mean();
const program = await compile({ loss, dw: grad(loss, [w])[0]! }, { engine: "sim" });
const { loss: value } = await program.run({ x: [1, 1, 1, 1, 1, 1] });
if (Math.abs(value.item() - 14 / 3) > 0.01) throw new Error("loss is " + value.item());
program.dispose();
`;

function quickstart(): string {
  const readme = join(root, "README.md");
  if (!existsSync(readme)) throw new Skip("there is no README.md");
  const block = /^```ts\n([\s\S]*?)^```/m.exec(readFileSync(readme, "utf8"));
  if (block === null) throw new Skip("README.md has no ```ts block");
  return block[1]!;
}

function javascript(source: string, module: ts.ModuleKind): string {
  return ts.transpileModule(source, { compilerOptions: { target: ts.ScriptTarget.ES2022, module } }).outputText;
}

/** The same program for require: imports first, the rest in an async function, since CommonJS has no top-level await. */
function commonJs(source: string): string {
  const { statements } = ts.createSourceFile("example.ts", source, ts.ScriptTarget.ESNext);
  const text = (wanted: boolean) =>
    statements
      .filter((statement) => ts.isImportDeclaration(statement) === wanted)
      .map((statement) => source.slice(statement.getFullStart(), statement.end))
      .join("");
  return javascript(`${text(true)}\nvoid (async () => {${text(false)}\n})();\n`, ts.ModuleKind.CommonJS);
}

function write(name: string, text: string): string {
  const path = join(user, name);
  mkdirSync(user, { recursive: true });
  writeFileSync(path, text);
  return path;
}

/** Runs and type-checks an example in the user's folder: as an ES module, through require, and by tsc without Node's types. */
function tryExample(name: string, source: string): string {
  command("node", [write(`${name}.mjs`, javascript(source, ts.ModuleKind.ESNext))], { cwd: user });
  command("node", [write(`${name}.cjs`, commonJs(source))], { cwd: user });
  typeCheck(write(`${name}.mts`, source));
  return "import, require and tsc agree";
}

/** Strict settings of a user who has neither Node's types nor `skipLibCheck`. */
function typeCheck(path: string): void {
  const compilerOptions = { strict: true, noEmit: true, module: "nodenext", target: "es2023", lib: ["es2023", "dom"] };
  write("tsconfig.json", JSON.stringify({ compilerOptions: { ...compilerOptions, types: [] }, files: [path] }));
  command(bin("tsc"), ["-p", "."], { cwd: user });
}

/** What loading a module of the package loads: files of the package, and anything else by its name; not what import() loads later. */
function staticImports(path: string, files: Set<string> = new Set(), others: Set<string> = new Set()) {
  if (files.has(path)) return { files, others };
  files.add(path);
  for (const statement of ts.createSourceFile(path, readFileSync(path, "utf8"), ts.ScriptTarget.ESNext).statements) {
    if (!ts.isImportDeclaration(statement) && !ts.isExportDeclaration(statement)) continue;
    if (statement.moduleSpecifier === undefined || !ts.isStringLiteral(statement.moduleSpecifier)) continue;
    const name = statement.moduleSpecifier.text;
    if (name.startsWith(".")) staticImports(join(path, "..", name), files, others);
    else others.add(name);
  }
  return { files, others };
}

function bytesIn(path: string): number {
  if (!statSync(path).isDirectory()) return statSync(path).size;
  return readdirSync(path).reduce((sum, name) => sum + bytesIn(join(path, name)), 0);
}

function assertAtMost(what: string, value: number, limit: number, show: (value: number) => string = String): string {
  if (value > limit) throw new Error(`${what}: ${show(value)} exceeds ${show(limit)}`);
  return `${what} ${show(value)}`;
}

/** Least time of scripts in turn, ms: what other work on the machine adds is left out. */
function leastMs(scripts: readonly string[], rounds: number): number[] {
  const least = scripts.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < rounds; round++) {
    for (const [i, script] of scripts.entries()) {
      const start = performance.now();
      command("node", [script], { cwd: user });
      least[i] = Math.min(least[i]!, performance.now() - start);
    }
  }
  return least;
}

/** Whether this version has the command. */
function hasCommand(name: string): boolean {
  return new RegExp(`^\\s+${name}\\b`, "m").test(command("npx", ["--no-install", "anekit", "--help"], { cwd: user }));
}

function assertCommand(): void {
  if (!existsSync(join(root, "src/cli/main.ts"))) throw new Skip("src/cli/main.ts does not exist");
}

const steps: Record<string, Step> = {
  pack() {
    command("npm", ["pack", "--pack-destination", folder]);
    return assertAtMost("tarball", statSync(tarball).size, LIMIT_BYTES, megabytes);
  },
  install() {
    write("package.json", JSON.stringify({ name: "user", private: true, type: "module" }));
    command("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", tarball], { cwd: user });
    const lock = JSON.parse(readFileSync(join(user, "package-lock.json"), "utf8")) as { packages: object };
    // Builds of the FFI library for other machines are in the lock file, but not here.
    const packages = Object.keys(lock.packages).filter((path) => path !== "" && existsSync(join(user, path))).length;
    const bytes = bytesIn(join(user, "node_modules"));
    return `${assertAtMost("packages", packages, LIMIT_PACKAGES)}, ${assertAtMost("installed", bytes, LIMIT_BYTES, megabytes)}`;
  },
  contents() {
    const wanted = ["LICENSE", "package.json", "data/demo.txt", ...Object.values(packageJson.bin)];
    for (const entry of Object.values(packageJson.exports)) {
      if (typeof entry === "object") wanted.push(entry.types, entry.default);
    }
    const missing = wanted.filter((path) => !existsSync(join(installed, path)));
    if (missing.length > 0) throw new Error(`not in the package: ${missing.join(", ")}`);
    return `${wanted.length} files that package.json names`;
  },
  entries() {
    const list = JSON.stringify(entries);
    command("node", [write("all.mjs", `for (const name of ${list}) await import(name);\n`)], { cwd: user });
    command("node", [write("all.cjs", `for (const name of ${list}) require(name);\n`)], { cwd: user });
    const reexports = entries.map((name, i) => `export * as e${i} from ${JSON.stringify(name)};\n`);
    typeCheck(write("all.mts", reexports.join("")));
    return entries.join(", ");
  },
  example: () => tryExample("example", smoke),
  quickstart: () => tryExample("quickstart", quickstart()),
  version() {
    assertCommand();
    const version = command("npx", ["--no-install", "anekit", "--version"], { cwd: user }).trim();
    if (version !== packageJson.version) throw new Error(`anekit --version says ${version}`);
    return version;
  },
  demo() {
    assertCommand();
    if (!hasCommand("demo")) throw new Skip("anekit has no command demo");
    command("npx", ["--no-install", "anekit", "demo", "--steps", "2"], { cwd: user });
    return "two steps";
  },
  "machine's limits"() {
    assertCommand();
    if (process.arch !== "x64") throw new Skip(`there is no code generator for ${process.arch}`);
    const json = command("npx", ["--no-install", "anekit", "bench", "machine", "--tiny", "--json"], { cwd: user });
    return `measured with ${(JSON.parse(json) as { isa: string }).isa}`;
  },
  import() {
    const { files } = staticImports(join(installed, packageJson.exports["."].default));
    const bytes = [...files].reduce((sum, path) => sum + statSync(path).size, 0);
    const [load, empty] = leastMs([write("load.mjs", 'import "anekit";\n'), write("empty.mjs", "")], 10);
    // Times are shown, not judged: they say how busy the machine is.
    return `${assertAtMost("code", bytes, LIMIT_IMPORT_BYTES, megabytes)}, ${Math.max(0, load! - empty!).toFixed(1)} ms`;
  },
  "portable entries"() {
    const portable = [".", "./nn", "./optim", "./mil", "./chips"] as const;
    for (const name of portable) {
      const { files, others } = staticImports(join(installed, packageJson.exports[name].default));
      const engines = [...files].filter((path) => /^(sim|cpu|ane)-/.test(basename(path)));
      const wrong = [...engines, ...others];
      if (wrong.length > 0) throw new Error(`${name} loads ${wrong.join(", ")}`);
    }
    return `no engine, no package and no module of Node is loaded by ${portable.join(" ")}`;
  },
  "no native code"() {
    const script = `import "anekit";
const { sharedObjects } = process.report.getReport();
const native = sharedObjects.filter((path) => /\\.node$|koffi|ffi/i.test(path));
if (native.length > 0) throw new Error("importing anekit loads " + native);
`;
    command("node", [write("native.mjs", script)], { cwd: user });
    return "importing anekit loads no addon";
  },
  publint() {
    command(bin("publint"), [installed, "--strict", "--pack", "false"]);
    return undefined;
  },
  "are the types wrong"() {
    command(bin("attw"), [tarball, "--profile", "esm-only"]);
    return undefined;
  },
};
await runSteps("package", steps, ["pack", "install"]);
rmSync(folder, { recursive: true, force: true });
