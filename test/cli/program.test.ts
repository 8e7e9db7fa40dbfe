// Programs as `run` and `inspect` use them: one run on an engine, and what keeps a program from a chip.

import { describe, expect, it } from "vitest";
import { chips } from "../../src/chips/index.ts";
import { mil } from "../../src/cli/inspect/mil.ts";
import { AbortedError, ConfigError, ShapeError } from "../../src/core/errors.ts";
import type { Buffer, Engine } from "../../src/engines/engine.ts";
import { openEngine } from "../../src/engines/open.ts";
import { runProgram } from "../../src/engines/run-program.ts";
import { readMil } from "../../src/mil/reader.ts";
import { checkChip } from "../../src/passes/support.ts";
import { milText, temporaryFolder } from "./anekit.ts";

const temporary = temporaryFolder();

const double = readMil(
  milText(
    "tensor<fp16, [2]> x, tensor<int32, [2]> k",
    `        tensor<fp16, [2]> y = add(x = x, y = x)[name = string("y")];
        tensor<int32, [2]> l = add(x = k, y = k)[name = string("l")];`,
    "y, l",
  ),
);

describe("runProgram", () => {
  const feeds = new Map([
    ["x", [1.5, 70000]],
    ["k", [3, -4]],
  ]);

  it("gives results by name, in the program's order", async () => {
    const { results } = await runProgram(double, feeds, await openEngine("sim"));
    expect([...results].map(([name, { dtype, data }]) => [name, dtype, [...data]])).toEqual([
      ["y", "fp16", [3, Number.POSITIVE_INFINITY]],
      ["l", "int32", [6, -8]],
    ]);
  });

  it("refuses feeds that do not fit, and stops before the run when aborted", async () => {
    const engine = await openEngine("sim");
    const run = (name: string, feed: number[]) => runProgram(double, new Map(feeds).set(name, feed), engine);
    await expect(run("z", [1])).rejects.toThrow(ConfigError);
    await expect(run("x", [1])).rejects.toThrow(ShapeError);
    await expect(run("k", [0.5, 1])).rejects.toThrow('input "k": value 0.5 at element 0 is not an int32');
    await expect(runProgram(double, new Map(), engine)).rejects.toThrow('no feed for "x", "k"');
    await expect(runProgram(double, feeds, engine, { signal: AbortSignal.abort() })).rejects.toThrow(AbortedError);
  });

  it("frees every buffer and the executable, also after a failure", async () => {
    const sim = await openEngine("sim");
    let open = 0;
    const counted = <T extends Disposable>(thing: T): T => {
      open++;
      const dispose = thing[Symbol.dispose].bind(thing);
      thing[Symbol.dispose] = () => {
        open--;
        dispose();
      };
      return thing;
    };
    const engine: Engine = {
      ...sim,
      allocate: (aval): Buffer => counted(sim.allocate(aval)),
      load: async (program) => counted(await sim.load(program)),
    };
    await runProgram(double, feeds, engine);
    await expect(runProgram(double, new Map(feeds).set("x", []), engine)).rejects.toThrow(ShapeError);
    expect(open).toBe(0);
  });
});

