// When steps run and where their values lie: batches of independent steps, offsets in the arena and in the memory of constants.

import { ownerOf, type Storage } from "./memory.ts";
import type { PlannedStep } from "./steps.ts";

const alignment = 64;

/** Bytes rounded up to whole cache lines. */
const align = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/** What a step does to a piece of memory. */
interface Touch {
  readonly memory: Storage;
  readonly owner: Storage;
  readonly writes: boolean;
}

/**
 * Puts every step into the first batch in which all that it needs is there, and those that need nothing but inputs (weights that are packed) into
 * the last one before they are needed. Steps of a batch touch different memory, or only read it.
 */
export function batchesOf(
  steps: readonly PlannedStep[],
  storages: readonly Storage[],
  inPlace: ReadonlyMap<string, string | null>,
): number[][] {
  const inputs = new Set(inPlace.values());
  const inputStorage = new Map<string, Storage>();
  for (const storage of storages)
    if (storage.kind === "port" && inputs.has(storage.port!)) inputStorage.set(storage.port!, storage);
  const touches = steps.map((step): Touch[] => {
    const native = step.kind === "native";
    const places = native ? step.args : [...step.inputs, ...step.outputs];
    return places.flatMap((place, i) => {
      if (place === undefined) return [];
      const { storage } = place;
      // An output that takes an input's memory is the same memory.
      const input = storage.kind === "port" ? inPlace.get(storage.port!) : undefined;
      const owner = ownerOf(storage);
      const writes = native ? step.writes[i]! : i >= step.inputs.length;
      return [{ memory: inputStorage.get(input ?? "") ?? owner, owner, writes }];
    });
  });
  const lastWrite = new Map<Storage, number>();
  const lastRead = new Map<Storage, number>();
  const batchOf: number[] = [];
  let count = 0;
  let fence = 0;
  for (const [at, step] of steps.entries()) {
    const native = step.kind === "native";
    // A reference step runs alone: native code ends before it.
    let batch = native ? fence : count;
    for (const { memory, owner, writes } of touches[at]!) {
      if (writes && owner.ofParts) continue;
      batch = Math.max(batch, (lastWrite.get(memory) ?? -1) + 1);
      if (writes) batch = Math.max(batch, (lastRead.get(memory) ?? -1) + 1);
    }
    for (const { memory, writes } of touches[at]!) {
      const last = writes ? lastWrite : lastRead;
      last.set(memory, Math.max(batch, last.get(memory) ?? -1));
    }
    batchOf.push(batch);
    count = Math.max(count, batch + 1);
    if (!native) fence = count;
  }
  if (fence === 0) delay(touches, batchOf);
  const batches: number[][] = Array.from({ length: count }, () => []);
  for (const [at, batch] of batchOf.entries()) {
    batches[batch]!.push(at);
    for (const { owner } of touches[at]!) {
      owner.first = Math.min(owner.first, batch);
      owner.last = Math.max(owner.last, batch);
    }
  }
  return batches.filter((batch) => batch.length > 0);
}

/** Moves steps that read only ports and constants to the batch before the first that reads their results, unless what they read is replaced before. */
function delay(touches: readonly (readonly Touch[])[], batchOf: number[]): void {
  const firstRead = new Map<Storage, number>();
  const firstWrite = new Map<Storage, number>();
  const writers = new Map<Storage, number>();
  const earliest = (map: Map<Storage, number>, memory: Storage, batch: number) =>
    map.set(memory, Math.min(batch, map.get(memory) ?? Number.POSITIVE_INFINITY));
  for (const [at, list] of touches.entries()) {
    for (const { memory, writes } of list) {
      earliest(writes ? firstWrite : firstRead, memory, batchOf[at]!);
      if (writes) writers.set(memory, (writers.get(memory) ?? 0) + 1);
    }
  }
  for (const [at, list] of touches.entries()) {
    const results = list.filter(({ writes }) => writes);
    const operands = list.filter(({ writes }) => !writes);
    const early =
      operands.every(({ owner }) => owner.kind !== "arena") &&
      results.every(({ owner, memory }) => owner.kind === "arena" && (owner.ofParts || writers.get(memory) === 1));
    if (!early || results.length === 0) continue;
    const wanted = Math.min(...results.map(({ memory }) => firstRead.get(memory) ?? 0)) - 1;
    const replaced = Math.min(...operands.map(({ memory }) => firstWrite.get(memory) ?? Number.POSITIVE_INFINITY));
    if (wanted > batchOf[at]! && wanted < replaced) batchOf[at] = wanted;
  }
}

/** Offsets of the arena's storages: the largest first, each at the lowest place that is free while it lives. */
export function placeInArena(storages: readonly Storage[]): number {
  const owners = storages.filter(({ kind, shares, last }) => kind === "arena" && shares === undefined && last >= 0);
  owners.sort((a, b) => b.bytes - a.bytes || a.first - b.first);
  const placed: Storage[] = [];
  let end = 0;
  for (const storage of owners) {
    const size = align(storage.bytes);
    const others = placed.filter((other) => other.first <= storage.last && storage.first <= other.last);
    others.sort((a, b) => a.offset - b.offset);
    let offset = 0;
    for (const other of others) {
      if (offset + size <= other.offset) break;
      offset = Math.max(offset, other.offset + align(other.bytes));
    }
    storage.offset = offset;
    end = Math.max(end, offset + size);
    placed.push(storage);
  }
  for (const storage of storages) {
    storage.offset = ownerOf(storage).offset;
  }
  return end;
}

/** Offsets of constants; those that only packing reads are apart, to be given up once they are packed. Bytes of both. */
export function placeConstants(
  storages: readonly Storage[],
  steps: readonly PlannedStep[],
): { constantBytes: number; sourceBytes: number } {
  const read = new Set(
    steps.flatMap((step) => (step.kind === "native" ? step.args : step.inputs)).map((place) => place?.storage),
  );
  let [constantBytes, sourceBytes] = [0, 0];
  for (const storage of storages) {
    if (storage.kind !== "constant") continue;
    storage.isSource = !read.has(storage);
    if (storage.isSource && storage.array === undefined) continue; // another product's packed copy took its place
    if (storage.isSource) {
      storage.offset = sourceBytes;
      sourceBytes += align(storage.bytes);
    } else {
      storage.offset = constantBytes;
      constantBytes += align(storage.bytes);
    }
  }
  return { constantBytes, sourceBytes };
}
