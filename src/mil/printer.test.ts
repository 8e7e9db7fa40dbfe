import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError } from "../core/errors.ts";
import { float16Value } from "../core/float16.ts";
import type { MilArgument, MilDType, MilFile, MilStatement, MilType, MilValue } from "./ast.ts";
import { isMilFloat, isMilInt, milIntRange } from "./ast.ts";
import { parseMil } from "./parser.ts";
import { printMil } from "./printer.ts";

const at = { line: 1, column: 1 };
const string: MilType = { dtype: "string", shape: [] };

function literal(type: MilType, ...data: number[] | boolean[] | string[]): MilValue {
  return { kind: "literal", type, data, at };
}

function nameOf(text: string): MilArgument {
  return { name: "name", value: literal(string, text), at };
}

function fileOf(statements: readonly MilStatement[], result = "y"): MilFile {
  const type: MilType = { dtype: "fp16", shape: [1, 2] };
  const params = [{ type, name: "x", at }];
  const main = { name: "main", opset: "ios18", params, statements, results: [{ name: result, at }], at };
  return { version: "1.3", buildInfo: [["coremlc-version", "3505.4.1"]], functions: [main] };
}

function constant(name: string, value: MilValue): MilStatement {
  const type = value.kind === "literal" || value.kind === "blob" ? value.type : string;
  const attributes = [nameOf(name), { name: "val", value, at }];
  return { results: [{ type, name, at }], op: "const", args: [], attributes, at };
}

const sample = fileOf([
  constant("k", literal({ dtype: "fp16", shape: [] }, 0.125)),
  constant("mask", literal({ dtype: "fp16", shape: [1, 1, 2] }, -0, Number.NEGATIVE_INFINITY)),
  constant("w", { kind: "blob", type: { dtype: "int8", shape: [2] }, path: "@model_path/w.bin", offset: 64, at }),
  {
    results: [
      { type: { dtype: "fp16", shape: [1] }, name: "a", at },
      { type: { dtype: "bool", shape: [] }, name: "y", at },
    ],
    op: "f",
    args: [{ name: "values", value: { kind: "tuple", items: [{ kind: "name", name: "x", at }], at }, at }],
    attributes: [],
    at,
  },
]);

const modern = `program(1.3)
[buildInfo = dict<string, string>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios18>(tensor<fp16, [1, 2]> x) {
        fp16 k = const()[name = string("k"), val = fp16(0x1p-3)];
        tensor<fp16, [1, 1, 2]> mask = const()[name = string("mask"), val = tensor<fp16, [1, 1, 2]>([-0x0p+0, -inf])];
        tensor<int8, [2]> w = const()[name = string("w"), val = tensor<int8, [2]>(BLOBFILE(path = string("@model_path/w.bin"), offset = uint64(64)))];
        tensor<fp16, [1]> a, bool y = f(values = (x));
    } -> (y);
}
`;

const verbose = `program(1.3)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios18>(tensor<fp16, [1, 2]> x) {
        tensor<fp16, []> k = const()[name = tensor<string, []>("k"), val = tensor<fp16, []>(0x1p-3)];
        tensor<fp16, [1, 1, 2]> mask = const()[name = tensor<string, []>("mask"), val = tensor<fp16, [1, 1, 2]>([-0x0p+0, -inf])];
        tensor<int8, [2]> w = const()[name = tensor<string, []>("w"), val = tensor<int8, [2]>(BLOBFILE(path = tensor<string, []>("@model_path/w.bin"), offset = tensor<uint64, []>(64)))];
        tensor<fp16, [1]> a, tensor<bool, []> y = f(values = (x));
    } -> (y);
}
`;

/** The tree without its positions. */
function strip(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(strip);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => key !== "at")
      .map(([key, item]) => [key, strip(item)]),
  );
}

const dtypes: readonly MilDType[] = ["fp16", "fp32", "fp64", "bf16", "bool", "string", ...intDTypes()];

function intDTypes(): MilDType[] {
  return Object.keys(milIntRange).filter(isMilInt);
}

const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
const identifier = fc
  .tuple(fc.constantFrom(...first), fc.string({ unit: fc.constantFrom(...first, ..."0123456789@"), maxLength: 12 }))
  .map(([head, tail]) => head + tail)
  .filter((name) => name !== "true" && name !== "false");
const named = fc.oneof(
  identifier,
  fc.constantFrom("tensor", "string", "fp16", "func", "inf", "nan", "program", "BLOBFILE"),
);
const text = fc.oneof(fc.string(), fc.string({ unit: "binary" }), fc.constantFrom("\ud800", '\\"', "\0\x7f\u2028\r\n"));
const type = fc.record({
  dtype: fc.constantFrom(...dtypes),
  shape: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 4 }),
});

function scalars(dtype: MilDType): fc.Arbitrary<number | boolean | string> {
  if (dtype === "bool") return fc.boolean();
  if (dtype === "string") return text;
  if (isMilInt(dtype)) {
    const [min, max] = milIntRange[dtype];
    return fc.oneof(fc.integer({ min: Math.max(min, -9), max: Math.min(max, 9) }), fc.constantFrom(min, max));
  }
  if (dtype === "fp16") return fc.integer({ min: 0, max: 65535 }).map(float16Value);
  return isMilFloat(dtype) && dtype !== "fp64" ? fc.float() : fc.double();
}

