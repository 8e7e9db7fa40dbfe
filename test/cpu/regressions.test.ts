// Programs that the CPU engine once got wrong, each as small as it was found, and programs of unusual size.

import { afterAll, describe, expect, test } from "vitest";
import {
  compile,
  concat,
  constant,
  type Engine,
  type Feed,
  grad,
  input,
  parameter,
  stack,
  type Tensor,
} from "../../src/index.ts";
import { groupNorm } from "../../src/nn/index.ts";
import { difference, instructionSets, openCpu, rowsOf } from "./compare.ts";

const engines: Engine[] = [];
for (const isa of await instructionSets())
  for (const strict of [false, true]) engines.push(await openCpu({ isa, threads: 1, strict }));
afterAll(() => {
  for (const engine of engines) engine[Symbol.dispose]();
});

const wave = (size: number) => Float32Array.from({ length: size }, (_, i) => Math.sin(1 + 1.7 * i));
const whole = (size: number) => Float32Array.from({ length: size }, (_, i) => ((i * 7) % 11) - 5);
const leaf = (shape: readonly number[], name: string) => input(shape, { dtype: "fp32", name });

async function agrees(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Readonly<Record<string, Feed>>,
  update: ReadonlyMap<Tensor, Tensor> = new Map(),
): Promise<void> {
  const program = { outputs, feeds, update };
  const want = await rowsOf(program, "sim");
  const allowed = (_run: number, _name: string, _i: number, w: number) => 1e-5 * (1 + Math.abs(w));
  for (const engine of engines) {
    const found = difference(await rowsOf(program, engine), want, { allowed });
    expect(found, engine.reason).toBeUndefined();
  }
}

/** A value whose row is several axes, and whose reductions come back to the row. */
function rows(x: Tensor, axes: readonly number[]): Tensor {
  const shifted = x.sub(x.max(axes, { keepDims: true }));
  return shifted.mul(2).add(shifted.sum(axes, { keepDims: true }));
}

describe("rows of several axes", () => {
  test("with an operand that is broadcast along one of them", () =>
    agrees({ y: leaf([2, 4, 3], "x").tile([1, 2, 3]).sum() }, { x: whole(24) }));
  test("with a floor of a broadcast difference", () => {
    const x = leaf([2, 2, 4, 3], "x");
    const c = constant(wave(3), [3], { dtype: "fp32" });
    return agrees(
      {
        y: c
          .sub(x.mul(3))
          .floor()
          .layerNorm({ axes: [2, 3], epsilon: 0.1 }),
      },
      { x: wave(48) },
    );
  });
  test("stored inside a larger array", () => {
    const [a, b] = [leaf([4, 48], "a"), leaf([4, 48], "b")];
    return agrees({ y: concat([a, b, rows(a, [-1, -2])], 1) }, { a: whole(192), b: whole(192) });
  });
  test("stored in another order", () =>
    agrees(
      {
        y: rows(leaf([2, 48, 2], "x"), [-1])
          .transpose([0, 2, 1])
          .reshape([6, 4, 8]),
      },
      { x: whole(192) },
    ));
});

describe("pieces of an array", () => {
  test("of extent 1 along the last axis", () => {
    const [low, high] = leaf([16, 65, 2], "x").split(2, -1) as [Tensor, Tensor];
    return agrees({ y: concat([high.neg(), low.add(1)], -1) }, { x: wave(16 * 65 * 2) });
  });
});

describe("columns", () => {
  test("of a tile", () => {
    const c = constant(whole(771), [3, 257], { dtype: "fp32" });
    return agrees(
      {
        y: c
          .tile([2, 3])
          .min(0)
          .add(leaf([771], "x")),
      },
      { x: whole(771) },
    );
  });
  test("of a function of a tile of a sum of a tile", () => {
    const t = leaf([48, 3, 1], "x").expandDims(0).tile([3, 1, 1, 3]);
    return agrees({ y: t.add(t).tile([1, 1, 1, 3]).tanh().max([0, 1]) }, { x: wave(144) });
  });
});

