// `anekit selftest`: whole runs on engines that are here, processes that crash, hang or lie, the report, and verdicts on facts.

import { readFileSync } from "node:fs";
import { homedir, hostname, userInfo } from "node:os";
import * as v from "valibot";
import { describe, expect, it } from "vitest";
import { difference, exact } from "../../src/cli/selftest/compare.ts";
import { type Evidence, judgeFacts } from "../../src/cli/selftest/facts.ts";
import type { Seen } from "../../src/cli/selftest/group.ts";
import { groups } from "../../src/cli/selftest/groups.ts";
import { buildOperatorCase, operatorCases } from "../../src/cli/selftest/operators.ts";
import { type Report, reportSchema, scrub, scrubber } from "../../src/cli/selftest/report.ts";
import { type CheckResult, type RunnerSettings, runGroup } from "../../src/cli/selftest/runner.ts";
import { facts } from "../../src/engines/ane/facts.ts";
import { type OpName, ops } from "../../src/ops/index.ts";
import { buildDouble, doubleEnvironment, Missing } from "../ane/double/build.ts";
import { anekit, lines, temporaryFolder } from "./anekit.ts";

const folder = temporaryFolder();

function readReport(path: string): Report {
  return v.parse(reportSchema, JSON.parse(readFileSync(path, "utf8")));
}

function failuresOf(report: Report): string[] {
  return report.groups.flatMap(({ name, checks }) =>
    checks.filter(({ status }) => status === "failed").map((check) => `${name}: ${check.name}: ${check.what}`),
  );
}

/** Every text in a value. */
function textsOf(value: unknown): string[] {
  if (typeof value === "string") return [value];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(textsOf) : [];
}

/** Words that must not stand in a report. */
function personal(): string[] {
  return [hostname(), userInfo().username, homedir(), process.cwd()].filter((word) => word.length > 3);
}

describe("anekit selftest", () => {
  it.each(["cpu", "sim"])(
    "runs every group on %s and writes a report that names nobody",
    async (engine) => {
      const file = folder.path(`${engine}.json`);
      const { code, stdout, stderr } = await anekit(["selftest", "--quick", "--engine", engine, "--report", file]);
      const report = readReport(file);
      expect(failuresOf(report)).toEqual([]);
      expect(code, stderr).toBe(0);
      expect(report.complete).toBe(true);
      expect(report.groups.map(({ name }) => name)).toEqual(groups.map(({ name }) => name));
      expect(report.groups.every(({ crashes }) => crashes === 0)).toBe(true);
      expect(report.engine).toMatchObject({ name: engine, hardware: false });
      expect(report.facts).toBeNull();
      for (const { name } of groups) expect(stdout).toContain(name);
      expect(stdout).toContain("nothing about hardware was learned");
      const texts = textsOf(JSON.parse(readFileSync(file, "utf8"))).join("\n");
      for (const word of personal()) expect(texts).not.toContain(word);
    },
    300_000,
  );

  it("runs on the Neural Engine's driver through a stand-in and says that it is one", async ({ skip }) => {
    let library: string;
    try {
      library = buildDouble();
    } catch (error) {
      if (error instanceof Missing) return skip(error.message);
      throw error;
    }
    const file = folder.path("ane.json");
    const variables = { ANEKIT_ESPRESSO: library, ANEKIT_CHIP: "h16", ANEKIT_CACHE_DIR: folder.path("cache") };
    const env = { ...variables, ...doubleEnvironment("chip=h16;os=26") };
    const args = ["--quick", "--group", "start", "state", "errors", "--report", file];
    const { code, stdout, stderr } = await anekit(["selftest", ...args], { env });
    const report = readReport(file);
    expect(failuresOf(report)).toEqual([]);
    expect(code, stderr).toBe(0);
    expect(report.engine).toMatchObject({ name: "ane", hardware: false });
    expect(report.examination).toMatchObject({ available: true, symbols: { needed: [] }, probe: { usable: true } });
    expect(report.complete).toBe(false);
    expect(stdout).toContain("through a stand-in for Apple's library: nothing about hardware was learned");
  }, 200_000);

  it("prints one object a line with --json, and only the groups asked for", async () => {
    const args = ["selftest", "--quick", "--engine", "sim", "--group", "start", "compile-time", "--json"];
    const { code, stdout } = await anekit(args);
    expect(code).toBe(0);
    const rows = lines(stdout).map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(rows.slice(0, -1).map(({ group }) => group)).toEqual([
      ...["start", "start"],
      ...["compile-time", "compile-time", "compile-time"],
    ]);
    expect(rows.at(-1)).toMatchObject({ summary: { complete: false, summary: { passed: 5, failed: 0 } } });
  }, 60_000);

  it("exits with 1 where something failed, having run to the end", async () => {
    const file = folder.path("failed.json");
    const args = ["selftest", "--quick", "--engine", "cpu", "--group", "start", "errors", "--report", file];
    const { code, stdout } = await anekit(args, { env: { ANEKIT_THREADS: "none" } });
    expect(code).toBe(1);
    const report = readReport(file);
    expect(report.groups.map(({ checks }) => checks[0]!.status)).toEqual(["failed", "failed"]);
    expect(report.groups[1]!.checks.slice(1).every(({ status }) => status === "skipped")).toBe(true);
    expect(stdout).toContain("ANEKIT_THREADS");
  }, 60_000);

  it("writes what it has when it is interrupted", async () => {
    const file = folder.path("interrupted.json");
    const args = ["selftest", "--engine", "sim", "--group", "start", "operators", "--report", file];
    let sent = false;
    const { code, stderr } = await anekit(args, {
      onStderr(text, kill) {
        if (sent || !text.includes("operators …")) return;
        sent = true;
        kill("SIGINT");
      },
    });
    expect(code).toBe(130);
    expect(stderr).toContain("anekit: interrupted");
    const report = readReport(file);
    expect(report.complete).toBe(false);
    expect(report.groups[0]!.checks.every(({ status }) => status === "passed")).toBe(true);
  }, 60_000);

  it.each([
    [["--group", "nonsense"], "there is no group"],
    [["--engine", "gpu"], "is none of auto"],
    [["--engine", "sim", "--report", "/nowhere/at/all/report.json"], "/nowhere/at/all"],
    ...(process.platform === "darwin" ? [] : [[[], "--engine cpu verifies the CPU engine here"] as const]),
  ] as const)("refuses %j on one line", async (args, message) => {
    const { code, stdout, stderr } = await anekit(["selftest", ...args]);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(lines(stderr)).toHaveLength(1);
    expect(stderr).toContain(message);
  });
});

