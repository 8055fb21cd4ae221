/**
 * A trained CausalRN in the browser or in Node: one token in, one row of logits out, state carried.
 *
 *   import { load } from "./causalrn.js";
 *   const session = await load("./");
 *   for await (const { text } of session.generate("abc")) console.log(text);
 *
 * Types and explanations: causalrn.d.ts.
 */

import { Alphabet } from "./alphabet.js";
import { folderUrl, readListed, readManifest } from "./bundle_files.js";
import { CausalRNError } from "./errors.js";
import { chooseToken } from "./sampling.js";
import { countElements } from "./state_shape.js";
import { WasmEngine } from "./wasm_engine.js";

export { Alphabet, CausalRNError };

const DEFAULTS = {
  maxNewTokens: null,
  temperature: 0,
  topK: 0,
  topP: 1,
  seed: 0,
  stop: null,
  stopIds: null,
  signal: null,
};
const BREATH_MS = 12; // computing for longer than this at a time would make a page stutter

/** Open the bundle in the folder that `url` names. */
export async function load(url, { simd = true, onProgress = () => {} } = {}) {
  const folder = folderUrl(url);
  const manifest = await readManifest(folder);
  const Engine = manifest.web.engine === "c" ? WasmEngine : (await import("./ort_engine.js")).OrtEngine;
  const names = Engine.files(manifest, simd);
  const total = names.reduce((sum, name) => sum + (manifest.files[name]?.size_bytes ?? 0), 0);
  let loaded = 0;
  const read = (name) => readListed(folder, manifest, name, (bytes) => onProgress((loaded += bytes), total));
  const contents = await Promise.all(names.map(read));
  return new Session(folder, manifest, await Engine.open(folder, manifest, contents, simd));
}

/** A running model with its state. */
export class Session {
  constructor(folder, manifest, engine) {
    this.folder = folder;
    this.manifest = manifest;
    this.engine = engine.name;
    this.canWatch = engine.canWatch;
    this.vocabulary = manifest.model.vocabulary;
    this.blocks = manifest.model.blocks;
    this.capacity = manifest.state.tensors[0].capacity;
    this.alphabet = manifest.alphabet === null ? null : new Alphabet(manifest.alphabet);
    this.#engine = engine;
  }

  #engine;
  #logits = null;
  #busy = false;

  get position() {
    return this.#engine.position;
  }

  get lastLogits() {
    return this.#logits && this.#logits.slice();
  }

  get stateBytes() {
    return this.#engine.stateBytes;
  }

  async step(token) {
    return this.prefill([token]);
  }

  async prefill(tokens) {
    this.#check(tokens);
    return this.#alone(() => (tokens.length > this.#engine.chunk ? this.#takeMany(tokens) : this.#engine.take(tokens)));
  }

  reset() {
    this.#refuseWhileBusy();
    this.#engine.reset();
    this.#logits = null;
  }

