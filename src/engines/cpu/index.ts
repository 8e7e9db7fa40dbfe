// The CPU engine: programs compiled to native code.

import { type DType, dtypeBytes, newValues, type ValueArray } from "../../core/dtype.ts";
import {
  AbortedError,
  ConfigError,
  DisposedError,
  EngineError,
  formatAval,
  invariant,
  messageOf,
} from "../../core/errors.ts";
import { packFloat16, unpackFloat16 } from "../../core/float16.ts";
import { type Aval, type Shape, sizeOf } from "../../core/shape.ts";
import type { Program } from "../../ir/program.ts";
import { type KernelArray, operandsByName } from "../../ops/define.ts";
import type { Binding, Buffer, Engine, Executable, ExecutableReport, LoadOptions, StepReport } from "../engine.ts";
import {
  availableCores,
  findAccelerate,
  type NativeCode,
  type NativeMemory,
  openSystem,
  reclaimViews,
  type System,
} from "../os/index.ts";
import type { AccelerateEnvironment, AccelerateOptions, AccelerateState, Host } from "./accelerate.ts";
import { vectorLengths } from "./code.ts";
import { dispatchCode } from "./dispatch.ts";
import { Job, type Outcome, type Step } from "./driver/job.ts";
import { Team } from "./driver/team.ts";
import { chooseIsa, cpuFeatures, isaNames, supportedArch } from "./isa/features.ts";
import { newCode } from "./isa/new-code.ts";
import type { Sgemm } from "./kernels/sgemm.ts";
import type { Isa } from "./kernels/step.ts";
import type { Place, Storage } from "./memory.ts";
import { type Plan, planProgram } from "./plan.ts";
import type { NativeStep, ReferenceStep } from "./steps.ts";

/** Programs with less work than this run on the calling thread: waking another takes longer. */
const smallWork = { flops: 200_000, bytes: 200_000 } as const;

class CpuBuffer implements Buffer {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly memory: NativeMemory;

  readonly #engine: CpuEngine;

  constructor(engine: CpuEngine, { dtype, shape }: Aval, tight: boolean) {
    this.#engine = engine;
    this.dtype = dtype;
    this.shape = shape;
    this.memory = engine.system.allocate(sizeOf(shape) * dtypeBytes[dtype], { tight });
  }

  /** Not kept here: the memory goes when the last view of it does. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.memory.bytes;
  }

  get address(): number {
    return this.memory.address;
  }

  [Symbol.dispose](): void {
    this.#engine.afterRun(() => this.memory.dispose());
  }
}

/** Values as a plain kernel takes them. */
function unpack(dtype: DType, bytes: Uint8Array<ArrayBuffer>, count: number): ValueArray {
  const values = newValues(dtype, count);
  const { buffer, byteOffset } = bytes;
  if (dtype === "fp16") unpackFloat16(new Uint16Array(buffer, byteOffset, count), values as Float32Array);
  else if (dtype === "bool") values.set(bytes.subarray(0, count));
  else if (dtype === "fp32") values.set(new Float32Array(buffer, byteOffset, count));
  else values.set(new Int32Array(buffer, byteOffset, count));
  return values;
}

function pack(values: ValueArray, dtype: DType, bytes: Uint8Array<ArrayBuffer>): void {
  const { buffer, byteOffset } = bytes;
  const count = values.length;
  if (dtype === "fp16") packFloat16(values as Float32Array, new Uint16Array(buffer, byteOffset, count));
  else if (dtype === "bool") bytes.set(values.subarray(0, count) as Uint8Array);
  else if (dtype === "fp32") new Float32Array(buffer, byteOffset, count).set(values);
  else new Int32Array(buffer, byteOffset, count).set(values);
}

/** A part of a run: native code, or a function. */
type Part = Job | (() => void);

interface Compiled {
  readonly plan: Plan;
  readonly code: NativeCode | undefined;
  /** Offset of every kernel in the code, by key. */
  readonly kernels: ReadonlyMap<string, number>;
  readonly arena: NativeMemory | undefined;
  readonly constants: NativeMemory | undefined;
  /** Constants that are only packed, until they are. */
  sources: NativeMemory | undefined;
}

class CpuExecutable implements Executable {
  readonly program: Program;
  readonly #engine: CpuEngine;
  readonly #inPlace: ReadonlyMap<string, string | null>;
  readonly #profile: boolean;
  readonly #jobs = new Set<Job>();
  /** Memory that stands for buffers in JavaScript's heap. */
  readonly #copies: CpuBuffer[] = [];
  /** Tables of the jobs' batches. */
  readonly #tables: NativeMemory[] = [];
  /** Times of the last profiled run, in milliseconds, in the order of the plan's steps. */
  #times: readonly (number | undefined)[] | undefined;
  #compiled: Compiled | undefined;

