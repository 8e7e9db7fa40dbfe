// Plans for copies between strided layouts (slices, broadcasts, permutations, concatenation) and for fills.

import { invariant } from "../../../core/errors.ts";
import { type Code, entry, gp, Label, mem } from "../code.ts";
import {
  type Cut,
  chunks,
  emitNest,
  emitRun,
  emitStores,
  emitStream,
  enterTask,
  type Level,
  registers,
} from "./copy-moves.ts";
import { emitTranspose, type Transpose, tileInReach, transposeScratch } from "./copy-transpose.ts";
import type { Isa, StepPlan } from "./step.ts";

/** dst[i · to] = src[i · from] for every index i of `shape`; strides in elements. */
export interface CopySpec {
  readonly bytes: 1 | 2 | 4;
  readonly shape: readonly number[];
  /** 0 repeats the source along that axis. */
  readonly from: readonly number[];
  /** Addresses every element of the destination once. */
  readonly to: readonly number[];
  /** Writes past the caches where that is possible; left out, what is large does. */
  readonly stream?: boolean;
}

/** Bytes that a task moves, about: fits L1 and L2 with its source, and costs microseconds against the driver's tens of nanoseconds. */
export const taskBytes = 65536;

/** Destinations from this size on are written past the caches: faster even if all is read next (measured; at 16 MB it is not). */
const streamBytes = 32 << 20;
/** Copies from this size on outgrow the second-level cache: the destination's lines are asked for before they are written. */
const prefetchBytes = 512 << 10;
/** How far ahead; measured: 512 to 4096 do as well, 1.05 to 1.5 times as fast as none. */
const prefetchAhead = 1024;
/** Shorter runs are not worth the search for whole cache lines. */
const streamRun = 1024;

/** Axes of a copy, outermost first in the destination, strides in bytes; below them runs of `run` contiguous bytes. */
interface Layout {
  readonly levels: readonly Level[];
  readonly run: number;
}

/** Drops axes of one element, orders the others by the destination and joins those that continue one another on both sides. */
function layoutOf({ bytes, shape, from, to }: CopySpec): Layout {
  const levels = shape
    .map((n, axis) => ({ n, from: from[axis]! * bytes, to: to[axis]! * bytes }))
    .filter(({ n }) => n !== 1)
    .sort((a, b) => Math.abs(b.to) - Math.abs(a.to));
  const joined: Level[] = [];
  for (const level of levels) {
    const outer = joined.at(-1);
    if (outer !== undefined && outer.from === level.n * level.from && outer.to === level.n * level.to) {
      joined[joined.length - 1] = { ...level, n: outer.n * level.n };
    } else joined.push(level);
  }
  const last = joined.at(-1);
  if (last?.from === bytes && last.to === bytes) return { levels: joined.slice(0, -1), run: last.n * bytes };
  return { levels: joined, run: bytes };
}

/** Cuts axes into tasks from the inside out: whole axes while they fit, then a piece of one, then single steps. */
function cutLevels(levels: readonly Level[], innerBytes: number, target: number): Cut[] {
  let room = Math.max(1, Math.floor(target / innerBytes));
  const cuts: Cut[] = [];
  for (const level of levels.toReversed()) {
    const pieces = Math.ceil(level.n / Math.min(level.n, room));
    const c = Math.ceil(level.n / pieces);
    cuts.unshift({ ...level, c });
    room = Math.max(1, Math.floor(room / c));
  }
  return cuts;
}

/** Pieces of an axis of n units: as equal as whole multiples of `grain` allow, at most `most` long. */
export function evenPiece(n: number, most: number, grain: number): number {
  if (n <= most) return n;
  const pieces = Math.ceil(n / most);
  return Math.min(n, Math.ceil(n / pieces / grain) * grain);
}

/** What a task does with its block, inside loops over all cuts but the last `own`. */
type Body =
  | {
      readonly kind: "run";
      readonly own: 0 | 1;
      readonly bytes: number;
      readonly stream: boolean;
      /** How far ahead the destination is asked for; 0: not. */
      readonly ahead: number;
    }
  | {
      readonly kind: "fill";
      readonly own: 1;
      readonly element: 1 | 2 | 4;
      readonly bytes: number;
      readonly stream: boolean;
    }
  | ({ readonly kind: "transpose"; readonly own: 2 } & Transpose);

