// Every form of the assembler against GNU as (Intel syntax), one run for all, and a stored table of bytes for machines without it.
//
// Where an instruction has several encodings, a pseudo-prefix asks as for ours ({disp32}, {load}, {store}); then bytes must be equal.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { golden } from "./x64.golden.ts";
import {
  type Arithmetic,
  type Cond,
  cond,
  type Evex,
  type ExtractOpName,
  extractOps,
  gp,
  type ImmOpName,
  immOps,
  Label,
  type Length,
  type MaskOp,
  type Mem,
  mem,
  type ShiftOpName,
  type StoreOpName,
  shiftOps,
  storeOps,
  type VecOp,
  type VecOpName,
  vecOps,
  X64,
} from "./x64.ts";

interface Form {
  readonly text: string;
  readonly emit: (asm: X64) => void;
}
const forms: Form[] = [];
const form = (text: string, emit: (asm: X64) => void) => void forms.push({ text, emit });

/** mulberry32: the same choice of registers and addresses in every run. */
let seed = 1;
function random(below: number): number {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % below;
}
const pick = <T>(values: readonly T[]): T => values[random(values.length)]!;

// ------------------------------------------------------------------------------------------------ how operands are written

const names64 = Object.keys(gp);
const names32 = "eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d".split(" ");
const names16 = "ax cx dx bx sp bp si di r8w r9w r10w r11w r12w r13w r14w r15w".split(" ");
const names8 = "al cl dl bl spl bpl sil dil r8b r9b r10b r11b r12b r13b r14b r15b".split(" ");
const vec = (register: number, bytes: number) => `${{ 64: "z", 32: "y" }[bytes] ?? "x"}mm${register}`;
const pointers: Record<number, string> = {
  1: "BYTE",
  2: "WORD",
  4: "DWORD",
  8: "QWORD",
  16: "XMMWORD",
  32: "YMMWORD",
  64: "ZMMWORD",
};
function address({ base, index, scale = 1, disp = 0 }: Mem): string {
  const parts = [names64[base!]!, ...(index === undefined ? [] : [`${names64[index]}*${scale}`])];
  return `[${parts.join("+")}${disp < 0 ? disp : `+${disp}`}]`;
}
const memory = (operand: Mem, bytes: number) => `${pointers[bytes]} PTR ${address(operand)}`;

/** Addresses that differ in encoding: special bases, scaled indices, displacements at the limits of one byte, alone and in units. */
function addresses(unit: number): Mem[] {
  const displacements = [
    0,
    1,
    127,
    128,
    -128,
    -129,
    unit,
    127 * unit,
    128 * unit,
    -128 * unit,
    -129 * unit,
    unit * 3 + 1,
  ];
  return [
    ...displacements.map((disp) => mem(gp.rax, disp)),
    ...[gp.rsp, gp.rbp, gp.r12, gp.r13, gp.r9].flatMap((base) => [mem(base), mem(base, unit), mem(base, 4096)]),
    ...([1, 2, 4, 8] as const).map((scale) => mem(gp.rbx, 8, gp.rcx, scale)),
    mem(gp.r13, 0, gp.r12, 4),
    mem(gp.rbp, 0, gp.rbp, 8),
    mem(gp.rsp, 64, gp.r15, 2),
    mem(gp.r12, -unit, gp.r8, 1),
    mem(gp.rsp, 2147483647),
    mem(gp.r13, -2147483648, gp.rdx, 8),
  ];
}

// ------------------------------------------------------------------------------------------------ integers

