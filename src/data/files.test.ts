import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { FileError } from "../core/errors.ts";
import {
  isInside,
  makeFolder,
  removeStaleTemporaries,
  temporaryPrefix,
  writeFileAtomic,
  writeFolderAtomic,
} from "./files.ts";

const deadPid = 2 ** 30; // above Linux's and macOS's highest process id
const random = "0123456789abcdef";

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "anekit-data-"));
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(folder, { recursive: true, force: true });
});

async function names(path = folder): Promise<string[]> {
  return (await readdir(path)).sort();
}

/** Starts a process that runs `body` with files.ts imported and `folder` defined. */
async function start(body: string): Promise<ChildProcess> {
  const here = dirname(fileURLToPath(import.meta.url));
  const script = join(folder, "child.mts");
  const head = `import * as files from ${JSON.stringify(join(here, "files.ts"))};
    import fs from "node:fs"; import path from "node:path";
    const folder = ${JSON.stringify(folder)};
    const sleep = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);`;
  await writeFile(script, `${head}\n${body}\n`);
  const child = spawn(process.execPath, ["--import", "tsx", script], {
    stdio: ["ignore", "pipe", "inherit"],
    cwd: here,
  });
  return child;
}

async function killWhenReady(child: ChildProcess, delayMs = 0): Promise<void> {
  await once(child.stdout!, "data");
  if (delayMs > 0) await new Promise((resolve) => setTimeout(resolve, delayMs));
  child.kill("SIGKILL");
  await once(child, "exit");
}

describe("writeFileAtomic", () => {
  it("writes text, bytes and chunks, replacing what was there", async () => {
    const path = join(folder, "a");
    await writeFileAtomic(path, "né");
    expect(await readFile(path, "utf8")).toBe("né");
    await writeFileAtomic(path, Uint8Array.of(1, 2).subarray(1));
    expect([...(await readFile(path))]).toEqual([2]);
    await writeFileAtomic(path, [Uint8Array.of(1), new Uint8Array(0), Uint8Array.of(2, 3)]);
    expect([...(await readFile(path))]).toEqual([1, 2, 3]);
    await writeFileAtomic(path, []);
    expect(await readFile(path, "utf8")).toBe("");
    expect(await names()).toEqual(["a"]);
  });

  it("keeps permissions and follows a link", async () => {
    const path = join(folder, "real");
    await writeFile(path, "old");
    await chmod(path, 0o600);
    await symlink("real", join(folder, "link"));
    await writeFileAtomic(join(folder, "link"), "new");
    expect(await readFile(path, "utf8")).toBe("new");
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(await names()).toEqual(["link", "real"]);
  });

  it("leaves the old file and no temporary when the data fail", async () => {
    const path = join(folder, "a");
    await writeFile(path, "old");
    const data = function* () {
      yield new Uint8Array(100);
      throw new RangeError("the producer failed");
    };
    await expect(writeFileAtomic(path, data())).rejects.toThrow(RangeError);
    expect(await readFile(path, "utf8")).toBe("old");
    expect(await names()).toEqual(["a"]);
  });

  it("says what is wrong with the target", async () => {
    await expect(writeFileAtomic(join(folder, "no", "a"), "x")).rejects.toThrow(FileError);
    await expect(writeFileAtomic(join(folder, "no", "a"), "x")).rejects.toThrow("a: no such file or folder");
    await mkdir(join(folder, "sub"));
    await expect(writeFileAtomic(join(folder, "sub"), "x")).rejects.toThrow("sub: is a folder, not a file");
    await expect(writeFileAtomic(join(folder, "n".repeat(300)), "x")).rejects.toThrow("the name is too long");
    expect(await names()).toEqual(["sub"]);
  });

  it("leaves the old file when the process is killed in the middle; the rest is then removed", async () => {
    await writeFile(join(folder, "a"), "old");
    const child = await start(`
      function* data() {
        yield new Uint8Array(1 << 20); yield new Uint8Array(1 << 20);
        fs.writeSync(1, "ready"); sleep(60_000);
      }
      await files.writeFileAtomic(path.join(folder, "a"), data());`);
    await once(child.stdout!, "data");
    expect(await removeStaleTemporaries(folder)).toEqual([]); // its process runs
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(await readFile(join(folder, "a"), "utf8")).toBe("old");
    expect((await names()).some((name) => name.startsWith(temporaryPrefix))).toBe(true);
    expect((await removeStaleTemporaries(folder)).length).toBe(1);
    expect(await names()).toEqual(["a", "child.mts"]);
  }, 30_000);

  it("leaves a whole version when the process is killed at any time", async () => {
    for (const delayMs of [1, 7, 19, 40, 80]) {
      const child = await start(`
        for (let version = 0; ; version = (version + 1) % 256) {
          const chunk = new Uint8Array(1 << 16).fill(version);
          await files.writeFileAtomic(path.join(folder, "a"), new Array(8).fill(chunk));
          await files.writeFolderAtomic(path.join(folder, "b"), async (to) => {
            for (const name of ["x", "y"]) fs.writeFileSync(path.join(to, name), chunk);
          });
          if (version === 0) fs.writeSync(1, "ready");
        }`);
      await killWhenReady(child, delayMs);
      await removeStaleTemporaries(folder);
      expect((await names()).filter((name) => name.startsWith(temporaryPrefix))).toEqual([]);
      const bytes = await readFile(join(folder, "a"));
      expect(bytes.length).toBe(1 << 19);
      expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
      const [x, y] = await Promise.all(["x", "y"].map((name) => readFile(join(folder, "b", name))));
      expect(x!.length).toBe(1 << 16);
      expect(x!.equals(y!)).toBe(true);
    }
  }, 60_000);
});

