// From a program to steps over memory: the order of things. Groups become kernels, arrays that cross groups get a place in the arena.

import { dtypeBytes } from "../../core/dtype.ts";
import type { Program } from "../../ir/program.ts";
import { type Chain, findChains, groupsOf } from "./chains.ts";
import { fuse, type Group } from "./fuse.ts";
import { buildGraph, contiguous, type GraphArray, type SourceOf } from "./graph.ts";
import { layOut } from "./layout.ts";
import { Loops } from "./loops.ts";
import { Memory, type Storage } from "./memory.ts";
import { Moves } from "./moves.ts";
import { Nests } from "./nests.ts";
import { Products } from "./products.ts";
import { Readers } from "./readers.ts";
import { batchesOf, placeConstants, placeInArena } from "./schedule.ts";
import { stagedOutputs } from "./staging.ts";
import { type NativeStep, type PlannedStep, Steps, type Target } from "./steps.ts";

export interface Plan {
  /** Run once, when the executable is made. */
  readonly setup: readonly NativeStep[];
  readonly steps: readonly PlannedStep[];
  /** Numbers of steps that may run at once, in the order of their running. */
  readonly batches: readonly (readonly number[])[];
  readonly storages: readonly Storage[];
  readonly arenaBytes: number;
  readonly constantBytes: number;
  /** Of constants that only `setup` reads. */
  readonly sourceBytes: number;
  readonly scratchBytes: number;
}

export interface PlanOptions extends Target {
  /** fp16 rounded after every operator, as the simulator does. */
  readonly strict: boolean;
  /** As in `LoadOptions`: outputs that replace state as soon as they are stored, with the input of the same memory, if there is one. */
  readonly inPlace: ReadonlyMap<string, string | null>;
}

/** Plans a program. */
export function planProgram(program: Program, options: PlanOptions): Plan {
  const { strict, inPlace } = options;
  const { graph, layout } = layOut(buildGraph(program, strict), new Set(inPlace.keys()));
  const fused = fuse(graph);
  const nests = new Nests(layout, fused);
  const readers = new Readers(fused);
  const byRoot = readers.groupsByRoot();
  const outputs = new Set(graph.outputs.values());
  const anchors = strict ? new Map<Group, Chain>() : findChains({ fused, layout, nests, outputs, readers: byRoot });
  const { groups, chainOf } = arrange(fused.groups, anchors);
  const order = { graph, layout, nests, fused: { ...fused, groups }, chainOf, readers: byRoot };
  const staged = stagedOutputs(order, inPlace);
  for (const array of staged.keys()) readers.keep(array);
  const ports = [...graph.outputs].flatMap(([port, array]) => (staged.has(array) ? [] : [[array, port] as const]));

  const steps = new Steps();
  const memory = new Memory(layout, readers, new Map(ports), inPlace);
  const moves = new Moves(options, layout, memory, steps);
  const loops = new Loops(options, nests, memory, moves, steps);
  const products = new Products(options, layout, nests, memory, moves, steps);

  const single = (array: GraphArray) => {
    const { kind } = array.source;
    if (kind === "matmul") products.matmul(array);
    else if (kind === "separable") moves.separable(array);
    else if (kind === "gather") moves.gather(array);
    else if (kind === "scatter") moves.scatter(array);
    else if (kind === "assemble") moves.assemble(array);
    else if (kind === "reference") {
      const { call } = array.source as SourceOf<"reference">;
      const inputs = call.operands.map((operand) => operand && moves.dense(operand));
      steps.reference(
        call,
        inputs,
        call.results.map((result) => memory.place(result)),
      );
    }
  };
  const alone = (group: Group) => {
    if (group.kind === "single") single(group.members[0]!);
    else loops.add(group);
    readers.done(group);
  };
  const together = (chain: Chain) => {
    if (products.chain(chain)) for (const group of groupsOf(chain)) readers.done(group);
    else for (const group of groupsOf(chain)) alone(group);
  };
  for (const group of groups) {
    const chain = chainOf.get(group);
    if (chain === undefined) alone(group);
    else if (group === chain.loop) together(chain);
  }
  for (const [array, port] of staged) {
    const place = memory.allocate("port", array.size * dtypeBytes[array.dtype], port);
    const from = { place: memory.place(array), strides: layout.place(array).strides };
    moves.copy(array.dtype, array.shape, from, { place, strides: contiguous(array.shape) });
  }

  const { setup, list, scratchBytes } = steps;
  const { storages } = memory;
  const batches = batchesOf(list, storages, inPlace);
  const arenaBytes = placeInArena(storages);
  return { setup, steps: list, batches, storages, arenaBytes, scratchBytes, ...placeConstants(storages, list) };
}

/** Groups in an order in which each chain's stand together, and the chains by each of their groups; `anchors` has them by where they run. */
function arrange(
  groups: readonly Group[],
  anchors: ReadonlyMap<Group, Chain>,
): { groups: readonly Group[]; chainOf: ReadonlyMap<Group, Chain> } {
  const chainOf = new Map([...anchors.values()].flatMap((chain) => groupsOf(chain).map((group) => [group, chain])));
  const arranged = groups.flatMap((group) => {
    const chain = anchors.get(group);
    if (chain !== undefined) return groupsOf(chain);
    return chainOf.has(group) ? [] : [group];
  });
  return { groups: arranged, chainOf };
}
