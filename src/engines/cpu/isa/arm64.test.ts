// Every form of the assembler against GNU as for aarch64, one run for all, and against stored digests of its bytes for machines without it.
// `vitest run -u` with binutils-aarch64-linux-gnu writes arm64.golden.txt anew.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  Arm64,
  type Cond,
  cond,
  type Gp,
  gp,
  indexed,
  Label,
  type Mem,
  mem,
  post,
  postIndexed,
  pre,
  w,
} from "./arm64.ts";
import {
  type AluImmediateOp,
  type AluOp,
  type AtomicOp,
  aluOps,
  atomicOps,
  type Barrier,
  barriers,
  type FieldOp,
  fieldOps,
  type Order,
  type PairOp,
  type PairwiseOp,
  type Prefetch,
  pairwiseOps,
  prefetches,
  type SelectOp,
  type StructureOp,
  type SystemRegister,
  selectOps,
  systemRegisters,
  type UnaryOp,
  unaryOps,
} from "./arm64-general.ts";
import {
  type Arrangement,
  arrangements,
  type Conversion,
  conversions,
  type ElementOp,
  type ElementOpName,
  type ElementSize,
  elementOps,
  elementSizes,
  type ScalarOpName,
  type ShiftOp,
  type ShiftOpName,
  scalarOps,
  shiftOps,
  type VecOp,
  type VecOpName,
  vecOps,
} from "./arm64-vector.ts";

interface Form {
  readonly text: string;
  readonly emit: (asm: Arm64) => void;
}
const forms: Form[] = [];
const form = (text: string, emit: (asm: Arm64) => void) => void forms.push({ text, emit });

/** mulberry32: the same choice of registers in every run. */
let seed = 1;
function random(below: number): number {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % below;
}

// ------------------------------------------------------------------------------------------------ how operands are written

/** x5, w5, xzr, wsp. */
function r(register: Gp): string {
  const [letter, number] = register >= 64 ? ["w", register - 64] : ["x", register];
  if (number === 31) return `${letter}zr`;
  if (number === 32) return letter === "x" ? "sp" : "wsp";
  return `${letter}${number}`;
}
const both = (register: Gp): readonly Gp[] => [register, w(register)];
/** Registers with every bit of their field set and clear, for up to four operands. */
const gpSets = [
  [0, 0, 0, 0],
  [30, 30, 30, 30],
  [1, 2, 4, 8],
  [16, 8, 2, 1],
  [21, 10, 27, 5],
  [10, 21, 5, 26],
  [gp.xzr, 3, 9, 12],
  [7, gp.xzr, 13, 17],
  [11, 19, gp.xzr, 23],
  [6, 14, 22, gp.xzr],
] as const;
const vecSets = [
  [0, 0, 0, 0],
  [31, 31, 31, 31],
  [1, 2, 4, 8],
  [16, 8, 2, 1],
  [21, 10, 27, 5],
  [10, 21, 4, 26],
] as const;
const moreVecs = () => [...vecSets, [random(32), random(32), random(32), random(32)] as const];

const bits = { b: 8, h: 16, s: 32, d: 64 } as const;
const letter = (arrangement: Arrangement) => arrangement.at(-1) as ElementSize;
const arrangementOf = (size: number, q: number) =>
  Object.entries(arrangements).find(([, entry]) => entry.size === size && entry.q === q)?.[0] ?? "";

// ------------------------------------------------------------------------------------------------ integers

