// Training steps and decoders on every chip: they legalize, state may still be replaced in place, and a step computes what it did.

import { describe, expect, it } from "vitest";
import { dialectOf, run } from "../../test/passes/helpers.ts";
import { chipProgram, cnnSteps, decoder, gptSteps, mlpSteps, stepFeeds } from "../../test/passes/models.ts";
import { type Chip, chips } from "../chips/index.ts";
import { notOverwritable, type Plan } from "../ir/plan.ts";
import { type Program, verifyProgram } from "../ir/program.ts";
import { type Dialect, defaultDialect, legalize } from "./legalize.ts";
import { checkChip } from "./support.ts";

// One chip of a generation: others differ in cores only.
const tested = [chips.h13, chips.h14, chips.h15, chips.h16, chips.h17s, chips.h18];
const dialects: Readonly<Record<string, Dialect>> = {
  default: defaultDialect,
  "nothing native": dialectOf(false),
  "everything native": dialectOf(true),
};

/** Legalizes the stages that the chip runs, and checks what an engine relies on. */
function legalizePlan({ stages, states }: Plan, chip: Chip, dialect: Dialect): Program[] {
  const replaced = new Set(states.filter(({ mode }) => mode === "in-place").map(({ buffer }) => buffer));
  return stages
    .filter(({ on }) => on === undefined)
    .map(({ program, buffers }) => {
      const legal = legalize(program, chip, dialect);
      verifyProgram(legal);
      expect(checkChip(legal, chip)).toEqual([]);
      expect(legalize(legal, chip, dialect).instructions).toHaveLength(legal.instructions.length);
      expect(legal.inputs.map(({ name }) => name)).toEqual(program.inputs.map(({ name }) => name));
      expect(legal.outputs.map(({ name }) => name)).toEqual(program.outputs.map(({ name }) => name));
      const inputs = new Map(legal.inputs.map(({ name }) => [buffers.get(name)!, name]));
      const inPlace = new Map(
        legal.outputs.flatMap(({ name }) => {
          const buffer = buffers.get(name)!;
          return replaced.has(buffer) ? [[name, inputs.get(buffer) ?? null] as const] : [];
        }),
      );
      expect(notOverwritable(legal, inPlace)).toEqual([]);
      return legal;
    });
}

const models: Readonly<Record<string, () => Plan[]>> = {
  "llama step": () => gptSteps("llama"),
  "gpt2 step": () => gptSteps("gpt2"),
  "llama step, mixed, accumulated": () => gptSteps("llama", { precision: "mixed", accumulation: 2 }),
  "gpt2 step, accumulated": () => gptSteps("gpt2", { accumulation: 2 }),
  "llama decoder": () => [decoder("llama")],
  "gpt2 decoder": () => [decoder("gpt2")],
  "perceptron step": mlpSteps,
  "convolutional step": cnnSteps,
};

describe.each(Object.entries(models))("%s", (_name, build) => {
  const plans = build();

  it("fits every chip in every dialect, and keeps what in-place updates rely on", () => {
    for (const plan of plans)
      for (const chip of tested) for (const dialect of Object.values(dialects)) legalizePlan(plan, chip, dialect);
  });
});

it("state is replaced in place in the plans that this tests", () => {
  const modes = gptSteps("gpt2").flatMap(({ states }) => states.map(({ mode }) => mode));
  expect(new Set(modes)).toEqual(new Set(["in-place"]));
});

describe.each(["llama", "gpt2"] as const)("a step of %s computes", (architecture) => {
  const [plan] = gptSteps(architecture, { nLayer: 1 }) as [Plan];
  const program = chipProgram(plan);
  const feeds = stepFeeds(plan);

  it("the same bits where every form is native", async () => {
    const expected = await run(program, feeds);
    expect(expected.get("applied")).toEqual([1]);
    for (const chip of [chips.h13, chips.h17s])
      expect(await run(legalize(program, chip, dialectOf(true)), feeds)).toEqual(expected);
  });

  it("nearly the same where none is", async () => {
    const expected = await run(program, feeds);
    const actual = await run(legalize(program, chips.h13, dialectOf(false)), feeds);
    expect(actual.get("applied")).toEqual([1]);
    expect(Math.abs(actual.get("loss")![0]! - expected.get("loss")![0]!)).toBeLessThan(0.01);
    // First moments are the gradients times 0.1; weights move by their signs, which small ones may change.
    const moments = [...expected].filter(([name]) => /_m_next$/.test(name));
    expect(moments.length).toBeGreaterThan(5);
    // Some gradients are rounding errors alone (a bias of the keys changes no probability): the largest of all gradients is the measure.
    const largest = Math.max(...moments.flatMap(([, values]) => values.map(Math.abs)));
    for (const [name, values] of moments) {
      const error = Math.max(...values.map((value, i) => Math.abs(value - actual.get(name)![i]!)));
      expect(error / largest, name).toBeLessThan(0.02);
    }
  });
});

it("adds few instructions to a step: every one is a kernel's start", () => {
  const program = chipProgram(gptSteps("gpt2")[0]!);
  const { length } = program.instructions;
  expect(length).toBeGreaterThan(1700);
  expect(legalize(program, chips.h13).instructions.length).toBeLessThan(1.05 * length);
  expect(legalize(program, chips.h13, dialectOf(false)).instructions.length).toBeLessThan(1.5 * length);
});
