// Syntax tree of a MIL text program: what the text says, before names are resolved or types inferred. Holds no behaviour but the table of dtypes.

/** Place in the text; both count from 1, columns in UTF-16 code units. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

export type MilDType =
  | "fp16"
  | "fp32"
  | "fp64"
  | "bf16"
  | "bool"
  | "string"
  | "int4"
  | "int8"
  | "int16"
  | "int32"
  | "int64"
  | "uint1"
  | "uint2"
  | "uint3"
  | "uint4"
  | "uint6"
  | "uint8"
  | "uint16"
  | "uint32"
  | "uint64";

/** `tensor<dtype, shape>`; a scalar, in either dialect, has shape []. */
export interface MilType {
  readonly dtype: MilDType;
  readonly shape: readonly number[];
}

/**
 * A value of an argument: a variable, a literal (`data` flat in row-major order, floats as written and not rounded to `type`),
 * a reference to a record of a weight file, or a tuple.
 */
export type MilValue =
  | { readonly kind: "name"; readonly name: string; readonly at: Position }
  | {
      readonly kind: "literal";
      readonly type: MilType;
      readonly data: readonly number[] | readonly boolean[] | readonly string[];
      readonly at: Position;
    }
  | {
      readonly kind: "blob";
      readonly type: MilType;
      readonly path: string;
      readonly offset: number;
      readonly at: Position;
    }
  | { readonly kind: "tuple"; readonly items: readonly MilValue[]; readonly at: Position };

/** `name = value`, in an argument list or an attribute list. */
export interface MilArgument {
  readonly name: string;
  readonly value: MilValue;
  readonly at: Position;
}

/** `TYPE name`: a function parameter or a result of a statement. */
export interface MilBinding {
  readonly type: MilType;
  readonly name: string;
  readonly at: Position;
}

/** `TYPE a, TYPE b = op(args)[attributes];`. */
export interface MilStatement {
  readonly results: readonly MilBinding[];
  readonly op: string;
  readonly args: readonly MilArgument[];
  readonly attributes: readonly MilArgument[];
  readonly at: Position;
}

/** `func name<opset>(params) { statements } -> (results);`. */
export interface MilFunction {
  readonly name: string;
  readonly opset: string;
  readonly params: readonly MilBinding[];
  readonly statements: readonly MilStatement[];
  readonly results: readonly { readonly name: string; readonly at: Position }[];
  readonly at: Position;
}

export interface MilFile {
  /** As in `program(1.3)`. */
  readonly version: string;
  /** Keys and values of the header's `buildInfo`, in order; empty where there is none. */
  readonly buildInfo: readonly (readonly [string, string])[];
  readonly functions: readonly MilFunction[];
}

/** Least and greatest value of the integer dtypes; 64-bit ones are cut to what a double holds exactly. */
export const milIntRange = {
  int4: [-8, 7],
  int8: [-128, 127],
  int16: [-32768, 32767],
  int32: [-(2 ** 31), 2 ** 31 - 1],
  int64: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  uint1: [0, 1],
  uint2: [0, 3],
  uint3: [0, 7],
  uint4: [0, 15],
  uint6: [0, 63],
  uint8: [0, 255],
  uint16: [0, 65535],
  uint32: [0, 2 ** 32 - 1],
  uint64: [0, Number.MAX_SAFE_INTEGER],
} as const satisfies Partial<Record<MilDType, readonly [number, number]>>;

export type MilIntDType = keyof typeof milIntRange;
export type MilFloatDType = "fp16" | "fp32" | "fp64" | "bf16";

export function isMilInt(dtype: string): dtype is MilIntDType {
  return Object.hasOwn(milIntRange, dtype);
}

export function isMilFloat(dtype: string): dtype is MilFloatDType {
  return dtype === "fp16" || dtype === "fp32" || dtype === "fp64" || dtype === "bf16";
}

export function isMilDType(text: string): text is MilDType {
  return isMilFloat(text) || text === "bool" || text === "string" || isMilInt(text);
}
