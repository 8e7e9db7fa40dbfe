// The matrix-product kernel: a task multiplies one block, tile by tile, after packing what the planner wants packed.
// Two operands play different parts. P's elements are broadcast: a tile has one row for each of a few P rows. Q's elements fill vectors: a tile's
// columns. The planner takes A for P and B for Q, or the other way around (then a tile is a block of C transposed).

import { type Code, gp, Label, type Mem, mem, type Part, type Storage, storageBytes, vectorLengths } from "../code.ts";
import { addImm, countDown, multiply } from "./integers.ts";
import { emitPack, type PanelPack } from "./pack.ts";
import type { Isa } from "./step.ts";

/** An operand cut into panels: panels before number `boundary` have `size` rows of P (columns of Q), the others `smaller`. */
export interface Panels {
  readonly size: number;
  readonly smaller: number;
  readonly boundary: number;
  readonly count: number;
}

/** Layout of a packed panel. */
export interface PackedLayout {
  readonly layout: "byK" | "byRow";
  /** Bytes between two k (byK) or two rows (byRow). */
  readonly stride: number;
  readonly panelBytes: number;
}

/** One of the two operands. */
export interface Side {
  readonly panels: Panels;
  /** Panels of a task; the last task may have fewer. */
  readonly chunk: number;
  /** Index of the operand's address in the argument block. */
  readonly argument: number;
  readonly storage: Storage;
  /** Bytes between elements neighbouring in the panel, and along k. */
  readonly along: number;
  readonly overK: number;
  /** Bytes, for every batch dimension. */
  readonly batch: readonly number[];
  /** `direct`: read where it is; `local`: packed by the task into scratch; `shared`: packed by an earlier step ([block of k][panel]). */
  readonly access: "direct" | "local" | "shared";
  readonly packed: PackedLayout;
}

/** What a product sums over, and how blocks cut it. */
export interface Terms {
  /** Extent of the innermost dimension. */
  readonly k: number;
  /** The other ones, outermost first. */
  readonly sums: readonly { readonly extent: number }[];
  /** Terms of a block. Without other dimensions a multiple of the lanes unless it is all of k; else k times so many of the last of them. */
  readonly kBlock: number;
}

/** The result, or what is added to it; strides in bytes. */
export interface Result {
  readonly argument: number;
  readonly storage: Storage;
  /** Between tile rows and tile columns; of the result one of them is one element. */
  readonly p: number;
  readonly q: number;
  readonly batch: readonly number[];
}

/** A limit of results: bits of an fp32 that is no NaN. */
export interface Bound {
  readonly op: "max" | "min";
  readonly bits: number;
}

/** All that the code depends on. */
export interface GemmKernel extends Terms {
  readonly isa: Isa;
  /** Bytes between neighbours in either operand. */
  readonly sums: readonly { readonly extent: number; readonly p: number; readonly q: number }[];
  readonly batch: readonly number[];
  readonly p: Side;
  readonly q: Side;
  /** The operand of the outer loop: its panels stream through, the other's chunk stays in cache. */
  readonly outer: "p" | "q";
  readonly c: Result;
  /** Where tiles are not transposed: added to the sums, whose columns lie as c's or are all the same; at most as many as `addPointers`. */
  readonly adds: readonly Result[];
  readonly bounds: readonly Bound[];
}

const { r0, r1, r2, r3, sp, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13 } = gp;

/** Rows (P) or columns (Q) before panel `index`. */
export function panelStart({ size, smaller, boundary }: Panels, index: number): number {
  return index * size - Math.max(0, index - boundary) * (size - smaller);
}

/** Blocks along every dimension that is summed over. */
function blocksAlong({ k, sums, kBlock }: Terms): number[] {
  if (sums.length === 0) return [Math.ceil(k / kBlock)];
  return sums.map(({ extent }, i) => (i < sums.length - 1 ? extent : Math.ceil((extent * k) / kBlock)));
}

/** Number of blocks. */
export function blocksOf(terms: Terms): number {
  return blocksAlong(terms).reduce((all, count) => all * count, 1);
}

/** The packing that a side's panels of one size need. */
export function sidePack(side: Side, size: number, k: number, lanes: number): PanelPack {
  const { storage, along, overK, packed } = side;
  return { storage, along, overK, width: size, layout: packed.layout, stride: packed.stride, kTail: k % lanes };
}

