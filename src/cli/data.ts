// `anekit data`: the image sets that anekit knows, which of them are on this machine, and their download.

import { SingleBar } from "cli-progress";
import type { Command } from "commander";
import { type DownloadProgress, downloadSet } from "../data/download.ts";
import { dataFolder, findSet, knownSets, locateSet } from "../data/sets.ts";
import { type CommandContext, jsonOption } from "./command.ts";
import { formatBytes, note, print, printJson, table } from "./output.ts";

interface DownloadFlags {
  readonly url?: readonly string[];
  readonly to?: string;
  readonly json?: true;
}

/** Milliseconds between lines where there is no terminal. */
const lineEveryMs = 2000;

export function configure(command: Command, { signal }: CommandContext): void {
  command.description("Data sets to train on. Nothing is downloaded unless `data download` is called.");
  command
    .command("list")
    .description("The sets that anekit knows, and where they are on this machine.")
    .addOption(jsonOption())
    .action((flags: { readonly json?: true }) => list(flags.json === true));
  command
    .command("download")
    .description(
      "Downloads a set, checks sizes and checksums, and unpacks it. Ctrl-C keeps what has come; the next call goes on from there.",
    )
    .argument("<name>", `${knownSets.map(({ name }) => name).join(" or ")}`)
    .option(
      "--url <base>",
      "address of a folder that holds the published files, instead of the publisher's; several are tried in this order",
      (base: string, others: string[] = []) => [...others, base],
    )
    .option("--to <dir>", "folder for the set; one in the data folder otherwise")
    .addOption(jsonOption())
    .addHelpText(
      "after",
      "\nSets are kept in ANEKIT_DATA_DIR, or in the system's folder for caches. Proxies: NODE_USE_ENV_PROXY=1 on Node 24 and later.",
    )
    .action((name: string, flags: DownloadFlags) => fetchSet(name, flags, signal));
}

function list(json: boolean): void {
  const rows = knownSets.map((set) => {
    const bytes = set.published.reduce((sum, file) => sum + file.bytes, 0);
    return { name: set.name, summary: set.summary, downloadBytes: bytes, folder: locateSet(set) ?? null };
  });
  if (json) {
    for (const row of rows) printJson(row);
    return;
  }
  const columns = [
    { title: "set" },
    { title: "download", align: "right" },
    { title: "here" },
    { title: "what it is" },
  ] as const;
  print(
    table(
      columns,
      rows.map(({ name, summary, downloadBytes, folder }) => [
        name,
        formatBytes(downloadBytes),
        folder ?? "no",
        summary,
      ]),
    ),
  );
  note(`downloads go to ${dataFolder()}`);
}

async function fetchSet(name: string, { url, to, json }: DownloadFlags, signal: AbortSignal): Promise<void> {
  const set = findSet(name);
  const view = json ? { onProgress: undefined, close() {} } : progressView();
  try {
    const folder = await downloadSet(set, {
      signal,
      onProgress: view.onProgress,
      ...(url !== undefined && { urls: url }),
      ...(to !== undefined && { folder: to }),
    });
    view.close();
    if (json) printJson({ name: set.name, folder });
    else print(folder);
  } finally {
    view.close();
  }
}

/** A bar where stderr is a terminal, else a line now and then. */
function progressView(): { readonly onProgress: DownloadProgress; close(): void } {
  const text = (bytes: number) => formatBytes(bytes).padStart(6);
  if (!process.stderr.isTTY || process.env.TERM === "dumb") {
    let lastLine = -lineEveryMs;
    return {
      onProgress({ file, done, total }) {
        const now = performance.now();
        if (now - lastLine < lineEveryMs && done < total) return;
        lastLine = now;
        note(`${file}: ${text(done)} of ${formatBytes(total)}`);
      },
      close() {},
    };
  }
  let bar: { readonly file: string; readonly bar: SingleBar } | undefined;
  const close = () => {
    bar?.bar.stop();
    bar = undefined;
  };
  return {
    onProgress({ file, done, total }) {
      if (bar?.file !== file) {
        close();
        bar = {
          file,
          bar: new SingleBar({
            format: "{bar} {file}  {text} of {all}  {eta_formatted} left",
            barCompleteChar: "█",
            barIncompleteChar: "░",
            barsize: 24,
            hideCursor: true,
            etaBuffer: 100,
            stream: process.stderr,
          }),
        };
        bar.bar.start(total, done, { file, text: text(done), all: formatBytes(total) });
      }
      bar.bar.update(done, { text: text(done) });
    },
    close,
  };
}
