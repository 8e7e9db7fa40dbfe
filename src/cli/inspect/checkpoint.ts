// Checkpoint folders and the run folders that hold them.

import { join } from "node:path";
import { openSafetensors } from "../../data/safetensors.ts";
import { findCheckpoint, listCheckpoints, type ModelConfig, readCheckpointMeta } from "../../train/checkpoint.ts";
import { fields, formatBytes, formatCount, plural } from "../output.ts";
import type { Inspection, Recogniser } from "./recogniser.ts";

/** A folder that `anekit train` wrote: one checkpoint, or a run with several. */
export const checkpoint: Recogniser = {
  format: "checkpoint or run folder",
  matches: (subject) =>
    subject.kind === "folder" &&
    subject.names.some((name) => name === "checkpoint.json" || name === "run.json" || /^step-\d{8}$/.test(name)),
  async inspect({ path }): Promise<Inspection> {
    const folder = await findCheckpoint(path);
    const meta = await readCheckpointMeta(folder);
    const { checksums, format: _version, ...rest } = meta;
    await using state = await openSafetensors(join(folder, "state.safetensors"));
    const tensors = [...state.tensors].map(([name, { dtype, shape }]) => ({
      name,
      dtype,
      shape,
      size: shape.reduce((a, b) => a * b, 1),
    }));
    const missing = Object.keys(checksums).filter((name) => !state.tensors.has(name));
    const weights = tensors.filter(({ name }) => !/\.(master|m|v|momentum)$/.test(name));
    const bytes = tensors.reduce((sum, { dtype, size }) => sum + size * (dtype === "F16" ? 2 : 4), 0);
    const steps = (await listCheckpoints(path)).map(({ step }) => step);
    const { progress, model } = meta;
    const text = fields([
      ["checkpoint", folder],
      ...(steps.length > 1 ? ([["run", `checkpoints at steps ${steps.join(", ")}`]] as const) : []),
      ["written by", `anekit ${meta.anekit} on engine ${meta.engine}, precision ${meta.precision}`],
      [
        "progress",
        `step ${progress.step}: ${progress.applied} updates, ${progress.skipped} skipped; loss scale ${progress.lossScale}`,
      ],
      ...(model === undefined ? [] : ([["model", describeModel(model)]] as const)),
      ["parameters", formatCount(weights.reduce((sum, { size }) => sum + size, 0))],
      ["state", `${plural(tensors.length, "tensor")}, ${formatBytes(bytes)}`],
      ...(missing.length === 0 ? [] : ([["missing", missing.join(", ")]] as const)),
    ]);
    return { json: { format: "checkpoint", folder, steps, ...rest, tensors, missing }, text };
  },
};

function describeModel(model: ModelConfig): string {
  if (model.architecture === "cnn") {
    const { channels, groups, imageShape, classes } = model;
    return `${model.architecture}: images ${imageShape.join(" x ")}, channels ${channels.join(", ")}, norms of ${groups} groups, ${classes} classes`;
  }
  const { architecture, nLayer, nEmbd, nHead, nKvHead, hiddenDim, vocabSize, sequenceLen } = model;
  return `${architecture}: ${nLayer} layers, ${nEmbd} wide, ${nHead} heads (${nKvHead} for keys), hidden ${hiddenDim}, vocabulary ${vocabSize}, window ${sequenceLen}`;
}
