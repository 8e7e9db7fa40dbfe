// What the generators of loop nests share: the frame, a task's position, pointers to every operand.

import { type DType, dtypeBytes } from "../../../core/dtype.ts";
import { invariant } from "../../../core/errors.ts";
import type { Node } from "../expression.ts";
import type { Address, Machine, ReduceKind, Reg, Slot } from "../machine.ts";

/** Memory of a loop: element strides for every dimension, the inner one 0 or 1. */
export interface LoopOperand {
  readonly dtype: DType;
  readonly strides: readonly number[];
}

export interface LoopStore {
  readonly operand: number;
  readonly value: Node;
  /** A mask; where it is false the value is what the memory holds already, and may stay unread and unwritten. */
  readonly where?: Node;
  /** Set where the result is too large for the caches, walked by rows that are a whole number of 64 bytes apart, and not read in the loop. */
  readonly streams?: boolean;
}

/**
 * A loop nest over `dims`, the last of which is the vector dimension. Expressions have the operands 0 … operands.length - 1, loaded at the loop's
 * position; operand -1 - i is the result of reduction i.
 */
export interface NestSpec {
  readonly dims: readonly number[];
  /** Tasks enumerate the first `taskDims` dimensions, and blocks of `block` of dimension `blocked`. */
  readonly taskDims: number;
  readonly blocked: number;
  readonly block: number;
  /** Of reductions of columns: the dimensions before those that are reduced; a task runs over those that it does not enumerate. */
  readonly outer?: number;
  readonly operands: readonly LoopOperand[];
  readonly reductions: readonly { readonly kind: ReduceKind; readonly value: Node }[];
  readonly stores: readonly LoopStore[];
  /** True where a stored operand may be the memory of a loaded one: the same element is then read before it is written. */
  readonly inPlace: boolean;
}

/** Tasks of a nest. */
export function nestTasks({ dims, taskDims, blocked, block }: NestSpec): number {
  return dims.slice(0, taskDims).reduce((product, dim) => product * dim, Math.ceil(dims[blocked]! / block));
}

/** Equal for nests with the same code. */
export function nestKey(spec: NestSpec): string {
  const { dims, taskDims, blocked, block, outer, operands, reductions, stores, inPlace } = spec;
  const numbers = new Map<Node, number>();
  const text: string[] = [];
  const number = (node: Node): number => {
    const known = numbers.get(node);
    if (known !== undefined) return known;
    if (node.kind === "constant") text.push(`${node.type}${node.bits}`);
    else if (node.kind === "operand") text.push(`${node.type}@${node.index}`);
    else if (node.kind === "bits") text.push(`${node.type}=${number(node.of)}`);
    else text.push(`${node.op}${node.count}(${node.args.map(number).join()})`);
    numbers.set(node, numbers.size);
    return numbers.size - 1;
  };
  const results = [
    ...reductions.map(({ kind, value }) => `${kind}=${number(value)}`),
    ...stores.map(
      ({ operand, value, where, streams = false }) =>
        `${operand}${streams ? ":" : "="}${number(value)}${where === undefined ? "" : `?${number(where)}`}`,
    ),
  ];
  const memory = operands.map(({ dtype, strides }) => `${dtype}:${strides.join()}`);
  return [dims.join(), taskDims, blocked, block, outer, inPlace, memory.join(";"), text.join(" "), results.join()].join(
    "|",
  );
}

/** Bits that a reduction starts from. */
export const neutral = {
  f32: { sum: 0, max: -0x00800000, min: 0x7f800000 }, // 0, -inf, inf
  i32: { sum: 0, max: -0x80000000, min: 0x7fffffff },
} as const;

export function typeOf(value: Node): "f32" | "i32" {
  return value.type === "i32" ? "i32" : "f32";
}

const argumentsSlot = 0;
const taskSlot = 1;
const scratchSlot = 2;
const firstFreeSlot = 3;

/** Where an operand's pointer lives. */
type Pointer = { readonly register: Reg } | { readonly slot: Slot };

