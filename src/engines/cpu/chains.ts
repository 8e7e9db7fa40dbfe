// Chains: products whose elements a loop takes up at once, block by block of rows or columns, and a product that takes up the loop's rows, as in
// attention. One step computes all of it, a block at a time; what nobody else reads never leaves the thread's scratch memory.

import { dtypeBytes } from "../../core/dtype.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Product } from "./compose.ts";
import { type Fused, type Group, rootOf } from "./fuse.ts";
import { contiguous, type GraphArray, operandsOf, reshapeStrides, type SourceOf } from "./graph.ts";
import type { Layout } from "./layout.ts";
import type { Nest, Nests, Touched } from "./nests.ts";

/** Groups that one step computes. */
export interface Chain {
  /** Products that the loop reads element by element. */
  readonly firsts: readonly Group[];
  readonly loop: Group;
  /** A product of the loop's rows with another matrix. */
  readonly second: Group | undefined;
  /** Arrays that nobody else reads. */
  readonly inner: ReadonlySet<GraphArray>;
  /** False: only worth one step if the last product does the loop's work before it stores. */
  readonly inBlocks: boolean;
}

/** A chain's groups in the order of their computation. */
export function groupsOf({ firsts, loop, second }: Omit<Chain, "inner" | "inBlocks">): readonly Group[] {
  return [...firsts, loop, ...(second === undefined ? [] : [second])];
}

/** Arrays that a loop without reductions touches, if they are to be computed block by block with a product. */
const mapBytes = 1 << 20;
/** A right-hand matrix that every block may read again. */
const smallBytes = 1 << 19;

/** What chains are found in. */
export interface FusedGraph {
  readonly fused: Fused;
  readonly layout: Layout;
  readonly nests: Nests;
  readonly outputs: ReadonlySet<GraphArray>;
  /** Groups that read an array, in their order. */
  readonly readers: ReadonlyMap<GraphArray, readonly Group[]>;
}

