// A small matrix applied along two axes of an array, lanes along the last one: the transforms of Winograd's convolution.

import { invariant } from "../../../core/errors.ts";
import { sizeOf } from "../../../core/shape.ts";
import { type Code, entry, type Mem, mem, type Storage, storageBytes, type Vec, vectorLengths } from "../code.ts";
import { floatBits } from "../expression.ts";
import { addConstant, chunks, counters, enterTask, registers } from "./copy-moves.ts";
import { countDown } from "./integers.ts";
import type { Isa, StepPlan } from "./step.ts";

/** One side; strides in elements, the last one 1. */
interface SeparableSide {
  readonly storage: Storage;
  readonly strides: readonly number[];
}

/** to(I, J) = sum over (i, j) of matrix[I][i] matrix[J][j] from(i, j) along two axes of `shape`, for every index of the others. */
export interface SeparableSpec {
  readonly shape: readonly number[];
  readonly from: SeparableSide;
  /** Strides by the axes of `from`. */
  readonly to: SeparableSide;
  readonly axes: readonly [number, number];
  readonly matrix: readonly (readonly number[])[];
}

/** An outer axis, strides in bytes, cut into pieces of `c` for tasks. */
interface Loop {
  readonly n: number;
  readonly c: number;
  readonly from: number;
  readonly to: number;
}

/** Elements that a task reads, about. */
const taskElements = 1 << 15;

export function planSeparable(spec: SeparableSpec, isa: Isa, threads: number): StepPlan<"from" | "to"> {
  const { shape, from, to, axes, matrix } = spec;
  const last = shape.length - 1;
  invariant(
    from.strides[last] === 1 && to.strides[last] === 1 && !axes.includes(last),
    () => "lanes of a small matrix",
  );
  const lanes = vectorLengths[isa] / 4;
  const [fromBytes, toBytes] = [storageBytes[from.storage], storageBytes[to.storage]];
  const vectors = Math.ceil(shape[last]! / lanes);
  const outer = shape.flatMap((n, axis) =>
    axis === last || axes.includes(axis) || n === 1
      ? []
      : [{ n, c: n, from: from.strides[axis]! * fromBytes, to: to.strides[axis]! * toBytes }],
  );
  // Tasks are pieces of the outermost axes.
  const wanted = Math.max(1, Math.min(8 * threads, Math.ceil(sizeOf(shape) / taskElements)));
  let tasks = 1;
  const loops = outer.map((loop): Loop => {
    const pieces = Math.min(loop.n, Math.ceil(wanted / tasks));
    tasks *= pieces;
    return { ...loop, c: Math.ceil(loop.n / pieces) };
  });
  const kernel = {
    isa,
    loops,
    channels: shape[last]!,
    vectors,
    matrix,
    from: { storage: from.storage, a: from.strides[axes[0]]! * fromBytes, b: from.strides[axes[1]]! * fromBytes },
    to: { storage: to.storage, a: to.strides[axes[0]]! * toBytes, b: to.strides[axes[1]]! * toBytes },
    extents: [shape[axes[0]]!, shape[axes[1]]!] as const,
  };
  const others = sizeOf(shape) / kernel.extents[0] / kernel.extents[1];
  const terms = matrix.flat().filter((each) => each !== 0).length;
  return {
    key: `separable ${JSON.stringify(kernel)}`,
    tasks: loops.reduce((product, loop) => product * chunks(loop), 1),
    args: ["from", "to"],
    scratchBytes: 4 * lanes * matrix.length * kernel.extents[1],
    bytes: sizeOf(shape) * fromBytes + others * matrix.length ** 2 * toBytes,
    flops: 2 * others * terms * (kernel.extents[1] + matrix.length),
    emit: (code) => emitSeparable(code, kernel),
  };
}

interface Kernel {
  readonly isa: Isa;
  readonly loops: readonly Loop[];
  readonly channels: number;
  readonly vectors: number;
  readonly matrix: readonly (readonly number[])[];
  readonly from: { readonly storage: Storage; readonly a: number; readonly b: number };
  readonly to: { readonly storage: Storage; readonly a: number; readonly b: number };
  readonly extents: readonly [number, number];
}

