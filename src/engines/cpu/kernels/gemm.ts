// Plans matrix products: which operand is packed, how the product is cut into blocks and tasks, and the steps that compute it.

import { invariant } from "../../../core/errors.ts";
import { type Storage, storageBytes } from "../code.ts";
import { emitGemm, emitPackStep, type PackKernel, packTasks } from "./gemm-kernel.ts";
import {
  type Bound,
  blocksOf,
  type GemmKernel,
  gemmScratch,
  gemmTasks,
  type PackedLayout,
  type Panels,
  type Result,
  type Side,
} from "./gemm-layout.ts";
import { emitRows, mostRows, type RowKernel, rowScratch, rowTasks } from "./gemm-row.ts";
import { callFlops, planSgemm, type Sgemm } from "./sgemm.ts";
import type { Isa, StepPlan } from "./step.ts";

export type { Storage } from "../code.ts";

/** A matrix operand; strides count elements, a batch stride of 0 broadcasts. */
export interface Matrix {
  readonly dtype: Storage;
  readonly row: number;
  readonly column: number;
  readonly batch: readonly number[];
}

/** A dimension that a product sums over beside k; strides in elements. */
export interface Sum {
  readonly extent: number;
  readonly a: number;
  readonly b: number;
}

/** C[...batch, m, n] = A[...batch, m, k] · B[...batch, k, n], summed in fp32. */
export interface GemmSpec {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Outermost first. */
  readonly sums?: readonly Sum[];
  readonly batch: readonly number[];
  readonly a: Matrix;
  readonly b: Matrix;
  /** Its row or its column stride is 1; no batch stride is 0. */
  readonly c: Matrix;
  /** Added to every sum before it is stored, in this order; column strides of 0 or 1 where c's is 1. */
  readonly adds?: readonly Matrix[];
  /** What the sums are then kept within, one after the other. */
  readonly bounds?: readonly Bound[];
  /** The operand never changes: packed by `setup`, once. */
  readonly aConstant?: boolean;
  readonly bConstant?: boolean;
}

/** A matrix of a product; those that are added by their numbers. */
export type GemmOperand = "a" | "b" | "c" | 0 | 1 | 2;
export type GemmArgument = GemmOperand | { readonly temp: number };

/** A temporary that holds a packed constant. */
export interface Kept {
  readonly temp: number;
  /** Copies of equal layouts of one matrix are the same, as far as the shorter one goes. */
  readonly layout: string;
}

export interface GemmPlan {
  /** Bytes of the temporaries, which begin at multiples of 64. */
  readonly temps: readonly number[];
  /** Temporaries that `setup` fills: they must keep their contents between runs. */
  readonly kept: readonly Kept[];
  /** Packing of constants, to be run once. */
  readonly setup: readonly StepPlan<GemmArgument>[];
  readonly steps: readonly StepPlan<GemmArgument>[];
  /** Scratch memory that a thread needs. */
  readonly scratchBytes: number;
  readonly flops: number;
  /** Bytes of operands and result, each counted once. */
  readonly bytes: number;
  /** The library that computes it, where that is not this engine. */
  readonly by?: string;
}

/** Shape of tiles for one level. */
interface Geometry {
  readonly lanes: number;
  /** Vector registers that kernels have. */
  readonly registers: number;
  readonly rows: number;
  readonly vectors: number;
}
const geometries = {
  avx512: { lanes: 16, registers: 32, rows: 14, vectors: 2 },
  avx2: { lanes: 8, registers: 16, rows: 6, vectors: 2 },
  neon: { lanes: 4, registers: 30, rows: 8, vectors: 3 },
} as const satisfies Record<Isa, Geometry>;

/** Bytes of the operand that stays in the second-level cache while the other streams by. */
const residentBytes = 1 << 20;
/** Bytes of an operand that stays in the first-level cache, about. */
const nearBytes = 1 << 15;
/** Rows that lie so far apart fall into the same sets of the caches. */
const pageBytes = 4096;
/** Terms of a block of several runs. */
const mostTerms = 1200;
const leastTerms = 256;
/** Bytes of a task's partial sums. */
const partialBytes = 1 << 19;
/** A packed operand that does not stay in cache until it is used. */
const largeCopy = 1 << 22;
/** Bytes that a task reads from memory at its full speed. */
const longTask = 1 << 21;
/** Work of a task below which starting it shows. */
const taskFlops = 1 << 21;