const gps = Object.values(gp);
for (const dst of gps) {
  const src = gps[(dst + 5) % 16]!;
  form(`mov ${names64[dst]}, ${names64[src]}`, (asm) => asm.mov(dst, src));
  form(`mov ${names32[dst]}, ${names32[src]}`, (asm) => asm.mov32(dst, src));
  for (const value of [0, 1, 0x7fffffff, 0x80000000, 0xffffffff]) {
    form(`mov ${names32[dst]}, ${value}`, (asm) => asm.movImm(dst, value));
  }
  for (const value of [-1, -0x80000000]) form(`mov ${names64[dst]}, ${value}`, (asm) => asm.movImm(dst, value));
  for (const value of [0x100000000n, 0x123456789abcdef0n, -0x80000001n, 0xffffffffffffffffn - 5n]) {
    form(`movabs ${names64[dst]}, ${value}`, (asm) => asm.movImm(dst, value));
  }
  form(`movzx ${names32[dst]}, ${names8[src]}`, (asm) => asm.movzx8(dst, src));
  form(`movzx ${names32[dst]}, ${names16[src]}`, (asm) => asm.movzx16(dst, src));
  form(`movsxd ${names64[dst]}, ${names32[src]}`, (asm) => asm.movsxd(dst, src));
  form(`imul ${names64[dst]}, ${names64[src]}`, (asm) => asm.imul(dst, src));
  for (const value of [3, -128, 128, 1 << 30]) {
    form(`imul ${names64[dst]}, ${names64[src]}, ${value}`, (asm) => asm.imulImm(dst, src, value));
  }
  for (const op of ["shl", "shr", "sar"] as const) {
    for (const count of [2, 63]) form(`${op} ${names64[dst]}, ${count}`, (asm) => asm.shift(op, dst, count));
  }
  form(`div ${names64[dst]}`, (asm) => asm.div(dst));
  form(`neg ${names64[dst]}`, (asm) => asm.neg(dst));
  form(`test ${names64[dst]}, ${names64[src]}`, (asm) => asm.test(dst, src));
  form(`test ${names32[dst]}, ${names32[src]}`, (asm) => asm.test32(dst, src));
  form(`push ${names64[dst]}`, (asm) => asm.push(dst));
  form(`pop ${names64[dst]}`, (asm) => asm.pop(dst));
  form(`call ${names64[dst]}`, (asm) => asm.call(dst));
  form(`jmp ${names64[dst]}`, (asm) => asm.jmpTo(dst));
  const count = gps[(dst + 9) % 16]!;
  form(`bzhi ${names64[dst]}, ${names64[src]}, ${names64[count]}`, (asm) => asm.bzhi(dst, src, count));
}
const arithmetic: readonly Arithmetic[] = ["add", "or", "and", "sub", "xor", "cmp"];
const immediates = [0, 1, -1, 127, -128, 128, -129, 0x7fffffff, -0x80000000];
for (const op of arithmetic) {
  for (const dst of [gp.rcx, gp.rbp, gp.r8, gp.r15]) {
    for (const src of [gp.rdx, gp.r14]) {
      form(`${op} ${names64[dst]}, ${names64[src]}`, (asm) => asm.alu(op, dst, src));
      form(`${op} ${names32[dst]}, ${names32[src]}`, (asm) => asm.alu32(op, dst, src));
    }
    for (const value of immediates) {
      form(`${op} ${names64[dst]}, ${value}`, (asm) => asm.aluImm(op, dst, value));
      form(`${op} ${names32[dst]}, ${value}`, (asm) => asm.aluImm32(op, dst, value));
    }
  }
}
for (const at of addresses(8)) {
  const [low, high] = [gp.rdi, gp.r11];
  for (const r of [low, high]) {
    form(`mov ${names64[r]}, ${memory(at, 8)}`, (asm) => asm.mov(r, at));
    form(`mov ${memory(at, 8)}, ${names64[r]}`, (asm) => asm.mov(at, r));
    form(`mov ${names32[r]}, ${memory(at, 4)}`, (asm) => asm.mov32(r, at));
    form(`mov ${memory(at, 4)}, ${names32[r]}`, (asm) => asm.mov32(at, r));
    form(`mov ${memory(at, 2)}, ${names16[r]}`, (asm) => asm.mov16(at, r));
    form(`mov ${memory(at, 1)}, ${names8[r]}`, (asm) => asm.mov8(at, r));
    form(`movzx ${names32[r]}, ${memory(at, 1)}`, (asm) => asm.movzx8(r, at));
    form(`movzx ${names32[r]}, ${memory(at, 2)}`, (asm) => asm.movzx16(r, at));
    form(`movsxd ${names64[r]}, ${memory(at, 4)}`, (asm) => asm.movsxd(r, at));
    form(`lea ${names64[r]}, ${address(at)}`, (asm) => asm.lea(r, at));
    form(`imul ${names64[r]}, ${memory(at, 8)}`, (asm) => asm.imul(r, at));
    form(`imul ${names64[r]}, ${memory(at, 8)}, 7`, (asm) => asm.imulImm(r, at, 7));
    form(`imul ${names64[r]}, ${memory(at, 8)}, 700`, (asm) => asm.imulImm(r, at, 700));
    form(`lock xadd ${memory(at, 8)}, ${names64[r]}`, (asm) => asm.lockXadd(at, r));
    form(`lock cmpxchg ${memory(at, 4)}, ${names32[r]}`, (asm) => asm.lockCmpxchg32(at, r));
    form(`xchg ${memory(at, 4)}, ${names32[r]}`, (asm) => asm.xchg32(at, r));
    form(`xchg ${memory(at, 8)}, ${names64[r]}`, (asm) => asm.xchg(at, r));
    for (const op of arithmetic) {
      form(`${op} ${names64[r]}, ${memory(at, 8)}`, (asm) => asm.alu(op, r, at));
      form(`${op} ${memory(at, 8)}, ${names64[r]}`, (asm) => asm.alu(op, at, r));
      form(`${op} ${names32[r]}, ${memory(at, 4)}`, (asm) => asm.alu32(op, r, at));
      form(`${op} ${memory(at, 4)}, ${names32[r]}`, (asm) => asm.alu32(op, at, r));
      if (op === "cmp") continue; // cannot be locked
      form(`lock ${op} ${memory(at, 8)}, ${names64[r]}`, (asm) => asm.lockAlu(op, at, r));
      form(`lock ${op} ${memory(at, 4)}, ${names32[r]}`, (asm) => asm.lockAlu32(op, at, r));
    }
  }
  for (const value of [5, 500]) {
    form(`mov ${memory(at, 8)}, ${value}`, (asm) => asm.movMemImm(at, value));
    form(`cmp ${memory(at, 8)}, ${value}`, (asm) => asm.aluImm("cmp", at, value));
    form(`cmp ${memory(at, 4)}, ${value}`, (asm) => asm.aluImm32("cmp", at, value));
    form(`lock add ${memory(at, 4)}, ${value}`, (asm) => asm.lockAluImm32("add", at, value));
  }
  form(`div ${memory(at, 8)}`, (asm) => asm.div(at));
  form(`call ${memory(at, 8)}`, (asm) => asm.call(at));
  form(`jmp ${memory(at, 8)}`, (asm) => asm.jmpTo(at));
  form(`ldmxcsr ${memory(at, 4)}`, (asm) => asm.ldmxcsr(at));
  form(`stmxcsr ${memory(at, 4)}`, (asm) => asm.stmxcsr(at));
  for (const level of ["t0", "t1", "nta"] as const) {
    form(`prefetch${level} ${memory(at, 1)}`, (asm) => asm.prefetch(level, at));
  }
}
for (const name of Object.keys(cond) as Cond[]) {
  form(`set${name} ${names8[gp.rsi]}`, (asm) => asm.setcc(name, gp.rsi));
  form(`set${name} ${names8[gp.r9]}`, (asm) => asm.setcc(name, gp.r9));
  form(`cmov${name} ${names64[gp.r9]}, ${names64[gp.rcx]}`, (asm) => asm.cmov(name, gp.r9, gp.rcx));
  const at = mem(gp.r10, 8, gp.r11, 4);
  form(`cmov${name} ${names64[gp.rdx]}, ${memory(at, 8)}`, (asm) => asm.cmov(name, gp.rdx, at));
  // Forward jumps are long, backward ones short where they fit.
  form(`{disp32} j${name} 1f; nop; 1:`, (asm) => {
    const label = new Label();
    asm.jcc(name, label);
    asm.byte(0x90);
    asm.bind(label);
  });
  form(`1: nop; j${name} 1b`, (asm) => {
    const label = asm.here();
    asm.byte(0x90);
    asm.jcc(name, label);
  });
}
const jumps: readonly (readonly [string, (asm: X64, label: Label) => void])[] = [
  ["{disp32} jmp", (asm, label) => asm.jmp(label)],
  ["call", (asm, label) => asm.call(label)],
];
for (const [text, jump] of jumps) {
  form(`${text} 1f; nop; nop; 1:`, (asm) => {
    const label = new Label();
    jump(asm, label);
    asm.byte(0x90, 0x90);
    asm.bind(label);
  });
  form(`1: nop; ${text} 1b`, (asm) => {
    const label = asm.here();
    asm.byte(0x90);
    jump(asm, label);
  });
}
const plain = ["ret", "ud2", "syscall", "pause", "mfence", "sfence", "cpuid", "xgetbv", "rdtsc", "vzeroupper"] as const;
for (const name of plain) form(name, (asm) => asm[name]());

