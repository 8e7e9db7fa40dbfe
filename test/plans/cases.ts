// Programs with state, each a graph, its updates, its feeds and the update modes that are beyond doubt. Nothing here runs.

import {
  constant,
  type Feed,
  grad,
  input,
  parameter,
  type StageSpec,
  stopGradient,
  type Tensor,
  type UpdateMode,
} from "../../src/index.ts";
import { makeRandom } from "./eager-engine.ts";

export interface StateCase {
  readonly title: string;
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly update: ReadonlyMap<Tensor, Tensor>;
  readonly stages?: readonly StageSpec[];
  readonly feeds: (run: number) => Readonly<Record<string, Feed>>;
  /** Modes by parameter name, where there is only one right answer. */
  readonly modes?: Readonly<Record<string, UpdateMode | "read-only">>;
}

/** `size` numbers in [-scale, scale), the same for every call with the same seed. */
export function numbers(size: number, seed: number, scale = 1): Float32Array<ArrayBuffer> {
  const random = makeRandom(seed);
  return Float32Array.from({ length: size }, () => (random() * 2 - 1) * scale);
}

const state = (name: string, shape: readonly number[], seed = 1, scale = 1) =>
  parameter(
    numbers(
      shape.reduce((a, b) => a * b, 1),
      seed,
      scale,
    ),
    shape,
    { name },
  );
const x23 = () => input([2, 3], { name: "x" });
const feedX = (run: number) => ({ x: numbers(6, 100 + run) });
const none = () => ({});
/** One where every gradient is finite, as a flag that depends on all of them. */
const allFinite = (grads: readonly Tensor[]) =>
  grads.map((g) => g.abs().max().less(60000)).reduce((all, each) => all.logicalAnd(each));

function twoLayers() {
  const x = x23();
  const w1 = state("w1", [3, 4], 3);
  const w2 = state("w2", [4, 2], 4);
  const loss = x.matmul(w1).tanh().matmul(w2).square().mean();
  const [g1, g2] = grad(loss, [w1, w2]) as [Tensor, Tensor];
  return { x, w1, w2, loss, g1, g2 };
}

function sgd(): StateCase {
  const x = x23();
  const w = state("w", [3, 2]);
  const loss = x.matmul(w).square().mean();
  const [g] = grad(loss, [w]) as [Tensor];
  return {
    title: "SGD of one layer",
    outputs: { loss },
    update: new Map([[w, w.sub(g.mul(0.1))]]),
    feeds: feedX,
    modes: { w: "in-place" },
  };
}

function sgdTwoLayers(): StateCase {
  const { w1, w2, loss, g1, g2 } = twoLayers();
  return {
    title: "SGD of two layers, where the backward pass reads the second weight beside its update",
    outputs: { loss },
    update: new Map([
      [w1, w1.sub(g1.mul(0.1))],
      [w2, w2.sub(g2.mul(0.1))],
    ]),
    feeds: feedX,
    modes: { w1: "in-place", w2: "swap" },
  };
}

function sgdWithFlag(): StateCase {
  const { w1, w2, loss, g1, g2 } = twoLayers();
  const finite = allFinite([g1, g2]);
  return {
    title: "SGD of two layers with a finite flag",
    outputs: { loss, finite },
    update: new Map([
      [w1, finite.select(w1.sub(g1.mul(0.1)), w1)],
      [w2, finite.select(w2.sub(g2.mul(0.1)), w2)],
    ]),
    // Every third batch overflows.
    feeds: (run) => ({ x: numbers(6, run, run % 3 === 2 ? 60000 : 1) }),
    modes: { w1: "in-place", w2: "in-place" },
  };
}

function clipped(): StateCase {
  const { w1, w2, loss, g1, g2 } = twoLayers();
  const norm = g1.sumSquare().add(g2.sumSquare()).sqrt();
  const factor = norm.maximum(0.01).inverse().minimum(1);
  return {
    title: "SGD with gradient clipping by the common norm",
    outputs: { loss, norm },
    update: new Map([
      [w1, w1.sub(g1.mul(factor))],
      [w2, w2.sub(g2.mul(factor))],
    ]),
    feeds: feedX,
    modes: { w1: "in-place", w2: "in-place" },
  };
}

function momentum(): StateCase {
  const x = x23();
  const w = state("w", [3, 2]);
  const m = parameter(new Float32Array(6), [3, 2], { name: "m" });
  const loss = x.matmul(w).square().mean();
  const [g] = grad(loss, [w]) as [Tensor];
  const next = m.mul(0.9).add(g);
  return {
    title: "momentum",
    outputs: { loss },
    update: new Map([
      [w, w.sub(next.mul(0.05))],
      [m, next],
    ]),
    feeds: feedX,
    modes: { w: "in-place", m: "in-place" },
  };
}

