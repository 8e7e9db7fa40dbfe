// What a chip's compiler refuses, told from the text and from the constants of a program. Sources are marked as in quirks.ts.

import type { Program } from "../../../src/ir/program.ts";
import type { MilArgument, MilFile, MilFunction, MilStatement, MilType, MilValue } from "../../../src/mil/ast.ts";
import type { Chip } from "./quirks.ts";

/** A compile that the chip or its compiler refuses. */
export class Refusal extends Error {}

/** "No detail given" [bridge.md 5]; the double gives some, behind the text that the compiler has. */
function anec(reason: string): never {
  const text =
    "MILCompilerForANE error: failed to compile ANE model using ANEF. Error=_ANECompiler : ANECCompile() FAILED";
  throw new Refusal(`${text} (${reason})`);
}

function invalid(reason: string): never {
  throw new Refusal(`InvalidMILProgram: ${reason}`);
}

// -------------------------------------------------------------------------------------------------------- operators

const words = (text: string): ReadonlySet<string> => new Set(text.trim().split(/\s+/));

/** No path on any chip [O 4; M 6]. */
const unreachable = words(`
  logical_and logical_or logical_xor list_gather list_length list_read list_scatter list_write make_list random_bernoulli
  random_categorical random_normal mod constexpr_cast gru lstm rnn reduce_prod acos acosh asin asinh atanh cosh sinh tan
  band_part non_zero one_hot reverse_sequence scatter scatter_along_axis scatter_nd shape sliding_windows cond while_loop call`);

/** Operators with their lowest family [T 3, O 4]; all others need A13. */
const floors: Readonly<Record<string, number>> = {
  sin: 4,
  cos: 4,
  dropout: 4,
  random_uniform: 4,
  reduce_argmin: 4, // [O 4] HAL 0x4f2
  crop_resize: 3,
  resample: 3,
  affine: 3,
  topk: 3,
  argsort: 3,
  gather_nd: 3, // [O 4] M1 only batch 1, depth 1, three index channels
  sort: 3,
  dynamic_slice: 3,
};

const resizing = words("resize resize_bilinear resize_nearest_neighbor upsample_bilinear upsample_nearest_neighbor");

const failAlone = words(
  "gather gather_along_axis gather_nd cumsum reduce_argmax reduce_argmin slice_update reshape_like identity read_state cast",
);

/** Operands that must be constants [M 5, M 7, O 2.3, O 2.6]; weights of conv and gains of norms have rules of their own. */
const constantOperands: Readonly<Record<string, readonly string[]>> = {
  linear: ["weight", "bias"],
  conv_transpose: ["weight", "bias"], // dense fp16 weights only
  prelu: ["alpha"],
  quantize: ["scale", "zero_point"],
  dequantize: ["scale", "zero_point"],
};

const gains: Readonly<Record<string, readonly string[]>> = {
  layer_norm: ["gamma", "beta"],
  batch_norm: ["gamma", "beta", "mean", "variance"],
  instance_norm: ["gamma", "beta"],
};

const nonlinear = words(`
  relu relu6 sigmoid tanh silu gelu softplus softsign elu leaky_relu exp exp2 sqrt rsqrt log inverse erf sin cos atan
  sigmoid_hard clamped_relu clip scaled_tanh threshold thresholded_relu`);

/** Results that may be int32 although there is no int32 arithmetic [O 5]. */
const indexResults = words("reduce_argmax reduce_argmin argsort topk range_1d cast");

/** Results that are bool [O 2.2]. */
const boolResults = words("greater less equal not_equal less_equal greater_equal logical_not cast");

// ---------------------------------------------------------------------------------------------------------- the text

export interface Source {
  readonly text: string;
  readonly file: MilFile;
  readonly main: MilFunction;
  readonly weightBytes: number;
}

/** What a name stands for. */
interface Known {
  readonly type: MilType;
  /** Absent for a parameter. */
  readonly statement?: MilStatement;
}

type Check = (chip: Chip, source: Source, names: ReadonlyMap<string, Known>) => void;

const format = ({ dtype, shape }: MilType) => `${dtype}[${shape.join(", ")}]`;

function argumentOf({ args }: MilStatement, name: string): MilArgument | undefined {
  return args.find((each) => each.name === name);
}

