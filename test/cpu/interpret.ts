// Evaluates vector expressions (src/engines/cpu/expression.ts) one node after the other over arrays: what every target must compute, bit by bit.

import { roundFloat16 } from "../../src/core/float16.ts";
import { roundHalfEven } from "../../src/core/special.ts";
import type { Node, Operation } from "../../src/engines/cpu/expression.ts";

const sum = new Float64Array(1);
const sumBits = new Int32Array(sum.buffer);
const upper = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1 ? 1 : 0; // word of the sign
const lower = 1 - upper;

/** a b + c of fp32 numbers with one rounding: the product is exact in float64, and a float64 sum rounded to odd rounds to fp32 as the exact one. */
export function fmaFloat32(a: number, b: number, c: number): number {
  const product = a * b;
  const total = product + c;
  const part = total - product;
  const lost = product - (total - part) + (c - part); // Knuth's exact error of a sum
  if (lost !== 0 && Number.isFinite(total)) {
    sum[0] = total;
    if ((sumBits[lower]! & 1) === 0) {
      // To the odd neighbour on the side of what was lost: away from zero if that has the sum's sign.
      if (lost > 0 === total > 0) sumBits[lower]!++;
      else if (sumBits[lower]!-- === 0) sumBits[upper]!--;
    }
    return Math.fround(sum[0]!);
  }
  return Math.fround(total);
}

type Binary = (a: number, b: number) => number;
const floats: Partial<Record<Operation, Binary>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: Math.max,
  min: Math.min,
  sqrt: Math.sqrt,
  floor: Math.floor,
  ceil: Math.ceil,
  trunc: Math.trunc,
  round: roundHalfEven,
  roundFloat16,
};
const comparisons: Partial<Record<Operation, (a: number, b: number) => boolean>> = {
  eq: (a, b) => a === b,
  ne: (a, b) => a !== b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
};
const integers: Partial<Record<Operation, Binary>> = {
  iadd: (a, b) => (a + b) | 0,
  isub: (a, b) => (a - b) | 0,
  imul: Math.imul,
  imax: Math.max,
  imin: Math.min,
  iand: (a, b) => a & b,
  ior: (a, b) => a | b,
  ixor: (a, b) => a ^ b,
  ieq: (a, b) => Number(a === b),
  ilt: (a, b) => Number(a < b),
  mand: (a, b) => a & b,
  mor: (a, b) => a | b,
  mxor: (a, b) => a ^ b,
  mnot: (a) => 1 - a,
};

/** Nodes below `root` and itself, operands first. */
function inOrder(root: Node): readonly Node[] {
  const seen = new Set<Node>();
  const visit = (node: Node) => {
    if (seen.has(node)) return;
    if (node.kind === "op") node.args.forEach(visit);
    if (node.kind === "bits") visit(node.of);
    seen.add(node);
  };
  visit(root);
  return [...seen];
}

/** Operations of an expression. */
export function operationCount(root: Node): number {
  return inOrder(root).filter((node) => node.kind === "op").length;
}

/** One array a value: of bits, seen as either type; masks are 0 or 1. */
class Bits {
  readonly f32: Float32Array;
  readonly i32: Int32Array;
  constructor(size: number) {
    this.f32 = new Float32Array(size);
    this.i32 = new Int32Array(this.f32.buffer);
  }
}

/** Results of `root` (fp32; int32 and masks as numbers) for operands of equal lengths. */
export function interpret(root: Node, operands: readonly Float32Array[]): Float32Array {
  const size = operands[0]!.length;
  const values = new Map<Node, Bits>();
  for (const node of inOrder(root))
    values.set(
      node,
      evaluate(node, size, operands, (arg) => values.get(arg)!),
    );
  const result = values.get(root)!;
  return root.type === "f32" ? result.f32 : Float32Array.from(result.i32);
}

function evaluate(node: Node, size: number, operands: readonly Float32Array[], bitsOf: (node: Node) => Bits): Bits {
  if (node.kind === "bits") return bitsOf(node.of);
  const out = new Bits(size);
  if (node.kind === "constant") {
    out.i32.fill(node.bits);
    return out;
  }
  if (node.kind === "operand") {
    out.f32.set(operands[node.index]!);
    return out;
  }
  const [a, b, c] = node.args.map(bitsOf) as [Bits, Bits, Bits];
  const { op, count } = node;
  const each = (f: (i: number) => number) => {
    const target = node.type === "f32" ? out.f32 : out.i32;
    for (let i = 0; i < size; i++) target[i] = f(i);
    return out;
  };
  const right = b ?? a;
  const float = floats[op];
  if (float !== undefined) return each((i) => float(a.f32[i]!, right.f32[i]!));
  const comparison = comparisons[op];
  if (comparison !== undefined) return each((i) => Number(comparison(a.f32[i]!, b.f32[i]!)));
  const integer = integers[op];
  if (integer !== undefined) return each((i) => integer(a.i32[i]!, right.i32[i]!));
  switch (op) {
    case "fma":
      return each((i) => fmaFloat32(a.f32[i]!, b.f32[i]!, c.f32[i]!));
    case "select":
      for (let i = 0; i < size; i++) out.i32[i] = a.i32[i] === 1 ? b.i32[i]! : c.i32[i]!;
      return out;
    case "ishl":
      return each((i) => a.i32[i]! << count);
    case "ishr":
      return each((i) => a.i32[i]! >>> count);
    case "isar":
      return each((i) => a.i32[i]! >> count);
    case "toFloat":
      return each((i) => a.i32[i]!);
    case "toInt":
      return each((i) => {
        const whole = Math.trunc(a.f32[i]!);
        return whole >= -(2 ** 31) && whole < 2 ** 31 ? whole : -(2 ** 31);
      });
    default:
      throw new Error(`no meaning of ${op}`);
  }
}
