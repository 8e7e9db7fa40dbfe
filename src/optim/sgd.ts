// Stochastic gradient descent with momentum.

import { ConfigError } from "../core/errors.ts";
import { asSchedule, checkDecay, type Optimizer, type OptimizerOptions } from "./optimizer.ts";

export interface SgdOptions extends OptimizerOptions {
  /** 0 keeps no state. */
  readonly momentum?: number;
  readonly nesterov?: boolean;
}

/** buf = momentum buf + (g + weightDecay p); p -= learningRate buf, or (g + momentum buf) with nesterov (PyTorch's form). */
export function sgd({
  learningRate,
  momentum = 0,
  nesterov = false,
  weightDecay = 0,
  groups = [],
}: SgdOptions): Optimizer {
  checkDecay("sgd", weightDecay);
  if (!(momentum >= 0 && momentum < 1)) throw new ConfigError("sgd", `momentum ${momentum} is outside [0, 1)`);
  if (nesterov && momentum === 0) throw new ConfigError("sgd", "nesterov needs a momentum above 0");
  return {
    name: "sgd",
    learningRate: asSchedule("sgd", learningRate),
    weightDecay,
    groups,
    slots: momentum === 0 ? [] : ["momentum"],
    scalars: (_step, rate) => ({ rate }),
    update(p, g, slots, { scalars, learningRateScale, weightDecay: decay, momentScale }) {
      const full = decay === 0 ? g : g.add(p.mul(decay * momentScale));
      const buffer = slots.momentum === undefined ? full : slots.momentum.mul(momentum).add(full);
      const direction = nesterov ? full.add(buffer.mul(momentum)) : buffer;
      // The rate first: the scaled gradient times a small rate stays a normal number before the scale is taken out.
      const step = direction.mul(scalars.rate!).mul(learningRateScale / momentScale);
      return { parameter: p.sub(step), slots: slots.momentum === undefined ? {} : { momentum: buffer } };
    },
  };
}
