// Espresso's functions in this process: found, typed by the table of signatures, every return code checked.

import { EngineError, UnsupportedError } from "../../core/errors.ts";
import type { CapturePlace, CType, Library, NativeMemory, System } from "../os/index.ts";
import { EspressoError } from "./failures.ts";
import { type Argument, type Handle, type Kind, poolSymbols, required, type Symbol_, signatures } from "./symbols.ts";

/** In the shared cache of dyld: there is no file to look for, loading says whether it is there. */
const systemLibrary = "/System/Library/PrivateFrameworks/Espresso.framework/Espresso";
const objectiveC = "/usr/lib/libobjc.A.dylib";

type Signature<S extends Symbol_> = (typeof signatures)[S];
type GivenValue<A> = A extends Kind ? Handle<A> : A extends "string" ? string : number;
/** Arguments that a caller gives: all but results. */
type Given<T> = T extends readonly [infer First, ...infer Rest]
  ? First extends `out ${string}`
    ? Given<Rest>
    : [GivenValue<First>, ...Given<Rest>]
  : [];
/** Kind of the object that a function makes. */
type Made<S extends Symbol_> =
  Extract<Signature<S>[number], `out ${Kind}`> extends `out ${infer K extends Kind}` ? K : never;
type Maker = { [S in Symbol_]: Made<S> extends never ? never : S }[Symbol_];
type Release = Extract<Symbol_, `${string}_release`>;
type Released<S extends Release> = Signature<S>[0] extends `release ${infer K extends Kind}` ? K : never;

function cType(argument: Argument): CType {
  if (/^(out|release) /.test(argument) || argument === "strings" || argument === "handles") return "buffer";
  if (argument === "int" || argument === "uint32" || argument === "uint64" || argument === "string") return argument;
  return "address";
}

/** Smallest buffer, and what sizes are multiples of, in bytes (documented). */
const bufferGranule = 64;
/** Memory that the processor sees, too (documented: 0 of 0, 1, 2). */
const cpuVisible = 0;

/** What a library has of the table. */
export interface SymbolCensus {
  readonly found: number;
  readonly missing: readonly Symbol_[];
  /** Missing ones that the driver needs. */
  readonly needed: readonly Symbol_[];
}

/** Where Espresso is: ANEKIT_ESPRESSO, else the system's, which only macOS has. */
export function espressoPath(override: string | undefined): string | undefined {
  if (override) return override;
  return process.platform === "darwin" ? systemLibrary : undefined;
}

/** Looks for every symbol of the table. */
export function countSymbols(library: Library): SymbolCensus {
  const names = Object.keys(signatures) as Symbol_[];
  const missing = names.filter((name) => lookUp(library, name) === undefined);
  const needed = missing.filter((name) => (required as readonly string[]).includes(name));
  return { found: names.length - missing.length, missing, needed };
}

/** Exports have no leading underscore from macOS 15 on, and one before (documented). */
function lookUp(library: Library, name: Symbol_): ((...args: unknown[]) => unknown) | undefined {
  const types = signatures[name].map(cType);
  return library.func(`e5rt_${name}`, "int64", types) ?? library.func(`_e5rt_${name}`, "int64", types);
}

type Native = (...args: unknown[]) => number | bigint;

/** Espresso on one JavaScript thread. Objects belong to the process: another thread may use their handles, one at a time. */
export class Espresso {
  readonly path: string;
  readonly system: System;
  /** Where messages are caught. */
  readonly place: CapturePlace;
  readonly #functions: Readonly<Record<string, Native>>;
  readonly #execute: Native;
  readonly #push: () => unknown;
  readonly #pop: (token: unknown) => unknown;
  /** What the functions store results into: one call at a time. */
  readonly #cell = new BigUint64Array(1);

  /** @throws {UnsupportedError} where the library lacks a function that the driver needs, {EngineError} where it cannot be loaded. */
  constructor(system: System, path: string, place: CapturePlace) {
    this.system = system;
    this.path = path;
    this.place = place;
    const library = system.load(path);
    const functions: Record<string, Native> = {};
    const missing: string[] = [];
    for (const name of required) {
      const found = lookUp(library, name);
      if (found === undefined) missing.push(`e5rt_${name}`);
      else functions[name] = found as Native;
    }
    if (missing.length > 0) {
      throw new UnsupportedError(
        "ane",
        `this macOS has no ${missing.slice(0, 3).join(", ")}${missing.length > 3 ? ` and ${missing.length - 3} more` : ""}`,
        {
          remedy:
            'it needs macOS 15 or later, or its interface has changed: use engine "cpu" and report it with anekit doctor --json',
        },
      );
    }
    this.#functions = functions;
    this.#execute = functions.execution_stream_execute_sync!;
    const pools = library.func(poolSymbols.push, "address", []) === undefined ? system.load(objectiveC) : library;
    const push = pools.func(poolSymbols.push, "address", []);
    const pop = pools.func(poolSymbols.pop, "void", ["address"]);
    if (push === undefined || pop === undefined) throw new EngineError("ane", "libobjc has no autorelease pools");
    this.#push = push;
    this.#pop = pop;
  }