describe("checkChip", () => {
  const problems = (params: string, body: string, results: string, chip: keyof typeof chips = "h13") =>
    checkChip(readMil(milText(params, body, results)), chips[chip]).map(({ where, reason }) => `${where}: ${reason}`);
  const unary = (op: string, type: string, out = type) => `        ${out} y = ${op}[name = string("y")];`;

  it("finds nothing wrong with a plain program", () => {
    const t = "tensor<fp16, [1, 8, 1, 16]>";
    expect(problems(`${t} x`, unary("relu(x = x)", t), "y")).toEqual([]);
  });

  it("names ports and operands of dtypes that the chip lacks", () => {
    const t = "tensor<fp32, [4]>";
    expect(problems(`${t} x`, unary("relu(x = x)", t), "y")).toEqual([
      'input "x": fp32[4]: the chip has no fp32 ports; use fp16, or precision "mixed", which leaves fp32 to a CPU stage',
      'output "y": fp32[4]: the chip has no fp32 ports; use fp16, or precision "mixed", which leaves fp32 to a CPU stage',
      "relu: operand fp32[4]: the chip computes in fp16 only; use fp16, or a CPU stage",
    ]);
  });

  it("counts extents axis by axis: channels of rank 4 and transposes have limits of their own", () => {
    const relu = (shape: string, chip: "h13" | "h16") =>
      problems(`tensor<fp16, ${shape}> x`, unary("relu(x = x)", `tensor<fp16, ${shape}>`), "y", chip);
    expect(relu("[1, 16384]", "h13")).toEqual([]);
    expect(relu("[1, 16385]", "h13")).toContain(
      "relu: fp16[1, 16385]: extent 16385 of axis 1 exceeds 16384; split the axis",
    );
    expect(relu("[1, 16385]", "h16")).toEqual([]);
    expect(relu("[1, 65536, 1, 1]", "h13")).toEqual([]);
    expect(relu("[1, 65537, 1, 1]", "h13")[0]).toContain("exceeds 65536");
    const perm = "tensor<int32, [2]>([1, 0])";
    const body = unary(`transpose(perm = ${perm}, x = x)`, "tensor<fp16, [20000, 2]>");
    const outputs = problems("tensor<fp16, [2, 20000]> x", body, "y").map((text) => text.split(":")[0]);
    expect(outputs).toEqual(['output "y"']); // the input feeds nothing but the transpose
  });

  it("names operands that must be constant and are computed", () => {
    const body = unary("linear(weight = w, x = x)", "tensor<fp16, [1, 3]>");
    expect(problems("tensor<fp16, [1, 2]> x, tensor<fp16, [3, 2]> w", body, "y")).toEqual([
      "linear: weight is computed: the chip takes the weight of linear as a constant",
    ]);
  });

  it("refuses broadcasting along the depth of rank 5 on the first family, and everything on chips without MIL", () => {
    const body = unary("add(x = x, y = z)", "tensor<fp16, [1, 4, 2, 2, 2]>");
    const params = "tensor<fp16, [1, 4, 2, 2, 2]> x, tensor<fp16, [1, 1, 2, 2, 2]> z";
    expect(problems(params, body, "y")).toEqual([
      "add: operand fp16[1, 1, 2, 2, 2] is broadcast along axis 1 of rank 5; repeat it with tile",
    ]);
    expect(problems(params, body, "y", "h14")).toEqual([]);
    expect(problems(params, body, "y", "h12")).toEqual([
      "chip: h12 belongs to family OLDER, MIL programs run from A13 on",
    ]);
  });

  it("asks the records", () => {
    const body = unary("logical_and(x = x, y = x)", "tensor<bool, [2]>");
    expect(problems("tensor<bool, [2]> x", body, "y")).toContain(
      "logical_and: no chip has it; combine comparisons with nested select",
    );
  });
});

describe("inspection of MIL", () => {
  const inspect = async (text: string, chip?: keyof typeof chips) => {
    const path = temporary.write("inspected.mil", text);
    const subject = { kind: "file" as const, path, sizeBytes: text.length, head: new TextEncoder().encode(text) };
    expect(mil.matches({ ...subject, path: "unnamed" })).toBe(true);
    return mil.inspect(subject, chip === undefined ? {} : { chip: chips[chip] });
  };

  it("describes programs with operators that anekit lacks, and says that it cannot run them", async () => {
    const body = '        tensor<fp16, [2]> y = frobnicate(x = x)[name = string("y")];';
    const { json, text } = await inspect(`// a comment\n\n${milText("tensor<fp16, [2]> x", body, "y")}`, "h13");
    expect(json.functions).toMatchObject([{ runnable: false, operators: { frobnicate: 1 } }]);
    expect(text).toMatch(/not runnable +\S+:6:\d+: operator "frobnicate" is not supported/);
    expect(text).toMatch(/chip +h13 .*: not checked, see above/);
  });

  it("groups equal obstacles, counts the operators that have none, and cuts long lists", async () => {
    const params = ["tensor<fp16, [2]> x"];
    const lines = [];
    const results = ["b"];
    for (let i = 1; i <= 9; i++) {
      const t = `tensor<fp32, [${i}]>`;
      params.push(`${t} c${i}`);
      lines.push(`        ${t} r${i} = relu(x = c${i})[name = string("r${i}")];`);
      results.push(`r${i}`);
    }
    lines.push('        tensor<fp16, [2]> a = relu(x = x)[name = string("a")];');
    lines.push('        tensor<fp16, [2]> b = relu(x = a)[name = string("b")];');
    const { text } = await inspect(milText(params.join(", "), lines.join("\n"), results.join(", ")), "h14");
    expect(text).toContain("27 obstacles");
    expect(text).toMatch(/\nrelu +1 {2}no: operand fp32\[1\]: .*\n/);
    expect(text).toMatch(/\n +4 {2}no, for reasons of the same kind \(--json lists all\)\nrelu +2 {2}yes$/);
  });
});
