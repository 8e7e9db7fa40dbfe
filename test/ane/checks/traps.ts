// Programs that a chip or its compiler refuses or computes wrongly as they are written, and what becomes of each without legalization.

import { constant, input, type Tensor } from "../../../src/index.ts";
import { ops } from "../../../src/ops/index.ts";
import { applyOp } from "../../../src/passes/rewrite.ts";

export interface Trap {
  readonly name: string;
  /** Settings of the double. */
  readonly config: string;
  readonly outputs: () => Readonly<Record<string, Tensor>>;
  /** Added to the program as ports that nothing reads. */
  readonly unread?: boolean;
  readonly scale?: number;
  /** What the double says of the program as it is written, nothing where it runs; "wrong": it runs, and the results are wrong. */
  readonly raw: RegExp | "wrong";
  /** Through the driver the program is right, unless it is refused, in words like these. */
  readonly refused?: RegExp;
  /** How far results may be from the program as it is written, absolutely. */
  readonly within?: number;
}

const old =
  "chip=h13;os=14;gelu=refuse;reduce-mean=refuse;concat=refuse;softmax-channels=refuse;slice-index=refuse;resize=refuse";
const recent = "chip=h17s;os=26;identity-output=refuse;unused-inputs=refuse";

export const trapConfigs = { old, recent } as const;

let named = 0;
const x = (...shape: number[]) => input(shape, { name: `x${named++}` });
const fixed = (...shape: number[]) => {
  const count = shape.reduce((product, extent) => product * extent, 1);
  return constant(
    Float32Array.from({ length: count }, (_, i) => Math.cos(3 * i)),
    shape,
  );
};

const on = (config: string, traps: readonly Omit<Trap, "config">[]) => traps.map((trap): Trap => ({ ...trap, config }));

