// The portable instructions (../code.ts) on arm64: vectors of 16 bytes. Integers, control and shared memory are in arm64-code-general.ts.

import { invariant } from "../../../core/errors.ts";
import {
  type Code,
  at as further,
  type Length,
  type Mem,
  type Part,
  type Storage,
  storageBytes,
  type Vec,
} from "../code.ts";
import { gp, w } from "./arm64.ts";
import { Arm64General } from "./arm64-code-general.ts";
import { elementPattern } from "./arm64-immediates.ts";

/** Vector registers that are no kernel's: of operands in memory, of what is stored narrowed or in part. */
const through: Vec = 31;

const floatOps = { add: "fadd", sub: "fsub", mul: "fmul" } as const;
const elements = { 1: "16b", 2: "8h", 4: "4s", 8: "2d" } as const;
const sizes = { 1: "b", 2: "h", 4: "s", 8: "d" } as const;
type ElementBytes = keyof typeof sizes;
const prefetches = { t0: "pldl1keep", t1: "pldl2keep", w: "pstl1keep" } as const;

/** The largest power of two below 16 that is no larger. */
const wholeOf = (bytes: number) => (bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1);
const logOf = { 1: 0, 2: 1, 4: 2, 8: 3 } as const;

export class Arm64Code extends Arm64General implements Code {
  readonly isa = "neon";
  readonly vectorBytes = 16;
  readonly lanes = 4;
  readonly registers = 30;

  // ---------------------------------------------------------------------------------------------- vectors of bytes

