// Random graphs over all operators: text round trips, engines, verifier and derivatives agree; damaged text is refused cleanly.
// FUZZ_RUNS sets the number of graphs, FUZZ_SEED the first seed; a failure names its seed.

import { describe, expect, test } from "vitest";
import { isFloat } from "../../src/core/dtype.ts";
import { AnekitError } from "../../src/core/errors.ts";
import { sameShape, sizeOf } from "../../src/core/shape.ts";
import type { CompiledProgram } from "../../src/engines/compile.ts";
import { compile, constant, type Feed, grad, type NDArray, parameter, Tensor } from "../../src/index.ts";
import { topologicalOrder } from "../../src/ir/node.ts";
import { buildPlan, type Plan } from "../../src/ir/plan.ts";
import { type Program, verifyProgram } from "../../src/ir/program.ts";
import { readMil } from "../../src/mil/reader.ts";
import { milFiles } from "../../src/mil/writer.ts";
import { operandsByName } from "../../src/ops/define.ts";
import { ops } from "../../src/ops/index.ts";
import { canonicalText } from "../canonical.ts";
import { createEager, type EagerOrder } from "../plans/eager-engine.ts";
import { Dice, type FuzzGraph, type GraphOptions, randomGraph } from "./generate.ts";
import { mutate } from "./mutate.ts";

const runs = Number(process.env.FUZZ_RUNS ?? 60);
const firstSeed = Number(process.env.FUZZ_SEED ?? 1);
const seeds = Array.from({ length: runs }, (_, i) => firstSeed + i);
const timeout = 20_000 + runs * 1000;

/** Runs a check for every seed; the error says which seed and what the graph was. */
async function forEachSeed(check: (seed: number) => void | Promise<void>): Promise<void> {
  for (const seed of seeds) {
    try {
      await check(seed);
    } catch (error) {
      throw new Error(`seed ${seed} (FUZZ_SEED=${seed} FUZZ_RUNS=1): ${(error as Error).message}`, { cause: error });
    }
  }
}

/** Bit patterns, with one pattern for all NaNs: their sign and payload depend on the machine. */
function bitsOf({ dtype, data }: NDArray<"fp16" | "fp32" | "int32" | "bool", "bits">): number[] {
  const array = data as ArrayLike<number>;
  if (dtype === "fp32")
    return Array.from(new Uint32Array(Float32Array.from(array).buffer), (bits) =>
      (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : bits,
    );
  if (dtype === "fp16") return Array.from(array, (bits) => ((bits & 0x7fff) > 0x7c00 ? 0x7e00 : bits));
  return Array.from(array);
}

type Trace = Record<string, number[]>[];

async function traceOf(
  program: CompiledProgram,
  feeds: Readonly<Record<string, Feed>>,
  states: readonly Tensor[],
  count = 3,
): Promise<Trace> {
  const list: Trace = [];
  const used = Object.fromEntries(Object.entries(feeds).filter(([name]) => program.plan.feeds.has(name)));
  for (let run = 0; run < count; run++) {
    const results = (await program.run(used, { as: "bits" })) as Record<string, NDArray<"fp16", "bits">>;
    const bits: Record<string, number[]> = {};
    for (const [name, array] of Object.entries(results)) bits[name] = bitsOf(array);
    for (const [i, state] of states.entries())
      bits[`state${i}`] = bitsOf(program.state.read(state, { as: "bits" }) as NDArray<"fp16", "bits">);
    list.push(bits);
  }
  return list;
}

const planOf = ({ outputs, update }: FuzzGraph): Plan =>
  buildPlan({ outputs: new Map(Object.entries(outputs)), updates: update });

/** A program of one stage without state, as an engine sees it. */
async function runProgram(
  program: Program,
  feeds: ReadonlyMap<string, Uint8Array<ArrayBuffer>>,
): Promise<Record<string, number[]>> {
  const { createSim } = await import("../../src/engines/sim/index.ts");
  const engine = createSim("fuzzing");
  const executable = await engine.load(program);
  const buffers = new Map(
    [...program.inputs, ...program.outputs].map(({ name, value }) => [name, engine.allocate(program.values[value]!)]),
  );
  for (const { name } of program.inputs) buffers.get(name)!.bytes.set(feeds.get(name)!);
  executable.bind(buffers).runSync();
  return Object.fromEntries(
    program.outputs.map(({ name, value }) => {
      const { dtype } = program.values[value]!;
      const { bytes } = buffers.get(name)!;
      const data =
        dtype === "fp16"
          ? new Uint16Array(bytes.buffer)
          : dtype === "fp32"
            ? new Float32Array(bytes.buffer)
            : dtype === "int32"
              ? new Int32Array(bytes.buffer)
              : bytes;
      return [name, bitsOf({ dtype, data } as unknown as NDArray<"fp16", "bits">)];
    }),
  );
}

/** Storage bytes for every input of a program. */
async function randomFeeds(program: Program, seed: number): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const { encodeFeed } = await import("../../src/engines/array.ts");
  const dice = new Dice(seed);
  return new Map(
    program.inputs.map(({ name, value }) => {
      const aval = program.values[value]!;
      const data = dice
        .floats(sizeOf(aval.shape))
        .map((x) => (aval.dtype === "bool" ? Number(x > 0) : aval.dtype === "int32" ? Math.round(x) : x));
      return [name, encodeFeed(name, aval, data)];
    }),
  );
}

