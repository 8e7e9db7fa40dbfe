// What a program's ports need at its end: outputs with operators of their own, outputs that depend on an input, inputs that are read.

import { float16Max } from "../../core/float16.ts";
import { sizeOf } from "../../core/shape.ts";
import { type Node, topologicalOrder } from "../../ir/node.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { applyOp, type Ports, type Rewriter } from "../rewrite.ts";
import type { Target } from "./dialect.ts";

/** The first element as [1]. */
function firstElement(x: Tensor): Tensor {
  const ones = x.shape.map(() => 1);
  return x
    .sliceBySize(
      ones.map(() => 0),
      ones,
    )
    .reshape([1]);
}

/** Nodes that a run computes from some input. */
function dependents(outputs: Iterable<Tensor>): { order: Node[]; dependent: Set<Node> } {
  const order = topologicalOrder(outputs);
  const dependent = new Set<Node>();
  for (const node of order) {
    if (node.kind === "input" || node.inputs.some((value) => value !== undefined && dependent.has(value.node)))
      dependent.add(node);
  }
  return { order, dependent };
}

/** Outputs as the chip's compiler wants them, see `nativeForms`. */
export function finishPorts({ inputs, outputs }: Ports, { natives }: Target, rewriter: Rewriter): Ports {
  const finished = new Map(outputs);
  const feeds = [...inputs.values()].filter(({ dtype }) => dtype === "fp16");
  const { order, dependent } = dependents(outputs.values());
  const [anchor] = feeds;
  if (!natives.constantOutputs && anchor !== undefined) {
    // max(min(x, c), c) is c whatever x is, but for NaN, which the chip takes for infinity.
    for (const [name, value] of finished) {
      if (value.dtype === "fp16" && !dependent.has(value.node))
        finished.set(name, firstElement(anchor).minimum(value).maximum(value));
    }
  }
  const unread = natives.unreadInputs ? [] : unreadInputs(feeds, order, finished);
  if (unread.length > 0) {
    const floats = [...finished].filter(([, { dtype }]) => dtype === "fp16");
    const [carrier] = floats.sort(([, a], [, b]) => sizeOf(a.shape) - sizeOf(b.shape));
    // max(y, min(x, -65504)) is y, but for y of minus infinity.
    const least = unread
      .map(firstElement)
      .reduce((a, b) => a.minimum(b))
      .minimum(-float16Max);
    if (carrier !== undefined) finished.set(carrier[0], carrier[1].maximum(least));
  }
  const results = rewriter.graph([...finished.values()]);
  // Copies are the last thing: rules would take them away again.
  const given = new Set<string>();
  const own = results.map((value) => {
    const key = `${value.node.id}:${value.index}`;
    const copied = value.node.kind !== "op" || given.has(key);
    given.add(key);
    return copied ? copyOf(value, natives.identity) : value;
  });
  return { inputs, outputs: new Map([...finished.keys()].map((name, i) => [name, own[i]!])) };
}

function unreadInputs(
  feeds: readonly Tensor[],
  order: readonly Node[],
  outputs: ReadonlyMap<string, Tensor>,
): Tensor[] {
  const read = new Set(order);
  for (const node of topologicalOrder(outputs.values())) read.add(node);
  return feeds.filter(({ node }) => !read.has(node));
}

/** The same bits from an operator of its own. */
function copyOf(value: Tensor, identity: boolean): Tensor {
  return identity || value.dtype !== "fp16" ? applyOp(ops.identity, [value], {})[0]! : value.mul(1);
}