  #call(symbol: Symbol_, args: readonly unknown[]): void {
    const code = Number(this.#functions[symbol]!(...args));
    if (code !== 0) throw new EspressoError(symbol, code, "");
  }

  /** Does `work` within an autorelease pool: what the framework gives away temporarily is freed at its end. */
  pooled<T>(work: () => T): T {
    const token = this.#push();
    try {
      return work();
    } finally {
      this.#pop(token);
    }
  }

  /** Does `work` with Espresso's messages caught, so that an error carries them. Lines that are not Espresso's are passed on. */
  captured<T>(work: () => T): T {
    const attempt = () => {
      try {
        return { value: work() };
      } catch (error) {
        return { error };
      }
    };
    const { result, text } = this.system.captureStderr(this.place, attempt);
    const { own, foreign } = sorted(text);
    if (foreign !== "") process.stderr.write(foreign);
    if ("value" in result) return result.value as T;
    const { error } = result;
    if (error instanceof EspressoError) throw new EspressoError(error.symbol, error.result, own);
    process.stderr.write(own);
    throw error;
  }

  /** Calls a function that makes an object. */
  make<S extends Maker>(symbol: S, ...given: Given<Signature<S>>): Handle<Made<S>> {
    this.#cell[0] = 0n;
    const args: unknown[] = [...given];
    args.splice(
      signatures[symbol].findIndex((argument) => argument.startsWith("out ")),
      0,
      this.#cell,
    );
    this.#call(symbol, args);
    const address = Number(this.#cell[0]);
    if (address === 0) throw new EngineError("ane", `e5rt_${symbol} gave no object and no error`);
    if (!Number.isSafeInteger(address)) throw new EngineError("ane", `e5rt_${symbol} gave a tagged pointer`);
    return address as Handle<Made<S>>;
  }

  /** Calls a function without results. */
  call<S extends Symbol_>(symbol: S, ...given: Given<Signature<S>>): void {
    this.#call(symbol, given);
  }

  /** Gives an object up. */
  release<S extends Release>(symbol: S, handle: Handle<Released<S>>): void {
    this.#cell[0] = BigInt(handle);
    this.#call(symbol, [this.#cell]);
  }

  /** Where the first try fails, the second one's error carries Espresso's message. */
  #allocate(size: number): Handle<"buffer"> {
    try {
      return this.make("buffer_object_alloc", size, cpuVisible);
    } catch {
      return this.captured(() => this.make("buffer_object_alloc", size, cpuVisible));
    }
  }

  /** A zeroed buffer, and its memory: given up once that was disposed and nobody looks at it any more. */
  buffer(bytes: number): { readonly handle: Handle<"buffer">; readonly memory: NativeMemory } {
    const { system } = this;
    const size = Math.max(bufferGranule, Math.ceil(bytes / bufferGranule) * bufferGranule);
    return this.pooled(() => {
      const handle = this.#allocate(size);
      try {
        this.#cell[0] = 0n;
        this.#call("buffer_object_get_data_ptr", [handle, this.#cell]);
        const address = Number(this.#cell[0]);
        if (address === 0) throw new EngineError("ane", `a buffer of ${size} bytes has no memory`);
        const whole = system.adopt(address, size, () => {});
        whole.bytes.fill(0);
        whole.release();
        const free = () => this.pooled(() => this.release("buffer_object_release", handle));
        return { handle, memory: system.adopt(address, bytes, free) };
      } catch (error) {
        this.release("buffer_object_release", handle);
        throw error;
      }
    });
  }

  /** Runs a stream for the first time: a failure carries Espresso's message. @throws {EspressoError} */
  executeFirst(stream: Handle<"stream">): void {
    this.captured(() => this.execute(stream));
  }

  /** Runs a stream: the calls of a run, and nothing else; Espresso's messages go to standard error. @throws {EspressoError} */
  execute(stream: Handle<"stream">): void {
    const token = this.#push();
    const code = Number(this.#execute(stream));
    this.#pop(token);
    if (code !== 0) throw new EspressoError("execution_stream_execute_sync", code, "");
  }
}

/** How lines of Espresso's and of the system's log begin. */
const itsOwn =
  /^(E5RT|MILCompilerFor|_?ANE[A-Z]|ANECC|Espresso|\[(espresso|ane|coreml)|\d{4}-\d\d-\d\d [\d:.+-]+ \S+\[\d+:)/i;

/** Its own lines, and whatever else was written to standard error meanwhile. */
function sorted(text: string): { own: string; foreign: string } {
  const lines = text.split(/(?<=\n)/);
  const pick = (own: boolean) => lines.filter((line) => itsOwn.test(line) === own).join("");
  return { own: pick(true), foreign: pick(false) };
}
