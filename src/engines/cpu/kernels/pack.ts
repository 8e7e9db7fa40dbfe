// Packing of a panel (a few rows or columns of a matrix, over a range of k) into contiguous fp32, for the matrix-product kernels.

import { type Code, gp, mem, type Part, type Storage, storageBytes, type Vec } from "../code.ts";
import { addImm, countDown, inSteps, unrolled } from "./integers.ts";

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

/** Registers of `emitPack`: source, destination, count of k. All are clobbered, and r0, r8, r9, vectors, masks k1 and k2. */
export const packRegisters = { source: gp.r6, destination: gp.r7, count: gp.r1 } as const;
const { source, destination, count } = packRegisters;

/** Packs one panel. */
export function emitPack(code: Code, pack: PanelPack): void {
  const unit = storageBytes[pack.storage];
  if (pack.layout === "byRow") {
    if (pack.overK === unit) copyRows(code, pack);
    else elements(code, pack);
  } else if (pack.along === unit) copyVectors(code, pack);
  else if (pack.overK === unit) transposeBlocks(code, pack);
  else elements(code, pack);
}

/** Full vectors of a width, then the rest. */
function vectorsOf(code: Code, width: number): { offset: number; lanes: number }[] {
  const list = [];
  for (let offset = 0; offset < width; offset += code.lanes)
    list.push({ offset, lanes: Math.min(code.lanes, width - offset) });
  return list;
}

function copyVectors(code: Code, { storage, overK: stepK, width, stride }: PanelPack): void {
  const vectors = vectorsOf(code, width);
  const part = code.setPart(vectors.at(-1)!.lanes, 1);
  const unroll = Math.max(1, Math.min(8, Math.floor(8 / vectors.length)));
  unrolled(code, count, unroll, (steps) => {
    for (let s = 0; s < steps; s++) {
      vectors.forEach(({ offset }, v) => {
        const register = (s * vectors.length + v) % code.registers;
        const address = mem(source, s * stepK + offset * storageBytes[storage]);
        code.loadFloats(register, address, storage, v === vectors.length - 1 ? part : undefined);
        code.vstore(code.vectorBytes, mem(destination, s * stride + offset * 4), register);
      });
    }
    addImm(code, source, steps * stepK, gp.r0);
    addImm(code, destination, steps * stride, gp.r0);
  });
}

function copyRows(code: Code, { storage, along, width, stride, kTail }: PanelPack): void {
  const { lanes } = code;
  const copy = (part?: Part) => {
    for (let row = 0; row < width; row++) {
      const register: Vec = row % (code.registers - 1);
      code.loadFloats(register, mem(source, row * along), storage, part);
      code.storeFloats(mem(destination, row * stride), register, "fp32", part, code.registers - 1);
    }
  };
  const whole = () => {
    copy();
    code.aluImm("add", source, lanes * storageBytes[storage]);
    code.aluImm("add", destination, lanes * 4);
  };
  inSteps(code, count, lanes, whole, { rest: kTail > 0 ? () => copy(code.setPart(kTail, 1)) : undefined });
}

function transposeBlocks(code: Code, { storage, along, width, stride, kTail }: PanelPack): void {
  const { lanes } = code;
  const rows = Array.from({ length: lanes }, (_, i) => i);
  const temps = rows.map((i) => lanes + i);
  const block = (kLanes: number) => {
    const part = code.setPart(kLanes, 1);
    for (const vector of vectorsOf(code, width)) {
      for (const i of rows) {
        if (i < vector.lanes) code.loadFloats(i, mem(source, (vector.offset + i) * along), storage, part);
        else code.vzero(i);
      }
      code.transpose(rows, temps);
      for (let k = 0; k < kLanes; k++)
        code.vstore(code.vectorBytes, mem(destination, k * stride + vector.offset * 4), k);
    }
  };
  const whole = () => {
    block(lanes);
    code.aluImm("add", source, lanes * storageBytes[storage]);
    addImm(code, destination, lanes * stride, gp.r0);
  };
  inSteps(code, count, lanes, whole, { rest: kTail > 0 ? () => block(kTail) : undefined });
}

/** One element at a time, for strides that no vector load fits. */
function elements(code: Code, { storage, along, overK: stepK, width, layout, stride }: PanelPack): void {
  const byRow = layout === "byRow";
  const padded = Math.ceil(width / code.lanes) * code.lanes;
  const [sourceStep, destinationStep] = byRow ? [stepK, 4] : [stepK, stride];
  if (width < padded && !byRow) code.vzero(1);
  countDown(code, count, () => {
    if (width < padded && !byRow) code.vstore(code.vectorBytes, mem(destination, (padded - code.lanes) * 4), 1);
    code.mov(gp.r8, source);
    code.mov(gp.r9, destination);
    code.movImm(gp.r0, width);
    countDown(code, gp.r0, () => {
      code.loadFloat(0, mem(gp.r8), storage);
      code.storeFloat(mem(gp.r9), 0);
      code.aluImm("add", gp.r8, along);
      code.aluImm("add", gp.r9, byRow ? stride : 4);
    });
    code.aluImm("add", source, sourceStep);
    code.aluImm("add", destination, destinationStep);
  });
}
