/** A trained CausalRN in the browser or in Node, as `causalrn-export export --target web` writes it. */

/** What went wrong, in one sentence that may be shown to people. */
export class CausalRNError extends Error {
  /** "nonfinite": NaN or infinity came out. "unavailable": this browser cannot, or memory ran out. */
  readonly kind: "input" | "capacity" | "state" | "bundle" | "unavailable" | "nonfinite";
  constructor(kind: CausalRNError["kind"], message: string);
}

/** Token alphabet: "letters" (BOS 0, SEP 1, EOS 2, a-z 3-28) or "bytes". */
export class Alphabet {
  readonly name: "letters" | "bytes";
  readonly stopIds: readonly number[];
  constructor(name: "letters" | "bytes");
  /** Token ids of the text alone. Throws "input" for a character that the alphabet does not have. */
  encode(text: string): number[];
  /** Token ids of a prompt: "abc" is BOS a b c SEP. */
  prompt(text: string): number[];
  /** Text of token ids, without markers. */
  decode(ids: ArrayLike<number>): string;
  /** Text of token after token; `tail`: where an earlier stream ended. */
  textStream(tail?: readonly number[]): TextStream;
  /** A token for people, a marker by its name: "a", "SEP". */
  symbol(id: number): string;
}

/** Text of tokens that come one by one: a character of several bytes comes with its last one. */
export interface TextStream {
  /** Bytes of a character that is not whole yet. */
  readonly tail: readonly number[];
  /** What a token adds to the text. */
  take(id: number): string;
  /** What is left at the end: one replacement character where there is a tail. */
  end(): string;
}

export interface LoadOptions {
  /** false: compute without SIMD even where the machine has it. The results are the same, bit for bit. */
  simd?: boolean;
  /** Called while files arrive, with bytes loaded and bytes in all. */
  onProgress?: (loaded: number, total: number) => void;
}

/** The part of a bundle's manifest that pages use; docs/state-contract.md of the toolkit explains all of it. */
export interface Manifest {
  readonly version: number;
  readonly alphabet: "letters" | "bytes" | null;
  readonly model: {
    readonly readout: "exact" | "linear" | "plain";
    readonly vocabulary: number;
    readonly embedding: number;
    readonly hidden: number;
    readonly blocks: number;
    readonly heads: number;
    readonly [entry: string]: unknown;
  };
  /** What it was trained on, such as {name: "copy", length: 16}; null where that is unknown. */
  readonly task: { readonly name: string; readonly [entry: string]: unknown } | null;
  readonly state: {
    readonly tensors: readonly {
      readonly name: string;
      readonly dtype: "float32" | "float16" | "int8";
      /** "token": one row per position. */
      readonly growth: "token" | "constant";
      readonly [entry: string]: unknown;
    }[];
    readonly [entry: string]: unknown;
  };
  /** A second bundle: "beside", and the SHA-256 of its manifest. */
  readonly folders?: Readonly<Record<string, string>>;
  readonly manifest_sha256: string;
  readonly [entry: string]: unknown;
}

/** A session's state at one moment; it can be cloned, posted to a worker and stored in IndexedDB. */
export interface Snapshot {
  readonly position: number;
  /** By name: pools [position, H], sums [H], scales [position]; float16 as its bits. */
  readonly tensors: Readonly<Record<string, Float32Array | Uint16Array | Int8Array>>;
  /** [V] after the last token; null at position 0. */
  readonly logits: Float32Array | null;
  /** The bundle that it belongs to. */
  readonly owner: string;
  /** SHA-256 of the weights: a state goes on in other bundles of the same checkpoint, arithmetic and model. */
  readonly checkpoint?: string;
  /** How weights and pool rows are rounded: "float32", "w8", ..., with "+pool8" or "+pool16" behind it. */
  readonly arithmetic?: string;
  /** The model's configuration, as JSON text. */
  readonly model?: string;
  /** Bytes of a character that generated tokens have begun, and that going on may complete. */
  readonly textTail?: readonly number[];
}

export interface GenerateOptions {
  /** Most tokens; null goes on to the capacity (an error without one). */
  maxNewTokens?: number | null;
  /** 0, the default, is greedy; else logits are divided by it. */
  temperature?: number;
  /** Keep the k most likely tokens; 0 keeps all. */
  topK?: number;
  /** Keep the most likely tokens that together reach this probability. */
  topP?: number;
  /** Of the draws; these are not the ones of the Python runtimes. */
  seed?: number;
  /** Stop after this text. */
  stop?: string | null;
  /** Stop after one of these tokens; null takes the alphabet's. */
  stopIds?: readonly number[] | null;
  /** Stop when its `abort()` is called: the state then includes every token that was yielded. */
  signal?: AbortSignal | null;
}

