// The table of groups, in the order in which they run: what must work first, what may crash or take long last.

import { compile, constant, input } from "../../index.ts";
import { agree } from "./compare.ts";
import { errors } from "./errors.ts";
import { generation } from "./generation.ts";
import { expect, type Group } from "./group.ts";
import { numerics } from "./numerics.ts";
import { operators } from "./operators.ts";
import { state } from "./state.ts";
import { bandwidth, compileTime, latencies, peak } from "./timing.ts";
import { training } from "./training.ts";

const start: Group = {
  name: "start",
  examines: true,
  summary: "the engine opens and runs a first program",
  checkSeconds: 120,
  seconds: { quick: 240, full: 240 },
  checks: () => [
    {
      name: "x + 1",
      run: async ({ device }) => {
        using program = await compile({ x: [2, 3] }, ({ x }) => ({ y: x.add(1) }), { engine: device });
        const { data } = await program.run({ x: [0, 1, 2, 3, 4, 5] }).then(({ y }) => y);
        expect(
          [...data].every((value, i) => value === i + 1),
          () => `x + 1 of 0 to 5 gave ${[...data].join(" ")}`,
        );
        return {};
      },
    },
    {
      name: "two constant weights",
      run: (bench) => {
        // Large enough for the weight file.
        const weight = (rows: number, columns: number) =>
          constant(
            Float32Array.from({ length: rows * columns }, (_, i) => ((i * 7919) % 257) / 1024 - 0.125),
            [rows, columns],
          );
        const y = input([4, 64], { name: "x" }).matmul(weight(64, 96)).matmul(weight(96, 31));
        const x = Float32Array.from({ length: 256 }, (_, i) => ((i * 31) % 17) / 16 - 0.5);
        return agree({ y }, { x }, bench, { units: 4, ofLargest: true });
      },
    },
  ],
};

export const groups: readonly Group[] = [
  start,
  operators,
  numerics,
  state,
  training,
  generation,
  latencies,
  bandwidth,
  peak,
  compileTime,
  errors,
];
