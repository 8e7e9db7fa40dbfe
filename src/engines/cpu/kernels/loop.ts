// Fused loops: elementwise expressions and reductions of rows, in one pass over memory wherever the data flow allows it.

import { dtypeBytes } from "../../../core/dtype.ts";
import { invariant } from "../../../core/errors.ts";
import type { Node } from "../expression.ts";
import type { Address, Extent, Machine, ReduceKind, VectorReg } from "../machine.ts";
import { argumentsOf, evaluate, type Root, type Surroundings, strip } from "./evaluate.ts";
import { emitNest, type FrameSize, type LoopStore, type NestSpec, NestWriter, neutral, typeOf } from "./nest.ts";

/** A nest whose reductions run over the vector dimension, a row: what depends on a row's result is computed in a further pass over the row. */
export type LoopSpec = NestSpec;

/** Bytes of a row from which a pass that computes brings memory of the next ones closer: shorter rows are in the first-level cache anyway. */
const longRowBytes = 32 * 1024;

/**
 * Operations of a pass from which on the processor, which looks some hundred instructions ahead, comes to the loads too late and sees too few
 * vectors: it is told to fetch operands early, and handles some vectors side by side.
 */
const computingOperations = 10;

/** Vectors that a pass of many operations handles side by side. */
const together = 2;

/** How far ahead: across the border of a page, at which the processor's own prefetching stops. */
const bytesAhead = 2048;

/** Vector registers that an expression needs beside a pass's accumulators. */
const registersLeft = 7;

/** Operations that cost about as much as a load: computing such a value again is cheaper than keeping a row of it. */
const cheapOperations = 4;

/** Bytes of a thread's scratch that the loop needs: rows of values that a later phase reads. */
export function loopScratch(spec: LoopSpec): number {
  return new Phases(spec).kept.size * rowBytes(spec.dims.at(-1)!);
}

function rowBytes(columns: number): number {
  return Math.ceil(columns / 16) * 64;
}

/** True if the operand is stored after everything that the loop reads of a row has been read. */
export function loopStoresLast(spec: LoopSpec, operand: number): boolean {
  const phases = new Phases(spec);
  return spec.stores.every(({ operand: each, value }) => {
    if (each !== operand) return true;
    return phases.of(value) >= phases.count - (phases.isRowStore(operand) ? 0 : 1);
  });
}

/** Which pass over a row computes what: a value that depends on a reduction's result comes in the pass after it. */
class Phases {
  readonly #spec: LoopSpec;
  readonly #phase = new Map<Node, number>();
  readonly #isRow = new Map<Node, boolean>();
  /** Passes over a row. */
  readonly count: number;
  /** Values of an earlier pass that a later one reads from scratch, with their row's number. */
  readonly kept = new Map<Node, number>();

  constructor(spec: LoopSpec) {
    this.#spec = spec;
    const elements = [...spec.reductions, ...spec.stores.filter(({ operand }) => !this.isRowStore(operand))];
    this.count = Math.max(0, ...elements.map(({ value }) => this.of(value) + 1));
    for (let phase = 1; phase < this.count; phase++)
      for (const node of this.elementRoots(phase)) this.#keep(node, phase);
  }

  /** True for values that are the same in a whole row. */
  isRow(given: Node): boolean {
    const node = strip(given);
    let known = this.#isRow.get(node);
    if (known !== undefined) return known;
    if (node.kind === "constant") known = true;
    else if (node.kind === "operand") {
      known = node.index < 0 || this.isRowStore(node.index);
    } else known = argumentsOf(node).every((arg) => this.isRow(arg));
    this.#isRow.set(node, known);
    return known;
  }

  /** The pass in which a value can be computed; row values are computed before the pass of that number. */
  of(given: Node): number {
    const node = strip(given);
    let known = this.#phase.get(node);
    if (known !== undefined) return known;
    if (node.kind === "operand") {
      known = node.index < 0 ? this.of(this.#spec.reductions[-1 - node.index]!.value) + 1 : 0;
    } else known = Math.max(0, ...argumentsOf(node).map((arg) => this.of(arg)));
    this.#phase.set(node, known);
    return known;
  }

  /** What the pass must compute element by element. */
  elementRoots(phase: number): Node[] {
    const { reductions, stores } = this.#spec;
    const elements = [...reductions, ...stores.filter(({ operand }) => !this.isRowStore(operand))];
    return elements.map(({ value }) => value).filter((value) => this.of(value) === phase);
  }

  /** True for memory with one element a row. */
  isRowStore(operand: number): boolean {
    return this.#spec.operands[operand]!.strides.at(-1) === 0;
  }

  /** Keeps what `given`, computed in `phase`, needs from earlier passes and is dear to compute again. */
  #keep(given: Node, phase: number): void {
    const seen = new Set<Node>();
    const visit = (wrapped: Node) => {
      const node = strip(wrapped);
      if (seen.has(node) || node.kind !== "op" || this.isRow(node)) return;
      seen.add(node);
      if (this.of(node) < phase && node.type !== "mask" && !this.#isCheap(node)) {
        if (!this.kept.has(node)) this.kept.set(node, this.kept.size);
        return;
      }
      for (const arg of node.args) visit(arg);
    };
    visit(given);
  }

