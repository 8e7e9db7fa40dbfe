// A program on the Neural Engine: its files, what is loaded of it, and bindings of its ports to buffers.

import { rmSync } from "node:fs";
import { DisposedError, formatAval, invariant } from "../../core/errors.ts";
import { type Aval, sizeOf } from "../../core/shape.ts";
import { notOverwritable } from "../../ir/plan.ts";
import type { Program } from "../../ir/program.ts";
import type { Binding, Buffer, Executable, ExecutableReport, LoadOptions } from "../engine.ts";
import { bytesOf, flopsOf } from "../report.ts";
import type { Tenant } from "./budget.ts";
import { EspressoBuffer } from "./buffer.ts";
import {
  addOperation,
  BoundStream,
  type CompiledUnit,
  type Operation,
  type PortBinding,
  type ProgramFiles,
  releaseOperation,
  releaseUnit,
} from "./build.ts";
import type { AneEngine } from "./engine.ts";

/** A program as the chip's compiler got it; a large one is cut into several, which one stream runs in order. */
export interface Unit {
  readonly program: Program;
  readonly files: ProgramFiles;
}

/** What of an executable is loaded. */
interface Loaded {
  readonly units: readonly CompiledUnit[];
  /** Operations that no binding has taken yet, one a unit. */
  spare: readonly Operation[] | undefined;
}

export class AneExecutable implements Executable, Tenant {
  readonly program: Program;
  /** A run stores results while it goes on: once begun, it ends. */
  readonly interruptible: boolean;
  readonly #engine: AneEngine;
  readonly #units: readonly Unit[];
  readonly #folder: string;
  /** Outputs that may be stored into the buffer of an input. */
  readonly #aliased: ReadonlySet<string>;
  /** Values between units. */
  readonly #links: ReadonlyMap<string, EspressoBuffer>;
  readonly #bindings = new Set<AneBinding>();
  #loaded: Loaded | undefined;
  #disposed = false;

  constructor(
    engine: AneEngine,
    program: Program,
    { units, folder, options }: { units: readonly Unit[]; folder: string; options: LoadOptions },
  ) {
    this.#engine = engine;
    this.program = program;
    this.#units = units;
    this.#folder = folder;
    const inPlace = options.inPlace ?? new Map<string, string | null>();
    this.interruptible = inPlace.size === 0;
    this.#aliased = engine.capabilities.aliasing ? aliasable(units, inPlace) : new Set();
    const ports = new Set([...program.inputs, ...program.outputs].map(({ name }) => name));
    const links = new Map<string, EspressoBuffer>();
    for (const { program: part } of units) {
      for (const { name, value } of part.outputs) {
        if (!ports.has(name)) links.set(name, engine.espressoBuffer(part.values[value]!));
      }
    }
    this.#links = links;
  }

