// Packing of a panel (a few rows or columns of a matrix, over a range of k) into contiguous fp32, for the matrix-product kernels.

import { gp, Label, mem, type Vec, type X64 } from "../isa/x64.ts";
import { addImm, countDown, type Simd, type Storage, storageBytes } from "./gemm-simd.ts";

/** A panel's source and layout. The panel's other dimension is called its width. */
export interface PanelPack {
  readonly storage: Storage;
  /** Bytes between source elements neighbouring along the width, and along k. */
  readonly along: number;
  readonly overK: number;
  readonly width: number;
  /** `byK`: [k][width rounded up to vectors, the rest 0]; `byRow`: [width][k]. `stride`: bytes between two of the outer dimension. */
  readonly layout: "byK" | "byRow";
  readonly stride: number;
  /** Whole extent of k modulo the lanes: what the last range of k ends with. Ranges but the last are multiples of the lanes. */
  readonly kTail: number;
}

/** Registers of `emitPack`: source, destination, count of k. All are clobbered, and rax, r10, r11, vectors, masks k1 and k2. */
export const packRegisters = { source: gp.r8, destination: gp.r9, count: gp.rcx } as const;
const { source, destination, count } = packRegisters;

/** Packs one panel. */
export function emitPack(simd: Simd, pack: PanelPack): void {
  const unit = storageBytes[pack.storage];
  if (pack.layout === "byRow") {
    if (pack.overK === unit) copyRows(simd, pack);
    else elements(simd, pack);
  } else if (pack.along === unit) copyVectors(simd, pack);
  else if (pack.overK === unit) transposeBlocks(simd, pack);
  else elements(simd, pack);
}

/** Full vectors of a width, then the rest. */
function vectorsOf(simd: Simd, width: number): { offset: number; lanes: number }[] {
  const list = [];
  for (let offset = 0; offset < width; offset += simd.lanes)
    list.push({ offset, lanes: Math.min(simd.lanes, width - offset) });
  return list;
}

/** Loops `body(steps)` over k: `unroll` steps at a time, then one by one. */
function overK(asm: X64, unroll: number, body: (steps: number) => void): void {
  const single = new Label();
  const done = new Label();
  if (unroll > 1) {
    asm.aluImm("sub", count, unroll);
    asm.jcc("l", single);
    const top = asm.here();
    body(unroll);
    asm.aluImm("sub", count, unroll);
    asm.jcc("ge", top);
    asm.bind(single);
    asm.aluImm("add", count, unroll);
    asm.jcc("e", done);
  }
  countDown(asm, count, () => body(1));
  asm.bind(done);
}

function copyVectors(simd: Simd, { storage, overK: stepK, width, stride }: PanelPack): void {
  const { asm } = simd;
  const vectors = vectorsOf(simd, width);
  const part = simd.setPart(vectors.at(-1)!.lanes, 1);
  const unroll = Math.max(1, Math.min(8, Math.floor(8 / vectors.length)));
  overK(asm, unroll, (steps) => {
    for (let s = 0; s < steps; s++) {
      vectors.forEach(({ offset }, v) => {
        const register = (s * vectors.length + v) % simd.registers;
        const address = mem(source, s * stepK + offset * storageBytes[storage]);
        simd.load(register, address, storage, v === vectors.length - 1 ? part : undefined);
        asm.store("vmovups", simd.length, mem(destination, s * stride + offset * 4), register);
      });
    }
    addImm(asm, source, steps * stepK, gp.rax);
    addImm(asm, destination, steps * stride, gp.rax);
  });
}

function copyRows(simd: Simd, { storage, along, width, stride, kTail }: PanelPack): void {
  const { asm, lanes } = simd;
  const tail = new Label();
  const done = new Label();
  const copy = (part?: ReturnType<Simd["setPart"]>) => {
    for (let row = 0; row < width; row++) {
      const register: Vec = row % (simd.registers - 1);
      simd.load(register, mem(source, row * along), storage, part);
      simd.store(mem(destination, row * stride), register, "fp32", part, simd.registers - 1);
    }
  };
  asm.aluImm("sub", count, lanes);
  asm.jcc("l", tail);
  const top = asm.here();
  copy();
  asm.aluImm("add", source, lanes * storageBytes[storage]);
  asm.aluImm("add", destination, lanes * 4);
  asm.aluImm("sub", count, lanes);
  asm.jcc("ge", top);
  asm.bind(tail);
  if (kTail > 0) {
    asm.aluImm("add", count, lanes);
    asm.jcc("e", done);
    copy(simd.setPart(kTail, 1));
    asm.bind(done);
  }
}

function transposeBlocks(simd: Simd, { storage, along, width, stride, kTail }: PanelPack): void {
  const { asm, lanes } = simd;
  const rows = Array.from({ length: lanes }, (_, i) => i);
  const temps = rows.map((i) => lanes + i);
  const tail = new Label();
  const done = new Label();
  const block = (kLanes: number) => {
    const part = simd.setPart(kLanes, 1);
    for (const vector of vectorsOf(simd, width)) {
      for (const i of rows) {
        if (i < vector.lanes) simd.load(i, mem(source, (vector.offset + i) * along), storage, part);
        else simd.zero(i);
      }
      simd.transpose(rows, temps);
      for (let k = 0; k < kLanes; k++)
        asm.store("vmovups", simd.length, mem(destination, k * stride + vector.offset * 4), k);
    }
  };
  asm.aluImm("sub", count, lanes);
  asm.jcc("l", tail);
  const top = asm.here();
  block(lanes);
  asm.aluImm("add", source, lanes * storageBytes[storage]);
  addImm(asm, destination, lanes * stride, gp.rax);
  asm.aluImm("sub", count, lanes);
  asm.jcc("ge", top);
  asm.bind(tail);
  if (kTail > 0) {
    asm.aluImm("add", count, lanes);
    asm.jcc("e", done);
    block(kTail);
    asm.bind(done);
  }
}

/** One element at a time, for strides that no vector load fits. */
function elements(simd: Simd, { storage, along, overK: stepK, width, layout, stride }: PanelPack): void {
  const { asm } = simd;
  const byRow = layout === "byRow";
  const padded = Math.ceil(width / simd.lanes) * simd.lanes;
  const [sourceStep, destinationStep] = byRow ? [stepK, 4] : [stepK, stride];
  if (width < padded && !byRow) simd.zero(1);
  countDown(asm, count, () => {
    if (width < padded && !byRow) asm.store("vmovups", simd.length, mem(destination, (padded - simd.lanes) * 4), 1);
    asm.mov(gp.r10, source);
    asm.mov(gp.r11, destination);
    asm.movImm(gp.rax, width);
    countDown(asm, gp.rax, () => {
      element(simd, storage, 0);
      asm.vmovssStore(mem(gp.r11), 0);
      asm.aluImm("add", gp.r10, along);
      asm.aluImm("add", gp.r11, byRow ? stride : 4);
    });
    asm.aluImm("add", source, sourceStep);
    asm.aluImm("add", destination, destinationStep);
  });
}

function element(simd: Simd, storage: Storage, dst: Vec): void {
  const { asm } = simd;
  if (storage === "fp32") return asm.vmovssLoad(dst, mem(gp.r10));
  asm.v("vxorps", 16, dst, dst, dst);
  asm.vpinsrw(dst, dst, mem(gp.r10), 0);
  asm.v("vcvtph2ps", 16, dst, dst);
}
