// Apple's Accelerate, which multiplies matrices on units of Apple silicon that no documented instruction reaches: where its `cblas_sgemm` is. Another
// library with that function can stand in for it, as in tests; nothing of Accelerate itself was tried on a Mac yet.

import { resolve } from "node:path";
import { ConfigError, messageOf } from "../../core/errors.ts";
import type { Address } from "./libc.ts";
import type { System } from "./system.ts";

const systemLibrary = "/System/Library/Frameworks/Accelerate.framework/Accelerate";

export interface Accelerate {
  readonly library: string;
  /** Address of `cblas_sgemm`. */
  readonly sgemm: Address;
}

/** Why there is none. */
export interface NoAccelerate {
  readonly reason: string;
  /** The library that was asked, if one was. */
  readonly library?: string;
}

/**
 * Finds it: what ANEKIT_ACCELERATE names (`setting`), else the system's own.
 * @throws {ConfigError} where the setting is neither "off" nor a path.
 */
export function findAccelerate(
  system: System,
  setting: string | undefined,
  platform: string = process.platform,
): Accelerate | NoAccelerate {
  if (setting === "off") return { reason: "turned off by ANEKIT_ACCELERATE" };
  if (!setting && platform !== "darwin") return { reason: `there is no Accelerate on ${platform}` };
  if (setting && !setting.includes("/")) {
    throw new ConfigError("ANEKIT_ACCELERATE", `"${setting}" is neither "off" nor the path of a library`);
  }
  const library = setting ? resolve(setting) : systemLibrary;
  try {
    const sgemm = system.load(library).address("cblas_sgemm");
    return sgemm === undefined ? { library, reason: "the library has no cblas_sgemm" } : { library, sgemm };
  } catch (error) {
    return { library, reason: messageOf(error) };
  }
}
