// The process that runs a group's checks: says on stdout what it begins and what came of it, so that its end tells where it ended.

import { writeSync } from "node:fs";
import { AnekitError, messageOf, UnsupportedError } from "../../core/errors.ts";
import type { Engine } from "../../engines/engine.ts";
import { examineNeuralEngine, openEngine } from "../../engines/open.ts";
import { toJson } from "../output.ts";
import { type Check, type Finding, type Group, type Setting, Wrong } from "./group.ts";
import type { Message } from "./runner.ts";

/** Writes at once: a process that crashes takes with it what its streams still hold. */
function say(message: Message): void {
  let left: Uint8Array = Buffer.from(`${toJson(message)}\n`);
  while (left.length > 0) {
    try {
      left = left.subarray(writeSync(1, left));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    }
  }
}

/** Runs the checks of a group from one on. */
export async function serveGroup(group: Group, setting: Setting, from: number): Promise<void> {
  const checks = group.checks(setting);
  say({ selftest: "checks", names: checks.map(({ name }) => name) });
  if (group.examines && setting.engine === "ane" && from === 0) await examine(setting.quick);
  using device = await openEngine(setting.engine);
  say({ selftest: "engine", engine: { name: device.name, reason: device.reason } });
  const most = setting.engine === "ane" ? (group.perProcess ?? checks.length) : checks.length;
  const end = Math.min(checks.length, from + most);
  for (let at = from; at < end; at++) {
    setting.signal.throwIfAborted();
    say({ selftest: "begin", at });
    const started = performance.now();
    const finding = await find(checks[at]!, { ...setting, device });
    const ms = performance.now() - started;
    say({ selftest: "end", at, ms, finding: finding as EndFinding });
  }
  say(end < checks.length ? { selftest: "next", at: end } : { selftest: "done" });
}

/** Has the library and the compiler asked, afresh where there is time, and says what they answered: also where the engine then does not open. */
async function examine(quick: boolean): Promise<void> {
  const progress = () => say({ selftest: "starting" });
  const { available, reason, symbols, probe } = await examineNeuralEngine(quick ? "once" : "fresh", progress);
  say({ selftest: "examined", examination: { available, reason, symbols: symbols ?? null, probe: probe ?? null } });
}

type EndFinding = Extract<Message, { selftest: "end" }>["finding"];

async function find(check: Check, bench: Setting & { readonly device: Engine }): Promise<Finding> {
  try {
    return await check.run(bench);
  } catch (error) {
    if (error instanceof Wrong) return error.finding;
    const message = messageOf(error);
    if (error instanceof UnsupportedError) return { status: "skipped", what: message };
    const kind =
      error instanceof AnekitError ? error.name : `not an error of anekit, ${String(error && (error as Error).name)}`;
    return { status: "failed", what: `${message} (${kind})` };
  }
}
