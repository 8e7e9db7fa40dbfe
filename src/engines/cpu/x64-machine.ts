// The machine of x86-64 with AVX2 or AVX-512. Kernels get rdi = arguments, rsi = task, rdx = scratch and may change every register but rsp and rbp.

import type { DType } from "../../core/dtype.ts";
import { CodeMachine } from "./code-machine.ts";
import type { Operation } from "./expression.ts";
import { gp, type Label, mem, type VecOpName } from "./isa/x64.ts";
import type { X64Code } from "./isa/x64-code.ts";
import type { Address, Bound, Extent, ReduceKind, Slot, VectorReg } from "./machine.ts";

const { rax, rcx, rdx, rsp, rbp } = gp;

// rdx holds what is on its way between general and vector registers.

/** Mask register of a row's tail, and one for use inside an operation. */
const tailMask = 7;
const workMask = 1;

const predicates = { eq: 0x00, ne: 0x04, lt: 0x11, le: 0x12, unordered: 0x03 } as const;
const roundings = { round: 8, floor: 9, ceil: 10, trunc: 11 } as const; // nearest, down, up, to zero; no inexact exception

const plain: Partial<Record<Operation | Bound, VecOpName>> = {
  larger: "vmaxps",
  smaller: "vminps",
  add: "vaddps",
  sub: "vsubps",
  mul: "vmulps",
  div: "vdivps",
  iadd: "vpaddd",
  isub: "vpsubd",
  imul: "vpmulld",
  imax: "vpmaxsd",
  imin: "vpminsd",
};
const bitwise = {
  iand: ["vpand", "vpandd"],
  ior: ["vpor", "vpord"],
  ixor: ["vpxor", "vpxord"],
} as const;
const maskWise = { mand: ["vpand", "kandw"], mor: ["vpor", "korw"], mxor: ["vpxor", "kxorw"] } as const;
const shifts = { ishl: "vpslld", ishr: "vpsrld", isar: "vpsrad" } as const;

export class X64Machine extends CodeMachine<X64Code> {
  readonly vectors: readonly VectorReg[];
  readonly masks: readonly VectorReg[];
  readonly tail: "masked" | "single";
  readonly #wide: boolean;
  readonly #length: 32 | 64;
  /** Registers for use inside an operation. */
  readonly #work: readonly [VectorReg, VectorReg, VectorReg];

  constructor(code: X64Code) {
    super(code, 64);
    this.#wide = code.isa === "avx512";
    this.#length = code.vectorBytes;
    const count = code.registers;
    this.vectors = Array.from({ length: count - 3 }, (_, i) => i);
    this.#work = [count - 3, count - 2, count - 1];
    this.masks = this.#wide ? [2, 3, 4, 5, 6] : [];
    this.tail = this.#wide ? "masked" : "single";
  }

  // ------------------------------------------------------------------------------------------------ frame and integers

  /** Vector slots do not cross lines of the caches. */
  protected openFrame(bytes: number): void {
    const asm = this.code;
    asm.push(rbp);
    asm.mov(rbp, rsp);
    for (let left = bytes + 64; left > 0; left -= 4096) {
      asm.aluImm("sub", rsp, Math.min(left, 4096));
      if (left > 4096) asm.alu("or", mem(rsp), rsp);
    }
    asm.aluImm("and", rsp, -64);
  }
  protected closeFrame(): void {
    this.code.mov(rsp, rbp);
    this.code.pop(rbp);
  }
  protected placeConstants(constants: ReadonlyMap<number, Label>): void {
    this.code.align(4);
    for (const [bits, label] of constants) {
      this.code.bind(label);
      this.code.dword(bits);
    }
  }

