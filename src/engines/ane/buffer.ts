// Memory of values: Espresso's buffers, which ports are bound to and the processor sees, too, and plain memory for what the chip has no ports for.

import type { DType } from "../../core/dtype.ts";
import type { Aval, Shape } from "../../core/shape.ts";
import type { Buffer } from "../engine.ts";
import type { NativeMemory } from "../os/index.ts";
import type { Handle } from "./symbols.ts";

/** Calls back once no run is in flight. */
type AfterRun = (free: () => void) => void;

/** A value that only stages on other engines use. */
export class HostBuffer implements Buffer {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly #memory: NativeMemory;
  readonly #afterRun: AfterRun;

  constructor({ dtype, shape }: Aval, memory: NativeMemory, afterRun: AfterRun) {
    this.dtype = dtype;
    this.shape = shape;
    this.#memory = memory;
    this.#afterRun = afterRun;
  }

  get address(): number {
    return this.#memory.address;
  }

  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#memory.bytes;
  }

  [Symbol.dispose](): void {
    this.#afterRun(() => this.#memory.dispose());
  }
}

/** A value behind a port. */
export class EspressoBuffer extends HostBuffer {
  readonly handle: Handle<"buffer">;

  constructor(
    aval: Aval,
    { handle, memory }: { readonly handle: Handle<"buffer">; readonly memory: NativeMemory },
    afterRun: AfterRun,
  ) {
    super(aval, memory, afterRun);
    this.handle = handle;
  }
}
