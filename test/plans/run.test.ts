// The contract of a compiled program: what it takes, what it gives, when it refuses, and in which order things happen.

import { describe, expect, expectTypeOf, test } from "vitest";
import {
  AnekitError,
  type CompiledProgram,
  compile,
  constant,
  type DType,
  grad,
  input,
  listEngines,
  NDArray,
  openEngine,
  parameter,
  Tensor,
} from "../../src/index.ts";
import { readMil } from "../../src/mil/reader.ts";
import { createEager } from "./eager-engine.ts";

const code = (name: string) => expect.objectContaining({ code: `ERR_ANEKIT_${name}` });
const values = (array: { readonly data: ArrayLike<number> }) => Array.from(array.data);

/** What comes out as y for a feed of x: y = x in the dtype of the port. */
async function through(dtype: DType, shape: readonly number[], feed: unknown): Promise<number[]> {
  const x = input(shape, { dtype, name: "x" });
  await using program = await compile({ y: x.reshape([Math.max(1, x.size)]) }, { engine: "sim" });
  const results = await program.run({ x: feed as never });
  expect(values(program.runSync({ x: feed as never }).y)).toEqual(values(results.y));
  return values(results.y);
}

describe("feeds", () => {
  const six = [1, 2, 3, 4, 5, 6];
  test.each<[string, unknown]>([
    ["Float32Array", Float32Array.from(six)],
    ["Float64Array", Float64Array.from(six)],
    ["Int8Array", Int8Array.from(six)],
    ["flat array", six],
    [
      "nested array",
      [
        [1, 2, 3],
        [4, 5, 6],
      ],
    ],
    ["NDArray", new NDArray("fp16", [2, 3], Float32Array.from(six))],
    ["a subarray at an odd offset", Float32Array.from([0, ...six, 9]).subarray(1, 7)],
  ])("%s fills fp16[2, 3]", async (_kind, feed) => {
    expect(await through("fp16", [2, 3], feed)).toEqual(six);
    expect(await through("fp32", [2, 3], feed)).toEqual(six);
    expect(await through("int32", [2, 3], feed)).toEqual(six);
  });

  test("a number fills a scalar and a single element", async () => {
    expect(await through("fp16", [], 2.5)).toEqual([2.5]);
    expect(await through("fp16", [1, 1], 2.5)).toEqual([2.5]);
    expect(await through("int32", [], -7)).toEqual([-7]);
    expect(await through("bool", [], true)).toEqual([1]);
  });

  test("booleans fill bool ports", async () => {
    expect(
      await through(
        "bool",
        [2, 2],
        [
          [true, false],
          [false, true],
        ],
      ),
    ).toEqual([1, 0, 0, 1]);
    expect(await through("bool", [3], Uint8Array.of(1, 0, 1))).toEqual([1, 0, 1]);
  });

  test.each<[string, readonly number[], unknown]>([
    ["too few values", [2, 3], [1, 2, 3]],
    ["too many values", [2], Float32Array.of(1, 2, 3)],
    ["a number for two elements", [2], 1],
    [
      "a transposed nesting",
      [2, 3],
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
    ],
    ["ragged nesting", [2, 2], [[1, 2], [3]]],
    [
      "nesting that is too shallow",
      [2, 2, 1],
      [
        [1, 2],
        [3, 4],
      ],
    ],
    [
      "nesting that is too deep",
      [2, 2],
      [
        [[1], [2]],
        [[3], [4]],
      ],
    ],
    ["a nested array for a scalar", [], [[1]]],
    ["mixed depth", [2, 1], [[1], 2]],
    ["an empty array", [1], []],
    ["an NDArray of another shape", [6], new NDArray("fp16", [2, 3], Float32Array.from(six))],
  ])("%s is a ShapeError at the call", async (_what, shape, feed) => {
    await expect(through("fp16", shape, feed)).rejects.toThrow(code("SHAPE"));
  });

  test.each<[string, unknown]>([
    ["null", null],
    ["an object", { 0: 1, length: 1 }],
    ["a string", "1"],
    ["a function", () => 1],
    ["undefined", undefined],
    ["a BigInt", 1n],
    ["a BigInt64Array", BigInt64Array.of(1n)],
    ["an array with a string", ["one"]],
    ["an array with undefined", [undefined]],
    ["an array with null", [null]],
    ["a nested array with null", [[null]]],
  ])("%s is refused with an AnekitError", async (_what, feed) => {
    await expect(through("fp16", [1], feed)).rejects.toBeInstanceOf(AnekitError);
  });

  test("int32 and bool ports check every value", async () => {
    for (const bad of [1.5, Number.NaN, 2 ** 31, -(2 ** 31) - 1, Number.POSITIVE_INFINITY]) {
      await expect(through("int32", [2], [0, bad])).rejects.toThrow(code("CONFIG"));
    }
    for (const bad of [2, -1, 0.5, Number.NaN]) {
      await expect(through("bool", [2], [0, bad])).rejects.toThrow(code("CONFIG"));
    }
    expect(await through("int32", [2], [2 ** 31 - 1, -(2 ** 31)])).toEqual([2 ** 31 - 1, -(2 ** 31)]);
  });

  test("fp16 feeds round to nearest even, and out of range become infinity", async () => {
    const feed = [65504, 65519.99, 65520, -1e9, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -25, 2 ** -24, Number.NaN];
    expect(await through("fp16", [9], feed)).toEqual([
      65504,
      65504,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      1,
      1 + 2 ** -9,
      0,
      2 ** -24,
      Number.NaN,
    ]);
    expect(await through("fp16", [1], Float64Array.of(1e300))).toEqual([Number.POSITIVE_INFINITY]);
  });

  test("results in any form can be fed back", async () => {
    await using program = await compile({ x: [2] }, ({ x }) => ({ y: x.mul(1) }), { engine: "sim" });
    const plain = await program.run({ x: [1.5, -2] });
    expect(values((await program.run({ x: plain.y })).y)).toEqual([1.5, -2]);
    // Bit patterns in an fp16 NDArray say what they are: they are taken as bits or refused, never as numbers.
    const { y } = await program.run({ x: [1.5, -2] }, { as: "bits" });
    const again = await program.run({ x: y as never }).catch((error: unknown) => error);
    if (!(again instanceof AnekitError)) expect(values((again as typeof plain).y)).toEqual([1.5, -2]);
  });

  test("feeds are copied at the call", async () => {
    await using program = await compile({ x: [2] }, ({ x }) => ({ y: x.mul(1) }), { engine: "sim" });
    const x = Float32Array.of(1, 2);
    const first = program.run({ x });
    x.fill(9);
    const second = program.run({ x });
    x.fill(0);
    expect(values((await first).y)).toEqual([1, 2]);
    expect(values((await second).y)).toEqual([9, 9]);
  });

  test("missing and unknown names are refused and named", async () => {
    await using program = await compile({ a: [1], b: [1] }, ({ a, b }) => ({ y: a.add(b) }), { engine: "sim" });
    await expect(program.run({ a: 1 } as never)).rejects.toThrow('no feed for "b"');
    await expect(program.run({} as never)).rejects.toThrow('no feed for "a", "b"');
    await expect(program.run({ a: 1, b: undefined } as never)).rejects.toThrow(code("CONFIG"));
    await expect(program.run({ a: 1, b: 2, c: 3 } as never)).rejects.toThrow('no input "c"');
    await expect(program.run({ a: 1, b: 2, toString: 3 } as never)).rejects.toThrow('no input "toString"');
    expect(() => program.runSync({ a: 1 } as never)).toThrow(code("CONFIG"));
  });

  test.each(["toString", "constructor", "hasOwnProperty", "valueOf"])(
    "an input named %s must be fed like any other",
    async (name) => {
      const x = input([1], { name });
      await using program = await compile({ y: x.add(1) }, { engine: "sim" });
      await expect(program.run({})).rejects.toThrow(code("CONFIG"));
      expect(values((await program.run({ [name]: 2 })).y)).toEqual([3]);
    },
  );

  test("a refused feed leaves the program usable", async () => {
    await using program = await compile({ a: [2], b: [2] }, ({ a, b }) => ({ y: a.add(b) }), { engine: "sim" });
    expect(() => program.runSync({ a: [5, 5], b: [1] })).toThrow(code("SHAPE"));
    await expect(program.run({ a: [1], b: [1, 1] })).rejects.toThrow(code("SHAPE"));
    expect(values(program.runSync({ a: [1, 2], b: [3, 4] }).y)).toEqual([4, 6]);
    expect(values((await program.run({ a: [1, 2], b: [3, 4] })).y)).toEqual([4, 6]);
  });
});

