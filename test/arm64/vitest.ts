// Stands in for "vitest" where its own runner and transforms would take minutes: tests bundled for an emulated processor; see scripts/arm64.ts.
// Collecting, running and matching are vitest's; of snapshots, mocks and reports there is nothing.

import { basename } from "node:path";
import {
  ASYMMETRIC_MATCHERS_OBJECT,
  chai,
  customMatchers,
  type ExpectStatic,
  GLOBAL_EXPECT,
  JestAsymmetricMatchers,
  JestChaiExpect,
  JestExtend,
  setState,
} from "@vitest/expect";
import { startTests, type Task, type VitestRunner } from "@vitest/runner";

export { afterAll, afterEach, beforeAll, beforeEach, describe, it, test } from "@vitest/runner";

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);
const globals = globalThis as unknown as Record<symbol, unknown>;
export const expect = Object.assign(
  (value: unknown, message?: string) => chai.expect(value, message),
  chai.expect,
  globals[ASYMMETRIC_MATCHERS_OBJECT],
) as unknown as ExpectStatic;
globals[GLOBAL_EXPECT] = expect;
setState({ assertionCalls: 0 }, expect);
(chai.expect as unknown as { extend(expect: ExpectStatic, matchers: object): void }).extend(expect, customMatchers);

/** Milliseconds a test may take. */
const timeout = 600_000;

/** Runs test files, given as the functions that import them by path, prints what failed and was skipped, and the counts; sets the exit code. */
export async function runTests(files: Readonly<Record<string, () => Promise<unknown>>>): Promise<void> {
  const runner: VitestRunner = {
    config: {
      root: "/",
      setupFiles: [],
      name: undefined,
      passWithNoTests: false,
      testNamePattern: process.env.ANEKIT_TEST === undefined ? undefined : new RegExp(process.env.ANEKIT_TEST),
      allowOnly: true,
      sequence: { seed: 1, hooks: "stack", setupFiles: "list" },
      chaiConfig: undefined,
      maxConcurrency: 1,
      testTimeout: timeout,
      hookTimeout: timeout,
      retry: 0,
      includeTaskLocation: false,
      tags: [],
      tagsFilter: undefined,
      strictTags: false,
    },
    importFile: (path) => files[path]!(),
  };
  const count = { passed: 0, failed: 0, skipped: 0 };
  const report = (task: Task, names: readonly string[]): void => {
    const path = task.type === "suite" && "filepath" in task ? [basename(task.filepath)] : [...names, task.name];
    const errors = task.result?.errors ?? [];
    for (const error of errors) process.stdout.write(`failed: ${path.join(" > ")}\n${error.stack ?? error.message}\n`);
    if (task.type === "suite") {
      if (errors.length > 0) count.failed++;
      for (const child of task.tasks) report(child, path);
    } else if (task.result?.state === "pass") count.passed++;
    else if (task.result?.state === "fail") count.failed++;
    else {
      count.skipped++;
      const { note } = (task.result ?? {}) as { note?: string };
      process.stdout.write(`skipped: ${path.join(" > ")}${note === undefined ? "" : `: ${note}`}\n`);
    }
  };
  for (const file of await startTests(Object.keys(files), runner)) report(file, []);
  process.stdout.write(`arm64: ${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped\n`);
  process.exitCode = count.failed > 0 ? 1 : 0;
}
