// Arrays that cross between the caller and a port's storage: feeds in, results out.

import { type DType, dtypeBytes } from "../core/dtype.ts";
import { ConfigError, formatAval, formatShape, ShapeError } from "../core/errors.ts";
import { float16Bits, packFloat16, unpackFloat16 } from "../core/float16.ts";
import { type Aval, type Shape, sameShape, sizeOf } from "../core/shape.ts";
import type { Nested } from "../tensor.ts";
import type { Buffer } from "./engine.ts";

/** How fp16 values are handed out: widened, as Float16Array where the runtime has it, or as bit patterns. */
export type Float16As = "float32" | "float16" | "bits";

/** Host array of a dtype. Float16Array is typed as an array of numbers: not every runtime declares it. */
export type DataOf<D extends DType, As extends Float16As = "float32"> = D extends "int32"
  ? Int32Array<ArrayBuffer>
  : D extends "bool"
    ? Uint8Array<ArrayBuffer>
    : D extends "fp16"
      ? As extends "bits"
        ? Uint16Array<ArrayBuffer>
        : As extends "float16"
          ? ArrayLike<number>
          : Float32Array<ArrayBuffer>
      : Float32Array<ArrayBuffer>;

/** What a port can be fed with. */
export type Feed = NDArray<DType, Float16As> | ArrayLike<number> | Nested;

/** A dense row-major array that the caller owns. */
export class NDArray<D extends DType = DType, As extends Float16As = "float32"> {
  readonly dtype: D;
  readonly shape: Shape;
  readonly data: DataOf<D, As>;

  constructor(dtype: D, shape: Shape, data: DataOf<D, As>) {
    this.dtype = dtype;
    this.shape = shape;
    this.data = data;
  }

  /** The only element. @throws {ShapeError} where there is not exactly one. */
  item(): number {
    if (this.data.length !== 1)
      throw new ShapeError("item", `${formatAval(this)} holds ${this.data.length} elements, not one`);
    return this.data[0]!;
  }

  /** Arrays nested as deep as the rank; a number for rank 0. */
  toNested(): Nested {
    let level: Nested[] = Array.from(this.data as ArrayLike<number>);
    for (let axis = this.shape.length - 1; axis > 0; axis--) {
      const extent = this.shape[axis]!;
      level = Array.from({ length: level.length / extent }, (_, i) => level.slice(i * extent, (i + 1) * extent));
    }
    return this.shape.length === 0 ? level[0]! : level;
  }
}

type Float16ArrayConstructor = new (buffer: ArrayBuffer, offset: number, length: number) => ArrayLike<number>;
const Float16Array_ = (globalThis as { Float16Array?: Float16ArrayConstructor }).Float16Array;

/** A typed view of a port's storage: bit patterns for fp16. */
export function viewOf({ dtype, bytes }: Buffer): Uint16Array | Float32Array | Int32Array | Uint8Array {
  const length = bytes.length / dtypeBytes[dtype];
  if (dtype === "fp16") return new Uint16Array(bytes.buffer, bytes.byteOffset, length);
  if (dtype === "fp32") return new Float32Array(bytes.buffer, bytes.byteOffset, length);
  if (dtype === "int32") return new Int32Array(bytes.buffer, bytes.byteOffset, length);
  return bytes;
}

/** @throws {ConfigError} where the runtime has no Float16Array; asked before a run, not after it. */
export function checkFloat16As(as: Float16As | undefined): void {
  if (as === "float16" && Float16Array_ === undefined)
    throw new ConfigError("run", 'this runtime has no Float16Array; use { as: "bits" }');
}

/** Copies a port's values out. */
export function readBuffer(
  buffer: Buffer,
  as: Float16As = "float32",
  view = viewOf(buffer),
): NDArray<DType, Float16As> {
  const { dtype, shape } = buffer;
  if (dtype !== "fp16" || as === "bits") return new NDArray(dtype, shape, view.slice() as DataOf<DType, Float16As>);
  if (as === "float16") {
    checkFloat16As(as);
    const copy = view.slice();
    return new NDArray(
      dtype,
      shape,
      new Float16Array_!(copy.buffer as ArrayBuffer, 0, copy.length) as DataOf<DType, Float16As>,
    );
  }
  const values = new Float32Array(view.length);
  unpackFloat16(view as Uint16Array, values);
  return new NDArray(dtype, shape, values);
}

