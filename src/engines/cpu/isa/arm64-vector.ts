// Tables of A64's vector instructions (NEON with half precision, products that widen, dot products) and how they are encoded.

import { invariant } from "../../../core/errors.ts";

/** Lanes of a vector operand: number and size (b 8, h 16, s 32, d 64 bits). */
export const arrangements = {
  "8b": { q: 0, size: 0 },
  "16b": { q: 1, size: 0 },
  "4h": { q: 0, size: 1 },
  "8h": { q: 1, size: 1 },
  "2s": { q: 0, size: 2 },
  "4s": { q: 1, size: 2 },
  "1d": { q: 0, size: 3 },
  "2d": { q: 1, size: 3 },
} as const satisfies Record<string, { q: 0 | 1; size: 0 | 1 | 2 | 3 }>;
export type Arrangement = keyof typeof arrangements;

/** Sizes of one element, by the logarithm of its bytes. */
export const elementSizes = { b: 0, h: 1, s: 2, d: 3 } as const;
export type ElementSize = keyof typeof elementSizes;

/** A vector instruction. */
export interface VecOp {
  /** The instruction without length, size and registers. */
  readonly base: number;
  /** The same for half precision, where that is another encoding. */
  readonly half?: number;
  /** What the arrangement's size is reduced by for the size field; absent: there is none. */
  readonly sizeFrom?: number;
  readonly sources: 1 | 2;
  /**
   * The arrangement named is the result's, and the sources' too, but for these: `long` (sources have half the size), `wide` (the second source
   * has), `narrow` (sources have twice the size), `dot` (sources are bytes), `fmlal` (as `long`, half of a vector of half the length), `across`
   * (the arrangement is the source's, the result one element).
   */
  readonly shape: "same" | "long" | "wide" | "narrow" | "dot" | "fmlal" | "across";
  /** Works on the upper half of the longer operand ("2" at the end of the name). */
  readonly high?: boolean;
  readonly types: readonly Arrangement[];
}

const bytes = ["8b", "16b"] as const;
const words = ["2s", "4s"] as const;
const floats = ["4h", "8h", "2s", "4s", "2d"] as const;
const upToWords = ["8b", "16b", "4h", "8h", "2s", "4s"] as const;
const all = [...upToWords, "2d"] as const;
const longs = ["8h", "4s", "2d"] as const;

const three = (u: number, opcode: number, types: readonly Arrangement[]): VecOp => ({
  base: 0x0e200400 | (u << 29) | (opcode << 11),
  sizeFrom: 0,
  sources: 2,
  shape: "same",
  types,
});
/** `a`: bit 23. */
const float3 = (u: number, a: number, opcode: number): VecOp => ({
  base: 0x0e200400 | (u << 29) | (a << 23) | (opcode << 11),
  half: 0x0e400400 | (u << 29) | (a << 23) | ((opcode & 7) << 11),
  sizeFrom: 2,
  sources: 2,
  shape: "same",
  types: floats,
});
const bitwise = (u: number, size: number): VecOp => ({
  base: 0x0e201c00 | (u << 29) | (size << 22),
  sources: 2,
  shape: "same",
  types: bytes,
});
const permute = (opcode: number): VecOp => ({
  base: 0x0e000800 | (opcode << 12),
  sizeFrom: 0,
  sources: 2,
  shape: "same",
  types: all,
});
const two = (u: number, opcode: number, types: readonly Arrangement[]): VecOp => ({
  base: 0x0e200800 | (u << 29) | (opcode << 12),
  sizeFrom: 0,
  sources: 1,
  shape: "same",
  types,
});
const float2 = (u: number, a: number, opcode: number): VecOp => ({
  base: 0x0e200800 | (u << 29) | (a << 23) | (opcode << 12),
  half: 0x0e780800 | (u << 29) | (a << 23) | (opcode << 12),
  sizeFrom: 2,
  sources: 1,
  shape: "same",
  types: floats,
});
const across = (u: number, opcode: number): VecOp => ({
  base: 0x0e300800 | (u << 29) | (opcode << 12),
  sizeFrom: 0,
  sources: 1,
  shape: "across",
  types: ["8b", "16b", "4h", "8h", "4s"],
});
const floatAcross = (a: number, opcode: number): VecOp => ({
  base: 0x2e300800 | (a << 23) | (opcode << 12),
  half: 0x0e300800 | (a << 23) | (opcode << 12),
  sizeFrom: 2,
  sources: 1,
  shape: "across",
  types: ["4h", "8h", "4s"],
});
const long = (u: number, opcode: number, high: boolean, shape: "long" | "wide" = "long"): VecOp => ({
  base: 0x0e200000 | (u << 29) | (opcode << 12),
  sizeFrom: 1,
  sources: 2,
  shape,
  high,
  types: longs,
});
const narrow = (u: number, opcode: number, high: boolean): VecOp => ({
  ...two(u, opcode, high ? ["16b", "8h", "4s"] : ["8b", "4h", "2s"]),
  shape: "narrow",
  high,
});
const fmlal = (u: number, a: number, opcode: number): VecOp => ({
  base: 0x0e200400 | (u << 29) | (a << 23) | (opcode << 11),
  sources: 2,
  shape: "fmlal",
  types: words,
});
const dot = (u: number): VecOp => ({ base: 0x0e809400 | (u << 29), sources: 2, shape: "dot", types: words });

