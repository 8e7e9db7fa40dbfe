// defineOp: the shape of an operator record, its attribute schema, and the one place where a use of an operator is checked.

import type { Chip } from "../chips/index.ts";
import { type DType, isFloat, type ValueArray } from "../core/dtype.ts";
import { AnekitError, ConfigError, DTypeError, formatShape, invariant, ShapeError } from "../core/errors.ts";
import { roundFloat16 } from "../core/float16.ts";
import { toMilName } from "../core/names.ts";
import { type Aval, checkShape } from "../core/shape.ts";
import type { Tensor } from "../tensor.ts";
import type { Native, NativeArray } from "./native.ts";

// ---------------------------------------------------------------------------------------------- operands

/** An operand: which dtypes it takes; operands of one `domain` share their dtype. */
export interface OperandSpec {
  readonly dtypes: readonly DType[];
  readonly domain: string;
  readonly optional?: true;
  /** A list of one or more tensors; a variadic operand is the record's only one. */
  readonly variadic?: true;
}
export type OperandSpecs = Readonly<Record<string, OperandSpec>>;

export const floats = { dtypes: ["fp16", "fp32"], domain: "T" } as const satisfies OperandSpec;
export const numbers = { dtypes: ["fp16", "fp32", "int32"], domain: "T" } as const satisfies OperandSpec;
export const anything = { dtypes: ["fp16", "fp32", "int32", "bool"], domain: "T" } as const satisfies OperandSpec;
export const booleans = { dtypes: ["bool"], domain: "B" } as const satisfies OperandSpec;
export const indices = { dtypes: ["int32"], domain: "I" } as const satisfies OperandSpec;

export function optional<S extends OperandSpec>(spec: S): S & { readonly optional: true } {
  return { ...spec, optional: true };
}

export function variadic<S extends OperandSpec>(spec: S): S & { readonly variadic: true } {
  return { ...spec, variadic: true };
}

/** `V` for every operand: lists for variadic ones, undefined allowed for optional ones. */
export type PerOperand<I extends OperandSpecs, V> = {
  readonly [K in keyof I]: I[K] extends { variadic: true }
    ? readonly V[]
    : I[K] extends { optional: true }
      ? V | undefined
      : V;
};

// -------------------------------------------------------------------------------------------- attributes

export type AttrValue = boolean | number | string | readonly number[] | readonly boolean[];

/** An attribute: its type in MIL, its default, its domain. `required` ones have no default; `derived` ones are filled from the shapes. */
export interface AttrSpec<V extends AttrValue = AttrValue> {
  /** MIL type of the constant that carries it; "float" takes the dtype of the first operand. */
  readonly kind: "bool" | "bools" | "int" | "uint" | "ints" | "float" | "string";
  readonly presence: "required" | "default" | "derived";
  readonly default?: V;
  /** Default of MIL where it is another: what a text that leaves the parameter out means. */
  readonly milDefault?: V;
  /** Values a string attribute may take. */
  readonly choices?: readonly string[];
}
export type AttrSpecs = Readonly<Record<string, AttrSpec>>;

type Required_<V extends AttrValue> = AttrSpec<V> & { readonly presence: "required" };
type Optional_<V extends AttrValue> = AttrSpec<V> & { readonly presence: "default" | "derived" };

function attr<V extends AttrValue>(kind: AttrSpec["kind"]) {
  function make(): Required_<V>;
  function make(value: V | "derived"): Optional_<V>;
  function make(value?: V | "derived"): AttrSpec<V> {
    if (value === undefined) return { kind, presence: "required" };
    if (value === "derived") return { kind, presence: "derived" };
    return { kind, presence: "default", default: value };
  }
  return make;
}

export const bool = attr<boolean>("bool");
export const bools = attr<readonly boolean[]>("bools");
export const int = attr<number>("int");
/** int32 everywhere but in MIL's text, where the parameter is a uint32. */
export const uint = attr<number>("uint");
export const ints = attr<readonly number[]>("ints");
export const float = attr<number>("float");

export function oneOf<const C extends readonly string[]>(choices: C, value: C[number]): Optional_<C[number]>;
export function oneOf<const C extends readonly string[]>(choices: C): Required_<C[number]>;
export function oneOf(choices: readonly string[], value?: string): AttrSpec<string> {
  if (value === undefined) return { kind: "string", presence: "required", choices };
  return { kind: "string", presence: "default", default: value, choices };
}

/** Attributes of a node: complete, every field filled. */
export type Attrs<A extends AttrSpecs> = { readonly [K in keyof A]: A[K] extends AttrSpec<infer V> ? V : never };

