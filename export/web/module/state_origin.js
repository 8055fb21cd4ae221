/** What a state belongs to, and where else it means the same numbers: the toolkit's causalrn/bundle/state_origin.py. */

const HOME = "restore it where it was taken";

/** Of the states of a bundle. `model` is JSON text. */
export function originOf({ manifest_sha256: owner, checkpoint_sha256: checkpoint, model, quantization }) {
  const pools = ["pool8", "pool16"].filter((name) => quantization?.[name]);
  const arithmetic = [quantization?.scheme ?? "float32", ...pools].join("+");
  return { owner, checkpoint, arithmetic, model: JSON.stringify(model) };
}

/** Why a state of the origin `other` cannot go on where states are of the origin `own`; null where it can. */
export function foreignness(own, other) {
  if (other.owner === own.owner) return null;
  if (!other.checkpoint || !other.arithmetic)
    return `the state belongs to another bundle, and does not say of which checkpoint and arithmetic: ${HOME}`;
  if (other.checkpoint !== own.checkpoint)
    return (
      `the state belongs to another bundle, of the checkpoint ${short(other.checkpoint)}, and this session is of ` +
      `${short(own.checkpoint)}: ${HOME}, or in a bundle of the same checkpoint`
    );
  if (other.arithmetic !== own.arithmetic)
    return (
      `the state belongs to another bundle, with the arithmetic '${String(other.arithmetic).slice(0, 40)}', and this ` +
      `session computes in '${own.arithmetic}': ${HOME}, or in a bundle that is quantized likewise`
    );
  return other.model ? otherModel(JSON.parse(own.model), other.model) : null;
}

/** The same weights may be read as another model, say with another activation. */
function otherModel(own, text) {
  let theirs;
  try {
    theirs = Object(JSON.parse(text));
  } catch {
    return `the state's model is not valid JSON: ${HOME}`;
  }
  const names = Object.keys({ ...theirs, ...own }).sort(),
    name = names.find((name) => theirs[name] !== own[name]);
  if (name === undefined) return null;
  return (
    "the state belongs to another bundle, of the same weights in another model: " +
    `${name.slice(0, 40)} is ${String(theirs[name]).slice(0, 40)}, here ${own[name]}: ${HOME}`
  );
}

const short = (sha256) => (String(sha256).length > 12 ? `${String(sha256).slice(0, 12)}...` : sha256);
