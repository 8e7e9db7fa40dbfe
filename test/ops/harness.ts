// Reads the case table: operands from cases, one-operator programs, the oracle's answers, comparison within stated tolerances.

import { type DType, isFloat, type ValueArray } from "../../src/core/dtype.ts";
import { roundFloat16 } from "../../src/core/float16.ts";
import { RandomStream } from "../../src/core/random.ts";
import { type Aval, sizeOf } from "../../src/core/shape.ts";
import { compile } from "../../src/engines/compile.ts";
import { makeNode, type OpNode } from "../../src/ir/node.ts";
import { type AttrValue, checkUse, flattenOperands } from "../../src/ops/define.ts";
import type { Op } from "../../src/ops/index.ts";
import { input, Tensor } from "../../src/tensor.ts";
import type { CaseInput, OpCase, RefInputs, RefTensor } from "../oracle/types.ts";

export type FloatUnderTest = "fp16" | "fp32";

/** Values of one operand, as the reference sees them: rounded to the dtype. */
function valuesOf(spec: CaseInput, dtype: DType, random: RandomStream): Float64Array {
  const round = dtype === "fp16" ? roundFloat16 : dtype === "fp32" ? Math.fround : (x: number) => x;
  if (spec.values !== undefined) return Float64Array.from(spec.values, round);
  const [low, high] = spec.range ?? [-1, 1];
  const count = sizeOf(spec.shape);
  const values: number[] = [];
  for (let tries = 0; values.length < count; tries++) {
    if (tries > 10000 * (count + 1)) throw new Error(`cannot draw ${count} values from ${JSON.stringify(spec)}`);
    const value = round(low + (high - low) * random.uniform());
    const near = (spec.avoid ?? []).some((point) => Math.abs(value - point) < (spec.margin ?? 0));
    const close = spec.spacing !== undefined && values.some((other) => Math.abs(value - other) < spec.spacing!);
    if (!near && !close) values.push(value);
  }
  return Float64Array.from(values);
}

export interface BuiltCase {
  readonly result: readonly Tensor[];
  readonly inputs: RefInputs;
  /** Leaf and values of every operand, in record order. */
  readonly leaves: readonly {
    readonly name: string;
    readonly leaf: Tensor;
    readonly ref: RefTensor;
    readonly operand: string;
    readonly at: number;
  }[];
  /** Complete attributes, as the record filled them. */
  readonly attrs: Readonly<Record<string, AttrValue>>;
}

const dtypeOf = (spec: CaseInput, float: FloatUnderTest): DType =>
  spec.dtype === undefined || spec.dtype === "float" ? float : spec.dtype;

/** The node of a case, its operands as inputs named by operand. @throws what the record throws. */
export function buildCase(op: Op, test: Pick<OpCase, "inputs" | "attrs">, float: FloatUnderTest, seed = 7): BuiltCase {
  const random = new RandomStream(seed, op.name);
  const leaves: BuiltCase["leaves"][number][] = [];
  const make = (spec: CaseInput, operand: string, at: number, name: string) => {
    const dtype = dtypeOf(spec, float);
    const leaf = input(spec.shape, { dtype, name });
    leaves.push({ name, leaf, ref: { shape: spec.shape, data: valuesOf(spec, dtype, random) }, operand, at });
    return leaf;
  };
  const tensors: Record<string, Tensor | Tensor[]> = {};
  for (const [operand, spec] of Object.entries(test.inputs)) {
    tensors[operand] = Array.isArray(spec)
      ? spec.map((item: CaseInput, i) => make(item, operand, i, `${operand}${i}`))
      : make(spec as CaseInput, operand, -1, operand);
  }
  const flat = flattenOperands<Tensor>(op, tensors);
  const avals = flat.map((tensor) => tensor?.aval);
  const use = checkUse(op, avals, (test.attrs ?? {}) as Record<string, AttrValue>);
  const node = makeNode<OpNode>({ kind: "op", op, inputs: flat, attrs: use.attrs, results: use.results });
  const inputs: Record<string, RefTensor | RefTensor[]> = {};
  for (const { operand, at, ref } of leaves) {
    if (at < 0) inputs[operand] = ref;
    else inputs[operand] = [...((inputs[operand] as RefTensor[] | undefined) ?? []), ref];
  }
  return { result: use.results.map((_, index) => new Tensor(node, index)), inputs, leaves, attrs: use.attrs };
}

/** Runs graphs on the simulator with the leaves of a case fed. */
export async function evaluate(
  outputs: Readonly<Record<string, Tensor>>,
  leaves: BuiltCase["leaves"],
): Promise<Record<string, ValueArray>> {
  await using program = await compile(outputs, { engine: "sim" });
  const feeds = leaves.filter(({ name }) => program.plan.feeds.has(name)).map(({ name, ref }) => [name, ref.data]);
  const results = program.runSync(Object.fromEntries(feeds));
  return Object.fromEntries(Object.entries(results).map(([name, array]) => [name, array.data]));
}

/**
 * Tolerances by dtype, relative to the value and absolute. fp16: half an ULP is 2^-11 relative, 2^-25 absolute among subnormals; one rounding of
 * the result is all that separates kernel and oracle. fp32: 2^-24 and the float64 oracle's own last digits in cancelling sums.
 */
export const tolerance = {
  fp16: { relative: 2 ** -11, absolute: 2 ** -25 },
  fp32: { relative: 2 ** -22, absolute: 1e-30 },
} as const;

/** First element of `got` that is farther from `want` than allowed, as text; undefined where all agree. */
export function mismatch(got: ArrayLike<number>, want: RefTensor, aval: Aval, factor = 1): string | undefined {
  if (got.length !== want.data.length) return `${got.length} values, expected ${want.data.length}`;
  const limits = isFloat(aval.dtype) ? tolerance[aval.dtype] : { relative: 0, absolute: 0 };
  for (let i = 0; i < got.length; i++) {
    const [g, w] = [got[i]!, want.data[i]!];
    const allowed = factor * (limits.absolute + limits.relative * Math.abs(w));
    if (!(Math.abs(g - w) <= allowed) && !(Number.isNaN(g) && Number.isNaN(w)) && g !== w)
      return `element ${i} is ${g}, expected ${w} within ${allowed}`;
  }
  return undefined;
}