type RequiredKeys<A extends AttrSpecs> = { [K in keyof A]: A[K] extends { presence: "required" } ? K : never }[keyof A];

/** Attributes as a caller gives them. */
export type GivenAttrs<A extends AttrSpecs> = { readonly [K in RequiredKeys<A>]: Attrs<A>[K] } & {
  readonly [K in Exclude<keyof A, RequiredKeys<A>>]?: Attrs<A>[K] | undefined;
};

export type AnyAttrs = Readonly<Record<string, AttrValue>>;

// ------------------------------------------------------------------------------------------------ records

/** A tensor inside a kernel: fp16 values live in a Float32Array and are rounded by the caller after the kernel. */
export interface KernelArray<D extends ValueArray = ValueArray> {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: D;
}

/** What a derivative sees beside the operands: the results and their cotangents. */
export interface VjpContext {
  /** Cotangent of the first result. */
  readonly g: Tensor;
  /** First result. */
  readonly out: Tensor;
  /** Cotangents of all results; zeros where nothing flows back. */
  readonly gs: readonly Tensor[];
}

/** Cotangent of each operand, computed when asked for; null where the operand is not differentiable. */
export type Vjp<I extends OperandSpecs> = {
  readonly [K in keyof I]: (I[K] extends { variadic: true } ? () => readonly Tensor[] : () => Tensor) | null;
};

export interface FixedParameter {
  readonly type: "int32" | "bool" | "string";
  readonly reads: readonly (string | number | boolean)[];
  /** Absent for a dialect whose opset has no such parameter. */
  readonly modern?: string | number | boolean;
  readonly verbose?: string | number | boolean;
}

export interface OpRecord<I extends OperandSpecs, A extends AttrSpecs> {
  /** MIL's name of the operator. */
  readonly name: string;
  /** One paragraph: what it computes, shapes in brackets. */
  readonly doc: string;
  readonly inputs: I;
  readonly attrs: A;
  /** True where result i depends on operand elements at position i only (after broadcasting): such an operator may overwrite an operand. */
  readonly elementwise?: boolean;
  /** True where the kernel can throw for values it meets at run time (an index out of range). */
  readonly canFail?: boolean;
  /** Fills `derived` attributes and normalizes the rest (negative axes, defaults by rank). */
  complete?(inputs: PerOperand<I, Aval>, attrs: GivenAttrs<A>): Attrs<A>;
  /** The only place that computes result shapes. @throws {ShapeError} naming the operands. */
  infer(inputs: PerOperand<I, Aval>, attrs: Attrs<A>): Aval | readonly Aval[];
  /** Reverse-mode derivative; null states that the operator is not differentiable (piecewise constant or integer). */
  vjp: ((inputs: PerOperand<I, Tensor>, attrs: Attrs<A>, context: VjpContext) => Vjp<I>) | null;
  /** Plain reference: writes every element of `outs`; sums accumulate in float64. */
  kernel(inputs: PerOperand<I, KernelArray>, attrs: Attrs<A>, outs: readonly [KernelArray, ...KernelArray[]]): void;
  /** The same for engines that generate code. Without it the engine runs `kernel`, slowly. */
  native?(
    n: Native,
    inputs: PerOperand<I, NativeArray>,
    attrs: Attrs<A>,
    results: readonly [Aval, ...Aval[]],
  ): NativeArray | readonly NativeArray[];
  /** True where the native form computes what the kernel does, with one rounding: strict rounding may use it. */
  readonly nativeExact?: boolean;
  /** Attributes that MIL must not see for these values (alternatives such as num_splits and split_sizes). */
  milOmits?(attrs: Attrs<A>): readonly (keyof A & string)[];
  /** Parameters of MIL that anekit does not vary, by MIL's name: the values that are read, and what each dialect writes (opset iOS18 or iOS16). */
  readonly milFixed?: Readonly<Record<string, FixedParameter>>;
  /** True, or why a chip cannot run it; rank and extent limits common to all operators are checked elsewhere. */
  support?(chip: Chip, inputs: PerOperand<I, Aval>, attrs: Attrs<A>): true | string;
  /** Operands that the chip takes only as constants, with the equivalent graph used when such an operand is trained or computed. */
  readonly constantOnChip?: {
    readonly [K in keyof I]?: {
      readonly reason: string;
      lower(inputs: PerOperand<I, Tensor>, attrs: Attrs<A>): Tensor;
    };
  };
  /** Multiply-add count times two, for reports; element count of the results when absent. */
  flops?(inputs: PerOperand<I, Aval>, attrs: Attrs<A>, out: Aval): number;
}

