// What chips and system versions refuse or compute otherwise, as the fact sheets report it. Shares no table with src/chips.
// Sources: [T] aneforge/targets.md, [O] aneforge/ops.md, [R] aneforge/runtime.md, [M] anegpt/mil.md, [N] numerics-probes.md, with their sections.
// Where sources disagree there is a switch, and the profiles play both readings.

import { roundFloat16, roundFloat16InPlace } from "../../../src/core/float16.ts";
import type { Instruction, Program } from "../../../src/ir/program.ts";
import type { MilArgument, MilFile, MilFunction, MilStatement, MilType, MilValue } from "../../../src/mil/ast.ts";
import type { KernelArray } from "../../../src/ops/define.ts";

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

// ---------------------------------------------------------------------------------------------------------- settings

/** Targets by family [T 2]: 1 runs nothing, 2 is A13, 3 A14, 4 A15, 5 A16. */
const targets = [
  [],
  ["h11", "h12", "m9", "t0"],
  ["h13", "h13g", "t1"],
  ["h14", "h14g", "h14c"],
  ["h15", "h15g", "h15c", "m11"],
  ["h16", "h16g", "h16c", "h16s", "h17", "h17a", "h17g", "h17s", "h17c", "h17d", "h18"],
];

function familyOf(target: string): number | undefined {
  const family = targets.findIndex((names) => names.includes(target));
  return family < 0 ? undefined : family;
}

/** Keys of ESPRESSO_DOUBLE that the library itself reads. */
const librarysKeys =
  "limit fail-compiles poison zeros slow-compile slow-execute hang-compile hang-execute crash crash-op refuse-op compute threads abort";

/** Switches with two readings. What a chip or a system decides unless it is set says so. */
const switches = {
  /** `bias` of conv: "no bias accepted" [M 5, Orion]; ANEForge passes none. Accepted from macOS 26 on unless set. */
  "conv-bias": ["accept", "refuse"],
  /** Refused for Orion [M 7 #10], ran for another [P40] and for ANEForge [O 2.1]. */
  gelu: ["accept", "refuse"],
  /** "Missing in raw MIL" [M 7, Espresso]; Orion and ANEForge emit it. */
  "reduce-mean": ["accept", "refuse"],
  /** Refused for Orion [M 7 #1], used in every kernel by others. */
  concat: ["accept", "refuse"],
  /** softmax over axis 1 of another size than a power of two [M 7]; measured to work over 32000. */
  "softmax-channels": ["accept", "refuse"],
  /** "Values must be variables, not literals" [M 1], "inline literals also accepted" [R 2]; flags: only booleans are refused [M 7 #15]. */
  inline: ["refuse", "flags", "accept"],
  /** "Returned variables must be live (not eliminated)" [M 1]: an identity is taken to be eliminated. */
  "identity-output": ["refuse", "accept"],
  /** "live input tensor not used in network" [M 8], seen with fused attention. Taken to hold for every input that nothing reads. */
  "unused-inputs": ["refuse", "accept"],
  /** fp32 and int32 at ports: rejected by the parser [R 2], listed as possible [M 2]. */
  "wide-ports": ["refuse", "accept"],
  /** Silent: ports of rank 0. Nobody made one, and Core ML promotes them. */
  "scalar-ports": ["refuse", "accept"],
  /** "Not on M1/M2 engine" [M 5], native everywhere but to int32 on M1 [O 4]. Accepted from A15 on unless set. */
  cast: ["accept", "refuse"],
  /** Operators that fail as a program of their own on M5 [O 4, compile sweep] though the catalogue says native. */
  "single-op": ["accept", "refuse"],
  /** Resizing on M1: "software fallback, some modes abort" [O 4]. */
  resize: ["accept", "refuse"],
  /** Gains of norms that are computed: ANEForge multiplies and adds instead [O 2.6]. */
  "runtime-gains": ["refuse", "accept"],
  /** slice_by_index of a function input [M 7, Espresso]. */
  "slice-index": ["accept", "refuse"],
} as const satisfies Record<string, readonly ["accept" | "refuse", ...string[]]>;

const numbers = {
  os: 26,
  /** Order of aliased outputs: 0 the one that needs least first, other numbers seed a shuffle. */
  order: 0,
  /** 1: reshapes of an input are views of its memory, which an in-place store changes, too. */
  views: 0,
  /** Bytes of weights in one program. */
  "max-weights": 2 ** 31,
  /** Largest last axis: 17920 failed on an M4 Max and 16384 passed [M 8], while A16 has 65536 [T 3]. 0: as the family has it. */
  "width-max": 0,
  /** 1: matrix products and convolutions beyond 32752 are infinite, on every chip [O 6, N]. */
  silicon: 0,
  /** 1: reduce_sum accumulates in fp16 [O 6]. */
  "narrow-sum": 0,
  /** 1: matrix products with an inner dimension that is no multiple of 32 give zeros on M1 [M 8; other M1 results contradict it]. */
  "m1-zeros": 0,
} as const;

