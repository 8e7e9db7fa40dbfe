// Code of the arm64 assembler, run: on an arm64 machine by vitest, elsewhere by qemu.test.ts under emulation.

import { beforeEach, describe, expect, test } from "vitest";
import { float16Bits, float16Value } from "../../src/core/float16.ts";
import { Arm64, gp, indexed, Label, mem, post, pre, w } from "../../src/engines/cpu/isa/arm64.ts";
import { countTogether, system } from "../../src/engines/cpu/isa/code.harness.ts";

const { x0, x1, x2, x3, x4, x5, x6, x7, x8, x19, x20, x29, x30, xzr, sp } = gp;

type Memory = ReturnType<typeof system.allocate>;

/** Runs code once on memory that starts with the given bytes (x0), and gives the memory back. */
function run(emit: (asm: Arm64) => void, content: Uint8Array | ArrayBufferView): DataView {
  const asm = new Arm64();
  emit(asm);
  using code = system.code(asm.finish());
  using memory = system.allocate(content.byteLength, { tight: true });
  memory.bytes.set(new Uint8Array(content.buffer, content.byteOffset, content.byteLength));
  system.entry(code.address)(memory.address);
  return new DataView(memory.bytes.slice().buffer);
}
const floats = (view: DataView, at: number, count: number) =>
  Array.from({ length: count }, (_, i) => view.getFloat32(at + 4 * i, true));

/** Whether the processor has a feature, by its name in /proc/cpuinfo. */
const has = (feature: string) => system.armProcessor().flags.has(feature);

