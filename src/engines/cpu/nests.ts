// The loop nest of a fused group: its expressions, its memory operands with their strides, and how tasks divide it.

import type { DType } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Node } from "./expression.ts";
import { columnBorders, domainOf, expand, type Fused, type Group, rootOf, rowDims } from "./fuse.ts";
import { type Access, contiguous, type GraphArray, reshapeStrides, type SourceOf } from "./graph.ts";
import { strip } from "./kernels/evaluate.ts";
import type { LoopOperand, NestSpec } from "./kernels/nest.ts";
import type { Layout } from "./layout.ts";
import type { ReduceKind } from "./machine.ts";
import { Expressions } from "./math.ts";

/** Elements that a task of a loop handles, within these bounds. */
const taskElements = { least: 4096, most: 65536 } as const;
/** Columns of a task. */
const columnBlock = 64;
/** A row with reductions costs at least as much as so many elements. */
const leastRowCost = 128;

/** A memory operand of a loop while its expressions are made. */
export interface Touched {
  readonly access: Access;
  readonly dtype: DType;
  /** Strides over the nest. */
  readonly strides: readonly number[];
  readonly index: number;
}

/** A stored value that is, where a mask is false, the element of an operand. */
export interface Update {
  readonly store: number;
  readonly old: number;
  readonly where: Node;
}

export interface Nest {
  readonly spec: NestSpec;
  readonly updates: readonly Update[];
  readonly touched: readonly Touched[];
  /** Operators in it, for reports. */
  readonly parts: string;
}

/** Nests of the groups of a fused graph, before copies and task partition. */
export class Nests {
  readonly #layout: Layout;
  readonly #fused: Fused;
  readonly #nests = new Map<Group, Nest>();

  constructor(layout: Layout, fused: Fused) {
    this.#layout = layout;
    this.#fused = fused;
  }

  /** The nest of a group. */
  of(group: Group): Nest {
    let nest = this.#nests.get(group);
    if (nest === undefined) this.#nests.set(group, (nest = this.#make(group)));
    return nest;
  }

  #make(group: Group): Nest {
    const v = new Expressions();
    const { columns } = group;
    const dims = group.dims.length === 0 ? [1] : group.dims;
    const rows = columns > 0 ? rowDims(dims, columns)! : dims;
    const touched: Touched[] = [];
    const members = new Set(group.members);
    const lanes = new Map<GraphArray, Node>();
    const reductions: { kind: ReduceKind; value: Node }[] = [];
    const counts = new Map<string, number>();

    /** Strides over the nest of an array that is seen over `shape`. */
    const over = (shape: readonly number[], strides: readonly number[]): number[] => {
      if (group.kind === "columns" && sizeOf(shape) < sizeOf(dims)) return overColumns(shape, strides);
      const target = sizeOf(shape) === sizeOf(dims) ? dims : rows;
      const found = reshapeStrides(shape, strides, target);
      invariant(found !== undefined, () => `strides ${strides} over ${shape} do not fit the nest ${dims}`);
      return [...found, ...dims.slice(target.length).map(() => 0)];
    };
    /** The same of what has the extents of a column reduction's result: strides of 0 where it reduces. */
    const overColumns = (shape: readonly number[], strides: readonly number[]): number[] => {
      const [first, last] = columnBorders(group, dims);
      const found = reshapeStrides(shape, strides, [...dims.slice(0, first), ...dims.slice(last)]);
      invariant(found !== undefined, () => `strides ${strides} over ${shape} do not fit the columns of ${dims}`);
      return [...found.slice(0, first), ...dims.slice(first, last).map(() => 0), ...found.slice(first)];
    };
    const touch = (access: Access, dtype: DType, strides: readonly number[]): Touched => {
      const known = touched.find(
        (each) =>
          each.access.root === access.root &&
          each.access.offset === access.offset &&
          each.strides.every((stride, axis) => stride === strides[axis]),
      );
      if (known !== undefined) return known;
      const made = { access, dtype, strides, index: touched.length };
      touched.push(made);
      return made;
    };
    const typeOf = (dtype: DType) => (dtype === "int32" ? "i32" : dtype === "bool" ? "mask" : "f32");

