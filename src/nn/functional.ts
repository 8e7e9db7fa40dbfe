// Composites over primitives: norms, attention, activations with gates, positions, losses. Functions of tensors; no parameters.

import { customGradient, stopGradient } from "../autodiff/grad.ts";
import { isFloat, newValues } from "../core/dtype.ts";
import { ConfigError, formatAval, ShapeError } from "../core/errors.ts";
import { checkShape, sizeOf } from "../core/shape.ts";
import type { Tensor } from "../tensor.ts";

// Shape letters: B batch, T positions, H heads, D head width, C channels, N rows, V classes.

/**
 * x / sqrt(mean of x^2 over the last axis + epsilon) gamma. The root mean square comes from reduce_l2_norm, whose squares stay in the wide
 * accumulator: in fp16 the plain sum of squares overflows at 768 channels once the root mean square passes 9.2 (ANEgpt's kernels, section 5). The
 * derivative r (g - n mean(g n)), with r the reciprocal root and n = x r, is stated: going through r^3, as the chain rule would, overflows for
 * small x.
 */
export function rmsNorm(x: Tensor, gamma?: Tensor, epsilon = 1e-5): Tensor {
  // The factor comes first: the norm itself passes 65504 where the root mean square does not, and what it takes from small elements is below epsilon.
  const r = x.mul(1 / Math.sqrt(x.shape.at(-1)!)).l2NormScale(-1, epsilon);
  const n = x.mul(r);
  const normal = customGradient(n, [x], (g) => [g.sub(n.mul(g.mul(n).mean(-1, { keepDims: true }))).mul(r)]);
  return gamma === undefined ? normal : normal.mul(gamma);
}

/** x / sqrt(sum of x^2 over `axes` + epsilon), with its derivative stated, which the chain rule would take through squares of the norm. */
export function l2Normalize(x: Tensor, axes: number | readonly number[] = -1, epsilon = 1e-6): Tensor {
  const r = x.l2NormScale(axes, epsilon);
  const n = x.mul(r);
  return customGradient(n, [x], (g) => [g.sub(n.mul(g.mul(n).sum(axes, { keepDims: true }))).mul(r)]);
}

/** Standardizes x [B, C, H, W] over each sample's groups of channels, then gamma [C] and beta [C]. */
export function groupNorm(
  x: Tensor,
  groups: number,
  { gamma, beta, epsilon = 1e-5 }: { gamma?: Tensor; beta?: Tensor; epsilon?: number } = {},
): Tensor {
  const [b, c, ...spatial] = x.shape as [number, number, ...number[]];
  if (x.rank < 3 || c % groups !== 0)
    throw new ShapeError("groupNorm", `${groups} groups do not divide the channels of ${formatAval(x.aval)}`);
  const normal = x
    .reshape([b, groups, c / groups, sizeOf(spatial)]) // channels stay an axis: engines may keep them innermost
    .layerNorm({ axes: [2, 3], epsilon })
    .reshape(x.shape);
  const perChannel = (t: Tensor) => t.reshape([1, c, ...spatial.map(() => 1)]);
  const scaled = gamma === undefined ? normal : normal.mul(perChannel(gamma));
  return beta === undefined ? scaled : scaled.add(perChannel(beta));
}

/** silu(gate) up, the gated half of a Llama feed-forward layer. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return gate.silu().mul(up);
}

/**
 * What an additive mask holds where a position may not be seen. exp of it underflows to 0 beside any score, and score + mask stays inside fp16,
 * where -65504 plus a score below -16 would be -inf.
 */
export const maskedScore = -30000;

/** Additive causal mask [T, T]: 0 where key <= query. */
export function causalMask(like: Tensor, length: number): Tensor {
  checkShape("causalMask", [length, length]);
  const mask = newValues(like.dtype, length * length);
  for (let query = 0; query < length; query++) mask.fill(maskedScore, query * length + query + 1, (query + 1) * length);
  return like.constantLike(mask, [length, length]);
}

