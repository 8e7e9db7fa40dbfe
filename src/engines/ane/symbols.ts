// Every symbol of Espresso's C interface that is documented, with its exact signature: the only place that knows argument orders.
// Source: ANEForge's e5rt reference (see docs/ane.md). All functions return an int64 error code, 0 for success.

/** Kinds of objects behind handles. */
export type Kind =
  | "config"
  | "compiler"
  | "options"
  | "library"
  | "function"
  | "operationOptions"
  | "operation"
  | "port"
  | "buffer"
  | "stream"
  | "event";

/** The address of one of Espresso's objects. */
export type Handle<K extends Kind> = number & { readonly kind: K };

/**
 * What an argument is: a handle (`compiler`), where one is stored (`out compiler`), the address of a handle that is given up (`release compiler`),
 * a number, a C string, or where a number is stored (`out uint64`).
 */
export type Argument =
  | Kind
  | `out ${Kind | "uint64" | "pointer" | "string"}`
  | `release ${Kind}`
  | "int"
  | "uint32"
  | "uint64"
  | "string"
  | "strings"
  | "handles"
  | "block";

/** Arguments by name without the prefix `e5rt_`. */
export const signatures = {
  e5_compiler_config_options_create: ["out config"],
  e5_compiler_config_options_release: ["release config"],
  e5_compiler_config_options_set_cache_bundle_location: ["config", "string"],
  e5_compiler_config_options_set_bundle_cache_apfs_purgeable: ["config", "int"],
  e5_compiler_create: ["out compiler"],
  e5_compiler_create_with_config: ["out compiler", "config"],
  e5_compiler_release: ["release compiler"],
  e5_compiler_compile: ["compiler", "string", "options", "out library"],
  e5_compiler_options_create: ["out options"],
  e5_compiler_options_release: ["release options"],
  e5_compiler_options_set_compute_device_types_mask: ["options", "uint64"],
  e5_compiler_options_get_compute_device_types_mask: ["options", "out uint64"],
  e5_compiler_options_set_custom_ane_compiler_options: ["options", "string"],
  e5_compiler_options_set_force_recompilation: ["options", "int"],
  e5_compiler_options_set_force_bnns_graph: ["options", "int"],
  e5_compiler_options_set_segmenter: ["options", "string"],
  e5_compiler_options_set_enable_profiling: ["options", "int"],
  program_library_create: ["out library", "string"],
  program_library_release: ["release library"],
  program_library_get_num_functions: ["library", "out uint64"],
  program_library_get_function_names: ["library", "uint64", "strings"],
  program_library_retain_program_function: ["library", "string", "out function"],
  program_function_release: ["release function"],
  program_function_get_name: ["function", "out string"],
  program_function_load_for_execution: ["function"],
  precompiled_compute_op_create_options_create_with_program_function: ["out operationOptions", "function"],
  precompiled_compute_op_create_options_release: ["release operationOptions"],
  precompiled_compute_op_create_options_set_operation_name: ["operationOptions", "string"],
  precompiled_compute_op_create_options_set_allocate_intermediate_buffers: ["operationOptions", "int"],
  execution_stream_operation_create_precompiled_compute_operation_with_options: ["out operation", "operationOptions"],
  execution_stream_operation_release: ["release operation"],
  execution_stream_operation_retain_input_port: ["operation", "string", "out port"],
  execution_stream_operation_retain_output_port: ["operation", "string", "out port"],
  execution_stream_operation_prepare_op_for_encode: ["operation"],
  execution_stream_operation_bind_completion_event: ["operation", "event"],
  execution_stream_operation_bind_dependent_events: ["operation", "handles", "uint64"],
  io_port_release: ["release port"],
  io_port_bind_buffer_object: ["port", "buffer"],
  buffer_object_alloc: ["out buffer", "uint64", "uint32"],
  buffer_object_release: ["release buffer"],
  buffer_object_get_data_ptr: ["buffer", "out pointer"],
  buffer_object_get_size: ["buffer", "out uint64"],
  execution_stream_create: ["out stream"],
  execution_stream_release: ["release stream"],
  execution_stream_encode_operation: ["stream", "operation"],
  execution_stream_execute_sync: ["stream"],
  execution_stream_submit_async: ["stream", "block"],
  execution_stream_reset: ["stream"],
  execution_stream_set_quality_of_service: ["stream", "uint64"],
  execution_stream_set_ane_execution_priority: ["stream", "uint64"],
  async_event_create: ["out event", "string", "uint32"],
  async_event_release: ["release event"],
  async_event_signal: ["event"],
  async_event_sync_wait: ["event"],
  async_event_get_last_signaled_value: ["event", "out uint64"],
  async_event_set_active_future_value: ["event", "uint64"],
} as const satisfies Readonly<Record<string, readonly Argument[]>>;

export type Symbol_ = keyof typeof signatures;

/** What the driver calls: an Espresso without one of these cannot be used. */
export const required = [
  "e5_compiler_config_options_create",
  "e5_compiler_config_options_release",
  "e5_compiler_config_options_set_cache_bundle_location",
  "e5_compiler_create_with_config",
  "e5_compiler_release",
  "e5_compiler_compile",
  "e5_compiler_options_create",
  "e5_compiler_options_release",
  "e5_compiler_options_set_compute_device_types_mask",
  "e5_compiler_options_set_force_recompilation",
  "e5_compiler_options_set_segmenter",
  "program_library_release",
  "program_library_retain_program_function",
  "program_function_release",
  "precompiled_compute_op_create_options_create_with_program_function",
  "precompiled_compute_op_create_options_release",
  "precompiled_compute_op_create_options_set_operation_name",
  "precompiled_compute_op_create_options_set_allocate_intermediate_buffers",
  "execution_stream_operation_create_precompiled_compute_operation_with_options",
  "execution_stream_operation_release",
  "execution_stream_operation_retain_input_port",
  "execution_stream_operation_retain_output_port",
  "io_port_release",
  "io_port_bind_buffer_object",
  "buffer_object_alloc",
  "buffer_object_release",
  "buffer_object_get_data_ptr",
  "execution_stream_create",
  "execution_stream_release",
  "execution_stream_encode_operation",
  "execution_stream_execute_sync",
] as const satisfies readonly Symbol_[];

/** Autorelease pools of libobjc; a double of Espresso brings its own. */
export const poolSymbols = { push: "objc_autoreleasePoolPush", pop: "objc_autoreleasePoolPop" } as const;