    /** The lane of an operand as `reader` sees it. */
    const lane = (operand: GraphArray, reader: GraphArray): Node => {
      const root = rootOf(operand);
      if (members.has(root)) return laneOf(root);
      if (!this.#fused.groupOf.has(root) && root.source.kind === "map") return mapOf(root); // absorbed
      const access = this.#layout.access(expand(operand, reader));
      return v.operand(
        touch(access, operand.dtype, over(domainOf(reader), access.strides)).index,
        typeOf(operand.dtype),
      );
    };
    const mapOf = (array: GraphArray): Node => {
      const source = array.source as SourceOf<"map">;
      return source.f(
        v,
        source.operands.map((operand) => lane(operand, array)),
      );
    };
    const laneOf = (array: GraphArray): Node => {
      let known = lanes.get(array);
      if (known !== undefined) return known;
      if (array.source.kind === "reduce") {
        const value = lane(array.source.x, array);
        const { fold: kind } = array.source;
        let at = reductions.findIndex((each) => each.kind === kind && each.value === value);
        if (at < 0) at = reductions.push({ kind, value }) - 1;
        known = v.operand(-1 - at, value.type);
      } else known = mapOf(array);
      lanes.set(array, known);
      counts.set(array.operator, (counts.get(array.operator) ?? 0) + 1);
      return known;
    };
    for (const member of group.members) laneOf(member);
    const stores = group.members
      .filter((member) => this.#fused.stored.has(member))
      .map((member) => {
        const { strides } = this.#layout.place(member);
        const shape = member.shape;
        const nestStrides = over(shape, strides);
        const { index } = touch({ root: member, offset: 0, strides }, member.dtype, nestStrides);
        // A store to fp16 rounds by itself.
        const value = lanes.get(member)!;
        const rounded = member.dtype === "fp16" && value.kind === "op" && value.op === "roundFloat16";
        return { operand: index, value: rounded ? value.args[0]! : value };
      });
    const spec: NestSpec = {
      dims,
      taskDims: 0,
      blocked: 0,
      block: dims[0]!,
      operands: touched.map(({ dtype, strides }): LoopOperand => ({ dtype, strides })),
      reductions,
      stores,
      inPlace: false,
    };
    const updates = stores.flatMap(({ operand: store, value }): Update[] => {
      const select = strip(value);
      if (select.kind !== "op" || select.op !== "select") return [];
      const [mask, a, b] = select.args.map(strip) as [Node, Node, Node];
      if (b.kind === "operand" && b.index >= 0) return [{ store, old: b.index, where: mask }];
      if (a.kind === "operand" && a.index >= 0) return [{ store, old: a.index, where: v.not(mask) }];
      return [];
    });
    const parts = [...counts].map(([name, count]) => (count > 1 ? `${count} ${name}` : name)).join(", ");
    return { spec, updates, touched, parts };
  }
}

/** Positions in the dimensions across which they may not be merged: where rows end, or a column reduction's parts. */
export function bordersOf(group: Group, dims: readonly number[]): number[] {
  if (group.kind === "columns") return columnBorders(group, dims);
  return group.columns > 0 ? [rowDims(dims, group.columns)!.length] : [];
}

/** How many of the last dimensions make up the vector dimension. */
export function innerDims(spec: NestSpec, group: Group): number {
  if (group.kind === "columns") return spec.dims.length - columnBorders(group, spec.dims)[1];
  return group.columns > 0 ? countTail(spec.dims, group.columns) : 1;
}

function countTail(dims: readonly number[], size: number): number {
  let [count, product] = [0, 1];
  while (product < size) product *= dims[dims.length - ++count]!;
  return Math.max(1, count);
}

/** True if the dimensions are one with stride 0 or 1. */
export function tailIsUnit(dims: readonly number[], strides: readonly number[]): boolean {
  if (strides.every((stride) => stride === 0)) return true;
  const wanted = contiguous(dims);
  return strides.every((stride, axis) => dims[axis] === 1 || stride === wanted[axis]);
}

/** The nest with a dimension as two, of which the inner one has `part` elements. */
function split(spec: NestSpec, axis: number, part: number): NestSpec {
  const two = (list: readonly number[], outer: number, inner: number) => list.toSpliced(axis, 1, outer, inner);
  return {
    ...spec,
    dims: two(spec.dims, spec.dims[axis]! / part, part),
    operands: spec.operands.map(({ dtype, strides }) => ({
      dtype,
      strides: two(strides, strides[axis]! * part, strides[axis]!),
    })),
  };
}

const range = (from: number, to: number) => Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);

