// `anekit selftest`: everything that only the machine at hand can tell, group by group in processes of their own, to the end whatever they do.

import { resolve } from "node:path";
import { type Command, Option } from "commander";
import { chipNames, findChip } from "../chips/index.ts";
import { AbortedError, ConfigError, FileError, UnsupportedError } from "../core/errors.ts";
import { writeFileAtomic } from "../data/files.ts";
import type { EngineName } from "../engines/engine.ts";
import { aneFacts, engineNames, parseEngine } from "../engines/open.ts";
import { type CommandContext, jsonOption, openPatiently } from "./command.ts";
import { statPath } from "./files.ts";
import { colors, formatDuration, formatNumber, note, plural, print, printJson, table } from "./output.ts";
import { type Evidence, judgeFacts } from "./selftest/facts.ts";
import type { Group, Speed } from "./selftest/group.ts";
import { groups } from "./selftest/groups.ts";
import {
  type Machine,
  type Report,
  type ReportedGroup,
  readMachine,
  reportText,
  reportVersion,
  scrub,
  scrubber,
} from "./selftest/report.ts";
import { type CheckResult, type GroupResult, runGroup, type ServeCommand } from "./selftest/runner.ts";
import { serveGroup } from "./selftest/serve.ts";

interface Flags {
  readonly engine: string;
  readonly group?: readonly string[];
  readonly report?: string;
  readonly json?: true;
  readonly quick?: true;
  readonly serve?: string;
  readonly from?: string;
}

export function configure(command: Command, { signal }: CommandContext): void {
  command
    .description(
      "Verifies an engine on this machine: operators, state, training, errors, speed, and what is known of the hardware.\n" +
        "Each group runs in a process of its own; a crash or a hang is a result. Exits with 1 where something failed.",
    )
    .addOption(new Option("--engine <name>", `what is verified: auto, ${engineNames.join(", ")}`).default("ane"))
    .option("--group <names...>", `only these groups: ${groups.map(({ name }) => name).join(", ")}`)
    .option("--report <file>", "write everything that was seen to this JSON file, to attach to a bug report")
    .option("--quick", "fewer and smaller checks, a minute or so")
    .addOption(new Option("--serve <group>").hideHelp())
    .addOption(new Option("--from <check>").hideHelp())
    .addOption(jsonOption())
    .addHelpText("after", "\nExample:\n  anekit selftest --report selftest.json")
    .action((flags: Flags) => selftest(flags, signal));
}

async function selftest(flags: Flags, signal: AbortSignal): Promise<void> {
  const quick = flags.quick === true;
  if (flags.serve !== undefined) {
    const [group] = choose([flags.serve]);
    const name = flags.engine as EngineName;
    return serveGroup(group!, { engine: name, speed: speedOf(name), quick, signal }, Number(flags.from ?? 0));
  }
  const chosen = choose(flags.group);
  const engine = await nameEngine(flags.engine);
  const { report: file } = flags;
  if (file !== undefined) checkFolder(file); // a wrong name shows before the run, not after it
  const machine = await readMachine(findChipNamed, engine === "ane" ? process.env.ANEKIT_CHIP : undefined);
  const report = await runGroups(chosen, { engine, quick, signal, machine, json: flags.json === true });
  if (flags.json) {
    const { groups: _groups, ...rest } = report;
    printJson({ summary: rest });
  } else print(describe(report));
  if (file !== undefined) {
    await writeFileAtomic(file, reportText(report));
    note(`wrote ${file}; it names no person and no path`);
  }
  if (signal.aborted) throw new AbortedError("selftest", signal);
  if (report.summary.failed > 0) process.exitCode = 1;
}

/** Groups by name, in their order. @throws {ConfigError} listing them. */
function choose(names: readonly string[] | undefined): readonly Group[] {
  for (const name of names ?? []) {
    if (!groups.some((group) => group.name === name)) {
      throw new ConfigError(
        "--group",
        `there is no group "${name}"; groups: ${groups.map((each) => each.name).join(", ")}`,
      );
    }
  }
  return names === undefined ? groups : groups.filter(({ name }) => names.includes(name));
}

function findChipNamed(name: string) {
  const known = chipNames.find((each) => each === name);
  if (known === undefined) throw new ConfigError("ANEKIT_CHIP", `"${name}" is none of ${chipNames.join(", ")}`);
  return findChip(known);
}

