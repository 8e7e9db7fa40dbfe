// Float64 references and cases of the operators that move elements: reshape, slice, concat, pad, gather, cumsum, ...
import {
  at,
  booleanAttr,
  booleansAttr,
  build,
  everyCoordinate,
  indexOf,
  normalAxes,
  normalAxis,
  numberAttr,
  numbersAttr,
  operand,
  operandList,
  sizeOf,
  stringAttr,
  tensorOf,
} from "./helpers.ts";
import type { CaseInput, OpCases, Reference, RefTensor } from "./types.ts";

/** The coordinates with the one at `axis` replaced. */
function withAxis(coordinates: readonly number[], axis: number, coordinate: number): number[] {
  return coordinates.map((old, index) => (index === axis ? coordinate : old));
}

const reshape: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const wanted = numbersAttr(attrs, "shape");
  const known = sizeOf(wanted.filter((extent) => extent !== -1));
  const shape = wanted.map((extent) => (extent === -1 ? sizeOf(x.shape) / known : extent));
  return [tensorOf(shape, x.data)];
};

const transpose: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const perm = numbersAttr(attrs, "perm").map((axis) => normalAxis(axis, x.shape.length));
  const shape = perm.map((axis) => x.shape[axis]!);
  // Axis i of the result is axis perm[i] of x.
  const result = build(shape, (coordinates) =>
    at(
      x,
      x.shape.map((_, axis) => coordinates[perm.indexOf(axis)]!),
    ),
  );
  return [result];
};

const expandDims: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const given = numbersAttr(attrs, "axes");
  const axes = normalAxes(given, x.shape.length + given.length);
  const shape = [...x.shape];
  for (const axis of axes) shape.splice(axis, 0, 1);
  return [tensorOf(shape, x.data)];
};

const squeeze: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const axes =
    attrs.axes === undefined
      ? [...x.shape.keys()].filter((axis) => x.shape[axis] === 1)
      : normalAxes(numbersAttr(attrs, "axes"), x.shape.length);
  const shape = x.shape.filter((_, axis) => !axes.includes(axis));
  return [tensorOf(shape, x.data)];
};

const sliceByIndex: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const begin = numbersAttr(attrs, "begin");
  const end = numbersAttr(attrs, "end");
  const no = x.shape.map(() => false);
  const stride = numbersAttr(
    attrs,
    "stride",
    x.shape.map(() => 1),
  );
  const beginMask = booleansAttr(attrs, "beginMask", no);
  const endMask = booleansAttr(attrs, "endMask", no);
  const squeezeMask = booleansAttr(attrs, "squeezeMask", no);
  // The indices that each axis keeps.
  const kept = x.shape.map((extent, axis) => {
    const fromFront = (index: number): number => Math.min(Math.max(index < 0 ? index + extent : index, 0), extent);
    const first = beginMask[axis] ? 0 : begin[axis]!;
    if (squeezeMask[axis]) return [normalAxis(first, extent)];
    const stop = endMask[axis] ? extent : fromFront(end[axis]!);
    const indices: number[] = [];
    for (let index = fromFront(first); index < stop; index += stride[axis]!) indices.push(index);
    return indices;
  });
  const keptShape = kept.map((indices) => indices.length);
  const picked = build(keptShape, (coordinates) =>
    at(
      x,
      coordinates.map((coordinate, axis) => kept[axis]![coordinate]!),
    ),
  );
  const shape = keptShape.filter((_, axis) => !squeezeMask[axis]);
  return [tensorOf(shape, picked.data)];
};

const sliceBySize: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const begin = numbersAttr(attrs, "begin");
  const size = numbersAttr(attrs, "size");
  const shape = size.map((extent, axis) => (extent === -1 ? x.shape[axis]! - begin[axis]! : extent));
  const result = build(shape, (coordinates) =>
    at(
      x,
      coordinates.map((coordinate, axis) => coordinate + begin[axis]!),
    ),
  );
  return [result];
};

const concat: Reference = (inputs, attrs) => {
  const values = operandList(inputs, "values");
  const rank = values[0]!.shape.length;
  const axis = normalAxis(numberAttr(attrs, "axis"), rank);
  const interleave = booleanAttr(attrs, "interleave", false);
  const extent = values.reduce((sum, value) => sum + value.shape[axis]!, 0);
  const shape = withAxis(values[0]!.shape, axis, extent);
  const result = build(shape, (coordinates) => {
    const position = coordinates[axis]!;
    if (interleave) {
      const value = values[position % values.length]!;
      return at(value, withAxis(coordinates, axis, Math.floor(position / values.length)));
    }
    let start = 0;
    for (const value of values) {
      const inside = position - start;
      if (inside < value.shape[axis]!) return at(value, withAxis(coordinates, axis, inside));
      start += value.shape[axis]!;
    }
    throw new Error("no operand holds this position");
  });
  return [result];
};

const split: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const axis = normalAxis(numberAttr(attrs, "axis"), x.shape.length);
  const extent = x.shape[axis]!;
  let sizes: readonly number[];
  if (attrs.splitSizes === undefined) {
    const count = numberAttr(attrs, "numSplits");
    sizes = Array.from({ length: count }, () => extent / count);
  } else {
    sizes = numbersAttr(attrs, "splitSizes");
  }
  const results: RefTensor[] = [];
  let start = 0;
  for (const size of sizes) {
    const from = start;
    const part = build(withAxis(x.shape, axis, size), (coordinates) =>
      at(x, withAxis(coordinates, axis, from + coordinates[axis]!)),
    );
    results.push(part);
    start += size;
  }
  return results;
};

const stack: Reference = (inputs, attrs) => {
  const values = operandList(inputs, "values");
  const axis = normalAxis(numberAttr(attrs, "axis"), values[0]!.shape.length + 1);
  const shape = values[0]!.shape.toSpliced(axis, 0, values.length);
  const result = build(shape, (coordinates) => at(values[coordinates[axis]!]!, coordinates.toSpliced(axis, 1)));
  return [result];
};

const tile: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const reps = numbersAttr(attrs, "reps");
  const shape = x.shape.map((extent, axis) => extent * reps[axis]!);
  const result = build(shape, (coordinates) =>
    at(
      x,
      coordinates.map((coordinate, axis) => coordinate % x.shape[axis]!),
    ),
  );
  return [result];
};

