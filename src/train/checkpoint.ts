// Checkpoints: one folder a step with the state as safetensors and everything else as JSON, written aside and renamed into place.

import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import * as v from "valibot";
import { CheckpointError, formatAval, formatShape } from "../core/errors.ts";
import { sameShape } from "../core/shape.ts";
import { makeFolder, writeFileAtomic, writeFolderAtomic } from "../data/files.ts";
import { encodeSafetensors, openSafetensors, type SafetensorsInput } from "../data/safetensors.ts";
import type { StateStore } from "../engines/state.ts";
import { cnnConfigSchema } from "../models/cnn.ts";
import { gptConfigSchema } from "../models/gpt.ts";
import type { Tensor } from "../tensor.ts";

const count = v.pipe(v.number(), v.integer(), v.minValue(0));

/** Host-side state of a run: what the next step depends on beside the tensors. */
const progressSchema = v.strictObject({
  /** Steps done. */
  step: count,
  /** Updates that counted. */
  applied: count,
  skipped: count,
  lossScale: v.pipe(v.number(), v.minValue(0)),
  /** Steps since the loss scale last changed. */
  stepsSinceScale: count,
  skipsInARow: count,
  /** Losses of the last steps, for the loss that a run reports at its end. */
  recentLosses: v.pipe(v.array(v.number()), v.maxLength(100)),
});
export type Progress = v.InferOutput<typeof progressSchema>;

/** Shapes of the models that checkpoints know, told apart by `architecture`. */
const modelConfigSchema = v.variant("architecture", [gptConfigSchema, cnnConfigSchema]);
export type ModelConfig = v.InferOutput<typeof modelConfigSchema>;

const metaSchema = v.strictObject({
  format: v.literal(1),
  anekit: v.string(),
  engine: v.string(),
  precision: v.string(),
  optimizer: v.string(),
  model: v.optional(modelConfigSchema),
  tokenizer: v.optional(v.string()),
  progress: progressSchema,
  /** CRC-32 of each tensor's bytes. */
  checksums: v.record(v.string(), count),
  /** CRC-32 of this text without this field. */
  checksum: count,
});
export type CheckpointMeta = v.InferOutput<typeof metaSchema>;

export const formatVersion = 1;
const stateFile = "state.safetensors";
const metaFile = "checkpoint.json";
const folderPattern = /^step-(\d{8})$/;

const storedDType = { fp16: "F16", fp32: "F32" } as const;

