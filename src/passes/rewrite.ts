// Rewriting: a program rebuilt instruction by instruction as a graph, where rules replace uses of operators by graphs that are rewritten in turn.

import { invariant } from "../core/errors.ts";
import { type Aval, sameAval, sameShape } from "../core/shape.ts";
import {
  type ConstantNode,
  type InputNode,
  makeNode,
  type Node,
  type OpNode,
  topologicalOrder,
  type Value,
} from "../ir/node.ts";
import type { Instruction, Program } from "../ir/program.ts";
import {
  type AnyAttrs,
  type AttrSpecs,
  type Attrs,
  checkUse,
  type Op,
  type OperandSpecs,
  type OpRecord,
  operandsByName,
  type PerOperand,
} from "../ops/define.ts";
import { ops } from "../ops/index.ts";
import { Tensor } from "../tensor.ts";

/** One use of an operator whose operands are rewritten already. */
export interface Use {
  readonly op: Op;
  /** In record order; undefined where an optional operand is absent. */
  readonly operands: readonly (Tensor | undefined)[];
  readonly attrs: AnyAttrs;
  readonly results: readonly Aval[];
  /** Whether anybody reads result i. */
  readonly used: readonly boolean[];
}

/** Replaces uses of operators by equivalent graphs. */
export interface Rule {
  readonly name: string;
  /** Operators that it looks at; all when absent. */
  readonly ops?: readonly Op[];
  /** The results (of the same shapes and dtypes), or undefined where the use stays. A rule must not match what it makes. */
  rewrite(use: Use): readonly Tensor[] | undefined;
}

/** A rule for one operator, with its operands by name. */
export function rule<I extends OperandSpecs, A extends AttrSpecs>(
  op: OpRecord<I, A>,
  name: string,
  rewrite: (
    operands: PerOperand<I, Tensor>,
    attrs: Attrs<A>,
    use: Use,
  ) => Tensor | readonly (Tensor | undefined)[] | undefined,
): Rule {
  return {
    name,
    ops: [op],
    rewrite(use) {
      const made = rewrite(operandsByName(op, use.operands) as PerOperand<I, Tensor>, use.attrs as Attrs<A>, use);
      return made === undefined || made instanceof Tensor ? made && [made] : (made as readonly Tensor[]);
    },
  };
}

/** Any operator applied to tensors. @throws what `checkUse` throws */
export function applyOp(op: Op, operands: readonly (Tensor | undefined)[], given: AnyAttrs): Tensor[] {
  const avals = operands.map((each) => each?.aval);
  const { attrs, results } = checkUse(op, avals, given);
  const node = makeNode<OpNode>({ kind: "op", op, inputs: operands, attrs, results });
  return results.map((_, index) => new Tensor(node, index));
}

/** The operator that computes a tensor. */
export function producer(tensor: Tensor | undefined): OpNode | undefined {
  return tensor?.node.kind === "op" ? tensor.node : undefined;
}

/** A constant that shares its data. */
export function sharedConstant(aval: Aval, data: ConstantNode["data"]): Tensor {
  return new Tensor(makeNode<ConstantNode>({ kind: "constant", data, inputs: [], results: [aval] }));
}

/** Replacements of replacements before a rule is taken to match its own result. */
const maxDepth = 32;

/**
 * Rewrites uses one at a time. Equal uses that rules make become one: three slices of a transposed tensor share the transpose. Everything is
 * iterative but for replacements inside replacements, which are few.
 */
export class Rewriter {
  readonly #rules = new Map<Op, Rule[]>();
  readonly #done = new Set<Node>();
  readonly #known = new Map<string, Tensor[]>();
  /** What a node stands in place of. */
  readonly #origins = new Map<Node, Use>();
  #origin: Use | undefined;