/** Factors other than 1 and -1, each in a register of its own. */
function factorsOf(matrix: Kernel["matrix"]): number[] {
  return [...new Set(matrix.flat().filter((each) => each !== 0 && Math.abs(each) !== 1))];
}

function emitSeparable(code: Code, kernel: Kernel): void {
  const { loops, channels, vectors, matrix, extents } = kernel;
  const { from, to, scratch } = registers;
  code.mov(from, mem(entry.args, 0));
  code.mov(to, mem(entry.args, 8));
  code.mov(scratch, entry.scratch);
  enterTask(code, loops, entry.task, [
    { register: from, strides: loops.map((loop) => loop.from) },
    { register: to, strides: loops.map((loop) => loop.to) },
  ]);
  const factors = factorsOf(matrix);
  const inputs = Math.max(...extents);
  const sum: Vec = inputs;
  const spare: Vec = inputs + 1;
  const first: Vec = inputs + 2;
  invariant(first + factors.length <= code.registers, () => "a matrix of too many factors");
  for (const [i, factor] of factors.entries()) code.vconstant(first + i, floatBits(factor));
  /** sum = row of the matrix times the vectors in registers 0, 1, … */
  const combine = (row: readonly number[]) => {
    const terms = row.map((factor, i) => ({ factor, i })).filter(({ factor }) => factor !== 0);
    // A term that needs no product first: the others are added to it.
    terms.sort((x, y) => Number(x.factor !== 1) - Number(y.factor !== 1));
    for (const [at, { factor, i }] of terms.entries()) {
      const register = first + factors.indexOf(factor);
      if (at === 0 && factor === 1) code.vmove(sum, i);
      else if (at === 0 && factor === -1) {
        code.vzero(sum);
        code.vfloat("sub", sum, sum, i);
      } else if (at === 0) code.vfloat("mul", sum, i, register);
      else if (factor === 1) code.vfloat("add", sum, sum, i);
      else if (factor === -1) code.vfloat("sub", sum, sum, i);
      else code.fma(sum, i, register);
    }
    if (terms.length === 0) code.vzero(sum);
  };
  const tail = channels - (vectors - 1) * code.lanes;
  const part = code.setPart(tail, 1);
  const place = (i: number, j: number): Mem => mem(scratch, (i * extents[1] + j) * code.vectorBytes);
  const block = (masked: boolean) => {
    const lanesOf = masked ? part : undefined;
    for (let j = 0; j < extents[1]; j++) {
      for (let i = 0; i < extents[0]; i++)
        code.loadFloats(i, mem(from, i * kernel.from.a + j * kernel.from.b), kernel.from.storage, lanesOf);
      for (const [i, row] of matrix.entries()) {
        combine(row);
        code.vstore(code.vectorBytes, place(i, j), sum);
      }
    }
    for (const i of matrix.keys()) {
      for (let j = 0; j < extents[1]; j++) code.vload(code.vectorBytes, j, place(i, j));
      for (const [j, row] of matrix.entries()) {
        combine(row);
        code.storeFloats(mem(to, i * kernel.to.a + j * kernel.to.b), sum, kernel.to.storage, lanesOf, spare);
      }
    }
  };
  const step = {
    from: code.lanes * storageBytes[kernel.from.storage],
    to: code.lanes * storageBytes[kernel.to.storage],
  };
  const whole = part === undefined ? vectors : vectors - 1;
  const inner = () => {
    const counter = counters[loops.length]!;
    if (whole > 0) {
      code.movImm(counter, whole);
      countDown(code, counter, () => {
        block(false);
        code.aluImm("add", from, step.from);
        code.aluImm("add", to, step.to);
      });
    }
    if (part !== undefined) block(true);
    addConstant(code, from, -whole * step.from);
    addConstant(code, to, -whole * step.to);
  };
  const nest = (depth: number) => {
    const loop = loops[depth];
    if (loop === undefined) return inner();
    const counter = counters[depth]!;
    code.movImm(counter, loop.c);
    countDown(code, counter, () => {
      nest(depth + 1);
      addConstant(code, from, loop.from);
      addConstant(code, to, loop.to);
    });
    addConstant(code, from, -loop.c * loop.from);
    addConstant(code, to, -loop.c * loop.to);
  };
  nest(0);
  code.ret();
}
