// Straight-line code for vector expressions: order, registers, spilling.

import { invariant } from "../../../core/errors.ts";
import type { Node, Operation } from "../expression.ts";
import type { Bound, Machine, VectorReg } from "../machine.ts";

/** Looks through reinterpretations, which cost nothing. */
export function strip(node: Node): Node {
  while (node.kind === "bits") node = node.of;
  return node;
}

/** Operands of a node. */
export function argumentsOf(node: Node): readonly Node[] {
  return node.kind === "op" ? node.args : [];
}

/** What computes a node: its own operation, or one that does a comparison and a selection by it. */
function formOf(node: Node & { kind: "op" }): {
  readonly op: Operation | Bound;
  readonly args: readonly Node[];
  readonly count: number;
} {
  const [mask, a, b] = node.args.map(strip);
  if (node.op !== "select" || mask?.kind !== "op" || mask.op !== "lt") return node;
  const [x, y] = mask.args.map(strip) as [Node, Node];
  if (x === b && y === a) return { op: "larger", args: [y, x], count: 0 };
  if (x === a && y === b) return { op: "smaller", args: [x, y], count: 0 };
  return node;
}

/** A value that is wanted, and what to do with the register that holds it. */
export interface Root {
  readonly node: Node;
  use(register: VectorReg): void;
}

interface Held {
  readonly node: Node;
  readonly register: VectorReg;
}

/** The first items of all lists, the second ones, and so on; of those that have the same identity the first. */
function sideBySide<T>(lists: readonly (readonly T[])[], identity: (item: T) => unknown): T[] {
  const found = new Map<unknown, T>();
  const longest = Math.max(...lists.map(({ length }) => length));
  for (let at = 0; at < longest; at++) {
    for (const list of lists) {
      const item = list[at];
      if (item !== undefined && !found.has(identity(item))) found.set(identity(item), item);
    }
  }
  return [...found.values()];
}

/** Where an evaluation may put values, and how it gets those that it does not compute. */
export interface Surroundings {
  readonly vectors: readonly VectorReg[];
  readonly masks: readonly VectorReg[];
  /** Registers that hold nodes for the whole evaluation. */
  readonly fixed: ReadonlyMap<Node, VectorReg>;
  /** True for nodes that `fetch` brings, at any time and as often as needed; constants are always fetched. */
  fetches(node: Node): boolean;
  fetch(node: Node, register: VectorReg): void;
  /** First vector slot of the frame that spilled values may use. */
  readonly spillSlot: number;
  /**
   * Set where a root's use may overwrite memory that other values are fetched from: everything is fetched once, before the first use.
   */
  readonly fetchFirst?: boolean;
}

/**
 * Emits the evaluation of groups of roots, each in its order, side by side: the processor finds in neighbouring instructions what does not wait for
 * each other. Returns how many spill slots it took. Values live in registers as long as they are needed; the
 * one whose next use is farthest makes room. Operations on expressions of any length need three registers only.
 */
