// Small helpers of the float64 oracle: indices and coordinates, broadcasting, and reading operands and attributes.
import type { RefInputs, RefTensor } from "./types.ts";

export type Attrs = Readonly<Record<string, unknown>>;

/** Number of elements of a shape; 1 for a scalar. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/** Row-major coordinates of a flat index. */
export function coordinatesOf(index: number, shape: readonly number[]): number[] {
  const coordinates = shape.map(() => 0);
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const extent = shape[axis]!;
    coordinates[axis] = index % extent;
    index = Math.floor(index / extent);
  }
  return coordinates;
}

/** Row-major flat index of coordinates. */
export function indexOf(coordinates: readonly number[], shape: readonly number[]): number {
  if (coordinates.length !== shape.length) throw new Error(`rank ${coordinates.length} against ${shape.length}`);
  let index = 0;
  for (let axis = 0; axis < shape.length; axis++) {
    const coordinate = coordinates[axis]!;
    if (!(coordinate >= 0 && coordinate < shape[axis]!)) throw new Error(`[${coordinates}] is outside [${shape}]`);
    index = index * shape[axis]! + coordinate;
  }
  return index;
}

/** Every coordinate vector of a shape in row-major order; the one empty vector for a scalar. */
export function everyCoordinate(shape: readonly number[]): number[][] {
  const all: number[][] = [];
  for (let index = 0; index < sizeOf(shape); index++) all.push(coordinatesOf(index, shape));
  return all;
}

/** The element at the coordinates. */
export function at(x: RefTensor, coordinates: readonly number[]): number {
  return x.data[indexOf(coordinates, x.shape)]!;
}

/** A tensor from its shape and values. */
export function tensorOf(shape: readonly number[], values: ArrayLike<number>): RefTensor {
  if (values.length !== sizeOf(shape)) throw new Error(`${values.length} values for shape [${shape}]`);
  return { shape, data: Float64Array.from(values) };
}

/** A tensor whose elements are computed one by one from their coordinates. */
export function build(shape: readonly number[], element: (coordinates: readonly number[]) => number): RefTensor {
  const data = new Float64Array(sizeOf(shape));
  for (let index = 0; index < data.length; index++) data[index] = element(coordinatesOf(index, shape));
  return { shape, data };
}

/** A function applied to every element. */
export function mapElements(x: RefTensor, f: (value: number) => number): RefTensor {
  return { shape: x.shape, data: x.data.map((value) => f(value)) };
}

/** The NumPy broadcast of two shapes. */
export function broadcastShapes(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length);
  const shape: number[] = [];
  for (let axis = 0; axis < rank; axis++) {
    const extentA = a[axis - (rank - a.length)] ?? 1;
    const extentB = b[axis - (rank - b.length)] ?? 1;
    if (extentA !== extentB && extentA !== 1 && extentB !== 1) throw new Error(`[${a}] against [${b}]`);
    shape.push(extentA === 1 ? extentB : extentA);
  }
  return shape;
}

/** The element of a tensor that broadcasting puts at the coordinates of the result. */
export function broadcastAt(x: RefTensor, coordinates: readonly number[]): number {
  const trailing = coordinates.slice(coordinates.length - x.shape.length);
  return at(
    x,
    trailing.map((coordinate, axis) => (x.shape[axis] === 1 ? 0 : coordinate)),
  );
}

/** An axis counted from the front. */
export function normalAxis(axis: number, rank: number): number {
  const normal = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(normal) || normal < 0 || normal >= rank) throw new Error(`axis ${axis} of rank ${rank}`);
  return normal;
}

/** Axes counted from the front, in ascending order. */
export function normalAxes(axes: readonly number[], rank: number): number[] {
  const normal = axes.map((axis) => normalAxis(axis, rank)).sort((a, b) => a - b);
  if (new Set(normal).size !== normal.length) throw new Error(`axes [${axes}] repeat`);
  return normal;
}

function isList(value: RefInputs[string]): value is readonly RefTensor[] {
  return Array.isArray(value);
}

/** A single operand, or undefined when it is absent. */
export function optionalOperand(inputs: RefInputs, name: string): RefTensor | undefined {
  const value = inputs[name];
  if (isList(value)) throw new Error(`operand ${name} is a list`);
  return value;
}

/** A single operand that must be there. */
export function operand(inputs: RefInputs, name: string): RefTensor {
  const value = optionalOperand(inputs, name);
  if (value === undefined) throw new Error(`operand ${name} is missing`);
  return value;
}

/** An operand that is a list of tensors. */
export function operandList(inputs: RefInputs, name: string): readonly RefTensor[] {
  const value = inputs[name];
  if (!isList(value)) throw new Error(`operand ${name} is not a list`);
  return value;
}

/** A number attribute; without a fallback it must be there. */
export function numberAttr(attrs: Attrs, name: string, fallback?: number): number {
  const value = attrs[name] ?? fallback;
  if (typeof value !== "number") throw new Error(`attribute ${name} is not a number`);
  return value;
}

/** A boolean attribute; without a fallback it must be there. */
export function booleanAttr(attrs: Attrs, name: string, fallback?: boolean): boolean {
  const value = attrs[name] ?? fallback;
  if (typeof value !== "boolean") throw new Error(`attribute ${name} is not a boolean`);
  return value;
}

/** A string attribute; without a fallback it must be there. */
export function stringAttr(attrs: Attrs, name: string, fallback?: string): string {
  const value = attrs[name] ?? fallback;
  if (typeof value !== "string") throw new Error(`attribute ${name} is not a string`);
  return value;
}

/** An attribute that is a list of numbers; without a fallback it must be there. */
export function numbersAttr(attrs: Attrs, name: string, fallback?: readonly number[]): readonly number[] {
  const value = attrs[name] ?? fallback;
  if (!Array.isArray(value)) throw new Error(`attribute ${name} is not a list`);
  return value.map((entry: unknown) => {
    if (typeof entry !== "number") throw new Error(`attribute ${name} holds something else than numbers`);
    return entry;
  });
}

/** An attribute that is a list of booleans; without a fallback it must be there. */
export function booleansAttr(attrs: Attrs, name: string, fallback?: readonly boolean[]): readonly boolean[] {
  const value = attrs[name] ?? fallback;
  if (!Array.isArray(value)) throw new Error(`attribute ${name} is not a list`);
  return value.map((entry: unknown) => {
    if (typeof entry !== "boolean") throw new Error(`attribute ${name} holds something else than booleans`);
    return entry;
  });
}
