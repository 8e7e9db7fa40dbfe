// Plans matrix products, alone and in chains: where their matrices are, packed copies that several share, rows that end early.

import { dtypeBytes } from "../../core/dtype.ts";
import { sizeOf } from "../../core/shape.ts";
import { type Chain, endsOfRows, type RowEnds } from "./chains.ts";
import { type ComposedStep, type Product, planChain, planTriangular } from "./compose.ts";
import { rootOf } from "./fuse.ts";
import type { GraphArray, SourceOf } from "./graph.ts";
import { type GemmArgument, type GemmSpec, type Matrix, planGemm } from "./kernels/gemm.ts";
import { planSgemm } from "./kernels/sgemm.ts";
import type { StepPlan } from "./kernels/step.ts";
import type { Layout } from "./layout.ts";
import { type Memory, type Place, requireInside, type Storage } from "./memory.ts";
import type { Nests } from "./nests.ts";
import type { Steps, Target } from "./steps.ts";

export class Products {
  readonly #target: Target;
  readonly #layout: Layout;
  readonly #nests: Nests;
  readonly #memory: Memory;
  readonly #steps: Steps;
  /** Packed copies of matrices, by their storage, and by place and form in it. */
  readonly #packed = new Map<Storage, Map<string, Place>>();
  /** Arrays of rows that are 0 from some column on. */
  readonly #ends = new Map<GraphArray, RowEnds>();

  constructor(target: Target, layout: Layout, nests: Nests, memory: Memory, steps: Steps) {
    this.#target = target;
    this.#layout = layout;
    this.#nests = nests;
    this.#memory = memory;
    this.#steps = steps;
  }

