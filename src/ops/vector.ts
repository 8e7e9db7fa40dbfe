// The target-neutral language in which a record says what its operator computes, lane by lane: every engine that generates code implements it.

/** A value in every lane of a vector: fp32, int32 or a truth value. */
export interface Lane {
  readonly type: "f32" | "i32" | "mask";
}

/**
 * Makes expressions. Arithmetic on f32 is IEEE single precision, rounded to nearest even, one rounding an operation; comparisons with NaN are
 * false, but `ne`. Arithmetic on i32 wraps. Operands of one operation share their type.
 */
export interface Lanes {
  /** The number in every lane, rounded to fp32. */
  f(value: number): Lane;
  i(value: number): Lane;
  add(a: Lane, b: Lane): Lane;
  sub(a: Lane, b: Lane): Lane;
  mul(a: Lane, b: Lane): Lane;
  /** f32 only. */
  div(a: Lane, b: Lane): Lane;
  /** a b + c with one rounding. */
  fma(a: Lane, b: Lane, c: Lane): Lane;
  /** As Math.max: NaN if either is, +0 above -0. */
  max(a: Lane, b: Lane): Lane;
  min(a: Lane, b: Lane): Lane;
  sqrt(a: Lane): Lane;
  neg(a: Lane): Lane;
  abs(a: Lane): Lane;
  floor(a: Lane): Lane;
  ceil(a: Lane): Lane;
  trunc(a: Lane): Lane;
  /** Nearest integer, ties to even. */
  round(a: Lane): Lane;
  eq(a: Lane, b: Lane): Lane;
  ne(a: Lane, b: Lane): Lane;
  lt(a: Lane, b: Lane): Lane;
  le(a: Lane, b: Lane): Lane;
  gt(a: Lane, b: Lane): Lane;
  ge(a: Lane, b: Lane): Lane;
  /** a where the mask is set, else b; a and b may be masks. */
  select(mask: Lane, a: Lane, b: Lane): Lane;
  /** Bitwise on i32, logical on masks. */
  and(a: Lane, b: Lane): Lane;
  or(a: Lane, b: Lane): Lane;
  xor(a: Lane, b: Lane): Lane;
  not(a: Lane): Lane;
  /** Shifts of i32 by 0 to 31; `shr` shifts zeros in, `sar` the sign. */
  shl(a: Lane, count: number): Lane;
  shr(a: Lane, count: number): Lane;
  sar(a: Lane, count: number): Lane;
  /** i32 to f32, rounded to nearest. */
  toFloat(a: Lane): Lane;
  /** f32 to i32 towards zero; outside the range of int32, and for NaN, the result is -2^31. */
  toInt(a: Lane): Lane;
  /** The same bits as the other type. */
  asFloat(a: Lane): Lane;
  asInt(a: Lane): Lane;
  /** f32 rounded to the nearest fp16 number. */
  roundFloat16(a: Lane): Lane;

  // Functions by polynomials; docs/numerics.md states their errors.
  exp(x: Lane): Lane;
  /** e^x of x <= 0, and 0 below x = -87.3: for sums of exponentials whose largest is 1. */
  expFlushed(x: Lane): Lane;
  exp2(x: Lane): Lane;
  /** e^x - 1. */
  expm1(x: Lane): Lane;
  log(x: Lane): Lane;
  /** log(1 + x). */
  log1p(x: Lane): Lane;
  tanh(x: Lane): Lane;
  /** 1 / (1 + e^-x). */
  sigmoid(x: Lane): Lane;
  erf(x: Lane): Lane;
  sin(x: Lane): Lane;
  cos(x: Lane): Lane;
  tan(x: Lane): Lane;
  asin(x: Lane): Lane;
  acos(x: Lane): Lane;
  atan(x: Lane): Lane;
  sinh(x: Lane): Lane;
  cosh(x: Lane): Lane;
  atanh(x: Lane): Lane;
  pow(x: Lane, y: Lane): Lane;
}
