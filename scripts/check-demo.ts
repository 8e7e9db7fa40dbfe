// Runs the demo as a newcomer would and fails unless it learned: `npm run check:demo`.

import { command } from "./steps.ts";

/** Nats by which the validation loss must undercut guessing letters by their frequency (3.04 nats a byte in the held-out speeches). */
const unigramEntropy = 3.04;
const margin = 1.2;

const started = performance.now();
const lines = command("npx", ["tsx", "src/cli/main.ts", "demo", "--json"], { timeout: 300_000 }).trim().split("\n");
const events = lines.map(
  (line) => JSON.parse(line) as { summary?: { valLoss: number; steps: number }; completion?: string },
);
const summary = events.find((event) => event.summary !== undefined)?.summary;
const completion = events.find((event) => event.completion !== undefined)?.completion;
const seconds = ((performance.now() - started) / 1000).toFixed(0);
process.stdout.write(
  `demo: ${summary?.steps} steps in ${seconds} s, validation loss ${summary?.valLoss}\n${completion}\n`,
);
const learned = summary !== undefined && summary.valLoss < unigramEntropy - margin && (completion ?? "").length > 100;
process.stdout.write(`demo: ${learned ? "1 passed, 0 failed" : "0 passed, 1 failed"}\n`);
process.exitCode = learned ? 0 : 1;
