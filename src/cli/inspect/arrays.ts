// Inspection of files that hold arrays: .npy, .safetensors, and the weight files of MIL programs.

import { sizeOf } from "../../core/shape.ts";
import { openSafetensors } from "../../data/index.ts";
import { listBlobs } from "../../mil/blob.ts";
import { readNpy, readRegularFile } from "../files.ts";
import { fields, formatBytes, formatCount, formatNumber, plural, table } from "../output.ts";
import { statisticsOf } from "../statistics.ts";
import type { Recogniser } from "./recogniser.ts";

function startsWith(head: Uint8Array, bytes: readonly number[]): boolean {
  return bytes.every((byte, at) => head[at] === byte);
}

export const npy: Recogniser = {
  format: ".npy array",
  matches: (subject) => subject.kind === "file" && startsWith(subject.head, [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]),
  inspect({ path }) {
    const array = statisticsOf(readNpy(path));
    const number = (value: number | null) => (value === null ? "-" : formatNumber(value));
    const text = fields([
      ["file", ".npy array"],
      ["dtype", array.dtype],
      ["shape", `[${array.shape.join(", ")}], ${plural(sizeOf(array.shape), "element")}`],
      ["range", `${number(array.min)} to ${number(array.max)}, mean ${number(array.mean)}`],
      ...(array.nonFinite > 0 ? [["not finite", plural(array.nonFinite, "value")] as const] : []),
      ["values", array.first.map(formatNumber).join(" ") + (sizeOf(array.shape) > array.first.length ? " …" : "")],
    ]);
    return { json: { format: "npy", ...array }, text };
  },
};

export const safetensors: Recogniser = {
  format: ".safetensors file",
  matches(subject) {
    if (subject.kind !== "file") return false;
    const { head, path } = subject;
    // 8 bytes of header length, below 2^32 in any real file, then a JSON object; a damaged one is known by its name.
    return path.endsWith(".safetensors") || (startsWith(head.subarray(4), [0, 0, 0, 0]) && head[8] === 0x7b);
  },
  async inspect({ path }) {
    await using file = await openSafetensors(path);
    const tensors = [...file.tensors.values()];
    const parameters = tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    const sizeBytes = tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
    const rows = tensors.map(({ name, dtype, shape, sizeBytes }) => [
      name,
      dtype,
      `[${shape.join(", ")}]`,
      formatBytes(sizeBytes),
    ]);
    const columns = [
      { title: "tensor" },
      { title: "dtype" },
      { title: "shape" },
      { title: "size", align: "right" },
    ] as const;
    const metadata = [...file.metadata].map(([key, value]) => `${key} = ${value}`);
    const summary = fields([
      ["file", `.safetensors, ${plural(tensors.length, "tensor")}`],
      ["parameters", `${formatCount(parameters)} (${parameters}), ${formatBytes(sizeBytes)}`],
      ...(metadata.length > 0 ? [["metadata", metadata] as const] : []),
    ]);
    return {
      json: {
        format: "safetensors",
        parameters,
        sizeBytes,
        metadata: Object.fromEntries(file.metadata),
        tensors: tensors.map(({ name, dtype, shape, sizeBytes }) => ({ name, dtype, shape, sizeBytes })),
      },
      text: rows.length === 0 ? summary : `${summary}\n\n${table(columns, rows)}`,
    };
  },
};

export const weights: Recogniser = {
  format: "weight file of a MIL program",
  matches(subject) {
    if (subject.kind !== "file" || subject.head.length < 64) return false;
    const view = new DataView(subject.head.buffer, subject.head.byteOffset, subject.head.length);
    const isEmpty = view.getUint32(0, true) === 0 && subject.sizeBytes === 64;
    const hasRecord = subject.head.length >= 68 && view.getUint32(64, true) === 0xdeadbeef;
    return view.getUint32(4, true) === 2 && (isEmpty || hasRecord);
  },
  inspect({ path }) {
    const blobs = listBlobs(readRegularFile(path), path);
    const sizeBytes = blobs.reduce((sum, blob) => sum + blob.sizeBytes, 0);
    const rows = blobs.map((blob) => [String(blob.offset), blob.dtype, formatBytes(blob.sizeBytes)]);
    const columns = [
      { title: "offset", align: "right" },
      { title: "dtype" },
      { title: "size", align: "right" },
    ] as const;
    const summary = fields([
      ["file", `weight file of a MIL program, ${plural(blobs.length, "blob")}, ${formatBytes(sizeBytes)}`],
    ]);
    return {
      json: { format: "weights", sizeBytes, blobs },
      text: rows.length === 0 ? summary : `${summary}\n\n${table(columns, rows)}`,
    };
  },
};
