// MIL syntax trees as programs: names resolved, constants read, every operator checked by its record, declared types compared with inferred ones.

import { type DType, isDType, newValues, type ValueArray } from "../core/dtype.ts";
import { AnekitError, ConfigError, formatAval, ParseError } from "../core/errors.ts";
import { roundFloat16, unpackFloat16 } from "../core/float16.ts";
import { toMilName } from "../core/names.ts";
import { type Aval, checkShape, sameAval, sizeOf } from "../core/shape.ts";
import { type Program, ProgramBuilder } from "../ir/program.ts";
import { type AttrSpec, type AttrValue, flattenOperands, type Op, operandNames } from "../ops/define.ts";
import { findOp } from "../ops/index.ts";
import type { MilArgument, MilFile, MilFunction, MilStatement, MilType, MilValue, Position } from "./ast.ts";
import { readBlob } from "./blob.ts";
import { parseMil } from "./parser.ts";

export interface ReadOptions {
  /** Name of the text in error messages. */
  readonly file?: string;
  /** Bytes of a weight file by the path that the text gives, e.g. "@model_path/weights.bin". */
  readonly weights?: (path: string) => Uint8Array;
  /** Function to read; "main" or the only one when absent. */
  readonly functionName?: string;
}

/** Text as programs, one a function. @throws {ParseError} with line and column for text that is malformed or that no operator record accepts. */
export function readMil(text: string, options: ReadOptions = {}): Program {
  const file = options.file ?? "program.mil";
  return readFunction(selectFunction(parseMil(text, file), options.functionName, file), file, options);
}

function selectFunction({ functions }: MilFile, name: string | undefined, file: string): MilFunction {
  const names = functions.map((each) => each.name);
  const found =
    functions.find((each) => each.name === (name ?? "main")) ??
    (name === undefined && functions.length === 1 ? functions[0] : undefined);
  if (found === undefined)
    throw new ConfigError(file, `there is no function "${name ?? "main"}"; functions: ${names.join(", ")}`);
  return found;
}

/** A constant of the text, before anything uses it. Strings and integers of other widths are attributes only. */
interface TextConstant {
  readonly type: MilType;
  readonly value: Extract<MilValue, { kind: "literal" | "blob" }>;
  /** Value number once an operand used it. */
  number?: number;
}

/** Reads one function of a syntax tree. */
export function readFunction(source: MilFunction, file: string, { weights }: ReadOptions = {}): Program {
  return new FunctionReader(file, weights).read(source);
}

class FunctionReader {
  readonly #file: string;
  readonly #weights: ((path: string) => Uint8Array) | undefined;
  readonly #values = new Map<string, number>();
  readonly #constants = new Map<string, TextConstant>();
  readonly #opened = new Map<string, Uint8Array>();
  readonly #decoded = new Map<string, ValueArray>();
  #builder = new ProgramBuilder("main");

  constructor(file: string, weights: ((path: string) => Uint8Array) | undefined) {
    this.#file = file;
    this.#weights = weights;
  }

  #fail(at: Position, what: string, cause?: unknown): never {
    throw new ParseError(this.#file, at.line, at.column, what, cause === undefined ? {} : { cause });
  }

