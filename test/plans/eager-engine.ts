// An adversary that keeps the letter of the Engine interface and no more: it reads ports as late and stores outputs as early as the
// program's data dependences allow, in an order of its own. What survives here does not lean on the simulator's manners.

import { dtypeBytes, newValues, type ValueArray } from "../../src/core/dtype.ts";
import { AbortedError, DisposedError } from "../../src/core/errors.ts";
import { packFloat16, roundFloat16InPlace, unpackFloat16 } from "../../src/core/float16.ts";
import { type Aval, sameAval, sizeOf } from "../../src/core/shape.ts";
import type { Binding, Buffer, Engine, Executable } from "../../src/engines/engine.ts";
import { instructionOperands, type Program } from "../../src/ir/program.ts";
import type { KernelArray } from "../../src/ops/define.ts";

/** "random": any topological order. "stores-first": producers of outputs as early, and so other readers of inputs as late, as can be. */
export type EagerOrder = "random" | "stores-first";

export interface EagerOptions {
  readonly seed?: number;
  readonly order?: EagerOrder;
}

/** Small generator for tests (mulberry32): uniform in [0, 1). */
export function makeRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const list = [...items];
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}

/** Storage format to values, into a fresh array. */
function load({ dtype, shape, bytes }: Buffer): KernelArray {
  const data = newValues(dtype, sizeOf(shape));
  if (dtype === "fp16")
    unpackFloat16(new Uint16Array(bytes.buffer, bytes.byteOffset, data.length), data as Float32Array);
  else new Uint8Array(data.buffer).set(bytes);
  return { dtype, shape, data };
}

function store(data: ValueArray, { dtype, bytes }: Buffer): void {
  if (dtype === "fp16") packFloat16(data as Float32Array, new Uint16Array(bytes.buffer, bytes.byteOffset, data.length));
  else bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}

/** Instructions in an order that respects data dependences only. */
export function orderOf(program: Program, order: EagerOrder, random: () => number): number[] {
  const producerOf = new Map<number, number>();
  for (const [at, { results }] of program.instructions.entries())
    for (const value of results) producerOf.set(value, at);
  const dependences = program.instructions.map(({ inputs }) => [
    ...new Set(inputs.flatMap((value) => producerOf.get(value) ?? [])),
  ]);
  const done = new Set<number>();
  const list: number[] = [];
  if (order === "stores-first") {
    // Depth first from each output in turn: nothing runs that the next store does not need.
    const outputs = shuffled(program.outputs, random).map(({ value }) => producerOf.get(value)!);
    const rest = shuffled([...program.instructions.keys()], random);
    for (const root of [...outputs, ...rest]) {
      const stack = [root];
      while (stack.length > 0) {
        const at = stack[stack.length - 1]!;
        const open = done.has(at) ? [] : dependences[at]!.filter((dependence) => !done.has(dependence));
        if (open.length > 0) {
          stack.push(...shuffled(open, random));
          continue;
        }
        stack.pop();
        if (done.has(at)) continue;
        done.add(at);
        list.push(at);
      }
    }
    return list;
  }
  const users: number[][] = program.instructions.map(() => []);
  const missing = dependences.map((list, at) => {
    for (const dependence of list) users[dependence]!.push(at);
    return list.length;
  });
  const ready = missing.flatMap((count, at) => (count === 0 ? [at] : []));
  while (ready.length > 0) {
    const [at] = ready.splice(Math.floor(random() * ready.length), 1);
    list.push(at!);
    for (const user of users[at!]!) if (--missing[user]! === 0) ready.push(user);
  }
  return list;
}

class EagerExecutable implements Executable {
  readonly program: Program;
  readonly #order: EagerOrder;
  readonly #random: () => number;
  #disposed = false;

  constructor(program: Program, order: EagerOrder, random: () => number) {
    this.program = program;
    this.#order = order;
    this.#random = random;
  }

