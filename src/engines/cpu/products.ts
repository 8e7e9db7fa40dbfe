// Plans matrix products, alone and in chains: where their matrices are, packed copies that several share, rows that end early.

import { dtypeBytes } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { sizeOf } from "../../core/shape.ts";
import { type Chain, endsOfRows, type RowEnds } from "./chains.ts";
import { type ComposedStep, type MatrixAt, type Product, planChain, planTriangular } from "./compose.ts";
import { finishOf } from "./finish.ts";
import { contiguous, type GraphArray, reshapeStrides, type SourceOf } from "./graph.ts";
import {
  canFinish,
  type GemmArgument,
  type GemmOperand,
  type GemmSpec,
  type Matrix,
  planGemm,
  type Sum,
} from "./kernels/gemm.ts";
import { planSgemm } from "./kernels/sgemm.ts";
import type { StepPlan } from "./kernels/step.ts";
import type { Layout } from "./layout.ts";
import { type Memory, type Place, requireInside, type Storage } from "./memory.ts";
import type { Moves } from "./moves.ts";
import type { Nests, Touched } from "./nests.ts";
import type { Steps, Target } from "./steps.ts";

/** An array as a product sees it: strides in elements, for its batch, its rows and its columns. */
interface Part {
  readonly root: GraphArray;
  readonly place: Place;
  readonly dtype: "fp16" | "fp32";
  readonly strides: readonly number[];
}

/** Rows of a matrix below which tiles are worth filling with copies. */
const leastRows = 12;

export class Products {
  readonly #target: Target;
  readonly #layout: Layout;
  readonly #nests: Nests;
  readonly #memory: Memory;
  readonly #moves: Moves;
  readonly #steps: Steps;
  /** Packed copies of matrices, by their storage, and by place and form in it. */
  readonly #packed = new Map<Storage, Map<string, Place>>();
  /** Arrays of rows that are 0 from some column on. */
  readonly #ends = new Map<GraphArray, RowEnds>();

  constructor(target: Target, layout: Layout, nests: Nests, memory: Memory, moves: Moves, steps: Steps) {
    this.#target = target;
    this.#layout = layout;
    this.#nests = nests;
    this.#memory = memory;
    this.#moves = moves;
    this.#steps = steps;
  }

  /** Adds the steps of a product: packing, unless another product has packed the same, and the product. */
  matmul(array: GraphArray): void {
    this.#add(this.#compact(this.#product(array)));
  }

  #add(product: Product, parts?: string): void {
    const { isa, threads, sgemm } = this.#target;
    const { a, b, c, adds = [] } = product;
    const ends = this.#endsOf(product);
    if (ends !== undefined) {
      this.#composed("matmul", planTriangular(product, ends, isa, threads), `${nameOf(product)}, lower triangle`);
      return;
    }
    const plan = planGemm(specOf(product), isa, threads, sgemm);
    const kept = new Set(plan.kept.map(({ temp }) => temp));
    const temps = plan.temps.map((bytes, i) => this.#memory.allocate(kept.has(i) ? "constant" : "arena", bytes));
    const operands: Readonly<Partial<Record<GemmOperand, Place>>> = {
      a: a.place,
      b: b.place,
      c: c.place,
      ...adds.map(({ place }) => place),
    };
    const isTemp = (arg: GemmArgument) => typeof arg === "object";
    const placeOf = (arg: GemmArgument) => (typeof arg === "object" ? temps[arg.temp]! : operands[arg]!);
    /** The packed copy that another product of the same operand has made; else this product makes it. */
    const packedBefore = (step: StepPlan<GemmArgument>): boolean => {
      const [source, target] = step.args as readonly ["a" | "b", { readonly temp: number }];
      const { storage, offset } = operands[source]!;
      const key = `${offset} ${step.key}`;
      const packed = this.#packed.get(storage) ?? new Map<string, Place>();
      this.#packed.set(storage, packed);
      const known = packed.get(key);
      if (known === undefined) packed.set(key, temps[target.temp]!);
      else temps[target.temp] = known;
      return known !== undefined;
    };
    for (const step of plan.setup) if (!packedBefore(step)) this.#steps.pack(step, placeOf, isTemp);
    const what = `${nameOf(product)}${plan.by === undefined ? "" : `, by ${plan.by}`}${parts === undefined ? "" : `, then ${parts}`}`;
    for (const step of plan.steps) {
      const packs = step.flops === 0;
      if (!packs) this.#steps.native("matmul", step, placeOf, (arg) => arg === "c", what);
      else if (!packedBefore(step)) this.#steps.native("pack", step, placeOf, isTemp, what);
    }
  }