const checkHeader: Check = ({ family, name, numbers: { os } }, { text, file, main }) => {
  if (family < 2) anec(`MIL is only supported for H13+, this is ${name}`); // [T 1]
  if (file.buildInfo.length === 0) invalid("the program has no buildInfo"); // emitted by all working projects [M 1]
  const allowed: Readonly<Record<string, readonly string[]>> = {
    "1.0": ["ios16"],
    "1.3": family === 5 ? ["ios18", "ios17"] : ["ios18"],
  };
  if (!allowed[file.version]?.includes(main.opset)) invalid(`program(${file.version}) with opset ${main.opset}`);
  if (main.opset === "ios18" && os < 15) invalid(`opset ios18 on macOS ${os}`); // the opset of macOS 15
  if (family <= 3 && os < 26) {
    // Shorthand scalars parse only on newer compilers on M1 and M2 [M 1].
    const bare = text.replace(/"(\\.|[^"\\])*"/g, '""').replace(/\/\/.*/g, "");
    const literal = /(?<![<\w])(string|bool|fp16|fp32|u?int[0-9]+)\s*\(/.exec(bare);
    const declared = /(?<![<\w])(string|bool|fp16|fp32|u?int[0-9]+)\s+[A-Za-z_]\w*\s*=/.exec(bare);
    const plain = /dict\s*<\s*string\b/.exec(bare);
    const shorthand = literal ?? declared ?? plain;
    if (shorthand !== null) invalid(`"${shorthand[0]}": ${name} on macOS ${os} reads only the verbose dialect`);
  }
};

const checkNames: Check = (_chip, { main }) => {
  const seen = new Set<string>();
  for (const statement of main.statements) {
    const value = statement.attributes.find(({ name }) => name === "name")?.value;
    const inConstexpr = statement.op.startsWith("constexpr_");
    if (value?.kind !== "literal" || typeof value.data[0] !== "string") {
      invalid(`${statement.op} at line ${statement.at.line} has no attribute name`); // required on operators and constants [M 1]
    }
    if (seen.has(value.data[0]) && !inConstexpr) invalid(`the name "${value.data[0]}" is given twice`);
    seen.add(value.data[0]);
  }
};

const checkPorts: Check = ({ switches: choice }, { main }, names) => {
  const used = new Set<string>();
  const use = (value: MilValue): void => {
    if (value.kind === "name") used.add(value.name);
    else if (value.kind === "tuple") value.items.forEach(use);
  };
  for (const { args, attributes } of main.statements) for (const { value } of [...args, ...attributes]) use(value);
  const allowed = words("fp16 int8 uint8 int16 uint16"); // [R 2]
  const port = (what: string, type: MilType) => {
    const wide = choice["wide-ports"] === "accept" && (type.dtype === "fp32" || type.dtype === "int32");
    if (!allowed.has(type.dtype) && !wide) invalid(`${what} is ${format(type)}: no port has that dtype`);
    if (type.shape.length === 0 && choice["scalar-ports"] === "refuse") invalid(`${what} has rank 0`);
    if (type.shape.some((extent) => extent < 1 || extent > 65536))
      invalid(`${what} is ${format(type)}: an axis has 1 to 65536`);
  };
  for (const { name, type } of main.params) {
    port(`input ${name}`, type);
    if (!used.has(name) && choice["unused-inputs"] === "refuse") anec(`live input tensor not used in network: ${name}`);
  }
  const returned = new Set<string>();
  for (const { name } of main.results) {
    const known = names.get(name);
    // Dead output names [M 7 #17]: nothing computes what a parameter or a constant holds.
    if (known?.statement === undefined) invalid(`result ${name} is no computed value`);
    if (known.statement.op === "const") invalid(`result ${name} is a constant`);
    if (known.statement.op === "identity" && choice["identity-output"] === "refuse")
      invalid(`result ${name} is eliminated`);
    if (returned.has(name)) invalid(`result ${name} is returned twice`);
    returned.add(name);
    port(`output ${name}`, known.type);
  }
};

