// Reverse-mode differentiation: one sweep over the graph in reverse topological order. Gradients are graphs like any other.

import { ConfigError, formatAval, invariant, ShapeError } from "../core/errors.ts";
import { sameShape } from "../core/shape.ts";
import { avalOf, type MarkNode, makeNode, type Node, type OpNode, topologicalOrder, type Value } from "../ir/node.ts";
import { isDifferentiable, operandNames, operandsByName } from "../ops/define.ts";
import { requireFloat, Tensor } from "../tensor.ts";

export interface GradOptions {
  /** Cotangent of the differentiated tensor: a tensor of its shape, or a number for a scalar; 1 unless stated. A loss scale goes here. */
  readonly cotangent?: Tensor | number;
}

const tensorOf = (value: Value) => (value instanceof Tensor ? value : new Tensor(value.node, value.index));

/** Nodes from which a derivative can flow to one of `targets`. */
function activeNodes(order: readonly Node[], targets: ReadonlySet<Node>): Set<Node> {
  const active = new Set<Node>();
  for (const node of order) {
    const reached =
      targets.has(node) || node.inputs.some((operand) => operand !== undefined && active.has(operand.node));
    const passes = node.kind === "mark" ? node.vjp !== null : node.kind !== "op" || node.op.vjp !== null;
    if (targets.has(node) || (reached && passes)) active.add(node);
  }
  return active;
}

/** Cotangents by node and result index. */
class Cotangents {
  readonly #sums = new Map<Node, (Tensor | undefined)[]>();

  add(value: Value, cotangent: Tensor): void {
    const { shape, dtype } = avalOf(value);
    invariant(sameShape(cotangent.shape, shape) && cotangent.dtype === dtype, () => {
      return `a derivative of ${formatAval(avalOf(value))} came out as ${formatAval(cotangent.aval)}`;
    });
    let sums = this.#sums.get(value.node);
    if (sums === undefined) this.#sums.set(value.node, (sums = new Array(value.node.results.length)));
    const sum = sums[value.index];
    sums[value.index] = sum === undefined ? cotangent : sum.add(cotangent);
  }

  of(node: Node): readonly (Tensor | undefined)[] | undefined {
    return this.#sums.get(node);
  }
}

function sweepOp(
  node: OpNode,
  gs: readonly (Tensor | undefined)[],
  active: ReadonlySet<Node>,
  cotangents: Cotangents,
): void {
  const { op, inputs, attrs, results } = node;
  const tensors = inputs.map((operand) => (operand === undefined ? undefined : tensorOf(operand)));
  const outs = results.map((_, index) => new Tensor(node, index));
  const full = results.map((aval, index) => gs[index] ?? outs[index]!.filled(0, aval.shape));
  const vjp: Readonly<Record<string, (() => Tensor | readonly Tensor[]) | null>> = op.vjp!(
    operandsByName(op, tensors),
    attrs,
    {
      g: full[0]!,
      out: outs[0]!,
      gs: full,
    },
  );
  const names = operandNames(op);
  if (op.inputs[names[0]!].variadic) {
    const pieces = vjp[names[0]!]!() as readonly Tensor[];
    for (const [i, tensor] of tensors.entries()) if (active.has(tensor!.node)) cotangents.add(tensor!, pieces[i]!);
    return;
  }
  for (const [i, tensor] of tensors.entries()) {
    if (tensor === undefined || !active.has(tensor.node) || !isDifferentiable(tensor.aval)) continue;
    const rule = vjp[names[i]!];
    if (rule) cotangents.add(tensor, rule() as Tensor);
  }
}

/**
 * Derivatives of `of` with respect to each of `targets` (parameters, inputs, or any tensor that `of` depends on), shaped like the targets.
 * @throws {ShapeError} where `of` is not a scalar and no cotangent is given, {ConfigError} where it does not depend on a target.
 */
