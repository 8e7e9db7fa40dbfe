// Every operator record against the case table: values, gradients, MIL text, round trip, refused inputs, lowerings for the chip; and that no record lacks cases.

import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { grad } from "../../src/autodiff/grad.ts";
import { isFloat } from "../../src/core/dtype.ts";
import { AnekitError } from "../../src/core/errors.ts";
import { buildPlan } from "../../src/ir/plan.ts";
import { readMil } from "../../src/mil/reader.ts";
import { milFiles } from "../../src/mil/writer.ts";
import { operandsByName } from "../../src/ops/define.ts";
import { type Op, ops } from "../../src/ops/index.ts";
import { Tensor } from "../../src/tensor.ts";
import { canonicalText } from "../canonical.ts";
import { cases, references } from "../oracle/index.ts";
import type { OpCase, RefTensor } from "../oracle/types.ts";
import { type BuiltCase, buildCase, evaluate, type FloatUnderTest, mismatch } from "./harness.ts";

const table: readonly [string, Op][] = Object.entries(ops);
const dtypesOf = (test: OpCase): readonly FloatUnderTest[] => test.dtypes ?? ["fp16", "fp32"];
const outputsOf = (built: BuiltCase) => Object.fromEntries(built.result.map((tensor, i) => [`out${i}`, tensor]));
/** Attributes as the program has them: rounded to the dtype, which is what engines compute with. */
const attrsOf = (built: BuiltCase) => programOf(built).instructions[0]!.attrs;
const programOf = (built: BuiltCase) =>
  buildPlan({ outputs: new Map(Object.entries(outputsOf(built))), updates: new Map() }).stages[0]!.program;

test("every record has cases, a reference, documentation and a decision on its derivative", () => {
  for (const [name, op] of table) {
    expect(op.name, "table key").toBe(name);
    expect(op.doc.length, `${name} doc`).toBeGreaterThan(3);
    expect(op.vjp !== undefined, `${name} derivative`).toBe(true);
    expect(cases[name]?.accepts.length ?? 0, `${name} accepted cases`).toBeGreaterThan(0);
    expect(cases[name]?.refuses.length ?? 0, `${name} refused cases`).toBeGreaterThan(0);
    expect(references[name], `${name} reference`).toBeTypeOf("function");
  }
  expect(Object.keys(cases).filter((name) => !Object.hasOwn(ops, name))).toEqual([]);
});

describe.each(table)("%s", (name, op) => {
  const { accepts, refuses } = cases[name] ?? { accepts: [], refuses: [] };
  const reference = references[name]!;

  test("gives the oracle's values", async () => {
    for (const [at, each] of accepts.entries()) {
      for (const dtype of dtypesOf(each)) {
        const built = buildCase(op, each, dtype);
        const want = reference(built.inputs, attrsOf(built));
        const got = await evaluate(outputsOf(built), built.leaves);
        for (const [i, result] of built.result.entries()) {
          expect(result.shape, `case ${at} ${dtype} shape`).toEqual(want[i]!.shape);
          expect(
            mismatch(got[`out${i}`]!, want[i]!, result.aval, each.tolerance),
            `case ${at} ${dtype} ${each.note ?? ""}`,
          ).toBeUndefined();
        }
      }
    }
  });

  if (op.vjp !== null)
    test("agrees with central differences of the oracle", async () => {
      let compared = 0;
      for (const [at, each] of accepts.entries()) {
        if (each.grad === false || !dtypesOf(each).includes("fp32")) continue;
        const built = buildCase(op, each, "fp32");
        compared += await compareGradients(built, reference, `case ${at}`);
      }
      expect(compared).toBeGreaterThan(0);
    });

  test("prints the reviewed MIL text", async () => {
    const built = buildCase(op, accepts[0]!, "fp16");
    const golden = fileURLToPath(new URL(`golden/${name}.mil`, import.meta.url));
    await expect(milFiles(programOf(built)).text).toMatchFileSnapshot(golden);
  });

  test("comes back from its text in both dialects", () => {
    for (const each of accepts) {
      for (const dialect of ["modern", "verbose"] as const) {
        const program = programOf(buildCase(op, each, dtypesOf(each)[0]!));
        const { text, weights } = milFiles(program, { dialect });
        expect(canonicalText(readMil(text, { weights: () => weights }))).toBe(canonicalText(program));
      }
    }
  });

  test("refuses what it cannot take", () => {
    for (const [at, each] of refuses.entries()) {
      let error: unknown;
      try {
        buildCase(op, each, "fp32");
      } catch (caught) {
        error = caught;
      }
      expect(error, `refused case ${at} ${each.note ?? ""}`).toBeInstanceOf(AnekitError);
      expect((error as Error).message, `refused case ${at}`).toMatch(each.message);
    }
  });

  const lowerings = Object.entries(op.constantOnChip ?? {}) as [
    string,
    { lower(inputs: object, attrs: object): Tensor },
  ][];
  if (lowerings.length > 0)
    test("has lowerings for computed operands that give the same values", async () => {
      for (const each of accepts) {
        const built = buildCase(op, each, "fp32");
        const { node } = built.result[0]!;
        const operands = operandsByName(
          op,
          node.inputs.map((value) => value && new Tensor(value.node, value.index)),
        );
        for (const [operand, { lower }] of lowerings) {
          if (operands[operand] === undefined) continue;
          const lowered = lower(operands, built.attrs);
          expect(lowered.shape).toEqual(built.result[0]!.shape);
          const got = await evaluate({ lowered }, built.leaves);
          const [want] = reference(built.inputs, built.attrs) as [RefTensor];
          const scale = Math.max(1e-3, ...want.data.map(Math.abs));
          for (let i = 0; i < want.data.length; i++)
            expect(Math.abs(got.lowered![i]! - want.data[i]!)).toBeLessThanOrEqual(2e-6 * scale);
        }
      }
    });
});

