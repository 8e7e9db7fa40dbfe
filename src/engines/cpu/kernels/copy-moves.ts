// Pieces of data movement kernels for x86-64: byte runs of any length, parts of vectors, loop nests, the start of a task.

import { type Gp, gp, Label, type Length, type Mem, mem, type Vec, type X64 } from "../isa/x64.ts";
import type { Isa } from "./step.ts";

/** Bytes of a vector. */
export function vectorBytes(isa: Isa): 32 | 64 {
  return isa === "avx512" ? 64 : 32;
}

/** Loads a whole vector. */
export function load(asm: X64, length: Length, dst: Vec, src: Mem): void {
  asm.v("vmovups", length, dst, src);
}

// Instructions that the assembler has no record of: VEX with a register or [base + index scale + disp32], EVEX with registers only.

function vex(
  asm: X64,
  { map, w, opcode }: { map: number; w: number; opcode: number },
  length: 16 | 32,
  pp: number,
  reg: number,
  vvvv: number,
  rm: number | Mem,
): void {
  const memory = typeof rm === "object";
  const base = memory ? rm.base! : rm;
  const index = memory ? rm.index : undefined;
  asm.byte(
    0xc4,
    (((reg >> 3) ^ 1) << 7) | ((((index ?? 0) >> 3) ^ 1) << 6) | (((base >> 3) ^ 1) << 5) | map,
    (w << 7) | ((~vvvv & 15) << 3) | (length === 32 ? 4 : 0) | pp,
    opcode,
  );
  if (!memory) return asm.byte(0xc0 | ((reg & 7) << 3) | (base & 7));
  if (index !== undefined || (base & 7) === 4) {
    const scale = { 1: 0, 2: 1, 4: 2, 8: 3 }[rm.scale ?? 1];
    asm.byte(0x84 | ((reg & 7) << 3), (scale << 6) | (((index ?? 4) & 7) << 3) | (base & 7));
  } else asm.byte(0x80 | ((reg & 7) << 3) | (base & 7));
  asm.dword(rm.disp ?? 0);
}

const unpackOps = {
  low: { 1: 0x60, 2: 0x61, 4: 0x62, 8: 0x6c },
  high: { 1: 0x68, 2: 0x69, 4: 0x6a, 8: 0x6d },
} as const;

/** Interleaves `bytes`-wide elements of the low or high half of every 16-byte lane: dst = a0 b0 a1 b1 … */
export function unpack(
  asm: X64,
  half: keyof typeof unpackOps,
  bytes: 1 | 2 | 4 | 8,
  length: Length,
  dst: Vec,
  a: Vec,
  b: Vec | Mem,
): void {
  const opcode = unpackOps[half][bytes];
  if (length !== 64) return vex(asm, { map: 1, w: 0, opcode }, length, 1, dst, a, b);
  const rm = b as Vec;
  asm.byte(
    0x62,
    ((((dst >> 3) & 1) ^ 1) << 7) |
      ((((rm >> 4) & 1) ^ 1) << 6) |
      ((((rm >> 3) & 1) ^ 1) << 5) |
      ((((dst >> 4) & 1) ^ 1) << 4) |
      1,
    ((bytes === 8 ? 1 : 0) << 7) | ((~a & 15) << 3) | 4 | 1,
    (2 << 5) | ((((a >> 4) & 1) ^ 1) << 3),
    opcode,
    0xc0 | ((dst & 7) << 3) | (rm & 7),
  );
}

function loadQuad(asm: X64, dst: Vec, src: Mem): void {
  vex(asm, { map: 1, w: 0, opcode: 0x7e }, 16, 2, dst, 0, src);
}

function insertDouble(asm: X64, dst: Vec, src: Mem, lane: number): void {
  vex(asm, { map: 3, w: 0, opcode: 0x22 }, 16, 1, dst, dst, src);
  asm.byte(lane);
}

function storeQuad(asm: X64, dst: Mem, src: Vec): void {
  vex(asm, { map: 1, w: 0, opcode: 0xd6 }, 16, 1, src, 0, dst);
}

function extractDouble(asm: X64, dst: Mem, src: Vec, lane: number): void {
  vex(asm, { map: 3, w: 0, opcode: 0x16 }, 16, 1, src, 0, dst);
  asm.byte(lane);
}

const offset = (place: Mem, bytes: number): Mem => ({ ...place, disp: (place.disp ?? 0) + bytes });

