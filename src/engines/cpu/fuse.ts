// Fusion: which maps and reductions are computed by one loop, and in which order the loops run.

import { invariant } from "../../core/errors.ts";
import { type Shape, sizeOf } from "../../core/shape.ts";
import type { Node } from "./expression.ts";
import { accessOf, contiguous, type Graph, GraphArray, operandsOf, reshapeStrides, type SourceOf } from "./graph.ts";
import { Expressions } from "./math.ts";

/** A loop over `dims`, rows of `columns` elements where something is reduced or known by row; or one array that is made otherwise. */
export interface Group {
  readonly index: number;
  /** Members in the order of their computation. */
  members: GraphArray[];
  readonly kind: "loop" | "columns" | "single";
  /** Extents of the loop nest, without those of 1. */
  dims: number[];
  /** Elements of a row; 0 while nothing depends on rows. */
  columns: number;
}

/** Most column reductions side by side: each needs accumulators. */
const mostColumns = 4;

/** Most arrays that a loop may touch: each needs a pointer. */
const operandLimit = 24;

/** What computing a map again may cost at most, beside storing it and reading it: operations, and arrays of at least a few of its elements. */
const cheapOperations = 16;
const cheapReads = 3;
/** Elements for each of which an array that is small beside a map has one. */
const fewElements = 16;

/** Most arrays that a loop may compute: expressions of more are deeper than recursive walks over them should go. */
const memberLimit = 64;

/** With how many of the loops that read the same array, next in order, a loop is tried. */
const neighbours = 8;

/** Extents without ones. */
function squeeze(shape: Shape): number[] {
  return shape.filter((extent) => extent !== 1);
}

/** Extents that both nests of the same size can be split into; undefined if there are none. */
export function refine(a: readonly number[], b: readonly number[]): number[] | undefined {
  const result: number[] = [];
  let [i, j] = [0, 0];
  let [x, y] = [a[0] ?? 1, b[0] ?? 1];
  while (i < a.length && j < b.length) {
    const common = Math.min(x, y);
    if (x % common !== 0 || y % common !== 0) {
      // Split from the outside: the smaller one must divide the larger one.
      return undefined;
    }
    result.push(common);
    x /= common;
    y /= common;
    if (x === 1) x = a[++i] ?? 1;
    if (y === 1) y = b[++j] ?? 1;
  }
  return sizeOf(result) === sizeOf(a) && sizeOf(result) === sizeOf(b) ? result : undefined;
}

/** Axes that a reduction runs over are the last ones that are not 1. */
function isRowReduction(array: GraphArray): boolean {
  const { source } = array;
  if (source.kind !== "reduce") return false;
  const last = Math.max(...source.axes);
  return source.x.shape.slice(last + 1).every((extent) => extent === 1);
}

/** A set of small numbers. */
class Bits {
  readonly words: Uint32Array;
  constructor(size: number) {
    this.words = new Uint32Array((size + 31) >> 5);
  }
  has(bit: number): boolean {
    return ((this.words[bit >> 5]! >>> (bit & 31)) & 1) === 1;
  }
  add(bit: number): void {
    this.words[bit >> 5]! |= 1 << (bit & 31);
  }
  remove(bit: number): void {
    this.words[bit >> 5]! &= ~(1 << (bit & 31));
  }
  /** Adds all of another set; true if that changed anything. */
  join(other: Bits): boolean {
    let changed = 0;
    for (let i = 0; i < this.words.length; i++) {
      const joined = this.words[i]! | other.words[i]!;
      changed |= joined ^ this.words[i]!;
      this.words[i] = joined;
    }
    return changed !== 0;
  }
}

/** Groups of a graph, in an order in which they can run. */
export interface Fused {
  readonly groups: readonly Group[];
  readonly groupOf: ReadonlyMap<GraphArray, Group>;
  /** Arrays that a later group or an output reads: they have memory. */
  readonly stored: ReadonlySet<GraphArray>;
}

/** The array that has memory, behind views. */
export function rootOf(array: GraphArray): GraphArray {
  let root = array;
  while (root.source.kind === "view") root = root.source.of;
  return root;
}