type Switch = keyof typeof switches;
type NumberKey = keyof typeof numbers;

export interface Chip {
  readonly name: string;
  readonly family: number;
  readonly switches: Readonly<Record<Switch, string>>;
  readonly numbers: Readonly<Record<NumberKey, number>>;
  /** Operators whose results are zeros, or NaN. */
  readonly zerosOps: ReadonlySet<string>;
  readonly nanOps: ReadonlySet<string>;
}

/** Settings of the simulator. @throws {Error} for a key or a value that there is not */
export function readChip(settings: string): Chip {
  const given = new Map<string, string>();
  for (const pair of settings.split(";").filter((text) => text.trim() !== "")) {
    const [, key, value] = /^([^=]+)=(.*)$/.exec(pair) ?? [];
    if (key === undefined || value === undefined) throw new Error(`ESPRESSO_DOUBLE: "${pair}" is no key=value`);
    given.set(key, value);
  }
  const take = (key: string) => {
    const value = given.get(key);
    given.delete(key);
    return value;
  };
  // `order` is both: "strict" is the library's, a number the simulator's.
  if (given.get("order") === "strict") given.delete("order");
  const name = take("chip") ?? "h17s";
  const family = familyOf(name);
  if (family === undefined) throw new Error(`ESPRESSO_DOUBLE: there is no chip "${name}"`);
  const values = Object.fromEntries(
    Object.entries(numbers).map(([key, value]) => {
      const text = take(key);
      if (text !== undefined && !/^[0-9]+$/.test(text)) throw new Error(`ESPRESSO_DOUBLE: ${key}=${text} is no number`);
      return [key, text === undefined ? value : Number(text)];
    }),
  ) as Record<NumberKey, number>;
  const byChip: Partial<Record<Switch, string>> = {
    "conv-bias": values.os >= 26 ? "accept" : "refuse",
    cast: family >= 4 ? "accept" : "refuse",
  };
  const chosen = Object.fromEntries(
    Object.entries(switches).map(([key, readings]) => {
      const text = take(key) ?? byChip[key as Switch] ?? readings[0];
      if (!(readings as readonly string[]).includes(text))
        throw new Error(`ESPRESSO_DOUBLE: ${key} is one of ${readings.join(", ")}, not "${text}"`);
      return [key, text];
    }),
  ) as Record<Switch, string>;
  const list = (key: string) => new Set((take(key) ?? "").split(",").filter((text) => text !== ""));
  const chip = { name, family, switches: chosen, numbers: values, zerosOps: list("zeros-op"), nanOps: list("nan-op") };
  for (const key of given.keys())
    if (!librarysKeys.split(" ").includes(key)) throw new Error(`ESPRESSO_DOUBLE: there is no key "${key}"`);
  return chip;
}

/** What custom compiler options do: lines for the library, "note" for a violation, "load" for why the program will not load here. */
export function readTarget(host: Chip, custom: string): string[] {
  if (custom === "") return [];
  const target = /^TargetArchitecture=(.*)$/.exec(custom)?.[1];
  if (target === undefined) return [`note custom compiler options "${custom}": only TargetArchitecture= is known`];
  const family = familyOf(target);
  // Unknown names compile for the host without a word [R 1.3]. Caps of another family are not enforced, so the host's are [R 1.3].
  if (family === undefined)
    return [`note TargetArchitecture "${target}" is unknown: the program is compiled for the host`];
  // Silent: what a program for a later family does. One for an earlier family runs on all later chips [T 1].
  return family > host.family ? [`load the program was compiled for ${target}, this is ${host.name}`] : [];
}

/** Chips with systems and readings, as sets of settings for the tests. */
const profileSettings = {
  "m1-os14":
    "chip=h13;os=14;gelu=refuse;reduce-mean=refuse;concat=refuse;softmax-channels=refuse;slice-index=refuse;resize=refuse;order=1",
  "m1-os26": "chip=h13g;os=26;cast=accept;inline=flags;limit=110",
  "m2-os15": "chip=h14;os=15;concat=refuse;gelu=refuse;order=2",
  "m3-os15": "chip=h15;os=15;reduce-mean=refuse;softmax-channels=refuse;limit=120",
  "m4-os26": "chip=h16;os=26;width-max=16384;slice-index=refuse;order=3",
  "m5-os26": "chip=h17s;os=26;single-op=refuse",
  "m5-os27": "chip=h17s;os=27;inline=accept;unused-inputs=accept;runtime-gains=accept;views=1",
} as const;

/** Named chips with systems; `env` is what a process needs beside the simulator's command (build.ts). */
export const profiles: readonly { readonly name: string; readonly env: { readonly ESPRESSO_DOUBLE: string } }[] =
  Object.entries(profileSettings).map(([name, settings]) => ({ name, env: { ESPRESSO_DOUBLE: settings } }));

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

// -------------------------------------------------------------------------------------------------------- computing

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
