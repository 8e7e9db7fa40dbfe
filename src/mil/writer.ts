// Programs as MIL: a syntax tree with every field filled, its text, and the weight file its larger constants live in.

import { type DType, isFloat } from "../core/dtype.ts";
import { ConfigError } from "../core/errors.ts";
import { packFloat16, roundFloat16 } from "../core/float16.ts";
import { toMilName } from "../core/names.ts";
import { type Aval, sizeOf } from "../core/shape.ts";
import { type Constant, type Instruction, identifier, type Program } from "../ir/program.ts";
import type { AttrSpec, AttrValue, FixedParameter } from "../ops/define.ts";
import { operandNames } from "../ops/define.ts";
import type { MilArgument, MilBinding, MilDType, MilFile, MilStatement, MilType, MilValue } from "./ast.ts";
import { type BlobDType, BlobWriter } from "./blob.ts";
import { printMil } from "./printer.ts";

export interface MilOptions {
  /** "modern": program(1.3), ios18, short scalar types. "verbose": program(1.0), ios16, `tensor<int32, []>`, which M1 and M2 compilers parse too. */
  readonly dialect?: "modern" | "verbose";
  /** Path of the weight file as the text names it. */
  readonly weightsPath?: string;
}

/** Constants of up to this many elements stand in the text. */
const inlineElements = 16;

/** Header of a text that the compilers of macOS 15 and later accept; values of coremltools 9 (reference: MIL text sheet, section 1). */
const headers = {
  modern: {
    version: "1.3",
    opset: "ios18",
    buildInfo: [
      ["coremlc-component-MIL", "3510.2.1"],
      ["coremlc-version", "3505.4.1"],
      ["coremltools-component-milinternal", ""],
      ["coremltools-version", "9.0"],
    ],
  },
  verbose: { version: "1.0", opset: "ios16", buildInfo: [["coremlc-version", "3505.4.1"]] },
} as const;

const nowhere = { line: 0, column: 0 };

const attrTypes: Readonly<Record<Exclude<AttrSpec["kind"], "float">, MilDType>> = {
  bool: "bool",
  bools: "bool",
  int: "int32",
  ints: "int32",
  uint: "uint32",
  string: "string",
};

class FunctionWriter {
  readonly statements: MilStatement[] = [];
  readonly blobs = new BlobWriter();
  readonly #program: Program;
  readonly #weightsPath: string;
  readonly #dialect: "modern" | "verbose";
  readonly #names: string[] = [];
  readonly #taken: Set<string>;
  readonly #literals = new Map<string, string>();
  readonly #constants = new Map<number, Constant>();

  constructor(program: Program, weightsPath: string, dialect: "modern" | "verbose") {
    this.#dialect = dialect;
    this.#program = program;
    this.#weightsPath = weightsPath;
    this.#taken = new Set([...program.inputs, ...program.outputs].map((port) => port.name));
    for (const { name, value } of [...program.inputs, ...program.outputs]) this.#names[value] = name;
    for (const constant of program.constants) this.#constants.set(constant.value, constant);
  }

  #fresh(wanted: string): string {
    let name = wanted;
    for (let n = 1; this.#taken.has(name); n++) name = `${wanted}_${n}`;
    this.#taken.add(name);
    return name;
  }

