// What kernels and the driver are written in: instructions that x86-64 and arm64 both have, or have short sequences for.
// isa/x64-code.ts and isa/arm64-code.ts emit them.

import type { Isa } from "./isa/features.ts";
import { Label } from "./isa/label.ts";

export { Label };

/** A general register of 64 bits. */
export type Gp = number & { readonly gp?: never };
/** A vector register. */
export type Vec = number & { readonly vec?: never };

/**
 * General registers. C functions take up to three arguments in r5, r4, r2, the operating system three more in r8, r6, r7; after a call r0 has what they gave back. Both
 * keep r3 and r10 to r14, as whoever is called from C must, who can give nothing back. Kernels keep r14 and sp only.
 */
export const gp = {
  r0: 0,
  r1: 1,
  r2: 2,
  r3: 3,
  sp: 4,
  r14: 5,
  r4: 6,
  r5: 7,
  r6: 8,
  r7: 9,
  r8: 10,
  r9: 11,
  r10: 12,
  r11: 13,
  r12: 14,
  r13: 15,
} as const satisfies Record<string, Gp>; // numbered as x86-64 does

/** What a kernel is called with: the address of its step's argument words, the number of its task, the thread's scratch memory. */
export const entry = { args: gp.r5, task: gp.r4, scratch: gp.r2 } as const;

/** Memory at base + index · scale + disp. */
export interface Mem {
  readonly base?: Gp;
  readonly index?: Gp;
  readonly scale?: 1 | 2 | 4 | 8;
  readonly disp?: number;
}

/** Memory at base + disp, with an optional scaled index. */
export function mem(base: Gp, disp = 0, index?: Gp, scale: 1 | 2 | 4 | 8 = 1): Mem {
  return index === undefined ? { base, disp } : { base, disp, index, scale };
}

/** Memory `bytes` further on. */
export function at(address: Mem, bytes: number): Mem {
  return { ...address, disp: (address.disp ?? 0) + bytes };
}

/** Conditions: equal, not; unsigned below, above or equal, above, below or equal; signed less, greater or equal, greater, less or equal; negative, not. */
export type Cond = "e" | "ne" | "b" | "ae" | "a" | "be" | "l" | "ge" | "g" | "le" | "s" | "ns";
/**
 * `cmp` changes the flags only. All conditions hold of a - b after `sub` and `cmp`; after `add`, `and` and `test` those that compare the result with 0
 * (e, ne, s, ns) do. No other instruction keeps or sets flags in a way to rely on, but moves, loads, stores, `lea` and vector instructions keep them.
 */
export type Arithmetic = "add" | "sub" | "and" | "or" | "xor" | "cmp";

/** Bytes of vectors that instructions work on, up to `vectorBytes`. */
export type Length = 16 | 32 | 64;

/** Bytes of the longest vector of every set of instructions. */
export const vectorLengths = { avx2: 32, avx512: 64, neon: 16 } as const satisfies Record<Isa, Length>;

/** How floats lie in memory; registers hold fp32. */
export type Storage = "fp32" | "fp16";

/** Bytes of a float. */
export const storageBytes = { fp32: 4, fp16: 2 } as const satisfies Record<Storage, number>;

/** An argument of a C function: a constant of type int or float, or a pointer in a register that C functions keep. */
export type CArgument = { readonly int: number } | { readonly float: number } | { readonly pointer: Gp };

/** The first `count` fp32 lanes of a vector; on machines with mask registers, `mask` is the one that holds them (see `setPart`). */
export interface Part {
  readonly count: number;
  readonly mask: number;
}

/** A place to write a kernel's or the driver's code. Immediates have up to 32 bits and a sign unless said otherwise; displacements too. */
export interface Code {
  // ---------------------------------------------------------------------------------------------- layout
  readonly isa: Isa;
  /** Bytes so far. */
  readonly length: number;
  /** The code with all labels and constants. */
  finish(): Uint8Array;
  /** Pads to a multiple of `boundary`, executable. */
  align(boundary: number): void;
  bind(label: Label): Label;
  /** A new label, bound here. */
  here(): Label;

