// One profile of the double from end to end: `suite-child.ts GROUP…` runs groups of checks and prints a line of JSON for each group. What the Neural
// Engine gives must be, bit for bit, what the simulator gives for the programs that the chip gets.

import type { Bench, GroupName, GroupResult } from "./bench.ts";
import { checkModels } from "./checks/models.ts";
import { checkOperators } from "./checks/operators.ts";
import { checkPlans } from "./checks/plans.ts";
import { checkRandom } from "./checks/random.ts";
import { checkState } from "./checks/state.ts";
import { leftover, openAne, print, reference } from "./inside.ts";

const groups: Readonly<Record<GroupName | "random", (bench: Bench) => Promise<void>>> = {
  operators: checkOperators,
  models: checkModels,
  state: checkState,
  plans: checkPlans,
  random: checkRandom,
};

const engine = await openAne();
print({ group: "engine", reason: engine.reason, ...engine.capabilities });
for (const name of process.argv.slice(2)) {
  const started = performance.now();
  const failures: string[] = [];
  const facts: Record<string, unknown> = {};
  let checks = 0;
  await groups[name as keyof typeof groups]({
    engine,
    reference: reference(engine),
    tell: (fact, value) => void (facts[fact] = value),
    async check(title, body) {
      checks++;
      try {
        await body();
      } catch (error) {
        failures.push(`${title}: ${(error as Error).stack}`);
      }
      for (const line of await leftover()) failures.push(`${title}: ${line}`);
    },
  });
  const seconds = Math.round((performance.now() - started) / 100) / 10;
  print({ group: name, checks, failures, facts, seconds } satisfies GroupResult);
}
engine[Symbol.dispose]();
