// A program in the primitives that the CPU engine plans with: lane-wise maps, reductions, views, matrix products, and what moves data by index.

import type { DType, ValueArray } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { broadcastShapes, type Shape, sizeOf, stridesOf } from "../../core/shape.ts";
import { type Instruction, instructionOperands, type Program } from "../../ir/program.ts";
import { offsetsOf } from "../../ops/kernels/loops.ts";
import type { Native, NativeArray, Piece, SmallMatrix, WindowAxis } from "../../ops/native.ts";
import type { Lane, Lanes } from "../../ops/vector.ts";
import type { Node } from "./expression.ts";
import type { ReduceKind } from "./machine.ts";
import type { Expressions } from "./math.ts";

/** How a view's elements stand in what it looks at. */
export type ViewKind =
  | { readonly kind: "reshape" }
  | { readonly kind: "permute"; readonly perm: readonly number[] }
  | { readonly kind: "slice"; readonly begin: readonly number[]; readonly stride: readonly number[] }
  | { readonly kind: "broadcast" }
  | { readonly kind: "dense" }
  | { readonly kind: "windows"; readonly first: number; readonly axes: readonly WindowAxis[] };

/** Where an array comes from. Expressions of maps are made when they are wanted, in the builder of the group that computes them. */
export type Source =
  | { readonly kind: "input"; readonly port: string }
  | { readonly kind: "constant"; readonly data: ValueArray }
  | {
      readonly kind: "map";
      readonly operands: readonly GraphArray[];
      readonly f: (v: Expressions, lanes: readonly Node[]) => Node;
    }
  | { readonly kind: "reduce"; readonly fold: ReduceKind; readonly x: GraphArray; readonly axes: readonly number[] }
  | {
      readonly kind: "matmul";
      readonly x: GraphArray;
      readonly y: GraphArray;
      readonly transposeX: boolean;
      readonly transposeY: boolean;
      /** Axes that are summed over, the last ones; of more than one, x is not transposed and y is. */
      readonly inner: number;
    }
  | {
      readonly kind: "separable";
      readonly x: GraphArray;
      readonly axes: readonly [number, number];
      readonly matrix: SmallMatrix;
      readonly perm: readonly number[];
    }
  | {
      readonly kind: "gather";
      readonly x: GraphArray;
      readonly indices: GraphArray;
      readonly axis: number;
      readonly at: number;
    }
  | {
      readonly kind: "scatter";
      readonly data: GraphArray;
      readonly indices: GraphArray;
      readonly updates: GraphArray;
      readonly axis: number;
      readonly mode: "add" | "update";
      readonly at: number;
    }
  | {
      readonly kind: "assemble";
      readonly fill: number | undefined;
      readonly pieces: readonly Required<Piece<GraphArray>>[];
    }
  | { readonly kind: "reference"; readonly call: ReferenceCall; readonly result: number }
  | { readonly kind: "view"; readonly of: GraphArray; readonly view: ViewKind };

/** Where an array of one kind comes from. */
export type SourceOf<K extends Source["kind"]> = Extract<Source, { readonly kind: K }>;

/** An instruction that runs as its record's plain kernel. */
export interface ReferenceCall {
  readonly instruction: Instruction;
  readonly operands: readonly (GraphArray | undefined)[];
  readonly results: GraphArray[];
}

/** An array of a graph. */
export class GraphArray implements NativeArray {
  /** Place in the order of computation. */
  id: number;
  readonly dtype: DType;
  readonly shape: Shape;
  source: Source;
  /** The operator that it is a part of. */
  readonly operator: string;

  constructor(id: number, dtype: DType, shape: Shape, source: Source, operator = "") {
    this.operator = operator;
    this.id = id;
    this.dtype = dtype;
    this.shape = shape;
    this.source = source;
  }

  get size(): number {
    return sizeOf(this.shape);
  }
}

/** True for an array that is put together from parts that do not overlap: pieces, and at most what is around a single one. */
export function isOfParts({ source }: GraphArray): boolean {
  if (source.kind !== "assemble") return false;
  const { fill, pieces } = source;
  return fill === undefined || (pieces.length === 1 && pieces[0]!.stride.every((stride) => stride === 1));
}

