// Adam and AdamW.

import { ConfigError } from "../core/errors.ts";
import { asSchedule, checkDecay, type Optimizer, type OptimizerOptions } from "./optimizer.ts";

export interface AdamOptions extends OptimizerOptions {
  readonly betas?: readonly [number, number];
  readonly epsilon?: number;
}

/** Largest scaled gradient that enters fp16 moments: its square, which the second moment approaches when it lasts, is still finite. */
const float16GradientMax = Math.sqrt(60000);

/** Root of the smallest square that fp16 does not round to 0, half the smallest subnormal. */
const float16RootMin = 2 ** -12.5;

function build(name: string, decoupled: boolean, options: AdamOptions): Optimizer {
  const { learningRate, betas = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0, groups = [] } = options;
  const [beta1, beta2] = betas;
  checkDecay(name, weightDecay);
  for (const beta of betas)
    if (!(beta >= 0 && beta < 1)) throw new ConfigError(name, `betas [${betas.join(", ")}] are outside [0, 1)`);
  if (!(epsilon >= 0)) throw new ConfigError(name, `epsilon ${epsilon} is negative`);
  return {
    name,
    learningRate: asSchedule(name, learningRate),
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
      const narrow = p.dtype === "fp16";
      const raw = decay === 0 || decoupled ? g : g.add(p.mul(decay * momentScale));
      const full = narrow ? raw.clip(-float16GradientMax, float16GradientMax) : raw;
      const m = slots.m!.mul(beta1).add(full.mul(1 - beta1));
      // The factor goes under the square, which then underflows earlier by sqrt(1 - beta2) only.
      const v = slots.v!.mul(beta2).add(full.mul(Math.sqrt(1 - beta2)).square());
      // Where the square of a gradient rounds to 0 its first moment does not: without a floor that the root could not see, such a parameter would
      // move by hundreds of steps at once, or by 0 / 0.
      const epsilonHat = narrow
        ? scalars.epsilonHat!.maximum(float16RootMin / Math.sqrt(1 - beta2))
        : scalars.epsilonHat!;
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
