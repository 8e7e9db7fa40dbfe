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
const match = /(<!-- facts: .* -->\n)[^]*(<!-- \/facts -->)/.exec(page);
if (match === null) throw new Error("docs-ane: docs/ane.md has lost the comments around its table of facts");
const next = `${page.slice(0, match.index)}${match[1]!}${table}\n${page.slice(match.index + match[0].length - match[2]!.length)}`;

if (!process.argv.includes("--check")) writeFileSync(target, next);
else if (next !== page) {
  process.stderr.write("docs-ane: docs/ane.md is not what the facts say: run npm run docs:ane and commit it\n");
  process.exit(1);
}
