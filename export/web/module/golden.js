/** The golden vectors of a bundle: token sequences, the oracle's logits and states, and what was recorded at export. */

import { readListed } from "./bundle_files.js";
import { CausalRNError } from "./errors.js";
import { readSafetensors } from "./safetensors.js";
import { countElements } from "./state_shape.js";

const FILE = "golden.safetensors";

/** The arrays of a bundle's golden vectors; B sequences of T tokens. */
export class Golden {
  /** Those of a bundle. Throws "bundle" where something is missing, of another shape, or no finite number. */
  static async read(folder, manifest) {
    const tensors = readSafetensors(await readListed(folder, manifest, FILE));
    const fault = faultOf(tensors, manifest);
    if (fault) throw new CausalRNError("bundle", `malformed golden vectors (${fault}): export the bundle again`);
    return new Golden(tensors, manifest);
  }

  constructor(tensors, manifest) {
    this.tensors = tensors;
    this.manifest = manifest;
    const { shape, data } = tensors["tokens"];
    [this.sequences, this.length] = shape;
    this.tokens = Array.from({ length: this.sequences }, (_, row) =>
      Array.from(data.subarray(row * this.length, (row + 1) * this.length), Number),
    );
    this.vocabulary = manifest.model.vocabulary;
    this.reference = tensors["oracle.logits"].data;
    this.bounds = tensors["bound.logits"].data;
    this.recorded = tensors["recorded.logits"].data;
    this.positions = Array.from(tensors["oracle.positions"].data, Number);
    this.largest = largestOf(this.reference);
  }

  /** Where the recorded state was taken. */
  get middle() {
    return middleOf(this.tensors);
  }

  /** Recorded logits of the tokens after that, for all sequences. */
  afterRecorded() {
    const rest = (this.length - this.middle) * this.vocabulary,
      whole = this.length * this.vocabulary;
    const values = new Float32Array(this.sequences * rest);
    for (let row = 0; row < this.sequences; row++)
      values.set(this.recorded.subarray((row + 1) * whole - rest, (row + 1) * whole), row * rest);
    return values;
  }

  /** The recorded state of one sequence, by tensor. */
  recordedState(row) {
    return Object.fromEntries(
      this.manifest.state.tensors.map(({ name }) => [
        name,
        this.#sequence(`recorded.state.${this.middle}.${name}`, row, this.middle),
      ]),
    );
  }

  /** Reference values (float64) of one sequence's state tensor at a position. Pools are kept once, at their longest. */
  referenceState(name, position, row) {
    const kept = `oracle.state.${position}.${name}` in this.tensors ? position : Math.max(...this.positions);
    return this.#sequence(`oracle.state.${kept}.${name}`, row, position);
  }

  /** Largest error of a state tensor, relative to its largest |value|. */
  stateBound(name) {
    return this.tensors[`bound.state.${name}`].data[0];
  }

  #sequence(key, row, position) {
    const { shape, data } = this.tensors[key],
      name = key.split(".").slice(3).join(".");
    const { batch_axis: axis } = this.manifest.state.tensors.find((tensor) => tensor.name === name);
    const width = shape.slice(axis + 1).reduce((product, dim) => product * dim, 1);
    if (axis === 0) return data.slice(row * width, (row + 1) * width);
    const values = new data.constructor(position * width);
    for (let time = 0; time < position; time++) {
      const start = (time * shape[1] + row) * width;
      values.set(data.subarray(start, start + width), time * width);
    }
    return values;
  }
}

/** State tensors that can be compared with reference values: scales belong to rows, and what rounding took differs. */
export const comparedTensors = (manifest) =>
  manifest.state.tensors.filter(({ role }) => role !== "scale" && role !== "carry");

const middleOf = (tensors) =>
  Number(
    Object.keys(tensors)
      .find((key) => key.startsWith("recorded.state."))
      ?.split(".")[2],
  );

/** What is wrong with golden vectors, in a few words; null if nothing is. */
function faultOf(tensors, manifest) {
  const [sequences, length] = tensors["tokens"]?.shape ?? [],
    middle = middleOf(tensors);
  const { vocabulary } = manifest.model,
    positions = Array.from(tensors["oracle.positions"]?.data ?? [], Number);
  if (!(sequences >= 1 && length >= 2)) return "no tokens";
  if (![middle, ...positions].every((position) => position >= 1 && position < length) || positions.length === 0)
    return "positions outside the sequences";
  const counts = {
    tokens: sequences * length,
    "oracle.logits": sequences * length * vocabulary,
    "recorded.logits": sequences * length * vocabulary,
    "bound.logits": length,
  };
  for (const tensor of manifest.state.tensors)
    counts[`recorded.state.${middle}.${tensor.name}`] = sequences * countElements(tensor, middle);
  for (const tensor of comparedTensors(manifest)) {
    counts[`bound.state.${tensor.name}`] = 1;
    for (const position of tensor.growth === "token" ? [Math.max(...positions)] : positions)
      counts[`oracle.state.${position}.${tensor.name}`] = sequences * countElements(tensor, position);
  }
  for (const [name, count] of Object.entries(counts)) {
    const values = tensors[name]?.data;
    if (values?.length !== count) return `${name} is not ${count} numbers`;
    if (!values.every((value) => Number.isFinite(Number(value)))) return `${name} with values that cannot be`;
    if (name.startsWith("bound.") && !values.every((value) => value > 0)) return `${name} that is not positive`;
  }
  return largestOf(tensors["oracle.logits"].data) > 0 ? null : "logits that are all zero";
}

export const largestOf = (values) => values.reduce((most, value) => maximum(most, Math.abs(value)), 0);
export const maximum = (a, b) => (a >= b || Number.isNaN(a) ? a : b); // NaN stays
