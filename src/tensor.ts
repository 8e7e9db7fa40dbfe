// The fluent tensor API: methods build graph nodes and compute nothing. Every method checks shapes and dtypes at the call.

import { type DType, isDType, isFloat, newValues, type ValueArray } from "./core/dtype.ts";
import { ConfigError, DTypeError, formatAval, formatShape, ShapeError } from "./core/errors.ts";
import { float16Max, roundFloat16 } from "./core/float16.ts";
import { type Aval, checkShape, normalizeAxis, type Shape, sameShape, sizeOf } from "./core/shape.ts";
import {
  type ConstantNode,
  type InputNode,
  makeNode,
  type Node,
  type OpNode,
  type ParameterNode,
  type Value,
} from "./ir/node.ts";
import {
  type AttrSpecs,
  type AttrValue,
  checkUse,
  flattenOperands,
  type GivenAttrs,
  type OperandSpecs,
  type OpRecord,
} from "./ops/define.ts";
import { ops } from "./ops/index.ts";

/** Numbers as a user has them: a typed array, a number, or arrays nested as deep as the rank. */
export type Nested = number | boolean | readonly Nested[];
export type DataLike = ArrayLike<number> | Nested;

/** A tensor operand: a number stands for a scalar constant of the other operand's dtype. */
export type Operand = Tensor | number;

export type GeluMode = "EXACT" | "TANH_APPROXIMATION" | "SIGMOID_APPROXIMATION";

export interface WindowOptions {
  readonly strides?: number | readonly number[];
  readonly dilations?: number | readonly number[];
  /** One number for every side, or MIL's [begin, end] pairs, one pair a spatial axis. Implies pad type "custom". */
  readonly pad?: number | readonly number[];
  readonly padType?: "valid" | "custom" | "same" | "same_lower";
  readonly groups?: number;
  /** [O]; added after the convolution. */
  readonly bias?: Tensor;
}

export interface PoolOptions {
  /** The window itself when absent. */
  readonly strides?: number | readonly number[];
  readonly pad?: number | readonly number[];
  readonly padType?: "valid" | "custom" | "same";
  readonly ceilMode?: boolean;
}

export interface SliceOptions {
  readonly stride?: readonly number[];
  readonly beginMask?: readonly boolean[];
  readonly endMask?: readonly boolean[];
  readonly squeezeMask?: readonly boolean[];
}

export interface KeepDims {
  /** Leave reduced axes as size 1; they are dropped otherwise. */
  readonly keepDims?: boolean;
}

/** A node's result, with the operators as methods. Immutable; belongs to no engine. */
export class Tensor<D extends DType = DType> implements Value {
  readonly node: Node;
  readonly index: number;

  constructor(node: Node, index = 0) {
    this.node = node;
    this.index = index;
  }