  #isCheap(node: Node): boolean {
    let operations = 0;
    const seen = new Set<Node>();
    const visit = (wrapped: Node) => {
      const at = strip(wrapped);
      if (seen.has(at) || at.kind !== "op" || this.isRow(at)) return;
      seen.add(at);
      operations += at.op === "div" || at.op === "sqrt" ? cheapOperations + 1 : 1;
      if (operations <= cheapOperations) for (const arg of at.args) visit(arg);
    };
    visit(node);
    return operations <= cheapOperations;
  }
}

/** Expressions of several vectors: each has nodes of its own but for what is the same in all of them. */
class Copies {
  readonly #shared: (node: Node) => boolean;
  readonly #copies = new Map<number, Map<Node, Node>>();
  readonly #originals = new Map<Node, { readonly node: Node; readonly step: number }>();

  constructor(shared: (node: Node) => boolean) {
    this.#shared = shared;
  }

  /** A node as the vector of the step has it. */
  of(given: Node, step: number): Node {
    const node = strip(given);
    if (this.#shared(node)) return node;
    let copies = this.#copies.get(step);
    if (copies === undefined) this.#copies.set(step, (copies = new Map()));
    let copy = copies.get(node);
    if (copy === undefined) {
      copy = node.kind === "op" ? { ...node, args: node.args.map((arg) => this.of(arg, step)) } : { ...node };
      copies.set(node, copy);
      this.#originals.set(copy, { node, step });
    }
    return copy;
  }

  /** What a node is a copy of, and for which step. */
  original(node: Node): { readonly node: Node; readonly step: number } {
    return this.#originals.get(node) ?? { node, step: 0 };
  }
}

/** The mask that all stores have. */
function commonMask(stores: readonly LoopStore[]): Node | undefined {
  const where = stores[0]?.where;
  return stores.every((store) => store.where === where) ? where : undefined;
}

/** Emits the kernel of a loop; its arguments are the operands' addresses. */
export function emitLoop(machine: Machine, spec: LoopSpec): void {
  emitNest(machine, (target) => new LoopWriter(target, spec));
}

class LoopWriter extends NestWriter {
  readonly #phases: Phases;
  /** Frame slots of row values. */
  readonly #rowSlots = new Map<Node, number>();

  constructor(machine: Machine, spec: LoopSpec) {
    const phases = new Phases(spec);
    super(machine, spec, phases.kept.size > 0);
    this.#phases = phases;
  }

  write({ words, vectors }: FrameSize): void {
    this.machine.begin(words, vectors);
    this.start(this.#unroll);
    this.loops(this.spec.taskDims, this.spec.dims.length - 1, () => this.#row());
    if (this.spec.stores.some(({ streams }) => streams)) this.machine.fence();
    this.machine.end();
  }

  /** Most vectors that a pass's loop handles at once: reductions need independent accumulators to hide their latency. */
  get #unroll(): number {
    const { dims, reductions } = this.spec;
    if (dims.at(-1)! < 4 * this.machine.lanes) return 1;
    return reductions.length === 0 ? together : 4;
  }

  #scratchAddress(row: number, offset: number): Address {
    const start = (row * rowBytes(this.columns)) / 4;
    return { base: this.scratch!, index: this.machine.counter, offset: start + offset };
  }

