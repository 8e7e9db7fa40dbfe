// What chips compute otherwise than the simulator, without a word. Sources are marked as in quirks.ts.

import { roundFloat16, roundFloat16InPlace } from "../../../src/core/float16.ts";
import type { Instruction } from "../../../src/ir/program.ts";
import type { KernelArray } from "../../../src/ops/define.ts";
import type { Chip } from "./quirks.ts";

type Operands = Parameters<Instruction["op"]["kernel"]>[0];

/** Offset of each result on the last axis, where the instruction cuts that axis; undefined for another instruction. */
function widthOffsets({ op, attrs }: Instruction, x: KernelArray, outs: readonly KernelArray[]): number[] | undefined {
  const last = x.shape.length - 1;
  const at = (name: string) => Number((attrs[name] as readonly number[] | undefined)?.[last] ?? 0);
  if (op.name === "slice_by_size") return [at("begin")];
  if (op.name === "slice_by_index") {
    if ((attrs.beginMask as readonly boolean[] | undefined)?.[last]) return [0];
    const begin = at("begin");
    return [begin < 0 ? begin + x.shape[last]! : begin];
  }
  // A split is taken to be slices.
  if (op.name === "split" && Number(attrs.axis) === last) {
    let offset = 0;
    return outs.map(({ shape }) => (offset += shape[last]!) - shape[last]!);
  }
  return undefined;
}

function saturate({ data }: KernelArray, limit: number): void {
  for (let i = 0; i < data.length; i++) {
    if (data[i]! > limit) data[i] = Number.POSITIVE_INFINITY;
    else if (data[i]! < -limit) data[i] = Number.NEGATIVE_INFINITY;
  }
}

/** reduce_sum with an fp16 accumulator. */
function narrowSum(x: KernelArray, axes: readonly number[], out: KernelArray): void {
  out.data.fill(0);
  const reduced = new Set(axes.map((axis) => (axis < 0 ? axis + x.shape.length : axis)));
  const index = x.shape.map(() => 0);
  for (let i = 0; i < x.data.length; i++) {
    let to = 0;
    for (const [axis, extent] of x.shape.entries()) if (!reduced.has(axis)) to = to * extent + index[axis]!;
    out.data[to] = roundFloat16(out.data[to]! + x.data[i]!);
    for (let axis = index.length - 1; axis >= 0 && ++index[axis]! === x.shape[axis]; axis--) index[axis] = 0;
  }
}

/** Runs one instruction as the chip does. */
export function compute(
  { family, numbers: values, zerosOps, nanOps, name }: Chip,
  instruction: Instruction,
  operands: Operands,
  outs: [KernelArray, ...KernelArray[]],
): void {
  const { op } = instruction;
  const given = operands as Readonly<Record<string, KernelArray | undefined>>;
  const { epsilon } = instruction.attrs;
  // An epsilon below the range of fp16 is 0 [M 2].
  const attrs =
    typeof epsilon === "number" ? { ...instruction.attrs, epsilon: roundFloat16(epsilon) } : instruction.attrs;
  op.kernel(operands, attrs, outs);
  if (op.name === "reduce_sum" && values["narrow-sum"] !== 0 && given.x?.dtype === "fp16")
    narrowSum(given.x, attrs.axes as readonly number[], outs[0]);
  for (const out of outs) if (out.dtype === "fp16") roundFloat16InPlace(out.data as Float32Array);
  const offsets = family <= 3 && given.x?.dtype === "fp16" ? widthOffsets(instruction, given.x, outs) : undefined;
  // A slice that does not begin at the first column passes a gain of 16 on H13 and H14 [N, M 6].
  for (const [i, offset] of (offsets ?? []).entries()) if (offset !== 0) saturate(outs[i]!, 4094);
  if (values.silicon !== 0) {
    const weight = given.weight?.shape;
    const taps = weight === undefined ? 2 : weight.slice(1).reduce((product, extent) => product * extent, 1);
    if (op.name === "matmul" || op.name === "linear" || (op.name === "conv" && taps > 1)) saturate(outs[0], 32752);
  }
  if (op.name === "matmul" && values["m1-zeros"] !== 0 && /^h13/.test(name)) {
    const inner = given.x!.shape.at(attrs.transposeX === true ? -2 : -1)!;
    if (inner % 32 !== 0) outs[0].data.fill(0);
  }
  if (zerosOps.has(op.name)) for (const out of outs) out.data.fill(0);
  if (nanOps.has(op.name)) for (const out of outs) out.data.fill(Number.NaN);
}
