// The process behind Espresso's double: it plays aned. Reads programs from disk, refuses what the chip refuses, and computes with the simulator's
// kernels, one instruction at a time, storing outputs that share an input's buffer as early as data dependence permits.

import { readFileSync, readSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { dtypeBytes, newValues, type ValueArray } from "../../../src/core/dtype.ts";
import { packFloat16, roundFloat16InPlace, unpackFloat16 } from "../../../src/core/float16.ts";
import { sizeOf } from "../../../src/core/shape.ts";
import { type Instruction, instructionOperands, type Port, type Program } from "../../../src/ir/program.ts";
import type { MilFile, MilValue } from "../../../src/mil/ast.ts";
import { parseMil } from "../../../src/mil/parser.ts";
import { readFunction } from "../../../src/mil/reader.ts";
import type { KernelArray } from "../../../src/ops/define.ts";
import { type Chip, readChip, readTarget } from "./quirks.ts";
import { inspect, inspectProgram, Refusal } from "./refusals.ts";
import { compute } from "./silicon.ts";

const channel = 3;
const outcomes = { answered: 0, refused: 1, misuse: 3 } as const;

/** What the caller did wrong, as opposed to what the chip cannot do. */
class Misuse extends Error {}

// ---------------------------------------------------------------------------------------------------------- channel

function read(length: number): Buffer | undefined {
  const bytes = Buffer.allocUnsafeSlow(length);
  for (let at = 0; at < length; ) {
    const count = readSync(channel, bytes, at, length - at, null);
    if (count === 0) return undefined;
    at += count;
  }
  return bytes;
}

function answer(outcome: number, ...parts: Uint8Array[]): void {
  const head = Buffer.alloc(12);
  head.writeUInt32LE(outcome, 0);
  head.writeBigUInt64LE(BigInt(parts.reduce((sum, part) => sum + part.length, 0)), 4);
  for (const part of [head, ...parts]) {
    for (let at = 0; at < part.length; ) at += writeSync(channel, part, at);
  }
}

// ------------------------------------------------------------------------------------------------------ weight files

/** Codes of the container's dtypes with the bits of a value, from the table of the MIL sheet (3). */
const blobTypes: Readonly<Record<number, readonly [string, number]>> = {
  1: ["fp16", 16],
  2: ["fp32", 32],
  3: ["uint8", 8],
  4: ["int8", 8],
  5: ["bf16", 16],
  6: ["int16", 16],
  7: ["uint16", 16],
  8: ["int4", 4],
  9: ["uint1", 1],
  10: ["uint2", 2],
  11: ["uint4", 4],
  12: ["uint3", 3],
  13: ["uint6", 6],
  14: ["int32", 32],
  15: ["uint32", 32],
};

type BlobValue = Extract<MilValue, { kind: "blob" }>;

/** Every reference to a weight file in a text. */
function* blobs(file: MilFile): Iterable<BlobValue> {
  const inside = function* (value: MilValue): Iterable<BlobValue> {
    if (value.kind === "blob") yield value;
    else if (value.kind === "tuple") for (const item of value.items) yield* inside(item);
  };
  for (const { statements } of file.functions)
    for (const { args, attributes } of statements)
      for (const { value } of [...args, ...attributes]) yield* inside(value);
}

function blobPath(folder: string, path: string): string {
  const inside = /^@model_path\/([^/].*)$/.exec(path)?.[1];
  if (inside === undefined || inside.split("/").includes("..")) {
    throw new Misuse(`weights path "${path}" is not below @model_path/`);
  }
  return join(folder, inside);
}

function openWeights(folder: string, path: string): Buffer {
  const file = blobPath(folder, path);
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    throw new Misuse(`cannot open the weight file ${path}: ${(error as Error).message}`);
  }
  if (bytes.length < 64) throw new Misuse(`${path} has ${bytes.length} bytes, its header alone takes 64`);
  if (bytes.readUInt32LE(4) !== 2) throw new Misuse(`${path}: version ${bytes.readUInt32LE(4)}, expected 2`);
  if (bytes.subarray(8, 64).some((byte) => byte !== 0))
    throw new Misuse(`${path}: reserved bytes of the header are not zero`);
  let count = 0;
  for (let at = 64; at + 64 <= bytes.length; ) {
    if (bytes.readUInt32LE(at) !== 0xdeadbeef) throw new Misuse(`${path}: no record at ${at}`);
    count++;
    const end = Number(bytes.readBigUInt64LE(at + 16) + bytes.readBigUInt64LE(at + 8));
    if (!(end > at)) throw new Misuse(`${path}: the record at ${at} lies about its data`);
    // Records stand at multiples of 64 (MIL sheet, 3) or packed (runtime sheet, 3): both were accepted.
    const aligned = Math.ceil(end / 64) * 64;
    at = end + 4 <= bytes.length && bytes.readUInt32LE(end) === 0xdeadbeef ? end : aligned;
  }
  if (count !== bytes.readUInt32LE(0))
    throw new Misuse(`${path}: the header counts ${bytes.readUInt32LE(0)} blobs, there are ${count}`);
  return bytes;
}

