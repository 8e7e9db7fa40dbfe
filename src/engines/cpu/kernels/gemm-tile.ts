// One tile of a matrix product: its sums in registers, what is done with them, how they are stored.

import { type Code, gp, Label, mem, type Part, storageBytes } from "../code.ts";
import {
  addFrame,
  addPointers,
  aheadOf,
  blocksOf,
  frame,
  type GemmKernel,
  gemmScratch,
  isTransposed,
  type Side,
  unroll,
} from "./gemm-layout.ts";
import { addImm, countDown } from "./integers.ts";

const { r0, r1, r2, r3, r6, r7, r8, r9 } = gp;

/** A tile: r6 = P, r7 = Q, r8 = C, r3 = partial sums, r1 = count of k, r2 = scratch. r9 = what to prefetch. Clobbers r0, r1, r6, r7 and vectors; moves r9. */
export function emitTile(code: Code, kernel: GemmKernel, rows: number, columns: number): void {
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
