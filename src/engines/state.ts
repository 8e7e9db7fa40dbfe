// Resident state: where the current value of each parameter lives, shared by every program that was compiled with the same store.

import type { DType } from "../core/dtype.ts";
import { ConfigError, DisposedError, DTypeError, EngineError, formatAval } from "../core/errors.ts";
import { type Aval, sameAval } from "../core/shape.ts";
import type { ParameterNode } from "../ir/node.ts";
import type { Tensor } from "../tensor.ts";
import { type DataOf, type Feed, type Float16As, fillBuffer, NDArray, readBuffer, writeFeed } from "./array.ts";
import type { Buffer, Engine } from "./engine.ts";

/** Buffers of one parameter: the current value, and the one that a swapping update writes. */
export interface StateSlot {
  current: Buffer;
  spare: Buffer | undefined;
}

/** An engine that several programs use: closed with the last of them. Runs on it queue, first in first out. */
export class EngineUse {
  readonly engine: Engine;
  #users = 0;
  #pending = 0;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(engine: Engine) {
    this.engine = engine;
  }

  get busy(): boolean {
    return this.#pending > 0;
  }

  acquire(): this {
    this.#users++;
    return this;
  }

  release(): void {
    if (--this.#users === 0) this.engine[Symbol.dispose]();
  }

  /** Runs `task` after everything that was queued before; a failure does not stop what follows. */
  queue<T>(task: () => Promise<T>): Promise<T> {
    this.#pending++;
    const result = this.#tail.then(task);
    this.#tail = result.then(
      () => this.#pending--,
      () => this.#pending--,
    );
    return result;
  }
}

/** State of one or several programs on one engine. */
export class StateStore {
  readonly use: EngineUse;
  readonly #slots = new Map<ParameterNode, StateSlot>();
  #users = 0;
  #closed = false;

  constructor(use: EngineUse) {
    this.use = use;
  }

  /** @throws {DisposedError} once the last program has let go: the values are gone. */
  acquire(): this {
    if (this.#closed) throw new DisposedError("the state");
    this.#users++;
    return this;
  }

  /** Frees all buffers when the last program lets go. */
  release(): void {
    if (--this.#users > 0) return;
    this.#closed = true;
    for (const { current, spare } of this.#slots.values()) {
      current[Symbol.dispose]();
      spare?.[Symbol.dispose]();
    }
    this.#slots.clear();
  }

  /** The slot of a parameter, made from its initial value where no program has used it before. */
  slot(parameter: ParameterNode, aval: Aval, swap: boolean): StateSlot {
    let slot = this.#slots.get(parameter);
    if (slot === undefined) {
      const current = this.use.engine.allocate(aval);
      const { initial, name } = parameter;
      if (typeof initial !== "number") writeFeed(`parameter "${name}"`, current, initial);
      else fillBuffer(current, initial);
      slot = { current, spare: undefined };
      this.#slots.set(parameter, slot);
    } else if (!sameAval(slot.current, aval)) {
      throw new DTypeError(
        "compile",
        `parameter "${parameter.name}" is ${formatAval(slot.current)} in the shared state, ${formatAval(aval)} here`,
      );
    }
    if (swap) slot.spare ??= this.use.engine.allocate(aval);
    return slot;
  }

  #find(tensor: Tensor): StateSlot {
    if (this.#closed) throw new DisposedError("the state");
    const { node } = tensor;
    if (node.kind !== "parameter") throw new ConfigError("state", `only parameters have state, not ${node.kind} nodes`);
    const slot = this.#slots.get(node);
    if (slot === undefined)
      throw new ConfigError("state", `parameter "${node.name}" belongs to no program of this state`);
    if (this.use.busy) throw new EngineError("state", "a run is in flight; await it first");
    return slot;
  }

  /** Frees the buffers of parameters that only the program which is being disposed uses, such as caches. */
  forget(tensors: readonly Tensor[]): void {
    for (const { node } of tensors) {
      const slot = node.kind === "parameter" ? this.#slots.get(node) : undefined;
      slot?.current[Symbol.dispose]();
      slot?.spare?.[Symbol.dispose]();
      if (node.kind === "parameter") this.#slots.delete(node);
    }
  }

  /** True where some program of this state uses the parameter. */
  has(tensor: Tensor): boolean {
    return tensor.node.kind === "parameter" && this.#slots.has(tensor.node);
  }

  /** A copy of a parameter's current value. */
  read<D extends DType, As extends Float16As = "float32">(tensor: Tensor<D>, { as }: { as?: As } = {}): NDArray<D, As> {
    const { dtype, shape, data } = readBuffer(this.#find(tensor).current, as);
    return new NDArray(dtype as D, shape, data as DataOf<D, As>);
  }

  /** Replaces a parameter's current value. @throws {ShapeError} before anything is written. */
  write(tensor: Tensor, value: Feed): void {
    writeFeed(
      `parameter "${tensor.node.kind === "parameter" ? tensor.node.name : ""}"`,
      this.#find(tensor).current,
      value,
    );
  }
}
