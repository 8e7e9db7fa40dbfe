// The graphs of a training step: scaled derivatives, overflow check, clipping, optimizer, and the flag that decides whether any of it counts.

import { grad } from "../autodiff/grad.ts";
import { isFloat } from "../core/dtype.ts";
import { ConfigError } from "../core/errors.ts";
import { float16Max } from "../core/float16.ts";
import { computedOperands, type Node, skipMarks, topologicalOrder } from "../ir/node.ts";
import type { StageSpec } from "../ir/plan.ts";
import { globalNorm, peakOf } from "../optim/clip.ts";
import { groupOf, type Optimizer } from "../optim/optimizer.ts";
import { input, parameter, Tensor } from "../tensor.ts";
import type { PrecisionPolicy } from "./precision.ts";
import type { Task } from "./task.ts";

export interface StepSpec {
  readonly task: Task;
  readonly optimizer: Optimizer;
  readonly policy: PrecisionPolicy;
  /** Global norm above which gradients are scaled down; none when absent. */
  readonly clipNorm?: number;
  /** Micro-steps whose gradients are averaged before an update. */
  readonly accumulation: number;
  /** True on the Neural Engine: what it cannot compute, fp32 above all, are stages on the CPU. */
  readonly hostStages?: boolean;
}

/** A program's graph: outputs, updates, stages. */
export interface StepGraph {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly update: ReadonlyMap<Tensor, Tensor>;
  readonly stages: readonly StageSpec[];
}

export interface TrainingGraphs {
  /** Adds the gradients of a micro-step to the accumulators; absent without accumulation. */
  readonly accumulate: StepGraph | undefined;
  /** The last (or only) micro-step and the update. */
  readonly apply: StepGraph;
  /** All state by name: what a checkpoint holds. */
  readonly state: ReadonlyMap<string, Tensor>;
  /** State that is zero between steps: gradient sums and the overflow they saw. */
  readonly scratch: readonly Tensor[];
  /** Weights as the optimizer sees them, by parameter name: masters where there are any. */
  readonly weights: ReadonlyMap<string, Tensor>;
}

/** Largest magnitude that counts as finite: infinity, and what fp32 keeps beyond fp16, do not. */
const finiteLimit = { fp16: float16Max, fp32: 3e38 } as const;

/**
 * Largest gradient that the optimizer may get. In fp32 its square is finite, so what it updates by finite rates is too; fp16 results are looked at
 * themselves.
 */
const gradientLimit = { fp16: float16Max, fp32: 1e18 } as const;

/** State of one parameter. */
interface Trained {
  readonly name: string;
  readonly parameter: Tensor;
  /** What the optimizer updates: the parameter itself, or its fp32 master. */
  readonly weight: Tensor;
  readonly slots: Readonly<Record<string, Tensor>>;
  readonly accumulator: Tensor | undefined;
}

function trainedParameter(name: string, tensor: Tensor, { optimizer, policy, accumulation }: StepSpec): Trained {
  const zeros = (suffix: string, dtype: "fp16" | "fp32") =>
    parameter(0, tensor.shape, { dtype, name: `${name}.${suffix}` });
  const initial = tensor.node.kind === "parameter" ? tensor.node.initial : 0;
  const weight =
    policy.state === tensor.dtype
      ? tensor
      : parameter(initial, tensor.shape, { dtype: policy.state, name: `${name}.master` });
  return {
    name,
    parameter: tensor,
    weight,
    slots: Object.fromEntries(optimizer.slots.map((slot) => [slot, zeros(slot, policy.moments)])),
    accumulator: accumulation > 1 ? zeros("sum", policy.moments) : undefined,
  };
}

/**
 * Builds the graphs of a task's training step. Inputs beside the task's: `loss_scale` (the number the derivative starts from, over the number of
 * micro-steps), `grad_scale` (what turns scaled gradients into the optimizer's), and the optimizer's scalars.
 */