// -------------------------------------------------------------------------------------------- the parent process

/** Processes in place of the command's own: `scripts[n]` is the n-th one's program. */
async function runFake(
  scripts: readonly string[],
  { limits = {}, signal = new AbortController().signal }: { limits?: object; signal?: AbortSignal } = {},
) {
  const asked: number[] = [];
  const prelude = `
    const say = (message) => require("fs").writeSync(1, JSON.stringify(message) + "\\n");
    const names = ["a", "b", "c", "d"];
    const check = (at, finding = {}) => { say({ selftest: "begin", at }); say({ selftest: "end", at, ms: 1, finding }); };
    say({ selftest: "checks", names });
    say({ selftest: "engine", engine: { name: "sim", reason: "fake" } });`;
  const command: RunnerSettings["command"] = (_group, from) => {
    asked.push(from);
    return { file: process.execPath, args: ["-e", prelude + (scripts[asked.length - 1] ?? "process.exit(9)")] };
  };
  const spec = { name: "fake", checkSeconds: 2, seconds: { quick: 30, full: 30 }, ...limits };
  const result = await runGroup(spec, { command, quick: true, signal, startSeconds: 3 });
  return { ...result, asked, statuses: result.checks.map(({ status }) => status).join(" ") };
}

const done = 'say({ selftest: "done" });';
const rest = (from: number) => `for (let at = ${from}; at < 4; at++) check(at); ${done}`;

