// What the processor says about itself, and the choice of instructions from it.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { openSystem } from "../../os/index.ts";
import { decodeFeatures } from "./cpuid.ts";
import { type CpuFeatures, chooseIsa, cpuFeatures, isasOf, supportedArch } from "./features.ts";

const all = ["avx", "avx2", "fma", "f16c", "bmi2", "os_ymm", "avx512f", "avx512bw", "avx512vl", "avx512dq", "os_zmm"];
const cpu = (flags: readonly string[], arch: CpuFeatures["arch"] = "x64"): CpuFeatures => ({
  arch,
  name: "Test CPU",
  flags: new Set(flags),
});

describe("cpuFeatures", () => {
  test("agrees with /proc/cpuinfo", async ({ skip }) => {
    skip(process.arch !== "x64" || process.platform !== "linux", "x86-64 Linux only");
    const text = readFileSync("/proc/cpuinfo", "utf8");
    const field = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, "m").exec(text)?.[1] ?? "";
    const listed = new Set(field("flags").split(" "));
    const { name, flags } = cpuFeatures(await openSystem());
    expect(name).toBe(field("model name").trim());
    for (const flag of ["fma", "f16c", "avx", "avx2", "bmi2", "avx512f", "avx512bw", "avx512_bf16", "amx_tile"]) {
      expect([flag, flags.has(flag)]).toEqual([flag, listed.has(flag)]);
    }
    expect(flags.has("os_ymm")).toBe(listed.has("avx"));
    expect(flags.has("os_zmm")).toBe(listed.has("avx512f"));
  });

  test("takes no feature from a leaf that the processor does not have", () => {
    const words = new Uint32Array(33).fill(0xffffffff);
    words[0] = 1; // highest leaf
    expect([...decodeFeatures(words).flags]).toEqual(["fma", "osxsave", "avx", "f16c", "os_ymm", "os_zmm"]);
    words[4] = 0; // highest extended leaf: no brand string
    expect(decodeFeatures(words).name).toBe("unknown x86-64 processor");
  });
});

test("the processor is asked once", async ({ skip }) => {
  skip(!["x64", "arm64"].includes(process.arch), "no code is generated here");
  const system = await openSystem();
  expect(cpuFeatures(system)).toBe(cpuFeatures(system));
});

test("the processor's features are known on arm64", async ({ skip }) => {
  skip(process.arch !== "arm64", "arm64 only");
  const { name, flags } = cpuFeatures(await openSystem());
  expect(name).not.toBe("");
  expect(flags).toContain("asimd");
});

describe("chooseIsa", () => {
  test("takes the best set that processor and system support", () => {
    expect(chooseIsa(cpu(all))).toBe("avx512");
    expect(chooseIsa(cpu(all.filter((flag) => flag !== "os_zmm")))).toBe("avx2");
    expect(chooseIsa(cpu(all.filter((flag) => flag !== "avx512vl")), "")).toBe("avx2");
  });

  test("obeys ANEKIT_ISA where it can", () => {
    expect(chooseIsa(cpu(all), "avx2")).toBe("avx2");
    expect(chooseIsa(cpu(all), "avx512")).toBe("avx512");
  });

  test("says what is missing", () => {
    expect(() => chooseIsa(cpu(all.filter((flag) => flag !== "avx512bw")), "avx512")).toThrow(
      'ANEKIT_ISA: "avx512" cannot run here: this CPU (Test CPU) lacks avx512bw',
    );
    expect(() => chooseIsa(cpu(all.filter((flag) => flag !== "os_zmm")), "avx512")).toThrow(
      'ANEKIT_ISA: "avx512" cannot run here: the operating system lacks saving of zmm registers',
    );
    expect(() => chooseIsa(cpu(all), "sse")).toThrow('ANEKIT_ISA: "sse" is none of avx512, avx2');
    expect(() => chooseIsa(cpu(all), "neon")).toThrow(
      'ANEKIT_ISA: "neon" is another architecture\'s: x64 has avx512, avx2',
    );
    expect(() => chooseIsa(cpu(["avx", "avx2", "bmi2", "f16c"]))).toThrow(
      /lacks fma, saving of ymm registers; use engine/,
    );
  });

  test("knows arm64's", () => {
    expect(isasOf(cpu(["asimd", "atomics"], "arm64"))).toEqual(["neon"]);
    expect(chooseIsa(cpu(["asimd"], "arm64"), "neon")).toBe("neon");
    expect(() => chooseIsa(cpu(["asimd"], "arm64"), "avx2")).toThrow(
      'ANEKIT_ISA: "avx2" is another architecture\'s: arm64 has neon',
    );
    expect(() => chooseIsa(cpu([], "arm64"))).toThrow("cpu engine: this CPU (Test CPU) lacks asimd; use engine");
    expect(() => supportedArch("riscv64")).toThrow("it generates code for x86-64 and arm64, this is riscv64");
  });
});
