// `anekit bench`: our programs beside other libraries' and beside what the machine can do at most, measured in turns within the same minutes.

import { availableParallelism, cpus } from "node:os";
import { setTimeout } from "node:timers/promises";
import { type Command, Option } from "commander";
import * as v from "valibot";
import { AbortedError, ConfigError, EngineError } from "../core/errors.ts";
import { type Limits, machineLimits } from "../engines/open.ts";
import { caseSchema, prepareCase } from "./bench-cases.ts";
import {
  type Answer,
  limitsCase,
  type Measured,
  Missing,
  type PeerSpec,
  type Setting,
  serve,
  serveLimits,
  startOurs,
  startPeer,
} from "./bench-process.ts";
import { type Comparison, comparisons, type OursSpec, type Unit, units } from "./bench-rows.ts";
import { type CommandContext, engineOption, jsonOption, openNamedEngine } from "./command.ts";
import { clean, colors, complain, formatBytes, note, print, printJson } from "./output.ts";

/** One line of the result. Numbers are in `unit`; `null` where there is no peer, or no limit of the machine is known. */
export interface BenchRow {
  readonly name: string;
  readonly ours: number;
  readonly peer: number | null;
  readonly peerName: string | null;
  readonly unit: Unit;
  /** Ours over the peer's. */
  readonly ratio: number | null;
  /** What the machine allows. */
  readonly floor: number | null;
  /** How much of that ours reaches, 0 to 1. */
  readonly share: number | null;
  /** Least and most of the rounds. */
  readonly spread: readonly [number, number];
  readonly peerSpread: readonly [number, number] | null;
  /** Largest resident set of the process, bytes. */
  readonly memory: number;
  readonly peerMemory: number | null;
  /** Seconds until it was ready to run: loading, building, compiling. */
  readonly prepare: number;
  readonly peerPrepare: number | null;
  readonly rounds: number;
  /** How much of the cores other processes took in the worst of them, 0 to 1: far above 0.1, run it again. */
  readonly others: number;
  readonly threads: number;
  readonly engine: string;
}

interface BenchFlags {
  readonly engine: string;
  readonly json?: true;
  readonly tiny?: true;
  readonly rounds?: number;
  readonly serve?: string;
}

const machineName = "machine";
/** Other libraries' idle threads spin up to 30 ms (ONNX Runtime; libgomp 5, OpenBLAS as it is told) before they leave their core to the next in turn. */
const pauseMs = 60;
/** A turn repeats what is measured until it has lasted about this long. */
const turnSeconds = 0.15;
/** Time for the rounds of one comparison; at least `leastRounds` are made. */
const budgetSeconds = 20;
const [leastRounds, mostRounds] = [5, 15];
/** A round is quiet in which other processes took less than this part of the cores. */
const quiet = 0.1;
/** A row is worth nothing whose best rounds were this disturbed. */
const loud = 0.25;
/** Rounds that may be made for each one wanted, until enough of them were quiet. */
const mostAttempts = 3;

export function configure(command: Command, { signal }: CommandContext): void {
  command
    .description(
      "Measures programs beside other libraries and the machine's limits, in turns, one row per comparison.\n" +
        'The libraries are optional: "npm run bench" in anekit\'s repository installs them.',
    )
    .argument("[name]", "one comparison, or all whose names start with it and a slash")
    .addOption(engineOption())
    .option("--tiny", "shapes that take no time, to try the command itself")
    .addOption(new Option("--rounds <count>", "rounds of each comparison").argParser(parseRounds))
    .addOption(new Option("--serve <case>").hideHelp())
    .addOption(jsonOption())
    .action((name: string | undefined, flags: BenchFlags) => bench(name, flags, signal));
}

function parseRounds(text: string): number {
  const rounds = Number(text);
  if (!Number.isInteger(rounds) || rounds < 1) throw new ConfigError("--rounds", `"${text}" is not a positive integer`);
  return rounds;
}

/** Comparisons by name or by the first parts of their names. @throws {ConfigError} listing what there is. */
function choose(name: string | undefined, all: readonly Comparison[]): Comparison[] {
  const chosen = all.filter((each) => name === undefined || each.name === name || each.name.startsWith(`${name}/`));
  if (chosen.length > 0 || name === machineName) return chosen;
  const groups = new Set([machineName, ...all.map((each) => each.name.split("/")[0]!)]);
  throw new ConfigError("bench", `there is no comparison "${name}"; there are: ${[...groups].join(", ")}`);
}

