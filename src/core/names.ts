// Names of operands and attributes: camelCase in TypeScript, snake_case in MIL; converted here and nowhere else.

/** `transposeX` as `transpose_x`. */
export function toMilName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