  get #count(): number {
    return this.#units.length;
  }

  /** Nothing to run. */
  get isEmpty(): boolean {
    return this.#count === 0;
  }

  get held(): number {
    const spare = this.#loaded?.spare === undefined ? 0 : 1;
    let bound = 0;
    for (const binding of this.#bindings) if (binding.bound) bound++;
    return (spare + bound) * this.#count;
  }

  /** Loads what is not loaded, on the engine's thread. */
  async load(): Promise<void> {
    if (this.#loaded === undefined) await this.#engine.budget.inTurn(() => this.#load());
  }

  async #load(): Promise<void> {
    if (this.#disposed) throw new DisposedError("the program");
    if (this.#loaded !== undefined) return;
    this.#engine.budget.reserve(this, this.#count);
    const built: (CompiledUnit & Operation)[] = [];
    try {
      for (const { files } of this.#units) built.push(await this.#engine.build(files));
    } catch (error) {
      this.#discard(built);
      throw error;
    }
    this.#keep(built);
  }

  /** The same on the calling thread. */
  loadSync(): void {
    if (this.#loaded !== undefined) return;
    this.#engine.budget.reserve(this, this.#count);
    const built: (CompiledUnit & Operation)[] = [];
    try {
      for (const { files } of this.#units) built.push(this.#engine.buildSync(files));
    } catch (error) {
      this.#discard(built);
      throw error;
    }
    this.#keep(built);
  }

  #keep(built: readonly (CompiledUnit & Operation)[]): void {
    if (this.#disposed) {
      this.#discard(built);
      throw new DisposedError("the program");
    }
    this.#loaded = { units: built, spare: built };
  }

  #discard(built: readonly (CompiledUnit & Operation)[]): void {
    const { espresso } = this.#engine;
    espresso.pooled(() => {
      for (const unit of built) {
        releaseOperation(espresso, unit);
        releaseUnit(espresso, unit);
      }
    });
  }

  /** Operations for one binding: the first takes what was made with the programs. */
  takeOperations(): readonly Operation[] {
    const loaded = this.#loaded!;
    const { spare } = loaded;
    if (spare !== undefined) {
      loaded.spare = undefined;
      return spare;
    }
    const { espresso, budget } = this.#engine;
    budget.reserve(this, this.#count);
    const made: Operation[] = [];
    try {
      for (const { entry } of loaded.units) made.push(addOperation(espresso, entry));
    } catch (error) {
      espresso.pooled(() => {
        for (const operation of made) releaseOperation(espresso, operation);
      });
      throw error;
    }
    return made;
  }

  /** The ports of every unit with their buffers. */
  ports(buffers: ReadonlyMap<string, EspressoBuffer>): readonly (readonly PortBinding[])[] {
    return this.#units.map(({ program }) => {
      const bind = (direction: PortBinding["direction"]) => (port: Program["inputs"][number]) => {
        const { name } = port;
        const { handle } = (buffers.get(name) ?? this.#links.get(name))!;
        return { name, direction, buffer: handle };
      };
      return [...program.inputs.map(bind("input")), ...program.outputs.map(bind("output"))];
    });
  }

  bind(given: ReadonlyMap<string, Buffer>): Binding {
    if (this.#disposed) throw new DisposedError("the program");
    const { program } = this;
    for (const { name, value } of [...program.inputs, ...program.outputs]) {
      const buffer = given.get(name);
      invariant(buffer !== undefined, () => `no buffer for port ${name}`);
      const aval = program.values[value]!;
      const matches = buffer.dtype === aval.dtype && sizeOf(buffer.shape) === sizeOf(aval.shape);
      invariant(matches, () => `port ${name} is ${formatAval(aval)}, its buffer ${formatAval(buffer)}`);
    }
    const binding = new AneBinding(this.#engine, this, given, this.#aliased);
    this.#bindings.add(binding);
    return binding;
  }

  evict(): boolean {
    if (this.#engine.isRunning(this)) return false;
    this.#unload();
    return true;
  }

  #unload(): void {
    for (const binding of this.#bindings) binding.release();
    const loaded = this.#loaded;
    this.#loaded = undefined;
    if (loaded === undefined) return;
    const { espresso } = this.#engine;
    espresso.pooled(() => {
      for (const operation of loaded.spare ?? []) releaseOperation(espresso, operation);
      for (const unit of loaded.units) releaseUnit(espresso, unit);
    });
  }

  report(): ExecutableReport {
    const steps = this.#units.map(({ program }) => ({
      name: "program",
      what: `${program.instructions.length} instructions for ${this.#engine.chip.name}`,
      tasks: 1,
      bytes: [...program.inputs, ...program.outputs].reduce(
        (sum, { value }) => sum + bytesOf(program.values[value]!),
        0,
      ),
      flops: flopsOf(program),
    }));
    const constants = this.#units.flatMap(({ program }) =>
      program.constants.map(({ value }) => bytesOf(program.values[value]!)),
    );
    return {
      steps,
      arenaBytes: [...this.#links.values()].reduce((sum, link) => sum + bytesOf(link), 0),
      constantBytes: constants.reduce((sum, bytes) => sum + bytes, 0),
      codeBytes: 0,
      batches: this.#count,
    };
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#engine.budget.forget(this);
    this.#engine.afterRun(() => {
      this.#unload();
      for (const binding of this.#bindings) binding[Symbol.dispose]();
      for (const link of this.#links.values()) link[Symbol.dispose]();
      rmSync(this.#folder, { recursive: true, force: true });
    });
  }
}

/** Outputs that may be stored into their input's buffer as soon as they are computed, in the programs that the chip gets. */
function aliasable(units: readonly Unit[], inPlace: ReadonlyMap<string, string | null>): Set<string> {
  const allowed = new Set<string>();
  for (const [at, { program }] of units.entries()) {
    const reads = (input: string | null, unit: Unit) => unit.program.inputs.some(({ name }) => name === input);
    const own = program.outputs.flatMap(({ name }) => {
      const replaced = inPlace.get(name);
      const later = replaced !== undefined && units.slice(at + 1).some((unit) => reads(replaced, unit));
      return replaced === undefined || later ? [] : [[name, reads(replaced, units[at]!) ? replaced : null] as const];
    });
    const refused = new Set(notOverwritable(program, new Map(own)));
    for (const [name] of own) if (!refused.has(name)) allowed.add(name);
  }
  return allowed;
}

/** A copy that surrounds a run. */
interface Copy {
  readonly from: Buffer;
  readonly to: Buffer;
}

/** Ports of an executable bound to buffers; made anew after the executable was evicted. */
export class AneBinding implements Binding, Disposable {
  readonly #engine: AneEngine;
  readonly #executable: AneExecutable;
  /** Buffers of this engine behind the ports. */
  readonly #buffers = new Map<string, EspressoBuffer>();
  /** Buffers of its own: for ports whose buffers another engine made, and for results that must not yet replace what is read. */
  readonly #own: EspressoBuffer[] = [];
  readonly #before: Copy[] = [];
  readonly #after: Copy[] = [];
  #stream: BoundStream | undefined;
  /** Whether the stream has run. */
  #ran = false;

  constructor(
    engine: AneEngine,
    executable: AneExecutable,
    given: ReadonlyMap<string, Buffer>,
    aliased: ReadonlySet<string>,
  ) {
    this.#engine = engine;
    this.#executable = executable;
    const { program } = executable;
    const inputs = new Set(program.inputs.map(({ name }) => given.get(name)!));
    for (const { name } of program.inputs) {
      const buffer = given.get(name)!;
      const own = buffer instanceof EspressoBuffer ? buffer : this.#twin(buffer);
      if (own !== buffer) this.#before.push({ from: buffer, to: own });
      this.#buffers.set(name, own);
    }
    for (const { name } of program.outputs) {
      const buffer = given.get(name)!;
      const direct = buffer instanceof EspressoBuffer && (!inputs.has(buffer) || aliased.has(name));
      const own = direct ? buffer : this.#twin(buffer);
      if (own !== buffer) this.#after.push({ from: own, to: buffer });
      this.#buffers.set(name, own);
    }
  }

  #twin(aval: Aval): EspressoBuffer {
    const twin = this.#engine.espressoBuffer(aval);
    this.#own.push(twin);
    return twin;
  }

  get bound(): boolean {
    return this.#stream !== undefined;
  }

  /** The stream to run; the executable is loaded. */
  #bound(): BoundStream {
    if (this.#stream === undefined) {
      const operations = this.#executable.takeOperations();
      const ports = this.#executable.ports(this.#buffers);
      const parts = operations.map((operation, i) => ({ operation, ports: ports[i]! }));
      this.#stream = new BoundStream(this.#engine.espresso, parts);
    }
    return this.#stream;
  }

  runSync(): void {
    this.#engine.begin(this.#executable);
    if (this.#executable.isEmpty) return;
    if (this.#stream === undefined) this.#executable.loadSync();
    const { stream } = this.#bound();
    copyAll(this.#before);
    if (this.#ran) this.#engine.espresso.execute(stream);
    else this.#engine.espresso.executeFirst(stream);
    this.#ran = true;
    copyAll(this.#after);
  }

  async run(signal?: AbortSignal): Promise<void> {
    this.#engine.begin(this.#executable);
    if (this.#executable.isEmpty) return;
    await this.#engine.run(this.#executable, signal, async (thread) => {
      if (this.#stream === undefined) await this.#executable.load();
      const { stream } = this.#bound();
      copyAll(this.#before);
      await thread.do(this.#ran ? "run" : "runFirst", stream);
      this.#ran = true;
      copyAll(this.#after);
    });
  }

  /** Unbinds; the next run binds anew. */
  release(): void {
    this.#stream?.release();
    this.#stream = undefined;
    this.#ran = false;
  }

  [Symbol.dispose](): void {
    this.release();
    for (const own of this.#own) own[Symbol.dispose]();
  }
}

function copyAll(copies: readonly Copy[]): void {
  for (const { from, to } of copies) to.bytes.set(from.bytes);
}
