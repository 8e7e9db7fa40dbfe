import type { Program } from "../ir/program.ts";
export function segment(program: Program, _max: number): readonly Program[] {
  return [program];
}