/** A problem seen from the kernel: P (extent p) against Q (extent q). */
interface Oriented {
  readonly p: number;
  readonly q: number;
  readonly pMatrix: OrientedMatrix;
  readonly qMatrix: OrientedMatrix;
  readonly c: { readonly p: number; readonly q: number };
  readonly adds: readonly { readonly p: number; readonly q: number }[];
}
interface OrientedMatrix {
  readonly name: "a" | "b";
  readonly storage: Storage;
  /** Strides in elements. */
  readonly along: number;
  readonly overK: number;
  /** Along the further dimensions that are summed over. */
  readonly sums: readonly number[];
  readonly batch: readonly number[];
  readonly constant: boolean;
}

/**
 * Steps that compute a product. Which sums are added in which order depends on the shape and the level only, not on `threads`; with `sgemm`, where that is
 * used, on the library.
 */
export function planGemm(spec: GemmSpec, isa: Isa, threads: number, sgemm?: Sgemm): GemmPlan {
  const problem = simplified(spec);
  const { m, n, k } = problem;
  invariant(m > 0 && n > 0 && k > 0, () => `matrix product of ${m} × ${k} and ${k} × ${n}`);
  invariant(problem.c.row === 1 || problem.c.column === 1, () => "a matrix product whose result has no unit stride");
  const call = sgemm && planSgemm(problem, sgemm);
  if (call !== undefined) {
    const flops = call.tasks * callFlops(problem);
    const bytes = operandBytes(problem);
    const steps = [{ ...call, bytes, flops }];
    return { temps: [], kept: [], setup: [], steps, scratchBytes: 0, flops, bytes, by: sgemm!.library };
  }
  const geometry = geometries[isa];
  const oriented = orientations(problem);
  if (isFinished(problem)) {
    const rows = oriented.find(storesRows);
    invariant(rows !== undefined, () => "a product that adds to columns");
    return planTiles(problem, rows, isa, geometry, threads);
  }
  const costs = oriented.map((o) => cost(problem, o, geometry));
  const chosen = oriented[costs[1]! < costs[0]! ? 1 : 0]!;
  const rowwise = rowwiseOf(problem, oriented, isa);
  if (rowwise !== undefined) return planRows(problem, rowwise, isa, geometry, threads);
  return planTiles(problem, chosen, isa, geometry, threads);
}

/** True for a product that does more than to store its sums. */
function isFinished({ adds = [], bounds = [] }: GemmSpec): boolean {
  return adds.length + bounds.length > 0;
}

/** Whether tiles store vectors of rows, and what is added lies so. */
function storesRows({ c, adds }: Oriented): boolean {
  return c.q === 1 && adds.every(({ q }) => q === 0 || q === 1);
}

/** Whether a product without `adds` and `bounds` is computed in the way that could take them over. */
export function canFinish(spec: GemmSpec, isa: Isa, sgemm?: Sgemm): boolean {
  const problem = simplified(spec);
  if (sgemm !== undefined && planSgemm(problem, sgemm) !== undefined) return false;
  const geometry = geometries[isa];
  const oriented = orientations(problem);
  const costs = oriented.map((o) => cost(problem, o, geometry));
  const chosen = oriented[costs[1]! < costs[0]! ? 1 : 0]!;
  return storesRows(chosen) && rowwiseOf(problem, oriented, isa) === undefined;
}

/** The same product with batch dimensions of 1 left out, neighbours merged, and strides of dimensions of 1 made harmless. */
function simplified(spec: GemmSpec): GemmSpec {
  const { m, n, k, a, b, c, adds = [] } = spec;
  const matrices = [a, b, c, ...adds];
  const kept: { size: number; strides: readonly number[] }[] = [];
  spec.batch.forEach((size, i) => {
    if (size === 1) return;
    const strides = matrices.map(({ batch }) => batch[i]!);
    const before = kept.at(-1);
    const joins = before?.strides.every((stride, at) => stride === strides[at]! * size);
    if (before !== undefined && joins) kept[kept.length - 1] = { size: size * before.size, strides };
    else kept.push({ size, strides });
  });
  // A dimension of 1 has any stride: one that reads like a contiguous matrix.
  const matrix = (at: number, rows: number, columns: number): Matrix => {
    let { row, column } = matrices[at]!;
    if (columns === 1 && row !== 1) column = 1;
    if (rows === 1 && column !== 1) row = 1;
    if (rows === 1 && columns === 1) [row, column] = [1, 1];
    return { ...matrices[at]!, row, column, batch: kept.map(({ strides }) => strides[at]!) };
  };
  return {
    ...spec,
    batch: kept.map(({ size }) => size),
    a: matrix(0, m, k),
    b: matrix(1, k, n),
    c: matrix(2, m, n),
    adds: adds.map((_, i) => matrix(3 + i, m, n)),
  };
}

