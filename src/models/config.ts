// Checks of models' configurations.

import * as v from "valibot";
import { ConfigError } from "../core/errors.ts";

/** A size in a configuration. */
export const positive = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(2 ** 16));

/** A checked configuration. @throws {ConfigError} naming the field. */
export function checkConfig<S extends v.GenericSchema>(schema: S, config: unknown): v.InferOutput<S> {
  const parsed = v.safeParse(schema, config);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  throw new ConfigError("model", `${v.getDotPath(issue) ?? "configuration"}: ${issue.message}`);
}
