// Public exports of anekit: tensors, derivatives, compilation. Loads no FFI and no `node:` module.

export { checkpoint, customGradient, type GradOptions, grad, stopGradient, valueAndGrad } from "./autodiff/grad.ts";
export type { DType, FloatDType } from "./core/dtype.ts";
export {
  AbortedError,
  AnekitError,
  CheckpointError,
  ConfigError,
  DisposedError,
  DTypeError,
  EngineError,
  type ErrorFacts,
  FileError,
  ParseError,
  ShapeError,
  UnsupportedError,
} from "./core/errors.ts";
export type { Aval, Shape } from "./core/shape.ts";
export { type DataOf, type Feed, type Float16As, NDArray } from "./engines/array.ts";
export {
  type CompiledProgram,
  type CompileOptions,
  compile,
  type FeedSpec,
  type FeedSpecs,
  type Results,
  type RunOptions,
} from "./engines/compile.ts";
export type { Binding, Buffer, Engine, EngineName, Executable } from "./engines/engine.ts";
export { type EngineChoice, listEngines, openEngine } from "./engines/open.ts";
export type { ProgramReport, StageReport } from "./engines/report.ts";
export { StateStore } from "./engines/state.ts";
export type { Plan, StageSpec, StatePlan, UpdateMode } from "./ir/plan.ts";
export { type OpName, ops } from "./ops/index.ts";
export { type FreezeOptions, foldBatchNorm, freeze } from "./passes/freeze.ts";
export {
  concat,
  constant,
  conv,
  type DataLike,
  input,
  type LeafOptions,
  type Nested,
  type Operand,
  type PoolOptions,
  parameter,
  stack,
  Tensor,
  tensor,
  type WindowOptions,
  where,
} from "./tensor.ts";
