// Vector expressions: a graph of lane operations in which equal ones are one node. Targets translate the nodes; math.ts composes functions of them.

import { invariant } from "../../core/errors.ts";
import { roundFloat16 } from "../../core/float16.ts";
import type { Lane } from "../../ops/vector.ts";

/** Operations that every target implements. Those on f32 have plain names, those on i32 start with i, those on masks with m. */
export type Operation =
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "fma"
  | "max"
  | "min"
  | "sqrt"
  | "floor"
  | "ceil"
  | "trunc"
  | "round"
  | "iadd"
  | "isub"
  | "imul"
  | "imax"
  | "imin"
  | "iand"
  | "ior"
  | "ixor"
  | "ishl"
  | "ishr"
  | "isar"
  | "eq"
  | "ne"
  | "lt"
  | "le"
  | "ieq"
  | "ilt"
  | "mand"
  | "mor"
  | "mxor"
  | "mnot"
  | "select"
  | "toFloat"
  | "toInt"
  | "roundFloat16";

/** A node: a constant (its bits), an operand, or an operation. Reinterpreting bits is free: a node has bits, its users know their type. */
export type Node =
  | { readonly kind: "constant"; readonly type: "f32" | "i32"; readonly bits: number; readonly id: number }
  | { readonly kind: "operand"; readonly type: Lane["type"]; readonly index: number; readonly id: number }
  | { readonly kind: "bits"; readonly type: "f32" | "i32"; readonly of: Node; readonly id: number }
  | {
      readonly kind: "op";
      readonly type: Lane["type"];
      readonly op: Operation;
      readonly args: readonly Node[];
      /** Count of a shift. */
      readonly count: number;
      readonly id: number;
    };

const scratch = new DataView(new ArrayBuffer(4));

/** Bits of a number as fp32, as a signed integer. */
export function floatBits(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getInt32(0);
}

/** The fp32 number of these bits. */
export function bitsFloat(bits: number): number {
  scratch.setInt32(0, bits);
  return scratch.getFloat32(0);
}

const floatOp = { add: "add", sub: "sub", mul: "mul", max: "max", min: "min" } as const;
const intOp = { add: "iadd", sub: "isub", mul: "imul", max: "imax", min: "imin" } as const;

/** Makes nodes; the primitive half of `Lanes`. */
export class Primitives {
  readonly #nodes = new Map<string, Node>();
  #lastId = 0;

