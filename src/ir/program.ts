// Programs: a graph flattened for an engine. Values are numbered, instructions stand in execution order, ports have names.

import type { ValueArray } from "../core/dtype.ts";
import { ConfigError, formatAval, invariant } from "../core/errors.ts";
import { type Aval, sameAval, sizeOf } from "../core/shape.ts";
import { type AnyAttrs, checkUse, type Op, operandsByName, roundAttrs } from "../ops/define.ts";
import { ops } from "../ops/index.ts";
import {
  avalOf,
  type ConstantNode,
  computedOperands,
  type InputNode,
  type Node,
  type ParameterNode,
  skipMarks,
  topologicalOrder,
  type Value,
} from "./node.ts";

/** A value that enters or leaves under a name. */
export interface Port {
  readonly name: string;
  readonly value: number;
}

export interface Constant {
  readonly value: number;
  /** Unrounded; engines and the writer round to the value's dtype. */
  readonly data: ValueArray;
}

export interface Instruction {
  readonly op: Op;
  /** Value numbers in record order; -1 where an optional operand is absent. */
  readonly inputs: readonly number[];
  readonly attrs: AnyAttrs;
  readonly results: readonly number[];
}

/** One compilable unit. Every output port has an instruction of its own that produces it and no other output. */
export interface Program {
  readonly name: string;
  /** Shape and dtype by value number. */
  readonly values: readonly Aval[];
  readonly inputs: readonly Port[];
  readonly constants: readonly Constant[];
  readonly instructions: readonly Instruction[];
  readonly outputs: readonly Port[];
}

/** Appends values and instructions; the only code that makes programs. */
export class ProgramBuilder {
  readonly #name: string;
  readonly #values: Aval[] = [];
  readonly #inputs: Port[] = [];
  readonly #constants: Constant[] = [];
  readonly #instructions: Instruction[] = [];
  readonly #outputs: Port[] = [];
  readonly #produced = new Set<number>();
  readonly #names = new Set<string>();

  constructor(name: string) {
    this.#name = name;
  }

  aval(value: number): Aval {
    return this.#values[value]!;
  }

  input(name: string, aval: Aval): number {
    requireName(name);
    this.#takeName(name);
    const value = this.#values.push(aval) - 1;
    this.#inputs.push({ name, value });
    return value;
  }

  constant(aval: Aval, data: ValueArray): number {
    invariant(data.length === sizeOf(aval.shape), () => `constant of ${data.length} values for ${formatAval(aval)}`);
    const value = this.#values.push(aval) - 1;
    this.#constants.push({ value, data });
    return value;
  }

