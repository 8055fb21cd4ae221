/** Breaths in long work, in which a page can draw and hear clicks. */

/** Computing for longer than this at a time would make a page stutter. */
export const BREATH_MS = 12;

/** Let everything else have its turn. */
export const breathe = () => new Promise((resume) => setTimeout(resume));
