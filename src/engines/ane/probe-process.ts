// The process that runs a probe's programs: whatever they do to it, the process that asked goes on.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../../core/errors.ts";
import { answerRequests } from "../os/child.ts";
import { newRedirection, openSystem } from "../os/index.ts";
import { BoundStream, buildUnit, type PortBinding, releaseUnit } from "./build.ts";
import { Espresso } from "./espresso.ts";
import { newFolder } from "./folders.ts";

/** A program to run, as files and bytes. */
export interface ProbeRequest {
  readonly mil: string;
  readonly weights: Uint8Array;
  readonly inputs: Readonly<Record<string, Uint8Array>>;
  /** Bytes of each output. */
  readonly outputs: Readonly<Record<string, number>>;
  /** Outputs that are stored into the buffer of an input. */
  readonly aliases: Readonly<Record<string, string>>;
  readonly runs: number;
}

export type ProbeAnswer = { readonly outputs: Readonly<Record<string, Uint8Array>> } | { readonly error: string };

const [library, folder] = process.argv.slice(3) as [string, string];
const system = await openSystem();
const espresso = new Espresso(system, library, { folder, redirection: newRedirection() });

function run({ mil, weights, inputs, outputs, aliases, runs }: ProbeRequest): ProbeAnswer {
  const place = newFolder(folder);
  const files = { mil: join(place, "model.mil"), cache: join(place, "cache") };
  mkdirSync(files.cache);
  writeFileSync(files.mil, mil);
  if (weights.length > 0) writeFileSync(join(place, "weights.bin"), weights);
  const unit = buildUnit(espresso, files);
  const buffers = new Map(Object.entries(inputs).map(([name, bytes]) => [name, espresso.buffer(bytes.length)]));
  for (const [name, bytes] of Object.entries(inputs)) buffers.get(name)!.memory.bytes.set(bytes);
  for (const [name, bytes] of Object.entries(outputs)) {
    const alias = aliases[name];
    buffers.set(name, alias === undefined ? espresso.buffer(bytes) : buffers.get(alias)!);
  }
  const port = (direction: PortBinding["direction"]) => (name: string) => ({
    name,
    direction,
    buffer: buffers.get(name)!.handle,
  });
  const ports = [...Object.keys(inputs).map(port("input")), ...Object.keys(outputs).map(port("output"))];
  const bound = new BoundStream(espresso, [{ operation: unit, ports }]);
  for (let at = 0; at < runs; at++) espresso.execute(bound.stream);
  const results = Object.keys(outputs).map((name) => [name, buffers.get(name)!.memory.bytes.slice()]);
  bound.release();
  espresso.pooled(() => releaseUnit(espresso, unit));
  for (const { memory } of new Set(buffers.values())) memory.release();
  return { outputs: Object.fromEntries(results) };
}

answerRequests(
  (seconds) => system.endAfter(seconds),
  (request: ProbeRequest): ProbeAnswer => {
    try {
      return run(request);
    } catch (error) {
      return { error: messageOf(error) };
    }
  },
);
