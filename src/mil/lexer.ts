// Tokens of MIL text, one at a time, in a single pass that never looks back. Knows no grammar.

import { ParseError } from "../core/errors.ts";
import type { Position } from "./ast.ts";

type Punctuation = "(" | ")" | "[" | "]" | "{" | "}" | "<" | ">" | "=" | "," | ";" | "->";

/** A punctuation token's kind is its text. */
export type TokenKind = Punctuation | "name" | "number" | "string" | "end";

/** Longest identifier. */
export const maxNameLength = 256;

const maxQuote = 40; // characters of the text that an error message repeats

const nameStart = 1;
const digit = 2;
const space = 4;

/** Classes of the ASCII characters. Names follow Core ML's MIL.proto: [A-Za-z_][A-Za-z0-9_@]*. */
const classes = new Uint8Array(128);
for (let code = 0; code < 128; code++) {
  const char = String.fromCharCode(code);
  if ((char >= "a" && char <= "z") || (char >= "A" && char <= "Z") || char === "_") classes[code] = nameStart;
  else if (char >= "0" && char <= "9") classes[code] = digit;
  else if (char === " " || char === "\t" || char === "\n" || char === "\r") classes[code] = space;
}

function classOf(code: number): number {
  return code < 128 ? classes[code]! : 0; // NaN, behind the end, is not below 128
}

function isNamePart(code: number): boolean {
  return (classOf(code) & (nameStart | digit)) !== 0 || code === 64;
}

/** Whether `text` is a legal identifier. */
export function isMilName(text: string): boolean {
  if (text.length > maxNameLength || (classOf(text.charCodeAt(0)) & nameStart) === 0) return false;
  for (let i = 1; i < text.length; i++) if (!isNamePart(text.charCodeAt(i))) return false;
  return true;
}

/** `text` in quotes, cut to what fits a message, with control characters escaped. */
export function quote(text: string): string {
  return JSON.stringify(text.length > maxQuote ? `${text.slice(0, maxQuote)}…` : text);
}

const escapes: Readonly<Record<string, string>> = {
  n: "\n",
  t: "\t",
  r: "\r",
  "0": "\0",
  a: "\x07",
  b: "\b",
  f: "\f",
  v: "\v",
  "\\": "\\",
  '"': '"',
  "'": "'",
};

/** Holds the current token; `advance` moves to the next. */
export class Lexer {
  kind: TokenKind = "end";
  /** Text of a name or a number, decoded content of a string, otherwise empty. */
  text = "";
  readonly #source: string;
  readonly #file: string;
  #at = 0; // behind the current token
  #start = 0; // of the current token
  #line = 1;
  #lineStart = 0;

  constructor(source: string, file: string) {
    this.#source = source;
    this.#file = file;
    if (source.charCodeAt(0) === 0xfeff) this.#at = 1; // byte order mark
    this.advance();
  }

  /** Where the current token starts. Tokens do not span lines. */
  position(): Position {
    return { line: this.#line, column: this.#start - this.#lineStart + 1 };
  }

  /** An error at the current token, or at `at`. */
  error(what: string, at: Position = this.position()): ParseError {
    return new ParseError(this.#file, at.line, at.column, what);
  }

  /** An error that names what should be at the current token, and what is. */
  expected(what: string): ParseError {
    return this.error(`expected ${what}, found ${this.describe()}`);
  }

  /** Whether the current token is of `kind`. */
  is(kind: TokenKind): boolean {
    return this.kind === kind;
  }

  describe(): string {
    if (this.kind === "end") return "the end of the text";
    if (this.kind === "string") return `the string ${quote(this.text)}`;
    return quote(this.kind === "name" || this.kind === "number" ? this.text : this.kind);
  }

  advance(): void {
    this.#skipBlanks();
    const source = this.#source;
    const start = this.#at;
    this.#start = start;
    this.text = "";
    if (start >= source.length) {
      this.kind = "end";
      return;
    }
    const code = source.charCodeAt(start);
    const kind = classOf(code);
    if (kind === nameStart) this.#name();
    else if (kind === digit) this.#number(start);
    else this.#symbol(source.charAt(start));
  }

  #symbol(char: string): void {
    const next = this.#start + 1;
    switch (char) {
      case "(":
      case ")":
      case "[":
      case "]":
      case "{":
      case "}":
      case "<":
      case ">":
      case "=":
      case ",":
      case ";":
        this.kind = char;
        this.#at = next;
        break;
      case '"':
        this.#string();
        break;
      case "-":
        if (this.#source.charCodeAt(next) === 62) {
          this.kind = "->";
          this.#at = next + 1;
        } else {
          this.#number(next);
        }
        break;
      case "+":
      case ".":
        this.#number(next);
        break;
      default: {
        const whole = String.fromCodePoint(this.#source.codePointAt(this.#start)!);
        throw this.error(`expected a token, found the character ${quote(whole)}`);
      }
    }
  }

  #skipBlanks(): void {
    const source = this.#source;
    let at = this.#at;
    for (;;) {
      const code = source.charCodeAt(at);
      if (code === 32) {
        at++;
      } else if (classOf(code) === space) {
        at = this.#newLine(at);
      } else if (code === 47 && source.charCodeAt(at + 1) === 47) {
        at += 2;
        while (at < source.length && !isLineEnd(source.charCodeAt(at))) at++;
      } else if (code === 47 && source.charCodeAt(at + 1) === 42) {
        at = this.#skipComment(at);
      } else {
        this.#at = at;
        return;
      }
    }
  }

  /** Steps over one character and, if it ends a line, counts the line; "\r\n" ends one line. */
  #newLine(at: number): number {
    const code = this.#source.charCodeAt(at);
    at++;
    if (code === 10 || (code === 13 && this.#source.charCodeAt(at) !== 10)) {
      this.#line++;
      this.#lineStart = at;
    }
    return at;
  }

  #skipComment(at: number): number {
    const source = this.#source;
    this.#start = at;
    const open = this.position();
    at += 2;
    while (source.charCodeAt(at) !== 42 || source.charCodeAt(at + 1) !== 47) {
      if (at >= source.length) throw this.error('expected "*/", found the end of the text in a comment', open);
      at = this.#newLine(at);
    }
    return at + 2;
  }

