// What tests and benches of data movement kernels run on: memory with guard pages, code pages, a caller, threads. Linux on x86-64 only.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { gp, Label, mem, X64 } from "../isa/x64.ts";
import type { Isa, StepPlan } from "./step.ts";

interface Native {
  mmap(address: null, bytes: number, protection: number, flags: number, fd: number, offset: number): bigint;
  mprotect(address: bigint, bytes: number, protection: number): number;
  madvise(address: bigint, bytes: number, advice: number): number;
  munmap(address: bigint, bytes: number): number;
  create(id: BigUint64Array, attributes: null, code: bigint, argument: bigint): number;
  join(id: bigint, result: null): number;
  call(code: bigint, job: bigint): void;
  view(address: bigint, bytes: number): ArrayBuffer;
  /** Address of libc's memcpy. */
  copier: bigint;
}

/** Why kernels cannot run here, or "". */
export const unavailable: string = (() => {
  if (process.platform !== "linux" || process.arch !== "x64") return "the harness knows Linux on x86-64 only";
  try {
    createRequire(import.meta.url).resolve("koffi");
    return "";
  } catch {
    return "koffi is not installed";
  }
})();

function open(): Native {
  const koffi = createRequire(import.meta.url)("koffi") as typeof import("koffi");
  const libc = koffi.load("libc.so.6");
  const proto = koffi.proto("void harness_kernel(void*)");
  return {
    mmap: libc.func("uintptr_t mmap(void*, size_t, int, int, int, long)"),
    mprotect: libc.func("int mprotect(uintptr_t, size_t, int)"),
    madvise: libc.func("int madvise(uintptr_t, size_t, int)"),
    munmap: libc.func("int munmap(uintptr_t, size_t)"),
    create: libc.func("int pthread_create(_Inout_ uint64_t*, void*, uintptr_t, uintptr_t)"),
    join: libc.func("int pthread_join(uint64_t, void*)"),
    call: (code, job) => koffi.call(code, proto, job),
    view: (address, bytes) => koffi.view(address, bytes) as ArrayBuffer,
    copier: koffi.address(libc.symbol("memcpy")),
  } as Native;
}

let opened: Native | undefined;
export const native = (): Native => (opened ??= open());

const page = 4096;

