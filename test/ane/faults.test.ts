// What goes wrong around the Neural Engine: refused compiles, lost processes, silent garbage, missing pieces, limits, disposal, aborts, threads. After each
// case the double must hold nothing and have seen no wrong call.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Budget, type Tenant } from "../../src/engines/ane/budget.ts";
import { readProbe } from "../../src/engines/ane/capabilities.ts";
import { EngineError } from "../../src/index.ts";
import { type ChildOptions, type Ended, inLane, missing, Place, runChild, start } from "./start.ts";

const base = "chip=h17s;os=26";
const because = missing();

interface Line {
  readonly name: string;
  readonly result: unknown;
  readonly left: readonly string[];
}

/** Results of probes, shared by all processes whose probe is healthy. */
const shared = new Place();
afterAll(() => shared[Symbol.dispose]());

/** Runs cases in one process. */
async function run(
  names: readonly string[],
  { settings, environment, ...options }: ChildOptions & { readonly settings?: string } = {},
): Promise<Ended & { readonly results: ReadonlyMap<string, Line> }> {
  const ended = await inLane(() =>
    runChild("faults-child.ts", names, {
      ...options,
      config: settings === undefined ? base : `${base};${settings}`,
      environment: { ...(settings === undefined && { ANEKIT_CACHE_DIR: shared.cache }), ...environment },
    }),
  );
  return { ...ended, results: new Map((ended.lines as Line[]).map((line) => [line.name, line])) };
}

/** Cases of one process, each a test of its own. */
function cases(title: string, checks: Readonly<Record<string, (result: never) => void>>): void {
  describe(title, { timeout: 90_000 }, () => {
    const names = Object.keys(checks);
    let running: ReturnType<typeof run> | undefined;
    test.each(names)("%s", async (name) => {
      const { results } = await (running ??= run(names));
      const { result, left } = results.get(name)!;
      checks[name]!(result as never);
      expect(left).toEqual([]);
    });
    test("nothing is left in the end", async () => {
      const { violations, left } = await (running ??= run(names));
      expect([violations, left]).toEqual([[], []]);
    });
  });
}

const disposed = expect.stringMatching(/^DisposedError: /);
const aborted = expect.stringMatching(/^AbortedError: /);
const refused = expect.stringContaining("_ANECompiler : ANECCompile() FAILED");

