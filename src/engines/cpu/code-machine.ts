// The half of a machine that the portable instructions say: slots of the frame, integers, control. x64-machine.ts and arm64-machine.ts add frames and vectors.

import { type DType, dtypeBytes } from "../../core/dtype.ts";
import { invariant } from "../../core/errors.ts";
import { type Code, entry, gp, Label, type Mem, mem } from "./code.ts";
import type { Operation } from "./expression.ts";
import { addImm, fits32, product } from "./kernels/integers.ts";
import type { Address, Bound, Extent, Machine, ReduceKind, Reg, Slot, VectorReg } from "./machine.ts";

const { r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, sp } = gp;

// r0 holds addresses (see `temporary`); r2 is free between instructions.

export abstract class CodeMachine<C extends Code> implements Machine {
  readonly counter = r1;
  readonly temporary = r0;
  readonly pointers = [r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13];
  readonly lanes: number;
  protected readonly code: C;
  /** Bytes of a vector slot, and what the first one's distance from the stack pointer is a multiple of. */
  readonly #slotBytes: number;
  readonly #constants = new Map<number, Label>();
  #words = 0;
  #frameBytes = 0;

  constructor(code: C, slotBytes: number) {
    this.code = code;
    this.lanes = code.lanes;
    this.#slotBytes = slotBytes;
  }

  // ------------------------------------------------------------------------------------------------ frame

  protected slot(slot: Slot): Mem {
    return mem(sp, 8 * slot);
  }
  protected vectorSlot(slot: number): Mem {
    return mem(sp, this.#wordBytes(this.#words) + this.#slotBytes * slot);
  }
  #wordBytes(words: number): number {
    return this.#slotBytes * Math.ceil((8 * words) / this.#slotBytes);
  }

