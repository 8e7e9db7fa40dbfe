// Tests: beside their source and under test/; the reporter prints why tests were skipped and the counts that CI reads.

import { configDefaults, defineConfig } from "vitest/config";
import { TestSummary } from "./scripts/test-summary.ts";

export default defineConfig({
  test: {
    include: ["src/**/*.test.ts", "test/**/*.test.ts"],
    exclude: [...configDefaults.exclude, "dist/**"],
    reporters: ["default", new TestSummary()],
    // On macOS, too, results are the engine's own; tests of Accelerate name its double.
    env: { ANEKIT_ACCELERATE: "off" },
    testTimeout: 20_000,
    hookTimeout: 30_000,
  },
});
