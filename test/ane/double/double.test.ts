// Espresso's double computes for whoever keeps to the documented calls; and its configuration, threads, pools, stores in place and weight files.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "vitest";
import { packFloat16, unpackFloat16 } from "../../../src/core/float16.ts";
import { sizeOf } from "../../../src/core/shape.ts";
import { openEngine } from "../../../src/engines/open.ts";
import { runProgram } from "../../../src/engines/run-program.ts";
import { BlobWriter } from "../../../src/mil/blob.ts";
import { readMil } from "../../../src/mil/reader.ts";
import { buildDouble } from "./build.ts";
import { openDouble } from "./open.ts";
import type { Raw } from "./raw.ts";
import { sample } from "./sequence.ts";

const { raw, path, start, violations } = await openDouble();

const one = 0x3c00;
const two = 0x4000;

afterEach(() => {
  // Whatever a test did wrongly, it released what it made.
  if (path !== "") expect(raw.report().filter((line) => !line.startsWith("violation: "))).toEqual([]);
});

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

  test.each(["attention", "vision"])("computes what the simulator does: %s", async (name) => {
    const fixture = (file: string) => fileURLToPath(new URL(`../../fixtures/mil/${file}`, import.meta.url));
    const text = readFileSync(fixture(`${name}.mil`), "utf8");
    const bytes = readFileSync(fixture(`${name}.bin`));
    const program = readMil(text, { weights: () => bytes });
    const [input] = program.inputs;
    const length = sizeOf(program.values[input!.value]!.shape);
    const feed = Float32Array.from({ length }, (_, i) => Math.sin(i * i));
    const { results } = await runProgram(program, new Map([[input!.name, feed]]), await openEngine("sim"));
    using s = start({ text, weights: { [`${name}.bin`]: bytes } });
    s.operation().port("in", input!.name, 1024);
    for (const port of program.outputs) s.port("out", port.name, 1 << 14);
    s.encode();
    packFloat16(feed, s.bits(`buffer in ${input!.name}`).subarray(0, length));
    expect(s.execute()).toBe(0);
    for (const port of program.outputs) {
      const values = new Float32Array(sizeOf(program.values[port.value]!.shape));
      unpackFloat16(s.bits(`buffer out ${port.name}`).subarray(0, values.length), values);
      expect([...values], port.name).toEqual([...(results.get(port.name)!.data as Float32Array)]);
    }
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

  test("has the functions that nobody needs", () => {
    using s = start().prepare();
    const number = new BigUint64Array(1);
    s.ok("e5_compiler_config_options_set_bundle_cache_apfs_purgeable", s.at("config"), 1);
    s.ok("e5_compiler_options_set_enable_profiling", s.at("compiler options"), 1);
    s.ok("e5_compiler_options_set_force_bnns_graph", s.at("compiler options"), 0);
    s.ok("e5_compiler_options_get_compute_device_types_mask", s.at("compiler options"), number);
    expect(number[0]).toBe(4n);
    s.operation().ports();
    s.ok("program_library_get_function_names", s.at("library"), 1, number);
    expect(raw.text(number[0]!)).toBe("main");
    s.ok("program_function_get_name", s.at("function"), number);
    expect(raw.text(number[0]!)).toBe("main");
    s.ok("program_function_load_for_execution", s.at("function"));
    s.ok("async_event_create", s.out("event"), "e", 0);
    s.ok("execution_stream_operation_bind_dependent_events", s.at("operation"), BigUint64Array.of(s.at("event")), 1);
    s.ok("async_event_signal", s.at("event"));
    s.ok("async_event_sync_wait", s.at("event"));
    s.encode().ok("execution_stream_set_quality_of_service", s.at("stream"), 21);
    s.ok("execution_stream_set_ane_execution_priority", s.at("stream"), 0);
    expect(s.execute()).toBe(0);
    expect(violations()).toEqual([]);
  });

  test("loads a bundle of this process and no other", () => {
    using s = start().operation();
    const cache = join(s.folder, "cache");
    const bundle = join(cache, readdirSync(cache)[0]!);
    expect(readFileSync(join(bundle, "analytics.mil"), "utf8")).toContain('SelectedBackend = string("ane")');
    s.ok("program_library_create", s.out("library #2"), bundle);
    const count = new BigUint64Array(1);
    s.ok("program_library_get_num_functions", s.at("library #2"), count);
    expect(count[0]).toBe(1n);
    expect(raw.call("program_library_create", new BigUint64Array(1), s.folder)).not.toBe(0);
    expect(violations()).toEqual([]);
  });
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

  test("streams of their own on several threads compute side by side", async () => {
    const all = [1, 2, 3, 4].map((n) => {
      const s = start().ready();
      s.bits("buffer in x").fill(two);
      s.bits("buffer in w").fill(one + n);
      return s;
    });
    for (let round = 0; round < 20; round++) {
      const runs = all.map((s) => raw.callAsync("execution_stream_execute_sync", s.at("stream")));
      expect(await Promise.all(runs)).toEqual([0, 0, 0, 0]);
    }
    expect(all.map((s) => s.bits("buffer out y")[0]! - two)).toEqual([1, 2, 3, 4]);
    for (const s of all.reverse()) s.close();
    expect(new Set(violations())).toEqual(
      new Set(["e5rt_execution_stream_execute_sync: no autorelease pool on this thread"]),
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
