// Runs a group of checks in processes of its own. A crash, a hang or a wrong value is a result of the check in which it happens; the next process goes on behind it.

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import * as v from "valibot";
import { messageOf } from "../../core/errors.ts";
import { type Finding, type Group, type Status, statuses } from "./group.ts";

/** A number, or one that JSON lacks as its name. */
export const numberSchema = v.union([
  v.number(),
  v.pipe(v.picklist(["NaN", "Infinity", "-Infinity"]), v.transform(Number)),
]);
export const seenSchema = v.record(
  v.string(),
  v.union([numberSchema, v.pipe(v.array(numberSchema), v.readonly()), v.boolean(), v.string()]),
);
const findingSchema = v.object({
  status: v.exactOptional(v.picklist(statuses)),
  what: v.exactOptional(v.string()),
  worst: v.exactOptional(numberSchema),
  bound: v.exactOptional(numberSchema),
  seen: v.exactOptional(seenSchema),
});

/** What the engine says of itself. */
export const engineSchema = v.object({ name: v.string(), reason: v.string() });
export type EngineSeen = v.InferOutput<typeof engineSchema>;

const texts = v.pipe(v.array(v.string()), v.readonly());

/** What the Neural Engine's library and compiler answered before any program of ours ran; null where they were not asked. */
export const examinationSchema = v.object({
  available: v.boolean(),
  reason: v.string(),
  /** Functions of the library: how many of the known ones there are, which are missing, and which of those are needed. */
  symbols: v.nullable(v.object({ found: v.number(), missing: texts, needed: texts })),
  probe: v.nullable(
    v.object({
      usable: v.boolean(),
      syntax: v.string(),
      natives: v.record(v.string(), v.boolean()),
      aliasing: v.boolean(),
      findings: v.pipe(
        v.array(v.object({ name: v.string(), outcome: v.string(), detail: v.string(), ms: v.number() })),
        v.readonly(),
      ),
    }),
  ),
});
export type Examination = v.InferOutput<typeof examinationSchema>;

/** What a serving process says, one object a line; whatever else stands on its stdout is somebody else's. */
export const messageSchema = v.variant("selftest", [
  v.object({ selftest: v.literal("checks"), names: v.array(v.string()) }),
  /** Something goes on that may take as long as starting did. */
  v.object({ selftest: v.literal("starting") }),
  v.object({ selftest: v.literal("examined"), examination: examinationSchema }),
  v.object({ selftest: v.literal("engine"), engine: engineSchema }),
  v.object({ selftest: v.literal("begin"), at: v.number() }),
  v.object({ selftest: v.literal("end"), at: v.number(), ms: v.number(), finding: findingSchema }),
  /** The next process goes on here. */
  v.object({ selftest: v.literal("next"), at: v.number() }),
  v.object({ selftest: v.literal("done") }),
]);
export type Message = v.InferOutput<typeof messageSchema>;

/** A check and what came of it. */
export interface CheckResult extends Finding {
  readonly name: string;
  readonly status: Status;
  readonly ms: number;
}

export interface GroupResult {
  readonly name: string;
  readonly ms: number;
  readonly checks: readonly CheckResult[];
  readonly engine: EngineSeen | undefined;
  readonly examination: Examination | undefined;
  /** Processes that ended on their own in the middle of a check, or did not answer in time. */
  readonly crashes: number;
}

/** The command that serves a group from a check on. */
export type ServeCommand = (group: string, from: number) => { readonly file: string; readonly args: readonly string[] };

export interface RunnerSettings {
  readonly command: ServeCommand;
  readonly quick: boolean;
  readonly signal: AbortSignal;
  /** Called with each result as it comes. */
  readonly onCheck?: (result: CheckResult, at: number, count: number) => void;
  /** Seconds until a process must have opened the engine. */
  readonly startSeconds?: number;
}

/** Processes of one group that may end badly. */
const mostCrashes = 12;

/** How one process ended. */
interface Ending {
  readonly how: "done" | "next" | "ended" | "late" | "aborted" | "out of time";
  /** What the process left to say where it ended badly. */
  readonly text: string;
}

