// An assembler for x86-64: integer control flow, AVX2 + FMA + F16C, AVX-512 (F, BW, VL, DQ). Encodings follow Intel's manual, volume 2;
// x64.test.ts holds every form against bytes made by GNU as.

import { invariant } from "../../../core/errors.ts";
import { Label } from "./label.ts";

export { Label };

/** A general register, by number. */
export type Gp = number & { readonly gp?: never };
/** A vector register (xmm, ymm or zmm by the instruction's length), by number; above 15 only with AVX-512. */
export type Vec = number & { readonly vec?: never };
/** A mask register k0 to k7. */
export type Mask = number & { readonly mask?: never };

export const gp = {
  rax: 0,
  rcx: 1,
  rdx: 2,
  rbx: 3,
  rsp: 4,
  rbp: 5,
  rsi: 6,
  rdi: 7,
  r8: 8,
  r9: 9,
  r10: 10,
  r11: 11,
  r12: 12,
  r13: 13,
  r14: 14,
  r15: 15,
} as const satisfies Record<string, Gp>;

/** [base + index scale + disp], or [rip + label + disp]. */
export interface Mem {
  readonly base?: Gp;
  readonly index?: Gp;
  readonly scale?: 1 | 2 | 4 | 8;
  readonly disp?: number;
  readonly label?: Label;
  /** The index is a vector register (gathers). */
  readonly vectorIndex?: boolean;
}

/** Memory at base + disp, with an optional scaled index. */
export function mem(base: Gp, disp = 0, index?: Gp, scale: 1 | 2 | 4 | 8 = 1): Mem {
  return index === undefined ? { base, disp } : { base, disp, index, scale };
}

/** Vector length in bytes. */
export type Length = 16 | 32 | 64;

const pp = { none: 0, "66": 1, f3: 2, f2: 3 } as const;
const map = { "0f": 1, "0f38": 2, "0f3a": 3, map5: 5, map6: 6 } as const;

/** What one vector instruction's displacement is a multiple of under EVEX's compression: the whole vector, a fraction of it, or one element. */
type Tuple = "full" | "half" | "quarter" | 1 | 2 | 4 | 8 | 16 | 32;

/** A vector instruction: opcode, maps and prefixes. */
export interface VecOp {
  readonly opcode: number;
  readonly map: number;
  readonly pp: number;
  /** W bit under VEX and EVEX. */
  readonly w: number;
  /** W bit under EVEX where it is another. */
  readonly evexW?: number;
  readonly tuple: Tuple;
  /** True for instructions that exist under EVEX only. */
  readonly evexOnly?: boolean;
  /** True for those that EVEX does not have, or has with another meaning: registers 0 to 15, no modifiers. */
  readonly vexOnly?: boolean;
  /** Opcode extension in place of the register field (shifts by an immediate). */
  readonly extension?: number;
}

function vecOp(
  m: keyof typeof map,
  prefix: keyof typeof pp,
  opcode: number,
  rest: Partial<Omit<VecOp, "opcode" | "map" | "pp">> = {},
): VecOp {
  const { w = 0, tuple = "full", ...more } = rest;
  return { opcode, map: map[m], pp: pp[prefix], w, tuple, ...more };
}

