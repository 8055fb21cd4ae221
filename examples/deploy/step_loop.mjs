// A prompt in, its continuation out, in a browser or in Node, over a web bundle. In Node:
//
//     node step_loop.mjs BUNDLE PROMPT [PAUSE]
//
// On a page import `open`, `begin` and `generate` from here; docs/deploy/browsers.md has one.

/** A session of the bundle in a folder; its own module comes from there. On a page `folder` is relative to the page. */
export async function open(folder) {
  const base = new URL(folder.endsWith("/") ? folder : `${folder}/`, globalThis.document?.baseURI ?? import.meta.url);
  const { load } = await import(new URL("causalrn.js", base));
  return load(base);
}

/** A fresh state takes the prompt with its markers (BOS a b c SEP). An error, such as "capacity", takes nothing. */
export async function begin(session, prompt) {
  if (!session.alphabet) throw new Error("this model has no alphabet: give `prefill` token ids");
  session.reset();
  await session.prefill(session.alphabet.prompt(prompt));
}

/** The most likely token, again and again: to a stop token, to the capacity, or `most` tokens. */
export async function* generate(session, most = session.capacity === null ? 256 : Infinity) {
  const stops = session.alphabet?.stopIds ?? [];
  for (let made = 0; made < most && session.lastLogits; made++) {
    const token = indexOfLargest(session.lastLogits);
    if (session.position < (session.capacity ?? Infinity)) await session.step(token); // an error takes nothing
    else session.end(); // no room for it: nothing goes on from here
    yield token; // the state has taken it: a snapshot may be taken here
    if (stops.includes(token)) return;
  }
}

function indexOfLargest(logits) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i; // ties: the lowest
  return best;
}

/** Token ids and text. After `pause` tokens the state is handed to another session, as to a worker. */
export async function run(folder, prompt, pause = 0) {
  const session = await open(folder);
  await begin(session, prompt);
  const tokens = [];
  for await (const token of generate(session, pause)) tokens.push(token);
  if (session.lastLogits && !session.alphabet.stopIds.includes(tokens.at(-1))) {
    const successor = await open(folder);
    successor.restore(structuredClone(session.snapshot())); // what postMessage and IndexedDB do to it
    for await (const token of generate(successor)) tokens.push(token);
  }
  return { tokens, text: session.alphabet.decode(tokens) };
}

async function main([script, folder, prompt, pause]) {
  const { pathToFileURL } = await import("node:url");
  if (pathToFileURL(script).href !== import.meta.url) return; // imported by another script
  try {
    const { tokens, text } = await run(pathToFileURL(folder ?? "").href, prompt ?? "", Number(pause ?? 0));
    console.log(`${tokens.join(" ")}\n${text}`);
  } catch (error) {
    console.error(`step_loop: ${error.message}`);
    process.exitCode = 2;
  }
}

if (globalThis.process?.argv?.[1]) await main(process.argv.slice(1));
