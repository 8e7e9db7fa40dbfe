// Inside a process that start.ts started: the double's own functions, the engine that plays the chip's part in comparisons, and what is left over.

import type { AneEngine } from "../../src/engines/ane/engine.ts";
import { createSim } from "../../src/engines/sim/index.ts";
import { type Engine, openEngine } from "../../src/index.ts";
import { legalize } from "../../src/passes/legalize.ts";
import { Raw } from "./double/raw.ts";

export const raw = new Raw(process.env.ANEKIT_ESPRESSO!);

export async function openAne(): Promise<AneEngine> {
  return (await openEngine("ane")) as AneEngine;
}

/**
 * What the engine must compute, bit for bit: the simulator on the programs that the chip gets. It calls itself "ane", so that training and
 * generation build the same programs for it.
 */
export function reference({ chip, capabilities }: AneEngine): Engine {
  const sim = createSim("reference");
  return {
    name: "ane",
    reason: "reference",
    allocate: (aval) => sim.allocate(aval),
    load: async (program, options) => sim.load(legalize(program, chip, capabilities.dialect), options),
    [Symbol.dispose]() {},
  };
}

export const wait = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

/** "ok", or class and message of the error. */
export const outcome = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "ok",
    (error: Error) => `${error.constructor.name}: ${error.message}`,
  );

/** The same of a call. */
export function outcomeOf(call: () => unknown): string {
  try {
    call();
    return "ok";
  } catch (error) {
    return `${(error as Error).constructor.name}: ${(error as Error).message}`;
  }
}

/** Lets finalizers run, and hands out what the double then still has: violations, live objects, pools. */
export async function leftover(): Promise<string[]> {
  for (let turn = 0; turn < 8; turn++) {
    (globalThis as { gc?: () => void }).gc?.();
    await wait(turn < 4 ? 0 : 20);
    if (raw.report().length === 0) break;
  }
  return raw.report();
}

export function print(line: unknown): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
