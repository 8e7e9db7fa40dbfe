// Constants: operands that the chip takes only as constants, and uses whose operands are all constant.

import { newValues, type ValueArray } from "../../core/dtype.ts";
import { roundFloat16, roundFloat16InPlace } from "../../core/float16.ts";
import { sizeOf } from "../../core/shape.ts";
import type { ConstantNode } from "../../ir/node.ts";
import { type KernelArray, operandNames, operandsByName, roundAttrs } from "../../ops/define.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { type Rule, sharedConstant, type Use } from "../rewrite.ts";

/** Operands that must be constant on the chip and are not: the record's own lowering. Its numerical effect is the record's: one more rounding between product and bias, or the arithmetic of a norm instead of the norm. */
const computedOperand: Rule = {
  name: "computed-operand",
  rewrite({ op, operands, attrs }) {
    const rules = op.constantOnChip;
    if (rules === undefined) return undefined;
    const at = operandNames(op).findIndex(
      (name, i) => rules[name] !== undefined && operands[i] !== undefined && operands[i].node.kind !== "constant",
    );
    if (at < 0) return undefined;
    return [rules[operandNames(op)[at]!]!.lower(operandsByName(op, operands), attrs)];
  },
};

/** Numbers of a constant tensor as the chip stores them. */
export function dataOf(tensor: Tensor | undefined): ValueArray | undefined {
  if (tensor?.node.kind !== "constant") return undefined;
  const { data } = tensor.node as ConstantNode;
  return tensor.dtype === "fp16" ? Float32Array.from(data, roundFloat16) : data;
}

/** The number that a constant tensor holds everywhere; undefined for others. Looks at few elements of most. */
export function uniformValue(tensor: Tensor | undefined): number | undefined {
  if (tensor?.node.kind !== "constant") return undefined;
  const { data } = tensor.node as ConstantNode;
  const [first] = data as ArrayLike<number> as [number];
  for (let i = 1; i < data.length; i++) if (data[i] !== first) return undefined;
  return tensor.dtype === "fp16" ? roundFloat16(first) : first;
}

/** Results of up to `small` elements are computed when the program is compiled, larger ones only if no larger than twice an operand, and never above `large`. */
const folded = { small: 4096, large: 2 ** 18 } as const;

/** Most operations that are spent on one use of constants. */
const foldedFlops = 2 ** 22;

const views = new Set<Use["op"]>([ops.reshape, ops.expand_dims, ops.squeeze, ops.identity]);

/** Uses of constants alone: computed as the simulator does, so with the same bits. A reshaped constant shares its data. */
const fold: Rule = {
  name: "fold",
  rewrite({ op, operands, attrs, results }) {
    if (!operands.every((each) => each === undefined || each.node.kind === "constant")) return undefined;
    if (views.has(op)) return [sharedConstant(results[0]!, (operands[0]!.node as ConstantNode).data)];
    const largest = Math.max(...operands.map((each) => each?.size ?? 0));
    const limit = Math.min(Math.max(folded.small, 2 * largest), folded.large);
    const named = operandsByName(op, operands);
    if (op.canFail === true || results.some(({ shape }) => sizeOf(shape) > limit)) return undefined;
    // Bools live between a comparison and its select: no sheet has one that is constant.
    if (results.some(({ dtype }) => dtype === "bool")) return undefined;
    if (largest > folded.large || (op.flops?.(named, attrs, results[0]!) ?? 0) > foldedFlops) return undefined;
    const arrays = operands.map((each) => each && { dtype: each.dtype, shape: each.shape, data: dataOf(each)! });
    const outs = results.map(
      ({ dtype, shape }): KernelArray => ({ dtype, shape, data: newValues(dtype, sizeOf(shape)) }),
    ) as [KernelArray, ...KernelArray[]];
    op.kernel(operandsByName(op, arrays), roundAttrs(op, attrs, operands[0]?.dtype), outs);
    for (const out of outs) if (out.dtype === "fp16") roundFloat16InPlace(out.data as Float32Array);
    // A constant must be finite; what overflows is left to the run.
    if (outs.some(({ data }) => data.some((value) => !Number.isFinite(value)))) return undefined;
    return outs.map(({ dtype, shape, data }) => sharedConstant({ dtype, shape }, data));
  },
};

export const constantRules: readonly Rule[] = [computedOperand, fold];
