// `anekit doctor`: what this machine has, which engines it can use, and what to do about what is missing. Never fails.

import { execFile } from "node:child_process";
import { availableParallelism, cpus, release, totalmem } from "node:os";
import type { Command } from "commander";
import { type Chip, chipFromBrand } from "../chips/index.ts";
import { messageOf } from "../core/errors.ts";
import { packageVersion } from "../data/package.ts";
import {
  type AccelerateState,
  type AneState,
  examineAccelerate,
  examineNeuralEngine,
  listEngines,
  openEngine,
} from "../engines/open.ts";
import { nativeForms } from "../passes/legalize.ts";
import { type CommandContext, jsonOption } from "./command.ts";
import { fields, formatBytes, formatDuration, note, print, printJson } from "./output.ts";

/** What was found; `null` where a probe failed or does not apply. */
export interface Diagnosis {
  readonly anekit: string;
  readonly node: string;
  readonly platform: string;
  readonly arch: string;
  readonly cpu: string | null;
  readonly cores: number | null;
  readonly memory: {
    readonly totalBytes: number | null;
    /** Limit of the container (cgroup), where there is one. */
    readonly limitBytes: number | null;
    readonly availableBytes: number | null;
  };
  readonly chip: { readonly name: string; readonly product: string; readonly family: string } | null;
  /** All that is known of the Neural Engine: library, functions, every finding of the probe and when it was made. */
  readonly neuralEngine: AneState;
  /** What of the CPU engine's work goes to Apple's Accelerate, with the times that decided it. */
  readonly accelerate: AccelerateState;
  readonly engines: readonly { readonly name: string; readonly available: boolean; readonly reason: string }[];
  readonly auto: { readonly engine: string | null; readonly reason: string };
  readonly advice: readonly string[];
}

interface DoctorFlags {
  readonly json?: true;
  readonly probe?: true;
}

export function configure(command: Command, _context: CommandContext): void {
  command
    .description("Shows what this machine has and which engines it can use. Always exits with 0.")
    .option("--probe", "ask the Neural Engine's compiler and Accelerate again, whatever was found before")
    .addOption(jsonOption())
    .action(async ({ json, probe: again }: DoctorFlags) => {
      const diagnosis = await diagnose(again ? "fresh" : "once");
      if (json) printJson(diagnosis);
      else print(describe(diagnosis));
    });
}

/** Result of a probe, or null: a machine without /proc or sysctl is no reason to fail. */
async function probe<T>(look: () => T | Promise<T>): Promise<T | null> {
  try {
    return await look();
  } catch {
    return null;
  }
}

/** The Neural Engine, asked where that was not done yet, or again; what is asked goes to stderr. */
async function examine(mode: "once" | "fresh"): Promise<AneState> {
  try {
    return await examineNeuralEngine(mode, (name) => note(`asking the Neural Engine's compiler: ${name} …`));
  } catch (error) {
    return { available: false, reason: messageOf(error) };
  }
}

/** Looks at everything. */
export async function diagnose(mode: "once" | "fresh" = "once"): Promise<Diagnosis> {
  const neuralEngine = await examine(mode); // first: choosing an engine would ask in silence
  const accelerate = await examineAccelerate(mode, (what) => note(`Accelerate: ${what} …`));
  const model = await probe(() => cpus()[0]?.model.trim() || null);
  const brand = process.platform === "darwin" ? ((await probe(readBrand)) ?? model) : null;
  const chip = brand === null ? undefined : chipFromBrand(brand);
  const totalBytes = await probe(totalmem);
  const constrained = await probe(() => process.constrainedMemory());
  const isLimited = constrained !== null && constrained > 0 && totalBytes !== null && constrained < totalBytes;
  const machine = {
    anekit: packageVersion(),
    node: process.version,
    platform: `${process.platform} ${(await probe(release)) ?? ""}`.trim(),
    arch: process.arch,
    cpu: brand ?? model,
    cores: await probe(availableParallelism),
    memory: {
      totalBytes,
      limitBytes: isLimited ? constrained : null,
      availableBytes: await probe(() => process.availableMemory()),
    },
    chip: chip === undefined ? null : { name: chip.name, product: chip.product, family: chip.family },
    neuralEngine,
    accelerate,
    engines: await listEngines(),
    auto: await chooseEngine(),
  };
  return { ...machine, advice: advise(machine, brand, chip) };
}

