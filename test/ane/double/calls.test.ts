// Espresso's double refuses or records every call that deviates from the documented ones: raw calls, never through anekit's driver.

import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { openDouble } from "./open.ts";
import type { Sequence } from "./sequence.ts";

const { raw, path, start, violations } = await openDouble();

afterEach(() => {
  // Whatever a test did wrongly, it released what it made.
  if (path !== "") expect(raw.report().filter((line) => !line.startsWith("violation: "))).toEqual([]);
});

/** A wrong use: what it does, which violations it leaves, whether its last call works nevertheless. */
interface Wrong {
  readonly title: string;
  readonly run: (s: Sequence) => number;
  readonly says: readonly (string | RegExp)[];
  readonly works?: true;
}

const wrong = (title: string, run: Wrong["run"], ...says: (string | RegExp)[]): Wrong => ({ title, run, says });
const recorded = (title: string, run: Wrong["run"], ...says: (string | RegExp)[]): Wrong => ({
  title,
  run,
  says,
  works: true,
});

function released(s: Sequence, ...names: string[]): number {
  s.release(...names);
  return 0;
}

const handles: readonly Wrong[] = [
  wrong("NULL", (s) => s.raw.call("execution_stream_execute_sync", null), /stream is nullptr/),
  wrong(
    "a foreign address",
    (s) => s.raw.call("execution_stream_execute_sync", 0x123450n),
    /no object of this library/,
  ),
  wrong(
    "an object of another kind",
    (s) => s.raw.call("execution_stream_execute_sync", s.prepare().at("config")),
    /expected a execution stream, got: compiler config options #\d+ "" made by e5rt_e5_compiler_config_options_create/,
  ),
  wrong(
    "an object after its release",
    (s) => {
      const old = s.buffer("buffer").at("buffer");
      s.release("buffer");
      return s.raw.call("buffer_object_get_size", old, new BigUint64Array(1));
    },
    /used after its release: buffer object/,
  ),
  wrong(
    "a release with the handle instead of its address",
    (s) => s.raw.call("buffer_object_release", s.buffer("buffer").at("buffer")),
    /takes the address of the handle/,
  ),
  wrong(
    "a second release through the same cell",
    (s) => {
      s.buffer("buffer").release("buffer");
      return s.raw.call("buffer_object_release", s.cells.get("buffer")!);
    },
    /nothing to release/,
  ),
  wrong(
    "a second release through a copy of the handle",
    (s) => {
      const copy = BigUint64Array.of(s.buffer("buffer").at("buffer"));
      s.release("buffer");
      return s.raw.call("buffer_object_release", copy);
    },
    /used after its release/,
  ),
  wrong("a release of NULL", (s) => s.raw.call("io_port_release", null), /address of the handle is nullptr/),
  wrong(
    "a release of another kind",
    (s) => s.raw.call("io_port_release", s.buffer("buffer").cells.get("buffer")!),
    /expected a io port/,
  ),
];

