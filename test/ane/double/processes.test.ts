// Espresso's double in processes of their own: reports, crashes, hangs, and the life of its simulator.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { buildDouble, doubleEnvironment, Missing } from "./build.ts";
import { openDouble } from "./open.ts";

const { folder, path } = await openDouble();

const child = fileURLToPath(new URL("./child.ts", import.meta.url));
const loader = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

function runChild(scenario: string, config = "", more: Record<string, string> = {}) {
  const report = join(folder, `${scenario}-${Math.random().toString(36).slice(2)}.txt`);
  const env = { ...process.env, ...doubleEnvironment(config, { report }), ...more };
  const args = ["--import", loader, child, path, scenario, folder];
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: "utf8",
    env,
    timeout: 15_000,
  });
  return { status, signal, stdout, stderr, report: existsSync(report) ? readFileSync(report, "utf8") : "" };
}

describe("processes", () => {
  test("a child that does all correctly leaves no report", () => {
    expect(runChild("right")).toMatchObject({ status: 0, stdout: "6\n", report: "" });
  });

  test("what a child leaves over and does wrongly is in the file, a line each, after its process id", () => {
    const { status, report, stderr } = runChild("leak");
    expect(status, stderr).toBe(0);
    const lines = report.trim().split("\n");
    expect(lines[0]).toMatch(/^\d+ violation: e5rt_execution_stream_reset: a fresh stream/);
    expect(lines.slice(1).some((line) => /^\d+ leak: execution stream #\d+/.test(line))).toBe(true);
    expect(lines.at(-1)).toMatch(/^\d+ pool: pushed on thread 1 and not popped$/);
    expect(stderr).toContain("E5RT encountered an STL exception. msg = a fresh stream cannot be reset.\n");
  });

  test("a thread that ends with a pool, and one that pops another's", () => {
    const { status, report, stderr } = runChild("threads");
    expect(status, stderr).toBe(0);
    expect(report).toMatch(/violation: objc_autoreleasePoolPop: autorelease pool 0x[0-9a-f]+ belongs to thread 1/);
    expect(report).toMatch(/ended with a pool that was not popped/);
  });

  test.each([
    ["crash=compile", "right"],
    ["crash=load-time", "right"],
    ["crash=execute", "right"],
    ["crash-op=tanh,mul", "right"],
    ["abort=1", "stale"],
  ])("%s aborts", (config, scenario) => {
    expect(runChild(scenario, config)).toMatchObject({ signal: "SIGABRT" });
  });

  test.each(["hang-compile=1", "hang-execute=1"])("%s hangs until somebody ends it", async (config) => {
    const env = { ...process.env, ...doubleEnvironment(config) };
    const process_ = spawn(process.execPath, ["--import", loader, child, path, "right", folder], { env });
    const ended = new Promise((resolve) => process_.on("exit", (_code, signal) => resolve(signal)));
    const first = await Promise.race([ended, new Promise((resolve) => setTimeout(() => resolve("hangs"), 2500))]);
    process_.kill("SIGKILL");
    expect([first, await ended]).toEqual(["hangs", "SIGKILL"]);
  });

  test("a call in a forked child aborts", () => {
    const source = join(folder, "fork.c");
    writeFileSync(
      source,
      `#include <dlfcn.h>
      #include <stdint.h>
      #include <sys/wait.h>
      #include <unistd.h>
      int main(int argc, char **argv) {
        int64_t (*create)(void **) = (int64_t (*)(void **))dlsym(dlopen(argv[argc - 1], RTLD_NOW), "e5rt_execution_stream_create");
        void *out = 0;
        int status = 0;
        if (fork() == 0) return (int)create(&out);
        wait(&status);
        return status & 0x7f;
      }`,
    );
    const program = join(folder, "fork");
    const compiler = process.env.CC || "cc";
    expect(spawnSync(compiler, ["-o", program, source, "-ldl"], { encoding: "utf8" })).toMatchObject({ status: 0 });
    const file = join(folder, "fork.txt");
    const env = { ...process.env, ...doubleEnvironment("", { report: file }) };
    expect(spawnSync(program, [path], { env }).status).toBe(6); // SIGABRT
    const report = readFileSync(file, "utf8");
    expect(report).toMatch(/violation: e5rt_execution_stream_create: called in a forked child/);
  });

  test.each([
    ["view", "a view that outlives its buffer"],
    ["outside", "a byte behind a buffer's end"],
  ])("%s: %s kills who reads it", (scenario) => {
    const { signal, stdout } = runChild(scenario);
    expect(signal).toMatch(/SIGSEGV|SIGBUS/);
    expect(stdout).toBe("");
  });

  test("a compile needs a megabyte of stack", () => {
    expect(runChild("stack").signal).toMatch(/SIGSEGV|SIGBUS/);
  });

  test("a simulator that ends, or is not there, is an error", () => {
    const gone = { ESPRESSO_DOUBLE_SIMULATOR: "/nonexistent/simulator" };
    const ends = { ESPRESSO_DOUBLE_SIMULATOR: [process.execPath, "-e", "process.exit(3)"].join("\n") };
    expect(runChild("right", "", gone)).toMatchObject({ status: 1 });
    const { status, stderr } = runChild("right", "", ends);
    expect(status).toBe(1);
    expect(stderr).toContain("the simulator ended with status 3");
    expect(runChild("right", "", { ESPRESSO_DOUBLE_SIMULATOR: "" }).stderr).toContain(
      "ESPRESSO_DOUBLE_SIMULATOR is not set",
    );
  });

  test("a simulator that is killed between runs fails the next run, and all others", () => {
    const { status, stdout, stderr } = runChild("kill");
    expect(stderr).toContain("the simulator was killed by signal 9");
    expect({ status, stdout }).toEqual({ status: 0, stdout: "failed failed\n" });
  });

  test("the simulator ends with its host, however that ends", async () => {
    const { stdout } = runChild("orphan");
    const pid = Number(stdout);
    expect(pid).toBeGreaterThan(0);
    for (let i = 0; i < 100 && alive(pid); i++) await new Promise((resolve) => setTimeout(resolve, 50));
    expect(alive(pid)).toBe(false);
  });
});

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test("there is a reason where there is no compiler", () => {
  const saved = process.env.CC;
  process.env.CC = "/nonexistent/cc";
  try {
    expect(() => buildDouble()).toThrow(Missing);
    expect(() => buildDouble()).toThrow(/no C compiler: \/nonexistent\/cc/);
  } finally {
    if (saved === undefined) delete process.env.CC;
    else process.env.CC = saved;
  }
});
