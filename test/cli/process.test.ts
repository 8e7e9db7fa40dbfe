// Commands as processes: exit codes, what goes to stdout and what to stderr, good and bad input.

import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { decodeNpy, encodeNpy, encodeSafetensors } from "../../src/data/index.ts";
import { anekit, fixtures, lines, milText, nodeArguments, type Outcome, root, temporaryFolder } from "./anekit.ts";

vi.setConfig({ testTimeout: 60_000 }); // a process takes half a second, on a busy machine far more

const temporary = temporaryFolder();
const vision = join(fixtures, "vision.mil");
const relu = milText(
  "tensor<fp16, [2, 3]> x",
  '        tensor<fp16, [2, 3]> y = relu(x = x)[name = string("y")];',
  "y",
);

/** Runs commands two at a time: that is how many cores the smallest machine has. */
async function all(commands: readonly (readonly string[])[]): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const queue = [...commands.entries()];
  const worker = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) outcomes[next[0]] = await anekit(next[1]);
  };
  await Promise.all([worker(), worker()]);
  return outcomes;
}

/** A user's error: exit code 2, nothing on stdout, one line on stderr that matches. */
function expectUserError({ code, stdout, stderr }: Outcome, text: string | RegExp): void {
  expect(stderr).toMatch(text);
  expect({ code, stdout, lines: lines(stderr).filter((line) => !line.startsWith("engine: ")).length }).toEqual({
    code: 2,
    stdout: "",
    lines: 1,
  });
}

describe("anekit", () => {
  it("prints its version and its help on stdout, and tells usage errors on one line of stderr", async () => {
    const [version, help, runHelp, helpRun, none, command, option] = (await all([
      ["--version"],
      ["--help"],
      ["run", "--help"],
      ["help", "run"],
      [],
      ["inspec"],
      ["run", vision, "--engin", "sim"],
    ])) as [Outcome, Outcome, Outcome, Outcome, Outcome, Outcome, Outcome];
    const { version: expected } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(version).toEqual({ code: 0, stdout: `${expected}\n`, stderr: "" });
    expect(help).toMatchObject({ code: 0, stderr: "" });
    expect(help.stdout).toMatch(/run .*\n.*inspect .*\n.*doctor /);
    expect(runHelp).toMatchObject({ code: 0, stderr: "" });
    expect(runHelp.stdout).toContain("--input <name=file>");
    expect(helpRun).toEqual(runHelp);
    expect(none.code).toBe(2);
    expect(none.stdout).toBe("");
    expectUserError(command, /unknown command 'inspec' \(Did you mean inspect\?\); see anekit --help/);
    expectUserError(option, /unknown option '--engin' .*; see anekit run --help/);
  });

  it("takes a closed pipe as no error and a full disk as one", async () => {
    const run = (script: string) =>
      spawnSync("bash", ["-c", script, process.execPath, ...nodeArguments(["inspect", vision])], { cwd: root });
    const closed = run('"$0" "$@" | head -c 0; echo $PIPESTATUS');
    expect({ out: String(closed.stdout), err: String(closed.stderr) }).toEqual({ out: "0\n", err: "" });
    if (process.platform !== "linux") return;
    const full = run('"$0" "$@" > /dev/full; echo "$?"');
    expect(String(full.stdout)).toBe("2\n");
    expect(String(full.stderr)).toMatch(/^anekit: stdout: ENOSPC.*\n$/);
  });

  it("exits with 130 after Ctrl-C and leaves no temporary files", async () => {
    const body = ['        bool f = const()[name = string("f"), val = bool(false)];'];
    for (let i = 0; i < 3000; i++) {
      const x = i === 0 ? "x" : `t${i - 1}`;
      body.push(
        `        tensor<fp16, [256, 256]> t${i} = matmul(transpose_x = f, transpose_y = f, x = ${x}, y = x)[name = string("t${i}")];`,
      );
    }
    const long = temporary.write("long.mil", milText("tensor<fp16, [256, 256]> x", body.join("\n"), "t2999"));
    const output = temporary.path("interrupted");
    let killed = false;
    const { code, stdout, stderr } = await anekit(["run", long, "--random", "--output", output], {
      onStderr(text, kill) {
        if (killed || !text.startsWith("engine: ")) return;
        killed = true;
        setTimeout(() => kill("SIGINT"), 100);
      },
    });
    expect({ code, stdout }).toEqual({ code: 130, stdout: "" });
    expect(lines(stderr).at(-1)).toBe("anekit: interrupted");
    expect(readdirSync(output)).toEqual([]);
  });

  it("exits with 1, a stack and a request to report for its own bugs", async () => {
    const preload = "data:text/javascript,Math.imul=()=>{throw%20new%20TypeError('no%20product')}"; // breaks random numbers
    const { code, stdout, stderr } = await anekit(["run", vision, "--random"], {
      env: { NODE_OPTIONS: `--import ${preload}` },
    });
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(
      /^anekit: no product\nTypeError: no product\n {4}at [\s\S]*\nThis is a bug in anekit: please report/,
    );
  });

  it("prints stacks and causes with --verbose, colours only where they are wanted", async () => {
    const broken = temporary.write(
      "blob.mil",
      relu.replace("relu(x = x)", "add(x = x, y = w)").replace(
        "{\n        t",
        `{
        tensor<fp16, [2, 3]> w = const()[name = string("w"), val = tensor<fp16, [2, 3]>(BLOBFILE(path = string("@model_path/none.bin"), offset = uint64(64)))];
        t`,
      ),
    );
    const [plain, verbose, forced] = (await Promise.all([
      anekit(["run", broken]),
      anekit(["run", broken, "--verbose"], { env: { FORCE_COLOR: "1", NO_COLOR: "1", NODE_NO_WARNINGS: "1" } }),
      anekit(["run", broken], { env: { FORCE_COLOR: "1" } }),
    ])) as [Outcome, Outcome, Outcome];
    expectUserError(plain, /blob\.mil:4:\d+: .*none\.bin: no such file or folder/);
    expect(verbose.code).toBe(2);
    expect(verbose.stderr).toMatch(/^anekit: [^\n]*\nParseError: .*\n {4}at /);
    expect(verbose.stderr).toMatch(/\ncaused by: FileError: .*/);
    expect(forced.stderr).toContain("\u001b[");
    expect(verbose.stderr).not.toContain("\u001b[");
  });
});

