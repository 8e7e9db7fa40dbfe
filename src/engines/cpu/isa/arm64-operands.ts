// Operands of A64 instructions: registers, addresses, labels, conditions, and the checks that name an instruction where one cannot be encoded.

import { invariant } from "../../../core/errors.ts";
import { float8 } from "./arm64-immediates.ts";
import { type Arrangement, arrangements, type ElementSize, elementSizes } from "./arm64-vector.ts";

/** A general register: x0 to x30 are 0 to 30, then xzr and sp; `w` makes 32-bit ones. */
export type Gp = number & { readonly gp?: never };
/** A vector register, by number. */
export type Vec = number & { readonly vec?: never };

/** General registers, 64 bits. x18 belongs to the system on macOS; calls keep x19 to x29 and the lower halves of v8 to v15. */
export const gp = {
  x0: 0,
  x1: 1,
  x2: 2,
  x3: 3,
  x4: 4,
  x5: 5,
  x6: 6,
  x7: 7,
  x8: 8,
  x9: 9,
  x10: 10,
  x11: 11,
  x12: 12,
  x13: 13,
  x14: 14,
  x15: 15,
  x16: 16,
  x17: 17,
  x18: 18,
  x19: 19,
  x20: 20,
  x21: 21,
  x22: 22,
  x23: 23,
  x24: 24,
  x25: 25,
  x26: 26,
  x27: 27,
  x28: 28,
  x29: 29,
  x30: 30,
  xzr: 31,
  sp: 32,
} as const satisfies Record<string, Gp>;

const narrowFlag = 64;
/** The lower half of a general register; writing it clears the upper half. */
export function w(register: Gp): Gp {
  return isNarrow(register) ? register : register + narrowFlag;
}
export const isNarrow = (register: Gp) => register >= narrowFlag;

/** How an index or an operand is widened from its register before it is shifted. */
export type Extend = "uxtb" | "uxth" | "uxtw" | "uxtx" | "sxtb" | "sxth" | "sxtw" | "sxtx";
export const extensions = { uxtb: 0, uxth: 1, uxtw: 2, uxtx: 3, sxtb: 4, sxth: 5, sxtw: 6, sxtx: 7 } as const;
export const shiftKinds = { lsl: 0, lsr: 1, asr: 2, ror: 3 } as const;
export type ShiftKind = keyof typeof shiftKinds;
/** The last operand shifted, or widened and then shifted to the left. */
export type Modifier = readonly [kind: ShiftKind | Extend, amount: number];

/** An address; see `mem`, `indexed`, `pre`, `post`. */
export interface Mem {
  readonly base: Gp;
  readonly offset: number;
  /** A general register: 64 bits, or 32 bits with `extend`. */
  readonly index?: Gp;
  readonly extend?: "uxtw" | "sxtw" | "sxtx";
  /** Bits by which the index is shifted: 0, or the logarithm of the bytes moved. */
  readonly shift?: number;
  /** The base register changes by the offset, before or after the access. */
  readonly write?: "pre" | "post";
}

/** [base + offset]: bytes, either a multiple of the access's size below 4096 of them, or any from -256 to 255. */
export function mem(base: Gp, offset = 0): Mem {
  return { base, offset };
}
/** [base + (index << shift)]. */
export function indexed(base: Gp, index: Gp, shift = 0, extend?: Mem["extend"]): Mem {
  return extend === undefined ? { base, offset: 0, index, shift } : { base, offset: 0, index, shift, extend };
}
/** [base += offset]. */
export function pre(base: Gp, offset: number): Mem {
  return { base, offset, write: "pre" };
}
/** [base], then base += offset. */
export function post(base: Gp, offset: number): Mem {
  return { base, offset, write: "post" };
}
/** [base], then base += index; for structure loads and stores. */
export function postIndexed(base: Gp, index: Gp): Mem {
  return { base, offset: 0, index, write: "post" };
}

