/**
 * Run the golden vectors of a web bundle in Node, as its page does in a browser.
 *
 *   node verify.mjs                 this folder, and the bundle beside it
 *   node verify.mjs SITE --json     another one, as JSON
 *
 * Every file is compared with the SHA-256 in its manifest before anything of the bundle is executed. The rest runs in a
 * worker, which is stopped where it says nothing for --timeout seconds (300).
 *
 * Exit codes: 0 passed, 1 a check failed, 2 bad usage or input, or no answer.
 */

import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const USAGE = "usage: node verify.mjs [FOLDER] [--json] [--timeout SECONDS]";
const OPTIONS = {
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
  timeout: { type: "string", default: "300" },
};
const REMEDY = "copy it again, or export again";
const OWN_HASH = /,\n "manifest_sha256": "([0-9a-f]{64})"/;
const FETCH_MS = 60_000;
const OWN_FOLDER = new URL(".", import.meta.url);

/** What is wrong with a bundle, in one sentence. */
class BundleFault extends Error {}

function main(words) {
  let given;
  try {
    given = parseArgs({ args: words, options: OPTIONS, allowPositionals: true });
  } catch {
    return end(USAGE);
  }
  const { values, positionals } = given,
    seconds = Number(values.timeout);
  if (values.help) return console.log(USAGE);
  if (positionals.length > 1 || !(seconds > 0 && seconds < 1e6)) return end(USAGE);
  const asked = { folder: positionals[0], asJson: values.json === true };
  watch(new Worker(new URL(import.meta.url), { workerData: asked }), seconds);
}

/** Print what a worker says, until it ends or is silent for too long. */
function watch(worker, seconds) {
  let isDone = false;
  const silence = setTimeout(() => {
    end(`Error: no answer in ${seconds} s: ${REMEDY}`);
    process.exit();
  }, 1000 * seconds);
  const finish = (message) => {
    if (message && !isDone) end(message);
    isDone = true;
    clearTimeout(silence);
  };
  worker.on("message", ({ line, code, fault }) => {
    silence.refresh();
    if (line !== undefined) console.log(line);
    if (code !== undefined) process.exitCode = code;
    if (code !== undefined || fault) finish(fault && `Error: ${fault}`);
  });
  worker.on("error", (error) => finish(`Error: ${oneLine(error)}: ${REMEDY}`));
  worker.on("exit", () => finish(`Error: it ended without an answer: ${REMEDY}`));
}

/** One line on standard error, and exit code 2. */
function end(message) {
  console.error(message);
  process.exitCode = 2;
}

const oneLine = (error) => String(error?.message ?? error).split("\n")[0];

// ---- in the worker ---------------------------------------------------------------------------------------------------

async function work({ folder, asJson }) {
  const url = folder === undefined ? OWN_FOLDER : folderUrl(folder);
  const print = (line) => parentPort.postMessage({ line });
  if (url.href !== OWN_FOLDER.href) await checkFiles(OWN_FOLDER, (name) => /\.m?js$/.test(name));
  const { folders } = await checkFiles(url);
  const report = await check(url, asJson ? null : print);
  if (folders.beside !== undefined) report.beside = await check(new URL("beside/", url), asJson ? null : print);
  if (asJson) print(JSON.stringify(report, null, 1));
  return report.passed && report.beside?.passed !== false ? 0 : 1;
}

function folderUrl(text) {
  const url = /^[a-z]+:\/\//i.test(text) ? new URL(text) : pathToFileURL(resolve(text));
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}

/** Compare a manifest with its own hash, and files with those that it lists; gives {folders}. */
async function checkFiles(url, isMeant = () => true) {
  const text = new TextDecoder().decode(await contentOf("manifest.json", url)),
    own = OWN_HASH.exec(text)?.[1];
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch {
    throw new BundleFault(`manifest.json is not valid JSON: ${REMEDY}`);
  }
  if (own === undefined || sha256(text.replace(OWN_HASH, "")) !== own)
    throw new BundleFault(`manifest.json is not as it was written: ${REMEDY}`);
  for (const [name, entry] of Object.entries(manifest.files ?? {})) {
    if (!isMeant(name)) continue;
    if (name.includes("/")) throw new BundleFault(`${name} lies outside of the bundle: export again`);
    if (sha256(await contentOf(name, url)) !== entry?.sha256)
      throw new BundleFault(`${name}: content differs from the manifest's SHA-256: ${REMEDY}`);
  }
  const folders = manifest.folders ?? {};
  if (folders.beside !== undefined) {
    const beside = new URL("beside/", url);
    if (sha256(await contentOf("manifest.json", beside)) !== folders.beside)
      throw new BundleFault(`beside: another bundle than the manifest says: ${REMEDY}`);
    await checkFiles(beside, isMeant);
  }
  return { folders };
}

const sha256 = (content) => createHash("sha256").update(content).digest("hex");

async function contentOf(name, folder) {
  const url = new URL(encodeURIComponent(name), folder);
  try {
    if (url.protocol !== "file:") {
      const response = await fetch(url, { signal: AbortSignal.timeout(FETCH_MS) });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      return new Uint8Array(await response.arrayBuffer());
    }
    if (!(await stat(url)).isFile()) throw new Error("no file"); // a pipe would be waited for
    return await readFile(url);
  } catch (error) {
    throw new BundleFault(
      `${name} cannot be read (${error.code ?? oneLine(error)}): looked at ${url.href}; name the bundle's folder, or ${REMEDY}`,
    );
  }
}

/** Verify one bundle, row by row. */
async function check(url, print) {
  const { load } = await import("./causalrn.js"),
    { verify } = await import("./parity.js");
  const session = await load(url),
    { model } = session.manifest;
  print?.(`${model.readout} readout, ${url.href}`);
  const { passed, rows } = await verify(session, { onRow: print ? (row) => print(rowText(row)) : undefined });
  print?.(`${passed ? "passed" : "FAILED"}: ${session.engine}, node ${process.versions.node}`);
  return { readout: model.readout, engine: session.engine, passed, rows, beside: undefined };
}

function rowText({ check, comparison, error, allowed, passed, words }) {
  const figures = allowed === 0 ? "" : `${error.toExponential(1)} (allowed ${allowed.toExponential(1)})  `;
  return `${passed ? "ok    " : "FAILED"}  ${check.padEnd(17)} ${comparison.padEnd(33)} ${figures}${words}`;
}

if (isMainThread) main(process.argv.slice(2));
else
  try {
    parentPort.postMessage({ code: await work(workerData) });
  } catch (error) {
    const isOurs = error instanceof BundleFault || error?.name === "CausalRNError";
    parentPort.postMessage({ fault: isOurs ? error.message : `${oneLine(error)}: ${REMEDY}` });
  }
