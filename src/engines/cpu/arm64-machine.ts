// The machine of arm64: vectors of 16 bytes, truth values in vector registers as lanes of ones or zeros.

import type { DType } from "../../core/dtype.ts";
import type { Label } from "./code.ts";
import { CodeMachine } from "./code-machine.ts";
import { bitsFloat, type Operation } from "./expression.ts";
import { mem as place, w, gp as x } from "./isa/arm64.ts";
import type { Arm64Code } from "./isa/arm64-code.ts";
import { elementPattern, float8 } from "./isa/arm64-immediates.ts";
import type { ShiftOpName, VecOpName } from "./isa/arm64-vector.ts";
import type { Address, Bound, Extent, ReduceKind, VectorReg } from "./machine.ts";

/** Registers for use inside an operation; the code's own. */
const work = 30;
const extra = 31;

const sizes = ["b", "h", "s", "d"] as const;
/** Logarithm of an element's bytes. */
const elementLog = { fp32: 2, int32: 2, fp16: 1, bool: 0 } as const satisfies Record<DType, number>;

/** One instruction with the operands as they are, of vectors of words or of bytes. */
const words: Partial<Record<Operation | Bound, VecOpName>> = {
  add: "fadd",
  sub: "fsub",
  mul: "fmul",
  div: "fdiv",
  sqrt: "fsqrt",
  max: "fmax", // NaN wins, and the zeros are ordered
  min: "fmin",
  floor: "frintm",
  ceil: "frintp",
  trunc: "frintz",
  round: "frintn",
  iadd: "add",
  isub: "sub",
  imul: "mul",
  imax: "smax",
  imin: "smin",
  eq: "fcmeq",
  ieq: "cmeq",
  toFloat: "scvtf",
};
const bytes: Partial<Record<Operation | Bound, VecOpName>> = {
  iand: "and",
  ior: "orr",
  ixor: "eor",
  mand: "and",
  mor: "orr",
  mxor: "eor",
  mnot: "not",
};
/** a < b as b > a. */
const turned: Partial<Record<Operation | Bound, VecOpName>> = { lt: "fcmgt", le: "fcmge", ilt: "cmgt" };
const shifts: Partial<Record<Operation | Bound, ShiftOpName>> = { ishl: "shl", ishr: "ushr", isar: "sshr" };
const folds = {
  f32: { sum: "fadd", max: "fmax", min: "fmin" },
  i32: { sum: "add", max: "smax", min: "smin" },
} as const satisfies Record<string, Record<ReduceKind, VecOpName>>;

export class Arm64Machine extends CodeMachine<Arm64Code> {
  readonly vectors: readonly VectorReg[];
  readonly masks: readonly VectorReg[] = [];
  readonly tail = "single";

  constructor(code: Arm64Code) {
    super(code, code.vectorBytes);
    this.vectors = Array.from({ length: code.registers }, (_, i) => i);
  }

  // ------------------------------------------------------------------------------------------------ frame and control

  protected openFrame(bytes: number): void {
    const { asm } = this.code;
    for (let left = bytes; left > 0; left -= 4096) {
      asm.aluImm("sub", x.sp, x.sp, Math.min(left, 4096));
      if (left > 4096) asm.str(x.xzr, place(x.sp));
    }
  }
  protected closeFrame(bytes: number): void {
    const { asm } = this.code;
    const rest = bytes % 4096;
    if (bytes > rest) asm.aluImm("add", x.sp, x.sp, bytes - rest);
    if (rest > 0) asm.aluImm("add", x.sp, x.sp, rest);
  }
  protected placeConstants(constants: ReadonlyMap<number, Label>): void {
    this.code.align(16);
    for (const [bits, label] of constants) {
      this.code.bind(label);
      for (let lane = 0; lane < 4; lane++) this.code.asm.dword(bits);
    }
  }
  setTail(): void {}

  jumpIfNone(mask: VectorReg, label: Label): void {
    const { asm } = this.code;
    asm.v("umaxv", "4s", work, mask);
    asm.fmovToGp("s", w(x.x17), work);
    asm.cbz(w(x.x17), label);
  }

  // ------------------------------------------------------------------------------------------------ memory

