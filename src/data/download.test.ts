import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { AbortedError, ConfigError, FileError } from "../core/errors.ts";
import { type DownloadOptions, download, downloadSet } from "./download.ts";
import type { KnownSet } from "./sets.ts";
import { tarEntry } from "./tar.harness.ts";

const root = mkdtempSync(join(tmpdir(), "anekit-download-"));
afterAll(() => rmSync(root, { recursive: true }));
const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close().closeAllConnections();
});

const content = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, i) => (i * i) >> 3));
const md5 = (bytes: Uint8Array) => createHash("md5").update(bytes).digest("hex");
const file = { name: "file.bin", bytes: content.length, md5: md5(content) };
const fast: DownloadOptions = { retryDelayMs: 1, retries: 2 };

type Handler = (request: IncomingMessage, response: ServerResponse, call: number) => void;

/** A server, its address and the ranges that it was asked for ("" for none). */
async function serve(handler: Handler): Promise<{ readonly url: string; readonly ranges: string[] }> {
  const ranges: string[] = [];
  const server = createServer((request, response) => {
    ranges.push(request.headers.range ?? "");
    handler(request, response, ranges.length);
  });
  servers.push(server);
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/file.bin`, ranges };
}

/** Answers as a server that knows ranges; sends `most` bytes and then drops the connection. */
function answer(
  request: IncomingMessage,
  response: ServerResponse,
  most = Number.POSITIVE_INFINITY,
  bytes = content,
): void {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const body = bytes.subarray(from);
  if (from > 0) response.setHeader("content-range", `bytes ${from}-${bytes.length - 1}/${bytes.length}`);
  response.writeHead(from > 0 ? 206 : 200, { "content-length": body.length });
  if (body.length <= most) response.end(body);
  else response.write(body.subarray(0, most), () => setTimeout(() => response.destroy(), 30));
}

let count = 0;
function place(part?: Uint8Array): string {
  const folder = join(root, String(count++));
  mkdirSync(folder);
  if (part !== undefined) writeFileSync(join(folder, "file.bin.part"), part);
  return join(folder, "file.bin");
}
const isWhole = (path: string) => readFileSync(path).equals(content) && !existsSync(`${path}.part`);

describe("download", () => {
  it("fetches a file and tells how far it is", async () => {
    const { url, ranges } = await serve((request, response) => answer(request, response));
    const path = place();
    const seen: number[] = [];
    await download([url], path, file, { ...fast, onProgress: ({ done, total }) => seen.push(done / total) });
    expect(isWhole(path)).toBe(true);
    expect(ranges).toEqual([""]);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(1);
  });

  it("goes on from the part that an earlier call left, and after a connection that broke", async () => {
    const { url, ranges } = await serve((request, response, call) =>
      answer(request, response, call === 1 ? 50_000 : undefined),
    );
    const path = place(content.subarray(0, 100_000));
    await download([url], path, file, fast);
    expect(isWhole(path)).toBe(true);
    expect(ranges[0]).toBe("bytes=100000-");
    expect(ranges).toHaveLength(2);
    expect(Number(/\d+/.exec(ranges[1]!)![0])).toBeGreaterThanOrEqual(100_000); // what was on the way when it broke may be lost
  });

  it("needs no server where the part is whole already", async () => {
    const path = place(content);
    await download(["http://127.0.0.1:9/"], path, file, fast);
    expect(isWhole(path)).toBe(true);
  });

  it("starts again where the server ignores ranges, or the part is too long", async () => {
    const { url, ranges } = await serve((_request, response) => response.end(content));
    for (const part of [content.subarray(0, 1000), Buffer.concat([content, content])]) {
      const path = place(part);
      await download([url], path, file, fast);
      expect(isWhole(path)).toBe(true);
    }
    expect(ranges).toEqual(["bytes=1000-", ""]);
  });

  it("throws a part away that is not the beginning of the file", async () => {
    const { url, ranges } = await serve((request, response) => answer(request, response));
    const path = place(Buffer.alloc(1000, 1));
    await download([url], path, file, fast);
    expect(isWhole(path)).toBe(true);
    expect(ranges).toEqual(["bytes=1000-", ""]); // the checksum was wrong: all of it once more
  });

  it("starts again where the server finds nothing behind the part", async () => {
    const { url } = await serve((request, response) =>
      request.headers.range === undefined ? answer(request, response) : response.writeHead(416).end(),
    );
    const path = place(content.subarray(0, 1000));
    await download([url], path, file, fast);
    expect(isWhole(path)).toBe(true);
  });

  it("tries again after errors that pass, and another address after those that do not", async () => {
    const busy = await serve((request, response, call) => {
      if (call < 3) response.writeHead(503).end("busy");
      else answer(request, response);
    });
    const path = place();
    await download([busy.url], path, file, fast);
    expect(isWhole(path)).toBe(true);
    const empty = await serve((_request, response) => response.writeHead(404).end("no"));
    const good = await serve((request, response) => answer(request, response));
    const other = place();
    await download([empty.url, good.url], other, file, fast);
    expect(isWhole(other)).toBe(true);
    expect(empty.ranges).toHaveLength(1);
  });

  it("follows redirections", async () => {
    const good = await serve((request, response) => answer(request, response));
    const { url } = await serve((_request, response) => response.writeHead(302, { location: good.url }).end());
    const path = place();
    await download([url], path, file, fast);
    expect(isWhole(path)).toBe(true);
  });

  const other = Buffer.from(content);
  other[5]! ^= 1;
  it.each<[string, Handler, string, number]>([
    ["a missing file", (_request, response) => response.writeHead(404).end(), "answers 404 Not Found", 1],
    ["other content", (_request, response) => response.end(other), `the MD5 checksum is ${md5(other)}`, 1],
    [
      "a shorter file",
      (_request, response) => response.end(content.subarray(1)),
      "offers 299999 bytes, the file has 300000",
      1,
    ],
    ["a server that always stops", (request, response) => answer(request, response, 1000), "file.bin", 3],
    [
      "another range",
      (_request, response) => response.writeHead(206, { "content-range": "bytes 7-9/300000" }).end("abc"),
      'the server sent "bytes 7-9/300000", not bytes from 0',
      1,
    ],
    [
      "a body without end",
      (_request, response) => {
        const more = () => response.write(content, (error) => error ?? more());
        more();
      },
      "sends more than the 300000 bytes",
      1,
    ],
  ])("refuses %s", async (_name, handler, message, calls) => {
    const { url, ranges } = await serve(handler);
    const path = place();
    const loading = download([url], path, file, fast);
    await expect(loading).rejects.toThrow(FileError);
    await expect(loading).rejects.toThrow(message);
    await expect(loading).rejects.toThrow("name a mirror with --url");
    expect(existsSync(path)).toBe(false);
    expect(ranges).toHaveLength(calls);
  });

  it("gives up on a server that says nothing", async () => {
    const { url } = await serve((_request, response) =>
      response.writeHead(200, { "content-length": content.length }).write("x"),
    );
    await expect(download([url], place(), file, { retries: 0, stallMs: 60 })).rejects.toThrow(
      "nothing came for 0.06 s",
    );
    await expect(download(["http://127.0.0.1:9/"], place(), file, { retries: 0 })).rejects.toThrow(FileError);
  });

  it("keeps what has come when it is aborted", async () => {
    const { url } = await serve((_request, response) => {
      response.writeHead(200, { "content-length": content.length });
      response.write(content.subarray(0, 70_000));
    });
    const path = place();
    const abort = new AbortController();
    const loading = download([url], path, file, {
      ...fast,
      signal: abort.signal,
      onProgress: ({ done }) => done >= 70_000 && abort.abort(),
    });
    await expect(loading).rejects.toThrow(AbortedError);
    expect(readFileSync(`${path}.part`).equals(content.subarray(0, 70_000))).toBe(true);
    expect(existsSync(path)).toBe(false);
  });

  it("refuses addresses that are not HTTP", async () => {
    for (const url of ["file:///etc/passwd", "ftp://host/x", "nonsense"])
      await expect(download([url], place(), file, fast)).rejects.toThrow(ConfigError);
  });
});

describe("downloadSet", () => {
  /** A tar of one file. */
  const member = Buffer.from("hello, set");
  const archive = gzipSync(Buffer.concat([tarEntry({ name: "dir/data.bin", data: member }), Buffer.alloc(1024)]));
  const all: KnownSet["members"] = new Map([["dir/data.bin", member.length]]);
  const set = (url: string, members: KnownSet["members"] | null = all): KnownSet => ({
    name: "tiny",
    summary: "for tests",
    url,
    published: [{ name: "tiny.tar.gz", bytes: archive.length, md5: md5(archive) }],
    ...(members !== null && { members }),
    files: [["data.bin"]],
    folders: [],
    augmentation: {},
    read: () => Promise.reject(new Error("not read")),
  });
  const base = (url: string) => url.replace("file.bin", "some/folder");

  it("unpacks the archive into the set's folder and keeps nothing else", async () => {
    const { url, ranges } = await serve((request, response) => {
      if (request.url === "/some/folder/tiny.tar.gz") response.end(archive);
      else response.writeHead(404).end();
    });
    const parent = join(root, String(count++));
    const folder = join(parent, "tiny");
    expect(await downloadSet(set(base(url)), { ...fast, folder })).toBe(folder);
    expect(readFileSync(join(folder, "data.bin"), "utf8")).toBe("hello, set");
    expect(readdirSync(parent)).toEqual(["tiny"]);
    await downloadSet(set(base(url)), { ...fast, folder }); // is there: nothing to do
    expect(ranges).toHaveLength(1);
  });

  it("asks the addresses that it is given, not the publisher", async () => {
    const { url, ranges } = await serve((_request, response) => response.end(archive));
    const folder = join(root, String(count++), "tiny");
    await downloadSet(set("http://127.0.0.1:9/"), { ...fast, folder, urls: [base(url)] });
    expect(existsSync(join(folder, "data.bin"))).toBe(true);
    expect(ranges).toHaveLength(1);
  });

  it("leaves the files of others alone: in the folder, and an archive beside it", async () => {
    const { url } = await serve((_request, response) => response.end(archive));
    const parent = join(root, String(count++));
    const folder = join(parent, "papers");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "thesis.tex"), "mine");
    writeFileSync(join(parent, "tiny.tar.gz"), archive);
    await expect(downloadSet(set(base(url)), { ...fast, folder })).rejects.toThrow('holds "thesis.tex"');
    expect(readFileSync(join(folder, "thesis.tex"), "utf8")).toBe("mine");
    rmSync(join(folder, "thesis.tex"));
    await downloadSet(set(base(url)), { ...fast, folder });
    expect(readdirSync(folder)).toEqual(["data.bin"]);
    expect(readdirSync(parent).sort()).toEqual(["papers", "tiny.tar.gz"]);
  });

  it("refuses what is there but is not what was published, and leaves it", async () => {
    const { url, ranges } = await serve((_request, response) => response.end(archive));
    const parent = join(root, String(count++));
    const folder = join(parent, "tiny");
    const beside = join(parent, "tiny.tar.gz");
    const other = Buffer.from(archive);
    other[20]! ^= 1;
    mkdirSync(folder, { recursive: true });
    for (const [path, bytes, message] of [
      [beside, other, `the MD5 checksum ${md5(other)}, not ${md5(archive)}`],
      [beside, archive.subarray(1), `it has ${archive.length - 1} bytes, not ${archive.length}`],
      [join(folder, "data.bin"), Buffer.from("hello"), `data.bin: is not what was published: it has 5 bytes, not 10`],
    ] as const) {
      writeFileSync(path, bytes);
      const loading = downloadSet(set(base(url)), { ...fast, folder });
      await expect(loading).rejects.toThrow(FileError);
      await expect(loading).rejects.toThrow(message);
      expect(readFileSync(path).equals(bytes)).toBe(true);
      rmSync(path);
    }
    expect(ranges).toEqual([]);
  });

  it("downloads of a set without archive what is not there, in whatever form", async () => {
    const { url, ranges } = await serve((_request, response) => response.end(content));
    const folder = join(root, String(count++));
    const names = ["a.gz", "b.gz", "c.gz"];
    const plain: KnownSet = {
      ...set(base(url), null),
      published: names.map((name) => ({ ...file, name })),
      files: names.map((name) => [name, name.slice(0, 1)]),
    };
    mkdirSync(folder);
    writeFileSync(join(folder, "a.gz"), content);
    writeFileSync(join(folder, "b"), "unpacked");
    for (let time = 0; time < 2; time++) await downloadSet(plain, { ...fast, folder });
    expect(readdirSync(folder)).toEqual(["a.gz", "b", "c.gz"]);
    expect(ranges).toHaveLength(1);
    writeFileSync(join(folder, "c.gz"), Buffer.from(content).reverse());
    await expect(downloadSet(plain, { ...fast, folder })).rejects.toThrow("c.gz: is not what was published");
  });

  it("leaves no folder where the archive lacks a member", async () => {
    const { url } = await serve((_request, response) => response.end(archive));
    const folder = join(root, String(count++), "tiny");
    const lacking = set(base(url), new Map([["dir/other.bin", 1]]));
    await expect(downloadSet(lacking, { ...fast, folder })).rejects.toThrow('"dir/other.bin" is missing');
    expect(existsSync(folder)).toBe(false);
  });
});
