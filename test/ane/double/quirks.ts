// What chips and system versions refuse or compute otherwise: targets, switches and profiles; refusals.ts and silicon.ts act on them.
// Shares no table with src/chips. Sources: [T] aneforge/targets.md, [O] aneforge/ops.md, [R] aneforge/runtime.md, [M] anegpt/mil.md,
// [N] numerics-probes.md, with their sections. Where sources disagree there is a switch, and the profiles play both readings.

/** Targets by family [T 2]: 1 runs nothing, 2 is A13, 3 A14, 4 A15, 5 A16. */
const targets = [
  [],
  ["h11", "h12", "m9", "t0"],
  ["h13", "h13g", "t1"],
  ["h14", "h14g", "h14c"],
  ["h15", "h15g", "h15c", "m11"],
  ["h16", "h16g", "h16c", "h16s", "h17", "h17a", "h17g", "h17s", "h17c", "h17d", "h18"],
];

function familyOf(target: string): number | undefined {
  const family = targets.findIndex((names) => names.includes(target));
  return family < 0 ? undefined : family;
}

/** Keys of ESPRESSO_DOUBLE that the library itself reads. */
const librarysKeys =
  "limit fail-compiles poison zeros slow-compile slow-execute hang-compile hang-execute crash crash-op refuse-op compute threads abort";

/** Switches with two readings. What a chip or a system decides unless it is set says so. */
const switches = {
  /** `bias` of conv: "no bias accepted" [M 5, Orion]; ANEForge passes none. Accepted from macOS 26 on unless set. */
  "conv-bias": ["accept", "refuse"],
  /** Refused for Orion [M 7 #10], ran for another [P40] and for ANEForge [O 2.1]. */
  gelu: ["accept", "refuse"],
  /** "Missing in raw MIL" [M 7, Espresso]; Orion and ANEForge emit it. */
  "reduce-mean": ["accept", "refuse"],
  /** Refused for Orion [M 7 #1], used in every kernel by others. */
  concat: ["accept", "refuse"],
  /** softmax over axis 1 of another size than a power of two [M 7]; measured to work over 32000. */
  "softmax-channels": ["accept", "refuse"],
  /** "Values must be variables, not literals" [M 1], "inline literals also accepted" [R 2]; flags: only booleans are refused [M 7 #15]. */
  inline: ["refuse", "flags", "accept"],
  /** "Returned variables must be live (not eliminated)" [M 1]: an identity is taken to be eliminated. */
  "identity-output": ["refuse", "accept"],
  /** "live input tensor not used in network" [M 8], seen with fused attention. Taken to hold for every input that nothing reads. */
  "unused-inputs": ["refuse", "accept"],
  /** fp32 and int32 at ports: rejected by the parser [R 2], listed as possible [M 2]. */
  "wide-ports": ["refuse", "accept"],
  /** Silent: ports of rank 0. Nobody made one, and Core ML promotes them. */
  "scalar-ports": ["refuse", "accept"],
  /** "Not on M1/M2 engine" [M 5], native everywhere but to int32 on M1 [O 4]. Accepted from A15 on unless set. */
  cast: ["accept", "refuse"],
  /** Operators that fail as a program of their own on M5 [O 4, compile sweep] though the catalogue says native. */
  "single-op": ["accept", "refuse"],
  /** Resizing on M1: "software fallback, some modes abort" [O 4]. */
  resize: ["accept", "refuse"],
  /** Gains of norms that are computed: ANEForge multiplies and adds instead [O 2.6]. */
  "runtime-gains": ["refuse", "accept"],
  /** slice_by_index of a function input [M 7, Espresso]. */
  "slice-index": ["accept", "refuse"],
} as const satisfies Record<string, readonly ["accept" | "refuse", ...string[]]>;

const numbers = {
  os: 26,
  /** Order of aliased outputs: 0 the one that needs least first, other numbers seed a shuffle. */
  order: 0,
  /** 1: reshapes of an input are views of its memory, which an in-place store changes, too. */
  views: 0,
  /** Bytes of weights in one program. */
  "max-weights": 2 ** 31,
  /** Largest last axis: 17920 failed on an M4 Max and 16384 passed [M 8], while A16 has 65536 [T 3]. 0: as the family has it. */
  "width-max": 0,
  /** 1: matrix products and convolutions beyond 32752 are infinite, on every chip [O 6, N]. */
  silicon: 0,
  /** 1: reduce_sum accumulates in fp16 [O 6]. */
  "narrow-sum": 0,
  /** 1: matrix products with an inner dimension that is no multiple of 32 give zeros on M1 [M 8; other M1 results contradict it]. */
  "m1-zeros": 0,
} as const;

type Switch = keyof typeof switches;
type NumberKey = keyof typeof numbers;

