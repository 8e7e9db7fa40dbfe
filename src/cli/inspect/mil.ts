// Inspection of MIL text: what the syntax tree says of any program, and more where the operators' records accept it.

import type { Chip } from "../../chips/index.ts";
import { AnekitError, UnsupportedError } from "../../core/errors.ts";
import { bytesOf, countOperators } from "../../engines/report.ts";
import { instructionOperands, type Program } from "../../ir/program.ts";
import type { MilFunction, MilType, MilValue } from "../../mil/ast.ts";
import { blobDTypes } from "../../mil/blob.ts";
import { parseMil } from "../../mil/parser.ts";
import { readFunction } from "../../mil/reader.ts";
import { legalize } from "../../passes/legalize.ts";
import { checkChip, type Problem } from "../../passes/support.ts";
import { readMilText, weightsBeside } from "../files.ts";
import { colors, fields, formatBytes, formatCount, plural, table } from "../output.ts";
import type { Inspection, Recogniser } from "./recogniser.ts";

export const mil: Recogniser = {
  format: "MIL program",
  matches(subject) {
    if (subject.kind !== "file") return false;
    if (subject.path.endsWith(".mil")) return true;
    const text = new TextDecoder("utf-8").decode(subject.head); // drops a byte-order mark
    return /^(?:\s|\/\/[^\n]*\n)*program\s*\(/.test(text);
  },
  inspect({ path }, { chip }): Inspection {
    const file = parseMil(readMilText(path), path);
    const functions = file.functions.map((each) => describe(each, path, chip));
    const build = file.buildInfo.map(([key, value]) => `${key} ${value}`.trim());
    const head = fields([
      ["file", `MIL program ${file.version}, ${plural(functions.length, "function")}`],
      ...(build.length > 0 ? [["built by", wrap(build)] as const] : []),
    ]);
    return {
      json: {
        format: "mil",
        version: file.version,
        buildInfo: Object.fromEntries(file.buildInfo),
        functions: functions.map(({ json }) => json),
      },
      text: [head, ...functions.map(({ text }) => text)].join("\n\n"),
    };
  },
};

interface Port {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
}

/** Blobs of one weight file that a function refers to. */
interface BlobUse {
  count: number;
  sizeBytes: number;
}

function describe(source: MilFunction, path: string, chip: Chip | undefined): Inspection {
  const { name, opset } = source;
  const types = new Map<string, MilType>();
  for (const binding of [...source.params, ...source.statements.flatMap(({ results }) => results)])
    types.set(binding.name, binding.type);
  const ports = (list: readonly { readonly name: string }[]): Port[] =>
    list.map(({ name }) => ({
      name,
      dtype: types.get(name)?.dtype ?? "undefined",
      shape: types.get(name)?.shape ?? [],
    }));
  const inputs = ports(source.params);
  const outputs = ports(source.results);
  const operators = countStatements(source);
  const weightFiles = blobUses(source);
  const total = Object.values(operators).reduce((sum, count) => sum + count, 0);

  let program: Program | undefined;
  let reason: string | undefined;
  try {
    program = readFunction(source, path, { weights: weightsBeside(path) });
  } catch (error) {
    if (!(error instanceof AnekitError)) throw error;
    reason = error.message;
  }
  const constantBytes = program?.constants.reduce((sum, { value }) => sum + bytesOf(program.values[value]!), 0);
  const multiplyAdds = program && multiplyAddsOf(program);
  const problems = program && chip && problemsOn(chip, program);

  const width = Math.max(...[...inputs, ...outputs].map((port) => port.name.length));
  const portLines = (list: readonly Port[]) =>
    list.map((port) => `${port.name.padEnd(width)}  ${port.dtype}[${port.shape.join(", ")}]`);
  const entries: [string, string | string[]][] = [
    ["function", `${name}<${opset}>`],
    ["inputs", orNone(portLines(inputs))],
    ["outputs", portLines(outputs)],
    ["operators", [`${total} in all`, ...wrap(Object.entries(operators).map(([op, count]) => `${op} ${count}`))]],
    [
      "weights",
      orNone(
        [...weightFiles].map(
          ([file, { count, sizeBytes }]) => `${file}  ${plural(count, "blob")}, ${formatBytes(sizeBytes)}`,
        ),
      ),
    ],
  ];
  if (program !== undefined) {
    entries.push(["constants", `${program.constants.length}, ${formatBytes(constantBytes!)}`]);
    entries.push(["multiply-adds", `${formatCount(multiplyAdds!)} a run`]);
  } else {
    entries.push(["not runnable", reason!]);
  }
  const support = chip === undefined ? "" : `\n\n${chipText(chip, program, problems)}`;
  return {
    json: {
      name,
      opset,
      inputs,
      outputs,
      operators,
      weightFiles: [...weightFiles].map(([file, use]) => ({ file, ...use })),
      runnable: program !== undefined,
      ...(reason !== undefined && { reason }),
      ...(program !== undefined && { constants: program.constants.length, constantBytes, multiplyAdds }),
      ...(chip !== undefined && { chip: { name: chip.name, product: chip.product, family: chip.family, problems } }),
    },
    text: fields(entries) + support,
  };
}

/** What keeps a program from a chip after all that can be rewritten for it was. */
function problemsOn(chip: Chip, program: Program): Problem[] {
  try {
    legalize(program, chip);
    return [];
  } catch (error) {
    if (!(error instanceof UnsupportedError)) throw error;
    const problems = checkChip(program, chip);
    return problems.length > 0
      ? problems
      : [{ instruction: undefined, where: error.op ?? "program", reason: error.message }];
  }
}

const orNone = (lines: string[]) => (lines.length === 0 ? ["none"] : lines);

/** Operators with how often they occur, most frequent first. */
function countStatements({ statements }: MilFunction): Record<string, number> {
  const counts = new Map<string, number>();
  for (const { op } of statements) if (op !== "const") counts.set(op, (counts.get(op) ?? 0) + 1);
  return Object.fromEntries([...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)));
}

