import { expect, test } from "vitest";
import { concat, constant, input } from "../tensor.ts";
import { buildPlan } from "./plan.ts";
import { printProgram } from "./print.ts";

test("a program prints one line an instruction, with what stands behind its operands", () => {
  const x = input([2, 3], { name: "x" });
  const y = concat([x.mul(constant(2)), x], 1).sum(1);
  const [stage] = buildPlan({ name: "p", outputs: new Map([["y", y]]), updates: new Map() }).stages;
  expect(printProgram(stage!.program)).toBe(`program p
  %0 = input "x" : fp16[2, 3]
  %1 = constant(2) : fp16[]
  %2 = mul(x=%0, y=%1) : fp16[2, 3]
  %3 = concat(%2, %0) {axis=1, interleave=false} : fp16[2, 6]
  %4 = reduce_sum(x=%3) {axes=[1], keepDims=false} : fp16[2]
  output "y" = %4
`);
});
