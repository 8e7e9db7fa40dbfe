// Plans: stages (programs) over named buffers, functional state, and the verifier that decides how state is replaced.

import { ConfigError, formatAval, invariant, ShapeError } from "../core/errors.ts";
import { type Aval, sameAval } from "../core/shape.ts";
import {
  avalOf,
  computedOperands,
  type InputNode,
  type Node,
  type ParameterNode,
  skipMarks,
  topologicalOrder,
  type Value,
} from "./node.ts";
import { identifier, lowerGraph, type Program, widen } from "./program.ts";

/** A part of a plan, in order: what it must compute, and where. The last stage computes everything that no earlier one did. */
export interface StageSpec {
  readonly name: string;
  /** Engine of the stage; the plan's engine when absent. */
  readonly on?: string;
  /** Values the stage computes, with all they depend on that no earlier stage computed. */
  readonly compute?: readonly Value[];
}

export interface Stage {
  readonly name: string;
  readonly on: string | undefined;
  readonly program: Program;
  /** Buffer of every port of the program. */
  readonly buffers: ReadonlyMap<string, string>;
}

/** How an update reaches its state: into the same buffer, or into a second one that takes its place after the run. */
export type UpdateMode = "in-place" | "swap";

export interface StatePlan {
  readonly parameter: ParameterNode;
  /** Buffer that holds the current value. */
  readonly buffer: string;
  /** Buffer that receives the next value ("" where the plan does not update it); equal to `buffer` when in place. */
  readonly next: string;
  readonly mode: UpdateMode | "read-only";
}

export interface Plan {
  readonly stages: readonly Stage[];
  readonly buffers: ReadonlyMap<string, Aval>;
  /** Names that the caller feeds and reads, with their buffers. */
  readonly feeds: ReadonlyMap<string, string>;
  readonly results: ReadonlyMap<string, string>;
  readonly states: readonly StatePlan[];
}

export interface PlanSpec {
  readonly name?: string;
  readonly outputs: ReadonlyMap<string, Value>;
  /** New value of each parameter that the run replaces. */
  readonly updates: ReadonlyMap<Value, Value>;
  readonly stages?: readonly StageSpec[];
  /** Makes every fp16 value fp32. */
  readonly wide?: boolean;
}

/** An input and the output that would be stored into its buffer. */
interface Overwrite {
  /** -1 where the program does not read the old value. */
  readonly input: number;
  readonly output: number;
}

/**
 * Decides for each pair whether an engine may store the output into the input's buffer as soon as it is computed: every other reader of the old
 * value is an ancestor of the producer, and the producer itself, if it reads the old value, does so element by element. Operators that can fail
 * at run time count as readers, so that a run that throws has stored nothing. An engine that lets an operator's result be a view of its operand
 * must keep this order for the readers of the view.
 */
function mayOverwrite(program: Program, pairs: readonly Overwrite[]): boolean[] {
  const producerOf = new Map<number, number>();
  const readersOf = new Map<number, number[]>();
  const failing: number[] = [];
  for (const [at, { op, inputs, results }] of program.instructions.entries()) {
    for (const value of results) producerOf.set(value, at);
    if (op.canFail === true) failing.push(at);
    for (const value of inputs) {
      const readers = readersOf.get(value);
      if (readers === undefined) readersOf.set(value, [at]);
      else readers.push(at);
    }
  }
  const allowed: boolean[] = [];
  // One backward sweep for 32 producers: bit i of ancestors[at] says that instruction `at` is producer i or an ancestor of it.
  for (let from = 0; from < pairs.length; from += 32) {
    const block = pairs.slice(from, from + 32);
    const ancestors = new Uint32Array(program.instructions.length);
    for (const [bit, { output }] of block.entries()) ancestors[producerOf.get(output)!]! |= 1 << bit;
    for (let at = ancestors.length - 1; at >= 0; at--) {
      if (ancestors[at] === 0) continue;
      for (const value of program.instructions[at]!.inputs) {
        const producer = producerOf.get(value);
        if (producer !== undefined) ancestors[producer]! |= ancestors[at]!;
      }
    }
    for (const [bit, { input, output }] of block.entries()) {
      const producer = producerOf.get(output)!;
      const readers = readersOf.get(input) ?? [];
      const elementwise =
        program.instructions[producer]!.op.elementwise === true &&
        (input < 0 || sameAval(program.values[input]!, program.values[output]!));
      const before = (at: number) => ((ancestors[at]! >>> bit) & 1) === 1;
      allowed.push(readers.every((at) => (at === producer ? elementwise : before(at))) && failing.every(before));
    }
  }
  return allowed;
}

/**
 * Outputs of `inPlace` (each with the input whose buffer it replaces, or null) that a program may not store over their inputs. For programs that were
 * rewritten after the plan was made: where it names none, the plan's decisions still hold.
 */
