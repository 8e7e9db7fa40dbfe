// The portable instructions on x86-64, with AVX2 or AVX-512.

import { invariant } from "../../../core/errors.ts";
import {
  at,
  type CArgument,
  type Code,
  type Gp,
  gp,
  type Length,
  type Mem,
  mem,
  type Part,
  type Storage,
  type Vec,
  vectorLengths,
} from "../code.ts";
import { floatBits } from "../expression.ts";
import { placeArguments } from "./c-arguments.ts";
import type { Isa } from "./features.ts";
import { Label, X64, type Mem as X64Mem } from "./x64.ts";

const { r0, r1, r2, r3, r4, r5, r6, r7, sp, r10, r11, r12, r13, r14 } = gp;
/** Where C functions take integers and pointers: rdi, rsi, rdx, rcx, r8, r9. */
const argumentRegisters = [r5, r4, r2, r1, r6, r7];
/** What functions called from C give back as they found it. */
const saved = [r3, r14, r10, r11, r12, r13];

/** Round to nearest even, no flush to zero, all exceptions masked: MXCSR. */
const defaultRounding = 0x1f80;
/** Rounding mode of VCVTPS2PH. */
const nearestEven = 0;

const floatOps = { add: "vaddps", sub: "vsubps", mul: "vmulps" } as const;
const interleaveOps = {
  low: { 1: "vpunpcklbw", 2: "vpunpcklwd", 4: "vpunpckldq", 8: "vpunpcklqdq" },
  high: { 1: "vpunpckhbw", 2: "vpunpckhwd", 4: "vpunpckhdq", 8: "vpunpckhqdq" },
} as const;
const repeatOps = { 1: "vpbroadcastb", 2: "vpbroadcastw", 4: "vpbroadcastd" } as const;

/** The powers of two that make up so many bytes, the largest first: each begins at a multiple of itself. */
function piecesOf(bytes: number): { readonly size: number; readonly start: number }[] {
  const sizes = [8, 4, 2, 1].filter((size) => (bytes & size) !== 0);
  return sizes.map((size) => ({ size, start: bytes & ~(2 * size - 1) }));
}

export class X64Code extends X64 implements Code {
  readonly isa: Exclude<Isa, "neon">;
  readonly vectorBytes: 32 | 64;
  readonly lanes: number;
  readonly registers: number;
  readonly callBytes = 8;
  /** AVX-512: mask registers instead of vectors as masks. */
  readonly #wide: boolean;
  /** Eight lanes of ones, then eight of zeros, where they are used: AVX2 takes masks of any number of lanes from there. */
  #masks: Label | undefined;

  constructor(isa: Exclude<Isa, "neon">) {
    super();
    this.isa = isa;
    this.vectorBytes = vectorLengths[isa];
    this.lanes = this.vectorBytes / 4;
    this.#wide = isa === "avx512";
    this.registers = this.#wide ? 32 : 16;
  }