/** A record with its types erased, once and here: property functions are contravariant, so no common supertype exists. */
// biome-ignore lint/suspicious/noExplicitAny: the one place where types are erased
export type Op = OpRecord<any, any>;

/** Declares an operator. The record is frozen; nothing else registers it but its line in `ops/index.ts`. */
export function defineOp<const I extends OperandSpecs, const A extends AttrSpecs>(
  record: OpRecord<I, A>,
): OpRecord<I, A> {
  return Object.freeze(record);
}

// --------------------------------------------------------------------------------------------- one use of an op

/** Operands by name from a flat list; a variadic operand takes the whole list. */
export function operandsByName<V>(
  op: Op,
  flat: readonly (V | undefined)[],
): Record<string, V | readonly V[] | undefined> {
  const names = operandNames(op);
  const first = names[0];
  if (first !== undefined && op.inputs[first]?.variadic) return { [first]: flat as readonly V[] };
  const named: Record<string, V | undefined> = {};
  for (let i = 0; i < names.length; i++) named[names[i]!] = flat[i];
  return named;
}

/** Flat list from operands by name; absent optional operands are undefined. */
export function flattenOperands<V>(
  op: Op,
  named: Readonly<Record<string, V | readonly V[] | undefined>>,
): (V | undefined)[] {
  const flat: (V | undefined)[] = [];
  for (const name of operandNames(op)) {
    const value = named[name];
    if (op.inputs[name]?.variadic) for (const item of (value ?? []) as readonly V[]) flat.push(item);
    else flat.push(value as V | undefined);
  }
  return flat;
}

const namesOf = new WeakMap<Op, readonly string[]>();

export function operandNames(op: Op): readonly string[] {
  let names = namesOf.get(op);
  if (names === undefined) namesOf.set(op, (names = Object.keys(op.inputs)));
  return names;
}

/** Operands by name as errors show them; those of a list are numbered. */
export function labelled(op: Op, flat: readonly (Aval | undefined)[]): Record<string, Aval> {
  const names = operandNames(op);
  const listName = op.inputs[names[0]!]?.variadic ? names[0]! : undefined;
  const labels: Record<string, Aval> = {};
  for (let i = 0; i < flat.length; i++) {
    const aval = flat[i];
    if (aval !== undefined) labels[listName === undefined ? names[i]! : `${listName}[${i}]`] = aval;
  }
  return labels;
}

function checkOperands(op: Op, flat: readonly (Aval | undefined)[]): void {
  const names = operandNames(op);
  const list = op.inputs[names[0]!]?.variadic ? op.inputs[names[0]!] : undefined;
  if (list !== undefined && flat.length === 0)
    throw new ShapeError(op.name, `${names[0]} is an empty list`, { op: op.name });
  invariant(list !== undefined || flat.length === names.length, () => `${op.name} got ${flat.length} operands`);
  const domains = new Map<string, DType>();
  for (let i = 0; i < flat.length; i++) {
    const spec = list ?? op.inputs[names[i]!]!;
    const aval = flat[i];
    if (aval === undefined) {
      if (spec.optional) continue;
      throw new ConfigError(op.name, `operand ${names[i]} is missing`, { op: op.name, inputs: labelled(op, flat) });
    }
    const facts = () => ({ op: op.name, inputs: labelled(op, flat) });
    const label = () => (list === undefined ? names[i] : `${names[0]}[${i}]`);
    if (!spec.dtypes.includes(aval.dtype)) {
      throw new DTypeError(op.name, `${label()} takes ${spec.dtypes.join(" or ")}, not ${aval.dtype}`, facts());
    }
    const shared = domains.get(spec.domain);
    if (shared === undefined) domains.set(spec.domain, aval.dtype);
    else if (shared !== aval.dtype) {
      throw new DTypeError(op.name, `dtypes ${shared} and ${aval.dtype} differ`, {
        ...facts(),
        remedy: "convert one with cast",
      });
    }
  }
}

function checkAttr(op: Op, name: string, spec: AttrSpec, value: AttrValue): void {
  const refuse = (what: string): never => {
    throw new ConfigError(op.name, `attribute ${toMilName(name)} ${what}`, { op: op.name });
  };
  const isInt = (n: unknown) => typeof n === "number" && Number.isSafeInteger(n);
  switch (spec.kind) {
    case "bool":
      if (typeof value !== "boolean") refuse(`is true or false, not ${String(value)}`);
      break;
    case "uint":
    case "int":
      if (!isInt(value)) refuse(`is an integer, not ${String(value)}`);
      break;
    case "float":
      if (typeof value !== "number" || !Number.isFinite(value)) refuse(`is a finite number, not ${String(value)}`);
      break;
    case "ints":
      if (!Array.isArray(value) || !value.every(isInt)) refuse(`is a list of integers, not ${formatValue(value)}`);
      break;
    case "bools":
      if (!Array.isArray(value) || !value.every((item) => typeof item === "boolean")) {
        refuse(`is a list of booleans, not ${formatValue(value)}`);
      }
      break;
    case "string":
      if (!spec.choices?.includes(value as string))
        refuse(`is one of ${spec.choices?.join(", ")}, not ${String(value)}`);
      break;
  }
}