/** Vector instructions with the operands result, one or two sources; accumulating ones read the result too. */
export const vecOps = {
  fadd: float3(0, 0, 0b11010),
  fsub: float3(0, 1, 0b11010),
  fmul: float3(1, 0, 0b11011),
  fmulx: float3(0, 0, 0b11011),
  fdiv: float3(1, 0, 0b11111),
  fmla: float3(0, 0, 0b11001),
  fmls: float3(0, 1, 0b11001),
  fmax: float3(0, 0, 0b11110),
  fmin: float3(0, 1, 0b11110),
  fmaxnm: float3(0, 0, 0b11000),
  fminnm: float3(0, 1, 0b11000),
  fabd: float3(1, 1, 0b11010),
  fcmeq: float3(0, 0, 0b11100),
  fcmge: float3(1, 0, 0b11100),
  fcmgt: float3(1, 1, 0b11100),
  facge: float3(1, 0, 0b11101),
  facgt: float3(1, 1, 0b11101),
  frecps: float3(0, 0, 0b11111),
  frsqrts: float3(0, 1, 0b11111),
  faddp: float3(1, 0, 0b11010),
  fmaxp: float3(1, 0, 0b11110),
  fminp: float3(1, 1, 0b11110),
  fmaxnmp: float3(1, 0, 0b11000),
  fminnmp: float3(1, 1, 0b11000),
  fneg: float2(1, 1, 0b01111),
  fabs: float2(0, 1, 0b01111),
  fsqrt: float2(1, 1, 0b11111),
  frintn: float2(0, 0, 0b11000),
  frintm: float2(0, 0, 0b11001),
  frintp: float2(0, 1, 0b11000),
  frintz: float2(0, 1, 0b11001),
  frinta: float2(1, 0, 0b11000),
  frintx: float2(1, 0, 0b11001),
  frinti: float2(1, 1, 0b11001),
  frecpe: float2(0, 1, 0b11101),
  frsqrte: float2(1, 1, 0b11101),
  scvtf: float2(0, 0, 0b11101),
  ucvtf: float2(1, 0, 0b11101),
  fcvtns: float2(0, 0, 0b11010),
  fcvtnu: float2(1, 0, 0b11010),
  fcvtms: float2(0, 0, 0b11011),
  fcvtps: float2(0, 1, 0b11010),
  fcvtas: float2(0, 0, 0b11100),
  fcvtzs: float2(0, 1, 0b11011),
  fcvtzu: float2(1, 1, 0b11011),
  // Compared with zero.
  fcmeqZero: float2(0, 1, 0b01101),
  fcmgtZero: float2(0, 1, 0b01100),
  fcmgeZero: float2(1, 1, 0b01100),
  fcmleZero: float2(1, 1, 0b01101),
  fcmltZero: float2(0, 1, 0b01110),
  cmeqZero: two(0, 0b01001, all),
  cmgtZero: two(0, 0b01000, all),
  cmgeZero: two(1, 0b01000, all),
  cmleZero: two(1, 0b01001, all),
  cmltZero: two(0, 0b01010, all),
  // Precision.
  fcvtl: { ...two(0, 0b10111, ["4s", "2d"]), sizeFrom: 2, shape: "long" },
  fcvtl2: { ...two(0, 0b10111, ["4s", "2d"]), sizeFrom: 2, shape: "long", high: true },
  fcvtn: { ...two(0, 0b10110, ["4h", "2s"]), sizeFrom: 1, shape: "narrow" },
  fcvtn2: { ...two(0, 0b10110, ["8h", "4s"]), sizeFrom: 1, shape: "narrow", high: true },
  fmlal: fmlal(0, 0, 0b11101),
  fmlal2: fmlal(1, 0, 0b11001),
  fmlsl: fmlal(0, 1, 0b11101),
  fmlsl2: fmlal(1, 1, 0b11001),
  // Across lanes.
  fmaxv: floatAcross(0, 0b01111),
  fminv: floatAcross(1, 0b01111),
  fmaxnmv: floatAcross(0, 0b01100),
  fminnmv: floatAcross(1, 0b01100),
  addv: across(0, 0b11011),
  smaxv: across(0, 0b01010),
  umaxv: across(1, 0b01010),
  sminv: across(0, 0b11010),
  uminv: across(1, 0b11010),
  // Integers.
  add: three(0, 0b10000, all),
  sub: three(1, 0b10000, all),
  mul: three(0, 0b10011, upToWords),
  mla: three(0, 0b10010, upToWords),
  mls: three(1, 0b10010, upToWords),
  addp: three(0, 0b10111, all),
  smax: three(0, 0b01100, upToWords),
  umax: three(1, 0b01100, upToWords),
  smin: three(0, 0b01101, upToWords),
  umin: three(1, 0b01101, upToWords),
  smaxp: three(0, 0b10100, upToWords),
  umaxp: three(1, 0b10100, upToWords),
  sminp: three(0, 0b10101, upToWords),
  uminp: three(1, 0b10101, upToWords),
  sabd: three(0, 0b01110, upToWords),
  uabd: three(1, 0b01110, upToWords),
  cmeq: three(1, 0b10001, all),
  cmtst: three(0, 0b10001, all),
  cmgt: three(0, 0b00110, all),
  cmhi: three(1, 0b00110, all),
  cmge: three(0, 0b00111, all),
  cmhs: three(1, 0b00111, all),
  sshl: three(0, 0b01000, all),
  ushl: three(1, 0b01000, all),
  sqadd: three(0, 0b00001, all),
  uqadd: three(1, 0b00001, all),
  sqsub: three(0, 0b00101, all),
  uqsub: three(1, 0b00101, all),
  abs: two(0, 0b01011, all),
  neg: two(1, 0b01011, all),
  clz: two(1, 0b00100, upToWords),
  cnt: two(0, 0b00101, bytes),
  saddl: long(0, 0b0000, false),
  saddl2: long(0, 0b0000, true),
  uaddl: long(1, 0b0000, false),
  uaddl2: long(1, 0b0000, true),
  saddw: long(0, 0b0001, false, "wide"),
  saddw2: long(0, 0b0001, true, "wide"),
  uaddw: long(1, 0b0001, false, "wide"),
  uaddw2: long(1, 0b0001, true, "wide"),
  ssubl: long(0, 0b0010, false),
  ssubl2: long(0, 0b0010, true),
  usubl: long(1, 0b0010, false),
  usubl2: long(1, 0b0010, true),
  smull: long(0, 0b1100, false),
  smull2: long(0, 0b1100, true),
  umull: long(1, 0b1100, false),
  umull2: long(1, 0b1100, true),
  smlal: long(0, 0b1000, false),
  smlal2: long(0, 0b1000, true),
  umlal: long(1, 0b1000, false),
  umlal2: long(1, 0b1000, true),
  xtn: narrow(0, 0b10010, false),
  xtn2: narrow(0, 0b10010, true),
  sqxtn: narrow(0, 0b10100, false),
  sqxtn2: narrow(0, 0b10100, true),
  uqxtn: narrow(1, 0b10100, false),
  uqxtn2: narrow(1, 0b10100, true),
  sqxtun: narrow(1, 0b10010, false),
  sqxtun2: narrow(1, 0b10010, true),
  sdot: dot(0),
  udot: dot(1),
  // Bits.
  and: bitwise(0, 0),
  bic: bitwise(0, 1),
  orr: bitwise(0, 2),
  orn: bitwise(0, 3),
  eor: bitwise(1, 0),
  bsl: bitwise(1, 1),
  bit: bitwise(1, 2),
  bif: bitwise(1, 3),
  not: { base: 0x2e205800, sources: 1, shape: "same", types: bytes },
  rbit: { base: 0x2e605800, sources: 1, shape: "same", types: bytes },
  rev16: two(0, 0b00001, bytes),
  rev32: two(1, 0b00000, ["8b", "16b", "4h", "8h"]),
  rev64: two(0, 0b00000, upToWords),
  // Permutations.
  uzp1: permute(0b001),
  uzp2: permute(0b101),
  trn1: permute(0b010),
  trn2: permute(0b110),
  zip1: permute(0b011),
  zip2: permute(0b111),
} as const satisfies Record<string, VecOp>;
export type VecOpName = keyof typeof vecOps;

