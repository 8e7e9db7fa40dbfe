// Runs the steps of a matrix product on one thread, for tests.

import type { NativeCode, NativeMemory, System } from "../../os/index.ts";
import { gp, mem, X64 } from "../isa/x64.ts";
import type { GemmArgument, GemmPlan } from "./gemm.ts";
import type { StepPlan } from "./step.ts";

/** Addresses of the operands. */
export interface Operands {
  readonly a: number;
  readonly b: number;
  readonly c: number;
}

const { rax, rbx, rbp, rdi, rdx, rsi, r12, r13, r14, r15 } = gp;

/** `void run(block)`: calls a kernel for all tasks; block: kernel, arguments, tasks, scratch. */
export function emitRunner(asm: X64): void {
  for (const register of [rbx, rbp, r12, r13, r14, r15, rdi]) asm.push(register);
  asm.alu32("xor", rax, rax);
  asm.push(rax);
  const top = asm.here();
  asm.mov(rax, mem(gp.rsp, 8));
  asm.mov(rdi, mem(rax, 8));
  asm.mov(rdx, mem(rax, 24));
  asm.mov(rsi, mem(gp.rsp));
  asm.call(mem(rax));
  asm.mov(rax, mem(gp.rsp, 8));
  asm.aluImm("add", mem(gp.rsp), 1);
  asm.mov(rdx, mem(rax, 16));
  asm.alu("cmp", mem(gp.rsp), rdx);
  asm.jcc("b", top);
  asm.vzeroupper();
  asm.pop(rax);
  for (const register of [rdi, r15, r14, r13, r12, rbp, rbx]) asm.pop(register);
  asm.ret();
}

/** Code of one kernel. */
export function compileStep({ emit }: StepPlan<GemmArgument>): Uint8Array {
  const asm = new X64();
  emit(asm);
  return asm.finish();
}

/** Compiles and runs plans one after the other; code is shared by key. */
export class Harness {
  readonly #system: System;
  readonly #code = new Map<string, NativeCode>();
  readonly #runner: NativeCode;
  /** Memory by use, kept for the next run: mappings are few, and views keep them alive. */
  readonly #places = new Map<string, NativeMemory>();

  constructor(system: System) {
    this.#system = system;
    const asm = new X64();
    emitRunner(asm);
    this.#runner = system.code(asm.finish());
  }

  #kernel(step: StepPlan<GemmArgument>): NativeCode {
    let code = this.#code.get(step.key);
    if (code === undefined) {
      if (this.#code.size > 500) {
        for (const old of this.#code.values()) old.dispose();
        this.#code.clear();
      }
      this.#code.set(step.key, (code = this.#system.code(compileStep(step))));
    }
    return code;
  }

  /** Memory that ends at a guard page, valid until the next call for the same use. */
  place(use: string, size: number): { address: number; bytes: Uint8Array<ArrayBuffer> } {
    let memory = this.#places.get(use);
    if (memory === undefined || memory.size < size) {
      memory?.dispose();
      this.#places.set(
        use,
        (memory = this.#system.allocate(2 ** Math.ceil(Math.log2(Math.max(size, 4096))), { tight: true })),
      );
    }
    return { address: memory.address + memory.size - size, bytes: memory.bytes.subarray(memory.size - size) };
  }

  /** Runs setup and steps; every temporary and the scratch memory end at a guard page and begin as NaN. */
  run(plan: GemmPlan, operands: Operands): void {
    const noisy = (bytes: number, i: number) => {
      const memory = this.place(`temp ${i}`, Math.ceil(bytes / 64) * 64);
      memory.bytes.fill(0xff);
      return memory.address;
    };
    const temps = plan.temps.map(noisy);
    const scratch = noisy(plan.scratchBytes, -1);
    for (const step of [...plan.setup, ...plan.steps]) {
      const words = [...step.args.map((arg) => (typeof arg === "string" ? operands[arg]! : temps[arg.temp]!))];
      const args = this.place("arguments", words.length * 8);
      new BigUint64Array(args.bytes.buffer, args.bytes.byteOffset, words.length).set(words.map(BigInt));
      const block = this.place("block", 32);
      const job = [this.#kernel(step).address, args.address, step.tasks, scratch];
      new BigUint64Array(block.bytes.buffer, block.bytes.byteOffset, 4).set(job.map(BigInt));
      this.#system.call(this.#runner.address, block.address);
    }
  }

  dispose(): void {
    for (const resource of [...this.#code.values(), ...this.#places.values(), this.#runner]) resource.dispose();
  }
}
