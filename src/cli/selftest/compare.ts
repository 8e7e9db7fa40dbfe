// How far results are from the simulator's: in bits, or in units of the last place of fp16.

import { float16Bits } from "../../core/float16.ts";
import { compile, type Feed } from "../../index.ts";
import type { Tensor } from "../../tensor.ts";
import { type Bench, type Finding, Wrong } from "./group.ts";

/** Spacing of fp16 numbers at a magnitude. */
export function spacingAt(magnitude: number): number {
  if (magnitude < 2 ** -14) return 2 ** -24;
  return 2 ** (Math.floor(Math.log2(Math.min(magnitude, 65504))) - 10);
}

/** A bound: units of the last place, of the value itself or of the largest value in its array; and an absolute error that is allowed beside it. */
export interface Bound {
  readonly units: number;
  /** Sums cancel: their errors are those of their terms. */
  readonly ofLargest?: boolean;
  readonly absolute?: number;
}

export const exact: Bound = { units: 0 };

export interface Difference {
  /** Largest error in units; Infinity where one side is not finite and the other is. */
  readonly worst: number;
  /** The element where the bound is exceeded most, as text; undefined where all is well. */
  readonly what: string | undefined;
}

/** Compares values of fp16 with those that the simulator gave. */
export function difference(got: ArrayLike<number>, want: ArrayLike<number>, bound: Bound): Difference {
  if (got.length !== want.length) return { worst: Infinity, what: `${got.length} values, expected ${want.length}` };
  let largest = 0;
  for (let i = 0; bound.ofLargest && i < want.length; i++) {
    if (Number.isFinite(want[i])) largest = Math.max(largest, Math.abs(want[i]!));
  }
  let worst = 0;
  let excess = 0;
  let at = -1;
  for (let i = 0; i < got.length; i++) {
    const [g, w] = [got[i]!, want[i]!];
    if (Object.is(g, w)) continue;
    if (g === w) {
      worst = Math.max(worst, 0.5); // the sign of zero, which the chip is known to lose: told, but not held against it
      continue;
    }
    const bothFinite = Number.isFinite(g) && Number.isFinite(w);
    const units = bothFinite ? Math.abs(g - w) / spacingAt(bound.ofLargest ? largest : Math.abs(w)) : Infinity;
    worst = Math.max(worst, units);
    if (units <= bound.units || (bothFinite && Math.abs(g - w) <= (bound.absolute ?? 0))) continue;
    if (at >= 0 && units <= excess) continue;
    excess = units;
    at = i;
  }
  const what = at < 0 ? undefined : `element ${at} is ${show(got[at]!)}, the simulator has ${show(want[at]!)}`;
  return { worst, what };
}

/** A value with its bit pattern. */
function show(value: number): string {
  const text = Object.is(value, -0) ? "-0" : String(Number(value.toPrecision(6)));
  return `${text} (0x${float16Bits(value).toString(16).padStart(4, "0")})`;
}

export type Feeds = Readonly<Record<string, Feed>>;

/** Results of one run of a graph; every output is fp16 or fp32. */
export async function evaluate(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Feeds,
  engine: Bench["device"] | "sim",
): Promise<Record<string, ArrayLike<number>>> {
  using program = await compile(outputs, { engine });
  const used = Object.fromEntries(Object.entries(feeds).filter(([name]) => program.plan.feeds.has(name)));
  const results = program.runSync(used);
  return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as ArrayLike<number>]));
}

/** Runs a graph on the engine and on the simulator. @throws {Wrong} where they differ by more than the bound. */
export async function agree(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Feeds,
  { device }: Bench,
  bound: Bound,
): Promise<Finding> {
  const got = await evaluate(outputs, feeds, device);
  const want = await evaluate(outputs, feeds, "sim");
  return judge(got, want, bound);
}

/** @throws {Wrong} where results differ by more than the bound. */
export function judge(
  got: Readonly<Record<string, ArrayLike<number>>>,
  want: Readonly<Record<string, ArrayLike<number>>>,
  bound: Bound,
): Finding {
  let worst = 0;
  for (const [name, values] of Object.entries(want)) {
    const found = difference(got[name] ?? [], values, bound);
    worst = Math.max(worst, found.worst);
    if (found.what !== undefined) throw new Wrong(`${name}: ${found.what}`, { worst: found.worst, bound: bound.units });
  }
  return { worst, bound: bound.units };
}
