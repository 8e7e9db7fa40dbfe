// The C library through koffi: the only file that names koffi. What is bound here is POSIX except where a comment says otherwise.

import { getSystemErrorName } from "node:util";
import { EngineError } from "../../core/errors.ts";

type Koffi = typeof import("koffi").default;

/** Libraries that generated code may call into: koffi unloads what JavaScript no longer refers to. */
const kept = new Set<ReturnType<Koffi["load"]>>();

/** An address in this process; addresses of user space fit 53 bits on every supported machine. */
export type Address = number;

/** Stack of foreign calls; koffi's own setting is 2 MiB. */
const stackBytes = 8 * 2 ** 20;

/** The functions of the C library that engines need; addresses and sizes are numbers, results as in C. */
export interface Libc {
  mmap(address: Address, bytes: number, protection: number, flags: number, fd: number, offset: number): Address;
  munmap(address: Address, bytes: number): number;
  mprotect(address: Address, bytes: number, protection: number): number;
  madvise(address: Address, bytes: number, advice: number): number;
  getpagesize(): number;
  /** A pipe that programs started later do not inherit. */
  pipe(fds: Int32Array): number;
  close(fd: number): number;
  dup(fd: number): number;
  dup2(from: number, to: number): number;
  /** Ends the process by SIGALRM after some seconds; 0 takes that back. */
  alarm(seconds: number): number;
  /** Advisory lock of an open file; waits until nobody else holds it. */
  flock(fd: number, operation: number): number;
  pthreadAttrInit(attributes: Uint8Array): number;
  pthreadAttrSetStackSize(attributes: Uint8Array, bytes: number): number;
  pthreadAttrDestroy(attributes: Uint8Array): number;
  pthreadCreate(thread: BigUint64Array, attributes: Uint8Array, code: Address, argument: Address): number;
  pthreadJoin(thread: bigint, result: null): number;
  pthreadSigmask(how: number, set: Uint8Array, old: Uint8Array | null): number;
  sigfillset(set: Uint8Array): number;
  pthreadMutexInit(mutex: Address, attributes: null): number;
  pthreadCondInit(condition: Address, attributes: null): number;
  /** Linux only; elsewhere a thread can only name itself. */
  pthreadSetName?(thread: bigint, name: string): number;
  /** Where generated code must be made visible to instruction fetch by hand (macOS on arm64). */
  flushInstructions?(address: Address, bytes: number): void;
  /** Linux only: an entry of the auxiliary vector, 0 where there is none. */
  getauxval?(type: number): number;
  /** macOS only: a value by its name; `size` is the buffer's and becomes the value's. */
  sysctlbyname?(name: string, value: Uint8Array, size: BigUint64Array, newValue: null, newSize: number): number;
}

/** C types of arguments and results; `buffer` is the memory of a typed array, `address` any pointer as a number, `string` is copied as UTF-8. */
export type CType = "int" | "uint32" | "int64" | "uint64" | "address" | "buffer" | "string" | "void";

const koffiTypes: Readonly<Record<CType, string>> = {
  int: "int",
  uint32: "uint32_t",
  int64: "int64_t",
  uint64: "uint64_t",
  address: "uintptr_t",
  buffer: "void*",
  string: "str",
  void: "void",
};

/** Functions of a library by name. */
export interface Library {
  /** Undefined where the library has no such symbol. */
  func(name: string, result: CType, types: readonly CType[]): ((...args: unknown[]) => unknown) | undefined;
  /** Address of a function, for generated code; the library stays loaded. Undefined as above. */
  address(name: string): Address | undefined;
}

/** Foreign functions as far as engines use them. */
export interface Foreign {
  readonly libc: Libc;
  /** Loads another library. @throws {EngineError} in the loader's words. */
  load(path: string): Library;
  /** Address of a function of the C library. */
  symbol(name: string): Address;
  /** A function of C type `void f(void*)` as a JavaScript function. */
  entry(address: Address): (argument: Address) => void;
  /** Memory as an ArrayBuffer that does not own it. */
  view(address: Address, bytes: number): ArrayBuffer;
  /** Symbolic name of the last call's errno, such as ENOMEM. */
  errno(): string;
  /** Name of an error number that a function returned. */
  errorName(code: number): string;
}

