// Error classes and the only formatter of shapes and operands; every error anekit throws on purpose is one of these.

import type { Aval } from "./shape.ts";

/** Facts that an error carries beside its message; each is also in the message. */
export interface ErrorFacts {
  /** Operator concerned, by its MIL name. */
  op?: string;
  /** Operands of the operator, by name. */
  inputs?: Readonly<Record<string, Aval>>;
  /** Chip that refused. */
  chip?: string;
  /** Limit that was broken. */
  limit?: number;
  /** What the user can do. */
  remedy?: string;
  cause?: unknown;
}

/** Base of all errors for which the caller, not anekit, is responsible; `code` is stable across versions. */
export class AnekitError extends Error {
  readonly code: `ERR_ANEKIT_${string}`;
  readonly op?: string;
  readonly inputs?: Readonly<Record<string, Aval>>;
  readonly chip?: string;
  readonly limit?: number;
  readonly remedy?: string;

  constructor(code: string, message: string, facts: ErrorFacts = {}) {
    const operands = facts.inputs === undefined ? "" : `: ${formatOperands(facts.inputs)}`;
    const remedy = facts.remedy === undefined ? "" : `; ${facts.remedy}`;
    super(`${message}${operands}${remedy}`, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = new.target.name;
    this.code = `ERR_ANEKIT_${code}`;
    if (facts.op !== undefined) this.op = facts.op;
    if (facts.inputs !== undefined) this.inputs = facts.inputs;
    if (facts.chip !== undefined) this.chip = facts.chip;
    if (facts.limit !== undefined) this.limit = facts.limit;
    if (facts.remedy !== undefined) this.remedy = facts.remedy;
  }
}

/** Shapes do not fit an operator, a feed or a file. */
export class ShapeError extends AnekitError {
  constructor(where: string, what: string, facts: ErrorFacts = {}) {
    super("SHAPE", `${where}: ${what}`, facts);
  }
}

/** A dtype does not fit an operator, a feed or a policy. */
export class DTypeError extends AnekitError {
  constructor(where: string, what: string, facts: ErrorFacts = {}) {
    super("DTYPE", `${where}: ${what}`, facts);
  }
}

/** An attribute or option has a value outside its domain. */
export class ConfigError extends AnekitError {
  constructor(where: string, what: string, facts: ErrorFacts = {}) {
    super("CONFIG", `${where}: ${what}`, facts);
  }
}

/** An engine or a chip cannot run an operator. */
export class UnsupportedError extends AnekitError {
  constructor(where: string, what: string, facts: ErrorFacts = {}) {
    super("UNSUPPORTED", `${where}: ${what}`, facts);
  }
}

/** MIL text or a weight blob is malformed; `line` and `column` count from 1. */
export class ParseError extends AnekitError {
  readonly line: number;
  readonly column: number;
  constructor(file: string, line: number, column: number, what: string, facts: ErrorFacts = {}) {
    super("PARSE", `${file}:${line}:${column}: ${what}`, facts);
    this.line = line;
    this.column = column;
  }
}

/** A file cannot be read or written, or does not hold what its format promises. */
export class FileError extends AnekitError {
  constructor(where: string, what: string, facts: ErrorFacts = {}) {
    super("FILE", `${where}: ${what}`, facts);
  }
}

/** A checkpoint is missing, damaged, or belongs to another model. */
export class CheckpointError extends AnekitError {
  constructor(where: string, what: string, facts: ErrorFacts = {}) {
    super("CHECKPOINT", `${where}: ${what}`, facts);
  }
}

/** An engine failed, is absent, or was used wrongly. */
export class EngineError extends AnekitError {
  constructor(where: string, what: string, facts: ErrorFacts = {}) {
    super("ENGINE", `${where}: ${what}`, facts);
  }
}

/** Something was used after its `dispose()`. */
export class DisposedError extends AnekitError {
  constructor(what: string) {
    super("DISPOSED", `${what} was disposed`);
  }
}

/** An AbortSignal fired; `cause` is the signal's reason. */
export class AbortedError extends AnekitError {
  constructor(where: string, signal: AbortSignal) {
    super("ABORTED", `${where}: aborted`, { cause: signal.reason });
  }
}

/** Throws when a fact that anekit itself must guarantee does not hold. */
export function invariant(condition: unknown, text: () => string): asserts condition {
  if (!condition) throw new Error(`anekit bug: ${text()}; please report it`);
}

/** `[2, 3]`. */
export function formatShape(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/** `fp16[2, 3]`. */
export function formatAval(aval: Aval): string {
  return `${aval.dtype}${formatShape(aval.shape)}`;
}

/** Most operands that a message names. */
const maxShown = 8;

/** `x is fp16[2, 3], y is fp16[3]`. */
function formatOperands(inputs: Readonly<Record<string, Aval>>): string {
  const entries = Object.entries(inputs);
  const shown = entries.slice(0, maxShown).map(([name, aval]) => `${name} is ${formatAval(aval)}`);
  const rest = entries.length - shown.length;
  return shown.join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

/** The message of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
