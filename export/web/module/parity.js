/** Golden vectors, run where the module runs: does this machine compute what was trained? */

import { breathe } from "./breathing.js";
import { load } from "./causalrn.js";
import { comparedTensors, Golden, largestOf, maximum } from "./golden.js";

const REGRESSION_RELATIVE = 5e-6; // onnxruntime-web repeats to this; C as WebAssembly gives the same bits everywhere

/**
 * Compare a session with its bundle's golden vectors: with the float64 oracle within the rounding bound that is in them, and
 * bit for bit with itself and with what was recorded when the bundle was written.
 *
 * @param {import("./causalrn.js").Session} session it is left at position 0
 * @param {{onRow?: (row: Row) => void, signal?: AbortSignal}} [options]
 * @returns {Promise<{passed: boolean, rows: Row[]}>}
 * @typedef {{
 *   check: string, comparison: string, error: number | null, allowed: number | null, passed: boolean, words: string
 * }} Row
 *   check: what is compared; comparison: how it was computed, or what it has to equal;
 *   errors are relative to the largest |value|, for "distribution" in nats; 0 and 0 where bits have to be equal
 */
export async function verify(session, { onRow = () => {}, signal } = {}) {
  const { folder, manifest } = session;
  const golden = await Golden.read(folder, manifest),
    rows = [];
  const add = (row) => {
    rows.push(row);
    onRow(row);
  };
  try {
    const stepped = await traceTokens(session, golden, steps(golden.length), signal);
    const whole = await traceTokens(session, golden, [golden.length], signal);
    compareLogits(golden, stepped, "step by step").forEach(add);
    compareLogits(golden, whole, "by prefill").forEach(add);
    if (manifest.web.limits === null) add(compareStates(golden, stepped));
    const isBitExact = manifest.web.engine === "c";
    if (isBitExact) add(compareBits("prefill", "equal to steps", [[whole.logits, stepped.logits]]));
    const repeats = "as when it was exported";
    add(compareRecorded(golden, stepped.logits, golden.recorded, repeats, isBitExact));
    const resumed = await resume(session, golden, signal);
    add(compareRecorded(golden, resumed, golden.afterRecorded(), "resumed from the recorded state", isBitExact));
    add(await compareRestored(session, golden, signal));
    if (session.engine === "WebAssembly SIMD") {
      const plain = await load(folder, { simd: false });
      add(
        compareBits("without SIMD", "equal to with", [
          [(await traceTokens(plain, golden, steps(golden.length), signal)).logits, stepped.logits],
        ]),
      );
    }
    return { passed: rows.every((row) => row.passed), rows };
  } finally {
    session.reset();
  }
}

const steps = (count) => Array(count).fill(1);

/** A trace: logits [B * T * V] of all sequences, taken in chunks, and the states at the positions that are compared. */
async function traceTokens(session, golden, lengths, signal) {
  const logits = new Float32Array(golden.sequences * golden.length * golden.vocabulary),
    states = [];
  for (let row = 0; row < golden.sequences; row++) {
    session.reset();
    for (const length of lengths) {
      signal?.throwIfAborted();
      const start = session.position,
        place = (row * golden.length + start) * golden.vocabulary;
      logits.set(await session.prefill(golden.tokens[row].slice(start, start + length)), place);
      if (golden.positions.includes(session.position)) states.push({ row, ...session.snapshot() });
    }
    await breathe();
  }
  return { logits, states };
}

/** Logits of what follows the recorded state, for all sequences. */
async function resume(session, golden, signal) {
  const parts = [];
  for (let row = 0; row < golden.sequences; row++) {
    const owner = session.manifest.manifest_sha256;
    session.restore({ owner, position: golden.middle, tensors: golden.recordedState(row), logits: null });
    parts.push(await takeSteps(session, golden.tokens[row].slice(golden.middle), signal));
  }
  return joined(parts);
}

/** A snapshot in the middle; what follows it, and what follows once more. */
async function compareRestored(session, golden, signal) {
  const rest = golden.tokens[0].slice(golden.middle);
  session.reset();
  await session.prefill(golden.tokens[0].slice(0, golden.middle));
  const snapshot = session.snapshot(),
    first = await takeSteps(session, rest, signal),
    end = session.snapshot();
  session.restore(snapshot);
  const pairs = [[await takeSteps(session, rest, signal), first]],
    again = session.snapshot();
  for (const name of Object.keys(end.tensors)) pairs.push([again.tensors[name], end.tensors[name]]);
  return compareBits("snapshot", "restored, equal to uninterrupted", pairs);
}

async function takeSteps(session, tokens, signal) {
  const parts = [];
  for (const token of tokens) {
    signal?.throwIfAborted();
    parts.push(await session.step(token));
  }
  await breathe();
  return joined(parts);
}

/** The line output = scale * expected + offset that fits best; NaN stays. */
function fitLine(expected, output) {
  const count = output.length,
    mean = (values) => values.reduce((sum, value) => sum + value, 0) / count;
  const [center, ownCenter] = [mean(expected), mean(output)];
  let products = 0,
    squares = 0;
  output.forEach((value, index) => {
    products += (expected[index] - center) * (value - ownCenter);
    squares += (expected[index] - center) ** 2;
  });
  const scale = squares > 0 ? products / squares : 1 + 0 * products; // all expected values equal: there is no scale
  return { scale, offset: ownCenter - scale * center };
}

