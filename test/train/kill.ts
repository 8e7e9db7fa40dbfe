// The run of the kill test, as parent and child must both have it.

import type { Gpt } from "../../src/models/index.ts";
import { tinyData, tinyGpt } from "./tiny.ts";

export const killModel = (): Gpt => tinyGpt("mixed");

export const killOptions = () =>
  ({ data: tinyData(), batchSize: 2, accumulation: 2, engine: "sim", precision: "mixed" }) as const;