for (const sf of [0, 1]) {
  const x = (register: Gp) => (sf === 1 ? register : w(register));
  const width = sf === 1 ? 64 : 32;
  const sets = gpSets.map((set) => set.map(x) as unknown as readonly [Gp, Gp, Gp, Gp]);
  for (const [d, a, b, c] of sets) {
    form(`mov ${r(d)}, ${r(a)}`, (asm) => asm.mov(d, a));
    form(`mvn ${r(d)}, ${r(a)}`, (asm) => asm.mvn(d, a));
    form(`neg ${r(d)}, ${r(a)}`, (asm) => asm.neg(d, a));
    form(`mul ${r(d)}, ${r(a)}, ${r(b)}`, (asm) => asm.mul(d, a, b));
    form(`madd ${r(d)}, ${r(a)}, ${r(b)}, ${r(c)}`, (asm) => asm.madd(d, a, b, c));
    form(`msub ${r(d)}, ${r(a)}, ${r(b)}, ${r(c)}`, (asm) => asm.msub(d, a, b, c));
    form(`cmp ${r(a)}, ${r(b)}`, (asm) => asm.cmp(a, b));
    form(`cmp ${r(a)}, ${r(b)}, lsr #7`, (asm) => asm.cmp(a, b, ["lsr", 7]));
    form(`tst ${r(a)}, ${r(b)}`, (asm) => asm.tst(a, b));
    form(`tst ${r(a)}, ${r(b)}, ror #9`, (asm) => asm.tst(a, b, ["ror", 9]));
    for (const op of Object.keys(aluOps) as AluOp[]) {
      const long = op === "smull" || op === "umull";
      if (sf === 0 && (op === "smulh" || op === "umulh")) continue;
      const [to, text] = long ? [d & 63, `${op} ${r(d & 63)}`] : [d, `${op} ${r(d)}`];
      if (long && sf === 1) continue;
      form(`${text}, ${r(a)}, ${r(b)}`, (asm) => asm.alu(op, to, a, b));
    }
    for (const op of Object.keys(unaryOps) as UnaryOp[]) {
      if (sf === 1 || op !== "rev32") form(`${op} ${r(d)}, ${r(a)}`, (asm) => asm.unary(op, d, a));
    }
    for (const lsb of [0, 1, 13, width - 1]) {
      form(`extr ${r(d)}, ${r(a)}, ${r(b)}, #${lsb}`, (asm) => asm.extr(d, a, b, lsb));
    }
    for (const op of Object.keys(fieldOps) as FieldOp[]) {
      for (const [lsb, count] of [
        [0, 1],
        [0, 7],
        [5, 3],
        [17, width - 17],
        [width - 1, 1],
      ] as const) {
        form(`${op} ${r(d)}, ${r(a)}, #${lsb}, #${count}`, (asm) => asm.field(op, d, a, lsb, count));
      }
    }
  }
  const [d, a, b] = [x(17), x(6), x(27)];
  for (const op of ["lsl", "lsr", "asr", "ror"] as const) {
    for (let count = 0; count < width; count++) {
      form(`${op} ${r(d)}, ${r(a)}, #${count}`, (asm) => asm.aluImm(op, d, a, count));
    }
  }
  for (const op of ["add", "adds", "sub", "subs", "and", "bic", "orr", "orn", "eor", "eon", "ands", "bics"] as const) {
    const sum = /add|sub/.test(op);
    for (const kind of ["lsl", "lsr", "asr", "ror"] as const) {
      if (sum && kind === "ror") continue;
      for (const amount of [1, 2, 4, 8, 16, width - 1]) {
        form(`${op} ${r(d)}, ${r(a)}, ${r(b)}, ${kind} #${amount}`, (asm) => asm.alu(op, d, a, b, [kind, amount]));
      }
    }
    if (!sum) continue;
    for (const kind of ["uxtb", "uxth", "uxtw", "uxtx", "sxtb", "sxth", "sxtw", "sxtx"] as const) {
      const last = sf === 1 && kind.endsWith("x") ? b : w(27);
      for (const amount of [0, 1, 2, 3, 4]) {
        const first = op.endsWith("s") ? d : x(gp.sp);
        for (const to of [d, first]) {
          form(`${op} ${r(to)}, ${r(a)}, ${r(last)}, ${kind} #${amount}`, (asm) =>
            asm.alu(op, to, a, last, [kind, amount]),
          );
        }
        form(`${op} ${r(d)}, ${r(x(gp.sp))}, ${r(last)}, ${kind} #${amount}`, (asm) =>
          asm.alu(op, d, x(gp.sp), last, [kind, amount]),
        );
      }
    }
    form(`${op} ${r(d)}, ${r(x(gp.sp))}, ${r(b)}`, (asm) => asm.alu(op, d, x(gp.sp), b));
    form(`${op} ${r(d)}, ${r(x(gp.sp))}, ${r(b)}, lsl #3`, (asm) => asm.alu(op, d, x(gp.sp), b, ["lsl", 3]));
    for (const value of [0, 1, 5, 0x555, 0xaaa, 0xfff, 0x1000, 0x555000, 0xaaa000, 0xfff000]) {
      for (const to of [d, a, op.endsWith("s") ? x(gp.xzr) : x(gp.sp)]) {
        form(`${op} ${r(to)}, ${r(a)}, #${value}`, (asm) => asm.aluImm(op as AluImmediateOp, to, a, value));
        form(`${op} ${r(to)}, ${r(x(gp.sp))}, #${value}`, (asm) =>
          asm.aluImm(op as AluImmediateOp, to, x(gp.sp), value),
        );
        if (value === 0) continue;
        form(`${op} ${r(to)}, ${r(a)}, #-${value}`, (asm) => asm.aluImm(op as AluImmediateOp, to, a, -value));
      }
    }
  }
  form(`mov ${r(d)}, ${r(x(gp.sp))}`, (asm) => asm.mov(d, x(gp.sp)));
  form(`mov ${r(x(gp.sp))}, ${r(d)}`, (asm) => asm.mov(x(gp.sp), d));
  for (const value of [0, 1, 4095, 4096, -1, -4095, -8192]) {
    form(`cmp ${r(a)}, #${value}`, (asm) => asm.cmpImm(a, value));
  }
  form(`cmp ${r(x(gp.sp))}, #16`, (asm) => asm.cmpImm(x(gp.sp), 16));
  // Every bitmask.
  for (let size = 2; size <= width; size *= 2) {
    for (let ones = 1; ones < size; ones++) {
      for (let rotation = 0; rotation < size; rotation++) {
        const run = (1n << BigInt(ones)) - 1n;
        const element = BigInt.asUintN(size, (run << BigInt(rotation)) | (run >> BigInt(size - rotation)));
        let value = 0n;
        for (let at = 0; at < width; at += size) value |= element << BigInt(at);
        form(`and ${r(d)}, ${r(a)}, #0x${value.toString(16)}`, (asm) => asm.aluImm("and", d, a, value));
        if (ones !== 1 && random(8) !== 0) continue;
        form(`orr ${r(d)}, ${r(a)}, #0x${value.toString(16)}`, (asm) => asm.aluImm("orr", d, a, value));
        form(`eor ${r(x(gp.sp))}, ${r(a)}, #0x${value.toString(16)}`, (asm) =>
          asm.aluImm("eor", x(gp.sp), a, BigInt.asIntN(width, value)),
        );
        form(`tst ${r(a)}, #0x${value.toString(16)}`, (asm) => asm.tstImm(a, value));
        // One instruction: the value moves 16 bits, their complement, or this bitmask.
        form(`mov ${r(d)}, #0x${value.toString(16)}`, (asm) => asm.movImm(d, value));
      }
    }
  }
  for (const shift of sf === 1 ? [0, 16, 32, 48] : [0, 16]) {
    for (const value of [0, 1, 0x5555, 0xaaaa, 0xffff]) {
      const text = `#${value}${shift === 0 ? "" : `, lsl #${shift}`}`;
      form(`movz ${r(d)}, ${text}`, (asm) => asm.movz(d, value, shift));
      form(`movn ${r(d)}, ${text}`, (asm) => asm.movn(d, value, shift));
      form(`movk ${r(d)}, ${text}`, (asm) => asm.movk(d, value, shift));
      const moved = BigInt(value) << BigInt(shift);
      form(`mov ${r(d)}, #${moved}`, (asm) => asm.movImm(d, moved));
      const inverse = BigInt.asUintN(width, ~moved);
      form(`mov ${r(d)}, #${inverse}`, (asm) => asm.movImm(d, inverse));
      form(`mov ${r(d)}, #${BigInt.asIntN(width, inverse)}`, (asm) => asm.movImm(d, BigInt.asIntN(width, inverse)));
    }
  }
  form(`mov ${r(d)}, #0x5678; movk ${r(d)}, #0x1234, lsl #16`, (asm) => asm.movImm(d, 0x12345678));
  for (const condition of Object.keys(cond) as Cond[]) {
    for (const op of Object.keys(selectOps) as SelectOp[]) {
      form(`${op} ${r(d)}, ${r(a)}, ${r(b)}, ${condition}`, (asm) => asm.select(op, d, a, b, condition));
    }
    form(`csel ${r(x(gp.xzr))}, ${r(x(30))}, ${r(x(gp.xzr))}, ${condition}`, (asm) =>
      asm.select("csel", x(gp.xzr), x(30), x(gp.xzr), condition),
    );
    form(`cset ${r(d)}, ${condition}`, (asm) => asm.cset(d, condition));
    form(`csetm ${r(d)}, ${condition}`, (asm) => asm.csetm(d, condition));
  }
}
for (const [texts, value] of [
  [
    "movz x9, #0x4567; movk x9, #0x123, lsl #16; movk x9, #0x89ab, lsl #32; movk x9, #0xcdef, lsl #48",
    0xcdef89ab01234567n,
  ],
  ["movz x9, #0x1234, lsl #16; movk x9, #0x5678, lsl #48", 0x5678000012340000n],
  ["movn x9, #0xedcb; movk x9, #0x5678, lsl #32", 0xffff5678ffff1234n],
  ["movn x9, #0xffff; movk x9, #0xfffe, lsl #32", 0xfffffffeffff0000n],
  ["movz x9, #0xffff; movk x9, #0x1, lsl #32", 0x10000ffffn],
  ["mov x9, #0x1f; movk x9, #0x7fff, lsl #32", 0x7fff0000001fn],
] as const) {
  form(texts, (asm) => asm.movImm(9, value));
}
for (const [d, a, b] of gpSets) {
  form(`sxtw ${r(d)}, ${r(w(a))}`, (asm) => asm.sxtw(d, w(a)));
  form(`br ${r(a)}`, (asm) => asm.br(a));
  form(`blr ${r(a)}`, (asm) => asm.blr(a));
  form(`ret ${r(a)}`, (asm) => asm.ret(a));
  for (const register of Object.keys(systemRegisters) as SystemRegister[]) {
    form(`mrs ${r(b)}, ${register}`, (asm) => asm.mrs(b, register));
  }
  form(`msr fpcr, ${r(b)}`, (asm) => asm.msr("fpcr", b));
  form(`msr fpsr, ${r(b)}`, (asm) => asm.msr("fpsr", b));
}

// ------------------------------------------------------------------------------------------------ control

