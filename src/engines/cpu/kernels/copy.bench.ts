// Speed of data movement: GB/s read and written, against libc's memcpy of as many bytes. Medians of interleaved runs.
// Run with `npx tsx src/engines/cpu/kernels/copy.bench.ts [threads] [name part]`.

import { openSystem } from "../../os/index.ts";
import { gp, mem } from "../code.ts";
import { Harness, isasOf } from "./copy.harness.ts";
import { type CopySpec, planCopy, planFill } from "./copy.ts";
import { planGather } from "./index-gather.ts";
import { planScatter } from "./index-scatter.ts";
import type { Isa, StepPlan } from "./step.ts";

const harness = new Harness(await openSystem());
const isas = isasOf(harness.system);
const threads = Number(process.argv[2] ?? 2);
const only = process.argv[3] ?? "";
const rounds = Number(process.env.ROUNDS ?? 9);

/** Row-major strides. */
function strides(shape: readonly number[]): number[] {
  return shape.map((_, axis) => shape.slice(axis + 1).reduce((product, n) => product * n, 1));
}

function permuted(bytes: 1 | 2 | 4, shape: readonly number[], order: readonly number[]): CopySpec {
  const all = strides(shape);
  const out = order.map((axis) => shape[axis]!);
  return { bytes, shape: out, from: order.map((axis) => all[axis]!), to: strides(out) };
}

/** memcpy in `tasks` pieces, for the harness. */
function memcpyPlan(bytes: number): StepPlan<"from" | "to"> {
  const piece = threads === 1 ? bytes : Math.max(4096, Math.ceil(bytes / 16 / 64) * 64);
  return {
    key: "memcpy",
    tasks: Math.ceil(bytes / piece),
    args: ["from", "to"],
    bytes: 2 * bytes,
    flops: 0,
    emit(code) {
      code.mov(gp.r0, gp.r5);
      code.mov(gp.r5, mem(gp.r0, 8));
      code.imulImm(gp.r1, gp.r4, piece);
      code.mov(gp.r4, mem(gp.r0, 0));
      code.alu("add", gp.r4, gp.r1);
      code.alu("add", gp.r5, gp.r1);
      code.movImm(gp.r2, bytes);
      code.alu("sub", gp.r2, gp.r1);
      code.movImm(gp.r1, piece);
      code.alu("cmp", gp.r2, gp.r1);
      code.cmov("a", gp.r2, gp.r1);
      code.enter(8); // with the return address a multiple of 16
      code.callC(harness.system.symbol("memcpy"));
      code.leave(8);
      code.ret();
    },
  };
}

type Runner = () => void;
const place = (use: string, bytes: number) => harness.memory(use, bytes, "head");
const pool = {
  from: place("from", 128 << 20),
  to: place("to", 128 << 20),
  index: place("index", 1 << 20),
  temp: place("temp", 4 << 20),
};
pool.from.bytes.fill(1);
pool.to.bytes.fill(2);

function runner(isa: Isa, plans: readonly StepPlan<unknown>[], shift: (plan: number) => number = () => 0): Runner {
  const steps = plans.map((plan, i) => ({
    ...plan,
    emit: plan.emit,
    args: plan.args.map((arg) => {
      if (typeof arg === "object") return pool.temp.address;
      if (arg === "index") return pool.index.address;
      return arg === "to" || arg === "out" ? pool.to.address + shift(i) : pool.from.address;
    }),
  }));
  const program = harness.load(isa, steps, (address) => address, threads);
  return () => {
    if (program.run() !== "done") throw new Error("a run failed");
  };
}

function measure(name: string, bytes: number, contenders: Record<string, Runner>): void {
  if (!name.includes(only)) return;
  const times = new Map(Object.keys(contenders).map((key) => [key, [] as number[]]));
  const inner = Math.max(1, Math.min(200, Math.floor((16 << 20) / bytes)));
  for (let round = -1; round < rounds; round++) {
    for (const [key, run] of Object.entries(contenders)) {
      const start = performance.now();
      for (let i = 0; i < inner; i++) run();
      if (round >= 0) times.get(key)!.push((performance.now() - start) / inner);
    }
  }
  const cells = [...times].map(([key, list]) => {
    const middle = list.sort((a, b) => a - b)[list.length >> 1]!;
    return `${key} ${(bytes / middle / 1e6).toFixed(1)} GB/s (${(1000 * middle).toFixed(0)} us)`;
  });
  console.log(`${name.padEnd(34)} ${cells.join("  ")}`);
}

function copies(name: string, specs: readonly CopySpec[], shift: (plan: number) => number = () => 0): void {
  const bytes = specs.reduce((sum, spec) => sum + planCopy(spec, isas[0]!, 1).bytes, 0);
  const contenders: Record<string, Runner> = { memcpy: runner(isas[0]!, [memcpyPlan(bytes / 2)]) };
  for (const isa of isas) {
    contenders[isa] = runner(
      isa,
      specs.map((spec) => planCopy(spec, isa, threads)),
      shift,
    );
  }
  measure(name, bytes, contenders);
}