/** Checks the record that a constant names, and returns the size of its data. */
function checkBlob(bytes: Buffer, { path, offset, type }: BlobValue): number {
  const where = `${path} at ${offset}`;
  if (offset < 64 || offset + 64 > bytes.length || bytes.readUInt32LE(offset) !== 0xdeadbeef) {
    throw new Misuse(`${where}: the offset names no record: the sentinel 0xDEADBEEF is not there`);
  }
  const kind = blobTypes[bytes.readUInt32LE(offset + 4)];
  const size = Number(bytes.readBigUInt64LE(offset + 8));
  const start = Number(bytes.readBigUInt64LE(offset + 16));
  const wanted = type.dtype === "bool" ? "uint8" : type.dtype;
  if (kind?.[0] !== wanted)
    throw new Misuse(`${where}: dtype ${kind?.[0] ?? "unknown"}, the constant is ${type.dtype}`);
  if (start !== offset + 64) throw new Misuse(`${where}: data offset ${start}, expected ${offset + 64}`);
  const needed = Math.ceil((type.shape.reduce((product, extent) => product * extent, 1) * kind[1]) / 8);
  if (size !== needed) throw new Misuse(`${where}: ${size} bytes, the constant takes ${needed}`);
  if (start + size > bytes.length)
    throw new Misuse(`${where}: its data goes past the end of the file at ${bytes.length}`);
  if (bytes.subarray(offset + 32, offset + 64).some((byte) => byte !== 0)) {
    throw new Misuse(`${where}: reserved bytes of the record are not zero`);
  }
  return size;
}

// ---------------------------------------------------------------------------------------------------------- programs

interface Loaded {
  readonly program: Program;
  readonly chip: Chip;
  /** By value number; constants are in place. */
  readonly arrays: readonly KernelArray[];
}

const loaded = new Map<number, Loaded>();
let numbers = 0;

function compile(settings: string, path: string, custom: string): { number: number; lines: string[] } {
  const chip = readChip(settings);
  const lines = readTarget(chip, custom);
  const text = readFileSync(path, "utf8");
  const file = parseMil(text, "model.mil");
  const main = file.functions.find(({ name }) => name === "main");
  if (main === undefined) throw new Refusal("InvalidMILProgram: there is no function main");
  const folder = dirname(path);
  const files = new Map<string, Buffer>();
  const open = (name: string) => {
    let bytes = files.get(name);
    if (bytes === undefined) files.set(name, (bytes = openWeights(folder, name)));
    return bytes;
  };
  let weightBytes = 0;
  const seen = new Set<string>();
  for (const blob of blobs(file)) {
    const size = checkBlob(open(blob.path), blob);
    if (!seen.has(`${blob.offset} ${blob.path}`)) weightBytes += size;
    seen.add(`${blob.offset} ${blob.path}`);
  }
  inspect(chip, { text, file, main, weightBytes });
  let program: Program;
  try {
    program = readFunction(main, "model.mil", { weights: open });
  } catch (error) {
    throw new Refusal(`InvalidMILProgram: ${(error as Error).message}`);
  }
  inspectProgram(chip, program);
  const arrays: KernelArray[] = program.values.map(({ dtype, shape }) => ({
    dtype,
    shape,
    data: newValues(dtype, sizeOf(shape)),
  }));
  for (const { value, data } of program.constants) {
    const array = arrays[value]!;
    array.data.set(data);
    if (array.dtype === "fp16") roundFloat16InPlace(array.data as Float32Array);
  }
  const number = ++numbers;
  loaded.set(number, { program, chip, arrays });
  return { number, lines };
}

