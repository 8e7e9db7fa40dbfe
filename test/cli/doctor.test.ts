// `anekit doctor` about the Neural Engine and Accelerate: where there is none, and through their doubles.

import { afterAll, describe, expect, it } from "vitest";
import { buildDouble, doubleEnvironment, Missing } from "../ane/double/build.ts";
import { tryAccelerate } from "../cpu/accelerate-double/build.ts";
import { anekit, lines, type Outcome, temporaryFolder } from "./anekit.ts";

const temporary = temporaryFolder();

/** Where there is no C compiler there is no double. */
function tryBuild(without: readonly string[] = []): string | Missing {
  try {
    return buildDouble({ without });
  } catch (error) {
    if (error instanceof Missing) return error;
    throw error;
  }
}
const library = tryBuild();

function variables(config: string, espresso: string, cache: string): Record<string, string> {
  return {
    ...doubleEnvironment(config),
    ANEKIT_ESPRESSO: espresso,
    ANEKIT_CHIP: /chip=(\w+)/.exec(config)?.[1] ?? "h17s",
    ANEKIT_CACHE_DIR: temporary.path(cache),
    ANEKIT_ANE_PACE: "off",
  };
}

const doctor = (env: Record<string, string>, ...args: string[]) => anekit(["doctor", ...args], { env });

function parsed({ code, stdout }: Outcome) {
  expect(code).toBe(0);
  return JSON.parse(stdout);
}

describe("without a Neural Engine", () => {
  it.skipIf(process.platform === "darwin")("one line says so and names the engines that are here", async () => {
    const [text, json] = await Promise.all([
      doctor({ ANEKIT_ESPRESSO: "" }),
      doctor({ ANEKIT_ESPRESSO: "" }, "--json", "--probe"),
    ]);
    expect(text).toMatchObject({ code: 0, stderr: "" });
    const about = lines(text.stdout).filter((line) => /^Neural Engine|^its /.test(line));
    expect(about).toEqual([
      expect.stringMatching(/^Neural Engine {2}there is no Neural Engine on \w+; engines here: .*sim$/),
    ]);
    expect(json.stderr).toBe("");
    expect(parsed(json).neuralEngine).toEqual({ available: false, reason: expect.stringContaining("there is no") });
  });

  it("a library that cannot be loaded is an answer", async () => {
    const outcome = await doctor(variables("", temporary.path("nothing.so"), "none"));
    expect(outcome).toMatchObject({ code: 0, stderr: "" });
    expect(outcome.stdout).toMatch(/^Neural Engine +cannot be used: .*nothing\.so cannot be loaded/m);
    expect(outcome.stdout).toMatch(/without its library there is no way/);
    expect(outcome.stdout).toMatch(/^auto takes +(cpu|sim): /m);
  });
});

describe.skipIf(library instanceof Missing)("through the double of Espresso", () => {
  const path = library as string;
  if (library instanceof Missing) afterAll(() => process.stdout.write(`skipped: ${library.message}\n`));

  it("asks once and again when told to, with progress on stderr", { timeout: 60_000 }, async () => {
    const env = variables("chip=h13;os=14", path, "cache");
    const first = await doctor(env);
    expect(first.code).toBe(0);
    expect(lines(first.stderr).slice(0, 2)).toEqual([
      "asking the Neural Engine's compiler: modern syntax …",
      "asking the Neural Engine's compiler: verbose syntax …",
    ]);
    expect(first.stdout).toMatch(/^Neural Engine +can be used: \d+ of \d+ probes right$/m);
    expect(first.stdout).toMatch(/^its chip +h13 \(ANEKIT_CHIP\); /m);
    expect(first.stdout).toMatch(/ (\d+) of \1 known functions found$/m);
    expect(first.stdout).toMatch(/ modern syntax +refused .* InvalidMILProgram/);
    expect(first.stdout).toMatch(/^its dialect +verbose MIL \(modern: refused\)$/m);
    expect(first.stdout).toMatch(/ rewritten \(boolCast: refused\): /);
    expect(first.stdout).toMatch(/ state is replaced in place$/m);
    expect(first.stdout).toMatch(/^auto takes +ane: /m);

    const second = await doctor(env, "--json");
    expect(second.stderr).toBe("");
    const { neuralEngine, engines, auto } = parsed(second);
    expect(neuralEngine).toMatchObject({ available: true, library: path, symbols: { missing: [], needed: [] } });
    expect(neuralEngine.probe).toMatchObject({ usable: true, syntax: "verbose", aliasing: true });
    expect(first.stdout).toContain(neuralEngine.probe.at);
    expect(neuralEngine.probe.findings.length).toBe(lines(first.stderr).length);
    expect(engines[0]).toMatchObject({ name: "ane", available: true });
    expect(auto.engine).toBe("ane");

    const third = await doctor(env, "--json", "--probe");
    expect(lines(third.stderr).length).toBe(lines(first.stderr).length);
    expect(Date.parse(parsed(third).neuralEngine.probe.at)).toBeGreaterThan(Date.parse(neuralEngine.probe.at));
  });

  it("says what the compiler was lost over, and which engine is taken instead", { timeout: 60_000 }, async () => {
    const [crash, zeros] = await Promise.all([
      doctor(variables("chip=h17s;os=26;crash-op=gelu", path, "crash")),
      doctor(variables("chip=h17s;os=26;zeros=1", path, "zeros")),
    ]);
    expect(crash.code).toBe(0);
    expect(crash.stdout).toMatch(/ rewritten \(gelu: crashed\): /);
    expect(crash.stdout).toMatch(/the compiler was lost over gelu: anekit selftest/);
    expect(zeros.code).toBe(0);
    expect(zeros.stdout).toMatch(/^Neural Engine +cannot be used: .*zeros/m);
    expect(zeros.stdout).toMatch(/^auto takes +(cpu|sim): /m);
    expect(zeros.stdout).toMatch(/the Neural Engine stays unused: anekit doctor --probe asks again/);
  });

  it("names the functions that are missing, and which of them matter", { timeout: 60_000 }, async () => {
    const needed = tryBuild(["e5rt_execution_stream_execute_sync", "e5rt_async_event_create"]) as string;
    const outcome = await doctor(variables("chip=h17s;os=26", needed, "needed"));
    expect(outcome).toMatchObject({ code: 0, stderr: "" });
    expect(outcome.stdout).toMatch(/ missing: e5rt_execution_stream_execute_sync, which anekit needs$/m);
    expect(outcome.stdout).toMatch(/ missing: e5rt_async_event_create$/m);
    expect(outcome.stdout).toMatch(/^auto takes +(cpu|sim): /m);
  });
});

