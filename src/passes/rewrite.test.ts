// The framework of rewriting: what it shares, what it refuses from rules.

import { describe, expect, it } from "vitest";
import { operators, programOf } from "../../test/passes/helpers.ts";
import { constant, input, type Tensor } from "../index.ts";
import { lowerGraph, type Program, verifyProgram } from "../ir/program.ts";
import { ops } from "../ops/index.ts";
import { Rewriter, type Rule, replay, rule } from "./rewrite.ts";

function rewrite(program: Program, rules: readonly Rule[]): Program {
  const { inputs, outputs } = replay(program, new Rewriter(rules));
  const made = lowerGraph(program.name, outputs, inputs);
  verifyProgram(made);
  return made;
}

const x = input([2, 3], { name: "x" });

describe("rewrite", () => {
  it("leaves a program alone without rules, and shares its constants", () => {
    const program = programOf({ y: x.add(constant([1, 2, 3])).relu() });
    const made = rewrite(program, []);
    expect(operators(made)).toEqual(operators(program));
    expect(made.constants[0]!.data).toBe(program.constants[0]!.data);
  });

  it("rewrites what rules make, and makes equal uses once", () => {
    const rules = [
      rule(ops.softplus, "a", ({ x: t }) => t.exp().add(1).log()),
      rule(ops.exp, "b", ({ x: t }) => t.mul(Math.LOG2E).exp2()),
      rule(ops.tanh, "c", ({ x: t }) => t.transpose().relu().transpose()),
    ];
    expect(operators(rewrite(programOf({ y: x.softplus() }), rules))).toEqual(["mul", "exp2", "add", "log"]);
    const twice = programOf({ y: x.tanh().add(x.tanh()) });
    expect(operators(rewrite(twice, rules))).toEqual(["transpose", "relu", "transpose", "add"]);
  });

  it("is no deeper for a deep program", () => {
    let y: Tensor = x;
    for (let i = 0; i < 20_000; i++) y = y.relu();
    const rules = [rule(ops.relu, "relu", ({ x: t }) => t.maximum(0))];
    expect(rewrite(programOf({ y }), rules).instructions).toHaveLength(20_000);
  });

  it("calls a rule that matches its own result, or gives another shape, a bug", () => {
    const endless = [rule(ops.relu, "endless", ({ x: t }) => t.relu())];
    expect(() => rewrite(programOf({ y: x.relu() }), endless)).toThrow(
      'anekit bug: rule "endless" matches what it makes from relu',
    );
    const wrong = [rule(ops.relu, "wrong", ({ x: t }) => t.transpose())];
    expect(() => rewrite(programOf({ y: x.relu() }), wrong)).toThrow(
      /rule "wrong" gives Tensor\(fp16\[3, 2\]\) for result 0/,
    );
  });
});