  /** Runs `body`; errors of the records and of the builder get the place in the text. */
  #at<T>(at: Position, body: () => T): T {
    try {
      return body();
    } catch (error) {
      if (error instanceof AnekitError && !(error instanceof ParseError)) this.#fail(at, error.message, error);
      throw error;
    }
  }

  #aval({ dtype, shape }: MilType, at: Position): Aval {
    if (!isDType(dtype)) this.#fail(at, `tensors of ${dtype} are not supported; fp16, fp32, int32 and bool are`);
    this.#at(at, () => checkShape("type", shape));
    return { dtype, shape };
  }

  #define(name: string, at: Position): void {
    if (this.#values.has(name) || this.#constants.has(name)) this.#fail(at, `"${name}" is defined twice`);
  }

  read(source: MilFunction): Program {
    this.#builder = new ProgramBuilder(source.name);
    for (const { name, type, at } of source.params) {
      this.#define(name, at);
      const aval = this.#aval(type, at);
      this.#values.set(
        name,
        this.#at(at, () => this.#builder.input(name, aval)),
      );
    }
    for (const statement of source.statements) this.#statement(statement);
    for (const { name, at } of source.results) {
      const value = this.#values.get(name) ?? this.#constantOperand(name, at);
      if (value === undefined) this.#fail(at, `result "${name}" is not defined`);
      // A result that is a parameter needs another name: MIL has one name space.
      this.#at(at, () => this.#builder.output(name, value));
    }
    return this.#builder.finish();
  }

  #statement(statement: MilStatement): void {
    const names = new Set<string>();
    for (const { name, at } of statement.results) {
      this.#define(name, at);
      if (names.has(name)) this.#fail(at, `"${name}" is defined twice`);
      names.add(name);
    }
    if (statement.op === "const") this.#const(statement);
    else this.#operator(statement);
  }

  #const({ results, attributes, at }: MilStatement): void {
    const val = attributes.find(({ name }) => name === "val");
    const [result] = results;
    if (val === undefined || result === undefined || results.length !== 1)
      this.#fail(at, "const needs one result and an attribute val");
    const { value } = val;
    if (value.kind !== "literal" && value.kind !== "blob") this.#fail(value.at, "val must be a literal or a BLOBFILE");
    this.#sameType(result.type, value.type, value.at);
    this.#constants.set(result.name, { type: result.type, value });
  }

  #sameType(declared: MilType, given: MilType, at: Position): void {
    const same = declared.dtype === given.dtype && declared.shape.length === given.shape.length;
    if (!same || declared.shape.some((extent, axis) => extent !== given.shape[axis])) {
      this.#fail(
        at,
        `declared ${declared.dtype}[${declared.shape.join(", ")}], got ${given.dtype}[${given.shape.join(", ")}]`,
      );
    }
  }

  #operator(statement: MilStatement): void {
    const { results, at } = statement;
    const op = findOp(statement.op);
    if (op === undefined) this.#fail(at, `operator "${statement.op}" is not supported`);
    const { operands, attrs } = this.#arguments(op, statement.args);
    const made = this.#at(at, () => this.#builder.instruction(op, operands, attrs));
    if (made.length !== results.length)
      this.#fail(at, `${op.name} gives ${made.length} results, ${results.length} are named`);
    for (const [i, { name, type, at: where }] of results.entries()) {
      const inferred = this.#builder.aval(made[i]!);
      if (!sameAval(this.#aval(type, where), inferred)) {
        this.#fail(
          where,
          `"${name}" is declared ${type.dtype}[${type.shape.join(", ")}], ${op.name} gives ${formatAval(inferred)}`,
        );
      }
      this.#values.set(name, made[i]!);
    }
  }

  #arguments(op: Op, args: readonly MilArgument[]): { operands: number[]; attrs: Record<string, AttrValue> } {
    const byMilName = (names: readonly string[]) => new Map(names.map((name) => [toMilName(name), name]));
    const operandOf = byMilName(operandNames(op));
    const attrOf = byMilName(Object.keys(op.attrs));
    const operands: Record<string, number | number[]> = {};
    const attrs: Record<string, AttrValue> = {};
    for (const { name, value, at } of args) {
      const operand = operandOf.get(name);
      const attr = attrOf.get(name);
      const fixed = op.milFixed !== undefined && Object.hasOwn(op.milFixed, name) ? op.milFixed[name] : undefined;
      if (operand !== undefined) {
        const list = op.inputs[operand].variadic === true;
        if (list !== (value.kind === "tuple"))
          this.#fail(at, `${op.name}: ${name} takes ${list ? "a list (a, b, ...)" : "one value"}`);
        operands[operand] =
          value.kind === "tuple" ? value.items.map((item) => this.#operand(item)) : this.#operand(value);
      } else if (attr !== undefined) {
        attrs[attr] = this.#attribute(op, name, op.attrs[attr], value);
      } else if (fixed !== undefined) {
        const given = this.#constant(value).data[0]!;
        if (!fixed.reads.includes(given)) {
          this.#fail(value.at, `${op.name}: ${name} must be ${fixed.reads.join(" or ")}, not ${given}`);
        }
      } else {
        const known = [...operandOf.keys(), ...attrOf.keys()].join(", ");
        this.#fail(at, `${op.name} has no parameter "${name}"; it has: ${known}`);
      }
    }
    for (const name in op.attrs) {
      const { milDefault } = op.attrs[name] as AttrSpec;
      if (milDefault !== undefined) attrs[name] ??= milDefault;
    }
    return { operands: flattenOperands<number>(op, operands).map((value) => value ?? -1), attrs };
  }

  /** Value number of an operand. */
  #operand(value: MilValue): number {
    if (value.kind === "tuple") this.#fail(value.at, "expected one value, found a list");
    if (value.kind !== "name") return this.#materialize({ type: value.type, value });
    const number = this.#values.get(value.name) ?? this.#constantOperand(value.name, value.at);
    if (number === undefined) this.#fail(value.at, `"${value.name}" is not defined`);
    return number;
  }

  #constantOperand(name: string, at: Position): number | undefined {
    const constant = this.#constants.get(name);
    if (constant === undefined) return undefined;
    return this.#at(at, () => this.#materialize(constant));
  }

  #materialize(constant: TextConstant): number {
    if (constant.number !== undefined) return constant.number;
    const { at } = constant.value;
    const aval = this.#aval(constant.type, at);
    const data =
      constant.value.kind === "literal" ? this.#literal(aval, constant.value) : this.#blob(aval, constant.value);
    constant.number = this.#builder.constant(aval, data);
    return constant.number;
  }

  #literal({ dtype, shape }: Aval, { data, at }: Extract<MilValue, { kind: "literal" }>): ValueArray {
    if (data.length !== sizeOf(shape)) this.#fail(at, `${data.length} values for ${formatAval({ dtype, shape })}`);
    const values = newValues(dtype, data.length);
    for (let i = 0; i < values.length; i++) {
      const value = Number(data[i]);
      const outside = dtype === "fp16" && Number.isFinite(value) && !Number.isFinite(roundFloat16(value));
      if (outside) this.#fail(at, `${value} is outside the range of fp16 (65504)`);
      values[i] = value;
    }
    return values;
  }

  /** Values of a blob; constants that name the same one share them. */
  #blob(aval: Aval, value: Extract<MilValue, { kind: "blob" }>): ValueArray {
    const key = `${formatAval(aval)} ${value.offset} ${value.path}`;
    let values = this.#decoded.get(key);
    if (values === undefined) this.#decoded.set(key, (values = this.#decode(aval, value)));
    return values;
  }

  #decode(aval: Aval, { path, offset, at }: Extract<MilValue, { kind: "blob" }>): ValueArray {
    let bytes = this.#opened.get(path);
    if (bytes === undefined) {
      if (this.#weights === undefined)
        this.#fail(at, `the program refers to the weight file "${path}", and none was given`);
      const open = this.#weights;
      bytes = this.#at(at, () => open(path));
      this.#opened.set(path, bytes);
    }
    const file = bytes;
    const blob = this.#at(at, () => readBlob(file, offset, path));
    const code: Readonly<Record<DType, string>> = { fp16: "fp16", fp32: "fp32", int32: "int32", bool: "uint8" };
    if (blob.dtype !== code[aval.dtype])
      this.#fail(at, `the blob at ${offset} of "${path}" holds ${blob.dtype}, the constant is ${aval.dtype}`);
    const size = sizeOf(aval.shape);
    const width = aval.dtype === "fp16" ? 2 : aval.dtype === "bool" ? 1 : 4;
    if (blob.bytes.length !== size * width) {
      this.#fail(
        at,
        `the blob at ${offset} of "${path}" has ${blob.bytes.length} bytes, ${formatAval(aval)} needs ${size * width}`,
      );
    }
    const copy = new Uint8Array(blob.bytes); // aligned, and independent of the file, also where that is a Node Buffer
    const values = newValues(aval.dtype, size);
    if (aval.dtype === "fp16") unpackFloat16(new Uint16Array(copy.buffer), values as Float32Array);
    else if (aval.dtype === "fp32") values.set(new Float32Array(copy.buffer));
    else if (aval.dtype === "int32") values.set(new Int32Array(copy.buffer));
    else for (let i = 0; i < size; i++) values[i] = copy[i] === 0 ? 0 : 1;
    return values;
  }

  /** The literal behind an attribute's value. */
  #constant(value: MilValue): { readonly type: MilType; readonly data: readonly (number | boolean | string)[] } {
    if (value.kind === "literal") return value;
    if (value.kind === "name") {
      const constant = this.#constants.get(value.name);
      if (constant !== undefined) {
        if (constant.value.kind === "literal") return constant.value;
        const aval = this.#aval(constant.type, value.at);
        return { type: constant.type, data: Array.from(this.#blob(aval, constant.value)) };
      }
      if (this.#values.has(value.name))
        this.#fail(value.at, `"${value.name}" is computed; attributes must be constants`);
      this.#fail(value.at, `"${value.name}" is not defined`);
    }
    return this.#fail(value.at, "expected a constant");
  }

  #attribute(op: Op, name: string, spec: AttrSpec, value: MilValue): AttrValue {
    const { type, data } = this.#constant(value);
    const list = spec.kind === "ints" || spec.kind === "bools";
    if (list !== (type.shape.length === 1))
      this.#fail(value.at, `${op.name}: ${name} takes ${list ? "a vector" : "a scalar"}`);
    const kinds = {
      bool: "boolean",
      bools: "boolean",
      string: "string",
      int: "number",
      uint: "number",
      ints: "number",
      float: "number",
    };
    if (data.some((item) => typeof item !== kinds[spec.kind]))
      this.#fail(value.at, `${op.name}: ${name} does not take ${type.dtype}`);
    return list ? (data as readonly number[]) : data[0]!;
  }
}
