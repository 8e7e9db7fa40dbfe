// Tests of the arm64 assembler's code under emulation, where there is one and the machine is no arm64 itself; those of the CPU engine are `scripts/arm64.ts suite`.

import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { runArm64, whyNoArm64 } from "../../scripts/arm64.ts";

const files = ["code.test.ts"];
const paths = files.map((file) => fileURLToPath(new URL(file, import.meta.url)));

// A processor with everything, and one without atomics and half-precision arithmetic.
test.for(["max", "cortex-a72"])("arm64 code runs as on %s", { timeout: 600_000 }, async (cpu, { skip }) => {
  skip(process.arch === "arm64", "an arm64 machine: these tests run by themselves");
  const reason = whyNoArm64();
  skip(reason !== undefined, reason);
  const { status, output } = await runArm64(paths, { cpu, stdio: "pipe" });
  expect(output).toMatch(/^arm64: \d+ passed, 0 failed, \d+ skipped$/m);
  expect(status).toBe(0);
});