  snapshot() {
    this.#refuseWhileBusy();
    const owner = this.manifest.manifest_sha256;
    return { position: this.position, tensors: this.#engine.copyState(), logits: this.lastLogits, owner };
  }

  restore(snapshot) {
    this.#refuseWhileBusy();
    this.#checkSnapshot(snapshot);
    this.#engine.loadState(snapshot.tensors, snapshot.position);
    this.#logits = snapshot.logits && snapshot.logits.slice();
  }

  async *generate(prompt, options = {}) {
    const chosen = checkedOptions({ ...DEFAULTS, ...options });
    const ids = this.#promptIds(prompt);
    if (ids !== null) this.#check(ids);
    const limit = this.#limit(ids === null ? 0 : ids.length, chosen.maxNewTokens);
    let logits = this.#logits;
    if (ids !== null) {
      const all = await this.prefill(ids);
      logits = all.subarray(all.length - this.vocabulary);
    }
    if (logits === null)
      throw new CausalRNError("input", "nothing to go on from: give a prompt, or restore a state first");
    const stopIds = chosen.stopIds ?? this.alphabet?.stopIds ?? [],
      generated = [];
    for (let count = 0; count < limit && !chosen.signal?.aborted; count++) {
      const token = chooseToken(logits, chosen, this.position);
      generated.push(token);
      const room = this.capacity === null || this.position < this.capacity;
      if (room) logits = await this.step(token);
      else this.#logits = null; // this token found no room: nothing goes on from here
      const text = this.alphabet === null ? "" : this.alphabet.decode([token]);
      const ends =
        chosen.stop !== null && this.alphabet !== null && this.alphabet.decode(generated).endsWith(chosen.stop);
      const finished = stopIds.includes(token) || ends || !room || count === limit - 1;
      yield { token, text, finished };
      if (finished) return;
    }
  }

  watch(on = true) {
    this.#refuseWhileBusy();
    if (!this.canWatch) throw new CausalRNError("unavailable", `${this.engine} does not show what it reads`);
    this.#engine.watch(on);
  }

  streams(time) {
    return this.#engine.streams(time);
  }

  shares(block, position) {
    return this.#engine.shares(block, position);
  }

  /** More tokens than one call takes: in parts, with breaths for the page; all of them or none. */
  async #takeMany(tokens) {
    const start = this.#engine.copyState(),
      position = this.position;
    const logits = new Float32Array(tokens.length * this.vocabulary);
    let breath = performance.now();
    try {
      for (let taken = 0; taken < tokens.length; taken += this.#engine.chunk) {
        const part = tokens.slice(taken, taken + this.#engine.chunk);
        logits.set(await this.#engine.take(part), taken * this.vocabulary);
        if (performance.now() - breath > BREATH_MS) {
          await new Promise((resume) => setTimeout(resume));
          breath = performance.now();
        }
      }
    } catch (error) {
      this.#engine.loadState(start, position);
      throw error;
    }
    return logits;
  }

  /** Run what changes the state; two such calls at a time would mix their tokens. */
  async #alone(run) {
    this.#refuseWhileBusy();
    this.#busy = true;
    try {
      const logits = await run();
      this.#logits = logits.slice(logits.length - this.vocabulary);
      return logits;
    } finally {
      this.#busy = false;
    }
  }

  #refuseWhileBusy() {
    if (this.#busy) throw new CausalRNError("input", "a call is still running: await it first");
  }

  #check(tokens) {
    if (!(tokens?.length >= 1)) throw new CausalRNError("input", "no tokens: give at least one");
    for (const token of tokens)
      if (!Number.isInteger(token) || token < 0 || token >= this.vocabulary)
        throw new CausalRNError(
          "input",
          `token id ${token} is outside the vocabulary of ${this.vocabulary} (0 to V - 1)`,
        );
    if (this.capacity !== null && this.position + tokens.length > this.capacity)
      throw new CausalRNError(
        "capacity",
        `${tokens.length} more positions after ${this.position} exceed the capacity of ${this.capacity}: use a shorter prompt`,
      );
  }

  #checkSnapshot({ owner, position, tensors, logits }) {
    const fail = (why) => {
      throw new CausalRNError("state", why);
    };
    if (owner !== this.manifest.manifest_sha256)
      fail("the state belongs to another bundle: restore it where it was taken");
    if (!Number.isInteger(position) || position < 0 || (this.capacity !== null && position > this.capacity))
      fail(`the state holds ${position} positions, this session has ${this.capacity ?? "no end"}`);
    for (const tensor of this.manifest.state.tensors) {
      const value = tensors?.[tensor.name],
        kind = tensor.dtype === "int8" ? Int8Array : Float32Array;
      if (!(value instanceof kind) || value.length !== countElements(tensor, position))
        fail(`state tensor ${tensor.name} is not ${countElements(tensor, position)} numbers of ${tensor.dtype}`);
    }
    if (logits !== null && !(logits instanceof Float32Array && logits.length === this.vocabulary))
      fail(`the state's logits are not ${this.vocabulary} numbers of float32`);
  }

  #promptIds(prompt) {
    if (prompt === null || prompt === undefined) return null;
    if (typeof prompt !== "string") return Array.from(prompt);
    if (this.alphabet === null)
      throw new CausalRNError("input", "this model has no alphabet: give the prompt as token ids");
    return this.position === 0 ? this.alphabet.prompt(prompt) : this.alphabet.encode(prompt);
  }

  /** How many tokens to generate; the last one needs no position of its own. */
  #limit(promptTokens, maxNewTokens) {
    if (this.capacity === null) {
      if (maxNewTokens === null)
        throw new CausalRNError("input", "this model has no capacity: say how many tokens to generate (maxNewTokens)");
      return maxNewTokens;
    }
    const room = this.capacity - this.position - promptTokens + 1;
    return maxNewTokens === null ? room : Math.min(room, maxNewTokens);
  }
}

function checkedOptions(options) {
  const refuse = (name, rule) => {
    throw new CausalRNError("input", `${name} is ${options[name]}: it must be ${rule}`);
  };
  const { maxNewTokens, temperature, topK, topP, seed, stop } = options;
  if (maxNewTokens !== null && !(Number.isInteger(maxNewTokens) && maxNewTokens >= 1))
    refuse("maxNewTokens", "a whole number, at least 1");
  if (!(Number.isFinite(temperature) && temperature >= 0)) refuse("temperature", "finite, 0 (greedy) or more");
  if (!(Number.isInteger(topK) && topK >= 0)) refuse("topK", "0 (all) or more");
  if (!(topP > 0 && topP <= 1)) refuse("topP", "above 0 and at most 1");
  if (!(Number.isInteger(seed) && seed >= 0)) refuse("seed", "a whole number, 0 or more");
  if (stop === "") refuse("stop", "a text that is not empty");
  return options;
}
