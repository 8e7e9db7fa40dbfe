// Which chip a Mac has, from its CPU's brand string; the caller reads that string (`sysctl machdep.cpu.brand_string`).

import { type Chip, chips, representativeChips } from "./chips.ts";

// Targets §1: M<n> gives the family; 1 to 5 documented. M6 is reported to run, but is not mapped there.
const chipOfGeneration: Readonly<Record<string, Chip>> = {
  "1": representativeChips.A13,
  "2": representativeChips.A14,
  "3": representativeChips.A15,
  "4": representativeChips.A16,
  "5": representativeChips.A16,
};

// Brands of which the sheet saw the target itself (targets §2; runtime's head for M5 Pro).
const chipOfBrand: Readonly<Record<string, Chip>> = {
  M1: chips.h13,
  "M1 Max": chips.h13g,
  M5: chips.h17s,
  "M5 Pro": chips.h17s,
};

/**
 * The chip behind a CPU brand such as `Apple M1 Max`; undefined for brands that the sheets do not map (M6, A18 Pro, Intel,
 * virtual machines' `Apple processor`), where a caller may warn and take `floorChip`.
 *
 * Only targets that were seen on a product are named exactly: M1, M1 Max, M5, M5 Pro. Every other Pro, Max, Ultra and base
 * model gets its family's representative: limits, features and encodings are then right, `name` and `cores` only typical.
 * (The naming rule and some drivers' reports say more, but disagree: base M5 is h17s in one sheet and h16 in another.)
 *
 * @param brand value of `machdep.cpu.brand_string`; the model identifier is no guide (MacBookPro17,1 is an M1)
 */
export function chipFromBrand(brand: string): Chip | undefined {
  const match = /^Apple (M(\d+)(?: (?:Pro|Max|Ultra))?)(?![\w-])/.exec(brand.trim());
  if (match === null) return undefined;
  const [, product, generation] = match;
  return chipOfBrand[product!] ?? chipOfGeneration[generation!];
}