export interface GeneratedToken {
  readonly token: number;
  /**
   * Empty for markers, where there is no alphabet, and for bytes that a character goes on after: the session keeps those in its
   * `textTail`, and going on with null completes it. At a stop, or the last position, one replacement character stands for it.
   */
  readonly text: string;
  /** Whether it is the last one. */
  readonly finished: boolean;
}

/**
 * A running model with its state, for one sequence. Calls that run the model are to be awaited one after the other.
 * On an error nothing has been taken. Everywhere "[T * V]" means T rows of V numbers, one after the other.
 */
export class Session {
  /** Sessions come from `load`. */
  private constructor();
  /** Folder that it was loaded from. */
  readonly folder: URL;
  readonly manifest: Manifest;
  /** What computes: "WebAssembly SIMD", "WebAssembly without SIMD" or "onnxruntime-web". */
  readonly engine: string;
  readonly vocabulary: number;
  readonly blocks: number;
  /** Most positions; null without a bound. */
  readonly capacity: number | null;
  readonly alphabet: Alphabet | null;
  /** Tokens seen so far. */
  readonly position: number;
  /** [V] after the last token, a copy; null at position 0, and where the last token found no room. */
  readonly lastLogits: Float32Array | null;
  /** Bytes of a character that generated tokens have begun; other tokens, and `reset`, end it. */
  readonly textTail: readonly number[];
  /** Bytes of the state at this position. */
  readonly stateBytes: number;
  /** Whether `watch` and `shares` are there. */
  readonly canWatch: boolean;

  /** Take one token: logits [V] of what comes next. Throws "input", "capacity", "nonfinite". */
  step(token: number): Promise<Float32Array>;
  /**
   * Take T tokens onto whatever the state holds: logits [T * V], bit for bit as single steps give them. Many are taken in parts,
   * between which a page can breathe; `signal` ends that with an AbortError, and none of them is taken then.
   */
  prefill(tokens: ArrayLike<number>, options?: { signal?: AbortSignal | null }): Promise<Float32Array>;
  /** Forget everything. */
  reset(): void;
  /** A copy of the state that later steps do not change. */
  snapshot(): Snapshot;
  /**
   * Go on from a snapshot: what follows equals the uninterrupted run bit for bit; within rounding, if another kind of bundle of
   * the same checkpoint took it. Throws "state".
   */
  restore(snapshot: Snapshot): void;
  /** The state as the content of a state file, which all runtimes of the toolkit read. */
  saveState(): Uint8Array;
  /** Go on from the content of a state file, of this or another runtime, as from a snapshot. Throws "state". */
  loadState(file: Uint8Array | ArrayBuffer): void;
  /**
   * Generate after a prompt: a text (with the alphabet's markers at position 0, bare behind a state), token ids, or null to go on
   * from the state. The session takes every token that is yielded, so that a snapshot taken there goes on with null.
   */
  generate(
    prompt: string | ArrayLike<number> | null,
    options?: GenerateOptions,
  ): AsyncGenerator<GeneratedToken, void, void>;
  /**
   * Keep from now on, best from a fresh state, what `shares` and `streams` need; or stop that. A pool without a capacity that
   * outgrows its memory (256 positions, then twice as many, and so on) forgets what was watched before. Throws "unavailable".
   */
  watch(on?: boolean): void;
  /**
   * Which positions the output at `position` reads in a block: [position + 1], adding up to 1. A readout is a sum over
   * positions, of which only the direction counts that its norms leave; a share is a term's part of it, and may be negative.
   * Throws "state" if a position up to there was not watched.
   */
  shares(block: number, position: number): Float32Array;
  /**
   * While watching: what each block, and last the head, read from the residual stream in the last call of the engine (single
   * steps, or the last part of a prefill): N + 1 arrays [T * E]. Throws "state" where there was none.
   */
  streams(): Float32Array[];
  /** Note how the generated text ends, for `generate` to go on from there. */
  keepTextTail(bytes: readonly number[]): void;
  /** Note that the last chosen token found no room: nothing goes on from here. */
  end(): void;
}

/** Open the bundle in the folder that `url` names: relative to the page, or in Node without one to the working directory. Throws "bundle", "unavailable". */
export function load(url: string | URL, options?: LoadOptions): Promise<Session>;