  /** Checks and appends an instruction; returns the numbers of its results. */
  instruction(op: Op, inputs: readonly number[], attrs: AnyAttrs): readonly number[] {
    const use = checkUse(
      op,
      inputs.map((value) => (value < 0 ? undefined : this.#values[value])),
      attrs,
    );
    return this.#append(op, inputs, use.attrs, use.results);
  }

  /** Appends an instruction whose use was checked when its node was built. */
  checked(op: Op, inputs: readonly number[], attrs: AnyAttrs, results: readonly Aval[]): readonly number[] {
    return this.#append(op, inputs, attrs, results);
  }

  #append(op: Op, inputs: readonly number[], given: AnyAttrs, avals: readonly Aval[]): readonly number[] {
    const attrs = roundAttrs(op, given, this.#values[inputs[0]!]?.dtype);
    const results = avals.map((aval) => this.#values.push(aval) - 1);
    for (const value of results) this.#produced.add(value);
    this.#instructions.push({ op, inputs, attrs, results });
    return results;
  }

  /** Names an output; a value that no instruction produces for this output alone passes through `identity`. */
  output(name: string, value: number): void {
    requireName(name);
    this.#takeName(name);
    // A produced value is given away once.
    const own = this.#produced.has(value) ? value : this.instruction(ops.identity, [value], {})[0]!;
    this.#produced.delete(own);
    this.#outputs.push({ name, value: own });
  }

  #takeName(name: string): void {
    if (this.#names.has(name)) throw new ConfigError(this.#name, `two ports are named "${name}"`);
    this.#names.add(name);
  }

  finish(): Program {
    return {
      name: this.#name,
      values: this.#values,
      inputs: this.#inputs,
      constants: this.#constants,
      instructions: this.#instructions,
      outputs: this.#outputs,
    };
  }
}

/** What MIL's text would take for something else. */
const reservedNames = new Set(["true", "false"]);

/** Port names become MIL identifiers. @throws {ConfigError} */
function requireName(name: string): void {
  if (!/^[A-Za-z_][A-Za-z0-9_]{0,200}$/.test(name) || reservedNames.has(name)) {
    throw new ConfigError(
      "port",
      `name ${JSON.stringify(name)} is not an identifier of letters, digits and underscores, or is reserved`,
    );
  }
}

/** A MIL identifier close to `name`. */
export function identifier(name: string): string {
  const text = name.replace(/[^A-Za-z0-9_]/g, "_").slice(0, 200);
  return /^[A-Za-z_]/.test(text) ? text : `_${text}`;
}

/** `fp16` as fp32, everything else as it is. */
export function widen(aval: Aval): Aval {
  return aval.dtype === "fp16" ? { ...aval, dtype: "fp32" } : aval;
}

export interface LowerOptions {
  /** Makes every fp16 value fp32. Constants and attributes keep the digits that they were given. */
  readonly wide?: boolean;
}

/**
 * Flattens the graph behind `outputs`. `feeds` names values that come from outside the program (inputs, state, results of earlier stages); the
 * walk stops at their nodes. Order of instructions: operands first, otherwise as built.
 */
export function lowerGraph(
  name: string,
  outputs: ReadonlyMap<string, Value>,
  feeds: ReadonlyMap<string, Value>,
  { wide = false }: LowerOptions = {},
): Program {
  const builder = new ProgramBuilder(name);
  const asLowered = wide ? widen : (aval: Aval) => aval;
  const numbers = new Map<Node, readonly number[]>();
  const fed = new Map<Node, Map<number, number>>();
  for (const [port, value] of feeds) {
    const number = builder.input(port, asLowered(avalOf(value)));
    const results = fed.get(value.node) ?? new Map<number, number>();
    fed.set(value.node, results.set(value.index, number));
  }
  const numberOf = (value: Value): number => {
    const source = skipMarks(value);
    return fed.get(source.node)?.get(source.index) ?? numbers.get(source.node)![source.index]!;
  };
  const walk = (node: Node) => (fed.has(node) ? null : computedOperands(node));
  for (const node of topologicalOrder([...outputs.values()].map(skipMarks), walk)) {
    if (node.kind === "op") {
      const inputs = node.inputs.map((value) => (value === undefined ? -1 : numberOf(value)));
      if (!wide) numbers.set(node, builder.checked(node.op, inputs, node.attrs, node.results));
      else
        numbers.set(
          node,
          builder.instruction(node.op, inputs, node.op === ops.cast ? widenCast(node.attrs) : node.attrs),
        );
    } else if (node.kind === "constant") {
      numbers.set(node, [builder.constant(asLowered(node.results[0]!), (node as ConstantNode).data)]);
    } else if (node.kind !== "mark") {
      const leaf = node as InputNode | ParameterNode;
      throw new ConfigError(name, `${leaf.kind} "${leaf.name}" is used but not fed`);
    }
  }
  for (const [port, value] of outputs) builder.output(port, numberOf(value));
  return builder.finish();
}

function widenCast(attrs: AnyAttrs): AnyAttrs {
  return attrs.dtype === "fp16" ? { ...attrs, dtype: "fp32" } : attrs;
}

/** Operands of an instruction by name, through `lookup`. */
export function instructionOperands<V>(instruction: Instruction, lookup: (value: number) => V) {
  return operandsByName(
    instruction.op,
    instruction.inputs.map((value) => (value < 0 ? undefined : lookup(value))),
  );
}

/**
 * Checks what every pass and engine relies on: values are produced once and before use, results agree with what the operator infers, every
 * output has a producer of its own. @throws {Error} that names a bug of the pass which made the program.
 */
export function verifyProgram(program: Program): void {
  const defined = new Set<number>();
  const define = (value: number, what: string) => {
    invariant(
      program.values[value] !== undefined && !defined.has(value),
      () => `${what} defines value ${value} twice or out of range`,
    );
    defined.add(value);
  };
  for (const port of program.inputs) define(port.value, `input ${port.name}`);
  for (const { value } of program.constants) define(value, "constant");
  const produced = new Set<number>();
  for (const [at, instruction] of program.instructions.entries()) {
    const label = `instruction ${at} (${instruction.op.name})`;
    for (const value of instruction.inputs) {
      invariant(value === -1 || defined.has(value), () => `${label} uses value ${value} before it is defined`);
    }
    const avals = instruction.inputs.map((value) => (value < 0 ? undefined : program.values[value]));
    const { results } = checkUse(instruction.op, avals, instruction.attrs);
    invariant(
      results.length === instruction.results.length,
      () => `${label} has ${instruction.results.length} results`,
    );
    for (const [i, value] of instruction.results.entries()) {
      invariant(sameAval(results[i]!, program.values[value]!), () => `${label} infers ${formatAval(results[i]!)}`);
      define(value, label);
      produced.add(value);
    }
  }
  for (const { name, value } of program.outputs) {
    invariant(produced.delete(value), () => `output ${name} has no instruction of its own`);
  }
}
