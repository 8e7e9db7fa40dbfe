// Loop nests for tests: what one must compute, element by element, and random memory for it.

import type { DType } from "../../src/core/dtype.ts";
import { float16Bits, unpackFloat16 } from "../../src/core/float16.ts";
import type { Harness } from "../../src/engines/cpu/kernels/copy.harness.ts";
import { type LoopOperand, type NestSpec, nestKey, nestTasks } from "../../src/engines/cpu/kernels/nest.ts";
import type { Isa, StepPlan } from "../../src/engines/cpu/kernels/step.ts";
import { interpret } from "./interpret.ts";

/** Elements of an operand's memory. */
export function extentOf(dims: readonly number[], { strides }: LoopOperand): number {
  return 1 + dims.reduce((sum, extent, axis) => sum + (extent - 1) * strides[axis]!, 0);
}

const bytesOf: Readonly<Record<DType, number>> = { fp32: 4, fp16: 2, int32: 4, bool: 1 };

/** Memory of operands as numbers. */
export type Values = readonly Float32Array[];

export function write(dtype: DType, values: Float32Array, bytes: Uint8Array<ArrayBuffer>): void {
  const packed =
    dtype === "fp16"
      ? Uint16Array.from(values, float16Bits)
      : dtype === "int32"
        ? Int32Array.from(values)
        : dtype === "bool"
          ? Uint8Array.from(values, (x) => Number(x !== 0))
          : values;
  bytes.set(new Uint8Array(packed.buffer, packed.byteOffset, packed.byteLength));
}

export function read(dtype: DType, bytes: Uint8Array<ArrayBuffer>): Float32Array {
  const { buffer } = bytes.slice();
  if (dtype === "fp16") {
    const bits = new Uint16Array(buffer);
    const values = new Float32Array(bits.length);
    unpackFloat16(bits, values);
    return values;
  }
  return Float32Array.from(
    dtype === "int32" ? new Int32Array(buffer) : dtype === "bool" ? new Uint8Array(buffer) : new Float32Array(buffer),
  );
}

/**
 * The nest's meaning: for every position of the dimensions outside `inside` (axes that the reductions run over), reductions in order, then stores
 * at every position inside. Changes `values` where they are stored.
 */
export function referenceNest(spec: NestSpec, inside: readonly number[], values: Values): void {
  const { dims, operands, reductions, stores } = spec;
  const outside = [...dims.keys()].filter((axis) => !inside.includes(axis));
  const offsets = (axes: readonly number[], operand: LoopOperand): number[] =>
    axes.reduce<number[]>(
      (list, axis) =>
        list.flatMap((at) => Array.from({ length: dims[axis]! }, (_, i) => at + i * operand.strides[axis]!)),
      [0],
    );
  const starts = operands.map((operand) => offsets(outside, operand));
  const steps = operands.map((operand) => offsets(inside, operand));
  const count = steps[0]!.length;
  for (let at = 0; at < starts[0]!.length; at++) {
    // The interpreter takes int32 operands as bits.
    const lanes = operands.map(({ dtype }, k) => {
      const numbers = steps[k]!.map((step) => values[k]![starts[k]![at]! + step]!);
      return dtype === "int32" ? new Float32Array(Int32Array.from(numbers).buffer) : Float32Array.from(numbers);
    });
    for (const [i, { kind, value }] of reductions.entries()) {
      const elements = interpret(value, lanes);
      let result = kind === "sum" ? 0 : kind === "max" ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
      for (const x of elements)
        result = kind === "sum" ? result + x : kind === "max" ? Math.max(result, x) : Math.min(result, x);
      (lanes as unknown as Record<number, Float32Array>)[-1 - i] = new Float32Array(count).fill(result);
    }
    for (const { operand, value } of stores) {
      const results = interpret(value, lanes);
      for (let i = 0; i < count; i++) values[operand]![starts[operand]![at]! + steps[operand]![i]!] = results[i]!;
    }
  }
}

/** Runs a nest's kernel over memory that ends at guard pages; returns what the operands hold then. */
export function runNest(
  harness: Harness,
  isa: Isa,
  spec: NestSpec,
  values: Values,
  emit: StepPlan<number>["emit"],
  scratchBytes: number,
  threads: number,
): Float32Array[] {
  const memory = spec.operands.map((operand, k) =>
    harness.memory(`nest${k}`, extentOf(spec.dims, operand) * bytesOf[operand.dtype]),
  );
  for (const [k, { dtype }] of spec.operands.entries()) write(dtype, values[k]!, memory[k]!.bytes);
  const args = spec.operands.map((_, k) => k);
  const step: StepPlan<number> = {
    key: nestKey(spec),
    tasks: nestTasks(spec),
    args,
    scratchBytes,
    bytes: 0,
    flops: 0,
    emit,
  };
  const program = harness.load(isa, [step], (k) => memory[k]!.address, threads);
  const outcome = program.run();
  program.dispose();
  if (outcome !== "done") throw new Error(`the nest ${outcome}`);
  return spec.operands.map(({ dtype }, k) => read(dtype, memory[k]!.bytes));
}
