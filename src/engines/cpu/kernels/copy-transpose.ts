// Two-dimensional transposes in registers: tiles of 16-byte pieces of source rows become whole cache lines of destination rows.

import { type Code, type Gp, gp, Label, type Length, mem, type Vec } from "../code.ts";
import { addConstant, counters, type Level, registers } from "./copy-moves.ts";
import { countDown } from "./integers.ts";

/** Bytes of what is transposed as one. */
export type Unit = 1 | 2 | 4 | 8;

/** A block: `rows` are contiguous in the destination, `columns` in the source. */
export interface Transpose {
  readonly unit: Unit;
  readonly rows: Level & { readonly c: number };
  readonly columns: Level & { readonly c: number };
  /** Whole cache lines are written past the caches; the destination must be aligned to them. */
  readonly stream: boolean;
  /** Asks for the destination's next lines while a tile is made: pays where the copy does not fit the second-level cache. */
  readonly prefetch: boolean;
}

/** Scratch memory: one register, or half a tile. */
export const transposeScratch = 256;

/** Whether the rows and columns of a tile are within reach of a displacement. */
export function tileInReach(rows: Level, columns: Level): boolean {
  return Math.max(Math.abs(rows.from), Math.abs(columns.to)) * 128 < 2 ** 31;
}

/** A tile of `lanes` × e rows, e = 16 / unit, of which `filled` exist, by `wide` ≤ e columns. */
interface Tile {
  readonly lanes: 1 | 2 | 4;
  readonly filled: number;
  readonly wide: number;
  readonly fromDisp: number;
  readonly toDisp: number;
  /** False where 16 bytes may be read for a part of a row, and written for a part of a column: what follows is the block's own. */
  readonly exact: boolean;
}

/**
 * Loads a tile and transposes it in registers; the result names the register of each column. Parts of rows are read
 * where fewer than e columns exist.
 */
function transposeTile(
  code: Code,
  { unit, rows }: Transpose,
  { lanes, filled, wide, fromDisp, exact }: Tile,
): readonly Vec[] {
  const e = 16 / unit;
  const length = (16 * lanes) as Length;
  const byParts = wide < e && exact;
  const names: Vec[] = numbers(e);
  // Register k holds the rows k, k + e, k + 2 e, … in its lanes.
  for (let k = 0; k < e; k++) {
    for (let lane = 0; lane < lanes; lane++) {
      const row = k + lane * e;
      if (row >= filled) continue;
      const place = mem(registers.from, fromDisp + row * rows.from);
      if (lane === 0) {
        if (byParts) code.vloadPart(k, place, wide * unit);
        else code.vload(16, k, place);
        continue;
      }
      if (byParts) code.vloadPart(e, place, wide * unit);
      const source = byParts ? e : place;
      code.vinsert(length, k, source, lane);
    }
  }
  return shuffleRounds(code, unit, length, names, Math.log2(e));
}

/**
 * Perfect shuffles of what registers 0 to names.length - 1 hold, as one sequence (in every 16-byte lane): each round
 * rotates the bits of an element's number by one, and so log2 r of them turn r rows into columns.
 */
function shuffleRounds(code: Code, unit: Unit, length: Length, first: readonly Vec[], rounds: number): readonly Vec[] {
  let names = first;
  const half = names.length / 2;
  // A seventeenth register is for whole lines only: some machines have none, and parts are stored from those below.
  const spill = names.length === 16 && length !== 64;
  let free: Vec = names.length;
  for (let round = 0; round < rounds; round++) {
    const next: Vec[] = [];
    for (let i = 0; i < half; i++) {
      const a = names[i]!;
      const b = names[i + half]!;
      if (spill) {
        code.vstore(length, mem(registers.scratch, 0), b);
        code.vinterleave("low", unit, length, b, a, mem(registers.scratch, 0));
        code.vinterleave("high", unit, length, a, a, mem(registers.scratch, 0));
        next.push(b, a);
      } else {
        code.vinterleave("low", unit, length, free, a, b);
        code.vinterleave("high", unit, length, b, a, b);
        next.push(free, b);
        free = a;
      }
    }
    names = next;
  }
  return names;
}

const numbers = (n: number) => Array.from({ length: n }, (_, i) => i);
const isShort = (n: number, e: number) => n > 1 && n < e && (n & (n - 1)) === 0;

/** Few rows whose columns follow one another in the destination (interleaving, pixel shuffle): e columns, whole registers. */
function emitInterleave(code: Code, { unit, rows }: Transpose, { filled, fromDisp, toDisp }: Tile): void {
  for (let row = 0; row < filled; row++) code.vload(16, row, mem(registers.from, fromDisp + row * rows.from));
  shuffleRounds(code, unit, 16, numbers(filled), Math.log2(filled)).forEach((name, i) => {
    code.vstore(16, mem(registers.to, toDisp + 16 * i), name);
  });
}