describe.skipIf(because !== undefined)(`faults${because === undefined ? "" : ` (${because})`}`, () => {
  beforeAll(async () => {
    await runChild("faults-child.ts", ["ane by name"], {
      config: base,
      environment: { ANEKIT_CACHE_DIR: shared.cache },
    });
  }, 60_000);

  cases("of compiles", {
    "a refused compile"({ message, next }: { message: string; next: number[] }) {
      expect(message).toContain("ANECCompile() FAILED"); // Espresso's words
      expect(message).toContain("likely: the Neural Engine's compiler refused an operator"); // the cause
      expect(message).toContain('give this stage on: "cpu"'); // the remedy
      expect(next).toEqual([2, 4, 6, 8]);
    },
    "pace: off"([first, second]: { what: string; ms: number }[]) {
      expect([first!.what, second!.what]).toEqual([refused, "ok"]);
    },
    "pace: seconds"([first, second, third]: { what: string; ms: number }[]) {
      expect([first!.what, second!.what, third!.what]).toEqual([refused, "ok", "ok"]);
      expect(second!.ms).toBeGreaterThan(900);
      expect(third!.ms).toBeLessThan(900);
    },
    "pace: seconds on the calling thread"({ first, second, ms }: { first: string; second: string; ms: number }) {
      expect([first, second]).toEqual([refused, "ok"]);
      expect(ms).toBeGreaterThan(900);
    },
    "pace: strict"([first, second]: { what: string }[]) {
      expect(first!.what).toEqual(refused);
      expect(second!.what).toMatch(/^EngineError: ane: a compile failed .* s ago.*ANEKIT_ANE_PACE=wait or off/);
    },
    "no slot at first"(result: string) {
      expect(result).toBe("ok");
    },
    "no slot at all"({ other, y }: { other: string; y: number[] }) {
      expect(other).toMatch(/0x50004.*no slot is free.*dispose programs/);
      expect(y).toEqual([2, 4, 6, 8]);
    },
    "abort of a compile"(result: unknown) {
      expect(result).toEqual([aborted, aborted, [2, 4, 6, 8]]);
    },
    "dispose of the engine during a load"(result: unknown) {
      expect(result).toEqual([disposed, disposed]);
    },
    "the simulator dies"({ run: one, sync, state }: { run: string; sync: string; state: number[] }) {
      expect(one).toMatch(/^EspressoError: .*execute_sync failed/);
      expect(sync).toMatch(/^EspressoError: .*execute_sync failed/);
      expect(state).toEqual([1, 2, 3, 4]);
    },
  });

  cases("of runs", {
    "many programs"({ limit, peakPrograms, wrong, states }: Record<string, unknown>) {
      expect(limit).toBe(108);
      expect(peakPrograms).toBeLessThanOrEqual(110);
      expect([wrong, states]).toEqual([0, [2]]);
    },
    "swapped state after eviction"(result: unknown) {
      expect(result).toEqual([
        [8.5, 24.5, 16.5, 32.5],
        [16, 32, 48, 64],
      ]);
    },
    "abort before a run"(result: unknown) {
      expect(result).toEqual([aborted, [0, 0, 0, 0]]);
    },
    "abort in the queue"(result: unknown) {
      expect(result).toEqual([
        ["ok", aborted, "ok"],
        [2, 4, 6, 8],
      ]);
    },
    "abort during a run"({ whole }: { whole: boolean }) {
      expect(whole).toBe(true);
    },
    "abort between stages"({ whole }: { whole: boolean }) {
      expect(whole).toBe(true);
    },
    "dispose during a run"(result: unknown) {
      expect(result).toEqual([disposed, disposed, [2, 4, 6, 8]]);
    },
    "dispose of the engine during a run"(result: unknown) {
      expect(result).toEqual([disposed, disposed, disposed, disposed]);
    },
    "overlapping runs"({ order, values, sync, foreign, run: last }: Record<string, unknown>) {
      expect(order).toEqual([0, 1, 2, 3, 4, 5]);
      expect(values).toEqual([2, 4, 6, 6, 8, 15]);
      expect([sync, foreign]).toEqual([expect.stringContaining("in flight"), expect.stringContaining("in flight")]);
      expect(last).toBe("ok");
    },
    "compiles during runs, runs during compiles"([made, ran]: [number[][], number[][]]) {
      expect(made.map(([first]) => first)).toEqual([3, 4, 5]);
      expect(ran.map(([first]) => first)).toEqual([2, 2, 2]);
    },
    "runSync of an evicted program during a compile"(result: unknown) {
      expect(result).toEqual([
        [2, 4, 6, 8],
        [7, 14, 21, 28],
      ]);
    },
    "two engines"([five, seven]: number[][]) {
      expect([five, seven]).toEqual([
        [5, 10, 15, 20],
        [7, 14, 21, 28],
      ]);
    },
    "an engine in a worker thread"(result: unknown) {
      expect(result).toEqual([
        [4, 8, 12, 16],
        [4, 8, 12, 16],
        [3, 6, 9, 12],
      ]);
    },
  });

  test("the engine's thread is killed: its job fails, the next one has a new thread", { timeout: 60_000 }, async () => {
    const name = "the engine's thread is killed";
    const { results } = await run([name]); // what the thread had in hand is lost
    expect(results.get(name)!.result).toEqual([
      expect.stringContaining("the engine's thread ended"),
      [4, 8, 12, 16],
      [2, 4, 6, 8],
    ]);
  });

  test.each(["exit with programs open", "end with programs open"])("%s", { timeout: 60_000 }, async (name) => {
    const { violations, left, stderr } = await run([name]);
    expect(violations.filter((line) => !line.includes("leak: "))).toEqual([]);
    expect([left, stderr]).toEqual([[], ""]);
  });

  describe("found by the probe", { timeout: 120_000, concurrent: true }, () => {
    const found = [
      ["zeros=1", "zeros (output hidden)"],
      ["nan-op=matmul", "not finite (output hidden)"],
      ["zeros-op=softmax", "zeros (output parts)"],
      ["crash=compile", "crashed (signal SIGABRT)"],
      ["crash=load-time", "crashed (signal SIGABRT)"],
      ["crash=execute", "crashed (signal SIGABRT)"],
      ["refuse-op=matmul", "refused (ane: e5rt_e5_compiler_compile failed"],
    ] as const;
    test.each(found)("%s: auto takes the CPU and says why in one line", async (settings, reason) => {
      const { results, violations, left } = await run(["auto", "ane by name", "examine"], { settings });
      const auto = results.get("auto")!.result as { name: string; reason: string; y: number[] };
      expect(auto.name).toBe("cpu");
      expect(auto.reason).toContain("the Neural Engine of h17s");
      expect(auto.reason).toContain(reason);
      expect(auto.reason).not.toContain("\n");
      expect(auto.y).toEqual([2, 4, 6, 8]);
      expect(results.get("ane by name")!.result).toMatch(/^UnsupportedError: .*anekit doctor --probe/);
      expect(results.get("examine")!.result).toMatchObject({ available: false });
      expect([violations, left]).toEqual([[], []]);
    });

    test.each(["crash-op=gelu", "nan-op=gelu", "zeros-op=gelu", "refuse-op=gelu"])(
      "%s: gelu is rewritten",
      async (settings) => {
        const { results, violations } = await run(["auto"], { settings });
        expect(results.get("auto")!.result).toMatchObject({
          name: "ane",
          reason: expect.stringMatching(/rewritten: .*gelu/),
          y: [2, 4, 6, 8],
        });
        expect(violations).toEqual([]);
      },
    );

    test.each(["hang-compile=1", "hang-execute=1"])("%s: the probe gives up in time", async (settings) => {
      const { results, violations, left } = await run(["an impatient probe"], {
        settings,
        environment: { PROBE_LIMIT_MS: "2500" },
      });
      const { usable, reason, outcomes, ms } = results.get("an impatient probe")!.result as Record<string, unknown>;
      expect(usable).toBe(false);
      expect(reason).toContain("timed out (after 2.5 s)");
      expect(outcomes).toEqual(["timed out", "timed out"]);
      expect(ms).toBeLessThan(15_000);
      expect([violations, left]).toEqual([[], []]);
    });

    test("m1-zeros=1: products that come out as zeros are rewritten", async () => {
      const settings = "chip=h13;m1-zeros=1"; // the last of two chips counts
      const { results } = await run(["auto"], { settings, environment: { ANEKIT_CHIP: "h13" } });
      expect(results.get("auto")!.result).toMatchObject({
        name: "ane",
        reason: expect.stringMatching(/rewritten: .*unevenContraction/),
      });
    });

    test("slow-compile=150: slow is not wrong", async () => {
      const { results } = await run(["auto"], { settings: "slow-compile=150" });
      expect(results.get("auto")!.result).toMatchObject({ name: "ane", y: [2, 4, 6, 8] });
    });
  });

  describe("of the library", { timeout: 120_000, concurrent: true }, () => {
    const unavailable = async (options: ChildOptions) => {
      const { results, violations, left, stderr } = await run(["auto", "ane by name", "examine"], options);
      expect([violations, left, stderr]).toEqual([[], [], ""]);
      const auto = results.get("auto")!.result as { name: string; reason: string; y: number[] };
      expect(auto).toMatchObject({ name: "cpu", y: [2, 4, 6, 8] });
      expect(auto.reason).not.toContain("\n");
      expect(results.get("examine")!.result).toMatchObject({ available: false });
      return results.get("ane by name")!.result as string;
    };

    test.each(["e5rt_e5_compiler_compile", "e5rt_execution_stream_execute_sync", "e5rt_io_port_bind_buffer_object"])(
      "lacks %s, which is needed",
      async (name) => {
        expect(await unavailable({ without: [name] })).toMatch(new RegExp(`^UnsupportedError: .*${name}.*or later`));
      },
    );

    test("lacks functions that are not needed", async () => {
      const without = ["e5rt_async_event_create", "e5rt_execution_stream_submit_async", "e5rt_error_code_get_string"];
      const { results } = await run(["auto"], { without, environment: { ANEKIT_CACHE_DIR: undefined } });
      expect(results.get("auto")!.result).toMatchObject({ name: "ane", y: [2, 4, 6, 8] });
    });

    test("is not there", async () => {
      const ended = await start("absent-child.ts", [], { environment: { ANEKIT_ESPRESSO: "/nowhere/libEspresso.so" } })
        .ended;
      expect(ended.lines).toEqual([
        [expect.stringMatching(/^EngineError: .*\/nowhere\/libEspresso\.so/), expect.stringMatching(/^cpu .*nowhere/)],
      ]);
    });

    test("is no library", async () => {
      using place = new Place();
      const file = join(place.folder, "text.so");
      writeFileSync(file, "no library");
      const ended = await start("absent-child.ts", [], { environment: { ANEKIT_ESPRESSO: file } }).ended;
      expect(ended.lines).toEqual([
        [expect.stringMatching(/^EngineError: .*text\.so/), expect.stringMatching(/^cpu .*text\.so/)],
      ]);
    });
  });

  describe("of folders and files", { timeout: 120_000, concurrent: true }, () => {
    test.each([
      ["a folder for temporary files that cannot be made", "cannot be made"],
      ["a folder of another user", "not a folder that belongs to this user alone"],
      ["a link in the place of the folder", "not a folder that belongs to this user alone"],
    ])("%s", async (name, words) => {
      const { results, violations } = await run([name]);
      const [ane, auto] = results.get(name)!.result as [string, { name: string; reason: string; y: number[] }];
      expect(ane).toMatch(new RegExp(`^EngineError: .*${words}.*TMPDIR`));
      expect(auto).toMatchObject({ name: "cpu", reason: expect.stringContaining(words), y: [2, 4, 6, 8] });
      expect(violations).toEqual([]);
    });

    test("a cache that cannot be written", async () => {
      using place = new Place();
      writeFileSync(join(place.folder, "file"), "");
      const { results, stderr } = await run(["auto"], {
        environment: { ANEKIT_CACHE_DIR: join(place.folder, "file", "cache") },
      });
      expect(results.get("auto")!.result).toMatchObject({ name: "ane", y: [2, 4, 6, 8] });
      expect(stderr).toBe("");
    });

    test("kept results that are damaged or another's are not read", () => {
      using place = new Place();
      mkdirSync(place.cache);
      const { name, text } = readKept();
      const { subject } = JSON.parse(text) as { subject: string[] };
      const read = (damaged: string) => {
        writeFileSync(join(place.cache, name), damaged);
        return readProbe(place.cache, subject);
      };
      expect(read(text)?.subject).toEqual(subject);
      for (const damaged of [
        "",
        text.slice(0, text.length >> 1),
        "\0\u0001\uffff",
        '{"version": 3}',
        text.replace("h17s", "h13"),
        text.replace(/"gelu": (true|false),/, ""),
        text.replace(/"gelu": (true|false)/, '"gelu": "yes"'),
        "[".repeat(100_000),
      ])
        expect(read(damaged)).toBeUndefined();
    });

    test("kept results that are cut off: the probe runs again, and its results replace them", async () => {
      using place = new Place();
      mkdirSync(place.cache);
      const { name, text } = readKept();
      writeFileSync(join(place.cache, name), text.slice(0, 100));
      const { results, stderr } = await run(["auto"], { environment: { ANEKIT_CACHE_DIR: place.cache } });
      expect(results.get("auto")!.result).toMatchObject({ name: "ane", y: [2, 4, 6, 8] });
      expect(stderr).toBe("");
      const again = readFileSync(join(place.cache, name), "utf8");
      expect(JSON.parse(again).subject).toEqual(JSON.parse(text).subject);
      expect(readdirSync(place.cache)).toEqual([name]);
    });

    test("kept results are used", async () => {
      using place = new Place();
      mkdirSync(place.cache);
      const { name, text } = readKept();
      writeFileSync(join(place.cache, name), text.replace('"gelu": true', '"gelu": false'));
      const { results } = await run(["auto"], { environment: { ANEKIT_CACHE_DIR: place.cache } });
      expect(results.get("auto")!.result).toMatchObject({ reason: expect.stringMatching(/rewritten: gelu/) });
    });
  });
});