describe("the process that asks", () => {
  it("takes a wrong value as the result of its check", async () => {
    const wrong =
      'check(1, { status: "failed", what: "1 is not 2", worst: "Infinity", bound: 1, seen: { x: [1, "NaN"] } });';
    const { statuses, checks, asked } = await runFake([`check(0); ${wrong} ${rest(2)}`]);
    expect(statuses).toBe("passed failed passed passed");
    expect(checks[1]).toMatchObject({ what: "1 is not 2", worst: Infinity, seen: { x: [1, Number.NaN] } });
    expect(asked).toEqual([0]);
  });

  it("goes on behind a check in which the process crashed, and says what it left", async () => {
    const crash =
      'check(0); say({ selftest: "begin", at: 1 }); console.error("boom"); process.kill(process.pid, "SIGABRT"); setTimeout(() => {}, 1e4);';
    const { statuses, checks, asked, crashes } = await runFake([crash, rest(2)]);
    expect(statuses).toBe("passed failed passed passed");
    expect(checks[1]!.what).toBe("its process was ended by SIGABRT: boom");
    expect([asked, crashes]).toEqual([[0, 2], 1]);
  });

  it("ends a check that hangs", async () => {
    const { statuses, checks } = await runFake(['say({ selftest: "begin", at: 0 }); for (;;);', rest(1)], {
      limits: { checkSeconds: 0.5 },
    });
    expect(statuses).toBe("failed passed passed passed");
    expect(checks[0]!.what).toBe("no answer within 0.5 s");
  });

  it("ends a process that does not start", async () => {
    const { statuses, checks } = await runFake(["setTimeout(() => {}, 1e5);"]);
    expect(statuses).toBe("failed skipped skipped skipped");
    expect(checks[0]!.what).toContain("no answer within 3 s");
  });

  it("skips what is left at the end of the group's time", async () => {
    const slow = 'check(0); say({ selftest: "begin", at: 1 }); setTimeout(() => {}, 1e5);';
    const { statuses, checks } = await runFake([slow], {
      limits: { seconds: { quick: 0.7, full: 1 }, checkSeconds: 5 },
    });
    expect(statuses).toBe("passed failed skipped skipped");
    expect(checks[1]!.what).toBe("was still running at the end of the group's 0.7 s");
    expect(checks[2]!.what).toBe("out of time");
  });

  it("goes on in another process where one says so, and heeds no foreign lines", async () => {
    const noise =
      'console.log("{ nonsense"); console.log("{\\"selftest\\":\\"end\\"}"); console.log("\\u0000\\u0007");';
    const first = `${noise} check(0); check(1); say({ selftest: "next", at: 2 });`;
    const { statuses, asked, crashes } = await runFake([first, rest(2)]);
    expect(statuses).toBe("passed passed passed passed");
    expect([asked, crashes]).toEqual([[0, 2], 0]);
  });

  it("gives up a process that does nothing but crash", async () => {
    const begin = 'process.exitCode = 3; console.error("anekit: no engine");';
    const { statuses, checks, asked } = await runFake([begin]);
    expect(statuses).toBe("failed skipped skipped skipped");
    expect(checks[0]!.what).toContain("its process ended with exit code 3: anekit: no engine");
    expect(asked).toEqual([0]);
  });

  it("stops at a signal", async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 500);
    const { statuses } = await runFake(['check(0); say({ selftest: "begin", at: 1 }); setTimeout(() => {}, 1e5);'], {
      signal: controller.signal,
      limits: { checkSeconds: 20 },
    });
    expect(statuses).toBe("passed skipped skipped skipped");
  });

  it("survives a command that cannot be run", async () => {
    const command = () => ({ file: "/nowhere/at/all", args: [] });
    const spec = { name: "fake", checkSeconds: 1, seconds: { quick: 5, full: 5 } };
    const { checks } = await runGroup(spec, { command, quick: true, signal: new AbortController().signal });
    expect(checks).toMatchObject([{ status: "failed" }]);
  });
});

// ------------------------------------------------------------------------------------------------- the operators

describe("the table of operators", () => {
  it("has cases of every record, each with a name of its own, that build", () => {
    expect(Object.keys(operatorCases).sort()).toEqual(Object.keys(ops).sort());
    for (const [name, cases] of Object.entries(operatorCases)) {
      expect(cases.length, name).toBeGreaterThan(0);
      expect(new Set(cases.map((each) => each.name)).size, name).toBe(cases.length);
      for (const each of cases) {
        const { outputs } = buildOperatorCase(ops[name as OpName], each);
        for (const output of Object.values(outputs)) expect(output.dtype, `${name} ${each.name}`).toBe("fp16");
      }
    }
  });
});

