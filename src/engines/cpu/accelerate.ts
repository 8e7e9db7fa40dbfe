// Decides which matrix products Accelerate computes: by a probe in another process that compares and times both ways, once for each processor, system
// build, library, number of threads and set of instructions; its result is kept. What the probe finds on a Mac was not seen yet.

import * as v from "valibot";
import { messageOf } from "../../core/errors.ts";
import { Child } from "../os/child.ts";
import { findAccelerate, type System } from "../os/index.ts";
import { cacheFolder, describeSystem, libraryIdentity, readRecord, writeRecord } from "../os/records.ts";
import type { AccelerateAnswer, AccelerateRequest } from "./accelerate-process.ts";
import type { Isa } from "./isa/features.ts";
import { callFlops, kindOf, type ProductKind, productKinds, type Sgemm } from "./kernels/sgemm.ts";

/** Raised whenever the probe's products or their judgement change: kept results of another revision are not used. */
const probeRevision = 1;
const recordKind = "accelerate-probe";

const size = (m: number, k: number, n: number, batch = 1) => ({ m, k, n, batch });
/** Products that are timed: small to large of every kind. */
export const timedSizes = [
  ...[64, 128, 256, 512, 1024].map((extent) => size(extent, extent, extent)),
  size(64, 64, 64, 16),
  size(128, 64, 128, 16),
  size(256, 64, 256, 8),
  size(512, 128, 512, 4),
  size(1, 1024, 1024),
  size(4, 1024, 1024),
  size(8, 1024, 4096),
] as const;
const leastTimed = 64;
/** A product whose extents are multiples of nothing, in every order of its operands, with gaps between rows, in a batch. */
const checked: readonly AccelerateRequest[] = Array.from({ length: 8 }, (_, bits) => ({
  ...size(37, 29, 43, 3),
  byColumn: { a: (bits & 1) > 0, b: (bits & 2) > 0, c: (bits & 4) > 0 },
  gap: 5,
  timed: false,
}));
/** The largest product takes 20 ms on one core of today. */
const productLimitMs = 20_000;
/** All took 2 to 4 s on two cores. A first use must not wait for a library that is slow or stuck again and again. */
const probeLimitMs = 30_000;
/** Share of our time that theirs may take. */
const worthwhile = 1 / 1.1;

const outcomes = ["measured", "wrong", "failed", "crashed", "timed out"] as const;
const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const milliseconds = v.pipe(v.number(), v.finite(), v.minValue(0));
/** One line without what terminals would obey. */
const line = v.pipe(v.string(), v.maxLength(1000), v.regex(/^\P{Cc}*$/u));

const probeSchema = v.pipe(
  v.object({
    /** What was probed. */
    subject: v.array(v.string()),
    /** Anything but "measured" speaks against the library. */
    outcome: v.picklist(outcomes),
    /** The message, the product that was lost. */
    detail: line,
    /** Times of `timedSizes`, as they stand there. */
    measured: v.array(
      v.object({ m: count, n: count, k: count, batch: count, oursMs: milliseconds, theirsMs: milliseconds }),
    ),
    /** When, as an ISO date. */
    at: v.pipe(v.string(), v.isoTimestamp()),
  }),
  v.check(({ outcome, measured }) => {
    const isSame = ({ m, n, k, batch }: (typeof timedSizes)[number], i: number) => {
      const found = measured[i];
      return found?.m === m && found.n === n && found.k === k && found.batch === batch;
    };
    return outcome !== "measured" || (measured.length === timedSizes.length && timedSizes.every(isSame));
  }, "times of other products"),
);

/** What a probe found out. */
export type AccelerateProbe = v.InferOutput<typeof probeSchema>;

/** The kept result about a subject; undefined where there is none that can be used. */
export function readAccelerateProbe(folder: string, subject: readonly string[]): AccelerateProbe | undefined {
  return readRecord({
    folder,
    kind: recordKind,
    subject,
    parse: (value) => v.parse(probeSchema, value),
    isFailure: ({ outcome }) => outcome !== "measured",
  });
}

/** Operations of a call from which on every product measured of its kind was faster by a tenth; Infinity where the largest was not. */
export function thresholdsOf({ outcome, measured }: AccelerateProbe): Sgemm["from"] {
  const from: Record<ProductKind, number> = { "few rows": Infinity, batch: Infinity, single: Infinity };
  if (outcome !== "measured") return from;
  const sized = measured.map((each) => ({ ...each, batch: [each.batch] })).sort((a, b) => callFlops(b) - callFlops(a));
  for (const kind of productKinds) {
    for (const each of sized.filter((product) => kindOf(product) === kind)) {
      if (!(each.theirsMs <= worthwhile * each.oursMs)) break;
      from[kind] = callFlops(each);
    }
  }
  return from;
}

