// Time to build, differentiate, lower, print and parse programs of 5, 10 and 20 thousand operators: it should be linear in their size.
// Run with `npx tsx bench/graph.bench.ts [--json]`. Medians of five, after one round that is not counted.

import { constant, grad, input, parameter, type Tensor } from "../src/index.ts";
import { buildPlan, type Plan } from "../src/ir/plan.ts";
import { readMil } from "../src/mil/reader.ts";
import { milFiles } from "../src/mil/writer.ts";

/** A graph whose loss takes about `size` operators forward and backward together. */
interface Built {
  readonly loss: Tensor;
  readonly targets: readonly Tensor[];
}

const data = (size: number, phase: number) => Float32Array.from({ length: size }, (_, i) => Math.sin(i + phase));

function balancedSum(list: readonly Tensor[]): Tensor {
  let level = [...list];
  while (level.length > 1) {
    const next: Tensor[] = [];
    for (let i = 0; i < level.length; i += 2)
      next.push(i + 1 < level.length ? level[i]!.add(level[i + 1]!) : level[i]!);
    level = next;
  }
  return level[0]!;
}

/** One chain: every operator uses the one before; a few weights are used over and over. */
function chain(forward: number): Built {
  const w = parameter(data(16, 1), [4, 4], { name: "w" });
  const b = parameter(data(4, 2), [4], { name: "b" });
  let y: Tensor = input([2, 4], { name: "x" });
  for (let i = 0; i < forward; i += 4) y = y.matmul(w).add(b).tanh().mul(0.5);
  return { loss: y.mean(), targets: [w, b] };
}

/** Many short branches from one input, each with a constant of its own, summed as a tree. */
function wide(forward: number): Built {
  const x = input([2, 4], { name: "x" });
  const w = parameter(data(4, 1), [4], { name: "w" });
  const branches = Array.from({ length: Math.floor(forward / 4) }, (_, i) =>
    x
      .mul(constant(data(4, i), [4]))
      .add(w)
      .tanh(),
  );
  return { loss: balancedSum(branches).mean(), targets: [w] };
}

/** A deep network: a weight and a bias of its own every four operators, each of them updated. */
function layers(forward: number): Built {
  const targets: Tensor[] = [];
  let y: Tensor = input([2, 4], { name: "x" });
  for (let i = 0; i < forward; i += 4) {
    const w = parameter(data(16, i), [4, 4], { name: `w${i}` });
    const b = parameter(data(4, i), [4], { name: `b${i}` });
    targets.push(w, b);
    y = y.matmul(w).add(b).tanh().mul(0.5);
  }
  return { loss: y.mean(), targets };
}

const shapes = [
  { name: "chain", make: chain, updates: false },
  { name: "wide", make: wide, updates: false },
  { name: "layers with updates", make: layers, updates: true },
] as const;

const phases = ["build", "grad", "lower", "print", "parse"] as const;
type Phase = (typeof phases)[number];

interface Round {
  readonly operators: number;
  readonly ms: Record<Phase, number>;
}

function round({ make, updates }: (typeof shapes)[number], forward: number): Round {
  const ms = { build: 0, grad: 0, lower: 0, print: 0, parse: 0 };
  const timed = <T>(phase: Phase, body: () => T): T => {
    const start = performance.now();
    const result = body();
    ms[phase] += performance.now() - start;
    return result;
  };
  const { loss, targets } = timed("build", () => make(forward));
  const grads = timed("grad", () => grad(loss, targets));
  const plan = timed("lower", (): Plan => {
    const update = updates ? targets.map((target, i) => [target, target.sub(grads[i]!.mul(0.1))] as const) : [];
    const outputs = updates ? [] : grads.map((g, i) => [`g${i}`, g] as const);
    return buildPlan({ outputs: new Map<string, Tensor>([["loss", loss], ...outputs]), updates: new Map(update) });
  });
  const { program } = plan.stages[0]!;
  const { text, weights } = timed("print", () => milFiles(program));
  const again = timed("parse", () => readMil(text, { weights: () => weights }));
  if (again.instructions.length !== program.instructions.length) throw new Error("the text lost instructions");
  return { operators: program.instructions.length, ms };
}

const median = (list: readonly number[]) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!;

interface Row {
  readonly shape: string;
  readonly operators: number;
  readonly ms: Readonly<Record<Phase | "total", number>>;
  readonly microsecondsPerOperator: number;
}

function measure(shape: (typeof shapes)[number], operators: number): Row {
  // A small program says how many operators the loss, its derivatives and updates add to each forward one.
  const sample = round(shape, 400);
  const forward = Math.round((operators * 400) / sample.operators / 4) * 4;
  round(shape, forward);
  const rounds = Array.from({ length: 5 }, () => round(shape, forward));
  const ms = Object.fromEntries(phases.map((phase) => [phase, median(rounds.map((each) => each.ms[phase]))])) as Record<
    Phase,
    number
  >;
  const total = median(rounds.map((each) => phases.reduce((sum, phase) => sum + each.ms[phase], 0)));
  const count = rounds[0]!.operators;
  return { shape: shape.name, operators: count, ms: { ...ms, total }, microsecondsPerOperator: (total * 1000) / count };
}

const json = process.argv.includes("--json");
const sizes = [5000, 10_000, 20_000];
if (!json)
  console.log(
    ["shape".padEnd(20), "operators", ...[...phases, "total"].map((name) => `${name} ms`), "µs/operator", "t(2N)/t(N)"]
      .map((cell) => cell.padStart(10))
      .join(" "),
  );
for (const shape of shapes) {
  let before: Row | undefined;
  for (const size of sizes) {
    const row = measure(shape, size);
    const ratio = before === undefined ? undefined : row.ms.total / before.ms.total;
    if (json) console.log(JSON.stringify({ ...row, ...(ratio !== undefined && { ratio }) }));
    else {
      const cells = [...phases, "total" as const].map((phase) => row.ms[phase].toFixed(1));
      console.log(
        [
          row.shape.padEnd(20),
          String(row.operators),
          ...cells,
          row.microsecondsPerOperator.toFixed(1),
          ratio?.toFixed(2) ?? "",
        ]
          .map((cell) => cell.padStart(10))
          .join(" "),
      );
    }
    before = row;
  }
}