  get aval(): Aval {
    return this.node.results[this.index]!;
  }
  get shape(): Shape {
    return this.aval.shape;
  }
  get dtype(): D {
    return this.aval.dtype as D;
  }
  get rank(): number {
    return this.shape.length;
  }
  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }
  toString(): string {
    return `Tensor(${formatAval(this.aval)})`;
  }
  /** What `console.log` prints in Node: not the whole graph behind the tensor. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }

  // ------------------------------------------------------------------------------ functions of one operand

  /** max(x, 0). */
  relu(): Tensor<D> {
    return apply(ops.relu, { x: this });
  }
  /** x sigmoid(x). */
  silu(): Tensor<D> {
    return apply(ops.silu, { x: this });
  }
  /** x Phi(x), exact by default. */
  gelu(mode: GeluMode = "EXACT"): Tensor<D> {
    return apply(ops.gelu, { x: this }, { mode });
  }
  sigmoid(): Tensor<D> {
    return apply(ops.sigmoid, { x: this });
  }
  tanh(): Tensor<D> {
    return apply(ops.tanh, { x: this });
  }
  exp(): Tensor<D> {
    return apply(ops.exp, { x: this });
  }
  exp2(): Tensor<D> {
    return apply(ops.exp2, { x: this });
  }
  /** Natural logarithm of x + epsilon. */
  log(epsilon = 0): Tensor<D> {
    return apply(ops.log, { x: this }, { epsilon });
  }
  sqrt(): Tensor<D> {
    return apply(ops.sqrt, { x: this });
  }
  /** 1 / sqrt(x + epsilon). */
  rsqrt(epsilon = 0): Tensor<D> {
    return apply(ops.rsqrt, { x: this }, { epsilon });
  }
  /** 1 / (x + epsilon). */
  inverse(epsilon = 0): Tensor<D> {
    return apply(ops.inverse, { x: this }, { epsilon });
  }
  abs(): Tensor<D> {
    return apply(ops.abs, { x: this });
  }
  square(): Tensor<D> {
    return apply(ops.square, { x: this });
  }
  sin(): Tensor<D> {
    return apply(ops.sin, { x: this });
  }
  cos(): Tensor<D> {
    return apply(ops.cos, { x: this });
  }
  erf(): Tensor<D> {
    return apply(ops.erf, { x: this });
  }
  softplus(): Tensor<D> {
    return apply(ops.softplus, { x: this });
  }
  /** x where x > 0, else alpha (e^x - 1). */
  elu(alpha = 1): Tensor<D> {
    return apply(ops.elu, { x: this }, { alpha });
  }
  leakyRelu(alpha = 0.01): Tensor<D> {
    return apply(ops.leaky_relu, { x: this }, { alpha });
  }
  /** x limited to [low, high]. */
  clip(low: number, high: number): Tensor<D> {
    return apply(ops.clip, { x: this }, { alpha: low, beta: high });
  }
  floor(): Tensor<D> {
    return apply(ops.floor, { x: this });
  }
  ceil(): Tensor<D> {
    return apply(ops.ceil, { x: this });
  }
  /** Nearest integer, ties to even. */
  round(): Tensor<D> {
    return apply(ops.round, { x: this });
  }
  sign(): Tensor<D> {
    return apply(ops.sign, { x: this });
  }
  neg(): Tensor<D> {
    return this.mul(-1);
  }
  cast<E extends DType>(dtype: E): Tensor<E> {
    return (dtype as DType) === this.dtype ? (this as unknown as Tensor<E>) : apply(ops.cast, { x: this }, { dtype });
  }
  logicalNot(): Tensor<"bool"> {
    return apply(ops.logical_not, { x: this });
  }

  // ----------------------------------------------------------------------------- functions of two operands

  add(y: Operand): Tensor<D> {
    return apply(ops.add, { x: this, y: this.operand(y) });
  }
  sub(y: Operand): Tensor<D> {
    return apply(ops.sub, { x: this, y: this.operand(y) });
  }
  mul(y: Operand): Tensor<D> {
    return apply(ops.mul, { x: this, y: this.operand(y) });
  }
  div(y: Operand): Tensor<D> {
    return apply(ops.real_div, { x: this, y: this.operand(y) });
  }
  pow(y: Operand): Tensor<D> {
    return apply(ops.pow, { x: this, y: this.operand(y) });
  }
  maximum(y: Operand): Tensor<D> {
    return apply(ops.maximum, { x: this, y: this.operand(y) });
  }
  minimum(y: Operand): Tensor<D> {
    return apply(ops.minimum, { x: this, y: this.operand(y) });
  }
  equal(y: Operand): Tensor<"bool"> {
    return apply(ops.equal, { x: this, y: this.operand(y) });
  }
  notEqual(y: Operand): Tensor<"bool"> {
    return apply(ops.not_equal, { x: this, y: this.operand(y) });
  }
  less(y: Operand): Tensor<"bool"> {
    return apply(ops.less, { x: this, y: this.operand(y) });
  }
  lessEqual(y: Operand): Tensor<"bool"> {
    return apply(ops.less_equal, { x: this, y: this.operand(y) });
  }
  greater(y: Operand): Tensor<"bool"> {
    return apply(ops.greater, { x: this, y: this.operand(y) });
  }
  greaterEqual(y: Operand): Tensor<"bool"> {
    return apply(ops.greater_equal, { x: this, y: this.operand(y) });
  }
  logicalAnd(y: Tensor): Tensor<"bool"> {
    return apply(ops.logical_and, { x: this, y });
  }
  logicalOr(y: Tensor): Tensor<"bool"> {
    return apply(ops.logical_or, { x: this, y });
  }
  /** On a bool tensor: `a` where true, else `b`; at least one of them is a tensor. */
  select<E extends DType>(a: Tensor<E> | number, b: Tensor<E> | number): Tensor<E> {
    const like = a instanceof Tensor ? a : b;
    if (!(like instanceof Tensor)) throw new ConfigError("select", "at least one of a and b must be a tensor");
    return apply(ops.select, { cond: this, a: like.operand(a), b: like.operand(b) });
  }

  // ------------------------------------------------------------------------------------------- reductions

  sum(axes?: number | readonly number[], options: KeepDims = {}): Tensor<D> {
    return apply(ops.reduce_sum, { x: this }, reduce(axes, options));
  }
  mean(axes?: number | readonly number[], options: KeepDims = {}): Tensor<D> {
    return apply(ops.reduce_mean, { x: this }, reduce(axes, options));
  }
  max(axes?: number | readonly number[], options: KeepDims = {}): Tensor<D> {
    return apply(ops.reduce_max, { x: this }, reduce(axes, options));
  }
  min(axes?: number | readonly number[], options: KeepDims = {}): Tensor<D> {
    return apply(ops.reduce_min, { x: this }, reduce(axes, options));
  }
  l1Norm(axes?: number | readonly number[], options: KeepDims = {}): Tensor<D> {
    return apply(ops.reduce_l1_norm, { x: this }, reduce(axes, options));
  }
  l2Norm(axes?: number | readonly number[], options: KeepDims = {}): Tensor<D> {
    return apply(ops.reduce_l2_norm, { x: this }, reduce(axes, options));
  }
  sumSquare(axes?: number | readonly number[], options: KeepDims = {}): Tensor<D> {
    return apply(ops.reduce_sum_square, { x: this }, reduce(axes, options));
  }
  logSumExp(axes?: number | readonly number[], options: KeepDims = {}): Tensor<D> {
    return apply(ops.reduce_log_sum_exp, { x: this }, reduce(axes, options));
  }
  /** Index (int32) of the first largest element along `axis`. */
  argmax(axis = -1, options: KeepDims = {}): Tensor<"int32"> {
    return apply(ops.reduce_argmax, { x: this }, { axis, ...options });
  }
  argmin(axis = -1, options: KeepDims = {}): Tensor<"int32"> {
    return apply(ops.reduce_argmin, { x: this }, { axis, ...options });
  }
  softmax(axis = -1): Tensor<D> {
    return apply(ops.softmax, { x: this }, { axis });
  }

  // --------------------------------------------------------------------------------------- normalizations

  layerNorm({
    gamma,
    beta,
    ...attrs
  }: {
    gamma?: Tensor;
    beta?: Tensor;
    axes?: readonly number[];
    epsilon?: number;
  } = {}): Tensor<D> {
    return apply(ops.layer_norm, { x: this, gamma, beta }, { axes: [-1], ...attrs });
  }
  instanceNorm({ gamma, beta, ...attrs }: { gamma?: Tensor; beta?: Tensor; epsilon?: number } = {}): Tensor<D> {
    return apply(ops.instance_norm, { x: this, gamma, beta }, attrs);
  }
  batchNorm({
    mean,
    variance,
    gamma,
    beta,
    ...attrs
  }: {
    mean: Tensor;
    variance: Tensor;
    gamma?: Tensor;
    beta?: Tensor;
    epsilon?: number;
  }): Tensor<D> {
    return apply(ops.batch_norm, { x: this, mean, variance, gamma, beta }, attrs);
  }
  /** 1 / sqrt(sum of squares over `axes` + epsilon), axes kept. The norm, which may be above 256 in fp16, is never squared. */
  l2NormScale(axes: number | readonly number[], epsilon: number): Tensor<D> {
    return this.l2Norm(axes, { keepDims: true }).inverseRoot(epsilon);
  }
  /** 1 / sqrt(x^2 + epsilon) for x >= 0, without squaring x: in fp16 that is inf from 256 on. */
  inverseRoot(epsilon: number): Tensor<D> {
    const root = Math.sqrt(epsilon);
    if (root === 0) return this.inverse();
    const large = this.maximum(root);
    return this.minimum(root).div(large).square().add(1).rsqrt().div(large);
  }

  // ---------------------------------------------------------------------- products, convolution, pooling

  matmul(y: Tensor, attrs: { readonly transposeX?: boolean; readonly transposeY?: boolean } = {}): Tensor<D> {
    return apply(ops.matmul, { x: this, y }, attrs);
  }
  /** x [..., K] times the transpose of weight [N, K], plus bias [N]. */
  linear(weight: Tensor, bias?: Tensor): Tensor<D> {
    return apply(ops.linear, { x: this, weight, bias });
  }
  /** Cross-correlation of [N, C, H, W] or [N, C, L] with weight [O, C/groups, ...]. */
  conv(weight: Tensor, { bias, ...options }: WindowOptions = {}): Tensor<D> {
    return withBias(apply(ops.conv, { x: this, weight, bias: undefined }, windowAttrs(this, options)), bias);
  }
  /** Transposed convolution of [N, C, H, W] or [N, C, L] with weight [C, O/groups, ...]. */
  convTranspose(weight: Tensor, { bias, padType, ...options }: WindowOptions = {}): Tensor<D> {
    if (padType === "same" || padType === "same_lower")
      throw new ConfigError("conv_transpose", `pad type ${padType} is not supported; give pad`);
    const attrs = windowAttrs(this, { ...options, ...(padType !== undefined && { padType }) });
    return withBias(apply(ops.conv_transpose, { x: this, weight, bias: undefined }, attrs), bias);
  }
  maxPool(kernelSizes: number | readonly number[], options: PoolOptions = {}): Tensor<D> {
    return apply(ops.max_pool, { x: this }, poolAttrs(this, kernelSizes, options));
  }
  avgPool(
    kernelSizes: number | readonly number[],
    options: PoolOptions & { readonly excludePaddingFromAverage?: boolean } = {},
  ): Tensor<D> {
    const { excludePaddingFromAverage = false, ...rest } = options;
    return apply(ops.avg_pool, { x: this }, { ...poolAttrs(this, kernelSizes, rest), excludePaddingFromAverage });
  }

  // ---------------------------------------------------------------------------------------------- movement

  reshape(shape: Shape): Tensor<D> {
    if (sameShape(shape, this.shape)) return this;
    // MIL has no empty list of extents; squeeze says the same.
    return shape.length === 0 && this.size === 1 ? this.squeeze() : apply(ops.reshape, { x: this }, { shape });
  }
  /** Axes in the order `perm`; the last two exchanged when absent. */
  transpose(perm?: readonly number[]): Tensor<D> {
    const order = this.shape.map((_, axis) => axis);
    return apply(ops.transpose, { x: this }, { perm: perm ?? [...order.slice(0, -2), ...order.slice(-2).reverse()] });
  }
  expandDims(axes: number | readonly number[]): Tensor<D> {
    return apply(ops.expand_dims, { x: this }, { axes: list(axes) });
  }
  squeeze(axes?: number | readonly number[]): Tensor<D> {
    if (axes === undefined && !this.shape.includes(1)) return this;
    return apply(ops.squeeze, { x: this }, axes === undefined ? {} : { axes: list(axes) });
  }
  /** One axis from `start` on replaced by their product. */
  flatten(start = 0): Tensor<D> {
    const axis = normalizeAxis("flatten", start, Math.max(1, this.rank));
    return this.reshape([...this.shape.slice(0, axis), sizeOf(this.shape.slice(axis))]);
  }
  /** x[begin : end] on each axis, as in NumPy; negative positions count from the end, null leaves a side open. */
  slice(...ranges: readonly (readonly [number | null, number | null] | number | null)[]): Tensor<D> {
    const full = this.shape.map((_, axis) => ranges[axis] ?? ([null, null] as const));
    if (ranges.length > this.rank)
      throw new ShapeError("slice", `${ranges.length} ranges for ${formatAval(this.aval)}`);
    return this.sliceByIndex(
      full.map((range) => (typeof range === "number" ? range : (range[0] ?? 0))),
      full.map((range) => (typeof range === "number" ? range : (range[1] ?? 0))),
      {
        beginMask: full.map((range) => typeof range !== "number" && range[0] === null),
        endMask: full.map((range) => typeof range !== "number" && range[1] === null),
        squeezeMask: full.map((range) => typeof range === "number"),
      },
    );
  }
  sliceByIndex(begin: readonly number[], end: readonly number[], attrs: SliceOptions = {}): Tensor<D> {
    return apply(ops.slice_by_index, { x: this }, { begin, end, ...attrs });
  }
  /** The block of `size` from `begin`; size -1 reaches to the end. */
  sliceBySize(begin: readonly number[], size: readonly number[]): Tensor<D> {
    if (begin.every((from) => from === 0) && sameShape(size, this.shape)) return this;
    return apply(ops.slice_by_size, { x: this }, { begin, size });
  }
  concat(others: readonly Tensor[], axis: number, interleave = false): Tensor<D> {
    return apply(ops.concat, { values: [this, ...others] }, { axis, interleave });
  }
  /** Side by side with `others` along a further axis. */
  stack(others: readonly Tensor[], axis = 0): Tensor<D> {
    return apply(ops.stack, { values: [this, ...others] }, { axis });
  }
  /** Equal parts (a count) or parts of given sizes along `axis`. */
  split(parts: number | readonly number[], axis: number): Tensor<D>[] {
    const attrs = typeof parts === "number" ? { numSplits: parts, axis } : { splitSizes: parts, axis };
    return applyAll(ops.split, { x: this }, attrs);
  }
  tile(reps: readonly number[]): Tensor<D> {
    return reps.every((count) => count === 1) ? this : apply(ops.tile, { x: this }, { reps });
  }
  /** [begin, end] pairs for the last pad.length / 2 axes. */
  pad(
    pad: readonly number[],
    attrs: { readonly mode?: "constant" | "reflect" | "replicate"; readonly constantVal?: number } = {},
  ): Tensor<D> {
    return pad.every((count) => count === 0) ? this : apply(ops.pad, { x: this }, { pad, ...attrs });
  }
  upsampleNearest(scaleFactorHeight: number, scaleFactorWidth = scaleFactorHeight): Tensor<D> {
    return apply(ops.upsample_nearest_neighbor, { x: this }, { scaleFactorHeight, scaleFactorWidth });
  }
  pixelShuffle(upscaleFactor: number): Tensor<D> {
    return apply(ops.pixel_shuffle, { x: this }, { upscaleFactor });
  }
  pixelUnshuffle(downscaleFactor: number): Tensor<D> {
    return apply(ops.pixel_unshuffle, { x: this }, { downscaleFactor });
  }
  gather(indices: Tensor, axis = 0): Tensor<D> {
    return apply(ops.gather, { x: this, indices }, { axis });
  }
  scatter(
    indices: Tensor,
    updates: Tensor,
    attrs: { readonly axis?: number; readonly mode?: "add" | "update" } = {},
  ): Tensor<D> {
    return apply(ops.scatter, { data: this, indices, updates }, attrs);
  }
  cumsum(axis = 0, attrs: { readonly exclusive?: boolean; readonly reverse?: boolean } = {}): Tensor<D> {
    return apply(ops.cumsum, { x: this }, { axis, ...attrs });
  }

  // -------------------------------------------------------------------------------------------- composites

  /** x - log of the sum of e^x along `axis`. */
  logSoftmax(axis = -1): Tensor<D> {
    return this.sub(this.logSumExp([axis], { keepDims: true }));
  }
  /** Repeats size-1 (and missing leading) axes up to `shape`. */
  broadcastTo(shape: Shape): Tensor<D> {
    const lead = shape.length - this.rank;
    const full = [...new Array<number>(Math.max(0, lead)).fill(1), ...this.shape];
    if (lead < 0 || full.some((extent, axis) => extent !== 1 && extent !== shape[axis])) {
      throw new ShapeError("broadcastTo", `${formatShape(this.shape)} does not broadcast to ${formatShape(shape)}`);
    }
    return this.reshape(full).tile(full.map((extent, axis) => (extent === 1 ? shape[axis]! : 1)));
  }
  /** Sums over the axes along which `shape` was broadcast to this tensor's shape. */
  sumTo(shape: Shape): Tensor<D> {
    if (sameShape(shape, this.shape)) return this;
    const lead = this.rank - shape.length;
    const axes = this.shape.flatMap((extent, axis) =>
      axis < lead || (shape[axis - lead] === 1 && extent !== 1) ? [axis] : [],
    );
    return this.sum(axes).reshape(shape);
  }
  /** A constant of this tensor's dtype (or another). */
  constantLike<E extends DType = D>(data: DataLike, shape: Shape, dtype?: E): Tensor<E> {
    return constant(data, shape, { dtype: dtype ?? (this.dtype as DType) }) as Tensor<E>;
  }
  /** A constant of this tensor's dtype with one value everywhere. */
  filled(value: number, shape: Shape): Tensor<D> {
    checkShape("filled", shape);
    return constant(newValues(this.dtype, sizeOf(shape)).fill(value), shape, { dtype: this.dtype });
  }
  /** A number as a scalar constant of this tensor's dtype; tensors pass. */
  operand<E extends DType>(y: Tensor<E> | number): Tensor<E> {
    if (typeof y === "number") return constant(y, [], { dtype: this.dtype as DType }) as Tensor<E>;
    if (!(y instanceof Tensor)) throw new ConfigError("operand", `expected a tensor or a number, not ${String(y)}`);
    return y;
  }
}

