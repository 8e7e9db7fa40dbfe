// Plans what moves data without computing: copies, rows looked up or added by index, arrays that are put together.

import { type DType, dtypeBytes } from "../../core/dtype.ts";
import { float16Bits } from "../../core/float16.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Piece } from "../../ops/native.ts";
import { floatBits } from "./expression.ts";
import { rootOf } from "./fuse.ts";
import { contiguous, type GraphArray, isOfParts, isZero, type SourceOf } from "./graph.ts";
import { planCopy, planFill } from "./kernels/copy.ts";
import { planGather } from "./kernels/index-gather.ts";
import { planScatter } from "./kernels/index-scatter.ts";
import { planSeparable } from "./kernels/separable.ts";
import type { Layout } from "./layout.ts";
import { type Memory, ownerOf, type Place, requireInside } from "./memory.ts";
import type { Steps, Target } from "./steps.ts";

/** Elements in memory; strides in elements. */
export interface Strided {
  readonly place: Place;
  readonly strides: readonly number[];
}

export class Moves {
  readonly #target: Target;
  readonly #layout: Layout;
  readonly #memory: Memory;
  readonly #steps: Steps;

  constructor(target: Target, layout: Layout, memory: Memory, steps: Steps) {
    this.#target = target;
    this.#layout = layout;
    this.#memory = memory;
    this.#steps = steps;
  }