test("the generator reaches every operator", () => {
  const counts = new Map<string, number>();
  for (let seed = 1; seed <= 700; seed++) {
    for (const { program } of planOf(randomGraph(seed)).stages)
      for (const { op } of program.instructions) counts.set(op.name, (counts.get(op.name) ?? 0) + 1);
  }
  expect(Object.keys(ops).filter((name) => !counts.has(name))).toEqual([]);
});

describe("random graphs", () => {
  test(
    "lower to programs that the verifier accepts",
    () =>
      forEachSeed((seed) => {
        for (const { program } of planOf(randomGraph(seed)).stages) verifyProgram(program);
      }),
    timeout,
  );

  test.each(["modern", "verbose"] as const)(
    "survive printing and reading as %s MIL, values bit for bit",
    (dialect) =>
      forEachSeed(async (seed) => {
        const { program } = planOf(randomGraph(seed)).stages[0]!;
        const { text, weights } = milFiles(program, { dialect });
        const again = readMil(text, { weights: () => weights });
        expect(canonicalText(again)).toBe(canonicalText(program));
        verifyProgram(again);
        expect(milFiles(again, { dialect }).text.length).toBeGreaterThan(0);
        const feeds = await randomFeeds(program, seed);
        const expected = await runProgram(program, feeds).catch((error: unknown) => {
          if (error instanceof AnekitError) return undefined;
          throw error;
        });
        if (expected !== undefined) expect(await runProgram(again, feeds)).toEqual(expected);
      }),
    timeout,
  );

  test.each(["random", "stores-first"] as const)(
    "with state run the same on the %s adversary and on the simulator",
    (order: EagerOrder) =>
      forEachSeed(async (seed) => {
        const { outputs, update, feeds } = randomGraph(seed);
        const states = [...update.keys()];
        await using sim = await compile(outputs, { update, engine: "sim" });
        const expected = await traceOf(sim, feeds, states);
        for (const again of [1, 2]) {
          await using eager = await compile(outputs, {
            update,
            engine: createEager({ seed: seed * 10 + again, order }),
          });
          expect(await traceOf(eager, feeds, states)).toEqual(expected);
        }
      }),
    timeout,
  );

  test(
    "cut into stages run as in one",
    () =>
      forEachSeed(async (seed) => {
        const { outputs, update, feeds } = randomGraph(seed);
        const states = [...update.keys()];
        const cuts = Object.values(outputs);
        const stages = [...cuts.map((value, i) => ({ name: `s${i}`, compute: [value] })), { name: "rest" }];
        await using whole = await compile(outputs, { update, engine: "sim" });
        await using parts = await compile(outputs, {
          update,
          stages,
          engine: createEager({ seed, order: "stores-first" }),
        });
        for (const { program } of parts.plan.stages) verifyProgram(program);
        expect(await traceOf(parts, feeds, states)).toEqual(await traceOf(whole, feeds, states));
      }),
    timeout,
  );

  test(
    "in fp32 give programs without fp16 that the verifier accepts",
    () =>
      forEachSeed(async (seed) => {
        const { outputs, update } = randomGraph(seed);
        await using wide = await compile(outputs, { update, engine: "sim", precision: "fp32" });
        for (const { program } of wide.plan.stages) {
          verifyProgram(program);
          expect(program.values.filter(({ dtype }) => dtype === "fp16")).toEqual([]);
        }
      }),
    timeout,
  );
});

