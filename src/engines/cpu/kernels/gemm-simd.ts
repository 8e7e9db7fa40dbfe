// What matrix-product and packing kernels need of x86 vectors, the same for AVX2 and AVX-512: fp32 lanes loaded and stored as fp32 or fp16, whole or in part.

import { invariant } from "../../../core/errors.ts";
import { gp, Label, type Length, type Mask, type Mem, type Vec, type X64 } from "../isa/x64.ts";
import type { Isa } from "./step.ts";

/** Storage of an operand; arithmetic is fp32. */
export type Storage = "fp32" | "fp16";

/** Bytes of an element. */
export const storageBytes = { fp32: 4, fp16: 2 } as const satisfies Record<Storage, number>;

/** The first `count` lanes of a vector; with AVX-512 mask register `mask` holds them (`Simd.setPart`). */
export interface Part {
  readonly count: number;
  readonly mask: Mask;
}

/** Memory `bytes` further on. */
export function at(address: Mem, bytes: number): Mem {
  return { ...address, disp: (address.disp ?? 0) + bytes };
}

/** Writes vector code for one level. */
export class Simd {
  readonly length: Length;
  /** fp32 lanes of a vector. */
  readonly lanes: number;
  /** Vector registers. */
  readonly registers: number;
  readonly #masks = new Label();
  #masksUsed = false;

  readonly asm: X64;
  readonly isa: Isa;

  constructor(asm: X64, isa: Isa) {
    this.asm = asm;
    this.isa = isa;
    this.length = isa === "avx512" ? 64 : 32;
    this.lanes = this.length / 4;
    this.registers = isa === "avx512" ? 32 : 16;
  }

