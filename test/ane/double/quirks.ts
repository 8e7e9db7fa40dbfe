// What chips and system versions refuse or compute otherwise, as the fact sheets report it. Shares no table with src/chips.

import { roundFloat16InPlace } from "../../../src/core/float16.ts";
import type { Instruction, Program } from "../../../src/ir/program.ts";
import type { MilFile, MilFunction } from "../../../src/mil/ast.ts";
import type { KernelArray } from "../../../src/ops/define.ts";

/** A compile that the chip or its compiler refuses. */
export class Refusal extends Error {}

export interface Chip {
  readonly order: number;
}

export interface Source {
  readonly text: string;
  readonly file: MilFile;
  readonly main: MilFunction;
  readonly weightBytes: number;
}

export function readChip(settings: string): Chip {
  void settings;
  return { order: 0 };
}

export function readTarget(host: Chip, custom: string): { readonly chip: Chip; readonly lines: string[] } {
  void custom;
  return { chip: host, lines: [] };
}

export function inspect(chip: Chip, source: Source): void {
  void chip;
  void source;
}

/** Runs one instruction. */
export function compute(
  _chip: Chip,
  _program: Program,
  { op, attrs }: Instruction,
  operands: Parameters<Instruction["op"]["kernel"]>[0],
  outs: [KernelArray, ...KernelArray[]],
): void {
  op.kernel(operands, attrs, outs);
  for (const out of outs) if (out.dtype === "fp16") roundFloat16InPlace(out.data as Float32Array);
}