  constructor(rules: readonly Rule[]) {
    for (const op of Object.values<Op>(ops))
      this.#rules.set(
        op,
        rules.filter((each) => each.ops?.includes(op) ?? true),
      );
  }

  input(name: string, aval: Aval): Tensor {
    const node = makeNode<InputNode>({ kind: "input", name, inputs: [], results: [aval] });
    this.#done.add(node);
    return new Tensor(node);
  }

  constant(aval: Aval, data: ConstantNode["data"]): Tensor {
    const tensor = sharedConstant(aval, data);
    this.#done.add(tensor.node);
    return tensor;
  }

  /** The results of one use. */
  use(use: Use): readonly Tensor[] {
    this.#origin = use;
    const made = this.#use(use, 0, "");
    this.#origin = undefined;
    return made;
  }

  /** The use of an operator that rules replaced with this node and others. */
  origin(node: Node): Use | undefined {
    return this.#origins.get(node);
  }

  /** A graph built on rewritten tensors, rewritten; `origin` is what it stands in place of. */
  graph(results: readonly (Tensor | undefined)[], origin?: Use): readonly Tensor[] {
    this.#origin = origin;
    const made = this.#graph(results, 0, "");
    this.#origin = undefined;
    return made;
  }

  #use(use: Use, depth: number, by: string, node?: OpNode): readonly Tensor[] {
    invariant(depth < maxDepth, () => `rule "${by}" matches what it makes from ${use.op.name}`);
    for (const each of this.#rules.get(use.op)!) {
      const made = each.rewrite(use);
      if (made === undefined) continue;
      for (const [i, aval] of use.results.entries()) {
        invariant(
          !use.used[i] || (made[i] !== undefined && sameAval(made[i].aval, aval)),
          () => `rule "${each.name}" gives ${made[i]} for result ${i} of ${use.op.name}`,
        );
      }
      return this.#graph(made, depth + 1, each.name);
    }
    const key = depth === 0 ? undefined : keyOf(use);
    const known = key === undefined ? undefined : this.#known.get(key);
    if (known !== undefined) return known;
    const { op, operands: inputs, attrs, results } = use;
    const made = node ?? makeNode<OpNode>({ kind: "op", op, inputs, attrs, results });
    const tensors = results.map((_, index) => new Tensor(made, index));
    this.#done.add(made);
    if (key !== undefined) this.#known.set(key, tensors);
    if (depth > 0 && this.#origin !== undefined) this.#origins.set(made, this.#origin);
    return tensors;
  }

  #graph(results: readonly (Tensor | undefined)[], depth: number, by: string): readonly Tensor[] {
    const wanted = results.filter((tensor) => tensor !== undefined);
    const replaced = new Map<Node, readonly Tensor[]>();
    const find = <T extends Value | undefined>(value: T): Tensor =>
      (value && (replaced.get(value.node)?.[value.index] ?? value)) as Tensor;
    for (const node of topologicalOrder(wanted, (each) => (this.#done.has(each) ? null : each.inputs))) {
      if (node.kind !== "op") {
        invariant(node.kind === "constant", () => `rule "${by}" makes a ${node.kind}`);
        this.#done.add(node);
        continue;
      }
      const operands = node.inputs.map(find);
      const same = operands.every((operand, i) => operand === node.inputs[i]);
      const { op, attrs, results: avals } = node;
      const use = { op, operands, attrs, results: avals, used: avals.map(() => true) };
      replaced.set(node, this.#use(use, depth, by, same ? node : undefined));
    }
    return results.map(find);
  }
}

function keyOf({ op, operands, attrs }: Use): string {
  return `${op.name} ${operands.map((each) => (each === undefined ? "-" : `${each.node.id}:${each.index}`)).join(" ")} ${JSON.stringify(attrs)}`;
}

// ------------------------------------------------------------------------------------------ whole programs

/** Ranks that a program has after rewriting: scalars that are computed or fed are vectors of one element. */
function withoutScalars(aval: Aval): Aval {
  return aval.shape.length === 0 ? { dtype: aval.dtype, shape: [1] } : aval;
}

/** A program while it is rewritten: its ports as tensors. */
export interface Ports {
  readonly inputs: ReadonlyMap<string, Tensor>;
  readonly outputs: ReadonlyMap<string, Tensor>;
}

/** Instructions that some output depends on, and the values that they and the outputs read. */
function liveParts({ instructions, outputs }: Program): { live: Uint8Array; read: Set<number> } {
  const read = new Set(outputs.map(({ value }) => value));
  const live = new Uint8Array(instructions.length);
  for (let at = instructions.length - 1; at >= 0; at--) {
    const { inputs, results } = instructions[at]!;
    if (!results.some((value) => read.has(value))) continue;
    live[at] = 1;
    for (const value of inputs) read.add(value);
  }
  return { live, read };
}

/**
 * Replays the live instructions of a program through the rewriter. Values of rank 0 become [1], ports included; constants of rank 0 stay, the chip
 * takes them as numbers beside a tensor.
 */
export function replay(program: Program, rewriter: Rewriter): Ports {
  const { values } = program;
  const tensors = new Array<Tensor>(values.length);
  const { live, read } = liveParts(program);
  const inputs = new Map<string, Tensor>();
  for (const { name, value } of program.inputs) {
    tensors[value] = rewriter.input(name, withoutScalars(values[value]!));
    inputs.set(name, tensors[value]);
  }
  for (const { value, data } of program.constants)
    if (read.has(value)) tensors[value] = rewriter.constant(values[value]!, data);
  for (const [at, instruction] of program.instructions.entries()) {
    if (live[at] === 0) continue;
    const { op, attrs } = instruction;
    const operands = instruction.inputs.map((value) => (value < 0 ? undefined : tensors[value]));
    const results = instruction.results.map((value) => values[value]!);
    const used = instruction.results.map((value) => read.has(value));
    const scalar = touchesScalars(instruction, values, operands);
    const use = { op, operands, attrs, results: scalar ? results.map(withoutScalars) : results, used };
    const made = scalar ? rewriter.graph(withVectors(use), use) : rewriter.use(use);
    for (const [i, value] of instruction.results.entries()) if (used[i]) tensors[value] = made[i]!;
  }
  return { inputs, outputs: new Map(program.outputs.map(({ name, value }) => [name, tensors[value]!])) };
}

function touchesScalars(
  { inputs, results }: Instruction,
  values: readonly Aval[],
  operands: readonly (Tensor | undefined)[],
): boolean {
  if (results.some((value) => values[value]!.shape.length === 0)) return true;
  return operands.some((operand, i) => operand !== undefined && operand.rank !== values[inputs[i]!]!.shape.length);
}

function as(tensor: Tensor, { shape }: Aval): Tensor {
  return sameShape(tensor.shape, shape) ? tensor : tensor.reshape(shape);
}

/** A use whose operands or results were scalars, with vectors of one element instead. The same bits. */
function withVectors({ op, operands, attrs, results }: Use): readonly Tensor[] {
  const [first] = operands as [Tensor];
  const [result] = results as [Aval];
  if (op === ops.reshape || op === ops.expand_dims || op === ops.squeeze) return [as(first, result)];
  if (op === ops.stack) {
    const vectors = operands.map((each) => each!.reshape([1])) as [Tensor, ...Tensor[]];
    return [vectors[0].concat(vectors.slice(1), 0)];
  }
  let given: AnyAttrs = attrs;
  let flat: readonly (Tensor | undefined)[] = operands;
  if (op.attrs.keepDims !== undefined) {
    // A reduction of everything; of a scalar it had no axes.
    given = { ...attrs, keepDims: true };
    if (Array.isArray(attrs.axes) && attrs.axes.length === 0) {
      flat = [first.reshape([1])];
      given = { ...given, axes: [0] };
    }
  } else if (op === ops.slice_by_index) {
    given = { ...attrs, squeezeMask: first.shape.map(() => false) };
  }
  const made = applyOp(op, flat, given);
  return results.map((aval, i) => as(made[i]!, aval));
}