/** The engine that is meant. @throws {UnsupportedError} for the Neural Engine where there is none: that is no finding. */
async function nameEngine(choice: string): Promise<EngineName> {
  const parsed = parseEngine(choice);
  if (parsed === "auto") {
    using engine = await openPatiently("auto");
    return engine.name;
  }
  if (parsed !== "ane" || process.env.ANEKIT_ESPRESSO) return parsed;
  if (process.platform === "darwin" && process.arch === "arm64") return parsed;
  const rosetta = process.platform === "darwin";
  throw new UnsupportedError(
    "selftest",
    `the Neural Engine cannot be reached from ${process.platform} ${process.arch}`,
    {
      remedy: `run it on a Mac with Apple silicon${rosetta ? " and Node's arm64 build" : ""}; --engine cpu verifies the CPU engine here`,
    },
  );
}

function checkFolder(file: string): void {
  const folder = resolve(file, "..");
  if (!statPath(folder).isDirectory()) throw new FileError(file, "its folder is not a folder");
}

interface RunSetting {
  readonly engine: EngineName;
  readonly quick: boolean;
  readonly signal: AbortSignal;
  readonly machine: Machine;
  readonly json: boolean;
}

/** True where what is seen is seen of the chip. */
function isHardware(engine: EngineName): boolean {
  return engine === "ane" && process.platform === "darwin" && process.arch === "arm64" && !process.env.ANEKIT_ESPRESSO;
}

function speedOf(engine: EngineName): Speed {
  if (engine === "cpu") return "native";
  return engine === "ane" && !process.env.ANEKIT_ESPRESSO ? "chip" : "plain";
}

/** The command line of this process, for one that serves a group. */
function serveCommand(engine: EngineName, quick: boolean): ServeCommand {
  const own = [...process.execArgv, process.argv[1]!, "selftest"];
  return (group, from) => ({
    file: process.execPath,
    args: [...own, "--serve", group, "--engine", engine, "--from", String(from), ...(quick ? ["--quick"] : [])],
  });
}

async function runGroups(chosen: readonly Group[], setting: RunSetting): Promise<Report> {
  const { engine, quick, signal, json } = setting;
  const command = serveCommand(engine, quick);
  const clean = scrubber();
  const started = performance.now();
  const results: GroupResult[] = [];
  for (const group of chosen) {
    if (signal.aborted) break;
    const showProgress = progressOf(group.name, json);
    const result = await runGroup(group, {
      command,
      quick,
      signal,
      onCheck(check, at, of) {
        if (json) printJson(scrub({ group: group.name, ...check }, clean));
        showProgress(check, at, of);
      },
    });
    results.push(result);
    note(`${group.name}: ${tally(result.checks)} in ${formatDuration(result.ms)}`);
  }
  return makeReport(results, setting, chosen.length === groups.length, performance.now() - started);
}

/** Says now and then on stderr how far a group is. */
function progressOf(name: string, json: boolean): (check: CheckResult, at: number, of: number) => void {
  let last = performance.now();
  if (!json) note(`${name} …`);
  return ({ status, what, name: check }, at, of) => {
    if (status === "failed") note(`${name}: ${check}: ${what ?? "failed"}`);
    if (performance.now() - last < 5000) return;
    last = performance.now();
    note(`${name} ${at}/${of}`);
  };
}

const isGood = ({ status }: CheckResult) => status === "passed" || status === "measured";

function tally(checks: readonly CheckResult[]): string {
  const failed = checks.filter(({ status }) => status === "failed").length;
  const skipped = checks.filter(({ status }) => status === "skipped").length;
  return `${checks.filter(isGood).length} passed, ${failed} failed, ${skipped} skipped`;
}

/** Major version of macOS. */
function majorOf({ macos }: Machine): number | null {
  const major = Number(macos?.version?.split(".")[0] ?? Number.NaN);
  return Number.isInteger(major) ? major : null;
}