  setTail(length: Slot): void {
    if (!this.#wide) return;
    const asm = this.code;
    asm.mov(rcx, this.slot(length));
    asm.aluImm("and", rcx, 15);
    asm.movImm(rax, 0xffff);
    asm.bzhi(rax, rax, rcx);
    asm.kmovw(tailMask, rax);
  }

  jumpIfNone(mask: VectorReg, label: Label): void {
    if (this.#wide) this.code.kortestw(mask, mask);
    else this.code.vptest(32, mask, mask);
    this.code.jcc("e", label);
  }

  // ------------------------------------------------------------------------------------------------ memory

  load(dst: VectorReg, dtype: DType, from: Address, extent: Extent): void {
    const asm = this.code;
    const address = this.address(dtype, from);
    const [work, zero] = this.#work;
    if (extent === "tail" && !this.#wide) {
      if (dtype === "fp32" || dtype === "int32") return asm.vmovssLoad(dst, address);
      if (dtype === "fp16") asm.movzx16(rdx, address);
      else asm.movzx8(rdx, address);
      if (dtype === "fp16") {
        asm.vmovdLoad(dst, rdx);
        return asm.v("vcvtph2ps", 32, dst, dst);
      }
      asm.vmovdLoad(work, rdx);
      asm.v("vpxor", 32, zero, zero, zero);
      return asm.v("vpcmpgtd", 32, dst, work, zero);
    }
    const masked = extent === "tail" ? { mask: tailMask, zero: true } : {};
    if (dtype === "fp32" || dtype === "int32") return asm.v("vmovups", this.#length, dst, address, masked);
    if (dtype === "fp16") return asm.v("vcvtph2ps", this.#length, dst, address, masked);
    asm.v("vpmovzxbd", this.#length, work, address, masked);
    this.#nonZero(dst, work);
  }

  /** dst (a mask) = lanes of an integer vector that are above 0. */
  #nonZero(dst: VectorReg, src: VectorReg): void {
    const asm = this.code;
    const zero = this.#work[1];
    if (this.#wide) {
      asm.v("vpxord", 64, zero, zero, zero);
      asm.vi("vpcmpd", 64, dst, src, zero, 6, { toMask: true });
    } else {
      asm.v("vpxor", 32, zero, zero, zero);
      asm.v("vpcmpgtd", 32, dst, src, zero);
    }
  }

  loadAll(dst: VectorReg, dtype: DType, from: Address): void {
    const asm = this.code;
    const address = this.address(dtype, from);
    if (dtype === "fp32" || dtype === "int32") return asm.v("vbroadcastss", this.#length, dst, address);
    if (dtype === "fp16") {
      const work = this.#work[0];
      asm.movzx16(rdx, address);
      asm.vmovdLoad(work, rdx);
      asm.v("vcvtph2ps", 16, work, work);
      return asm.v("vbroadcastss", this.#length, dst, work);
    }
    const work = this.#work[0];
    asm.movzx8(rdx, address);
    asm.vmovdLoad(work, rdx);
    asm.v("vpbroadcastd", this.#length, work, work);
    this.#nonZero(dst, work);
  }

  store(src: VectorReg, dtype: DType, to: Address, extent: Extent): void {
    const asm = this.code;
    const address = this.address(dtype, to);
    if (extent === "tail" && !this.#wide) return this.storeFirst(src, dtype, to);
    const masked = extent === "tail" ? { mask: tailMask } : {};
    if (dtype === "fp32" || dtype === "int32") return asm.store("vmovups", this.#length, address, src, masked);
    if (dtype === "fp16") return asm.extract("vcvtps2ph", this.#length, address, src, 0, masked);
    const [a, b] = this.#work;
    if (this.#wide) {
      asm.vpmovm2d(64, a, src);
      asm.vshift("vpsrld", 64, a, a, 31);
      return asm.store("vpmovdb", 64, address, a, masked);
    }
    asm.vshift("vpsrld", 32, a, src, 31);
    asm.extract("vextractf128", 32, b, a, 1);
    asm.v("vpackusdw", 16, a, a, b);
    asm.v("vpackuswb", 16, a, a, a);
    asm.vmovdStore(address, a);
    asm.vi("vpshufd", 16, a, undefined, a, 1);
    asm.vmovdStore({ ...address, disp: (address.disp ?? 0) + 4 }, a);
  }

  stream(src: VectorReg, dtype: DType, to: Address): void {
    const asm = this.code;
    const address = this.address(dtype, to);
    if (dtype === "bool") return this.store(src, dtype, to, "full");
    if (dtype !== "fp16") return asm.store("vmovntps", this.#length, address, src);
    const work = this.#work[0];
    asm.extract("vcvtps2ph", this.#length, work, src, 0);
    asm.store("vmovntps", this.#wide ? 32 : 16, address, work);
  }
  storeFirst(src: VectorReg, dtype: DType, to: Address): void {
    const asm = this.code;
    const address = this.address(dtype, to);
    const work = this.#work[0];
    if (dtype === "fp32" || dtype === "int32") return asm.vmovssStore(address, src);
    if (dtype === "fp16") {
      asm.extract("vcvtps2ph", 16, work, src, 0);
      asm.vmovdStore(rdx, work);
      return asm.mov16(address, rdx);
    }
    if (this.#wide) {
      asm.kmovwToGp(rdx, src);
      asm.aluImm32("and", rdx, 1);
      return asm.mov8(address, rdx);
    }
    asm.vshift("vpsrld", 32, work, src, 31);
    asm.vmovdStore(rdx, work);
    asm.mov8(address, rdx);
  }

  constant(dst: VectorReg, bits: number): void {
    if (bits === 0) {
      this.code.v(this.#wide ? "vpxord" : "vpxor", this.#length, dst, dst, dst);
      return;
    }
    this.code.v("vbroadcastss", this.#length, dst, { label: this.constantLabel(bits) });
  }

  // ------------------------------------------------------------------------------------------------ operations

  clobbersEarly(op: Operation | Bound): boolean {
    return op === "max" || op === "min";
  }

  operation(op: Operation | Bound, dst: VectorReg, args: readonly VectorReg[], count: number): void {
    const asm = this.code;
    const length = this.#length;
    const [a, b, c] = args as [VectorReg, VectorReg, VectorReg];
    const simple = plain[op];
    if (simple !== undefined) return asm.v(simple, length, dst, a, b);
    switch (op) {
      case "sqrt":
        return asm.v("vsqrtps", length, dst, a);
      case "toFloat":
        return asm.v("vcvtdq2ps", length, dst, a);
      case "toInt":
        return asm.v("vcvttps2dq", length, dst, a);
      case "fma":
        return this.#fma(dst, a, b, c);
      case "max":
      case "min":
        return this.#extremum(op, dst, a, b);
      case "floor":
      case "ceil":
      case "trunc":
      case "round":
        return asm.vi(this.#wide ? "vrndscaleps" : "vroundps", length, dst, undefined, a, roundings[op]);
      case "iand":
      case "ior":
      case "ixor":
        return asm.v(bitwise[op][this.#wide ? 1 : 0], length, dst, a, b);
      case "ishl":
      case "ishr":
      case "isar":
        return asm.vshift(shifts[op], length, dst, a, count);
      case "eq":
      case "ne":
      case "lt":
      case "le":
        return asm.vi("vcmpps", length, dst, a, b, predicates[op], { toMask: this.#wide });
      case "ieq":
        if (this.#wide) return asm.vi("vpcmpd", length, dst, a, b, 0, { toMask: true });
        return asm.v("vpcmpeqd", length, dst, a, b);
      case "ilt":
        if (this.#wide) return asm.vi("vpcmpd", length, dst, a, b, 1, { toMask: true });
        return asm.v("vpcmpgtd", length, dst, b, a);
      case "mand":
      case "mor":
      case "mxor":
        if (this.#wide) return asm.kop(maskWise[op][1], dst, a, b);
        return asm.v(maskWise[op][0], length, dst, a, b);
      case "mnot": {
        if (this.#wide) return asm.knotw(dst, a);
        const ones = this.#work[0];
        asm.v("vpcmpeqd", 32, ones, ones, ones);
        return asm.v("vpxor", 32, dst, a, ones);
      }
      case "select":
        if (this.#wide) return asm.v("vblendmps", length, dst, c, b, { mask: a });
        return asm.vblendvps(32, dst, c, b, a);
      case "roundFloat16": {
        const work = this.#work[0];
        asm.extract("vcvtps2ph", length, work, a, 0);
        return asm.v("vcvtph2ps", length, dst, work);
      }
      default:
        throw new Error(`anekit bug: no code for ${op}`);
    }
  }

  #fma(dst: VectorReg, a: VectorReg, b: VectorReg, c: VectorReg): void {
    const asm = this.code;
    if (dst === c) asm.v("vfmadd231ps", this.#length, dst, a, b);
    else if (dst === a) asm.v("vfmadd213ps", this.#length, dst, b, c);
    else if (dst === b) asm.v("vfmadd213ps", this.#length, dst, a, c);
    else {
      this.move(dst, c);
      asm.v("vfmadd231ps", this.#length, dst, a, b);
    }
  }

  /** As Math.max and Math.min: NaN wins, and the zeros are ordered. */
  #extremum(op: "max" | "min", dst: VectorReg, a: VectorReg, b: VectorReg): void {
    const asm = this.code;
    if (this.#wide) {
      asm.vi("vrangeps", 64, dst, a, b, op === "max" ? 5 : 4);
      asm.vi("vcmpps", 64, workMask, a, b, predicates.unordered, { toMask: true });
      return asm.v("vaddps", 64, dst, a, b, { mask: workMask });
    }
    const name = op === "max" ? "vmaxps" : "vminps";
    const [x, y] = this.#work;
    // The two orders differ only where both are zero, or one is NaN.
    asm.v(name, 32, x, a, b);
    asm.v(name, 32, y, b, a);
    asm.v(op === "max" ? "vandps" : "vorps", 32, dst, x, y);
    asm.v("vaddps", 32, x, a, b);
    asm.vi("vcmpps", 32, y, a, b, predicates.unordered);
    asm.vblendvps(32, dst, dst, x, y);
  }

  accumulate(kind: ReduceKind, accumulator: VectorReg, value: VectorReg, type: "f32" | "i32", extent: Extent): void {
    const asm = this.code;
    const length = this.#length;
    const masked = extent === "tail" && this.#wide ? { mask: tailMask } : {};
    if (type === "i32") {
      const name = { sum: "vpaddd", max: "vpmaxsd", min: "vpminsd" } as const;
      return asm.v(name[kind], length, accumulator, accumulator, value, masked);
    }
    if (kind === "sum") return asm.v("vaddps", length, accumulator, accumulator, value, masked);
    // Both instructions return the second operand where one is NaN: the accumulator stays NaN, and a NaN that comes in is moved there.
    const name = kind === "max" ? "vmaxps" : "vminps";
    asm.v(name, length, accumulator, value, accumulator, masked);
    if (this.#wide) {
      asm.vi("vcmpps", 64, workMask, value, value, predicates.unordered, { toMask: true, ...masked });
      asm.v("vmovups", 64, accumulator, value, { mask: workMask });
    } else {
      const unordered = this.#work[0];
      asm.vi("vcmpps", 32, unordered, value, value, predicates.unordered);
      asm.vblendvps(32, accumulator, accumulator, value, unordered);
    }
  }

  reduceLanes(kind: ReduceKind, register: VectorReg, type: "f32" | "i32"): void {
    const asm = this.code;
    const other = this.#work[2];
    const fold = () => this.accumulate(kind, register, other, type, "full");
    if (this.#wide) {
      asm.vi("vshuff32x4", 64, other, register, register, 0x4e); // halves exchanged
      fold();
      asm.vi("vshuff32x4", 64, other, register, register, 0xb1); // quarters exchanged
      fold();
    } else {
      asm.vi("vperm2f128", 32, other, register, register, 1);
      fold();
    }
    asm.vi("vshufps", this.#length, other, register, register, 0x4e);
    fold();
    asm.vi("vshufps", this.#length, other, register, register, 0xb1);
    fold();
  }

  spread(register: VectorReg): void {
    this.code.v("vbroadcastss", this.#length, register, register);
  }

  override saveMask(slot: number, src: VectorReg): void {
    if (!this.#wide) return super.saveMask(slot, src);
    this.code.kmovwToGp(rax, src);
    this.code.mov(this.vectorSlot(slot), rax);
  }
  override loadMask(dst: VectorReg, slot: number): void {
    if (!this.#wide) return super.loadMask(dst, slot);
    this.code.mov(rax, this.vectorSlot(slot));
    this.code.kmovw(dst, rax);
  }
}
