// The image sets that anekit knows by name: where their files are published, where they are found on this machine, how they are read.

import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { ConfigError, FileError } from "../core/errors.ts";
import type { Augmentation } from "./augment.ts";
import { cifarFiles, cifarRecordBytes, idxFiles, readCifar10, readFashionMnist } from "./image-files.ts";
import type { ImageSplits } from "./images.ts";

/** A file as its publisher describes it. */
export interface PublishedFile {
  readonly name: string;
  readonly bytes: number;
  /** What the publisher states; there is nothing stronger. */
  readonly md5: string;
}

export interface KnownSet {
  readonly name: string;
  readonly summary: string;
  /** Where `published` are, without their names. */
  readonly url: string;
  readonly published: readonly PublishedFile[];
  /** Files that are unpacked from the published archive, by their names in it, and their bytes; absent where there is no archive. */
  readonly members?: ReadonlyMap<string, number>;
  /** Names of the files that are read; one list a file of names that will do. */
  readonly files: readonly (readonly string[])[];
  /** Folders in which systems keep the files. */
  readonly folders: readonly string[];
  /** How to get the set beside downloading it. */
  readonly otherwise?: string;
  /** What helps when it is trained on. */
  readonly augmentation: Augmentation;
  read(folder: string): Promise<ImageSplits>;
}

/** Sizes are those of the files at the address; the checksums stand in the set's own README. */
const fashionMnistSet: KnownSet = {
  name: "fashion-mnist",
  summary: "Fashion-MNIST: 70,000 grey pictures of clothes, 28 x 28, ten classes (Xiao et al. 2017; MIT licence)",
  url: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
  published: [
    { name: "train-images-idx3-ubyte.gz", bytes: 26421880, md5: "8d4fb7e6c68d591d4c3dfef9ec88bf0d" },
    { name: "train-labels-idx1-ubyte.gz", bytes: 29515, md5: "25c81989df183df01b3e8a0aad5dffbe" },
    { name: "t10k-images-idx3-ubyte.gz", bytes: 4422102, md5: "bef4ecab320f06d8554ea6380940ec79" },
    { name: "t10k-labels-idx1-ubyte.gz", bytes: 5148, md5: "bb300cfdad3c16e7a12a480ee83cd310" },
  ],
  files: [...idxFiles.training, ...idxFiles.test].map((name) => [`${name}.gz`, name]),
  folders: ["/usr/share/datasets/fashion-mnist"],
  otherwise: "on Debian, apt install dataset-fashion-mnist",
  augmentation: { crop: 2, flip: true },
  read: readFashionMnist,
};

const cifar10Set: KnownSet = {
  name: "cifar10",
  summary: "CIFAR-10: 60,000 small photographs, 32 x 32, ten classes (Krizhevsky 2009)",
  url: "https://www.cs.toronto.edu/~kriz/",
  published: [{ name: "cifar-10-binary.tar.gz", bytes: 170052171, md5: "c32a1d4ab5d03f1284b67883e8d87530" }],
  members: new Map(
    [...cifarFiles.training, ...cifarFiles.test].map((name) => [
      `cifar-10-batches-bin/${name}`,
      10000 * cifarRecordBytes,
    ]),
  ),
  files: [...cifarFiles.training, ...cifarFiles.test].map((name) => [name]),
  folders: [],
  augmentation: { crop: 4, flip: true },
  read: readCifar10,
};

export const knownSets: readonly KnownSet[] = [fashionMnistSet, cifar10Set];

/** A known set by its name. @throws ConfigError listing the names. */
export function findSet(name: string): KnownSet {
  const found = knownSets.find((set) => set.name === name);
  if (found !== undefined) return found;
  throw new ConfigError("data", `"${name}" is none of ${knownSets.map((set) => set.name).join(", ")}`);
}

/** Where downloaded sets are kept: ANEKIT_DATA_DIR, else a folder in the system's place for caches. */
export function dataFolder(environment: Readonly<Record<string, string | undefined>> = process.env): string {
  if (environment.ANEKIT_DATA_DIR) return environment.ANEKIT_DATA_DIR;
  if (environment.ANEKIT_CACHE_DIR) return join(environment.ANEKIT_CACHE_DIR, "data");
  if (process.platform === "darwin") return join(homedir(), "Library", "Caches", "anekit", "data");
  return join(environment.XDG_CACHE_HOME || join(homedir(), ".cache"), "anekit", "data");
}

/** Whether a folder has all files of a set; what is in them is seen when they are read. */
function holdsSet({ files }: KnownSet, folder: string): boolean {
  return files.every((names) => names.some((name) => existsSync(join(folder, name))));
}

/** The folder in which a set is found: the data folder before the system's. */
export function locateSet(set: KnownSet): string | undefined {
  return [join(dataFolder(), set.name), ...set.folders].find((folder) => holdsSet(set, folder));
}

/** Reads a set from `folder`, or from where it is found. @throws FileError that says how to get it where it is not. */
async function load(set: KnownSet, folder: string | undefined): Promise<ImageSplits> {
  const found = folder ?? locateSet(set);
  if (found !== undefined) return set.read(found);
  throw new FileError(set.name, "is not on this machine", {
    remedy: `run anekit data download ${set.name}${set.otherwise === undefined ? "" : `, ${set.otherwise}`}, or name the folder that holds its files`,
  });
}

/**
 * Fashion-MNIST from `folder`, or from where it is found: the data folder, then the system's. Nothing is downloaded.
 * @throws FileError where it is absent, with the remedy, or damaged.
 */
export function fashionMnist(folder?: string): Promise<ImageSplits> {
  return load(fashionMnistSet, folder);
}

/** CIFAR-10 in its binary form, found as {@link fashionMnist} is. */
export function cifar10(folder?: string): Promise<ImageSplits> {
  return load(cifar10Set, folder);
}

/**
 * A known set by name, or what a folder holds. Nothing is downloaded.
 * @throws ConfigError for a name that is neither; FileError where the set is absent, with the remedy, or damaged.
 */
export async function openImages(nameOrFolder: string): Promise<ImageSplits & { readonly set: KnownSet }> {
  const named = knownSets.find((set) => set.name === nameOrFolder);
  if (named !== undefined) return { set: named, ...(await load(named, undefined)) };
  const held = knownSets.find((set) => holdsSet(set, nameOrFolder));
  if (held !== undefined) return { set: held, ...(await load(held, nameOrFolder)) };
  throw new ConfigError("data", `"${nameOrFolder}" is neither a known set nor a folder with the files of one`, {
    remedy: `name one of ${knownSets.map((set) => set.name).join(", ")}, or see anekit data list`,
  });
}
