// Immediates of A64 that are encoded as patterns: bitmasks of logical instructions, 8-bit floating-point numbers, elements of vectors.

/** N, immr and imms (13 bits) of a number that is one rotated run of ones, repeated; undefined for others. */
export function bitmask(value: bigint, width: 32 | 64): number | undefined {
  const low = BigInt.asUintN(width, value);
  const bits = width === 32 ? (low << 32n) | low : low;
  let size = 64;
  while (size > 2 && BigInt.asUintN(size / 2, bits) === BigInt.asUintN(size / 2, bits >> BigInt(size / 2))) size /= 2;
  const element = BigInt.asUintN(size, bits);
  // A run of ones that goes round the end is a run of zeros that does not.
  const inverse = (element & 1n) === 1n;
  const run = inverse ? BigInt.asUintN(size, ~element) : element;
  const lowest = run & -run;
  if (run === 0n || (run & (run + lowest)) !== 0n) return undefined;
  const start = lowest.toString(2).length - 1;
  const end = run.toString(2).length;
  const ones = inverse ? size - (end - start) : end - start;
  const rotation = (size - (inverse ? end : start)) % size;
  // The size stands in the upper bits of imms as a run of ones that ends in a zero.
  const imms = (-(2 * size) & 63) | (ones - 1);
  return ((size === 64 ? 1 : 0) << 12) | (rotation << 6) | imms;
}

/** The 8 bits of a number ± n/16 · 2^e with n from 16 to 31 and e from -3 to 4; undefined for others. */
export function float8(value: number): number | undefined {
  const magnitude = Math.abs(value);
  if (!(magnitude >= 0.125 && magnitude <= 31)) return undefined;
  const exponent = Math.floor(Math.log2(magnitude));
  const fraction = (magnitude / 2 ** exponent - 1) * 16;
  if (!Number.isInteger(fraction)) return undefined;
  return (value < 0 ? 128 : 0) | (((exponent + 3) ^ 4) << 4) | fraction;
}

/** How movi or mvni make an element: the bit that tells them apart, cmode, and the 8 bits of the immediate. */
export interface ElementPattern {
  readonly op: 0 | 1;
  readonly cmode: number;
  readonly imm8: number;
}

/** movi's or mvni's pattern for an element of so many bits; undefined where neither can make it. */
export function elementPattern(value: bigint, width: 8 | 16 | 32 | 64): ElementPattern | undefined {
  const bits = BigInt.asUintN(width, value);
  if (width === 8) return { op: 0, cmode: 0b1110, imm8: Number(bits) };
  if (width === 64) {
    // Every byte is all ones or all zeros: one bit for each.
    const bytes = Array.from({ length: 8 }, (_, i) => Number((bits >> BigInt(8 * i)) & 255n));
    if (!bytes.every((byte) => byte === 0 || byte === 255)) return undefined;
    return { op: 1, cmode: 0b1110, imm8: bytes.reduce<number>((mask, byte, i) => mask | (byte & (1 << i)), 0) };
  }
  for (const op of [0, 1] as const) {
    const element = Number(op === 0 ? bits : BigInt.asUintN(width, ~bits));
    for (let byte = 0; byte < width / 8; byte++) {
      const imm8 = (element >>> (8 * byte)) & 255;
      if (element === (imm8 << (8 * byte)) >>> 0) {
        return { op, cmode: (width === 16 ? 0b1000 : 0) | (byte << 1), imm8 };
      }
    }
    if (width === 16) continue;
    // Ones are shifted in.
    if ((element & 0xffff00ff) === 0x000000ff) return { op, cmode: 0b1100, imm8: (element >>> 8) & 255 };
    if (element >>> 24 === 0 && (element & 0xffff) === 0xffff) return { op, cmode: 0b1101, imm8: element >>> 16 };
  }
  return undefined;
}
