// anekit's version, read from package.json when asked: the same code runs from source and from dist/.

import { readFileSync } from "node:fs";

/** Version in the nearest package.json above this file that is anekit's own. */
export function readVersion(): string {
  for (let folder = new URL(".", import.meta.url); ; folder = new URL("..", folder)) {
    const found = versionIn(new URL("package.json", folder));
    if (found !== undefined) return found;
    if (folder.pathname === new URL("..", folder).pathname) return "unknown";
  }
}

function versionIn(file: URL): string | undefined {
  try {
    const { name, version } = JSON.parse(readFileSync(file, "utf8")) as { name?: unknown; version?: unknown };
    return name === "anekit" && typeof version === "string" ? version : undefined;
  } catch {
    return undefined; // no such file: the next folder up
  }
}
