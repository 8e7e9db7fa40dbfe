// Random changes of training images: shifted crops, mirror images, erased squares. Each is fixed by a seed and the number of the draw.

import { ConfigError, formatShape } from "../core/errors.ts";
import { RandomStream } from "../core/random.ts";

/** What may happen to an image of [C, H, W] each time that it is seen. */
export interface Augmentation {
  /** The image is cut out at a random place of itself with so many black pixels around it: moved by up to as many; 0 unless stated. */
  readonly crop?: number;
  /** Mirrored left to right half of the time. */
  readonly flip?: boolean;
  /** Side of a square around a random pixel that gets the mean colour (DeVries and Taylor 2017); 0 for none. */
  readonly cutout?: number;
}

/** @throws ConfigError where a number is out of range for images of the shape. */
export function checkAugmentation({ crop = 0, cutout = 0 }: Augmentation, shape: readonly number[]): void {
  const most = Math.min(shape[1]!, shape[2]!);
  for (const [name, value] of Object.entries({ crop, cutout })) {
    if (Number.isInteger(value) && value >= 0 && value <= most) continue;
    throw new ConfigError(
      "augmentation",
      `${name} ${value} is not an integer from 0 to ${most}, the smaller side of ${formatShape(shape)}`,
    );
  }
}

/** Applies an augmentation to images of one shape. */
export class Augmenter {
  /** True where nothing ever changes. */
  readonly isIdentity: boolean;
  readonly #crop: number;
  readonly #flip: boolean;
  readonly #cutout: number;
  readonly #shape: readonly [number, number, number];
  readonly #stream: RandomStream;

  constructor(
    { crop = 0, flip = false, cutout = 0 }: Augmentation,
    shape: readonly [number, number, number],
    seed: number,
  ) {
    this.#crop = crop;
    this.#flip = flip;
    this.#cutout = cutout;
    this.isIdentity = crop === 0 && !flip && cutout === 0;
    this.#shape = shape;
    this.#stream = new RandomStream(seed, "data.augment");
  }

  /** Writes the draw-th change of the image `from` [C, H, W] into `to`; `values` are the numbers that stand for bytes, by channel. */
  apply(draw: number, from: Uint8Array, to: Float32Array, values: readonly Float32Array[]): void {
    const [channels, height, width] = this.#shape;
    const below = (limit: number, sub: number) => (limit === 1 ? 0 : Math.floor(this.#stream.at(draw, sub) * limit));
    const down = below(2 * this.#crop + 1, 0) - this.#crop;
    const right = below(2 * this.#crop + 1, 1) - this.#crop;
    const mirrored = this.#flip && below(2, 2) === 1;
    for (let c = 0; c < channels; c++) {
      const table = values[c]!;
      for (let y = 0; y < height; y++) {
        const row = (c * height + y + down) * width;
        const isInside = y + down >= 0 && y + down < height;
        const at = (c * height + y) * width;
        for (let x = 0; x < width; x++) {
          const column = (mirrored ? width - 1 - x : x) + right;
          to[at + x] = table[isInside && column >= 0 && column < width ? from[row + column]! : 0]!;
        }
      }
    }
    if (this.#cutout > 0) this.#erase(to, below(height, 3), below(width, 4));
  }

  /** Mean colour, which is 0 once normalized, in the square around a pixel; what lies outside the image is lost. */
  #erase(image: Float32Array, centerY: number, centerX: number): void {
    const [channels, height, width] = this.#shape;
    const half = Math.floor(this.#cutout / 2);
    const [top, left] = [centerY - half, centerX - half];
    for (let c = 0; c < channels; c++) {
      for (let y = Math.max(0, top); y < Math.min(height, top + this.#cutout); y++) {
        const at = (c * height + y) * width;
        image.fill(0, at + Math.max(0, left), at + Math.max(0, Math.min(width, left + this.#cutout)));
      }
    }
  }
}
