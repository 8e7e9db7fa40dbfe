// Generation: the decoding program against the forward pass, sampling, text in pieces, interruption.

import { describe, expect, test } from "vitest";
import { RandomStream } from "../../src/core/random.ts";
import { byteTokenizer, type Tokenizer } from "../../src/data/tokenizer.ts";
import { AbortedError, ConfigError, compile, input, parameter, type Tensor } from "../../src/index.ts";
import { sample } from "../../src/models/generate.ts";
import { Gpt, type GptOptions, generate, type SamplingOptions, TextGenerator } from "../../src/models/index.ts";
import { maskedScore } from "../../src/nn/index.ts";
import { architectures, dtypeOf, losses, precisions, tinyGpt, tinyTrainer } from "../train/tiny.ts";

const shapes: readonly (readonly [string, Partial<GptOptions>])[] = [
  ["one head", { nHead: 1, nKvHead: 1 }],
  ["grouped queries 4/2", { nHead: 4, nKvHead: 2, nEmbd: 16 }],
  ["two layers, 2/1", { nLayer: 2 }],
];

const sequence = [3, 14, 1, 5, 9, 2, 6, 15];

/** Embeddings of ordinary size, so that attention has something to tell apart. */
function lively(model: Gpt, write: (tensor: Tensor, values: Float32Array) => void): void {
  for (const [name, tensor] of model.parameters) {
    const random = new RandomStream(5, name);
    const gain = name.endsWith("gamma");
    write(
      tensor,
      Float32Array.from({ length: tensor.size }, () => (gain ? 1 + 0.2 * random.normal() : 0.5 * random.normal())),
    );
  }
}

async function forwardLogits(model: Gpt, tokens: readonly number[]): Promise<number[][]> {
  const ids = input([1, tokens.length], { name: "tokens", dtype: "int32" });
  await using program = await compile({ logits: model.forward(ids).logits }, { engine: "sim" });
  lively(model, (tensor, values) => program.state.has(tensor) && program.state.write(tensor, values));
  return program.runSync({ tokens: tokens as number[] }).logits.toNested() as number[][];
}

describe("decoding with a cache has the logits of the forward pass", () => {
  for (const architecture of architectures) {
    for (const [title, options] of shapes) {
      for (const precision of ["fp32", "fp16"] as const) {
        test(`${architecture}, ${title}, ${precision}`, async () => {
          const model = tinyGpt(precision, { architecture, ...options });
          const { nLayer, nKvHead, nEmbd, nHead, sequenceLen } = model.config;
          const dtype = dtypeOf(precision);
          const token = input([1, 1], { name: "token", dtype: "int32" });
          const oneHot = input([1, sequenceLen], { name: "position", dtype });
          const mask = input([1, sequenceLen], { name: "mask", dtype });
          const update = new Map<Tensor, Tensor>();
          const caches = Array.from({ length: nLayer }, (_, layer) => {
            // What an earlier text left in the cache must not be seen.
            const cache = (name: string) =>
              parameter(
                new Float32Array((nKvHead * sequenceLen * nEmbd) / nHead).fill(7),
                [nKvHead, sequenceLen, nEmbd / nHead],
                { name: `${name}${layer}`, dtype },
              );
            const [keys, values] = [cache("keys"), cache("values")];
            return { keys, values, store: (k: Tensor, v: Tensor) => void update.set(keys, k).set(values, v) };
          });
          const { logits } = model.decode(token, { oneHot, mask }, caches);
          await using program = await compile({ logits }, { engine: "sim", update });
          lively(model, (tensor, values) => program.state.has(tensor) && program.state.write(tensor, values));
          const want = await forwardLogits(model, sequence);
          const bound = (precision === "fp32" ? 1e-5 : 0.03) * Math.max(...want.flat().map(Math.abs)); // fp16: some 30 roundings of 2^-11
          for (const [at, id] of sequence.entries()) {
            const position = new Float32Array(sequenceLen);
            position[at] = 1;
            const got = program.runSync({
              token: [id],
              position,
              mask: new Float32Array(sequenceLen).fill(maskedScore, at + 1),
            });
            for (const [i, x] of (got.logits.data as Float32Array).entries())
              expect(Math.abs(x - want[at]![i]!), `position ${at}`).toBeLessThanOrEqual(bound);
          }
        });
      }
    }
  }
});