describe("anekit run", () => {
  it("writes the results of the hand-written programs, which agree with the expected ones", async () => {
    const programs = ["vision", "attention", "mixed"];
    const outcomes = await all(
      programs.map((name) => [
        "run",
        join(fixtures, `${name}.mil`),
        ...readdirSync(join(fixtures, "inputs", name)).flatMap((input) => [
          "--input",
          `${input.replace(".npy", "")}=${join(fixtures, "inputs", name, input)}`,
        ]),
        "--output",
        join(temporary.path("results"), name),
      ]),
    );
    for (const [at, name] of programs.entries()) {
      const { code, stdout, stderr } = outcomes[at]!;
      expect({ name, code, stdout }).toEqual({ name, code: 0, stdout: "" });
      expect(lines(stderr)[0]).toMatch(/^engine: \w+ \(.+\)$/);
      const folder = join(temporary.path("results"), name);
      const expected = readdirSync(join(fixtures, "expected", name));
      expect(readdirSync(folder).sort()).toEqual(expected.sort());
      for (const result of expected) {
        const actual = decodeNpy(readFileSync(join(folder, result)), result);
        const wanted = decodeNpy(readFileSync(join(fixtures, "expected", name, result)), result);
        expect(actual.shape).toEqual(wanted.shape);
        const largest = Math.max(...wanted.data.map(Math.abs));
        const bound = ["code.npy", "winner.npy", "whole.npy"].includes(result) ? 0 : 0.005 * largest; // fixtures' README
        const worst = Math.max(...Array.from(wanted.data, (value, i) => Math.abs(value - actual.data[i]!)));
        expect({ name, result, fits: worst <= bound, worst, bound }).toMatchObject({ fits: true });
      }
    }
    expect(decodeNpy(readFileSync(join(temporary.path("results"), "vision/probs.npy")), "probs").dtype).toBe("fp16");
  });

  it("shows results as a table or as JSON", async () => {
    const [table, json] = (await all([
      ["run", vision, "--random"],
      ["run", vision, "--json", "--random=1", "--engine", "sim"],
    ])) as [Outcome, Outcome];
    expect(table.code).toBe(0);
    expect(lines(table.stdout)[0]).toMatch(/^result +type +min +max +mean +first values$/);
    expect(table.stdout).toMatch(/\nprobs +fp16\[1, 20, 5\] +0\.0\d+ /);
    const objects = lines(json.stdout).map((line) => JSON.parse(line));
    expect(objects.map(({ output }) => output)).toEqual(["probs", "channel_mean", "woven", "feature_mean", undefined]);
    expect(objects[0]).toMatchObject({ dtype: "fp16", shape: [1, 20, 5], nonFinite: 0 });
    expect(objects.at(-1).summary).toMatchObject({ engine: "sim", instructions: 19 });
  });

  it("refuses bad arguments and files on one line", async () => {
    const x = temporary.write("x.npy", encodeNpy([2, 3], new Float32Array(6)));
    const program = temporary.write("relu.mil", relu);
    const cases: [string[], string | RegExp][] = [
      [["run"], "missing required argument 'file'; see anekit run --help"],
      [["run", fixtures], "is a folder, not a file"],
      [
        ["run", program],
        /no value for x; inputs: x fp16\[2, 3\]; for example: anekit run \S+ --input x=x\.npy, or add/,
      ],
      [["run", program, "--input", `z=${x}`], 'there is no input "z"; inputs: x fp16[2, 3]'],
      [["run", program, "--input", `x=${x}`, "--input", `x=${x}`], 'Input "x" is given twice; see'],
      [["run", "--random", program], "write --random behind the file"],
      [["run", program, "--engine", "tpu", "--random"], '"tpu" is none of auto, ane, cpu, sim'],
      [["run", program, "--input", `x=${x}`, "--output", x], "is a file, not a folder"],
    ];
    const outcomes = await all(cases.map(([args]) => args));
    for (const [at, [, text]] of cases.entries()) {
      expectUserError(outcomes[at]!, text instanceof RegExp ? text : new RegExp(text.replace(/[[\]().*+?]/g, "\\$&")));
    }
  });
});

