// Espresso's double refuses every deviation from the documented calls: raw calls into the library, never through anekit's driver.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { BlobWriter } from "../../../src/mil/blob.ts";
import { buildDouble, doubleEnvironment, Missing } from "./build.ts";
import type { Raw } from "./raw.ts";
import { Sequence, sample } from "./sequence.ts";

const folder = mkdtempSync(join(tmpdir(), "anekit-double-"));
let missing: string | undefined;
let path = "";
let raw: Raw;
try {
  path = buildDouble();
  Object.assign(process.env, doubleEnvironment("", { log: join(folder, "simulator.log") }));
  const koffi = await import("koffi").then(
    (module) => module.default,
    (error: Error) => {
      throw new Missing(`koffi cannot be loaded: ${error.message}`);
    },
  );
  koffi.config({ sync_stack_size: 4 << 20, async_stack_size: 4 << 20 });
  const { Raw: Library } = await import("./raw.ts");
  raw = new Library(path);
} catch (error) {
  if (!(error instanceof Missing)) throw error;
  missing = error.message;
}

const one = 0x3c00;
const two = 0x4000;

beforeEach(({ skip }) => {
  if (missing !== undefined) skip(missing);
  raw.configure("");
  raw.resetReport();
});

afterEach(() => {
  if (missing === undefined && expect.getState().currentTestName !== undefined) {
    // Whatever a test did wrongly, it released what it made.
    expect(raw.report().filter((line) => !line.startsWith("violation: "))).toEqual([]);
  }
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function start(options?: ConstructorParameters<typeof Sequence>[2]): Sequence {
  return new Sequence(raw, folder, options);
}

/** Violations since the last look, without place and thread. */
function violations(): string[] {
  const lines = raw.report().filter((line) => line.startsWith("violation: "));
  raw.resetReport();
  return lines.map((line) => line.replace(/^violation: /, "").replace(/ \(thread \d+\)$/, ""));
}

describe("the documented sequence", () => {
  test("computes and leaves nothing, released in the first documented order", () => {
    {
      using s = start().ready();
      s.bits("buffer in x").fill(two);
      s.bits("buffer in w").fill(one);
      expect(s.execute()).toBe(0);
      expect([...s.bits("buffer out y").slice(0, 7)]).toEqual([two, two, two, two, two, two, 0]);
      expect([...s.bits("buffer out w2").slice(0, 7)]).toEqual([...Array(6).fill(0x4200), 0]);
      expect(s.execute()).toBe(0);
    }
    expect(raw.report()).toEqual([]);
    expect(raw.counts()).toMatchObject({ liveHandles: 0, livePrograms: 0, bufferBytes: 0, violations: 0 });
    expect(raw.counts().compiles).toBeGreaterThan(0);
  });

  test("may be released in the other documented order, the stream first", () => {
    const s = start().ready();
    expect(s.execute()).toBe(0);
    s.release("stream");
    for (const port of ["in x", "in w", "out y", "out w2"]) s.release(`buffer ${port}`, port);
    s.release("operation", "options", "function", "library");
    s.close();
    expect(raw.report()).toEqual([]);
  });

  test("gives new numbers after a stream was reset and the operation prepared and bound anew", () => {
    using s = start().ready();
    s.ok("execution_stream_reset", s.at("stream"));
    s.ok("execution_stream_operation_prepare_op_for_encode", s.at("operation"));
    s.buffer("buffer other").bits("buffer other").fill(two);
    s.bits("buffer in x").fill(two);
    s.ok("io_port_bind_buffer_object", s.at("in w"), s.at("buffer other"));
    s.ok("execution_stream_encode_operation", s.at("stream"), s.at("operation"));
    expect(s.execute()).toBe(0);
    expect(s.bits("buffer out y")[0]).toBe(0x4400);
    expect(violations()).toEqual([]);
  });

  test("runs several operations of a stream in order", () => {
    using first = start().operation().ports();
    using second = start().operation();
    second.cells.set("buffer link", first.cells.get("buffer out y")!);
    second.port("in", "x", "link").port("in", "w").port("out", "y").port("out", "w2");
    first.encode();
    first.ok("execution_stream_encode_operation", first.at("stream"), second.at("operation"));
    first.bits("buffer in x").fill(two);
    first.bits("buffer in w").fill(two);
    second.bits("buffer in w").fill(two);
    expect(first.execute()).toBe(0);
    expect(second.bits("buffer out y")[0]).toBe(0x4800);
    second.cells.delete("buffer link");
    second.release("operation");
    first.release("operation");
    expect(violations()).toEqual([]);
  });

  test("reads weights from the file beside the text", () => {
    using s = start(weighted(weights()));
    s.operation().port("in", "x").port("out", "y").encode();
    s.bits("buffer in x").fill(one);
    expect(s.execute()).toBe(0);
    expect([...s.bits("buffer out y").slice(0, 4)]).toEqual([one, two, one, two]);
    expect(violations()).toEqual([]);
  });

  test("advances completion events under submit_async only, and calls the block", async () => {
    using s = start().operation().ports();
    s.ok("async_event_create", s.out("event"), "op0_complete", 0);
    s.ok("execution_stream_operation_bind_completion_event", s.at("operation"), s.at("event"));
    s.ok("async_event_set_active_future_value", s.at("event"), 1);
    s.encode();
    const value = new BigUint64Array(1);
    expect(s.execute()).toBe(0);
    s.ok("async_event_get_last_signaled_value", s.at("event"), value);
    expect(value[0]).toBe(0n);
    const { default: koffi } = await import("koffi");
    const block = BigUint64Array.of(0n, 0n, BigInt(koffi.load(null).symbol("getpid") as unknown as bigint));
    s.ok("execution_stream_submit_async", s.at("stream"), block);
    s.ok("async_event_sync_wait", s.at("event"));
    s.ok("async_event_get_last_signaled_value", s.at("event"), value);
    expect(value[0]).toBe(1n);
    await new Promise((resolve) => setTimeout(resolve, 50)); // the block is called after the events
    expect(violations()).toEqual([]);
  });

  test("loads a bundle of this process and no other", () => {
    using s = start().operation();
    const [bundle] = readdir(join(s.folder, "cache"));
    expect(readFileSync(join(bundle!, "analytics.mil"), "utf8")).toContain('SelectedBackend = string("ane")');
    s.ok("program_library_create", s.out("library #2"), bundle!);
    const count = new BigUint64Array(1);
    s.ok("program_library_get_num_functions", s.at("library #2"), count);
    expect(count[0]).toBe(1n);
    expect(raw.call("program_library_create", new BigUint64Array(1), s.folder)).not.toBe(0);
    expect(violations()).toEqual([]);
  });
});

function readdir(at: string): string[] {
  return spawnSync("ls", [at], { encoding: "utf8" })
    .stdout.trim()
    .split("\n")
    .map((name) => join(at, name));
}

// ------------------------------------------------------------------------------------------------------- wrong calls

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

// ------------------------------------------------------------------------------------------------ threads and pools

describe("threads and pools", () => {
  test("a call without a pool is recorded", () => {
    const out = new BigUint64Array(1);
    expect(raw.call("execution_stream_create", out)).toBe(0);
    expect(violations()).toEqual(["e5rt_execution_stream_create: no autorelease pool on this thread"]);
    expect(raw.call("execution_stream_release", out)).toBe(0);
  });

  test("two executes of a stream at once, or any two calls on an object", async () => {
    using s = start().prepare();
    raw.configure("slow-compile=300");
    const out = s.out("library");
    const compile = raw.callAsync("e5_compiler_compile", s.at("compiler"), s.path, s.at("compiler options"), out);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const code = raw.call("e5_compiler_options_set_force_recompilation", s.at("compiler options"), 1);
    expect(code).not.toBe(0);
    expect(await compile).toBe(0);
    expect(violations()).toEqual([
      expect.stringMatching(/no autorelease pool on this thread/),
      expect.stringMatching(/two threads at once: e5rt_e5_compiler_compile runs on thread \d+ with the same object/),
    ]);
  });

  test("two executes of a stream", async () => {
    using s = start().ready();
    raw.configure("slow-execute=200");
    const run = raw.callAsync("execution_stream_execute_sync", s.at("stream"));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(s.execute()).not.toBe(0);
    expect(await run).toBe(0);
    expect(violations()).toContainEqual(
      expect.stringMatching(/two threads at once: e5rt_execution_stream_execute_sync/),
    );
  });

  test("threads=strict: an object is used on the thread that made it", async () => {
    using s = start().ready();
    raw.configure("threads=strict");
    expect(await raw.callAsync("buffer_object_get_size", s.at("buffer in x"), new BigUint64Array(1))).toBe(0);
    expect(violations()).toEqual([expect.stringMatching(/used on another thread: buffer object/)]);
  });

  test("a pool that is popped twice, out of order, or never made", () => {
    const outer = raw.push();
    const inner = raw.push();
    raw.pop(outer);
    expect(violations()).toEqual([expect.stringMatching(/before the pools that were pushed after it/)]);
    raw.pop(inner);
    raw.pop(outer);
    raw.pop(0x1230n);
    const texts = violations();
    expect(texts).toHaveLength(3);
    for (const text of texts) expect(text).toMatch(/Invalid or prematurely-freed autorelease pool/);
  });
});

// ----------------------------------------------------------------------------------------------------- configuration

describe("configuration", () => {
  test("limit: one program too many does not load, and a release makes room", () => {
    using a = start().ready();
    using b = start().ready();
    using c = start().options();
    raw.configure(`limit=${raw.counts().livePrograms}`);
    expect(c.make()).not.toBe(0);
    a.release("stream", "operation");
    expect(c.make()).not.toBe(0); // the library still holds its program
    a.release("options", "function", "library");
    expect(c.make()).toBe(0);
    c.release("compiler options", "compiler", "config");
    expect(b.execute()).toBe(0);
    expect(violations()).toEqual([]);
  });

  test("by default 128 programs load, and one more does not", () => {
    raw.configure("compute=none");
    const all = Array.from({ length: 129 }, () => start().options());
    const codes = all.map((s) => s.make());
    for (const s of all.reverse()) s.close(); // pools are popped inside out
    expect(codes.slice(0, 128)).toEqual(Array(128).fill(0));
    expect(codes[128]).not.toBe(0);
    expect(raw.counts()).toMatchObject({ livePrograms: 0, peakPrograms: 128 });
    expect(violations()).toEqual([]);
  });

  test("fail-compiles and poison: so many compiles fail, and for so long the next ones", async () => {
    raw.configure("fail-compiles=1;poison=150");
    using s = start();
    expect(s.compile()).not.toBe(0);
    expect(s.compile()).not.toBe(0);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(s.compile()).toBe(0);
    expect(violations()).toEqual([]);
  });

  test("zeros, zeros-op and nan-op: outputs are wrong without a word", () => {
    using s = start().ready();
    s.bits("buffer in x").fill(two);
    s.bits("buffer in w").fill(two);
    raw.configure("zeros=1");
    expect(s.execute()).toBe(0);
    expect(s.bits("buffer out y")[0]).toBe(0);
    raw.configure("zeros-op=mul;nan-op=add");
    using t = start().ready();
    t.bits("buffer in x").fill(two);
    expect(t.execute()).toBe(0);
    expect([t.bits("buffer out y")[0], t.bits("buffer out w2")[0]]).toEqual([0, 0x7e00]);
    expect(violations()).toEqual([]);
  });

  test("refuse-op: a program with that operator does not compile", () => {
    using s = start().prepare();
    raw.configure("refuse-op=tanh,mul");
    expect(s.compile()).not.toBe(0);
    raw.configure("refuse-op=tanh");
    expect(s.compile()).toBe(0);
    expect(violations()).toEqual([]);
  });

  test("compute=none: state is checked and no data touched", () => {
    raw.configure("compute=none");
    using s = start({ functions: sample.replaceAll("mul(", "frobnicate(") }).ready();
    s.bits("buffer out y").fill(7);
    expect(s.execute()).toBe(0);
    expect(s.bits("buffer out y")[0]).toBe(7);
    expect(violations()).toEqual([]);
  });

  test("an unknown key or value is an error, not a default", () => {
    for (const config of ["chpi=h13", "chip=h99", "os=x", "concat=maybe", "nonsense"]) {
      raw.configure(config);
      using s = start();
      expect(s.compile(), config).not.toBe(0);
    }
    raw.configure("");
    expect(violations()).toEqual([]);
  });

  test("a program for a later family does not load, one for an earlier does", () => {
    raw.configure("chip=h14;cast=accept;os=26");
    for (const [target, loads] of [
      ["h16", false],
      ["h13", true],
    ] as const) {
      using s = start().prepare();
      const set = "e5_compiler_options_set_custom_ane_compiler_options";
      s.ok(set, s.at("compiler options"), `TargetArchitecture=${target}`);
      s.options();
      expect(s.make() === 0, target).toBe(loads);
    }
    expect(violations()).toEqual([]);
  });

  test("a library may lack functions", () => {
    const name = "e5rt_e5_compiler_options_set_enable_profiling";
    expect(raw.has(name)).toBe(true);
    const { Raw: Library } = { Raw: raw.constructor as new (path: string) => Raw };
    const without = new Library(buildDouble({ without: [name] }));
    expect(without.has(name)).toBe(false);
    expect(without.has("e5rt_execution_stream_create")).toBe(true);
  });
});

// ---------------------------------------------------------------------------------------------------------- adversary

describe("stores in place", () => {
  test("happen as early as data dependence permits: what reads the input later reads the new value", () => {
    using s = start().ready(true);
    s.bits("buffer in x").fill(two);
    s.bits("buffer in w").fill(one);
    expect(s.execute()).toBe(0);
    expect(s.bits("buffer in w")[0]).toBe(0x4200); // 1 + 2
    expect(s.bits("buffer out y")[0]).toBe(0x4600); // 2 * 3, though mul comes first in the text
    expect(violations()).toEqual([]);
  });

  test("leave readers alone that come before by data dependence", () => {
    using s = start({
      functions: `
    func main<ios18>(tensor<fp16, [2, 3]> x, tensor<fp16, [2, 3]> w) {
        tensor<fp16, [2, 3]> y = mul(x = x, y = w)[name = string("y")];
        tensor<fp16, [2, 3]> w2 = add(x = w, y = y)[name = string("w2")];
    } -> (y, w2);`,
    }).ready(true);
    s.bits("buffer in x").fill(two);
    s.bits("buffer in w").fill(one);
    expect(s.execute()).toBe(0);
    expect([s.bits("buffer in w")[0], s.bits("buffer out y")[0]]).toEqual([0x4200, two]);
    expect(violations()).toEqual([]);
  });

  test("happen while their producer reads, element by element", () => {
    const transposing = (tail: string) => `
    func main<ios18>(tensor<fp16, [4, 4]> w) {
        tensor<int32, [2]> p = const()[name = string("p"), val = tensor<int32, [2]>([1, 0])];
        tensor<fp16, [4, 4]> w2 = ${tail};
    } -> (w2);`;
    const result = (tail: string) => {
      using s = start({ functions: transposing(tail) })
        .operation()
        .port("in", "w")
        .port("out", "w2", "in w")
        .encode();
      s.bits("buffer in w").set([...Array(16).keys()].map((i) => 0x3c00 + i));
      expect(s.execute()).toBe(0);
      return [...s.bits("buffer in w").slice(0, 16)].map((bits) => bits - 0x3c00);
    };
    const right = [...Array(16).keys()].map((i) => (i % 4) * 4 + (i >> 2));
    expect(result('transpose(perm = p, x = w)[name = string("w2")]')).not.toEqual(right);
    expect(result('relu(x = w)[name = string("w2")]')).toEqual([...Array(16).keys()]);
  });

  test("views=1: a reshape of the input shows what was stored", () => {
    const functions = `
    func main<ios18>(tensor<fp16, [2, 3]> x, tensor<fp16, [2, 3]> w) {
        tensor<int32, [2]> s = const()[name = string("s"), val = tensor<int32, [2]>([3, 2])];
        tensor<fp16, [3, 2]> v = reshape(x = w, shape = s)[name = string("v")];
        tensor<fp16, [2, 3]> w2 = add(x = w, y = x)[name = string("w2")];
        tensor<fp16, [3, 2]> y = add(x = v, y = v)[name = string("y")];
    } -> (y, w2);`;
    // The store waits for the reshape, so that its result is there before.
    const waiting = functions.replace("add(x = w, y = x)", "add(x = w, y = u)").replace(
      "tensor<fp16, [2, 3]> w2",
      `tensor<int32, [2]> r = const()[name = string("r"), val = tensor<int32, [2]>([2, 3])];
        tensor<fp16, [2, 3]> u = reshape(x = v, shape = r)[name = string("u")];
        tensor<fp16, [2, 3]> w2`,
    );
    const result = (config: string) => {
      raw.configure(`${config};unused-inputs=accept`);
      using s = start({ functions: waiting }).ready(true);
      s.bits("buffer in w").fill(one);
      expect(s.execute()).toBe(0);
      return s.bits("buffer out y")[0];
    };
    expect(result("views=0")).toBe(two);
    expect(result("views=1")).toBe(0x4400);
    expect(violations()).toEqual([]);
  });
});

// ------------------------------------------------------------------------------------------------------ weight files

function weights(): Uint8Array {
  const writer = new BlobWriter();
  const bits = Uint16Array.of(one, two, one, two, one, two, one, two);
  writer.add("fp16", new Uint8Array(bits.buffer));
  return writer.finish();
}

function weighted(bytes: Uint8Array, blob = 'path = string("@model_path/weights.bin"), offset = uint64(64)') {
  return {
    weights: { "weights.bin": bytes },
    functions: `
    func main<ios18>(tensor<fp16, [2, 4]> x) {
        tensor<fp16, [2, 4]> w = const()[name = string("w"), val = tensor<fp16, [2, 4]>(BLOBFILE(${blob}))];
        tensor<fp16, [2, 4]> y = mul(x = x, y = w)[name = string("y")];
    } -> (y);`,
  };
}

function edited(at: number, ...bytes: number[]): Uint8Array {
  const copy = weights();
  copy.set(bytes, at);
  return copy;
}

describe("weight files", () => {
  const file = 'path = string("@model_path/weights.bin")';
  test.each([
    ["an offset of the data", weighted(weights(), `${file}, offset = uint64(128)`), /sentinel/],
    ["an offset of the header", weighted(weights(), `${file}, offset = uint64(0)`), /sentinel/],
    ["no sentinel", weighted(edited(64, 0)), /no record at 64/],
    ["another version", weighted(edited(4, 1)), /version 1/],
    ["a header with something in it", weighted(edited(20, 1)), /reserved bytes of the header/],
    ["a record with something in it", weighted(edited(100, 1)), /reserved bytes of the record/],
    ["a wrong count", weighted(edited(0, 2)), /header counts 2 blobs, there are 1/],
    ["another dtype", weighted(edited(68, 4)), /dtype int8/],
    ["another size", weighted(edited(72, 14)), /14 bytes, the constant takes 16/],
    ["another data offset", weighted(edited(80, 130)), /data offset 130/],
    ["a file that ends early", weighted(weights().subarray(0, 140)), /past the end/],
    [
      "a file that is not there",
      weighted(weights(), 'path = string("@model_path/w.bin"), offset = uint64(64)'),
      /cannot open/,
    ],
    [
      "a path outside",
      weighted(weights(), 'path = string("@model_path/../w.bin"), offset = uint64(64)'),
      /not below @model_path/,
    ],
    [
      "a path of its own",
      weighted(weights(), 'path = string("/weights.bin"), offset = uint64(64)'),
      /not below @model_path/,
    ],
  ])("%s", (_title, options, says) => {
    {
      using s = start(options);
      expect(s.compile()).not.toBe(0);
    }
    expect(violations()).toEqual([expect.stringMatching(says)]);
  });
});

// ------------------------------------------------------------------------------------------------- other processes

const child = fileURLToPath(new URL("./child.ts", import.meta.url));
const loader = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;

function runChild(scenario: string, config = "", more: Record<string, string> = {}) {
  const report = join(folder, `${scenario}-${Math.random().toString(36).slice(2)}.txt`);
  const env = { ...process.env, ...doubleEnvironment(config, { report }), ...more };
  const args = ["--import", loader, child, path, scenario, folder];
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: "utf8",
    env,
    timeout: 15_000,
  });
  return { status, signal, stdout, stderr, report: existsSync(report) ? readFileSync(report, "utf8") : "" };
}