/** Finds the chains of fused groups, by the groups where they run. */
export function findChains({ fused, layout, nests, outputs, readers }: FusedGraph): Map<Group, Chain> {
  const position = new Map(fused.groups.map((group, at) => [group, at]));
  const at = (group: Group) => position.get(group)!;
  const taken = new Set<Group>();
  const chains = new Map<Group, Chain>();
  /** Row-major memory of its own. */
  const plain = (array: GraphArray) => {
    const whole = contiguous(array.shape);
    return !layout.isHosted(array) && layout.stridesOf(array).every((stride, axis) => stride === whole[axis]);
  };
  for (const loop of fused.groups) {
    if (loop.kind !== "loop" || taken.has(loop)) continue;
    const { touched, spec } = nests.of(loop);
    const whole = contiguous(spec.dims);
    const stored = new Set(spec.stores.map(({ operand }) => operand));
    const readElsewhere = (array: GraphArray, groups: readonly Group[]) =>
      (readers.get(array) ?? []).filter((group) => !groups.includes(group));
    const products = touched.filter(({ access: { root, offset }, strides, index }) => {
      const group = fused.groupOf.get(root);
      if (stored.has(index) || root.source.kind !== "matmul" || group === undefined || taken.has(group)) return false;
      const [rows, columns] = root.shape.slice(-2) as [number, number];
      const elementwise = offset === 0 && strides.every((stride, axis) => stride === whole[axis]);
      const once = touched.filter(({ access }) => access.root === root).length === 1;
      const fits = root.size === sizeOf(spec.dims) && rows > 1 && columns > 1;
      const byRow = loop.columns === 0 || loop.columns === columns;
      // The product runs no earlier than the loop.
      const late = readElsewhere(root, [loop]).every((reader) => at(reader) > at(loop));
      return elementwise && once && fits && byRow && plain(root) && late;
    });
    const shape = products.at(-1)?.access.root.shape;
    if (shape === undefined) continue;
    const firsts = products.map(({ access }) => access.root).filter((root) => root.shape.join() === shape.join());
    const groups = firsts.map((root) => fused.groupOf.get(root)!);
    let second: Group | undefined;
    let anchor = loop;
    // Larger arrays stream through a loop of their own at least as fast as block by block.
    const bytes = touched.reduce((all, { access: { root } }) => all + root.size * dtypeBytes[root.dtype], 0);
    // A constant is packed once, for the whole product.
    const packs = (group: Group) => isMatrixProduct(group) && rightOf(group).source.kind !== "constant";
    const inBlocks = groups.every(packs) && (loop.columns > 0 || bytes <= mapBytes);
    if (loop.columns > 0 && !inBlocks) continue;
    if (loop.columns > 0) {
      second = loop.members
        .filter((member) => fused.stored.has(member) && member.size === sizeOf(shape) && plain(member))
        .flatMap((member) => (readers.get(member) ?? []).filter((group) => multipliesRows(group, member)))
        .find((group) => !taken.has(group) && ![...firsts, ...loop.members].includes(rightOf(group)));
      // Blocks of rows read the whole right-hand matrices again and again: those of a head, not weights.
      if (second === undefined || ![...groups, second].every(isSmallOfBatch)) continue;
      // The second product runs with the loop if its other operand is there by then; else the loop waits for it.
      const maker = fused.groupOf.get(rightOf(second));
      if (maker !== undefined && at(maker) > at(loop)) anchor = second;
    }
    const chain = groupsOf({ firsts: groups, loop, second });
    const results = [...firsts, ...loop.members];
    // Nobody else may want a result before the chain has run.
    const early = (array: GraphArray) => readElsewhere(array, chain).some((reader) => at(reader) < at(anchor));
    if (results.some(early)) continue;
    const inner = new Set(
      results.filter(
        (array) => fused.stored.has(array) && !outputs.has(array) && readElsewhere(array, chain).length === 0,
      ),
    );
    // Later chains see where this one's groups now run.
    const place = at(anchor);
    for (const group of chain) {
      taken.add(group);
      position.set(group, place);
    }
    chains.set(anchor, { firsts: groups, loop, second, inner, inBlocks });
  }
  return chains;
}

/** True for products that sum over one dimension. */
function isMatrixProduct({ members }: Group): boolean {
  return (members[0]!.source as SourceOf<"matmul">).inner === 1;
}

/** True for a product whose left operand is the array, as it is. */
function multipliesRows(group: Group, array: GraphArray): boolean {
  const [member] = group.members as [GraphArray];
  const { source } = member;
  if (source.kind !== "matmul" || source.inner > 1 || source.transposeX) return false;
  let x = source.x;
  while (x.source.kind === "view" && x.source.view.kind === "reshape") x = x.source.of;
  return x === array && source.x.shape.at(-1) === array.shape.at(-1);
}

/** The array behind a product's right operand. */
function rightOf({ members }: Group): GraphArray {
  return rootOf((members[0]!.source as SourceOf<"matmul">).y);
}

/** True for a product with another small right operand for every batch element. */
function isSmallOfBatch({ members }: Group): boolean {
  const { y } = members[0]!.source as SourceOf<"matmul">;
  const matrix = y.shape.at(-1)! * y.shape.at(-2)!;
  return y.size > matrix && matrix * dtypeBytes[y.dtype] <= smallBytes;
}

/** How far an additive mask is below its row's maximum, at least, where a position may not be seen: exp of it is 0 beside any score that fp16 can hold half of. */
const unseen = -30000;

/** For every row of a matrix, the same in every batch element, the column from which on all is 0. */
export interface RowEnds {
  readonly columns: number;
  readonly ends: readonly number[];
}

/**
 * Where the rows of all that a chain's loop stores end, as in causal attention: a softmax of scores plus a constant mask, and products with what
 * such a softmax gives, or with what is `known` to end. Undefined where something does not end, or nothing is known.
 */
