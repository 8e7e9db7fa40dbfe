// From a program's files to operations that can be bound and run, in the documented order of calls; on whatever thread.

import type { Espresso } from "./espresso.ts";
import type { Handle } from "./symbols.ts";

/** A program on disk: its text, beside it its weights, and a folder for what the compiler makes. */
export interface ProgramFiles {
  readonly mil: string;
  readonly cache: string;
}

/** A program that was compiled. Its compiler stays with it: the documented order makes operations before the compiler is released. */
export interface CompiledUnit {
  readonly config: Handle<"config">;
  readonly compiler: Handle<"compiler">;
  readonly library: Handle<"library">;
  readonly entry: Handle<"function">;
}

/** A program that is loaded, ready for ports to be bound. */
export interface Operation {
  readonly options: Handle<"operationOptions">;
  readonly operation: Handle<"operation">;
}

/** The Neural Engine alone: Espresso must not choose the processor or the GPU instead (documented bits: 1 CPU, 2 GPU, 4 ANE). */
const neuralEngine = 4;

/** Compiles a program and makes its first operation. Blocks for some 50 ms to minutes. @throws {EspressoError} with Espresso's message. */
export function buildUnit(espresso: Espresso, { mil, cache }: ProgramFiles): CompiledUnit & Operation {
  return espresso.pooled(() => espresso.captured(() => build(espresso, mil, cache)));
}

function build(espresso: Espresso, mil: string, cache: string): CompiledUnit & Operation {
  const config = espresso.make("e5_compiler_config_options_create");
  const owned = [() => espresso.release("e5_compiler_config_options_release", config)];
  try {
    espresso.call("e5_compiler_config_options_set_cache_bundle_location", config, cache);
    const compiler = espresso.make("e5_compiler_create_with_config", config);
    owned.push(() => espresso.release("e5_compiler_release", compiler));
    const options = espresso.make("e5_compiler_options_create");
    try {
      espresso.call("e5_compiler_options_set_compute_device_types_mask", options, neuralEngine);
      espresso.call("e5_compiler_options_set_force_recompilation", options, 1);
      espresso.call("e5_compiler_options_set_segmenter", options, "graph");
      const library = espresso.make("e5_compiler_compile", compiler, mil, options);
      owned.push(() => espresso.release("program_library_release", library));
      const entry = espresso.make("program_library_retain_program_function", library, "main");
      owned.push(() => espresso.release("program_function_release", entry));
      return { config, compiler, library, entry, ...makeOperation(espresso, entry) };
    } finally {
      espresso.release("e5_compiler_options_release", options);
    }
  } catch (error) {
    for (const release of owned.reverse()) release();
    throw error;
  }
}

/** Another operation of a compiled program, to be bound to other buffers. @throws {EspressoError} with Espresso's message. */
export function addOperation(espresso: Espresso, entry: Handle<"function">): Operation {
  return espresso.pooled(() => espresso.captured(() => makeOperation(espresso, entry)));
}

function makeOperation(espresso: Espresso, entry: Handle<"function">): Operation {
  const options = espresso.make("precompiled_compute_op_create_options_create_with_program_function", entry);
  try {
    espresso.call("precompiled_compute_op_create_options_set_operation_name", options, "main");
    espresso.call("precompiled_compute_op_create_options_set_allocate_intermediate_buffers", options, 1);
    const operation = espresso.make(
      "execution_stream_operation_create_precompiled_compute_operation_with_options",
      options,
    );
    return { options, operation };
  } catch (error) {
    espresso.release("precompiled_compute_op_create_options_release", options);
    throw error;
  }
}

export function releaseOperation(espresso: Espresso, { operation, options }: Operation): void {
  espresso.release("execution_stream_operation_release", operation);
  espresso.release("precompiled_compute_op_create_options_release", options);
}

export function releaseUnit(espresso: Espresso, { entry, library, compiler, config }: CompiledUnit): void {
  espresso.release("program_function_release", entry);
  espresso.release("program_library_release", library);
  espresso.release("e5_compiler_release", compiler);
  espresso.release("e5_compiler_config_options_release", config);
}

/** A port of an operation and the buffer behind it. */
export interface PortBinding {
  readonly name: string;
  readonly direction: "input" | "output";
  readonly buffer: Handle<"buffer">;
}

/** Operations with all their ports bound, encoded in one stream: what a run executes. */
export class BoundStream {
  readonly stream: Handle<"stream">;
  readonly #espresso: Espresso;
  readonly #operations: readonly Operation[];
  readonly #ports: Handle<"port">[] = [];

  /** Takes the operations over: where something fails they are released. @throws {EspressoError} with Espresso's message. */
  constructor(
    espresso: Espresso,
    parts: readonly { readonly operation: Operation; readonly ports: readonly PortBinding[] }[],
  ) {
    this.#espresso = espresso;
    this.#operations = parts.map(({ operation }) => operation);
    let stream: Handle<"stream"> | undefined;
    try {
      espresso.pooled(() =>
        espresso.captured(() => {
          this.#bind(parts);
          stream = espresso.make("execution_stream_create");
          for (const { operation } of this.#operations) {
            espresso.call("execution_stream_encode_operation", stream, operation);
          }
        }),
      );
    } catch (error) {
      espresso.pooled(() => this.#release(stream));
      throw error;
    }
    this.stream = stream!;
  }

  #bind(parts: ConstructorParameters<typeof BoundStream>[1]): void {
    const espresso = this.#espresso;
    for (const { operation, ports } of parts) {
      for (const { name, direction, buffer } of ports) {
        const port = espresso.make(`execution_stream_operation_retain_${direction}_port`, operation.operation, name);
        this.#ports.push(port);
        espresso.call("io_port_bind_buffer_object", port, buffer);
      }
    }
  }

  #release(stream: Handle<"stream"> | undefined): void {
    const espresso = this.#espresso;
    if (stream !== undefined) espresso.release("execution_stream_release", stream);
    for (const operation of this.#operations) releaseOperation(espresso, operation);
    for (const port of this.#ports) espresso.release("io_port_release", port);
  }

  release(): void {
    this.#espresso.pooled(() => this.#release(this.stream));
  }
}
