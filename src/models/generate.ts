// Text from a model: one decoding program with resident keys and values, fed token by token; sampling on the host.

import { AbortedError, ConfigError, EngineError } from "../core/errors.ts";
import { argMaxFloat16, unpackFloat16 } from "../core/float16.ts";
import { RandomStream } from "../core/random.ts";
import { byteTokenizer, type Tokenizer } from "../data/tokenizer.ts";
import { type CompiledProgram, compile } from "../engines/compile.ts";
import type { Engine } from "../engines/engine.ts";
import { borrowEngine, type EngineChoice } from "../engines/open.ts";
import type { StateStore } from "../engines/state.ts";
import { maskedScore } from "../nn/functional.ts";
import { input, parameter, type Tensor } from "../tensor.ts";
import type { Gpt } from "./gpt.ts";

export interface SamplingOptions {
  readonly maxTokens?: number;
  /** 0 takes the most likely token; 1 unless stated. */
  readonly temperature?: number;
  /** Only the k most likely tokens. */
  readonly topK?: number;
  /** Only the most likely tokens that together reach this probability. */
  readonly topP?: number;
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

export interface GenerateOptions extends SamplingOptions {
  readonly tokenizer?: Tokenizer;
  readonly engine?: EngineChoice | Engine;
  /** State that holds the model's weights: a trainer's, or that of another program. Initial values when absent. */
  readonly state?: StateStore;
}

export interface GeneratedToken {
  readonly token: number;
  /** Text that this token completed; empty while a character is incomplete. */
  readonly text: string;
}

/** The likeliest token, the first of equals; -1 where a logit is NaN. */
function argMax(logits: ArrayLike<number>): number {
  let best = 0;
  let top = Number.NEGATIVE_INFINITY;
  for (let token = 0; token < logits.length; token++) {
    const logit = logits[token]!;
    if (Number.isNaN(logit)) return -1;
    if (logit <= top) continue;
    top = logit;
    best = token;
  }
  return best;
}

function notNumbers(): EngineError {
  return new EngineError("generate", "the model's logits are NaN", {
    remedy: "its weights or its precision are at fault: look at the loss of the last training steps, or use fp32",
  });
}

/** The `count` likeliest tokens, likeliest first, ties by number: a short list kept in order takes a tenth of the time of sorting. */
function likeliest(logits: ArrayLike<number>, count: number): number[] {
  const best: number[] = [];
  let last = Number.NEGATIVE_INFINITY;
  for (let token = 0; token < logits.length; token++) {
    const logit = logits[token]!;
    if (best.length === count && !(logit > last)) continue;
    let at = best.length === count ? count - 1 : best.length;
    for (; at > 0 && logit > logits[best[at - 1]!]!; at--) best[at] = best[at - 1]!;
    best[at] = token;
    last = logits[best.at(-1)!]!;
  }
  return best;
}

/** Token of a place among all logits in falling order, where equal ones stand by their numbers. */
function tokenAt(place: number, falling: Float64Array, logits: ArrayLike<number>): number {
  const logit = falling[place]!;
  let before = place - falling.indexOf(logit);
  let token = 0;
  while (token < logits.length - 1 && !(logits[token] === logit && before-- === 0)) token++;
  return token;
}

/** Draws a token from logits. Exported for its test. @throws {EngineError} where one is NaN. */
export function sample(
  logits: ArrayLike<number>,
  random: number,
  { temperature = 1, topK, topP }: SamplingOptions,
): number {
  const first = argMax(logits);
  if (first < 0) throw notNumbers();
  if (temperature === 0) return first;
  const top = logits[first]!;
  // What may be drawn: all tokens as they come, or the likeliest in order. Many are ordered as plain numbers, which sort natively.
  const short = topK !== undefined && topK <= 64 ? likeliest(logits, topK) : undefined;
  const ordered = topK !== undefined || topP !== undefined;
  const falling = ordered && short === undefined ? new Float64Array(logits).sort().reverse() : undefined;
  const token = (place: number) => short?.[place] ?? (falling === undefined ? place : tokenAt(place, falling, logits));
  const values = short?.map((each) => logits[each]!) ?? falling ?? logits;
  const kept = Math.min(topK ?? values.length, values.length);
  const weights = new Float64Array(kept);
  let total = 0;
  for (let place = 0; place < kept; place++) {
    weights[place] = Math.exp((values[place]! - top) / temperature);
    total += weights[place]!;
  }
  let count = kept;
  let mass = total;
  if (topP !== undefined) {
    mass = 0;
    count = 0;
    while (count < kept && mass < topP * total) mass += weights[count++]!;
  }
  let rest = random * mass;
  for (let place = 0; place < count - 1; place++) {
    rest -= weights[place]!;
    if (rest < 0) return token(place);
  }
  // Rounding may leave a little: the last token that can be drawn.
  for (let place = count - 1; place > 0; place--) if (weights[place]! > 0) return token(place);
  return first;
}

function checkSampling({ maxTokens = 1, temperature = 1, topK = 1, topP = 1 }: SamplingOptions): void {
  if (!Number.isInteger(maxTokens) || maxTokens < 0)
    throw new ConfigError("generate", `maxTokens ${maxTokens} is not a non-negative integer`);
  if (!(temperature >= 0 && temperature < Number.POSITIVE_INFINITY))
    throw new ConfigError("generate", `temperature ${temperature} is negative or infinite`);
  if (!Number.isInteger(topK) || topK < 1) throw new ConfigError("generate", `topK ${topK} is not a positive integer`);
  if (!(topP > 0 && topP <= 1)) throw new ConfigError("generate", `topP ${topP} is outside (0, 1]`);
}

/** A model compiled for decoding; keeps its caches between calls. Disposable. */
export class TextGenerator implements Disposable {
  readonly #model: Gpt;
  readonly #tokenizer: Tokenizer;
  readonly #program: CompiledProgram;
  readonly #caches: readonly Tensor[];
  /** The engine, to be closed where it was opened here. */
  readonly #engine: Disposable;
  /** Logits of fp16 models as numbers. */
  readonly #logits: Float32Array;
  /** True while a text is being produced: the caches hold one text. */
  #active = false;

