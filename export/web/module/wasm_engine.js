/** The cell as WebAssembly, built from causalrn.c; the state as the manifest's contract has it. */

import { CausalRNError, NON_FINITE } from "./errors.js";
import { arrayOf, countBytes, countElements } from "./state_shape.js";
import { WasmMemory } from "./wasm_memory.js";

const OK = 0,
  NOT_FINITE = 12;
const INTERFACE = 1;
const CHUNK = 64; // tokens of one call: short enough for a page to stay responsive
const FIRST_ROWS = 256; // of a pool without a capacity; it grows by doubling

// A module with one function that has a SIMD instruction: engines without SIMD refuse it.
const SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);

const hasSimd = () => WebAssembly.validate(SIMD_PROBE);

export class WasmEngine {
  /** Names of the files that have to be loaded. */
  static files(manifest, simd) {
    if (typeof WebAssembly === "undefined")
      throw new CausalRNError(
        "unavailable",
        "this browser has no WebAssembly, which computes the model: use a newer one",
      );
    return [manifest.web.modules[simd && hasSimd() ? "simd" : "plain"], "weights.bin"];
  }

  /** An engine from the contents of its files. */
  static async open(folder, manifest, [code, weights], simd) {
    let module;
    try {
      module = await WebAssembly.instantiate(code, {});
    } catch (error) {
      throw new CausalRNError(
        "bundle",
        `the engine is no module that runs here (${error.message}): copy it again, or export again`,
      );
    }
    return new WasmEngine(module.instance.exports, manifest, weights, simd && hasSimd());
  }

  constructor(native, manifest, weights, fast) {
    this.native = native;
    this.name = fast ? "WebAssembly SIMD" : "WebAssembly without SIMD";
    this.canWatch = true;
    this.tensors = manifest.state.tensors;
    this.hasPool = this.tensors[0].growth === "token";
    this.capacity = this.tensors[0].capacity;
    this.#describe(manifest);
    this.#memory = new WasmMemory(native.memory, native.__heap_base.value);
    const file = this.#memory.allocate(weights.length);
    this.#memory.view(Uint8Array, file, weights.length).set(weights);
    this.#check(native.load_weights(file, weights.length));
    this.#tokens = this.#memory.allocate(4 * CHUNK);
    this.#logits = this.#memory.allocate(4 * CHUNK * this.vocabulary);
    this.#base = this.#memory.free;
    this.#open(this.capacity ?? FIRST_ROWS);
  }

  #memory;
  #tokens; // addresses
  #logits;
  #base; // what lies behind it is laid out anew when a session is opened
  #rows = 0;
  #watchMemory = 0;
  #watchedFrom = Infinity; // the position; there is no earlier one to show
  #shown = 0; // tokens of the last call, while watching

  get position() {
    return this.native.position();
  }

  /** Bytes of state that count now. */
  get stateBytes() {
    return countBytes(this.tensors, this.position);
  }