  constructor(engine: CpuEngine, program: Program, { inPlace = new Map(), profile = false }: LoadOptions) {
    this.program = program;
    this.#engine = engine;
    this.#inPlace = inPlace;
    this.#profile = profile;
    const { system, isa, threads, strict, sgemm } = engine;
    const plan = planProgram(program, { isa, threads, strict, inPlace, sgemm });
    const code = newCode(isa);
    const kernels = new Map<string, number>();
    for (const step of [...plan.setup, ...plan.steps]) {
      if (step.kind !== "native" || kernels.has(step.key)) continue;
      code.align(64);
      kernels.set(step.key, code.length);
      step.emit(code);
    }
    const compiled: { -readonly [K in keyof Compiled]: Compiled[K] } = {
      plan,
      kernels,
      code: undefined,
      arena: undefined,
      constants: undefined,
      sources: undefined,
    };
    this.#compiled = compiled;
    try {
      if (code.length > 0) compiled.code = system.code(code.finish());
      if (plan.arenaBytes > 0) compiled.arena = system.allocate(plan.arenaBytes);
      if (plan.constantBytes > 0) compiled.constants = system.allocate(plan.constantBytes);
      if (plan.sourceBytes > 0) compiled.sources = system.allocate(plan.sourceBytes);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
    const { constants, sources } = compiled;
    for (const { kind, array, offset, isSource } of plan.storages) {
      if (kind !== "constant" || array === undefined || array.source.kind !== "constant") continue;
      const target = (isSource ? sources : constants)!.bytes.subarray(
        offset,
        offset + array.size * dtypeBytes[array.dtype],
      );
      const values = newValues(array.dtype, array.size);
      values.set(array.source.data);
      pack(values, array.dtype, target);
    }
  }

  /** What needs the threads: their scratch memory, and packing constants. No run is in flight. */
  prepare(): void {
    const compiled = this.#alive();
    const { plan } = compiled;
    const { team, system } = this.#engine;
    team.reserveScratch(plan.scratchBytes);
    if (plan.setup.length > 0) {
      using job = new Job(
        system,
        plan.setup.map((step) => this.#step(step, new Map())),
      );
      team.runSync(job);
    }
    compiled.sources?.release();
    compiled.sources = undefined;
  }

  get interruptible(): boolean {
    return this.#inPlace.size === 0;
  }

  report(): ExecutableReport {
    const { plan, code } = this.#alive();
    const steps = plan.steps.map((step, at): StepReport => {
      const ms = this.#times?.[at];
      const times = ms === undefined ? {} : { ms };
      if (step.kind === "reference")
        return { name: "reference", what: step.name, tasks: 1, bytes: 0, flops: 0, ...times };
      const { name, parts, tasks, bytes, flops } = step;
      return { name, what: parts, tasks, bytes, flops, ...times };
    });
    const { arenaBytes, constantBytes } = plan;
    const { isa, threads, team, sgemm } = this.#engine;
    const lanes = vectorLengths[isa] / 4;
    // x86's counter runs at the nominal clock; arm64's says nothing of it. What a library can do at least is not known.
    const flopsPerMs = threads * 2 * 2 * lanes * team.ticksPerMicrosecond * 1000;
    const flops = steps.reduce((sum, step) => sum + step.flops, 0);
    return {
      steps,
      arenaBytes,
      constantBytes,
      codeBytes: code?.size ?? 0,
      batches: plan.batches.length,
      ...(isa === "neon" || sgemm !== undefined ? {} : { floorMs: flops / flopsPerMs }),
    };
  }

  #alive(): Compiled {
    if (this.#compiled === undefined) throw new DisposedError("the program");
    if (this.#engine.disposed) throw new DisposedError("the engine");
    return this.#compiled;
  }

  #memory(
    storage: Storage,
    buffers: ReadonlyMap<string, Buffer>,
  ): { address: number; bytes: () => Uint8Array<ArrayBuffer> } {
    const { arena, constants, sources } = this.#alive();
    if (storage.kind === "port") {
      const buffer = buffers.get(storage.port!)!;
      return { address: buffer.address!, bytes: () => buffer.bytes };
    }
    const memory = (storage.kind === "arena" ? arena : storage.isSource ? sources : constants)!;
    return {
      address: Number(memory.address) + storage.offset,
      bytes: () => memory.bytes.subarray(storage.offset, storage.offset + storage.bytes),
    };
  }

  #step(step: NativeStep, buffers: ReadonlyMap<string, Buffer>): Step {
    const { code, kernels } = this.#alive();
    return {
      kernel: Number(code!.address) + kernels.get(step.key)!,
      tasks: step.tasks,
      args: step.args.map(({ storage, offset }) => this.#memory(storage, buffers).address + offset),
    };
  }

  /** A reference step as a function; it reads and writes the memory of its arrays. */
  #reference({ call, inputs, outputs, name }: ReferenceStep, buffers: ReadonlyMap<string, Buffer>): () => void {
    const { op, attrs } = call.instruction;
    const bytesOf = ({ storage, offset }: Place) => this.#memory(storage, buffers).bytes().subarray(offset);
    return () => {
      const operands = call.operands.map((operand, i): KernelArray | undefined => {
        if (operand === undefined) return undefined;
        const data = unpack(operand.dtype, bytesOf(inputs[i]!) as Uint8Array<ArrayBuffer>, operand.size);
        return { dtype: operand.dtype, shape: operand.shape, data };
      });
      const results = call.results.map(
        ({ dtype, shape, size }): KernelArray => ({ dtype, shape, data: newValues(dtype, size) }),
      );
      try {
        op.kernel(operandsByName(op, operands), attrs, results as [KernelArray, ...KernelArray[]]);
      } catch (error) {
        if (error instanceof ConfigError) throw error;
        throw new EngineError("cpu", `operator ${name} failed`, { cause: error });
      }
      for (const [i, { dtype, data }] of results.entries())
        pack(data, dtype, bytesOf(outputs[i]!) as Uint8Array<ArrayBuffer>);
    };
  }

  /** A job of batches of steps. */
  #job(batches: readonly (readonly NativeStep[])[], buffers: ReadonlyMap<string, Buffer>): Job {
    const { system, dispatch } = this.#engine;
    const words: number[] = [];
    const tables: { readonly step: number; readonly at: number }[] = [];
    const steps = batches.map((batch, at): Step | undefined => {
      if (batch.length === 1) return this.#step(batch[0]!, buffers);
      tables.push({ step: at, at: words.length });
      // Tasks that take longest come first: the short ones fill the end.
      const cost = ({ flops, bytes, tasks }: NativeStep) => Math.max(flops / 50, bytes / 10) / tasks;
      const sorted = [...batch].sort((a, b) => cost(b) - cost(a)).map((step) => this.#step(step, buffers));
      let end = 0;
      const entries = sorted.map(({ tasks, kernel }) => [(end += tasks), Number(kernel), 0]);
      const argsAt = words.length + 3 * entries.length;
      words.push(...entries.flat());
      for (const [i, { args }] of sorted.entries()) {
        words[argsAt - 3 * entries.length + 3 * i + 2] = words.length;
        words.push(...(args as readonly number[]));
      }
      return undefined;
    });
    if (words.length > 0) {
      const memory = system.allocate(8 * words.length);
      this.#tables.push(memory);
      const target = new BigInt64Array(memory.bytes.buffer, memory.bytes.byteOffset, words.length);
      target.set(words.map(BigInt));
      for (const { step, at } of tables) {
        const batch = batches[step]!;
        for (let i = 0; i < batch.length; i++) {
          const word = at + 3 * i + 2;
          target[word] = BigInt(Number(memory.address) + 8 * words[word]!);
        }
        const tasks = batch.reduce((sum, each) => sum + each.tasks, 0);
        steps[step] = { kernel: dispatch, args: Number(memory.address) + 8 * at, tasks };
      }
    }
    const all = batches.flat();
    const flops = all.reduce((sum, step) => sum + step.flops, 0);
    const bytes = all.reduce((sum, step) => sum + step.bytes, 0);
    const small = flops < smallWork.flops && bytes < smallWork.bytes;
    const job = new Job(system, steps as Step[], { small, profile: this.#profile });
    this.#jobs.add(job);
    return job;
  }

  /** Native memory for every port: what another engine keeps in JavaScript's heap, behind a stage that runs here, is copied in and out. */
  #ownBuffers(given: ReadonlyMap<string, Buffer>): {
    buffers: Map<string, Buffer>;
    foreign: Map<Buffer, CpuBuffer>;
  } {
    const foreign = new Map<Buffer, CpuBuffer>();
    const buffers = new Map<string, Buffer>();
    for (const [name, buffer] of given) {
      if (buffer.address !== undefined) {
        buffers.set(name, buffer);
        continue;
      }
      let own = foreign.get(buffer);
      if (own === undefined) {
        own = this.#engine.allocate(buffer);
        foreign.set(buffer, own);
        this.#copies.push(own);
      }
      buffers.set(name, own);
    }
    return { buffers, foreign };
  }

  bind(given: ReadonlyMap<string, Buffer>): Binding {
    const { program } = this;
    const { plan } = this.#alive();
    const { buffers, foreign } = this.#ownBuffers(given);
    for (const { name, value } of [...program.inputs, ...program.outputs]) {
      const buffer = buffers.get(name);
      invariant(buffer !== undefined, () => `no buffer for port ${name}`);
      const { dtype, shape } = program.values[value]!;
      const matches = buffer.dtype === dtype && sizeOf(buffer.shape) === sizeOf(shape);
      invariant(matches, () => `port ${name} is ${formatAval({ dtype, shape })}, its buffer ${formatAval(buffer)}`);
    }
    const inputOf = new Map(program.inputs.map(({ name }) => [buffers.get(name), name]));
    for (const { name } of program.outputs) {
      const shared = inputOf.get(buffers.get(name)!);
      invariant(
        shared === undefined || this.#inPlace.get(name) === shared,
        () => `output ${name} overwrites input ${shared}, which the program was not loaded for`,
      );
      const replaced = this.#inPlace.get(name) ?? undefined;
      invariant(
        replaced === undefined || shared === replaced,
        () => `output ${name} does not overwrite input ${replaced}, which the program was loaded for`,
      );
    }
    // Runs of native steps, and reference steps between them.
    const parts: Part[] = [];
    let run: NativeStep[][] = [];
    const flush = () => {
      if (run.length > 0) parts.push(this.#job(run, buffers));
      run = [];
    };
    // Profiled steps run one by one, so that each has its time.
    const batches = this.#profile ? plan.batches.flat().map((at) => [at]) : plan.batches;
    for (const batch of batches) {
      const steps = batch.map((at) => plan.steps[at]!);
      const [first] = steps;
      if (first?.kind === "reference") {
        flush();
        parts.push(this.#reference(first, buffers));
      } else run.push(steps as NativeStep[]);
    }
    flush();
    const { team } = this.#engine;
    const written = new Set(program.outputs.map(({ name }) => buffers.get(name)!));
    const begin = () => {
      for (const [theirs, ours] of foreign) ours.bytes.set(theirs.bytes);
    };
    const end = () => {
      for (const [theirs, ours] of foreign) if (written.has(ours)) theirs.bytes.set(ours.bytes);
      if (this.#profile) this.#time(parts);
    };
    return {
      runSync: () => {
        this.#alive();
        begin();
        for (const part of parts) {
          if (typeof part === "function") part();
          else if (team.runSync(part) !== "done") throw this.#failure(part);
        }
        end();
      },
      run: async (signal) => {
        begin();
        // State in place is replaced step by step: such a program, once begun, runs to its end.
        const abortable = this.interruptible;
        for (const [at, part] of parts.entries()) {
          this.#alive();
          if (signal?.aborted && (abortable || at === 0)) throw new AbortedError("run", signal);
          if (typeof part === "function") part();
          else {
            const outcome = await this.#engine.run(part, abortable ? signal : undefined);
            this.#alive();
            if (outcome === "stopped" && signal !== undefined) throw new AbortedError("run", signal);
            if (outcome !== "done") throw this.#failure(part);
          }
        }
        this.#alive();
        end();
      },
    };
  }

  /** Keeps the time of every step; reference steps are not timed. */
  #time(parts: readonly Part[]): void {
    const { ticksPerMicrosecond } = this.#engine.team;
    const times = parts.flatMap((part) =>
      part instanceof Job
        ? part.ticks.map(({ start, end }) => (end - start) / ticksPerMicrosecond / 1000)
        : [undefined],
    );
    const ordered = new Array<number | undefined>(times.length);
    for (const [i, at] of this.#alive().plan.batches.flat().entries()) ordered[at] = times[i];
    this.#times = ordered;
  }

  /** The error that a kernel reported. */
  #failure(job: Job): Error {
    const words = job.error.map((word) => Number(BigInt.asIntN(64, word)));
    const [code, index, extent, at] = words as [number, number, number, number];
    const op = this.program.instructions[at]?.op.name ?? "program";
    if (code === 1) return new ConfigError(op, `index ${index} is outside an axis of ${extent}`);
    return new EngineError("cpu", `${op} failed with code ${code}`);
  }

  [Symbol.dispose](): void {
    const compiled = this.#compiled;
    if (compiled === undefined) return;
    this.#compiled = undefined;
    for (const job of this.#jobs) job.stop();
    this.#engine.afterRun(() => {
      for (const job of this.#jobs) job.dispose();
      for (const table of this.#tables) table.release();
      for (const copy of this.#copies) copy[Symbol.dispose]();
      compiled.code?.dispose();
      compiled.arena?.release();
      compiled.constants?.release();
      compiled.sources?.release();
    });
  }
}

class CpuEngine implements Engine {
  readonly name = "cpu";
  readonly reason: string;
  readonly system: System;
  readonly isa: Isa;
  readonly threads: number;
  readonly strict: boolean;
  readonly sgemm: Sgemm | undefined;
  readonly team: Team;
  /** Address of the code that hands a batch's tasks to its steps. */
  readonly dispatch: number;
  readonly #dispatchCode: NativeCode;
  readonly #tight: boolean;
  /** Set while a run is in flight. */
  #running: Promise<void> | undefined;
  readonly #afterRun: (() => void)[] = [];
  #disposed = false;

  constructor(system: System, isa: Isa, threads: number, { reason, strict, tight, sgemm }: Settings) {
    this.reason = `${reason}; ${isaNames[isa]}, ${threads === 1 ? "1 thread" : `${threads} threads`}${sgemm === undefined ? "" : `, large fp32 products by ${sgemm.library}`}`;
    this.system = system;
    this.isa = isa;
    this.threads = threads;
    this.strict = strict;
    this.sgemm = sgemm;
    this.#tight = tight;
    this.team = new Team(system, { threads, scratchBytes: 64 * 1024 });
    this.#dispatchCode = system.code(dispatchCode(isa));
    this.dispatch = Number(this.#dispatchCode.address);
  }

  allocate(aval: Aval): CpuBuffer {
    return new CpuBuffer(this, aval, this.#tight);
  }

  async load(program: Program, options: LoadOptions = {}): Promise<Executable> {
    await reclaimViews();
    const executable = new CpuExecutable(this, program, options);
    try {
      while (this.#running !== undefined) await this.#running;
      if (this.#disposed) throw new DisposedError("the engine");
      executable.prepare();
    } catch (error) {
      executable[Symbol.dispose]();
      throw error;
    }
    return executable;
  }

  /** Runs a job on the engine's threads; what was disposed meanwhile is freed at the end. */
  async run(job: Job, signal: AbortSignal | undefined): Promise<Outcome> {
    const run = this.team.run(job, signal);
    const ended = run.then(
      () => {},
      () => {},
    );
    this.#running = ended;
    try {
      await run;
    } finally {
      this.#running = undefined;
      for (const free of this.#afterRun.splice(0)) free();
    }
    if (this.#disposed) throw new DisposedError("the engine");
    return run;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** Calls `free` once no run is in flight. */
  afterRun(free: () => void): void {
    if (this.#running === undefined) free();
    else this.#afterRun.push(free);
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.team.dispose();
    this.#dispatchCode.dispose();
  }
}

interface Settings {
  readonly reason: string;
  /** Rounds fp16 after every operator, and runs what is not exact as plain kernels: elementwise programs then equal the simulator bit for bit. */
  readonly strict: boolean;
  /** Puts the end of every port's memory at a guard page. */
  readonly tight: boolean;
  /** A library's matrix product, where large ones go there. */
  readonly sgemm: Sgemm | undefined;
}

/** What the environment may ask for; see docs/engines.md. */
type Variable = "ANEKIT_ISA" | "ANEKIT_THREADS" | "ANEKIT_STRICT" | "ANEKIT_GUARD";
export type CpuEnvironment = { readonly [K in Variable]?: string | undefined } & AccelerateEnvironment;

type Flag = "ANEKIT_STRICT" | "ANEKIT_GUARD";
function isSet(environment: CpuEnvironment, name: Flag): boolean {
  const value = environment[name] ?? "";
  if (!["", "0", "1"].includes(value)) throw new ConfigError(name, `"${value}" is neither 0 nor 1`);
  return value === "1";
}

/** What code is generated for. @throws {EngineError | UnsupportedError} that says why none can be generated or run here. */
async function findHost(environment: CpuEnvironment): Promise<Host & { readonly system: System }> {
  supportedArch(); // where koffi has no binary either, that is not the reason
  const system = await openSystem();
  const features = cpuFeatures(system);
  const isa = chooseIsa(features, environment.ANEKIT_ISA);
  return { system, processor: features.name, isa, threads: availableCores(environment.ANEKIT_THREADS) };
}

/** A library's matrix product, where one is used. What decides that, and checks what was kept of it, is loaded only where there is a library. */
async function findSgemm(
  host: Host & { readonly system: System },
  environment: CpuEnvironment,
): Promise<Sgemm | undefined> {
  if ("reason" in findAccelerate(host.system, environment.ANEKIT_ACCELERATE)) return undefined;
  const { decideAccelerate } = await import("./accelerate.ts");
  return (await decideAccelerate(host.system, host, environment)).sgemm;
}

/** Opens the engine. @throws {EngineError | UnsupportedError} that says why native code cannot be generated or run here. */
export async function createCpu(reason: string, environment: CpuEnvironment = {}): Promise<Engine> {
  const host = await findHost(environment);
  const { system, isa, threads } = host;
  const [strict, tight] = [isSet(environment, "ANEKIT_STRICT"), isSet(environment, "ANEKIT_GUARD")];
  const sgemm = strict ? undefined : await findSgemm(host, environment); // strict results are this engine's own
  return new CpuEngine(system, isa, threads, { reason, strict, tight, sgemm });
}

/** What goes to Accelerate here and why, or why nothing does, without opening anything. Never throws. */
export async function examineAccelerate(
  environment: CpuEnvironment,
  options: AccelerateOptions,
): Promise<AccelerateState> {
  try {
    const host = await findHost(environment);
    const { decideAccelerate } = await import("./accelerate.ts");
    const { state } = await decideAccelerate(host.system, host, environment, options);
    const strict = isSet(environment, "ANEKIT_STRICT");
    return strict && state.used ? { ...state, used: false, reason: "not with ANEKIT_STRICT=1" } : state;
  } catch (error) {
    return { used: false, reason: messageOf(error) };
  }
}
