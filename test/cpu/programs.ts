// Random programs for the CPU engine: shapes that cross vector, unroll and task borders, chains of views, reductions over any axes, products, state.

import { type DType, isFloat } from "../../src/core/dtype.ts";
import { broadcastShapes, sameShape, sizeOf } from "../../src/core/shape.ts";
import {
  AnekitError,
  concat,
  constant,
  type Feed,
  input,
  parameter,
  stack,
  type Tensor,
  where,
} from "../../src/index.ts";
import { Dice } from "../fuzz/generate.ts";

/**
 * "whole": every float is a whole number small enough that all sums are exact, so engines agree bit for bit whatever their order of summation.
 * "smooth": continuous functions of values of moderate size, for comparisons within a bound.
 */
export type Values = "whole" | "smooth";

export interface RandomProgram {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly update: ReadonlyMap<Tensor, Tensor>;
  readonly feeds: Readonly<Record<string, Feed>>;
  /** Feeds of floats. */
  readonly floatFeeds: ReadonlySet<string>;
  /** First values of float parameters. */
  readonly initial: ReadonlyMap<Tensor, Float32Array>;
  /** One line an operator, for reports. */
  readonly text: readonly string[];
  /** What the lines make. */
  readonly values: readonly Tensor[];
}

export interface ProgramOptions {
  readonly values?: Values;
  readonly dtypes?: readonly DType[];
  /** Operators, about. */
  readonly size?: number;
  /** Elements of the largest value. */
  readonly most?: number;
  /** Operators, by their makers' names, that most of the program consists of. */
  readonly favourites?: readonly string[];
}

/** Extents at and around the lanes of both instruction sets, their unrolled loops and the blocks of tasks. */
const extents = [
  1, 1, 2, 3, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 130, 257, 509,
];

/** Largest whole number up to which every one is exact, with room for one more rounding. */
const exactLimit: Readonly<Record<DType, number>> = { fp16: 2048, fp32: 2 ** 24, int32: 2 ** 31 - 1, bool: 1 };

/** A tensor, how large its elements can be, and its place in the text. */
interface Value {
  readonly tensor: Tensor;
  readonly bound: number;
  readonly name: string;
}

type Unary = (x: Tensor) => Tensor;
const wholeUnary: Readonly<Record<string, Unary>> = {
  neg: (x) => x.neg(),
  abs: (x) => x.abs(),
  relu: (x) => x.relu(),
  sign: (x) => x.sign(),
  floor: (x) => x.floor(),
  round: (x) => x.round(),
  identity: (x) => x.add(0),
};
const smoothUnary: Readonly<Record<string, Unary>> = {
  neg: (x) => x.neg(),
  abs: (x) => x.abs(),
  relu: (x) => x.relu(),
  tanh: (x) => x.tanh(),
  sigmoid: (x) => x.sigmoid(),
  silu: (x) => x.silu(),
  gelu: (x) => x.gelu(),
  geluTanh: (x) => x.gelu("TANH_APPROXIMATION"),
  erf: (x) => x.erf(),
  sin: (x) => x.sin(),
  cos: (x) => x.cos(),
  softplus: (x) => x.softplus(),
  elu: (x) => x.elu(0.5),
  leakyRelu: (x) => x.leakyRelu(),
  expOfTanh: (x) => x.tanh().exp(),
  logOfPositive: (x) => x.square().add(0.5).log(),
  rootOfPositive: (x) => x.square().add(0.5).sqrt(),
  rsqrtOfPositive: (x) => x.square().rsqrt(0.25),
  inverseOfPositive: (x) => x.abs().inverse(0.5),
  powOfPositive: (x) => x.abs().add(0.5).pow(1.5),
};

class Maker {
  readonly dice: Dice;
  readonly pool: Value[] = [];
  readonly parameters: Value[] = [];
  readonly feeds: Record<string, Feed> = {};
  readonly floatFeeds = new Set<string>();
  readonly initial = new Map<Tensor, Float32Array>();
  readonly text: string[] = [];
  readonly #options: Omit<Required<ProgramOptions>, "favourites">;
  readonly #palette: number[];

  constructor(seed: number, options: Omit<Required<ProgramOptions>, "favourites">) {
    this.dice = new Dice(seed);
    this.#options = options;
    // Few extents a program, so that operands fit; 1 and one small one always.
    const { dice } = this;
    this.#palette = [1, dice.int(2, 4), dice.pick(extents), dice.pick(extents), dice.pick(extents)];
  }

  get whole(): boolean {
    return this.#options.values === "whole";
  }

  shape(): number[] {
    const { dice } = this;
    const rank = dice.pick([0, 1, 1, 2, 2, 2, 3, 3, 4, 5]);
    const shape: number[] = [];
    for (let axis = 0; axis < rank; axis++) {
      const extent = dice.pick(this.#palette);
      shape.push(sizeOf(shape) * extent <= this.#options.most ? extent : 1);
    }
    return shape;
  }

  #data(dtype: DType, size: number): Float32Array {
    const { dice } = this;
    if (dtype === "bool") return Float32Array.from({ length: size }, () => dice.int(0, 1));
    if (dtype === "int32" || this.whole) return Float32Array.from({ length: size }, () => dice.int(-3, 3));
    return Float32Array.from(dice.floats(size, 1.5));
  }

  leaf(
    dtype: DType,
    shape: readonly number[],
    kind = this.dice.pick(["input", "input", "input", "parameter", "constant"]),
  ): Value {
    const data = this.#data(dtype, sizeOf(shape));
    const bound = dtype === "bool" ? 1 : 3;
    let tensor: Tensor;
    let name: string;
    if (kind === "constant") {
      tensor = constant(data, shape, { dtype });
      name = "constant";
    } else if (kind === "parameter") {
      name = `p${this.parameters.length}`;
      tensor = parameter(data, shape, { dtype, name });
      if (isFloat(dtype)) this.initial.set(tensor, data);
    } else {
      name = `x${Object.keys(this.feeds).length}`;
      tensor = input(shape, { dtype, name });
      this.feeds[name] = data;
      if (isFloat(dtype)) this.floatFeeds.add(name);
    }
    const made = this.#add(tensor, bound, `${kind} ${name}`);
    if (kind === "parameter") this.parameters.push(made);
    return made;
  }

  #add(tensor: Tensor, bound: number, how: string): Value {
    const value = { tensor, bound, name: `v${this.text.length}` };
    this.text.push(`${value.name} = ${how}: ${tensor.dtype} [${tensor.shape}]`);
    this.pool.push(value);
    return value;
  }

