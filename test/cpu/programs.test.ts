// Random programs on the CPU engine and on the simulator: both instruction sets, several numbers of threads, memory between guard pages.
// `npm run soak cpu-fuzz` runs many more; a failure names its seed: `npx tsx test/cpu/fuzz-child.ts SEED 1 KIND` runs it again.

import { expect, test } from "vitest";
import { fuzz } from "./fuzz.ts";

const count = Number(process.env.FUZZ_RUNS ?? 24);
const first = Number(process.env.FUZZ_SEED ?? 1);

test(
  "random programs agree with the simulator",
  async () => {
    const { programs, failures } = await fuzz(first, count);
    expect(failures.join("\n")).toBe("");
    expect(programs).toBeGreaterThanOrEqual(5 * count);
  },
  60_000 + count * 4000,
);