// ----------------------------------------------------------------------------------------- building nodes

type Operands = Record<string, Tensor | readonly Tensor[] | undefined>;

function applyAll<E extends DType, I extends OperandSpecs, A extends AttrSpecs>(
  op: OpRecord<I, A>,
  operands: Operands,
  attrs?: GivenAttrs<A>,
): Tensor<E>[] {
  const flat = flattenOperands<Tensor>(op, operands);
  const avals = flat.map((tensor) => tensor?.aval);
  const use = checkUse(op, avals, (attrs ?? {}) as Record<string, AttrValue>);
  const node = makeNode<OpNode>({ kind: "op", op, inputs: flat, attrs: use.attrs, results: use.results });
  return use.results.map((_, index) => new Tensor(node, index));
}

/** Applies an operator of one result. @throws {ShapeError | DTypeError | ConfigError} naming the operator and its operands. */
export function apply<E extends DType, I extends OperandSpecs, A extends AttrSpecs>(
  op: OpRecord<I, A>,
  operands: Operands,
  attrs?: GivenAttrs<A>,
): Tensor<E> {
  return applyAll<E, I, A>(op, operands, attrs)[0]!;
}

function list(axes: number | readonly number[]): readonly number[] {
  return typeof axes === "number" ? [axes] : axes;
}

