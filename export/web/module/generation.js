/** Generation: a prompt in, one token out at a time, over any session. */

import { CausalRNError } from "./errors.js";
import { chooseToken } from "./sampling.js";

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

/**
 * Token by token, until a stop, the limit, the last position, or the signal. The session takes every token that is yielded; only
 * one that is chosen at the capacity finds no room.
 *
 * @param {import("./causalrn.js").Session} session
 * @param {string | ArrayLike<number> | null} prompt
 * @param {import("./causalrn.js").GenerateOptions} given
 */
export async function* generate(session, prompt, given) {
  const options = checkedOptions(given),
    ids = promptIds(session, prompt);
  const limit = mostTokens(session, ids === null ? 0 : ids.length, options.maxNewTokens);
  const reached = stopsOf(session, options),
    begun = session.textTail;
  if (options.signal?.aborted || !(await takePrompt(session, ids, options.signal))) return;
  const texts = session.alphabet?.textStream(begun);
  let before = ids === null ? "" : (texts?.end() ?? ""); // nothing completes what a prompt follows
  for (let count = 0; count < limit && !options.signal?.aborted; count++) {
    const logits = session.lastLogits;
    if (logits === null)
      throw new CausalRNError("input", "nothing to go on from: give a prompt, or restore a state first");
    const token = chooseToken(logits, options, session.position);
    const room = session.capacity === null || session.position < session.capacity;
    if (room) await session.step(token);
    else session.end();
    const isEnd = reached(token) || !room;
    const text = texts ? before + texts.take(token) + (isEnd ? texts.end() : "") : "";
    before = "";
    session.keepTextTail(texts?.tail ?? []);
    const finished = isEnd || count === limit - 1;
    yield { token, text, finished };
    if (finished) return;
  }
}

/** Whether the prompt was taken: the signal may end that, too, and leaves the state as it was. */
async function takePrompt(session, ids, signal) {
  try {
    if (ids !== null) await session.prefill(ids, { signal });
    return true;
  } catch (error) {
    if (signal?.aborted) return false;
    throw error;
  }
}

function checkedOptions(given) {
  const defined = Object.entries(given ?? {}).filter(([, value]) => value !== undefined);
  const options = { ...DEFAULTS, ...Object.fromEntries(defined) };
  const refuse = (name, rule) => {
    throw new CausalRNError("input", `${name} is ${options[name]}: it must be ${rule}`);
  };
  const { maxNewTokens, temperature, topK, topP, seed, stop, stopIds, signal } = options;
  if (maxNewTokens !== null && !(Number.isInteger(maxNewTokens) && maxNewTokens >= 1))
    refuse("maxNewTokens", "a whole number, at least 1");
  if (!(Number.isFinite(temperature) && temperature >= 0)) refuse("temperature", "finite, 0 (greedy) or more");
  if (!(Number.isInteger(topK) && topK >= 0)) refuse("topK", "0 (all) or more");
  if (!(Number.isFinite(topP) && topP > 0 && topP <= 1)) refuse("topP", "above 0 and at most 1");
  if (!(Number.isInteger(seed) && seed >= 0)) refuse("seed", "a whole number, 0 or more");
  if (stop !== null && (typeof stop !== "string" || stop === "")) refuse("stop", "a text that is not empty");
  if (stopIds !== null && !(Array.isArray(stopIds) && stopIds.every(Number.isInteger)))
    refuse("stopIds", "an array of token ids");
  if (signal !== null && !(signal instanceof AbortSignal)) refuse("signal", "an AbortSignal");
  return options;
}

function promptIds(session, prompt) {
  if (prompt === null || prompt === undefined) return null;
  if (typeof prompt !== "string") return Array.from(prompt);
  if (session.alphabet === null)
    throw new CausalRNError("input", "this model has no alphabet: give the prompt as token ids");
  if (prompt === "") throw new CausalRNError("input", "the prompt is empty: type something");
  return session.position === 0 ? session.alphabet.prompt(prompt) : session.alphabet.encode(prompt);
}

/** How many tokens to generate; the last one needs no position of its own. */
function mostTokens({ capacity, position }, promptTokens, maxNewTokens) {
  if (capacity !== null) return Math.min(capacity - position - promptTokens + 1, maxNewTokens ?? Infinity);
  if (maxNewTokens !== null) return maxNewTokens;
  throw new CausalRNError("input", "this model has no capacity: give the number of tokens to generate (maxNewTokens)");
}

/** Whether a token ends it: a stop token, or one with which the last tokens spell the stop text. */
function stopsOf({ alphabet }, { stop, stopIds }) {
  if (stop !== null && alphabet === null)
    throw new CausalRNError("input", "this model has no alphabet: a stop text means nothing to it, use stopIds");
  const ids = stopIds ?? alphabet?.stopIds ?? [],
    text = stop === null ? [] : alphabet.encode(stop);
  let last = [];
  return (token) => {
    last = [...last, token].slice(-text.length || last.length + 1);
    const spells = text.length > 0 && last.length === text.length && last.every((id, place) => id === text[place]);
    return ids.includes(token) || spells;
  };
}
