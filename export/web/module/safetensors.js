/** Reading the safetensors format: a header of JSON, then the tensors' bytes. */

import { CausalRNError } from "./errors.js";

const KINDS = { F64: Float64Array, F32: Float32Array, F16: Uint16Array, I64: BigInt64Array, I8: Int8Array };

/** The golden vectors' tensors by name, as `parseSafetensors` gives them. */
export function readSafetensors(bytes) {
  try {
    return parseSafetensors(bytes).tensors;
  } catch (error) {
    throw new CausalRNError("bundle", `malformed golden vectors (${error.message}): export the bundle again`);
  }
}

/** Tensors by name, {shape, data}, and metadata; the data are copies, aligned for their type. Throws whatever is wrong. */
export function parseSafetensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
  const text = new TextDecoder().decode(bytes.subarray(8, 8 + length)),
    content = bytes.subarray(8 + length);
  const { __metadata__: metadata, ...header } = JSON.parse(text);
  const tensors = {}; // copied by Uint8Array: what Node's Buffers call a slice is none
  for (const [name, entry] of Object.entries(header)) {
    const { dtype, shape } = entry,
      [start, end] = entry.data_offsets;
    if (end > content.length) throw new RangeError(`${name} ends behind the file`);
    tensors[name] = { shape, data: new KINDS[dtype](new Uint8Array(content.subarray(start, end)).buffer) };
  }
  return { tensors, metadata: metadata ?? {} };
}

/** A file of tensors, {shape, data} by name, and metadata. Wide elements come first, so that all are aligned. */
export function writeSafetensors(tensors, metadata) {
  const entries = Object.entries(tensors),
    header = { __metadata__: metadata };
  entries.sort(([, a], [, b]) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT);
  let size = 0;
  for (const [name, { shape, data }] of entries)
    header[name] = { dtype: dtypeOf(data), shape, data_offsets: [size, (size += data.byteLength)] };
  const text = new TextEncoder().encode(JSON.stringify(header)),
    start = 8 + 8 * Math.ceil(text.length / 8);
  const file = new Uint8Array(start + size).fill(32, 8, start); // blanks behind the text
  new DataView(file.buffer).setBigUint64(0, BigInt(start - 8), true);
  file.set(text, 8);
  for (const [name, { data }] of entries) {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    file.set(bytes, start + header[name].data_offsets[0]);
  }
  return file;
}

const dtypeOf = (data) => Object.keys(KINDS).find((dtype) => data instanceof KINDS[dtype]);