/** Loads the first 1 to 16 bytes of an xmm register (below 16); the others become anything. */
export function loadPart(asm: X64, dst: Vec, src: Mem, bytes: number): void {
  if (bytes >= 16) return load(asm, 16, dst, src);
  let at = 0;
  if (bytes >= 8) {
    loadQuad(asm, dst, src);
    at = 8;
  } else if (bytes >= 4) {
    asm.vmovdLoad(dst, src);
    at = 4;
  } else asm.v("vpxor", 16, dst, dst, dst);
  while (at < bytes) {
    const left = bytes - at;
    if (left >= 4) {
      insertDouble(asm, dst, offset(src, at), at / 4);
      at += 4;
    } else if (left >= 2) {
      asm.vpinsrw(dst, dst, offset(src, at), at / 2);
      at += 2;
    } else {
      asm.vpinsrb(dst, dst, offset(src, at), at);
      at += 1;
    }
  }
}

/** Stores the first 1 to 16 bytes of an xmm register (below 16). */
export function storePart(asm: X64, dst: Mem, src: Vec, bytes: number): void {
  if (bytes >= 16) return asm.store("vmovups", 16, dst, src);
  let at = 0;
  if (bytes >= 8) {
    storeQuad(asm, dst, src);
    at = 8;
  }
  while (at < bytes) {
    const left = bytes - at;
    if (left >= 4) {
      if (at === 0) asm.vmovdStore(dst, src);
      else extractDouble(asm, offset(dst, at), src, at / 4);
      at += 4;
    } else if (left >= 2) {
      asm.vpextrw(offset(dst, at), src, at / 2);
      at += 2;
    } else {
      asm.vpextrb(offset(dst, at), src, at);
      at += 1;
    }
  }
}

/** Registers of a kernel once its task is decoded; rax, rcx and rdx are free at any time. */
export const registers = { from: gp.r8, to: gp.r9, scratch: gp.rdi } as const;
/** Loop counters, outermost first. */
export const counters: readonly Gp[] = [gp.rsi, gp.r10, gp.r11, gp.r12, gp.r13, gp.r14, gp.r15, gp.rbx];

const fits32 = (value: number) => value === (value | 0);

/** reg += value, whatever its size; clobbers rax. */
export function addConstant(asm: X64, reg: Gp, value: number): void {
  if (value === 0) return;
  if (fits32(value)) return asm.aluImm("add", reg, value);
  asm.movImm(gp.rax, value);
  asm.alu("add", reg, gp.rax);
}

/** dst = src × value; dst is not src where the value exceeds 32 bits. */
export function multiply(asm: X64, dst: Gp, src: Gp, value: number): void {
  if (fits32(value)) return asm.imulImm(dst, src, value);
  asm.movImm(dst, value);
  asm.imul(dst, src);
}

/** One loop over the elements of an axis, strides in bytes. */
export interface Level {
  readonly n: number;
  readonly from: number;
  readonly to: number;
}

/** How an axis is cut into tasks: pieces of `c`; the last one ends where the axis ends and may overlap the one before. */
export interface Cut extends Level {
  readonly c: number;
}

export function chunks({ n, c }: { readonly n: number; readonly c: number }): number {
  return Math.ceil(n / c);
}

/** A register that moves by a stride, in bytes, an axis. */
export interface Pointer {
  readonly register: Gp;
  readonly strides: readonly number[];
}

/**
 * Moves pointers to the task whose number is in `task`; clobbers it, rax, rcx, rdx. Where `exact`, the last piece of
 * an axis starts where the one before ends, and the caller sees to its end.
 */
export function enterTask(
  asm: X64,
  axes: readonly { readonly n: number; readonly c: number }[],
  task: Gp,
  pointers: readonly Pointer[],
  exact = false,
): void {
  const cut = axes.flatMap((axis, i) => (chunks(axis) > 1 ? [{ ...axis, i }] : []));
  for (const { n, c, i } of cut.toReversed()) {
    const count = chunks({ n, c });
    if (i !== cut[0]!.i) {
      asm.mov(gp.rax, task);
      asm.alu32("xor", gp.rdx, gp.rdx);
      asm.movImm(gp.rcx, count);
      asm.div(gp.rcx);
      asm.mov(task, gp.rax);
    } else asm.mov(gp.rdx, task);
    if (c > 1) asm.imulImm(gp.rdx, gp.rdx, c);
    if (!exact && count * c !== n) {
      asm.movImm(gp.rcx, n - c);
      asm.alu("cmp", gp.rdx, gp.rcx);
      asm.cmov("a", gp.rdx, gp.rcx);
    }
    for (const { register, strides } of pointers) {
      if (strides[i] === 0) continue;
      if (strides[i] === 1) {
        asm.alu("add", register, gp.rdx);
        continue;
      }
      multiply(asm, gp.rcx, gp.rdx, strides[i]!);
      asm.alu("add", register, gp.rcx);
    }
  }
}

