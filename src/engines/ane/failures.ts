// Failures of Espresso and the compiler behind it that are known: how to recognize each, what is likely behind it, what to do.
// Sources: ANEForge's runtime notes, maderix/ANE, the ANE guide, Orion (see docs/ane.md).

import { EngineError } from "../../core/errors.ts";

interface KnownFailure {
  readonly pattern: RegExp;
  readonly cause: string;
  readonly remedy: string;
  /** True where the same call may succeed a little later. */
  readonly transient?: boolean;
}

const known: readonly KnownFailure[] = [
  {
    pattern: /0x50004|0x20004|program load failure/i,
    cause:
      "no slot is free for another program in this process or on the machine, or the program's constants are too large",
    remedy:
      "dispose programs that are not needed, close other programs that use the Neural Engine, or restart the process",
    transient: true,
  },
  {
    pattern: /helper application|connection (invalid|interrupted)|XPC/i,
    cause: "the compiler service ended while it worked",
    remedy:
      "try again; if it happens again with this program alone, send the file that anekit selftest --report writes",
    transient: true,
  },
  {
    pattern: /no memory|0xe00002bd/i,
    cause: "the machine has no memory left for the program",
    remedy: "use smaller shapes, or close other programs",
    transient: true,
  },
  {
    pattern: /0xe00002e2/,
    cause: "the driver takes only programs that the system's own compiler has just made",
    remedy: "compile the program in the process that runs it",
  },
  {
    pattern: /0xe00002c7/,
    cause: "this call needs an entitlement that only Apple can give",
    remedy: "this macOS may have closed the route; run anekit doctor",
  },
  {
    pattern: /must re-?compile the E5 bundle|ANE model load has failed/i,
    cause: "the compiled program belongs to another process",
    remedy: "compile it again in this process",
  },
  {
    pattern: /InvalidMILProgram|Unknown opset|MIL.*pars|pars.*MIL|failed to parse/i,
    cause: "this compiler does not take the program's text: an operator, a dtype or a spelling that it does not know",
    remedy: 'run anekit doctor --probe to find the dialect again, or use engine "cpu" for this stage',
  },
  {
    pattern: /ANECCompile\(\)|CompilationFailure|ANEC|not supported on any of the specified backends/,
    cause: "the Neural Engine's compiler refused an operator or a shape without saying which",
    remedy: 'use smaller shapes or other operators, or give this stage on: "cpu"',
  },
  {
    pattern: /status=0x1d|Program Inference error|ANE inference operation failed/i,
    cause: "a port's buffer does not fit the program",
    remedy: "this is a defect of anekit; please report it",
  },
  {
    pattern: /Invalid E5 path|nullptr|is NULL|Invalid BufferType|cannot be reset to/i,
    cause: "Espresso was called with arguments in another form than it expects",
    remedy: "this macOS may have another interface than the one known; run anekit selftest --report FILE and report it",
  },
];

/** What is known of a message of Espresso's. */
export function findFailure(text: string): KnownFailure | undefined {
  return known.find(({ pattern }) => pattern.test(text));
}

/** Espresso's own lines, without what a terminal would not show. */
function excerpt(text: string): string {
  const lines = text
    .split("\n")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
    .map((line) => line.replace(/[\u0000-\u001f\u007f]/g, " ").trim())
    .filter((line) => line !== "");
  const kept = lines.slice(0, 8).join(" | ");
  return kept.length > 1000 ? `${kept.slice(0, 1000)}…` : kept;
}

/** A call that Espresso refused. */
export class EspressoError extends EngineError {
  /** The function, without its prefix. */
  readonly symbol: string;
  readonly result: number;
  /** What Espresso wrote about it. */
  readonly text: string;

  constructor(symbol: string, result: number, text: string) {
    const found = findFailure(text);
    const said = excerpt(text);
    const cause = found === undefined ? "" : ` (likely: ${found.cause})`;
    super("ane", `e5rt_${symbol} failed with ${result}${said === "" ? "" : `: ${said}`}${cause}`, {
      remedy:
        found?.remedy ?? "Espresso's own words are above or on stderr; run anekit selftest --report FILE and report it",
    });
    this.symbol = symbol;
    this.result = result;
    this.text = text;
  }

  /** True where the same call may succeed a little later. */
  get transient(): boolean {
    return findFailure(this.text)?.transient ?? false;
  }
}