const matrix = (bytes: 1 | 2 | 4, m: number, n: number) => permuted(bytes, [m, n], [1, 0]);
copies("contiguous 64 MB", [{ bytes: 4, shape: [16 << 20], from: [1], to: [1] }]);
copies("contiguous 1 MB", [{ bytes: 4, shape: [256 << 10], from: [1], to: [1] }]);
copies("[256,768] fp32 transposed", [matrix(4, 256, 768)]);
copies("[256,768] fp16 transposed", [matrix(2, 256, 768)]);
copies("[12,256,64] fp32 to [256,12,64]", [permuted(4, [12, 256, 64], [1, 0, 2])]);
copies("[12,256,64] fp32 to [12,64,256]", [permuted(4, [12, 256, 64], [0, 2, 1])]);
copies("[4096,4096] fp32 transposed", [matrix(4, 4096, 4096)]);
copies("[4096,4096] fp16 transposed", [matrix(2, 4096, 4096)]);
copies("[4096,4096] bool transposed", [matrix(1, 4096, 4096)]);
copies("[4000,4100] fp32 transposed", [matrix(4, 4000, 4100)]);
copies("[32000,768] fp32 transposed", [matrix(4, 32000, 768)]);
const half = { bytes: 4, shape: [4096, 512], from: [512, 1], to: [1024, 1] } as const;
copies("concat of two [4096,512] fp32", [half, half], (plan) => 2048 * plan);
copies("pixel shuffle [64,2,2,128,128]", [permuted(4, [64, 2, 2, 128, 128], [0, 3, 1, 4, 2])]);
copies("channels last [3,512,512]", [permuted(4, [3, 512 * 512], [1, 0])]);
copies("channels first [512,512,3]", [permuted(4, [512 * 512, 3], [1, 0])]);
copies("heads of 8 [8,1024,8]", [permuted(4, [8, 1024, 8], [1, 0, 2])]);
copies("stride 2 of 4 M fp32", [{ bytes: 4, shape: [2 << 20], from: [2], to: [1] }]);
copies("interleave 1 of 2, fp32", [{ bytes: 4, shape: [2 << 20], from: [1], to: [2] }]);
copies("repeat rows [1,4096] x 1024", [{ bytes: 4, shape: [1024, 4096], from: [0, 1], to: [4096, 1] }]);
copies("repeat elements [4096] x 1024", [{ bytes: 4, shape: [4096, 1024], from: [1, 0], to: [1024, 1] }]);
// In the second-level cache: what the instructions cost.
copies("small [256,256] fp32 transposed", [matrix(4, 256, 256)]);
copies("small [256,256] fp16 transposed", [matrix(2, 256, 256)]);
copies("small [256,256] bool transposed", [matrix(1, 256, 256)]);
copies("small [100,100] fp32 transposed", [matrix(4, 100, 100)]);
copies("small [64,64] x 12 fp16", [permuted(2, [12, 64, 64], [0, 2, 1])]);
copies("small pixel shuffle fp32", [permuted(4, [16, 2, 2, 32, 32], [0, 3, 1, 4, 2])]);
copies("small pixel shuffle fp16", [permuted(2, [16, 2, 2, 32, 32], [0, 3, 1, 4, 2])]);
copies("small channels last fp32", [permuted(4, [3, 64 * 64], [1, 0])]);
copies("small channels last fp16", [permuted(2, [3, 64 * 64], [1, 0])]);
copies("small channels first fp32", [permuted(4, [64 * 64, 3], [1, 0])]);
copies("small channels first fp16", [permuted(2, [64 * 64, 3], [1, 0])]);
copies("small heads of 12 fp32", [permuted(4, [64, 64, 12], [1, 0, 2])]);
copies("small heads of 3 fp16", [permuted(2, [64, 64, 3], [1, 0, 2])]);
copies("small stride 2 fp32", [{ bytes: 4, shape: [16384], from: [2], to: [1] }]);
copies("small stride 2 fp16", [{ bytes: 2, shape: [32768], from: [2], to: [1] }]);
copies("small interleave fp32", [{ bytes: 4, shape: [16384], from: [1], to: [2] }]);
copies("small repeat 4 times fp32", [{ bytes: 4, shape: [4096, 4], from: [1, 0], to: [4, 1] }]);
copies("small upsample 2 x 2 fp32", [{ bytes: 4, shape: [64, 2, 64, 2], from: [64, 0, 1, 0], to: [256, 128, 2, 1] }]);

const bytes = 64 << 20;
measure(
  "fill 64 MB",
  bytes,
  Object.fromEntries(
    isas.map((isa) => [isa, runner(isa, [planFill({ bytes: 4, count: bytes / 4, bits: 0 }, isa, threads)])]),
  ),
);
const indices = new Int32Array(pool.index.bytes.buffer, pool.index.bytes.byteOffset, 1 << 18);
function indexed(extent: number): void {
  for (let i = 0; i < indices.length; i++) indices[i] = (Math.imul(i + 1, 0x9e3779b1) >>> 0) % extent;
}
for (const [extent, inner, count] of [
  [32000, 768, 256],
  [32000, 768, 8192],
  [1 << 16, 1, 1 << 18],
] as const) {
  const spec = { outer: 1, extent, inner, count, step: 0 };
  const name = `[${extent},${inner}], ${count} indices`;
  const moved = 2 * 4 * count * inner;
  indexed(extent);
  const all = (plan: (isa: Isa) => readonly StepPlan<unknown>[]) => ({
    memcpy: runner(isas[0]!, [memcpyPlan(moved / 2)]),
    ...Object.fromEntries(isas.map((isa) => [isa, runner(isa, plan(isa))])),
  });
  measure(
    `gather fp32 ${name}`,
    moved,
    all((isa) => [planGather({ bytes: 4, ...spec }, isa, threads)]),
  );
  const add = { ...spec, dtype: "fp32", mode: "add", inPlace: true } as const;
  measure(
    `scatter fp32 ${name}`,
    1.5 * moved,
    all((isa) => planScatter(add, isa, threads).steps),
  );
  measure(
    `scatter fp16 ${name}`,
    0.75 * moved,
    all((isa) => planScatter({ ...add, dtype: "fp16" }, isa, threads).steps),
  );
}
harness.dispose();