// ------------------------------------------------------------------------------------------------ vectors

/** Instructions of `vecOps` and `immOps` with one source. */
const oneSource = new Set<string>(
  (
    "vsqrtps vcvtdq2ps vcvtps2dq vcvttps2dq vpabsd vrsqrt14ps vrcp14ps vgetexpps vbroadcastss vpbroadcastd vpbroadcastw vpbroadcastb " +
    "vbroadcastf128 vcvtph2ps vpmovzxbd vpmovzxwd vpmovsxbd vpmovsxwd vmovups vmovdqu32 vmovdqu vmovdqu16 vmovdqu8 vmovshdup vmovsldup " +
    "vpshufd vroundps vrndscaleps vgetmantps vreduceps vfpclassps vpermilps vpermpd"
  ).split(" "),
);
/** Instructions without a form for some lengths. */
const lengthsOf: Readonly<Record<string, readonly Length[]>> = {
  vpermps: [32, 64],
  vpermd: [32, 64],
  vpermpd: [32, 64],
  vbroadcastf128: [32],
  vperm2f128: [32],
  vinsertf128: [32],
  vinsertf32x4: [32, 64],
  vinsertf64x4: [64],
  vshuff32x4: [32, 64],
  vshuff64x2: [32, 64],
  vextractf128: [32],
  vextractf32x4: [32, 64],
  vextractf64x4: [64],
};
/** Instructions that EVEX gives no broadcast from memory (byte and word elements, moves) and, of those, no masks. */
const noBroadcast = new Set<string>(
  "vpackuswb vpacksswb vmovups vmovdqu32 vmovdqu16 vmovdqu8 vmovshdup vmovsldup vpunpcklbw vpunpckhbw vpunpcklwd vpunpckhwd".split(
    " ",
  ),
);
/** Moves between registers, which have a load's and a store's encoding. */
const isMove = new Set(["vmovups", "vmovdqu", "vmovdqu32", "vmovdqu16", "vmovdqu8"]);
const memoryOnly = new Set(["vbroadcastf128"]);
/** Comparisons that write a mask register under EVEX. */
const toMaskOps = new Set(["vcmpps", "vpcmpd", "vfpclassps"]);

