// Integer arithmetic of kernels on numbers of any size, and loops that count.

import { invariant } from "../../../core/errors.ts";
import { type Code, type Gp, gp, Label, type Mem } from "../code.ts";

/** True for what instructions take as an immediate. */
export const fits32 = (value: number): boolean => value === (value | 0);

/** A loop that counts `counter` down from its value (at least 1) in steps of 1. */
export function countDown(code: Code, counter: Gp, body: () => void): void {
  const top = code.here();
  body();
  code.aluImm("sub", counter, 1);
  code.jcc("ne", top);
}

/**
 * Counts `counter` down from its value, 0 or more: `body` while `step` of it are left, then `rest` for what remains, 1 to step - 1; without `rest`
 * nothing may remain. `boundary`: bytes of which the place that `body` begins at is a multiple.
 */
export function inSteps(
  code: Code,
  counter: Gp,
  step: number,
  body: () => void,
  { rest, boundary }: { readonly rest?: (() => void) | undefined; readonly boundary?: number } = {},
): void {
  const tail = new Label();
  const done = new Label();
  code.aluImm("sub", counter, step);
  code.jcc("l", tail);
  if (boundary !== undefined) code.align(boundary);
  const top = code.here();
  body();
  code.aluImm("sub", counter, step);
  code.jcc("ge", top);
  code.bind(tail);
  if (rest === undefined) return;
  code.aluImm("add", counter, step);
  code.jcc("e", done);
  rest();
  code.bind(done);
}

/** Counts `counter`, at least 1, down to 0: `body(atOnce)` while so many are left, then `body(1)`. */
export function unrolled(code: Code, counter: Gp, atOnce: number, body: (steps: number) => void): void {
  const rest = () => countDown(code, counter, () => body(1));
  if (atOnce === 1) rest();
  else inSteps(code, counter, atOnce, () => body(atOnce), { rest });
}

/** dst += value; changes `temp` where the value needs 64 bits. */
export function addImm(code: Code, dst: Gp | Mem, value: number, temp: Gp): void {
  if (value === 0) return;
  if (fits32(value)) return code.aluImm("add", dst, value);
  code.movImm(temp, value);
  code.alu("add", dst, temp);
}

/** dst *= value; changes `temp` where the value needs 64 bits. */
export function multiply(code: Code, dst: Gp, value: number, temp: Gp): void {
  if (value === 1) return;
  if (fits32(value)) return code.imulImm(dst, dst, value);
  code.movImm(temp, value);
  code.imul(dst, temp);
}

/** dst = src · value; the two registers differ where the value needs 64 bits. */
export function product(code: Code, dst: Gp, src: Gp, value: number): void {
  if (fits32(value)) return code.imulImm(dst, src, value);
  invariant(dst !== src, () => `a product with ${value} in one register`);
  code.movImm(dst, value);
  code.imul(dst, src);
}

/** Splits the number in `value` by sizes, the last fastest, and gives each digit in r2 to `use`; clobbers r0, r1, r2. */
export function emitDigits(
  code: Code,
  value: number,
  sizes: readonly number[],
  use: (digit: number, i: number) => void,
) {
  for (let i = sizes.length - 1; i >= 0; i--) {
    if (sizes[i] === 1) continue;
    if (i === 0 || sizes.slice(0, i).every((size) => size === 1)) {
      use(value, i);
      return;
    }
    code.divide(value, sizes[i]!);
    use(gp.r2, i);
  }
}
