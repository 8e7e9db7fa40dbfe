// SIGKILL during a compile: the next start removes what is left and uses nothing of it; a process that ends by itself leaves nothing.

import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { missing, Place, runChild, start } from "./start.ts";

const reason = missing();

describe.skipIf(reason !== undefined)(`killed processes${reason === undefined ? "" : ` (${reason})`}`, () => {
  test("leave folders that the next start removes", { timeout: 60_000 }, async () => {
    using place = new Place();
    const user = join(place.tmp, `anekit-${process.getuid!()}`);
    const killed: number[] = [];
    for (let round = 0; round < 2; round++) {
      const { process: child, ended } = start("kill-child.ts", [], { place });
      const pid = await new Promise<number>((resolve, reject) => {
        child.stdout!.on("data", (text: string) => resolve(Number(text)));
        void ended.then(({ stderr }) => reject(new Error(stderr)));
      });
      child.kill("SIGKILL");
      expect((await ended).signal).toBe("SIGKILL");
      // The one that was killed before is gone, this one's files lie there.
      expect(readdirSync(user)).toEqual([String(pid)]);
      expect(place.left.some((path) => path.endsWith("model.mil"))).toBe(true);
      killed.push(pid);
    }
    // A living process's folder and what is not a process's stay.
    mkdirSync(join(user, String(process.pid)));
    writeFileSync(join(user, "note"), "");
    const { lines, stderr, violations } = await runChild("kill-child.ts", ["end"], { place });
    const [seen, y] = lines as [string[], number[]];
    expect(seen).not.toContain(String(killed[1]));
    expect(seen).toEqual(expect.arrayContaining([String(process.pid), "note"]));
    expect(y).toEqual([2, 4, 6, 8]);
    expect(stderr).toBe("");
    expect(violations.filter((line) => !killed.includes(Number.parseInt(line, 10)))).toEqual([]);
    expect(readdirSync(user).sort()).toEqual([String(process.pid), "note"]);
    expect(existsSync(place.cache)).toBe(true);
  });

  test("that end by themselves leave nothing", { timeout: 60_000 }, async () => {
    const { left, violations, stderr } = await runChild("kill-child.ts", ["end"]);
    expect([left, violations, stderr]).toEqual([[], [], ""]);
  });
});
