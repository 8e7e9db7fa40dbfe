// What a run on hardware says of every fact about the Neural Engine: confirmed, contradicted by what was seen, or not decided and why.
// A name that is missing here, or that no longer exists, does not compile.

import type { ChipFamily } from "../../chips/index.ts";
import type { Fact, FactName } from "../../engines/ane/facts.ts";
import type { Seen } from "./group.ts";
import type { CheckResult, Examination } from "./runner.ts";

export interface Verdict {
  readonly verdict: "confirmed" | "contradicted" | "not decided";
  /** What was seen, or why nothing follows. */
  readonly why: string;
}

/** What the groups found out, and where. */
export interface Evidence {
  readonly groups: readonly { readonly name: string; readonly checks: readonly CheckResult[] }[];
  /** Null for a chip that is not in the table. */
  readonly family: ChipFamily | null;
  /** Major version of macOS. */
  readonly macos: number | null;
  readonly root: boolean;
  /** What the library and the compiler answered, where they were asked. */
  readonly examination: Examination | null;
}

type Decide = (look: Look) => Verdict;

const confirmed = (why = ""): Verdict => ({ verdict: "confirmed", why });
const contradicted = (why: string): Verdict => ({ verdict: "contradicted", why });
const undecided = (why: string): Verdict => ({ verdict: "not decided", why });

/** Thrown where the evidence is missing. */
class Missing extends Error {}

/** Reads evidence; what is not there ends the decision. */
class Look {
  readonly evidence: Evidence;
  constructor(evidence: Evidence) {
    this.evidence = evidence;
  }

  check(group: string, name: string): CheckResult {
    const found = this.evidence.groups.find((each) => each.name === group)?.checks.find((each) => each.name === name);
    if (found === undefined) throw new Missing(`"${group}: ${name}" was not run`);
    if (found.status === "skipped") throw new Missing(`"${group}: ${name}" was skipped: ${found.what ?? ""}`);
    return found;
  }

  /** Checks of a group whose names start so. */
  all(group: string, start: string): readonly CheckResult[] {
    const checks = this.evidence.groups.find((each) => each.name === group)?.checks ?? [];
    return checks.filter(({ name, status }) => name.startsWith(start) && status !== "skipped" && status !== "failed");
  }

  #seen(group: string, name: string, key: string): Seen[string] {
    const { seen, status, what } = this.check(group, name);
    const value = seen?.[key];
    if (value === undefined) throw new Missing(`"${group}: ${name}" ${status}: ${what ?? `it does not tell ${key}`}`);
    return value;
  }

  number(group: string, name: string, key: string): number {
    return this.#seen(group, name, key) as number;
  }

  numbers(group: string, name: string, key: string): readonly number[] {
    return this.#seen(group, name, key) as readonly number[];
  }

  text(group: string, name: string, key: string): string {
    return String(this.#seen(group, name, key));
  }
}

// ------------------------------------------------------------------------------------------------- decisions

/** The driver relies on it in every program. */
const ran: Decide = (look) => {
  const { status, what } = look.check("start", "x + 1");
  return status === "passed" ? confirmed() : undecided(`no program ran: ${what ?? ""}`);
};

/** Confirmed where a check passed, contradicted where it failed. */
const passes =
  (group: string, name: string): Decide =>
  (look) => {
    const { status, what } = look.check(group, name);
    return status === "failed" ? contradicted(what ?? "it failed") : confirmed();
  };

const holds = (condition: boolean, why: string): Verdict => (condition ? confirmed(why) : contradicted(why));

const show = (value: number) => (Object.is(value, -0) ? "-0" : String(Number(value.toPrecision(6))));
const list = (values: readonly number[]) => values.map(show).join(", ");

const isZero = (value: number) => Object.is(value, 0);

/** Largest of a figure over checks. */
function best(look: Look, group: string, start: string, key: string): number {
  const figures = look.all(group, start).flatMap(({ seen }) => (typeof seen?.[key] === "number" ? [seen[key]] : []));
  if (figures.length === 0) throw new Missing(`no "${group}: ${start}..." was measured`);
  return Math.max(...figures);
}