function adam(): StateCase {
  const x = x23();
  const w = state("w", [3, 2]);
  const zeros = () => new Float32Array(6);
  const m = parameter(zeros(), [3, 2], { name: "m", dtype: "fp32" });
  const v = parameter(zeros(), [3, 2], { name: "v", dtype: "fp32" });
  const t = parameter(0, [], { name: "t", dtype: "fp32" });
  const loss = x.matmul(w).square().mean();
  const g = grad(loss, [w])[0]!.cast("fp32");
  const steps = t.add(1);
  const m2 = m.mul(0.9).add(g.mul(0.1));
  const v2 = v.mul(0.99).add(g.square().mul(0.01));
  const unbias = (beta: number) => constant(beta, [], { dtype: "fp32" }).pow(steps).neg().add(1);
  const stride = m2
    .div(unbias(0.9))
    .div(v2.div(unbias(0.99)).sqrt().add(1e-6))
    .mul(0.02);
  return {
    title: "Adam with moments and a step counter",
    outputs: { loss, steps },
    update: new Map<Tensor, Tensor>([
      [w, w.sub(stride.cast("fp16"))],
      [m, m2],
      [v, v2],
      [t, steps],
    ]),
    feeds: feedX,
    modes: { w: "in-place", m: "in-place", v: "in-place", t: "in-place" },
  };
}

function master(): StateCase {
  const x = x23();
  const start = numbers(6, 5);
  const w = parameter(start, [3, 2], { name: "w" });
  const w32 = parameter(start, [3, 2], { name: "w32", dtype: "fp32" });
  const loss = x.matmul(w).square().mean();
  const next = w32.sub(grad(loss, [w])[0]!.cast("fp32").mul(0.01));
  return {
    title: "fp32 master weights behind fp16 ones",
    outputs: { loss },
    update: new Map<Tensor, Tensor>([
      [w32, next],
      [w, next.cast("fp16")],
    ]),
    feeds: feedX,
    modes: { w32: "in-place", w: "in-place" },
  };
}

/** Two states and what becomes of them. */
function pair(
  title: string,
  body: (a: Tensor, b: Tensor) => { a?: Tensor; b?: Tensor; y?: Tensor },
  modes: Readonly<Record<string, UpdateMode | "read-only">>,
): StateCase {
  const a = state("a", [3, 3], 1, 0.5);
  const b = state("b", [3, 3], 2, 0.5);
  const next = body(a, b);
  return {
    title,
    outputs: next.y === undefined ? {} : { y: next.y },
    update: new Map([...(next.a ? [[a, next.a] as const] : []), ...(next.b ? [[b, next.b] as const] : [])]),
    feeds: none,
    modes,
  };
}

const exchange = () => pair("a <- b, b <- a", (a, b) => ({ a: b, b: a }), {});
const exchangeMarked = () =>
  pair("exchanged behind stopGradient", (a, b) => ({ a: stopGradient(b), b: stopGradient(stopGradient(a)) }), {});
const shift = () =>
  pair("a <- b, b <- 0.5 b + 1", (a, b) => ({ a: b, b: b.mul(0.5).add(1), y: a.mul(2) }), { a: "swap", b: "swap" });
const crosswise = () =>
  pair("a <- a + b / 2, b <- b - a / 2", (a, b) => ({ a: a.add(b.mul(0.5)), b: b.sub(a.mul(0.5)) }), {
    a: "swap",
    b: "swap",
  });
const oneWay = () =>
  pair("a <- a + b, b <- 0.9 b", (a, b) => ({ a: a.add(b), b: b.mul(0.9) }), { a: "in-place", b: "swap" });
const fromOther = () => pair("a <- b with b kept", (_a, b) => ({ a: b }), { b: "read-only" });
const chained = () =>
  pair(
    "b's update depends on a's",
    (a, b) => {
      const next = a.mul(0.5).add(b);
      return { a: next, b: next.sub(b) };
    },
    { b: "in-place", a: "in-place" },
  );
const sameNext = () =>
  pair(
    "one value for both states and a result",
    (a, b) => {
      const next = a.mul(b);
      return { a: next, b: next, y: next };
    },
    {},
  );