const checkArguments: Check = ({ switches: { inline } }, { main }, names) => {
  for (const statement of main.statements) {
    if (statement.op === "const" || statement.op.startsWith("constexpr_")) continue;
    const { op } = statement;
    for (const { name, value } of statement.args) {
      const items = value.kind === "tuple" ? value.items : [value];
      for (const item of items) {
        if (item.kind === "name") {
          if (!names.has(item.name)) invalid(`${op}: ${item.name} is not defined`);
          continue;
        }
        const isFlag = item.kind === "literal" && item.type.dtype === "bool";
        if (inline === "refuse" || (inline === "flags" && isFlag))
          invalid(`${op}: ${name} is a literal, not a named constant`);
      }
    }
    const needs = (name: string) => {
      if (argumentOf(statement, name) === undefined) invalid(`${op} needs ${name}`);
    };
    if (op === "concat") {
      needs("axis");
      needs("interleave"); // [M 7]
      const axis = argumentOf(statement, "axis")!.value;
      const type = axis.kind === "name" ? names.get(axis.name)?.type : axis.kind === "literal" ? axis.type : undefined;
      if (type !== undefined && type.shape.length > 0) invalid("concat: axis is a tensor, not a scalar");
      const values = argumentOf(statement, "values")?.value;
      if (values?.kind !== "tuple" || values.items.length < 2) invalid("concat takes two values or more"); // [M 6]
    }
    if (op === "gelu") needs("mode"); // [R 2]
    if (op === "log") needs("epsilon"); // [R 2]
    if (op === "layer_norm") {
      // epsilon's dtype must equal gamma's [M 7].
      const typeOf = (name: string) => {
        const value = argumentOf(statement, name)?.value;
        return value?.kind === "name"
          ? names.get(value.name)?.type.dtype
          : value?.kind === "literal"
            ? value.type.dtype
            : undefined;
      };
      const wanted = typeOf("gamma") ?? typeOf("x");
      const epsilon = typeOf("epsilon");
      if (epsilon !== undefined && wanted !== undefined && epsilon !== wanted)
        invalid(`layer_norm: epsilon is ${epsilon}, gamma ${wanted}`);
    }
  }
};

const checkOperators: Check = (chip, { main }) => {
  const { family, switches: choice } = chip;
  const own = main.statements.filter(({ op }) => op !== "const" && !op.startsWith("constexpr_"));
  for (const { op } of own) {
    if (unreachable.has(op)) anec(`${op}: not implemented`);
    const floor = floors[op] ?? 2;
    if (family < floor) anec(`${op}: unsupported on ${chip.name}`);
    if (op === "gelu" && choice.gelu === "refuse") anec("gelu");
    if (op === "reduce_mean" && choice["reduce-mean"] === "refuse") anec("reduce_mean");
    if (op === "concat" && choice.concat === "refuse") anec("concat");
    if (op === "cast" && choice.cast === "refuse") anec(`cast is not on the engine of ${chip.name}`);
    if (resizing.has(op) && family === 2 && choice.resize === "refuse") anec(op);
  }
  if (own.filter(({ op }) => op === "scaled_dot_product_attention").length > 1)
    anec("live input tensor not used in network"); // [M 8]
  const [only] = own;
  if (own.length === 1 && failAlone.has(only!.op) && choice["single-op"] === "refuse")
    anec(`${only!.op} alone in a program`);
};

function checkExtents({ family, numbers: values }: Chip, what: string, { shape }: MilType): void {
  if (shape.length > 5) anec(`${what} has rank ${shape.length}`); // [M 6; O 0]
  // The stricter of two readings: no relief for operands of transposes [M 6 against T 3].
  const most = family >= 5 ? 65536 : 16384;
  for (const [axis, extent] of shape.entries()) {
    const last = axis === shape.length - 1 && values["width-max"] > 0 ? values["width-max"] : most;
    const limit = shape.length === 4 && axis === 1 ? 65536 : last;
    if (extent < 1 || extent > limit) anec(`${what}: axis ${axis} of [${shape.join(", ")}] is above ${limit}`);
  }
}