export function buildTraining(spec: StepSpec): TrainingGraphs {
  const { task, optimizer, policy, clipNorm, accumulation, hostStages = false } = spec;
  const trained = [...task.parameters].map(([name, tensor]) => trainedParameter(name, tensor, spec));
  const watched = task.watch ?? [];
  const followed = task.updates ?? new Map<Tensor, Tensor>();
  const parameters = trained.map(({ parameter: p }) => p);

  const lossScale = input([], { name: "loss_scale", dtype: task.loss.dtype });
  const derivatives = grad(task.loss, [...parameters, ...watched], { cotangent: lossScale });
  const gradients = derivatives.slice(0, parameters.length);
  // The largest magnitude anywhere the scaled derivative passes, before anything can cancel: on the chip inf - inf is 0 and NaN becomes inf.
  const stepPeak = peakOf([...derivatives, task.loss.reshape([1])]);
  const seenPeak =
    accumulation > 1
      ? parameter([0], [1], { dtype: task.loss.dtype as "fp16" | "fp32", name: "overflow.peak" })
      : undefined;
  const peak = seenPeak === undefined ? stepPeak : seenPeak.reshape([]).maximum(stepPeak);

  const sums = trained.map(({ accumulator }, i) => {
    const gradient = gradients[i]!.cast(policy.moments);
    return accumulator === undefined ? gradient : accumulator.add(gradient);
  });
  const gradScale = input([], { name: "grad_scale", dtype: policy.moments });
  const sumsPeak = peakOf(sums);
  const norm = clipNorm === undefined ? undefined : globalNorm(sums, sumsPeak, gradScale.mul(1 / policy.momentScale));
  const factor = norm === undefined ? gradScale : gradScale.mul(norm.maximum(clipNorm!).inverse().mul(clipNorm!));

  const scalarNames = Object.keys(optimizer.scalars(0, 0, 1));
  const scalars = Object.fromEntries(
    scalarNames.map((name) => [name, input([], { name: `optimizer_${name}`, dtype: policy.state })]),
  );
  const replaced = new Map<Tensor, Tensor>();
  for (const [i, { name, parameter: p, weight, slots }] of trained.entries()) {
    const context = { scalars, momentScale: policy.momentScale, ...groupOf(optimizer, name, weight) };
    const next = optimizer.update(weight, sums[i]!.mul(factor), slots, context);
    replaced.set(weight, next.parameter);
    if (weight !== p) replaced.set(p, next.parameter.cast(p.dtype));
    for (const [slot, value] of Object.entries(next.slots)) replaced.set(slots[slot]!, value);
  }
  for (const [old, next] of followed) replaced.set(old, next);
  // A step counts if nothing overflowed: not the derivatives, not their sums over micro-steps, not what the optimizer gets, not what comes out of
  // it. In a mixed policy the magnitudes cross from the fp16 stage to the fp32 stage.
  const within = (magnitude: Tensor, limits: typeof finiteLimit | typeof gradientLimit) =>
    magnitude.less(limits[magnitude.dtype as "fp16" | "fp32"]).cast(policy.moments);
  const magnitudes = [
    within(peak, finiteLimit),
    within(sumsPeak, finiteLimit),
    within(sumsPeak.mul(factor), gradientLimit),
  ];
  const narrow = [...replaced.values()].filter((tensor) => tensor.dtype === "fp16");
  if (narrow.length > 0) magnitudes.push(within(peakOf(narrow), finiteLimit));
  const applied = magnitudes.reduce((all, each) => all.mul(each));
  const finite = applied.greater(0.5);
  const update = new Map<Tensor, Tensor>([...replaced].map(([old, next]) => [old, finite.select(next, old)]));
  // Sums start again whether the step counted or not.
  for (const { accumulator } of trained) {
    if (accumulator !== undefined) update.set(accumulator, accumulator.filled(0, accumulator.shape));
  }
  if (seenPeak !== undefined) update.set(seenPeak, seenPeak.filled(0, [1]));

  // fp32 work is a stage of its own, which the chip leaves to the CPU.
  const stagesOf = (name: string): StageSpec[] => [
    ...(hostStages ? hostStage([task.loss]) : []),
    ...(policy.state === policy.compute
      ? [{ name }]
      : [
          { name: "backward", compute: [task.loss, ...gradients, peak, ...followed.values()] },
          { name, ...(hostStages && { on: "cpu" }) },
        ]),
  ];
  const state = new Map<string, Tensor>();
  const addState = (name: string, tensor: Tensor) => {
    if (state.has(name))
      throw new ConfigError("train", `two tensors of the state are named "${name}"; rename a parameter`);
    state.set(name, tensor);
  };
  const scratch: Tensor[] = seenPeak === undefined ? [] : [seenPeak];
  for (const { name, parameter: p, weight, slots, accumulator } of trained) {
    if (accumulator !== undefined) scratch.push(accumulator);
    addState(name, p);
    if (weight !== p) addState(`${name}.master`, weight);
    for (const [slot, tensor] of Object.entries(slots)) addState(`${name}.${slot}`, tensor);
  }
  for (const tensor of followed.keys()) {
    if (tensor.node.kind !== "parameter")
      throw new ConfigError("train", "`updates` of the task replace parameters only");
    addState(tensor.node.name, tensor);
  }
  return {
    accumulate: seenPeak && accumulateGraph(task, trained, sums, seenPeak, peak, stagesOf("accumulate")),
    apply: {
      outputs: {
        loss: task.loss,
        applied,
        ...(norm !== undefined && { grad_norm: norm }),
      },
      update,
      stages: stagesOf("step"),
    },
    state,
    scratch,
    weights: new Map(trained.map(({ name, weight }) => [name, weight])),
  };
}

