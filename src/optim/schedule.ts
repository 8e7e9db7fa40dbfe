// Learning-rate schedules: functions of the step, counted from 0.

import { ConfigError } from "../core/errors.ts";

export interface CosineOptions {
  readonly learningRate: number;
  /** Total number of steps. */
  readonly steps: number;
  /** Steps of linear growth from learningRate / warmupSteps. */
  readonly warmupSteps?: number;
  /** Value at the end; a tenth of learningRate unless stated. */
  readonly minLearningRate?: number;
}

/** Linear warm-up, then a half cosine from learningRate down to minLearningRate; constant after `steps`. */
export function warmupCosine({
  learningRate,
  steps,
  warmupSteps = 0,
  minLearningRate = learningRate / 10,
}: CosineOptions): (step: number) => number {
  const fits = Number.isInteger(steps) && steps >= 1 && Number.isInteger(warmupSteps) && warmupSteps >= 0;
  if (!fits || !(learningRate > 0 && minLearningRate >= 0 && minLearningRate <= learningRate)) {
    throw new ConfigError(
      "schedule",
      `steps ${steps}, warmupSteps ${warmupSteps}, learningRate ${learningRate}, minLearningRate ${minLearningRate} do not make a schedule`,
    );
  }
  return (step) => {
    if (step < warmupSteps) return (learningRate * (step + 1)) / warmupSteps;
    const progress = Math.min(1, (step - warmupSteps) / Math.max(1, steps - warmupSteps));
    return minLearningRate + 0.5 * (1 + Math.cos(Math.PI * progress)) * (learningRate - minLearningRate);
  };
}