  /** One row: between passes row values, in passes elements. */
  #row(): void {
    const { stores, reductions } = this.spec;
    const phases = this.#phases;
    for (let phase = 0; phase <= phases.count; phase++) {
      // Row values that can be computed now and are wanted: stored ones, and what this pass's elements and masks use.
      const due = stores.filter(({ value }) => phases.of(value) === phase);
      const rowStores = due.filter(({ operand }) => phases.isRowStore(operand));
      const masks = due.flatMap(({ where }) => where ?? []);
      const wanted = this.#rowOperands([...phases.elementRoots(phase), ...masks]);
      this.#rowValues(rowStores, wanted);
      const elements = due.filter(({ operand }) => !phases.isRowStore(operand));
      const sums = [...reductions.entries()].filter(([, { value }]) => phases.of(value) === phase);
      const keeps = [...phases.kept].filter(([node]) => phases.of(node) === phase);
      if (elements.length + sums.length + keeps.length === 0) continue;
      const wantedSums = sums.map(([i, { kind, value }]) => ({ kind, value, result: -1 - i }));
      // More accumulators than registers take more passes; what is stored is stored in the last one.
      const most = this.machine.vectors.length - registersLeft;
      while (wantedSums.length > most) this.#pass(phase, [], wantedSums.splice(0, most), []);
      this.#pass(phase, elements, wantedSums, keeps);
    }
  }

  /** Row values at the border of element expressions, memory with one element a row included, without constants. */
  #rowOperands(roots: readonly Node[]): Node[] {
    const found = new Set<Node>();
    const seen = new Set<Node>();
    const visit = (given: Node) => {
      const node = strip(given);
      if (seen.has(node)) return;
      seen.add(node);
      if (node.kind === "constant") return;
      if (this.#phases.isRow(node)) found.add(node);
      else for (const arg of argumentsOf(node)) visit(arg);
    };
    for (const root of roots) visit(root);
    for (const node of this.#phases.kept.keys()) {
      // A kept value is computed once, in its own pass.
      if (roots.length > 0 && this.#phases.of(node) === this.#phases.of(roots[0]!))
        for (const arg of argumentsOf(node)) visit(arg);
    }
    return [...found];
  }

  /** Computes row values into frame slots, and stores those that leave. */
  #rowValues(stores: readonly { readonly operand: number; readonly value: Node }[], wanted: readonly Node[]): void {
    const machine = this.machine;
    const roots: Root[] = stores.map(({ operand, value }) => ({
      node: value,
      use: (register) =>
        machine.storeFirst(register, this.spec.operands[operand]!.dtype, this.address(operand, 0, false)),
    }));
    for (const node of wanted) {
      if (this.#rowSlots.has(node)) continue;
      const slot = this.vectorSlots(1);
      roots.push({
        node,
        use: (register) => {
          if (node.type === "mask") machine.saveMask(slot, register);
          else machine.saveVector(slot, register);
          this.#rowSlots.set(node, slot);
        },
      });
    }
    if (roots.length === 0) return;
    const slots = evaluate(machine, [roots], {
      vectors: machine.vectors,
      masks: machine.masks,
      fixed: new Map(),
      fetches: (node) => node.kind === "operand" || this.#rowSlots.has(node),
      fetch: (node, register) => this.#fetchRow(node, register),
      spillSlot: this.used.vectors,
      fetchFirst: this.spec.inPlace,
    });
    this.vectorSlots(slots);
  }

  #fetchRow(node: Node, register: VectorReg): void {
    const machine = this.machine;
    const slot = this.#rowSlots.get(node);
    if (slot !== undefined) {
      if (node.type === "mask") machine.loadMask(register, slot);
      else machine.loadVector(register, slot);
      return;
    }
    invariant(node.kind === "operand", () => "a row value of generated code is not there");
    machine.loadAll(register, this.spec.operands[node.index]!.dtype, this.address(node.index, 0, false));
  }

