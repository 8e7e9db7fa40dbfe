// What the double's chips refuse to compile, and what they compute otherwise without a word.

import { describe, expect, test } from "vitest";
import { BlobWriter } from "../../../src/mil/blob.ts";
import { openDouble } from "./open.ts";
import { profiles } from "./quirks.ts";
import { program, sample } from "./sequence.ts";

const { raw, start } = await openDouble();

/** A function of `ports` with `statements`; "NAME: TYPE = VALUE" stands for a constant, "TYPE NAME = op(...)" for an operator. */
function main(ports: string, statements: readonly string[], results: string): string {
  const lines = statements.map((text) => {
    const constant = /^(\w+): (.+?) = (.*)$/s.exec(text);
    if (constant !== null) {
      const [, name, type, value] = constant;
      return `${type} ${name} = const()[name = string("${name}"), val = ${type}(${value})];`;
    }
    return `${text}[name = string("${/(\w+) = /.exec(text)![1]}")];`;
  });
  return `\n    func main<ios18>(${ports}) {\n        ${lines.join("\n        ")}\n    } -> (${results});`;
}

const fp16 = (...shape: number[]) => `tensor<fp16, [${shape.join(", ")}]>`;
const ints = (name: string, ...values: number[]) =>
  `${name}: tensor<int32, [${values.length}]> = [${values.join(", ")}]`;
const yes = (name: string) => `${name}: bool = true`;
const no = (name: string) => `${name}: bool = false`;
const list = (length: number, value = "0x1p+0") => `[${Array(length).fill(value).join(", ")}]`;

/** One operator on x. */
function unary(op: string, shape: readonly number[] = [1, 8, 1, 64], more: readonly string[] = [], args = ""): string {
  const t = fp16(...shape);
  return main(`${t} x`, [...more, `${t} y = ${op}(${args}x = x)`], "y");
}

function reduce(op: string): string {
  const axes = [ints("ax", -1), yes("kd")];
  return main(`${fp16(4, 64)} x`, [...axes, `${fp16(4, 1)} y = ${op}(axes = ax, keep_dims = kd, x = x)`], "y");
}

const concat = (args = "axis = ax, interleave = il, ", axis = "ax: int32 = 0") =>
  main(`${fp16(2, 8)} x`, [axis, no("il"), `${fp16(4, 8)} y = concat(${args}values = (x, x))`], "y");

interface ConvOptions {
  readonly kernel?: readonly [number, number];
  readonly bias?: boolean;
  readonly runtime?: boolean;
  readonly batch?: number;
  readonly channels?: number;
}

function conv({ kernel: [kh, kw] = [1, 1], bias, runtime, batch = 1, channels = 2 }: ConvOptions): string {
  const t = fp16(batch, channels, 32, 32);
  const weight = fp16(2, channels, kh, kw);
  const values = `w: ${weight} = ${list(2 * channels * kh * kw)}`;
  const common = [
    ints("st", 1, 1),
    ints("pd", 0, 0, 0, 0),
    ints("di", 1, 1),
    "gr: int32 = 1",
    'pt: string = "valid"',
    `b: ${fp16(2)} = ${list(2)}`,
  ];
  const out = fp16(batch, 2, 33 - kh, 33 - kw);
  const call = `${out} y = conv(dilations = di, groups = gr, pad = pd, pad_type = pt, strides = st, ${bias ? "bias = b, " : ""}weight = w, x = x)`;
  return main(runtime ? `${t} x, ${weight} w` : `${t} x`, [...(runtime ? [] : [values]), ...common, call], "y");
}

function matmul(x: readonly number[], y: readonly number[], out: readonly number[]): string {
  const call = `${fp16(...out)} z = matmul(transpose_x = tx, transpose_y = ty, x = x, y = y)`;
  return main(`${fp16(...x)} x, ${fp16(...y)} y`, [no("tx"), no("ty"), call], "z");
}

