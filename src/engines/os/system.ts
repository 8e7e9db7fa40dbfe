// What the operating system gives to engines: memory, executable code, calls into it, threads, and file descriptors to watch.

import { Socket } from "node:net";
import { EngineError } from "../../core/errors.ts";
import { type Address, type Foreign, type Library, loadForeign } from "./libc.ts";
import { type AllocateOptions, mapMemory, NativeCode, NativeMemory } from "./memory.ts";
import { armProcessor, type Processor } from "./processor.ts";
import { type CapturePlace, captureStderr, endRedirection, type Redirection } from "./stderr.ts";

/** A thread that runs native code, to be joined. */
export interface NativeThread {
  /** Waits for its end. */
  join(): void;
}

/** One end to write for native code, one to watch for the event loop. */
export interface Pipe {
  /** File descriptor that native code writes single bytes to. */
  readonly writeFd: number;
  /** While set, the event loop waits for bytes; otherwise the process may end. */
  hold(held: boolean): void;
  close(): void;
}

const setMask = process.platform === "darwin" ? 3 : 2; // SIG_SETMASK

/** Native services of one JavaScript thread; see `openSystem`. */
export class System {
  readonly #foreign: Foreign;
  readonly #entries = new Map<Address, (argument: Address) => void>();

  /** Called by `openSystem`. */
  constructor(foreign: Foreign) {
    this.#foreign = foreign;
  }

  /** Zeroed, page-aligned memory between inaccessible pages. @throws {EngineError} where there is none. */
  allocate(bytes: number, options?: AllocateOptions): NativeMemory {
    return mapMemory(this.#foreign, bytes, options);
  }

  /** Memory that a library made; `free` is called once it was disposed and no view of it is left, and must not refer to the result. */
  adopt(address: Address, bytes: number, free: () => void): NativeMemory {
    return new NativeMemory(this.#foreign, address, bytes, free);
  }

  /** Loads a library. @throws {EngineError} in the loader's words. */
  load(path: string): Library {
    return this.#foreign.load(path);
  }

  /** Does `work` while the process's standard error goes to a file; see `captureStderr` of stderr.ts. */
  captureStderr<T>(place: CapturePlace, work: () => T): { readonly result: T; readonly text: string } {
    return captureStderr(this.#foreign, place, work);
  }

  /** Ends this process after some seconds, whatever native code it is in then; 0 takes that back. */
  endAfter(seconds: number): void {
    this.#foreign.libc.alarm(seconds);
  }

  /** Ends a capture that is still going on at the end of the process. */
  endRedirection(redirection: Redirection): void {
    endRedirection(this.#foreign, redirection);
  }

  /** The processor as the system describes it, on arm64. */
  armProcessor(): Processor {
    return armProcessor(this.#foreign);
  }

  /** Makes machine code callable. @throws {EngineError} where the system refuses. */
  code(bytes: Uint8Array): NativeCode {
    return new NativeCode(this.#foreign, bytes);
  }

  /** A native `void f(void*)` as a function: the cheapest way to call it often. */
  entry(address: Address): (argument: Address) => void {
    return this.#foreign.entry(address);
  }

  /** Calls a native `void f(void*)` on this thread. */
  call(address: Address, argument: Address): void {
    let entry = this.#entries.get(address);
    if (entry === undefined) this.#entries.set(address, (entry = this.entry(address)));
    entry(argument);
  }

  /** Address of a function of the C library, for generated code. */
  symbol(name: string): Address {
    return this.#foreign.symbol(name);
  }

  /** Makes a mutex and a condition of POSIX threads at two addresses, 64 bytes each. */
  monitor(mutex: Address, condition: Address): void {
    const { libc, errorName } = this.#foreign;
    const failure = libc.pthreadMutexInit(mutex, null) || libc.pthreadCondInit(condition, null);
    if (failure !== 0) throw new EngineError("native threads", `pthread_mutex_init: ${errorName(failure)}`);
  }

  /** Starts a thread in native `void* f(void*)` that receives no signals. @throws {EngineError} with the system's reason. */
  thread(code: Address, argument: Address, { name, stackBytes = 2 ** 20 }: ThreadOptions = {}): NativeThread {
    const { libc, errorName } = this.#foreign;
    // Opaque types of pthread.h: at most 64 bytes on supported systems; sigset_t at most 128.
    const attributes = new Uint8Array(128);
    const all = new Uint8Array(128);
    const old = new Uint8Array(128);
    const id = new BigUint64Array(1);
    libc.pthreadAttrInit(attributes);
    libc.pthreadAttrSetStackSize(attributes, stackBytes);
    libc.sigfillset(all);
    libc.pthreadSigmask(setMask, all, old);
    const failure = libc.pthreadCreate(id, attributes, code, argument);
    libc.pthreadSigmask(setMask, old, null);
    libc.pthreadAttrDestroy(attributes);
    if (failure !== 0) {
      throw new EngineError("native threads", `pthread_create failed: ${errorName(failure)}`, {
        remedy: "set ANEKIT_THREADS to a smaller number, or raise the limit (ulimit -u, container pids)",
      });
    }
    const thread = id[0]!;
    if (name !== undefined) libc.pthreadSetName?.(thread, name.slice(0, 15));
    return { join: () => void libc.pthreadJoin(thread, null) };
  }

  /** A pipe from native code to the event loop; `received` is called after one or more bytes came. */
  pipe(received: () => void): Pipe {
    const { libc, errno } = this.#foreign;
    const fds = new Int32Array(2);
    if (libc.pipe(fds) !== 0) throw new EngineError("native code", `pipe failed: ${errno()}`);
    const [readFd, writeFd] = fds as unknown as [number, number];
    const callback = () => {
      received();
      return true;
    };
    // koffi's own watch on a descriptor crashes the process where a JavaScript thread ends with one open.
    const onread = { buffer: new Uint8Array(16), callback };
    const options = { fd: readFd, readable: true, writable: false, onread }; // @types/node has `onread` for connect() only
    const socket = new Socket(options);
    socket.unref();
    let open = true;
    return {
      writeFd,
      hold: (held) => void (held ? socket.ref() : socket.unref()),
      close: () => {
        if (!open) return;
        open = false;
        socket.destroy();
        libc.close(writeFd);
      },
    };
  }
}

export interface ThreadOptions {
  /** Shown by debuggers where the system allows it; at most 15 bytes. */
  readonly name?: string;
  readonly stackBytes?: number;
}

let opened: Promise<System> | undefined;

/** The system of this thread. @throws {EngineError} saying why native code cannot be used here, and what to do. */
export function openSystem(): Promise<System> {
  opened ??= loadForeign().then((foreign) => new System(foreign));
  return opened;
}