describe("a comparison with the simulator", () => {
  const ulp = 2 ** -10;
  it.each([
    ["equal bits", [1, Number.NaN, Infinity], [1, Number.NaN, Infinity], exact, 0, true],
    ["another bit", [1 + ulp], [1], exact, 1, false],
    ["the sign of zero", [0], [-0], exact, 0.5, true],
    ["within units", [1 + 2 * ulp], [1], { units: 2 }, 2, true],
    ["beyond units", [1 + 3 * ulp], [1], { units: 2 }, 3, false],
    ["units of the largest", [2 ** -14, 1024], [0, 1024], { units: 1, ofLargest: true }, 2 ** -14, true],
    ["the smallest subnormal", [2 ** -24], [0], { units: 0 }, 1, false],
    ["an absolute error", [0.503], [0.5], { units: 1, absolute: 0.0034 }, 0.003 / 2 ** -11, true],
    ["infinity", [Infinity], [65504], { units: 9, absolute: 1e9 }, Infinity, false],
    ["NaN", [Number.NaN], [0], { units: 9, absolute: 1e9 }, Infinity, false],
    ["another length", [1], [1, 2], { units: 9 }, Infinity, false],
  ] as const)("measures %s", (_name, got, want, bound, worst, good) => {
    const found = difference(got, want, bound);
    expect(found.worst).toBeCloseTo(worst, 9);
    expect(found.what === undefined).toBe(good);
  });
});

// ---------------------------------------------------------------------------------------------------- the report

describe("a report's text", () => {
  const clean = scrubber(["/home/ada", "ada", "ada-mac"]);
  it.each([
    ["cannot open /private/var/folders/zz/T/anekit-1/model.mil: no", "cannot open <path>: no"],
    ["/Users/ada/x/y, file:///Users/ada/z", "<path>, <path>"],
    ["C:\\Users\\ada\\report", "<path>"],
    ["user Ada on ADA-MAC says", "user <name> on <name> says"],
    ["handle 0x7fee12345678 and bits 0x3c00", "handle <address> and bits 0x3c00"],
    ["24 GB/s, 1/2, and/or, adaptive", "24 GB/s, 1/2, and/or, adaptive"],
  ])("%j is %j", (text, expected) => {
    expect(clean(text)).toBe(expected);
  });

  it("is clean wherever it may be somebody else's, and keeps names of checks", () => {
    const report = { note: "by ada", checks: [{ name: "ada", seen: { a: ["/home/ada/file"] } }], count: 3, none: null };
    expect(scrub(report, clean)).toEqual({
      note: "by <name>",
      checks: [{ name: "ada", seen: { a: ["<path>"] } }],
      count: 3,
      none: null,
    });
  });
});

// ----------------------------------------------------------------------------------------------------- the facts

function check(name: string, seen?: Seen): CheckResult {
  return { name, status: seen === undefined ? "passed" : "measured", ms: 1, ...(seen && { seen }) };
}

const finding = (name: string, outcome = "right", detail = "") => ({ name, outcome, detail, ms: 1 });

