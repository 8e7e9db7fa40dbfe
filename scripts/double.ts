// The Neural Engine's driver over the double of Espresso, for soak and bench: everything as on a Mac, but nothing is computed.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildDouble, doubleEnvironment } from "../test/ane/double/build.ts";
import { Raw } from "../test/ane/double/raw.ts";

export { Missing } from "../test/ane/double/build.ts";

const config = "chip=h17s;os=26";

/** The double, ready to be loaded by the driver in this process, until disposed. */
export interface Double extends Disposable {
  readonly library: string;
  readonly raw: Raw;
  /** Ends the computing; to be called once the engine is open, whose probe needs results. */
  computeNothing(settings?: string): void;
}

/** Builds the double and sets the environment that makes the driver take it. @throws {Missing} where there is no C compiler. */
export function useDouble(): Double {
  const library = buildDouble();
  const folder = mkdtempSync(join(tmpdir(), "anekit-double-"));
  const variables: Readonly<Record<string, string>> = {
    ...doubleEnvironment(config),
    ANEKIT_ESPRESSO: library,
    ANEKIT_CHIP: "h17s",
    ANEKIT_CACHE_DIR: folder,
  };
  const before = Object.keys(variables).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, variables); // the library reads it when it is loaded
  const raw = new Raw(library);
  return {
    library,
    raw,
    computeNothing: (settings = "") => raw.configure(`${config};compute=none;${settings}`),
    [Symbol.dispose]() {
      for (const [name, value] of before) {
        if (value === undefined) delete process.env[name];
        else process.env[name] = value;
      }
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