describe("makeFolder", () => {
  it("makes the folders that are missing, where there are any", async () => {
    const deep = join(folder, "a", "b", "c");
    for (let time = 0; time < 2; time++) makeFolder(deep);
    expect((await stat(deep)).isDirectory()).toBe(true);
  });

  it("refuses to go through a file, and a link to nothing", async () => {
    await writeFile(join(folder, "file"), "");
    await symlink(join(folder, "nothing"), join(folder, "link"));
    expect(() => makeFolder(join(folder, "file"))).toThrow("file: is a file, not a folder");
    expect(() => makeFolder(join(folder, "file", "a", "b"))).toThrow(/not a folder/); // which part is, some versions of Node tell
    expect(() => makeFolder(join(folder, "link"))).toThrow(FileError);
  });

  it.runIf(process.platform === "linux")("ends where a folder takes none", () => {
    const path = join("/proc", "anekit", "set");
    expect(() => makeFolder(path)).toThrow("/proc/anekit: no folder can be made in /proc");
  });
});

describe("writeFolderAtomic", () => {
  const fill = (text: string) => async (to: string) => {
    await mkdir(join(to, "deep"));
    await writeFile(join(to, "deep", "a"), text);
  };

  it("writes a folder, and replaces one as a whole", async () => {
    const path = join(folder, "out");
    await writeFolderAtomic(path, fill("one"));
    await writeFile(join(path, "extra"), "");
    await writeFolderAtomic(`${path}/`, fill("two"));
    expect(await readFile(join(path, "deep", "a"), "utf8")).toBe("two");
    expect(await names(path)).toEqual(["deep"]);
    expect(await names()).toEqual(["out"]);
  });

  it("leaves the old folder and no temporary when writing fails", async () => {
    const path = join(folder, "out");
    await writeFolderAtomic(path, fill("one"));
    const failing = async (to: string) => {
      await writeFile(join(to, "b"), "");
      throw new RangeError("the writer failed");
    };
    await expect(writeFolderAtomic(path, failing)).rejects.toThrow(RangeError);
    expect(await readFile(join(path, "deep", "a"), "utf8")).toBe("one");
    expect(await names()).toEqual(["out"]);
  });

  it("says what is wrong with the target", async () => {
    await writeFile(join(folder, "file"), "x");
    await expect(writeFolderAtomic(join(folder, "file"), fill("x"))).rejects.toThrow("file: is a file, not a folder");
    await expect(writeFolderAtomic(join(folder, "no", "out"), fill("x"))).rejects.toThrow("no such file or folder");
    expect(await readFile(join(folder, "file"), "utf8")).toBe("x");
    expect(await names()).toEqual(["file"]);
  });

  it("leaves the old folder when the temporary one is gone", async () => {
    const path = join(folder, "out");
    await writeFolderAtomic(path, fill("one"));
    await expect(writeFolderAtomic(path, (to) => rm(to, { recursive: true }))).rejects.toThrow(FileError);
    expect(await readFile(join(path, "deep", "a"), "utf8")).toBe("one");
    expect(await names()).toEqual(["out"]);
  });

  // Both replace node:fs's rename in a child process, where the second rename is the one that puts the new folder in place.
  const secondRename = (action: string) => `
    import fsp from "node:fs/promises"; import { syncBuiltinESMExports } from "node:module";
    const rename = fsp.rename; let calls = 0;
    fsp.rename = (from, to) => { if (++calls === 2) { ${action} } return rename(from, to); };
    syncBuiltinESMExports();
    try {
      await files.writeFolderAtomic(path.join(folder, "out"), async (to) => fs.writeFileSync(path.join(to, "new"), ""));
    } catch (error) { fs.writeSync(1, error.name + ": " + error.message); }`;

  it("puts the old folder back when the new one cannot take its place", async () => {
    const path = join(folder, "out");
    await writeFolderAtomic(path, fill("one"));
    const child = await start(secondRename(`throw new Error("refused");`));
    const [output] = (await once(child.stdout!, "data")) as [Buffer];
    await once(child, "exit");
    expect(String(output)).toBe(`FileError: ${path}: refused`);
    expect(await readFile(join(path, "deep", "a"), "utf8")).toBe("one");
    expect(await names()).toEqual(["child.mts", "out"]);
  }, 30_000);

  it("loses nothing when the process is killed between the two renames", async () => {
    const path = join(folder, "out");
    await writeFolderAtomic(path, fill("one"));
    await killWhenReady(await start(secondRename(`fs.writeSync(1, "ready"); sleep(60_000);`)));
    expect((await names()).includes("out")).toBe(false);
    expect((await removeStaleTemporaries(folder)).length).toBe(2);
    expect(await readFile(join(path, "deep", "a"), "utf8")).toBe("one");
    expect(await names()).toEqual(["child.mts", "out"]);
  }, 30_000);
});

