// Runs an optimizer over parameters with gradients that the test feeds, without a model: one program whose update is the optimizer's.

import type { DataOf } from "../../src/engines/array.ts";
import type { FloatDType } from "../../src/index.ts";
import { type CompiledProgram, compile, input, parameter, type Tensor } from "../../src/index.ts";
import { groupOf, type Optimizer } from "../../src/optim/index.ts";

export interface Start {
  readonly shape: readonly number[];
  readonly initial: ArrayLike<number>;
}

export class OptimizerHarness implements Disposable {
  readonly #optimizer: Optimizer;
  readonly #program: CompiledProgram;
  readonly #momentScale: number;
  readonly #weights: ReadonlyMap<string, Tensor>;
  readonly #slots: ReadonlyMap<string, Readonly<Record<string, Tensor>>>;
  #step = 0;

  private constructor(
    optimizer: Optimizer,
    program: CompiledProgram,
    momentScale: number,
    weights: ReadonlyMap<string, Tensor>,
    slots: ReadonlyMap<string, Readonly<Record<string, Tensor>>>,
  ) {
    this.#optimizer = optimizer;
    this.#program = program;
    this.#momentScale = momentScale;
    this.#weights = weights;
    this.#slots = slots;
  }

  static async create(
    optimizer: Optimizer,
    starts: Readonly<Record<string, Start>>,
    { dtype = "fp32", momentScale = 1 }: { readonly dtype?: FloatDType; readonly momentScale?: number } = {},
  ): Promise<OptimizerHarness> {
    const names = Object.keys(optimizer.scalars(0, 0, 1));
    const scalars = Object.fromEntries(names.map((name) => [name, input([], { name: `scalar_${name}`, dtype })]));
    const update = new Map<Tensor, Tensor>();
    const weights = new Map<string, Tensor>();
    const slotsOf = new Map<string, Readonly<Record<string, Tensor>>>();
    for (const [name, { shape, initial }] of Object.entries(starts)) {
      const weight = parameter(initial, shape, { dtype, name });
      const g = input(shape, { dtype, name: `gradient_${name}` });
      const slots = Object.fromEntries(
        optimizer.slots.map((slot) => [
          slot,
          parameter(new Float32Array(weight.size), shape, { dtype, name: `${name}.${slot}` }),
        ]),
      );
      const next = optimizer.update(weight, g, slots, { scalars, momentScale, ...groupOf(optimizer, name, weight) });
      update.set(weight, next.parameter);
      for (const slot of optimizer.slots) update.set(slots[slot]!, next.slots[slot]!);
      weights.set(name, weight);
      slotsOf.set(name, slots);
    }
    const program = await compile({}, { engine: "sim", update });
    return new OptimizerHarness(optimizer, program, momentScale, weights, slotsOf);
  }

  /** One update; gradients are already multiplied by momentScale. `given` stands in for the optimizer's own scalars. */
  step(gradients: Readonly<Record<string, ArrayLike<number>>>, given?: Readonly<Record<string, number>>): void {
    const rate = this.#optimizer.learningRate(this.#step);
    const scalars = given ?? this.#optimizer.scalars(this.#step, rate, this.#momentScale);
    this.#step++;
    this.#program.runSync(
      Object.fromEntries(
        [
          ...Object.entries(scalars).map(([name, value]): [string, number] => [`scalar_${name}`, value]),
          ...Object.entries(gradients).map(([name, g]): [string, ArrayLike<number>] => [`gradient_${name}`, g]),
        ].filter(([name]) => this.#program.plan.feeds.has(name)),
      ),
    );
  }

  weight(name: string): DataOf<FloatDType> {
    return this.#program.state.read(this.#weights.get(name)!).data as DataOf<FloatDType>;
  }

  slot(name: string, slot: string): DataOf<FloatDType> {
    return this.#program.state.read(this.#slots.get(name)![slot]!).data as DataOf<FloatDType>;
  }

  /** Replaces a moment, to start from numbers of the test. */
  writeSlot(name: string, slot: string, values: ArrayLike<number>): void {
    this.#program.state.write(this.#slots.get(name)![slot]!, values);
  }

  writeWeight(name: string, values: ArrayLike<number>): void {
    this.#program.state.write(this.#weights.get(name)!, values);
  }

  /** Number of updates done so far, as the bias corrections count. */
  set count(step: number) {
    this.#step = step;
  }

  [Symbol.dispose](): void {
    this.#program.dispose();
  }
}
