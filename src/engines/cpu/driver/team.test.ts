// The team of native threads with hand-assembled kernels: every task once, steps in order, errors, stops, sleep, and the ends of processes.

import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { noProcesses } from "../../../../test/emulation.ts";
import { openSystem } from "../../os/index.ts";
import { type Code, entry, gp, Label, mem, type Vec } from "../code.ts";
import { baseIsa, newCode } from "../isa/new-code.ts";
import { Job, type Step } from "./job.ts";
import { errorSlot } from "./layout.ts";
import { Team } from "./team.ts";

const { r0, r1, r2, r3, sp, r14 } = gp;
const { args, task, scratch } = entry;
const system = await openSystem();

/** Factors whose products tell how arithmetic rounds: a subnormal result, a subnormal operand, a tie to even upwards, and a bit less than half. */
const factors = [
  [2 ** -126, 0.5],
  [2 ** -127, 2],
  [1 + 2 ** -23, 1.5],
  [1 + 2 ** -23, 1 + 2 ** -23],
] as const;

/** Kernels, each with the words of its argument block. */
const assembly = newCode(baseIsa ?? "avx2");
const kernels = {
  /** [counters]: counters[task]++. */
  count: kernel((code) => {
    code.mov(r0, mem(args));
    code.lockAddImm32(mem(r0, 0, task, 8), 1);
  }),
  /** [words, n]: n words become 0. */
  clear: kernel((code) => {
    code.mov(r0, mem(args));
    code.mov(r2, mem(args, 8));
    const loop = code.here();
    code.movMemImm(mem(r0, -8, r2, 8), 0);
    code.aluImm("sub", r2, 1);
    code.jcc("ne", loop);
  }),
  /** [done before, how many there must be, done now]: an error with what it found if the step before is not finished. */
  follow: kernel((code) => {
    const early = new Label();
    code.mov(r0, mem(args));
    code.mov(r3, mem(r0));
    code.alu("cmp", r3, mem(args, 8));
    code.jcc("ne", early);
    code.mov(r0, mem(args, 16));
    code.lockAddImm32(mem(r0), 1);
    code.ret();
    code.bind(early);
    code.mov(r0, mem(scratch, errorSlot));
    code.mov(mem(r0, 8), r3);
    code.movMemImm(mem(r0), 1);
  }),
  /** [task that fails, code]: error word 0 = code, 1 = task. */
  fail: kernel((code) => {
    const fine = new Label();
    code.alu("cmp", task, mem(args));
    code.jcc("ne", fine);
    code.mov(r0, mem(scratch, errorSlot));
    code.mov(mem(r0, 8), task);
    code.mov(r1, mem(args, 8));
    code.mov(mem(r0), r1);
    code.bind(fine);
  }),
  /** [iterations]: takes time. */
  spin: kernel((code) => {
    code.mov(r1, mem(args));
    const loop = code.here();
    code.aluImm("sub", r1, 1);
    code.jcc("ne", loop);
  }),
  /** [out]: out[0] += misalignment of scratch, out[1] += of the stack, out[6, 7] = out[2, 3] · out[4, 5] in fp32; then spoils every register it may. */
  surroundings: kernel((code) => {
    const product: Vec = 0;
    code.mov(r0, mem(args));
    code.mov(r3, scratch);
    code.aluImm("and", r3, 63);
    code.lockXadd(mem(r0), r3);
    code.lea(r3, mem(sp, code.callBytes));
    code.aluImm("and", r3, 15);
    code.lockXadd(mem(r0, 8), r3);
    code.vload(16, product, mem(r0, 16));
    code.vfloat("mul", product, product, mem(r0, 32), 16);
    code.vstore(16, mem(r0, 48), product);
    for (let register = 0; register < code.registers; register++) code.vconstant(register, -1);
    for (const register of Object.values(gp)) if (register !== sp && register !== r14) code.movImm(register, -7);
  }),
  /** [words, bytes of scratch]: fills scratch with the task's number and stores the sum of its bytes. */
  scratch: kernel((code) => {
    code.mov(r1, mem(args, 8));
    const fill = code.here();
    code.mov8(mem(scratch, -1, r1, 1), task);
    code.aluImm("sub", r1, 1);
    code.jcc("ne", fill);
    code.mov(r1, mem(args, 8));
    code.zero(r3);
    const loop = code.here();
    code.movzx8(r0, mem(scratch, -1, r1, 1));
    code.alu("add", r3, r0);
    code.aluImm("sub", r1, 1);
    code.jcc("ne", loop);
    code.mov(r0, mem(args));
    code.mov(mem(r0, 0, task, 8), r3);
  }),
};
function kernel(emit: (code: Code) => void): number {
  assembly.align(64);
  const at = assembly.length;
  emit(assembly);
  assembly.ret();
  return at;
}