/**
 * A nest of loops, outermost first, around a body that leaves the pointers where they are and takes displacements from them.
 * The innermost loop is unrolled `unroll` times. Returns how far the two pointers have moved when the nest is done.
 */
export function emitNest(
  asm: X64,
  levels: readonly Level[],
  body: (from: number, to: number) => void,
  unroll = 1,
  depth = 0,
): Level {
  const [level, ...inner] = levels;
  if (level === undefined) {
    body(0, 0);
    return { n: 1, from: 0, to: 0 };
  }
  const { n, from, to } = level;
  if (n === 1) return emitNest(asm, inner, body, unroll, depth);
  if (inner.every((one) => one.n === 1)) {
    const times = Math.min(unroll, n);
    const straight = fits32((n + 1) * Math.max(Math.abs(from), Math.abs(to))) ? times : 1;
    const rounds = Math.floor(n / straight);
    if (rounds > 1) {
      asm.movImm(counters[depth]!, rounds);
      const top = asm.here();
      for (let i = 0; i < straight; i++) body(i * from, i * to);
      addConstant(asm, registers.from, straight * from);
      addConstant(asm, registers.to, straight * to);
      asm.aluImm("sub", counters[depth]!, 1);
      asm.jcc("ne", top);
      for (let i = 0; i < n - rounds * straight; i++) body(i * from, i * to);
      return { n: 1, from: rounds * straight * from, to: rounds * straight * to };
    }
    for (let i = 0; i < n; i++) body(i * from, i * to);
    return { n: 1, from: 0, to: 0 };
  }
  asm.movImm(counters[depth]!, n);
  const top = asm.here();
  const moved = emitNest(asm, inner, body, unroll, depth + 1);
  addConstant(asm, registers.from, from - moved.from);
  addConstant(asm, registers.to, to - moved.to);
  asm.aluImm("sub", counters[depth]!, 1);
  asm.jcc("ne", top);
  return { n: 1, from: n * from, to: n * to };
}

/** What moves bytes between [from + disp] and [to + disp], without touching any outside. */
export interface RunPlaces {
  readonly from: Gp;
  readonly to: Gp;
  readonly index: Gp;
  readonly small: Gp;
}

const runPlaces: RunPlaces = { from: registers.from, to: registers.to, index: gp.rax, small: gp.rcx };

/** Vectors moved without a loop. */
const straightVectors = 8;

/**
 * Moves a run of bytes; clobbers vector registers 0 to 7 and the two index registers. `ahead`: how far beyond each of the
 * destination's lines another one is asked for, 0 for none.
 */
export function emitRun(
  asm: X64,
  isa: Isa,
  bytes: number,
  fromDisp: number,
  toDisp: number,
  { from, to, index, small }: RunPlaces = runPlaces,
  ahead = 0,
): void {
  const vector = vectorBytes(isa);
  let at = 0;
  let next = 0;
  const ask = (place: Mem) => {
    if (ahead !== 0 && (place.disp! - toDisp) % 64 === 0) asm.prefetch("t0", { ...place, disp: place.disp! + ahead });
  };
  const move = (length: Length, place: number) => {
    ask(mem(to, toDisp + place));
    const register = next++ & 7;
    load(asm, length, register, mem(from, fromDisp + place));
    asm.store("vmovups", length, mem(to, toDisp + place), register);
  };
  if (bytes > straightVectors * vector) {
    const step = 4 * vector;
    const end = bytes - (bytes % step);
    asm.alu32("xor", index, index);
    const top = asm.here();
    for (let i = 0; i < 4; i++) ask(mem(to, toDisp + i * vector, index));
    for (let i = 0; i < 4; i++) load(asm, vector, i, mem(from, fromDisp + i * vector, index));
    for (let i = 0; i < 4; i++) asm.store("vmovups", vector, mem(to, toDisp + i * vector, index), i);
    asm.aluImm("add", index, step);
    asm.aluImm("cmp", index, end);
    asm.jcc("ne", top);
    at = end;
  }
  for (; at + vector <= bytes; at += vector) move(vector, at);
  if (at === bytes) return;
  if (bytes >= vector) return move(vector, bytes - vector);
  for (const length of [32, 16] as const) {
    if (length >= vector || bytes < length) continue;
    move(length, 0);
    if (bytes > length) move(bytes - length <= 16 ? 16 : length, bytes - (bytes - length <= 16 ? 16 : length));
    return;
  }
  const whole = ([8, 4, 2, 1] as const).find((width) => width <= bytes)!;
  moveSmall(asm, whole, small, mem(from, fromDisp), mem(to, toDisp));
  if (bytes === whole) return;
  const rest = ([1, 2, 4, 8] as const).find((width) => width >= bytes - whole)!;
  moveSmall(asm, rest, small, mem(from, fromDisp + bytes - rest), mem(to, toDisp + bytes - rest));
}