export interface Chip {
  readonly name: string;
  readonly family: number;
  readonly switches: Readonly<Record<Switch, string>>;
  readonly numbers: Readonly<Record<NumberKey, number>>;
  /** Operators whose results are zeros, or NaN. */
  readonly zerosOps: ReadonlySet<string>;
  readonly nanOps: ReadonlySet<string>;
}

/** Settings of the simulator. @throws {Error} for a key or a value that there is not */
export function readChip(settings: string): Chip {
  const given = new Map<string, string>();
  for (const pair of settings.split(";").filter((text) => text.trim() !== "")) {
    const [, key, value] = /^([^=]+)=(.*)$/.exec(pair) ?? [];
    if (key === undefined || value === undefined) throw new Error(`ESPRESSO_DOUBLE: "${pair}" is no key=value`);
    given.set(key, value);
  }
  const take = (key: string) => {
    const value = given.get(key);
    given.delete(key);
    return value;
  };
  // `order` is both: "strict" is the library's, a number the simulator's.
  if (given.get("order") === "strict") given.delete("order");
  const name = take("chip") ?? "h17s";
  const family = familyOf(name);
  if (family === undefined) throw new Error(`ESPRESSO_DOUBLE: there is no chip "${name}"`);
  const values = Object.fromEntries(
    Object.entries(numbers).map(([key, value]) => {
      const text = take(key);
      if (text !== undefined && !/^[0-9]+$/.test(text)) throw new Error(`ESPRESSO_DOUBLE: ${key}=${text} is no number`);
      return [key, text === undefined ? value : Number(text)];
    }),
  ) as Record<NumberKey, number>;
  const byChip: Partial<Record<Switch, string>> = {
    "conv-bias": values.os >= 26 ? "accept" : "refuse",
    cast: family >= 4 ? "accept" : "refuse",
  };
  const chosen = Object.fromEntries(
    Object.entries(switches).map(([key, readings]) => {
      const text = take(key) ?? byChip[key as Switch] ?? readings[0];
      if (!(readings as readonly string[]).includes(text))
        throw new Error(`ESPRESSO_DOUBLE: ${key} is one of ${readings.join(", ")}, not "${text}"`);
      return [key, text];
    }),
  ) as Record<Switch, string>;
  const list = (key: string) => new Set((take(key) ?? "").split(",").filter((text) => text !== ""));
  const chip = { name, family, switches: chosen, numbers: values, zerosOps: list("zeros-op"), nanOps: list("nan-op") };
  for (const key of given.keys())
    if (!librarysKeys.split(" ").includes(key)) throw new Error(`ESPRESSO_DOUBLE: there is no key "${key}"`);
  return chip;
}

/** What custom compiler options do: lines for the library, "note" for a violation, "load" for why the program will not load here. */
export function readTarget(host: Chip, custom: string): string[] {
  if (custom === "") return [];
  const target = /^TargetArchitecture=(.*)$/.exec(custom)?.[1];
  if (target === undefined) return [`note custom compiler options "${custom}": only TargetArchitecture= is known`];
  const family = familyOf(target);
  // Unknown names compile for the host without a word [R 1.3]. Caps of another family are not enforced, so the host's are [R 1.3].
  if (family === undefined)
    return [`note TargetArchitecture "${target}" is unknown: the program is compiled for the host`];
  // Silent: what a program for a later family does. One for an earlier family runs on all later chips [T 1].
  return family > host.family ? [`load the program was compiled for ${target}, this is ${host.name}`] : [];
}

/** Chips with systems and readings, as sets of settings for the tests. */
const profileSettings = {
  "m1-os14":
    "chip=h13;os=14;gelu=refuse;reduce-mean=refuse;concat=refuse;softmax-channels=refuse;slice-index=refuse;resize=refuse;order=1",
  "m1-os26": "chip=h13g;os=26;cast=accept;inline=flags;limit=110",
  "m2-os15": "chip=h14;os=15;concat=refuse;gelu=refuse;order=2",
  "m3-os15": "chip=h15;os=15;reduce-mean=refuse;softmax-channels=refuse;limit=120",
  "m4-os26": "chip=h16;os=26;width-max=16384;slice-index=refuse;order=3",
  "m5-os26": "chip=h17s;os=26;single-op=refuse",
  "m5-os27": "chip=h17s;os=27;inline=accept;unused-inputs=accept;runtime-gains=accept;views=1",
} as const;

/** Named chips with systems; `env` is what a process needs beside the simulator's command (build.ts). */
export const profiles: readonly { readonly name: string; readonly env: { readonly ESPRESSO_DOUBLE: string } }[] =
  Object.entries(profileSettings).map(([name, settings]) => ({ name, env: { ESPRESSO_DOUBLE: settings } }));