describe("memory that is used again", () => {
  test("not that of state which is stored at the end", () => {
    const x = leaf([64], "x");
    const p = parameter(wave(64), [64], { name: "p", dtype: "fp32" });
    const next = p
      .reshape([1, 64])
      .matmul(constant(wave(4096), [64, 64], { dtype: "fp32" }))
      .reshape([64])
      .tanh();
    const other = p.silu();
    const q = parameter(wave(64), [64], { name: "q", dtype: "fp32" });
    return agrees(
      { y: next.minimum(x).mul(next).softplus(), z: other.minimum(x).mul(other) },
      { x: wave(64) },
      new Map([
        [p, next],
        [q, q.silu()],
      ]),
    );
  });
  test("not a copy of a transposed input that another output still needs", () => {
    const [x, z] = [leaf([12, 64, 1], "x"), leaf([64, 12, 1], "z")];
    const t = x.transpose([1, 0, 2]);
    const e = t.erf();
    const g = e.tanh().leakyRelu().tanh().elu(0.5).tanh().square().add(0.5).sqrt();
    return agrees({ y: t.squeeze(), joined: stack([e, g, z], 0) }, { x: wave(768), z: wave(768) });
  });
  test.each(["add", "update"] as const)("not that of data which a scatter (%s) also takes its updates from", (mode) => {
    const t = input([17, 17], { name: "t", dtype: "int32" });
    const i = input([17], { name: "i", dtype: "int32" });
    const w = t.gather(constant(3, [], { dtype: "int32" }), 0);
    const indices = [3, 1, 0, 16, -17, 5, 3, 7, 8, 2, 0, 11, 1, 13, 14, 15, 6];
    return agrees({ y: w.scatter(i, w, { mode }) }, { t: whole(289), i: indices });
  });
});

describe("many", () => {
  test("reductions of one array", async () => {
    for (const count of [3, 7, 12, 40]) {
      const x = leaf([8, 64], "x");
      const sums = Array.from({ length: count }, (_, i) =>
        x
          .mul(1 + i)
          .tanh()
          .sum(-1),
      );
      await agrees({ y: sums.reduce((a, b) => a.add(b)), last: sums.at(-1)! }, { x: wave(512) });
      await agrees(Object.fromEntries(sums.map((sum, i) => [`y${i}`, sum])), { x: wave(512) });
    }
  });
  test("outputs", () => {
    const x = leaf([40], "x");
    return agrees(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`y${i}`, x.mul(i + 1)])), { x: wave(40) });
  });
  test("operators one after another", async () => {
    const chains: Record<string, (y: Tensor) => Tensor> = {
      affine: (y) => y.mul(0.99).add(0.001),
      tanh: (y) => y.tanh(),
      gelu: (y) => y.gelu(),
      softmax: (y) => y.softmax(-1).mul(3),
      turn: (y) => y.transpose([1, 0]).reshape([10, 4]),
    };
    for (const step of Object.values(chains)) {
      let y: Tensor = leaf([10, 4], "x");
      for (let i = 0; i < 1500; i++) y = step(y);
      await agrees({ y }, { x: wave(40) });
    }
  }, 60_000);
  test("branches", () => {
    const x = leaf([40], "x");
    const branches = Array.from({ length: 500 }, (_, i) => x.mul(i % 5).sum());
    return agrees({ y: stack(branches).mean() }, { x: wave(40) });
  });
});

