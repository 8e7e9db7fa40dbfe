// Pace of compiles: a failed one restarts the compiler service, and for some seconds after it good programs fail, too.

import { ConfigError, EngineError } from "../../core/errors.ts";

/** Pause after a failure in milliseconds (ANEForge's figure; the ANE guide says about the same). */
const pauseMs = 15_000;

export type PaceMode = "wait" | "off" | "strict";

/** How long to pause, and what to do meanwhile. */
export interface PaceSettings {
  readonly mode: PaceMode;
  readonly pauseMs: number;
}

/** Parses ANEKIT_ANE_PACE: `wait` (default), `off`, `strict`, or a number of seconds to wait. @throws {ConfigError} */
export function parsePace(text: string | undefined): PaceSettings {
  if (text === undefined || text === "" || text === "wait") return { mode: "wait", pauseMs };
  if (text === "off") return { mode: "off", pauseMs: 0 };
  if (text === "strict") return { mode: "strict", pauseMs };
  const seconds = Number(text);
  if (Number.isFinite(seconds) && seconds >= 0 && seconds <= 600) return { mode: "wait", pauseMs: 1000 * seconds };
  throw new ConfigError("ANEKIT_ANE_PACE", `"${text}" is none of wait, off, strict, or seconds from 0 to 600`);
}

/** Compiles of this thread, one after the other at a pace that the compiler service stands. */
export class Pace {
  #failedAt = Number.NEGATIVE_INFINITY;
  readonly #now: () => number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Milliseconds to wait before the next compile. @throws {EngineError} instead of waiting in strict mode. */
  pause({ mode, pauseMs: after }: PaceSettings): number {
    const rest = mode === "off" ? 0 : Math.max(0, this.#failedAt + after - this.#now());
    if (rest > 0 && mode === "strict") {
      throw new EngineError(
        "ane",
        `a compile failed ${((after - rest) / 1000).toFixed(1)} s ago, the compiler service needs ${after / 1000} s`,
        {
          remedy: "wait, or set ANEKIT_ANE_PACE=wait or off",
        },
      );
    }
    return rest;
  }

  failed(): void {
    this.#failedAt = this.#now();
  }

  succeeded(): void {
    this.#failedAt = Number.NEGATIVE_INFINITY;
  }
}

/** The pace of this thread. */
export const pace = new Pace();
