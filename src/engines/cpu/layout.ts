// Memory order: which arrays are stored transposed so that later reshapes are views, which are written straight into a larger array, which need a copy.

import { newValues } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { offsetsOf } from "../../ops/kernels/loops.ts";
import { rootOf } from "./fuse.ts";
import { type Access, accessOf, contiguous, type Graph, GraphArray, isOfParts, type Source } from "./graph.ts";

/** Where a root's elements are stored: in its own memory, or as part of another root's. */
export interface Location {
  readonly host: GraphArray;
  readonly offset: number;
  readonly strides: readonly number[];
}

export class Layout {
  /** Strides of roots that are not in row-major order. */
  readonly #strides = new Map<GraphArray, readonly number[]>();
  readonly #hosts = new Map<
    GraphArray,
    { readonly host: GraphArray; readonly offset: number; readonly strides: readonly number[] }
  >();

  /** Strides of a root as views of it see them. */
  readonly stridesOf = (root: GraphArray): readonly number[] =>
    this.#hosts.get(root)?.strides ?? this.#strides.get(root) ?? contiguous(root.shape);

  /** Where an array's elements are, once what needs a copy has been copied. */
  access(array: GraphArray): Access {
    const access = accessOf(array, this.stridesOf);
    invariant(access !== undefined, () => "a view that needs a copy was not copied");
    return access;
  }

  place(root: GraphArray): Location {
    return this.#hosts.get(root) ?? { host: root, offset: 0, strides: this.stridesOf(root) };
  }

  store(root: GraphArray, strides: readonly number[]): void {
    this.#strides.set(root, strides);
  }

  /** Puts `piece` into `host`'s memory. */
  put(piece: GraphArray, host: GraphArray, offset: number, strides: readonly number[]): void {
    this.#hosts.set(piece, { host, offset, strides });
  }

  isHosted(root: GraphArray): boolean {
    return this.#hosts.has(root);
  }
}

/** Kinds whose results may be stored as a part of another array. */
const hostable = new Set(["map", "matmul", "separable"]);

/** Kinds whose results may be stored in any order. */
const anyOrder = new Set(["map", "matmul"]);

/**
 * Decides the memory order of a graph; reshapes that stay impossible get a copy, which changes the graph. `inPlace` names outputs that replace what
 * may still be read: they are stored at once, not piece by piece.
 */
export function layOut(graph: Graph, inPlace: ReadonlySet<string>): { graph: Graph; layout: Layout } {
  const layout = new Layout();
  const outputs = new Set(graph.outputs.values());
  for (const array of graph.arrays) {
    if (array.source.kind !== "view" || array.source.view.kind !== "reshape") continue;
    const { of } = array.source;
    if (of.source.kind !== "view" || of.source.view.kind !== "permute") continue;
    const root = of.source.of;
    if (!anyOrder.has(root.source.kind) || outputs.has(root)) continue;
    if (accessOf(array, layout.stridesOf) !== undefined) continue;
    // The permuted array in row-major order.
    const { perm } = of.source.view;
    const ordered = contiguous(of.shape);
    layout.store(
      root,
      root.shape.map((_, axis) => ordered[perm.indexOf(axis)]!),
    );
  }
  const arrays: GraphArray[] = [];
  const constants = new Map<string, GraphArray>();
  let lastId = Math.max(0, ...graph.arrays.map(({ id }) => id));
  for (const array of graph.arrays) {
    if (array.source.kind === "view" && accessOf(array, layout.stridesOf) === undefined) {
      const { of, view } = array.source;
      const { root, offset, strides } = accessOf(of, layout.stridesOf)!;
      const key = JSON.stringify([root.id, of.shape, offset, strides]);
      let copy = constants.get(key);
      if (copy === undefined) {
        const source = copyOf(of, { root, offset, strides });
        arrays.push((copy = new GraphArray(++lastId, of.dtype, of.shape, source, "copy")));
        if (source.kind === "constant") constants.set(key, copy);
      }
      array.source = { kind: "view", of: copy, view };
    }
    arrays.push(array);
  }
  // Numbers follow the order again: groups and schedules go by them.
  for (const [i, array] of arrays.entries()) array.id = i;
  const placed = { ...graph, arrays };
  const whole = new Set([...graph.outputs].flatMap(([port, array]) => (inPlace.has(port) ? [array] : [])));
  placePieces(placed, layout, whole);
  return { graph: placed, layout };
}

/** Elements of a constant's copy that is made before the first run and kept; larger ones are made in every run. */
const mostCopied = 1 << 22;

/** A view's elements in memory of their own: of a constant (the mask of several heads), there before the first run. */
function copyOf(of: GraphArray, { root, offset, strides }: Access): Source {
  if (root.source.kind !== "constant" || of.size > mostCopied)
    return { kind: "map", operands: [of], f: (_v, lanes) => lanes[0]! };
  const { data: elements } = root.source;
  const data = newValues(of.dtype, of.size);
  for (const [i, at] of offsetsOf(of.shape, strides).entries()) data[i] = elements[offset + at]!;
  return { kind: "constant", data };
}

/** Arrays that an assembly reads are computed where they will be, if all others can read them there. */
function placePieces(graph: Graph, layout: Layout, whole: ReadonlySet<GraphArray>): void {
  const outputs = new Set(graph.outputs.values());
  /** Views of every root. */
  const views = new Map<GraphArray, GraphArray[]>();
  for (const array of graph.arrays) {
    if (array.source.kind !== "view") continue;
    const root = rootOf(array);
    const known = views.get(root);
    if (known === undefined) views.set(root, [array]);
    else known.push(array);
  }
  for (const array of graph.arrays) {
    const { source } = array;
    if (source.kind !== "assemble" || !isOfParts(array) || whole.has(array)) continue;
    const strides = contiguous(array.shape);
    for (const { x, begin, stride } of source.pieces) {
      if (!hostable.has(x.source.kind) || outputs.has(x) || layout.isHosted(x) || x.dtype !== array.dtype) continue;
      // Rows are stored along a dimension of stride 1.
      const last = x.shape.findLastIndex((extent) => extent > 1);
      if (last >= 0 && strides[last]! * stride[last]! !== 1) continue;
      invariant(x.shape.length === array.shape.length, () => "a piece of another rank");
      const offset = begin.reduce((sum, at, axis) => sum + at * strides[axis]!, 0);
      const placed = strides.map((each, axis) => each * stride[axis]!);
      const seen = views.get(x) ?? [];
      const stays = (root: GraphArray) => (root === x ? placed : layout.stridesOf(root));
      if (seen.some((view) => accessOf(view, stays) === undefined)) continue;
      layout.put(x, array, offset, placed);
    }
  }
}