describe("pieces of arrays", () => {
  const x = leaf([4, 6], "x");
  const piece = x.add(1);
  test("that several arrays have", () =>
    agrees(
      {
        wide: piece.pad([0, 0, 1, 2]).neg(),
        high: piece.pad([2, 1, 0, 0], { constantVal: 3 }).neg(),
        joined: concat([piece, x.neg()], 0).mul(2),
        other: concat([x.neg(), piece], 1).mul(2),
        sums: piece.sum(0),
      },
      { x: whole(24) },
    ));
  test("that one array has twice", () =>
    agrees({ y: concat([piece, piece.neg(), piece], 1).mul(2), z: piece.sum(0) }, { x: whole(24) }));
  test("that are products of one column", () => {
    const product = leaf([9, 16], "a").matmul(leaf([16, 1], "b"));
    const outputs = { y: product.pad([1, 1, 0, 0]).add(1), z: concat([product, product.neg()], 1).mul(2) };
    return agrees(outputs, { a: whole(144), b: whole(16) });
  });
});

// Results from 16 MiB on go past the caches, at whatever address they begin, and the next loop reads them.
test.each([4096, 4100])("4 million elements in rows of %i are stored before they are read", async (columns) => {
  const x = input([1050, columns], { dtype: "fp16", name: "x" });
  const wide = x.cast("fp32").mul(0.5);
  const turned = wide.transpose([1, 0]);
  for (const engine of engines) {
    using program = await compile({ wide, sums: turned.sum(0) }, { engine });
    const given = whole(1050 * columns);
    const { wide: all, sums } = await program.run({ x: given });
    expect(all.data.findIndex((each, i) => each !== given[i]! / 2)).toBe(-1);
    for (const row of [0, 1, 1049]) {
      const part = given.subarray(row * columns, (row + 1) * columns);
      expect(sums.data[row]).toBe(part.reduce((sum, each) => sum + each, 0) / 2);
    }
  }
});

describe("stages", () => {
  test.each([
    ["cpu", "sim"],
    ["sim", "cpu"],
  ] as const)("of a program on %s run on %s", async (engine, on) => {
    const make = () => {
      const x = input([33], { name: "x" });
      const w = parameter(new Float32Array(33).fill(2), [33], { name: "w" });
      const first = x.mul(w);
      return { first, outputs: { y: first.tanh() }, update: new Map([[w, w.add(0.5)]]) };
    };
    const run = async (stages: boolean) => {
      const { first, outputs, update } = make();
      const cut = [{ name: "first", compute: [first], on }, { name: "second" }];
      await using program = await compile(outputs, { engine, update, ...(stages && { stages: cut }) });
      await program.run({ x: wave(33) });
      return (await program.run({ x: wave(33) })).y.data;
    };
    const [got, want] = [await run(true), await run(false)];
    for (const [i, value] of want.entries()) expect(got[i]!).toBeCloseTo(value, 2);
  });
});

