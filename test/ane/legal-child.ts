// `legal-child.ts CONFIG-NAME`: every trap of that configuration through the driver and, as it is written, straight into Espresso; then traps of the
// calls themselves. A line of JSON each.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  BoundStream,
  buildUnit,
  type PortBinding,
  releaseOperation,
  releaseUnit,
} from "../../src/engines/ane/build.ts";
import { EspressoError } from "../../src/engines/ane/failures.ts";
import { encodeFeed } from "../../src/engines/array.ts";
import { runProgram } from "../../src/engines/run-program.ts";
import { createSim } from "../../src/engines/sim/index.ts";
import { constant, input, type Tensor } from "../../src/index.ts";
import type { Program } from "../../src/ir/program.ts";
import { milFiles } from "../../src/mil/writer.ts";
import { legalize } from "../../src/passes/legalize.ts";
import { segment } from "../../src/passes/segment.ts";
import { feedsOf, programOf } from "../passes/helpers.ts";
import { type Trap, trapConfigs, traps } from "./checks/traps.ts";
import { leftover, openAne, outcome, print, raw, reference, wait } from "./inside.ts";

const engine = await openAne();
const { espresso } = engine;
const sim = createSim("test");
const { syntax } = engine.capabilities.dialect;
const place = mkdtempSync(join(tmpdir(), "legal-"));
let files = 0;

function write(program: Program, change: (text: string) => string = (text) => text) {
  const folder = join(place, String(files++));
  const made = { mil: join(folder, "model.mil"), cache: join(folder, "cache") };
  mkdirSync(made.cache, { recursive: true });
  const { text, weights } = milFiles(program, { dialect: syntax });
  writeFileSync(made.mil, change(text));
  if (weights.length > 0) writeFileSync(join(folder, "weights.bin"), weights);
  return made;
}

/** The program without legalization: outputs as they are in memory, or Espresso's words. */
function runRaw(program: Program, feeds: ReadonlyMap<string, readonly number[]>): Map<string, string> | string {
  try {
    const unit = buildUnit(espresso, write(program));
    const own = new Map(
      [...program.inputs, ...program.outputs].map(({ name, value }) => [
        name,
        engine.espressoBuffer(program.values[value]!),
      ]),
    );
    for (const { name, value } of program.inputs)
      own.get(name)!.bytes.set(encodeFeed(name, program.values[value]!, feeds.get(name)!));
    const port =
      (direction: PortBinding["direction"]) =>
      ({ name }: { name: string }) => ({
        name,
        direction,
        buffer: own.get(name)!.handle,
      });
    const ports = [...program.inputs.map(port("input")), ...program.outputs.map(port("output"))];
    const bound = new BoundStream(espresso, [{ operation: unit, ports }]);
    espresso.execute(bound.stream);
    bound.release();
    espresso.pooled(() => releaseUnit(espresso, unit));
    const found = new Map(program.outputs.map(({ name }) => [name, Buffer.from(own.get(name)!.bytes).toString("hex")]));
    for (const buffer of own.values()) buffer[Symbol.dispose]();
    return found;
  } catch (error) {
    if (error instanceof EspressoError) return error.message;
    throw error;
  }
}

function withUnread(program: Program): Program {
  const value = program.values.length;
  const values = [...program.values, { dtype: "fp16", shape: [4] } as const];
  return { ...program, values, inputs: [...program.inputs, { name: "unread", value }] };
}

/** What is wrong about a trap's outcome. */
async function spring({ outputs, unread, scale = 2, raw: words, refused, within = 0 }: Trap): Promise<string[]> {
  const plain = programOf(outputs());
  const program = unread === true ? withUnread(plain) : plain;
  const feeds = feedsOf(program, 1, scale);
  const wrong: string[] = [];
  const said = runRaw(program, feeds);
  raw.resetReport(); // refusals that are misuse are what is looked for
  const numbers = async (which: typeof sim) => (await runProgram(program, feeds, which)).results;
  if (refused === undefined) {
    const [got, exact, near] = [await numbers(engine), await numbers(reference(engine)), await numbers(sim)];
    for (const [name, { data }] of got) {
      const values = Array.from(data as Float32Array);
      const same = values.every((value, i) => Object.is(value, exact.get(name)!.data[i]));
      if (!same)
        wrong.push(`${name} is ${values.slice(0, 4)}, the simulator gives ${exact.get(name)!.data.slice(0, 4)}`);
      const far = values.find((value, i) => !(Math.abs(value - (near.get(name)!.data[i] as number)) <= within));
      if (far !== undefined) wrong.push(`${name} has ${far}, which is not what the program says`);
    }
    if (words === "wrong" && typeof said !== "string") {
      const right = [...near].every(([name, { data }]) => {
        const value = program.values[program.outputs.find((port) => port.name === name)!.value]!;
        return (
          Buffer.from(encodeFeed(name, value, Array.from(data as Float32Array))).toString("hex") === said.get(name)
        );
      });
      if (right) wrong.push("without legalization it is right, too");
    }
  } else {
    const message = await outcome(runProgram(program, feeds, engine));
    if (!(message.startsWith("UnsupportedError") && refused.test(message))) wrong.push(`the driver says: ${message}`);
  }
  if (words === "wrong" ? typeof said === "string" : !words.test(typeof said === "string" ? said : ""))
    wrong.push(`without legalization: ${typeof said === "string" ? said : "it runs"}`);
  return [...wrong, ...(await leftover())];
}