/** `value` as the first operand's dtype holds it. */
function roundAttr(op: Op, name: string, value: number, dtype: DType | undefined): number {
  const rounded = dtype === "fp16" ? roundFloat16(value) : dtype === "fp32" ? Math.fround(value) : value;
  if (dtype === "int32" && (value | 0) !== value)
    throw new ConfigError(op.name, `attribute ${name} ${value} is not an int32`, { op: op.name });
  if (!Number.isFinite(rounded))
    throw new ConfigError(op.name, `attribute ${name} ${value} is outside the range of ${dtype}`, { op: op.name });
  return rounded;
}

function formatValue(value: AttrValue): string {
  return Array.isArray(value) ? formatShape(value) : String(value);
}

/**
 * Checks one use of an operator and says what comes out: complete attributes and the results' shapes and dtypes.
 * Everything that builds nodes or instructions (tensors, the MIL reader, passes) goes through here.
 * @throws {ShapeError | DTypeError | ConfigError} whose message starts with the operator's name.
 */
export function checkUse(
  op: Op,
  flat: readonly (Aval | undefined)[],
  given: Readonly<Record<string, AttrValue | undefined>>,
): { attrs: AnyAttrs; results: readonly Aval[] } {
  checkOperands(op, flat);
  const attrs: Record<string, AttrValue> = {};
  for (const name in given) {
    if (!Object.hasOwn(op.attrs, name) && given[name] !== undefined) {
      const known = Object.keys(op.attrs).join(", ") || "none";
      throw new ConfigError(op.name, `unknown attribute ${name}; it has: ${known}`, { op: op.name });
    }
  }
  for (const name in op.attrs) {
    const spec: AttrSpec = op.attrs[name];
    const value = given[name] ?? spec.default;
    if (value !== undefined) {
      checkAttr(op, name, spec, value);
      attrs[name] = value;
      if (spec.kind === "float") roundAttr(op, name, value as number, flat[0]?.dtype); // refuses what the dtype cannot hold
    } else if (spec.presence === "required") {
      throw new ConfigError(op.name, `attribute ${toMilName(name)} is missing`, { op: op.name });
    }
  }
  const named = operandsByName(op, flat);
  try {
    const complete = op.complete === undefined ? attrs : op.complete(named, attrs);
    const inferred = op.infer(named, complete);
    const results: readonly Aval[] = Array.isArray(inferred) ? inferred : [inferred as Aval];
    for (const result of results) checkShape(op.name, result.shape);
    return { attrs: complete, results };
  } catch (error) {
    if (error instanceof AnekitError && error.inputs === undefined && error.message.startsWith(`${op.name}: `)) {
      throw withOperands(error, op, flat);
    }
    throw error;
  }
}

/** The same error with the operands in its message: `infer` states only what is wrong. */
function withOperands(error: AnekitError, op: Op, flat: readonly (Aval | undefined)[]): AnekitError {
  const Class = error.constructor as new (where: string, what: string, facts: object) => AnekitError;
  const { limit, remedy } = error;
  let what = error.message.slice(op.name.length + 2);
  if (remedy !== undefined) what = what.slice(0, what.length - remedy.length - 2);
  const inputs = labelled(op, flat);
  return new Class(op.name, what, {
    op: op.name,
    inputs,
    ...(limit !== undefined && { limit }),
    ...(remedy !== undefined && { remedy }),
  });
}

/**
 * Attributes as a program has them: a float attribute becomes a constant of the first operand's dtype, so every engine and the text see the
 * rounded number. Graph nodes keep the digits they were given.
 */
export function roundAttrs(op: Op, attrs: AnyAttrs, dtype: DType | undefined): AnyAttrs {
  let rounded = attrs;
  for (const name in op.attrs) {
    if (op.attrs[name].kind !== "float") continue;
    rounded = { ...rounded, [name]: roundAttr(op, name, attrs[name] as number, dtype) };
  }
  return rounded;
}

/** True for operands through which derivatives can flow. */
export function isDifferentiable(aval: Aval): boolean {
  return isFloat(aval.dtype);
}
