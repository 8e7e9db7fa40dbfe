// Products: biases, uneven contractions, running sums and gathers as products.

import { newValues } from "../../core/dtype.ts";
import { sizeOf } from "../../core/shape.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { applyOp, producer, type Rule, rule, type Use } from "../rewrite.ts";
import { dataOf } from "./constants.ts";
import type { Target } from "./dialect.ts";
import { barrier } from "./functions.ts";

/** The bias added to the result: one more rounding, between product and bias. */
function biasOutside({ op, operands: [x, weight, bias], attrs }: Use): Tensor {
  const product = applyOp(op, [x, weight, undefined], attrs)[0]!;
  return product.add(bias!.reshape([1, bias!.size, ...product.shape.slice(2).map(() => 1)]));
}

/** The contraction is a multiple of this on M1 (mil §8). */
const lanes = 32;

/** Largest axis whose running sum is a product with a constant triangle: 2 MB of constants. */
const triangleMax = 1024;

/** Slices that a gather may become. Mil §6: more than about 12 branches that meet again take the compiler seconds. */
const sliceMax = 8;

/** Elements of the constant one-hot matrix that a gather may become. */
const oneHotMax = 2 ** 20;

/** Reshapes do not count: a transpose of a reshape of a transpose. */
function followsTranspose(x: Tensor): boolean {
  let node = producer(x);
  if (node?.op !== ops.reshape && node?.op !== ops.expand_dims && node?.op !== ops.squeeze) return false;
  while (node?.op === ops.reshape || node?.op === ops.expand_dims || node?.op === ops.squeeze)
    node = producer(node.inputs[0] as Tensor);
  return node?.op === ops.transpose;
}

/** The axis moved to the end, f of it, and back. */
function onLastAxis(x: Tensor, axis: number, f: (x: Tensor) => Tensor): Tensor {
  if (axis === x.rank - 1) return f(x);
  const swap = x.shape.map((_, i) => (i === axis ? x.rank - 1 : i === x.rank - 1 ? axis : i));
  return f(x.transpose(swap)).transpose(swap);
}

export function productRules({ natives }: Target): Rule[] {
  return [
    ...[ops.conv, ops.conv_transpose].map(
      (op): Rule => ({
        name: "conv-bias",
        ops: [op],
        rewrite(use) {
          const bias = use.operands[2];
          const native = natives.convBias && bias?.node.kind === "constant";
          return bias === undefined || native ? undefined : [biasOutside(use)];
        },
      }),
    ),
    // Zeros against zeros: the same bits.
    rule(ops.matmul, "uneven-contraction", ({ x, y }, { transposeX, transposeY }) => {
      const k = x.shape.at(transposeX ? -2 : -1)!;
      const missing = (lanes - (k % lanes)) % lanes;
      if (natives.unevenContraction || missing === 0) return undefined;
      const rows = [0, missing, 0, 0];
      const columns = [0, missing];
      return x.pad(transposeX ? rows : columns).matmul(y.pad(transposeY ? columns : rows), { transposeX, transposeY });
    }),
    // Two transposes in a row are one, or none: the same bits. With a reshape between, see `barrier`.
    rule(ops.transpose, "transpose-chain", ({ x }, { perm }) => {
      const before = producer(x);
      if (before?.op === ops.transpose) {
        const first = before.attrs.perm as readonly number[];
        return (before.inputs[0] as Tensor).transpose(perm.map((axis) => first[axis]!));
      }
      if (natives.transposeChain || !followsTranspose(x) || x.dtype !== "fp16") return undefined;
      return barrier(x).transpose(perm);
    }),
    // A triangle of ones (ops §2.3): on the simulator the same bits, where all is finite.
    rule(ops.cumsum, "cumsum", ({ x }, { axis, exclusive, reverse }) => {
      const extent = x.shape[axis]!;
      if (x.dtype !== "fp16" || extent > triangleMax) return undefined;
      const triangle = newValues("fp16", extent * extent);
      for (let from = 0; from < extent; from++) {
        for (let to = 0; to < extent; to++) {
          const before = reverse ? from > to : from < to;
          if (before || (from === to && !exclusive)) triangle[from * extent + to] = 1;
        }
      }
      const ones = x.constantLike(triangle, [extent, extent]);
      return onLastAxis(x, axis, (rows) =>
        rows.rank === 1 ? rows.reshape([1, extent]).matmul(ones).reshape([extent]) : rows.matmul(ones),
      );
    }),
    // Constant indices: slices, as ANEForge does (ops §2.3), the same bits; many of them a product with one-hot rows, the same bits where x is
    // finite, but +0 for -0.
    rule(ops.gather, "constant-gather", ({ x, indices }, { axis }, { results }) => {
      const extent = x.shape[axis]!;
      const at = Array.from(dataOf(indices) ?? [], (index) => (index < 0 ? index + extent : index));
      const inside = at.every((row) => row >= 0 && row < extent); // else the operator's own error
      if (at.length === 0 || !inside || x.dtype !== "fp16") return undefined;
      const starts = [...at.keys()].filter((i) => i === 0 || at[i] !== at[i - 1]! + 1);
      if (starts.length <= sliceMax) {
        const parts = starts.map((start, i) => {
          const count = (starts[i + 1] ?? at.length) - start;
          const begin = x.shape.map((_, each) => (each === axis ? at[start]! : 0));
          return x.sliceBySize(
            begin,
            x.shape.map((all, each) => (each === axis ? count : all)),
          );
        });
        return parts[0]!.concat(parts.slice(1), axis).reshape(results[0]!.shape);
      }
      if (at.length * extent > oneHotMax) return undefined;
      const hot = newValues("fp16", at.length * extent);
      for (const [i, row] of at.entries()) hot[i * extent + row] = 1;
      const inner = sizeOf(x.shape.slice(axis + 1));
      const rows = x.reshape([sizeOf(x.shape.slice(0, axis)), extent, inner]);
      const matrix = x.constantLike(hot, [1, at.length, extent]);
      return matrix.matmul(rows).reshape(results[0]!.shape);
    }),
  ];
}
