// State on the Neural Engine: every case of the plans' tests under a compiler that stores as early as it may, run and runSync in turn, and shared state.

import { strictEqual } from "node:assert/strict";
import { AnekitError, compile, type Engine, input, type NDArray, parameter } from "../../../src/index.ts";
import { type StateCase, stateCases } from "../../plans/cases.ts";
import type { Bench } from "../bench.ts";
import { difference } from "./compare.ts";

type Row = Record<string, NDArray>;

/** Results and state after every run; the error's class where the chip cannot run it. */
async function rows({ outputs, update, stages, feeds }: StateCase, engine: Engine): Promise<Row[] | string> {
  try {
    using program = await compile(outputs, { engine, update, ...(stages !== undefined && { stages }) });
    const found: Row[] = [];
    for (let run = 0; run < 4; run++) {
      const options = { as: "bits" } as const;
      const results = run % 2 === 0 ? await program.run(feeds(run), options) : program.runSync(feeds(run), options);
      const row: Row = { ...(results as unknown as Row) };
      for (const [i, state] of [...update.keys()].entries())
        row[`state${i}`] = program.state.read(state, { as: "bits" }) as unknown as NDArray;
      found.push(row);
    }
    return found;
  } catch (error) {
    if (error instanceof AnekitError && error.remedy !== undefined) return error.constructor.name;
    throw error;
  }
}

export async function checkState(bench: Bench): Promise<void> {
  const { engine, reference, check, tell } = bench;
  const refused: string[] = [];
  for (const [at, { title }] of stateCases().entries()) {
    await check(title, async () => {
      const [got, want] = [await rows(stateCases()[at]!, engine), await rows(stateCases()[at]!, reference)];
      if (typeof got === "string" || typeof want === "string") {
        strictEqual(got, want);
        refused.push(title);
        return;
      }
      for (const [run, row] of want.entries()) {
        const found = difference(got[run]!, row);
        if (found !== undefined) throw new Error(`run ${run}: ${found}`);
      }
    });
  }
  tell("refused", refused);
  await check("two programs share state, one of which swaps it", async () => {
    const results: string[] = [];
    for (const each of [engine, reference]) {
      const w = parameter([1, 2, 3, 4], [2, 2], { name: "w" });
      const x = input([2, 2], { name: "x" });
      using add = await compile({ y: w.mul(2) }, { engine: each, update: new Map([[w, w.add(x)]]) });
      using turn = await compile({ z: w.sum() }, { state: add.state, update: new Map([[w, w.transpose().mul(0.5)]]) });
      const seen: unknown[] = [];
      for (let run = 0; run < 5; run++) {
        const feeds = { x: [run, 1, 0, -1] };
        seen.push((run % 2 === 0 ? await add.run(feeds) : add.runSync(feeds)).y.toNested());
        seen.push((run % 2 === 0 ? turn.runSync({}) : await turn.run({})).z.item());
        if (run === 2) add.state.write(w, [5, 6, 7, 8]);
        seen.push(Array.from(turn.state.read(w).data as Float32Array));
      }
      // Both in flight: they queue.
      const both = await Promise.all([
        add.run({ x: [1, 2, 3, 4] }),
        turn.run({}),
        add.run({ x: [1, 1, 1, 1] }),
        turn.run({}),
      ]);
      results.push(JSON.stringify([seen, both, Array.from(add.state.read(w).data as Float32Array)]));
    }
    strictEqual(results[0], results[1]);
  });
}
