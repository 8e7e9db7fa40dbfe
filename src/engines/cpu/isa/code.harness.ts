// Runs small functions that are written in the portable instructions, for their tests.

import { openSystem } from "../../os/index.ts";
import type { Code } from "../code.ts";
import { cpuFeatures, isasOf } from "./features.ts";
import { baseIsa, newCode } from "./new-code.ts";

export const system = await openSystem();
export const runs = baseIsa !== undefined && process.platform !== "win32";

/** All sets of instructions that run here, by a name, and arm64's with and without atomic instructions. */
export const codes: readonly (readonly [string, () => Code])[] = runs
  ? sources()
  : [["no code", () => newCode("avx2")]];
function sources(): [string, () => Code][] {
  const features = cpuFeatures(system);
  const plain = isasOf(features).map((isa): [string, () => Code] => [isa, () => newCode(isa)]);
  if (!features.flags.has("atomics")) return plain;
  return [...plain, ["neon with atomics", () => newCode("neon", features.flags)]];
}

/** Runs code on memory that starts with the given bytes and ends at an inaccessible page; r5 = its address. Gives the memory back. */
export function run(
  code: Code,
  content: ArrayBufferView,
  emit: (code: Code, address: number) => void,
  { stack = 0, functions }: { readonly stack?: number; readonly functions?: (code: Code) => void } = {},
): DataView {
  using memory = system.allocate(content.byteLength, { tight: true });
  memory.bytes.set(new Uint8Array(content.buffer, content.byteOffset, content.byteLength));
  code.enterFromC(stack);
  code.setRounding();
  emit(code, memory.address);
  code.leaveToC(stack);
  code.ret();
  functions?.(code);
  using native = system.code(code.finish());
  system.entry(native.address)(memory.address);
  return new DataView(memory.bytes.slice().buffer);
}

/** What 16 bytes of zeros begin with, as a number, once so many threads have run code on them side by side; its argument is their address. */
export function countTogether(code: Uint8Array, threads: number): bigint {
  using native = system.code(code);
  using memory = system.allocate(16);
  const started = Array.from({ length: threads }, (_, i) =>
    system.thread(native.address, memory.address, { name: `t${i}` }),
  );
  for (const thread of started) thread.join();
  return new DataView(memory.bytes.slice().buffer).getBigUint64(0, true);
}

export const numbered = (bytes: number) => Uint8Array.from({ length: bytes }, (_, i) => (i * 37 + 11) & 255);
export const bytesOf = (view: DataView, at: number, count: number) => [...new Uint8Array(view.buffer, at, count)];
