// The examples and the README's quickstart, run as a user would run them.

import { execFile } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

async function run(file: string, ...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, ["--import", "tsx", file, ...args], { cwd: root });
  return stdout;
}

test.concurrent("01-tensor learns the weights its targets were made with", async () => {
  const out = await run("examples/01-tensor.ts");
  expect(out).toContain("y = [ [ 0, 0 ], [ 4.5, 6 ] ] total = 1.5");
  const [a, b] = out
    .match(/learned w = \[ \[ ([-\d.]+) \], \[ ([-\d.]+) \] \]/)!
    .slice(1)
    .map(Number);
  expect(a).toBeCloseTo(2, 1);
  expect(b).toBeCloseTo(-3, 1);
}, 60_000);

test.concurrent("02-mlp beats chance after a few steps", async () => {
  const out = await run("examples/02-mlp.ts", "60");
  expect(Number(out.match(/not seen: ([\d.]+) %/)![1])).toBeGreaterThan(50);
}, 60_000);

test.concurrent("03-cnn trains and reports", async () => {
  const out = await run("examples/03-cnn.ts", "40");
  expect(Number(out.match(/step 40: loss ([\d.]+)/)![1])).toBeLessThan(2.2);
  expect(out).toMatch(/the classifier: \d+ operators/);
}, 60_000);

test.concurrent("04-transformer trains in fp16 alone and generates", async () => {
  const out = await run("examples/04-transformer.ts", "20");
  expect(out).toContain("fp16 compute, fp16 weights, fp16 moments");
  expect(Number(out.match(/step 20: loss ([\d.]+)/)![1])).toBeLessThan(4);
  expect(out).toMatch(/^the quick.+$/m);
}, 60_000);

test.concurrent("05-mil prints a program and reads it back", async () => {
  const out = await run("examples/05-mil.ts");
  expect(out).toContain("func main<ios18>(tensor<fp16, [2, 4]> x)");
  expect(out.match(/read back: matmul -> softmax, results scores/g)).toHaveLength(2);
}, 60_000);

test.concurrent("06-image ranks the classes of an image", async () => {
  const out = await run("examples/06-image.ts", "resnet-18", "64");
  expect(out).toContain("11.7 million parameters");
  expect(out.match(/^class +\d+: [-\d.]+$/gm)).toHaveLength(5);
  expect(out).toMatch(/[\d.]+ ms an image/);
}, 60_000);

test.concurrent("06-image says in one line what it cannot classify", async () => {
  for (const [args, message] of [
    [["resnet"], 'model: "resnet" is none of resnet-18, '],
    [["vit-tiny", "half"], `example: the image's side is "half", not a number of pixels`],
    [["vit-tiny", "31"], "vit: images are fp16[1, 3, 31, 31], not [N, 3, 32, 32]"],
    [["unet-tiny"], "example: unet-tiny gives an image, not a score for each class"],
  ] as const) {
    const { code, stderr } = await run("examples/06-image.ts", ...args).then(
      () => ({ code: 0, stderr: "" }),
      (error: { code: number; stderr: string }) => error,
    );
    expect(code).toBe(1);
    expect(stderr.trimEnd().split("\n")).toEqual([expect.stringContaining(message)]);
  }
}, 60_000);

test.concurrent("07-train-images trains on what is here and tells its accuracy", async () => {
  const out = await run("examples/07-train-images.ts", "50");
  expect(Number(out.match(/step 50: loss ([\d.]+)/)![1])).toBeLessThan(2.2);
  expect(Number(out.match(/not seen: ([\d.]+) %/)![1])).toBeGreaterThan(20);
}, 120_000);

test.concurrent("the README's quickstart runs and learns", async () => {
  const [, code] = /```ts\n([\s\S]*?)```/.exec(readFileSync(`${root}README.md`, "utf8"))!;
  const file = `${root}examples/.quickstart-${process.pid}.ts`; // beside the examples, where "anekit" resolves
  writeFileSync(file, code!);
  try {
    const out = await run(file);
    expect(out).toContain("[ [ 2, 0, 6 ], [ 0, 10, 0 ] ]");
    const losses = out
      .split("\n")
      .filter((line) => /^[\d.e-]+$/.test(line))
      .map(Number);
    expect(losses.length).toBeGreaterThanOrEqual(10);
    expect(losses.at(-1)!).toBeLessThan(losses.at(-10)!);
  } finally {
    rmSync(file);
  }
}, 60_000);