/** One state, updated by a function of itself. */
function single(
  title: string,
  body: (w: Tensor) => Tensor,
  mode: UpdateMode | undefined,
  y?: (w: Tensor) => Tensor,
  shape: readonly number[] = [4, 4],
): StateCase {
  const w = state("w", shape, 7, 0.9);
  return {
    title,
    outputs: y === undefined ? {} : { y: y(w) },
    update: new Map([[w, body(w)]]),
    feeds: none,
    ...(mode !== undefined && { modes: { w: mode } }),
  };
}

const singles = () => [
  single(
    "state as a result",
    (w) => w.add(1),
    "swap",
    (w) => w,
  ),
  single(
    "a function of the state as a result",
    (w) => w.add(1),
    "swap",
    (w) => w.exp(),
  ),
  single("transpose of itself", (w) => w.transpose(), "swap"),
  single("itself plus its transpose, halved", (w) => w.add(w.transpose()).mul(0.5), "in-place"),
  single("minus its transpose, computed first", (w) => w.sub(w.transpose().mul(0.5)), "in-place"),
  single("softmax of itself", (w) => w.softmax(-1), "swap"),
  single("product with itself", (w) => w.matmul(w), "swap"),
  single("product with its transpose", (w) => w.matmul(w, { transposeY: true }), "swap"),
  single("cumulative sum", (w) => w.cumsum(1), "swap"),
  single("exclusive reverse cumulative sum", (w) => w.cumsum(0, { exclusive: true, reverse: true }), "swap"),
  single("scaled by its own sum", (w) => w.mul(w.sum().add(3).inverse()), "in-place"),
  single("normalized by its rows", (w) => w.div(w.l2Norm([1], { keepDims: true }).add(0.1)), "in-place"),
  single(
    "rotated by slices",
    (w) => w.sliceBySize([1, 0], [3, 4]).concat([w.sliceBySize([0, 0], [1, 4])], 0),
    undefined,
  ),
  single("reversed by gather", (w) => w.gather(constant([3, 2, 1, 0], [4], { dtype: "int32" }), 0), "swap"),
  single(
    "scatter into itself",
    (w) => w.scatter(constant([3, 0], [2], { dtype: "int32" }), w.sliceBySize([1, 0], [2, 4]), { mode: "update" }),
    "swap",
  ),
  single("reshaped to itself and back", (w) => w.reshape([2, 8]).mul(2).reshape([4, 4]).sub(w), "in-place"),
  single("itself", (w) => w, "in-place"),
  single("both operands of one addition", (w) => w.add(w), "in-place"),
  single("select between itself and its transpose", (w) => w.greater(0).select(w, w.transpose()), "in-place"),
  single(
    "a scalar that scales a result",
    (w) => w.add(0.25),
    "swap",
    (w) => constant([1, 2, 3, 4]).mul(w),
    [],
  ),
  single("layer norm of itself", (w) => w.layerNorm(), "swap"),
  single(
    "one part of a split, doubled",
    (w) => {
      const [top, bottom] = w.split(2, 0) as [Tensor, Tensor];
      return bottom.concat([top.mul(0.5)], 0);
    },
    undefined,
  ),
];

function newStateAsResult(): StateCase {
  const w = state("w", [4], 1);
  const next = w.mul(0.5);
  return {
    title: "the new state as a result",
    outputs: { y: next, z: next.add(1) },
    update: new Map([[w, next]]),
    feeds: none,
    modes: { w: "in-place" },
  };
}

function fromInput(): StateCase {
  const x = x23();
  const w = state("w", [2, 3]);
  const kept = state("kept", [2, 3], 2);
  return {
    title: "last input and a constant kept as state",
    outputs: { change: x.sub(w), kept_sum: kept.sum() },
    update: new Map([
      [w, x],
      [kept, constant([1, 2, 3, 4, 5, 6], [2, 3])],
    ]),
    feeds: feedX,
    modes: { w: "swap", kept: "swap" },
  };
}

function unread(): StateCase {
  const x = x23();
  const w = state("w", [2, 3]);
  return {
    title: "a state that its own program never reads",
    outputs: { y: x.sum() },
    update: new Map([[w, x.mul(2)]]),
    feeds: feedX,
    modes: { w: "in-place" },
  };
}

function integers(): StateCase {
  const count = parameter(0, [], { name: "count", dtype: "int32" });
  const ring = parameter([1, 2, 3, 4], [4], { name: "ring", dtype: "int32" });
  const odd = parameter([1, 0, 1], [3], { name: "odd", dtype: "bool" });
  return {
    title: "integer and bool states",
    outputs: { y: ring.sum(), seen: odd },
    update: new Map<Tensor, Tensor>([
      [count, count.add(1)],
      [ring, ring.sliceBySize([1], [3]).concat([count.reshape([1])], 0)],
      [odd, odd.logicalNot()],
    ]),
    feeds: none,
    modes: { ring: "swap", odd: "swap", count: "swap" },
  };
}