function reduce(axes: number | readonly number[] | undefined, options: KeepDims) {
  return axes === undefined ? options : { axes: list(axes), ...options };
}

function windowAttrs(x: Tensor, { strides, dilations, pad, padType, groups }: Omit<WindowOptions, "bias">) {
  const axes = Math.max(0, x.rank - 2);
  const each = (value: number | readonly number[], count: number) =>
    typeof value === "number" ? new Array<number>(count).fill(value) : value;
  return {
    ...(strides !== undefined && { strides: each(strides, axes) }),
    ...(dilations !== undefined && { dilations: each(dilations, axes) }),
    ...(pad !== undefined && { pad: each(pad, 2 * axes), padType: "custom" as const }),
    ...(padType !== undefined && { padType: padType as "valid" | "custom" }),
    ...(groups !== undefined && { groups }),
  };
}

function poolAttrs(x: Tensor, kernelSizes: number | readonly number[], { strides, ceilMode, ...rest }: PoolOptions) {
  const size =
    typeof kernelSizes === "number" ? new Array<number>(Math.max(0, x.rank - 2)).fill(kernelSizes) : kernelSizes;
  const attrs = windowAttrs(x, { strides: strides ?? size, ...rest });
  return { kernelSizes: size, ...attrs, ...(ceilMode !== undefined && { ceilMode }) };
}