async function bench(name: string | undefined, flags: BenchFlags, signal: AbortSignal): Promise<void> {
  if (flags.serve === limitsCase) return printJson(await machineLimits(flags.tiny === true));
  if (flags.serve !== undefined) return serveCase(flags.serve, flags.engine);
  const threads = Number(process.env.ANEKIT_THREADS) || availableParallelism();
  const chosen = choose(name, comparisons(flags.tiny === true, threads));
  const engine = await namedEngine(flags, chosen);
  const report = new Report(flags.json === true);
  const bounded = name === machineName || chosen.some(({ floor }) => floor !== undefined);
  const machine = bounded ? await limits(flags.tiny === true, { threads, signal }) : undefined;
  if (machine !== undefined && (name === undefined || name === machineName)) report.machine(machine);
  const missing = new Map<string, string>();
  const failed: string[] = [];
  const disturbed = new Set<string>();
  for (const comparison of chosen) {
    if (signal.aborted) throw new AbortedError("bench", signal);
    const setting = { engine, threads: comparison.threads ?? threads, signal };
    try {
      for (const row of await compare(comparison, setting, machine, flags.rounds, missing)) {
        report.row(row);
        if (row.others > loud) disturbed.add(row.name);
      }
    } catch (error) {
      // One that our engine cannot run leaves the others.
      if (!(error instanceof Missing || error instanceof EngineError)) throw error;
      complain(`${comparison.name}: ${error.message}`);
      failed.push(comparison.name);
    }
  }
  for (const [library, why] of missing)
    note(`peer not installed: ${library} (${why}); in anekit's repository "npm run bench" installs it`);
  if (disturbed.size > 0) {
    // Threads that wait for each other by spinning suffer most, so such a ratio is not even a fair one.
    note(`other processes had more than ${100 * loud} % of the cores, do not quote: ${[...disturbed].join(", ")}`);
  }
  if (failed.length > 0) throw new EngineError("bench", `not measured: ${failed.join(", ")}`);
}

/** Name of the engine that is measured. @throws {ConfigError} where real shapes would take the simulator hours. */
async function namedEngine({ engine: choice, tiny }: BenchFlags, chosen: readonly Comparison[]): Promise<string> {
  using engine = await openNamedEngine(choice);
  if (engine.name === "sim" && tiny === undefined && chosen.length > 0)
    throw new ConfigError("bench", "the simulator is exact, not fast, and takes hours for these; add --tiny");
  return engine.name;
}

/** The machine's limits, where they can be measured. */
async function limits(tiny: boolean, setting: Omit<Setting, "engine">): Promise<Limits | undefined> {
  try {
    return await serveLimits(tiny, setting);
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    note(`the machine's limits are not known: ${error.message}`);
    return undefined;
  }
}

/** The side of ours, in its own process. */
async function serveCase(text: string, engine: string): Promise<void> {
  const started = performance.now();
  const { work, engine: name } = await prepareCase(v.parse(caseSchema, JSON.parse(text)), engine);
  await work(); // the first run binds buffers and touches memory
  await serve(`anekit ${name}`, work, started);
}

/** One of those who take turns. */
interface Contestant {
  readonly title: string;
  readonly measured: Measured;
  repetitions: number;
  /** Processor time up to its last answer, seconds. */
  cpu: number;
}

/** An answer, and how much of the cores other processes took meanwhile, 0 to 1. */
interface Turn extends Answer {
  readonly others: number;
}

/** Everybody's turn, in their order. */
interface Round {
  readonly turns: readonly Turn[];
  readonly others: number;
}

async function compare(
  comparison: Comparison,
  setting: Setting,
  machine: Limits | undefined,
  wantedRounds: number | undefined,
  missing: Map<string, string>,
): Promise<BenchRow[]> {
  note(`${comparison.name} …`);
  const all: Contestant[] = [];
  const join = async (title: string, starting: Promise<Measured>) => {
    all.push({ title, measured: await starting, repetitions: 1, cpu: 0 });
  };
  try {
    await join("anekit", startOurs(comparison.ours, setting));
    for (const peer of comparison.against) {
      if (isOurs(peer)) {
        const other = { ...setting, ...(peer.threads !== undefined && { threads: peer.threads }) };
        await join(peer.title, startOurs(peer.ours, other));
      } else if (!missing.has(peer.library)) {
        try {
          await join(peer.title, startPeer(peer, setting));
        } catch (error) {
          if (!(error instanceof Missing)) throw error;
          missing.set(peer.library, error.message);
        }
      }
    }
    return rowsOf(comparison, setting, machine, all, await takeTurns(all, wantedRounds, setting.signal));
  } finally {
    await Promise.all(all.map(({ measured }) => measured.close()));
  }
}

function rowsOf(
  { name, unit, against, work = 0, floor }: Comparison,
  { threads, engine }: Setting,
  machine: Limits | undefined,
  all: readonly Contestant[],
  rounds: readonly Round[],
): BenchRow[] {
  const show = (seconds: number) => units[unit](seconds, work);
  const result = (one: Contestant) => {
    const answers = rounds.map(({ turns }) => turns[all.indexOf(one)]!);
    const times = answers.map(({ seconds }) => seconds);
    const ends = [show(Math.min(...times)), show(Math.max(...times))].sort((a, b) => a - b) as [number, number];
    const memory = Math.max(...answers.map((answer) => answer.memory));
    return { seconds: median(times), spread: ends, memory, prepare: one.measured.prepare };
  };
  const [ours, ...peers] = all;
  const mine = result(ours!);
  const value = show(mine.seconds);
  const least = machine && floor?.(machine);
  const row = (peer: Contestant | undefined): BenchRow => {
    const theirs = peer && result(peer);
    const absent = against.length > 0 ? against.map(({ title }) => title).join(", ") : null;
    const named = peer === undefined ? absent : peer.title.startsWith("ours") ? peer.title : peer.measured.name;
    return {
      name,
      ours: value,
      peer: theirs === undefined ? null : show(theirs.seconds),
      peerName: named,
      unit,
      ratio: theirs === undefined ? null : value / show(theirs.seconds),
      floor: least === undefined ? null : show(least),
      share: least === undefined ? null : least / mine.seconds,
      spread: mine.spread,
      peerSpread: theirs?.spread ?? null,
      memory: mine.memory,
      peerMemory: theirs?.memory ?? null,
      prepare: mine.prepare,
      peerPrepare: theirs?.prepare ?? null,
      rounds: rounds.length,
      others: Math.max(...rounds.map(({ others }) => others)),
      threads,
      engine,
    };
  };
  return peers.length === 0 ? [row(undefined)] : peers.map(row);
}