/** The CPU's brand on macOS. */
function readBrand(): Promise<string | null> {
  return new Promise((resolve) => {
    execFile("sysctl", ["-n", "machdep.cpu.brand_string"], { timeout: 5000 }, (error, stdout) =>
      resolve(error === null ? stdout.trim() || null : null),
    );
  });
}

async function chooseEngine(): Promise<Diagnosis["auto"]> {
  try {
    using engine = await openEngine("auto");
    return { engine: engine.name, reason: engine.reason };
  } catch (error) {
    return { engine: null, reason: messageOf(error) };
  }
}

const leastBytes = 2 ** 30; // the demo's peak, rounded up generously

function advise(machine: Omit<Diagnosis, "advice">, brand: string | null, chip: Chip | undefined): string[] {
  const advice: string[] = [];
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    advice.push(`Node ${process.version} is too old: install 20.19 or later from https://nodejs.org`);
  }
  if (machine.auto.engine === null)
    advice.push("no engine can be opened, for the reason above; ANEKIT_ENGINE=sim opens everywhere");
  if (machine.auto.engine === "sim") {
    advice.push("programs run on the simulator, which is exact but slow: keep models and batches small");
  }
  if (brand?.startsWith("Apple") && process.arch === "x64") {
    advice.push("Node runs under Rosetta: install the arm64 build of Node to reach the Neural Engine");
  }
  if (brand?.startsWith("Apple") && chip === undefined) {
    advice.push(`"${brand}" is not in the table of chips: limits of the oldest chip (h13, M1) apply`);
  }
  if (process.platform !== "darwin") {
    advice.push("the Neural Engine needs a Mac with Apple silicon; everything but its speed can be tried here");
  }
  advice.push(...adviseOnNeuralEngine(machine.neuralEngine));
  const { availableBytes } = machine.memory;
  if (availableBytes !== null && availableBytes < leastBytes) {
    advice.push(`only ${formatBytes(availableBytes)} of memory are available: close programs or raise the limit`);
  }
  return advice;
}

function adviseOnNeuralEngine({ library, symbols, probe: found, reason }: AneState): string[] {
  if (library === undefined) return [];
  const report = "anekit selftest --engine ane --report FILE makes a report to send";
  if (symbols === undefined)
    return ["without its library there is no way to the Neural Engine: update anekit and macOS"];
  if (symbols.needed.length > 0) {
    return ["macOS 15 has all functions that anekit needs; where a later one lacks them, send what --json prints"];
  }
  if (found === undefined) return [`the compiler could not be asked (${firstLine(reason)}): try anekit doctor --probe`];
  if (!found.usable) return [`the Neural Engine stays unused: anekit doctor --probe asks again, ${report}`];
  const lost = found.findings.filter(({ outcome }) => outcome === "crashed" || outcome === "timed out");
  if (lost.length > 0) return [`the compiler was lost over ${lost.map(({ name }) => name).join(", ")}: ${report}`];
  return [];
}

const firstLine = (text: string) => text.split("\n")[0]!.slice(0, 160);

/** Lines on the Neural Engine. */
function describeNeuralEngine(state: AneState, engines: Diagnosis["engines"]): [string, string | string[]][] {
  const { available, reason, chip, system, library, symbols, probe: found } = state;
  if (library === undefined) {
    const others = engines.filter((engine) => engine.available).map(({ name }) => name);
    return [["Neural Engine", `${firstLine(reason)}; engines here: ${others.join(", ")}`]];
  }
  const lines: [string, string | string[]][] = [
    ["Neural Engine", `${available ? "can be used" : "cannot be used"}: ${firstLine(reason)}`],
    ["its chip", `${chip}; ${system}`],
    [
      "its library",
      [`${library}${process.env.ANEKIT_ESPRESSO ? " (ANEKIT_ESPRESSO)" : ""}`, ...describeSymbols(symbols)],
    ],
  ];
  if (found !== undefined) {
    const findings = found.findings.map(({ name, outcome, detail, ms }) =>
      `${name.padEnd(18)} ${outcome.padEnd(10)} ${formatDuration(ms).padStart(7)}  ${firstLine(detail)}`.trimEnd(),
    );
    lines.push(["its probe", [`${found.at}: ${firstLine(found.reason)}`, ...findings]]);
    if (found.usable) lines.push(["its dialect", describeDialect(found)]);
  }
  return lines;
}

