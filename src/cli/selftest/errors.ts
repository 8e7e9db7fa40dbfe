// Group "errors": what an engine must refuse, it refuses with the right error, at once and without a crash, and works on afterwards.

import {
  AbortedError,
  type AnekitError,
  ConfigError,
  DisposedError,
  EngineError,
  ShapeError,
  UnsupportedError,
} from "../../core/errors.ts";
import { type CompiledProgram, compile, constant, input, type Tensor } from "../../index.ts";
import { type Bench, type Check, expect, type Finding, type Group } from "./group.ts";

type ErrorClass = new (...args: never[]) => AnekitError;

/** What happened instead of an error. */
const nothing = Symbol();

async function thrown(work: () => unknown): Promise<unknown> {
  try {
    await work();
    return nothing;
  } catch (error) {
    return error;
  }
}

async function throws(classes: readonly ErrorClass[], work: () => unknown): Promise<Finding> {
  const names = classes.map(({ name }) => name).join(" or ");
  const error = await thrown(work);
  expect(error !== nothing, () => `nothing was thrown, expected ${names}`);
  expect(
    classes.some((each) => error instanceof each),
    () => `${describe(error)} was thrown, expected ${names}`,
  );
  const { code, message } = error as AnekitError;
  return { seen: { code, length: message.length } };
}

function describe(error: unknown): string {
  return error instanceof Error ? `${error.name} "${error.message}"` : String(error);
}

/** A program that must run right, whatever happened before. */
async function works({ device }: Bench): Promise<void> {
  using program = await compile({ x: [5] }, ({ x }) => ({ y: x.add(1) }), { engine: device });
  const { data } = program.runSync({ x: [1, 2, 3, 4, 5] }).y;
  expect(
    [...data].every((value, i) => value === i + 2),
    () => `afterwards x + 1 of 1 to 5 gave ${[...data].join(" ")}`,
  );
}

interface Refused {
  readonly name: string;
  readonly outputs: () => Readonly<Record<string, Tensor>>;
  readonly feeds: () => Readonly<Record<string, ArrayLike<number>>>;
}

/** What the chip has no form for; other engines run it. */
const beyondTheChip: readonly Refused[] = [
  {
    name: "an extent of 70000",
    outputs: () => ({ y: input([1, 70000], { name: "x" }).relu() }),
    feeds: () => ({ x: new Float32Array(70000) }),
  },
  {
    name: "fp32 ports",
    outputs: () => ({ y: input([4], { name: "x", dtype: "fp32" }).exp() }),
    feeds: () => ({ x: new Float32Array(4) }),
  },
  {
    name: "int32 ports",
    outputs: () => ({ y: input([4], { name: "x", dtype: "int32" }).add(1) }),
    feeds: () => ({ x: [1, 2, 3, 4] }),
  },
  {
    name: "gather with fed indices",
    outputs: () => ({ y: input([9, 4], { name: "x" }).gather(input([3], { name: "i", dtype: "int32" }), 0) }),
    feeds: () => ({ x: new Float32Array(36), i: [0, 8, 4] }),
  },
];

/** On the chip refused by name; elsewhere run. Works afterwards in both cases. */
async function refuses({ outputs, feeds }: Refused, bench: Bench): Promise<Finding> {
  const work = async () => {
    using program = await compile(outputs(), { engine: bench.device });
    program.runSync(feeds());
  };
  if (bench.engine !== "ane") {
    await work();
    return { what: "no limit of this engine: it ran" };
  }
  const finding = await throws([UnsupportedError], work);
  await works(bench);
  return finding;
}

const mostPrograms = 130;

/** More programs than a process can hold: all load, or one is refused; what was loaded runs, and a place that is freed can be taken. */
async function programLimit(bench: Bench): Promise<Finding> {
  const programs: CompiledProgram[] = [];
  const made = (index: number) =>
    compile({ x: [8] }, ({ x }) => ({ y: x.add(constant([index], [1])) }), { engine: bench.device });
  let refusal: unknown = nothing;
  try {
    for (let index = 0; index < mostPrograms && refusal === nothing; index++) {
      refusal = await thrown(async () => void programs.push(await made(index)));
    }
    const loaded = programs.length;
    const seen = { loaded, asked: mostPrograms, refused: refusal !== nothing };
    const right = refusal === nothing || refusal instanceof EngineError || refusal instanceof UnsupportedError;
    expect(right, () => `program ${loaded + 1} was refused by ${describe(refusal)}`, seen);
    for (const index of [0, loaded >> 1, loaded - 1]) {
      const value = programs[index]!.runSync({ x: new Float32Array(8) }).y!.data[7]!;
      expect(value === index, () => `program ${index + 1} of ${loaded} gave ${value}, not ${index}`, seen);
    }
    for (const program of programs.splice(-3)) program.dispose();
    await works(bench);
    return { seen };
  } finally {
    for (const program of programs) program.dispose();
  }
}