  get #isWatching() {
    return this.#watchedFrom !== Infinity;
  }

  /** Most tokens of one call. */
  get chunk() {
    return this.#isWatching ? this.#rowsTogether : CHUNK;
  }

  /** Logits [T * V] of T <= chunk tokens; on an error nothing has been taken. */
  take(tokens) {
    this.#reserve(this.position + tokens.length);
    this.#memory.view(Int32Array, this.#tokens, tokens.length).set(tokens);
    this.#check(this.native.prefill(this.#tokens, tokens.length, this.#logits));
    this.#shown = tokens.length;
    return this.#memory.copy(Float32Array, this.#logits, tokens.length * this.vocabulary);
  }

  reset() {
    this.native.reset_session();
    this.#watchFrom(0);
  }

  /** Copies of the state's tensors by name, without padding. */
  copyState() {
    return Object.fromEntries(
      this.tensors.map((tensor, index) => {
        const rows = this.#tensor(index, this.hasPool ? this.position : 1);
        return [tensor.name, tensor.role === "scale" ? rows.slice() : this.#unpadded(rows)];
      }),
    );
  }

  /** Go on from a state that was checked to fit. */
  loadState(tensors, position) {
    this.#reserve(position);
    this.native.reset_session();
    this.tensors.forEach((tensor, index) => {
      const rows = this.#tensor(index, this.hasPool ? position : 1),
        value = tensors[tensor.name];
      if (tensor.role === "scale") rows.set(value);
      else this.#pad(value, rows);
    });
    this.native.set_position(position);
    this.#watchFrom(position);
  }

  /** What `goBack` needs to come back here: rows behind a position do not count, sums are lost. */
  mark() {
    return { position: this.position, tensors: this.hasPool ? null : this.copyState(), watchedFrom: this.#watchedFrom };
  }

  goBack({ position, tensors, watchedFrom }) {
    if (tensors === null) this.native.set_position(position);
    else this.loadState(tensors, position);
    this.#watchedFrom = watchedFrom;
  }

  /** Keep from now on what `shares` and `streams` need. */
  watch(on) {
    if (on === this.#isWatching) return;
    if (on && this.#watchMemory === 0)
      this.#watchMemory = this.#memory.allocate(this.#checkedSize(this.native.watch_size(this.#rows), this.#rows));
    this.native.watch(on ? this.#watchMemory : 0);
    this.#watchedFrom = on ? this.position : Infinity;
    this.#shown = 0;
  }

  /** Which positions the output at `position` reads in a block: shares [position + 1] that add up to 1. */
  shares(block, position) {
    if (this.#watchedFrom > 0 || position >= this.position)
      throw new CausalRNError("state", "this position, or one before it, was not watched: watch from a fresh state on");
    return this.#memory.copy(Float32Array, this.native.shares(block, position), position + 1);
  }

  /** What each block, and last the head, read from the residual stream in the last call: [T * E] each. */
  streams() {
    if (!this.#isWatching || this.#shown === 0)
      throw new CausalRNError("state", "no call was watched: watch, then take tokens");
    const width = this.#paddedEmbedding,
      count = this.#shown * width,
      start = this.native.streams_address() >>> 0;
    return Array.from({ length: this.blocks + 1 }, (_, block) =>
      cut(this.#memory.view(Float32Array, start + 4 * block * count, count), width, this.embedding),
    );
  }

  #paddedHidden;
  #paddedEmbedding;
  #rowsTogether;

  #describe(manifest) {
    const { model, state } = manifest,
      [first] = state.tensors;
    const [version, ...described] = Array.from({ length: 11 }, (_, entry) => this.native.describe(entry));
    if (version !== INTERFACE)
      throw new CausalRNError(
        "bundle",
        `an engine of version ${version}, this module calls ${INTERFACE}: export again`,
      );
    const { hidden, heads, vocabulary, blocks, embedding } = model;
    const sizes = [state.tensors.length, hidden, heads, vocabulary, blocks, embedding, 8 * arrayOf(first).BYTES_PER_ELEMENT];
    if (sizes.some((value, index) => value !== described[index]))
      throw new CausalRNError("bundle", "the engine is of another model than the manifest: export again");
    Object.assign(this, { hidden, heads, vocabulary, blocks, embedding });
    [this.#paddedHidden, this.#paddedEmbedding, this.#rowsTogether] = described.slice(-3);
  }

  /** Lay out a fresh session for so many positions. */
  #open(rows) {
    const size = this.#checkedSize(this.native.session_size(rows), rows),
      before = this.#memory.free;
    this.#memory.free = this.#base;
    let memory;
    try {
      memory = this.#memory.allocate(size);
    } catch (error) {
      this.#memory.free = before; // the session that is there stays
      throw error;
    }
    this.#check(this.native.open_session(memory, rows));
    this.#rows = rows;
    this.#watchMemory = 0;
    this.#watchedFrom = Infinity;
  }

  /** A number of bytes that C computed in 32 bits, or more than 32 bits hold where it must have overflowed. */
  #checkedSize(bytes, rows) {
    const width = this.#paddedHidden / this.hidden;
    const atLeast = width * this.tensors.reduce((sum, tensor) => sum + countElements(tensor, rows), 0);
    return atLeast * 16 < 2 ** 32 ? bytes >>> 0 : Math.max(atLeast * 4, bytes >>> 0);
  }

  /** Make room for so many positions where there is no capacity; what was watched before is forgotten then. */
  #reserve(rows) {
    if (rows <= this.#rows || !(this.hasPool || this.#isWatching)) return;
    const state = this.copyState(),
      position = this.position,
      watching = this.#isWatching;
    this.#open(2 * rows);
    this.loadState(state, position);
    if (watching) this.watch(true);
  }

  #watchFrom(position) {
    if (this.#isWatching) this.#watchedFrom = position;
    this.#shown = 0;
  }

  #tensor(index, rows) {
    const tensor = this.tensors[index],
      Kind = arrayOf(tensor);
    const count = tensor.role === "scale" ? rows : rows * this.#paddedHidden;
    return this.#memory.view(Kind, this.native.state_tensor(index), count);
  }

  /** [rows, HP] -> [rows, H]: heads without the zeros behind them; a copy. */
  #unpadded(rows) {
    return cut(rows, this.#paddedHidden / this.heads, this.hidden / this.heads);
  }

  #pad(values, rows) {
    const width = this.hidden / this.heads,
      padded = this.#paddedHidden / this.heads;
    rows.fill(0);
    for (let head = 0; head * width < values.length; head++)
      rows.set(values.subarray(head * width, (head + 1) * width), head * padded);
  }

  #check(code) {
    if (code === OK) return;
    if (code === NOT_FINITE) throw new CausalRNError("nonfinite", NON_FINITE);
    const message = this.#memory.text(this.native.message(code));
    throw new CausalRNError("bundle", `${message}: copy it again, or export again`);
  }
}

/** The first `width` of every `padded` values; a copy. */
function cut(values, padded, width) {
  if (width === padded) return values.slice();
  const kept = new values.constructor((values.length / padded) * width);
  for (let part = 0; part * padded < values.length; part++)
    kept.set(values.subarray(part * padded, part * padded + width), part * width);
  return kept;
}
