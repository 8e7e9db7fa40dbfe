// How `anekit inspect` knows what it was given: what a recogniser sees, says and returns.

import type { Chip } from "../../chips/index.ts";

/** What stands at a path, before anything is known of its format. */
export type Subject =
  /** `head` are the first bytes, at most 64 KiB. */
  | { readonly kind: "file"; readonly path: string; readonly sizeBytes: number; readonly head: Uint8Array }
  /** `names` are the folder's entries, sorted. */
  | { readonly kind: "folder"; readonly path: string; readonly names: readonly string[] };

export interface Inspection {
  /** One line of JSON. */
  readonly json: Readonly<Record<string, unknown>>;
  readonly text: string;
}

/** A format that can be inspected. */
export interface Recogniser {
  /** Name of the format in help and errors. */
  readonly format: string;
  /** Goes by content; a name only where content cannot tell. */
  matches(subject: Subject): boolean;
  /** @throws {AnekitError} for a file that begins like the format and is damaged. */
  inspect(subject: Subject, options: { readonly chip?: Chip }): Inspection | Promise<Inspection>;
}
