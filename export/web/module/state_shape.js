/** Sizes of state tensors, by the manifest's contract, for one sequence. */

/** Elements of a tensor that holds so many rows, or of one of constant size. */
export function countElements(tensor, rows) {
  return tensor.shape.reduce((product, dim) => product * ({ t: rows, B: 1 }[dim] ?? dim), 1);
}

/** Bytes of all tensors at a position. */
export function countBytes(tensors, position) {
  return tensors.reduce((sum, tensor) => sum + countElements(tensor, position) * (tensor.dtype === "int8" ? 1 : 4), 0);
}
