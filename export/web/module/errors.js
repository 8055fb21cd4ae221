/** Errors that a page or a program may want to show: one sentence, with what to do about it. */

/** What went wrong: `kind` is "input", "capacity", "state", "bundle", "unavailable" or "nonfinite". */
export class CausalRNError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = "CausalRNError";
    this.kind = kind;
  }
}

export const NON_FINITE = "the model gave NaN or infinity: its weights, or the values they reach, are out of range";