  // ---------------------------------------------------------------------------------------------- integers
  mov(dst: Gp | Mem, src: Gp | Mem): void;
  /** 32 bits; a register's upper half becomes 0. */
  mov32(dst: Gp | Mem, src: Gp | Mem): void;
  mov16(dst: Mem, src: Gp): void;
  mov8(dst: Mem, src: Gp): void;
  movzx8(dst: Gp, src: Mem): void;
  movzx16(dst: Gp, src: Mem): void;
  /** 32 bits, sign-extended to 64. */
  movsxd(dst: Gp, src: Gp | Mem): void;
  /** Any value of 64 bits. */
  movImm(dst: Gp, value: number | bigint): void;
  movMemImm(dst: Mem, value: number): void;
  zero(dst: Gp): void;
  lea(dst: Gp, src: Mem): void;
  alu(op: Arithmetic, dst: Gp | Mem, src: Gp | Mem): void;
  aluImm(op: Arithmetic, dst: Gp | Mem, value: number): void;
  alu32(op: Arithmetic, dst: Gp | Mem, src: Gp | Mem): void;
  aluImm32(op: Arithmetic, dst: Gp | Mem, value: number): void;
  imul(dst: Gp, src: Gp): void;
  imulImm(dst: Gp, src: Gp, value: number): void;
  shift(op: "shl" | "shr" | "sar", dst: Gp, count: number): void;
  neg(dst: Gp): void;
  test(a: Gp, b: Gp): void;
  test32(a: Gp, b: Gp): void;
  /** value = value / by, unsigned, by any positive number; r2 = the remainder. Changes r0 and r1; value is neither r1 nor r2. */
  divide(value: Gp, by: number): void;
  cmov(condition: Cond, dst: Gp, src: Gp | Mem): void;

  // ---------------------------------------------------------------------------------------------- control
  jcc(condition: Cond, target: Label): void;
  jmp(target: Label): void;
  jmpTo(target: Gp | Mem): void;
  /** Calls code that ends with `ret`, within a function that began with `enter` or `enterFromC`. */
  call(target: Label | Gp | Mem): void;
  ret(): void;
  /** Begins a function that calls others: `bytes` of the stack from sp on are its own. */
  enter(bytes: number): void;
  /** Gives them back, before `ret`. */
  leave(bytes: number): void;
  /** What `call` itself puts on the stack: bytes from the callee's sp to the caller's. */
  readonly callBytes: number;
  /**
   * As `enter`, for what C calls: saves what C wants kept, so that anything may be called, whatever `bytes` is. `leaveToC` cleans the upper parts of vector
   * registers and gives the C library its rounding back. May change r0.
   */
  enterFromC(bytes: number): void;
  leaveToC(bytes: number): void;
  /**
   * Calls a C function at an address: with `args`, or else with what the registers hold and the stack as `enterFromC` made it. Changes r0 to r2, r4 to r9
   * and vectors.
   */
  callC(address: number, args?: readonly CArgument[]): void;
  /** Calls the operating system; r0 = the number. Changes r1 and r9 too. */
  syscall(): void;
  /** Round to nearest even, subnormals as they are, exceptions masked; until `leaveToC`. Changes r0. */
  setRounding(): void;
  /** Ends the use of wide vectors, where that helps what comes after. Changes nothing that is in use. */
  endVectors(): void;
  /** Ticks of a constant clock in r0; changes r2. */
  ticks(): void;
  /** A hint in a loop that waits. */
  pause(): void;

  // ---------------------------------------------------------------------------------------------- memory that threads share
  /** Atomic operations are full barriers; they change no register but for what they give back. src = old memory, memory += src. */
  lockXadd(dst: Mem, src: Gp): void;
  lockAdd32(dst: Mem, src: Gp): void;
  lockAddImm32(dst: Mem, value: number): void;
  /** Exchange. */
  xchg(dst: Mem, src: Gp): void;
  xchg32(dst: Mem, src: Gp): void;
  /** If memory equals r0, memory = src; the condition e tells. Changes r0. */
  lockCmpxchg32(dst: Mem, src: Gp): void;
  /** A load that no later access overtakes. */
  acquire(dst: Gp, src: Mem): void;
  acquire32(dst: Gp, src: Mem): void;