const name = process.argv[2] as keyof typeof trapConfigs;
for (const trap of traps.filter(({ config }) => config === trapConfigs[name]))
  print({ name: trap.name, wrong: await spring(trap).catch((error: Error) => [error.stack]) });

const base = process.env.ESPRESSO_DOUBLE!;
const x = (...shape: number[]) => input(shape, { name: "x" });
const small = () => programOf({ y: x(100).mul(2) });
const message = (call: () => unknown) => {
  try {
    call();
    return "ok";
  } catch (error) {
    return (error as Error).message;
  } finally {
    raw.resetReport();
  }
};

const calls: Readonly<Record<string, () => Promise<unknown>>> = {
  async "sizes of ports"() {
    const results: string[] = [];
    for (const count of [1, 3, 31, 32, 33, 65, 1000]) {
      const program = programOf({ y: x(count).mul(2) });
      const { results: found } = await runProgram(program, new Map([["x", new Array<number>(count).fill(3)]]), engine);
      results.push(`${count} ${(found.get("y")!.data as Float32Array).every((value) => value === 6)}`);
    }
    const unit = buildUnit(espresso, write(small()));
    const short = espresso.buffer(64);
    const whole = espresso.buffer(200);
    const port = (each: string, direction: PortBinding["direction"], buffer: PortBinding["buffer"]) => ({
      name: each,
      direction,
      buffer,
    });
    const bind = () =>
      new BoundStream(espresso, [
        { operation: unit, ports: [port("x", "input", whole.handle), port("y", "output", short.handle)] },
      ]);
    const tooSmall = message(bind);
    espresso.pooled(() => releaseUnit(espresso, unit));
    for (const { memory } of [short, whole]) memory.release();
    return { results, tooSmall };
  },
  async "epsilon below the range of fp16"() {
    const rows = (epsilon: number) => programOf({ y: x(3, 16).layerNorm({ axes: [1], epsilon }) });
    const feeds = new Map([["x", Array.from({ length: 48 }, (_, i) => (i < 16 ? 1 : Math.sin(i) / 50))]]);
    const found: unknown[] = [];
    for (const epsilon of [1e-3, 1e-5, 1e-7]) {
      const [got, want] = [await runProgram(rows(epsilon), feeds, engine), await runProgram(rows(epsilon), feeds, sim)];
      const [g, w] = [got, want].map(({ results }) => Array.from(results.get("y")!.data as Float32Array));
      found.push([epsilon, g!.every(Number.isFinite), JSON.stringify(g) === JSON.stringify(w)]);
    }
    // An epsilon of another dtype than x is refused.
    const change = (text: string) =>
      text
        .replace(/epsilon = \w+/, "epsilon = wide")
        .replace(
          /(\s+)tensor<fp16, \[3, 16\]> y = /,
          '$1fp32 wide = const()[name = string("wide"), val = fp32(0x1p-17)];$&',
        );
    return {
      found,
      raw: message(() =>
        buildUnit(espresso, write(legalize(rows(1e-5), engine.chip, engine.capabilities.dialect), change)),
      ),
    };
  },
  async "more programs than the process may hold"() {
    raw.configure(`${base};limit=110;compute=none`);
    const units: ReturnType<typeof buildUnit>[] = [];
    let refusal = "";
    const made = write(small());
    while (refusal === "" && units.length < 130) {
      try {
        units.push(buildUnit(espresso, made));
      } catch (error) {
        refusal = (error as Error).message;
      }
    }
    espresso.pooled(() => {
      for (const unit of units) {
        releaseOperation(espresso, unit);
        releaseUnit(espresso, unit);
      }
    });
    raw.resetReport();
    const programs = [];
    for (let i = 0; i < 130; i++) programs.push(await engine.load(small()));
    const { livePrograms } = raw.counts();
    for (const program of programs) program[Symbol.dispose]();
    raw.configure(base);
    return { count: units.length, refusal, livePrograms };
  },
  async "a compiler that a failure has poisoned"() {
    raw.configure(`${base};fail-compiles=1;poison=1000`);
    const made = write(small());
    const first = message(() => buildUnit(espresso, made));
    const second = message(() => buildUnit(espresso, made));
    await wait(1100);
    const unit = buildUnit(espresso, made);
    espresso.pooled(() => {
      releaseOperation(espresso, unit);
      releaseUnit(espresso, unit);
    });
    raw.configure(base);
    return { first, second };
  },
  async "more constants than a program may have"() {
    raw.configure(`${base};max-weights=5000`);
    let y: Tensor = x(8, 32);
    for (let i = 0; i < 5; i++)
      y = y
        .matmul(
          constant(
            Float32Array.from({ length: 1024 }, (_, at) => Math.sin(at + i)),
            [32, 32],
          ),
        )
        .tanh();
    const legal = legalize(programOf({ y }), engine.chip, engine.capabilities.dialect);
    const whole = message(() => buildUnit(espresso, write(legal)));
    const parts = segment(legal, 5000);
    const each = parts.map((part) => {
      const feeds = feedsOf(part);
      const found = runRaw(part, feeds);
      return typeof found === "string" ? found : "ok";
    });
    raw.configure(base);
    return { whole, each };
  },
};
if (name === "recent")
  for (const [title, call] of Object.entries(calls)) {
    const result = await call().catch((error: Error) => ({ failed: error.stack }));
    raw.configure(base);
    print({ name: title, result, left: await leftover() });
    raw.resetReport();
  }
engine[Symbol.dispose]();
rmSync(place, { recursive: true });