/** Few columns whose rows follow one another in the source: e rows, whole registers. */
function emitSeparate(code: Code, { unit, columns }: Transpose, { wide, fromDisp, toDisp }: Tile): void {
  for (let i = 0; i < wide; i++) code.vload(16, i, mem(registers.from, fromDisp + 16 * i));
  shuffleRounds(code, unit, 16, numbers(wide), Math.log2(16 / unit)).forEach((name, j) => {
    code.vstore(16, mem(registers.to, toDisp + j * columns.to), name);
  });
}

function emitTile(code: Code, block: Transpose, tile: Tile): void {
  const { unit, columns } = block;
  const names = transposeTile(code, block, tile);
  for (let j = 0; j < tile.wide; j++) {
    const place = mem(registers.to, tile.toDisp + j * columns.to);
    if (tile.filled < 16 / unit && tile.exact) code.vstorePart(place, names[j]!, tile.filled * unit);
    else if (tile.lanes === 4 && block.stream) code.vstream(64, place, names[j]!);
    else code.vstore((16 * tile.lanes) as Length, place, names[j]!);
  }
}

/** With vectors of half a line: two tiles of two lanes, the halves of a line written together past the caches. */
function emitStreamedHalves(code: Code, block: Transpose, tile: Tile): void {
  const { unit, rows, columns } = block;
  const e = 16 / unit;
  const half = { ...tile, lanes: 2, filled: 2 * e } as const;
  transposeTile(code, block, half).forEach((name, j) => {
    code.vstore(32, mem(registers.scratch, 32 * j), name);
  });
  const names = transposeTile(code, block, { ...half, fromDisp: tile.fromDisp + 2 * e * rows.from });
  const free = numbers(e + 1).find((register) => !names.includes(register))!;
  names.forEach((name, j) => {
    const place = tile.toDisp + j * columns.to;
    code.vload(32, free, mem(registers.scratch, 32 * j));
    code.vstream(32, mem(registers.to, place), free);
    code.vstream(32, mem(registers.to, place + 32), name);
  });
}

/** Rows of a block in groups that are one tile high: whole cache lines, then what is left. */
function rowGroups(c: number, e: number): { start: number; lanes: 1 | 2 | 4; count: number; filled: number }[] {
  const groups: { start: number; lanes: 1 | 2 | 4; count: number; filled: number }[] = [];
  let start = 0;
  for (const lanes of [4, 2, 1] as const) {
    const count = Math.floor((c - start) / (e * lanes));
    if (count > 0) groups.push({ start, lanes, count, filled: e * lanes });
    start += count * e * lanes;
  }
  // Rows left over: once more with those before them, or, where there are none, by parts.
  if (start < c) groups.push({ start: Math.max(0, c - e), lanes: 1, count: 1, filled: Math.min(c, e) });
  return groups;
}

/** Repetitions of a tile, the last one apart where only that must be exact. */
function rounds(count: number, lastApart: boolean): { count: number; exact: boolean }[] {
  const last = { count: Math.min(count, 1), exact: true };
  const list = lastApart ? [{ count: count - 1, exact: false }, last] : [{ count, exact: true }];
  return list.filter((round) => round.count > 0);
}