  // ---------------------------------------------------------------------------------------------- vectors of bytes
  /** Bytes of the longest vector. */
  readonly vectorBytes: Length;
  /** fp32 lanes of it. */
  readonly lanes: number;
  /** Number of vector registers. */
  readonly registers: number;
  vload(length: Length, dst: Vec, src: Mem): void;
  vstore(length: Length, dst: Mem, src: Vec): void;
  /** A store past the caches, to a multiple of `length`. */
  vstream(length: Length, dst: Mem, src: Vec): void;
  /** Orders such stores before later ones. */
  fence(): void;
  /** Loads the first 1 to 16 bytes of a register below 16; the others become anything. */
  vloadPart(dst: Vec, src: Mem, bytes: number): void;
  vstorePart(dst: Mem, src: Vec, bytes: number): void;
  /** All elements = one of memory. */
  vrepeat(bytes: 1 | 2 | 4, dst: Vec, src: Mem): void;
  /** All elements of 32 bits = a constant; changes r0. */
  vconstant(dst: Vec, bits: number): void;
  /** The 16 bytes number `lane` of dst, which keeps the others; `length` says how many the vector has. */
  vinsert(length: Length, dst: Vec, src: Mem | Vec, lane: number): void;
  /** dst = a0 b0 a1 b1 … of elements of the low or high half of every 16 bytes. */
  vinterleave(half: "low" | "high", bytes: 1 | 2 | 4 | 8, length: Length, dst: Vec, a: Vec, b: Vec | Mem): void;
  /** Asks for memory ahead of its use; never faults. "t0": into all caches; "t1": not the first; "w": to be written. */
  prefetch(level: "t0" | "t1" | "w", address: Mem): void;

  // ---------------------------------------------------------------------------------------------- vectors of floats
  vzero(dst: Vec): void;
  vmove(dst: Vec, src: Vec): void;
  /** dst = a op b; `length` of the vector, the longest if left out. */
  vfloat(op: "add" | "sub" | "mul", dst: Vec, a: Vec, b: Vec | Mem, length?: Length): void;
  /** dst = a + b in integers of 32 bits. */
  viadd(dst: Vec, a: Vec, b: Vec | Mem, length?: Length): void;
  /** dst = the larger (smaller) of dst and `limit`, which is no NaN: NaN stays. Of two zeros it may be either. */
  vbound(op: "max" | "min", dst: Vec, limit: Vec): void;
  /** acc += a · b, rounded once. */
  fma(acc: Vec, a: Vec, b: Vec | Mem): void;
  /** acc[i] += q[i] · the fp32 at `factor`, for every i; changes `temp`. */
  fmaScalar(acc: readonly Vec[], factor: Mem, q: readonly Vec[], temp: Vec): void;
  /** The first `count` lanes, undefined if that is all of them; `mask` is 1 or 2. Changes r0. */
  setPart(count: number, mask: 1 | 2): Part | undefined;
  /** dst = memory widened to fp32; lanes outside `part` become 0 and are not read. */
  loadFloats(dst: Vec, src: Mem, storage: Storage, part?: Part): void;
  /** Memory = src rounded to nearest even; nothing outside `part` is written. Changes src where it narrows, and `temp` where there is a part. */
  storeFloats(dst: Mem, src: Vec, storage: Storage, part?: Part, temp?: Vec): void;
  /** All lanes = one float of memory. */
  repeatFloat(dst: Vec, src: Mem, storage: Storage): void;
  /** One float of memory in the first lane. */
  loadFloat(dst: Vec, src: Mem, storage: Storage): void;
  /** The first lane as fp32. */
  storeFloat(dst: Mem, src: Vec): void;
  /** dst = fp16 widened, register or memory, to a vector of `length`. */
  widen(length: Length, dst: Vec, src: Vec | Mem): void;
  /** dst = a vector of `length` rounded to fp16, register or memory. */
  narrow(length: Length, dst: Vec | Mem, src: Vec): void;
  /** Transposes `lanes` vectors in place; as many `temps` change. */
  transpose(rows: readonly Vec[], temps: readonly Vec[]): void;
  /** Sum of all lanes into the first, in an order of the machine's own; changes `temp`. */
  sumLanes(register: Vec, temp: Vec): void;
}
