/** State files: a snapshot as safetensors, as every runtime of the toolkit writes and reads it. */

import { CausalRNError } from "./errors.js";
import { parseSafetensors, writeSafetensors } from "./safetensors.js";
import { shapeOf } from "./state_shape.js";

const FORMAT = "causalrn-state",
  VERSION = "1",
  REMEDY = "give one that a session saved";
const KINDS = ["checkpoint", "arithmetic", "model"]; // left out where they are not known

/** The bytes of a state file. */
export function writeState(snapshot, manifest) {
  const { position, logits, owner, textTail } = snapshot,
    tensors = {};
  const metadata = { format: FORMAT, version: VERSION, owner, position: String(position), batch: "1" };
  for (const name of KINDS) if (snapshot[name]) metadata[name] = snapshot[name];
  if (textTail.length > 0) metadata.text_tails = textTail.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  for (const tensor of manifest.state.tensors)
    tensors[`state.${tensor.name}`] = { shape: shapeOf(tensor, position), data: snapshot.tensors[tensor.name] };
  if (logits !== null) tensors.logits = { shape: [1, logits.length], data: logits };
  return writeSafetensors(tensors, metadata);
}

/** The snapshot in a state file; whether it fits the session, `restore` checks. Throws "state". */
export function readState(file, manifest) {
  const { tensors: named, metadata } = parsed(file),
    { format, version, batch, position: count, text_tails: tails = "-" } = metadata;
  if (format !== FORMAT || version !== VERSION) fail(`not a state file of this version: ${REMEDY}`);
  if (batch !== "1") fail(`the state holds ${batch} sequences, this session takes 1 at most`);
  if (!/^[0-9]{1,15}$/.test(count) || !/^(-|([0-9a-f]{2})*)$/.test(tails)) fail(`corrupt state file: ${REMEDY}`);
  const position = Number(count),
    { logits, ...states } = named,
    tensors = {};
  for (const [name, { shape, data }] of Object.entries(states)) {
    const tensor = manifest.state.tensors.find((tensor) => `state.${tensor.name}` === name);
    const expected = tensor && shapeOf(tensor, position);
    if (tensor && String(shape) !== String(expected))
      fail(`state tensor ${tensor.name} is [${shape}], expected [${expected}]`);
    tensors[name.replace(/^state[.]/, "")] = data;
  }
  const textTail = Array.from(String(tails).match(/[0-9a-f]{2}/g) ?? [], (byte) => parseInt(byte, 16)),
    { owner, checkpoint, arithmetic, model } = metadata;
  return { position, tensors, logits: logits?.data ?? null, textTail, owner, checkpoint, arithmetic, model };
}

function parsed(file) {
  const bytes = file instanceof ArrayBuffer ? new Uint8Array(file) : file;
  if (!(bytes instanceof Uint8Array)) fail(`no bytes: ${REMEDY}`);
  try {
    return parseSafetensors(bytes);
  } catch (error) {
    return fail(`corrupt state file (${error.message}): ${REMEDY}`);
  }
}

function fail(why) {
  throw new CausalRNError("state", why);
}