describe("removeStaleTemporaries", () => {
  const temporary = (pid: number, rest = "") => `${temporaryPrefix}${pid}-${random}${rest}`;

  it("removes what dead processes left and keeps the rest", async () => {
    const dead = temporary(deadPid);
    const deadFolder = temporary(deadPid, "").replace("0123", "4567");
    const alive = temporary(process.ppid);
    const ours = temporary(process.pid);
    await mkdir(join(folder, deadFolder, "deep"), { recursive: true });
    for (const name of [dead, alive, ours, `${temporaryPrefix}other`, "data"]) await writeFile(join(folder, name), "x");
    expect(await removeStaleTemporaries(folder)).toEqual([dead, deadFolder, `${temporaryPrefix}other`].sort());
    expect(await names()).toEqual([alive, ours, "data"].sort());
    expect(await removeStaleTemporaries(join(folder, "no such folder"))).toEqual([]);
    await expect(removeStaleTemporaries(join(folder, "data"))).rejects.toThrow(/not a folder/); // which part is, some versions of Node tell
  });

  it("removes one of an earlier process with this process's id", async () => {
    await writeFile(join(folder, temporary(process.pid)), "x");
    vi.spyOn(process, "uptime").mockReturnValue(-60); // started in a minute
    expect((await removeStaleTemporaries(folder)).length).toBe(1);
  });

  it("puts back a folder that a kill left aside, the latest where there are two", async () => {
    for (const [hex, text] of [
      ["f", "older"],
      ["0", "latest"],
    ] as const) {
      const aside = join(folder, temporary(deadPid, "-aside-run-1").replace("0123", hex.repeat(4)));
      await mkdir(aside);
      await writeFile(join(aside, "a"), text);
      await new Promise((resolve) => setTimeout(resolve, 20)); // distinct change times
    }
    await mkdir(join(folder, temporary(deadPid)));
    expect((await removeStaleTemporaries(folder)).length).toBe(3);
    expect(await names()).toEqual(["run-1"]);
    expect(await readFile(join(folder, "run-1", "a"), "utf8")).toBe("latest");
  });

  it("removes a folder aside whose replacement took its place", async () => {
    await mkdir(join(folder, temporary(deadPid, "-aside-run")));
    await mkdir(join(folder, "run"));
    await writeFile(join(folder, "run", "new"), "");
    await removeStaleTemporaries(folder);
    expect(await names(join(folder, "run"))).toEqual(["new"]);
    expect(await names()).toEqual(["run"]);
  });
});

describe("isInside", () => {
  it("accepts paths below the folder, existing or not, and links that stay there", async () => {
    await mkdir(join(folder, "weights"));
    await symlink("weights", join(folder, "link"));
    await symlink(folder, `${folder}-link`);
    try {
      for (const path of ["a", "weights/w.bin", "./weights//new/w.bin", "link/w.bin", "link", "..a/b", "a b/é"]) {
        expect(isInside(folder, path), path).toBe(true);
        expect(isInside(`${folder}-link`, path), path).toBe(true);
      }
    } finally {
      await rm(`${folder}-link`);
    }
    expect(isInside(join(folder, "not yet"), "a")).toBe(true);
  });

  it("refuses escapes", async () => {
    await symlink(tmpdir(), join(folder, "out"));
    await symlink(`../${basename(folder)}-sibling`, join(folder, "nowhere"));
    await symlink("loop", join(folder, "loop"));
    await symlink(".", join(folder, "self"));
    await mkdir(`${folder}-sibling`);
    await symlink(`../${basename(folder)}-sibling`, join(folder, "sibling"));
    await writeFile(join(folder, "file"), "");
    const escapes = [
      "..",
      "../x",
      "a/../../x",
      "a/../b",
      "a\\..\\b",
      "/etc/passwd",
      "C:\\x",
      "C:x",
      "\\\\host\\share",
      "\\x",
    ];
    const links = ["out/x", "out", "loop", "self", "sibling/x", "file/x"];
    try {
      for (const path of [...escapes, ...links, "", ".", "./", "a\0b"])
        expect(isInside(folder, path), path).toBe(false);
    } finally {
      await rm(`${folder}-sibling`, { recursive: true });
    }
    expect(isInside(folder, "nowhere")).toBe(false);
  });
});