/** Condition codes. `lo` to `hi` are unsigned; after a comparison of floats mi is less, ls less or equal, gt greater, ge, vs unordered. */
export const cond = {
  eq: 0,
  ne: 1,
  hs: 2,
  lo: 3,
  mi: 4,
  pl: 5,
  vs: 6,
  vc: 7,
  hi: 8,
  ls: 9,
  ge: 10,
  lt: 11,
  gt: 12,
  le: 13,
} as const;
export type Cond = keyof typeof cond;
export const opposite = {
  eq: "ne",
  ne: "eq",
  hs: "lo",
  lo: "hs",
  mi: "pl",
  pl: "mi",
  vs: "vc",
  vc: "vs",
  hi: "ls",
  ls: "hi",
  ge: "lt",
  lt: "ge",
  gt: "le",
  le: "gt",
} as const satisfies Record<Cond, Cond>;

// ------------------------------------------------------------------------------------------------ checks

/** A number that must be one of these. */
export function range(name: string, what: string, value: number, low: number, high: number, step = 1): number {
  invariant(
    Number.isInteger(value) && value >= low && value <= high && value % step === 0,
    () =>
      `${name}: ${what} ${value} is not ${step === 1 ? "a whole number" : `a multiple of ${step}`} from ${low} to ${high}`,
  );
  return value;
}

export const numberOf = (register: Gp) => register & (narrowFlag - 1);

/** Number of a general register; 31 means zero, or the stack pointer where `stack` is set. */
export function general(name: string, register: Gp, stack = false): number {
  const number = numberOf(register);
  const valid = Number.isInteger(register) && register >= 0 && register < 2 * narrowFlag;
  invariant(
    valid && (number < 31 || number === (stack ? gp.sp : gp.xzr)),
    () => `${name}: register ${number === gp.sp ? "sp" : number === gp.xzr ? "xzr" : register} cannot be used here`,
  );
  return Math.min(number, 31);
}

/** The same for registers that must be of 64 bits. */
export function general64(name: string, register: Gp, stack = false): number {
  invariant(!isNarrow(register), () => `${name}: a 32-bit register cannot be used here`);
  return general(name, register, stack);
}

export function vector(name: string, register: Vec): number {
  return range(name, "vector register", register, 0, 31);
}

/** 1 for 64 bits, 0 for 32; all registers must have the same width. */
export function widthBit(name: string, ...registers: readonly Gp[]): 0 | 1 {
  const narrow = isNarrow(registers[0]!);
  invariant(
    registers.every((register) => isNarrow(register) === narrow),
    () => `${name}: registers of different widths`,
  );
  return narrow ? 0 : 1;
}

/** The bits of an integer of so many bits, signed or not; undefined where it does not fit, or is none. */
export function integerBits(value: number | bigint, width: number): bigint | undefined {
  if (typeof value === "number" && !Number.isInteger(value)) return undefined;
  const big = BigInt(value);
  const bits = BigInt.asUintN(width, big);
  return big === bits || big === BigInt.asIntN(width, big) ? bits : undefined;
}

export const isKey = <K extends string>(table: Readonly<Record<K, unknown>>, key: string): key is K =>
  Object.hasOwn(table, key);

export const zeroLike = (register: Gp): Gp => (isNarrow(register) ? w(gp.xzr) : gp.xzr);

/** Registers from `first` on, none beyond v31. */
export function consecutive(name: string, first: Vec, count: number): number {
  return range(name, "first vector register", first, 0, 32 - count);
}

/** imm5: element size and lane. */
export function laneField(name: string, of: Arrangement | ElementSize, lane: number): number {
  const log = isKey(elementSizes, of) ? elementSizes[of] : arrangements[of].size;
  range(name, "lane", lane, 0, (16 >> log) - 1);
  return ((lane << (log + 1)) | (1 << log)) << 16;
}

export function vectorLength(name: string, arrangement: Arrangement): number {
  invariant(arrangement !== "1d", () => `${name}: no arrangement 1d`);
  return arrangements[arrangement].q << 30;
}

/** A general register that fits elements: 64 bits for d, else 32. */
export function generalFor(name: string, of: Arrangement | ElementSize, register: Gp): number {
  const doubles = of === "d" || of === "2d" || of === "1d";
  invariant(isNarrow(register) !== doubles, () => `${name}: ${of} and a register of ${doubles ? 32 : 64} bits`);
  return general(name, register);
}

export function floatImmediate(value: number): number {
  const imm8 = float8(value);
  invariant(imm8 !== undefined, () => `fmov: immediate ${value} is no float of 8 bits`);
  return imm8;
}