async function makeReport(
  results: readonly GroupResult[],
  { engine, quick, signal, machine }: RunSetting,
  everything: boolean,
  ms: number,
): Promise<Report> {
  const hardware = isHardware(engine);
  const seen = results.find((result) => result.engine !== undefined)?.engine;
  const about = seen ?? { name: engine, reason: "it was not opened" };
  const examination = results.find((result) => result.examination !== undefined)?.examination ?? null;
  const evidence: Evidence = {
    groups: results,
    family: (machine.chip?.family ?? null) as Evidence["family"],
    macos: majorOf(machine),
    root: process.getuid?.() === 0,
    examination,
  };
  const checks = results.flatMap((result) => result.checks);
  const count = (status: CheckResult["status"]) => checks.filter((check) => check.status === status).length;
  return scrub<Report>({
    anekitSelftest: reportVersion,
    ...machine,
    engine: { ...about, hardware },
    examination,
    quick,
    complete: everything && !signal.aborted,
    groups: results.map(({ name, ms: groupMs, crashes, checks: list }) => ({
      name,
      ms: groupMs,
      crashes,
      checks: list,
    })),
    summary: { passed: checks.filter(isGood).length, failed: count("failed"), skipped: count("skipped"), ms },
    facts: hardware ? judgeFacts(await aneFacts(), evidence) : null,
    note: hardware
      ? "facts were held against what the Neural Engine of this machine did"
      : engine === "ane"
        ? "the engine ran through a stand-in for Apple's library: nothing about hardware was learned"
        : `engine "${engine}" is no Neural Engine: nothing about hardware was learned`,
  });
}

function describe({ groups: results, engine, summary, facts, note: remark }: Report): string {
  const rows = results.map(({ name, checks, ms }) => {
    const worst = checks.reduce<number | undefined>(
      (most, check) => (check.worst === undefined || (most ?? -1) >= check.worst ? most : check.worst),
      undefined,
    );
    const of = (status: CheckResult["status"]) => String(checks.filter((check) => check.status === status).length);
    return [
      name,
      String(checks.filter(isGood).length),
      of("failed"),
      of("skipped"),
      worst === undefined ? "-" : formatNumber(worst),
      formatDuration(ms),
    ];
  });
  const columns = ["passed", "failed", "skipped", "worst ULP", "time"].map((title) => ({
    title,
    align: "right" as const,
  }));
  const lines = [`engine ${engine.name}: ${engine.reason}`, "", table([{ title: "group" }, ...columns], rows)];
  const failed = results.flatMap(({ name, checks }) =>
    checks.filter(({ status }) => status === "failed").map((check) => [name, check.name, facets(check)]),
  );
  if (failed.length > 0) {
    lines.push("", colors.red("failed"), table([{ title: "group" }, { title: "check" }, { title: "what" }], failed));
  }
  const figures = headlines(results);
  if (figures.length > 0) lines.push("", ...figures);
  for (const verdict of ["confirmed", "contradicted", "not decided"] as const) {
    const those = facts?.filter((fact) => fact.verdict === verdict) ?? [];
    if (those.length === 0) continue;
    lines.push("", `${plural(those.length, "fact")} ${verdict}`);
    lines.push(
      table(
        [{ title: "fact" }, { title: verdict === "not decided" ? "why" : "seen", crop: true }],
        those.map(({ name, why }) => [name, why]),
      ),
    );
  }
  lines.push("", remark);
  lines.push(
    `${summary.passed} passed, ${summary.failed} failed, ${summary.skipped} skipped in ${formatDuration(summary.ms)}`,
  );
  return lines.join("\n");
}

/** What is known of a failure, on one line. */
function facets({ what, worst, bound, seen }: CheckResult): string {
  const error = worst === undefined ? "" : `; worst ${formatNumber(worst)} ULP of ${formatNumber(bound ?? 0)}`;
  const values = Object.entries(seen ?? {}).map(([key, value]) => `${key} ${String(value)}`);
  return `${what ?? ""}${error}${values.length > 0 ? `; ${values.join(", ")}` : ""}`;
}

/** The best figures of the groups that measure. */
function headlines(results: readonly ReportedGroup[]): string[] {
  const best = (group: string, key: string, pick: (...values: number[]) => number): string | undefined => {
    const values = results
      .filter(({ name }) => name === group)
      .flatMap(({ checks }) =>
        checks.flatMap(({ seen }) => (typeof seen?.[key] === "number" ? [seen[key] as number] : [])),
      );
    return values.length === 0 ? undefined : formatNumber(pick(...values));
  };
  const figures = [
    ["latency p50, least of its checks", best("latency", "p50Ms", Math.min), "ms"],
    ["bandwidth, most", best("bandwidth", "gigabytesPerSecond", Math.max), "GB/s"],
    ["peak, most", best("peak", "best", Math.max), "TFLOP/s"],
    ["compile of 1 operator or more, least", best("compile-time", "coldMs", Math.min), "ms"],
  ] as const;
  return figures.flatMap(([title, value, unit]) => (value === undefined ? [] : [`${title}: ${value} ${unit}`]));
}
