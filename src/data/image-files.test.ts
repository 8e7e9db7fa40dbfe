import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { ConfigError, FileError } from "../core/errors.ts";
import { cifarFiles, cifarRecordBytes, idxFiles, readCifar10, readFashionMnist } from "./image-files.ts";
import { checkImageSet } from "./images.ts";
import { cifar10, dataFolder, fashionMnist, findSet, locateSet, openImages } from "./sets.ts";

const root = mkdtempSync(join(tmpdir(), "anekit-images-"));
afterAll(() => rmSync(root, { recursive: true }));
afterEach(() => vi.unstubAllEnvs());
let folders = 0;

function newFolder(files: Readonly<Record<string, Uint8Array>>): string {
  const folder = join(root, String(folders++));
  mkdirSync(folder);
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
  return folder;
}

function idx(shape: number[], data: Uint8Array): Uint8Array {
  const header = Buffer.alloc(4 + 4 * shape.length);
  header.set([0, 0, 8, shape.length]);
  for (const [axis, extent] of shape.entries()) header.writeUInt32BE(extent, 4 + 4 * axis);
  return Buffer.concat([header, data]);
}

const [trainImages, trainLabels, testImages, testLabels] = [...idxFiles.training, ...idxFiles.test];
const pixels = (count: number) => Uint8Array.from({ length: count * 6 }, (_, i) => i % 251);
const idxSet = {
  [`${trainImages}.gz`]: gzipSync(idx([4, 2, 3], pixels(4))),
  [`${trainLabels}.gz`]: gzipSync(idx([4], Uint8Array.from([0, 9, 5, 5]))),
  [testImages]: idx([2, 2, 3], pixels(2)), // one plain, one gzipped: either will do
  [`${testLabels}.gz`]: gzipSync(idx([2], Uint8Array.from([1, 2]))),
};

const record = (label: number, fill: number) => [label, ...new Array<number>(cifarRecordBytes - 1).fill(fill)];
const cifarSet = Object.fromEntries(
  [...cifarFiles.training, ...cifarFiles.test].map((name, i) => [
    name,
    Uint8Array.from([...record(i, i), ...record(9 - i, 9)]),
  ]),
);

describe("readFashionMnist", () => {
  it("reads the four files, gzipped or not", async () => {
    const { training, test } = await readFashionMnist(newFolder(idxSet));
    checkImageSet(training);
    checkImageSet(test);
    expect(training.shape).toEqual([1, 2, 3]);
    expect([...training.labels]).toEqual([0, 9, 5, 5]);
    expect([...test.images]).toEqual([...pixels(2)]);
    expect(training.classes[9]).toBe("ankle boot");
  });

  it.each([
    ["a missing file", { [`${testLabels}.gz`]: undefined }, "t10k-labels-idx1-ubyte: no such file"],
    ["labels for images", { [`${trainImages}.gz`]: gzipSync(idx([4], new Uint8Array(4))) }, "holds [4], not [N, H, W]"],
    ["no images", { [testImages]: idx([0, 2, 3], new Uint8Array(0)) }, "holds [0, 2, 3]"],
    ["fewer labels", { [`${trainLabels}.gz`]: gzipSync(idx([3], new Uint8Array(3))) }, "has 3 labels for 4 images"],
    [
      "a label above 9",
      { [`${trainLabels}.gz`]: gzipSync(idx([4], Uint8Array.from([0, 1, 10, 2]))) },
      "label 10 of image 2",
    ],
    ["other sizes in the test set", { [testImages]: idx([2, 3, 2], pixels(2)) }, "test images [1, 3, 2]"],
    ["a damaged gzip", { [`${trainImages}.gz`]: gzipSync(idx([4, 2, 3], pixels(4))).subarray(0, 20) }, "gzip: "],
    [
      "a size beyond the file",
      { [testImages]: idx([0xffffffff, 0xffff, 0xffff], new Uint8Array(9)) },
      "too many elements",
    ],
  ])("refuses %s", async (_name, change, message) => {
    const files = Object.entries({ ...idxSet, ...change }).filter(
      (entry): entry is [string, Buffer] => entry[1] !== undefined,
    );
    const reading = readFashionMnist(newFolder(Object.fromEntries(files)));
    await expect(reading).rejects.toThrow(FileError);
    await expect(reading).rejects.toThrow(message);
  });
});

describe("readCifar10", () => {
  it("reads records: a label and planes of red, green and blue", async () => {
    const { training, test } = await readCifar10(newFolder(cifarSet));
    checkImageSet(training);
    expect(training.shape).toEqual([3, 32, 32]);
    expect([...training.labels]).toEqual([0, 9, 1, 8, 2, 7, 3, 6, 4, 5]);
    expect([training.images[0], training.images[3071], training.images[3072], training.images[2 * 3072]]).toEqual([
      0, 0, 9, 1,
    ]);
    expect([...test.labels]).toEqual([5, 4]);
  });

  it.each([
    [
      "a file cut short",
      cifarSet["data_batch_1.bin"]!.subarray(0, 6000),
      "2 records takes 6146 bytes, the file has 6000",
    ],
    ["an empty file", new Uint8Array(0), "1 records takes 3073 bytes, the file has 0"],
    ["a label above 9", Uint8Array.from(record(10, 0)), "record 0 has label 10"],
  ])("refuses %s", async (_name, bytes, message) => {
    const reading = readCifar10(newFolder({ ...cifarSet, "data_batch_1.bin": bytes }));
    await expect(reading).rejects.toThrow(FileError);
    await expect(reading).rejects.toThrow(message);
  });
});

describe("sets by name", () => {
  it("are found in the data folder, and a folder says by its files what it holds", async () => {
    const folder = newFolder({});
    vi.stubEnv("ANEKIT_DATA_DIR", folder);
    expect(dataFolder()).toBe(folder);
    mkdirSync(join(folder, "cifar10"));
    for (const [name, bytes] of Object.entries(cifarSet)) writeFileSync(join(folder, "cifar10", name), bytes);
    expect(locateSet(findSet("cifar10"))).toBe(join(folder, "cifar10"));
    expect((await cifar10()).test.labels).toHaveLength(2);
    expect((await openImages(newFolder(idxSet))).set.name).toBe("fashion-mnist");
    expect((await fashionMnist(newFolder(idxSet))).training.labels).toHaveLength(4);
  });

  it("say how to get what is not here, and never fetch it", async () => {
    vi.stubEnv("ANEKIT_DATA_DIR", newFolder({}));
    const fetching = vi.spyOn(globalThis, "fetch");
    await expect(cifar10()).rejects.toThrow(
      "cifar10: is not on this machine; run anekit data download cifar10, or name the folder",
    );
    await expect(openImages("cifar10")).rejects.toThrow(FileError);
    expect(fetching).not.toHaveBeenCalled();
    await expect(openImages(newFolder({}))).rejects.toThrow(ConfigError);
    expect(() => findSet("imagenet")).toThrow('"imagenet" is none of fashion-mnist, cifar10');
  });

  const debian = findSet("fashion-mnist").folders[0]!;
  it.skipIf(!existsSync(debian))("include Debian's package: apt install dataset-fashion-mnist", async () => {
    const { training, test } = await fashionMnist(debian);
    expect([training.labels.length, test.labels.length, ...training.shape]).toEqual([60000, 10000, 1, 28, 28]);
    const counts = new Array<number>(10).fill(0);
    for (const label of training.labels) counts[label]!++;
    expect(counts).toEqual(new Array(10).fill(6000));
  });
});