const checkShapes: Check = (chip, { main, weightBytes }, names) => {
  const { family, switches: choice } = chip;
  if (weightBytes > chip.numbers["max-weights"]) anec(`${weightBytes} bytes of weights`);
  for (const { name, type } of main.params) checkExtents(chip, name, type);
  for (const statement of main.statements) {
    const { op, results } = statement;
    const constant = op === "const" || op.startsWith("constexpr_");
    for (const { name, type } of results) {
      if (type.dtype !== "string") checkExtents(chip, name, type);
      if (constant) continue;
      // No fp32 and no int32 arithmetic [O 5]; fp32 may pass through casts [R 2].
      if (type.dtype === "fp32" && op !== "cast") anec(`${op} in fp32`);
      if (type.dtype === "int32" && !indexResults.has(op)) anec(`${op} in int32`);
      if (type.dtype === "bool" && !boolResults.has(op)) anec(`${op} of bool`);
      if (type.dtype === "int32" && op === "cast" && family === 2) anec("cast to int32 on M1"); // [O 2.1]
    }
    if (constant) continue;
    const operand = (name: string): Known | undefined => {
      const value = argumentOf(statement, name)?.value;
      if (value?.kind === "name") return names.get(value.name);
      return value?.kind === "literal" || value?.kind === "blob"
        ? { type: value.type, statement: { ...statement, op: "const" } }
        : undefined;
    };
    const computed = (known: Known | undefined) =>
      known !== undefined && known.statement?.op !== "const" && known.statement?.op.startsWith("constexpr_") !== true;
    for (const name of constantOperands[op] ?? [])
      if (computed(operand(name))) anec(`${op}: ${name} is not a constant`);
    if (choice["runtime-gains"] === "refuse")
      for (const name of gains[op] ?? []) if (computed(operand(name))) anec(`${op}: ${name} is not a constant`);
    const shapeOf = (name: string) => operand(name)?.type.shape;
    const x = shapeOf("x");
    const literals = (name: string): readonly (number | boolean | string)[] | undefined => {
      const value = argumentOf(statement, name)?.value;
      const source = value?.kind === "name" ? names.get(value.name)?.statement : undefined;
      const given = value?.kind === "literal" ? value : source?.attributes.find((each) => each.name === "val")?.value;
      return given?.kind === "literal" ? given.data : undefined;
    };
    if (op === "conv" || op === "conv_transpose") {
      const [height, width] = shapeOf("weight")?.slice(-2) ?? [1, 1];
      const widest = family >= 5 ? 15 : 13; // [T 3], fp16
      const tallest = family >= 5 ? 32 : 29; // [O 4, M 6]
      if (width! > widest || height! > tallest) anec(`${op}: kernel ${height}x${width}`);
      if (op === "conv") {
        if (argumentOf(statement, "bias") !== undefined && choice["conv-bias"] === "refuse") anec("conv: bias");
        if ((x?.[1] ?? 0) >= 32000) anec(`conv: ${x![1]} input channels`); // [M 6]: 32000 rejected; what is below was not tried
        if (computed(operand("weight"))) {
          // Crashes the compiler service [M 7].
          if (x![0]! > 1)
            throw new Refusal(
              "Error=ANECompilerService: helper application lost (conv: runtime weight, batch above 1)",
            );
          const groups = literals("groups")?.[0] ?? 1;
          if (family === 2 && groups !== 1) invalid("conv: runtime weight with groups"); // [M 8]
        }
      }
    }
    if (op === "max_pool" || op === "avg_pool" || op === "l2_pool") {
      const most = family === 2 ? 29 : 31; // [O 4]
      if (literals("kernel_sizes")?.some((size) => Number(size) > most)) anec(`${op}: window above ${most}`);
    }
    if (op === "matmul") checkMatmul(statement, x ?? [], shapeOf("y") ?? [], names);
    if (op === "softmax" && choice["softmax-channels"] === "refuse" && x !== undefined) {
      const axis = Number(literals("axis")?.[0] ?? -1);
      const extent = x[1] ?? 1;
      if (x.length > 2 && axis === 1 && (extent & (extent - 1)) !== 0) invalid(`softmax over ${extent} channels`);
    }
    if ((op === "reduce_argmax" || op === "reduce_argmin") && x !== undefined) {
      const axis = Number(literals("axis")?.[0] ?? -1);
      if (x.at(axis)! > 2048) anec(`${op} over ${x.at(axis)}`); // [M 6]
    }
    if (op === "tile") for (const rep of literals("reps") ?? []) if (!factors(Number(rep))) anec(`tile: ${rep} times`); // [O 2.5]
    if (op === "pad" && x?.length === 4) {
      // No padding on the channel axis [M 6]; the list ends with the last axis.
      const pads = literals("pad") ?? [];
      const channel = pads.length / 2 - 3;
      if (channel >= 0 && (pads[2 * channel] !== 0 || pads[2 * channel + 1] !== 0)) anec("pad on the channel axis");
    }
    if (op === "prelu" && (x?.length ?? 3) < 3) anec("prelu below rank 3"); // [O 2.1]
    const input = argumentOf(statement, "x")?.value;
    const source = input?.kind === "name" ? names.get(input.name) : undefined;
    if (
      op === "slice_by_index" &&
      choice["slice-index"] === "refuse" &&
      source !== undefined &&
      source.statement === undefined
    )
      invalid("slice_by_index of a function input");
    // The opcode square with a following nonlinearity [R 2, O 2.1].
    if (nonlinear.has(op) && source?.statement?.op === "square" && (x?.at(-1) ?? 0) % 128 > 64)
      anec(`square before ${op} at width ${x!.at(-1)}`);
  }
};

