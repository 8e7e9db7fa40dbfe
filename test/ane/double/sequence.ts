// The documented sequence of calls (runtime sheet, 1.2), step by step, so that a test can leave one out or do it wrongly.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Argument, cell, type Name, type Raw } from "./raw.ts";

/** Function of two fp16[2, 3] inputs; the alias of w2 with w is what an in-place update is. */
export const sample = `
    func main<ios18>(tensor<fp16, [2, 3]> x, tensor<fp16, [2, 3]> w) {
        tensor<fp16, [2, 3]> y = mul(x = x, y = w)[name = string("y")];
        tensor<fp16, [2, 3]> w2 = add(x = w, y = x)[name = string("w2")];
    } -> (y, w2);`;

/** A whole text around functions. */
export function program(functions: string): string {
  return `program(1.3)
[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, {"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, {"coremltools-version", "9.0"}})]
{${functions}
}
`;
}

let folders = 0;

export interface SequenceOptions {
  readonly functions?: string;
  readonly text?: string;
  readonly weights?: Readonly<Record<string, Uint8Array>>;
}

/** Objects of one program by name, with the calls that make and release them. */
export class Sequence {
  readonly raw: Raw;
  readonly folder: string;
  readonly cells = new Map<string, BigUint64Array>();
  readonly #pool: bigint;

  constructor(
    raw: Raw,
    parent: string,
    { functions = sample, text = program(functions), weights = {} }: SequenceOptions = {},
  ) {
    this.raw = raw;
    this.folder = join(parent, `program${++folders}`);
    mkdirSync(join(this.folder, "cache"), { recursive: true });
    writeFileSync(join(this.folder, "model.mil"), text);
    for (const [name, bytes] of Object.entries(weights)) writeFileSync(join(this.folder, name), bytes);
    this.#pool = raw.push();
  }

  get path(): string {
    return join(this.folder, "model.mil");
  }

  /** The handle behind a name. */
  at(name: string): bigint {
    return this.cells.get(name)?.[0] ?? 0n;
  }

  /** A fresh cell for a handle. */
  out(name: string): BigUint64Array {
    const fresh = cell();
    this.cells.set(name, fresh);
    return fresh;
  }

  ok(name: Name, ...args: Argument[]): void {
    const code = this.raw.call(name, ...args);
    if (code !== 0) throw new Error(`${name} gave ${code}: ${this.raw.report().at(-1)}`);
  }

  /** Steps 1 to 3. */
  prepare(): this {
    this.ok("e5_compiler_config_options_create", this.out("config"));
    this.ok("e5_compiler_config_options_set_cache_bundle_location", this.at("config"), join(this.folder, "cache"));
    this.ok("e5_compiler_create_with_config", this.out("compiler"), this.at("config"));
    this.ok("e5_compiler_options_create", this.out("compiler options"));
    this.ok("e5_compiler_options_set_compute_device_types_mask", this.at("compiler options"), 4);
    this.ok("e5_compiler_options_set_force_recompilation", this.at("compiler options"), 1);
    this.ok("e5_compiler_options_set_segmenter", this.at("compiler options"), "graph");
    return this;
  }

  /** Step 4; its code. */
  compile(): number {
    if (this.at("compiler") === 0n) this.prepare();
    return this.raw.call(
      "e5_compiler_compile",
      this.at("compiler"),
      this.path,
      this.at("compiler options"),
      this.out("library"),
    );
  }

  /** Steps up to 5. */
  options(): this {
    const code = this.compile();
    if (code !== 0) throw new Error(`compile gave ${code}`);
    this.ok("program_library_retain_program_function", this.at("library"), "main", this.out("function"));
    const made = "precompiled_compute_op_create_options";
    this.ok(`${made}_create_with_program_function`, this.out("options"), this.at("function"));
    this.ok(`${made}_set_operation_name`, this.at("options"), "main");
    this.ok(`${made}_set_allocate_intermediate_buffers`, this.at("options"), 1);
    return this;
  }

