// The 28 targets of the Neural Engine's compiler as data: family, cores, limits, features. No clock curves, no cost model.
// Sources: "targets", "ops", "runtime" are the ANEForge fact sheets, "mil", "bridge" the ANEgpt ones, "probes" the published
// silicon numerics. Status: measured (on the chip named), documented (the sheet's own table), inferred (neither; doubt stated).

import type { DType } from "../core/dtype.ts";
import { ConfigError } from "../core/errors.ts";

/** Families, oldest first; what one can run, every later one can. Targets §1, families 1 to 5, documented. */
export const chipFamilies = ["OLDER", "A13", "A14", "A15", "A16"] as const;

/** Generation that decides what a chip can run; chips of a family differ only in cores and clocks. Targets §1, documented. */
export type ChipFamily = (typeof chipFamilies)[number];

/** A dtype of program inputs and outputs: narrow integers exist only there, as storage that a `cast` widens. */
export type PortDType = DType | "int8" | "uint8" | "int16" | "uint16";

/** An encoding of constant weights that the engine may decode while it streams them. */
export type WeightEncoding = "int4" | "int8" | "sparse" | "blockwise";

/** Sizes and magnitudes past which a family refuses a program or loses values; extents in elements, values as fp16 numbers. */
export interface ChipLimits {
  /** Axes of a tensor. */
  readonly maxRank: number;
  /** Extent of any axis but axis 1 of a rank-4 tensor; matrix product's contraction included. Not for transposes, see `transposeExtent`. */
  readonly maxTensorDim: number;
  /** Extent of axis 1 (channels) of a rank-4 tensor. */
  readonly channelExtent: number;
  /** Extent of every axis of a transpose and of a program input that feeds one, instead of the two limits above. */
  readonly transposeExtent: number;
  /** Depth of a matrix product: extent of the axis before the last three, of rank-5 operands. */
  readonly matmulDepthMax: number;
  /** Width of an fp16 convolution kernel, in elements. */
  readonly convKernelWidthMax: number;
  /** Height of a convolution kernel, in elements. */
  readonly convKernelHeightMax: number;
  /** Width and height of a pooling window, in elements. */
  readonly poolWindowMax: number;
  /** Extent of the axis that an arg-minimum or arg-maximum reduces. */
  readonly argReduceExtentMax: number;
  /** Largest finite magnitude of a result of `matmul`, `linear` or a convolution of two taps or more; the next fp16 is infinity. */
  readonly matmulOutputMax: number;
  /** Largest magnitude that survives a slice of the last axis with begin > 0; undefined where only fp16's own range limits. */
  readonly widthSliceMax: number | undefined;
  /** Programs that one process can hold loaded; approximate, plan below it. */
  readonly maxPrograms: number;
  /** Bytes of a program's constants, approximate. */
  readonly maxConstantBytes: number;
  /** Dtypes of program inputs and outputs. */
  readonly portDtypes: readonly PortDType[];
}

// Each family states what differs from the one before it, or what was measured there anew.
const limitsA13: ChipLimits = {
  maxRank: 5, // ops §0 and §5: rank 6 rejected; measured on M5 Pro (mil §8), documented for the rest
  maxTensorDim: 16384, // targets §3: 16385 rejected; measured on M1 (mil §6: swept, exact)
  channelExtent: 65536, // targets §3: 65537 rejected; documented (mil §6, §8: also seen on M4 Pro)
  transposeExtent: 8388607, // targets §3: 23-bit offset field; documented; mil §6 says 16384 instead: conflict
  matmulDepthMax: 1, // mil §6; documented; which axis is depth: inferred from the engine's N, D, C, H, W
  convKernelWidthMax: 13, // targets §3, mil §6; documented for M1
  convKernelHeightMax: 29, // mil §6, ops §4; documented for M1; ops §5 knows no cap but the input's height: conflict
  poolWindowMax: 29, // ops §4; documented for M1
  argReduceExtentMax: 2048, // mil §6; documented; fp16 holds every index below it exactly (ops §3)
  matmulOutputMax: 32752, // probes: 32752 finite, 32768 infinity; measured on M1; about the same on M1 to M6 (targets §7)
  widthSliceMax: 4094, // probes: 4094 exact, 4095 infinity (fixed gain of 16); measured on M1, M1 Max
  maxPrograms: 120, // runtime §1.3: 129th load fails, 110 to 120 in practice; bridge §6: 119 compiles; measured, not per chip
  maxConstantBytes: 2e9, // weights over about 2 GB fail to load (documented); bridge §10: banks above 3.75 GiB fail on M1 Ultra, above 15 GiB on M3 Max
  portDtypes: ["fp16", "int8", "uint8", "int16", "uint16"], // runtime §2; documented; only fp16, uint8 used; mil §2 lists fp32 and int32 too: conflict
};

