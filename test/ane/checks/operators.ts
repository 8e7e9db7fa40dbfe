// Every operator record on the Neural Engine, as many of the oracle's cases as the chip takes, fed at ports and given as constants.

import { strictEqual } from "node:assert/strict";
import {
  type AnekitError,
  compile,
  constant,
  type Engine,
  input,
  type NDArray,
  Tensor,
  UnsupportedError,
} from "../../../src/index.ts";
import { makeNode, type OpNode } from "../../../src/ir/node.ts";
import { buildPlan } from "../../../src/ir/plan.ts";
import { type Op, ops } from "../../../src/ops/index.ts";
import { legalize } from "../../../src/passes/legalize.ts";
import { buildCase } from "../../ops/harness.ts";
import { cases } from "../../oracle/index.ts";
import type { OpCase } from "../../oracle/types.ts";
import type { Bench } from "../bench.ts";
import { difference } from "./compare.ts";

interface Built {
  readonly label: string;
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly feeds: Readonly<Record<string, Float32Array>>;
}

/** One case with ports that the chip has: flags are fed as fp16 and compared, indices are constants, results become fp16. */
function build(op: Op, each: OpCase, label: string, prefix: string, fed: (at: number) => boolean): Built {
  const { result, leaves } = buildCase(op, each, "fp16");
  const feeds: Record<string, Float32Array> = {};
  const made = new Map(
    leaves.map(({ leaf, name, ref }, at) => {
      const { dtype, shape } = leaf;
      const values = Float32Array.from(ref.data);
      if (dtype === "int32" || !fed(at))
        return [leaf.node, constant(dtype === "int32" ? Int32Array.from(values) : values, shape, { dtype })];
      feeds[prefix + name] = values;
      const port = input(shape, { name: prefix + name });
      return [leaf.node, dtype === "bool" ? port.greater(0.5) : port];
    }),
  );
  const { node } = result[0]! as { node: OpNode };
  const { attrs, results } = node;
  const inputs = node.inputs.map((value) => value && made.get(value.node)!);
  const again = makeNode<OpNode>({ kind: "op", op, inputs, attrs, results });
  const outputs = result.map((_, index): [string, Tensor] => {
    const tensor = new Tensor(again, index);
    return [`${prefix}out${index}`, tensor.dtype === "fp16" ? tensor : tensor.cast("fp16")];
  });
  return { label, outputs: Object.fromEntries(outputs), feeds };
}

const programOf = (outputs: Built["outputs"]) =>
  buildPlan({ outputs: new Map(Object.entries(outputs)), updates: new Map() }).stages[0]!.program;

async function run(built: Built, engine: Engine | "sim", wait: boolean): Promise<Record<string, NDArray>> {
  using program = await compile(built.outputs, { engine });
  const feeds = Object.fromEntries(Object.entries(built.feeds).filter(([name]) => program.plan.feeds.has(name)));
  const options = { as: "bits" } as const;
  return (wait ? await program.run(feeds, options) : program.runSync(feeds, options)) as never;
}

/** How far results may be from the simulator's on the program as it was written: rewritten forms round elsewhere, sums most of all. */
function allowance({ engine }: Bench, { name }: Op): (want: number) => number {
  const { chip, capabilities } = engine;
  // Polynomials stand for sine and cosine where the chip has none, good to 0.004 up to 50 only.
  if (!chip.features.sinCos && (name === "sin" || name === "cos")) return () => 2;
  // A sum divided by its length is infinite where the sum is, though the mean is not.
  const large = name === "reduce_mean" && !capabilities.dialect.natives.reduceMean;
  return (want) => (large && Math.abs(want) > 20_000 ? Number.POSITIVE_INFINITY : 0.02 + 0.02 * Math.abs(want));
}

async function compare(bench: Bench, op: Op, built: Built, wait: boolean): Promise<void> {
  const { engine, reference } = bench;
  const got = await run(built, engine, wait);
  const same = difference(got, await run(built, reference, false));
  if (same !== undefined)
    throw new Error(`${built.label}: not what the simulator gives for the chip's program: ${same}`);
  const near = difference(got, await run(built, "sim", false), allowance(bench, op));
  if (near !== undefined) throw new Error(`${built.label}: far from the program as it was written: ${near}`);
}

function joined(list: readonly Built[]): Built {
  const label = list.map((each) => each.label).join(", ");
  const all = <T>(pick: (built: Built) => Readonly<Record<string, T>>) => Object.assign({}, ...list.map(pick));
  return { label, outputs: all((built) => built.outputs), feeds: all((built) => built.feeds) };
}

export async function checkOperators(bench: Bench): Promise<void> {
  const { engine, check, tell } = bench;
  const refused: string[] = [];
  let turn = 0;
  let taken = 0;
  for (const [name, op] of Object.entries<Op>(ops)) {
    const fits: Built[] = [];
    let refusal: Built | undefined;
    for (const [at, each] of cases[name]!.accepts.entries()) {
      if (each.dtypes !== undefined && !each.dtypes.includes("fp16")) continue;
      for (const way of ["ports", "constants"] as const) {
        const prefix = `${way[0]}${at}_`;
        const built = build(op, each, `${name} case ${at} ${way}`, prefix, (leaf) => way === "ports" || leaf === 0);
        if (Object.keys(built.feeds).length === 0) continue;
        try {
          legalize(programOf(built.outputs), engine.chip, engine.capabilities.dialect);
          fits.push(built);
        } catch (error) {
          if (!(error instanceof UnsupportedError)) throw error;
          refusal = built;
        }
      }
    }
    if (refusal !== undefined) {
      const { label, outputs } = refusal;
      await check(`${name} is refused`, async () => {
        const error = await compile(outputs, { engine }).then(
          (program) => {
            program.dispose();
            throw new Error(`${label} was compiled`);
          },
          (reason: unknown) => reason,
        );
        if (!(error instanceof UnsupportedError)) throw error;
        const { op: of, message, remedy } = error as AnekitError;
        strictEqual(
          of !== undefined && message.includes(of),
          true,
          `${label}: the message names no operator: ${message}`,
        );
        strictEqual(remedy !== undefined && message.includes(remedy), true, `${label}: no remedy: ${message}`);
      });
    }
    if (fits.length === 0) {
      refused.push(name);
      continue;
    }
    taken += fits.length;
    await check(name, async () => {
      try {
        await compare(bench, op, joined(fits), turn++ % 2 === 0);
      } catch (error) {
        for (const built of fits) await compare(bench, op, built, false);
        throw error; // only together
      }
    });
  }
  tell("refused", refused);
  tell("taken", taken);
}