/** Arrays that one reads directly. */
export function operandsOf({ source }: GraphArray): readonly GraphArray[] {
  switch (source.kind) {
    case "map":
      return source.operands;
    case "reduce":
      return [source.x];
    case "matmul":
      return [source.x, source.y];
    case "separable":
      return [source.x];
    case "gather":
      return [source.x, source.indices];
    case "scatter":
      return [source.data, source.indices, source.updates];
    case "assemble":
      return source.pieces.map(({ x }) => x);
    case "reference":
      return source.call.operands.filter((operand) => operand !== undefined);
    case "view":
      return [source.of];
    default:
      return [];
  }
}

export interface Graph {
  /** In an order in which operands come first. */
  readonly arrays: readonly GraphArray[];
  readonly outputs: ReadonlyMap<string, GraphArray>;
  readonly inputs: ReadonlyMap<string, GraphArray>;
}

/** Elements of a row that fill few vectors. */
const shortRun = 16;
/** Element counts above which a reduction is made in two levels: of rows that are few, and of a single one. */
const longRow = 65536;
const longSingle = 8192;
/** Lengths of the first level's rows: at least, where they are found among divisors, and at most. */
const leastRow = 128;
const leastDivisor = 1024;
const rowLimit = 32768;

/**
 * Length of the first level's rows over these extents: the last ones that make a row of useful length, which other loops over the array have as
 * rows, too; else a divisor close below the limit; undefined if there is none.
 */
function rowOf(extents: readonly number[]): number | undefined {
  let row = 1;
  for (const extent of [...extents].reverse()) {
    if (row >= leastRow) break;
    row *= extent;
  }
  const size = sizeOf(extents);
  if (row >= leastRow && row <= longRow && size / row >= 8) return row;
  for (row = Math.min(rowLimit, size >> 3); row >= leastDivisor; row--) if (size % row === 0) return row;
  return undefined;
}

class Builder implements Native<GraphArray> {
  readonly arrays: GraphArray[] = [];
  readonly #strict: boolean;
  /** Views that only show another order of axes than that in which is computed. */
  readonly #reordered = new WeakMap<GraphArray, { readonly of: GraphArray; readonly perm: readonly number[] }>();
  readonly #reduced = new Map<string, GraphArray>();
  /** Arrays that were put together, by what they consist of. */
  readonly #assembled = new Map<string, GraphArray>();
  /** The operator that is being lowered, for reports, and its number in the program, for errors at run time. */
  #operator = "";
  #instruction = 0;

  constructor(strict: boolean) {
    this.#strict = strict;
  }

  /** Says what the arrays that are made from now on are parts of. */
  begin(operator: string, instruction = this.#instruction): void {
    this.#operator = operator;
    this.#instruction = instruction;
  }

  make(dtype: DType, shape: Shape, source: Source): GraphArray {
    const made = new GraphArray(this.arrays.length, dtype, shape, source, this.#operator);
    this.arrays.push(made);
    return made;
  }

  reorder(x: GraphArray, perm: readonly number[]): GraphArray {
    const view = this.permute(x, perm);
    if (view !== x) this.#reordered.set(view, { of: x, perm });
    return view;
  }

  /** An array in the order of axes in which `perm` gives the outer one. */
  #inside(x: GraphArray, perm: readonly number[]): GraphArray {
    const known = this.#reordered.get(x);
    if (known !== undefined && known.perm.join() === perm.join()) return known.of;
    const missing = perm.length - x.shape.length;
    const whole = missing === 0 ? x : this.reshape(x, [...new Array<number>(missing).fill(1), ...x.shape]);
    return this.permute(whole, inverse(perm));
  }

