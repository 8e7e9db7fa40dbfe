// Segmentation: a program with more constants than one unit may hold, cut into programs that run one after the other.

import { dtypeBytes } from "../core/dtype.ts";
import { formatAval, UnsupportedError } from "../core/errors.ts";
import { sizeOf } from "../core/shape.ts";
import { type Instruction, type Program, ProgramBuilder } from "../ir/program.ts";

/** Share of a segment's room for constants that must be used before a cut may come early for the sake of fewer bytes that cross. */
const fullEnough = 0.75;

/**
 * Cuts a program whose constants exceed `maxConstantBytes` into programs that run one after the other; values that cross get ports named `link…`,
 * which the caller connects by their names. Order and results are unchanged. A program that needs no cut comes back as it is.
 *
 * Only floats get ports: bools and int32 are computed again in every segment that reads them (constants that they need come on top). An input is a port of every segment that reads it,
 * an output of the one that computes it. So an output of an earlier segment is stored before a later one runs: it may replace an input in place only
 * if no later segment reads that input (see `notOverwritable`), and a run that fails in between has then replaced it.
 * @throws {UnsupportedError} where the constants of one instruction alone exceed it.
 */
export function segment(program: Program, maxConstantBytes: number): readonly Program[] {
  const bytesOf = (value: number) => {
    const { dtype, shape } = program.values[value]!;
    return dtypeBytes[dtype] * sizeOf(shape);
  };
  const constants = new Map(program.constants.map((constant) => [constant.value, constant]));
  const cuts = findCuts(program, new Set(constants.keys()), bytesOf, maxConstantBytes);
  if (cuts.length === 0) return [program];
  return new Segments(program, cuts).build();
}

/** Numbers of the instructions before which the program is cut. */
function findCuts(
  program: Program,
  constants: ReadonlySet<number>,
  bytesOf: (value: number) => number,
  maxBytes: number,
): number[] {
  const { instructions } = program;
  const crossing = crossingBytes(program, constants, bytesOf);
  const cuts: number[] = [];
  let start = 0;
  while (start < instructions.length) {
    const held = new Set<number>();
    let bytes = 0;
    let end = start;
    let enough: number | undefined;
    for (; end < instructions.length; end++) {
      const added = [...new Set(instructions[end]!.inputs)].filter((value) => constants.has(value) && !held.has(value));
      bytes += added.reduce((sum, value) => sum + bytesOf(value), 0);
      if (bytes > maxBytes) break;
      for (const value of added) held.add(value);
      if (bytes >= fullEnough * maxBytes) enough ??= end + 1;
    }
    if (end === instructions.length) break;
    if (end === start) throw tooLarge(program, instructions[start]!, constants, maxBytes);
    let best = end;
    for (let at = enough ?? end; at < end; at++) if (crossing[at]! < crossing[best]!) best = at;
    cuts.push(best);
    start = best;
  }
  return cuts;
}

/** Bytes of computed values that are read at or after each instruction and produced before it. */
function crossingBytes(
  { instructions }: Program,
  constants: ReadonlySet<number>,
  bytesOf: (value: number) => number,
): Float64Array {
  const lastUse = new Map<number, number>();
  for (const [at, { inputs }] of instructions.entries()) for (const value of inputs) lastUse.set(value, at);
  const change = new Float64Array(instructions.length + 2);
  for (const [at, { results }] of instructions.entries()) {
    for (const value of results) {
      const last = lastUse.get(value);
      if (last === undefined || constants.has(value)) continue;
      change[at + 1]! += bytesOf(value);
      change[last + 1]! -= bytesOf(value);
    }
  }
  for (let at = 1; at < change.length; at++) change[at]! += change[at - 1]!;
  return change;
}

function tooLarge(
  { values }: Program,
  { op, inputs }: Instruction,
  constants: ReadonlySet<number>,
  maxBytes: number,
): UnsupportedError {
  const large = inputs.filter((value) => constants.has(value)).map((value) => formatAval(values[value]!));
  return new UnsupportedError("compile", `${op.name}: constant ${large.join(" and ")} exceeds ${maxBytes} bytes`, {
    op: op.name,
    limit: maxBytes,
    remedy: "split it along an axis and join the results, or make it a parameter",
  });
}