  /** A value of one of the dtypes that fits; a leaf of this shape where there is none. */
  find(
    wanted: readonly DType[],
    fits: (tensor: Tensor) => boolean,
    shape: () => readonly number[],
    fresh = 0.1,
  ): Value {
    const known = this.pool.filter(({ tensor }) => wanted.includes(tensor.dtype) && fits(tensor));
    if (known.length > 0 && !this.dice.chance(fresh)) return this.dice.pick(known.slice(-10));
    return this.leaf(this.dice.pick(wanted), shape());
  }

  any(wanted: readonly DType[], fits: (tensor: Tensor) => boolean = () => true): Value {
    const shape = () => {
      for (let tries = 0; tries < 200; tries++) {
        const made = this.shape();
        if (fits(input(made, { dtype: wanted[0]! }))) return made;
      }
      return [2, 3, 4, 5];
    };
    return this.find(wanted, fits, shape);
  }

  get floats(): DType[] {
    return this.#options.dtypes.filter(isFloat);
  }
  get numbers(): DType[] {
    return this.#options.dtypes.filter((dtype) => dtype !== "bool");
  }
  get all(): DType[] {
    return [...this.#options.dtypes];
  }

  /** Adds a result where its elements stay exact, or made small enough to. */
  #result(tensor: Tensor, bound: number, how: string): void {
    const limit = exactLimit[tensor.dtype];
    if (tensor.size > this.#options.most || tensor.rank > 5) return;
    if (this.whole ? bound <= limit : bound <= 64 || !isFloat(tensor.dtype)) this.#add(tensor, bound, how);
  }

  /** A value with smaller elements: sums and products of it stay exact, or of moderate size. */
  small(value: Value): Value {
    if (!isFloat(value.tensor.dtype) || value.bound <= 3) return value;
    const tensor = this.whole ? value.tensor.clip(-3, 3) : value.tensor.tanh();
    return this.#add(tensor, 3, `${this.whole ? "clip" : "tanh"} ${value.name}`);
  }

  tiny(value: Value): Value {
    if (!isFloat(value.tensor.dtype) || value.bound <= 1) return value;
    return this.#add(this.whole ? value.tensor.clip(-1, 1) : value.tensor.sin(), 1, `tiny ${value.name}`);
  }

  #axes(rank: number): number[] {
    const axes = Array.from({ length: rank }, (_, axis) => axis).filter(() => this.dice.chance(0.5));
    return axes.length > 0 ? axes : [this.dice.int(0, rank - 1)];
  }

