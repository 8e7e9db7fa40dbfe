// Groups "latency", "bandwidth", "peak" and "compile-time": how fast the engine is. Medians of many; nothing is wrong, whatever comes out.

import { type CompiledProgram, compile, constant, input, parameter, type Tensor } from "../../index.ts";
import type { Bench, Check, Finding, Group, Seen } from "./group.ts";

function quantile(sorted: readonly number[], part: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))]!;
}

/** Milliseconds of calls, after some that do not count. */
async function timed(work: () => unknown, { calls, seconds }: { readonly calls: number; readonly seconds: number }) {
  for (let i = 0; i < 3; i++) await work();
  const times: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (times.length < calls && (times.length < 5 || performance.now() < end)) {
    const before = performance.now();
    const result = work();
    if (result instanceof Promise) await result;
    times.push(performance.now() - before);
  }
  times.sort((a, b) => a - b);
  return { p50: quantile(times, 0.5), p95: quantile(times, 0.95), least: times[0]!, calls: times.length };
}

const measured = (seen: Seen): Finding => ({ status: "measured", seen });

/** A program whose result stays on the engine. */
async function resident(result: Tensor, { device }: Bench): Promise<CompiledProgram> {
  const target = parameter(0, result.shape, { name: "result" });
  return compile({}, { engine: device, update: new Map([[target, result]]) });
}

// ----------------------------------------------------------------------------------------------------- latency

async function latency(how: "runSync" | "run" | "resident", elements: number, bench: Bench): Promise<Finding> {
  const limits = { calls: bench.quick ? 300 : 3000, seconds: bench.quick ? 1 : 4 };
  if (how === "resident") {
    const w = parameter(1, [elements], { name: "w" });
    using program = await compile({}, { engine: bench.device, update: new Map([[w, w.mul(1)]]) });
    const { p50, p95, least, calls } = await timed(() => program.runSync({}), limits);
    return measured({ p50Ms: p50, p95Ms: p95, leastMs: least, calls });
  }
  using program = await compile({ x: [elements] }, ({ x }) => ({ y: x.add(1) }), { engine: bench.device });
  const x = new Float32Array(elements);
  const work = how === "run" ? () => program.run({ x }) : () => program.runSync({ x });
  const { p50, p95, least, calls } = await timed(work, limits);
  return measured({ p50Ms: p50, p95Ms: p95, leastMs: least, calls });
}

export const latencies: Group = {
  name: "latency",
  summary: "time of an almost empty program",
  checkSeconds: 60,
  seconds: { quick: 60, full: 120 },
  checks: (): Check[] => [
    { name: "runSync, 64 values", run: (bench) => latency("runSync", 64, bench) },
    { name: "run, 64 values", run: (bench) => latency("run", 64, bench) },
    { name: "runSync, state only", run: (bench) => latency("resident", 64, bench) },
    { name: "runSync, 65536 values", run: (bench) => latency("runSync", 65536, bench) },
  ],
};

// --------------------------------------------------------------------------------------------------- bandwidth

/** Elementwise on state: reads two arrays, writes one. */
async function elementwise(elements: number, bench: Bench): Promise<Finding> {
  // No extent is larger than 16384.
  const shape = elements < 16384 ? [1, 1, 1, elements] : [1, 16, elements / 16384, 1024];
  const w = parameter(1, shape, { name: "w" });
  const x = parameter(0, shape, { name: "x" });
  using program = await compile({}, { engine: bench.device, update: new Map([[w, w.add(x)]]) });
  const { p50 } = await timed(() => program.runSync({}), { calls: 200, seconds: 0.5 });
  return measured({ bytes: 6 * elements, ms: p50, gigabytesPerSecond: (6 * elements) / p50 / 1e6 });
}

/** One row times a constant matrix: the weights are read once. */
async function weights(extent: number, bench: Bench): Promise<Finding> {
  const w = constant(new Float32Array(extent * extent).fill(2 ** -10), [extent, extent]);
  const x = parameter(1, [1, extent], { name: "x" });
  using program = await resident(x.matmul(w), bench);
  const { p50 } = await timed(() => program.runSync({}), { calls: 200, seconds: 0.5 });
  return measured({ bytes: 2 * extent * extent, ms: p50, gigabytesPerSecond: (2 * extent * extent) / p50 / 1e6 });
}

const powers = (from: number, to: number, step = 1) =>
  Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, i) => 2 ** (from + step * i));

export const bandwidth: Group = {
  name: "bandwidth",
  summary: "GB/s of elementwise programs and of constant weights, by size",
  checkSeconds: 60,
  seconds: { quick: 60, full: 240 },
  checks: ({ speed, quick }): Check[] => {
    const most = speed === "plain" ? 16 : quick ? 20 : 24;
    const widest = speed === "plain" ? 8 : quick ? 11 : 12;
    return [
      ...powers(12, most, 2).map((elements) => ({
        name: `x + y of 2^${Math.log2(elements)} values`,
        run: (bench: Bench) => elementwise(elements, bench),
      })),
      ...powers(8, widest).map((extent) => ({
        name: `weights of ${extent} by ${extent}`,
        run: (bench: Bench) => weights(extent, bench),
      })),
    ];
  },
};