/** Whether a repetition is a product of 2, 3, 4 and 8. */
function factors(rep: number): boolean {
  for (const factor of [2, 3]) while (rep > 1 && rep % factor === 0) rep /= factor;
  return rep === 1;
}

function checkMatmul(
  statement: MilStatement,
  x: readonly number[],
  y: readonly number[],
  names: ReadonlyMap<string, Known>,
): void {
  const rank = Math.max(x.length, y.length);
  if (Math.min(x.length, y.length) < 2) anec("matmul below rank 2"); // [O 2.3]
  if (rank < 5) return;
  // Depth 1 [M 6]. Layouts are given as (N, D, C, H, W) there and depth comes third elsewhere: both axes must be 1.
  for (const shape of [x, y])
    if (shape.length === 5 && (shape[1] !== 1 || shape[2] !== 1))
      anec(`matmul of depth above 1: [${shape.join(", ")}]`);
  for (const name of ["x", "y"]) {
    const value = argumentOf(statement, name)?.value;
    const producer = value?.kind === "name" ? names.get(value.name)?.statement : undefined;
    if (producer?.op === "transpose") anec("transpose and matmul at rank 5"); // [O 5]
  }
}

/** What can be told from the text. @throws {Refusal} */
export function inspect(chip: Chip, source: Source): void {
  const names = new Map<string, Known>();
  for (const { name, type } of source.main.params) names.set(name, { type });
  for (const statement of source.main.statements)
    for (const { name, type } of statement.results) names.set(name, { type, statement });
  for (const check of [checkHeader, checkNames, checkPorts, checkArguments, checkOperators, checkShapes])
    check(chip, source, names);
}

/** What depends on the values of constants. @throws {Refusal} */
export function inspectProgram({ family }: Chip, program: Program): void {
  const constants = new Map(program.constants.map(({ value, data }) => [value, data]));
  const producers = new Map(
    program.instructions.flatMap((each) => each.results.map((value) => [value, each] as const)),
  );
  for (const { op, inputs } of program.instructions) {
    if (op.name === "mul") {
      for (const [a, b] of [inputs, [...inputs].reverse()] as const) {
        const data = constants.get(b!);
        const reduced = producers.get(a!)?.op.name.startsWith("reduce_") === true;
        if (reduced && data?.every((value) => value === 0)) anec("mul of a reduction and 0"); // [R 2, O 5]
      }
    }
    if (op.name === "layer_norm") {
      // Exactly one of gamma and beta "non-constant" [M 8], which the other report calls non-uniform [O 5]: both are refused.
      const [x, gamma = -1, beta = -1] = inputs;
      const varies = (value: number) => {
        const data = constants.get(value);
        return value >= 0 && (data === undefined || data.some((each) => each !== data[0]));
      };
      const extent = program.values[x!]!.shape.at(-1)!;
      const from = family <= 3 ? 1024 : 10240; // M5 fails from 10240 on [O 5]
      if (varies(gamma) !== varies(beta) && extent >= from) anec(`layer_norm of ${extent} with one varying gain`);
    }
  }
}