/** Vector instructions with the operands dst, [first,] second, where the last may be memory. */
export const vecOps = {
  vaddps: vecOp("0f", "none", 0x58),
  vmulps: vecOp("0f", "none", 0x59),
  vsubps: vecOp("0f", "none", 0x5c),
  vminps: vecOp("0f", "none", 0x5d),
  vdivps: vecOp("0f", "none", 0x5e),
  vmaxps: vecOp("0f", "none", 0x5f),
  vsqrtps: vecOp("0f", "none", 0x51),
  vaddpd: vecOp("0f", "66", 0x58, { evexW: 1 }),
  vmulpd: vecOp("0f", "66", 0x59, { evexW: 1 }),
  vandps: vecOp("0f", "none", 0x54),
  vandnps: vecOp("0f", "none", 0x55),
  vorps: vecOp("0f", "none", 0x56),
  vxorps: vecOp("0f", "none", 0x57),
  vunpcklps: vecOp("0f", "none", 0x14),
  vunpckhps: vecOp("0f", "none", 0x15),
  vunpcklpd: vecOp("0f", "66", 0x14, { evexW: 1 }),
  vunpckhpd: vecOp("0f", "66", 0x15, { evexW: 1 }),
  vcvtdq2ps: vecOp("0f", "none", 0x5b),
  vcvtps2dq: vecOp("0f", "66", 0x5b),
  vcvttps2dq: vecOp("0f", "f3", 0x5b),
  vfmadd132ps: vecOp("0f38", "66", 0x98),
  vfmadd213ps: vecOp("0f38", "66", 0xa8),
  vfmadd231ps: vecOp("0f38", "66", 0xb8),
  vfmsub213ps: vecOp("0f38", "66", 0xaa),
  vfmsub231ps: vecOp("0f38", "66", 0xba),
  vfnmadd132ps: vecOp("0f38", "66", 0x9c),
  vfnmadd213ps: vecOp("0f38", "66", 0xac),
  vfnmadd231ps: vecOp("0f38", "66", 0xbc),
  vpaddd: vecOp("0f", "66", 0xfe),
  vpsubd: vecOp("0f", "66", 0xfa),
  vpmulld: vecOp("0f38", "66", 0x40),
  vpminsd: vecOp("0f38", "66", 0x39),
  vpmaxsd: vecOp("0f38", "66", 0x3d),
  vpabsd: vecOp("0f38", "66", 0x1e),
  vpsllvd: vecOp("0f38", "66", 0x47),
  vpsrlvd: vecOp("0f38", "66", 0x45),
  vpsravd: vecOp("0f38", "66", 0x46),
  vpackusdw: vecOp("0f38", "66", 0x2b),
  vpackuswb: vecOp("0f", "66", 0x67),
  vpackssdw: vecOp("0f", "66", 0x6b),
  vpacksswb: vecOp("0f", "66", 0x63),
  vpcmpeqd: vecOp("0f", "66", 0x76, { vexOnly: true }),
  vpcmpgtd: vecOp("0f", "66", 0x66, { vexOnly: true }),
  vpand: vecOp("0f", "66", 0xdb, { vexOnly: true }),
  vpandn: vecOp("0f", "66", 0xdf, { vexOnly: true }),
  vpor: vecOp("0f", "66", 0xeb, { vexOnly: true }),
  vpxor: vecOp("0f", "66", 0xef, { vexOnly: true }),
  vpandd: vecOp("0f", "66", 0xdb, { evexOnly: true }),
  vpandnd: vecOp("0f", "66", 0xdf, { evexOnly: true }),
  vpord: vecOp("0f", "66", 0xeb, { evexOnly: true }),
  vpxord: vecOp("0f", "66", 0xef, { evexOnly: true }),
  vblendmps: vecOp("0f38", "66", 0x65, { evexOnly: true }),
  vscalefps: vecOp("0f38", "66", 0x2c, { evexOnly: true }),
  vpermps: vecOp("0f38", "66", 0x16),
  vpermd: vecOp("0f38", "66", 0x36),
  vpermi2ps: vecOp("0f38", "66", 0x77, { evexOnly: true }),
  vpermt2ps: vecOp("0f38", "66", 0x7f, { evexOnly: true }),
  // One source.
  vrsqrt14ps: vecOp("0f38", "66", 0x4e, { evexOnly: true }),
  vrcp14ps: vecOp("0f38", "66", 0x4c, { evexOnly: true }),
  vgetexpps: vecOp("0f38", "66", 0x42, { evexOnly: true }),
  vbroadcastss: vecOp("0f38", "66", 0x18, { tuple: 4 }),
  vpbroadcastd: vecOp("0f38", "66", 0x58, { tuple: 4 }),
  vpbroadcastw: vecOp("0f38", "66", 0x79, { tuple: 2 }),
  vpbroadcastb: vecOp("0f38", "66", 0x78, { tuple: 1 }),
  vbroadcastf128: vecOp("0f38", "66", 0x1a, { tuple: 16, vexOnly: true }),
  vcvtph2ps: vecOp("0f38", "66", 0x13, { tuple: "half" }),
  vpmovzxbd: vecOp("0f38", "66", 0x31, { tuple: "quarter" }),
  vpmovzxwd: vecOp("0f38", "66", 0x33, { tuple: "half" }),
  vpmovsxbd: vecOp("0f38", "66", 0x21, { tuple: "quarter" }),
  vpmovsxwd: vecOp("0f38", "66", 0x23, { tuple: "half" }),
  vmovups: vecOp("0f", "none", 0x10),
  vmovdqu32: vecOp("0f", "f3", 0x6f, { evexOnly: true }),
  vmovdqu: vecOp("0f", "f3", 0x6f, { vexOnly: true }),
  vmovdqu16: vecOp("0f", "f2", 0x6f, { w: 1, evexOnly: true }),
  vmovdqu8: vecOp("0f", "f2", 0x6f, { w: 0, evexOnly: true }),
  vmovshdup: vecOp("0f", "f3", 0x16),
  vmovsldup: vecOp("0f", "f3", 0x12),
  // Interleaving.
  vpunpcklbw: vecOp("0f", "66", 0x60),
  vpunpcklwd: vecOp("0f", "66", 0x61),
  vpunpckldq: vecOp("0f", "66", 0x62),
  vpunpcklqdq: vecOp("0f", "66", 0x6c, { evexW: 1 }),
  vpunpckhbw: vecOp("0f", "66", 0x68),
  vpunpckhwd: vecOp("0f", "66", 0x69),
  vpunpckhdq: vecOp("0f", "66", 0x6a),
  vpunpckhqdq: vecOp("0f", "66", 0x6d, { evexW: 1 }),
} as const satisfies Record<string, VecOp>;
export type VecOpName = keyof typeof vecOps;

/** Stores: memory or register, then the source. */
export const storeOps = {
  vmovups: vecOp("0f", "none", 0x11),
  vmovntps: vecOp("0f", "none", 0x2b),
  vmovdqu: vecOp("0f", "f3", 0x7f, { vexOnly: true }),
  vmovdqu32: vecOp("0f", "f3", 0x7f, { evexOnly: true }),
  vmovdqu16: vecOp("0f", "f2", 0x7f, { w: 1, evexOnly: true }),
  vmovdqu8: vecOp("0f", "f2", 0x7f, { evexOnly: true }),
  vpmovdb: vecOp("0f38", "f3", 0x31, { tuple: "quarter", evexOnly: true }),
  vpmovdw: vecOp("0f38", "f3", 0x33, { tuple: "half", evexOnly: true }),
} as const satisfies Record<string, VecOp>;
export type StoreOpName = keyof typeof storeOps;

