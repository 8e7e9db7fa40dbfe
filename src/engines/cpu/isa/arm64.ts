// An assembler for arm64 (A64): integers, loads and stores, atomics, NEON with half precision, scalar floating point. Encodings follow Arm's
// manual (DDI 0487); arm64.test.ts holds every form against bytes made by GNU as.

import { invariant } from "../../../core/errors.ts";
import {
  type AluImmediateOp,
  type AluOp,
  type AtomicOp,
  aluOps,
  atomicOps,
  type Barrier,
  barriers,
  binaries,
  type FieldOp,
  fieldOps,
  logicalImmediates,
  logicals,
  longProducts,
  type Order,
  orders,
  type PairOp,
  type PairwiseOp,
  type Precision,
  type Prefetch,
  pairwiseOps,
  precisions,
  prefetches,
  type SelectOp,
  type StructureOp,
  type SystemRegister,
  selectOps,
  structureOpcodes,
  sums,
  systemRegisters,
  type UnaryOp,
  unaryOps,
  type VecSize,
  vecSizes,
} from "./arm64-general.ts";
import { bitmask, elementPattern } from "./arm64-immediates.ts";
import {
  type Cond,
  cond,
  consecutive,
  extensions,
  floatImmediate,
  type Gp,
  general,
  general64,
  generalFor,
  gp,
  integerBits,
  isKey,
  isNarrow,
  laneField,
  type Mem,
  type Modifier,
  numberOf,
  opposite,
  range,
  shiftKinds,
  type Vec,
  vector,
  vectorLength,
  w,
  widthBit,
  zeroLike,
} from "./arm64-operands.ts";
import {
  type Arrangement,
  arrangements,
  type Conversion,
  conversions,
  type ElementOp,
  type ElementOpName,
  type ElementSize,
  elementOps,
  elementSizes,
  lengthBit,
  type ScalarOpName,
  type ShiftOp,
  type ShiftOpName,
  scalarOps,
  shiftOps,
  type VecOp,
  type VecOpName,
  vecOps,
} from "./arm64-vector.ts";
import { Label } from "./label.ts";

export type { Cond, Extend, Gp, Mem, Modifier, ShiftKind, Vec } from "./arm64-operands.ts";
export { cond, gp, indexed, mem, post, postIndexed, pre, w } from "./arm64-operands.ts";
export { Label };

type FixupKind = "branch26" | "branch19" | "branch14" | "adr" | "adrp" | "low12";

const setsFlags = (op: keyof typeof sums) => op === "adds" || op === "subs";

/** Bits of a reference from an instruction at `from` to `to`. */
function reference(name: string, kind: FixupKind, to: number, from: number): number {
  const distance = to - from;
  const words = (bits: number) => {
    const limit = 2 ** (bits + 1);
    return (range(name, "distance", distance, -limit, limit - 4, 4) / 4) & (2 ** bits - 1);
  };
  const split = (value: number) => ((value & 3) << 29) | (((value >> 2) & 0x7ffff) << 5);
  switch (kind) {
    case "branch26":
      return words(26);
    case "branch19":
      return words(19) << 5;
    case "branch14":
      return words(14) << 5;
    case "adr":
      return split(range(name, "distance", distance, -(2 ** 20), 2 ** 20 - 1));
    case "adrp":
      return split(range(name, "pages", Math.floor(to / 4096) - Math.floor(from / 4096), -(2 ** 20), 2 ** 20 - 1));
    case "low12":
      return (to & 0xfff) << 10;
  }
}