export const traps: readonly Trap[] = [
  ...on(old, [
    {
      name: "an extent above the family's",
      outputs: () => ({ y: x(2, 16385).relu() }),
      raw: /above 16384/,
      refused: /on h13.*16385.*exceeds 16384.*split the axis/,
    },
    {
      name: "a product of rank 5",
      outputs: () => ({ y: x(2, 3, 2, 4, 5).matmul(x(2, 3, 2, 5, 6)) }),
      raw: /matmul of depth above 1/,
    },
    {
      name: "a transpose and a product of rank 5",
      outputs: () => ({
        y: x(2, 1, 1, 4, 5)
          .transpose([0, 1, 2, 4, 3])
          .matmul(x(2, 1, 1, 4, 3)),
      }),
      raw: /transpose and matmul at rank 5/,
    },
    {
      name: "a pooling window above the family's",
      outputs: () => ({ y: x(1, 2, 4, 40).maxPool([1, 30]) }),
      raw: /max_pool: window above 29/,
      refused: /max_pool on h13.*30 wide.*29.*pool twice/,
    },
    {
      name: "a slice at an offset of the last axis",
      outputs: () => ({ y: x(4, 64).sliceBySize([0, 16], [4, 32]) }),
      scale: 9000,
      raw: "wrong",
    },
    {
      name: "an uneven slice of the last axis",
      outputs: () => ({ y: x(4, 9).sliceBySize([0, 2], [4, 5]) }),
      scale: 9000,
      raw: "wrong",
    },
    {
      name: "a split of the last axis",
      outputs: () => {
        const [a, b] = x(4, 32).split([8, 24], -1);
        return { a: a!, b: b! };
      },
      scale: 9000,
      raw: "wrong",
    },
    {
      name: "bias of conv",
      outputs: () => ({ y: applyOp(ops.conv, [x(1, 4, 8, 8), fixed(6, 4, 3, 3), fixed(6)], { padType: "same" })[0]! }),
      raw: /conv: bias/,
      within: 0.05,
    },
    { name: "gelu", outputs: () => ({ y: x(4, 8).gelu() }), raw: /FAILED \(gelu\)/, within: 0.01 },
    { name: "reduce_mean", outputs: () => ({ y: x(4, 8).mean(1) }), raw: /reduce_mean/, within: 0.01 },
    { name: "concat", outputs: () => ({ y: x(4, 8).concat([x(4, 3)], 1) }), raw: /\(concat\)/ },
    { name: "stack", outputs: () => ({ y: x(4, 8).stack([x(4, 8)], 1) }), raw: /^$/ },
    {
      name: "softmax over channels",
      outputs: () => ({ y: x(1, 24, 1, 8).softmax(1) }),
      raw: /softmax over 24 channels/,
    },
    {
      name: "a strided slice of an input",
      outputs: () => ({ y: x(4, 8).sliceByIndex([0, 0], [4, 8], { stride: [2, 3] }) }),
      raw: /slice_by_index of a function input/,
    },
    {
      name: "cast of a comparison",
      outputs: () => ({ y: x(4, 8).greater(0).cast("fp16") }),
      raw: /cast is not on the engine/,
    },
    { name: "sine", outputs: () => ({ y: x(4, 8).sin() }), raw: /sin: unsupported/, within: 0.01 },
    { name: "upsampling", outputs: () => ({ y: x(1, 2, 4, 4).upsampleNearest(2) }), raw: /FAILED/ },
    {
      name: "gain of a long norm",
      outputs: () => ({ y: x(2, 1024).layerNorm({ gamma: fixed(1024) }) }),
      raw: /layer_norm of 1024/,
      within: 0.02,
    },
  ]),
  ...on(recent, [
    { name: "an extent that only later families have", outputs: () => ({ y: x(2, 16385).relu() }), raw: /^$/ },
    {
      name: "a matrix of linear that is fed",
      outputs: () => ({ y: x(4, 8).linear(x(6, 8)) }),
      raw: /linear: weight is not a constant/,
      within: 0.01,
    },
    {
      name: "weights of a transposed convolution that are fed",
      outputs: () => ({ y: x(1, 4, 5, 5).convTranspose(x(4, 3, 2, 2)) }),
      raw: /conv_transpose: weight is not a constant/,
      within: 0.05,
    },
    {
      name: "weights of a convolution over a batch that are fed",
      outputs: () => ({ y: x(3, 4, 8, 8).conv(x(6, 4, 3, 3)) }),
      raw: /runtime weight, batch above 1/,
      within: 0.05,
    },
    {
      name: "gain and bias of a norm that are fed",
      outputs: () => ({ y: x(4, 16).layerNorm({ axes: [1], gamma: x(16), beta: x(16) }) }),
      raw: /layer_norm: gamma is not a constant/,
      within: 0.05,
    },
    { name: "a reduction times zero", outputs: () => ({ y: x(4, 8).sum(1).mul(0) }), raw: /mul of a reduction and 0/ },
    {
      name: "square before a nonlinearity",
      outputs: () => ({ y: x(4, 100).square().tanh() }),
      raw: /square before tanh at width 100/,
    },
    { name: "a scalar port", outputs: () => ({ y: x().mul(x(3)) }), raw: /rank 0/ },
    {
      name: "an output that is an input",
      outputs: () => {
        const a = x(4);
        return { y: a, z: a.mul(2) };
      },
      raw: /is eliminated/,
    },
    {
      name: "an output that is another",
      outputs: () => {
        const y = x(4).exp();
        return { y, z: y };
      },
      raw: /is eliminated|returned twice/,
    },
    {
      name: "an output that is constant",
      outputs: () => ({ y: fixed(4), z: x(4).exp() }),
      raw: /is a constant|is eliminated/,
    },
    {
      name: "an input that nothing reads",
      outputs: () => ({ y: x(4).exp() }),
      unread: true,
      raw: /live input tensor not used/,
    },
    { name: "tiling by five", outputs: () => ({ y: x(2, 3).tile([1, 5]) }), raw: /tile: 5 times/ },
    {
      name: "padding of channels",
      outputs: () => ({ y: x(1, 2, 4, 4).pad([1, 1, 0, 0, 0, 0]) }),
      raw: /pad on the channel axis/,
    },
    {
      name: "bools that are moved",
      outputs: () => ({ y: x(4, 8).greater(0).transpose().select(x(8, 4), 0) }),
      raw: /transpose of bool/,
    },
    {
      name: "logic of bools",
      outputs: () => ({ y: x(4).greater(0).logicalAnd(x(4).less(1)).select(x(4), 0) }),
      raw: /logical_and: not implemented/,
    },
    {
      name: "an integer port",
      outputs: () => ({ y: fixed(5, 2).gather(input([3], { name: "i", dtype: "int32" }), 0) }),
      raw: /no port has that dtype/,
      refused: /int32 ports.*one-hot/,
    },
    {
      name: "arithmetic in fp32",
      outputs: () => ({ y: x(4).cast("fp32").exp().cast("fp16") }),
      raw: /exp in fp32/,
      refused: /computes in fp16 only.*use fp16, or a CPU stage/,
    },
    {
      name: "one product of concat",
      outputs: () => ({ y: x(4).concat([], 0) }),
      raw: /concat takes two values|is eliminated/,
    },
  ]),
];