  private constructor(
    model: Gpt,
    tokenizer: Tokenizer,
    program: CompiledProgram,
    caches: readonly Tensor[],
    engine: Disposable,
  ) {
    this.#engine = engine;
    this.#caches = caches;
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#program = program;
    this.#logits = new Float32Array(model.dtype === "fp16" ? model.config.vocabSize : 0);
  }

  static async create(
    model: Gpt,
    { tokenizer = byteTokenizer, engine, state, signal }: GenerateOptions = {},
  ): Promise<TextGenerator> {
    const { sequenceLen, nLayer, nKvHead, nEmbd, nHead, vocabSize } = model.config;
    if (tokenizer.vocabSize > vocabSize) {
      throw new ConfigError(
        "generate",
        `tokenizer ${tokenizer.name} has ${tokenizer.vocabSize} tokens, the model ${vocabSize}`,
      );
    }
    const token = input([1, 1], { name: "token", dtype: "int32" });
    const oneHot = input([1, sequenceLen], { name: "position", dtype: model.dtype });
    const mask = input([1, sequenceLen], { name: "mask", dtype: model.dtype });
    const update = new Map<Tensor, Tensor>();
    const cache = (name: string) =>
      parameter(new Float32Array(nKvHead * sequenceLen * (nEmbd / nHead)), [nKvHead, sequenceLen, nEmbd / nHead], {
        name,
        dtype: model.dtype,
      });
    const caches = Array.from({ length: nLayer }, (_, layer) => {
      const [keys, values] = [cache(`cache.${layer}.keys`), cache(`cache.${layer}.values`)];
      const store = (nextKeys: Tensor, nextValues: Tensor) => void update.set(keys, nextKeys).set(values, nextValues);
      return { keys, values, store };
    });
    const { logits, residuals } = model.decode(token, { oneHot, mask }, caches);
    const borrowed = await borrowEngine(state?.use.engine ?? engine);
    try {
      // The Neural Engine has no gather: the CPU looks the token up in the same memory.
      const lookUp = { name: "look_up", on: "cpu", compute: residuals.slice(0, 1) };
      const program = await compile(
        { logits },
        {
          update,
          stages: [...(borrowed.engine.name === "ane" ? [lookUp] : []), { name: "decode" }],
          ...(signal !== undefined && { signal }),
          ...(state === undefined ? { engine: borrowed.engine } : { state }),
        },
      );
      return new TextGenerator(model, tokenizer, program, [...update.keys()], borrowed);
    } catch (error) {
      borrowed[Symbol.dispose]();
      throw error;
    }
  }

