// The portable instructions (../code.ts) on arm64: integers, control, and memory that threads share. Vectors are in arm64-code.ts.

import { invariant } from "../../../core/errors.ts";
import { type Arithmetic, type CArgument, type Cond, gp as codeGp, type Gp, type Mem } from "../code.ts";
import { floatBits } from "../expression.ts";
import { Arm64, gp, indexed, mem, type Mem as Place, post, pre, w } from "./arm64.ts";
import { bitmask } from "./arm64-immediates.ts";
import { placeArguments } from "./c-arguments.ts";
import { Label } from "./label.ts";

/**
 * Where the registers of `gp` in code.ts lie: arguments where Linux and C want them, what calls keep in registers that C keeps. r0 is x8, where Linux wants
 * the number of a system call; what is given back comes in x0, which is r5 (see `#result`). x16 holds addresses, x17 immediates and operands from memory, x13 to x15 values in between; x18 is the system's.
 */
const places: Readonly<Record<keyof typeof codeGp, Gp>> = {
  r5: gp.x0,
  r4: gp.x1,
  r2: gp.x2,
  r8: gp.x3,
  r6: gp.x4,
  r7: gp.x5,
  r1: gp.x6,
  r9: gp.x7,
  r0: gp.x8,
  r3: gp.x19,
  r10: gp.x20,
  r11: gp.x21,
  r12: gp.x22,
  r13: gp.x23,
  r14: gp.x24,
  sp: gp.sp,
};
const placeOf: Gp[] = [];
for (const name of Object.keys(codeGp) as (keyof typeof codeGp)[]) placeOf[codeGp[name]] = places[name];

const { x0, x8, x13, x14, x15, x16, x17, x30, xzr, sp } = gp;

/** Where C functions take integers and pointers. */
const argumentRegisters = [gp.x0, gp.x1, gp.x2, gp.x3, gp.x4, gp.x5, gp.x6, gp.x7];

const conditions = {
  e: "eq",
  ne: "ne",
  b: "lo",
  ae: "hs",
  a: "hi",
  be: "ls",
  l: "lt",
  ge: "ge",
  g: "gt",
  le: "le",
  s: "mi",
  ns: "pl",
} as const satisfies Record<Cond, unknown>;

const operations = { add: "adds", sub: "subs", cmp: "subs", and: "ands", or: "orr", xor: "eor" } as const;
const isLogical = (op: Arithmetic) => op === "and" || op === "or" || op === "xor";

/** Pairs of registers that C wants kept: x19 to x30, then d8 to d15. */
const kept = [19, 21, 23, 25, 27, 29] as const;
const keptVectors = [8, 10, 12, 14] as const;
/** Bytes of both, and of the control register of floating point. */
const savedBytes = 16 * (kept.length + keptVectors.length + 1);

const round16 = (bytes: number) => Math.ceil(bytes / 16) * 16;
const log2 = { 1: 0, 2: 1, 4: 2, 8: 3 } as const;

/** What x16 holds: base + (index << shift) + offset. */
interface Held {
  readonly base: Gp;
  readonly index: Gp | undefined;
  readonly shift: number;
  readonly offset: number;
}

/** A load or store of 16 bytes that has not been written yet, since the next one may make a pair of it. */
interface Access {
  readonly op: "ld" | "st";
  readonly register: number;
  readonly place: Place;
  readonly streams: boolean;
}

/** All of `Code` but vectors. */
export class Arm64General {
  readonly callBytes = 0;
  readonly #asm = new Arm64();
  readonly #lse: boolean;
  #held: Held | undefined;
  #access: Access | undefined;

  /** @param lse whether the processor has the atomic instructions of Armv8.1 (every Apple one does) */
  constructor(lse: boolean) {
    this.#lse = lse;
  }

  /** To write the next instruction with: any but those that change `Code`'s general registers or bind labels. */
  get asm(): Arm64 {
    if (this.#access !== undefined) {
      const { op, register, place } = this.#access;
      this.#access = undefined;
      if (op === "ld") this.#asm.ldrv("q", register, place);
      else this.#asm.strv("q", register, place);
    }
    return this.#asm;
  }

  get length(): number {
    this.#held = undefined; // whoever asks may have this entered from elsewhere
    return this.asm.length;
  }
  finish(): Uint8Array {
    return this.asm.finish();
  }
  align(boundary: number): void {
    this.asm.align(boundary);
  }
  bind(label: Label): Label {
    this.#held = undefined;
    return this.asm.bind(label);
  }
  here(): Label {
    this.#held = undefined;
    return this.asm.here();
  }

