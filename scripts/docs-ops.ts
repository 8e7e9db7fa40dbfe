// Writes docs/ops.md from the operator records and the oracle's first use of each; with --check it only compares.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Chip, representativeChips } from "../src/chips/index.ts";
import type { DType } from "../src/core/dtype.ts";
import { formatAval } from "../src/core/errors.ts";
import { toMilName } from "../src/core/names.ts";
import type { Aval } from "../src/core/shape.ts";
import {
  type AttrSpec,
  type AttrSpecs,
  type AttrValue,
  checkUse,
  flattenOperands,
  type Op,
  type OperandSpec,
  type OperandSpecs,
  operandsByName,
} from "../src/ops/define.ts";
import { opFamilies } from "../src/ops/index.ts";
import { cases } from "../test/oracle/index.ts";
import type { CaseInput, OpCase } from "../test/oracle/types.ts";

const target = fileURLToPath(new URL("../docs/ops.md", import.meta.url));
const chips = Object.entries(representativeChips) as [string, Chip][];
const entries = (op: Op) => ({
  inputs: Object.entries(op.inputs as OperandSpecs) as [string, OperandSpec][],
  attrs: Object.entries(op.attrs as AttrSpecs) as [string, AttrSpec][],
});

// ---- columns ----

function operandText([name, spec]: [string, OperandSpec]): string {
  const mark = spec.variadic ? ", one or more" : spec.optional ? ", optional" : "";
  return `\`${toMilName(name)}\` ${spec.dtypes.join(" ")}${mark}`;
}

const kinds: Readonly<Record<AttrSpec["kind"], string>> = {
  bool: "bool",
  bools: "bool list",
  int: "int32",
  uint: "uint32",
  ints: "int32 list",
  float: "float",
  string: "string",
};

function attrText([name, spec]: [string, AttrSpec]): string {
  const type = spec.choices === undefined ? kinds[spec.kind] : spec.choices.map((choice) => `"${choice}"`).join(" or ");
  const value =
    spec.presence === "required"
      ? "required"
      : spec.presence === "derived"
        ? "from the shapes"
        : `default ${JSON.stringify(spec.default)}`;
  return `\`${toMilName(name)}\` ${type}, ${value}`;
}

function fixedText(op: Op): string[] {
  return Object.entries(op.milFixed ?? {}).map(
    ([name, values]) =>
      `\`${name}\` read as ${values.reads.map((value) => JSON.stringify(value)).join(" or ")}, written so where the opset has it`,
  );
}

// ---- support ----

interface Use {
  readonly flat: readonly (Aval | undefined)[];
  readonly attrs: Readonly<Record<string, AttrValue>>;
}

/** One case of the oracle as operands: "float" is fp16, the chip's arithmetic, where the case allows it. */
function useOf(op: Op, example: OpCase): Use {
  const float: DType = example.dtypes !== undefined && !example.dtypes.includes("fp16") ? "fp32" : "fp16";
  const aval = ({ shape, dtype }: CaseInput): Aval => ({
    dtype: dtype === undefined || dtype === "float" ? float : dtype,
    shape,
  });
  const named = Object.fromEntries(
    Object.entries(example.inputs).map(([name, input]) => [
      name,
      Array.isArray(input) ? (input as readonly CaseInput[]).map(aval) : aval(input as CaseInput),
    ]),
  );
  return {
    flat: flattenOperands<Aval>(op, named),
    attrs: (example.attrs ?? {}) as Readonly<Record<string, AttrValue>>,
  };
}

function supportOf(op: Op, chip: Chip, { flat, attrs }: Use): true | string {
  const complete = checkUse(op, flat, attrs).attrs;
  return op.support?.(chip, operandsByName(op, flat), complete) ?? true;
}

function useText(op: Op, { flat, attrs }: Use): string {
  const operands = flat.flatMap((aval) => (aval === undefined ? [] : [formatAval(aval)]));
  const given = Object.entries(attrs).map(([name, value]) => `${toMilName(name)}=${JSON.stringify(value)}`);
  return `\`${op.name}(${[...operands, ...given].join(", ").replaceAll("|", "\\|")})\``;
}

