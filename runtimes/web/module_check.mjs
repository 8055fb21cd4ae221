/**
 * What the module of a web bundle promises beside its logits: node module_check.mjs FOLDER EXPECTED
 *
 * EXPECTED is JSON: {tokens, text, ids, decoded, stateBytes}: token ids [T], a text with its prompt's ids and what decoding
 * them gives (null without an alphabet), and the bytes of a state after all tokens. Prints {"checks": n, "fault": words}; the
 * first thing that is wrong ends it.
 */

import { pathToFileURL } from "node:url";

console.log = console.info = console.debug = console.error;
const folder = pathToFileURL(`${process.argv[2]}/`);
const expected = JSON.parse(process.argv[3]);
const { load, Alphabet } = await import(new URL("causalrn.js", folder));
const { chooseToken } = await import(new URL("sampling.js", folder));
const { tokens } = expected;

let checks = 0;
function need(right, words) {
  checks += 1;
  if (!right) throw new Error(words);
}

const same = (a, b) => a !== null && b !== null && a.length === b.length && a.every((value, i) => Object.is(value, b[i]));
const bestOf = (row) => row.reduce((most, value, id) => (value > row[most] ? id : most), 0);

async function kindOf(call) {
  try {
    await call();
  } catch (error) {
    return error.kind ?? error.name;
  }
  return "nothing";
}

async function takeSteps(session, ids) {
  const rows = [];
  for (const id of ids) rows.push(...(await session.step(id)));
  return rows;
}

async function checkCalls(session) {
  const { vocabulary } = session,
    half = Math.floor(tokens.length / 2);
  need(session.position === 0 && session.lastLogits === null, "a fresh session is not at position 0");
  const logits = await session.prefill(tokens),
    kept = Array.from(logits),
    last = kept.slice(-vocabulary);
  need(logits.length === tokens.length * vocabulary, "a prefill gives too few or too many logits");
  need(session.position === tokens.length, "a prefill counts its tokens wrongly");
  need(same(session.lastLogits, last), "the last logits are not those of the last token");
  need(session.stateBytes === expected.stateBytes, `a state takes ${session.stateBytes} bytes`);
  session.reset();
  need(session.position === 0 && session.lastLogits === null, "reset does not go back to position 0");
  const again = await session.prefill(tokens);
  need(same(again, kept), "after a reset other logits come out");
  need(same(logits, kept), "a later call changes the logits of an earlier one");
  session.reset();
  const zero = session.snapshot(),
    before = await session.prefill(tokens.slice(0, half)),
    middle = session.snapshot(),
    rest = await takeSteps(session, tokens.slice(half));
  need(same([...before, ...rest], kept) || session.engine === "onnxruntime-web", "steps differ from a prefill");
  const end = session.snapshot();
  for (let round = 0; round < 2; round++) {
    session.restore(middle);
    need(session.position === half && same(session.lastLogits, before.slice(-vocabulary)), "restore loses its place");
    need(same(await takeSteps(session, tokens.slice(half)), rest), "what follows a restored state differs");
    const { tensors } = session.snapshot();
    for (const name of Object.keys(end.tensors)) need(same(tensors[name], end.tensors[name]), "a restored state differs");
  }
  session.reset();
  await session.prefill(tokens.slice(0, half).reverse());
  session.restore(middle);
  need(same(await takeSteps(session, tokens.slice(half)), rest), "a state at the same position is not restored");
  session.restore(zero);
  need(session.position === 0, "a state at position 0 is not restored");
  need(same(await session.prefill(tokens.slice(0, half)), before), "after a state at position 0 other logits come out");
}

async function checkRefusals(session) {
  session.reset();
  await session.prefill(tokens.slice(0, 2));
  const before = session.snapshot(),
    { vocabulary, capacity } = session;
  const refused = [
    [() => session.step(-1), "input"],
    [() => session.step(vocabulary), "input"],
    [() => session.step(1.5), "input"],
    [() => session.prefill([]), "input"],
    [() => session.prefill([0, 1, vocabulary]), "input"],
    [() => session.restore({ ...before, owner: "another", checkpoint: "another" }), "state"],
    [() => session.restore({ ...before, position: 1 }), session.manifest.state.tensors[0].growth === "token" ? "state" : "nothing"],
    [() => session.restore({ ...before, tensors: {} }), "state"],
  ];
  if (capacity !== null) refused.push([() => session.prefill(Array(capacity - 1).fill(0)), "capacity"]);
  for (const [call, kind] of refused) {
    const given = await kindOf(call);
    need(given === kind, `a call that has to give an error "${kind}" gives "${given}"`);
    if (kind === "nothing") session.restore(before);
    need(session.position === 2 && same(session.lastLogits, before.logits), "a refused call changes the state");
  }
  const running = session.prefill(tokens.slice(2, 4));
  need((await kindOf(() => session.step(0))) === "input", "two calls at a time are not refused");
  await running;
  const aborted = new AbortController();
  aborted.abort();
  const { position } = session;
  for await (const step of session.generate(tokens.slice(4, 5), { maxNewTokens: 2, signal: aborted.signal })) void step;
  need(session.position === position, "generation that is aborted takes tokens");
}

