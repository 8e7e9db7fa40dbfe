// What the parts of the matrix-product kernel share: its description, what lies where in the stack frame and in scratch memory, what tiles prefetch.

import { gp, type Mem, mem, type Storage, storageBytes, vectorLengths } from "../code.ts";
import type { PanelPack } from "./pack.ts";
import type { Isa } from "./step.ts";

const { r1, r6, r7, sp } = gp;

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

/** Blocks along every dimension that is summed over. */
export function blocksAlong({ k, sums, kBlock }: Terms): number[] {
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

export function tileBytes({ isa, p, q }: GemmKernel): number {
  const vectorBytes = vectorLengths[isa];
  return p.panels.size * Math.ceil((q.panels.size * 4) / vectorBytes) * vectorBytes;
}

/** Whether columns of a tile, not rows, are contiguous in C. */
export function isTransposed({ c }: GemmKernel): boolean {
  return c.q !== storageBytes[c.storage];
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
export const frame = (name: keyof typeof slot, called = 0): Mem => mem(sp, slot[name] * 8 + called);
export const addFrame = (add: number, name: (typeof addSlots)[number], called = 0): Mem =>
  mem(sp, (slots + addSlots.length * add + addSlots.indexOf(name)) * 8 + called);
/** With the return address a multiple of 16. */
export const frameBytes = ({ adds }: GemmKernel): number => 16 * ((slots + addSlots.length * adds.length) >> 1) + 8;

/** Registers for where a tile begins in what is added. */
export const addPointers = [r6, r7, r1];

/** k steps of an iteration of the tile's loop. */
export const unroll = 4;

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

export function aheadOf(kernel: GemmKernel): Ahead | undefined {
  const [outer, inner] = kernel.outer === "p" ? [kernel.p, kernel.q] : [kernel.q, kernel.p];
  const { size } = outer.panels;
  const isPacked = outer.access === "shared";
  const unit = isPacked ? storageBytes.fp32 : storageBytes[outer.storage];
  const { stride, layout } = outer.packed;
  const packed = layout === "byK" ? { along: unit, overK: stride } : { along: stride, overK: unit };
  const { along, overK } = isPacked ? packed : outer;
  const tiles = Math.min(inner.chunk, inner.panels.count);
  if (kernel.sums.length > 0 || tiles < 2 || outer.panels.count < 2) return undefined;
  if (overK === unit) {
    const rows = Math.ceil(size / tiles);
    const offsets = Array.from({ length: rows }, (_, i) => i * along);
    return { offsets, step: unroll * unit, perTile: rows * along, tiles };
  }
  if (along !== unit) return undefined;
  const aligned = (size * unit) % 64 === 0 && overK % 64 === 0;
  const lines = Math.ceil((size * unit) / 64) + (aligned ? 0 : 1);
  const rows = Math.ceil(unroll / tiles);
  const offsets = Array.from({ length: rows * lines }, (_, i) => Math.floor(i / lines) * overK + (i % lines) * 64);
  return { offsets, step: rows * overK, tiles: Math.ceil(unroll / rows) };
}

/** Number of tasks. */
export function gemmTasks({ batch, p, q }: GemmKernel): number {
  return batch.reduce((all, n) => all * n, 1) * chunksOf(p) * chunksOf(q);
}

export const chunksOf = ({ panels, chunk }: Side) => Math.ceil(panels.count / chunk);
