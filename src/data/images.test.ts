import { setImmediate as tick } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { ConfigError } from "../core/errors.ts";
import { Augmenter } from "./augment.ts";
import { channelStatistics, checkImageSet, digitImages, ImageBatches, type ImageSet } from "./images.ts";

const plain = { mean: [0, 0], std: [1 / 255, 1 / 255] }; // values are the bytes themselves

/** `count` images of two channels, 4 x 5, whose bytes are all different within an image (1 to 40). */
function testSet(count: number, name = "test"): ImageSet {
  const images = Uint8Array.from({ length: count * 40 }, (_, i) => 1 + (i % 40));
  for (let i = 0; i < count; i++) images[i * 40] = 100 + i; // tells images apart
  const labels = Uint8Array.from({ length: count }, (_, i) => i % 3);
  return { name, shape: [2, 4, 5], images, labels, classes: ["a", "b", "c"] };
}

/** The values by which bytes stand for themselves. */
const bytes = [0, 1].map(() => Float32Array.from({ length: 256 }, (_, byte) => byte));

describe("ImageBatches", () => {
  it("shows every image once an epoch, in another order each time, with its label", () => {
    const batches = new ImageBatches(testSet(20), { batchSize: 5, seed: 3, normalization: plain });
    expect(batches.count).toBe(4);
    const epochs = [0, 1].map((epoch) =>
      [0, 1, 2, 3].flatMap((at) => {
        const { images, labels } = batches.batch(4 * epoch + at);
        return Array.from(labels, (label, row) => {
          const image = Math.round(images[row * 40]!) - 100;
          expect(label).toBe(image % 3);
          return image;
        });
      }),
    );
    for (const order of epochs)
      expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, i) => i));
    expect(epochs[0]).not.toEqual(epochs[1]);
  });

  it("gives the same batch for the same seed and index, whatever was asked before and whether it was prepared", async () => {
    const options = { batchSize: 4, seed: 7, augmentation: { crop: 2, flip: true, cutout: 2 } };
    const inOrder = new ImageBatches(testSet(18), options);
    const direct = new ImageBatches(testSet(18), options);
    for (let index = 0; index < 9; index++) {
      const batch = inOrder.batch(index);
      if (index % 2 === 0) await tick(); // the next one is prepared, or is not
      if (index % 3 === 0) expect(direct.batch(index)).toEqual(batch);
    }
    expect(inOrder.batch(1)).toEqual(direct.batch(1)); // back, as after a resumption
    expect(new ImageBatches(testSet(18), { ...options, seed: 8 }).batch(1)).not.toEqual(direct.batch(1));
  });

  it("normalizes to mean 0 and standard deviation 1 with the set's own statistics", () => {
    const { training } = digitImages({ training: 50, test: 1 });
    const { images } = new ImageBatches(training, { batchSize: 50 }).batch(0);
    const mean = images.reduce((sum, x) => sum + x, 0) / images.length;
    const variance = images.reduce((sum, x) => sum + (x - mean) ** 2, 0) / images.length;
    expect(mean).toBeCloseTo(0, 4);
    expect(variance).toBeCloseTo(1, 4);
  });

  it("goes through a set in order and unchanged, the last batch filled up with copies that do not count", () => {
    const set = testSet(7);
    const batches = [
      ...new ImageBatches(set, { batchSize: 3, normalization: plain, augmentation: { crop: 2 } }).sequential(),
    ];
    expect(batches.map(({ count }) => count)).toEqual([3, 3, 1]);
    expect(batches.flatMap(({ labels, count }) => [...labels.subarray(0, count)])).toEqual([...set.labels]);
    const seen = batches.flatMap(({ images, count }) => Array.from(images.subarray(0, count * 40), Math.round));
    expect(seen).toEqual([...set.images]);
    expect([...batches[2]!.labels]).toEqual([0, 0, 0]);
  });

  it.each([
    [{ batchSize: 21 }, "batchSize 21 is not an integer from 1 to the number of images, 20"],
    [{ batchSize: 1.5 }, "batchSize 1.5"],
    [{ batchSize: 2, seed: -1 }, "seed -1 is not an integer of at least 0"],
    [{ batchSize: 2, augmentation: { crop: 5 } }, "crop 5 is not an integer from 0 to 4"],
    [{ batchSize: 2, augmentation: { cutout: -1 } }, "cutout -1"],
    [{ batchSize: 2, normalization: { mean: [0], std: [1] } }, "do not fit 2 channels"],
    [{ batchSize: 2, normalization: { mean: [0, 0], std: [1, 0] } }, "do not fit 2 channels"],
  ])("refuses %j", (options, message) => {
    expect(() => new ImageBatches(testSet(20), options)).toThrow(ConfigError);
    expect(() => new ImageBatches(testSet(20), options)).toThrow(message);
  });
});

