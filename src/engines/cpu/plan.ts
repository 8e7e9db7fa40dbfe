// From a program to steps over memory: every group becomes kernels, every array that crosses groups gets a place in the arena.

import { type DType, dtypeBytes } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { float16Bits } from "../../core/float16.ts";
import { sizeOf } from "../../core/shape.ts";
import type { Program } from "../../ir/program.ts";
import { type Chain, endsOfRows, findChains, type RowEnds } from "./chains.ts";
import { type ComposedStep, type Product, planChain, planTriangular } from "./compose.ts";
import { domainOf, expand, type Fused, fuse, type Group, rootOf } from "./fuse.ts";
import {
  type Access,
  accessOf,
  buildGraph,
  contiguous,
  type Graph,
  type GraphArray,
  isZero,
  operandsOf,
  reshapeStrides,
  type SourceOf,
} from "./graph.ts";
import { emitColumns } from "./kernels/columns.ts";
import { planCopy, planFill } from "./kernels/copy.ts";
import { type GemmArgument, type Matrix, planGemm } from "./kernels/gemm.ts";
import { planGather } from "./kernels/index-gather.ts";
import { planScatter } from "./kernels/index-scatter.ts";
import { emitLoop, loopScratch, loopStoresLast } from "./kernels/loop.ts";
import { type LoopOperand, type NestSpec, nestKey, nestTasks } from "./kernels/nest.ts";
import type { Isa, StepPlan } from "./kernels/step.ts";
import { type Layout, layOut } from "./layout.ts";
import {
  bordersOf,
  innerDims,
  merge,
  Nests,
  partition,
  reorder,
  type Touched,
  tailIsUnit,
  type Update,
} from "./nests.ts";
import {
  align,
  batchesOf,
  type NativeStep,
  ownerOf,
  type Place,
  type PlannedStep,
  placeInArena,
  type Storage,
} from "./schedule.ts";
import { X64Machine } from "./x64-machine.ts";

export interface Plan {
  /** Run once, when the executable is made. */
  readonly setup: readonly NativeStep[];
  readonly steps: readonly PlannedStep[];
  /** Numbers of steps that may run at once, in the order of their running. */
  readonly batches: readonly (readonly number[])[];
  readonly storages: readonly Storage[];
  readonly arenaBytes: number;
  readonly constantBytes: number;
  /** Of constants that only `setup` reads. */
  readonly sourceBytes: number;
  readonly scratchBytes: number;
}

export interface PlanOptions {
  readonly isa: Isa;
  readonly threads: number;
  /** fp16 rounded after every operator, as the simulator does. */
  readonly strict: boolean;
  /** As in `LoadOptions`: outputs that replace state as soon as they are stored, with the input of the same memory, if there is one. */
  readonly inPlace: ReadonlyMap<string, string | null>;
}

/** Results from which on a loop stores past the caches; measured, docs/log.md. */
const streamedBytes = 16 * 2 ** 20;

class Planner {
  readonly #options: PlanOptions;
  readonly #graph: Graph;
  readonly #layout: Layout;
  readonly #fused: Fused;
  /** Chains of groups that one step computes, by each of their groups. */
  readonly #chains = new Map<Group, Chain>();
  readonly #storages = new Map<GraphArray, Storage>();
  readonly #all: Storage[] = [];
  readonly #steps: PlannedStep[] = [];
  readonly #setup: NativeStep[] = [];
  readonly #outputPort: ReadonlyMap<GraphArray, string>;
  /** Outputs that cannot be stored where they belong before everything else has run. */
  readonly #staged = new Set<GraphArray>();
  /** How many steps read a root from now on. */
  readonly #readers = new Map<GraphArray, number>();
  readonly #nests: Nests;
  /** Packed copies of matrices, by their storage, and by place and form in it. */
  readonly #packed = new Map<Storage, Map<string, Place>>();
  /** Arrays of rows that are 0 from some column on. */
  readonly #ends = new Map<GraphArray, RowEnds>();
  readonly #readsOf = new Map<GraphArray, ReadonlySet<GraphArray>>();
  #scratch = 0;

