// Run by test_module.py: node --test, with folders of bundles in the environment.

import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const { EXACT, LINEAR, UNBOUNDED } = process.env;
const { Alphabet, CausalRNError, load } = await import(pathToFileURL(join(EXACT, "causalrn.js")));
const { verify } = await import(pathToFileURL(join(EXACT, "parity.js")));
const { chooseToken } = await import(pathToFileURL(join(EXACT, "sampling.js")));

const TOKENS = Array.from({ length: 20 }, (_, index) => (7 * index + 3) % 29);
const ofKind = (kind, words) => (error) => {
  assert.ok(error instanceof CausalRNError, error.stack);
  assert.equal(error.kind, kind, error.message);
  assert.match(error.message, words);
  return true;
};
const tokensOf = async (generated) => {
  const tokens = [];
  for await (const { token } of generated) tokens.push(token);
  return tokens;
};
/** A copy of a bundle's folder, gone after the test. */
const copyOf = async (folder, t) => {
  const copy = await mkdtemp(join(tmpdir(), "bundle-"));
  t.after(() => rm(copy, { recursive: true }));
  await cp(folder, copy, { recursive: true });
  return copy;
};
const changeManifest = async (folder, change) => {
  const path = join(folder, "manifest.json"),
    manifest = JSON.parse(await readFile(path));
  change(manifest);
  await writeFile(path, JSON.stringify(manifest));
};

test("a folder is found by path and by URL", async () => {
  for (const place of [EXACT, `${EXACT}/`, pathToFileURL(EXACT), pathToFileURL(`${EXACT}/`).href])
    assert.equal((await load(place)).vocabulary, 29);
});

test("steps, prefill and any split give the same bits, with and without SIMD", async () => {
  const session = await load(EXACT),
    plain = await load(EXACT, { simd: false });
  assert.deepEqual([session.engine, plain.engine], ["WebAssembly SIMD", "WebAssembly without SIMD"]);
  const whole = await session.prefill(TOKENS);
  assert.equal(whole.length, 20 * 29);
  session.reset();
  const parts = [await session.prefill(TOKENS.slice(0, 7))];
  for (const token of TOKENS.slice(7)) parts.push(await session.step(token));
  assert.deepEqual(
    parts.flatMap((part) => [...part]),
    [...whole],
  );
  assert.deepEqual(await plain.prefill(TOKENS), whole);
  assert.deepEqual(session.lastLogits, whole.slice(-29));
});

test("more tokens than one call takes are all taken, or none", async () => {
  const session = await load(UNBOUNDED),
    many = Array.from({ length: 700 }, (_, index) => (index * 11) % 29);
  const whole = await session.prefill(many);
  assert.equal(session.position, 700);
  session.reset();
  const last = [];
  for (const token of many) last.push(...(await session.step(token)));
  assert.deepEqual(last, [...whole]);
});

for (const folder of [EXACT, LINEAR])
  test(`a restored snapshot goes on bit for bit: ${folder.split("/").pop()}`, async () => {
    const session = await load(folder),
      other = await load(folder);
    await session.prefill(TOKENS);
    const snapshot = structuredClone(session.snapshot());
    const expected = [await session.step(4), await session.step(9)];
    for (const resumed of [session, other]) {
      resumed.restore(snapshot);
      assert.equal(resumed.position, 20);
      assert.deepEqual(resumed.lastLogits, snapshot.logits);
      assert.deepEqual([await resumed.step(4), await resumed.step(9)], expected);
    }
  });

test("a snapshot that does not fit is refused, and the state stays", async () => {
  const session = await load(EXACT),
    other = await load(LINEAR);
  await session.prefill(TOKENS);
  const before = session.snapshot(),
    name = Object.keys(before.tensors)[0];
  const wrong = [
    [await other.snapshot(), /another bundle/],
    [{ ...before, position: 41 }, /holds 41 positions/],
    [{ ...before, position: 19 }, /is not 608 numbers/],
    [{ ...before, tensors: { ...before.tensors, [name]: undefined } }, new RegExp(name)],
    [{ ...before, logits: new Float32Array(3) }, /logits/],
  ];
  for (const [snapshot, words] of wrong) assert.throws(() => session.restore(snapshot), ofKind("state", words));
  assert.deepEqual(session.snapshot(), before);
});

test("what is no token, or has no room, is refused and takes nothing", async () => {
  const session = await load(EXACT);
  for (const wrong of [29, -1, 1.5, "3", null, undefined, NaN])
    await assert.rejects(session.step(wrong), ofKind("input", /outside the vocabulary of 29/));
  await assert.rejects(session.prefill([]), ofKind("input", /no tokens/));
  await assert.rejects(session.prefill(Array(41).fill(3)), ofKind("capacity", /capacity of 40/));
  assert.equal(session.position, 0);
  assert.equal(session.lastLogits, null);
  await session.prefill(Array(40).fill(3));
  await assert.rejects(session.step(3), ofKind("capacity", /1 more positions after 40/));
});

