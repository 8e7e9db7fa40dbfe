// Syntax tree to MIL text. Owns layout, escaping and number format; what it prints, parseMil reads back as the same tree.

import { ConfigError } from "../core/errors.ts";
import type { MilDType, MilStatement, MilType, MilValue } from "./ast.ts";
import { isMilFloat, isMilInt, type MilArgument, type MilBinding, type MilFile, type MilFunction } from "./ast.ts";
import { isMilName, quote } from "./lexer.ts";
import { formatHexFloat } from "./numbers.ts";

export interface PrintOptions {
  /** "verbose" spells every scalar `tensor<fp16, []>`, which the compilers of M1 and M2 need; "modern" spells it `fp16`. */
  readonly dialect?: "modern" | "verbose";
}

/**
 * The text of a program, one statement a line.
 * @throws ConfigError if the tree has no text: a bad identifier, a literal that does not fit its type
 */
export function printMil(file: MilFile, options: PrintOptions = {}): string {
  const printer = new Printer(options.dialect === "verbose");
  printer.file(file);
  return printer.pieces.join("");
}

function refuse(what: string): never {
  throw new ConfigError("printMil", what);
}

function checkName(name: string): string {
  if (!isMilName(name) || name === "true" || name === "false") refuse(`${quote(name)} is not a MIL identifier`);
  return name;
}

class Printer {
  readonly pieces: string[] = [];
  readonly #verbose: boolean;

  constructor(verbose: boolean) {
    this.#verbose = verbose;
  }

  file(file: MilFile): void {
    if (!/^[0-9]+\.[0-9]+$/.test(file.version)) refuse(`version ${quote(file.version)} is not like 1.3`);
    if (file.functions.length === 0) refuse("a program has at least one function");
    this.pieces.push(`program(${file.version})\n`);
    if (file.buildInfo.length > 0) {
      const type = this.#type({ dtype: "string", shape: [] });
      const pairs = file.buildInfo.map(([key, value]) => `{${formatString(key)}, ${formatString(value)}}`);
      this.pieces.push(`[buildInfo = dict<${type}, ${type}>({${pairs.join(", ")}})]\n`);
    }
    this.pieces.push("{\n");
    for (const fn of file.functions) this.#function(fn);
    this.pieces.push("}\n");
  }

  #function(fn: MilFunction): void {
    if (fn.results.length === 0) refuse(`function ${quote(fn.name)} has no results`);
    this.pieces.push("    func ", checkName(fn.name), "<", checkName(fn.opset), ">(");
    this.#bindings(fn.params);
    this.pieces.push(") {\n");
    for (const statement of fn.statements) this.#statement(statement);
    this.pieces.push("    } -> (", fn.results.map((result) => checkName(result.name)).join(", "), ");\n");
  }

  #bindings(bindings: readonly MilBinding[]): void {
    this.pieces.push(bindings.map(({ type, name }) => `${this.#type(type)} ${checkName(name)}`).join(", "));
  }

  #statement(statement: MilStatement): void {
    if (statement.results.length === 0) refuse(`a statement of ${quote(statement.op)} has no results`);
    this.pieces.push("        ");
    this.#bindings(statement.results);
    this.pieces.push(" = ", checkName(statement.op), "(");
    this.#arguments(statement.args);
    this.pieces.push(")");
    if (statement.attributes.length > 0) {
      this.pieces.push("[");
      this.#arguments(statement.attributes);
      this.pieces.push("]");
    }
    this.pieces.push(";\n");
  }

  #arguments(args: readonly MilArgument[]): void {
    for (const [index, { name, value }] of args.entries()) {
      this.pieces.push(index === 0 ? "" : ", ", checkName(name), " = ");
      this.#value(value);
    }
  }

  #value(value: MilValue): void {
    switch (value.kind) {
      case "name":
        this.pieces.push(checkName(value.name));
        break;
      case "literal":
        this.#literal(value.type, value.data);
        break;
      case "blob": {
        const path = this.#type({ dtype: "string", shape: [] });
        const offset = this.#type({ dtype: "uint64", shape: [] });
        this.pieces.push(this.#type(value.type), `(BLOBFILE(path = ${path}(${formatString(value.path)}), `);
        this.pieces.push(`offset = ${offset}(${formatScalar("uint64", value.offset)})))`);
        break;
      }
      case "tuple":
        if (value.items.length === 0) refuse("a tuple has at least one item");
        for (const [index, item] of value.items.entries()) {
          this.pieces.push(index === 0 ? "(" : ", ");
          this.#value(item);
        }
        this.pieces.push(")");
    }
  }

  /** Lists are flat whatever the rank, as ANEgpt's generators write them. */
  #literal(type: MilType, data: readonly (number | boolean | string)[]): void {
    let size = 1;
    for (const extent of type.shape) size *= extent;
    if (data.length !== size) refuse(`a literal of type ${this.#type(type)} has ${data.length} values`);
    const list = type.shape.length > 0;
    this.pieces.push(this.#type(type), list ? "([" : "(");
    for (const [index, item] of data.entries()) {
      if (index > 0) this.pieces.push(", ");
      this.pieces.push(formatScalar(type.dtype, item));
    }
    this.pieces.push(list ? "])" : ")");
  }

  #type({ dtype, shape }: MilType): string {
    return shape.length === 0 && !this.#verbose ? dtype : `tensor<${dtype}, [${shape.join(", ")}]>`;
  }
}

function formatScalar(dtype: MilDType, item: number | boolean | string): string {
  if (typeof item === "string" && dtype === "string") return formatString(item);
  if (typeof item === "boolean" && dtype === "bool") return String(item);
  if (typeof item === "number" && isMilFloat(dtype)) return formatHexFloat(item);
  if (typeof item === "number" && isMilInt(dtype) && Number.isSafeInteger(item)) return String(item);
  return refuse(`${typeof item === "string" ? quote(item) : item} is not a value of ${dtype}`);
}

const escapes: Readonly<Record<string, string>> = { "\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", '"': '\\"' };

/** `text` in quotes; control characters and unpaired surrogates, which UTF-8 cannot hold, are escaped. */
function formatString(text: string): string {
  let out = '"';
  for (const char of text) {
    const code = char.codePointAt(0)!;
    if (Object.hasOwn(escapes, char)) out += escapes[char]!;
    else if (code < 32 || code === 127) out += `\\x${code.toString(16).padStart(2, "0")}`;
    else if (code >= 0xd800 && code <= 0xdfff) out += `\\u${code.toString(16)}`;
    else out += char;
  }
  return `${out}"`;
}
