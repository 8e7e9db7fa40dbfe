// What a compiled program consists of: operators, bytes, operations, and how its state is replaced.

import { dtypeBytes } from "../core/dtype.ts";
import type { Aval } from "../core/shape.ts";
import { sizeOf } from "../core/shape.ts";
import type { Plan, UpdateMode } from "../ir/plan.ts";
import { instructionOperands, type Program } from "../ir/program.ts";
import type { EngineName, ExecutableReport } from "./engine.ts";

export interface StageReport {
  readonly name: string;
  readonly engine: EngineName;
  readonly instructions: number;
  /** How often each operator occurs, most frequent first. */
  readonly operators: Readonly<Record<string, number>>;
  readonly constantBytes: number;
  /** Multiply-adds count as two; operators without products count one per result element. */
  readonly flops: number;
  /** What the engine made of the stage, for engines that plan: steps, their times where they were profiled, memory. */
  readonly compiled?: ExecutableReport;
}

export interface ProgramReport {
  readonly stages: readonly StageReport[];
  /** Bytes of all buffers: feeds, results, state, links between stages. */
  readonly bufferBytes: number;
  readonly states: readonly {
    readonly name: string;
    readonly bytes: number;
    readonly update: UpdateMode | "read-only";
  }[];
}

/** Bytes of a value in its storage format. */
export function bytesOf({ dtype, shape }: Aval): number {
  return dtypeBytes[dtype] * sizeOf(shape);
}

/** Floating-point operations of one run of a program. */
export function flopsOf(program: Program): number {
  return program.instructions.reduce((sum, instruction) => {
    const out = program.values[instruction.results[0]!]!;
    const operands = instructionOperands(instruction, (value) => program.values[value]!);
    return sum + (instruction.op.flops?.(operands, instruction.attrs, out) ?? sizeOf(out.shape));
  }, 0);
}

/** How often each operator occurs, most frequent first. */
export function countOperators(program: Program): Record<string, number> {
  const counts = new Map<string, number>();
  for (const { op } of program.instructions) counts.set(op.name, (counts.get(op.name) ?? 0) + 1);
  return Object.fromEntries([...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])));
}

export function reportPlan(
  plan: Plan,
  engine: EngineName,
  compiled: readonly (ExecutableReport | undefined)[] = [],
): ProgramReport {
  return {
    stages: plan.stages.map((stage, at) => ({
      name: stage.name,
      engine: (stage.on as EngineName | undefined) ?? engine,
      instructions: stage.program.instructions.length,
      operators: countOperators(stage.program),
      constantBytes: stage.program.constants.reduce((sum, { value }) => sum + bytesOf(stage.program.values[value]!), 0),
      flops: flopsOf(stage.program),
      ...(compiled[at] !== undefined && { compiled: compiled[at] }),
    })),
    bufferBytes: [...plan.buffers.values()].reduce((sum, aval) => sum + bytesOf(aval), 0),
    states: plan.states.map(({ parameter, buffer, mode }) => ({
      name: parameter.name,
      bytes: bytesOf(plan.buffers.get(buffer)!),
      update: mode,
    })),
  };
}
