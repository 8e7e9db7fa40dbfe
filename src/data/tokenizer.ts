// Text to tokens and back: the tokenizer interface, the byte tokenizer, and strict UTF-8 for text that comes from files.

import { ConfigError, FileError } from "../core/errors.ts";

/** Tokens in the narrowest array that holds the vocabulary. */
export type TokenArray = Int32Array | Uint16Array | Uint8Array;

/** Turns a stream of tokens into text; holds back the bytes of a character until it is complete. */
export interface StreamingDecoder {
  /** Text that `token` completes, possibly "". @throws ConfigError if the token is outside the vocabulary. */
  push(token: number): string;
  /** What was held back, an incomplete character as U+FFFD; the decoder then starts anew. */
  end(): string;
}

/** Text to tokens in [0, vocabSize) and back. */
export interface Tokenizer {
  /** Name that a checkpoint records. */
  readonly name: string;
  readonly vocabSize: number;
  encode(text: string): Int32Array;
  /** Bytes that are not UTF-8 become U+FFFD. @throws ConfigError if a token is outside the vocabulary. */
  decode(tokens: Iterable<number>): string;
  decoder(): StreamingDecoder;
}

/** One token per UTF-8 byte; 256 tokens. A lone surrogate in a string encodes as U+FFFD. */
export const byteTokenizer: Tokenizer = {
  name: "bytes",
  vocabSize: 256,
  encode: (text) => Int32Array.from(new TextEncoder().encode(text)),
  decode(tokens) {
    const bytes: number[] = [];
    for (const token of tokens) bytes.push(checkByte(token, bytes.length));
    return newDecoder().decode(Uint8Array.from(bytes));
  },
  decoder() {
    const decoder = newDecoder();
    let position = 0;
    return {
      push: (token) => decoder.decode(Uint8Array.of(checkByte(token, position++)), { stream: true }),
      end() {
        position = 0;
        return decoder.decode();
      },
    };
  },
};

/**
 * Tokens of the byte tokenizer for the content of a text file: a copy of its bytes, which must be UTF-8.
 * @param where Name of the file for errors.
 * @throws FileError with the offset of the first byte that is not UTF-8.
 */
export function encodeBytes(bytes: Uint8Array, where = "text"): Uint8Array {
  checkUtf8(bytes, where);
  return new Uint8Array(bytes);
}

/**
 * Text of a file; a byte-order mark is kept as U+FEFF.
 * @param where Name of the file for errors.
 * @throws FileError with the offset of the first byte that is not UTF-8, or if the text is too long for one string.
 */
export function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    checkUtf8(bytes, where);
    throw new FileError(where, `${bytes.length} bytes are too long for one string`, {
      remedy: "split the file",
      cause,
    });
  }
}

/**
 * Offset of the first byte at which `bytes` stops being UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF),
 * or -1. An incomplete character is reported at its first byte.
 */
export function findInvalidUtf8(bytes: Uint8Array): number {
  const { length } = bytes;
  for (let i = 0; i < length; ) {
    const lead = bytes[i]!;
    if (lead < 0x80) {
      i++;
      continue;
    }
    const size = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (size === 0 || i + size > length) return i;
    const second = bytes[i + 1]!;
    const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80; // below: overlong
    const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf; // above: surrogates, beyond U+10FFFF
    if (second < low || second > high) return i;
    for (let k = 2; k < size; k++) if ((bytes[i + k]! & 0xc0) !== 0x80) return i;
    i += size;
  }
  return -1;
}

function checkUtf8(bytes: Uint8Array, where: string): void {
  const offset = findInvalidUtf8(bytes);
  if (offset === -1) return;
  const byte = `0x${bytes[offset]!.toString(16).padStart(2, "0")}`;
  throw new FileError(where, `is not UTF-8 text: byte ${byte} at offset ${offset} begins no valid character`, {
    remedy: `convert it with: iconv -f ISO-8859-1 -t UTF-8`,
  });
}

function newDecoder(): TextDecoder {
  return new TextDecoder("utf-8", { ignoreBOM: true }); // a byte-order mark is text like any other
}

function checkByte(token: number, position: number): number {
  if (Number.isInteger(token) && token >= 0 && token < 256) return token;
  throw new ConfigError("byteTokenizer", `token ${token} at position ${position} is outside [0, 255]`);
}