const pad: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const pairs = numbersAttr(attrs, "pad");
  const mode = stringAttr(attrs, "mode", "constant");
  const constant = numberAttr(attrs, "constantVal", 0);
  const untouched = x.shape.length - pairs.length / 2;
  const begin = x.shape.map((_, axis) => (axis < untouched ? 0 : pairs[2 * (axis - untouched)]!));
  const end = x.shape.map((_, axis) => (axis < untouched ? 0 : pairs[2 * (axis - untouched) + 1]!));
  const shape = x.shape.map((extent, axis) => extent + begin[axis]! + end[axis]!);
  const result = build(shape, (coordinates) => {
    const source = coordinates.map((coordinate, axis) => coordinate - begin[axis]!);
    const isInside = source.every((index, axis) => index >= 0 && index < x.shape[axis]!);
    if (isInside) return at(x, source);
    if (mode === "constant") return constant;
    const folded = source.map((index, axis) => {
      const last = x.shape[axis]! - 1;
      if (mode === "replicate") return Math.min(Math.max(index, 0), last);
      if (mode !== "reflect") throw new Error(`mode ${mode}`);
      if (index < 0) return -index;
      if (index > last) return 2 * last - index;
      return index;
    });
    return at(x, folded);
  });
  return [result];
};

const gather: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const indices = operand(inputs, "indices");
  const axis = normalAxis(numberAttr(attrs, "axis", 0), x.shape.length);
  const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)];
  const result = build(shape, (coordinates) => {
    const after = axis + indices.shape.length;
    const index = normalAxis(at(indices, coordinates.slice(axis, after)), x.shape[axis]!);
    return at(x, [...coordinates.slice(0, axis), index, ...coordinates.slice(after)]);
  });
  return [result];
};

const scatter: Reference = (inputs, attrs) => {
  const data = operand(inputs, "data");
  const indices = operand(inputs, "indices");
  const updates = operand(inputs, "updates");
  const axis = normalAxis(numberAttr(attrs, "axis", 0), data.shape.length);
  const mode = stringAttr(attrs, "mode", "add");
  if (mode !== "add" && mode !== "update") throw new Error(`mode ${mode}`);
  const result = Float64Array.from(data.data);
  for (const coordinates of everyCoordinate(updates.shape)) {
    const row = at(indices, [coordinates[axis]!]);
    const target = indexOf(withAxis(coordinates, axis, row), data.shape);
    const update = at(updates, coordinates);
    result[target] = mode === "add" ? result[target]! + update : update;
  }
  return [tensorOf(data.shape, result)];
};

const cumsum: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const axis = normalAxis(numberAttr(attrs, "axis", 0), x.shape.length);
  const exclusive = booleanAttr(attrs, "exclusive", false);
  const reverse = booleanAttr(attrs, "reverse", false);
  const result = build(x.shape, (coordinates) => {
    const here = coordinates[axis]!;
    let sum = 0;
    for (let index = 0; index < x.shape[axis]!; index++) {
      const isBefore = reverse ? index > here : index < here;
      if (isBefore || (index === here && !exclusive)) sum += at(x, withAxis(coordinates, axis, index));
    }
    return sum;
  });
  return [result];
};

const upsampleNearestNeighbor: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const scaleHeight = numberAttr(attrs, "scaleFactorHeight", 1);
  const scaleWidth = numberAttr(attrs, "scaleFactorWidth", 1);
  const [n, c, height, width] = [x.shape[0]!, x.shape[1]!, x.shape[2]!, x.shape[3]!];
  const result = build([n, c, height * scaleHeight, width * scaleWidth], (coordinates) => {
    const row = Math.floor(coordinates[2]! / scaleHeight);
    const column = Math.floor(coordinates[3]! / scaleWidth);
    return at(x, [coordinates[0]!, coordinates[1]!, row, column]);
  });
  return [result];
};

const pixelShuffle: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const r = numberAttr(attrs, "upscaleFactor");
  const [n, channels, height, width] = [x.shape[0]!, x.shape[1]!, x.shape[2]!, x.shape[3]!];
  const result = build([n, channels / (r * r), height * r, width * r], (coordinates) => {
    const [row, column] = [coordinates[2]!, coordinates[3]!];
    const channel = coordinates[1]! * r * r + (row % r) * r + (column % r);
    return at(x, [coordinates[0]!, channel, Math.floor(row / r), Math.floor(column / r)]);
  });
  return [result];
};

const pixelUnshuffle: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const r = numberAttr(attrs, "downscaleFactor");
  const [n, channels, height, width] = [x.shape[0]!, x.shape[1]!, x.shape[2]!, x.shape[3]!];
  const result = build([n, channels * r * r, height / r, width / r], (coordinates) => {
    const inBlock = coordinates[1]! % (r * r);
    const row = coordinates[2]! * r + Math.floor(inBlock / r);
    const column = coordinates[3]! * r + (inBlock % r);
    return at(x, [coordinates[0]!, Math.floor(coordinates[1]! / (r * r)), row, column]);
  });
  return [result];
};

export const references: Record<string, Reference> = {
  reshape,
  transpose,
  expand_dims: expandDims,
  squeeze,
  slice_by_index: sliceByIndex,
  slice_by_size: sliceBySize,
  concat,
  split,
  stack,
  tile,
  pad,
  gather,
  scatter,
  cumsum,
  upsample_nearest_neighbor: upsampleNearestNeighbor,
  pixel_shuffle: pixelShuffle,
  pixel_unshuffle: pixelUnshuffle,
};

/** A float operand of uniform numbers. */
function uniform(shape: readonly number[], low = -2, high = 2): CaseInput {
  return { shape, range: [low, high] };
}

function explicit(shape: readonly number[], values: readonly number[]): CaseInput {
  return { shape, values };
}

/** An int32 operand that counts up from -3 in steps of 7, or holds the given values. */
function int32(shape: readonly number[], values?: readonly number[]): CaseInput {
  return { shape, dtype: "int32", values: values ?? Array.from({ length: sizeOf(shape) }, (_, i) => 7 * i - 3) };
}

/** A bool operand with neither a short period nor a symmetry. */
function bool(shape: readonly number[]): CaseInput {
  const bits = "0110100011101011000";
  return {
    shape,
    dtype: "bool",
    values: Array.from({ length: sizeOf(shape) }, (_, i) => Number(bits[i % bits.length])),
  };
}

const reshapeCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([12]) }, attrs: { shape: [3, 4] } },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { shape: [4, 6] } },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { shape: [-1] } },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { shape: [3, -1, 2] } },
    { inputs: { x: uniform([2, 3]) }, attrs: { shape: [-1, 2, 3] }, note: "-1 becomes 1" },
    { inputs: { x: uniform([1, 6, 1, 4]) }, attrs: { shape: [1, 2, 3, 4, 1] }, note: "rank 5" },
    { inputs: { x: uniform([1, 2, 3, 2, 1]) }, attrs: { shape: [12] } },
    { inputs: { x: uniform([5]) }, attrs: { shape: [5] }, note: "the same shape" },
    { inputs: { x: uniform([]) }, attrs: { shape: [1, 1] }, note: "from a scalar" },
    { inputs: { x: int32([2, 6]) }, attrs: { shape: [4, 3] }, grad: false },
    { inputs: { x: bool([3, 4]) }, attrs: { shape: [-1, 6] }, grad: false },
  ],
  refuses: [
    {
      inputs: { x: uniform([1, 1]) },
      attrs: { shape: [] },
      message: /^reshape: /,
      note: "MIL's shape has at least one entry",
    },
    { inputs: { x: uniform([12]) }, attrs: { shape: [5, 2] }, message: /^reshape: /, note: "10 of 12 elements" },
    { inputs: { x: uniform([12]) }, attrs: { shape: [5, -1] }, message: /^reshape: /, note: "5 does not divide 12" },
    { inputs: { x: uniform([12]) }, attrs: { shape: [-1, 3, -1] }, message: /^reshape: /, note: "-1 twice" },
    { inputs: { x: uniform([12]) }, attrs: { shape: [-2, -6] }, message: /^reshape: /, note: "negative" },
    { inputs: { x: uniform([12]) }, attrs: { shape: [1.5, 8] }, message: /^reshape: /, note: "a fraction" },
  ],
};

const transposeCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([3, 5]) }, attrs: { perm: [1, 0] } },
    { inputs: { x: uniform([3, 5]) }, attrs: { perm: [0, 1] }, note: "identity" },
    { inputs: { x: uniform([4]) }, attrs: { perm: [0] }, note: "rank 1" },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { perm: [2, 0, 1] }, note: "a cycle, unlike its inverse" },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { perm: [-1, -3, -2] }, note: "negative axes" },
    { inputs: { x: uniform([2, 3, 4, 5]) }, attrs: { perm: [0, 2, -1, 1] }, note: "mixed signs" },
    { inputs: { x: uniform([2, 1, 3, 1, 4]) }, attrs: { perm: [4, 1, 0, 3, 2] }, note: "rank 5 with size-1 axes" },
    { inputs: { x: uniform([1, 2, 3, 2, 5]) }, attrs: { perm: [3, 0, 4, 2, 1] }, note: "rank 5" },
    { inputs: { x: int32([2, 3, 2]) }, attrs: { perm: [1, 2, 0] }, grad: false },
    { inputs: { x: bool([3, 4]) }, attrs: { perm: [1, 0] }, grad: false },
  ],
  refuses: [
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { perm: [1, 0] }, message: /^transpose: /, note: "too few entries" },
    { inputs: { x: uniform([2, 3]) }, attrs: { perm: [1, 0, 2] }, message: /^transpose: /, note: "too many entries" },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { perm: [0, 1, 1] }, message: /^transpose: /, note: "repeats" },
    {
      inputs: { x: uniform([2, 3, 4]) },
      attrs: { perm: [0, 2, -1] },
      message: /^transpose: /,
      note: "2 and -1 repeat",
    },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { perm: [0, 1, 3] }, message: /^transpose: /, note: "out of range" },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { perm: [0, 1, -4] }, message: /^transpose: /, note: "out of range" },
  ],
};

const expandDimsCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [0] } },
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [2] } },
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [-2] }, note: "negative: a position in the result" },
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [0, 2, 4] }, note: "rank 5" },
    { inputs: { x: uniform([2, 3]) }, attrs: { axes: [3, -4] }, note: "unsorted, mixed signs" },
    { inputs: { x: uniform([]) }, attrs: { axes: [0] }, note: "scalar" },
    { inputs: { x: uniform([]) }, attrs: { axes: [0, 1] }, note: "scalar" },
    { inputs: { x: int32([5]) }, attrs: { axes: [1] }, grad: false },
    { inputs: { x: bool([2, 3]) }, attrs: { axes: [-1, 0] }, grad: false },
  ],
  refuses: [
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [3] }, message: /^expand_dims: /, note: "out of range" },
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [-4] }, message: /^expand_dims: /, note: "out of range" },
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [1, 1] }, message: /^expand_dims: /, note: "repeats" },
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [3, -1] }, message: /^expand_dims: /, note: "3 and -1 repeat" },
    { inputs: { x: uniform([3, 4]) }, attrs: { axes: [0.5] }, message: /^expand_dims: /, note: "a fraction" },
  ],
};

const squeezeCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([1, 3, 1, 4, 1]) }, note: "every size-1 axis" },
    { inputs: { x: uniform([1, 3, 1, 4, 1]) }, attrs: { axes: [2] } },
    { inputs: { x: uniform([1, 3, 1, 4, 1]) }, attrs: { axes: [-1, 0] }, note: "unsorted, mixed signs" },
    { inputs: { x: uniform([1, 1]) }, attrs: { axes: [0] } },
    { inputs: { x: uniform([1]) }, attrs: { axes: [0] }, note: "to a scalar" },
    { inputs: { x: uniform([1, 1, 1]) }, note: "to a scalar" },
    { inputs: { x: int32([2, 1, 3]) }, attrs: { axes: [-2] }, grad: false },
    { inputs: { x: bool([1, 5]) }, grad: false },
  ],
  refuses: [
    { inputs: { x: uniform([2, 3]) }, message: /^squeeze: /, note: "nothing to remove: MIL's axes would be empty" },
    { inputs: { x: uniform([1, 3]) }, attrs: { axes: [1] }, message: /^squeeze: /, note: "extent 3" },
    {
      inputs: { x: uniform([1, 3]) },
      attrs: { axes: [0, 1] },
      message: /^squeeze: /,
      note: "one of them has extent 3",
    },
    { inputs: { x: uniform([1, 3]) }, attrs: { axes: [2] }, message: /^squeeze: /, note: "out of range" },
    { inputs: { x: uniform([1, 3]) }, attrs: { axes: [-3] }, message: /^squeeze: /, note: "out of range" },
    { inputs: { x: uniform([1, 1, 3]) }, attrs: { axes: [0, -3] }, message: /^squeeze: /, note: "0 and -3 repeat" },
  ],
};

const sliceByIndexCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([7]) }, attrs: { begin: [2], end: [5] } },
    { inputs: { x: uniform([4, 6]) }, attrs: { begin: [0, 2], end: [4, 6] } },
    { inputs: { x: uniform([4, 6]) }, attrs: { begin: [-3, 1], end: [-1, -2] }, note: "counted from the end" },
    { inputs: { x: uniform([7, 6]) }, attrs: { begin: [1, 0], end: [7, 6], stride: [3, 2] } },
    {
      inputs: { x: uniform([3, 9]) },
      attrs: { begin: [0, 8], end: [3, 9], stride: [5, 4] },
      note: "one element an axis",
    },
    { inputs: { x: uniform([4, 5]) }, attrs: { begin: [-9, 3], end: [2, 99] }, note: "clamped as in NumPy" },
    {
      inputs: { x: uniform([3, 4, 5]) },
      attrs: { begin: [2, 1, 1], end: [1, 2, 3], beginMask: [true, false, false], endMask: [true, true, false] },
      note: "masked entries would be empty",
    },
    {
      inputs: { x: uniform([3, 4, 5]) },
      attrs: { begin: [1, 0, -1], end: [0, 4, 0], squeezeMask: [true, false, true] },
      note: "squeezed axes ignore end",
    },
    {
      inputs: { x: uniform([3, 4]) },
      attrs: { begin: [1, 2], end: [2, 3], squeezeMask: [true, true] },
      note: "to a scalar",
    },
    {
      inputs: { x: uniform([3, 4]) },
      attrs: { begin: [2, 1], end: [3, 4], beginMask: [true, false], squeezeMask: [true, false] },
      note: "a masked begin makes the squeezed index 0",
    },
    {
      inputs: { x: uniform([4, 5]) },
      attrs: { begin: [-2, 0], end: [4, 5], stride: [2, 2], endMask: [false, true], squeezeMask: [true, false] },
      note: "squeezed axes ignore stride",
    },
    {
      inputs: { x: uniform([2, 1, 3, 1, 4]) },
      attrs: { begin: [1, 0, 0, 0, 1], end: [2, 1, 3, 1, 3] },
      note: "rank 5",
    },
    { inputs: { x: explicit([4], [5000, -60000, 60000, -5000]) }, attrs: { begin: [1], end: [3] }, note: "extremes" },
    { inputs: { x: int32([4, 5]) }, attrs: { begin: [1, 1], end: [4, 5], stride: [2, 1] }, grad: false },
    { inputs: { x: bool([3, 6]) }, attrs: { begin: [0, 1], end: [3, 6], stride: [1, 2] }, grad: false },
  ],
  refuses: [
    {
      inputs: { x: uniform([4, 5]) },
      attrs: { begin: [1], end: [3] },
      message: /^slice_by_index: /,
      note: "one entry",
    },
    { inputs: { x: uniform([5]) }, attrs: { begin: [3], end: [3] }, message: /^slice_by_index: /, note: "empty" },
    { inputs: { x: uniform([5]) }, attrs: { begin: [-1], end: [2] }, message: /^slice_by_index: /, note: "empty" },
    {
      inputs: { x: uniform([5]) },
      attrs: { begin: [5], end: [9] },
      message: /^slice_by_index: /,
      note: "past the end",
    },
    {
      inputs: { x: uniform([5]) },
      attrs: { begin: [4], end: [0], stride: [-1] },
      message: /^slice_by_index: /,
      note: "negative stride",
    },
    {
      inputs: { x: uniform([5]) },
      attrs: { begin: [0], end: [5], stride: [0] },
      message: /^slice_by_index: /,
      note: "stride 0",
    },
    {
      inputs: { x: uniform([4, 5]) },
      attrs: { begin: [0, 5], end: [4, 6], squeezeMask: [false, true] },
      message: /^slice_by_index: /,
      note: "squeezed index out of range",
    },
    {
      inputs: { x: uniform([4, 5]) },
      attrs: { begin: [0, 0], end: [4, 5], endMask: [true] },
      message: /^slice_by_index: /,
      note: "one mask entry for two axes",
    },
  ],
};

const sliceBySizeCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([7]) }, attrs: { begin: [2], size: [3] } },
    { inputs: { x: uniform([4, 6]) }, attrs: { begin: [1, 3], size: [2, 3] } },
    { inputs: { x: uniform([4, 6]) }, attrs: { begin: [1, 2], size: [-1, 2] }, note: "to the end" },
    { inputs: { x: uniform([3, 4]) }, attrs: { begin: [0, 0], size: [-1, -1] }, note: "everything" },
    { inputs: { x: uniform([3, 5]) }, attrs: { begin: [2, 4], size: [-1, 1] }, note: "the last element" },
    { inputs: { x: uniform([1, 6, 1, 5]) }, attrs: { begin: [0, 2, 0, 1], size: [1, 3, 1, 4] }, note: "rank 4" },
    {
      inputs: { x: uniform([2, 2, 3, 2, 3]) },
      attrs: { begin: [1, 0, 1, 0, 2], size: [1, 2, 2, 1, 1] },
      note: "rank 5",
    },
    { inputs: { x: int32([3, 4]) }, attrs: { begin: [1, 1], size: [2, 2] }, grad: false },
    { inputs: { x: bool([2, 5]) }, attrs: { begin: [0, 2], size: [2, -1] }, grad: false },
  ],
  refuses: [
    {
      inputs: { x: uniform([4, 5]) },
      attrs: { begin: [1], size: [2] },
      message: /^slice_by_size: /,
      note: "one entry",
    },
    {
      inputs: { x: uniform([4, 5]) },
      attrs: { begin: [1, 0], size: [2] },
      message: /^slice_by_size: /,
      note: "one size",
    },
    {
      inputs: { x: uniform([5]) },
      attrs: { begin: [3], size: [3] },
      message: /^slice_by_size: /,
      note: "past the end",
    },
    {
      inputs: { x: uniform([5]) },
      attrs: { begin: [5], size: [-1] },
      message: /^slice_by_size: /,
      note: "nothing left",
    },
    { inputs: { x: uniform([5]) }, attrs: { begin: [0], size: [0] }, message: /^slice_by_size: /, note: "size 0" },
    { inputs: { x: uniform([5]) }, attrs: { begin: [0], size: [-2] }, message: /^slice_by_size: /, note: "size -2" },
  ],
};

