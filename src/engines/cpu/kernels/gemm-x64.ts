// The matrix-product kernel for x86-64: a task multiplies one block, tile by tile, after packing what the planner wants packed.
// Two operands play different parts. P's elements are broadcast: a tile has one row for each of a few P rows. Q's elements fill vectors: a tile's
// columns. The planner takes A for P and B for Q, or the other way around (then a tile is a block of C transposed).

import { gp, Label, type Mem, mem, type X64 } from "../isa/x64.ts";
import { addImm, countDown, multiply, type Part, Simd, type Storage, storageBytes } from "./gemm-simd.ts";
import { emitPack, type PanelPack } from "./pack-x64.ts";
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

/** All that the code depends on. */
export interface GemmKernel {
  readonly isa: Isa;
  readonly k: number;
  /** A multiple of the lanes unless it is all of k. */
  readonly kBlock: number;
  readonly batch: readonly number[];
  readonly p: Side;
  readonly q: Side;
  /** The operand of the outer loop: its panels stream through, the other's chunk stays in cache. */
  readonly outer: "p" | "q";
  readonly c: {
    readonly argument: number;
    readonly storage: Storage;
    /** Bytes between tile rows and tile columns; one of them is one element. */
    readonly p: number;
    readonly q: number;
    readonly batch: readonly number[];
  };
}

const { rax, rcx, rdx, rbx, rsp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 } = gp;

/** Rows (P) or columns (Q) before panel `index`. */
export function panelStart({ size, smaller, boundary }: Panels, index: number): number {
  return index * size - Math.max(0, index - boundary) * (size - smaller);
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
  const { p, q, kBlock, k } = kernel;
  const [outer, inner] = kernel.outer === "p" ? [p, q] : [q, p];
  const round = (bytes: number) => Math.ceil(bytes / 64) * 64;
  const innerBytes = inner.access === "local" ? round(inner.packed.panelBytes * inner.chunk) : 0;
  const outerBytes = outer.access === "local" ? round(outer.packed.panelBytes) : 0;
  const partialBytes = kBlock < k ? round(tileBytes(kernel) * p.chunk * q.chunk) : 0;
  const spillBytes = isTransposed(kernel) ? round(tileBytes(kernel)) : 0;
  const outerAt = innerBytes;
  const partials = outerAt + outerBytes;
  const spill = partials + partialBytes;
  return { inner: 0, outer: outerAt, partials, spill, bytes: spill + spillBytes };
}

function vectorBytes(kernel: GemmKernel): number {
  return kernel.isa === "avx512" ? 64 : 32;
}

function tileBytes(kernel: GemmKernel): number {
  return kernel.p.panels.size * Math.ceil((kernel.q.panels.size * 4) / vectorBytes(kernel)) * vectorBytes(kernel);
}

/** Whether columns of a tile, not rows, are contiguous in C. */
function isTransposed({ c }: GemmKernel): boolean {
  return c.q !== storageBytes[c.storage];
}

/** Calls `emit` for the size of panel `index`, in code that branches if there are two. */
function bySize(asm: X64, { size, smaller, boundary, count }: Panels, index: number, emit: (size: number) => void) {
  if (boundary >= count) return emit(size);
  if (boundary === 0) return emit(smaller);
  const other = new Label();
  const done = new Label();
  asm.aluImm("cmp", index, boundary);
  asm.jcc("ae", other);
  emit(size);
  asm.jmp(done);
  asm.bind(other);
  emit(smaller);
  asm.bind(done);
}

/** dst = rows before panel `index`, times `bytes`; clobbers rax and rcx. */
function emitStart(asm: X64, dst: number, index: number, { size, smaller, boundary, count }: Panels, bytes: number) {
  asm.mov(dst, index);
  multiply(asm, dst, size * bytes, rax);
  if (boundary >= count) return;
  const before = new Label();
  asm.mov(rcx, index);
  asm.aluImm("sub", rcx, boundary);
  asm.jcc("be", before);
  multiply(asm, rcx, (size - smaller) * bytes, rax);
  asm.alu("sub", dst, rcx);
  asm.bind(before);
}