/** A product with one element of the second source. */
export interface ElementOp {
  readonly base: number;
  readonly types: readonly Arrangement[];
  /** How the arrangement's size becomes the size field: as it is, as a float's, or fixed in `base`. */
  readonly size: "integer" | "float" | "fixed";
  /** Size of the element where it is not the arrangement's. */
  readonly element?: ElementSize;
}

const elementOp = (
  u: number,
  opcode: number,
  size: ElementOp["size"],
  types: readonly Arrangement[],
  element?: ElementSize,
): ElementOp => ({
  base: 0x0f000000 | (u << 29) | (opcode << 12) | (size === "fixed" ? 2 << 22 : 0),
  size,
  types,
  ...(element === undefined ? {} : { element }),
});
const integerElements = ["4h", "8h", "2s", "4s"] as const;

/** Products with one element: of `s` for dot products four bytes. */
export const elementOps = {
  fmul: elementOp(0, 0b1001, "float", floats),
  fmulx: elementOp(1, 0b1001, "float", floats),
  fmla: elementOp(0, 0b0001, "float", floats),
  fmls: elementOp(0, 0b0101, "float", floats),
  mul: elementOp(0, 0b1000, "integer", integerElements),
  mla: elementOp(1, 0b0000, "integer", integerElements),
  mls: elementOp(1, 0b0100, "integer", integerElements),
  fmlal: elementOp(0, 0b0000, "fixed", words, "h"),
  fmlal2: elementOp(1, 0b1000, "fixed", words, "h"),
  fmlsl: elementOp(0, 0b0100, "fixed", words, "h"),
  fmlsl2: elementOp(1, 0b1100, "fixed", words, "h"),
  sdot: elementOp(0, 0b1110, "fixed", words, "s"),
  udot: elementOp(1, 0b1110, "fixed", words, "s"),
} as const satisfies Record<string, ElementOp>;
export type ElementOpName = keyof typeof elementOps;

