// Freezing: parameters become constants, for programs that only infer; batch norms are then folded into the convolutions before them.

import { newValues } from "../core/dtype.ts";
import { float16Max } from "../core/float16.ts";
import { sameShape, sizeOf } from "../core/shape.ts";
import type { StateStore } from "../engines/state.ts";
import {
  type ConstantNode,
  computedOperands,
  type Node,
  type OpNode,
  type ParameterNode,
  skipMarks,
  topologicalOrder,
} from "../ir/node.ts";
import { ops } from "../ops/index.ts";
import { Tensor } from "../tensor.ts";
import { applyOp, producer, sharedConstant } from "./rewrite.ts";

type Tensors = Readonly<Record<string, Tensor>>;

/** Rebuilds the graphs behind `outputs`: `replace` gives another tensor for a node whose operands were rebuilt. */
function rebuild<O extends Tensors>(
  outputs: O,
  replace: (node: Node, operands: readonly (Tensor | undefined)[]) => Tensor | undefined,
): O {
  const made = new Map<Node, readonly Tensor[]>();
  for (const node of topologicalOrder(Object.values(outputs), computedOperands)) {
    const operands = node.inputs.map((each) => each && made.get(each.node)?.[each.index]);
    if (node.kind === "mark") {
      made.set(node, [operands[0]!]);
      continue;
    }
    const replaced = replace(node, operands);
    if (replaced !== undefined) made.set(node, [replaced]);
    else if (node.kind === "op" && operands.some((each, i) => each?.node !== node.inputs[i]?.node))
      made.set(node, applyOp(node.op, operands, node.attrs));
    else
      made.set(
        node,
        node.results.map((_, index) => new Tensor(node, index)),
      );
  }
  return Object.fromEntries(
    Object.entries(outputs).map(([name, { node, index }]) => [name, made.get(node)![index]!]),
  ) as { readonly [K in keyof O]: O[K] };
}

export interface FreezeOptions {
  /** Where the values are, for parameters that it has; initial ones otherwise. */
  readonly state?: StateStore;
}

/**
 * The same results with parameters as constants: the form for inference, in which engines prepare weights when they compile, and the Neural
 * Engine takes those of convolutions and norms. Batch norms are folded. Such a graph cannot be trained.
 */
export function freeze<O extends Tensors>(outputs: O, { state }: FreezeOptions = {}): O {
  const frozen = rebuild(outputs, (node) => (node.kind === "parameter" ? asConstant(node, state) : undefined));
  return foldBatchNorm(frozen);
}

function asConstant(node: ParameterNode, state: StateStore | undefined): Tensor {
  const aval = node.results[0]!;
  const parameter = new Tensor(node);
  if (state?.has(parameter)) return sharedConstant(aval, state.read(parameter).data as ConstantNode["data"]);
  const { initial } = node;
  const data = typeof initial === "number" ? newValues(aval.dtype, sizeOf(aval.shape)).fill(initial) : initial;
  return sharedConstant(aval, data);
}

/**
 * Folds every `batch_norm` with constant statistics into the convolution before it, if nobody else reads that and its weight is constant: with
 * scale = gamma / sqrt(variance + epsilon) the weight becomes weight · scale, and the bias (bias − mean) scale + beta. One rounding of the weights
 * takes the place of those of the norm's arithmetic.
 */
export function foldBatchNorm<O extends Tensors>(outputs: O): O {
  const readers = new Map<Node, number>();
  const count = (node: Node) => readers.set(node, (readers.get(node) ?? 0) + 1);
  for (const node of topologicalOrder(Object.values(outputs), computedOperands))
    for (const operand of computedOperands(node)) if (operand !== undefined) count(skipMarks(operand).node);
  for (const output of Object.values(outputs)) count(skipMarks(output).node);
  return rebuild(outputs, (node, operands) => {
    if (node.kind !== "op" || node.op !== ops.batch_norm) return undefined;
    const before = skipMarks(node.inputs[0]!).node;
    // conv() of a tensor adds its bias behind the operator.
    const all = before.kind === "op" && before.op === ops.add ? [before, ...before.inputs.map(nodeOf)] : [before];
    const shared = all.some((each) => each?.kind === "op" && each.op !== ops.reshape && readers.get(each) !== 1);
    return shared ? undefined : folded(node, operands);
  });
}

const nodeOf = (value: OpNode["inputs"][number]) => value && skipMarks(value).node;

const dataOf = (tensor: Tensor | undefined): Float32Array | undefined => {
  if (tensor?.node.kind === "constant") return tensor.node.data as Float32Array;
  return tensor !== undefined && producer(tensor)?.op === ops.reshape
    ? dataOf(producer(tensor)!.inputs[0] as Tensor)
    : undefined;
};

/** A convolution's result, and what is added to each of its channels. */
function withoutBias(x: Tensor): { readonly x: Tensor; readonly bias?: Float32Array } {
  const sum = producer(x);
  if (sum?.op !== ops.add) return { x };
  const [left, right] = sum.inputs as readonly [Tensor, Tensor];
  for (const [y, shift] of [
    [left, right],
    [right, left],
  ] as const) {
    const bias = dataOf(shift);
    const perChannel =
      shift.shape.length === x.shape.length && shift.shape[1] === shift.size && shift.size === x.shape[1];
    if (bias !== undefined && perChannel && sameShape(y.shape, x.shape)) return { x: y, bias };
  }
  return { x };
}

function folded({ attrs }: OpNode, operands: readonly (Tensor | undefined)[]): Tensor | undefined {
  const [sum, mean, variance, gamma, beta] = operands; // in record order
  if (sum === undefined) return undefined;
  const { x, bias: added } = withoutBias(sum);
  const convolution = producer(x);
  if (convolution?.op !== ops.conv) return undefined;
  const [input, weight, bias] = convolution.inputs as readonly (Tensor | undefined)[];
  const [w, m, s] = [weight, mean, variance].map(dataOf);
  const optional = [bias, gamma, beta];
  const [b, g, shift] = optional.map(dataOf);
  if (w === undefined || m === undefined || s === undefined) return undefined;
  if (optional.some((each) => each !== undefined && dataOf(each) === undefined)) return undefined;
  const scale = Float64Array.from(s, (value, i) => (g?.[i] ?? 1) / Math.sqrt(value + (attrs.epsilon as number)));
  const taps = w.length / scale.length;
  const weights = w.map((value, i) => value * scale[Math.floor(i / taps)]!);
  const biases = Float32Array.from(
    scale,
    (value, i) => ((b?.[i] ?? 0) + (added?.[i] ?? 0) - m[i]!) * value + (shift?.[i] ?? 0),
  );
  const limit = x.dtype === "fp16" ? float16Max : Number.MAX_VALUE;
  if ([weights, biases].some((values) => values.some((value) => !(Math.abs(value) <= limit)))) return undefined;
  const [y] = applyOp(ops.conv, [input, sharedConstant(weight!.aval, weights), undefined], convolution.attrs);
  const perChannel = [1, biases.length, ...x.shape.slice(2).map(() => 1)];
  return y!.add(sharedConstant({ dtype: x.dtype, shape: perChannel }, biases));
}
