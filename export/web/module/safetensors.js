/** Reading the safetensors format: a header of JSON, then the tensors' bytes. */

import { CausalRNError } from "./errors.js";

const KINDS = { F64: Float64Array, F32: Float32Array, F16: Uint16Array, I64: BigInt64Array, I8: Int8Array };

/** Tensors by name, {shape, data}; the data are copies, aligned for their type. */
export function readSafetensors(bytes) {
  try {
    const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    const content = bytes.subarray(8 + length);
    return Object.fromEntries(
      Object.entries(header)
        .filter(([name]) => name !== "__metadata__")
        .map(
          ([
            name,
            {
              dtype,
              shape,
              data_offsets: [start, end],
            },
          ]) => {
            if (end > content.length) throw new RangeError(`${name} ends behind the file`);
            return [name, { shape, data: new KINDS[dtype](content.slice(start, end).buffer) }];
          },
        ),
    );
  } catch (error) {
    throw new CausalRNError("bundle", `malformed golden vectors (${error.message}): export the bundle again`);
  }
}
