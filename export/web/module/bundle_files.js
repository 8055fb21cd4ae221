/** Reading a bundle's files: from the server that a page came from, or in Node and Electron from disk. */

import { CausalRNError } from "./errors.js";
import { DTYPES } from "./state_shape.js";

const FORMAT = "causalrn-bundle",
  VERSION = 1;
const LIMITS = ["kl_divergence", "argmax_changes", "tie_probability"];
const REMEDY = "copy it again, or export again";

const HAS_NODE = Boolean(globalThis.process?.versions?.node),
  HAS_PAGE = Boolean(globalThis.document ?? globalThis.location); // Electron's windows have both

/** A module of Node. Its name is no literal, and Electron gets it without an import: bundlers for browsers find none. */
const nodeModule = (name) =>
  globalThis.process.getBuiltinModule?.(name) ??
  globalThis.require?.(name) ??
  import(/* webpackIgnore: true */ /* @vite-ignore */ name);

/**
 * The folder that a URL, or in Node a path, names. Where there is a page it is relative to the page, or to the worker's
 * script.
 */
export async function folderUrl(url) {
  if (url === undefined) throw new CausalRNError("input", "no folder: give load the bundle's URL, or in Node its path");
  const text = String(url),
    isUrl = url instanceof URL || /^[a-z]+:\/\//i.test(text);
  let folder;
  if (HAS_NODE && !HAS_PAGE && !isUrl) folder = (await nodeModule("node:url")).pathToFileURL(text);
  else folder = new URL(text, globalThis.document?.baseURI ?? globalThis.location?.href);
  if (!folder.pathname.endsWith("/")) folder.pathname += "/";
  return folder;
}

/** The manifest of the bundle in a folder, checked to be one that this module can run. */
export async function readManifest(folder) {
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder().decode(await readAll(new URL("manifest.json", folder))));
  } catch (error) {
    if (error instanceof SyntaxError) throw new CausalRNError("bundle", `manifest.json is not valid JSON: ${REMEDY}`);
    throw error;
  }
  if (manifest?.format !== FORMAT)
    throw new CausalRNError("bundle", "manifest.json is not a causalrn bundle's: export one with --target web");
  if (manifest.version !== VERSION)
    throw new CausalRNError(
      "bundle",
      `manifest version ${manifest.version}, this page reads ${VERSION}: export again, page and model together`,
    );
  if (manifest.target !== "web" || !manifest.web)
    throw new CausalRNError("bundle", `a bundle for ${manifest.target}, not for the web: export with --target web`);
  checkManifest(manifest);
  return manifest;
}

/** Check what this module reads, so that nonsense is one sentence; Python checks all of it when it opens a bundle. */
function checkManifest({ model, state, files, web, alphabet, manifest_sha256: own }) {
  const isCount = (value) => Number.isInteger(value) && value > 0;
  const isName = (value) => typeof value === "string";
  const sizes = [model?.vocabulary, model?.embedding, model?.hidden, model?.blocks, model?.heads];
  const isTensor = (tensor) =>
    isName(tensor?.name) && Array.isArray(tensor.shape) && DTYPES.includes(tensor.dtype);
  const roles = { c: ["simd", "plain"], "onnxruntime-web": ["loader", "glue", "binary"] }[web.engine];
  const tensors = state?.tensors,
    capacity = tensors?.[0]?.capacity;
  const isWhole =
    sizes.every(isCount) &&
    Array.isArray(tensors) &&
    tensors.length > 0 &&
    tensors.every(isTensor) &&
    (capacity === null || isCount(capacity)) &&
    (alphabet === null || isName(alphabet)) &&
    isName(own) &&
    typeof files === "object" &&
    roles?.every((role) => isName(web.modules?.[role])) &&
    (web.limits === null || LIMITS.every((name) => Number.isFinite(web.limits?.[name])));
  if (!isWhole) throw new CausalRNError("bundle", "malformed manifest: copy it again, or export again");
}

/**
 * The content of a file that the manifest lists.
 *
 * @param {(bytes: number) => void} [onBytes] called with the number of bytes of every part that arrives
 */
export async function readListed(folder, manifest, name, onBytes) {
  const entry = manifest.files?.[name];
  if (!entry) throw new CausalRNError("bundle", `the manifest lists no file ${name}: export again`);
  const content = await readAll(new URL(name, folder), onBytes);
  if (content.length !== entry.size_bytes)
    throw new CausalRNError(
      "bundle",
      `${name}: ${content.length.toLocaleString("en")} bytes instead of ${entry.size_bytes.toLocaleString("en")}: ${REMEDY}`,
    );
  return content;
}

const lookedAt = (url) => `looked at ${url.href}; name the bundle's folder, or ${REMEDY}`;

async function readAll(url, onBytes = () => {}) {
  const name = url.pathname.split("/").pop();
  if (url.protocol === "file:" && HAS_NODE) {
    const { readFile } = await nodeModule("node:fs/promises");
    let content;
    try {
      content = new Uint8Array(await readFile(url));
    } catch (error) {
      throw new CausalRNError("bundle", `${name} cannot be read (${error.code}): ${lookedAt(url)}`);
    }
    onBytes(content.length);
    return content;
  }
  let parts;
  try {
    const response = await fetch(url);
    if (!response.ok)
      throw new CausalRNError("bundle", `${name} is not there (HTTP ${response.status}): ${lookedAt(url)}`);
    parts = await readParts(response, onBytes);
  } catch (error) {
    if (error instanceof CausalRNError) throw error;
    throw new CausalRNError("bundle", `${name} could not be loaded: is the server still running? Load the page again`);
  }
  const content = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let place = 0;
  for (const part of parts) {
    content.set(part, place);
    place += part.length;
  }
  return content;
}

async function readParts(response, onBytes) {
  const parts = [];
  if (!response.body) return [new Uint8Array(await response.arrayBuffer())];
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return parts;
    parts.push(value);
    onBytes(value.length);
  }
}