  #name(): void {
    const source = this.#source;
    let at = this.#start + 1;
    while (isNamePart(source.charCodeAt(at))) at++;
    if (at - this.#start > maxNameLength) {
      throw this.error(`expected a name of at most ${maxNameLength} characters, found one of ${at - this.#start}`);
    }
    this.kind = "name";
    this.text = source.slice(this.#start, at);
    this.#at = at;
  }

  /** Takes everything that may belong to a number; whether it is one, the parser decides. `at` is behind a sign or point. */
  #number(at: number): void {
    const source = this.#source;
    for (; ; at++) {
      const code = source.charCodeAt(at);
      if (isNamePart(code) || code === 46) continue;
      if ((code === 43 || code === 45) && this.#exponentEnds(at)) continue;
      break;
    }
    this.text = source.slice(this.#start, at);
    if (this.text.length === 1 && classOf(source.charCodeAt(this.#start)) !== digit) {
      throw this.error(`expected a token, found the character ${quote(this.text)}`);
    }
    this.kind = "number";
    this.#at = at;
  }

  /** Whether the sign at `at` belongs to the exponent of the number at the current token. */
  #exponentEnds(at: number): boolean {
    const source = this.#source;
    const sign = classOf(source.charCodeAt(this.#start)) === 0 ? 1 : 0;
    const hex = (source.charCodeAt(this.#start + sign + 1) | 32) === 120;
    return at > this.#start + 1 && (source.charCodeAt(at - 1) | 32) === (hex ? 112 : 101);
  }

  #string(): void {
    const source = this.#source;
    let text = "";
    let at = this.#start + 1;
    let from = at; // of the characters not yet in `text`
    for (;;) {
      const code = source.charCodeAt(at);
      if (code === 34) break;
      if (at >= source.length || isLineEnd(code)) {
        throw this.error(`expected '"' before the end of the line, found a string without one`);
      }
      if (code !== 92) {
        at++;
        continue;
      }
      text += source.slice(from, at);
      const letter = source.charAt(at + 1);
      const length = letter === "x" ? 2 : letter === "u" ? 4 : 0;
      const plain = Object.hasOwn(escapes, letter) ? escapes[letter] : undefined;
      const hex = source.slice(at + 2, at + 2 + length);
      if (plain !== undefined) text += plain;
      else if (length > 0 && hex.length === length && isHex(hex)) text += String.fromCharCode(Number.parseInt(hex, 16));
      else {
        const column = at - this.#lineStart + 1;
        throw this.error(`expected an escape such as \\n, \\" or \\x1f, found ${quote(`\\${letter}${hex}`)}`, {
          line: this.#line,
          column,
        });
      }
      at += 2 + length;
      from = at;
    }
    this.kind = "string";
    this.text = text + source.slice(from, at);
    this.#at = at + 1;
  }
}

function isLineEnd(code: number): boolean {
  return code === 10 || code === 13;
}

function isHex(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const letter = text.charCodeAt(i) | 32;
    if (classOf(text.charCodeAt(i)) !== digit && (letter < 97 || letter > 102)) return false;
  }
  return true;
}
