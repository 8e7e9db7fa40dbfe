import { describe, expect, it } from "vitest";
import { ParseError } from "../core/errors.ts";
import type { MilValue } from "./ast.ts";
import { parseMil } from "./parser.ts";

const modern = `program(1.3)
[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, {"coremltools-component-milinternal", ""}})]
{
    // two inputs, one weight
    func main<ios18>(tensor<fp16, [4, 8]> t0, fp16 k) {
        tensor<fp16, [3, 8]> w = const()[name = string("w"), val = tensor<fp16, [3, 8]>(BLOBFILE(path = string("@model_path/weights.bin"), offset = uint64(64)))];
        tensor<fp16, [4, 3]> t2 = matmul(transpose_x = bool(false), transpose_y = bool(true), x = t0, y = w)[name = string("t2")];
        tensor<fp16, [4, 1]> a, tensor<fp16, [4, 2]> b = split(axis = ax, num_splits = ns, x = t2)[name = string("s")];
        tensor<fp16,[4,3]> y=concat(axis=ax,interleave=no,values=(b,a))[name=string("y")];
    } -> (a, y);
    func other<ios17>() { fp16 k = const()[name = string("k"), val = fp16(-0x1.8p+1)]; } -> (k);
}
`;

const verbose = `program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios16>(tensor<fp16, [1, 64, 1, 32]> x) {
        tensor<string, []> pt = const()[name = tensor<string, []>("pt"), val = tensor<string, []>("valid")];
        tensor<int32, []> gr = const()[name = tensor<string, []>("gr"), val = tensor<int32, []>(1)];
        tensor<int8, [2]> q = const()[val = tensor<int8, [2]>(BLOBFILE(offset = tensor<uint64, []>(128), path = tensor<string, []>("w.bin")))];
    } -> (pt);
}
`;

/** A program around one value, which stands at line 2, column 13. */
const around = (value: string) => `program(1.3){func m<o>(){\nint32 x=f(a=${value});}->(x);}`;

function parsedValue(text: string): MilValue {
  return parseMil(around(text)).functions[0]!.statements[0]!.args[0]!.value;
}

function dataOf(text: string): unknown {
  const value = parsedValue(text);
  return value.kind === "literal" ? value.data : value.kind;
}

function errorOf(text: string): ParseError {
  try {
    parseMil(text, "m");
  } catch (error) {
    if (error instanceof ParseError) return error;
    throw error;
  }
  throw new Error(`no error for ${text.slice(0, 200)}`);
}

