// What an optimizer is: per-parameter state, host-computed scalars that are fed at every step, and an update as a graph.

import { ConfigError } from "../core/errors.ts";
import type { Tensor } from "../tensor.ts";

/** Numbers that one update of one parameter needs. */
export interface UpdateContext {
  /** Scalars of `Optimizer.scalars`, as tensors of the update's dtype. */
  readonly scalars: Readonly<Record<string, Tensor>>;
  /** Multiplies the learning rate of this parameter. */
  readonly learningRateScale: number;
  /** Decay of this parameter. */
  readonly weightDecay: number;
  /**
   * Gradients and moments are held multiplied by this: 1 in fp32; in fp16 a power of two that keeps squares of small gradients above the smallest
   * subnormal (6e-8).
   */
  readonly momentScale: number;
}

export interface Update {
  readonly parameter: Tensor;
  readonly slots: Readonly<Record<string, Tensor>>;
}

/** Parameters that are treated alike; the first group that matches counts. */
export interface ParameterGroup {
  readonly match: (name: string, parameter: Tensor) => boolean;
  readonly weightDecay?: number;
  readonly learningRateScale?: number;
}

export interface Optimizer {
  readonly name: string;
  /** Learning rate of a step, counted from 0. */
  readonly learningRate: (step: number) => number;
  readonly weightDecay: number;
  readonly groups: readonly ParameterGroup[];
  /** Names of the state kept for every parameter; all start at 0. */
  readonly slots: readonly string[];
  /** Names and values of the scalars fed at update number `step` (applied updates, counted from 0). */
  scalars(step: number, learningRate: number, momentScale: number): Readonly<Record<string, number>>;
  /** New value and state of one parameter. `g` is the gradient times momentScale. */
  update(parameter: Tensor, g: Tensor, slots: Readonly<Record<string, Tensor>>, context: UpdateContext): Update;
}

export interface OptimizerOptions {
  /** A number, or a schedule of steps counted from 0. */
  readonly learningRate: number | ((step: number) => number);
  readonly weightDecay?: number;
  readonly groups?: readonly ParameterGroup[];
}

/** Decay and learning-rate factor of a parameter: its group's, else the optimizer's; vectors and scalars (norm gains, biases) do not decay unless a group says so. */
export function groupOf(
  optimizer: Optimizer,
  name: string,
  parameter: Tensor,
): { readonly weightDecay: number; readonly learningRateScale: number } {
  const group = optimizer.groups.find(({ match }) => match(name, parameter));
  const weightDecay = group?.weightDecay ?? (parameter.rank >= 2 ? optimizer.weightDecay : 0);
  return { weightDecay, learningRateScale: group?.learningRateScale ?? 1 };
}

/** A schedule from a number or a function; what it gives is checked at every step. */
export function asSchedule(name: string, learningRate: OptimizerOptions["learningRate"]): (step: number) => number {
  const check = (rate: number, at: string) => {
    if (!(rate >= 0 && rate < Number.POSITIVE_INFINITY))
      throw new ConfigError(name, `learning rate ${rate}${at} is not a finite number of at least 0`);
    return rate;
  };
  if (typeof learningRate === "number") check(learningRate, "");
  return typeof learningRate === "number"
    ? () => learningRate
    : (step) => check(learningRate(step), ` at step ${step}`);
}

/** Refuses a weight decay that is negative or no number. */
export function checkDecay(name: string, weightDecay: number): void {
  if (!(weightDecay >= 0 && weightDecay < Number.POSITIVE_INFINITY))
    throw new ConfigError(name, `weightDecay ${weightDecay} is not a finite number of at least 0`);
}
