// Token data sets for language models: text files to tokens, windows fixed by seed, step and row, a split, a baseline.
// T is the window length (sequenceLen), B the batch size.

import { open } from "node:fs/promises";
import { ConfigError, FileError } from "../core/errors.ts";
import { RandomStream } from "../core/random.ts";
import { fileError } from "./bytes.ts";
import { byteTokenizer, decodeUtf8, encodeBytes, type TokenArray, type Tokenizer } from "./tokenizer.ts";

/** What the model sees and what it must predict: `targets[t]` is the token after `inputs[t]`. */
export interface TokenWindow {
  /** [T] in a window, [B, T] row-major in a batch. */
  readonly inputs: Int32Array<ArrayBuffer>;
  readonly targets: Int32Array<ArrayBuffer>;
}

/**
 * Tokens of a text file.
 * @throws FileError if the file is missing, a folder, unreadable, empty, or not UTF-8 (with the byte's offset);
 * ConfigError if the tokenizer returns a token outside its vocabulary.
 */
export async function loadTextFile(path: string, tokenizer: Tokenizer = byteTokenizer): Promise<TokenArray> {
  const bytes = await readWhole(path);
  if (bytes.length === 0) throw new FileError(path, "is empty", { remedy: "give a file with text" });
  if (tokenizer === byteTokenizer) return encodeBytes(bytes, path);
  const tokens = tokenizer.encode(decodeUtf8(bytes, path));
  checkTokens(`tokenizer ${tokenizer.name}`, tokens, tokenizer.vocabSize);
  return newTokens(tokenizer.vocabSize, tokens);
}

/**
 * Tokens of several text files, one after the other in the order given, nothing between them.
 * @throws ConfigError if there is no path; otherwise as {@link loadTextFile}.
 */
export async function loadTextFiles(
  paths: readonly string[],
  tokenizer: Tokenizer = byteTokenizer,
): Promise<TokenArray> {
  if (paths.length === 0)
    throw new ConfigError("loadTextFiles", "no file was given", { remedy: "name one with --data" });
  const parts: TokenArray[] = [];
  for (const path of paths) parts.push(await loadTextFile(path, tokenizer));
  if (parts.length === 1) return parts[0]!;
  const all = newTokens(
    tokenizer.vocabSize,
    parts.reduce((sum, part) => sum + part.length, 0),
  );
  let position = 0;
  for (const part of parts) {
    all.set(part, position);
    position += part.length;
  }
  return all;
}

/** Tokens from which windows are cut. Which window a row of a step sees depends on seed, step and row alone. */
export class TokenDataset {
  readonly name: string;
  readonly tokens: TokenArray;
  readonly sequenceLen: number;
  readonly vocabSize: number;

  /**
   * @param tokens Kept, not copied.
   * @throws ConfigError if `sequenceLen` or `vocabSize` is no positive integer, there are fewer than sequenceLen + 1 tokens,
   * or one is outside [0, vocabSize).
   */
  constructor(tokens: TokenArray, options: { sequenceLen: number; vocabSize: number; name?: string }) {
    const { sequenceLen, vocabSize, name = "tokens" } = options;
    const where = `data set ${name}`;
    checkCount(where, "sequenceLen", sequenceLen, 1);
    checkCount(where, "vocabSize", vocabSize, 1);
    if (tokens.length < sequenceLen + 1) {
      const less = tokens.length > 1 ? `set --seq-len to at most ${tokens.length - 1}, or give` : "give";
      const what = `${tokens.length} tokens are fewer than the ${sequenceLen + 1} of one window with sequenceLen ${sequenceLen}`;
      throw new ConfigError(where, what, { limit: sequenceLen + 1, remedy: `${less} more text` });
    }
    checkTokens(where, tokens, vocabSize);
    this.name = name;
    this.tokens = tokens;
    this.sequenceLen = sequenceLen;
    this.vocabSize = vocabSize;
  }

  /** A window [T] at a random place. @throws ConfigError unless seed, step and row are integers of at least 0. */
  windowAt(seed: number, step: number, row: number): TokenWindow {
    const inputs = new Int32Array(this.sequenceLen);
    const targets = new Int32Array(this.sequenceLen);
    this.#copy(this.#startAt(seed, step, row), inputs, targets, 0);
    return { inputs, targets };
  }

  /** Rows 0 to batchSize - 1 of a step, [B, T]. @throws ConfigError as {@link windowAt}, or if batchSize is no positive integer. */
  batch(seed: number, step: number, batchSize: number): TokenWindow {
    checkCount(`data set ${this.name}`, "batchSize", batchSize, 1);
    const inputs = new Int32Array(batchSize * this.sequenceLen);
    const targets = new Int32Array(batchSize * this.sequenceLen);
    for (let row = 0; row < batchSize; row++) {
      this.#copy(this.#startAt(seed, step, row), inputs, targets, row * this.sequenceLen);
    }
    return { inputs, targets };
  }

