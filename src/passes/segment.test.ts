// Segments: cut where constants fill a unit, same results, ports for what crosses.

import { describe, expect, it } from "vitest";
import { feedsOf, operators, programOf, run } from "../../test/passes/helpers.ts";
import { UnsupportedError } from "../core/errors.ts";
import { constant, input, type Tensor } from "../index.ts";
import { type Program, verifyProgram } from "../ir/program.ts";
import { segment } from "./segment.ts";

const weights = (seed: number, ...shape: number[]) =>
  constant(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * seed) / 2),
    shape,
  );

/** Layers x = relu(x w + b), 8 by 8: 144 bytes of constants each. */
function layers(count: number): Program {
  let x: Tensor = input([4, 8], { name: "x" });
  const outputs: Record<string, Tensor> = {};
  for (let i = 0; i < count; i++) {
    x = x
      .matmul(weights(i + 1, 8, 8))
      .add(weights(i + 2, 8))
      .relu();
    if (i === 1) outputs.early = x;
  }
  return programOf({ ...outputs, y: x });
}

/** Runs segments one after the other, ports connected by name. */
async function runAll(parts: readonly Program[], feeds: ReadonlyMap<string, number[]>): Promise<Map<string, number[]>> {
  const values = new Map(feeds);
  for (const part of parts) for (const [name, data] of await run(part, values)) values.set(name, data);
  return values;
}

const constantBytes = ({ constants, values }: Program) =>
  constants.reduce((sum, { value }) => sum + 2 * values[value]!.shape.reduce((a, b) => a * b, 1), 0);

async function expectSame(program: Program, parts: readonly Program[]): Promise<void> {
  for (const part of parts) verifyProgram(part);
  const feeds = feedsOf(program);
  const values = await runAll(parts, feeds);
  for (const [name, data] of await run(program, feeds)) expect(values.get(name), name).toEqual(data);
}

describe("segment", () => {
  it("gives a program back that needs no cut", () => {
    const program = layers(3);
    expect(segment(program, 3 * 144)).toEqual([program]);
  });

  it.each([144, 200, 300, 432, 1000])("cuts at %d bytes of constants, with the same results", async (bytes) => {
    const program = layers(9);
    const parts = segment(program, bytes);
    expect(parts.length).toBeGreaterThan(1);
    for (const part of parts) expect(constantBytes(part)).toBeLessThanOrEqual(bytes);
    expect(parts.flatMap(operators)).toEqual(operators(program));
    expect(parts.flatMap(({ outputs }) => outputs.map(({ name }) => name))).toContain("early");
    await expectSame(program, parts);
  });

  it("cuts where little crosses", () => {
    const x = input([4, 8], { name: "x" });
    const wide = x.matmul(weights(1, 8, 64)).relu();
    const narrow = wide.matmul(weights(2, 64, 8)).tanh();
    const program = programOf({ y: narrow.matmul(weights(3, 8, 64)).exp() });
    const parts = segment(program, 2 * 1024);
    expect(parts.map(operators)).toEqual([
      ["matmul", "relu", "matmul", "tanh"],
      ["matmul", "exp"],
    ]);
    expect(parts[1]!.inputs.map(({ name, value }) => [name, parts[1]!.values[value]!.shape])).toEqual([
      ["link0", [4, 8]],
    ]);
  });

  it("computes bools again, shares what several segments read, and keeps names apart", async () => {
    const x = input([4, 8], { name: "link0" });
    const positive = x.mul(2).greater(0.5);
    const a = x.matmul(weights(1, 8, 8));
    const b = positive.select(a.matmul(weights(2, 8, 8)), 0);
    const c = positive.select(b.matmul(weights(3, 8, 8)), a);
    const program = programOf({ c, b });
    const parts = segment(program, 140);
    expect(parts).toHaveLength(3);
    for (const part of parts)
      for (const { value } of [...part.inputs, ...part.outputs]) expect(part.values[value]!.dtype).toBe("fp16");
    await expectSame(program, parts);
  });

  it("refuses a constant that is too large by itself", () => {
    const program = programOf({ y: input([1, 8], { name: "x" }).matmul(weights(1, 8, 8)) });
    expect(() => segment(program, 127)).toThrow(UnsupportedError);
    expect(() => segment(program, 127)).toThrow(
      "compile: matmul: constant fp16[8, 8] exceeds 127 bytes; split it along an axis and join the results, or make it a parameter",
    );
  });
});