const code = system.code(assembly.finish());
const step = (name: keyof typeof kernels, tasks: number, ...args: readonly number[]): Step => ({
  kernel: code.address + kernels[name],
  args,
  tasks,
});
const words = system.allocate(8 * 4096);
const values = new BigUint64Array(words.bytes.buffer);
const floats = new Float32Array(words.bytes.buffer);
const word = (index: number) => words.address + 8 * index;
afterAll(() => {
  words.dispose();
  code.dispose();
});

const sizes = [7, 1, 1, 2, 64, 3, 1, 100, 2, 1];
/** Steps that each check that the one before them is finished; `count` words of results from word 100 on. */
function chain(): Step[] {
  const follow = sizes.map((tasks, i) => step("follow", tasks, word(i), i === 0 ? 0 : sizes[i - 1]!, word(i + 1)));
  return [step("clear", 1, word(0), 64), ...follow, step("count", 50, word(100))];
}

/** CPU time of this process over some idle milliseconds, in milliseconds. */
async function idleCpu(milliseconds: number): Promise<number> {
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  const { user, system: kernelTime } = process.cpuUsage(before);
  return (user + kernelTime) / 1000;
}

/** About a second of work for one thread. */
const long = (steps: number, milliseconds: number) =>
  Array.from({ length: steps }, () => step("spin", 4, (milliseconds / steps) * 700_000));

