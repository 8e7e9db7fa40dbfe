import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import { FileError } from "../core/errors.ts";
import { type TarEntry, tarEntry } from "./tar.harness.ts";
import { unpackTarGz } from "./tar.ts";

const root = mkdtempSync(join(tmpdir(), "anekit-tar-"));
afterAll(() => rmSync(root, { recursive: true }));
let count = 0;

const bytes = (length: number, seed = 0) => Uint8Array.from({ length }, (_, i) => (i * 31 + seed) % 256);
const wanted = [
  { name: "set/a.bin", data: bytes(1000) },
  { name: "set/b.bin", data: bytes(512, 7) },
] as const;
const members = new Map(wanted.map(({ name, data }) => [name, data.length]));
const end = Buffer.alloc(1024);

async function unpack(archive: Uint8Array, ask: ReadonlyMap<string, number> = members): Promise<string> {
  const base = join(root, String(count++));
  const folder = join(base, "out");
  mkdirSync(folder, { recursive: true });
  const file = join(base, "set.tar.gz");
  writeFileSync(file, archive);
  await unpackTarGz(file, ask, folder);
  expect(readdirSync(base).sort()).toEqual(["out", "set.tar.gz"]); // nothing beside
  return folder;
}
const tarGz = (...entries: readonly TarEntry[]) => gzipSync(Buffer.concat([...entries.map(tarEntry), end]));

describe("unpackTarGz", () => {
  it("writes the members that are asked for, and nothing else", async () => {
    const folder = await unpack(
      tarGz({ name: "set/", type: "5" }, { name: "set/readme.html", data: bytes(88) }, ...wanted, {
        name: "z",
        data: bytes(513),
      }),
    );
    expect(readdirSync(folder).sort()).toEqual(["a.bin", "b.bin"]);
    for (const { name, data } of wanted)
      expect(new Uint8Array(readFileSync(join(folder, name.slice(4))))).toEqual(data);
  });

  it("skips names that lead elsewhere, links, devices and extended headers", async () => {
    const data = bytes(100);
    const hostile: TarEntry[] = [
      { name: "../escaped", data },
      { name: "/tmp/anekit-escaped", data },
      { name: "set/../../escaped", data },
      { name: "link", type: "2", link: "/etc" },
      { name: "link/passwd", data },
      { name: "hard", type: "1", link: "../../escaped" },
      { name: "device", type: "3" },
      { name: "pax", type: "x", data: Buffer.from("24 path=../../escaped\n") },
    ];
    const folder = await unpack(tarGz(...hostile, ...wanted));
    expect(readdirSync(folder).sort()).toEqual(["a.bin", "b.bin"]);
    expect(existsSync("/tmp/anekit-escaped")).toBe(false);
  });

  it("does not follow a link that stands where a member goes", async () => {
    const base = join(root, String(count++));
    mkdirSync(base);
    writeFileSync(join(base, "victim"), "old");
    symlinkSync(join(base, "victim"), join(base, "a.bin"));
    writeFileSync(join(base, "set.tar.gz"), tarGz(...wanted));
    await expect(unpackTarGz(join(base, "set.tar.gz"), members, base)).rejects.toThrow(FileError);
    expect(readFileSync(join(base, "victim"), "utf8")).toBe("old");
  });

  const [a, b] = wanted;
  it.each([
    ["a member that is a link", tarGz({ ...a, data: bytes(0), type: "2", link: "/etc/passwd" }, b), "is no plain file"],
    [
      "a member of another size",
      tarGz({ ...a, data: bytes(999) }, b),
      "a file of 999 bytes, not the file of 1000 bytes",
    ],
    ["a member that comes twice", tarGz(a, a, b), "is there twice"],
    ["a missing member", tarGz(a), '"set/b.bin" is missing'],
    ["a huge size", tarGz({ ...b, size: "77777777777" }), "a file of 8589934591 bytes"],
    ["a size in binary", tarGz({ ...b, size: "\x80\x00\x00\x00\x00\x00\x00\x00\x01" }), "is not an octal number"],
    ["a negative size", tarGz({ ...b, size: "-0000000001" }), "is not an octal number"],
    [
      "a skipped entry that never ends",
      tarGz({ name: "x", size: "77777777777", data: bytes(512) }),
      "it was cut short",
    ],
    ["a header that is none", gzipSync(bytes(2048)), "is not an octal number"],
    ["a wrong header checksum", gzipSync(Buffer.concat([tarEntry(a).fill("x", 0, 3), end])), "checksum does not match"],
    ["no archive", bytes(600), "gzip: incorrect header check"],
    ["nothing", new Uint8Array(0), "gzip: unexpected end of file"],
    ["a bomb", gzipSync(Buffer.alloc(2 ** 23, tarEntry({ name: "x" }))), "unpacks to more than 1051600 bytes"],
  ])("refuses %s", async (_name, archive, message) => {
    const unpacking = unpack(archive);
    await expect(unpacking).rejects.toThrow(FileError);
    await expect(unpacking).rejects.toThrow(message);
  });

  it("refuses an archive that was cut at any place", async () => {
    const whole = tarGz(...wanted);
    for (let length = 0; length < whole.length - 8; length += 7)
      await expect(unpack(whole.subarray(0, length)), `${length} bytes`).rejects.toThrow(FileError);
    const plain = Buffer.concat(wanted.map(tarEntry));
    for (const length of [1, 511, 513, 1000, 1535, 1537, 2000])
      await expect(unpack(gzipSync(plain.subarray(0, length))), `${length} bytes`).rejects.toThrow(FileError);
  });
});
