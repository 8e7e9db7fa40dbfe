// Float64 references and cases of the contractions and pools: matmul, linear, conv, conv_transpose, max_pool, avg_pool.
import {
  type Attrs,
  at,
  booleanAttr,
  broadcastShapes,
  build,
  everyCoordinate,
  indexOf,
  numberAttr,
  numbersAttr,
  operand,
  optionalOperand,
  sizeOf,
  stringAttr,
} from "./helpers.ts";
import type { CaseInput, OpCases, Reference, RefTensor } from "./types.ts";

const matmul: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const y = operand(inputs, "y");
  const transposeX = booleanAttr(attrs, "transposeX", false);
  const transposeY = booleanAttr(attrs, "transposeY", false);
  const rows = x.shape.at(transposeX ? -1 : -2)!;
  const depth = x.shape.at(transposeX ? -2 : -1)!;
  const depthY = y.shape.at(transposeY ? -1 : -2)!;
  const columns = y.shape.at(transposeY ? -2 : -1)!;
  if (x.shape.length < 2 || y.shape.length < 2 || depth !== depthY) throw new Error(`[${x.shape}] by [${y.shape}]`);
  const batch = broadcastShapes(x.shape.slice(0, -2), y.shape.slice(0, -2));
  const result = build([...batch, rows, columns], (coordinates) => {
    const where = coordinates.slice(0, -2);
    const row = coordinates.at(-2)!;
    const column = coordinates.at(-1)!;
    let sum = 0;
    for (let k = 0; k < depth; k++) {
      const left = broadcastMatrix(x, where, transposeX ? k : row, transposeX ? row : k);
      const right = broadcastMatrix(y, where, transposeY ? column : k, transposeY ? k : column);
      sum += left * right;
    }
    return sum;
  });
  return [result];
};

/** Element [row, column] of the matrix that broadcasting puts at the batch coordinates. */
function broadcastMatrix(x: RefTensor, batch: readonly number[], row: number, column: number): number {
  const ownBatch = batch.slice(batch.length - (x.shape.length - 2));
  const coordinates = ownBatch.map((coordinate, axis) => (x.shape[axis] === 1 ? 0 : coordinate));
  return at(x, [...coordinates, row, column]);
}

const linear: Reference = (inputs) => {
  const x = operand(inputs, "x");
  const weight = operand(inputs, "weight");
  const bias = optionalOperand(inputs, "bias");
  const [outputs, depth] = [weight.shape[0]!, weight.shape[1]!];
  if (x.shape.at(-1) !== depth) throw new Error(`[${x.shape}] by [${weight.shape}]`);
  const result = build([...x.shape.slice(0, -1), outputs], (coordinates) => {
    const n = coordinates.at(-1)!;
    let sum = bias === undefined ? 0 : at(bias, [n]);
    for (let k = 0; k < depth; k++) sum += at(x, [...coordinates.slice(0, -1), k]) * at(weight, [n, k]);
    return sum;
  });
  return [result];
};

/** One spatial axis of a sliding window. */
interface Window {
  readonly extent: number;
  readonly kernel: number;
  readonly stride: number;
  readonly dilation: number;
  readonly padBegin: number;
  readonly padEnd: number;
}

/** The windows along the spatial axes of x, with the padding that padType asks for. */
function windowsOf(x: RefTensor, kernel: readonly number[], attrs: Attrs, dilations: readonly number[]): Window[] {
  const ones = kernel.map(() => 1);
  const strides = numbersAttr(attrs, "strides", ones);
  const padType = stringAttr(attrs, "padType", "valid");
  const pad = padType === "custom" ? numbersAttr(attrs, "pad") : kernel.flatMap(() => [0, 0]);
  return kernel.map((extentOfKernel, axis) => {
    const extent = x.shape[axis + 2]!;
    const stride = strides[axis]!;
    const dilation = dilations[axis]!;
    let padBegin = pad[2 * axis]!;
    let padEnd = pad[2 * axis + 1]!;
    if (padType === "same" || padType === "same_lower") {
      const reach = (extentOfKernel - 1) * dilation + 1;
      const total = Math.max(0, (Math.ceil(extent / stride) - 1) * stride + reach - extent);
      const smaller = Math.floor(total / 2);
      padBegin = padType === "same" ? smaller : total - smaller;
      padEnd = total - padBegin;
    } else if (padType !== "valid" && padType !== "custom") {
      throw new Error(`padType ${padType}`);
    }
    return { extent, kernel: extentOfKernel, stride, dilation, padBegin, padEnd };
  });
}

/** How many windows lie in the padded axis. */
function windowCount(w: Window): number {
  const reach = (w.kernel - 1) * w.dilation + 1;
  return Math.floor((w.extent + w.padBegin + w.padEnd - reach) / w.stride) + 1;
}