export async function runGroup(
  { name, checkSeconds, seconds }: Pick<Group, "name" | "checkSeconds" | "seconds">,
  { command, quick, signal, onCheck, startSeconds = 240 }: RunnerSettings,
): Promise<GroupResult> {
  const started = performance.now();
  /** Counted from the first check on: opening an engine for the first time may take minutes. */
  let deadline = Number.POSITIVE_INFINITY;
  let names: readonly string[] = [];
  let engine: EngineSeen | undefined;
  let examination: Examination | undefined;
  const checks: CheckResult[] = [];
  let crashes = 0;
  const add = (result: CheckResult) => {
    checks.push(result);
    onCheck?.(result, checks.length, Math.max(names.length, checks.length));
  };
  const skipRest = (what: string) => {
    for (const left of names.slice(checks.length)) add({ name: left, status: "skipped", what, ms: 0 });
  };

  for (;;) {
    const from = checks.length;
    let running: { readonly at: number; readonly since: number } | undefined;
    const ending = await watch(
      command(name, from),
      signal,
      (message, limit) => {
        if (message.selftest === "checks") names = message.names;
        else if (message.selftest === "engine") engine = message.engine;
        else if (message.selftest === "examined") examination = message.examination;
        else if (message.selftest === "starting") limit(performance.now() + 1000 * startSeconds);
        else if (message.selftest === "begin") {
          running = { at: message.at, since: performance.now() };
          if (checks.length === 0) deadline = running.since + 1000 * (quick ? seconds.quick : seconds.full);
          limit(Math.min(running.since + 1000 * checkSeconds, deadline));
        } else if (message.selftest === "end") {
          running = undefined;
          const { worst, seen, status = "passed", what, bound } = message.finding;
          add({
            name: names[message.at] ?? `check ${message.at}`,
            status,
            ms: message.ms,
            ...(what !== undefined && { what }),
            ...(worst !== undefined && { worst }),
            ...(bound !== undefined && { bound }),
            ...(seen !== undefined && { seen }),
          });
          limit(Math.min(deadline, performance.now() + 1000 * startSeconds)); // for what lies between two checks
        }
      },
      performance.now() + 1000 * startSeconds,
    );
    const late = performance.now() >= deadline;
    if (ending.how === "done" || ending.how === "aborted") {
      if (ending.how === "aborted") skipRest("interrupted");
      break;
    }
    if (ending.how === "next" && !late) continue;
    if (ending.how !== "next") {
      crashes++;
      const what =
        ending.how === "late"
          ? late
            ? `was still running at the end of the group's ${quick ? seconds.quick : seconds.full} s`
            : `no answer within ${running === undefined ? startSeconds : checkSeconds} s`
          : ending.text;
      const ms = running === undefined ? 0 : performance.now() - running.since;
      const at = running?.at ?? -1;
      if (at < 0) {
        // Nothing was begun: the next process would end the same way.
        add({ name: names[checks.length] ?? "opens", status: "failed", what, ms });
        skipRest("its process did not start");
        break;
      }
      add({ name: names[at] ?? `check ${at}`, status: "failed", what, ms });
    }
    if (late) {
      skipRest("out of time");
      break;
    }
    if (crashes >= mostCrashes) {
      skipRest(`left out after ${crashes} crashes`);
      break;
    }
    if (checks.length >= names.length) break;
  }
  return { name, ms: performance.now() - started, checks, engine, examination, crashes };
}

/** Runs one process and hands on what it says; ends it when its limit has passed. */
function watch(
  { file, args }: ReturnType<ServeCommand>,
  signal: AbortSignal,
  onMessage: (message: Message, limit: (until: number) => void) => void,
  firstLimit: number,
): Promise<Ending> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve({ how: "aborted", text: "" });
    let how: Ending["how"] | undefined;
    let lastLine = "";
    let child: ChildProcess;
    try {
      child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"] });
    } catch (error) {
      return resolve({ how: "ended", text: messageOf(error) });
    }
    const stop = (why: Ending["how"]) => {
      how ??= why;
      child.kill("SIGKILL");
    };
    let timer: NodeJS.Timeout | undefined;
    const limit = (until: number) => {
      clearTimeout(timer);
      timer = setTimeout(() => stop("late"), Math.max(0, until - performance.now()));
    };
    limit(firstLimit);
    const abort = () => stop("aborted");
    signal.addEventListener("abort", abort);
    createInterface({ input: child.stdout! }).on("line", (line) => {
      const message = parse(line);
      if (message === undefined || how === "late") return;
      if (message.selftest === "done" || message.selftest === "next") how ??= message.selftest;
      onMessage(message, limit);
    });
    child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      lastLine = text.trim().split("\n").at(-1) || lastLine;
    });
    child.on("error", (error) => {
      lastLine = error.message;
    });
    child.on("close", (code, killer) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      const ended = killer === null ? `its process ended with exit code ${code}` : `its process was ended by ${killer}`;
      resolve({ how: how ?? "ended", text: lastLine === "" ? ended : `${ended}: ${lastLine}` });
    });
  });
}

function parse(line: string): Message | undefined {
  if (!line.startsWith('{"selftest":')) return undefined;
  try {
    const parsed = v.safeParse(messageSchema, JSON.parse(line));
    return parsed.success ? parsed.output : undefined;
  } catch {
    return undefined;
  }
}