  get engine(): { readonly name: string; readonly reason: string } {
    return this.#program.engine;
  }

  /** Resident state: weights, and the caches. */
  get state(): StateStore {
    return this.#program.state;
  }

  /** Feeds one token at a position; logits of the next, fp16 as bit patterns. */
  async #decode(token: number, position: number, signal: AbortSignal | undefined): Promise<Float32Array | Uint16Array> {
    const { sequenceLen } = this.#model.config;
    const oneHot = new Float32Array(sequenceLen);
    oneHot[position] = 1;
    const mask = new Float32Array(sequenceLen).fill(maskedScore, position + 1);
    const feeds = { token: [token], position: oneHot, mask };
    const { logits } = await this.#program.run(feeds, { as: "bits", ...(signal !== undefined && { signal }) });
    return logits!.data as Float32Array | Uint16Array;
  }

  /** A vocabulary is long: its logits are converted only where the numbers are needed. */
  #draw(logits: Float32Array | Uint16Array, random: number, options: SamplingOptions): number {
    if (logits instanceof Float32Array) return sample(logits, random, options);
    if (options.temperature === 0) {
      const token = argMaxFloat16(logits);
      if (token < 0) throw notNumbers();
      return token;
    }
    unpackFloat16(logits, this.#logits);
    return sample(this.#logits, random, options);
  }

  /**
   * Continues a prompt. Once sequenceLen positions are full, decoding goes on from the last half of the text.
   * @throws {ConfigError} for an empty prompt or options out of range, {AbortedError} when the signal fires.
   */
  async *generate(prompt: string, options: SamplingOptions = {}): AsyncGenerator<GeneratedToken, void, void> {
    checkSampling(options);
    if (this.#active)
      throw new EngineError(
        "generate",
        "this generator is producing another text; finish it, or make a second generator",
      );
    this.#active = true;
    try {
      yield* this.#continue(prompt, options);
    } finally {
      this.#active = false;
    }
  }

  async *#continue(prompt: string, options: SamplingOptions): AsyncGenerator<GeneratedToken, void, void> {
    const { maxTokens = 256, seed = 0, signal } = options;
    const context = Array.from(this.#tokenizer.encode(prompt));
    if (context.length === 0) throw new ConfigError("generate", "the prompt is empty; give it at least one token");
    const { sequenceLen } = this.#model.config;
    const random = new RandomStream(seed, "sample");
    const decoder = this.#tokenizer.decoder();
    let fed: number[] = [];
    let pending = context.slice(-sequenceLen);
    let logits: Float32Array | Uint16Array = this.#logits;
    for (let made = 0; made < maxTokens; made++) {
      if (fed.length + pending.length > sequenceLen) {
        pending = [...fed, ...pending].slice(-Math.max(1, sequenceLen >> 1));
        fed = [];
      }
      for (const token of pending) {
        if (signal?.aborted) throw new AbortedError("generate", signal);
        logits = await this.#decode(token, fed.length, signal);
        fed.push(token);
      }
      const token = this.#draw(logits, random.at(made), options);
      pending = [token];
      yield { token, text: decoder.push(token) };
    }
    const rest = decoder.end();
    if (rest !== "") yield { token: -1, text: rest };
  }

  dispose(): void {
    this.#program.state.forget(this.#caches);
    this.#program.dispose();
    this.#engine[Symbol.dispose]();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Continues a prompt with a model: compiles, generates, disposes. */
export async function* generate(
  model: Gpt,
  prompt: string,
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedToken, void, void> {
  using generator = await TextGenerator.create(model, options);
  yield* generator.generate(prompt, options);
}
