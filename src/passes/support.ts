// Whether a chip can run a program: limits that hold for every operator, then what each record says. Changes nothing.

import { type Chip, chipFamilies } from "../chips/index.ts";
import type { DType } from "../core/dtype.ts";
import { formatAval, UnsupportedError } from "../core/errors.ts";
import { type Aval, type Shape, sizeOf } from "../core/shape.ts";
import { type Instruction, instructionOperands, type Program } from "../ir/program.ts";
import { labelled, type Op, operandNames } from "../ops/define.ts";
import { ops } from "../ops/index.ts";

/** Something that keeps a program from a chip. */
export interface Problem {
  /** Number of the instruction; undefined where a port or the chip as a whole is at fault. */
  readonly instruction: number | undefined;
  /** Operator, `input "x"`, `output "y"`, or `chip`. */
  readonly where: string;
  readonly reason: string;
}

/** Everything that is known to keep `program` from `chip`; none found is no promise that the chip's compiler takes it. */
export function checkChip(program: Program, chip: Chip): Problem[] {
  if (!chip.features.mil) {
    const reason = `${chip.name} belongs to family ${chip.family}, MIL programs run from ${chipFamilies[1]} on`;
    return [{ instruction: undefined, where: "chip", reason }];
  }
  const problems: Problem[] = [];
  const moved = valuesOnlyTransposed(program);
  for (const [kind, ports] of [
    ["input", program.inputs],
    ["output", program.outputs],
  ] as const) {
    for (const { name, value } of ports) {
      const aval = program.values[value]!;
      const reason = portReason(aval, chip) ?? sizeReason(aval, chip, moved.has(value));
      if (reason !== undefined) problems.push({ instruction: undefined, where: `${kind} "${name}"`, reason });
    }
  }
  const constants = new Set(program.constants.map(({ value }) => value));
  for (const [at, instruction] of program.instructions.entries()) {
    const add = (reason: string) => problems.push({ instruction: at, where: instruction.op.name, reason });
    const arithmetic = arithmeticReason(instruction, program);
    if (arithmetic !== undefined) add(arithmetic);
    for (const value of instruction.results) {
      const reason = sizeReason(program.values[value]!, chip, instruction.op === ops.transpose);
      if (reason !== undefined) add(reason);
    }
    const broadcast = chip.features.depthBroadcast ? undefined : depthReason(instruction, program);
    if (broadcast !== undefined) add(broadcast);
    for (const reason of constantReasons(instruction, constants)) add(reason);
    const operands = instructionOperands(instruction, (value) => program.values[value]!);
    const supported = instruction.op.support?.(chip, operands, instruction.attrs) ?? true;
    if (supported !== true) add(supported);
  }
  return problems;
}

/** What a rewritten instruction stands in place of. */
interface Origin {
  readonly op: Op;
  readonly operands: readonly ({ readonly aval: Aval } | undefined)[];
}

/**
 * @param originOf what instruction `at` stands in place of, where a pass made it: the error names that, too.
 * @throws {UnsupportedError} naming the first problem: operator, shapes, limit and remedy.
 */
export function requireSupport(program: Program, chip: Chip, originOf?: (at: number) => Origin | undefined): void {
  const problems = checkChip(program, chip);
  const [first] = problems;
  if (first === undefined) return;
  const more = problems.length === 1 ? "" : ` (and ${problems.length - 1} more)`;
  const [what, ...remedy] = first.reason.split("; ");
  const instruction = first.instruction === undefined ? undefined : program.instructions[first.instruction]!;
  const origin = first.instruction === undefined ? undefined : originOf?.(first.instruction);
  const op = origin?.op ?? instruction?.op;
  const operands = origin?.operands.map((each) => each?.aval) ?? instruction?.inputs.map((at) => program.values[at]);
  const where = origin === undefined ? first.where : `${origin.op.name}, rewritten with ${first.where},`;
  throw new UnsupportedError("compile", `${where} on ${chip.name}: ${what}${more}`, {
    chip: chip.name,
    ...(remedy.length > 0 && { remedy: remedy.join("; ") }),
    ...(op !== undefined && { op: op.name, inputs: labelled(op, operands!) }),
  });
}