const argumentOrders: readonly Wrong[] = [
  wrong(
    "program_library_create with its arguments reversed",
    (s) => s.raw.call("program_library_create", "bundle", s.out("library")),
    /Invalid E5 path specified. @ GetE5PathFromCompositeBundle/,
  ),
  wrong(
    "operation options with their arguments reversed",
    (s) => {
      s.options();
      const create = "precompiled_compute_op_create_options_create_with_program_function";
      return s.raw.call(create, s.at("function"), s.out("options #2"));
    },
    /Cannot provide program function as nullptr. @ Create/,
  ),
  wrong(
    "a compiler with its arguments reversed",
    (s) => s.raw.call("e5_compiler_create_with_config", s.prepare().at("config"), s.out("compiler #2")),
    /no object of this library/,
  ),
  wrong(
    "a handle in the place of the out pointer",
    (s) => s.raw.call("e5_compiler_create_with_config", s.prepare().at("config"), s.at("config")),
    /two threads|arguments in the wrong order: the place of the out pointer holds: compiler config options/,
  ),
  wrong(
    "compile with the library first",
    (s) => {
      s.prepare();
      return s.raw.call("e5_compiler_compile", s.out("library"), s.at("compiler"), s.path, s.at("compiler options"));
    },
    /no object of this library/,
  ),
  wrong(
    "ports with the name last",
    (s) =>
      s.operation().raw.call("execution_stream_operation_retain_input_port", s.at("operation"), s.out("in x"), "x"),
    /name is an empty string/,
  ),
  wrong("a NULL out pointer", (s) => s.raw.call("execution_stream_create", null), /out pointer is nullptr/),
  wrong(
    "an out cell that is not zero",
    (s) => s.raw.call("execution_stream_create", BigUint64Array.of(7n)),
    /must be zero before the call/,
  ),
  wrong(
    "a NULL string",
    (s) => s.prepare().raw.call("e5_compiler_options_set_segmenter", s.at("compiler options"), null),
    /value is NULL/,
  ),
  wrong(
    "an empty string",
    (s) => s.prepare().raw.call("e5_compiler_options_set_segmenter", s.at("compiler options"), ""),
    /empty string/,
  ),
  wrong(
    "text that is not UTF-8",
    (s) =>
      s.prepare().raw.call("e5_compiler_options_set_segmenter", s.at("compiler options"), Uint8Array.of(0xc0, 0x80, 0)),
    /not UTF-8/,
  ),
  wrong(
    "a string without end",
    (s) =>
      s
        .prepare()
        .raw.call("e5_compiler_options_set_segmenter", s.at("compiler options"), new Uint8Array(5000).fill(65)),
    /no end within/,
  ),
  wrong(
    "an event without a name",
    (s) => s.raw.call("async_event_create", s.out("event"), null, 0),
    /Invalid Function Argument: eventName is NULL/,
  ),
  wrong(
    "an out pointer that is the address of no pointer",
    (s) => s.raw.call("execution_stream_create", new Uint8Array(16).subarray(1)),
    /not the address of a pointer|must be zero/,
  ),
  wrong(
    "a handle in the place of a string",
    (s) => s.prepare().raw.call("e5_compiler_options_set_segmenter", s.at("compiler options"), s.at("config")),
    /arguments in the wrong order: value is a compiler config options/,
  ),
  wrong(
    "a number's NULL out pointer",
    (s) => s.buffer("buffer").raw.call("buffer_object_get_size", s.at("buffer"), null),
    /out pointer is nullptr/,
  ),
  wrong(
    "room for another number of names",
    (s) => {
      s.compile();
      return s.raw.call("program_library_get_function_names", s.at("library"), 2, new BigUint64Array(2));
    },
    /there are 1 functions, not 2/,
  ),
];

