// Build: one ES module per public entry and one for the command; they share chunks, and engines stay lazily loaded chunks.

import { existsSync } from "node:fs";
import { defineConfig } from "tsdown";
import packageJson from "./package.json" with { type: "json" };

// package.json is the only list of entries: "./nn" with "./dist/nn/index.js" is built from src/nn/index.ts.
const outputs = [
  ...Object.values(packageJson.exports).flatMap((target) => (typeof target === "string" ? [] : [target.default])),
  ...Object.values(packageJson.bin),
].map((path) => path.replace(/^(\.\/)?dist\//, "").replace(/\.js$/, ""));
/** Modules that run in threads and processes of their own; see engines/os/entry.ts. */
const threads = ["engines/ane/worker", "engines/ane/probe-process", "engines/cpu/accelerate-process"];
const entries = [...outputs, ...threads].filter((name) => existsSync(`src/${name}.ts`));

export default defineConfig({
  entry: Object.fromEntries(entries.map((name) => [name, `src/${name}.ts`])),
  format: "esm",
  target: "node20.19",
  platform: "neutral", // the library loads in browsers too; `node:` modules of Node-only parts stay imports
  deps: { neverBundle: [/^node:/] },
  fixedExtension: false,
  dts: true,
  report: false,
  checks: { pluginTimings: false },
  failOnWarn: true,
  // Declarations name Symbol.asyncDispose, which no `lib` of a user's settings has by default.
  banner: { dts: '/// <reference lib="esnext.disposable" />' },
  outputOptions: { chunkFileNames: "chunks/[name]-[hash].js" },
});