/** dst, [first,] second or memory, immediate. */
export const immOps = {
  vcmpps: vecOp("0f", "none", 0xc2),
  vshufps: vecOp("0f", "none", 0xc6),
  vpshufd: vecOp("0f", "66", 0x70),
  vblendps: vecOp("0f3a", "66", 0x0c, { vexOnly: true }),
  vroundps: vecOp("0f3a", "66", 0x08, { vexOnly: true }),
  vrndscaleps: vecOp("0f3a", "66", 0x08, { evexOnly: true }),
  vrangeps: vecOp("0f3a", "66", 0x50, { evexOnly: true }),
  vgetmantps: vecOp("0f3a", "66", 0x26, { evexOnly: true }),
  vreduceps: vecOp("0f3a", "66", 0x56, { evexOnly: true }),
  vfpclassps: vecOp("0f3a", "66", 0x66, { evexOnly: true }),
  vperm2f128: vecOp("0f3a", "66", 0x06, { vexOnly: true }),
  vpermilps: vecOp("0f3a", "66", 0x04),
  vpermpd: vecOp("0f3a", "66", 0x01, { w: 1 }),
  vinsertf128: vecOp("0f3a", "66", 0x18, { tuple: 16, vexOnly: true }),
  vinsertf32x4: vecOp("0f3a", "66", 0x18, { tuple: 16, evexOnly: true }),
  vinsertf64x4: vecOp("0f3a", "66", 0x1a, { tuple: 32, w: 1, evexOnly: true }),
  vshuff32x4: vecOp("0f3a", "66", 0x23, { evexOnly: true }),
  vshuff64x2: vecOp("0f3a", "66", 0x23, { w: 1, evexOnly: true }),
  vpternlogd: vecOp("0f3a", "66", 0x25, { evexOnly: true }),
  vpcmpd: vecOp("0f3a", "66", 0x1f, { evexOnly: true }),
  valignd: vecOp("0f3a", "66", 0x03, { evexOnly: true }),
} as const satisfies Record<string, VecOp>;
export type ImmOpName = keyof typeof immOps;

/** Memory or register, source, immediate: what is written is the part of a vector. */
export const extractOps = {
  vcvtps2ph: vecOp("0f3a", "66", 0x1d, { tuple: "half" }),
  vextractf128: vecOp("0f3a", "66", 0x19, { tuple: 16, vexOnly: true }),
  vextractf32x4: vecOp("0f3a", "66", 0x19, { tuple: 16, evexOnly: true }),
  vextractf64x4: vecOp("0f3a", "66", 0x1b, { tuple: 32, w: 1, evexOnly: true }),
} as const satisfies Record<string, VecOp>;
export type ExtractOpName = keyof typeof extractOps;

/** dst, source, count. */
export const shiftOps = {
  vpslld: vecOp("0f", "66", 0x72, { extension: 6 }),
  vpsrld: vecOp("0f", "66", 0x72, { extension: 2 }),
  vpsrad: vecOp("0f", "66", 0x72, { extension: 4 }),
} as const satisfies Record<string, VecOp>;
export type ShiftOpName = keyof typeof shiftOps;

/** Modifiers of an EVEX instruction. */
export interface Evex {
  /** Lanes to write; k0 (absent) writes all. */
  readonly mask?: Mask;
  /** Zeroes the other lanes instead of keeping them. */
  readonly zero?: boolean;
  /** The memory operand is one element for all lanes: 4 bytes, 8 for double precision. */
  readonly broadcast?: boolean;
}

/** Condition codes of jcc, setcc, cmovcc. */
export const cond = { o: 0, b: 2, ae: 3, e: 4, ne: 5, be: 6, a: 7, s: 8, ns: 9, l: 12, ge: 13, le: 14, g: 15 } as const;
export type Cond = keyof typeof cond;

const arithmetic = { add: 0, or: 1, and: 4, sub: 5, xor: 6, cmp: 7 } as const;
export type Arithmetic = keyof typeof arithmetic;
const shifts = { shl: 4, shr: 5, sar: 7 } as const;
const maskOps = { kandw: 0x41, kandnw: 0x42, korw: 0x45, kxnorw: 0x46, kxorw: 0x47 } as const;
export type MaskOp = keyof typeof maskOps;

const isMem = (operand: number | Mem): operand is Mem => typeof operand === "object";
const fitsByte = (value: number) => value >= -128 && value <= 127;

/** Collects code; offsets count from its first byte. */
export class X64 {
  #bytes = new Uint8Array(4096);
  #length = 0;
  readonly #fixups: { readonly at: number; readonly label: Label; readonly end: number; readonly addend: number }[] =
    [];

  /** Bytes so far. */
  get length(): number {
    return this.#length;
  }

  /** The code with every label resolved. */
  finish(): Uint8Array {
    const code = this.#bytes.slice(0, this.#length);
    const view = new DataView(code.buffer);
    for (const { at, label, end, addend } of this.#fixups) {
      invariant(label.at >= 0, () => "a label of generated code is not bound");
      view.setInt32(at, label.at + addend - end, true);
    }
    return code;
  }

