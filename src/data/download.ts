// Downloading a file of known size and checksum over HTTP: what came before is gone on with, what comes is checked, nothing half is left in place.

import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AbortedError, AnekitError, ConfigError, FileError, messageOf } from "../core/errors.ts";
import { fileError, quote } from "./bytes.ts";
import { makeFolder, writeFolderAtomic } from "./files.ts";
import { dataFolder, type KnownSet, type PublishedFile } from "./sets.ts";
import { unpackTarGz } from "./tar.ts";

/** Told as bytes arrive; `done` counts what an earlier attempt left. */
export type DownloadProgress = (progress: {
  readonly file: string;
  readonly done: number;
  readonly total: number;
}) => void;

export interface DownloadOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: DownloadProgress | undefined;
  /** Attempts at each address after the first; 4 unless stated. */
  readonly retries?: number;
  /** Before the first retry; each later one waits twice as long. 500 unless stated. */
  readonly retryDelayMs?: number;
  /** Without a byte for so long, an attempt is over; 30,000 unless stated. */
  readonly stallMs?: number;
}

/** An attempt that failed and whether another one may fare better. */
class AttemptError extends Error {
  readonly isFinal: boolean;
  constructor(message: string, isFinal: boolean, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.isFinal = isFinal;
  }
}

/**
 * Downloads a file to `path` from the first of `urls` that has it. What has arrived stands in `path` + ".part" until it is complete and its checksum is
 * right; an interrupted download goes on from there. Servers that ignore ranges are read from the start.
 * @throws FileError naming the last failure; ConfigError for addresses that are not HTTP; AbortedError, and the part stays.
 */
export async function download(
  urls: readonly string[],
  path: string,
  file: PublishedFile,
  options: DownloadOptions = {},
): Promise<void> {
  const { signal, retries = 4, retryDelayMs = 500 } = options;
  for (const url of urls) requireHttp(url);
  const part = `${path}.part`;
  let failure: AttemptError | undefined;
  for (const url of urls) {
    for (let attempt = 0; attempt <= retries; attempt++) {
      try {
        if (attempt > 0) await sleep(retryDelayMs * 2 ** (attempt - 1), undefined, signal && { signal });
        const isFresh = await fetchPart(url, part, file, options);
        await checkSum(part, file, isFresh, signal);
        await rename(part, path).catch((cause: unknown) => {
          throw fileError(path, cause);
        });
        return;
      } catch (error) {
        if (signal?.aborted) throw new AbortedError("download", signal);
        if (error instanceof AnekitError) throw error;
        failure = error instanceof AttemptError ? error : new AttemptError(messageOf(error), false, error);
        if (failure.isFinal) break;
      }
    }
  }
  throw new FileError(file.name, `cannot be downloaded: ${failure?.message ?? "there is no address"}`, {
    remedy: "try again later, name a mirror with --url, or put the files into a folder by hand",
    ...(failure !== undefined && { cause: failure }),
  });
}

function requireHttp(url: string): void {
  const protocol = URL.canParse(url) ? new URL(url).protocol : "";
  if (protocol !== "http:" && protocol !== "https:")
    throw new ConfigError("download", `${quote(url)} is not an address that begins with http:// or https://`);
}

/** Completes the part from an address. True where all of it came from there just now. */
async function fetchPart(url: string, part: string, file: PublishedFile, options: DownloadOptions): Promise<boolean> {
  const { signal, onProgress, stallMs = 30_000 } = options;
  let have = await stat(part).then(
    ({ size }) => size,
    () => 0,
  );
  if (have > file.bytes) {
    await rm(part, { force: true });
    have = 0;
  }
  if (have === file.bytes) return false;
  const stalled = new AbortController();
  const stall = setTimeout(() => stalled.abort(new Error(`nothing came for ${stallMs / 1000} s`)), stallMs);
  try {
    const response = await fetch(url, {
      // identity: an answer that is packed for the way would be unpacked on arrival, and ranges would count packed bytes
      headers: { "accept-encoding": "identity", ...(have > 0 && { range: `bytes=${have}-` }) },
      signal: signal === undefined ? stalled.signal : AbortSignal.any([signal, stalled.signal]),
    });
    if (response.status === 206) requireRange(response.headers.get("content-range"), have, file);
    else if (response.status === 200) have = 0;
    else await refuse(response, part, url);
    const length = response.headers.get("content-length");
    if (length !== null && Number(length) !== file.bytes - have) {
      await response.body?.cancel();
      const what = `${url} offers ${Number(length) + have} bytes, the file has ${file.bytes}`;
      throw new AttemptError(what, true);
    }
    const handle = await open(part, have > 0 ? "r+" : "w").catch((cause: unknown) => {
      throw fileError(part, cause);
    });
    try {
      for await (const chunk of response.body ?? []) {
        stall.refresh();
        if (have + chunk.length > file.bytes)
          throw new AttemptError(`${url} sends more than the ${file.bytes} bytes of the file`, true);
        for (let at = 0; at < chunk.length; ) {
          const { bytesWritten } = await handle.write(chunk, at, chunk.length - at, have).catch((cause: unknown) => {
            throw fileError(part, cause);
          });
          at += bytesWritten;
          have += bytesWritten;
        }
        onProgress?.({ file: file.name, done: have, total: file.bytes });
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    if (have < file.bytes) throw new AttemptError(`${url} ended at ${have} of ${file.bytes} bytes`, false);
    return response.status === 200;
  } catch (error) {
    if (stalled.signal.aborted && !signal?.aborted)
      throw new AttemptError(messageOf(stalled.signal.reason), false, error);
    if (error instanceof AttemptError || error instanceof AnekitError) throw error;
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error; // fetch says only "fetch failed"
    throw new AttemptError(`${url}: ${messageOf(cause)}`, false, error);
  } finally {
    clearTimeout(stall);
  }
}

/** Refuses an answer that is another range than the one asked for. */
function requireRange(range: string | null, have: number, { bytes }: PublishedFile): void {
  const match = /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15}|\*)$/.exec(range ?? "");
  if (match !== null && Number(match[1]) === have && (match[2] === "*" || Number(match[2]) === bytes)) return;
  throw new AttemptError(
    `the server sent ${range === null ? "an unnamed range" : quote(range)}, not bytes from ${have}`,
    true,
  );
}

