// Tables of A64's instructions on general registers, memory and the processor itself; those on vectors are in arm64-vector.ts.

import type { ShiftKind } from "./arm64-operands.ts";

/** Precision of scalar floating point. */
export type Precision = "h" | "s" | "d";
export const precisions = { s: 0, d: 1, h: 3 } as const satisfies Record<Precision, number>;
/** Size of a vector register's access. */
export type VecSize = "b" | "h" | "s" | "d" | "q";
export const vecSizes = { b: 0, h: 1, s: 2, d: 3, q: 4 } as const satisfies Record<VecSize, number>;

/** Atomic operations on memory (LSE); `swp` stores the operand. */
export const atomicOps = {
  ldadd: 0x0000,
  ldclr: 0x1000,
  ldeor: 0x2000,
  ldset: 0x3000,
  ldsmax: 0x4000,
  ldsmin: 0x5000,
  ldumax: 0x6000,
  ldumin: 0x7000,
  swp: 0x8000,
} as const;
export type AtomicOp = keyof typeof atomicOps;
/** Acquire, release, both, or neither. */
export type Order = "" | "a" | "l" | "al";
export const orders = { "": 0, l: 1, a: 2, al: 3 } as const satisfies Record<Order, number>;

export const prefetches = {
  pldl1keep: 0,
  pldl1strm: 1,
  pldl2keep: 2,
  pldl2strm: 3,
  pldl3keep: 4,
  pldl3strm: 5,
  pstl1keep: 16,
  pstl1strm: 17,
  pstl2keep: 18,
  pstl2strm: 19,
  pstl3keep: 20,
  pstl3strm: 21,
} as const;
export type Prefetch = keyof typeof prefetches;

export const barriers = { ish: 11, ishst: 10, ishld: 9, sy: 15, st: 14, ld: 13 } as const;
export type Barrier = keyof typeof barriers;

/** System registers that programs may read. */
export const systemRegisters = {
  cntvct_el0: 0xd53be040,
  cntfrq_el0: 0xd53be000,
  fpcr: 0xd53b4400,
  fpsr: 0xd53b4420,
} as const;
export type SystemRegister = keyof typeof systemRegisters;

/** Sums, and logical operations on the second operand or its complement: the register forms. */
export const sums = { add: 0x0b000000, adds: 0x2b000000, sub: 0x4b000000, subs: 0x6b000000 } as const;
export const logicals = {
  and: 0x0a000000,
  bic: 0x0a200000,
  orr: 0x2a000000,
  orn: 0x2a200000,
  eor: 0x4a000000,
  eon: 0x4a200000,
  ands: 0x6a000000,
  bics: 0x6a200000,
} as const;
export const logicalImmediates = { and: 0x12000000, orr: 0x32000000, eor: 0x52000000, ands: 0x72000000 } as const;
export const binaries = {
  udiv: 0x1ac00800,
  sdiv: 0x1ac00c00,
  lsl: 0x1ac02000,
  lsr: 0x1ac02400,
  asr: 0x1ac02800,
  ror: 0x1ac02c00,
} as const;
/** Products of 64 bits, the upper half or of lower halves. */
export const products = { smulh: 0x9b407c00, umulh: 0x9bc07c00 } as const;
export const longProducts = { smull: 0x9b207c00, umull: 0x9ba07c00 } as const;
/** dst = a op b. */
export const aluOps = { ...sums, ...logicals, ...binaries, ...products, ...longProducts } as const;
export type AluOp = keyof typeof aluOps;
export type AluImmediateOp = keyof typeof sums | keyof typeof logicalImmediates | ShiftKind;

/** One operand; `rev` of 64 bits has an opcode of its own. */
export const unaryOps = {
  rbit: 0x5ac00000,
  rev16: 0x5ac00400,
  rev32: 0xdac00800,
  rev: 0x5ac00800,
  clz: 0x5ac01000,
  cls: 0x5ac01400,
} as const;
export type UnaryOp = keyof typeof unaryOps;

/** Fields of `width` bits at bit `lsb`: taken from the source (x) or put into the result (i), where the other bits are zeros, signs or kept. */
export const fieldOps = {
  ubfx: { base: 0x53000000, insert: false },
  sbfx: { base: 0x13000000, insert: false },
  bfxil: { base: 0x33000000, insert: false },
  ubfiz: { base: 0x53000000, insert: true },
  sbfiz: { base: 0x13000000, insert: true },
  bfi: { base: 0x33000000, insert: true },
} as const;
export type FieldOp = keyof typeof fieldOps;

/** dst = condition ? a : b, where b may be incremented, complemented or negated. */
export const selectOps = { csel: 0x1a800000, csinc: 0x1a800400, csinv: 0x5a800000, csneg: 0x5a800400 } as const;
export type SelectOp = keyof typeof selectOps;

export type PairOp = "ldp" | "stp" | "ldnp" | "stnp";

/** By elements of a structure, then by registers. */
export const structureOpcodes: Readonly<Record<"1" | "2" | "3" | "4", Readonly<Record<number, number>>>> = {
  1: { 1: 0b0111, 2: 0b1010, 3: 0b0110, 4: 0b0010 },
  2: { 2: 0b1000 },
  3: { 3: 0b0100 },
  4: { 4: 0b0000 },
};
export type StructureOp = "ld1" | "ld2" | "ld3" | "ld4" | "st1" | "st2" | "st3" | "st4";

/** Of two neighbouring elements one. */
export const pairwiseOps = {
  faddp: 0x1e30d800,
  fmaxp: 0x1e30f800,
  fminp: 0x1eb0f800,
  fmaxnmp: 0x1e30c800,
  fminnmp: 0x1eb0c800,
} as const;
export type PairwiseOp = keyof typeof pairwiseOps;
