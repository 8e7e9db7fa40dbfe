// Labelled images as bytes, and the batches that training sees: every image once an epoch, changed at random, as normalized floats.

import { ConfigError, formatShape } from "../core/errors.ts";
import { RandomStream } from "../core/random.ts";
import { type Augmentation, Augmenter, checkAugmentation } from "./augment.ts";
import { syntheticDigits } from "./digits.ts";

// Shape letters: N images of a set, B of a batch, C channels, H and W rows and columns.

/** Labelled images of one size. */
export interface ImageSet {
  readonly name: string;
  /** [C, H, W] of an image. */
  readonly shape: readonly [number, number, number];
  /** [N, C, H, W], 0 to 255. */
  readonly images: Uint8Array;
  /** [N], each an index into `classes`. */
  readonly labels: Uint8Array;
  readonly classes: readonly string[];
}

/** What is trained on and what is only measured on. */
export interface ImageSplits {
  readonly training: ImageSet;
  readonly test: ImageSet;
}

/** Images as a model takes them. */
export interface ImageBatch {
  /** [B, C, H, W], normalized. */
  readonly images: Float32Array<ArrayBuffer>;
  /** [B]. */
  readonly labels: Int32Array<ArrayBuffer>;
}

/** Mean and standard deviation of each channel, where a byte of 255 is 1. */
export interface Normalization {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/** Checks that a set is what it says. @throws ConfigError where sizes do not fit each other or a label names no class. */
export function checkImageSet({ name, shape, images, labels, classes }: ImageSet): void {
  const where = `data set ${name}`;
  const size = shape[0] * shape[1] * shape[2];
  if (!shape.every((extent) => Number.isInteger(extent) && extent > 0))
    throw new ConfigError(where, `images of ${formatShape(shape)} have an extent that is not a positive integer`);
  if (labels.length === 0) throw new ConfigError(where, "there are no images");
  if (images.length !== labels.length * size) {
    const what = `${labels.length} labels and ${images.length} bytes of images do not fit: an image of ${formatShape(shape)} has ${size}`;
    throw new ConfigError(where, what);
  }
  const strange = labels.findIndex((label) => label >= classes.length);
  if (strange >= 0)
    throw new ConfigError(where, `label ${labels[strange]} of image ${strange} is outside [0, ${classes.length - 1}]`);
}

/** Mean and standard deviation of each channel over all images; a channel that never varies gets 1, not 0, for its deviation. */
export function channelStatistics({ shape, images, labels }: ImageSet): Normalization {
  const [channels, height, width] = shape;
  const area = height * width;
  const counts = Array.from({ length: channels }, () => new Float64Array(256));
  for (let at = 0; at < labels.length * channels; at++) {
    const histogram = counts[at % channels]!;
    for (let i = at * area; i < (at + 1) * area; i++) histogram[images[i]!]!++;
  }
  const total = labels.length * area;
  const mean = counts.map((histogram) => histogram.reduce((sum, count, value) => sum + count * value, 0) / total / 255);
  const std = counts.map((histogram, c) => {
    const variance = histogram.reduce((sum, count, value) => sum + count * (value / 255 - mean[c]!) ** 2, 0) / total;
    return Math.sqrt(variance) || 1;
  });
  return { mean, std };
}

export interface ImageBatchesOptions {
  readonly batchSize: number;
  readonly seed?: number;
  /** None unless stated. */
  readonly augmentation?: Augmentation;
  /** That of the set itself unless stated. */
  readonly normalization?: Normalization;
}

/**
 * Batches of a set. Which images a batch holds and how they are changed depends on seed and index alone, so there is no state to save: epoch e is the
 * e-th random order of all images, of which the batches take one piece each and the rest that fills none is left out.
 */
export class ImageBatches {
  readonly set: ImageSet;
  readonly batchSize: number;
  /** Batches in an epoch. */
  readonly count: number;
  readonly #seed: number;
  readonly #augmenter: Augmenter;
  /** Normalized value of each byte, by channel. */
  readonly #values: readonly Float32Array[];
  #order: { readonly epoch: number; readonly images: Uint32Array } | undefined;
  #prepared: { readonly index: number; readonly batch: ImageBatch } | undefined;