/** Tokens are the letters a to p. */
const letters: Tokenizer = {
  name: "letters",
  vocabSize: 16,
  encode: (text) => Int32Array.from(text, (c) => c.charCodeAt(0) - 97),
  decode: (tokens) => Array.from(tokens, (t) => String.fromCharCode(97 + t)).join(""),
  decoder: () => ({ push: (t) => String.fromCharCode(97 + t), end: () => "" }),
};

async function lettersGenerator(options: Partial<GptOptions> = {}): Promise<TextGenerator> {
  const model = tinyGpt("fp32", options);
  const generator = await TextGenerator.create(model, { tokenizer: letters, engine: "sim" });
  lively(model, (tensor, values) => generator.state.has(tensor) && generator.state.write(tensor, values));
  return generator;
}

async function textOf(generator: TextGenerator, prompt: string, options: SamplingOptions = {}): Promise<string> {
  let text = "";
  for await (const piece of generator.generate(prompt, options)) text += piece.text;
  return text;
}

describe("generated text", () => {
  for (const architecture of architectures) {
    test(`at temperature 0 is what the forward pass calls likeliest, beyond sequenceLen from the last half on (${architecture})`, async () => {
      using generator = await lettersGenerator({ architecture });
      const got = await textOf(generator, "cob", { maxTokens: 24, temperature: 0 });
      const model = tinyGpt("fp32", { architecture });
      let window = [2, 14, 1];
      let want = "";
      for (let made = 0; made < 24; made++) {
        if (window.length > 8) window = window.slice(-4);
        const last = (await forwardLogits(model, window)).at(-1)!;
        const token = last.indexOf(Math.max(...last));
        want += String.fromCharCode(97 + token);
        window.push(token);
      }
      expect(got).toBe(want);
      expect(new Set(got).size).toBeGreaterThan(1);
    });
  }

  test("is the same for the same seed, call after call, and another for another seed", async () => {
    using generator = await lettersGenerator();
    using other = await lettersGenerator();
    const text = await textOf(generator, "abc", { maxTokens: 30, seed: 4 });
    expect(text).toHaveLength(30);
    expect(await textOf(generator, "abc", { maxTokens: 30, seed: 4 })).toBe(text);
    expect(await textOf(other, "abc", { maxTokens: 30, seed: 4 })).toBe(text);
    expect(await textOf(generator, "abc", { maxTokens: 30, seed: 5 })).not.toBe(text);
    expect(await textOf(generator, "abc", { maxTokens: 12, seed: 4 })).toBe(text.slice(0, 12));
  });

  test("at temperature 0, and with topK 1, depends on no seed", async () => {
    using generator = await lettersGenerator();
    const greedy = await textOf(generator, "abc", { maxTokens: 20, temperature: 0, seed: 1 });
    expect(await textOf(generator, "abc", { maxTokens: 20, temperature: 0, seed: 2 })).toBe(greedy);
    expect(await textOf(generator, "abc", { maxTokens: 20, topK: 1, seed: 3 })).toBe(greedy);
    expect(await textOf(generator, "abc", { maxTokens: 20, topP: 1e-9, seed: 3 })).toBe(greedy);
  });

  test("of a prompt longer than sequenceLen goes on from its end", async () => {
    using generator = await lettersGenerator();
    const options = { maxTokens: 5, temperature: 0 };
    expect(await textOf(generator, "ponmlkjihgfedcba", options)).toBe(await textOf(generator, "hgfedcba", options));
  });

  test("has maxTokens tokens, none for 0", async () => {
    using generator = await lettersGenerator();
    expect(await textOf(generator, "a", { maxTokens: 0 })).toBe("");
    expect(await textOf(generator, "a", { maxTokens: 3 })).toHaveLength(3);
  });

  test("comes with whole characters only", async () => {
    // No block does anything; position p says byte p of the script.
    const script = [...new TextEncoder().encode("é€!"), 0xf0, 0x9f];
    const model = new Gpt(
      { architecture: "gpt2", vocabSize: 256, sequenceLen: 9, nLayer: 1, nHead: 1, nEmbd: 16 },
      { dtype: "fp32" },
    );
    using generator = await TextGenerator.create(model, { engine: "sim" });
    for (const [name, tensor] of model.parameters) {
      const values = new Float32Array(tensor.size);
      if (name.endsWith("gamma")) values.fill(1);
      if (name === "wte.weight") for (const [k, byte] of script.entries()) values[16 * byte + k] = 1;
      if (name === "wpe.weight") for (let p = 0; p < script.length; p++) values[16 * p + p] = 50;
      generator.state.write(tensor, values);
    }
    const pieces = async (maxTokens: number) => {
      const list: string[] = [];
      for await (const { text } of generator.generate("a", { maxTokens, temperature: 0 })) list.push(text);
      return list;
    };
    expect(await pieces(6)).toEqual(["", "é", "", "", "€", "!"]);
    expect(await pieces(4)).toEqual(["", "é", "", "", "\ufffd"]); // what was held back comes at the end
    expect((await pieces(8)).at(-1)).toBe("\ufffd");
  });

  test("comes from the state of a trainer, which goes on as if nothing had been", async () => {
    const model = new Gpt(
      { vocabSize: 256, sequenceLen: 8, nLayer: 1, nHead: 2, nEmbd: 8, hiddenDim: 16 },
      { dtype: "fp16" },
    );
    using trainer = await tinyTrainer("mixed", { model });
    using plain = await tinyTrainer("mixed", { model: new Gpt(model.config, { dtype: "fp16" }) });
    const want = await losses(plain, 8);
    const got = await losses(trainer, 4);
    const generator = await TextGenerator.create(model, { state: trainer.state });
    const early = await textOf(generator, "hello", { maxTokens: 12, temperature: 0.1 });
    got.push(...(await losses(trainer, 2)));
    const late = await textOf(generator, "hello", { maxTokens: 12, temperature: 0.1 });
    generator.dispose();
    got.push(...(await losses(trainer, 2)));
    expect(got).toEqual(want);
    expect(late).not.toBe(early); // it sees the weights of now
  });

  test.each(precisions.filter((precision) => precision !== "mixed"))("is made in %s without NaN", async (precision) => {
    const model = tinyGpt(precision, { vocabSize: 256 });
    let count = 0;
    for await (const { token } of generate(model, "x", { maxTokens: 20, engine: "sim", seed: 1 })) {
      if (token >= 0) count++;
      expect(Number.isInteger(token)).toBe(true);
    }
    expect(count).toBe(20);
  });
});