/**
 * softmax(q kᵀ scale + mask) v. q [B, H, Tq, D], k and v [B, Hk, Tk, D] with Hk dividing H: query head j reads key head j div (H / Hk).
 * mask broadcasts against [Tq, Tk].
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, scale }: { mask?: Tensor; scale?: number } = {},
): Tensor {
  const [b, h, tq, d] = q.shape as [number, number, number, number];
  const [hk, tk] = [k.shape[1]!, k.shape[2]!];
  if (q.rank !== 4 || k.rank !== 4 || h % hk !== 0) {
    throw new ShapeError("attention", `${hk} key heads do not divide ${h} query heads`, {
      inputs: { q: q.aval, k: k.aval, v: v.aval },
    });
  }
  const group = h / hk;
  // Heads that share a key head stand one after another, so they become rows of one product.
  const rows = q.mul(scale ?? 1 / Math.sqrt(d)).reshape([b, hk, group * tq, d]);
  let scores = rows.matmul(k, { transposeY: true }); // [B, Hk, G Tq, Tk]
  if (mask !== undefined) {
    const tall = mask.broadcastTo([tq, tk]);
    scores = scores.add(group === 1 ? tall : tall.tile([group, 1]));
  }
  return scores.softmax(-1).matmul(v).reshape([b, h, tq, d]);
}

/** x [B, T, H D] as heads [B, H, T, D]. */
export function splitHeads(x: Tensor, heads: number): Tensor {
  const [b, t, width] = x.shape as [number, number, number];
  return x.reshape([b, t, heads, width / heads]).transpose([0, 2, 1, 3]);
}

/** Heads [B, H, T, D] as x [B, T, H D]. */
export function mergeHeads(x: Tensor): Tensor {
  const [b, h, t, d] = x.shape as [number, number, number, number];
  return x.transpose([0, 2, 1, 3]).reshape([b, t, h * d]);
}

export interface AttentionWeights {
  /** All [out, in]. */
  readonly wq: Tensor;
  readonly wk: Tensor;
  readonly wv: Tensor;
  readonly wo: Tensor;
}

/** Multi-head attention of x [B, T, C] with itself, or of x with `context` [B, Tk, C]. */
export function multiHeadAttention(
  x: Tensor,
  { wq, wk, wv, wo }: AttentionWeights,
  { nHead, nKvHead = nHead, mask, context = x }: { nHead: number; nKvHead?: number; mask?: Tensor; context?: Tensor },
): Tensor {
  const project = (t: Tensor, w: Tensor) => t.matmul(w, { transposeY: true });
  const q = splitHeads(project(x, wq), nHead);
  const k = splitHeads(project(context, wk), nKvHead);
  const v = splitHeads(project(context, wv), nKvHead);
  return project(mergeHeads(attention(q, k, v, mask === undefined ? {} : { mask })), wo);
}

/** Rotation angles of `length` positions as tables cos and sin [T, D/2] (Su et al. 2021; theta 10000 as in Llama). */
export function ropeTables(
  like: Tensor,
  length: number,
  headDim: number,
  theta = 10000,
): { readonly cos: Tensor; readonly sin: Tensor } {
  const half = headDim / 2;
  checkShape("ropeTables", [length, half]);
  const angle = (i: number) => Math.floor(i / half) * theta ** (-(i % half) / half);
  const table = (f: (x: number) => number) =>
    like.constantLike(
      newValues(like.dtype, length * half).map((_, i) => f(angle(i))),
      [length, half],
    );
  return { cos: table(Math.cos), sin: table(Math.sin) };
}

/** Rotates the two halves of each head of x [B, H, T, D] by position: (a cos - b sin, b cos + a sin). cos, sin broadcast against [T, D/2]. */
export function rope(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
  if (x.shape.at(-1)! % 2 !== 0) throw new ShapeError("rope", `the head width of ${formatAval(x.aval)} is odd`);
  const [a, b] = x.split(2, -1) as [Tensor, Tensor];
  return a
    .mul(cos)
    .sub(b.mul(sin))
    .concat([b.mul(cos).add(a.mul(sin))], -1);
}

/** 1 where the class is the index, else 0: indices int32 [...] to [..., depth]. */
export function oneHot(indices: Tensor, depth: number, dtype: "fp16" | "fp32" = "fp16"): Tensor {
  const classes = indices.constantLike(
    Int32Array.from({ length: depth }, (_, i) => i),
    [depth],
    "int32",
  );
  return indices.expandDims(-1).equal(classes).cast(dtype);
}

/** Mean of (x - target)^2. */
export function mse(x: Tensor, target: Tensor): Tensor {
  return x.sub(target).square().mean();
}

export interface ClassLossOptions {
  readonly reduction?: "mean" | "sum" | "none";
  /** Weight of each class [V]; the mean is over weights. */
  readonly weight?: Tensor;
  /** Rows with this target count nothing. */
  readonly ignoreIndex?: number;
}

