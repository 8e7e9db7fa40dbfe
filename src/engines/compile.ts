// compile(): from graphs to a program that runs. Plans stages, opens engines, keeps buffers and state, queues runs.

import { type ChipName, findChip } from "../chips/index.ts";
import type { DType } from "../core/dtype.ts";
import { AbortedError, ConfigError, DisposedError, EngineError } from "../core/errors.ts";
import { packFloat16 } from "../core/float16.ts";
import { type Aval, checkShape, type Shape, sameShape } from "../core/shape.ts";
import { buildPlan, type Plan, type StageSpec } from "../ir/plan.ts";
import type { Program } from "../ir/program.ts";
import { type MilOptions, milFiles } from "../mil/writer.ts";
import { legalize } from "../passes/legalize.ts";
import { requireFloat16 } from "../passes/precision.ts";
import { input, Tensor } from "../tensor.ts";
import {
  checkFloat16As,
  type DataOf,
  encodeFeed,
  type Feed,
  type Float16As,
  NDArray,
  readBuffer,
  viewOf,
} from "./array.ts";
import type { Binding, Buffer, Engine, Executable } from "./engine.ts";
import { type EngineChoice, openEngine, parseEngine } from "./open.ts";
import { type ProgramReport, reportPlan } from "./report.ts";
import { EngineUse, type StateSlot, StateStore } from "./state.ts";

/** Shape of a feed, fp16 unless a dtype is stated. */
export type FeedSpec = Shape | { readonly shape: Shape; readonly dtype: DType };
export type FeedSpecs = Readonly<Record<string, FeedSpec>>;
type TensorOf<F extends FeedSpec> = F extends { readonly dtype: infer D extends DType } ? Tensor<D> : Tensor<"fp16">;
type Tensors = Readonly<Record<string, Tensor>>;

export interface CompileOptions {
  /** Engine by name, or one that is open. `auto` unless stated. */
  readonly engine?: EngineChoice | Engine;
  /** New values of parameters, committed at the end of every run. */
  readonly update?: ReadonlyMap<Tensor, Tensor>;
  /** Cuts the plan into stages, in order; each computes its tensors and what they need. The last one computes the rest. */
  readonly stages?: readonly StageSpec[];
  /** State of another program whose parameters this one shares; its engine is used. */
  readonly state?: StateStore;
  /** "fp32": every fp16 value becomes fp32. "fp16": refuses a graph with fp32 in it. As declared when absent. */
  readonly precision?: "fp16" | "fp32";
  /** Refuses a graph that this chip cannot run even after legalization, with the operator and the remedy; stages on other engines are left out. */
  readonly chip?: ChipName;
  /** Times every step of the runs, for `report()`. */
  readonly profile?: boolean;
  readonly signal?: AbortSignal;
  readonly name?: string;
}

export interface RunOptions<As extends Float16As = "float32"> {
  readonly signal?: AbortSignal;
  /** How fp16 results are handed out; widened to Float32Array unless stated. */
  readonly as?: As;
}

export type Results<O extends Tensors, As extends Float16As> = {
  readonly [K in keyof O]: O[K] extends Tensor<infer D> ? NDArray<D, As> : never;
};

function aborted(where: string, signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new AbortedError(where, signal);
}

interface LoadedStage {
  readonly executable: Executable;
  readonly bindings: Map<string, Binding>;
  readonly buffers: ReadonlyMap<string, string>;
  /** The binding of the last run, and the buffers that held its state then. */
  last: { readonly binding: Binding; readonly state: readonly Buffer[] } | undefined;
}

type View = ReturnType<typeof viewOf>;

/** An input with its memory. */
interface InputPort extends Aval {
  readonly name: string;
  readonly view: View;
}

/** An output with its memory, once that was asked for, unless it is state, which may move. */
interface OutputPort {
  readonly name: string;
  readonly buffer: Buffer | undefined;
  view: View | undefined;
}

/** What a feed that needs no checks but this one holds: values of the port's own kind, or fp32 values for fp16; undefined for another feed. */
function plainValues({ dtype, shape, view }: InputPort, feed: Feed | undefined): View | undefined {
  let values: unknown = feed;
  if (feed instanceof NDArray) {
    if (feed.dtype !== dtype || !sameShape(feed.shape, shape)) return undefined;
    values = feed.data;
  }
  const fits =
    dtype === "fp16"
      ? values instanceof Float32Array || (values instanceof Uint16Array && values !== feed)
      : (dtype === "fp32" && values instanceof Float32Array) || (dtype === "int32" && values instanceof Int32Array);
  return fits && (values as View).length === view.length ? (values as View) : undefined;
}

