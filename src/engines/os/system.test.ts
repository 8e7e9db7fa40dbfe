// Threads, pipes and the ways in which native code can be unavailable.

import { readFileSync, writeSync } from "node:fs";
import { constants } from "node:os";
import { describe, expect, test } from "vitest";
import { increment, noCode } from "../../../test/machine-code.ts";
import { loadForeign } from "./libc.ts";
import { openSystem, System } from "./system.ts";

const system = await openSystem();

describe("openSystem", () => {
  test("is opened once", async () => {
    expect(await openSystem()).toBe(system);
  });

  test("says what to do where koffi is missing or does not load", async () => {
    const missing = () => Promise.reject(new Error("Cannot find package 'koffi'\nimported from x"));
    await expect(loadForeign(missing, { platform: "linux", arch: "x64" })).rejects.toThrow(
      "native code: koffi (foreign functions) cannot be loaded on linux-x64: Cannot find package 'koffi'; install it with",
    );
    await expect(loadForeign(missing, { platform: "linux", arch: "x64" })).rejects.toMatchObject({
      code: "ERR_ANEKIT_ENGINE",
      remedy: expect.stringContaining('engine "sim"'),
    });
  });

  test("refuses systems without POSIX", async () => {
    await expect(loadForeign(undefined, { platform: "win32", arch: "x64" })).rejects.toThrow(
      'native code: win32 is not supported; use Linux or macOS, or engine "sim"',
    );
  });
});

describe("system", () => {
  test("runs native code on a thread", ({ skip }) => {
    skip(noCode !== undefined, noCode);
    using code = system.code(Uint8Array.from(increment));
    using memory = system.allocate(8);
    const threads = Array.from({ length: 5 }, (_, i) => system.thread(code.address, memory.address, { name: `t${i}` }));
    for (const thread of threads) thread.join();
    expect(memory.bytes[0]).toBeGreaterThan(0);
  });

  test("says why a thread could not be started", async () => {
    const foreign = await loadForeign();
    const libc = { ...foreign.libc, pthreadCreate: () => constants.errno.EAGAIN };
    expect(() => new System({ ...foreign, libc }).thread(0, 0)).toThrow(
      /native threads: pthread_create failed: EAGAIN; set ANEKIT_THREADS to a smaller number/,
    );
  });

  test("tells the event loop what native code writes", async () => {
    let received = 0;
    const pipe = await new Promise<ReturnType<System["pipe"]>>((resolve) => {
      const opened = system.pipe(() => {
        received++;
        resolve(opened);
      });
      opened.hold(true);
      writeSync(opened.writeFd, "x");
    });
    expect(received).toBe(1);
    if (process.platform === "linux") {
      expect(readFileSync(`/proc/self/fdinfo/${pipe.writeFd}`, "utf8")).toMatch(/^flags:\s*02000001$/m); // O_CLOEXEC, O_WRONLY
    }
    pipe.hold(false);
    pipe.close();
    pipe.close();
    pipe.hold(true);
    expect(() => writeSync(pipe.writeFd, "x")).toThrow(/EBADF|EPIPE/);
  });

  test("knows addresses of the C library's functions", () => {
    expect(system.symbol("write")).toBeGreaterThan(4096);
    expect(() => system.symbol("no_such_function")).toThrow();
  });
});