/** What an answer without content means. */
async function refuse({ status, statusText, body }: Response, part: string, url: string): Promise<never> {
  await body?.cancel();
  if (status === 416) await rm(part, { force: true }); // what is here is no beginning of what is there
  const isPassing = status === 408 || status === 416 || status === 429 || status >= 500;
  throw new AttemptError(`${url} answers ${status} ${statusText}`.trim(), !isPassing);
}

/** Removes a part that is not what the publisher published; worth another attempt where it was put together from several. */
async function checkSum(
  part: string,
  { md5 }: PublishedFile,
  isFresh: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  const sum = await md5Of(part, signal);
  if (sum === md5) return;
  await rm(part, { force: true });
  throw new AttemptError(`the MD5 checksum is ${sum}, the publisher's is ${md5}`, isFresh);
}

async function md5Of(path: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash("md5");
  for await (const chunk of createReadStream(path, { signal })) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

/**
 * Whether a file is in place: in the size that it should have and, where the publisher states it, with the checksum.
 * @throws FileError where another file stands there, which is not replaced: it may be somebody's; AbortedError.
 */
async function isInPlace(
  path: string,
  file: { readonly bytes: number; readonly md5?: string },
  signal: AbortSignal | undefined,
) {
  const refuse = (has: string, published: string) => {
    const what = `is not what was published: it has ${has}, not ${published}`;
    throw new FileError(path, what, { remedy: "remove it and download again, or name another folder with --to" });
  };
  try {
    const { size } = await stat(path);
    if (size !== file.bytes) refuse(`${size} bytes`, String(file.bytes));
    if (file.md5 === undefined) return true;
    const sum = await md5Of(path, signal);
    if (sum !== file.md5) refuse(`the MD5 checksum ${sum}`, file.md5);
    return true;
  } catch (error) {
    if (signal?.aborted) throw new AbortedError("download", signal);
    if (error instanceof FileError) throw error;
    if (isMissing(error)) return false;
    throw fileError(path, error);
  }
}

const isMissing = (error: unknown) => error instanceof Error && "code" in error && error.code === "ENOENT";

/** Where a set is downloaded to and from. */
export interface SetDownloadOptions extends DownloadOptions {
  /** Folder of the set; its own in the data folder unless stated. */
  readonly folder?: string | undefined;
  /** Addresses of folders with the published files, tried in this order; the publisher's alone unless stated. */
  readonly urls?: readonly string[];
}

/**
 * Downloads a known set and unpacks it. Files that are there already are checked and stay. Returns the folder.
 * @throws as {@link download}; FileError where the archive or a file that was there is damaged, or the folder cannot be written; ConfigError for a folder
 * with other files.
 */
export async function downloadSet(set: KnownSet, options: SetDownloadOptions = {}): Promise<string> {
  const { folder = join(dataFolder(), set.name), urls = [set.url], ...rest } = options;
  const { members } = set;
  if (members !== undefined && (await hasMembers(folder, members, rest.signal))) return folder;
  const addresses = urls.map((url) => (url.endsWith("/") ? url : `${url}/`));
  for (const address of addresses) requireHttp(address);
  // What is unpacked takes the set's place at once; until then the archive stands beside it.
  if (members !== undefined) await requireOwn(folder, members);
  const place = members === undefined ? folder : dirname(resolve(folder));
  makeFolder(place);
  for (const file of set.published) {
    const path = join(place, file.name);
    const isThere = await isInPlace(path, file, rest.signal);
    // What was unpacked by others is as good; there is no checksum of it.
    const others = set.files.find((names) => names.includes(file.name)) ?? [];
    if (!isThere && !others.some((name) => existsSync(join(place, name)))) {
      const places = addresses.map((address) => new URL(file.name, address).href);
      await download(places, path, file, rest);
    }
    if (members === undefined) continue;
    await writeFolderAtomic(folder, (temporary) => unpackTarGz(path, members, temporary, rest.signal));
    // An archive that somebody else put beside a folder of theirs stays.
    if (!isThere || options.folder === undefined) await rm(path, { force: true });
  }
  return folder;
}

/** Whether a folder has all unpacked files. @throws as {@link isInPlace}. */
async function hasMembers(folder: string, members: ReadonlyMap<string, number>, signal: AbortSignal | undefined) {
  let all = true;
  for (const [name, bytes] of members) all = (await isInPlace(join(folder, basename(name)), { bytes }, signal)) && all;
  return all;
}

/** Refuses a folder with anything but a part of the set: it would be replaced as a whole. */
async function requireOwn(folder: string, members: ReadonlyMap<string, number>): Promise<void> {
  const own = new Set([...members.keys()].map((name) => basename(name)));
  const names = await readdir(folder).catch((cause: unknown) => {
    if (isMissing(cause)) return [];
    throw fileError(folder, cause);
  });
  const other = names.find((name) => !own.has(name));
  if (other === undefined) return;
  throw new ConfigError("download", `${folder} holds ${quote(other)}, which is no part of the set`, {
    remedy: "name a folder that does not exist yet",
  });
}
