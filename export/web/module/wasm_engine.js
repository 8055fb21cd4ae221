/** The cell as WebAssembly, built from causalrn.c: memory, and the state as the manifest's contract has it. */

import { CausalRNError } from "./errors.js";
import { countBytes } from "./state_shape.js";

const PAGE_BYTES = 65536,
  LINE_BYTES = 64;
const OK = 0,
  NOT_FINITE = 12;
const INTERFACE = 1;
const CHUNK = 64; // tokens of one call: short enough for a page to stay responsive
const FIRST_ROWS = 256; // of a pool without a capacity; it grows by doubling

// A module with one function that has a SIMD instruction: engines without SIMD refuse it.
const SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);

/** Whether this machine runs WebAssembly with SIMD. */
export const hasSimd = () => WebAssembly.validate(SIMD_PROBE);

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
    this.embedding = manifest.model.embedding;
    this.#describe(manifest);
    this.#free = native.__heap_base.value;
    const file = this.#allocate(weights.length);
    this.#bytes(file, weights.length).set(weights);
    this.#check(native.load_weights(file, weights.length));
    this.tokens = this.#allocate(4 * CHUNK);
    this.logits = this.#allocate(4 * CHUNK * this.vocabulary);
    this.#base = this.#free;
    this.#open(this.capacity ?? FIRST_ROWS);
  }

  #free;
  #base; // what lies behind it is laid out anew when a session is opened
  #rows = 0;
  #watchMemory = 0;
  #watchedFrom = Infinity; // the position; there is no earlier one to show

  get position() {
    return this.native.position();
  }

  /** Bytes of state that count now. */
  get stateBytes() {
    return countBytes(this.tensors, this.position);
  }

  /** Most tokens of one call. */
  get chunk() {
    return CHUNK;
  }

  /** Logits [T * V] of T <= chunk tokens; on an error nothing has been taken. */
  take(tokens) {
    this.#reserve(this.position + tokens.length);
    new Int32Array(this.native.memory.buffer, this.tokens, tokens.length).set(tokens);
    this.#check(this.native.prefill(this.tokens, tokens.length, this.logits));
    return new Float32Array(this.native.memory.buffer, this.logits, tokens.length * this.vocabulary).slice();
  }

  reset() {
    this.native.reset_session();
    if (this.#watchedFrom !== Infinity) this.#watchedFrom = 0;
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
    if (this.#watchedFrom !== Infinity) this.#watchedFrom = position;
  }

  /** Keep from now on what `shares` and `streams` need. */
  watch(on) {
    this.#watchedFrom = on ? this.position : Infinity;
    if (on && this.#watchMemory === 0) this.#watchMemory = this.#allocate(this.native.watch_size(this.#rows));
    this.native.watch(on ? this.#watchMemory : 0);
  }

  /** Which positions the output at `position` reads in a block: shares [position + 1] that add up to 1. */
  shares(block, position) {
    if (this.#watchedFrom > 0 || position >= this.position)
      throw new CausalRNError("state", "this position, or one before it, was not watched: watch from a fresh state on");
    return new Float32Array(this.native.memory.buffer, this.native.shares(block, position), position + 1).slice();
  }

  /** What each block, and last the head, read from the residual stream in the last call of T <= 32 tokens: [T * E] each. */
  streams(time) {
    const width = this.paddedEmbedding,
      start = this.native.streams_address();
    return Array.from({ length: this.blocks + 1 }, (_, block) => {
      const rows = new Float32Array(this.native.memory.buffer, start + 4 * block * time * width, time * width);
      return this.#cut(rows, width, this.embedding);
    });
  }

  #describe(manifest) {
    const { model, state } = manifest,
      [first] = state.tensors;
    const [version, ...said] = Array.from({ length: 9 }, (_, entry) => this.native.describe(entry));
    if (version !== INTERFACE)
      throw new CausalRNError(
        "bundle",
        `an engine of version ${version}, this module calls ${INTERFACE}: export again`,
      );
    const sizes = [
      state.tensors.length,
      model.hidden,
      model.heads,
      model.vocabulary,
      model.blocks,
      Number(first.dtype === "int8"),
    ];
    if (sizes.some((value, index) => value !== said[index]))
      throw new CausalRNError("bundle", "the engine is of another model than the manifest: export again");
    [, this.hidden, this.heads, this.vocabulary, this.blocks] = sizes;
    [this.paddedHidden, this.paddedEmbedding] = said.slice(-2);
  }

  /** Lay out a fresh session for so many positions. */
  #open(rows) {
    this.#free = this.#base;
    const memory = this.#allocate(this.native.session_size(rows));
    this.#check(this.native.open_session(memory, rows));
    this.#rows = rows;
    this.#watchMemory = 0;
  }

  /** Make room for so many positions where there is no capacity. */
  #reserve(rows) {
    const watching = this.#watchedFrom !== Infinity;
    if (rows <= this.#rows || !(this.hasPool || watching)) return;
    if (watching)
      throw new CausalRNError("capacity", `positions are watched up to ${this.#rows}: turn watching off for more`);
    const state = this.copyState(),
      position = this.position;
    this.#open(2 * rows);
    this.loadState(state, position);
  }

  #tensor(index, rows) {
    const address = this.native.state_tensor(index),
      tensor = this.tensors[index],
      buffer = this.native.memory.buffer;
    if (tensor.role === "scale") return new Float32Array(buffer, address, rows);
    return new (tensor.dtype === "int8" ? Int8Array : Float32Array)(buffer, address, rows * this.paddedHidden);
  }

  /** [rows, HP] -> [rows, H]: heads without the zeros behind them; a copy. */
  #unpadded(rows) {
    return this.#cut(rows, this.paddedHidden / this.heads, this.hidden / this.heads);
  }

  /** The first `width` of every `padded` values; a copy. */
  #cut(rows, padded, width) {
    if (width === padded) return rows.slice();
    const values = new rows.constructor((rows.length / padded) * width);
    for (let part = 0; part * padded < rows.length; part++)
      values.set(rows.subarray(part * padded, part * padded + width), part * width);
    return values;
  }

  #pad(values, rows) {
    const width = this.hidden / this.heads,
      padded = this.paddedHidden / this.heads;
    rows.fill(0);
    for (let head = 0; head * width < values.length; head++)
      rows.set(values.subarray(head * width, (head + 1) * width), head * padded);
  }

  #allocate(bytes) {
    const address = Math.ceil(this.#free / LINE_BYTES) * LINE_BYTES,
      { memory } = this.native;
    const missing = address + bytes - memory.buffer.byteLength;
    try {
      if (missing > 0) memory.grow(Math.ceil(missing / PAGE_BYTES));
    } catch {
      throw new CausalRNError(
        "unavailable",
        `no ${Math.ceil(bytes / 1e6)} MB of memory for this model: close other pages, or use a smaller one`,
      );
    }
    this.#free = address + bytes;
    return address;
  }

  #bytes(address, count) {
    return new Uint8Array(this.native.memory.buffer, address, count);
  }

  #check(code) {
    if (code === OK) return;
    if (code === NOT_FINITE)
      throw new CausalRNError(
        "nonfinite",
        "the model gave NaN or infinity: its weights, or the values they reach, are out of range",
      );
    const start = this.native.message(code),
      memory = new Uint8Array(this.native.memory.buffer);
    const message = new TextDecoder().decode(memory.subarray(start, memory.indexOf(0, start)));
    throw new CausalRNError("bundle", `${message}: copy it again, or export again`);
  }
}