// ------------------------------------------------------------------------------------------- several stages

function readLater(): StateCase {
  const w = state("w", [4], 1);
  const next = w.mul(0.5).add(1);
  return {
    title: "a state updated in the first stage and read in the second",
    outputs: { y: w.exp() },
    update: new Map([[w, next]]),
    stages: [{ name: "first", compute: [next] }, { name: "second" }],
    feeds: none,
    modes: { w: "swap" },
  };
}

function forwardBackward(): StateCase {
  const { w1, w2, loss, g1, g2 } = twoLayers();
  return {
    title: "forward, backward and update as three stages",
    outputs: { loss },
    update: new Map([
      [w1, w1.sub(g1.mul(0.1))],
      [w2, w2.sub(g2.mul(0.1))],
    ]),
    stages: [{ name: "forward", compute: [loss] }, { name: "backward", compute: [g1, g2] }, { name: "update" }],
    feeds: feedX,
    modes: { w1: "in-place", w2: "in-place" },
  };
}

function skipsStages(): StateCase {
  const x = x23();
  const w = state("w", [2, 3]);
  const a = x.mul(w);
  const b = a.exp();
  const c = b.sum([1]);
  return {
    title: "links over several stages",
    outputs: { early: a, late: c.add(a.sum([1])) },
    update: new Map([[w, b.mul(0.1).add(a)]]),
    stages: [{ name: "a", compute: [a] }, { name: "b", compute: [b] }, { name: "c", compute: [c] }, { name: "d" }],
    feeds: feedX,
  };
}

function splitAcross(): StateCase {
  const x = input([6], { name: "x" });
  const w = state("w", [2], 3);
  const parts = x.relu().split(3, 0) as [Tensor, Tensor, Tensor];
  const first = parts[0].add(w);
  return {
    title: "results of one split used in three stages",
    outputs: { first, second: parts[1].exp(), third: parts[2].mul(parts[1]) },
    update: new Map([[w, parts[2].add(w)]]),
    stages: [{ name: "one", compute: [first] }, { name: "two", compute: [parts[1].exp()] }, { name: "three" }],
    feeds: (run) => ({ x: numbers(6, run) }),
  };
}

function splitAllCrossing(): StateCase {
  const x = input([6], { name: "x" });
  const [a, b, c] = x.relu().split([1, 2, 3], 0) as [Tensor, Tensor, Tensor];
  return {
    title: "all results of a split crossing at once",
    outputs: { y: a.add(b.sum()).add(c.sum()) },
    update: new Map(),
    stages: [{ name: "one", compute: [b] }, { name: "two" }],
    feeds: (run) => ({ x: numbers(6, run) }),
  };
}

function updateOfLeafInStages(): StateCase {
  const x = x23();
  const a = state("a", [2, 3], 1);
  const b = state("b", [2, 3], 2);
  const y = x.add(a);
  return {
    title: "a <- b, b <- x with stages",
    outputs: { y, z: b.mul(y) },
    update: new Map([
      [a, b],
      [b, x],
    ]),
    stages: [{ name: "one", compute: [y] }, { name: "two" }],
    feeds: feedX,
    modes: { a: "in-place", b: "swap" },
  };
}

function leafCompute(): StateCase {
  const x = x23();
  const w = state("w", [2, 3], 1);
  return {
    title: "a stage asked for leaves and constants only",
    outputs: { y: x.mul(w) },
    update: new Map([[w, w.add(x)]]),
    stages: [{ name: "one", compute: [w, x, constant(1)] }, { name: "two" }],
    feeds: feedX,
    modes: { w: "swap" },
  };
}

/** Every case, built afresh. */
export function stateCases(): StateCase[] {
  return [
    sgd(),
    sgdTwoLayers(),
    sgdWithFlag(),
    clipped(),
    momentum(),
    adam(),
    master(),
    exchange(),
    exchangeMarked(),
    shift(),
    crosswise(),
    oneWay(),
    fromOther(),
    chained(),
    sameNext(),
    ...singles(),
    newStateAsResult(),
    fromInput(),
    unread(),
    integers(),
    readLater(),
    forwardBackward(),
    skipsStages(),
    splitAcross(),
    splitAllCrossing(),
    updateOfLeafInStages(),
    leafCompute(),
  ];
}
