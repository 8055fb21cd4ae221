/**
 * A web bundle's session behind a pipe: node host.mjs FOLDER
 *
 * Requests and answers are frames: two little-endian uint32, the bytes of a JSON header and of its payload; then both. A request
 * is {call, ...}, an answer {...} or {error: {kind, message}}; payloads are the bytes of arrays, one after the other.
 */

import { readSync, writeSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const { load } = await import(new URL("causalrn.js", folder));

let session;

const CALLS = {
  async open({ simd }) {
    session = await load(folder, { simd });
    return [{ engine: session.engine }];
  },
  async prefill({ streams }, payload) {
    const tokens = Array.from(new Int32Array(payload.buffer));
    const logits = await session.prefill(tokens);
    return streams ? [{}, logits, ...session.streams(tokens.length)] : [{}, logits];
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
      tensors[name] = new (dtype === "int8" ? Int8Array : Float32Array)(bytes.buffer);
    });
    session.restore({ owner: session.manifest.manifest_sha256, position, tensors, logits: null });
    return [{}];
  },
};

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
  for (let place = 0; place < bytes.length;) place += writeSync(1, bytes, place, bytes.length - place);
}

function answer(header, ...arrays) {
  const parts = [
    new TextEncoder().encode(JSON.stringify(header)),
    ...arrays.map((array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)),
  ];
  const size = parts.slice(1).reduce((sum, part) => sum + part.length, 0);
  writeBytes(Buffer.concat([new Uint8Array(Uint32Array.of(parts[0].length, size).buffer), ...parts]));
}

for (let sizes = readBytes(8); sizes !== null; sizes = readBytes(8)) {
  const [headerSize, payloadSize] = new Uint32Array(sizes.buffer);
  const { call, ...options } = JSON.parse(new TextDecoder().decode(readBytes(headerSize)));
  const payload = readBytes(payloadSize);
  try {
    answer(...(await CALLS[call](options, payload)));
  } catch (error) {
    answer({ error: { kind: error.kind ?? "unexpected", message: error.message } });
  }
}
