// Commands as processes: exit codes, what goes to stdout and what to stderr, good and bad input.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { decodeNpy, encodeNpy, encodeSafetensors } from "../../src/data/index.ts";
import { anekit, fixtures, lines, milText, nodeArguments, type Outcome, root, temporaryFolder } from "./anekit.ts";

const file = temporaryFolder();
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
    const [version, help, runHelp, helpRun, none, command, option, excess] = (await all([
      ["--version"],
      ["--help"],
      ["run", "--help"],
      ["help", "run"],
      [],
      ["inspec"],
      ["run", vision, "--engin", "sim"],
      ["doctor", "now"],
    ])) as [Outcome, Outcome, Outcome, Outcome, Outcome, Outcome, Outcome, Outcome];
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
    expectUserError(excess, /too many arguments/);
  });

  it("takes a closed pipe as no error and a full disk as one", async () => {
    const run = (script: string) =>
      spawnSync("bash", ["-c", script, process.execPath, ...nodeArguments(["inspect", vision])], { cwd: root });
    const closed = run('"$0" "$@" | head -c 0; echo "${PIPESTATUS[0]}"');
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
    const long = file("long.mil", milText("tensor<fp16, [256, 256]> x", body.join("\n"), "t2999"));
    const output = file("interrupted", "");
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

  it("prints stacks and causes with --verbose, colours only where they are wanted", async () => {
    const broken = file(
      "blob.mil",
      relu.replace("relu(x = x)", "add(x = x, y = w)").replace(
        "{\n        t",
        `{
        tensor<fp16, [2, 3]> w = const()[name = string("w"), val = tensor<fp16, [2, 3]>(BLOBFILE(path = string("@model_path/none.bin"), offset = uint64(64)))];
        t`,
      ),
    );
    const [plain, verbose, forced, silenced] = (await Promise.all([
      anekit(["run", broken]),
      anekit(["run", broken, "--verbose"]),
      anekit(["run", broken], { env: { FORCE_COLOR: "1" } }),
      anekit(["run", broken], { env: { FORCE_COLOR: "1", NO_COLOR: "1" } }),
    ])) as [Outcome, Outcome, Outcome, Outcome];
    expectUserError(plain, /blob\.mil:4:\d+: .*none\.bin: no such file or folder/);
    expect(verbose.code).toBe(2);
    expect(verbose.stderr).toMatch(/^anekit: [^\n]*\nParseError: .*\n {4}at /);
    expect(verbose.stderr).toMatch(/\ncaused by: FileError: .*/);
    expect(forced.stderr).toContain("\u001b[");
    expect(silenced.stderr).not.toContain("\u001b[");
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
        join(file("results", ""), name),
      ]),
    );
    for (const [at, name] of programs.entries()) {
      const { code, stdout, stderr } = outcomes[at]!;
      expect({ name, code, stdout }).toEqual({ name, code: 0, stdout: "" });
      expect(lines(stderr)[0]).toMatch(/^engine: \w+ \(.+\)$/);
      const folder = join(file("results", ""), name);
      const expected = readdirSync(join(fixtures, "expected", name));
      expect(readdirSync(folder).sort()).toEqual(expected.sort());
      for (const result of expected) {
        const actual = decodeNpy(readFileSync(join(folder, result)), result);
        const wanted = decodeNpy(readFileSync(join(fixtures, "expected", name, result)), result);
        expect(actual.shape).toEqual(wanted.shape);
        const largest = wanted.data.reduce((most: number, value: number) => Math.max(most, Math.abs(value)), 0);
        const bound = ["code.npy", "winner.npy", "whole.npy"].includes(result) ? 0 : 0.005 * largest; // fixtures' README
        const worst = wanted.data.reduce(
          (most: number, value: number, i: number) => Math.max(most, Math.abs(value - actual.data[i]!)),
          0,
        );
        expect({ name, result, fits: worst <= bound, worst, bound }).toMatchObject({ fits: true });
      }
    }
    expect(decodeNpy(readFileSync(join(file("results", ""), "vision/probs.npy")), "probs").dtype).toBe("fp16");
  });

  it("shows results as a table or as JSON, the same for the same seed", async () => {
    const [table, json, again, other] = (await all([
      ["run", vision, "--random"],
      ["run", vision, "--json", "--random", "0"],
      ["run", vision, "--json", "--random=0"],
      ["run", vision, "--json", "--random", "1"],
    ])) as [Outcome, Outcome, Outcome, Outcome];
    expect(table.code).toBe(0);
    expect(lines(table.stdout)[0]).toMatch(/^result +type +min +max +mean +first values$/);
    expect(table.stdout).toMatch(/\nprobs +fp16\[1, 20, 5\] +0\.0\d+ /);
    const parse = ({ stdout }: Outcome) => lines(stdout).map((line) => JSON.parse(line));
    const objects = parse(json);
    expect(objects.map(({ output }) => output)).toEqual(["probs", "channel_mean", "woven", "feature_mean", undefined]);
    expect(objects[0]).toMatchObject({ dtype: "fp16", shape: [1, 20, 5], nonFinite: 0 });
    expect(objects.at(-1).summary).toMatchObject({ engine: "sim", instructions: 19 });
    expect(parse(again).slice(0, 4)).toEqual(objects.slice(0, 4));
    expect(parse(other)[0]).not.toEqual(objects[0]);
  });

  it("refuses bad arguments and files on one line", async () => {
    mkdirSync(file("folder", ""), { recursive: true });
    const x = file("x.npy", encodeNpy([2, 3], new Float32Array(6)));
    const flat = file("flat.npy", encodeNpy([6], new Float32Array(6)));
    const program = file("relu.mil", relu);
    const cases: [string[], string | RegExp][] = [
      [["run"], "missing required argument 'file'; see anekit run --help"],
      [["run", file("folder", "")], "is a folder, not a file"],
      [["run", file("binary.mil", Uint8Array.of(0xff, 0xfe))], "is not UTF-8 text: byte 0xff at offset 0"],
      [
        ["run", program],
        /no value for x; inputs: x fp16\[2, 3\]; for example: anekit run \S+ --input x=x\.npy, or add/,
      ],
      [["run", program, "--input", `z=${x}`], 'there is no input "z"; inputs: x fp16[2, 3]'],
      [["run", program, "--input", `x=${flat}`], "expected fp16[2, 3], the file holds fp32[6]"],
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

  it("reads no weight file outside the program's folder", async () => {
    const blob = readFileSync(join(fixtures, "vision.bin"));
    mkdirSync(file("inside", ""), { recursive: true });
    file("outside.bin", blob);
    symlinkSync("../outside.bin", file("inside/link", "")); // a name without a dot: only the path
    const program = (path: string, at: number) =>
      file(
        `inside/p${at}.mil`,
        milText(
          "tensor<fp16, [8, 4, 3, 2]> x",
          `        tensor<fp16, [8, 4, 3, 2]> w = const()[name = string("w"), val = tensor<fp16, [8, 4, 3, 2]>(BLOBFILE(path = string("${path}"), offset = uint64(64)))];
        tensor<fp16, [8, 4, 3, 2]> y = add(x = x, y = w)[name = string("y")];`,
          "y",
        ),
      );
    const paths = ["@model_path/../outside.bin", "/etc/passwd", "@model_path/link", "@model_path//etc/passwd"];
    const outcomes = await all(paths.map((path, at) => ["run", program(path, at), "--random"]));
    for (const outcome of outcomes) expectUserError(outcome, /leads outside the folder of the program/);
  });
});

describe("anekit inspect", () => {
  it("recognises formats by content, and says what is unknown", async () => {
    const tensors = new Map([["layer.weight", { dtype: "fp16", shape: [4, 3], data: new Uint16Array(12) } as const]]);
    const chunks = [...encodeSafetensors(tensors, { step: "7" })];
    const paths = [
      file("a.dat", readFileSync(vision)),
      file("b.dat", Buffer.concat(chunks)),
      file("c.dat", readFileSync(join(fixtures, "attention.bin"))),
      file("d.dat", encodeNpy([2], Float32Array.of(1, Number.POSITIVE_INFINITY))),
    ];
    const outcomes = await all([
      ...paths.map((path) => ["inspect", path, "--json"]),
      ["inspect", vision, "--chip", "h13"],
      ["inspect", file("e.dat", "nothing known")],
      ["inspect", root],
      ["inspect", file("cut.safetensors", Buffer.concat(chunks).subarray(0, 40))],
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
    expectUserError(outcomes[7]!, /header of \d+ bytes exceeds the file of 40/);
    expectUserError(outcomes[8]!, /--chip is for MIL programs/);
  });

  it("does not wait for the writer of a named pipe", async () => {
    if (process.platform === "win32") return;
    const pipe = file("pipe", "");
    execFileSync("mkfifo", [pipe]);
    for (const outcome of await all([
      ["inspect", pipe],
      ["run", pipe],
    ]))
      expectUserError(outcome, /is not a regular file/);
  });
});

describe("anekit doctor", () => {
  it("says what there is and never fails", async () => {
    const [text, json, odd] = (await Promise.all([
      anekit(["doctor"]),
      anekit(["doctor", "--json"]),
      anekit(["doctor", "--json"], { env: { ANEKIT_ENGINE: "abacus" } }),
    ])) as [Outcome, Outcome, Outcome];
    expect(text).toMatchObject({ code: 0, stderr: "" });
    expect(text.stdout).toMatch(/auto takes +sim: /);
    const diagnosis = JSON.parse(json.stdout);
    expect(diagnosis).toMatchObject({ node: process.version, arch: process.arch, auto: { engine: "sim" } });
    expect(diagnosis.engines.map(({ name }: { name: string }) => name)).toEqual(["ane", "cpu", "sim"]);
    expect(odd.code).toBe(0);
    expect(JSON.parse(odd.stdout)).toMatchObject({ auto: { engine: null, reason: expect.stringContaining("abacus") } });
  });
});
