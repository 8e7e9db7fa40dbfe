// What a kernel generator asks of an instruction set: registers, addresses, vector operations, a few integers. machines.ts has the implementations.

import type { DType } from "../../core/dtype.ts";
import type { Operation } from "./expression.ts";

/** A general register, by the machine's own number. */
export type Reg = number;
/** A vector register, or a mask register where the machine has them. */
export type VectorReg = number;

/** The element at [base + (index + offset) × size of an element]. */
export interface Address {
  readonly base: Reg;
  /** Register that counts elements. */
  readonly index?: Reg;
  /** Constant elements. */
  readonly offset: number;
}

/** How much of a vector an access touches: all lanes, or what is left at the end of a row (see `Machine.tail`). */
export type Extent = "full" | "tail";

/** Selections by a comparison of what they select from: a > b ? a : b and a < b ? a : b. Without an order between them the result is b. */
export type Bound = "larger" | "smaller";

export type ReduceKind = "sum" | "max" | "min";

/** A place in the code. */
export interface Label {
  readonly at: number;
}

/** A word of the kernel's stack frame. */
export type Slot = number;

/**
 * Emits one kernel. Kernels are functions (arguments, task, scratch): the three are in slots after `begin`. Element sizes are those of the
 * dtype; fp16 is widened and narrowed by loads and stores.
 */
export interface Machine {
  /** fp32 lanes of a vector. */
  readonly lanes: number;
  /** Vector registers that expressions may use. */
  readonly vectors: readonly VectorReg[];
  /** Mask registers that expressions may use; empty where truth values live in vector registers. */
  readonly masks: readonly VectorReg[];
  /** General registers for pointers. */
  readonly pointers: readonly Reg[];
  /** The register that counts elements in inner loops. */
  readonly counter: Reg;
  /** A register that any address may use, free between instructions. */
  readonly temporary: Reg;
  /** "masked": the tail is one access of fewer lanes. "single": it is a loop over lane 0. */
  readonly tail: "masked" | "single";

  /** Opens the frame with this many word slots and vector slots. Slots 0, 1, 2 hold arguments, task and scratch. */
  begin(words: number, vectors: number): void;
  end(): void;

  // Integers; `Slot` operands live in the frame.
  loadSlot(dst: Reg, slot: Slot): void;
  storeSlot(slot: Slot, src: Reg): void;
  setSlot(slot: Slot, value: number): void;
  addSlot(slot: Slot, value: number): void;
  /** dst = 64-bit word at base + 8 index. */
  loadWord(dst: Reg, base: Reg, index: number): void;
  set(dst: Reg, value: number): void;
  copy(dst: Reg, src: Reg): void;
  add(dst: Reg, src: Reg): void;
  addConstant(dst: Reg, value: number): void;
  multiply(dst: Reg, src: Reg, value: number): void;
  /** Quotient and remainder of the slot by a constant, into two slots. */
  divideSlot(slot: Slot, by: number, quotient: Slot, remainder: Slot): void;
  /** slot = min(block, extent - from × block): elements of block number `from`. */
  restOfBlock(slot: Slot, from: Slot, block: number, extent: number): void;
  /** The slot's value rounded down to a multiple of a power of two, into another slot. */
  roundDownSlot(dst: Slot, src: Slot, multiple: number): void;
  /** Prepares masked tails of rows of the slot's length. */
  setTail(length: Slot): void;

  // Control.
  label(): Label;
  bind(label: Label): void;
  /** Jumps while the counter is below (or not below) a slot. */
  jumpIfCounterBelow(slot: Slot, label: Label): void;
  jumpIfCounterNotBelow(slot: Slot, label: Label): void;
  jump(label: Label): void;
  /** Jumps unless the address is a multiple of 64 bytes. */
  jumpUnlessAligned(at: Address, label: Label): void;
  /** Jumps if the mask is false in every lane. */
  jumpIfNone(mask: VectorReg, label: Label): void;
  /** Decrements the slot and jumps unless it is 0. */
  loopSlot(slot: Slot, label: Label): void;

  /** Asks for a vector's memory ahead of its use; never faults. `bytes` are added to the address. */
  prefetch(dtype: DType, at: Address, bytes: number, write: boolean): void;

  // Vectors.
  load(dst: VectorReg, dtype: DType, from: Address, extent: Extent): void;
  /** One element into all lanes. */
  loadAll(dst: VectorReg, dtype: DType, from: Address): void;
  store(src: VectorReg, dtype: DType, to: Address, extent: Extent): void;
  /** A full store that goes past the caches; the address is a multiple of 64 bytes, and `fence` comes before others read it. */
  stream(src: VectorReg, dtype: DType, to: Address): void;
  /** Orders streamed stores before later ones. */
  fence(): void;
  /** Lane 0. */
  storeFirst(src: VectorReg, dtype: DType, to: Address): void;
  /** The same bits in every lane. */
  constant(dst: VectorReg, bits: number): void;
  move(dst: VectorReg, src: VectorReg): void;
  operation(op: Operation | Bound, dst: VectorReg, args: readonly VectorReg[], count: number): void;
  /** True where the result register must, or should, differ from that of this operand. */
  clobbersEarly(op: Operation | Bound, operand: number): boolean;
  /** accumulator = kind(accumulator, value), on the tail's lanes only where the extent says so. */
  accumulate(kind: ReduceKind, accumulator: VectorReg, value: VectorReg, type: "f32" | "i32", extent: Extent): void;
  /** All lanes = kind over all lanes. */
  reduceLanes(kind: ReduceKind, register: VectorReg, type: "f32" | "i32"): void;
  /** All lanes = lane 0. */
  spread(register: VectorReg): void;
  saveVector(slot: number, src: VectorReg): void;
  loadVector(dst: VectorReg, slot: number): void;
  saveMask(slot: number, src: VectorReg): void;
  loadMask(dst: VectorReg, slot: number): void;
}