export function notOverwritable(program: Program, inPlace: ReadonlyMap<string, string | null>): string[] {
  const numberOf = new Map([...program.inputs, ...program.outputs].map(({ name, value }) => [name, value]));
  const number = (name: string) => {
    const value = numberOf.get(name);
    invariant(value !== undefined, () => `there is no port ${name}`);
    return value;
  };
  const names = [...inPlace.keys()];
  const pairs = names.map((output) => {
    const input = inPlace.get(output);
    return { input: input == null ? -1 : number(input), output: number(output) };
  });
  const allowed = mayOverwrite(program, pairs);
  return names.filter((_, i) => !allowed[i]);
}

function checkUpdates(updates: ReadonlyMap<Value, Value>): Map<ParameterNode, Value> {
  const checked = new Map<ParameterNode, Value>();
  for (const [target, next] of updates) {
    const { node } = target;
    if (node.kind !== "parameter")
      throw new ConfigError("update", `only parameters can be updated, not ${node.kind} nodes`);
    if (!sameAval(avalOf(target), avalOf(next))) {
      throw new ShapeError(
        "update",
        `parameter "${node.name}" is ${formatAval(avalOf(target))}, its update is ${formatAval(avalOf(next))}`,
      );
    }
    if (checked.has(node)) throw new ConfigError("update", `parameter "${node.name}" is updated twice`);
    checked.set(node, skipMarks(next));
  }
  return checked;
}

/** Assigns every operator node to the first stage that needs it. */
function assignStages(specs: readonly StageSpec[], last: readonly Value[]): Map<Node, number> {
  const stageOf = new Map<Node, number>();
  for (const [at, spec] of specs.entries()) {
    const wanted = (at === specs.length - 1 ? [...(spec.compute ?? []), ...last] : (spec.compute ?? [])).map(skipMarks);
    for (const node of topologicalOrder(wanted, (node) => (stageOf.has(node) ? null : computedOperands(node))))
      stageOf.set(node, at);
  }
  return stageOf;
}