/** What the first process kept of its probe. */
function readKept(): { readonly name: string; readonly text: string } {
  expect(existsSync(shared.cache)).toBe(true);
  const [name] = readdirSync(shared.cache).sort();
  return { name: name!, text: readFileSync(join(shared.cache, name!), "utf8") };
}

describe("the budget of programs", () => {
  class Program implements Tenant {
    held = 0;
    runs = false;
    evict(): boolean {
      if (this.runs) return false;
      this.held = 0;
      return true;
    }
  }
  const load = (budget: Budget, program: Program, count = 1) => {
    budget.reserve(program, count);
    program.held += count;
  };

  test("unloads what was idle longest, and no more than it must", () => {
    const budget = new Budget(4);
    const all = Array.from({ length: 5 }, () => new Program());
    for (const program of all.slice(0, 4)) load(budget, program);
    budget.touch(all[0]!);
    load(budget, all[4]!);
    expect(all.map(({ held }) => held)).toEqual([1, 0, 1, 1, 1]);
    expect(budget.held).toBe(4);
  });

  test("refuses where all are in use, and what never fits", () => {
    const budget = new Budget(3);
    const all = Array.from({ length: 3 }, () => new Program());
    for (const program of all) load(budget, program);
    for (const program of all) program.runs = true;
    expect(() => load(budget, new Program())).toThrow(EngineError);
    expect(() => load(budget, new Program())).toThrow(/3 programs are loaded and in use.*dispose programs/);
    all[1]!.runs = false;
    load(budget, new Program());
    expect(budget.held).toBe(3);
    expect(() => budget.reserve(new Program(), 4)).toThrow(/needs 4 programs at once.*3/);
  });

  test("loads one after the other, also after a failure", async () => {
    const budget = new Budget(1);
    let loading = 0;
    let most = 0;
    const one = async (fails: boolean) => {
      most = Math.max(most, ++loading);
      await new Promise((resolve) => setTimeout(resolve, 2));
      loading--;
      if (fails) throw new Error("no");
      return "yes";
    };
    const results = await Promise.allSettled([false, true, false].map((fails) => budget.inTurn(() => one(fails))));
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(most).toBe(1);
  });
});