describe("augmentation", () => {
  const source = testSet(1).images;
  const shape = [2, 4, 5] as const;
  const draws = (augmentation: ConstructorParameters<typeof Augmenter>[0], count = 400) => {
    const augmenter = new Augmenter(augmentation, shape, 11);
    return Array.from({ length: count }, (_, draw) => {
      const to = new Float32Array(40).fill(Number.NaN);
      augmenter.apply(draw, source, to, bytes);
      return [...to];
    });
  };
  const moved = (down: number, right: number) =>
    Array.from({ length: 40 }, (_, i) => {
      const [c, y, x] = [Math.floor(i / 20), Math.floor((i % 20) / 5) + down, (i % 5) + right];
      return y >= 0 && y < 4 && x >= 0 && x < 5 ? source[c * 20 + y * 5 + x]! : 0;
    });

  it("crops at each of the places, with black around the image", () => {
    const places = new Set([-1, 0, 1].flatMap((down) => [-1, 0, 1].map((right) => moved(down, right).join())));
    const seen = new Set(draws({ crop: 1 }).map((image) => image.join()));
    expect(seen).toEqual(places);
  });

  it("mirrors about half of the images left to right, channels and rows in place", () => {
    const mirrored = Array.from({ length: 40 }, (_, i) => source[i - (i % 5) + 4 - (i % 5)]!);
    const images = draws({ flip: true });
    const flips = images.filter((image) => image.join() === mirrored.join()).length;
    expect(images.filter((image) => image.join() === [...source].join())).toHaveLength(400 - flips);
    expect(flips).toBeGreaterThan(150);
    expect(flips).toBeLessThan(250);
  });

  it("erases squares around every pixel, in all channels alike, and nothing else", () => {
    const sizes = draws({ cutout: 2 }).map((image) => {
      const erased = image.flatMap((value, i) => (value === 0 ? [i] : []));
      for (const [i, value] of image.entries()) if (value !== 0) expect(value).toBe(source[i]);
      const [first, second] = [erased.filter((i) => i < 20), erased.filter((i) => i >= 20).map((i) => i - 20)];
      expect(second).toEqual(first);
      return first.length;
    });
    expect(new Set(sizes)).toEqual(new Set([1, 2, 4])); // corners, edges, inside
  });

  it("is the identity where nothing is asked for", () => {
    expect(new Augmenter({}, shape, 1).isIdentity).toBe(true);
    expect(new Augmenter({ flip: true }, shape, 1).isIdentity).toBe(false);
  });
});

describe("image sets", () => {
  it("have the mean and the deviation of each channel", () => {
    const images = Uint8Array.from([0, 255, 51, 51, 255, 0, 51, 51]); // two images of two channels, 1 x 2
    const set: ImageSet = { name: "s", shape: [2, 1, 2], images, labels: new Uint8Array(2), classes: ["a"] };
    const { mean, std } = channelStatistics(set);
    expect(mean[0]).toBeCloseTo(0.5);
    expect(mean[1]).toBeCloseTo(0.2);
    expect(std[0]).toBeCloseTo(0.5);
    expect(std[1]).toBe(1); // it never varies
  });

  it("refuses sizes and labels that do not fit", () => {
    const set = testSet(3);
    expect(() => checkImageSet(set)).not.toThrow();
    expect(() => checkImageSet({ ...set, images: set.images.subarray(1) })).toThrow("3 labels and 119 bytes");
    expect(() => new ImageBatches({ ...set, images: set.images.subarray(1) }, { batchSize: 1 })).toThrow("119 bytes");
    expect(() => checkImageSet({ ...set, classes: ["a", "b"] })).toThrow("label 2 of image 2 is outside [0, 1]");
    expect(() => checkImageSet({ ...set, labels: new Uint8Array(0) })).toThrow("there are no images");
    expect(() => checkImageSet({ ...set, shape: [2, 4, 0] })).toThrow("not a positive integer");
  });

  it("draws digits of the same kind for training and test, but not the same ones", () => {
    const { training, test } = digitImages({ training: 20, test: 20, seed: 1 });
    expect(training.shape).toEqual([1, 8, 8]);
    checkImageSet(training);
    checkImageSet(test);
    expect(training.images).not.toEqual(test.images);
    expect(digitImages({ training: 20, test: 1, seed: 1 }).training).toEqual(training);
  });
});