for (const [name, emit] of [
  ["ret", (asm) => asm.ret()],
  ["nop", (asm) => asm.nop()],
  ["yield", (asm) => asm.yield()],
  ["wfe", (asm) => asm.wfe()],
  ["sev", (asm) => asm.sev()],
  ["isb", (asm) => asm.isb()],
  ["svc #0", (asm) => asm.svc(0)],
  ["svc #65535", (asm) => asm.svc(65535)],
  ["udf #0", (asm) => asm.udf()],
  ["udf #1234", (asm) => asm.udf(1234)],
] as const satisfies [string, (asm: Arm64) => void][]) {
  form(name, emit);
}
for (const kind of Object.keys(barriers) as Barrier[]) {
  form(`dmb ${kind}`, (asm) => asm.dmb(kind));
  form(`dsb ${kind}`, (asm) => asm.dsb(kind));
}
/** A branch backward over an instruction, forward, to itself and as far as it goes. */
function branch(text: string, limit: number, emit: (asm: Arm64, label: Label) => void, step = 4): void {
  form(`1: nop; nop; ${text} 1b`, (asm) => {
    const label = asm.here();
    asm.nop();
    asm.nop();
    emit(asm, label);
  });
  form(`${text} 1f; nop; 1: nop`, (asm) => {
    const label = new Label();
    emit(asm, label);
    asm.nop();
    asm.bind(label);
    asm.nop();
  });
  for (const distance of [0, step, 4 * 0x15, limit / 2, limit - step]) {
    form(`${text} .+${distance}`, (asm) => {
      const label = new Label();
      label.at = distance;
      emit(asm, label);
    });
  }
}
branch("b", 2 ** 27, (asm, label) => asm.b(label));
branch("bl", 2 ** 27, (asm, label) => asm.bl(label));
for (const condition of Object.keys(cond) as Cond[]) {
  branch(`b.${condition}`, 2 ** 20, (asm, label) => asm.bIf(condition, label));
}
for (const base of [0, 10, 21, gp.xzr]) {
  for (const register of both(base)) {
    branch(`cbz ${r(register)},`, 2 ** 20, (asm, label) => asm.cbz(register, label));
    branch(`cbnz ${r(register)},`, 2 ** 20, (asm, label) => asm.cbnz(register, label));
    branch(`ldr ${r(register)},`, 2 ** 20, (asm, label) => asm.ldr(register, label));
    for (const bit of [0, 1, 10, 21, 31, ...(register < 64 ? [32, 42, 63] : [])]) {
      branch(`tbz ${r(register)}, #${bit},`, 2 ** 15, (asm, label) => asm.tbz(register, bit, label));
      branch(`tbnz ${r(register)}, #${bit},`, 2 ** 15, (asm, label) => asm.tbnz(register, bit, label));
    }
  }
  branch(`adr ${r(base)},`, 2 ** 20, (asm, label) => asm.adr(base, label), 1);
  for (const size of ["s", "d", "q"] as const) {
    branch(`ldr ${size}${base},`, 2 ** 20, (asm, label) => asm.ldrv(size, base, label));
  }
}

// ------------------------------------------------------------------------------------------------ memory

const bases = [0, 10, 21, gp.sp] as const;
/** Addresses of an access of so many bytes, with how they are written; those that change a base have another one than the registers used below. */
function addresses(bytes: number, changing = true): (readonly [text: string, at: Mem])[] {
  const list: (readonly [string, Mem])[] = [];
  for (const base of bases) {
    const name = r(base);
    list.push([`[${name}]`, mem(base)]);
    for (const units of [1, 0x555, 0xaaa, 4095]) list.push([`[${name}, #${units * bytes}]`, mem(base, units * bytes)]);
    for (const offset of [-1, -256, -0x55, ...(bytes === 1 ? [] : [1, 255, 0x55])]) {
      list.push([`[${name}, #${offset}]`, mem(base, offset)]);
    }
    if (changing) {
      for (const offset of [-256, -1, 0x55, 0, 1, 255, 8]) {
        list.push([`[${name}, #${offset}]!`, pre(base, offset)], [`[${name}], #${offset}`, post(base, offset)]);
      }
    }
    for (const index of [2, 21, gp.xzr]) {
      list.push([`[${name}, ${r(index)}]`, indexed(base, index)]);
      list.push([`[${name}, ${r(index)}, sxtx]`, indexed(base, index, 0, "sxtx")]);
      const shift = Math.log2(bytes);
      for (const extend of ["uxtw", "sxtw"] as const) {
        list.push([`[${name}, ${r(w(index))}, ${extend}]`, indexed(base, w(index), 0, extend)]);
        if (shift > 0) {
          list.push([`[${name}, ${r(w(index))}, ${extend} #${shift}]`, indexed(base, w(index), shift, extend)]);
        }
      }
      if (shift > 0) {
        list.push([`[${name}, ${r(index)}, lsl #${shift}]`, indexed(base, index, shift)]);
        list.push([`[${name}, ${r(index)}, sxtx #${shift}]`, indexed(base, index, shift, "sxtx")]);
      }
    }
  }
  return list;
}
/** as writes unscaled accesses with a name of their own, and takes the other one too. */
function access(name: string, register: string, bytes: number, emit: (asm: Arm64, at: Mem) => void, changing = true) {
  for (const [text, at] of addresses(bytes, changing)) {
    form(`${name} ${register}, ${text}`, (asm) => emit(asm, at));
    const unscaled = at.index === undefined && at.write === undefined && (at.offset < 0 || at.offset % bytes !== 0);
    if (unscaled) form(`${name.replace(/^(ld|st|prf)/, "$1u")} ${register}, ${text}`, (asm) => emit(asm, at));
  }
}
for (const register of [1, 30, gp.xzr]) {
  for (const sized of both(register)) {
    const bytes = sized >= 64 ? 4 : 8;
    access("ldr", r(sized), bytes, (asm, at) => asm.ldr(sized, at));
    access("str", r(sized), bytes, (asm, at) => asm.str(sized, at));
    access("ldrsb", r(sized), 1, (asm, at) => asm.ldrsb(sized, at));
    access("ldrsh", r(sized), 2, (asm, at) => asm.ldrsh(sized, at));
  }
  access("ldrsw", r(register), 4, (asm, at) => asm.ldrsw(register, at));
  access("ldrb", r(w(register)), 1, (asm, at) => asm.ldrb(w(register), at));
  access("ldrh", r(w(register)), 2, (asm, at) => asm.ldrh(w(register), at));
  access("strb", r(w(register)), 1, (asm, at) => asm.strb(w(register), at));
  access("strh", r(w(register)), 2, (asm, at) => asm.strh(w(register), at));
}
for (const size of ["b", "h", "s", "d", "q"] as const) {
  const bytes = { b: 1, h: 2, s: 4, d: 8, q: 16 }[size];
  for (const register of [0, 21, 31]) {
    access("ldr", `${size}${register}`, bytes, (asm, at) => asm.ldrv(size, register, at));
    access("str", `${size}${register}`, bytes, (asm, at) => asm.strv(size, register, at));
  }
}
for (const op of Object.keys(prefetches) as Prefetch[]) access("prfm", op, 8, (asm, at) => asm.prfm(op, at), false);

for (const op of ["ldp", "stp", "ldnp", "stnp"] as const satisfies readonly PairOp[]) {
  const pairs = (text: (i: 0 | 1 | 2) => string, bytes: number, emit: (asm: Arm64, i: 0 | 1 | 2, at: Mem) => void) => {
    for (const i of [0, 1, 2] as const) {
      for (const base of bases) {
        for (const units of [0, 1, -1, 0x15, -0x16, 63, -64]) {
          const offset = units * bytes;
          form(`${op} ${text(i)}, [${r(base)}, #${offset}]`, (asm) => emit(asm, i, mem(base, offset)));
          if (op.length > 3) continue;
          form(`${op} ${text(i)}, [${r(base)}, #${offset}]!`, (asm) => emit(asm, i, pre(base, offset)));
          form(`${op} ${text(i)}, [${r(base)}], #${offset}`, (asm) => emit(asm, i, post(base, offset)));
        }
      }
    }
  };
  const registers = [
    [1, 2],
    [30, gp.xzr],
    [gp.xzr, 5],
  ] as const;
  const vectors = [
    [0, 31],
    [21, 10],
    [31, 0],
  ] as const;
  for (const widen of [(register: Gp) => register, w]) {
    const pair = (i: 0 | 1 | 2) => registers[i].map(widen) as [Gp, Gp];
    pairs(
      (i) => pair(i).map(r).join(", "),
      widen === w ? 4 : 8,
      (asm, i, at) => asm.pair(op, ...pair(i), at),
    );
  }
  for (const size of ["s", "d", "q"] as const) {
    pairs(
      (i) => vectors[i].map((register) => `${size}${register}`).join(", "),
      { s: 4, d: 8, q: 16 }[size],
      (asm, i, at) => asm.pairv(op, size, vectors[i][0], vectors[i][1], at),
    );
  }
}