/** Checks a feed and turns it into the storage format of `aval`: fp16 out of range becomes infinity, as on the engine. */
export function encodeFeed(where: string, aval: Aval, feed: Feed): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(sizeOf(aval.shape) * dtypeBytes[aval.dtype]);
  writeFeed(where, { ...aval, bytes }, feed);
  return bytes;
}

/** Checks a feed and writes it into a port's storage. @throws {ShapeError | ConfigError} before anything is written. */
export function writeFeed(where: string, port: Aval & { readonly bytes: Uint8Array<ArrayBuffer> }, feed: Feed): void {
  const { dtype, shape } = port;
  if (feed instanceof NDArray && !sameShape(feed.shape, shape)) {
    throw new ShapeError(where, `expected ${formatAval(port)}, got ${formatAval(feed)}`);
  }
  const values = feed instanceof NDArray ? arrayValues(feed, dtype) : flatValues(where, feed, shape);
  if (values.length !== sizeOf(shape)) {
    throw new ShapeError(where, `expected ${sizeOf(shape)} values for ${formatAval(port)}, got ${values.length}`);
  }
  const to = viewOf(port as Buffer);
  if (dtype === "fp16") {
    const isFloat16Array =
      Float16Array_ !== undefined && values instanceof (Float16Array_ as unknown as { new (): object });
    const isBits = feed instanceof NDArray && feed.dtype === "fp16" && values instanceof Uint16Array;
    if (isFloat16Array || isBits) {
      const { buffer, byteOffset, length } = values as unknown as Uint16Array;
      to.set(new Uint16Array(buffer, byteOffset, length));
    } else {
      packFloat16(values instanceof Float32Array ? values : Float32Array.from(values), to as Uint16Array);
    }
    return;
  }
  for (let i = 0; dtype !== "fp32" && i < values.length; i++) {
    const value = Number(values[i]);
    const fits = dtype === "int32" ? (value | 0) === value : value === 0 || value === 1;
    if (!fits)
      throw new ConfigError(
        where,
        `value ${value} at element ${i} is not ${dtype === "int32" ? "an int32" : "a bool"}`,
      );
  }
  to.set(values);
}

/** Writes one number everywhere. */
export function fillBuffer(buffer: Buffer, value: number): void {
  viewOf(buffer).fill(buffer.dtype === "fp16" ? float16Bits(value) : value);
}

/** Numbers of an array; bit patterns of fp16 stay as they are for an fp16 port. */
function arrayValues(feed: NDArray<DType, Float16As>, dtype: DType): ArrayLike<number> {
  const { data } = feed;
  if (feed.dtype !== "fp16" || !(data instanceof Uint16Array) || dtype === "fp16") return data as ArrayLike<number>;
  const values = new Float32Array(data.length);
  unpackFloat16(data, values);
  return values;
}

function flatValues(where: string, feed: ArrayLike<number> | Nested, shape: Shape): ArrayLike<number> {
  if (ArrayBuffer.isView(feed)) {
    if (feed instanceof DataView || feed instanceof BigInt64Array || feed instanceof BigUint64Array) {
      throw new ConfigError(where, `a feed holds numbers; ${feed.constructor.name} does not`);
    }
    return feed as unknown as ArrayLike<number>;
  }
  if (!Array.isArray(feed)) {
    if (typeof feed === "number" || typeof feed === "boolean") return [Number(feed)];
    throw new ConfigError(
      where,
      `a feed is a number, an array or a typed array, not ${feed === null ? "null" : typeof feed}`,
    );
  }
  const flat: number[] = [];
  const visit = (level: Nested, axis: number): void => {
    if (!Array.isArray(level)) {
      if (typeof level !== "number" && typeof level !== "boolean") {
        throw new ConfigError(
          where,
          `element ${flat.length} is ${level === null ? "null" : typeof level}, not a number`,
        );
      }
      if (axis !== shape.length) {
        throw new ShapeError(where, `nesting of depth ${axis} does not match ${formatShape(shape)}`);
      }
      flat.push(Number(level));
      return;
    }
    if (level.length !== shape[axis]) {
      throw new ShapeError(
        where,
        `nested arrays have ${level.length} entries at depth ${axis}, ${formatShape(shape)} expects ${shape[axis] ?? "a number"}`,
      );
    }
    for (const item of level) visit(item, axis + 1);
  };
  // A flat list of numbers fits any shape.
  if (feed.every((item) => !Array.isArray(item))) for (const item of feed) visit(item as Nested, shape.length);
  else visit(feed as Nested, 0);
  return flat;
}
