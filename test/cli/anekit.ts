// The command line as a process, from source.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";

export const root = fileURLToPath(new URL("../../", import.meta.url));
export const fixtures = join(root, "test/fixtures/mil");

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const { NO_COLOR, FORCE_COLOR, CI, ANEKIT_ENGINE, ...environment } = process.env;

/** Arguments of node that run anekit. */
export function nodeArguments(args: readonly string[]): string[] {
  return ["--import", "tsx", join(root, "src/cli/main.ts"), ...args];
}

export interface RunSettings {
  readonly env?: Readonly<Record<string, string>>;
  /** Called with each piece of stderr. */
  readonly onStderr?: (text: string, kill: (signal: NodeJS.Signals) => void) => void;
}

/** Runs `anekit ARGS` and waits for its end. */
export function anekit(args: readonly string[], { env = {}, onStderr }: RunSettings = {}): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, nodeArguments(args), {
      cwd: root,
      env: { ...environment, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
      onStderr?.(stderr, (signal) => child.kill(signal));
    });
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

/** A folder for the files of a test file, removed at its end. */
export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), "anekit-cli-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const path = (name: string) => join(folder, name);
  return {
    path,
    /** Writes a file, makes its folders, and returns its path. */
    write(name: string, content: string | Uint8Array): string {
      mkdirSync(dirname(path(name)), { recursive: true });
      writeFileSync(path(name), content);
      return path(name);
    },
  };
}

/** Lines of text, without the empty one at the end. */
export function lines(text: string): string[] {
  return text === "" ? [] : text.replace(/\n$/, "").split("\n");
}

/** MIL text of one function around `body`. */
export function milText(params: string, body: string, results: string): string {
  return `program(1.3)\n{\n    func main<ios18>(${params}) {\n${body}\n    } -> (${results});\n}\n`;
}