  // ---------------------------------------------------------------------------------------------- operands

  #source(register: Gp): Gp {
    const place = placeOf[register];
    invariant(place !== undefined, () => `no register ${register}`);
    return place;
  }
  /** A register about to be written; addresses that it is part of are computed before this. */
  #target(register: Gp): Gp {
    const place = this.#source(register);
    if (this.#held?.base === place || this.#held?.index === place) this.#held = undefined;
    return place;
  }

  /** dst = src + value, keeping the flags. */
  #add(dst: Gp, src: Gp, value: number): void {
    const magnitude = Math.abs(value);
    const op = value < 0 ? "sub" : "add";
    const low = magnitude & 0xfff;
    if (magnitude >= 2 ** 24) {
      this.asm.movImm(x17, value);
      this.asm.alu("add", dst, src, x17);
    } else if (low === magnitude) {
      if (value !== 0 || dst !== src) this.asm.aluImm(op, dst, src, magnitude);
    } else {
      this.asm.aluImm(op, dst, src, magnitude - low);
      if (low !== 0) this.asm.aluImm(op, dst, dst, low);
    }
  }

  /** x16 = an address, unless it holds that already. */
  #hold(base: Gp, index: Gp | undefined, shift: number, offset: number): Gp {
    if (!this.#holds(base, index, shift, offset)) {
      if (index !== undefined) this.asm.alu("add", x16, base, index, ["lsl", shift]);
      this.#add(x16, index === undefined ? base : x16, offset);
      this.#held = base === sp ? undefined : { base, index, shift, offset }; // frames come and go
    }
    return x16;
  }
  #holds(base: Gp, index: Gp | undefined, shift: number, offset: number): boolean {
    const held = this.#held;
    return held?.base === base && held.index === index && held.shift === shift && held.offset === offset;
  }

  #parts({ base, index, scale = 1, disp = 0 }: Mem): Held {
    invariant(base !== undefined, () => "an address needs a base");
    const register = index === undefined ? undefined : this.#source(index);
    return { base: this.#source(base), index: register, shift: index === undefined ? 0 : log2[scale], offset: disp };
  }

  /** An address as loads and stores of 2 ** log bytes take it; may change x16 and x17, keeps the flags. */
  address(at: Mem, log: number): Place {
    const { base, index, shift, offset } = this.#parts(at);
    const unit = 1 << log;
    const reaches = (bytes: number) =>
      (bytes >= -256 && bytes < 256) || (bytes >= 0 && bytes < 4096 * unit && bytes % unit === 0);
    if (index === undefined && reaches(offset)) return mem(base, offset);
    const scaled = index !== undefined && offset === 0 && (shift === 0 || shift === log);
    if (scaled && !this.#holds(base, index, shift, 0)) return indexed(base, index, shift);
    // Of what is too far away, whole pages go into the register: neighbours share it.
    const near = reaches(offset) ? offset : reaches(offset & 0xfff) ? offset & 0xfff : 0;
    return mem(this.#hold(base, index, shift, offset - near), near);
  }

  /** An address in a register; may change x16 and x17, keeps the flags. */
  pointer(at: Mem): Gp {
    const { base, index, shift, offset } = this.#parts(at);
    return index === undefined && offset === 0 ? base : this.#hold(base, index, shift, offset);
  }

  /** Moves 16 bytes between a vector register and memory; neighbours become pairs. */
  move16(op: Access["op"], register: number, at: Mem, streams = false): void {
    const { base, index, shift, offset } = this.#parts(at);
    const alone = this.#access;
    if (
      index !== undefined &&
      offset === 16 &&
      alone?.place.base === base &&
      alone.place.index === index &&
      alone.place.shift === shift
    ) {
      // The second one makes the sum of base and index worth a register.
      this.#access = undefined;
      this.#access = { ...alone, place: mem(this.#hold(base, index, shift, 0)) };
    }
    const place = this.address(at, 4);
    const first = this.#access;
    const start = first?.place.offset ?? 0;
    const pairs =
      first?.op === op &&
      first.streams === streams &&
      first.place.base === place.base &&
      first.place.index === undefined &&
      place.index === undefined &&
      place.offset === start + 16 &&
      start % 16 === 0 &&
      start >= -1024 &&
      start <= 1008 &&
      (op === "st" || first.register !== register);
    if (pairs) {
      this.#access = undefined;
      this.#asm.pairv(streams ? `${op}np` : `${op}p`, "q", first.register, register, first.place);
    } else {
      void this.asm; // writes the first one
      this.#access = { op, register, place, streams };
    }
  }

  // ---------------------------------------------------------------------------------------------- integers

  mov(dst: Gp | Mem, src: Gp | Mem): void {
    this.#move(dst, src, 3, (register) => register);
  }
  mov32(dst: Gp | Mem, src: Gp | Mem): void {
    this.#move(dst, src, 2, w);
  }
  #move(dst: Gp | Mem, src: Gp | Mem, log: number, width: (register: Gp) => Gp): void {
    if (typeof src === "object") {
      invariant(typeof dst === "number", () => "mov: from memory to memory");
      const place = this.address(src, log);
      this.asm.ldr(width(this.#target(dst)), place);
    } else if (typeof dst === "object") this.asm.str(width(this.#source(src)), this.address(dst, log));
    else this.asm.mov(width(this.#target(dst)), width(this.#source(src)));
  }
  mov16(dst: Mem, src: Gp): void {
    this.asm.strh(w(this.#source(src)), this.address(dst, 1));
  }
  mov8(dst: Mem, src: Gp): void {
    this.asm.strb(w(this.#source(src)), this.address(dst, 0));
  }
  movzx8(dst: Gp, src: Mem): void {
    const place = this.address(src, 0);
    this.asm.ldrb(w(this.#target(dst)), place);
  }
  movzx16(dst: Gp, src: Mem): void {
    const place = this.address(src, 1);
    this.asm.ldrh(w(this.#target(dst)), place);
  }
  movsxd(dst: Gp, src: Gp | Mem): void {
    if (typeof src === "object") {
      const place = this.address(src, 2);
      this.asm.ldrsw(this.#target(dst), place);
    } else this.asm.sxtw(this.#target(dst), w(this.#source(src)));
  }
  movImm(dst: Gp, value: number | bigint): void {
    this.asm.movImm(this.#target(dst), value);
  }
  movMemImm(dst: Mem, value: number): void {
    const place = this.address(dst, 3);
    if (value !== 0) this.asm.movImm(x17, value);
    this.asm.str(value === 0 ? xzr : x17, place);
  }
  zero(dst: Gp): void {
    this.movImm(dst, 0);
  }
  lea(dst: Gp, src: Mem): void {
    const { base, index, shift, offset } = this.#parts(src);
    const to = this.#target(dst);
    if (index !== undefined) this.asm.alu("add", to, base, index, ["lsl", shift]);
    this.#add(to, index === undefined ? base : to, offset);
  }

  alu(op: Arithmetic, dst: Gp | Mem, src: Gp | Mem): void {
    this.#operate(op, dst, src, false);
  }
  aluImm(op: Arithmetic, dst: Gp | Mem, value: number): void {
    this.#operate(op, dst, { value }, false);
  }
  alu32(op: Arithmetic, dst: Gp | Mem, src: Gp | Mem): void {
    this.#operate(op, dst, src, true);
  }
  aluImm32(op: Arithmetic, dst: Gp | Mem, value: number): void {
    this.#operate(op, dst, { value }, true);
  }
  #operate(op: Arithmetic, dst: Gp | Mem, src: Gp | Mem | { readonly value: number }, narrow: boolean): void {
    const width = narrow ? w : (register: Gp) => register;
    const inMemory = typeof dst === "object";
    invariant(!inMemory || typeof src === "number" || "value" in src, () => `${op}: both operands in memory`);
    const place = inMemory ? this.address(dst, narrow ? 2 : 3) : undefined;
    if (place !== undefined) this.asm.ldr(width(x15), place);
    const operand = this.#operand(op, src, narrow);
    const changed = width(inMemory ? x15 : op === "cmp" ? this.#source(dst) : this.#target(dst));
    const to = op === "cmp" ? width(xzr) : changed;
    if (typeof operand === "object") this.asm.aluImm(operations[op], to, changed, operand.value);
    else this.asm.alu(operations[op], to, changed, operand);
    if (place !== undefined && op !== "cmp") this.asm.str(changed, place);
  }
  /** An operand in a register, or a value that the instruction takes. */
  #operand(
    op: Arithmetic,
    src: Gp | Mem | { readonly value: number },
    narrow: boolean,
  ): Gp | { readonly value: number } {
    const through = narrow ? w(x17) : x17;
    if (typeof src === "number") return narrow ? w(this.#source(src)) : this.#source(src);
    if (!("value" in src)) this.asm.ldr(through, this.address(src, narrow ? 2 : 3));
    else {
      const { value } = src;
      const magnitude = Math.abs(value);
      const fits = isLogical(op)
        ? bitmask(BigInt(value), narrow ? 32 : 64) !== undefined
        : magnitude <= 0xfff || (magnitude <= 0xfff000 && magnitude % 0x1000 === 0);
      if (fits) return src;
      this.asm.movImm(through, value);
    }
    return through;
  }

  imul(dst: Gp, src: Gp): void {
    const to = this.#target(dst);
    this.asm.mul(to, to, this.#source(src));
  }
  imulImm(dst: Gp, src: Gp, value: number): void {
    const [to, from] = [this.#target(dst), this.#source(src)];
    if (value > 0 && Number.isInteger(Math.log2(value))) return this.asm.aluImm("lsl", to, from, Math.log2(value));
    this.asm.movImm(x17, value);
    this.asm.mul(to, from, x17);
  }
  shift(op: "shl" | "shr" | "sar", dst: Gp, count: number): void {
    const to = this.#target(dst);
    this.asm.aluImm(({ shl: "lsl", shr: "lsr", sar: "asr" } as const)[op], to, to, count);
  }
  neg(dst: Gp): void {
    const to = this.#target(dst);
    this.asm.neg(to, to);
  }
  test(a: Gp, b: Gp): void {
    this.asm.tst(this.#source(a), this.#source(b));
  }
  test32(a: Gp, b: Gp): void {
    this.asm.tst(w(this.#source(a)), w(this.#source(b)));
  }
  divide(value: Gp, by: number): void {
    invariant(value !== codeGp.r1 && value !== codeGp.r2, () => "a division in its own registers");
    const [quotient, remainder] = [this.#target(value), this.#target(codeGp.r2)];
    const divisor = BigInt(by);
    if (by === 1) this.asm.movImm(remainder, 0);
    else if ((divisor & (divisor - 1n)) === 0n) {
      this.asm.aluImm("and", remainder, quotient, divisor - 1n);
      this.asm.aluImm("lsr", quotient, quotient, divisor.toString(2).length - 1);
    } else {
      this.asm.movImm(x17, divisor);
      this.asm.alu("udiv", x15, quotient, x17);
      this.asm.msub(remainder, x15, x17, quotient);
      this.asm.mov(quotient, x15);
    }
  }
  cmov(condition: Cond, dst: Gp, src: Gp | Mem): void {
    let from: Gp = x17;
    if (typeof src === "object") this.asm.ldr(x17, this.address(src, 3));
    else from = this.#source(src);
    const to = this.#target(dst);
    this.asm.select("csel", to, from, to, conditions[condition]);
  }

  // ---------------------------------------------------------------------------------------------- control

  jcc(condition: Cond, target: Label): void {
    this.asm.bIf(conditions[condition], target);
  }
  jmp(target: Label): void {
    this.asm.b(target);
  }
  jmpTo(target: Gp | Mem): void {
    this.asm.br(this.#destination(target));
  }
  #destination(target: Gp | Mem): Gp {
    if (typeof target === "number") return this.#source(target);
    this.asm.ldr(x17, this.address(target, 3));
    return x17;
  }
  call(target: Label | Gp | Mem): void {
    if (target instanceof Label) this.asm.bl(target);
    else this.asm.blr(this.#destination(target));
    this.#held = undefined;
  }
  ret(): void {
    this.asm.ret();
  }
  enter(bytes: number): void {
    const frame = round16(bytes + 8);
    this.#add(sp, sp, -frame);
    this.asm.str(x30, this.#returnAddress(frame));
  }
  leave(bytes: number): void {
    const frame = round16(bytes + 8);
    this.asm.ldr(x30, this.#returnAddress(frame));
    this.#add(sp, sp, frame);
  }
  #returnAddress(frame: number): Place {
    return this.address({ base: codeGp.sp, disp: frame - 8 }, 3);
  }
  enterFromC(bytes: number): void {
    this.#keepRegisters("stp");
    this.asm.mrs(x17, "fpcr");
    this.asm.str(x17, mem(sp, savedBytes - 16));
    this.#add(sp, sp, -round16(bytes));
  }
  leaveToC(bytes: number): void {
    this.#add(sp, sp, round16(bytes));
    this.asm.ldr(x17, mem(sp, savedBytes - 16));
    this.asm.msr("fpcr", x17);
    this.#keepRegisters("ldp");
  }
  #keepRegisters(op: "stp" | "ldp"): void {
    const { asm } = this;
    const [first, ...others] = kept;
    // The first pair makes the room when it is stored, and gives it back when it is loaded, last.
    if (op === "stp") asm.pair(op, first, first + 1, pre(sp, -savedBytes));
    others.forEach((x, i) => void asm.pair(op, x, x + 1, mem(sp, 16 * (i + 1))));
    keptVectors.forEach((d, i) => void asm.pairv(op, "d", d, d + 1, mem(sp, 16 * (i + kept.length))));
    if (op === "ldp") asm.pair(op, first, first + 1, post(sp, savedBytes));
  }
  callC(address: number, args: readonly CArgument[] = []): void {
    const { places, stackBytes } = placeArguments(args, argumentRegisters);
    this.#add(sp, sp, -stackBytes);
    this.#held = undefined; // what depends on sp
    for (const { argument, register, stack } of places) {
      if ("float" in argument) {
        this.asm.movImm(w(x17), floatBits(argument.float));
        this.asm.fmovFromGp("s", register!, w(x17));
      } else if ("pointer" in argument) {
        if (register === undefined) this.asm.str(this.#source(argument.pointer), mem(sp, stack));
        else this.asm.mov(register, this.#source(argument.pointer));
      } else {
        this.asm.movImm(register ?? x17, argument.int);
        // All 8 bytes: the upper 4 belong to the same argument or to nobody.
        if (register === undefined) this.asm.str(x17, mem(sp, stack));
      }
    }
    this.asm.movImm(x17, address);
    this.asm.blr(x17);
    this.#add(sp, sp, stackBytes);
    this.#result();
  }
  syscall(): void {
    this.asm.mov(x15, x0); // r5, which keeps its value
    this.asm.svc(0);
    this.#result();
    this.asm.mov(x0, x15);
  }
  /** r0 = what C or the system gave back. */
  #result(): void {
    this.#held = undefined;
    this.asm.mov(x8, x0);
  }
  setRounding(): void {
    this.asm.msr("fpcr", xzr);
  }
  endVectors(): void {}
  ticks(): void {
    this.asm.isb(); // else the clock is read before what comes earlier is done
    this.asm.mrs(this.#target(codeGp.r0), "cntvct_el0");
  }
  pause(): void {
    this.asm.isb(); // takes about as long as x86's pause; most processors, Apple's too, take `yield` for a nop
  }

  // ---------------------------------------------------------------------------------------------- memory that threads share

  lockXadd(dst: Mem, src: Gp): void {
    this.#exchange("ldadd", dst, this.#source(src), x15);
    this.asm.mov(this.#target(src), x15);
  }
  lockAdd32(dst: Mem, src: Gp): void {
    this.#exchange("ldadd", dst, w(this.#source(src)), w(x15));
  }
  lockAddImm32(dst: Mem, value: number): void {
    this.asm.movImm(w(x14), value);
    this.#exchange("ldadd", dst, w(x14), w(x15));
  }
  xchg(dst: Mem, src: Gp): void {
    this.#exchange("swp", dst, this.#source(src), x15);
    this.asm.mov(this.#target(src), x15);
  }
  xchg32(dst: Mem, src: Gp): void {
    this.#exchange("swp", dst, w(this.#source(src)), w(x15));
    this.asm.mov(w(this.#target(src)), w(x15));
  }
  /** old = memory, memory += value or = value. */
  #exchange(op: "ldadd" | "swp", dst: Mem, value: Gp, old: Gp): void {
    const at = this.pointer(dst);
    const { asm } = this;
    if (this.#lse) asm.atomic(op, "al", value, old, at);
    else {
      const sum = old === x15 ? x17 : w(x17);
      const again = asm.here();
      asm.ldaxr(old, at);
      if (op === "ldadd") asm.alu("add", sum, old, value);
      asm.stlxr(w(x13), op === "ldadd" ? sum : value, at);
      asm.cbnz(w(x13), again);
    }
    asm.dmb("ish");
  }
  lockCmpxchg32(dst: Mem, src: Gp): void {
    const at = this.pointer(dst);
    const { asm } = this;
    const [expected, desired, old] = [w(this.#target(codeGp.r0)), w(this.#source(src)), w(x15)];
    if (this.#lse) {
      asm.mov(old, expected);
      asm.cas("al", old, desired, at);
      asm.cmp(old, expected);
    } else {
      const done = new Label();
      const again = asm.here();
      asm.ldaxr(old, at);
      asm.cmp(old, expected);
      asm.bIf("ne", done);
      asm.stlxr(w(x13), desired, at);
      asm.cbnz(w(x13), again);
      asm.bind(done);
    }
    asm.mov(expected, old);
    asm.dmb("ish");
  }
  acquire(dst: Gp, src: Mem): void {
    const at = this.pointer(src);
    this.asm.ldar(this.#target(dst), at);
  }
  acquire32(dst: Gp, src: Mem): void {
    const at = this.pointer(src);
    this.asm.ldar(w(this.#target(dst)), at);
  }
}