function withBias<E extends DType>(y: Tensor<E>, bias: Tensor | undefined): Tensor<E> {
  return bias === undefined ? y : y.add(bias.reshape([1, bias.size, ...y.shape.slice(2).map(() => 1)]));
}

// ------------------------------------------------------------------------------------------------- leaves

export interface LeafOptions<D extends DType = DType> {
  /** fp16 unless stated. */
  readonly dtype?: D;
  readonly name?: string;
}

let unnamed = 0;

function checkDType(where: string, dtype: DType): void {
  if (!isDType(dtype)) throw new DTypeError(where, `dtype "${String(dtype)}" is none of fp16, fp32, int32, bool`);
}

/** A tensor that is fed at every run. */
export function input<D extends DType = "fp16">(shape: Shape, options: LeafOptions<D> = {}): Tensor<D> {
  const { dtype = "fp16", name = `input${++unnamed}` } = options;
  checkDType(`input "${name}"`, dtype);
  checkShape(`input "${name}"`, shape);
  return new Tensor(makeNode<InputNode>({ kind: "input", name, inputs: [], results: [{ dtype, shape }] }));
}

/**
 * State: starts as `initial` (one number with a shape: everywhere), stays on the engine, and changes only through the `update` of a compiled
 * program.
 */
export function parameter<D extends DType = "fp16">(
  initial: DataLike,
  shape?: Shape,
  options: LeafOptions<D> = {},
): Tensor<D> {
  const { dtype = "fp16", name = `parameter${++unnamed}` } = options;
  const where = `parameter "${name}"`;
  const make = (data: ValueArray | number, known: Shape): Tensor<D> =>
    new Tensor(
      makeNode<ParameterNode>({
        kind: "parameter",
        name,
        initial: data,
        inputs: [],
        results: [{ dtype, shape: known }],
      }),
    );
  if (typeof initial === "number" && shape !== undefined) {
    checkDType(where, dtype);
    checkShape(where, shape);
    checkRange(where, initial, dtype, 0);
    return make(initial, shape);
  }
  const { data, shape: known } = readData(where, initial, shape, dtype);
  return make(data, known);
}

