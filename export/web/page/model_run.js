/** One run of one model: a prompt, then its own outputs, token by token. */

import { breathe } from "./breathing.js";
import { CausalRNError } from "./causalrn.js";
import { chooseToken } from "./sampling.js";

const PAGE_POSITIONS = 128; // where the model itself has no bound
const FREE_TOKENS = 64; // to generate where there is nothing to copy
const ENOUGH_MS = 50; // of computing, so that the clock's ticks do not matter
const BURST_MS = 4; // that many at a time

/** Most positions of a run. */
export const positionLimit = (session) => session.capacity ?? PAGE_POSITIONS;

/** Whether the model was trained to copy strings of letters, so that its outputs can be judged. */
export const copies = ({ alphabet, manifest }) => alphabet?.name === "letters" && manifest.task?.name === "copy";

/** What to expect of a string to copy that is not as long as those of the training; "" where it is, or none is known. */
export function lengthRemark(session, letters) {
  const { length } = session.manifest.task ?? {};
  if (!copies(session) || !Number.isInteger(length) || letters < 1 || letters === length) return "";
  return `It was trained on strings of ${length} letters and has not seen any of ${letters}: expect mistakes.`;
}

/** Token ids of what was typed. Throws CausalRNError where this model cannot take it. */
export function promptIds(session, text) {
  const ids = session.alphabet === null ? typedIds(text) : session.alphabet.prompt(text);
  for (const id of ids)
    if (id >= session.vocabulary)
      throw new CausalRNError(
        "input",
        `token id ${id} is outside the vocabulary of ${session.vocabulary}: type ids below that`,
      );
  const limit = positionLimit(session);
  if (ids.length <= limit) return ids;
  const bound = session.capacity === null ? `this page runs up to ${limit}` : `this model has ${limit}`;
  throw new CausalRNError("capacity", `the prompt takes ${ids.length} positions, ${bound}: type a shorter text`);
}

function typedIds(text) {
  const words = text.split(/\s+/).filter(Boolean);
  if (words.length === 0) throw new CausalRNError("input", "the prompt is empty: type token ids, separated by blanks");
  return words.map((word) => {
    if (/^\d+$/.test(word)) return Number(word);
    throw new CausalRNError("input", `'${word}' is no token id: type whole numbers, separated by blanks`);
  });
}

/** The ids that a copying model has to output after a prompt that ends with SEP, then EOS; null where that is open. */
function expectedIds(session, ids) {
  const { alphabet } = session;
  if (!copies(session) || alphabet.symbol(ids.at(-1)) !== "SEP") return null;
  return [...ids.slice(1, -1), ...alphabet.stopIds];
}

export class ModelRun {
  /** Starts from a fresh state; `prompt` comes from promptIds. */
  constructor(session, prompt) {
    this.session = session;
    this.prompt = prompt;
    this.outputs = [];
    /** Expected outputs; null where that is open. */
    this.expected = expectedIds(session, prompt);
    /** That it needs, if it copies as it should. */
    this.positions = Math.min(positionLimit(session), prompt.length + (this.expected?.length ?? FREE_TOKENS));
    this.finished = false;
    this.engineMs = 0;
    this.steps = 0;
    this.#most = this.expected === null ? FREE_TOKENS : Infinity;
    session.reset();
    if (session.canWatch) session.watch(true);
  }

  #most;
  #logits = null;

  /** Take the prompt's next token, or output one and take it. */
  async advance() {
    const { session, prompt } = this,
      { position } = session;
    const isOutput = position >= prompt.length,
      token = isOutput ? chooseToken(this.#logits, { temperature: 0 }) : prompt[position];
    if (isOutput) this.outputs.push(token);
    const taken = position < positionLimit(session);
    if (taken) await this.#take(token);
    this.finished = isOutput && (this.#ended || !taken || this.outputs.length === this.#most);
    return { token, isOutput, position: taken ? position : null };
  }

  /** Of copying: how many outputs are right, and the places of the others, from 1. The end marker is no letter. */
  judgement() {
    const letters = this.expected.length - 1;
    const wrong = this.outputs
      .slice(0, letters)
      .flatMap((token, place) => (token === this.expected[place] ? [] : [place + 1]));
    const early = this.#ended && this.outputs.length <= letters;
    return { letters, wrong, right: Math.min(this.outputs.length, letters) - wrong.length, early };
  }

  /** Whether an output was the last one for lack of positions. */
  get ranOut() {
    return this.finished && !this.#ended && this.outputs.length < this.#most;
  }

  /** Whether the last output is a stop token. */
  get #ended() {
    return this.session.alphabet?.stopIds.includes(this.outputs.at(-1)) ?? false;
  }

  /**
   * Tokens per second of the engine alone. A run of a small model is shorter than what a browser's clock resolves, so its tokens
   * are taken again, unwatched and without drawing, until enough time has passed; their median counts.
   */
  async measure(signal) {
    if (this.engineMs >= ENOUGH_MS) return this.meanRate("this run");
    const { session } = this,
      tokens = [...this.prompt, ...this.outputs].slice(0, this.steps),
      times = [];
    if (session.canWatch) session.watch(false);
    let replays = 0;
    for (let total = 0; total < ENOUGH_MS && !signal.aborted;) {
      const { elapsed, rounds } = await replay(session, tokens);
      times.push(elapsed / rounds / tokens.length);
      replays += rounds;
      total += elapsed;
      await breathe();
    }
    times.sort((a, b) => a - b);
    if (times.length === 0) return this.meanRate("this run");
    const perSecond = 1e3 / times[times.length >> 1];
    return {
      perSecond,
      words: `${tokens.length} tokens replayed ${replays} times unwatched, median of ${times.length} bursts`,
    };
  }

  /** The mean so far. */
  meanRate(of) {
    return { perSecond: (this.steps / this.engineMs) * 1e3, words: `mean of ${this.steps} steps of ${of}` };
  }

  async #take(token) {
    const start = performance.now();
    this.#logits = await this.session.step(token);
    this.engineMs += performance.now() - start;
    this.steps += 1;
  }
}

/** Take the tokens from a fresh state on, as often as it needs to see the clock move. */
async function replay(session, tokens) {
  const start = performance.now();
  let rounds = 0,
    elapsed = 0;
  while (elapsed < BURST_MS) {
    session.reset();
    for (const token of tokens) await session.step(token);
    rounds += 1;
    elapsed = performance.now() - start;
  }
  return { elapsed, rounds };
}
