/** The cell in onnxruntime-web: the bundle's ONNX graphs, one thread; the state is kept here, as the contract has it. */

import { CausalRNError, NON_FINITE } from "./errors.js";
import { countBytes, countElements } from "./state_shape.js";

const WEIGHTS = "weights.bin"; // of all graphs
const CHUNK = 16; // tokens of a prefill: pairs of positions stay small
const FIRST_ROWS = 256; // of a pool without a capacity; it grows by doubling

export class OrtEngine {
  /** Names of the files that have to be loaded here; onnxruntime-web loads its scripts itself. */
  static files(manifest) {
    const { graphs, web } = manifest;
    return [stepOf(graphs).file, graphs.prefill.file, web.modules.binary, WEIGHTS];
  }

  /** An engine from the contents of its files. */
  static async open(folder, manifest, [step, prefill, binary, weights]) {
    const { loader, glue } = manifest.web.modules;
    try {
      const ort = await import(/* webpackIgnore: true */ /* @vite-ignore */ new URL(loader, folder).href);
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = { mjs: new URL(glue, folder).href };
      ort.env.wasm.wasmBinary = binary;
      const externalData = [{ path: WEIGHTS, data: weights }];
      const create = (graph) => ort.InferenceSession.create(graph, { executionProviders: ["wasm"], externalData });
      return new OrtEngine(ort, manifest, await create(step), await create(prefill));
    } catch (error) {
      throw new CausalRNError(
        "unavailable",
        `onnxruntime-web cannot run this bundle (${error.message}): use a newer browser, or export again`,
      );
    }
  }

  constructor(ort, manifest, step, prefill) {
    this.ort = ort;
    this.name = "onnxruntime-web";
    this.canWatch = false;
    this.manifest = manifest;
    this.sessions = { step, prefill };
    this.tensors = manifest.state.tensors;
    this.hasPool = this.tensors[0].growth === "token";
    this.vocabulary = manifest.model.vocabulary;
    this.reset();
  }

  #position = 0;
  #arrays = [];

  get position() {
    return this.#position;
  }

  get stateBytes() {
    return countBytes(this.tensors, this.#position);
  }

  get chunk() {
    return CHUNK;
  }

  /** Logits [T * V]; on an error nothing has been taken. */
  async take(tokens) {
    const time = tokens.length,
      name = time === 1 ? "step" : "prefill",
      { graphs } = this.manifest;
    const { pad_rows: padRows } = name === "prefill" ? graphs.prefill : stepOf(graphs);
    this.#reserve(this.#position + time);
    const outputs = await this.#run(this.sessions[name], this.#feeds(tokens, padRows));
    const logits = outputs.logits.data.slice();
    if (!logits.every(Number.isFinite)) throw new CausalRNError("nonfinite", NON_FINITE);
    this.tensors.forEach((tensor, index) => {
      const { data } = outputs[outputName(tensor)];
      if (tensor.update === "append") this.#arrays[index].set(data, countElements(tensor, this.#position));
      else this.#arrays[index] = data.slice();
    });
    this.#position += time;
    return logits;
  }

  /** What `goBack` needs to come back here: a call gives new arrays, or writes behind the rows that count. */
  mark() {
    return { position: this.#position, arrays: [...this.#arrays] };
  }

  goBack({ position, arrays }) {
    this.#position = position;
    if (!this.hasPool) this.#arrays = arrays;
  }

  async #run(session, feeds) {
    try {
      return await session.run(feeds);
    } catch (error) {
      throw new CausalRNError("unavailable", `onnxruntime-web failed (${error.message}): load the model again`);
    }
  }

  reset() {
    this.#position = 0;
    this.#arrays = this.tensors.map(
      (tensor) => new Float32Array(this.#allocated(tensor, tensor.capacity ?? FIRST_ROWS)),
    );
  }

  copyState() {
    return Object.fromEntries(
      this.tensors.map((tensor, index) => [
        tensor.name,
        this.#arrays[index].slice(0, countElements(tensor, this.#position)),
      ]),
    );
  }

  loadState(tensors, position) {
    this.reset();
    this.#reserve(position);
    this.tensors.forEach((tensor, index) => this.#arrays[index].set(tensors[tensor.name]));
    this.#position = position;
  }

  #feeds(tokens, padRows) {
    const { Tensor } = this.ort,
      rows = this.#position + padRows;
    const feeds = {
      tokens: new Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]),
      position: new Tensor("int64", BigInt64Array.of(BigInt(this.#position)), []),
    };
    this.tensors.forEach((tensor, index) => {
      const values = this.#arrays[index].subarray(0, countElements(tensor, rows)),
        start = countElements(tensor, this.#position);
      if (this.hasPool) values.fill(0, start); // the zero slot of a step's own row
      const shape = tensor.shape.map((dim) => ({ t: rows, B: 1 })[dim] ?? dim);
      feeds[`past.${tensor.name}`] = new Tensor("float32", values, shape);
    });
    return feeds;
  }

  /** A row more than the capacity, for a step's zero slot. */
  #allocated(tensor, rows) {
    return countElements(tensor, rows + 1);
  }

  /** Make room for so many positions where there is no capacity. */
  #reserve(rows) {
    this.tensors.forEach((tensor, index) => {
      if (!this.hasPool || this.#allocated(tensor, rows) <= this.#arrays[index].length) return;
      const grown = new Float32Array(this.#allocated(tensor, 2 * rows));
      grown.set(this.#arrays[index]);
      this.#arrays[index] = grown;
    });
  }
}

/** The graph for one token of one sequence. */
const stepOf = (graphs) => graphs.step_single ?? graphs.step;
const outputName = (tensor) => `${tensor.update === "append" ? "row" : "present"}.${tensor.name}`;