/** Title, configuration, function, and what the refusal says; without one it compiles. */
type Case = readonly [title: string, config: string, functions: string, says?: RegExp];

const cases: readonly Case[] = [
  ["the sample", "", sample],
  ["an A12", "chip=h12", sample, /MIL is only supported for H13\+/],

  // Dialect.
  ["shorthand on M1 before macOS 26", "chip=h13;os=15", sample, /reads only the verbose dialect/],
  ["shorthand on M1 from macOS 26 on", "chip=h13;os=26", sample],
  ["shorthand on M3", "chip=h15;os=15", sample],
  ["opset ios18 on macOS 14", "chip=h15;os=14", sample, /opset ios18 on macOS 14/],
  ["an inline flag", "", reduce("reduce_sum").replace("= kd", "= bool(true)"), /keep_dims is a literal/],
  [
    "inline=flags: an inline flag",
    "inline=flags",
    reduce("reduce_sum").replace("= kd", "= bool(true)"),
    /keep_dims is a literal/,
  ],
  [
    "inline=flags: other literals",
    "inline=flags",
    reduce("reduce_sum").replace("= ax,", "= tensor<int32, [1]>([-1]),"),
  ],
  ["inline=accept", "inline=accept", reduce("reduce_sum").replace("= kd", "= bool(true)")],
  ["an operator without name", "", sample.replace('[name = string("y")]', ""), /no attribute name/],
  ["a name given twice", "", sample.replace('string("w2")', 'string("y")'), /the name "y" is given twice/],

  // Ports and results.
  ["an fp32 port", "", sample.replaceAll("fp16", "fp32"), /no port has that dtype/],
  ["a port of rank 0", "", sample.replaceAll("tensor<fp16, [2, 3]>", "fp16"), /rank 0/],
  ["scalar-ports=accept", "scalar-ports=accept", sample.replaceAll("tensor<fp16, [2, 3]>", "fp16")],
  ["a port above 65536", "", sample.replaceAll("[2, 3]", "[2, 65537]"), /an axis has 1 to 65536/],
  [
    "an input that nothing reads",
    "",
    main(`${fp16(4)} x, ${fp16(4)} z`, [`${fp16(4)} y = relu(x = x)`], "y"),
    /not used in network: z/,
  ],
  [
    "a result that is a parameter",
    "",
    main(`${fp16(4)} x`, [`${fp16(4)} y = relu(x = x)`], "y, x"),
    /result x is no|"x" is not defined/,
  ],
  [
    "a result that nothing defines",
    "",
    main(`${fp16(4)} x`, [`${fp16(4)} y = relu(x = x)`], "y, q"),
    /result "q" is not defined/,
  ],
  [
    "a result that is a constant",
    "",
    main(`${fp16(4)} x`, [`c: ${fp16(4)} = ${list(4)}`, `${fp16(4)} y = relu(x = x)`], "y, c"),
    /result c is a constant/,
  ],
  ["a result returned twice", "", main(`${fp16(4)} x`, [`${fp16(4)} y = relu(x = x)`], "y, y"), /returned twice/],
  ["a result that is an identity", "", unary("identity"), /result y is eliminated/],
  ["identity-output=accept", "identity-output=accept", unary("identity")],

  // Shapes.
  ["rank 6", "", unary("relu", [1, 1, 1, 1, 2, 2]), /rank 6/],
  ["16385 columns on M1", "chip=h13", unary("relu", [1, 16385]), /above 16384/],
  ["16385 columns on M5", "chip=h17s", unary("relu", [1, 16385])],
  ["65536 channels on M1", "chip=h13", unary("relu", [1, 65536, 1, 1])],
  ["width-max", "chip=h16;width-max=16384", unary("relu", [1, 1, 1, 17920]), /above 16384/],
  ["fp32 arithmetic", "wide-ports=accept", sample.replaceAll("fp16", "fp32"), /mul in fp32/],

  // Operators.
  ["logical_and", "", unary("logical_and"), /not implemented/],
  ["sin on M2", "chip=h14", unary("sin"), /unsupported on h14/],
  ["sin on M3", "chip=h15", unary("sin")],
  ["topk on M1", "chip=h13", unary("topk"), /unsupported on h13/],
  ["gather_nd on M1", "chip=h13", unary("gather_nd"), /unsupported on h13/],
  ["gelu without mode", "", unary("gelu"), /gelu needs mode/],
  ["gelu", "", unary("gelu", [4], ['m: string = "EXACT"'], "mode = m, ")],
  ["gelu=refuse", "gelu=refuse", unary("gelu", [4], ['m: string = "EXACT"'], "mode = m, "), /FAILED \(gelu\)/],
  ["log without epsilon", "", unary("log"), /log needs epsilon/],
  ["reduce_mean", "", reduce("reduce_mean")],
  ["reduce-mean=refuse", "reduce-mean=refuse", reduce("reduce_mean"), /reduce_mean/],
  ["concat", "", concat()],
  ["concat=refuse", "concat=refuse", concat(), /concat/],
  ["concat without interleave", "", concat("axis = ax, "), /concat needs interleave/],
  ["concat with a vector as axis", "", concat(undefined, "ax: tensor<int32, [1]> = [0]"), /axis is a tensor/],
  ["cast on M1", "chip=h13", castSelect("fp16"), /cast is not on the engine/],
  ["cast on M1 with cast=accept", "chip=h13;cast=accept", castSelect("fp16")],
  ["cast on M3", "chip=h15", castSelect("fp16")],
  [
    "single-op=refuse",
    "single-op=refuse",
    main(
      `${fp16(4)} x`,
      ["ax: int32 = 0", no("ex"), `${fp16(4)} y = cumsum(axis = ax, exclusive = ex, reverse = ex, x = x)`],
      "y",
    ),
    /cumsum alone/,
  ],
  [
    "softmax-channels=refuse",
    "softmax-channels=refuse",
    unary("softmax", [1, 24, 1, 64], ["ax: int32 = 1"], "axis = ax, "),
    /softmax over 24 channels/,
  ],
  [
    "softmax over 32 channels",
    "softmax-channels=refuse",
    unary("softmax", [1, 32, 1, 64], ["ax: int32 = 1"], "axis = ax, "),
  ],
  [
    "two attentions",
    "",
    main(
      `${fp16(4)} x`,
      [
        `${fp16(4)} a = scaled_dot_product_attention(query = x)`,
        `${fp16(4)} y = scaled_dot_product_attention(query = a)`,
      ],
      "y",
    ),
    /not used in network/,
  ],
  [
    "repetitions of 5",
    "",
    main(`${fp16(4)} x`, [ints("r", 5), `${fp16(20)} y = tile(reps = r, x = x)`], "y"),
    /tile: 5 times/,
  ],
  ["repetitions of 12", "", main(`${fp16(4)} x`, [ints("r", 12), `${fp16(48)} y = tile(reps = r, x = x)`], "y")],
  ["padding of channels", "", padding([0, 0, 1, 0, 0, 0, 0, 0], [1, 3, 4, 4]), /pad on the channel axis/],
  ["padding of columns", "", padding([0, 0, 0, 0, 0, 0, 1, 0], [1, 2, 4, 5])],

  // Contractions.
  ["a convolution", "", conv({})],
  ["conv's bias from macOS 26 on", "chip=h15;os=26", conv({ bias: true })],
  ["conv's bias before", "chip=h15;os=15", conv({ bias: true }), /conv: bias/],
  ["conv-bias=refuse", "conv-bias=refuse", conv({ bias: true }), /conv: bias/],
  ["a kernel 14 wide on M3", "chip=h15", conv({ kernel: [1, 14] }), /kernel 1x14/],
  ["a kernel 14 wide on M5", "", conv({ kernel: [1, 14] })],
  ["a kernel 16 wide on M5", "", conv({ kernel: [1, 16] }), /kernel 1x16/],
  ["a kernel 30 high on M1", "chip=h13", conv({ kernel: [30, 1] }), /kernel 30x1/],
  ["a computed weight", "", conv({ runtime: true })],
  ["a computed weight in a batch", "", conv({ runtime: true, batch: 2 }), /helper application lost/],
  ["a matrix product", "", matmul([4, 8], [8, 2], [4, 2])],
  ["a matrix product of depth 2", "", matmul([1, 2, 1, 4, 8], [1, 2, 1, 8, 2], [1, 2, 1, 4, 2]), /depth above 1/],
  ["transpose and matrix product of rank 5", "", transposed(), /transpose and matmul at rank 5/],
  [
    "a computed weight of linear",
    "",
    main(
      `${fp16(4, 8)} x, ${fp16(2, 8)} w`,
      [`b: ${fp16(2)} = ${list(2)}`, `${fp16(4, 2)} y = linear(x = x, weight = w, bias = b)`],
      "y",
    ),
    /linear: weight is not a constant/,
  ],

  // Norms.
  ["computed gains", "", norm(64, "runtime"), /gamma is not a constant/],
  ["computed gains with runtime-gains=accept", "runtime-gains=accept", norm(64, "runtime")],
  ["one varying gain of 1024 on M2", "chip=h14", norm(1024, "varying"), /layer_norm of 1024 with one varying gain/],
  ["one varying gain of 512 on M2", "chip=h14", norm(512, "varying")],
  ["one varying gain of 1024 on M5", "", norm(1024, "varying")],
  ["gains that do not vary on M2", "chip=h14", norm(1024, "uniform")],

  // Combinations.
  ["a reduction times 0", "", timesZero("0x0p+0"), /mul of a reduction and 0/],
  ["a reduction times 1", "", timesZero("0x1p+0")],
  ["square and sigmoid at width 100", "", squared(100), /square before sigmoid at width 100/],
  ["square and sigmoid at width 64", "", squared(64)],
  ["slice-index=refuse", "slice-index=refuse", sliceByIndex(), /slice_by_index of a function input/],
  ["slice_by_index", "", sliceByIndex()],
];

