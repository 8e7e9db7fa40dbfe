// What commands print, as text.

import { describe, expect, it } from "vitest";
import {
  clean,
  fields,
  formatBytes,
  formatCount,
  formatDuration,
  formatNumber,
  plural,
  table,
} from "../../src/cli/output.ts";
import { statisticsCells, statisticsOf } from "../../src/cli/statistics.ts";
import { packageVersion } from "../../src/data/package.ts";

describe("text for terminals", () => {
  it("escapes control characters and those that turn writing around", () => {
    expect(clean("a\u001b[31mred\u0007\n\tb\u009b1m")).toBe("a\\x1b[31mred\\x07\\n\\tb\\x9b1m");
    expect(clean("safe\u202egnp.exe")).toBe("safe\\u202egnp.exe");
    expect(clean("größe 张量 ✓")).toBe("größe 张量 ✓");
  });

  it("aligns tables and fields", () => {
    const columns = [{ title: "name" }, { title: "n", align: "right" }, { title: "why" }] as const;
    expect(
      table(columns, [
        ["a", "1", ""],
        ["long\u001b", "100", "x"],
      ]),
    ).toBe(["name        n  why", "a           1", "long\\x1b  100  x"].join("\n"));
    expect(
      fields([
        ["a", "1"],
        ["bcd", ["2", "3"]],
      ]),
    ).toBe(["a    1", "bcd  2", "     3"].join("\n"));
  });

  it("gives numbers few digits and a unit", () => {
    expect([0, 1.5, 1 / 3, -123456.7, 1e-8, 65504, Number.NaN].map(formatNumber)).toEqual([
      "0",
      "1.5",
      "0.3333",
      "-123500",
      "1e-8",
      "65504",
      "NaN",
    ]);
    expect([0, 652, 999, 1000, 1949, 99_949, 999_499, 999_500, 4.2e9].map(formatBytes)).toEqual([
      "0 B",
      "652 B",
      "999 B",
      "1.0 kB",
      "1.9 kB",
      "99.9 kB",
      "999 kB",
      "1.0 MB",
      "4.2 GB",
    ]);
    expect([72, 20_200].map(formatCount)).toEqual(["72", "20.2 k"]);
    expect([0.42, 12.3, 999.6, 3210, 125_000].map(formatDuration)).toEqual([
      "0.4 ms",
      "12 ms",
      "1.0 s",
      "3.2 s",
      "2 min 5 s",
    ]);
    expect([plural(1, "input"), plural(0, "input")]).toEqual(["1 input", "0 inputs"]);
  });
});

describe("statisticsOf", () => {
  it("leaves infinite values and NaN out of the range, and counts them", () => {
    const data = Float32Array.of(1, Number.NaN, -3, Number.POSITIVE_INFINITY, 2, 0, 9);
    const found = statisticsOf({ dtype: "fp16", shape: [7], data });
    expect(found).toMatchObject({ min: -3, max: 9, mean: 1.8, nonFinite: 2 });
    expect(statisticsCells(found)).toEqual(["fp16[7]", "-3", "9", "1.8", "1 NaN -3 Infinity 2 0 …   2 not finite"]);
  });

  it("has no range for empty arrays and those without finite values", () => {
    expect(statisticsOf({ dtype: "fp32", shape: [0], data: new Float32Array(0) })).toMatchObject({
      min: null,
      mean: null,
    });
    const cells = statisticsCells(statisticsOf({ dtype: "fp32", shape: [], data: Float32Array.of(Number.NaN) }));
    expect(cells).toEqual(["fp32[]", "-", "-", "-", "NaN   1 not finite"]);
  });
});

describe("packageVersion", () => {
  it("is a version", () => expect(packageVersion()).toMatch(/^\d+\.\d+\.\d+/));
});
