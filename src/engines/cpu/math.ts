// Transcendental functions as vector expressions: range reduction, a polynomial, reconstruction; no branches, no tables, fp32 arithmetic only.
// docs/numerics.md states the errors. Polynomials are minimax in the relative error of the function, with coefficients that are fp32
// numbers, found by Sollya's fpminimax or by a Remez exchange that rounds one coefficient after the other.

import type { Lane } from "../../ops/vector.ts";
import { type Node, Primitives } from "./expression.ts";

const log2e = 1 / Math.LN2;
// As sums of fp32 numbers: ln 2 of the nearest ones, pi/2 of the nearest ones below, so that all are positive and 0 times them keeps x = -0.
const ln2 = [Math.fround(Math.LN2), -1.9046542e-9] as const;
const halfPi = [1.5707963, 7.5497894e-8, 5.390303e-15] as const;

const nearestHalfPi = [1.5707964, -4.371139e-8] as const;

/** Adding it to x, |x| < 2^22, leaves the nearest integer in the low bits of the sum; plus `bias` there, the exponent of a power of two. */
const rounder = (bias: number) => 1.5 * 2 ** 23 + bias;

/** 1/3, rounded to fp32. */
const third = 0.33333334;

const signBit = -0x80000000;
const { POSITIVE_INFINITY: infinity } = Number;

// Coefficients by ascending powers.
/** (e^r - 1 - r) / r^2 for |r| < ln(2) / 2, minimax in e^r: 2^-28.2. */
const expTail = [0.49999994, 0.1666652, 0.041668236, 0.008368824, 0.0013823552];
/** The same, minimax in e^r - 1: 2^-31. */
const expm1Tail = [0.5, 0.16666666, 0.041666478, 0.008333567, 0.0013933708, 0.00019743411];
/** (2^f - 1) / f for |f| < 1/2, in 2^f: 2^-28. */
const exp2Tail = [ln2[0], 0.24022645, 0.055503584, 0.00961883, 0.0013391493, 0.00015243141];
/** (log(1 + f) - f) / f^2 for -1/3 < f < 1/3: 2^-27.6. */
const logTail = [
  -0.5, 0.3333321, -0.24999824, 0.20010714, -0.16679384, 0.14001618, -0.12198626, 0.14002794, -0.12832257,
];
/** -log(erfc(a)) / a - 1 for 0 < a < 4, weighted by what an error does to erf: 2^-27.8. */
const erfTail = [
  0.12837917, 0.63661957, 0.102776304, -0.019147826, -0.00016948437, 0.0016756427, -0.00063734, 0.000118855016,
  -0.000009387587,
];
// The odd functions below: (f(r) / r - 1) / r^2 by powers of r^2.
/** |r| < 0.55: 2^-29.7. */
const tanhTail = [-0.33333316, 0.13332558, -0.05384986, 0.021063004, -0.006263359];
/** |r| < 1.06: 2^-30. */
const sinTail = [-0.16666666, 0.008333277, -0.00019830394, 0.0000026686012];
/** |r| < pi/4: 2^-29. */
const tanTail = [0.33333352, 0.13332571, 0.054070976, 0.021222642, 0.010995432, -0.00011859149, 0.0044814628];
/** |r| < 1/2: 2^-27.6. */
const asinTail = [0.16666752, 0.07495307, 0.045469638, 0.024181534, 0.042165037];
/** |r| < 1: 2^-28.5. */
const atanTail = [
  -0.333333, 0.19998536, -0.14264126, 0.109516546, -0.08402056, 0.0579358, -0.031157766, 0.010904537, -0.001791502,
];
/** |r| < ln(2) / 2: 2^-34. */
const sinhTail = [0.16666667, 0.008333192, 0.00019958457];
/** (cosh r - 1) / r^2 by powers of r^2, |r| < ln(2) / 2: 2^-33. */
const coshTail = [0.5, 0.041666456, 0.0013935773];
/** cos by powers of r^2, |r| < 1.06: 2^-28.5. */
const cosSeries = [1, -0.5, 0.041666534, -0.0013883542, 0.000024124825];
/** (atanh(r) - r) / r^3 - third, |r| < 1/5, in atanh: 2^-34.5. */
const atanhTail = [1 / 3 - third, 0.20000196, 0.14262822, 0.11936096];

