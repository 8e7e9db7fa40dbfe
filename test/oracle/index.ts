// The whole oracle: one reference and one list of cases for every operator.

import * as contractions from "./contractions.ts";
import * as elementwise from "./elementwise.ts";
import * as extra from "./extra.ts";
import * as movement from "./movement.ts";
import * as reductions from "./reductions.ts";
import type { OpCases, Reference } from "./types.ts";

const parts = [elementwise, reductions, contractions, movement, extra];

export const references: Readonly<Record<string, Reference>> = Object.assign(
  {},
  ...parts.map((part) => part.references),
);
export const cases: Readonly<Record<string, OpCases>> = Object.assign({}, ...parts.map((part) => part.cases));
