// Run by test_module.py: node --test, with folders of bundles in the environment.

import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { execFileSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const { EXACT, LINEAR, UNBOUNDED, SPIKES, RECITING } = process.env;
const { Alphabet, CausalRNError, load } = await import(pathToFileURL(join(EXACT, "causalrn.js")));
const { verify } = await import(pathToFileURL(join(EXACT, "parity.js")));
const { WasmMemory } = await import(pathToFileURL(join(EXACT, "wasm_memory.js")));
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
    [await other.snapshot(), /another bundle, of the checkpoint/],
    [{ ...before, owner: "" , checkpoint: undefined }, /another bundle, and does not say of which checkpoint/],
    [{ ...before, owner: "x", arithmetic: "w8" }, /the arithmetic 'w8', and this session computes in 'float32'/],
    [{ ...before, owner: "x", model: before.model.replace('"exp"', '"elu"') }, /activation is elu, here exp/],
    [{ ...before, owner: "x", model: "{" }, /not valid JSON/],
    [{ ...before, tensors: { ...before.tensors, "99.pool": new Float32Array(1) } }, /the state holds 99.pool/],
    [{ ...before, tensors: { ...before.tensors, [name]: before.tensors[name].map(() => NaN) } }, /NaN or infinity/],
    [{ ...before, position: 41 }, /holds 41 positions/],
    [{ ...before, position: 19 }, /is not 608 numbers/],
    [{ ...before, tensors: { ...before.tensors, [name]: undefined } }, new RegExp(name)],
    [{ ...before, logits: new Float32Array(3) }, /logits/],
  ];
  for (const [snapshot, words] of wrong) assert.throws(() => session.restore(snapshot), ofKind("state", words));
  assert.deepEqual(session.snapshot(), before);
});

for (const folder of [EXACT, LINEAR, UNBOUNDED])
  test(`a state file goes on bit for bit: ${folder.split("/").pop()}`, async () => {
    const [session, other] = [await load(folder), await load(folder)];
    other.loadState(session.saveState()); // at position 0
    assert.deepEqual(other.snapshot(), session.snapshot());
    await session.prefill(TOKENS);
    const file = session.saveState(),
      taken = session.snapshot();
    const expected = [await session.step(4), await session.step(9)];
    for (const content of [file, file.buffer, new Uint8Array([0, ...file]).subarray(1), Buffer.from(file)]) {
      other.loadState(content);
      assert.deepEqual(other.snapshot(), taken);
      assert.deepEqual([await other.step(4), await other.step(9)], expected);
    }
  });

test("a state file keeps a begun character", async () => {
  const session = await load(RECITING);
  await tokensOf(session.generate([1], { maxNewTokens: 5 }));
  assert.notDeepEqual(session.textTail, []);
  const { textTail } = session,
    file = session.saveState();
  session.reset();
  session.loadState(file);
  assert.deepEqual(session.textTail, textTail);
});