  map(dtype: DType, operands: readonly GraphArray[], f: (v: Lanes, ...lanes: Lane[]) => Lane): GraphArray {
    const shape = operands.reduce<Shape>((all, { shape: each }) => broadcastShapes(all, each)!, []);
    const home = operands.find((each) => this.#reordered.has(each) && each.shape.join() === shape.join());
    if (home !== undefined) {
      const { perm } = this.#reordered.get(home)!;
      const inner = operands.map((each) => this.#inside(each, perm));
      return this.reorder(this.map(dtype, inner, f), perm);
    }
    const round = this.#strict && dtype === "fp16";
    return this.make(dtype, shape, {
      kind: "map",
      operands,
      f: (v, lanes) => (round ? v.roundFloat16(f(v, ...lanes)) : (f(v, ...lanes) as Node)),
    });
  }

  /** An array of its own, in row-major order of its axes. */
  copy(x: GraphArray): GraphArray {
    return this.make(x.dtype, x.shape, { kind: "map", operands: [x], f: (_v, lanes) => lanes[0]! });
  }

  isConstant(x: GraphArray): boolean {
    const { source } = x;
    return source.kind === "view" ? this.isConstant(source.of) : source.kind === "constant";
  }

  dense(x: GraphArray): GraphArray {
    const access = accessOf(x, contiguousOf);
    if (access !== undefined && isContiguous(x.shape, access.strides)) return x;
    return this.#view(x, x.shape, { kind: "dense" });
  }

  reduce(fold: ReduceKind, x: GraphArray, axes: readonly number[]): GraphArray {
    const home = this.#reordered.get(x);
    if (home !== undefined) {
      const inner = axes.map((axis) => home.perm[axis]!);
      return this.reorder(this.reduce(fold, home.of, inner), home.perm);
    }
    const shape = x.shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent));
    const dtype = x.dtype === "fp16" ? "fp32" : x.dtype;
    const wide = axes.filter((axis) => x.shape[axis]! > 1);
    if (wide.length === 0) return this.map(dtype, [x], (_v, lane) => lane);
    // Axes that are not neighbours are reduced run by run, the last one first.
    const runs: number[][] = [];
    for (const axis of [...wide].sort((a, b) => a - b)) {
      const last = runs.at(-1);
      const neighbours = last !== undefined && x.shape.slice(last.at(-1)! + 1, axis).every((extent) => extent === 1);
      if (neighbours) last.push(axis);
      else runs.push([axis]);
    }
    runs.reverse();
    // A short one behind others last: these have vectors of columns then, and it has few elements left.
    const [last] = runs as [number[], ...number[][]];
    if (sizeOf(last.map((axis) => x.shape[axis]!)) < shortRun) runs.push(runs.shift()!);
    let result = x;
    for (const run of runs) result = this.#reduceRun(fold, result, run);
    return this.reshape(result, shape);
  }

