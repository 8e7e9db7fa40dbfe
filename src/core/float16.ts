// IEEE binary16: rounding (half to even), packing and unpacking. Bit tricks on Float32Array views; no tables to generate but one.

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

/** Largest finite fp16. */
export const float16Max = 65504;
/** Smallest positive normal fp16, 2^-14. */
export const float16MinNormal = 2 ** -14;

/**
 * Bits of the fp16 nearest to the fp32 whose bits are `bits`; ties go to even, overflow to infinity, NaN to a quiet NaN.
 */
function encode(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return magnitude > 0x7f800000 ? sign | 0x7e00 : sign | 0x7c00; // at least 65536
  if (magnitude >= 0x38800000) {
    // Normal: drop 13 bits; adding 0xfff plus the last kept bit rounds half to even and may carry into the exponent.
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  }
  if (magnitude < 0x33000000) return sign; // below 2^-25
  // Subnormal: shift the significand, implicit bit included, to units of 2^-24.
  const shift = 126 - (magnitude >>> 23);
  const significand = (magnitude & 0x7fffff) | 0x800000;
  const half = 1 << (shift - 1);
  const kept = significand >>> shift;
  const rest = significand & ((1 << shift) - 1);
  return sign | (kept + (rest > half || (rest === half && (kept & 1) === 1) ? 1 : 0));
}

/** Bits of the fp16 nearest to `value`. `value` is first rounded to fp32, which is harmless for sums, products, quotients and roots of fp16 numbers. */
export function float16Bits(value: number): number {
  scratch[0] = value;
  return encode(scratchBits[0]!);
}

let decodeTable: Float32Array | undefined;

function decodeAll(): Float32Array {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 32768; bits++) {
    const exponent = bits >>> 10;
    const fraction = bits & 0x3ff;
    let value: number;
    if (exponent === 31) value = fraction === 0 ? Number.POSITIVE_INFINITY : Number.NaN;
    else if (exponent === 0) value = fraction * 2 ** -24;
    else value = (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = value;
    table[bits | 0x8000] = -value;
  }
  return table;
}

/** Value of fp16 bits. */
export function float16Value(bits: number): number {
  decodeTable ??= decodeAll();
  return decodeTable[bits & 0xffff]!;
}

/** `value` rounded to fp16. */
export function roundFloat16(value: number): number {
  return float16Value(float16Bits(value));
}

/** Writes the fp16 bits of `values` to `bits`. */
export function packFloat16(values: Float32Array, bits: Uint16Array): void {
  const source = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < source.length; i++) bits[i] = encode(source[i]!);
}

/** Writes the values of fp16 `bits` to `values`. */
export function unpackFloat16(bits: Uint16Array, values: Float32Array): void {
  decodeTable ??= decodeAll();
  const table = decodeTable;
  for (let i = 0; i < bits.length; i++) values[i] = table[bits[i]!]!;
}

/** Where the largest value of fp16 `bits` is, the first of equals; -1 where one is NaN. */
export function argMaxFloat16(bits: Uint16Array): number {
  let best = 0;
  let top = -0x7c01;
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!;
    // Magnitude and sign as an integer, which has the order of the values; both zeros are 0.
    const sign = -(word >>> 15);
    const key = ((word & 0x7fff) ^ sign) - sign;
    if (key > 0x7c00 || key < -0x7c00) return -1;
    if (key <= top) continue;
    top = key;
    best = i;
  }
  return best;
}

/** Rounds every value to fp16 in place. */
export function roundFloat16InPlace(values: Float32Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  decodeTable ??= decodeAll();
  const table = decodeTable;
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!;
    const magnitude = word & 0x7fffffff;
    if (magnitude >= 0x38800000 && magnitude < 0x477ff000) {
      bits[i] = (word + 0xfff + ((word >>> 13) & 1)) & 0xffffe000; // normal result: round the low 13 bits away
    } else {
      values[i] = table[encode(word)]!;
    }
  }
}