/** A shift of every lane by a constant. */
export interface ShiftOp {
  readonly base: number;
  /** "long" and "narrow" as in `VecOp`; long ones shift to the left, narrow ones to the right. */
  readonly shape: "left" | "right" | "long" | "narrow";
  readonly high?: boolean;
  readonly types: readonly Arrangement[];
}

const shift = (u: number, opcode: number, shape: ShiftOp["shape"], high?: boolean): ShiftOp => ({
  base: 0x0f000400 | (u << 29) | (opcode << 11),
  shape,
  ...(high === undefined ? {} : { high }),
  types: shape === "long" ? longs : shape === "narrow" ? (high ? ["16b", "8h", "4s"] : ["8b", "4h", "2s"]) : all,
});

export const shiftOps = {
  shl: shift(0, 0b01010, "left"),
  sli: shift(1, 0b01010, "left"),
  sshr: shift(0, 0b00000, "right"),
  ushr: shift(1, 0b00000, "right"),
  ssra: shift(0, 0b00010, "right"),
  usra: shift(1, 0b00010, "right"),
  srshr: shift(0, 0b00100, "right"),
  urshr: shift(1, 0b00100, "right"),
  sri: shift(1, 0b01000, "right"),
  sshll: shift(0, 0b10100, "long", false),
  sshll2: shift(0, 0b10100, "long", true),
  ushll: shift(1, 0b10100, "long", false),
  ushll2: shift(1, 0b10100, "long", true),
  shrn: shift(0, 0b10000, "narrow", false),
  shrn2: shift(0, 0b10000, "narrow", true),
} as const satisfies Record<string, ShiftOp>;
export type ShiftOpName = keyof typeof shiftOps;

