// Runs the steps of a matrix product on one thread, for tests.

import type { NativeCode, NativeMemory, System } from "../../os/index.ts";
import { entry, gp, mem } from "../code.ts";
import { newCode } from "../isa/new-code.ts";
import type { GemmArgument, GemmOperand, GemmPlan } from "./gemm.ts";
import type { Isa, StepPlan } from "./step.ts";

/** Addresses of the operands. */
export type Operands = Readonly<Partial<Record<GemmOperand, number>>>;

const { r0, r2, sp } = gp;
const frame = { task: mem(sp, 0), block: mem(sp, 8), bytes: 16 } as const;

/** `void run(block)`: calls a kernel for all tasks; block: kernel, arguments, tasks, scratch. */
function runnerCode(isa: Isa): Uint8Array {
  const code = newCode(isa);
  code.enterFromC(frame.bytes);
  code.mov(frame.block, entry.args);
  code.movMemImm(frame.task, 0);
  const top = code.here();
  code.mov(r0, frame.block);
  code.mov(entry.args, mem(r0, 8));
  code.mov(entry.scratch, mem(r0, 24));
  code.mov(entry.task, frame.task);
  code.call(mem(r0));
  code.mov(r0, frame.block);
  code.aluImm("add", frame.task, 1);
  code.mov(r2, mem(r0, 16));
  code.alu("cmp", frame.task, r2);
  code.jcc("b", top);
  code.leaveToC(frame.bytes);
  code.ret();
  return code.finish();
}

/** Compiles and runs plans one after the other; code is shared by key. */
export class Harness {
  readonly #system: System;
  readonly #code = new Map<string, NativeCode>();
  readonly #runners = new Map<Isa, NativeCode>();
  /** Memory by use, kept for the next run: mappings are few, and views keep them alive. */
  readonly #places = new Map<string, NativeMemory>();

  constructor(system: System) {
    this.#system = system;
  }

  #runner(isa: Isa): NativeCode {
    let runner = this.#runners.get(isa);
    if (runner === undefined) this.#runners.set(isa, (runner = this.#system.code(runnerCode(isa))));
    return runner;
  }

  #kernel(step: StepPlan<GemmArgument>, isa: Isa): NativeCode {
    let code = this.#code.get(step.key);
    if (code === undefined) {
      if (this.#code.size > 500) {
        for (const old of this.#code.values()) old.dispose();
        this.#code.clear();
      }
      const kernel = newCode(isa);
      step.emit(kernel);
      this.#code.set(step.key, (code = this.#system.code(kernel.finish())));
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
  run(plan: GemmPlan, isa: Isa, operands: Operands): void {
    const noisy = (bytes: number, i: number) => {
      const memory = this.place(`temp ${i}`, Math.ceil(bytes / 64) * 64);
      memory.bytes.fill(0xff);
      return memory.address;
    };
    const temps = plan.temps.map(noisy);
    const scratch = noisy(plan.scratchBytes, -1);
    for (const step of [...plan.setup, ...plan.steps]) {
      const words = [...step.args.map((arg) => (typeof arg === "object" ? temps[arg.temp]! : operands[arg]!))];
      const args = this.place("arguments", words.length * 8);
      new BigUint64Array(args.bytes.buffer, args.bytes.byteOffset, words.length).set(words.map(BigInt));
      const block = this.place("block", 32);
      const job = [this.#kernel(step, isa).address, args.address, step.tasks, scratch];
      new BigUint64Array(block.bytes.buffer, block.bytes.byteOffset, 4).set(job.map(BigInt));
      this.#system.call(this.#runner(isa).address, block.address);
    }
  }

  dispose(): void {
    for (const resource of [...this.#code.values(), ...this.#places.values(), ...this.#runners.values()])
      resource.dispose();
  }
}
