// What is known of the Neural Engine, one checkable sentence a fact, with its source; docs/ane.md explains, `anekit selftest` checks.
// Nothing here was measured by this project. Where sources disagree, the statement is the reading relied on and `source` names the other.

import type { ChipFamily } from "../../chips/chips.ts";

/** What is known of the Neural Engine, in one sentence that a run on a Mac can confirm or contradict wherever possible. */
export interface Fact {
  /** Name in the report of `anekit selftest`, kebab-case. */
  readonly name: string;
  /** One checkable sentence. */
  readonly statement: string;
  /** documented (a project states it), measured (somebody ran it on silicon), inferred (follows, unproven). */
  readonly basis: "documented" | "measured" | "inferred";
  /** Who, on which chip and OS where known. */
  readonly source: string;
  /** Families it speaks of; all when absent. */
  readonly families?: readonly ChipFamily[];
}

/** Every fact, grouped; names are stable, since reports of runs on other people's machines refer to them. */
export const facts = [
  // ---- route and processes ----
  {
    name: "espresso-loads",
    statement:
      "dlopen of /System/Library/PrivateFrameworks/Espresso.framework/Espresso succeeds in an ordinary process of macOS on Apple silicon.",
    basis: "measured",
    source:
      "ANEForge results: M1 on macOS 15.6.1 and 26.5.2, M1 Max, M2 Pro, M5 and M5 Pro on 26.5, M4 on 26.2, M4 Max on 26.7, M4 Pro and M6 on 27.0.1",
  },
  {
    name: "no-entitlement",
    statement: "Compiling, loading and executing need no entitlement, no root and no signature of Apple's.",
    basis: "measured",
    source:
      "ANEForge e5rt reference, M5 Pro, macOS 26.5: the log names the process ThirdPartyAppUsingANE; ane-guide ch. 6 and 8, M1",
  },
  {
    name: "runs-on-ane",
    statement:
      'With device mask 0x4 the compiled bundle in the cache folder holds a file analytics.mil with SelectedBackend = string("ane").',
    basis: "measured",
    source: "ANEForge e5rt reference, M5 Pro, macOS 26.5",
  },
  {
    name: "same-process",
    statement:
      'A bundle compiled in one process does not load in another: "ANE model load has failed ... Must re-compile the E5 bundle".',
    basis: "measured",
    source:
      "ANEForge e5rt reference, M5 Pro, macOS 26.5; it excepts children started by posix_spawn with the same code signature",
  },
  {
    name: "fork-is-unsafe",
    statement: "A child made by fork without exec crashes in Espresso (SIGSEGV); one made by posix_spawn works.",
    basis: "measured",
    source: "ANEForge e5rt reference, M5 Pro, macOS 26.5",
  },
  {
    name: "one-lane",
    statement:
      "Programs run one after the other: two threads with a program each get no more done than one thread running both.",
    basis: "measured",
    source:
      "ANEForge dispatch page, M5 Pro; not so on Ultra chips, which have two engines (ncdrone/rustane PR 12, M3 Ultra)",
  },

  // ---- e5rt: calling convention ----
  {
    name: "symbols-plain",
    statement: "dlsym finds the e5rt functions by their plain names (e5rt_...), without a further underscore.",
    basis: "measured",
    source: "ANEForge dispatch library, macOS 15 and later; it also tries the name with an underscore in front",
  },
  {
    name: "symbols-complete",
    statement: "All e5rt functions that the driver uses exist in this macOS.",
    basis: "measured",
    source:
      "ANEForge's library refuses to load without them and ran on macOS 15.6.1, 26.2 to 26.7 and 27.0.1; macOS 14 unknown",
  },
  {
    name: "zero-is-success",
    statement: "Every e5rt function returns a 64-bit signed code, 0 for success.",
    basis: "documented",
    source: "ANEForge e5rt_api.h; ane-guide ch. 6",
  },
  {
    name: "create-out-first",
    statement: "Every e5rt function that creates or allocates takes the address of the result as its first argument.",
    basis: "measured",
    source:
      "ANEForge dispatch library, M5 Pro; ane-guide ch. 6 and 12 (corrected); the head comment of e5rt_api.h still says last",
  },
  {
    name: "compile-out-last",
    statement: "e5_compiler_compile and the retain functions take the address of the result as their last argument.",
    basis: "measured",
    source: "ANEForge dispatch library, M5 Pro, macOS 26.5; ane-guide ch. 6",
  },
  {
    name: "release-by-address",
    statement: "Every e5rt release function takes the address of the handle, not the handle.",
    basis: "measured",
    source: "ANEForge dispatch library, M5 Pro, macOS 26.5",
  },
  {
    name: "release-clears-handle",
    statement: "An e5rt release function stores NULL in the handle.",
    basis: "inferred",
    source: "from the address that it takes; ANEForge never looks at a released handle",
  },
  {
    name: "buffer-types",
    statement: 'buffer_object_alloc takes types 0, 1 and 2; type 3 is refused with "Invalid BufferType @ AllocMemory".',
    basis: "measured",
    source: "ANEForge e5rt reference, M5 Pro, macOS 26.5",
  },
  {
    name: "errors-on-stderr",
    statement: "Espresso writes the reason of a failed call to the process's standard error.",
    basis: "documented",
    source: "ANEForge e5rt_api.h; e5rt_error_code_get_string returns a C++ string and cannot be called from C",
  },
  {
    name: "device-mask",
    statement:
      "compute_device_types_mask has bits 0x1 CPU (BNNS), 0x2 GPU (MPSGraph), 0x4 Neural Engine; 0x4 alone never falls back.",
    basis: "measured",
    source:
      "ANEForge e5rt reference, M5 Pro: 0x3 gave the CPU, 0x5, 0x6 and 0x7 the engine, 0x7 the CPU where the engine refused",
  },
  {
    name: "target-unchecked",
    statement: 'An unknown TargetArchitecture ("zzz") is no error: the program compiles for the chip of this machine.',
    basis: "measured",
    source: "ANEForge cross-chip page, M5 Pro, macOS 26.5",
  },

  // ---- e5rt: order of calls ----
  {
    name: "ports-by-name",
    statement:
      "Ports are retained by the names of the MIL function's parameters and results; an unknown name is an error code.",
    basis: "measured",
    source:
      "ANEForge dispatch library, M5 Pro, macOS 26.5 (names t0, t1, ...); that names may be any identifier is inferred",
  },
  {
    name: "buffer-granule",
    statement: "Buffers of the port's bytes rounded up to 64, at least 64, bind to every port.",
    basis: "measured",
    source: "ANEForge dispatch library, all its runs; whether smaller ones are refused was not tried",
  },
  {
    name: "buffer-address-stable",
    statement: "The address from buffer_object_get_data_ptr stays the same over binds and executions.",
    basis: "measured",
    source: "ANEForge dispatch library keeps it for the program's life, M1 to M5",
  },
  {
    name: "encode-once",
    statement: "An operation encoded once runs at every execute_sync, without another reset, prepare or encode.",
    basis: "measured",
    source: "ANEForge dispatch library, M1 to M5; ane-guide ch. 6 re-encodes in every turn of its loop",
  },
  {
    name: "prepare-needs-encode",
    statement:
      "prepare_op_for_encode of an operation that was never encoded says \"Op has not been encoded and hence cannot be reset to 'ReadyForEncode'\".",
    basis: "measured",
    source: "ANEForge dispatch library, M5 Pro; contradicts the first turn of the loop in ane-guide ch. 6",
  },
  {
    name: "reset-needs-use",
    statement: "execution_stream_reset of a fresh stream is refused.",
    basis: "measured",
    source: "ANEForge dispatch library, M5 Pro, macOS 26.5",
  },
  {
    name: "bind-before-encode",
    statement: "Binding a buffer or event to an operation that is encoded is refused.",
    basis: "documented",
    source:
      "ANEForge dispatch library (of completion events: Espresso refuses once the operation is in use); of buffers inferred",
  },
  {
    name: "operations-in-order",
    statement: "execute_sync runs the operations of a stream in the order of encoding and returns after the last.",
    basis: "measured",
    source: "ANEForge e5rt reference, M5 Pro: chains of up to 100 operations count right",
  },
  {
    name: "release-order-free",
    statement: "A stream may be released before or after its operation, and ports before or after their buffers.",
    basis: "inferred",
    source: "ANEForge's page releases the stream last, its library first; its library releases buffers before ports",
  },

  // ---- MIL text ----
  {
    name: "mil-modern",
    statement: 'Programs headed program(1.3) and func main<ios18>, with scalars as int32(1) and string("x"), compile.',
    basis: "measured",
    source:
      "ANEForge's only dialect, also on M1 with macOS 15.6.1; maderix/ANE PR 6 denies it for M1 and M2 (M1 Pro, macOS 26.3, in-memory route)",
  },
  {
    name: "mil-verbose",
    statement:
      "Programs headed program(1.0) and func main<ios16>, with scalars as tensor<int32, []>(1), compile on every chip.",
    basis: "measured",
    source: "maderix/ANE PR 6: M1 Pro, macOS 26.3, in-memory route; through e5rt inferred",
  },
  {
    name: "build-info-free",
    statement:
      "buildInfo need not name this machine's compiler: 3520.4.1, that of macOS 26.5, compiles on macOS 15.6.1 and 27.0.1.",
    basis: "measured",
    source:
      "ANEForge writes the same text everywhere and ran there; its MIL primer asks for the host's own versions; maderix/ANE writes 3510.2.1",
  },
  {
    name: "literals-in-calls",
    statement: "A boolean written inside a call, transpose_y = bool(true), compiles.",
    basis: "measured",
    source:
      "ANEForge writes transpose_x so, M1 to M6; Orion: matmul's flags must name constants, else InvalidMILProgram (M4 Max, in-memory route)",
  },
  {
    name: "hex-floats",
    statement: "fp16(0x1.8p+1) is read as 3.",
    basis: "measured",
    source:
      "ANEForge's writer, M1 to M6; its MIL primer also shows 0x3c00 for the bits of 1, which anekit never writes",
  },
  {
    name: "port-fp16",
    statement: "fp16 inputs and outputs compile.",
    basis: "measured",
    source: "ANEForge, M1 to M5",
  },
  {
    name: "port-fp32-refused",
    statement: "A program with an fp32, int32 or bool input or output does not compile for the engine.",
    basis: "documented",
    source:
      "ANEForge MIL primer and capabilities, e5rt route; ane-guide ch. 8 lists fp32 and int32 among port codes; in-memory route: fp32 ports with casts ran (maderix/ANE, M4)",
  },
  {
    name: "port-uint8",
    statement: "A uint8 input that a cast turns into fp16 compiles, and the values 0 to 255 arrive exactly.",
    basis: "measured",
    source: "ANEForge image_input, M5 Pro and M1",
  },
  {
    name: "unused-input-refused",
    statement: 'An input that no instruction reads is refused: "live input tensor not used in network".',
    basis: "inferred",
    source: "the text is from kasper0406/stablehlo-coreml PR 89, there for a second attention operator",
  },
  {
    name: "outputs-many",
    statement: "One function may return several results, each with its own port.",
    basis: "measured",
    source: "ANEForge compile_multi, M1 and M5: 12 state outputs",
  },
  {
    name: "gelu-native",
    statement: 'gelu with mode "EXACT" compiles.',
    basis: "measured",
    source: "ANEForge, M1 to M5; maderix/ANE PR 40, M4 Max; Orion says gelu is not accepted (M4 Max, in-memory route)",
  },
  {
    name: "concat-native",
    statement: "concat with a scalar int32 axis and interleave = false compiles.",
    basis: "measured",
    source:
      "ANEForge stacks, gathers and splits with it, M1 to M5, but its capabilities page says two inputs at most; maderix/ANE, M4, M5; Orion: rejected (M4 Max, fp32 ports)",
  },
  {
    name: "reduce-mean-native",
    statement: "reduce_mean compiles.",
    basis: "measured",
    source: "ANEForge, M1 to M5; christopherkarani/Espresso: missing",
  },
  {
    name: "conv-bias-refused",
    statement: "conv with a bias operand does not compile; a bias is added by add.",
    basis: "documented",
    source: "Orion, M4 Max; ANEForge adds by add and so does not tell",
  },
  {
    name: "softmax-channels",
    statement: "softmax over axis 1 of an extent that is no power of two compiles.",
    basis: "measured",
    source: "ANEgpt: 32000 on M4 and M5; christopherkarani/Espresso and hollance/neural-engine#44: InvalidMILProgram",
  },
  {
    name: "sdpa-mask-ignored",
    statement: "scaled_dot_product_attention gives the same result with and without attn_mask.",
    basis: "documented",
    source: "maderix/ANE, M4, in-memory route",
  },

  // ---- weight file ----
  {
    name: "blob-offset",
    statement: "BLOBFILE's offset is that of the 64-byte descriptor (64 for the first), not of the data behind it.",
    basis: "measured",
    source:
      "ANEForge, M1 to M6; Orion and maderix/ANE: 0 or 128 give wrong values; ANEForge's MIL primer still says that e5rt takes no weight file",
  },
  {
    name: "blob-path",
    statement: "@model_path in BLOBFILE's path is the folder of model.mil.",
    basis: "measured",
    source: "ANEForge, M1 to M6: weights.bin beside model.mil",
  },
  {
    name: "blob-aligned",
    statement:
      "A file of several weights whose descriptors and data lie at multiples of 64 loads with every value right.",
    basis: "measured",
    source: "coremltools writes such files; ANEForge's are packed without padding and load as well (M1 to M6)",
  },

  // ---- limits ----
  {
    name: "rank-5",
    statement: "Rank 5 compiles, rank 6 does not.",
    basis: "measured",
    source: "ANEForge PR 42, M5 Pro",
  },
  {
    name: "width-16384",
    statement: "An extent of 16384 on the last axis compiles, 16385 does not.",
    basis: "measured",
    source:
      "ane-guide ch. 4: swept on M1, every axis but convolution channels; compiler's message on M1 Max, macOS 14: N and C to 65536, D, H and W to 16384",
    families: ["A13", "A14", "A15"],
  },
  {
    name: "width-65536",
    statement: "An extent of 65536 on the last axis compiles, 65537 does not.",
    basis: "documented",
    source: "ANEForge targets; ncdrone/rustane#13: M4 Max refused 17920 as width of an input, 16384 passed",
    families: ["A16"],
  },
  {
    name: "channels-65536",
    statement: "65536 channels (axis 1 of rank 4) compile, 65537 do not.",
    basis: "documented",
    source:
      "compiler's message on M1 Max, macOS 14 (stable-diffusion-webui#13527); ANEForge targets; maderix/ANE PR 26 splits 151936 (M4 Pro)",
  },
  {
    name: "kernel-width-13",
    statement: "A constant fp16 convolution kernel of width 13 compiles, of width 14 does not.",
    basis: "documented",
    source: "ane-guide ch. 4: table 13 for M1 and 16 from A14 on; ANEForge: 13 to A15, of which only M1 is tried",
    families: ["A13", "A14", "A15"],
  },
  {
    name: "kernel-width-15",
    statement: "A constant fp16 convolution kernel of width 15 compiles, of width 16 does not.",
    basis: "measured",
    source: "ANEForge PR 26, M5 Pro: 16x3 compiles, 3x16 does not; ane-guide's table says 16",
    families: ["A16"],
  },
  {
    name: "runtime-conv-batch",
    statement: "conv with a computed weight compiles for batch 1; for batch 2 it crashes the compiler's process.",
    basis: "measured",
    source: "ane-guide ch. 19, M1, after fresh restarts of the service",
  },
  {
    name: "arg-extent",
    statement: "reduce_argmax over more than 2048 positions does not compile.",
    basis: "documented",
    source: "ane-guide",
  },
  {
    name: "rank5-transposed-matmul",
    statement: "A matrix product of rank-5 operands does not compile.",
    basis: "measured",
    source: "ane-guide ch. 4, M1; ANEForge fft, M5 Pro, of a transpose followed by one",
  },
  {
    name: "square-then-nonlinearity",
    statement:
      "square followed by a nonlinearity does not compile where the last extent modulo 128 exceeds 64; mul(x, x) does.",
    basis: "measured",
    source: "ANEForge op quirks, M5 Pro",
  },
  {
    name: "reduce-times-zero",
    statement: "A reduction multiplied by a constant zero does not compile.",
    basis: "measured",
    source: "ANEForge, M5 Pro",
  },
  {
    name: "gain-between-reshapes",
    statement:
      "A layer norm computed at [R, D, 1, 1] does not compile from D = 1024 on if its constant gains, of unequal values, are multiplied before the reshape back to [R, D]; after it they compile.",
    basis: "measured",
    source:
      "ANEForge PR 201, #162 and #149, M1 Max and M2 Pro, macOS 26.5; not so on M5 Pro; at [512, 1024, 1, 1] without reshapes it compiles",
    families: ["A13", "A14"],
  },
  {
    name: "programs-128",
    statement: "128 programs can be loaded in a process, the next fails; a release frees a place.",
    basis: "measured",
    source: "ANEForge, M5 Pro; 110 to 120 in chains of resident programs; jundot/omlx: 120 (M1 Ultra, M3 Max)",
  },
  {
    name: "compiles-unlimited",
    statement: "More than 130 compiles in one process succeed when earlier programs are released.",
    basis: "inferred",
    source:
      "maderix/ANE: failures from about the 119th compile on, in-memory route; issue 54 blames its wrapper, not the compiler",
  },

  // ---- numerics ----
  {
    name: "round-half-even",
    statement: "Results are rounded to fp16, halves to even, at every operator.",
    basis: "measured",
    source: "ane-guide ch. 3, M1; against it: sum-2049",
  },
  {
    name: "wide-accumulation",
    statement: "16000 ones summed by a matrix product with ones give 16000.",
    basis: "measured",
    source: "ane-guide ch. 3, M1; ANEForge: 16384 ones, M5; against it: product-error-grows",
  },
  {
    name: "product-error-grows",
    statement:
      "The square product of fp16 normals over sqrt(N) has a relative error of 0.0026 at N = 512, 0.0055 at 1024, 0.0121 at 2048, 0.0272 at 4096.",
    basis: "measured",
    source:
      "ANEForge rooflines, equal to 7 digits on M1 (macOS 15.6.1), M4 Pro and M6 (27.0.1); the same in fp16 on the GPU: 0.00036 at every N",
  },
  {
    name: "product-error-absolute",
    statement:
      "That product at N = 1024 with one operand scaled by 64 has a relative error below 0.001: the error is absolute.",
    basis: "inferred",
    source:
      "rounding every term to a multiple of 2^-16, and those below 1.5 * 2^-16 to 0, gives the errors of product-error-grows within 1 % at all four N, and 0.00037 for convolutions of values near 1, as published (M1, M4 Pro)",
  },
  {
    name: "small-terms-lost",
    statement: "1024 terms of 2^-9 * 2^-9 summed by a matrix product give 0, not 2^-8.",
    basis: "inferred",
    source:
      "the rounding that product-error-absolute supposes; ane-guide ch. 3 says that sums of subnormals are lost on M1 and kept on M5",
  },
  {
    name: "four-lane-tiles",
    statement: "4096 and 1024 ones summed by a matrix product with ones give 5116.",
    basis: "measured",
    source: "ane-guide ch. 3, M1",
  },
  {
    name: "cancellation-survivors",
    statement:
      "Of 16 triples (v, -v, 1) summed by a matrix product with ones, 16 ones survive for v = 4090 and 4 for v = 4096.",
    basis: "measured",
    source: "ane-guide ch. 3, M1",
  },
  {
    name: "reduce-sum-narrow",
    statement: "reduce_sum accumulates in fp16: 4096 ones summed along one axis give less than 4096.",
    basis: "documented",
    source: "ANEForge numerics; ane-guide ch. 3: mul with reduce_sum gave the matrix product's bits (M1)",
  },
  {
    name: "sum-2049",
    statement: "reduce_sum of eight integers whose sum is 2049 gives 2050, not the even 2048.",
    basis: "measured",
    source:
      "ANEForge numeric cliffs: M1 on macOS 15.6.1, M2 Pro, M4 Pro and M6 on 27.0.1, and others; ane-guide ch. 3 has 2048 on M1 and 2050 on M5",
  },
  {
    name: "product-ceiling",
    statement: "A matrix product's result of 32752 is finite, of 32768 infinite.",
    basis: "measured",
    source:
      "ane-guide ch. 3, M1; ANEForge numeric cliffs: about 32759 on M1 to M6, for 4 to 128 terms; ANEForge#115: two products of transposed operands overflow far below",
  },
  {
    name: "elementwise-range",
    statement: "Elementwise products and reduce_sum reach 65504.",
    basis: "measured",
    source: "ane-guide ch. 3, M1",
  },
  {
    name: "width-slice-clamps",
    statement: "A slice of the last axis that begins behind 0 passes 4094 and turns 4096 into infinity.",
    basis: "measured",
    source: "ane-guide ch. 3, M1 and H14; ANEForge numeric cliffs, M1, M1 Max, M2 Pro, M2 Max",
    families: ["A13", "A14"],
  },
  {
    name: "width-slice-exact",
    statement: "A slice of the last axis that begins behind 0 passes 65504.",
    basis: "measured",
    source: "ANEForge numeric cliffs, M4, M4 Max, M5, M6; of A15 documented only (ane-guide)",
    families: ["A15", "A16"],
  },
  {
    name: "nan-becomes-infinity",
    statement: "NaN at an input reads as positive infinity: NaN + 0 is infinity, relu(NaN) infinity, sigmoid(NaN) 1.",
    basis: "measured",
    source: "ane-guide ch. 3, M1",
  },
  {
    name: "undefined-is-zero",
    statement: "inf - inf, 0 * inf, sqrt(-1), rsqrt(-1) and log(-1) are +0.",
    basis: "measured",
    source: "ane-guide ch. 3, M1; ANEForge saw -52416 from a product with infinity",
  },
  {
    name: "log-of-zero",
    statement: "log(+0) is -45440.",
    basis: "measured",
    source: "ane-guide ch. 3, M1",
  },
  {
    name: "negative-zero-lost",
    statement: "-0 + 0 is +0, and 1 / -0 is positive infinity.",
    basis: "measured",
    source: "ane-guide ch. 3, M1",
  },
  {
    name: "subnormals-elementwise",
    statement: "Subnormals pass x + 0 and x * 1 bit for bit, down to 2^-24.",
    basis: "measured",
    source: "ane-guide ch. 3, M1",
  },
  {
    name: "subnormals-in-products",
    statement: "Matrix products flush subnormals to +0 on M1 and keep them on M5.",
    basis: "measured",
    source: "ane-guide ch. 3; M2 to M4 not measured",
    families: ["A13", "A16"],
  },
  {
    name: "exp-overflow",
    statement:
      "exp is finite at 11.0859375 and infinite at 11.09375, the next fp16; softmax of [1000, 1, 2, 3] is [1, 0, 0, 0].",
    basis: "measured",
    source: "ane-guide ch. 3, M1: first infinity near 11.094",
  },
  {
    name: "activation-tables",
    statement: "Worst absolute errors against exact values: sigmoid 0.0034, tanh 0.0017, gelu 0.0059.",
    basis: "measured",
    source: "ane-guide ch. 3, M1",
  },
  {
    name: "gelu-of-zero",
    statement: "gelu(0) is -0.000543, not 0.",
    basis: "measured",
    source: "ane-guide ch. 3, M1; ANEForge: -0.000754",
  },
  {
    name: "deterministic",
    statement: "The same program and input give the same bits in every run, after every compile and in every process.",
    basis: "measured",
    source: "ane-guide ch. 3, M1: 200 runs, recompiles, fresh processes",
  },

  // ---- state and aliasing ----
  {
    name: "output-on-input-buffer",
    statement:
      "x + 1 with its output port bound to its input port's buffer before the first execution counts to 100 in 100 executions.",
    basis: "measured",
    source:
      "ANEForge e5rt reference, M5 Pro, and resident training of 12 arrays over 2340 steps; fp16 counts exactly to 2048",
  },
  {
    name: "reads-before-store",
    statement:
      "In a program that updates state in place, instructions on which the stored value depends see the old one.",
    basis: "measured",
    source: "ANEForge resident training, M1 and M5; instructions on which it does not depend may see either (inferred)",
  },

  // ---- timing ----
  {
    name: "dispatch-floor",
    statement: "execute_sync of an almost empty program takes 0.06 to 0.23 ms (M5: 0.07 to 0.11, M1: 0.2 to 0.23).",
    basis: "measured",
    source: "ANEForge (M5 Pro), ane-guide (M1 0.23, M5 0.11), maderix/ANE (M4 0.095 ms)",
  },
  {
    name: "compile-time",
    statement: "A program of one operator compiles in 20 to 110 ms; the first compile after a start may take 750 ms.",
    basis: "measured",
    source: "ANEForge, M5 Pro, macOS 26.5; maderix/ANE: 11 to 55 ms (M4, M5)",
  },
  {
    name: "product-peak",
    statement:
      "Square matrix products reach 2.7 to 10.8 TFLOP/s (M1 2.7 to 4.3, M2 Pro 3.4, M4 5.4, M5 8.7, M5 Pro 10.0, M6 10.8).",
    basis: "measured",
    source: "ANEForge rooflines; ane-guide: M1 4.8, M5 9.5",
  },
  {
    name: "convolution-peak",
    statement:
      "3x3 convolutions of 512 channels at 64x64 reach 23 TFLOP/s on M6; stacks of 1x1 ones 17 to 19 on M3 Pro to M5 Max.",
    basis: "measured",
    source: "ANEForge rooflines, M6, macOS 27.0.1; maderix/ANE, in-memory route: M3 Pro 16.8, M4 18.6, M5 Max 19.3",
    families: ["A15", "A16"],
  },
  {
    name: "weight-bandwidth",
    statement: "Constant weights stream at 50 to 145 GB/s (M1 51, M5 114 to 145).",
    basis: "measured",
    source: "ane-guide (M1 51, M5 145); ANEForge (M5 Pro 114); its roofline runs report 0.9 to 24 for other access",
  },

  // ---- failures ----
  {
    name: "compile-failure-text",
    statement:
      'A program that the engine cannot take fails with "ANECCompile() FAILED", "Some ops are not supported on any of the specified backends" or "InvalidMILProgram" on standard error.',
    basis: "measured",
    source:
      'e5rt: "MILCompilerForANE error: failed to compile ANE model using ANEF", code 11 (ANEForge#149, M2 Pro, macOS 26.5.2); ane-guide ch. 4, M1; InvalidMILProgram: in-memory route',
  },
  {
    name: "recompile-after-failure",
    statement: "A valid program compiles within 15 s after one that failed.",
    basis: "measured",
    source: "ane-guide ch. 19: a failure restarts the compiler's process; ANEForge waits 15 s",
  },

  // ---- macOS versions ----
  {
    name: "macos-14",
    statement: "macOS 14 refuses programs of the opset ios18: \"Unknown opset 'CoreML8'\".",
    basis: "inferred",
    source:
      "coremltools: ios18 is macOS 15's CoreML8; apple/coremltools#2283 has the text, before macOS 15 came out; ANEForge says macOS 14 or later, without a run",
  },
  {
    name: "macos-15",
    statement: "The route works on macOS 15.",
    basis: "measured",
    source: "ANEForge rooflines: M1 on 15.6.1 (24G90); in-memory route on 15.3, 15.4 and 15.7 (maderix/ANE)",
  },
  {
    name: "macos-26",
    statement: "The route works on macOS 26.",
    basis: "measured",
    source: "ANEForge rooflines: M4 on 26.2, M1, M1 Max, M2 Pro, M5, M5 Pro on 26.5, M4 Max on 26.7",
  },
  {
    name: "macos-27",
    statement: "The route works on macOS 27.",
    basis: "measured",
    source: "ANEForge rooflines: M4 Pro and M6 on 27.0.1 (26A434)",
  },
] as const satisfies readonly Fact[];

/** Name of a fact. */
export type FactName = (typeof facts)[number]["name"];
