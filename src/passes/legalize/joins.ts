// Concatenation and stacking.

import { isFloat } from "../../core/dtype.ts";
import { sizeOf } from "../../core/shape.ts";
import { ops } from "../../ops/index.ts";
import type { Tensor } from "../../tensor.ts";
import { type Rule, rule } from "../rewrite.ts";
import type { Target } from "./dialect.ts";

/** Every part in zeros of the whole extent, added up. */
function sumOfPadded(values: readonly Tensor[], axis: number): Tensor {
  const total = values.reduce((sum, value) => sum + value.shape[axis]!, 0);
  let start = 0;
  const parts = values.map((value) => {
    const count = value.shape[axis]!;
    const pad = value.shape.flatMap((_, i) => (i === axis ? [start, total - start - count] : [0, 0]));
    start += count;
    return value.pad(pad);
  });
  return parts.reduce((sum, part) => sum.add(part));
}

export function joinRules({ natives }: Target): Rule[] {
  return [
    rule(ops.concat, "concat", ({ values }, { axis, interleave }, { results }) => {
      const [first, ...rest] = values as readonly [Tensor, ...Tensor[]];
      // Mil §6: the chip concatenates two or more.
      if (rest.length === 0) return first;
      // Elements in turn are parts side by side on a further axis: the same bits. No sheet has `interleave` true.
      if (interleave) {
        const [before, after] = [first.shape.slice(0, axis), first.shape.slice(axis + 1)];
        const rows = [sizeOf(before), first.shape[axis]!, 1, sizeOf(after)];
        const parts = values.map((value) => value.reshape(rows));
        return parts[0]!.concat(parts.slice(1), 2).reshape(results[0]!.shape);
      }
      // The same bits but for -0, which becomes +0; the chip's own additions do that (probes). Integers are refused at the end.
      if (!natives.concat && isFloat(first.dtype)) return sumOfPadded(values, axis);
      // Ops §5: three parts with two constants among them can fail; two parts at a time do not. The same bits.
      if (values.length > 2 && values.filter((value) => value.node.kind === "constant").length > 1)
        return first.concat([rest[0]!], axis).concat(rest.slice(1), axis);
      return undefined;
    }),
    // Without concat also no stack; a stack of one is a reshape. The same bits.
    rule(ops.stack, "stack", ({ values }, { axis }, { results }) => {
      if (natives.concat && values.length > 1) return undefined;
      const [first] = values as readonly [Tensor];
      const parts = values.map((value) =>
        value.reshape([...first.shape.slice(0, axis), 1, ...first.shape.slice(axis)]),
      );
      return parts.length === 1 ? parts[0] : parts[0]!.concat(parts.slice(1), axis).reshape(results[0]!.shape);
    }),
  ];
}