  /** The variable of a value; a constant gets its statement at its first use. */
  #name(value: number): string {
    const known = this.#names[value];
    if (known !== undefined) return known;
    const constant = this.#constants.get(value);
    const name = this.#fresh(`${constant === undefined ? "v" : "c"}${value}`);
    this.#names[value] = name;
    if (constant !== undefined) this.#constStatement(name, this.#constantValue(constant));
    return name;
  }

  #constStatement(name: string, value: MilValue & { readonly type: MilType }): void {
    this.statements.push({
      results: [{ type: value.type, name, at: nowhere }],
      op: "const",
      args: [],
      attributes: [argument("name", text(name)), argument("val", value)],
      at: nowhere,
    });
  }

  #constantValue({ value, data }: Constant): MilValue & { readonly type: MilType } {
    const { dtype, shape } = this.#program.values[value]!;
    const type: MilType = { dtype, shape };
    if (data.length <= inlineElements || dtype === "bool")
      return { kind: "literal", type, data: literalData(dtype, data), at: nowhere };
    const [code, bytes] = blobBytes(dtype, data);
    return { kind: "blob", type, path: this.#weightsPath, offset: this.blobs.add(code, bytes), at: nowhere };
  }

  /** A constant for attributes, named by its value; equal ones share a variable. */
  #attribute(type: MilType, data: readonly (number | boolean | string)[]): string {
    const key =
      `${type.dtype}_${data.map((value) => (Object.is(value, -0) ? "-0" : String(value))).join("_")}`.replaceAll(
        "-",
        "m",
      );
    const shaped = type.shape.length === 0 ? key : `${key}_`; // a vector of one element is not a scalar
    let name = this.#literals.get(shaped);
    if (name === undefined) {
      name = this.#fresh(identifier(key).slice(0, 40));
      this.#literals.set(shaped, name);
      this.#constStatement(name, { kind: "literal", type, data: data as number[], at: nowhere });
    }
    return name;
  }

  instruction({ op, inputs, attrs, results }: Instruction): void {
    const args: MilArgument[] = [];
    const operands = operandNames(op);
    const first = operands[0]!;
    if (op.inputs[first].variadic) {
      const items = inputs.map((value) => variable(this.#name(value)));
      args.push(argument(toMilName(first), { kind: "tuple", items, at: nowhere }));
    } else {
      for (const [i, value] of inputs.entries())
        if (value >= 0) args.push(argument(toMilName(operands[i]!), variable(this.#name(value))));
    }
    const omitted = op.milOmits?.(attrs) ?? [];
    const dtype = this.#program.values[inputs[0]!]!.dtype;
    for (const [name, value] of Object.entries(attrs)) {
      // A scalar's list of axes is empty; MIL has no empty vectors, and the default says the same.
      if (omitted.includes(name) || (Array.isArray(value) && value.length === 0)) continue;
      const { type, data } = attributeLiteral(op.attrs[name], value, dtype);
      args.push(argument(toMilName(name), variable(this.#attribute(type, data))));
    }
    for (const [name, fixed] of Object.entries<FixedParameter>(op.milFixed ?? {})) {
      const value = fixed[this.#dialect];
      if (value === undefined) continue;
      args.push(argument(name, variable(this.#attribute({ dtype: fixed.type, shape: [] }, [value]))));
    }
    const names = results.map((value) => this.#name(value));
    this.statements.push({
      results: results.map((value, i) => binding(this.#program.values[value]!, names[i]!)),
      op: op.name,
      args,
      attributes: [argument("name", text(names[0]!))],
      at: nowhere,
    });
  }
}

function text(value: string): MilValue {
  return { kind: "literal", type: { dtype: "string", shape: [] }, data: [value], at: nowhere };
}

function variable(name: string): MilValue {
  return { kind: "name", name, at: nowhere };
}

function argument(name: string, value: MilValue): MilArgument {
  return { name, value, at: nowhere };
}

function binding({ dtype, shape }: Aval, name: string): MilBinding {
  return { type: { dtype, shape }, name, at: nowhere };
}

function attributeLiteral(
  spec: AttrSpec,
  value: AttrValue,
  dtype: DType,
): { type: MilType; data: readonly (number | boolean | string)[] } {
  const data = Array.isArray(value) ? (value as readonly (number | boolean)[]) : [value as number | boolean | string];
  const element = spec.kind === "float" ? dtype : attrTypes[spec.kind];
  return { type: { dtype: element, shape: Array.isArray(value) ? [value.length] : [] }, data };
}

function literalData(dtype: DType, data: ArrayLike<number>): number[] | boolean[] {
  const values = Array.from(data);
  if (dtype === "bool") return values.map((value) => value !== 0);
  if (dtype === "fp16") return values.map(roundFloat16);
  return isFloat(dtype) ? values.map(Math.fround) : values;
}

function blobBytes(dtype: Exclude<DType, "bool">, data: Constant["data"]): [BlobDType, Uint8Array] {
  if (dtype === "fp16") {
    const bits = new Uint16Array(data.length);
    packFloat16(data as Float32Array, bits);
    return ["fp16", new Uint8Array(bits.buffer)];
  }
  return [dtype, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)];
}

/** The syntax tree of one program as a function `main`, and the bytes of its weight file (no bytes where every constant is in the text). */
export function writeMil(
  program: Program,
  { dialect = "modern", weightsPath = "@model_path/weights.bin" }: MilOptions = {},
): {
  readonly file: MilFile;
  readonly weights: Uint8Array;
} {
  const unfit = program.constants.find(({ value }) => sizeOf(program.values[value]!.shape) === 0);
  if (unfit !== undefined) throw new ConfigError("mil", "a constant has no elements");
  const writer = new FunctionWriter(program, weightsPath, dialect);
  for (const instruction of program.instructions) writer.instruction(instruction);
  const { version, opset, buildInfo } = headers[dialect];
  const file: MilFile = {
    version,
    buildInfo,
    functions: [
      {
        name: "main",
        opset,
        params: program.inputs.map(({ name, value }) => binding(program.values[value]!, name)),
        statements: writer.statements,
        results: program.outputs.map(({ name }) => ({ name, at: nowhere })),
        at: nowhere,
      },
    ],
  };
  return { file, weights: writer.blobs.finish() };
}

/** MIL text and weight file of a program. */
export function milFiles(
  program: Program,
  options: MilOptions = {},
): { readonly text: string; readonly weights: Uint8Array } {
  const { file, weights } = writeMil(program, options);
  return { text: printMil(file, { dialect: options.dialect ?? "modern" }), weights };
}
