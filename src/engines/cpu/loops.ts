// Plans the step of a loop: operands that it can walk, memory that results take over, stores that are skipped or go past the caches.

import { dtypeBytes } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Group } from "./fuse.ts";
import { contiguous } from "./graph.ts";
import { type ColumnSpec, emitColumns } from "./kernels/columns.ts";
import { strip } from "./kernels/evaluate.ts";
import { emitLoop, loopScratch, loopStoresLast } from "./kernels/loop.ts";
import { type LoopOperand, type NestSpec, nestKey, nestTasks } from "./kernels/nest.ts";
import type { StepPlan } from "./kernels/step.ts";
import { machineOf } from "./machines.ts";
import { type Memory, ownerOf, type Place, requireInside } from "./memory.ts";
import type { Moves } from "./moves.ts";
import {
  bordersOf,
  innerDims,
  merge,
  type Nests,
  partition,
  reorder,
  type Touched,
  tailIsUnit,
  type Update,
} from "./nests.ts";
import type { Steps, Target } from "./steps.ts";

/** Elements of an inner dimension that fill few vectors. */
const shortRow = 16;

/**
 * How many of a map's last dimensions to walk as one: more than one where that is short, as channels of a group are, and all operands that do not
 * walk them so are few numbers (one for each group), to be copied.
 */
function widened({ dims, operands, stores }: NestSpec): number {
  const total = sizeOf(dims);
  let tail = 1;
  while (tail < dims.length && sizeOf(dims.slice(-tail)) < shortRow) {
    const from = dims.length - tail - 1;
    const fits = operands.every(({ strides }, i) => {
      if (tailIsUnit(dims.slice(from), strides.slice(from))) return true;
      const elements = dims.reduce((all, extent, axis) => (axis < from && strides[axis] === 0 ? all : all * extent), 1);
      return elements * shortRow <= total && stores.every(({ operand }) => operand !== i);
    });
    if (!fits) break;
    tail++;
  }
  return tail;
}

/** Results from which on a loop stores past the caches; measured, docs/log.md. */
const streamedBytes = 16 * 2 ** 20;

export class Loops {
  readonly #target: Target;
  readonly #nests: Nests;
  readonly #memory: Memory;
  readonly #moves: Moves;
  readonly #steps: Steps;

  constructor(target: Target, nests: Nests, memory: Memory, moves: Moves, steps: Steps) {
    this.#target = target;
    this.#nests = nests;
    this.#memory = memory;
    this.#moves = moves;
    this.#steps = steps;
  }

  /** Adds the step of a group that is a loop or a reduction of columns, and the copies that it needs. */
  add(group: Group): void {
    const { threads } = this.#target;
    const { spec: nest, touched, updates, parts } = this.#nests.of(group);
    const places = touched.map(({ access }) => this.#memory.place(access.root, access.offset));
    const later: (() => void)[] = [];
    let spec = merge(nest, bordersOf(group, nest.dims));
    if (this.#copies(spec, places)) return;
    spec = this.#unitStrides(spec, places, group, later);
    spec = partition(spec, group, threads);
    spec = { ...spec, inPlace: this.#shareMemory(group, touched, spec, places) };
    spec = this.#markUnchanged(spec, updates, places);
    if (group.kind === "loop") spec = this.#markStreams(spec, places);
    for (const [i, { dtype, strides }] of spec.operands.entries()) requireInside(places[i]!, dtype, spec.dims, strides);
    const columnsKind = group.kind === "columns";
    const bytes = spec.operands.reduce(
      (sum, { dtype, strides }) =>
        sum + dtypeBytes[dtype] * spec.dims.reduce((n, extent, axis) => (strides[axis] === 0 ? n : n * extent), 1),
      0,
    );
    const plan: StepPlan<number> = {
      key: `${columnsKind ? "columns" : "loop"}:${nestKey(spec)}`,
      tasks: nestTasks(spec),
      args: places.map((_, i) => i),
      scratchBytes: columnsKind ? 0 : loopScratch(spec),
      bytes,
      flops: sizeOf(spec.dims) * Math.max(1, group.members.length),
      emit: (code) => {
        const machine = machineOf(code);
        if (columnsKind) emitColumns(machine, spec as ColumnSpec);
        else emitLoop(machine, spec);
      },
    };
    const stored = new Set(spec.stores.map(({ operand }) => operand));
    this.#steps.native(
      columnsKind ? "columns" : "loop",
      plan,
      (arg) => places[arg]!,
      (arg) => stored.has(arg),
      `${parts} over ${spec.dims.join("x")}`,
    );
    for (const copy of later) copy();
  }

  /** Adds a copy in place of a loop that only copies. */
  #copies({ operands, stores, dims }: NestSpec, places: readonly Place[]): boolean {
    const [store] = stores;
    const value = store && strip(store.value);
    if (stores.length !== 1 || value?.kind !== "operand" || value.index < 0) return false;
    const [from, to] = [operands[value.index]!, operands[store!.operand]!];
    if (from.dtype !== to.dtype || operands.length !== 2) return false;
    this.#moves.copy(
      from.dtype,
      dims,
      { place: places[value.index]!, strides: from.strides },
      { place: places[store!.operand]!, strides: to.strides },
    );
    return true;
  }

