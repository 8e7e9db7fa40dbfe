// The report: what `--report` writes and bug reports carry. It names the machine's kind, never the machine or its owner.

import { execFile } from "node:child_process";
import { cpus, homedir, hostname, release, tmpdir, totalmem, userInfo } from "node:os";
import * as v from "valibot";
import { type Chip, chipFromBrand } from "../../chips/index.ts";
import { packageVersion } from "../../data/package.ts";
import { toJson } from "../output.ts";
import { statuses } from "./group.ts";
import { engineSchema, examinationSchema, numberSchema, seenSchema } from "./runner.ts";

/** Version of the schema; another one where a reader of this one would misread it. */
export const reportVersion = 1;

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const maybeText = v.nullable(v.string());

const checkSchema = v.strictObject({
  name: v.string(),
  status: v.picklist(statuses),
  ms: v.number(),
  what: v.exactOptional(v.string()),
  /** Units of the last place of fp16. */
  worst: v.exactOptional(numberSchema),
  bound: v.exactOptional(numberSchema),
  seen: v.exactOptional(seenSchema),
});

/** What a report holds. */
export const reportSchema = v.strictObject({
  anekitSelftest: v.literal(reportVersion),
  anekit: v.string(),
  node: v.string(),
  platform: v.string(),
  arch: v.string(),
  /** Version of the kernel. */
  kernel: v.string(),
  /** Null elsewhere. */
  macos: v.nullable(v.strictObject({ version: maybeText, build: maybeText })),
  /** Apple's name of the model, such as Mac16,8. */
  model: maybeText,
  cpu: maybeText,
  chip: v.nullable(v.strictObject({ name: v.string(), product: v.string(), family: v.string() })),
  memoryBytes: count,
  engine: v.strictObject({ ...engineSchema.entries, hardware: v.boolean() }),
  examination: v.nullable(examinationSchema),
  quick: v.boolean(),
  /** False where the run was interrupted or groups were left out. */
  complete: v.boolean(),
  groups: v.pipe(
    v.array(
      v.strictObject({
        name: v.string(),
        ms: v.number(),
        crashes: count,
        checks: v.pipe(v.array(checkSchema), v.readonly()),
      }),
    ),
    v.readonly(),
  ),
  summary: v.strictObject({ passed: count, failed: count, skipped: count, ms: v.number() }),
  facts: v.nullable(
    v.array(
      v.strictObject({
        name: v.string(),
        verdict: v.picklist(["confirmed", "contradicted", "not decided"]),
        why: v.string(),
      }),
    ),
  ),
  note: v.string(),
});
export type Report = v.InferOutput<typeof reportSchema>;

export type ReportedGroup = Report["groups"][number];

/** What is known of the machine. */
export type Machine = Pick<
  Report,
  "anekit" | "node" | "platform" | "arch" | "kernel" | "macos" | "model" | "cpu" | "chip" | "memoryBytes"
>;

function read(file: string, ...args: string[]): Promise<string | null> {
  return new Promise((resolve) => {
    execFile(file, args, { timeout: 5000 }, (error, stdout) => resolve(error === null ? stdout.trim() || null : null));
  });
}

/** Looks at the machine; ANEKIT_CHIP, passed by whoever reads the environment, names a chip as it does for the engine. */
export async function readMachine(chipOf: (name: string) => Chip, override?: string): Promise<Machine> {
  const isMac = process.platform === "darwin";
  const [version, build, model, brand] = isMac
    ? await Promise.all([
        read("sw_vers", "-productVersion"),
        read("sw_vers", "-buildVersion"),
        read("sysctl", "-n", "hw.model"),
        read("sysctl", "-n", "machdep.cpu.brand_string"),
      ])
    : [null, null, null, null];
  const chip = override ? chipOf(override) : brand === null ? undefined : chipFromBrand(brand);
  return {
    anekit: packageVersion(),
    node: process.version,
    platform: process.platform,
    arch: process.arch,
    kernel: release(),
    macos: isMac ? { version, build } : null,
    model,
    cpu: brand ?? cpus()[0]?.model.trim() ?? null,
    chip: chip === undefined ? null : { name: chip.name, product: chip.product, family: chip.family },
    memoryBytes: totalmem(),
  };
}

/** Words that name this machine or its user. */
function personalWords(): string[] {
  const words = [homedir(), tmpdir(), hostname(), hostname().split(".")[0]!, process.cwd()];
  try {
    words.push(userInfo().username);
  } catch {
    // a user without an entry
  }
  return words.filter((word) => word.length > 1 && word !== "/");
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}

/** A function that takes absolute paths, addresses and the names of the machine and its user out of a text. */
export function scrubber(words: readonly string[] = personalWords()): (text: string) => string {
  // The longest first: others may be parts of them.
  const longest = [...new Set(words)].sort((a, b) => b.length - a.length);
  const names = longest.map((word) => new RegExp(`(?<![A-Za-z0-9])${escapeRegExp(word)}(?![A-Za-z0-9])`, "gi"));
  return (text) => {
    // Paths first: names are parts of them.
    let clean = text.replace(
      /(?:file:\/\/)?(?<![\w)\]])(?:~|[A-Za-z]:)?[\\/](?:[^\s"'`,;:()<>\\/]+[\\/])+[^\s"'`,;:()<>]*/g,
      "<path>",
    );
    clean = clean.replace(/(?<!\w)0x[0-9a-f]{7,16}\b/gi, "<address>");
    for (const name of names) clean = clean.replace(name, "<name>");
    return clean;
  };
}

/** Fields whose text may come from elsewhere: messages of errors, of libraries, of the system. All others are anekit's own words. */
const foreign: ReadonlySet<string> = new Set(["what", "why", "reason", "detail", "note", "cpu", "model", "seen"]);

/** The same value with every text in it scrubbed that may be somebody else's. */
export function scrub<T>(value: T, clean: (text: string) => string = scrubber(), isForeign = false): T {
  if (typeof value === "string") return (isForeign ? clean(value) : value) as T;
  if (Array.isArray(value)) return value.map((item: unknown) => scrub(item, clean, isForeign)) as T;
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([key, item]: [string, unknown]) => [
    key,
    scrub(item, clean, isForeign || foreign.has(key)),
  ]);
  return Object.fromEntries(entries) as T;
}

/** Text of a report's file. */
export function reportText(report: Report): string {
  return `${toJson(report, 1)}\n`;
}