const limitsA14: ChipLimits = {
  ...limitsA13, // maxTensorDim, channelExtent, transposeExtent: targets §3, documented; conv 13: inherited there, not measured
  poolWindowMax: 31, // ops §4: A14 on; documented
  widthSliceMax: 4094, // targets §7; measured on M2 Pro and M2 Max; older text has it on A13 only
};

const limitsA15: ChipLimits = {
  ...limitsA14, // extents: targets §3, documented; conv 13x29: inherited, not measured
  widthSliceMax: undefined, // probes: not from A15 on; documented, no M3 among the measured machines
};

const limitsA16: ChipLimits = {
  ...limitsA15,
  maxTensorDim: 65536, // targets §3; documented; mil §8: M4 Max refused an input width of 17920: conflict
  transposeExtent: 16777215, // targets §3; documented; mil §6 says 65536: conflict
  convKernelWidthMax: 15, // targets §3, mil §8: 16 rejected; measured on M5 Pro; ops §4 says 32x32 on M5
  convKernelHeightMax: 32, // ops §4; documented for M5; ops §5 knows no cap but the input's height: conflict
  widthSliceMax: undefined, // targets §7: measured on M4, M4 Max, M5
};

// "MIL is only supported for H13+" (targets §1): limits of 0 refuse everything, should a caller not ask `features.mil` first.
const limitsOlder: ChipLimits = {
  maxRank: 0,
  maxTensorDim: 0,
  channelExtent: 0,
  transposeExtent: 0,
  matmulDepthMax: 0,
  convKernelWidthMax: 0,
  convKernelHeightMax: 0,
  poolWindowMax: 0,
  argReduceExtentMax: 0,
  matmulOutputMax: 0,
  widthSliceMax: 0,
  maxPrograms: 0,
  maxConstantBytes: 0,
  portDtypes: [],
};

/** Limits of every family; units and sources at `ChipLimits` and beside each number. */
export const familyLimits: Readonly<Record<ChipFamily, ChipLimits>> = {
  OLDER: limitsOlder,
  A13: limitsA13,
  A14: limitsA14,
  A15: limitsA15,
  A16: limitsA16,
};

/** First family that has each feature; operators not named here run from A13 on, or nowhere (targets §3, ops §4). */
export const featureFloors = {
  /** Programs in MIL at all. Targets §1: compiler's own assertion; documented. */
  mil: "A13",
  /** `affine`, `crop_resize`, `resample`, netplist `gather_hw`; rejected below. Targets §3 (HAL 0x81d), ops §4; documented. */
  textureEngine: "A14",
  /** `topk`, `argsort`, netplist sort; rejected below (M1's validator passes them, code generation does not). Targets §3, ops §4; documented. */
  topkSort: "A14",
  /** Slices whose begin is data; rejected below. Targets §3, mil §6; documented. */
  dynamicSlice: "A14",
  /** `resize*` and `upsample_*` in hardware; M1 falls back to software, rounds otherwise, aborts in some modes. Ops §4; documented. */
  upsampleNative: "A14",
  /** `gather_nd` in general; M1 only with batch 1, depth 1, 3 index channels. Ops §4; documented. */
  gatherNd: "A14",
  /** `cast` to int32. Ops §2, mil §6: walled on M1; documented. (mil §1 and §5 deny M1 and M2 any `cast`, ops §4 grants it: conflict.) */
  castInt32: "A14",
  /** Broadcasting along the depth axis of rank-5 tensors. Mil §6: none on M1; documented for M1, inferred for A14. */
  depthBroadcast: "A14",
  /** `sin` and `cos`; below, polynomials. Targets §3, ops §4; documented. */
  sinCos: "A15",
  /** `reduce_argmin`; below, decomposed or bridged. Ops §4 (HAL 0x4f2); documented. */
  argminNative: "A15",
  /** Netplist arg-maximum and arg-minimum over a whole axis (`global_argmax`, `global_argmin`); rejected below. Targets §3; documented. */
  globalArg: "A15",
  /** `random_uniform` and dropout; below, random numbers come from the host. Targets §3, ops §4 (HAL 0x4a9); documented. */
  random: "A15",
} as const satisfies Record<string, ChipFamily>;