  /** Loads 1, 2, 4, 8 or 16 bytes; the rest becomes 0. */
  #load(log: number, dst: VectorReg, dtype: DType, from: Address): void {
    if (log === 4) return this.code.move16("ld", dst, this.address(dtype, from));
    const at = this.code.address(this.address(dtype, from), log);
    this.code.asm.ldrv(sizes[log]!, dst, at);
  }
  #store(log: number, src: VectorReg, dtype: DType, to: Address): void {
    if (log === 4) return this.code.move16("st", src, this.address(dtype, to));
    const at = this.code.address(this.address(dtype, to), log);
    this.code.asm.strv(sizes[log]!, src, at);
  }

  load(dst: VectorReg, dtype: DType, from: Address, extent: Extent): void {
    const { code } = this;
    this.#load(elementLog[dtype] + (extent === "full" ? 2 : 0), dst, dtype, from);
    if (dtype === "fp16") code.asm.v("fcvtl", "4s", dst, dst);
    else if (dtype === "bool") {
      if (extent === "full") {
        code.asm.vshift("ushll", "8h", dst, dst, 0);
        code.asm.vshift("ushll", "4s", dst, dst, 0);
      }
      this.#nonZero(dst);
    }
  }
  /** Lanes above 0 as truth values. */
  #nonZero(register: VectorReg): void {
    this.code.asm.v("cmtst", "4s", register, register, register);
  }
  loadAll(dst: VectorReg, dtype: DType, from: Address): void {
    const { code } = this;
    const at = place(code.pointer(this.address(dtype, from)));
    const { asm } = code;
    if (dtype === "fp32" || dtype === "int32") return asm.ld1r("4s", dst, at);
    asm.ld1r(dtype === "fp16" ? "4h" : "16b", dst, at);
    if (dtype === "fp16") asm.v("fcvtl", "4s", dst, dst);
    else this.#nonZero(dst);
  }

  store(src: VectorReg, dtype: DType, to: Address, extent: Extent): void {
    if (extent === "tail") return this.storeFirst(src, dtype, to);
    if (dtype === "fp32" || dtype === "int32") return this.#store(4, src, dtype, to);
    const { asm } = this.code;
    if (dtype === "fp16") asm.v("fcvtn", "4h", work, src);
    else {
      asm.v("xtn", "4h", work, src);
      asm.v("xtn", "8b", work, work);
      asm.vshift("ushr", "8b", work, work, 7);
    }
    this.#store(elementLog[dtype] + 2, work, dtype, to);
  }
  /** Only pairs of registers can be stored past the caches. */
  stream(src: VectorReg, dtype: DType, to: Address): void {
    if (dtype === "fp32" || dtype === "int32") this.code.vstream(16, this.address(dtype, to), src);
    else this.store(src, dtype, to, "full");
  }
  storeFirst(src: VectorReg, dtype: DType, to: Address): void {
    const { asm } = this.code;
    if (dtype === "fp16") asm.fcvt("h", work, "s", src);
    else if (dtype === "bool") asm.vshift("ushr", "4s", work, src, 31);
    this.#store(elementLog[dtype], dtype === "fp16" || dtype === "bool" ? work : src, dtype, to);
  }

  constant(dst: VectorReg, bits: number): void {
    const { asm } = this.code;
    if (elementPattern(BigInt.asUintN(32, BigInt(bits)), 32) !== undefined) asm.movi("4s", dst, bits);
    else if (float8(bitsFloat(bits)) !== undefined) asm.fmovImm("4s", dst, bitsFloat(bits));
    else asm.ldrv("q", dst, this.constantLabel(bits));
  }

  // ------------------------------------------------------------------------------------------------ operations

  /** A product that is added to its third operand takes that one's register; that of a factor would cost moves. */
  clobbersEarly(op: Operation | Bound, operand: number): boolean {
    return op === "fma" && operand < 2;
  }

  operation(op: Operation | Bound, dst: VectorReg, args: readonly VectorReg[], count: number): void {
    const { asm } = this.code;
    const [a, b, c] = args as [VectorReg, VectorReg, VectorReg];
    const [word, byte, swapped, shift] = [words[op], bytes[op], turned[op], shifts[op]];
    if (word !== undefined) return asm.v(word, "4s", dst, a, b);
    if (byte !== undefined) return asm.v(byte, "16b", dst, a, b);
    if (swapped !== undefined) return asm.v(swapped, "4s", dst, b, a);
    if (shift !== undefined) return count === 0 ? this.move(dst, a) : asm.vshift(shift, "4s", dst, a, count);
    switch (op) {
      case "ne":
        asm.v("fcmeq", "4s", dst, a, b);
        return asm.v("not", "16b", dst, dst);
      case "larger":
      case "smaller": {
        const [more, less] = op === "larger" ? [a, b] : [b, a];
        asm.v("fcmgt", "4s", work, more, less);
        return this.#select(dst, work, a, b);
      }
      case "select":
        return this.#select(dst, a, b, c);
      case "fma":
        return this.#fma(dst, a, b, c);
      case "toInt":
        // The conversion gives the nearest int32, and 0 for NaN.
        asm.movi("4s", work, 0x4f000000); // 2^31
        asm.v("fcmgt", "4s", work, work, a);
        asm.v("fcvtzs", "4s", dst, a);
        asm.movi("4s", extra, 0x80000000);
        return asm.v("bif", "16b", dst, extra, work);
      case "roundFloat16":
        asm.v("fcvtn", "4h", dst, a);
        return asm.v("fcvtl", "4s", dst, dst);
      default:
        throw new Error(`anekit bug: no code for ${op}`);
    }
  }

  /** dst = mask ? a : b. */
  #select(dst: VectorReg, mask: VectorReg, a: VectorReg, b: VectorReg): void {
    const { asm } = this.code;
    if (dst === b) return asm.v("bit", "16b", dst, a, mask);
    if (dst === a) return asm.v("bif", "16b", dst, b, mask);
    this.move(dst, mask);
    asm.v("bsl", "16b", dst, a, b);
  }

  #fma(dst: VectorReg, a: VectorReg, b: VectorReg, c: VectorReg): void {
    const free = dst === c || (dst !== a && dst !== b);
    const sum = free ? dst : work;
    this.move(sum, c);
    this.code.asm.v("fmla", "4s", sum, a, b);
    this.move(dst, sum);
  }

  accumulate(kind: ReduceKind, accumulator: VectorReg, value: VectorReg, type: "f32" | "i32"): void {
    this.code.asm.v(folds[type][kind], "4s", accumulator, accumulator, value);
  }
  reduceLanes(kind: ReduceKind, register: VectorReg, type: "f32" | "i32"): void {
    const { asm } = this.code;
    asm.ext("16b", work, register, register, 8);
    this.accumulate(kind, register, work, type);
    asm.v("rev64", "4s", work, register);
    this.accumulate(kind, register, work, type);
  }
  spread(register: VectorReg): void {
    this.code.asm.dup("4s", register, register, 0);
  }
}
