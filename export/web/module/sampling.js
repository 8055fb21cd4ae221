/** Choosing the next token from logits. */

/**
 * Greedy at temperature 0, ties to the lowest id; else a draw that depends on seed and position only, so that a run which was
 * interrupted and resumed draws the same.
 *
 * @param {Float32Array} logits [V]
 * @param {{temperature: number, topK: number, topP: number, seed: number}} options
 * @param {number} position tokens seen so far
 */
export function chooseToken(logits, { temperature, topK, topP, seed }, position) {
  const best = logits.reduce((most, value, id) => (value > logits[most] ? id : most), 0);
  if (temperature === 0) return best;
  let ids = Array.from(logits, (_, id) => id).sort((a, b) => logits[b] - logits[a] || a - b);
  if (topK > 0) ids = ids.slice(0, topK);
  const weights = ids.map((id) => Math.exp((logits[id] - logits[best]) / temperature));
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  let kept = 0,
    mass = 0;
  while (kept < ids.length && (kept === 0 || mass < topP * whole)) mass += weights[kept++];
  let left = uniform(seed, position) * mass;
  for (let place = 0; place < kept; place++) {
    left -= weights[place];
    if (left < 0) return ids[place];
  }
  return ids[kept - 1];
}

/** A number in [0, 1) from two integers (the finalizer of MurmurHash3, twice). */
function uniform(seed, position) {
  const mix = (value) => {
    let bits = value | 0;
    bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
    bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
    return (bits ^ (bits >>> 16)) >>> 0;
  };
  return mix(mix(seed + 0x9e3779b9) ^ Math.imul(position + 1, 0x27d4eb2f)) / 2 ** 32;
}