/** Displacement of what a run asks for: in itself where it is long, else in a run that follows. */
export function aheadOf(run: number, inner: Level | undefined, total: number): number {
  if (total < prefetchBytes || run < 64) return 0;
  if (run >= 4 * prefetchAhead || inner === undefined) return prefetchAhead;
  const ahead = Math.ceil(prefetchAhead / run) * inner.to;
  return Math.abs(ahead) < 2 ** 30 ? ahead : 0;
}

interface Plan {
  readonly cuts: readonly Cut[];
  readonly body: Body;
}

function planBody({ levels, run }: Layout, element: 1 | 2 | 4, total: number, target: number, large: boolean): Plan {
  const inner = levels.at(-1);
  if (inner !== undefined && inner.to === run && inner.from === 0 && run === element) {
    const c = evenPiece(inner.n, Math.floor(target / run), 64 / run);
    const cuts = [...cutLevels(levels.slice(0, -1), c * run, target), { ...inner, c }];
    return { cuts, body: { kind: "fill", own: 1, element, bytes: c * run, stream: large && c * run >= streamRun } };
  }
  if (inner !== undefined && inner.to === run && (run === 1 || run === 2 || run === 4 || run === 8)) {
    const unit = run;
    const along = levels.slice(0, -1).findIndex((level) => level.from === unit);
    const columns = levels[along];
    if (columns !== undefined && inner.from > 0 && tileInReach(inner, columns)) {
      const line = 64 / unit;
      // Square blocks of whole cache lines on both sides; where one side is short, the other is longer. What is streamed
      // has longer source rows, which the prefetchers follow.
      const room = Math.floor(target / unit);
      const side = Math.max(line, Math.floor(Math.sqrt(room) / (large ? 2 : 1) / line) * line);
      let c = evenPiece(inner.n, side, line);
      const d = evenPiece(columns.n, Math.max(line, Math.floor(room / c)), line);
      if (columns.n <= room / c) c = evenPiece(inner.n, Math.max(line, Math.floor(room / d)), line);
      const outer = levels.filter((_, axis) => axis !== along && axis !== levels.length - 1);
      const rows = { ...inner, c };
      const cut = { ...columns, c: d };
      const whole = c % line === 0 && inner.n % line === 0;
      const stream = large && unit > 1 && whole && [...outer, columns].every((level) => level.to % 64 === 0);
      return {
        cuts: [...cutLevels(outer, c * d * unit, target), cut, rows],
        body: {
          kind: "transpose",
          own: 2,
          unit,
          rows,
          columns: cut,
          stream,
          prefetch: !stream && total >= prefetchBytes,
        },
      };
    }
  }
  if (run > target) {
    const c = evenPiece(run, target, 64);
    const bytes = { n: run, from: 1, to: 1, c };
    return {
      cuts: [...levels.map((level) => ({ ...level, c: 1 })), bytes],
      body: { kind: "run", own: 1, bytes: c, stream: large && c >= streamRun, ahead: aheadOf(run, inner, total) },
    };
  }
  return {
    cuts: cutLevels(levels, run, target),
    body: { kind: "run", own: 0, bytes: run, stream: large && run >= streamRun, ahead: aheadOf(run, inner, total) },
  };
}

/** Tasks of a step that moves `total` bytes: small ones stay whole, middling ones still feed several threads. */
export function targetOf(total: number, threads: number): number {
  if (threads === 1 || total >= 16 * taskBytes) return taskBytes;
  return Math.max(taskBytes / 4, Math.min(taskBytes, Math.ceil(total / (4 * threads))));
}

