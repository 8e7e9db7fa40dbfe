// Per-chip support rules that several operator records share.

import { atLeast, type Chip, type ChipFamily } from "../chips/index.ts";

/** Native from `family` on; older chips need `remedy`. */
export function since(family: ChipFamily, remedy: string) {
  return (chip: Chip): true | string => atLeast(chip, family) || `native from ${family}; ${remedy}`;
}

/** On no chip; `remedy` says what to do instead. */
export function never(remedy: string) {
  return (): string => `no chip has it; ${remedy}`;
}