describe.skipIf(process.platform !== "linux" || baseIsa === undefined)("team", () => {
  test.each([
    { threads: 1, spin: 40 },
    { threads: 2, spin: 40 },
    { threads: 3, spin: 40 },
    { threads: 8, spin: 40 },
    { threads: 2, spin: 0 }, // threads sleep at every opportunity
    { threads: 8, spin: 0 },
  ])(
    "runs every task once and every step after the one before it: $threads threads, spinning $spin µs",
    async ({ threads, spin }) => {
      using team = new Team(system, { threads, cores: threads, spinMicroseconds: spin });
      using job = new Job(system, chain());
      values.fill(0n);
      for (let run = 0; run < 500; run++) expect(team.runSync(job)).toBe("done");
      for (let run = 0; run < 500; run++) expect(await team.run(job)).toBe("done");
      expect(new Set(values.subarray(100, 150))).toEqual(new Set([1000n]));
      expect(values[150]).toBe(0n);
      expect(job.reached).toBe(sizes.length + 2);
      expect(job.error.every((value) => value === 0n)).toBe(true);
    },
  );

  test("sleeps by POSIX conditions too", async () => {
    using team = new Team(system, { threads: 4, cores: 4, waiting: "posix", spinMicroseconds: 0 });
    using job = new Job(system, chain());
    values.fill(0n);
    for (let run = 0; run < 300; run++) expect(team.runSync(job)).toBe("done");
    for (let run = 0; run < 300; run++) expect(await team.run(job)).toBe("done");
    expect(new Set(values.subarray(100, 150))).toEqual(new Set([600n]));
    await idleCpu(50);
    expect(await idleCpu(300)).toBeLessThan(30);
  });

  test("runs a small job on the calling thread", () => {
    using team = new Team(system, { threads: 2 });
    using job = new Job(system, chain(), { small: true });
    const threads = readdirSync("/proc/self/task").length;
    values.fill(0n);
    for (let run = 0; run < 1000; run++) expect(team.runSync(job)).toBe("done");
    expect(values[100]).toBe(1000n);
    expect(readdirSync("/proc/self/task").length).toBe(threads);
  });

  test("survives 100000 runs", () => {
    using team = new Team(system, { threads: 2 });
    using job = new Job(system, [step("count", 2, word(0)), step("count", 3, word(0))]);
    values.fill(0n);
    for (let run = 0; run < 100_000; run++) if (team.runSync(job) !== "done") throw new Error("not done");
    expect([...values.subarray(0, 4)]).toEqual([200_000n, 200_000n, 100_000n, 0n]);
  });

  test("takes a job without steps, and one with many", () => {
    using team = new Team(system, { threads: 2 });
    using none = new Job(system, []);
    expect(team.runSync(none)).toBe("done");
    using many = new Job(
      system,
      Array.from({ length: 10_000 }, (_, i) => step("count", 1 + (i % 3), word(0))),
    );
    values.fill(0n);
    expect(team.runSync(many)).toBe("done");
    expect([...values.subarray(0, 3)]).toEqual([10_000n, 6666n, 3333n]);
  });

  test.each([1, 4])(
    "gives kernels aligned memory and the default rounding, and loses nothing: %d threads",
    async (threads) => {
      using team = new Team(system, { threads, cores: threads });
      using job = new Job(system, [step("surroundings", 50, word(0)), step("surroundings", 1, word(0))]);
      values.fill(0n);
      floats.set(
        factors.map(([a]) => a),
        4,
      );
      floats.set(
        factors.map(([, b]) => b),
        8,
      );
      for (let run = 0; run < 100; run++) expect(team.runSync(job)).toBe("done");
      for (let run = 0; run < 100; run++) expect(await team.run(job)).toBe("done");
      expect([...values.subarray(0, 2)]).toEqual([0n, 0n]);
      expect([...floats.subarray(12, 16)]).toEqual(factors.map(([a, b]) => Math.fround(a * b)));
    },
  );

  test("gives each thread scratch memory, which grows", () => {
    using team = new Team(system, { threads: 3, cores: 3, scratchBytes: 100 });
    for (const bytes of [100, 5000, 4000, 100_000]) {
      team.reserveScratch(bytes);
      using job = new Job(system, [step("scratch", 40, word(0), bytes)]);
      values.fill(0n);
      team.runSync(job);
      expect([...values.subarray(0, 40)]).toEqual(Array.from({ length: 40 }, (_, task) => BigInt(task * bytes)));
    }
  });

  test("keeps its scratch memory where there is no more", () => {
    using team = new Team(system, { threads: 2, scratchBytes: 64 });
    expect(() => team.reserveScratch(2 ** 46)).toThrow("native memory");
    using job = new Job(system, [step("scratch", 4, word(0), 64)]);
    expect(team.runSync(job)).toBe("done");
    expect(() => new Team(system, { threads: 2, scratchBytes: 2 ** 46 })).toThrow("native memory");
  });

  test.each([1, 2, 8])("stops after the step in which a kernel reports an error: %d threads", async (threads) => {
    using team = new Team(system, { threads, cores: threads });
    for (const tasks of [1, 40]) {
      using job = new Job(system, [
        step("count", 2, word(0)),
        step("fail", tasks, tasks - 1, 0x1234),
        step("count", 2, word(10)),
      ]);
      values.fill(0n);
      for (const outcome of [team.runSync(job), await team.run(job)]) {
        expect(outcome).toBe("failed");
        expect(job.error.slice(0, 2)).toEqual([0x1234n, BigInt(tasks - 1)]);
        expect(job.reached).toBe(1);
      }
      expect([values[0], values[10]]).toEqual([2n, 0n]);
      using fine = new Job(system, chain());
      expect(team.runSync(fine)).toBe("done");
    }
  });

  test("stops between two steps when its signal fires", async () => {
    using team = new Team(system, { threads: 2 });
    using job = new Job(system, long(1000, 3000));
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    const start = performance.now();
    expect(await team.run(job, controller.signal)).toBe("stopped");
    expect(performance.now() - start).toBeLessThan(1500);
    expect(job.reached).toBeGreaterThan(0);
    expect(job.reached).toBeLessThan(1000);
    expect(await team.run(job, controller.signal)).toBe("stopped");
    using short = new Job(system, chain());
    expect(await team.run(short, new AbortController().signal)).toBe("done");
  });

  test("leaves the event loop and its pool alone while a job runs", async () => {
    using team = new Team(system, { threads: 2 });
    using job = new Job(system, long(4, 200));
    let ticks = 0;
    const timer = setInterval(() => ticks++, 5);
    let files = 0;
    const run = team.run(job);
    const reading = (async () => {
      for (let i = 0; i < 8; i++) {
        await readFile(new URL(import.meta.url));
        files++;
      }
    })();
    expect(await run).toBe("done");
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(3);
    expect(files).toBe(8);
    await reading;
  });

  test("has one run in flight, and says so", async () => {
    using team = new Team(system, { threads: 2 });
    using job = new Job(system, long(4, 20));
    const run = team.run(job);
    expect(() => team.runSync(job)).toThrow("cpu engine: a run is in flight on these threads");
    expect(() => team.run(job)).toThrow("in flight");
    expect(() => team.reserveScratch(1 << 20)).toThrow("in flight");
    expect(await run).toBe("done");
    expect(team.runSync(job)).toBe("done");
  });

  test("does not crawl with more threads than processors", () => {
    using one = new Team(system, { threads: 1 });
    using eight = new Team(system, { threads: 8, cores: 8 });
    using job = new Job(
      system,
      Array.from({ length: 2000 }, () => step("spin", 16, 2000)),
    );
    const time = (team: Team) => {
      const start = performance.now();
      team.runSync(job);
      return performance.now() - start;
    };
    time(eight);
    const [alone, crowd] = [Math.min(time(one), time(one)), Math.min(time(eight), time(eight), time(eight))];
    expect(crowd).toBeLessThan(3 * alone);
  });

  test("burns no processor time when idle", async () => {
    using team = new Team(system, { threads: 4, cores: 4 });
    using job = new Job(system, chain());
    for (let run = 0; run < 100; run++) team.runSync(job);
    for (let run = 0; run < 100; run++) await team.run(job);
    await idleCpu(100);
    expect(await idleCpu(1000)).toBeLessThan(50);
  });

  test("keeps time stamps of a profiled job", () => {
    using team = new Team(system, { threads: 2 });
    using job = new Job(system, [step("spin", 1, 1000), step("spin", 4, 20_000), step("spin", 2, 1000)], {
      profile: true,
    });
    for (let run = 0; run < 3; run++) team.runSync(job);
    const { ticks } = job;
    expect(ticks.length).toBe(3);
    const start = performance.now();
    team.runSync(job);
    const elapsed = (performance.now() - start) * 1000;
    expect((job.ticks[2]!.end - job.ticks[0]!.start) / team.ticksPerMicrosecond).toBeLessThan(elapsed * 1.1 + 5);
    for (const [i, { start, end }] of ticks.entries()) {
      expect(end).toBeGreaterThan(start);
      if (i > 0) expect(start).toBeGreaterThanOrEqual(ticks[i - 1]!.end);
    }
    // Of 80 000 rounds of a loop some thread has half: no processor takes less for them, in whatever ticks its clock counts.
    expect((ticks[1]!.end - ticks[1]!.start) / team.ticksPerMicrosecond).toBeGreaterThan(4);
    using plain = new Job(system, chain());
    team.runSync(plain);
    expect(plain.ticks).toEqual([]);
  });

  test("works beside other teams", async () => {
    const teams = [1, 2, 3, 2].map((threads) => new Team(system, { threads, cores: threads }));
    const jobs = teams.map((_, i) => new Job(system, [step("count", 20, word(100 * i)), step("spin", 4, 10_000)]));
    values.fill(0n);
    for (let run = 0; run < 50; run++) {
      const all = teams.map((team, i) => team.run(jobs[i]!));
      expect(await Promise.all(all)).toEqual(["done", "done", "done", "done"]);
    }
    for (let i = 0; i < 4; i++) expect(new Set(values.subarray(100 * i, 100 * i + 20))).toEqual(new Set([50n]));
    for (const team of teams) team.dispose();
  });

  test("ends its threads on dispose, also during a run, and refuses to work afterwards", async () => {
    const threads = readdirSync("/proc/self/task").length;
    for (let round = 0; round < 10; round++) {
      const team = new Team(system, { threads: 4, cores: 4 });
      using job = new Job(system, long(500, 2000));
      const run = team.run(job);
      if (round % 2 === 0) await new Promise((resolve) => setTimeout(resolve, round));
      team.dispose();
      team.dispose();
      expect(await run).toBe("stopped");
      expect(() => team.runSync(job)).toThrow("team of threads was disposed");
      expect(() => team.run(job)).toThrow("team of threads was disposed");
    }
    expect(readdirSync("/proc/self/task").length).toBe(threads);
  });

  test("refuses numbers of threads that are none", () => {
    for (const threads of [0, -1, 1.5, 257]) {
      expect(() => new Team(system, { threads })).toThrow(
        `cpu engine: ${threads} threads: not a whole number from 1 to 256`,
      );
    }
  });
});

