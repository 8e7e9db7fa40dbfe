// Who reads which array: through views, and through arrays that are computed where they are read.

import { type Fused, type Group, rootOf } from "./fuse.ts";
import { type GraphArray, operandsOf } from "./graph.ts";

/** Readers of the arrays that have memory; counts how many of them are still to come while a plan grows. */
export class Readers {
  readonly #fused: Fused;
  readonly #roots = new Map<GraphArray, ReadonlySet<GraphArray>>();
  readonly #left = new Map<GraphArray, number>();

  constructor(fused: Fused) {
    this.#fused = fused;
    for (const { members } of fused.groups)
      for (const member of members) for (const root of this.#rootsOf(member)) this.#count(root, 1);
  }

  /** Roots with memory that an array's computation reads. */
  #rootsOf(array: GraphArray): ReadonlySet<GraphArray> {
    const known = this.#roots.get(array);
    if (known !== undefined) return known;
    const found = new Set<GraphArray>();
    this.#roots.set(array, found);
    const visit = (each: GraphArray) => {
      for (const operand of operandsOf(each)) {
        const root = rootOf(operand);
        const leaf = root.source.kind === "input" || root.source.kind === "constant";
        if (leaf || this.#fused.stored.has(root)) found.add(root);
        else if (!this.#fused.groupOf.has(root)) visit(root);
      }
    };
    visit(array);
    return found;
  }

  #count(root: GraphArray, by: number): void {
    this.#left.set(root, (this.#left.get(root) ?? 0) + by);
  }

  /** Groups that read each root, in their order. */
  groupsByRoot(): Map<GraphArray, Group[]> {
    const readers = new Map<GraphArray, Group[]>();
    for (const group of this.#fused.groups) {
      for (const root of new Set(group.members.flatMap((member) => [...this.#rootsOf(member)]))) {
        const known = readers.get(root);
        if (known === undefined) readers.set(root, [group]);
        else known.push(group);
      }
    }
    return readers;
  }

  /** Somebody reads the root when all groups have run. */
  keep(root: GraphArray): void {
    this.#count(root, 1);
  }

  /** The group has read what it reads. */
  done({ members }: Group): void {
    for (const member of members) for (const root of this.#rootsOf(member)) this.#count(root, -1);
  }

  /** True if nobody but these arrays, whose groups are not done, still reads the root. */
  onlyBy(root: GraphArray, arrays: readonly GraphArray[]): boolean {
    return this.#left.get(root) === arrays.filter((array) => this.#rootsOf(array).has(root)).length;
  }
}