describe("processes", () => {
  test("a child that does all correctly leaves no report", () => {
    expect(runChild("right")).toMatchObject({ status: 0, stdout: "6\n", report: "" });
  });

  test("what a child leaves over and does wrongly is in the file, a line each, after its process id", () => {
    const { status, report, stderr } = runChild("leak");
    expect(status, stderr).toBe(0);
    const lines = report.trim().split("\n");
    expect(lines[0]).toMatch(/^\d+ violation: e5rt_execution_stream_reset: a fresh stream/);
    expect(lines.slice(1).some((line) => /^\d+ leak: execution stream #\d+/.test(line))).toBe(true);
    expect(lines.at(-1)).toMatch(/^\d+ pool: pushed on thread 1 and not popped$/);
    expect(stderr).toContain("E5RT encountered an STL exception. msg = a fresh stream cannot be reset.\n");
  });

  test("a thread that ends with a pool, and one that pops another's", () => {
    const { status, report, stderr } = runChild("threads");
    expect(status, stderr).toBe(0);
    expect(report).toMatch(/violation: objc_autoreleasePoolPop: autorelease pool 0x[0-9a-f]+ belongs to thread 1/);
    expect(report).toMatch(/ended with a pool that was not popped/);
  });

  test.each([
    ["crash=compile", "right"],
    ["crash=load-time", "right"],
    ["crash=execute", "right"],
    ["crash-op=tanh,mul", "right"],
    ["abort=1", "stale"],
  ])("%s aborts", (config, scenario) => {
    expect(runChild(scenario, config)).toMatchObject({ signal: "SIGABRT" });
  });

  test.each(["hang-compile=1", "hang-execute=1"])("%s hangs until somebody ends it", async (config) => {
    const env = { ...process.env, ...doubleEnvironment(config) };
    const process_ = spawn(process.execPath, ["--import", loader, child, path, "right", folder], { env });
    const ended = new Promise((resolve) => process_.on("exit", (_code, signal) => resolve(signal)));
    const first = await Promise.race([ended, new Promise((resolve) => setTimeout(() => resolve("hangs"), 2500))]);
    process_.kill("SIGKILL");
    expect([first, await ended]).toEqual(["hangs", "SIGKILL"]);
  });

  test("a call in a forked child aborts", () => {
    const source = join(folder, "fork.c");
    writeFileSync(
      source,
      `#include <dlfcn.h>
      #include <stdint.h>
      #include <sys/wait.h>
      #include <unistd.h>
      int main(int argc, char **argv) {
        int64_t (*create)(void **) = (int64_t (*)(void **))dlsym(dlopen(argv[argc - 1], RTLD_NOW), "e5rt_execution_stream_create");
        void *out = 0;
        int status = 0;
        if (fork() == 0) return (int)create(&out);
        wait(&status);
        return status & 0x7f;
      }`,
    );
    const program = join(folder, "fork");
    const compiler = process.env.CC || "cc";
    expect(spawnSync(compiler, ["-o", program, source, "-ldl"], { encoding: "utf8" })).toMatchObject({ status: 0 });
    const file = join(folder, "fork.txt");
    const env = { ...process.env, ...doubleEnvironment("", { report: file }) };
    expect(spawnSync(program, [path], { env }).status).toBe(6); // SIGABRT
    const report = readFileSync(file, "utf8");
    expect(report).toMatch(/violation: e5rt_execution_stream_create: called in a forked child/);
  });

  test("a compile needs a megabyte of stack", () => {
    expect(runChild("stack").signal).toMatch(/SIGSEGV|SIGBUS/);
  });

  test("a simulator that ends, or is not there, is an error", () => {
    const gone = { ESPRESSO_DOUBLE_SIMULATOR: "/nonexistent/simulator" };
    const ends = { ESPRESSO_DOUBLE_SIMULATOR: [process.execPath, "-e", "process.exit(3)"].join("\n") };
    expect(runChild("right", "", gone)).toMatchObject({ status: 1 });
    const { status, stderr } = runChild("right", "", ends);
    expect(status).toBe(1);
    expect(stderr).toContain("the simulator ended with status 3");
    expect(runChild("right", "", { ESPRESSO_DOUBLE_SIMULATOR: "" }).stderr).toContain(
      "ESPRESSO_DOUBLE_SIMULATOR is not set",
    );
  });

  test("a simulator that is killed between runs fails the next run, and all others", () => {
    const { status, stdout, stderr } = runChild("kill");
    expect(stderr).toContain("the simulator was killed by signal 9");
    expect({ status, stdout }).toEqual({ status: 0, stdout: "failed failed\n" });
  });

  test("the simulator ends with its host, however that ends", async () => {
    const { stdout } = runChild("orphan");
    const pid = Number(stdout);
    expect(pid).toBeGreaterThan(0);
    for (let i = 0; i < 100 && alive(pid); i++) await new Promise((resolve) => setTimeout(resolve, 50));
    expect(alive(pid)).toBe(false);
  });
});

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test("there is a reason where there is no compiler", () => {
  const saved = process.env.CC;
  process.env.CC = "/nonexistent/cc";
  try {
    expect(() => buildDouble()).toThrow(Missing);
    expect(() => buildDouble()).toThrow(/no C compiler: \/nonexistent\/cc/);
  } finally {
    if (saved === undefined) delete process.env.CC;
    else process.env.CC = saved;
  }
});
