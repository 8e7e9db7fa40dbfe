// When steps run and where their values lie: batches of independent steps, offsets in the arena.

import type { Arr, ReferenceCall } from "./graph.ts";
import type { X64 } from "./isa/x64.ts";

/** A piece of memory that a plan needs. */
export interface Storage {
  readonly kind: "arena" | "port" | "constant";
  readonly bytes: number;
  /** Name of a port. */
  readonly port?: string;
  /** Array of a constant. */
  readonly array?: Arr;
  /** True once a step uses it. */
  touched: boolean;
  /** First and last batch that uses it. */
  first: number;
  last: number;
  /** Offset in the arena or in the constants' memory. */
  offset: number;
  /** The storage that this one shares memory with. */
  shares?: Storage;
}

/** An address: a storage and bytes from its start. */
export interface Place {
  readonly storage: Storage;
  readonly offset: number;
}

/** A step in native code. */
export interface NativeStep {
  readonly kind: "native";
  readonly name: string;
  readonly key: string;
  emit(asm: X64): void;
  readonly tasks: number;
  readonly args: readonly Place[];
  /** Which of them it writes. */
  readonly writes: readonly boolean[];
  readonly scratchBytes: number;
  readonly bytes: number;
  readonly flops: number;
  /** Operators that it computes: primitives, most frequent first. */
  readonly parts: string;
}

/** A step that runs as a record's plain kernel. */
export interface ReferenceStep {
  readonly kind: "reference";
  readonly name: string;
  readonly call: ReferenceCall;
  readonly inputs: readonly (Place | undefined)[];
  readonly outputs: readonly Place[];
}

export type PlannedStep = NativeStep | ReferenceStep;

/** The storage whose memory this one takes. */
export function ownerOf(storage: Storage): Storage {
  let owner = storage;
  while (owner.shares !== undefined) owner = owner.shares;
  return owner;
}

const alignment = 64;

/** Bytes rounded up to whole cache lines. */
export const align = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/** Puts every step into the first batch in which all that it needs is there. Steps of a batch touch different memory, or only read it. */
export function batchesOf(
  steps: readonly PlannedStep[],
  storages: readonly Storage[],
  inPlace: ReadonlyMap<string, string | null>,
): number[][] {
  const inputs = new Set(inPlace.values());
  const inputStorage = new Map<string, Storage>();
  for (const storage of storages)
    if (storage.kind === "port" && inputs.has(storage.port!)) inputStorage.set(storage.port!, storage);
  // An output that takes an input's memory is the same memory.
  const memoryOf = (storage: Storage): Storage => {
    const input = storage.kind === "port" ? inPlace.get(storage.port!) : undefined;
    return inputStorage.get(input ?? "") ?? ownerOf(storage);
  };
  const lastWrite = new Map<Storage, number>();
  const lastRead = new Map<Storage, number>();
  const batches: number[][] = [];
  let fence = 0;
  for (const [at, step] of steps.entries()) {
    const native = step.kind === "native";
    const places = native ? step.args : [...step.inputs, ...step.outputs];
    const writes = (i: number) => (native ? step.writes[i]! : i >= step.inputs.length);
    // A reference step runs alone: native code ends before it.
    let batch = native ? fence : batches.length;
    for (const [i, place] of places.entries()) {
      if (place === undefined) continue;
      const memory = memoryOf(place.storage);
      batch = Math.max(batch, (lastWrite.get(memory) ?? -1) + 1);
      if (writes(i)) batch = Math.max(batch, (lastRead.get(memory) ?? -1) + 1);
    }
    for (const [i, place] of places.entries()) {
      if (place === undefined) continue;
      const memory = memoryOf(place.storage);
      const last = writes(i) ? lastWrite : lastRead;
      last.set(memory, Math.max(batch, last.get(memory) ?? -1));
      const owner = ownerOf(place.storage);
      owner.first = Math.min(owner.first, batch);
      owner.last = Math.max(owner.last, batch);
    }
    while (batches.length <= batch) batches.push([]);
    batches[batch]!.push(at);
    if (!native) fence = batches.length;
  }
  return batches;
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
