// SIGKILL at random moments of a training process that saves every step: what is resumed is the uninterrupted run.

import { spawn } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { RandomStream } from "../../src/core/random.ts";
import { removeStaleTemporaries } from "../../src/data/files.ts";
import { adamw } from "../../src/optim/index.ts";
import { findCheckpoint, languageModelTask, listCheckpoints, Trainer } from "../../src/train/index.ts";
import { killModel, killOptions } from "./kill.ts";
import { stateHash } from "./tiny.ts";

const kills = process.env.SOAK === "1" ? 60 : 16;
const child = fileURLToPath(new URL("child.ts", import.meta.url));

/** Runs the child until `delayMs` after its first line or `lines` lines, then kills it. Returns its whole lines. */
function runAndKill(out: string, delayMs: number, lines: number): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const running = spawn(process.execPath, ["--import", "tsx", child, out], { stdio: ["ignore", "pipe", "pipe"] });
    let [text, errors] = ["", ""];
    let killed = false;
    const kill = () => {
      killed = true;
      running.kill("SIGKILL");
    };
    running.stdout.on("data", (chunk: Buffer) => {
      if (text === "") setTimeout(kill, delayMs);
      text += chunk.toString();
      if (text.split("\n").length > lines) kill();
    });
    running.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
    running.on("error", reject);
    running.on("close", () => {
      if (killed) resolve(text.split("\n").slice(0, -1));
      else reject(new Error(`the child ended by itself: ${errors}`));
    });
  });
}

test(`${kills} kills leave a run that goes on as if there had been none`, async () => {
  const out = await mkdtemp(join(tmpdir(), "anekit-kill-"));
  try {
    const random = new RandomStream(11, "kills");
    const seen = new Map<number, string>();
    let saved = 0;
    let torn = 0;
    for (let kill = 0; kill < kills; kill++) {
      // The first ones fall into the very first save; most into the saves, which take the longest.
      const lines = await runAndKill(out, kill < 2 ? 2 * kill : 500 * random.uniform(), 200);
      const [start, ...steps] = lines;
      expect(start).toBe(`start ${saved + 1}`);
      for (const line of steps) {
        const [, step, ...rest] = line.split(" ");
        // A step done but not saved is done again, with the same result.
        expect(seen.get(Number(step)) ?? rest.join(" "), `step ${step}`).toBe(rest.join(" "));
        seen.set(Number(step), rest.join(" "));
      }
      if ((await readdir(out)).some((name) => name.startsWith("."))) torn++;
      const newest = (await listCheckpoints(out)).at(-1)?.step ?? 0;
      expect(newest).toBeGreaterThanOrEqual(saved); // what was saved stays
      expect(newest).toBeGreaterThanOrEqual((seen.size === 0 ? 0 : Math.max(...seen.keys())) - 1); // at most one step is lost
      saved = newest;
    }
    // The uninterrupted run, in this process.
    const task = languageModelTask(killModel(), killOptions());
    const { accumulation, engine, precision } = killOptions();
    const options = { task, optimizer: adamw({ learningRate: 0.01 }), accumulation, engine, precision };
    using whole = await Trainer.create(options);
    for (let step = 1; step <= saved; step++) {
      const { loss, lossScale, skipped } = await whole.step();
      expect(seen.get(step), `step ${step}`).toBe(`${loss} ${lossScale} ${skipped}`);
    }
    using resumed = await Trainer.create(options);
    await resumed.load(await findCheckpoint(out));
    expect(resumed.progress).toEqual(whole.progress);
    expect(await stateHash(resumed)).toBe(await stateHash(whole));
    await removeStaleTemporaries(out); // as train does when it begins
    expect((await readdir(out)).filter((name) => name.startsWith("."))).toEqual([]); // what the kills left was cleaned up
    expect(saved).toBeGreaterThan(kills);
    expect(torn).toBeGreaterThan(0); // some kills hit a save
  } finally {
    await rm(out, { recursive: true, force: true });
  }
}, 120_000);
