// Legalization: a program in the operators, shapes and operands that a chip takes. Rules are in legalize/, each with what it does to the bits.

import type { Chip } from "../chips/index.ts";
import { topologicalOrder } from "../ir/node.ts";
import { lowerGraph, type Program } from "../ir/program.ts";
import { constantRules } from "./legalize/constants.ts";
import { type Dialect, defaultDialect, type Target } from "./legalize/dialect.ts";
import { flagRules } from "./legalize/flags.ts";
import { functionRules } from "./legalize/functions.ts";
import { joinRules } from "./legalize/joins.ts";
import { normRules } from "./legalize/norms.ts";
import { finishPorts } from "./legalize/ports.ts";
import { productRules } from "./legalize/products.ts";
import { rankRules } from "./legalize/ranks.ts";
import { selectRules } from "./legalize/select.ts";
import { sliceRules } from "./legalize/slices.ts";
import { Rewriter, replay } from "./rewrite.ts";
import { requireSupport } from "./support.ts";

export { type Dialect, defaultDialect, type NativeForm, nativeForms, nativesOf } from "./legalize/dialect.ts";

/**
 * The same program in operators, shapes and operands that the chip takes.
 *
 * Ports keep names, dtypes and order; where one was a scalar its shape is [1], which is the same bytes. Every output has an instruction of its own.
 * Instructions that no output depends on are dropped. Inputs that nothing reads stay ports, and unless the dialect says otherwise an output takes up
 * one element of them without effect. Tensors have at most five axes from the start (core/shape.ts), so no rule has to lower a rank.
 *
 * Numbers stay what they are: an epsilon below fp16's smallest normal number is kept as the subnormal that it is (or the 0 that it has become in
 * fp16), as in the simulator; the chip keeps subnormals in elementwise operators (probes), what its norms do with them nobody measured.
 *
 * What changed data dependences must be asked again: `notOverwritable` on the result says which outputs may still be stored into their inputs' buffers.
 * @throws {UnsupportedError} naming operator, shapes, limit and remedy where there is no equivalent.
 */
export function legalize(program: Program, chip: Chip, { natives }: Dialect = defaultDialect): Program {
  const target: Target = { chip, natives };
  if (!chip.features.mil) requireSupport(program, chip); // no rule can help, and its limits are 0
  const rewriter = new Rewriter([
    ...constantRules,
    ...flagRules,
    ...functionRules(target),
    ...selectRules(target),
    ...normRules(target),
    ...productRules(target),
    ...sliceRules(target),
    ...joinRules(target),
    ...rankRules(target),
  ]);
  const { inputs, outputs } = finishPorts(replay(program, rewriter), target, rewriter);
  const legal = lowerGraph(program.name, outputs, inputs);
  requireSupport(legal, chip, (at) => {
    // Instructions stand in the order in which lowerGraph walks the graph.
    const nodes = topologicalOrder(outputs.values()).filter(({ kind }) => kind === "op");
    return nodes[at] && rewriter.origin(nodes[at]);
  });
  return legal;
}