export function evaluate(machine: Machine, groups: readonly (readonly Root[])[], around: Surroundings): number {
  const { fixed, fetches, fetch, spillSlot, fetchFirst = false } = around;
  const isMask = (node: Node) => node.type === "mask" && machine.masks.length > 0;
  const fetched = (node: Node) => node.kind === "constant" || (!fetchFirst && fetches(node));
  // A schedule of steps: compute a node, or hand a root to its user. Fetched nodes are brought where they are used.
  type Step = { readonly node: Node; readonly root?: Root };
  const scheduleOf = (roots: readonly Root[]): Step[] => {
    const schedule: Step[] = [];
    const seen = new Set<Node>();
    const compute = (given: Node) => {
      const node = strip(given);
      if (seen.has(node) || fixed.has(node) || fetched(node)) return;
      seen.add(node);
      if (!fetches(node) && node.kind === "op") for (const arg of formOf(node).args) compute(arg);
      schedule.push({ node });
    };
    for (const root of roots) {
      compute(root.node);
      if (!fetchFirst) schedule.push({ node: strip(root.node), root });
    }
    return schedule;
  };
  const steps = sideBySide(groups.map(scheduleOf), ({ node, root }) => root ?? node);
  if (fetchFirst) for (const root of groups.flat()) steps.push({ node: strip(root.node), root });
  const usesOf = new Map<Node, number[]>();
  const readsOf = ({ node, root }: Step) =>
    root !== undefined ? [node] : fetches(node) || node.kind !== "op" ? [] : formOf(node).args.map(strip);
  for (const [at, step] of steps.entries()) {
    for (const read of readsOf(step)) {
      const uses = usesOf.get(read);
      if (uses === undefined) usesOf.set(read, [at]);
      else uses.push(at);
    }
  }
  const nextUse = (node: Node, after: number): number =>
    usesOf.get(node)?.find((at) => at >= after) ?? Number.POSITIVE_INFINITY;

  const freeVectors = [...around.vectors];
  const freeMasks = [...around.masks];
  const held = new Map<Node, VectorReg>();
  const spilled = new Map<Node, number>();
  const freeSlots: number[] = [];
  let slots = 0;

  const release = ({ node, register }: Held) => {
    held.delete(node);
    (isMask(node) ? freeMasks : freeVectors).push(register);
  };
  const evict = (mask: boolean, at: number, keep: ReadonlySet<Node>) => {
    let victim: Held | undefined;
    let farthest = -1;
    for (const [node, register] of held) {
      if (isMask(node) !== mask || keep.has(node)) continue;
      const next = nextUse(node, at);
      // Among equals a value that can be fetched again is the cheaper one to lose.
      const weight = fetched(node) ? next + 0.5 : next;
      if (weight > farthest) [victim, farthest] = [{ node, register }, weight];
    }
    invariant(victim !== undefined, () => "an expression needs more registers than there are");
    if (!fetched(victim.node) && !spilled.has(victim.node) && nextUse(victim.node, at) < Number.POSITIVE_INFINITY) {
      const slot = freeSlots.pop() ?? slots++;
      spilled.set(victim.node, slot);
      if (isMask(victim.node)) machine.saveMask(spillSlot + slot, victim.register);
      else machine.saveVector(spillSlot + slot, victim.register);
    }
    release(victim);
  };
  const allocate = (node: Node, at: number, keep: ReadonlySet<Node>): VectorReg => {
    const mask = isMask(node);
    const free = mask ? freeMasks : freeVectors;
    if (free.length === 0) evict(mask, at, keep);
    const register = free.pop()!;
    held.set(node, register);
    return register;
  };
  /** The register of an operand, brought back from memory where it has none. */
  const operand = (node: Node, at: number, keep: Set<Node>): VectorReg => {
    const known = fixed.get(node) ?? held.get(node);
    keep.add(node);
    if (known !== undefined) return known;
    const register = allocate(node, at, keep);
    const slot = spilled.get(node);
    if (slot !== undefined) {
      if (isMask(node)) machine.loadMask(register, spillSlot + slot);
      else machine.loadVector(register, spillSlot + slot);
    } else if (node.kind === "constant") machine.constant(register, node.bits);
    else {
      invariant(fetched(node), () => "a value of generated code is neither held nor spilled");
      fetch(node, register);
    }
    return register;
  };
  const drop = (node: Node, at: number) => {
    if (nextUse(node, at + 1) < Number.POSITIVE_INFINITY) return;
    const register = held.get(node);
    if (register !== undefined) release({ node, register });
    const slot = spilled.get(node);
    if (slot !== undefined) {
      spilled.delete(node);
      freeSlots.push(slot);
    }
  };

  for (const [at, step] of steps.entries()) {
    const keep = new Set<Node>();
    const reads = readsOf(step);
    const registers = reads.map((node) => operand(node, at, keep));
    if (step.root !== undefined) {
      step.root.use(registers[0]!);
      for (const node of reads) drop(node, at);
      continue;
    }
    const { node } = step;
    if (fetches(node)) {
      fetch(node, allocate(node, at, keep));
      continue;
    }
    invariant(node.kind === "op", () => `a ${node.kind} cannot be computed`);
    const { op, count } = formOf(node);
    const early = new Set(reads.filter((_, i) => machine.clobbersEarly(op, i)));
    // Registers of operands that are dropped now may be taken for the result at once.
    for (const read of reads) if (!early.has(read)) drop(read, at);
    const result = allocate(node, at, keep);
    machine.operation(op, result, registers, count);
    for (const read of early) drop(read, at);
  }
  return slots;
}