  override finish(): Uint8Array {
    if (this.#masks !== undefined && this.#masks.at < 0) {
      this.bind(this.#masks);
      for (let lane = 0; lane < 16; lane++) this.dword(lane < 8 ? -1 : 0);
    }
    return super.finish();
  }

  // ------------------------------------------------------------------------------------------------ integers and control

  zero(dst: Gp): void {
    this.alu32("xor", dst, dst);
  }
  divide(value: Gp, by: number): void {
    invariant(value !== r1 && value !== r2, () => "a division in its own registers");
    if (value !== r0) this.mov(r0, value);
    this.zero(r2);
    this.movImm(r1, by);
    this.div(r1);
    if (value !== r0) this.mov(value, r0);
  }
  enter(bytes: number): void {
    this.aluImm("sub", sp, bytes);
  }
  leave(bytes: number): void {
    this.aluImm("add", sp, bytes);
  }
  /** The frame, with the caller's rounding above it; with the registers saved and the return address a multiple of 16. */
  #frame(bytes: number): number {
    return 16 * Math.ceil(bytes / 16) + 8;
  }
  enterFromC(bytes: number): void {
    for (const register of saved) this.push(register);
    const frame = this.#frame(bytes);
    this.aluImm("sub", sp, frame);
    this.stmxcsr({ base: sp, disp: frame - 8 });
  }
  leaveToC(bytes: number): void {
    const frame = this.#frame(bytes);
    this.vzeroupper();
    this.ldmxcsr({ base: sp, disp: frame - 8 });
    this.aluImm("add", sp, frame);
    for (const register of saved.toReversed()) this.pop(register);
  }
  callC(address: number, args?: readonly CArgument[]): void {
    const { places, stackBytes } = placeArguments(args ?? [], argumentRegisters);
    if (args !== undefined) {
      // C wants sp to be a multiple of 16; kernels do not know what it is.
      this.mov(r0, sp);
      this.aluImm("sub", sp, stackBytes + 8);
      this.aluImm("and", sp, -16);
      this.mov(mem(sp, stackBytes), r0);
    }
    for (const { argument, register, stack } of places) {
      if ("pointer" in argument) this.mov(register ?? mem(sp, stack), argument.pointer);
      else if ("float" in argument) {
        this.movImm(r0, floatBits(argument.float));
        this.vmovdLoad(register!, r0);
      } else if (register !== undefined) this.movImm(register, argument.int);
      else this.movMemImm(mem(sp, stack), argument.int);
    }
    this.movImm(r0, address);
    this.call(r0);
    if (args !== undefined) this.mov(sp, mem(sp, stackBytes));
  }
  setRounding(): void {
    // 128 bytes below the stack pointer belong to the running function.
    const word = { base: sp, disp: -8 };
    this.movImm(r0, defaultRounding);
    this.mov32(word, r0);
    this.ldmxcsr(word);
  }
  endVectors(): void {
    this.vzeroupper();
  }
  ticks(): void {
    this.rdtsc();
    this.shift("shl", r2, 32);
    this.alu("or", r0, r2);
  }

  // ------------------------------------------------------------------------------------------------ memory that threads share

  lockAdd32(dst: Mem, src: Gp): void {
    this.lockAlu32("add", dst, src);
  }
  lockAddImm32(dst: Mem, value: number): void {
    this.lockAluImm32("add", dst, value);
  }
  // No load overtakes another one, and no store a load before it.
  acquire(dst: Gp, src: Mem): void {
    this.mov(dst, src);
  }
  acquire32(dst: Gp, src: Mem): void {
    this.mov32(dst, src);
  }

  // ------------------------------------------------------------------------------------------------ vectors of bytes

  vload(length: Length, dst: Vec, src: Mem): void {
    this.v("vmovups", length, dst, src);
  }
  vstore(length: Length, dst: Mem, src: Vec): void {
    this.store("vmovups", length, dst, src);
  }
  vstream(length: Length, dst: Mem, src: Vec): void {
    this.store("vmovntps", length, dst, src);
  }
  fence(): void {
    this.sfence();
  }
  vloadPart(dst: Vec, src: Mem, bytes: number): void {
    if (bytes >= 16) return this.vload(16, dst, src);
    if (bytes < 4) this.v("vpxor", 16, dst, dst, dst);
    for (const { size, start } of piecesOf(bytes)) {
      const from = at(src, start);
      if (size === 8) this.vmovqLoad(dst, from);
      else if (size === 4 && start === 0) this.vmovdLoad(dst, from);
      else if (size === 4) this.vpinsrd(dst, dst, from, start / 4);
      else if (size === 2) this.vpinsrw(dst, dst, from, start / 2);
      else this.vpinsrb(dst, dst, from, start);
    }
  }
  vstorePart(dst: Mem, src: Vec, bytes: number): void {
    if (bytes >= 16) return this.vstore(16, dst, src);
    for (const { size, start } of piecesOf(bytes)) {
      const to = at(dst, start);
      if (size === 8) this.vmovqStore(to, src);
      else if (size === 4 && start === 0) this.vmovdStore(to, src);
      else if (size === 4) this.vpextrd(to, src, start / 4);
      else if (size === 2) this.vpextrw(to, src, start / 2);
      else this.vpextrb(to, src, start);
    }
  }
  vrepeat(bytes: 1 | 2 | 4, dst: Vec, src: Mem): void {
    this.v(repeatOps[bytes], this.vectorBytes, dst, src);
  }
  vconstant(dst: Vec, bits: number): void {
    this.movImm(r0, bits >>> 0);
    this.vmovdLoad(dst, r0);
    this.v("vbroadcastss", this.vectorBytes, dst, dst);
  }
  vinsert(length: Length, dst: Vec, src: Mem | Vec, lane: number): void {
    if (length === 64) this.vi("vinsertf32x4", 64, dst, dst, src, lane);
    else this.vi("vinsertf128", 32, dst, dst, src, lane);
  }
  vinterleave(half: "low" | "high", bytes: 1 | 2 | 4 | 8, length: Length, dst: Vec, a: Vec, b: Vec | Mem): void {
    this.v(interleaveOps[half][bytes], length, dst, a, b);
  }

