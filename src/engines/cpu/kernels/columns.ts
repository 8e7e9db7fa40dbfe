// Reductions of all but the vector dimension: every vector of columns runs down its rows with the accumulators in registers.

import { sizeOf } from "../../../core/shape.ts";
import type { Node } from "../expression.ts";
import type { Extent, Machine, VectorReg } from "../machine.ts";
import { argumentsOf, evaluate, strip } from "./evaluate.ts";
import { emitNest, type FrameSize, type NestSpec, NestWriter, neutral, typeOf } from "./nest.ts";

/**
 * A nest whose reductions run over the dimensions between the first `outer` ones and the vector dimension, which is the blocked one. Stores are
 * expressions of the reductions' results, made once a column; the strides of what they touch are 0 in the reduced dimensions.
 */
export type ColumnSpec = NestSpec & { readonly outer: number };

/** Rows of a reduction up to which its code has no loop: the elements of a kernel of 3 x 3 or 4 x 4. */
const straightRows = 16;

/** Emits the kernel of a column reduction; its arguments are the operands' addresses. */
export function emitColumns(machine: Machine, spec: ColumnSpec): void {
  emitNest(machine, (target) => new ColumnWriter(target, spec));
}

class ColumnWriter extends NestWriter {
  readonly #outer: number;

  constructor(machine: Machine, spec: ColumnSpec) {
    super(machine, spec, false);
    this.#outer = spec.outer;
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
    this.loops(this.spec.taskDims, this.#outer, () => {
      machine.set(machine.counter, 0);
      if (unroll > 1) this.sweep(this.unrolledEnd, unroll * machine.lanes, () => this.#section(unroll, "full"));
      this.sweep(this.vectorEnd, machine.lanes, () => this.#section(1, "full"));
      const tail = machine.tail === "single" ? 1 : machine.lanes;
      this.sweep(this.length, tail, () => this.#section(1, "tail"));
    });
    machine.end();
  }

  /** `body` for every row that is reduced, with the operands' elements from the row that the pointers are at. */
  #rows(body: (elements: (strides: readonly number[]) => number) => void): void {
    const { dims, operands } = this.spec;
    const reduced = dims.slice(this.#outer, -1);
    const far = operands.some(({ strides }) =>
      reduced.some((extent, i) => Math.abs(strides[this.#outer + i]! * extent) > 2 ** 24),
    );
    if (sizeOf(reduced) > straightRows || far) return this.loops(this.#outer, dims.length - 1, () => body(() => 0));
    for (let row = 0; row < sizeOf(reduced); row++) {
      const at: number[] = [];
      for (let axis = reduced.length - 1, rest = row; axis >= 0; axis--) {
        at.unshift(rest % reduced[axis]!);
        rest = Math.floor(rest / reduced[axis]!);
      }
      body((strides) => at.reduce((sum, index, i) => sum + index * strides[this.#outer + i]!, 0));
    }
  }

  /** Some vectors of columns, from the first row to the last. */
  #section(steps: number, extent: Extent): void {
    const { machine, spec } = this;
    const { operands, reductions, stores } = spec;
    const vectors = [...machine.vectors];
    const accumulators = reductions.map(({ kind, value }) =>
      Array.from({ length: steps }, () => {
        const register = vectors.pop()!;
        machine.constant(register, neutral[typeOf(value)][kind]);
        return register;
      }),
    );
    const fetch = (node: Node, register: VectorReg, offset: number, row: (strides: readonly number[]) => number) => {
      const { index } = node as Node & { kind: "operand" };
      const { dtype, strides } = operands[index]!;
      if (strides.at(-1) === 0) machine.loadAll(register, dtype, this.address(index, row(strides), false));
      else machine.load(register, dtype, this.address(index, offset + row(strides), true), extent);
    };
    const around = { vectors, masks: machine.masks, spillSlot: this.used.vectors };
    let spills = 0;
    this.#rows((row) => {
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
          fetch: (node, register) => fetch(node, register, step * machine.lanes, row),
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
        fetch: (node, register) => fetch(node, register, offset, () => 0),
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