/** Against the oracle: by rounding, or for a quantized model by what its distributions lost. */
function compareLogits(golden, { logits }, comparison) {
  const { limits } = golden.manifest.web;
  if (limits !== null) return compareDistributions(golden, logits, comparison, limits);
  let worst = { ratio: -1, error: 0, allowed: 0 };
  logits.forEach((value, index) => {
    const error = Math.abs(value - golden.reference[index]);
    const allowed = golden.bounds[Math.floor(index / golden.vocabulary) % golden.length];
    if (exceeds(error / allowed, worst.ratio)) worst = { ratio: error / allowed, error, allowed };
  });
  const [error, allowed] = [worst.error / golden.largest, worst.allowed / golden.largest];
  const words = `${golden.sequences} sequences of ${golden.length} tokens`;
  return [{ check: "logits", comparison, error, allowed, passed: error <= allowed, words }];
}

function compareDistributions(golden, logits, comparison, limits) {
  const width = golden.vocabulary,
    count = logits.length / width;
  let divergence = 0,
    changes = 0;
  for (let place = 0; place < count; place++) {
    const reference = logProbabilities(golden.reference.subarray(place * width, (place + 1) * width));
    const output = logProbabilities(logits.subarray(place * width, (place + 1) * width));
    divergence += reference.reduce((sum, value, id) => sum + Math.exp(value) * (value - output[id]), 0) / count;
    const best = reference.indexOf(Math.max(...reference)),
      chosen = output.indexOf(Math.max(...output));
    const isTie = Math.exp(reference[best]) - Math.exp(reference[chosen]) <= limits.tie_probability; // not for NaN
    if (!isTie) changes += 1 / count;
  }
  const judged = (check, error, allowed, words) => {
    return { check, comparison, error, allowed, passed: error <= allowed, words };
  };
  const rows = [
    judged("distribution", divergence, limits.kl_divergence, "KL divergence from the oracle, in nats"),
    judged("most likely token", changes, limits.argmax_changes, "share of positions where it is another one"),
  ];
  if (limits.scale === undefined) return rows; // an earlier version's
  const { scale, offset } = fitLine(golden.reference, logits);
  rows.push(judged("scale", Math.abs(scale - 1), limits.scale, `of all logits: ${scale.toPrecision(4)}, off 1 by`));
  const share = Math.abs(offset) / golden.largest;
  rows.push(judged("offset", share, limits.offset, "of all logits, beside the largest"));
  return rows;
}

function logProbabilities(logits) {
  const most = Math.max(...logits);
  const whole = Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0));
  return Array.from(logits, (value) => value - most - whole);
}

/** Every state tensor against the float64 recurrent form; what a tensor is off is relative to its largest |value|. */
function compareStates(golden, { states }) {
  let worst = { ratio: -1, error: 0, allowed: 0, name: "" };
  const compared = comparedTensors(golden.manifest);
  for (const { name } of compared) {
    const allowed = golden.stateBound(name);
    for (const position of golden.positions) {
      const at = states.filter((state) => state.position === position);
      const reference = at.map(({ row }) => golden.referenceState(name, position, row));
      const largest = reference.map(largestOf).reduce(maximum);
      const error = at.map(({ tensors }, index) => distance(tensors[name], reference[index])).reduce(maximum) / largest;
      if (exceeds(error / allowed, worst.ratio)) worst = { ratio: error / allowed, error, allowed, name };
    }
  }
  const { ratio, error, allowed, name } = worst;
  const words = `${compared.length} tensors at ${golden.positions.length} positions; closest to its limit: ${name}`;
  return { check: "state", comparison: "step by step", error, allowed, passed: ratio <= 1, words };
}

function compareRecorded(golden, logits, recorded, comparison, isBitExact) {
  if (isBitExact) return compareBits("recorded", comparison, [[logits, recorded]]);
  const error = distance(logits, recorded) / golden.largest;
  const allowed = Math.max(REGRESSION_RELATIVE, golden.bounds[golden.length - 1] / golden.largest);
  return {
    check: "recorded",
    comparison,
    error,
    allowed,
    passed: error <= allowed,
    words: "logits of the runtime that wrote the bundle",
  };
}

function compareBits(check, comparison, pairs) {
  const equal = pairs.every(([a, b]) => a.length === b.length && sameBits(a, b) && !a.some(Number.isNaN));
  const error = equal ? 0 : Math.max(...pairs.map(([a, b]) => distance(a, b)));
  return { check, comparison, error, allowed: 0, passed: equal, words: equal ? "bit for bit" : "not the same bits" };
}

function sameBits(a, b) {
  const bytes = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  const [left, right] = [bytes(a), bytes(b)];
  return left.every((value, index) => value === right[index]);
}

/** Largest |difference|; NaN where there is one. */
const distance = (a, b) => a.reduce((most, value, index) => maximum(most, Math.abs(value - b[index])), 0);

/** Whether a ratio is worse than the worst one so far; NaN is the worst. */
const exceeds = (ratio, worst) => ratio > worst || (Number.isNaN(ratio) && !Number.isNaN(worst));

function joined(parts) {
  const whole = new Float32Array(parts.reduce((size, part) => size + part.length, 0));
  parts.reduce((place, part) => (whole.set(part, place), place + part.length), 0);
  return whole;
}
