// What a product can do with its sums before it stores them: add other arrays, keep them within bounds. Loops that do no more need no step of their own.

import { bitsFloat, type Node } from "./expression.ts";
import { strip } from "./kernels/evaluate.ts";
import type { Bound } from "./kernels/gemm-layout.ts";

/** A stored value as sums of operands, by their numbers, and then bounds in this order. */
export interface Finish {
  readonly operands: readonly number[];
  readonly bounds: readonly Bound[];
}

/** Most operands beside the product: each needs a register. */
const mostOperands = 3;

/** The value as such, if it is. */
export function finishOf(value: Node): Finish | undefined {
  const bounds: Bound[] = [];
  let node = strip(value);
  for (let found = boundsOf(node); found !== undefined; found = boundsOf(node)) {
    bounds.unshift(...found.bounds);
    node = strip(found.of);
  }
  const operands: number[] = [];
  const isSum = (term: Node): boolean => {
    if (term.kind === "op") return term.op === "add" && term.args.map(strip).every(isSum);
    if (term.kind !== "operand" || term.type !== "f32" || term.index < 0) return false;
    return operands.push(term.index) <= 1 + mostOperands;
  };
  return isSum(node) ? { operands, bounds } : undefined;
}

/** What a value bounds, and how, if that is what it does: where NaN stays NaN. */
function boundsOf(node: Node): { readonly of: Node; readonly bounds: readonly Bound[] } | undefined {
  if (node.kind !== "op") return undefined;
  const args = node.args.map(strip);
  if (node.op === "max" || node.op === "min") {
    const limit = args.find(isNumber);
    const of = args.find((arg) => arg !== limit);
    return limit && of && { of, bounds: [{ op: node.op, bits: limit.bits }] };
  }
  const [mask, then, other] = args as [Node, Node, Node];
  if (node.op !== "select" || mask.kind !== "op" || !isNumber(then)) return undefined;
  const [low, high] = mask.args.map(strip) as [Node, Node];
  // x < a ? a : …, x <= a ? a : …, and the same with a on the left: a bound of what follows.
  const op = high === then ? "max" : low === then ? "min" : undefined;
  if ((mask.op !== "lt" && mask.op !== "le") || op === undefined) return undefined;
  const x = op === "max" ? low : high;
  if (other === x) return { of: x, bounds: [{ op, bits: then.bits }] };
  // Another bound of the same, which does not cross the first one.
  const rest = boundsOf(other);
  if (rest?.of !== x || rest.bounds.length !== 1) return undefined;
  const [next] = rest.bounds as [Bound];
  const [first, second] = [bitsFloat(then.bits), bitsFloat(next.bits)];
  const apart = op === "max" ? second >= first : second <= first;
  return next.op !== op && apart ? { of: x, bounds: [{ op, bits: then.bits }, next] } : undefined;
}

function isNumber(node: Node): node is Node & { readonly kind: "constant" } {
  return node.kind === "constant" && !Number.isNaN(bitsFloat(node.bits));
}
