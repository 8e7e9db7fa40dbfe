// Plans steps of several kernels over blocks: a chain of products and a loop, and products with a matrix whose rows are 0 from some column on.

import { dtypeBytes } from "../../core/dtype.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Code } from "./code.ts";
import { type GraphArray, reshapeStrides } from "./graph.ts";
import {
  type ChainSpec,
  chainKey,
  chainScratch,
  chainTasks,
  emitChain,
  type Phase,
  type PhaseArgument,
} from "./kernels/chain.ts";
import { type GemmPlan, type GemmSpec, type Storage as MatrixType, planGemm, type Sum } from "./kernels/gemm.ts";
import type { Bound } from "./kernels/gemm-layout.ts";
import { emitLoop, loopScratch } from "./kernels/loop.ts";
import { type NestSpec, nestKey } from "./kernels/nest.ts";
import type { Isa, StepPlan } from "./kernels/step.ts";
import { machineOf } from "./machines.ts";
import { Expressions } from "./math.ts";
import type { Place } from "./memory.ts";

/** A matrix in memory; strides in elements. */
export interface MatrixAt {
  readonly root: GraphArray;
  readonly place: Place;
  readonly dtype: MatrixType;
  row: number;
  column: number;
  readonly batch: number[];
}

/** A matrix product: operands, result, batch extents. */
export interface Product {
  readonly a: MatrixAt;
  readonly b: MatrixAt;
  readonly c: MatrixAt;
  /** Added to the sums before they are stored. */
  readonly adds?: readonly MatrixAt[];
  readonly bounds?: readonly Bound[];
  readonly extents: readonly number[];
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Further dimensions that are summed over, outermost first, with the operands' strides. */
  readonly sums: readonly Sum[];
}

/** A step and its arguments. */
export interface ComposedStep {
  readonly plan: StepPlan<number>;
  readonly places: readonly Place[];
  readonly writes: readonly boolean[];
}

/** Bytes of a block's values, which should stay in the second-level cache beside operands. */
const blockBytes = 1 << 18;
/** Rows of a block: enough for a product's tiles, few enough that causal attention leaves out much. */
const blockRows = 64;
/** Columns of a product's widest tile: blocks that are cut at multiples of it share packed copies. */
const columnUnit = 32;
/** How many lengths the rows of a matrix that end early may have: each has code of its own. */
const mostLengths = 8;
/** Operations of a block below which smaller ones do not help. */
const leastFlops = 1 << 21;
/** Most tasks of one batch element: each has code of its own. */
const mostParts = 32;

/** Collects a step: its arguments, its use of scratch memory, phases of kernels. */
class Composer {
  readonly #isa: Isa;
  readonly #arguments: { readonly place: Place; readonly batch: readonly number[]; writes: boolean }[] = [];
  readonly #temporaries = new Map<string, { readonly offset: number; readonly bytes: number }>();
  /** Right operands that the present task has packed, by what the copy looks like. */
  readonly #packed = new Map<string, { readonly index: number; readonly offset: number; readonly bytes: number }>();
  #heldBytes = 0;
  /** Operations of one batch element: of what is computed, while bytes are those of whole arrays. */
  #flops = 0;

  constructor(isa: Isa) {
    this.#isa = isa;
  }

  /** Scratch memory for the whole task. */
  hold(bytes: number): number {
    const offset = this.#heldBytes;
    this.#heldBytes += Math.ceil(bytes / 64) * 64;
    return offset;
  }

