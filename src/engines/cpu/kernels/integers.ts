// Integer arithmetic of kernels on numbers of any size, and loops that count.

import type { Code, Gp, Mem } from "../code.ts";

/** A loop that counts `counter` down from its value (at least 1) in steps of 1. */
export function countDown(code: Code, counter: Gp, body: () => void): void {
  const top = code.here();
  body();
  code.aluImm("sub", counter, 1);
  code.jcc("ne", top);
}

/** dst += value; changes `temp` where the value needs 64 bits. */
export function addImm(code: Code, dst: Gp | Mem, value: number, temp: Gp): void {
  if (value === 0) return;
  if (value === (value | 0)) return code.aluImm("add", dst, value);
  code.movImm(temp, value);
  code.alu("add", dst, temp);
}

/** dst *= value; changes `temp` where the value needs 64 bits. */
export function multiply(code: Code, dst: Gp, value: number, temp: Gp): void {
  if (value === 1) return;
  if (value === (value | 0)) return code.imulImm(dst, dst, value);
  code.movImm(temp, value);
  code.imul(dst, temp);
}
