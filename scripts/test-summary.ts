// Vitest reporter: after the default one, the skipped tests by reason and one line "N passed, N failed, N skipped".

import type { Reporter, TestModule } from "vitest/node";

/** Test titles by the reason given to `context.skip(reason)`. */
type Skipped = Map<string, string[]>;

function listSkipped(skipped: Skipped): string {
  const lines = [...skipped].map(([reason, titles]) => {
    const shown = titles.length === 1 ? titles[0] : `${titles.length} tests, first: ${titles[0]}`;
    return `  ${reason}: ${shown}\n`;
  });
  return lines.length === 0 ? "" : `Skipped:\n${lines.join("")}`;
}

export class TestSummary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]): void {
    const count = { passed: 0, failed: unhandled.length, skipped: 0 };
    const skipped: Skipped = new Map();
    for (const module of modules) {
      if (module.errors().length > 0) count.failed++; // a file that fails to load holds no test
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === "passed") count.passed++;
        else if (result.state === "failed") count.failed++;
        else {
          count.skipped++;
          const reason = (result.state === "skipped" && result.note) || "no reason given";
          skipped.set(reason, [...(skipped.get(reason) ?? []), `${module.relativeModuleId} > ${test.fullName}`]);
        }
      }
    }
    process.stdout.write(
      `${listSkipped(skipped)}${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped\n`,
    );
  }
}
