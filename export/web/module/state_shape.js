/** Sizes of state tensors, by the manifest's contract, for one sequence. */

/** Arrays by element type: float16 as its bits, for arrays of it are not everywhere. */
const ARRAYS = { float32: Float32Array, float16: Uint16Array, int8: Int8Array };

export const DTYPES = Object.keys(ARRAYS);

/** What holds a tensor's elements. */
export const arrayOf = (tensor) => ARRAYS[tensor.dtype];

/** Elements of a tensor that holds so many rows, or of one of constant size. */
export function countElements(tensor, rows) {
  return tensor.shape.reduce((product, dim) => product * ({ t: rows, B: 1 }[dim] ?? dim), 1);
}

/** Bytes of all tensors at a position. */
export function countBytes(tensors, position) {
  return tensors.reduce((sum, tensor) => sum + countElements(tensor, position) * arrayOf(tensor).BYTES_PER_ELEMENT, 0);
}