  /** Memory of this name, which an earlier phase may have used. */
  #temporary(name: string, bytes: number): number {
    const known = this.#temporaries.get(name);
    if (known !== undefined && known.bytes >= bytes) return known.offset;
    const offset = this.hold(bytes);
    this.#temporaries.set(name, { offset, bytes });
    return offset;
  }

  /** An argument: bytes of batch strides, bytes from the place. */
  argument(place: Place, batch: readonly number[], offset: number, writes: boolean): PhaseArgument {
    let index = this.#arguments.findIndex(
      (each) =>
        each.place.storage === place.storage &&
        each.place.offset === place.offset &&
        each.batch.join() === batch.join(),
    );
    if (index < 0) index = this.#arguments.push({ place, batch, writes }) - 1;
    this.#arguments[index]!.writes ||= writes;
    return { argument: index, offset };
  }

  /** The part of a matrix that begins at a row and a column. */
  matrix({ place, dtype, row, column, batch }: MatrixAt, at: readonly [number, number], writes = false): PhaseArgument {
    const bytes = dtypeBytes[dtype];
    const strides = batch.map((stride) => stride * bytes);
    return this.argument(place, strides, (at[0] * row + at[1] * column) * bytes, writes);
  }

  loop(nest: NestSpec, args: readonly PhaseArgument[]): Phase {
    const step = {
      key: `loop:${nestKey(nest)}`,
      tasks: 1,
      scratchBytes: loopScratch(nest),
      emit: (code: Code) => emitLoop(machineOf(code), nest),
    };
    return { step, args };
  }

  /** Phases of a product; what it packs of a constant right operand serves the task's later products, too. */
  product(spec: GemmSpec, args: Record<"a" | "b" | "c", PhaseArgument>): Phase[] {
    const plan: GemmPlan = planGemm(spec, this.#isa, 1);
    this.#flops += plan.flops;
    const offsets = new Map<number, number>();
    const phase = (step: GemmPlan["steps"][number]): Phase => ({
      step,
      args: step.args.map((arg) =>
        typeof arg === "object" ? { scratch: offsets.get(arg.temp)! } : args[arg as keyof typeof args],
      ),
    });
    const phases: Phase[] = [];
    for (const [i, { temp, layout }] of plan.kept.entries()) {
      const bytes = plan.temps[temp]!;
      const key = JSON.stringify([args.b, layout]);
      const known = this.#packed.get(key);
      const fits = known !== undefined && known.bytes >= bytes;
      const index = known?.index ?? this.#packed.size;
      const offset = fits ? known.offset : this.#temporary(`packed ${index}`, bytes);
      offsets.set(temp, offset);
      if (fits) continue;
      this.#packed.set(key, { index, offset, bytes });
      phases.push(phase(plan.setup[i]!));
    }
    for (const [temp, bytes] of plan.temps.entries())
      if (!offsets.has(temp)) offsets.set(temp, this.#temporary(`temporary ${temp}`, bytes));
    return [...phases, ...plan.steps.map(phase)];
  }

  /** The step whose tasks have these phases; `bytes` and `flops` beside those of products for reports. */
  finish(batch: readonly number[], parts: readonly (() => Phase[])[], bytes: number, flops: number): ComposedStep {
    const phases = parts.map((part) => {
      this.#packed.clear();
      return part();
    });
    const spec: ChainSpec = {
      batch,
      strides: this.#arguments.map(({ batch: strides }) => strides),
      parts: phases,
      heldBytes: this.#heldBytes,
    };
    return {
      places: this.#arguments.map(({ place }) => place),
      writes: this.#arguments.map(({ writes }) => writes),
      plan: {
        key: chainKey(spec),
        tasks: chainTasks(spec),
        args: this.#arguments.map((_, i) => i),
        scratchBytes: chainScratch(spec),
        bytes,
        flops: this.#flops * sizeOf(batch) + flops,
        emit: (asm) => emitChain(asm, spec),
      },
    };
  }
}

const matrixOf = ({ dtype, row, column }: MatrixAt) => ({ dtype, row, column, batch: [] });

/** Pieces of an extent. */
function cut(extent: number, size: number): { first: number; count: number }[] {
  return Array.from({ length: Math.ceil(extent / size) }, (_, i) => ({
    first: i * size,
    count: Math.min(size, extent - i * size),
  }));
}

/** What the step of a chain is planned from. */
export interface ChainInput {
  /** Products that the loop reads. */
  readonly firsts: readonly Product[];
  readonly spec: NestSpec;
  /** Where the loop's operands are. */
  readonly places: readonly Place[];
  /** Numbers of its operands that are the first products' results. */
  readonly values: readonly number[];
  /** The product that reads operand number `rows`, row by row. */
  readonly second: { readonly product: Product; readonly rows: number } | undefined;
  /** Operands that live in scratch memory. */
  readonly inner: ReadonlySet<number>;
  /** For every row the column from which on all that the loop stores is 0. */
  readonly ends: readonly number[] | undefined;
}

interface Block {
  readonly row: number;
  readonly rows: number;
  readonly column: number;
  /** Columns that are computed. */
  readonly columns: number;
}

/** Where an array of the chain is; strides in elements, those over the batch in bytes. */
type Home =
  | { readonly place: Place; readonly batch: readonly number[]; readonly row: number; readonly column: number }
  | { readonly scratch: number };

/** Plans the step of a chain; undefined where the loop's operands do not fit the products' rows and columns. */
export function planChain(input: ChainInput, isa: Isa, threads: number): ComposedStep | undefined {
  const { firsts, spec, places, values, second, inner } = input;
  const { extents, m, n } = firsts[0]!;
  const domain = [...extents, m, n];
  const strides = spec.operands.map(({ strides: each }) => reshapeStrides(spec.dims, each, domain));
  if (strides.some((each) => each === undefined || (each.at(-1) !== 0 && each.at(-1) !== 1))) return undefined;
  const alike = (product: Product) => product.extents.join() === extents.join() && product.m === m;
  if (!firsts.every((product) => alike(product) && product.n === n)) return undefined;
  if (second !== undefined && !alike(second.product)) return undefined;

  const composer = new Composer(isa);
  const parts = second === undefined ? mapBlocks(input) : rowBlocks(input, threads);
  const most = Math.max(...parts.flat().map(({ rows, columns }) => rows * columns));
  const homes = spec.operands.map(({ dtype }, i): Home => {
    if (inner.has(i)) return { scratch: composer.hold(4 * most) };
    const each = strides[i]!;
    const batch = each.slice(0, -2).map((stride) => stride * dtypeBytes[dtype]);
    return { place: places[i]!, batch, row: each.at(-2)!, column: each.at(-1)! };
  });
  const stores = new Set(spec.stores.map(({ operand }) => operand));
  const argument = (i: number, row: number, column: number): PhaseArgument => {
    const home = homes[i]!;
    if ("scratch" in home) return home;
    const bytes = dtypeBytes[spec.operands[i]!.dtype];
    return composer.argument(home.place, home.batch, (row * home.row + column * home.column) * bytes, stores.has(i));
  };
  const shared = parts.some((blocks) => blocks.length > 1);
  const zero = new Expressions().f(0);

  const phasesOf = ({ row, rows, column, columns }: Block): Phase[] => {
    const held = { dtype: "fp32" as const, row: columns, column: 1, batch: [] };
    const phases = firsts.flatMap(({ a, b, c, k }, i) => {
      const home = homes[values[i]!]!;
      const inScratch = "scratch" in home;
      return composer.product(
        {
          m: rows,
          n: columns,
          k,
          batch: [],
          a: matrixOf(a),
          b: matrixOf(b),
          c: inScratch ? held : matrixOf(c),
          bConstant: shared && b.row === 1,
        },
        {
          a: composer.matrix(a, [row, 0]),
          b: composer.matrix(b, [0, column]),
          c: inScratch ? home : composer.matrix(c, [row, column], true),
        },
      );
    });
    const operands = homes.map((home, i) =>
      "scratch" in home
        ? { dtype: "fp32" as const, strides: [columns, 1] }
        : { dtype: spec.operands[i]!.dtype, strides: [home.row, home.column] },
    );
    const whole = { taskDims: 0, blocked: 0, block: rows };
    phases.push(
      composer.loop(
        { ...spec, dims: [rows, columns], operands, ...whole },
        homes.map((_, i) => argument(i, row, column)),
      ),
    );
    if (second === undefined) return phases;
    // The rest of rows that others read is 0.
    for (const operand of stores) {
      const home = homes[operand]!;
      if (columns === n || "scratch" in home || home.column === 0) continue;
      const fill = { reductions: [], stores: [{ operand: 0, value: zero }], inPlace: false };
      phases.push(
        composer.loop({ dims: [rows, n - columns], operands: [operands[operand]!], ...fill, ...whole }, [
          argument(operand, row, columns),
        ]),
      );
    }
    const { a, b, c, n: outputs } = second.product;
    const source = homes[second.rows]!;
    const inScratch = "scratch" in source;
    phases.push(
      ...composer.product(
        {
          m: rows,
          n: outputs,
          k: columns,
          batch: [],
          a: inScratch ? held : matrixOf(a),
          b: matrixOf(b),
          c: matrixOf(c),
        },
        {
          a: inScratch ? source : composer.matrix(a, [row, 0]),
          b: composer.matrix(b, [0, 0]),
          c: composer.matrix(c, [row, 0], true),
        },
      ),
    );
    return phases;
  };
  return composer.finish(
    extents,
    parts.map((blocks) => () => blocks.flatMap(phasesOf)),
    chainBytes(input),
    sizeOf(domain) * (second === undefined ? 1 : 4),
  );
}

/** Rows are cut, and left out, at multiples of it. */
const lengthUnit = (extent: number) => columnUnit * Math.ceil(extent / columnUnit / mostLengths);

/** Blocks of rows for every task of a batch element. The blocks depend on shapes alone; how many of them a task has depends on the threads. */
function rowBlocks({ firsts, ends }: ChainInput, threads: number): Block[][] {
  const { extents, m, n } = firsts[0]!;
  const rows = Math.min(m, blockRows, Math.max(16, Math.floor(blockBytes / (4 * n))));
  const unit = lengthUnit(n);
  const blocks = cut(m, Math.max(rows, Math.ceil(m / mostParts))).map(({ first, count }): Block => {
    const end = ends === undefined ? n : Math.max(...ends.slice(first, first + count));
    const columns = Math.min(n, unit * Math.ceil(end / unit));
    return { row: first, rows: count, column: 0, columns };
  });
  // The last block first: it may be the longest, and its packed operands serve the others.
  blocks.reverse();
  const tasks = Math.min(blocks.length, Math.ceil((4 * threads) / sizeOf(extents)));
  return cut(blocks.length, Math.ceil(blocks.length / tasks)).map(({ first, count }) =>
    blocks.slice(first, first + count),
  );
}

/** Blocks of columns, a task each, where the loop looks at elements alone. */
function mapBlocks({ firsts }: ChainInput): Block[][] {
  const { m, n, k } = firsts[0]!;
  const wanted = Math.min(mostParts, n / (2 * columnUnit), (2 * m * n * k * firsts.length) / leastFlops);
  const count = 2 ** Math.floor(Math.log2(Math.max(1, wanted))); // even for most numbers of threads
  const width = Math.min(n, columnUnit * Math.ceil(n / count / columnUnit));
  const least = Math.ceil((m * Math.ceil(n / width)) / mostParts);
  const rows = Math.max(least, Math.min(m, Math.max(blockRows, Math.floor(blockBytes / (4 * width)))));
  return cut(m, rows).flatMap((down) =>
    cut(n, width).map(({ first, count }) => [{ row: down.first, rows: down.count, column: first, columns: count }]),
  );
}

/** Bytes of operands and results that are not in scratch memory, every element counted once for every phase. */
function chainBytes({ firsts, second, spec, inner }: ChainInput): number {
  let sum = firsts.reduce((all, product) => all + productBytes(product, ["a", "b"]), 0);
  if (second !== undefined) sum += productBytes(second.product, ["b", "c"]);
  for (const [i, { dtype, strides }] of spec.operands.entries()) {
    if (inner.has(i)) continue;
    const elements = spec.dims.reduce((all, extent, axis) => (strides[axis] === 0 ? all : all * extent), 1);
    sum += dtypeBytes[dtype] * elements;
  }
  return sum;
}

function productBytes(product: Product, sides: readonly ("a" | "b" | "c")[]): number {
  const { m, n, k, extents } = product;
  const sizes = { a: m * k, b: k * n, c: m * n };
  return sides.reduce((all, side) => {
    const { dtype, batch } = product[side];
    return all + dtypeBytes[dtype] * batch.reduce((n, stride, i) => (stride === 0 ? n : n * extents[i]!), sizes[side]);
  }, 0);
}

/**
 * Plans a product whose left operand is a transposed matrix with rows that are 0 from `ends` on: for each block of its columns only the rows that
 * reach them count.
 */
export function planTriangular(product: Product, ends: readonly number[], isa: Isa, threads: number): ComposedStep {
  const { a, b, c, extents, m, n, k } = product;
  const composer = new Composer(isa);
  const size = Math.max(blockRows, Math.ceil(m / mostParts));
  const parts = cut(m, size).map(({ first, count }) => () => {
    const from = ends.findIndex((end) => end > first);
    const skip = from < 0 ? k - 1 : from - (from % lengthUnit(k)); // something is summed, be it zeros
    return composer.product(
      { m: count, n, k: k - skip, batch: [], a: matrixOf(a), b: matrixOf(b), c: matrixOf(c) },
      {
        a: composer.matrix(a, [first, skip]),
        b: composer.matrix(b, [skip, 0]),
        c: composer.matrix(c, [first, 0], true),
      },
    );
  });
  const tasks = Math.min(parts.length, Math.ceil((4 * threads) / sizeOf(extents)));
  const grouped = cut(parts.length, Math.ceil(parts.length / tasks)).map(
    ({ first, count }) =>
      () =>
        parts.slice(first, first + count).flatMap((part) => part()),
  );
  return composer.finish(extents, grouped, productBytes(product, ["a", "b", "c"]), 0);
}