/** MIL of a program; nothing where the writer refuses it, which the round trips report. */
function printedOrNothing(program: Program, dialect: "modern" | "verbose") {
  try {
    return milFiles(program, { dialect });
  } catch (error) {
    if (error instanceof AnekitError) return undefined;
    throw error;
  }
}

test(
  "lowerings for operands that a chip takes as constants give the same shape, dtype and values",
  () =>
    forEachSeed(async (seed) => {
      const names = [
        "conv",
        "conv_transpose",
        "linear",
        "layer_norm",
        "instance_norm",
        "batch_norm",
        "reshape",
        "tanh",
      ];
      const { outputs, feeds } = randomGraph(seed, { names, dtypes: ["fp32"], size: 6, scale: 1, states: false });
      const errors: Record<string, Tensor> = {};
      for (const node of topologicalOrder(Object.values(outputs))) {
        if (node.kind !== "op") continue;
        const { op, attrs } = node;
        const named = operandsByName(
          op,
          node.inputs.map((value) => value && new Tensor(value.node, value.index)),
        );
        for (const [operand, entry] of Object.entries(op.constantOnChip ?? {})) {
          if (named[operand] === undefined || entry === undefined) continue;
          const out = new Tensor(node, 0);
          const lowered = (entry as { lower(inputs: typeof named, given: typeof attrs): Tensor }).lower(named, attrs);
          expect(String(lowered), `${op.name} with ${operand}`).toBe(String(out));
          errors[`${op.name}_${operand}_${node.id}`] = out.sub(lowered).abs().max().div(out.abs().max().add(1));
        }
      }
      await using program = await compile(errors, { engine: "sim" });
      const used = Object.fromEntries(Object.entries(feeds).filter(([name]) => program.plan.feeds.has(name)));
      const results = (await program.run(used)) as Record<string, NDArray>;
      for (const [name, error] of Object.entries(results))
        if (error.item() >= 1e-4) expect.fail(`${name}: ${error.item()}`);
    }),
  timeout,
);

// -------------------------------------------------------------------------------------------------- derivatives

/** Operators without kinks or poles on the range of the feeds. */
const smoothOps = [
  "add",
  "sub",
  "mul",
  "sigmoid",
  "silu",
  "gelu",
  "tanh",
  "sin",
  "cos",
  "erf",
  "softplus",
  "square",
  "exp",
  "identity",
  "cast",
  "reduce_sum",
  "reduce_mean",
  "reduce_sum_square",
  "reduce_log_sum_exp",
  "softmax",
  "layer_norm",
  "instance_norm",
  "l2_norm",
  "matmul",
  "linear",
  "conv",
  "conv_transpose",
  "avg_pool",
  "reshape",
  "transpose",
  "expand_dims",
  "squeeze",
  "slice_by_index",
  "slice_by_size",
  "concat",
  "stack",
  "split",
  "tile",
  "pad",
  "upsample_nearest_neighbor",
  "pixel_shuffle",
  "pixel_unshuffle",
  "gather",
  "scatter",
  "cumsum",
];

/** A bounded scalar that depends on every float output. */
function lossOf(outputs: Readonly<Record<string, Tensor>>): Tensor | undefined {
  const parts = Object.values(outputs)
    .filter((y) => isFloat(y.dtype))
    .map((y) => y.cast("fp32").tanh().mean());
  return parts.length === 0 ? undefined : parts.reduce((sum, each) => sum.add(each));
}