/** Byte offsets in a thread's scratch memory, and its size. */
export function gemmScratch(kernel: GemmKernel): {
  inner: number;
  outer: number;
  partials: number;
  spill: number;
  bytes: number;
} {
  const { p, q } = kernel;
  const [outer, inner] = kernel.outer === "p" ? [p, q] : [q, p];
  const round = (bytes: number) => Math.ceil(bytes / 64) * 64;
  const innerBytes = inner.access === "local" ? round(inner.packed.panelBytes * inner.chunk) : 0;
  const outerBytes = outer.access === "local" ? round(outer.packed.panelBytes) : 0;
  const partialBytes = blocksOf(kernel) > 1 ? round(tileBytes(kernel) * p.chunk * q.chunk) : 0;
  const spillBytes = isTransposed(kernel) ? round(tileBytes(kernel)) : 0;
  const outerAt = innerBytes;
  const partials = outerAt + outerBytes;
  const spill = partials + partialBytes;
  return { inner: 0, outer: outerAt, partials, spill, bytes: spill + spillBytes };
}

function tileBytes({ isa, p, q }: GemmKernel): number {
  const vectorBytes = vectorLengths[isa];
  return p.panels.size * Math.ceil((q.panels.size * 4) / vectorBytes) * vectorBytes;
}

/** Whether columns of a tile, not rows, are contiguous in C. */
function isTransposed({ c }: GemmKernel): boolean {
  return c.q !== storageBytes[c.storage];
}

/** Calls `emit` for the size of panel `index`, in code that branches if there are two. */
function bySize(code: Code, { size, smaller, boundary, count }: Panels, index: number, emit: (size: number) => void) {
  if (boundary >= count) return emit(size);
  if (boundary === 0) return emit(smaller);
  const other = new Label();
  const done = new Label();
  code.aluImm("cmp", index, boundary);
  code.jcc("ae", other);
  emit(size);
  code.jmp(done);
  code.bind(other);
  emit(smaller);
  code.bind(done);
}

/** dst = rows before panel `index`, times `bytes`; clobbers r0 and r1. */
function emitStart(code: Code, dst: number, index: number, { size, smaller, boundary, count }: Panels, bytes: number) {
  code.mov(dst, index);
  multiply(code, dst, size * bytes, r0);
  if (boundary >= count) return;
  const before = new Label();
  code.mov(r1, index);
  code.aluImm("sub", r1, boundary);
  code.jcc("be", before);
  multiply(code, r1, (size - smaller) * bytes, r0);
  code.alu("sub", dst, r1);
  code.bind(before);
}

/** Splits the number in `value` by sizes, the last fastest, and gives each digit in r2 to `use`; clobbers r0, r1, r2. */
export function emitDigits(
  code: Code,
  value: number,
  sizes: readonly number[],
  use: (digit: number, i: number) => void,
) {
  for (let i = sizes.length - 1; i >= 0; i--) {
    if (sizes[i] === 1) continue;
    if (i === 0 || sizes.slice(0, i).every((size) => size === 1)) {
      use(value, i);
      return;
    }
    code.divide(value, sizes[i]!);
    use(r2, i);
  }
}

/** Slots of the stack frame. */
const slot = {
  scratch: 0,
  p: 1,
  q: 2,
  c: 3,
  pFirst: 4,
  pEnd: 5,
  qFirst: 6,
  qEnd: 7,
  kIndex: 8,
  kCount: 9,
  ahead: 10,
  aheadStep: 11,
  aheadTiles: 12,
  cStep: 13,
  kRest: 14,
  pStart: 15,
  qStart: 16,
  blockRows: 17,
  rowsLeft: 18,
  packFrom: 19,
  packTo: 20,
} as const;
/** Behind them three for what is added: as `c`, and where the present panels begin in it. */
const addSlots = ["block", "outer", "inner"] as const;
const slots = Object.keys(slot).length;
/** A slot as the kernel sees it, or its tiles, `called` bytes further down. */
const frame = (name: keyof typeof slot, called = 0): Mem => mem(sp, slot[name] * 8 + called);
const addFrame = (add: number, name: (typeof addSlots)[number], called = 0): Mem =>
  mem(sp, (slots + addSlots.length * add + addSlots.indexOf(name)) * 8 + called);
/** With the return address a multiple of 16. */
const frameBytes = ({ adds }: GemmKernel): number => 16 * ((slots + addSlots.length * adds.length) >> 1) + 8;

/** Registers for where a tile begins in what is added. */
const addPointers = [r6, r7, r1];

/** k steps of an iteration of the tile's loop. */
const unroll = 4;

/** What tiles prefetch while they compute: parts of the next panel of the outer operand, which else would be waited for. */
interface Ahead {
  /** Byte offsets that an iteration of the tile's loop touches, and how far it then moves on. */
  readonly offsets: readonly number[];
  readonly step: number;
  /** Rows: bytes from what one tile prefetches to what the next tile does. Undefined: the next goes on where this ends. */
  readonly perTile?: number;
  /** Tiles that prefetch. */
  readonly tiles: number;
}