/** A tensor whose values are known when the program is compiled. @throws {ConfigError} for a value outside the dtype's range. */
export function constant<D extends DType = "fp16">(
  data: DataLike,
  shape?: Shape,
  options: Omit<LeafOptions<D>, "name"> = {},
): Tensor<D> {
  const { dtype = "fp16" } = options;
  const leaf = readData("constant", data, shape, dtype);
  return new Tensor(
    makeNode<ConstantNode>({ kind: "constant", data: leaf.data, inputs: [], results: [{ dtype, shape: leaf.shape }] }),
  );
}

/** A constant from numbers, nested arrays or a typed array. */
export const tensor = constant;

/** Copies numbers into a checked array; the shape comes from the nesting when it is not given. */
function readData(
  where: string,
  data: DataLike,
  shape: Shape | undefined,
  dtype: DType,
): { data: ValueArray; shape: Shape } {
  checkDType(where, dtype);
  const isTyped = ArrayBuffer.isView(data) && !(data instanceof DataView);
  const flat: ArrayLike<unknown> = isTyped ? (data as unknown as ArrayLike<number>) : flatten(where, data as Nested);
  const known = shape ?? (isTyped ? [flat.length] : nestedShape(data as Nested));
  checkShape(where, known);
  if (flat.length !== sizeOf(known))
    throw new ShapeError(where, `${flat.length} values do not fill ${formatShape(known)}`);
  const values = newValues(dtype, flat.length);
  if (values instanceof Float32Array && flat instanceof Float32Array) {
    values.set(flat);
    // What is a finite fp16 number needs no closer look; NaN and the rest get it.
    if (dtype === "fp16") {
      for (let i = 0; i < values.length; i++)
        if (!(Math.abs(values[i]!) <= float16Max)) checkRange(where, values[i]!, dtype, i);
    }
    return { data: values, shape: known };
  }
  for (let i = 0; i < values.length; i++) {
    const value = Number(flat[i]);
    values[i] = value;
    checkRange(where, value, dtype, i);
  }
  return { data: values, shape: known };
}