/** Everything of `Lanes`, as nodes. */
export class Expressions extends Primitives {
  /** Horner's scheme; coefficients by ascending powers, scaled. */
  #polynomial(x: Node, coefficients: readonly number[], scale = 1): Node {
    return coefficients
      .slice(0, -1)
      .reduceRight<Node>((sum, c) => this.fma(sum, x, this.f(c * scale)), this.f(coefficients.at(-1)! * scale));
  }
  /** The smaller of a bound and x; NaN stays. */
  #atMost(bound: number, x: Node): Node {
    return this.select(this.lt(this.f(bound), x), this.f(bound), x);
  }
  /** The larger of a bound and x; NaN stays. */
  #atLeast(bound: number, x: Node): Node {
    return this.select(this.lt(x, this.f(bound)), this.f(bound), x);
  }
  /** -|x|. */
  #negativeAbs(x: Node): Node {
    return this.asFloat(this.or(this.asInt(x), this.i(signBit)));
  }
  /** A result whose sign bit is clear, or already that of x, with the sign of x. */
  #signOf(x: Node, magnitude: Node): Node {
    return this.asFloat(this.or(this.asInt(magnitude), this.and(this.asInt(x), this.i(signBit))));
  }
  /** t as made with `rounder`, as a power of two. */
  #power(t: Node): Node {
    return this.asFloat(this.shl(this.asInt(t), 23));
  }
  /** x - n (c0 + c1 + ...). */
  #reduce(x: Node, n: Node, constants: readonly number[]): Node {
    return constants.reduce((r, c) => this.fma(n, this.f(-c), r), x);
  }
  /** r + r^3 P(r^2), keeping -0. */
  #odd(r: Node, tail: readonly number[]): Node {
    const z = this.mul(r, r);
    return this.fma(this.fma(z, this.#polynomial(z, tail), this.f(0)), r, r); // + 0: where P < 0, -0 times -0 would make +0
  }

  /** p(x - n) 2^n with results from subnormal to infinite: in two factors where x < -64. `doubled` gives 2 p. */
  #scaled(x: Node, factor: number, doubled: (n: Node) => Node): Node {
    const low = this.lt(x, this.f(-64));
    const magic = this.select(low, this.f(rounder(126 + 92)), this.f(rounder(126)));
    const t = factor === 1 ? this.add(x, magic) : this.fma(x, this.f(factor), magic);
    const p = doubled(this.sub(t, magic));
    return this.mul(this.mul(p, this.#power(t)), this.select(low, this.f(2 ** -92), this.f(1)));
  }
  #expSeries(r: Node, scale: number): Node {
    return this.#polynomial(r, [1, 1, ...expTail], scale);
  }

  exp = (lane: Lane): Node => {
    const x = this.#atLeast(-104, this.#atMost(89, lane as Node));
    return this.#scaled(x, log2e, (n) => this.#expSeries(this.#reduce(x, n, ln2), 2));
  };

  /** e^x for x <= 0 (NaN stays), cheaper than `exp`. */
  expNegative = (lane: Lane): Node => {
    return this.#expOfBounded(this.#atLeast(-104, lane as Node));
  };
  #expOfBounded(x: Node): Node {
    // One factor 2^(n + 25) of the range -125 to 25 and a polynomial scaled by 2^-25: their product rounds once, into subnormals too.
    const magic = this.f(rounder(127 + 25));
    const t = this.fma(x, this.f(log2e), magic);
    const r = this.#reduce(x, this.sub(t, magic), ln2);
    return this.mul(this.#expSeries(r, 2 ** -25), this.#power(t));
  }

  expFlushed = (lane: Lane): Node => {
    // Subnormal numbers on the way would cost an x86 processor a hundred cycles each.
    const least = -87.3; // e^-87.3 is a normal number
    return this.select(this.lt(lane, this.f(least)), this.f(0), this.#expOfBounded(this.#atLeast(least, lane as Node)));
  };

  exp2 = (lane: Lane): Node => {
    const x = this.#atLeast(-151, this.#atMost(128.5, lane as Node));
    return this.#scaled(x, 1, (n) => this.#polynomial(this.sub(x, n), [1, ...exp2Tail], 2));
  };

  expm1 = (lane: Lane): Node => {
    const x = lane as Node;
    const bounded = this.#atLeast(-18, this.#atMost(89, x));
    const magic = this.f(rounder(126));
    const t = this.fma(bounded, this.f(log2e), magic);
    const r = this.#reduce(bounded, this.sub(t, magic), ln2);
    const series = this.fma(this.mul(r, this.#polynomial(r, expm1Tail)), r, r);
    const half = this.#power(t); // 2^(n-1): 2^n overflows where the result does not
    const sum = this.fma(half, series, this.sub(half, this.f(0.5)));
    // Halving loses a bit of subnormals, and the sum -0.
    return this.select(this.lt(this.abs(x), this.f(2 ** -25)), x, this.add(sum, sum));
  };

  /** Exponent and significand in [2/3, 4/3) of a positive finite x, subnormal ones included: x = 2^exponent significand. */
  #split(x: Node): { exponent: Node; significand: Node } {
    const small = this.lt(x, this.f(2 ** -126));
    const bits = this.asInt(this.select(small, this.mul(x, this.f(2 ** 23)), x));
    const high = this.#exponentBits(bits);
    return {
      exponent: this.fma(this.toFloat(high), this.f(2 ** -23), this.select(small, this.f(-23), this.f(0))),
      significand: this.asFloat(this.sub(bits, high)),
    };
  }
  /** Exponent, in place, that leaves a significand in [2/3, 4/3). */
  #exponentBits(bits: Node): Node {
    return this.and(this.sub(bits, this.i(0x3f2aaaab)), this.i(-0x800000));
  }
  /** exponent ln 2 + log(1 + f). */
  #logSum(exponent: Node, f: Node): Node {
    const series = this.fma(this.mul(f, this.#polynomial(f, logTail)), f, f);
    return this.fma(exponent, this.f(ln2[0]), series);
  }
  /** `value` where `x` is inside (`pole`, infinity); -infinity at the pole, NaN below it, x if infinite or NaN. */
  #logDomain(x: Node, pole: number, value: Node): Node {
    const outside = this.select(this.eq(x, this.f(pole)), this.f(-infinity), this.f(Number.NaN));
    const above = this.select(this.lt(x, this.f(infinity)), value, x);
    return this.select(this.le(x, this.f(pole)), outside, above);
  }

  log = (lane: Lane): Node => {
    const x = lane as Node;
    const { exponent, significand } = this.#split(x);
    return this.#logDomain(x, 0, this.#logSum(exponent, this.sub(significand, this.f(1))));
  };

  log1p = (lane: Lane): Node => {
    const x = lane as Node;
    // Exponent e of 1 + x, then f = 2^-e (1 + x) - 1 = 2^-e x + (2^-e - 1), which does not see the rounding of 1 + x.
    const high = this.#exponentBits(this.asInt(this.add(x, this.f(1))));
    const scale = this.asFloat(this.sub(this.i(0x40800000), high)); // 2^(2 - e), normal up to e = 128
    const f = this.add(this.asFloat(this.sub(this.asInt(x), high)), this.fma(scale, this.f(0.25), this.f(-1)));
    const exponent = this.mul(this.toFloat(high), this.f(2 ** -23));
    return this.#logDomain(x, -1, this.#signOf(x, this.#logSum(exponent, f)));
  };

  tanh = (lane: Lane): Node => {
    const x = lane as Node;
    const near = this.#odd(x, tanhTail);
    // Where the result is above 1/2: 1 - 2 e / (1 + e) with e = e^(-2|x|), made doubled.
    const a = this.#atLeast(-10, this.#negativeAbs(x));
    const magic = this.f(rounder(127));
    const t = this.fma(a, this.f(2 * log2e), magic);
    const r = this.fma(this.sub(t, magic), this.f(-ln2[0] / 2), a); // half of the exponent's rest
    const series = [1, 1, ...expTail].map((c, power) => c * 2 ** (power + 1));
    const twice = this.mul(this.#polynomial(r, series), this.#power(t));
    const far = this.sub(this.f(1), this.div(twice, this.fma(twice, this.f(0.5), this.f(1))));
    return this.select(this.lt(this.f(-0.55), a), near, this.#signOf(x, far));
  };

  sigmoid = (lane: Lane): Node => {
    const x = lane as Node;
    const e = this.expNegative(this.#negativeAbs(x));
    const numerator = this.select(this.lt(x, this.f(0)), e, this.f(1));
    const negated = this.div(numerator, this.sub(this.f(-1), e));
    // One step of Newton's against the rounding of 1 + e: what is left of the numerator, exactly but for one rounding, times 1 / (1 + e) roughly.
    const rest = this.fma(negated, e, this.add(numerator, negated));
    return this.fma(rest, this.fma(e, this.f(-0.47), this.f(0.97)), this.neg(negated));
  };

  erf = (lane: Lane): Node => {
    const x = lane as Node;
    // erf a = 1 - e^-z with z = -log(erfc(a)), a smooth function: a + w, kept apart against the rounding of their sum.
    const a = this.#atMost(4, this.abs(x));
    const w = this.mul(a, this.#polynomial(a, erfTail));
    const magic = this.f(rounder(127));
    const t = this.fma(this.add(a, w), this.f(-log2e), magic);
    const rest = this.fma(this.sub(t, magic), this.f(ln2[0]), a);
    const r = this.add(rest, w); // e^-z = 2^n e^-r
    const tail = expm1Tail.map((c, power) => (power % 2 === 0 ? -c : c));
    const series = this.add(rest, this.fma(this.mul(r, this.#polynomial(r, tail)), r, w)); // 1 - e^-r
    const scale = this.#power(t);
    return this.#signOf(x, this.fma(scale, series, this.sub(this.f(1), scale)));
  };

  /** x modulo pi/2, |x| < 2^22 pi/2, as a sum, and t = rounder(bias) + the quotient; 0 for larger x, whose neighbours are 1/2 apart or more. */
  #quadrant(x: Node, bias: number): { r: Node; t: Node; n: Node; bounded: Node } {
    const bounded = this.select(this.lt(this.abs(x), this.f(6.5e6)), x, this.mul(x, this.f(0))); // infinite: NaN
    const magic = this.f(rounder(bias));
    const t = this.fma(bounded, this.f(2 / Math.PI), magic);
    const n = this.sub(t, magic);
    return { r: this.#reduce(bounded, n, halfPi), t, n, bounded };
  }
  /** sin of x, or cos, whose quadrants are one ahead. */
  #circular(x: Node, bias: 0 | 1): Node {
    const { r, t } = this.#quadrant(x, bias);
    const z = this.mul(r, r);
    const sin = this.#odd(r, sinTail);
    const cos = this.#polynomial(z, cosSeries);
    const value = this.select(this.#isOdd(t), cos, sin);
    return this.asFloat(this.xor(this.asInt(value), this.and(this.shl(this.asInt(t), 30), this.i(signBit))));
  }
  #isOdd(t: Node): Node {
    return this.lt(this.shl(this.asInt(t), 31), this.i(0));
  }
  sin = (lane: Lane): Node => this.#circular(lane as Node, 0);
  cos = (lane: Lane): Node => this.#circular(lane as Node, 1);

  tan = (lane: Lane): Node => {
    const x = lane as Node;
    const { bounded, n, t } = this.#quadrant(x, 0);
    // Half a unit in the last place of the reduced argument is too much here: r + low, by the exact product and sum.
    const first = this.#reduce(bounded, n, halfPi.slice(0, 1));
    const product = this.mul(n, this.f(-halfPi[1]));
    const productLost = this.fma(n, this.f(-halfPi[1]), this.neg(product));
    const r = this.add(first, product);
    const taken = this.sub(r, first);
    const lost = this.add(this.sub(first, this.sub(r, taken)), this.sub(product, taken));
    const low = this.fma(n, this.f(-halfPi[2]), this.add(lost, productLost));
    const z = this.mul(r, r);
    const slope = this.fma(low, z, low); // low tan'(r)
    const p = this.add(this.fma(this.mul(z, this.#polynomial(z, tanTail)), r, slope), r);
    const value = this.select(this.#isOdd(t), this.div(this.f(-1), p), p);
    return this.select(this.eq(x, this.f(0)), x, value); // -0
  };

  /** asin of |x|, or, beyond 1/2, of sqrt((1 - |x|) / 2), which is half of acos |x|; NaN beyond 1. */
  #asinHalf(x: Node): { big: Node; value: Node } {
    const a = this.abs(x);
    const big = this.lt(this.f(0.5), a);
    const z = this.select(big, this.fma(a, this.f(-0.5), this.f(0.5)), this.mul(a, a));
    const r = this.select(big, this.sqrt(z), a);
    return { big, value: this.fma(this.mul(z, this.#polynomial(z, asinTail)), r, r) };
  }

  asin = (lane: Lane): Node => {
    const x = lane as Node;
    const { big, value } = this.#asinHalf(x);
    const turned = this.add(this.fma(value, this.f(-2), this.f(nearestHalfPi[0])), this.f(nearestHalfPi[1]));
    return this.#signOf(x, this.select(big, turned, value));
  };

  acos = (lane: Lane): Node => {
    const x = lane as Node;
    const { big, value } = this.#asinHalf(x);
    const offset = this.select(
      big,
      this.select(this.lt(x, this.f(0)), this.f(Math.PI), this.f(0)),
      this.f(nearestHalfPi[0]),
    );
    return this.fma(this.#signOf(x, value), this.select(big, this.f(2), this.f(-1)), offset);
  };

  atan = (lane: Lane): Node => {
    const x = lane as Node;
    const a = this.abs(x);
    const big = this.lt(this.f(1), a);
    const p = this.#odd(this.select(big, this.div(this.f(1), a), a), atanTail);
    return this.#signOf(
      x,
      this.select(big, this.add(this.sub(this.f(nearestHalfPi[0]), p), this.f(nearestHalfPi[1])), p),
    );
  };

  /** sinh and cosh of |x| = n ln 2 + r from those of r and of n ln 2, without division or cancellation. */
  #hyperbolic(x: Node): { sinh: Node; cosh: Node } {
    const a = this.#atMost(89.5, this.abs(x)); // both overflow from 89.42
    const magic = this.f(rounder(125));
    const t = this.fma(a, this.f(log2e), magic);
    const r = this.#reduce(a, this.sub(t, magic), ln2);
    const z = this.mul(r, r);
    const sinh = this.fma(this.mul(z, this.#polynomial(z, sinhTail)), r, r);
    const cosh1 = this.mul(z, this.#polynomial(z, coshTail)); // cosh r - 1
    const up = this.#power(t); // 2^n / 4
    const down = this.asFloat(this.max(this.sub(this.i(250 << 23), this.asInt(up)), this.i(0))); // 2^-n / 4, or 0
    const halfCosh = this.add(up, down);
    const halfSinh = this.sub(up, down);
    const half = {
      sinh: this.add(this.fma(sinh, halfCosh, this.mul(cosh1, halfSinh)), halfSinh),
      cosh: this.add(this.fma(cosh1, halfCosh, this.mul(sinh, halfSinh)), halfCosh),
    };
    return { sinh: this.add(half.sinh, half.sinh), cosh: this.add(half.cosh, half.cosh) };
  }

  sinh = (lane: Lane): Node => {
    const x = lane as Node;
    const small = this.lt(this.abs(x), this.f(2 ** -13)); // halving loses a bit of subnormals
    return this.select(small, x, this.#signOf(x, this.#hyperbolic(x).sinh));
  };

  cosh = (lane: Lane): Node => this.#hyperbolic(lane as Node).cosh;

  atanh = (lane: Lane): Node => {
    const x = lane as Node;
    const a = this.#atMost(2, this.abs(x)); // far out the terms below would cancel instead of giving NaN
    // log1p(2a / (1 - a)), the quotient as 2a + 2a a / (1 - a), which does not see all of the rounding of 1 - a.
    const twice = this.add(a, a);
    const log = this.log1p(this.fma(twice, this.div(a, this.sub(this.f(1), a)), twice));
    return this.#signOf(x, this.mul(log, this.f(0.5)));
  };

  /** log of a positive finite number as an unevaluated sum of two: relative error about 2^-33. */
  #longLog(x: Node): { high: Node; low: Node } {
    const { exponent, significand } = this.#split(x);
    // q = (m - 1) / (m + 1) as qh + ql; log m = 2 atanh q.
    const f = this.sub(significand, this.f(1));
    const inverse = this.div(this.f(1), this.add(significand, this.f(1)));
    const qh = this.mul(inverse, f);
    const rest = this.fma(qh, this.sub(this.f(1), significand), this.fma(qh, this.f(-2), f));
    const ql = this.mul(inverse, rest);
    // q^2 = s + st, q^3 = c + ct; then h = q^3 / 3 without its rounding hl, and what follows below 2^-24 q^3.
    const s = this.mul(qh, qh);
    const st = this.fma(qh, this.add(ql, ql), this.fma(qh, qh, this.neg(s)));
    const c = this.mul(s, qh);
    const ct = this.fma(s, ql, this.fma(st, qh, this.fma(s, qh, this.neg(c))));
    const h = this.mul(c, this.f(third));
    const hl = this.fma(c, this.f(third), this.neg(h));
    const small = this.fma(c, this.#polynomial(s, atanhTail), this.add(this.fma(ct, this.f(third), ql), hl));
    // exponent ln 2 + 2 qh + 2 h + 2 small, the larger ones added without loss.
    const q2 = this.add(qh, qh);
    const h2 = this.add(h, h);
    const main = this.add(q2, h2);
    const mainLost = this.add(this.sub(q2, main), h2);
    const sum = this.fma(exponent, this.f(ln2[0]), main);
    const sumLost = this.sub(main, this.fma(exponent, this.f(-ln2[0]), sum));
    const lost = this.add(mainLost, sumLost);
    const correction = this.fma(exponent, this.f(ln2[1]), this.fma(small, this.f(2), lost));
    const high = this.add(sum, correction);
    return { high, low: this.add(this.sub(sum, high), correction) };
  }

  /** x^y as JavaScript's `**`: 1 ** infinity is NaN, anything ** 0 is 1. */
  pow = (base: Lane, exponent: Lane): Node => {
    const [x, y] = [base as Node, exponent as Node];
    const a = this.abs(x);
    const long = this.#longLog(a);
    const finite = this.select(this.lt(a, this.f(infinity)), long.high, a);
    const log = this.select(this.eq(a, this.f(0)), this.f(-infinity), finite);
    const product = this.mul(log, y);
    const error = this.fma(long.low, y, this.fma(log, y, this.neg(product)));
    const rest = this.select(this.lt(this.abs(product), this.f(128)), error, this.f(0));
    const p = this.#atLeast(-105, this.#atMost(89.5, product));
    const power = this.#scaled(p, log2e, (n) => this.#expSeries(this.add(this.#reduce(p, n, ln2), rest), 2));
    // Negative bases: odd exponents keep the sign, fractions have no result (but at -infinity).
    const half = this.mul(y, this.f(0.5));
    const whole = this.eq(this.trunc(y), y);
    const odd = this.and(whole, this.ne(this.trunc(half), half));
    const sign = this.select(odd, this.and(this.asInt(x), this.i(signBit)), this.i(0));
    const none = this.and(this.not(whole), this.and(this.lt(x, this.f(0)), this.lt(a, this.f(infinity))));
    const signed = this.select(none, this.f(Number.NaN), this.asFloat(this.xor(this.asInt(power), sign)));
    return this.select(this.eq(y, this.f(0)), this.f(1), signed);
  };
}