  bind(buffers: ReadonlyMap<string, Buffer>): Binding {
    const { program } = this;
    const inputs = new Map(program.inputs.map(({ name, value }) => [value, buffers.get(name)!]));
    const outputs = new Map(program.outputs.map(({ name, value }) => [value, buffers.get(name)!]));
    for (const [value, buffer] of [...inputs, ...outputs]) {
      const aval = program.values[value]!;
      if (buffer.dtype !== aval.dtype || buffer.bytes.length !== sizeOf(aval.shape) * dtypeBytes[aval.dtype])
        throw new Error(`a port of ${program.name} got a buffer that does not fit`);
    }
    if (new Set(outputs.values()).size !== outputs.size) throw new Error("two outputs share a buffer");
    const inputBuffers = new Set(inputs.values());
    const stored = new Map<number, KernelArray>();

    const begin = (): number[] => {
      if (this.#disposed) throw new DisposedError("the eager executable");
      stored.clear();
      for (const { value, data } of program.constants) {
        const { dtype, shape } = program.values[value]!;
        const copy = newValues(dtype, data.length);
        copy.set(data);
        if (dtype === "fp16") roundFloat16InPlace(copy as Float32Array);
        stored.set(value, { dtype, shape, data: copy });
      }
      // What an output buffer held before is nobody's business, unless it is the state that this run reads.
      for (const buffer of outputs.values()) if (!inputBuffers.has(buffer)) buffer.bytes.fill(0xab);
      return orderOf(program, this.#order, this.#random);
    };

    const execute = (at: number) => {
      const instruction = program.instructions[at]!;
      const { op, attrs, results } = instruction;
      // A fresh look at a port's memory at every use of it.
      const seen = new Map<Buffer, KernelArray>();
      const operands = instructionOperands(instruction, (value) => {
        const buffer = inputs.get(value);
        if (buffer === undefined) return stored.get(value)!;
        let array = seen.get(buffer);
        if (array === undefined) seen.set(buffer, (array = { ...load(buffer), shape: program.values[value]!.shape }));
        return array;
      });
      const outs = results.map((value): KernelArray => {
        const aval = program.values[value]!;
        const target = outputs.get(value);
        const aliased = target === undefined ? undefined : seen.get(target);
        // The kernel writes where it reads; one that is not elementwise may even clear its result first.
        if (aliased !== undefined && sameAval(aliased, aval)) {
          if (op.elementwise !== true) aliased.data.fill(1);
          return aliased;
        }
        return { dtype: aval.dtype, shape: aval.shape, data: newValues(aval.dtype, sizeOf(aval.shape)).fill(1) };
      }) as [KernelArray, ...KernelArray[]];
      op.kernel(operands, attrs, outs);
      for (const [i, out] of outs.entries()) {
        if (out.dtype === "fp16") roundFloat16InPlace(out.data as Float32Array);
        const value = results[i]!;
        stored.set(value, { ...out, data: out.data.slice() as ValueArray });
        const target = outputs.get(value);
        if (target !== undefined) store(out.data, target);
      }
    };

    return {
      runSync: () => {
        for (const at of begin()) execute(at);
      },
      run: async (signal) => {
        if (signal?.aborted) throw new AbortedError("run", signal);
        for (const at of begin()) {
          execute(at);
          if (this.#random() < 0.2) await new Promise((resolve) => setImmediate(resolve));
        }
      },
    };
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
  }
}

/** Opens the adversary. Its name is "sim" because an engine must have one of the known names. */
export function createEager({ seed = 1, order = "random" }: EagerOptions = {}): Engine {
  const random = makeRandom(seed);
  return {
    name: "sim",
    reason: `adversary, ${order} order, seed ${seed}`,
    allocate: ({ dtype, shape }: Aval): Buffer => ({
      dtype,
      shape,
      bytes: new Uint8Array(sizeOf(shape) * dtypeBytes[dtype]).fill(0xab),
      [Symbol.dispose]() {},
    }),
    load: async (program) => new EagerExecutable(program, order, random),
    [Symbol.dispose]() {},
  };
}