const bytesOf = (op: VecOp, length: Length) =>
  op.tuple === "full" ? length : op.tuple === "half" ? length / 2 : op.tuple === "quarter" ? length / 4 : op.tuple;
const registerBytes = (bytes: number) => Math.max(16, bytes);
const lengths = (name: string, op: VecOp): readonly Length[] =>
  (lengthsOf[name] ?? [16, 32, 64]).filter((length) => !(op.vexOnly && length === 64));
const decoration = ({ mask, zero }: Evex) => (mask === undefined ? "" : `{k${mask}}${zero ? "{z}" : ""}`);
/** Registers of each part of the file, so that every prefix bit is 0 and 1 in every place. */
const registers = (op: VecOp) => [0, 7, 8, 15, ...(op.vexOnly ? [] : [16, 23, 24, 31])];

for (const [name, op] of [...Object.entries(vecOps), ...Object.entries(immOps)] as [string, VecOp][]) {
  const immediate = name in immOps;
  const single = oneSource.has(name);
  const maskFrom = toMaskOps.has(name);
  const emit = (
    length: Length,
    dst: number,
    first: number | undefined,
    second: number | Mem,
    imm: number,
    evex: Evex,
  ) => {
    const toMask = maskFrom && dst < 8 && (name !== "vcmpps" || (evex as { toMask?: boolean }).toMask === true);
    return (asm: X64) => {
      if (immediate) asm.vi(name as ImmOpName, length, dst, first, second, imm, toMask ? { ...evex, toMask } : evex);
      else if (first === undefined) asm.v(name as VecOpName, length, dst, second, evex);
      else asm.v(name as VecOpName, length, dst, first, second as number, evex);
    };
  };
  const add = (length: Length, second: number | Mem, evex: Evex & { toMask?: boolean } = {}) => {
    const maskOnly = maskFrom && (name !== "vcmpps" || evex.toMask === true);
    const dst = maskOnly ? random(8) : pick(registers(op));
    const first = single ? undefined : pick(registers(op));
    const imm = immediate ? random(name === "vcmpps" && !maskOnly ? 32 : 8) : 0;
    const bytes = bytesOf(op, length);
    const element = (op.evexW ?? op.w) === 1 ? 8 : 4;
    const source =
      typeof second === "number"
        ? vec(second, registerBytes(bytes))
        : evex.broadcast
          ? `${memory(second, element)}{1to${length / element}}`
          : memory(second, bytes);
    const target = maskOnly ? `k${dst}` : vec(dst, length);
    const operands = [target + decoration(evex), ...(first === undefined ? [] : [vec(first, length)]), source];
    // A comparison of low registers would be VEX's, which has another destination: `toMask` tells.
    const prefix = isMove.has(name) && typeof second === "number" ? "{load} " : "";
    form(
      `${prefix}${name} ${operands.join(", ")}${immediate ? `, ${imm}` : ""}`,
      emit(length, dst, first, second, imm, evex),
    );
  };
  for (const length of lengths(name, op)) {
    const unit = bytesOf(op, length);
    const variants: (Evex & { toMask?: boolean })[] = [{}];
    if (name === "vcmpps") variants.push({ toMask: true });
    for (const variant of variants) {
      const needsLow = name === "vcmpps" && !variant.toMask;
      if (needsLow && length === 64) continue;
      const evexToo = !op.vexOnly && !needsLow;
      if (!memoryOnly.has(name)) {
        for (const register of registers(needsLow ? { ...op, vexOnly: true } : op)) {
          if (needsLow) {
            const [dst, first] = [random(16), random(16)];
            form(`${name} ${vec(dst, length)}, ${vec(first, length)}, ${vec(register, length)}, 3`, (asm) =>
              asm.vi("vcmpps", length, dst, first, register, 3),
            );
            continue;
          }
          add(length, register, variant);
          if (evexToo) add(length, register, { ...variant, mask: 1 + random(7) });
          if (evexToo && !maskFrom) add(length, register, { ...variant, mask: 1 + random(7), zero: true });
        }
      }
      if (needsLow) {
        for (const at of addresses(unit)) {
          const [dst, first] = [random(16), random(16)];
          form(`${name} ${vec(dst, length)}, ${vec(first, length)}, ${memory(at, unit)}, 5`, (asm) =>
            asm.vi("vcmpps", length, dst, first, at, 5),
          );
        }
        continue;
      }
      for (const at of addresses(unit)) add(length, at, variant);
      if (!evexToo) continue;
      for (const at of addresses(unit)) {
        add(length, at, { ...variant, mask: 1 + random(7), ...(maskFrom ? {} : { zero: random(2) === 1 }) });
      }
      if (op.tuple !== "full" || noBroadcast.has(name)) continue;
      for (const at of addresses((op.evexW ?? op.w) === 1 ? 8 : 4)) add(length, at, { ...variant, broadcast: true });
      add(length, mem(gp.r8, 4), { ...variant, broadcast: true, mask: 2, ...(maskFrom ? {} : { zero: true }) });
    }
  }
}

