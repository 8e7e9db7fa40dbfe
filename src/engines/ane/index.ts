// Opens the Neural Engine: finds Espresso and the chip, asks the compiler what it takes (once for each chip and OS build), and says what was found.

import { rmSync } from "node:fs";
import { cpus } from "node:os";
import { isMainThread } from "node:worker_threads";
import { type Chip, chipFromBrand, findChip, floorChip } from "../../chips/index.ts";
import { messageOf, UnsupportedError } from "../../core/errors.ts";
import type { Engine } from "../engine.ts";
import { type CapturePlace, newRedirection, openSystem, releaseViewed, type System } from "../os/index.ts";
import { cacheFolder, describeSystem, libraryIdentity } from "../os/records.ts";
import { capabilitiesOf, type ProbeResult, readProbe, writeProbe } from "./capabilities.ts";
import { AneEngine } from "./engine.ts";
import { countSymbols, Espresso, espressoPath, type SymbolCensus } from "./espresso.ts";
import { newFolder, processFolder } from "./folders.ts";
import { pace, parsePace } from "./pace.ts";
import { probe, probeRevision, type Simulate } from "./probe.ts";

/** What the environment may ask for; see docs/ane.md. */
type Variable = "ANEKIT_ESPRESSO" | "ANEKIT_CHIP" | "ANEKIT_ANE_PACE" | "ANEKIT_CACHE_DIR" | "XDG_CACHE_HOME";
export type AneEnvironment = { readonly [K in Variable]?: string | undefined };

/** Why the Neural Engine is out of the question here; undefined where it is worth asking. */
export function absence({ ANEKIT_ESPRESSO }: AneEnvironment): string | undefined {
  if (ANEKIT_ESPRESSO) return undefined;
  if (process.platform !== "darwin") return `there is no Neural Engine on ${process.platform}`;
  if (process.arch !== "arm64")
    return "the Neural Engine is in Apple silicon; this is an Intel Mac, or Node built for one";
  return undefined;
}

/** The chip, and how it was recognised. */
function findThisChip(environment: AneEnvironment): { readonly chip: Chip; readonly how: string } {
  if (environment.ANEKIT_CHIP) return { chip: findChip(environment.ANEKIT_CHIP), how: "ANEKIT_CHIP" };
  const brand = cpus()[0]?.model.trim() ?? "";
  const chip = chipFromBrand(brand);
  if (chip !== undefined) return { chip, how: brand };
  return { chip: floorChip, how: `${brand || "unknown processor"}, taken for the oldest` };
}

/** What `doctor` shows. */
export interface AneState {
  readonly available: boolean;
  /** One line. */
  readonly reason: string;
  readonly chip?: string;
  readonly system?: string;
  readonly library?: string;
  readonly symbols?: SymbolCensus;
  readonly probe?: ProbeResult;
}

interface Found {
  readonly system: System;
  readonly path: string;
  readonly chip: Chip;
  readonly how: string;
  readonly os: string;
  /** What a probe's result is about. */
  readonly subject: readonly string[];
}

async function find(environment: AneEnvironment): Promise<Found> {
  const reason = absence(environment);
  if (reason !== undefined) throw new UnsupportedError("ane", reason, { remedy: 'use engine "cpu", "sim" or "auto"' });
  const path = espressoPath(environment.ANEKIT_ESPRESSO)!;
  const { chip, how } = findThisChip(environment);
  const os = await describeSystem();
  const subject = [chip.name, os, libraryIdentity(path), `probe ${probeRevision}`];
  return { system: await openSystem(), path, chip, how, os, subject };
}

export interface ProbeOptions {
  readonly simulate: Simulate;
  /** Asks again, whatever is kept. */
  readonly fresh?: boolean;
  readonly progress?: (name: string) => void;
}

/** Probes that are going on, by what they are about: two at once would disturb each other's compiles. */
const probing = new Map<string, Promise<ProbeResult>>();

function probeResult(found: Found, environment: AneEnvironment, options: ProbeOptions): Promise<ProbeResult> {
  const key = found.subject.join("\n");
  let result = probing.get(key);
  if (result === undefined) {
    result = readOrProbe(found, environment, options).finally(() => probing.delete(key));
    probing.set(key, result);
  }
  return result;
}