const concatCases: OpCases = {
  accepts: [
    { inputs: { values: [uniform([3]), uniform([2])] }, attrs: { axis: 0 }, note: "rank 1" },
    { inputs: { values: [uniform([2, 3]), uniform([1, 3]), uniform([4, 3])] }, attrs: { axis: 0 } },
    { inputs: { values: [uniform([2, 3]), uniform([2, 1])] }, attrs: { axis: -1 } },
    { inputs: { values: [uniform([2, 1, 3]), uniform([2, 4, 3])] }, attrs: { axis: -2, interleave: false } },
    { inputs: { values: [uniform([1, 2, 3, 2]), uniform([1, 3, 3, 2])] }, attrs: { axis: 1 }, note: "channels" },
    { inputs: { values: [uniform([1, 2, 2, 1, 3]), uniform([1, 2, 2, 2, 3])] }, attrs: { axis: 3 }, note: "rank 5" },
    { inputs: { values: [uniform([3, 2]), uniform([3, 2])] }, attrs: { axis: 0, interleave: true } },
    {
      inputs: { values: [uniform([2, 3, 2]), uniform([2, 3, 2]), uniform([2, 3, 2])] },
      attrs: { axis: 1, interleave: true },
    },
    { inputs: { values: [uniform([2, 3]), uniform([2, 3])] }, attrs: { axis: -1, interleave: true } },
    { inputs: { values: [int32([2, 2]), int32([2, 3])] }, attrs: { axis: 1 }, grad: false },
    { inputs: { values: [bool([2, 3]), bool([1, 3])] }, attrs: { axis: 0 }, grad: false },
  ],
  refuses: [
    {
      inputs: { values: [uniform([2, 3]), uniform([2, 4])] },
      attrs: { axis: 0 },
      message: /^concat: /,
      note: "3 and 4",
    },
    { inputs: { values: [uniform([2, 3]), uniform([3])] }, attrs: { axis: 0 }, message: /^concat: /, note: "ranks" },
    { inputs: { values: [uniform([2, 3]), uniform([2, 3])] }, attrs: { axis: 2 }, message: /^concat: /, note: "axis" },
    { inputs: { values: [uniform([2, 3]), uniform([2, 3])] }, attrs: { axis: -3 }, message: /^concat: /, note: "axis" },
    {
      inputs: { values: [uniform([2, 3]), uniform([1, 3])] },
      attrs: { axis: 0, interleave: true },
      message: /^concat: /,
      note: "interleave asks for equal shapes",
    },
    { inputs: { values: [uniform([2]), int32([2])] }, attrs: { axis: 0 }, message: /^concat: /, note: "mixed dtypes" },
    { inputs: { values: [] }, attrs: { axis: 0 }, message: /^concat: /, note: "no values" },
  ],
};

const splitCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([6]) }, attrs: { numSplits: 3, axis: 0 } },
    { inputs: { x: uniform([4, 6]) }, attrs: { numSplits: 2, axis: -1 } },
    { inputs: { x: uniform([3, 2]) }, attrs: { numSplits: 3, axis: 0 }, note: "extent 1 each" },
    { inputs: { x: uniform([2, 6, 3]) }, attrs: { splitSizes: [1, 3, 2], axis: 1 } },
    { inputs: { x: uniform([2, 3, 5]) }, attrs: { splitSizes: [4, 1], axis: -1 } },
    { inputs: { x: uniform([1, 4, 1, 6]) }, attrs: { splitSizes: [2, 2], axis: -3 } },
    { inputs: { x: uniform([1, 2, 3, 1, 4]) }, attrs: { numSplits: 2, axis: 4 }, note: "rank 5" },
    { inputs: { x: uniform([2, 3]) }, attrs: { splitSizes: [3], axis: 1 }, note: "one part" },
    { inputs: { x: int32([4, 3]) }, attrs: { splitSizes: [3, 1], axis: 0 }, grad: false },
    { inputs: { x: bool([2, 4]) }, attrs: { numSplits: 2, axis: 1 }, grad: false },
  ],
  refuses: [
    { inputs: { x: uniform([5]) }, attrs: { numSplits: 2, axis: 0 }, message: /^split: /, note: "2 does not divide 5" },
    { inputs: { x: uniform([5]) }, attrs: { splitSizes: [2, 2], axis: 0 }, message: /^split: /, note: "4 of 5" },
    {
      inputs: { x: uniform([5]) },
      attrs: { splitSizes: [-1, 6], axis: 0 },
      message: /^split: /,
      note: "negative size",
    },
    { inputs: { x: uniform([5]) }, attrs: { splitSizes: [0, 5], axis: 0 }, message: /^split: /, note: "an empty part" },
    { inputs: { x: uniform([4]) }, attrs: { numSplits: 0, axis: 0 }, message: /^split: /, note: "no parts" },
    { inputs: { x: uniform([4]) }, attrs: { axis: 0 }, message: /^split: /, note: "neither numSplits nor splitSizes" },
    { inputs: { x: uniform([4]) }, attrs: { numSplits: 2, axis: 1 }, message: /^split: /, note: "axis out of range" },
  ],
};

