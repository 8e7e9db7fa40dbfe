// Counter-based random numbers (Philox4x32-10): the same on every engine and machine, with no state to carry.
// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

function mulHigh(a: number, b: number): number {
  // High 32 bits of a 32x32 product, from 16-bit halves.
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(carry / 65536)) >>> 0;
}

/** Four random 32-bit words for a 128-bit counter and a 64-bit key. */
export function philox(counter: readonly [number, number, number, number], key: readonly [number, number]) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(0xd2511f53, c0 >>> 0);
    const low0 = Math.imul(0xd2511f53, c0);
    const high1 = mulHigh(0xcd9e8d57, c2 >>> 0);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0] as const;
}

/** 32-bit FNV-1a hash, to name streams. */
function hashName(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** A stream of random numbers, fixed by a seed and the stream's name; `at` indexes it directly. */
export class RandomStream {
  readonly #key: readonly [number, number];
  readonly #stream: number;
  #block: readonly number[] = [];
  #position = 0;

  constructor(seed: number, name: string) {
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0];
    this.#stream = hashName(name);
  }

  /** Uniform in [0, 1) with 53 bits, the `index`-th of sub-stream `sub`; independent of any other call. */
  at(index: number, sub = 0): number {
    const [a, b] = philox([index >>> 0, Math.floor(index / 2 ** 32) >>> 0, sub, this.#stream], this.#key);
    return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53;
  }

  /** The next uniform in [0, 1). */
  uniform(): number {
    if (this.#position % 2 === 0) {
      const counter = this.#position / 2;
      this.#block = philox([counter >>> 0, Math.floor(counter / 2 ** 32) >>> 0, 0xffffffff, this.#stream], this.#key);
    }
    const offset = (this.#position++ % 2) * 2;
    return ((this.#block[offset]! >>> 5) * 2 ** 26 + (this.#block[offset + 1]! >>> 6)) / 2 ** 53;
  }

  /** The next standard normal (Box-Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }
}