/** Input coordinate of every spatial axis under a kernel tap of a window; negative or too large in the padding. */
function tapsAt(windows: readonly Window[], position: readonly number[], tap: readonly number[]): number[] {
  return windows.map((w, axis) => position[axis]! * w.stride + tap[axis]! * w.dilation - w.padBegin);
}

function isInside(windows: readonly Window[], spatial: readonly number[]): boolean {
  return windows.every((w, axis) => spatial[axis]! >= 0 && spatial[axis]! < w.extent);
}

const conv: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const weight = operand(inputs, "weight");
  const bias = optionalOperand(inputs, "bias");
  const groups = numberAttr(attrs, "groups", 1);
  const outputs = weight.shape[0]!;
  const channelsPerGroup = weight.shape[1]!;
  const outputsPerGroup = outputs / groups;
  if (x.shape[1] !== channelsPerGroup * groups) throw new Error(`[${x.shape}] with weight [${weight.shape}]`);
  const kernel = weight.shape.slice(2);
  const dilations = numbersAttr(
    attrs,
    "dilations",
    kernel.map(() => 1),
  );
  const windows = windowsOf(x, kernel, attrs, dilations);
  const result = build([x.shape[0]!, outputs, ...windows.map(windowCount)], (coordinates) => {
    const [n, o] = [coordinates[0]!, coordinates[1]!];
    const group = Math.floor(o / outputsPerGroup);
    let sum = bias === undefined ? 0 : at(bias, [o]);
    for (let c = 0; c < channelsPerGroup; c++) {
      for (const tap of everyCoordinate(kernel)) {
        const spatial = tapsAt(windows, coordinates.slice(2), tap);
        if (!isInside(windows, spatial)) continue;
        sum += at(x, [n, group * channelsPerGroup + c, ...spatial]) * at(weight, [o, c, ...tap]);
      }
    }
    return sum;
  });
  return [result];
};

const convTranspose: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const weight = operand(inputs, "weight");
  const bias = optionalOperand(inputs, "bias");
  const groups = numberAttr(attrs, "groups", 1);
  const channels = weight.shape[0]!;
  const outputsPerGroup = weight.shape[1]!;
  const channelsPerGroup = channels / groups;
  if (x.shape[1] !== channels) throw new Error(`[${x.shape}] with weight [${weight.shape}]`);
  const kernel = weight.shape.slice(2);
  const ones = kernel.map(() => 1);
  const strides = numbersAttr(attrs, "strides", ones);
  const dilations = numbersAttr(attrs, "dilations", ones);
  const padType = stringAttr(attrs, "padType", "valid");
  if (padType !== "valid" && padType !== "custom") throw new Error(`padType ${padType}`);
  const pad = padType === "custom" ? numbersAttr(attrs, "pad") : kernel.flatMap(() => [0, 0]);
  const extents = kernel.map((k, axis) => {
    const full = (x.shape[axis + 2]! - 1) * strides[axis]! + (k - 1) * dilations[axis]! + 1;
    return full - pad[2 * axis]! - pad[2 * axis + 1]!;
  });
  // Every input element adds its multiple of the kernel to the outputs that the kernel reaches from there.
  const result = build([x.shape[0]!, outputsPerGroup * groups, ...extents], (coordinates) =>
    bias === undefined ? 0 : at(bias, [coordinates[1]!]),
  );
  for (const coordinates of everyCoordinate(x.shape)) {
    const [n, c] = [coordinates[0]!, coordinates[1]!];
    const group = Math.floor(c / channelsPerGroup);
    for (let o = 0; o < outputsPerGroup; o++) {
      for (const tap of everyCoordinate(kernel)) {
        const spatial = kernel.map(
          (_, axis) => coordinates[axis + 2]! * strides[axis]! + tap[axis]! * dilations[axis]! - pad[2 * axis]!,
        );
        if (!spatial.every((position, axis) => position >= 0 && position < extents[axis]!)) continue;
        const target = indexOf([n, group * outputsPerGroup + o, ...spatial], result.shape);
        result.data[target]! += at(x, coordinates) * at(weight, [c, o, ...tap]);
      }
    }
  }
  return [result];
};

/** The windows of a pool and how many of them each spatial axis has. */
function poolWindows(x: RefTensor, attrs: Attrs): { kernel: readonly number[]; windows: Window[]; counts: number[] } {
  const kernel = numbersAttr(attrs, "kernelSizes");
  const ceilMode = booleanAttr(attrs, "ceilMode", false);
  const windows = windowsOf(
    x,
    kernel,
    attrs,
    kernel.map(() => 1),
  );
  const counts = windows.map((w) => {
    if (!ceilMode) return windowCount(w);
    const count = Math.ceil((w.extent + w.padBegin + w.padEnd - w.kernel) / w.stride) + 1;
    const startsBeyond = (count - 1) * w.stride >= w.extent + w.padBegin;
    return startsBeyond ? count - 1 : count;
  });
  return { kernel, windows, counts };
}