function blobUses({ statements }: MilFunction): Map<string, BlobUse> {
  const uses = new Map<string, BlobUse>();
  const visit = (value: MilValue): void => {
    if (value.kind === "tuple") for (const item of value.items) visit(item);
    if (value.kind !== "blob") return;
    const use = uses.get(value.path) ?? { count: 0, sizeBytes: 0 };
    use.count++;
    use.sizeBytes += blobBytes(value.type);
    uses.set(value.path, use);
  };
  for (const { args, attributes } of statements) for (const { value } of [...args, ...attributes]) visit(value);
  return uses;
}

function blobBytes({ dtype, shape }: MilType): number {
  const bits = Object.hasOwn(blobDTypes, dtype) ? blobDTypes[dtype as keyof typeof blobDTypes].bits : 8;
  return Math.ceil(shape.reduce((product, extent) => product * extent, bits) / 8);
}

/** Multiply-adds of one run: those of matrix products and convolutions. */
function multiplyAddsOf(program: Program): number {
  return program.instructions.reduce((sum, instruction) => {
    const operands = instructionOperands(instruction, (value) => program.values[value]!);
    const out = program.values[instruction.results[0]!]!;
    return sum + (instruction.op.flops?.(operands, instruction.attrs, out) ?? 0) / 2;
  }, 0);
}

/** Items on as few lines of at most 72 characters as they need. */
function wrap(items: readonly string[]): string[] {
  const lines: string[] = [];
  for (const item of items) {
    const last = lines.at(-1);
    if (last === undefined) {
      lines.push(item);
    } else if (last.length + item.length < 70) {
      lines[lines.length - 1] = `${last}, ${item}`;
    } else {
      lines[lines.length - 1] = `${last},`;
      lines.push(item);
    }
  }
  return lines;
}

function chipText(chip: Chip, program: Program | undefined, problems: readonly Problem[] | undefined): string {
  const label = `${chip.name} (${chip.product}, family ${chip.family})`;
  if (program === undefined || problems === undefined) return fields([["chip", `${label}: not checked, see above`]]);
  const verdict = problems.length === 0 ? "no obstacle is known" : plural(problems.length, "obstacle");
  const rows = [
    ...obstacleRows(problems.filter(({ instruction }) => instruction === undefined)),
    ...Object.entries(countOperators(program)).flatMap(([op, count]) => {
      const own = problems.filter(({ instruction, where }) => instruction !== undefined && where === op);
      const fit = count - new Set(own.map(({ instruction }) => instruction)).size;
      return [...obstacleRows(own), ...(fit === 0 ? [] : [[op, String(fit), "yes"]])];
    }),
  ];
  const columns = [
    { title: "operator" },
    { title: "count", align: "right" },
    { title: "on this chip", paint: paintAnswer },
  ] as const;
  return `${fields([["chip", `${label}: ${verdict}`]])}\n\n${table(columns, rows)}`;
}

function paintAnswer(cell: string): string {
  return cell.startsWith("yes") ? colors.green(cell) : cell.replace(/^no/, colors.yellow("no"));
}

const shownReasons = 5;

/** One row for each different obstacle, the most frequent first; the rest is counted. */
function obstacleRows(problems: readonly Problem[]): string[][] {
  const counts = new Map<string, { readonly problem: Problem; count: number }>();
  for (const problem of problems) {
    const key = `${problem.where}: ${problem.reason}`;
    const entry = counts.get(key) ?? { problem, count: 0 };
    entry.count++;
    counts.set(key, entry);
  }
  const sorted = [...counts.values()].sort((a, b) => b.count - a.count);
  const rows = sorted
    .slice(0, shownReasons)
    .map(({ problem, count }) => [problem.where, String(count), `no: ${problem.reason}`]);
  const rest = sorted.slice(shownReasons).reduce((sum, { count }) => sum + count, 0);
  return rest === 0 ? rows : [...rows, ["", String(rest), "no, for reasons of the same kind (--json lists all)"]];
}
