// What commands print: data on stdout, notes on stderr. Text from files and arguments is made harmless for terminals here.

import picocolors from "picocolors";

const { NO_COLOR, FORCE_COLOR, TERM } = process.env;

/** Colours for a stream: none without a terminal, under NO_COLOR or on dumb terminals; FORCE_COLOR wants them anywhere. */
function colorsFor(stream: NodeJS.WriteStream) {
  return picocolors.createColors(
    !NO_COLOR && ((Boolean(FORCE_COLOR) && FORCE_COLOR !== "0") || (stream.isTTY && TERM !== "dumb")),
  );
}

/** Colours for what goes to stdout. */
export const colors = colorsFor(process.stdout);
const noteColors = colorsFor(process.stderr);

const escapes: Readonly<Record<string, string>> = { "\n": "\\n", "\t": "\\t", "\r": "\\r" };

/** `text` on one line, with control characters (and those that turn writing around) as escapes: it may come from a hostile file. */
export function clean(text: string): string {
  return text.replace(/[\p{Cc}\u2028-\u202e\u2066-\u2069]/gu, (char) => {
    const code = char.charCodeAt(0).toString(16);
    return escapes[char] ?? (code.length > 2 ? `\\u${code}` : `\\x${code.padStart(2, "0")}`);
  });
}

/** A line of text on stdout, as it is. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** One object on a line of stdout. Numbers that JSON lacks become "NaN", "Infinity", "-Infinity". */
export function printJson(value: object): void {
  print(toJson(value));
}

/** JSON in which the numbers that it lacks are "NaN", "Infinity", "-Infinity". */
export function toJson(value: object, indent?: number): string {
  return JSON.stringify(
    value,
    (_key, item: unknown) => (typeof item === "number" && !Number.isFinite(item) ? String(item) : item),
    indent,
  );
}

/** A line on stderr that informs. */
export function note(text: string): void {
  process.stderr.write(`${noteColors.dim(clean(text))}\n`);
}

/** A line on stderr that says what went wrong. */
export function complain(text: string): void {
  process.stderr.write(`${noteColors.red("anekit:")} ${clean(text)}\n`);
}

export interface Column {
  readonly title: string;
  readonly align?: "left" | "right";
  /** For a last column that may be cut where a terminal ends. */
  readonly crop?: true;
  /** Colours a cell, for last columns. */
  readonly paint?: (cell: string) => string;
}

/** Rows under titles, as wide as they need to be. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map(clean));
  const widths = columns.map(({ title }, at) =>
    cells.reduce((most, row) => Math.max(most, row[at]!.length), title.length),
  );
  const last = columns.length - 1;
  const before = widths.slice(0, last).reduce((sum, width) => sum + width + 2, 0);
  const room = columns[last]!.crop && process.stdout.isTTY ? Math.max(10, process.stdout.columns - before) : Infinity;
  const line = (row: readonly string[], paint = (cell: string) => cell) =>
    row
      .map((cell, at) => {
        if (columns[at]!.align === "right") return cell.padStart(widths[at]!);
        if (at < last) return cell.padEnd(widths[at]!);
        return paint(cell.length > room ? `${cell.slice(0, room - 1)}…` : cell);
      })
      .join("  ")
      .trimEnd();
  const titles = line(columns.map(({ title }) => title));
  return [colors.dim(titles), ...cells.map((row) => line(row, columns[last]!.paint))].join("\n");
}

/** Labels and what belongs to them, one or several lines each. */
export function fields(entries: readonly (readonly [label: string, lines: string | readonly string[]])[]): string {
  const width = Math.max(...entries.map(([label]) => label.length));
  const lines = entries.flatMap(([label, value]) =>
    [value].flat().map((text, at) => `${colors.dim((at === 0 ? label : "").padEnd(width))}  ${clean(text)}`),
  );
  return lines.join("\n");
}

/** Four significant digits: `0.1235`, `-1.5`, `1.2e-8`. */
export function formatNumber(value: number): string {
  return Number.isInteger(value) && Math.abs(value) < 1e15 ? String(value) : String(Number(value.toPrecision(4)));
}

/** `652 B`, `1.9 kB`, `4.2 GB`; powers of 1000. */
export function formatBytes(count: number): string {
  return scaled(count, ["B", "kB", "MB", "GB", "TB", "PB"]);
}

/** `652`, `12.3 k`, `4.2 G`; powers of 1000. */
export function formatCount(count: number): string {
  return scaled(count, ["", "k", "M", "G", "T", "P"]);
}

function scaled(count: number, units: readonly string[]): string {
  let at = 0;
  while (count >= 999.5 && at < units.length - 1) {
    count /= 1000;
    at++;
  }
  const digits = at === 0 || count >= 99.95 ? 0 : 1;
  return `${count.toFixed(digits)} ${units[at]}`.trimEnd();
}

/** `0.4 ms`, `12 ms`, `3.2 s`, `2 min 5 s`. */
export function formatDuration(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** `1 input`, `3 inputs`. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