/** "A13, A14" for a run of families, in order. */
function familiesText(names: readonly string[]): string {
  return names.length > 2 ? `${names[0]} to ${names.at(-1)}` : names.join(" and ");
}

function supportNotes(op: Op, uses: readonly Use[]): { cells: string[]; notes: string[] } {
  const byReason = new Map<string, { first: boolean; families: string[] }>();
  const cells = chips.map(([family, chip]) => {
    let cell = "yes";
    for (const [index, use] of uses.entries()) {
      const verdict = supportOf(op, chip, use);
      if (verdict === true) continue;
      if (index === 0) cell = "no";
      else if (cell === "yes") cell = "some";
      if (cell === "no" && index > 0) continue;
      const entry = byReason.get(verdict) ?? { first: index === 0, families: [] };
      if (!entry.families.includes(family)) entry.families.push(family);
      byReason.set(verdict, entry);
    }
    return cell;
  });
  const notes = [...byReason].map(
    ([reason, { first, families }]) =>
      `\`${op.name}\` on ${familiesText(families)}${first ? "" : ", in some uses"}: ${reason}.`,
  );
  return { cells, notes };
}

// ---- page ----

function familyText(family: string, ops: readonly Op[]): string {
  const rows: string[] = [];
  const details: string[] = [];
  const notes: string[] = [];
  for (const op of ops) {
    const examples = cases[op.name]?.accepts ?? [];
    if (examples.length === 0) throw new Error(`docs-ops: test/oracle has no accepted case of ${op.name}`);
    const uses = examples.map((example) => useOf(op, example));
    const { inputs, attrs } = entries(op);
    const support = supportNotes(op, uses);
    const cells = [
      `\`${op.name}\``,
      inputs.map(operandText).join("<br>"),
      [...attrs.map(attrText), ...fixedText(op)].join("<br>"),
      op.vjp === null ? "no" : "yes",
      ...support.cells,
    ];
    rows.push(`| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`);
    details.push(`- \`${op.name}\`: ${op.doc.replace(/\s+/g, " ")} Asked about: ${useText(op, uses[0]!)}.`);
    for (const [name, constant] of Object.entries(op.constantOnChip ?? {})) {
      notes.push(`- \`${op.name}\`, operand \`${toMilName(name)}\`: must be constant: ${constant!.reason}.`);
    }
    notes.push(...support.notes.map((note) => `- ${note}`));
  }
  return [
    `## ${family}`,
    `| operator | operands | attributes | derivative | ${chips.map(([name]) => name).join(" | ")} |`,
    `|---|---|---|---|${chips.map(() => "---|").join("")}`,
    ...rows,
    "",
    ...details,
    ...(notes.length === 0 ? [] : ["", "On the chip:", "", ...notes]),
  ]
    .join("\n")
    .replace(/^(## .*)\n/, "$1\n\n");
}

const families = Object.entries(opFamilies).map(([family, records]) =>
  familyText(family, Object.values(records as Readonly<Record<string, Op>>)),
);
const count = Object.values(opFamilies).reduce((sum, records) => sum + Object.keys(records).length, 0);
const page = `<!-- Generated by \`npm run docs:ops\` from src/ops; do not edit. -->

# Operators

The ${count} operators that programs are made of, with their names in MIL; in TypeScript the same names are camelCase.
Operands listed with several dtypes share one dtype, except those with a fixed one.

A13 to A16 are the chip families (${chips.map(([family, { name, product }]) => `${family}: asked of ${name}, ${product}`).join("; ")}).
"yes", "some" and "no" are the answers of the records' rules, taken from published sheets, not from runs on hardware: "no" for the
use named under "Asked about", with fp16 wherever the operator takes it; "some" where another tested use is refused. Limits common
to all operators (rank, extents, dtypes of ports) come on top. Operands said to be constant come with an equivalent graph for when they are trained or computed.

${families.join("\n\n")}
`;

if (process.argv.includes("--check")) {
  let current = "";
  try {
    current = readFileSync(target, "utf8");
  } catch {}
  if (current !== page) {
    process.stderr.write("docs-ops: docs/ops.md is not what the records say: run npm run docs:ops and commit it\n");
    process.exit(1);
  }
} else {
  writeFileSync(target, page);
}