export function reorder(spec: NestSpec, order: readonly number[]): NestSpec {
  const pick = (list: readonly number[]) => order.map((axis) => list[axis]!);
  return {
    ...spec,
    dims: pick(spec.dims),
    operands: spec.operands.map(({ dtype, strides }) => ({ dtype, strides: pick(strides) })),
  };
}

/** Merges neighbouring dimensions that every operand walks as one, but not across `borders` (positions before which a part begins). */
export function merge(spec: NestSpec, borders: readonly number[]): NestSpec {
  const dims: number[] = [];
  const strides: number[][] = spec.operands.map(() => []);
  for (const [axis, extent] of spec.dims.entries()) {
    const mergeable =
      dims.length > 0 &&
      !borders.includes(axis) &&
      spec.operands.every(({ strides: each }, i) => strides[i]!.at(-1) === each[axis]! * extent);
    if (mergeable) {
      dims[dims.length - 1]! *= extent;
      for (const [i, { strides: each }] of spec.operands.entries()) strides[i]![dims.length - 1] = each[axis]!;
    } else {
      dims.push(extent);
      for (const [i, { strides: each }] of spec.operands.entries()) strides[i]!.push(each[axis]!);
    }
  }
  return { ...spec, dims, operands: spec.operands.map(({ dtype }, i) => ({ dtype, strides: strides[i]! })) };
}

/** Chooses what a task does; a reduction's parts never depend on it. */
export function partition(spec: NestSpec, group: Group, threads: number): NestSpec {
  const total = sizeOf(spec.dims);
  const inner = spec.dims.length - 1;
  if (group.kind === "columns") {
    const [outer] = columnBorders(group, spec.dims);
    // A task takes whole outer dimensions while it stays small, and a part of the next one.
    const most = Math.max(taskElements.least, Math.min(taskElements.most, total / (8 * threads)));
    let [taskDims, elements] = [
      outer,
      Math.min(columnBlock, spec.dims[inner]!) * sizeOf(spec.dims.slice(outer, inner)),
    ];
    while (taskDims > 0 && elements * spec.dims[taskDims - 1]! <= most) elements *= spec.dims[--taskDims]!;
    const next = taskDims > 0 ? spec.dims[taskDims - 1]! : 1;
    const part = range(1, Math.min(next, Math.floor(most / elements))).findLast((each) => next % each === 0) ?? 1;
    const cut = part === 1 ? spec : split(spec, taskDims - 1, part);
    return {
      ...cut,
      taskDims,
      outer: part === 1 ? outer : outer + 1,
      blocked: cut.dims.length - 1,
      block: columnBlock,
    };
  }
  const least = group.columns === 0 ? 1 : Math.min(1, group.columns / leastRowCost);
  const wanted = Math.max(least * taskElements.least, Math.min(taskElements.most, Math.ceil(total / (8 * threads))));
  const last = group.columns > 0 ? inner - 1 : inner;
  if (last < 0) {
    // One row.
    const operands = spec.operands.map(({ dtype, strides }) => ({ dtype, strides: [0, ...strides] }));
    return { ...spec, dims: [1, ...spec.dims], operands, taskDims: 0, blocked: 0, block: 1 };
  }
  let [taskDims, below] = [0, total / spec.dims[0]!];
  while (taskDims < last && below > wanted) below /= spec.dims[++taskDims]!;
  const block = Math.max(1, Math.min(spec.dims[taskDims]!, Math.floor(wanted / below)));
  return { ...spec, taskDims, blocked: taskDims, block: taskDims === inner ? Math.ceil(block / 64) * 64 : block };
}
