// The dtypes of tensors, their sizes and host arrays.

/** Tensor dtypes, spelled as in MIL. */
export type DType = "fp16" | "fp32" | "int32" | "bool";
export type FloatDType = "fp16" | "fp32";

/** Every dtype with its storage size in bytes. */
export const dtypeBytes = { fp16: 2, fp32: 4, int32: 4, bool: 1 } as const satisfies Record<DType, number>;

/** Array in which kernels hold a dtype's values: fp16 values live, rounded, in a Float32Array. */
export type ValueArray = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>;

export function isDType(text: unknown): text is DType {
  return typeof text === "string" && Object.hasOwn(dtypeBytes, text);
}

export function isFloat(dtype: DType): dtype is FloatDType {
  return dtype === "fp16" || dtype === "fp32";
}

/** A zeroed array for `length` values of `dtype`. */
export function newValues(dtype: DType, length: number): ValueArray {
  if (dtype === "int32") return new Int32Array(length);
  if (dtype === "bool") return new Uint8Array(length);
  return new Float32Array(length);
}
