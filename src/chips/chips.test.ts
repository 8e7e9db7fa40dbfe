// Golden facts about the targets, typed again from the fact sheets (targets.md, ops.md, mil.md), never taken from the table.

import { describe, expect, it } from "vitest";
import { ConfigError } from "../core/errors.ts";
import {
  atLeast,
  chipFamilies,
  chipFromBrand,
  chipNames,
  chips,
  familyLimits,
  findChip,
  floorChip,
  representativeChips,
} from "./index.ts";

describe("chips", () => {
  it("holds the 25 silicon targets and the 3 internal ones", () => {
    const silicon =
      "h11 h12 m9 t0 h13 h13g t1 h14 h14g h14c h15 h15g h15c h16 h16g h16c h16s h17 h17a h17g h17s h17c h17d h18 m11";
    expect(silicon.split(" ")).toHaveLength(25);
    expect([...chipNames].sort()).toEqual([...silicon.split(" "), "U1", "U2", "U3"].sort());
    for (const name of chipNames) expect(chips[name].name).toBe(name);
  });

  it("puts each target in the sheet's family", () => {
    const byFamily = Object.fromEntries(
      chipFamilies.map((family) => [family, chipNames.filter((name) => chips[name].family === family).join(" ")]),
    );
    expect(byFamily).toEqual({
      OLDER: "h11 h12 m9 t0 U1 U2 U3",
      A13: "h13 h13g t1",
      A14: "h14 h14g h14c",
      A15: "h15 h15g h15c m11",
      A16: "h16 h16g h16c h16s h17 h17a h17g h17s h17c h17d h18",
    });
  });

  it.each([
    ["h11", "OLDER", 4, "documented", "A11 generation", "naming rule"],
    ["h13", "A13", 4, "documented", "M1", "measured"],
    ["h13g", "A13", 8, "documented", "M1 Max", "measured"],
    ["h14", "A14", 4, "documented", "M2", "naming rule"],
    ["h15c", "A15", 32, "documented", "M3 generation, 32 cores", "naming rule"],
    ["h16s", "A16", 16, "documented", "M4 generation, 16 cores", "naming rule"],
    ["h17s", "A16", 16, "documented", "M5", "measured"],
    ["h17d", "A16", 64, "documented", "M5 generation, 64 cores", "naming rule"],
    ["m11", "A15", 1, "documented", "1-core efficiency engine", "naming rule"],
    ["t1", "A13", 16, "documented", "A13 tier, 16 cores", "naming rule"],
    ["h17a", "A16", undefined, "unknown", "M5 generation, variant a", "naming rule"],
    ["U2", "OLDER", undefined, "unknown", "internal reference target", "not silicon"],
  ])("describes %s as the sheet does", (name, family, cores, coresStatus, product, productStatus) => {
    expect(findChip(name)).toMatchObject({ name, family, cores, coresStatus, product, productStatus });
  });

  it("takes cores from the suffix wherever it claims the suffix rule", () => {
    const cores: Record<string, number> = { "": 4, g: 8, s: 16, c: 32, d: 64 };
    for (const chip of Object.values(chips)) {
      if (chip.coresStatus !== "suffix rule") continue;
      expect(chip.cores, chip.name).toBe(cores[/^h\d+([a-z]?)$/.exec(chip.name)?.[1] ?? "none"]);
    }
    expect(chips.h14g.cores).toBe(8); // the sheet's projection uses the 4-core curve
  });

  it("calls measured only what the sheet marks so", () => {
    expect(chipNames.filter((name) => chips[name].productStatus === "measured")).toEqual(["h13", "h13g", "h17s"]);
  });

  it("represents families as the sheet does", () => {
    const names = Object.entries(representativeChips).map(([family, chip]) => `${family} ${chip.name}`);
    expect(names).toEqual(["A13 h13", "A14 h14", "A15 h15", "A16 h16s"]);
    expect(floorChip.family).toBe("A13");
  });
});

