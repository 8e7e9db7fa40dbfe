// What the portable instructions do, on every set of instructions that runs here; as arm64 by scripts/arm64.ts.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { float16Bits, float16Value } from "../../../core/float16.ts";
import { openSystem } from "../../os/index.ts";
import {
  type Arithmetic,
  type Code,
  type Cond,
  type Gp,
  gp,
  Label,
  type Length,
  type Mem,
  mem,
  storageBytes,
} from "../code.ts";
import { Arm64Code } from "./arm64-code.ts";
import { chooseIsa, cpuFeatures } from "./features.ts";
import { newCode } from "./new-code.ts";

const system = await openSystem();
const { r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, sp } = gp;

const supported = (process.arch === "x64" && process.platform !== "win32") || process.arch === "arm64";
/** Where code is written to, by a name. */
const codes = sources();
function sources(): [string, () => Code][] {
  if (!supported) return [["no native code here", () => newCode("avx2")]];
  if (process.arch === "arm64") {
    const plain = (): Code => new Arm64Code(false);
    return hasAtomics(plain())
      ? [
          ["neon", plain],
          ["neon with atomics", () => new Arm64Code(true)],
        ]
      : [["neon", plain]];
  }
  const isas = chooseIsa(cpuFeatures(system)) === "avx512" ? (["avx2", "avx512"] as const) : (["avx2"] as const);
  return isas.map((isa) => [isa, () => newCode(isa)]);
}
/** Whether an arm64 processor has the atomic instructions of Armv8.1. */
function hasAtomics(code: Code): boolean {
  if (process.platform !== "linux") return true;
  const hardwareCapabilities = 16; // AT_HWCAP; the bit is HWCAP_ATOMICS
  const words = run(code, new Uint8Array(8), (asm) => {
    asm.mov(r3, r5);
    asm.movImm(r5, hardwareCapabilities);
    asm.callC(system.symbol("getauxval"));
    asm.mov(mem(r3), r0);
  });
  return ((words.getUint32(0, true) >>> 8) & 1) === 1;
}

