// einsum: Einstein summation of any number of operands, as transposes, reshapes and matrix products.

import { ConfigError, ShapeError } from "../core/errors.ts";
import { sizeOf } from "../core/shape.ts";
import type { Tensor } from "../tensor.ts";

interface Term {
  readonly letters: readonly string[];
  readonly tensor: Tensor;
}

/**
 * `einsum("bik,bkj->bij", x, y)`. Letters only; without `->` the result has the letters that occur once, in alphabetical order. A letter may not
 * repeat within one operand.
 */
export function einsum(equation: string, ...operands: readonly Tensor[]): Tensor {
  const match = /^([a-zA-Z]*(?:,[a-zA-Z]*)*)(?:->([a-zA-Z]*))?$/.exec(equation.replace(/\s/g, ""));
  if (match === null) throw new ConfigError("einsum", `"${equation}" is not of the form "ij,jk->ik"`);
  const inputs = match[1]!.split(",").map((part) => [...part]);
  const all = inputs.flat();
  const output =
    match[2] === undefined
      ? [...new Set(all)].filter((l) => all.indexOf(l) === all.lastIndexOf(l)).sort()
      : [...match[2]];
  checkLetters(equation, inputs, output, operands);
  let left = toTerm(inputs, operands, 0, output);
  for (let i = 1; i < operands.length; i++) {
    const later = new Set([...output, ...inputs.slice(i + 1).flat()]);
    left = contract(left, toTerm(inputs, operands, i, [...later, ...left.letters]), later);
  }
  return order(sumOut(left, new Set(output)), output);
}

function checkLetters(
  equation: string,
  inputs: readonly string[][],
  output: readonly string[],
  operands: readonly Tensor[],
): void {
  if (inputs.length !== operands.length)
    throw new ConfigError("einsum", `"${equation}" names ${inputs.length} operands, got ${operands.length}`);
  const extents = new Map<string, number>();
  for (const [i, letters] of inputs.entries()) {
    const { shape } = operands[i]!;
    if (letters.length !== shape.length || new Set(letters).size !== letters.length) {
      throw new ShapeError(
        "einsum",
        `operand ${i} has rank ${shape.length}, its letters are "${letters.join("")}" (each at most once)`,
      );
    }
    for (const [axis, letter] of letters.entries()) {
      const known = extents.get(letter) ?? shape[axis]!;
      if (known !== shape[axis]) throw new ShapeError("einsum", `letter "${letter}" is ${known} and ${shape[axis]}`);
      extents.set(letter, known);
    }
  }
  const strange = output.find((letter) => !extents.has(letter));
  if (strange !== undefined || new Set(output).size !== output.length) {
    throw new ConfigError("einsum", `the result "${output.join("")}" repeats a letter or has one that no operand has`);
  }
}

/** Operand i, summed over letters that nothing else has. */
function toTerm(inputs: readonly string[][], operands: readonly Tensor[], i: number, needed: readonly string[]): Term {
  const others = new Set([...needed, ...inputs.filter((_, j) => j !== i).flat()]);
  return sumOut({ letters: inputs[i]!, tensor: operands[i]! }, others);
}

function sumOut({ letters, tensor }: Term, keep: ReadonlySet<string>): Term {
  const axes = letters.flatMap((letter, axis) => (keep.has(letter) ? [] : [axis]));
  if (axes.length === 0) return { letters, tensor };
  return { letters: letters.filter((letter) => keep.has(letter)), tensor: tensor.sum(axes) };
}

function order({ letters, tensor }: Term, wanted: readonly string[]): Tensor {
  const perm = wanted.map((letter) => letters.indexOf(letter));
  return perm.every((axis, i) => axis === i) ? tensor : tensor.transpose(perm);
}

/** One batched matrix product: [batch, m, k] times [batch, k, n]. */
function contract(a: Term, b: Term, later: ReadonlySet<string>): Term {
  const shared = a.letters.filter((letter) => b.letters.includes(letter));
  const batch = shared.filter((letter) => later.has(letter));
  const summed = shared.filter((letter) => !later.has(letter));
  const rows = a.letters.filter((letter) => !shared.includes(letter));
  const columns = b.letters.filter((letter) => !shared.includes(letter));
  const extent = (letter: string) =>
    a.letters.includes(letter)
      ? a.tensor.shape[a.letters.indexOf(letter)]!
      : b.tensor.shape[b.letters.indexOf(letter)]!;
  const sizes = (letters: readonly string[]) => letters.map(extent);
  const size = (letters: readonly string[]) => sizeOf(sizes(letters));
  const x = order(a, [...batch, ...rows, ...summed]).reshape([size(batch), size(rows), size(summed)]);
  const y = order(b, [...batch, ...summed, ...columns]).reshape([size(batch), size(summed), size(columns)]);
  const letters = [...batch, ...rows, ...columns];
  return { letters, tensor: x.matmul(y).reshape(sizes(letters)) };
}
