// Random programs with state on the Neural Engine, for `npm run soak`: what the chip takes must be what the simulator gives, run after run.

import { difference, rowsOf } from "../../cpu/compare.ts";
import { randomProgram } from "../../cpu/programs.ts";
import type { Bench } from "../bench.ts";

export async function checkRandom({ engine, reference, check, tell }: Bench): Promise<void> {
  const first = Number(process.env.ANE_SEED ?? 1);
  const count = Number(process.env.ANE_PROGRAMS ?? 20);
  let taken = 0;
  for (let seed = first; seed < first + count; seed++) {
    await check(`seed ${seed}`, async () => {
      const program = randomProgram(seed, {
        values: seed % 3 === 0 ? "whole" : "smooth",
        dtypes: ["fp16"],
        most: 3000,
      });
      const [got, want] = [await rowsOf(program, engine), await rowsOf(program, reference)];
      if (typeof want !== "string") taken++;
      const found = difference(got, want, { signs: true });
      if (found !== undefined) throw new Error(found);
    });
  }
  tell("seeds", [first, first + count - 1]);
  tell("taken", taken);
}