/** Memory whose last byte lies before a page that cannot be touched, or, `head` being true, whose first one lies behind such a page. */
export class Guarded {
  readonly address: bigint;
  readonly bytes: Uint8Array;
  readonly #mapped: bigint;
  readonly #size: number;
  constructor(bytes: number, head = false) {
    const size = Math.ceil(bytes / page) * page;
    this.#size = size + 2 * page;
    const huge = size >= 4 << 20;
    this.#mapped = BigInt(native().mmap(null, this.#size + (huge ? 4 << 20 : 0), 3, 0x4022, -1, 0));
    let start = this.#mapped + BigInt(page);
    // Large blocks start on a huge page, as the engine's arena does.
    if (huge) start = (start + (1n << 21n) - 1n) & ~((1n << 21n) - 1n);
    if (huge) native().madvise(start, size, 14);
    native().mprotect(start - BigInt(page), page, 0);
    native().mprotect(start + BigInt(size), page, 0);
    this.address = head || huge ? start : start + BigInt(size - bytes);
    this.bytes = new Uint8Array(native().view(this.address, bytes));
  }
  dispose(): void {
    native().munmap(this.#mapped, this.#size);
  }
}

/** Makes code executable. */
export function loadCode(code: Uint8Array): bigint {
  const size = Math.ceil(code.length / page) * page;
  const address = BigInt(native().mmap(null, size, 3, 0x22, -1, 0));
  new Uint8Array(native().view(address, size)).set(code);
  native().mprotect(address, size, 5);
  return address;
}

const cpuFlags = () => readFileSync("/proc/cpuinfo", "utf8");
/** Instruction sets that this machine has. */
export const isas: readonly Isa[] =
  unavailable === ""
    ? (["avx2", "avx512"] as const).filter((isa) => isa === "avx2" || cpuFlags().includes("avx512bw"))
    : [];

/** Calls a kernel for tasks taken from a counter: job = {kernel, arguments, tasks, counter, scratch}. */
let loop: bigint | undefined;
function loopCode(): bigint {
  if (loop !== undefined) return loop;
  const asm = new X64();
  const saved = [gp.rbx, gp.rbp, gp.r12, gp.r13, gp.r14, gp.r15];
  for (const reg of saved) asm.push(reg);
  asm.push(gp.rdi);
  const top = asm.here();
  asm.mov(gp.rax, mem(gp.rsp, 0));
  asm.mov(gp.rcx, mem(gp.rax, 24));
  asm.movImm(gp.rsi, 1);
  asm.lockXadd(mem(gp.rcx, 0), gp.rsi);
  asm.mov(gp.rdi, mem(gp.rax, 8));
  asm.mov(gp.rdx, mem(gp.rax, 32));
  asm.alu("cmp", gp.rsi, mem(gp.rax, 16));
  const done = new Label();
  asm.jcc("ae", done);
  asm.call(mem(gp.rax, 0));
  asm.jmp(top);
  asm.bind(done);
  asm.pop(gp.rdi);
  for (const reg of saved.toReversed()) asm.pop(reg);
  asm.vzeroupper();
  asm.ret();
  return (loop = loadCode(asm.finish()));
}

/** A step made executable. */
export class Kernel<A extends string | object> {
  readonly plan: StepPlan<A>;
  readonly code: bigint;
  readonly codeBytes: number;
  readonly #jobs: Guarded;
  readonly #words: BigUint64Array;
  readonly #scratch: readonly Guarded[];
  readonly #threads: number;

  constructor(plan: StepPlan<A>, buffers: (arg: A) => bigint, threads = 1) {
    this.plan = plan;
    const asm = new X64();
    plan.emit(asm);
    const code = asm.finish();
    this.codeBytes = code.length;
    this.code = loadCode(code);
    this.#threads = threads;
    this.#jobs = new Guarded(page, true);
    this.#words = new BigUint64Array(this.#jobs.bytes.buffer, this.#jobs.bytes.byteOffset, page / 8);
    const at = (word: number) => this.#jobs.address + BigInt(8 * word);
    // Words 0…: counter; 8…: error block; 16…: arguments; 64 + 8 t…: the job of thread t.
    plan.args.forEach((arg, i) => {
      this.#words[16 + i] = buffers(arg);
    });
    this.#scratch = Array.from({ length: threads }, (_, thread) => {
      const scratch = new Guarded(64 + Math.ceil((plan.scratchBytes ?? 0) / 64) * 64);
      new BigUint64Array(scratch.bytes.buffer, scratch.bytes.byteOffset, 1)[0] = at(8);
      this.#words.set([this.code, at(16), BigInt(plan.tasks), at(0), scratch.address + 64n], 64 + 8 * thread);
      return scratch;
    });
  }

  /** Error words 0 to 3 after the last run. */
  get error(): bigint[] {
    return [...this.#words.subarray(8, 12)];
  }

  run(): void {
    this.#words.fill(0n, 0, 16);
    const job = (thread: number) => this.#jobs.address + BigInt(8 * (64 + 8 * thread));
    const ids = Array.from({ length: this.#threads - 1 }, (_, i) => {
      const id = new BigUint64Array(1);
      native().create(id, null, loopCode(), job(i + 1));
      return id[0]!;
    });
    native().call(loopCode(), job(0));
    for (const id of ids) native().join(id, null);
  }

  dispose(): void {
    this.#jobs.dispose();
    for (const scratch of this.#scratch) scratch.dispose();
    native().munmap(this.code, Math.ceil(this.codeBytes / page) * page);
  }
}