test("two calls at a time are refused", async () => {
  const session = await load(EXACT);
  const first = session.prefill(TOKENS);
  assert.throws(() => session.reset(), ofKind("input", /still running/));
  await assert.rejects(session.step(3), ofKind("input", /still running/));
  await first;
  assert.equal(session.position, 20);
});

test("generation is greedy, resumable, and stops where it should", async () => {
  const session = await load(EXACT);
  const whole = await tokensOf(session.generate([0, 5, 6, 1], { maxNewTokens: 12, stopIds: [] }));
  assert.equal(whole.length, 12);
  assert.equal(session.position, 16);
  session.reset();
  const first = await tokensOf(session.generate([0, 5, 6, 1], { maxNewTokens: 5, stopIds: [] }));
  const rest = await tokensOf(session.generate(null, { maxNewTokens: 7, stopIds: [] }));
  assert.deepEqual([...first, ...rest], whole);
  session.reset();
  const stopped = await tokensOf(session.generate([0, 5, 6, 1], { stopIds: [whole[2]] }));
  assert.deepEqual(stopped, whole.slice(0, whole.indexOf(whole[2]) + 1));
  session.reset();
  const all = await tokensOf(session.generate([0, 5, 6, 1], { stopIds: [] }));
  assert.equal(all.length, 37); // the last one finds no position
  await assert.rejects(session.generate(null).next(), ofKind("input", /nothing to go on from/));
});

test("generation ends when it is told to", async () => {
  const session = await load(UNBOUNDED),
    controller = new AbortController();
  let count = 0;
  for await (const { finished } of session.generate([3, 4], { maxNewTokens: 1e6, signal: controller.signal })) {
    count += 1;
    assert.equal(finished, false);
    if (count === 5) controller.abort();
  }
  assert.deepEqual([count, session.position], [5, 7]);
});

test("options and prompts that cannot be are refused", async () => {
  const session = await load(EXACT),
    unbounded = await load(UNBOUNDED);
  const wrong = { maxNewTokens: 0, temperature: -1, topK: 0.5, topP: 0, seed: -1, stop: "" };
  for (const [name, value] of Object.entries(wrong))
    await assert.rejects(session.generate([3], { [name]: value }).next(), ofKind("input", new RegExp(`^${name} is`)));
  await assert.rejects(session.generate([99]).next(), ofKind("input", /token id 99/));
  await assert.rejects(unbounded.generate([3]).next(), ofKind("input", /maxNewTokens/));
  await assert.rejects(unbounded.generate("abc", { maxNewTokens: 2 }).next(), ofKind("input", /no alphabet/));
});

test("draws depend on seed and position, and follow the probabilities", () => {
  const logits = Float32Array.of(1, 3, 2, -1),
    options = { temperature: 1, topK: 0, topP: 1, seed: 5 };
  const draw = (changed, position) => chooseToken(logits, { ...options, ...changed }, position);
  const counts = [0, 0, 0, 0];
  for (let position = 0; position < 4000; position++) {
    counts[draw({}, position)] += 1;
    assert.equal(draw({}, position), draw({}, position));
    assert.equal(draw({ temperature: 0 }, position), 1);
    assert.equal(draw({ topK: 1 }, position), 1);
    assert.equal(draw({ topP: 0.1 }, position), 1);
    assert.ok([1, 2].includes(draw({ topK: 2 }, position)));
  }
  const whole = [1, 3, 2, -1].reduce((sum, value) => sum + Math.exp(value), 0);
  counts.forEach((count, id) => assert.ok(Math.abs(count / 4000 - Math.exp(logits[id]) / whole) < 0.03, `${counts}`));
  assert.equal(chooseToken(Float32Array.of(2, 2, 1), { ...options, temperature: 0 }, 0), 0);
});

test("alphabets", () => {
  const letters = new Alphabet("letters"),
    bytes = new Alphabet("bytes");
  assert.deepEqual(letters.prompt("abc"), [0, 3, 4, 5, 1]);
  assert.deepEqual(letters.prompt("abcdef cd"), [0, 3, 4, 5, 6, 7, 8, 1, 5, 6]);
  assert.equal(letters.decode([3, 4, 5, 2]), "abc");
  assert.deepEqual(
    [0, 1, 2, 28].map((id) => letters.symbol(id)),
    ["BOS", "SEP", "EOS", "z"],
  );
  for (const [text, words] of [
    ["aBc", /'B' at place 2/],
    ["a😀", /'😀' at place 2/],
    ["", /empty/],
    [" a", /a blank/],
    ["a b c", /one/],
  ])
    assert.throws(() => letters.prompt(text), ofKind("input", words));
  assert.deepEqual(bytes.prompt("aé"), [97, 195, 169]);
  assert.equal(bytes.decode([97, 195, 169]), "aé");
  assert.deepEqual([bytes.symbol(97), bytes.symbol(10)], ["a", "0x0a"]);
});