function aheadOf(kernel: GemmKernel): Ahead | undefined {
  const [outer, inner] = kernel.outer === "p" ? [kernel.p, kernel.q] : [kernel.q, kernel.p];
  const { size } = outer.panels;
  const unit = storageBytes[outer.storage];
  const tiles = Math.min(inner.chunk, inner.panels.count);
  if (kernel.sums.length > 0 || outer.access === "shared" || tiles < 2 || outer.panels.count < 2) return undefined;
  if (outer.overK === unit) {
    const rows = Math.ceil(size / tiles);
    const offsets = Array.from({ length: rows }, (_, i) => i * outer.along);
    return { offsets, step: unroll * unit, perTile: rows * outer.along, tiles };
  }
  if (outer.along !== unit) return undefined;
  const aligned = (size * unit) % 64 === 0 && outer.overK % 64 === 0;
  const lines = Math.ceil((size * unit) / 64) + (aligned ? 0 : 1);
  const rows = Math.ceil(unroll / tiles);
  const offsets = Array.from(
    { length: rows * lines },
    (_, i) => Math.floor(i / lines) * outer.overK + (i % lines) * 64,
  );
  return { offsets, step: rows * outer.overK, tiles: Math.ceil(unroll / rows) };
}

/** Number of tasks. */
export function gemmTasks({ batch, p, q }: GemmKernel): number {
  return batch.reduce((all, n) => all * n, 1) * chunksOf(p) * chunksOf(q);
}

const chunksOf = ({ panels, chunk }: Side) => Math.ceil(panels.count / chunk);