function checkRange(where: string, value: number, dtype: DType, at: number): void {
  if (dtype === "fp16" && !Number.isFinite(roundFloat16(value))) {
    throw new ConfigError(where, `value ${value} at element ${at} is outside the range of fp16 (65504)`);
  }
  if (dtype === "int32" && (value | 0) !== value)
    throw new ConfigError(where, `value ${value} at element ${at} is not an int32`);
  if (dtype === "bool" && value !== 0 && value !== 1)
    throw new ConfigError(where, `value ${value} at element ${at} is not a bool`);
}

function nestedShape(data: Nested): number[] {
  const shape: number[] = [];
  for (let level: Nested = data; Array.isArray(level); level = level[0] as Nested) shape.push(level.length);
  return shape;
}

function flatten(where: string, data: Nested): unknown[] {
  const shape = nestedShape(data);
  const flat: unknown[] = [];
  const visit = (level: Nested, depth: number): void => {
    if (!Array.isArray(level)) {
      if (depth !== shape.length || (typeof level !== "number" && typeof level !== "boolean")) {
        throw new ShapeError(where, `nested arrays are ragged or hold ${typeof level} at depth ${depth}`);
      }
      flat.push(level);
      return;
    }
    if (level.length !== shape[depth])
      throw new ShapeError(where, `nested arrays are ragged at depth ${depth}: ${level.length} and ${shape[depth]}`);
    for (const item of level) visit(item as Nested, depth + 1);
  };
  visit(data, 0);
  return flat;
}

// ------------------------------------------------------------------------------- functions beside methods

/** Convolution; see `Tensor.conv`. */
export function conv(x: Tensor, weight: Tensor, options?: WindowOptions): Tensor {
  return x.conv(weight, options);
}
/** Tensors one after another along `axis`. */
export function concat(values: readonly Tensor[], axis: number): Tensor {
  const [first, ...rest] = values;
  if (first === undefined) throw new ShapeError("concat", "values is an empty list");
  return first.concat(rest, axis);
}
/** Tensors side by side along a further axis. */
export function stack(values: readonly Tensor[], axis = 0): Tensor {
  const [first, ...rest] = values;
  if (first === undefined) throw new ShapeError("stack", "values is an empty list");
  return first.stack(rest, axis);
}
/** `a` where `condition` is true, else `b`. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  return condition.select(a, b);
}

/** Refuses tensors that derivatives cannot flow through. */
export function requireFloat(where: string, x: Tensor): void {
  if (!isFloat(x.dtype)) throw new DTypeError(where, `expected fp16 or fp32, got ${formatAval(x.aval)}`);
}