  /** Reduces neighbouring axes; long rows that are few in two levels, so that there is work for every thread. The levels depend on the shape alone. */
  #reduceRun(fold: ReduceKind, x: GraphArray, axes: readonly number[]): GraphArray {
    const dtype = x.dtype === "fp16" ? "fp32" : x.dtype;
    const shape = x.shape.map((extent, axis) => (axes.includes(axis) ? 1 : extent));
    const length = sizeOf(axes.map((axis) => x.shape[axis]!));
    const inner = sizeOf(x.shape.slice(axes.at(-1)! + 1));
    const outer = x.size / length / inner;
    const few = outer === 1 ? length > longSingle : outer < 64 && length > longRow;
    const row = inner === 1 && few ? rowOf(axes.map((axis) => x.shape[axis]!)) : undefined;
    if (row !== undefined) {
      const rows = this.reduce(fold, this.reshape(x, [outer, length / row, row]), [2]);
      return this.reshape(this.reduce(fold, this.reshape(rows, [outer, length / row]), [1]), shape);
    }
    // Many rows: partial sums of blocks of rows, for the sake of digits and, where columns are few, of work for every thread.
    if (inner > 1 && length > 1024) {
      const block = [1024, 512, 256, 128, 64].find((each) => length % each === 0);
      if (block !== undefined) {
        const parts = this.reduce(fold, this.reshape(x, [outer, length / block, block, inner]), [2]);
        return this.reshape(this.reduce(fold, this.reshape(parts, [outer, length / block, inner]), [1]), shape);
      }
    }
    // A norm and its derivative want the same sums.
    const key = `${fold} ${x.id} ${axes.join()}`;
    let made = this.#reduced.get(key);
    if (made === undefined) this.#reduced.set(key, (made = this.make(dtype, shape, { kind: "reduce", fold, x, axes })));
    return made;
  }

  #view(x: GraphArray, shape: Shape, view: ViewKind): GraphArray {
    return this.make(x.dtype, shape, { kind: "view", of: x, view });
  }

  reshape(x: GraphArray, shape: Shape): GraphArray {
    invariant(sizeOf(shape) === x.size, () => `reshape of ${x.shape} to ${shape}`);
    if (shape.length === x.shape.length && shape.every((extent, axis) => extent === x.shape[axis])) return x;
    if (x.source.kind === "view" && x.source.view.kind === "reshape") return this.reshape(x.source.of, shape);
    const home = this.#reordered.get(x);
    const parts = home && partsOf(x.shape, shape);
    if (home !== undefined && parts !== undefined) {
      // In the order of memory: where axes that are joined are neighbours there, too.
      const order = inverse(home.perm);
      const at = (axis: number) => order.indexOf(axis);
      const joins = parts.every(({ from }) => from.every((axis, i) => i === 0 || at(axis) === at(from[i - 1]!) + 1));
      if (joins) {
        const inside = [...parts].sort((a, b) => at(a.from[0]!) - at(b.from[0]!)).flatMap(({ to }) => to);
        const made = this.reshape(
          home.of,
          inside.map((axis) => shape[axis]!),
        );
        return this.reorder(made, inverse(inside));
      }
    }
    return this.#view(x, shape, { kind: "reshape" });
  }

  split(x: GraphArray, axis: number): readonly GraphArray[] | undefined {
    const home = this.#reordered.get(x);
    if (home !== undefined) {
      const inner = home.perm[axis]!;
      const perm = home.perm.filter((_, i) => i !== axis).map((each) => (each > inner ? each - 1 : each));
      return this.split(home.of, inner)?.map((piece) => this.reorder(piece, perm));
    }
    if (x.source.kind !== "assemble") return undefined;
    const { pieces } = x.source;
    const wanted = x.shape.toSpliced(axis, 1, 1).join();
    const whole = pieces.every(({ x: piece, begin }, i) => piece.shape.join() === wanted && begin[axis] === i);
    if (pieces.length !== x.shape[axis] || !whole) return undefined;
    return pieces.map(({ x: piece }) => this.reshape(piece, x.shape.toSpliced(axis, 1)));
  }

  permute(x: GraphArray, perm: readonly number[]): GraphArray {
    const home = this.#reordered.get(x);
    if (home !== undefined) {
      return this.permute(
        home.of,
        perm.map((axis) => home.perm[axis]!),
      );
    }
    if (perm.every((axis, i) => axis === i)) return x;
    return this.#view(
      x,
      perm.map((axis) => x.shape[axis]!),
      { kind: "permute", perm },
    );
  }

  slice(x: GraphArray, begin: readonly number[], size: readonly number[], stride: readonly number[]): GraphArray {
    if (size.every((extent, axis) => extent === x.shape[axis])) return x;
    const home = this.#reordered.get(x);
    if (home !== undefined) {
      const inner = (list: readonly number[]) => inverse(home.perm).map((axis) => list[axis]!);
      return this.reorder(this.slice(home.of, inner(begin), inner(size), inner(stride)), home.perm);
    }
    return this.#view(x, size, { kind: "slice", begin, stride });
  }

  broadcast(x: GraphArray, shape: Shape): GraphArray {
    return this.#view(x, shape, { kind: "broadcast" });
  }

  windows(x: GraphArray, first: number, axes: readonly WindowAxis[]): GraphArray {
    const [before, after] = [x.shape.slice(0, first), x.shape.slice(first + axes.length)];
    const shape = [...before, ...axes.map(({ out }) => out), ...axes.map(({ kernel }) => kernel), ...after];
    return this.#view(x, shape, { kind: "windows", first, axes });
  }

  assemble(dtype: DType, shape: Shape, fill: number | undefined, pieces: readonly Piece<GraphArray>[]): GraphArray {
    const full = pieces.map(({ x, begin, stride = shape.map(() => 1) }) => ({ x, begin, stride }));
    const home = pieces.flatMap(({ x }) => this.#reordered.get(x) ?? [])[0];
    if (home !== undefined) {
      const inner = (list: readonly number[]) => inverse(home.perm).map((axis) => list[axis]!);
      const moved = full.map(({ x, begin, stride }) => ({
        x: this.#inside(x, home.perm),
        begin: inner(begin),
        stride: inner(stride),
      }));
      return this.reorder(this.assemble(dtype, inner(shape), fill, moved), home.perm);
    }
    // What several read of one array, as a convolution and its derivative do with the same padding, is put together once.
    const parts = full.map(({ x, begin, stride }) => {
      const access = accessOf(x, contiguousOf);
      return [access?.root.id ?? `view ${x.id}`, access?.offset, access?.strides, x.shape, begin, stride];
    });
    const key = JSON.stringify([dtype, shape, Object.is(fill, -0) ? "-0" : String(fill), parts]);
    let made = this.#assembled.get(key);
    if (made === undefined) {
      made = this.make(dtype, shape, { kind: "assemble", fill, pieces: full });
      this.#assembled.set(key, made);
    }
    return made;
  }

  matmul(dtype: DType, x: GraphArray, y: GraphArray, transposeX: boolean, transposeY: boolean): GraphArray {
    const m = x.shape.at(transposeX ? -1 : -2)!;
    const n = y.shape.at(transposeY ? -2 : -1)!;
    const batch = broadcastShapes(x.shape.slice(0, -2), y.shape.slice(0, -2))!;
    return this.make(dtype, [...batch, m, n], { kind: "matmul", x, y, transposeX, transposeY, inner: 1 });
  }

  contract(dtype: DType, x: GraphArray, y: GraphArray, inner: number): GraphArray {
    const [m, n] = [x.shape.at(-1 - inner)!, y.shape.at(-1 - inner)!];
    const batch = broadcastShapes(x.shape.slice(0, -1 - inner), y.shape.slice(0, -1 - inner))!;
    const source = { kind: "matmul", x, y, transposeX: false, transposeY: true, inner } as const;
    return this.make(dtype, [...batch, m, n], source);
  }

  separable(
    dtype: DType,
    x: GraphArray,
    axes: readonly [number, number],
    matrix: SmallMatrix,
    perm: readonly number[],
  ): GraphArray {
    const natural = x.shape.map((extent, axis) => (axes.includes(axis) ? matrix.length : extent));
    const shape = perm.map((axis) => natural[axis]!);
    const access = accessOf(x, contiguousOf);
    const source = access?.root.source;
    if (access !== undefined && source?.kind === "constant") {
      const { offset, strides } = access;
      const data = separableOf(source.data, { shape: x.shape, offset, strides }, axes, matrix, perm);
      return this.make(dtype, shape, { kind: "constant", data });
    }
    return this.make(dtype, shape, { kind: "separable", x, axes, matrix, perm });
  }

  gather(x: GraphArray, indices: GraphArray, axis: number): GraphArray {
    const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)];
    return this.make(x.dtype, shape, { kind: "gather", x, indices, axis, at: this.#instruction });
  }

  scatter(
    data: GraphArray,
    indices: GraphArray,
    updates: GraphArray,
    axis: number,
    mode: "add" | "update",
  ): GraphArray {
    return this.make(data.dtype, data.shape, {
      kind: "scatter",
      data,
      indices,
      updates,
      axis,
      mode,
      at: this.#instruction,
    });
  }
}

