// A place in generated code.

/** Bound once. */
export class Label {
  /** Offset in the code, -1 until bound. */
  at = -1;
}