/** Gradient of sum(w . out) for fixed weights w, our graph in fp32 against central differences of the reference in float64. */
async function compareGradients(
  built: BuiltCase,
  reference: (typeof references)[string],
  label: string,
): Promise<number> {
  const targets = built.leaves.filter(
    ({ leaf, operand }) =>
      isFloat(leaf.dtype) && (built.result[0]!.node as { op?: Op }).op!.inputs[operand] !== undefined,
  );
  const weights = built.result.map((result) =>
    Float64Array.from({ length: result.size }, (_, i) => Math.fround(Math.sin(1 + 1.7 * i))),
  );
  const terms = built.result.flatMap((result, i) =>
    isFloat(result.dtype) ? [result.mul(result.constantLike(weights[i]!, result.shape)).sum()] : [],
  );
  if (terms.length === 0 || targets.length === 0) return 0;
  const total = terms.reduce((sum, term) => sum.add(term));
  const found = grad(
    total,
    targets.map(({ leaf }) => leaf),
  );
  const got = await evaluate(Object.fromEntries(found.map((tensor, i) => [`d${i}`, tensor])), built.leaves);
  const narrow = built.result.some(({ dtype }) => dtype === "fp16");
  const objective = () =>
    reference(built.inputs, built.attrs).reduce(
      (sum, out, i) => sum + out.data.reduce((part, value, j) => part + value * weights[i]![j]!, 0),
      0,
    );
  for (const [i, { ref, name }] of targets.entries()) {
    const numeric = new Float64Array(ref.data.length);
    for (let j = 0; j < numeric.length; j++) {
      const x = ref.data[j]!;
      const h = 1e-5 * Math.max(1, Math.abs(x));
      ref.data[j] = x + h;
      const up = objective();
      ref.data[j] = x - h;
      const down = objective();
      ref.data[j] = x;
      numeric[j] = (up - down) / (2 * h);
    }
    const scale = Math.max(1, ...numeric.map(Math.abs));
    for (let j = 0; j < numeric.length; j++) {
      const [g, n] = [got[`d${i}`]![j]!, numeric[j]!];
      // fp32 graph, float64 differences with h = 1e-5: both are good to about 1e-5 of the largest entry; a cast to fp16 rounds the cotangent.
      expect(Math.abs(g - n), `${label}: d/d${name}[${j}] is ${g}, central difference ${n}`).toBeLessThanOrEqual(
        (narrow ? 2 ** -11 : 5e-5) * scale,
      );
    }
  }
  return 1;
}