/** Emits the kernel. */
export function emitGemm(code: Code, kernel: GemmKernel): void {
  const { p, q, c, adds, k, kBlock, sums, batch } = kernel;
  const kBlocks = blocksOf(kernel);
  const layout = gemmScratch(kernel);
  const outerIsP = kernel.outer === "p";
  const [outer, inner] = outerIsP ? [p, q] : [q, p];
  const names = {
    outer: outerIsP ? ("p" as const) : ("q" as const),
    inner: outerIsP ? ("q" as const) : ("p" as const),
  };
  const tiles = new Map<string, Label>();
  const tileLabel = (rows: number, columns: number) => {
    const key = `${rows},${columns}`;
    if (!tiles.has(key)) tiles.set(key, new Label());
    return tiles.get(key)!;
  };

  // --- which block: the batch index, then the inner operand's chunk, then the outer's; fastest a batch dimension that one operand does not have, which
  // stays in cache meanwhile
  code.enter(frameBytes(kernel));
  code.mov(frame("scratch"), r2);
  for (const [i, { argument }] of adds.entries()) {
    code.mov(r0, mem(r5, argument * 8));
    code.mov(addFrame(i, "block"), r0);
  }
  code.mov(r6, mem(r5, p.argument * 8));
  code.mov(r7, mem(r5, q.argument * 8));
  code.mov(r8, mem(r5, c.argument * 8));
  code.zero(r10);
  code.zero(r11);
  const axes = [...batch.keys()];
  const isShared = (i: number) => p.batch[i] === 0 || q.batch[i] === 0;
  const digits = [...axes.filter((i) => !isShared(i)), "inner", "outer", ...axes.filter(isShared)] as const;
  const counts = { inner: chunksOf(inner), outer: chunksOf(outer) };
  const sizes = digits.map((each) => (typeof each === "number" ? batch[each]! : counts[each]));
  emitDigits(code, r4, sizes, (digit, at) => {
    const which = digits[at]!;
    if (which === "inner") code.mov(r11, digit);
    else if (which === "outer") code.mov(r10, digit);
    else {
      const strides = [
        [r6, p.batch[which]!],
        [r7, q.batch[which]!],
        [r8, c.batch[which]!],
      ] as const;
      for (const [pointer, stride] of strides) {
        if (stride === 0) continue;
        code.mov(r1, digit);
        multiply(code, r1, stride, r0);
        code.alu("add", pointer, r1);
      }
      for (const [i, { batch: bytes }] of adds.entries()) {
        if (bytes[which] === 0) continue;
        code.mov(r1, digit);
        multiply(code, r1, bytes[which]!, r0);
        code.alu("add", addFrame(i, "block"), r1);
      }
    }
  });
  for (const [index, side, name] of [
    [r10, outer, names.outer],
    [r11, inner, names.inner],
  ] as const) {
    multiply(code, index, side.chunk, r0);
    code.mov(frame(`${name}First`), index);
    code.mov(r0, index);
    code.aluImm("add", r0, side.chunk);
    if (chunksOf(side) * side.chunk !== side.panels.count) {
      code.movImm(r1, side.panels.count);
      code.alu("cmp", r0, r1);
      code.cmov("a", r0, r1);
    }
    code.mov(frame(`${name}End`), r0);
    // Addresses of the block.
    const pointer = name === "p" ? r6 : r7;
    if (side.access === "shared") {
      code.mov(r2, index);
      multiply(code, r2, side.packed.panelBytes, r0);
    } else emitStart(code, r2, index, side.panels, side.along);
    code.alu("add", pointer, r2);
    code.mov(frame(name), pointer);
    emitStart(code, r2, index, side.panels, c[name]);
    code.alu("add", r8, r2);
    for (const [i, add] of adds.entries()) {
      if (add[name] === 0) continue;
      emitStart(code, r2, index, side.panels, add[name]);
      code.alu("add", addFrame(i, "block"), r2);
    }
  }
  code.mov(frame("c"), r8);
  code.mov(r2, frame("scratch"));
  code.zero(r0);
  code.mov(frame("kIndex"), r0);

  // --- blocks of k
  const packPanel = (side: Side, index: number) => {
    const pack = () => bySize(code, side.panels, index, (size) => emitPack(code, sidePack(side, size, k, code.lanes)));
    if (sums.length === 0) {
      code.mov(r1, frame("kCount"));
      return pack();
    }
    code.mov(r0, frame("blockRows"));
    code.mov(frame("rowsLeft"), r0);
    packRows(
      code,
      { from: frame("packFrom"), to: frame("packTo"), left: frame("rowsLeft") },
      side,
      k,
      rowStride(side),
      pack,
    );
  };
  const rowStride = (side: Side) => sums.at(-1)![side === p ? "p" : "q"];
  /** Moves an operand's pointer to the next panel, and others by their strides. */
  const advance = (which: "outer" | "inner", index: number, pointer: number | undefined, cPointer: number) => {
    const side = which === "outer" ? outer : inner;
    const name = names[which];
    bySize(code, side.panels, index, (size) => {
      if (pointer !== undefined && side.access !== "shared") addImm(code, pointer, size * side.along, r0);
      addImm(code, cPointer, size * c[name], r0);
      for (const [i, add] of adds.entries())
        if (add[name] !== 0) addImm(code, addFrame(i, which), size * add[name], r0);
    });
  };
  /** Slots of what is added begin where others stand. */
  const moveAdds = (to: "outer" | "inner", from: "block" | "outer") => {
    for (const i of adds.keys()) {
      code.mov(r0, addFrame(i, from));
      code.mov(addFrame(i, to), r0);
    }
  };
  if (sums.length > 0) {
    for (const name of ["p", "q"] as const) {
      code.mov(r0, frame(name));
      code.mov(frame(`${name}Start`), r0);
    }
  }
  const kLoop = code.here();
  if (sums.length > 0) {
    emitBlock(code, kernel);
    if (kBlocks > 1) code.lea(r3, mem(r2, layout.partials));
  } else if (kBlocks === 1) code.movMemImm(frame("kCount"), k);
  else {
    code.movImm(r0, kBlock);
    code.movImm(r1, k - (kBlocks - 1) * kBlock);
    code.aluImm("cmp", frame("kIndex"), kBlocks - 1);
    code.cmov("e", r0, r1);
    code.mov(frame("kCount"), r0);
    code.lea(r3, mem(r2, layout.partials));
  }
  if (inner.access === "local") {
    code.mov(r11, frame(`${names.inner}First`));
    code.mov(r4, frame(names.inner));
    code.lea(r5, mem(r2, layout.inner));
    const top = code.here();
    code.mov(r6, r4);
    code.mov(r7, r5);
    packPanel(inner, r11);
    bySize(code, inner.panels, r11, (size) => addImm(code, r4, size * inner.along, r0));
    addImm(code, r5, inner.packed.panelBytes, r0);
    code.aluImm("add", r11, 1);
    code.alu("cmp", r11, frame(`${names.inner}End`));
    code.jcc("b", top);
  }
  code.mov(r10, frame(`${names.outer}First`));
  code.mov(r4, frame(names.outer));
  code.mov(r12, frame("c"));
  moveAdds("outer", "block");
  const outerLoop = code.here();
  if (outer.access === "local") {
    code.mov(r6, r4);
    code.lea(r7, mem(r2, layout.outer));
    packPanel(outer, r10);
  }
  code.mov(r11, frame(`${names.inner}First`));
  if (inner.access === "local") code.lea(r5, mem(r2, layout.inner));
  else code.mov(r5, frame(names.inner));
  code.mov(r13, r12);
  moveAdds("inner", "outer");
  const ahead = aheadOf(kernel);
  if (ahead !== undefined) {
    const next = new Label();
    code.mov(r9, r4);
    bySize(code, outer.panels, r10, (size) => addImm(code, r9, size * outer.along, r0));
    if (kBlocks > 1) {
      // Behind the last panel comes the first one's next block of k.
      code.lea(r0, mem(r10, 1));
      code.alu("cmp", r0, frame(`${names.outer}End`));
      code.jcc("b", next);
      code.mov(r9, frame(names.outer));
      addImm(code, r9, kBlock * outer.overK, r0);
      code.bind(next);
    }
    code.mov(frame("ahead"), r9);
    code.movMemImm(frame("aheadStep"), ahead.step);
    code.movMemImm(frame("aheadTiles"), ahead.tiles);
  }
  const innerLoop = code.here();
  // --- a tile
  if (ahead !== undefined) {
    if (ahead.perTile !== undefined) {
      code.mov(r9, frame("ahead"));
      addImm(code, frame("ahead"), ahead.perTile, r0);
    } else {
      const more = new Label();
      code.aluImm("sub", frame("aheadTiles"), 1);
      code.jcc("ns", more);
      code.mov(r9, r2);
      code.movMemImm(frame("aheadStep"), 0);
      code.bind(more);
    }
  }
  const [outerPointer, innerPointer] = outerIsP ? [r6, r7] : [r7, r6];
  if (outer.access === "local") code.lea(outerPointer, mem(r2, layout.outer));
  else code.mov(outerPointer, r4);
  code.mov(innerPointer, r5);
  code.mov(r8, r13);
  code.mov(r1, frame("kCount"));
  const [pIndex, qIndex] = outerIsP ? [r10, r11] : [r11, r10];
  bySize(code, p.panels, pIndex, (rows) =>
    bySize(code, q.panels, qIndex, (columns) => code.call(tileLabel(rows, columns))),
  );
  if (kBlocks > 1) code.aluImm("add", r3, tileBytes(kernel));
  advance("inner", r11, inner.access === "direct" ? r5 : undefined, r13);
  if (inner.access !== "direct") code.aluImm("add", r5, inner.packed.panelBytes);
  code.aluImm("add", r11, 1);
  code.alu("cmp", r11, frame(`${names.inner}End`));
  code.jcc("b", innerLoop);
  advance("outer", r10, r4, r12);
  if (outer.access === "shared") code.aluImm("add", r4, outer.packed.panelBytes);
  code.aluImm("add", r10, 1);
  code.alu("cmp", r10, frame(`${names.outer}End`));
  code.jcc("b", outerLoop);
  if (kBlocks > 1) {
    for (const name of ["p", "q"] as const) {
      if (sums.length > 0) break;
      const side = kernel[name];
      const bytes = side.access === "shared" ? side.panels.count * side.packed.panelBytes : kernel.kBlock * side.overK;
      addImm(code, frame(name), bytes, r0);
    }
    code.aluImm("add", frame("kIndex"), 1);
    code.aluImm("cmp", frame("kIndex"), kBlocks);
    code.jcc("b", kLoop);
  }
  code.leave(frameBytes(kernel));
  code.ret();

  for (const [key, label] of tiles) {
    const [rows, columns] = key.split(",").map(Number) as [number, number];
    code.align(32);
    code.bind(label);
    emitTile(code, kernel, rows, columns);
  }
}