describe("reductions of columns and the maps around them", () => {
  test("a map that they and others read, twice in one place", () => {
    const x = leaf([40, 3, 32], "x");
    const centred = x.sub(x.mean([0], { keepDims: true }));
    const squares = centred.mul(centred).sum([0]);
    return agrees(
      { squares, cubes: centred.mul(centred).mul(centred).sum([0, 1]), centred: centred.mul(2), rest: squares.sqrt() },
      { x: wave(40 * 96) },
    );
  });
  test("maps of their results, with what was there before and what comes after", () => {
    const [x, b] = [leaf([4, 24, 2, 16], "x"), leaf([2, 16], "b")];
    const sums = x.sum([1]);
    const shifted = sums.add(b).relu();
    return agrees({ shifted, later: shifted.mul(x.max([1])), sums: sums.neg() }, { x: wave(4 * 768), b: wave(32) });
  });
  test("the largest of a column in fp16 is found again", async () => {
    const x = input([48, 32], { dtype: "fp16", name: "x" });
    const scaled = x.mul(0.3);
    const largest = scaled.max([0], { keepDims: true });
    const outputs = { hits: scaled.equal(largest).cast("fp16").sum([0]), scaled: scaled.add(1) };
    for (const engine of engines) {
      using program = await compile(outputs, { engine });
      const { hits } = await program.run({
        x: Float32Array.from({ length: 48 * 32 }, (_, i) => ((i * 37) % 1009) / 7),
      });
      for (const count of hits.data) expect(count, engine.reason).toBeGreaterThanOrEqual(1);
    }
  });
  test("that are found again in a copy of what was rounded before", async () => {
    const x = input([48, 32], { dtype: "fp16", name: "x" });
    const scaled = x.mul(0.3).cast("fp32");
    const hits = scaled
      .equal(scaled.max([0], { keepDims: true }))
      .cast("fp32")
      .sum([0]);
    for (const engine of engines) {
      using program = await compile({ hits }, { engine });
      const values = Float32Array.from({ length: 48 * 32 }, (_, i) => ((i * 37) % 1009) / 7);
      const { data } = (await program.run({ x: values })).hits;
      for (const count of data) expect(count, engine.reason).toBeGreaterThanOrEqual(1);
    }
  });
  test("a map of their results that waits for a loop that waits for them", () => {
    const bias = leaf([16], "b").mul(2).tanh();
    const sums = leaf([40, 8, 16], "x").sum([0]);
    const first = sums.sliceBySize([3, 0], [1, 16]).reshape([16]);
    return agrees({ later: bias.mul(first), sums: sums.add(bias) }, { x: wave(40 * 128), b: wave(16) });
  });
  test("norms of groups behind a convolution, and their derivatives", () => {
    const x = leaf([2, 16, 9, 10], "x");
    const w = leaf([24, 16, 3, 3], "w");
    const [gamma, beta] = [leaf([24], "gamma"), leaf([24], "beta")];
    const loss = groupNorm(x.conv(w, { pad: 1 }), 4, { gamma, beta })
      .relu()
      .maxPool(2)
      .mul(leaf([2, 24, 4, 5], "g"))
      .sum();
    const [dx, dw, dgamma, dbeta] = grad(loss, [x, w, gamma, beta]) as [Tensor, Tensor, Tensor, Tensor];
    return agrees(
      { loss, dx, dw, dgamma, dbeta },
      { x: wave(2880), w: wave(3456).map((value) => value / 12), gamma: wave(24), beta: wave(24), g: wave(960) },
    );
  });
});

describe("products that finish what follows", () => {
  test("are stored as such where they are results, too", () => {
    const product = leaf([33, 65], "x").matmul(leaf([65, 48], "y"));
    return agrees({ product, again: product, relu: product.relu() }, { x: whole(33 * 65), y: whole(65 * 48) });
  });
  test("but not of a triangle", () => {
    const shape = [2, 24, 32];
    const [q, k, g, r] = [leaf(shape, "q"), leaf(shape, "k"), leaf(shape, "g"), leaf(shape, "r")];
    const hidden = Float32Array.from({ length: 576 }, (_, i) => (i % 24 > i / 24 ? -30000 : 0));
    const mask = constant(hidden, [24, 24], { dtype: "fp32" });
    const scores = q.matmul(k, { transposeY: true }).mul(0.2).add(mask).softmax(-1);
    const dv = scores.matmul(g, { transposeX: true }).add(r).relu();
    const values = wave(2 * 24 * 32);
    return agrees({ out: scores.matmul(k), dv }, { q: values, k: values, g: values, r: values });
  });
  test("with biases, residuals and bounds, of which one is a product", () => {
    const [x, w] = [
      leaf([2, 17, 40], "x"),
      constant(
        wave(40 * 40).map((value) => value / 8),
        [40, 40],
        { dtype: "fp32" },
      ),
    ];
    const [b, s] = [leaf([40], "b"), leaf([1], "s")];
    const residual = x.matmul(w);
    const y = x.mul(0.5).matmul(w).add(b).add(residual).add(s);
    return agrees(
      { y: y.clip(-0.5, 0.75), z: x.matmul(w, { transposeY: true }).add(residual).relu() },
      { x: wave(17 * 80), b: wave(40), s: [0.25] },
    );
  });
});
