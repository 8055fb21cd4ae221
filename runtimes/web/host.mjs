/**
 * A web bundle's session behind a pipe: node host.mjs FOLDER
 *
 * Requests and answers are frames: two little-endian uint32, the bytes of a JSON header and of its payload; then both. In an
 * answer a number that nobody prints by accident goes before. A request is {call, ...}, an answer {...} or {error: {kind,
 * message}}; payloads are the bytes of arrays, one after the other.
 */

import { readSync, writeSync } from "node:fs";
import { pathToFileURL } from "node:url";

const MAGIC = 0x4e524301;
const ARRAYS = { int8: Int8Array, float16: Uint16Array }; // as the module has them; others are float32

// Standard output is the pipe: what a bundle's code prints goes elsewhere.
console.log = console.info = console.debug = console.error;

const folder = pathToFileURL(`${process.argv[2]}/`);
const { load } = await import(new URL("causalrn.js", folder));

let session;

const CALLS = {
  async open({ simd }) {
    session = await load(folder, { simd });
    return [{}, new TextEncoder().encode(session.engine)];
  },
  async prefill({ rows, position }, payload) {
    if (position !== session.position) throw new Error(`at position ${session.position}, not ${position}`);
    const tokens = Array.from(new Int32Array(payload.buffer));
    return [{}, ...(rows > 0 ? await prefillShown(tokens, rows) : [await session.prefill(tokens)])];
  },
  reset() {
    session.reset();
    return [{}];
  },
  watch({ on }) {
    session.watch(on);
    return [{}];
  },
  snapshot() {
    const { tensors } = session.snapshot();
    return [{}, ...session.manifest.state.tensors.map(({ name }) => tensors[name])];
  },
  restore({ position, sizes }, payload) {
    const tensors = {};
    let place = 0;
    session.manifest.state.tensors.forEach(({ name, dtype }, index) => {
      const bytes = payload.slice(place, (place += sizes[index]));
      tensors[name] = new (ARRAYS[dtype] ?? Float32Array)(bytes.buffer);
    });
    session.restore({ owner: session.manifest.manifest_sha256, position, tensors, logits: null });
    return [{}];
  },
};

/** Take tokens, so many rows at a time, or none of them: all logits, then per part what every block read. */
async function prefillShown(tokens, rows) {
  const before = session.snapshot(),
    logits = [],
    streams = [];
  try {
    for (let taken = 0; taken < tokens.length; taken += rows) {
      logits.push(await session.prefill(tokens.slice(taken, taken + rows)));
      streams.push(...session.streams());
    }
  } catch (error) {
    session.restore(before);
    throw error;
  }
  return [...logits, ...streams];
}

/** So many bytes from standard input; null at its end. */
function readBytes(count) {
  const bytes = new Uint8Array(count);
  for (let place = 0; place < count;) {
    const got = readSync(0, bytes, place, count - place, null);
    if (got === 0) return null;
    place += got;
  }
  return bytes;
}

function writeBytes(bytes) {
  for (let place = 0; place < bytes.length;) place += writeSome(bytes, place);
}

function writeSome(bytes, place) {
  try {
    return writeSync(1, bytes, place, bytes.length - place);
  } catch (error) {
    if (error.code !== "EAGAIN") throw error; // the pipe is full: the other side reads
    return 0;
  }
}

function answer(header, ...arrays) {
  const parts = [
    new TextEncoder().encode(JSON.stringify(header)),
    ...arrays.map((array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)),
  ];
  const size = parts.slice(1).reduce((sum, part) => sum + part.length, 0);
  writeBytes(Buffer.concat([new Uint8Array(Uint32Array.of(MAGIC, parts[0].length, size).buffer), ...parts]));
}

for (let sizes = readBytes(8); sizes !== null; sizes = readBytes(8)) {
  const [headerSize, payloadSize] = new Uint32Array(sizes.buffer);
  const { call, ...options } = JSON.parse(new TextDecoder().decode(readBytes(headerSize)));
  const payload = readBytes(payloadSize);
  let answered;
  try {
    answered = await CALLS[call](options, payload);
  } catch (error) {
    answered = [{ error: { kind: error.kind ?? "unexpected", message: error.message } }];
  }
  answer(...answered);
}