async function readOrProbe(
  { system, path, chip, subject }: Found,
  environment: AneEnvironment,
  { simulate, fresh = false, progress }: ProbeOptions,
): Promise<ProbeResult> {
  const folder = cacheFolder(environment);
  const kept = fresh ? undefined : readProbe(folder, subject);
  if (kept !== undefined) return kept;
  const { pauseMs } = parsePace(environment.ANEKIT_ANE_PACE);
  const result = await probe({
    library: path,
    folder: newFolder(ownPlaces(system).folder),
    chip,
    subject,
    simulate,
    pauseMs,
    ...(progress !== undefined && { progress }),
  });
  if (result.findings.at(-1)?.outcome === "refused") pace.failed(); // the compiler service begins anew
  writeProbe(folder, result);
  return result;
}

/**
 * Opens the engine.
 * @throws {UnsupportedError} where this machine has none, or the probe's programs did not come out right, {EngineError} where Espresso cannot be loaded.
 */
export async function createAne(reason: string, environment: AneEnvironment, options: ProbeOptions): Promise<Engine> {
  const found = await find(environment);
  const { system, path, chip, how, os } = found;
  const paceSettings = parsePace(environment.ANEKIT_ANE_PACE);
  const { capture, folder } = ownPlaces(system);
  const espresso = new Espresso(system, path, capture);
  const result = await probeResult(found, environment, options);
  if (!result.usable) {
    throw new UnsupportedError("ane", `the Neural Engine of ${chip.name} (${os}) is not used: ${result.reason}`, {
      chip: chip.name,
      remedy: "anekit doctor --probe asks again, anekit selftest --engine ane --report FILE finds out more",
    });
  }
  const { syntax, natives, aliasing } = result;
  const refused = Object.entries(natives).flatMap(([form, native]) => (native ? [] : [form]));
  const rewritten = refused.length === 0 ? "" : `, rewritten: ${refused.join(", ")}`;
  const facts = `${chip.name} (${how}), ${os}, ${syntax} MIL${rewritten}${aliasing ? "" : ", state copied"}`;
  return new AneEngine({
    reason: `${reason}; ${facts}`,
    espresso,
    chip,
    capabilities: capabilitiesOf(result),
    pace: paceSettings,
    folder,
  });
}

/** Where this thread keeps things: captures beside those of other threads, programs in a folder of its own. */
interface Places {
  readonly capture: CapturePlace;
  readonly folder: string;
}

let places: Places | undefined;

/** The places of this thread, removed at its end. */
function ownPlaces(system: System): Places {
  if (places === undefined) {
    const shared = processFolder();
    const folder = newFolder(shared);
    const redirection = newRedirection();
    process.once("exit", () => {
      system.endRedirection(redirection);
      releaseViewed(); // objects of the system's: nobody looks at them any more
      rmSync(isMainThread ? shared : folder, { recursive: true, force: true });
    });
    places = { capture: { folder: shared, redirection }, folder };
  }
  return places;
}

/** What there is, without opening anything for good. Never throws. */
export async function examineAne(environment: AneEnvironment, options?: ProbeOptions): Promise<AneState> {
  const absent = absence(environment);
  if (absent !== undefined) return { available: false, reason: absent };
  try {
    const found = await find(environment);
    const { system, path, chip, how, os, subject } = found;
    const facts = { chip: `${chip.name} (${how})`, system: os, library: path };
    let symbols: SymbolCensus;
    try {
      symbols = countSymbols(system.load(path));
    } catch (error) {
      return { available: false, reason: messageOf(error), ...facts };
    }
    if (symbols.needed.length > 0) {
      return { available: false, reason: `Espresso has no e5rt_${symbols.needed[0]}`, ...facts, symbols };
    }
    const kept = readProbe(cacheFolder(environment), subject);
    const result = options === undefined ? kept : await probeResult(found, environment, options);
    if (result === undefined) {
      const reason = "not probed yet: its first use, or anekit doctor --probe, asks the compiler";
      return { available: false, reason, ...facts, symbols };
    }
    return { available: result.usable, reason: result.reason, ...facts, symbols, probe: result };
  } catch (error) {
    return { available: false, reason: messageOf(error) };
  }
}