/** Names in a fixed order of asking, made unique by a number. */
class Names {
  readonly #taken = new Set<string>();
  readonly #last = new Map<string, number>();
  unique(wanted: string): string {
    const base = identifier(wanted);
    let name = base;
    let n = this.#last.get(base) ?? 0;
    while (this.#taken.has(name)) name = `${base}_${++n}`;
    this.#last.set(base, n);
    this.#taken.add(name);
    return name;
  }
  exact(name: string): string {
    if (this.#taken.has(name))
      throw new ConfigError(
        "compile",
        `the name "${name}" stands for two things; outputs, inputs and parameters share one name space`,
      );
    this.#taken.add(name);
    return name;
  }
}

/** Turns graphs into stages over buffers. @throws {ConfigError | ShapeError} for names used twice and updates that do not fit. */
export function buildPlan({
  name = "main",
  outputs,
  updates,
  stages = [{ name: "main" }],
  wide = false,
}: PlanSpec): Plan {
  if (stages.length === 0) throw new ConfigError("compile", "the list of stages is empty");
  if (new Set(stages.map((stage) => stage.name)).size < stages.length)
    throw new ConfigError("compile", "two stages have one name");
  const nextOf = checkUpdates(updates);
  const results = new Map([...outputs].map(([port, value]) => [port, skipMarks(value)]));
  const roots = [...results.values(), ...nextOf.values()];
  const stageOf = assignStages(stages, roots);
  const order = topologicalOrder(
    roots.concat(stages.flatMap((stage) => stage.compute ?? []).map(skipMarks)),
    computedOperands,
  );
  const inputs = order.filter((node): node is InputNode => node.kind === "input");
  const parameters = order.filter((node): node is ParameterNode => node.kind === "parameter");
  const known = new Set(parameters);
  for (const node of nextOf.keys()) if (!known.has(node)) parameters.push(node);
  inputs.sort((a, b) => a.id - b.id); // creation order, which is the order of the ports
  parameters.sort((a, b) => a.id - b.id);

  const names = new Names();
  const buffers = new Map<string, Aval>();
  const feeds = new Map<string, string>();
  const bufferOf = new Map<Node, string>();
  const addBuffer = (buffer: string, aval: Aval) => {
    buffers.set(buffer, wide ? widen(aval) : aval);
    return buffer;
  };
  for (const port of results.keys()) names.exact(port);
  for (const node of inputs) {
    const buffer = addBuffer(names.exact(node.name), node.results[0]!);
    feeds.set(node.name, buffer);
    bufferOf.set(node, buffer);
  }
  for (const node of parameters) bufferOf.set(node, addBuffer(names.unique(node.name), node.results[0]!));
  for (const [port, value] of results) addBuffer(port, avalOf(value));

  // Values that cross from one stage to a later one get a buffer of their own.
  const links = new Map<Node, Map<number, string>>();
  const linkOf = (value: Value) => {
    const ofNode = links.get(value.node) ?? new Map<number, string>();
    links.set(value.node, ofNode);
    const known = ofNode.get(value.index);
    if (known !== undefined) return known;
    const link = addBuffer(names.unique("link"), avalOf(value));
    ofNode.set(value.index, link);
    return link;
  };
  const exports: Map<string, Value>[] = stages.map(() => new Map());
  const imports: Map<string, Value>[] = stages.map(() => new Map());
  const read = (at: number, value: Value) => {
    const leaf = bufferOf.get(value.node);
    if (leaf !== undefined) imports[at]!.set(leaf, value);
    else if (value.node.kind === "op" && stageOf.get(value.node)! < at) {
      const link = linkOf(value);
      imports[at]!.set(link, value);
      exports[stageOf.get(value.node)!]!.set(link, value);
    }
  };
  for (const node of order) {
    if (node.kind !== "op") continue;
    for (const operand of node.inputs) if (operand !== undefined) read(stageOf.get(node)!, skipMarks(operand));
  }
  const producingStage = (value: Value) => (value.node.kind === "op" ? stageOf.get(value.node)! : stages.length - 1);
  for (const [port, value] of results) {
    read(producingStage(value), value);
    exports[producingStage(value)]!.set(port, value);
  }
  const nextBuffer = new Map<ParameterNode, string>();
  for (const [node, value] of nextOf) {
    const buffer = addBuffer(names.unique(`${node.name}_next`), avalOf(value));
    nextBuffer.set(node, buffer);
    read(producingStage(value), value);
    exports[producingStage(value)]!.set(buffer, value);
  }

  const built = stages.map((spec, at): Stage => {
    const program = lowerGraph(
      stages.length === 1 ? name : identifier(spec.name),
      exports[at]!,
      inOrder(imports[at]!, buffers),
      { wide },
    );
    const ports = [...program.inputs, ...program.outputs].map((port) => port.name);
    return { name: spec.name, on: spec.on, program, buffers: new Map(ports.map((port) => [port, port])) };
  });
  return decideUpdates(
    { stages: built, buffers, feeds, results: new Map([...results.keys()].map((port) => [port, port])) },
    parameters,
    {
      current: bufferOf,
      next: nextBuffer,
    },
  );
}

/** Imports in the order in which the plan's buffers were made: feeds, state, links. */
function inOrder(imports: ReadonlyMap<string, Value>, buffers: ReadonlyMap<string, Aval>): Map<string, Value> {
  return new Map(
    [...buffers.keys()].flatMap((name) => (imports.has(name) ? [[name, imports.get(name)!] as const] : [])),
  );
}

/** Aliases each update to its state's buffer where the verifier allows it. */
function decideUpdates(
  plan: Omit<Plan, "states">,
  parameters: readonly ParameterNode[],
  names: { readonly current: ReadonlyMap<Node, string>; readonly next: ReadonlyMap<ParameterNode, string> },
): Plan {
  const buffers = new Map(plan.buffers);
  const last = plan.stages.at(-1)!;
  const binding = new Map(last.buffers);
  const numbersOf = (ports: Program["inputs"]) => new Map(ports.map(({ name, value }) => [name, value]));
  const [inputs, outputs] = [numbersOf(last.program.inputs), numbersOf(last.program.outputs)];
  // Only the last stage may overwrite: a later one would read the new value, and where it fails the old one must still be there.
  const candidates = parameters.flatMap((parameter) => {
    const output = outputs.get(names.next.get(parameter) ?? "");
    return output === undefined ? [] : [{ parameter, output, input: inputs.get(names.current.get(parameter)!) }];
  });
  const pairs = candidates.map(({ input, output }) => ({ input: input ?? -1, output }));
  const verdicts = mayOverwrite(last.program, pairs);
  const inPlace = new Set(candidates.flatMap(({ parameter }, i) => (verdicts[i] ? [parameter] : [])));
  const states = parameters.map((parameter): StatePlan => {
    const buffer = names.current.get(parameter)!;
    const next = names.next.get(parameter);
    if (next === undefined) return { parameter, buffer, next: "", mode: "read-only" };
    if (!inPlace.has(parameter)) return { parameter, buffer, next, mode: "swap" };
    binding.set(next, buffer);
    buffers.delete(next);
    return { parameter, buffer, next: buffer, mode: "in-place" };
  });
  const stages = [...plan.stages.slice(0, -1), { ...last, buffers: binding }];
  return { ...plan, stages, buffers, states };
}
