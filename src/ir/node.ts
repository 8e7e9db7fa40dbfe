// Graph nodes: immutable, created once, one or more results. A graph is whatever is reachable from some values.

import type { ValueArray } from "../core/dtype.ts";
import type { Aval } from "../core/shape.ts";
import type { AnyAttrs, Op } from "../ops/define.ts";
import type { Tensor } from "../tensor.ts";

/** One result of a node. */
export interface Value {
  readonly node: Node;
  readonly index: number;
}

interface NodeBase {
  /** Unique in the process and larger than every operand's id. */
  readonly id: number;
  /** Operands in record order; undefined where an optional one is absent. */
  readonly inputs: readonly (Value | undefined)[];
  readonly results: readonly Aval[];
}

/** An operator applied to values. */
export interface OpNode extends NodeBase {
  readonly kind: "op";
  readonly op: Op;
  readonly attrs: AnyAttrs;
}

/** Fed anew at every run. */
export interface InputNode extends NodeBase {
  readonly kind: "input";
  readonly name: string;
}

/** State: has an initial value, stays on the engine, is replaced only by an update. */
export interface ParameterNode extends NodeBase {
  readonly kind: "parameter";
  readonly name: string;
  /** Unrounded; the dtype rounds it when it is stored. A number stands for itself everywhere. */
  readonly initial: ValueArray | number;
}

/** Known when the program is compiled. */
export interface ConstantNode extends NodeBase {
  readonly kind: "constant";
  readonly data: ValueArray;
}

/** Passes its first operand on; the derivative is `vjp` (cotangents of operands 1…), or none at all. Programs never contain it. */
export interface MarkNode extends NodeBase {
  readonly kind: "mark";
  readonly vjp: ((g: Tensor) => readonly Tensor[]) | null;
}

export type Node = OpNode | InputNode | ParameterNode | ConstantNode | MarkNode;

let lastId = 0;

/** Gives a node its id. */
export function makeNode<N extends Node>(node: Omit<N, "id">): N {
  return { id: ++lastId, ...node } as N;
}

/** Shape and dtype of a value. */
export function avalOf(value: Value): Aval {
  return value.node.results[value.index]!;
}

/** The value that a chain of marks passes on. */
export function skipMarks(value: Value): Value {
  while (value.node.kind === "mark") value = value.node.inputs[0]!;
  return value;
}

/** Operands that a run needs: all, but of a mark only the value it passes on. */
export function computedOperands(node: Node): readonly (Value | undefined)[] {
  return node.kind === "mark" ? node.inputs.slice(0, 1) : node.inputs;
}

/**
 * Nodes reachable from `roots`, operands before users. Iterative: depth is bounded by memory, not by the stack.
 * `operands` says where to walk on from a node; null leaves the node out.
 */
export function topologicalOrder(
  roots: Iterable<Value>,
  operands: (node: Node) => readonly (Value | undefined)[] | null = (node) => node.inputs,
): Node[] {
  const order: Node[] = [];
  const seen = new Set<Node>();
  const stack: { node: Node; inputs: readonly (Value | undefined)[]; next: number }[] = [];
  const push = (node: Node) => {
    if (seen.has(node)) return;
    seen.add(node);
    const inputs = operands(node);
    if (inputs !== null) stack.push({ node, inputs, next: 0 });
  };
  for (const root of roots) {
    push(root.node);
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      if (top.next < top.inputs.length) {
        const operand = top.inputs[top.next++];
        if (operand !== undefined) push(operand.node);
      } else {
        order.push(top.node);
        stack.pop();
      }
    }
  }
  return order;
}