  constructor(program: Program, options: PlanOptions) {
    this.#options = options;
    const { graph, layout } = layOut(buildGraph(program, options.strict), new Set(options.inPlace.keys()));
    this.#graph = graph;
    this.#layout = layout;
    this.#outputPort = new Map([...graph.outputs].map(([port, array]) => [array, port]));
    const fused = fuse(graph);
    this.#fused = fused;
    this.#nests = new Nests(layout, fused);
    if (!options.strict) this.#fused = { ...fused, groups: this.#chainGroups() };
    this.#stageOutputs();
  }

  plan(): Plan {
    for (const { members } of this.#fused.groups)
      for (const member of members)
        for (const root of this.#reads(member)) this.#readers.set(root, (this.#readers.get(root) ?? 0) + 1);
    for (const array of this.#staged) this.#readers.set(array, (this.#readers.get(array) ?? 0) + 1);
    for (const group of this.#fused.groups) {
      const chain = this.#chains.get(group);
      if (chain === undefined) this.#group(group);
      else if (group === chain.loop) this.#chain(chain);
    }
    for (const array of this.#staged) this.#copyOut(array);
    const batches = batchesOf(this.#steps, this.#all, this.#options.inPlace);
    const arenaBytes = placeInArena(this.#all);
    // Constants that only packing reads are given up once they are packed.
    const read = new Set(
      this.#steps.flatMap((step) => (step.kind === "native" ? step.args : step.inputs)).map((place) => place?.storage),
    );
    let [constantBytes, sourceBytes] = [0, 0];
    for (const storage of this.#all) {
      if (storage.kind !== "constant") continue;
      storage.isSource = !read.has(storage);
      if (storage.isSource && storage.array === undefined) continue; // another product's packed copy took its place
      if (storage.isSource) {
        storage.offset = sourceBytes;
        sourceBytes += align(storage.bytes);
      } else {
        storage.offset = constantBytes;
        constantBytes += align(storage.bytes);
      }
    }
    return {
      setup: this.#setup,
      steps: this.#steps,
      batches,
      storages: this.#all,
      arenaBytes,
      constantBytes,
      sourceBytes,
      scratchBytes: this.#scratch,
    };
  }

  // ------------------------------------------------------------------------------------------------ memory

  /** Roots with memory that an array's computation reads, through arrays that are not stored. */
  #reads(array: GraphArray): ReadonlySet<GraphArray> {
    const known = this.#readsOf.get(array);
    if (known !== undefined) return known;
    const found = new Set<GraphArray>();
    this.#readsOf.set(array, found);
    const visit = (each: GraphArray) => {
      for (const operand of operandsOf(each)) {
        const root = rootOf(operand);
        const leaf = root.source.kind === "input" || root.source.kind === "constant";
        if (leaf || this.#fused.stored.has(root)) found.add(root);
        else if (!this.#fused.groupOf.has(root)) visit(root);
      }
    };
    visit(array);
    return found;
  }

  /** Groups that read each root, in their order. */
  #readersByRoot(): Map<GraphArray, Group[]> {
    const readers = new Map<GraphArray, Group[]>();
    for (const group of this.#fused.groups) {
      for (const root of new Set(group.members.flatMap((member) => [...this.#reads(member)]))) {
        const known = readers.get(root);
        if (known === undefined) readers.set(root, [group]);
        else known.push(group);
      }
    }
    return readers;
  }

  /** Finds chains; returns the groups in an order in which each chain's stand together. */
  #chainGroups(): Group[] {
    const chains = findChains({
      fused: this.#fused,
      layout: this.#layout,
      nests: this.#nests,
      outputs: new Set(this.#graph.outputs.values()),
      readers: this.#readersByRoot(),
    });
    const members = (chain: Chain) => [
      ...chain.firsts,
      chain.loop,
      ...(chain.second === undefined ? [] : [chain.second]),
    ];
    for (const chain of chains.values()) for (const group of members(chain)) this.#chains.set(group, chain);
    return this.#fused.groups.flatMap((group) => {
      const chain = chains.get(group);
      if (chain !== undefined) return members(chain);
      return this.#chains.has(group) ? [] : [group];
    });
  }

  /**
   * An output that takes an input's memory may be stored when nobody reads the input any more, or by the loop that reads it last, element by
   * element. Where that does not hold (a view of the input is read later), the output is kept aside and copied at the end.
   */
  #stageOutputs(): void {
    const { inPlace } = this.#options;
    if (inPlace.size === 0) return;
    const order = new Map(this.#fused.groups.map((group, at) => [group, at]));
    const readers = this.#readersByRoot();
    for (const [output, input] of inPlace) {
      if (input === null) continue;
      const array = this.#graph.outputs.get(output)!;
      const old = this.#graph.inputs.get(input)!;
      const own = this.#fused.groupOf.get(array)!;
      const chain = this.#chains.get(own);
      const safe = (readers.get(old) ?? []).every((group) => {
        if (group === own) return this.#readsInPlace(group, old, array);
        // A chain's groups take turns, block by block.
        return order.get(group)! < order.get(own)! && (chain === undefined || this.#chains.get(group) !== chain);
      });
      if (!safe) this.#staged.add(array);
    }
  }

  /** True if a loop reads `old` only at the element that it stores `array` to, before it does. */
  #readsInPlace(group: Group, old: GraphArray, array: GraphArray): boolean {
    if (group.kind !== "loop" || array.size !== sizeOf(group.dims)) return false;
    const whole = contiguous(group.dims);
    for (const member of group.members) {
      for (const operand of operandsOf(member)) {
        if (rootOf(operand) !== old) continue;
        const access = accessOf(expand(operand, member), this.#layout.stridesOf)!;
        const strides = reshapeStrides(domainOf(member), access.strides, group.dims);
        if (access.offset !== 0 || strides === undefined || strides.some((stride, axis) => stride !== whole[axis]))
          return false;
      }
    }
    return this.#storesInLastPass(group, array);
  }

  /** True if the loop stores the array after its last reduction: no later pass reads the row again. */
  #storesInLastPass(group: Group, array: GraphArray): boolean {
    const { spec, touched } = this.#nests.of(group);
    const operand = touched.find(({ access }) => access.root === array)!;
    return loopStoresLast(spec, operand.index);
  }

  #storage(root: GraphArray): Storage {
    const { host } = this.#layout.place(root);
    const known = this.#storages.get(host);
    if (known !== undefined) return known;
    const { source } = host;
    const bytes = host.size * dtypeBytes[host.dtype];
    const port =
      source.kind === "input" ? source.port : this.#staged.has(host) ? undefined : this.#outputPort.get(host);
    const kind = port !== undefined ? "port" : source.kind === "constant" ? "constant" : "arena";
    const storage = this.#newStorage(kind, bytes, {
      ...(port !== undefined && { port }),
      ...(kind === "constant" && { array: host }),
    });
    this.#storages.set(host, storage);
    return storage;
  }

  #newStorage(kind: Storage["kind"], bytes: number, rest: { port?: string; array?: GraphArray } = {}): Storage {
    const storage: Storage = {
      kind,
      bytes,
      ...rest,
      touched: false,
      first: Number.POSITIVE_INFINITY,
      last: -1,
      offset: 0,
    };
    this.#all.push(storage);
    return storage;
  }

  /** Address of the element at `offset` of a root, as its place is. */
  #place(root: GraphArray, offset = 0): Place {
    const { offset: start } = this.#layout.place(root);
    return { storage: this.#storage(root), offset: (start + offset) * dtypeBytes[root.dtype] };
  }

  #touch(places: readonly (Place | undefined)[]): void {
    for (const place of places) if (place !== undefined) ownerOf(place.storage).touched = true;
  }

  #native(
    name: string,
    plan: StepPlan<unknown>,
    args: readonly Place[],
    writes: (arg: number) => boolean,
    parts = name,
  ): void {
    this.#touch(args);
    this.#scratch = Math.max(this.#scratch, plan.scratchBytes ?? 0);
    this.#steps.push({
      kind: "native",
      name,
      key: plan.key,
      emit: (asm) => plan.emit(asm),
      tasks: plan.tasks,
      args,
      writes: args.map((_, arg) => writes(arg)),
      scratchBytes: plan.scratchBytes ?? 0,
      bytes: plan.bytes,
      flops: plan.flops,
      parts,
    });
  }

  /** Checks that a walk over memory stays inside its storage: generated code does not look. */
  #requireInside(place: Place, dtype: DType, dims: readonly number[], strides: readonly number[]): void {
    const [first, last] = dims.reduce(
      ([low, high], extent, axis) => {
        const reach = (extent - 1) * strides[axis]!;
        return [Math.min(low, low + reach), Math.max(high, high + reach)] as const;
      },
      [0, 0] as readonly [number, number],
    );
    const bytes = dtypeBytes[dtype];
    const { storage, offset } = place;
    invariant(
      offset + first * bytes >= 0 && offset + (last + 1) * bytes <= storage.bytes,
      () => `code would touch bytes ${offset + first * bytes} to ${offset + (last + 1) * bytes} of ${storage.bytes}`,
    );
  }

  // ------------------------------------------------------------------------------------------------ groups

  #group(group: Group): void {
    if (group.kind === "loop" || group.kind === "columns") this.#loop(group);
    else {
      const [member] = group.members as [GraphArray];
      const { kind } = member.source;
      if (kind === "matmul") this.#matmul(member);
      else if (kind === "gather") this.#gather(member);
      else if (kind === "scatter") this.#scatter(member);
      else if (kind === "assemble") this.#assemble(member);
      else if (kind === "reference") this.#reference(member);
    }
    this.#done(group);
  }

  /** The group has read what it reads. */
  #done({ members }: Group): void {
    for (const member of members)
      for (const root of this.#reads(member)) this.#readers.set(root, this.#readers.get(root)! - 1);
  }

  #composed(name: string, { plan, places, writes }: ComposedStep, parts: string): void {
    this.#native(name, plan, places, (arg) => writes[arg]!, parts);
  }

  /** One step for the groups of a chain; a step each where their memory does not fit together. */
  #chain(chain: Chain): void {
    const { isa, threads, inPlace } = this.#options;
    const { firsts, loop, second, inner } = chain;
    const groups = [...firsts, loop, ...(second === undefined ? [] : [second])];
    const { spec, touched, parts } = this.#nests.of(loop);
    const places = touched.map(({ access }) => this.#place(access.root, access.offset));
    const products = firsts.map(({ members }) => this.#product(members[0]!));
    const last = second && this.#product(second.members[0]!);
    const rows = endsOfRows(chain, this.#nests.of(loop), products[0]!, this.#ends);
    const operandOf = (root: GraphArray) => touched.findIndex(({ access }) => access.root === root);
    const ports = new Set(places.flatMap(({ storage }) => (storage.kind === "port" ? [storage.port] : [])));
    const replaces = spec.stores.some(({ operand }) =>
      ports.has(inPlace.get(places[operand]!.storage.port ?? "") ?? ""),
    );
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
    if (step === undefined) {
      for (const group of groups) this.#group(group);
      return;
    }
    for (const [i, { dtype, strides }] of spec.operands.entries())
      this.#requireInside(places[i]!, dtype, spec.dims, strides);
    const shape = ({ extents, m, n, k }: Product) =>
      `${extents.map((extent) => `${extent} x `).join("")}${m}x${k}x${n}`;
    const what = [
      ...products.map((each) => `matmul ${shape(each)}`),
      parts,
      ...(last ? [`matmul ${shape(last)}`] : []),
    ];
    this.#native("chain", step.plan, step.places, (arg) => step.writes[arg]!, what.join(", then "));
    for (const group of groups) this.#done(group);
    if (rows === undefined) return;
    for (const { operand } of spec.stores) {
      const { root } = touched[operand]!.access;
      if (root.size === sizeOf(spec.dims)) this.#ends.set(root, rows);
    }
  }

  #access(array: GraphArray): Access {
    const access = accessOf(array, this.#layout.stridesOf);
    invariant(access !== undefined, () => "a view that needs a copy was not copied");
    return access;
  }

  /** The elements of an array in row-major order: where they are, or a copy. */
  #dense(array: GraphArray): Place {
    const { root, offset, strides } = this.#access(array);
    const wanted = contiguous(array.shape);
    const dense = array.shape.every((extent, axis) => extent === 1 || strides[axis] === wanted[axis]);
    if (dense) return this.#place(root, offset);
    return this.#copied(array.dtype, array.shape, { root, offset, strides });
  }

  /** A row-major copy in memory of its own. */
  #copied(dtype: DType, shape: readonly number[], { root, offset, strides }: Access): Place {
    const storage = this.#newStorage("arena", sizeOf(shape) * dtypeBytes[dtype]);
    const to = { storage, offset: 0 };
    this.#copy(dtype, shape, { place: this.#place(root, offset), strides }, { place: to, strides: contiguous(shape) });
    return to;
  }

  #copy(
    dtype: DType,
    shape: readonly number[],
    from: { readonly place: Place; readonly strides: readonly number[] },
    to: { readonly place: Place; readonly strides: readonly number[] },
  ): void {
    const { isa, threads } = this.#options;
    this.#requireInside(from.place, dtype, shape, from.strides);
    this.#requireInside(to.place, dtype, shape, to.strides);
    const bytes = dtypeBytes[dtype] as 1 | 2 | 4;
    const plan = planCopy({ bytes, shape, from: from.strides, to: to.strides }, isa, threads);
    this.#native(
      "copy",
      plan,
      plan.args.map((each) => (each === "from" ? from.place : to.place)),
      (arg) => plan.args[arg] === "to",
    );
  }

  #copyOut(array: GraphArray): void {
    const port = this.#outputPort.get(array)!;
    const storage = this.#newStorage("port", array.size * dtypeBytes[array.dtype], { port });
    const strides = contiguous(array.shape);
    const from = { place: this.#place(array), strides: this.#layout.place(array).strides };
    this.#copy(array.dtype, array.shape, from, { place: { storage, offset: 0 }, strides });
  }

  // ------------------------------------------------------------------------------------------------ loops

  #loop(group: Group): void {
    const { isa, threads } = this.#options;
    const nest = this.#nests.of(group);
    const { parts } = nest;
    const places = nest.touched.map(({ access }) => this.#place(access.root, access.offset));
    let { spec } = nest;
    spec = merge(spec, bordersOf(group, spec.dims));
    const later: (() => void)[] = [];
    spec = this.#unitStrides(spec, places, group, later);
    spec = partition(spec, group, threads);
    spec = { ...spec, inPlace: this.#shareMemory(group, nest.touched, spec, places) };
    spec = this.#markUnchanged(spec, nest.updates, places);
    if (group.kind === "loop") spec = this.#markStreams(spec, places);
    for (const [i, { dtype, strides }] of spec.operands.entries())
      this.#requireInside(places[i]!, dtype, spec.dims, strides);
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
      emit: (asm) => {
        const machine = new X64Machine(asm, isa);
        if (columnsKind) emitColumns(machine, spec);
        else emitLoop(machine, spec);
      },
    };
    const stored = new Set(spec.stores.map(({ operand }) => operand));
    const what = `${parts} over ${spec.dims.join("x")}`;
    this.#native(columnsKind ? "columns" : "loop", plan, places, (arg) => stored.has(arg), what);
    for (const copy of later) copy();
  }

  /** Makes every operand's inner stride 0 or 1: by another order of the loops where that does it, else by copies, those of results `later`. */
  #unitStrides(spec: NestSpec, places: Place[], group: Group, later: (() => void)[]): NestSpec {
    const inner = spec.dims.length - 1;
    const tail = innerDims(spec, group);
    const good = (operand: LoopOperand, axis: number) => operand.strides[axis]! <= 1;
    if (tail === 1 && spec.operands.every((operand) => good(operand, inner))) return spec;
    if (group.columns === 0 && group.kind === "loop") {
      // Any dimension may be the inner one.
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
    const columnsFrom = spec.dims.length - innerDims(spec, group);
    const operands = spec.operands.map((operand, i) => {
      const collapses = tailIsUnit(spec.dims.slice(columnsFrom), operand.strides.slice(columnsFrom));
      if (collapses) return operand;
      // Repeated elements are copied only within a row, which must be one dimension in the end.
      const repeats = (axis: number) => axis < columnsFrom && operand.strides[axis] === 0;
      const kept = spec.dims.map((extent, axis) => (repeats(axis) ? 1 : extent));
      const dense = contiguous(kept).map((stride, axis) => (repeats(axis) ? 0 : stride));
      const storage = this.#newStorage("arena", sizeOf(kept) * dtypeBytes[operand.dtype]);
      const strided = { place: places[i]!, strides: operand.strides };
      const own = { place: { storage, offset: 0 }, strides: contiguous(kept) };
      if (stores.has(i)) later.push(() => this.#copy(operand.dtype, kept, own, strided));
      else this.#copy(operand.dtype, kept, strided, own);
      places[i] = own.place;
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
    const taken = new Set<Storage>();
    for (const store of stores) {
      const to = places[store]!.storage;
      if (to.kind === "port" && this.#options.inPlace.has(to.port!)) {
        const input = this.#options.inPlace.get(to.port!)!;
        if (places.some(({ storage }) => storage.kind === "port" && storage.port === input)) inPlace = true;
        continue;
      }
      if (group.kind !== "loop" || to.kind !== "arena" || to.shares !== undefined) continue;
      if (to.touched) continue;
      if (!loopStoresLast(spec, store)) continue;
      for (const [i, { access, dtype }] of touched.entries()) {
        const from = places[i]!.storage;
        const { root } = access;
        const free =
          !stores.has(i) &&
          from.kind === "arena" &&
          ownerOf(from) !== to &&
          from.bytes === to.bytes &&
          !taken.has(ownerOf(from)) &&
          places[i]!.offset === 0 &&
          places[store]!.offset === 0 &&
          dtypeBytes[dtype] === dtypeBytes[touched[store]!.dtype] &&
          spec.operands[i]!.strides.every((stride, axis) => stride === spec.operands[store]!.strides[axis]) &&
          this.#readers.get(root) === group.members.filter((member) => this.#reads(member).has(root)).length &&
          !this.#hasHosted(root) &&
          places.filter(({ storage }) => ownerOf(storage) === ownerOf(from)).length === 1;
        if (!free) continue;
        // One storage from here on.
        to.shares = from;
        taken.add(ownerOf(from));
        inPlace = true;
        break;
      }
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
        this.#memory(places[store]!) === this.#memory(places[old]!)
      );
    };
    const found = new Map(updates.filter(inPlace).map(({ store, where }) => [store, where]));
    const stores = spec.stores.map((store) => {
      const where = found.get(store.operand);
      return where === undefined ? store : { ...store, where };
    });
    return { ...spec, stores };
  }

  /** Equal for places in the same memory. */
  #memory({ storage }: Place): Storage | string {
    if (storage.kind !== "port") return ownerOf(storage);
    return this.#options.inPlace.get(storage.port!) ?? storage.port!;
  }

  /** Tells stores of large results to go past the caches: a line that is stored there must first be read. */
  #markStreams(spec: NestSpec, places: readonly Place[]): NestSpec {
    const stores = spec.stores.map((store) => {
      const { dtype, strides } = spec.operands[store.operand]!;
      const bytes = dtypeBytes[dtype];
      const memory = this.#memory(places[store.operand]!);
      const streams =
        sizeOf(spec.dims) * bytes >= streamedBytes &&
        strides.at(-1) === 1 &&
        strides.slice(0, -1).every((stride) => stride !== 0 && (stride * bytes) % 64 === 0) &&
        places.every((place, i) => i === store.operand || this.#memory(place) !== memory);
      return streams ? { ...store, streams } : store;
    });
    return { ...spec, stores };
  }

  /** True where other arrays are stored inside the root's memory. */
  #hasHosted(root: GraphArray): boolean {
    return root.source.kind === "assemble" || this.#layout.isHosted(root);
  }

  // ------------------------------------------------------------------------------------------------ single arrays

  /** A product's operands and result, batch dimensions of 1 left out, and those over which y stays the same taken as rows. */
  #product(array: GraphArray): Product {
    const { x, y, transposeX, transposeY } = array.source as SourceOf<"matmul">;
    const batch = array.shape.slice(0, -2);
    const side = (operand: GraphArray, transposed: boolean) => {
      const { root, offset, strides } = this.#access(operand);
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
        place: this.#place(root, offset),
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
      place: this.#place(array),
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
    this.#requireInside(a.place, a.dtype, [...extents, m, k], [...a.batch, a.row, a.column]);
    this.#requireInside(b.place, b.dtype, [...extents, k, n], [...b.batch, b.row, b.column]);
    this.#requireInside(c.place, c.dtype, [...extents, m, n], [...c.batch, c.row, c.column]);
    return { a, b, c, extents, m, n, k };
  }

  /** Where the rows of a product's transposed left operand end, if its batch elements are whole matrices of known rows. */
  #endsOf({ a, k }: Product): readonly number[] | undefined {
    const rows = this.#ends.get(a.root);
    if (rows?.ends.length !== k || a.row !== 1 || a.column !== rows.columns) return undefined;
    const skipped = Math.floor((a.place.offset - this.#place(a.root).offset) / dtypeBytes[a.dtype] / rows.columns);
    const matrix = k * rows.columns;
    return skipped % k === 0 && a.batch.every((stride) => stride % matrix === 0) ? rows.ends : undefined;
  }

  #matmul(array: GraphArray): void {
    const { x, y } = array.source as SourceOf<"matmul">;
    const { isa, threads } = this.#options;
    const product = this.#product(array);
    const { a, b, c, extents, m, n, k } = product;
    const ends = this.#endsOf(product);
    if (ends !== undefined) {
      this.#composed("matmul", planTriangular(product, ends, isa, threads), `${nameOf(product)}, lower triangle`);
      return;
    }
    const matrix = ({ dtype, row, column, batch }: Matrix) => ({ dtype, row, column, batch });
    const aConstant = rootOf(x).source.kind === "constant";
    const bConstant = rootOf(y).source.kind === "constant";
    const plan = planGemm(
      { m, n, k, batch: extents, a: matrix(a), b: matrix(b), c: matrix(c), aConstant, bConstant },
      isa,
      threads,
    );
    const kept = new Set(plan.kept.map(({ temp }) => temp));
    const temps = plan.temps.map((bytes, i) => {
      const storage = this.#newStorage(kept.has(i) ? "constant" : "arena", bytes);
      return { storage, offset: 0 };
    });
    const operands = { a: a.place, b: b.place, c: c.place } as const;
    const argument = (arg: GemmArgument): Place => {
      if (typeof arg === "object") return temps[arg.temp]!;
      return operands[arg];
    };
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
    for (const step of plan.setup) {
      if (packedBefore(step)) continue;
      this.#scratch = Math.max(this.#scratch, step.scratchBytes ?? 0);
      this.#setup.push({
        kind: "native",
        name: "pack",
        key: step.key,
        emit: (asm) => step.emit(asm),
        tasks: step.tasks,
        args: step.args.map(argument),
        writes: step.args.map((arg) => typeof arg === "object"),
        scratchBytes: step.scratchBytes ?? 0,
        bytes: step.bytes,
        flops: 0,
        parts: "pack",
      });
    }
    const what = nameOf(product);
    for (const step of plan.steps) {
      const packs = step.flops === 0;
      if (packs && packedBefore(step)) continue;
      this.#native(
        packs ? "pack" : "matmul",
        step,
        step.args.map(argument),
        (arg) => step.args[arg] === "c" || (packs && typeof step.args[arg] === "object"),
        what,
      );
    }
  }

  #gather(array: GraphArray): void {
    const { x, indices, axis, at } = array.source as SourceOf<"gather">;
    const { isa, threads } = this.#options;
    const places = { x: this.#dense(x), index: this.#dense(indices), out: this.#place(array) };
    this.#requireInside(places.x, x.dtype, [x.size], [1]);
    this.#requireInside(places.index, "int32", [indices.size], [1]);
    this.#requireInside(places.out, array.dtype, [array.size], [1]);
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
    this.#native(
      "gather",
      plan,
      plan.args.map((arg) => places[arg]),
      (arg) => plan.args[arg] === "out",
    );
  }

  #scatter(array: GraphArray): void {
    const { data, indices, updates, axis, mode, at } = array.source as SourceOf<"scatter">;
    const { isa, threads } = this.#options;
    const { source } = rootOf(data);
    const zeroData = source.kind === "constant" && isZero(source.data);
    const apart = () => {
      const others = [indices, updates].map((operand) => ownerOf(this.#storage(rootOf(operand))));
      return !others.includes(ownerOf(this.#storage(rootOf(data))));
    };
    const inPlace = !zeroData && apart() && this.#takeOver(data, array);
    const places = {
      data: zeroData ? undefined : this.#dense(data),
      index: this.#dense(indices),
      updates: this.#dense(updates),
      out: this.#place(array),
    };
    if (places.data !== undefined) this.#requireInside(places.data, array.dtype, [array.size], [1]);
    this.#requireInside(places.index, "int32", [indices.size], [1]);
    this.#requireInside(places.updates, array.dtype, [updates.size], [1]);
    this.#requireInside(places.out, array.dtype, [array.size], [1]);
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
    const temps = plan.temps.map((bytes) => ({ storage: this.#newStorage("arena", bytes), offset: 0 }));
    for (const step of plan.steps) {
      this.#native(
        "scatter",
        step,
        step.args.map((arg) => (typeof arg === "object" ? temps[arg.temp]! : places[arg]!)),
        (arg) => step.args[arg] === "out" || typeof step.args[arg] === "object",
      );
    }
  }

  /** Gives an array the memory of one that only it reads, with the same elements in the same order. */
  #takeOver(from: GraphArray, array: GraphArray): boolean {
    const { root, offset, strides } = this.#access(from);
    const source = this.#storage(root);
    const target = this.#storage(array);
    const wanted = contiguous(array.shape);
    const free =
      source.kind === "arena" &&
      target.kind === "arena" &&
      !target.touched &&
      target.shares === undefined &&
      source.bytes === target.bytes &&
      offset === 0 &&
      from.shape.every((extent, axis) => extent === 1 || strides[axis] === wanted[axis]) &&
      this.#readers.get(root) === 1 &&
      !this.#hasHosted(root) &&
      !this.#hasHosted(array);
    if (free) target.shares = source;
    return free;
  }

  #assemble(array: GraphArray): void {
    const { fill, pieces } = array.source as SourceOf<"assemble">;
    const { isa, threads } = this.#options;
    const strides = this.#layout.place(array).strides;
    if (fill !== undefined) {
      const bytes = dtypeBytes[array.dtype] as 1 | 2 | 4;
      const plan = planFill({ bytes, count: array.size, bits: bitsOf(array.dtype, fill) }, isa, threads);
      this.#native("fill", plan, [this.#place(array)], () => true);
    }
    for (const { x, begin, stride } of pieces) {
      if (this.#layout.isHosted(x)) continue;
      const { root, offset, strides: from } = this.#access(x);
      const start = begin.reduce((sum, at, axis) => sum + at * strides[axis]!, 0);
      this.#copy(
        array.dtype,
        x.shape,
        { place: this.#place(root, offset), strides: from },
        { place: this.#place(array, start), strides: strides.map((each, axis) => each * stride[axis]!) },
      );
    }
  }

  #reference(array: GraphArray): void {
    const { call } = array.source as SourceOf<"reference">;
    const inputs = call.operands.map((operand) => operand && this.#dense(operand));
    const outputs = call.results.map((result) => this.#place(result));
    this.#touch([...inputs, ...outputs]);
    this.#steps.push({ kind: "reference", name: call.instruction.op.name, call, inputs, outputs });
  }
}

function nameOf({ extents, m, n, k }: Product): string {
  return `matmul ${extents.length === 0 ? "" : `${extents.join("x")} x `}${m}x${k}x${n}`;
}

/** Bits of a number in a dtype. */
function bitsOf(dtype: DType, value: number): number {
  if (dtype === "fp32") return new Uint32Array(Float32Array.of(value).buffer)[0]!;
  if (dtype === "fp16") return float16Bits(value);
  return dtype === "bool" ? Number(value !== 0) : value;
}

/** Plans a program. */
export function planProgram(program: Program, options: PlanOptions): Plan {
  return new Planner(program, options).plan();
}