const compiling: readonly Wrong[] = [
  wrong(
    "a compiler whose config has no cache",
    (s) => {
      s.ok("e5_compiler_config_options_create", s.out("config"));
      return s.raw.call("e5_compiler_create_with_config", s.out("compiler"), s.at("config"));
    },
    /no cache bundle location/,
  ),
  wrong(
    "a cache that is not there",
    (s) => {
      s.ok("e5_compiler_config_options_create", s.out("config"));
      const set = "e5_compiler_config_options_set_cache_bundle_location";
      return s.raw.call(set, s.at("config"), join(s.folder, "nowhere"));
    },
    /is not a folder/,
  ),
  wrong(
    "a cache that takes no files",
    (s) => {
      s.prepare();
      s.ok(
        "e5_compiler_config_options_set_cache_bundle_location",
        s.at("config"),
        existsSync("/proc") ? "/proc" : "/dev",
      );
      return s.compile();
    },
    /cannot be written/,
  ),
  wrong(
    "a compiler without config",
    (s) => {
      s.prepare().release("compiler");
      s.ok("e5_compiler_create", s.out("compiler"));
      return s.compile();
    },
    /no config/,
  ),
  wrong(
    "a text that is not there",
    (s) => {
      s.prepare();
      rmSync(s.path);
      return s.compile();
    },
    /cannot open .*model\.mil/,
  ),
  wrong(
    "a folder instead of a text",
    (s) =>
      s
        .prepare()
        .raw.call("e5_compiler_compile", s.at("compiler"), s.folder, s.at("compiler options"), s.out("library")),
    /is not a file/,
  ),
  recorded(
    "options without mask, recompilation and segmenter",
    (s) => {
      s.prepare().release("compiler options");
      s.ok("e5_compiler_options_create", s.out("compiler options"));
      return s.compile();
    },
    /mask picks another device/,
    /force_recompilation is not set/,
    /segmenter is not set/,
  ),
  recorded(
    "a mask that lets others in",
    (s) => {
      s.prepare().ok("e5_compiler_options_set_compute_device_types_mask", s.at("compiler options"), 7);
      return s.compile();
    },
    /mask picks another device: 0x7/,
  ),
  wrong(
    "a mask of nothing",
    (s) => s.prepare().raw.call("e5_compiler_options_set_compute_device_types_mask", s.at("compiler options"), 0),
    /names no device/,
  ),
  wrong(
    "an unknown segmenter",
    (s) => s.prepare().raw.call("e5_compiler_options_set_segmenter", s.at("compiler options"), "grape"),
    /unknown segmenter/,
  ),
  wrong(
    "a flag that is neither 0 nor 1",
    (s) => s.prepare().raw.call("e5_compiler_options_set_force_recompilation", s.at("compiler options"), 2),
    /neither 0 nor 1/,
  ),
  recorded(
    "BNNS",
    (s) => s.prepare().raw.call("e5_compiler_options_set_force_bnns_graph", s.at("compiler options"), 1),
    /BNNS is the CPU/,
  ),
  recorded(
    "an unknown architecture",
    (s) => {
      const set = "e5_compiler_options_set_custom_ane_compiler_options";
      s.prepare().ok(set, s.at("compiler options"), "TargetArchitecture=zzz");
      return s.compile();
    },
    /"zzz" is unknown/,
  ),
  recorded(
    "another custom option",
    (s) => {
      const set = "e5_compiler_options_set_custom_ane_compiler_options";
      s.prepare().ok(set, s.at("compiler options"), "Speed=11");
      return s.compile();
    },
    /only TargetArchitecture= is known/,
  ),
  recorded(
    "a compiler that is released before the operation is made",
    (s) => {
      s.options().releaseCompiler();
      return s.make();
    },
    /compiler or its config was released before the operation was made/,
  ),
  recorded(
    "a config that is released before its compiler",
    (s) => released(s.prepare(), "config"),
    /released before the compiler/,
  ),
  wrong(
    "a function that is not main",
    (s) => {
      s.compile();
      return s.raw.call("program_library_retain_program_function", s.at("library"), "side", s.out("function"));
    },
    /no program function "side"/,
  ),
  wrong(
    "an operation without a name",
    (s) => {
      s.options().release("options");
      s.ok("precompiled_compute_op_create_options_create_with_program_function", s.out("options"), s.at("function"));
      s.ok("precompiled_compute_op_create_options_set_allocate_intermediate_buffers", s.at("options"), 1);
      return s.make();
    },
    /has no name/,
  ),
  wrong(
    "an operation without intermediate buffers",
    (s) => {
      s.options().ok("precompiled_compute_op_create_options_set_allocate_intermediate_buffers", s.at("options"), 0);
      return s.make();
    },
    /allocate_intermediate_buffers is not set/,
  ),
  recorded(
    "another operation name",
    (s) => s.options().raw.call("precompiled_compute_op_create_options_set_operation_name", s.at("options"), "op0"),
    /only "main" is known/,
  ),
  wrong("the text of an error code", (s) => s.raw.call("error_code_get_string", 11), /C\+\+ string/),
  wrong(
    "a compile after the config's release",
    (s) => {
      s.prepare().release("config");
      return s.compile();
    },
    /released before the compiler made from it/,
    /compiler's config was released/,
  ),
  wrong(
    "operation options after the library's release",
    (s) => {
      s.compile();
      s.ok("program_library_retain_program_function", s.at("library"), "main", s.out("function"));
      s.release("library");
      const create = "precompiled_compute_op_create_options_create_with_program_function";
      return s.raw.call(create, s.out("options"), s.at("function"));
    },
    /released before a function of it/,
    /library of the function was released/,
  ),
  wrong(
    "loading a function after the library's release",
    (s) => {
      s.compile();
      s.ok("program_library_retain_program_function", s.at("library"), "main", s.out("function"));
      s.release("library");
      return s.raw.call("program_function_load_for_execution", s.at("function"));
    },
    /released before a function of it/,
    /library of the function was released/,
  ),
  wrong(
    "making an operation after the function's release",
    (s) => {
      s.options().release("function");
      return s.make();
    },
    /released before operation options/,
    /function of the options was released/,
  ),
];

