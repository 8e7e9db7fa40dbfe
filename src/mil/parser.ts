// MIL text to syntax tree, by recursive descent with bounded depth. Checks form, types and literals; resolves no name and knows no operator.

import type { MilBinding, MilFile, MilFunction, MilStatement, Position } from "./ast.ts";
import { Lexer } from "./lexer.ts";
import {
  parseArguments,
  parseType,
  take,
  takeName,
  takeScalarType,
  takeSeparator,
  takeString,
} from "./parser-values.ts";

/**
 * Parses a whole program. Time and memory are linear in `text`: nothing is allocated for a size that the text declares.
 * @param file name for error messages
 * @throws ParseError where the text breaks the grammar or a limit
 */
export function parseMil(text: string, file = "program.mil"): MilFile {
  const lex = new Lexer(text, file);
  if (!lex.is("name") || lex.text !== "program") throw lex.expected('"program"');
  lex.advance();
  take(lex, "(");
  if (!lex.is("number") || !/^[0-9]+\.[0-9]+$/.test(lex.text)) throw lex.expected("a version such as 1.3");
  const version = lex.text;
  lex.advance();
  take(lex, ")");
  const buildInfo = parseHeader(lex);
  take(lex, "{");
  const functions = [parseFunction(lex)];
  while (!lex.is("}")) {
    if (!lex.is("name")) throw lex.expected('"func" or "}"');
    functions.push(parseFunction(lex));
  }
  lex.advance();
  if (!lex.is("end")) throw lex.expected("the end of the text");
  return { version, buildInfo, functions };
}

/** `[key = dict<string, string>({{"a", "b"}, ...}), ...]`; only buildInfo is kept. */
function parseHeader(lex: Lexer): [string, string][] {
  if (!lex.is("[")) return [];
  let buildInfo: [string, string][] | undefined;
  do {
    lex.advance();
    const at = lex.position();
    const key = takeName(lex, "the name of a program attribute");
    take(lex, "=");
    const pairs = parseDictionary(lex);
    if (key === "buildInfo") {
      if (buildInfo !== undefined) throw lex.error("expected one buildInfo, found another", at);
      buildInfo = pairs;
    }
  } while (lex.is(","));
  take(lex, "]");
  return buildInfo ?? [];
}

function parseDictionary(lex: Lexer): [string, string][] {
  if (!lex.is("name") || lex.text !== "dict") throw lex.expected('"dict"');
  lex.advance();
  take(lex, "<");
  takeScalarType(lex, "string");
  take(lex, ",");
  takeScalarType(lex, "string");
  take(lex, ">");
  take(lex, "(");
  take(lex, "{");
  const pairs: [string, string][] = [];
  if (lex.is("}")) {
    lex.advance();
  } else {
    do {
      take(lex, "{");
      const key = takeString(lex);
      take(lex, ",");
      pairs.push([key, takeString(lex)]);
      take(lex, "}");
    } while (takeSeparator(lex, "}"));
  }
  take(lex, ")");
  return pairs;
}

function parseFunction(lex: Lexer): MilFunction {
  const at = lex.position();
  if (!lex.is("name") || lex.text !== "func") throw lex.expected('"func"');
  lex.advance();
  const name = takeName(lex, "the name of a function");
  take(lex, "<");
  const opset = takeName(lex, "an opset such as ios18");
  take(lex, ">");
  take(lex, "(");
  const params: MilBinding[] = [];
  if (lex.is(")")) {
    lex.advance();
  } else {
    do params.push(parseBinding(lex));
    while (takeSeparator(lex, ")"));
  }
  take(lex, "{");
  const statements: MilStatement[] = [];
  while (!lex.is("}")) statements.push(parseStatement(lex));
  lex.advance();
  take(lex, "->");
  take(lex, "(");
  const results: { name: string; at: Position }[] = [];
  do {
    const at = lex.position();
    results.push({ name: takeName(lex, "the name of a result"), at });
  } while (takeSeparator(lex, ")"));
  take(lex, ";");
  return { name, opset, params, statements, results, at };
}

function parseBinding(lex: Lexer): MilBinding {
  const at = lex.position();
  const type = parseType(lex);
  return { type, name: takeName(lex, "the name of a variable"), at };
}

function parseStatement(lex: Lexer): MilStatement {
  const at = lex.position();
  if (!lex.is("name")) throw lex.expected('a type or "}"');
  const results = [parseBinding(lex)];
  while (!lex.is("=")) {
    if (!lex.is(",")) throw lex.expected('"," or "="');
    lex.advance();
    results.push(parseBinding(lex));
  }
  lex.advance();
  const op = takeName(lex, "the name of an operator");
  if (!lex.is("(")) throw lex.expected('"("');
  const args = parseArguments(lex, ")");
  if (!lex.is("[") && !lex.is(";")) throw lex.expected('"[" or ";"');
  const attributes = lex.is("[") ? parseArguments(lex, "]") : [];
  take(lex, ";");
  return { results, op, args, attributes, at };
}