const accelerate = tryAccelerate();

describe("Accelerate", () => {
  const env = (setting: string, behaviour = "") => ({
    ANEKIT_ACCELERATE: setting,
    ACCELERATE_DOUBLE: behaviour,
    ANEKIT_CACHE_DIR: temporary.path("accelerate"),
    ANEKIT_ESPRESSO: "",
    ANEKIT_ENGINE: "cpu",
  });

  it.skipIf(process.platform === "darwin")("is not spoken of where there is none", async () => {
    const [text, json] = await Promise.all([doctor(env("")), doctor(env("off"), "--json")]);
    expect(text.stdout).not.toContain("Accelerate");
    expect(parsed(json).accelerate).toEqual({ used: false, reason: "turned off by ANEKIT_ACCELERATE" });
  });

  it.skipIf(accelerate instanceof Missing)(
    "is timed once and again when told to, and what was found is shown",
    { timeout: 60_000 },
    async () => {
      const path = accelerate as string;
      const first = await doctor(env(path, "fast"));
      expect(first.code).toBe(0);
      expect(lines(first.stderr)).toContain("Accelerate: timing 1024x1024x1024 …");
      expect(first.stdout).toMatch(
        /^Accelerate +takes fp32 matrix products: faster: few rows from \S+ Mflop, batch from /m,
      );
      expect(first.stdout).toContain(`${path} (ANEKIT_ACCELERATE)`);
      expect(first.stdout).toMatch(/ 8 x 256x64x256 +[\d.]+ Gflop\/s, the engine itself +[\d.]+$/m);
      expect(first.stdout).toMatch(/^auto takes +cpu: .*, large fp32 products by Accelerate$/m);

      const second = await doctor(env(path, "crash"), "--json");
      expect(second.stderr).toBe("");
      const state = parsed(second).accelerate;
      expect(state).toMatchObject({ used: true, library: path, probe: { outcome: "measured", detail: "" } });
      expect(first.stdout).toContain(`probed ${state.probe.at}`);

      const third = await doctor(env(path, "crash@30"), "--probe");
      expect(third).toMatchObject({ code: 0 });
      expect(third.stdout).toMatch(/^Accelerate +is not used: the probe: crashed \(\S+: signal SIGSEGV\)$/m);
      expect(third.stdout).toMatch(/^auto takes +cpu: .* threads?$/m);
    },
  );

  it.skipIf(accelerate instanceof Missing)(
    "commands say why their first use takes so long",
    { timeout: 60_000 },
    async () => {
      const environment = { ...env(accelerate as string, "slow"), ANEKIT_CACHE_DIR: temporary.path("first use") };
      const bench = () => anekit(["bench", "call", "--tiny"], { env: environment });
      const note = "finding out what this machine can do, which happens once";
      expect((await bench()).stderr).toContain(note);
      expect((await bench()).stderr).not.toContain(note);
    },
  );

  it("a setting that is none is an answer", async () => {
    const outcome = await doctor(env("on"));
    expect(outcome.code).toBe(0);
    expect(outcome.stdout).toMatch(/ANEKIT_ACCELERATE: "on" is neither "off" nor the path of a library/);
  });
});