const bindings: readonly Wrong[] = [
  wrong(
    "an unknown port",
    (s) =>
      s.operation().raw.call("execution_stream_operation_retain_input_port", s.at("operation"), "z", s.out("in z")),
    /no input port "z"/,
  ),
  wrong(
    "an output as an input",
    (s) =>
      s.operation().raw.call("execution_stream_operation_retain_input_port", s.at("operation"), "y", s.out("in y")),
    /no input port "y"/,
  ),
  wrong(
    "a buffer below the port's size",
    (s) => {
      s.operation().port("in", "x", 0).ok("buffer_object_alloc", s.out("buffer"), 8, 0);
      return s.raw.call("io_port_bind_buffer_object", s.at("in x"), s.at("buffer"));
    },
    /port "x" needs 12 bytes, the buffer has 8/,
  ),
  wrong(
    "a buffer of no multiple of 64 bytes",
    (s) => {
      s.operation().port("in", "x", 0).ok("buffer_object_alloc", s.out("buffer"), 12, 0);
      return s.raw.call("io_port_bind_buffer_object", s.at("in x"), s.at("buffer"));
    },
    /no multiple of 64/,
  ),
  recorded("another buffer type", (s) => s.raw.call("buffer_object_alloc", s.out("buffer"), 64, 2), /only 0 is known/),
  wrong(
    "a buffer type that is none",
    (s) => s.raw.call("buffer_object_alloc", s.out("buffer"), 64, 3),
    /Invalid BufferType @ AllocMemory/,
  ),
  wrong("a buffer of no bytes", (s) => s.raw.call("buffer_object_alloc", s.out("buffer"), 0, 0), /0 bytes/),
  wrong(
    "a port without buffer at the encode",
    (s) => {
      s.operation().port("in", "x").port("in", "w").port("out", "y");
      s.ok("execution_stream_create", s.out("stream"));
      return s.raw.call("execution_stream_encode_operation", s.at("stream"), s.at("operation"));
    },
    /port "w2" has no buffer/,
  ),
  wrong(
    "a port that was released before the encode",
    (s) => {
      s.operation().ports().release("in x");
      s.ok("execution_stream_create", s.out("stream"));
      return s.raw.call("execution_stream_encode_operation", s.at("stream"), s.at("operation"));
    },
    /port "x" was released/,
  ),
  wrong(
    "binding a released port",
    (s) => {
      const port = s.operation().ports().at("in x");
      s.release("in x");
      return s.raw.call("io_port_bind_buffer_object", port, s.at("buffer in x"));
    },
    /used after its release: io port/,
  ),
  wrong(
    "binding after the encode",
    (s) => s.ready().buffer("buffer other").raw.call("io_port_bind_buffer_object", s.at("in x"), s.at("buffer other")),
    /operation is encoded/,
  ),
  wrong(
    "binding after a reset without prepare",
    (s) => {
      s.ready().ok("execution_stream_reset", s.at("stream"));
      return s.raw.call("io_port_bind_buffer_object", s.at("in x"), s.at("buffer in w"));
    },
    /operation is encoded/,
  ),
  wrong(
    "two outputs in one buffer",
    (s) => {
      s.operation().port("in", "x").port("in", "w").port("out", "y").port("out", "w2", "out y");
      s.ok("execution_stream_create", s.out("stream"));
      return s.raw.call("execution_stream_encode_operation", s.at("stream"), s.at("operation"));
    },
    /outputs "y" and "w2" are bound to the same buffer/,
  ),
  wrong(
    "sharing an input's buffer with an output after the first encode",
    (s) => {
      s.ready().ok("execution_stream_reset", s.at("stream"));
      s.ok("execution_stream_operation_prepare_op_for_encode", s.at("operation"));
      s.ok("io_port_bind_buffer_object", s.at("out w2"), s.at("buffer in w"));
      return s.raw.call("execution_stream_encode_operation", s.at("stream"), s.at("operation"));
    },
    /shares the buffer of input "w" only since the first encode/,
  ),
  wrong(
    "executing after a buffer's release",
    (s) => {
      s.ready().release("buffer out y");
      return s.execute();
    },
    /buffer_object_release: released while an encoded operation and its stream live/,
    /buffer of port "y" was released/,
  ),
  wrong(
    "binding a port after the operation's release",
    (s) => {
      s.operation().ports().release("operation");
      return s.raw.call("io_port_bind_buffer_object", s.at("in x"), s.at("buffer in x"));
    },
    /operation of the port was released/,
  ),
  wrong(
    "ports after the options' release",
    (s) => {
      s.operation().release("options");
      return s.raw.call("execution_stream_operation_retain_input_port", s.at("operation"), "x", s.out("in x"));
    },
    /released before the operation/,
    /options of the operation was released before it/,
  ),
  wrong(
    "more bytes than there are",
    (s) => s.raw.call("buffer_object_alloc", s.out("buffer"), 2 ** 40, 0),
    /1099511627776 bytes/,
  ),
];