class Segments {
  readonly #program: Program;
  readonly #starts: readonly number[];
  /** Instruction that produces a value. */
  readonly #producer = new Map<number, number>();
  /** Port that carries a value from one segment to later ones. */
  readonly #links = new Map<number, string>();
  readonly #names: Set<string>;

  constructor(program: Program, cuts: readonly number[]) {
    this.#program = program;
    this.#starts = [0, ...cuts];
    this.#names = new Set([...program.inputs, ...program.outputs].map(({ name }) => name));
    for (const [at, { results }] of program.instructions.entries())
      for (const value of results) this.#producer.set(value, at);
  }

  build(): Program[] {
    const { instructions } = this.#program;
    const parts = this.#starts.map((start, i) => {
      const end = this.#starts[i + 1] ?? instructions.length;
      return this.#recomputed(
        start,
        Array.from({ length: end - start }, (_, at) => start + at),
      );
    });
    for (const { reads } of parts) for (const value of reads) this.#link(value);
    return parts.map(({ order, reads }, i) => this.#part(i, order, reads));
  }

  /** Instructions of a segment with those of earlier ones whose results have no port, and the values that it reads from earlier ones. */
  #recomputed(start: number, own: readonly number[]): { order: number[]; reads: Set<number> } {
    const { instructions, values } = this.#program;
    const again = new Set<number>();
    const reads = new Set<number>();
    const stack = [...own];
    while (stack.length > 0) {
      for (const value of instructions[stack.pop()!]!.inputs) {
        const at = this.#producer.get(value);
        if (at === undefined || at >= start || again.has(at)) continue;
        if (values[value]!.dtype === "fp16" || values[value]!.dtype === "fp32") reads.add(value);
        else {
          again.add(at);
          stack.push(at);
        }
      }
    }
    return { order: [...[...again].sort((a, b) => a - b), ...own], reads };
  }

  /** Names the port of a value; one that is an output already crosses under that name. */
  #link(value: number): void {
    if (this.#links.has(value)) return;
    const output = this.#program.outputs.find((port) => port.value === value);
    let name = output?.name;
    for (let n = this.#links.size; name === undefined; n++) if (!this.#names.has(`link${n}`)) name = `link${n}`;
    this.#names.add(name);
    this.#links.set(value, name);
  }

  #part(index: number, order: readonly number[], reads: ReadonlySet<number>): Program {
    const { name, values, inputs, constants, instructions, outputs } = this.#program;
    const builder = new ProgramBuilder(`${name}_${index}`);
    const numbers = new Map<number, number>();
    const used = new Set(order.flatMap((at) => instructions[at]!.inputs));
    const all = new Set(instructions.flatMap(({ inputs: operands }) => operands));
    // An input that no segment reads stays a port of the first one.
    for (const port of inputs)
      if (used.has(port.value) || (index === 0 && !all.has(port.value)))
        numbers.set(port.value, builder.input(port.name, values[port.value]!));
    for (const value of [...reads].sort((a, b) => a - b))
      numbers.set(value, builder.input(this.#links.get(value)!, values[value]!));
    for (const { value, data } of constants)
      if (used.has(value)) numbers.set(value, builder.constant(values[value]!, data));
    for (const at of order) {
      const { op, inputs: operands, attrs, results } = instructions[at]!;
      const flat = operands.map((value) => (value < 0 ? -1 : numbers.get(value)!));
      const made = builder.checked(
        op,
        flat,
        attrs,
        results.map((value) => values[value]!),
      );
      for (const [i, value] of results.entries()) numbers.set(value, made[i]!);
    }
    const [start, end] = [this.#starts[index]!, this.#starts[index + 1] ?? instructions.length];
    const here = (value: number) => {
      const at = this.#producer.get(value);
      return at !== undefined && at >= start && at < end;
    };
    for (const port of outputs) if (here(port.value)) builder.output(port.name, numbers.get(port.value)!);
    const given = new Set(outputs.map(({ value }) => value));
    for (const [value, link] of this.#links)
      if (here(value) && !given.has(value)) builder.output(link, numbers.get(value)!);
    return builder.finish();
  }
}