describe("anekit inspect", () => {
  it("recognises formats by content, and says what is unknown", async () => {
    const tensors = new Map([["layer.weight", { dtype: "fp16", shape: [4, 3], data: new Uint16Array(12) } as const]]);
    const chunks = [...encodeSafetensors(tensors, { step: "7" })];
    const paths = [
      temporary.write("a.dat", readFileSync(vision)),
      temporary.write("b.dat", Buffer.concat(chunks)),
      temporary.write("c.dat", readFileSync(join(fixtures, "attention.bin"))),
      temporary.write("d.dat", encodeNpy([2], Float32Array.of(1, Number.POSITIVE_INFINITY))),
    ];
    const outcomes = await all([
      ...paths.map((path) => ["inspect", path, "--json"]),
      ["inspect", vision, "--chip", "h13"],
      ["inspect", temporary.write("e.dat", "nothing known")],
      ["inspect", root],
      ["inspect", paths[1]!, "--chip", "h13"],
    ]);
    const [mil, safetensors, weights, npy] = outcomes.slice(0, 4).map(({ stdout, stderr, code }) => {
      expect({ stderr, code }).toEqual({ stderr: "", code: 0 });
      expect(lines(stdout)).toHaveLength(1);
      return JSON.parse(stdout);
    });
    expect(mil.functions[0]).toMatchObject({ name: "main", runnable: false, operators: { conv: 2, concat: 3 } }); // its weights are elsewhere
    expect(safetensors).toMatchObject({ format: "safetensors", parameters: 12, metadata: { step: "7" } });
    expect(safetensors.tensors).toEqual([{ name: "layer.weight", dtype: "F16", shape: [4, 3], sizeBytes: 24 }]);
    expect(weights.blobs).toHaveLength(15);
    expect(npy).toMatchObject({ dtype: "fp32", shape: [2], min: 1, nonFinite: 1, first: [1, "Infinity"] });
    expect(outcomes[4]!.stdout).toMatch(
      /multiply-adds +20\.2 k a run[\s\S]*chip +h13 \(M1, family A13\): [\s\S]*\nconv +2 +yes/,
    );
    expectUserError(outcomes[5]!, /is of no known format; known are: \.npy array/);
    expectUserError(outcomes[6]!, /is a folder of no known kind/);
    expectUserError(outcomes[7]!, /--chip is for MIL programs/);
  });

  it("does not wait for the writer of a named pipe", async () => {
    if (process.platform === "win32") return;
    const pipe = temporary.path("pipe");
    execFileSync("mkfifo", [pipe]);
    expectUserError(await anekit(["inspect", pipe]), /is not a regular file/);
  });
});

describe("anekit doctor", () => {
  it("says what there is and never fails", async () => {
    const [text, json] = (await Promise.all([
      anekit(["doctor"]),
      anekit(["doctor", "--json"], { env: { ANEKIT_ENGINE: "abacus" } }),
    ])) as [Outcome, Outcome];
    expect(text).toMatchObject({ code: 0, stderr: "" });
    const [name] = /(?<=auto takes +)\w+(?=: )/.exec(text.stdout)!;
    expect(text.stdout).toMatch(new RegExp(`^.*${name} +yes `, "m"));
    const diagnosis = JSON.parse(json.stdout);
    expect(json).toMatchObject({ code: 0, stderr: "" });
    expect(diagnosis).toMatchObject({ node: process.version, arch: process.arch });
    expect(diagnosis.engines.map(({ name }: { name: string }) => name)).toEqual(["ane", "cpu", "sim"]);
    expect(diagnosis.auto).toEqual({ engine: null, reason: expect.stringContaining("abacus") });
  });
});