const maxPool: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const { kernel, windows, counts } = poolWindows(x, attrs);
  const result = build([x.shape[0]!, x.shape[1]!, ...counts], (coordinates) => {
    let best = -Infinity;
    for (const tap of everyCoordinate(kernel)) {
      const spatial = tapsAt(windows, coordinates.slice(2), tap);
      if (!isInside(windows, spatial)) continue;
      best = Math.max(best, at(x, [coordinates[0]!, coordinates[1]!, ...spatial]));
    }
    return best;
  });
  return [result];
};

const avgPool: Reference = (inputs, attrs) => {
  const x = operand(inputs, "x");
  const excludePadding = booleanAttr(attrs, "excludePaddingFromAverage", false);
  const { kernel, windows, counts } = poolWindows(x, attrs);
  const result = build([x.shape[0]!, x.shape[1]!, ...counts], (coordinates) => {
    let sum = 0;
    let elements = 0;
    let places = 0;
    for (const tap of everyCoordinate(kernel)) {
      const spatial = tapsAt(windows, coordinates.slice(2), tap);
      const beyondPadding = windows.some((w, axis) => spatial[axis]! >= w.extent + w.padEnd);
      if (!beyondPadding) places++;
      if (!isInside(windows, spatial)) continue;
      elements++;
      sum += at(x, [coordinates[0]!, coordinates[1]!, ...spatial]);
    }
    return sum / (excludePadding ? elements : places);
  });
  return [result];
};

export const references: Record<string, Reference> = {
  matmul,
  linear,
  conv,
  conv_transpose: convTranspose,
  max_pool: maxPool,
  avg_pool: avgPool,
};

/** A float operand of uniform numbers. */
function uniform(shape: readonly number[], low = -1, high = 1): CaseInput {
  return { shape, range: [low, high] };
}

/** A float operand of uniform numbers that are pairwise at least `spacing` apart. */
function spaced(shape: readonly number[], low = -5, high = 5): CaseInput {
  return { shape, range: [low, high], spacing: 0.02 };
}

function explicit(shape: readonly number[], values: readonly number[]): CaseInput {
  return { shape, values };
}

function int32(shape: readonly number[]): CaseInput {
  return { shape, dtype: "int32", values: Array.from({ length: sizeOf(shape) }, (_, index) => index) };
}

const matmulCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([3, 5]), y: uniform([5, 4]) } },
    { inputs: { x: uniform([1, 1]), y: uniform([1, 1]) } },
    { inputs: { x: uniform([5, 3]), y: uniform([5, 4]) }, attrs: { transposeX: true } },
    { inputs: { x: uniform([3, 5]), y: uniform([4, 5]) }, attrs: { transposeX: false, transposeY: true } },
    { inputs: { x: uniform([2, 5, 3]), y: uniform([2, 4, 5]) }, attrs: { transposeX: true, transposeY: true } },
    { inputs: { x: uniform([2, 1, 3, 4]), y: uniform([1, 3, 4, 2]) }, note: "both batches broadcast" },
    { inputs: { x: uniform([2, 3, 3, 2]), y: uniform([2, 5]) }, note: "the right operand has no batch axes" },
    { inputs: { x: uniform([3, 4]), y: uniform([3, 2, 4, 1]) }, note: "the left operand has no batch axes" },
    {
      inputs: { x: uniform([2, 2, 3]), y: uniform([3, 1, 4, 3]) },
      attrs: { transposeY: true },
      note: "batches of different rank",
    },
    { inputs: { x: uniform([1, 2, 1, 3, 2]), y: uniform([2, 1, 2, 2, 3]) }, note: "rank 5" },
    { inputs: { x: uniform([1, 7]), y: uniform([7, 1]) }, note: "inner product" },
    { inputs: { x: uniform([7, 1]), y: uniform([1, 7]) }, note: "outer product" },
    { inputs: { x: uniform([2, 67], 0, 1), y: uniform([67, 1], 0, 1) }, note: "long depth" },
    {
      inputs: { x: explicit([1, 2], [200, 100]), y: explicit([2, 1], [200, 199]) },
      note: "59900, near the fp16 limit",
    },
    {
      inputs: { x: explicit([1, 3], [300, -300, 1]), y: explicit([3, 1], [300, 300, 0.5]) },
      note: "cancellation: partial sums beyond the fp16 range, the result 0.5 is not",
    },
  ],
  refuses: [
    { inputs: { x: uniform([3, 5]), y: uniform([4, 5]) }, message: /^matmul: /, note: "5 against 4" },
    { inputs: { x: uniform([5]), y: uniform([5, 4]) }, message: /^matmul: /, note: "rank 1" },
    { inputs: { x: uniform([3, 5]), y: uniform([5]) }, message: /^matmul: /, note: "rank 1" },
    { inputs: { x: uniform([2, 3, 5]), y: uniform([3, 5, 4]) }, message: /^matmul: /, note: "batches 2 and 3" },
    {
      inputs: { x: uniform([3, 5]), y: uniform([5, 4]) },
      attrs: { transposeY: true },
      message: /^matmul: /,
      note: "depths after the transpose",
    },
    { inputs: { x: uniform([2, 2]), y: int32([2, 2]) }, message: /^matmul: /, note: "mixed dtypes" },
  ],
};

const linearCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([5]), weight: uniform([3, 5]) }, note: "rank 1" },
    { inputs: { x: uniform([4, 5]), weight: uniform([3, 5]) } },
    { inputs: { x: uniform([4, 5]), weight: uniform([3, 5]), bias: uniform([3], -2, 2) } },
    { inputs: { x: uniform([2, 3, 4]), weight: uniform([5, 4]), bias: uniform([5]) }, note: "rank 3" },
    { inputs: { x: uniform([1, 1]), weight: uniform([1, 1]), bias: uniform([1]) } },
    { inputs: { x: uniform([3]), weight: uniform([1, 3]), bias: uniform([1]) }, note: "rank 1 with bias" },
    { inputs: { x: uniform([1, 61], 0, 1), weight: uniform([3, 61], 0, 1) }, note: "long depth" },
    {
      inputs: {
        x: explicit([2, 2], [200, 100, -200, 100]),
        weight: explicit([1, 2], [200, 190]),
        bias: explicit([1], [500]),
      },
      note: "59500 and -20500",
    },
    {
      inputs: {
        x: explicit([1, 2], [256, 256]),
        weight: explicit([1, 2], [256, -256]),
        bias: explicit([1], [0.25]),
      },
      note: "cancellation: the bias is all that remains",
    },
  ],
  refuses: [
    { inputs: { x: uniform([4, 5]), weight: uniform([3, 4]) }, message: /^linear: /, note: "5 against 4" },
    { inputs: { x: uniform([2, 2, 2, 5]), weight: uniform([3, 5]) }, message: /^linear: /, note: "rank 4" },
    { inputs: { x: uniform([]), weight: uniform([3, 1]) }, message: /^linear: /, note: "rank 0" },
    { inputs: { x: uniform([4, 5]), weight: uniform([5]) }, message: /^linear: /, note: "weight of rank 1" },
    {
      inputs: { x: uniform([4, 5]), weight: uniform([3, 5]), bias: uniform([5]) },
      message: /^linear: /,
      note: "bias of 5 for 3 outputs",
    },
    {
      inputs: { x: uniform([4, 5]), weight: uniform([3, 5]), bias: uniform([1, 3]) },
      message: /^linear: /,
      note: "bias of rank 2",
    },
    { inputs: { x: uniform([4, 5]), weight: int32([3, 5]) }, message: /^linear: /, note: "int32 weight" },
  ],
};

const convCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([1, 4, 1, 7]), weight: uniform([3, 4, 1, 1]) }, note: "1 by 1" },
    {
      inputs: { x: uniform([1, 4, 1, 7]), weight: uniform([3, 4, 1, 1]), bias: uniform([3]) },
      note: "1 by 1 with bias",
    },
    { inputs: { x: uniform([2, 3, 5, 6]), weight: uniform([2, 3, 3, 2]) }, note: "valid, two samples" },
    { inputs: { x: uniform([2, 3, 8]), weight: uniform([4, 3, 3]), bias: uniform([4]) }, note: "one spatial axis" },
    {
      inputs: { x: uniform([1, 2, 5, 5]), weight: uniform([3, 2, 3, 3]) },
      attrs: { padType: "custom", pad: [1, 1, 1, 1] },
    },
    {
      inputs: { x: uniform([1, 2, 4, 5]), weight: uniform([2, 2, 3, 2]), bias: uniform([2]) },
      attrs: { strides: [2, 1], padType: "custom", pad: [0, 2, 1, 0], dilations: [1, 2] },
      note: "nothing symmetric",
    },
    {
      inputs: { x: uniform([1, 2, 7]), weight: uniform([2, 2, 2]) },
      attrs: { strides: [3], padType: "custom", pad: [1, 0] },
      note: "the last element is under no window",
    },
    {
      inputs: { x: uniform([1, 2, 5, 6]), weight: uniform([2, 2, 2, 4]) },
      attrs: { padType: "same" },
      note: "even kernel: the extra padding at the end",
    },
    {
      inputs: { x: uniform([1, 2, 5, 6]), weight: uniform([2, 2, 2, 4]) },
      attrs: { padType: "same_lower" },
      note: "even kernel: the extra padding at the beginning",
    },
    {
      inputs: { x: uniform([1, 1, 7, 6]), weight: uniform([2, 1, 3, 3]), bias: uniform([2]) },
      attrs: { strides: [2, 2], padType: "same", dilations: [2, 1] },
      note: "same with strides and dilations",
    },
    {
      inputs: { x: uniform([1, 2, 6]), weight: uniform([1, 2, 3]) },
      attrs: { strides: [2], padType: "same_lower" },
    },
    {
      inputs: { x: uniform([1, 2, 7, 7]), weight: uniform([2, 2, 1, 1]) },
      attrs: { strides: [3, 2], padType: "same" },
      note: "strides above the kernel: no padding",
    },
    {
      inputs: { x: uniform([1, 4, 4, 4]), weight: uniform([6, 2, 2, 2]), bias: uniform([6]) },
      attrs: { groups: 2 },
    },
    {
      inputs: { x: uniform([2, 3, 5]), weight: uniform([6, 1, 3]) },
      attrs: { groups: 3, padType: "custom", pad: [2, 0] },
      note: "depthwise with two filters a channel, causal",
    },
    {
      inputs: { x: uniform([1, 2, 9]), weight: uniform([2, 2, 3]) },
      attrs: { dilations: [3], strides: [2], padType: "valid", pad: [0, 0] },
    },
    {
      inputs: { x: uniform([1, 2, 2, 1]), weight: uniform([2, 2, 3, 3]) },
      attrs: { padType: "custom", pad: [2, 2, 1, 1] },
      note: "kernel larger than the image",
    },
    {
      inputs: {
        x: explicit([1, 2, 1, 2], [200, 250, 100, 40]),
        weight: explicit([1, 2, 1, 1], [200, 199]),
        bias: explicit([1], [-100]),
      },
      note: "59800 and 57860, near the fp16 limit",
    },
  ],
  refuses: [
    { inputs: { x: uniform([4, 7]), weight: uniform([3, 4]) }, message: /^conv: /, note: "rank 2" },
    { inputs: { x: uniform([1, 2, 3, 3, 3]), weight: uniform([2, 2, 1, 1, 1]) }, message: /^conv: /, note: "rank 5" },
    { inputs: { x: uniform([1, 4, 7]), weight: uniform([3, 4, 1, 1]) }, message: /^conv: /, note: "ranks 3 and 4" },
    {
      inputs: { x: uniform([1, 4, 5, 5]), weight: uniform([3, 3, 1, 1]) },
      message: /^conv: /,
      note: "4 channels, not 3",
    },
    {
      inputs: { x: uniform([1, 4, 5, 5]), weight: uniform([3, 4, 1, 1]), bias: uniform([4]) },
      message: /^conv: /,
      note: "bias of 4 for 3 outputs",
    },
    {
      inputs: { x: uniform([1, 4, 5, 5]), weight: uniform([3, 4, 1, 1]) },
      attrs: { groups: 3 },
      message: /^conv: /,
      note: "3 groups of 4 channels",
    },
    {
      inputs: { x: uniform([1, 4, 5, 5]), weight: uniform([3, 2, 1, 1]) },
      attrs: { groups: 2 },
      message: /^conv: /,
      note: "3 outputs in 2 groups",
    },
    {
      inputs: { x: uniform([1, 1, 2, 5]), weight: uniform([1, 1, 3, 3]) },
      message: /^conv: /,
      note: "kernel too large",
    },
    {
      inputs: { x: uniform([1, 1, 5, 5]), weight: uniform([1, 1, 3, 3]) },
      attrs: { padType: "custom" },
      message: /^conv: /,
      note: "custom without pad",
    },
    {
      inputs: { x: uniform([1, 1, 5, 5]), weight: uniform([1, 1, 3, 3]) },
      attrs: { padType: "custom", pad: [1, 1] },
      message: /^conv: /,
      note: "pad of 2 entries for 2 axes",
    },
    {
      inputs: { x: uniform([1, 1, 5, 5]), weight: uniform([1, 1, 3, 3]) },
      attrs: { padType: "custom", pad: [1, 1, -1, 1] },
      message: /^conv: /,
      note: "negative pad",
    },
    {
      inputs: { x: uniform([1, 1, 5, 5]), weight: uniform([1, 1, 3, 3]) },
      attrs: { padType: "full" },
      message: /^conv: /,
      note: "unknown padType",
    },
    {
      inputs: { x: uniform([1, 1, 5, 5]), weight: uniform([1, 1, 3, 3]) },
      attrs: { strides: [0, 1] },
      message: /^conv: /,
      note: "stride 0",
    },
    {
      inputs: { x: uniform([1, 1, 5, 5]), weight: uniform([1, 1, 3, 3]) },
      attrs: { strides: [2] },
      message: /^conv: /,
      note: "one stride for 2 axes",
    },
    {
      inputs: { x: uniform([1, 1, 5, 5]), weight: uniform([1, 1, 3, 3]) },
      attrs: { dilations: [1, 0] },
      message: /^conv: /,
      note: "dilation 0",
    },
    { inputs: { x: int32([1, 1, 2, 2]), weight: uniform([1, 1, 1, 1]) }, message: /^conv: /, note: "int32 image" },
  ],
};

const convTransposeCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([1, 2, 3, 4]), weight: uniform([2, 3, 2, 3]) } },
    { inputs: { x: uniform([2, 2, 5]), weight: uniform([2, 3, 3]), bias: uniform([3]) }, note: "one spatial axis" },
    { inputs: { x: uniform([1, 3, 2, 2]), weight: uniform([3, 2, 1, 1]), bias: uniform([2]) }, note: "1 by 1" },
    { inputs: { x: uniform([1, 2, 3, 3]), weight: uniform([2, 2, 2, 2]) }, attrs: { strides: [2, 2] } },
    {
      inputs: { x: uniform([1, 2, 3, 3]), weight: uniform([2, 1, 2, 1]), bias: uniform([1]) },
      attrs: { strides: [3, 2] },
      note: "outputs that nothing reaches hold the bias",
    },
    {
      inputs: { x: uniform([1, 2, 3, 3]), weight: uniform([2, 2, 3, 3]) },
      attrs: { strides: [2, 2], padType: "custom", pad: [1, 1, 1, 1] },
    },
    {
      inputs: { x: uniform([1, 2, 3, 2]), weight: uniform([2, 2, 2, 3]), bias: uniform([2]) },
      attrs: { strides: [1, 2], padType: "custom", pad: [1, 0, 0, 2], dilations: [2, 1] },
      note: "nothing symmetric",
    },
    {
      inputs: { x: uniform([1, 4, 3, 2]), weight: uniform([4, 3, 2, 2]), bias: uniform([6]) },
      attrs: { groups: 2, strides: [2, 1] },
    },
    { inputs: { x: uniform([2, 3, 4]), weight: uniform([3, 1, 3]) }, attrs: { groups: 3 }, note: "depthwise" },
    {
      inputs: { x: uniform([1, 1, 4]), weight: uniform([1, 2, 3]) },
      attrs: { padType: "custom", pad: [2, 2], dilations: [2] },
    },
    { inputs: { x: uniform([1, 2, 1, 1]), weight: uniform([2, 2, 3, 2]) }, attrs: { padType: "valid" } },
    {
      inputs: { x: explicit([1, 1, 2], [200, 150]), weight: explicit([1, 1, 2], [150, 200]) },
      note: "30000, 62500, 30000",
    },
  ],
  refuses: [
    { inputs: { x: uniform([2, 3]), weight: uniform([2, 3]) }, message: /^conv_transpose: /, note: "rank 2" },
    { inputs: { x: uniform([1, 2, 3]), weight: uniform([2, 3, 1, 1]) }, message: /^conv_transpose: /, note: "3 and 4" },
    {
      inputs: { x: uniform([1, 3, 4, 4]), weight: uniform([2, 3, 1, 1]) },
      message: /^conv_transpose: /,
      note: "3 channels, weight of 2",
    },
    {
      inputs: { x: uniform([1, 4, 3]), weight: uniform([4, 3, 2]), bias: uniform([3]) },
      attrs: { groups: 2 },
      message: /^conv_transpose: /,
      note: "bias of 3 for 6 outputs",
    },
    {
      inputs: { x: uniform([1, 3, 3]), weight: uniform([3, 3, 2]) },
      attrs: { groups: 2 },
      message: /^conv_transpose: /,
      note: "3 channels in 2 groups",
    },
    {
      inputs: { x: uniform([1, 1, 2, 2]), weight: uniform([1, 1, 2, 2]) },
      attrs: { padType: "custom", pad: [2, 1, 0, 0] },
      message: /^conv_transpose: /,
      note: "nothing is left of the first axis",
    },
    {
      inputs: { x: uniform([1, 1, 2, 2]), weight: uniform([1, 1, 2, 2]) },
      attrs: { padType: "custom" },
      message: /^conv_transpose: /,
      note: "custom without pad",
    },
    {
      inputs: { x: uniform([1, 1, 2, 2]), weight: uniform([1, 1, 2, 2]) },
      attrs: { strides: [1, 0] },
      message: /^conv_transpose: /,
      note: "stride 0",
    },
    {
      inputs: { x: uniform([1, 1, 2, 2]), weight: uniform([1, 1, 2, 2]) },
      attrs: { padType: "same_lower" },
      message: /^conv_transpose: /,
      note: "padType outside valid and custom",
    },
    { inputs: { x: int32([1, 1, 2]), weight: uniform([1, 1, 2]) }, message: /^conv_transpose: /, note: "int32 image" },
  ],
};

