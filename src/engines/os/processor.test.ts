// What is known of an arm64 processor, from what both systems would say.

import { describe, expect, test } from "vitest";
import type { Libc } from "./libc.ts";
import { armProcessor } from "./processor.ts";

const linux = (capabilities: number) => ({ libc: { getauxval: () => capabilities } as unknown as Libc });

describe("an arm64 processor", () => {
  test("has the features of the auxiliary vector, and a name by its numbers", () => {
    const cpuinfo = (part: string) =>
      `processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n\nCPU part\t: ${part}\n`;
    const { name, flags } = armProcessor(linux(0x100703), () => cpuinfo("0xd0c"));
    expect(name).toBe("Neoverse N1");
    expect([...flags]).toEqual(["asimd", "atomics", "fphp", "asimdhp", "asimddp"]);
    expect(armProcessor(linux(3), () => cpuinfo("0xfff")).name).toBe("arm64 processor 0xfff of implementer 0x41");
    expect(armProcessor(linux(3), () => "").name).toBe("unknown arm64 processor");
  });

  test("has the features of macOS' sysctl, by the names of every version", () => {
    const macos = (values: Readonly<Record<string, string | number>>) => {
      const sysctlbyname: Libc["sysctlbyname"] = (name, value, size) => {
        const found = values[name];
        if (found === undefined) return -1;
        const bytes = typeof found === "number" ? [found, 0, 0, 0] : [...Buffer.from(`${found}\0`)];
        value.set(bytes);
        size[0] = BigInt(bytes.length);
        return 0;
      };
      return armProcessor({ libc: { sysctlbyname } as unknown as Libc });
    };
    const recent = macos({
      "machdep.cpu.brand_string": "Apple M4",
      "hw.optional.AdvSIMD": 1,
      "hw.optional.arm.FEAT_LSE": 1,
      "hw.optional.arm.FEAT_FP16": 1,
      "hw.optional.arm.FEAT_DotProd": 0,
    });
    expect(recent).toEqual({ name: "Apple M4", flags: new Set(["asimd", "atomics", "fphp", "asimdhp"]) });
    const first = macos({ "hw.optional.neon": 1, "hw.optional.armv8_1_atomics": 1, "hw.optional.armv8_2_fhm": 1 });
    expect(first).toEqual({ name: "unknown arm64 processor", flags: new Set(["asimd", "atomics", "asimdfhm"]) });
  });
});