  /** @throws ConfigError for options out of range, a set with fewer images than a batch, or one that is not what it says. */
  constructor(set: ImageSet, options: ImageBatchesOptions) {
    const { batchSize, seed = 0, augmentation = {}, normalization } = options;
    checkImageSet(set);
    const where = `data set ${set.name}`;
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new ConfigError(where, `seed ${seed} is not an integer of at least 0`);
    if (!Number.isInteger(batchSize) || batchSize < 1 || batchSize > set.labels.length) {
      const what = `batchSize ${batchSize} is not an integer from 1 to the number of images, ${set.labels.length}`;
      throw new ConfigError(where, what, { limit: set.labels.length });
    }
    const { mean, std } = normalization ?? channelStatistics(set);
    const [channels] = set.shape;
    if (mean.length !== channels || std.length !== channels || !std.every((each) => each > 0)) {
      throw new ConfigError(
        where,
        `mean [${mean.join(", ")}] and std [${std.join(", ")}] do not fit ${channels} channels`,
      );
    }
    checkAugmentation(augmentation, set.shape);
    this.set = set;
    this.batchSize = batchSize;
    this.count = Math.floor(set.labels.length / batchSize);
    this.#seed = seed;
    this.#augmenter = new Augmenter(augmentation, set.shape, seed);
    this.#values = mean.map((m, c) => Float32Array.from({ length: 256 }, (_, byte) => (byte / 255 - m) / std[c]!));
  }

  /** The index-th batch since the beginning. The next one is prepared when the event loop is free, which is while an engine runs this one. */
  batch(index: number): ImageBatch {
    const batch = this.#prepared?.index === index ? this.#prepared.batch : this.#make(index);
    this.#prepared = undefined;
    setImmediate(() => {
      this.#prepared ??= { index: index + 1, batch: this.#make(index + 1) };
    });
    return batch;
  }

  /** All images in their order, unchanged; the last batch is filled up with copies of its last image. `count`: images that are not copies. */
  *sequential(): Generator<ImageBatch & { readonly count: number }> {
    const total = this.set.labels.length;
    for (let start = 0; start < total; start += this.batchSize) {
      const indices = Array.from({ length: this.batchSize }, (_, row) => Math.min(start + row, total - 1));
      yield { ...this.#gather(indices), count: Math.min(this.batchSize, total - start) };
    }
  }

  #make(index: number): ImageBatch {
    const epoch = Math.floor(index / this.count);
    const start = (index % this.count) * this.batchSize;
    const order = this.#orderOf(epoch).subarray(start, start + this.batchSize);
    return this.#gather(order, (row) => index * this.batchSize + row);
  }

  /** Images of the set by index; `draw` numbers the random change of each row. */
  #gather(indices: ArrayLike<number>, draw?: (row: number) => number): ImageBatch {
    const { shape, images, labels } = this.set;
    const [channels, height, width] = shape;
    const area = height * width;
    const size = channels * area;
    const values = new Float32Array(indices.length * size);
    for (let row = 0; row < indices.length; row++) {
      const from = images.subarray(indices[row]! * size, (indices[row]! + 1) * size);
      const to = values.subarray(row * size, (row + 1) * size);
      if (draw === undefined || this.#augmenter.isIdentity) {
        for (let c = 0; c < channels; c++) {
          const table = this.#values[c]!;
          for (let i = c * area; i < (c + 1) * area; i++) to[i] = table[from[i]!]!;
        }
      } else this.#augmenter.apply(draw(row), from, to, this.#values);
    }
    return { images: values, labels: Int32Array.from(indices, (index) => labels[index]!) };
  }

  /** All image indices in the random order of an epoch (Fisher and Yates). */
  #orderOf(epoch: number): Uint32Array {
    if (this.#order?.epoch === epoch) return this.#order.images;
    const random = new RandomStream(this.#seed, `data.order.${epoch}`);
    const images = Uint32Array.from(this.set.labels, (_, i) => i);
    for (let i = images.length - 1; i > 0; i--) {
      const j = Math.floor(random.uniform() * (i + 1));
      [images[i], images[j]] = [images[j]!, images[i]!];
    }
    this.#order = { epoch, images };
    return images;
  }
}

/** Generated digits (see {@link syntheticDigits}) as a set: nothing to download. Test images come from another seed. */
export function digitImages({
  seed = 0,
  size = 8,
  training = 4000,
  test = 1000,
}: {
  readonly seed?: number;
  readonly size?: number;
  readonly training?: number;
  readonly test?: number;
} = {}): ImageSplits {
  const draw = (part: string, count: number, partSeed: number): ImageSet => {
    const { images, labels } = syntheticDigits({ count, seed: partSeed, size });
    return {
      name: `generated digits, ${part}`,
      shape: [1, size, size],
      images: Uint8Array.from(images, (value) => Math.round(255 * value)),
      labels: Uint8Array.from(labels),
      classes: Array.from({ length: 10 }, (_, digit) => String(digit)),
    };
  };
  return { training: draw("training", training, 2 * seed), test: draw("test", test, 2 * seed + 1) };
}