function orientations(spec: GemmSpec): readonly [Oriented, Oriented] {
  const { m, n, a, b, c, sums = [], adds = [] } = spec;
  const asRows = ({ row, column }: Matrix) => ({ p: row, q: column });
  const asColumns = ({ row, column }: Matrix) => ({ p: column, q: row });
  const aMatrix: OrientedMatrix = {
    name: "a",
    storage: a.dtype,
    along: a.row,
    overK: a.column,
    sums: sums.map((sum) => sum.a),
    batch: a.batch,
    constant: spec.aConstant === true,
  };
  const bMatrix: OrientedMatrix = {
    name: "b",
    storage: b.dtype,
    along: b.column,
    overK: b.row,
    sums: sums.map((sum) => sum.b),
    batch: b.batch,
    constant: spec.bConstant === true,
  };
  return [
    { p: m, q: n, pMatrix: aMatrix, qMatrix: bMatrix, c: asRows(c), adds: adds.map(asRows) },
    { p: n, q: m, pMatrix: bMatrix, qMatrix: aMatrix, c: asColumns(c), adds: adds.map(asColumns) },
  ];
}

function pPanels(extent: number, rows: number): Panels {
  const count = Math.ceil(extent / rows);
  const smaller = Math.floor(extent / count);
  const boundary = extent - smaller * count;
  return boundary === 0
    ? { size: smaller, smaller, boundary: count, count }
    : { size: smaller + 1, smaller, boundary, count };
}

function qPanels(extent: number, columns: number): Panels {
  const count = Math.ceil(extent / columns);
  const smaller = extent - (count - 1) * columns;
  return { size: columns, smaller, boundary: smaller === columns ? count : count - 1, count };
}

/** The orientation for a product of a few rows that a kernel of its own computes; undefined where tiles do. */
function rowwiseOf({ k }: GemmSpec, oriented: readonly Oriented[], isa: Isa): Oriented | undefined {
  return oriented.find((o) => {
    if (o.pMatrix.sums.length > 0) return false;
    const reads = o.qMatrix.along === 1 || o.qMatrix.overK === 1;
    return o.p <= mostRows[isa][rowKind(o)] && o.q >= 4 * o.p && o.c.q === 1 && reads && o.q * k >= 4096;
  });
}

/** Rows and vectors of a tile for this orientation. */
function tileOf({ q, c }: Oriented, { lanes, registers, rows, vectors }: Geometry): { rows: number; vectors: number } {
  const narrow = Math.min(vectors, Math.ceil(q / lanes));
  if (narrow === vectors) return { rows, vectors };
  const most = Math.floor((registers - narrow - 2) / narrow);
  // A transposed tile is stored by vectors of its rows.
  return { rows: c.q === 1 ? most : Math.min(most, lanes), vectors: narrow };
}

/** Whether an operand can be read where it is, over all of k, without harm: it is contiguous along the panel and stays in the second-level cache. */
function readsAlong({ storage, along, overK }: OrientedMatrix, k: number): boolean {
  return storage === "fp32" && along === 1 && k * overK * 4 <= residentBytes && (overK * 4) % pageBytes !== 0;
}

/** Whether P can be: so, or its rows are contiguous and do not fall into the same few sets of the first-level cache. */
function readsInPlace(matrix: OrientedMatrix, extent: number, rows: number, k: number): boolean {
  const { storage, along, overK } = matrix;
  if (readsAlong(matrix, k)) return true;
  if (storage !== "fp32" || overK !== 1) return false;
  const lines = (along * 4) / 64;
  const sets = Number.isInteger(lines) ? 64 / gcd(64, lines % 64) : 64;
  return Math.min(rows, extent) / sets <= 4;
}

