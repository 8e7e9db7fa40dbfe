// Which outputs that replace state cannot be stored where they belong before everything else has run.

import { sizeOf } from "../../core/shape.ts";
import type { Chain } from "./chains.ts";
import { domainOf, expand, type Fused, type Group, rootOf } from "./fuse.ts";
import { contiguous, type Graph, type GraphArray, operandsOf, reshapeStrides } from "./graph.ts";
import { loopStoresLast } from "./kernels/loop.ts";
import type { Layout } from "./layout.ts";
import type { Nests } from "./nests.ts";

/** What is asked about state. */
export interface Order {
  readonly graph: Graph;
  readonly layout: Layout;
  readonly nests: Nests;
  /** With its groups in the order of their running. */
  readonly fused: Fused;
  readonly chainOf: ReadonlyMap<Group, Chain>;
  readonly readers: ReadonlyMap<GraphArray, readonly Group[]>;
}

/**
 * An output that takes an input's memory may be stored when nobody reads the input any more, or by the loop that reads it last, element by element.
 * Where that does not hold (a view of the input is read later), the output is kept aside and copied at the end: those, with their ports.
 */
export function stagedOutputs(
  { graph, layout, nests, fused, chainOf, readers }: Order,
  inPlace: ReadonlyMap<string, string | null>,
): Map<GraphArray, string> {
  const position = new Map(fused.groups.map((group, at) => [group, at]));
  const staged = new Map<GraphArray, string>();
  for (const [output, input] of inPlace) {
    if (input === null) continue;
    const array = graph.outputs.get(output)!;
    const old = graph.inputs.get(input)!;
    const own = fused.groupOf.get(array)!;
    const chain = chainOf.get(own);
    const safe = (readers.get(old) ?? []).every((group) => {
      if (group === own) return readsInPlace(group, old, array, layout, nests);
      // A chain's groups take turns, block by block.
      return position.get(group)! < position.get(own)! && (chain === undefined || chainOf.get(group) !== chain);
    });
    if (!safe) staged.set(array, output);
  }
  return staged;
}

/** True if a loop reads `old` only at the element that it stores `array` to, before it does. */
function readsInPlace(group: Group, old: GraphArray, array: GraphArray, layout: Layout, nests: Nests): boolean {
  if (group.kind !== "loop" || array.size !== sizeOf(group.dims)) return false;
  const whole = contiguous(group.dims);
  for (const member of group.members) {
    for (const operand of operandsOf(member)) {
      if (rootOf(operand) !== old) continue;
      const access = layout.access(expand(operand, member));
      const strides = reshapeStrides(domainOf(member), access.strides, group.dims);
      if (access.offset !== 0 || strides === undefined || strides.some((stride, axis) => stride !== whole[axis]))
        return false;
    }
  }
  // After the last reduction: no later pass reads the row again.
  const { spec, touched } = nests.of(group);
  return loopStoresLast(spec, touched.find(({ access }) => access.root === array)!.index);
}