describe("generation is refused or stopped", () => {
  test("by a signal: before, in between, and inside a token", async () => {
    using generator = await lettersGenerator();
    const controller = new AbortController();
    const seen: string[] = [];
    const run = async () => {
      for await (const { text } of generator.generate("abc", { maxTokens: 50, signal: controller.signal })) {
        seen.push(text);
        if (seen.length === 3) controller.abort(new Error("enough"));
      }
    };
    await expect(run()).rejects.toThrow(AbortedError);
    expect(seen).toHaveLength(3);
    await expect(run()).rejects.toMatchObject({ cause: { message: "enough" } });
    expect(seen).toHaveLength(3);
    // The generator is none the worse.
    using fresh = await lettersGenerator();
    expect(await textOf(generator, "abc", { maxTokens: 9 })).toBe(await textOf(fresh, "abc", { maxTokens: 9 }));
  });

  test.each([
    ["an empty prompt", "", {}, /prompt is empty/],
    ["a negative temperature", "a", { temperature: -1 }, /temperature -1/],
    ["a temperature that is no number", "a", { temperature: Number.NaN }, /temperature NaN/],
    ["an infinite temperature", "a", { temperature: Number.POSITIVE_INFINITY }, /temperature Infinity/],
    ["topK 0", "a", { topK: 0 }, /topK 0/],
    ["half a topK", "a", { topK: 1.5 }, /topK 1.5/],
    ["topP 0", "a", { topP: 0 }, /topP 0/],
    ["topP above 1", "a", { topP: 1.1 }, /topP 1.1/],
    ["maxTokens below 0", "a", { maxTokens: -1 }, /maxTokens -1/],
    ["half a maxTokens", "a", { maxTokens: 0.5 }, /maxTokens 0.5/],
  ] as const)("%s", async (_, prompt, options, message) => {
    using generator = await lettersGenerator();
    await expect(textOf(generator, prompt, options)).rejects.toThrow(message);
    await expect(textOf(generator, prompt, options)).rejects.toThrow(ConfigError);
  });

  test("for a tokenizer with more tokens than the model", async () => {
    await expect(TextGenerator.create(tinyGpt("fp32"), { tokenizer: byteTokenizer })).rejects.toThrow(
      /256 tokens, the model 16/,
    );
  });
});