const maxPoolCases: OpCases = {
  accepts: [
    { inputs: { x: spaced([1, 2, 4, 6]) }, attrs: { kernelSizes: [2, 2], strides: [2, 2] } },
    { inputs: { x: spaced([2, 2, 4, 5]) }, attrs: { kernelSizes: [3, 2] }, note: "strides default to 1" },
    { inputs: { x: spaced([2, 3, 7]) }, attrs: { kernelSizes: [3], strides: [2] }, note: "one spatial axis" },
    { inputs: { x: spaced([1, 3, 3, 3]) }, attrs: { kernelSizes: [1, 1] }, note: "identity" },
    { inputs: { x: spaced([1, 3, 3, 4]) }, attrs: { kernelSizes: [3, 4], padType: "valid" }, note: "one window" },
    {
      inputs: { x: spaced([1, 2, 4, 4], -9, -1) },
      attrs: { kernelSizes: [3, 3], strides: [2, 2], padType: "custom", pad: [1, 1, 1, 1] },
      note: "all negative: the padding must not win",
    },
    {
      inputs: { x: spaced([1, 2, 4, 5], -9, -1) },
      attrs: { kernelSizes: [3, 2], strides: [1, 2], padType: "custom", pad: [2, 0, 0, 1] },
    },
    { inputs: { x: spaced([1, 2, 5, 6], -9, -1) }, attrs: { kernelSizes: [2, 3], strides: [2, 2], padType: "same" } },
    {
      inputs: { x: spaced([1, 2, 5, 6]) },
      attrs: { kernelSizes: [2, 2], strides: [2, 3], ceilMode: true },
      note: "the last window hangs over the end",
    },
    {
      inputs: { x: spaced([1, 2, 5]) },
      attrs: { kernelSizes: [2], strides: [2], padType: "custom", pad: [1, 1], ceilMode: true },
      note: "a window that would start in the end padding is dropped",
    },
    {
      inputs: { x: spaced([1, 1, 3]) },
      attrs: { kernelSizes: [1], strides: [4], ceilMode: true },
      note: "a window that would start beyond the end is dropped",
    },
    {
      inputs: { x: spaced([1, 2, 4, 7]) },
      attrs: { kernelSizes: [3, 3], strides: [2, 3], padType: "custom", pad: [1, 1, 1, 1], ceilMode: true },
    },
    {
      inputs: { x: explicit([1, 1, 4], [-60000, -59968, 60000, 59968]) },
      attrs: { kernelSizes: [2], padType: "custom", pad: [1, 1] },
      note: "extremes",
    },
  ],
  refuses: [
    { inputs: { x: uniform([4, 4]) }, attrs: { kernelSizes: [2, 2] }, message: /^max_pool: /, note: "rank 2" },
    {
      inputs: { x: uniform([1, 1, 4, 4]) },
      attrs: { kernelSizes: [2] },
      message: /^max_pool: /,
      note: "one size for two axes",
    },
    { inputs: { x: uniform([1, 1, 4, 4]) }, attrs: { kernelSizes: [5, 2] }, message: /^max_pool: /, note: "5 over 4" },
    { inputs: { x: uniform([1, 1, 4, 4]) }, attrs: { kernelSizes: [0, 2] }, message: /^max_pool: /, note: "size 0" },
    {
      inputs: { x: uniform([1, 1, 4, 4]) },
      attrs: { kernelSizes: [2, 2], strides: [2, 0] },
      message: /^max_pool: /,
      note: "stride 0",
    },
    {
      inputs: { x: uniform([1, 1, 4, 4]) },
      attrs: { kernelSizes: [2, 2], padType: "custom" },
      message: /^max_pool: /,
      note: "custom without pad",
    },
    {
      inputs: { x: uniform([1, 1, 4, 4]) },
      attrs: { kernelSizes: [2, 2], padType: "reflect" },
      message: /^max_pool: /,
      note: "unknown padType",
    },
    { inputs: { x: int32([1, 1, 4]) }, attrs: { kernelSizes: [2] }, message: /^max_pool: /, note: "int32" },
  ],
};