function castSelect(to: string): string {
  const t = fp16(4);
  const statements = [
    `d: string = "${to}"`,
    "tensor<bool, [4]> m = greater(x = x, y = w)",
    `${t} y = cast(dtype = d, x = m)`,
  ];
  return main(`${t} x, ${t} w`, statements, "y");
}

function padding(pad: readonly number[], out: readonly number[]): string {
  const constants = [ints("p", ...pad), 'm: string = "constant"', "v: fp16 = 0x0p+0"];
  return main(
    `${fp16(1, 2, 4, 4)} x`,
    [...constants, `${fp16(...out)} y = pad(pad = p, mode = m, constant_val = v, x = x)`],
    "y",
  );
}

function transposed(): string {
  const statements = [
    ints("p", 0, 1, 2, 4, 3),
    no("tx"),
    `${fp16(1, 1, 1, 8, 4)} t = transpose(perm = p, x = x)`,
    `${fp16(1, 1, 1, 8, 8)} y = matmul(transpose_x = tx, transpose_y = tx, x = t, y = x)`,
  ];
  return main(`${fp16(1, 1, 1, 4, 8)} x`, statements, "y");
}

function norm(extent: number, kind: "runtime" | "varying" | "uniform"): string {
  const t = fp16(2, extent);
  const g = fp16(extent);
  const varying = `[0x1p-1, ${Array(extent - 1)
    .fill("0x1p+0")
    .join(", ")}]`;
  const gamma = kind === "runtime" ? [] : [`g: ${g} = ${kind === "varying" ? varying : list(extent)}`];
  const statements = [...gamma, `b: ${g} = ${list(extent, "0x0p+0")}`, ints("ax", -1), "e: fp16 = 0x1p-10"];
  const call = `${t} y = layer_norm(axes = ax, beta = b, epsilon = e, gamma = g, x = x)`;
  return main(kind === "runtime" ? `${t} x, ${g} g` : `${t} x`, [...statements, call], "y");
}