/** Splits the number in `value` by sizes, the last fastest, and gives each digit in rdx to `use`; clobbers rax, rcx, rdx. */
export function emitDigits(asm: X64, value: number, sizes: readonly number[], use: (digit: number, i: number) => void) {
  for (let i = sizes.length - 1; i >= 0; i--) {
    if (sizes[i] === 1) continue;
    if (i === 0 || sizes.slice(0, i).every((size) => size === 1)) {
      use(value, i);
      return;
    }
    asm.mov(rax, value);
    asm.alu32("xor", rdx, rdx);
    asm.movImm(rcx, sizes[i]!);
    asm.div(rcx);
    asm.mov(value, rax);
    use(rdx, i);
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
} as const;
const frameBytes = 120;
const frame = (name: keyof typeof slot, pushed = 0): Mem => mem(rsp, slot[name] * 8 + pushed);

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
  if (outer.access === "shared" || tiles < 2 || outer.panels.count < 2) return undefined;
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
export function emitGemm(asm: X64, kernel: GemmKernel): void {
  const { p, q, c, k, kBlock, batch } = kernel;
  const simd = new Simd(asm, kernel.isa);
  const kBlocks = Math.ceil(k / kBlock);
  const layout = gemmScratch(kernel);
  const outerIsP = kernel.outer === "p";
  const [outer, inner] = outerIsP ? [p, q] : [q, p];
  const names = {
    outer: outerIsP ? ("p" as const) : ("q" as const),
    inner: outerIsP ? ("q" as const) : ("p" as const),
  };
  const cStep = { outer: outerIsP ? c.p : c.q, inner: outerIsP ? c.q : c.p };
  const tiles = new Map<string, Label>();
  const tileLabel = (rows: number, columns: number) => {
    const key = `${rows},${columns}`;
    if (!tiles.has(key)) tiles.set(key, new Label());
    return tiles.get(key)!;
  };

  // --- which block: the batch index, then the inner operand's chunk, then the outer's, fastest
  asm.aluImm("sub", rsp, frameBytes);
  asm.mov(frame("scratch"), rdx);
  asm.mov(r8, mem(rdi, p.argument * 8));
  asm.mov(r9, mem(rdi, q.argument * 8));
  asm.mov(r10, mem(rdi, c.argument * 8));
  asm.alu32("xor", r12, r12);
  asm.alu32("xor", r13, r13);
  emitDigits(asm, rsi, [...batch, chunksOf(inner), chunksOf(outer)], (digit, i) => {
    if (i === batch.length) asm.mov(r13, digit);
    else if (i > batch.length) asm.mov(r12, digit);
    else {
      const strides = [
        [r8, p.batch[i]!],
        [r9, q.batch[i]!],
        [r10, c.batch[i]!],
      ] as const;
      for (const [pointer, stride] of strides) {
        if (stride === 0) continue;
        asm.mov(rcx, digit);
        multiply(asm, rcx, stride, rax);
        asm.alu("add", pointer, rcx);
      }
    }
  });
  for (const [index, side, name] of [
    [r12, outer, names.outer],
    [r13, inner, names.inner],
  ] as const) {
    multiply(asm, index, side.chunk, rax);
    asm.mov(frame(`${name}First`), index);
    asm.mov(rax, index);
    asm.aluImm("add", rax, side.chunk);
    if (chunksOf(side) * side.chunk !== side.panels.count) {
      asm.movImm(rcx, side.panels.count);
      asm.alu("cmp", rax, rcx);
      asm.cmov("a", rax, rcx);
    }
    asm.mov(frame(`${name}End`), rax);
    // Addresses of the block.
    const pointer = name === "p" ? r8 : r9;
    if (side.access === "shared") {
      asm.mov(rdx, index);
      multiply(asm, rdx, side.packed.panelBytes, rax);
    } else emitStart(asm, rdx, index, side.panels, side.along);
    asm.alu("add", pointer, rdx);
    asm.mov(frame(name), pointer);
    emitStart(asm, rdx, index, side.panels, name === "p" ? c.p : c.q);
    asm.alu("add", r10, rdx);
  }
  asm.mov(frame("c"), r10);
  asm.mov(rdx, frame("scratch"));
  asm.alu32("xor", rax, rax);
  asm.mov(frame("kIndex"), rax);

  // --- blocks of k
  const packPanel = (side: Side, index: number) => {
    asm.mov(rcx, frame("kCount"));
    bySize(asm, side.panels, index, (size) => emitPack(simd, sidePack(side, size, k, simd.lanes)));
  };
  /** Moves an operand's pointer to the next panel, and others by their strides. */
  const advance = (side: Side, index: number, pointer: number | undefined, cPointer: number, cBytes: number) => {
    bySize(asm, side.panels, index, (size) => {
      if (pointer !== undefined && side.access !== "shared") addImm(asm, pointer, size * side.along, rax);
      addImm(asm, cPointer, size * cBytes, rax);
    });
  };
  const kLoop = asm.here();
  if (kBlocks === 1) asm.movMemImm(frame("kCount"), k);
  else {
    asm.movImm(rax, kBlock);
    asm.movImm(rcx, k - (kBlocks - 1) * kBlock);
    asm.aluImm("cmp", frame("kIndex"), kBlocks - 1);
    asm.cmov("e", rax, rcx);
    asm.mov(frame("kCount"), rax);
    asm.lea(rbx, mem(rdx, layout.partials));
  }
  if (inner.access === "local") {
    asm.mov(r13, frame(`${names.inner}First`));
    asm.mov(rsi, frame(names.inner));
    asm.lea(rdi, mem(rdx, layout.inner));
    const top = asm.here();
    asm.mov(r8, rsi);
    asm.mov(r9, rdi);
    packPanel(inner, r13);
    bySize(asm, inner.panels, r13, (size) => addImm(asm, rsi, size * inner.along, rax));
    addImm(asm, rdi, inner.packed.panelBytes, rax);
    asm.aluImm("add", r13, 1);
    asm.alu("cmp", r13, frame(`${names.inner}End`));
    asm.jcc("b", top);
  }
  asm.mov(r12, frame(`${names.outer}First`));
  asm.mov(rsi, frame(names.outer));
  asm.mov(r14, frame("c"));
  const outerLoop = asm.here();
  if (outer.access === "local") {
    asm.mov(r8, rsi);
    asm.lea(r9, mem(rdx, layout.outer));
    packPanel(outer, r12);
  }
  asm.mov(r13, frame(`${names.inner}First`));
  if (inner.access === "local") asm.lea(rdi, mem(rdx, layout.inner));
  else asm.mov(rdi, frame(names.inner));
  asm.mov(r15, r14);
  const ahead = aheadOf(kernel);
  if (ahead !== undefined) {
    const next = new Label();
    asm.mov(r11, rsi);
    bySize(asm, outer.panels, r12, (size) => addImm(asm, r11, size * outer.along, rax));
    if (kBlocks > 1) {
      // Behind the last panel comes the first one's next block of k.
      asm.lea(rax, mem(r12, 1));
      asm.alu("cmp", rax, frame(`${names.outer}End`));
      asm.jcc("b", next);
      asm.mov(r11, frame(names.outer));
      addImm(asm, r11, kBlock * outer.overK, rax);
      asm.bind(next);
    }
    asm.mov(frame("ahead"), r11);
    asm.movMemImm(frame("aheadStep"), ahead.step);
    asm.movMemImm(frame("aheadTiles"), ahead.tiles);
  }
  const innerLoop = asm.here();
  // --- a tile
  if (ahead !== undefined) {
    if (ahead.perTile !== undefined) {
      asm.mov(r11, frame("ahead"));
      addImm(asm, frame("ahead"), ahead.perTile, rax);
    } else {
      const more = new Label();
      asm.aluImm("sub", frame("aheadTiles"), 1);
      asm.jcc("ns", more);
      asm.mov(r11, rdx);
      asm.movMemImm(frame("aheadStep"), 0);
      asm.bind(more);
    }
  }
  const [outerPointer, innerPointer] = outerIsP ? [r8, r9] : [r9, r8];
  if (outer.access === "local") asm.lea(outerPointer, mem(rdx, layout.outer));
  else asm.mov(outerPointer, rsi);
  asm.mov(innerPointer, rdi);
  asm.mov(r10, r15);
  asm.mov(rcx, frame("kCount"));
  const [pIndex, qIndex] = outerIsP ? [r12, r13] : [r13, r12];
  bySize(asm, p.panels, pIndex, (rows) =>
    bySize(asm, q.panels, qIndex, (columns) => asm.call(tileLabel(rows, columns))),
  );
  if (kBlocks > 1) asm.aluImm("add", rbx, tileBytes(kernel));
  advance(inner, r13, inner.access === "direct" ? rdi : undefined, r15, cStep.inner);
  if (inner.access !== "direct") asm.aluImm("add", rdi, inner.packed.panelBytes);
  asm.aluImm("add", r13, 1);
  asm.alu("cmp", r13, frame(`${names.inner}End`));
  asm.jcc("b", innerLoop);
  advance(outer, r12, rsi, r14, cStep.outer);
  if (outer.access === "shared") asm.aluImm("add", rsi, outer.packed.panelBytes);
  asm.aluImm("add", r12, 1);
  asm.alu("cmp", r12, frame(`${names.outer}End`));
  asm.jcc("b", outerLoop);
  if (kBlocks > 1) {
    for (const name of ["p", "q"] as const) {
      const side = kernel[name];
      const bytes = side.access === "shared" ? side.panels.count * side.packed.panelBytes : kernel.kBlock * side.overK;
      addImm(asm, frame(name), bytes, rax);
    }
    asm.aluImm("add", frame("kIndex"), 1);
    asm.aluImm("cmp", frame("kIndex"), kBlocks);
    asm.jcc("b", kLoop);
  }
  asm.aluImm("add", rsp, frameBytes);
  asm.ret();

  for (const [key, label] of tiles) {
    const [rows, columns] = key.split(",").map(Number) as [number, number];
    asm.align(32);
    asm.bind(label);
    emitTile(simd, kernel, rows, columns);
  }
  simd.finish();
}

/** A tile: r8 = P, r9 = Q, r10 = C, rbx = partial sums, rcx = count of k, rdx = scratch. r11 = what to prefetch. Clobbers rax, rcx, r8, r9 and vectors; moves r11. */
function emitTile(simd: Simd, kernel: GemmKernel, rows: number, columns: number): void {
  const { asm, lanes, length } = simd;
  const { p, q, c, k, kBlock } = kernel;
  const many = kBlock < k;
  const pushed = 8;
  const vectors = Math.ceil(columns / lanes);
  const accumulators = rows * vectors;
  const acc = (i: number, v: number) => i * vectors + v;
  const qVector = (v: number) => accumulators + v;
  const temps = simd.registers - accumulators - vectors;
  const temp = (i: number) => accumulators + vectors + (i % temps);
  const part = simd.setPart(columns - (vectors - 1) * lanes, 1);
  const partOf = (v: number): Part | undefined => (v === vectors - 1 ? part : undefined);

  if (many) {
    const first = new Label();
    const begin = new Label();
    asm.aluImm("cmp", frame("kIndex", pushed), 0);
    asm.jcc("e", first);
    for (let i = 0; i < accumulators; i++) asm.v("vmovups", length, i, mem(rbx, i * length));
    asm.jmp(begin);
    asm.bind(first);
    for (let i = 0; i < accumulators; i++) simd.zero(i);
    asm.bind(begin);
  } else for (let i = 0; i < accumulators; i++) simd.zero(i);

  // Addresses in the operands as they lie now.
  const packed = (side: Side) => (side.access === "direct" ? undefined : side.packed);
  const pLayout = packed(p);
  const [pRow, pK] =
    pLayout === undefined ? [p.along, p.overK] : pLayout.layout === "byK" ? [4, pLayout.stride] : [pLayout.stride, 4];
  const qLayout = packed(q);
  const qK = qLayout === undefined ? q.overK : qLayout.stride;
  const qStorage = qLayout === undefined ? q.storage : "fp32";
  const steps = (count: number) => {
    for (let s = 0; s < count; s++) {
      for (let v = 0; v < vectors; v++) {
        const address = mem(r9, s * qK + v * lanes * storageBytes[qStorage]);
        simd.load(qVector(v), address, qStorage, qLayout === undefined ? partOf(v) : undefined);
      }
      for (let i = 0; i < rows; i++) {
        asm.v("vbroadcastss", length, temp(i), mem(r8, i * pRow + s * pK));
        for (let v = 0; v < vectors; v++) simd.fma(acc(i, v), temp(i), qVector(v));
      }
    }
    addImm(asm, r8, count * pK, rax);
    addImm(asm, r9, count * qK, rax);
  };
  const ahead = aheadOf(kernel);
  // Lines of C are asked for while the tile is computed: they rarely are in this core's caches.
  const wanted = linesOfTile(kernel, rows, columns);
  const again = new Label();
  const single = new Label();
  const done = new Label();
  const none = new Label();
  asm.movMemImm(frame("kRest", pushed), 0);
  asm.movMemImm(frame("cStep", pushed), 0);
  asm.mov(rax, rdx);
  if (many) {
    asm.aluImm("cmp", frame("kIndex", pushed), Math.ceil(k / kBlock) - 1);
    asm.jcc("ne", none);
  }
  asm.mov(rax, r10);
  asm.movMemImm(frame("cStep", pushed), wanted.step);
  // The first iterations do it, the rest goes on without.
  asm.aluImm("sub", rcx, wanted.count * unroll);
  const short = new Label();
  asm.jcc("be", short);
  asm.mov(frame("kRest", pushed), rcx);
  asm.alu32("xor", rcx, rcx);
  asm.bind(short);
  asm.aluImm("add", rcx, wanted.count * unroll);
  asm.bind(none);
  asm.bind(again);
  asm.aluImm("sub", rcx, unroll);
  asm.jcc("l", single);
  asm.align(32);
  const top = asm.here();
  steps(unroll);
  if (ahead !== undefined) {
    for (const offset of ahead.offsets) asm.prefetch("t1", mem(r11, offset));
    asm.alu("add", r11, frame("aheadStep", pushed));
  }
  for (const offset of wanted.offsets) asm.prefetch("w", mem(rax, offset));
  asm.alu("add", rax, frame("cStep", pushed));
  asm.aluImm("sub", rcx, unroll);
  asm.jcc("ge", top);
  asm.aluImm("cmp", frame("kRest", pushed), 0);
  asm.jcc("e", single);
  asm.mov(rcx, frame("kRest", pushed));
  asm.movMemImm(frame("kRest", pushed), 0);
  asm.movMemImm(frame("cStep", pushed), 0);
  asm.mov(rax, rdx);
  asm.jmp(again);
  asm.bind(single);
  asm.aluImm("add", rcx, unroll);
  asm.jcc("e", done);
  countDown(asm, rcx, () => steps(1));
  asm.bind(done);

  if (many) {
    const last = new Label();
    asm.aluImm("cmp", frame("kIndex", pushed), Math.ceil(k / kBlock) - 1);
    asm.jcc("e", last);
    for (let i = 0; i < accumulators; i++) asm.store("vmovups", length, mem(rbx, i * length), i);
    asm.ret();
    asm.bind(last);
  }
  const unit = storageBytes[c.storage];
  if (!isTransposed(kernel)) {
    for (let i = 0; i < rows; i++) {
      for (let v = 0; v < vectors; v++)
        simd.store(mem(r10, i * c.p + v * lanes * unit), acc(i, v), c.storage, partOf(v), temp(0));
    }
  } else {
    const spill = (i: number, v: number) => mem(rdx, gemmScratch(kernel).spill + acc(i, v) * length);
    for (let i = 0; i < rows; i++)
      for (let v = 0; v < vectors; v++) asm.store("vmovups", length, spill(i, v), acc(i, v));
    const rowPart = simd.setPart(rows, 2);
    const registers = Array.from({ length: lanes }, (_, i) => i);
    const others = registers.map((i) => lanes + i);
    for (let v = 0; v < vectors; v++) {
      for (let i = 0; i < rows; i++) asm.v("vmovups", length, i, spill(i, v));
      simd.transpose(registers, others);
      const filled = Math.min(lanes, columns - v * lanes);
      for (let lane = 0; lane < filled; lane++)
        simd.store(mem(r10, (v * lanes + lane) * c.q), lane, c.storage, rowPart, others[0]!);
    }
  }
  asm.ret();
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
export interface PackKernel {
  readonly isa: Isa;
  readonly k: number;
  readonly kBlock: number;
  /** Batch dimensions that the operand has (those it is broadcast over left out). */
  readonly batch: readonly number[];
  readonly side: Side;
  readonly batchBytes: readonly number[];
}

export function packTasks({ k, kBlock, batch, side }: PackKernel): number {
  return batch.reduce((all, n) => all * n, 1) * Math.ceil(k / kBlock) * side.panels.count;
}

/** Arguments: the operand, the packed operand. */
export function emitPackStep(asm: X64, kernel: PackKernel): void {
  const { k, kBlock, batch, side, batchBytes } = kernel;
  const simd = new Simd(asm, kernel.isa);
  const kBlocks = Math.ceil(k / kBlock);
  asm.mov(r8, mem(rdi, 0));
  asm.mov(r9, mem(rdi, 8));
  asm.mov(rbx, rsi);
  multiply(asm, rbx, side.packed.panelBytes, rax);
  asm.alu("add", r9, rbx);
  asm.alu32("xor", r12, r12);
  asm.alu32("xor", r13, r13);
  emitDigits(asm, rsi, [...batch, kBlocks, side.panels.count], (digit, i) => {
    if (i === batch.length + 1) asm.mov(r12, digit);
    else if (i === batch.length) asm.mov(r13, digit);
    else {
      asm.mov(rcx, digit);
      multiply(asm, rcx, batchBytes[i]!, rax);
      asm.alu("add", r8, rcx);
    }
  });
  emitStart(asm, rdx, r12, side.panels, side.along);
  asm.alu("add", r8, rdx);
  asm.movImm(rcx, kBlock);
  if (kBlocks > 1) {
    asm.mov(rdx, r13);
    multiply(asm, rdx, kBlock * side.overK, rax);
    asm.alu("add", r8, rdx);
    asm.movImm(rdx, k - (kBlocks - 1) * kBlock);
    asm.aluImm("cmp", r13, kBlocks - 1);
    asm.cmov("e", rcx, rdx);
  }
  bySize(asm, side.panels, r12, (size) => emitPack(simd, sidePack(side, size, k, simd.lanes)));
  asm.ret();
  simd.finish();
}
