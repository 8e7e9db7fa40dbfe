// The list of facts is consistent, and docs/ane.md refers only to facts that it has.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { type Fact, type FactName, facts } from "./facts.ts";

const names: readonly FactName[] = facts.map(({ name }) => name);
const page = readFileSync(new URL("../../../docs/ane.md", import.meta.url), "utf8");
const prose = page.slice(0, page.indexOf("<!-- facts:"));

test("names are kebab-case and unique", () => {
  for (const name of names) expect(name).toMatch(/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/);
  expect(new Set(names).size).toBe(names.length);
});

test("statements and sources are sentences without line breaks", () => {
  for (const { name, statement, source } of facts as readonly Fact[]) {
    expect(statement, name).toMatch(/^\S.*\.$/);
    expect(source, name).toMatch(/^\S.*[^.\s]$/);
  }
});

test("docs/ane.md names only facts that exist, and every fact once or more", () => {
  const spans = new Set([...prose.matchAll(/`([^`\n]+)`/g)].map(([, span]) => span!));
  const inKebabCase = [...spans].filter((span) => /^[a-z0-9]+(-[a-z0-9]+)+$/.test(span));
  expect(inKebabCase.filter((name) => !(names as readonly string[]).includes(name))).toEqual([]);
  expect(names.filter((name) => !spans.has(name))).toEqual([]);
});

test("docs/ane.md has the table of facts", () => {
  for (const name of names) expect(page.slice(prose.length)).toContain(`| \`${name}\` |`);
});