  copy(dtype: DType, shape: readonly number[], source: Strided, target: Strided): void {
    const { isa, threads } = this.#target;
    // Axes that the source counts down are gone along in the other direction: kernels know neighbours by a stride of 1.
    const down = (axis: number) => source.strides[axis]! < 0;
    const upwards = ({ place, strides }: Strided): Strided => {
      const skipped = shape.reduce((sum, extent, axis) => (down(axis) ? sum + (extent - 1) * strides[axis]! : sum), 0);
      return {
        place: { ...place, offset: place.offset + skipped * dtypeBytes[dtype] },
        strides: strides.map((stride, axis) => (down(axis) ? -stride : stride)),
      };
    };
    const [from, to] = [upwards(source), upwards(target)];
    requireInside(from.place, dtype, shape, from.strides);
    requireInside(to.place, dtype, shape, to.strides);
    const bytes = dtypeBytes[dtype] as 1 | 2 | 4;
    const plan = planCopy({ bytes, shape, from: from.strides, to: to.strides }, isa, threads);
    this.#steps.native(
      "copy",
      plan,
      (arg) => (arg === "from" ? from.place : to.place),
      (arg) => arg === "to",
    );
  }

  /** The elements of an array in row-major order: where they are, or a copy. */
  dense(array: GraphArray): Place {
    const { dtype, shape } = array;
    const { root, offset, strides } = this.#layout.access(array);
    const wanted = contiguous(shape);
    if (shape.every((extent, axis) => extent === 1 || strides[axis] === wanted[axis]))
      return this.#memory.place(root, offset);
    const place = this.#memory.allocate("arena", array.size * dtypeBytes[dtype]);
    this.copy(dtype, shape, { place: this.#memory.place(root, offset), strides }, { place, strides: wanted });
    return place;
  }

  /** A small matrix along two axes. */
  separable(array: GraphArray): void {
    const { x, axes, matrix, perm } = array.source as SourceOf<"separable">;
    const { isa, threads } = this.#target;
    const access = this.#layout.access(x);
    const lanes = x.shape.length - 1;
    const inPlace = access.strides[lanes] === 1;
    const from = inPlace ? this.#memory.place(access.root, access.offset) : this.dense(x);
    const strides = inPlace ? access.strides : contiguous(x.shape);
    const target = this.#layout.place(array).strides;
    const to = this.#memory.place(array);
    const natural = x.shape.map((_, axis) => target[perm.indexOf(axis)]!);
    const shape = perm.map((_, i) => array.shape[perm.indexOf(i)]!);
    requireInside(from, x.dtype, x.shape, strides);
    requireInside(to, array.dtype, shape, natural);
    const plan = planSeparable(
      {
        from: { storage: x.dtype as "fp16" | "fp32", strides },
        to: { storage: array.dtype as "fp16" | "fp32", strides: natural },
        shape: x.shape,
        axes,
        matrix,
      },
      isa,
      threads,
    );
    this.#steps.native(
      "separable",
      plan,
      (arg) => (arg === "from" ? from : to),
      (arg) => arg === "to",
      array.operator,
    );
  }

  gather(array: GraphArray): void {
    const { x, indices, axis, at } = array.source as SourceOf<"gather">;
    const { isa, threads } = this.#target;
    const places = { x: this.dense(x), index: this.dense(indices), out: this.#memory.place(array) };
    requireInside(places.x, x.dtype, [x.size], [1]);
    requireInside(places.index, "int32", [indices.size], [1]);
    requireInside(places.out, array.dtype, [array.size], [1]);
    const plan = planGather(
      {
        bytes: dtypeBytes[x.dtype] as 1 | 2 | 4,
        outer: sizeOf(x.shape.slice(0, axis)),
        extent: x.shape[axis]!,
        inner: sizeOf(x.shape.slice(axis + 1)),
        count: indices.size,
        step: at,
      },
      isa,
      threads,
    );
    this.#steps.native(
      "gather",
      plan,
      (arg) => places[arg],
      (arg) => arg === "out",
    );
  }

  scatter(array: GraphArray): void {
    const { data, indices, updates, axis, mode, at } = array.source as SourceOf<"scatter">;
    const { isa, threads } = this.#target;
    const { source } = rootOf(data);
    const zeroData = source.kind === "constant" && isZero(source.data);
    const inPlace = !zeroData && this.#scattersInPlace(array);
    const places = {
      data: zeroData ? undefined : this.dense(data),
      index: this.dense(indices),
      updates: this.dense(updates),
      out: this.#memory.place(array),
    };
    if (places.data !== undefined) requireInside(places.data, array.dtype, [array.size], [1]);
    requireInside(places.index, "int32", [indices.size], [1]);
    requireInside(places.updates, array.dtype, [updates.size], [1]);
    requireInside(places.out, array.dtype, [array.size], [1]);
    const plan = planScatter(
      {
        dtype: array.dtype as "fp32" | "fp16" | "int32",
        outer: sizeOf(data.shape.slice(0, axis)),
        extent: data.shape[axis]!,
        inner: sizeOf(data.shape.slice(axis + 1)),
        count: indices.size,
        mode,
        inPlace,
        zeroData,
        step: at,
      },
      isa,
      threads,
    );
    const temps = plan.temps.map((bytes) => this.#memory.allocate("arena", bytes));
    for (const step of plan.steps) {
      this.#steps.native(
        "scatter",
        step,
        (arg) => (typeof arg === "object" ? temps[arg.temp]! : places[arg]!),
        (arg) => arg === "out" || typeof arg === "object",
      );
    }
  }

  /** Gives a scatter's result the memory of the data that it changes, if only the scatter reads that, with the same elements in the same order. */
  #scattersInPlace(array: GraphArray): boolean {
    const { data, indices, updates } = array.source as SourceOf<"scatter">;
    const memory = this.#memory;
    const storageOf = (root: GraphArray) => memory.place(root).storage;
    const others = [indices, updates].map((operand) => ownerOf(storageOf(rootOf(operand))));
    const { root, offset, strides } = this.#layout.access(data);
    const from = storageOf(root);
    if (others.includes(ownerOf(from))) return false;
    const wanted = contiguous(array.shape);
    const alike = offset === 0 && data.shape.every((extent, axis) => extent === 1 || strides[axis] === wanted[axis]);
    const to = storageOf(array);
    return alike && !memory.isShared(array) && memory.takeOver(to, from, root, [array]);
  }

  /** Stores a number wherever a piece does not. */
  #fillAround(array: GraphArray, fill: number, { x, begin }: Required<Piece<GraphArray>>): void {
    const { dtype, shape } = array;
    const { strides } = this.#layout.place(array);
    const number = this.#memory.number(dtype, fill);
    for (const slab of around(shape, begin, x.shape)) {
      const start = slab.begin.reduce((sum, at, axis) => sum + at * strides[axis]!, 0);
      const from = { place: number, strides: shape.map(() => 0) };
      this.copy(dtype, slab.size, from, { place: this.#memory.place(array, start), strides });
    }
  }

  assemble(array: GraphArray): void {
    const { fill, pieces } = array.source as SourceOf<"assemble">;
    const { isa, threads } = this.#target;
    const { strides } = this.#layout.place(array);
    const [piece] = pieces;
    if (fill !== undefined && piece !== undefined && isOfParts(array)) this.#fillAround(array, fill, piece);
    else if (fill !== undefined) {
      const bytes = dtypeBytes[array.dtype] as 1 | 2 | 4;
      const plan = planFill({ bytes, count: array.size, bits: bitsOf(array.dtype, fill) }, isa, threads);
      const place = this.#memory.place(array);
      this.#steps.native(
        "fill",
        plan,
        () => place,
        () => true,
      );
    }
    for (const { x, begin, stride } of pieces) {
      const start = begin.reduce((sum, at, axis) => sum + at * strides[axis]!, 0);
      const placed = this.#layout.place(x);
      if (placed.host === array && placed.offset === start) continue; // computed there; others may read it, too
      const { root, offset, strides: from } = this.#layout.access(x);
      this.copy(
        array.dtype,
        x.shape,
        { place: this.#memory.place(root, offset), strides: from },
        { place: this.#memory.place(array, start), strides: strides.map((each, axis) => each * stride[axis]!) },
      );
    }
  }
}

/** The parts of an array around a piece of it: slabs before and behind it along each axis. */
function around(
  shape: readonly number[],
  begin: readonly number[],
  size: readonly number[],
): { begin: number[]; size: number[] }[] {
  return shape.flatMap((extent, axis) => {
    const slab = (from: number, to: number) => ({
      begin: shape.map((_, i) => (i < axis ? begin[i]! : i === axis ? from : 0)),
      size: shape.map((whole, i) => (i < axis ? size[i]! : i === axis ? to - from : whole)),
    });
    const end = begin[axis]! + size[axis]!;
    return [slab(0, begin[axis]!), slab(end, extent)].filter(({ size: each }) => each[axis]! > 0);
  });
}

/** Bits of a number in a dtype. */
function bitsOf(dtype: DType, value: number): number {
  if (dtype === "fp32") return floatBits(value);
  if (dtype === "fp16") return float16Bits(value);
  return dtype === "bool" ? Number(value !== 0) : value;
}