/** Inputs that nothing but transposes read: another extent limit holds for them. */
function valuesOnlyTransposed(program: Program): Set<number> {
  const others = new Set<number>();
  const moved = new Set<number>();
  for (const { op, inputs } of program.instructions) {
    for (const value of inputs) (op === ops.transpose ? moved : others).add(value);
  }
  return new Set(program.inputs.map(({ value }) => value).filter((value) => moved.has(value) && !others.has(value)));
}

/** What to do about a port that the chip has not. */
const portRemedies: Readonly<Record<DType, string>> = {
  fp16: "run it on another engine",
  fp32: 'use fp16, or precision "mixed", which leaves fp32 to a CPU stage',
  int32: "feed one-hot rows in fp16, and take largest elements in a CPU stage",
  bool: "use fp16 with 0 and 1, and compare inside the program",
};

function portReason(aval: Aval, chip: Chip): string | undefined {
  const { portDtypes } = chip.limits;
  if (portDtypes.includes(aval.dtype)) return undefined;
  return `${formatAval(aval)}: the chip has no ${aval.dtype} ports; ${portRemedies[aval.dtype]}`;
}

/** Whether rank and extents are within the chip's limits. */
export function fitsChip(aval: Aval, chip: Chip): boolean {
  return sizeReason(aval, chip, false) === undefined;
}

function sizeReason(aval: Aval, { limits }: Chip, transposed: boolean): string | undefined {
  const { shape } = aval;
  if (shape.length > limits.maxRank) {
    return `${formatAval(aval)}: rank ${shape.length} exceeds ${limits.maxRank}; merge neighbouring axes`;
  }
  for (const [axis, extent] of shape.entries()) {
    const general = shape.length === 4 && axis === 1 ? limits.channelExtent : limits.maxTensorDim;
    const limit = transposed ? limits.transposeExtent : general;
    if (extent > limit) {
      return `${formatAval(aval)}: extent ${extent} of axis ${axis} exceeds ${limit}; split the axis`;
    }
  }
  return undefined;
}

/** Dtypes of operands; bool lives between a comparison and its select, int32 only as the result of an arg-extremum. */
const computed: readonly DType[] = ["fp16", "bool"];

function arithmeticReason({ op, inputs }: Instruction, { values }: Program): string | undefined {
  if (op === ops.cast) return undefined; // its record decides
  const wide = inputs
    .map((value) => values[value])
    .find((aval) => aval !== undefined && !computed.includes(aval.dtype));
  return wide && `operand ${formatAval(wide)}: the chip computes in fp16 only; use fp16, or a CPU stage`;
}

/** Number of the first operand of an elementwise operator of rank 5 that is repeated along axis 1, the engine's depth; -1 where there is none. */
export function depthOperand(op: Op, operands: readonly (Aval | undefined)[], shape: Shape): number {
  if (op.elementwise !== true || shape.length !== 5 || shape[1] === 1) return -1;
  return operands.findIndex((aval) => aval !== undefined && sizeOf(aval.shape) > 1 && (aval.shape.at(-4) ?? 1) === 1);
}

function depthReason({ op, inputs, results }: Instruction, { values }: Program): string | undefined {
  const operands = inputs.map((value) => values[value]);
  const repeated = operands[depthOperand(op, operands, values[results[0]!]!.shape)];
  return repeated && `operand ${formatAval(repeated)} is broadcast along axis 1 of rank 5; repeat it with tile`;
}

function constantReasons({ op, inputs }: Instruction, constants: ReadonlySet<number>): string[] {
  const names = operandNames(op);
  return inputs.flatMap((value, i) => {
    const rule = op.constantOnChip?.[names[i]!];
    return rule === undefined || value < 0 || constants.has(value) ? [] : [`${names[i]} is computed: ${rule.reason}`];
  });
}