/** Name of a feature that only later families have. */
export type ChipFeature = keyof typeof featureFloors;

/** What a chip can do; sources at `featureFloors`. */
export type ChipFeatures = { readonly [Feature in keyof typeof featureFloors]: boolean };

/**
 * First family that decodes each weight encoding as it streams it; earlier ones compile it too, unfolded to fp16.
 * Targets §3, documented; int4 and sparse measured on M1, blockwise in doubt (sweep notes: saves only file size).
 */
export const streamingFloors: Readonly<Record<WeightEncoding, ChipFamily>> = {
  int4: "A13", // HAL 0x529
  sparse: "A13", // from half zeros on
  int8: "A14",
  blockwise: "A15",
};

interface Target {
  readonly family: ChipFamily;
  readonly product: string;
  readonly productStatus: "measured" | "naming rule" | "not silicon";
  readonly cores: number | undefined;
  readonly coresStatus: "documented" | "suffix rule" | "unknown";
}

// Targets §2. Cores: the die's own table where there is one (documented); else by the rule none 4, g 8, s 16, c 32, d 64,
// not the figure in §2, which is that of the curve used as a stand-in. Naming rule: M(n) is H(n+12), not silicon-verified.
// biome-ignore format: one target a line
const targets = {
  h11: { family: "OLDER", product: "A11 generation", productStatus: "naming rule", cores: 4, coresStatus: "documented" },
  h12: { family: "OLDER", product: "A12 generation", productStatus: "naming rule", cores: undefined, coresStatus: "unknown" },
  m9: { family: "OLDER", product: "older tier", productStatus: "naming rule", cores: undefined, coresStatus: "unknown" },
  t0: { family: "OLDER", product: "older tier", productStatus: "naming rule", cores: undefined, coresStatus: "unknown" },
  h13: { family: "A13", product: "M1", productStatus: "measured", cores: 4, coresStatus: "documented" },
  h13g: { family: "A13", product: "M1 Max", productStatus: "measured", cores: 8, coresStatus: "documented" },
  t1: { family: "A13", product: "A13 tier, 16 cores", productStatus: "naming rule", cores: 16, coresStatus: "documented" },
  h14: { family: "A14", product: "M2", productStatus: "naming rule", cores: 4, coresStatus: "documented" }, // runtime: M2 Pro ran as h14
  h14g: { family: "A14", product: "M2 Pro/Max class", productStatus: "naming rule", cores: 8, coresStatus: "suffix rule" },
  h14c: { family: "A14", product: "M2 generation, 32 cores", productStatus: "naming rule", cores: 32, coresStatus: "suffix rule" },
  h15: { family: "A15", product: "M3", productStatus: "naming rule", cores: 4, coresStatus: "documented" },
  h15g: { family: "A15", product: "M3 Pro/Max class", productStatus: "naming rule", cores: 8, coresStatus: "suffix rule" },
  h15c: { family: "A15", product: "M3 generation, 32 cores", productStatus: "naming rule", cores: 32, coresStatus: "documented" },
  h16: { family: "A16", product: "M4", productStatus: "naming rule", cores: 4, coresStatus: "documented" },
  h16g: { family: "A16", product: "M4 generation, 8 cores", productStatus: "naming rule", cores: 8, coresStatus: "suffix rule" },
  h16c: { family: "A16", product: "M4 generation, 32 cores", productStatus: "naming rule", cores: 32, coresStatus: "suffix rule" },
  h16s: { family: "A16", product: "M4 generation, 16 cores", productStatus: "naming rule", cores: 16, coresStatus: "documented" },
  h17: { family: "A16", product: "M5 generation, 4 cores", productStatus: "naming rule", cores: 4, coresStatus: "documented" },
  h17a: { family: "A16", product: "M5 generation, variant a", productStatus: "naming rule", cores: undefined, coresStatus: "unknown" },
  h17g: { family: "A16", product: "M5 generation, 8 cores", productStatus: "naming rule", cores: 8, coresStatus: "suffix rule" },
  h17s: { family: "A16", product: "M5", productStatus: "measured", cores: 16, coresStatus: "documented" },
  h17c: { family: "A16", product: "M5 generation, 32 cores", productStatus: "naming rule", cores: 32, coresStatus: "documented" },
  h17d: { family: "A16", product: "M5 generation, 64 cores", productStatus: "naming rule", cores: 64, coresStatus: "documented" },
  h18: { family: "A16", product: "next generation", productStatus: "naming rule", cores: 4, coresStatus: "suffix rule" },
  m11: { family: "A15", product: "1-core efficiency engine", productStatus: "naming rule", cores: 1, coresStatus: "documented" }, // A16's operators, A13's extents: treated as A15
  // Internal reference targets without a family (targets §1); "OLDER" is ours, so that nothing is compiled for them.
  U1: { family: "OLDER", product: "internal reference target", productStatus: "not silicon", cores: undefined, coresStatus: "unknown" },
  U2: { family: "OLDER", product: "internal reference target", productStatus: "not silicon", cores: undefined, coresStatus: "unknown" },
  U3: { family: "OLDER", product: "internal reference target", productStatus: "not silicon", cores: undefined, coresStatus: "unknown" },
} as const satisfies Record<string, Target>;

