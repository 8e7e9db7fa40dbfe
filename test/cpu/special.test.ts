// NaN, infinities, signed zeros, subnormals and the largest numbers through functions, reductions, norms and products: as on the simulator.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Engine, input, type Tensor } from "../../src/index.ts";
import { makeRandom } from "../plans/eager-engine.ts";
import { difference, instructionSets, openCpu, rowsOf } from "./compare.ts";

const sets = await instructionSets();
const engines: Engine[] = [];
beforeAll(async () => {
  for (const [i, isa] of sets.entries()) engines.push(await openCpu({ isa, threads: 1 + i }));
});
afterAll(() => {
  for (const engine of engines) engine[Symbol.dispose]();
});

const functions: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  exp: (x) => x.exp(),
  exp2: (x) => x.exp2(),
  log: (x) => x.log(),
  "log with epsilon": (x) => x.log(1),
  tanh: (x) => x.tanh(),
  sigmoid: (x) => x.sigmoid(),
  silu: (x) => x.silu(),
  gelu: (x) => x.gelu(),
  "gelu by tanh": (x) => x.gelu("TANH_APPROXIMATION"),
  "gelu by sigmoid": (x) => x.gelu("SIGMOID_APPROXIMATION"),
  erf: (x) => x.erf(),
  softplus: (x) => x.softplus(),
  sqrt: (x) => x.sqrt(),
  rsqrt: (x) => x.rsqrt(),
  "rsqrt with epsilon": (x) => x.rsqrt(1e-12),
  inverse: (x) => x.inverse(),
  "inverse with epsilon": (x) => x.inverse(1e-12),
  sin: (x) => x.sin(),
  cos: (x) => x.cos(),
  elu: (x) => x.elu(),
  leakyRelu: (x) => x.leakyRelu(),
  "pow 0.5": (x) => x.pow(0.5),
  "pow 2": (x) => x.pow(2),
  "pow x": (x) => x.pow(x),
};

const reductions: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  "sum of rows": (x) => x.sum(-1),
  "sum of columns": (x) => x.sum(0),
  "sum of all": (x) => x.sum(),
  "max of rows": (x) => x.max(-1),
  "min of rows": (x) => x.min(-1),
  "max of columns": (x) => x.max(0),
  "min of columns": (x) => x.min(0),
  "max of all": (x) => x.max(),
  "min of all": (x) => x.min(),
  "mean of rows": (x) => x.mean(-1),
  "l1 norm": (x) => x.l1Norm(-1),
  "l2 norm of rows": (x) => x.l2Norm(-1),
  "l2 norm of columns": (x) => x.l2Norm(0),
  "sum of squares": (x) => x.sumSquare(-1),
  "log of the sum of exponentials, rows": (x) => x.logSumExp(-1),
  "log of the sum of exponentials, columns": (x) => x.logSumExp(0),
  "softmax of rows": (x) => x.softmax(-1),
  "softmax of columns": (x) => x.softmax(0),
  "layer norm": (x) => x.layerNorm(),
  argmax: (x) => x.argmax(-1),
  cumsum: (x) => x.cumsum(1),
  "rows times rows": (x) => x.matmul(x, { transposeY: true }),
  "columns times columns": (x) => x.matmul(x, { transposeX: true }),
};

const both = [0, -0, 1, -1, Infinity, -Infinity, NaN, 65504, -65504, 1e-7] as const;
/** In fp32 sums accumulate in fp32, in the simulator in float64: what overflows between the two is left out, as are sines of huge numbers. */
const special = {
  fp16: [...both, 6e-8, -6e-8, 60000, 300, -300, 12, -12, 9, -9, -17.4],
  fp32: [...both, 1e-30, 1e-40, -1e-40, 88.7, -88.8, -104, 1e4, -1e4, 9, -9],
} as const;
const shapes = [
  [5, 7],
  [4, 40],
  [40, 3],
  [3, 130],
] as const;

describe.each(["fp16", "fp32"] as const)("in %s", (dtype) => {
  test.each(Object.entries({ ...functions, ...reductions }))("%s", async (name, f) => {
    // Units of the values, and of the terms of a sum: the largest is 65504, or its square.
    const relative = dtype === "fp16" ? 2e-3 : name in functions ? 3e-6 : 3e-5;
    const absolute = dtype === "fp16" ? 3e-3 : name in functions ? 3e-6 : 2e-2;
    for (const [at, [rows, columns]] of shapes.entries()) {
      for (const seed of at % 2 === 0 ? [2, 4, 5] : [1, 3, 5]) {
        const random = makeRandom(seed * 100 + rows + columns);
        const pick = () => special[dtype][Math.floor(random() * special[dtype].length)]!;
        const data = Float32Array.from({ length: rows * columns }, (_, i) => {
          const row = Math.floor(i / columns);
          if (seed === 5 && row % 2 === 1) return Number.NEGATIVE_INFINITY; // as masks make whole rows
          if (seed >= 4) return special[dtype][(i + row) % special[dtype].length]!;
          return random() < 0.08 * seed ? pick() : (random() - 0.5) * 8;
        });
        const x = input([rows, columns], { dtype, name: "x" });
        const program = { outputs: { y: f(x) }, feeds: { x: data }, update: new Map() };
        const want = await rowsOf(program, "sim", 1);
        for (const [i, engine] of engines.entries()) {
          const allowed = (_run: number, _name: string, _i: number, w: number) => relative * Math.abs(w) + absolute;
          const found = difference(await rowsOf(program, engine, 1), want, { allowed });
          expect(found, `${sets[i]} [${rows}, ${columns}] seed ${seed}`).toBeUndefined();
        }
      }
    }
  });
});