/** Loads koffi and binds the C library. @throws {EngineError} where koffi is missing or refused, or the platform is not supported. */
export async function loadForeign(
  load: () => Promise<{ default: Koffi }> = () => import("koffi"),
  { platform, arch }: { platform: string; arch: string } = process,
): Promise<Foreign> {
  if (platform !== "linux" && platform !== "darwin") {
    throw new EngineError("native code", `${platform} is not supported`, {
      remedy: 'use Linux or macOS, or engine "sim"',
    });
  }
  let koffi: Koffi;
  try {
    koffi = (await load()).default;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    throw new EngineError(
      "native code",
      `koffi (foreign functions) cannot be loaded on ${platform}-${arch}: ${reason}`,
      {
        remedy: 'install it with "npm install koffi" without --omit=optional, or use engine "sim"',
        cause,
      },
    );
  }
  try {
    // Compilers behind a library recurse; what lies unused of a stack costs nothing.
    if ((koffi.config().sync_stack_size ?? 0) < stackBytes) koffi.config({ sync_stack_size: stackBytes });
  } catch {
    // Somebody else loads libraries through koffi in this process, too: its settings stand.
  }
  const library = koffi.load(null);
  const func = (name: string, result: string, ...types: string[]) => library.func(name, result, types);
  const optional = (name: string, result: string, ...types: string[]) => {
    try {
      return func(name, result, ...types);
    } catch {
      return undefined;
    }
  };
  const libc: Libc = {
    mmap: func("mmap", "intptr_t", "uintptr_t", "size_t", "int", "int", "int", "int64_t"),
    munmap: func("munmap", "int", "uintptr_t", "size_t"),
    mprotect: func("mprotect", "int", "uintptr_t", "size_t", "int"),
    madvise: func("madvise", "int", "uintptr_t", "size_t", "int"),
    getpagesize: func("getpagesize", "int"),
    pipe: platform === "linux" ? linuxPipe(func) : posixPipe(func, library.func("int fcntl(int, int, ...)")),
    close: func("close", "int", "int"),
    alarm: func("alarm", "unsigned int", "unsigned int"),
    dup: func("dup", "int", "int"),
    dup2: func("dup2", "int", "int", "int"),
    flock: func("flock", "int", "int", "int"),
    pthreadAttrInit: func("pthread_attr_init", "int", "void*"),
    pthreadAttrSetStackSize: func("pthread_attr_setstacksize", "int", "void*", "size_t"),
    pthreadAttrDestroy: func("pthread_attr_destroy", "int", "void*"),
    pthreadCreate: func("pthread_create", "int", "void*", "void*", "uintptr_t", "uintptr_t"),
    pthreadJoin: func("pthread_join", "int", "uintptr_t", "void*"),
    pthreadSigmask: func("pthread_sigmask", "int", "int", "void*", "void*"),
    sigfillset: func("sigfillset", "int", "void*"),
    pthreadMutexInit: func("pthread_mutex_init", "int", "uintptr_t", "void*"),
    pthreadCondInit: func("pthread_cond_init", "int", "uintptr_t", "void*"),
  };
  const setName = platform === "linux" ? optional("pthread_setname_np", "int", "uintptr_t", "str") : undefined;
  if (setName !== undefined) libc.pthreadSetName = setName;
  if (platform === "darwin" && arch === "arm64") {
    libc.flushInstructions = func("sys_icache_invalidate", "void", "uintptr_t", "size_t");
  }
  if (platform === "linux") libc.getauxval = func("getauxval", "uint64_t", "uint64_t");
  else libc.sysctlbyname = func("sysctlbyname", "int", "str", "void*", "void*", "void*", "size_t");

  const proto = koffi.proto("void", ["uintptr_t"]);
  const errorName = (code: number) => getSystemErrorName(-code);
  return {
    libc,
    load: (path) => {
      const loaded = loadLibrary(koffi, path);
      return {
        func: (name, result, types) => {
          try {
            return loaded.func(
              name,
              koffiTypes[result],
              types.map((type) => koffiTypes[type]),
            );
          } catch {
            return undefined; // no such symbol
          }
        },
        address: (name) => {
          try {
            const address = Number(loaded.symbol(name));
            kept.add(loaded);
            return address;
          } catch {
            return undefined;
          }
        },
      };
    },
    symbol: (name) => Number(library.symbol(name)),
    entry: (address) => koffi.decode(BigInt(address), proto) as (argument: Address) => void,
    view: (address, bytes) => koffi.view(BigInt(address), bytes),
    errno: () => errorName(koffi.errno()),
    errorName,
  };
}

function loadLibrary(koffi: Koffi, path: string): ReturnType<Koffi["load"]> {
  try {
    return koffi.load(path);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    throw new EngineError("native code", `${path} cannot be loaded: ${reason}`, { cause });
  }
}

type Bind = (name: string, result: string, ...types: string[]) => ReturnType<Koffi["decode"]>;

function linuxPipe(func: Bind): Libc["pipe"] {
  const closeOnExec = 0o2000000; // O_CLOEXEC of Linux on x86-64 and arm64
  const pipe2 = func("pipe2", "int", "void*", "int");
  return (fds) => pipe2(fds, closeOnExec);
}

function posixPipe(func: Bind, fcntl: ReturnType<Bind>): Libc["pipe"] {
  const [setFlags, closeOnExec] = [2, 1]; // F_SETFD, FD_CLOEXEC
  const pipe = func("pipe", "int", "void*");
  return (fds) => {
    const failed = pipe(fds);
    if (failed === 0) for (const fd of fds) fcntl(fd, setFlags, "int", closeOnExec);
    return failed;
  };
}
