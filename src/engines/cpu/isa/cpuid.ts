// What an x86-64 processor and the operating system say about instruction sets, asked by generated code.

import type { System } from "../../os/index.ts";
import type { CpuFeatures } from "./features.ts";
import { gp, Label, mem, X64 } from "./x64.ts";

/** Questions to CPUID: leaf and subleaf. */
const questions = [
  [0, 0],
  [0x80000000, 0],
  [1, 0],
  [7, 0],
  [7, 1],
  [0x80000002, 0],
  [0x80000003, 0],
  [0x80000004, 0],
] as const;
const answerWords = 4 * questions.length;

/** Feature bits by leaf and register (eax, ebx, ecx, edx are 0 to 3); Intel's manual, volume 2A, CPUID. */
const featureBits: readonly (readonly [name: string, leaf: number, subleaf: number, register: number, bit: number])[] =
  [
    ["fma", 1, 0, 2, 12],
    ["osxsave", 1, 0, 2, 27],
    ["avx", 1, 0, 2, 28],
    ["f16c", 1, 0, 2, 29],
    ["avx2", 7, 0, 1, 5],
    ["bmi2", 7, 0, 1, 8],
    ["avx512f", 7, 0, 1, 16],
    ["avx512dq", 7, 0, 1, 17],
    ["avx512bw", 7, 0, 1, 30],
    ["avx512vl", 7, 0, 1, 31],
    ["avx512_vnni", 7, 0, 2, 11],
    ["avx512_fp16", 7, 0, 3, 23],
    ["amx_bf16", 7, 0, 3, 22],
    ["amx_tile", 7, 0, 3, 24],
    ["amx_int8", 7, 0, 3, 25],
    ["avx512_bf16", 7, 1, 0, 5],
  ];

/** Parts of XCR0: the operating system saves xmm and ymm; and beside them the mask registers and zmm. */
const ymmState = 0x06;
const zmmState = 0xe6;

/** Stores the answers to `questions`, four words each, then the low word of XCR0 or 0, at the address in rdi. */
function emitQuestions(): Uint8Array {
  const { rax, rbx, rcx, rdx, rdi } = gp;
  const asm = new X64();
  asm.push(rbx);
  for (const [index, [leaf, subleaf]] of questions.entries()) {
    asm.movImm(rax, leaf);
    asm.movImm(rcx, subleaf);
    asm.cpuid();
    for (const [word, register] of [rax, rbx, rcx, rdx].entries()) {
      asm.mov32(mem(rdi, 16 * index + 4 * word), register);
    }
  }
  // XGETBV is an illegal instruction unless the system turned it on.
  const end = new Label();
  asm.mov32(rcx, mem(rdi, 4 * wordOf(1, 0, 2)));
  asm.shift("shr", rcx, 27);
  asm.aluImm32("and", rcx, 1);
  asm.jcc("e", end);
  asm.movImm(rcx, 0);
  asm.xgetbv();
  asm.mov32(mem(rdi, 4 * answerWords), rax);
  asm.bind(end);
  asm.pop(rbx);
  asm.ret();
  return asm.finish();
}

function wordOf(leaf: number, subleaf: number, register: number): number {
  return 4 * questions.findIndex(([l, s]) => l === leaf && s === subleaf) + register;
}

/** Asks the processor. */
export function askCpuid(system: System): CpuFeatures {
  using code = system.code(emitQuestions());
  using answers = system.allocate(4 * (answerWords + 1));
  system.entry(code.address)(answers.address);
  const words = new Uint32Array(answers.bytes.slice().buffer);
  return decodeFeatures(words);
}

/** Reads the words that the generated code stored. */
export function decodeFeatures(words: Uint32Array): CpuFeatures {
  const [highest, highestExtended] = [words[wordOf(0, 0, 0)]!, words[wordOf(0x80000000, 0, 0)]!];
  const xcr0 = words[answerWords]!;
  const flags = new Set<string>();
  for (const [name, leaf, subleaf, register, bit] of featureBits) {
    // A leaf above the highest one answers with another leaf's words; subleaf 0 of leaf 7 tells its highest subleaf.
    const known = leaf <= highest && (leaf !== 7 || subleaf <= words[wordOf(7, 0, 0)]!);
    if (known && (words[wordOf(leaf, subleaf, register)]! >>> bit) & 1) flags.add(name);
  }
  if ((xcr0 & ymmState) === ymmState) flags.add("os_ymm");
  if ((xcr0 & zmmState) === zmmState) flags.add("os_zmm");
  const start = wordOf(0x80000002, 0, 0);
  const brand = highestExtended >= 0x80000004 ? new Uint8Array(words.slice(start, start + 12).buffer) : [];
  const name = String.fromCharCode(...brand)
    .replaceAll("\0", "")
    .trim();
  return { arch: "x64", name: name === "" ? "unknown x86-64 processor" : name, flags };
}