/** Who reads an array, through views. */
function usesOf(graph: Graph): Map<GraphArray, GraphArray[]> {
  const uses = new Map<GraphArray, GraphArray[]>();
  for (const array of graph.arrays) {
    if (array.source.kind === "view") continue;
    for (const operand of new Set(operandsOf(array).map(rootOf))) {
      const known = uses.get(operand);
      if (known === undefined) uses.set(operand, [array]);
      else known.push(array);
    }
  }
  return uses;
}

/** True for an array that a loop computes and that is rounded to fp16 when it is stored. */
function isRounded(array: GraphArray): boolean {
  const { dtype, source } = rootOf(array);
  return dtype === "fp16" && (source.kind === "map" || source.kind === "reduce");
}

function isExtreme({ source }: GraphArray): boolean {
  return source.kind === "reduce" && source.fold !== "sum";
}

/** Elements before and behind what a column reduction reduces. */
function aroundColumns({ members }: Group): readonly [outer: number, inner: number] {
  const { x, axes } = members[0]!.source as SourceOf<"reduce">;
  return [sizeOf(x.shape.slice(0, Math.min(...axes))), sizeOf(x.shape.slice(Math.max(...axes) + 1))];
}

/** Positions in the dimensions of a column reduction where what it reduces begins and ends. */
export function columnBorders(group: Group, dims: readonly number[]): [first: number, last: number] {
  const [outer, inner] = aroundColumns(group);
  let [first, last] = [0, dims.length];
  for (let product = 1; product < outer; ) product *= dims[first++]!;
  for (let product = 1; product < inner; ) product *= dims[--last]!;
  return [first, last];
}

/** Operations of a map's expression, those counted several times that take as long. */
function operationsOf({ source }: GraphArray): number {
  if (source.kind !== "map") return 0;
  const v = new Expressions();
  const typeOf = ({ dtype }: GraphArray) => (dtype === "int32" ? "i32" : dtype === "bool" ? "mask" : "f32");
  const seen = new Set<Node>();
  let count = 0;
  const visit = (node: Node): void => {
    if (seen.has(node)) return;
    seen.add(node);
    if (node.kind === "bits") visit(node.of);
    if (node.kind !== "op") return;
    count += node.op === "div" || node.op === "sqrt" ? 5 : 1;
    for (const arg of node.args) visit(arg);
  };
  visit(
    source.f(
      v,
      source.operands.map((operand, i) => v.operand(i, typeOf(operand))),
    ),
  );
  return count;
}

class Fuser {
  readonly #graph: Graph;
  readonly #groups: Group[] = [];
  readonly #ancestors: Bits[] = [];
  readonly #groupOf = new Map<GraphArray, Group>();
  readonly #uses: Map<GraphArray, GraphArray[]>;
  readonly #outputs: ReadonlySet<GraphArray>;
  /** Extents of the nests of column reductions: those that are reduced, in parts where the maps in them have parts. */
  readonly #extents = new Map<GraphArray, number[]>();
  /** Maps that are computed inside a column reduction. */
  readonly #absorbed = new Map<GraphArray, GraphArray>();

  constructor(graph: Graph) {
    this.#graph = graph;
    this.#uses = usesOf(graph);
    this.#outputs = new Set(graph.outputs.values());
  }