const isOurs = (spec: PeerSpec | OursSpec): spec is OursSpec => "ours" in spec;

/** Everybody in turn, again and again. @returns the rounds that count, each with everybody's answer. */
async function takeTurns(
  all: readonly Contestant[],
  wanted: number | undefined,
  signal: AbortSignal,
): Promise<Round[]> {
  const turn = async (one: Contestant) => {
    if (all.length > 1) await setTimeout(pauseMs, undefined, { signal });
    const before = busySeconds();
    const started = performance.now();
    const answer = await one.measured.measure(one.repetitions, signal);
    const coreSeconds = ((performance.now() - started) / 1000) * cpus().length;
    const others = (busySeconds() - before - (answer.cpu - one.cpu)) / coreSeconds;
    one.cpu = answer.cpu;
    return { ...answer, others: Math.max(0, Math.min(1, others)) };
  };
  let roundSeconds = 0;
  for (const one of all) {
    // Twice: what a first call costs is not what a turn costs.
    for (let attempt = 0; attempt < 2; attempt++) {
      const { seconds } = await turn(one);
      one.repetitions = Math.max(1, Math.min(100_000, Math.round(turnSeconds / Math.max(seconds, 1e-9))));
      if (attempt === 1) roundSeconds += seconds * one.repetitions + pauseMs / 1000;
    }
  }
  const count = wanted ?? Math.max(leastRounds, Math.min(mostRounds, Math.floor(budgetSeconds / roundSeconds)));
  const rounds: Round[] = [];
  // Rounds in which other processes had the cores are made again, and count only where there are no better ones.
  while (rounds.filter(({ others }) => others < quiet).length < count && rounds.length < mostAttempts * count) {
    const turns: Turn[] = [];
    for (const one of all) turns.push(await turn(one));
    rounds.push({ turns, others: Math.max(...turns.map(({ others }) => others)) });
  }
  return rounds.sort((a, b) => a.others - b.others).slice(0, count);
}

/** Processor time that all processes together have used. */
function busySeconds(): number {
  return cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0) / 1000;
}

function median(list: readonly number[]): number {
  const sorted = [...list].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

const titles = ["name", "ours", "peer", "unit", "ratio", "share", "spread", "others", "memory", "peer's name"] as const;
const widths = [30, 9, 9, 7, 6, 6, 7, 7, 18, 0] as const;

/** Prints rows as they come. */
class Report {
  readonly #json: boolean;
  #begun = false;

  constructor(json: boolean) {
    this.#json = json;
  }

  #line(cells: readonly string[], paint = (text: string) => text): void {
    const padded = cells.map((cell, at) =>
      at === 0 || at === titles.length - 1 ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!),
    );
    print(paint(padded.map(clean).join(" ").trimEnd()));
  }

  row(row: BenchRow): void {
    if (this.#json) return printJson(row);
    if (!this.#begun) this.#line(titles, colors.dim);
    this.#begun = true;
    const number = (value: number | null) => (value === null ? "-" : String(Number(value.toPrecision(4))));
    const percent = (value: number) => `${Math.round(100 * value)} %`;
    const spread = (row.spread[1] - row.spread[0]) / row.ours / 2;
    const memory = row.peerMemory === null ? "" : ` / ${formatBytes(row.peerMemory)}`;
    this.#line([
      row.name,
      number(row.ours),
      number(row.peer),
      row.unit.split(" ")[0]!,
      row.ratio === null ? "-" : row.ratio.toFixed(2),
      row.share === null ? "-" : percent(row.share),
      `±${percent(spread)}`,
      percent(row.others),
      formatBytes(row.memory) + memory,
      row.peer === null && row.peerName !== null ? `${row.peerName} not installed` : (row.peerName ?? ""),
    ]);
  }

  machine(machine: Limits): void {
    if (this.#json) return printJson({ name: machineName, ...machine });
    const rates = [
      ...Object.entries(machine.flops).map(([isa, rate]) => `${isa} ${(rate / 1e9).toFixed(0)} GFLOP/s`),
      ...Object.entries(machine.bytes).map(([kind, rate]) => `${kind} ${(rate / 1e9).toFixed(1)} GB/s`),
    ];
    print(clean(`${machine.cpu}, ${machine.threads} threads: ${rates.join(", ")}`));
  }
}
