// What the portable instructions do: vectors; on every set of instructions that runs here, as arm64 by scripts/arm64.ts.

import { describe, expect, test } from "vitest";
import { float16Bits, float16Value } from "../../../core/float16.ts";
import { type Code, gp, type Length, mem, storageBytes } from "../code.ts";
import { bytesOf, codes, numbered, run, runs } from "./code.harness.ts";

const { r3, r5, r8, r9 } = gp;

describe.skipIf(!runs).for(codes)("%s", ([, create]) => {
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
