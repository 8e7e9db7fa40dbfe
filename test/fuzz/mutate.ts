// Damaged MIL text: what a careless or hostile hand would do to a good program.

import type { Dice } from "./generate.ts";

const nastyNumbers = [
  "0",
  "-1",
  "1",
  "2",
  "3",
  "5",
  "7",
  "64",
  "65536",
  "1000000",
  "2147483647",
  "2147483648",
  "-2147483648",
  "4294967295",
  "4294967296",
  "9007199254740993",
  "99999999999999999999",
  "1e308",
  "1e-400",
  "1.5",
  "-0",
  "0x1p+2000",
  "0x1.8p-1",
  "nan",
  "inf",
  "-inf",
  "0x",
  "1e",
  "--1",
];
const nastyNames = [
  "constructor",
  "__proto__",
  "toString",
  "hasOwnProperty",
  "valueOf",
  "prototype",
  "length",
  "x",
  "y0",
  "values",
  "tensor",
  "BLOBFILE",
  "fp16",
  "fp32",
  "int32",
  "bool",
  "string",
  "uint64",
  "int4",
  "fp64",
  "true",
  "false",
  "const",
  "split",
  "gather",
  "matmul",
  "conv",
  "reduce_argmax",
];
const pieces = [
  "(",
  ")",
  "[",
  "]",
  "{",
  "}",
  "<",
  ">",
  "=",
  ",",
  ";",
  "->",
  '"',
  "\\",
  "\0",
  "\u{1f600}",
  "\ud800",
  "/*",
  "//",
  "\n",
  "\r",
  "(".repeat(5000),
  "[".repeat(5000),
  "é",
  "@",
];

const tokenPattern = /[A-Za-z_][A-Za-z0-9_@]*|-?0x[0-9a-fA-F.]+p[+-]?\d+|-?\d+(?:\.\d+)?|"[^"\n]*"|->|[()[\]{}<>=,;]/g;

interface Token {
  readonly start: number;
  readonly end: number;
  readonly text: string;
}

function tokensOf(text: string): Token[] {
  return [...text.matchAll(tokenPattern)].map((match) => ({
    start: match.index,
    end: match.index + match[0].length,
    text: match[0],
  }));
}

function replace(text: string, { start, end }: { readonly start: number; readonly end: number }, by: string): string {
  return text.slice(0, start) + by + text.slice(end);
}

/** `text` with one kind of damage, which may by luck be none. */
export function mutate(text: string, dice: Dice): string {
  const tokens = tokensOf(text);
  if (tokens.length < 2) return text;
  const token = dice.pick(tokens);
  const numbers = tokens.filter((each) => /^-?\d/.test(each.text));
  const names = tokens.filter((each) => /^[A-Za-z_]/.test(each.text));
  const lines = text.split("\n");
  const at = dice.int(0, lines.length - 1);
  switch (dice.int(0, 13)) {
    case 0: {
      const place = dice.int(0, text.length - 1);
      return replace(
        text,
        { start: place, end: place + 1 },
        String.fromCharCode(text.charCodeAt(place) ^ (1 << dice.int(0, 7))),
      );
    }
    case 1:
      return replace(text, token, "");
    case 2:
      return replace(text, token, `${token.text} ${token.text}`);
    case 3: {
      const other = dice.pick(tokens);
      const [first, second] = token.start <= other.start ? [token, other] : [other, token];
      return replace(replace(text, second, first.text), first, second.text);
    }
    case 4:
    case 5:
    case 6:
      return numbers.length === 0 ? text : replace(text, dice.pick(numbers), dice.pick(nastyNumbers));
    case 7:
      return names.length === 0 ? text : replace(text, dice.pick(names), dice.pick(nastyNames));
    case 8:
      return names.length === 0 ? text : replace(text, dice.pick(names), dice.pick(names).text);
    case 9:
      return replace(text, { start: token.start, end: token.start }, dice.pick(pieces));
    case 10:
      return text.slice(0, dice.int(0, text.length));
    case 11:
      return [...lines.slice(0, at), ...lines.slice(at + 1)].join("\n");
    case 12:
      return [...lines.slice(0, at), lines[at]!, ...lines.slice(at)].join("\n");
    default: {
      // One number everywhere: shapes and attributes change together and stay consistent more often.
      if (numbers.length === 0) return text;
      const from = dice.pick(numbers).text;
      const to = dice.pick(nastyNumbers);
      return tokens.reduceRight((sum, each) => (each.text === from ? replace(sum, each, to) : sum), text);
    }
  }
}