  // ------------------------------------------------------------------------------------------------ bytes

  #byte(value: number): void {
    if (this.#length === this.#bytes.length) {
      const grown = new Uint8Array(2 * this.#length);
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    this.#bytes[this.#length++] = value;
  }

  byte(...values: readonly number[]): void {
    for (const value of values) this.#byte(value);
  }

  #dword(value: number): void {
    this.byte(value & 255, (value >>> 8) & 255, (value >>> 16) & 255, (value >>> 24) & 255);
  }

  /** Four bytes of data. */
  dword(value: number): void {
    this.#dword(value);
  }

  /** Pads to a multiple of `boundary` with instructions that do nothing. */
  align(boundary: number): void {
    const nops: readonly (readonly number[])[] = [
      [],
      [0x90],
      [0x66, 0x90],
      [0x0f, 0x1f, 0x00],
      [0x0f, 0x1f, 0x40, 0x00],
      [0x0f, 0x1f, 0x44, 0x00, 0x00],
      [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
      [0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
      [0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    ];
    let missing = (boundary - (this.#length % boundary)) % boundary;
    while (missing > 0) {
      const step = Math.min(8, missing);
      this.byte(...nops[step]!);
      missing -= step;
    }
  }

  /** Binds a label here. */
  bind(label: Label): Label {
    invariant(label.at < 0, () => "a label of generated code is bound twice");
    label.at = this.#length;
    return label;
  }

  /** A new label, bound here. */
  here(): Label {
    return this.bind(new Label());
  }

  /** ModRM, SIB and displacement. `unit` compresses displacements (EVEX); `tail` bytes follow before the next instruction. */
  #operand(reg: number, rm: number | Mem, unit = 1, tail = 0): void {
    const field = (reg & 7) << 3;
    if (!isMem(rm)) return this.#byte(0xc0 | field | (rm & 7));
    const { base, index, scale = 1, disp = 0, label, vectorIndex = false } = rm;
    if (label !== undefined) {
      this.#byte(field | 5);
      this.#fixups.push({ at: this.#length, label, end: this.#length + 4 + tail, addend: disp });
      return this.#dword(0);
    }
    invariant((index !== gp.rsp || vectorIndex) && base !== undefined, () => "no such addressing mode");
    invariant(disp === (disp | 0), () => `displacement ${disp} does not fit 32 bits`);
    const short = disp % unit === 0 && fitsByte(disp / unit);
    const mod = disp === 0 && (base & 7) !== 5 ? 0 : short ? 1 : 2;
    if (index !== undefined || (base & 7) === 4) {
      this.#byte((mod << 6) | field | 4);
      const scaleBits = { 1: 0, 2: 1, 4: 2, 8: 3 }[scale];
      this.#byte((scaleBits << 6) | (((index ?? 4) & 7) << 3) | (base & 7));
    } else this.#byte((mod << 6) | field | (base & 7));
    if (mod === 1) this.#byte((disp / unit) & 255);
    else if (mod === 2) this.#dword(disp);
  }

  /** REX prefix, opcode and operand of an integer instruction. `w`: 64 bits. */
  #rex(
    w: boolean,
    opcode: readonly number[],
    reg: number,
    rm: number | Mem,
    {
      tail = 0,
      byteReg = false,
      byteRm = false,
      prefix = 0,
    }: { tail?: number; byteReg?: boolean; byteRm?: boolean; prefix?: number } = {},
  ): void {
    if (prefix !== 0) this.#byte(prefix);
    const [x, b] = isMem(rm) ? [((rm.index ?? 0) >> 3) & 1, ((rm.base ?? 0) >> 3) & 1] : [0, (rm >> 3) & 1];
    const rex = 0x40 | (w ? 8 : 0) | (((reg >> 3) & 1) << 2) | (x << 1) | b;
    // spl, bpl, sil and dil need a prefix to be named.
    const needed = rex !== 0x40 || (byteReg && reg >= 4) || (byteRm && !isMem(rm) && rm >= 4);
    if (needed) this.#byte(rex);
    this.byte(...opcode);
    this.#operand(reg, rm, 1, tail);
  }

  // ------------------------------------------------------------------------------------------------ integers

  /** dst = src, 64 bits. */
  mov(dst: Gp | Mem, src: Gp | Mem): void {
    if (isMem(src)) this.#rex(true, [0x8b], dst as Gp, src);
    else this.#rex(true, [0x89], src, dst);
  }
  /** 32 bits; a register's upper half becomes 0. */
  mov32(dst: Gp | Mem, src: Gp | Mem): void {
    if (isMem(src)) this.#rex(false, [0x8b], dst as Gp, src);
    else this.#rex(false, [0x89], src, dst);
  }
  mov16(dst: Mem, src: Gp): void {
    this.#rex(false, [0x89], src, dst, { prefix: 0x66 });
  }
  mov8(dst: Mem, src: Gp): void {
    this.#rex(false, [0x88], src, dst, { byteReg: true });
  }
  /** dst = value, the shortest form. */
  movImm(dst: Gp, value: number | bigint): void {
    const big = BigInt(value);
    if (big >= 0n && big <= 0xffffffffn) {
      if (dst >= 8) this.#byte(0x41);
      this.#byte(0xb8 | (dst & 7));
      return this.#dword(Number(big));
    }
    if (big >= -0x80000000n && big < 0n) {
      this.#rex(true, [0xc7], 0, dst, { tail: 4 });
      return this.#dword(Number(big));
    }
    this.byte(0x48 | (dst >> 3), 0xb8 | (dst & 7));
    const bits = BigInt.asUintN(64, big);
    this.#dword(Number(bits & 0xffffffffn));
    this.#dword(Number(bits >> 32n));
  }
  /** 64-bit store of a sign-extended 32-bit number. */
  movMemImm(dst: Mem, value: number): void {
    this.#rex(true, [0xc7], 0, dst, { tail: 4 });
    this.#dword(value);
  }
  movzx8(dst: Gp, src: Gp | Mem): void {
    this.#rex(false, [0x0f, 0xb6], dst, src, { byteRm: true });
  }
  movzx16(dst: Gp, src: Gp | Mem): void {
    this.#rex(false, [0x0f, 0xb7], dst, src);
  }
  /** dst = 32-bit src, sign-extended to 64. */
  movsxd(dst: Gp, src: Gp | Mem): void {
    this.#rex(true, [0x63], dst, src);
  }
  lea(dst: Gp, src: Mem): void {
    this.#rex(true, [0x8d], dst, src);
  }
  /** dst op= src, 64 bits; src may be a sign-extended 32-bit number. */
  alu(op: Arithmetic, dst: Gp | Mem, src: Gp | Mem): void {
    const code = arithmetic[op] << 3;
    if (isMem(src)) this.#rex(true, [code | 3], dst as Gp, src);
    else this.#rex(true, [code | 1], src, dst);
  }
  aluImm(op: Arithmetic, dst: Gp | Mem, value: number): void {
    invariant(value === (value | 0), () => `immediate ${value} does not fit 32 bits`);
    if (fitsByte(value)) {
      this.#rex(true, [0x83], arithmetic[op], dst, { tail: 1 });
      this.#byte(value & 255);
    } else {
      this.#rex(true, [0x81], arithmetic[op], dst, { tail: 4 });
      this.#dword(value);
    }
  }
  /** As `aluImm`, 32 bits. */
  aluImm32(op: Arithmetic, dst: Gp | Mem, value: number): void {
    if (fitsByte(value)) {
      this.#rex(false, [0x83], arithmetic[op], dst, { tail: 1 });
      this.#byte(value & 255);
    } else {
      this.#rex(false, [0x81], arithmetic[op], dst, { tail: 4 });
      this.#dword(value);
    }
  }
  /** As `alu`, 32 bits. */
  alu32(op: Arithmetic, dst: Gp | Mem, src: Gp | Mem): void {
    const code = arithmetic[op] << 3;
    if (isMem(src)) this.#rex(false, [code | 3], dst as Gp, src);
    else this.#rex(false, [code | 1], src, dst);
  }
  imul(dst: Gp, src: Gp | Mem): void {
    this.#rex(true, [0x0f, 0xaf], dst, src);
  }
  imulImm(dst: Gp, src: Gp | Mem, value: number): void {
    invariant(value === (value | 0), () => `immediate ${value} does not fit 32 bits`);
    if (fitsByte(value)) {
      this.#rex(true, [0x6b], dst, src, { tail: 1 });
      this.#byte(value & 255);
    } else {
      this.#rex(true, [0x69], dst, src, { tail: 4 });
      this.#dword(value);
    }
  }
  shift(op: keyof typeof shifts, dst: Gp, count: number): void {
    this.#rex(true, [0xc1], shifts[op], dst, { tail: 1 });
    this.#byte(count);
  }
  /** rax = rdx:rax / src, rdx = remainder, unsigned. */
  div(src: Gp | Mem): void {
    this.#rex(true, [0xf7], 6, src);
  }
  neg(dst: Gp): void {
    this.#rex(true, [0xf7], 3, dst);
  }
  test(a: Gp, b: Gp): void {
    this.#rex(true, [0x85], b, a);
  }
  test32(a: Gp, b: Gp): void {
    this.#rex(false, [0x85], b, a);
  }
  setcc(condition: Cond, dst: Gp): void {
    this.#rex(false, [0x0f, 0x90 | cond[condition]], 0, dst, { byteRm: true });
  }
  cmov(condition: Cond, dst: Gp, src: Gp | Mem): void {
    this.#rex(true, [0x0f, 0x40 | cond[condition]], dst, src);
  }
  /** dst = the low `count` bits of src (BMI2). */
  bzhi(dst: Gp, src: Gp, count: Gp): void {
    this.#vexInteger(0xf5, 0, dst, src, count);
  }
  #vexInteger(opcode: number, prefix: number, reg: Gp, rm: Gp, vvvv: Gp): void {
    this.byte(
      0xc4,
      (((reg >> 3) ^ 1) << 7) | 0x40 | (((rm >> 3) ^ 1) << 5) | 2,
      0x80 | ((~vvvv & 15) << 3) | prefix,
      opcode,
    );
    this.#operand(reg, rm);
  }
  push(src: Gp): void {
    if (src >= 8) this.#byte(0x41);
    this.#byte(0x50 | (src & 7));
  }
  pop(dst: Gp): void {
    if (dst >= 8) this.#byte(0x41);
    this.#byte(0x58 | (dst & 7));
  }

  // ------------------------------------------------------------------------------------------------ control

  jmp(target: Label): void {
    this.#byte(0xe9);
    this.#relative(target);
  }
  jcc(condition: Cond, target: Label): void {
    // A backward jump that fits takes the short form.
    const distance = target.at - (this.#length + 2);
    if (target.at >= 0 && fitsByte(distance)) return this.byte(0x70 | cond[condition], distance & 255);
    this.byte(0x0f, 0x80 | cond[condition]);
    this.#relative(target);
  }
  #relative(target: Label): void {
    this.#fixups.push({ at: this.#length, label: target, end: this.#length + 4, addend: 0 });
    this.#dword(0);
  }
  call(target: Gp | Mem | Label): void {
    if (target instanceof Label) {
      this.#byte(0xe8);
      this.#relative(target);
    } else this.#rex(false, [0xff], 2, target);
  }
  jmpTo(target: Gp | Mem): void {
    this.#rex(false, [0xff], 4, target);
  }
  ret(): void {
    this.#byte(0xc3);
  }
  /** Raises an illegal-instruction fault. */
  ud2(): void {
    this.byte(0x0f, 0x0b);
  }
  syscall(): void {
    this.byte(0x0f, 0x05);
  }
  pause(): void {
    this.byte(0xf3, 0x90);
  }
  mfence(): void {
    this.byte(0x0f, 0xae, 0xf0);
  }
  sfence(): void {
    this.byte(0x0f, 0xae, 0xf8);
  }
  cpuid(): void {
    this.byte(0x0f, 0xa2);
  }
  xgetbv(): void {
    this.byte(0x0f, 0x01, 0xd0);
  }
  rdtsc(): void {
    this.byte(0x0f, 0x31);
  }
  /** Exchanges src and memory's old value, adding; 64 bits, atomic. */
  lockXadd(dst: Mem, src: Gp): void {
    this.#byte(0xf0);
    this.#rex(true, [0x0f, 0xc1], src, dst);
  }
  /** As `alu`, atomic. */
  lockAlu(op: Arithmetic, dst: Mem, src: Gp): void {
    this.#byte(0xf0);
    this.#rex(true, [(arithmetic[op] << 3) | 1], src, dst);
  }
  /** As `alu32`, atomic. */
  lockAlu32(op: Arithmetic, dst: Mem, src: Gp): void {
    this.#byte(0xf0);
    this.#rex(false, [(arithmetic[op] << 3) | 1], src, dst);
  }
  /** As `aluImm32`, atomic. */
  lockAluImm32(op: Arithmetic, dst: Mem, value: number): void {
    this.#byte(0xf0);
    this.aluImm32(op, dst, value);
  }
  /** Atomic exchange, 32 bits. */
  xchg32(dst: Mem, src: Gp): void {
    this.#rex(false, [0x87], src, dst);
  }
  /** Atomic exchange, 64 bits. */
  xchg(dst: Mem, src: Gp): void {
    this.#rex(true, [0x87], src, dst);
  }
  /** If eax equals memory, memory = src, else eax = memory; 32 bits, atomic. */
  lockCmpxchg32(dst: Mem, src: Gp): void {
    this.#byte(0xf0);
    this.#rex(false, [0x0f, 0xb1], src, dst);
  }
  /** Loads the control register of SSE and AVX arithmetic. */
  ldmxcsr(src: Mem): void {
    this.#rex(false, [0x0f, 0xae], 2, src);
  }
  stmxcsr(dst: Mem): void {
    this.#rex(false, [0x0f, 0xae], 3, dst);
  }
  /** "w": to be written (an instruction that does nothing on processors without it). */
  prefetch(level: "t0" | "t1" | "nta" | "w", address: Mem): void {
    if (level === "w") this.#rex(false, [0x0f, 0x0d], 1, address);
    else this.#rex(false, [0x0f, 0x18], { nta: 0, t0: 1, t1: 2 }[level], address);
  }

  // ------------------------------------------------------------------------------------------------ vectors

  vzeroupper(): void {
    this.byte(0xc5, 0xf8, 0x77);
  }

  /** dst = op(first, second); instructions with one source leave `first` out. */
  v(
    op: VecOpName,
    length: Length,
    dst: Vec,
    ...sources: [Vec | Mem] | [Vec, Vec | Mem] | [Vec | Mem, Evex] | [Vec, Vec | Mem, Evex]
  ): void {
    const evex = typeof sources.at(-1) === "object" && !isOperand(sources.at(-1)!) ? (sources.pop() as Evex) : {};
    const [first, second] = sources.length === 2 ? (sources as [Vec, Vec | Mem]) : [undefined, sources[0] as Vec | Mem];
    this.#vector(vecOps[op], length, dst, first, second, evex);
  }
  /** Stores a vector, or moves it between registers. */
  store(op: StoreOpName, length: Length, dst: Mem | Vec, src: Vec, evex: Evex = {}): void {
    this.#vector(storeOps[op], length, src, undefined, dst, evex);
  }
  /** dst = op(first, second, immediate); dst is a mask register where a comparison is encoded under EVEX. */
  vi(
    op: ImmOpName,
    length: Length,
    dst: Vec,
    first: Vec | undefined,
    second: Vec | Mem,
    immediate: number,
    evex: Evex & { readonly toMask?: boolean } = {},
  ): void {
    const { toMask, ...rest } = evex;
    this.#vector(immOps[op], length, dst, first, second, rest, immediate, toMask);
  }
  /** Stores part of a vector. */
  extract(op: ExtractOpName, length: Length, dst: Mem | Vec, src: Vec, immediate: number, evex: Evex = {}): void {
    this.#vector(extractOps[op], length, src, undefined, dst, evex, immediate);
  }
  vshift(op: ShiftOpName, length: Length, dst: Vec, src: Vec, count: number, evex: Evex = {}): void {
    const record: VecOp = shiftOps[op];
    this.#vector(record, length, record.extension!, dst, src, evex, count);
  }
  /** Lanes of a where the sign bit of mask is clear, else of b (AVX2). */
  vblendvps(length: 16 | 32, dst: Vec, a: Vec, b: Vec | Mem, mask: Vec): void {
    this.#vector(vecOp("0f3a", "66", 0x4a, { vexOnly: true }), length, dst, a, b, {}, mask << 4);
  }
  /** Loads the 4-byte lanes whose mask sign bit is set (AVX2). */
  vmaskmovLoad(length: 16 | 32, dst: Vec, mask: Vec, src: Mem): void {
    this.#vector(vecOp("0f38", "66", 0x2c, { vexOnly: true }), length, dst, mask, src, {});
  }
  vmaskmovStore(length: 16 | 32, dst: Mem, mask: Vec, src: Vec): void {
    this.#vector(vecOp("0f38", "66", 0x2e, { vexOnly: true }), length, src, mask, dst, {});
  }
  /** Sign bits of 4-byte lanes into a general register. */
  vmovmskps(length: 16 | 32, dst: Gp, src: Vec): void {
    this.#vector(vecOp("0f", "none", 0x50, { vexOnly: true }), length, dst, undefined, src, {});
  }
  /** Sets flags: zero if a and b share no bit. */
  vptest(length: 16 | 32, a: Vec, b: Vec): void {
    this.#vector(vecOp("0f38", "66", 0x17, { vexOnly: true }), length, a, undefined, b, {});
  }
  /** One fp32, upper lanes 0. */
  vmovssLoad(dst: Vec, src: Mem): void {
    this.#vector(vecOp("0f", "f3", 0x10, { tuple: 4 }), 16, dst, undefined, src, {});
  }
  vmovssStore(dst: Mem, src: Vec): void {
    this.#vector(vecOp("0f", "f3", 0x11, { tuple: 4 }), 16, src, undefined, dst, {});
  }
  /** 32 bits from a general register or memory, upper lanes 0. */
  vmovdLoad(dst: Vec, src: Gp | Mem): void {
    this.#vector(vecOp("0f", "66", 0x6e, { tuple: 4 }), 16, dst, undefined, src, {});
  }
  vmovdStore(dst: Gp | Mem, src: Vec): void {
    this.#vector(vecOp("0f", "66", 0x7e, { tuple: 4 }), 16, src, undefined, dst, {});
  }
  /** 64 bits from memory, upper lanes 0; registers 0 to 15. */
  vmovqLoad(dst: Vec, src: Mem): void {
    this.#vector(vecOp("0f", "f3", 0x7e, { vexOnly: true }), 16, dst, undefined, src, {});
  }
  vmovqStore(dst: Mem, src: Vec): void {
    this.#vector(vecOp("0f", "66", 0xd6, { vexOnly: true }), 16, src, undefined, dst, {});
  }
  vpinsrd(dst: Vec, first: Vec, src: Gp | Mem, lane: number): void {
    this.#vector(vecOp("0f3a", "66", 0x22, { tuple: 4 }), 16, dst, first, src, {}, lane);
  }
  vpinsrw(dst: Vec, first: Vec, src: Gp | Mem, lane: number): void {
    this.#vector(vecOp("0f", "66", 0xc4, { tuple: 2 }), 16, dst, first, src, {}, lane);
  }
  vpinsrb(dst: Vec, first: Vec, src: Gp | Mem, lane: number): void {
    this.#vector(vecOp("0f3a", "66", 0x20, { tuple: 1 }), 16, dst, first, src, {}, lane);
  }
  vpextrd(dst: Mem, src: Vec, lane: number): void {
    this.#vector(vecOp("0f3a", "66", 0x16, { tuple: 4 }), 16, src, undefined, dst, {}, lane);
  }
  vpextrw(dst: Mem, src: Vec, lane: number): void {
    this.#vector(vecOp("0f3a", "66", 0x15, { tuple: 2 }), 16, src, undefined, dst, {}, lane);
  }
  vpextrb(dst: Mem, src: Vec, lane: number): void {
    this.#vector(vecOp("0f3a", "66", 0x14, { tuple: 1 }), 16, src, undefined, dst, {}, lane);
  }
  /** All lanes = a general register (AVX-512). */
  vpbroadcastGp(length: Length, dst: Vec, src: Gp): void {
    this.#vector(vecOp("0f38", "66", 0x7c, { evexOnly: true }), length, dst, undefined, src, {});
  }
  /** dst lanes = memory at base + lane of index × scale, for lanes of the mask, which is cleared (AVX-512). */
  gather(length: Length, dst: Vec, base: Gp, index: Vec, scale: 1 | 2 | 4 | 8, mask: Mask): void {
    const address = { base, index: index & 15, scale, vectorIndex: true };
    this.#vector(vecOp("0f38", "66", 0x92, { tuple: 4, evexOnly: true }), length, dst, index & 16, address, { mask });
  }
  /** The same with a vector mask (AVX2). */
  gatherVex(length: 16 | 32, dst: Vec, base: Gp, index: Vec, scale: 1 | 2 | 4 | 8, mask: Vec): void {
    const op = vecOp("0f38", "66", 0x92, { vexOnly: true });
    this.#vector(op, length, dst, mask, { base, index, scale, vectorIndex: true }, {});
  }

  // Mask registers.
  /** k = low 16 bits of a general register. */
  kmovw(dst: Mask, src: Gp): void {
    this.#vex(16, { opcode: 0x92, map: 1, pp: 0, w: 0, tuple: "full" }, dst, undefined, src);
  }
  /** General register = k, 16 bits zero-extended. */
  kmovwToGp(dst: Gp, src: Mask): void {
    this.#vex(16, { opcode: 0x93, map: 1, pp: 0, w: 0, tuple: "full" }, dst, undefined, src);
  }
  kop(op: MaskOp, dst: Mask, a: Mask, b: Mask): void {
    this.#vex(32, { opcode: maskOps[op], map: 1, pp: 0, w: 0, tuple: "full" }, dst, a, b);
  }
  knotw(dst: Mask, src: Mask): void {
    this.#vex(16, { opcode: 0x44, map: 1, pp: 0, w: 0, tuple: "full" }, dst, undefined, src);
  }
  /** Sets flags: zero if both are 0. */
  kortestw(a: Mask, b: Mask): void {
    this.#vex(16, { opcode: 0x98, map: 1, pp: 0, w: 0, tuple: "full" }, a, undefined, b);
  }
  /** Lanes of all ones where the mask is set (AVX-512 DQ). */
  vpmovm2d(length: Length, dst: Vec, src: Mask): void {
    this.#vector(vecOp("0f38", "f3", 0x38, { evexOnly: true }), length, dst, undefined, src, {});
  }

  #vector(
    op: VecOp,
    length: Length,
    reg: number,
    vvvv: number | undefined,
    rm: number | Mem,
    evex: Evex,
    immediate?: number,
    toMask = false,
  ): void {
    const high = reg > 15 || (vvvv ?? 0) > 15 || (!isMem(rm) && rm > 15);
    const modified = evex.mask !== undefined || evex.broadcast === true;
    const tail = immediate === undefined ? 0 : 1;
    const extended = op.evexOnly || high || modified || length === 64 || toMask;
    invariant(!(extended && op.vexOnly), () => `opcode ${op.opcode} takes no upper register, mask or broadcast`);
    invariant(!evex.zero || (evex.mask ?? 0) > 0, () => "zeroing needs a mask");
    if (extended) this.#evex(length, op, reg, vvvv, rm, evex, tail);
    else this.#vex(length, op, reg, vvvv, rm, tail);
    if (immediate !== undefined) this.#byte(immediate);
  }

  #vex(length: Length, op: VecOp, reg: number, vvvv: number | undefined, rm: number | Mem, tail = 0): void {
    const [x, b] = isMem(rm) ? [((rm.index ?? 0) >> 3) & 1, ((rm.base ?? 0) >> 3) & 1] : [0, (rm >> 3) & 1];
    const r = ((reg >> 3) & 1) ^ 1;
    const last = ((~(vvvv ?? 0) & 15) << 3) | (length === 32 ? 4 : 0) | op.pp;
    if (x === 0 && b === 0 && op.map === 1 && op.w === 0) this.byte(0xc5, (r << 7) | last);
    else this.byte(0xc4, (r << 7) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | op.map, (op.w << 7) | last);
    this.#byte(op.opcode);
    this.#operand(reg, rm, 1, tail);
  }