function timesZero(value: string): string {
  const statements = [
    ints("ax", -1),
    yes("kd"),
    `z: fp16 = ${value}`,
    `${fp16(4, 1)} r = reduce_sum(axes = ax, keep_dims = kd, x = x)`,
    `${fp16(4, 1)} y = mul(x = r, y = z)`,
  ];
  return main(`${fp16(4, 8)} x`, statements, "y");
}

function squared(width: number): string {
  const t = fp16(4, width);
  return main(`${t} x`, [`${t} s = square(x = x)`, `${t} y = sigmoid(x = s)`], "y");
}

function sliceByIndex(): string {
  const constants = [ints("b", 0, 2), ints("e", 2, 6), ints("s", 1, 1)];
  return main(
    `${fp16(2, 8)} x`,
    [...constants, `${fp16(2, 4)} y = slice_by_index(begin = b, end = e, stride = s, x = x)`],
    "y",
  );
}

describe("a compile", () => {
  test.each(cases.map(([title, ...rest]) => ({ title, rest })))("$title", ({ rest: [config, functions, says] }) => {
    raw.configure(config);
    using s = start({ functions });
    const code = s.compile();
    if (says === undefined) {
      expect(code, code === 0 ? "" : raw.message()).toBe(0);
    } else {
      expect(code).not.toBe(0);
      expect(raw.message()).toMatch(says);
      expect(raw.message()).toMatch(/ANECCompile\(\) FAILED|InvalidMILProgram|helper application lost/);
    }
    expect(raw.report().filter((line) => line.startsWith("violation"))).toEqual([]);
  });

  test("of the verbose dialect works everywhere", () => {
    const text = `program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios16>(tensor<fp16, [2, 3]> x) {
        tensor<fp16, []> k = const()[name = tensor<string, []>("k"), val = tensor<fp16, []>(0x1p+1)];
        tensor<fp16, [2, 3]> y = mul(x = x, y = k)[name = tensor<string, []>("y")];
    } -> (y);
}
`;
    for (const { name, env } of profiles) {
      raw.configure(env.ESPRESSO_DOUBLE);
      using s = start({ text });
      s.operation().port("in", "x").port("out", "y").encode();
      s.bits("buffer in x").fill(0x4000);
      expect(s.execute(), name).toBe(0);
      expect(s.bits("buffer out y")[0], name).toBe(0x4400);
    }
    expect(raw.report()).toEqual([]);
  });

  test("counts the bytes of weights once each", () => {
    const bits = new Uint8Array(Uint16Array.of(0x3c00, 0x3c00, 0x3c00, 0x3c00).buffer);
    const writer = new BlobWriter();
    writer.add("fp16", bits);
    const t = fp16(4);
    const blob = `${t}(BLOBFILE(path = string("@model_path/weights.bin"), offset = uint64(64)))`;
    const constant = (name: string) => `${t} ${name} = const()[name = string("${name}"), val = ${blob}];`;
    const functions = main(`${t} x`, [`${t} z = mul(x = x, y = v)`, `${t} y = mul(x = z, y = w)`], "y");
    const compile = (config: string) => {
      raw.configure(config);
      const text = program(functions.replace("{\n", `{\n${constant("v")}\n${constant("w")}\n`));
      using s = start({ text, weights: { "weights.bin": writer.finish() } });
      return s.compile();
    };
    expect(compile("max-weights=8"), raw.message()).toBe(0);
    expect(compile("max-weights=7")).not.toBe(0);
    expect(raw.message()).toMatch(/8 bytes of weights/);
  });

  test("of a text with a wrong header, or of none", () => {
    const compile = (text: string, config = "") => {
      raw.configure(config);
      using s = start({ text });
      expect(s.compile()).not.toBe(0);
      return raw.message();
    };
    expect(compile(program(sample).replace("program(1.3)", "program(1.1)"))).toMatch(/program\(1.1\) with opset ios18/);
    expect(compile(program(sample).replace(/\[buildInfo.*\n/, ""))).toMatch(/no buildInfo/);
    expect(compile(program(sample).replace("y = w)", "y = )"))).toMatch(/model\.mil/);
    expect(compile("nonsense")).toMatch(/no function main/);
  });
});

/** First value of y where every input holds one value. */
function run(config: string, functions: string, ...inputs: number[]): number {
  raw.configure(config);
  using s = start({ functions });
  s.operation();
  for (const [i, bits] of inputs.entries()) s.port("in", "xw"[i]!, 65536).bits(`buffer in ${"xw"[i]}`).fill(bits);
  s.port("out", "y", 65536).encode();
  expect(s.execute()).toBe(0);
  return s.bits("buffer out y")[0]!;
}

describe("an execute computes otherwise", () => {
  const [infinity, large, edge] = [0x7c00, 0x6c00, 0x6bff]; // inf, 4096, 4094
  const slice = (begin: readonly number[], size: readonly number[]) =>
    main(
      `${fp16(4, 8)} x`,
      [ints("b", ...begin), ints("s", ...size), `${fp16(...size)} y = slice_by_size(begin = b, size = s, x = x)`],
      "y",
    );

  test("slices that begin behind the first column, above 4094, on M1 and M2", () => {
    expect(run("chip=h13", slice([0, 1], [4, 4]), large)).toBe(infinity);
    expect(run("chip=h14", slice([0, 1], [4, 4]), large | 0x8000)).toBe(infinity | 0x8000);
    expect(run("chip=h13", slice([0, 1], [4, 4]), edge)).toBe(edge);
    expect(run("chip=h13", slice([1, 0], [2, 8]), large)).toBe(large);
    expect(run("chip=h15", slice([0, 1], [4, 4]), large)).toBe(large);
  });

  test("matrix products beyond 32752 with silicon=1", () => {
    const product = matmul([4, 8], [8, 2], [4, 2])
      .replace(/\by\b/g, "w")
      .replace(/\bz\b/g, "y")
      .replace("w = w", "y = w")
      .replace('"w"', '"y"');
    const [x, w] = [0x7000, 0x3c00]; // 8192 and 1, 8 terms
    expect(run("", product, 0x6e00, w)).toBe(0x7a00); // 6144 * 8 = 49152
    expect(run("silicon=1", product, 0x6e00, w)).toBe(infinity);
    expect(run("silicon=1", product, x - 0x800, w)).toBe(0x7400); // 2048 * 8
    expect(run("chip=h13;m1-zeros=1", product, w, w)).toBe(0);
    expect(run("chip=h14;m1-zeros=1", product, w, w)).toBe(0x4800);
  });

  test("reduce_sum in fp16 with narrow-sum=1", () => {
    const sum = main(
      `${fp16(1, 4096)} x`,
      [ints("ax", -1), yes("kd"), `${fp16(1, 1)} y = reduce_sum(axes = ax, keep_dims = kd, x = x)`],
      "y",
    );
    expect(run("", sum, 0x3c00)).toBe(0x6c00);
    expect(run("narrow-sum=1", sum, 0x3c00)).toBe(0x6800); // 2048 + 1 is 2048
  });
});

test("an epsilon below the range of fp16 is 0", () => {
  const functions = main(`${fp16(4)} x`, ["e: fp16 = 0x1p-30", `${fp16(4)} y = rsqrt(epsilon = e, x = x)`], "y");
  expect(run("", functions, 0)).toBe(0x7c00);
});

test("profiles are chips with systems, and none has a misspelt setting", () => {
  expect(profiles.map(({ name }) => name)).toEqual([
    "m1-os14",
    "m1-os26",
    "m2-os15",
    "m3-os15",
    "m4-os26",
    "m5-os26",
    "m5-os27",
  ]);
});