/** A tile: r6 = P, r7 = Q, r8 = C, r3 = partial sums, r1 = count of k, r2 = scratch. r9 = what to prefetch. Clobbers r0, r1, r6, r7 and vectors; moves r9. */
function emitTile(code: Code, kernel: GemmKernel, rows: number, columns: number): void {
  const { lanes, vectorBytes: length } = code;
  const { p, q, c, sums } = kernel;
  const lastBlock = blocksOf(kernel) - 1;
  const many = lastBlock > 0;
  const { callBytes } = code;
  const vectors = Math.ceil(columns / lanes);
  const accumulators = rows * vectors;
  const acc = (i: number, v: number) => i * vectors + v;
  const qVectors = Array.from({ length: vectors }, (_, v) => accumulators + v);
  const temps = code.registers - accumulators - vectors;
  const temp = (i: number) => accumulators + vectors + (i % temps);
  const part = code.setPart(columns - (vectors - 1) * lanes, 1);
  const partOf = (v: number): Part | undefined => (v === vectors - 1 ? part : undefined);

  if (many) {
    const first = new Label();
    const begin = new Label();
    code.aluImm("cmp", frame("kIndex", callBytes), 0);
    code.jcc("e", first);
    for (let i = 0; i < accumulators; i++) code.vload(length, i, mem(r3, i * length));
    code.jmp(begin);
    code.bind(first);
    for (let i = 0; i < accumulators; i++) code.vzero(i);
    code.bind(begin);
  } else for (let i = 0; i < accumulators; i++) code.vzero(i);

  // Addresses in the operands as they lie now.
  const packed = (side: Side) => (side.access === "direct" ? undefined : side.packed);
  const pLayout = packed(p);
  const [pRow, pK] =
    pLayout === undefined ? [p.along, p.overK] : pLayout.layout === "byK" ? [4, pLayout.stride] : [pLayout.stride, 4];
  const qLayout = packed(q);
  const qK = qLayout === undefined ? q.overK : qLayout.stride;
  const qStorage = qLayout === undefined ? q.storage : "fp32";
  // Lines of C are asked for while the tile is computed: they rarely are in this core's caches.
  const wanted = linesOfTile(kernel, rows, columns);
  const steps = (count: number) => {
    for (let s = 0; s < count; s++) {
      for (let v = 0; v < vectors; v++) {
        const address = mem(r7, s * qK + v * lanes * storageBytes[qStorage]);
        code.loadFloats(qVectors[v]!, address, qStorage, qLayout === undefined ? partOf(v) : undefined);
      }
      for (let i = 0; i < rows; i++) {
        const row = qVectors.map((_, v) => acc(i, v));
        code.fmaScalar(row, mem(r6, i * pRow + s * pK), qVectors, temp(i));
      }
    }
    addImm(code, r6, count * pK, r0);
    addImm(code, r7, count * qK, r0);
  };
  if (sums.length > 0 && (p.access === "direct" || q.access === "direct")) emitRuns(code, kernel, steps, wanted);
  else emitRun(code, kernel, steps, wanted, lastBlock);

  if (many) {
    const last = new Label();
    code.aluImm("cmp", frame("kIndex", callBytes), lastBlock);
    code.jcc("e", last);
    for (let i = 0; i < accumulators; i++) code.vstore(length, mem(r3, i * length), i);
    code.ret();
    code.bind(last);
  }
  const unit = storageBytes[c.storage];
  emitFinish(code, kernel, rows, vectors, partOf);
  if (!isTransposed(kernel)) {
    for (let i = 0; i < rows; i++) {
      for (let v = 0; v < vectors; v++)
        code.storeFloats(mem(r8, i * c.p + v * lanes * unit), acc(i, v), c.storage, partOf(v), temp(0));
    }
  } else {
    // Spilled, and transposed by as many rows as a vector has lanes.
    const spill = (i: number, v: number) => mem(r2, gemmScratch(kernel).spill + acc(i, v) * length);
    for (let i = 0; i < rows; i++) for (let v = 0; v < vectors; v++) code.vstore(length, spill(i, v), acc(i, v));
    const lastRow = Math.floor((rows - 1) / lanes) * lanes;
    const rowPart = code.setPart(rows - lastRow, 2);
    const registers = Array.from({ length: lanes }, (_, i) => i);
    const others = registers.map((i) => lanes + i);
    for (let v = 0; v < vectors; v++) {
      const filled = Math.min(lanes, columns - v * lanes);
      for (let row = 0; row < rows; row += lanes) {
        for (let i = row; i < Math.min(rows, row + lanes); i++) code.vload(length, i - row, spill(i, v));
        code.transpose(registers, others);
        const part = row === lastRow ? rowPart : undefined;
        for (let lane = 0; lane < filled; lane++)
          code.storeFloats(mem(r8, (v * lanes + lane) * c.q + row * unit), lane, c.storage, part, others[0]!);
      }
    }
  }
  code.ret();
}