/** What an M1 as published would show. */
function publishedM1(): Evidence {
  const inf = Infinity;
  return {
    family: "A13",
    macos: 15,
    root: false,
    examination: {
      available: true,
      reason: "",
      symbols: { found: 56, missing: [], needed: [] },
      probe: {
        usable: true,
        syntax: "modern",
        natives: {},
        aliasing: true,
        findings: [
          ...["modern syntax", "gelu", "concat", "reduceMean", "softmaxChannels", "aliasing"].map((name) =>
            finding(name),
          ),
          finding("convBias", "refused", "e5rt_e5_compiler_compile failed with 11: ANECCompile() FAILED"),
          finding("unreadInputs", "refused", "e5rt_e5_compiler_compile failed with 1: InvalidMILProgram"),
        ],
      },
    },
    groups: [
      { name: "start", checks: [check("x + 1"), check("two constant weights")] },
      { name: "operators", checks: [check("add 7 and 7"), check("split in 3 equal parts")] },
      {
        name: "numerics",
        checks: [
          check("rounding", { reading: "half to even", sums: [2048] }),
          check("accumulation", { ones16000: 16000, mixed5120: 5116, ones2049: 2048 }),
          check("cancelling triples", { magnitudes: [4090, 4096], counts: [16, 4] }),
          check("reductions", { ones4096: 2048, sum2049: 2050 }),
          check("product errors", { extents: [512, 1024], errors: [0.0026, 0.0055], scaledBy64: 0.0004 }),
          check("small terms", { sum: 0 }),
          check("ceilings", { product32752: 32752, product32768: inf, elementwise: [60000, 65504], reduction: 65504 }),
          check("special values", {
            ...{ nanPlusZero: inf, relu: [inf], sigmoid: [1], logOfZero: -45440 },
            ...{ infMinusInf: 0, zeroTimesInf: 0, sqrtOfMinusOne: 0, rsqrtOfMinusOne: 0, logOfMinusOne: 0 },
          }),
          check("zeros", { minusZeroPlusZeroIsNegative: false, inverseOfMinusZero: inf }),
          check("subnormals", { probed: 6, keptByAdd: 6, keptByMul: 6, reading: "flushed in products" }),
          check("exponential", { exp: [65000, inf, inf], softmaxOfThousand: [1, 0, 0, 0] }),
          check("table of sigmoid", { worstAbsolute: 0.0034 }),
          check("table of tanh", { worstAbsolute: 0.0017 }),
          check("table of gelu", { worstAbsolute: 0.0059, ofZero: -0.000543 }),
          check("determinism", { different: 1, fingerprint: "aa", runs: 15 }),
        ],
      },
      {
        name: "state",
        checks: [
          check("counts in place"),
          check("twelve arrays and a factor of all"),
          check("bits of a fixed program", { fingerprint: "aa" }),
        ],
      },
      { name: "latency", checks: [check("runSync, state only", { p50Ms: 0.22 })] },
      { name: "bandwidth", checks: [check("weights of 4096 by 4096", { gigabytesPerSecond: 51 })] },
      { name: "peak", checks: [check("product of 2048", { best: 4.3 })] },
      { name: "compile-time", checks: [check("1 operator", { coldMs: 40 })] },
      {
        name: "errors",
        checks: [
          check("compiling after a refusal", { failedBefore: true, seconds: 3 }),
          check("many compiles, each released", { compiles: 150 }),
          check("130 programs at once", { loaded: 130, refused: false }),
        ],
      },
    ],
  };
}

const namesOf = (verdicts: ReturnType<typeof judgeFacts>, wanted: string) =>
  verdicts.filter(({ verdict }) => verdict === wanted).map(({ name }) => name);

describe("verdicts on facts", () => {
  it("confirm what an M1 as published shows, and contradict nothing", () => {
    const verdicts = judgeFacts(facts, publishedM1());
    expect(verdicts.map(({ name }) => name)).toEqual(facts.map(({ name }) => name));
    expect(verdicts.filter(({ verdict }) => verdict === "contradicted")).toEqual([]);
    const confirmed = namesOf(verdicts, "confirmed");
    expect(confirmed.length).toBeGreaterThan(45);
    for (const name of [
      "four-lane-tiles",
      "log-of-zero",
      "deterministic",
      "dispatch-floor",
      "macos-15",
      "concat-native",
    ])
      expect(confirmed).toContain(name);
    expect(verdicts.every(({ verdict, why }) => verdict !== "not decided" || why !== "")).toBe(true);
  });

  it("contradict with what was seen", () => {
    const seen = publishedM1();
    const other = seen.groups.map(({ name, checks }) => ({
      name,
      checks: checks.map((each) =>
        each.name === "accumulation"
          ? check("accumulation", { ones16000: 16000, mixed5120: 5120, ones2049: 2049 })
          : each.name === "bits of a fixed program"
            ? check(each.name, { fingerprint: "bb" })
            : each,
      ),
    }));
    const verdicts = judgeFacts(facts, { ...seen, groups: other });
    expect(namesOf(verdicts, "contradicted")).toEqual(["four-lane-tiles", "deterministic"]);
    expect(verdicts.find(({ name }) => name === "four-lane-tiles")!.why).toBe("5120");
  });

  it("decide nothing where nothing ran, and nothing of other chips", () => {
    const nothing = judgeFacts(facts, { ...publishedM1(), groups: [], examination: null, macos: null });
    expect(namesOf(nothing, "not decided")).toHaveLength(facts.length);
    const another = judgeFacts(facts, { ...publishedM1(), family: "A16" });
    expect(another.find(({ name }) => name === "width-slice-clamps")!.why).toContain("it speaks of A13, A14");
  });
});