const contiguousOf = (root: GraphArray) => contiguous(root.shape);

/** `Native.separable` of a constant, in double precision. */
function separableOf(
  data: ValueArray,
  { shape, offset, strides }: { readonly shape: Shape; readonly offset: number; readonly strides: readonly number[] },
  [a, b]: readonly [number, number],
  matrix: SmallMatrix,
  perm: readonly number[],
): Float32Array<ArrayBuffer> {
  const natural = shape.map((extent, axis) => (axis === a || axis === b ? matrix.length : extent));
  const result = new Float32Array(sizeOf(natural));
  const target = contiguous(perm.map((axis) => natural[axis]!));
  const to = natural.map((_, axis) => target[perm.indexOf(axis)]!);
  const outer = shape.map((extent, axis) => (axis === a || axis === b ? 1 : extent));
  const sources = offsetsOf(outer, strides);
  const targets = offsetsOf(outer, to);
  const [rows, columns] = [shape[a]!, shape[b]!];
  const half = new Float64Array(matrix.length * columns);
  for (const [at, source] of sources.entries()) {
    for (const [i, row] of matrix.entries()) {
      for (let column = 0; column < columns; column++) {
        let sum = 0;
        for (let each = 0; each < rows; each++)
          sum += row[each]! * data[offset + source + each * strides[a]! + column * strides[b]!]!;
        half[i * columns + column] = sum;
      }
    }
    for (let i = 0; i < matrix.length; i++) {
      for (const [j, row] of matrix.entries()) {
        let sum = 0;
        for (let each = 0; each < columns; each++) sum += row[each]! * half[i * columns + each]!;
        result[targets[at]! + i * to[a]! + j * to[b]!] = sum;
      }
    }
  }
  return result;
}

