/** What the types refuse. Compiled by test_types.py: each line that ends with "wrong" has to give an error, no other one. */

import { Alphabet, CausalRNError, load, Session, type Manifest, type Snapshot } from "causalrn-web-bundle";

declare const manifest: Manifest;
declare const snapshot: Snapshot;

const session = await load("./");
await load(); // wrong
await load("./", { SIMD: false }); // wrong
await session.step("a"); // wrong
await session.prefill("abc"); // wrong
const logits: Float64Array = await session.step(0); // wrong
const waited: Float32Array = session.step(0); // wrong
session.position = 0; // wrong
session.alphabet.encode("abc"); // wrong
const capacity: number = session.capacity; // wrong
session.restore(session.saveState()); // wrong
session.loadState("state"); // wrong
session.generate("abc", { maxTokens: 3 }); // wrong
for (const token of session.generate("abc")) console.log(token); // wrong
session.shares(0); // wrong
snapshot.tensors = {}; // wrong
manifest.model.vocabulary = 30; // wrong
new Alphabet("words"); // wrong
new Session(); // wrong
new CausalRNError("a sentence"); // wrong
if (new CausalRNError("input", "a sentence").kind === "network") console.log(logits, waited, capacity); // wrong
