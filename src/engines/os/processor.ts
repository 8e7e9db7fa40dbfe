// What the operating system says of an arm64 processor, which does not let programs ask it.

import { readFileSync } from "node:fs";
import type { Foreign, Libc } from "./libc.ts";

/** A processor: its name, and its features by their names in Linux' /proc/cpuinfo. */
export interface Processor {
  readonly name: string;
  readonly flags: ReadonlySet<string>;
}

/**
 * Features that generated code asks for: bit of AT_HWCAP (Linux' asm/hwcap.h), and names in macOS' sysctl, the second one that of macOS 11. Half-precision
 * arithmetic is one feature of Arm's, of which Linux tells the scalar and the vector half.
 */
const features: Readonly<Record<string, { readonly bit: number; readonly sysctl: readonly string[] }>> = {
  asimd: { bit: 1, sysctl: ["hw.optional.AdvSIMD", "hw.optional.neon"] },
  atomics: { bit: 8, sysctl: ["hw.optional.arm.FEAT_LSE", "hw.optional.armv8_1_atomics"] },
  fphp: { bit: 9, sysctl: ["hw.optional.arm.FEAT_FP16", "hw.optional.neon_fp16"] },
  asimdhp: { bit: 10, sysctl: ["hw.optional.arm.FEAT_FP16", "hw.optional.neon_fp16"] },
  asimddp: { bit: 20, sysctl: ["hw.optional.arm.FEAT_DotProd"] },
  asimdfhm: { bit: 23, sysctl: ["hw.optional.arm.FEAT_FHM", "hw.optional.armv8_2_fhm"] },
};
const hardwareCapabilities = 16; // AT_HWCAP

/** Names of widespread processors by implementer and part number, as Linux prints them. */
const parts: Readonly<Record<string, string>> = {
  "0x41 0xd03": "Cortex-A53",
  "0x41 0xd07": "Cortex-A57",
  "0x41 0xd08": "Cortex-A72",
  "0x41 0xd0b": "Cortex-A76",
  "0x41 0xd0c": "Neoverse N1",
  "0x41 0xd40": "Neoverse V1",
  "0x41 0xd49": "Neoverse N2",
  "0x41 0xd4f": "Neoverse V2",
  "0x41 0xd84": "Neoverse V3",
  "0xc0 0xac3": "Ampere-1",
};

/** Asks the system. `readText` is for tests. */
export function armProcessor({ libc }: Pick<Foreign, "libc">, readText: () => string = cpuinfo): Processor {
  const { getauxval, sysctlbyname } = libc;
  if (sysctlbyname !== undefined) {
    const isSet = (name: string) => (sysctl(sysctlbyname, name)?.[0] ?? 0) !== 0;
    const brand = sysctl(sysctlbyname, "machdep.cpu.brand_string") ?? [];
    const name = String.fromCharCode(...brand).replaceAll("\0", "");
    return { name: name === "" ? unknown : name, flags: flagsWhere(({ sysctl: names }) => names.some(isSet)) };
  }
  const capabilities = getauxval?.(hardwareCapabilities) ?? 0;
  return { name: linuxName(readText()), flags: flagsWhere(({ bit }) => ((capabilities >>> bit) & 1) === 1) };
}

const unknown = "unknown arm64 processor";

function flagsWhere(has: (feature: (typeof features)[string]) => boolean): ReadonlySet<string> {
  return new Set(Object.keys(features).filter((name) => has(features[name]!)));
}

function sysctl(call: NonNullable<Libc["sysctlbyname"]>, name: string): Uint8Array | undefined {
  const value = new Uint8Array(256);
  const size = new BigUint64Array([BigInt(value.length)]);
  return call(name, value, size, null, 0) === 0 ? value.subarray(0, Number(size[0])) : undefined;
}

function cpuinfo(): string {
  try {
    return readFileSync("/proc/cpuinfo", "utf8");
  } catch {
    return "";
  }
}

/** Of processors of several kinds the last one listed, which is a fast one. */
function linuxName(text: string): string {
  const last = (field: string) => [...text.matchAll(new RegExp(`^${field}\\s*: (\\S+)$`, "gm"))].at(-1)?.[1];
  const [implementer, part] = [last("CPU implementer"), last("CPU part")];
  if (implementer === undefined || part === undefined) return unknown;
  return parts[`${implementer} ${part}`] ?? `arm64 processor ${part} of implementer ${implementer}`;
}