/** Draws from known logits have to come as often as their probabilities say. */
function checkSampling() {
  const logits = Float32Array.of(0.5, 2, -1, 1.5, 2, -3, 0),
    draws = 4000;
  need(chooseToken(logits, { temperature: 0, topK: 0, topP: 1, seed: 0 }, 3) === 1, "greedy is not the most likely token");
  for (const [temperature, topK, topP] of [[1, 0, 1], [0.7, 3, 1], [1.5, 0, 0.8]]) {
    const ids = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b).slice(0, topK || undefined);
    const weights = ids.map((id) => Math.exp(logits[id] / temperature)),
      whole = weights.reduce((sum, value) => sum + value, 0);
    let mass = 0,
      count = 0;
    while (count < ids.length && (count === 0 || mass < topP * whole)) mass += weights[count++];
    const counts = Array(logits.length).fill(0);
    for (let draw = 0; draw < draws; draw++)
      counts[chooseToken(logits, { temperature, topK, topP, seed: draw % 50 }, Math.floor(draw / 50))] += 1;
    for (const id of logits.keys()) {
      const place = ids.indexOf(id),
        share = place >= 0 && place < count ? weights[place] / mass : 0;
      const spread = 5 * Math.sqrt((share * (1 - share)) / draws);
      need(Math.abs(counts[id] / draws - share) <= spread, `token ${id} is drawn in ${counts[id]} of ${draws} cases`);
    }
  }
}

async function generated(session, prompt, options) {
  const steps = [];
  for await (const step of session.generate(prompt, options)) steps.push(step);
  return steps;
}

async function checkGeneration(session) {
  const prompt = tokens.slice(0, 3),
    limit = Math.min(8, (session.capacity ?? 64) - 3);
  if (limit < 2) return;
  session.reset();
  const steps = await generated(session, prompt, { maxNewTokens: limit, stopIds: [] });
  need(steps.length === limit && steps[limit - 1].finished, "generation ends at another place than it was told to");
  need(session.position === prompt.length + limit, "generation takes other tokens than it yields");
  session.reset();
  let row = Array.from(await session.prefill(prompt)).slice(-session.vocabulary);
  for (const { token } of steps) {
    need(token === bestOf(row), "greedy generation yields another token than the most likely one");
    row = Array.from(await session.step(token));
  }
  session.reset();
  const stopped = await generated(session, prompt, { maxNewTokens: limit, stopIds: [steps[1].token] }),
    first = steps.findIndex(({ token }) => token === steps[1].token);
  need(stopped.length === first + 1, "generation does not end at a stop token");
  const options = { maxNewTokens: limit, stopIds: [], temperature: 1, seed: 7 };
  session.reset();
  const drawn = await generated(session, prompt, options);
  session.reset();
  await session.prefill(prompt);
  const begun = await generated(session, null, { ...options, maxNewTokens: 1 }),
    snapshot = session.snapshot();
  session.reset();
  session.restore(snapshot);
  const resumed = [...begun, ...(await generated(session, null, { ...options, maxNewTokens: limit - 1 }))];
  need(same(drawn.map(({ token }) => token), resumed.map(({ token }) => token)), "a resumed run draws other tokens");
}

function checkAlphabet(session) {
  const { text, ids, decoded } = expected;
  need((session.alphabet === null) === (text === null), "there is an alphabet where there should be none, or none");
  if (text === null) return;
  need(session.alphabet instanceof Alphabet, "the session's alphabet is none");
  need(same(session.alphabet.prompt(text), ids), "a text has other token ids");
  need(session.alphabet.decode(ids) === decoded, "token ids have another text");
  const stream = session.alphabet.textStream();
  need(ids.map((id) => stream.take(id)).join("") + stream.end() === decoded, "token by token the text is another one");
}

let fault = null;
try {
  const session = await load(folder);
  await checkCalls(session);
  await checkRefusals(session);
  checkSampling();
  await checkGeneration(session);
  checkAlphabet(session);
} catch (error) {
  fault = error.message;
}
process.stdout.write(JSON.stringify({ checks, fault }));