  /** A product of many small matrices with one that they share, over runs of k, as one of a single matrix of copied rows: the other is read once. */
  #compact(product: Product): Product {
    const { a, b, c, extents, m, n, k, sums } = product;
    const shared = extents.map((_, axis) => axis).filter((axis) => b.batch[axis] === 0);
    const rows = shared.reduce((all, axis) => all * extents[axis]!, m);
    const inOrder = [...shared.entries()].every(
      ([at, axis]) => c.batch[axis] === shared.slice(at + 1).reduce((all, next) => all * extents[next]!, m) * c.row,
    );
    if (sums.length === 0 || m >= leastRows || rows === m || !inOrder) return product;
    const own = extents.map((_, axis) => axis).filter((axis) => b.batch[axis] !== 0);
    const outer = [...own, ...shared];
    const shape = [...outer.map((axis) => extents[axis]!), m, ...sums.map(({ extent }) => extent), k];
    const from = [...outer.map((axis) => a.batch[axis]!), a.row, ...sums.map((sum) => sum.a), a.column];
    const strides = contiguous(shape);
    const place = this.#memory.allocate("arena", sizeOf(shape) * dtypeBytes[a.dtype]);
    this.#moves.copy(a.dtype, shape, { place: a.place, strides: from }, { place, strides });
    const terms = sums.reduce((all, { extent }) => all * extent, k);
    const pick = (list: readonly number[]) => own.map((axis) => list[axis]!);
    // The other operand's terms may still be in several runs.
    const summed = joined([...sums.map(({ extent }) => extent), k], strides.slice(outer.length + 1), [
      ...sums.map((sum) => sum.b),
      b.row,
    ]);
    const last = summed.at(-1)!;
    invariant(sizeOf(summed.map(({ extent }) => extent)) === terms, () => "terms of a product");
    return {
      a: { ...a, place, row: terms, column: last.a, batch: strides.slice(0, own.length) },
      b: { ...b, row: last.b, batch: pick(b.batch) },
      c: { ...c, batch: pick(c.batch) },
      extents: pick(extents),
      m: rows,
      n,
      k: last.extent,
      sums: summed.slice(0, -1),
    };
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