const between = (value: number, low: number, high: number, unit: string) =>
  holds(value >= low && value <= high, `${show(value)} ${unit}`);

type ProbeFinding = NonNullable<Examination["probe"]>["findings"][number];

/** What became of one of the probe's programs. */
function probed({ evidence: { examination } }: Look, name: string): ProbeFinding {
  const found = examination?.probe?.findings.find((each) => each.name === name);
  if (found === undefined) throw new Missing(`the probe did not ask for "${name}"`);
  if (found.detail.startsWith("not asked")) throw new Missing(`the probe left out "${name}": ${found.detail}`);
  return found;
}

/** Of a form of the compiler's language: that it is taken and computed rightly. */
const taken =
  (form: string): Decide =>
  (look) => {
    const { outcome, detail } = probed(look, form);
    return holds(outcome === "right", `${outcome}: ${detail}`);
  };

/** That it is refused. */
const refused =
  (form: string): Decide =>
  (look) => {
    const { outcome, detail } = probed(look, form);
    return holds(outcome === "refused", `${outcome}: ${detail}`);
  };

/** Messages of compiles that the compiler refused. */
function refusals({ evidence: { examination, groups } }: Look): string[] {
  const ofProbe = examination?.probe?.findings.filter(({ outcome }) => outcome === "refused") ?? [];
  const ofChecks = groups.flatMap(({ checks }) => checks.flatMap(({ what }) => (what === undefined ? [] : [what])));
  return [...ofProbe.map(({ detail }) => detail), ...ofChecks].filter((text) => text.includes("e5_compiler_compile"));
}

const macos =
  (version: number): Decide =>
  (look) => {
    const here = look.evidence.macos;
    if (here !== version)
      return undecided(here === null ? "the version of macOS is not known" : `this is macOS ${here}`);
    const { status, what } = look.check("start", "x + 1");
    return status === "passed" ? confirmed() : contradicted(what ?? "no program ran");
  };

const failureTexts =
  /ANECCompile\(\) FAILED|Some ops are not supported on any of the specified backends|InvalidMILProgram/;

// Reasons that several facts share.
const rawCalls = "it takes e5rt calls that the driver never makes";
const refusedBefore = "anekit refuses or rewrites such programs before the compiler sees them";
const halves = "anekit itself refuses what lies beyond, so only one side could be tried";