/** The machine with every emission left out: a dry run finds the size of the frame. */
function silent(machine: Machine): Machine {
  const label = { at: 0 };
  const constants = new Set(["lanes", "vectors", "masks", "pointers", "counter", "temporary", "tail"]);
  return new Proxy(machine, {
    get(target, name) {
      if (constants.has(name as string)) return target[name as keyof Machine];
      if (name === "clobbersEarly") return target.clobbersEarly.bind(target);
      if (name === "label") return () => label;
      return () => undefined;
    },
  });
}

export interface FrameSize {
  readonly words: number;
  readonly vectors: number;
}

/** Emits a kernel through `make`, whose writer runs twice: once to learn the frame's size. */
export function emitNest(machine: Machine, make: (machine: Machine) => NestWriter): void {
  const dry = make(silent(machine));
  dry.write({ words: 0, vectors: 0 });
  make(machine).write(dry.used);
}

export abstract class NestWriter {
  protected readonly machine: Machine;
  protected readonly spec: NestSpec;
  readonly #pointers: readonly Pointer[];
  /** Pointer to the thread's scratch, where the nest needs it. */
  protected readonly scratch: Reg | undefined;
  protected readonly columns: number;
  /** Elements of the vector dimension: all, in whole unrolled vectors, in whole vectors. */
  protected readonly length: Slot;
  protected readonly unrolledEnd: Slot;
  protected readonly vectorEnd: Slot;
  /** How much of the blocked dimension the task has. */
  protected readonly blockCount: Slot;
  protected readonly counters: readonly Slot[];
  readonly #words: number;
  #vectors = 0;

