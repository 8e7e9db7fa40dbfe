// What the portable instructions do: integers, control, memory between threads; on every set of instructions that runs here, as arm64 by scripts/arm64.ts.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Arithmetic, type Code, type Cond, type Gp, gp, Label, type Mem, mem } from "../code.ts";
import { bytesOf, codes, countTogether, numbered, run, runs, system } from "./code.harness.ts";

const { r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, sp } = gp;

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

describe.skipIf(!runs).for(codes)("%s", ([, create]) => {
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
    const integers = [
      [8, "mov", "mov"],
      [4, "mov32", "mov32"],
      [2, "movzx16", "mov16"],
      [1, "movzx8", "mov8"],
      [4, "movsxd", "mov32"],
      [8, "acquire", "mov"],
      [4, "acquire32", "mov32"],
    ] as const;
    const vectors: readonly (readonly [bytes: number, load: (asm: Code, src: Mem) => void])[] = [
      [16, (asm, src) => asm.vload(16, 1, src)],
      [13, (asm, src) => asm.vloadPart(1, src, 13)],
      [4, (asm, src) => asm.loadFloat(1, src, "fp32")],
      [4, (asm, src) => asm.vrepeat(4, 1, src)],
    ];
    const loads = [
      ...integers.map(([bytes, load, store]) => {
        const move = (asm: Code, src: Mem, to: Mem) => {
          asm[load](r8, src);
          asm[store](to, r8);
        };
        return [bytes, move] as const;
      }),
      ...vectors.map(([bytes, load]) => {
        const move = (asm: Code, src: Mem, to: Mem) => {
          load(asm, src);
          asm.vstorePart(to, 1, bytes);
        };
        return [bytes, move] as const;
      }),
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
            asm.mov(r0, mem(r5));
            check(`divide r0 by ${by}`, a / BigInt(by), () => asm.divide(r0, by), r0);
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

  test("atomic operations give back what was there, branch on it, and change no other register", () => {
    const others = [r1, r3, r4, r6, r7, r10, r11, r12, r13, r14];
    const results = run(create(), words([100n, 0x1_0000_0007n, 5n, 6n], 12 + others.length), (asm) => {
      for (const [i, register] of others.entries()) asm.movImm(register, 1000 + i);
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
      for (const [i, register] of [...others, r9].entries()) asm.mov(mem(r5, 120 + 8 * i), register);
    });
    const word = (i: number) => results.getBigUint64(8 * i, true);
    expect([...others, r9].map((_, i) => word(15 + i))).toEqual([...others.map((_, i) => BigInt(1000 + i)), 9n]);
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
      expect(countTogether(asm.finish(), threads)).toBe(BigInt(3 * threads * rounds));
    }
  });
});