describe("sample", () => {
  const logits = [1, 3, Number.NEGATIVE_INFINITY, 2, 0];
  const probabilities = (temperature: number, kept: readonly number[]) => {
    const weights = logits.map((x, i) => (kept.includes(i) ? Math.exp(x / temperature) : 0));
    const total = weights.reduce((a, b) => a + b);
    return weights.map((w) => w / total);
  };
  /** Frequencies over an even grid of random numbers: exact to a grid step and an edge for every token. */
  const frequencies = (options: SamplingOptions) => {
    const counts = new Array<number>(logits.length).fill(0);
    for (let i = 0; i < 20_000; i++) counts[sample(logits, (i + 0.5) / 20_000, options)]!++;
    return counts.map((count) => count / 20_000);
  };

  test.each([{ temperature: 0 }, {}, { topK: 2 }, { topK: 70 }, { topP: 0.5 }])("refuses NaN, with %o", (options) => {
    expect(() => sample([1, Number.NaN, 2], 0.5, options)).toThrow(/logits are NaN; .*loss/);
  });

  test.each([
    ["everything at temperature 1", {}, 1, [0, 1, 3, 4]],
    ["flatter at temperature 3", { temperature: 3 }, 3, [0, 1, 3, 4]],
    ["sharper at temperature 0.3", { temperature: 0.3 }, 0.3, [0, 1, 3, 4]],
    ["the two likeliest with topK 2", { topK: 2 }, 1, [1, 3]],
    ["everything with a topK beyond the vocabulary", { topK: 100 }, 1, [0, 1, 3, 4]],
    ["the fewest that reach topP 0.6", { topP: 0.6 }, 1, [1]], // the first alone has 0.644
    ["the fewest that reach topP 0.7", { topP: 0.7 }, 1, [1, 3]],
    ["the fewest that reach topP 0.9", { topP: 0.9 }, 1, [1, 3, 0]],
    ["everything with topP 1", { topP: 1 }, 1, [0, 1, 3, 4]],
    ["topP within topK", { topK: 2, topP: 0.7 }, 1, [1]], // of the two kept, the first has 0.73
    ["topP at the temperature", { temperature: 3, topP: 0.6 }, 3, [1, 3]],
  ] as const)("draws %s", (_, options, temperature, kept) => {
    const want = probabilities(temperature, kept);
    for (const [i, frequency] of frequencies(options).entries())
      expect(Math.abs(frequency - want[i]!)).toBeLessThan(2e-4);
  });

  test("takes the first of the likeliest at temperature 0, whatever the random number", () => {
    for (const random of [0, 0.5, 1 - 2 ** -53]) expect(sample([1, 5, 5, 2], random, { temperature: 0 })).toBe(1);
  });

  test.each([
    {},
    { topK: 5 },
    { topK: 64 },
    { topK: 65 },
    { topK: 1000 },
    { topP: 0.3 },
    { topP: 0.99 },
    { topK: 100, topP: 0.5 },
  ])("draws with %o as from all tokens sorted by logit, then by number", (options) => {
    const stream = new RandomStream(3, "sample");
    const some = Float32Array.from({ length: 300 }, () => Math.round(8 * stream.normal()) / 8 || -0); // many are equal
    const { topK, topP }: SamplingOptions = options;
    const ordered = topK !== undefined || topP !== undefined;
    const tokens = Array.from(some.keys());
    const kept = ordered ? tokens.sort((a, b) => some[b]! - some[a]! || a - b).slice(0, topK) : tokens;
    const weights = kept.map((token) => Math.exp(some[token]!));
    const sum = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);
    let count = kept.length;
    if (topP !== undefined) for (count = 1; sum(weights.slice(0, count)) < topP * sum(weights); count++);
    for (let i = 0; i < 200; i++) {
      const random = (i + 0.5) / 200;
      const mass = random * sum(weights.slice(0, count));
      let place = 0;
      while (sum(weights.slice(0, place + 1)) <= mass) place++;
      expect(sample(some, random, options)).toBe(kept[place]);
    }
  });

  test("never draws what is impossible, at either end of the random numbers", () => {
    for (const random of [0, 1 - 2 ** -53]) {
      expect(sample([Number.NEGATIVE_INFINITY, 0, Number.NEGATIVE_INFINITY], random, {})).toBe(1);
      expect(sample([0, 0, Number.NEGATIVE_INFINITY], random, { temperature: 1e-300 })).toBeLessThan(2);
    }
  });

  test("keeps no more than what reaches topP exactly", () => {
    for (const random of [0, 0.5, 1 - 2 ** -53]) {
      expect(sample([0, 0], random, { topP: 0.5 })).toBe(0);
      expect(sample([0, 0, 0, 0], random, { topP: 0.75 })).toBeLessThan(3);
    }
  });

  test("reads typed arrays and large logits", () => {
    expect(sample(Float32Array.of(60000, -60000), 0.999, {})).toBe(0);
    expect(sample(Float32Array.of(-60000, -59999), 0.1, { topK: 1 })).toBe(1);
  });
});