/** Collects code; offsets count bytes from its first one. */
export class Arm64 {
  #words = new Uint32Array(256);
  #count = 0;
  readonly #fixups: {
    readonly at: number;
    readonly label: Label;
    readonly kind: FixupKind;
    readonly name: string;
  }[] = [];

  /** Bytes so far. */
  get length(): number {
    return 4 * this.#count;
  }

  /** The code with every label resolved. */
  finish(): Uint8Array {
    const code = new DataView(new ArrayBuffer(this.length));
    for (let i = 0; i < this.#count; i++) code.setUint32(4 * i, this.#words[i]!, true);
    for (const { at, label, kind, name } of this.#fixups) {
      invariant(label.at >= 0, () => `${name}: a label of generated code is not bound`);
      code.setUint32(at, code.getUint32(at, true) | reference(name, kind, label.at, at), true);
    }
    return new Uint8Array(code.buffer);
  }

  /** Four bytes of data. */
  dword(value: number): void {
    if (this.#count === this.#words.length) {
      const grown = new Uint32Array(2 * this.#count);
      grown.set(this.#words);
      this.#words = grown;
    }
    this.#words[this.#count++] = value;
  }

  /** Pads to a multiple of `boundary` with instructions that do nothing. */
  align(boundary: number): void {
    range("align", "boundary", boundary, 4, 2 ** 20, 4);
    while (this.length % boundary !== 0) this.nop();
  }

  /** Binds a label here. */
  bind(label: Label): Label {
    invariant(label.at < 0, () => "a label of generated code is bound twice");
    label.at = this.length;
    return label;
  }

  /** A new label, bound here. */
  here(): Label {
    return this.bind(new Label());
  }

  #refer(name: string, kind: FixupKind, label: Label, word: number): void {
    this.#fixups.push({ at: this.length, label, kind, name });
    this.dword(word);
  }

  // ------------------------------------------------------------------------------------------------ integers

  /** dst = src. */
  mov(dst: Gp, src: Gp): void {
    if (numberOf(dst) === gp.sp || numberOf(src) === gp.sp) this.aluImm("add", dst, src, 0);
    else this.alu("orr", dst, isNarrow(dst) ? w(gp.xzr) : gp.xzr, src);
  }
  /** dst = 16 bits at a multiple of 16 bits, the rest 0. */
  movz(dst: Gp, value: number, shift = 0): void {
    this.#moveWide("movz", 0x52800000, dst, value, shift);
  }
  /** dst = the complement of that. */
  movn(dst: Gp, value: number, shift = 0): void {
    this.#moveWide("movn", 0x12800000, dst, value, shift);
  }
  /** 16 bits of dst, which keeps the others. */
  movk(dst: Gp, value: number, shift = 0): void {
    this.#moveWide("movk", 0x72800000, dst, value, shift);
  }
  #moveWide(name: string, base: number, dst: Gp, value: number, shift: number): void {
    const sf = widthBit(name, dst);
    range(name, "shift", shift, 0, sf === 1 ? 48 : 16, 16);
    range(name, "immediate", value, 0, 0xffff);
    this.dword(base | (sf << 31) | ((shift / 16) << 21) | (value << 5) | general(name, dst));
  }
  /** dst = any value of its width: one instruction where that can be, at most one for every 16 bits. */
  movImm(dst: Gp, value: number | bigint): void {
    const width = isNarrow(dst) ? 32 : 64;
    const bits = integerBits(value, width);
    invariant(bits !== undefined, () => `mov: immediate ${value} does not fit ${width} bits`);
    const parts = Array.from({ length: width / 16 }, (_, i) => Number((bits >> BigInt(16 * i)) & 0xffffn));
    const except = (background: number) => parts.flatMap((part, i) => (part === background ? [] : [i]));
    const ones = except(0xffff).length < except(0).length;
    const places = except(ones ? 0xffff : 0);
    if (places.length > 1 && bitmask(bits, width) !== undefined) {
      return this.aluImm("orr", dst, isNarrow(dst) ? w(gp.xzr) : gp.xzr, bits);
    }
    const [first = 0, ...rest] = places;
    if (ones) this.movn(dst, parts[first]! ^ 0xffff, 16 * first);
    else this.movz(dst, parts[first]!, 16 * first);
    for (const i of rest) this.movk(dst, parts[i]!, 16 * i);
  }

  /** dst = a op b, in the width of the registers; the modifier of b is for sums and logical operations. */
  alu(op: AluOp, dst: Gp, a: Gp, b: Gp, modifier?: Modifier): void {
    if (isKey(sums, op)) return this.#sum(op, dst, a, b, modifier);
    if (isKey(logicals, op)) {
      const sf = widthBit(op, dst, a, b);
      const [kind, amount] = modifier ?? ["lsl", 0];
      invariant(isKey(shiftKinds, kind), () => `${op}: no modifier ${kind}`);
      range(op, "shift", amount, 0, sf === 1 ? 63 : 31);
      return this.#registers(op, logicals[op] | (sf << 31) | (shiftKinds[kind] << 22) | (amount << 10), dst, a, b);
    }
    invariant(modifier === undefined, () => `${op}: takes no modifier`);
    if (isKey(binaries, op)) {
      return this.#registers(op, binaries[op] | (widthBit(op, dst, a, b) << 31), dst, a, b);
    }
    const lower = isKey(longProducts, op);
    invariant(
      !isNarrow(dst) && isNarrow(a) === lower && isNarrow(b) === lower,
      () => `${op}: the factors must have ${lower ? 32 : 64} bits, the result 64`,
    );
    this.#registers(op, aluOps[op], dst, a, b);
  }
  #registers(name: string, base: number, dst: Gp, a: Gp, b: Gp): void {
    this.dword(base | (general(name, b) << 16) | (general(name, a) << 5) | general(name, dst));
  }
  #sum(op: keyof typeof sums, dst: Gp, a: Gp, b: Gp, modifier?: Modifier): void {
    const sf = widthBit(op, dst, a);
    const stack = numberOf(dst) === gp.sp || numberOf(a) === gp.sp;
    let [kind, amount] = modifier ?? ["lsl", 0];
    // Only the form that extends knows the stack pointer.
    if (stack && kind === "lsl") kind = sf === 1 ? "uxtx" : "uxtw";
    if (isKey(shiftKinds, kind)) {
      invariant(kind !== "ror", () => `${op}: no modifier ror`);
      widthBit(op, dst, b);
      range(op, "shift", amount, 0, sf === 1 ? 63 : 31);
      const base = sums[op] | (sf << 31) | (shiftKinds[kind] << 22) | (amount << 10);
      return this.#registers(op, base, dst, a, b);
    }
    const wholeRegister = sf === 1 && (kind === "uxtx" || kind === "sxtx");
    invariant(isNarrow(b) === !wholeRegister, () => `${op}: ${kind} of a register of ${isNarrow(b) ? 32 : 64} bits`);
    range(op, "shift", amount, 0, 4);
    this.dword(
      sums[op] |
        0x00200000 |
        (sf << 31) |
        (general(op, b) << 16) |
        (extensions[kind] << 13) |
        (amount << 10) |
        (general(op, a, true) << 5) |
        general(op, dst, !setsFlags(op)),
    );
  }
  /**
   * dst = a op value. Sums take 12 bits, or 12 bits and 12 zeros, and turn into each other for negative values; logical operations one rotated
   * run of ones, repeated; shifts a count.
   */
  aluImm(op: AluImmediateOp, dst: Gp, a: Gp, value: number | bigint): void {
    const sf = widthBit(op, dst, a);
    if (isKey(logicalImmediates, op)) {
      const width = sf === 1 ? 64 : 32;
      const bits = integerBits(value, width);
      const pattern = bits === undefined ? undefined : bitmask(bits, width);
      invariant(pattern !== undefined, () => `${op}: immediate ${value} is no bitmask of ${width} bits`);
      const target = general(op, dst, op !== "ands");
      return this.dword(logicalImmediates[op] | (sf << 31) | (pattern << 10) | (general(op, a) << 5) | target);
    }
    const number = Number(value);
    if (isKey(sums, op)) {
      const opposites = { add: "sub", adds: "subs", sub: "add", subs: "adds" } as const;
      const base = (sums[number < 0 ? opposites[op] : op] & 0x60000000) | 0x11000000;
      const magnitude = Math.abs(number);
      const high = magnitude > 0xfff;
      range(op, "immediate", magnitude, 0, 0xfff000, high ? 0x1000 : 1);
      const bits = (high ? (1 << 22) | ((magnitude >> 12) << 10) : magnitude << 10) | (sf << 31);
      return this.dword(base | bits | (general(op, a, true) << 5) | general(op, dst, !setsFlags(op)));
    }
    const width = sf === 1 ? 64 : 32;
    range(op, "shift", number, 0, width - 1);
    if (op === "ror") return this.extr(dst, a, a, number);
    if (op === "lsl") return this.#bitfield(op, 0x53000000, dst, a, (width - number) % width, width - 1 - number);
    this.#bitfield(op, op === "lsr" ? 0x53000000 : 0x13000000, dst, a, number, width - 1);
  }

  cmp(a: Gp, b: Gp, modifier?: Modifier): void {
    this.alu("subs", zeroLike(a), a, b, modifier);
  }
  cmpImm(a: Gp, value: number): void {
    this.aluImm("subs", zeroLike(a), a, value);
  }
  /** Flags of a and b. */
  tst(a: Gp, b: Gp, modifier?: Modifier): void {
    this.alu("ands", zeroLike(a), a, b, modifier);
  }
  tstImm(a: Gp, value: number | bigint): void {
    this.aluImm("ands", zeroLike(a), a, value);
  }
  neg(dst: Gp, src: Gp): void {
    this.alu("sub", dst, zeroLike(dst), src);
  }
  /** dst = the complement of src. */
  mvn(dst: Gp, src: Gp): void {
    this.alu("orn", dst, zeroLike(dst), src);
  }
  mul(dst: Gp, a: Gp, b: Gp): void {
    this.madd(dst, a, b, zeroLike(dst));
  }
  /** dst = c + a · b. */
  madd(dst: Gp, a: Gp, b: Gp, c: Gp): void {
    const sf = widthBit("madd", dst, a, b, c);
    this.#registers("madd", 0x1b000000 | (sf << 31) | (general("madd", c) << 10), dst, a, b);
  }
  /** dst = c - a · b. */
  msub(dst: Gp, a: Gp, b: Gp, c: Gp): void {
    const sf = widthBit("msub", dst, a, b, c);
    this.#registers("msub", 0x1b008000 | (sf << 31) | (general("msub", c) << 10), dst, a, b);
  }
  unary(op: UnaryOp, dst: Gp, src: Gp): void {
    const sf = widthBit(op, dst, src);
    invariant(op !== "rev32" || sf === 1, () => "rev32: needs 64-bit registers");
    const base = unaryOps[op] | (sf << 31) | (op === "rev" ? sf << 10 : 0);
    this.dword(base | (general(op, src) << 5) | general(op, dst));
  }
  /** Field of `width` bits from bit `lsb` on; see `fieldOps`. */
  field(op: FieldOp, dst: Gp, src: Gp, lsb: number, width: number): void {
    const size = widthBit(op, dst, src) === 1 ? 64 : 32;
    const { base, insert } = fieldOps[op];
    range(op, "bit", lsb, 0, size - 1);
    range(op, "width", width, 1, size - lsb);
    if (insert) this.#bitfield(op, base, dst, src, (size - lsb) % size, width - 1);
    else this.#bitfield(op, base, dst, src, lsb, lsb + width - 1);
  }
  /** dst (64 bits) = the 32-bit src, sign-extended. */
  sxtw(dst: Gp, src: Gp): void {
    invariant(!isNarrow(dst) && isNarrow(src), () => "sxtw: extends 32 bits to 64");
    this.dword(0x93407c00 | (general("sxtw", src) << 5) | general("sxtw", dst));
  }
  #bitfield(name: string, base: number, dst: Gp, src: Gp, immr: number, imms: number): void {
    const sf = widthBit(name, dst, src);
    const fields = (immr << 16) | (imms << 10) | (general(name, src) << 5) | general(name, dst);
    this.dword(base | (sf << 31) | (sf << 22) | fields);
  }
  /** dst = the lower bits of high:low >> lsb. */
  extr(dst: Gp, high: Gp, low: Gp, lsb: number): void {
    const sf = widthBit("extr", dst, high, low);
    range("extr", "bit", lsb, 0, sf === 1 ? 63 : 31);
    this.#registers("extr", 0x13800000 | (sf << 31) | (sf << 22) | (lsb << 10), dst, high, low);
  }
  select(op: SelectOp, dst: Gp, a: Gp, b: Gp, condition: Cond): void {
    this.#registers(op, selectOps[op] | (widthBit(op, dst, a, b) << 31) | (cond[condition] << 12), dst, a, b);
  }
  /** dst = condition ? 1 : 0. */
  cset(dst: Gp, condition: Cond): void {
    this.select("csinc", dst, zeroLike(dst), zeroLike(dst), opposite[condition]);
  }
  /** dst = condition ? all ones : 0. */
  csetm(dst: Gp, condition: Cond): void {
    this.select("csinv", dst, zeroLike(dst), zeroLike(dst), opposite[condition]);
  }

  // ------------------------------------------------------------------------------------------------ control

  b(target: Label): void {
    this.#refer("b", "branch26", target, 0x14000000);
  }
  bl(target: Label): void {
    this.#refer("bl", "branch26", target, 0x94000000);
  }
  bIf(condition: Cond, target: Label): void {
    this.#refer(`b.${condition}`, "branch19", target, 0x54000000 | cond[condition]);
  }
  cbz(register: Gp, target: Label): void {
    this.#refer("cbz", "branch19", target, 0x34000000 | (widthBit("cbz", register) << 31) | general("cbz", register));
  }
  cbnz(register: Gp, target: Label): void {
    this.#refer(
      "cbnz",
      "branch19",
      target,
      0x35000000 | (widthBit("cbnz", register) << 31) | general("cbnz", register),
    );
  }
  /** Branches if the bit is 0; no further than 32 KiB. */
  tbz(register: Gp, bit: number, target: Label): void {
    this.#testBit("tbz", 0x36000000, register, bit, target);
  }
  tbnz(register: Gp, bit: number, target: Label): void {
    this.#testBit("tbnz", 0x37000000, register, bit, target);
  }
  #testBit(name: string, base: number, register: Gp, bit: number, target: Label): void {
    range(name, "bit", bit, 0, widthBit(name, register) === 1 ? 63 : 31);
    const word = base | ((bit >> 5) << 31) | ((bit & 31) << 19) | general(name, register);
    this.#refer(name, "branch14", target, word);
  }
  br(target: Gp): void {
    this.dword(0xd61f0000 | (general64("br", target) << 5));
  }
  blr(target: Gp): void {
    this.dword(0xd63f0000 | (general64("blr", target) << 5));
  }
  ret(target: Gp = gp.x30): void {
    this.dword(0xd65f0000 | (general64("ret", target) << 5));
  }
  /** dst = address of a label within 1 MiB. */
  adr(dst: Gp, target: Label): void {
    this.#refer("adr", "adr", target, 0x10000000 | general64("adr", dst));
  }
  /** dst = address of the label's page (4 KiB), for code that starts at one; `addLow12` adds the rest. */
  adrp(dst: Gp, target: Label): void {
    this.#refer("adrp", "adrp", target, 0x90000000 | general64("adrp", dst));
  }
  addLow12(dst: Gp, src: Gp, target: Label): void {
    const registers = (general64("add", src, true) << 5) | general64("add", dst, true);
    this.#refer("add", "low12", target, 0x91000000 | registers);
  }
  nop(): void {
    this.dword(0xd503201f);
  }
  yield(): void {
    this.dword(0xd503203f);
  }
  wfe(): void {
    this.dword(0xd503205f);
  }
  sev(): void {
    this.dword(0xd503209f);
  }
  isb(): void {
    this.dword(0xd5033fdf);
  }
  dmb(kind: Barrier): void {
    this.dword(0xd50330bf | (barriers[kind] << 8));
  }
  dsb(kind: Barrier): void {
    this.dword(0xd503309f | (barriers[kind] << 8));
  }
  /** Calls the operating system. */
  svc(number: number): void {
    this.dword(0xd4000001 | (range("svc", "immediate", number, 0, 0xffff) << 5));
  }
  /** Raises an illegal-instruction fault. */
  udf(number = 0): void {
    this.dword(range("udf", "immediate", number, 0, 0xffff));
  }
  mrs(dst: Gp, register: SystemRegister): void {
    this.dword(systemRegisters[register] | general64("mrs", dst));
  }
  msr(register: "fpcr" | "fpsr", src: Gp): void {
    this.dword((systemRegisters[register] & ~0x200000) | general64("msr", src));
  }

  // ------------------------------------------------------------------------------------------------ memory

  ldr(dst: Gp, from: Mem | Label): void {
    const sf = widthBit("ldr", dst);
    if (from instanceof Label) this.#refer("ldr", "branch19", from, 0x18000000 | (sf << 30) | general("ldr", dst));
    else this.#access("ldr", 2 + sf, 1, general("ldr", dst), from, dst);
  }
  str(src: Gp, to: Mem): void {
    this.#access("str", 2 + widthBit("str", src), 0, general("str", src), to, src);
  }
  /** Bytes and half words, zero-extended. */
  ldrb(dst: Gp, from: Mem): void {
    this.#small("ldrb", 0, 1, dst, from);
  }
  ldrh(dst: Gp, from: Mem): void {
    this.#small("ldrh", 1, 1, dst, from);
  }
  strb(src: Gp, to: Mem): void {
    this.#small("strb", 0, 0, src, to);
  }
  strh(src: Gp, to: Mem): void {
    this.#small("strh", 1, 0, src, to);
  }
  #small(name: string, size: number, opc: number, register: Gp, at: Mem): void {
    invariant(isNarrow(register), () => `${name}: needs a 32-bit register`);
    this.#access(name, size, opc, general(name, register), at, register);
  }
  /** Sign-extended to the register's width. */
  ldrsb(dst: Gp, from: Mem): void {
    this.#access("ldrsb", 0, 3 - widthBit("ldrsb", dst), general("ldrsb", dst), from, dst);
  }
  ldrsh(dst: Gp, from: Mem): void {
    this.#access("ldrsh", 1, 3 - widthBit("ldrsh", dst), general("ldrsh", dst), from, dst);
  }
  ldrsw(dst: Gp, from: Mem): void {
    this.#access("ldrsw", 2, 2, general64("ldrsw", dst), from, dst);
  }
  /** Vector register from memory, the rest of it 0; from a label 4, 8 or 16 bytes. */
  ldrv(size: VecSize, dst: Vec, from: Mem | Label): void {
    if (from instanceof Label) {
      range("ldr", "size", vecSizes[size], 2, 4);
      const word = 0x1c000000 | ((vecSizes[size] - 2) << 30) | vector("ldr", dst);
      this.#refer("ldr", "branch19", from, word);
    } else this.#vectorAccess("ldr", size, 1, dst, from);
  }
  strv(size: VecSize, src: Vec, to: Mem): void {
    this.#vectorAccess("str", size, 0, src, to);
  }
  #vectorAccess(name: string, size: VecSize, load: 0 | 1, register: Vec, at: Mem): void {
    const whole = size === "q";
    this.#access(name, vecSizes[size], 4 | (whole ? 2 : 0) | load, vector(name, register), at);
  }
  /** `size`: logarithm of the bytes; `opc`: with bit 2 for vector registers; `written`: a general register that must not be the changing base. */
  #access(name: string, size: number, opc: number, register: number, at: Mem, written?: Gp): void {
    const { base, offset, index, extend, shift = 0, write } = at;
    const word =
      0x38000000 |
      ((size & 3) << 30) |
      ((opc & 4) << 24) |
      ((opc & 3) << 22) |
      (general64(name, base, true) << 5) |
      register;
    invariant(
      write === undefined || written === undefined || numberOf(written) !== base,
      () => `${name}: changes its base and moves it`,
    );
    if (index !== undefined) {
      invariant(write === undefined && offset === 0, () => `${name}: an index allows no offset`);
      invariant(shift === 0 || shift === size, () => `${name}: shift ${shift} is neither 0 nor ${size}`);
      const narrow = extend === "uxtw" || extend === "sxtw";
      invariant(isNarrow(index) === narrow, () => `${name}: ${extend ?? "lsl"} of an index of another width`);
      const option = extensions[extend ?? "uxtx"];
      const fields = (general(name, index) << 16) | (option << 13) | (shift === 0 ? 0 : 1 << 12);
      return this.dword(word | 0x00200800 | fields);
    }
    const unit = 1 << size;
    if (write === undefined && offset >= 0 && offset % unit === 0 && offset < 4096 * unit) {
      return this.dword(word | 0x01000000 | ((offset / unit) << 10));
    }
    range(name, "offset", offset, -256, 255);
    const mode = write === "post" ? 0x400 : write === "pre" ? 0xc00 : 0;
    this.dword(word | mode | ((offset & 511) << 12));
  }
  /** Two registers; the offset is a multiple of their size, from -64 to 63 of it. `ldnp` and `stnp` hint that the data is not used again. */
  pair(op: PairOp, a: Gp, b: Gp, at: Mem): void {
    const sf = widthBit(op, a, b);
    invariant(
      at.write === undefined || (numberOf(a) !== at.base && numberOf(b) !== at.base),
      () => `${op}: changes its base and moves it`,
    );
    this.#pair(op, 2 + sf, sf << 31, general(op, a), general(op, b), at);
  }
  pairv(op: PairOp, size: "s" | "d" | "q", a: Vec, b: Vec, at: Mem): void {
    this.#pair(op, vecSizes[size], 0x04000000 | ((vecSizes[size] - 2) << 30), vector(op, a), vector(op, b), at);
  }
  #pair(op: PairOp, size: number, bits: number, a: number, b: number, { base, offset, index, write }: Mem): void {
    const load = op === "ldp" || op === "ldnp";
    invariant(index === undefined, () => `${op}: takes no index`);
    invariant(!load || a !== b, () => `${op}: loads one register twice`);
    const hint = op === "ldnp" || op === "stnp";
    invariant(!hint || write === undefined, () => `${op}: cannot change its base`);
    const unit = 1 << size;
    range(op, "offset", offset, -64 * unit, 63 * unit, unit);
    const mode = hint ? 0 : write === "post" ? 1 : write === "pre" ? 3 : 2;
    const fields = (((offset / unit) & 127) << 15) | (b << 10) | (general64(op, base, true) << 5) | a;
    this.dword(0x28000000 | bits | (mode << 23) | (load ? 1 << 22 : 0) | fields);
  }
  /** Asks for memory ahead of its use; never faults. */
  prfm(op: Prefetch, at: Mem): void {
    invariant(at.write === undefined, () => "prfm: cannot change its base");
    this.#access("prfm", 3, 2, prefetches[op], at);
  }

  // ------------------------------------------------------------------------------------------------ memory between threads

  /** Load that no later access overtakes. */
  ldar(dst: Gp, base: Gp): void {
    this.#ordered("ldar", 0x88dffc00, dst, base);
  }
  /** Store that overtakes no earlier access. */
  stlr(src: Gp, base: Gp): void {
    this.#ordered("stlr", 0x889ffc00, src, base);
  }
  /** Load that reserves memory for a `stxr` or `stlxr`. */
  ldxr(dst: Gp, base: Gp): void {
    this.#ordered("ldxr", 0x885f7c00, dst, base);
  }
  ldaxr(dst: Gp, base: Gp): void {
    this.#ordered("ldaxr", 0x885ffc00, dst, base);
  }
  #ordered(name: string, word: number, register: Gp, base: Gp): void {
    const sf = widthBit(name, register);
    this.dword(word | (sf << 30) | (general64(name, base, true) << 5) | general(name, register));
  }
  /** Store into reserved memory; status (32 bits) = 0 if it was still reserved. */
  stxr(status: Gp, src: Gp, base: Gp): void {
    this.#conditional("stxr", 0x88007c00, status, src, base);
  }
  stlxr(status: Gp, src: Gp, base: Gp): void {
    this.#conditional("stlxr", 0x8800fc00, status, src, base);
  }
  #conditional(name: string, word: number, status: Gp, src: Gp, base: Gp): void {
    invariant(isNarrow(status), () => `${name}: the status register has 32 bits`);
    const distinct = numberOf(status) !== numberOf(src) && numberOf(status) !== numberOf(base);
    invariant(distinct, () => `${name}: the status register must be another one`);
    this.#ordered(name, word | (general(name, status) << 16), src, base);
  }
  /** old = memory, memory = memory op value (LSE). */
  atomic(op: AtomicOp, order: Order, value: Gp, old: Gp, base: Gp): void {
    const sf = widthBit(op, value, old);
    const word = 0xb8200000 | atomicOps[op] | (orders[order] << 22) | (sf << 30) | (general(op, value) << 16);
    this.dword(word | (general64(op, base, true) << 5) | general(op, old));
  }
  /** If memory equals expected, memory = desired; expected = what memory held (LSE). */
  cas(order: Order, expected: Gp, desired: Gp, base: Gp): void {
    const sf = widthBit("cas", expected, desired);
    const acquire = orders[order] >> 1;
    const release = orders[order] & 1;
    const word = 0x88a07c00 | (sf << 30) | (acquire << 22) | (release << 15) | (general("cas", expected) << 16);
    this.dword(word | (general64("cas", base, true) << 5) | general("cas", desired));
  }

  // ------------------------------------------------------------------------------------------------ vectors

  /** dst = op(a[, b]); the arrangement is the result's, see `VecOp`. */
  v(op: VecOpName, arrangement: Arrangement, dst: Vec, a: Vec, b?: Vec): void {
    const record: VecOp = vecOps[op];
    const { base, half, sizeFrom, sources } = record;
    const length = lengthBit(op, arrangement, record) << 30;
    const { size } = arrangements[arrangement];
    invariant((b !== undefined) === (sources === 2), () => `${op}: takes ${sources} source${sources === 1 ? "" : "s"}`);
    const bits =
      half !== undefined && size === 1 ? half : base | (sizeFrom === undefined ? 0 : (size - sizeFrom) << 22);
    const second = b === undefined ? 0 : vector(op, b) << 16;
    this.dword(bits | length | second | (vector(op, a) << 5) | vector(op, dst));
  }
  /** The same with one element of b; for dot products with four bytes of it. Of elements of 16 bits, b is one of the registers 0 to 15. */
  element(op: ElementOpName, arrangement: Arrangement, dst: Vec, a: Vec, b: Vec, lane: number): void {
    const { base, size: sizing, element, types }: ElementOp = elementOps[op];
    invariant(types.includes(arrangement), () => `${op}: no arrangement ${arrangement}`);
    const { q, size } = arrangements[arrangement];
    const elementSize = element === undefined ? size : elementSizes[element];
    range(op, "lane", lane, 0, (16 >> elementSize) - 1);
    range(op, "vector register", b, 0, elementSize === 1 ? 15 : 31);
    // The lane's bits go to H, L and M, which is the register's upper bit where the lane leaves it free.
    const bits = lane << (elementSize - 1);
    const place = (((bits >> 2) & 1) << 11) | (((bits >> 1) & 1) << 21) | ((bits & 1) << 20);
    const sizeField = sizing === "fixed" || (sizing === "float" && size === 1) ? 0 : size << 22;
    this.dword(base | (q << 30) | sizeField | place | (b << 16) | (vector(op, a) << 5) | vector(op, dst));
  }
  /** dst = a shifted by a constant. */
  vshift(op: ShiftOpName, arrangement: Arrangement, dst: Vec, a: Vec, count: number): void {
    const record: ShiftOp = shiftOps[op];
    const length = lengthBit(op, arrangement, record) << 30;
    const { size } = arrangements[arrangement];
    // Bits of the shorter elements; the field holds them plus a left shift, or twice them less a right shift.
    const bits = 8 << (record.shape === "long" ? size - 1 : size);
    const left = record.shape === "left" || record.shape === "long";
    range(op, "shift", count, left ? 0 : 1, left ? bits - 1 : bits);
    const field = (left ? bits + count : 2 * bits - count) << 16;
    this.dword(record.base | length | field | (vector(op, a) << 5) | vector(op, dst));
  }
  /** All 128 bits. */
  vmov(dst: Vec, src: Vec): void {
    this.v("orr", "16b", dst, src, src);
  }
  /** All lanes = one lane of src. */
  dup(arrangement: Arrangement, dst: Vec, src: Vec, lane: number): void {
    const word = 0x0e000400 | vectorLength("dup", arrangement);
    this.dword(word | laneField("dup", arrangement, lane) | (vector("dup", src) << 5) | vector("dup", dst));
  }
  /** All lanes = a general register. */
  dupGp(arrangement: Arrangement, dst: Vec, src: Gp): void {
    const word = 0x0e000c00 | vectorLength("dup", arrangement) | laneField("dup", arrangement, 0);
    this.dword(word | (generalFor("dup", arrangement, src) << 5) | vector("dup", dst));
  }
  /** dst = one lane of src, the rest 0. */
  lane(size: ElementSize, dst: Vec, src: Vec, lane: number): void {
    this.dword(0x5e000400 | laneField("mov", size, lane) | (vector("mov", src) << 5) | vector("mov", dst));
  }
  /** Lane of dst = lane of src; the others stay. */
  ins(size: ElementSize, dst: Vec, dstLane: number, src: Vec, srcLane: number): void {
    const from = range("ins", "lane", srcLane, 0, (16 >> elementSizes[size]) - 1) << (elementSizes[size] + 11);
    this.dword(0x6e000400 | laneField("ins", size, dstLane) | from | (vector("ins", src) << 5) | vector("ins", dst));
  }
  insGp(size: ElementSize, dst: Vec, lane: number, src: Gp): void {
    const from = generalFor("ins", size, src) << 5;
    this.dword(0x4e001c00 | laneField("ins", size, lane) | from | vector("ins", dst));
  }
  /** General register = lane, zero-extended. */
  umov(size: ElementSize, dst: Gp, src: Vec, lane: number): void {
    const length = size === "d" ? 1 << 30 : 0;
    const to = generalFor("umov", size, dst);
    this.dword(0x0e003c00 | length | laneField("umov", size, lane) | (vector("umov", src) << 5) | to);
  }
  /** General register = lane, sign-extended to its width. */
  smov(size: "b" | "h" | "s", dst: Gp, src: Vec, lane: number): void {
    const sf = widthBit("smov", dst);
    invariant(size !== "s" || sf === 1, () => "smov: s needs a 64-bit register");
    const from = laneField("smov", size, lane) | (vector("smov", src) << 5);
    this.dword(0x0e002c00 | (sf << 30) | from | general("smov", dst));
  }
  /** Every element = value, if movi or mvni can make it (see `elementPattern`): 8 bits at a byte's place, those followed by ones, or their complements. */
  movi(arrangement: Arrangement, dst: Vec, value: number | bigint): void {
    const { q, size } = arrangements[arrangement];
    invariant(arrangement !== "1d", () => "movi: no arrangement 1d");
    const width = (8 << size) as 8 | 16 | 32 | 64;
    const bits = integerBits(value, width);
    const pattern = bits === undefined ? undefined : elementPattern(bits, width);
    invariant(pattern !== undefined, () => `movi: immediate ${value} has no encoding for ${arrangement}`);
    this.#modified(q, pattern.op, pattern.cmode, 0, pattern.imm8, vector("movi", dst));
  }
  /** Every element = a float of 8 bits: ±n/16 · 2^e with n from 16 to 31 and e from -3 to 4. */
  fmovImm(arrangement: "4h" | "8h" | "2s" | "4s" | "2d", dst: Vec, value: number): void {
    const { q, size } = arrangements[arrangement];
    const imm8 = floatImmediate(value);
    this.#modified(q, size === 3 ? 1 : 0, 0b1111, size === 1 ? 1 : 0, imm8, vector("fmov", dst));
  }
  #modified(q: number, op: number, cmode: number, half: number, imm8: number, dst: number): void {
    const immediate = ((imm8 >> 5) << 16) | ((imm8 & 31) << 5);
    this.dword(0x0f000400 | (q << 30) | (op << 29) | immediate | (cmode << 12) | (half << 11) | dst);
  }
  /** The bytes of a from number `start` on, then those of b. */
  ext(arrangement: "8b" | "16b", dst: Vec, a: Vec, b: Vec, start: number): void {
    const { q } = arrangements[arrangement];
    range("ext", "byte", start, 0, q === 1 ? 15 : 7);
    const registers = (vector("ext", b) << 16) | (vector("ext", a) << 5) | vector("ext", dst);
    this.dword(0x2e000000 | (q << 30) | (start << 11) | registers);
  }
  /** Bytes of a table of `count` registers from `table` on, by index; behind it 0, or with tbx what dst holds. */
  tbl(op: "tbl" | "tbx", arrangement: "8b" | "16b", dst: Vec, table: Vec, count: number, index: Vec): void {
    const { q } = arrangements[arrangement];
    const length = (range(op, "registers", count, 1, 4) - 1) << 13;
    const registers = (vector(op, index) << 16) | (consecutive(op, table, count) << 5) | vector(op, dst);
    this.dword(0x0e000000 | (q << 30) | length | (op === "tbx" ? 1 << 12 : 0) | registers);
  }
  /**
   * `ld1` and `st1` move 1 to 4 vectors that follow one another; `ld2` to `st4` move structures of so many elements, an element of each to the same
   * lane of registers that follow one another. After a change of the base it has grown by all bytes moved, or by a register.
   */
  structure(op: StructureOp, arrangement: Arrangement, first: Vec, at: Mem, count = Number(op[2])): void {
    const { q, size } = arrangements[arrangement];
    const opcode = structureOpcodes[op[2] as keyof typeof structureOpcodes][count];
    invariant(opcode !== undefined, () => `${op}: of ${count} registers`);
    invariant(arrangement !== "1d" || op[2] === "1", () => `${op}: no arrangement 1d`);
    const word = 0x0c000000 | (q << 30) | (opcode << 12) | (size << 10) | consecutive(op, first, count);
    this.#structure(op, word, count * (8 << q), at);
  }
  /** One lane of as many registers as the name says; the other lanes stay. */
  structureLane(op: StructureOp, size: ElementSize, first: Vec, lane: number, at: Mem): void {
    const count = Number(op[2]);
    const log = elementSizes[size];
    range(op, "lane", lane, 0, (16 >> log) - 1);
    // Q, S and the size field hold the lane as a number of bytes, but for the lowest bit of d's size.
    const place = lane << log;
    const bits = ((place >> 3) << 30) | (((place >> 2) & 1) << 12) | ((place & 3) << 10) | (log === 3 ? 1 << 10 : 0);
    const opcode = (Math.min(log, 2) << 14) | ((count > 2 ? 1 : 0) << 13) | ((count % 2 === 0 ? 1 : 0) << 21);
    this.#structure(op, 0x0d000000 | bits | opcode | consecutive(op, first, count), count << log, at);
  }
  /** All lanes = one element of memory. */
  ld1r(arrangement: Arrangement, dst: Vec, at: Mem): void {
    const { q, size } = arrangements[arrangement];
    this.#structure("ld1r", 0x0d40c000 | (q << 30) | (size << 10) | vector("ld1r", dst), 1 << size, at);
  }
  #structure(op: StructureOp | "ld1r", word: number, bytes: number, { base, offset, index, write }: Mem): void {
    const load = op.startsWith("ld") ? 1 << 22 : 0;
    const bits = word | load | (general64(op, base, true) << 5);
    if (write === undefined) {
      invariant(offset === 0 && index === undefined, () => `${op}: takes no offset`);
      return this.dword(bits);
    }
    invariant(write === "post", () => `${op}: changes its base afterwards only`);
    const all = index === undefined ? bytes : 0;
    range(op, "offset", offset, all, all);
    const increment = index === undefined ? 31 : range(op, "index register", index, 0, 30);
    this.dword(bits | (1 << 23) | (increment << 16));
  }

  // ------------------------------------------------------------------------------------------------ scalar floating point

  /** dst = op(a[, b[, c]]). */
  f(op: ScalarOpName, precision: Precision, dst: Vec, a: Vec, b?: Vec, c?: Vec): void {
    const { base, sources } = scalarOps[op];
    const given = 1 + (b === undefined ? 0 : 1) + (c === undefined ? 0 : 1);
    invariant(given === sources, () => `${op}: takes ${sources} source${sources === 1 ? "" : "s"}`);
    const second = b === undefined ? 0 : vector(op, b) << 16;
    const third = c === undefined ? 0 : vector(op, c) << 10;
    this.dword(base | (precisions[precision] << 22) | second | third | (vector(op, a) << 5) | vector(op, dst));
  }
  /** Flags of a compared with b; with zero where b is left out. */
  fcmp(precision: Precision, a: Vec, b?: Vec): void {
    const word = 0x1e202000 | (precisions[precision] << 22) | (vector("fcmp", a) << 5);
    this.dword(b === undefined ? word | 8 : word | (vector("fcmp", b) << 16));
  }
  fcsel(precision: Precision, dst: Vec, a: Vec, b: Vec, condition: Cond): void {
    const word = 0x1e200c00 | (precisions[precision] << 22) | (cond[condition] << 12);
    this.dword(word | (vector("fcsel", b) << 16) | (vector("fcsel", a) << 5) | vector("fcsel", dst));
  }
  /** Between two precisions. */
  fcvt(to: Precision, dst: Vec, from: Precision, src: Vec): void {
    invariant(to !== from, () => `fcvt: from ${from} to ${to}`);
    const word = 0x1e224000 | (precisions[from] << 22) | (precisions[to] << 15);
    this.dword(word | (vector("fcvt", src) << 5) | vector("fcvt", dst));
  }
  /** dst = a float of 8 bits; see `fmovImm`. */
  fmovScalar(precision: Precision, dst: Vec, value: number): void {
    const immediate = floatImmediate(value) << 13;
    this.dword(0x1e201000 | (precisions[precision] << 22) | immediate | vector("fmov", dst));
  }
  /** General register = bits of a scalar. */
  fmovToGp(precision: Precision, dst: Gp, src: Vec): void {
    const word = 0x1e260000 | this.#fmovWidths(precision, dst);
    this.dword(word | (vector("fmov", src) << 5) | general("fmov", dst));
  }
  /** Scalar = bits of a general register, the rest of the vector 0. */
  fmovFromGp(precision: Precision, dst: Vec, src: Gp): void {
    const word = 0x1e270000 | this.#fmovWidths(precision, src);
    this.dword(word | (general("fmov", src) << 5) | vector("fmov", dst));
  }
  #fmovWidths(precision: Precision, register: Gp): number {
    const sf = widthBit("fmov", register);
    const fits = precision === "h" || (precision === "d") === (sf === 1);
    invariant(fits, () => `fmov: ${precision} and ${sf === 1 ? 64 : 32} bits`);
    return (sf << 31) | (precisions[precision] << 22);
  }
  /** General register = float as an integer: rounded to zero (fcvtzs), nearest even (fcvtns), down (fcvtms), up (fcvtps), away (fcvtas). */
  toInteger(op: Conversion, dst: Gp, precision: Precision, src: Vec): void {
    const word = 0x1e200000 | (widthBit(op, dst) << 31) | (precisions[precision] << 22) | (conversions[op] << 16);
    this.dword(word | (vector(op, src) << 5) | general(op, dst));
  }
  fromInteger(op: "scvtf" | "ucvtf", precision: Precision, dst: Vec, src: Gp): void {
    const opcode = op === "scvtf" ? 0x00020000 : 0x00030000;
    const word = 0x1e200000 | opcode | (widthBit(op, src) << 31) | (precisions[precision] << 22);
    this.dword(word | (general(op, src) << 5) | vector(op, dst));
  }
  /** dst = op of the lowest two elements. */
  pairwise(op: PairwiseOp, precision: Precision, dst: Vec, src: Vec): void {
    const width = precision === "h" ? 0x40000000 : 0x60000000 | (precisions[precision] << 22);
    this.dword(pairwiseOps[op] | width | (vector(op, src) << 5) | vector(op, dst));
  }
}
