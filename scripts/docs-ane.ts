// Writes the table of facts in docs/ane.md from src/engines/ane/facts.ts; with --check it only compares.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Fact, facts } from "../src/engines/ane/facts.ts";

const target = fileURLToPath(new URL("../docs/ane.md", import.meta.url));

function cell(text: string): string {
  return text.replaceAll("\\", "\\\\").replace(/[|<*_]/g, "\\$&");
}

function row({ name, statement, basis, source, families }: Fact): string {
  const where = families === undefined ? "" : ` (${families.join(", ")})`;
  return `| \`${name}\` | ${cell(statement)}${where} | ${basis} | ${cell(source)} |`;
}

const table = ["| fact | statement | basis | source |", "| --- | --- | --- | --- |", ...facts.map(row)].join("\n");
const page = readFileSync(target, "utf8");
const start = /<!-- facts: .* -->\n/.exec(page);
const end = page.lastIndexOf("<!-- /facts -->");
if (start === null || end < start.index)
  throw new Error("docs-ane: docs/ane.md has lost the comments around its table");
const next = `${page.slice(0, start.index + start[0].length)}${table}\n${page.slice(end)}`;

if (!process.argv.includes("--check")) writeFileSync(target, next);
else if (next !== page) {
  process.stderr.write("docs-ane: docs/ane.md is not what the facts say: run npm run docs:ane and commit it\n");
  process.exit(1);
}
