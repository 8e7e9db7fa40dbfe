// Readers of published image sets from their files: Fashion-MNIST and its relatives in IDX, CIFAR-10 in its binary form.

import { existsSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { FileError, formatShape } from "../core/errors.ts";
import { checkPayload, fileError } from "./bytes.ts";
import { decodeIdx, type IdxArray } from "./idx.ts";
import type { ImageSet, ImageSplits } from "./images.ts";

const fashionClasses = [
  "T-shirt/top",
  "trouser",
  "pullover",
  "dress",
  "coat",
  "sandal",
  "shirt",
  "sneaker",
  "bag",
  "ankle boot",
] as const;

const cifarClasses = [
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
] as const;

/** Files of MNIST and of sets made like it, gzipped or not. */
export const idxFiles = {
  training: ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
  test: ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
} as const;

/** Files of CIFAR-10's binary form. */
export const cifarFiles = {
  training: [1, 2, 3, 4, 5].map((n) => `data_batch_${n}.bin`),
  test: ["test_batch.bin"],
} as const;

/** Bytes of a CIFAR-10 record: a label, then 32 x 32 pixels of red, of green, of blue. */
export const cifarRecordBytes = 1 + 3 * 32 * 32;

/** Most bytes that a file of a set may have, unpacked or not; the largest known one has 47 million. */
const maxFileBytes = 2 ** 28;

async function readBounded(path: string): Promise<Uint8Array> {
  try {
    const status = await stat(path);
    if (!status.isFile()) throw new FileError(path, "is not a regular file");
    if (status.size > maxFileBytes)
      throw new FileError(path, `has ${status.size} bytes, the limit is ${maxFileBytes}`, { limit: maxFileBytes });
    return await readFile(path);
  } catch (error) {
    throw error instanceof FileError ? error : fileError(path, error);
  }
}

async function readIdx(folder: string, name: string, rank: number): Promise<IdxArray> {
  const zipped = join(folder, `${name}.gz`);
  const path = existsSync(zipped) ? zipped : join(folder, name);
  const array = decodeIdx(await readBounded(path), path, { maxBytes: maxFileBytes });
  if (array.shape.length !== rank || array.data.length === 0)
    throw new FileError(
      path,
      `holds ${formatShape(array.shape)}, not ${rank === 3 ? "[N, H, W]" : "[N]"} with N above 0`,
    );
  return array;
}

async function readIdxPart(
  folder: string,
  part: keyof typeof idxFiles,
  name: string,
  classes: readonly string[],
): Promise<ImageSet> {
  const [imageFile, labelFile] = idxFiles[part];
  const images = await readIdx(folder, imageFile, 3);
  const labels = await readIdx(folder, labelFile, 1);
  const [count, height, width] = images.shape as [number, number, number];
  if (labels.data.length !== count)
    throw new FileError(join(folder, labelFile), `has ${labels.data.length} labels for ${count} images`);
  const strange = labels.data.findIndex((label) => label >= classes.length);
  if (strange >= 0) {
    const what = `label ${labels.data[strange]} of image ${strange} is outside [0, ${classes.length - 1}]`;
    throw new FileError(join(folder, labelFile), what);
  }
  return { name: `${name}, ${part}`, shape: [1, height, width], images: images.data, labels: labels.data, classes };
}

/**
 * Reads Fashion-MNIST, or any set of ten classes in the same four files, from a folder.
 * @throws FileError naming the file that is missing, damaged or does not fit the others.
 */
export async function readFashionMnist(folder: string, name = "Fashion-MNIST"): Promise<ImageSplits> {
  const [training, test] = [
    await readIdxPart(folder, "training", name, fashionClasses),
    await readIdxPart(folder, "test", name, fashionClasses),
  ];
  if (training.shape.some((extent, axis) => extent !== test.shape[axis])) {
    const what = `training images are ${formatShape(training.shape)}, test images ${formatShape(test.shape)}`;
    throw new FileError(folder, what);
  }
  return { training, test };
}

/** Images of CIFAR-10 files, one after the other. */
async function readCifarPart(folder: string, part: keyof typeof cifarFiles): Promise<ImageSet> {
  const files: { readonly path: string; readonly bytes: Uint8Array }[] = [];
  for (const file of cifarFiles[part]) {
    const path = join(folder, file);
    const bytes = await readBounded(path);
    const count = Math.max(1, Math.ceil(bytes.length / cifarRecordBytes));
    checkPayload(path, `${count} records`, count * cifarRecordBytes, bytes.length);
    files.push({ path, bytes });
  }
  const total = files.reduce((sum, { bytes }) => sum + bytes.length / cifarRecordBytes, 0);
  const images = new Uint8Array(total * (cifarRecordBytes - 1));
  const labels = new Uint8Array(total);
  let at = 0;
  for (const { path, bytes } of files) {
    for (let start = 0; start < bytes.length; start += cifarRecordBytes) {
      const label = bytes[start]!;
      if (label >= cifarClasses.length)
        throw new FileError(path, `record ${start / cifarRecordBytes} has label ${label}, outside [0, 9]`);
      labels[at] = label;
      images.set(bytes.subarray(start + 1, start + cifarRecordBytes), at * (cifarRecordBytes - 1));
      at++;
    }
  }
  return { name: `CIFAR-10, ${part}`, shape: [3, 32, 32], images, labels, classes: cifarClasses };
}

/** Reads CIFAR-10's binary files from a folder. @throws FileError naming the file that is missing, cut short, or holds a label above 9. */
export async function readCifar10(folder: string): Promise<ImageSplits> {
  return { training: await readCifarPart(folder, "training"), test: await readCifarPart(folder, "test") };
}