  /** A chain's last product, which does the loop's work, too, and the others. False, and nothing added, where it cannot. */
  #finishing({ firsts, loop, inner }: Chain): boolean {
    const { isa, sgemm } = this.#target;
    const { spec, touched, parts } = this.#nests.of(loop);
    const [store] = spec.stores;
    const finish = store && spec.stores.length === 1 ? finishOf(store.value) : undefined;
    const [last] = firsts.at(-1)!.members as [GraphArray];
    const own = touched.findIndex(({ access }) => access.root === last);
    const once = finish?.operands.filter((operand) => operand === own).length === 1;
    if (finish === undefined || !once || !inner.has(last)) return false;
    const over = ({ access: { root, offset }, dtype, strides }: Touched): Part | undefined => {
      const found = reshapeStrides(spec.dims, strides, last.shape);
      const floats = dtype === "fp16" || dtype === "fp32";
      return found && floats ? { root, place: this.#memory.place(root, offset), dtype, strides: found } : undefined;
    };
    const c = over(touched[store!.operand]!);
    const adds = finish.operands.filter((operand) => operand !== own).map((operand) => over(touched[operand]!));
    if (c === undefined || !adds.every((add) => add !== undefined)) return false;
    const product = { ...this.#product(last, c, adds), bounds: finish.bounds };
    const { a, b, extents, m } = product;
    const replaced = this.#memory.replaces(
      c.place,
      [a, b, ...adds].map(({ place }) => place),
    );
    if (replaced || (extents.length > 0 && m < leastRows) || !canFinish(specOf(product), isa, sgemm)) return false;
    // Triangles only store their sums.
    if (this.#endsOf(product) !== undefined) return false;
    for (const { members } of firsts.slice(0, -1)) this.matmul(members[0]!);
    this.#add(product, parts);
    return true;
  }

  /** Adds one step for the groups of a chain. False, and nothing added, where their memory does not fit together, or a library is to compute a product. */
  chain(chain: Chain): boolean {
    const { isa, threads, sgemm } = this.#target;
    const { firsts, loop, second, inner, inBlocks } = chain;
    if (second === undefined && this.#finishing(chain)) return true;
    if (!inBlocks) return false;
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

  /**
   * A product's operands and result, dimensions of 1 left out, and batch dimensions over which y stays the same taken as rows. Its sums are stored at
   * `result`, with `added` to them; both have strides for the product's dimensions.
   */
  #product(array: GraphArray, result = this.#partOf(array), added: readonly Part[] = []): Product {
    const { x, y, transposeX, transposeY, inner } = array.source as SourceOf<"matmul">;
    const batch = array.shape.slice(0, -2);
    const side = (operand: GraphArray, transposed: boolean) => {
      const { root, offset, strides } = this.#layout.access(operand);
      const own = operand.shape.length - 1 - inner;
      const pad = batch.length - own;
      const summed = transposed ? [strides[own]!] : strides.slice(own + 1);
      return {
        root,
        place: this.#memory.place(root, offset),
        dtype: operand.dtype as "fp16" | "fp32",
        row: transposed ? strides[own + 1]! : strides[own]!,
        column: summed.at(-1)!,
        summed,
        batch: batch.map((_, axis) => (axis < pad || operand.shape[axis - pad] === 1 ? 0 : strides[axis - pad]!)),
      };
    };
    const a = side(x, transposeX);
    const right = side(y, !transposeY);
    const b = { ...right, row: right.column, column: right.row };
    const matrix = ({ strides, ...part }: Part) => ({
      ...part,
      row: strides.at(-2)!,
      column: strides.at(-1)!,
      batch: strides.slice(0, -2),
    });
    const c = matrix(result);
    const adds = added.map(matrix);
    const results = [c, ...adds];
    const lists = [a, b, ...results].map((each) => each.batch);
    const summed = joined(transposeX ? [x.shape.at(-2)!] : x.shape.slice(-inner), a.summed, b.summed);
    const { extent: k, ...last } = summed.at(-1)!;
    [a.column, b.row] = [last.a, last.b];
    const sums = summed.slice(0, -1);
    let m = array.shape.at(-2)!;
    const n = array.shape.at(-1)!;
    const extents = [...batch];
    for (let axis = extents.length - 1; axis >= 0; axis--) {
      const extent = extents[axis]!;
      const asRows =
        extent === 1 ||
        (b.batch[axis] === 0 && (m === 1 || [a, ...results].every((each) => each.batch[axis] === each.row * m)));
      if (!asRows) break;
      if (extent !== 1) {
        if (m === 1) for (const each of [a, ...results]) each.row = each.batch[axis]!;
        m *= extent;
      }
      for (const list of [extents, ...lists]) list.splice(axis, 1);
    }
    for (let axis = extents.length - 1; axis >= 0; axis--) {
      if (extents[axis] === 1) for (const list of [extents, ...lists]) list.splice(axis, 1);
    }
    const further = sums.map(({ extent }) => extent);
    const along = (operand: "a" | "b") => sums.map((sum) => sum[operand]);
    requireInside(a.place, a.dtype, [...extents, ...further, m, k], [...a.batch, ...along("a"), a.row, a.column]);
    requireInside(b.place, b.dtype, [...extents, ...further, k, n], [...b.batch, ...along("b"), b.row, b.column]);
    for (const each of results)
      requireInside(each.place, each.dtype, [...extents, m, n], [...each.batch, each.row, each.column]);
    return { a, b, c, adds, extents, m, n, k, sums };
  }

  #partOf(array: GraphArray): Part {
    const { strides } = this.#layout.place(array);
    return { root: array, place: this.#memory.place(array), dtype: array.dtype as "fp16" | "fp32", strides };
  }

  /** Where the rows of a product's transposed left operand end, if its batch elements are whole matrices of known rows. */
  #endsOf({ a, k, sums }: Product): readonly number[] | undefined {
    const rows = this.#ends.get(a.root);
    if (sums.length > 0 || rows?.ends.length !== k || a.row !== 1 || a.column !== rows.columns) return undefined;
    const skipped = Math.floor(
      (a.place.offset - this.#memory.place(a.root).offset) / dtypeBytes[a.dtype] / rows.columns,
    );
    const matrix = k * rows.columns;
    return skipped % k === 0 && a.batch.every((stride) => stride % matrix === 0) ? rows.ends : undefined;
  }
}

function specOf({ a, b, c, adds = [], bounds = [], extents, m, n, k, sums }: Product): GemmSpec {
  const matrix = ({ dtype, row, column, batch }: Matrix) => ({ dtype, row, column, batch });
  const isConstant = ({ place }: MatrixAt) => place.storage.kind === "constant";
  return {
    m,
    n,
    k,
    sums,
    batch: extents,
    a: matrix(a),
    b: matrix(b),
    c: matrix(c),
    adds: adds.map(matrix),
    bounds,
    aConstant: isConstant(a),
    bConstant: isConstant(b),
  };
}

/** Dimensions that are summed over, without those of 1 and with those joined that continue one another in both operands. */
function joined(extents: readonly number[], a: readonly number[], b: readonly number[]): Sum[] {
  const result: Sum[] = [];
  for (const [axis, extent] of extents.entries()) {
    if (extent === 1) continue;
    const dimension = { extent, a: a[axis]!, b: b[axis]! };
    const outer = result.at(-1);
    if (outer?.a === dimension.a * extent && outer.b === dimension.b * extent)
      result[result.length - 1] = { ...dimension, extent: outer.extent * extent };
    else result.push(dimension);
  }
  return result.length > 0 ? result : [{ extent: 1, a: 1, b: 1 }];
}

function nameOf({ extents, m, n, k }: Product): string {
  return `matmul ${extents.length === 0 ? "" : `${extents.join("x")} x `}${m}x${k}x${n}`;
}