describe("parseMil", () => {
  it("reads the modern dialect", () => {
    const file = parseMil(modern);
    expect(file.version).toBe("1.3");
    expect(file.buildInfo).toEqual([
      ["coremlc-component-MIL", "3510.2.1"],
      ["coremltools-component-milinternal", ""],
    ]);
    expect(
      file.functions.map(({ name, opset, params, results }) => [name, opset, params.length, results.length]),
    ).toEqual([
      ["main", "ios18", 2, 2],
      ["other", "ios17", 0, 1],
    ]);
    const [main, other] = file.functions;
    expect(main!.params[1]).toEqual({ type: { dtype: "fp16", shape: [] }, name: "k", at: { line: 5, column: 47 } });
    const [w, matmul, split, concat] = main!.statements;
    expect(w!.attributes[1]).toEqual({
      name: "val",
      at: { line: 6, column: 62 },
      value: {
        kind: "blob",
        type: { dtype: "fp16", shape: [3, 8] },
        path: "@model_path/weights.bin",
        offset: 64,
        at: { line: 6, column: 68 },
      },
    });
    expect(matmul!.args.map(({ name, value }) => [name, value.kind])).toEqual([
      ["transpose_x", "literal"],
      ["transpose_y", "literal"],
      ["x", "name"],
      ["y", "name"],
    ]);
    expect(split!.results.map((result) => result.name)).toEqual(["a", "b"]);
    const values = concat!.args[2]!.value;
    expect(values.kind === "tuple" && values.items.map((item) => item.kind === "name" && item.name)).toEqual([
      "b",
      "a",
    ]);
    const k = other!.statements[0]!.attributes[1]!.value;
    expect(k.kind === "literal" && k.data).toEqual([-3]);
  });

  it("reads the verbose dialect into the same scalars", () => {
    const file = parseMil(verbose);
    expect(file.buildInfo).toEqual([["coremlc-version", "3505.4.1"]]);
    const [pt, gr, q] = file.functions[0]!.statements;
    expect(pt!.results[0]!.type).toEqual({ dtype: "string", shape: [] });
    expect(gr!.attributes[1]!.value).toMatchObject({ kind: "literal", type: { dtype: "int32", shape: [] }, data: [1] });
    expect(q!.attributes[0]!.value).toMatchObject({ kind: "blob", path: "w.bin", offset: 128 });
  });

  it("reads literals of every kind", () => {
    expect(dataOf("fp16(1)")).toEqual([1]);
    expect(dataOf("fp16(-0.5)")).toEqual([-0.5]);
    expect(dataOf("tensor<fp32, []>(-inf)")).toEqual([Number.NEGATIVE_INFINITY]);
    expect(dataOf("tensor<fp64, [3]>([nan, infinity, -0])")).toEqual([Number.NaN, Number.POSITIVE_INFINITY, -0]);
    expect(dataOf("int32(-0)")).toEqual([0]);
    expect(dataOf("tensor<int32, [4]>([0,0,-2147483648,2147483647])")).toEqual([0, 0, -2147483648, 2147483647]);
    expect(dataOf("uint64(9007199254740991)")).toEqual([9007199254740991]);
    expect(dataOf("tensor<bool, [2]>([true, false])")).toEqual([true, false]);
    expect(dataOf('tensor<string, [2]>(["a", "\\n"])')).toEqual(["a", "\n"]);
    expect(dataOf("tensor<fp16, [2, 1, 2]>([1, 2, 3, 4])")).toEqual([1, 2, 3, 4]);
    expect(dataOf("tensor<fp16, [2, 1, 2]>([[[1, 2]], [[3, 4]]])")).toEqual([1, 2, 3, 4]);
    expect(dataOf("tensor<fp16, [1,1,1,1,1,1,1,1]>([[[[[[[[5]]]]]]]])")).toEqual([5]);
    expect(dataOf("(a, (b, int32(1)))")).toBe("tuple");
    expect(dataOf("string")).toBe("name");
  });

  it("keeps no other header attribute than buildInfo, and needs no header", () => {
    expect(parseMil('program(1.0)[a = dict<string, string>({{"b", "c"}})]{func m<o>(){}->(x);}').buildInfo).toEqual([]);
    expect(parseMil("program(1.0){func m<o>(){}->(x);}").buildInfo).toEqual([]);
    expect(parseMil("program(1.0)[buildInfo = dict<string, string>({})]{func m<o>(){}->(x);}").buildInfo).toEqual([]);
  });

  it("refuses malformed programs where they go wrong", () => {
    for (const [text, place, message] of [
      ["", "1:1", 'expected "program", found the end of the text'],
      ["prog(1.3)", "1:1", 'expected "program", found "prog"'],
      ["program 1.3", "1:9", 'expected "(", found "1.3"'],
      ["program(1)", "1:9", 'expected a version such as 1.3, found "1"'],
      ["program(1.3.1)", "1:9", 'expected a version such as 1.3, found "1.3.1"'],
      ["program(1.3)\n[buildInfo = list<string>]", "2:14", 'expected "dict", found "list"'],
      ["program(1.3)[buildInfo = dict<int32, string>({})]", "1:31", "expected the type string, found another"],
      ["program(1.3)[buildInfo = dict<string, string>({{1, 2}})]", "1:49", 'expected a string, found "1"'],
      ['program(1.3)[buildInfo = dict<string, string>({{"a"}})]', "1:52", 'expected ",", found "}"'],
      ["program(1.3){}", "1:14", 'expected "func", found "}"'],
      ["program(1.3){func m<o>(){}->(x);", "1:33", 'expected "func" or "}", found the end of the text'],
      ["program(1.3){func m<o>(){}->(x);}}", "1:34", 'expected the end of the text, found "}"'],
      ["program(1.3){func m(){}->(x);}", "1:20", 'expected "<", found "("'],
      ["program(1.3){func m<18>(){}->(x);}", "1:21", 'expected an opset such as ios18, found "18"'],
      ["program(1.3){func m<o>(x){}->(x);}", "1:24", 'expected a type such as tensor<fp16, [2]> or int32, found "x"'],
      ["program(1.3){func m<o>(fp16){}->(x);}", "1:28", 'expected the name of a variable, found ")"'],
      ["program(1.3){func m<o>(){}->();}", "1:30", 'expected the name of a result, found ")"'],
      ["program(1.3){func m<o>(){}(x);}", "1:27", 'expected "->", found "("'],
      ["program(1.3){func m<o>(){fp16 a b=f();}->(x);}", "1:33", 'expected "," or "=", found "b"'],
      [
        "program(1.3){func m<o>(){fp16 a, b=f();}->(x);}",
        "1:34",
        'expected a type such as tensor<fp16, [2]> or int32, found "b"',
      ],
      ["program(1.3){func m<o>(){fp16 a=f;}->(x);}", "1:34", 'expected "(", found ";"'],
      ["program(1.3){func m<o>(){fp16 a=f()}->(x);}", "1:36", 'expected "[" or ";", found "}"'],
      ["program(1.3){func m<o>(){fp16 a=f(x);}->(x);}", "1:36", 'expected "=", found ")"'],
      ["program(1.3){func m<o>(){fp16 a=f(x=y z=w);}->(x);}", "1:39", 'expected "," or ")", found "z"'],
      ["program(1.3){func m<o>(){fp16 a=f(x=y,x=y);}->(x);}", "1:39", 'expected each argument once, found "x" again'],
      ['program(1.3){func m<o>(){fp16 a=f()[name=string("a"];}->(x);}', "1:52", 'expected ")", found "]"'],
      ["program(1.3){func m<o>(){fp16 true=f();}->(x);}", "1:31", 'expected the name of a variable, found "true"'],
    ] as const) {
      const { line, column, message: whole } = errorOf(text);
      expect(`${line}:${column} ${whole}`, text).toBe(`${place} m:${place}: ${message}`);
    }
  });

  it("refuses malformed values where they go wrong", () => {
    const bare = "expected a variable, a tuple, or a literal with its type such as int32(1), found";
    for (const [text, column, message] of [
      ["true", 13, `${bare} "true"`],
      ["1", 13, `${bare} "1"`],
      ['"x"', 13, `${bare} the string "x"`],
      ["[1, 2]", 13, `${bare} "["`],
      ["()", 14, `${bare} ")"`],
      ["(a", 16, 'expected "," or ")", found ";"'],
      ["(a;", 15, 'expected "," or ")", found ";"'],
      ["float(1)", 13, 'expected a type such as tensor<fp16, [2]> or int32, found "float"'],
      ["tensor<fp17, [1]>([1])", 20, 'expected a dtype such as fp16, found "fp17"'],
      ["tensor<fp16>([1])", 24, 'expected ",", found ">"'],
      ["tensor<fp16, 1>([1])", 26, 'expected "[", found "1"'],
      ["tensor<fp16, [?]>([1])", 27, 'expected a token, found the character "?"'],
      ["tensor<fp16, [0]>([])", 27, 'expected an extent, a whole number from 1 on, found "0"'],
      ["tensor<fp16, [-1]>([1])", 27, 'expected an extent, a whole number from 1 on, found "-1"'],
      ["tensor<fp16, [1.5]>([1])", 27, 'expected an extent, a whole number from 1 on, found "1.5"'],
      [
        "tensor<fp16, [99999999999999999]>([1])",
        27,
        'expected an extent, a whole number from 1 on, found "99999999999999999"',
      ],
      ["tensor<fp16, [65536, 32768]>([1])", 34, 'expected a shape of at most 2147483647 elements, found "32768"'],
      ["tensor<fp16, [1,1,1,1,1,1,1,1,1]>([1])", 43, "expected at most 8 axes, found another"],
      ["tensor<fp16, [2]>(0)", 31, 'expected a list of 2 values, found "0"'],
      ["tensor<fp16, [1]>(0)", 31, 'expected a list of 1 values, found "0"'],
      ["tensor<fp16, []>([0])", 30, 'expected a number, found "["'],
      ["tensor<fp16, [2]>([])", 32, 'expected a number, found "]"'],
      ["tensor<fp16, [2]>([1])", 33, "expected 2 items in this list for shape [2], found 1"],
      ["tensor<fp16, [2]>([1, 2, 3])", 38, "expected 2 values for shape [2], found more"],
      ["tensor<fp16, [2]>([1, 2,])", 37, "expected 2 values for shape [2], found more"],
      ["tensor<fp16, [2]>([1 2])", 34, 'expected "," or "]", found "2"'],
      ["tensor<fp16, [2]>([[1, 2]])", 32, 'expected a value, found "["'],
      ["tensor<fp16, [2, 2]>([1, [2], 3, 4])", 38, 'expected a value, found "["'],
      ["tensor<fp16, [2, 2]>([[1, 2], 3, 4])", 43, 'expected "[", found "3"'],
      ["tensor<fp16, [2, 2]>([[1, 2, 3], [4]])", 43, "expected 2 items in this list for shape [2, 2], found 3"],
      ["tensor<fp16, [2, 2]>([[1, 2]])", 41, "expected 2 items in this list for shape [2, 2], found 1"],
      ["tensor<fp16, [2, 1, 1]>([[1], [2]])", 39, 'expected "[", found "1"'],
      ["int32(1.0)", 19, 'expected a whole number from -2147483648 to 2147483647 for int32, found "1.0"'],
      ["int32(2147483648)", 19, 'expected a whole number from -2147483648 to 2147483647 for int32, found "2147483648"'],
      [
        "int64(9007199254740993)",
        19,
        'expected a whole number from -9007199254740991 to 9007199254740991 for int64, found "9007199254740993"',
      ],
      ["uint4(16)", 19, 'expected a whole number from 0 to 15 for uint4, found "16"'],
      ["int32(true)", 19, 'expected a whole number from -2147483648 to 2147483647 for int32, found "true"'],
      ["bool(1)", 18, 'expected "true" or "false", found "1"'],
      ["string(a)", 20, 'expected a string, found "a"'],
      ["fp16(a)", 18, 'expected a number, found "a"'],
      ["fp16(0x1p)", 18, 'expected a number, found "0x1p"'],
      ["fp16(1e400)", 18, 'expected a number that a double can hold, or inf, found "1e400"'],
      ["fp16(1/768)", 19, 'expected a token, found the character "/"'],
      ["fp16(1, 2)", 19, 'expected ")", found ","'],
      ['BLOBFILE(path = string("a"))', 13, "expected BLOBFILE inside a type, as in tensor<fp16, [2]>(BLOBFILE(...))"],
      ["fp16(BLOBFILE())", 27, 'expected "path" or "offset", found ")"'],
      ["fp16(BLOBFILE(offset = uint64(64)))", 18, "expected a path in BLOBFILE, found none"],
      ['fp16(BLOBFILE(path = string("a")))', 18, "expected an offset in BLOBFILE, found none"],
      ['fp16(BLOBFILE(path = "a"))', 34, 'expected the type string, found the string "a"'],
      ["fp16(BLOBFILE(offset = int32(64)))", 36, "expected the type uint64, found another"],
      [
        "fp16(BLOBFILE(offset = uint64(-64)))",
        43,
        'expected a whole number from 0 to 9007199254740991 for uint64, found "-64"',
      ],
      ["fp16(BLOBFILE(offset = uint64(1), offset = uint64(1)))", 47, 'expected offset once, found "offset"'],
    ] as const) {
      const { line, column: found, message: whole } = errorOf(around(text));
      expect(`${line}:${found} ${whole}`, text).toBe(`2:${column} m:2:${column}: ${message}`);
    }
  });

  it("answers every truncation with a ParseError inside the text", () => {
    for (const program of [modern, verbose]) {
      const text = program.trimEnd();
      const lines = text.split("\n");
      for (let length = 0; length < text.length; length++) {
        const { line, column } = errorOf(text.slice(0, length));
        expect(column).toBeLessThanOrEqual(lines[line - 1]!.length + 1);
      }
    }
  });

  it("answers every single damaged character with a ParseError or a tree", () => {
    for (const damage of ["", " ", "\n", "(", "]", "}", '"', "\\", "0", "-", "/*", "ä", "\0", "\ud800"]) {
      for (let at = 0; at < modern.length; at++) {
        const text = modern.slice(0, at) + damage + modern.slice(at + 1);
        try {
          parseMil(text);
        } catch (error) {
          if (!(error instanceof ParseError)) throw error;
        }
      }
    }
  });

  it("bounds nesting, and stays linear on hostile text", () => {
    const million = 1_000_000;
    expect(dataOf(`${"(".repeat(32)}a${")".repeat(32)}`)).toBe("tuple");
    expect(errorOf(around(`${"(".repeat(33)}a${")".repeat(33)}`)).message).toContain("expected tuples at most 32 deep");
    const started = performance.now();
    for (const text of [
      around("(".repeat(million)),
      around(`tensor<fp16, [1, 1]>(${"[".repeat(million)}`),
      around("tensor<".repeat(million)),
      around(`fp16(${"BLOBFILE(path = string(".repeat(million / 4)}`),
      around(`tensor<fp16, [${"1,".repeat(million)}`),
      around(`tensor<fp16, [2000000000]>([${"1,".repeat(million)}`),
      around(`fp16(${"9".repeat(million)}`),
      around(`int32(${"9".repeat(million)}`),
      around(`fp16(0x${"f".repeat(million)}`),
      around(`fp16(${"-".repeat(million)}`),
      around(`"${"\\n".repeat(million)}`),
      around("a".repeat(million)),
      `program(${"1".repeat(million)}.`,
      `${"/**/".repeat(million)}`,
      `/*${"*".repeat(million)}`,
      "\n".repeat(million),
      around(`f(${Array.from({ length: million / 10 }, (_, i) => `a${i} = b`).join(", ")}`),
      `program(1.3)[${'a = dict<string, string>({{"a", "b"}}),'.repeat(million / 10)}`,
    ]) {
      expect(errorOf(text).message.length).toBeLessThan(300);
    }
    console.log(`parser: 18 hostile texts of up to 4 MB in ${(performance.now() - started).toFixed(0)} ms`);
  });

  it("accepts any whitespace and comments between tokens", () => {
    const tight = modern.replace(/\/\/.*/, "");
    const spaced = tight.replace(
      /("[^"]*")|(->|[()[\]{}<>=,;])/g,
      (_, text, mark) => text ?? ` /* x */\n${mark}\t// y\n`,
    );
    const strip = (text: string) => JSON.stringify(parseMil(text), (key, value) => (key === "at" ? undefined : value));
    expect(strip(spaced)).toBe(strip(modern));
  });
});