for (const [name, op] of [...Object.entries(storeOps), ...Object.entries(extractOps)] as [string, VecOp][]) {
  const immediate = name in extractOps;
  const add = (length: Length, dst: number | Mem, evex: Evex = {}) => {
    const src = pick(registers(op));
    const imm = immediate ? random(2) : 0;
    const bytes = bytesOf(op, length);
    const target = typeof dst === "number" ? vec(dst, registerBytes(bytes)) : memory(dst, bytes);
    const prefix = isMove.has(name) && typeof dst === "number" ? "{store} " : "";
    form(`${prefix}${name} ${target}${decoration(evex)}, ${vec(src, length)}${immediate ? `, ${imm}` : ""}`, (asm) =>
      immediate
        ? asm.extract(name as ExtractOpName, length, dst, src, imm, evex)
        : asm.store(name as StoreOpName, length, dst, src, evex),
    );
  };
  for (const length of lengths(name, op)) {
    const masked = !op.vexOnly && name !== "vmovntps";
    for (const at of addresses(bytesOf(op, length))) {
      add(length, at);
      if (masked) add(length, at, { mask: 1 + random(7) });
    }
    if (name === "vmovntps") continue;
    for (const register of registers(op)) {
      add(length, register);
      if (masked) add(length, register, { mask: 1 + random(7), zero: random(2) === 1 });
    }
  }
}

