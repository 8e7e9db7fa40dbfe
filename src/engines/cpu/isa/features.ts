// Which instruction sets the processor has and the operating system supports, and the choice among them.

import { ConfigError, UnsupportedError } from "../../../core/errors.ts";
import type { System } from "../../os/index.ts";
import { askCpuid } from "./cpuid.ts";

/** A set of instructions that kernels are generated for: AVX2 with FMA and F16C; AVX-512 with F, BW, VL, DQ; arm64's vectors of 16 bytes. */
export type Isa = "avx2" | "avx512" | "neon";

export interface CpuFeatures {
  readonly arch: "x64" | "arm64";
  /** Brand string. */
  readonly name: string;
  /** Features by their names in /proc/cpuinfo, and "os_ymm", "os_zmm" where the operating system saves those registers. */
  readonly flags: ReadonlySet<string>;
}

const avx2Needs = ["avx", "avx2", "fma", "f16c", "bmi2", "os_ymm"];
/** Sets of instructions, best first, with the features that the generated code cannot do without. */
const needs = {
  x64: [
    ["avx512", [...avx2Needs, "avx512f", "avx512bw", "avx512vl", "avx512dq", "os_zmm"]],
    ["avx2", avx2Needs],
  ],
  arm64: [["neon", ["asimd"]]],
} as const satisfies Record<CpuFeatures["arch"], readonly (readonly [Isa, readonly string[]])[]>;

/** Names for people. */
export const isaNames = { avx512: "AVX-512", avx2: "AVX2", neon: "NEON" } as const satisfies Record<Isa, string>;

const known = new WeakMap<System, CpuFeatures>();

/** Asks the processor, or the system about it, once. @throws {UnsupportedError} on another architecture than x86-64 and arm64. */
export function cpuFeatures(system: System): CpuFeatures {
  const arch = supportedArch();
  let features = known.get(system);
  if (features === undefined) {
    features = arch === "x64" ? askCpuid(system) : { arch, ...system.armProcessor() };
    known.set(system, features);
  }
  return features;
}

/** This process's architecture. @throws {UnsupportedError} on another one than x86-64 and arm64. */
export function supportedArch(arch: string = process.arch): CpuFeatures["arch"] {
  if (arch === "x64" || arch === "arm64") return arch;
  throw new UnsupportedError("cpu engine", `it generates code for x86-64 and arm64, this is ${arch}`, {
    remedy: 'use engine "sim"',
  });
}

/** Sets of instructions that run here, best first. */
export function isasOf({ arch, flags }: CpuFeatures): readonly Isa[] {
  return needs[arch].filter(([, features]) => features.every((feature) => flags.has(feature))).map(([isa]) => isa);
}

/**
 * The best set of instructions, or `forced` (ANEKIT_ISA, passed by whoever reads the environment).
 * @throws {ConfigError} where the forced one does not exist, is another architecture's, or this processor lacks a feature of it.
 * @throws {UnsupportedError} where the processor has none of them.
 */
export function chooseIsa(features: CpuFeatures, forced?: string): Isa {
  const { arch } = features;
  const own: readonly (readonly [Isa, readonly string[]])[] = needs[arch];
  if (forced !== undefined && forced !== "") {
    const entry = own.find(([isa]) => isa === forced);
    if (entry === undefined) {
      const all = own.map(([isa]) => isa).join(", ");
      const foreign = Object.hasOwn(isaNames, forced);
      const wrong = foreign ? `is another architecture's: ${arch} has ${all}` : `is none of ${all}`;
      throw new ConfigError("ANEKIT_ISA", `"${forced}" ${wrong}`);
    }
    const missing = lacksOf(features, entry[1]);
    if (missing !== undefined) throw new ConfigError("ANEKIT_ISA", `"${forced}" cannot run here: ${missing}`);
    return entry[0];
  }
  const [best] = isasOf(features);
  if (best !== undefined) return best;
  throw new UnsupportedError("cpu engine", lacksOf(features, own.at(-1)![1])!, { remedy: 'use engine "sim"' });
}

/** What is missing of these features, in words. */
function lacksOf({ name, flags }: CpuFeatures, wanted: readonly string[]): string | undefined {
  const missing = wanted.filter((feature) => !flags.has(feature));
  if (missing.length === 0) return undefined;
  const os = missing.every((feature) => feature.startsWith("os_"));
  const facts = missing.map((feature) => feature.replace(/^os_(.)mm$/, "saving of $1mm registers")).join(", ");
  return os ? `the operating system lacks ${facts}` : `this CPU (${name}) lacks ${facts}`;
}