/** Every fact, with what decides it or why a program of anekit cannot. */
export const decisions: Readonly<Record<FactName, Decide | string>> = {
  "espresso-loads": ran,
  "no-entitlement": (look) => (look.evidence.root ? undecided("this was run as the superuser") : ran(look)),
  "runs-on-ane": "the bundle lies in a folder of the driver's; powermetrics shows the power of the engine during a run",
  "same-process": rawCalls,
  "fork-is-unsafe": "Node starts no process without exec",
  "one-lane": "an engine of anekit runs one program at a time",

  "symbols-plain": "the driver does not tell under which name it found them",
  "symbols-complete": ({ evidence: { examination } }) => {
    if (!examination?.symbols) return undecided("the library's functions were not counted");
    const { needed, missing } = examination.symbols;
    if (needed.length > 0) return contradicted(`missing: ${needed.join(", ")}`);
    return confirmed(missing.length === 0 ? "" : `others, which it can do without, are missing: ${missing.join(", ")}`);
  },
  "zero-is-success": ran,
  "create-out-first": ran,
  "compile-out-last": ran,
  "release-by-address": ran,
  "release-clears-handle": "the driver does not look at a handle that it released",
  "buffer-types": rawCalls,
  "errors-on-stderr": "a report holds no text of other programs' output",
  "device-mask": rawCalls,
  "target-unchecked": rawCalls,

  "ports-by-name": "every port was found by its name; an unknown one is never asked for",
  "buffer-granule": passes("operators", "add 7 and 7"), // ports of 14 bytes
  "buffer-address-stable": passes("state", "counts in place"),
  "encode-once": passes("state", "counts in place"),
  "prepare-needs-encode": rawCalls,
  "reset-needs-use": rawCalls,
  "bind-before-encode": rawCalls,
  "operations-in-order": "a stream of the driver's holds one operation",
  "release-order-free": rawCalls,

  "mil-modern": taken("modern syntax"),
  "mil-verbose": taken("verbose syntax"),
  "build-info-free": "anekit writes no buildInfo",
  "literals-in-calls": "it takes two programs that differ in their spelling",
  "hex-floats": ran,
  "port-fp16": ran,
  "port-fp32-refused": refusedBefore,
  "port-uint8": "anekit has no uint8 ports",
  "unused-input-refused": refused("unreadInputs"),
  "outputs-many": passes("operators", "split in 3 equal parts"),
  "gelu-native": taken("gelu"),
  "concat-native": taken("concat"),
  "reduce-mean-native": taken("reduceMean"),
  "conv-bias-refused": refused("convBias"),
  "softmax-channels": taken("softmaxChannels"),
  "sdpa-mask-ignored": "anekit has no such operator",

  "blob-offset": passes("start", "two constant weights"),
  "blob-path": passes("start", "two constant weights"),
  "blob-aligned": passes("start", "two constant weights"),

  "rank-5": halves,
  "width-16384": halves,
  "width-65536": halves,
  "channels-65536": halves,
  "kernel-width-13": halves,
  "kernel-width-15": halves,
  "runtime-conv-batch": "it crashes a service that other programs use",
  "arg-extent": refusedBefore,
  "rank5-transposed-matmul": refusedBefore,
  "gain-between-reshapes": "anekit writes no norm in that form",
  "square-then-nonlinearity": refusedBefore,
  "reduce-times-zero": refusedBefore,
  "programs-128": (look) => {
    const name = "130 programs at once";
    const loaded = look.number("errors", name, "loaded");
    return undecided(`${loaded} of 130 were compiled; the driver unloads idle ones before the system's limit is met`);
  },
  "compiles-unlimited": (look) => {
    const name = "many compiles, each released";
    const count = look.number("errors", name, "compiles");
    if (look.check("errors", name).status === "failed") return contradicted(`compile ${count + 1} failed`);
    return count > 130 ? confirmed(`${count} compiles`) : undecided(`only ${count} were tried`);
  },

  "round-half-even": (look) =>
    holds(
      look.text("numerics", "rounding", "reading") === "half to even",
      list(look.numbers("numerics", "rounding", "sums")),
    ),
  "wide-accumulation": (look) => {
    const sum = look.number("numerics", "accumulation", "ones16000");
    return holds(sum === 16000, show(sum));
  },
  "four-lane-tiles": (look) => {
    const sum = look.number("numerics", "accumulation", "mixed5120");
    return holds(sum === 5116, show(sum));
  },
  "cancellation-survivors": (look) => {
    const magnitudes = look.numbers("numerics", "cancelling triples", "magnitudes");
    const counts = look.numbers("numerics", "cancelling triples", "counts");
    const of = (v: number) => counts[magnitudes.indexOf(v)];
    return holds(of(4090) === 16 && of(4096) === 4, magnitudes.map((v, i) => `${v}: ${counts[i]}`).join(", "));
  },
  "reduce-sum-narrow": (look) => {
    const sum = look.number("numerics", "reductions", "ones4096");
    return holds(sum < 4096, show(sum));
  },
  "sum-2049": (look) => {
    const sum = look.number("numerics", "reductions", "sum2049");
    return holds(sum === 2050, show(sum));
  },
  "product-error-grows": (look) => {
    const published = new Map([
      [512, 0.0026],
      [1024, 0.0055],
      [2048, 0.0121],
      [4096, 0.0272],
    ]);
    const extents = look.numbers("numerics", "product errors", "extents");
    const errors = look.numbers("numerics", "product errors", "errors");
    const near = extents.every((extent, i) => Math.abs(errors[i]! / published.get(extent)! - 1) <= 0.1);
    return holds(near, extents.map((extent, i) => `${extent}: ${show(errors[i]!)}`).join(", "));
  },
  "product-error-absolute": (look) => {
    const error = look.number("numerics", "product errors", "scaledBy64");
    return holds(error < 0.001, show(error));
  },
  "small-terms-lost": (look) => {
    const sum = look.number("numerics", "small terms", "sum");
    return holds(sum === 0, show(sum));
  },
  "product-ceiling": (look) => {
    const [below, above] = ["product32752", "product32768"].map((key) => look.number("numerics", "ceilings", key));
    return holds(below === 32752 && above === Infinity, `${below} and ${above}`);
  },
  "elementwise-range": (look) => {
    const products = look.numbers("numerics", "ceilings", "elementwise");
    const sum = look.number("numerics", "ceilings", "reduction");
    return holds(
      products[0] === 60000 && products[1] === 65504 && sum === 65504,
      `${list(products)}; sum ${show(sum)}`,
    );
  },
  "width-slice-clamps": "anekit rewrites such slices on the chips that it speaks of",
  "width-slice-exact": (look) => {
    const passed = look.numbers("numerics", "width slices", "lastAxisOffset");
    return holds(passed.at(-1) === 65504, list(passed));
  },
  "nan-becomes-infinity": (look) => {
    const sum = look.number("numerics", "special values", "nanPlusZero");
    const relu = look.numbers("numerics", "special values", "relu")[0]!;
    const sigmoid = look.numbers("numerics", "special values", "sigmoid")[0]!;
    return holds(sum === Infinity && relu === Infinity && sigmoid === 1, `${sum}, ${relu}, ${sigmoid}`);
  },
  "undefined-is-zero": (look) => {
    const keys = ["infMinusInf", "zeroTimesInf", "sqrtOfMinusOne", "rsqrtOfMinusOne", "logOfMinusOne"];
    const got = keys.map((key) => look.number("numerics", "special values", key));
    return holds(got.every(isZero), list(got));
  },
  "log-of-zero": (look) => {
    const got = look.number("numerics", "special values", "logOfZero");
    return holds(got === -45440, show(got));
  },
  "negative-zero-lost": (look) => {
    const negative = look.text("numerics", "zeros", "minusZeroPlusZeroIsNegative") === "true";
    const inverse = look.number("numerics", "zeros", "inverseOfMinusZero");
    return holds(!negative && inverse === Infinity, `${negative ? "-0" : "+0"} and ${inverse}`);
  },
  "subnormals-elementwise": (look) => {
    const [probed, added, multiplied] = ["probed", "keptByAdd", "keptByMul"].map((key) =>
      look.number("numerics", "subnormals", key),
    );
    return holds(added === probed && multiplied === probed, `${added} and ${multiplied} of ${probed} kept`);
  },
  "subnormals-in-products": (look) => {
    const reading = look.text("numerics", "subnormals", "reading");
    return holds(reading === (look.evidence.family === "A13" ? "flushed in products" : "kept"), reading);
  },
  "exp-overflow": (look) => {
    const exp = look.numbers("numerics", "exponential", "exp");
    const softmax = look.numbers("numerics", "exponential", "softmaxOfThousand");
    const right = Number.isFinite(exp[0]) && exp[1] === Infinity && softmax.every((p, i) => p === (i === 0 ? 1 : 0));
    return holds(right, `${list(exp)}; ${list(softmax)}`);
  },
  "activation-tables": (look) => {
    const published = { sigmoid: 0.0034, tanh: 0.0017, gelu: 0.0059 };
    const got = Object.entries(published).map(([name, error]) => {
      const worst = look.number("numerics", `table of ${name}`, "worstAbsolute");
      return { name, worst, near: Math.abs(worst - error) <= 0.25 * error };
    });
    return holds(
      got.every(({ near }) => near),
      got.map(({ name, worst }) => `${name} ${show(worst)}`).join(", "),
    );
  },
  "gelu-of-zero": (look) => {
    const got = look.number("numerics", "table of gelu", "ofZero");
    return holds(Math.abs(got + 0.000543) < 1e-6, show(got));
  },
  deterministic: (look) => {
    const different = look.number("numerics", "determinism", "different");
    const here = look.text("numerics", "determinism", "fingerprint");
    const there = look.text("state", "bits of a fixed program", "fingerprint");
    const runs = look.number("numerics", "determinism", "runs");
    return holds(
      different === 1 && here === there,
      `${different} results in ${runs} runs of 3 compiles; ${here === there ? "the same" : "another"} in a second process`,
    );
  },

  "output-on-input-buffer": (look) => {
    const probe = probed(look, "aliasing");
    if (probe.outcome !== "right") return contradicted(`${probe.outcome}: ${probe.detail}`);
    return passes("state", "counts in place")(look);
  },
  "reads-before-store": (look) => {
    if (look.evidence.examination?.probe?.aliasing !== true) return undecided("state is not replaced in place here");
    return passes("state", "twelve arrays and a factor of all")(look);
  },

  "dispatch-floor": (look) =>
    between(look.number("latency", "runSync, state only", "p50Ms"), 0.06, 0.23, "ms, the binding's own work included"),
  "compile-time": (look) => between(look.number("compile-time", "1 operator", "coldMs"), 20, 110, "ms"),
  "product-peak": (look) => between(best(look, "peak", "product of", "best"), 2.7, 10.8, "TFLOP/s"),
  "convolution-peak": (look) => between(best(look, "peak", "32 convolutions, 512", "best"), 17, 23, "TFLOP/s"),
  "weight-bandwidth": (look) => between(best(look, "bandwidth", "weights of", "gigabytesPerSecond"), 50, 145, "GB/s"),

  "compile-failure-text": (look) => {
    const all = refusals(look);
    const [first] = all;
    if (first === undefined) return undecided("the compiler refused nothing");
    const other = all.find((text) => !failureTexts.test(text));
    return other === undefined ? confirmed(first) : contradicted(other);
  },
  "recompile-after-failure": (look) => {
    const name = "compiling after a refusal";
    if (look.text("errors", name, "failedBefore") === "false") return undecided("the compiler refused nothing");
    const seconds = look.number("errors", name, "seconds");
    return holds(
      look.check("errors", name).status !== "failed" && seconds <= 16,
      `after ${show(seconds)} s, of which the driver waits 15`,
    );
  },

  "macos-14": (look) => {
    if (look.evidence.macos !== 14) return macos(14)(look);
    const refusal = refusals(look).find((text) => text.includes("Unknown opset"));
    if (refusal !== undefined) return confirmed(refusal);
    return look.check("start", "x + 1").status === "passed" ? contradicted("programs ran") : undecided("no such text");
  },
  "macos-15": macos(15),
  "macos-26": macos(26),
  "macos-27": macos(27),
};

/** A verdict on every fact. */
export function judgeFacts(facts: readonly Fact[], evidence: Evidence): ({ readonly name: string } & Verdict)[] {
  const look = new Look(evidence);
  return facts.map(({ name, families }) => ({ name, ...judgeFact(name as FactName, families, look) }));
}

function judgeFact(name: FactName, families: readonly ChipFamily[] | undefined, look: Look): Verdict {
  const { family } = look.evidence;
  if (families !== undefined && (family === null || !families.includes(family)))
    return undecided(`it speaks of ${families.join(", ")}${family === null ? "" : `, this chip is ${family}`}`);
  const decide = decisions[name];
  if (typeof decide === "string") return undecided(decide);
  try {
    return decide(look);
  } catch (error) {
    if (error instanceof Missing) return undecided(error.message);
    throw error;
  }
}