describe("arm64 code", () => {
  beforeEach(({ skip }) => skip(process.arch !== "arm64", "arm64 code; test/arm64/qemu.test.ts emulates it"));

  test("adds arrays of any length", () => {
    const asm = new Arm64();
    const [single, done] = [new Label(), new Label()];
    // x0: three addresses and a count.
    asm.pair("ldp", x1, x2, mem(x0));
    asm.pair("ldp", x3, x4, mem(x0, 16));
    asm.aluImm("subs", x4, x4, 8);
    asm.bIf("lt", single);
    const loop = asm.here();
    asm.pairv("ldp", "q", 0, 1, post(x1, 32));
    asm.structure("ld1", "4s", 2, post(x2, 32), 2);
    asm.v("fadd", "4s", 0, 0, 2);
    asm.v("fadd", "4s", 1, 1, 3);
    asm.pairv("stp", "q", 0, 1, post(x3, 32));
    asm.aluImm("subs", x4, x4, 8);
    asm.bIf("ge", loop);
    asm.bind(single);
    asm.aluImm("adds", x4, x4, 8);
    asm.bIf("eq", done);
    asm.movImm(x5, 0);
    const last = asm.here();
    asm.ldrv("s", 0, indexed(x1, x5, 2));
    asm.ldrv("s", 1, indexed(x2, w(x5), 2, "uxtw"));
    asm.f("fadd", "s", 0, 0, 1);
    asm.strv("s", 0, indexed(x3, x5, 2));
    asm.aluImm("add", x5, x5, 1);
    asm.cmp(x5, x4);
    asm.bIf("lo", last);
    asm.bind(done);
    asm.ret();
    using code = system.code(asm.finish());
    for (const length of [0, 1, 7, 8, 9, 31, 1000]) {
      const [a, b, c] = [1, 2, 3].map(() => system.allocate(4 * length, { tight: true })) as [Memory, Memory, Memory];
      const numbers = (memory: Memory) => new Float32Array(memory.bytes.buffer, memory.bytes.byteOffset, length);
      numbers(a).forEach((_, i, array) => void (array[i] = i / 3));
      numbers(b).forEach((_, i, array) => void (array[i] = 1000 - i * i));
      using words = system.allocate(32);
      new BigUint64Array(words.bytes.buffer, words.bytes.byteOffset, 4).set(
        [a.address, b.address, c.address, length].map(BigInt),
      );
      system.entry(code.address)(words.address);
      const expected = numbers(a).map((value, i) => value + numbers(b)[i]!);
      expect([...numbers(c)]).toEqual([...expected]);
      for (const memory of [a, b, c]) memory.dispose();
    }
  });

  test("converts all halves, and floats as the simulator rounds them", () => {
    const count = 65_536;
    const bytes = new Uint8Array(count * 6 + count * 6);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < count; i++) view.setUint16(2 * i, i, true);
    // Floats of all exponents around those of halves, among them ties.
    const inputs = Array.from({ length: count }, (_, i) =>
      Math.fround((1 + ((i * 2654435761) % 8192) / 4096) * 2 ** ((i % 46) - 28)),
    );
    inputs.forEach((value, i) => void view.setFloat32(6 * count + 4 * i, i % 2 ? -value : value, true));
    const result = run((asm) => {
      const convert = (body: () => void) => {
        asm.movImm(x3, count / 8);
        const loop = asm.here();
        body();
        asm.aluImm("sub", x3, x3, 1);
        asm.cbnz(x3, loop);
      };
      asm.mov(x1, x0);
      asm.movImm(x2, 2 * count);
      asm.alu("add", x2, x2, x0);
      convert(() => {
        asm.ldrv("q", 0, post(x1, 16));
        asm.v("fcvtl", "4s", 1, 0);
        asm.v("fcvtl2", "4s", 2, 0);
        asm.pairv("stp", "q", 1, 2, post(x2, 32));
      });
      asm.mov(x1, x2);
      asm.movImm(x2, 4 * count);
      asm.alu("add", x2, x2, x1);
      convert(() => {
        asm.pairv("ldp", "q", 0, 1, post(x1, 32));
        asm.v("fcvtn", "4h", 2, 0);
        asm.v("fcvtn2", "8h", 2, 1);
        asm.strv("q", 2, post(x2, 16));
      });
      asm.ret();
    }, bytes);
    for (let i = 0; i < count; i++) {
      const widened = result.getFloat32(2 * count + 4 * i, true);
      if (!Object.is(widened, float16Value(i))) expect.fail(`half ${i}: ${widened}`);
      const narrowed = result.getUint16(10 * count + 2 * i, true);
      const input = i % 2 ? -inputs[i]! : inputs[i]!;
      if (narrowed !== float16Bits(input)) expect.fail(`float ${input}: ${narrowed}`);
    }
  });

  const a = Float32Array.from({ length: 16 }, (_, i) => (i % 7) - 3);
  const b = Float32Array.from({ length: 16 }, (_, i) => (i % 5) - 2);
  const product = Array.from({ length: 16 }, (_, at) =>
    [0, 1, 2, 3].reduce((sum, k) => sum + a[4 * Math.floor(at / 4) + k]! * b[4 * k + (at % 4)]!, 0),
  );

  test("multiplies matrices of floats by elements, and transposes them on loading and storing", () => {
    const result = run(
      (asm) => {
        asm.structure("ld1", "4s", 0, post(x0, 64), 4);
        asm.structure("ld1", "4s", 4, mem(x0), 4);
        for (let row = 0; row < 4; row++) {
          asm.movi("4s", 16 + row, 0);
          for (let k = 0; k < 4; k++) asm.element("fmla", "4s", 16 + row, 4 + k, row, k);
        }
        asm.structure("st1", "4s", 16, mem(x0), 4);
        asm.structure("ld4", "4s", 20, mem(x0));
        asm.aluImm("sub", x0, x0, 64);
        asm.structure("st1", "4s", 20, mem(x0), 4);
        asm.ret();
      },
      new Float32Array([...a, ...b]),
    );
    expect(floats(result, 64, 16)).toEqual(product);
    expect(floats(result, 0, 16)).toEqual(product.map((_, at) => product[4 * (at % 4) + Math.floor(at / 4)]));
  });

  test("multiplies halves: in their own precision, and widened", ({ skip }) => {
    skip(!has("asimdhp") || !has("asimdfhm"), "a processor without half-precision arithmetic");
    const result = run(
      (asm) => {
        asm.structure("ld1", "4s", 0, post(x0, 64), 4);
        asm.structure("ld1", "4s", 4, mem(x0), 4);
        asm.v("fcvtn", "4h", 8, 0); // row 0
        asm.movi("8h", 24, 0);
        asm.movi("4s", 25, 0);
        for (let k = 0; k < 4; k++) {
          asm.v("fcvtn", "4h", 9, 4 + k);
          asm.element("fmla", "8h", 24, 9, 8, k);
          asm.element("fmlal", "4s", 25, 9, 8, k);
        }
        asm.v("fcvtl", "4s", 24, 24);
        asm.pairv("stp", "q", 24, 25, mem(x0));
        asm.ret();
      },
      new Float32Array([...a, ...b]),
    );
    expect(floats(result, 64, 8)).toEqual([...product.slice(0, 4), ...product.slice(0, 4)]);
  });

  test("sums products of bytes", ({ skip }) => {
    skip(!has("asimddp"), "a processor without dot products");
    const result = run((asm) => {
      asm.movi("16b", 1, 3);
      asm.movi("16b", 2, -2);
      asm.movi("4s", 25, 0);
      asm.v("sdot", "4s", 25, 1, 2);
      asm.v("addv", "4s", 26, 25);
      asm.umov("s", w(x2), 26, 0);
      asm.str(w(x2), mem(x0));
      asm.ret();
    }, new Uint8Array(4));
    expect(result.getInt32(0, true)).toBe(-96);
  });

  test("counts in memory from several threads, by each kind of atomic instruction", () => {
    const kinds: Readonly<Record<string, (asm: Arm64) => void>> = {
      ldadd: (asm) => asm.atomic("ldadd", "al", x2, x3, x0),
      "load exclusive": (asm) => {
        const again = asm.here();
        asm.ldaxr(x3, x0);
        asm.alu("add", x3, x3, x2);
        asm.stlxr(w(x4), x3, x0);
        asm.cbnz(w(x4), again);
      },
      cas: (asm) => {
        const again = asm.here();
        asm.ldar(x3, x0);
        asm.mov(x5, x3);
        asm.alu("add", x4, x3, x2);
        asm.cas("al", x3, x4, x0);
        asm.cmp(x3, x5);
        asm.bIf("ne", again);
      },
    };
    const [threads, rounds] = [4, 20_000];
    for (const [name, count] of Object.entries(kinds)) {
      if (name !== "load exclusive" && !has("atomics")) continue;
      const asm = new Arm64();
      asm.movImm(x1, rounds);
      asm.movImm(x2, 3);
      const loop = asm.here();
      count(asm);
      asm.aluImm("subs", x1, x1, 1);
      asm.bIf("ne", loop);
      asm.ret();
      expect(countTogether(asm.finish(), threads), name).toBe(BigInt(3 * threads * rounds));
    }
  });

  test("makes constants, keeps registers in a frame, calls, reads literals and the clock", () => {
    const constants = [
      0n,
      1n,
      0xffffn,
      0x123456789abcdef0n,
      0xffffffffffff1234n,
      0x5555555555555555n,
      2n ** 63n,
      2n ** 64n - 1n,
    ];
    const [callee, literal] = [new Label(), new Label()];
    const view = run(
      (asm) => {
        asm.pair("stp", x29, x30, pre(sp, -32));
        asm.pair("stp", x19, x20, mem(sp, 16));
        asm.mov(x29, sp);
        asm.mov(x19, x0);
        for (const value of constants) {
          asm.movImm(x1, value);
          asm.str(x1, post(x19, 8));
        }
        asm.bl(callee);
        asm.adr(x2, literal);
        asm.ldr(x3, mem(x2));
        asm.ldr(x4, literal);
        asm.ldrv("d", 1, literal);
        asm.fmovToGp("d", x5, 1);
        asm.pair("stp", x3, x4, post(x19, 16));
        asm.str(x5, post(x19, 8));
        asm.mrs(x6, "cntfrq_el0");
        asm.mrs(x7, "cntvct_el0");
        asm.isb();
        asm.mrs(x8, "cntvct_el0");
        asm.alu("sub", x7, x8, x7);
        asm.pair("stp", x6, x7, mem(x19));
        asm.pair("ldp", x19, x20, mem(sp, 16));
        asm.pair("ldp", x29, x30, post(sp, 32));
        asm.ret();
        asm.bind(callee);
        asm.movImm(x1, 77);
        asm.alu("sub", x1, xzr, x1);
        asm.cmpImm(x1, 0);
        asm.select("csneg", x1, x1, x1, "ge");
        asm.str(x1, post(x19, 8));
        asm.ret();
        asm.align(8);
        asm.bind(literal);
        asm.dword(0x89abcdef);
        asm.dword(0x01234567);
      },
      new Uint8Array(8 * (constants.length + 6)),
    );
    const word = (index: number) => view.getBigUint64(8 * index, true);
    expect(constants.map((_, i) => word(i))).toEqual(constants);
    const at = constants.length;
    expect(word(at)).toBe(77n);
    expect([0, 1, 2].map((i) => word(at + 1 + i))).toEqual([0, 1, 2].map(() => 0x0123456789abcdefn));
    expect(word(at + 4)).toBeGreaterThan(1_000_000n);
    expect(word(at + 5)).toBeLessThan(1n << 40n);
  });
});
