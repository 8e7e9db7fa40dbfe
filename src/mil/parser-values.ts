// The part of the MIL parser below statements: types, literals, weight references, tuples, argument lists.

import type { MilArgument, MilDType, MilType, MilValue, Position } from "./ast.ts";
import { isMilDType, isMilFloat, isMilInt, milIntRange } from "./ast.ts";
import { type Lexer, quote, type TokenKind } from "./lexer.ts";
import { parseNumber } from "./numbers.ts";

/** Deepest nesting of tuples. Lists are bounded by the rank, and types do not nest. */
const maxDepth = 32;
/** Highest rank of a type in MIL text; what the engines take is less. */
const maxMilRank = 8;
/** Most elements a type may have. */
const maxMilElements = 2 ** 31 - 1;

export function take(lex: Lexer, kind: TokenKind): void {
  if (!lex.is(kind)) throw lex.expected(quote(kind));
  lex.advance();
}

/** Takes an identifier; `what` names it in errors. */
export function takeName(lex: Lexer, what: string): string {
  const name = lex.text;
  if (!lex.is("name") || name === "true" || name === "false") throw lex.expected(what);
  lex.advance();
  return name;
}

export function takeString(lex: Lexer): string {
  if (!lex.is("string")) throw lex.expected("a string");
  const text = lex.text;
  lex.advance();
  return text;
}

/** Takes "," and gives true, or `close` and gives false. */
export function takeSeparator(lex: Lexer, close: ")" | "]" | "}"): boolean {
  if (!lex.is(",") && !lex.is(close)) throw lex.expected(`"," or ${quote(close)}`);
  const more = lex.is(",");
  lex.advance();
  return more;
}

/** `name = value, ...` between the bracket at the current token and `close`. */
export function parseArguments(lex: Lexer, close: ")" | "]"): MilArgument[] {
  lex.advance();
  const args: MilArgument[] = [];
  if (lex.is(close)) {
    lex.advance();
    return args;
  }
  const names = new Set<string>();
  do {
    const at = lex.position();
    const name = takeName(lex, "the name of an argument");
    if (names.has(name)) throw lex.error(`expected each argument once, found ${quote(name)} again`, at);
    names.add(name);
    take(lex, "=");
    args.push({ name, value: parseValue(lex, 0), at });
  } while (takeSeparator(lex, close));
  return args;
}

function parseValue(lex: Lexer, depth: number): MilValue {
  const at = lex.position();
  if (lex.is("(")) {
    if (depth >= maxDepth) throw lex.error(`expected tuples at most ${maxDepth} deep, found another "("`);
    const items: MilValue[] = [];
    do {
      lex.advance();
      items.push(parseValue(lex, depth + 1));
    } while (lex.is(","));
    if (!lex.is(")")) throw lex.expected('"," or ")"');
    lex.advance();
    return { kind: "tuple", items, at };
  }
  const word = lex.text;
  if (!lex.is("name") || word === "true" || word === "false") {
    throw lex.expected("a variable, a tuple, or a literal with its type such as int32(1)");
  }
  lex.advance();
  if (!lex.is("(") && !lex.is("<")) return { kind: "name", name: word, at };
  if (word === "BLOBFILE")
    throw lex.error("expected BLOBFILE inside a type, as in tensor<fp16, [2]>(BLOBFILE(...))", at);
  const type = parseTypeAfter(lex, word, at);
  take(lex, "(");
  const value = parseTyped(lex, type, at);
  take(lex, ")");
  return value;
}

export function parseType(lex: Lexer): MilType {
  const at = lex.position();
  const word = lex.text;
  if (!lex.is("name")) throw lex.expected("a type");
  lex.advance();
  return parseTypeAfter(lex, word, at);
}

/** The type whose first word, found at `at`, is behind us. */
function parseTypeAfter(lex: Lexer, word: string, at: Position): MilType {
  if (word !== "tensor") {
    if (!isMilDType(word))
      throw lex.error(`expected a type such as tensor<fp16, [2]> or int32, found ${quote(word)}`, at);
    return { dtype: word, shape: [] };
  }
  take(lex, "<");
  const dtype = lex.text;
  if (!lex.is("name") || !isMilDType(dtype)) throw lex.expected("a dtype such as fp16");
  lex.advance();
  take(lex, ",");
  const shape = parseShape(lex);
  take(lex, ">");
  return { dtype, shape };
}

function parseShape(lex: Lexer): number[] {
  take(lex, "[");
  const shape: number[] = [];
  if (lex.is("]")) {
    lex.advance();
    return shape;
  }
  let size = 1;
  do {
    if (shape.length === maxMilRank) throw lex.error(`expected at most ${maxMilRank} axes, found another`);
    const extent = lex.is("number") ? wholeNumber(lex.text) : undefined;
    if (extent === undefined || extent < 1) throw lex.expected("an extent, a whole number from 1 on");
    size *= extent;
    if (size > maxMilElements) throw lex.expected(`a shape of at most ${maxMilElements} elements`);
    shape.push(extent);
    lex.advance();
  } while (takeSeparator(lex, "]"));
  return shape;
}