  /** Makes the operation; its code. */
  make(): number {
    const create = "execution_stream_operation_create_precompiled_compute_operation_with_options";
    return this.raw.call(create, this.out("operation"), this.at("options"));
  }

  /** Steps up to 6. */
  operation(): this {
    this.options();
    const code = this.make();
    if (code !== 0) throw new Error(`make gave ${code}`);
    this.releaseCompiler();
    return this;
  }

  releaseCompiler(): void {
    this.release("compiler options", "compiler", "config");
  }

  /** Step 7 for ports named "in NAME" and "out NAME"; `bytes` 0 makes no buffer, a name shares another port's. */
  port(kind: "in" | "out", name: string, buffer: number | string = 64): this {
    const port = `${kind} ${name}`;
    this.ok(`execution_stream_operation_retain_${kind}put_port`, this.at("operation"), name, this.out(port));
    if (buffer === 0) return this;
    const shared = typeof buffer === "string" ? `buffer ${buffer}` : `buffer ${port}`;
    if (typeof buffer === "number") this.buffer(shared, buffer);
    this.ok("io_port_bind_buffer_object", this.at(port), this.at(shared));
    return this;
  }

  buffer(name: string, bytes = 64): this {
    this.ok("buffer_object_alloc", this.out(name), bytes, 0);
    this.bytes(name).fill(0);
    return this;
  }

  bytes(name: string): Uint8Array {
    const data = cell();
    const size = cell();
    this.ok("buffer_object_get_data_ptr", this.at(name), data);
    this.ok("buffer_object_get_size", this.at(name), size);
    return this.raw.memory(data[0]!, Number(size[0]!));
  }

  /** fp16 patterns of a buffer. */
  bits(name: string): Uint16Array {
    const { buffer, byteOffset, length } = this.bytes(name);
    return new Uint16Array(buffer, byteOffset, length / 2);
  }

  /** The sample's four ports; w2 in w's buffer where `inPlace`. */
  ports({ inPlace = false } = {}): this {
    this.port("in", "x").port("in", "w").port("out", "y");
    return this.port("out", "w2", inPlace ? "in w" : 64);
  }

  /** Steps 9 and 10. */
  encode(): this {
    this.ok("execution_stream_create", this.out("stream"));
    this.ok("execution_stream_encode_operation", this.at("stream"), this.at("operation"));
    return this;
  }

  /** Everything up to an encoded stream. */
  ready(inPlace = false): this {
    return this.operation().ports({ inPlace }).encode();
  }

  execute(): number {
    return this.raw.call("execution_stream_execute_sync", this.at("stream"));
  }

  release(...names: readonly string[]): void {
    for (const name of names) {
      if (this.at(name) === 0n) continue;
      this.ok(`${releases.find(([prefix]) => name.startsWith(prefix))![1]}_release`, this.cells.get(name)!);
      if (this.at(name) !== 0n) throw new Error(`${name}: the handle was not cleared`);
    }
  }

  /** Releases all that is left in the order of the sheet, and pops the pool. */
  close(): void {
    for (const kind of ["operation", "options", "function", "library", "compiler options", "compiler", "config"])
      this.release(...[...this.cells.keys()].filter((name) => name === kind || name.startsWith(`${kind} #`)));
    for (const kind of ["buffer", "in ", "out ", "event", "stream"])
      this.release(...[...this.cells.keys()].filter((name) => name.startsWith(kind)));
    this.raw.pop(this.#pool);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

type Released<N> = N extends `${infer Prefix}_release` ? Prefix : never;
const releases: readonly (readonly [string, Released<Name>])[] = [
  ["compiler options", "e5_compiler_options"],
  ["compiler", "e5_compiler"],
  ["config", "e5_compiler_config_options"],
  ["library", "program_library"],
  ["function", "program_function"],
  ["options", "precompiled_compute_op_create_options"],
  ["operation", "execution_stream_operation"],
  ["in ", "io_port"],
  ["out ", "io_port"],
  ["buffer", "buffer_object"],
  ["stream", "execution_stream"],
  ["event", "async_event"],
];