  /** True for a loop without rows: any of its dimensions may be the inner one. */
  #isMap({ kind, columns }: Group): boolean {
    return kind === "loop" && columns === 0;
  }

  /** Makes every operand's inner stride 0 or 1: by another order of the loops where that does it, else by copies, those of results `later`. */
  #unitStrides(spec: NestSpec, places: Place[], group: Group, later: (() => void)[]): NestSpec {
    const inner = spec.dims.length - 1;
    const tail = this.#isMap(group) ? widened(spec) : innerDims(spec, group);
    const good = ({ strides }: LoopOperand, axis: number) => strides[axis] === 0 || strides[axis] === 1;
    if (tail === 1 && spec.operands.every((operand) => good(operand, inner))) return spec;
    if (tail === 1 && this.#isMap(group)) {
      const cost = (axis: number) =>
        spec.operands.reduce((sum, operand) => sum + (good(operand, axis) ? 0 : 1), 0) -
        (spec.dims[axis]! >= 16 ? 0.5 : 0);
      const stores = new Set(spec.stores.map(({ operand }) => operand));
      const axes = [...spec.dims.keys()].sort((a, b) => cost(a) - cost(b));
      const storable = axes.find((axis) => spec.operands.every((operand, i) => !stores.has(i) || good(operand, axis)));
      const best = storable ?? axes[0]!;
      if (best !== inner) {
        const order = [...spec.dims.keys()].filter((axis) => axis !== best).concat(best);
        spec = merge(reorder(spec, order), []);
      }
    }
    // What is still strided is copied into the loop's order.
    const stores = new Set(spec.stores.map(({ operand }) => operand));
    const columnsFrom = spec.dims.length - (this.#isMap(group) ? tail : innerDims(spec, group));
    const operands = spec.operands.map((operand, i) => {
      const collapses = tailIsUnit(spec.dims.slice(columnsFrom), operand.strides.slice(columnsFrom));
      if (collapses) return operand;
      // Repeated elements are copied only within a row, which must be one dimension in the end.
      const repeats = (axis: number) => axis < columnsFrom && operand.strides[axis] === 0;
      const kept = spec.dims.map((extent, axis) => (repeats(axis) ? 1 : extent));
      const dense = contiguous(kept).map((stride, axis) => (repeats(axis) ? 0 : stride));
      const place = this.#memory.allocate("arena", sizeOf(kept) * dtypeBytes[operand.dtype]);
      const strided = { place: places[i]!, strides: operand.strides };
      const own = { place, strides: contiguous(kept) };
      if (stores.has(i)) later.push(() => this.#moves.copy(operand.dtype, kept, own, strided));
      else this.#moves.copy(operand.dtype, kept, strided, own);
      places[i] = place;
      return { dtype: operand.dtype, strides: dense };
    });
    const merged = merge({ ...spec, operands }, bordersOf(group, spec.dims));
    invariant(innerDims(merged, group) === 1, () => "a row of a loop is not one dimension");
    return merged;
  }

  /** Lets a stored array take the memory of one that the loop reads last, at the same elements. True if the loop may write what it reads. */
  #shareMemory(group: Group, touched: readonly Touched[], spec: NestSpec, places: readonly Place[]): boolean {
    const stores = new Set(spec.stores.map(({ operand }) => operand));
    let inPlace = false;
    for (const store of stores) {
      const to = places[store]!;
      if (this.#memory.replaces(to, places)) inPlace = true;
      if (group.kind !== "loop" || to.offset !== 0 || !loopStoresLast(spec, store)) continue;
      const takes = touched.some(({ access, dtype }, i) => {
        const from = places[i]!;
        const alike =
          !stores.has(i) &&
          from.offset === 0 &&
          dtypeBytes[dtype] === dtypeBytes[touched[store]!.dtype] &&
          spec.operands[i]!.strides.every((stride, axis) => stride === spec.operands[store]!.strides[axis]);
        // Nothing else that the loop touches is in that memory, be it a result that has just taken it.
        const owner = ownerOf(from.storage);
        const alone = () => places.filter(({ storage }) => ownerOf(storage) === owner).length === 1;
        return alike && alone() && this.#memory.takeOver(to.storage, from.storage, access.root, group.members);
      });
      if (takes) inPlace = true;
    }
    return inPlace;
  }

  /** Tells the stores that put back what they read from the same place where. */
  #markUnchanged(spec: NestSpec, updates: readonly Update[], places: readonly Place[]): NestSpec {
    const inPlace = ({ store, old }: Update) => {
      const [to, from] = [spec.operands[store]!, spec.operands[old]!];
      return (
        to.dtype === from.dtype &&
        to.strides.every((stride, axis) => stride === from.strides[axis]) &&
        places[store]!.offset === places[old]!.offset &&
        this.#memory.identity(places[store]!) === this.#memory.identity(places[old]!)
      );
    };
    const found = new Map(updates.filter(inPlace).map(({ store, where }) => [store, where]));
    const stores = spec.stores.map((store) => {
      const where = found.get(store.operand);
      return where === undefined ? store : { ...store, where };
    });
    return { ...spec, stores };
  }

  /** Tells stores of large results to go past the caches: a line that is stored there must first be read. */
  #markStreams(spec: NestSpec, places: readonly Place[]): NestSpec {
    const stores = spec.stores.map((store) => {
      const { dtype, strides } = spec.operands[store.operand]!;
      const bytes = dtypeBytes[dtype];
      const memory = this.#memory.identity(places[store.operand]!);
      const streams =
        sizeOf(spec.dims) * bytes >= streamedBytes &&
        strides.at(-1) === 1 &&
        strides.slice(0, -1).every((stride) => stride !== 0 && (stride * bytes) % 64 === 0) &&
        places.every((place, i) => i === store.operand || this.#memory.identity(place) !== memory);
      return streams ? { ...store, streams } : store;
    });
    return { ...spec, stores };
  }
}