describe("model configurations", () => {
  const options = { vocabSize: 16, sequenceLen: 8, nLayer: 1, nHead: 2, nEmbd: 8 };

  test.each([
    ["heads that do not divide", { nHead: 3 }, /nHead 3 does not divide nEmbd 8/],
    ["key heads that do not divide", { nHead: 4, nKvHead: 3 }, /nKvHead 3 does not divide nHead 4/],
    ["odd head widths for rotation", { nEmbd: 6 }, /head width 3 is odd/],
    ["no layers", { nLayer: 0 }, /nLayer/],
    ["half a vocabulary", { vocabSize: 0.5 }, /vocabSize/],
    ["an unknown architecture", { architecture: "rnn" as "llama" }, /architecture/],
    ["a NaN width", { nEmbd: Number.NaN }, /nEmbd/],
  ] as const)("refuse %s", (_, extra, message) => {
    expect(() => new Gpt({ ...options, ...extra })).toThrow(message);
    expect(() => new Gpt({ ...options, ...extra })).toThrow(ConfigError);
  });

  test("let GPT-2 have odd head widths", () => {
    expect(new Gpt({ ...options, nEmbd: 6, architecture: "gpt2" }).config.hiddenDim).toBe(24);
  });

  test("refuse more positions than sequenceLen", () => {
    expect(() => new Gpt(options).forward(input([1, 9], { dtype: "int32" }))).toThrow(
      /9 positions exceed sequenceLen 8/,
    );
  });

  test("start the same for the same seed, and by name, not by order or dtype", () => {
    const initial = (model: Gpt, name: string) => {
      const { node } = model.parameters.get(name)!;
      if (node.kind !== "parameter") throw new Error(`${name} is no parameter`);
      return typeof node.initial === "number" ? [node.initial] : Array.from(node.initial);
    };
    const [a, b] = [new Gpt(options, { seed: 3 }), new Gpt({ ...options, nLayer: 3 }, { seed: 3, dtype: "fp32" })];
    for (const name of ["wte.weight", "blocks.0.attn.wq.weight", "norm.gamma"])
      expect(initial(b, name)).toEqual(initial(a, name));
    expect(initial(new Gpt(options, { seed: 4 }), "wte.weight")).not.toEqual(initial(a, "wte.weight"));
    const wte = initial(new Gpt({ ...options, vocabSize: 1024, nEmbd: 32 }), "wte.weight");
    const std = Math.sqrt(wte.reduce((s, x) => s + x * x, 0) / wte.length);
    expect(Math.abs(std * Math.sqrt(32) - 1)).toBeLessThan(0.02); // 32768 normal numbers: within five standard errors
  });
});