function writePlain({ view }: InputPort, values: View): void {
  if (view instanceof Uint16Array && values instanceof Float32Array) packFloat16(values, view);
  else view.set(values);
}

/** A compiled plan with its buffers and state. Disposable; later use is a DisposedError. */
export class CompiledProgram<K extends string = string, O extends Tensors = Tensors>
  implements Disposable, AsyncDisposable
{
  readonly plan: Plan;
  /** Resident state; pass it to another `compile` to share it. */
  readonly state: StateStore;
  readonly #stages: readonly LoadedStage[];
  /** Buffers of feeds, results and links; state is looked up in its slots at every run. */
  readonly #buffers: Map<string, Buffer>;
  readonly #slots: ReadonlyMap<string, { readonly slot: StateSlot; readonly next: boolean }>;
  readonly #ids = new WeakMap<Buffer, number>();
  #lastId = 0;
  readonly #viewed = new Set<string>();
  /** Names of the buffers that hold state. */
  readonly #state: readonly string[];
  readonly #inputs: InputPort[];
  readonly #outputs: OutputPort[];
  /** Values of the feeds of a run that begins. */
  readonly #plain: (View | undefined)[];
  /** Engines opened for single stages. */
  readonly #engines: readonly Engine[];
  #disposed = false;
  #freed = false;
  /** True while one of its runs is in flight; others may wait in the queue. */
  #running = false;

  /** Use `compile`. */
  constructor(
    plan: Plan,
    state: StateStore,
    executables: readonly Executable[],
    slots: ReadonlyMap<string, { readonly slot: StateSlot; readonly next: boolean }>,
    engines: readonly Engine[],
  ) {
    this.#engines = engines;
    this.plan = plan;
    this.state = state;
    this.#slots = slots;
    this.#buffers = new Map();
    try {
      for (const [name, aval] of plan.buffers)
        if (!slots.has(name)) this.#buffers.set(name, state.use.engine.allocate(aval));
    } catch (error) {
      for (const buffer of this.#buffers.values()) buffer[Symbol.dispose]();
      throw error;
    }
    this.#stages = plan.stages.map((stage, at) => ({
      executable: executables[at]!,
      bindings: new Map(),
      buffers: stage.buffers,
      last: undefined,
    }));
    this.#state = [...slots.keys()];
    this.#inputs = [...plan.feeds].map(([name, buffer]) => {
      const { dtype, shape } = plan.buffers.get(buffer)!;
      return { name, dtype, shape, view: viewOf(this.#buffers.get(buffer)!) };
    });
    this.#plain = this.#inputs.map(() => undefined);
    this.#outputs = [...plan.results].map(([name, buffer]) => {
      return { name, buffer: this.#buffers.get(buffer), view: undefined };
    });
  }

  /** The engine and why it was chosen. */
  get engine(): { readonly name: string; readonly reason: string } {
    const { name, reason } = this.state.use.engine;
    return { name, reason };
  }

  #alive(): void {
    if (this.#disposed) throw new DisposedError("the program");
  }

  #buffer(name: string): Buffer {
    const held = this.#slots.get(name);
    if (held === undefined) return this.#buffers.get(name)!;
    return held.next ? held.slot.spare! : held.slot.current;
  }

  #id(buffer: Buffer): number {
    let id = this.#ids.get(buffer);
    if (id === undefined) this.#ids.set(buffer, (id = ++this.#lastId));
    return id;
  }

  /** True where the buffers that hold state are those of the last run. */
  #isSameState(state: readonly Buffer[]): boolean {
    for (let i = 0; i < state.length; i++) if (state[i] !== this.#buffer(this.#state[i]!)) return false;
    return true;
  }

  /** The binding of a stage to the buffers that hold state right now. */
  #binding(stage: LoadedStage): Binding {
    const { last } = stage;
    if (last !== undefined && this.#isSameState(last.state)) return last.binding;
    const buffers = new Map([...stage.buffers].map(([port, name]) => [port, this.#buffer(name)]));
    const key = [...buffers.values()].map((buffer) => this.#id(buffer)).join(",");
    let binding = stage.bindings.get(key);
    if (binding === undefined) stage.bindings.set(key, (binding = stage.executable.bind(buffers)));
    stage.last = { binding, state: this.#state.map((name) => this.#buffer(name)) };
    return binding;
  }

  #checkNames(feeds: Readonly<Record<string, unknown>>): void {
    if (typeof feeds !== "object" || feeds === null)
      throw new ConfigError("run", "feeds are an object, {} for a program without inputs");
    const known = [...this.plan.feeds.keys()];
    for (const name of Object.keys(feeds)) {
      if (!this.plan.feeds.has(name))
        throw new ConfigError("run", `there is no input "${name}"; inputs: ${known.join(", ") || "none"}`);
    }
    const missing = known.filter(
      (name) => !(Object.hasOwn(feeds, name) && feeds[name] !== undefined) && !this.#viewed.has(name),
    );
    if (missing.length > 0)
      throw new ConfigError("run", `no feed for ${missing.map((name) => `"${name}"`).join(", ")}`);
  }

  /** Commits state: swapped parameters exchange their buffers. In-place ones hold the new value already. */
  #commit(): void {
    for (const { parameter, buffer, mode } of this.plan.states) {
      if (mode !== "swap") continue;
      const { slot } = this.#slots.get(buffer)!;
      if (slot.spare === undefined) throw new EngineError("run", `parameter "${parameter.name}" has no second buffer`);
      [slot.current, slot.spare] = [slot.spare, slot.current];
    }
  }

  #results<As extends Float16As>(as: As | undefined): Results<O, As> {
    const results: Record<string, NDArray<DType, Float16As>> = {};
    for (const output of this.#outputs) {
      const { name, buffer } = output;
      const value =
        buffer === undefined
          ? readBuffer(this.#buffer(this.plan.results.get(name)!), as)
          : readBuffer(buffer, as, (output.view ??= viewOf(buffer)));
      if (name !== "__proto__") results[name] = value;
      else Object.defineProperty(results, name, { value, enumerable: true, writable: true, configurable: true });
    }
    return results as unknown as Results<O, As>;
  }

  /**
   * Runs once; overlapping runs queue in call order. Feeds are copied at the call, results belong to the caller.
   * @throws {ConfigError | ShapeError} at the call for feeds that do not fit, {AbortedError} when the signal fires; state is then unchanged.
   */
  async run<As extends Float16As = "float32">(
    feeds: Readonly<Record<K, Feed>>,
    { signal, as }: RunOptions<As> = {},
  ): Promise<Results<O, As>> {
    this.#alive();
    aborted("run", signal);
    checkFloat16As(as);
    this.#checkNames(feeds);
    const encoded = Object.entries<Feed>(feeds).map(([name, feed]) => {
      const buffer = this.#buffer(this.plan.feeds.get(name)!);
      return [buffer, encodeFeed(`input "${name}"`, buffer, feed)] as const;
    });
    return this.state.use.queue(async () => {
      this.#alive();
      aborted("run", signal);
      this.#running = true;
      try {
        for (const [buffer, bytes] of encoded) buffer.bytes.set(bytes);
        for (const stage of this.#stages) {
          await this.#binding(stage).run(signal);
          if (this.#freed) throw new DisposedError("the program");
        }
        this.#commit();
        if (this.#disposed) throw new DisposedError("the program");
        return this.#results(as);
      } finally {
        this.#running = false;
        if (this.#disposed) this.#free();
      }
    });
  }

  /** Runs once on the calling thread. @throws {EngineError} while a `run()` is in flight. */
  runSync<As extends Float16As = "float32">(
    feeds: Readonly<Record<K, Feed>>,
    { as }: { readonly as?: As } = {},
  ): Results<O, As> {
    this.#alive();
    if (this.state.use.busy) throw new EngineError("runSync", "a run() is in flight on this engine; await it first");
    checkFloat16As(as);
    if (!this.#feedPlainly(feeds)) this.#feed(feeds);
    for (const stage of this.#stages) this.#binding(stage).runSync();
    this.#commit();
    return this.#results(as);
  }

  /** Writes feeds that need no checks; false, with nothing written, where one does or something is wrong with them. */
  #feedPlainly(feeds: Readonly<Record<string, Feed>>): boolean {
    if (typeof feeds !== "object" || feeds === null) return false;
    let given = 0;
    for (const _name in feeds) given++;
    const inputs = this.#inputs;
    const plain = this.#plain;
    for (let i = 0; i < inputs.length; i++) {
      const port = inputs[i]!;
      const feed = feeds[port.name];
      plain[i] = undefined;
      if (feed === undefined && this.#viewed.has(port.name)) continue;
      const values = this.#plainValues(port, feed);
      if (values === undefined) return false;
      plain[i] = values;
      given--;
    }
    if (given !== 0) return false;
    for (let i = 0; i < inputs.length; i++) {
      const values = plain[i];
      if (values === undefined) continue;
      writePlain(inputs[i]!, values);
      plain[i] = undefined; // the caller's
    }
    return true;
  }

  #feed(feeds: Readonly<Record<string, Feed>>): void {
    this.#checkNames(feeds);
    // All are checked before the first is written.
    const encoded = Object.entries<Feed>(feeds).map(([name, feed]) => {
      const port = this.#inputs.find((each) => each.name === name)!;
      const plain = this.#plainValues(port, feed);
      return { name, port, plain, bytes: plain === undefined ? encodeFeed(`input "${name}"`, port, feed) : undefined };
    });
    for (const { name, port, plain, bytes } of encoded) {
      if (plain !== undefined) writePlain(port, plain);
      else this.#buffer(this.plan.feeds.get(name)!).bytes.set(bytes!);
    }
  }

  /** Values that can be written as they are: those in an input's own memory may be overwritten before. */
  #plainValues(port: InputPort, feed: Feed | undefined): View | undefined {
    const values = plainValues(port, feed);
    if (values === undefined || this.#viewed.size === 0) return values;
    return this.#inputs.some(({ view }) => view.buffer === values.buffer) ? undefined : values;
  }

  /** The memory of an input or output, fp16 as bit patterns; valid until the next run. An input that was viewed need not be fed. */
  view(name: K | (keyof O & string)): DataOf<DType, "bits"> {
    this.#alive();
    const buffer = this.plan.feeds.get(name) ?? this.plan.results.get(name);
    if (buffer === undefined) throw new ConfigError("view", `there is no input or output "${name}"`);
    if (this.plan.feeds.has(name)) this.#viewed.add(name);
    return viewOf(this.#buffer(buffer)) as DataOf<DType, "bits">;
  }

  /** MIL text of a stage (the only one when absent); larger constants refer to the weight file of `milFiles()`. */
  mil(options: MilOptions & { readonly stage?: string } = {}): string {
    return this.milFiles(options).text;
  }

  /** MIL text and weight file of a stage. */
  milFiles({ stage, ...options }: MilOptions & { readonly stage?: string } = {}): {
    readonly text: string;
    readonly weights: Uint8Array;
  } {
    const names = this.plan.stages.map(({ name }) => name);
    const found =
      this.plan.stages.find(({ name }) => name === stage) ??
      (stage === undefined && names.length === 1 ? this.plan.stages[0] : undefined);
    if (found === undefined) throw new ConfigError("mil", `name one of the stages ${names.join(", ")}`);
    return milFiles(found.program, options);
  }

  report(): ProgramReport {
    const compiled = this.#stages.map(({ executable }) => executable.report?.());
    return reportPlan(this.plan, this.state.use.engine.name, compiled);
  }

  /** Frees everything. A run in flight ends with a DisposedError: at once with its state as it was, or, where state is already being replaced, at its end with all of it new. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    const replacing = this.#running && this.#stages.some(({ executable }) => executable.interruptible === false);
    if (!replacing) this.#free();
  }

  #free(): void {
    if (this.#freed) return;
    this.#freed = true;
    for (const { executable } of this.#stages) executable[Symbol.dispose]();
    // Before the buffers: another engine's threads may be at work on them, which the engine that frees them does not know.
    for (const engine of this.#engines) engine[Symbol.dispose]();
    for (const buffer of this.#buffers.values()) buffer[Symbol.dispose]();
    // Views that are still held would keep their memory.
    this.#buffers.clear();
    this.#inputs.length = 0;
    this.#outputs.length = 0;
    this.#plain.length = 0;
    for (const stage of this.#stages) {
      stage.bindings.clear();
      stage.last = undefined;
    }
    this.state.release();
    this.state.use.release();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}

/** Outputs of a stage that are stored over state, with the input that is the state's old value. */
function overwrites(plan: Plan, program: Program, buffers: ReadonlyMap<string, string>): Map<string, string | null> {
  const inputs = new Map(program.inputs.map(({ name }) => [buffers.get(name)!, name]));
  const state = new Set(plan.states.flatMap(({ mode, buffer }) => (mode === "in-place" ? [buffer] : [])));
  return new Map(
    program.outputs.flatMap(({ name }) => {
      const buffer = buffers.get(name)!;
      return state.has(buffer) ? [[name, inputs.get(buffer) ?? null] as const] : [];
    }),
  );
}

const openUses = new WeakMap<Engine, EngineUse>();

/** The use of an engine that the caller opened and will close: one queue for all its programs. */
function useOf(engine: Engine): EngineUse {
  let use = openUses.get(engine);
  if (use === undefined) openUses.set(engine, (use = new EngineUse(engine).acquire()));
  return use;
}

/** Compiles a function of inputs: `compile({ x: [1, 4] }, ({ x }) => ({ y: x.relu() }))`. */
export function compile<const S extends FeedSpecs, O extends Tensors>(
  feeds: S,
  build: (inputs: { readonly [K in keyof S]: TensorOf<S[K]> }) => O,
  options?: CompileOptions,
): Promise<CompiledProgram<keyof S & string, O>>;
/** Compiles graphs that were built elsewhere: `compile({ loss }, { update })`. */
export function compile<O extends Tensors>(outputs: O, options?: CompileOptions): Promise<CompiledProgram<string, O>>;
export async function compile(
  first: FeedSpecs | Tensors,
  second?: ((inputs: never) => Tensors) | CompileOptions,
  third?: CompileOptions,
): Promise<CompiledProgram> {
  if (typeof second !== "function") return compileGraph(first as Tensors, second ?? {});
  const specs = Object.entries(first as FeedSpecs).map(([name, spec]): [string, Aval] => [
    name,
    "dtype" in spec ? { dtype: spec.dtype, shape: spec.shape } : { dtype: "fp16", shape: spec as Shape },
  ]);
  for (const [name, { shape }] of specs) checkShape(`input "${name}"`, shape);
  const inputs = Object.fromEntries(specs.map(([name, { dtype, shape }]) => [name, input(shape, { dtype, name })]));
  const outputs = second(inputs as never);
  return compileGraph(outputs, third ?? {}, Object.keys(inputs));
}

async function compileGraph(
  outputs: Tensors,
  options: CompileOptions,
  expected: readonly string[] = [],
): Promise<CompiledProgram> {
  const { engine = "auto", update, stages, state, precision, chip, profile = false, signal, name } = options;
  aborted("compile", signal);
  if (precision !== undefined && precision !== "fp16" && precision !== "fp32") {
    throw new ConfigError("compile", `precision "${String(precision)}" is none of fp16, fp32`);
  }
  for (const [port, value] of Object.entries(outputs)) {
    if (!(value instanceof Tensor)) throw new ConfigError("compile", `output "${port}" is not a tensor`);
  }
  const plan = buildPlan({
    ...(name !== undefined && { name }),
    outputs: new Map(Object.entries(outputs)),
    updates: update ?? new Map(),
    ...(stages !== undefined && { stages }),
    wide: precision === "fp32",
  });
  if (precision === "fp16") requireFloat16(plan);
  if (chip !== undefined)
    for (const { on, program } of plan.stages) if (on === undefined) legalize(program, findChip(chip));
  for (const port of expected) {
    if (!plan.feeds.has(port))
      throw new ConfigError("compile", `input "${port}" is used by no output; remove it or use it`);
  }
  const use = state?.use ?? (typeof engine === "string" ? new EngineUse(await openEngine(engine)) : useOf(engine));
  if (state !== undefined && engine !== "auto" && engine !== use.engine && engine !== use.engine.name) {
    throw new EngineError("compile", `the shared state lives on engine "${use.engine.name}"`);
  }
  const store = (state ?? new StateStore(use)).acquire();
  use.acquire();
  const executables: Executable[] = [];
  const others = new Map<string, Engine>();
  try {
    for (const { on, program, buffers } of plan.stages) {
      aborted("compile", signal);
      let engineOfStage = on === undefined || on === use.engine.name ? use.engine : others.get(on);
      if (engineOfStage === undefined) others.set(on!, (engineOfStage = await openEngine(parseEngine(on!))));
      executables.push(await engineOfStage.load(program, { inPlace: overwrites(plan, program, buffers), profile }));
    }
    aborted("compile", signal);
    const slots = new Map<string, { readonly slot: StateSlot; readonly next: boolean }>();
    for (const { parameter, buffer, next, mode } of plan.states) {
      const slot = store.slot(parameter, plan.buffers.get(buffer)!, mode === "swap");
      slots.set(buffer, { slot, next: false });
      if (mode === "swap") slots.set(next, { slot, next: true });
    }
    return new CompiledProgram(plan, store, executables, slots, [...others.values()]);
  } catch (error) {
    for (const owned of [...executables, ...others.values()]) owned[Symbol.dispose]();
    store.release();
    use.release();
    throw error;
  }
}
