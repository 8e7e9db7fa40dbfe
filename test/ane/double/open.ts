// Opens Espresso's double in this process, for its own tests.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach } from "vitest";
import { buildDouble, doubleEnvironment, Missing } from "./build.ts";
import type { Raw } from "./raw.ts";
import { Sequence, type SequenceOptions } from "./sequence.ts";

/** The library with its defaults before each test of the calling file, and a folder that goes when they end. Where there is no library the tests skip. */
export async function openDouble() {
  const folder = mkdtempSync(join(tmpdir(), "anekit-double-"));
  let missing = "";
  let library: Raw | undefined;
  let path = "";
  try {
    path = buildDouble();
    Object.assign(process.env, doubleEnvironment("", { log: join(folder, "simulator.log") }));
    const koffi = await import("koffi").then(
      (module) => module.default,
      (error: Error) => {
        throw new Missing(`koffi cannot be loaded: ${error.message}`);
      },
    );
    koffi.config({ sync_stack_size: 4 << 20, async_stack_size: 4 << 20 });
    library = new (await import("./raw.ts")).Raw(path);
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    missing = error.message;
  }
  beforeEach(({ skip }) => {
    if (library === undefined) skip(missing);
    library!.configure("");
    library!.resetReport();
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const raw = library as Raw; // tests that would use it where it is missing skip
  return {
    raw,
    folder,
    path,
    start: (options?: SequenceOptions) => new Sequence(raw, folder, options),
    /** Violations since the last look, without their marks and threads. */
    violations(): string[] {
      const lines = raw.report().filter((line) => line.startsWith("violation: "));
      raw.resetReport();
      return lines.map((line) => line.replace(/^violation: /, "").replace(/ \(thread \d+\)$/, ""));
    },
  };
}