/** Asks the library in another process. Takes seconds; never takes this process down. */
async function probe(
  library: string,
  { isa, threads }: Host,
  subject: readonly string[],
  { progress = () => {}, limitMs = productLimitMs, allMs = probeLimitMs }: AccelerateOptions,
): Promise<AccelerateProbe> {
  const child = new Child<AccelerateRequest, AccelerateAnswer>({
    module: "engines/cpu/accelerate-process",
    args: [library, isa, String(threads)],
    limitMs,
  });
  const measured: AccelerateProbe["measured"] = [];
  const ended = (outcome: AccelerateProbe["outcome"], detail: string): AccelerateProbe => ({
    subject: [...subject],
    outcome,
    detail: detail.replaceAll(/\p{Cc}+/gu, " ").slice(0, 1000),
    measured,
    at: new Date().toISOString(),
  });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.stop();
  }, allMs);
  progress("comparing results");
  try {
    for (const request of [...checked, ...timedSizes.map((each) => ({ ...each, timed: true }))]) {
      const name = nameOf(request);
      if (request.timed) progress(`timing ${name}`);
      const answer = await child.run(request);
      if (late) return ended("timed out", `${name}: not done ${allMs / 1000} s after the first product began`);
      if ("outcome" in answer) return ended(answer.outcome, `${name}: ${answer.detail}`);
      if ("error" in answer) return ended("failed", `${name}: ${answer.error}`);
      const { difference, oursMs, theirsMs } = answer;
      if (!(difference <= 1))
        return ended("wrong", `${name}: ${difference.toPrecision(2)} times what rounding explains`);
      const { m, n, k, batch } = request;
      if (request.timed) measured.push({ m, n, k, batch, oursMs, theirsMs });
    }
    return ended("measured", "");
  } finally {
    clearTimeout(timer);
    child.close();
  }
}

function nameOf({ m, n, k, batch }: Pick<AccelerateRequest, "m" | "n" | "k" | "batch">): string {
  return `${batch === 1 ? "" : `${batch} x `}${m}x${k}x${n}`;
}

/** What the environment may ask for; see docs/engines.md. */
type Variable = "ANEKIT_ACCELERATE" | "ANEKIT_CACHE_DIR" | "XDG_CACHE_HOME";
export type AccelerateEnvironment = { readonly [K in Variable]?: string | undefined };

/** What the engine runs on. */
export interface Host {
  /** The processor's name. */
  readonly processor: string;
  readonly isa: Isa;
  readonly threads: number;
}

/** What was decided, for `doctor`. */
export interface AccelerateState {
  /** Whether some products go there. */
  readonly used: boolean;
  /** One line. */
  readonly reason: string;
  readonly library?: string;
  /** Operations of a product from which on it is used, by kind of product; null for never. */
  readonly from?: Readonly<Record<ProductKind, number | null>>;
  readonly probe?: AccelerateProbe;
}

export interface AccelerateOptions {
  /** Asks again, whatever is kept. */
  readonly fresh?: boolean;
  readonly progress?: (what: string) => void;
  /** For one product both ways, again and again. */
  readonly limitMs?: number;
  /** For all of them. */
  readonly allMs?: number;
}

/** Probes that are going on, by what they are about. */
const probing = new Map<string, Promise<AccelerateProbe>>();

/** Reads what was decided, or finds out. @throws {ConfigError} for a wrong ANEKIT_ACCELERATE. */
export async function decideAccelerate(
  system: System,
  host: Host,
  environment: AccelerateEnvironment,
  options: AccelerateOptions = {},
): Promise<{ readonly state: AccelerateState; readonly sgemm?: Sgemm }> {
  const found = findAccelerate(system, environment.ANEKIT_ACCELERATE);
  if ("reason" in found) return { state: { used: false, ...found } };
  const { library, sgemm: address } = found;
  const { processor, isa, threads } = host;
  const subject = [
    processor,
    await describeSystem(),
    libraryIdentity(library),
    `${threads} threads`,
    isa,
    `probe ${probeRevision}`,
  ];
  const folder = cacheFolder(environment);
  let result = options.fresh ? undefined : readAccelerateProbe(folder, subject);
  if (result === undefined) {
    const key = subject.join("\n");
    let going = probing.get(key);
    if (going === undefined) {
      going = probe(library, host, subject, options)
        .then((found) => {
          writeRecord(folder, recordKind, found);
          return found;
        })
        .finally(() => probing.delete(key));
      probing.set(key, going);
    }
    try {
      result = await going;
    } catch (error) {
      // No process can be started, or its module is not there, as in a bundle of somebody's: that says nothing of the library.
      return { state: { used: false, library, reason: `the probe cannot run: ${messageOf(error)}` } };
    }
  }
  const from = thresholdsOf(result);
  const used = productKinds.some((kind) => from[kind] < Infinity);
  const reason =
    result.outcome !== "measured"
      ? `the probe: ${result.outcome} (${result.detail})`
      : used
        ? `faster: ${productKinds.flatMap((kind) => (from[kind] < Infinity ? [`${kind} from ${formatFlops(from[kind])}`] : [])).join(", ")}`
        : "not faster than the engine's own code in any kind of product";
  const orNull = (kind: ProductKind) => (from[kind] < Infinity ? from[kind] : null);
  const state: AccelerateState = {
    used,
    reason,
    library,
    from: Object.fromEntries(productKinds.map((kind) => [kind, orNull(kind)])) as Record<ProductKind, number | null>,
    probe: result,
  };
  return { state, ...(used && { sgemm: { library: "Accelerate", address, from, least: leastTimed } }) };
}

function formatFlops(flops: number): string {
  return flops >= 1e9 ? `${(flops / 1e9).toPrecision(3)} Gflop` : `${(flops / 1e6).toPrecision(3)} Mflop`;
}