/** The permutation that undoes `perm`. */
function inverse(perm: readonly number[]): number[] {
  const undone = new Array<number>(perm.length);
  for (const [i, axis] of perm.entries()) undone[axis] = i;
  return undone;
}

/** A sum of a value and of rows scattered over zeros. */
interface ScatterInto {
  readonly scatter: Instruction;
  /** Number of the scatter in the program. */
  readonly at: number;
  /** The value. */
  readonly into: number;
}

/** True for an array of zeros. */
export function isZero(data: ValueArray): boolean {
  for (let i = 0; i < data.length; i++) if (data[i] !== 0) return false;
  return true;
}

/** Additions of a scatter over zeros that nobody else reads: they may scatter into the other operand instead (the derivative of an embedding that is also the output head). */
function scattersIntoSums(program: Program): Map<number, ScatterInto> {
  const zeros = new Set(program.constants.flatMap(({ value, data }) => (isZero(data) ? [value] : [])));
  const uses = new Map<number, number>();
  for (const { inputs } of program.instructions)
    for (const value of inputs) uses.set(value, (uses.get(value) ?? 0) + 1);
  for (const { value } of program.outputs) uses.set(value, (uses.get(value) ?? 0) + 1);
  const candidates = new Map<number, { scatter: Instruction; at: number }>();
  for (const [at, instruction] of program.instructions.entries()) {
    const { op, attrs, inputs, results } = instruction;
    const fits = op.name === "scatter" && attrs.mode === "add" && zeros.has(inputs[0]!) && uses.get(results[0]!) === 1;
    if (fits) candidates.set(results[0]!, { scatter: instruction, at });
  }
  const found = new Map<number, ScatterInto>();
  for (const [at, { op, inputs, results }] of program.instructions.entries()) {
    if (op.name !== "add") continue;
    const side = candidates.has(inputs[0]!) ? 0 : candidates.has(inputs[1]!) ? 1 : undefined;
    if (side === undefined) continue;
    const into = inputs[1 - side]!;
    const shapes = [into, inputs[side]!, results[0]!].map((value) => program.values[value]!.shape.join());
    if (new Set(shapes).size === 1) found.set(at, { ...candidates.get(inputs[side]!)!, into });
  }
  return found;
}

/** Translates a program. Strict rounding: every operator's fp16 results are rounded, and operators whose native form is not exact run as their plain kernels. */
export function buildGraph(program: Program, strict: boolean): Graph {
  const builder = new Builder(strict);
  const values: (GraphArray | undefined)[] = [];
  const inputs = new Map<string, GraphArray>();
  for (const { name, value } of program.inputs) {
    const { dtype, shape } = program.values[value]!;
    const made = builder.make(dtype, shape, { kind: "input", port: name });
    inputs.set(name, made);
    values[value] = made;
  }
  for (const { value, data } of program.constants) {
    const { dtype, shape } = program.values[value]!;
    values[value] = builder.make(dtype, shape, { kind: "constant", data });
  }
  const merged = strict ? new Map<number, ScatterInto>() : scattersIntoSums(program);
  for (const [at, instruction] of program.instructions.entries()) {
    const { op, attrs, results } = instruction;
    const sum = merged.get(at);
    builder.begin(op.name, sum?.at ?? at);
    if (sum !== undefined) {
      const { axis } = sum.scatter.attrs as { axis: number };
      const [, indices, updates] = sum.scatter.inputs.map((value) => values[value]!) as [
        GraphArray,
        GraphArray,
        GraphArray,
      ];
      values[results[0]!] = builder.scatter(values[sum.into]!, indices, updates, axis, "add");
      continue;
    }
    const avals = results.map((value) => program.values[value]!);
    const native = op.native !== undefined && (!strict || op.nativeExact === true);
    if (!native) {
      const operands = instruction.inputs.map((value) => (value < 0 ? undefined : values[value]!));
      const call: ReferenceCall = { instruction, operands, results: [] };
      for (const [i, { dtype, shape }] of avals.entries()) {
        const made = builder.make(dtype, shape, { kind: "reference", call, result: i });
        call.results.push(made);
        values[results[i]!] = made;
      }
      continue;
    }
    const operands = instructionOperands(instruction, (value) => values[value]!);
    const lowered = op.native!(builder, operands, attrs, avals as never);
    const made = (Array.isArray(lowered) ? lowered : [lowered]) as GraphArray[];
    for (const [i, array] of made.entries()) {
      const { dtype, shape } = avals[i]!;
      const same =
        array.dtype === dtype &&
        array.shape.length === shape.length &&
        array.shape.every((extent, axis) => extent === shape[axis]);
      invariant(same, () => `the native form of ${op.name} gives ${array.dtype} ${array.shape}, not ${dtype} ${shape}`);
      values[results[i]!] = array;
    }
  }
  const outputs = new Map<string, GraphArray>();
  const taken = new Set<GraphArray>();
  for (const { name, value } of program.outputs) {
    let array = values[value]!;
    // An output is stored in its port's memory: it needs a computation of its own.
    const owns = !["view", "input", "constant"].includes(array.source.kind);
    if (!owns || taken.has(array)) array = builder.copy(array);
    taken.add(array);
    outputs.set(name, array);
  }
  if (!strict) mergeBatches(builder, outputs);
  return { arrays: live(builder.arrays, outputs), outputs, inputs };
}