  readonly makers: Readonly<Record<string, () => void>> = {
    unary: () => {
      const table = this.whole ? wholeUnary : smoothUnary;
      let value = this.small(this.any(this.floats));
      for (let i = this.dice.int(1, 4); i > 0; i--) {
        const name = this.dice.pick(Object.keys(table));
        this.#result(table[name]!(value.tensor), this.whole ? value.bound : 10, `${name} ${value.name}`);
        value = this.small(this.pool.at(-1)!);
        if (!isFloat(value.tensor.dtype)) return;
      }
    },
    binary: () => {
      const { dice } = this;
      const a = this.any(this.numbers);
      const fits = ({ shape }: Tensor) => broadcastShapes(a.tensor.shape, shape) !== undefined;
      const b = this.find(
        [a.tensor.dtype],
        fits,
        () => a.tensor.shape.slice(dice.int(0, a.tensor.rank)).map((extent) => (dice.chance(0.3) ? 1 : extent)),
        0.3,
      );
      const op = dice.pick(["add", "sub", "mul", "maximum", "minimum"] as const);
      const bound =
        op === "mul"
          ? a.bound * b.bound
          : op === "add" || op === "sub"
            ? a.bound + b.bound
            : Math.max(a.bound, b.bound);
      this.#result(a.tensor[op](b.tensor), bound, `${op} ${a.name} ${b.name}`);
    },
    scalar: () => {
      const a = this.any(this.numbers);
      const y = this.dice.pick([-2, -1, 2, 3]);
      this.#result(a.tensor.mul(y).add(1), a.bound * Math.abs(y) + 1, `times ${y} plus 1 of ${a.name}`);
    },
    choose: () => {
      const a = this.any(this.all);
      const same = (tensor: Tensor) => sameShape(tensor.shape, a.tensor.shape);
      const b = this.find([a.tensor.dtype], same, () => a.tensor.shape, 0.3);
      // Conditions compare leaves or whole numbers: they must not depend on rounding.
      const condition = this.find(["bool"], same, () => (this.dice.chance(0.3) ? [] : a.tensor.shape), 0.3);
      this.#result(
        where(condition.tensor, a.tensor, b.tensor),
        Math.max(a.bound, b.bound),
        `where ${condition.name} ${a.name} ${b.name}`,
      );
    },
    compare: () => {
      if (!this.whole) return;
      const a = this.any(this.numbers);
      const op = this.dice.pick(["equal", "notEqual", "less", "lessEqual", "greater", "greaterEqual"] as const);
      this.#result(a.tensor[op](this.dice.int(-1, 1)), 1, `${op} ${a.name}`);
    },
    logic: () => {
      const a = this.any(["bool"]);
      const b = this.find(
        ["bool"],
        ({ shape }) => broadcastShapes(a.tensor.shape, shape) !== undefined,
        () => a.tensor.shape,
      );
      const tensor = this.dice.pick([
        () => a.tensor.logicalAnd(b.tensor),
        () => a.tensor.logicalOr(b.tensor),
        () => a.tensor.logicalNot(),
      ])();
      this.#result(tensor, 1, `logic ${a.name} ${b.name}`);
    },
    cast: () => {
      const a = this.any(this.all);
      const to = this.dice.pick(this.all);
      if (!this.whole && isFloat(a.tensor.dtype) && !isFloat(to)) return;
      if (a.tensor.dtype === "int32" && a.bound > 2048) return;
      this.#result(a.tensor.cast(to), to === "bool" ? 1 : a.bound, `cast ${a.name}`);
    },
    reduce: () => {
      const { dice } = this;
      const a = this.small(this.any(this.numbers, ({ rank }) => rank > 0));
      const axes = this.#axes(a.tensor.rank);
      const count = sizeOf(axes.map((axis) => a.tensor.shape[axis]!));
      const keepDims = dice.chance(0.5);
      const whole = { sum: count * a.bound, max: a.bound, min: a.bound };
      const real = {
        ...whole,
        mean: a.bound,
        l1Norm: count * a.bound,
        l2Norm: Math.sqrt(count) * a.bound,
        sumSquare: count * a.bound ** 2,
        logSumExp: a.bound + Math.log(count),
      };
      const table: Readonly<Record<string, number>> = isFloat(a.tensor.dtype)
        ? this.whole
          ? { ...whole, l1Norm: real.l1Norm, sumSquare: real.sumSquare }
          : real
        : whole;
      const op = dice.pick(Object.keys(table)) as "sum";
      let tensor = a.tensor[op](axes, { keepDims });
      let bound = table[op]!;
      if (!this.whole && bound > 64) {
        tensor = tensor.mul(1 / bound);
        bound = 1;
      }
      this.#result(tensor, bound, `${op} ${axes} of ${a.name}`);
    },
    extremeIndex: () => {
      if (!this.whole) return;
      const a = this.any(this.numbers, ({ rank }) => rank > 0);
      const op = this.dice.pick(["argmax", "argmin"] as const);
      this.#result(a.tensor[op](this.dice.int(0, a.tensor.rank - 1)), 1000, `${op} ${a.name}`);
    },
    normalize: () => {
      if (this.whole) return;
      const { dice } = this;
      const a = this.any(this.floats, ({ rank }) => rank > 0);
      const axes = a.tensor.shape.map((_, axis) => axis).slice(dice.int(0, a.tensor.rank - 1));
      const over = axes.map((axis) => a.tensor.shape[axis]!);
      const gain = () =>
        this.find(
          [a.tensor.dtype],
          ({ shape }) => sameShape(shape, over),
          () => over,
        ).tensor;
      const scaled = a.tensor.mul(2);
      const tensor = dice.pick([
        () => scaled.softmax(dice.int(0, a.tensor.rank - 1)),
        () => scaled.layerNorm({ axes, epsilon: 0.1 }),
        () => scaled.layerNorm({ axes, epsilon: 0.1, gamma: gain(), beta: gain() }),
        () => scaled.mul(scaled.square().mean(axes, { keepDims: true }).rsqrt(0.1)).mul(gain()),
        () => scaled.logSoftmax(dice.int(0, a.tensor.rank - 1)).mul(0.1),
      ])();
      this.#result(tensor, 30, `norm over ${axes} of ${a.name}`);
    },
    matmul: () => {
      const { dice } = this;
      const a = this.tiny(this.any(this.floats, ({ rank }) => rank >= 2));
      const [transposeX, transposeY] = [dice.chance(0.5), dice.chance(0.5)];
      const k = a.tensor.shape.at(transposeX ? -2 : -1)!;
      const n = dice.pick(this.#palette);
      const lead = a.tensor.shape.slice(0, -2).map((extent) => (dice.chance(0.3) ? 1 : extent));
      const fits = ({ shape, rank }: Tensor) =>
        rank >= 2 &&
        shape.at(transposeY ? -1 : -2) === k &&
        broadcastShapes(shape.slice(0, -2), a.tensor.shape.slice(0, -2)) !== undefined;
      const b = this.tiny(
        this.find([a.tensor.dtype], fits, () => [
          ...lead.slice(dice.int(0, lead.length)),
          ...(transposeY ? [n, k] : [k, n]),
        ]),
      );
      if (a.tensor.size * b.tensor.size > 3e8) return;
      let tensor = a.tensor.matmul(b.tensor, { transposeX, transposeY });
      let bound = a.bound * b.bound * k;
      if (!this.whole && bound > 64) {
        tensor = tensor.mul(1 / Math.sqrt(k));
        bound = 8;
      }
      this.#result(tensor, bound, `matmul ${a.name}${transposeX ? "ᵀ" : ""} ${b.name}${transposeY ? "ᵀ" : ""}`);
    },
    linear: () => {
      const { dice } = this;
      const a = this.tiny(this.any(this.floats, ({ rank }) => rank >= 1));
      const k = a.tensor.shape.at(-1)!;
      const n = dice.pick(this.#palette);
      const { dtype } = a.tensor;
      const w = this.tiny(
        this.find(
          [dtype],
          ({ shape, rank }) => rank === 2 && shape[1] === k,
          () => [n, k],
        ),
      );
      const bias = dice.chance(0.5)
        ? this.find(
            [dtype],
            ({ shape, rank }) => rank === 1 && shape[0] === w.tensor.shape[0],
            () => [w.tensor.shape[0]!],
          )
        : undefined;
      let tensor = a.tensor.linear(w.tensor, bias?.tensor);
      let bound = a.bound * w.bound * k + (bias?.bound ?? 0);
      if (!this.whole && bound > 64) {
        tensor = tensor.mul(1 / Math.sqrt(k));
        bound = 8;
      }
      this.#result(tensor, bound, `linear ${a.name} ${w.name} ${bias?.name ?? ""}`);
    },
    conv: () => {
      const { dice } = this;
      // Sums in Winograd's form are not exact.
      const fresh = (): number[] =>
        !this.whole && dice.chance(0.6)
          ? dice.pick([
              [1, 16, dice.int(8, 11), dice.int(16, 18)],
              [2, 16, 18, dice.int(18, 20)],
            ])
          : [dice.int(1, 2), dice.pick([1, 2, 3, 4, 6, 8, 16]), dice.int(3, 17), dice.int(3, 9)];
      const fits = ({ rank, size, shape }: Tensor) =>
        (rank === 3 || rank === 4) && size < 8000 && shape[1]! <= 64 && !shape.includes(0);
      const a = this.tiny(this.find(this.floats, fits, fresh, 0.5));
      const [channels, ...extents] = a.tensor.shape.slice(1) as [number, ...number[]];
      const groups = dice.pick([1, 1, 1, 2, 3, channels].filter((count) => channels % count === 0));
      const separable = !this.whole && channels % 16 === 0 && dice.chance(0.7);
      const outs = separable ? 16 : groups * dice.int(1, groups > 1 ? 2 : 5);
      const kernel = extents.map(() => (separable ? 3 : dice.pick([1, 2, 3, 3, 5])));
      const transposed = dice.chance(0.25);
      const shape = transposed
        ? [channels, outs / (separable ? 1 : groups)]
        : [outs, channels / (separable ? 1 : groups)];
      // That form is taken with constants, as they are, from 128 positions on, with other weights from 512 on.
      const isConstant = separable && dice.chance(0.5);
      const weight = this.leaf(a.tensor.dtype, [...shape, ...kernel], isConstant ? "constant" : undefined);
      const w = isConstant ? weight : this.tiny(weight);
      const b = dice.chance(0.4) ? this.tiny(this.leaf(a.tensor.dtype, [outs])) : undefined;
      const options = {
        strides: extents.map(() => (separable ? 1 : dice.pick([1, 1, 2, 3]))),
        dilations: extents.map(() => (separable ? 1 : dice.pick([1, 1, 1, 2]))),
        pad: extents.flatMap(() => [dice.pick([0, 1, 1, 2]), dice.pick([0, 1, 1, 2])]),
        groups: separable ? 1 : groups,
        ...(b !== undefined && { bias: b.tensor }),
      };
      let tensor = transposed ? a.tensor.convTranspose(w.tensor, options) : a.tensor.conv(w.tensor, options);
      const terms = channels * sizeOf(kernel);
      let bound = a.bound * w.bound * terms + (b?.bound ?? 0);
      if (!this.whole && bound > 8) {
        tensor = tensor.mul(1 / Math.sqrt(terms));
        bound = 8;
      }
      const { strides, dilations, pad } = options;
      const how = `strides ${strides} dilations ${dilations} pad ${pad} groups ${options.groups}`;
      const name = `conv${transposed ? "Transpose" : ""} ${a.name} ${w.name} ${b?.name ?? ""} ${how}`;
      this.#result(tensor, bound, name);
    },
    pool: () => {
      const { dice } = this;
      const fits = ({ rank, size }: Tensor) => (rank === 3 || rank === 4) && size < 8000;
      const a = this.find(this.floats, fits, () => [1, dice.int(1, 17), dice.int(3, 17), dice.int(3, 9)]);
      const extents = a.tensor.shape.slice(2);
      const sizes = extents.map((extent) => Math.min(extent, dice.int(1, 3)));
      const options = {
        strides: extents.map(() => dice.int(1, 3)),
        pad: sizes.flatMap((size) => [dice.int(0, size - 1), dice.int(0, size - 1)]),
        ceilMode: dice.chance(0.3),
      };
      const mean = !this.whole && dice.chance(0.5);
      const excludePaddingFromAverage = dice.chance(0.5);
      const tensor = mean
        ? a.tensor.avgPool(sizes, { ...options, excludePaddingFromAverage })
        : a.tensor.maxPool(sizes, options);
      const how = `${sizes} strides ${options.strides} pad ${options.pad} ${options.ceilMode} ${excludePaddingFromAverage}`;
      this.#result(tensor, a.bound, `${mean ? "avgPool" : "maxPool"} ${a.name} ${how}`);
    },
    /** A value as a piece of arrays that surround it, and its other readers, before and after. */
    pieces: () => {
      const { dice } = this;
      const drawn = this.small(
        this.any(this.all, ({ rank, size }) => rank > 0 && rank < 5 && size <= this.#options.most / 4),
      );
      const made = isFloat(drawn.tensor.dtype) ? drawn.tensor.neg() : undefined;
      const value = made === undefined || dice.chance(0.2) ? drawn : this.#add(made, drawn.bound, `neg ${drawn.name}`);
      const { shape } = value.tensor;
      const around = () => {
        const amounts = shape.flatMap(() => [dice.pick([0, 0, 1, 2]), dice.pick([0, 0, 1, 3])]);
        const mode = dice.chance(0.2) && amounts.every((count) => count < Math.min(...shape)) ? "reflect" : "constant";
        return { amounts, mode, constantVal: dice.int(-3, 3) } as const;
      };
      const again = around();
      const uses: Readonly<Record<string, (x: Tensor) => Tensor | undefined>> = {
        pad: (x) => {
          const { amounts, ...rest } = dice.chance(0.4) ? again : around();
          return isFloat(x.dtype) ? x.pad(amounts, rest) : undefined;
        },
        crop: (x) => {
          if (!isFloat(x.dtype)) return undefined;
          const { amounts, ...rest } = again;
          const begin = shape.map((_, axis) => dice.int(0, amounts[2 * axis]! + amounts[2 * axis + 1]!));
          return x.pad(amounts, rest).sliceBySize(begin, shape);
        },
        join: (x) => {
          const others = Array.from({ length: dice.int(1, 2) }, () =>
            dice.chance(0.3)
              ? x
              : this.find(
                  [x.dtype],
                  (tensor) => sameShape(tensor.shape, shape),
                  () => shape,
                  0.3,
                ).tensor,
          );
          const axis = dice.int(0, shape.length - 1);
          const all = dice.chance(0.5) ? [x, ...others] : [...others, x];
          return all[0]!.concat(all.slice(1), axis, dice.chance(0.4));
        },
        turn: (x) => x.transpose(shape.map((_, axis) => shape.length - 1 - axis)),
        fold: (x) => x.reshape(this.#otherShape(shape)),
        total: (x) => (isFloat(x.dtype) ? x.max(dice.int(0, shape.length - 1), { keepDims: true }) : undefined),
        residual: (x) => (x.dtype === "bool" ? x.logicalNot() : x.maximum(this.leaf(x.dtype, shape).tensor)),
        indexed: (x) => x.gather(this.#indices(shape[0]!, [dice.int(1, 3)]), 0),
      };
      for (let i = dice.int(3, 6); i > 0; i--) {
        const kind = dice.pick(["pad", "pad", "crop", "join", "join", ...Object.keys(uses)]);
        const tensor = uses[kind]!(value.tensor);
        // A reader of its own: what is put together is memory, not an output.
        const reads = tensor !== undefined && tensor.dtype !== "bool" && dice.chance(0.7);
        if (tensor !== undefined)
          this.#result(reads ? tensor.maximum(-2) : tensor, Math.max(3, value.bound), `${kind} of ${value.name}`);
      }
    },
    /** Convolutions and pooling of any windows, with a result added to its own operand where that fits. */
    window: () => {
      const { dice } = this;
      const groups = dice.pick([1, 1, 2, 3]);
      const channels = groups * dice.pick([1, 2, 3, 5, 8]);
      const flat = dice.chance(0.3);
      const a = this.tiny(
        this.find(
          this.floats,
          ({ rank, shape, size }) =>
            rank === (flat ? 3 : 4) && shape[1]! % groups === 0 && shape[1]! < 40 && size < 8000,
          () => [dice.int(1, 3), channels, ...(flat ? [dice.int(1, 33)] : [dice.int(1, 13), dice.int(1, 13)])],
          0.4,
        ),
      );
      const x = dice.chance(0.7) ? this.#add(a.tensor.neg(), a.bound, `neg ${a.name}`) : a;
      const perGroup = x.tensor.shape[1]! / groups;
      const spatial = x.tensor.shape.slice(2);
      const each = (choices: readonly number[]) => spatial.map(() => dice.pick(choices));
      const [kernel, strides, dilations] = [each([1, 2, 3, 3, 5]), each([1, 1, 2, 3]), each([1, 1, 1, 2])];
      const pad = kernel.flatMap((extent) => [dice.int(0, extent - 1), dice.int(0, extent - 1)]);
      const options = { strides, dilations, pad, groups };
      const kind = dice.pick(["conv", "conv", "convTranspose", "maxPool", "avgPool"] as const);
      let y: Tensor;
      let { bound } = x;
      if (kind === "maxPool") y = x.tensor.maxPool(kernel, { strides, pad });
      else if (kind === "avgPool") {
        if (this.whole) return;
        y = x.tensor.avgPool(kernel, { strides, pad, excludePaddingFromAverage: dice.chance(0.5) });
      } else {
        const outputs = groups * dice.pick([1, 2, 5, 16]);
        const shape = kind === "conv" ? [outputs, perGroup] : [perGroup * groups, outputs / groups];
        const w = this.tiny(this.leaf(x.tensor.dtype, [...shape, ...kernel]));
        bound *= w.bound * perGroup * sizeOf(kernel);
        y = x.tensor[kind](w.tensor, options);
        if (!this.whole && bound > 64) {
          y = y.mul(1 / Math.sqrt(perGroup * sizeOf(kernel)));
          bound = 8;
        }
      }
      this.#result(y, bound, `${kind} ${x.name} ${JSON.stringify({ kernel, ...options })}`);
      if (sameShape(y.shape, x.tensor.shape))
        this.#result(x.tensor.add(y), x.bound + bound, `residual of the ${kind} of ${x.name}`);
    },
    view: () => {
      let value = this.any(this.all);
      const chain = this.dice.int(1, 4);
      for (let i = 0; i < chain; i++) value = this.#view(value) ?? value;
    },
    join: () => {
      const { dice } = this;
      const a = this.any(this.all, ({ rank }) => rank > 0);
      const { shape, dtype } = a.tensor;
      const same = (tensor: Tensor) => sameShape(tensor.shape, shape);
      const others = Array.from({ length: dice.int(1, 3) }, () => this.find([dtype], same, () => shape, 0.3));
      const axis = dice.int(0, shape.length - 1);
      const tensors = [a, ...others].map(({ tensor }) => tensor);
      const tensor = dice.chance(0.7) || shape.length === 5 ? concat(tensors, axis) : stack(tensors, axis);
      this.#result(
        tensor,
        Math.max(a.bound, ...others.map(({ bound }) => bound)),
        `join ${[a, ...others].map(({ name }) => name)} at ${axis}`,
      );
    },
    /** Parts of an array, changed one by one and put together again. */
    rejoin: () => {
      const { dice } = this;
      const a = this.any(this.numbers, ({ rank, shape }) => rank > 0 && shape.some((extent) => extent % 2 === 0));
      const even = a.tensor.shape.flatMap((extent, axis) => (extent % 2 === 0 ? [axis] : []));
      if (even.length === 0) return;
      const axis = dice.pick(even);
      const [low, high] = a.tensor.split(2, axis) as [Tensor, Tensor];
      this.#result(concat([high.neg(), low.add(1)], axis), a.bound + 1, `rotate ${a.name} at ${axis}`);
    },
    split: () => {
      const { dice } = this;
      const a = this.any(this.all, ({ shape }) => shape.some((extent) => extent > 1));
      const axis = dice.pick(a.tensor.shape.flatMap((extent, i) => (extent > 1 ? [i] : [])));
      const first = dice.int(1, a.tensor.shape[axis]! - 1);
      for (const part of a.tensor.split([first, a.tensor.shape[axis]! - first], axis))
        this.#result(part, a.bound, `part of ${a.name} at ${axis}`);
    },
    gather: () => {
      const { dice } = this;
      const a = this.any(this.numbers, ({ rank }) => rank > 0);
      const axis = dice.int(0, a.tensor.rank - 1);
      this.#result(
        a.tensor.gather(this.#indices(a.tensor.shape[axis]!, dice.pick([[], [1], [5], [2, 9], [33]])), axis),
        a.bound,
        `gather ${a.name} at ${axis}`,
      );
    },
    scatter: () => {
      const { dice } = this;
      const a = this.small(this.any(this.numbers, ({ rank }) => rank > 0));
      const { shape, dtype } = a.tensor;
      const axis = dice.int(0, shape.length - 1);
      const count = dice.pick([1, 5, 17]);
      const wanted = shape.map((extent, i) => (i === axis ? count : extent));
      if (sizeOf(wanted) > this.#options.most) return;
      const updates = this.small(
        this.find(
          [dtype],
          (tensor) => sameShape(tensor.shape, wanted),
          () => wanted,
        ),
      );
      const mode = dice.pick(["add", "update"] as const);
      const data = dice.chance(0.3) ? a.tensor.filled(0, shape) : a.tensor;
      this.#result(
        data.scatter(this.#indices(shape[axis]!, [count]), updates.tensor, { axis, mode }),
        a.bound + count * updates.bound,
        `scatter ${mode} ${a.name} ${updates.name} at ${axis}`,
      );
    },
    cumsum: () => {
      const { dice } = this;
      const a = this.tiny(this.any(this.numbers, ({ rank }) => rank > 0));
      const axis = dice.int(0, a.tensor.rank - 1);
      const tensor = a.tensor.cumsum(axis, { exclusive: dice.chance(0.3), reverse: dice.chance(0.3) });
      this.#result(tensor, a.bound * a.tensor.shape[axis]!, `cumsum ${a.name} at ${axis}`);
    },
    chain: () => this.#chain(),
    /** What replaces a parameter: itself less a product, which may read it, too. */
    descend: () => {
      const { dice } = this;
      const dtype = dice.pick(this.floats);
      const [m, n] = dice.pick([
        [128, 128],
        [64, 130],
        [200, 70],
        [33, 17],
      ] as const);
      const state = this.dice.chance(0.3) ? this.parameters.at(-1) : undefined;
      const w =
        state?.tensor.rank === 2 && state.tensor.dtype === dtype ? state : this.leaf(dtype, [m, n], "parameter");
      const [rows, columns] = w.tensor.shape as [number, number];
      const [left, right] = dice.pick([
        () => [this.tiny(w), this.tiny(this.leaf(dtype, [columns, columns]))],
        () => [w, this.tiny(this.leaf(dtype, [columns, columns]))],
        () => [this.tiny(this.leaf(dtype, [rows, rows])), w],
        () => [this.tiny(this.leaf(dtype, [rows, 5])), this.tiny(this.leaf(dtype, [5, columns]))],
      ] as const)() as [Value, Value];
      const depth = left.tensor.shape[1]!;
      const product = left.tensor.matmul(right.tensor).mul(this.whole ? 1 : 1 / depth);
      const bound = left.bound * right.bound * (this.whole ? depth : 1);
      const step = this.#add(product, bound, `matmul ${left.name} ${right.name}`);
      this.small(this.#add(w.tensor.sub(product), w.bound + bound, `sub ${w.name} ${step.name}`));
    },
    /** softmax by hand, with its parts used elsewhere: reductions whose results come back to the row. */
    rows: () => {
      const a = this.tiny(this.any(this.floats, ({ rank, shape }) => rank >= 2 && shape.at(-1)! > 1));
      const axes = this.dice.pick([[-1], [-1, -2], [0]]);
      const top = a.tensor.max(axes, { keepDims: true });
      const shifted = a.tensor.sub(top);
      const total = (this.whole ? shifted : shifted.exp()).sum(axes, { keepDims: true });
      const count = sizeOf(axes.map((axis) => a.tensor.shape.at(axis)!));
      const tensor = this.whole ? shifted.mul(2).add(total) : shifted.exp().div(total).add(shifted.mul(0.1));
      this.#result(tensor, this.whole ? 4 * a.bound + 2 * a.bound * count : 8, `rows over ${axes} of ${a.name}`);
    },
  };

  /** Two products with a loop between them, as in attention or a gated layer; what they pass on stays in the pool. */
  #chain(): void {
    const { dice } = this;
    const dtype = dice.pick(this.floats);
    const length = () =>
      dice.chance(0.5) ? dice.pick(this.#palette) : dice.pick([2, 17, 33, 48, 64, 65, 70, 97, 130]);
    const m = length();
    const n = dice.chance(0.5) ? m : length();
    const [k, out] = [dice.pick([1, 3, 8, 16, 17]), dice.pick([1, 2, 5, 16])];
    const batch = dice.pick([[], [2], [2], [3], [3], [1, 2], [2, 2], [2, 3]]);
    if (sizeOf(batch) * m * n > Math.max(36_000, this.#options.most)) return;
    const operand = (rows: number, columns: number) => {
      const lead = dice.chance(0.15) ? batch.map((extent) => (dice.chance(0.5) ? 1 : extent)) : batch;
      const turned = dice.chance(0.3);
      const shape = [...(dice.chance(0.1) ? [] : lead), ...(turned ? [columns, rows] : [rows, columns])];
      const value = this.tiny(
        this.find(
          [dtype],
          (tensor) => sameShape(tensor.shape, shape),
          () => shape,
          0.5,
        ),
      );
      const perm = shape.map((_, axis) => axis);
      perm.push(...perm.splice(-2).reverse());
      return turned ? this.#add(value.tensor.transpose(perm), value.bound, `turned ${value.name}`) : value;
    };
    const product = (a: Value, b: Value, options: { transposeX?: boolean; transposeY?: boolean } = {}) => {
      const depth = a.tensor.shape.at(options.transposeX ? -2 : -1)!;
      const marks = `${options.transposeX ? "ᵀ" : ""} ${b.name}${options.transposeY ? "ᵀ" : ""}`;
      if (this.whole)
        return this.#add(a.tensor.matmul(b.tensor, options), a.bound * b.bound * depth, `matmul ${a.name}${marks}`);
      const scale = 1 / Math.sqrt(depth);
      const late = dice.chance(0.3);
      const y = late ? a.tensor.matmul(b.tensor, options).mul(scale) : a.tensor.matmul(b.tensor.mul(scale), options);
      return this.#add(y, 8, `matmul ${a.name}${marks}, scaled ${late ? "late" : "early"}`);
    };
    const scores = product(operand(m, k), operand(n, k), { transposeY: true });
    const rows = this.#chainLoop(scores, m, n);
    const other = product(operand(m, k), operand(k, n));
    const between = dice.pick([
      () => rows,
      () => rows,
      () => this.#mix(rows, other),
      () => this.#mix(rows, scores),
      () => this.#mix(other, this.#add(other.tensor.relu(), other.bound, `relu ${other.name}`)),
    ])();
    if (between.tensor.rank < 2) return;
    const p = this.tiny(between);
    const results = [product(p, operand(n, out))];
    if (dice.chance(0.7)) results.push(product(p, operand(m, out), { transposeX: true }));
    if (dice.chance(0.3)) results.push(product(p, operand(n, dice.pick([out, n]))));
    if (dice.chance(0.2) && m === n) results.push(product(p, dice.pick([p, this.tiny(scores)])));
    if (dice.chance(0.4)) {
      // As a derivative of the first product.
      const dp = this.small(product(this.tiny(results[0]!), operand(n, out), { transposeY: true }));
      const sum = p.tensor.mul(dp.tensor).sum(-1, { keepDims: true });
      // Rows of probabilities sum to no more than 1.
      const calm = !this.whole && between.bound <= 1;
      const bound = calm ? 1 : (n + 1) * dp.bound;
      const centred = this.#add(dp.tensor.sub(sum), bound, `${dp.name} less its sum with ${p.name}`);
      const ds = this.#mix(p, centred);
      results.push(product(this.tiny(ds), operand(n, k)));
      if (dice.chance(0.5)) results.push(product(this.tiny(ds), operand(m, k), { transposeX: true }));
    }
  }

  #mix(a: Value, b: Value): Value {
    const small = this.tiny(b);
    return this.#add(a.tensor.mul(small.tensor), a.bound * small.bound, `mul ${a.name} ${small.name}`);
  }

  /** A loop over the rows of scores, or over their elements, often with a mask. */
  #chainLoop(scores: Value, m: number, n: number): Value {
    const { dice } = this;
    const x = this.whole ? this.small(scores) : scores;
    const width = dice.int(0, n);
    const masks: readonly ((i: number, j: number) => boolean)[] = [
      (i, j) => j > i,
      (i, j) => j > i || j < i - width,
      (i, j) => j > n - i,
      (i, j) => j > width || i % 3 === 1,
    ];
    const isHidden = dice.pick(masks);
    // Beside -30000 a sum keeps few digits of a score: each row sees its first element.
    const low = dice.pick([-30000, -30000, -30000, -60000, -29999, -1]);
    const hide = (y: Tensor) =>
      y.add(
        constant(
          Float32Array.from({ length: m * n }, (_, at) =>
            at % n > 0 && isHidden(Math.floor(at / n), at % n) ? low : 0,
          ),
          [m, n],
          { dtype: y.dtype },
        ),
      );
    const softmax = (y: Tensor) => (dice.chance(0.85) ? hide(y) : y).softmax(-1);
    const choices: Readonly<Record<string, [Tensor, number]>> = this.whole
      ? {
          relu: [x.tensor.relu().add(1), x.bound + 1],
          shift: [x.tensor.sub(x.tensor.max(-1, { keepDims: true })), 2 * x.bound],
          total: [x.tensor.add(x.tensor.sum(-1, { keepDims: true })), (n + 1) * x.bound],
        }
      : {
          softmax: [softmax(x.tensor), 1],
          again: [softmax(softmax(x.tensor)), 1],
          gelu: [x.tensor.gelu(), x.bound],
          norm: [x.tensor.layerNorm({ axes: [-1], epsilon: 0.1 }), 8],
        };
    const name = dice.pick(this.whole ? Object.keys(choices) : ["softmax", "softmax", ...Object.keys(choices)]);
    const [tensor, bound] = choices[name]!;
    return this.#add(
      tensor,
      bound,
      `${name} of ${x.name}${name === "softmax" ? `, ${masks.indexOf(isHidden)} ${low}` : ""}`,
    );
  }

  #indices(extent: number, shape: readonly number[]): Tensor {
    const data = Array.from({ length: sizeOf(shape) }, () => this.dice.int(-extent, extent - 1));
    if (this.dice.chance(0.5)) return constant(data, shape, { dtype: "int32" });
    const name = `i${Object.keys(this.feeds).length}`;
    this.feeds[name] = data;
    return input(shape, { dtype: "int32", name });
  }

  #view(value: Value): Value | undefined {
    const { dice } = this;
    const { tensor: x, bound, name } = value;
    const { shape, rank } = x;
    const order = () => {
      const perm = shape.map((_, axis) => axis);
      for (let i = rank - 1; i > 0; i--) {
        const j = dice.int(0, i);
        [perm[i], perm[j]] = [perm[j]!, perm[i]!];
      }
      return perm;
    };
    const kinds: Record<string, () => Tensor | undefined> = {
      reshape: () => x.reshape(this.#otherShape(shape)),
      transpose: () => (rank > 1 ? x.transpose(order()) : undefined),
      slice: () => {
        if (rank === 0) return undefined;
        const begin = shape.map((extent) => dice.int(0, extent - 1));
        const end = shape.map((extent, axis) => dice.int(begin[axis]! + 1, extent));
        return x.sliceByIndex(begin, end, { stride: shape.map(() => dice.pick([1, 1, 1, 2, 3])) });
      },
      sliceOne: () => {
        if (rank === 0) return undefined;
        const axis = dice.int(0, rank - 1);
        const cut = Math.max(1, dice.int(1, shape[axis]!));
        const at = dice.int(0, shape[axis]! - cut);
        return x.sliceBySize(
          shape.map((_, i) => (i === axis ? at : 0)),
          shape.map((extent, i) => (i === axis ? cut : extent)),
        );
      },
      pad: () => {
        if (rank === 0 || !isFloat(x.dtype)) return undefined;
        const amounts = shape.flatMap(() => [dice.pick([0, 0, 1, 2]), dice.pick([0, 0, 1, 3])]);
        return x.pad(amounts, { mode: "constant", constantVal: dice.int(-1, 1) });
      },
      tile: () => (rank > 0 ? x.tile(shape.map(() => dice.pick([1, 1, 2, 3]))) : undefined),
      expandDims: () => (rank < 5 ? x.expandDims(dice.int(0, rank)) : undefined),
      squeeze: () => (shape.includes(1) ? x.squeeze() : undefined),
      broadcast: () =>
        rank < 4 && rank > 0
          ? x.expandDims(dice.int(0, rank)).tile(Array.from({ length: rank + 1 }, () => dice.pick([1, 1, 2])))
          : undefined,
    };
    const kind = dice.pick(Object.keys(kinds));
    const tensor = kinds[kind]!();
    if (tensor === undefined || tensor.size > this.#options.most || tensor.rank > 5) return undefined;
    return this.#add(tensor, bound, `${kind} ${name}`);
  }

  /** Another shape with as many elements. */
  #otherShape(shape: readonly number[]): number[] {
    const { dice } = this;
    let rest = sizeOf(shape);
    const result: number[] = [];
    const rank = dice.int(1, 4);
    while (result.length < rank - 1) {
      const divisors = [...new Set([...this.#palette, ...shape, 2, 3, 4, 8, 16])].filter(
        (extent) => rest % extent === 0,
      );
      const extent = dice.pick(divisors);
      result.push(extent);
      rest /= extent;
    }
    result.splice(dice.int(0, result.length), 0, rest);
    return result;
  }
}

/** Draws a program. The same seed and options give the same one. */
export function randomProgram(seed: number, options: ProgramOptions = {}): RandomProgram {
  const { values = "whole", dtypes = ["fp16", "fp32", "fp32", "int32", "bool"], size = 12, most = 6000 } = options;
  const maker = new Maker(seed, { values, dtypes, size, most });
  const { dice } = maker;
  for (let i = 0; i < 3; i++) maker.leaf(dice.pick(dtypes), maker.shape());
  const names = Object.keys(maker.makers);
  // Some programs are mostly of a few kinds: long elementwise chains, chains of views, reductions that feed each other.
  const favourites = options.favourites ?? [dice.pick(names), dice.pick(names), dice.pick(names)];
  // How often a favourite, one of the last values as a result, and all that nobody reads.
  const [share, late, all] = options.favourites === undefined ? [0.4, 0.8, 0.4] : [0.6, 0.4, 0.8];
  const wanted = maker.text.length + dice.int(Math.ceil(size / 2), Math.ceil(size * 1.5));
  for (let attempt = 0; attempt < 8 * size && maker.text.length < wanted; attempt++) {
    try {
      maker.makers[dice.chance(share) ? dice.pick(favourites) : dice.pick(names)]!();
    } catch (error) {
      if (!(error instanceof AnekitError)) throw error; // else an illegal draw, refused as it should be
    }
  }
  const outputs: Record<string, Tensor> = {};
  const count = dice.int(1, 4);
  for (let i = 0; i < count; i++)
    outputs[`y${i}`] = dice.pick(dice.chance(late) ? maker.pool.slice(-6) : maker.pool).tensor;
  if (dice.chance(all)) {
    // What nobody else reads: nothing that was made is left out.
    const read = new Set(maker.text.flatMap((line) => line.split(" = ")[1]!.match(/\bv\d+/g) ?? []));
    const ends = maker.pool.filter(({ name }) => !read.has(name));
    for (const { name, tensor } of ends.slice(-12)) outputs[name] = tensor;
  }
  if (dice.chance(0.2)) outputs.again = outputs.y0!;
  const update = new Map<Tensor, Tensor>();
  for (const state of maker.parameters) {
    const fits = maker.pool.filter(
      ({ tensor }) => tensor.dtype === state.tensor.dtype && sameShape(tensor.shape, state.tensor.shape),
    );
    if (!dice.chance(0.8)) continue;
    // Of the size of the first value, so that later runs stay exact.
    const next = maker.small(dice.pick(fits.slice(-4)));
    if (next.bound <= 3) update.set(state.tensor, next.tensor);
  }
  return {
    outputs,
    update,
    feeds: maker.feeds,
    floatFeeds: maker.floatFeeds,
    initial: maker.initial,
    text: maker.text,
    values: maker.pool.map(({ tensor }) => tensor),
  };
}
