/** Sizes of state tensors, by the manifest's contract, for one sequence. */

/** Arrays by element type: float16 as its bits, for arrays of it are not everywhere. */
const ARRAYS = { float32: Float32Array, float16: Uint16Array, int8: Int8Array };

export const DTYPES = Object.keys(ARRAYS);

/** What holds a tensor's elements. */
export const arrayOf = (tensor) => ARRAYS[tensor.dtype];

/** The shape of a tensor that holds so many rows, or of one of constant size. */
export const shapeOf = (tensor, rows) => tensor.shape.map((dim) => ({ t: rows, B: 1 })[dim] ?? dim);

/** Its elements. */
export const countElements = (tensor, rows) => shapeOf(tensor, rows).reduce((product, size) => product * size, 1);

/** Whether numbers are all finite; those of float16, which are bits, are if not all bits of their exponent are ones. */
export function areFinite(values) {
  if (values instanceof Int8Array) return true;
  return values instanceof Uint16Array ? values.every((bits) => ~bits & 0x7c00) : values.every(Number.isFinite);
}

/** Bytes of all tensors at a position. */
export function countBytes(tensors, position) {
  return tensors.reduce((sum, tensor) => sum + countElements(tensor, position) * arrayOf(tensor).BYTES_PER_ELEMENT, 0);
}