/** Transposes the block at [from + fromDisp]; leaves the pointers where they are. `depth` counters are in use. */
export function emitTranspose(code: Code, block: Transpose, fromDisp: number, toDisp: number, depth: number): void {
  const { unit, rows, columns } = block;
  const e = 16 / unit;
  const { from, to } = registers;
  let row = 0;
  let column = 0;
  const seek = (r: number, c: number) => {
    addConstant(code, from, (r - row) * rows.from + (c - column) * columns.from);
    addConstant(code, to, (r - row) * rows.to + (c - column) * columns.to);
    row = r;
    column = c;
  };
  const repeat = (count: number, counter: number, body: () => void) => {
    if (count === 1) return body();
    code.movImm(counters[counter]!, count);
    const before = { row, column };
    countDown(code, counters[counter]!, body);
    // In the last round the pointers went on as in the others.
    row = before.row + count * (row - before.row);
    column = before.column + count * (column - before.column);
  };
  const tile = (lanes: 1 | 2 | 4, filled: number, wide: number, chunk = 0, exact = true) => {
    const place = { exact, fromDisp: fromDisp + 16 * chunk, toDisp: toDisp + chunk * e * columns.to };
    if (lanes === 4 && block.stream && code.vectorBytes === 32 && wide === e && e < 16) {
      return emitStreamedHalves(code, block, { lanes, filled, wide, ...place });
    }
    if (isShort(filled, e) && wide === e && columns.to === filled * unit) {
      return emitInterleave(code, block, { lanes, filled, wide, ...place });
    }
    const separate = isShort(wide, e) && filled >= e && rows.from === wide * unit;
    // Registers bound what one tile can be: as high as the vectors are long, single lanes for parts of rows of bytes.
    const most = separate || (wide < e && e === 16) ? 1 : code.vectorBytes / 16;
    const each = Math.min(lanes, most) as 1 | 2 | 4;
    for (let lane = 0; lane < lanes; lane += each) {
      const emit = separate ? emitSeparate : emitTile;
      emit(code, block, {
        lanes: each,
        filled: Math.min(filled, each * e),
        wide,
        exact,
        fromDisp: place.fromDisp + lane * e * rows.from,
        toDisp: place.toDisp + lane * e * rows.to,
      });
    }
  };
  const ask = (chunk: number) => {
    for (let j = 0; j < e && block.prefetch; j++) {
      code.prefetch("t0", mem(to, toDisp + (chunk * e + j) * columns.to));
    }
  };
  const d = columns.c;
  // Columns of a few elements that follow one another: written in order, all but the last may spill into the next.
  const shortRows = rows.c < e && !isShort(rows.c, e) && columns.to === rows.c * unit;
  // Rows of a few elements that follow one another: all but the last may be read with what follows.
  const shortColumns = d < e && rows.from === d * unit;
  // Else a cache line of every source row at a time (for bytes the code would be long).
  const lines = e < 16 && !shortRows ? Math.floor(d / (4 * e)) : 0;
  const lineTile = (lanes: 1 | 2 | 4, filled: number) => {
    for (let chunk = 0; chunk < 4; chunk++) {
      // No prefetcher sees a pattern in the destination's lines: 1.6 times as fast where they are in no cache (measured).
      ask(chunk + 4);
      tile(lanes, filled, e, chunk);
    }
  };
  const rest = (lanes: 1 | 2 | 4, filled: number, from: number, exact = true) => {
    const whole = Math.floor((d - from) / e);
    for (const round of rounds(whole, shortRows)) {
      repeat(round.count, depth + 1, () => {
        if (e === 16) ask(1);
        tile(lanes, filled, e, 0, round.exact);
        seek(row, column + e);
      });
    }
    if (d % e !== 0) {
      seek(row, Math.max(0, d - e));
      tile(lanes, filled, Math.min(d, e), 0, exact);
    }
  };
  for (const { start, lanes, count, filled } of rowGroups(rows.c, e)) {
    seek(start, 0);
    const sharesSets = columns.to % 512 === 0 && !block.prefetch && !block.stream;
    if (sharesSets && lanes === 4 && count > 1 && lines > 1 && depth + 2 < counters.length) {
      emitDiagonals(code, block, lines, count, counters.slice(depth) as [Gp, Gp, Gp], () => lineTile(lanes, filled));
      column = 4 * e * lines;
      if (d > column) {
        repeat(count, depth, () => {
          const first = row;
          rest(lanes, filled, 4 * e * lines);
          seek(first + lanes * e, 4 * e * lines);
        });
      }
      continue;
    }
    for (const round of rounds(count, shortColumns)) {
      repeat(round.count, depth, () => {
        const first = row;
        if (lines > 0) {
          repeat(lines, depth + 1, () => {
            lineTile(lanes, filled);
            seek(row, column + 4 * e);
          });
        }
        rest(lanes, filled, 4 * e * lines, round.exact);
        seek(first + lanes * e, 0);
      });
    }
  }
  seek(0, 0);
}

/**
 * Visits the tiles of a block along diagonals: lines that are apart by a power of two share few sets of the first-level cache,
 * and so neither rows nor columns of tiles are gone along (measured: 1.25 times as fast in the second-level cache; slower for
 * other distances). Ends with the pointers at the first row, behind the last column. Clobbers r0, r1, r2.
 */
function emitDiagonals(
  code: Code,
  { unit, rows, columns }: Transpose,
  lines: number,
  count: number,
  [diagonal, left, untilWrap]: readonly [Gp, Gp, Gp],
  tile: () => void,
): void {
  const { from, to } = registers;
  const line = 64 / unit;
  code.movImm(diagonal, lines);
  countDown(code, diagonal, () => {
    code.mov(gp.r1, from);
    code.mov(gp.r2, to);
    code.mov(untilWrap, diagonal);
    code.movImm(left, count);
    countDown(code, left, () => {
      tile();
      addConstant(code, from, line * (rows.from + columns.from));
      addConstant(code, to, line * (rows.to + columns.to));
      const inside = new Label();
      code.aluImm("sub", untilWrap, 1);
      code.jcc("ne", inside);
      addConstant(code, from, -lines * line * columns.from);
      addConstant(code, to, -lines * line * columns.to);
      code.movImm(untilWrap, lines);
      code.bind(inside);
    });
    code.mov(from, gp.r1);
    code.mov(to, gp.r2);
    addConstant(code, from, line * columns.from);
    addConstant(code, to, line * columns.to);
  });
}
