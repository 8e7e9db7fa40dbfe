// What a program's ports need at its end: outputs with operators of their own, outputs that depend on an input, inputs that are read.

import { float16Max } from "../../core/float16.ts";
import { type Node, topologicalOrder } from "../../ir/node.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { applyOp, type Ports, type Rewriter } from "../rewrite.ts";
import type { Target } from "./dialect.ts";
import { asNumber } from "./flags.ts";

/** 0 or 1 as [1], whatever x holds, NaN included: whether its first element is positive. */
function trace(x: Tensor): Tensor {
  const ones = x.shape.map(() => 1);
  const first = x.sliceBySize(
    ones.map(() => 0),
    ones,
  );
  return asNumber(first.reshape([1]).greater(0));
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

const smallest = (tensors: readonly Tensor[]): Tensor | undefined =>
  tensors.reduce<Tensor | undefined>((a, b) => (a === undefined || b.size < a.size ? b : a), undefined);

/** Outputs as the chip's compiler wants them, see `nativeForms`. */
export function finishPorts({ inputs, outputs }: Ports, { natives }: Target, rewriter: Rewriter): Ports {
  const finished = new Map(outputs);
  const feeds = [...inputs.values()].filter(({ dtype }) => dtype === "fp16");
  const { order, dependent } = dependents(outputs.values());
  const computed = [...outputs.values()].filter(({ node, dtype }) => dtype === "fp16" && dependent.has(node));
  // Another output rather than an input: a further reader of an input could keep its state from being replaced in place.
  const anchor = smallest(computed) ?? feeds[0];
  if (!natives.constantOutputs && anchor !== undefined) {
    // max(min(x, c), c) is c whatever x is.
    for (const [name, value] of finished) {
      if (value.dtype === "fp16" && !dependent.has(value.node))
        finished.set(name, trace(anchor).minimum(value).maximum(value));
    }
  }
  const unread = natives.unreadInputs ? [] : unreadInputs(feeds, order, finished);
  const floats = [...finished.values()].filter(({ dtype }) => dtype === "fp16");
  const carrier = smallest(floats);
  if (unread.length > 0 && carrier !== undefined) {
    // max(y, min(x, -65504)) is y for x of 0 and above, but for y of minus infinity.
    const least = unread
      .map(trace)
      .reduce((a, b) => a.add(b))
      .minimum(-float16Max);
    const [name] = [...finished].find(([, value]) => value === carrier)!;
    finished.set(name, carrier.maximum(least));
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