  #make(key: string, make: (id: number) => Node): Node {
    let node = this.#nodes.get(key);
    if (node === undefined) this.#nodes.set(key, (node = make(this.#lastId++)));
    return node;
  }

  #op(op: Operation, type: Lane["type"], args: readonly Node[], count = 0): Node {
    const folded = args.every((arg) => arg.kind === "constant") ? fold(op, args.map(constantOf), count) : undefined;
    if (folded !== undefined && type !== "mask") return this.#constant(type, folded);
    const key = `${op}:${count}:${args.map((arg) => arg.id).join(",")}`;
    return this.#make(key, (id) => ({ kind: "op", type, op, args, count, id }));
  }

  #constant(type: "f32" | "i32", bits: number): Node {
    return this.#make(`${type}:${bits}`, (id) => ({ kind: "constant", type, bits, id }));
  }

  /** Operand number `index` of the expression. */
  operand(index: number, type: Lane["type"]): Node {
    return this.#make(`operand:${index}`, (id) => ({ kind: "operand", type, index, id }));
  }

  f = (value: number): Node => this.#constant("f32", floatBits(value));
  i = (value: number): Node => this.#constant("i32", value | 0);

  #both(name: keyof typeof floatOp, a: Lane, b: Lane): Node {
    invariant(a.type === b.type && a.type !== "mask", () => `${name} of ${a.type} and ${b.type}`);
    return this.#op(a.type === "f32" ? floatOp[name] : intOp[name], a.type, [a as Node, b as Node]);
  }
  add = (a: Lane, b: Lane): Node => this.#both("add", a, b);
  sub = (a: Lane, b: Lane): Node => this.#both("sub", a, b);
  mul = (a: Lane, b: Lane): Node => this.#both("mul", a, b);
  max = (a: Lane, b: Lane): Node => this.#both("max", a, b);
  min = (a: Lane, b: Lane): Node => this.#both("min", a, b);

  #float(op: Operation, ...args: readonly Lane[]): Node {
    invariant(
      args.every((arg) => arg.type === "f32"),
      () => `${op} of ${args.map((arg) => arg.type).join(", ")}`,
    );
    return this.#op(op, "f32", args as readonly Node[]);
  }
  div = (a: Lane, b: Lane): Node => this.#float("div", a, b);
  fma = (a: Lane, b: Lane, c: Lane): Node => this.#float("fma", a, b, c);
  sqrt = (a: Lane): Node => this.#float("sqrt", a);
  floor = (a: Lane): Node => this.#float("floor", a);
  ceil = (a: Lane): Node => this.#float("ceil", a);
  trunc = (a: Lane): Node => this.#float("trunc", a);
  round = (a: Lane): Node => this.#float("round", a);
  roundFloat16 = (a: Lane): Node => this.#float("roundFloat16", a);
  neg = (a: Lane): Node =>
    a.type === "i32" ? this.sub(this.i(0), a) : this.asFloat(this.xor(this.asInt(a), this.i(-0x80000000)));
  abs = (a: Lane): Node =>
    a.type === "i32" ? this.max(a, this.neg(a)) : this.asFloat(this.and(this.asInt(a), this.i(0x7fffffff)));

  #compare(op: "eq" | "lt" | "le", a: Lane, b: Lane): Node {
    invariant(a.type === b.type && a.type !== "mask", () => `${op} of ${a.type} and ${b.type}`);
    const [x, y] = [a as Node, b as Node];
    if (a.type === "f32") return this.#op(op, "mask", [x, y]);
    if (op === "le") return this.not(this.#op("ilt", "mask", [y, x]));
    return this.#op(op === "eq" ? "ieq" : "ilt", "mask", [x, y]);
  }
  eq = (a: Lane, b: Lane): Node => this.#compare("eq", a, b);
  ne = (a: Lane, b: Lane): Node =>
    a.type === "f32" ? this.#op("ne", "mask", [a as Node, b as Node]) : this.not(this.eq(a, b));
  lt = (a: Lane, b: Lane): Node => this.#compare("lt", a, b);
  le = (a: Lane, b: Lane): Node => this.#compare("le", a, b);
  gt = (a: Lane, b: Lane): Node => this.#compare("lt", b, a);
  ge = (a: Lane, b: Lane): Node => this.#compare("le", b, a);

  select = (mask: Lane, a: Lane, b: Lane): Node => {
    invariant(mask.type === "mask" && a.type === b.type, () => `select of ${a.type} and ${b.type} by ${mask.type}`);
    if (a.type === "mask") return this.or(this.and(mask, a), this.and(this.not(mask), b));
    if (a === b) return a as Node;
    return this.#op("select", a.type, [mask as Node, a as Node, b as Node]);
  };
  #logic(mask: Operation, int: Operation, a: Lane, b: Lane): Node {
    invariant(a.type === b.type && a.type !== "f32", () => `${int} of ${a.type} and ${b.type}`);
    return this.#op(a.type === "mask" ? mask : int, a.type, [a as Node, b as Node]);
  }
  and = (a: Lane, b: Lane): Node => this.#logic("mand", "iand", a, b);
  or = (a: Lane, b: Lane): Node => this.#logic("mor", "ior", a, b);
  xor = (a: Lane, b: Lane): Node => this.#logic("mxor", "ixor", a, b);
  not = (a: Lane): Node => (a.type === "mask" ? this.#op("mnot", "mask", [a as Node]) : this.xor(a, this.i(-1)));
  #shift(op: "ishl" | "ishr" | "isar", a: Lane, count: number): Node {
    invariant(a.type === "i32" && count >= 0 && count < 32, () => `${op} of ${a.type} by ${count}`);
    return this.#op(op, "i32", [a as Node], count);
  }
  shl = (a: Lane, count: number): Node => this.#shift("ishl", a, count);
  shr = (a: Lane, count: number): Node => this.#shift("ishr", a, count);
  sar = (a: Lane, count: number): Node => this.#shift("isar", a, count);
  toFloat = (a: Lane): Node => this.#op("toFloat", "f32", [a as Node]);
  toInt = (a: Lane): Node => this.#op("toInt", "i32", [a as Node]);
  #bits(type: "f32" | "i32", a: Lane): Node {
    const node = a as Node;
    if (node.type === type) return node;
    if (node.kind === "constant") return this.#constant(type, node.bits);
    if (node.kind === "bits" && node.of.type === type) return node.of;
    return this.#make(`${type}:bits:${node.id}`, (id) => ({ kind: "bits", type, of: node, id }));
  }
  asFloat = (a: Lane): Node => this.#bits("f32", a);
  asInt = (a: Lane): Node => this.#bits("i32", a);
}

function constantOf(node: Node): number {
  return (node as Node & { kind: "constant" }).bits;
}

/** Bits of an operation on constants, where folding it is worth the line; undefined otherwise. */
function fold(op: Operation, bits: readonly number[], count: number): number | undefined {
  const [a, b] = bits as [number, number];
  const f = (g: (x: number, y: number) => number) => floatBits(g(bitsFloat(a), bitsFloat(b)));
  switch (op) {
    case "add":
      return f((x, y) => x + y);
    case "sub":
      return f((x, y) => x - y);
    case "mul":
      return f((x, y) => x * y);
    case "div":
      return f((x, y) => x / y);
    case "sqrt":
      return floatBits(Math.sqrt(bitsFloat(a)));
    case "roundFloat16":
      return floatBits(roundFloat16(bitsFloat(a)));
    case "iadd":
      return (a + b) | 0;
    case "isub":
      return (a - b) | 0;
    case "iand":
      return a & b;
    case "ixor":
      return a ^ b;
    case "ior":
      return a | b;
    case "ishl":
      return a << count;
    case "ishr":
      return (a >>> count) | 0;
    case "isar":
      return a >> count;
    case "toFloat":
      return floatBits(a);
    default:
      return undefined;
  }
}