/** The derivative, or undefined where the loss does not depend on the leaf through differentiable operators. */
function gradOf(loss: Tensor, leaf: Tensor): Tensor | undefined {
  try {
    return grad(loss, [leaf])[0];
  } catch (error) {
    if (error instanceof AnekitError && /does not depend on target/.test(error.message)) return undefined;
    throw error;
  }
}

describe("derivatives of random graphs", () => {
  test(
    "have the shapes and dtypes of their leaves, for all operators and both float dtypes",
    () =>
      forEachSeed((seed) => {
        const { outputs, leaves } = randomGraph(seed, { size: 12 });
        const loss = lossOf(outputs);
        if (loss === undefined) return;
        const grads = new Map<string, Tensor>();
        for (const [i, leaf] of leaves.filter(({ dtype }) => isFloat(dtype)).entries()) {
          const g = gradOf(loss, leaf);
          if (g === undefined) continue;
          expect(sameShape(g.shape, leaf.shape) && g.dtype === leaf.dtype, `${g} for ${leaf}`).toBe(true);
          grads.set(`g${i}`, g);
        }
        if (grads.size === 0) return;
        for (const { program } of buildPlan({ outputs: grads, updates: new Map() }).stages) {
          verifyProgram(program);
          const { text, weights } = milFiles(program);
          expect(canonicalText(readMil(text, { weights: () => weights }))).toBe(canonicalText(program));
        }
      }),
    timeout,
  );

  test.each<[string, GraphOptions]>([
    ["all smooth operators", { names: smoothOps, dtypes: ["fp32"], size: 8, scale: 1, states: false }],
    ["one smooth operator after another", { names: smoothOps, dtypes: ["fp32"], size: 3, scale: 1.5, states: false }],
  ])(
    "are finite and agree with central differences: %s",
    (_title, options) =>
      forEachSeed(async (seed) => {
        const { outputs, leaves, feeds } = randomGraph(seed, options);
        const loss = lossOf(outputs);
        if (loss === undefined) return;
        const targets = leaves.flatMap((leaf) => {
          const g = leaf.dtype === "fp32" ? gradOf(loss, leaf) : undefined;
          return g === undefined ? [] : [{ leaf, g }];
        });
        if (targets.length === 0) return;
        const named = Object.fromEntries(targets.map(({ g }, i) => [`g${i}`, g]));
        await using program = await compile({ loss, ...named }, { engine: "sim" });
        const used = Object.fromEntries(Object.entries(feeds).filter(([name]) => program.plan.feeds.has(name)));
        const at = await program.run(used);
        if (!Number.isFinite(at.loss.item())) return; // a variance of 0 without epsilon
        const grads = targets.map((_, i) => (at as Record<string, NDArray>)[`g${i}`]!.data as Float32Array);
        for (const g of grads) expect(g.every(Number.isFinite)).toBe(true);
        const dice = new Dice(seed + 1000);
        const directions = grads.map((g) => dice.floats(g.length, 1));
        const slope = grads.reduce(
          (sum, g, i) => sum + g.reduce((dot, value, j) => dot + value * directions[i]![j]!, 0),
          0,
        );
        const starts = targets.map(({ leaf }) =>
          leaf.node.kind === "input"
            ? Float32Array.from(used[leaf.node.name] as number[])
            : (program.state.read(leaf).data as Float32Array),
        );
        const lossAt = (step: number): number => {
          const moved = { ...used };
          for (const [i, { leaf }] of targets.entries()) {
            const values = starts[i]!.map((value, j) => value + step * directions[i]![j]!);
            if (leaf.node.kind === "input") moved[leaf.node.name] = values;
            else program.state.write(leaf, values);
          }
          return program.runSync(moved).loss.item();
        };
        const difference = (step: number) => (lossAt(step) - lossAt(-step)) / (2 * step);
        const [wide, narrow] = [difference(2 ** -6), difference(2 ** -8)];
        // Where the two differences disagree the function bends or rounds too much to tell.
        const bound = 0.02 * (1 + Math.abs(slope)) + 4 * Math.abs(wide - narrow);
        expect(Math.abs(slope - narrow), `slope ${slope}, differences ${wide} and ${narrow}`).toBeLessThan(bound);
      }),
    timeout,
  );
});

