// Errors of the vector functions over every fp32 number, or every STEPth: `npx tsx scripts/numerics.ts [STEP [NAME…]]`. Translates the
// expressions to C, needs a C compiler; a function takes minutes at STEP 1. The reference is the C library's float64 functions.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Node, Operation } from "../src/engines/cpu/expression.ts";
import { Expressions } from "../src/engines/cpu/math.ts";

/** Functions of one operand, the reference in C, and the largest argument whose results are compared. */
const functions = {
  exp: ["exp(x)"],
  expNegative: ["exp(x)"],
  exp2: ["exp2(x)"],
  expm1: ["expm1(x)"],
  log: ["log(x)"],
  log1p: ["log1p(x)"],
  tanh: ["tanh(x)"],
  sigmoid: ["x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x))"],
  erf: ["erf(x)"],
  sin: ["sin(x)", "1e5"],
  cos: ["cos(x)", "1e5"],
  tan: ["tan(x)", "1e5"],
  asin: ["asin(x)"],
  acos: ["acos(x)"],
  atan: ["atan(x)"],
  sinh: ["sinh(x)"],
  cosh: ["cosh(x)"],
  atanh: ["atanh(x)"],
} as const satisfies Record<string, readonly [string, string?]>;
type Name = keyof typeof functions;

/** C of operations; $0, $1, $2 are the operands. */
const code: Partial<Record<Operation, string>> = {
  add: "$0 + $1",
  sub: "$0 - $1",
  mul: "$0 * $1",
  div: "$0 / $1",
  fma: "__builtin_fmaf($0, $1, $2)",
  sqrt: "__builtin_sqrtf($0)",
  isub: "(int)((unsigned)$0 - (unsigned)$1)",
  imax: "$0 > $1 ? $0 : $1",
  iand: "$0 & $1",
  ior: "$0 | $1",
  ixor: "$0 ^ $1",
  eq: "$0 == $1",
  lt: "$0 < $1",
  le: "$0 <= $1",
  ilt: "$0 < $1",
  select: "$0 ? $1 : $2",
  toFloat: "(float)$0",
};

function translate(name: Name): string {
  const lanes = new Expressions();
  const root = lanes[name](lanes.operand(0, "f32"));
  const lines = new Map<Node, string>();
  const value = (node: Node): string => {
    if (node.kind === "operand") return "x";
    if (node.kind === "constant") return node.type === "i32" ? `(${node.bits})` : `number(${node.bits})`;
    if (node.kind === "bits") return `${node.type === "f32" ? "number" : "bits"}(${value(node.of)})`;
    if (!lines.has(node)) {
      const args = node.args.map(value);
      const text = node.op === "ishl" ? `(int)((unsigned)$0 << ${node.count})` : code[node.op];
      if (text === undefined) throw new Error(`no C for ${node.op}`);
      const type = node.type === "f32" ? "float" : "int";
      lines.set(node, `  ${type} v${node.id} = ${text.replace(/\$(\d)/g, (_, index) => args[Number(index)]!)};`);
    }
    return `v${node.id}`;
  };
  const result = value(root);
  return `static float compute(float x) {\n${[...lines.values()].join("\n")}\n  return ${result};\n}`;
}

const harness = (limit: string, highest: string, step: number) => `
int main(void) {
  double max = 0, sum = 0, at = 0;
  unsigned long count = 0;
  for (unsigned long word = 0; word < 1ul << 32; word += ${step}) {
    float x = number((int)word), y = compute(x);
    if (isnan(x) ? word & 0xfffff : !(fabs(x) <= ${limit} && x <= ${highest})) continue;
    double exact = reference(x), error;
    int exponent;
    frexp(exact, &exponent);
    double unit = ldexp(1, (exponent < -125 ? -125 : exponent > 128 ? 128 : exponent) - 24);
    if (y == (float)exact || (isnan(y) && isnan(exact))) error = isfinite(exact) && isfinite(y) ? fabs(y - exact) / unit : 0;
    else if (isnan(y) || !isfinite(exact)) error = INFINITY;
    else error = fabs((isinf(y) ? copysign(0x1p128, y) : y) - exact) / unit;
    if (exact == 0 && signbit(y) != signbit(exact)) error = INFINITY;
    sum += error;
    count++;
    if (error > max) max = error, at = x;
  }
  printf("max %.4f at %.9g, mean %.4f of %lu\\n", max, at, sum / count, count);
}`;

const [step = "1", ...names] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "numerics-"));
try {
  for (const name of names.length > 0 ? (names as Name[]) : (Object.keys(functions) as Name[])) {
    const [reference, limit = "INFINITY"]: readonly [string, string?] = functions[name];
    const source = `#include <math.h>
#include <stdio.h>
static float number(int word) { union { int word; float number; } u = { word }; return u.number; }
static int bits(float number) { union { float number; int word; } u = { number }; return u.word; }
static double reference(double x) { return ${reference}; }
${translate(name)}
${harness(limit, name === "expNegative" ? "0" : "INFINITY", Number(step))}
`;
    const [file, program] = [join(folder, `${name}.c`), join(folder, name)];
    writeFileSync(file, source);
    const options = ["-O2", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"];
    execFileSync("cc", [...options, "-o", program, file, "-lm"], { stdio: "inherit" });
    process.stdout.write(`${name}: ${execFileSync(program)}`);
  }
} finally {
  rmSync(folder, { recursive: true });
}