  vload(length: Length, dst: Vec, src: Mem): void {
    this.#check(length);
    this.move16("ld", dst, src);
  }
  vstore(length: Length, dst: Mem, src: Vec): void {
    this.#check(length);
    this.move16("st", src, dst);
  }
  /** Two neighbours become one stnp; there is no such store of a single register. */
  vstream(length: Length, dst: Mem, src: Vec): void {
    this.#check(length);
    this.move16("st", src, dst, true);
  }
  #check(length: Length): void {
    invariant(length === this.vectorBytes, () => `a vector of ${length} bytes on arm64`);
  }
  fence(): void {
    this.asm.dmb("ishst");
  }

  /** A register from 1, 2, 4 or 8 bytes, the rest 0. */
  #load(bytes: ElementBytes, dst: Vec, src: Mem): void {
    const place = this.address(src, logOf[bytes]);
    this.asm.ldrv(sizes[bytes], dst, place);
  }
  #store(bytes: ElementBytes, dst: Mem, src: Vec): void {
    const place = this.address(dst, logOf[bytes]);
    this.asm.strv(sizes[bytes], src, place);
  }
  /** The bytes that are not loaded become 0. */
  vloadPart(dst: Vec, src: Mem, bytes: number): void {
    if (bytes === 16) return this.vload(16, dst, src);
    const whole = wholeOf(bytes);
    this.#load(whole, dst, src);
    const rest = bytes - whole;
    if (rest === 0) return;
    if (rest === wholeOf(rest)) this.#load(rest, through, further(src, whole));
    else {
      // The last bytes overlap those that are there, which are shifted out.
      this.#load(whole, through, further(src, rest));
      this.asm.vshift("ushr", elements[whole], through, through, 8 * (whole - rest));
    }
    this.asm.ins(sizes[whole], dst, 1, through, 0);
  }
  vstorePart(dst: Mem, src: Vec, bytes: number): void {
    if (bytes === 16) return this.vstore(16, dst, src);
    const whole = wholeOf(bytes);
    this.#store(whole, dst, src);
    if (bytes === whole) return;
    this.asm.ext("16b", through, src, src, bytes - whole);
    this.#store(whole, further(dst, bytes - whole), through);
  }
  vrepeat(bytes: 1 | 2 | 4, dst: Vec, src: Mem): void {
    const at = this.pointer(src);
    this.asm.ld1r(elements[bytes], dst, { base: at, offset: 0 });
  }
  vconstant(dst: Vec, bits: number): void {
    if (elementPattern(BigInt(bits), 32) !== undefined) return this.asm.movi("4s", dst, bits);
    this.asm.movImm(w(gp.x17), bits);
    this.asm.dupGp("4s", dst, w(gp.x17));
  }
  vinsert(length: Length, dst: Vec, src: Mem | Vec, lane: number): void {
    invariant(lane === 0, () => `lane ${lane} of a vector of 16 bytes`);
    if (typeof src === "object") this.vload(length, dst, src);
    else this.vmove(dst, src);
  }
  vinterleave(half: "low" | "high", bytes: 1 | 2 | 4 | 8, length: Length, dst: Vec, a: Vec, b: Vec | Mem): void {
    this.#check(length);
    const second = this.#vector(b);
    this.asm.v(half === "low" ? "zip1" : "zip2", elements[bytes], dst, a, second);
  }
  prefetch(level: "t0" | "t1" | "w", address: Mem): void {
    const place = this.address(address, 3);
    this.asm.prfm(prefetches[level], place);
  }

  // ---------------------------------------------------------------------------------------------- vectors of floats

  /** An operand's register; one in memory is loaded. */
  #vector(operand: Vec | Mem): Vec {
    if (typeof operand === "number") return operand;
    this.move16("ld", through, operand);
    return through;
  }
  vzero(dst: Vec): void {
    this.asm.movi("2d", dst, 0);
  }
  vmove(dst: Vec, src: Vec): void {
    if (dst !== src) this.asm.vmov(dst, src);
  }
  vfloat(op: "add" | "sub" | "mul", dst: Vec, a: Vec, b: Vec | Mem, length: Length = this.vectorBytes): void {
    this.#check(length);
    const second = this.#vector(b);
    this.asm.v(floatOps[op], "4s", dst, a, second);
  }
  vbound(op: "max" | "min", dst: Vec, limit: Vec): void {
    this.asm.v(op === "max" ? "fmax" : "fmin", "4s", dst, dst, limit);
  }
  viadd(dst: Vec, a: Vec, b: Vec | Mem, length: Length = this.vectorBytes): void {
    this.#check(length);
    const second = this.#vector(b);
    this.asm.v("add", "4s", dst, a, second);
  }
  fma(acc: Vec, a: Vec, b: Vec | Mem): void {
    const second = this.#vector(b);
    this.asm.v("fmla", "4s", acc, a, second);
  }
  fmaScalar(acc: readonly Vec[], factor: Mem, q: readonly Vec[], temp: Vec): void {
    this.#load(4, temp, factor);
    for (const [i, register] of acc.entries()) this.asm.element("fmla", "4s", register, q[i]!, temp, 0);
  }
  setPart(count: number, mask: 1 | 2): Part | undefined {
    invariant(count >= 1 && count <= this.lanes, () => `${count} lanes of ${this.lanes}`);
    return count === this.lanes ? undefined : { count, mask };
  }
  loadFloats(dst: Vec, src: Mem, storage: Storage, part?: Part): void {
    this.vloadPart(dst, src, (part?.count ?? this.lanes) * storageBytes[storage]);
    if (storage === "fp16") this.asm.v("fcvtl", "4s", dst, dst);
  }
  storeFloats(dst: Mem, src: Vec, storage: Storage, part?: Part): void {
    if (storage === "fp16") this.asm.v("fcvtn", "4h", src, src);
    this.vstorePart(dst, src, (part?.count ?? this.lanes) * storageBytes[storage]);
  }
  repeatFloat(dst: Vec, src: Mem, storage: Storage): void {
    this.vrepeat(storageBytes[storage], dst, src);
    if (storage === "fp16") this.asm.v("fcvtl", "4s", dst, dst);
  }
  loadFloat(dst: Vec, src: Mem, storage: Storage): void {
    this.#load(storageBytes[storage], dst, src);
    if (storage === "fp16") this.asm.fcvt("s", dst, "h", dst);
  }
  storeFloat(dst: Mem, src: Vec): void {
    this.#store(4, dst, src);
  }
  widen(length: Length, dst: Vec, src: Vec | Mem): void {
    this.#check(length);
    if (typeof src === "object") this.loadFloats(dst, src, "fp16");
    else this.asm.v("fcvtl", "4s", dst, src);
  }
  narrow(length: Length, dst: Vec | Mem, src: Vec): void {
    this.#check(length);
    const to = typeof dst === "object" ? through : dst;
    this.asm.v("fcvtn", "4h", to, src);
    if (typeof dst === "object") this.#store(8, dst, to);
  }
  transpose(rows: readonly Vec[], temps: readonly Vec[]): void {
    const [r0, r1, r2, r3] = rows as readonly [Vec, Vec, Vec, Vec];
    const [t0, t1, t2, t3] = temps as readonly [Vec, Vec, Vec, Vec];
    const { asm } = this;
    // Pairs of rows as blocks of 2 × 2, transposed, then the blocks.
    asm.v("trn1", "4s", t0, r0, r1);
    asm.v("trn2", "4s", t1, r0, r1);
    asm.v("trn1", "4s", t2, r2, r3);
    asm.v("trn2", "4s", t3, r2, r3);
    asm.v("trn1", "2d", r0, t0, t2);
    asm.v("trn1", "2d", r1, t1, t3);
    asm.v("trn2", "2d", r2, t0, t2);
    asm.v("trn2", "2d", r3, t1, t3);
  }
  sumLanes(register: Vec): void {
    this.asm.v("faddp", "4s", register, register, register);
    this.asm.pairwise("faddp", "s", register, register);
  }
}