/** Scalar floating-point instructions with one or two sources, of which the field for precision is left out. */
const scalar2 = (opcode: number) => ({ base: 0x1e200800 | (opcode << 12), sources: 2 }) as const;
const scalar1 = (opcode: number) => ({ base: 0x1e204000 | (opcode << 15), sources: 1 }) as const;
const scalar3 = (o1: number, o0: number) => ({ base: 0x1f000000 | (o1 << 21) | (o0 << 15), sources: 3 }) as const;

export const scalarOps = {
  fmul: scalar2(0b0000),
  fdiv: scalar2(0b0001),
  fadd: scalar2(0b0010),
  fsub: scalar2(0b0011),
  fmax: scalar2(0b0100),
  fmin: scalar2(0b0101),
  fmaxnm: scalar2(0b0110),
  fminnm: scalar2(0b0111),
  fnmul: scalar2(0b1000),
  fmov: scalar1(0b000000),
  fabs: scalar1(0b000001),
  fneg: scalar1(0b000010),
  fsqrt: scalar1(0b000011),
  frintn: scalar1(0b001000),
  frintp: scalar1(0b001001),
  frintm: scalar1(0b001010),
  frintz: scalar1(0b001011),
  frinta: scalar1(0b001100),
  frintx: scalar1(0b001110),
  frinti: scalar1(0b001111),
  /** a · b + c, c - a · b, -(a · b) - c, a · b - c. */
  fmadd: scalar3(0, 0),
  fmsub: scalar3(0, 1),
  fnmadd: scalar3(1, 0),
  fnmsub: scalar3(1, 1),
} as const satisfies Record<string, { base: number; sources: 1 | 2 | 3 }>;
export type ScalarOpName = keyof typeof scalarOps;

/** Conversions between a floating-point and a general register: rmode and opcode. */
export const conversions = {
  fcvtns: 0b00000,
  fcvtnu: 0b00001,
  fcvtas: 0b00100,
  fcvtps: 0b01000,
  fcvtms: 0b10000,
  fcvtzs: 0b11000,
  fcvtzu: 0b11001,
} as const;
export type Conversion = keyof typeof conversions;

/** Length bit of an instruction, checked against what it has; "2" at the end of a name stands for it with longer and narrower results. */
export function lengthBit(name: string, arrangement: Arrangement, op: VecOp | ShiftOp): number {
  const types: readonly Arrangement[] = op.types;
  invariant(types.includes(arrangement), () => `${name}: no arrangement ${arrangement}`);
  if (op.shape === "long" || op.shape === "wide") return op.high ? 1 : 0;
  return arrangements[arrangement].q;
}
