// Adam and AdamW.

import { ConfigError } from "../core/errors.ts";
import { asSchedule, type Optimizer, type OptimizerOptions } from "./optimizer.ts";

export interface AdamOptions extends OptimizerOptions {
  readonly betas?: readonly [number, number];
  readonly epsilon?: number;
}

/** Largest square of a scaled gradient that enters an fp16 second moment: v stays finite whatever the gradient, since v <= max(v, g^2). */
const float16SquareMax = 60000;

function build(name: string, decoupled: boolean, options: AdamOptions): Optimizer {
  const { learningRate, betas = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0, groups = [] } = options;
  const [beta1, beta2] = betas;
  for (const beta of betas)
    if (!(beta >= 0 && beta < 1)) throw new ConfigError(name, `betas [${betas.join(", ")}] are outside [0, 1)`);
  if (!(epsilon >= 0)) throw new ConfigError(name, `epsilon ${epsilon} is negative`);
  return {
    name,
    learningRate: asSchedule(learningRate),
    weightDecay,
    groups,
    slots: ["m", "v"],
    // Bias corrections on the host, in float64: step size and epsilon such that (m / c1) / (sqrt(v / c2) + epsilon) = stepSize m / (sqrt(v) + epsilonHat).
    scalars(step, rate, momentScale) {
      const c1 = 1 - beta1 ** (step + 1);
      const rootC2 = Math.sqrt(1 - beta2 ** (step + 1));
      return { rate, stepSize: (rate * rootC2) / c1, epsilonHat: epsilon * rootC2 * momentScale };
    },
    update(p, g, slots, { scalars, learningRateScale, weightDecay: decay, momentScale }) {
      const full = decay === 0 || decoupled ? g : g.add(p.mul(decay * momentScale));
      const m = slots.m!.mul(beta1).add(full.mul(1 - beta1));
      // The factor goes under the square, which then overflows later and underflows earlier by sqrt(1 - beta2) only.
      const root = full.mul(Math.sqrt(1 - beta2));
      const limit = Math.sqrt(float16SquareMax);
      const v = slots.v!.mul(beta2).add((p.dtype === "fp16" ? root.clip(-limit, limit) : root).square());
      // An epsilon that rounds to 0 would make 0/0 of parameters that never had a gradient.
      const epsilonHat = p.dtype === "fp16" ? scalars.epsilonHat!.maximum(2 ** -22) : scalars.epsilonHat!;
      const direction = m.div(v.sqrt().add(epsilonHat)).mul(scalars.stepSize!);
      const decayed = decoupled && decay !== 0 ? direction.add(p.mul(scalars.rate!.mul(decay))) : direction;
      return { parameter: p.sub(learningRateScale === 1 ? decayed : decayed.mul(learningRateScale)), slots: { m, v } };
    },
  };
}

/** Adam (Kingma and Ba 2015); weight decay is added to the gradient. */
export function adam(options: AdamOptions): Optimizer {
  return build("adam", false, options);
}

/** AdamW (Loshchilov and Hutter 2019): decoupled weight decay, on matrices only unless a group says otherwise. */
export function adamw({ betas = [0.9, 0.95], weightDecay = 0.1, ...options }: AdamOptions): Optimizer {
  return build("adamw", true, { betas, weightDecay, ...options });
}