test("updates that a later index of the same scatter overwrites get no derivative", async () => {
  const updates = parameter([1, 2, 3], [3], { name: "updates", dtype: "fp32" });
  const at = constant([1, 0, 1], [3], { dtype: "int32" });
  const loss = constant([5, 6], [2], { dtype: "fp32" }).scatter(at, updates, { mode: "update" }).sum();
  await using program = await compile({ loss, g: grad(loss, [updates])[0]! }, { engine: "sim" });
  const { loss: value, g } = await program.run({});
  expect(value.item()).toBe(5);
  expect(Array.from(g.data as Float32Array)).toEqual([0, 1, 1]);
});

// -------------------------------------------------------------------------------------------------- hostile text

describe("damaged MIL text", () => {
  /** Reads hostile text; it must come to a program that holds together or to one of our errors, soon and without much memory. */
  function read(text: string, weights: Uint8Array): "read" | "refused" {
    const rss = process.memoryUsage.rss();
    const start = performance.now();
    let outcome: "read" | "refused" = "refused";
    try {
      const program = readMil(text, { weights: () => weights });
      verifyProgram(program);
      outcome = "read";
      const again = milFiles(program);
      expect(canonicalText(readMil(again.text, { weights: () => again.weights }))).toBe(canonicalText(program));
    } catch (error) {
      if (!(error instanceof AnekitError)) throw error;
      if (outcome === "read") throw new Error(`read, but its own text is not: ${error.message}`, { cause: error });
    }
    expect(performance.now() - start, "milliseconds").toBeLessThan(2000);
    expect((process.memoryUsage.rss() - rss) / 2 ** 20, "MiB").toBeLessThan(200);
    return outcome;
  }

  test(
    "is read as a sound program or refused with an AnekitError",
    async () => {
      const outcomes = { read: 0, refused: 0 };
      await forEachSeed((seed) => {
        const { program } = planOf(randomGraph(seed, { size: 8 })).stages[0]!;
        const printed = printedOrNothing(program, seed % 2 === 0 ? "modern" : "verbose");
        if (printed === undefined) return;
        const { text, weights } = printed;
        const dice = new Dice(seed);
        for (let i = 0; i < 60; i++) {
          let damaged = mutate(text, dice);
          while (dice.chance(0.3)) damaged = mutate(damaged, dice);
          const bytes = weights.slice();
          if (bytes.length > 0 && dice.chance(0.2)) bytes[dice.int(0, bytes.length - 1)]! ^= 1 << dice.int(0, 7);
          try {
            outcomes[read(damaged, dice.chance(0.1) ? bytes.subarray(0, dice.int(0, bytes.length)) : bytes)]++;
          } catch (error) {
            throw new Error(`mutation ${i}: ${(error as Error).message}\n${damaged.slice(0, 4000)}`, { cause: error });
          }
        }
      });
      expect(outcomes.read).toBeGreaterThan(0);
      expect(outcomes.refused).toBeGreaterThan(outcomes.read);
    },
    timeout,
  );

  const around = (statements: string, params = "tensor<fp16, [4]> x, tensor<int32, [1]> i") =>
    `program(1.3)\n{\n  func main<ios18>(${params}) {\n    ${statements}\n  } -> (y);\n}\n`;

  test.each(["toString", "constructor", "__proto__", "hasOwnProperty"])(
    "an argument named %s is an unknown parameter",
    (name) => {
      for (const op of ["gather", "scatter", "reduce_argmax", "relu", "conv"]) {
        expect(
          read(around(`tensor<fp16, [1]> y = ${op}(x = x, indices = i, ${name} = int32(1));`), new Uint8Array()),
        ).toBe("refused");
      }
    },
  );

  test("two results of one statement under one name are refused", () => {
    expect(
      read(
        around("tensor<fp16, [2]> y, tensor<fp16, [2]> y = split(x = x, num_splits = int32(2), axis = int32(0));"),
        new Uint8Array(),
      ),
    ).toBe("refused");
  });

  test("a split into millions of parts is refused before they are made", () => {
    const count = 4_000_000;
    const text = around(
      `tensor<fp16, [1]> y = split(x = x, num_splits = int32(${count}), axis = int32(0));`,
      `tensor<fp16, [${count}]> x`,
    );
    expect(read(text, new Uint8Array())).toBe("refused");
  }, 60_000);

  test("huge shapes and attributes cost nothing", () => {
    const wide = "tensor<fp16, [2147483647]> x";
    const cases: readonly [string, string][] = [
      ["tensor<fp16, [2147483647]> y = relu(x = x);", wide],
      [
        'tensor<fp16, [2147483647]> y = pad(x = x, pad = tensor<int32, [2]>([1, 1]), mode = string("constant"), constant_val = fp16(0));',
        wide,
      ],
      ["tensor<fp16, [4]> y = tile(x = x, reps = tensor<int32, [1]>([2147483647]));", "tensor<fp16, [4]> x"],
      [
        'tensor<fp16, [1, 1, 4]> y = conv(x = x, weight = x, strides = tensor<int32, [1]>([2147483647]), pad_type = string("custom"), pad = tensor<int32, [2]>([2147483647, 2147483647]), dilations = tensor<int32, [1]>([2147483647]), groups = int32(1));',
        "tensor<fp16, [1, 1, 4]> x",
      ],
      ["tensor<fp16, [4]> y = concat(values = (x, x), axis = int32(0), interleave = bool(false));", wide],
      [
        "tensor<fp16, [1]> y = pixel_shuffle(x = x, upscale_factor = int32(2147483647));",
        "tensor<fp16, [1, 4, 1, 1]> x",
      ],
      [
        "tensor<fp16, [1]> y = upsample_nearest_neighbor(x = x, scale_factor_height = int32(2147483647), scale_factor_width = int32(2147483647));",
        "tensor<fp16, [1, 4, 1, 1]> x",
      ],
      [
        "tensor<fp16, [1]> y = slice_by_index(x = x, begin = tensor<int32, [1]>([-2147483648]), end = tensor<int32, [1]>([2147483647]), stride = tensor<int32, [1]>([2147483647]));",
        wide,
      ],
      [
        "tensor<fp16, [1]> y = reshape(x = x, shape = tensor<int32, [5]>([2147483647, 2147483647, 2147483647, 2147483647, 2147483647]));",
        wide,
      ],
      ["tensor<fp16, [1]> y = expand_dims(x = x, axes = tensor<int32, [1]>([2147483647]));", wide],
    ];
    for (const [statement, params] of cases) read(around(statement, params), new Uint8Array());
  });

  test("a tower of brackets, a long line, long lists and many statements stay linear", { timeout: 60_000 }, () => {
    const empty = new Uint8Array();
    expect(read(around(`tensor<fp16, [4]> y = relu(x = ${"(".repeat(1_000_000)}x);`), empty)).toBe("refused");
    expect(read(around(`tensor<fp16, [4]> y = relu(x = ${"x".repeat(1_000_000)});`), empty)).toBe("refused");
    expect(
      read(around(`tensor<fp16, [4]> y = concat(values = (${"x, ".repeat(8000)}x), axis = int32(0));`), empty),
    ).toBe("refused");
    let chain = "";
    for (let i = 0; i < 5000; i++) chain += `tensor<fp16, [4]> v${i} = relu(x = ${i === 0 ? "x" : `v${i - 1}`});\n`;
    expect(read(around(`${chain}tensor<fp16, [4]> y = relu(x = v4999);`), empty)).toBe("read");
  });

  test("a list of more operands than a call takes arguments is no crash", () => {
    const statement = `tensor<fp16, [4]> y = concat(values = (${"x, ".repeat(200_000)}x), axis = int32(9));`;
    expect(read(around(statement), new Uint8Array())).toBe("refused");
  });
});
