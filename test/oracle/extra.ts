// References and cases of the logical operators and of identity.

import { broadcastAt, broadcastShapes, build, mapElements, operand } from "./helpers.ts";
import type { OpCases, Reference } from "./types.ts";

function logical(f: (x: number, y: number) => number): Reference {
  return (inputs) => {
    const [x, y] = [operand(inputs, "x"), operand(inputs, "y")];
    return [build(broadcastShapes(x.shape, y.shape), (at) => f(broadcastAt(x, at), broadcastAt(y, at)))];
  };
}

export const references: Record<string, Reference> = {
  logical_and: logical((x, y) => (x !== 0 && y !== 0 ? 1 : 0)),
  logical_or: logical((x, y) => (x !== 0 || y !== 0 ? 1 : 0)),
  logical_not: (inputs) => [mapElements(operand(inputs, "x"), (x) => (x === 0 ? 1 : 0))],
  identity: (inputs) => [mapElements(operand(inputs, "x"), (x) => x)],
};

function logicalCases(name: string): OpCases {
  const bools = (shape: readonly number[], values: readonly number[]) => ({ shape, dtype: "bool" as const, values });
  return {
    accepts: [
      { inputs: { x: bools([4], [0, 0, 1, 1]), y: bools([4], [0, 1, 0, 1]) }, grad: false },
      { inputs: { x: bools([2, 1], [0, 1]), y: bools([1, 3], [0, 1, 1]) }, grad: false, note: "broadcast both ways" },
      { inputs: { x: bools([], [1]), y: bools([2, 1, 2], [0, 1, 1, 0]) }, grad: false },
    ],
    refuses: [
      { inputs: { x: bools([2], [0, 1]), y: bools([3], [0, 1, 1]) }, message: new RegExp(`^${name}: `) },
      {
        inputs: { x: { shape: [2], range: [0, 1] }, y: bools([2], [0, 1]) },
        message: new RegExp(`^${name}: `),
        note: "float operand",
      },
    ],
  };
}

export const cases: Record<string, OpCases> = {
  logical_and: logicalCases("logical_and"),
  logical_or: logicalCases("logical_or"),
  logical_not: {
    accepts: [{ inputs: { x: { shape: [2, 2], dtype: "bool", values: [0, 1, 1, 0] } }, grad: false }],
    refuses: [{ inputs: { x: { shape: [2], dtype: "int32", values: [0, 1] } }, message: /^logical_not: / }],
  },
  identity: {
    accepts: [
      { inputs: { x: { shape: [], range: [-2, 2] } } },
      { inputs: { x: { shape: [2, 1, 3], range: [-60000, 60000] } } },
      { inputs: { x: { shape: [3], dtype: "int32", values: [-1, 0, 2147483647] } }, grad: false },
    ],
    refuses: [{ inputs: { x: { shape: [2], range: [0, 1] } }, attrs: { axis: 1 }, message: /^identity: / }],
  },
};