for (const [a, b, c] of gpSets) {
  for (const base of bases) {
    const at = `[${r(base)}]`;
    for (const widen of [(register: Gp) => register, w]) {
      const [x, y] = [widen(a), widen(b)];
      form(`ldar ${r(x)}, ${at}; ldaxr ${r(y)}, ${at}; ldxr ${r(x)}, ${at}; stlr ${r(y)}, ${at}`, (asm) => {
        asm.ldar(x, base);
        asm.ldaxr(y, base);
        asm.ldxr(x, base);
        asm.stlr(y, base);
      });
      if (c !== a && c !== base) {
        form(`stxr ${r(w(c))}, ${r(x)}, ${at}`, (asm) => asm.stxr(w(c), x, base));
        form(`stlxr ${r(w(c))}, ${r(x)}, ${at}`, (asm) => asm.stlxr(w(c), x, base));
      }
      for (const order of ["", "a", "l", "al"] as const satisfies readonly Order[]) {
        for (const op of Object.keys(atomicOps) as AtomicOp[]) {
          form(`${op}${order} ${r(x)}, ${r(y)}, ${at}`, (asm) => asm.atomic(op, order, x, y, base));
        }
        form(`cas${order} ${r(x)}, ${r(y)}, ${at}`, (asm) => asm.cas(order, x, y, base));
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------ vectors

for (const [name, op] of Object.entries(vecOps) as [VecOpName, VecOp][]) {
  const zero = name.endsWith("Zero");
  const mnemonic = zero ? name.slice(0, -4) : name;
  for (const arrangement of op.types) {
    const { size, q } = arrangements[arrangement];
    // What the sources have where it is not the result's.
    const half = arrangementOf(size - 1, op.high ? 1 : 0);
    const sources: Readonly<Record<VecOp["shape"], readonly string[]>> = {
      same: [arrangement, arrangement],
      across: [arrangement],
      long: [half, half],
      wide: [arrangement, half],
      narrow: [arrangementOf(size + 1, 1)],
      dot: ["8b", "16b"].slice(q, q + 1).flatMap((type) => [type, type]),
      fmlal: q === 1 ? ["4h", "4h"] : ["2h", "2h"],
    };
    for (const [d, a, b] of moreVecs()) {
      const to = op.shape === "across" ? `${letter(arrangement)}${d}` : `v${d}.${arrangement}`;
      const [first, second] = sources[op.shape];
      if (op.sources === 2) {
        form(`${mnemonic} ${to}, v${a}.${first}, v${b}.${second}`, (asm) => asm.v(name, arrangement, d, a, b));
      } else {
        const last = !zero ? "" : mnemonic.startsWith("f") ? ", #0.0" : ", #0";
        form(`${mnemonic} ${to}, v${a}.${first}${last}`, (asm) => asm.v(name, arrangement, d, a));
      }
    }
  }
}
for (const [name, op] of Object.entries(elementOps) as [ElementOpName, ElementOp][]) {
  for (const arrangement of op.types) {
    const element = op.element ?? letter(arrangement);
    const dot = op.element === "s";
    const source =
      op.element === undefined ? arrangement : dot ? `${arrangement === "2s" ? 8 : 16}b` : `${arrangement[0]}h`;
    for (const [d, a, any] of moreVecs()) {
      const b = element === "h" ? any & 15 : any;
      for (let lane = 0; lane < 128 / bits[element]; lane++) {
        form(`${name} v${d}.${arrangement}, v${a}.${source}, v${b}.${dot ? "4b" : element}[${lane}]`, (asm) =>
          asm.element(name, arrangement, d, a, b, lane),
        );
      }
    }
  }
}
for (const [name, op] of Object.entries(shiftOps) as [ShiftOpName, ShiftOp][]) {
  for (const arrangement of op.types) {
    const { size } = arrangements[arrangement];
    const source =
      op.shape === "long"
        ? arrangementOf(size - 1, op.high ? 1 : 0)
        : op.shape === "narrow"
          ? arrangementOf(size + 1, 1)
          : arrangement;
    const width = 8 << (op.shape === "long" ? size - 1 : size);
    const left = op.shape === "left" || op.shape === "long";
    for (let i = 0; i < width; i++) {
      const [d, a] = [random(32), random(32)];
      const count = left ? i : i + 1;
      form(`${name} v${d}.${arrangement}, v${a}.${source}, #${count}`, (asm) =>
        asm.vshift(name, arrangement, d, a, count),
      );
    }
  }
}
for (const [d, a] of moreVecs()) form(`mov v${d}.16b, v${a}.16b`, (asm) => asm.vmov(d, a));
for (const arrangement of Object.keys(arrangements) as Arrangement[]) {
  if (arrangement === "1d") continue;
  const element = letter(arrangement);
  for (const [d, a, b] of moreVecs()) {
    const general = element === "d" ? b : w(b);
    form(`dup v${d}.${arrangement}, ${r(general)}`, (asm) => asm.dupGp(arrangement, d, general));
    for (let lane = 0; lane < 128 / bits[element]; lane++) {
      form(`dup v${d}.${arrangement}, v${a}.${element}[${lane}]`, (asm) => asm.dup(arrangement, d, a, lane));
    }
  }
}
for (const size of Object.keys(elementSizes) as ElementSize[]) {
  const lanes = 128 / bits[size];
  for (const [d, a, b, c] of moreVecs()) {
    for (let lane = 0; lane < lanes; lane++) {
      const general = size === "d" ? b : w(b);
      const other = (lane * 5 + c) % lanes;
      form(`mov ${size}${d}, v${a}.${size}[${lane}]`, (asm) => asm.lane(size, d, a, lane));
      form(`ins v${d}.${size}[${lane}], v${a}.${size}[${other}]`, (asm) => asm.ins(size, d, lane, a, other));
      form(`ins v${d}.${size}[${lane}], ${r(general)}`, (asm) => asm.insGp(size, d, lane, general));
      form(`umov ${r(general)}, v${a}.${size}[${lane}]`, (asm) => asm.umov(size, general, a, lane));
      if (size === "d") continue;
      form(`smov ${r(b)}, v${a}.${size}[${lane}]`, (asm) => asm.smov(size, b, a, lane));
      if (size !== "s") form(`smov ${r(w(b))}, v${a}.${size}[${lane}]`, (asm) => asm.smov(size, w(b), a, lane));
    }
  }
}
for (const imm8 of [0, 1, 2, 4, 8, 16, 32, 64, 128, 0x55, 0xaa, 0xfe, 0xff]) {
  const d = random(32);
  for (const arrangement of ["8b", "16b"] as const) {
    form(`movi v${d}.${arrangement}, #${imm8}`, (asm) => asm.movi(arrangement, d, imm8));
  }
  for (const arrangement of ["4h", "8h", "2s", "4s"] as const) {
    const width = bits[letter(arrangement)];
    const vector = `v${d}.${arrangement}, #${imm8}`;
    for (let shift = 0; shift < width && (shift === 0 || imm8 > 0); shift += 8) {
      const value = BigInt(imm8) << BigInt(shift);
      form(`movi ${vector}, lsl #${shift}`, (asm) => asm.movi(arrangement, d, value));
      // What movi makes as well is left to it.
      if (imm8 === 255 && (width === 16 || shift === 24)) continue;
      form(`mvni ${vector}, lsl #${shift}`, (asm) => asm.movi(arrangement, d, BigInt.asIntN(width, ~value)));
      form(`mvni ${vector}, lsl #${shift}`, (asm) => asm.movi(arrangement, d, BigInt.asUintN(width, ~value)));
    }
    if (width === 16 || imm8 === 0) continue;
    for (const shift of [8, 16]) {
      const value = (BigInt(imm8) << BigInt(shift)) | ((1n << BigInt(shift)) - 1n);
      form(`movi ${vector}, msl #${shift}`, (asm) => asm.movi(arrangement, d, value));
      if (imm8 === 255 && shift === 16) continue;
      form(`mvni ${vector}, msl #${shift}`, (asm) => asm.movi(arrangement, d, BigInt.asIntN(width, ~value)));
    }
  }
  let value = 0n;
  for (let byte = 0; byte < 8; byte++) if ((imm8 >> byte) & 1) value |= 0xffn << BigInt(8 * byte);
  form(`movi v${d}.2d, #0x${value.toString(16)}`, (asm) => asm.movi("2d", d, value));
}
for (let imm8 = 0; imm8 < 256; imm8++) {
  const value = (imm8 & 128 ? -1 : 1) * 2 ** ((((imm8 >> 4) & 7) ^ 4) - 3) * (1 + (imm8 & 15) / 16);
  const d = random(32);
  for (const arrangement of ["4h", "8h", "2s", "4s", "2d"] as const) {
    form(`fmov v${d}.${arrangement}, #${value.toFixed(8)}`, (asm) => asm.fmovImm(arrangement, d, value));
  }
  for (const precision of ["h", "s", "d"] as const) {
    form(`fmov ${precision}${d}, #${value.toFixed(8)}`, (asm) => asm.fmovScalar(precision, d, value));
  }
}
for (const arrangement of ["8b", "16b"] as const) {
  for (const [d, a, b] of moreVecs()) {
    for (let start = 0; start < (arrangement === "8b" ? 8 : 16); start++) {
      form(`ext v${d}.${arrangement}, v${a}.${arrangement}, v${b}.${arrangement}, #${start}`, (asm) =>
        asm.ext(arrangement, d, a, b, start),
      );
    }
    for (const count of [1, 2, 3, 4]) {
      const first = Math.min(a, 32 - count);
      const table = Array.from({ length: count }, (_, i) => `v${first + i}.16b`).join(", ");
      for (const op of ["tbl", "tbx"] as const) {
        form(`${op} v${d}.${arrangement}, {${table}}, v${b}.${arrangement}`, (asm) =>
          asm.tbl(op, arrangement, d, first, count, b),
        );
      }
    }
  }
}

/** Addresses of structures of so many bytes. */
function structureAddresses(bytes: number): (readonly [string, Mem])[] {
  return bases.flatMap((base) => [
    [`[${r(base)}]`, mem(base)] as const,
    [`[${r(base)}], #${bytes}`, post(base, bytes)] as const,
    [`[${r(base)}], x${base === 10 ? 21 : 30}`, postIndexed(base, base === 10 ? 21 : 30)] as const,
  ]);
}
for (const op of ["ld1", "st1", "ld2", "st2", "ld3", "st3", "ld4", "st4"] as const satisfies readonly StructureOp[]) {
  const elements = Number(op[2]);
  for (const first of [0, 10, 21, 28]) {
    for (const arrangement of Object.keys(arrangements) as Arrangement[]) {
      if (arrangement === "1d" && elements > 1) continue;
      for (const count of elements === 1 ? [1, 2, 3, 4] : [elements]) {
        const list = Array.from({ length: count }, (_, i) => `v${first + i}.${arrangement}`).join(", ");
        for (const [text, at] of structureAddresses(count * (8 << arrangements[arrangement].q))) {
          form(`${op} {${list}}, ${text}`, (asm) => asm.structure(op, arrangement, first, at, count));
        }
      }
    }
    for (const size of Object.keys(elementSizes) as ElementSize[]) {
      const list = Array.from({ length: elements }, (_, i) => `v${first + i}.${size}`).join(", ");
      for (let lane = 0; lane < 128 / bits[size]; lane++) {
        const all = structureAddresses((elements * bits[size]) / 8);
        for (const [text, at] of [all[random(all.length)]!, all[random(all.length)]!]) {
          form(`${op} {${list}}[${lane}], ${text}`, (asm) => asm.structureLane(op, size, first, lane, at));
        }
      }
    }
  }
}
for (const arrangement of Object.keys(arrangements) as Arrangement[]) {
  for (const [d] of vecSets) {
    for (const [text, at] of structureAddresses(bits[letter(arrangement)] / 8)) {
      form(`ld1r {v${d}.${arrangement}}, ${text}`, (asm) => asm.ld1r(arrangement, d, at));
    }
  }
}

// ------------------------------------------------------------------------------------------------ scalar floating point

for (const precision of ["h", "s", "d"] as const) {
  const p = (register: number) => `${precision}${register}`;
  for (const [d, a, b, c] of moreVecs()) {
    for (const [name, { sources }] of Object.entries(scalarOps) as [ScalarOpName, { sources: 1 | 2 | 3 }][]) {
      const operands = [a, b, c].slice(0, sources);
      form(`${name} ${[d, ...operands].map(p).join(", ")}`, (asm) =>
        asm.f(name, precision, d, a, operands[1], operands[2]),
      );
    }
    form(`fcmp ${p(a)}, ${p(b)}`, (asm) => asm.fcmp(precision, a, b));
    form(`fcmp ${p(a)}, #0.0`, (asm) => asm.fcmp(precision, a));
    for (const condition of Object.keys(cond) as Cond[]) {
      form(`fcsel ${p(d)}, ${p(a)}, ${p(b)}, ${condition}`, (asm) => asm.fcsel(precision, d, a, b, condition));
    }
    for (const to of ["h", "s", "d"] as const) {
      if (to !== precision) form(`fcvt ${to}${d}, ${p(a)}`, (asm) => asm.fcvt(to, d, precision, a));
    }
    for (const register of both(b)) {
      for (const name of Object.keys(conversions) as Conversion[]) {
        form(`${name} ${r(register)}, ${p(a)}`, (asm) => asm.toInteger(name, register, precision, a));
      }
      for (const name of ["scvtf", "ucvtf"] as const) {
        form(`${name} ${p(d)}, ${r(register)}`, (asm) => asm.fromInteger(name, precision, d, register));
      }
      if (precision !== "h" && (precision === "d") !== register < 64) continue;
      form(`fmov ${r(register)}, ${p(a)}`, (asm) => asm.fmovToGp(precision, register, a));
      form(`fmov ${p(d)}, ${r(register)}`, (asm) => asm.fmovFromGp(precision, d, register));
    }
    for (const name of Object.keys(pairwiseOps) as PairwiseOp[]) {
      form(`${name} ${p(d)}, v${a}.2${precision}`, (asm) => asm.pairwise(name, precision, d, a));
    }
  }
}

// ------------------------------------------------------------------------------------------------ the comparison

const ours = forms.map(({ emit }) => {
  const asm = new Arm64();
  emit(asm);
  return asm.finish();
});
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const slot = 32;

const prefix = ["aarch64-linux-gnu-", ...(process.platform === "linux" && process.arch === "arm64" ? [""] : [])].find(
  (name) => ["as", "objcopy"].every((tool) => spawnSync(`${name}${tool}`, ["--version"]).status === 0),
);

function tool(name: string, args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(`${prefix}${name}`, args, { encoding: "utf8", maxBuffer: 2 ** 28 });
  if (error !== undefined || status !== 0) throw new Error(`${name}: ${error?.message ?? stderr.slice(0, 2000)}`);
}

/** What as makes of every form: one slot each, its last byte the length. */
function assemble(texts: readonly string[]): Uint8Array[] {
  const folder = mkdtempSync(join(tmpdir(), "anekit-as-"));
  try {
    const at = (name: string) => join(folder, name);
    const lines = texts.map((text, i) => `S${i}: ${text}\nE${i}: .org ${slot * i + slot - 1}, 0\n.byte E${i} - S${i}`);
    writeFileSync(at("in.s"), `.arch armv8.2-a+fp16+fp16fml+dotprod+lse\n${lines.join("\n")}\n`);
    tool("as", ["-o", at("out.o"), at("in.s")]);
    tool("objcopy", ["-O", "binary", "-j", ".text", at("out.o"), at("out.bin")]);
    const image = readFileSync(at("out.bin"));
    return texts.map((_, i) => image.subarray(slot * i, slot * i + image[slot * i + slot - 1]!));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What code of moves to x7 leaves there: movz, movn, movk, or orr with a bitmask decoded as Arm's manual says. */
function runMoves(code: Uint8Array): bigint {
  let value = 0n;
  const view = new DataView(code.buffer);
  for (let at = 0; at < code.length; at += 4) {
    const word = view.getUint32(at, true);
    const wide = word >>> 31 === 1;
    const field = (low: number, count: number) => (word >>> low) & (2 ** count - 1);
    if (field(23, 6) === 0b100101) {
      const shift = BigInt(16 * field(21, 2));
      const moved = BigInt(field(5, 16)) << shift;
      const opcode = field(29, 2);
      value = opcode === 3 ? (value & ~(0xffffn << shift)) | moved : opcode === 2 ? moved : ~moved;
    } else if (field(23, 8) === 0b01100100) {
      const [n, immr, imms] = [field(22, 1), field(16, 6), field(10, 6)];
      const size = 1 << (31 - Math.clz32((n << 6) | (~imms & 63)));
      const [ones, rotation] = [(imms & (size - 1)) + 1, immr & (size - 1)];
      const run = (1n << BigInt(ones)) - 1n;
      const element = BigInt.asUintN(size, (run >> BigInt(rotation)) | (run << BigInt(size - rotation)));
      for (let i = 0; i < 64; i += size) value |= element << BigInt(i);
    } else throw new Error(`no move: ${word.toString(16)}`);
    value = BigInt.asUintN(wide ? 64 : 32, value);
  }
  return value;
}

/** What is refused, by the message. */
const refusals: Readonly<Record<string, (asm: Arm64) => void>> = {
  "add: registers of different widths": (asm) => asm.alu("add", 1, w(2), 3),
  "add: register 33 cannot be used here": (asm) => asm.alu("add", 33, 2, 3),
  "add: register -1 cannot be used here": (asm) => asm.alu("add", 1, 2, -1),
  "sub: register 1.5 cannot be used here": (asm) => asm.alu("sub", 1.5, 2, 3),
  "subs: register 65.5 cannot be used here": (asm) => asm.alu("subs", w(1), w(2), w(1.5)),
  "orr: register sp cannot be used here": (asm) => asm.alu("orr", gp.sp, 2, 3),
  "add: register xzr cannot be used here": (asm) => asm.aluImm("add", gp.xzr, 1, 1),
  "adds: register sp cannot be used here": (asm) => asm.aluImm("adds", gp.sp, 1, 1),
  "madd: register sp cannot be used here": (asm) => asm.madd(1, 2, 3, gp.sp),
  "add: immediate 4097 is not a multiple of 4096 from 0 to 16773120": (asm) => asm.aluImm("add", 1, 1, 4097),
  "sub: immediate 16777216 is not a multiple of 4096": (asm) => asm.aluImm("sub", 1, 1, 0x1000000),
  "add: immediate 0.5 is not a whole number": (asm) => asm.aluImm("add", 1, 1, 0.5),
  "add: shift 64 is not a whole number from 0 to 63": (asm) => asm.alu("add", 1, 2, 3, ["lsl", 64]),
  "and: shift 32 is not a whole number from 0 to 31": (asm) => asm.alu("and", w(1), w(2), w(3), ["lsl", 32]),
  "add: no modifier ror": (asm) => asm.alu("add", 1, 2, 3, ["ror", 1]),
  "and: no modifier sxtw": (asm) => asm.alu("and", 1, 2, 3, ["sxtw", 0]),
  "udiv: takes no modifier": (asm) => asm.alu("udiv", 1, 2, 3, ["lsl", 1]),
  "add: shift 5 is not a whole number from 0 to 4": (asm) => asm.alu("add", 1, 2, w(3), ["sxtw", 5]),
  "add: sxtw of a register of 64 bits": (asm) => asm.alu("add", 1, 2, 3, ["sxtw", 0]),
  "smull: the factors must have 32 bits, the result 64": (asm) => asm.alu("smull", 1, 2, 3),
  "umulh: the factors must have 64 bits, the result 64": (asm) => asm.alu("umulh", w(1), w(2), w(3)),
  "and: immediate 0 is no bitmask of 64 bits": (asm) => asm.aluImm("and", 1, 2, 0),
  "and: immediate -1 is no bitmask of 32 bits": (asm) => asm.aluImm("and", w(1), w(2), -1),
  "orr: immediate 5 is no bitmask of 64 bits": (asm) => asm.aluImm("orr", 1, 2, 5),
  "eor: immediate 4294967296 is no bitmask of 32 bits": (asm) => asm.aluImm("eor", w(1), w(2), 2 ** 32),
  "lsl: shift 64 is not a whole number from 0 to 63": (asm) => asm.aluImm("lsl", 1, 2, 64),
  "ror: shift 32 is not": (asm) => asm.aluImm("ror", w(1), w(2), 32),
  "movz: immediate 65536 is not": (asm) => asm.movz(1, 65536),
  "movk: shift 32 is not a multiple of 16 from 0 to 16": (asm) => asm.movk(w(1), 1, 32),
  "movn: shift 8 is not a multiple of 16 from 0 to 48": (asm) => asm.movn(1, 1, 8),
  "mov: immediate 4294967296 does not fit 32 bits": (asm) => asm.movImm(w(1), 2 ** 32),
  "mov: immediate -2147483649 does not fit 32 bits": (asm) => asm.movImm(w(1), -2147483649),
  "rev32: needs 64-bit registers": (asm) => asm.unary("rev32", w(1), w(2)),
  "ubfx: width 33 is not a whole number from 1 to 32": (asm) => asm.field("ubfx", 1, 2, 32, 33),
  "bfi: width 0 is not": (asm) => asm.field("bfi", 1, 2, 3, 0),
  "sxtw: extends 32 bits to 64": (asm) => asm.sxtw(1, 2),
  "tbz: bit 32 is not a whole number from 0 to 31": (asm) => asm.tbz(w(1), 32, new Label()),
  "br: a 32-bit register cannot be used here": (asm) => asm.br(w(1)),
  "ret: register sp cannot be used here": (asm) => asm.ret(gp.sp),
  "svc: immediate 65536 is not": (asm) => asm.svc(65536),
  "mrs: a 32-bit register cannot be used here": (asm) => asm.mrs(w(1), "fpcr"),
  "ldr: offset 32768 is not a whole number from -256 to 255": (asm) => asm.ldr(1, mem(2, 32768)),
  "str: offset 257 is not": (asm) => asm.strv("q", 1, mem(2, 257)),
  "ldr: offset -257 is not": (asm) => asm.ldr(1, mem(2, -257)),
  "ldr: offset 256 is not": (asm) => asm.ldr(1, pre(2, 256)),
  "ldr: changes its base and moves it": (asm) => asm.ldr(2, post(2, 8)),
  "ldr: shift 2 is neither 0 nor 3": (asm) => asm.ldr(1, indexed(2, 3, 2)),
  "ldr: lsl of an index of another width": (asm) => asm.ldr(1, indexed(2, w(3))),
  "ldr: uxtw of an index of another width": (asm) => asm.ldr(1, indexed(2, 3, 0, "uxtw")),
  "ldr: register xzr cannot be used here": (asm) => asm.ldr(1, mem(gp.xzr)),
  "ldr: an index allows no offset": (asm) => asm.ldr(1, postIndexed(2, 3)),
  "ldr: size 1 is not": (asm) => asm.ldrv("h", 1, new Label()),
  "ldr: vector register 32 is not a whole number from 0 to 31": (asm) => asm.ldrv("q", 32, mem(1)),
  "ldrb: needs a 32-bit register": (asm) => asm.ldrb(1, mem(2)),
  "ldrsw: a 32-bit register cannot be used here": (asm) => asm.ldrsw(w(1), mem(2)),
  "prfm: cannot change its base": (asm) => asm.prfm("pldl1keep", post(1, 8)),
  "ldp: offset 512 is not a multiple of 8 from -512 to 504": (asm) => asm.pair("ldp", 1, 2, mem(3, 512)),
  "ldp: offset 4 is not a multiple of 8": (asm) => asm.pair("ldp", 1, 2, mem(3, 4)),
  "stp: offset 1024 is not a multiple of 16": (asm) => asm.pairv("stp", "q", 1, 2, mem(3, 1024)),
  "ldp: loads one register twice": (asm) => asm.pair("ldp", 1, 1, mem(3)),
  "ldp: changes its base and moves it": (asm) => asm.pair("ldp", 1, 3, post(3, 16)),
  "stnp: cannot change its base": (asm) => asm.pair("stnp", 1, 2, post(3, 16)),
  "ldp: takes no index": (asm) => asm.pair("ldp", 1, 2, indexed(3, 4)),
  "stlxr: the status register must be another one": (asm) => asm.stlxr(w(1), w(1), 2),
  "stxr: the status register has 32 bits": (asm) => asm.stxr(3, 1, 2),
  "ldadd: registers of different widths": (asm) => asm.atomic("ldadd", "al", 1, w(2), 3),
  "cas: a 32-bit register cannot be used here": (asm) => asm.cas("", 1, 2, w(3)),
  "fadd: no arrangement 8b": (asm) => asm.v("fadd", "8b", 1, 2, 3),
  "fadd: vector register 32 is not": (asm) => asm.v("fadd", "4s", 1, 2, 32),
  "fadd: vector register -1 is not": (asm) => asm.v("fadd", "4s", -1, 2, 3),
  "fadd: takes 2 sources": (asm) => asm.v("fadd", "4s", 1, 2),
  "fneg: takes 1 source": (asm) => asm.v("fneg", "4s", 1, 2, 3),
  "mul: no arrangement 2d": (asm) => asm.v("mul", "2d", 1, 2, 3),
  "fcvtn: no arrangement 8h": (asm) => asm.v("fcvtn", "8h", 1, 2),
  "xtn2: no arrangement 8b": (asm) => asm.v("xtn2", "8b", 1, 2),
  "fmla: lane 4 is not a whole number from 0 to 3": (asm) => asm.element("fmla", "4s", 1, 2, 3, 4),
  "fmla: vector register 16 is not a whole number from 0 to 15": (asm) => asm.element("fmla", "8h", 1, 2, 16, 0),
  "mla: no arrangement 2d": (asm) => asm.element("mla", "2d", 1, 2, 3, 0),
  "shl: shift 32 is not a whole number from 0 to 31": (asm) => asm.vshift("shl", "4s", 1, 2, 32),
  "sshr: shift 0 is not a whole number from 1 to 32": (asm) => asm.vshift("sshr", "4s", 1, 2, 0),
  "ushll: shift 16 is not a whole number from 0 to 15": (asm) => asm.vshift("ushll", "4s", 1, 2, 16),
  "shrn: shift 17 is not a whole number from 1 to 16": (asm) => asm.vshift("shrn", "4h", 1, 2, 17),
  "dup: lane 8 is not a whole number from 0 to 7": (asm) => asm.dup("4h", 1, 2, 8),
  "dup: 4s and a register of 64 bits": (asm) => asm.dupGp("4s", 1, 2),
  "ins: d and a register of 32 bits": (asm) => asm.insGp("d", 1, 0, w(2)),
  "umov: s and a register of 64 bits": (asm) => asm.umov("s", 1, 2, 0),
  "smov: s needs a 64-bit register": (asm) => asm.smov("s", w(1), 2, 0),
  "movi: immediate 257 has no encoding for 4s": (asm) => asm.movi("4s", 1, 257),
  "movi: immediate 256 has no encoding for 16b": (asm) => asm.movi("16b", 1, 256),
  "movi: immediate 1 has no encoding for 2d": (asm) => asm.movi("2d", 1, 1),
  "fmov: immediate 0 is no float of 8 bits": (asm) => asm.fmovImm("4s", 1, 0),
  "fmov: immediate 0.1 is no float of 8 bits": (asm) => asm.fmovScalar("s", 1, 0.1),
  "fmov: immediate 32 is no float of 8 bits": (asm) => asm.fmovScalar("s", 1, 32),
  "fmov: immediate NaN is no float of 8 bits": (asm) => asm.fmovScalar("s", 1, NaN),
  "ext: byte 8 is not a whole number from 0 to 7": (asm) => asm.ext("8b", 1, 2, 3, 8),
  "tbl: registers 5 is not": (asm) => asm.tbl("tbl", "16b", 1, 2, 5, 3),
  "tbl: first vector register 30 is not a whole number from 0 to 28": (asm) => asm.tbl("tbl", "16b", 1, 30, 4, 3),
  "ld4: first vector register 29 is not": (asm) => asm.structure("ld4", "4s", 29, mem(1)),
  "ld4: of 3 registers": (asm) => asm.structure("ld4", "4s", 1, mem(1), 3),
  "ld1: offset 16 is not a whole number from 32 to 32": (asm) => asm.structure("ld1", "4s", 1, post(1, 16), 2),
  "ld1: takes no offset": (asm) => asm.structure("ld1", "4s", 1, mem(1, 16)),
  "ld1: changes its base afterwards only": (asm) => asm.structure("ld1", "4s", 1, pre(1, 16)),
  "ld2: no arrangement 1d": (asm) => asm.structure("ld2", "1d", 1, mem(1)),
  "st1: lane 4 is not": (asm) => asm.structureLane("st1", "s", 1, 4, mem(1)),
  "ld1r: index register 31 is not": (asm) => asm.ld1r("4s", 1, postIndexed(1, gp.xzr)),
  "fmul: takes 2 sources": (asm) => asm.f("fmul", "s", 1, 2),
  "fsqrt: takes 1 source": (asm) => asm.f("fsqrt", "s", 1, 2, 3),
  "fcvt: from s to s": (asm) => asm.fcvt("s", 1, "s", 2),
  "fmov: d and 32 bits": (asm) => asm.fmovToGp("d", w(1), 2),
  "fmov: s and 64 bits": (asm) => asm.fmovFromGp("s", 1, 2),
  "align: boundary 2 is not a multiple of 4": (asm) => asm.align(2),
};

/** For every instruction a digest over all its forms and their bytes, and one of them. */
function digests(bytes: readonly Uint8Array[]): string {
  const groups = new Map<string, string[]>();
  for (const [i, { text }] of forms.entries()) {
    const name = text.replace(/^1: nop; nop; /, "").match(/^\S+/)![0];
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name)!.push(`${text}: ${hex(bytes[i]!)}`);
  }
  const lines = [...groups].map(([name, list]) => {
    const digest = createHash("sha256").update(list.join("\n")).digest("hex").slice(0, 16);
    return `${name} ${list.length} ${digest} ${list[Math.min(list.length - 1, 2)]}`;
  });
  return `# Instruction, forms, digest of all forms with the bytes that GNU as 2.40 makes of them, one form. See arm64.test.ts.\n${lines.join("\n")}\n`;
}

describe("arm64 assembler", () => {
  const theirs = prefix === undefined ? undefined : assemble(forms.map(({ text }) => text));

  test("encodes every form as GNU as does", { timeout: 120_000 }, ({ skip }) => {
    skip(theirs === undefined, "no GNU binutils for aarch64 (binutils-aarch64-linux-gnu) here");
    const wrong = forms.flatMap(({ text }, i) => {
      const [a, b] = [hex(ours[i]!), hex(theirs![i]!)];
      return a === b ? [] : [`${text}: ${a}, as ${b}`];
    });
    expect(wrong).toEqual([]);
  });

  test("encodes every form to bytes with the stored digest", async () => {
    expect(forms.length).toBeGreaterThan(30_000);
    if (theirs !== undefined) await expect(digests(theirs)).toMatchFileSnapshot("arm64.golden.txt");
    else expect(digests(ours)).toBe(readFileSync(new URL("arm64.golden.txt", import.meta.url), "utf8"));
  });

  test("takes addresses by page as GNU ld does", () => {
    const asm = new Arm64();
    const [near, far] = [new Label(), new Label()];
    const words = (count: number) => {
      for (let i = 0; i < count; i++) asm.dword(0);
    };
    const start = asm.here();
    asm.adrp(3, near);
    asm.addLow12(4, 3, near);
    words(1500);
    asm.bind(near);
    asm.adrp(28, far);
    asm.addLow12(gp.sp, 28, far);
    asm.adrp(21, start);
    asm.addLow12(21, 21, start);
    words(10_000);
    asm.bind(far);
    const code = asm.finish();
    expect([hex(code.subarray(0, 8)), hex(code.subarray(6008, 6024))]).toEqual([
      "030000b064e01d91",
      "5c0000d09f230f91f5fffff0b5020091",
    ]);
  });

  test("refers back as far as it can, and no further", () => {
    /** The last instruction of code that refers to its start from so many bytes on. */
    const back = (bytes: number, emit: (asm: Arm64, label: Label) => void) => {
      const asm = new Arm64();
      const label = asm.here();
      while (asm.length < bytes) asm.dword(0);
      emit(asm, label);
      return hex(asm.finish().subarray(bytes));
    };
    expect(back(2 ** 15, (asm, label) => asm.tbz(1, 0, label))).toBe("01000436");
    expect(back(2 ** 20 - 4, (asm, label) => asm.adr(1, label))).toBe("21008010");
    expect(back(2 ** 20, (asm, label) => asm.bIf("ne", label))).toBe("01008054");
    for (const [bytes, emit, message] of [
      [
        2 ** 15 + 4,
        (asm, label) => asm.tbnz(1, 0, label),
        "tbnz: distance -32772 is not a multiple of 4 from -32768 to",
      ],
      [
        2 ** 20 + 4,
        (asm, label) => asm.bIf("ne", label),
        "b.ne: distance -1048580 is not a multiple of 4 from -1048576",
      ],
      [2 ** 20 + 4, (asm, label) => asm.cbz(1, label), "cbz: distance -1048580"],
      [2 ** 20 + 4, (asm, label) => asm.ldr(1, label), "ldr: distance -1048580"],
      [2 ** 20 + 4, (asm, label) => asm.adr(1, label), "adr: distance -1048580 is not a whole number from -1048576 to"],
    ] as const satisfies [number, (asm: Arm64, label: Label) => void, string][]) {
      expect(() => back(bytes, emit)).toThrow(message);
    }
    const asm = new Arm64();
    const label = new Label();
    label.at = 2 ** 27;
    asm.b(label);
    expect(() => asm.finish()).toThrow("b: distance 134217728 is not a multiple of 4 from -134217728 to 134217724");
  });

  test("aligns with instructions that do nothing, and grows", () => {
    const asm = new Arm64();
    asm.ret();
    asm.align(16);
    expect(hex(asm.finish())).toBe(`c0035fd6${"1f2003d5".repeat(3)}`);
    for (let i = 0; i < 5000; i++) {
      asm.align(64);
      asm.ret();
    }
    expect(asm.length).toBe(16 + 48 + 4999 * 64 + 4);
  });

  test("takes any constant of 32 or 64 bits in at most one instruction for 16 bits", () => {
    for (let i = 0; i < 5000; i++) {
      const wide = i % 2 === 0;
      let value = 0n;
      for (let part = 0; part < (wide ? 4 : 2); part++) {
        const bits16 = [0, 0xffff, random(65536), 1 << random(16)][random(4)]!;
        value = (value << 16n) | BigInt(bits16);
      }
      const asm = new Arm64();
      asm.movImm(wide ? 7 : w(7), value);
      expect(asm.length).toBeLessThanOrEqual(wide ? 16 : 8);
      if (runMoves(asm.finish()) !== value) expect.fail(`${value}: ${hex(asm.finish())}`);
    }
  });

  test("refuses numbers that no operand can be, wherever one is taken", () => {
    /** Calls by method and mnemonic: one of each. */
    const calls = new Map<string, readonly [name: string, args: readonly unknown[]]>();
    const recorder = new Arm64();
    let depth = 0;
    const methods = Object.getOwnPropertyNames(Arm64.prototype).filter((name) => !/^(constructor|length)$/.test(name));
    for (const name of methods) {
      const method = Reflect.get(recorder, name) as (...args: unknown[]) => unknown;
      Reflect.set(recorder, name, (...args: unknown[]) => {
        if (depth === 0)
          calls.set(`${name} ${typeof args[0] === "string" ? args[0] : ""} ${args.length}`, [name, args]);
        depth++;
        try {
          return method.apply(recorder, args);
        } finally {
          depth--;
        }
      });
    }
    for (const { emit } of forms) emit(recorder);
    const called = new Set([...calls.values()].map(([name]) => name));
    expect(methods.filter((name) => !called.has(name))).toEqual(["finish", "dword", "align", "adrp", "addLow12"]);

    const accepted: string[] = [];
    /** The same value with one of its numbers, or of those in it, replaced. */
    const spoiled = function* (value: unknown, bad: number): Generator<unknown> {
      if (typeof value === "number") yield bad;
      else if (Array.isArray(value)) yield [value[0], bad];
      else if (typeof value === "object" && !(value instanceof Label)) {
        for (const [key, part] of Object.entries(value as Mem)) {
          if (typeof part === "number") yield { ...(value as Mem), [key]: bad };
        }
      }
    };
    for (const [key, [name, args]] of calls) {
      for (const bad of [NaN, 0.3, 2 ** 40 + 1, -(2 ** 40) - 1, Infinity]) {
        for (const [i, value] of args.entries()) {
          for (const other of spoiled(value, bad)) {
            const asm = new Arm64();
            try {
              Reflect.apply(Reflect.get(asm, name), asm, args.with(i, other));
              accepted.push(`${key}: argument ${i} = ${typeof other === "object" ? JSON.stringify(other) : bad}`);
            } catch (error) {
              if (asm.length !== 0 || !/^anekit bug/.test((error as Error).message)) accepted.push(`${key}: ${error}`);
            }
          }
        }
      }
    }
    expect(accepted).toEqual([]);
  });

  test("refuses what cannot be encoded, by the instruction's name", () => {
    for (const [message, emit] of Object.entries(refusals)) {
      const asm = new Arm64();
      expect(() => emit(asm)).toThrow(`anekit bug: ${message}`);
      expect(asm.length, message).toBe(0);
    }
    const asm = new Arm64();
    const label = asm.here();
    expect(() => asm.bind(label)).toThrow(/twice/);
    asm.b(new Label());
    expect(() => asm.finish()).toThrow(/b: a label of generated code is not bound/);
  });
});
