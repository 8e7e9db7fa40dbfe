// Traps of chips and compilers: each program passes through the driver, and the double refuses it or computes it wrongly as it is written.

import { describe, expect, test } from "vitest";
import { trapConfigs, traps } from "./checks/traps.ts";
import { type Ended, inLane, missing, runChild } from "./start.ts";

const reason = missing();

interface TrapLine {
  readonly name: string;
  readonly wrong?: readonly string[];
  readonly result?: unknown;
  readonly left?: readonly string[];
}

const runs = new Map<string, Promise<Ended>>();
function linesOf(config: keyof typeof trapConfigs): Promise<Ended> {
  let running = runs.get(config);
  if (running === undefined) {
    running = inLane(() => runChild("legal-child.ts", [config], { config: trapConfigs[config] }));
    runs.set(config, running);
  }
  return running;
}

const find = async (config: keyof typeof trapConfigs, name: string) =>
  ((await linesOf(config)).lines as TrapLine[]).find((line) => line.name === name)!;

describe.skipIf(reason !== undefined)(`traps${reason === undefined ? "" : ` (${reason})`}`, { timeout: 90_000 }, () => {
  for (const config of ["old", "recent"] as const) {
    describe(trapConfigs[config], () => {
      const names = traps.filter((trap) => trap.config === trapConfigs[config]).map(({ name }) => name);
      test.each(names)("%s", async (name) => {
        expect((await find(config, name)).wrong).toEqual([]);
      });
      test("leaves nothing behind", async () => {
        const { violations, left } = await linesOf(config);
        expect(left).toEqual([]);
        expect(violations.filter((line) => line.includes("leak: ") || line.includes("pool: "))).toEqual([]);
      });
    });
  }

  const call = async <T>(name: string): Promise<T> => {
    const { result, left } = await find("recent", name);
    expect(left).toEqual([]);
    return result as T;
  };

  test("sizes of ports: buffers are larger than they need be, and one that is too small is refused", async () => {
    const { results, tooSmall } = await call<{ results: string[]; tooSmall: string }>("sizes of ports");
    expect(results).toEqual([1, 3, 31, 32, 33, 65, 1000].map((count) => `${count} true`));
    expect(tooSmall).toContain("io_port_bind_buffer_object failed");
  });

  test("epsilons below fp16's normal numbers keep rows finite; another dtype is refused", async () => {
    const { found, raw } = await call<{ found: unknown[]; raw: string }>("epsilon below the range of fp16");
    expect(found).toEqual([
      [1e-3, true, true],
      [1e-5, true, true],
      [1e-7, true, true],
    ]);
    expect(raw).toContain("epsilon is fp32, gamma fp16");
  });

  test("programs above the limit are refused; the driver keeps below it", async () => {
    const found = await call<{ count: number; refusal: string; livePrograms: number }>(
      "more programs than the process may hold",
    );
    expect(found).toEqual({ count: 110, refusal: expect.stringContaining("0x50004"), livePrograms: 108 });
  });

  test("a compile right after a failed one fails, too; a later one does not", async () => {
    const { first, second } = await call<{ first: string; second: string }>("a compiler that a failure has poisoned");
    expect([first, second]).toEqual([expect.stringContaining("FAILED"), expect.stringContaining("FAILED")]);
  });

  test("too many constants are refused; the parts of a program that is cut are not", async () => {
    const { whole, each } = await call<{ whole: string; each: string[] }>("more constants than a program may have");
    expect(whole).toContain("bytes of weights");
    expect(each).toEqual(["ok", "ok", "ok"]);
  });
});
