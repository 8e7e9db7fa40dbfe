// What goes to Accelerate, through a double of it: what the probe decides, kept results, programs.

import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import {
  type AccelerateOptions,
  type AccelerateProbe,
  decideAccelerate,
  readAccelerateProbe,
  thresholdsOf,
  timedSizes,
} from "../../src/engines/cpu/accelerate.ts";
import { createCpu } from "../../src/engines/cpu/index.ts";
import { chooseIsa, cpuFeatures } from "../../src/engines/cpu/isa/features.ts";
import { openSystem } from "../../src/engines/os/index.ts";
import { recordFile } from "../../src/engines/os/records.ts";
import { compile, constant, input, type Tensor } from "../../src/index.ts";
import { Missing } from "../c-library.ts";
import { reportOf, tryAccelerate } from "./accelerate-double/build.ts";

const built = tryAccelerate();
const path = String(built);
const system = await openSystem();
const features = cpuFeatures(system);
const isa = chooseIsa(features);
const machine = { processor: features.name, isa, threads: 2 };
const folder = mkdtempSync(join(tmpdir(), "anekit-accelerate-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
if (built instanceof Missing) afterAll(() => process.stdout.write(`skipped: ${built.message}\n`));

let caches = 0;
const newCache = () => join(folder, `cache-${caches++}`);
/** What the double does from now on, in this process and in those that it starts. */
const behave = (words: string) => void (process.env.ACCELERATE_DOUBLE = words);
afterEach(() => void delete process.env.ACCELERATE_DOUBLE);

/** Decides anew, or by what lies in a folder. */
const decide = (cache = newCache(), options: AccelerateOptions = {}, library = path) =>
  decideAccelerate(system, machine, { ANEKIT_ACCELERATE: library, ANEKIT_CACHE_DIR: cache }, options);

describe.skipIf(built instanceof Missing)("through the double", () => {
  describe("the probe", { timeout: 120_000 }, () => {
    test("takes a library that is faster, and keeps that", async () => {
      behave("fast");
      const cache = newCache();
      const asked: string[] = [];
      const first = await decide(cache, { progress: (what) => asked.push(what) });
      expect(first.state).toMatchObject({
        used: true,
        library: path,
        reason: expect.stringMatching(/^faster: .*single/),
      });
      expect(asked[0]).toBe("comparing results");
      expect(asked).toContain("timing 1024x1024x1024");
      expect(asked).toHaveLength(1 + first.state.probe!.measured.length);
      expect(first.sgemm!.from.single).toBeLessThanOrEqual(2 * 1024 ** 3);
      // From here on only the kept result can say so.
      behave("crash");
      const kept = await decide(cache, { progress: () => expect.fail("asked again") });
      expect(kept).toEqual(first);
      const again = await decide(cache, { fresh: true });
      expect(again.state).toMatchObject({ used: false, probe: { outcome: "crashed" } });
      expect(readdirSync(cache)).toHaveLength(1);
    });

    test.each([
      ["slow", /not faster than the engine's own code/, "measured"],
      ["wrong", /^the probe: wrong \(3 x 37x29x43: .* what rounding explains\)/, "wrong"],
      ["nan", /^the probe: wrong \(3 x 37x29x43: Infinity times/, "wrong"],
      ["wrong@24", /^the probe: wrong \(64x64x64: /, "wrong"],
      ["crash@5", /^the probe: crashed \(3 x 37x29x43: signal SIGSEGV\)/, "crashed"],
      ["hang@30", /^the probe: timed out \(64x64x64: after 3 s\)/, "timed out"],
    ])("leaves a library alone that is %s", async (words, reason, outcome) => {
      behave(words);
      const { state, sgemm } = await decide(undefined, { limitMs: words.startsWith("hang") ? 3000 : 60_000 });
      expect(state).toMatchObject({ used: false, reason: expect.stringMatching(reason), probe: { outcome } });
      expect(sgemm).toBeUndefined();
    });

    test("gives up on a library that takes too long in all, and keeps that", async () => {
      behave("hang@30");
      const cache = newCache();
      const reason = /^the probe: timed out \(.*: not done 4 s after the first product began\)$/;
      for (const allMs of [4000, 0]) {
        const { state } = await decide(cache, { allMs });
        expect(state).toMatchObject({ used: false, reason: expect.stringMatching(reason) });
      }
    });

    test("is done without where no process can be started, which is not kept", async () => {
      behave("fast");
      const cache = newCache();
      const { execPath } = process;
      process.execPath = "\0"; // which makes `fork` throw at once
      try {
        for (const { state, sgemm } of await Promise.all([decide(cache), decide(cache)])) {
          expect(state).toMatchObject({
            used: false,
            library: path,
            reason: expect.stringMatching(/^the probe cannot run: /),
          });
          expect([sgemm, state.probe]).toEqual([undefined, undefined]);
        }
      } finally {
        process.execPath = execPath;
      }
      expect(existsSync(cache)).toBe(false);
    });

    test("asks once for several engines at once", async () => {
      behave("crash");
      const cache = newCache();
      const all = await Promise.all([decide(cache), decide(cache), decide(cache)]);
      expect(new Set(all.map(({ state }) => state.probe)).size).toBe(1);
    });
  });

  describe("a kept result", { timeout: 60_000 }, () => {
    /** A result about this machine, changed or not, in a folder of its own. */
    async function kept(change: (probe: AccelerateProbe) => unknown): Promise<string> {
      behave("crash");
      subject ??= (await decide()).state.probe!.subject;
      const cache = newCache();
      const at = new Date().toISOString();
      const changed = change({ subject, outcome: "measured", detail: "", measured: times, at });
      mkdirSync(cache);
      const file = recordFile(cache, "accelerate-probe", subject);
      writeFileSync(file, typeof changed === "string" ? changed : JSON.stringify(changed));
      return cache;
    }
    let subject: string[] | undefined;
    const times: AccelerateProbe["measured"] = timedSizes.map((each) => ({ ...each, oursMs: 2, theirsMs: 1 }));

    test("is taken as it is, if it is one", async () => {
      const { state } = await decide(await kept((probe) => probe));
      expect(state).toMatchObject({ used: true, from: { single: 2 * 64 ** 3, batch: 2 * 64 ** 3 } });
      expect(state.from!["few rows"]).toBe(2 * 1024 ** 2);
    });

    test.each<[string, (probe: AccelerateProbe) => unknown]>([
      ["empty", () => ""],
      ["cut off", (probe) => JSON.stringify(probe).slice(0, -20)],
      ["no object", () => "null"],
      ["about another machine", (probe) => ({ ...probe, subject: [...probe.subject.slice(1), "M9"] })],
      [
        "of a negative time",
        ({ measured: [first, ...rest], ...probe }) => ({ ...probe, measured: [{ ...first, oursMs: -1 }, ...rest] }),
      ],
      [
        "of a time that is none",
        ({ measured: [first, ...rest], ...probe }) => ({ ...probe, measured: [{ ...first, theirsMs: null }, ...rest] }),
      ],
      ["of other products", ({ measured: [, ...rest], ...probe }) => ({ ...probe, measured: rest })],
      ["of an outcome that is none", (probe) => ({ ...probe, outcome: "perfect" })],
      ["with a text for terminals", (probe) => ({ ...probe, detail: "\u001b[2J" })],
      ["without a date", (probe) => ({ ...probe, at: "yesterday" })],
      ["of a failure long ago", (probe) => ({ ...probe, outcome: "crashed", at: "2020-01-01T00:00:00.000Z" })],
      ["of a failure to come", (probe) => ({ ...probe, outcome: "crashed", at: "9999-01-01T00:00:00.000Z" })],
      ["enormous", (probe) => JSON.stringify(probe) + " ".repeat(2 ** 20)],
    ])("is not used where it is %s", async (_, change) => {
      const cache = await kept(change);
      expect(readAccelerateProbe(cache, subject!)).toBeUndefined();
    });

    test("that cannot be used is replaced", async () => {
      const cache = await kept(() => "");
      const { state } = await decide(cache);
      expect(state).toMatchObject({ used: false, probe: { outcome: "crashed" } });
      expect(JSON.parse(readFileSync(join(cache, readdirSync(cache)[0]!), "utf8"))).toEqual(state.probe);
    });

    test("need not be kept", async () => {
      behave("crash");
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, "file"), "");
      const { state } = await decide(join(folder, "file", "cache"));
      expect(state).toMatchObject({ used: false, probe: { outcome: "crashed" } });
    });

    test("says from which size on every larger product was faster by a tenth", () => {
      const probe = { subject: [], outcome: "measured", detail: "", at: "" } as const;
      const from = (change: (each: (typeof times)[number]) => number) =>
        thresholdsOf({ ...probe, subject: [], measured: times.map((each) => ({ ...each, theirsMs: change(each) })) });
      expect(from(() => 1.81).single).toBe(2 * 64 ** 3);
      expect(from(() => 1.83).single).toBe(Infinity);
      expect(from(({ m }) => (m === 256 ? 2 : 1)).single).toBe(2 * 512 ** 3);
      expect(from(({ m }) => (m === 1024 ? 2 : 1)).single).toBe(Infinity);
      expect(from(({ m }) => (m === 4 ? 2 : 1))["few rows"]).toBe(2 * 8 * 1024 * 4096);
      expect(thresholdsOf({ ...probe, subject: [], outcome: "wrong", measured: times }).batch).toBe(Infinity);
    });

    describe("in an engine", () => {
      const numbers = (count: number, seed: number) =>
        Float32Array.from({ length: count }, (_, i) => (((i + seed) * 37) % 16) - 8);

      /** Runs a program of two inputs on an engine, with and without the double. */
      async function run(make: (x: Tensor, y: Tensor) => Tensor, shapes: [number[], number[]], more = {}) {
        const cache = await kept((probe) => probe);
        const results = [];
        reportOf(system, path);
        for (const setting of [path, "off"]) {
          const environment = { ANEKIT_ACCELERATE: setting, ANEKIT_CACHE_DIR: cache, ...more };
          delete process.env.ACCELERATE_DOUBLE;
          // The subject names the engine's threads.
          using engine = await createCpu("test", { ...environment, ANEKIT_THREADS: "2" });
          const [x, y] = shapes.map((shape, i) => input(shape, { name: "xy"[i]!, dtype: "fp32" })) as [Tensor, Tensor];
          using program = await compile({ z: make(x, y) }, { engine });
          const feeds = shapes.map((shape, i) =>
            numbers(
              shape.reduce((all, s) => all * s, 1),
              i,
            ),
          );
          const { z } = await program.run({ x: feeds[0]!, y: feeds[1]! });
          const steps = program.report().stages.flatMap(({ compiled }) => compiled!.steps);
          results.push({ reason: engine.reason, steps: steps.map(({ what }) => what), values: [...z!.data] });
        }
        const [theirs, ours] = results as [(typeof results)[0], (typeof results)[0]];
        expect(theirs.values).toEqual(ours.values);
        expect(ours.steps.filter((what) => what.includes("Accelerate"))).toEqual([]);
        return { ...theirs, before: ours.steps, ...reportOf(system, path) };
      }

      test("sends large products there, and says so", async () => {
        const { reason, steps, calls, violations } = await run(
          (x, y) => x.matmul(y),
          [
            [64, 96],
            [96, 128],
          ],
        );
        expect(reason).toMatch(/, large fp32 products by Accelerate$/);
        expect(steps).toContain("matmul 64x96x128, by Accelerate");
        expect({ calls, violations }).toEqual({ calls: 1, violations: "" });
      });

      test("calls it once for each element of a batch, from all threads", async () => {
        const shapes: [number[], number[]] = [
          [2, 3, 64, 64],
          [3, 96, 64],
        ];
        const { steps, calls, violations } = await run((x, y) => x.matmul(y, { transposeY: true }), shapes);
        expect(steps).toContain("matmul 2x3 x 64x64x96, by Accelerate");
        expect({ calls, violations }).toEqual({ calls: 6, violations: "" });
      });

      test("reads constants as they are", async () => {
        const w = constant(numbers(96 * 128, 3), [96, 128], { dtype: "fp32" });
        const { calls } = await run((x, y) => x.matmul(w).add(y), [[64, 96], [128]]);
        expect(calls).toBe(1);
      });

      test("does not chain such products to the loop behind them", async () => {
        const { before, steps, calls } = await run(
          (x, y) => x.matmul(y).relu(),
          [
            [64, 96],
            [96, 128],
          ],
        );
        expect(before).toEqual(["matmul 64x96x128, then relu"]);
        expect(steps).toContain("matmul 64x96x128, by Accelerate");
        expect(calls).toBe(1);
      });

      test("keeps small ones, fp16, and all of strict mode", async () => {
        expect(
          (
            await run(
              (x, y) => x.matmul(y),
              [
                [16, 16],
                [16, 16],
              ],
            )
          ).calls,
        ).toBe(0);
        const half = (x: Tensor, y: Tensor) => x.cast("fp16").matmul(y.cast("fp16")).cast("fp32");
        expect(
          (
            await run(half, [
              [64, 96],
              [96, 128],
            ])
          ).calls,
        ).toBe(0);
        const { calls, reason } = await run(
          (x, y) => x.matmul(y),
          [
            [64, 96],
            [96, 128],
          ],
          { ANEKIT_STRICT: "1" },
        );
        expect({ calls, reason }).toEqual({ calls: 0, reason: expect.not.stringContaining("Accelerate") });
      });
    });
  });
});
