// Shared types of the float64 oracle: plain references and the case table that every operator record is checked against.

/** A tensor of the oracle: every dtype as float64 numbers (bool as 0 and 1), row-major. */
export interface RefTensor {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export type RefInputs = Readonly<Record<string, RefTensor | readonly RefTensor[] | undefined>>;

/** Computes one operator in float64 from its operands and attributes (camelCase of MIL's names); returns one tensor per result. */
export type Reference = (inputs: RefInputs, attrs: Readonly<Record<string, unknown>>) => RefTensor[];

/** How to make an operand: explicit values, or uniform numbers in `range` that keep `margin` away from every point of `avoid`. */
export interface CaseInput {
  readonly shape: readonly number[];
  /** "float" means the dtype under test (fp16, fp32). */
  readonly dtype?: "float" | "int32" | "bool";
  readonly values?: readonly number[];
  readonly range?: readonly [number, number];
  readonly avoid?: readonly number[];
  readonly margin?: number;
  /** All values pairwise at least this far apart (for maxima, minima and arg-extrema in gradients). */
  readonly spacing?: number;
}

export interface OpCase {
  readonly inputs: Readonly<Record<string, CaseInput | readonly CaseInput[]>>;
  readonly attrs?: Readonly<Record<string, unknown>>;
  /** Dtypes that "float" operands take; both when absent. */
  readonly dtypes?: readonly ("fp16" | "fp32")[];
  /** False where the derivative does not exist at the given values. */
  readonly grad?: boolean;
  /** Multiplies the default tolerance of the dtype; state why in `note`. */
  readonly tolerance?: number;
  readonly note?: string;
}

/** Operands and attributes that building the node must refuse, with a part of the message. */
export interface RefusedCase {
  readonly inputs: OpCase["inputs"];
  readonly attrs?: Readonly<Record<string, unknown>>;
  readonly message: RegExp;
  readonly note?: string;
}

export interface OpCases {
  readonly accepts: readonly OpCase[];
  readonly refuses: readonly RefusedCase[];
}
