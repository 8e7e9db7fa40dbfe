// What the installed package itself holds: its version and its data files. Works from source and from dist/.

import { existsSync, readFileSync } from "node:fs";
import { FileError } from "../core/errors.ts";

let found: { readonly folder: URL; readonly version: string } | undefined;

/** The nearest folder above this file whose package.json is anekit's. */
function locate(): NonNullable<typeof found> {
  for (let folder = new URL(".", import.meta.url); found === undefined; folder = new URL("..", folder)) {
    try {
      const { name, version } = JSON.parse(readFileSync(new URL("package.json", folder), "utf8")) as {
        name?: unknown;
        version?: unknown;
      };
      if (name === "anekit" && typeof version === "string") found = { folder, version };
    } catch {
      // no package.json here: the next folder up
    }
    if (found === undefined && folder.pathname === new URL("..", folder).pathname) {
      throw new FileError("anekit", "its package.json is missing; install the package again");
    }
  }
  return found;
}

/** anekit's version, as package.json states it. */
export function packageVersion(): string {
  return locate().version;
}

/** A file that the package ships. @throws {FileError} with the remedy where it is missing. */
export function packageFile(path: string, remedy: string): URL {
  const file = new URL(path, locate().folder);
  if (!existsSync(file)) throw new FileError(path, "is missing from the package", { remedy });
  return file;
}
