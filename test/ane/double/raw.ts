// The double's functions as they are, for its tests: nothing of anekit's driver, no state but what a test holds.

import koffi from "koffi";

/** A handle, a NULL, a cell or another address; strings become NUL-terminated UTF-8. */
export type Argument = bigint | number | string | null | NodeJS.TypedArray;

/** Parameters: p pointer, i int, u uint32, q uint64. All return int64. */
const signatures = {
  e5_compiler_config_options_create: "p",
  e5_compiler_config_options_release: "p",
  e5_compiler_config_options_set_cache_bundle_location: "pp",
  e5_compiler_config_options_set_bundle_cache_apfs_purgeable: "pi",
  e5_compiler_create: "p",
  e5_compiler_create_with_config: "pp",
  e5_compiler_release: "p",
  e5_compiler_compile: "pppp",
  e5_compiler_options_create: "p",
  e5_compiler_options_release: "p",
  e5_compiler_options_set_compute_device_types_mask: "pq",
  e5_compiler_options_get_compute_device_types_mask: "pp",
  e5_compiler_options_set_custom_ane_compiler_options: "pp",
  e5_compiler_options_set_force_recompilation: "pi",
  e5_compiler_options_set_force_bnns_graph: "pi",
  e5_compiler_options_set_segmenter: "pp",
  e5_compiler_options_set_enable_profiling: "pi",
  program_library_create: "pp",
  program_library_release: "p",
  program_library_get_num_functions: "pp",
  program_library_get_function_names: "pqp",
  program_library_retain_program_function: "ppp",
  program_function_release: "p",
  program_function_get_name: "pp",
  program_function_load_for_execution: "p",
  precompiled_compute_op_create_options_create_with_program_function: "pp",
  precompiled_compute_op_create_options_release: "p",
  precompiled_compute_op_create_options_set_operation_name: "pp",
  precompiled_compute_op_create_options_set_allocate_intermediate_buffers: "pi",
  execution_stream_operation_create_precompiled_compute_operation_with_options: "pp",
  execution_stream_operation_release: "p",
  execution_stream_operation_retain_input_port: "ppp",
  execution_stream_operation_retain_output_port: "ppp",
  execution_stream_operation_prepare_op_for_encode: "p",
  execution_stream_operation_bind_completion_event: "pp",
  execution_stream_operation_bind_dependent_events: "ppq",
  io_port_release: "p",
  io_port_bind_buffer_object: "pp",
  buffer_object_alloc: "pqu",
  buffer_object_release: "p",
  buffer_object_get_data_ptr: "pp",
  buffer_object_get_size: "pp",
  execution_stream_create: "p",
  execution_stream_release: "p",
  execution_stream_encode_operation: "pp",
  execution_stream_execute_sync: "p",
  execution_stream_submit_async: "pp",
  execution_stream_async_submit: "pp",
  execution_stream_reset: "p",
  execution_stream_set_quality_of_service: "pq",
  execution_stream_set_ane_execution_priority: "pq",
  async_event_create: "ppu",
  async_event_release: "p",
  async_event_signal: "p",
  async_event_sync_wait: "p",
  async_event_get_last_signaled_value: "pp",
  async_event_set_active_future_value: "pq",
  error_code_get_string: "q",
} as const;
export type Name = keyof typeof signatures;

const types = { p: "void *", i: "int", u: "uint32_t", q: "uint64_t" } as const;

/** A cell for a handle or a number that the library writes. */
export function cell(value = 0n): BigUint64Array {
  return BigUint64Array.of(value);
}

type Native = ((...args: unknown[]) => unknown) & { async(...args: unknown[]): void };

/** The library, loaded. */
export class Raw {
  readonly #library: ReturnType<typeof koffi.load>;
  readonly #functions = new Map<string, Native>();
  readonly push: () => bigint;
  readonly pop: (pool: bigint) => void;
  readonly #report: (out: Uint8Array, size: number) => number | bigint;
  readonly #message: (out: Uint8Array, size: number) => void;
  readonly #counts: (out: BigUint64Array) => void;
  readonly resetReport: () => void;
  readonly configure: (text: string) => void;

  constructor(path: string) {
    const library = (this.#library = koffi.load(path));
    this.push = library.func("objc_autoreleasePoolPush", "uintptr_t", []) as unknown as () => bigint;
    this.pop = library.func("objc_autoreleasePoolPop", "void", ["uintptr_t"]) as unknown as (pool: bigint) => void;
    this.#report = library.func("espresso_double_report", "uint64_t", ["void *", "uint64_t"]) as never;
    this.#counts = library.func("espresso_double_counts", "void", ["void *"]) as never;
    this.#message = library.func("espresso_double_last_message", "void", ["void *", "uint64_t"]) as never;
    this.resetReport = library.func("espresso_double_reset_report", "void", []) as never;
    this.configure = library.func("espresso_double_configure", "void", ["str"]) as never;
  }

  has(name: string): boolean {
    try {
      this.#library.func(name, "int64_t", []);
      return true;
    } catch {
      return false;
    }
  }

  #function(name: Name): Native {
    let found = this.#functions.get(name);
    if (found === undefined) {
      const parameters = [...signatures[name]].map((letter) => types[letter as keyof typeof types]);
      found = this.#library.func(`e5rt_${name}`, "int64_t", parameters) as unknown as Native;
      this.#functions.set(name, found);
    }
    return found;
  }

  /** Calls `e5rt_<name>` and returns its code. */
  call(name: Name, ...args: Argument[]): number {
    return Number(this.#function(name)(...args.map(toNative)));
  }

  /** The same on one of libuv's threads. */
  callAsync(name: Name, ...args: Argument[]): Promise<number> {
    return new Promise((resolve, reject) => {
      const done = (error: unknown, code: unknown) => (error ? reject(error) : resolve(Number(code)));
      this.#function(name).async(...args.map(toNative), done);
    });
  }

  /** Memory behind an address. */
  memory(address: bigint, bytes: number): Uint8Array {
    return new Uint8Array(koffi.view(address, bytes));
  }

  text(address: bigint): string {
    return koffi.decode(address, "char", -1) as string;
  }

  /** Violations, live objects and pools, a line each. */
  report(): string[] {
    const out = new Uint8Array(1 << 18);
    const length = Number(this.#report(out, out.length));
    return new TextDecoder()
      .decode(out.subarray(0, Math.min(length, out.length - 1)))
      .split("\n")
      .slice(0, -1);
  }

  /** The last message that went to stderr. */
  message(): string {
    const out = new Uint8Array(2048);
    this.#message(out, out.length);
    return new TextDecoder().decode(out.subarray(0, out.indexOf(0)));
  }

  counts() {
    const out = new BigUint64Array(8);
    this.#counts(out);
    const [compiles, executes, liveHandles, livePrograms, peakPrograms, violations, bufferBytes, simulator] = [
      ...out,
    ].map(Number);
    return { compiles, executes, liveHandles, livePrograms, peakPrograms, violations, bufferBytes, simulator };
  }
}

function toNative(value: Argument): unknown {
  return typeof value === "string" ? Buffer.from(`${value}\0`, "utf8") : value;
}
