// Precision policies of training: in which dtype the model computes, where the weights that are updated live, where the moments live.

import { ConfigError, UnsupportedError } from "../core/errors.ts";
import type { EngineName } from "../engines/engine.ts";

export interface PrecisionPolicy {
  readonly name: PrecisionName;
  readonly compute: "fp16" | "fp32";
  /** Dtype of the weights that the optimizer updates; wider than `compute` means master weights beside the ones the model reads. */
  readonly state: "fp16" | "fp32";
  readonly moments: "fp16" | "fp32";
  /** Gradients and moments inside the optimizer are multiplied by this (see optim/optimizer.ts). */
  readonly momentScale: number;
}

export const precisionNames = ["fp16", "mixed", "fp32"] as const;
export type PrecisionName = (typeof precisionNames)[number];

const policies: Readonly<Record<PrecisionName, PrecisionPolicy>> = {
  // 1024: a gradient of 2.4e-7 still has a square above the smallest subnormal, and one clipped to norm 1 stays inside Adam's square limit.
  fp16: { name: "fp16", compute: "fp16", state: "fp16", moments: "fp16", momentScale: 1024 },
  mixed: { name: "mixed", compute: "fp16", state: "fp32", moments: "fp32", momentScale: 1 },
  fp32: { name: "fp32", compute: "fp32", state: "fp32", moments: "fp32", momentScale: 1 },
};

export function precisionPolicy(name: string): PrecisionPolicy {
  const policy = Object.hasOwn(policies, name) ? policies[name as PrecisionName] : undefined;
  if (policy === undefined) throw new ConfigError("precision", `"${name}" is none of ${precisionNames.join(", ")}`);
  return policy;
}

/** Refuses a policy that the engine cannot do. */
export function checkPrecision(policy: PrecisionPolicy, engine: EngineName): void {
  if (engine === "ane" && policy.compute === "fp32") {
    throw new UnsupportedError("precision", "the Neural Engine has no fp32 arithmetic", {
      remedy: 'use precision "fp16" or "mixed"',
    });
  }
}

/** `fp16 compute, fp32 weights, fp32 moments`. */
export function describePrecision({ compute, state, moments }: PrecisionPolicy): string {
  return `${compute} compute, ${state} weights, ${moments} moments`;
}