const anyLiteral = type.chain(({ dtype, shape }) => {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return fc
    .array(scalars(dtype), { minLength: size, maxLength: size })
    .map((data) => ({ kind: "literal", type: { dtype, shape }, data, at }) as MilValue);
});
const blob = fc.record({
  kind: fc.constant("blob" as const),
  type,
  path: text,
  offset: fc.maxSafeNat(),
  at: fc.constant(at),
});
const variable = named.map((name): MilValue => ({ kind: "name", name, at }));
const leaf: fc.Arbitrary<MilValue> = fc.oneof(variable, anyLiteral, blob);
const value = fc.letrec<{ value: MilValue }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    leaf,
    fc.array(tie("value"), { minLength: 1, maxLength: 3 }).map((items): MilValue => ({ kind: "tuple", items, at })),
  ),
})).value;
const binding = fc.record({ type, name: named, at: fc.constant(at) });
const args = fc.uniqueArray(fc.record({ name: named, value, at: fc.constant(at) }), {
  maxLength: 4,
  selector: (item) => item.name,
});
const statement = fc.record({
  results: fc.array(binding, { minLength: 1, maxLength: 3 }),
  op: named,
  args,
  attributes: args,
  at: fc.constant(at),
});
const anyFunction = fc.record({
  name: named,
  opset: named,
  params: fc.array(binding, { maxLength: 3 }),
  statements: fc.array(statement, { maxLength: 4 }),
  results: fc.array(fc.record({ name: named, at: fc.constant(at) }), { minLength: 1, maxLength: 3 }),
  at: fc.constant(at),
});
const anyFile: fc.Arbitrary<MilFile> = fc.record({
  version: fc.tuple(fc.nat(99), fc.nat(99)).map((parts) => parts.join(".")),
  buildInfo: fc.array(fc.tuple(text, text), { maxLength: 3 }),
  functions: fc.array(anyFunction, { minLength: 1, maxLength: 3 }),
});

describe("printMil", () => {
  it("prints both dialects", () => {
    expect(printMil(sample)).toBe(modern);
    expect(printMil(sample, { dialect: "modern" })).toBe(modern);
    expect(printMil(sample, { dialect: "verbose" })).toBe(verbose);
  });

  it("is undone by parseMil, for random trees in both dialects", () => {
    fc.assert(
      fc.property(anyFile, fc.constantFrom("modern", "verbose"), (file, dialect) => {
        const printed = printMil(file, { dialect });
        const back = parseMil(printed);
        expect(strip(back)).toEqual(strip(file));
        expect(printMil(back, { dialect })).toBe(printed);
      }),
      { numRuns: 500, seed: 3 },
    );
  });

  it("prints text that UTF-8 holds", () => {
    const odd = fileOf([constant("a", literal(string, 'tab\t quote" back\\ \ud800 \x01 é 😀'))]);
    const printed = printMil(odd);
    expect(printed).toContain(String.raw`string("tab\t quote\" back\\ \ud800 \x01 é 😀")`);
    expect(new TextDecoder().decode(new TextEncoder().encode(printed))).toBe(printed);
  });

  it("refuses trees that have no text", () => {
    const scalar: MilType = { dtype: "int32", shape: [] };
    for (const [file, message] of [
      [{ ...sample, version: "1" }, 'printMil: version "1" is not like 1.3'],
      [{ ...sample, functions: [] }, "printMil: a program has at least one function"],
      [fileOf([], "a b"), 'printMil: "a b" is not a MIL identifier'],
      [fileOf([], "true"), 'printMil: "true" is not a MIL identifier'],
      [fileOf([constant("a", literal(scalar, 1.5))]), "printMil: 1.5 is not a value of int32"],
      [fileOf([constant("a", literal(scalar, true))]), "printMil: true is not a value of int32"],
      [fileOf([constant("a", literal(scalar, 1, 2))]), "printMil: a literal of type int32 has 2 values"],
      [fileOf([constant("a", { kind: "tuple", items: [], at })]), "printMil: a tuple has at least one item"],
    ] as const) {
      expect(() => printMil(file)).toThrow(ConfigError);
      expect(() => printMil(file)).toThrow(message);
    }
  });

  it("prints and parses 10000 statements", () => {
    const { statements } = sample.functions[0]!;
    const file = fileOf(Array.from({ length: 2500 }, () => statements).flat());
    printMil(file);
    const started = performance.now();
    const printed = printMil(file);
    const between = performance.now();
    const back = parseMil(printed);
    const ended = performance.now();
    expect(back.functions[0]!.statements).toHaveLength(10000);
    const megabytes = (printed.length / 1e6).toFixed(1);
    console.log(
      `10000 statements (${megabytes} MB): printed in ${(between - started).toFixed(0)} ms, parsed in ${(ended - between).toFixed(0)} ms`,
    );
  });
});