export function grad(of: Tensor, targets: readonly Tensor[], { cotangent = 1 }: GradOptions = {}): Tensor[] {
  requireFloat("grad", of);
  if (typeof cotangent === "number" && of.size !== 1) {
    throw new ShapeError(
      "grad",
      `the differentiated tensor is ${formatAval(of.aval)}, not a scalar; reduce it or give a cotangent of its shape`,
    );
  }
  const seed = typeof cotangent === "number" ? of.filled(cotangent, of.shape) : cotangent;
  if (!sameShape(seed.shape, of.shape) || seed.dtype !== of.dtype) {
    throw new ShapeError(
      "grad",
      `the cotangent is ${formatAval(seed.aval)}, the differentiated tensor ${formatAval(of.aval)}`,
    );
  }
  for (const target of targets) requireFloat("grad", target);
  return sweep(of, targets, seed, false);
}

/** The reverse sweep. With `leaves` the targets are independent: the walk ends at them. */
function sweep(of: Tensor, targets: readonly Tensor[], seed: Tensor, leaves: boolean): Tensor[] {
  const ends = new Set(targets.map((target) => target.node));
  // Nothing flows past a stopGradient, so the walk need not either.
  const isEnd = (node: Node) => (node.kind === "mark" && node.vjp === null) || (leaves && ends.has(node));
  const order = topologicalOrder([of], (node) => (isEnd(node) ? [] : node.inputs));
  const active = activeNodes(order, ends);
  const cotangents = new Cotangents();
  if (active.has(of.node)) cotangents.add(of, seed);
  for (let at = order.length - 1; at >= 0; at--) {
    const node = order[at]!;
    const gs = cotangents.of(node);
    if (gs === undefined || !active.has(node)) continue;
    if (node.kind === "op" && node.op.vjp !== null) sweepOp(node, gs, active, cotangents);
    else if (node.kind === "mark" && node.vjp !== null) {
      for (const [i, piece] of node.vjp(gs[0]!).entries()) {
        const operand = node.inputs[i + 1]!;
        if (active.has(operand.node)) cotangents.add(operand, piece);
      }
    }
  }
  return targets.map((target, i) => {
    const found = cotangents.of(target.node)?.[target.index];
    if (found !== undefined) return found;
    const name =
      target.node.kind === "parameter" || target.node.kind === "input" ? `"${target.node.name}"` : `number ${i}`;
    throw new ConfigError(
      "grad",
      `the differentiated tensor does not depend on target ${name} (${formatAval(target.aval)}) through differentiable operators`,
    );
  });
}

/** `of` itself and its derivatives. */
export function valueAndGrad(
  of: Tensor,
  targets: readonly Tensor[],
  options?: GradOptions,
): { readonly value: Tensor; readonly grads: Tensor[] } {
  return { value: of, grads: grad(of, targets, options) };
}

/** The same values, with no derivative. */
export function stopGradient<X extends Tensor>(x: X): X {
  return new Tensor(makeNode<MarkNode>({ kind: "mark", vjp: null, inputs: [x], results: [x.aval] })) as X;
}

/**
 * `value` with a derivative of its own: `vjp` gets the cotangent of `value` and returns one for each of `inputs`. What lies between `inputs` and
 * `value` is not differentiated.
 */
export function customGradient(
  value: Tensor,
  inputs: readonly Tensor[],
  vjp: (g: Tensor) => readonly Tensor[],
): Tensor {
  return new Tensor(makeNode<MarkNode>({ kind: "mark", vjp, inputs: [value, ...inputs], results: [value.aval] }));
}

/**
 * `body(inputs)` whose intermediate values are computed again in the backward sweep instead of being kept (Chen et al. 2016, "Training deep nets
 * with sublinear memory cost"). `body` must be a pure function of `inputs`.
 * @throws {ConfigError} where `body` uses a parameter or an input that is not among `inputs`: its derivative would be lost.
 */
export function checkpoint(body: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]): Tensor {
  const value = body(...inputs);
  const own = new Set(inputs.map((each) => each.node));
  for (const node of topologicalOrder([value], (each) => (own.has(each) ? [] : each.inputs))) {
    if ((node.kind === "parameter" || node.kind === "input") && !own.has(node)) {
      throw new ConfigError("checkpoint", `the body uses "${node.name}", which is not among its inputs`, {
        remedy: "pass it in",
      });
    }
  }
  return customGradient(value, inputs, (g) => {
    // Copies, so that the second computation is one of its own; derivatives of the gradient pass through them.
    const again = inputs.map((each) => customGradient(each, [each], (h) => [h]));
    return sweep(body(...again), again, g, true);
  });
}