/**
 * A batched product that is summed over its batch is one product whose inner dimension runs over the batch, too: the derivative of weights that all
 * samples share.
 */
function mergeBatches(builder: Builder, outputs: ReadonlyMap<string, GraphArray>): void {
  const uses = new Map<GraphArray, number>();
  const count = (array: GraphArray) => uses.set(array, (uses.get(array) ?? 0) + 1);
  for (const array of builder.arrays) for (const operand of operandsOf(array)) count(operand);
  for (const array of outputs.values()) count(array);
  for (const array of [...builder.arrays]) {
    const { source } = array;
    if (source.kind !== "reduce" || source.fold !== "sum") continue;
    let product = source.x;
    while (product.source.kind === "view" && product.source.view.kind === "reshape" && uses.get(product) === 1)
      product = product.source.of;
    if (product.source.kind !== "matmul" || uses.get(product) !== 1) continue;
    const { x, y, transposeX, transposeY } = product.source;
    const [m, n] = product.shape.slice(-2) as [number, number];
    const batch = product.size / m / n;
    const k = x.shape.at(-2)!;
    const whole = x.size === batch * m * k && y.size === batch * n * k && array.size === m * n;
    // The leading elements that are summed are the batch, in whatever shape it was seen.
    const extents = source.x.shape;
    const leading = extents.slice(0, Math.max(...source.axes) + 1);
    const sums =
      leading.every((extent, axis) => extent === 1 || source.axes.includes(axis)) && sizeOf(leading) === batch;
    if (batch === 1 || !whole || !sums || !transposeX || transposeY) continue;
    const rows = (operand: GraphArray, columns: number) => builder.reshape(operand, [batch * k, columns]);
    builder.begin("matmul");
    const merged = builder.matmul(array.dtype, rows(x, m), rows(y, n), true, false);
    array.source = { kind: "view", of: merged, view: { kind: "reshape" } };
  }
  // What was made last must come before what reads it.
  const order: GraphArray[] = [];
  const seen = new Set<GraphArray>();
  const visit = (array: GraphArray) => {
    if (seen.has(array)) return;
    seen.add(array);
    if (array.id >= 0) for (const operand of operandsOf(array)) if (operand.id > array.id) visit(operand);
    order.push(array);
  };
  for (const array of builder.arrays) visit(array);
  builder.arrays.splice(0, builder.arrays.length, ...order);
  for (const [i, array] of order.entries()) array.id = i;
}

/** Arrays that the outputs need, in the order in which they were made. */
function live(arrays: readonly GraphArray[], outputs: ReadonlyMap<string, GraphArray>): GraphArray[] {
  const needed = new Set<GraphArray>();
  const stack = [...outputs.values()];
  for (let array = stack.pop(); array !== undefined; array = stack.pop()) {
    if (needed.has(array)) continue;
    needed.add(array);
    stack.push(...operandsOf(array));
    if (array.source.kind === "reference") stack.push(...array.source.call.results);
  }
  return arrays.filter((array) => needed.has(array));
}

