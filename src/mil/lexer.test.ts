import { describe, expect, it } from "vitest";
import { ParseError } from "../core/errors.ts";
import { isMilName, Lexer } from "./lexer.ts";

function tokens(text: string): string[] {
  const lex = new Lexer(text, "t");
  const found: string[] = [];
  for (; lex.kind !== "end"; lex.advance()) {
    const { line, column } = lex.position();
    found.push(`${line}:${column} ${lex.kind} ${lex.text}`.trimEnd());
  }
  return found;
}

function messageOf(text: string): string {
  try {
    tokens(text);
  } catch (error) {
    expect(error).toBeInstanceOf(ParseError);
    return (error as ParseError).message;
  }
  throw new Error(`no error for ${text}`);
}

describe("Lexer", () => {
  it("splits names, numbers, strings and punctuation and knows where they are", () => {
    expect(tokens('tensor<fp16, [1]>\r\n\t-> "a b";\rx=-1.5e-3 +0x1p+2-> -inf .5')).toEqual([
      ...["1:1 name tensor", "1:7 <", "1:8 name fp16", "1:12 ,", "1:14 [", "1:15 number 1", "1:16 ]", "1:17 >"],
      ...["2:2 ->", "2:5 string a b", "2:10 ;", "3:1 name x", "3:2 =", "3:3 number -1.5e-3", "3:11 number +0x1p+2"],
      ...["3:18 ->", "3:21 number -inf", "3:26 number .5"],
    ]);
  });

  it("takes a sign into a number only where an exponent may have one", () => {
    expect(tokens("1-2 0x1e-2 1e-2 0x1p-2")).toEqual([
      ...[
        "1:1 number 1",
        "1:2 number -2",
        "1:5 number 0x1e",
        "1:9 number -2",
        "1:12 number 1e-2",
        "1:17 number 0x1p-2",
      ],
    ]);
  });

  it("skips comments of both kinds and a byte order mark", () => {
    expect(tokens("\ufeffa // b /* \n/* // \n * / \n ** */c/**/d//")).toEqual([
      "1:2 name a",
      "4:7 name c",
      "4:12 name d",
    ]);
  });

  it("decodes escapes", () => {
    expect(tokens(String.raw`"\\\"\n\t\r\0\x41\u00e9\/"`.replace("\\/", "é"))).toEqual(['1:1 string \\"\n\t\r\0Aéé']);
  });

  it("refuses what is no token, with its place", () => {
    for (const [text, message] of [
      ["a\n $", 't:2:2: expected a token, found the character "$"'],
      ["😀", 't:1:1: expected a token, found the character "😀"'],
      ["é", 't:1:1: expected a token, found the character "é"'],
      ["\u00a0", 't:1:1: expected a token, found the character "\u00a0"'],
      ["- 1", 't:1:1: expected a token, found the character "-"'],
      ["a .", 't:1:3: expected a token, found the character "."'],
      ["/", 't:1:1: expected a token, found the character "/"'],
      ["a /* b\n*", 't:1:3: expected "*/", found the end of the text in a comment'],
      ['a "b', "t:1:3: expected '\"' before the end of the line, found a string without one"],
      ['"b\n"', "t:1:1: expected '\"' before the end of the line, found a string without one"],
      ['"b\\"', "t:1:1: expected '\"' before the end of the line, found a string without one"],
      ['"b\\', 't:1:3: expected an escape such as \\n, \\" or \\x1f, found "\\\\"'],
      ['"b\\q"', 't:1:3: expected an escape such as \\n, \\" or \\x1f, found "\\\\q"'],
      ['"\\x1', 't:1:2: expected an escape such as \\n, \\" or \\x1f, found "\\\\x1"'],
      ['"\\u12g4"', 't:1:2: expected an escape such as \\n, \\" or \\x1f, found "\\\\u12g4"'],
      [`a ${"n".repeat(257)}`, "t:1:3: expected a name of at most 256 characters, found one of 257"],
    ] as const) {
      expect(messageOf(text)).toBe(message);
    }
    expect(tokens("n".repeat(256))).toHaveLength(1);
  });
});

describe("isMilName", () => {
  it("takes identifiers of MIL and nothing else", () => {
    for (const name of ["a", "_", "x_1@2", "A9", "n".repeat(256)]) expect(isMilName(name)).toBe(true);
    for (const name of ["", "1a", "@a", "a-b", "a b", "é", "a.b", "a\n", "n".repeat(257)]) {
      expect(isMilName(name)).toBe(false);
    }
  });
});