/** Name of a compile target, as the compiler's option `TargetArchitecture` spells it. Targets §1 and §2, documented. */
export type ChipName = keyof typeof targets;

/** A compile target of the Neural Engine's compiler. */
export interface Chip {
  /** Value of the compiler's option `TargetArchitecture`. */
  readonly name: ChipName;
  /** Decides `limits`, `features` and `streamedEncodings`; compare with `atLeast`. */
  readonly family: ChipFamily;
  /** What it is sold in, or in what tier it belongs. */
  readonly product: string;
  /** `measured`: the sheet saw this target on this product; `naming rule`: M(n) is H(n+12), unverified. */
  readonly productStatus: "measured" | "naming rule" | "not silicon";
  /** Engine cores as the compiler's tables count them; undefined where unknown. */
  readonly cores: number | undefined;
  /** `documented`: the die's own table; `suffix rule`: from the letter that ends the name, unverified. */
  readonly coresStatus: "documented" | "suffix rule" | "unknown";
  readonly limits: ChipLimits;
  readonly features: ChipFeatures;
  /** Weight encodings that save bandwidth; others are unfolded to fp16 when the program is compiled. */
  readonly streamedEncodings: readonly WeightEncoding[];
}

function reaches(family: ChipFamily, floor: ChipFamily): boolean {
  return chipFamilies.indexOf(family) >= chipFamilies.indexOf(floor);
}

function featuresOf(family: ChipFamily): ChipFeatures {
  const entries = Object.entries(featureFloors).map(([feature, floor]) => [feature, reaches(family, floor)]);
  return Object.fromEntries(entries) as ChipFeatures;
}

function encodingsOf(family: ChipFamily): readonly WeightEncoding[] {
  const encodings = Object.keys(streamingFloors) as WeightEncoding[];
  return encodings.filter((encoding) => reaches(family, streamingFloors[encoding]));
}

function buildChip(name: ChipName): Chip {
  const target = targets[name];
  const { family } = target;
  const limits = familyLimits[family];
  return { name, ...target, limits, features: featuresOf(family), streamedEncodings: encodingsOf(family) };
}

/** Names of all 28 targets, in the sheet's order. */
export const chipNames: readonly ChipName[] = Object.keys(targets) as ChipName[];

/** The 28 targets by name: 25 kinds of silicon and 3 internal ones. Targets §1 and §2. */
export const chips: Readonly<Record<ChipName, Chip>> = Object.fromEntries(
  chipNames.map((name) => [name, buildChip(name)]),
) as Record<ChipName, Chip>;

/** The target that stands for each family on which MIL runs. Targets §1, documented. */
export const representativeChips: Readonly<Record<Exclude<ChipFamily, "OLDER">, Chip>> = {
  A13: chips.h13,
  A14: chips.h14,
  A15: chips.h15,
  A16: chips.h16s,
};

/** The target to assume where the chip is unknown: its programs run on all later chips. Targets §1, documented. */
export const floorChip: Chip = chips.h13;

/** Whether `chip` belongs to `family` or to a later one. */
export function atLeast(chip: Chip, family: ChipFamily): boolean {
  return reaches(chip.family, family);
}

/**
 * The target called `name`. Names must be checked here: the compiler silently takes the host's target for unknown ones (targets §1).
 * @throws ConfigError listing the known names when there is no such target
 */
export function findChip(name: string): Chip {
  if (Object.hasOwn(chips, name)) return chips[name as ChipName];
  throw new ConfigError("chip", `there is no target ${JSON.stringify(name)}`, {
    remedy: `use one of ${chipNames.join(", ")}`,
  });
}
