// Layers: parameters with an initial value, and the composite that uses them. A Scope names and collects parameters.

import { ConfigError } from "../core/errors.ts";
import { RandomStream } from "../core/random.ts";
import { checkShape, type Shape, sizeOf } from "../core/shape.ts";
import { parameter, type Tensor } from "../tensor.ts";
import { attention, mergeHeads, rmsNorm, rope, splitHeads, swiglu } from "./functional.ts";

/** How a parameter starts: a constant, or normal numbers of a standard deviation. */
export type Init = { readonly value: number } | { readonly std: number };

export interface ScopeOptions {
  readonly dtype?: "fp16" | "fp32";
  readonly seed?: number;
  readonly empty?: boolean;
}

/** Creates the parameters of a model: each has a dotted name, and its initial numbers depend on that name and the seed alone. */
export class Scope {
  readonly dtype: "fp16" | "fp32";
  readonly seed: number;
  /** True where initial values stay 0, because a checkpoint replaces them. */
  readonly empty: boolean;
  /** Every parameter made in this scope and below, by full name, in order of creation. */
  readonly parameters: Map<string, Tensor>;
  /** State that is not trained but follows the batches: running means and variances, by full name. */
  readonly statistics: Map<string, Tensor>;
  readonly #prefix: string;

  constructor({ dtype = "fp16", seed = 0, empty = false }: ScopeOptions = {}, parent?: Scope, prefix = "") {
    this.dtype = dtype;
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new ConfigError("scope", `seed ${seed} is not an integer of at least 0`);
    this.seed = seed;
    this.empty = empty;
    this.parameters = parent?.parameters ?? new Map();
    this.statistics = parent?.statistics ?? new Map();
    this.#prefix = prefix;
  }

  /** A scope whose names start with `name.`, or with another separator. */
  at(name: string, separator = "."): Scope {
    return new Scope(this, this, `${this.#prefix}${name}${separator}`);
  }

  parameter(name: string, shape: Shape, init: Init): Tensor {
    return this.#make(this.parameters, name, shape, init);
  }

  statistic(name: string, shape: Shape, value: number): Tensor {
    return this.#make(this.statistics, name, shape, { value });
  }

  #make(kind: Map<string, Tensor>, name: string, shape: Shape, init: Init): Tensor {
    const full = `${this.#prefix}${name}`;
    if (this.parameters.has(full) || this.statistics.has(full))
      throw new ConfigError("scope", `two parameters are named "${full}"`);
    checkShape(`parameter "${full}"`, shape);
    const initial = () => {
      if ("value" in init) return init.value;
      if (this.empty) return 0;
      return new RandomStream(this.seed, full).normals(new Float32Array(sizeOf(shape)), init.std);
    };
    const made = parameter(initial(), shape, { dtype: this.dtype, name: full });
    kind.set(full, made);
    return made;
  }
}

/** x [..., in] times the transpose of weight [out, in], plus bias. A matrix product, so that the weight can be trained on the chip. */
export class Linear {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;

  constructor(
    scope: Scope,
    inFeatures: number,
    outFeatures: number,
    { bias = true, std = 1 / Math.sqrt(inFeatures) } = {},
  ) {
    this.weight = scope.parameter("weight", [outFeatures, inFeatures], { std });
    this.bias = bias ? scope.parameter("bias", [outFeatures], { value: 0 }) : undefined;
  }

  forward(x: Tensor): Tensor {
    // As rows: one product, whose weight gradient is one product too instead of one a batch entry and a sum.
    const rows = x.reshape([-1, x.shape.at(-1)!]).matmul(this.weight, { transposeY: true });
    return (this.bias === undefined ? rows : rows.add(this.bias)).reshape([...x.shape.slice(0, -1), rows.shape[1]!]);
  }
}

/** Rows of weight [V, C] picked by tokens: int32 [...] through gather, or one-hot rows [..., V] through a matrix product, which the chip can do. */
export class Embedding {
  readonly weight: Tensor;

  constructor(scope: Scope, count: number, width: number, { std = 1 / Math.sqrt(width) } = {}) {
    this.weight = scope.parameter("weight", [count, width], { std });
  }

  forward(tokens: Tensor): Tensor {
    return tokens.dtype === "int32" ? this.weight.gather(tokens, 0) : tokens.matmul(this.weight);
  }
}

export class RmsNorm {
  readonly gamma: Tensor;
  readonly epsilon: number;

  constructor(scope: Scope, width: number, { epsilon = 1e-5 } = {}) {
    this.gamma = scope.parameter("gamma", [width], { value: 1 });
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.gamma, this.epsilon);
  }
}

/** Standardization over the last axis; gain and bias are applied outside layer_norm, which takes them as constants on the chip. */
export class LayerNorm {
  readonly gamma: Tensor;
  readonly beta: Tensor;
  readonly epsilon: number;

