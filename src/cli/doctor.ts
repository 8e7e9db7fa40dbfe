// `anekit doctor`: what this machine has, which engines it can use, and what to do about what is missing. Never fails.

import { execFile } from "node:child_process";
import { availableParallelism, cpus, release, totalmem } from "node:os";
import type { Command } from "commander";
import { type Chip, chipFromBrand } from "../chips/index.ts";
import { messageOf } from "../core/errors.ts";
import { packageVersion } from "../data/package.ts";
import { listEngines, openEngine } from "../engines/open.ts";
import { type CommandContext, jsonOption } from "./command.ts";
import { fields, formatBytes, print, printJson } from "./output.ts";

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
  readonly engines: readonly { readonly name: string; readonly available: boolean; readonly reason: string }[];
  readonly auto: { readonly engine: string | null; readonly reason: string };
  readonly advice: readonly string[];
}

export function configure(command: Command, _context: CommandContext): void {
  command
    .description("Shows what this machine has and which engines it can use. Always exits with 0.")
    .addOption(jsonOption())
    .action(async ({ json }: { readonly json?: true }) => {
      const diagnosis = await diagnose();
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

/** Looks at everything. */
export async function diagnose(): Promise<Diagnosis> {
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
  const { availableBytes } = machine.memory;
  if (availableBytes !== null && availableBytes < leastBytes) {
    advice.push(`only ${formatBytes(availableBytes)} of memory are available: close programs or raise the limit`);
  }
  return advice;
}

function describe({ memory, chip, engines, auto, advice, ...machine }: Diagnosis): string {
  const bytes = (count: number | null) => (count === null ? "unknown" : formatBytes(count));
  const limit = memory.limitBytes === null ? "" : `, limited to ${bytes(memory.limitBytes)}`;
  return fields([
    ["anekit", machine.anekit],
    ["Node", machine.node],
    ["system", `${machine.platform} ${machine.arch}`],
    ["CPU", `${machine.cpu ?? "unknown"}, ${machine.cores ?? "?"} usable cores`],
    ["memory", `${bytes(memory.totalBytes)}${limit}, ${bytes(memory.availableBytes)} available`],
    ["chip", chip === null ? "no Apple chip found" : `${chip.product} (target ${chip.name}, family ${chip.family})`],
    ["engines", engines.map(({ name, available, reason }) => `${name}  ${available ? "yes" : "no "}  ${reason}`)],
    ["auto takes", `${auto.engine ?? "none"}: ${auto.reason}`],
    ...(advice.length > 0 ? [["advice", advice] as const] : []),
  ]);
}