  begin(words: number, vectors: number): void {
    this.#words = words;
    const bytes = this.#wordBytes(words) + this.#slotBytes * vectors;
    invariant(bytes < 128 * 1024, () => `a kernel's frame of ${bytes} bytes`);
    this.#frameBytes = bytes;
    this.openFrame(bytes);
    for (const [slot, register] of [entry.args, entry.task, entry.scratch].entries()) this.storeSlot(slot, register);
  }
  end(): void {
    this.closeFrame(this.#frameBytes);
    this.code.ret();
    this.placeConstants(this.#constants);
  }
  /** Makes room on the stack, a page at a time, so that a guard page below it is met. */
  protected abstract openFrame(bytes: number): void;
  protected abstract closeFrame(bytes: number): void;
  /** Writes the constants that `constantLabel` was asked for, behind the code. */
  protected abstract placeConstants(constants: ReadonlyMap<number, Label>): void;

  /** Where a constant of 32 bits will lie. */
  protected constantLabel(bits: number): Label {
    let label = this.#constants.get(bits);
    if (label === undefined) this.#constants.set(bits, (label = new Label()));
    return label;
  }

  // ------------------------------------------------------------------------------------------------ integers

  loadSlot(dst: Reg, slot: Slot): void {
    this.code.mov(dst, this.slot(slot));
  }
  storeSlot(slot: Slot, src: Reg): void {
    this.code.mov(this.slot(slot), src);
  }
  setSlot(slot: Slot, value: number): void {
    this.code.movMemImm(this.slot(slot), value);
  }
  addSlot(slot: Slot, value: number): void {
    addImm(this.code, this.slot(slot), value, r0);
  }
  loadWord(dst: Reg, base: Reg, index: number): void {
    this.code.mov(dst, mem(base, 8 * index));
  }
  set(dst: Reg, value: number): void {
    if (value === 0) this.code.zero(dst);
    else this.code.movImm(dst, value);
  }
  copy(dst: Reg, src: Reg): void {
    if (dst !== src) this.code.mov(dst, src);
  }
  add(dst: Reg, src: Reg): void {
    this.code.alu("add", dst, src);
  }
  addConstant(dst: Reg, value: number): void {
    invariant(dst !== r0 || fits32(value), () => `no register beside r0 to add ${value} to it`);
    addImm(this.code, dst, value, r0);
  }
  multiply(dst: Reg, src: Reg, value: number): void {
    product(this.code, dst, src, value);
  }
  divideSlot(slot: Slot, by: number, quotient: Slot, remainder: Slot): void {
    const { code } = this;
    code.mov(r0, this.slot(slot));
    code.divide(r0, by);
    code.mov(this.slot(quotient), r0);
    code.mov(this.slot(remainder), r2);
  }
  restOfBlock(slot: Slot, from: Slot, block: number, extent: number): void {
    const { code } = this;
    code.mov(r0, this.slot(from));
    this.multiply(r1, r0, block);
    code.movImm(r0, extent);
    code.alu("sub", r0, r1);
    code.movImm(r1, block);
    code.alu("cmp", r0, r1);
    code.cmov("g", r0, r1);
    code.mov(this.slot(slot), r0);
  }
  roundDownSlot(dst: Slot, src: Slot, multiple: number): void {
    this.code.mov(r0, this.slot(src));
    this.code.aluImm("and", r0, -multiple);
    this.code.mov(this.slot(dst), r0);
  }

  // ------------------------------------------------------------------------------------------------ control

  label(): Label {
    return new Label();
  }
  bind(label: Label): void {
    this.code.bind(label);
  }
  jumpIfCounterBelow(slot: Slot, label: Label): void {
    this.code.alu("cmp", r1, this.slot(slot));
    this.code.jcc("b", label);
  }
  jumpIfCounterNotBelow(slot: Slot, label: Label): void {
    this.code.alu("cmp", r1, this.slot(slot));
    this.code.jcc("ae", label);
  }
  jump(label: Label): void {
    this.code.jmp(label);
  }
  jumpUnlessAligned({ base }: Address, label: Label): void {
    this.copy(r0, base);
    this.code.aluImm("and", r0, 63);
    this.code.jcc("ne", label);
  }
  loopSlot(slot: Slot, label: Label): void {
    this.code.aluImm("sub", this.slot(slot), 1);
    this.code.jcc("ne", label);
  }

  // ------------------------------------------------------------------------------------------------ memory

  protected address(dtype: DType, { base, index, offset }: Address): Mem {
    const size = dtypeBytes[dtype] as 1 | 2 | 4;
    return mem(base, offset * size, index, size);
  }
  prefetch(dtype: DType, at: Address, bytes: number, write: boolean): void {
    const address = this.address(dtype, at);
    const disp = (address.disp ?? 0) + bytes;
    if (disp !== (disp | 0)) return; // a hint, not worth another register
    this.code.prefetch(write ? "w" : "t0", { ...address, disp });
  }
  fence(): void {
    this.code.fence();
  }

  // ------------------------------------------------------------------------------------------------ vectors

  move(dst: VectorReg, src: VectorReg): void {
    this.code.vmove(dst, src);
  }
  saveVector(slot: number, src: VectorReg): void {
    this.code.vstore(this.code.vectorBytes, this.vectorSlot(slot), src);
  }
  loadVector(dst: VectorReg, slot: number): void {
    this.code.vload(this.code.vectorBytes, dst, this.vectorSlot(slot));
  }
  // Where truth values live in vector registers.
  saveMask(slot: number, src: VectorReg): void {
    this.saveVector(slot, src);
  }
  loadMask(dst: VectorReg, slot: number): void {
    this.loadVector(dst, slot);
  }

  abstract readonly vectors: readonly VectorReg[];
  abstract readonly masks: readonly VectorReg[];
  abstract readonly tail: "masked" | "single";
  abstract setTail(length: Slot): void;
  abstract jumpIfNone(mask: VectorReg, label: Label): void;
  abstract load(dst: VectorReg, dtype: DType, from: Address, extent: Extent): void;
  abstract loadAll(dst: VectorReg, dtype: DType, from: Address): void;
  abstract store(src: VectorReg, dtype: DType, to: Address, extent: Extent): void;
  abstract stream(src: VectorReg, dtype: DType, to: Address): void;
  abstract storeFirst(src: VectorReg, dtype: DType, to: Address): void;
  abstract constant(dst: VectorReg, bits: number): void;
  abstract operation(op: Operation | Bound, dst: VectorReg, args: readonly VectorReg[], count: number): void;
  abstract clobbersEarly(op: Operation | Bound, operand: number): boolean;
  abstract accumulate(
    kind: ReduceKind,
    accumulator: VectorReg,
    value: VectorReg,
    type: "f32" | "i32",
    extent: Extent,
  ): void;
  abstract reduceLanes(kind: ReduceKind, register: VectorReg, type: "f32" | "i32"): void;
  abstract spread(register: VectorReg): void;
}