  // ------------------------------------------------------------------------------------------------ vectors of floats

  vzero(dst: Vec): void {
    this.v("vxorps", this.vectorBytes, dst, dst, dst);
  }
  vmove(dst: Vec, src: Vec): void {
    if (dst !== src) this.v("vmovups", this.vectorBytes, dst, src);
  }
  vfloat(op: "add" | "sub" | "mul", dst: Vec, a: Vec, b: Vec | Mem, length: Length = this.vectorBytes): void {
    this.v(floatOps[op], length, dst, a, b);
  }
  vbound(op: "max" | "min", dst: Vec, limit: Vec): void {
    // Where there is no order, the result is the second operand.
    this.v(op === "max" ? "vmaxps" : "vminps", this.vectorBytes, dst, limit, dst);
  }
  viadd(dst: Vec, a: Vec, b: Vec | Mem, length: Length = this.vectorBytes): void {
    this.v("vpaddd", length, dst, a, b);
  }
  fma(acc: Vec, a: Vec, b: Vec | Mem): void {
    this.v("vfmadd231ps", this.vectorBytes, acc, a, b);
  }
  fmaScalar(acc: readonly Vec[], factor: Mem, q: readonly Vec[], temp: Vec): void {
    this.v("vbroadcastss", this.vectorBytes, temp, factor);
    for (const [i, register] of acc.entries()) this.fma(register, temp, q[i]!);
  }
  setPart(count: number, mask: 1 | 2): Part | undefined {
    invariant(count >= 1 && count <= this.lanes, () => `${count} lanes of ${this.lanes}`);
    if (count === this.lanes) return undefined;
    if (this.#wide) {
      this.movImm(r0, 2 ** count - 1);
      this.kmovw(mask, r0);
    }
    return { count, mask };
  }
  #maskVector(count: number): X64Mem {
    this.#masks ??= new Label();
    return { label: this.#masks, disp: (8 - count) * 4 };
  }
  loadFloats(dst: Vec, src: Mem, storage: Storage, part?: Part): void {
    const length = this.vectorBytes;
    const op = storage === "fp16" ? "vcvtph2ps" : "vmovups";
    if (part === undefined) this.v(op, length, dst, src);
    else if (this.#wide) this.v(op, length, dst, src, { mask: part.mask, zero: true });
    else if (storage === "fp32") {
      this.v("vmovups", length, dst, this.#maskVector(part.count));
      this.vmaskmovLoad(32, dst, dst, src);
    } else {
      this.v("vxorps", 16, dst, dst, dst);
      for (let lane = 0; lane < part.count; lane++) this.vpinsrw(dst, dst, at(src, 2 * lane), lane);
      this.v("vcvtph2ps", length, dst, dst);
    }
  }
  storeFloats(dst: Mem, src: Vec, storage: Storage, part?: Part, temp?: Vec): void {
    const length = this.vectorBytes;
    const evex = part !== undefined && this.#wide ? { mask: part.mask } : {};
    if (part === undefined || this.#wide) {
      if (storage === "fp16") this.extract("vcvtps2ph", length, dst, src, nearestEven, evex);
      else this.store("vmovups", length, dst, src, evex);
    } else if (storage === "fp32") {
      this.v("vmovups", length, temp!, this.#maskVector(part.count));
      this.vmaskmovStore(32, dst, temp!, src);
    } else {
      this.extract("vcvtps2ph", length, src, src, nearestEven);
      for (let lane = 0; lane < part.count; lane++) this.vpextrw(at(dst, 2 * lane), src, lane);
    }
  }
  repeatFloat(dst: Vec, src: Mem, storage: Storage): void {
    if (storage === "fp32") return this.v("vbroadcastss", this.vectorBytes, dst, src);
    this.v("vpbroadcastw", this.#wide ? 32 : 16, dst, src);
    this.v("vcvtph2ps", this.vectorBytes, dst, dst);
  }
  loadFloat(dst: Vec, src: Mem, storage: Storage): void {
    if (storage === "fp32") return this.vmovssLoad(dst, src);
    this.v("vxorps", 16, dst, dst, dst);
    this.vpinsrw(dst, dst, src, 0);
    this.v("vcvtph2ps", 16, dst, dst);
  }
  storeFloat(dst: Mem, src: Vec): void {
    this.vmovssStore(dst, src);
  }
  widen(length: Length, dst: Vec, src: Vec | Mem): void {
    this.v("vcvtph2ps", length, dst, src);
  }
  narrow(length: Length, dst: Vec | Mem, src: Vec): void {
    this.extract("vcvtps2ph", length, dst, src, nearestEven);
  }

  transpose(rows: readonly Vec[], temps: readonly Vec[]): void {
    const { vectorBytes: length, lanes } = this;
    for (let i = 0; i < lanes; i += 2) {
      this.v("vunpcklps", length, temps[i]!, rows[i]!, rows[i + 1]!);
      this.v("vunpckhps", length, temps[i + 1]!, rows[i]!, rows[i + 1]!);
    }
    // Within every 128-bit lane: columns 4l + j of rows i … i + 3.
    for (let i = 0; i < lanes; i += 4) {
      for (let j = 0; j < 2; j++) {
        this.v("vunpcklpd", length, rows[i + 2 * j]!, temps[i + j]!, temps[i + 2 + j]!);
        this.v("vunpckhpd", length, rows[i + 2 * j + 1]!, temps[i + j]!, temps[i + 2 + j]!);
      }
    }
    if (lanes === 8) {
      for (let j = 0; j < 4; j++) {
        this.vi("vperm2f128", 32, temps[j]!, rows[j]!, rows[j + 4]!, 0x20);
        this.vi("vperm2f128", 32, temps[j + 4]!, rows[j]!, rows[j + 4]!, 0x31);
      }
      for (let j = 0; j < 8; j++) this.vmove(rows[j]!, temps[j]!);
      return;
    }
    for (let j = 0; j < 4; j++) {
      const [r0, r4, r8, r12] = [rows[j]!, rows[j + 4]!, rows[j + 8]!, rows[j + 12]!];
      const [t0, t4, t8, t12] = [temps[j]!, temps[j + 4]!, temps[j + 8]!, temps[j + 12]!];
      this.vi("vshuff32x4", 64, t0, r0, r4, 0x88); // lanes 0, 2 of both
      this.vi("vshuff32x4", 64, t4, r0, r4, 0xdd); // lanes 1, 3
      this.vi("vshuff32x4", 64, t8, r8, r12, 0x88);
      this.vi("vshuff32x4", 64, t12, r8, r12, 0xdd);
      this.vi("vshuff32x4", 64, r0, t0, t8, 0x88); // column j
      this.vi("vshuff32x4", 64, r8, t0, t8, 0xdd); // column j + 8
      this.vi("vshuff32x4", 64, r4, t4, t12, 0x88); // column j + 4
      this.vi("vshuff32x4", 64, r12, t4, t12, 0xdd); // column j + 12
    }
  }

  sumLanes(register: Vec, temp: Vec): void {
    if (this.#wide) {
      this.extract("vextractf64x4", 64, temp, register, 1);
      this.v("vaddps", 32, register, register, temp);
    }
    this.extract(this.#wide ? "vextractf32x4" : "vextractf128", 32, temp, register, 1);
    this.v("vaddps", 16, register, register, temp);
    this.vi("vpermilps", 16, temp, undefined, register, 0b1110);
    this.v("vaddps", 16, register, register, temp);
    this.v("vmovshdup", 16, temp, register);
    this.v("vaddps", 16, register, register, temp);
  }
}
