// Random graphs over every operator record: legal by construction or by asking checkUse, small enough for thousands of runs.

import { type DType, isFloat } from "../../src/core/dtype.ts";
import { AnekitError } from "../../src/core/errors.ts";
import { sameShape, sizeOf } from "../../src/core/shape.ts";
import { type Feed, input, parameter, Tensor } from "../../src/index.ts";
import { makeNode, type OpNode } from "../../src/ir/node.ts";
import { type AttrSpec, type AttrValue, checkUse, type Op, operandNames } from "../../src/ops/define.ts";
import { ops } from "../../src/ops/index.ts";
import { constant } from "../../src/tensor.ts";
import { makeRandom } from "../plans/eager-engine.ts";

/** Choices drawn from one seed. */
export class Dice {
  readonly next: () => number;
  constructor(seed: number) {
    this.next = makeRandom(seed);
  }
  /** Integer in [low, high]. */
  int(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }
  pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.next() * list.length)]!;
  }
  chance(share: number): boolean {
    return this.next() < share;
  }
  /** `size` numbers in [-scale, scale). */
  floats(size: number, scale = 2): number[] {
    return Array.from({ length: size }, () => Math.fround((this.next() * 2 - 1) * scale));
  }
}

export interface FuzzGraph {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly update: ReadonlyMap<Tensor, Tensor>;
  readonly feeds: Readonly<Record<string, Feed>>;
  readonly leaves: readonly Tensor[];
}

export interface GraphOptions {
  /** Operators to draw from; all by default. */
  readonly names?: readonly string[];
  readonly dtypes?: readonly DType[];
  /** Operators in the graph, about. */
  readonly size?: number;
  /** Values of feeds and parameters lie within this. */
  readonly scale?: number;
  /** Shapes beside the common small ones. */
  readonly states?: boolean;
}

const maxSize = 600; // elements of any value

/** Sizes of axes are few, so that operands fit often. */
function randomShape(dice: Dice): number[] {
  const rank = dice.pick([0, 1, 2, 2, 3, 3, 4, 4, 5]);
  return Array.from({ length: rank }, () => dice.pick([1, 2, 2, 3, 4]));
}

function randomData(dice: Dice, dtype: DType, size: number, scale: number): number[] {
  if (dtype === "bool") return Array.from({ length: size }, () => dice.int(0, 1));
  if (dtype === "int32") return Array.from({ length: size }, () => dice.int(-3, 3));
  return dice.floats(size, scale);
}

function randomAttr(dice: Dice, name: string, spec: AttrSpec, x: Tensor | undefined): AttrValue | undefined {
  const rank = x?.rank ?? 0;
  if (spec.presence !== "required" && dice.chance(0.35)) return undefined;
  switch (spec.kind) {
    case "bool":
      return dice.chance(0.5);
    case "string":
      return dice.pick(spec.choices ?? []);
    case "int":
    case "uint":
      if (name === "axis") return dice.int(-rank - 1, rank);
      return dice.int(1, 3);
    case "float":
      if (name === "alpha") return dice.pick([-0.5, 0.1, 1]);
      if (name === "beta") return dice.pick([0.2, 1, 2.5]);
      return dice.pick([0, 1e-3, 0.25, 1, 2]);
    case "bools":
      return Array.from({ length: rank }, () => dice.chance(0.3));
    case "ints":
      return randomInts(dice, name, x);
  }
}