// -------------------------------------------------------------------------------------------------------- peak

async function rate(result: Tensor, flops: number, bench: Bench): Promise<Finding> {
  using program = await resident(result, bench);
  const { p50, least } = await timed(() => program.runSync({}), { calls: 50, seconds: bench.quick ? 0.4 : 1.5 });
  return measured({ ms: p50, flops, teraflops: flops / p50 / 1e9, best: flops / least / 1e9 });
}

function product(extent: number, bench: Bench): Promise<Finding> {
  const x = parameter(2 ** -5, [extent, extent], { name: "x" });
  const y = parameter(2 ** -5, [extent, extent], { name: "y" });
  return rate(x.matmul(y), 2 * extent ** 3, bench);
}

/** Convolutions one after the other, so that dispatch does not count. */
function stack(channels: number, positions: number, depth: number, bench: Bench): Promise<Finding> {
  let x: Tensor = parameter(1, [1, channels, positions, positions], { name: "x" });
  const weight = constant(new Float32Array(channels * channels).fill(1 / channels), [channels, channels, 1, 1]);
  for (let layer = 0; layer < depth; layer++) x = x.conv(weight);
  return rate(x, 2 * depth * channels ** 2 * positions ** 2, bench);
}

export const peak: Group = {
  name: "peak",
  summary: "TFLOP/s of matrix products and of stacked convolutions, by size",
  checkSeconds: 90,
  seconds: { quick: 60, full: 360 },
  perProcess: 4,
  checks: ({ speed, quick }): Check[] => {
    const [most, stacks] = {
      chip: [
        quick ? 2048 : 8192,
        quick
          ? [[256, 32, 8]]
          : [
              [256, 32, 16],
              [512, 32, 16],
              [512, 64, 16],
              [512, 64, 32],
            ],
      ],
      native: [quick ? 512 : 2048, quick ? [[32, 8, 1]] : [[64, 16, 2]]],
      plain: [64, [[16, 8, 1]]],
    }[speed] as [number, number[][]];
    return [
      ...powers(6, Math.log2(most)).map((extent) => ({
        name: `product of ${extent}`,
        run: (bench: Bench) => product(extent, bench),
      })),
      ...stacks.map(([channels, positions, depth]) => ({
        name: `${depth} convolutions, ${channels} channels at ${positions}x${positions}`,
        run: (bench: Bench) => stack(channels!, positions!, depth!, bench),
      })),
    ];
  },
};

// ------------------------------------------------------------------------------------------------- compile time

/** Programs that differ in a constant, so that no cache knows them; then one of them again and again. */
async function compiles(operators: number, bench: Bench): Promise<Finding> {
  const made = async (seed: number) => {
    const before = performance.now();
    using program = await compile(
      { x: [16, 64] },
      ({ x }) => {
        let y: Tensor = x;
        for (let i = 0; i < operators; i++) y = i % 2 === 0 ? y.mul(constant([1 + (seed + i) / 512], [1])) : y.relu();
        return { y };
      },
      { engine: bench.device },
    );
    program.runSync({ x: new Float32Array(1024) }); // a program may be made ready by its first run
    return performance.now() - before;
  };
  const count = bench.quick ? 4 : 10;
  const seed = Math.floor(process.uptime() * 1e6) % 100_000; // another one in every process
  const cold: number[] = [];
  for (let i = 0; i < count; i++) cold.push(await made((seed % 97) + 100 * (i + 1)));
  const warm: number[] = [];
  for (let i = 0; i < count; i++) warm.push(await made((seed % 97) + 100));
  const median = (list: readonly number[]) =>
    quantile(
      [...list].sort((a, b) => a - b),
      0.5,
    );
  return measured({ operators, firstMs: cold[0]!, coldMs: median(cold.slice(1)), warmMs: median(warm) });
}

/** A transformer layer's worth of weights. */
async function compilesWeights(extent: number, bench: Bench): Promise<Finding> {
  const x = input([16, extent], { name: "x" });
  const w = constant(
    Float32Array.from({ length: extent * extent }, (_, i) => ((i * 7919) % 1024) / 1024 - 0.5),
    [extent, extent],
  );
  const before = performance.now();
  using _program = await compile({ y: x.matmul(w).relu().matmul(w) }, { engine: bench.device });
  return measured({ megabytes: (4 * extent * extent) / 1e6, ms: performance.now() - before });
}

export const compileTime: Group = {
  name: "compile-time",
  summary: "time to compile, cold and warm",
  checkSeconds: 120,
  seconds: { quick: 90, full: 300 },
  checks: ({ quick }): Check[] => [
    { name: "1 operator", run: (bench) => compiles(1, bench) },
    { name: "16 operators", run: (bench) => compiles(16, bench) },
    ...(quick ? [] : [{ name: "128 operators", run: (bench: Bench) => compiles(128, bench) }]),
    { name: "constant weights", run: (bench) => compilesWeights(quick ? 256 : 1024, bench) },
  ],
};