/** Value of a decimal integer that a double holds exactly. */
function wholeNumber(text: string): number | undefined {
  for (let i = /^[+-]/.test(text) ? 1 : 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code < 48 || code > 57) return undefined;
  }
  const value = Number(text);
  return Number.isSafeInteger(value) ? value + 0 : undefined; // -0 + 0 is 0
}

/** What stands between the parentheses of a typed value. */
function parseTyped(lex: Lexer, type: MilType, at: Position): MilValue {
  if (lex.is("name") && lex.text === "BLOBFILE") return parseBlob(lex, type, at);
  const { dtype } = type;
  if (dtype === "string") return { kind: "literal", type, data: parseData(lex, type, takeString), at };
  if (dtype === "bool") return { kind: "literal", type, data: parseData(lex, type, takeBool), at };
  const takeNumber = isMilFloat(dtype) ? takeFloat : takeInt;
  return { kind: "literal", type, data: parseData(lex, type, takeNumber), at };
}

type TakeScalar<T> = (lex: Lexer, dtype: MilDType) => T;

function takeBool(lex: Lexer): boolean {
  if (!lex.is("name") || (lex.text !== "true" && lex.text !== "false")) throw lex.expected('"true" or "false"');
  const value = lex.text === "true";
  lex.advance();
  return value;
}

function takeInt(lex: Lexer, dtype: MilDType): number {
  const value = lex.is("number") ? wholeNumber(lex.text) : undefined;
  const [least, greatest] = isMilInt(dtype) ? milIntRange[dtype] : [0, 0];
  if (value === undefined || value < least || value > greatest) {
    throw lex.expected(`a whole number from ${least} to ${greatest} for ${dtype}`);
  }
  lex.advance();
  return value;
}

function takeFloat(lex: Lexer): number {
  const value = lex.is("number") || lex.is("name") ? parseNumber(lex.text) : undefined;
  if (value === undefined) throw lex.expected("a number");
  if (Math.abs(value) === Number.POSITIVE_INFINITY && /[0-9]/.test(lex.text)) {
    throw lex.expected("a number that a double can hold, or inf");
  }
  lex.advance();
  return value;
}

/** One scalar for shape [], otherwise a list: flat, or nested as deep as the shape and agreeing with it. */
function parseData<T>(lex: Lexer, type: MilType, takeScalar: TakeScalar<T>): T[] {
  const { dtype, shape } = type;
  const rank = shape.length;
  if (rank === 0) return [takeScalar(lex, dtype)];
  let size = 1;
  for (const extent of shape) size *= extent;
  if (!lex.is("[")) throw lex.expected(`a list of ${size} values`);
  const data: T[] = [];
  const counts: number[] = []; // items so far of each open list
  let leaf = 0; // depth at which the scalars stand, once known
  for (;;) {
    if (lex.is("[")) {
      if (counts.length === (leaf || rank)) throw lex.expected("a value");
      counts.push(0);
      lex.advance();
      continue;
    }
    const depth = counts.length;
    if (depth !== (leaf || depth) || (depth !== 1 && depth !== rank)) throw lex.expected('"["');
    leaf = depth;
    if (data.length === size) throw lex.error(`expected ${size} values for shape [${shape.join(", ")}], found more`);
    data.push(takeScalar(lex, dtype));
    counts[depth - 1]!++;
    while (lex.is("]")) {
      const extent = leaf === 1 ? size : shape[counts.length - 1]!;
      const count = counts.pop()!;
      if (count !== extent) {
        throw lex.error(`expected ${extent} items in this list for shape [${shape.join(", ")}], found ${count}`);
      }
      lex.advance();
      if (counts.length === 0) return data;
      counts[counts.length - 1]!++;
    }
    if (!lex.is(",")) throw lex.expected('"," or "]"');
    lex.advance();
  }
}

/** `BLOBFILE(path = string("..."), offset = uint64(64))`, in either dialect and order. */
function parseBlob(lex: Lexer, type: MilType, at: Position): MilValue {
  const blobAt = lex.position();
  lex.advance();
  take(lex, "(");
  let path: string | undefined;
  let offset: number | undefined;
  do {
    const field = lex.text;
    if (!lex.is("name") || (field !== "path" && field !== "offset")) throw lex.expected('"path" or "offset"');
    if ((field === "path" ? path : offset) !== undefined) throw lex.expected(`${field} once`);
    lex.advance();
    take(lex, "=");
    const dtype = field === "path" ? "string" : "uint64";
    takeScalarType(lex, dtype);
    take(lex, "(");
    if (field === "path") path = takeString(lex);
    else offset = takeInt(lex, dtype);
    take(lex, ")");
  } while (takeSeparator(lex, ")"));
  if (path === undefined) throw lex.error("expected a path in BLOBFILE, found none", blobAt);
  if (offset === undefined) throw lex.error("expected an offset in BLOBFILE, found none", blobAt);
  return { kind: "blob", type, path, offset, at };
}

/** Takes `dtype` or `tensor<dtype, []>`. */
export function takeScalarType(lex: Lexer, dtype: MilDType): void {
  const at = lex.position();
  const type = lex.is("name") ? parseType(lex) : undefined;
  if (type === undefined) throw lex.expected(`the type ${dtype}`);
  if (type.dtype !== dtype || type.shape.length > 0) {
    throw lex.error(`expected the type ${dtype}, found another`, at);
  }
}