  /** @param options.names of gain and bias, where checkpoints call them otherwise */
  constructor(
    scope: Scope,
    width: number,
    {
      epsilon = 1e-5,
      names: [gamma, beta] = ["gamma", "beta"],
    }: { readonly epsilon?: number; readonly names?: readonly [string, string] } = {},
  ) {
    this.gamma = scope.parameter(gamma, [width], { value: 1 });
    this.beta = scope.parameter(beta, [width], { value: 0 });
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return x.layerNorm({ epsilon: this.epsilon }).mul(this.gamma).add(this.beta);
  }
}

/** Keys and values of earlier positions, each [Hk, T, D]: where a decoding step reads them and what replaces them. */
export interface KvCache {
  readonly keys: Tensor;
  readonly values: Tensor;
  /** True at the position that is being decoded, bool [T, 1]. */
  readonly here: Tensor;
  /** Called with the new contents. */
  readonly store: (keys: Tensor, values: Tensor) => void;
}

export interface AttentionContext {
  /** Additive, against [Tq, Tk]. */
  readonly mask?: Tensor;
  /** Tables [T, D/2]; no rotation when absent. */
  readonly rotation?: { readonly cos: Tensor; readonly sin: Tensor };
  readonly cache?: KvCache;
}

/** Self-attention of x [B, T, C] with grouped queries. */
export class Attention {
  readonly nHead: number;
  readonly nKvHead: number;
  readonly wq: Linear;
  readonly wk: Linear;
  readonly wv: Linear;
  readonly wo: Linear;

  constructor(
    scope: Scope,
    {
      nEmbd,
      nHead,
      nKvHead = nHead,
      bias = false,
      outStd = 1 / Math.sqrt(nEmbd),
    }: {
      readonly nEmbd: number;
      readonly nHead: number;
      readonly nKvHead?: number;
      readonly bias?: boolean;
      readonly outStd?: number;
    },
  ) {
    if (nEmbd % nHead !== 0 || nHead % nKvHead !== 0) {
      throw new ConfigError(
        "attention",
        `nHead ${nHead} must divide nEmbd ${nEmbd}, nKvHead ${nKvHead} must divide nHead`,
      );
    }
    const kv = (nEmbd / nHead) * nKvHead;
    this.nHead = nHead;
    this.nKvHead = nKvHead;
    this.wq = new Linear(scope.at("wq"), nEmbd, nEmbd, { bias });
    this.wk = new Linear(scope.at("wk"), nEmbd, kv, { bias });
    this.wv = new Linear(scope.at("wv"), nEmbd, kv, { bias });
    this.wo = new Linear(scope.at("wo"), nEmbd, nEmbd, { bias, std: outStd });
  }

  forward(x: Tensor, { mask, rotation, cache }: AttentionContext = {}): Tensor {
    const turn = (t: Tensor) => (rotation === undefined ? t : rope(t, rotation.cos, rotation.sin));
    const q = turn(splitHeads(this.wq.forward(x), this.nHead)); // [B, H, T, D]
    let k = turn(splitHeads(this.wk.forward(x), this.nKvHead));
    let v = splitHeads(this.wv.forward(x), this.nKvHead);
    if (cache !== undefined) {
      // One position of one sequence: k and v [1, Hk, 1, D] replace the cache's row.
      const keys = cache.here.select(k.squeeze([0]), cache.keys);
      const values = cache.here.select(v.squeeze([0]), cache.values);
      cache.store(keys, values);
      [k, v] = [keys.expandDims(0), values.expandDims(0)];
    }
    return this.wo.forward(mergeHeads(attention(q, k, v, mask === undefined ? {} : { mask })));
  }
}

/** Llama's feed-forward layer: w2(silu(w1 x) w3 x). */
export class SwigluMlp {
  readonly w1: Linear;
  readonly w2: Linear;
  readonly w3: Linear;

  constructor(scope: Scope, width: number, hidden: number, { outStd = 1 / Math.sqrt(hidden) } = {}) {
    this.w1 = new Linear(scope.at("w1"), width, hidden, { bias: false });
    this.w3 = new Linear(scope.at("w3"), width, hidden, { bias: false });
    this.w2 = new Linear(scope.at("w2"), hidden, width, { bias: false, std: outStd });
  }

  forward(x: Tensor): Tensor {
    return this.w2.forward(swiglu(this.w1.forward(x), this.w3.forward(x)));
  }
}

/** GPT-2's feed-forward layer: down(gelu(up x)), gelu by its tanh form. */
export class GeluMlp {
  readonly up: Linear;
  readonly down: Linear;

  constructor(scope: Scope, width: number, hidden: number, { outStd = 1 / Math.sqrt(hidden) } = {}) {
    this.up = new Linear(scope.at("up"), width, hidden);
    this.down = new Linear(scope.at("down"), hidden, width, { std: outStd });
  }

  forward(x: Tensor): Tensor {
    return this.down.forward(this.up.forward(x).gelu("TANH_APPROXIMATION"));
  }
}
