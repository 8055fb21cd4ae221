/** Every name that causalrn.d.ts exports, used as documents and examples use it. Compiled by test_types.py, not run. */

import {
  Alphabet,
  CausalRNError,
  load,
  Session,
  type GenerateOptions,
  type GeneratedToken,
  type LoadOptions,
  type Manifest,
  type Snapshot,
  type TextStream,
} from "causalrn-web-bundle";

const options: LoadOptions = { simd: false, onProgress: (loaded, total) => console.log(loaded / total) };

/** What a copying model was trained on. */
function describe({ model, state, task, alphabet, folders, manifest_sha256, version }: Manifest): string {
  const rows = state.tensors.filter(({ growth }) => growth === "token").map(({ name, dtype }) => `${name}: ${dtype}`);
  const length: unknown = task?.["length"];
  const sizes = [model.vocabulary, model.embedding, model.hidden, model.blocks, model.heads, version];
  return [model.readout, ...sizes, ...rows, length, alphabet ?? "ids", folders?.["beside"], manifest_sha256].join(" ");
}

function spell(alphabet: Alphabet, ids: readonly number[]): string {
  const stream: TextStream = alphabet.textStream([]);
  const text = ids.map((id) => stream.take(id)).join("") + stream.end();
  const again: number[] = [...alphabet.encode(text), ...alphabet.prompt(text), ...alphabet.stopIds, ...stream.tail];
  return alphabet.decode(again) + alphabet.symbol(0) + alphabet.name;
}

async function run(session: Session, signal: AbortSignal): Promise<string> {
  const logits: Float32Array = await session.prefill(new Int32Array([0, 3, 1]), { signal });
  const before: Snapshot = structuredClone(session.snapshot());
  await session.step(3);
  session.restore(before);
  const file: Uint8Array = session.saveState();
  session.loadState(file.slice().buffer);
  const wanted: GenerateOptions = { maxNewTokens: null, temperature: 1, topK: 0, topP: 1, seed: 1, stop: null, signal };
  let text = "";
  for await (const one of session.generate("abc", wanted)) {
    const { token, text: part, finished }: GeneratedToken = one;
    text += finished ? `${part}${token}` : part;
  }
  session.watch();
  const shares: Float32Array = session.shares(0, 1);
  const streams: Float32Array[] = session.streams();
  session.keepTextTail(session.textTail);
  session.end();
  session.reset();
  const { position, capacity, lastLogits, stateBytes, canWatch, engine, folder, vocabulary, blocks } = session;
  const sizes = [logits.length, position, capacity ?? Infinity, lastLogits?.length, stateBytes, vocabulary, blocks];
  return [text, ...sizes, canWatch, engine, folder.href, shares.length, streams.length, before.owner].join(" ");
}

try {
  const session = await load(new URL("./model/", import.meta.url), options);
  console.log(describe(session.manifest), await run(session, new AbortController().signal));
  if (session.alphabet !== null) console.log(spell(session.alphabet, [3, 4]));
  console.log(new Alphabet("bytes").name, session instanceof Session);
} catch (error) {
  if (!(error instanceof CausalRNError)) throw error;
  const kind: "input" | "capacity" | "state" | "bundle" | "unavailable" | "nonfinite" = error.kind;
  throw new CausalRNError(kind, error.message);
}