describe("results", () => {
  test("belong to the caller", async () => {
    const w = parameter([1, 2], [2], { name: "w" });
    await using program = await compile({ y: w, z: w.add(0) }, { engine: "sim", update: new Map([[w, w.add(1)]]) });
    const first = await program.run({});
    (first.y.data as Float32Array).fill(77);
    const bits = await program.run({}, { as: "bits" });
    bits.z.data.fill(0);
    const second = await program.run({});
    expect(values(first.z)).toEqual([1, 2]);
    expect(values(second.y)).toEqual([3, 4]);
    (program.state.read(w).data as Float32Array).fill(0);
    expect(values(program.state.read(w))).toEqual([4, 5]);
  });

  test("carry shape, dtype and array type of their port", async () => {
    const x = input([2, 2], { name: "x" });
    await using program = await compile(
      { y: x, low: x.argmin(0), hot: x.greater(1), wide: x.cast("fp32"), total: x.sum() },
      { engine: "sim" },
    );
    const { y, low, hot, wide, total } = await program.run({
      x: [
        [1, 2],
        [3, 0.1],
      ],
    });
    expect([y.dtype, low.dtype, hot.dtype, wide.dtype]).toEqual(["fp16", "int32", "bool", "fp32"]);
    expect(y.data).toBeInstanceOf(Float32Array);
    expect(low.data).toBeInstanceOf(Int32Array);
    expect(hot.data).toBeInstanceOf(Uint8Array);
    expect(wide.data).toBeInstanceOf(Float32Array);
    expect(y.toNested()).toEqual([
      [1, 2],
      [3, Math.fround(0.0999755859375)],
    ]);
    expect(low.toNested()).toEqual([0, 1]);
    expect(hot.toNested()).toEqual([
      [0, 1],
      [1, 0],
    ]);
    expect(total.shape).toEqual([]);
    expect(total.item()).toBe(total.toNested());
    expect(() => y.item()).toThrow(code("SHAPE"));
  });

  test("can be inputs, constants, states and one value under several names", async () => {
    const x = input([2], { name: "x" });
    const w = parameter([3, 4], [2], { name: "w" });
    const y = x.add(w);
    await using program = await compile({ x2: x, x3: x, w2: w, c: constant([5, 6]), y1: y, y2: y }, { engine: "sim" });
    const all = await program.run({ x: [1, 2] });
    expect(Object.keys(all)).toEqual(["x2", "x3", "w2", "c", "y1", "y2"]);
    expect(Object.values(all).map(values)).toEqual([
      [1, 2],
      [1, 2],
      [3, 4],
      [5, 6],
      [4, 6],
      [4, 6],
    ]);
  });

  test("an output of any legal name is found under it", async () => {
    const x = input([1], { name: "x" });
    for (const name of ["constructor", "toString", "__proto__", "_", "x_next", "link", "main"]) {
      await using program = await compile(Object.fromEntries([[name, x.add(1)]]), { engine: "sim" });
      const results = await program.run({ x: 1 });
      expect(Object.hasOwn(results, name), name).toBe(true);
    }
  });

  test("bits are the patterns of the values", async () => {
    await using program = await compile({ x: [4] }, ({ x }) => ({ y: x.mul(1) }), { engine: "sim" });
    const { y } = await program.run({ x: [1, -2, 1e6, 2 ** -24] }, { as: "bits" });
    expect(values(y)).toEqual([0x3c00, 0xc000, 0x7c00, 1]);
    expect(y.data).toBeInstanceOf(Uint16Array);
  });
});