export function endsOfRows(
  { firsts, loop: { columns, members }, inner }: Chain,
  { touched, spec }: Nest,
  product: Product,
  known: ReadonlyMap<GraphArray, RowEnds>,
): RowEnds | undefined {
  // The first products are computed as far as the rows go, so nobody else may read them.
  if (columns === 0 || !firsts.every((group) => inner.has(group.members[0]!))) return undefined;
  const size = sizeOf(spec.dims);
  const zero = new Set<GraphArray>();
  let masked: GraphArray | undefined;
  let result = knownEnds(touched, spec.dims, product, known, (array) => zero.add(array));
  for (const member of members) {
    if (result !== undefined) break;
    result = maskedEnds(member, touched, spec.dims, product);
    if (result !== undefined) masked = member;
  }
  if (result === undefined) return undefined;
  const maxima = new Set<GraphArray>();
  /** Sums of what is 0 there, and their inverses. */
  const sums = new Set<GraphArray>();
  for (const member of members) {
    const { source, operator } = member;
    if (source.kind === "reduce") {
      const root = rootOf(source.x);
      if (source.fold === "max" && root === masked) maxima.add(member);
      else if (source.fold === "sum" && zero.has(root)) sums.add(member);
      else return undefined; // counts what would be left out
    } else if (member.size === size) {
      const operands = operandsOf(member).map(rootOf) as [GraphArray, GraphArray];
      const powers = operator === "softmax" && operands[0] === masked && maxima.has(operands[1]);
      const scaled = operator === "mul" && operands.length === 2 && operands.some((operand) => zero.has(operand));
      const shares = operator === "softmax" && zero.has(operands[0]) && sums.has(operands[1]);
      if (powers || scaled || shares) zero.add(member);
    } else if (operandsOf(member).every((operand) => sums.has(rootOf(operand)))) sums.add(member);
  }
  const stored = touched.filter(({ access }) => members.includes(access.root) && access.root.size === size);
  return stored.every(({ access }) => zero.has(access.root)) ? result : undefined;
}

/** Of an array that the loop reads, if only element by element; `found` is called with it. */
function knownEnds(
  touched: readonly Touched[],
  dims: readonly number[],
  { m, n }: Product,
  known: ReadonlyMap<GraphArray, RowEnds>,
  found: (array: GraphArray) => void,
): RowEnds | undefined {
  const whole = contiguous(dims);
  for (const { access, strides } of touched) {
    const { root, offset } = access;
    const rows = known.get(root);
    const fits = rows?.columns === n && rows.ends.length === m;
    const elementwise = offset === 0 && strides.every((stride, axis) => stride === whole[axis]);
    if (!fits || !elementwise || touched.filter((each) => each.access.root === root).length > 1) continue;
    found(root);
    return rows;
  }
  return undefined;
}

/** Of a softmax of the array, if it is a sum with a constant that is the same for every batch element. */
function maskedEnds(
  array: GraphArray,
  touched: readonly Touched[],
  dims: readonly number[],
  { extents, m, n }: Product,
): RowEnds | undefined {
  if (array.operator !== "add" || array.source.kind !== "map" || array.size !== sizeOf(dims)) return undefined;
  const constants = operandsOf(array)
    .map(rootOf)
    .filter(({ source }) => source.kind === "constant");
  const masks = touched.filter(({ access }) => access.root === constants[0]);
  const [mask] = masks;
  if (constants.length !== 1 || masks.length !== 1 || mask === undefined) return undefined;
  const { root, offset } = mask.access;
  const strides = reshapeStrides(dims, mask.strides, [...extents, m, n]);
  if (strides === undefined || strides.slice(0, -2).some((stride) => stride !== 0)) return undefined;
  const { data } = root.source as SourceOf<"constant">;
  const [row, column] = strides.slice(-2) as [number, number];
  const ends = Array.from({ length: m }, (_, i) => {
    const at = (j: number) => data[offset + i * row + j * column]!;
    let top = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < n; j++) top = Math.max(top, at(j));
    let end = n;
    while (end > 0 && at(end - 1) - top <= unseen) end--;
    return end;
  });
  return { columns: n, ends };
}
