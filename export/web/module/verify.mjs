/**
 * Run the golden vectors of a web bundle in Node, as its page does in a browser.
 *
 *   node verify.mjs                 this folder, and the bundle beside it
 *   node verify.mjs SITE --json     another one, as JSON
 *
 * Exit codes: 0 passed, 1 a check failed, 2 bad usage or input.
 */

import { folderUrl } from "./bundle_files.js";
import { CausalRNError, load } from "./causalrn.js";
import { verify } from "./parity.js";

const USAGE = "usage: node verify.mjs [FOLDER] [--json]";

async function main(words) {
  if (words.includes("--help") || words.includes("-h")) {
    console.log(USAGE);
    return 0;
  }
  const folders = words.filter((word) => word !== "--json"),
    asJson = folders.length < words.length;
  if (folders.length > 1 || folders.some((word) => word.startsWith("-"))) {
    console.error(USAGE);
    return 2;
  }
  const url = await folderUrl(folders[0] ?? new URL(".", import.meta.url));
  const report = await check(url, asJson);
  if (report.beside !== undefined) report.beside = await check(new URL("beside/", url), asJson);
  if (asJson) console.log(JSON.stringify(report, null, 1));
  return report.passed && report.beside?.passed !== false ? 0 : 1;
}

/** Verify one bundle; the report has an entry `beside` where there is a second one. */
async function check(url, asJson) {
  const session = await load(url),
    { model, folders } = session.manifest;
  if (!asJson) console.log(`${model.readout} readout, ${url.href}`);
  const { passed, rows } = await verify(session, { onRow: asJson ? undefined : printRow });
  if (!asJson) console.log(`${passed ? "passed" : "FAILED"}: ${session.engine}, node ${process.versions.node}`);
  return { readout: model.readout, engine: session.engine, passed, rows, beside: folders?.beside };
}

function printRow({ check, comparison, error, allowed, passed, words }) {
  const figures = allowed === 0 ? "" : `${error.toExponential(1)} (allowed ${allowed.toExponential(1)})  `;
  console.log(`${passed ? "ok    " : "FAILED"}  ${check.padEnd(17)} ${comparison.padEnd(33)} ${figures}${words}`);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const isOurs = error instanceof CausalRNError;
  console.error(`Error: ${isOurs ? error.message : `${error}: copy the bundle again, or export again`}`);
  process.exitCode = 2;
}