/** Terms of each sum. */
function termsOf({ k, sums = [] }: GemmSpec): number {
  return sums.reduce((all, { extent }) => all * extent, k);
}

/** Terms of a block: the resident operand's chunk fits the cache, a streamed panel stays near. */
function blockOf(spec: GemmSpec, lanes: number): number {
  const { k, sums = [], a, b } = spec;
  const last = sums.at(-1);
  if (last !== undefined) {
    // Rows of k that are read where they lie stay in cache for all panels.
    const rowBytes = Math.max(a.row === 1 ? a.column : 0, b.column === 1 ? b.row : 0) * 4;
    const most = Math.min(mostTerms, Math.max(leastTerms, Math.floor(residentBytes / 2 / Math.max(1, rowBytes))));
    const blocks = Math.ceil(last.extent / Math.max(1, Math.floor(most / k)));
    return Math.ceil(last.extent / blocks) * k;
  }
  const blocks = Math.ceil(k / (k <= 800 ? k : 512));
  return blocks === 1 ? k : Math.ceil(k / blocks / lanes) * lanes;
}

/**
 * Whether an operand of runs of k is read where it is: rows of P that are contiguous, or what is contiguous along the panel and stays in cache; unless
 * so many panels or elements of the batch read it that a packed copy pays. `reuse` counts both.
 */
