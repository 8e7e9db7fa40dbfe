// `anekit bench` as a process, with shapes that take no time: its rows, and what it says where something is missing.

import { chmodSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { BenchRow } from "../../src/cli/bench.ts";
import { gpt } from "../../src/cli/bench-cases.ts";
import { comparisons } from "../../src/cli/bench-rows.ts";
import type { ParameterNode } from "../../src/ir/node.ts";
import { anekit, lines, temporaryFolder } from "./anekit.ts";

const temporary = temporaryFolder();
const quick = ["--tiny", "--rounds", "1", "--engine", "sim"];
/** A program in place of Python. */
const python = (name: string, text: string) => {
  const path = temporary.write(name, `#!/usr/bin/env node\n${text}`);
  chmodSync(path, 0o755);
  return { ANEKIT_BENCH_PYTHON: path };
};
const answering = python(
  "answering",
  `console.log("a library says hello");
console.log(JSON.stringify({ peer: "Peer 1.0", prepare: 0.5 }));
require("node:readline").createInterface({ input: process.stdin }).on("line", () =>
  console.log(JSON.stringify({ seconds: 0.001, memory: 1e6, cpu: 0 })),
);`,
);
const absent = python("absent", `console.error("ModuleNotFoundError: No module named 'torch'"); process.exitCode = 1;`);

async function bench(
  name: string,
  env: Readonly<Record<string, string>>,
): Promise<{ rows: BenchRow[]; stderr: string }> {
  const { code, stdout, stderr } = await anekit(["bench", name, ...quick, "--json"], { env });
  expect(code, stderr).toBe(0);
  return { rows: lines(stdout).map((line) => JSON.parse(line) as BenchRow), stderr };
}

it("models that are measured have random weights", () => {
  const size = { dim: 32, hidden: 64, layers: 2, heads: 2, sequence: 8, vocab: 64 };
  for (const [name, { node, shape }] of gpt(size, "fp32").parameters) {
    const { initial } = node as ParameterNode;
    if (typeof initial === "number") {
      expect({ name, initial }).toEqual({ name: expect.stringMatching(/gamma$/), initial: 1 });
      continue;
    }
    const squares = Array.from(initial, (value) => Number(value) ** 2);
    const deviation = Math.sqrt(squares.reduce((sum, square) => sum + square, 0) / squares.length);
    expect(deviation * Math.sqrt(shape[1]!), name).toBeGreaterThan(0.9);
    expect(deviation * Math.sqrt(shape[1]!), name).toBeLessThan(1.1);
  }
});

describe("anekit bench", { timeout: 90_000 }, () => {
  it("prints one row per comparison", async () => {
    const { rows } = await bench("mlp", answering);
    expect(rows.map(({ name }) => name)).toEqual(["mlp/sgd", "mlp/adamw"]);
    const [row] = rows;
    expect(row).toMatchObject({ peer: 1, peerName: "Peer 1.0", unit: "ms (less is better)", rounds: 1, engine: "sim" });
    expect(row!.ours).toBeGreaterThan(0);
    expect(row!.ratio).toBeCloseTo(row!.ours);
    expect(row!.memory).toBeGreaterThan(1e7);
    expect(row!.peerMemory).toBe(1e6);
    expect(row!.spread[0]).toBeLessThanOrEqual(row!.ours);
    for (const key of ["floor", "share", "peerSpread", "prepare", "peerPrepare", "threads", "others"]) {
      expect(row).toHaveProperty(key);
    }
  });

  it("compares ours with ours where the dtype or the threads differ", async () => {
    const { rows } = await bench("matmul/8x16/forward/fp16", absent);
    expect(rows).toMatchObject([{ peerName: "ours fp32", unit: "GFLOP/s (more is better)" }]);
    expect(rows[0]!.ratio).toBeGreaterThan(0);
  });

  it("works without a peer and says how to get it", async () => {
    const { rows, stderr } = await bench("softmax", absent);
    expect(rows).toMatchObject([{ peer: null, ratio: null, peerName: "PyTorch" }]);
    expect(stderr).toContain(
      "peer not installed: PyTorch (ModuleNotFoundError: No module named 'torch'); in anekit's repository \"npm run bench\" installs it",
    );
  });

  it.each(["call", "cnn", "conv", "decode", "encoder", "images", "train", "compile", "convert"])(
    "measures %s",
    async (name) => {
      const { rows } = await bench(name, answering);
      expect(rows.every(({ ours }) => ours > 0)).toBe(true);
    },
  );

  it.skipIf(process.arch !== "x64")("measures the machine's limits, and rows beside them", async () => {
    const { rows: machines } = await bench("machine", { ANEKIT_ISA: "avx2", ANEKIT_THREADS: "1" });
    expect(machines).toMatchObject([{ name: "machine", isa: "avx2", threads: 1 }]);
    const [{ flops, bytes }] = machines as unknown as [Record<"flops" | "bytes", Record<string, number>>];
    expect(flops.avx2).toBeGreaterThan(1e6);
    expect(Object.keys(bytes)).toEqual(["read", "write", "copy", "triad"]);
    for (const rate of Object.values(bytes)) expect(rate).toBeGreaterThan(1e6);
    const { rows } = await bench("softmax", absent);
    expect(rows[0]!.share).toBeGreaterThan(0);
  });

  it("says why the machine's limits are not known", async () => {
    const { code, stderr } = await anekit(["bench", "softmax", ...quick], { env: { ...absent, ANEKIT_ISA: "mmx" } });
    expect(code, stderr).toBe(0);
    expect(stderr).toMatch(/the machine's limits are not known: .*ANEKIT_ISA: "mmx" is none of/);
  });

  it("refuses names that nothing has, real shapes on the simulator, and rounds below one", async () => {
    const refusals = await Promise.all(
      [
        ["nothing", "--tiny"],
        ["call", "--engine", "sim"],
        ["call", "--tiny", "--rounds", "0"],
      ].map((args) => anekit(["bench", ...args])),
    );
    expect(refusals.map(({ code }) => code)).toEqual([2, 2, 2]);
    expect(refusals[0]!.stderr).toContain('there is no comparison "nothing"; there are: machine, matmul, conv, train');
    expect(refusals[1]!.stderr).toContain("add --tiny");
    expect(refusals[2]!.stderr).toContain('"0" is not a positive integer');
  });
});

describe("comparisons", () => {
  it("have names of their own, and threads up to those there are", () => {
    const names = comparisons(false, 4).map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(names.filter((name) => name.startsWith("scaling"))).toEqual(["scaling/1", "scaling/2", "scaling/4"]);
    expect(names).toContain("matmul/768x32000/dw/fp16");
    expect(names).toContain("train/110M");
  });
});