function checksum(data: ArrayBufferView): number {
  return crc32(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}

/** Of the fields in the order in which they stand, which parsing keeps. */
function textChecksum(content: object): number {
  return crc32(JSON.stringify(content));
}

/** Folder of a checkpoint inside a run. */
function checkpointFolder(run: string, step: number): string {
  return join(run, `step-${String(step).padStart(8, "0")}`);
}

/** Checkpoints of a run, oldest first. */
export async function listCheckpoints(run: string): Promise<{ readonly step: number; readonly path: string }[]> {
  const names = await readdir(run).catch((): string[] => []);
  return names
    .flatMap((name) => {
      const match = folderPattern.exec(name);
      return match === null ? [] : [{ step: Number(match[1]), path: join(run, name) }];
    })
    .sort((a, b) => a.step - b.step);
}

/** Writes a checkpoint and removes all but the newest `keep`. Returns its folder. */
export async function saveCheckpoint(
  run: string,
  meta: Omit<CheckpointMeta, "checksums" | "checksum">,
  state: ReadonlyMap<string, Tensor>,
  store: StateStore,
  keep = 2,
): Promise<string> {
  const tensors = new Map<string, SafetensorsInput>();
  for (const [name, tensor] of state) {
    const { dtype, shape, data } = store.read(tensor, { as: "bits" });
    tensors.set(name, { dtype, shape, data } as SafetensorsInput);
  }
  const checksums = Object.fromEntries([...tensors].map(([name, { data }]) => [name, checksum(data)]));
  const content = { ...meta, checksums };
  const sealed: CheckpointMeta = { ...content, checksum: textChecksum(content) };
  const folder = checkpointFolder(run, meta.progress.step);
  makeFolder(run);
  await writeFolderAtomic(folder, async (temporary) => {
    await writeFileAtomic(join(temporary, stateFile), encodeSafetensors(tensors, { format: "anekit" }));
    await writeFileAtomic(join(temporary, metaFile), `${JSON.stringify(sealed, undefined, 2)}\n`);
  });
  for (const { path } of (await listCheckpoints(run)).slice(0, -keep)) await rm(path, { recursive: true, force: true });
  return folder;
}

/** The newest checkpoint of a run, or the folder itself when it is one. @throws {CheckpointError} where there is none. */
export async function findCheckpoint(path: string): Promise<string> {
  const newest = (await listCheckpoints(path)).at(-1);
  if (newest !== undefined) return newest.path;
  const own = await readFile(join(path, metaFile)).catch(() => undefined);
  if (own === undefined)
    throw new CheckpointError(path, "there is no checkpoint here", {
      remedy: "name the folder that train wrote (--out)",
    });
  return path;
}

/** The JSON part of a checkpoint, checked. */
export async function readCheckpointMeta(folder: string): Promise<CheckpointMeta> {
  const file = join(folder, metaFile);
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new CheckpointError(file, "cannot be read", { cause });
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new CheckpointError(file, "is not JSON; the file is damaged", { cause });
  }
  const parsed = v.safeParse(metaSchema, json);
  if (!parsed.success) {
    const [issue] = parsed.issues;
    throw new CheckpointError(file, `${v.getDotPath(issue) ?? "content"}: ${issue.message}`);
  }
  const { checksum: sum, ...content } = json as CheckpointMeta;
  if (textChecksum(content) !== sum) throw new CheckpointError(file, "is damaged: its checksum does not match");
  return parsed.output;
}

/**
 * Reads tensors of a checkpoint into resident state; with `exact`, the checkpoint may hold no others. Every tensor is checked before any is written.
 * @throws {CheckpointError} naming the tensor that is missing, has another shape or dtype, or is damaged.
 */
export async function loadState(
  folder: string,
  state: ReadonlyMap<string, Tensor>,
  store: StateStore,
  { exact = false }: { readonly exact?: boolean } = {},
): Promise<void> {
  const { checksums } = await readCheckpointMeta(folder);
  const file = join(folder, stateFile);
  await using tensors = await openSafetensors(file).catch((cause: unknown) => {
    throw new CheckpointError("checkpoint", cause instanceof Error ? cause.message : `${file} cannot be read`, {
      cause,
      remedy: "remove the damaged folder to go on from the one before",
    });
  });
  const values: [Tensor, ArrayLike<number>][] = [];
  for (const [name, tensor] of state) {
    const info = tensors.tensors.get(name);
    if (info === undefined)
      throw new CheckpointError(file, `tensor "${name}" is missing; the model has ${formatAval(tensor.aval)}`);
    const dtype = storedDType[tensor.dtype as "fp16" | "fp32"];
    if (!sameShape(info.shape, tensor.shape)) {
      throw new CheckpointError(
        file,
        `tensor "${name}" has shape ${formatShape(info.shape)}, the model expects ${formatShape(tensor.shape)}`,
      );
    }
    if (info.dtype !== dtype)
      throw new CheckpointError(file, `tensor "${name}" is ${info.dtype}, the run expects ${dtype}`);
    if (checksum(await tensors.bytes(name)) !== checksums[name]) {
      throw new CheckpointError(file, `tensor "${name}" is damaged: its checksum does not match ${metaFile}`);
    }
    const { data } = await tensors.values(name);
    values.push([tensor, data]);
  }
  const extra = [...tensors.tensors.keys()].find((name) => !state.has(name));
  if (exact && extra !== undefined)
    throw new CheckpointError(file, `tensor "${extra}" belongs to no part of this model`);
  for (const [tensor, data] of values) store.write(tensor, data);
}