  /**
   * Windows [T] for validation, from the start on, whose targets do not overlap; every token but the first and a rest is predicted once.
   * With `maxWindows`, at most so many of them, evenly spread.
   * @throws ConfigError if `maxWindows` is no positive integer.
   */
  sequentialWindows(maxWindows?: number): TokenWindow[] {
    if (maxWindows !== undefined) checkCount(`data set ${this.name}`, "maxWindows", maxWindows, 1);
    const available = Math.floor((this.tokens.length - 1) / this.sequenceLen);
    const count = Math.min(available, maxWindows ?? available);
    return Array.from({ length: count }, (_, i) => {
      const inputs = new Int32Array(this.sequenceLen);
      const targets = new Int32Array(this.sequenceLen);
      this.#copy(Math.floor((i * available) / count) * this.sequenceLen, inputs, targets, 0);
      return { inputs, targets };
    });
  }

  #startAt(seed: number, step: number, row: number): number {
    const where = `data set ${this.name}`;
    checkCount(where, "seed", seed, 0);
    checkCount(where, "step", step, 0);
    checkCount(where, "row", row, 0, 2 ** 32 - 2); // the sub-stream is a 32-bit word; its last value is taken
    const starts = this.tokens.length - this.sequenceLen;
    return Math.floor(new RandomStream(seed, "data.window").at(step, row) * starts);
  }

  #copy(start: number, inputs: Int32Array, targets: Int32Array, to: number): void {
    const end = start + this.sequenceLen;
    inputs.set(this.tokens.subarray(start, end), to);
    targets.set(this.tokens.subarray(start + 1, end + 1), to);
  }
}

/**
 * Splits tokens: the last part, `validationFraction` of them rounded down, is for validation. Both are views.
 * @throws ConfigError if the fraction is outside (0, 1) or a part holds no window of sequenceLen + 1 tokens.
 */
export function splitTokens<T extends TokenArray>(
  tokens: T,
  validationFraction: number,
  sequenceLen: number,
): { training: T; validation: T } {
  if (!(validationFraction > 0 && validationFraction < 1)) {
    throw new ConfigError("splitTokens", `validationFraction ${validationFraction} is not between 0 and 1`);
  }
  checkCount("splitTokens", "sequenceLen", sequenceLen, 1);
  const validation = Math.floor(tokens.length * validationFraction);
  const training = tokens.length - validation;
  if (Math.min(training, validation) < sequenceLen + 1) {
    const longest = Math.max(Math.min(training, validation) - 1, 0);
    const what = `${training} training and ${validation} validation tokens: each part needs ${sequenceLen + 1} for one window with sequenceLen ${sequenceLen}`;
    const less = longest > 0 ? `set --seq-len to at most ${longest}, give` : "give";
    const remedy = `${less} more text, or change the validation fraction of ${validationFraction}`;
    throw new ConfigError("splitTokens", what, { limit: sequenceLen + 1, remedy });
  }
  return { training: tokens.subarray(0, training) as T, validation: tokens.subarray(training) as T };
}

/**
 * Entropy in nats of the tokens' frequencies: the loss of a model that knows these and nothing else.
 * @throws ConfigError if there are no tokens or one is outside [0, vocabSize).
 */
export function unigramEntropy(tokens: TokenArray, vocabSize: number): number {
  checkCount("unigramEntropy", "vocabSize", vocabSize, 1);
  if (tokens.length === 0) throw new ConfigError("unigramEntropy", "there are no tokens");
  checkTokens("unigramEntropy", tokens, vocabSize);
  const counts = new Map<number, number>();
  for (const token of tokens) counts.set(token, (counts.get(token) ?? 0) + 1);
  let entropy = 0;
  for (const count of counts.values()) entropy -= (count / tokens.length) * Math.log(count / tokens.length);
  return entropy;
}

function checkCount(where: string, name: string, value: number, least: number, most = Number.MAX_SAFE_INTEGER): void {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return;
  throw new ConfigError(where, `${name} ${value} is not an integer from ${least} to ${most}`);
}

function checkTokens(where: string, tokens: TokenArray, vocabSize: number): void {
  for (let i = 0; i < tokens.length; i++) {
    if (tokens[i]! >= 0 && tokens[i]! < vocabSize) continue;
    const what = `token ${tokens[i]} at position ${i} is outside [0, ${vocabSize - 1}]`;
    throw new ConfigError(where, what, { limit: vocabSize, remedy: "use the tokenizer that the model was made for" });
  }
}

/** Tokens, or zeros for so many, in the narrowest array for the vocabulary. */
function newTokens(vocabSize: number, from: Int32Array | number): TokenArray {
  const Narrowest = vocabSize <= 2 ** 8 ? Uint8Array : vocabSize <= 2 ** 16 ? Uint16Array : Int32Array;
  return typeof from === "number" ? new Narrowest(from) : new Narrowest(from);
}

async function readWhole(path: string): Promise<Uint8Array> {
  try {
    const handle = await open(path, "r");
    try {
      const status = await handle.stat();
      if (status.isDirectory()) throw new FileError(path, "is a folder, not a file", { remedy: "name its files" });
      if (!status.isFile() && !status.isFIFO()) throw new FileError(path, "is not a file"); // a device may never end
      return await handle.readFile();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw error instanceof FileError ? error : fileError(path, error);
  }
}