/** Runs code on memory that starts with the given bytes and ends at an inaccessible page; r5 = its address. Gives the memory back. */
function run(
  code: Code,
  content: ArrayBufferView,
  emit: (asm: Code, address: number) => void,
  { stack = 0, functions }: { stack?: number; functions?: (asm: Code) => void } = {},
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
const numbered = (bytes: number) => Uint8Array.from({ length: bytes }, (_, i) => (i * 37 + 11) & 255);
const bytesOf = (view: DataView, at: number, count: number) => [...new Uint8Array(view.buffer, at, count)];
const words = (values: readonly bigint[], more = 0) => {
  const content = new BigUint64Array(values.length + more);
  values.forEach((value, i) => void (content[i] = BigInt.asUintN(64, value)));
  return content;
};

/** Where immediate offsets end: of loads of any size, of pairs, of sums. */
const edges = [0, 1, 7, 255, 256, 257, 1008, 1024, 4080, 4095, 4096, 8190, 16380, 16384, 32760, 32768, 65520, 65536];
const displacements = [...edges, 2 ** 20, 2 ** 24 - 1, 2 ** 24, 2 ** 24 + 4097, 2 ** 31 - 16, 2 ** 31 - 4096].flatMap(
  (disp) => (disp === 0 ? [0] : [disp, -disp]),
);
const conditions: readonly Cond[] = ["e", "ne", "b", "ae", "a", "be", "l", "ge", "g", "le", "s", "ns"];

describe.skipIf(!supported).for(codes)("%s", ([, create]) => {
  /** Every form of address of a place, base in r1, index in r9. */
  function forms(asm: Code, place: number): { address: Mem; ready: () => void }[] {
    const indices = [undefined, ...([1, 2, 4, 8] as const)];
    return displacements.flatMap((disp, i) => {
      // All displacements without an index, and with each scale some.
      const chosen = indices.filter((scale, s) => scale === undefined || disp === 0 || i % 4 === s - 1);
      return chosen.map((scale) => ({
        address: scale === undefined ? mem(r1, disp) : mem(r1, disp, r9, scale),
        ready() {
          const index = scale === undefined ? 0 : 1000 - i;
          asm.movImm(r1, BigInt(place) - BigInt(disp) - BigInt(index * (scale ?? 1)));
          asm.movImm(r9, index);
        },
      }));
    });
  }

  test("loads of all sizes reach their place by every form of address", () => {
    const through =
      (
        load: "mov" | "mov32" | "movzx16" | "movzx8" | "movsxd" | "acquire" | "acquire32",
        store: "mov" | "mov32" | "mov16" | "mov8",
      ) =>
      (asm: Code, src: Mem, to: Mem) => {
        asm[load](r8, src);
        asm[store](to, r8);
      };
    const vector =
      (load: (asm: Code, src: Mem) => void, store: (asm: Code, to: Mem) => void) => (asm: Code, src: Mem, to: Mem) => {
        load(asm, src);
        store(asm, to);
      };
    const float = (asm: Code, to: Mem) => asm.storeFloat(to, 1);
    const loads: readonly (readonly [bytes: number, load: (asm: Code, src: Mem, to: Mem) => void])[] = [
      [8, through("mov", "mov")],
      [4, through("mov32", "mov32")],
      [2, through("movzx16", "mov16")],
      [1, through("movzx8", "mov8")],
      [4, through("movsxd", "mov32")],
      [8, through("acquire", "mov")],
      [4, through("acquire32", "mov32")],
      [
        16,
        vector(
          (asm, src) => asm.vload(16, 1, src),
          (asm, to) => asm.vstore(16, to, 1),
        ),
      ],
      [
        13,
        vector(
          (asm, src) => asm.vloadPart(1, src, 13),
          (asm, to) => asm.vstorePart(to, 1, 13),
        ),
      ],
      [4, vector((asm, src) => asm.loadFloat(1, src, "fp32"), float)],
      [4, vector((asm, src) => asm.vrepeat(4, 1, src), float)],
    ];
    for (const [i, [bytes, load]] of loads.entries()) {
      const content = new Uint8Array(16 * 200);
      content.set(numbered(16));
      let end = 16;
      const view = run(create(), content, (asm, address) => {
        for (const { address: src, ready } of forms(asm, address)) {
          ready();
          asm.prefetch("t0", src);
          load(asm, src, mem(r5, end));
          end += 16;
        }
      });
      const expected = [...numbered(16).subarray(0, bytes)];
      for (let at = 16; at < end; at += 16) expect(bytesOf(view, at, bytes), `load ${i} at ${at}`).toEqual(expected);
    }
  });

  test("stores of all sizes reach their place by every form of address, and nothing beside it", () => {
    const stores: readonly (readonly [bytes: number, store: (asm: Code, dst: Mem) => void])[] = [
      [8, (asm, dst) => asm.mov(dst, r8)],
      [4, (asm, dst) => asm.mov32(dst, r8)],
      [2, (asm, dst) => asm.mov16(dst, r8)],
      [1, (asm, dst) => asm.mov8(dst, r8)],
      [16, (asm, dst) => asm.vstore(16, dst, 1)],
      [4, (asm, dst) => asm.storeFloat(dst, 1)],
      [11, (asm, dst) => asm.vstorePart(dst, 1, 11)],
      [8, (asm, dst) => asm.alu("xor", dst, r8)],
      [4, (asm, dst) => asm.lockAdd32(dst, r8)],
    ];
    const count = forms(create(), 0).length;
    for (const [i, [bytes, store]] of stores.entries()) {
      const content = new Uint8Array(32 * (count + 1));
      content.set(numbered(16));
      const view = run(create(), content, (asm, address) => {
        asm.mov(r8, mem(r5));
        asm.vload(16, 1, mem(r5));
        for (let form = 0; form < count; form++) {
          const { address: dst, ready } = forms(asm, address + 32 * (form + 1))[form]!;
          ready();
          store(asm, dst);
        }
      });
      const expected = [...numbered(16).subarray(0, bytes), ...new Uint8Array(32 - bytes)];
      for (let at = 32; at <= 32 * count; at += 32)
        expect(bytesOf(view, at, 32), `store ${i} at ${at}`).toEqual(expected);
    }
  });

  const longs = fc.oneof(
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    fc.constantFrom(
      0n,
      1n,
      2n ** 31n - 1n,
      2n ** 31n,
      2n ** 32n - 1n,
      2n ** 32n,
      2n ** 63n - 1n,
      2n ** 63n,
      2n ** 64n - 1n,
      0x7fffffff80000000n,
    ),
  );
  const immediates = fc.oneof(
    fc.integer(),
    fc.constantFrom(
      0,
      1,
      -1,
      63,
      0xfff,
      0x1000,
      -0xfff,
      -0x1000,
      0xfff000,
      0x1001,
      0x555555,
      0x0ff0,
      -(2 ** 31),
      2 ** 31 - 1,
    ),
  );
  const truths: Readonly<Record<Cond, (a: bigint, b: bigint, width: number) => boolean>> = {
    e: (a, b) => a === b,
    ne: (a, b) => a !== b,
    b: (a, b) => a < b,
    ae: (a, b) => a >= b,
    a: (a, b) => a > b,
    be: (a, b) => a <= b,
    l: (a, b, width) => BigInt.asIntN(width, a) < BigInt.asIntN(width, b),
    ge: (a, b, width) => BigInt.asIntN(width, a) >= BigInt.asIntN(width, b),
    g: (a, b, width) => BigInt.asIntN(width, a) > BigInt.asIntN(width, b),
    le: (a, b, width) => BigInt.asIntN(width, a) <= BigInt.asIntN(width, b),
    s: (a, b, width) => BigInt.asIntN(width, a - b) < 0n,
    ns: (a, b, width) => BigInt.asIntN(width, a - b) >= 0n,
  };
  const results: Readonly<Record<Arithmetic, (a: bigint, b: bigint) => bigint>> = {
    add: (a, b) => a + b,
    sub: (a, b) => a - b,
    cmp: (a) => a,
    and: (a, b) => a & b,
    or: (a, b) => a | b,
    xor: (a, b) => a ^ b,
  };

  test("arithmetic on registers and memory, and the conditions after it", () => {
    fc.assert(
      fc.property(longs, longs, immediates, (a, b, value) => {
        const expected: [string, bigint][] = [];
        const view = run(create(), words([a, b], 400), (asm) => {
          let at = 16;
          const result = (what: string, register: Gp, number: bigint) => {
            asm.mov(mem(r5, at), register);
            at += 8;
            expected.push([what, number]);
          };
          const check = (what: string, op: Arithmetic, x: bigint, y: bigint, width: 32 | 64) => {
            const [left, right] = [BigInt.asUintN(width, x), BigInt.asUintN(width, y)];
            const outcome = BigInt.asUintN(width, results[op](left, right));
            const compares = op === "cmp" || op === "sub";
            if (op === "or" || op === "xor") return outcome;
            // Bits of all conditions, in r12; moves, loads, stores and lea keep the flags.
            for (const [bit, condition] of conditions.entries()) {
              if (!compares && bit > 1 && bit < 10) continue;
              asm.lea(r13, mem(r12, 1 << bit));
              asm.cmov(condition, r12, r13);
            }
            const holds = conditions.map((condition) =>
              compares ? truths[condition](left, right, width) : truths[condition](outcome, 0n, width),
            );
            const bits = holds.reduce(
              (sum, yes, bit) => sum + (yes && (compares || bit < 2 || bit > 9) ? 1 << bit : 0),
              0,
            );
            result(`conditions after ${what}`, r12, BigInt(bits));
            return outcome;
          };
          for (const op of ["add", "sub", "and", "or", "xor", "cmp"] as const) {
            for (const width of [64, 32] as const) {
              const [alu, aluImm] = width === 64 ? (["alu", "aluImm"] as const) : (["alu32", "aluImm32"] as const);
              const move = width === 64 ? "mov" : "mov32";
              const kept = op === "cmp" ? a : undefined;
              const ways: [string, bigint, (dst: Gp) => void, Gp | Mem][] = [
                ["register", b, () => asm[alu](op, r8, r9), r8],
                ["memory", b, () => asm[alu](op, r8, mem(r5, 8)), r8],
                ["value", BigInt(value), () => asm[aluImm](op, r8, value), r8],
                ["to memory", b, () => asm[alu](op, mem(r14), r9), mem(r14)],
                ["value to memory", BigInt(value), () => asm[aluImm](op, mem(r14), value), mem(r14)],
              ];
              for (const [name, operand, apply, where] of ways) {
                asm.mov(r8, mem(r5));
                asm.mov(r9, mem(r5, 8));
                asm.lea(r14, mem(r5, 16 + 8 * 390));
                asm.mov(mem(r14), r8);
                asm.movImm(r12, 0);
                apply(r8);
                const what = `${op} of ${width} bits, ${name}`;
                const outcome = check(what, op, a, operand, width);
                asm[move](r2, where);
                if (op === "cmp") asm.mov(r2, where);
                result(what, r2, kept ?? outcome);
              }
            }
          }
          for (const [condition, register] of [["ne", r8] as const, ["s", r9] as const]) {
            asm.mov(r8, mem(r5));
            asm.mov(r9, mem(r5, 8));
            asm.movImm(r12, 0);
            asm.movImm(r13, 1);
            if (condition === "ne") asm.test(r8, r9);
            else asm.test32(r9, r9);
            asm.cmov(condition, r12, r13);
            const tested = condition === "ne" ? (a & b) !== 0n : BigInt.asIntN(32, b) < 0n;
            result(`test of ${register}`, r12, tested ? 1n : 0n);
          }
        });
        expected.forEach(([what, number], i) => {
          expect(view.getBigUint64(16 + 8 * i, true), `${what}: ${a}, ${b}, ${value}`).toBe(number);
        });
      }),
      { numRuns: 25, seed: 1 },
    );
  });

  test("products, shifts, negation, wide constants, quotients", () => {
    const divisors = [1, 2, 3, 7, 10, 64, 1000, 4096, 65_537, 2 ** 31, 2 ** 32 + 1, 2 ** 52];
    fc.assert(
      fc.property(longs, longs, immediates, fc.integer({ min: 0, max: 63 }), (a, b, value, count) => {
        const expected: [string, bigint][] = [];
        const view = run(create(), words([a, b], 80), (asm) => {
          const check = (what: string, number: bigint, emit: () => void, register: Gp = r8) => {
            asm.mov(r8, mem(r5));
            asm.mov(r9, mem(r5, 8));
            emit();
            asm.mov(mem(r5, 16 + 8 * expected.length), register);
            expected.push([what, BigInt.asUintN(64, number)]);
          };
          const wide = BigInt(value);
          const signed = BigInt.asIntN(32, b);
          check("imul", a * b, () => asm.imul(r8, r9));
          for (const factor of [value, 0, 1, 8, 2 ** 30]) {
            check(`imulImm ${factor}`, b * BigInt(factor), () => asm.imulImm(r8, r9, factor));
          }
          check("shl", a << BigInt(count), () => asm.shift("shl", r8, count));
          check("shr", a >> BigInt(count), () => asm.shift("shr", r8, count));
          check("sar", BigInt.asIntN(64, a) >> BigInt(count), () => asm.shift("sar", r8, count));
          check("neg", -a, () => asm.neg(r8));
          check("mov", b, () => asm.mov(r8, r9));
          check("mov32", BigInt.asUintN(32, b), () => asm.mov32(r8, r9));
          check("movsxd", signed, () => asm.movsxd(r8, r9));
          check("movsxd of memory", signed, () => asm.movsxd(r8, mem(r5, 8)));
          check("movImm", b, () => asm.movImm(r8, b));
          check("movImm of a number", wide, () => asm.movImm(r8, value));
          check("zero", 0n, () => asm.zero(r8));
          asm.movMemImm(mem(r5, 16 + 8 * 79), value);
          check("movMemImm", wide, () => asm.mov(r8, mem(r5, 16 + 8 * 79)));
          check("lea", a + b * 8n + wide, () => asm.lea(r8, mem(r8, value, r9, 8)));
          check("lea of its own index", b + a * 4n + wide, () => asm.lea(r8, mem(r9, value, r8, 4)));
          check("lea without index", b + wide, () => asm.lea(r8, mem(r9, value)));
          for (const by of divisors) {
            check(`divide by ${by}`, a / BigInt(by), () => asm.divide(r8, by));
            check(`remainder by ${by}`, a % BigInt(by), () => asm.divide(r8, by), r2);
          }
        });
        expected.forEach(([what, number], i) => {
          expect(view.getBigUint64(16 + 8 * i, true), `${what}: ${a}, ${b}, ${value}, ${count}`).toBe(number);
        });
      }),
      { numRuns: 25, seed: 2 },
    );
  });

  test("runs of loads, stores and changes of addresses do what each of them does", () => {
    const size = 40_000;
    const bases = [r8, r9, r10] as const;
    // Near one another, so that neighbours follow, and apart by pages.
    const places = fc.record({
      base: fc.nat(2),
      disp: fc
        .tuple(fc.constantFrom(0, 16, 4096, 8192, 16_384), fc.integer({ min: -3, max: 6 }))
        .map(([far, near]) => far + 16 * near),
      index: fc.option(fc.constantFrom(1, 2, 4, 8) as fc.Arbitrary<1 | 2 | 4 | 8>, { nil: undefined, freq: 2 }),
    });
    const steps = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({
          kind: fc.constantFrom("vload", "vstore", "vstream"),
          register: fc.nat(3),
          place: places,
        }),
      },
      { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom("load", "store"), place: places }) },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constant("move base"), base: fc.nat(2), by: fc.constantFrom(16, -16, 4096) }),
      },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant("load base"), base: fc.nat(2) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant("index"), value: fc.nat(40) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom("label", "add") }) },
    );
    fc.assert(
      fc.property(fc.array(steps, { minLength: 5, maxLength: 60 }), (program) => {
        const model = numbered(size);
        const start = 4096;
        const state = { bases: [start, start + 1024, start + 8192], index: 3, word: 5n };
        const registers = [0, 1, 2, 3].map((i) => model.slice(start + 16 * i, start + 16 * i + 16));
        const view = run(create(), model.slice(), (asm, address) => {
          const modelled = new DataView(model.buffer);
          const skew = address % 16; // streamed stores want multiples of 16
          const begin = (skew === 0 ? 0 : 16 - skew) + start;
          bases.forEach((base, i) => {
            state.bases[i] = begin + [0, 1024, 8192][i]!;
            asm.lea(base, mem(r5, state.bases[i]!));
          });
          asm.movImm(r6, state.index);
          asm.movImm(r7, state.word);
          registers.forEach((_, i) => {
            asm.vload(16, i, mem(r5, begin + 16 * i));
            registers[i] = model.slice(begin + 16 * i, begin + 16 * i + 16);
          });
          for (const step of program) {
            if ("place" in step) {
              const { base, disp, index } = step.place;
              const scale = index === undefined ? 0 : step.kind === "vstream" ? 8 : index;
              const at = state.bases[base]! + disp + scale * (step.kind === "vstream" ? state.index & ~1 : state.index);
              if (at < 0 || at + 16 > size || (step.kind === "vstream" && (at + address) % 16 !== 0)) continue;
              if (step.kind === "vstream" && index !== undefined && state.index % 2 === 1) continue;
              const place = scale === 0 ? mem(bases[base]!, disp) : mem(bases[base]!, disp, r6, scale as 1);
              if (step.kind === "load") {
                asm.mov(r7, place);
                state.word = modelled.getBigUint64(at, true);
              } else if (step.kind === "store") {
                asm.mov(place, r7);
                modelled.setBigUint64(at, state.word, true);
              } else if ("register" in step) {
                const { register } = step;
                if (step.kind === "vload") {
                  asm.vload(16, register, place);
                  registers[register] = model.slice(at, at + 16);
                } else {
                  asm[step.kind as "vstore"](16, place, register);
                  model.set(registers[register]!, at);
                }
              }
            } else if ("by" in step) {
              if (Math.abs(state.bases[step.base]! + step.by - 16_384) > 12_000) continue;
              state.bases[step.base]! += step.by;
              asm.aluImm("add", bases[step.base]!, step.by);
            } else if ("base" in step) {
              asm.mov(bases[step.base]!, r5);
              asm.aluImm("add", bases[step.base]!, begin);
              state.bases[step.base] = begin;
            } else if ("value" in step) {
              state.index = step.value;
              asm.movImm(r6, step.value);
            } else if (step.kind === "label") asm.here();
            else asm.vfloat("add", 5, 5, 5, 16);
          }
          registers.forEach((bytes, i) => {
            asm.vstore(16, mem(r5, 16 * i), i);
            model.set(bytes, 16 * i);
          });
        });
        expect(Buffer.compare(new Uint8Array(view.buffer), model)).toBe(0);
      }),
      { numRuns: 150, seed: 3 },
    );
  });

  test("calls of labels, registers and memory return, with frames of any size between", () => {
    const addThousand = create();
    addThousand.aluImm("add", r3, 1000);
    addThousand.ret();
    using native = system.code(addThousand.finish());
    const frames = [0, 8, 40, 120, 4096, 40_000];
    const nested = frames.map(() => new Label());
    const [above, toRegister, toMemory] = [new Label(), new Label(), new Label()];
    const view = run(
      create(),
      new Uint8Array(64),
      (asm) => {
        asm.movImm(r8, native.address);
        asm.mov(mem(r5, 32), r8);
        asm.zero(r3);
        asm.call(nested[0]!);
        asm.mov(mem(r5), r3);
        asm.zero(r3);
        for (const target of [r8, mem(r5, 32), toRegister, toMemory]) asm.call(target);
        asm.mov(mem(r5, 8), r3);
        asm.movMemImm(mem(sp, 8), 77);
        asm.call(above);
      },
      {
        stack: 24,
        functions(asm) {
          frames.forEach((bytes, i) => {
            asm.bind(nested[i]!);
            asm.enter(bytes);
            if (bytes > 0) asm.mov(mem(sp, bytes - 8), r3);
            asm.aluImm("add", r3, i + 1);
            if (i + 1 < frames.length) asm.call(nested[i + 1]!);
            asm.call(r8);
            if (bytes > 0) asm.alu("add", r3, mem(sp, bytes - 8));
            asm.leave(bytes);
            asm.ret();
          });
          asm.align(64);
          asm.bind(toRegister);
          asm.jmpTo(r8);
          asm.bind(toMemory);
          asm.jmpTo(mem(r5, 32));
          // What the caller has at sp lies `callBytes` further for who is called.
          asm.bind(above);
          asm.mov(r9, mem(sp, 8 + asm.callBytes));
          asm.mov(mem(r5, 16), r9);
          asm.ret();
        },
      },
    );
    const nest = (i: number, before: number): number => {
      const inner = before + i + 1;
      return (i + 1 < frames.length ? nest(i + 1, inner) : inner) + 1000 + (frames[i]! > 0 ? before : 0);
    };
    expect([0, 8, 16].map((at) => Number(view.getBigUint64(at, true)))).toEqual([nest(0, 0), 4000, 77]);
  });

  test("what C calls keeps what C wants kept, and C functions keep it too", () => {
    const kept = [r3, r10, r11, r12, r13];
    const others = [r0, r1, r2, r4, r5, r6, r7, r8, r9, r14];
    const inner = create();
    inner.enterFromC(40);
    inner.setRounding();
    for (const register of [...kept, ...others]) inner.movImm(register, -1);
    for (let i = 0; i < inner.registers; i++) inner.vconstant(i, 0x12345678);
    inner.endVectors();
    inner.leaveToC(40);
    inner.movImm(r0, 7);
    inner.ret();
    using native = system.code(inner.finish());
    const code = create();
    const view = run(code, Uint8Array.from([...Buffer.from("seventeen letters"), ...new Uint8Array(111)]), (asm) => {
      kept.forEach((register, i) => void asm.movImm(register, 1000 + i));
      for (let i = 8; i < 16; i++) asm.vconstant(i, i);
      asm.mov(r14, r5);
      asm.callC(native.address);
      kept.forEach((register, i) => void asm.mov(mem(r14, 24 + 8 * i), register));
      for (let i = 8; i < 16; i++) asm.storeFloat(mem(r14, 64 + 4 * (i - 8)), i);
      asm.mov(r5, r14);
      asm.callC(system.symbol("strlen"));
      asm.mov(mem(r14, 120), r0);
    });
    expect(kept.map((_, i) => Number(view.getBigUint64(24 + 8 * i, true)))).toEqual(kept.map((_, i) => 1000 + i));
    if (code.isa === "neon")
      expect(bytesOf(view, 64, 32).filter((_, i) => i % 4 === 0)).toEqual([8, 9, 10, 11, 12, 13, 14, 15]);
    expect(view.getBigUint64(120, true)).toBe(17n);
  });

  test("system calls, the clock, pauses", ({ skip }) => {
    skip(process.platform !== "linux", "numbers of Linux");
    const view = run(create(), new Uint8Array(32), (asm) => {
      asm.movImm(r0, process.arch === "arm64" ? 172 : 39); // getpid
      asm.syscall();
      asm.mov32(mem(r5), r0);
      asm.ticks();
      asm.mov(r8, r0);
      asm.movImm(r9, 10_000);
      const loop = asm.here();
      asm.pause();
      asm.aluImm("sub", r9, 1);
      asm.jcc("ne", loop);
      asm.ticks();
      asm.alu("sub", r0, r8);
      asm.mov(mem(r5, 8), r0);
    });
    expect(view.getUint32(0, true)).toBe(process.pid);
    const ticks = view.getBigInt64(8, true);
    expect(ticks > 0n && ticks < 10_000_000_000n).toBe(true);
  });

  test("atomic operations give back what was there, and branch on it", () => {
    const results = run(create(), words([100n, 0x1_0000_0007n, 5n, 6n], 12), (asm) => {
      asm.movImm(r8, 11);
      asm.lockXadd(mem(r5), r8);
      asm.mov(mem(r5, 64), r8);
      asm.movImm(r8, 3);
      asm.lockAdd32(mem(r5, 8), r8);
      asm.lockAddImm32(mem(r5, 8), -20);
      asm.movImm(r8, 50);
      asm.xchg(mem(r5, 16), r8);
      asm.mov(mem(r5, 72), r8);
      asm.movImm(r8, -1);
      asm.xchg32(mem(r5, 24), r8);
      asm.mov(mem(r5, 80), r8);
      asm.movImm(r9, 9);
      for (const [expected, at] of [[50, 88] as const, [51, 104] as const]) {
        const differs = new Label();
        asm.movImm(r0, expected);
        asm.movImm(r2, 1);
        asm.lockCmpxchg32(mem(r5, 16), r9);
        asm.jcc("ne", differs);
        asm.movImm(r2, 2);
        asm.bind(differs);
        asm.mov(mem(r5, at), r0);
        asm.mov(mem(r5, at + 8), r2);
      }
    });
    const word = (i: number) => results.getBigUint64(8 * i, true);
    expect([0, 1, 2, 3].map(word)).toEqual([111n, 0x1_fffffff6n, 9n, 0xffffffffn]);
    expect([8, 9, 10].map(word)).toEqual([100n, 5n, 6n]);
    expect([11, 12, 13, 14].map(word)).toEqual([50n, 2n, 9n, 1n]);
  });

  test("threads count together by every atomic operation", () => {
    const [threads, rounds] = [4, 10_000];
    const counts: readonly ((asm: Code) => void)[] = [
      (asm) => {
        asm.movImm(r8, 3);
        asm.lockXadd(mem(r5, 0), r8);
      },
      (asm) => {
        asm.movImm(r8, 3);
        asm.lockAdd32(mem(r5, 0), r8);
      },
      (asm) => asm.lockAddImm32(mem(r5, 0), 3),
      (asm) => {
        // Takes the lock at 8 by exchange, gives it back by one.
        const locked = asm.here();
        asm.movImm(r8, 1);
        asm.xchg32(mem(r5, 8), r8);
        asm.test32(r8, r8);
        asm.jcc("ne", locked);
        asm.aluImm("add", mem(r5, 0), 3);
        asm.xchg(mem(r5, 8), r8);
      },
      (asm) => {
        const again = asm.here();
        asm.mov32(r0, mem(r5, 0));
        asm.lea(r8, mem(r0, 3));
        asm.lockCmpxchg32(mem(r5, 0), r8);
        asm.jcc("ne", again);
      },
    ];
    for (const count of counts) {
      const asm = create();
      asm.enterFromC(0);
      asm.movImm(r3, rounds);
      const loop = asm.here();
      count(asm);
      asm.aluImm("sub", r3, 1);
      asm.jcc("ne", loop);
      asm.leaveToC(0);
      asm.ret();
      using native = system.code(asm.finish());
      using memory = system.allocate(16);
      const started = Array.from({ length: threads }, (_, i) =>
        system.thread(native.address, memory.address, { name: `t${i}` }),
      );
      for (const thread of started) thread.join();
      expect(new DataView(memory.bytes.slice().buffer).getBigUint64(0, true)).toBe(BigInt(3 * threads * rounds));
    }
  });

  test("parts of 1 to 16 bytes are moved next to memory that is not there", () => {
    for (let bytes = 1; bytes <= 16; bytes++) {
      const content = new Uint8Array(64 + bytes);
      content.set(numbered(bytes), 64);
      const view = run(create(), content, (asm) => {
        asm.vloadPart(3, mem(r5, 64), bytes);
        asm.vstore(16, mem(r5), 3);
        asm.vzero(3);
        asm.vstore(16, mem(r5, 16), 3);
        asm.vloadPart(3, mem(r5, 64), bytes);
        asm.vstorePart(mem(r5, 16), 3, bytes);
        asm.vstorePart(mem(r5, 64), 3, bytes);
      });
      const part = [...numbered(bytes)];
      expect(bytesOf(view, 0, bytes)).toEqual(part);
      expect(bytesOf(view, 16, 32)).toEqual([...part, ...new Uint8Array(32 - bytes)]);
      expect(bytesOf(view, 64, bytes)).toEqual(part);
    }
  });

  test("floats are loaded and stored in parts of every count next to memory that is not there", () => {
    const { lanes } = create();
    for (const storage of ["fp32", "fp16"] as const) {
      const unit = storageBytes[storage];
      for (let count = 1; count <= lanes; count++) {
        const at = 3 * 64;
        const bytes = Buffer.alloc(at + count * unit, 0xff);
        const value = (lane: number) => (lane % 2 === 0 ? 1 : -1) * (lane + 0.5);
        for (let lane = 0; lane < count; lane++) {
          if (storage === "fp32") bytes.writeFloatLE(value(lane), at + 4 * lane);
          else bytes.writeUInt16LE(float16Bits(value(lane)), at + 2 * lane);
        }
        const view = run(create(), bytes, (asm) => {
          for (const mask of [1, 2] as const) {
            const part = asm.setPart(count, mask);
            asm.loadFloats(2, mem(r5, at), storage, part);
            asm.vstore(asm.vectorBytes, mem(r5), 2);
            asm.storeFloats(mem(r5, 64), 2, storage, part, 3);
            asm.loadFloats(2, mem(r5, at), storage, part);
            asm.storeFloats(mem(r5, at), 2, storage, part, 3);
          }
        });
        const floats = Array.from({ length: lanes }, (_, lane) => view.getFloat32(4 * lane, true));
        expect(floats).toEqual(floats.map((_, lane) => (lane < count ? value(lane) : 0)));
        const stored = [...bytes.subarray(at)];
        expect(bytesOf(view, 64, 64)).toEqual([...stored, ...new Array<number>(64 - stored.length).fill(0xff)]);
        expect(bytesOf(view, at, stored.length)).toEqual(stored);
      }
    }
  });

  test("all halves are widened, and floats rounded to the nearest half", () => {
    const halves = Uint16Array.from({ length: 65_536 }, (_, i) => i);
    const tie = (low: number) => (float16Value(low) + float16Value(low + 1)) / 2;
    const special = [
      0,
      -0,
      65_504,
      65_519,
      65_520,
      -65_520,
      1e30,
      Infinity,
      -Infinity,
      NaN,
      2 ** -24,
      2 ** -25,
      2 ** -26,
      1e-45,
    ];
    // Ties and what is next to them, among them of subnormal and of the largest halves.
    const near = [0, 1, 2, 3, 1022, 1023, 1024, 1025, 0x3c00, 0x3c01, 0x7bfd, 0x7bfe].flatMap((low) => {
      const middle = tie(low);
      const step = 2 ** -23 * middle;
      return [middle, middle + step, middle - step, -middle];
    });
    const spread = Array.from(
      { length: 4000 },
      (_, i) => (1 + ((i * 2654435761) % 8192) / 4096) * 2 ** ((i % 46) - 28),
    );
    const inputs = Float32Array.from([...special, ...near, ...spread]);
    const padded = new Float32Array(Math.ceil(inputs.length / 16) * 16);
    padded.set(inputs);
    const [floatsAt, inputsAt] = [2 * halves.length, 6 * halves.length];
    const halvesAt = inputsAt + padded.byteLength;
    const bytes = new Uint8Array(halvesAt + padded.byteLength / 2);
    bytes.set(new Uint8Array(halves.buffer));
    bytes.set(new Uint8Array(padded.buffer), inputsAt);
    const ways: readonly ((asm: Code) => void)[] = [
      (asm) => asm.loadFloats(1, mem(r8), "fp16"),
      (asm) => asm.widen(asm.vectorBytes, 1, mem(r8)),
      (asm) => {
        asm.vload((asm.vectorBytes / 2) as Length, 1, mem(r8));
        asm.widen(asm.vectorBytes, 1, 1);
      },
    ];
    const narrowings: readonly ((asm: Code) => void)[] = [
      (asm) => asm.storeFloats(mem(r9), 1, "fp16"),
      (asm) => asm.narrow(asm.vectorBytes, mem(r9), 1),
      (asm) => {
        asm.narrow(asm.vectorBytes, 2, 1);
        asm.narrow(asm.vectorBytes, mem(r9), 1);
      },
    ];
    for (const [way, widen] of ways.entries()) {
      if (way === 2 && create().vectorBytes === 16) continue; // no vectors of 8 bytes
      const view = run(create(), bytes, (asm) => {
        const loop = (from: number, to: number, fromBytes: number, rounds: number, body: () => void) => {
          asm.lea(r8, mem(r5, from));
          asm.lea(r9, mem(r5, to));
          asm.movImm(r3, rounds);
          const top = asm.here();
          body();
          asm.aluImm("add", r8, fromBytes * asm.lanes);
          asm.aluImm("add", r9, (6 - fromBytes) * asm.lanes);
          asm.aluImm("sub", r3, 1);
          asm.jcc("ne", top);
        };
        loop(0, floatsAt, 2, halves.length / asm.lanes, () => {
          widen(asm);
          asm.vstore(asm.vectorBytes, mem(r9), 1);
        });
        loop(inputsAt, halvesAt, 4, padded.length / asm.lanes, () => {
          asm.vload(asm.vectorBytes, 1, mem(r8));
          narrowings[way]!(asm);
        });
      });
      for (const half of halves) {
        const widened = view.getFloat32(floatsAt + 4 * half, true);
        if (!Object.is(widened, float16Value(half))) expect.fail(`half ${half}: ${widened}`);
      }
      for (const [i, input] of padded.entries()) {
        const half = view.getUint16(halvesAt + 2 * i, true);
        const right = Number.isNaN(input) ? (half & 0x7fff) > 0x7c00 : half === float16Bits(input);
        if (!right) expect.fail(`float ${input}: ${half}`);
      }
    }
  });

  test("single floats and elements of memory fill vectors", () => {
    const content = Buffer.alloc(1024);
    content.writeFloatLE(-1.25, 1020);
    content.writeUInt16LE(float16Bits(0.1), 1018);
    content.writeUInt8(200, 1017);
    const { lanes, vectorBytes } = create();
    const view = run(create(), content, (asm) => {
      let at = 0;
      const out = () => {
        asm.vstore(asm.vectorBytes, mem(r5, at), 1);
        at += asm.vectorBytes;
      };
      asm.vrepeat(1, 1, mem(r5, 1017));
      out();
      asm.vrepeat(2, 1, mem(r5, 1018));
      out();
      asm.vrepeat(4, 1, mem(r5, 1020));
      out();
      asm.repeatFloat(1, mem(r5, 1020), "fp32");
      out();
      asm.repeatFloat(1, mem(r5, 1018), "fp16");
      out();
      for (const bits of [0, 0xff, 0xffffff00 | 0, 0x12345678, 0xbf800000]) {
        asm.vconstant(1, bits);
        out();
      }
      asm.loadFloat(1, mem(r5, 1020), "fp32");
      asm.storeFloat(mem(r5, 1000), 1);
      asm.loadFloat(1, mem(r5, 1018), "fp16");
      asm.storeFloat(mem(r5, 1004), 1);
    });
    const all = <T>(value: T, count = lanes) => new Array<T>(count).fill(value);
    const tenth = float16Value(float16Bits(0.1));
    const floats = (i: number) => all(0).map((_, lane) => view.getFloat32(i * vectorBytes + 4 * lane, true));
    const ints = (i: number) => all(0).map((_, lane) => view.getUint32(i * vectorBytes + 4 * lane, true));
    expect(bytesOf(view, 0, vectorBytes)).toEqual(all(200, vectorBytes));
    expect(ints(1)).toEqual(all(float16Bits(0.1) * 0x10001));
    expect([2, 3, 4].map(floats)).toEqual([all(-1.25), all(-1.25), all(tenth)]);
    expect([5, 6, 7, 8, 9].map(ints)).toEqual([0, 0xff, 0xffffff00, 0x12345678, 0xbf800000].map((bits) => all(bits)));
    expect([view.getFloat32(1000, true), view.getFloat32(1004, true)]).toEqual([-1.25, tenth]);
  });

  test("arithmetic on vectors, of registers and memory", () => {
    const { lanes, vectorBytes } = create();
    const special = [0, -0, 1, -1.5, Infinity, -Infinity, NaN, 1e-45, 3.4e38, 1e-20, 0.1, 7];
    const a = Float32Array.from({ length: lanes * 12 }, (_, i) => special[i % 12]!);
    const b = a.map((_, i) => special[Math.floor(i / 12 + i * 5) % 12]!);
    const f = Math.fround;
    // Products of floats are exact in double precision, and these sums are as good as rounded once.
    const wanted: readonly ((x: number, y: number, acc: number) => number)[] = [
      (x, y) => f(x + y),
      (x, y) => f(x - y),
      (x, y) => f(x * y),
      (x, y, acc) => f(acc + x * y),
    ];
    const rows = a.length / lanes;
    const view = run(create(), new Float32Array([...a, ...b, ...new Float32Array(8 * a.length)]), (asm) => {
      for (let row = 0; row < rows; row++) {
        const place = (array: number) => mem(r5, (array * rows + row) * vectorBytes);
        asm.vload(asm.vectorBytes, 1, place(0));
        asm.vload(asm.vectorBytes, 2, place(1));
        for (const [i, op] of (["add", "sub", "mul"] as const).entries()) {
          asm.vfloat(op, 3, 1, 2);
          asm.vstore(asm.vectorBytes, place(2 + 2 * i), 3);
          asm.vmove(3, 1);
          asm.vfloat(op, 3, 3, place(1));
          asm.vstore(asm.vectorBytes, place(3 + 2 * i), 3);
        }
        for (const [i, operand] of [2, place(1)].entries()) {
          asm.vmove(3, 1);
          asm.fma(3, 1, operand);
          asm.vstore(asm.vectorBytes, place(8 + i), 3);
        }
      }
    });
    for (const [i, op] of wanted.entries()) {
      for (const form of [0, 1]) {
        for (let at = 0; at < a.length; at++) {
          const value = view.getFloat32(4 * ((2 + 2 * i + form) * a.length + at), true);
          const expected = op(a[at]!, b[at]!, a[at]!);
          if (!Object.is(value, expected))
            expect.fail(`operation ${i} of ${a[at]} and ${b[at]}: ${value}, not ${expected}`);
        }
      }
    }
  });

  test("products with single floats, sums of integers and across lanes", () => {
    const { lanes, vectorBytes } = create();
    const count = 16;
    const a = Float32Array.from({ length: count }, (_, i) => i - 5.25);
    const b = Float32Array.from({ length: count }, (_, i) => (i % 3) + 0.5);
    const content = new Float32Array([...a, ...b, ...new Float32Array(6 * count)]);
    const view = run(create(), content, (asm) => {
      const place = (row: number) => mem(r5, 64 * row);
      asm.vload(asm.vectorBytes, 0, place(0));
      asm.vload(asm.vectorBytes, 1, place(1));
      for (const i of [2, 3, 4]) asm.vzero(i);
      asm.fmaScalar([2, 3], mem(r5, 4 * 3), [0, 1], 5); // times a[3]
      asm.fmaScalar([2, 4], mem(r5, 64 + 4), [0, 1], 5); // times b[1]
      for (const i of [2, 3, 4]) asm.vstore(asm.vectorBytes, place(i), i);
      asm.viadd(6, 0, 1);
      asm.vstore(asm.vectorBytes, place(5), 6);
      asm.viadd(6, 0, place(1), 16);
      asm.vstore(16, place(6), 6);
      asm.sumLanes(0, 7);
      asm.storeFloat(place(7), 0);
    });
    const row = (i: number) => Array.from({ length: lanes }, (_, lane) => view.getFloat32(64 * i + 4 * lane, true));
    const all = row(0).map((_, i) => i);
    expect(row(2)).toEqual(all.map((i) => a[i]! * (a[3]! + b[1]!)));
    expect(row(3)).toEqual(all.map((i) => b[i]! * a[3]!));
    expect(row(4)).toEqual(all.map((i) => b[i]! * b[1]!));
    const ints = (i: number, from: number) => new Int32Array(view.buffer, 64 * i, from);
    expect([...ints(5, lanes)]).toEqual([...ints(0, lanes)].map((value, i) => (value + ints(1, lanes)[i]!) | 0));
    expect([...ints(6, 4)]).toEqual([...ints(5, 4)]);
    expect(row(7)[0]).toBe(all.reduce((sum, i) => sum + a[i]!, 0));
    expect(vectorBytes).toBe(4 * lanes);
  });

  test("elements are interleaved within every 16 bytes, lanes inserted, squares transposed", () => {
    const { lanes, vectorBytes } = create();
    const units = [1, 2, 4, 8] as const;
    const lengths = ([16, 32, 64] as const).filter((length) => length <= vectorBytes);
    const cases = units.flatMap((unit) =>
      lengths.flatMap((length) => (["low", "high"] as const).map((half) => ({ unit, length, half }))),
    );
    const [a, b] = [numbered(vectorBytes), numbered(vectorBytes).map((byte) => byte ^ 0x55)];
    const square = Float32Array.from({ length: lanes * lanes }, (_, i) => i);
    const squareAt = 2 * vectorBytes;
    const outAt = squareAt + square.byteLength;
    const insertedAt = outAt + cases.length * 2 * vectorBytes;
    const content = new Uint8Array(insertedAt + 4 * vectorBytes);
    content.set(a);
    content.set(b, vectorBytes);
    content.set(new Uint8Array(square.buffer), squareAt);
    const view = run(create(), content, (asm) => {
      cases.forEach(({ unit, length, half }, i) => {
        asm.vload(length, 1, mem(r5));
        asm.vload(length, 2, mem(r5, vectorBytes));
        asm.vinterleave(half, unit, length, 3, 1, 2);
        asm.vstore(length, mem(r5, outAt + 2 * i * vectorBytes), 3);
        if (length === 64)
          asm.vinterleave(half, unit, length, 1, 1, 2); // memory as an operand is for shorter vectors
        else asm.vinterleave(half, unit, length, 1, 1, mem(r5, vectorBytes));
        asm.vstore(length, mem(r5, outAt + (2 * i + 1) * vectorBytes), 1);
      });
      for (const [i, src] of [mem(r5, vectorBytes), 2].entries()) {
        asm.vload(asm.vectorBytes, 1, mem(r5));
        asm.vload(16, 2, mem(r5, vectorBytes));
        asm.vinsert(asm.vectorBytes, 1, src, vectorBytes / 16 - 1);
        asm.vstore(asm.vectorBytes, mem(r5, insertedAt + i * vectorBytes), 1);
      }
      const rows = Array.from({ length: lanes }, (_, i) => i);
      for (const i of rows) asm.vload(asm.vectorBytes, i, mem(r5, squareAt + i * vectorBytes));
      if (asm.registers >= 2 * lanes)
        asm.transpose(
          rows,
          rows.map((i) => lanes + i),
        );
      for (const i of rows) asm.vstore(asm.vectorBytes, mem(r5, squareAt + i * vectorBytes), i);
    });
    cases.forEach(({ unit, length, half }, i) => {
      const expected: number[] = [];
      for (let lane = 0; lane < length; lane += 16) {
        const start = lane + (half === "low" ? 0 : 8);
        for (let at = start; at < start + 8; at += unit) {
          expected.push(...a.subarray(at, at + unit), ...b.subarray(at, at + unit));
        }
      }
      for (const form of [0, 1]) {
        expect(bytesOf(view, outAt + (2 * i + form) * vectorBytes, length), `${half} ${unit} of ${length}`).toEqual(
          expected,
        );
      }
    });
    for (const i of [0, 1]) {
      const expected = [...a.subarray(0, vectorBytes - 16), ...b.subarray(0, 16)];
      expect(bytesOf(view, insertedAt + i * vectorBytes, vectorBytes)).toEqual(expected);
    }
    const transposed = Array.from(square, (_, i) => view.getFloat32(squareAt + 4 * i, true));
    expect(transposed).toEqual(Array.from(square, (_, i) => square[(i % lanes) * lanes + Math.floor(i / lanes)]!));
  });
});
