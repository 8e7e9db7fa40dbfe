// The kernel of a batch: it looks up which step a task belongs to and goes on there.

import { gp, Label, mem, X64 } from "./isa/x64.ts";

/**
 * Kernel (arguments, task, scratch) whose argument block is a table of three words for every step: the number after its last task, its kernel, its
 * arguments.
 */
export function dispatchCode(): Uint8Array {
  const { rax, rcx, rsi, rdi } = gp;
  const asm = new X64();
  const found = new Label();
  asm.alu32("xor", rax, rax); // first task of the step
  const next = asm.here();
  asm.mov(rcx, mem(rdi, 0));
  asm.alu("cmp", rsi, rcx);
  asm.jcc("b", found);
  asm.mov(rax, rcx);
  asm.aluImm("add", rdi, 24);
  asm.jmp(next);
  asm.bind(found);
  asm.alu("sub", rsi, rax);
  asm.mov(rax, mem(rdi, 8));
  asm.mov(rdi, mem(rdi, 16));
  asm.jmpTo(rax);
  return asm.finish();
}