/** The order in which an adversary runs the instructions: what each aliased output needs first, the one that needs least before the others. */
function schedule(program: Program, aliased: readonly number[], chip: Chip): number[] {
  const producer = new Map<number, number>();
  for (const [at, { results }] of program.instructions.entries()) for (const value of results) producer.set(value, at);
  const needs = (value: number): Set<number> => {
    const found = new Set<number>();
    const stack = [value];
    for (let next = stack.pop(); next !== undefined; next = stack.pop()) {
      const at = producer.get(next);
      if (at === undefined || found.has(at)) continue;
      found.add(at);
      stack.push(...program.instructions[at]!.inputs.filter((input) => input >= 0));
    }
    return found;
  };
  const wanted = aliased.map(needs);
  if (chip.numbers.order === 0) wanted.sort((a, b) => a.size - b.size);
  else shuffle(wanted, chip.numbers.order);
  const order: number[] = [];
  const placed = new Set<number>();
  for (const set of [...wanted, new Set(program.instructions.keys())]) {
    for (const at of [...set].sort((a, b) => a - b)) {
      if (placed.has(at)) continue;
      placed.add(at);
      order.push(at);
    }
  }
  return order;
}

function shuffle<T>(list: T[], seed: number): void {
  let state = seed >>> 0;
  for (let i = list.length - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = Math.floor((state / 2 ** 32) * (i + 1));
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
}

function portBytes(program: Program, { value }: Port): number {
  const { dtype, shape } = program.values[value]!;
  return sizeOf(shape) * dtypeBytes[dtype];
}

function load({ dtype, data }: KernelArray, bytes: Uint8Array): void {
  const copy = bytes.slice(0, data.length * dtypeBytes[dtype as keyof typeof dtypeBytes]);
  if (dtype === "fp16") unpackFloat16(new Uint16Array(copy.buffer), data as Float32Array);
  else if (dtype === "fp32") data.set(new Float32Array(copy.buffer));
  else if (dtype === "int32") data.set(new Int32Array(copy.buffer));
  else data.set(copy);
}

function store({ dtype, data }: KernelArray): Uint8Array {
  const values: ValueArray = data;
  if (dtype === "fp16") {
    const bits = new Uint16Array(values.length);
    packFloat16(values as Float32Array, bits);
    return new Uint8Array(bits.buffer);
  }
  return new Uint8Array(values.slice().buffer);
}

/** Operators whose result may be a view of their operand. */
const views: ReadonlySet<string> = new Set(["reshape", "squeeze", "expand_dims", "identity"]);

/** Runs a program over the bytes of its inputs; `aliases` says which outputs share the buffer of which input. */
function execute(
  { program, chip, arrays }: Loaded,
  bytes: Uint8Array,
  aliases: ReadonlyMap<number, readonly number[]>,
): Uint8Array[] {
  let from = 0;
  for (const port of program.inputs) {
    load(arrays[port.value]!, bytes.subarray(from));
    from += portBytes(program, port);
  }
  const outputs: Uint8Array[] = [];
  const portOf = new Map(program.outputs.map(({ value }, index) => [value, index]));
  const aliased = [...aliases.keys()].map((index) => program.outputs[index]!.value);
  const sharing = new Map<number, number>(); // an aliased result that overwrites an operand of its own producer, with that operand
  const run = (instruction: Instruction) => {
    const outs = instruction.results.map((value) => {
      const operand = sharing.get(value);
      return operand === undefined ? arrays[value]! : { ...arrays[value]!, data: arrays[operand]!.data };
    }) as [KernelArray, ...KernelArray[]];
    compute(
      chip,
      instruction,
      instructionOperands(instruction, (value) => arrays[value]!),
      outs,
    );
    for (const [i, value] of instruction.results.entries())
      if (sharing.has(value)) arrays[value]!.data.set(outs[i]!.data);
  };
  for (const [output, inputs] of aliases) {
    const { value } = program.outputs[output]!;
    const producer = program.instructions.find(({ results }) => results.includes(value))!;
    // Stores element by element, while it reads: harmless for an operator that reads an element only to compute the same one.
    const operand = inputs
      .map((input) => program.inputs[input]!.value)
      .find((input) => producer.inputs.includes(input));
    if (operand === undefined || sizeOf(arrays[operand]!.shape) !== sizeOf(arrays[value]!.shape)) continue;
    if (arrays[operand]!.dtype === arrays[value]!.dtype) sharing.set(value, operand);
  }
  const done: Instruction[] = [];
  for (const index of schedule(program, aliased, chip)) {
    const instruction = program.instructions[index]!;
    run(instruction);
    done.push(instruction);
    for (const value of instruction.results) {
      const output = portOf.get(value);
      if (output === undefined) continue;
      outputs[output] = store(arrays[value]!);
      for (const input of aliases.get(output) ?? []) {
        // What reads the input from here on reads what was just stored.
        const changed = program.inputs[input]!.value;
        load(arrays[changed]!, outputs[output]);
        if (chip.numbers.views === 0) continue;
        const stale = new Set([changed]);
        for (const view of done) {
          if (!views.has(view.op.name) || !stale.has(view.inputs[0]!) || portOf.has(view.results[0]!)) continue;
          run(view);
          stale.add(view.results[0]!);
        }
      }
    }
  }
  return program.outputs.map((_, index) => outputs[index]!);
}

// ---------------------------------------------------------------------------------------------------------- requests

function handleCompile(payload: Buffer): void {
  const [settings = "", path = "", custom = ""] = payload.toString("utf8").split("\0");
  const { number, lines } = compile(settings, path, custom);
  const head = Buffer.alloc(4);
  head.writeUInt32LE(number);
  answer(outcomes.answered, head, Buffer.from(lines.join("\n"), "utf8"));
}

function handleExecute(payload: Buffer): void {
  const program = loaded.get(payload.readUInt32LE(0));
  if (program === undefined) throw new Misuse("no such program");
  const count = payload.readUInt32LE(4);
  const aliases = new Map<number, number[]>();
  for (let i = 0; i < count; i++) {
    const [output, input] = [payload.readUInt32LE(8 + 8 * i), payload.readUInt32LE(12 + 8 * i)];
    aliases.set(output, [...(aliases.get(output) ?? []), input]);
  }
  const bytes = new Uint8Array(payload.subarray(8 + 8 * count)); // a Buffer's slice would be a view
  answer(outcomes.answered, ...execute(program, bytes, aliases));
}

for (let head = read(12); head !== undefined; head = read(12)) {
  const payload = read(Number(head.readBigUInt64LE(4)));
  if (payload === undefined) break;
  const kind = head.readUInt32LE(0);
  try {
    if (kind === 1) handleCompile(payload);
    else if (kind === 2) handleExecute(payload);
    else loaded.delete(payload.readUInt32LE(0));
  } catch (error) {
    answer(error instanceof Misuse ? outcomes.misuse : outcomes.refused, Buffer.from((error as Error).message, "utf8"));
    if (!(error instanceof Misuse || error instanceof Refusal)) console.error(error);
  }
}
