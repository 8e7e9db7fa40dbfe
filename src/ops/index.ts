// The table of operators: one line each, nothing registers itself.

import * as convolution from "./convolution.ts";
import type { Op } from "./define.ts";
import * as elementwise from "./elementwise.ts";
import * as indexing from "./indexing.ts";
import * as linear from "./linear.ts";
import * as movement from "./movement.ts";
import * as normalization from "./normalization.ts";
import * as reduction from "./reduction.ts";

export type { AnyAttrs, AttrValue, KernelArray, Op } from "./define.ts";

/** Families of operators in the order of the documentation. */
export const opFamilies = {
  Elementwise: elementwise,
  Reductions: reduction,
  Normalization: normalization,
  "Matrix products": linear,
  "Convolution and pooling": convolution,
  Movement: movement,
  Indexing: indexing,
} as const satisfies Record<string, Readonly<Record<string, Op>>>;

/** Every operator by its MIL name. */
export const ops = {
  ...elementwise,
  ...reduction,
  ...normalization,
  ...linear,
  ...convolution,
  ...movement,
  ...indexing,
} as const satisfies Readonly<Record<string, Op>>;

export type OpName = keyof typeof ops;

/** The operator of that MIL name, if there is one. */
export function findOp(name: string): Op | undefined {
  return Object.hasOwn(ops, name) ? (ops as Readonly<Record<string, Op>>)[name] : undefined;
}