  constructor(machine: Machine, spec: NestSpec, usesScratch: boolean) {
    this.machine = machine;
    this.spec = spec;
    this.columns = spec.dims.at(-1)!;
    invariant(
      spec.operands.every(({ strides }) => strides.length === spec.dims.length && [0, 1].includes(strides.at(-1)!)),
      () => "a loop's operands do not fit its dimensions",
    );
    let words = firstFreeSlot;
    const word = (): Slot => words++;
    const registers = [...machine.pointers];
    this.scratch = usesScratch ? registers.shift() : undefined;
    this.#pointers = spec.operands.map((): Pointer => {
      const register = registers.shift();
      return register === undefined ? { slot: word() } : { register };
    });
    this.length = word();
    this.unrolledEnd = word();
    this.vectorEnd = word();
    this.blockCount = word();
    this.counters = spec.dims.map(word);
    this.#words = words;
  }

  get used(): FrameSize {
    return { words: this.#words, vectors: this.#vectors };
  }

  /** New vector slots of the frame; the first one's number. */
  protected vectorSlots(count: number): number {
    this.#vectors += count;
    return this.#vectors - count;
  }

  abstract write(frame: FrameSize): void;

  /** Adds elements to every operand's pointer. */
  protected advance(elements: (strides: readonly number[]) => number): void {
    for (const [i, { dtype, strides }] of this.spec.operands.entries()) {
      const bytes = elements(strides) * dtypeBytes[dtype];
      const pointer = this.#pointers[i]!;
      if (bytes === 0) continue;
      if ("register" in pointer) this.machine.addConstant(pointer.register, bytes);
      else this.machine.addSlot(pointer.slot, bytes);
    }
  }

  /** Turns the task's number into pointers and lengths. `unroll`: vectors of the unrolled loop. */
  protected start(unroll: number): void {
    const { machine, spec, counters, blockCount } = this;
    const { dims, taskDims, blocked, block, operands } = spec;
    const blocks = Math.ceil(dims[blocked]! / block);
    // The task's position: block first, then the enumerated dimensions from the inside; counters serve as places for it.
    const sizes = [...dims.slice(0, taskDims).entries()].map(([at, size]) => ({ at, size }));
    if (blocks > 1) sizes.push({ at: blocked, size: blocks });
    const enumerated = sizes.filter(({ size }) => size > 1);
    const position = new Map<number, Slot>();
    for (const { at, size } of [...enumerated].reverse()) {
      if (enumerated.length === 1) position.set(at, taskSlot);
      else {
        machine.divideSlot(taskSlot, size, blockCount, counters[at]!);
        machine.loadSlot(machine.temporary, blockCount);
        machine.storeSlot(taskSlot, machine.temporary);
        position.set(at, counters[at]!);
      }
    }
    // Pointers are made in the counter register: the others may still hold something.
    for (const [i, { dtype, strides }] of operands.entries()) {
      machine.loadSlot(machine.counter, argumentsSlot);
      machine.loadWord(machine.counter, machine.counter, i);
      for (const { at } of enumerated) {
        const bytes = strides[at]! * dtypeBytes[dtype] * (at === blocked ? block : 1);
        if (bytes === 0) continue;
        machine.loadSlot(machine.temporary, position.get(at)!);
        this.#addProduct(machine.counter, machine.temporary, bytes);
      }
      const pointer = this.#pointers[i]!;
      if ("register" in pointer) machine.copy(pointer.register, machine.counter);
      else machine.storeSlot(pointer.slot, machine.counter);
    }
    if (blocks === 1) machine.setSlot(blockCount, dims[blocked]!);
    else machine.restOfBlock(blockCount, position.get(blocked)!, block, dims[blocked]!);
    if (this.scratch !== undefined) machine.loadSlot(this.scratch, scratchSlot);
    if (blocked === dims.length - 1) {
      machine.loadSlot(machine.temporary, blockCount);
      machine.storeSlot(this.length, machine.temporary);
    } else machine.setSlot(this.length, this.columns);
    machine.roundDownSlot(this.vectorEnd, this.length, machine.lanes);
    machine.roundDownSlot(this.unrolledEnd, this.length, machine.lanes * unroll);
    machine.setTail(this.length);
  }

  /** dst += register × bytes; the register is lost. */
  #addProduct(dst: Reg, register: Reg, bytes: number): void {
    const { machine } = this;
    if (bytes === (bytes | 0)) machine.multiply(register, register, bytes);
    else {
      // Wide strides: in units of 2^16 bytes, and the rest.
      const low = bytes % 65536;
      machine.storeSlot(this.length, register);
      machine.multiply(register, register, (bytes - low) / 65536);
      machine.multiply(register, register, 65536);
      machine.add(dst, register);
      machine.loadSlot(register, this.length);
      machine.multiply(register, register, low);
    }
    machine.add(dst, register);
  }

  /** Address of an operand at the current position, `offset` elements on; `indexed` adds the counter. */
  protected address(operand: number, offset: number, indexed: boolean): Address {
    const { machine } = this;
    const pointer = this.#pointers[operand]!;
    if ("slot" in pointer) machine.loadSlot(machine.temporary, pointer.slot);
    const base = "slot" in pointer ? machine.temporary : pointer.register;
    return indexed ? { base, index: machine.counter, offset } : { base, offset };
  }

  /** Loops over dimensions from `from` up to (not including) `to` around `body`. The blocked dimension runs over the task's part of it. */
  protected loops(from: number, to: number, body: () => void): void {
    if (from === to) return body();
    const { machine, spec } = this;
    const counter = this.counters[from]!;
    const runtime = from === spec.blocked;
    if (runtime) {
      machine.loadSlot(machine.temporary, this.blockCount);
      machine.storeSlot(counter, machine.temporary);
    } else machine.setSlot(counter, spec.dims[from]!);
    const top = machine.label();
    machine.bind(top);
    this.loops(from + 1, to, body);
    this.advance((strides) => strides[from]!);
    machine.loopSlot(counter, top);
    // The blocked dimension is the outermost of a task's loops: nobody needs its pointers back.
    if (!runtime) this.advance((strides) => -strides[from]! * spec.dims[from]!);
  }

  /** A loop over vectors from the counter on, up to the slot. */
  protected sweep(end: Slot, step: number, body: () => void): void {
    const { machine } = this;
    const [top, after] = [machine.label(), machine.label()];
    machine.jumpIfCounterNotBelow(end, after);
    machine.bind(top);
    body();
    machine.addConstant(machine.counter, step);
    machine.jumpIfCounterBelow(end, top);
    machine.bind(after);
  }
}