/** Strides of a new shape over the same elements, where they can be expressed; undefined otherwise. */
export function reshapeStrides(shape: Shape, strides: readonly number[], target: Shape): number[] | undefined {
  const from = shape.flatMap((extent, axis) => (extent === 1 ? [] : [{ extent, stride: strides[axis]! }]));
  const result: number[] = new Array(target.length).fill(0);
  let i = 0;
  let axis = 0;
  while (axis < target.length) {
    if (target[axis] === 1) {
      axis++;
      continue;
    }
    // The shortest runs of both shapes that hold the same number of elements.
    let [taken, made] = [from[i]!.extent, target[axis]!];
    const [first, start] = [i++, axis++];
    while (taken !== made) {
      if (taken < made) taken *= from[i++]!.extent;
      else if (target[axis] === 1) axis++;
      else made *= target[axis++]!;
    }
    for (let at = first; at + 1 < i; at++) {
      if (from[at]!.stride !== from[at + 1]!.stride * from[at + 1]!.extent) return undefined;
    }
    let stride = from[i - 1]!.stride;
    for (let at = axis - 1; at >= start; at--) {
      if (target[at] === 1) continue;
      result[at] = stride;
      stride *= target[at]!;
    }
  }
  return result;
}

/** Runs of axes of a shape, and of another shape of the same elements, that hold the same ones; undefined where an axis of 1 belongs to none. */
function partsOf(
  from: Shape,
  to: Shape,
): { readonly from: readonly number[]; readonly to: readonly number[] }[] | undefined {
  const parts: { from: number[]; to: number[] }[] = [];
  let [i, j] = [0, 0];
  while (i < from.length && j < to.length) {
    const part = { from: [i], to: [j] };
    let [taken, made] = [from[i++]!, to[j++]!];
    while (taken !== made) {
      if (taken < made && i < from.length) [taken, part.from] = [taken * from[i]!, [...part.from, i++]];
      else if (taken > made && j < to.length) [made, part.to] = [made * to[j]!, [...part.to, j++]];
      else return undefined;
    }
    parts.push(part);
  }
  // Axes of 1 at the end go with the last part.
  const last = parts.at(-1);
  if (last === undefined || from.slice(i).some((extent) => extent !== 1)) return undefined;
  last.to.push(...to.slice(j).map((_, at) => j + at));
  return i === from.length ? parts : undefined;
}

/** Where an array's elements are in an array that has memory of its own. */
export interface Access {
  readonly root: GraphArray;
  /** Elements from the root's first. */
  readonly offset: number;
  /** Elements, for every axis of the array. */
  readonly strides: readonly number[];
}

/** Looks through views; `layout` gives the strides of a root. Undefined where a reshape needs a copy. */
export function accessOf(array: GraphArray, layout: (root: GraphArray) => readonly number[]): Access | undefined {
  const { source } = array;
  if (source.kind !== "view") return { root: array, offset: 0, strides: layout(array) };
  const inner = accessOf(source.of, layout);
  if (inner === undefined) return undefined;
  const { root, offset, strides } = inner;
  const { view, of } = source;
  switch (view.kind) {
    case "reshape": {
      const reshaped = reshapeStrides(of.shape, strides, array.shape);
      return reshaped && { root, offset, strides: reshaped };
    }
    case "permute":
      return { root, offset, strides: view.perm.map((axis) => strides[axis]!) };
    case "slice": {
      const first = view.begin.reduce((sum, begin, axis) => sum + begin * strides[axis]!, offset);
      return { root, offset: first, strides: strides.map((stride, axis) => stride * view.stride[axis]!) };
    }
    case "windows": {
      const { first } = view;
      const axes = view.axes.map((window, i) => ({ ...window, each: strides[first + i]! }));
      return {
        root,
        offset: axes.reduce((sum, { begin, each }) => sum + begin * each, offset),
        strides: [
          ...strides.slice(0, first),
          ...axes.map(({ stride, each }) => stride * each),
          ...axes.map(({ step, each }) => step * each),
          ...strides.slice(first + axes.length),
        ],
      };
    }
    case "dense":
      return isContiguous(array.shape, strides) ? inner : undefined;
    case "broadcast": {
      const pad = array.shape.length - of.shape.length;
      return {
        root,
        offset,
        strides: array.shape.map((extent, axis) =>
          axis < pad || (of.shape[axis - pad] === 1 && extent !== 1) ? 0 : strides[axis - pad]!,
        ),
      };
    }
  }
}

/** True for strides of elements in row-major order. */
function isContiguous(shape: Shape, strides: readonly number[]): boolean {
  const whole = contiguous(shape);
  return shape.every((extent, axis) => extent === 1 || strides[axis] === whole[axis]);
}

/** Row-major strides. */
export const contiguous: (shape: Shape) => number[] = (shape) => [...stridesOf(shape)];