for (const name of Object.keys(shiftOps) as ShiftOpName[]) {
  for (const length of [16, 32, 64] as const) {
    for (const dst of [3, 12, 19, 28]) {
      for (const src of [5, 9, 17, 30]) {
        form(`${name} ${vec(dst, length)}, ${vec(src, length)}, 23`, (asm) => asm.vshift(name, length, dst, src, 23));
        const evex = { mask: 3, zero: src > 9 };
        form(`${name} ${vec(dst, length)}${decoration(evex)}, ${vec(src, length)}, 1`, (asm) =>
          asm.vshift(name, length, dst, src, 1, evex),
        );
      }
    }
  }
}

for (const length of [16, 32] as const) {
  for (const [a, b, c, d] of [
    [0, 1, 2, 3],
    [15, 8, 9, 14],
    [4, 12, 3, 11],
  ] as const) {
    const [va, vb, vc, vd] = [a, b, c, d].map((register) => vec(register, length));
    form(`vblendvps ${va}, ${vb}, ${vc}, ${vd}`, (asm) => asm.vblendvps(length, a, b, c, d));
    form(`vptest ${va}, ${vb}`, (asm) => asm.vptest(length, a, b));
    form(`vmovmskps ${names32[a]}, ${vb}`, (asm) => asm.vmovmskps(length, a, b));
    for (const at of addresses(length)) {
      form(`vblendvps ${va}, ${vb}, ${memory(at, length)}, ${vd}`, (asm) => asm.vblendvps(length, a, b, at, d));
      form(`vmaskmovps ${va}, ${vb}, ${memory(at, length)}`, (asm) => asm.vmaskmovLoad(length, a, b, at));
      form(`vmaskmovps ${memory(at, length)}, ${vb}, ${va}`, (asm) => asm.vmaskmovStore(length, at, b, a));
    }
    for (const base of [gp.rax, gp.rbp, gp.rsp, gp.r12, gp.r13]) {
      form(`vgatherdps ${va}, DWORD PTR [${names64[base]}+${vec(c, length)}*4], ${vb}`, (asm) =>
        asm.gatherVex(length, a, base, c, 4, b),
      );
      form(`vgatherdps ${vb}, DWORD PTR [${names64[base]}+${vec(4, length)}*1], ${vec(7, length)}`, (asm) =>
        asm.gatherVex(length, b, base, 4, 1, 7),
      );
    }
  }
}
for (const length of [16, 32, 64] as const) {
  for (const dst of [1, 9, 18, 27]) {
    for (const index of [4, 12, 20, 28, 31]) {
      for (const base of [gp.rdi, gp.r13, gp.rsp]) {
        form(`vgatherdps ${vec(dst, length)}{k5}, DWORD PTR [${names64[base]}+${vec(index, length)}*8]`, (asm) =>
          asm.gather(length, dst, base, index, 8, 5),
        );
      }
    }
    form(`vpbroadcastd ${vec(dst, length)}, ecx`, (asm) => asm.vpbroadcastGp(length, dst, gp.rcx));
    form(`vpbroadcastd ${vec(dst, length)}, r12d`, (asm) => asm.vpbroadcastGp(length, dst, gp.r12));
    form(`vpmovm2d ${vec(dst, length)}, k6`, (asm) => asm.vpmovm2d(length, dst, 6));
  }
}
for (const r of [2, 13, 21, 30]) {
  const x = vec(r, 16);
  const y = vec((r + 5) % 32, 16);
  for (const at of addresses(4)) {
    form(`vmovss ${x}, ${memory(at, 4)}`, (asm) => asm.vmovssLoad(r, at));
    form(`vmovss ${memory(at, 4)}, ${x}`, (asm) => asm.vmovssStore(at, r));
    form(`vmovd ${x}, ${memory(at, 4)}`, (asm) => asm.vmovdLoad(r, at));
    form(`vmovd ${memory(at, 4)}, ${x}`, (asm) => asm.vmovdStore(at, r));
    form(`vpinsrd ${x}, ${y}, ${memory(at, 4)}, 3`, (asm) => asm.vpinsrd(r, (r + 5) % 32, at, 3));
    form(`vpextrd ${memory(at, 4)}, ${x}, 2`, (asm) => asm.vpextrd(at, r, 2));
  }
  for (const at of r < 16 ? addresses(8) : []) {
    form(`vmovq ${x}, ${memory(at, 8)}`, (asm) => asm.vmovqLoad(r, at));
    form(`vmovq ${memory(at, 8)}, ${x}`, (asm) => asm.vmovqStore(at, r));
  }
  for (const at of addresses(2)) {
    form(`vpinsrw ${x}, ${y}, ${memory(at, 2)}, 5`, (asm) => asm.vpinsrw(r, (r + 5) % 32, at, 5));
    form(`vpextrw ${memory(at, 2)}, ${x}, 3`, (asm) => asm.vpextrw(at, r, 3));
  }
  for (const at of addresses(1)) {
    form(`vpinsrb ${x}, ${y}, ${memory(at, 1)}, 11`, (asm) => asm.vpinsrb(r, (r + 5) % 32, at, 11));
    form(`vpextrb ${memory(at, 1)}, ${x}, 15`, (asm) => asm.vpextrb(at, r, 15));
  }
  for (const g of [gp.rdx, gp.r10]) {
    form(`vmovd ${x}, ${names32[g]}`, (asm) => asm.vmovdLoad(r, g));
    form(`vmovd ${names32[g]}, ${x}`, (asm) => asm.vmovdStore(g, r));
    form(`vpinsrd ${x}, ${y}, ${names32[g]}, 1`, (asm) => asm.vpinsrd(r, (r + 5) % 32, g, 1));
    form(`vpinsrw ${x}, ${y}, ${names32[g]}, 7`, (asm) => asm.vpinsrw(r, (r + 5) % 32, g, 7));
    form(`vpinsrb ${x}, ${y}, ${names32[g]}, 2`, (asm) => asm.vpinsrb(r, (r + 5) % 32, g, 2));
  }
}
for (const k of [0, 3, 7]) {
  for (const g of [gp.rax, gp.rsi, gp.r9, gp.r15]) {
    form(`kmovw k${k}, ${names32[g]}`, (asm) => asm.kmovw(k, g));
    form(`kmovw ${names32[g]}, k${k}`, (asm) => asm.kmovwToGp(g, k));
  }
  const [a, b] = [(k + 1) % 8, (k + 4) % 8];
  for (const op of ["kandw", "kandnw", "korw", "kxnorw", "kxorw"] as const satisfies readonly MaskOp[]) {
    form(`${op} k${k}, k${a}, k${b}`, (asm) => asm.kop(op, k, a, b));
  }
  form(`knotw k${k}, k${a}`, (asm) => asm.knotw(k, a));
  form(`kortestw k${k}, k${a}`, (asm) => asm.kortestw(k, a));
}

