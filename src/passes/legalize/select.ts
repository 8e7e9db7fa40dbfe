// Selection between operands of different shapes, for compilers that take only equal ones.

import { newValues } from "../../core/dtype.ts";
import { type Shape, sameShape, sizeOf } from "../../core/shape.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { producer, type Rule, rule } from "../rewrite.ts";
import type { Target } from "./dialect.ts";

/** t repeated to the shape of `like`, without constants of that shape: max(min(like, t), t) is t. NaN in `like` stays, which the chip has not. */
function spreadOver(t: Tensor, like: Tensor): Tensor {
  return sameShape(t.shape, like.shape) ? t : like.minimum(t).maximum(t);
}

/** A bool as 1 and 0, by constants of its own shape. */
function numberOf(cond: Tensor): Tensor {
  const filled = (value: number) =>
    cond.constantLike(newValues("fp16", cond.size).fill(value), cond.shape, "fp16" as const);
  return cond.select(filled(1), filled(0));
}

/** A float of the whole shape: an operand, or what the condition compares. */
function wholeFloat(shape: Shape, tensors: readonly (Tensor | undefined)[]): Tensor | undefined {
  return tensors.find(
    (each) => each?.dtype === "fp16" && sameShape(each.shape, shape) && each.node.kind !== "constant",
  );
}

/** Constants of up to this many elements are written out. */
const writtenOut = 4096;

export function selectRules({ natives }: Target): Rule[] {
  return [
    // The same bits where no operand holds NaN.
    rule(ops.select, "select-broadcast", ({ cond, a, b }, _attrs, { results }) => {
      const { shape } = results[0]!;
      const equal = [cond, a, b].every((each) => sameShape(each.shape, shape));
      if (natives.selectBroadcast || equal || a.dtype !== "fp16") return undefined;
      const like = wholeFloat(shape, [a, b, ...((producer(cond)?.inputs ?? []) as readonly (Tensor | undefined)[])]);
      const whole = (t: Tensor): Tensor => {
        if (sameShape(t.shape, shape)) return t;
        // Small constants are written out, and so is what has nothing to take the shape from: a product with ones.
        const small = t.node.kind === "constant" && sizeOf(shape) <= writtenOut;
        return like === undefined || small ? t.mul(t.filled(1, shape)) : spreadOver(t, like);
      };
      const full = sameShape(cond.shape, shape) ? cond : whole(numberOf(cond)).greater(0.5);
      return full.select(whole(a), whole(b));
    }),
  ];
}
