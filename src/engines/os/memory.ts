// Native memory with guard pages around it; memory behind a view is unmapped only when no view is left.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { ConfigError, DisposedError, EngineError } from "../../core/errors.ts";
import type { Address, Foreign } from "./libc.ts";

export const protection = { none: 0, read: 1, write: 2, execute: 4 } as const;

/** Flags of mmap(2) and madvise(2), from the systems' headers. */
const flags =
  process.platform === "darwin"
    ? { private: 0x02, anonymous: 0x1000, noReserve: 0x40 }
    : { private: 0x02, anonymous: 0x20, noReserve: 0x4000 };
const hugePageAdvice = 14; // MADV_HUGEPAGE of Linux
const hugePage = 2 * 2 ** 20;
const hugeFrom = 4 * 2 ** 20;

/** Addresses of one mapping. */
export interface Mapping {
  readonly base: Address;
  readonly bytes: number;
}

/** Inaccessible pages: reserves addresses only. */
export function reserve({ libc, errno }: Foreign, bytes: number): Mapping {
  const base = libc.mmap(0, bytes, protection.none, flags.private | flags.anonymous | flags.noReserve, -1, 0);
  if (base === -1) throw outOfMemory("mmap", bytes, errno());
  return { base, bytes };
}

function outOfMemory(call: string, bytes: number, errno: string): EngineError {
  return new EngineError("native memory", `${call} of ${bytes} bytes was refused: ${errno}`, {
    remedy: "use a smaller model or batch, or raise the limits of this process (ulimit -v, container memory)",
  });
}

export interface AllocateOptions {
  /** Puts the end, instead of the start, at a guard page, whatever alignment the start then has. */
  readonly tight?: boolean;
}

/** Memory outside JavaScript's heap. */
export class NativeMemory implements Disposable {
  readonly address: Address;
  readonly size: number;
  readonly #foreign: Foreign;
  readonly #free: () => void;
  #bytes: Uint8Array<ArrayBuffer> | undefined;
  #disposed = false;

  /** `free` gives the memory back and must not refer to this object; called by `mapMemory` and `System.adopt`. */
  constructor(foreign: Foreign, address: Address, size: number, free: () => void) {
    this.#foreign = foreign;
    this.address = address;
    this.size = size;
    this.#free = free;
  }

  /** The memory; stays readable after `dispose()` for as long as somebody holds it. */
  get bytes(): Uint8Array<ArrayBuffer> {
    if (this.#disposed) throw new DisposedError("native memory");
    if (this.#bytes === undefined) {
      const buffer = this.size === 0 ? new ArrayBuffer(0) : pinned(this.#foreign.view(this.address, this.size));
      this.#bytes = new Uint8Array(buffer);
    }
    return this.#bytes;
  }

  /** Gives the memory back: at once, or when the last view of it is collected. Native code must not use it any more. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#bytes === undefined || this.size === 0) this.#free();
    else {
      waiting.add(this.#free);
      viewed.register(this.#bytes.buffer, this.#free);
    }
    this.#bytes = undefined;
  }

  /** Gives the memory back at once: for memory whose views nobody but its owner has seen. */
  release(): void {
    this.#bytes = undefined;
    this.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Zeroed memory between inaccessible pages. */
export function mapMemory(foreign: Foreign, size: number, { tight = false }: AllocateOptions = {}): NativeMemory {
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new ConfigError("native memory", `${size} is not a number of bytes`);
  }
  const { libc } = foreign;
  const page = libc.getpagesize();
  const inner = Math.max(page, Math.ceil(size / page) * page);
  const huge = process.platform === "linux" && size >= hugeFrom;
  const alignment = huge && !tight ? hugePage : page;
  const { base, bytes } = reserve(foreign, inner + page + alignment);
  const unmap = () => void libc.munmap(base, bytes);
  const start = Math.ceil((base + page) / alignment) * alignment;
  if (libc.mprotect(start, inner, protection.read | protection.write) !== 0) {
    const reason = foreign.errno();
    unmap();
    throw outOfMemory("mprotect", inner, reason);
  }
  if (huge) libc.madvise(start, inner, hugePageAdvice); // refusal costs speed only
  return new NativeMemory(foreign, tight ? start + inner - size : start, size, unmap);
}

/**
 * Keeps memory and this object together: memory moved to another ArrayBuffer would be unmapped with the old one. Node itself refuses to transfer
 * external memory in messages; its markAsUntransferable would make Node 24 abort at its end.
 */
function pinned(buffer: ArrayBuffer): ArrayBuffer {
  const refuse = () => {
    throw new TypeError("memory of an engine cannot be transferred");
  };
  for (const method of ["transfer", "transferToFixedLength"]) {
    Object.defineProperty(buffer, method, { value: refuse });
  }
  return buffer;
}

/** What gives memory back that was given up while JavaScript could still reach a view of it. */
const waiting = new Set<() => void>();
const viewed = new FinalizationRegistry((free: () => void) => {
  waiting.delete(free);
  free();
});

/** A third of the mappings that Linux allows a process (vm.max_map_count), at three for each memory. */
const waitingLimit = 7000;

/** Collects garbage where many views of disposed memory wait for it: small programs make too little of it for a collection by itself. */
export async function reclaimViews(): Promise<void> {
  if (waiting.size < waitingLimit) return;
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  // Finalizers run in later turns of the event loop.
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Gives all memory back that was given up, views or not: for the very end of a process. */
export function releaseViewed(): void {
  for (const free of waiting) free();
  waiting.clear();
}

/** Machine code: written, then made readable and executable, never writable and executable at once. */
export class NativeCode implements Disposable {
  readonly address: Address;
  readonly size: number;
  readonly #foreign: Foreign;
  readonly #mapping: Mapping;
  #disposed = false;

  /** Called by `System.code`. */
  constructor(foreign: Foreign, code: Uint8Array) {
    const { libc } = foreign;
    const page = libc.getpagesize();
    const inner = Math.max(page, Math.ceil(code.length / page) * page);
    this.#foreign = foreign;
    this.#mapping = reserve(foreign, inner + 2 * page);
    this.address = this.#mapping.base + page;
    this.size = code.length;
    this.#protect(inner, protection.read | protection.write, "writable");
    new Uint8Array(foreign.view(this.address, inner)).set(code);
    // On Linux for arm64 the kernel makes the caches coherent where a page first becomes executable.
    this.#protect(inner, protection.read | protection.execute, "executable");
    libc.flushInstructions?.(this.address, code.length);
  }

  #protect(bytes: number, rights: number, what: string): void {
    if (this.#foreign.libc.mprotect(this.address, bytes, rights) === 0) return;
    const reason = this.#foreign.errno();
    this.dispose();
    throw new EngineError("native code", `the system refused to make ${bytes} bytes ${what}: ${reason}`, {
      remedy: 'allow executable memory (SELinux execmem, hardened runtime, container policy), or use engine "sim"',
    });
  }

  /** Unmaps the code; nothing may run it any more. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#foreign.libc.munmap(this.#mapping.base, this.#mapping.bytes);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
