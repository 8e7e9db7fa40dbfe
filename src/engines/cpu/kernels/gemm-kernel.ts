// The matrix-product kernel: a task multiplies one block, tile by tile, after packing what the planner wants packed.
// Two operands play different parts. P's elements are broadcast: a tile has one row for each of a few P rows. Q's elements fill vectors: a tile's
// columns. The planner takes A for P and B for Q, or the other way around (then a tile is a block of C transposed).

import { type Code, gp, Label, type Mem, mem } from "../code.ts";
import {
  addFrame,
  aheadOf,
  blocksAlong,
  blocksOf,
  chunksOf,
  frame,
  frameBytes,
  type GemmKernel,
  gemmScratch,
  type Panels,
  type Side,
  sidePack,
  type Terms,
  tileBytes,
} from "./gemm-layout.ts";
import { emitTile } from "./gemm-tile.ts";
import { addImm, emitDigits, multiply } from "./integers.ts";
import { emitPack } from "./pack.ts";
import type { Isa } from "./step.ts";

const { r0, r1, r2, r3, sp, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13 } = gp;

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
    const isPacked = outer.access === "shared";
    if (isPacked) addImm(code, r9, outer.packed.panelBytes, r0);
    else bySize(code, outer.panels, r10, (size) => addImm(code, r9, size * outer.along, r0));
    if (kBlocks > 1) {
      // Behind the last panel comes the first one's next block of k.
      code.lea(r0, mem(r10, 1));
      code.alu("cmp", r0, frame(`${names.outer}End`));
      code.jcc("b", next);
      code.mov(r9, frame(names.outer));
      addImm(code, r9, isPacked ? outer.panels.count * outer.packed.panelBytes : kBlock * outer.overK, r0);
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