  /** Adds the steps of a product: packing, unless another product has packed the same, and the product. */
  matmul(array: GraphArray): void {
    const { x, y } = array.source as SourceOf<"matmul">;
    const { isa, threads, sgemm } = this.#target;
    const product = this.#product(array);
    const { a, b, c } = product;
    const ends = this.#endsOf(product);
    if (ends !== undefined) {
      this.#composed("matmul", planTriangular(product, ends, isa, threads), `${nameOf(product)}, lower triangle`);
      return;
    }
    const aConstant = rootOf(x).source.kind === "constant";
    const bConstant = rootOf(y).source.kind === "constant";
    const plan = planGemm({ ...specOf(product), aConstant, bConstant }, isa, threads, sgemm);
    const kept = new Set(plan.kept.map(({ temp }) => temp));
    const temps = plan.temps.map((bytes, i) => this.#memory.allocate(kept.has(i) ? "constant" : "arena", bytes));
    const operands = { a: a.place, b: b.place, c: c.place } as const;
    const isTemp = (arg: GemmArgument) => typeof arg === "object";
    const placeOf = (arg: GemmArgument) => (typeof arg === "object" ? temps[arg.temp]! : operands[arg]);
    /** The packed copy that another product of the same operand has made; else this product makes it. */
    const packedBefore = (step: StepPlan<GemmArgument>): boolean => {
      const [source, target] = step.args as readonly ["a" | "b", { readonly temp: number }];
      const { storage, offset } = operands[source];
      const key = `${offset} ${step.key}`;
      const packed = this.#packed.get(storage) ?? new Map<string, Place>();
      this.#packed.set(storage, packed);
      const known = packed.get(key);
      if (known === undefined) packed.set(key, temps[target.temp]!);
      else temps[target.temp] = known;
      return known !== undefined;
    };
    for (const step of plan.setup) if (!packedBefore(step)) this.#steps.pack(step, placeOf, isTemp);
    const what = `${nameOf(product)}${plan.by === undefined ? "" : `, by ${plan.by}`}`;
    for (const step of plan.steps) {
      const packs = step.flops === 0;
      if (!packs) this.#steps.native("matmul", step, placeOf, (arg) => arg === "c", what);
      else if (!packedBefore(step)) this.#steps.native("pack", step, placeOf, isTemp, what);
    }
  }

  #composed(name: string, { plan, places, writes }: ComposedStep, parts: string): void {
    this.#steps.native(
      name,
      plan,
      (arg) => places[arg]!,
      (arg) => writes[arg]!,
      parts,
    );
  }

  /** Adds one step for the groups of a chain. False, and nothing added, where their memory does not fit together, or a library is to compute a product. */
  chain(chain: Chain): boolean {
    const { isa, threads, sgemm } = this.#target;
    const { firsts, loop, second, inner } = chain;
    const { spec, touched, parts } = this.#nests.of(loop);
    const places = touched.map(({ access }) => this.#memory.place(access.root, access.offset));
    const products = firsts.map(({ members }) => this.#product(members[0]!));
    // A library's product is worth more than a loop that finds it in the cache; attention is not: it leaves out what is masked, and stores no scores.
    if (
      sgemm !== undefined &&
      second === undefined &&
      products.some((each) => planSgemm(specOf(each), sgemm) !== undefined)
    )
      return false;
    const last = second && this.#product(second.members[0]!);
    const rows = endsOfRows(chain, this.#nests.of(loop), products[0]!, this.#ends);
    const operandOf = (root: GraphArray) => touched.findIndex(({ access }) => access.root === root);
    const replaces = spec.stores.some(({ operand }) => this.#memory.replaces(places[operand]!, places));
    const step = planChain(
      {
        firsts: products,
        spec: { ...spec, inPlace: replaces },
        places,
        values: products.map(({ c }) => operandOf(c.root)),
        second: last && { product: last, rows: operandOf(last.a.root) },
        inner: new Set(touched.flatMap(({ access, index }) => (inner.has(access.root) ? [index] : []))),
        ends: rows?.ends,
      },
      isa,
      threads,
    );
    if (step === undefined) return false;
    for (const [i, { dtype, strides }] of spec.operands.entries()) requireInside(places[i]!, dtype, spec.dims, strides);
    const shape = ({ extents, m, n, k }: Product) =>
      `${extents.map((extent) => `${extent} x `).join("")}${m}x${k}x${n}`;
    const what = [
      ...products.map((each) => `matmul ${shape(each)}`),
      parts,
      ...(last ? [`matmul ${shape(last)}`] : []),
    ].join(", then ");
    this.#composed("chain", step, what);
    if (rows === undefined) return true;
    for (const { operand } of spec.stores) {
      const { root } = touched[operand]!.access;
      if (root.size === sizeOf(spec.dims)) this.#ends.set(root, rows);
    }
    return true;
  }

  /** A product's operands and result, batch dimensions of 1 left out, and those over which y stays the same taken as rows. */
  #product(array: GraphArray): Product {
    const { x, y, transposeX, transposeY } = array.source as SourceOf<"matmul">;
    const batch = array.shape.slice(0, -2);
    const side = (operand: GraphArray, transposed: boolean) => {
      const { root, offset, strides } = this.#layout.access(operand);
      const rank = operand.shape.length;
      const pad = batch.length - (rank - 2);
      const [row, column] = transposed
        ? [strides[rank - 1]!, strides[rank - 2]!]
        : [strides[rank - 2]!, strides[rank - 1]!];
      const batchStrides = batch.map((_, axis) =>
        axis < pad || operand.shape[axis - pad] === 1 ? 0 : strides[axis - pad]!,
      );
      return {
        root,
        place: this.#memory.place(root, offset),
        dtype: operand.dtype as "fp16" | "fp32",
        row,
        column,
        batch: batchStrides,
      };
    };
    const a = side(x, transposeX);
    const b = side(y, transposeY);
    const { strides } = this.#layout.place(array);
    const c = {
      root: array,
      place: this.#memory.place(array),
      dtype: array.dtype as "fp16" | "fp32",
      row: strides.at(-2)!,
      column: strides.at(-1)!,
      batch: strides.slice(0, -2),
    };
    let m = array.shape.at(-2)!;
    const n = array.shape.at(-1)!;
    const k = x.shape.at(transposeX ? -2 : -1)!;
    const extents = [...batch];
    for (let axis = extents.length - 1; axis >= 0; axis--) {
      const extent = extents[axis]!;
      const asRows =
        extent === 1 ||
        (b.batch[axis] === 0 && (m === 1 || (a.batch[axis] === a.row * m && c.batch[axis] === c.row * m)));
      if (!asRows) break;
      if (extent !== 1) {
        if (m === 1) [a.row, c.row] = [a.batch[axis]!, c.batch[axis]!];
        m *= extent;
      }
      for (const list of [extents, a.batch, b.batch, c.batch]) list.splice(axis, 1);
    }
    for (let axis = extents.length - 1; axis >= 0; axis--) {
      if (extents[axis] === 1) for (const list of [extents, a.batch, b.batch, c.batch]) list.splice(axis, 1);
    }
    requireInside(a.place, a.dtype, [...extents, m, k], [...a.batch, a.row, a.column]);
    requireInside(b.place, b.dtype, [...extents, k, n], [...b.batch, b.row, b.column]);
    requireInside(c.place, c.dtype, [...extents, m, n], [...c.batch, c.row, c.column]);
    return { a, b, c, extents, m, n, k };
  }

  /** Where the rows of a product's transposed left operand end, if its batch elements are whole matrices of known rows. */
  #endsOf({ a, k }: Product): readonly number[] | undefined {
    const rows = this.#ends.get(a.root);
    if (rows?.ends.length !== k || a.row !== 1 || a.column !== rows.columns) return undefined;
    const skipped = Math.floor(
      (a.place.offset - this.#memory.place(a.root).offset) / dtypeBytes[a.dtype] / rows.columns,
    );
    const matrix = k * rows.columns;
    return skipped % k === 0 && a.batch.every((stride) => stride % matrix === 0) ? rows.ends : undefined;
  }
}

function specOf({ a, b, c, extents, m, n, k }: Product): GemmSpec {
  const matrix = ({ dtype, row, column, batch }: Matrix) => ({ dtype, row, column, batch });
  return { m, n, k, batch: extents, a: matrix(a), b: matrix(b), c: matrix(c) };
}

function nameOf({ extents, m, n, k }: Product): string {
  return `matmul ${extents.length === 0 ? "" : `${extents.join("x")} x `}${m}x${k}x${n}`;
}
