// Reductions of all but the vector dimension: every vector of columns runs down its rows with the accumulators in registers.

import type { Node } from "../expression.ts";
import type { Extent, Machine, VectorReg } from "../machine.ts";
import { argumentsOf, evaluate, strip } from "./evaluate.ts";
import { emitNest, type FrameSize, type NestSpec, NestWriter, neutral, typeOf } from "./nest.ts";

/**
 * A nest whose reductions run over the dimensions between the enumerated ones and the vector dimension, which is the blocked one. Stores are
 * expressions of the reductions' results, made once a column; the strides of what they touch are 0 in the reduced dimensions.
 */
export type ColumnSpec = NestSpec;

/** Emits the kernel of a column reduction; its arguments are the operands' addresses. */
export function emitColumns(machine: Machine, spec: ColumnSpec): void {
  emitNest(machine, (target) => new ColumnWriter(target, spec));
}

class ColumnWriter extends NestWriter {
  constructor(machine: Machine, spec: ColumnSpec) {
    super(machine, spec, false);
  }

  /** Vectors of columns under way at once, a power of two. */
  get #vectors(): number {
    const budget = Math.floor((this.machine.vectors.length - 6) / this.spec.reductions.length);
    const wanted = Math.min(this.spec.block / this.machine.lanes, budget);
    return wanted < 2 ? 1 : wanted < 4 ? 2 : 4;
  }

  write({ words, vectors }: FrameSize): void {
    const { machine } = this;
    const unroll = this.#vectors;
    machine.begin(words, vectors);
    this.start(unroll);
    machine.set(machine.counter, 0);
    if (unroll > 1) this.sweep(this.unrolledEnd, unroll * machine.lanes, () => this.#section(unroll, "full"));
    this.sweep(this.vectorEnd, machine.lanes, () => this.#section(1, "full"));
    const tail = machine.tail === "single" ? 1 : machine.lanes;
    this.sweep(this.length, tail, () => this.#section(1, "tail"));
    machine.end();
  }

  /** Some vectors of columns, from the first row to the last. */
  #section(steps: number, extent: Extent): void {
    const { machine, spec } = this;
    const { taskDims, dims, operands, reductions, stores } = spec;
    const vectors = [...machine.vectors];
    const accumulators = reductions.map(({ kind, value }) =>
      Array.from({ length: steps }, () => {
        const register = vectors.pop()!;
        machine.constant(register, neutral[typeOf(value)][kind]);
        return register;
      }),
    );
    const fetch = (node: Node, register: VectorReg, offset: number) => {
      const { index } = node as Node & { kind: "operand" };
      const { dtype, strides } = operands[index]!;
      if (strides.at(-1) === 0) machine.loadAll(register, dtype, this.address(index, 0, false));
      else machine.load(register, dtype, this.address(index, offset, true), extent);
    };
    const around = { vectors, masks: machine.masks, spillSlot: this.used.vectors };
    let spills = 0;
    this.loops(taskDims, dims.length - 1, () => {
      for (let step = 0; step < steps; step++) {
        const roots = reductions.map(({ kind, value }, i) => ({
          node: value,
          use: (register: VectorReg) =>
            machine.accumulate(kind, accumulators[i]![step]!, register, typeOf(value), extent),
        }));
        const slots = evaluate(machine, [roots], {
          ...around,
          fixed: new Map(),
          fetches: (node) => node.kind === "operand",
          fetch: (node, register) => fetch(node, register, step * machine.lanes),
        });
        spills = Math.max(spills, slots);
      }
    });
    for (let step = 0; step < steps; step++) {
      const offset = step * machine.lanes;
      const results = resultLeaves(stores.map(({ value }) => value));
      const roots = stores.map(({ operand, value }) => ({
        node: value,
        use: (register: VectorReg) =>
          machine.store(register, operands[operand]!.dtype, this.address(operand, offset, true), extent),
      }));
      const slots = evaluate(machine, [roots], {
        ...around,
        fixed: new Map([...results].map(([node, i]) => [node, accumulators[i]![step]!])),
        fetches: (node) => node.kind === "operand",
        fetch: (node, register) => fetch(node, register, offset),
        fetchFirst: spec.inPlace,
      });
      spills = Math.max(spills, slots);
    }
    this.vectorSlots(spills);
  }
}

/** Leaves that stand for reductions' results, with the reduction's number. */
function resultLeaves(roots: readonly Node[]): Map<Node, number> {
  const found = new Map<Node, number>();
  const seen = new Set<Node>();
  const visit = (given: Node) => {
    const node = strip(given);
    if (seen.has(node)) return;
    seen.add(node);
    if (node.kind === "operand" && node.index < 0) found.set(node, -1 - node.index);
    for (const arg of argumentsOf(node)) visit(arg);
  };
  for (const root of roots) visit(root);
  return found;
}
