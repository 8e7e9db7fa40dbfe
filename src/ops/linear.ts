// Matrix products.

import { formatShape, ShapeError } from "../core/errors.ts";
import { type Aval, broadcastShapes, sizeOf } from "../core/shape.ts";
import { bool, defineOp, floats, optional } from "./define.ts";
import { matmulKernel } from "./kernels/matmul.ts";

function matrix(name: string, { shape }: Aval, transpose: boolean): [number, number] {
  if (shape.length < 2) throw new ShapeError("matmul", `${name} has rank ${shape.length}, a matrix has at least 2`);
  const [rows, columns] = [shape.at(-2)!, shape.at(-1)!];
  return transpose ? [columns, rows] : [rows, columns];
}

export const matmul = defineOp({
  name: "matmul",
  doc: "Batched matrix product: x [...B, M, K] times y [...B, K, N] gives [...B, M, N]; batch axes broadcast. Sums accumulate wide.",
  inputs: { x: floats, y: floats },
  attrs: { transposeX: bool(false), transposeY: bool(false) },
  infer({ x, y }, { transposeX, transposeY }) {
    const [m, k] = matrix("x", x, transposeX);
    const [k2, n] = matrix("y", y, transposeY);
    if (k !== k2) throw new ShapeError("matmul", `inner sizes ${k} and ${k2} differ`);
    const batch = broadcastShapes(x.shape.slice(0, -2), y.shape.slice(0, -2));
    if (batch === undefined) throw new ShapeError("matmul", "the batch axes do not broadcast");
    return { dtype: x.dtype, shape: [...batch, m, n] };
  },
  vjp: ({ x, y }, { transposeX, transposeY }, { g }) => ({
    x: () =>
      (transposeX
        ? y.matmul(g, { transposeX: transposeY, transposeY: true })
        : g.matmul(y, { transposeY: !transposeY })
      ).sumTo(x.shape),
    y: () =>
      (transposeY
        ? g.matmul(x, { transposeX: true, transposeY: transposeX })
        : x.matmul(g, { transposeX: !transposeX })
      ).sumTo(y.shape),
  }),
  kernel: ({ x, y }, { transposeX, transposeY }, [out]) => matmulKernel(x, y, transposeX, transposeY, out),
  native: (n, { x, y }, { transposeX, transposeY }, [out]) => n.matmul(out.dtype, x, y, transposeX, transposeY),
  support(chip, { x, y }) {
    const depth = Math.max(...[x, y].map(({ shape }) => (shape.length === 5 ? shape[1]! : 1)));
    const limit = chip.limits.matmulDepthMax;
    return (
      depth <= limit ||
      `the depth axis (axis 1 of rank 5) has ${depth} entries, the limit is ${limit}; merge it into the batch`
    );
  },
  flops: ({ x }, { transposeX }, out) => 2 * sizeOf(out.shape) * x.shape.at(transposeX ? -2 : -1)!,
});

export const linear = defineOp({
  name: "linear",
  doc: "x [..., K] times the transpose of weight [N, K], plus bias [N].",
  inputs: { x: floats, weight: floats, bias: optional(floats) },
  attrs: {},
  infer({ x, weight, bias }) {
    const rank = x.shape.length;
    if (rank < 1 || rank > 3) throw new ShapeError("linear", `x has rank ${rank}, not 1 to 3`);
    if (weight.shape.length !== 2) throw new ShapeError("linear", `weight has rank ${weight.shape.length}, not 2`);
    const [n, k] = weight.shape as [number, number];
    if (x.shape[rank - 1] !== k) throw new ShapeError("linear", `inner sizes ${x.shape[rank - 1]} and ${k} differ`);
    if (bias !== undefined && (bias.shape.length !== 1 || bias.shape[0] !== n)) {
      throw new ShapeError("linear", `bias must have shape [${n}], not ${formatShape(bias.shape)}`);
    }
    return { dtype: x.dtype, shape: [...x.shape.slice(0, -1), n] };
  },
  vjp({ x, weight, bias }, _attrs, { g }) {
    const rows = (t: typeof g) => t.reshape([-1, t.shape.at(-1)!]);
    return {
      x: () => rows(g).matmul(weight).reshape(x.shape),
      weight: () => rows(g).matmul(rows(x), { transposeX: true }),
      bias: () => rows(g).sum([0]).reshape(bias!.shape),
    };
  },
  kernel({ x, weight, bias }, _attrs, [out]) {
    const rows = (shape: readonly number[]) => [sizeOf(shape) / shape.at(-1)!, shape.at(-1)!];
    matmulKernel({ ...x, shape: rows(x.shape) }, weight, false, true, { ...out, shape: rows(out.shape) }, bias);
  },
  native(n, { x, weight, bias }, _attrs, [out]) {
    const rows = n.reshape(x, [sizeOf(x.shape) / x.shape.at(-1)!, x.shape.at(-1)!]);
    const product = n.matmul(bias === undefined ? out.dtype : "fp32", rows, weight, false, true);
    const sum = bias === undefined ? product : n.map(out.dtype, [product, bias], (v, a, b) => v.add(a!, b!));
    return n.reshape(sum, out.shape);
  },
  constantOnChip: {
    weight: {
      reason: "the chip takes the weight of linear as a constant",
      lower({ x, weight, bias }) {
        const product = x.reshape([-1, x.shape.at(-1)!]).matmul(weight, { transposeY: true });
        const shape = [...x.shape.slice(0, -1), weight.shape[0]!];
        return (bias === undefined ? product : product.add(bias)).reshape(shape);
      },
    },
    bias: {
      reason: "the chip takes the bias of linear as a constant",
      lower: ({ x, weight, bias }) => x.linear(weight).add(bias!),
    },
  },
  flops: ({ x }, _attrs, out) => 2 * sizeOf(out.shape) * x.shape.at(-1)!,
});