describe("views", () => {
  test("an input that was viewed need not be fed, an output view shows the last run", async () => {
    await using program = await compile({ a: [2], b: [1] }, ({ a, b }) => ({ y: a.mul(b) }), { engine: "sim" });
    const a = program.view("a");
    const y = program.view("y");
    a.set([0x3c00, 0x4000]);
    program.runSync({ b: [3] } as never);
    expect(Array.from(y)).toEqual([0x4200, 0x4600]);
    await program.run({ b: [1] } as never);
    expect(Array.from(y)).toEqual([0x3c00, 0x4000]);
    await program.run({ a: [5, 6], b: [1] });
    expect(Array.from(a)).toEqual([0x4500, 0x4600]);
    await expect(program.run({ a: [1, 1] } as never)).rejects.toThrow('no feed for "b"');
    expect(() => program.view("c" as never)).toThrow(code("CONFIG"));
  });

  test.each(["fp16", "fp32", "int32"] as const)(
    "what was seen in the memory of %s inputs may be fed to another",
    async (dtype) => {
      const a = input([2], { dtype, name: "a" });
      const b = input([2], { dtype, name: "b" });
      await using program = await compile({ y: a.reshape([2]), z: b.reshape([2]) }, { engine: "sim" });
      const of = (...numbers: number[]) =>
        new NDArray(dtype, [2], (dtype === "int32" ? Int32Array : Float32Array).from(numbers));
      program.runSync({ a: of(1, 2), b: of(3, 4) });
      const data = program.view("a");
      const before = dtype === "fp16" ? new NDArray("fp16", [2], data as never) : (data as Float32Array);
      const { y, z } = program.runSync({ a: of(5, 6), b: before });
      expect([values(y!), values(z!)]).toEqual([
        [5, 6],
        [1, 2],
      ]);
      expect(values(program.runSync({ b: of(7, 8) } as never).y!)).toEqual([5, 6]);
    },
  );

  test("stay readable after dispose", async () => {
    const program = await compile({ a: [2] }, ({ a }) => ({ y: a.mul(2) }), { engine: "sim" });
    const y = program.view("y");
    program.runSync({ a: [1, 2] });
    program.dispose();
    expect(Array.from(y)).toEqual([0x4000, 0x4400]);
    expect(() => program.view("y")).toThrow(code("DISPOSED"));
  });
});