  #evex(
    length: Length,
    op: VecOp,
    reg: number,
    vvvv: number | undefined,
    rm: number | Mem,
    { mask = 0, zero = false, broadcast = false }: Evex,
    tail: number,
  ): void {
    const memory = isMem(rm);
    const x = memory ? ((rm.index ?? 0) >> 3) & 1 : (rm >> 4) & 1;
    const b = memory ? ((rm.base ?? 0) >> 3) & 1 : (rm >> 3) & 1;
    const v = vvvv ?? 0;
    const w = op.evexW ?? op.w;
    this.byte(
      0x62,
      ((((reg >> 3) & 1) ^ 1) << 7) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | ((((reg >> 4) & 1) ^ 1) << 4) | op.map,
      (w << 7) | ((~v & 15) << 3) | 4 | op.pp,
      (zero ? 0x80 : 0) |
        ({ 16: 0, 32: 1, 64: 2 }[length] << 5) |
        (broadcast ? 0x10 : 0) |
        ((((v >> 4) & 1) ^ 1) << 3) |
        mask,
      op.opcode,
    );
    const unit = broadcast ? (w === 1 ? 8 : 4) : tupleBytes(op.tuple, length);
    this.#operand(reg, rm, unit, tail);
  }
}

function isOperand(value: Vec | Mem | Evex): boolean {
  return typeof value === "number" || "base" in value || "label" in value;
}

function tupleBytes(tuple: Tuple, length: Length): number {
  if (tuple === "full") return length;
  if (tuple === "half") return length / 2;
  if (tuple === "quarter") return length / 4;
  return tuple;
}