/** Adds to a tile's sums, which are in registers by rows, what they are stored with, and bounds them; changes r0, `addPointers` and vectors above the sums. */
function emitFinish(
  code: Code,
  { adds, bounds }: GemmKernel,
  rows: number,
  vectors: number,
  partOf: (v: number) => Part | undefined,
): void {
  const temp = rows * vectors;
  for (const [i, pointer] of addPointers.entries())
    if (i < adds.length) code.mov(pointer, addFrame(i, "inner", code.callBytes));
  for (const [i, { storage, p, q }] of adds.entries()) {
    for (let v = 0; v < vectors; v++) {
      for (let row = 0; row < rows; row++) {
        const address = mem(addPointers[i]!, row * p + v * code.lanes * q);
        if (q === 0) code.repeatFloat(temp, address, storage);
        else code.loadFloats(temp, address, storage, partOf(v));
        code.vfloat("add", row * vectors + v, row * vectors + v, temp);
      }
    }
  }
  for (const { op, bits } of bounds) {
    code.vconstant(temp, bits);
    for (let sum = 0; sum < temp; sum++) code.vbound(op, sum, temp);
  }
}

/** Emits steps of k; `steps(count)` moves the operands' pointers. */
type Steps = (count: number) => void;
type Lines = ReturnType<typeof linesOfTile>;