describe("limits", () => {
  it.each([
    ["A13", 16384, 8388607, 13, 29, 29, 4094],
    ["A14", 16384, 8388607, 13, 29, 31, 4094],
    ["A15", 16384, 8388607, 13, 29, 31, undefined],
    ["A16", 65536, 16777215, 15, 32, 31, undefined],
  ] as const)("of %s are the sheet's", (family, dim, transpose, kernelWidth, kernelHeight, pool, slice) => {
    expect(familyLimits[family]).toEqual({
      maxRank: 5,
      maxTensorDim: dim,
      channelExtent: 65536,
      transposeExtent: transpose,
      matmulDepthMax: 1,
      convKernelWidthMax: kernelWidth,
      convKernelHeightMax: kernelHeight,
      poolWindowMax: pool,
      argReduceExtentMax: 2048,
      matmulOutputMax: 32752,
      widthSliceMax: slice,
      maxPrograms: 120,
      maxConstantBytes: 2e9,
      portDtypes: ["fp16", "int8", "uint8", "int16", "uint16"],
    });
  });

  it("of older chips refuse everything", () => {
    const { portDtypes, ...numbers } = familyLimits.OLDER;
    expect(portDtypes).toEqual([]);
    expect(new Set(Object.values(numbers))).toEqual(new Set([0]));
    expect(Object.keys(familyLimits.OLDER).sort()).toEqual(Object.keys(familyLimits.A13).sort());
  });

  it("belong to the family, not to the chip", () => {
    for (const chip of Object.values(chips)) expect(chip.limits).toBe(familyLimits[chip.family]);
  });

  it("leave no port for dtypes that only the host has", () => {
    for (const dtype of ["fp32", "int32", "bool"] as const) {
      for (const chip of Object.values(chips)) expect(chip.limits.portDtypes.includes(dtype)).toBe(false);
    }
  });
});

describe("features", () => {
  const sinceA13 = ["mil"];
  const sinceA14 = [
    "textureEngine",
    "topkSort",
    "dynamicSlice",
    "upsampleNative",
    "gatherNd",
    "castInt32",
    "depthBroadcast",
  ];
  const sinceA15 = ["sinCos", "argminNative", "globalArg", "random"];

  it.each([
    ["h12", []],
    ["U1", []],
    ["h13g", sinceA13],
    ["h14c", [...sinceA13, ...sinceA14]],
    ["h15", [...sinceA13, ...sinceA14, ...sinceA15]],
    ["m11", [...sinceA13, ...sinceA14, ...sinceA15]],
    ["h18", [...sinceA13, ...sinceA14, ...sinceA15]],
  ])("of %s follow the floors of the sheet", (name, expected) => {
    const features = Object.entries(findChip(name).features);
    expect(features.filter(([, has]) => has).map(([feature]) => feature)).toEqual(expected);
    expect(features).toHaveLength(12);
  });

  it("stream the weight encodings of the sheet", () => {
    expect([...chips.h11.streamedEncodings]).toEqual([]);
    expect([...chips.h13.streamedEncodings].sort()).toEqual(["int4", "sparse"]);
    expect([...chips.h14.streamedEncodings].sort()).toEqual(["int4", "int8", "sparse"]);
    expect([...chips.h15.streamedEncodings].sort()).toEqual(["blockwise", "int4", "int8", "sparse"]);
    expect([...chips.h17s.streamedEncodings].sort()).toEqual(["blockwise", "int4", "int8", "sparse"]);
  });

  it("compare by family", () => {
    expect(atLeast(chips.h14, "A14")).toBe(true);
    expect(atLeast(chips.h14, "A15")).toBe(false);
    expect(atLeast(chips.h18, "OLDER")).toBe(true);
    expect(atLeast(chips.h12, "A13")).toBe(false);
  });
});

describe("findChip", () => {
  it("refuses names that the compiler would silently replace, listing the known ones", () => {
    for (const name of ["zzz", "", "H13", "constructor", "m1"]) {
      expect(() => findChip(name)).toThrow(ConfigError);
      expect(() => findChip(name)).toThrow(
        `chip: there is no target ${JSON.stringify(name)}; use one of h11, h12, m9,`,
      );
    }
  });
});

describe("chipFromBrand", () => {
  it.each([
    ["Apple M1", "h13"],
    ["Apple M1 Pro", "h13"],
    ["Apple M1 Max", "h13g"],
    ["Apple M1 Ultra", "h13"],
    ["Apple M2", "h14"],
    ["Apple M2 Pro", "h14"],
    ["Apple M2 Max", "h14"],
    ["Apple M2 Ultra", "h14"],
    ["Apple M3", "h15"],
    ["Apple M3 Pro", "h15"],
    ["Apple M3 Max", "h15"],
    ["Apple M3 Ultra", "h15"],
    ["Apple M4", "h16s"],
    ["Apple M4 Pro", "h16s"],
    ["Apple M4 Max", "h16s"],
    ["Apple M5", "h17s"],
    ["Apple M5 Pro", "h17s"],
    ["Apple M5 Max", "h16s"],
    ["Apple M1 Max\n", "h13g"],
    ["Apple M2 (Virtual)", "h14"],
  ])("takes %j for %s", (brand, name) => {
    expect(chipFromBrand(brand)?.name).toBe(name);
  });

  it.each([
    "",
    "Apple",
    "Apple M6",
    "Apple M10",
    "Apple M1x",
    "Apple A18 Pro",
    "Apple processor",
    "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz",
    "Not Apple M1",
  ])("does not guess at %j", (brand) => {
    expect(chipFromBrand(brand)).toBeUndefined();
  });
});