function describeSymbols(symbols: AneState["symbols"]): string[] {
  if (symbols === undefined) return [];
  const needed: readonly string[] = symbols.needed;
  return [
    `${symbols.found} of ${symbols.found + symbols.missing.length} known functions found`,
    ...symbols.missing.map((name) => `missing: e5rt_${name}${needed.includes(name) ? ", which anekit needs" : ""}`),
  ];
}

/** What is written for the compiler, and why. */
function describeDialect({ findings, syntax, natives, aliasing }: NonNullable<AneState["probe"]>): string[] {
  const why = (name: string) => findings.find((finding) => finding.name === name)?.outcome ?? "not asked";
  const forms = Object.entries(nativeForms);
  const native = forms.filter(([form]) => natives[form]).map(([form]) => form);
  return [
    syntax === "modern" ? "modern MIL" : `verbose MIL (modern: ${why("modern syntax")})`,
    `as they are (right): ${native.join(", ") || "none of the disputed forms"}`,
    ...forms.flatMap(([form, { doc }]) => (natives[form] ? [] : [`rewritten (${form}: ${why(form)}): ${doc}`])),
    aliasing ? "state is replaced in place" : `state is copied after a run (in place: ${why("aliasing")})`,
  ];
}

/** Lines on Accelerate; none where there cannot be any. */
function describeAccelerate({ used, reason, library, probe: found }: AccelerateState): [string, string[]][] {
  if (library === undefined && process.platform !== "darwin") return [];
  const times = (found?.measured ?? []).map(({ m, k, n, batch, oursMs, theirsMs }) => {
    const name = `${batch === 1 ? "" : `${batch} x `}${m}x${k}x${n}`;
    const rate = (ms: number) => ((2 * m * n * k * batch) / ms / 1e6).toFixed(1).padStart(7);
    return `${name.padEnd(18)} ${rate(theirsMs)} Gflop/s, the engine itself ${rate(oursMs)}`;
  });
  return [
    [
      "Accelerate",
      [
        `${used ? "takes fp32 matrix products" : "is not used"}: ${firstLine(reason)}`,
        ...(library === undefined ? [] : [`${library}${process.env.ANEKIT_ACCELERATE ? " (ANEKIT_ACCELERATE)" : ""}`]),
        ...(found === undefined ? [] : [`probed ${found.at}`]),
        ...times,
      ],
    ],
  ];
}

function describe({ memory, chip, neuralEngine, accelerate, engines, auto, advice, ...machine }: Diagnosis): string {
  const bytes = (count: number | null) => (count === null ? "unknown" : formatBytes(count));
  const limit = memory.limitBytes === null ? "" : `, limited to ${bytes(memory.limitBytes)}`;
  return fields([
    ["anekit", machine.anekit],
    ["Node", machine.node],
    ["system", `${machine.platform} ${machine.arch}`],
    ["CPU", `${machine.cpu ?? "unknown"}, ${machine.cores ?? "?"} usable cores`],
    ["memory", `${bytes(memory.totalBytes)}${limit}, ${bytes(memory.availableBytes)} available`],
    ["chip", chip === null ? "no Apple chip found" : `${chip.product} (target ${chip.name}, family ${chip.family})`],
    ...describeNeuralEngine(neuralEngine, engines),
    ...describeAccelerate(accelerate),
    ["engines", engines.map(({ name, available, reason }) => `${name}  ${available ? "yes" : "no "}  ${reason}`)],
    ["auto takes", `${auto.engine ?? "none"}: ${auto.reason}`],
    ...(advice.length > 0 ? [["advice", advice] as const] : []),
  ]);
}