const stackCases: OpCases = {
  accepts: [
    { inputs: { values: [uniform([3]), uniform([3])] }, attrs: { axis: 0 } },
    { inputs: { values: [uniform([3]), uniform([3])] }, attrs: { axis: 1 } },
    { inputs: { values: [uniform([2, 3]), uniform([2, 3]), uniform([2, 3])] }, attrs: { axis: -1 } },
    { inputs: { values: [uniform([2, 3]), uniform([2, 3])] }, attrs: { axis: -3 }, note: "-3 is 0" },
    { inputs: { values: [uniform([2, 1, 3]), uniform([2, 1, 3])] }, attrs: { axis: 2 } },
    { inputs: { values: [uniform([1, 2, 3, 2]), uniform([1, 2, 3, 2])] }, attrs: { axis: 1 }, note: "rank 5" },
    { inputs: { values: [uniform([]), uniform([]), uniform([])] }, attrs: { axis: 0 }, note: "scalars" },
    { inputs: { values: [int32([2, 2]), int32([2, 2], [5, 6, 7, 8])] }, attrs: { axis: 1 }, grad: false },
    { inputs: { values: [bool([4]), bool([4])] }, attrs: { axis: -1 }, grad: false },
  ],
  refuses: [
    {
      inputs: { values: [uniform([2, 3]), uniform([2, 4])] },
      attrs: { axis: 0 },
      message: /^stack: /,
      note: "3 and 4",
    },
    { inputs: { values: [uniform([2, 1]), uniform([2])] }, attrs: { axis: 0 }, message: /^stack: /, note: "ranks" },
    { inputs: { values: [uniform([2, 3]), uniform([2, 3])] }, attrs: { axis: 3 }, message: /^stack: /, note: "axis" },
    { inputs: { values: [uniform([2, 3]), uniform([2, 3])] }, attrs: { axis: -4 }, message: /^stack: /, note: "axis" },
    { inputs: { values: [uniform([2]), int32([2])] }, attrs: { axis: 0 }, message: /^stack: /, note: "mixed dtypes" },
    { inputs: { values: [] }, attrs: { axis: 0 }, message: /^stack: /, note: "no values" },
  ],
};

const tileCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([3]) }, attrs: { reps: [4] } },
    { inputs: { x: uniform([2, 3]) }, attrs: { reps: [3, 2] } },
    { inputs: { x: uniform([2, 3]) }, attrs: { reps: [1, 1] }, note: "identity" },
    { inputs: { x: uniform([1, 3, 1]) }, attrs: { reps: [2, 1, 5] }, note: "size-1 axes" },
    { inputs: { x: uniform([2, 2, 1, 3]) }, attrs: { reps: [1, 2, 3, 2] } },
    { inputs: { x: uniform([1, 2, 2, 1, 2]) }, attrs: { reps: [2, 1, 2, 3, 1] }, note: "rank 5" },
    { inputs: { x: int32([2, 3]) }, attrs: { reps: [2, 1] }, grad: false },
    { inputs: { x: bool([3]) }, attrs: { reps: [3] }, grad: false },
  ],
  refuses: [
    { inputs: { x: uniform([2, 3]) }, attrs: { reps: [2] }, message: /^tile: /, note: "too few entries" },
    { inputs: { x: uniform([3]) }, attrs: { reps: [2, 1] }, message: /^tile: /, note: "too many entries" },
    { inputs: { x: uniform([2, 3]) }, attrs: { reps: [2, 0] }, message: /^tile: /, note: "0 repetitions" },
    { inputs: { x: uniform([2, 3]) }, attrs: { reps: [-1, 2] }, message: /^tile: /, note: "-1 repetitions" },
    { inputs: { x: uniform([2, 3]) }, attrs: { reps: [1.5, 2] }, message: /^tile: /, note: "a fraction" },
  ],
};

const padCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([4]) }, attrs: { pad: [2, 1] }, note: "zeros by default" },
    { inputs: { x: uniform([3, 4]) }, attrs: { pad: [1, 0, 2, 3], mode: "constant", constantVal: 1.5 } },
    { inputs: { x: uniform([2, 3, 4]) }, attrs: { pad: [0, 2], constantVal: -60000 }, note: "the last axis only" },
    { inputs: { x: uniform([1, 2, 3, 4]) }, attrs: { pad: [1, 2, 0, 1], mode: "constant" }, note: "the last two axes" },
    { inputs: { x: uniform([1, 2, 3, 2]) }, attrs: { pad: [1, 0, 0, 1, 1, 1, 0, 0] }, note: "every axis" },
    { inputs: { x: uniform([1, 2, 1, 2, 3]) }, attrs: { pad: [1, 1, 2, 0] }, note: "rank 5" },
    { inputs: { x: uniform([2, 5]) }, attrs: { pad: [3, 2], mode: "reflect" } },
    { inputs: { x: uniform([1, 2, 3, 4]) }, attrs: { pad: [2, 1, 0, 3], mode: "reflect" }, note: "the most there is" },
    { inputs: { x: uniform([2, 4]) }, attrs: { pad: [2, 3], mode: "replicate" } },
    { inputs: { x: uniform([1, 2, 1, 3]) }, attrs: { pad: [1, 1, 2, 0], mode: "replicate" }, note: "extent 1" },
    { inputs: { x: uniform([2, 3]) }, attrs: { pad: [0, 0, 0, 0] }, note: "nothing to add" },
  ],
  refuses: [
    { inputs: { x: int32([2, 3]) }, attrs: { pad: [1, 2] }, message: /^pad: /, note: "MIL's pad takes floats" },
    { inputs: { x: uniform([3, 4]) }, attrs: { pad: [1, 1, 1] }, message: /^pad: /, note: "odd number of entries" },
    { inputs: { x: uniform([4]) }, attrs: { pad: [1, 1, 1, 1] }, message: /^pad: /, note: "2 pairs for 1 axis" },
    { inputs: { x: uniform([4]) }, attrs: { pad: [-1, 1] }, message: /^pad: /, note: "negative" },
    { inputs: { x: uniform([4]) }, attrs: { pad: [4, 0], mode: "reflect" }, message: /^pad: /, note: "4 of extent 4" },
    { inputs: { x: uniform([2, 1]) }, attrs: { pad: [0, 1], mode: "reflect" }, message: /^pad: /, note: "extent 1" },
    { inputs: { x: uniform([4]) }, attrs: { pad: [1, 1], mode: "circular" }, message: /^pad: /, note: "unknown mode" },
  ],
};

const gatherCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([5]), indices: int32([3], [4, 0, 2]) } },
    { inputs: { x: uniform([4, 3]), indices: int32([6], [3, 3, 0, 1, 0, 3]) }, note: "rows more than once, one never" },
    { inputs: { x: uniform([4, 3]), indices: int32([2], [2, 0]) }, attrs: { axis: 1 } },
    { inputs: { x: uniform([4, 3]), indices: int32([3], [-1, -4, 1]) }, note: "counted from the end" },
    { inputs: { x: uniform([5, 2]), indices: int32([2, 3], [0, 4, 1, 1, 3, 2]) }, note: "indices of rank 2" },
    {
      inputs: { x: uniform([2, 3, 2]), indices: int32([2, 2], [2, 0, -1, 1]) },
      attrs: { axis: -2 },
      note: "indices of rank 2 in the middle",
    },
    { inputs: { x: uniform([2, 3, 4]), indices: int32([], [2]) }, attrs: { axis: -1 }, note: "a scalar index" },
    { inputs: { x: uniform([3]), indices: int32([], [1]) }, note: "to a scalar" },
    { inputs: { x: uniform([1, 2, 3, 2, 2]), indices: int32([1], [1]) }, attrs: { axis: 3 }, note: "rank 5" },
    { inputs: { x: uniform([1, 3]), indices: int32([4], [0, 0, -1, 0]) }, note: "one row" },
    { inputs: { x: int32([4, 2]), indices: int32([3], [3, 1, 1]) }, grad: false },
  ],
  refuses: [
    { inputs: { x: bool([6]), indices: int32([1], [0]) }, message: /^gather: /, note: "MIL's gather takes no bool" },
    { inputs: { x: uniform([4, 3]), indices: uniform([2], 0, 3) }, message: /^gather: /, note: "float indices" },
    { inputs: { x: uniform([4, 3]), indices: bool([2]) }, message: /^gather: /, note: "bool indices" },
    {
      inputs: { x: uniform([4, 3]), indices: int32([1], [0]) },
      attrs: { axis: 2 },
      message: /^gather: /,
      note: "axis",
    },
    {
      inputs: { x: uniform([4, 3]), indices: int32([1], [0]) },
      attrs: { axis: -3 },
      message: /^gather: /,
      note: "axis",
    },
    { inputs: { x: uniform([]), indices: int32([1], [0]) }, message: /^gather: /, note: "x is a scalar" },
  ],
};

const scatterCases: OpCases = {
  accepts: [
    { inputs: { data: uniform([5]), indices: int32([2], [3, 0]), updates: uniform([2]) } },
    {
      inputs: { data: uniform([4, 3]), indices: int32([5], [1, 1, 3, 0, 1]), updates: uniform([5, 3]) },
      note: "add into one row three times, one row never",
    },
    {
      inputs: { data: uniform([4, 3]), indices: int32([2], [2, 0]), updates: uniform([2, 3]) },
      attrs: { mode: "update" },
    },
    {
      inputs: { data: uniform([2, 4]), indices: int32([3], [3, 1, 2]), updates: uniform([2, 3]) },
      attrs: { axis: 1, mode: "update" },
    },
    {
      inputs: { data: uniform([2, 3, 2]), indices: int32([2], [2, 2]), updates: uniform([2, 2, 2]) },
      attrs: { axis: -2, mode: "add" },
    },
    {
      inputs: { data: uniform([2, 3, 4]), indices: int32([4], [3, 2, 1, 0]), updates: uniform([2, 3, 4]) },
      attrs: { axis: -1, mode: "update" },
      note: "every element replaced",
    },
    {
      inputs: { data: uniform([1, 2, 3, 2, 2]), indices: int32([1], [1]), updates: uniform([1, 2, 1, 2, 2]) },
      attrs: { axis: 2 },
      note: "rank 5",
    },
    { inputs: { data: uniform([1]), indices: int32([3], [0, 0, 0]), updates: uniform([3]) }, note: "all into one" },
    {
      inputs: { data: explicit([2], [60000, 1]), indices: int32([2], [0, 1]), updates: explicit([2], [-59968, -1]) },
      note: "cancellation",
    },
    {
      inputs: { data: int32([3, 2]), indices: int32([2], [2, 2]), updates: int32([2, 2]) },
      attrs: { mode: "add" },
      grad: false,
    },
  ],
  refuses: [
    {
      inputs: { data: uniform([4, 3]), indices: uniform([2], 0, 3), updates: uniform([2, 3]) },
      message: /^scatter: /,
      note: "float indices",
    },
    {
      inputs: { data: uniform([4, 3]), indices: int32([2, 1], [0, 1]), updates: uniform([2, 1, 3]) },
      message: /^scatter: /,
      note: "indices of rank 2",
    },
    {
      inputs: { data: uniform([4, 3]), indices: int32([2], [0, 1]), updates: uniform([3, 3]) },
      message: /^scatter: /,
      note: "3 updates for 2 indices",
    },
    {
      inputs: { data: uniform([4, 3]), indices: int32([2], [0, 1]), updates: uniform([2]) },
      message: /^scatter: /,
      note: "updates of rank 1",
    },
    {
      inputs: { data: uniform([4, 3]), indices: int32([2], [0, 1]), updates: uniform([2, 3]) },
      attrs: { axis: 2 },
      message: /^scatter: /,
      note: "axis out of range",
    },
    {
      inputs: { data: uniform([4, 3]), indices: int32([2], [0, 1]), updates: uniform([2, 3]) },
      attrs: { mode: "replace" },
      message: /^scatter: /,
      note: "unknown mode",
    },
    {
      inputs: { data: uniform([4]), indices: int32([2], [0, 1]), updates: int32([2]) },
      message: /^scatter: /,
      note: "mixed dtypes",
    },
  ],
};

const cumsumCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([7]) } },
    { inputs: { x: uniform([4, 3]) }, note: "axis 0 by default" },
    { inputs: { x: uniform([3, 5]) }, attrs: { axis: -1, exclusive: true } },
    { inputs: { x: uniform([3, 5]) }, attrs: { axis: 1, reverse: true } },
    { inputs: { x: uniform([2, 4, 3]) }, attrs: { axis: -2, exclusive: true, reverse: true } },
    { inputs: { x: uniform([2, 1, 3]) }, attrs: { axis: 1 }, note: "extent 1" },
    { inputs: { x: uniform([2, 1, 3]) }, attrs: { axis: 1, exclusive: true }, note: "extent 1: zeros" },
    { inputs: { x: uniform([1, 2, 3, 2, 2]) }, attrs: { axis: 2, exclusive: false, reverse: false }, note: "rank 5" },
    { inputs: { x: uniform([61], 0, 1) }, note: "many terms" },
    { inputs: { x: explicit([4], [60000, -60000, 0.5, 59968]) }, note: "large terms that cancel" },
    { inputs: { x: explicit([4], [60000, -60000, 0.5, 59968]) }, attrs: { exclusive: true }, note: "large terms" },
    { inputs: { x: int32([3, 4]) }, attrs: { axis: 1 }, grad: false },
  ],
  refuses: [
    { inputs: { x: uniform([3, 4]) }, attrs: { axis: 2 }, message: /^cumsum: /, note: "axis out of range" },
    { inputs: { x: uniform([3, 4]) }, attrs: { axis: -3 }, message: /^cumsum: /, note: "axis out of range" },
    { inputs: { x: uniform([3, 4]) }, attrs: { axis: 0.5 }, message: /^cumsum: /, note: "a fraction" },
    { inputs: { x: uniform([]) }, message: /^cumsum: /, note: "a scalar has no axis" },
    { inputs: { x: bool([4]) }, message: /^cumsum: /, note: "bool" },
  ],
};

const upsampleNearestNeighborCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([1, 2, 3, 4]) }, attrs: { scaleFactorHeight: 2, scaleFactorWidth: 2 } },
    { inputs: { x: uniform([2, 1, 2, 3]) }, attrs: { scaleFactorHeight: 3, scaleFactorWidth: 2 } },
    { inputs: { x: uniform([1, 3, 2, 3]) }, attrs: { scaleFactorHeight: 4 }, note: "height only" },
    { inputs: { x: uniform([1, 3, 2, 3]) }, attrs: { scaleFactorWidth: 3 }, note: "width only" },
    { inputs: { x: uniform([1, 3, 2, 3]) }, note: "identity" },
    { inputs: { x: uniform([2, 2, 1, 1]) }, attrs: { scaleFactorHeight: 3, scaleFactorWidth: 5 }, note: "one pixel" },
  ],
  refuses: [
    {
      inputs: { x: uniform([2, 3, 4]) },
      attrs: { scaleFactorHeight: 2, scaleFactorWidth: 2 },
      message: /^upsample_nearest_neighbor: /,
      note: "rank 3",
    },
    {
      inputs: { x: uniform([1, 2, 3, 4, 5]) },
      attrs: { scaleFactorHeight: 2, scaleFactorWidth: 2 },
      message: /^upsample_nearest_neighbor: /,
      note: "rank 5",
    },
    {
      inputs: { x: uniform([1, 2, 3, 4]) },
      attrs: { scaleFactorHeight: 0, scaleFactorWidth: 2 },
      message: /^upsample_nearest_neighbor: /,
      note: "factor 0",
    },
    {
      inputs: { x: uniform([1, 2, 3, 4]) },
      attrs: { scaleFactorHeight: 2, scaleFactorWidth: 1.5 },
      message: /^upsample_nearest_neighbor: /,
      note: "a fraction",
    },
  ],
};

const pixelShuffleCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([1, 4, 2, 3]) }, attrs: { upscaleFactor: 2 } },
    { inputs: { x: uniform([2, 8, 2, 1]) }, attrs: { upscaleFactor: 2 }, note: "two channels remain" },
    { inputs: { x: uniform([1, 18, 1, 2]) }, attrs: { upscaleFactor: 3 } },
    { inputs: { x: uniform([1, 3, 2, 2]) }, attrs: { upscaleFactor: 1 }, note: "identity" },
  ],
  refuses: [
    { inputs: { x: uniform([1, 6, 2, 2]) }, attrs: { upscaleFactor: 2 }, message: /^pixel_shuffle: /, note: "6 by 4" },
    { inputs: { x: uniform([4, 2, 2]) }, attrs: { upscaleFactor: 2 }, message: /^pixel_shuffle: /, note: "rank 3" },
    {
      inputs: { x: uniform([1, 4, 2, 2]) },
      attrs: { upscaleFactor: 0 },
      message: /^pixel_shuffle: /,
      note: "factor 0",
    },
    {
      inputs: { x: uniform([1, 4, 2, 2]) },
      attrs: { upscaleFactor: -2 },
      message: /^pixel_shuffle: /,
      note: "factor -2",
    },
  ],
};

const pixelUnshuffleCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([1, 1, 4, 6]) }, attrs: { downscaleFactor: 2 } },
    { inputs: { x: uniform([2, 2, 4, 2]) }, attrs: { downscaleFactor: 2 }, note: "two channels" },
    { inputs: { x: uniform([1, 2, 3, 6]) }, attrs: { downscaleFactor: 3 } },
    { inputs: { x: uniform([1, 3, 2, 2]) }, attrs: { downscaleFactor: 1 }, note: "identity" },
  ],
  refuses: [
    {
      inputs: { x: uniform([1, 2, 3, 4]) },
      attrs: { downscaleFactor: 2 },
      message: /^pixel_unshuffle: /,
      note: "height",
    },
    {
      inputs: { x: uniform([1, 2, 4, 5]) },
      attrs: { downscaleFactor: 2 },
      message: /^pixel_unshuffle: /,
      note: "width",
    },
    { inputs: { x: uniform([2, 4, 4]) }, attrs: { downscaleFactor: 2 }, message: /^pixel_unshuffle: /, note: "rank 3" },
    {
      inputs: { x: uniform([1, 2, 4, 4]) },
      attrs: { downscaleFactor: 0 },
      message: /^pixel_unshuffle: /,
      note: "factor 0",
    },
  ],
};

export const cases: Record<string, OpCases> = {
  reshape: reshapeCases,
  transpose: transposeCases,
  expand_dims: expandDimsCases,
  squeeze: squeezeCases,
  slice_by_index: sliceByIndexCases,
  slice_by_size: sliceBySizeCases,
  concat: concatCases,
  split: splitCases,
  stack: stackCases,
  tile: tileCases,
  pad: padCases,
  gather: gatherCases,
  scatter: scatterCases,
  cumsum: cumsumCases,
  upsample_nearest_neighbor: upsampleNearestNeighborCases,
  pixel_shuffle: pixelShuffleCases,
  pixel_unshuffle: pixelUnshuffleCases,
};