// Data after the code, addressed from rip: the displacement counts from the end of the instruction, behind its immediate.
const dataForm = (text: string, emit: (asm: X64, data: Mem) => void) =>
  form(`${text.replace("DATA", "[rip+1f]")}; ret; 1:`, (asm) => {
    const label = new Label();
    emit(asm, { label });
    asm.ret();
    asm.bind(label);
  });
dataForm("mov r9, DATA", (asm, data) => asm.mov(gp.r9, data));
dataForm("lea rdx, DATA", (asm, data) => asm.lea(gp.rdx, data));
dataForm("cmp DWORD PTR DATA, 100", (asm, data) => asm.aluImm32("cmp", data, 100));
dataForm("cmp QWORD PTR DATA, 1000", (asm, data) => asm.aluImm("cmp", data, 1000));
dataForm("vaddps ymm1, ymm2, DATA", (asm, data) => asm.v("vaddps", 32, 1, 2, data));
dataForm("vaddps zmm1, zmm20, DATA", (asm, data) => asm.v("vaddps", 64, 1, 20, data));
dataForm("vmulps zmm17, zmm20, DWORD PTR DATA{1to16}", (asm, data) =>
  asm.v("vmulps", 64, 17, 20, data, { broadcast: true }),
);
dataForm("vshufps ymm9, ymm2, YMMWORD PTR DATA, 27", (asm, data) => asm.vi("vshufps", 32, 9, 2, data, 27));
dataForm("vpternlogd zmm9, zmm2, ZMMWORD PTR DATA, 27", (asm, data) => asm.vi("vpternlogd", 64, 9, 2, data, 27));
dataForm("call QWORD PTR DATA", (asm, data) => asm.call(data));
form("mov eax, [rip+1f+8]; ret; 1:", (asm) => {
  const label = new Label();
  asm.mov32(gp.rax, { label, disp: 8 });
  asm.ret();
  asm.bind(label);
});

