// Native memory: guard pages, what dispose gives back and when, refusals.

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import { emulated, noProcesses } from "../../../test/emulation.ts";
import { increment, load, noCode } from "../../../test/machine-code.ts";
import type { Foreign, Libc } from "./libc.ts";
import { mapMemory, NativeCode } from "./memory.ts";
import { openSystem } from "./system.ts";

const system = await openSystem();
const mebibyte = 2 ** 20;

/** Collects garbage; finalizers run in tasks of their own. */
async function collect(): Promise<void> {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as () => void;
  for (let i = 0; i < 5; i++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Permissions of the mapping that holds an address, as in /proc/self/maps; undefined where there is none. */
function rights(address: number): string | undefined {
  for (const line of readFileSync("/proc/self/maps", "utf8").split("\n")) {
    const [range, permissions] = line.split(" ");
    const [start, end] = range!.split("-").map((text) => Number.parseInt(text, 16));
    if (address >= start! && address < end!) return permissions;
  }
  return undefined;
}

const onLinux = process.platform === "linux";

describe("native memory", () => {
  test("is zeroed, writable and page-aligned, with inaccessible pages on both sides", ({ skip }) => {
    using memory = system.allocate(10_000);
    expect(memory.address % 4096).toBe(0);
    expect(memory.bytes).toEqual(new Uint8Array(10_000));
    memory.bytes.fill(7);
    expect(memory.bytes[9999]).toBe(7);
    skip(!onLinux, "no /proc/self/maps here");
    expect(rights(memory.address)).toMatch(/^rw-/);
    expect(rights(memory.address - 1)).toMatch(/^---/);
    expect(rights(memory.address + 12288)).toMatch(/^---/);
  });

  test.each([1, 3, 64, 4095, 4096, 4097, 5 * mebibyte + 12])("ends at a guard page when tight: %d bytes", (size) => {
    using memory = system.allocate(size, { tight: true });
    expect(memory.bytes.length).toBe(size);
    expect((memory.address + size) % 4096).toBe(0);
    memory.bytes.fill(1);
    if (onLinux) {
      expect(rights(memory.address + size - 1)).toMatch(/^rw-/);
      expect(rights(memory.address + size)).toMatch(/^---/);
    }
  });

  test("starts where huge pages start from 4 MiB on", () => {
    using memory = system.allocate(4 * mebibyte);
    expect(memory.address % (onLinux ? 2 * mebibyte : 4096)).toBe(0);
  });

  test("may be empty", () => {
    using memory = system.allocate(0);
    expect(memory.bytes.length).toBe(0);
  });

  test("kills the process that reads behind its end", ({ skip }) => {
    skip(!onLinux, "signals are tested on Linux");
    const script = `
      const { openSystem } = await import(${JSON.stringify(new URL("./system.ts", import.meta.url).href)});
      const system = await openSystem();
      const memory = system.allocate(100, { tight: true });
      const load = system.code(Uint8Array.from(${JSON.stringify(load)}));
      system.call(load.address, memory.address + 99);
      console.log("inside");
      system.call(load.address, memory.address + 100);
      console.log("outside");`;
    skip(noCode !== undefined, noCode);
    skip(noProcesses !== undefined, noProcesses);
    const args = ["--import", "tsx", "--input-type=module", "-e", script];
    const { stdout, signal, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
    expect({ stdout, signal, stderr: signal === null ? stderr : "" }).toEqual({
      stdout: "inside\n",
      signal: "SIGSEGV",
      stderr: "",
    });
  });

  test("is gone at once after dispose if nobody looked at it", ({ skip }) => {
    skip(!onLinux, "no /proc/self/maps here");
    const memory = system.allocate(mebibyte);
    const { address } = memory;
    memory.dispose();
    memory.dispose();
    expect(rights(address)?.startsWith("rw") ?? false).toBe(false);
    expect(() => memory.bytes).toThrow("native memory was disposed");
  });

  test("stays readable after dispose while a view is held, and goes back to the system afterwards", async ({
    skip,
  }) => {
    skip(emulated, "an emulator that does not tell how much memory is resident");
    const before = process.memoryUsage.rss();
    let held: Uint8Array | undefined;
    const allocate = () => {
      for (let i = 0; i < 8; i++) {
        const memory = system.allocate(64 * mebibyte);
        memory.bytes.fill(i + 1);
        if (i === 3) held = memory.bytes.subarray(1000, 2000);
        memory.dispose();
      }
    };
    allocate();
    await collect();
    expect(process.memoryUsage.rss() - before).toBeLessThan(2 * 64 * mebibyte);
    expect(process.memoryUsage.rss() - before).toBeGreaterThan(32 * mebibyte);
    expect(held!.every((byte) => byte === 4)).toBe(true);
    expect(new Uint8Array(held!.buffer).at(-1)).toBe(4);
    held = undefined;
    await collect();
    expect(process.memoryUsage.rss() - before).toBeLessThan(32 * mebibyte);
  });

  test("cannot be taken from its views: a copy of them has other memory", () => {
    using memory = system.allocate(4096);
    const { buffer } = memory.bytes;
    try {
      const copy = structuredClone(memory.bytes, { transfer: [buffer] });
      copy[0] = 1;
    } catch (error) {
      expect(error).toMatchObject({ name: "DataCloneError" }); // from Node 21 on
    }
    expect(memory.bytes.length).toBe(4096);
    expect(memory.bytes[0]).toBe(0);
    const { transfer } = buffer as ArrayBuffer & { transfer?: () => ArrayBuffer };
    if (transfer !== undefined) expect(() => transfer.call(buffer)).toThrow("cannot be transferred");
  });

  test("refuses sizes that are none, and says what is wrong where there is no memory", () => {
    for (const size of [-1, 1.5, Number.NaN, 2 ** 60]) {
      expect(() => system.allocate(size)).toThrow(`native memory: ${size} is not a number of bytes`);
    }
    expect(() => system.allocate(2 ** 52)).toThrow(
      /native memory: mmap of \d+ bytes was refused: ENOMEM; use a smaller/,
    );
  });
});

describe("native code", () => {
  test("is readable and executable, never writable", ({ skip }) => {
    skip(!onLinux, "no /proc/self/maps here");
    using code = system.code(Uint8Array.of(0xc3));
    expect(rights(code.address)).toMatch(/^r-xp/);
    expect(rights(code.address - 1)).toMatch(/^---/);
  });

  test("is called with its argument", ({ skip }) => {
    skip(noCode !== undefined, noCode);
    using code = system.code(Uint8Array.from(increment));
    using memory = system.allocate(8);
    system.call(code.address, memory.address);
    system.entry(code.address)(memory.address);
    expect(memory.bytes[0]).toBe(2);
  });

  test("says why it was refused", () => {
    const calls: string[] = [];
    const libc = {
      getpagesize: () => 4096,
      mmap: () => 1 << 20,
      munmap: () => calls.push("munmap"),
      mprotect: (_address: number, _bytes: number, protection: number) => (protection === 5 ? -1 : 0),
    } as unknown as Libc;
    const foreign = {
      libc,
      errno: () => "EACCES",
      view: (_: number, n: number) => new ArrayBuffer(n),
    } as unknown as Foreign;
    expect(() => new NativeCode(foreign, Uint8Array.of(0xc3))).toThrow(
      "native code: the system refused to make 4096 bytes executable: EACCES; allow executable memory",
    );
    expect(calls).toEqual(["munmap"]);
    libc.mprotect = () => -1;
    expect(() => mapMemory(foreign, 10)).toThrow("native memory: mprotect of 4096 bytes was refused: EACCES");
  });
});
