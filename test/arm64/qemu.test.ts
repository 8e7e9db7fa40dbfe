// Tests of the arm64 assembler's code and of the portable instructions under emulation, where there is one and the machine is no arm64 itself.

import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { runArm64, whyNoArm64 } from "../../scripts/arm64.ts";

const isa = "../../src/engines/cpu/isa";
const files = ["code.test.ts", `${isa}/code.test.ts`, `${isa}/code-vectors.test.ts`];
const paths = files.map((file) => fileURLToPath(new URL(file, import.meta.url)));

// A processor without atomics and half-precision arithmetic; one with everything runs the CPU engine's tests (scripts/arm64.ts suite).
test.for(["cortex-a72"])("arm64 code runs as on %s", { timeout: 600_000 }, async (cpu, { skip }) => {
  skip(process.arch === "arm64", "an arm64 machine: these tests run by themselves");
  const reason = whyNoArm64();
  skip(reason !== undefined, reason);
  const { status, output } = await runArm64(paths, { cpu, stdio: "pipe" });
  expect(output).toMatch(/^arm64: \d+ passed, 0 failed, \d+ skipped$/m);
  expect(status).toBe(0);
});
