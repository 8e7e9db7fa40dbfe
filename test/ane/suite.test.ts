// The Neural Engine's driver through the double of Espresso, in profiles of chip and system that it plays: a process for each, two at a time. Three of
// them, of the oldest and newest and one between; `npm run soak` takes every one (ANEKIT_PROFILES=all), for minutes.

import { describe, expect, test } from "vitest";
import type { Dialect } from "../../src/passes/legalize.ts";
import { type GroupResult, groupNames } from "./bench.ts";
import { profiles } from "./double/quirks.ts";
import { type Ended, inLane, missing, runChild } from "./start.ts";

/** What the probe must find out about each profile: its spelling, and the forms that it refuses. */
const refusedForms: Readonly<Record<string, readonly string[]>> = {
  "m1-os14": [
    "concat",
    "reduceMean",
    "gelu",
    "convBias",
    "softmaxChannels",
    "stridedSlice",
    "boolCast",
    "identity",
    "unreadInputs",
  ],
  "m1-os26": ["identity", "unreadInputs"],
  "m2-os15": ["concat", "gelu", "convBias", "boolCast", "identity", "unreadInputs"],
  "m3-os15": ["reduceMean", "convBias", "softmaxChannels", "identity", "unreadInputs"],
  "m4-os26": ["stridedSlice", "identity", "unreadInputs"],
  "m5-os26": ["identity", "unreadInputs"],
  "m5-os27": ["identity"],
};

/** Operators that no chip takes in any form: their results or operands are integers, or they write where data says. */
const refusedOperators = ["reduce_argmax", "reduce_argmin", "scatter"];

const reason = missing();
const tried = process.env.ANEKIT_PROFILES === "all" ? profiles : profiles.filter((_, i) => i % 3 === 0);

describe.skipIf(reason !== undefined)(`through the double${reason === undefined ? "" : ` (${reason})`}`, () => {
  const runs = new Map<string, Promise<Ended>>();
  for (const { name } of tried) {
    describe(name, { timeout: 300_000 }, () => {
      const results = () => {
        for (const each of tried) {
          const config = each.env.ESPRESSO_DOUBLE;
          if (runs.has(each.name)) continue;
          const run = inLane(() => runChild("suite-child.ts", groupNames, { config, limitMs: 240_000 }));
          run.catch(() => {});
          runs.set(each.name, run);
        }
        return runs.get(name)!;
      };

      test.each(groupNames)("%s", async (group) => {
        const { lines } = await results();
        const found = (lines as GroupResult[]).find((line) => line.group === group)!;
        expect(found.failures).toEqual([]);
        expect(found.checks).toBeGreaterThan(5);
        if (group === "operators") {
          expect(found.facts.refused).toEqual(refusedOperators);
          expect(found.facts.taken).toBeGreaterThan(1000);
        }
      });

      test("is recognised by the probe", async () => {
        const { lines } = await results();
        const { dialect, aliasing } = lines[0] as { dialect: Dialect; aliasing: boolean };
        const refused = Object.entries(dialect.natives).flatMap(([form, native]) => (native ? [] : [form]));
        expect(refused).toEqual(refusedForms[name]);
        expect(dialect.syntax).toBe(/^m[12]-os1/.test(name) ? "verbose" : "modern");
        expect(aliasing).toBe(true);
      });

      test("leaves nothing behind", async () => {
        const { violations, left, stderr } = await results();
        expect(violations).toEqual([]);
        expect(left).toEqual([]);
        expect(stderr).toBe("");
      });
    });
  }
});