const avgPoolCases: OpCases = {
  accepts: [
    { inputs: { x: uniform([1, 2, 4, 6]) }, attrs: { kernelSizes: [2, 2], strides: [2, 2] } },
    { inputs: { x: uniform([2, 2, 4, 5]) }, attrs: { kernelSizes: [3, 2] }, note: "strides default to 1" },
    { inputs: { x: uniform([2, 3, 7]) }, attrs: { kernelSizes: [3], strides: [2] }, note: "one spatial axis" },
    { inputs: { x: uniform([1, 3, 3, 4]) }, attrs: { kernelSizes: [3, 4], padType: "valid" }, note: "one window" },
    {
      inputs: { x: uniform([1, 2, 4, 4], 1, 3) },
      attrs: { kernelSizes: [3, 3], strides: [2, 2], padType: "custom", pad: [1, 1, 1, 1] },
      note: "padded zeros count",
    },
    {
      inputs: { x: uniform([1, 2, 4, 4], 1, 3) },
      attrs: {
        kernelSizes: [3, 3],
        strides: [2, 2],
        padType: "custom",
        pad: [1, 1, 1, 1],
        excludePaddingFromAverage: true,
      },
      note: "padded zeros do not count",
    },
    {
      inputs: { x: uniform([1, 2, 4, 5], 1, 3) },
      attrs: { kernelSizes: [3, 2], strides: [1, 2], padType: "custom", pad: [2, 0, 0, 1] },
    },
    {
      inputs: { x: uniform([1, 2, 4, 5], 1, 3) },
      attrs: {
        kernelSizes: [3, 2],
        strides: [1, 2],
        padType: "custom",
        pad: [2, 0, 0, 1],
        excludePaddingFromAverage: true,
      },
    },
    {
      inputs: { x: uniform([1, 2, 5, 6], 1, 3) },
      attrs: { kernelSizes: [2, 3], strides: [2, 2], padType: "same" },
    },
    {
      inputs: { x: uniform([1, 2, 5, 6], 1, 3) },
      attrs: { kernelSizes: [2, 3], strides: [2, 2], padType: "same", excludePaddingFromAverage: true },
    },
    {
      inputs: { x: uniform([1, 2, 5, 6], 1, 3) },
      attrs: { kernelSizes: [2, 2], strides: [2, 3], ceilMode: true },
      note: "what lies beyond the end does not count",
    },
    {
      inputs: { x: uniform([1, 2, 6, 7], 1, 3) },
      attrs: { kernelSizes: [4, 4], strides: [3, 3], padType: "custom", pad: [1, 1, 1, 1], ceilMode: true },
      note: "the end padding counts, what lies beyond it does not",
    },
    {
      inputs: { x: uniform([1, 2, 6, 7], 1, 3) },
      attrs: {
        kernelSizes: [4, 4],
        strides: [3, 3],
        padType: "custom",
        pad: [1, 1, 1, 1],
        ceilMode: true,
        excludePaddingFromAverage: true,
      },
    },
    {
      inputs: { x: uniform([1, 2, 5], 1, 3) },
      attrs: { kernelSizes: [2], strides: [2], padType: "custom", pad: [1, 1], ceilMode: true },
      note: "a window that would start in the end padding is dropped",
    },
    {
      inputs: { x: explicit([1, 1, 4], [60000, 59968, 59936, 60000]) },
      attrs: { kernelSizes: [2] },
      note: "sums beyond the fp16 range, averages within",
    },
  ],
  refuses: [
    { inputs: { x: uniform([4, 4]) }, attrs: { kernelSizes: [2, 2] }, message: /^avg_pool: /, note: "rank 2" },
    {
      inputs: { x: uniform([1, 1, 4]) },
      attrs: { kernelSizes: [2, 2] },
      message: /^avg_pool: /,
      note: "two sizes for one axis",
    },
    { inputs: { x: uniform([1, 1, 4, 4]) }, attrs: { kernelSizes: [2, 5] }, message: /^avg_pool: /, note: "5 over 4" },
    { inputs: { x: uniform([1, 1, 4, 4]) }, attrs: { kernelSizes: [2, -1] }, message: /^avg_pool: /, note: "size -1" },
    {
      inputs: { x: uniform([1, 1, 4, 4]) },
      attrs: { kernelSizes: [2, 2], strides: [2] },
      message: /^avg_pool: /,
      note: "one stride for two axes",
    },
    {
      inputs: { x: uniform([1, 1, 4, 4]) },
      attrs: { kernelSizes: [2, 2], padType: "custom", pad: [1, 1, 1] },
      message: /^avg_pool: /,
      note: "pad of 3 entries",
    },
    { inputs: { x: int32([1, 1, 4]) }, attrs: { kernelSizes: [2] }, message: /^avg_pool: /, note: "int32" },
  ],
};

export const cases: Record<string, OpCases> = {
  matmul: matmulCases,
  linear: linearCases,
  conv: convCases,
  conv_transpose: convTransposeCases,
  max_pool: maxPoolCases,
  avg_pool: avgPoolCases,
};
