/**
 * A trained CausalRN in the browser or in Node: one token in, one row of logits out, state carried.
 *
 *   import { load } from "./causalrn.js";
 *   const session = await load("./");
 *   for await (const { text } of session.generate("abc")) console.log(text);
 *
 * Types and explanations: causalrn.d.ts.
 */

import { Alphabet, beginsCharacter } from "./alphabet.js";
import { folderUrl, readListed, readManifest } from "./bundle_files.js";
import { BREATH_MS, breathe } from "./breathing.js";
import { CausalRNError } from "./errors.js";
import { generate } from "./generation.js";
import { readState, writeState } from "./state_file.js";
import { foreignness, originOf } from "./state_origin.js";
import { areFinite, arrayOf, countElements } from "./state_shape.js";
import { WasmEngine } from "./wasm_engine.js";

export { Alphabet, CausalRNError };

/** Open the bundle in the folder that `url` names. */
export async function load(url, options) {
  const { simd = true, onProgress = () => {} } = options ?? {};
  const folder = await folderUrl(url);
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
    this.#origin = originOf(manifest);
  }

  #engine;
  #origin;
  #logits = null;
  #textTail = [];
  #busy = false;

  get position() {
    return this.#engine.position;
  }

  get lastLogits() {
    return this.#logits && this.#logits.slice();
  }

  get textTail() {
    return [...this.#textTail];
  }

  get stateBytes() {
    return this.#engine.stateBytes;
  }

  async step(token) {
    return this.prefill([token]);
  }

  async prefill(given, { signal } = {}) {
    const tokens = Array.from(given ?? []); // a copy: the caller's may change while parts of it are taken
    this.#check(tokens);
    const several = tokens.length > this.#engine.chunk;
    return this.#alone(() => (several ? this.#takeMany(tokens, signal) : this.#engine.take(tokens)));
  }

  reset() {
    this.#refuseWhileBusy();
    this.#engine.reset();
    this.#logits = null;
    this.#textTail = [];
  }

  snapshot() {
    this.#refuseWhileBusy();
    const { position, textTail } = this;
    return { position, tensors: this.#engine.copyState(), logits: this.lastLogits, textTail, ...this.#origin };
  }

  restore(snapshot) {
    this.#refuseWhileBusy();
    this.#checkSnapshot(snapshot);
    this.#engine.loadState(snapshot.tensors, snapshot.position);
    this.#logits = snapshot.logits && snapshot.logits.slice();
    this.#textTail = [...(snapshot.textTail ?? [])];
  }

  saveState() {
    return writeState(this.snapshot(), this.manifest);
  }

  loadState(file) {
    this.restore(readState(file, this.manifest));
  }

  generate(prompt, options = {}) {
    return generate(this, prompt, options);
  }

  end() {
    this.#logits = null;
  }

  keepTextTail(bytes) {
    this.#textTail = [...bytes];
  }

  watch(on = true) {
    this.#refuseWhileBusy();
    if (!this.canWatch) throw new CausalRNError("unavailable", `${this.engine} does not show what it reads`);
    this.#engine.watch(on);
  }

  streams() {
    return this.#engine.streams();
  }

  shares(block, position) {
    if (![block, position].every(Number.isInteger) || block < 0 || block >= this.blocks || position < 0)
      throw new CausalRNError("input", `there is no block ${block} at position ${position}`);
    return this.#engine.shares(block, position);
  }

  /** More tokens than one call takes: in parts, with breaths for the page; all of them or none. */
  async #takeMany(tokens, signal) {
    const mark = this.#engine.mark(),
      logits = new Float32Array(tokens.length * this.vocabulary);
    let breath = performance.now();
    try {
      for (let taken = 0; taken < tokens.length;) {
        signal?.throwIfAborted();
        const part = tokens.slice(taken, taken + this.#engine.chunk);
        logits.set(await this.#engine.take(part), taken * this.vocabulary);
        taken += part.length;
        if (performance.now() - breath < BREATH_MS) continue;
        await breathe();
        breath = performance.now();
      }
    } catch (error) {
      this.#engine.goBack(mark);
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
      this.#textTail = [];
      return logits;
    } finally {
      this.#busy = false;
    }
  }

  #refuseWhileBusy() {
    if (this.#busy) throw new CausalRNError("input", "a call is still running: await it first");
  }

  #check(tokens) {
    if (tokens.length < 1) throw new CausalRNError("input", "no tokens: give at least one");
    for (const token of tokens)
      if (!Number.isInteger(token) || token < 0 || token >= this.vocabulary)
        throw new CausalRNError(
          "input",
          `token id ${token} is outside the vocabulary of ${this.vocabulary} (0 to V - 1)`,
        );
    if (this.capacity !== null && this.position + tokens.length > this.capacity)
      throw new CausalRNError(
        "capacity",
        `${tokens.length} more positions after ${this.position} exceed the capacity of ${this.capacity}: ` +
          "use a shorter prompt",
      );
  }

  #checkSnapshot(snapshot) {
    const fail = (why) => {
      throw new CausalRNError("state", why);
    };
    const { position, tensors, logits, textTail = [], ...origin } = snapshot ?? {};
    const foreign = foreignness(this.#origin, origin);
    if (foreign !== null) fail(foreign);
    if (!Number.isInteger(position) || position < 0 || (this.capacity !== null && position > this.capacity))
      fail(`the state holds ${position} positions, this session has ${this.capacity ?? "no end"}`);
    const contract = this.manifest.state.tensors,
      stranger = Object.keys(tensors ?? {}).find((name) => !contract.some((tensor) => tensor.name === name));
    if (stranger !== undefined) fail(`the state holds ${stranger.slice(0, 40)}, which this model's does not`);
    for (const tensor of contract) {
      const value = tensors?.[tensor.name],
        count = countElements(tensor, position);
      if (!(value instanceof arrayOf(tensor)) || value.length !== count)
        fail(`state tensor ${tensor.name} is not ${count} numbers of ${tensor.dtype}`);
      if (!areFinite(value)) fail(`state tensor ${tensor.name} holds NaN or infinity: restore another state`);
    }
    const isRow = logits instanceof Float32Array && logits.length === this.vocabulary && logits.every(Number.isFinite);
    if (logits !== null && !isRow) fail(`the state's logits are not ${this.vocabulary} finite numbers of float32`);
    const isTail = Array.isArray(textTail) && this.alphabet?.name === "bytes" && beginsCharacter(textTail);
    if (!isTail && textTail?.length !== 0) fail("the state's text ends with bytes that begin no character");
  }
}