describe("order", () => {
  const counter = async (engine: "sim" | ReturnType<typeof createEager> = "sim") => {
    const w = parameter(0, [], { name: "w", dtype: "int32" });
    const x = input([], { name: "x", dtype: "int32" });
    const next = w.mul(3).add(x);
    return compile({ y: next }, { engine, update: new Map([[w, next]]) });
  };

  test("overlapping runs queue in call order", async () => {
    for (const engine of ["sim" as const, createEager({ seed: 3 })]) {
      await using program = await counter(engine);
      const finished: number[] = [];
      const runs = [1, 2, 0, 1, 2].map((x, i) =>
        program.run({ x }).then(({ y }) => {
          finished.push(i);
          return y.item();
        }),
      );
      expect(await Promise.all(runs)).toEqual([1, 5, 15, 46, 140]);
      expect(finished).toEqual([0, 1, 2, 3, 4]);
    }
  });

  test("a run that fails does not hold up the queue", async () => {
    const i = input([1], { name: "i", dtype: "int32" });
    await using program = await compile({ y: constant([5, 6, 7]).gather(i) }, { engine: "sim" });
    const settled = await Promise.allSettled([0, 9, 2].map((index) => program.run({ i: [index] })));
    expect(settled.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  });

  test("runSync and state access while a run is in flight are errors, and fine after it", async () => {
    await using program = await counter();
    const run = program.run({ x: 1 });
    expect(() => program.runSync({ x: 1 })).toThrow(code("ENGINE"));
    const [{ parameter: node }] = program.plan.states as [(typeof program.plan.states)[0]];
    const w = new Tensor(node);
    expect(() => program.state.read(w)).toThrow(code("ENGINE"));
    expect(() => program.state.write(w, 1)).toThrow(code("ENGINE"));
    await run;
    expect(program.runSync({ x: 1 }).y.item()).toBe(4);
    await program.run({ x: 2 ** 40 }).catch(() => undefined);
    expect(program.runSync({ x: 0 }).y.item()).toBe(12);
  });

  test("programs on one engine share its queue", async () => {
    const engine = createEager();
    await using a = await compile({ x: [1] }, ({ x }) => ({ y: x.add(1) }), { engine });
    await using b = await compile({ x: [1] }, ({ x }) => ({ y: x.add(2) }), { engine });
    const run = a.run({ x: 1 });
    expect(() => b.runSync({ x: 1 })).toThrow(code("ENGINE"));
    await run;
    expect(b.runSync({ x: 1 }).y.item()).toBe(3);
  });
});

describe("abort", () => {
  test("a signal that fired refuses compile and run with its reason", async () => {
    const reason = new Error("stop");
    const signal = AbortSignal.abort(reason);
    await expect(compile({ x: [1] }, ({ x }) => ({ y: x.add(1) }), { engine: "sim", signal })).rejects.toMatchObject({
      code: "ERR_ANEKIT_ABORTED",
      cause: reason,
    });
    await using program = await compile({ x: [1] }, ({ x }) => ({ y: x.add(1) }), { engine: "sim" });
    await expect(program.run({ x: 1 }, { signal })).rejects.toMatchObject({
      code: "ERR_ANEKIT_ABORTED",
      cause: reason,
    });
    expect(program.runSync({ x: 1 }).y.item()).toBe(2);
  });

  test("a run that is still queued is aborted without running", async () => {
    const w = parameter(0, [], { name: "w" });
    await using program = await compile({}, { engine: "sim", update: new Map([[w, w.add(1)]]) });
    const controller = new AbortController();
    const first = program.run({});
    const second = program.run({}, { signal: controller.signal });
    const third = program.run({});
    controller.abort();
    await first;
    await expect(second).rejects.toThrow(code("ABORTED"));
    await third;
    expect(program.state.read(w).item()).toBe(2);
  });
});

describe("dispose", () => {
  test("is idempotent, and later use is a DisposedError", async () => {
    const program = await compile({ x: [1] }, ({ x }) => ({ y: x.add(1) }), { engine: "sim" });
    program.dispose();
    program.dispose();
    program[Symbol.dispose]();
    await program[Symbol.asyncDispose]();
    await expect(program.run({ x: 1 })).rejects.toThrow(code("DISPOSED"));
    expect(() => program.runSync({ x: 1 })).toThrow(code("DISPOSED"));
    expect(() => program.view("x")).toThrow(code("DISPOSED"));
  });

  test("`await using` and `using` dispose at the end of the block", async () => {
    let kept: CompiledProgram<"x", { y: Tensor<"fp16"> }>;
    {
      await using program = await compile({ x: [1] }, ({ x }) => ({ y: x.add(1) }), { engine: "sim" });
      kept = program;
      expect(program.runSync({ x: 1 }).y.item()).toBe(2);
    }
    await expect(kept.run({ x: 1 })).rejects.toThrow(code("DISPOSED"));
    {
      using program = await compile({ x: [1] }, ({ x }) => ({ y: x.add(1) }), { engine: "sim" });
      kept = program;
    }
    expect(() => kept.runSync({ x: 1 })).toThrow(code("DISPOSED"));
  });

  test("an engine that the caller opened stays open for the next program", async () => {
    let closed = 0;
    const engine = { ...createEager(), [Symbol.dispose]: () => closed++ };
    for (let i = 0; i < 3; i++) {
      await using program = await compile({ x: [1] }, ({ x }) => ({ y: x.add(1) }), { engine });
      expect(program.runSync({ x: 1 }).y.item()).toBe(2);
    }
    expect(closed).toBe(0);
  });

  test("a program whose load fails lets go of what it loaded", async () => {
    let open = 0;
    const inner = createEager();
    const engine = {
      ...inner,
      load: async (program: Parameters<typeof inner.load>[0]) => {
        if (program.name === "second") throw new Error("no room");
        const executable = await inner.load(program);
        open++;
        return { program, bind: executable.bind.bind(executable), [Symbol.dispose]: () => void open-- };
      },
    };
    const x = input([1], { name: "x" });
    const a = x.add(1);
    await expect(
      compile({ y: a.mul(2) }, { engine, stages: [{ name: "first", compute: [a] }, { name: "second" }] }),
    ).rejects.toThrow("no room");
    expect(open).toBe(0);
  });
});

describe("precision", () => {
  test("fp32 widens every fp16 value, constants to the digits they were given", async () => {
    const w = parameter([0.1], [1], { name: "w" });
    const build = {
      y: input([1], { name: "x" })
        .mul(constant([0.3]))
        .add(w),
    };
    await using plain = await compile(build, { engine: "sim" });
    await using wide = await compile(build, { engine: "sim", precision: "fp32" });
    const narrow = (await plain.run({ x: 0.7 })).y;
    const exact = (await wide.run({ x: 0.7 })).y;
    expect(narrow.dtype).toBe("fp16");
    expect(exact.dtype).toBe("fp32");
    expect(exact.item()).toBe(Math.fround(Math.fround(Math.fround(0.7) * Math.fround(0.3)) + Math.fround(0.1)));
    expect(values(wide.state.read(w))).toEqual([Math.fround(0.1)]);
    expect((await wide.run({ x: 1e6 })).y.item()).toBeCloseTo(300000.1, 0);
  });

  test("fp32 keeps the digits of attributes too", async () => {
    await using wide = await compile({ x: [1] }, ({ x }) => ({ y: x.leakyRelu(0.01), z: x.square().rsqrt(1e-9) }), {
      engine: "sim",
      precision: "fp32",
    });
    expect((await wide.run({ x: -1 })).y.item()).toBe(Math.fround(-0.01));
    expect((await wide.run({ x: 0 })).z.item()).toBeCloseTo(1 / Math.sqrt(1e-9), 0);
  });

  test("fp16 refuses a graph with fp32 in it, and names the operator", async () => {
    const x = input([1], { name: "x" });
    await expect(compile({ y: x.cast("fp32").exp() }, { precision: "fp16" })).rejects.toThrow(/DTypeError|cast|fp32/);
    const wide = input([1], { name: "wide", dtype: "fp32" });
    await expect(compile({ y: wide.cast("fp16") }, { precision: "fp16" })).rejects.toThrow(code("DTYPE"));
    await using fine = await compile({ y: x.exp() }, { precision: "fp16", engine: "sim" });
    expect((await fine.run({ x: 0 })).y.item()).toBe(1);
  });

  test("integers and bools are left alone", async () => {
    const x = input([2], { name: "x" });
    await using program = await compile(
      { a: x.argmax(), b: x.greater(0), c: x.cast("int32") },
      { precision: "fp32", engine: "sim" },
    );
    const { a, b, c } = await program.run({ x: [1, 2] });
    expect([a.dtype, b.dtype, c.dtype]).toEqual(["int32", "bool", "int32"]);
  });
});

describe("compile refuses", () => {
  const refused = (promise: Promise<unknown>, name: string) => expect(promise).rejects.toThrow(code(name));

  test("an input that no output uses", () =>
    refused(
      compile({ x: [1], unused: [2] }, ({ x }) => ({ y: x.add(1) })),
      "CONFIG",
    ));

  test("names that stand for two things", async () => {
    const [a, b] = [input([1], { name: "x" }), input([1], { name: "x" })];
    await refused(compile({ y: a.add(b) }), "CONFIG");
    await refused(compile({ x: a.add(1) }), "CONFIG");
  });

  test("names that are no identifiers", async () => {
    for (const name of ["", "1x", "a b", "a-b", "é", "x".repeat(300), "a.b"]) {
      await refused(compile({ y: input([1], { name }).add(1) }), "CONFIG");
      await refused(compile({ [name]: input([1], { name: "x" }).add(1) }), "CONFIG");
    }
  });

  test("or prints every name that it accepts as MIL that reads back", async () => {
    for (const name of [
      "true",
      "false",
      "tensor",
      "func",
      "const",
      "BLOBFILE",
      "inf",
      "nan",
      "fp16",
      "main",
      "c0",
      "v1",
    ]) {
      const x = input([2], { name });
      let program: CompiledProgram;
      try {
        program = await compile({ y: x.add(1).mul(2) }, { engine: "sim" });
      } catch (error) {
        expect(error).toBeInstanceOf(AnekitError);
        continue;
      }
      for (const dialect of ["modern", "verbose"] as const)
        expect(readMil(program.mil({ dialect })).inputs[0]!.name).toBe(name);
    }
  });

  test("outputs that are not tensors", async () => {
    await refused(compile({ y: 1 as never }), "CONFIG");
    await refused(
      compile({ x: [1] }, ({ x }) => ({ y: x, z: undefined as never })),
      "CONFIG",
    );
  });

  test("updates that do not fit", async () => {
    const x = input([2], { name: "x" });
    const w = parameter([1, 2], [2], { name: "w" });
    const y = x.add(w);
    await refused(compile({ y }, { update: new Map([[x, w]]) }), "CONFIG");
    await refused(compile({ y }, { update: new Map([[y, w]]) }), "CONFIG");
    await refused(compile({ y }, { update: new Map([[constant([1, 2]), w]]) }), "CONFIG");
    await refused(compile({ y }, { update: new Map([[w, y.sum()]]) }), "SHAPE");
    await refused(compile({ y }, { update: new Map([[w, y.reshape([1, 2])]]) }), "SHAPE");
    await expect(compile({ y }, { update: new Map<Tensor, Tensor>([[w, y.cast("fp32")]]) })).rejects.toBeInstanceOf(
      AnekitError,
    );
    await refused(
      compile(
        { y },
        {
          update: new Map<Tensor, Tensor>([
            [w, y],
            [new Tensor(w.node), y],
          ]),
        },
      ),
      "CONFIG",
    );
  });

  test("shapes that are none", async () => {
    for (const shape of [[0], [-1], [1.5], [1, 1, 1, 1, 1, 1], [2 ** 40], [Number.NaN]]) {
      await refused(
        compile({ x: shape }, ({ x }) => ({ y: x })),
        "SHAPE",
      );
    }
  });

  test("engines that are not there", async () => {
    for (const { name } of (await listEngines()).filter(({ available }) => !available)) {
      await refused(
        compile({ x: [1] }, ({ x }) => ({ y: x.add(1) }), { engine: name }),
        "UNSUPPORTED",
      );
    }
    await expect(openEngine("tpu" as never)).rejects.toBeInstanceOf(AnekitError);
  });

  test("a list of stages that is empty or names a stage twice", async () => {
    const x = input([1], { name: "x" });
    const a = x.add(1);
    await refused(compile({ y: a }, { stages: [] }), "CONFIG");
    await refused(compile({ y: a.mul(2) }, { stages: [{ name: "s", compute: [a] }, { name: "s" }] }), "CONFIG");
  });

  test("precisions and dtypes that do not exist", async () => {
    const x = input([1], { name: "x" });
    await expect(compile({ y: x.add(1) }, { precision: "fp64" as never })).rejects.toBeInstanceOf(AnekitError);
    await expect(
      compile({ x: { shape: [1], dtype: "fp64" as never } }, ({ x }) => ({ y: x as Tensor })),
    ).rejects.toBeInstanceOf(AnekitError);
  });
});

describe("types", () => {
  test("names, dtypes and array types of the first form are inferred", async () => {
    await using program = await compile(
      { x: [2, 3], i: { shape: [2], dtype: "int32" } },
      ({ x, i }) => {
        expectTypeOf(x).toEqualTypeOf<Tensor<"fp16">>();
        expectTypeOf(i).toEqualTypeOf<Tensor<"int32">>();
        return { y: x.exp(), low: x.argmin(), hot: x.greater(0), wide: x.cast("fp32"), rows: x.gather(i) };
      },
      { engine: "sim" },
    );
    expectTypeOf(program.run).parameter(0).toHaveProperty("x");
    expectTypeOf<keyof Parameters<typeof program.run>[0]>().toEqualTypeOf<"x" | "i">();
    expectTypeOf<Parameters<typeof program.view>[0]>().toEqualTypeOf<
      "x" | "i" | "y" | "low" | "hot" | "wide" | "rows"
    >();
    const results = await program.run({ x: [1, 2, 3, 4, 5, 6], i: [0, 1] });
    expectTypeOf(results.y.data).toEqualTypeOf<Float32Array<ArrayBuffer>>();
    expectTypeOf(results.low.data).toEqualTypeOf<Int32Array<ArrayBuffer>>();
    expectTypeOf(results.hot.data).toEqualTypeOf<Uint8Array<ArrayBuffer>>();
    expectTypeOf(results.wide.data).toEqualTypeOf<Float32Array<ArrayBuffer>>();
    expectTypeOf(results.rows.dtype).toEqualTypeOf<"fp16">();
    const bits = await program.run({ x: [1, 2, 3, 4, 5, 6], i: [0, 1] }, { as: "bits" });
    expectTypeOf(bits.y.data).toEqualTypeOf<Uint16Array<ArrayBuffer>>();
    expectTypeOf(bits.wide.data).toEqualTypeOf<Float32Array<ArrayBuffer>>();
    expectTypeOf(bits.hot.data).toEqualTypeOf<Uint8Array<ArrayBuffer>>();
    // @ts-expect-error a feed is missing
    await expect(program.run({ x: 1 })).rejects.toThrow();
    // @ts-expect-error there is no such input
    await expect(program.run({ x: 1, i: 1, z: 1 })).rejects.toThrow();
    // @ts-expect-error there is no such result
    expect(results.nothing).toBeUndefined();
  });

  test("names and array types of the second form are inferred", async () => {
    const x = input([2], { name: "x" });
    const w = parameter([1, 2], [2], { name: "w", dtype: "fp32" });
    expectTypeOf(x).toEqualTypeOf<Tensor<"fp16">>();
    expectTypeOf(w).toEqualTypeOf<Tensor<"fp32">>();
    const loss = x.cast("fp32").mul(w).sum();
    await using program = await compile(
      { loss, best: x.argmax() },
      { engine: "sim", update: new Map([[w, w.sub(grad(loss, [w])[0]!)]]) },
    );
    const results = program.runSync({ x: [1, 2] });
    expectTypeOf(results).toHaveProperty("loss");
    expectTypeOf(results.loss.dtype).toEqualTypeOf<"fp32">();
    expectTypeOf(results.best.data).toEqualTypeOf<Int32Array<ArrayBuffer>>();
    expectTypeOf(program.state.read(w).data).toEqualTypeOf<Float32Array<ArrayBuffer>>();
    const half = parameter([1], [1]);
    expectTypeOf(() => program.state.read(half, { as: "bits" }).data).returns.toEqualTypeOf<Uint16Array<ArrayBuffer>>();
    expect(values(program.state.read(w))).toEqual([0, 0]);
  });
});
