// A few numbers that tell what an array holds.

import type { DType, ValueArray } from "../core/dtype.ts";
import { formatAval } from "../core/errors.ts";
import { formatNumber } from "./output.ts";

export interface ArrayStatistics {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Least, greatest and mean of the finite values; null where there is none. */
  readonly min: number | null;
  readonly max: number | null;
  readonly mean: number | null;
  /** Values that are infinite or NaN. */
  readonly nonFinite: number;
  /** The first values, in row-major order. */
  readonly first: readonly number[];
}

const firstValues = 6;

export function statisticsOf({
  dtype,
  shape,
  data,
}: {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: ValueArray;
}): ArrayStatistics {
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  let sum = 0;
  let finite = 0;
  for (const value of data) {
    if (!Number.isFinite(value)) continue;
    if (value < min) min = value;
    if (value > max) max = value;
    sum += value;
    finite++;
  }
  const known = finite > 0;
  return {
    dtype,
    shape: [...shape],
    min: known ? min : null,
    max: known ? max : null,
    mean: known ? sum / finite : null,
    nonFinite: data.length - finite,
    first: Array.from(data.subarray(0, firstValues)),
  };
}

/** Titles of {@link statisticsCells}. */
export const statisticsColumns = [
  { title: "type" },
  { title: "min", align: "right" },
  { title: "max", align: "right" },
  { title: "mean", align: "right" },
  { title: "first values", crop: true },
] as const;

/** Cells of a table's row. */
export function statisticsCells(array: ArrayStatistics): string[] {
  const number = (value: number | null) => (value === null ? "-" : formatNumber(value));
  const count = array.shape.reduce((product, extent) => product * extent, 1);
  const more = count > array.first.length ? " …" : "";
  const odd = array.nonFinite === 0 ? "" : `   ${array.nonFinite} not finite`;
  return [
    formatAval(array),
    number(array.min),
    number(array.max),
    number(array.mean),
    `${array.first.map(formatNumber).join(" ")}${more}${odd}`,
  ];
}
