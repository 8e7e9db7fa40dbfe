// The kernel of a batch: it looks up which step a task belongs to and goes on there.

import { entry, gp, Label, mem } from "./code.ts";
import type { Isa } from "./isa/features.ts";
import { newCode } from "./isa/new-code.ts";

/**
 * Kernel (arguments, task, scratch) whose argument block is a table of three words for every step: the number after its last task, its kernel, its
 * arguments.
 */
export function dispatchCode(isa: Isa): Uint8Array {
  const { r0: first, r1: end } = gp;
  const kernel = first;
  const { args, task } = entry;
  const code = newCode(isa);
  const found = new Label();
  code.zero(first); // first task of the step
  const next = code.here();
  code.mov(end, mem(args, 0));
  code.alu("cmp", task, end);
  code.jcc("b", found);
  code.mov(first, end);
  code.aluImm("add", args, 24);
  code.jmp(next);
  code.bind(found);
  code.alu("sub", task, first);
  code.mov(kernel, mem(args, 8));
  code.mov(args, mem(args, 16));
  code.jmpTo(kernel);
  return code.finish();
}
