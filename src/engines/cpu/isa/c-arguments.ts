// Where the calling conventions of C put arguments: System V on x86-64, AAPCS64 and Apple's variant of it on arm64.

import { invariant } from "../../../core/errors.ts";
import type { CArgument, Gp } from "../code.ts";

/** An argument in a register, general or of vectors, or at an offset from the stack pointer. */
export interface ArgumentPlace {
  readonly argument: CArgument;
  readonly register: number | undefined;
  readonly stack: number;
}

/** Vector registers that take floats, on both processors. */
const floatRegisters = 8;

/**
 * Places arguments; integers and pointers take `registers` in their order, then words of 8 bytes on the stack. Apple's arm64 gives an int on the stack only
 * 4 bytes; what follows here is always a pointer, which begins at a multiple of 8 there, too: so the offsets of all conventions are the same.
 */
export function placeArguments(
  args: readonly CArgument[],
  registers: readonly Gp[],
): { readonly places: readonly ArgumentPlace[]; readonly stackBytes: number } {
  let [general, floats, stack] = [0, 0, 0];
  let before: CArgument | undefined;
  const places = args.map((argument): ArgumentPlace => {
    if ("float" in argument) {
      invariant(floats < floatRegisters, () => "a float on the stack");
      return { argument, register: floats++, stack };
    }
    if (general < registers.length) return { argument, register: registers[general++]!, stack };
    invariant(before === undefined || !("int" in before && "int" in argument), () => "two ints in a row on the stack");
    before = argument;
    stack += 8;
    return { argument, register: undefined, stack: stack - 8 };
  });
  return { places, stackBytes: 16 * Math.ceil(stack / 16) };
}