/** Targets as one-hot rows [N, V], and the weight of each row [N, 1] (undefined where all weigh 1). */
function targetRows(
  where: string,
  x: Tensor,
  targets: Tensor,
  { weight, ignoreIndex }: ClassLossOptions,
): { hot: Tensor; weights: Tensor | undefined } {
  const [n, v] = x.shape as [number, number];
  const indices = targets.dtype === "int32";
  const fits = indices
    ? targets.rank === 1 && targets.shape[0] === n
    : targets.rank === 2 && targets.shape[0] === n && targets.shape[1] === v;
  if (x.rank !== 2 || !fits) {
    throw new ShapeError(where, "expected rows [N, V] and targets int32 [N] or one-hot [N, V]", {
      inputs: { x: x.aval, targets: targets.aval },
    });
  }
  if (!indices && ignoreIndex !== undefined) throw new ConfigError(where, "ignoreIndex needs targets as indices");
  const hot = indices ? oneHot(targets, v, x.dtype as "fp16" | "fp32") : targets;
  let weights = weight === undefined ? undefined : hot.mul(weight).sum([1], { keepDims: true });
  if (ignoreIndex !== undefined) {
    const counted = targets
      .notEqual(ignoreIndex)
      .cast(x.dtype as "fp16" | "fp32")
      .expandDims(1);
    weights = weights === undefined ? counted : weights.mul(counted);
  }
  return { hot, weights };
}

/** Reduces row losses [N, 1]; `share` is the cotangent factor of each row, [N, 1] or a number. */
function reduceRows(
  losses: Tensor,
  weights: Tensor | undefined,
  reduction: "mean" | "sum" | "none",
): { value: Tensor; share: Tensor | number } {
  const n = losses.shape[0]!;
  const weighted = weights === undefined ? losses : losses.mul(weights);
  if (reduction === "none") return { value: weighted.reshape([n]), share: weights ?? 1 };
  if (reduction === "sum") return { value: weighted.sum(), share: weights ?? 1 };
  if (weights === undefined) return { value: losses.mean(), share: 1 / n };
  const total = weights.sum([0], { keepDims: true });
  // Shares first: the sum of weighted losses may leave the fp16 range where their mean does not.
  const share = weights.div(total);
  return { value: losses.mul(share).sum(), share };
}

/**
 * Cross-entropy of rows of logits [N, V] with targets: int32 [N], or one-hot [N, V] of the logits' dtype. A row's loss is the log-sum-exp of the
 * logits minus the target's logit; in fp16 shifted before the exponential, so that small losses keep their digits. The derivative at the logits is
 * the analytic (softmax - target) times the row's share, never a difference of rounded logarithms. Targets and weights are data: they get no
 * derivative. In fp16 logits may be at most 65504 apart. An index outside [0, V) is not noticed: it matches no class.
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: ClassLossOptions = {}): Tensor {
  if (!isFloat(logits.dtype))
    throw new ConfigError("crossEntropy", `logits are ${formatAval(logits.aval)}, not floats`);
  const rows = targetRows("crossEntropy", logits, targets, options);
  const hot = stopGradient(rows.hot);
  const weights = rows.weights && stopGradient(rows.weights);
  const picked = logits.mul(hot).sum([1], { keepDims: true });
  // In fp32 the difference keeps enough digits, and shares its exponentials with the derivative's softmax.
  const losses =
    logits.dtype === "fp32"
      ? logits.logSumExp([1], { keepDims: true }).sub(picked)
      : logits.sub(picked).logSumExp([1], { keepDims: true });
  const { value, share } = reduceRows(losses, weights, options.reduction ?? "mean");
  return customGradient(value, [logits], (g) => {
    const perRow = g.rank === 1 ? g.reshape([g.size, 1]) : g;
    return [logits.softmax(1).sub(hot).mul(perRow.mul(share))];
  });
}

/** Negative log-likelihood of rows of log-probabilities [N, V]. */
export function nllLoss(logProbabilities: Tensor, targets: Tensor, options: ClassLossOptions = {}): Tensor {
  const { hot, weights } = targetRows("nllLoss", logProbabilities, targets, options);
  const losses = logProbabilities.mul(hot).sum([1], { keepDims: true }).neg();
  return reduceRows(losses, weights, options.reduction ?? "mean").value;
}