test("shares add up to one, and are there for what was watched only", async () => {
  for (const folder of [EXACT, LINEAR]) {
    const session = await load(folder);
    const plain = await session.prefill(TOKENS);
    session.reset();
    session.watch();
    assert.deepEqual(await session.prefill(TOKENS), plain, "watching changes nothing");
    for (let position = 0; position < 20; position++) {
      const shares = session.shares(1, position);
      assert.equal(shares.length, position + 1);
      assert.ok(Math.abs(shares.reduce((sum, share) => sum + share, 0) - 1) < 1e-4);
    }
    assert.throws(() => session.shares(0, 20), ofKind("state", /not watched/));
    session.restore(session.snapshot());
    assert.throws(() => session.shares(0, 3), ofKind("state", /not watched/));
    session.watch(false);
    assert.throws(() => session.shares(0, 3), ofKind("state", /not watched/));
  }
});

test("golden vectors hold, and their rows come as they are found", async () => {
  for (const folder of [EXACT, LINEAR]) {
    const rows = [],
      session = await load(folder);
    const report = await verify(session, { onRow: (row) => rows.push(row) });
    assert.deepEqual(report.rows, rows);
    assert.ok(report.passed, JSON.stringify(rows.filter((row) => !row.passed)));
    assert.equal(rows.length, 8);
    assert.equal(session.position, 0);
  }
});

test("verifying stops when it is told to", async () => {
  const controller = new AbortController();
  const running = verify(await load(EXACT), { onRow: () => controller.abort(), signal: controller.signal });
  await assert.rejects(running, { name: "AbortError" });
});

test("wrong golden vectors and wrong weights fail", async (t) => {
  const golden = await copyOf(EXACT, t),
    path = join(golden, "golden.safetensors"),
    bytes = await readFile(path);
  const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))));
  const [start] = header["oracle.logits"].data_offsets,
    place = 8 + Number(bytes.readBigUInt64LE(0)) + start + 8 * 29 * 5;
  bytes.writeDoubleLE(bytes.readDoubleLE(place) + 1e-3, place);
  await writeFile(path, bytes);
  const report = await verify(await load(golden));
  assert.deepEqual(
    report.rows.filter((row) => !row.passed).map((row) => row.check),
    ["logits", "logits"],
  );

  bytes.writeDoubleLE(NaN, place);
  await writeFile(path, bytes);
  assert.equal((await verify(await load(golden))).passed, false);

  await writeFile(path, bytes.subarray(0, bytes.length - 100));
  await assert.rejects(verify(await load(golden)), ofKind("bundle", /golden.safetensors: [\d,]+ bytes instead of/));
});

test("damaged bundles say what is wrong and what to do", async (t) => {
  const cases = [
    [
      (folder) => truncate(join(folder, "weights.bin"), 1000),
      /weights.bin: 1,000 bytes instead of [\d,]+: copy it again/,
    ],
    [(folder) => rm(join(folder, "weights.bin")), /weights.bin cannot be read \(ENOENT\)/],
    [(folder) => rm(join(folder, "manifest.json")), /manifest.json cannot be read/],
    [(folder) => writeFile(join(folder, "manifest.json"), "{"), /not valid JSON/],
    [(folder) => writeFile(join(folder, "manifest.json"), "{}"), /not a causalrn bundle/],
    [
      (folder) => changeManifest(folder, (manifest) => (manifest.version = 2)),
      /version 2, this page reads 1: export again/,
    ],
    [(folder) => changeManifest(folder, (manifest) => (manifest.target = "onnx")), /for onnx, not for the web/],
    [
      (folder) => changeManifest(folder, (manifest) => delete manifest.files["weights.bin"]),
      /lists no file weights.bin/,
    ],
    [(folder) => changeManifest(folder, (manifest) => (manifest.model.hidden = 64)), /of another model/],
  ];
  for (const [damage, words] of cases) {
    const folder = await copyOf(EXACT, t);
    await damage(folder);
    await assert.rejects(load(folder), ofKind("bundle", words));
  }
  for (const name of ["weights.bin", "engine_simd.wasm"]) {
    const folder = await copyOf(EXACT, t),
      content = await readFile(join(folder, name));
    content[name === "weights.bin" ? 5000 : 0] ^= 1;
    await writeFile(join(folder, name), content);
    await assert.rejects(load(folder), ofKind("bundle", /damaged|no module that runs here/));
  }
});

test("without WebAssembly or SIMD", async (t) => {
  const { WebAssembly } = globalThis;
  t.after(() => (globalThis.WebAssembly = WebAssembly));
  globalThis.WebAssembly = { ...{ instantiate: WebAssembly.instantiate }, validate: () => false };
  const session = await load(EXACT);
  assert.equal(session.engine, "WebAssembly without SIMD");
  assert.ok((await verify(session)).passed);
  delete globalThis.WebAssembly;
  await assert.rejects(load(EXACT), ofKind("unavailable", /no WebAssembly/));
});

test("progress goes up to the end", async () => {
  const seen = [];
  await load(EXACT, { onProgress: (loaded, total) => seen.push([loaded, total]) });
  const [loaded, total] = seen.at(-1);
  assert.equal(loaded, total);
  assert.ok(seen.every(([part]) => part <= total));
});
