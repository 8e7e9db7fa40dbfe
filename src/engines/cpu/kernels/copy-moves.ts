// Pieces of data movement kernels: byte runs of any length, loop nests, the start of a task.

import { type Code, type Gp, gp, Label, type Length, type Mem, mem } from "../code.ts";
import { addImm, countDown, fits32, product } from "./integers.ts";

/** Registers of a kernel once its task is decoded; r0, r1 and r2 are free at any time. */
export const registers = { from: gp.r6, to: gp.r7, scratch: gp.r5 } as const;
/** Loop counters, outermost first. */
export const counters: readonly Gp[] = [gp.r4, gp.r8, gp.r9, gp.r10, gp.r11, gp.r12, gp.r13, gp.r3];

/** reg += value, whatever its size; clobbers r0. */
export function addConstant(code: Code, reg: Gp, value: number): void {
  addImm(code, reg, value, gp.r0);
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
 * Moves pointers to the task whose number is in `task`; clobbers it, r0, r1, r2. Where `exact`, the last piece of
 * an axis starts where the one before ends, and the caller sees to its end.
 */
export function enterTask(
  code: Code,
  axes: readonly { readonly n: number; readonly c: number }[],
  task: Gp,
  pointers: readonly Pointer[],
  exact = false,
): void {
  const cut = axes.flatMap((axis, i) => (chunks(axis) > 1 ? [{ ...axis, i }] : []));
  for (const { n, c, i } of cut.toReversed()) {
    const count = chunks({ n, c });
    if (i !== cut[0]!.i) {
      code.divide(task, count);
    } else code.mov(gp.r2, task);
    if (c > 1) code.imulImm(gp.r2, gp.r2, c);
    if (!exact && count * c !== n) {
      code.movImm(gp.r1, n - c);
      code.alu("cmp", gp.r2, gp.r1);
      code.cmov("a", gp.r2, gp.r1);
    }
    for (const { register, strides } of pointers) {
      if (strides[i] === 0) continue;
      if (strides[i] === 1) {
        code.alu("add", register, gp.r2);
        continue;
      }
      product(code, gp.r1, gp.r2, strides[i]!);
      code.alu("add", register, gp.r1);
    }
  }
}

/**
 * A nest of loops, outermost first, around a body that leaves the pointers where they are and takes displacements from them.
 * The innermost loop is unrolled `unroll` times. Returns how far the two pointers have moved when the nest is done.
 */
export function emitNest(
  code: Code,
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
  if (n === 1) return emitNest(code, inner, body, unroll, depth);
  if (inner.every((one) => one.n === 1)) {
    const times = Math.min(unroll, n);
    const straight = fits32((n + 1) * Math.max(Math.abs(from), Math.abs(to))) ? times : 1;
    const rounds = Math.floor(n / straight);
    if (rounds > 1) {
      code.movImm(counters[depth]!, rounds);
      countDown(code, counters[depth]!, () => {
        for (let i = 0; i < straight; i++) body(i * from, i * to);
        addConstant(code, registers.from, straight * from);
        addConstant(code, registers.to, straight * to);
      });
      for (let i = 0; i < n - rounds * straight; i++) body(i * from, i * to);
      return { n: 1, from: rounds * straight * from, to: rounds * straight * to };
    }
    for (let i = 0; i < n; i++) body(i * from, i * to);
    return { n: 1, from: 0, to: 0 };
  }
  code.movImm(counters[depth]!, n);
  countDown(code, counters[depth]!, () => {
    const moved = emitNest(code, inner, body, unroll, depth + 1);
    addConstant(code, registers.from, from - moved.from);
    addConstant(code, registers.to, to - moved.to);
  });
  return { n: 1, from: n * from, to: n * to };
}

/** What moves bytes between [from + disp] and [to + disp], without touching any outside. */
export interface RunPlaces {
  readonly from: Gp;
  readonly to: Gp;
  readonly index: Gp;
  readonly small: Gp;
}

const runPlaces: RunPlaces = { from: registers.from, to: registers.to, index: gp.r0, small: gp.r1 };

/** Vectors moved without a loop. */
const straightVectors = 8;

/**
 * Moves a run of bytes; clobbers vector registers 0 to 7 and the two index registers. `ahead`: how far beyond each of the
 * destination's lines another one is asked for, 0 for none.
 */
export function emitRun(
  code: Code,
  bytes: number,
  fromDisp: number,
  toDisp: number,
  { from, to, index, small }: RunPlaces = runPlaces,
  ahead = 0,
): void {
  const vector = code.vectorBytes;
  let at = 0;
  let next = 0;
  const ask = (place: Mem) => {
    if (ahead !== 0 && (place.disp! - toDisp) % 64 === 0) code.prefetch("t0", { ...place, disp: place.disp! + ahead });
  };
  const move = (length: Length, place: number) => {
    ask(mem(to, toDisp + place));
    const register = next++ & 7;
    code.vload(length, register, mem(from, fromDisp + place));
    code.vstore(length, mem(to, toDisp + place), register);
  };
  if (bytes > straightVectors * vector) {
    const step = 4 * vector;
    const end = bytes - (bytes % step);
    code.zero(index);
    const top = code.here();
    for (let i = 0; i < 4; i++) ask(mem(to, toDisp + i * vector, index));
    for (let i = 0; i < 4; i++) code.vload(vector, i, mem(from, fromDisp + i * vector, index));
    for (let i = 0; i < 4; i++) code.vstore(vector, mem(to, toDisp + i * vector, index), i);
    code.aluImm("add", index, step);
    code.aluImm("cmp", index, end);
    code.jcc("ne", top);
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
  moveSmall(code, whole, small, mem(from, fromDisp), mem(to, toDisp));
  if (bytes === whole) return;
  const rest = ([1, 2, 4, 8] as const).find((width) => width >= bytes - whole)!;
  moveSmall(code, rest, small, mem(from, fromDisp + bytes - rest), mem(to, toDisp + bytes - rest));
}

/** Moves 1, 2, 4 or 8 bytes through a general register. */
export function moveSmall(code: Code, bytes: 1 | 2 | 4 | 8, through: Gp, from: Mem, to: Mem): void {
  if (bytes === 8) {
    code.mov(through, from);
    code.mov(to, through);
  } else if (bytes === 4) {
    code.mov32(through, from);
    code.mov32(to, through);
  } else if (bytes === 2) {
    code.movzx16(through, from);
    code.mov16(to, through);
  } else {
    code.movzx8(through, from);
    code.mov8(to, through);
  }
}

/**
 * Moves a run of at least 64 bytes past the caches: whole aligned lines, the ends by stores that overlap them. Without
 * `from` every byte comes from register 0, whose bytes repeat every 4; `to` is then a multiple of 4.
 * Clobbers vector registers 0 to 7 (1 to 7 without `from`), r0, r1.
 */
export function emitStream(
  code: Code,
  bytes: number,
  fromDisp: number,
  toDisp: number,
  { from, to }: { readonly from: Gp | undefined; readonly to: Gp } = registers,
): void {
  const vector = code.vectorBytes;
  const { r0: at, r1: last } = gp;
  const move = (store: "vstore" | "vstream", count: number, place: (disp: number) => Mem[]) => {
    for (let i = 0; i < count && from !== undefined; i++) code.vload(vector, i, place(i * vector)[0]!);
    for (let i = 0; i < count; i++) code[store](vector, place(i * vector)[1]!, from === undefined ? 0 : i);
  };
  const here = (disp: number) => [mem(from ?? 0, fromDisp + disp, at), mem(to, toDisp + disp, at)];
  const ends = 64 / vector;
  move("vstore", ends, (disp) => [mem(from ?? 0, fromDisp + disp), mem(to, toDisp + disp)]);
  code.lea(at, mem(to, toDisp));
  code.neg(at);
  code.aluImm("and", at, 63);
  for (const step of [8 * vector, 64]) {
    const top = new Label();
    const done = new Label();
    code.movImm(last, bytes - step);
    code.alu("cmp", at, last);
    code.jcc("g", done);
    code.bind(top);
    move("vstream", step / vector, here);
    code.aluImm("add", at, step);
    code.alu("cmp", at, last);
    code.jcc("le", top);
    code.bind(done);
  }
  const end = bytes - 64;
  move("vstore", ends, (disp) => [mem(from ?? 0, fromDisp + end + disp), mem(to, toDisp + end + disp)]);
}

/** Stores a run of bytes that repeat every `vector` bytes from register 0; clobbers the index register. */
export function emitStores(code: Code, bytes: number, disp: number, to: Gp = registers.to, index: Gp = gp.r0): void {
  const vector = code.vectorBytes;
  let at = 0;
  if (bytes > straightVectors * vector) {
    const step = 4 * vector;
    const end = bytes - (bytes % step);
    code.zero(index);
    const top = code.here();
    for (let i = 0; i < 4; i++) code.vstore(vector, mem(to, disp + i * vector, index), 0);
    code.aluImm("add", index, step);
    code.aluImm("cmp", index, end);
    code.jcc("ne", top);
    at = end;
  }
  for (; at + vector <= bytes; at += vector) code.vstore(vector, mem(to, disp + at), 0);
  for (const length of [32, 16] as const) {
    if (length >= vector || bytes - at < length) continue;
    code.vstore(length, mem(to, disp + at), 0);
    at += length;
  }
  if (at < bytes) code.vstorePart(mem(to, disp + at), 0, bytes - at);
}