function randomInts(dice: Dice, name: string, x: Tensor | undefined): number[] {
  const shape = x?.shape ?? [];
  const rank = shape.length;
  const each = (make: (extent: number, axis: number) => number) => shape.map(make);
  const spatial = Math.max(0, rank - 2);
  switch (name) {
    case "perm": {
      const order = each((_, axis) => axis);
      for (let i = rank - 1; i > 0; i--) {
        const j = dice.int(0, i);
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
      return order;
    }
    case "axes":
      return each((_, axis) => axis)
        .filter(() => dice.chance(0.5))
        .map((axis) => (dice.chance(0.3) ? axis - rank : axis));
    case "shape": {
      const flat = sizeOf(shape);
      if (flat % 2 === 0 && dice.chance(0.4)) return dice.chance(0.5) ? [2, -1] : [flat / 2, 1, 2];
      return dice.pick([[flat], [-1], [1, flat], [...shape].reverse(), [...shape, 1]]);
    }
    case "begin":
      return each((extent) => dice.int(dice.chance(0.2) ? -extent : 0, extent - 1));
    case "end":
      return each((extent) => dice.int(1, extent));
    case "size":
      return each((extent) => (dice.chance(0.4) ? -1 : dice.int(1, extent)));
    case "reps":
      return each(() => dice.pick([1, 1, 2, 3]));
    case "stride":
      return each(() => dice.pick([1, 1, 2]));
    case "pad":
      return Array.from({ length: 2 * (dice.chance(0.5) ? spatial : dice.int(0, rank)) }, () =>
        dice.pick([0, 0, 1, 2]),
      );
    case "splitSizes": {
      const extent = dice.pick(shape.length > 0 ? shape : [1]);
      const first = dice.int(1, extent);
      return first === extent ? [extent] : [first, extent - first];
    }
    default: // kernel_sizes, strides, dilations: one number a spatial axis
      return Array.from({ length: spatial }, () => dice.pick([1, 1, 2]));
  }
}

/** Applies an operator like the methods of Tensor do. */
function applyOp(
  op: Op,
  flat: readonly (Tensor | undefined)[],
  attrs: Readonly<Record<string, AttrValue | undefined>>,
): Tensor[] | undefined {
  try {
    const use = checkUse(
      op,
      flat.map((tensor) => tensor?.aval),
      attrs,
    );
    if (use.results.some(({ shape }) => sizeOf(shape) > maxSize) || use.results.length > 8) return undefined;
    const node = makeNode<OpNode>({ kind: "op", op, inputs: flat, attrs: use.attrs, results: use.results });
    return use.results.map((_, index) => new Tensor(node, index));
  } catch (error) {
    if (error instanceof AnekitError) return undefined; // an illegal draw, refused as it should be
    throw error;
  }
}

/** Draws a graph. The same seed gives the same graph. */
export function randomGraph(seed: number, options: GraphOptions = {}): FuzzGraph {
  const {
    names = Object.keys(ops),
    dtypes = ["fp16", "fp16", "fp32", "int32", "bool"],
    size = 14,
    scale = 2,
    states = true,
  } = options;
  const dice = new Dice(seed);
  const feeds: Record<string, Feed> = {};
  const leaves: Tensor[] = [];
  const parameters: Tensor[] = [];
  const pool: Tensor[] = [];

  const leaf = (dtype: DType, shape: readonly number[]): Tensor => {
    const data = randomData(dice, dtype, sizeOf(shape), scale);
    const kind = dice.pick(["input", "input", "parameter", "constant"]);
    let made: Tensor;
    if (kind === "constant") made = constant(data, shape, { dtype });
    else if (kind === "parameter") {
      made = parameter(data, shape, { dtype, name: `p${parameters.length}` });
      parameters.push(made);
    } else {
      const name = `x${Object.keys(feeds).length}`;
      made = input(shape, { dtype, name });
      feeds[name] = data;
    }
    if (kind !== "constant") leaves.push(made);
    pool.push(made);
    return made;
  };

  /** A tensor of one of the dtypes, and of a shape if one is asked for: from the pool where possible. */
  const find = (wanted: readonly DType[], shape?: readonly number[]): Tensor => {
    const fits = pool.filter(
      (each) => wanted.includes(each.dtype) && (shape === undefined || sameShape(each.shape, shape)),
    );
    if (fits.length > 0 && dice.chance(shape === undefined ? 0.9 : 0.8)) return dice.pick(fits.slice(-12));
    return leaf(dice.pick(wanted), shape ?? randomShape(dice));
  };

  /** Indices that stay inside an axis. */
  const safeIndices = (shape: readonly number[], extent: number) =>
    constant(
      Array.from({ length: sizeOf(shape) }, () => dice.int(-extent, extent - 1)),
      shape,
      { dtype: "int32" },
    );

  const draw = (op: Op): Tensor[] | undefined => {
    const specs = op.inputs as Readonly<Record<string, { dtypes: readonly DType[]; optional?: true; variadic?: true }>>;
    const allowed = (list: readonly DType[]) => {
      const both = list.filter((dtype) => dtypes.includes(dtype));
      return both.length > 0 ? both : list;
    };
    const operands = operandNames(op);
    const first = find(allowed(specs[operands[0]!]!.dtypes));
    const attrs: Record<string, AttrValue | undefined> = {};
    for (const [name, spec] of Object.entries(op.attrs as Readonly<Record<string, AttrSpec>>))
      attrs[name] = randomAttr(dice, name, spec, first);
    const rank = first.rank;
    if (specs[operands[0]!]!.variadic) {
      const list = [first];
      while (dice.chance(0.6) && list.length < 4) list.push(find([first.dtype], first.shape));
      return applyOp(op, list, attrs);
    }
    const axis = typeof attrs.axis === "number" ? attrs.axis : op.name === "gather" || op.name === "scatter" ? 0 : -1;
    const extent = first.shape.at(axis) ?? 1;
    const channels = first.shape[1] ?? 1;
    const groups = typeof attrs.groups === "number" ? attrs.groups : 1;
    const kernel = () => Array.from({ length: Math.max(0, rank - 2) }, () => dice.int(1, 2));
    const count = dice.int(1, 3);
    const shapes: Record<string, () => readonly number[]> = {
      "matmul.y": () => {
        const k = first.shape.at(attrs.transposeX ? -2 : -1) ?? 1;
        const lead = first.shape.slice(0, -2).map((each) => (dice.chance(0.3) ? 1 : each));
        return [...lead.slice(dice.int(0, lead.length)), ...(attrs.transposeY ? [count, k] : [k, count])];
      },
      "linear.weight": () => [count, first.shape.at(-1) ?? 1],
      "linear.bias": () => [count],
      "conv.weight": () => [count * groups, channels / groups, ...kernel()],
      "conv.bias": () => [count * groups],
      "conv_transpose.weight": () => [channels, count, ...kernel()],
      "conv_transpose.bias": () => [count * groups],
      "layer_norm.gamma": () => first.shape.slice(-((attrs.axes as readonly number[])?.length || 1)),
      "layer_norm.beta": () => first.shape.slice(-((attrs.axes as readonly number[])?.length || 1)),
      "scatter.updates": () => first.shape.map((each, i) => (i === (axis < 0 ? axis + rank : axis) ? count : each)),
    };
    if (op.name === "layer_norm") attrs.axes = first.shape.map((_, i) => i).slice(-dice.int(1, Math.max(1, rank)));
    if (op.name === "instance_norm" || op.name === "batch_norm") {
      for (const name of ["gamma", "beta", "mean", "variance"]) shapes[`${op.name}.${name}`] = () => [channels];
    }
    const chosen: (Tensor | undefined)[] = [first];
    for (const name of operands.slice(1)) {
      const spec = specs[name]!;
      if (spec.optional && dice.chance(0.5)) {
        chosen.push(undefined);
        continue;
      }
      if (name === "indices") {
        chosen.push(safeIndices(op.name === "scatter" ? [count] : dice.pick([[], [2], [2, 2]]), extent));
        continue;
      }
      const sameDomain = spec.dtypes.includes(first.dtype) && name !== "cond" ? [first.dtype] : allowed(spec.dtypes);
      const wanted = chosen[1] !== undefined && op.name === "select" ? [chosen[1].dtype] : sameDomain;
      const shape = shapes[`${op.name}.${name}`]?.();
      if (shape !== undefined) {
        if (shape.some((each) => !Number.isInteger(each) || each < 1) || shape.length > 5) return undefined;
        let found = find(wanted, shape);
        if (name === "variance") found = found.square();
        chosen.push(found);
      } else {
        const like = chosen[1] ?? first;
        chosen.push(dice.chance(0.5) ? find(wanted, like.shape) : dice.chance(0.3) ? find(wanted, []) : find(wanted));
      }
    }
    return applyOp(op, chosen, attrs);
  };

  for (let i = 0; i < 3; i++) leaf(dice.pick(dtypes), randomShape(dice));
  leaf(
    dice.pick(dtypes.filter(isFloat)),
    dice.pick([
      [1, 4, 4, 4],
      [2, 4, 3],
      [2, 2, 4, 3],
    ]),
  );
  let made = 0;
  for (let attempt = 0; attempt < size * 12 && made < size; attempt++) {
    const results = draw((ops as Readonly<Record<string, Op>>)[dice.pick(names)]!);
    if (results === undefined) continue;
    pool.push(...results);
    made++;
  }

  const outputs: Record<string, Tensor> = {};
  const count = dice.int(1, 4);
  for (let i = 0; i < count; i++) outputs[`y${i}`] = dice.chance(0.75) ? dice.pick(pool.slice(-8)) : dice.pick(pool);
  const update = new Map<Tensor, Tensor>();
  if (states) {
    for (const state of parameters) {
      const fits = pool.filter((each) => each.dtype === state.dtype && sameShape(each.shape, state.shape));
      if (dice.chance(0.7)) update.set(state, dice.pick(fits));
    }
  }
  return { outputs, update, feeds, leaves };
}