  /** Constants; to be called once, behind the last `ret`. */
  finish(): void {
    if (!this.#masksUsed) return;
    this.asm.bind(this.#masks);
    for (let lane = 0; lane < 16; lane++) this.asm.dword(lane < 8 ? -1 : 0);
  }

  /** The first `count` lanes, undefined if that is all of them; sets the mask register, clobbering rax. */
  setPart(count: number, mask: Mask): Part | undefined {
    invariant(count >= 1 && count <= this.lanes, () => `${count} lanes of ${this.lanes}`);
    if (count === this.lanes) return undefined;
    if (this.isa === "avx512") {
      this.asm.movImm(gp.rax, 2 ** count - 1);
      this.asm.kmovw(mask, gp.rax);
    }
    return { count, mask };
  }

  zero(dst: Vec): void {
    this.asm.v("vxorps", this.length, dst, dst, dst);
  }

  move(dst: Vec, src: Vec): void {
    if (dst !== src) this.asm.v("vmovups", this.length, dst, src);
  }

  #maskVector(count: number): Mem {
    this.#masksUsed = true;
    return { label: this.#masks, disp: (8 - count) * 4 };
  }

  /** dst = memory widened to fp32; lanes outside `part` become 0 and are not read. */
  load(dst: Vec, src: Mem, storage: Storage, part?: Part): void {
    const { asm, length } = this;
    if (part === undefined) asm.v(storage === "fp16" ? "vcvtph2ps" : "vmovups", length, dst, src);
    else if (this.isa === "avx512") {
      asm.v(storage === "fp16" ? "vcvtph2ps" : "vmovups", length, dst, src, { mask: part.mask, zero: true });
    } else if (storage === "fp32") {
      asm.v("vmovups", length, dst, this.#maskVector(part.count));
      asm.vmaskmovLoad(32, dst, dst, src);
    } else {
      asm.v("vxorps", 16, dst, dst, dst);
      for (let lane = 0; lane < part.count; lane++) asm.vpinsrw(dst, dst, at(src, 2 * lane), lane);
      asm.v("vcvtph2ps", length, dst, dst);
    }
  }

  /** Memory = src rounded to its storage; nothing outside `part` is written. Narrowing clobbers src; a part clobbers `temp` with AVX2. */
  store(dst: Mem, src: Vec, storage: Storage, part?: Part, temp?: Vec): void {
    const { asm, length } = this;
    const nearestEven = 0;
    const evex = part !== undefined && this.isa === "avx512" ? { mask: part.mask } : {};
    if (part === undefined || this.isa === "avx512") {
      if (storage === "fp16") asm.extract("vcvtps2ph", length, dst, src, nearestEven, evex);
      else asm.store("vmovups", length, dst, src, evex);
    } else if (storage === "fp32") {
      asm.v("vmovups", length, temp!, this.#maskVector(part.count));
      asm.vmaskmovStore(32, dst, temp!, src);
    } else {
      asm.extract("vcvtps2ph", length, src, src, nearestEven);
      for (let lane = 0; lane < part.count; lane++) asm.vpextrw(at(dst, 2 * lane), src, lane);
    }
  }

  /** All lanes = one element of memory. */
  broadcast(dst: Vec, src: Mem, storage: Storage): void {
    if (storage === "fp32") return this.asm.v("vbroadcastss", this.length, dst, src);
    this.asm.v("vpbroadcastw", this.length === 64 ? 32 : 16, dst, src);
    this.asm.v("vcvtph2ps", this.length, dst, dst);
  }

  /** acc += a · b */
  fma(acc: Vec, a: Vec, b: Vec | Mem): void {
    this.asm.v("vfmadd231ps", this.length, acc, a, b);
  }

  /** Transposes `lanes` vectors in registers; returns where the result is: `rows` itself. `temps` (as many) are clobbered. */
  transpose(rows: readonly Vec[], temps: readonly Vec[]): void {
    const { asm, length, lanes } = this;
    for (let i = 0; i < lanes; i += 2) {
      asm.v("vunpcklps", length, temps[i]!, rows[i]!, rows[i + 1]!);
      asm.v("vunpckhps", length, temps[i + 1]!, rows[i]!, rows[i + 1]!);
    }
    // Within every 128-bit lane: columns 4l + j of rows i … i + 3.
    for (let i = 0; i < lanes; i += 4) {
      for (let j = 0; j < 2; j++) {
        asm.v("vunpcklpd", length, rows[i + 2 * j]!, temps[i + j]!, temps[i + 2 + j]!);
        asm.v("vunpckhpd", length, rows[i + 2 * j + 1]!, temps[i + j]!, temps[i + 2 + j]!);
      }
    }
    if (lanes === 8) {
      for (let j = 0; j < 4; j++) {
        asm.vi("vperm2f128", 32, temps[j]!, rows[j]!, rows[j + 4]!, 0x20);
        asm.vi("vperm2f128", 32, temps[j + 4]!, rows[j]!, rows[j + 4]!, 0x31);
      }
      for (let j = 0; j < 8; j++) this.move(rows[j]!, temps[j]!);
      return;
    }
    for (let j = 0; j < 4; j++) {
      const [r0, r4, r8, r12] = [rows[j]!, rows[j + 4]!, rows[j + 8]!, rows[j + 12]!];
      const [t0, t4, t8, t12] = [temps[j]!, temps[j + 4]!, temps[j + 8]!, temps[j + 12]!];
      asm.vi("vshuff32x4", 64, t0, r0, r4, 0x88); // lanes 0, 2 of both
      asm.vi("vshuff32x4", 64, t4, r0, r4, 0xdd); // lanes 1, 3
      asm.vi("vshuff32x4", 64, t8, r8, r12, 0x88);
      asm.vi("vshuff32x4", 64, t12, r8, r12, 0xdd);
      asm.vi("vshuff32x4", 64, r0, t0, t8, 0x88); // column j
      asm.vi("vshuff32x4", 64, r8, t0, t8, 0xdd); // column j + 8
      asm.vi("vshuff32x4", 64, r4, t4, t12, 0x88); // column j + 4
      asm.vi("vshuff32x4", 64, r12, t4, t12, 0xdd); // column j + 12
    }
  }
}

/** A loop that counts `counter` down from its value (at least 1) in steps of 1. */
export function countDown(asm: X64, counter: number, body: () => void): void {
  const top = asm.here();
  body();
  asm.aluImm("sub", counter, 1);
  asm.jcc("ne", top);
}

/** dst += value, any size; clobbers `temp` where the value needs 64 bits. */
export function addImm(asm: X64, dst: number | Mem, value: number, temp: number): void {
  if (value === 0) return;
  if (value === (value | 0)) return asm.aluImm("add", dst, value);
  asm.movImm(temp, BigInt(value));
  asm.alu("add", dst, temp);
}

/** dst *= value, any size. */
export function multiply(asm: X64, dst: number, value: number, temp: number): void {
  if (value === 1) return;
  if (value === (value | 0)) return asm.imulImm(dst, dst, value);
  asm.movImm(temp, BigInt(value));
  asm.imul(dst, temp);
}