/** Tasks write blocks of the destination; where these overlap, at the end of an axis, all write the same. */
export function planCopy(spec: CopySpec, isa: Isa, threads: number): StepPlan<"from" | "to"> {
  const { bytes, shape, from, to } = spec;
  invariant(from.length === shape.length && to.length === shape.length && shape.length <= 8, () => "strides of a copy");
  const layout = layoutOf(spec);
  const elements = shape.reduce((product, n) => product * n, 1);
  const large = spec.stream ?? elements * bytes >= streamBytes;
  const read = shape.reduce((product, n, axis) => (from[axis] === 0 ? product : product * n), bytes);
  const { cuts, body } = planBody(layout, bytes, elements * bytes, targetOf(elements * bytes, threads), large);
  const tasks = cuts.reduce((product, cut) => product * chunks(cut), 1);
  return {
    key: `copy ${isa} ${JSON.stringify({ cuts: cuts.map(({ n, from, to, c }) => [n, from, to, c]), body })}`,
    tasks,
    args: ["from", "to"],
    ...(body.kind === "transpose" ? { scratchBytes: transposeScratch } : {}),
    bytes: read + elements * bytes,
    flops: 0,
    emit: (code) => emitCopy(code, cuts, body),
  };
}

function emitCopy(code: Code, cuts: readonly Cut[], body: Body): void {
  code.mov(registers.from, mem(entry.args, 0));
  code.mov(registers.to, mem(entry.args, 8));
  code.mov(registers.scratch, entry.scratch);
  enterTask(code, cuts, entry.task, [
    { register: registers.from, strides: cuts.map((cut) => cut.from) },
    { register: registers.to, strides: cuts.map((cut) => cut.to) },
  ]);
  const loops = cuts.slice(0, cuts.length - body.own).map((cut) => ({ ...cut, n: cut.c }));
  if (body.kind === "run") {
    const moves = Math.ceil(body.bytes / code.vectorBytes) + 1;
    const unroll = Math.max(1, Math.min(8, Math.floor(16 / moves)));
    const move = (from: number, to: number) => {
      if (body.stream) emitStream(code, body.bytes, from, to);
      else emitRun(code, body.bytes, from, to, undefined, body.ahead);
    };
    emitNest(code, loops, move, unroll);
  } else if (body.kind === "fill") {
    emitNest(code, loops, (from, to) => {
      code.vrepeat(body.element, 0, mem(registers.from, from));
      if (body.stream) emitStream(code, body.bytes, 0, to, { from: undefined, to: registers.to });
      else emitStores(code, body.bytes, to);
    });
  } else {
    const transpose = (how: { stream: boolean; prefetch: boolean }) =>
      emitNest(code, loops, (from, to) => emitTranspose(code, { ...body, ...how }, from, to, loops.length));
    // With short vectors every line is written in four parts, which must meet in a cache.
    if (body.stream && code.vectorBytes > 16) {
      const unaligned = new Label();
      code.mov(gp.r0, registers.to);
      code.aluImm("and", gp.r0, 63);
      code.jcc("ne", unaligned);
      transpose({ stream: true, prefetch: false });
      code.fence();
      code.ret();
      code.bind(unaligned);
    }
    transpose({ stream: false, prefetch: body.prefetch || body.stream });
  }
  if (body.kind !== "transpose" && body.stream) code.fence();
  code.ret();
}

/** Elements of one value. */
export interface FillSpec {
  readonly bytes: 1 | 2 | 4;
  readonly count: number;
  /** Bits of the value. */
  readonly bits: number;
  /** As in a copy. */
  readonly stream?: boolean;
}

export function planFill(spec: FillSpec, isa: Isa, threads: number): StepPlan<"to"> {
  const { bytes, count, bits } = spec;
  const total = count * bytes;
  const cut = { n: total, c: evenPiece(total, targetOf(total, threads), 64) };
  const stream = (spec.stream ?? total >= streamBytes) && cut.c >= streamRun;
  const pattern = (bytes === 4 ? bits : bytes === 2 ? (bits & 0xffff) * 0x10001 : (bits & 0xff) * 0x1010101) >>> 0;
  return {
    key: `fill ${isa} ${total} ${cut.c} ${stream} ${pattern}`,
    tasks: chunks(cut),
    args: ["to"],
    bytes: total,
    flops: 0,
    emit(code) {
      code.mov(registers.to, mem(entry.args, 0));
      enterTask(code, [cut], entry.task, [{ register: registers.to, strides: [1] }]);
      code.vconstant(0, pattern);
      if (stream) {
        emitStream(code, cut.c, 0, 0, { from: undefined, to: registers.to });
        code.fence();
      } else emitStores(code, cut.c, 0);
      code.ret();
    },
  };
}
