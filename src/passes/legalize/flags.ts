// Bools: the chip has them between a comparison and what selects by it, and nowhere else.

import { type Op, ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { applyOp, type Rule } from "../rewrite.ts";

/** True as 1, false as 0. */
export function asNumber(x: Tensor): Tensor {
  return x.select(x.constantLike(1, [], "fp16"), x.constantLike(0, [], "fp16"));
}

/** Operators whose results are bools by themselves (ops §2.2), and conversions, which have rules of their own. */
const sources: ReadonlySet<Op> = new Set<Op>([
  ops.greater,
  ops.greater_equal,
  ops.less,
  ops.less_equal,
  ops.equal,
  ops.not_equal,
  ops.logical_and,
  ops.logical_or,
  ops.logical_not,
  ops.cast,
]);

/** Bools that are moved, joined or selected: as numbers, which are compared behind it. The same bits. */
export const flagRules: readonly Rule[] = [
  {
    name: "moved-flags",
    ops: Object.values<Op>(ops).filter((op) => !sources.has(op)),
    rewrite({ op, operands, attrs, results, used }) {
      if (results[0]!.dtype !== "bool") return undefined;
      const numbers = operands.map((each, i) =>
        each?.dtype === "bool" && !(op === ops.select && i === 0) ? asNumber(each) : each,
      );
      return applyOp(op, numbers, attrs).map((moved, i) => (used[i] ? moved.greater(0.5) : moved));
    },
  },
];