const at = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
/** Counts down from its argument. */
function countdown(): Uint8Array {
  const code = newCode(baseIsa ?? "avx2");
  code.mov(r1, mem(args));
  const top = code.here();
  code.aluImm("sub", r1, 1);
  code.jcc("ne", top);
  code.ret();
  return code.finish();
}
const head = `
    const { openSystem } = await import(${at("../../os/index.ts")});
    const { Team } = await import(${at("./team.ts")});
    const { Job } = await import(${at("./job.ts")});
    const system = await openSystem();
    const kernel = system.code(Uint8Array.of(${countdown()})).address;
    const job = (steps, loops) => new Job(system, Array.from({ length: steps }, () => ({ kernel, args: [loops], tasks: 4 })));
    const team = new Team(system, { threads: 3, cores: 3 });`;

/** Runs a script with two teams' worth of imports in a process of its own. */
function inProcess(script: string, timeout = 15_000) {
  const args = ["--import", "tsx", "--input-type=module", "-e", `${head}\n${script}`];
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8", timeout });
  return { status, signal, stdout, stderr };
}

describe.skipIf(process.platform !== "linux" || baseIsa === undefined)("process with a team", () => {
  beforeEach(({ skip }) => skip(noProcesses !== undefined, noProcesses));

  test("ends by itself while threads are idle", () => {
    const result = inProcess(`team.runSync(job(10, 1000)); await team.run(job(10, 1000)); console.log("end");`);
    expect(result).toEqual({ status: 0, signal: null, stdout: "end\n", stderr: "" });
  });

  test("waits for a run in flight", () => {
    const script = `team.run(job(100, 1e6)).then((outcome) => console.log(outcome));`;
    expect(inProcess(script)).toEqual({ status: 0, signal: null, stdout: "done\n", stderr: "" });
  });

  test("may exit during a run", () => {
    const script = `team.run(job(1e4, 1e6)); setTimeout(() => process.exit(7), 20);`;
    expect(inProcess(script)).toEqual({ status: 7, signal: null, stdout: "", stderr: "" });
  });

  test("may fail during a run", () => {
    const script = `team.run(job(1e4, 1e6)); setTimeout(() => { throw new Error("uncaught"); }, 20);`;
    const { status, signal, stderr } = inProcess(script);
    expect({ status, signal }).toEqual({ status: 1, signal: null });
    expect(stderr).toContain("uncaught");
  });

  test("may have one in each JavaScript thread", () => {
    const script = `
      const { Worker } = await import("node:worker_threads");
      const load = import.meta.resolve("tsx/esm/api");
      const start = (keep, dispose) => new Worker(new URL("data:text/javascript," + encodeURIComponent(\`
        const { register } = await import("\${load}");
        register();
        ${head}
        const { parentPort } = await import("node:worker_threads");
        for (let i = 0; i < 300; i++) { team.runSync(job(3, 100)); await team.run(job(3, 100)); }
        parentPort.postMessage("done");
        if (\${keep}) await team.run(job(1e5, 1e6)); // ended by terminate()
        if (\${dispose}) team.dispose();
      \`)));
      const workers = [start(false, true), start(false, false), start(true, false), start(true, false)];
      const own = (async () => { for (let i = 0; i < 300; i++) await team.run(job(3, 100)); })();
      const answers = await Promise.all(workers.map((worker) => new Promise((resolve, reject) => worker.on("message", resolve).on("error", reject))));
      await own;
      console.log(answers.join(" "));
      for (const worker of workers.slice(2)) await worker.terminate();
      team.runSync(job(3, 100));
      console.log("end");`;
    expect(inProcess(script, 60_000)).toEqual({
      status: 0,
      signal: null,
      stdout: "done done done done\nend\n",
      stderr: "",
    });
  }, 60_000);
});
