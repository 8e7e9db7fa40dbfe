import { expect, test } from "vitest";
import { philox, RandomStream } from "./random.ts";

test("philox4x32-10 gives the published known answers", () => {
  // Random123, kat_vectors.
  const hex = (words: readonly number[]) => words.map((word) => word.toString(16).padStart(8, "0")).join(" ");
  const ones = 0xffffffff;
  expect(hex(philox([0, 0, 0, 0], [0, 0]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
  expect(hex(philox([ones, ones, ones, ones], [ones, ones]))).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
  expect(hex(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]))).toBe(
    "d16cfe09 94fdcceb 5001e420 24126ea1",
  );
});

test("streams are fixed by seed and name, and indexing does not depend on what was drawn", () => {
  const a = new RandomStream(7, "weights");
  const first = [a.uniform(), a.uniform(), a.normal()];
  const b = new RandomStream(7, "weights");
  b.at(12345);
  expect([b.uniform(), b.uniform(), b.normal()]).toEqual(first);
  expect(new RandomStream(8, "weights").uniform()).not.toBe(first[0]);
  expect(new RandomStream(7, "data").uniform()).not.toBe(first[0]);
  expect(a.at(3)).toBe(b.at(3));
  expect(a.at(3, 1)).not.toBe(a.at(3, 0));
});

test("uniforms fill [0, 1) evenly and normals have the right moments", () => {
  const random = new RandomStream(1, "moments");
  const n = 20000;
  let [sum, squares] = [0, 0];
  for (let i = 0; i < n; i++) {
    const x = random.normal();
    sum += x;
    squares += x * x;
    const u = random.uniform();
    expect(u >= 0 && u < 1).toBe(true);
  }
  expect(Math.abs(sum / n)).toBeLessThan(4 / Math.sqrt(n));
  expect(Math.abs(squares / n - 1)).toBeLessThan(4 * Math.sqrt(2 / n));
});