  #pass(
    phase: number,
    stores: readonly LoopStore[],
    sums: readonly { readonly kind: ReduceKind; readonly value: Node; readonly result: number }[],
    keeps: readonly (readonly [Node, number])[],
  ): void {
    const machine = this.machine;
    const { operands } = this.spec;
    const [skipped, where] = [machine.label(), sums.length + keeps.length === 0 ? commonMask(stores) : undefined];
    const skipsRow = where !== undefined && this.#phases.isRow(where);
    const skipsVectors = where !== undefined && !skipsRow;
    if (skipsRow) {
      const register = (machine.masks[0] ?? machine.vectors[0])!;
      this.#fetchRow(where, register);
      machine.jumpIfNone(register, skipped);
    }
    const roots = [
      ...(where === undefined ? [] : [where]),
      ...stores.map(({ value }) => value),
      ...sums.map(({ value }) => value),
      ...keeps.map(([node]) => node),
    ];
    const keptBefore = (node: Node) => this.#phases.kept.has(node) && this.#phases.of(node) < phase;
    const { loads, operations } = this.#workOf(roots, keptBefore);
    const computes = operations >= computingOperations;
    const registers = (machine.vectors.length - registersLeft) / sums.length;
    const wanted = sums.length === 0 && !computes ? 1 : this.#unroll;
    const unroll = Math.min(wanted, registers < 2 ? 1 : registers < 4 ? 2 : 4);
    const vectors = [...machine.vectors];
    const accumulators = sums.map(() => Array.from({ length: unroll }, () => vectors.pop()!));
    for (const [i, { kind, value }] of sums.entries()) {
      const bits = neutral[typeOf(value)][kind];
      for (const register of accumulators[i]!) machine.constant(register, bits);
    }
    // Constants and row values stay in registers while enough of them are left for the expression.
    const fixed = new Map<Node, VectorReg>();
    for (const node of this.#leavesOf(roots, keptBefore)) {
      if (vectors.length <= 10) break;
      if (node.type === "mask" && machine.masks.length > 0) continue;
      const register = vectors.pop()!;
      if (node.kind === "constant") machine.constant(register, node.bits);
      else this.#fetchRow(node, register);
      fixed.set(node, register);
    }
    let spills = 0;
    // The second pass computes most, from memory that the first has brought: meanwhile the next row and the results' lines come closer.
    const { dims } = this.spec;
    const ahead = phase === 1 && this.columns * 4 >= longRowBytes && dims.length > 1;
    const bring = (offset: number) => {
      const stored = new Set(this.spec.stores.map(({ operand }) => operand));
      const streamed = new Set(this.spec.stores.flatMap(({ operand, streams }) => (streams ? [operand] : [])));
      for (const [i, { dtype, strides }] of operands.entries()) {
        if (strides.at(-1) === 0 || streamed.has(i)) continue;
        const bytes = stored.has(i) ? 0 : strides.at(-2)! * dtypeBytes[dtype];
        if (stored.has(i) || bytes !== 0) machine.prefetch(dtype, this.address(i, offset, true), bytes, stored.has(i));
      }
    };
    const rootsOf = (step: number, extent: Extent, aligned: boolean): Root[] => {
      const offset = step * machine.lanes;
      return [
        ...keeps.map(
          ([node, row]): Root => ({
            node,
            use: (register) => {
              invariant(node.type !== "mask", () => "a mask is kept in scratch");
              machine.store(register, "fp32", this.#scratchAddress(row, offset), extent);
            },
          }),
        ),
        ...sums.map(
          ({ kind, value }, i): Root => ({
            node: value,
            use: (register) => machine.accumulate(kind, accumulators[i]![step]!, register, typeOf(value), extent),
          }),
        ),
        ...stores.map(
          ({ operand, value, streams = false }): Root => ({
            node: value,
            use: (register) => {
              const [{ dtype }, to] = [operands[operand]!, this.address(operand, offset, true)];
              if (aligned && streams) machine.stream(register, dtype, to);
              else machine.store(register, dtype, to, extent);
            },
          }),
        ),
      ];
    };
    /** The vectors of some steps, side by side. */
    const body = (steps: readonly number[], extent: Extent, aligned: boolean) => {
      for (const step of extent === "full" ? steps : []) {
        const offset = step * machine.lanes;
        if (ahead) bring(offset);
        else if (computes)
          for (const i of loads) machine.prefetch(operands[i]!.dtype, this.address(i, offset, true), bytesAhead, false);
      }
      const copies = new Copies((node) => node.kind === "constant" || this.#phases.isRow(node));
      const around: Surroundings = {
        vectors,
        masks: machine.masks,
        fixed,
        fetches: (copy) => {
          const { node } = copies.original(copy);
          return node.kind === "operand" || this.#rowSlots.has(node) || keptBefore(node);
        },
        fetch: (copy, register) => {
          const { node, step } = copies.original(copy);
          const offset = step * machine.lanes;
          if (keptBefore(node))
            machine.load(register, "fp32", this.#scratchAddress(this.#phases.kept.get(node)!, offset), extent);
          else if (this.#phases.isRow(node)) this.#fetchRow(node, register);
          else
            machine.load(
              register,
              operands[(node as { index: number }).index]!.dtype,
              this.address((node as { index: number }).index, offset, true),
              extent,
            );
        },
        spillSlot: this.used.vectors,
        fetchFirst: this.spec.inPlace,
      };
      const emit = (groups: readonly (readonly Root[])[]) => {
        spills = Math.max(spills, evaluate(machine, groups, around));
      };
      const next = machine.label();
      if (skipsVectors)
        emit(steps.map((step) => [{ node: copies.of(where, step), use: (mask) => machine.jumpIfNone(mask, next) }]));
      emit(
        steps.map((step) =>
          rootsOf(step, extent, aligned).map(({ node, use }) => ({ node: copies.of(node, step), use })),
        ),
      );
      machine.bind(next);
    };
    const loop = (end: number, steps: number, extent: Extent, aligned = false) =>
      this.sweep(end, extent === "full" ? steps * machine.lanes : 1, () => {
        // A vector that may be skipped is alone.
        const width = computes && !skipsVectors && steps % together === 0 ? together : 1;
        for (let step = 0; step < steps; step += width)
          body(
            Array.from({ length: width }, (_, i) => step + i),
            extent,
            aligned,
          );
      });
    const vectorsOf = (aligned: boolean) => {
      if (unroll > 1) loop(this.unrolledEnd, unroll, "full", aligned);
      loop(this.vectorEnd, 1, "full", aligned);
    };
    machine.set(machine.counter, 0);
    const streamed = stores.filter(({ streams }) => streams);
    const [unaligned, swept] = [machine.label(), machine.label()];
    if (streamed.length > 0) {
      for (const { operand } of streamed) machine.jumpUnlessAligned(this.address(operand, 0, false), unaligned);
      vectorsOf(true);
      machine.jump(swept);
    }
    machine.bind(unaligned);
    vectorsOf(false);
    machine.bind(swept);
    const finish = () => {
      for (const [i, { kind, value }] of sums.entries()) {
        const [first, ...rest] = accumulators[i] as [VectorReg, ...VectorReg[]];
        for (const register of rest) machine.accumulate(kind, first, register, typeOf(value), "full");
        machine.reduceLanes(kind, first, typeOf(value));
      }
    };
    if (machine.tail === "single") {
      finish();
      loop(this.length, 1, "tail");
      for (const [i] of sums.entries()) machine.spread(accumulators[i]![0]!);
    } else {
      const after = machine.label();
      machine.jumpIfCounterNotBelow(this.length, after);
      body([0], "tail", false);
      machine.bind(after);
      finish();
    }
    this.vectorSlots(spills);
    for (const [i, { result }] of sums.entries()) {
      const slot = this.vectorSlots(1);
      machine.saveVector(slot, accumulators[i]![0]!);
      for (const node of this.#resultNodes(result)) this.#rowSlots.set(node, slot);
    }
    machine.bind(skipped);
  }

  /** Nodes that stand for a reduction's result. */
  #resultNodes(index: number): Node[] {
    const found = new Set<Node>();
    const seen = new Set<Node>();
    const visit = (given: Node) => {
      const node = strip(given);
      if (seen.has(node)) return;
      seen.add(node);
      if (node.kind === "operand" && node.index === index) found.add(node);
      for (const arg of argumentsOf(node)) visit(arg);
    };
    for (const { value } of [...this.spec.stores, ...this.spec.reductions]) visit(value);
    return [...found];
  }

  /** What expressions take in the inner loop: operands that are loaded element by element, and operations. */
  #workOf(
    roots: readonly Node[],
    keptBefore: (node: Node) => boolean,
  ): { readonly loads: readonly number[]; readonly operations: number } {
    const [loads, seen] = [new Set<number>(), new Set<Node>()];
    let operations = 0;
    const visit = (given: Node) => {
      const node = strip(given);
      if (seen.has(node) || this.#phases.isRow(node) || keptBefore(node)) return;
      seen.add(node);
      if (node.kind === "operand") loads.add(node.index);
      else if (node.kind === "op") operations++;
      for (const arg of argumentsOf(node)) visit(arg);
    };
    for (const root of roots) visit(root);
    return { loads: [...loads], operations };
  }

  /** Constants and row values that an expression reads in its inner loop, most used first. */
  #leavesOf(roots: readonly Node[], keptBefore: (node: Node) => boolean): Node[] {
    const uses = new Map<Node, number>();
    const seen = new Set<Node>();
    const visit = (given: Node) => {
      const node = strip(given);
      if (node.kind === "constant" || this.#phases.isRow(node)) {
        uses.set(node, (uses.get(node) ?? 0) + 1);
        return;
      }
      if (seen.has(node) || keptBefore(node)) return;
      seen.add(node);
      for (const arg of argumentsOf(node)) visit(arg);
    };
    for (const root of roots) visit(root);
    return [...uses].sort((a, b) => b[1] - a[1]).map(([node]) => node);
  }
}
