// Dialects: what the compiler of one chip and OS build takes beyond what its family says, and forms that sources disagree about.

import type { Chip } from "../../chips/index.ts";

/** A form that some compilers take and others refuse or compute wrongly. */
export interface NativeFormFacts {
  /** What is written where the form is native, and what instead. */
  readonly doc: string;
  /** Who disagrees with whom; sheets are named as in chips.ts. */
  readonly source: string;
  /** Whether to rely on it where nobody asked the compiler: where it is false, the other form costs little. */
  readonly byDefault: boolean;
}

/** Forms that a probe decides. False means that a rule of `legalize` replaces the form; the rule says what that does to the bits. */
export const nativeForms = {
  concat: {
    doc: "concat and stack; else zeros are padded to every part and the parts added",
    source: "mil §7 #1: rejected on M4 Max (Orion); used in every kernel of ANEgpt and by ANEForge on e5rt",
    byDefault: true,
  },
  reduceMean: {
    doc: "reduce_mean; else reduce_sum and a product with 1/N",
    source: "mil §7: missing in raw MIL (Espresso); Orion and ANEForge emit it",
    byDefault: true,
  },
  gelu: {
    doc: "gelu in its three modes; else by erf, tanh or sigmoid",
    source: "mil §7 #10: not accepted (Orion); ran with `mode` through e5rt (maderix pull 40, ANEForge)",
    byDefault: true,
  },
  convBias: {
    doc: "operand bias of conv and conv_transpose; else added to the result",
    source: "mil §7 #16: compile fails (Orion); Core ML's converter writes it, no project reports it on this route",
    byDefault: false,
  },
  softmaxChannels: {
    doc: "softmax along another axis than the last, of an extent that is no power of two; else the axis is moved to the end and back",
    source: "mil §7: InvalidMILProgram (Espresso, hollance issue 44); axis 1 of 32000 measured by ANEgpt on M4 and M5",
    byDefault: false,
  },
  layerNorm: {
    doc: "layer_norm; else mean, deviations, their l2 norm and a product",
    source: "mil §5: works through e5rt (maderix pull 40); ANEForge emits the parts instead",
    byDefault: true,
  },
  stridedSlice: {
    doc: "slice_by_index with strides; else a reshape whose further axis is sliced",
    source: "ops §4: listed as compiler-internal on every chip, yet compiles in the sweep on M5",
    byDefault: true,
  },
  selectBroadcast: {
    doc: "select between operands of different shapes; else all are brought to one shape by minimum and maximum",
    source: "MIL defines it (coremltools); ANEForge selects among whole tensors only, no sheet shows another",
    byDefault: true,
  },
  boolCast: {
    doc: "cast between bool and fp16; else select and not_equal",
    source: "mil §1 and §5: no cast on M1 and M2; ops §4: on all chips; ops §4 sweep: fails alone on M5",
    byDefault: false,
  },
  identity: {
    doc: "identity where an output is an input or another output; else a product with 1",
    source: "ops §4: on all chips by the table, fails as a program of its own in the sweep on M5",
    byDefault: false,
  },
  unevenContraction: {
    doc: "matmul whose contraction is no multiple of 32; else both operands are padded with zeros",
    source: "mil §8: silently zero on M1 (maderix issue 47); ANEForge measures other sizes on M1 without complaint",
    byDefault: true,
  },
  transposeChain: {
    doc: "a transpose of a reshape of a transpose; else `maximum` with the lowest fp16 number stands before the second one",
    source: "ops §5: mis-fused, right values in the wrong order (ANEForge; chip not named)",
    byDefault: false,
  },
  floorTimesConstant: {
    doc: "a product of floor's result and a constant; else `maximum` with the lowest fp16 number stands between",
    source: "ops §5: the compiler drops the product (ANEForge; chip not named)",
    byDefault: false,
  },
  unreadInputs: {
    doc: "inputs that nothing reads; else an output takes up one element without effect",
    source:
      "mil §8: an input that the network does not use is refused (stablehlo-coreml pull 89); no sheet saw one accepted",
    byDefault: false,
  },
  constantOutputs: {
    doc: "outputs that depend on no input; else they take up one element of an input without effect",
    source: "mil §1 and §7 #17: what is returned must be live and not eliminated, else InvalidMILProgram",
    byDefault: false,
  },
} as const satisfies Readonly<Record<string, NativeFormFacts>>;

export type NativeForm = keyof typeof nativeForms;

/** What the compiler of one chip and OS build takes beyond what its family says; a probe finds it. */
export interface Dialect {
  /** Spelling of the text, see the MIL writer. */
  readonly syntax: "modern" | "verbose";
  /** Whether this compiler takes each form, and computes it rightly. */
  readonly natives: Readonly<Record<NativeForm, boolean>>;
}

/** Every form at its default, or all at one value. */
export function nativesOf(all?: boolean): Record<NativeForm, boolean> {
  const entries = Object.entries(nativeForms).map(([form, { byDefault }]) => [form, all ?? byDefault]);
  return Object.fromEntries(entries) as Record<NativeForm, boolean>;
}

/** What to write for a compiler that nobody asked. */
export const defaultDialect: Dialect = { syntax: "modern", natives: nativesOf() };

/** What rules are made for. */
export interface Target {
  readonly chip: Chip;
  readonly natives: Dialect["natives"];
}