/** The sum of a tile's block whose operands go on evenly. */
function emitRun(code: Code, kernel: GemmKernel, steps: Steps, wanted: Lines, lastBlock: number): void {
  const { callBytes } = code;
  const ahead = aheadOf(kernel);
  const again = new Label();
  const single = new Label();
  const done = new Label();
  const none = new Label();
  code.movMemImm(frame("kRest", callBytes), 0);
  code.movMemImm(frame("cStep", callBytes), 0);
  code.mov(r0, r2);
  if (lastBlock > 0) {
    code.aluImm("cmp", frame("kIndex", callBytes), lastBlock);
    code.jcc("ne", none);
  }
  code.mov(r0, r8);
  code.movMemImm(frame("cStep", callBytes), wanted.step);
  // The first iterations do it, the rest goes on without.
  code.aluImm("sub", r1, wanted.count * unroll);
  const short = new Label();
  code.jcc("be", short);
  code.mov(frame("kRest", callBytes), r1);
  code.zero(r1);
  code.bind(short);
  code.aluImm("add", r1, wanted.count * unroll);
  code.bind(none);
  code.bind(again);
  code.aluImm("sub", r1, unroll);
  code.jcc("l", single);
  code.align(32);
  const top = code.here();
  steps(unroll);
  if (ahead !== undefined) {
    for (const offset of ahead.offsets) code.prefetch("t1", mem(r9, offset));
    code.alu("add", r9, frame("aheadStep", callBytes));
  }
  for (const offset of wanted.offsets) code.prefetch("w", mem(r0, offset));
  code.alu("add", r0, frame("cStep", callBytes));
  code.aluImm("sub", r1, unroll);
  code.jcc("ge", top);
  code.aluImm("cmp", frame("kRest", callBytes), 0);
  code.jcc("e", single);
  code.mov(r1, frame("kRest", callBytes));
  code.movMemImm(frame("kRest", callBytes), 0);
  code.movMemImm(frame("cStep", callBytes), 0);
  code.mov(r0, r2);
  code.jmp(again);
  code.bind(single);
  code.aluImm("add", r1, unroll);
  code.jcc("e", done);
  countDown(code, r1, () => steps(1));
  code.bind(done);
}

/** The sum of a tile's block that is several runs of k. */
function emitRuns(code: Code, { p, q, k, sums }: GemmKernel, steps: Steps, wanted: Lines): void {
  const { callBytes } = code;
  for (let i = 0; i < wanted.count; i++)
    for (const offset of wanted.offsets) code.prefetch("w", mem(r8, i * wanted.step + offset));
  const step = sums.at(-1)!;
  code.mov(r0, frame("blockRows", callBytes));
  code.mov(frame("rowsLeft", callBytes), r0);
  const top = code.here();
  const atOnce = [4, 5, 6, 7, 8, 3].find((each) => k % each === 0) ?? Math.min(unroll, k);
  if (k >= 2 * atOnce) {
    code.movImm(r1, Math.floor(k / atOnce));
    code.align(32);
    countDown(code, r1, () => steps(atOnce));
  } else steps(atOnce);
  if (k % atOnce > 0) steps(k % atOnce);
  // Packed operands go on without a gap.
  if (p.access === "direct") addImm(code, r6, step.p - k * p.overK, r0);
  if (q.access === "direct") addImm(code, r7, step.q - k * q.overK, r0);
  code.aluImm("sub", frame("rowsLeft", callBytes), 1);
  code.jcc("ne", top);
}

/** Where a block of several runs begins: sets the frame's p, q, blockRows and kCount; r2 = scratch afterwards, r0, r1, r4, r6, r7 change. */
function emitBlock(code: Code, kernel: GemmKernel): void {
  const { k, kBlock, sums, p, q } = kernel;
  const rows = kBlock / k;
  const counts = blocksAlong(kernel);
  const inner = sums.length - 1;
  const restRows = sums[inner]!.extent - (counts[inner]! - 1) * rows;
  code.movMemImm(frame("blockRows"), rows);
  if (blocksOf(kernel) > 1) {
    code.mov(r6, frame("pStart"));
    code.mov(r7, frame("qStart"));
    code.mov(r4, frame("kIndex"));
    emitDigits(code, r4, counts, (digit, i) => {
      const strides = [
        [p, r6, sums[i]!.p],
        [q, r7, sums[i]!.q],
      ] as const;
      for (const [side, pointer, stride] of strides) {
        if (side.access === "shared") continue;
        code.mov(r1, digit);
        multiply(code, r1, i === inner ? stride * rows : stride, r0);
        code.alu("add", pointer, r1);
      }
      if (i === inner && restRows !== rows) {
        const whole = new Label();
        code.aluImm("cmp", digit, counts[inner]! - 1);
        code.jcc("ne", whole);
        code.movMemImm(frame("blockRows"), restRows);
        code.bind(whole);
      }
    });
    for (const [side, pointer, name] of [
      [p, r6, "p"],
      [q, r7, "q"],
    ] as const) {
      if (side.access === "shared") {
        code.mov(r1, frame("kIndex"));
        multiply(code, r1, side.panels.count * side.packed.panelBytes, r0);
        code.alu("add", pointer, r1);
      }
      code.mov(frame(name), pointer);
    }
    code.mov(r2, frame("scratch"));
  }
  code.mov(r0, frame("blockRows"));
  multiply(code, r0, k, r1);
  code.mov(frame("kCount"), r0);
}