// ------------------------------------------------------------------------------------------------ the comparison

const ours = forms.map(({ emit }) => {
  const asm = new X64();
  emit(asm);
  return asm.finish();
});
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const slot = 32;

function tool(name: string, args: readonly string[]): string {
  const { status, stderr, stdout, error } = spawnSync(name, args, { encoding: "utf8", maxBuffer: 2 ** 28 });
  if (error !== undefined || status !== 0) throw new Error(`${name}: ${error?.message ?? stderr.slice(0, 2000)}`);
  return stdout;
}

/** What as makes of every form: one slot each, its last byte the length. */
function assemble(texts: readonly string[]): Uint8Array[] {
  const folder = mkdtempSync(join(tmpdir(), "anekit-as-"));
  try {
    const at = (name: string) => join(folder, name);
    const lines = texts.map((text, i) => `S${i}: ${text}\nE${i}: .org ${slot * i + slot - 1}, 0\n.byte E${i} - S${i}`);
    writeFileSync(at("in.s"), `.intel_syntax noprefix\n${lines.join("\n")}\n`);
    tool("as", ["--64", "-o", at("out.o"), at("in.s")]);
    tool("objcopy", ["-O", "binary", "-j", ".text", at("out.o"), at("out.bin")]);
    const image = readFileSync(at("out.bin"));
    return texts.map((_, i) => image.subarray(slot * i, slot * i + image[slot * i + slot - 1]!));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const hasAs = spawnSync("as", ["--version"]).status === 0 && spawnSync("objcopy", ["--version"]).status === 0;

describe("x64 assembler", () => {
  test("encodes every form as GNU as does", { timeout: 120_000 }, ({ skip }) => {
    skip(!hasAs, "no GNU binutils (as, objcopy) here");
    const theirs = assemble(forms.map(({ text }) => text));
    const wrong = forms
      .map(({ text }, i) => `${text}: ${hex(ours[i]!)}, as ${hex(theirs[i]!)}`)
      .filter((_, i) => hex(ours[i]!) !== hex(theirs[i]!));
    expect(wrong).toEqual([]);
    expect(forms.length).toBeGreaterThan(10_000);
  });

  test("encodes a stored selection of forms to the stored bytes", () => {
    const byText = new Map(forms.map(({ text }, i) => [text, hex(ours[i]!)]));
    expect(Object.fromEntries(Object.keys(golden).map((text) => [text, byText.get(text)]))).toEqual(golden);
  });

  test("jumps back over more than 127 bytes with the long form", () => {
    const asm = new X64();
    const label = asm.here();
    for (let i = 0; i < 200; i++) asm.byte(0x90);
    asm.jcc("ne", label);
    expect(hex(asm.finish().subarray(200))).toBe("0f8532ffffff");
  });

  test("aligns with instructions that do nothing, and grows", () => {
    const asm = new X64();
    asm.ret();
    asm.align(16);
    expect(hex(asm.finish())).toBe(`c3${"0f1f840000000000"}0f1f8000000000`);
    for (let i = 0; i < 5000; i++) {
      asm.align(64);
      asm.ret();
    }
    expect(asm.length).toBe(16 + 48 + 4999 * 64 + 1);
  });

  test("refuses what cannot be encoded", () => {
    const asm = new X64();
    expect(() => asm.v("vpand", 32, 16, 0, 1)).toThrow(/no upper register/);
    expect(() => asm.v("vpcmpeqd", 64, 1, 0, 1)).toThrow(/no upper register/);
    expect(() => asm.v("vaddps", 32, 1, 0, 1, { zero: true })).toThrow(/zeroing needs a mask/);
    expect(() => asm.mov(gp.rax, mem(gp.rax, 0, gp.rsp))).toThrow(/addressing mode/);
    expect(() => asm.mov(gp.rax, mem(gp.rax, 2 ** 31))).toThrow(/32 bits/);
    expect(() => asm.aluImm("add", gp.rax, 2 ** 31)).toThrow(/32 bits/);
    const label = asm.here();
    expect(() => asm.bind(label)).toThrow(/twice/);
    asm.jmp(new Label());
    expect(() => asm.finish()).toThrow(/not bound/);
  });
});