/**
 * The stage that prepares for the Neural Engine what it cannot compute: everything that follows from integers alone, such as one-hot rows of labels,
 * up to where numbers that are trained or computed join it.
 */
export function hostStage(results: readonly Tensor[]): StageSpec[] {
  const order = topologicalOrder(results, computedOperands);
  const fromIntegers = new Set<Node>();
  for (const node of order) {
    const operands = computedOperands(node).filter((operand) => operand !== undefined);
    const computed = operands.filter(({ node: { kind } }) => kind !== "constant");
    const follows = computed.length > 0 && computed.every((operand) => fromIntegers.has(operand.node));
    if (follows || (node.kind === "input" && !isFloat(node.results[0]!.dtype))) fromIntegers.add(node);
  }
  const handed = new Map<Node, Set<number>>();
  for (const node of order) {
    if (fromIntegers.has(node)) continue;
    for (const operand of computedOperands(node)) {
      if (operand === undefined) continue;
      const { node: from, index } = skipMarks(operand);
      if (from.kind !== "op" || !fromIntegers.has(from) || !isFloat(from.results[index]!.dtype)) continue;
      handed.set(from, (handed.get(from) ?? new Set()).add(index));
    }
  }
  const compute = [...handed].flatMap(([node, indices]) => [...indices].map((index) => new Tensor(node, index)));
  return compute.length === 0 ? [] : [{ name: "prepare", on: "cpu", compute }];
}

function accumulateGraph(
  task: Task,
  trained: readonly Trained[],
  sums: readonly Tensor[],
  seenPeak: Tensor,
  peak: Tensor,
  stages: readonly StageSpec[],
): StepGraph {
  const update = new Map<Tensor, Tensor>(trained.map(({ accumulator }, i) => [accumulator!, sums[i]!]));
  update.set(seenPeak, peak.reshape([1]));
  const finite = peak.less(finiteLimit[peak.dtype as "fp16" | "fp32"]);
  // A statistic may overflow where no derivative does: it stays what it was.
  for (const [old, next] of task.updates ?? []) {
    const fits = next.abs().less(finiteLimit[next.dtype as "fp16" | "fp32"]);
    update.set(old, finite.logicalAnd(fits).select(next, old));
  }
  return { outputs: { loss: task.loss }, update, stages };
}