/** Moves 1, 2, 4 or 8 bytes through a general register. */
export function moveSmall(asm: X64, bytes: 1 | 2 | 4 | 8, through: Gp, from: Mem, to: Mem): void {
  if (bytes === 8) {
    asm.mov(through, from);
    asm.mov(to, through);
  } else if (bytes === 4) {
    asm.mov32(through, from);
    asm.mov32(to, through);
  } else if (bytes === 2) {
    asm.movzx16(through, from);
    asm.mov16(to, through);
  } else {
    asm.movzx8(through, from);
    asm.mov8(to, through);
  }
}

/**
 * Moves a run of at least 64 bytes past the caches: whole aligned lines, the ends by stores that overlap them. Without
 * `from` every byte comes from register 0, whose bytes repeat every 4; `to` is then a multiple of 4.
 * Clobbers vector registers 0 to 7 (1 to 7 without `from`), rax, rcx.
 */
export function emitStream(
  asm: X64,
  isa: Isa,
  bytes: number,
  fromDisp: number,
  toDisp: number,
  { from, to }: { readonly from: Gp | undefined; readonly to: Gp } = registers,
): void {
  const vector = vectorBytes(isa);
  const { rax: at, rcx: last } = gp;
  const move = (store: "vmovups" | "vmovntps", count: number, place: (disp: number) => Mem[]) => {
    for (let i = 0; i < count && from !== undefined; i++) load(asm, vector, i, place(i * vector)[0]!);
    for (let i = 0; i < count; i++) asm.store(store, vector, place(i * vector)[1]!, from === undefined ? 0 : i);
  };
  const here = (disp: number) => [mem(from ?? 0, fromDisp + disp, at), mem(to, toDisp + disp, at)];
  const ends = 64 / vector;
  move("vmovups", ends, (disp) => [mem(from ?? 0, fromDisp + disp), mem(to, toDisp + disp)]);
  asm.lea(at, mem(to, toDisp));
  asm.neg(at);
  asm.aluImm("and", at, 63);
  for (const step of [8 * vector, 64]) {
    const top = new Label();
    const done = new Label();
    asm.movImm(last, bytes - step);
    asm.alu("cmp", at, last);
    asm.jcc("g", done);
    asm.bind(top);
    move("vmovntps", step / vector, here);
    asm.aluImm("add", at, step);
    asm.alu("cmp", at, last);
    asm.jcc("le", top);
    asm.bind(done);
  }
  const end = bytes - 64;
  move("vmovups", ends, (disp) => [mem(from ?? 0, fromDisp + end + disp), mem(to, toDisp + end + disp)]);
}

/** Stores a run of bytes that repeat every `vector` bytes from register 0; clobbers the index register. */
export function emitStores(
  asm: X64,
  isa: Isa,
  bytes: number,
  disp: number,
  to: Gp = registers.to,
  index: Gp = gp.rax,
): void {
  const vector = vectorBytes(isa);
  let at = 0;
  if (bytes > straightVectors * vector) {
    const step = 4 * vector;
    const end = bytes - (bytes % step);
    asm.alu32("xor", index, index);
    const top = asm.here();
    for (let i = 0; i < 4; i++) asm.store("vmovups", vector, mem(to, disp + i * vector, index), 0);
    asm.aluImm("add", index, step);
    asm.aluImm("cmp", index, end);
    asm.jcc("ne", top);
    at = end;
  }
  for (; at + vector <= bytes; at += vector) asm.store("vmovups", vector, mem(to, disp + at), 0);
  for (const length of [32, 16] as const) {
    if (length >= vector || bytes - at < length) continue;
    asm.store("vmovups", length, mem(to, disp + at), 0);
    at += length;
  }
  if (at < bytes) storePart(asm, mem(to, disp + at), 0, bytes - at);
}

/** All lanes of register 0 = the element at a place. */
export function broadcast(asm: X64, isa: Isa, bytes: 1 | 2 | 4, src: Mem): void {
  const op = bytes === 4 ? "vpbroadcastd" : bytes === 2 ? "vpbroadcastw" : "vpbroadcastb";
  asm.v(op, vectorBytes(isa), 0, src);
}
