// Values for the inputs of a program: arrays of .npy files in the port's dtype, or random numbers.

import { isFloat, newValues } from "../core/dtype.ts";
import { ConfigError, formatAval, ShapeError } from "../core/errors.ts";
import { roundFloat16 } from "../core/float16.ts";
import { RandomStream } from "../core/random.ts";
import { type Aval, sameShape, sizeOf } from "../core/shape.ts";
import type { NpyArray } from "../data/index.ts";
import { NDArray } from "../engines/array.ts";

/**
 * An array as a feed of a port. Floats may be rounded, and overflow to infinity as on the engine; everything else must be exact.
 * @param where Names the input and the file in errors.
 * @throws {ShapeError} for another shape, {ConfigError} at the first value that the port's dtype does not hold.
 */
export function feedFrom(where: string, port: Aval, { dtype, shape, data }: NpyArray): NDArray {
  if (!sameShape(shape, port.shape)) {
    throw new ShapeError(where, `expected ${formatAval(port)}, the file holds ${formatAval({ dtype, shape })}`);
  }
  const refuse = (at: number, what: string): never => {
    throw new ConfigError(where, `value ${data[at]} at element ${at} is ${what}`, {
      remedy: "convert the array in NumPy, where you see what is lost",
    });
  };
  for (let i = 0; i < data.length; i++) {
    const value = data[i]!;
    if (port.dtype === "bool" && value !== 0 && value !== 1) refuse(i, "no bool (0 or 1)");
    if (port.dtype === "int32" && (value | 0) !== value) refuse(i, "no int32");
    if (dtype === "int32" && isFloat(port.dtype)) {
      const rounded = port.dtype === "fp16" ? roundFloat16(value) : Math.fround(value);
      if (rounded !== value) refuse(i, `an integer that ${port.dtype} does not hold`);
    }
  }
  const values = newValues(port.dtype, data.length);
  values.set(data);
  return new NDArray(port.dtype, port.shape, values);
}

/** How many finite values of a feed fp16 turns into infinity. */
export function countOverflows({ dtype, data }: NDArray): number {
  if (dtype !== "fp16") return 0;
  let count = 0;
  for (const value of data) if (Number.isFinite(value) && !Number.isFinite(roundFloat16(value))) count++;
  return count;
}

/** Random values, fixed by seed and name: floats uniform in [-1, 1), integers and bools 0 or 1 (small enough for any index). */
export function randomFeed(name: string, { dtype, shape }: Aval, seed: number): NDArray {
  const stream = new RandomStream(seed, `input ${name}`);
  const values = newValues(dtype, sizeOf(shape));
  for (let i = 0; i < values.length; i++) {
    const uniform = stream.uniform();
    values[i] = isFloat(dtype) ? 2 * uniform - 1 : Math.floor(2 * uniform);
  }
  return new NDArray(dtype, shape, values);
}