const streams: readonly Wrong[] = [
  wrong(
    "executing an empty stream",
    (s) => {
      s.ok("execution_stream_create", s.out("stream"));
      return s.execute();
    },
    /nothing is encoded/,
  ),
  wrong(
    "resetting a fresh stream",
    (s) => {
      s.ok("execution_stream_create", s.out("stream"));
      return s.raw.call("execution_stream_reset", s.at("stream"));
    },
    /fresh stream/,
  ),
  wrong(
    "preparing an operation that was never encoded",
    (s) => s.operation().raw.call("execution_stream_operation_prepare_op_for_encode", s.at("operation")),
    /Op has not been encoded and hence cannot be reset to 'ReadyForEncode'/,
  ),
  wrong(
    "preparing an operation before the reset of its stream",
    (s) => s.ready().raw.call("execution_stream_operation_prepare_op_for_encode", s.at("operation")),
    /must be reset first/,
  ),
  wrong(
    "encoding twice",
    (s) => s.ready().raw.call("execution_stream_encode_operation", s.at("stream"), s.at("operation")),
    /encoded in this stream/,
  ),
  wrong(
    "encoding in two streams",
    (s) => {
      s.ready().ok("execution_stream_create", s.out("stream #2"));
      return s.raw.call("execution_stream_encode_operation", s.at("stream #2"), s.at("operation"));
    },
    /encoded in another stream/,
  ),
  wrong(
    "encoding again without prepare",
    (s) => {
      s.ready().ok("execution_stream_reset", s.at("stream"));
      return s.raw.call("execution_stream_encode_operation", s.at("stream"), s.at("operation"));
    },
    /not ReadyForEncode/,
  ),
  wrong(
    "executing after the operation's release",
    (s) => {
      s.ready().release("operation");
      return s.execute();
    },
    /encoded operation was released/,
  ),
  wrong(
    "executing after the library's release",
    (s) => {
      s.ready().release("library");
      return s.execute();
    },
    /program_library_release: released before a function of it/,
    /library of the operation was released before it/,
  ),
  recorded(
    "operation options that are released first",
    (s) => released(s.operation(), "options"),
    /released before the operation/,
  ),
  recorded(
    "a function that is released first",
    (s) => released(s.operation(), "function"),
    /released before operation options/,
  ),
  recorded(
    "a port of an encoded operation",
    (s) => released(s.ready(), "in x"),
    /released while its encoded operation/,
  ),
  recorded(
    "an event of an encoded operation",
    (s) => {
      s.operation().ports().ok("async_event_create", s.out("event"), "op0_complete", 0);
      s.ok("execution_stream_operation_bind_completion_event", s.at("operation"), s.at("event"));
      return released(s.encode(), "event");
    },
    /released while its encoded operation/,
  ),
  recorded(
    "a stream that is released between its operations",
    (s) => {
      s.ready();
      using other = start().operation().ports();
      s.ok("execution_stream_encode_operation", s.at("stream"), other.at("operation"));
      other.release("operation");
      return released(s, "stream");
    },
    /after 1 of its 2 operations/,
  ),
  wrong(
    "binding an event after the encode",
    (s) => {
      s.ready().ok("async_event_create", s.out("event"), "op0_complete", 0);
      return s.raw.call("execution_stream_operation_bind_completion_event", s.at("operation"), s.at("event"));
    },
    /operation is encoded/,
  ),
  wrong(
    "waiting for what nobody signals",
    (s) => {
      s.ok("async_event_create", s.out("event"), "e", 0);
      s.ok("async_event_set_active_future_value", s.at("event"), 1);
      return s.raw.call("async_event_sync_wait", s.at("event"));
    },
    /would wait for ever/,
  ),
  wrong(
    "submitting a NULL block",
    (s) => s.ready().raw.call("execution_stream_submit_async", s.at("stream"), null),
    /block is NULL/,
  ),
  wrong(
    "the older name of submit_async",
    (s) => s.ready().raw.call("execution_stream_async_submit", s.at("stream"), null),
    /Use submit_async/,
  ),
  wrong(
    "a quality of service that nobody has",
    (s) => s.ready().raw.call("execution_stream_set_quality_of_service", s.at("stream"), 64),
    /quality of service 64/,
  ),
  wrong(
    "a priority that nobody has",
    (s) => s.ready().raw.call("execution_stream_set_ane_execution_priority", s.at("stream"), 64),
    /priority 64/,
  ),
  wrong(
    "no dependent events",
    (s) => s.operation().raw.call("execution_stream_operation_bind_dependent_events", s.at("operation"), null, 0),
    /0 events/,
  ),
  wrong(
    "a dependent event that is none",
    (s) => {
      const events = BigUint64Array.of(s.operation().at("operation"));
      return s.raw.call("execution_stream_operation_bind_dependent_events", s.at("operation"), events, 1);
    },
    /expected a async event/,
  ),
  wrong(
    "a completion event of two operations",
    (s) => {
      s.operation().ok("async_event_create", s.out("event"), "op0_complete", 0);
      s.ok("execution_stream_operation_bind_completion_event", s.at("operation"), s.at("event"));
      using other = start().operation();
      return s.raw.call("execution_stream_operation_bind_completion_event", other.at("operation"), s.at("event"));
    },
    /bound to another operation/,
  ),
  wrong(
    "a future that is past",
    (s) => {
      s.ok("async_event_create", s.out("event"), "e", 3);
      return s.raw.call("async_event_set_active_future_value", s.at("event"), 3);
    },
    /future value 3 is not above/,
  ),
  wrong(
    "a handle as block",
    (s) => s.ready().raw.call("execution_stream_submit_async", s.at("stream"), s.at("operation")),
    /is no block/,
  ),
];

describe.each([
  ["handles", handles],
  ["arguments", argumentOrders],
  ["compiling", compiling],
  ["ports and buffers", bindings],
  ["operations and streams", streams],
] as const)("%s", (_title, cases) => {
  test.each(cases)("$title", ({ run, says, works }) => {
    let code: number;
    {
      using s = start();
      code = run(s);
    }
    const found = violations();
    expect(found, found.join("\n")).toHaveLength(says.length);
    for (const [i, text] of says.entries()) expect(found[i]).toMatch(text);
    if (works) expect(code).toBe(0);
    else expect(code).not.toBe(0);
  });
});

test("order=strict: a port is released after its buffer", () => {
  raw.configure("order=strict");
  {
    using s = start().operation().ports();
    s.release("in x");
  }
  expect(violations()).toEqual([expect.stringMatching(/released before the buffer/)]);
});
