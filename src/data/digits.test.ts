import { describe, expect, it } from "vitest";
import { ConfigError } from "../core/errors.ts";
import { RandomStream } from "../core/random.ts";
import { type Digits, syntheticDigits } from "./digits.ts";

/** Share of right answers, on 2000 images of another seed, of a classifier trained by plain SGD; `hidden` 0 is a linear one. */
function accuracy(hidden: number, epochs: number): number {
  const train = syntheticDigits({ count: 4000, seed: 1 });
  const test = syntheticDigits({ count: 2000, seed: 2 });
  const pixels = 64;
  const random = new RandomStream(3, "test");
  const width = hidden === 0 ? pixels : hidden;
  const w1 = Float64Array.from({ length: hidden * (pixels + 1) }, () => random.normal() * Math.sqrt(2 / pixels));
  const w2 = new Float64Array(10 * (width + 1));
  for (let i = 0; i < w2.length; i++) w2[i] = hidden === 0 ? 0 : random.normal() * Math.sqrt(1 / width);
  const features = new Float64Array(width);
  const p = new Float64Array(10);
  const forward = (data: Digits, i: number) => {
    const x = data.images.subarray(i * pixels, (i + 1) * pixels);
    for (let h = 0; h < width; h++) {
      if (hidden === 0) {
        features[h] = x[h]!;
        continue;
      }
      let sum = w1[h * (pixels + 1) + pixels]!;
      for (let k = 0; k < pixels; k++) sum += w1[h * (pixels + 1) + k]! * x[k]!;
      features[h] = Math.max(0, sum);
    }
    for (let c = 0; c < 10; c++) {
      p[c] = w2[c * (width + 1) + width]!;
      for (let h = 0; h < width; h++) p[c]! += w2[c * (width + 1) + h]! * features[h]!;
    }
    const most = Math.max(...p);
    const total = p.reduce((sum, logit) => sum + Math.exp(logit - most), 0);
    for (let c = 0; c < 10; c++) p[c] = Math.exp(p[c]! - most) / total;
    return x;
  };
  for (let epoch = 0; epoch < epochs; epoch++) {
    const rate = 0.05 * (1 - epoch / epochs);
    for (let i = 0; i < train.labels.length; i++) {
      const x = forward(train, i);
      p[train.labels[i]!]! -= 1;
      for (let h = 0; h < hidden; h++) {
        if (features[h] === 0) continue;
        let g = 0;
        for (let c = 0; c < 10; c++) g += p[c]! * w2[c * (width + 1) + h]!;
        for (let k = 0; k < pixels; k++) w1[h * (pixels + 1) + k]! -= rate * g * x[k]!;
        w1[h * (pixels + 1) + pixels]! -= rate * g;
      }
      for (let c = 0; c < 10; c++) {
        for (let h = 0; h < width; h++) w2[c * (width + 1) + h]! -= rate * p[c]! * features[h]!;
        w2[c * (width + 1) + width]! -= rate * p[c]!;
      }
    }
  }
  let right = 0;
  for (let i = 0; i < test.labels.length; i++) {
    forward(test, i);
    if (p.indexOf(Math.max(...p)) === test.labels[i]) right++;
  }
  return right / test.labels.length;
}

describe("syntheticDigits", () => {
  it("draws images in 0..1 with every label about equally often", () => {
    const { images, labels } = syntheticDigits({ count: 1000, seed: 4 });
    expect([images.length, labels.length]).toEqual([64_000, 1000]);
    expect(images.every((pixel) => pixel >= 0 && pixel <= 1)).toBe(true);
    for (let digit = 0; digit < 10; digit++) {
      expect(labels.filter((label) => label === digit).length, `digit ${digit}`).toBeGreaterThan(70);
    }
  });

  it("depends on seed and index alone", () => {
    const small = syntheticDigits({ count: 5, seed: 9, size: 12 });
    const large = syntheticDigits({ count: 9, seed: 9, size: 12 });
    expect(large.images.slice(0, 5 * 144)).toEqual(small.images);
    expect(large.labels.slice(0, 5)).toEqual(small.labels);
    expect(syntheticDigits({ count: 5, seed: 10, size: 12 }).images).not.toEqual(small.images);
  });

  it("is learnable, but not by a linear classifier alone", () => {
    const linear = accuracy(0, 6);
    const network = accuracy(32, 6);
    expect(linear).toBeGreaterThan(0.6);
    expect(linear).toBeLessThan(0.97);
    expect(network).toBeGreaterThan(linear + 0.02);
  }, 30_000);

  it.each([
    [{ count: 0, seed: 1 }, "syntheticDigits: count 0 is not an integer from 1 to 33554431"],
    [{ count: 2 ** 30, seed: 1 }, "count 1073741824 is not"],
    [{ count: 1, seed: -1 }, "seed -1 is not an integer of at least 0"],
    [{ count: 1, seed: 1, size: 7 }, "size 7 is not an integer from 8 to 64"],
  ])("refuses %j", (options, message) => {
    expect(() => syntheticDigits(options)).toThrow(ConfigError);
    expect(() => syntheticDigits(options)).toThrow(message);
  });
});