function readsRuns(
  matrix: OrientedMatrix,
  side: "p" | "q",
  reuse: { panels: number; batch: number },
  bytes: number,
): boolean {
  const { storage, along, overK, constant } = matrix;
  if (storage !== "fp32" || (constant && side === "q")) return false;
  if (side === "p" && overK === 1) return true;
  if (along !== 1) return false;
  // Vectors of Q are read as fast from here as from a copy; single elements of P are not.
  return side === "q" ? reuse.batch === 1 || bytes <= residentBytes / 4 : reuse.panels * reuse.batch <= 8;
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** Cycles of one thread, roughly. */
function cost(spec: GemmSpec, o: Oriented, geometry: Geometry): number {
  const k = termsOf(spec);
  const tile = tileOf(o, geometry);
  const { lanes } = geometry;
  const rows = pPanels(o.p, tile.rows);
  const vectors = Math.ceil(o.q / lanes);
  // A row of a tile takes its products, but no less than its loads; a tile no less than a chain of sums.
  const perRow = Math.max(1 / 2, (1 + tile.vectors / rows.size) / (2 * tile.vectors));
  const compute = Math.max(o.p * perRow, (4 * rows.count) / tile.vectors) * vectors * k;
  const packing = (matrix: OrientedMatrix, extent: number) =>
    matrix.constant ? 0 : extent * k * (matrix.along === 1 ? 0.12 : matrix.overK === 1 ? 0.35 : 2);
  const runs = o.pMatrix.sums.length > 0;
  const once = { panels: 1, batch: 1 };
  const pInPlace = runs ? readsRuns(o.pMatrix, "p", once, 0) : readsInPlace(o.pMatrix, o.p, tile.rows, k);
  const qInPlace = runs ? readsRuns(o.qMatrix, "q", once, 0) : readsAlong(o.qMatrix, k);
  const pPacking = pInPlace ? 0 : packing(o.pMatrix, o.p);
  const qPacking = qInPlace ? 0 : packing(o.qMatrix, o.q);
  const stores = o.p * o.q * (o.c.q === 1 ? 0.15 : 0.5);
  return compute + pPacking + qPacking + stores;
}

/**
 * How many of `count` panels a task takes: as the slowest thread ends first, then (within a few percent) more tasks, which even out disturbances.
 * `others` multiplies the tasks; `overhead` of a task counts panels: it reads the resident operand anew.
 */
function chunkOf(
  count: number,
  limits: { others: number; most: number; mostTasks: number; overhead: number; threads: number },
): number {
  const { others, most, mostTasks, overhead, threads } = limits;
  const time = (chunk: number) => Math.ceil((others * Math.ceil(count / chunk)) / threads) * (chunk + overhead);
  const least = Math.min(most, Math.ceil(count / Math.max(1, Math.floor(mostTasks / others))));
  const choices: number[] = [];
  for (let chunk = least; chunk <= Math.min(most, count); chunk++) choices.push(chunk);
  const best = Math.min(...choices.map(time));
  return choices.find((chunk) => time(chunk) <= 1.06 * best)!;
}

const rowKind = ({ qMatrix }: Oriented): RowKernel["kind"] => (qMatrix.overK === 1 ? "dot" : "sum");

/** A step for a few rows: tasks share out the columns. */
function planRows(spec: GemmSpec, o: Oriented, isa: Isa, { lanes }: Geometry, threads: number): GemmPlan {
  const { k, batch, c } = spec;
  const args: GemmArgument[] = [];
  const operand = ({ name, storage, along, overK, batch: strides }: OrientedMatrix) => {
    const bytes = storageBytes[storage];
    const argument = args.push(name) - 1;
    return { argument, storage, along: along * bytes, overK: overK * bytes, batch: strides.map((s) => s * bytes) };
  };
  const kind = rowKind(o);
  const batches = batch.reduce((all, size) => all * size, 1);
  // Tasks worth starting, of which long ones read memory faster; pieces of a row that memory is good at; sums that stay in the first-level cache.
  const bytesPerColumn = k * storageBytes[o.qMatrix.storage];
  const least = Math.ceil((1 << 16) / bytesPerColumn);
  const tasks = Math.min(
    kind === "dot" ? 4 : 2,
    Math.max(1, Math.round((o.q * batches * bytesPerColumn) / threads / longTask)),
  );
  const share = Math.ceil((o.q * batches) / (threads * tasks));
  const columns = Math.max(least, share, kind === "dot" ? 1 : 256);
  const chunk = Math.ceil(Math.min(columns, o.q, Math.floor(8192 / o.p)) / lanes) * lanes;
  const cBytes = storageBytes[c.dtype];
  const kernel: RowKernel = {
    isa,
    kind,
    k,
    rows: o.p,
    columns: o.q,
    chunk,
    batch,
    x: operand(o.pMatrix),
    w: operand(o.qMatrix),
    c: {
      argument: args.push("c") - 1,
      storage: c.dtype,
      row: o.c.p * cBytes,
      batch: c.batch.map((stride) => stride * cBytes),
    },
  };
  const flops = 2 * spec.m * spec.n * k * batches;
  const bytes = operandBytes(spec);
  const scratchBytes = rowScratch(kernel).bytes;
  const key = `gemm-rows ${JSON.stringify(kernel)}`;
  const step: StepPlan<GemmArgument> = {
    key,
    emit: (code) => emitRows(code, kernel),
    tasks: rowTasks(kernel),
    args,
    scratchBytes,
    bytes,
    flops,
  };
  return { temps: [], kept: [], setup: [], steps: [step], scratchBytes, flops, bytes };
}

/** Steps for tiles. */
function planTiles(spec: GemmSpec, o: Oriented, isa: Isa, geometry: Geometry, threads: number): GemmPlan {
  const { k, batch, sums = [], adds = [], bounds = [] } = spec;
  const { lanes } = geometry;
  const terms = termsOf(spec);
  const tile = tileOf(o, geometry);
  const columns = tile.vectors * lanes;
  const panels = { p: pPanels(o.p, tile.rows), q: qPanels(o.q, columns) };
  // Q's panels stream by: they are packed, if at all, by the only task that needs them. If P is too large to stay in cache, the larger one does.
  // A small Q stays near while rows of a large result are written whole.
  const whole = o.q < o.p && o.q * terms * 4 <= nearBytes && o.p * o.q * 4 > residentBytes;
  const outer = !whole && (o.p * terms * 4 <= residentBytes || o.q > o.p) ? "q" : "p";
  const inner = outer === "p" ? "q" : "p";

  const kBlock = blockOf(spec, lanes);
  const cut = { k, kBlock, sums };
  const kBlocks = blocksOf(cut);
  const many = kBlocks > 1;
  const panelSize = { p: tile.rows, q: columns };
  const batches = batch.reduce((all, size) => all * size, 1);

  // Tasks.
  const flops = 2 * spec.m * spec.n * terms * batches;
  const mostTasks = threads === 1 ? 1 : Math.max(1, Math.min(Math.ceil(flops / taskFlops), threads * 8));
  const fits = Math.max(1, Math.floor(residentBytes / (kBlock * panelSize[inner] * 4)));
  let innerChunks = Math.ceil(panels[inner].count / fits);
  const few = Math.min(mostTasks, threads);
  // Where nothing is packed, tasks share P out rather than Q: P is read at once, and other cores may have just written it; Q is asked for in time.
  if (outer === "q" && sums.length === 0 && readsAlong(o.qMatrix, k) && readsInPlace(o.pMatrix, o.p, tile.rows, k)) {
    const rowChunks = Math.min(Math.ceil(few / batches), Math.floor(panels.p.count / 4));
    innerChunks = Math.max(innerChunks, rowChunks);
  }
  if (batches * innerChunks * panels[outer].count < few)
    innerChunks = Math.min(panels[inner].count, Math.ceil(few / (batches * panels[outer].count)));
  const innerChunk = Math.ceil(panels[inner].count / innerChunks);
  const partialPanels = Math.floor(partialBytes / (tile.rows * columns * 4 * innerChunk));
  // What all of a batch read stays in cache from task to task.
  const outerMatrix = outer === "p" ? o.pMatrix : o.qMatrix;
  const stays = batch.some((_, i) => outerMatrix.batch[i] === 0)
    ? Math.max(1, Math.floor(residentBytes / (terms * panelSize[outer] * 4)))
    : panels[outer].count;
  const outerChunk = chunkOf(panels[outer].count, {
    others: batches * innerChunks,
    most: Math.min(stays, many ? Math.max(1, partialPanels) : panels[outer].count),
    mostTasks,
    overhead: 10 / panelSize[outer],
    threads,
  });
  const outerChunks = Math.ceil(panels[outer].count / outerChunk);

  const packedP: PackedLayout =
    o.pMatrix.overK === 1 && o.pMatrix.along !== 1
      ? { layout: "byRow", stride: rowBytes(kBlock), panelBytes: rowBytes(kBlock) * panels.p.size }
      : byK(Math.ceil(panels.p.size / lanes) * lanes, kBlock);
  const packedQ = byK(columns, kBlock);
  const access = (side: "p" | "q"): Side["access"] => {
    const matrix = side === "p" ? o.pMatrix : o.qMatrix;
    const reuse = side === "p" ? panels.q.count : panels.p.count;
    const sharing = batch.reduce((all, size, i) => (matrix.batch[i] === 0 ? all * size : all), 1);
    if (sums.length > 0) {
      if (readsRuns(matrix, side, { panels: reuse, batch: sharing }, 4 * terms * o[side])) return "direct";
      if (sharing > 1) return "shared";
    }
    if (sums.length === 0 && side === "p" && readsInPlace(matrix, o.p, tile.rows, k)) return "direct";
    if (sums.length === 0 && side === "q" && readsAlong(matrix, k)) return "direct";
    if (side === "p" && matrix.storage === "fp32" && reuse === 1) return "direct";
    if (side === "q" && matrix.along === 1 && reuse <= 2 && !matrix.constant) return "direct";
    if (matrix.constant) return "shared";
    if (side === outer) return "local";
    // A large packed copy goes through memory: packing it once a task is better where that is little work beside the task.
    const bytes = panels[side].count * kBlocks * (side === "p" ? packedP : packedQ).panelBytes;
    const unit = matrix.along === 1 || (side === "p" && matrix.overK === 1);
    const reused = (outerChunk * panelSize[outer]) / (2 * lanes);
    if (bytes > largeCopy && unit && reused >= 4) return "local";
    return outerChunks > 1 ? "shared" : "local";
  };

  const temps: number[] = [];
  const kept: Kept[] = [];
  const setup: StepPlan<GemmArgument>[] = [];
  const steps: StepPlan<GemmArgument>[] = [];
  const args: GemmArgument[] = [];
  const side = (name: "p" | "q"): Side => {
    const matrix = name === "p" ? o.pMatrix : o.qMatrix;
    const bytes = storageBytes[matrix.storage];
    const common = {
      panels: panels[name],
      chunk: name === inner ? innerChunk : outerChunk,
      argument: args.length,
      storage: matrix.storage,
      along: matrix.along * bytes,
      overK: matrix.overK * bytes,
      packed: name === "p" ? packedP : packedQ,
    };
    const how = access(name);
    if (how !== "shared") {
      args.push(matrix.name);
      return { ...common, access: how, batch: matrix.batch.map((stride) => stride * bytes) };
    }
    const present = batch.map((_, i) => i).filter((i) => matrix.batch[i] !== 0);
    const kernel: PackKernel = {
      isa,
      ...cut,
      sums: sums.map(({ extent }, i) => ({ extent, stride: matrix.sums[i]! * bytes })),
      batch: present.map((i) => batch[i]!),
      side: { ...common, chunk: 1, argument: 0, access: "shared", batch: [] },
      batchBytes: present.map((i) => matrix.batch[i]! * bytes),
    };
    const elements = present.reduce((all, i) => all * batch[i]!, o[name] * terms);
    const one = kBlocks * panels[name].count * common.packed.panelBytes;
    const temp = { temp: temps.length };
    temps.push(present.reduce((all, i) => all * batch[i]!, one));
    const step: StepPlan<GemmArgument> = {
      key: `gemm-pack ${JSON.stringify(kernel)}`,
      emit: (code) => emitPackStep(code, kernel),
      tasks: packTasks(kernel),
      args: [matrix.name, temp],
      bytes: elements * (bytes + 4),
      flops: 0,
    };
    if (matrix.constant) {
      setup.push(step);
      // Panels of Q have one width and stand one behind the other, unless blocks of k come between.
      const { panels: cut, ...rest } = kernel.side;
      const panelsOf = name === "q" && kBlocks === 1 ? cut.size : cut;
      kept.push({ temp: temp.temp, layout: JSON.stringify([{ ...kernel, side: rest }, panelsOf]) });
    } else steps.push(step);
    args.push(temp);
    let stride = one;
    const strides = batch.map(() => 0);
    for (const i of present.toReversed()) {
      strides[i] = stride;
      stride *= batch[i]!;
    }
    return { ...common, access: how, batch: strides };
  };
  const [p, q] = [side("p"), side("q")];
  const result = ({ dtype, batch: strides }: Matrix, { p, q }: Oriented["c"], argument: GemmArgument): Result => {
    const bytes = storageBytes[dtype];
    return {
      argument: args.push(argument) - 1,
      storage: dtype,
      p: p * bytes,
      q: q * bytes,
      batch: strides.map((stride) => stride * bytes),
    };
  };
  const kernel: GemmKernel = {
    isa,
    ...cut,
    sums: sums.map(({ extent }, i) => ({
      extent,
      p: o.pMatrix.sums[i]! * storageBytes[o.pMatrix.storage],
      q: o.qMatrix.sums[i]! * storageBytes[o.qMatrix.storage],
    })),
    batch,
    p,
    q,
    outer,
    c: result(spec.c, o.c, "c"),
    adds: adds.map((add, i) => result(add, o.adds[i]!, i as GemmOperand)),
    bounds,
  };
  const scratchBytes = gemmScratch(kernel).bytes;
  const bytes = operandBytes(spec);
  steps.push({
    key: `gemm ${JSON.stringify(kernel)}`,
    emit: (code) => emitGemm(code, kernel),
    tasks: gemmTasks(kernel),
    args,
    scratchBytes,
    bytes,
    flops,
  });
  return { temps, kept, setup, steps, scratchBytes, flops, bytes };
}

/** A row of a packed panel: not a multiple of 4096 bytes, so that rows fall into different sets. */
function rowBytes(kBlock: number): number {
  const bytes = Math.ceil(kBlock / 16) * 64;
  return bytes % 1024 === 0 ? bytes + 64 : bytes;
}

function byK(width: number, kBlock: number): PackedLayout {
  return { layout: "byK", stride: width * 4, panelBytes: width * 4 * kBlock };
}

/** Bytes of the operands and the result, every element counted once. */
function operandBytes(spec: GemmSpec): number {
  const { m, n, batch, a, b, c, adds = [] } = spec;
  const k = termsOf(spec);
  const of = (matrix: Matrix, elements: number) =>
    batch.reduce((all, size, i) => (matrix.batch[i] === 0 ? all : all * size), elements) * storageBytes[matrix.dtype];
  const added = adds.reduce((all, add) => all + of(add, (add.row === 0 ? 1 : m) * (add.column === 0 ? 1 : n)), 0);
  return of(a, m * k) + of(b, k * n) + of(c, m * n) + added;
}