  run(): Fused {
    this.#absorb();
    for (const array of this.#graph.arrays) {
      const { kind } = array.source;
      if (kind === "view" || kind === "input" || kind === "constant" || this.#absorbed.has(array)) continue;
      if (kind === "reference" && this.#groupOf.has(array)) continue;
      if (kind === "map" || isRowReduction(array)) this.#place(array);
      else if (kind === "reduce") this.#columns(array);
      else if (kind === "reference") this.#single(array.source.call.results);
      else this.#single([array]);
    }
    this.#mergeNeighbours();
    this.#mergeColumns();
    this.#joinColumns();
    return this.#finish();
  }

  /** Maps that only a column reduction reads, element by element, go into it; others are computed in it again where that is cheap. */
  #absorb(): void {
    for (const array of [...this.#graph.arrays].reverse()) {
      if (array.source.kind !== "reduce" || isRowReduction(array)) continue;
      let dims = squeeze(domainOf(array));
      let count = 0;
      const absorb = (reader: GraphArray, exactly: boolean) => {
        const operands = operandsOf(reader);
        for (const root of new Set(operands.map(rootOf))) {
          if (root.source.kind !== "map" || this.#outputs.has(root) || count >= memberLimit) continue;
          const extents = squeeze(root.shape);
          const finer = sizeOf(extents) === sizeOf(dims) ? refine(dims, extents) : undefined;
          const seen = operands.filter((operand) => rootOf(operand) === root);
          if (finer === undefined || seen.some((operand) => this.#relation(operand, extents, 0) !== "same")) continue;
          const single = this.#uses.get(root)!.length === 1;
          // Which element is the largest is told by comparing it: it must be the same wherever it is computed, from operands in a loop's registers,
          // too, which are not rounded to fp16.
          const exact = exactly || this.#uses.get(root)!.some(isExtreme);
          if (!single && ((exact && [root, ...operandsOf(root)].some(isRounded)) || !this.#isCheap(root))) continue;
          count++;
          dims = finer;
          const own = single ? root : this.#again(root, reader);
          this.#absorbed.set(own, array);
          absorb(own, exact);
        }
      };
      absorb(array, isExtreme(array));
      this.#extents.set(array, dims);
    }
  }

  /** True for a map that nobody needs in memory but who reads it element by element or by rows, and that reads little itself. */
  #isCheap(map: GraphArray): boolean {
    const reads = new Set<GraphArray>();
    let operations = 0;
    const isElementwise = (root: GraphArray) =>
      root.source.kind === "map" &&
      !this.#outputs.has(root) &&
      this.#uses.get(root)!.every(({ source }) => source.kind === "map" || source.kind === "reduce");
    const visit = (array: GraphArray): void => {
      operations += operationsOf(array);
      for (const root of operandsOf(array).map(rootOf)) {
        if (root.size * fewElements <= map.size) continue;
        if (root.size === map.size && operations <= cheapOperations && isElementwise(root)) visit(root);
        else reads.add(root);
      }
    };
    if (!isElementwise(map)) return false;
    visit(map);
    return operations <= cheapOperations && reads.size <= cheapReads;
  }

  /** A copy of a map, for one of its readers. */
  #again(map: GraphArray, reader: GraphArray): GraphArray {
    const { id, dtype, shape, operator } = map;
    const source = map.source as SourceOf<"map">;
    // Others may read what was stored.
    const f: typeof source.f = (v, lanes) =>
      dtype === "fp16" ? v.roundFloat16(source.f(v, lanes)) : source.f(v, lanes);
    const copy = new GraphArray(id, dtype, shape, { ...source, f }, operator);
    const seen = (array: GraphArray): GraphArray =>
      array.source.kind === "view"
        ? new GraphArray(array.id, array.dtype, array.shape, { ...array.source, of: seen(array.source.of) }, "")
        : copy;
    const uses = this.#uses.get(map)!;
    uses.splice(uses.indexOf(reader), 1);
    this.#uses.set(copy, [reader]);
    for (const root of new Set(operandsOf(copy).map(rootOf))) this.#uses.get(root)!.push(copy);
    const { source: own } = reader;
    const read = (operand: GraphArray) => (rootOf(operand) === map ? seen(operand) : operand);
    if (own.kind === "reduce") reader.source = { ...own, x: read(own.x) };
    else if (own.kind === "map") reader.source = { ...own, operands: own.operands.map(read) };
    return copy;
  }

  /** How a group of these dimensions sees an array that it computes itself: at the same element, or by row. */
  #relation(operand: GraphArray, dims: readonly number[], columns: number): "same" | "row" | undefined {
    const access = accessOf(operand, (root) => contiguous(root.shape));
    if (access === undefined || access.offset !== 0) return undefined;
    const strides = reshapeStrides(operand.shape, access.strides, dims);
    if (strides === undefined) return undefined;
    const whole = contiguous(dims);
    if (strides.every((stride, axis) => stride === whole[axis])) return "same";
    if (columns === 0) return undefined;
    let [row, axis] = [1, dims.length];
    while (row < columns) row *= dims[--axis]!;
    if (row !== columns) return undefined;
    const rows = contiguous(dims.slice(0, axis));
    const matches = strides.every((stride, at) => (at < axis ? stride === rows[at] : stride === 0));
    return matches ? "row" : undefined;
  }

  #new(kind: Group["kind"], members: GraphArray[], dims: number[], columns: number): Group {
    const group: Group = { index: this.#groups.length, members, kind, dims, columns };
    this.#groups.push(group);
    this.#ancestors.push(new Bits(this.#graph.arrays.length));
    for (const member of members) this.#groupOf.set(member, group);
    return group;
  }

  /** Groups whose results an array reads, through what it absorbed. */
  #sources(array: GraphArray): Set<Group> {
    const sources = new Set<Group>();
    const visit = (each: GraphArray) => {
      for (const operand of operandsOf(each).map(rootOf)) {
        if (this.#absorbed.has(operand)) visit(operand);
        else {
          const group = this.#groupOf.get(operand);
          if (group !== undefined) sources.add(group);
        }
      }
    };
    visit(array);
    return sources;
  }

  /** Everything before `group` is also before what comes after it. */
  #depend(group: Group, on: Iterable<Group>): void {
    const own = this.#ancestors[group.index]!;
    let changed = false;
    for (const source of on) {
      if (source === group) continue;
      changed = own.join(this.#ancestors[source.index]!) || changed;
      if (!own.has(source.index)) {
        own.add(source.index);
        changed = true;
      }
    }
    if (!changed) return;
    for (const ancestors of this.#ancestors) if (ancestors !== own && ancestors.has(group.index)) ancestors.join(own);
  }

  #single(members: GraphArray[]): void {
    const sources = new Set(members.flatMap((member) => [...this.#sources(member)]));
    this.#depend(this.#new("single", members, [], 0), sources);
  }

  #columns(array: GraphArray): void {
    this.#depend(this.#new("columns", [array], this.#extents.get(array)!, 0), this.#sources(array));
  }

  /** Puts a map or a row reduction into a group that computes one of its operands, or into a new one. */
  #place(array: GraphArray): void {
    const { source } = array;
    const domain = source.kind === "reduce" ? source.x.shape : array.shape;
    const dims = squeeze(domain);
    const columns = source.kind === "reduce" ? sizeOf(source.axes.map((axis) => source.x.shape[axis]!)) : 0;
    const sources = this.#sources(array);
    const candidates = [...sources].filter(({ kind }) => kind === "loop").sort((a, b) => b.index - a.index);
    for (const group of candidates) {
      if (!this.#fits(array, group, dims, columns)) continue;
      // A cycle would come of an operand that depends on the group from outside.
      if ([...sources].some((other) => other !== group && this.#ancestors[other.index]!.has(group.index))) continue;
      this.#join(array, group, dims, columns);
      this.#depend(group, sources);
      // What computes the other operands may now be the same loop.
      for (const other of candidates) if (other !== group && other.members.length > 0) this.#merge(group, other);
      return;
    }
    const group = this.#new("loop", [array], dims, columns);
    this.#depend(group, sources);
  }

  #join(array: GraphArray, group: Group, dims: readonly number[], columns: number): void {
    group.members.push(array);
    this.#groupOf.set(array, group);
    if (sizeOf(dims) === sizeOf(group.dims)) group.dims = refine(group.dims, dims)!;
    if (columns > 0) group.columns = columns;
  }

  /** True if the group's loop can compute the array: same extents, or one value a row, and operands at the same place. */
  #fits(array: GraphArray, group: Group, dims: readonly number[], columns: number): boolean {
    if (columns > 0 && group.columns > 0 && columns !== group.columns) return false;
    if (group.members.length >= memberLimit) return false;
    if (this.#operands(group, array) > operandLimit && sizeOf(group.dims) > 1) return false;
    const rowColumns = columns || group.columns;
    const size = sizeOf(group.dims);
    let level: "same" | "row";
    let nest: readonly number[];
    if (sizeOf(dims) === size) {
      const refined = refine(group.dims, dims);
      if (refined === undefined) return false;
      [level, nest] = ["same", refined];
    } else if (columns === 0 && group.columns > 0 && sizeOf(dims) * group.columns === size && size > 1) {
      const rows = rowDims(group.dims, group.columns);
      const refined = rows && refine(rows, dims);
      if (refined === undefined) return false;
      [level, nest] = ["row", refined];
    } else return false;
    if (rowColumns > 0 && level === "same" && rowDims(nest, rowColumns) === undefined) return false;
    const reads = array.source.kind === "reduce" ? [array.source.x] : operandsOf(array);
    return reads.every((operand) => {
      const root = rootOf(operand);
      if (this.#groupOf.get(root) !== group) return true;
      const rootRow = this.#isRow(root, group);
      const relation = this.#relation(expand(operand, array), nest, level === "same" ? rowColumns : 0);
      // A value of a row is read by row from elements, and at the same place from row values.
      if (level === "row") return rootRow && relation === "same";
      return relation === (rootRow ? "row" : "same");
    });
  }

  /** True for members that have one value a row. */
  #isRow(member: GraphArray, group: Group): boolean {
    return group.columns > 0 && (member.source.kind === "reduce" || member.size < sizeOf(group.dims));
  }

  /** Arrays with memory that the group and a further member touch. */
  #operands(group: Group, further: GraphArray): number {
    const touched = new Set<GraphArray>();
    for (const member of [...group.members, further]) {
      for (const operand of operandsOf(member))
        if (this.#groupOf.get(rootOf(operand)) !== group) touched.add(rootOf(operand));
      if (this.#outputs.has(member) || this.#uses.get(member)?.some((use) => this.#groupOf.get(use) !== group))
        touched.add(member);
    }
    return touched.size;
  }

  /** Joins loops over the same extents that read the same arrays: the arrays pass through the cache once. */
  #mergeNeighbours(): void {
    const readers = new Map<GraphArray, Group[]>();
    for (const group of this.#groups) {
      if (group.kind !== "loop" || sizeOf(group.dims) < 64) continue;
      const reads = new Set(group.members.flatMap((member) => operandsOf(member).map(rootOf)));
      for (const read of reads) {
        if (read.size < sizeOf(group.dims) / 2 || this.#groupOf.get(read) === group) continue;
        const known = readers.get(read) ?? [];
        readers.set(read, known);
        known.push(group);
      }
    }
    for (const [read, groups] of readers) {
      for (let i = 0; i < groups.length; i++) {
        for (let j = i + 1; j < Math.min(groups.length, i + 1 + neighbours); j++) {
          if (groups[i] !== groups[j] && groups[i]!.members.length > 0 && groups[j]!.members.length > 0)
            this.#merge(groups[i]!, groups[j]!);
        }
      }
      // Or into the loop that makes the array.
      const maker = this.#groupOf.get(read);
      if (maker?.kind !== "loop") continue;
      for (const group of groups) if (group !== maker && group.members.length > 0) this.#merge(maker, group);
    }
  }

  /** Makes two loops one where that is possible. */
  #merge(a: Group, b: Group): boolean {
    if (sizeOf(a.dims) < sizeOf(b.dims)) return this.#merge(b, a);
    if (a.columns > 0 && b.columns > 0 && a.columns !== b.columns) return false;
    if (a.members.length + b.members.length > memberLimit) return false;
    const columns = a.columns || b.columns;
    const size = sizeOf(a.dims);
    let dims: number[] | undefined;
    if (sizeOf(b.dims) === size) dims = refine(a.dims, b.dims);
    else if (b.columns === 0 && a.columns > 0 && sizeOf(b.dims) * a.columns === size) {
      // b has one value for every row of a.
      const rows = rowDims(a.dims, a.columns);
      const refined = rows && refine(rows, b.dims);
      dims = refined && [...refined, ...a.dims.slice(rows!.length)];
    }
    if (dims === undefined || (columns > 0 && rowDims(dims, columns) === undefined)) return false;
    const own = this.#ancestors[a.index]!;
    const other = this.#ancestors[b.index]!;
    const members = [...a.members, ...b.members];
    const touched = new Set(members.flatMap((member) => [member, ...operandsOf(member).map(rootOf)]));
    const outside = [...touched].filter((array) => {
      const group = this.#groupOf.get(array);
      if (group !== a && group !== b) return true;
      return (
        this.#outputs.has(array) || this.#uses.get(array)?.some((use) => ![a, b].includes(this.#groupOf.get(use)!))
      );
    });
    if (outside.length > operandLimit && size > 1) return false;
    const merged: Group = { ...a, dims, columns, members: members.sort((x, y) => x.id - y.id) };
    const isRow = (array: GraphArray) => columns > 0 && (array.source.kind === "reduce" || array.size < size);
    const fits = merged.members.every((member) => {
      const reads = member.source.kind === "reduce" ? [member.source.x] : operandsOf(member);
      const domain = sizeOf(domainOf(member));
      return reads.every((operand) => {
        const root = rootOf(operand);
        const group = this.#groupOf.get(root);
        if (group !== a && group !== b) return true;
        if (domain < size) {
          const rows = rowDims(dims, columns)!;
          return isRow(root) && this.#relation(expand(operand, member), rows, 0) === "same";
        }
        return this.#relation(expand(operand, member), dims, columns) === (isRow(root) ? "row" : "same");
      });
    });
    if (!fits) return false;
    // A third group between the two would have to run in the middle of the loop.
    for (const [between, ancestors] of this.#ancestors.entries()) {
      if (between === a.index || between === b.index) continue;
      if ((other.has(between) && ancestors.has(a.index)) || (own.has(between) && ancestors.has(b.index))) return false;
    }
    a.dims = dims;
    a.columns = columns;
    this.#unite(a, b);
    return true;
  }

  /** Moves b's members to a. */
  #unite(a: Group, b: Group): void {
    const own = this.#ancestors[a.index]!;
    a.members = [...a.members, ...b.members].sort((x, y) => x.id - y.id);
    for (const member of b.members) this.#groupOf.set(member, a);
    b.members = [];
    own.join(this.#ancestors[b.index]!);
    own.remove(a.index);
    own.remove(b.index);
    for (const ancestors of this.#ancestors) {
      if (ancestors === own || !(ancestors.has(a.index) || ancestors.has(b.index))) continue;
      ancestors.add(a.index);
      ancestors.join(own);
    }
  }

  /** Maps of the results of column reductions alone, and of what is there before them, become a part of what stores these. */
  #joinColumns(): void {
    for (const group of this.#groups) {
      if (group.kind !== "loop" || group.columns > 0 || group.members.length === 0) continue;
      const operands = group.members.flatMap((member) => operandsOf(member).map((operand) => ({ operand, member })));
      const groups = new Set(operands.map(({ operand }) => this.#groupOf.get(rootOf(operand))));
      const columns = [...groups].find((each) => each?.kind === "columns");
      if (columns === undefined) continue;
      const [begin, end] = columnBorders(columns, columns.dims);
      const [outer, inner] = [columns.dims.slice(0, begin), columns.dims.slice(end)];
      const dims =
        sizeOf(group.dims) === sizeOf([...outer, ...inner]) ? refine([...outer, ...inner], group.dims) : undefined;
      if (dims === undefined || dims.slice(-inner.length).join() !== inner.join()) continue;
      const first = Math.min(...columns.members.map(({ id }) => id));
      const fits = operands.every(({ operand, member }) => {
        const root = rootOf(operand);
        const maker = this.#groupOf.get(root);
        if (maker === columns) return this.#relation(expand(operand, member), dims, 0) === "same";
        if (maker === group || maker === undefined) return true;
        // A cycle would come of a loop that makes something of the reductions' results, too.
        return root.id < first && !this.#ancestors[maker.index]!.has(columns.index);
      });
      const touched = new Set([
        ...operands.map(({ operand }) => rootOf(operand)),
        ...group.members,
        ...columns.members,
      ]);
      if (!fits || touched.size > operandLimit) continue;
      columns.dims = [...dims.slice(0, -inner.length), ...columns.dims.slice(begin, end), ...inner];
      const reductions = columns.members;
      this.#unite(columns, group);
      columns.members = [...reductions, ...columns.members.filter((member) => !reductions.includes(member))];
    }
  }

  /** Joins column reductions of the same extents that read an array in common and do not wait for one another: it is read once. */
  #mergeColumns(): void {
    const readers = new Map<GraphArray, Group[]>();
    const reads = (array: GraphArray, group: Group): void => {
      for (const root of new Set(operandsOf(array).map(rootOf))) {
        if (this.#absorbed.has(root)) reads(root, group);
        else if (root.size * 2 >= sizeOf(group.dims)) {
          const known = readers.get(root);
          if (known === undefined) readers.set(root, [group]);
          else if (!known.includes(group)) known.push(group);
        }
      }
    };
    for (const group of this.#groups) if (group.kind === "columns") reads(group.members[0]!, group);
    for (const groups of readers.values()) {
      for (const [i, b] of groups.entries()) {
        if (b.members.length !== 1) continue;
        const a = groups.slice(0, i).find((each) => {
          if (each.members.length === 0 || each.members.length >= mostColumns) return false;
          const apart = !this.#ancestors[each.index]!.has(b.index) && !this.#ancestors[b.index]!.has(each.index);
          const alike = aroundColumns(each).join() === aroundColumns(b).join();
          return apart && alike && refine(each.dims, b.dims) !== undefined;
        });
        if (a === undefined) continue;
        a.dims = refine(a.dims, b.dims)!;
        this.#unite(a, b);
      }
    }
  }

  #finish(): Fused {
    const groups = this.#groups.filter(({ members }) => members.length > 0);
    const stored = new Set<GraphArray>(this.#outputs);
    const read = (array: GraphArray, group: Group) => {
      for (const operand of operandsOf(array)) {
        const root = rootOf(operand);
        if (this.#absorbed.has(root)) read(root, group);
        else if (this.#groupOf.get(root) !== group && this.#groupOf.has(root)) stored.add(root);
      }
    };
    for (const group of groups) for (const member of group.members) read(member, group);
    for (const group of groups) if (group.kind === "single") for (const member of group.members) stored.add(member);
    return { groups: this.#order(groups), groupOf: this.#groupOf, stored };
  }

  /** Groups in an order that respects their dependences, otherwise as the program has them. */
  #order(groups: readonly Group[]): Group[] {
    const position = new Map(groups.map((group) => [group, Math.max(...group.members.map(({ id }) => id))]));
    const waiting = new Map<Group, number>();
    const dependents = new Map<Group, Group[]>();
    for (const group of groups) {
      const sources = new Set(
        group.members.flatMap((member) => [...this.#sources(member)]).filter((source) => source !== group),
      );
      waiting.set(group, sources.size);
      for (const source of sources) {
        const known = dependents.get(source) ?? [];
        dependents.set(source, known);
        known.push(group);
      }
    }
    // A heap by position.
    const heap: Group[] = [];
    const less = (a: number, b: number) => position.get(heap[a]!)! < position.get(heap[b]!)!;
    const swap = (a: number, b: number) => ([heap[a], heap[b]] = [heap[b]!, heap[a]!]);
    const push = (group: Group) => {
      let at = heap.push(group) - 1;
      while (at > 0 && less(at, (at - 1) >> 1)) {
        swap(at, (at - 1) >> 1);
        at = (at - 1) >> 1;
      }
    };
    const pop = (): Group => {
      const top = heap[0]!;
      const last = heap.pop()!;
      if (heap.length === 0) return top;
      heap[0] = last;
      for (let at = 0; ; ) {
        let least = at;
        for (const child of [2 * at + 1, 2 * at + 2]) if (child < heap.length && less(child, least)) least = child;
        if (least === at) return top;
        swap(at, least);
        at = least;
      }
    };
    for (const group of groups) if (waiting.get(group) === 0) push(group);
    const order: Group[] = [];
    while (heap.length > 0) {
      const group = pop();
      order.push(group);
      for (const dependent of dependents.get(group) ?? []) {
        const left = waiting.get(dependent)! - 1;
        waiting.set(dependent, left);
        if (left === 0) push(dependent);
      }
    }
    invariant(order.length === groups.length, () => "loops that wait for one another");
    return order;
  }
}

/** Extents of the rows of a nest whose last ones make up `columns`; undefined if none do. */
export function rowDims(dims: readonly number[], columns: number): number[] | undefined {
  let [product, axis] = [1, dims.length];
  while (product < columns && axis > 0) product *= dims[--axis]!;
  return product === columns ? dims.slice(0, axis) : undefined;
}

/** The shape that a member's loop runs over. */
export function domainOf(array: GraphArray): Shape {
  return array.source.kind === "reduce" ? array.source.x.shape : array.shape;
}

/** The operand as it is broadcast against the array that reads it. */
export function expand(operand: GraphArray, reader: GraphArray): GraphArray {
  const domain = domainOf(reader);
  const same = operand.shape.length === domain.length && operand.shape.every((extent, axis) => extent === domain[axis]);
  if (same || reader.source.kind !== "map") return operand;
  return new GraphArray(-1, operand.dtype, domain, { kind: "view", of: operand, view: { kind: "broadcast" } });
}

/** Fuses a graph. */
export function fuse(graph: Graph): Fused {
  return new Fuser(graph).run();
}
