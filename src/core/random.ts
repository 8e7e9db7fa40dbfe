// Counter-based random numbers (Philox4x32-10): the same on every engine and machine, with no state to carry.
// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

function mulHigh(a: number, b: number): number {
  // High 32 bits of a 32x32 product, from 16-bit halves.
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  // Both sums stay below 2^32: integers for the compiler once they are shifted.
  const middle = (Math.imul(aHigh, bLow) >>> 0) + (Math.imul(aLow, bLow) >>> 16);
  const carry = (Math.imul(aLow, bHigh) >>> 0) + (middle & 0xffff);
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (carry >>> 16)) >>> 0;
}

/** The ten rounds, on numbers alone: nothing is allocated. */
function philoxInto(words: Uint32Array, c0: number, c1: number, c2: number, c3: number, k0: number, k1: number): void {
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
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

/** Four random 32-bit words for a 128-bit counter and a 64-bit key. */
export function philox(counter: readonly [number, number, number, number], key: readonly [number, number]) {
  const words = new Uint32Array(4);
  philoxInto(words, ...counter, ...key);
  return [words[0]!, words[1]!, words[2]!, words[3]!] as const;
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

  /** Fills an array with the next normals of standard deviation `std`: what `normal()` gives, without an array for each. */
  normals(values: Float32Array<ArrayBuffer>, std: number): Float32Array<ArrayBuffer> {
    if (this.#position % 2 !== 0) {
      for (let i = 0; i < values.length; i++) values[i] = std * this.normal();
      return values;
    }
    const words = new Uint32Array(4);
    const [key0, key1] = this.#key;
    for (let i = 0; i < values.length; i++) {
      const counter = this.#position / 2;
      this.#position += 2;
      philoxInto(words, counter >>> 0, Math.floor(counter / 2 ** 32) >>> 0, 0xffffffff, this.#stream, key0, key1);
      const first = ((words[0]! >>> 5) * 2 ** 26 + (words[1]! >>> 6)) / 2 ** 53;
      const second = ((words[2]! >>> 5) * 2 ** 26 + (words[3]! >>> 6)) / 2 ** 53;
      values[i] = std * (Math.sqrt(-2 * Math.log(1 - first)) * Math.cos(2 * Math.PI * second));
    }
    return values;
  }

  /** The next standard normal (Box-Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }
}