/** Packs runs of k, `stride` bytes apart, one behind the other: from r6 to r7, as many as `left` says. `pack` packs one. */
function packRows(
  code: Code,
  { from, to, left }: Readonly<Record<"from" | "to" | "left", Mem>>,
  { packed }: Side,
  k: number,
  stride: number,
  pack: () => void,
): void {
  code.mov(from, r6);
  code.mov(to, r7);
  const top = code.here();
  code.mov(r6, from);
  code.mov(r7, to);
  code.movImm(r1, k);
  pack();
  addImm(code, from, stride, r0);
  addImm(code, to, packed.layout === "byK" ? k * packed.stride : 4 * k, r0);
  code.aluImm("sub", left, 1);
  code.jcc("ne", top);
}

/** Lines of C that a tile writes: `count` times `offsets`, `step` bytes apart. */
function linesOfTile(kernel: GemmKernel, rows: number, columns: number) {
  const { c } = kernel;
  const unit = storageBytes[c.storage];
  if (isTransposed(kernel)) return { count: columns, step: c.q, offsets: rows === 1 ? [0] : [0, rows * unit - 1] };
  const bytes = columns * unit;
  const aligned = c.p % 64 === 0 && (kernel.q.panels.size * unit) % 64 === 0;
  const lines = Math.ceil(bytes / 64);
  const offsets = Array.from({ length: lines }, (_, i) => i * 64);
  return { count: rows, step: c.p, offsets: aligned ? offsets : [...offsets, bytes - 1] };
}

/** A step that packs all panels of an operand, for every block of k: [batch][block of k][panel]. One task packs one panel. */
export interface PackKernel extends Terms {
  readonly isa: Isa;
  /** `stride`: bytes between neighbours. */
  readonly sums: readonly { readonly extent: number; readonly stride: number }[];
  /** Batch dimensions that the operand has (those it is broadcast over left out). */
  readonly batch: readonly number[];
  readonly side: Side;
  readonly batchBytes: readonly number[];
}

export function packTasks({ batch, side, ...terms }: PackKernel): number {
  return batch.reduce((all, n) => all * n, 1) * blocksOf(terms) * side.panels.count;
}

/** Arguments: the operand, the packed operand. */
export function emitPackStep(code: Code, kernel: PackKernel): void {
  const { k, kBlock, sums, batch, side, batchBytes } = kernel;
  const counts = blocksAlong(kernel);
  const slots = { from: mem(sp, 0), to: mem(sp, 8), left: mem(sp, 16) };
  const slotBytes = 24;
  if (sums.length > 0) code.enter(slotBytes);
  code.mov(r6, mem(r5, 0));
  code.mov(r7, mem(r5, 8));
  code.mov(r3, r4);
  multiply(code, r3, side.packed.panelBytes, r0);
  code.alu("add", r7, r3);
  code.zero(r10);
  code.zero(r11);
  // What is left for the last block: of k, or of the innermost further dimension.
  const rows = kBlock / k;
  const inner = batch.length + counts.length - 1;
  emitDigits(code, r4, [...batch, ...counts, side.panels.count], (digit, i) => {
    if (i > inner) return code.mov(r10, digit);
    if (i === inner) code.mov(r11, digit);
    const stride =
      i < batch.length
        ? batchBytes[i]!
        : sums.length === 0
          ? kBlock * side.overK
          : sums[i - batch.length]!.stride * (i === inner ? rows : 1);
    code.mov(r1, digit);
    multiply(code, r1, stride, r0);
    code.alu("add", r6, r1);
  });
  emitStart(code, r2, r10, side.panels, side.along);
  code.alu("add", r6, r2);
  const [each, extent] = sums.length === 0 ? [kBlock, k] : [rows, sums.at(-1)!.extent];
  const blocks = counts.at(-1)!;
  code.movImm(r1, each);
  if (blocks > 1) {
    code.movImm(r2, extent - (blocks - 1) * each);
    code.aluImm("cmp", r11, blocks - 1);
    code.cmov("e", r1, r2);
  }
  const pack = () => bySize(code, side.panels, r10, (size) => emitPack(code, sidePack(side, size, k, code.lanes)));
  if (sums.length === 0) pack();
  else {
    code.mov(slots.left, r1);
    packRows(code, slots, side, k, sums.at(-1)!.stride, pack);
    code.leave(slotBytes);
  }
  code.ret();
}
