// Public exports of anekit/optim.

export { type AdamOptions, adam, adamw } from "./adam.ts";
export { globalNorm, peakOf } from "./clip.ts";
export {
  groupOf,
  type Optimizer,
  type OptimizerOptions,
  type ParameterGroup,
  type Update,
  type UpdateContext,
} from "./optimizer.ts";
export { type CosineOptions, warmupCosine } from "./schedule.ts";
export { type SgdOptions, sgd } from "./sgd.ts";