test("what is no state file, or of another session, is one sentence, and the state stays", async () => {
  const [session, other, linear] = [await load(EXACT), await load(EXACT), await load(LINEAR)];
  await session.prefill(TOKENS);
  await linear.prefill(TOKENS);
  await other.step(3);
  const before = other.snapshot(),
    file = session.saveState(),
    text = new TextDecoder("latin1").decode(file);
  const changed = (old, next) => Uint8Array.from(text.replace(old, next.padEnd(old.length)), (c) => c.charCodeAt(0));
  const fileOf = (header) => Uint8Array.from([header.length, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode(header)]);
  const wrong = [
    [linear.saveState(), /another bundle, of the checkpoint/],
    [file.subarray(0, file.length - 1), /corrupt state file/],
    [file.subarray(0, 100), /corrupt state file/],
    [new Uint8Array(0), /corrupt state file/],
    ["state", /no bytes/],
    [undefined, /no bytes/],
    [changed('"version":"1"', '"version":"2"'), /not a state file of this version/],
    [changed('"batch":"1"', '"batch":"2"'), /2 sequences, this session takes 1 at most/],
    [changed('"position":"20"', '"position":"-9"'), /corrupt state file/],
    [changed('"position":"20"', '"position":"19"'), /is \[20,1,32\], expected \[19,1,32\]/],
    [changed('"state.00.pool"', '"state.09.pool"'), /the state holds 09.pool/],
    [changed('"F32"', '"F64"'), /corrupt state file|is not/],
    [fileOf("{}"), /not a state file of this version/],
    [fileOf('{"__metadata__":null}'), /not a state file of this version/],
    [fileOf('{"__metadata__":{},"a":null}'), /corrupt state file/],
    [fileOf('{"__metadata__":{"format":"causalrn-state","version":"1","batch":"1","position":1,"text_tails":0}}'), /corrupt/],
  ];
  for (const [content, words] of wrong) assert.throws(() => other.loadState(content), ofKind("state", words));
  assert.deepEqual(other.snapshot(), before);
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

test("golden vectors that differ fail where they differ", async (t) => {
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
  await assert.rejects(verify(await load(golden)), ofKind("bundle", /oracle.logits with values that cannot be/));

  await writeFile(path, bytes.subarray(0, bytes.length - 100));
  await assert.rejects(verify(await load(golden)), ofKind("bundle", /golden.safetensors: [\d,]+ bytes instead of/));
});

test("damaged bundles are refused with what is wrong and what to do", async (t) => {
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

/** A session that does something else in some of its methods. */
const altered = (session, methods) =>
  new Proxy(session, {
    get(target, name) {
      if (Object.hasOwn(methods, name)) return (...words) => methods[name](target, ...words);
      const value = target[name];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
const nudge = (values, by = 1e-7) => values.map((value, index) => (index === 0 ? value + by : value));
const failing = async (session) =>
  (await verify(session)).rows.filter((row) => !row.passed).map((row) => `${row.check}, ${row.comparison}`);

test("every check fails where what it checks is wrong", async () => {
  const cases = [
    [
      {
        prefill: async (session, tokens) =>
          tokens.length > 20 ? nudge(await session.prefill(tokens)) : session.prefill(tokens),
      },
      ["prefill, equal to steps"],
    ],
    [
      { prefill: async (session, tokens) => nudge(await session.prefill(tokens), tokens.length > 20 ? 1e-2 : 0) },
      ["logits, by prefill", "prefill, equal to steps"],
    ],
    [
      {
        snapshot(session) {
          const { tensors, ...rest } = session.snapshot(),
            [name] = Object.keys(tensors);
          return { ...rest, tensors: { ...tensors, [name]: nudge(tensors[name], 1e-2) } };
        },
      },
      ["state, step by step", "snapshot, restored, equal to uninterrupted"],
    ],
    [
      {
        restore: (session, { tensors, ...rest }) =>
          session.restore({ ...rest, tensors: { ...tensors, "00.pool": nudge(tensors["00.pool"], 1e-2) } }),
      },
      ["recorded, resumed from the recorded state", "snapshot, restored, equal to uninterrupted"],
    ],
    [
      {
        prefill: async (session, tokens) => nudge(await session.prefill(tokens)),
        step: async (session, token) => nudge(await session.step(token)),
      },
      [
        "prefill, equal to steps",
        "recorded, as when it was exported",
        "recorded, resumed from the recorded state",
        "without SIMD, equal to with",
      ],
    ],
  ];
  for (const [methods, expected] of cases)
    assert.deepEqual(await failing(altered(await load(EXACT), methods)), expected);
});

test("a quantized model is judged by its distributions", async () => {
  const session = await load(EXACT);
  const judge = async (limits, methods = {}) => {
    session.manifest.web.limits = { kl_divergence: 0.01, argmax_changes: 0.02, tie_probability: 0.05, ...limits };
    return new Set((await failing(altered(session, methods))).map((words) => words.split(",")[0]));
  };
  assert.deepEqual(await judge({}), new Set());
  assert.deepEqual(await judge({ kl_divergence: 1e-30 }), new Set(["distribution"]));
  const fit = { scale: 0.01, offset: 0.01 };
  const times = (change) => ({ prefill: async (target, tokens) => (await target.prefill(tokens)).map(change) });
  assert.deepEqual(await judge(fit), new Set());
  assert.ok((await judge(fit, times((value) => 1.03 * value))).has("scale"));
  const close = await judge(fit, times((value) => 1.001 * value)); // bits are compared, too
  assert.ok(!close.has("scale") && !close.has("offset"), [...close].join());
  assert.ok((await judge(fit, times((value) => value + 0.5))).has("offset"));
  const opposite = { prefill: async (target, tokens) => (await target.prefill(tokens)).map((value) => -value) };
  assert.ok((await judge({ kl_divergence: 1e9 }, opposite)).has("most likely token"));
  const nothing = { prefill: async (target, tokens) => (await target.prefill(tokens)).fill(NaN) };
  const found = await judge({}, nothing);
  assert.ok(found.has("distribution") && found.has("most likely token") && found.has("prefill"), [...found].join());
  const nan = await judge(fit, nothing);
  assert.ok(nan.has("scale") && nan.has("offset"), [...nan].join());
});

test("golden vectors with something missing or impossible are refused", async (t) => {
  const changes = [
    ["bound.state.", "found.state.", /bound.state.00.pool is not 1 numbers/],
    ["oracle.state.", "0racle.state.", /oracle.state/],
    ["recorded.logits", "recorded.logitz", /recorded.logits is not/],
    ['"bound.logits"', '"bound.logitz"', /bound.logits is not 40 numbers/],
    ['"tokens"', '"tokenz"', /no tokens/],
    ["oracle.positions", "oracle.positionz", /positions/],
  ];
  for (const [from, to, words] of changes) {
    const folder = await copyOf(EXACT, t),
      path = join(folder, "golden.safetensors");
    await writeFile(path, Buffer.from((await readFile(path)).toString("latin1").replaceAll(from, to), "latin1"));
    await assert.rejects(verify(await load(folder)), ofKind("bundle", words));
  }
});

test("an error takes nothing, watched or not, and however many tokens there are", async () => {
  const session = await load(SPIKES),
    fine = TOKENS.map((token) => token % 28);
  await session.prefill(fine);
  const expected = await session.step(4);
  for (const watching of [false, true])
    for (const length of [1, 30, 50, 100]) {
      session.reset();
      session.watch(watching);
      await session.prefill(fine);
      const many = Array.from({ length }, (_, index) => (index === length - 1 ? 28 : 3));
      await assert.rejects(session.prefill(many), ofKind("nonfinite", /NaN or infinity/));
      assert.equal(session.position, 20);
      assert.deepEqual(await session.step(4), expected);
    }
});

test("a signal ends a long prompt, and the caller's array may change meanwhile", async () => {
  const session = await load(UNBOUNDED),
    many = Array(3000).fill(5);
  const aborted = AbortSignal.abort();
  assert.deepEqual(await tokensOf(session.generate(many, { maxNewTokens: 2, signal: aborted })), []);
  assert.equal(session.position, 0);
  const controller = new AbortController();
  setTimeout(() => controller.abort());
  assert.deepEqual(await tokensOf(session.generate(many, { maxNewTokens: 2, signal: controller.signal })), []);
  assert.equal(session.position, 0);
  const taking = session.prefill(many);
  many.length = 10;
  await taking;
  assert.equal(session.position, 3000);
});

test("options that are undefined are left to their defaults, others have to be of their type", async () => {
  const session = await load(EXACT),
    options = { maxNewTokens: 20, stopIds: [] };
  const whole = await tokensOf(session.generate([0, 5, 6, 1], options));
  session.reset();
  const same = await tokensOf(session.generate([0, 5, 6, 1], { ...options, stop: undefined, temperature: undefined }));
  assert.deepEqual(same, whole);
  for (const [name, value] of Object.entries({ stop: 5, stopIds: 5, signal: 5, topP: "0.5" }))
    await assert.rejects(session.generate([3], { [name]: value }).next(), ofKind("input", new RegExp(`^${name} is`)));
});

test("a stop text is spelled by the last tokens, markers included", async () => {
  const session = await load(EXACT),
    options = { maxNewTokens: 30, stopIds: [] };
  const whole = await tokensOf(session.generate("ab", options));
  const place = whole.findIndex(
    (token, index) => index > 0 && [token, whole[index - 1]].every((id) => id === 1 || id > 2),
  );
  assert.ok(place > 0, "this model has to output two letters in a row");
  const stop = [whole[place - 1], whole[place]].map((id) => (id === 1 ? " " : session.alphabet.decode([id]))).join("");
  session.reset();
  const stopped = await tokensOf(session.generate("ab", { ...options, stop }));
  const first = whole.findIndex((token, index) => token === whole[place] && whole[index - 1] === whole[place - 1]);
  assert.deepEqual(stopped, whole.slice(0, first + 1));
  const unbounded = await load(UNBOUNDED);
  await assert.rejects(unbounded.generate([3], { maxNewTokens: 2, stop: "a" }).next(), ofKind("input", /no alphabet/));
});

test("characters of several bytes come whole", () => {
  const stream = new Alphabet("bytes").textStream();
  const texts = [0x61, 0xc3, 0xa9, 0xef, 0xbb, 0xbf].map((id) => stream.take(id));
  assert.deepEqual(texts, ["a", "", "é", "", "", "\ufeff"]);
  assert.equal(new Alphabet("bytes").decode([0xef, 0xbb, 0xbf, 0x41]), "\ufeffA");
});

test("text cut anywhere into streams is decoded as text in one piece", () => {
  const alphabet = new Alphabet("bytes"),
    edges = [0x41, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xe0, 0xe2, 0xed, 0xf0, 0xf4, 0xf5, 0xff];
  for (let count = 0; count < 5000; count++) {
    const bytes = Array.from({ length: 6 }, (_, place) => edges[(count * (place + 7) + (count >> place)) % edges.length]);
    let text = "",
      tail = [];
    for (const byte of bytes) {
      const stream = alphabet.textStream(tail);
      text += stream.take(byte);
      tail = stream.tail;
    }
    assert.equal(text + alphabet.textStream(tail).end(), alphabet.decode(bytes), String(bytes));
  }
});

test("a character that a call has begun is completed by the next", async () => {
  const session = await load(RECITING),
    said = async (prompt, maxNewTokens, options = {}) => {
      let all = "";
      for await (const { text } of session.generate(prompt, { maxNewTokens, ...options })) all += text;
      return all;
    };
  const whole = await said("x", 19);
  assert.equal(whole, "né€😀\ufffd(\ufffd\ufffda€");
  for (let first = 1; first < 19; first++) {
    session.reset();
    const begun = await said("x", first),
      snapshot = structuredClone(session.snapshot());
    session.reset();
    assert.deepEqual(session.textTail, []);
    session.restore(snapshot);
    assert.equal(begun + (await said(null, 19 - first)), whole);
  }
  session.reset();
  assert.equal(await said("x", 2), "n");
  assert.deepEqual(session.textTail, [0xc3]);
  assert.equal(await said("z", 1), "\ufffd", "what was begun before the prompt");
  session.reset();
  assert.equal(await said("x", 9, { stopIds: [0xc3] }), "n\ufffd");
  const snapshot = session.snapshot();
  for (const textTail of [[0xc3, 0xa9], [0x80], [0xe0, 0x80], "x", [0x41, 0xc3], [300]])
    assert.throws(() => session.restore({ ...snapshot, textTail }), ofKind("state", /begin no character/));
  session.restore({ ...snapshot, textTail: undefined });
  assert.deepEqual(session.textTail, []);
});

test("what is asked of the picture has to be there", async () => {
  const session = await load(EXACT);
  assert.throws(() => session.streams(), ofKind("state", /no call was watched/));
  session.watch();
  assert.throws(() => session.streams(), ofKind("state", /no call was watched/));
  await session.prefill(TOKENS);
  session.watch();
  assert.equal(session.shares(1, 19).length, 20);
  assert.deepEqual(
    session.streams().map((stream) => stream.length),
    Array(3).fill(20 * 32),
  );
  for (const [block, position] of [
    [2, 3],
    [-1, 3],
    [0.5, 3],
    [undefined, 3],
    [0, -1],
    [0, NaN],
    [0, "2"],
    [0, 1.5],
  ])
    assert.throws(() => session.shares(block, position), ofKind("input", /there is no block/));
  assert.throws(() => session.shares(0, 20), ofKind("state", /not watched/));
});

test("folders may have any name", async (t) => {
  const parent = await copyOf(EXACT, t);
  for (const name of ["a b", "a#b", "a?b", "a%20b", "100%", "ü"]) {
    const folder = join(parent, name);
    await cp(EXACT, folder, { recursive: true });
    assert.equal((await load(folder)).vocabulary, 29);
    assert.match(execFileSync("node", [join(folder, "verify.mjs")]).toString(), /^passed/m);
  }
});

test("memory that is not there is asked for in vain, and nothing else changes", () => {
  const memory = {
    buffer: { byteLength: 65536 },
    grow() {
      throw new RangeError("no");
    },
  };
  const place = new WasmMemory(memory, 100);
  assert.equal(place.allocate(1000), 128);
  for (const bytes of [70_000, 5e9, NaN])
    assert.throws(() => place.allocate(bytes), ofKind("unavailable", /memory for this model/));
  assert.equal(place.free, 1128);
});

test("malformed manifests are one sentence", async (t) => {
  const breaks = [
    (manifest) => delete manifest.state,
    (manifest) => (manifest.state.tensors = []),
    (manifest) => (manifest.state.tensors[0].shape = 5),
    (manifest) => (manifest.model = 5),
    (manifest) => delete manifest.files,
    (manifest) => (manifest.web = {}),
    (manifest) => (manifest.web.engine = "zz"),
    (manifest) => (manifest.web.modules = {}),
    (manifest) => (manifest.web.limits = 5),
  ];
  for (const change of breaks) {
    const folder = await copyOf(EXACT, t);
    await changeManifest(folder, change);
    await assert.rejects(load(folder), ofKind("bundle", /malformed manifest/));
  }
  await assert.rejects(
    load(EXACT).then((session) => session.restore(null)),
    ofKind("state", /another bundle/),
  );
});