/** Many compiles, each released: compilers that leak stop here. */
async function manyCompiles(bench: Bench, count: number): Promise<Finding> {
  for (let index = 0; index < count; index++) {
    const error = await thrown(async () => {
      using program = await compile({ x: [8] }, ({ x }) => ({ y: x.mul(constant([index + 1], [1])) }), {
        engine: bench.device,
      });
      const value = program.runSync({ x: new Float32Array(8).fill(1) }).y.data[0];
      expect(value === index + 1, () => `compile ${index + 1} gave ${value}`, { compiles: index });
    });
    expect(error === nothing, () => `compile ${index + 1} failed: ${describe(error)}`, { compiles: index });
  }
  return { seen: { compiles: count } };
}

/** How long after a refusal the next program compiles. */
async function afterFailure(bench: Bench): Promise<Finding> {
  const refused = await thrown(() => refusesLate(bench));
  const started = performance.now();
  let attempts = 0;
  let error: unknown;
  do {
    attempts++;
    error = await thrown(() => works(bench));
    if (error === nothing) break;
    await new Promise((resolve) => setTimeout(resolve, 500));
  } while (performance.now() - started < 20_000);
  const seconds = (performance.now() - started) / 1000;
  const seen = { seconds, attempts, failedBefore: refused !== nothing };
  expect(error === nothing, () => `no program compiles for 20 s after one that was refused: ${describe(error)}`, seen);
  return { seen };
}

/** A program that no check of ours refuses and that compilers were seen to refuse: two rows of some ten thousand positions joined (ANEForge, M5 Pro). */
async function refusesLate({ device }: Bench): Promise<void> {
  const row = (name: string) => input([64, 250], { name }).reshape([1, 16000]);
  using program = await compile({ y: row("a").concat([row("b")], 0) }, { engine: device });
  program.runSync({ a: new Float32Array(16000), b: new Float32Array(16000) });
}

/** Errors of the caller, the same on every engine. */
const callers: readonly (readonly [string, readonly ErrorClass[], (bench: Bench) => unknown])[] = [
  ["shapes that do not fit", [ShapeError], () => input([3, 4]).matmul(input([5, 6]))],
  ["rank 6", [ShapeError], () => input([2, 3, 2, 3, 2, 3])],
  ["a constant out of range", [ConfigError], () => constant([1e6], [1])],
  [
    "a feed of another size",
    [ShapeError],
    (bench) => withProgram(bench, (program) => program.runSync({ x: [1, 2, 3] })),
  ],
  ["an unknown feed", [ConfigError], (bench) => withProgram(bench, (program) => program.runSync({ z: [1] }))],
  ["no feed", [ConfigError], (bench) => withProgram(bench, (program) => program.runSync({}))],
  [
    "use after disposal",
    [DisposedError],
    (bench) =>
      withProgram(bench, (program) => {
        program.dispose();
        program.runSync({ x: [1, 2, 3, 4] });
      }),
  ],
  [
    "a signal that fired",
    [AbortedError],
    (bench) => withProgram(bench, (program) => program.run({ x: [1, 2, 3, 4] }, { signal: AbortSignal.abort() })),
  ],
  [
    "runSync during run",
    [EngineError],
    (bench) =>
      withProgram(bench, async (program) => {
        const running = program.run({ x: [1, 2, 3, 4] });
        try {
          program.runSync({ x: [1, 2, 3, 4] });
        } finally {
          await running;
        }
      }),
  ],
  [
    "disposal during run",
    [DisposedError],
    (bench) =>
      withProgram(bench, async (program) => {
        const running = program.run({ x: [1, 2, 3, 4] });
        program.dispose();
        await running;
      }),
  ],
];

async function withProgram({ device }: Bench, use: (program: CompiledProgram) => unknown): Promise<void> {
  using program = await compile({ y: input([4], { name: "x" }).exp() }, { engine: device });
  await use(program);
}

export const errors: Group = {
  name: "errors",
  summary: "bad programs and uses raise the right error, and the engine works on",
  checkSeconds: 180,
  seconds: { quick: 120, full: 600 },
  checks: ({ quick }): Check[] => [
    ...callers.map(([name, classes, work]) => ({
      name,
      run: async (bench: Bench) => {
        const finding = await throws(classes, () => work(bench));
        await works(bench);
        return finding;
      },
    })),
    ...beyondTheChip.map((each) => ({ name: each.name, run: (bench: Bench) => refuses(each, bench) })),
    { name: "compiling after a refusal", run: afterFailure },
    { name: `${mostPrograms} programs at once`, run: programLimit },
    {
      name: "many compiles, each released",
      run: (bench: Bench) => manyCompiles(bench, quick && bench.engine !== "ane" ? 20 : 150),
    },
  ],
};
